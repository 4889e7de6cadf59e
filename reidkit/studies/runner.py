"""Studies: many runs of one recipe, several at a time, that may be killed at any moment and then go on.

A run is done when its result file holds these parameters, made by this code. Beside its numbers a result keeps those of
a **probe**, the same run cut down to a few steps: when the code has changed, the probe is repeated in seconds, and if
it gives the same bits, the result is one of today's code too.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from reidkit import claims, files, parameters, runs
from reidkit.parameters import Parameters, Scalar, choose
from reidkit.progress import bar, note
from reidkit.recipes import driver, generators
from reidkit.recipes.driver import check_writable, settings
from reidkit.recipes.sources import ARCHIVES, CITIES, datasets_of, find_city, is_there, open_split
from reidkit.recipes.supervised import check_weights
from reidkit.studies import on_ray

ATTEMPTS = 5  # how often a run may be begun: whatever kills it from outside, it goes on where it was
WORKER = "import sys; from reidkit.studies.runner import work; work(*sys.argv[1:])"
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# what makes a run a probe: each recipe has some of these parameters; what a variant is about stays
SHORT = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "stage_one_epochs": 1,
    "gan_epochs": 1,
    "gan_steps": 4,
    "amount": 64,
    "enlarging_factor": 0.5,
}
NOT_PASSED_ON = ("REIDKIT_LIVE", "REIDKIT_KEEP", "JPY_", "MPLBACKEND")  # beginnings of variables of a notebook


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
    changes: dict[str, Scalar] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the result file, without its ending."""
        return f"{self.notebook}.{self.preset}.{self.variant}.{self.seed}"

    @property
    def settings(self) -> Parameters:
        """All parameters of the run."""
        made_by, changes = recipe(self.notebook), {"seed": self.seed, **self.changes}
        kind, variants = made_by.Parameters, made_by.VARIANTS
        return settings(runs.NOTEBOOKS[self.notebook], kind, variants, self.variant, preset=self.preset, **changes)

    @property
    def params(self) -> dict[str, Scalar]:
        """All parameters of the run, as a result records them."""
        return runs.public(self.settings.values())

    @property
    def probe(self) -> "Job":
        """The same run cut down to a few steps; on Market-1501 it searches among held-out training identities."""
        known = self.params
        changes = {name: value for name, value in SHORT.items() if known.get(name)}  # 0 means: none, or all there are
        if known["dataset"] == "market1501":
            changes["dataset"] = "market1501_held_out"
        return dataclasses.replace(self, changes={**self.changes, **changes})

    @property
    def missing(self) -> str:
        """Another archive that the variant needs and that is not there; empty where none is."""
        root = self.changes.get("data_root", "")
        others = needs(self.notebook, self.preset, self.variant, self.changes)
        return ", ".join(name for name in others if not is_there(name, data_root=root))

    def recorded(self, folder: str | Path = "") -> runs.Result | None:
        """The result of this very run in a folder, whatever code made it; what it does not name had its default.

        Where the archives are is no matter.
        """
        somewhere = {"data_root": ""}
        defaults, wanted = recipe(self.notebook).Parameters().values(), self.params | somewhere
        found = runs.load_results(self.notebook, self.preset, self.variant, folder=folder)
        return next((r for r in found if r.seed == self.seed and {**defaults, **r.params} | somewhere == wanted), None)

    def state(self, folder: str | Path = "") -> str:
        """ "done", "stale" (recorded with other code) or "missing" (not recorded, or with other parameters)."""
        result = self.recorded(folder)
        return "missing" if result is None else "stale" if result.stale else "done"


def recipe(notebook: str) -> ModuleType:
    """The recipe of a notebook, loaded only now.

    Raises:
        ValueError: the notebook has no recipe.

    >>> recipe("03").__name__
    'reidkit.recipes.ranking'
    """
    folder = Path(__file__).parents[1] / "recipes"
    known = {number: name for number, name in runs.NOTEBOOKS.items() if (folder / f"{name}.py").is_file()}
    return importlib.import_module(f"reidkit.recipes.{choose('notebook', notebook[:2], known)}")


def needs(notebook: str, preset: str, variant: str, changes: Mapping[str, Scalar] | None = None) -> list[str]:
    """The archives that a variant opens beside those of the preset's other variants.

    >>> needs("03", "market1501", "lin_there"), needs("03", "market1501", "default"), needs("03", "tiny", "lin_there")
    (['dukemtmc'], [], [])
    """
    kind, variants = recipe(notebook).Parameters, recipe(notebook).VARIANTS
    usual = kind.of({**parameters.preset(notebook[:2], preset), **(changes or {})})
    known = datasets_of(usual).values()
    found = datasets_of(usual.but(**variants[variant].changes)).values()
    return [name for name in dict.fromkeys(found) if name in ARCHIVES and name not in known]


def expand(notebook: str, names: Sequence[str]) -> list[str]:
    """The variants behind names of variants and of groups of them; all variants behind no name.

    >>> expand("02", ["knobs"])[:3]
    ['default', 'camera_colour_easy', 'light_easy']
    """
    variants = recipe(notebook).VARIANTS
    options = {name: (name,) for name in variants} | claims.groups(notebook, variants)
    found = [variant for name in names for variant in choose("variant", name, options)]
    return list(dict.fromkeys(found or variants))


def plan(
    notebook: str,
    preset: str,
    *,
    variants: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    changes: Mapping[str, Scalar] | None = None,
) -> list[Job]:
    """List the runs of a study, seed by seed, so that a study broken off still holds whole pairs.

    Where the people are rendered, each seed also renders a city of its own: what holds over seeds then holds over
    cities.

    Args:
        notebook: "02" or "02_baseline".
        preset: size of the runs.
        variants: keys of the recipe's `VARIANTS`, or names of groups of them; all variants where left out.
        seeds: of the trainings, and of the cities.
        changes: other parameters, the same for all runs.

    Raises:
        ValueError: no seed, or an unknown notebook, preset, variant or parameter; the nearest is named.

    >>> [job.name for job in plan("02", "tiny", variants=["softmax", "neck"], seeds=[0])]
    ['02.tiny.softmax.0', '02.tiny.neck.0']
    """
    notebook, changes = notebook[:2], dict(changes or {})
    usual = {**recipe(notebook).Parameters().values(), **parameters.preset(notebook, preset), **changes}
    rendered = usual["dataset"] in CITIES and "city_seed" not in changes
    jobs = [
        Job(notebook, preset, variant, seed, {"city_seed": seed, **changes} if rendered else changes)
        for seed, variant in itertools.product(seeds, expand(notebook, variants))
    ]
    if not jobs:
        raise ValueError("a study needs at least one seed; name them as in --seeds 0,1,2.")
    for job in jobs:
        _ = job.params  # what is wrong is said now, not in an hour
    return jobs


def check(params: Parameters, out: Path, what: str) -> None:
    """Open the archives and weights that parameters name: what is missing is told by who would read it.

    A city is rendered when it is wanted; it must be there, or its folder one that can be written to.

    Args:
        params: of a recipe or a notebook.
        out: the folder, absolute, that `what` goes to.
        what: to be written, for the error message.

    Raises:
        ValueError: something is not there, does not fit, or cannot be written.
    """
    values = params.values()
    root = values.get("data_root", "")
    for name, dataset in datasets_of(params).items():
        choose(name, dataset, CITIES | ARCHIVES)
        if dataset in ARCHIVES:
            open_split(dataset, data_root=root)
        elif root and not (runs.ROOT / root).is_dir():
            raise ValueError(f"data_root is {root}, which is no folder; make it, or leave data_root out.")
        else:
            own, knobs = ("source", "") if name == "source_dataset" else ("city", values.get("knobs", ""))
            city = {"preset": values[f"{own}_preset"], "city_seed": values[f"{own}_seed"], "knobs": knobs}
            find_city(dataset, data_root=root, **city)
    with contextlib.redirect_stdout(io.StringIO()):  # what is said of weights is said when they are used
        if "weights" in values:
            check_weights(params if isinstance(params, driver.Parameters) else _baseline(values))
        if isinstance(params, generators.Parameters):
            generators.check(params)
    check_writable(out, what)


def _baseline(values: Mapping[str, Scalar]) -> driver.Parameters:
    """The parameters of the baseline that a notebook without a recipe of its own trains."""
    kind = recipe("02").Parameters
    shared = {name: value for name, value in values.items() if name in kind().values()}
    return kind.of(parameters.preset("02", values["preset"]) | shared)


def check_all(jobs: Sequence[Job], folder: Path) -> None:
    """`check` whatever differs between jobs; what needs another archive that is not there is not run, and not asked.

    Raises:
        ValueError: as `check`.
    """
    numbers = ("seed", "epochs", "steps_per_epoch", "lr")  # decide nothing that could be missing
    found = {json.dumps([v for k, v in job.params.items() if k not in numbers]): job for job in jobs if not job.missing}
    for job in found.values():
        check(job.settings, folder.absolute(), "the result")


def run_study(
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    keep: bool = False,
    folder: str | Path = "",
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
        folder: where result files go; `figures/results` where left out.
        engine: "processes" of this machine, or "ray".
        address: of a Ray cluster to join, "auto" or host:port; by default Ray runs on this machine only.
        progress: show a bar, and a line for each finished run.

    Returns:
        The names of the runs that failed, with the reason; empty when the study is complete, but for rows that need
        another archive than the preset's, which are left out, and named.

    Raises:
        ValueError: Ray is not there, or a machine of its cluster has another copy of the project.
    """
    folder, fine = Path(folder or runs.RESULTS).absolute(), ("done", "stale") if keep else ("done",)
    todo = [job for job in jobs if job.state(folder) not in fine]
    note(f"{len(jobs) - len(todo)} of {len(jobs)} runs are done", enabled=progress)
    for job in (job for job in todo if engine == "processes" and job.missing):
        note(f"{job.name}: not run, needs {job.missing}", enabled=progress)
        todo = [other for other in todo if other is not job]
    where = {"workers": workers, "engine": engine, "address": address, "progress": progress}
    return [f"{job.name}: {reason}" for job, reason in _finished(todo, folder, **where) if reason]


def _finished(
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 0,
    engine: str = "processes",
    address: str = "",
    progress: bool = True,
) -> Iterator[tuple[Job, str]]:
    """Run jobs, and give each when it has ended, with the reason if it failed."""
    start = choose("engine", engine, {"processes": _here, "ray": _on_ray})
    if address and engine != "ray":
        raise ValueError("an address is that of a Ray cluster; ask for it by --engine ray.")
    begun = time.monotonic()
    with bar(total=len(jobs), title="study", unit="run", enabled=progress) as done:
        for job, reason in start(jobs, workers=workers, folder=folder, address=address):
            done.update()
            what = f"failed ({reason})" if reason else f"done, {time.monotonic() - begun:.0f} s after the beginning"
            note(f"{job.name}: {what}", enabled=progress)
            yield job, reason


def _here(jobs: Sequence[Job], *, workers: int, folder: Path, address: str) -> Iterator[tuple[Job, str]]:
    """Each job in a process of this machine, and why it failed; a process that is killed is started again."""
    gpus = torch.cuda.device_count()
    count = workers or gpus or os.cpu_count() or 1
    slots = [{"CUDA_VISIBLE_DEVICES": str(k % gpus)} if gpus else {} for k in range(count)]
    waiting, running = [(job, 1) for job in jobs], {}
    try:
        while waiting or running:
            while waiting and slots:
                (job, attempt), slot = waiting.pop(0), slots.pop(0)
                running[_begin(job, folder, slot)] = job, attempt, slot
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                job, attempt, slot = running.pop(process)
                slots.append(slot)
                if process.returncode < 0 and attempt < ATTEMPTS:
                    waiting.insert(0, (job, attempt + 1))
                else:
                    yield job, _reason(job, process.returncode)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _on_ray(jobs: Sequence[Job], **where: Any) -> Iterator[tuple[Job, str]]:
    """Each job as a task of Ray, and why it failed."""
    return on_ray.run(jobs, task=there, expected=expected, attempts=ATTEMPTS, environment=ALONE, **where)


def there(job: Job, wanted: Mapping[str, Any]) -> str:
    """Do a run on the machine where Ray has put it; returns the text of its result file.

    Raises:
        LookupError: the machine has another copy of the project.
    """
    if other := [name for name, value in expected(job).items() if value != wanted[name]]:
        raise LookupError(
            f"the project on {platform.node()} is not that which started the study: its {' and '.join(other)} for "
            f"{job.name} differ; bring both to the same commit and start the study again."
        )
    with tempfile.TemporaryDirectory(prefix="reidkit-") as folder:
        do(job, Path(folder))
        return (Path(folder) / f"{job.name}.json").read_text()


def _begin(job: Job, folder: Path, slot: Mapping[str, str]) -> subprocess.Popen:
    """The process of a run; what it says goes into a log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
    call = [sys.executable, "-c", WORKER, json.dumps(asdict(job)), str(folder), str(os.getpid())]
    files.write_text(_log(job), "")  # which says why, if it cannot be written
    with _log(job).open("w") as handle:
        options = {"stdin": subprocess.DEVNULL, "stdout": handle, "stderr": handle}
        return subprocess.Popen(call, env=environment | ALONE | slot, **options)


def _log(job: Job) -> Path:
    return runs.ROOT / "runs" / "studies" / f"{job.name}.log"


def _reason(job: Job, status: int) -> str:
    """Why a run failed: the last line of its log, or how its process ended; empty if it did not fail."""
    said = _log(job).read_text(errors="replace").strip().splitlines()
    return "" if status == 0 else said[-1] if status > 0 and said else f"its process ended with code {status}"


def work(job: str, folder: str, parent: str = "") -> None:
    """What a process of a study runs: one job, unless another process has done it meanwhile.

    Args:
        job: as JSON.
        folder: of the results.
        parent: the process to end with.
    """
    if parent:
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    try:
        do(Job(**json.loads(job)), Path(folder))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(" ".join(str(error).split()))


def do(job: Job, folder: Path) -> None:
    """Do one run and write its result, unless that is there."""
    with files.lock(runs.ROOT / "runs" / "studies" / f".{job.name}.lock"):
        if job.state(folder) != "done":
            result = _run(job)
            with contextlib.suppress(ValueError):  # an archive of a few people is too small to hold some of them out
                result.provenance["probe"] = _bits(result if job.probe == job else _run(job.probe))
            runs.save_result(result, folder)


def _run(job: Job) -> runs.Result:
    run: Callable = recipe(job.notebook).run
    return run(job.variant, preset=job.preset, seed=job.seed, progress=False, **job.changes)


def _bits(result: runs.Result) -> str:
    """Sixteen hexadecimal digits of every number of a result."""
    return hashlib.sha256(json.dumps([result.metrics, result.per_query]).encode()).hexdigest()[:16]


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: a run goes on only as part of its study."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def expected(job: Job) -> dict[str, Any]:
    """What must be equal on two machines for a run to be the same on both."""
    return {"code": runs.digest(job.notebook), "parameters": job.params}


def verify(jobs: Sequence[Job], *, folder: str | Path = "", **options: Any) -> list[str]:
    """Ask whether recorded numbers hold with today's code: those that do get its digest, and a line that says how.

    Code changes that should change no number (a faster loop, a file split in two) need not cost a whole study. Of each
    result the probe is repeated. Results without a probe are asked in full: one run of each variant, whose numbers
    stand for all its seeds. What is found valid is stamped at once, so that a call that is killed goes on with the
    next.

    Args:
        jobs: from `plan`; only those that were recorded with other code are looked at.
        folder: where the results are.
        options: as in `run_study`.

    Returns:
        The names of the runs that came out differently, or failed; their results are left as they are.
    """
    folder, different = Path(folder or runs.RESULTS).absolute(), []
    stale = [(job, job.recorded(folder)) for job in jobs if job.state(folder) == "stale"]
    whole = [(job, result) for job, result in stale if "probe" not in result.provenance]
    asked = {job.name: (job.probe, [(job, result)]) for job, result in stale if "probe" in result.provenance}
    for job, _ in {job.variant: (job, result) for job, result in reversed(whole)}.values():
        asked[job.name] = job, [(other, result) for other, result in whole if other.variant == job.variant]
    with tempfile.TemporaryDirectory() as again:
        for sample, _ in _finished([sample for sample, _ in asked.values()], Path(again), **options):
            new, meant = sample.recorded(again), asked[sample.name][1]
            if new is None or not _same(next(result for job, result in meant if job.name == sample.name), new):
                different.append(sample.name)
                continue
            what = sample.name if sample in jobs else f"the probe of {sample.name}"
            made = {"code": new.provenance["code"], "verified": f"{what} gave the same numbers again"}
            for job, result in meant:
                stamped = {"params": job.params, "provenance": result.provenance | made}
                runs.save_result(dataclasses.replace(result, **stamped), folder)
    return different


def _same(old: runs.Result, new: runs.Result) -> bool:
    """Whether a repeated probe, or a repeated run, has the numbers that were recorded."""
    if "probe" in old.provenance:
        return old.provenance["probe"] == new.provenance["probe"]
    return (old.metrics, old.per_query) == (new.metrics, new.per_query)
