"""The harness measures, compares and judges; every script runs; the README says what the files of results say."""

import importlib
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from front import ROOT
from reidkit import files, runs

FOLDER = ROOT / "benchmarks"
MADE = {"device": "processor, 1 of 2 threads", "versions": {"python": "3"}, "commit": ""}
FIRST = {  # a script and the row that is tried
    "clusters": "kmeans",
    "evaluation": "market_512",
    "images": "128x64",
    "label_estimation": "nearest",
    "losses": "lin_64",
    "reranking": "half_512",
    "world": "64x32",
}


@pytest.fixture(autouse=True)
def script(monkeypatch):
    """Import what lies in benchmarks as `python benchmarks/NAME.py` would; forget it afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(runs, "provenance", lambda: MADE)  # asks git, for each record
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if _folder(module) == FOLDER]:
        del sys.modules[name]


def _folder(module) -> Path:
    return Path(getattr(module, "__file__", None) or "").parent


@pytest.fixture
def run(script, tmp_path):
    """Measure rows as a script would; returns their records by name."""

    def run(rows: dict, *arguments: str) -> dict:
        harness = script("harness")
        try:
            harness.main("try.py", "Trying.\n\nMore.", rows, ["--quick", "--out", str(tmp_path), *arguments])
        finally:
            run.records = {path.stem: files.read_json(path) for path in tmp_path.glob("*.json")}
        return run.records

    return run


@pytest.fixture
def seconds(monkeypatch):
    """A clock that counts how often it was read."""
    readings = iter(range(1000))
    monkeypatch.setattr(time, "process_time", lambda: float(next(readings)))


@pytest.mark.parametrize("name", FIRST)
def test_a_script_measures_and_compares(name, script, tmp_path, capsys):
    module, arguments = script(name), ["--quick", "--only", FIRST[name], "--out", str(tmp_path)]
    script("harness").main(module.__file__, module.__doc__, module.ROWS, arguments)
    assert (tmp_path / f"{name}.{FIRST[name]}.json").exists() and "reidkit" in capsys.readouterr().out
    assert name in script("report").SCRIPTS


def test_the_tables_are_up_to_date(script):
    report = script("report")
    text = report.BLOCK.search((FOLDER / "README.md").read_text())[0]
    assert report.report(report.records()) in text, "run python benchmarks/report.py"


def test_a_part_of_the_work_counts_as_the_whole(run, seconds, script):
    harness = script("harness")
    ways = {
        "reidkit": lambda: 1.0,
        "floor: a": lambda: None,
        "peer": harness.Candidate(lambda: 1.0, share=0.25),
        "b": None,
    }
    row = harness.Row("Work", ways, bars={"floor": 1, "peer": 5, "b": 2}, check=harness.close(0), items=10)
    record = run({"row": lambda _: row})["try.row"]
    best = {one["name"]: one["best"] for one in record["candidates"]}
    assert best == {"reidkit": 1, "floor: a": 1, "peer": 4}
    assert [(bar["what"], bar["value"], bar["met"]) for bar in record["bars"]] == [
        ("floor", 1, True),
        ("peer", 4, False),
    ]
    assert record["missing"] == ["b"] and record["candidates"][0]["per_second"] == 10
    assert record["candidates"][2]["result"] == "equal" and record["family"] == "Trying."
    line = script("report").line(record | {"file": "try.row"})
    assert "| peer 2.5/s (part, scaled), 4x; equal<br>" in line
    assert "**MISSED: 4x vs peer (≥ 5)**" in line and "b: not installed" in line


def test_a_result_that_differs_is_told_and_ends_badly(run, script, capsys):
    harness = script("harness")
    row = harness.Row("Work", {"reidkit": lambda: 1.0, "peer": lambda: 1.5}, check=harness.close(0.1))
    with pytest.raises(SystemExit, match=r"results differ in try\.row"):
        run({"row": lambda _: row})
    assert run.records["try.row"]["candidates"][1]["result"] == "differs: by 0.5, more than 0.1"


def test_a_curve_has_the_slopes_of_both(run, seconds, script):
    harness = script("harness")

    def row(n: int) -> object:
        def work() -> None:
            [time.process_time() for _ in range(n - 1)]

        return harness.Row("Work", {"reidkit": work, "floor: none": lambda: None})

    curve = harness.Curve("Work", "readings", {n: lambda n=n: row(n) for n in (1, 10, 100)})
    record = run({"curve": lambda _: curve})["try.curve"]
    assert np.allclose(record["slopes"], [1, 0]) and record["bars"][0]["met"] is False
    report = script("report")
    assert "1 to 100 readings" in report.curve_line(record | {"file": "try.curve"})
    fig = report.growth([record | {"file": "try.curve"}])
    plt.close(fig)
    assert len(fig.axes) == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of the memory")
def test_memory_is_what_a_call_takes_at_its_peak(run, script):
    def work() -> None:
        np.ones(8_000_000)  # 64 MB, gone before the end

    row = script("harness").Row("Work", {"reidkit": work}, bars={"MB": 100})
    [bar] = run({"row": lambda _: row})["try.row"]["bars"]
    assert 60 < bar["value"] < 90 and bar["met"]
