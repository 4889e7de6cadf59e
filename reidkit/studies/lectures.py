"""Parameters of the notebooks without a recipe: 00 and 01, which lead up to the papers, and 07, which compares them."""

from dataclasses import dataclass

from reidkit.parameters import Parameters, parameter
from reidkit.recipes import driver


@dataclass(frozen=True, kw_only=True)
class Map(Parameters):
    """Of 00."""

    preset: str = parameter("quick", "this run: nothing is trained")
    seed: int = parameter(0, "of torch and numpy; no picture depends on it", low=0)
    city: str = parameter(
        "market", "whose cameras and clothes: market, duke, auxiliary", among=("market", "duke", "auxiliary")
    )
    city_preset: str = parameter(
        "tiny", "size of a picture: quick 64x32, tiny 128x64, world 256x128", among=("quick", "tiny", "world")
    )
    city_seed: int = parameter(0, "another seed is another city with other people", low=0)
    pid: int = parameter(60, "the person of the world explorer", low=1)


@dataclass(frozen=True, kw_only=True)
class Retrieval(Parameters):
    """Of 01."""

    preset: str = parameter("quick", "of notebook 02, whose baseline is trained here")
    seed: int = parameter(0, "of the training and of the resampling", low=0)
    dataset: str = parameter(
        "market", "rendered: market, duke, ...; your copy under data_root: market1501, msmt17, ..."
    )
    city_preset: str = parameter("quick", "size of a rendered city", among=("quick", "tiny", "world"))
    city_seed: int = parameter(0, "another seed draws other people and cameras", low=0)
    data_root: str = parameter("", "the folder that holds all archives; empty: data/")
    weights: str = parameter("", driver.WEIGHTS)
    epochs: int = parameter(4, "of the training", low=0)
    k1: int = parameter(20, "re-ranking: size of the neighbourhoods", low=1)
    k2: int = parameter(6, "re-ranking: rows that the local expansion averages", low=1)
    lam: float = parameter(0.3, "re-ranking: weight of the original distance, 0..1", low=0, high=1)
    n_boot: int = parameter(1000, "resamples behind each interval", low=1)
    accepted_fmr: float = parameter(0.05, "share of the strangers that a threshold may let in", low=0, high=1)
    drop: float = parameter(0.5, "bug museum: share of each embedding that forgotten dropout removes", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class Crossroads(Parameters):
    """Of 07."""

    preset: str = parameter("quick", "this run: nothing is trained")
    seed: int = parameter(0, "of the resampling, and the city of the atlas", low=0)
    recorded: str = parameter("tiny", "whose results are read: tiny, world, ...")
    cities: int = parameter(3, "results of seeds 0, 1, ... so many; each is a city of its own", low=1)
    n_boot: int = parameter(1000, "resamples behind each interval", low=1)


NUMBERED = {"00": Map, "01": Retrieval, "07": Crossroads}
METHODS = {  # what 07 and its maps compare: name -> notebook and variant
    "02 baseline": ("02", "default"),
    "02 reference start": ("02", "reference"),
    "03 softmax + Lin": ("03", "default"),
    "04 SLSR": ("04", "default"),
    "05 FSR + JD": ("05", "default"),
    "06 direct transfer": ("06", "pretrained"),
    "06 MAR": ("06", "default"),
}
