"""Runs that cannot lie: parameters that must be known, seeds, results as files, signed figures.

A run is named by notebook (two digits), preset, variant and seed. Everything a table needs of it is one JSON file in
`figures/results`; tables are made from those files and from nothing else.
"""

import ast
import dataclasses
import difflib
import hashlib
import math
import os
import platform
import random
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
import yaml

from reidkit import files

ROOT = Path(__file__).resolve().parents[1]
PRESETS = Path(__file__).resolve().parent / "presets"
PUBLISHED = Path(__file__).resolve().parent / "published"
RESULTS = ROOT / "figures" / "results"
SCALARS = {"int": int, "float": float, "str": str, "bool": bool}

# --------------------------------------------------------------------------------------------------------- parameters


def parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook, checked: call it as `runs.parameters(globals())` right after the parameters cell.

    papermill assigns whatever it is given, so a mistyped name would silently leave the default in force. Here every
    name that it assigned must be annotated in the parameters cell, and have the annotated type.

    Args:
        namespace: the globals of the notebook (or of a script).

    Returns:
        Values by name, in the order of the cell; whole numbers given for a float are floats.

    Raises:
        ValueError: a name that is not annotated, or a value of the wrong type; the sentence names the remedy.

    >>> parameters({"__annotations__": {"radius": float}, "radius": 1})
    {'radius': 1.0}
    """
    annotations, assigned = _from_cells(namespace) or (_annotations(namespace), _scalar_names(namespace))
    if not annotations:
        raise ValueError("no annotated parameters; write them as `radius: float = 0.7`, in a cell before this one.")
    for name in assigned:
        if name not in annotations:
            raise ValueError(
                f"{name} is not a parameter of this notebook; the nearest is {_nearest(name, annotations)}."
            )
    return {name: check_scalar(name, namespace[name], kind) for name, kind in annotations.items() if name in namespace}


def check_scalar(name: str, value: Any, kind: str) -> int | float | str | bool:
    """Return `value` if it is of the kind "int", "float", "str" or "bool", and say what is wrong otherwise.

    >>> check_scalar("lr", 1, "float")
    1.0
    """
    if kind not in SCALARS:
        raise ValueError(f"the parameter {name} is annotated {kind}; parameters are int, float, str or bool.")
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is str and kind in ("float", "int") and _is_number(value):
        raise ValueError(f"{name} is the text {value!r}, not a number; in YAML write {_yaml_number(value)}.")
    if type(value) is not SCALARS[kind]:
        raise ValueError(f"{name} must be of type {kind}, not {value!r}.")
    if kind == "float" and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}.")
    return value


def choose(name: str, value: str, options: Mapping[str, Any]) -> Any:
    """Return `options[value]`, or say what `name` may be.

    >>> choose("sampler", "pk", {"pk": 1, "plain": 2})
    1
    """
    if value not in options:
        nearest = _nearest(value, options)
        known = re.sub(r"\b(\w+_)(\d+)(?:, \1\d+){3,}, \1(\d+)\b", r"\1\2 … \1\3", ", ".join(options))  # many splits
        raise ValueError(f"{name} must be one of {known}, not {value!r}; the nearest is {nearest}.")
    return options[value]


def _from_cells(namespace: Mapping[str, Any]) -> tuple[dict[str, str], list[str]] | None:
    """In a kernel: annotations of the parameters cell, and the names assigned by the cells papermill put after it.

    The history of the kernel is read, not its globals: from Python 3.14 on those keep the annotations of a cell's last
    line only, and when a reader runs the cell again they hold the variables of the whole notebook.
    """
    annotations: dict[str, str] = {}
    assigned: list[str] = []
    for cell in namespace.get("In", ()):
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # a magic, or a cell that was wrong
            continue
        if found := {n.target.id: ast.unparse(n.annotation) for n in body if _is_annotated_name(n)}:
            annotations, assigned = found, []
        elif cell.lstrip().startswith("# Parameters"):
            targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
            assigned += [target.id for target in targets if isinstance(target, ast.Name)]
    return (annotations, assigned) if annotations else None


def _is_annotated_name(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None


def _annotations(namespace: Mapping[str, Any]) -> dict[str, str]:
    found = namespace.get("__annotations__")
    if found is None and namespace.get("__annotate__") is not None:  # Python 3.14: a function that makes them
        found = namespace["__annotate__"](1)
    return {name: getattr(kind, "__name__", str(kind)) for name, kind in (found or {}).items()}


def _scalar_names(namespace: Mapping[str, Any]) -> list[str]:
    scalars = tuple(SCALARS.values())
    return [name for name, value in namespace.items() if isinstance(value, scalars) and not name.startswith("_")]


def _nearest(name: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _yaml_number(text: str) -> str:
    """The number in `text` as YAML 1.1 understands it: a point before the exponent, and a sign in it."""
    mantissa, _, exponent = text.strip().lower().partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}" if exponent else mantissa


# ------------------------------------------------------------------------------------------------ presets and variants


class Variant(NamedTuple):
    """One row of an ablation: its title in tables, and the parameters it changes."""

    title: str
    changes: dict[str, int | float | str | bool]


class Effect(NamedTuple):
    """A sentence about two variants that recorded runs can bear out or not.

    Attributes:
        variant, against: keys of a recipe's `VARIANTS`.
        says: the claim, a few words, as in "the neck helps".
        source: who says so; empty where it is only our question.
        direction: 1 where the claim is that `variant` has the higher mAP, -1 where it is the lower.
    """

    variant: str
    against: str
    says: str
    source: str = ""
    direction: int = 1


def preset(notebook: str, name: str) -> dict[str, Any]:
    """Read the preset `name` of a notebook ("02" or "02_baseline"): flat scalars, the same names in all its presets.

    Raises:
        ValueError: there is no such preset, or a value that is no scalar, or a number that YAML reads as text.

    >>> preset("02", "quick")["preset"]
    'quick'
    """
    known = {path.name.split(".")[1]: path for path in sorted(PRESETS.glob(f"{notebook[:2]}.*.yml"))}
    if not known:
        raise ValueError(f"notebook {notebook!r} has no presets; a notebook is named by two digits, as in 02_baseline.")
    path = choose("preset", name, known)
    values = yaml.safe_load(path.read_text())
    for key, value in values.items():
        if type(value) not in SCALARS.values():
            raise ValueError(f"{path.name}: {key} is not a number, a text or a truth value, but {value!r}.")
        if isinstance(value, str) and _is_number(value):
            raise ValueError(f"{path.name}: {key} is the text {value!r}, not a number; write {_yaml_number(value)}.")
    return values


def settings(
    notebook: str, preset_name: str, variants: Mapping[str, Variant], variant: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """All parameters of a run: those of the preset, then `overrides`, then what the variant is about.

    Raises:
        ValueError: an unknown variant or parameter (the nearest is named), or a value of the wrong type.
    """
    changes = choose("variant", variant, variants).changes
    params = preset(notebook, preset_name)
    for name, value in {**overrides, **changes}.items():
        if name not in params:
            raise ValueError(
                f"{name} is not a parameter of notebook {notebook}; the nearest is {_nearest(name, params)}."
            )
        params[name] = check_scalar(name, value, type(params[name]).__name__)
    return params


def published(notebook: str) -> dict[str, dict[str, Any]]:
    """What a paper prints, by table and row: `table_of_variants` holds the rows that are variants of its recipe.

    Empty where nothing was copied from the paper. Values are in percent, as printed.

    >>> published("03")["table_of_variants"]["default"]["market"]
    [88.9, 94.9]
    """
    path = PUBLISHED / f"{notebook[:2]}.yml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def seed(n: int, threads: int = 1) -> None:
    """Seed Python, numpy and torch, and set the number of threads, on which the last bits of a training depend.

    >>> seed(0); first = torch.rand(1); seed(0); torch.equal(first, torch.rand(1))
    True
    """
    if not 0 <= n < 2**32:
        raise ValueError(f"the seed must be 0 to 2**32 - 1, not {n}.")
    random.seed(n)
    numpy.random.seed(n)
    torch.manual_seed(n)
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------------ results


def provenance() -> dict[str, Any]:
    """What a result was made with: device, versions, commit (with + if files differ from it) and hash of the code."""
    packages = ("reidkit", "torch", "torchvision", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "device": f"{device}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "commit": _git("rev-parse", "--short=12", "HEAD") + "+" * bool(_git("status", "--porcelain")),
        "code": code_hash(),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def code_hash() -> str:
    """Eight hexadecimal digits that change with any file of the library.

    >>> len(code_hash())
    8
    """
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def peak_memory() -> int:
    """Bytes: the most that torch held on the GPU since the last call, or without one, this process in main memory."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Result:
    """One run and all a table needs of it.

    Attributes:
        notebook: two digits; with preset, variant and seed the name of the run.
        params: all parameters it ran with.
        metrics: fractions (`mAP`, `rank1`, ...), counts (`n_query`, `n_valid`, `n_gallery`), and `ap`, the convention.
        seconds, peak_memory: what it cost (bytes).
        paper: what the paper prints for the same row (percent), and its `table`; from `published` when it is saved.
        per_query: `pid` and `ap` of each valid query, for intervals over identities.
        provenance: device, versions, commit, code.
        objects: what the run leaves in memory (model, embeddings, ...); never saved.
    """

    notebook: str
    preset: str
    variant: str
    seed: int
    params: dict[str, Any]
    metrics: dict[str, Any]
    seconds: float
    peak_memory: int
    paper: dict[str, Any] = field(default_factory=dict)
    per_query: dict[str, list] = field(default_factory=dict, repr=False)
    provenance: dict[str, Any] = field(default_factory=provenance, repr=False)
    objects: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return f"{self.notebook}.{self.preset}.{self.variant}.{self.seed}"


def save_result(result: Result, folder: str | Path = RESULTS) -> Path:
    """Write `figures/results/<notebook>.<preset>.<variant>.<seed>.json`, over what a former run wrote there.

    Raises:
        ValueError: a name that does not suit a file, or a metric that is no fraction.
    """
    if not re.fullmatch(r"\d\d(\.[a-z0-9_]+){2}\.\d+", result.name):
        raise ValueError(f"{result.name} is no name of a result; use two digits, then small letters, digits and _.")
    for name, value in result.metrics.items():
        if name.startswith(("rank", "mAP", "mINP")) and not 0 <= value <= 1:
            raise ValueError(f"{name} must be a fraction, 0 to 1, not {value}.")
    values = dataclasses.asdict(dataclasses.replace(result, objects={}))
    del values["objects"]
    values["params"] = public(result.params)
    values["paper"] = result.paper or published(result.notebook).get("table_of_variants", {}).get(result.variant, {})
    values["per_query"] = {name: " ".join(f"{v:.6g}" for v in row) for name, row in result.per_query.items()}
    path = Path(folder) / f"{result.name}.json"
    files.write_json(path, values | values.pop("provenance"))
    return path


def public(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a result records them: of a path only the last name, because the rest is this machine's.

    >>> public({"data_root": "/home/ann/data", "seed": 0})
    {'data_root': 'data', 'seed': 0}
    """
    paths = {name: Path(params[name]).name for name in ("data_root", "weights") if name in params}
    return {**params, **paths}


def load_results(
    notebook: str = "*", preset: str = "*", variant: str = "*", *, folder: str | Path = RESULTS
) -> list[Result]:
    """The recorded results of a notebook, a preset, a variant (all of them where left out), ordered by name.

    >>> load_results("99")
    []
    """
    found = sorted(Path(folder).glob(f"{notebook}.{preset}.{variant}.*.json"))
    return [_load_result(path) for path in found if path.name[0] != "."]  # hidden ones are scraps of killed writers


def _load_result(path: Path) -> Result:
    values = files.read_json(path)
    known = {field.name for field in dataclasses.fields(Result)}
    values["provenance"] = {name: values.pop(name) for name in values.keys() - known}
    values["per_query"] = {name: [float(v) for v in row.split()] for name, row in values["per_query"].items()}
    return Result(**values)


def save_figure(
    fig: Any, name: str, *, preset: str = "quick", seed: int = 0, folder: str | Path = ROOT / "figures"
) -> Path:
    """Write a figure to `figures/<name>.<preset>.png`, signed in its corner: notebook, preset, seed, hash of the code.

    Args:
        fig: a matplotlib figure.
        name: starts with the number of the notebook, as in `02_ranked_lists`.
    """
    mark = f"{name[:2]} · {preset} · seed {seed} · {code_hash()}"
    text = fig.text(0.995, 0.005, mark, ha="right", va="bottom", fontsize=6, color="0.5")
    path = Path(folder) / f"{name}.{preset}.png"
    try:
        with files.atomic_path(path) as part:
            fig.savefig(part, dpi=150, metadata={"Software": None, "Title": mark})
    finally:
        text.remove()
    return path
