"""Embeddings of made-up people in lists as long as those of the archives, which the benchmarks rank.

Counts are those of the archives: identities, cameras, queries, images of the gallery; what the archives call
distractors (pid 0) fills the gallery up. Each image lies around the centre of its identity, some images much farther
than others. The spread is set so that mAP is about 0.6 at any number of dimensions.
"""

from typing import NamedTuple

import numpy as np


class Archive(NamedTuple):
    """Numbers of a test set."""

    name: str
    identities: int
    cameras: int
    n_query: int
    n_right: int
    n_gallery: int
    spread: float  # of an image around its identity, times the fourth root of the dimension


MARKET = Archive("Market-1501", 750, 6, 3_368, 13_115, 19_732, 0.47)
MARKET_500K = Archive("Market-1501 + 500k", 750, 6, 3_368, 13_115, 519_732, 0.37)
MSMT17 = Archive("MSMT17", 3_060, 15, 11_659, 82_161, 82_161, 0.455)


class Crowd(NamedTuple):
    """Unit rows, float32, and their labels, int64; in the order in which `evaluate` takes them."""

    query: np.ndarray
    gallery: np.ndarray
    query_pids: np.ndarray
    query_camids: np.ndarray
    gallery_pids: np.ndarray
    gallery_camids: np.ndarray

    def first(self, n_query: int, n_gallery: int | None = None) -> "Crowd":
        """The first queries, and all or the first images of the gallery."""
        q, g = slice(n_query), slice(n_gallery)
        return Crowd(*(a[rows] for a, rows in zip(self, (q, g, q, q, g, g), strict=True)))


def draw(archive: Archive, d: int, *, scale: float = 1.0, seed: int = 0) -> Crowd:
    """Draw queries and gallery of an archive; `scale` shrinks all its counts but the cameras."""
    rng = np.random.default_rng(seed)
    identities, n_query, right, n_gallery = (max(8, round(scale * n)) for n in archive[1:2] + archive[3:6])
    centres = rng.standard_normal((identities, d), dtype=np.float32)
    sides = []
    for n, n_right in ((n_query, n_query), (n_gallery, right)):
        pids = np.zeros(n, np.int64)
        pids[:n_right] = 1 + rng.permutation(n_right) % identities
        pids = rng.permutation(pids)
        spread = archive.spread * d**0.25 * np.exp(0.3 * rng.standard_normal(n, dtype=np.float32))
        rows = rng.standard_normal((n, d), dtype=np.float32)
        rows *= spread[:, None]
        rows[pids > 0] += centres[pids[pids > 0] - 1]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sides.append((rows, pids, rng.integers(archive.cameras, size=n)))
    (query, query_pids, query_camids), (gallery, gallery_pids, gallery_camids) = sides
    return Crowd(query, gallery, query_pids, query_camids, gallery_pids, gallery_camids)
