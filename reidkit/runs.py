"""Runs that cannot lie: seeds, results as files that name the code that made them, signed figures.

A run is named by notebook (two digits), preset, variant and seed. Everything a table needs of it is one JSON file in
`figures/results`; tables are made from those files and from nothing else.
"""

import dataclasses
import os
import platform
import random
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from reidkit import claims, code, files

NOTEBOOKS = {  # the number of each notebook, and its name; a recipe is known by its name
    "00": "map",
    "01": "retrieval",
    "02": "baseline",
    "03": "ranking",
    "04": "sparse_smoothing",
    "05": "one_shot",
    "06": "soft_multilabel",
    "07": "crossroads",
}
PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
# where results, checkpoints and rendered cities go: a clone, or where the package is installed, a folder of the user's
ROOT = Path(os.environ.get("REIDKIT_HOME") or CHECKOUT or Path.cwd()).expanduser().resolve()
RESULTS = ROOT / "figures" / "results"


class Variant(NamedTuple):
    """One row of an ablation: its title in tables, and the parameters it changes."""

    title: str
    changes: dict[str, int | float | str | bool]


def number_of(recipe: str) -> str:
    """The number of the notebook of a recipe.

    >>> number_of("ranking")
    '03'
    """
    return next(number for number, name in NOTEBOOKS.items() if name == recipe)


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


# ------------------------------------------------------------------------------------------------------------- results


def digest(number: str) -> str:
    """The digest of the code that a notebook's numbers stand on: of its recipe, or where it has none, of its pictures.

    >>> digest("03") == code.digest("reidkit.recipes.ranking")
    True
    """
    recipe = PACKAGE / "recipes" / f"{NOTEBOOKS.get(number, '')}.py"
    return code.digest(f"reidkit.recipes.{recipe.stem}" if recipe.is_file() else "reidkit.plots")


def provenance(made_by: str = "") -> dict[str, Any]:
    """What a result was made with: device, versions, commit (with + if files differ from it) and digest of the code.

    Args:
        made_by: the digest.
    """
    packages = ("reidkit", "torch", "torchvision", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "device": f"{device}, {torch.get_num_threads()} of {os.cpu_count()} threads",
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "commit": _git("rev-parse", "--short=12", "HEAD") + "+" * bool(_git("status", "--porcelain")),
        "code": made_by,
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if CHECKOUT and done.returncode == 0 else ""


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
        paper: what the paper prints for the same row (see `claims.beside`); filled in when it is saved.
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

    @property
    def stale(self) -> bool:
        """Whether today's code is not the code that made it."""
        return self.provenance.get("code") != digest(self.notebook)


def save_result(result: Result, folder: str | Path = "") -> Path:
    """Write `<notebook>.<preset>.<variant>.<seed>.json`, over what a former run wrote there.

    Args:
        result: of a run.
        folder: `figures/results` where left out.

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
    values["paper"] = result.paper or claims.beside(result.notebook, result.variant, result.params)
    values["per_query"] = {name: " ".join(f"{v:.6g}" for v in row) for name, row in result.per_query.items()}
    path = Path(folder or RESULTS) / f"{result.name}.json"
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
    notebook: str = "*", preset: str = "*", variant: str = "*", *, folder: str | Path = ""
) -> list[Result]:
    """The recorded results of a notebook, a preset, a variant (all of them where left out), ordered by name.

    >>> load_results("99")
    []
    """
    found = sorted(Path(folder or RESULTS).glob(f"{notebook}.{preset}.{variant}.*.json"))
    return [_load_result(path) for path in found if path.name[0] != "."]  # hidden ones are scraps of killed writers


def _load_result(path: Path) -> Result:
    values = files.read_json(path)
    known = {field.name for field in dataclasses.fields(Result)}
    values["provenance"] = {name: values.pop(name) for name in values.keys() - known}
    values["per_query"] = {name: [float(v) for v in row.split()] for name, row in values["per_query"].items()}
    return Result(**values)


def save_figure(fig: Any, name: str, *, preset: str = "quick", seed: int = 0, folder: str | Path = "") -> Path:
    """Write a figure to `figures/<name>.<preset>.png`, signed in its corner: notebook, preset, seed, digest of code.

    Args:
        fig: a matplotlib figure.
        name: starts with the number of the notebook, as in `02_ranked_lists`.
        preset, seed: of the run that it shows.
        folder: `figures` where left out.
    """
    mark = f"{name[:2]} · {preset} · seed {seed} · {digest(name[:2])}"
    text = fig.text(0.995, 0.005, mark, ha="right", va="bottom", fontsize=6, color="0.5")
    path = Path(folder or ROOT / "figures") / f"{name}.{preset}.png"
    try:
        with files.atomic_path(path) as part:
            fig.savefig(part, dpi=150, metadata={"Software": None, "Title": mark})
    finally:
        text.remove()
    return path
