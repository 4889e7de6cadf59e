"""Parameters of a run as a dataclass: the one list of names, types, defaults, ranges and explanations.

A recipe declares its own by `class Parameters(driver.Parameters)`. The defaults are the quick preset. The parameters
cell of a notebook is written from them, preset files hold what differs, and every value is checked, whoever gives it.
"""

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

PRESETS = Path(__file__).resolve().parent / "presets"
Scalar = int | float | str | bool
P = TypeVar("P", bound="Parameters")


def parameter(
    default: Scalar,
    says: str,
    *,
    among: Iterable[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> Any:
    """Declare a parameter.

    Args:
        default: its value in the quick preset.
        says: what it is, a few words for the parameters cell; no "=", at which papermill stops reading.
        among: the texts that are allowed; any text where left out.
        low, high: the smallest and the largest number that are allowed.
        above: a number that the value must be above.
    """
    return field(default=default, metadata={"says": says, "among": tuple(among), "range": (low, high, above)})


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What every notebook has; each value is an int, a float, a str or a bool, and checked when it is set.

    Raises:
        ValueError: a value of the wrong type, outside of its range, or not among the texts that are allowed.
    """

    preset: str = parameter("quick", "sizes and numbers")
    seed: int = parameter(0, "of everything random", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        for kind in dataclasses.fields(self):
            object.__setattr__(self, kind.name, _checked(kind, getattr(self, kind.name)))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Parameters":
        """Parameters with these values, and the defaults for the rest.

        Raises:
            ValueError: as the class, or a name that is no parameter; the nearest is named.

        >>> Parameters.of({"seed": 3}).seed
        3
        """
        return cls(**cls.checked(values))

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Scalar]:
        """These values, each checked by itself: whether they suit each other is known only when all are there.

        Raises:
            ValueError: as `of`.

        >>> Parameters.checked({"seed": 3})
        {'seed': 3}
        """
        known = {kind.name: kind for kind in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                place = cls.__module__.rpartition(".")[2]
                raise ValueError(f"{name} is not a parameter of {place}; the nearest is {nearest(name, known)}.")
        return {name: _checked(known[name], value) for name, value in values.items()}

    def but(self, **changes: Any) -> "Parameters":
        """The same parameters with some changed."""
        return self.of({**self.values(), **changes})

    def values(self) -> dict[str, Scalar]:
        """All values by name, in order."""
        return {kind.name: getattr(self, kind.name) for kind in dataclasses.fields(self)}


def _checked(kind: dataclasses.Field, value: Any) -> Scalar:
    name, wanted = kind.name, kind.type
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is str and wanted in (int, float) and _is_number(value):
        raise ValueError(f"{name} is the text {value!r}, not a number; in YAML write {_yaml_number(value)}.")
    if type(value) is not wanted:
        raise ValueError(f"{name} must be of type {wanted.__name__}, not {value!r}.")
    if wanted is float and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}.")
    if kind.metadata["among"]:
        choose(name, value, dict.fromkeys(kind.metadata["among"]))
    low, high, above = kind.metadata["range"]
    if wanted in (int, float) and not (low <= value <= high and value > above):
        bounds = [(above, "above"), (low, "at least"), (high, "at most")]
        allowed = " and ".join(f"{word} {_number(bound)}" for bound, word in bounds if math.isfinite(bound))
        raise ValueError(f"{name} must be {allowed}, not {_number(value)}.")
    return value


def choose(name: str, value: str, options: Mapping[str, Any]) -> Any:
    """Return `options[value]`, or say what `name` may be.

    >>> choose("sampler", "pk", {"pk": 1, "plain": 2})
    1
    """
    if value not in options:
        known = re.sub(r"\b(\w+_)(\d+)(?:, \1\d+){3,}, \1(\d+)\b", r"\1\2 … \1\3", ", ".join(options))  # many splits
        raise ValueError(f"{name} must be one of {known}, not {value!r}; the nearest is {nearest(value, options)}.")
    return options[value]


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that is most like another.

    >>> nearest("raduis", ["seed", "radius"])
    'radius'
    """
    return difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0]


def _number(value: float) -> str:
    """A number as it is read: whole ones with all their digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _yaml_number(text: str) -> str:
    """The number in `text` as YAML 1.1 understands it: a point before the exponent, and a sign in it."""
    mantissa, _, exponent = text.strip().lower().partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}" if exponent else mantissa


# ------------------------------------------------------------------------------------------------------------- presets


def preset(number: str, name: str) -> dict[str, Scalar]:
    """What the preset `name` of a notebook ("02") changes in the defaults; "quick" changes nothing.

    A file holds differences only: from the preset that it names by `like`, or else from the defaults.

    Raises:
        ValueError: there is no such preset, or a value that is no scalar; the file is named.

    >>> preset("02", "tiny")["epochs"]
    10
    """
    known = {path.name.split(".")[1]: path for path in sorted(PRESETS.glob(f"{number}.*.yml"))}
    path = choose("preset", name, {"quick": None, **known})
    values = yaml.safe_load(path.read_text()) if path else {}
    stands_on = preset(number, values.pop("like")) if "like" in values else {}
    for key, value in values.items():
        if type(value) not in (int, float, str, bool):
            raise ValueError(f"{path.name}: {key} is not a number, a text or a truth value, but {value!r}.")
    return stands_on | {"preset": name} | values


# --------------------------------------------------------------------------------------------- the cell of a notebook


def cell(cls: type[Parameters]) -> str:
    """The source of the parameters cell of a notebook, a line for each parameter.

    >>> print(cell(Parameters))
    preset: str = "quick"  # sizes and numbers
    seed: int = 0  # of everything random
    """
    return "\n".join(
        f"{kind.name}: {kind.type.__name__} = {_literal(kind.default)}  # {kind.metadata['says']}"
        for kind in dataclasses.fields(cls)
    )


def _literal(value: Scalar) -> str:
    if isinstance(value, float) and 0 < value < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f'"{value}"' if isinstance(value, str) else repr(value)


def read(cls: type[P], namespace: Mapping[str, Any]) -> P:
    """The parameters of a notebook, checked: call it with `globals()` in the cell after the parameters cell.

    papermill assigns whatever it is given, so a mistyped name would leave the default in force without a word. Here
    every name in the cells that papermill adds must be a parameter, and every value must be allowed.

    Args:
        cls: the parameters of the notebook.
        namespace: the globals of the notebook.

    Raises:
        ValueError: an unknown name (the nearest is given), or a value that is not allowed.

    >>> read(Parameters, {"seed": 3}).seed
    3
    """
    names = [kind.name for kind in dataclasses.fields(cls)]
    given = {name: namespace[name] for name in _injected(namespace) if name in namespace}
    return cls.of({name: namespace[name] for name in names if name in namespace} | given)


def _injected(namespace: Mapping[str, Any]) -> list[str]:
    """The names that papermill assigned after the parameters cell: those of cells that begin with its comment."""
    names = []
    for source in namespace.get("In", ()):
        if source.startswith("preset:"):  # the parameters cell
            names = []
        if source.lstrip().startswith("# Parameters"):
            targets = [target for node in ast.parse(source).body for target in getattr(node, "targets", ())]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
