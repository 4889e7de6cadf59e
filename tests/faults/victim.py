"""A process that does the library's long work in children of its own, and lets them die when and where it is told.

A line on standard input is a list of jobs that are done side by side; the line that answers tells how each ended. Only
a process that never started a thread may fork, so this is not the process of the tests; and it imports only once.
"""

import ctypes
import dataclasses
import hashlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from reidkit import code, files, runs
from reidkit.models.backbones import BACKBONES, small_resnet
from reidkit.recipes import baseline, one_shot, ranking, soft_multilabel, sparse_smoothing
from reidkit.studies import runner
from reidkit.world import city

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}  # what touches files
NEW_MOUNTS, NEW_USER, READ_ONLY, REMOUNT, PRIVATE = 0x20000, 0x10000000, 1, 32, 0x44000  # of Linux's headers
TIMED = ("results", "runs")  # folders of a study, with times and logs
ROOMY, LARGEST_FILE = 2**28, 512  # bytes

# ------------------------------------------------------------------------------------------------------------ the work


def draw(folder: Path, workers: int = 1) -> None:
    """A city of eight identities, or of sixteen for two processes, which share only what is worth it."""
    city.SIZES["quick"], city.CHUNK["cpu"] = city.Size(8 * workers, 32, 1), 2**14
    city.build_city(folder / "market", workers=workers, progress=False)


def small(folder: Path) -> dict[str, int]:
    """Let recipes work in `folder` on such a city with a thin network; gives the parameters of a short run."""
    city.SIZES["quick"] = city.Size(8, 32, 1)
    runs.ROOT, code.digest = folder, lambda *_: "pinned"  # whoever edits the library meanwhile
    BACKBONES["small_resnet"] = lambda **options: small_resnet(width=4, **options)
    return {"epochs": 4, "steps_per_epoch": 3, "p": 4, "k": 2, "height": 32, "width": 16}


RECIPES = (baseline, ranking, sparse_smoothing, one_shot, soft_multilabel)
SHORT = {  # what a run of each recipe takes beside the size of its images
    "baseline": {"epochs": 4, "steps_per_epoch": 3, "p": 4, "k": 2},
    "ranking": {"epochs": 4, "steps_per_epoch": 3, "p": 4, "k": 2},
    "sparse_smoothing": {
        **{"epochs": 2, "height": 36, "width": 18, "crop_height": 32, "crop_width": 16, "batch_size": 8, "hidden": 8},
        **{"amount": 8, "clusters": 2, "gan_init": "scratch", "gan_channels": 4, "gan_batch": 4, "gan_epochs": 2},
        **{"gan_steps": 2, "weights": ""},
    },
    "one_shot": {**{"epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "enlarging_factor": 0.4, "weights": ""}},
    "soft_multilabel": {
        **{"epochs": 3, "steps_per_epoch": 2, "source_batch": 8, "target_batch": 8, "mining_ratio": 0.1},
        **{"source_dataset": "market", "stage_one": "train", "stage_one_epochs": 2, "weights": ""},
    },
}


def train(folder: Path, data: str, checkpoint: str = "", recipe: str = "baseline", variant: str = "triplet") -> None:
    """A run of a recipe, down to the bits of its network, its embeddings and its metrics."""
    few = {name: value for name, value in small(folder).items() if name in ("height", "width")} | SHORT[recipe]
    kept = {"checkpoint": folder / checkpoint} if checkpoint else {}
    method = {module.__name__.rpartition(".")[2]: module for module in RECIPES}[recipe]
    result = method.run(variant, preset="quick", data_root=data, progress=False, **kept, **few)
    tensors = {**result.objects["model"].state_dict(), "query": result.objects["query"].x}
    bits = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    (folder / "bits.json").write_text(json.dumps({"bits": bits, "metrics": result.metrics}))


class Forked:
    """The process of one run of a study, without the seconds that a new one takes to import PyTorch."""

    def __init__(self, log: Path, *arguments: str):
        self.returncode, self.pid = None, os.fork()
        if self.pid == 0:
            os.closerange(3, 64)  # what the study holds open
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            code = 0
            try:
                runner.work(*arguments)
            except BaseException as error:
                code = 1
                os.write(2, str(error).encode())
            os._exit(code)

    def poll(self) -> int | None:
        return self.wait(os.WNOHANG)

    def wait(self, how: int = 0) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def study(folder: Path, data: str, killed_after: float = 0) -> None:
    """Four runs in two processes, one of which may be killed; then the results without times and places."""

    def begin(job: runner.Job, results: Path, slot: dict[str, str]) -> Forked:
        files.write_text(log := runner._log(job), "")
        process = Forked(log, json.dumps(dataclasses.asdict(job)), str(results), str(os.getpid()))
        started.append(process)
        if killed_after and len(started) == 1:
            threading.Timer(killed_after, process.kill).start()
        return process

    started, runner._begin = [], begin
    changes = small(folder) | {"data_root": data, "city_seed": 0}
    results = folder / TIMED[0]
    jobs = runner.plan("02", "quick", variants=["softmax", "default"], seeds=[0, 1], changes=changes)
    failed = runner.run_study(jobs, workers=2, folder=results, progress=False)
    if failed:
        raise ValueError(failed[0])
    if killed_after:
        (folder / TIMED[1] / "started.txt").write_text(str(len(started)))
    values = {path.name: files.read_json(path) for path in results.iterdir() if path.name[0] != "."}
    kept = ("metrics", "params", "per_query")
    bits = {name: {key: value[key] for key in kept} for name, value in sorted(values.items())}
    (folder / "bits.json").write_text(json.dumps(bits))


def look(folder: Path) -> None:
    """Only look at what is there."""


WORK = {"draw": draw, "train": train, "study": study, "look": look}

# ----------------------------------------------------------------------------------------------------------- the faults


def own_disk(folder: str) -> Callable | None:
    """Mount a disk in memory on `folder`, seen by this process alone and gone with it; None where that is forbidden."""
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()

    def mount(flags: int, size: int = ROOMY) -> bool:
        return libc.mount(b"none", folder.encode(), b"tmpfs", flags, f"size={size}".encode()) == 0

    if not hasattr(libc, "unshare") or libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        return None
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            if user:
                Path(f"/proc/self/{name}").write_text(text)
    except OSError:
        return None
    return mount if not libc.mount(b"none", b"/", None, PRIVATE, None) and mount(0) else None


def disk_fault(folder: str, *, room: int = 0) -> tuple[Callable, Callable] | None:
    """How a disk gets full after `room` bytes (or read-only, if 0), and well again; None where nothing does it.

    Without the right to mount a disk, no file may grow, or the folder is closed, which does not stop root.
    """
    is_root = os.geteuid() == 0
    if mount := own_disk(folder):
        bad = (REMOUNT, room) if room else (REMOUNT | READ_ONLY, ROOMY)
        return lambda: mount(*bad), lambda: mount(REMOUNT, ROOMY)
    if room:
        limit, hard = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        return lambda: resource.setrlimit(limit, (LARGEST_FILE, hard)), lambda: resource.setrlimit(limit, (hard, hard))
    return None if is_root else (lambda: os.chmod(folder, 0o555), lambda: os.chmod(folder, 0o755))


# ------------------------------------------------------------------------------------------------------------ children


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file by its place, but for those that tell the time."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    lasting = {name: path for name, path in found.items() if name.split("/")[0] not in TIMED}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in lasting.items()}


class Child:
    """One job in a process of its own.

    A job is a dictionary: `work`, its `folder` and `options`. With `operation` and `delay` it is killed that many
    seconds after it touches its files for the so manieth time. With `room` it is done on a disk of so many bytes, or on
    a read-only one if 0, and after the fault again; with `first`, options, also before the disk gets bad.
    """

    def __init__(self, job: dict):
        self.job, (reader, writer) = job, os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            try:
                report = self.perform(writer)
            except BaseException as error:
                traceback.print_exc()
                report = {"said": repr(error)}
            os.write(writer, json.dumps(report).encode())
            os._exit(0)
        os.close(writer)
        self.reader = os.fdopen(reader)

    def perform(self, writer: int) -> dict:
        """Do the job, in the child."""
        job, folder, start = self.job, Path(self.job["folder"]), time.perf_counter()
        pid, told = os.getpid(), {"said": "", "times": [], "peak": 0}
        fault = disk_fault(job["folder"], room=job["room"]) if "room" in job else None
        if "room" in job and not fault:
            return told | {"said": "impossible"}

        def count(event: str, arguments: tuple) -> None:
            if event in CHANGES and os.getpid() == pid and str(arguments[0]).startswith(job["folder"]):
                told["times"].append(time.perf_counter() - start)
                if fault:
                    disk = os.statvfs(folder)
                    told["peak"] = max(told["peak"], (disk.f_blocks - disk.f_bfree) * disk.f_frsize)
                if len(told["times"]) == job.get("operation"):
                    os.write(writer, b"\n")

        work = WORK[job["work"]]
        if "first" in job:
            work(folder, **job["first"])
        sys.addaudithook(count)
        if fault:
            fault[0]()
        try:
            work(folder, **job["options"])
        except Exception as error:
            told["said"] = f"{type(error).__name__}: {error}"
        if fault:
            told["left"] = digests(folder)
            fault[1]()
            work(folder, **job["options"])
        return told | {"files": digests(folder)}

    def wait(self) -> dict:
        """Kill it if its job says so, and tell how it ended."""
        lines = []
        if "operation" in self.job:
            lines.append(self.reader.readline())
            time.sleep(self.job["delay"])
            os.kill(self.pid, signal.SIGKILL)
        lines.append(self.reader.read())
        self.reader.close()
        if os.WIFSIGNALED(os.waitpid(self.pid, 0)[1]):
            return {"killed": True}
        return {"killed": False} | json.loads("".join(lines))


def main() -> None:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what torch imports late is imported before the forks
    for line in sys.stdin:
        children = [Child(job) for job in json.loads(line)]
        print(json.dumps([child.wait() for child in children]), flush=True)


if __name__ == "__main__":
    main()
