"""Studies on Ray: a real instance on this machine, whose workers are killed, led from a process of its own."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import miniatures
from reidkit import runs
from reidkit.studies import runner
from reidkit.studies.runner import Job, run_study

SEED = 81632  # of no other run
FEW = {"dataset": "market1501", "epochs": 60, "steps_per_epoch": 2, "p": 2, "k": 2, "height": 32, "width": 16}
FEW["weights"] = "scratch"
LEADER = """
import json, sys
from reidkit.studies import runner
for stage in map(json.loads, sys.stdin):
    jobs = [runner.Job(**job) for job in stage["jobs"]]
    try:
        said = runner.run_study(jobs, workers=2, folder=stage["folder"], engine="ray")
    except KeyboardInterrupt as error:
        said = repr(error)
    print("\\n" + json.dumps(said), flush=True)
"""
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: pip install "reidkit[cluster]"')


def wait(happens, seconds=300):
    """Wait until `happens` gives something true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def processes(*words):
    """The processes in whose command line or environment these words stand."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            found += [int(path.name)] if all(word.encode() in text for word in words) else []
    return found


class Leader:
    """A process that leads studies on Ray, one after another; all that it does lies in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.short = folder, tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets want short names
        own = {"HOME": self.short, "RAY_TMPDIR": self.short, "REIDKIT_HOME": str(folder)}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", LEADER], text=True, env=os.environ | own, **pipes)

    def begin(self, jobs):
        stage = {"jobs": [dataclasses.asdict(job) for job in jobs], "folder": str(self.folder / "results")}
        print(json.dumps(stage), file=self.process.stdin, flush=True)

    def epochs(self, job):
        """What is kept of a job's training."""
        return {path.name for path in (self.folder / "runs").glob(f"baseline.quick.{job.variant}.{SEED}.*/epoch-*")}

    def begin_training(self, jobs, job):
        """Begin a study, and wait until an epoch of a job has been done in it."""
        before = self.epochs(job)
        self.begin(jobs)
        wait(lambda: self.process.poll() or self.epochs(job) - before)
        assert self.process.poll() is None, self.process.stderr.read()

    def end(self):
        """What the study printed, and what it returned or raised."""
        lines = []
        while not (lines and lines[-1].startswith(('"', "["))):
            lines.append(self.process.stdout.readline().strip())
            assert self.process.poll() is None or lines[-1], self.process.stderr.read()
        return [line for line in lines[:-1] if line], json.loads(lines[-1])


@pytest.fixture
def leader(tmp_path):
    leader = Leader(tmp_path)
    with leader.process:
        yield leader
        leader.process.kill()
    shutil.rmtree(leader.short, ignore_errors=True)


@pytest.mark.slow
@needs_ray
def test_a_study_that_is_interrupted_and_whose_worker_is_killed_ends_with_the_numbers_of_any_other(leader, tmp_path):
    changes = FEW | {"data_root": miniatures.four_people(tmp_path / "data")}
    shutil.copytree(changes["data_root"], tmp_path / "broken")
    next((tmp_path / "broken" / "market1501" / "query").iterdir()).write_bytes(b"")
    killed, other, done = (Job("02", "quick", variant, SEED, changes) for variant in ("softmax", "triplet", "neck"))
    broken = Job("02", "quick", "default", SEED, changes | {"data_root": str(tmp_path / "broken")})
    made = {"code": runs.digest("02")}
    before = runs.Result("02", "quick", "neck", SEED, done.params, {"mAP": 0.5}, 1.0, 1, provenance=made)
    runs.save_result(before, tmp_path / "results")

    # Ctrl-C ends everything that the study started
    leader.begin_training([killed], killed)
    leader.process.send_signal(signal.SIGINT)
    assert leader.end()[1] == "KeyboardInterrupt()"
    wait(lambda: not [pid for pid in processes(leader.short) if pid != leader.process.pid], 30)

    # it goes on; then the worker that trains is killed
    leader.begin_training([done, killed, other, broken], killed)
    workers = processes("ray::there")
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    lines, failed = leader.end()
    assert len(failed) == 1 and failed[0].startswith(f"{broken.name}: ") and "cannot be read as an image" in failed[0]
    assert lines[0] == "1 of 4 runs are done"
    assert sum(line.startswith(f"{killed.name}: done") for line in lines) == 1
    leader.process.stdin.close()
    assert (leader.process.wait(), leader.process.stderr.read()) == (0, "")

    # the same without anything
    for job in (killed, other):
        alone = runner.recipe("02").run(job.variant, preset="quick", seed=SEED, progress=False, **changes)
        runs.save_result(alone, tmp_path / "alone")
        one, two = job.recorded(tmp_path / "results"), job.recorded(tmp_path / "alone")
        assert (one.metrics, one.per_query, one.paper) == (two.metrics, two.per_query, two.paper)
        told = {name: one.provenance[name] for name in ("device", "versions", "code")}
        assert told == {name: two.provenance[name] for name in ("device", "versions")} | made
    assert done.recorded(tmp_path / "results").metrics == {"mAP": 0.5}


@pytest.mark.parametrize(("part", "value"), [("code", "0123456789ab"), ("parameters", {"seed": 0})])
def test_a_machine_with_another_copy_of_the_project_refuses(part, value):
    job = Job("02", "quick", "softmax", SEED)
    with pytest.raises(LookupError, match=rf"is not that which started the study: its {part} for 02.quick.softmax"):
        runner.there(job, runner.expected(job) | {part: value})


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = Job("02", "quick", "softmax", SEED)
    with pytest.raises(ValueError, match="not installed here; add it by pip install"):
        run_study([job], engine="ray", folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="ask for it by --engine ray"):
        run_study([job], address="auto", folder=tmp_path, progress=False)


@needs_ray
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "no Ray cluster could be joined at 127.0.0.1:9 .*refused"),
        ("nobody", "no Ray cluster could be joined at nobody "),
        ("ray://127.0.0.1:10001", "is started on a machine of its cluster"),
    ],
)
def test_an_address_at_which_nobody_answers(tmp_path, address, sentence):
    script = f"""
from reidkit.studies.runner import Job, run_study
try:
    run_study([Job("02", "quick", "softmax", 0)], engine="ray", address={address!r}, folder={str(tmp_path)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert re.search(sentence, done.stdout) and done.stdout.count("\n") == 2 and done.stderr == "", done.stderr
