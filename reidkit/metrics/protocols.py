r"""Protocols beside single query: CUHK03's single gallery shot, VIPeR's one image each, multi-query.

Market-1501, DukeMTMC-reID, MSMT17 and CUHK03's new protocol are single query: `evaluate` is all they need.

Two APs       A single-shot gallery holds one right image of each query, so its AP is 1/place, and never below rank1.
              AP on the full gallery of the same distances (torchreid prints it beside a single-shot CMC) is what
              `evaluate_distances` measures. They differ by tens of points; every `protocol` line says which it is.
Notation      $j$ one of the $n$ right images of a query; $s_y$ the share of the images of identity $y$ before $j$.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from reidkit.blocks import row_blocks
from reidkit.inputs import Array, embedding_rows, labels
from reidkit.metrics.retrieval import Labels, Ranking, distance_rows, evaluate_distances, matrix_shape

BLOCK_BYTES = 2**22  # a block of queries that stays in a processor's cache


@torch.no_grad()
def single_gallery_shot(
    dist: Shaped[Array, "n_query n_gallery"],
    query_pids: Int[Array, " n_query"],
    query_camids: Int[Array, " n_query"],
    gallery_pids: Int[Array, " n_gallery"],
    gallery_camids: Int[Array, " n_gallery"],
    *,
    other_camera_only: bool = False,
    n_repeats: int | None = None,
    seed: int = 0,
    max_rank: int = 50,
) -> Ranking:
    r"""Measure a ranking in which the gallery keeps one image of each identity, sampled anew for each query.

    $$ \sum_r P_j(r)\, t^r = \prod_y (1 - s_y + s_y t) \tag{images-ahead} $$
    $$ P(r) = \frac1n \sum_j P_j(r), \quad \mathrm{CMC}(k) = \sum_{r < k} P(r), \quad
       \mathrm{AP} = \sum_r \frac{P(r)}{r + 1} \tag{single-shot} $$

    The sampled image of $y$ is before $j$ with probability $s_y$, whatever is sampled of the others: the rank of
    $j$ is a sum of independent coins. So the mean over all draws needs no draw; papers report means over 10 or 100.
    Junk is deleted before (same pid and camera; pid -1). Any other pid, 0 too, is an identity like the others.

    Args:
        dist: (n_query, n_gallery), smaller is nearer; infinity is allowed, NaN is not. Equal ones keep gallery order.
        query_pids, query_camids, gallery_pids, gallery_camids: as in `evaluate`; CUHK03 queries with every test image.
        other_camera_only: leave out all images under the query's camera (DeepReID, open-reid), not only those of the
            query's identity (torchreid, SLSR).
        n_repeats: draws for each query; None takes the mean over all draws in closed form.
        seed: of the draws.
        max_rank: length of cmc; beyond the number of identities its last value is repeated.

    Returns:
        A `Ranking` of expectations (means over the draws): `ap` is that of 1/place, and `inp` the same numbers, since
        the first right image is also the last. Queries without a right image are skipped.

    Raises:
        ValueError: no query has a right image; shapes do not fit; a distance is NaN; a count below 1.

    Source: W. Li et al., DeepReID, 2014 (protocol); the closed form is ours.

    >>> one, six = torch.tensor([1]), torch.arange(6)[None]    # two images each of 1 (asked for), 2 and 3
    >>> ranking = single_gallery_shot(six, one, 0 * one, torch.tensor([2, 1, 2, 3, 1, 3]), torch.ones(6).int())
    >>> ranking.cmc[:3].tolist(), ranking.protocol
    ([0.25, 0.75, 1.0], 'single gallery shot, any camera, closed form · AP 1/place · 1/1 queries valid · gallery 6')
    """
    ids = Labels(query_pids, query_camids, gallery_pids, gallery_camids, *matrix_shape(dist))
    for name, count in (("n_repeats", n_repeats), ("max_rank", max_rank)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}.")
    n_query, n_gallery = dist.shape
    n_pids, rng = len(np.unique(ids.gallery_pids[ids.by_pid])), np.random.default_rng(seed)
    row_bytes = int(ids.count.max()) * (12 * n_gallery + 24 * n_pids) + 24 * n_pids * (n_repeats or 0)
    laws, valid = [np.empty((0, n_pids))], np.zeros(n_query, dtype=bool)
    for block in row_blocks(n_query, row_bytes, budget=BLOCK_BYTES):
        far = distance_rows(dist, block).cpu().double().numpy()
        rows, ahead, total = _images_ahead(far, ids, block, other_camera_only)
        valid[block][rows] = True
        if len(rows):
            laws.append(_draw(rows, ahead, total, n_repeats, rng) if n_repeats else _expect(rows, ahead, total))
    if not valid.any():
        raise ValueError(ids.explain())
    law = np.concatenate(laws)
    cmc = np.minimum(law.mean(0).cumsum(), 1)[np.minimum(np.arange(max_rank), n_pids - 1)]  # [single-shot]
    ap = torch.from_numpy(law @ (1 / np.arange(1, n_pids + 1)))
    how = f"{n_repeats} draws" if n_repeats else "closed form"
    stamp = f"single gallery shot, {'other cameras' if other_camera_only else 'any camera'}, {how} · AP 1/place"
    stamp += f" · {len(ap)}/{n_query} queries valid · gallery {n_gallery}"
    mean = ap.mean().item()
    return Ranking(torch.from_numpy(cmc), mean, mean, ap, ap.clone(), torch.from_numpy(valid), stamp)


def viper_cmc(
    dist: Shaped[Array, "n_query n_gallery"], query_pids: Int[Array, " n_query"], gallery_pids: Int[Array, " n_gallery"]
) -> Float[Tensor, " n_gallery"]:
    """CMC at every rank where the gallery has exactly one image of each person asked for, under another camera.

    VIPeR's number is the mean over ten random halves of its 632 people: `torch.stack(cmcs).mean(0)`.

    Args:
        dist: (n_query, n_gallery), smaller is nearer; equal ones keep the order of the gallery.
        query_pids: (n_query,) identities.
        gallery_pids: (n_gallery,) identities; some may be those of no query.

    Returns:
        (n_gallery,) float64 fractions, rank 1 first.

    Raises:
        ValueError: a query has no match or several; what `evaluate_distances` refuses.

    Source: D. Gray et al., Evaluating appearance models, 2007.

    >>> viper_cmc(torch.tensor([[0.2, 0.1], [0.4, 0.3]]), torch.tensor([1, 2]), torch.tensor([1, 2]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    n_query, n_gallery = matrix_shape(dist)
    given = query_pids, np.zeros(n_query, dtype=int), gallery_pids, np.ones(n_gallery, dtype=int)
    ids = Labels(*given, n_query, n_gallery)
    if wrong := (ids.count != 1).nonzero()[0].tolist():
        raise ValueError(
            f"query image {wrong[0]} (pid {ids.query_pids[wrong[0]]}) has {ids.count[wrong[0]]} matches in the "
            "gallery; here each must have one (single_gallery_shot samples one of several)."
        )
    return evaluate_distances(dist, *given, max_rank=n_gallery).cmc


@torch.no_grad()
def multi_query(
    embeddings: Float[Array, "n d"],
    pids: Int[Array, " n"],
    camids: Int[Array, " n"],
    query_pids: Int[Array, " n_query"],
    query_camids: Int[Array, " n_query"],
) -> Float[Tensor, "n_query d"]:
    """Average the embeddings of all boxes that show a query's person under the query's camera.

    The averages take the queries' place: `evaluate(averages, ..., protocol="multi-query")`. They are shorter than the
    unit rows they are made of. Against a gallery of unit rows this changes no ranking; before distances of different
    queries are compared (a threshold, re-ranking), normalise them.

    Args:
        embeddings: (n, d) of Market-1501's hand-drawn boxes (`multi_query` of a split), unit rows.
        pids, camids: (n,) identity and camera of each box.
        query_pids, query_camids: (n_query,) of the queries.

    Returns:
        (n_query, d) in the order of the queries, on the device of `embeddings`.

    Raises:
        ValueError: a query has no box with its pid and camera; shapes do not fit.

    Source: L. Zheng et al., Scalable person re-identification, 2015 (average pooling).

    >>> boxes, three, one = torch.eye(3), torch.tensor([7, 7, 7]), torch.tensor([7])
    >>> multi_query(boxes, three, torch.tensor([0, 0, 1]), one, 0 * one)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    x = embedding_rows(embeddings, "embeddings")
    boxes = [labels(pids, "pids", len(x)), labels(camids, "camids", len(x))]
    asked = [labels(query_pids, "query_pids")]
    asked.append(labels(query_camids, "query_camids", len(asked[0])))
    _, group = np.unique(np.hstack([boxes, asked]), axis=1, return_inverse=True)
    group = torch.from_numpy(group.reshape(-1)).to(x.device)
    count = torch.bincount(group[: len(x)], minlength=len(group))
    mine = group[len(x) :]
    if alone := (count[mine] == 0).nonzero()[:, 0].tolist():
        pid, camid = (ids[alone[0]] for ids in asked)
        raise ValueError(
            f"{len(alone)} queries have no box with their pid and camera, the first is query {alone[0]} (pid {pid}, "
            f"camid {camid}): add the query images themselves to the boxes."
        )
    total = x.new_zeros(int(group.max()) + 1, x.shape[1]).index_add_(0, group[: len(x)], x)
    return total[mine] / count[mine, None]


def poisson_binomial(probabilities: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m+1"]:
    """Law of the number of heads when m independent coins are thrown, for n rows of coins.

    Args:
        probabilities: (n, m) of heads, in [0, 1].

    Returns:
        (n, m + 1), at index r the probability of r heads.

    >>> poisson_binomial(np.array([[0.5, 0.5], [1.0, 0.25]]))
    array([[0.25, 0.5 , 0.25],
           [0.  , 0.75, 0.25]])
    """
    n, m = probabilities.shape
    law = np.zeros((m + 1, n))
    law[0] = 1
    for thrown, p in enumerate(probabilities.T[probabilities.any(0)]):  # a coin that never shows heads changes nothing
        law[1 : thrown + 2] += p * (law[: thrown + 1] - law[1 : thrown + 2])  # [images-ahead]
        law[0] *= 1 - p
    return law.T


def _images_ahead(
    far: Float[np.ndarray, "n_row n_gallery"], ids: Labels, block: slice, other_camera_only: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each right image: the row of its query, and per identity the images before it and all that can be sampled.

    The query's own identity counts nothing before.
    """
    rows, cols, junk = ids.pairs(block)
    rows, cols, order = rows[~junk], cols[~junk], ids.by_pid
    pids, start = np.unique(ids.gallery_pids[order], return_index=True)
    line, mine = far[:, order][rows], far[rows, cols][:, None]
    before = (line < mine) | ((line == mine) & (order < cols[:, None]))
    drawable = np.ones((len(far), len(order)), dtype=bool)
    if other_camera_only:
        drawable = ids.gallery_camids[order] != ids.query_camids[block][:, None]
        before &= drawable[rows]
    ahead, total = (np.add.reduceat(mask, start, axis=1, dtype=np.int64) for mask in (before, drawable))
    ahead[np.arange(len(rows)), pids.searchsorted(ids.query_pids[block][rows])] = 0
    return rows, ahead, total[rows]


def _expect(rows: np.ndarray, ahead: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Law of the rank of each query of a block, over all draws."""
    law = poisson_binomial(ahead / np.maximum(total, 1))[:, :-1]  # its own identity is never ahead
    _, start, count = np.unique(rows, return_index=True, return_counts=True)
    return np.add.reduceat(law, start) / count[:, None]


def _draw(
    rows: np.ndarray, ahead: np.ndarray, total: np.ndarray, n_repeats: int, rng: np.random.Generator
) -> np.ndarray:
    """Law of the rank of each query of a block in `n_repeats` draws: which image of each identity, from its nearest."""
    n_pids = ahead.shape[1]
    _, start, count = np.unique(rows, return_index=True, return_counts=True)
    dice = rng.random((len(start), n_repeats, 1 + n_pids))
    right = start[:, None] + (dice[..., 0] * count[:, None]).astype(int)
    rank = (dice[..., 1:] * total[right] < ahead[right]).sum(2)
    law = np.zeros((len(start), n_pids))
    np.add.at(law, (np.arange(len(start))[:, None], rank), 1 / n_repeats)
    return law
