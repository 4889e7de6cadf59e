"""Studies on Ray: each run is a task that has a GPU, or a CPU, of some machine for itself.

A machine needs the project and the data, but no folder in common with the others: results come back with the task. The
task only minds a process that does the run, the same as without Ray, and it needs nothing but Python's own library.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MISSING = 'the engine "ray" needs Ray, which is not installed here; add it by uv pip install -e ".[cluster]".'
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 10  # seconds, for an address to answer and for tasks to end


class Ray:
    """The engine of a study that runs on Ray: on an instance of its own, or on a cluster that is joined.

    Attributes:
        tasks: what runs or waits in Ray, by the number the study gave it.
    """

    def __init__(self, *, workers: int, address: str, study: Mapping[str, Any]):
        """Join the cluster at `address`, or without one start Ray here.

        Args:
            workers: most runs at a time; 0 leaves that to Ray.
            address: "auto", or host:port of the head.
            study: what is the same for all runs: call, folder, logs, environment, dropped.

        Raises:
            ValueError: Ray is not installed, nobody answers, or there is nothing to run on.
        """
        self.ray = _joined(address, workers)
        self.interrupted, self.before = False, None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._interrupt)
        self.most, self.tasks = workers or sys.maxsize, {}
        there = self.ray.cluster_resources()
        if not there.get("CPU"):
            self.close()
            raise ValueError(f"the cluster at {address} has no CPU; add machines by ray start --address=HOST:PORT.")
        for folder in (study["folder"], study["logs"]):
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.study = {**study, "inode": os.stat(study["folder"]).st_ino}
        self.ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        needs = {"num_cpus": 1, "num_gpus": 1 if there.get("GPU") else 0}
        self.task = self.ray.remote(num_returns="streaming", max_retries=0, **needs)(_mind)

    def room(self) -> bool:
        """Whether another run may be started."""
        return len(self.tasks) < self.most

    def start(self, number: int, job: Any, *, expected: Mapping[str, Any], near: str = "") -> None:
        """Hand a run to Ray; on a second try it goes to the machine `near`, where its last whole epoch is."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(near, soft=True)} if near else {}
        self.tasks[number] = self.task.options(**where).remote(dataclasses.asdict(job), dict(expected), self.study)

    def poll(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What happened since the last look, and after a moment at most: number and news of a run."""
        if self.interrupted:
            raise KeyboardInterrupt
        ready, _ = self.ray.wait(list(self.tasks.values()), num_returns=len(self.tasks), timeout=0.2)
        for number, task in [(number, task) for number, task in self.tasks.items() if task in ready]:
            try:
                news = self.ray.get(next(task))
            except self.ray.exceptions.RayTaskError as error:
                news = {"state": "failed", "reason": str(error).strip().splitlines()[-1]}
            except self.ray.exceptions.RayError as error:
                news = {"state": "lost", "reason": f"the worker was lost ({_first_sentence(error)})"}
            if news["state"] != "running":
                del self.tasks[number]
            yield number, news

    def close(self) -> None:
        """End what still runs, and leave the cluster; an instance of one's own ends with it."""
        for task in self.tasks.values():
            self.ray.cancel(task, force=True)
        if self.tasks:
            self.ray.wait(list(self.tasks.values()), num_returns=len(self.tasks), timeout=PATIENCE)
        self.ray.shutdown()
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def _interrupt(self, *_: Any) -> None:
        """Remember Ctrl-C: where it arrives in a callback of Ray, Python drops the exception."""
        self.interrupted = True
        raise KeyboardInterrupt


def _joined(address: str, workers: int) -> Any:
    """The module ray, connected."""
    if address.startswith("ray://"):
        raise ValueError("a study is started on a machine of its cluster; log in to one and use --address auto.")
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise ValueError(MISSING) from None
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=workers or None, include_dashboard=False, **quiet)
    except BaseException as error:  # Ray raises bare exceptions, too
        ray.shutdown()  # of what it had started by then
        if not isinstance(error, Exception):
            raise
        place = f"no Ray cluster could be joined at {address}" if address else "Ray could not be started here"
        remedy = "; if it has a token, set RAY_AUTH_MODE=token" if "Failed to connect" in str(error) else ""
        raise ValueError(f"{place} ({_first_sentence(error)}){remedy}.") from None
    ray._private.worker.print_to_stdstream = lambda *_, **__: None  # what it says about lost workers, the study says
    return ray


def _knock(address: str) -> None:
    """See that somebody answers at host:port, for which Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


# ------------------------------------------------------------------------------------------------ on the other machine


def _mind(job: dict, expected: dict, study: dict) -> Iterator[dict[str, Any]]:
    """The task: say where it runs, have the run done, and say how it ended."""
    import ray

    yield {"state": "running", "node": socket.gethostname(), "place": ray.get_runtime_context().get_node_id()}
    yield _done(job, expected, study)


def _done(job: dict, expected: dict, study: dict) -> dict[str, Any]:
    """Do a run in a process, in the study's own folders if this machine sees them, and in passing ones if not."""
    name, folder = "{notebook}.{preset}.{variant}.{seed}".format(**job), Path(study["folder"])
    shared = folder.is_dir() and folder.stat().st_ino == study["inode"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(study["dropped"])}
    with contextlib.ExitStack() as stack:
        own = "" if shared else stack.enter_context(tempfile.TemporaryDirectory(prefix="reidkit-"))
        folder, logs = Path(own or folder), Path(own or study["logs"])
        log, lock = logs / f"{name}.log", logs / f".{name}.lock" if shared else ""
        arguments = (json.dumps(job), folder, lock, os.getpid(), json.dumps(expected))
        with log.open("w") as handle:
            process = subprocess.Popen(
                [sys.executable, "-c", study["call"], *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=environment | study["environment"],
            )
        stack.callback(process.kill)
        code = process.wait()
        result = {"result": json.loads((folder / f"{name}.json").read_text())} if code == 0 else {}
        told = {} if shared else {"log": log.read_text(errors="replace")}
        return {"state": "ended", "code": code, "said": last_line(log), **told, **result}


def last_line(log: Path) -> str:
    """The last line of a log, where an error says what it is."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
