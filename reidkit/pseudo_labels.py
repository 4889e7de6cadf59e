r"""From one labelled image of each person to pseudo-labels for all the others.

"Feature Space Regularization for person re-identification with one sample" learns in steps: train, give every
unlabelled image a pseudo-label, select the most confident ones, and train again with them; each step selects more. The
steps are those of Y. Wu et al., "Progressive learning for person re-identification with one example", TIP 2019.

Notation      $u$ an unlabelled image, $l$ a labelled one, $n_u$ and $n_l$ of them, $f_u$ and $f_l$ their embeddings.
              The paper takes unit rows; nothing is normalised here.
"""

import math
import random
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from reidkit.blocks import nonzero, product, row_blocks, same_precision
from reidkit.distances import first_equal, frame, k_nearest, min_max, nearest, squared_norms
from reidkit.inputs import Array, embedding_rows, labels, same_width

CACHE_BYTES = 2**22  # what stays in a processor core's cache


class Estimate(NamedTuple):
    """A pseudo-label for each unlabelled image, and its confidence: more is better, in no fixed unit."""

    pids: Int[Tensor, " n_u"]
    confidence: Float[Tensor, " n_u"]


class Quality(NamedTuple):
    """How many pseudo-labels are right, as fractions.

    accuracy: right ones among all images.
    precision: right ones among the selected images.
    recall: images that are selected and right, among all images.
    f_score: harmonic mean of precision and recall.
    """

    accuracy: float
    precision: float
    recall: float
    f_score: float


def one_shot_split(
    pids: Int[Array, " n"], camids: Int[Array, " n"], *, seed: int = 0
) -> tuple[Int[Tensor, " n_l"], Int[Tensor, " n_u"]]:
    """Draw one image of each identity, from the first camera that saw it; the others lose their labels.

    For the training images of Market-1501 and DukeMTMC-reID, sorted by file name, seed 0 gives the published splits.

    Args:
        pids: (n,) identities of the training images, any integers.
        camids: (n,) their cameras.
        seed: of the draw.

    Returns:
        Indices of the labelled images, identities ascending, and of the unlabelled images, ascending.

    Raises:
        ValueError: lengths differ, or nothing is given.

    Source: released code of Wu et al.

    >>> one_shot_split(torch.tensor([7, 7, 5, 7]), torch.tensor([1, 0, 3, 1]))
    (tensor([2, 1]), tensor([0, 3]))
    """
    pids = labels(pids, "pids")
    camids = labels(camids, "camids", len(pids))
    draw, labelled = random.Random(seed), []
    for pid in np.unique(pids):
        images = np.flatnonzero(pids == pid)
        labelled += draw.sample(images[camids[images] == camids[images].min()].tolist(), 1)
    return torch.tensor(labelled), torch.from_numpy(np.delete(np.arange(len(pids)), labelled))


@torch.no_grad()
def nearest_labels(
    unlabelled: Float[Array, "n_u d"], labelled: Float[Array, "n_l d"], labelled_pids: Int[Array, " n_l"]
) -> Estimate:
    r"""Give each image the identity of its nearest labelled image.

    $$ \hat y_u = y_{l^*}, \quad c_u = -\lVert f_u - f_{l^*} \rVert, \quad
       l^* = \arg\min_l \lVert f_u - f_l \rVert \tag{nearest-label} $$

    A product of matrices leaves few candidates, all that its rounding does not rule out; only their differences are
    computed. On a CPU and in float32 the result is, to the last bit, that of the released loop over all of them.

    Args:
        unlabelled: (n_u, d) embeddings, tensor or NumPy array; the work is done on their device.
        labelled: (n_l, d) embeddings.
        labelled_pids: (n_l,) their identities.

    Returns:
        An `Estimate`; confidence is at most 0. Of equally near images the first one counts.

    Raises:
        ValueError: shapes do not fit, or an embedding is not finite.

    Source: released code of Wu et al.

    >>> nearest_labels(torch.tensor([[0.75], [0.25]]), torch.tensor([[0.0], [1.0]]), torch.tensor([7, 9]))
    Estimate(pids=tensor([9, 7]), confidence=tensor([-0.2500, -0.2500]))
    """
    unlabelled, labelled, norms, _ = _embeddings(unlabelled, labelled)
    pids = torch.from_numpy(labels(labelled_pids, "labelled_pids", len(labelled))).to(labelled.device)
    centre = labelled.mean(0)  # subtracting it changes no distance but reduces rounding errors
    y = labelled - centre
    half = squared_norms(y) / 2
    dist, nearest = torch.empty_like(norms), torch.empty_like(norms, dtype=torch.long)
    blocks = list(row_blocks(len(dist), labelled.element_size() * len(labelled), budget=CACHE_BYTES))
    buffers = norms.new_empty(blocks[0].stop, len(centre)), norms.new_empty(blocks[0].stop, len(labelled))
    for rows in blocks:
        x, score = (buffer[: rows.stop - rows.start] for buffer in buffers)
        torch.sub(unlabelled[rows], centre, out=x)
        product(x, y, out=score).sub_(half)
        # Products and norms are sums of d terms: rounding moves the difference of two scores by less than this.
        slack = 2 * (len(centre) + 64) * torch.finfo(x.dtype).eps * squared_norms(x).clamp(min=2 * half.max())
        i, j = nonzero(score >= (score.amax(1) - slack)[:, None])
        score.fill_(torch.inf)[i, j] = _distances_of_pairs(unlabelled[rows], i, labelled, j)
        dist[rows], nearest[rows] = score.min(1)
    return Estimate(pids[nearest], -dist)  # [nearest-label]


@torch.no_grad()
def joint_distance(
    unlabelled: Float[Array, "n_u d"],
    labelled: Float[Array, "n_l d"],
    *,
    k: int = 3,
    mu: float = 0.5,
    k_includes_self: bool = True,
    label_class_pool: Literal["U", "L+U"] = "U",
    jd_squared: bool = True,
    class_dist: Literal["pairs", "centroid"] = "pairs",
) -> Float[Tensor, "n_u n_l"]:
    r"""Distances of unlabelled to labelled images, mixed with those of the small groups of images around them.

    $$ g_{ul} = \frac{1}{K^2} \sum_{a \in G_u} \sum_{b \in G_l} \lVert f_a - f_b \rVert^2, \quad
       d_{ul} = \lVert f_u - f_l \rVert^2 \tag{inter-class} $$
    $$ J_{ul} = \mu\, N(d)_{ul} + (1 - \mu)\, N(g)_{ul} \tag{joint} $$

    A group G is an image and its K - 1 nearest among the unlabelled ones; N shifts and scales a matrix to [0, 1]. An
    outlier alone thus decides less. As $\lVert a - b \rVert^2 = \lVert a \rVert^2 + \lVert b \rVert^2 - 2 a^\top b$,
    the mean over pairs needs only the mean embedding of each group and its mean squared norm. There is no n_u x n_u
    matrix. Equal labelled images have equal distances, and far from the origin the mean is subtracted first.

    Args:
        unlabelled: (n_u, d) embeddings, tensor or NumPy array; the work is done on their device.
        labelled: (n_l, d) embeddings.
        k: K, the size of a group, at least 1 and at most n_u.
        mu: weight of the distance between single images, 0 to 1.
        k_includes_self: whether K counts the image itself; if not, a group has K + 1 images.
        label_class_pool: where a labelled image finds its neighbours: "U", the unlabelled images, or "L+U", all.
        jd_squared: whether distances are squared.
        class_dist: of two groups: "pairs", the mean over all pairs, or "centroid", the distance of their means.

    Returns:
        (n_u, n_l) in [0, 1] up to rounding; a constant g or d counts as 0.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or a parameter is out of range.

    Source: eq. 7 to 9 of the paper, and its released code, which sets the defaults.

    >>> x, y = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[1.0], [5.0]])
    >>> joint_distance(x, y, k=2).argmin(1)
    tensor([0, 0, 1])
    """
    if label_class_pool not in ("U", "L+U"):
        raise ValueError(f'label_class_pool must be "U" or "L+U", not {label_class_pool!r}.')
    if class_dist not in ("pairs", "centroid"):
        raise ValueError(f'class_dist must be "pairs" or "centroid", not {class_dist!r}.')
    x, labelled, norms_u, norms_l = _embeddings(unlabelled, labelled)
    where, _ = frame(x, labelled, names=("unlabelled", "labelled"))
    if not where.plain:
        x, labelled = (where.put(side, side.dtype) for side in (x, labelled))
        norms_u, norms_l = squared_norms(x), squared_norms(labelled)
    others = k - k_includes_self
    if k < 1 or others >= len(x) or not 0 <= mu <= 1:
        most = len(x) - 1 + k_includes_self
        raise ValueError(f"k must be from 1 to {most} with n_u = {len(x)}, and mu from 0 to 1, not {k} and {mu}.")
    dist = _squared(x, labelled, norms_u, norms_l)
    labelled_groups = _labelled_groups(x, labelled, others, label_class_pool)
    groups = k_nearest(x, 1 + others).index if others else torch.arange(len(x), device=x.device)[:, None]
    between = _group_distances(x, norms_u, groups, labelled_groups, jd_squared, class_dist)
    if not jd_squared:
        dist.sqrt_()
    first = first_equal(labelled)
    if (first != torch.arange(len(first), device=first.device)).any():
        dist, between = dist[:, first], between[:, first]
    return min_max(dist).mul_(mu).add_(min_max(between), alpha=1 - mu)  # [joint]


@torch.no_grad()
def joint_labels(
    unlabelled: Float[Array, "n_u d"],
    labelled: Float[Array, "n_l d"],
    labelled_pids: Int[Array, " n_l"],
    *,
    k: int = 3,
    mu: float = 0.5,
    **switches: bool | str,
) -> Estimate:
    r"""Give each image the identity of the labelled image with the smallest joint distance.

    $$ \hat y_u = y_{l^*}, \quad c_u = -J_{ul^*}, \quad l^* = \arg\min_l J_{ul} \tag{joint-label} $$

    Args:
        unlabelled, labelled, k, mu, switches: as in `joint_distance`.
        labelled_pids: (n_l,) identities of the labelled images.

    Returns:
        An `Estimate`; confidence from -1 to 0.

    Raises:
        ValueError: as in `joint_distance`.

    Source: the paper, and its released code, which returns l itself instead of its identity.

    >>> x, y = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[1.0], [5.0]])
    >>> joint_labels(x, y, torch.tensor([7, 9]), k=2).pids
    tensor([7, 7, 9])
    """
    pids = torch.from_numpy(labels(labelled_pids, "labelled_pids", len(embedding_rows(labelled, "labelled"))))
    least, nearest = joint_distance(unlabelled, labelled, k=k, mu=mu, **switches).min(1)
    return Estimate(pids.to(nearest.device)[nearest], -least)  # [joint-label]


def select_confident(confidence: Float[Tensor, " n_u"], n: int) -> Bool[Tensor, " n_u"]:
    """Select the n images with the highest confidence; among equals, the first ones.

    Identities are not balanced: one of them may get most of the images.

    Args:
        confidence: (n_u,) no NaN.
        n: from 0 to n_u.

    Returns:
        (n_u,) True for n of them.

    Raises:
        ValueError: n is out of range, or a confidence is NaN.

    >>> select_confident(torch.tensor([-0.5, -0.1, -0.5]), 2)
    tensor([ True,  True, False])
    """
    if confidence.ndim != 1:
        raise ValueError(f"confidence must be of shape (n_u,), one for each image, not {tuple(confidence.shape)}.")
    if not 0 <= n <= len(confidence):
        raise ValueError(f"n must be from 0 to the number of images, {len(confidence)}, not {n}.")
    if confidence.isnan().any():
        raise ValueError("confidence holds NaN, which cannot be ranked.")
    selected = torch.zeros_like(confidence, dtype=torch.bool)
    selected[confidence.argsort(descending=True, stable=True)[:n]] = True
    return selected


def selection_size(n_unlabelled: int, step: int, enlarging_factor: float) -> int:
    r"""How many pseudo-labelled images are selected at the end of a step.

    $$ n_t = \min(\lfloor n_u\, (t + 1)\, p \rfloor,\ n_u) \tag{selection-size} $$

    Args:
        n_unlabelled: n_u, the number of all unlabelled images, selected before or not.
        step: t, from 0.
        enlarging_factor: p, above 0, at most 1.

    Returns:
        The number of images.

    Raises:
        ValueError: a number is out of range.

    Source: released code of Wu et al., where p is given in percent.

    >>> [selection_size(12_185, step, 0.1) for step in (0, 1, 9, 10)]
    [1218, 2437, 12185, 12185]
    """
    if n_unlabelled < 0 or step < 0:
        raise ValueError(f"n_unlabelled and step must be at least 0, not {n_unlabelled} and {step}.")
    if not 0 < enlarging_factor <= 1:
        raise ValueError(f"enlarging_factor is a share above 0 and at most 1 (0.1 for 10 %), not {enlarging_factor}.")
    return min(math.floor(_decimal(n_unlabelled * (step + 1) * enlarging_factor)), n_unlabelled)  # [selection-size]


def step_sizes(
    n_unlabelled: int,
    enlarging_factor: float,
    *,
    stop_rule: Literal["fsr", "pl"] = "fsr",
    final_full_step: bool = False,
) -> list[int]:
    """How many pseudo-labelled images each step trains with, from the first step, which has none, to the last.

    Args:
        n_unlabelled: number of unlabelled images, at least 1.
        enlarging_factor: share of them that is added in each step, above 0, at most 1.
        stop_rule: "fsr" stops before the step that would train with all of them, which leaves the other losses no
            image (the released code of the paper fails there); "pl" one step earlier, as that of Wu et al. does.
        final_full_step: whether one step with all of them follows nevertheless, trained by cross-entropy alone.

    Returns:
        One number per step.

    Raises:
        ValueError: a number or the rule is out of range.

    >>> step_sizes(10, 0.3), step_sizes(10, 0.3, stop_rule="pl", final_full_step=True)
    ([0, 3, 6, 9], [0, 3, 6, 10])
    """
    if stop_rule not in ("fsr", "pl") or n_unlabelled < 1:
        given = f"{stop_rule!r} and {n_unlabelled}"
        raise ValueError(f'stop_rule must be "fsr" or "pl" and n_unlabelled at least 1, not {given}.')
    sizes = [0]
    while sizes[-1] < n_unlabelled:
        sizes.append(selection_size(n_unlabelled, len(sizes) - 1, enlarging_factor))
    kept = sizes[: -1 if stop_rule == "fsr" else -2] or [0]
    return kept + [n_unlabelled] * final_full_step


def label_quality(pids: Int[Tensor, " n_u"], true_pids: Int[Tensor, " n_u"], selected: Bool[Tensor, " n_u"]) -> Quality:
    """Compare pseudo-labels with true identities.

    Args:
        pids: (n_u,) pseudo-labels.
        true_pids: (n_u,) true identities, which training never sees.
        selected: (n_u,) which pseudo-labels are used.

    Returns:
        A `Quality`; what has an empty denominator is 0.

    Source: released code of the paper; recall is a share of all images, not of those with a right pseudo-label.

    >>> label_quality(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 4]), torch.tensor([True, False, True, False]))
    Quality(accuracy=0.75, precision=0.5, recall=0.25, f_score=0.3333333333333333)
    """
    pids = torch.from_numpy(labels(pids, "pids"))
    true_pids = torch.from_numpy(labels(true_pids, "true_pids", len(pids)))
    if selected.shape != pids.shape or selected.dtype != torch.bool:
        found = f"{tuple(selected.shape)} {selected.dtype}"
        raise ValueError(f"selected must be ({len(pids)},) of True and False, one for each image, not {found}.")
    selected = selected.cpu()
    right = pids == true_pids
    n, n_selected, both = len(right), int(selected.sum()), int((right & selected).sum())
    return Quality(
        int(right.sum()) / max(1, n), both / max(1, n_selected), both / max(1, n), 2 * both / max(1, n + n_selected)
    )


def _embeddings(unlabelled: Array, labelled: Array) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both as rows of one dtype on one device, and their squared norms, which are finite."""
    x, y = embedding_rows(unlabelled, "unlabelled"), embedding_rows(labelled, "labelled")
    same_width(x, y, ("unlabelled", "labelled"))
    x, y = same_precision(x, y.to(x.device))
    norms = squared_norms(x), squared_norms(y)
    for name, values in zip(("unlabelled", "labelled"), norms, strict=True):
        if not values.isfinite().all():
            raise ValueError(f"{name} holds NaN, infinity or numbers too large to square; embeddings must be finite.")
    return x, y, *norms


def _distances_of_pairs(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """Euclidean distance of row i of x and row j of y, on the CPU with the sums and roots of `numpy.linalg.norm`."""
    dist, on_cpu = x.new_empty(len(i)), x.device.type == "cpu"
    for part in row_blocks(len(i), 2 * x.element_size() * x.shape[1], budget=CACHE_BYTES):
        gaps = x[i[part]].sub_(y[j[part]]).square_()
        dist[part] = torch.from_numpy(np.sqrt(gaps.numpy().sum(1))) if on_cpu else gaps.sum(1).sqrt()
    return dist


def _squared(x: Tensor, y: Tensor, norms_x: Tensor, norms_y: Tensor) -> Tensor:
    """Squared distances from products and squared norms, or from means of norms."""
    dist = product(x, y, out=x.new_empty(len(x), len(y)))
    return dist.mul_(-2).add_(norms_x[:, None]).add_(norms_y).clamp_(min=0)


def _labelled_groups(x: Tensor, labelled: Tensor, others: int, pool: str) -> Tensor:
    """Embeddings (n_l, 1 + others, d) of each labelled image and its nearest others."""
    if not others:
        return labelled[:, None]
    if pool == "U":
        near = nearest(labelled, x, others)[0]
    else:  # among all but itself
        x = torch.cat([x, labelled])
        near = nearest(labelled, x, others + 1)[0]
        mine = near == torch.arange(len(x) - len(labelled), len(x), device=x.device)[:, None]
        mine[:, -1] |= ~mine.any(1)
        near = near[~mine].view(len(labelled), others)
    return torch.cat([labelled[:, None], x[near]], dim=1)


def _group_distances(
    x: Tensor, norms: Tensor, groups: Tensor, labelled_groups: Tensor, squared: bool, class_dist: str
) -> Tensor:
    """Distances of groups, rows of `x` by index, to groups of labelled images, by embedding."""
    n_l, size, dim = labelled_groups.shape
    members = labelled_groups.flatten(0, 1)
    member_norms = squared_norms(members)
    dist = norms.new_empty(len(x), n_l)
    if class_dist == "pairs" and not squared:  # roots do not split: each image to each member
        for rows in row_blocks(len(x), x.element_size() * len(members)):
            each = _squared(x[rows], members, norms[rows], member_norms).sqrt_()
            dist[rows] = each.view(-1, n_l, size).mean(2)
        return F.embedding_bag(groups, dist, mode="mean")  # [inter-class]
    centres_l, pairs = labelled_groups.mean(1), class_dist == "pairs"
    norms_l = member_norms.view(n_l, size).mean(1) if pairs else squared_norms(centres_l)
    for rows in row_blocks(len(x), x.element_size() * dim):
        centres = F.embedding_bag(groups[rows], x, mode="mean")
        norms_u = norms[groups[rows]].mean(1) if pairs else squared_norms(centres)
        dist[rows] = _squared(centres, centres_l, norms_u, norms_l)  # [inter-class]
    return dist if squared else dist.sqrt_()


def _decimal(x: float) -> float:
    """Undo what binary fractions do to a product of decimal ones, before it is cut to an integer."""
    return round(x, 6)
