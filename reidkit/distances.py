"""Pairwise distances as matrices, and the nearest neighbours of many rows without one."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from reidkit.blocks import nonzero, product, row_blocks, same_precision, tile_size


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


@torch.no_grad()
def k_nearest(
    x: Float[Tensor, "n d"], k: int, *, between: Float[Tensor, "n_query n_gallery"] | None = None
) -> Neighbours:
    """Find the k nearest rows of each row, itself first, going once over one half of all pairs, tile by tile.

    Args:
        x: (n, d) float32.
        k: number of neighbours with the row itself; at most n are returned.
        between: if given, it is filled with the squared distances of the first n_query rows to all others.

    Returns:
        `Neighbours(index (n, k), squared (n, k) distances, farthest (n,))`.

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
    n, k = len(x), min(k, len(x))
    best = Neighbours(
        torch.zeros(n, k, dtype=torch.long, device=x.device), x.new_full((n, k), torch.inf), x.new_zeros(n)
    )
    for rows, cols, tile in triangle_tiles(x, size=tile_size(x)):
        if rows == cols:
            tile.fill_diagonal_(-1)  # each row stays before its duplicates
        if between is not None and rows.start < len(between) < cols.stop:
            first = max(0, len(between) - cols.start)  # of the columns, the first one that is gallery
            part = tile[: len(between) - rows.start, first:].clamp(min=0)
            between[rows, cols.start + first - len(between) : cols.stop - len(between)] = part
        _keep_nearest(best, rows, cols, tile)
        if rows != cols:
            _keep_nearest(best, cols, rows, tile.T)
    return best._replace(squared=best.squared.clamp(min=0))


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
