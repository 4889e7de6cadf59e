"""A notebook executed from the command line: checked before it starts, forecast, watched, and continued after a kill.

What happened is one line of JSON a run in `runs/notebooks/history.jsonl`; forecasts are read from it and from recorded
results, and from nothing else.
"""

import ast
import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from reidkit import checkpoints, files, runs
from reidkit.models.backbones import load_weights
from reidkit.progress import bar, is_watched, note
from reidkit.recipes.sources import ARCHIVES, CITIES, find_weights, open_split

KERNEL_OPTIONS = ["--log-level=50"]  # a kernel's notes on the transport of its messages are no news to a reader
NOT_HANDED_ON = ("REIDKIT_LIVE", "MPLBACKEND", checkpoints.KEEP)  # nobody turns knobs, and figures go into the notebook
HEADING = re.compile(r"^## (.+)$", re.M)
LOOK_EVERY = 0.2  # seconds between two looks at the memory
PROCESSORS = ("x86_64", "AMD64", "aarch64", "arm64")  # of a result without a GPU: its peak is of main memory


# --------------------------------------------------------------------------------------------------- before it starts


@dataclass(frozen=True)
class Plan:
    """A notebook that can be started: everything that can be known to be wrong beforehand is not.

    Attributes:
        path: the notebook.
        preset: size of the run.
        params: all parameters.
        changes: those that are not the preset's.
        out: the file to write.
    """

    path: Path
    preset: str
    params: dict[str, Any]
    changes: dict[str, Any]
    out: Path

    @property
    def number(self) -> str:
        """The two digits of the notebook."""
        return self.path.name[:2]


class Forecast(NamedTuple):
    """A sentence, and the bytes of main memory that it speaks of (0: nobody knows)."""

    text: str
    memory: int = 0


class Ran(NamedTuple):
    """What executing a notebook took: seconds, and bytes of main memory; and why it stopped, empty if it did not."""

    seconds: float
    memory: int
    failure: str


def plan(
    notebook: str, preset: str = "quick", changes: Sequence[tuple[str, str]] = (), out: str | Path | None = None
) -> Plan:
    """Check a notebook, a preset and parameters as text, and find the data and the weights that they name.

    Args:
        notebook: "02" or "02_baseline".
        preset: of the notebook.
        changes: names and values of other parameters, as typed; relative paths count from the working directory.
        out: the file to write; by default one in `runs/notebooks` that is named by all of these.

    Raises:
        ValueError: something is unknown (the nearest is named), of the wrong type, or not there.

    >>> plan("02", changes=[("lr", "3e-4")]).changes
    {'lr': 0.0003}
    """
    paths = {path.stem: path for path in sorted((runs.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if not paths:
        raise ValueError(f"there are no notebooks in {runs.ROOT}; run the command from a checkout of the repository.")
    path = paths.get(notebook) or runs.choose("notebook", notebook, {name[:2]: paths[name] for name in paths})
    number, usual = path.name[:2], runs.preset(path.name[:2], preset)
    given = {name: _parse(text, type(usual.get(name, ""))) for name, text in changes}
    if given.get("preset", preset) != preset:
        raise ValueError("preset is chosen by --preset, which sets all its parameters.")
    for name in {"data_root", "weights"} & given.keys():
        if given[name] not in ("", "reference"):
            given[name] = str(Path(given[name]).expanduser().resolve())
    params = runs.settings(number, preset, {"": runs.Variant("", {})}, "", given)
    different = {name: value for name, value in params.items() if value != usual[name]}
    out = Path(out).expanduser().resolve() if out else folder() / f"{_stem(number, preset, different)}.ipynb"
    if out.suffix != ".ipynb" or out in paths.values():
        raise ValueError(f"{out} must be a notebook of its own; give a new name that ends in .ipynb.")
    _find(params)
    return Plan(path, preset, params, different, out)


def folder() -> Path:
    """Where executed notebooks, their history and what they keep are, unless somebody says otherwise."""
    return runs.ROOT / "runs" / "notebooks"


def _parse(text: str, kind: type) -> int | float | str | bool:
    """What is meant by `text` where a value of `kind` is wanted; what fits nothing stays text, and is refused later."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for number in (int, float) if kind in (int, float) else ():
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _stem(number: str, preset: str, changes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]
    return ".".join([number, preset] + [digest] * bool(changes))


def _find(params: Mapping[str, Any]) -> None:
    """Open the real archives that parameters name, and look for weights: what is missing is told by who would read it.

    A city is drawn when it is wanted; only the folder that holds it must be there.
    """
    root, weights = params.get("data_root", ""), params.get("weights", "")
    wanted = ["dataset", "source_dataset"] + ["other_dataset"] * (params.get("domains", "home") != "home")
    for name in [name for name in wanted if params.get(name)]:
        dataset = params[name].replace("{seed}", str(params["seed"]))
        runs.choose(name, dataset, CITIES | ARCHIVES)
        if dataset in ARCHIVES:
            open_split(dataset, data_root=root)
    if root and not (runs.ROOT / root).is_dir():
        raise ValueError(f"data_root is {root}, which is no folder; make it, or leave data_root out.")
    if weights and not find_weights(weights).is_file():
        load_weights(nn.Module(), find_weights(weights))  # which says so


# ----------------------------------------------------------------------------------------------------------- forecasts


def forecast(plan: Plan) -> Forecast:
    """What a run will take, as far as it has been measured: here, in the recorded course, or for one training."""
    known = [row for row in files.read_lines(folder() / "history.jsonl") if not row["resumed"]]
    known = [row for row in known if (row["notebook"], row["preset"]) == (plan.number, plan.preset)]
    known = [row for row in known if row["machine"] == _machine()]
    same = [row for row in known if row["changes"] == plan.changes]
    if known:
        last = (same or known)[-1]
        where = "the last time on this machine" + ("" if same else ", with other parameters")
        return Forecast(f"{duration(last['seconds'])} and {size(last['memory'])}, as {where}", last["memory"])
    record = runs.RESULTS / "course.json"
    course = files.read_json(record) if record.exists() else {}
    recorded = course.get("notebooks", {}).get(plan.path.stem)
    if recorded and plan.preset == course["preset"]:
        as_it_is = " for the preset as it is" * bool(plan.changes)
        where = f"recorded{as_it_is} on {course['cpus']} CPU cores"
        return Forecast(f"{duration(recorded['seconds'])}, as {where}; memory not measured yet")
    results = runs.load_results(plan.number, plan.preset, folder=runs.RESULTS)
    if not results:
        return Forecast("not measured yet")
    (device, _), *_ = Counter(result.provenance.get("device", "") for result in results).most_common()
    results = [result for result in results if result.provenance.get("device", "") == device]
    seconds = statistics.median(result.seconds for result in results)
    memory, on_cpu = max(result.peak_memory for result in results), device.split(",")[0] in PROCESSORS
    took = f"{duration(seconds)} (median of {len(results)}) and up to {size(memory)}{'' if on_cpu else ' of the GPU'}"
    text = f"one run of the recipe took {took} on {device}; the whole notebook is not measured yet"
    return Forecast(text, memory * on_cpu)


def duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> duration(47.4), duration(125), duration(7320)
    ('47 s', '2 min 5 s', '2 h 2 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def size(memory: float) -> str:
    """Bytes for a reader.

    >>> size(1_230_000_000)
    '1.2 GB'
    """
    return f"{memory / 1e9:.1f} GB"


def _free() -> float:
    try:
        import psutil
    except ImportError:  # it comes with Jupyter, whose absence is told when something is executed
        return math.inf
    return psutil.virtual_memory().available


def _machine() -> str:
    return f"{platform.node()}, {os.cpu_count()} CPU cores"


# ------------------------------------------------------------------------------------------------------------- the run


def describe(plan: Plan) -> None:
    """Print what will be run, what it will take, and where it goes."""
    expected = forecast(plan)
    changes = ", ".join(f"{name} {value}" for name, value in plan.changes.items())
    note(f"{plan.path.stem}, preset {plan.preset}{', ' * bool(changes)}{changes}")
    note(f"forecast: {expected.text}")
    if expected.memory > (free := _free()):
        note(f"warning: {size(expected.memory)} are expected, and {size(free)} of memory are free")
    note(f"to: {plan.out}")


def run(plan: Plan) -> Ran:
    """Execute a plan; if it is killed, the next equal call does not repeat the trainings that were done.

    The notebook appears whole or not at all; what is there of one that runs or failed is called `*.unfinished.ipynb`.

    Raises:
        ValueError: a cell failed, or the same is being run by another process.
    """
    stem = _stem(plan.number, plan.preset, plan.changes)
    kept = folder() / f"{stem}.kept" / runs.code_hash()
    part = plan.out.with_name(f"{plan.out.stem}.unfinished.ipynb")
    with _alone(folder() / f".{stem}.lock"):
        describe(plan)
        for other in kept.parent.glob("*"):
            if other != kept:  # of other code
                shutil.rmtree(other)
        resumed = kept.is_dir()
        if resumed:
            note("an earlier run did not end; it goes on, and its finished trainings are not repeated")
        for path in (kept, plan.out.parent):
            path.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        committed = _committed(plan.path)
        given = {name: value for name, value in plan.params.items() if value != committed.get(name)}
        try:
            ran = execute(plan.path, part, given, kept=kept)
        except KeyboardInterrupt:
            note("interrupted; the same command goes on from here")
            raise
        if ran.failure:
            rest = f" (what there is of it: {part})" * part.exists()
            raise ValueError(f"{plan.path.stem} stopped in {ran.failure}{rest}")
        os.replace(part, plan.out)
        shutil.rmtree(kept.parent)
    names = {"notebook": plan.number, "preset": plan.preset, "changes": plan.changes, "machine": _machine()}
    took = {"seconds": round(ran.seconds, 1), "memory": ran.memory, "resumed": resumed}
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    files.append_json(folder() / "history.jsonl", {"time": now, **names, **took})
    note(f"done in {duration(ran.seconds)} with at most {size(ran.memory)}: {plan.out}")
    return ran


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that dies with this process, or say that another one holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError("this notebook is running with these parameters; wait for it, or change one.") from None
        yield


def _committed(path: Path) -> dict[str, Any]:
    """The values in the parameters cell of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    nodes = [node for source in tagged for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: ast.literal_eval(node.value) for node in nodes}


def execute(
    path: Path, out: Path, parameters: Mapping[str, Any], *, kept: Path | None = None, lines: bool = True
) -> Ran:
    """Execute one notebook in a process of its own, in its folder; a failure is told, not raised.

    Args:
        path: the notebook.
        out: where the executed copy is written, cell by cell.
        parameters: what differs from its parameters cell.
        kept: a folder that keeps finished trainings.
        lines: where nobody watches a bar, print a line at each heading of the second level.

    Raises:
        ValueError: papermill is not installed.
    """
    try:
        import papermill
        from papermill.engines import NBClientEngine, papermill_engines
    except ImportError:
        raise ValueError(
            "notebooks are executed by papermill; install it with pip install 'reidkit[course]'."
        ) from None

    watch = _Watch(path.stem, lines)

    class Watched(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            start, total = nb_man.cell_start, len(nb_man.nb.cells)

            def cell_start(cell, index=None, **more):
                watch.reach(cell, total)
                return start(cell, index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what fails is told below
    papermill_engines.register("reidkit", Watched)
    options = {"engine_name": "reidkit", "kernel_name": "python3", "progress_bar": False}
    options |= {"cwd": path.resolve().parent, "extra_arguments": KERNEL_OPTIONS}
    failure = ""
    with _environment(kept), watch:
        try:
            papermill.execute_notebook(path.resolve(), out.resolve(), dict(parameters), **options)
        except Exception as error:  # of a cell, a dead kernel or a broken file: whoever called may have others to run
            name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
            failure = f"{watch.place}{name}: {(text.strip() or '-').splitlines()[0]}"
            failure += ", as it does when memory runs out" * (name == "DeadKernelError")
    return Ran(watch.seconds, watch.memory, failure)


@contextlib.contextmanager
def _environment(kept: Path | None) -> Iterator[None]:
    """The environment that a kernel inherits; it is put back afterwards."""
    before = {name: os.environ.pop(name, None) for name in NOT_HANDED_ON}
    os.environ.update({} if kept is None else {checkpoints.KEEP: str(kept)})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


class _Watch:
    """Where an execution is, how long it has lasted, and the most memory that the processes it started have held."""

    def __init__(self, title: str, lines: bool):
        self.title, self.lines, self.bar = title, lines, None
        self.heading, self.code_cells, self.seconds, self.memory = "", 0, 0.0, 0
        self.over = threading.Event()

    def __enter__(self) -> "_Watch":
        self.start = time.perf_counter()
        self.looking = threading.Thread(target=self._look, daemon=True)
        self.looking.start()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self.start
        self.over.set()
        self.looking.join()
        if self.bar is not None:
            self.bar.close()

    def reach(self, cell: Mapping[str, Any], total: int) -> None:
        """Note that this cell is next, of so many."""
        if self.bar is None:
            self.bar = bar(title=self.title, total=total, unit="cells")
        else:
            self.bar.update()
        self.code_cells += cell["cell_type"] == "code"
        if cell["cell_type"] == "markdown" and (found := HEADING.findall(cell["source"])):
            self.heading = found[-1]
            self.bar.set_postfix_str(self.heading)
            if self.lines and not is_watched():
                note(f"{duration(time.perf_counter() - self.start):>12}  {self.heading}")

    @property
    def place(self) -> str:
        """The cell that ran last, as a reader finds it; empty before the first."""
        heading = f' under "{self.heading}"' * bool(self.heading)
        return f"cell [{self.code_cells}]{heading}: " * bool(self.code_cells)

    def _look(self) -> None:
        import psutil

        while not self.over.wait(LOOK_EVERY):
            if self.bar is None:  # a process that is being started still looks like this one
                continue
            held = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    held += process.memory_info().rss
            self.memory = max(self.memory, held)
