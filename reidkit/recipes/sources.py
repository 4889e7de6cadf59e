"""Where the images of a run come from: a city drawn on demand, or the reader's own copy of a real archive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from reidkit import runs
from reidkit.data.images import Images, load
from reidkit.data.layouts import market1501
from reidkit.data.records import Split
from reidkit.world.city import build_city

CITIES = ("market", "duke", "auxiliary")
ARCHIVES = {"market1501": (market1501, ("market1501", "Market-1501-v15.09.15"))}  # reader, and names of its folder


class Data(NamedTuple):
    """A data set in memory: where it is on disk, and the decoded images of its three parts."""

    split: Split
    train: Images
    query: Images
    gallery: Images


def open_split(
    dataset: str, *, data_root: str | Path = "", preset: str = "tiny", city_seed: int = 0, progress: bool = True
) -> Split:
    """Find a data set; a city that was never drawn is drawn first, and kept for the next time.

    Args:
        dataset: a city ("market", "duke", "auxiliary") or a real archive ("market1501").
        data_root: the folder that holds all archives, and `cities`; by default `data` beside the package.
        preset: size of the city: "quick", "tiny" or "world".
        city_seed: another seed draws other people, cameras and walks.
        progress: show a bar while a city is drawn.

    Raises:
        ValueError: an unknown data set, or an archive that is not there.
    """
    root = runs.ROOT / Path(data_root or "data").expanduser()  # a relative path counts from the project's folder
    if dataset in CITIES:
        folder = root / "cities" / f"{dataset}-{preset}-{city_seed}"
        return market1501(build_city(folder, city=dataset, preset=preset, seed=city_seed, progress=progress))
    read, names = runs.choose("dataset", dataset, dict.fromkeys(CITIES) | ARCHIVES)
    return read(next((root / name for name in names if (root / name).is_dir()), root / names[-1]))


def load_data(params: Mapping[str, Any], *, progress: bool = True) -> Data:
    """Open the data set that `params` name and decode it at their height and width."""
    split = open_split(
        params["dataset"],
        data_root=params["data_root"],
        preset=params["city_preset"],
        city_seed=params["city_seed"],
        progress=progress,
    )
    size = (params["height"], params["width"])
    return Data(split, *(load(part, size, progress=progress) for part in (split.train, split.query, split.gallery)))
