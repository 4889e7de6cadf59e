"""What is tried and what is survived: a few moments of each fault in the test suite, twenty by `make test-faults`."""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest

from reidkit import files, runs

FULL = 20
TRIES = int(os.environ.get("REIDKIT_FAULTS", "2"))  # moments of each fault
TABLE = runs.RESULTS / "faults.json"
ROWS = pytest.StashKey[dict]()


def pytest_configure(config) -> None:
    config.stash[ROWS] = {}


def pytest_terminal_summary(terminalreporter, config) -> None:
    if rows := config.stash[ROWS]:
        terminalreporter.section("faults")
        width = max(map(len, rows))
        terminalreporter.write_line(f"{'':{width}}  tried  survived")
        for name, row in rows.items():
            terminalreporter.write_line(f"{name:{width}}  {row['tried']:5}  {row['survived']:8}")


def pytest_sessionfinish(session, exitstatus) -> None:
    """The table of a whole run is recorded; it holds no time and no path, so that equal code gives equal bytes."""
    whole = not session.config.option.keyword and all(Path(place).is_dir() for place in session.config.args)
    if TRIES >= FULL and whole:
        files.write_json(TABLE, session.config.stash[ROWS])


@pytest.fixture
def tally(request):
    """`with tally("full disk"): ...` counts one try, and one survival if nothing is raised."""

    @contextlib.contextmanager
    def once(fault: str) -> Iterator[None]:
        row = request.config.stash[ROWS].setdefault(fault, {"tried": 0, "survived": 0})
        row["tried"] += 1
        yield
        row["survived"] += 1

    return once


class Victim:
    """Asks the process of victim.py to do work that comes to a bad end."""

    def __init__(self, root: Path):
        self.root, self.whole = root, {}
        script = Path(__file__).with_name("victim.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, script], text=True, **pipes)

    def side_by_side(self, *jobs: dict) -> list[dict]:
        """Do jobs at the same time."""
        print(json.dumps(jobs), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def do(self, work: str, folder: Path, *, options: dict, **job) -> dict:
        """Do one job, as `Child` of victim.py describes it."""
        return self.side_by_side(self.job(work, folder, options=options, **job))[0]

    @staticmethod
    def job(work: str, folder: Path, *, options: dict, **job) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        return {"work": work, "folder": str(folder), "options": options, **job}

    def undisturbed(self, work: str, options: dict) -> dict:
        """What the work is when nothing happens to it; done once."""
        key = json.dumps([work, options])
        if key not in self.whole:
            self.whole[key] = self.do(work, self.root / f"{len(self.whole)}", options=options)
            assert not self.whole[key]["said"]
        return self.whole[key]

    def kill(self, work: str, root: Path, *, options: dict, seed: int = 0) -> Iterator[tuple[Path, dict]]:
        """Begin a work in one folder after another and kill it each time; give the folder, and the undisturbed work.

        The moments are, in turn, equally likely in time and among the touches of files. Each is a number of touches and
        a delay, so that it lies at the same place of the work on a busy machine; one after the end is drawn again.
        """
        rng, whole = random.Random(seed), self.undisturbed(work, options)
        times = whole["times"]
        for number in itertools.count():
            at, touch = rng.uniform(0, times[-1]), rng.randint(1, len(times))
            if number % 2:
                touch = max(bisect_right(times, at), 1)
            delay = max(at - times[touch - 1], 0) if number % 2 else rng.uniform(0, 0.001)
            folder = root / f"{number}"
            if self.do(work, folder, options=options, operation=touch, delay=delay)["killed"]:
                yield folder, whole


@pytest.fixture(scope="session")
def victim(tmp_path_factory) -> Iterator[Victim]:
    victim = Victim(tmp_path_factory.mktemp("undisturbed"))
    with victim.process as process:  # which closes its input at the end, and waits
        yield victim
    assert process.returncode == 0


@pytest.fixture(scope="session")
def tries() -> int:
    return TRIES


@pytest.fixture(scope="session")
def data(victim, tmp_path_factory) -> str:
    """A folder with the city that the trainings read."""
    folder = tmp_path_factory.mktemp("data") / "cities"
    assert not victim.do("draw", folder, options={})["said"]
    (folder / "market").rename(folder / "market-quick-0")
    return str(folder.parent)
