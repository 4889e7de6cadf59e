r"""Pairwise distances as matrices, and the nearest neighbours of many rows without one.

Exact ranks   A product of float32 rows is fast, but what it makes of equal distances differs in the last digits, and
              far from the origin in the first ones. So it only proposes: `Nearness` says how far two scores must be
              apart to be in the right order, and pairs that are nearer than that are measured again, in float64, from
              the differences of their rows. The order is then that of float64, equal ones by their number.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reidkit.blocks import nonzero, product, row_blocks, same_precision, tile_size

CHUNK = 512  # numbers of a row that one product sums up; the bound of its rounding errors grows with them
TILE_BYTES = {"cpu": 2**23, "cuda": 2**28}  # of a gallery that must be converted or centred on the way
OFFSET = 100  # the mean is ten times as far from the origin as the rows are from it: float32 loses two digits
SPARE = 8  # neighbours kept beyond the k-th, in case that rounding has put them behind it
PAIRS = 2**18  # near-ties that are measured at a time


class Neighbours(NamedTuple):
    """The k nearest of each row, itself first, and how far the farthest of all is; squared distances."""

    index: Int[Tensor, "n k"]
    squared: Float[Tensor, "n k"]
    farthest: Float[Tensor, " n"]


def squared_euclidean(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    r"""Squared Euclidean distance of every row of `x` to every row of `y`.

    $$ d^2_{ij} = \max(\lVert x_i \rVert^2 + \lVert y_j \rVert^2 - 2 x_i^\top y_j,\ 10^{-12}) $$

    Half precision is raised to float32 and autocast is off inside: the subtraction would leave nothing of it. Rounding
    also means that an image's distance to itself is small but not zero (its square up to about 1e-6 for unit rows).

    Args:
        x: (n, d), any scale.
        y: (m, d), any scale.

    Returns:
        (n, m), at least 1e-12, so that a square root has a finite gradient everywhere.

    Source: released code of the ranking paper (and of most re-identification baselines).

    >>> squared_euclidean(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    tensor([[25.,  1.]])
    """
    x, y = same_precision(x, y)
    with torch.autocast(x.device.type, enabled=False):
        norms = x.square().sum(1)[:, None] + y.square().sum(1)
        return torch.addmm(norms, x, y.T, alpha=-2).clamp(min=1e-12)


def euclidean(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean distance of every row of `x` to every row of `y`, with a finite gradient also at zero distance.

    Args:
        x: (n, d), any scale.
        y: (m, d), any scale.

    Returns:
        (n, m), at least 1e-6; for unit rows at most 2. See `squared_euclidean` for precision.

    >>> euclidean(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    return squared_euclidean(x, y).sqrt()


def cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    r"""Cosine distance $1 - \cos(x_i, y_j)$ of every row of `x` to every row of `y`.

    For unit rows it is half the squared Euclidean distance, so it ranks a gallery in the same order.

    Args:
        x: (n, d), any scale; normalised inside.
        y: (m, d), any scale; normalised inside.

    Returns:
        (n, m) in [0, 2] up to rounding.

    >>> cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    tensor([[0., 1., 2.]])
    """
    x, y = same_precision(x, y)
    with torch.autocast(x.device.type, enabled=False):
        return 1 - F.normalize(x, dim=1) @ F.normalize(y, dim=1).T


def min_max(dist: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Shift and scale a matrix to [0, 1] by its smallest and its largest entry; a constant matrix becomes zero.

    Args:
        dist: (n, m), finite.

    Returns:
        (n, m) in [0, 1].

    >>> min_max(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    tensor([[0.0000, 0.2500],
            [0.5000, 1.0000]])
    """
    low, high = torch.aminmax(dist)
    return (dist - low) / (high - low).clamp(min=torch.finfo(dist.dtype).tiny)


def squared_norms(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Squared length of each row, without a second copy of `x`; exact where the squares are.

    >>> squared_norms(torch.tensor([[3.0, 4.0], [1.0, 1.0]]))
    tensor([25.,  2.])
    """
    norms = x.new_empty(len(x))
    for rows in row_blocks(len(x), x.element_size() * x.shape[1], budget=2**20):
        norms[rows] = x[rows].square().sum(1)
    return norms


def triangle_tiles(x: Float[Tensor, "n d"], *, size: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between all rows of `x`, tile by tile: those on the diagonal first, then those above it.

    Args:
        x: (n, d), finite.
        size: rows and columns of a tile.

    Yields:
        Rows, columns and their squared distances up to rounding (not clamped), in a buffer that the next tile reuses.

    >>> [(rows.start, cols.start, tile.item()) for rows, cols, tile in triangle_tiles(torch.eye(2), size=1)]
    [(0, 0, 0.0), (1, 1, 0.0), (0, 1, 2.0)]
    """
    norms = squared_norms(x)[:, None]
    right = torch.cat([x, torch.ones_like(norms), norms], dim=1)  # so that one product is -2xy + |x|² + |y|²
    blocks = list(row_blocks(len(x), 1, budget=size))
    buffer = x.new_empty(min(size, len(x)) ** 2)
    for step in range(len(blocks)):
        for rows, cols in zip(blocks, blocks[step:], strict=False):
            left = torch.cat([-2 * x[rows], norms[rows], torch.ones_like(norms[rows])], dim=1)
            tile = buffer[: len(left) * (cols.stop - cols.start)].view(len(left), -1)
            yield rows, cols, product(left, right[cols], out=tile)


class Frame(NamedTuple):
    """Where distances lose least to rounding: embeddings less `centre` (None: 0), times `unit`, a power of two."""

    centre: Float[Tensor, " d"] | None
    unit: float

    @property
    def plain(self) -> bool:
        """Whether embeddings stay as they are."""
        return self.centre is None and self.unit == 1

    def put(self, x: Float[Tensor, "n d"], dtype: torch.dtype) -> Float[Tensor, "n d"]:
        """Rows of embeddings in this frame; the rows themselves if nothing has to change."""
        if self.plain:
            return x.to(dtype).contiguous()
        x = x.double() if self.centre is None else x.double() - self.centre
        return (x * self.unit).to(dtype)


def frame(
    x: Float[Tensor, "n d"], *others: Float[Tensor, "_ d"], names: tuple[str, ...], ratio: float = OFFSET
) -> tuple[Frame, list[Tensor]]:
    """Find the frame for distances from the rows of `x`, and the lengths of all rows there.

    The mean of `x` is subtracted only where its square is more than `ratio` times the mean squared distance from it,
    and the unit is 1 unless rows are so long or so short that squares leave the range of the type: embeddings as
    networks make them stay as they are, to the last bit.

    Args:
        x: (n, d) of any floating-point type.
        others: further embeddings to be compared with them.
        names: what `x` and the others are, for the error message.
        ratio: from where on centring pays.

    Returns:
        The frame, and (n,) float64 lengths of `x` and of each other.

    Raises:
        ValueError: a row holds NaN or infinity, or its squares leave the range of float64.

    >>> frame(torch.tensor([[99.0], [101.0]]), names=("x",))
    (Frame(centre=tensor([100.], dtype=torch.float64), unit=1.0), [tensor([1., 1.], dtype=torch.float64)])
    """
    sides = (x, *others)
    moments = [_moments(side, None) for side in sides]
    for side, name, (_, squared) in zip(sides, names, moments, strict=True):
        _check_finite(side, squared, name)
    mean, squared = moments[0]
    centre = mean if mean.square().sum() > ratio * (squared.mean() - mean.square().sum()) else None
    if centre is not None:
        moments = [_moments(side, centre) for side in sides]
    lengths = [squared.sqrt() for _, squared in moments]
    longest = max(float(each.max()) for each in lengths)
    widest = math.log2(torch.finfo(torch.promote_types(x.dtype, torch.float32)).max) / 3
    far = longest > 0 and abs(math.log2(longest)) > widest
    unit = 2.0 ** -round(math.log2(longest)) if far else 1.0
    return Frame(centre, unit), [each * unit for each in lengths]


def _moments(x: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean of the rows, and squared length of each one less `centre`, in float64 without a copy of `x`."""
    total, squared = x.new_zeros(x.shape[1], dtype=torch.double), x.new_empty(len(x), dtype=torch.double)
    for rows in row_blocks(len(x), 8 * x.shape[1], budget=2**19 if x.device.type == "cpu" else 2**28):
        part = x[rows].double() if centre is None else x[rows].double() - centre
        total.addmv_(part.T, part.new_ones(len(part)))
        squared[rows] = part.square().sum(1)
    return total / len(x), squared


def _check_finite(x: Tensor, squared: Tensor, name: str) -> None:
    """Find NaN and infinity by the lengths of the rows."""
    bad = squared.isfinite().logical_not().nonzero()
    if len(bad):
        first = bad[0].item()
        what = "numbers too large to square" if x[first].isfinite().all() else "NaN or infinity"
        raise ValueError(f"{len(bad)} rows of {name} hold {what}, the first is row {first}.")


class Nearness:
    r"""Scores that sort a gallery as the distances to a query do, except for near-ties; and exact distances of pairs.

    $$ s_{qg} = q^\top g - \tfrac12 \lVert g \rVert^2
       = \tfrac12 \lVert q \rVert^2 - \tfrac12 \lVert q - g \rVert^2 \tag{score} $$

    A product of n terms, summed in whatever order, is wrong by at most $n u \lVert q \rVert \lVert g \rVert$, u being
    half the distance of 1 to the next number; the other roundings add a few $u (\lVert q \rVert + \lVert g \rVert)^2$.

    Args:
        query, gallery: (n, d) embeddings as `stored_rows` gives them, on one device. A gallery that must be converted,
            centred or made contiguous is so tile by tile: it may be a file much larger than the memory.
        names: what they are, for the error message.

    Attributes:
        bias: (n_gallery,) what `product` leaves out of the score: minus half the squared length.
        slack: (n_query,) scores of one query that are further apart than this are in the right order.
    """

    def __init__(self, query: Tensor, gallery: Tensor, *, names: tuple[str, str] = ("query", "gallery")) -> None:
        self.query, self.gallery = query, gallery
        self.dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)
        self.frame, (long, wide) = frame(gallery, query, names=names[::-1], ratio=3)  # moves no rank
        self.bias = (long.square() / -2).to(self.dtype)
        self.on_cpu, dim = gallery.device.type == "cpu", gallery.shape[1]
        terms = min(dim, CHUNK) + dim // CHUNK if self.on_cpu else dim
        info = torch.finfo(self.dtype)
        more = 6 if self.dtype == torch.float32 else 20 + terms / 4  # distances in float64 are rounded themselves
        bound = (terms / 4 + more) * info.eps / 2 * (wide + long.max()).square() + terms * info.tiny
        self.slack = (2 * bound).to(self.dtype)

    def product(self, rows: slice, out: Float[Tensor, "n_rows n_gallery"]) -> Float[Tensor, "n_rows n_gallery"]:
        """Write the scores of some queries into `out`, less `bias`."""
        query = self.frame.put(self.query[rows], self.dtype)
        ready = self.frame.plain and self.gallery.dtype == self.dtype and self.gallery.is_contiguous()
        budget = TILE_BYTES["cpu" if self.on_cpu else "cuda"]
        if ready and (query.shape[1] <= CHUNK or not self.on_cpu):
            return product(query, self.gallery, out=out)
        blocks = list(row_blocks(len(self.gallery), out.element_size() * query.shape[1], budget=budget))
        more = out.new_empty(len(query) * blocks[0].stop if query.shape[1] > CHUNK else 0)
        for cols in blocks:
            tile = self.frame.put(self.gallery[cols], self.dtype)
            step = CHUNK if self.on_cpu else query.shape[1]
            product(query[:, :step], tile[:, :step], out=out[:, cols])
            for start in range(step, query.shape[1], step):
                part = slice(start, start + step)
                out[:, cols] += product(
                    query[:, part], tile[:, part], out=more[: len(query) * len(tile)].view(-1, len(tile))
                )
        return out

    def scores(self, rows: slice, out: Float[Tensor, "n_rows n_gallery"]) -> Float[Tensor, "n_rows n_gallery"]:
        """Write the scores of some queries into `out`."""
        return self.product(rows, out).add_(self.bias)

    def squared(self, i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Squared distances of query i and gallery image j, float64, from the differences of their numbers."""
        return squared_of_pairs(self.query, i, self.gallery, j)


def squared_of_pairs(
    x: Float[Tensor, "n d"], i: Int[Tensor, " k"], y: Float[Tensor, "m d"], j: Int[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Squared distances of row i of `x` and row j of `y` in float64; the same for the same rows, wherever they stand.

    >>> squared_of_pairs(torch.eye(2), torch.tensor([0]), torch.eye(2), torch.tensor([1]))
    tensor([2.], dtype=torch.float64)
    """
    found = x.new_empty(len(i), dtype=torch.double)
    if x.device.type != "cpu":
        for part in row_blocks(len(i), 24 * x.shape[1], budget=2**28):
            gaps = (x[i[part]].double() - y[j[part]].double()).square_()
            while gaps.shape[1] > 1:  # a sum whose order does not depend on how many pairs there are
                half = gaps.shape[1] // 2
                gaps = torch.cat([gaps[:, :half] + gaps[:, half : 2 * half], gaps[:, 2 * half :]], dim=1)
            found[part] = gaps[:, 0]
        return found
    x, y = (a.numpy() if a.dtype != torch.bfloat16 else a for a in (x, y))
    i, j, squared = i.numpy(), j.numpy(), found.numpy()
    blocks = list(row_blocks(len(i), 8 * x.shape[1], budget=2**18))
    gaps = np.empty((blocks[0].stop if blocks else 0, x.shape[1]))
    for part in blocks:
        gap = gaps[: part.stop - part.start]
        gap[:] = y[j[part]] if isinstance(y, np.ndarray) else y[j[part]].double().numpy()
        gap -= x[i[part]] if isinstance(x, np.ndarray) else x[i[part]].double().numpy()
        np.einsum("nd,nd->n", gap, gap, out=squared[part])
    return found


def first_equal(x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """For each row the number of the first row that is equal to it; most often its own.

    >>> first_equal(torch.tensor([[1.0], [2.0], [1.0]]))
    tensor([0, 1, 0])
    """
    first = torch.arange(len(x))
    _, group, count = _moments(x, None)[1].cpu().unique(return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in (count[group] > 1).nonzero()[:, 0].tolist():
        first[i] = seen.setdefault((x[i].cpu().double() + 0.0).numpy().tobytes(), i)  # + 0: -0 is 0
    return first.to(x.device)


@torch.no_grad()
def nearest(query: Float[Tensor, "n d"], gallery: Float[Tensor, "m d"], k: int) -> tuple[Tensor, Tensor]:
    """The k rows of `gallery` nearest to each query, nearest first, equally near ones in the order of the gallery.

    The order is that of float64 distances; memory is bounded.

    Args:
        query, gallery: embeddings as `stored_rows` gives them, on one device.
        k: how many, at most m.

    Returns:
        (n, k) row numbers, and (n, k) squared distances in float64.

    >>> nearest(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [1.0]]), 2)
    (tensor([[2, 0]]), tensor([[0., 1.]], dtype=torch.float64))
    """
    near, device = Nearness(query, gallery), gallery.device
    index = torch.empty(len(query), k, dtype=torch.long, device=device)
    squared = torch.empty(len(query), k, dtype=torch.double, device=device)
    for rows in row_blocks(len(query), 3 * near.bias.element_size() * len(gallery)):
        scores = near.scores(rows, near.bias.new_empty(rows.stop - rows.start, len(gallery)))
        least = scores.topk(k).values[:, -1] - near.slack[rows]
        chosen = scores >= least[:, None]
        for part in _rows_of_few(chosen.sum(1)):
            line, j = nonzero(chosen[part])
            line, j, far = _sorted_by_distance(line, j, near.squared(line + (rows.start + part.start), j))
            count = torch.bincount(line, minlength=part.stop - part.start)
            first = (count.cumsum(0) - count)[:, None] + torch.arange(k, device=device)
            at = slice(rows.start + part.start, rows.start + part.stop)
            index[at], squared[at] = j[first], far[first]
    return index, squared


def _sorted_by_distance(line: Tensor, j: Tensor, far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that stand row by row, columns ascending: the same, sorted within each row; equals stay as they are."""
    order = far.argsort(stable=True)
    order = order[line[order].argsort(stable=True)]
    return line[order], j[order], far[order]


def _rows_of_few(counts: Int[Tensor, " n"]) -> Iterator[slice]:
    """Cut rows with so many pairs each into runs of at most PAIRS of them (but at least one row)."""
    start, pairs = 0, 0
    for stop, count in enumerate(counts.tolist()):
        if pairs and pairs + count > PAIRS:
            yield slice(start, stop)
            start, pairs = stop, 0
        pairs += count
    yield slice(start, len(counts))


@torch.no_grad()
def k_nearest(
    x: Float[Tensor, "n d"], k: int, *, between: Float[Tensor, "n_query n_gallery"] | None = None
) -> Neighbours:
    """Find the k nearest rows of each row, itself first, going once over one half of all pairs, tile by tile.

    Which rows they are, and in which order, is decided as in float64; equally near ones stand in the order of `x`.

    Args:
        x: (n, d) float32.
        k: number of neighbours with the row itself; at most n are returned.
        between: if given, it is filled with the squared distances of the first n_query rows to all others.

    Returns:
        `Neighbours(index (n, k), squared (n, k) distances, farthest (n,))`; distances up to rounding.

    Raises:
        ValueError: a row is not finite.

    >>> k_nearest(torch.tensor([[0.0], [3.0], [1.0]]), 2)
    Neighbours(index=tensor([[0, 2],
            [1, 2],
            [2, 0]]), squared=tensor([[0., 1.],
            [0., 4.],
            [0., 1.]]), farthest=tensor([9., 9., 4.]))
    """
    if not squared_norms(x).isfinite().all():
        raise ValueError("x holds NaN or infinity; neighbours need finite embeddings.")
    given, n, k = x, len(x), min(k, len(x))
    where, (length,) = frame(x, names=("x",))
    if where.centre is not None:
        blocks = row_blocks(n, 24 * x.shape[1])
        x = torch.cat([(x[rows].double() - where.centre).to(x.dtype) for rows in blocks])
    length = length / where.unit
    best = Neighbours(
        torch.zeros(n, min(k + SPARE, n), dtype=torch.long, device=x.device),
        x.new_full((n, min(k + SPARE, n)), torch.inf),
        x.new_zeros(n),
    )
    for rows, cols, tile in triangle_tiles(x, size=tile_size(x)):
        if rows == cols:
            tile.fill_diagonal_(-torch.inf)  # each row stays before its duplicates
        if between is not None and rows.start < len(between) < cols.stop:
            first = max(0, len(between) - cols.start)  # of the columns, the first one that is gallery
            part = tile[: len(between) - rows.start, first:].clamp(min=0)
            between[rows, cols.start + first - len(between) : cols.stop - len(between)] = part
        _keep_nearest(best, rows, cols, tile)
        if rows != cols:
            _keep_nearest(best, cols, rows, tile.T)
    # norms and products are sums of d and d + 2 terms; both distances of a comparison may be wrong by this much
    bound = (2 * x.shape[1] + 20) * torch.finfo(x.dtype).eps / 2 * (length + length.max()).square()
    return _settle_near_ties(best, given, k, (2 * bound).to(x.dtype) + torch.finfo(x.dtype).tiny)


def _settle_near_ties(found: Neighbours, x: Tensor, k: int, slack: Tensor) -> Neighbours:
    """Cut neighbours, sorted by rounded distances, to the first k, near-ties sorted by exact ones.

    The rounded ones are kept: they differ by less than their bound.
    """
    index, squared, last = found.index, found.squared, found.squared[:, k - 1 : k] + slack[:, None]
    torn = (squared[:, -1:] <= last)[:, 0].nonzero()[:, 0] if index.shape[1] < len(x) else []
    near = (squared.diff(dim=1) <= slack[:, None]) & (squared[:, 1:] <= last)
    tied = F.pad(near, (0, 1)) | F.pad(near, (1, 0))
    rows = tied.any(1).nonzero()[:, 0]
    if len(rows):
        tied, far = tied[rows], squared[rows].double()
        line, slot = nonzero(tied)
        far[line, slot] = squared_of_pairs(x, rows[line], x, index[rows][line, slot])
        far[:, 0] = -torch.inf  # itself
        ascending, order = index[rows].sort(dim=1)
        far, again = far.gather(1, order).sort(dim=1, stable=True)
        index[rows] = ascending.gather(1, again)
        squared[rows] = squared[rows].gather(1, order).gather(1, again)
    index, squared = index[:, :k], squared[:, :k].clamp(min=0)
    if len(torn):  # so many near-ties that some may have been lost
        everyone, far = nearest(x[torn], x, k)
        other = everyone != torn[:, None]
        other &= other.cumsum(1) < k  # of k others the last one gives way to the row itself
        line, slot = nonzero(other)
        index[torn, 0], squared[torn, 0] = torn, 0
        place = other.cumsum(1)[line, slot]
        index[torn[line], place], squared[torn[line], place] = everyone[line, slot], far[line, slot].to(x.dtype)
    return found._replace(index=index, squared=squared)


def _keep_nearest(best: Neighbours, rows: slice, cols: slice, tile: Tensor) -> None:
    """Merge a tile (rows x cols) into the nearest found so far; only entries below the present k-th can matter."""
    torch.maximum(best.farthest[rows], tile.amax(1), out=best.farthest[rows])
    squared, k = best.squared[rows], best.index.shape[1]
    if rows == cols and tile.shape[1] >= k:
        found = tile.topk(k, largest=False)
        best.squared[rows], best.index[rows] = found.values, found.indices + cols.start
        return
    line, at = nonzero(tile < squared[:, -1:])
    count = torch.bincount(line, minlength=len(tile))
    slot = torch.arange(len(line), device=line.device) - (count.cumsum(0) - count)[line]
    width = k + int(count.max())
    values, index = tile.new_full((len(tile), width), torch.inf), best.index.new_zeros(len(tile), width)
    values[:, :k], index[:, :k] = squared, best.index[rows]
    values[line, k + slot], index[line, k + slot] = tile[line, at], at + cols.start
    found = values.topk(k, largest=False)
    best.squared[rows], best.index[rows] = found.values, index.gather(1, found.indices)
