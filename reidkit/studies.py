"""Studies: many runs of one recipe, in several processes, that may be killed at any moment and then go on.

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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from reidkit import files, runs
from reidkit.progress import bar, note
from reidkit.recipes import RECIPES
from reidkit.recipes.sources import CITIES

LIBRARY = Path(__file__).resolve().parent
WITHOUT_EFFECT = ("files", "progress", "runs", "checkpoints")  # modules that move bytes and names, not numbers
NAMED_BY_PARAMETERS = ("VARIANTS", "STUDIES", "EFFECTS", "KNOBS", "CITIES", "ARCHIVES")  # and compared with them
TRIES = 2  # a run that failed is tried once more: the machine may have been short of memory


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
    progress: bool = True,
) -> list[str]:
    """Run what is not done yet, several at a time, each in a process of its own.

    A study that was killed is started again with the same call: finished runs are skipped, unfinished ones go on from
    their last epoch. Two studies may share runs; the second waits for the first and then finds them done.

    Args:
        jobs: from `plan`.
        workers: processes; 0 takes one for each GPU, or without one, for each core.
        keep: leave runs alone that were recorded with the same parameters by other code.
        folder: where result files go.
        ledger: file of JSON lines to add the events to, with the logs beside it; by default in `runs/studies`.
        progress: show a bar, and a line for each finished run.

    Returns:
        The names of the runs that failed, with the reason; empty when the study is complete.
    """
    folder = Path(folder)
    ledger = Path(ledger or runs.ROOT / "runs" / "studies" / f"{jobs[0].notebook}.{jobs[0].preset}.jsonl")
    logs = ledger.parent
    fine = ("done", "stale") if keep else ("done",)
    todo = [(job, 1) for job in jobs if job.state(folder) not in fine]
    note(f"{len(jobs) - len(todo)} of {len(jobs)} runs are done", enabled=progress)
    slots = _slots(workers)
    busy: dict[int, tuple[Job, int, subprocess.Popen, float]] = {}
    failed = []
    total = len(todo)
    shown = bar(title=f"study {jobs[0].notebook} ({jobs[0].preset})", total=total, unit="runs", enabled=progress)
    try:
        while todo or busy:
            for slot in [slot for slot in range(len(slots)) if slot not in busy][: len(todo)]:
                job, attempt = todo.pop(0)
                files.append_json(ledger, _event("start", job, attempt=attempt))
                busy[slot] = (job, attempt, _start(job, folder, logs, slots[slot]), time.monotonic())
            time.sleep(0.1)
            for slot in [slot for slot, (*_, process, _) in busy.items() if process.poll() is not None]:
                job, attempt, process, start = busy.pop(slot)
                seconds = round(time.monotonic() - start, 1)
                if process.returncode == 0:
                    files.append_json(ledger, _event("done", job, seconds=seconds))
                    note(f"{job.name}: done in {seconds:.0f} s", enabled=progress)
                    shown.update()
                    continue
                reason = _last_line(logs / f"{job.name}.log") or f"the process ended with code {process.returncode}"
                files.append_json(ledger, _event("failed", job, seconds=seconds, reason=reason))
                note(f"{job.name}: failed ({reason})", enabled=progress)
                if attempt < TRIES:
                    todo.append((job, attempt + 1))
                else:
                    failed.append(f"{job.name}: {reason}")
    finally:
        shown.close()
        for *_, process, _ in busy.values():
            process.kill()
            process.wait()
    return failed


def verify(
    jobs: Sequence[Job], *, workers: int = 0, folder: str | Path = runs.RESULTS, ledger: str | Path = ""
) -> list[str]:
    """Repeat one recorded run of each variant with today's code; where every number is the same, all seeds stay valid.

    Code changes that should change no number (a faster loop, a file split in two) need not cost a whole study. The
    results that are found valid get the digest of today's code, and a line that says how that was found.

    Args:
        jobs: from `plan`; only those that were recorded with other code are looked at.
        workers, folder, ledger: as in `run_study`.

    Returns:
        The names of the runs that came out differently, or failed; their results are left as they are.
    """
    folder, different = Path(folder), []
    stale = [job for job in jobs if job.state(folder) == "stale"]
    first = {job.variant: job for job in reversed(stale)}
    if not first:
        return []
    with tempfile.TemporaryDirectory() as again:
        run_study(list(first.values()), workers=workers, folder=again, ledger=ledger)
        for sample in first.values():
            old, new = sample.recorded(folder), sample.recorded(again)
            if new is None or (old.metrics, old.per_query) != (new.metrics, new.per_query):
                different.append(sample.name)
                continue
            made = {"recipe": recipe_digest(sample.notebook), "verified": f"{sample.name} gave the same numbers again"}
            for result in (job.recorded(folder) for job in stale if job.variant == sample.variant):
                runs.save_result(dataclasses.replace(result, provenance=result.provenance | made), folder)
    return different


def _slots(workers: int) -> list[dict[str, str]]:
    """The environment of each process that runs at the same time: one thread, and a GPU of its own if there are any."""
    gpus = torch.cuda.device_count()
    count = workers or gpus or os.cpu_count() or 1
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [alone | ({"CUDA_VISIBLE_DEVICES": str(k % gpus)} if gpus else {}) for k in range(count)]


def _start(job: Job, folder: Path, logs: Path, environment: dict[str, str]) -> subprocess.Popen:
    call = "import sys; from reidkit.studies import work; work(*sys.argv[1:])"
    with (logs / f"{job.name}.log").open("w") as handle:
        return subprocess.Popen(
            [sys.executable, "-c", call, json.dumps(asdict(job)), folder, logs / f".{job.name}.lock", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def work(job: str, folder: str, lock: str, parent: str) -> None:
    """What a process of a study runs: one job, unless another process has done it meanwhile."""
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    todo = Job(**json.loads(job))
    made = {"recipe": recipe_digest(todo.notebook)}  # of the code that runs, whatever is edited meanwhile
    with files.lock(lock):
        if todo.state(Path(folder)) == "done":
            return
        try:
            result = recipe(todo.notebook).run(
                todo.variant, preset=todo.preset, seed=todo.seed, progress=False, **todo.changes
            )
        except (ValueError, OSError, FloatingPointError) as error:
            sys.exit(" ".join(str(error).split()))
        runs.save_result(dataclasses.replace(result, provenance=result.provenance | made), folder)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: a run goes on only as part of its study."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _event(event: str, job: Job, **facts: Any) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    return {"time": now, "event": event, "run": job.name, "recipe": recipe_digest(job.notebook), **facts}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
