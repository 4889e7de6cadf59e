"""Clusters of embeddings and how well separated they are."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from reidkit.distances import Array, embedding_rows, row_blocks, squared_norms


class Clusters(NamedTuple):
    """What `kmeans` found: a cluster number for each row, and the mean of each cluster."""

    labels: Int[Tensor, " n"]
    centres: Float[Tensor, "k d"]


def kmeans(x: Float[Array, "n d"], k: int, *, seed: int) -> Clusters:
    """Cut rows into `k` clusters by Lloyd's algorithm, started once by k-means++ (scikit-learn).

    Args:
        x: (n, d) embeddings; Euclidean distance is used as they are.
        k: number of clusters, 1 to the number of distinct rows.
        seed: of the start; the same seed gives the same clusters.

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
            found = KMeans(k, n_init=1, random_state=seed).fit(rows)
        except ConvergenceWarning:
            raise ValueError(f"x has fewer distinct rows than k = {k}; ask for fewer clusters.") from None
    return Clusters(torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_))


@torch.no_grad()
def silhouette(x: Float[Array, "n d"], labels: Int[Array, " n"]) -> Float[Tensor, " n"]:
    r"""How much nearer each row is to its own cluster than to the next one.

    $$ s_i = \frac{b_i - a_i}{\max(a_i, b_i)} \tag{silhouette} $$

    a is the mean Euclidean distance to the others of the row's own cluster, b the smallest mean distance to another
    cluster. A block of distances at a time; on whatever device `x` is.

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
    labels = torch.as_tensor(labels, device=x.device)
    if labels.shape != (len(x),):
        raise ValueError(f"labels must be of shape ({len(x)},), one for each row of x, not {tuple(labels.shape)}.")
    _, cluster, sizes = labels.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"a silhouette needs at least 2 clusters, but labels holds {len(sizes)}.")
    order = cluster.argsort(stable=True)  # members of a cluster side by side
    x = x[order].sub_(x.mean(0))  # small numbers keep their digits
    cluster, norms = cluster[order], squared_norms(x)

    scores = torch.empty_like(x[:, 0])
    for rows in row_blocks(len(x), x.element_size() * len(x)):
        total = _sum_by_cluster(_exact_distances(x, norms, rows), sizes)
        own = cluster[rows, None]
        a = total.gather(1, own)[:, 0] / (sizes[own[:, 0]] - 1).clamp(min=1)
        b = (total / sizes).scatter(1, own, torch.inf).amin(1)
        score = (b - a) / torch.maximum(a, b).clamp(min=torch.finfo(x.dtype).tiny)  # [silhouette]
        scores[order[rows]] = score.masked_fill(sizes[own[:, 0]] == 1, 0)
    return scores


def _exact_distances(x: Tensor, norms: Tensor, rows: slice) -> Tensor:
    """Distances of `x[rows]` to all of `x`; the few that lose digits in |x|² + |y|² - 2xy are made from differences."""
    with torch.autocast(x.device.type, enabled=False):
        squared = torch.addmm(norms, x[rows], x.T, alpha=-2).add_(norms[rows, None])
    near = squared < 1e-3 * norms[rows, None]
    i, j = near.nonzero(as_tuple=True)
    for part in row_blocks(len(i), 3 * x.element_size() * x.shape[1]):
        squared[i[part], j[part]] = (x[rows][i[part]] - x[j[part]]).square().sum(1)
    return squared.clamp_(min=0).sqrt_()


def _sum_by_cluster(dist: Tensor, sizes: Tensor) -> Tensor:
    """Sum the columns of each cluster, which lie side by side: (b, n) -> (b, k)."""
    if dist.device.type != "cpu":
        return _sum_by_cluster_indexed(dist, sizes)
    starts = (sizes.cumsum(0) - sizes).numpy()
    return torch.from_numpy(np.add.reduceat(dist.numpy(), starts, axis=1))


def _sum_by_cluster_indexed(dist: Tensor, sizes: Tensor) -> Tensor:
    """The same where NumPy cannot go."""
    cluster = torch.arange(len(sizes), device=dist.device).repeat_interleave(sizes)
    return dist.new_zeros(len(dist), len(sizes)).index_add_(1, cluster, dist)
