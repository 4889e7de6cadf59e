"""Studies: what is planned, what counts as done, and real processes on a handful of coloured noise."""

import dataclasses
import os
import shutil
import signal
import threading
import time

import pytest
from click.testing import CliRunner

import miniatures
from reidkit import claims, cli, runs
from reidkit.studies import runner
from reidkit.studies.runner import SHORT, Job, expand, plan, recipe, run_study, verify

FEW = {"dataset": "market1501", "epochs": 1, "steps_per_epoch": 1, "p": 2, "k": 2, "height": 32, "width": 16}
FEW["weights"] = "scratch"
NUMBERS = ("02", "03", "04", "05", "06")


@pytest.fixture
def changes(tmp_path, monkeypatch):
    """Parameters of a short run on four people; runs go to a scratch folder."""
    monkeypatch.setenv("REIDKIT_HOME", str(tmp_path))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    return FEW | {"data_root": miniatures.four_people(tmp_path / "data")}


def record(job, folder, **changes):
    """A result file as a finished run leaves it."""
    made = {"code": runs.digest(job.notebook)} | changes.pop("provenance", {})
    result = runs.Result(job.notebook, job.preset, job.variant, job.seed, job.params, {}, 1.0, 1, provenance=made)
    runs.save_result(dataclasses.replace(result, **changes), folder)


@pytest.mark.parametrize("number", NUMBERS)
def test_groups_effects_and_printed_rows_name_variants(number):
    variants = recipe(number).VARIANTS
    groups = claims.groups(number, variants)
    assert groups and all(groups.values()) and {name for group in groups.values() for name in group} <= variants.keys()
    assert {name for effect in claims.effects(number) for name in (effect.variant, effect.against)} <= variants.keys()
    assert claims.printed(number).get("table_of_variants", {}).keys() <= variants.keys()


def test_every_variant_belongs_to_a_group_that_a_command_can_run():
    for number in NUMBERS:
        variants = recipe(number).VARIANTS
        assert {name for group in claims.groups(number, variants).values() for name in group} == variants.keys()


def test_a_plan_goes_seed_by_seed_and_renders_a_city_for_each():
    jobs = plan("02_baseline", "tiny", variants=["neck", "softmax", "neck"], seeds=[3, 4])
    assert [job.name for job in jobs] == ["02.tiny.neck.3", "02.tiny.softmax.3", "02.tiny.neck.4", "02.tiny.softmax.4"]
    assert [(job.params["seed"], job.params["city_seed"]) for job in jobs] == [(3, 3), (3, 3), (4, 4), (4, 4)]
    assert expand("03", ["radius"]) == ["radius_0_2", "radius_0_6", "radius_0_8", "radius_1_2"]


def test_a_real_archive_and_a_city_of_ones_own_choice_stay():
    assert plan("02", "market1501", seeds=[5])[0].params["city_seed"] == 0
    assert plan("02", "tiny", seeds=[5], changes={"city_seed": 9})[0].params["city_seed"] == 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"notebook": "77"}, "notebook must be one of 02, 03, 04, 05, 06, not '77'"),
        ({"preset": "huge"}, "preset must be one of"),
        ({"variants": ["sofmax"]}, "the nearest is softmax"),
        ({"changes": {"epoch": 3}}, "the nearest is epochs"),
        ({"changes": {"epochs": -3}}, "epochs must be at least 0"),
        ({"seeds": []}, "at least one seed"),
    ],
)
def test_what_is_wrong_fails_before_anything_runs(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(**{"notebook": "02", "preset": "tiny"} | arguments)


def test_a_run_is_done_with_its_parameters_and_code_only(tmp_path):
    (job,) = plan("02", "tiny", variants=["softmax"], seeds=[0])
    assert job.state(tmp_path) == "missing"
    record(job, tmp_path)
    assert job.state(tmp_path) == "done"
    record(job, tmp_path, provenance={"code": "other"})
    assert job.state(tmp_path) == "stale"
    record(job, tmp_path, params=job.params | {"lr": 1.0})
    assert job.state(tmp_path) == "missing"


def test_a_parameter_that_came_later_had_its_default_before(tmp_path):
    (job,) = plan("02", "tiny", variants=["softmax"], seeds=[0])
    record(job, tmp_path, params={name: value for name, value in job.params.items() if name != "last_relu"})
    assert job.state(tmp_path) == "done"
    (other,) = plan("02", "tiny", variants=["softmax"], seeds=[0], changes={"last_relu": False})
    assert other.state(tmp_path) == "missing"


def test_where_the_archives_are_is_no_matter(tmp_path):
    here, there = (
        plan("02", "market_cpu", variants=["softmax"], seeds=[0], changes=c)[0] for c in ({}, {"data_root": "/x"})
    )
    record(there, tmp_path)
    assert (here.state(tmp_path), there.state(tmp_path)) == ("done", "done")


def test_a_study_runs_what_is_missing_and_verify_stamps_what_came_out_the_same(tmp_path, changes, capsys):
    miniatures.people_in_colours(tmp_path / "six" / "market1501", 6, shots=2)  # one of them is held out by a probe
    changes = changes | {"data_root": str(tmp_path / "six")}
    jobs, results = plan("02", "quick", variants=["softmax", "default"], seeds=[0], changes=changes), tmp_path / "r"
    assert run_study(jobs, workers=2, folder=results) == []
    assert {path.name for path in results.iterdir()} == {f"{job.name}.json" for job in jobs}
    assert [job.state(results) for job in jobs] == ["done", "done"]
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    assert run_study(jobs, workers=2, folder=results) == []
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    assert "2 of 2 runs are done" in capsys.readouterr().out
    # the results become those of older code, and the probe of one of them another
    make_older(jobs, results, {"default": {"probe": "0" * 16}})
    assert run_study(jobs, keep=True, folder=results) == [] and jobs[0].state(results) == "stale"
    assert verify(jobs, workers=2, folder=results) == [jobs[1].name]
    assert [job.state(results) for job in jobs] == ["done", "stale"]
    verified = jobs[0].recorded(results).provenance["verified"]
    assert verified == f"the probe of {jobs[0].name} gave the same numbers again"


def test_results_without_a_probe_are_verified_by_a_whole_run_of_each_variant(tmp_path, changes):
    jobs = plan("02", "quick", variants=["softmax", "default"], seeds=[0, 1], changes=changes)
    assert run_study(jobs, workers=2, folder=tmp_path) == []
    make_older(jobs, tmp_path, {}, without=("probe",))
    (result,) = (result for result in runs.load_results("02", "quick", "default", folder=tmp_path) if not result.seed)
    runs.save_result(dataclasses.replace(result, metrics=result.metrics | {"mAP": 0.0}), tmp_path)
    assert verify(jobs, workers=2, folder=tmp_path) == ["02.quick.default.0"]
    assert [job.state(tmp_path) for job in jobs] == ["done", "stale", "done", "stale"]
    assert jobs[2].recorded(tmp_path).provenance["verified"] == "02.quick.softmax.0 gave the same numbers again"


def make_older(jobs, folder, changes, *, without=()):
    for job in jobs:
        result = job.recorded(folder)
        made = {name: value for name, value in result.provenance.items() if name not in without}
        made |= {"code": "older"} | changes.get(job.variant, {})
        runs.save_result(dataclasses.replace(result, provenance=made), folder)


@pytest.mark.parametrize("number", ["02", "03", "04", "05", "06"])
def test_a_probe_is_its_run_cut_down_and_is_its_own_probe(number):
    for preset in ("quick", "tiny"):
        for job in plan(number, preset, seeds=[1]):
            kept = {name for name, value in job.probe.params.items() if value != job.params[name]}
            assert kept <= SHORT.keys() and job.probe.probe == job.probe and job.probe.name == job.name
    jobs = plan("03", "market_cpu", variants=["default"], seeds=[0])
    assert jobs[0].probe.params["dataset"] == "market1501_held_out"


def test_a_run_that_fails_is_named_with_its_reason_and_does_not_stop_the_others(tmp_path, changes):
    broken = tmp_path / "broken"
    shutil.copytree(changes["data_root"], broken)
    next((broken / "market1501" / "query").iterdir()).write_bytes(b"")
    jobs = [
        Job("02", "quick", "softmax", 0, changes | {"data_root": str(broken)}),
        Job("02", "quick", "untrained", 0, changes),
    ]
    (failed,) = run_study(jobs, workers=2, folder=tmp_path / "results", progress=False)
    assert failed.startswith("02.quick.softmax.0: ") and "cannot be read as an image" in failed
    assert [job.state(tmp_path / "results") for job in jobs] == ["missing", "done"]


class Ended:
    """A process that has ended at once."""

    def __init__(self, returncode):
        self.returncode, self.killed = returncode, False

    def poll(self):
        return self.returncode

    def kill(self):
        self.killed = True

    def wait(self):
        pass


@pytest.mark.parametrize(("codes", "begun", "reason"), [
    ([-9, -9, 0], 3, ""),
    ([-9] * 9, runner.ATTEMPTS, "its process ended with code -9"),
    ([1, 0], 1, "oh"),
])  # fmt: skip
def test_a_run_that_is_killed_is_begun_again_and_one_that_fails_is_not(
    tmp_path, monkeypatch, changes, codes, begun, reason
):
    processes = []

    def begin(job, folder, slot):
        runner._log(job).parent.mkdir(parents=True, exist_ok=True)
        runner._log(job).write_text("what went before\noh\n")
        processes.append(Ended(codes.pop(0)))
        return processes[-1]

    monkeypatch.setattr(runner, "_begin", begin)
    failed = run_study([Job("02", "quick", "softmax", 0, changes)], folder=tmp_path / "none", progress=False)
    assert failed == ([f"02.quick.softmax.0: {reason}"] if reason else []) and len(processes) == begun


@pytest.fixture
def _ctrl_c_is_heard():
    """Jobs in the background of a shell ignore it, and would wait here for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_ctrl_c_ends_what_was_begun(tmp_path, monkeypatch, changes):
    process = Ended(None)
    monkeypatch.setattr(runner, "_begin", lambda *_: process)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_study([Job("02", "quick", "softmax", 0, changes)], folder=tmp_path, progress=False)
    assert process.killed


def test_a_run_ends_with_the_study_that_began_it(tmp_path, monkeypatch, changes):
    """The process of a run looks whether its parent is still there."""
    script = "import sys, time, os, threading; from reidkit.studies.runner import _end_with\n"
    script += "threading.Thread(target=_end_with, args=(1,), daemon=True).start(); time.sleep(60)"
    start, pid = time.monotonic(), os.spawnv(os.P_NOWAIT, os.sys.executable, [os.sys.executable, "-c", script])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1 and time.monotonic() - start < 50


def test_a_study_leaves_out_what_needs_another_archive_and_says_so(tmp_path, changes, capsys, monkeypatch):
    """Market-1501 alone is enough for a study of the ranking recipe; what fails for another reason still fails."""
    monkeypatch.setattr(runner, "_here", lambda jobs, **_: [(job, "") for job in jobs])
    jobs = plan("03", "market1501", variants=["softmax", "lin_there", "lin_back"], seeds=[0], changes=changes)
    assert [job.missing for job in jobs] == ["", "dukemtmc", "dukemtmc"]
    assert run_study(jobs, folder=tmp_path / "out") == []
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "not run" in line] == [
        f"03.market1501.lin_{way}.0: not run, needs dukemtmc" for way in ("there", "back")
    ]
    assert next(line for line in said if "done," in line).startswith("03.market1501.softmax.0")
    arguments = [
        "study",
        "03",
        "--preset",
        "market1501",
        "--seeds",
        "0",
        "--variants",
        "softmax,lin_there",
        "--dry-run",
    ]
    options = [word for name, value in changes.items() for word in ("-p", name, str(value))]
    listed = CliRunner().invoke(cli.main, [*arguments, *options, "--out", str(tmp_path / "out")])
    assert [line.split(maxsplit=1)[1] for line in listed.output.splitlines()] == [
        "missing", "missing, not run, needs dukemtmc"
    ]  # fmt: skip
    miniatures.dukemtmc(tmp_path / "data" / "dukemtmc")
    assert not any(job.missing for job in jobs)


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["03", "--preset", "dukemtmc", "--variants", "softmax"], "DukeMTMC-reID does not exist"),
        (["02", "--preset", "tiny", "--variants", "softmax", "-p", "weights", "a"], "a does not exist; give a .safe"),
        (["04", "--variants", "lsro", "-p", "gan_height", "63"], "63"),
    ],
)
def test_a_study_finds_out_beforehand_what_is_missing(arguments, sentence, dry, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(runner, "run_study", None)
    out = ["--out", str(tmp_path / "results")] + ["--dry-run"] * dry
    done = CliRunner().invoke(cli.main, ["study", *arguments, *out])
    assert done.exit_code == 1 and sentence in done.stderr, done.output
