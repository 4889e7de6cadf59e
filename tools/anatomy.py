"""Write down why each query of a drawn city could be hard: figures/results/queries.<preset>.<seed>.json.

    python tools/anatomy.py --seeds 0 1 2        # seconds; a city that was never drawn is drawn first

The recorded results hold the average precision of every valid query, in the order of the query files. Here each of
these queries gets the causes of its image and how it differs from its positives (images of the person in other
cameras). Every recorded result that was tested in the city is checked to be about the same queries.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reidkit import files, runs
from reidkit.recipes import sources

FACTORS = {  # what a row says of its query
    "view": "smallest turn to a positive, degrees 0..180",
    "occluder": "what stands in front: 0 nothing, 1 pole, 2 bush, 3 bicycle, 4 railing",
    "occluder_size": "0..1; 0 where nothing stands in front",
    "companion": "second person in the box: 0 nobody, 1 behind, 2 in front",
    "box_offset": "of the box from the person, share of his height",
    "box_scale": "height of the box against the person's",
    "exposure": "mean distance to the positives, powers of e",
    "camera_colour": "mean distance of the camera's tint to that of the positives, powers of e",
    "blur": "motion blur, pixels at height 128",
    "native": "pixels the sensor had over the person's height",
    "family": "people of the gallery in the same clothes but for small shifts",
    "clothes": "distance of the clothes' colours to the nearest other person of the gallery, 0..1",
    "positives": "images of the person in other cameras",
}
WORN = [f"{part}_colour_{channel}" for part in ("upper", "lower") for channel in "rgb"]


def read_table(path: Path) -> dict[str, np.ndarray]:
    """A table of causes by column; what is no number stays text."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {name: _typed(values) for name, values in table.items()}


def _typed(values: np.ndarray) -> np.ndarray:
    if set(values) <= {"True", "False"}:
        return values == "True"
    try:
        return values.astype(float)
    except ValueError:
        return values


def turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The angle between two directions, degrees 0..180.

    >>> turn(np.array([350.0]), np.array([10.0])).tolist()
    [20.0]
    """
    return np.abs((a - b + 180) % 360 - 180)


def describe(images: dict[str, np.ndarray], cameras: dict[str, np.ndarray], names: Sequence[str]) -> list[dict]:
    """The row of each query that has a positive, in the order of `names`.

    Args:
        images: the city's factors.csv.
        cameras: its cameras.csv.
        names: the query files.
    """
    place = {name: row for row, name in enumerate(images["file"])}
    tint = np.log(np.stack([cameras[f"tint_{channel}"] for channel in "rgb"], axis=1))
    gallery = np.flatnonzero([name.startswith("bounding_box_test/") for name in images["file"]])
    gallery = gallery[images["pid"][gallery] > 0]  # distractors and junk are nobody's positives
    near, family = look_alikes({name: column[gallery] for name, column in images.items()})
    rows = []
    for name in names:
        query = {factor: column[place[f"query/{name}"]] for factor, column in images.items()}
        mine = (images["pid"][gallery] == query["pid"]) & (images["camid"][gallery] != query["camid"])
        if not mine.any():
            continue  # it has nothing to find: no valid query
        theirs = {factor: column[gallery[mine]] for factor, column in images.items()}
        pid, occluder, camid = int(query["pid"]), int(query["occluder"]), int(query["camid"])
        shift = np.linalg.norm(tint[theirs["camid"].astype(int)] - tint[camid], axis=1)
        values = {
            "view": turn(theirs["yaw"], query["yaw"]).min(),
            "occluder": occluder,
            "occluder_size": query["occluder_size"] if occluder else 0,
            "companion": int(query["companion"]) * (2 if query["companion_depth"] < 0 else 1),
            "box_offset": np.hypot(query["box_x"], query["box_y"]),
            "box_scale": query["box_scale"],
            "exposure": np.abs(np.log(theirs["exposure"] / query["exposure"])).mean(),
            "camera_colour": shift.mean(),
            "blur": query["blur"],
            "native": query["native"],
            "family": family[pid],
            "clothes": near[pid],
            "positives": int(mine.sum()),
        }
        rows.append({"pid": pid, "camid": camid} | {factor: values[factor] for factor in FACTORS})
    return rows


def look_alikes(people: dict[str, np.ndarray]) -> tuple[dict[int, float], dict[int, int]]:
    """By pid: distance of the clothes' colours to the nearest other person, and how many others share the family."""
    pids, first = np.unique(people["pid"].astype(int), return_index=True)
    colours = np.stack([people[name][first] for name in WORN], axis=1) ** (1 / 2.2)  # as a picture stores them
    apart = np.sqrt(((colours[:, None] - colours) ** 2).mean(-1))
    np.fill_diagonal(apart, np.inf)
    family = people["family"][first]
    same = (family[:, None] == family).sum(1) - 1
    return dict(zip(pids, apart.min(1), strict=True)), dict(zip(pids, np.where(family < 0, 0, same), strict=True))


def check(rows: Sequence[dict], preset: str, seed: int, folder: str | Path = runs.RESULTS) -> int:
    """How many recorded results were tested with these queries.

    Raises:
        ValueError: a result of this city has other queries, or another order.
    """
    pids, checked = [row["pid"] for row in rows], 0
    for result in runs.load_results("0[23456]", preset, folder=folder):
        at_home = result.params.get("dataset") == "market" and result.params.get("domains", "home") != "there"
        default_world = not result.params.get("knobs") and result.params.get("city_preset") == preset
        if at_home and default_world and result.params.get("city_seed") == seed:
            if result.per_query["pid"] != pids:
                raise ValueError(
                    f"{result.name} was not tested with the queries of market-{preset}-{seed}; run it again."
                )
            checked += 1
    return checked


def write(preset: str, seed: int, folder: str | Path = runs.RESULTS) -> Path:
    """Describe the queries of one city and write the file."""
    split = sources.open_split("market", preset=preset, city_seed=seed)
    images, cameras = (read_table(split.root / f"{name}.csv") for name in ("factors", "cameras"))
    rows = describe(images, cameras, [record.path.name for record in split.query])
    checked = check(rows, preset, seed, folder)
    columns = {name: " ".join(f"{row[name]:.4g}" for row in rows) for name in rows[0]}
    train = {"images": len(split.train), "identities": len({record.pid for record in split.train})}
    path = Path(folder) / f"queries.{preset}.{seed}.json"
    files.write_json(path, {"city": f"market-{preset}-{seed}", "factors": FACTORS, "train": train, "rows": columns})
    print(f"{path.name}: {len(rows)} queries, {path.stat().st_size / 1e3:.0f} kB; {checked} results agree", flush=True)
    return path


def main() -> None:
    """Write the file of each city asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        write(arguments.preset, seed)


if __name__ == "__main__":
    main()
