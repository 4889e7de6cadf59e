"""Studies on Ray: each run is a task that has a GPU, or a CPU, of some machine for itself.

A machine needs the project and the data, but no folder in common with the others: results come back with the task. A
run whose worker is killed is begun again by Ray; on the same machine it goes on where it was.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reidkit import files

MISSING = 'the engine "ray" needs Ray, which is not installed here; add it by pip install "reidkit[cluster]".'
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENCE = 1.0  # seconds between two looks at the tasks


def run(
    jobs: Sequence[Any],
    *,
    task: Callable[[Any, Mapping[str, Any]], str],
    expected: Callable[[Any], Mapping[str, Any]],
    attempts: int,
    environment: Mapping[str, str],
    workers: int,
    folder: Path,
    address: str,
) -> Iterator[tuple[Any, str]]:
    """Run the jobs of a study as tasks, and give each when it has ended, with the reason if it failed.

    Args:
        jobs: each has a `name`.
        task: does a job where Ray has put it, and returns the text of its result file; a LookupError ends the study.
        expected: of a job, what its machine must agree with; the second argument of `task`.
        attempts: how often a run may be begun, if its worker is killed.
        environment: variables of the workers.
        workers: most runs at a time where Ray is started here; 0 leaves that to Ray.
        folder: where result files go.
        address: "auto", or host:port of the head of a cluster; empty: Ray is started here.

    Raises:
        ValueError: Ray is not installed, nobody answers, or a machine has another copy of the project.
        KeyboardInterrupt: somebody pressed Ctrl-C; all tasks are ended.
    """
    ray = _joined(address, workers, environment)
    interrupts: list[int] = []  # Ray drops an exception that is raised in one of its callbacks, so remember the signal
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        needs = {"num_cpus": 1, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}
        remote = ray.remote(**needs, max_retries=attempts - 1)(task)
        waiting = {remote.remote(job, expected(job)): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=PATIENCE)
            if interrupts:
                raise KeyboardInterrupt
            for done in ready:
                job = waiting.pop(done)
                try:
                    files.write_text(folder / f"{job.name}.json", ray.get(done))
                    yield job, ""
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, LookupError):
                        raise ValueError(str(error.cause.args[0])) from None
                    yield job, " ".join(str(error.cause).split())
                except ray.exceptions.RayError as error:
                    yield job, f"its worker was lost ({_first_sentence(error)})"
    finally:
        ray.shutdown()  # which ends the tasks of this study, on a cluster too
        signal.signal(signal.SIGINT, before)


def _joined(address: str, workers: int, environment: Mapping[str, str]) -> Any:
    """The module ray, connected."""
    if address.startswith("ray://"):
        raise ValueError("a study is started on a machine of its cluster; log in to one and use --address auto.")
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError:
        raise ValueError(MISSING) from None
    options = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": dict(environment)}}
    own = {"num_cpus": workers or None, "include_dashboard": False}
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdigit():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", **options, **({} if address else own))
    except Exception as error:  # Ray raises bare exceptions, too
        ray.shutdown()  # of what it had started by then
        place = f"no Ray cluster could be joined at {address}" if address else "Ray could not be started here"
        raise ValueError(f"{place} ({_first_sentence(error)}).") from None
    return ray


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
