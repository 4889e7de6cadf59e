"""How near do drawn people look to real ones? Measure both without identities: figures/results/realism.json.

    python tools/realism.py --data-root FOLDER        # the folder that holds Market-1501; about two minutes of one core

Only training images of Market-1501 are looked at, and only as a crowd: brightness, colourfulness (largest minus
smallest of red, green and blue) and edges by region, the share of fine detail, how far the middle stands out from the
border, a Fréchet distance between descriptions (colour, spread and edges on a grid of 4 x 8), and how often a linear
classifier on them tells drawn from real in images it has not seen (0.5 is a guess). "real, other half" is what two
halves of the real images give.
"""

import argparse

import numpy as np
import torch

from reference import STREET
from reidkit import code, files, runs
from reidkit.data.images import load
from reidkit.recipes import sources
from reidkit.world.archives import FIRST_DISTRACTOR
from reidkit.world.city import Knobs, Plan, draw_rows, network, roster

SIZE, CITIES = (128, 64), ("market", "duke", "auxiliary", "street")
REGIONS = {  # rows and columns where a person who fills the box has his head, trunk and legs
    "head": np.s_[4:22, 24:40],
    "trunk": np.s_[30:60, 22:42],
    "legs": np.s_[72:120, 20:44],
    "border": np.s_[:, np.r_[0:8, 56:64]],
}


def drawn(city: str, count: int) -> np.ndarray:
    """(count, 128, 64, 3) images of a tiny city of seed 0 (the street as the teacher has it), before they are JPEG."""
    plan = Plan(city, "tiny", 0, Knobs(**sources._turned(STREET if city == "street" else "")))
    rows = [row for row in roster(plan) if row.key < FIRST_DISTRACTOR and not row.by_hand]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:count]]
    cameras = network(plan)
    parts = [draw_rows(plan, rows[i : i + 32], cameras)[0] for i in range(0, len(rows), 32)]
    return torch.cat(parts).permute(0, 2, 3, 1).numpy()


def _brightness(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def statistics(images: np.ndarray) -> dict[str, float]:
    """Means and percentiles over a crowd of images (n, 128, 64, 3), in units of full brightness."""
    light, colour = _brightness(images), np.ptp(images, axis=3).astype(np.float32) / 255
    across, down = np.abs(np.diff(light, axis=2)), np.abs(np.diff(light, axis=1))
    found = {}
    for name, (rows, columns) in REGIONS.items():
        here = light[:, rows, columns]
        for percent in (5, 50, 95):
            found[f"{name}: brightness, percentile {percent}"] = np.percentile(here, percent)
        found[f"{name}: brightness, spread of images"] = here.mean((1, 2)).std()
        found[f"{name}: colourfulness"] = colour[:, rows, columns].mean()
    found["spread of brightness in an image"] = light.std((1, 2)).mean()
    for name, edges in (("across", across), ("down", down)):
        found[f"edges {name}"] = edges.mean()
        found[f"edges {name}, border"] = edges[:, :, np.r_[0:8, -8:0]].mean()
    power = np.abs(np.fft.rfft2(light - light.mean((1, 2), keepdims=True))) ** 2
    frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1]))
    found["share of power above 1/8 per pixel"] = (power[:, frequency > 1 / 8].sum(1) / power.sum((1, 2))).mean()
    edge = images[:, :, np.r_[0:2, 62:64]].mean(2, keepdims=True)
    found["middle against border"] = np.abs(images[:, :, 24:40] - edge).mean() / 255
    return {name: round(float(value), 4) for name, value in found.items()}


def describe(images: np.ndarray) -> np.ndarray:
    """(n, 192): mean red, green and blue, spread of brightness, edges across and down in each cell of 16 x 16."""
    light = _brightness(images)[..., None]
    edges = [np.abs(np.diff(light, axis=axis, append=np.take(light, [-1], axis))) for axis in (1, 2)]

    def cells(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), SIZE[0] // 16, 16, SIZE[1] // 16, 16, -1)

    means = cells(np.concatenate([images / np.float32(255), *edges], 3)).mean((2, 4))
    return np.concatenate([means, cells(light).std((2, 4))], 3).reshape(len(images), -1)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two normal clouds in units of the second's spread, axis by axis."""
    first, second = first / second.std(0), second / second.std(0)
    one, two = np.cov(first.T), np.cov(second.T)
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * common)


def told_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Share of held-out images (every other one) that a linear classifier, fitted by ridge regression, puts right."""
    x = np.concatenate([first, second])
    x = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(len(x))])
    y = np.repeat([-1.0, 1.0], [len(first), len(second)])
    seen, unseen = x[::2], x[1::2]
    weights = np.linalg.solve(seen.T @ seen + np.eye(x.shape[1]), seen.T @ y[::2])
    right = np.sign(unseen @ weights) == y[1::2]
    return float(np.mean([right[y[1::2] == side].mean() for side in (-1, 1)]))


def main() -> None:
    """Measure the cities and the real training images, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="the folder that holds Market-1501")
    parser.add_argument("--images", type=int, default=1000, help="of each crowd")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = sources.open_split("market1501", data_root=arguments.data_root).train
    chosen = np.random.default_rng(0).permutation(len(records))[: 2 * arguments.images]
    pixels = load([records[i] for i in chosen], SIZE).pixels.permute(0, 2, 3, 1).numpy()
    real, other = pixels[: arguments.images], pixels[arguments.images :]
    crowds = {"real": real, "real, other half": other} | {city: drawn(city, arguments.images) for city in CITIES}
    described = {name: describe(crowd) for name, crowd in crowds.items()}
    rows = {}
    for name, crowd in crowds.items():
        rows[name] = statistics(crowd)
        if name != "real":
            rows[name]["Frechet distance"] = round(frechet(described[name], described["real"]), 1)
            rows[name]["told from real"] = round(told_apart(described[name], described["real"]), 3)
    for what in rows[CITIES[0]]:
        print(f"{what:42}" + "".join(f"{row.get(what, 0):10.3f}" for row in rows.values()))
    made = {"images": arguments.images, "provenance": runs.provenance(code.digest("reidkit.world.city"))}
    files.write_json(runs.RESULTS / "realism.json", made | {"crowds": rows})


if __name__ == "__main__":
    main()
