"""Clusters: silhouette and k-means of Market-1501's training set.

    python benchmarks/clusters.py [--quick] [--device cuda]

12,936 images of 751 identities. The floor of the silhouette is one half of the product of all images with all. k-means
of the library is scikit-learn's with a k-means++ start, which takes most of the time and finds better clusters; the
others start from random rows.
"""

from functools import partial

import crowd
import harness
import numpy as np
import torch
from harness import Candidate
from reranking import half_product
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples

from reidkit.metrics.clustering import Clusters, kmeans, silhouette

TRAIN = crowd.Archive("training set", 751, 6, 8, 12_936, 12_936, 0.47)
STEPS = 25  # faiss' own number of Lloyd steps


def draw(options: harness.Options, d: int, scale: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and identities of the training set."""
    people = crowd.draw(TRAIN, d, scale=0.05 if options.quick else scale)
    return people.gallery, people.gallery_pids


def silhouettes(options: harness.Options) -> harness.Row:
    """A row: the library, the products, scikit-learn."""
    x, pids = draw(options, 2048)
    on_device, labels = (torch.from_numpy(a).to(options.device) for a in (x, pids))
    return harness.Row(
        f"Silhouette: {len(x):,} x 2,048, {pids.max()} identities",
        {
            "reidkit": lambda: silhouette(on_device, labels),
            "floor: half of the product": partial(half_product, on_device),
            "scikit-learn": lambda: silhouette_samples(x, pids),
        },
        bars={"scikit-learn": 2},
        check=harness.close(1e-4),
    )


def lloyd(options: harness.Options) -> harness.Row:
    """A row: the library, scikit-learn with a random start, faiss, and Lloyd's steps in torch."""
    x, pids = draw(options, 2048)
    k, faiss = int(pids.max()), harness.peer("faiss")
    return harness.Row(
        f"k-means: {len(x):,} x 2,048, k {k}",
        {
            "reidkit": Candidate(lambda: inertia(x, kmeans(x, k, seed=0)), rounds=1),
            "scikit-learn, random start": lambda: inertia(x, by_sklearn(x, k)),
            f"faiss ({STEPS} steps)": faiss and (lambda: inertia(x, by_faiss(faiss, x, k))),
            f"torch ({STEPS} steps), ours": Candidate(lambda: inertia(x, by_torch(torch.from_numpy(x), k)), rounds=1),
        },
        check=same_quality,
    )


def inertia(x: np.ndarray, clusters: Clusters) -> float:
    """Mean squared distance of a row to the centre of its cluster."""
    return float(np.square(x - clusters.centres.numpy()[clusters.labels.numpy()]).sum(1).mean())


def same_quality(ours: float, theirs: float) -> str:
    """Nobody finds the best clusters; they may be a twentieth worse or better."""
    if abs(theirs / ours - 1) > 0.05:
        raise ValueError(f"mean squared distance {theirs:.3f}, ours {ours:.3f}")
    return f"mean squared distance {theirs / ours - 1:+.1%}"


def by_sklearn(x: np.ndarray, k: int) -> Clusters:
    """scikit-learn from k random rows."""
    found = KMeans(k, init="random", n_init=1, random_state=0).fit(x)
    return Clusters(torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_))


def by_faiss(faiss, x: np.ndarray, k: int) -> Clusters:
    """faiss' k-means."""
    found = faiss.Kmeans(x.shape[1], k, niter=STEPS, seed=1, min_points_per_centroid=1)
    found.train(x)
    labels = found.index.search(x, 1)[1].ravel()
    return Clusters(torch.from_numpy(labels), torch.from_numpy(found.centroids))


def by_torch(x: torch.Tensor, k: int) -> Clusters:
    """Lloyd's steps as one writes them; an empty cluster keeps its centre."""
    centres = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:k]].clone()
    for _ in range(STEPS):
        labels = torch.cdist(x, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        count = torch.bincount(labels, minlength=k)[:, None]
        centres = torch.where(count > 0, sums / count, centres)
    return Clusters(labels, centres)


def size_curve(options: harness.Options) -> harness.Curve:
    """Silhouette of ever larger parts."""
    sizes = [300, 600] if options.quick else [1_000, 2_000, 5_000, 10_000, 20_000]

    def row(n: int) -> harness.Row:
        people = crowd.draw(TRAIN, 512, scale=n / TRAIN.n_gallery)
        x, labels = torch.from_numpy(people.gallery).to(options.device), torch.from_numpy(people.gallery_pids)
        ways = {"reidkit": lambda: silhouette(x, labels), "floor: half of the product": partial(half_product, x)}
        return harness.Row(f"{n:,} images", ways)

    return harness.Curve("Silhouette, d 512", "images", {n: partial(row, n) for n in sizes})


ROWS = {"silhouette": silhouettes, "kmeans": lloyd, "growth": size_curve}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
