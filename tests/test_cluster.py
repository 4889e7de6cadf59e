"""Studies on Ray: a real instance on this machine, whose workers are killed, led from a process of its own."""

import contextlib
import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
from PIL import Image

from reidkit import cluster, files, runs, studies
from reidkit.board import Board, Row, table
from reidkit.studies import Job, run_study

SEED = 81632  # of no other run in this folder
FEW = {"dataset": "market1501", "epochs": 60, "steps_per_epoch": 2, "p": 2, "k": 2, "height": 32, "width": 16}
LEADER = """
import json, sys
from reidkit import studies
for stage in map(json.loads, sys.stdin):
    jobs = [studies.Job(**job) for job in stage["jobs"]]
    try:
        said = studies.run_study(jobs, workers=2, folder=stage["folder"], ledger=stage["ledger"], engine="ray")
    except KeyboardInterrupt as error:
        said = repr(error)
    print("\\n" + json.dumps(said), flush=True)
"""


def wait(happens, seconds=300):
    """Wait until `happens` gives something true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def processes(word):
    """The processes in whose command line a word stands, with their parents."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # it has ended
            if word.encode() in (path / "cmdline").read_bytes():
                found[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    return found


class Leader:
    """A process that leads studies on Ray, one after another."""

    def __init__(self, folder):
        self.folder, self.short = folder, tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets want short names
        (Path(self.short) / "rfc3987_syntax.py").write_text("raise ImportError")  # a second for each process of Ray
        own = {"HOME": self.short, "RAY_TMPDIR": self.short, "PYTHONPATH": self.short, "REIDKIT_LIVE": "1"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", LEADER], text=True, env=os.environ | own, **pipes)

    def begin(self, jobs, **stage):
        stage |= {"jobs": [dataclasses.asdict(job) for job in jobs], "folder": str(self.folder / "results")}
        stage["ledger"] = str(self.folder / "scratch" / "ledger.jsonl")
        print(json.dumps(stage), file=self.process.stdin, flush=True)

    def training(self, job, tens):
        """The process that trains a job, with its parent, once `tens` x 10 epochs, or a few more, are kept."""
        kept = runs.ROOT / "runs"
        wait(lambda: self.process.poll() or any(kept.glob(f"{job.name}.*/epoch-{tens:04d}?")))
        assert self.process.poll() is None, self.process.stderr.read()
        return wait(lambda: processes(f'"variant": "{job.variant}", "seed": {job.seed}'))

    def end(self):
        """What the study printed, and what it returned or raised."""
        lines = []
        while not (lines and lines[-1].startswith(('"', "["))):
            lines.append(self.process.stdout.readline().strip())
            assert self.process.poll() is None or lines[-1], self.process.stderr.read()
        return [line for line in lines[:-1] if line], json.loads(lines[-1])


def noise(root):
    """Four people of two cameras in the layout of Market-1501."""
    for folder, pids in (("bounding_box_train", (1, 2)), ("query", (3, 4)), ("bounding_box_test", (3, 4))):
        path = root / "market1501" / folder
        path.mkdir(parents=True)
        for pid in pids:
            for camera, shot in ((1, 0), (1, 1), (2, 0), (2, 1)):
                pixels = numpy.random.default_rng([pid, camera, shot]).integers(0, 255, (40, 20, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(path / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg")
    return str(root)


@pytest.fixture
def leader(tmp_path):
    leader = Leader(tmp_path)
    with leader.process:
        yield leader
        leader.process.kill()
    shutil.rmtree(leader.short, ignore_errors=True)
    for path in (runs.ROOT / "runs").glob(f"*.{SEED}.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: uv pip install -e ".[cluster]"')
def test_a_study_that_is_interrupted_and_whose_workers_are_killed_ends_with_the_numbers_of_any_other(leader, tmp_path):
    data = noise(tmp_path / "data")
    shutil.copytree(data, tmp_path / "broken")
    next((tmp_path / "broken" / "market1501" / "query").iterdir()).write_bytes(b"")
    changes = FEW | {"data_root": data}
    worker, process, done = (Job("02", "quick", variant, SEED, changes) for variant in ("softmax", "triplet", "neck"))
    broken = Job("02", "quick", "default", SEED, changes | {"data_root": str(tmp_path / "broken")})
    made = {"recipe": studies.recipe_digest("02")}
    before = runs.Result("02", "quick", "neck", SEED, done.params, {"mAP": 0.5}, 1.0, 1, provenance=made)
    runs.save_result(before, tmp_path / "results")

    # Ctrl-C ends everything that the study started
    leader.begin([worker])
    assert len(leader.training(worker, tens=0)) == 1 and processes(leader.short)
    leader.process.send_signal(signal.SIGINT)
    assert leader.end()[1] == "KeyboardInterrupt()"
    wait(lambda: not processes(f'"seed": {SEED}') and not processes(leader.short), 20)

    # it goes on; then a worker of Ray is killed, and the process of a run
    leader.begin([done, worker, process, broken])
    for job, victim in ((worker, "parent"), (process, "child")):
        ((child, parent),) = leader.training(job, tens=1).items()
        os.kill({"parent": parent, "child": child}[victim], signal.SIGKILL)
    lines, failed = leader.end()
    assert len(failed) == 1 and failed[0].startswith(f"{broken.name}: ") and "cannot be read as an image" in failed[0]
    assert lines[0] == "1 of 4 runs are done" and lines[-1].startswith("3 of 4 runs are done, after ")
    assert sum(line.startswith(f"{worker.name}: done in ") for line in lines) == 1
    events = [(event["event"], event["run"]) for event in files.read_lines(tmp_path / "scratch" / "ledger.jsonl")]
    assert [events.count(("start", job.name)) for job in (done, worker, process, broken)] == [0, 3, 2, studies.TRIES]
    assert [events.count(("failed", job.name)) for job in (worker, process, broken)] == [1, 1, studies.TRIES]
    leader.process.stdin.close()
    assert (leader.process.wait(), leader.process.stderr.read()) == (0, "")

    # the same without anything
    for job in (worker, process):
        alone = studies.recipe("02").run(job.variant, preset="quick", seed=SEED, progress=False, **changes)
        runs.save_result(alone, tmp_path / "alone")
        one, other = job.recorded(tmp_path / "results"), job.recorded(tmp_path / "alone")
        assert (one.metrics, one.per_query, one.paper) == (other.metrics, other.per_query, other.paper)
        told = {name: one.provenance[name] for name in ("device", "versions", "recipe")}
        assert told == {name: other.provenance[name] for name in ("device", "versions")} | made
    assert done.recorded(tmp_path / "results").metrics == {"mAP": 0.5}


class Scripted:
    """An engine that only tells what is to be told of the first run."""

    def __init__(self, *news):
        self.news, self.near = list(news), []

    def room(self):
        return True

    def start(self, number, job, *, expected, near):
        self.near.append(near)

    def poll(self):
        yield 0, {"state": "running", "node": "anna", "place": f"{len(self.near)}"}
        yield 0, self.news.pop(0)

    def close(self):
        self.near.append("closed")


def scripted(monkeypatch, tmp_path, *news):
    """What a study with a scripted engine returns, where it wanted its tries, and its ledger."""
    engine = Scripted(*news)
    monkeypatch.setattr(studies, "_engine", lambda *_: engine)
    job, ledger = Job("02", "quick", "softmax", SEED), tmp_path / "ledger.jsonl"
    failed = run_study([job], folder=tmp_path / "results", ledger=ledger, progress=False)
    return failed, engine.near, [event["event"] for event in files.read_lines(ledger)]


def test_a_run_that_is_lost_is_tried_more_often_than_one_that_fails_and_first_where_it_was(monkeypatch, tmp_path):
    killed, wrong = ({"state": "ended", "code": code, "said": "oh"} for code in (-9, 1))
    failed, near, events = scripted(monkeypatch, tmp_path, killed, wrong, dict(killed), dict(wrong))
    assert failed == [f"02.quick.softmax.{SEED}: oh"]
    assert near == ["", "1", "2", "3", "closed"] and events == ["start", "failed"] * 4
    failed, near, _ = scripted(monkeypatch, tmp_path, *({"state": "lost", "reason": "gone"} for _ in range(9)))
    assert failed == [f"02.quick.softmax.{SEED}: gone"] and len(near) == studies.LOSSES + 1


def test_a_result_of_other_parameters_is_not_recorded(monkeypatch, tmp_path):
    job = Job("02", "quick", "softmax", SEED)
    other = runs.Result("02", "quick", "softmax", SEED, job.params | {"lr": 1.0}, {}, 1.0, 1)
    values = files.read_json(runs.save_result(other, tmp_path / "there"))
    news = [{"state": "ended", "code": 0, "said": "", "result": values, "log": "all of it"} for _ in range(2)]
    failed, *_ = scripted(monkeypatch, tmp_path, *news)
    assert "of a run with other parameters" in failed[0] and not (tmp_path / "results").exists()
    assert (tmp_path / f"{job.name}.log").read_text() == "all of it"


@pytest.mark.parametrize(("part", "value"), [("code", "0123456789ab"), ("parameters", {"seed": 0})])
def test_a_machine_with_another_copy_of_the_project_refuses_and_ends_the_study(
    monkeypatch, tmp_path, capsys, part, value
):
    monkeypatch.setattr(studies, "_end_with", lambda parent: None)
    job = Job("02", "quick", "softmax", SEED)
    expected = studies._expected(job) | {part: value}
    with pytest.raises(SystemExit) as ended:
        studies.work(json.dumps(dataclasses.asdict(job)), str(tmp_path), "", "0", json.dumps(expected))
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"the project on {platform.node()} is not that which started the study: its {part} for ")
    with pytest.raises(ValueError, match="is not that which started"):
        scripted(monkeypatch, tmp_path, {"state": "ended", "code": ended.value.code, "said": said})


def test_a_screen_gets_a_table_in_its_place_and_a_log_gets_lines(monkeypatch, capsys):
    rows = [Row("02.tiny.neck.0", "running", "anna", "", 1, since=time.monotonic()), Row("02.tiny.neck.1")]
    Board(rows).draw()
    Board(rows).say("one is done")
    assert capsys.readouterr() == ("one is done\n", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    board = Board(rows)
    board.draw(), board.say("one is done"), board.clear()
    out, err = capsys.readouterr()
    head, first, second, counts = table(rows)
    assert out == "one is done\n"
    assert err == "\n".join([head, first, second, counts, "\x1b[4F\x1b[J"]) * 2
    assert [line[:6] for line in table(rows * 9, width=7, height=5)] == ["run   ", "02.tin", "02.tin", "9 runn"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_machine_works_in_the_folders_of_the_study_only_if_it_sees_them(monkeypatch, tmp_path, shared):
    monkeypatch.setenv("REIDKIT_LIVE", "1")
    call = """
import json, os, sys
job, folder, lock, parent, expected = sys.argv[1:]
facts = {"lock": lock, "parent": int(parent), "live": "REIDKIT_LIVE" in os.environ, "threads": os.environ["THREADS"]}
open(f"{folder}/02.tiny.neck.1.json", "w").write(json.dumps(facts | {"expected": json.loads(expected)}))
print("one line", "another", sep="\\n")
"""
    study = {"call": call, "folder": str(tmp_path), "logs": str(tmp_path), "environment": {"THREADS": "1"}}
    study |= {"dropped": studies.NOT_PASSED_ON, "inode": tmp_path.stat().st_ino + (not shared)}
    job = dataclasses.asdict(Job("02", "tiny", "neck", 1))
    news = cluster._done(job, {"code": "x"}, study)
    lock = str(tmp_path / ".02.tiny.neck.1.lock") if shared else ""
    made = {"lock": lock, "parent": os.getpid(), "live": False, "threads": "1", "expected": {"code": "x"}}
    log = {} if shared else {"log": "one line\nanother\n"}
    assert news == {"state": "ended", "code": 0, "said": "another", "result": made, **log}
    assert bool(list(tmp_path.iterdir())) is shared
    study["call"] = "import os; os.kill(os.getpid(), 9)"
    assert cluster._done(job, {}, study)["code"] == -9


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = Job("02", "quick", "softmax", SEED)
    with pytest.raises(ValueError, match=r"not installed here; add it by uv pip install -e "):
        run_study([job], engine="ray", folder=tmp_path, ledger=tmp_path / "ledger", progress=False)
    with pytest.raises(ValueError, match="ask for it by --engine ray"):
        run_study([job], address="auto", folder=tmp_path, ledger=tmp_path / "ledger", progress=False)


@pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: uv pip install -e ".[cluster]"')
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
from reidkit.studies import Job, run_study
try:
    run_study([Job("02", "quick", "softmax", 0)], engine="ray", address={address!r}, folder={str(tmp_path)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert re.search(sentence, done.stdout) and done.stdout.count("\n") == 2 and done.stderr == "", done.stderr
