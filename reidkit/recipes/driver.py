"""What every recipe needs around its method: settings, a folder of its own, the clock, the seed, and the result.

`with open_run(...) as run:` is the frame of each recipe's `run`. A call that was killed is continued by the next equal
one; another parameter or other code gives another folder.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reidkit import code, files, parameters, runs
from reidkit.data.images import RESAMPLING
from reidkit.embed import Embeddings
from reidkit.metrics.retrieval import Ranking
from reidkit.models.backbones import BACKBONES
from reidkit.parameters import choose, parameter
from reidkit.runs import Result, Variant

KEEP = "REIDKIT_KEEP"  # names a folder: checkpoints go there, and stay when a run is done
WEIGHTS = "start: a file, reference (ours), imagenet, scratch; empty: scratch, refused on archives"
SCRATCH = ("", "scratch")  # weights that are none
NAMED = (*SCRATCH, "reference", "imagenet")  # weights that are no path


@dataclass(frozen=True, kw_only=True)
class Parameters(parameters.Parameters):
    """What all recipes have."""

    dataset: str = parameter(
        "market", "rendered: market, duke, ...; your copy under data_root: market1501, msmt17, ..."
    )
    city_preset: str = parameter("quick", "size of a rendered city", among=("quick", "tiny", "world"))
    city_seed: int = parameter(0, "another seed is another city with other people", low=0)
    knobs: str = parameter("", "knobs of the world that are turned, as in notebook 02; empty: the default world")
    data_root: str = parameter("", "the folder that holds all archives; empty: data/")
    weights: str = parameter("", WEIGHTS)
    height: int = parameter(64, "pixels", low=16)
    width: int = parameter(32, "pixels", low=8)
    resize: str = parameter("bilinear", "how images come to that size: bilinear, bicubic", among=RESAMPLING)
    backbone: str = parameter("small_resnet", "small_resnet, resnet50, resnet50_ibn_a, ...", among=BACKBONES)
    last_stride: int = parameter(1, "of the last stage; 1 doubles the resolution of the map", low=1, high=2)
    last_relu: bool = parameter(True, "whether the backbone ends with a ReLU; the reference weights do without")
    precision: str = parameter(
        "auto",
        "what the network computes in: auto (what a GPU is made for, fp32 elsewhere), bf16, fp16, fp32",
        among=("auto", "bf16", "fp16", "fp32"),
    )


def device() -> str:
    """Where networks are: on the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fused() -> dict[str, bool]:
    """What an optimizer is made with beside its numbers: on the GPU one kernel for all weights, which waits for none.

    >>> torch.optim.SGD([torch.zeros(1)], lr=0.1, **fused()).defaults["fused"] is (True if device() == "cuda" else None)
    True
    """
    return {"fused": True} if device() == "cuda" else {}


def settings(
    recipe: str,
    kind: type[parameters.Parameters],
    variants: Mapping[str, Variant],
    variant: str,
    *,
    preset: str,
    **changes: Any,
) -> Any:
    """All parameters of a run: defaults, then the preset, then `changes`, then what the variant is about.

    Raises:
        ValueError: an unknown variant, preset or parameter (the nearest is named), or a value that is not allowed.
    """
    wanted = choose("variant", variant, variants).changes
    return kind.of({**parameters.preset(runs.number_of(recipe), preset), **changes, **wanted})


@dataclass(frozen=True)
class Run:
    """A run that goes on.

    Attributes:
        recipe, variant: what is run.
        params: of the recipe's own class.
        folder: where it keeps its state.
        progress: whether bars and lines are shown.
        code: digest of the code that runs.
        start: seconds, by the clock of `time.perf_counter`.
    """

    recipe: str
    variant: str
    params: Any
    folder: Path
    progress: bool
    code: str
    start: float

    @property
    def fitting(self) -> dict[str, Any]:
        """What `fit` has to know: checkpoint, precision, progress."""
        return {"checkpoint": self.folder, "precision": self.params.precision, "progress": self.progress}

    @property
    def embedding(self) -> dict[str, Any]:
        """What `embed` has to know: precision, progress."""
        return {"precision": self.params.precision, "progress": self.progress}

    def result(self, metrics: Mapping[str, Any], *, query: Embeddings, ranking: Ranking, **objects: Any) -> Result:
        """What is recorded of the run, and what it leaves in memory: query, ranking, and other objects."""
        return Result(
            runs.number_of(self.recipe),
            self.params.preset,
            self.variant,
            self.params.seed,
            self.params.values(),
            dict(metrics),
            seconds=round(time.perf_counter() - self.start, 2),
            peak_memory=runs.peak_memory(),
            per_query={"pid": query.pids.cpu()[ranking.valid].tolist(), "ap": ranking.ap.tolist()},
            provenance=runs.provenance(self.code),
            objects={"query": query, "ranking": ranking, **objects},
        )


@contextlib.contextmanager
def open_run(
    recipe: str,
    kind: type[Parameters],
    variants: Mapping[str, Variant],
    variant: str,
    *,
    preset: str,
    seed: int,
    data_root: str | None = None,
    weights: str | None = None,
    checkpoint: str | Path = "",
    progress: bool = True,
    **changes: Any,
) -> Iterator[Run]:
    """Begin a run: check what it is given, take its folder for this process alone, and seed everything random.

    Args:
        recipe: its name, such as "ranking".
        kind: its parameters.
        variants: its `VARIANTS`.
        variant: a key of them.
        preset: of its notebook.
        seed: of everything random in the training.
        data_root: the folder that holds the archives; None leaves it to the preset, as with `weights`.
        weights: a file to start the backbone from; "reference" names those that come with the package, "imagenet" those
            that are published for the backbone, "scratch" none, and so does "", but for archives, where it is refused.
        checkpoint: folder for the state of the training, which is then kept; by default it is one under `runs` that is
            removed when the run is done.
        progress: show bars, and one line per epoch.
        changes: other parameters by name; what the variant is about wins over them.

    Raises:
        ValueError: an unknown variant, preset or parameter (the nearest is named), a value that is not allowed, or a
            folder that may not be written to.
    """
    paths = {name: str(path) for name, path in (("data_root", data_root), ("weights", weights)) if path is not None}
    params = settings(recipe, kind, variants, variant, preset=preset, **{"seed": seed, **paths, **changes})
    folder = Path(checkpoint or checkpoint_folder(recipe, variant, params))
    check_writable(folder.parent.absolute(), "the state of the run")
    with files.lock(folder.parent / f".{folder.name}.run"):
        runs.seed(params.seed)
        made_by, start = code.digest(f"reidkit.recipes.{recipe}"), time.perf_counter()
        yield Run(recipe, variant, params, folder, progress, made_by, start)
        if not (checkpoint or os.environ.get(KEEP)):
            shutil.rmtree(folder, ignore_errors=True)


def check_writable(folder: Path, what: str) -> None:
    """Refuse a folder, absolute, that is not there and cannot be made, or that nothing can be written to.

    Raises:
        ValueError: naming it, and `what` should go there.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise ValueError(f"{what} goes to {folder}, and {nearest} is a file; choose another folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{what} goes to {folder}, and {nearest} may not be written to; choose another folder.")


def checkpoint_folder(recipe: str, variant: str, params: parameters.Parameters) -> Path:
    """Where a run keeps its state: other code or another parameter gives another folder."""
    made = json.dumps([params.values(), code.digest(f"reidkit.recipes.{recipe}")], sort_keys=True)
    name = f"{recipe}.{params.preset}.{variant}.{params.seed}.{hashlib.sha256(made.encode()).hexdigest()[:12]}"
    return Path(os.environ.get(KEEP) or runs.ROOT / "runs") / name
