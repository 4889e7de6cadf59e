"""Where the images of a run come from: a city drawn on demand, or the reader's own copy of a real archive."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple

from reidkit import parameters, runs
from reidkit.data.images import Images, load
from reidkit.data.layouts import cuhk03, dukemtmc, market1501, msmt17, viper
from reidkit.data.records import Split, hold_out
from reidkit.models.backbones import imagenet_weights
from reidkit.parameters import choose
from reidkit.recipes.driver import Parameters, check_writable, device
from reidkit.world.cameras import Knobs
from reidkit.world.city import build_city

CITIES = {  # drawn: the city of `build_city`, and the reader of its layout
    "market": ("market", market1501),
    "duke": ("duke", market1501),
    "auxiliary": ("auxiliary", market1501),
    "street": ("street", market1501),
    "viper_city": ("viper", viper),
    "cuhk03_city": ("cuhk03", partial(cuhk03, protocol="classic")),
    "cuhk03_np_city": ("cuhk03", partial(cuhk03, protocol="new")),
}
ARCHIVES = {  # reader, and names of its folder: the first that is there is read
    "market1501": (market1501, ("market1501", "Market-1501-v15.09.15")),
    "dukemtmc": (dukemtmc, ("dukemtmc", "dukemtmc-reid", "DukeMTMC-reID")),
    "cuhk03": (partial(cuhk03, protocol="classic"), ("cuhk03", "cuhk03_release")),
    "cuhk03_np": (partial(cuhk03, protocol="new"), ("cuhk03_np", "cuhk03-np", "cuhk03_release", "cuhk03")),
    "viper": (viper, ("viper", "VIPeR")),
    "msmt17": (msmt17, ("msmt17", "MSMT17", "MSMT17_V2", "MSMT17_V1")),
    # every fifth training identity plays the test's part: to choose settings on
    "market1501_held_out": (lambda root: hold_out(market1501(root)), ("market1501", "Market-1501-v15.09.15")),
    # one of VIPeR's ten halves, or of CUHK03's twenty test sets
    **{f"viper_{s}": (partial(viper, split=s), ("viper", "VIPeR")) for s in range(10)},
    **{f"cuhk03_{s}": (partial(cuhk03, protocol="classic", split=s), ("cuhk03", "cuhk03_release")) for s in range(20)},
}


REFERENCE = runs.PACKAGE / "weights" / "reference.safetensors"  # made by tools/reference.py
REFERENCE_SHA256 = "e7bd1b4581c2291ddfccc39fa1e22e85c0abe0107db799745a230fd62eedfe62"  # so other weights are other code


class Data(NamedTuple):
    """A data set in memory: where it is on disk, and the decoded images of its three parts."""

    split: Split
    train: Images
    query: Images
    gallery: Images


def open_split(
    dataset: str,
    *,
    data_root: str | Path = "",
    preset: str = "tiny",
    city_seed: int = 0,
    knobs: str = "",
    progress: bool = True,
) -> Split:
    """Find a data set; a city that was never drawn is drawn first, and kept for the next time.

    Args:
        dataset: a city ("market", "duke", "auxiliary", "street"; "viper_city", "cuhk03_city", "cuhk03_np_city" with
            the layouts and protocols of those archives) or a real archive ("market1501", "dukemtmc", "cuhk03", by its
            classic protocol, "cuhk03_np", by the new one, "viper", "msmt17").
        data_root: the folder that holds all archives, and `cities`; by default `data` in the clone, or
            in the working directory where there is none.
        preset: size of the city: "quick", "tiny" or "world".
        city_seed: another seed draws other people, cameras and walks.
        knobs: what is harder or easier than in the default world, as in "light=2,occluders=0" (`world.cameras.Knobs`).
        progress: show a bar while a city is drawn.

    Raises:
        ValueError: an unknown data set or knob, an archive that is not there, or a city that cannot be written.
    """
    if dataset in CITIES:
        out = find_city(dataset, data_root=data_root, preset=preset, city_seed=city_seed, knobs=knobs)
        city, read = CITIES[dataset]
        plan = {"city": city, "preset": preset, "seed": city_seed, "knobs": _turned(knobs)}
        return read(build_city(out, **plan, device=device(), progress=progress))
    read = choose("dataset", dataset, CITIES | ARCHIVES)[0]
    return read(find_archive(dataset, data_root=data_root))


def find_archive(dataset: str, *, data_root: str | Path = "") -> Path:
    """The folder of an archive, or where it should be if it is not there; the arguments are those of `open_split`."""
    root, names = _root(data_root), ARCHIVES[dataset][1]
    return next((root / name for name in names if (root / name).is_dir()), root / names[-1])


def is_there(dataset: str, *, data_root: str | Path = "") -> bool:
    """Whether a data set can be opened: a city always, because it is drawn where it is missing.

    >>> is_there("market"), is_there("market1501", data_root="no/such/folder")
    (True, False)
    """
    return dataset in CITIES or find_archive(dataset, data_root=data_root).is_dir()


def datasets_of(params: parameters.Parameters) -> dict[str, str]:
    """The data sets that a run opens, by the names of the parameters that name them.

    >>> datasets_of(Parameters(dataset="duke"))
    {'dataset': 'duke'}
    """
    values = params.values()
    names = ["dataset", "source_dataset"] + ["other_dataset"] * (values.get("domains", "home") != "home")
    return {name: values[name].replace("{seed}", str(params.seed)) for name in names if values.get(name)}


def find_city(dataset: str, *, data_root: str | Path = "", preset: str, city_seed: int, knobs: str = "") -> Path:
    """The folder where a city is, or will be once it is rendered; the arguments are those of `open_split`.

    Raises:
        ValueError: an unknown knob, or the city is not there and nothing can be written there.
    """
    known = {field.name: field for field in dataclasses.fields(Knobs)}
    for knob in _turned(knobs):
        choose("knob", knob, known)
    name = f"{CITIES[dataset][0]}-{preset}-{city_seed}" + (f"-{knobs.replace(' ', '')}" if knobs else "")
    out = _root(data_root) / "cities" / name
    if not (out / "manifest.json").exists():
        check_writable(out.parent, f"the city {name} is not rendered yet; it")
    return out


def _root(data_root: str | Path) -> Path:
    """The folder that holds all archives; a relative path counts from the project's folder."""
    return runs.ROOT / Path(data_root or "data").expanduser()


def _turned(knobs: str) -> dict[str, float]:
    """The knobs in "light=2, occluders=0"."""
    try:
        pairs = (part.split("=") for part in knobs.split(",") if part.strip())
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"knobs are written as light=2,occluders=0, not {knobs!r}.") from None


def load_data(params: Parameters, *, progress: bool = True) -> Data:
    """Open the data set that `params` name and decode it at their height and width."""
    split = open_split(
        params.dataset,
        data_root=params.data_root,
        preset=params.city_preset,
        city_seed=params.city_seed,
        knobs=params.knobs,
        progress=progress,
    )
    size, how = (params.height, params.width), {"resize": params.resize, "progress": progress}
    return Data(split, *(load(part, size, **how) for part in (split.train, split.query, split.gallery)))


def find_weights(name: str, backbone: str = "") -> Path:
    """Where the weights `name` are: "reference" is the file that comes with the package, "imagenet" that of `backbone`
    (see `backbones.imagenet_weights`), and the relative path of a file counts from the project's folder.

    >>> find_weights("reference").name
    'reference.safetensors'
    """
    if name == "imagenet":
        return imagenet_weights(backbone)
    return REFERENCE if name == "reference" else runs.ROOT / Path(name).expanduser()
