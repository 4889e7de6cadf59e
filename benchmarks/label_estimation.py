"""Pseudo-labels for the unlabelled images of the one-shot task, at the size of Market-1501.

    python benchmarks/label_estimation.py [--quick] [--only nearest] [--device cuda]

The floor of the nearest label is the product of all unlabelled with all labelled images, that of the joint distance one
half of the products among the unlabelled ones. "As released" candidates are written here, from what the released code
does.
"""

from functools import partial

import harness
import numpy as np
import torch
from harness import Candidate

from reidkit.blocks import row_blocks, tile_size
from reidkit.pseudo_labels import joint_labels, nearest_labels

MARKET = 12_185, 751  # unlabelled and labelled images
SIZES = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000]


def draw(options: harness.Options, n_u: int, n_l: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows around one centre for each labelled image; about half of the nearest labels are right."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_l, d, generator=generator)
    pids = torch.arange(n_u) % n_l
    spread = d**0.25 * 0.47
    found = []
    for rows in (torch.arange(n_l), pids[torch.randperm(n_u, generator=generator)]):
        x = centres[rows].add_(torch.randn(len(rows), d, generator=generator), alpha=spread)
        found.append(torch.nn.functional.normalize(x).to(options.device))
    return found[1], found[0]


def nearest(options: harness.Options, n_u: int, n_l: int, d: int, *, peers: bool = True) -> harness.Row:
    """The nearest labelled image of each unlabelled one."""
    n_u = n_u // 20 if options.quick else n_u
    x, y = draw(options, n_u, n_l, d)
    x_np, y_np, pids = x.cpu().numpy(), y.cpu().numpy(), torch.arange(n_l, device=x.device)
    buffer = x.new_empty(n_u, n_l)
    candidates = {
        "reidkit": lambda: tuple(nearest_labels(x, y, pids)),
        "floor: torch product": lambda: discard(torch.mm(x, y.T, out=buffer)),
    }
    if options.device == "cpu":
        candidates["floor: NumPy product"] = lambda: discard(np.matmul(x_np, y_np.T, out=buffer.numpy()))
    if peers:
        sklearn, faiss = harness.peer("sklearn.metrics", "pairwise_distances_argmin"), harness.peer("faiss")
        candidates["scikit-learn"] = sklearn and (lambda: (sklearn(x_np, y_np),))
        candidates["faiss"] = faiss and (lambda: (by_faiss(faiss, x_np, y_np),))
        candidates["as released, ours"] = Candidate(partial(by_image, x_np, y_np), rounds=1)
    return harness.Row(
        f"Nearest label: {n_u:,} x {n_l}, d {d}",
        candidates,
        bars={"as released, ours": 40, "floor": 1.5} if peers else {},
        check=same_labels,
        reported={"released loop": "17.1 s", "feasible": "0.31 s, 1.3x its floor"} if peers else {},
    )


def joint(options: harness.Options, n_u: int, n_l: int, d: int, *, peers: bool = True) -> harness.Row:
    """The joint distance with groups of three, and the labels it gives."""
    n_u = n_u // 20 if options.quick else n_u
    x, y = draw(options, n_u, n_l, d)
    pids = torch.arange(n_l, device=x.device)
    candidates = {
        "reidkit": lambda: tuple(joint_labels(x, y, pids)),
        "floor: half of U x U": partial(half_of_the_products, x),
    }
    if peers:
        candidates["as released, ours"] = Candidate(partial(by_full_sort, x.cpu().numpy(), y.cpu().numpy()), rounds=1)
    return harness.Row(
        f"Joint distance, K 3: {n_u:,} x {n_l}, d {d}",
        candidates,
        bars={"as released, ours": 10, "floor": 2, "MB": 512} if peers else {},
        check=partial(same_labels, ties=1e-3),
        reported={"feasible": "2.95 s, +430 MB, 1.5x its floor"} if peers else {},
    )


def half_of_the_products(x: torch.Tensor) -> None:
    """Inner products of all pairs, each pair once, tile by tile into one buffer."""
    blocks = list(row_blocks(len(x), 1, budget=tile_size(x)))
    buffer = x.new_empty(blocks[0].stop ** 2)
    for i, rows in enumerate(blocks):
        for cols in blocks[i:]:
            left, right = x[rows], x[cols]
            tile = buffer[: len(left) * len(right)].view(len(left), len(right))
            if x.device.type == "cpu":
                np.matmul(left.numpy(), right.numpy().T, out=tile.numpy())
            else:
                torch.mm(left, right.T, out=tile)


def by_image(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image by image: differences to all labelled images, their norms, the smallest."""
    pids, confidence = np.empty(len(x), np.int64), np.empty(len(x))
    for i, row in enumerate(x):
        dist = np.linalg.norm(y - row, axis=1)
        pids[i] = dist.argmin()
        confidence[i] = -dist[pids[i]]
    return pids, confidence


def by_faiss(faiss, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact search of the nearest one."""
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(y.shape[1])
    index.add(y)
    return index.search(x, 1)[1][:, 0]


def by_full_sort(x: np.ndarray, y: np.ndarray, k: int = 3, mu: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """All distances, each row of them sorted, and the groups of one image after another looked up in the matrices."""
    to_y, from_y, among = squared(x, y), squared(y, x), squared(x, x)
    near_y = np.argsort(from_y, axis=1)[:, : k - 1]
    near_x = np.argsort(among, axis=1)
    groups = np.empty_like(to_y)
    for i in range(len(x)):
        members = near_x[i, :k]
        groups[i] = from_y[:, members].sum(1)
        for member in members:
            groups[i] += among[near_y, member].sum(1)
    groups /= k * k
    to_y, groups = ((dist - dist.min()) / (dist.max() - dist.min()) for dist in (to_y, groups))
    dist = mu * to_y + (1 - mu) * groups
    return dist.argmin(1), -dist.min(1)


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The whole matrix of squared distances, by torch as there."""
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return norms.addmm_(x, y.T, alpha=-2).numpy()


def same_labels(ours: tuple, theirs: tuple, *, ties: float = 0.0) -> str:
    """Labels and, if there are any, confidences to 1e-5; but for a share of images with a tie at float32."""
    pairs = list(zip((np.asarray(a.cpu()) for a in ours), theirs, strict=False))
    different = np.any([np.abs(a - b) > 1e-5 for a, b in pairs], axis=0).sum()
    if different > ties * len(theirs[0]):
        raise ValueError(f"for {different} of {len(theirs[0])} images")
    exact = " to the last bit" * all(np.array_equal(a, b) for a, b in pairs)
    but = f", but for {different} ties" * bool(different)
    return " and ".join(["labels", "confidence"][: len(pairs)]) + f" equal{exact}{but}"


def discard(_: object) -> None:
    """Floors have no result."""


def curve(options: harness.Options, make, title: str, d: int) -> harness.Curve:
    """Either of them with more and more unlabelled images."""
    sizes = SIZES[:3] if options.quick else SIZES
    return harness.Curve(
        f"{title}: 751 labelled images, d {d}",
        "unlabelled images",
        {n: partial(make, options, n, 751, d, peers=False) for n in sizes},
    )


ROWS = {
    "nearest": lambda options: nearest(options, *MARKET, 2048),
    "joint": lambda options: joint(options, *MARKET, 2048),
    "growth_nearest": partial(curve, make=nearest, title="Nearest label", d=2048),
    "growth_joint": partial(curve, make=joint, title="Joint distance, K 3", d=512),
}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
