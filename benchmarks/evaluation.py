"""CMC, mAP and mINP from embeddings, at the sizes of the archives.

    python benchmarks/evaluation.py [--quick] [--only market]

The floor is the product of all queries with all gallery images, a block at a time into one buffer. Peers that need
minutes or the whole matrix of distances get the first queries only.
"""

from functools import partial

import crowd
import harness
import numpy as np
import torch
from harness import Candidate

from reidkit.metrics.retrieval import BLOCK_BYTES, BLOCK_ROWS, evaluate

SCALE = 0.02  # of the counts with --quick


def retrieval(
    options: harness.Options,
    archive: crowd.Archive,
    d: int,
    *,
    bars: dict[str, float],
    loop: int,
    sort: int,
    reported: dict[str, str],
) -> harness.Row:
    """A row: the library, the product with NumPy and with torch, and the peers on their first `loop`, ... queries."""
    people = crowd.draw(archive, d, scale=SCALE if options.quick else 1)
    n_query, n_gallery = len(people.query), len(people.gallery)
    on_device = [torch.from_numpy(a).to(options.device) for a in people]
    distance = harness.peer("torchreid", file="reid/metrics/distance.py")
    rank = harness.peer("torchreid", file="reid/metrics/rank.py")

    def part(run, n: int, **kwargs) -> Candidate:
        n = min(n, n_query)
        return Candidate(partial(run, people.first(n)), share=n / n_query, **kwargs)

    return harness.Row(
        f"{archive.name}: {n_query:,} x {n_gallery:,}, d {d}",
        {
            "reidkit": lambda: evaluate(*on_device),
            **floors(*on_device[:2], people),
            "argsort of every row, ours": part(whole_sort, sort, rounds=1),
            "torchreid (Python)": rank and part(partial(by_torchreid, distance, rank), loop, rounds=1),
        },
        bars=bars,
        check=same_ranking,
        reported=reported,
    )


def floors(query: torch.Tensor, gallery: torch.Tensor, people: crowd.Crowd) -> dict[str, partial]:
    """The product by torch; on the CPU by NumPy too."""
    found = {"floor: torch product": partial(products, torch.mm, query, gallery.T, query.new_empty)}
    if query.device.type == "cpu":
        empty = partial(np.empty, dtype=np.float32)
        found["floor: NumPy product"] = partial(products, np.matmul, people.query, people.gallery.T, empty)
    return found


def products(multiply, query, gallery_t, empty) -> None:
    """All scores, a block of queries at a time, written over each other."""
    n_gallery = gallery_t.shape[1]
    buffer = empty((max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * n_gallery))), n_gallery))
    for start in range(0, len(query), len(buffer)):
        block = query[start : start + len(buffer)]
        multiply(block, gallery_t, out=buffer[: len(block)])


def whole_sort(people: crowd.Crowd) -> tuple[int, float, float]:
    """What the peers' compiled code does at least: the matrix of distances, every row sorted, then the hits."""
    q, g, query_pids, query_camids, gallery_pids, gallery_camids = people
    dist = (q * q).sum(1)[:, None] + (g * g).sum(1) - 2 * (q @ g.T)
    aps, firsts = [], []
    for row, pid, camid in zip(dist, query_pids, query_camids, strict=True):
        order = row.argsort()
        right = gallery_pids[order] == pid
        hits = right[~(right & (gallery_camids[order] == camid))].nonzero()[0]
        if len(hits):
            aps.append(((np.arange(len(hits)) + 1) / (hits + 1)).mean())
            firsts.append(hits[0] == 0)
    return len(q), float(np.mean(aps)), float(np.mean(firsts))


def by_torchreid(distance, rank, people: crowd.Crowd) -> tuple[int, float, float]:
    """torchreid's distances and its evaluation; the package on PyPI has the Python form only."""
    query, gallery = torch.from_numpy(people.query), torch.from_numpy(people.gallery)
    dist = distance.compute_distance_matrix(query, gallery).numpy()
    labels = people.query_pids, people.gallery_pids, people.query_camids, people.gallery_camids
    cmc, mean_ap = rank.evaluate_rank(dist, *labels)
    return len(query), float(mean_ap), float(cmc[0])


def same_ranking(ours, theirs: tuple[int, float, float]) -> str:
    """mAP and rank-1 over the queries the peer was given."""
    n, mean_ap, rank1 = theirs
    valid = int(ours.valid[:n].sum())
    expected = (ours.ap[:valid].mean().item(), mean_ap), *([(ours.rank1, rank1)] if n == len(ours.valid) else [])
    said = harness.close(1e-5, "mAP equal")(*(tuple(pair) for pair in zip(*expected, strict=True)))
    return f"{said} ({mean_ap:.4f})"


def gallery_curve(options: harness.Options) -> harness.Curve:
    """1,000 queries and a gallery that grows by distractors."""
    sizes = [2_000, 4_000] if options.quick else [10_000, 20_000, 50_000, 100_000, 200_000, 500_000]
    people = crowd.draw(crowd.MARKET_500K, 128, scale=0.1 if options.quick else 1)

    def row(n_gallery: int) -> harness.Row:
        part = people.first(1_000, n_gallery)
        on_device = [torch.from_numpy(a).to(options.device) for a in part]
        return harness.Row(
            f"1,000 queries, gallery {n_gallery:,}, d 128",
            {"reidkit": lambda: evaluate(*on_device), **floors(*on_device[:2], part)},
        )

    return harness.Curve("Evaluation: 1,000 queries, d 128", "gallery images", {n: partial(row, n) for n in sizes})


ROWS = {
    "market_512": partial(
        retrieval, archive=crowd.MARKET, d=512, loop=300, sort=3_368, bars={"floor": 1.35, "MB": 64},
        reported={"fast-reid (Cython)": "2.0–3.6 s, +777 MB", "torchreid (Cython)": "2.9–4.7 s, +1.35 GB"},
    ),
    "market_2048": partial(
        retrieval, archive=crowd.MARKET, d=2048, loop=300, sort=3_368, bars={"floor": 1.35},
        reported={"fast-reid (Cython)": "3.2–6.7 s", "torchreid (Cython)": "4.1–6.2 s"},
    ),
    "msmt17_512": partial(
        retrieval, archive=crowd.MSMT17, d=512, loop=100, sort=1_000, bars={"floor": 1.35, "MB": 160},
        reported={"fast-reid (Cython)": "39–58 s, +11.0 GB"},
    ),
    "market500k_128": partial(
        retrieval, archive=crowd.MARKET_500K, d=128, loop=30, sort=100, bars={"floor": 1.6, "MB": 300},
        reported={"fast-reid (Cython)": "64 s, scaled from 300 queries; in full over 20 GB"},
    ),
    "growth": gallery_curve,
}  # fmt: skip

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
