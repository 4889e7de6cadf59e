"""Clusters of embeddings and how well separated they are."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from reidkit.blocks import nonzero, row_blocks, tile_size
from reidkit.distances import squared_norms, triangle_tiles
from reidkit.inputs import Array, embedding_rows
from reidkit.inputs import labels as checked_labels


class Clusters(NamedTuple):
    """What `kmeans` found: a cluster number for each row, and the mean of each cluster."""

    labels: Int[Tensor, " n"]
    centres: Float[Tensor, "k d"]


def kmeans(x: Float[Array, "n d"], k: int, *, seed: int, n_init: int = 1) -> Clusters:
    """Cut rows into `k` clusters by Lloyd's algorithm, started by k-means++ (scikit-learn).

    Args:
        x: (n, d) embeddings; Euclidean distance is used as they are.
        k: number of clusters, 1 to the number of distinct rows.
        seed: of the start; the same seed gives the same clusters.
        n_init: how many starts; the one with the tightest clusters counts.

    Returns:
        `Clusters(labels (n,) in 0..k-1, centres (k, d))`, on the CPU.

    Raises:
        ValueError: `k` is out of range, or there are fewer distinct rows than `k`.

    >>> clusters = kmeans(torch.tensor([[0.0], [0.5], [5.0]]), 2, seed=0)
    >>> clusters.centres[clusters.labels].flatten()    # the centre of each row's cluster
    tensor([0.2500, 0.2500, 5.0000])
    """
    rows = embedding_rows(x, "x").cpu().numpy()
    if not 1 <= k <= len(rows):
        raise ValueError(f"k must be from 1 to the number of rows, {len(rows)}, not {k}.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # scikit-learn's way to say that clusters coincide
        try:
            found = KMeans(k, n_init=n_init, random_state=seed).fit(rows)
        except ConvergenceWarning:
            raise ValueError(f"x has fewer distinct rows than k = {k}; ask for fewer clusters.") from None
    return Clusters(torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_))


class Angles(NamedTuple):
    """Degrees: of each row to the mean direction of its label, and of each mean direction to the nearest other one."""

    within: Float[Tensor, " n"]
    between: Float[Tensor, " k"]


@torch.no_grad()
def angular_spread(x: Float[Array, "n d"], labels: Int[Array, " n"]) -> Angles:
    r"""How compact groups of directions are, and how far apart.

    $$ \mu_k \propto \sum_{y_i = k} \frac{x_i}{\|x_i\|}, \qquad \alpha_i = \angle(x_i, \mu_{y_i}), \qquad
       \beta_k = \min_{l \ne k} \angle(\mu_k, \mu_l) \tag{angles} $$

    Args:
        x: (n, d) embeddings of any length.
        labels: (n,) integers, of two or more groups.

    Returns:
        `Angles(within (n,), between (k,))` in degrees, 0 to 180, on the CPU.

    Raises:
        ValueError: `labels` does not fit `x`, or all labels are the same.

    >>> angular_spread(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0, 1]))
    Angles(within=tensor([0., 0., 0.]), between=tensor([90., 90.]))
    """
    x = embedding_rows(x, "x").cpu().double()
    labels = torch.from_numpy(checked_labels(labels, "labels", len(x)))
    values, group = labels.unique(return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"labels holds {len(values)} group; angles need two groups.")
    unit = torch.nn.functional.normalize(x)
    mean = torch.nn.functional.normalize(unit.new_zeros(len(values), x.shape[1]).index_add(0, group, unit))

    def degrees(cosine: Tensor) -> Tensor:
        return cosine.clamp(-1, 1).acos().rad2deg().float()

    others = (mean @ mean.T).fill_diagonal_(-1)
    return Angles(degrees((unit * mean[group]).sum(1)), degrees(others.amax(1)))  # [angles]


@torch.no_grad()
def silhouette(x: Float[Array, "n d"], labels: Int[Array, " n"]) -> Float[Tensor, " n"]:
    r"""How much nearer each row is to its own cluster than to the next one.

    $$ s_i = \frac{b_i - a_i}{\max(a_i, b_i)} \tag{silhouette} $$

    a is the mean Euclidean distance to the others of the row's own cluster, b the smallest mean distance to another
    cluster. Distances are made tile by tile, each once; on whatever device `x` is.

    Args:
        x: (n, d) embeddings.
        labels: (n,) cluster (or identity) of each row, any integers, at least two different ones.

    Returns:
        (n,) in [-1, 1]; 0 for a row alone in its cluster.

    Raises:
        ValueError: there are fewer than two clusters, or `labels` does not fit `x`.

    Source: P. Rousseeuw, Silhouettes, 1987; equal to `sklearn.metrics.silhouette_samples`.

    >>> silhouette(torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([4, 4, 9]))
    tensor([0.9000, 0.8889, 0.0000])
    """
    x = embedding_rows(x, "x")
    labels = torch.from_numpy(checked_labels(labels, "labels", len(x))).to(x.device)
    _, cluster, sizes = labels.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"a silhouette needs at least 2 clusters, but labels holds {len(sizes)}.")
    order = cluster.argsort(stable=True)  # members of a cluster side by side
    mean_own, mean_next = _mean_distances(x[order].sub_(x.mean(0)), cluster[order], sizes)
    wider = torch.maximum(mean_own, mean_next).clamp(min=torch.finfo(x.dtype).tiny)
    score = ((mean_next - mean_own) / wider).masked_fill(sizes[cluster[order]] == 1, 0)  # [silhouette]
    return torch.empty_like(score).index_copy_(0, order, score)


def _mean_distances(x: Tensor, cluster: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of each row to the others of its cluster, and to the nearest other cluster; rows sorted by cluster.

    Each pair is computed once, in a tile of the upper triangle. A cluster inside one tile is done with that tile; sums
    are kept only for the few clusters that a border of a tile cuts.
    """
    n, step = len(x), tile_size(x)
    norms = squared_norms(x)
    cut = cluster[step::step][cluster[step::step] == cluster[step - 1 : -1 : step]].unique()
    own, nearest, table = x.new_zeros(n), x.new_full((n,), torch.inf), x.new_zeros(n, len(cut))
    for rows, cols, tile in triangle_tiles(x, size=step):
        _finish(tile, x, norms, rows, cols)
        for here, there, dist in [(rows, cols, tile), (cols, rows, tile.T)][: 1 if rows == cols else 2]:
            pieces, counts = cluster[there].unique_consecutive(return_counts=True)
            total, mine, whole = _sum_pieces(dist, counts), cluster[here, None] == pieces, counts == sizes[pieces]
            own[here] += (total * mine).sum(1)
            mean = (total / counts).masked_fill_(mine | ~whole, torch.inf)
            nearest[here] = torch.minimum(nearest[here], mean.amin(1))
            table[here, torch.searchsorted(cut, pieces[~whole])] += total[:, ~whole]
    mean = (table / sizes[cut]).masked_fill_(cluster[:, None] == cut, torch.inf)
    nearest = torch.cat([nearest[:, None], mean], dim=1).amin(1)
    return own / (sizes[cluster] - 1).clamp(min=1), nearest


def _finish(tile: Tensor, x: Tensor, norms: Tensor, rows: slice, cols: slice) -> None:
    """Make distances of a tile of squared ones; the few that lost digits in it are made anew from differences."""
    i, j = nonzero(tile < 1e-3 * norms[rows, None])
    for part in row_blocks(len(i), 3 * x.element_size() * x.shape[1]):
        tile[i[part], j[part]] = (x[rows][i[part]] - x[cols][j[part]]).square_().sum(1)
    tile.clamp_(min=0).sqrt_()


def _sum_pieces(dist: Tensor, counts: Tensor) -> Tensor:
    """Sum the columns of each piece, which lie side by side: (b, n) -> (b, pieces)."""
    if dist.device.type != "cpu":
        return _sum_pieces_indexed(dist, counts)
    return torch.from_numpy(np.add.reduceat(dist.numpy(), (counts.cumsum(0) - counts).numpy(), axis=1))


def _sum_pieces_indexed(dist: Tensor, counts: Tensor) -> Tensor:
    """The same where NumPy cannot go."""
    piece = torch.arange(len(counts), device=dist.device).repeat_interleave(counts)
    return dist.new_zeros(len(dist), len(counts)).index_add_(1, piece, dist)
