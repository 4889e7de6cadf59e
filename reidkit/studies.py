"""Studies: many runs of one recipe, several at a time, that may be killed at any moment and then go on.

A run is done when its result file holds these parameters, made by this code. What happened when stands in a ledger, one
line of JSON an event; nothing is decided from it.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from reidkit import cluster, files, runs
from reidkit.board import Board, Row
from reidkit.progress import note
from reidkit.recipes import RECIPES
from reidkit.recipes.sources import CITIES

LIBRARY = Path(__file__).resolve().parent
WITHOUT_EFFECT = ("files", "progress", "runs", "checkpoints")  # modules that move bytes and names, not numbers
NAMED_BY_PARAMETERS = ("VARIANTS", "STUDIES", "EFFECTS", "KNOBS", "CITIES", "ARCHIVES")  # and compared with them
TRIES = 2  # a run that failed is tried once more: the machine may have been short of memory
LOSSES = 5  # processes of one run that may be killed from outside; each goes on where the last one was
ENGINES = ("processes", "ray")
REFUSED = 3  # exit code of a process whose project is not that of the study
CALL = "import sys; from reidkit.studies import work; work(*sys.argv[1:])"
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
NOT_PASSED_ON = ("REIDKIT_LIVE", "JPY_", "MPLBACKEND", "RAY_")  # beginnings of variables of a notebook, and of Ray


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        notebook: two digits; with preset, variant and seed the name of the run.
        changes: parameters other than the preset's, those of the variant left out.
    """

    notebook: str
    preset: str
    variant: str
    seed: int
    changes: dict[str, int | float | str | bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the result file, without its ending."""
        return f"{self.notebook}.{self.preset}.{self.variant}.{self.seed}"

    @property
    def params(self) -> dict[str, Any]:
        """All parameters of the run."""
        changes = {"seed": self.seed, **self.changes}
        return runs.settings(self.notebook, self.preset, recipe(self.notebook).VARIANTS, self.variant, changes)

    def recorded(self, folder: str | Path = runs.RESULTS) -> runs.Result | None:
        """The result of this very run in a folder: with its parameters, whatever code made it."""
        found = runs.load_results(self.notebook, self.preset, self.variant, folder=folder)
        return next((r for r in found if r.seed == self.seed and r.params == runs.public(self.params)), None)

    def state(self, folder: str | Path = runs.RESULTS) -> str:
        """ "done", "stale" (recorded with other code) or "missing" (not recorded, or with other parameters)."""
        result = self.recorded(folder)
        if result is None:
            return "missing"
        return "done" if result.provenance.get("recipe") == recipe_digest(self.notebook) else "stale"


def recipe(notebook: str) -> ModuleType:
    """The recipe of a notebook, loaded only now.

    Raises:
        ValueError: the notebook has no recipe.

    >>> recipe("02").NOTEBOOK
    '02'
    """
    return importlib.import_module(f"reidkit.recipes.{runs.choose('notebook', notebook[:2], RECIPES)}")


@functools.cache
def recipe_digest(notebook: str, library: Path = LIBRARY) -> str:
    """Twelve hexadecimal digits that change when code changes on which the numbers of a recipe may depend.

    That is `run` and `training_step` of the recipe and every function, class and constant of the library that they use,
    directly or not; comments, docstrings, and what else stands in the same files do not count.
    """
    path = library / "recipes" / f"{runs.choose('notebook', notebook[:2], RECIPES)}.py"
    todo, found = [(path, "run"), (path, "training_step")], {}
    while todo:
        path, name = place = todo.pop()
        if place not in found and name in (known := _definitions(path, library)):
            found[place], uses = known[name]
            todo += uses
    code = [f"{path.relative_to(library)} {name} {what}" for (path, name), what in found.items()]
    return hashlib.sha256("\n".join(sorted(code)).encode()).hexdigest()[:12]


@functools.cache
def _definitions(path: Path, library: Path) -> dict[str, tuple[str, list[tuple[Path, str]]]]:
    """What stands at the top of a file: name -> what it does, and which other names (with their files) it uses."""
    tree = files.without_words(ast.parse(path.read_text()))
    imported, nodes = {}, {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "reidkit":
            folder = library.joinpath(*node.module.split(".")[1:])
            for alias in node.names:
                module = folder / f"{alias.name}.py"
                imported[alias.asname or alias.name] = (module, "") if module.exists() else (_file(folder), alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            nodes[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            nodes |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    definitions = {}
    for name, node in nodes.items():
        if name in NAMED_BY_PARAMETERS:
            continue
        uses = []
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                module, symbol = imported.get(part.value.id, (None, None))
                uses += [(module, part.attr)] if symbol == "" else []
            elif isinstance(part, ast.Name):
                uses += [imported[part.id]] if part.id in imported else [(path, part.id)]
        uses = [(file, used) for file, used in uses if used and file.stem not in WITHOUT_EFFECT]
        definitions[name] = ast.dump(node), uses
    return definitions


def _file(module: Path) -> Path:
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def expand(notebook: str, names: Sequence[str]) -> list[str]:
    """The variants behind names of variants and of the recipe's groups `STUDIES`; all variants behind no name.

    >>> expand("02", ["knobs"])[:3]
    ['default', 'camera_colour_easy', 'camera_colour_hard']
    """
    variants, groups = recipe(notebook).VARIANTS, recipe(notebook).STUDIES
    options = {name: (name,) for name in variants} | groups
    found = [variant for name in names for variant in runs.choose("variant", name, options)]
    return list(dict.fromkeys(found or variants))


def plan(
    notebook: str,
    preset: str,
    *,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    changes: Mapping[str, int | float | str | bool] | None = None,
) -> list[Job]:
    """List the runs of a study, seed by seed, so that a study broken off still holds whole pairs.

    Where the people are drawn, each seed also draws a city of its own: what holds over seeds then holds over cities.

    Args:
        notebook: "02" or "02_baseline".
        preset: size of the runs.
        variants: keys of the recipe's `VARIANTS`, or of its groups `STUDIES`; all variants where left out.
        seeds: of the trainings, and of the cities.
        changes: other parameters, the same for all runs.

    Raises:
        ValueError: no seed, or an unknown notebook, preset, variant or parameter; the nearest is named.

    >>> [job.name for job in plan("02", "tiny", variants=["softmax", "neck"], seeds=[0])]
    ['02.tiny.softmax.0', '02.tiny.neck.0']
    """
    notebook, changes = notebook[:2], dict(changes or {})
    drawn = runs.preset(notebook, preset).get("dataset") in CITIES and "city_seed" not in changes
    jobs = [
        Job(notebook, preset, variant, seed, {"city_seed": seed, **changes} if drawn else changes)
        for seed in seeds
        for variant in expand(notebook, variants)
    ]
    if not jobs:
        raise ValueError("a study needs at least one seed; name them as in --seeds 0,1,2.")
    for job in jobs:
        _ = job.params  # unknown names fail now, not in an hour
    return jobs


def run_study(
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    keep: bool = False,
    folder: str | Path = runs.RESULTS,
    ledger: str | Path = "",
    engine: str = "processes",
    address: str = "",
    progress: bool = True,
) -> list[str]:
    """Run what is not done yet, several at a time, each in a process of its own.

    A study that was killed is started again with the same call: finished runs are skipped, unfinished ones go on from
    their last epoch. Two studies may share runs; the second waits for the first and then finds them done.

    Args:
        jobs: from `plan`.
        workers: runs at a time; 0 takes one for each GPU, or without one, for each core.
        keep: leave runs alone that were recorded with the same parameters by other code.
        folder: where result files go.
        ledger: file of JSON lines to add the events to, with the logs beside it; by default in `runs/studies`.
        engine: "processes" of this machine, or "ray".
        address: of a Ray cluster to join, "auto" or host:port; by default Ray runs on this machine only.
        progress: show a table, or in a log a line for each finished run.

    Returns:
        The names of the runs that failed, with the reason; empty when the study is complete.

    Raises:
        ValueError: Ray is not there, or a machine of its cluster has another copy of the project.
    """
    folder = Path(folder).absolute()
    ledger = Path(ledger or runs.ROOT / "runs" / "studies" / f"{jobs[0].notebook}.{jobs[0].preset}.jsonl").absolute()
    fine = ("done", "stale") if keep else ("done",)
    todo = [job for job in jobs if job.state(folder) not in fine]
    note(f"{len(jobs) - len(todo)} of {len(jobs)} runs are done", enabled=progress)
    if not todo:
        return []
    rows = [Row(job.name) for job in todo]
    waiting, busy, failed, start = list(range(len(todo))), set(), [], time.monotonic()
    pool, board = _engine(engine, address, workers, folder, ledger.parent), Board(rows, enabled=progress)
    try:
        while waiting or busy:
            while waiting and pool.room():
                busy.add(number := waiting.pop(0))
                job = todo[number]
                pool.start(number, job, expected=_expected(job), near=rows[number].place)
            for number, news in pool.poll():
                job, row = todo[number], rows[number]
                _settle(job, row, news, folder, ledger, board)
                busy -= {number} if row.state != "running" else set()
                waiting += [number] if row.state == "waiting" else []
                failed += [f"{job.name}: {news['reason']}"] if row.state == "failed" else []
            board.draw()
    finally:
        board.clear()
        pool.close()
    done = len(jobs) - len(failed)
    note(f"{done} of {len(jobs)} runs are done, after {time.monotonic() - start:.0f} s", enabled=progress)
    return failed


def _engine(name: str, address: str, workers: int, folder: Path, logs: Path) -> "_Processes | cluster.Ray":
    if runs.choose("engine", name, dict.fromkeys(ENGINES, name)) == "ray":
        study = {"call": CALL, "folder": str(folder), "logs": str(logs), "environment": ALONE, "dropped": NOT_PASSED_ON}
        return cluster.Ray(workers=workers, address=address, study=study)
    if address:
        raise ValueError("an address is that of a Ray cluster; ask for it by --engine ray.")
    return _Processes(workers, folder, logs)


def _settle(job: Job, row: Row, news: dict[str, Any], folder: Path, ledger: Path, board: Board) -> None:
    """Write down what happened to a run, say it, and decide what comes next; a reason is added to bad news."""
    row.node, row.place = news.get("node", row.node), news.get("place", row.place)
    if news["state"] == "running":
        row.state, row.since, row.tries = "running", time.monotonic(), row.tries + 1
        files.append_json(ledger, _event("start", job, attempt=row.tries, node=row.node))
        return
    facts = {"seconds": round(row.spent(), 1), "node": row.node}
    if "code" in news:
        news |= _ending(news["code"], news["said"])
    if "log" in news:
        files.write_text(ledger.parent / f"{job.name}.log", news["log"])
    if "result" in news:
        news |= _kept(job, news["result"], folder)
    row.seconds, row.state = facts["seconds"], news["state"]
    if row.state == "done":
        files.append_json(ledger, _event("done", job, **facts))
        board.say(f"{job.name}: done in {row.seconds:.0f} s")
        return
    files.append_json(ledger, _event("failed", job, **facts, reason=news["reason"]))
    board.say(f"{job.name}: failed ({news['reason']})")
    if row.state == "refused":
        raise ValueError(news["reason"])
    row.failures[row.state] += 1
    most = LOSSES if row.state == "lost" else TRIES
    row.state = "waiting" if row.failures[row.state] < most else "failed"


def _ending(code: int, said: str) -> dict[str, str]:
    """What the exit code of a run's process and the last line of its log mean."""
    reason = said if said and code > 0 else f"the process ended with code {code}"
    state = {0: "done", REFUSED: "refused"}.get(code, "lost" if code < 0 else "failed")
    return {"state": state, "reason": reason}


def _kept(job: Job, values: dict[str, Any], folder: Path) -> dict[str, str]:
    """Record a result that was made elsewhere, if it is of this run."""
    with tempfile.TemporaryDirectory() as here:
        files.write_json(Path(here) / f"{job.name}.json", values)
        result = job.recorded(here)
    if result is None:
        return {"state": "failed", "reason": "the result that came back is of a run with other parameters"}
    runs.save_result(result, folder)
    return {}


def verify(
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    folder: str | Path = runs.RESULTS,
    ledger: str | Path = "",
    engine: str = "processes",
    address: str = "",
) -> list[str]:
    """Repeat one recorded run of each variant with today's code; where every number is the same, all seeds stay valid.

    Code changes that should change no number (a faster loop, a file split in two) need not cost a whole study. The
    results that are found valid get the digest of today's code, and a line that says how that was found.

    Args:
        jobs: from `plan`; only those that were recorded with other code are looked at.
        workers, folder, ledger, engine, address: as in `run_study`.

    Returns:
        The names of the runs that came out differently, or failed; their results are left as they are.
    """
    folder, different = Path(folder), []
    stale = [job for job in jobs if job.state(folder) == "stale"]
    first = {job.variant: job for job in reversed(stale)}
    if not first:
        return []
    with tempfile.TemporaryDirectory() as again:
        run_study(list(first.values()), workers=workers, folder=again, ledger=ledger, engine=engine, address=address)
        for sample in first.values():
            old, new = sample.recorded(folder), sample.recorded(again)
            if new is None or (old.metrics, old.per_query) != (new.metrics, new.per_query):
                different.append(sample.name)
                continue
            made = {"recipe": recipe_digest(sample.notebook), "verified": f"{sample.name} gave the same numbers again"}
            for result in (job.recorded(folder) for job in stale if job.variant == sample.variant):
                runs.save_result(dataclasses.replace(result, provenance=result.provenance | made), folder)
    return different


class _Processes:
    """The engine of a study that runs on this machine alone."""

    def __init__(self, workers: int, folder: Path, logs: Path):
        self.slots, self.folder, self.logs = _slots(workers), folder, logs
        self.given: dict[int, tuple[Job, int]] = {}  # by the number of a run: the run, and its slot
        self.processes: dict[int, subprocess.Popen] = {}

    def room(self) -> bool:
        """Whether a slot is free."""
        return len(self.given) < len(self.slots)

    def start(self, number: int, job: Job, **_: Any) -> None:
        """Give a run a slot; it begins with the next `poll`."""
        taken = {slot for _, slot in self.given.values()}
        self.given[number] = job, min(set(range(len(self.slots))) - taken)

    def poll(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What happened since the last look; that a run begins is said just before it does."""
        for number in self.given.keys() - self.processes.keys():
            yield number, {"state": "running", "node": platform.node()}
            job, slot = self.given[number]
            self.processes[number] = _start(job, self.folder, self.logs, self.slots[slot])
        time.sleep(0.1)
        for number in [number for number, process in self.processes.items() if process.poll() is not None]:
            code, (job, _) = self.processes.pop(number).returncode, self.given.pop(number)
            yield number, {"state": "ended", "code": code, "said": cluster.last_line(self.logs / f"{job.name}.log")}

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def _slots(workers: int) -> list[dict[str, str]]:
    """The environment of each process that runs at the same time: one thread, and a GPU of its own if there are any."""
    gpus = torch.cuda.device_count()
    count = workers or gpus or os.cpu_count() or 1
    return [ALONE | ({"CUDA_VISIBLE_DEVICES": str(k % gpus)} if gpus else {}) for k in range(count)]


def _start(job: Job, folder: Path, logs: Path, environment: dict[str, str]) -> subprocess.Popen:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
    with (logs / f"{job.name}.log").open("w") as handle:
        return subprocess.Popen(
            [sys.executable, "-c", CALL, json.dumps(asdict(job)), folder, logs / f".{job.name}.lock", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=ours | environment,
        )


def work(job: str, folder: str, lock: str, parent: str, expected: str = "{}") -> None:
    """What a process of a study runs: one job, unless another process has done it meanwhile.

    Args:
        job: as JSON.
        folder: of the results.
        lock: a file that keeps two processes from doing the same; by default in `runs/studies`.
        parent: the process to end with.
        expected: what `_expected` says where the study was started, as JSON; with another copy of the project the run
            is refused.
    """
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    todo = Job(**json.loads(job))
    made = {"recipe": recipe_digest(todo.notebook)}  # of the code that runs, whatever is edited meanwhile
    if other := [name for name, value in json.loads(expected).items() if value != _expected(todo)[name]]:
        print(
            f"the project on {platform.node()} is not that which started the study: its {' and '.join(other)} for "
            f"{todo.name} differ; bring both to the same commit and start the study again.",
            file=sys.stderr,
        )
        sys.exit(REFUSED)
    with files.lock(lock or runs.ROOT / "runs" / "studies" / f".{todo.name}.lock"):
        if todo.state(Path(folder)) == "done":
            return
        try:
            result = recipe(todo.notebook).run(
                todo.variant, preset=todo.preset, seed=todo.seed, progress=False, **todo.changes
            )
        except (ValueError, OSError, FloatingPointError) as error:
            sys.exit(" ".join(str(error).split()))
        runs.save_result(dataclasses.replace(result, provenance=result.provenance | made), folder)


def _expected(job: Job) -> dict[str, Any]:
    """What must be equal on two machines for a run to be the same on both."""
    return {"code": recipe_digest(job.notebook), "parameters": json.loads(json.dumps(runs.public(job.params)))}


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: a run goes on only as part of its study."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _event(event: str, job: Job, **facts: Any) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    return {"time": now, "event": event, "run": job.name, "recipe": recipe_digest(job.notebook), **facts}
