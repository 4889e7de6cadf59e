"""What each paper claims and prints, and how its variants are grouped: one file a paper, data and no code.

A file has three parts: `groups` of variants that are run together, `effects` that recorded runs can bear out or not,
and `printed`, the paper's numbers by table, in percent as printed.
"""

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FOLDER = Path(__file__).resolve().parent


class Effect(NamedTuple):
    """A sentence about two variants that recorded runs can bear out or not.

    Attributes:
        claim: a few words, as in "a BN neck helps".
        variant, against: keys of a recipe's `VARIANTS`.
        source: who says so; empty where it is only our question.
        measure: the metric that the claim is about.
        direction: 1 where the claim is that `variant` has more of it, -1 where it has less.
    """

    claim: str
    variant: str
    against: str
    source: str = ""
    measure: str = "mAP"
    direction: int = 1


def effects(number: str) -> list[Effect]:
    """The effects of a notebook's recipe; none where it has no file.

    >>> effects("03")[0].claim
    'Lin helps softmax'
    """
    return [Effect(**row) for row in _read(number).get("effects", ())]


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


def _read(number: str) -> dict[str, Any]:
    path = FOLDER / f"{number[:2]}.yml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}
