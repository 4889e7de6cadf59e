r"""k-reciprocal re-ranking: Z. Zhong, L. Zheng, D. Cao, S. Li, "Re-ranking person re-identification with k-reciprocal
encoding", CVPR 2017, arXiv:1701.08398.

Two images that have each other among their nearest neighbours are likely one person. Each image is described by its
such neighbours, softly; descriptions that overlap make a small Jaccard distance, which is mixed with the original one.

Notation      all images = queries, then gallery, n of them; $N(i, k)$ the k nearest of i and i itself;
              $d_{ij}$ squared Euclidean distance divided by i's largest one.
Memory        there is no n x n matrix: neighbours come from tiles of it, all the rest is sparse.
Each step has a name; notebooks/01_retrieval.ipynb goes through them. Source of all: the paper and its released code.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from reidkit.blocks import row_blocks
from reidkit.distances import Neighbours, first_equal, frame, k_nearest, squared_of_pairs
from reidkit.inputs import Array, embedding_rows, same_width


@torch.no_grad()
def k_reciprocal_rerank(
    query: Float[Array, "n_query d"],
    gallery: Float[Array, "n_gallery d"],
    *,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
) -> Float[Tensor, "n_query n_gallery"]:
    r"""Distances of queries to gallery, corrected by what their k-reciprocal neighbours have in common.

    $$ d^*_{qg} = (1 - \lambda)\, d^J_{qg} + \lambda\, d_{qg} \tag{rerank} $$

    Images without identity (pid -1) had better be left out of `gallery`: they would take part as neighbours. Who is
    whose neighbour is decided as in float64, wherever the embeddings lie; equal images get equal distances.

    Args:
        query: (n_query, d) embeddings, tensor or NumPy array; usually unit rows.
        gallery: (n_gallery, d) embeddings.
        k1: size of the neighbourhoods, at least 1.
        k2: size of the local query expansion, at least 1; 1 turns it off.
        lam: weight of the original distance, 0 to 1.

    Returns:
        (n_query, n_gallery) float32 in [0, 1] up to rounding, smaller is nearer, on the device of `gallery`.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or a parameter is out of range.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> k_reciprocal_rerank(x[:1], x[1:], k1=1, k2=1).round(decimals=2)
    tensor([[0.0000, 0.9900, 1.0000]])
    """
    query, gallery = embedding_rows(query, "query").float(), embedding_rows(gallery, "gallery").float()
    same_width(query, gallery, ("query", "gallery"))
    if k1 < 1 or k2 < 1 or not 0 <= lam <= 1:
        raise ValueError(f"k1 and k2 must be at least 1 and lam from 0 to 1, not k1={k1}, k2={k2}, lam={lam}.")
    n_query = len(query)
    x = torch.cat([query.to(gallery.device), gallery])
    if not x.isfinite().all():
        raise ValueError("query or gallery holds NaN or infinity; re-ranking needs finite embeddings.")
    where, _ = frame(x, names=("x",))
    if where.unit != 1:  # so long or so short that squares leave the range of float32; only ratios matter
        x.mul_(where.unit)
    first = first_equal(x)
    twins = torch.bincount(first, minlength=len(x))[first] > 1
    dist = x.new_empty(n_query, len(gallery))

    neighbours = k_nearest(x, max(k1 + 1, k2), between=dist)
    index = neighbours.index.cpu().numpy()
    small = reciprocal_sets(index, round(k1 / 2))
    sets = expand_sets(reciprocal_sets(index, k1), small)
    if twins.any():  # the same sums, in the same order, for equal images
        neighbours = neighbours._replace(farthest=neighbours.farthest[first])
        dist = dist[:, first_equal(x[n_query:])]
        mine, first = twins.cpu().numpy(), first.cpu().numpy()
        near = np.sort(index[mine, :k2], axis=1)
        index[mine, :k2] = np.take_along_axis(near, first[near].argsort(axis=1, kind="stable"), axis=1)
    weights = average_neighbours(soft_sets(sets, x, neighbours, twins), index, k2)
    columns = weights[n_query:].tocsc()
    weights = weights[:n_query]

    dist.mul_(lam / _positive(neighbours.farthest[:n_query, None]))
    for rows, part in jaccard_blocks(weights, columns):
        dist[rows].add_(torch.from_numpy(part).to(dist.device), alpha=1 - lam)  # [rerank]
    return dist


def reciprocal_sets(index: Int[np.ndarray, "n k"], k: int) -> sparse.csr_array:
    r"""For each image those of its k nearest that have it among their own k nearest; itself is one of them.

    $$ R(i, k) = \{ j \in N(i, k) : i \in N(j, k) \} \tag{reciprocal} $$

    Args:
        index: (n, more than k) neighbours, nearest first, from `k_nearest`.
        k: size of the neighbourhood, not counting the image itself.

    Returns:
        (n, n) sparse, int32: 1 where column j belongs to row i's set. Symmetric.

    >>> reciprocal_sets(np.array([[0, 1], [1, 2], [2, 1]]), 1).toarray()
    array([[1, 0, 0],
           [0, 1, 1],
           [0, 1, 1]], dtype=int32)
    """
    near = _rows_of_ones(index[:, : k + 1])
    return near.multiply(near.T).tocsr()  # [reciprocal]


def expand_sets(sets: sparse.csr_array, small: sparse.csr_array) -> sparse.csr_array:
    r"""Add to each set the small sets of its members, where more than two thirds of such a small set are in it already.

    $$ R^*(i) = R(i, k_1) \cup \bigcup \big\{ R(c, \tfrac{k_1}{2}) : c \in R(i, k_1),\
       |R(i, k_1) \cap R(c, \tfrac{k_1}{2})| > \tfrac23 |R(c, \tfrac{k_1}{2})| \big\} \tag{expand} $$

    Args:
        sets: (n, n) R(i, k1), from `reciprocal_sets`.
        small: (n, n) R(c, k1 / 2).

    Returns:
        (n, n) sparse, int32.

    >>> sets, small = np.eye(4, dtype=np.int32), np.eye(4, dtype=np.int32)
    >>> sets[0, :3], small[1] = 1, 1    # three of the four members of small set 1 are in set 0
    >>> expand_sets(sparse.csr_array(sets), sparse.csr_array(small)).toarray()[0]
    array([1, 1, 1, 1], dtype=int32)
    """
    shared = (sets @ small.T).multiply(sets).tocoo()
    sizes = small.sum(axis=1)
    passes = 3 * shared.data > 2 * sizes[shared.col]  # [expand]
    joined = sparse.csr_array((shared.data[passes] > 0, (shared.row[passes], shared.col[passes])), shape=sets.shape)
    union = (sets + joined.astype(np.int32) @ small).tocsr()
    union.data[:] = 1
    union.sort_indices()
    return union


def soft_sets(
    sets: sparse.csr_array, x: Float[Tensor, "n d"], neighbours: Neighbours, twins: Bool[Tensor, " n"] | None = None
) -> sparse.csr_array:
    r"""Give each member of a set a weight that falls with its distance; the weights of a set sum to 1.

    $$ V_{ij} = \frac{e^{-d_{ij}}}{\sum_{l \in R^*(i)} e^{-d_{il}}}, \quad j \in R^*(i) \tag{soften} $$

    Args:
        sets: (n, n) R*, from `expand_sets`.
        x: (n, d) embeddings.
        neighbours: from `k_nearest`, whose distances are used where they are known.
        twins: images that have an equal one; their distances are made anew, the same for both.

    Returns:
        (n, n) sparse, float32, rows sum to 1.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> soft_sets(sparse.csr_array(np.ones((2, 2), np.int32)), x, k_nearest(x, 1)).toarray().round(3)
    array([[0.731, 0.269],
           [0.269, 0.731]], dtype=float32)
    """
    row, col = sets.nonzero()
    squared = _distances_of_pairs(row, col, x, neighbours)
    if twins is not None and twins.any():
        again = twins.cpu().numpy()
        again = (again[row] | again[col]).nonzero()[0]
        i, j = (torch.from_numpy(np.int64(a[again])).to(x.device) for a in (row, col))
        squared[again] = squared_of_pairs(x, i, x, j).cpu().numpy()
    weight = np.exp(-squared / _positive(neighbours.farthest).cpu().numpy()[row])
    weight /= np.bincount(row, weight, minlength=len(x))[row]  # [soften]
    return sparse.csr_array((weight.astype(np.float32), sets.indices, sets.indptr), shape=sets.shape)


def average_neighbours(weights: sparse.csr_array, index: Int[np.ndarray, "n k"], k2: int) -> sparse.csr_array:
    r"""Local query expansion: replace each row by the mean of the rows of its k2 nearest, itself included.

    $$ V_i \leftarrow \frac{1}{k_2} \sum_{j \in N(i, k_2 - 1)} V_j \tag{expansion} $$

    Args:
        weights: (n, n) V, from `soft_sets`.
        index: (n, at least k2) neighbours, nearest first, from `k_nearest`.
        k2: number of rows to average; 1 changes nothing.

    Returns:
        (n, n) sparse, float32, rows sum to 1.

    >>> V = sparse.csr_array(np.float32([[1, 0], [0, 1]]))
    >>> average_neighbours(V, np.array([[0, 1], [1, 0]]), 2).toarray()
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    near = _rows_of_ones(index[:, :k2]).astype(np.float32)
    near.data /= min(k2, index.shape[1])
    return (near @ weights).tocsr()  # [expansion]


def jaccard_blocks(
    weights: sparse.csr_array, columns: sparse.csc_array, *, budget: int = 2**25
) -> Iterator[tuple[slice, Float[np.ndarray, "b n_gallery"]]]:
    r"""Jaccard distance of the soft sets of queries and gallery, a block of queries at a time.

    $$ d^J_{qg} = 1 - \frac{s}{2 - s}, \quad s = \sum_j \min(V_{qj}, V_{gj}) \tag{jaccard} $$

    Only a shared member can contribute to s, so each member of a query's set looks up, in its column, the gallery
    images that have it too.

    Args:
        weights: (n_query, n) rows of V.
        columns: (n_gallery, n) rows of V, stored by column.
        budget: bytes that the work on one block may need.

    Yields:
        Rows of the block, and its (b, n_gallery) float32 distances.

    >>> V = sparse.csr_array(np.float32([[0.5, 0.5, 0], [0, 0.5, 0.5]]))
    >>> next(jaccard_blocks(V[:1], V.tocsc()))[1].round(3)
    array([[0.   , 0.667]], dtype=float32)
    """
    n_gallery = columns.shape[0]
    fans = np.diff(columns.indptr)[weights.indices]  # per member: the gallery images that have it too
    work = np.add.reduceat(np.append(fans, 0), weights.indptr[:-1]).max()
    for rows in row_blocks(weights.shape[0], int(8 * n_gallery + 40 * work), budget=budget):
        part = slice(weights.indptr[rows.start], weights.indptr[rows.stop])
        member, fan = weights.indices[part], fans[part]
        line = np.repeat(np.arange(rows.stop - rows.start), np.diff(weights.indptr[rows.start : rows.stop + 1]))
        at = np.arange(fan.sum()) + np.repeat(columns.indptr[member] - (fan.cumsum() - fan), fan)
        least = np.minimum(np.repeat(weights.data[part], fan), columns.data[at])
        cell = np.repeat(line * n_gallery, fan) + columns.indices[at]
        overlap = np.bincount(cell, least, minlength=(rows.stop - rows.start) * n_gallery).reshape(-1, n_gallery)
        yield rows, (1 - overlap / (2 - overlap)).astype(np.float32)  # [jaccard]


def _distances_of_pairs(row: np.ndarray, col: np.ndarray, x: Tensor, neighbours: Neighbours) -> np.ndarray:
    """Squared distances of pairs: looked up among the neighbours, or computed if they are none."""
    n, k = neighbours.index.shape
    known = (np.arange(n)[:, None] * n + neighbours.index.cpu().numpy()).ravel()
    order = known.argsort()
    wanted = row.astype(np.int64) * n + col
    place = order[known[order].searchsorted(wanted).clip(max=n * k - 1)]
    squared = neighbours.squared.cpu().numpy().ravel()[place]
    missing = (known[place] != wanted).nonzero()[0]
    for part in row_blocks(len(missing), 3 * x.element_size() * x.shape[1]):
        i, j = (torch.from_numpy(np.int64(a[missing[part]])).to(x.device) for a in (row, col))
        squared[missing[part]] = (x[i] - x[j]).square_().sum(1).cpu().numpy()
    return squared


def _rows_of_ones(index: np.ndarray) -> sparse.csr_array:
    """Sparse (n, n) matrix with ones at the columns named in each row of `index`."""
    n, k = index.shape
    return sparse.csr_array((np.ones(n * k, np.int32), index.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _positive(x: Tensor) -> Tensor:
    """Protect a divisor: where all embeddings are equal even the farthest is at distance 0."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)
