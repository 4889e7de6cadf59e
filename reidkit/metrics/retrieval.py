r"""Single-query evaluation of a ranked gallery: CMC, mAP and mINP, exact and streaming.

Only the ranks of the positives matter, so nothing is sorted in full: a block of queries is scored, and each positive's
rank is the number of gallery images before it. Everything else follows from the ranks in closed form. Images whose
scores are so near to a positive's that rounding may have swapped them are measured again: ranks are those of float64.

Notation      $r_1 < r_2 < \dots < r_n$ the 0-based ranks of a query's $n$ positives once its junk is deleted;
              precision at hit $i$ (from 0) $p_i = (i+1)/(r_i+1)$, and just before it $p'_i = i/r_i$.
Protocol      positive: same pid, other camera. Junk, deleted: same pid and same camera, or pid -1. All else is wrong.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reidkit.blocks import row_blocks
from reidkit.distances import PAIRS, Nearness
from reidkit.inputs import Array, labels, same_width, shared_tensor, stored_rows

BLOCK_ROWS = 384  # queries at a time: more gain nothing in speed
BINS = 1023  # in which the scores of a row are counted
BLOCK_BYTES = 2**27  # but never more than this for one block
AP_CONVENTIONS = ("mean", "trapezoid", "mar")


class Ranking(NamedTuple):
    """How well a gallery was ranked; all numbers are fractions in [0, 1], tensors are float64 on the CPU.

    cmc: share of the queries whose first positive is among the first k, at index k-1.
    mAP, mINP: means over the queries.
    ap, inp: of each valid query, in the order of the queries: `query_pids[valid]` are their identities.
    valid: which queries have a positive at all.
    protocol: one line of four parts that says what was measured: rules · AP · queries that count · size of the gallery.
    """

    cmc: Float[Tensor, " max_rank"]
    mAP: float
    mINP: float
    ap: Float[Tensor, " n_valid"]
    inp: Float[Tensor, " n_valid"]
    valid: Bool[Tensor, " n_query"]
    protocol: str = ""

    def rank(self, k: int) -> float:
        """Share of the queries that have a positive among the first `k` of the gallery."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"rank {k} is not known: this ranking was made with max_rank={len(self.cmc)}.")
        return self.cmc[k - 1].item()

    rank1 = property(lambda self: self.rank(1))
    rank5 = property(lambda self: self.rank(5))
    rank10 = property(lambda self: self.rank(10))
    rank20 = property(lambda self: self.rank(20))


@torch.no_grad()
def evaluate(
    query: Float[Array, "n_query d"],
    gallery: Float[Array, "n_gallery d"],
    query_pids: Int[Array, " n_query"],
    query_camids: Int[Array, " n_query"],
    gallery_pids: Int[Array, " n_gallery"],
    gallery_camids: Int[Array, " n_gallery"],
    *,
    ap: str = "mean",
    invalid: str = "skip",
    max_rank: int = 50,
    protocol: str = "single query",
) -> Ranking:
    r"""Rank the gallery by Euclidean distance for each query and measure the ranking, in bounded memory.

    $$ \mathrm{AP} = \frac1n \sum_i p_i \tag{ap-mean} $$
    $$ \mathrm{AP} = \frac1n \sum_i \tfrac12 (p'_i + p_i), \quad p'_i = 1 \text{ where } r_i = 0 \tag{ap-trapezoid} $$
    $$ \mathrm{INP} = \frac{n}{r_n + 1} \tag{inp} \qquad
       \mathrm{CMC}(k) = \text{share of queries with } r_1 < k \tag{cmc} $$

    Embeddings are compared as they are (give unit rows for cosine), wherever they lie. The score
    $q^\top g - \frac12 \lVert g \rVert^2$ sorts like the distance; what rounding leaves open is decided by float64
    distances, and equal ones keep the order of the gallery. Works on the device of `gallery`. A memory-mapped gallery
    stays on its disk.

    Args:
        query: (n_query, d) embeddings, tensor or NumPy array.
        gallery: (n_gallery, d) embeddings.
        query_pids: (n_query,) identities; any integers.
        query_camids: (n_query,) cameras; any integers.
        gallery_pids: (n_gallery,) identities; -1 is junk, an identity of no query (0 on disk) is a distractor.
        gallery_camids: (n_gallery,) cameras.
        ap: "mean" (mean of the precisions; torchreid, fast-reid), "trapezoid" (Market-1501's own script, lower), or
            "mar" (the trapezoid with $p'_0 = 1$ even where the first image is wrong; higher).
        invalid: what a query without a positive counts: "skip" nothing, "zero" a failure in cmc, mAP and mINP.
        max_rank: length of cmc; beyond the end of the gallery its last value is repeated.
        protocol: what the line of the ranking begins with; say so if the queries are averages, or re-ranked.

    Returns:
        A `Ranking`.

    Raises:
        ValueError: no query has a positive; shapes do not fit; an embedding is not finite; an unknown choice.

    Source: L. Zheng et al., Scalable person re-identification, 2015 (protocol); M. Ye et al., Deep learning for person
    re-identification, 2021 (INP); released code of the MAR paper for "mar".

    >>> ranking = evaluate(torch.tensor([[0.0]]), torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([7]),
    ...                    torch.tensor([0]), torch.tensor([9, 7, 7]), torch.tensor([1, 1, 0]))
    >>> ranking.rank1, ranking.rank5, ranking.mAP    # the third image is junk: same camera
    (0.0, 1.0, 0.5)
    """
    query, gallery = stored_rows(query, "query"), stored_rows(gallery, "gallery")
    same_width(query, gallery, ("query", "gallery"))
    ids = Labels(query_pids, query_camids, gallery_pids, gallery_camids, len(query), len(gallery))
    near = Nearness(query.to(gallery.device), gallery)
    near.bias[ids.junk] = -torch.inf
    return _evaluate(near.product, near.bias, ids, ap, invalid, max_rank, protocol, near)


@torch.no_grad()
def evaluate_distances(
    dist: Shaped[Array, "n_query n_gallery"],
    query_pids: Int[Array, " n_query"],
    query_camids: Int[Array, " n_query"],
    gallery_pids: Int[Array, " n_gallery"],
    gallery_camids: Int[Array, " n_gallery"],
    *,
    ap: str = "mean",
    invalid: str = "skip",
    max_rank: int = 50,
    protocol: str = "single query",
) -> Ranking:
    """Measure the ranking that a matrix of distances gives, for example after re-ranking.

    The ranking is that of a stable sort of each row: equal distances keep the order of the gallery.

    Args:
        dist: (n_query, n_gallery), smaller is nearer, any real numbers; infinity is allowed, NaN is not.
        query_pids, query_camids, gallery_pids, gallery_camids: as in `evaluate`.
        ap, invalid, max_rank, protocol: as in `evaluate`.

    Returns:
        A `Ranking`.

    Raises:
        ValueError: no query has a positive; shapes do not fit; a distance is NaN; an unknown choice.

    >>> one = torch.tensor([1])
    >>> ranking = evaluate_distances(torch.tensor([[0.3, 0.1]]), one, one, torch.tensor([1, 2]), torch.tensor([2, 2]))
    >>> ranking.cmc[:3], ranking.protocol
    (tensor([0., 1., 1.], dtype=torch.float64), 'single query · AP mean · 1/1 queries valid · gallery 2')
    """
    ids = Labels(query_pids, query_camids, gallery_pids, gallery_camids, *matrix_shape(dist))
    sample = distance_rows(dist, slice(0, 1))
    dtype = torch.promote_types(sample.dtype, torch.float32) if sample.is_floating_point() else torch.float64
    largest = torch.finfo(dtype).max
    bias = torch.zeros(len(ids.gallery_pids), dtype=dtype, device=sample.device)
    bias[ids.junk] = -torch.inf

    def score(rows: slice, out: Tensor) -> None:
        out.copy_(distance_rows(dist, rows)).neg_()
        out.clamp_(-largest, largest)  # an infinite distance is last, but still before deleted junk

    return _evaluate(score, bias, ids, ap, invalid, max_rank, protocol)


def bootstrap_interval(
    values: Float[Array, " n"], groups: Shaped[Array, " n"], *, n_boot: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values`, over identities: whole groups are resampled.

    Queries of one person succeed and fail together, so resampling single queries would make the interval too narrow.
    For two methods give the differences of their APs: the interval is then paired.

    Args:
        values: (n,) one number per query, for example `ranking.ap`.
        groups: (n,) its identity, for example `query_pids[ranking.valid]`.
        n_boot: number of resamples.
        level: share of the resamples inside the interval, in (0, 1).
        seed: of the resampling.

    Returns:
        (low, high), in the unit of `values`.

    Raises:
        ValueError: lengths differ, nothing or NaN is given, or `level` or `n_boot` is out of range.

    Source: B. Efron, R. Tibshirani, An introduction to the bootstrap, 1993 (percentile interval, cluster bootstrap).

    >>> bootstrap_interval(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1, 1, 2]))
    (0.5, 0.5)
    """
    values, groups = (np.asarray(a.cpu() if isinstance(a, Tensor) else a) for a in (values, groups))
    if values.ndim != 1 or values.shape != groups.shape or not len(values):
        raise ValueError(f"values {values.shape} and groups {groups.shape} must be two equally long, non-empty rows.")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite.")
    if not 0 < level < 1 or n_boot < 1:
        raise ValueError(f"level must be between 0 and 1 and n_boot at least 1, not {level} and {n_boot}.")
    _, group = np.unique(groups, return_inverse=True)
    totals, sizes = np.bincount(group, values), np.bincount(group)
    rng = np.random.default_rng(seed)
    means = np.empty(n_boot)
    for boot in range(n_boot):
        drawn = rng.integers(len(sizes), size=len(sizes))
        means[boot] = totals[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Labels:
    """Pids and camids of both sides, and an index of the gallery by identity."""

    def __init__(self, query_pids, query_camids, gallery_pids, gallery_camids, n_query: int, n_gallery: int):
        self.query_pids = labels(query_pids, "query_pids", n_query)
        self.query_camids = labels(query_camids, "query_camids", n_query)
        self.gallery_pids = labels(gallery_pids, "gallery_pids", n_gallery)
        self.gallery_camids = labels(gallery_camids, "gallery_camids", n_gallery)
        self.junk = self.gallery_pids == -1  # neither right nor wrong for any query
        order = np.argsort(self.gallery_pids, kind="stable")
        self.by_pid = order[~self.junk[order]]
        pids = self.gallery_pids[self.by_pid]
        self.start = pids.searchsorted(self.query_pids)
        self.count = pids.searchsorted(self.query_pids, "right") - self.start

    def pairs(self, queries: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of the same identity: row in the block, column, and whether it is junk; by row, then by column."""
        rows, slot = _ragged(self.count[queries])
        cols = self.by_pid[self.start[queries][rows] + slot]
        return rows, cols, self.query_camids[queries][rows] == self.gallery_camids[cols]

    def explain(self) -> str:
        """That no query has a positive, and why."""
        reason = "check that pids and camids belong to the rows in this order."
        cameras = np.union1d(self.query_camids, self.gallery_camids)
        if len(cameras) == 1:
            reason = f"every image has camid {cameras[0]}: give the camera of each image."
        if not self.count.any():
            reason = "query and gallery share no pid: number both by the same identities."
        n_query = len(self.query_pids)
        return f"all {n_query} queries have no image of the same identity under another camera; {reason}"


def _evaluate(
    score: Callable[[slice, Tensor], object],
    bias: Tensor,
    ids: Labels,
    ap: str,
    invalid: str,
    max_rank: int,
    protocol: str,
    near: Nearness | None = None,
) -> Ranking:
    """Score block after block of queries into one buffer, keep the ranks of the positives, sum them up.

    `score` writes the scores of a block without `bias`, one number for each gallery image, -inf for junk. With `near`
    scores may be in the wrong order where they differ by less than its slack.
    """
    if ap not in AP_CONVENTIONS:
        raise ValueError(f'ap must be "mean", "trapezoid" or "mar", not {ap!r}.')
    if invalid not in ("skip", "zero"):
        raise ValueError(f'invalid must be "skip" or "zero", not {invalid!r}.')
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, not {max_rank}.")
    n_query, n_gallery = len(ids.query_pids), len(ids.gallery_pids)
    row_bytes = bias.element_size() * n_gallery + 64 * int(ids.count.max())
    buffer, found = None, []
    for block in row_blocks(n_query, row_bytes, budget=min(BLOCK_BYTES, BLOCK_ROWS * row_bytes)):
        buffer = bias.new_empty(block.stop, n_gallery) if buffer is None else buffer
        scores = buffer[: block.stop - block.start]
        score(block, scores)
        rows, cols, junk = ids.pairs(block)
        scores[torch.from_numpy(rows[junk]), torch.from_numpy(cols[junk])] = -torch.inf
        rows, cols = rows[~junk], cols[~junk]
        ties = NearTies(near, block) if near else None
        count = _ranks_by_sorting if scores.device.type == "cpu" else _ranks_by_counting
        found.append((rows + block.start, count(scores, bias, rows, cols, ties)))
    rows, ranks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if not len(rows):
        raise ValueError(ids.explain())
    ranking = _summarise(rows, ranks, n_query, ap, invalid, max_rank)
    zeros = " (the others count 0)" if invalid == "zero" and len(ranking.ap) < n_query else ""
    return ranking._replace(
        protocol=f"{protocol} · AP {ap} · {len(ranking.ap)}/{n_query} queries valid{zeros} · gallery {n_gallery}"
    )


class NearTies:
    """Images of a block whose scores are so near to a positive's that only exact distances tell which is before."""

    def __init__(self, near: Nearness, block: slice) -> None:
        self.near, self.block = near, block
        self.slack = near.slack[block]
        self.waiting: list[tuple[np.ndarray | int, np.ndarray, np.ndarray]] = []
        self.shifts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.pairs = 0

    def add(self, rows: np.ndarray | int, cols: np.ndarray, scores: np.ndarray) -> None:
        """All images of a row, or of all rows, that are near to a positive, itself one of them; by row, then column."""
        self.waiting.append((rows, cols, scores))
        self.pairs += len(cols)
        if self.pairs > PAIRS:
            self.measure()

    def measure(self) -> None:
        """Find by how many places each of the waiting images is behind the number of better scores in its row.

        Any other image of the row is on the same side of it by score and by distance.
        """
        if not self.waiting:
            return
        rows, cols, scores = zip(*self.waiting, strict=True)
        rows = rows[0] if isinstance(rows[0], np.ndarray) else np.repeat(rows, [len(part) for part in cols])
        cols, scores = np.concatenate(cols), np.concatenate(scores)
        self.waiting, self.pairs = [], 0
        device = self.near.gallery.device
        i, j = (torch.from_numpy(a).to(device) for a in (rows + self.block.start, cols))
        by_distance = np.lexsort((self.near.squared(i, j).cpu().numpy(), rows))  # stable: equal ones by column
        by_score = np.lexsort((-scores, rows))
        start = rows.searchsorted(rows)
        place = np.empty_like(start)
        place[by_distance] = np.arange(len(rows)) - start
        ordered = scores[by_score]
        fresh = np.append(True, (ordered[1:] != ordered[:-1]) | (rows[1:] != rows[:-1]))
        better = np.empty_like(start)
        better[by_score] = np.maximum.accumulate(np.where(fresh, np.arange(len(rows)), 0)) - start
        self.shifts.append((rows, cols, place - better))

    def shift(self, rows: np.ndarray, cols: np.ndarray, n_gallery: int) -> np.ndarray:
        """What must be added to the number of better scores of each positive (row, column) to make it its rank."""
        self.measure()
        shift = np.zeros_like(cols)
        if self.shifts:
            line, at, places = (np.concatenate(parts) for parts in zip(*self.shifts, strict=True))
            known, wanted = line * n_gallery + at, rows * n_gallery + cols
            slot = known.searchsorted(wanted).clip(max=len(known) - 1)
            shift = np.where(known[slot] == wanted, places[slot], 0)
        return shift


def _ranks_by_sorting(
    scores: Tensor, bias: Tensor, rows: np.ndarray, cols: np.ndarray, ties: NearTies | None = None
) -> np.ndarray:
    """Rank of each positive (row, column): the number of better scores in its row, of equal ones to its left.

    Only the positives are sorted. Scores below the row's worst positive cannot matter; each of the others looks up
    between which positives it falls. The bias is added here, while a row is in the processor's cache.
    """
    if not len(rows):
        return np.empty_like(cols)
    table, bias = scores.numpy(), bias.numpy()
    values = table[rows, cols] + bias[cols]
    slack = ties.slack.numpy()[rows] if ties else values.dtype.type(0)
    low, high, up = values - slack, values + slack, values.dtype.type(np.inf)
    edges = np.stack([low, np.nextafter(values, up), np.nextafter(high, up)])  # [low, high] are a positive's near-ties
    below, n_kept = np.empty(edges.shape, cols.dtype), np.empty_like(cols)
    present, start = np.unique(rows, return_index=True)
    worst = np.minimum.reduceat(low, start)
    stop = [*start.tolist()[1:], len(rows)]
    with np.errstate(over="ignore"):
        for row, least, i, j in zip(present.tolist(), worst, start.tolist(), stop, strict=True):
            line = table[row]
            line += bias
            at = (line >= least).nonzero()[0]
            kept = line[at]
            below[:, i:j], chosen = _count_below(kept, edges[:, i:j], least)
            n_kept[i:j] = len(kept)
            if ties and len(chosen):
                ties.add(row, at[chosen], kept[chosen])
    better = n_kept - below[1]
    if ties:
        return better + ties.shift(rows, cols, table.shape[1])
    for i in (below[2] - below[0] > 1).nonzero()[0]:
        better[i] += np.count_nonzero(table[rows[i], : cols[i]] == values[i])
    return better


def _count_below(kept: np.ndarray, edges: np.ndarray, least: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """How many scores are below each edge; and which ones are near-ties: from a first edge up to its third, not alone.

    Scores are counted in bins; only those in a bin between a first and a third edge are compared with edges one by one.
    """
    ordered = np.sort(edges, axis=None)
    half = kept.dtype.type(0.5)  # of everything: differences of distances may be larger than the largest number
    scale = BINS / max(half * ordered[-1] - half * least, np.finfo(kept.dtype).tiny * BINS)
    bins, cuts = (np.minimum((half * a - half * least) * scale, BINS).astype(np.intp) for a in (kept, edges))
    starts, ends = (np.bincount(bound, minlength=BINS + 2) for bound in (cuts[0], cuts[2] + 1))
    cut = (starts - ends).cumsum() > 0
    count = np.bincount(bins, minlength=BINS + 2)
    count[cut] = 0
    close = cut[bins].nonzero()[0]
    place, found = ordered.searchsorted(kept[close], "right"), ordered.searchsorted(edges)
    below = count.cumsum()[cuts] + np.bincount(place, minlength=len(ordered) + 1).cumsum()[found]
    near, shared = np.zeros(len(ordered) + 1, dtype=bool), below[2] - below[0] > 1
    for first, last in found[::2, shared].T.tolist():
        near[first + 1 : last + 1] = True
    return below, close[near[place]]


def _ranks_by_counting(
    scores: Tensor, bias: Tensor, rows: np.ndarray, cols: np.ndarray, ties: NearTies | None = None
) -> np.ndarray:
    """The same ranks without a loop over rows, for devices where that would be slow.

    Each score that is not below its row's worst positive looks up, by binary search in the row's sorted positives, how
    many of these are before it; the running total of the answers is the rank (a positive finds itself, hence - 1). With
    near-ties only better scores count, and whatever is near to a positive is measured.
    """
    if not len(rows):
        return np.empty_like(cols)
    scores, n_rows, device = scores.add_(bias), len(scores), scores.device
    slot = np.arange(len(rows)) - rows.searchsorted(rows)
    width = 1 << int(slot.max() + 1).bit_length()  # a power of two above the number of positives of any row
    row, col, place = (torch.from_numpy(a).to(device) for a in (rows, cols, slot))
    value = scores.new_full((n_rows, width), -torch.inf)
    value[row, place] = scores[row, col]
    column = col.new_zeros(n_rows, width)
    column[row, place] = col
    value, order = value.sort(dim=1, descending=True, stable=True)  # equal ones stay in the order of the gallery
    column = column.gather(1, order)

    worst = value.masked_fill(value == -torch.inf, torch.inf).amin(1, keepdim=True)
    slack = ties.slack[:, None] if ties else 0
    line, at = (scores >= worst - slack).nonzero(as_tuple=True)
    mine = scores[line, at]
    ahead, step = torch.zeros_like(line), width // 2
    while step:
        probe = value[line, ahead + step - 1]
        first = probe >= mine if ties else (probe > mine) | ((probe == mine) & (column[line, ahead + step - 1] < at))
        ahead += step * first
        step //= 2
    before = torch.bincount(line * width + ahead, minlength=n_rows * width).view(n_rows, width).cumsum(1)
    if not ties:
        return (before - 1)[row, place].cpu().numpy()
    ahead_of = value[line, (ahead - 1).clamp(min=0)].masked_fill(ahead == 0, torch.inf)
    near = torch.minimum(ahead_of - mine, mine - value[line, ahead]) <= ties.slack[line]
    ties.add(*(part[near].cpu().numpy() for part in (line, at, mine)))
    return before[row, order.argsort(1)[row, place]].cpu().numpy() + ties.shift(rows, cols, scores.shape[1])


def _summarise(rows: np.ndarray, ranks: np.ndarray, n_query: int, ap: str, invalid: str, max_rank: int) -> Ranking:
    """From the ranks of the positives of every query to the numbers of a `Ranking`."""
    ranks = ranks[np.lexsort((ranks, rows))]
    n_hits = np.bincount(rows, minlength=n_query)
    valid = n_hits > 0
    query, hit = _ragged(n_hits)
    first = ranks[hit == 0]
    last = ranks[n_hits[valid].cumsum() - 1]

    term = (hit + 1) / (ranks + 1)  # [ap-mean]
    if ap != "mean":
        before = np.where(ranks > 0, hit / np.maximum(ranks, 1), 1)
        if ap == "mar":
            before[hit == 0] = 1  # [ap-mar]
        term = (before + term) / 2  # [ap-trapezoid]
    aps = np.bincount(query, term, minlength=n_query)[valid] / n_hits[valid]
    inps = n_hits[valid] / (last + 1)  # [inp]
    total = len(aps) if invalid == "skip" else n_query
    cmc = np.bincount(np.minimum(first, max_rank), minlength=max_rank + 1)[:max_rank].cumsum() / total  # [cmc]
    tensors = (torch.from_numpy(a) for a in (aps, inps, valid))
    return Ranking(torch.from_numpy(cmc), float(aps.sum() / total), float(inps.sum() / total), *tensors)


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row number and position in its row of each item, for rows of `counts` items: [2, 1] -> [0, 0, 1], [0, 1, 0]."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)


def matrix_shape(dist: object) -> tuple[int, int]:
    """Numbers of queries and of gallery images of a distance matrix, which needs at least one of each, real numbers.

    >>> matrix_shape(np.zeros((2, 3)))
    (2, 3)
    """
    if not isinstance(dist, Tensor | np.ndarray):
        raise ValueError(f"dist must be a tensor or a NumPy array, not a {type(dist).__name__}; np.array makes one.")
    if dist.is_complex() if isinstance(dist, Tensor) else dist.dtype.kind not in "iufb":
        raise ValueError(f"dist must hold real numbers, not {dist.dtype}.")
    if dist.ndim != 2 or 0 in dist.shape:
        raise ValueError(f"dist must be (n_query, n_gallery) with at least one of each, not {tuple(dist.shape)}.")
    return tuple(dist.shape)


def distance_rows(dist: Shaped[Array, "n m"], rows: slice) -> Shaped[Tensor, "k m"]:
    """Some rows of a distance matrix, also one on a disk, as a tensor that must not be written to. NaN is refused.

    >>> distance_rows(np.eye(2), slice(1, 2))
    tensor([[0., 1.]], dtype=torch.float64)
    """
    block = dist[rows] if isinstance(dist, Tensor) else shared_tensor(dist[rows])
    if block.isnan().any():
        raise ValueError(f"dist holds NaN between rows {rows.start} and {rows.stop - 1}; distances must be numbers.")
    return block
