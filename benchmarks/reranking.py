"""k-reciprocal re-ranking, k1 20, k2 6, λ 0.3, from embeddings to distances.

    python benchmarks/reranking.py [--quick] [--large] [--only half]

The floor is the product of all images with all, one half of it. The peer keeps several matrices of all images by all:
12 GB for Market-1501. So it is measured on half of Market, which takes a quarter of it, and in full with --large.
"""

from functools import partial

import crowd
import harness
import numpy as np
import torch
from harness import Candidate

from reidkit.blocks import TILE
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.metrics.retrieval import evaluate_distances

PEER = "torchreid (dense)"


def rerank(
    options: harness.Options,
    archive: crowd.Archive,
    d: int,
    *,
    scale: float = 1,
    dense: bool = False,
    rounds: int = harness.ROUNDS,
    bars: dict[str, float],
    reported: dict[str, str] | None = None,
) -> harness.Row:
    """A row: the library, the products, and the peer if `dense`."""
    people = crowd.draw(archive, d, scale=0.02 * scale if options.quick else scale)
    query, gallery = (torch.from_numpy(a).to(options.device) for a in people[:2])
    dense = dense or options.large or options.quick
    peer = harness.peer("torchreid", file="reid/utils/rerank.py") if dense else None
    rows = {
        "reidkit": Candidate(lambda: k_reciprocal_rerank(query, gallery), rounds),
        "floor: half of the product": Candidate(partial(half_product, torch.cat([query, gallery])), rounds),
    }
    if dense:
        rows[PEER] = peer and Candidate(partial(by_torchreid, peer, people.query, people.gallery), 1)
    return harness.Row(
        f"{archive.name}{f' x {scale:g}' if scale < 1 else ''}: {len(query):,} x {len(gallery):,}, d {d}",
        rows,
        bars={what: bar for what, bar in bars.items() if dense or what != PEER},
        check=partial(same_quality, people[2:]),
        reported=reported or {},
    )


def half_product(x: torch.Tensor) -> None:
    """Tiles on and above the diagonal, by NumPy on the CPU and by torch elsewhere, into one buffer."""
    size = TILE[x.device.type]
    x, multiply = (x.numpy(), np.matmul) if x.device.type == "cpu" else (x, torch.mm)
    buffer = np.empty(size * size, np.float32) if isinstance(x, np.ndarray) else x.new_empty(size * size)
    blocks = [x[start : start + size] for start in range(0, len(x), size)]
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            multiply(rows, columns.T, out=buffer[: len(rows) * len(columns)].reshape(len(rows), len(columns)))


def by_torchreid(peer, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """torchreid's function, which squares the Euclidean distances it is given."""
    distances = (
        np.sqrt(np.maximum(2 - 2 * (a @ b.T), 0)) for a, b in ((query, gallery), (query, query), (gallery, gallery))
    )
    return peer.re_ranking(*distances)


def same_quality(labels, ours: torch.Tensor, theirs: np.ndarray) -> str:
    """mAP of both, and how far the distances are apart."""
    ours = ours.cpu().numpy()
    ours_map, theirs_map = (evaluate_distances(dist, *labels).mAP for dist in (ours, theirs))
    said = harness.close(1e-5, "mAP equal")(ours_map, theirs_map)
    return f"{said} ({theirs_map:.5f}); distances to {np.abs(ours - theirs).max():.0e}"


def size_curve(options: harness.Options) -> harness.Curve:
    """Market-1501 from a twentieth to twice its size."""
    scales = [0.01, 0.02] if options.quick else [0.05, 0.1, 0.2, 0.5, 1, 2]
    options = options._replace(quick=False, large=False)  # the scales say it all

    def row(scale: float) -> harness.Row:
        rounds = harness.ROUNDS if scale < 0.5 else 1
        return rerank(
            options._replace(quick=False, large=False), crowd.MARKET, 512, scale=scale, rounds=rounds, bars={}
        )

    n = crowd.MARKET.n_query + crowd.MARKET.n_gallery
    return harness.Curve("Re-ranking, d 512", "images", {round(s * n): partial(row, s) for s in scales})


DENSE = {"torchreid": "72–77 s, +12.0 GB", "zhunzhong07": "192 s, +8.2 GB", "layumi": "78 s, +12.0 GB"}
ROWS = {
    "half_512": partial(rerank, archive=crowd.MARKET, d=512, scale=0.5, dense=True, bars={PEER: 12}),
    "half_2048": partial(rerank, archive=crowd.MARKET, d=2048, scale=0.5, dense=True, bars={PEER: 7}),
    "market_512": partial(rerank, archive=crowd.MARKET, d=512, bars={PEER: 12, "MB": 640}, reported=DENSE),
    "market_2048": partial(
        rerank, archive=crowd.MARKET, d=2048, bars={PEER: 7}, reported={"torchreid": "86 s, +12 GB"}
    ),
    "msmt17_512": partial(rerank, archive=crowd.MSMT17, d=512, rounds=1, bars={"MB": 8_000}),
    "growth": size_curve,
}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
