"""Map the same people under each method: figures/results/atlas.<preset>.<seed>.json.

    OMP_NUM_THREADS=1 python tools/atlas.py      # repeats six recorded runs of one city, about 15 minutes on a CPU

Each run is repeated, its mAP has to equal the recorded one, and what is kept of its embeddings is small: t-SNE and UMAP
coordinates of all images of some people, and silhouettes. The file grows by one method at a time; a command that was
killed goes on with the next. A method that is already there, with the recorded mAP of today, is not run again.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from reidkit import files, plots, runs
from reidkit.embed import Embeddings
from reidkit.metrics.clustering import silhouette
from reidkit.studies import lectures, runner

METHODS = {
    name: run
    for name, run in lectures.METHODS.items()
    if name != "02 reference start"  # the baseline again, from other weights
}
PEOPLE = 12  # who are shown: those with the most images
TOLERANCE = 1e-4  # of mAP; on the machine that recorded it the difference is 0


def chosen(pids: torch.Tensor, people: int = PEOPLE) -> list[int]:
    """The identities with the most images, ties by number; junk and distractors are nobody.

    >>> chosen(torch.tensor([7, 7, 3, 3, 9, 0, 0, 0, -1]), 2)
    [3, 7]
    """
    values, counts = pids[pids > 0].unique(return_counts=True)
    order = sorted(zip((-counts).tolist(), values.tolist(), strict=True))
    return sorted(pid for _, pid in order[:people])


def joined(query: Embeddings, gallery: Embeddings) -> Embeddings:
    """All images of the test: the queries, then the gallery."""
    parts = (query.cpu(), gallery.cpu())
    return Embeddings(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "pids", "camids")))


def describe(tested: Embeddings, people: Iterable[int], *, seed: int) -> dict:
    """Coordinates and silhouettes of the images of `people`, and the mean silhouettes of everybody."""
    everybody = tested.pids > 0
    shown = torch.isin(tested.pids, torch.tensor(list(people)))
    labels = {"identity": tested.pids, "camera": tested.camids}
    maps = {way: plots.feature_map_2d(tested.x[shown], method=way, seed=seed) for way in ("tsne", "umap")}
    return {
        "maps": {way: [[round(float(v), 3) for v in point] for point in points] for way, points in maps.items()},
        "silhouettes": {
            name: [round(v, 4) for v in silhouette(tested.x[shown], values[shown]).tolist()]
            for name, values in labels.items()
        },
        "everybody": {
            name: round(silhouette(tested.x[everybody], values[everybody]).mean().item(), 4)
            for name, values in labels.items()
        },
    }


def repeat(notebook: str, variant: str, recorded: runs.Result, *, progress: bool = True) -> runs.Result:
    """Run a recorded result again.

    Raises:
        ValueError: it came out differently.
    """
    preset, seed = recorded.preset, recorded.seed
    result = runner.recipe(notebook).run(variant, preset=preset, seed=seed, city_seed=seed, progress=progress)
    again, before = result.metrics["mAP"], recorded.metrics["mAP"]
    if abs(again - before) > TOLERANCE:
        raise ValueError(f"{recorded.name} has mAP {before:.4f} on record and {again:.4f} now; run its study again.")
    return result


def add(path: Path, name: str, result: runs.Result) -> None:
    """Put one method into the atlas; the people and their images are those of the first."""
    tested = joined(result.objects["query"], result.objects["gallery"])
    atlas = files.read_json(path) if path.exists() else {"methods": {}}
    people = atlas.get("people") or chosen(tested.pids)
    shown = torch.isin(tested.pids, torch.tensor(people))
    images = {"people": people, "pids": tested.pids[shown].tolist(), "camids": tested.camids[shown].tolist()}
    if any(atlas.get(key, value) != value for key, value in images.items()):
        raise ValueError(f"{name} was tested with other images than the rest of {path.name}; remove that file.")
    facts = {"run": result.name, "mAP": round(result.metrics["mAP"], 6), "dimensions": tested.x.shape[1]}
    atlas["methods"][name] = facts | describe(tested, people, seed=result.seed)
    files.write_json(path, atlas | images | {"provenance": result.provenance})


def build(preset: str, seed: int, folder: str | Path = runs.RESULTS, *, progress: bool = True) -> list[str]:
    """Add what is missing; returns a line for each method."""
    path, lines = Path(folder) / f"atlas.{preset}.{seed}.json", []
    for name, (notebook, variant) in METHODS.items():
        found = [r for r in runs.load_results(notebook, preset, variant, folder=folder) if r.seed == seed]
        there = files.read_json(path)["methods"].get(name) if path.exists() else None
        if not found:
            lines.append(f"{name}: not recorded yet; reidkit study {notebook} --preset {preset} --variants {variant}")
        elif there and abs(there["mAP"] - found[0].metrics["mAP"]) <= TOLERANCE:
            lines.append(f"{name}: is there")
        else:
            add(path, name, repeat(notebook, variant, found[0], progress=progress))
            lines.append(f"{name}: added")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Make the atlas, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    build(arguments.preset, arguments.seed)


if __name__ == "__main__":
    main()
