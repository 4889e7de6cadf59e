"""What each paper claims and prints, and how its variants are grouped: one file a paper, data and no code.

A file has three parts: `groups` of variants that are run together, `effects` that recorded runs can bear out or not,
and `printed`, the paper's numbers by table, in percent as printed.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PRINTED = ("mAP", "rank1")  # what the numbers of a row of `table_of_variants` are
FOLDER = Path(__file__).resolve().parent
ARCHIVES = {"market1501": "market", "dukemtmc": "duke", "cuhk03": "cuhk03", "viper": "viper"}  # in printed rows


class Effect(NamedTuple):
    """A sentence about two variants that recorded runs can bear out or not.

    Attributes:
        claim: a few words, as in "a BN neck helps".
        variant, against: keys of a recipe's `VARIANTS`.
        source: who says so; empty where it is only our question.
        measure: the metric that the claim is about.
        direction: 1 where the claim is that `variant` has more of it, -1 where it has less.
        printed: the difference that the paper prints, in points of the measure; None where it prints none, or where it
            is the difference of two rows of `table_of_variants`.
        control: a variant that lacks what the claim is about and has all else that `variant` has; empty where there is
            none. If it has half of the effect or more, and `variant` is not seen to be ahead of it, the cause is
            another.
        untestable: why no run of ours can decide it; empty where one can.
    """

    claim: str
    variant: str
    against: str
    source: str = ""
    measure: str = "mAP"
    direction: int = 1
    printed: float | None = None
    control: str = ""
    untestable: str = ""


def effects(number: str) -> list[Effect]:
    """The effects of a notebook's recipe; none where it has no file.

    >>> effects("03")[0].claim
    'Lin helps softmax'
    """
    return [Effect(**row) for row in _read(number).get("effects", ())]


def points_in_print(number: str, effect: Effect, *, city: str = "market") -> float | None:
    """The difference that the paper prints for an effect, in points of its measure; None where it prints none.

    >>> round(points_in_print("03", effects("03")[0]), 1)
    2.8
    """
    if effect.printed is not None or effect.measure not in PRINTED:
        return effect.printed
    rows = printed(number).get("table_of_variants", {})
    ours, theirs = (rows.get(name, {}).get(city) for name in (effect.variant, effect.against))
    place = PRINTED.index(effect.measure)
    return ours[place] - theirs[place] if ours and theirs else None


def groups(number: str, variants: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Groups of variants by name; in a file `temperature_*` stands for all variants that begin so.

    >>> groups("03", ["default", "radius_0_2", "radius_1_2"])["radius"]
    ('radius_0_2', 'radius_1_2')
    """
    variants, found = list(variants), {}
    for name, patterns in _read(number).get("groups", {}).items():
        rows = [fnmatch.filter(variants, pattern) if "*" in pattern else [pattern] for pattern in patterns]
        found[name] = tuple(dict.fromkeys(variant for row in rows for variant in row))
    return found


def printed(number: str) -> dict[str, dict[str, Any]]:
    """What a paper prints, by table and row: `table_of_variants` holds the rows that are variants of its recipe.

    >>> printed("03")["table_of_variants"]["default"]["market"]
    [88.9, 94.9]
    """
    return _read(number).get("printed", {})


def beside(number: str, variant: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a paper prints for a run: of the same variant, and on an archive of the same network and archive too.

    Args:
        number: two digits.
        variant: a key of the recipe's `VARIANTS`.
        params: of the run.

    Returns:
        For a run on drawn people, which no paper has, the whole row as `printed` holds it. On an archive `table`,
        `printed` (percent) and `measures`, what each number is called in our results, with its convention of AP and its
        protocol ("-" is not recorded); nothing where the paper has no such run.

    >>> beside("04", "default", {"dataset": "market1501", "backbone": "densenet121"})["printed"]
    [79.08, 92.43, 97.27, 98.39]
    """
    tables = printed(number)
    row, usual = tables.get("table_of_variants", {}).get(variant, {}), tables.get("our_runs", {})
    tested = params.get("other_dataset" if params.get("domains") == "there" else "dataset", "")
    city, network = ARCHIVES.get(re.sub(r"_(\d+|\{seed\})$", "", tested)), params.get("backbone")
    if not row or city is None:
        return row
    numbers = (row if row.get("backbone", usual["backbone"]) == network else row.get(network, {})).get(city)
    if numbers is None:
        return {}
    measures = row.get("measures") or usual[city]
    return {"table": row["table"], "printed": numbers, "measures": measures[: len(numbers)]}


def _read(number: str) -> dict[str, Any]:
    path = FOLDER / f"{number[:2]}.yml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}
