"""A notebook executed from the command line by papermill: checked before it starts, and continued after a kill."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reidkit import files, parameters, runs
from reidkit.parameters import Parameters, Scalar, choose
from reidkit.progress import is_watched, note
from reidkit.recipes import driver
from reidkit.recipes.driver import KEEP
from reidkit.studies import lectures
from reidkit.studies.runner import check, recipe

KERNEL_OPTIONS = ["--log-level=50"]  # a kernel's notes on the transport of its messages are no news to a reader
NOT_HANDED_ON = ("REIDKIT_LIVE", "MPLBACKEND", KEEP)  # nobody turns knobs, and figures go into the notebook


@dataclass(frozen=True)
class Plan:
    """A notebook that can be started: everything that can be known to be wrong beforehand is not.

    Attributes:
        path: the notebook.
        params: all of its parameters.
        given: those that are not the preset's.
        out: the file to write.
    """

    path: Path
    params: Parameters
    given: dict[str, Scalar]
    out: Path

    @property
    def changes(self) -> dict[str, Scalar]:
        """The parameters that are not those of the committed notebook."""
        usual = type(self.params)().values()
        return {name: value for name, value in self.params.values().items() if value != usual[name]}


def parameters_of(number: str) -> type[Parameters]:
    """The parameters of a notebook: those of its recipe, or where it has none, of its own.

    >>> parameters_of("03").__module__
    'reidkit.recipes.ranking'
    """
    return lectures.NUMBERED.get(number) or recipe(number).Parameters


def parse(kind: type[Parameters], changes: Sequence[tuple[str, str]]) -> dict[str, Scalar]:
    """Parameters as typed on a command line, by name.

    Raises:
        ValueError: an unknown name (the nearest is given), or a value that is not of its type.
    """
    usual, found = kind().values(), {}
    for name, text in changes:
        found |= kind.checked({name: _parse(text, type(usual.get(name, "")))})
    return found


def _parse(text: str, kind: type) -> Scalar:
    """What is meant by `text` where a value of `kind` is wanted; what fits nothing stays text, and is refused later."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for number in (int, float) if kind in (int, float) else ():
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def plan(
    notebook: str, preset: str = "quick", changes: Sequence[tuple[str, str]] = (), out: str | Path | None = None
) -> Plan:
    """Check a notebook, a preset and parameters as text, and find the data and the weights that they name.

    Args:
        notebook: "02" or "02_baseline".
        preset: of the notebook.
        changes: names and values of other parameters, as typed; relative paths count from the working directory.
        out: the folder to write into, `runs/notebooks` where left out; the file is named by all of these.

    Raises:
        ValueError: something is unknown (the nearest is named), not allowed, or not there.

    >>> plan("02", changes=[("lr", "3e-4")]).changes
    {'lr': 0.0003}
    """
    paths = {path.stem: path for path in sorted((runs.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if not paths:
        raise ValueError(f"there are no notebooks in {runs.ROOT}; run the command from a checkout of the repository.")
    path = paths.get(notebook) or choose("notebook", notebook, {name[:2]: paths[name] for name in paths})
    number = path.name[:2]
    kind = parameters_of(number)
    given = parse(kind, changes)
    if given.get("preset", preset) != preset:
        raise ValueError("preset is chosen by --preset, which sets all its parameters.")
    for name in {"data_root", "weights"} & given.keys():
        if given[name] not in driver.NAMED:
            given[name] = str(Path(given[name]).expanduser().resolve())
    params = kind.of({**parameters.preset(number, preset), **given})
    folder = Path(out or runs.ROOT / "runs" / "notebooks").expanduser().resolve()
    check(params, folder, "the notebook")
    different = json.dumps(given, sort_keys=True).encode()
    name = ".".join([number, preset] + [hashlib.sha256(different).hexdigest()[:8]] * bool(given))
    return Plan(path, params, given, folder / f"{name}.ipynb")


def describe(plan: Plan) -> str:
    """One line: what will be run, and where it goes.

    >>> describe(plan("02")).partition(" ->")[0]
    '02_baseline, preset quick'
    """
    given = "".join(f", {name} {value}" for name, value in plan.given.items())
    return f"{plan.path.stem}, preset {plan.params.preset}{given} -> {plan.out}"


def run(plan: Plan) -> float:
    """Execute a plan; if it is killed, the next equal call does not repeat the trainings that were done.

    The notebook appears whole or not at all; what is there of one that runs or failed is called `*.unfinished.ipynb`.

    Returns:
        Seconds.

    Raises:
        ValueError: a cell failed, or the same is being run by another process.
    """
    kept, part = plan.out.with_suffix(".kept"), plan.out.with_suffix(".unfinished.ipynb")
    with files.lock(plan.out.with_name(f".{plan.out.stem}.lock"), wait=False):
        note(describe(plan))
        if kept.is_dir():
            note("an earlier run did not end; it goes on, and its finished trainings are not repeated")
        kept.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        seconds, failure = execute(plan.path, part, plan.changes, kept=kept)
        if failure:
            rest = f" (what there is of it: {part})" * part.exists()
            raise ValueError(f"{plan.path.stem} stopped in {failure}{rest}")
        os.replace(part, plan.out)
        shutil.rmtree(kept)
    note(f"done in {seconds:.0f} s: {plan.out}")
    return seconds


def execute(path: Path, out: Path, changes: dict[str, Scalar], *, kept: Path | None = None) -> tuple[float, str]:
    """Execute one notebook in a process of its own, in its folder.

    Args:
        path: the notebook.
        out: where the executed copy is written, cell by cell.
        changes: what differs from its parameters cell.
        kept: a folder that keeps finished trainings.

    Returns:
        Seconds, and why it stopped: the cell and its error, empty if it came to its end.

    Raises:
        ValueError: papermill is not installed.
    """
    try:
        import papermill
    except ImportError:
        raise ValueError(
            "notebooks are executed by papermill; install it with pip install 'reidkit[course]'."
        ) from None
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what fails is returned
    options = {"kernel_name": "python3", "progress_bar": is_watched(), "cwd": path.resolve().parent}
    start, failure = time.perf_counter(), ""
    with _environment(kept):
        try:
            papermill.execute_notebook(
                path.resolve(), out.resolve(), dict(changes), extra_arguments=KERNEL_OPTIONS, **options
            )
        except Exception as error:  # of a cell, a dead kernel or a broken file: whoever called may have others to run
            place = f"cell [{error.exec_count}]: " if getattr(error, "exec_count", None) else ""
            name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
            failure = f"{place}{name}: {(text.strip() or '-').splitlines()[0]}"
    return time.perf_counter() - start, failure


@contextlib.contextmanager
def _environment(kept: Path | None) -> Iterator[None]:
    """The environment that a kernel inherits; it is put back afterwards."""
    before = {name: os.environ.pop(name, None) for name in NOT_HANDED_ON}
    os.environ.update({} if kept is None else {KEEP: str(kept)})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
