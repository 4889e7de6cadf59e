"""Studies: what is planned, what counts as done, and real processes on a handful of coloured noise."""

import dataclasses
import shutil

import numpy
import pytest
from PIL import Image

from reidkit import files, runs, studies
from reidkit.recipes import RECIPES
from reidkit.studies import Job, plan, recipe, recipe_digest, run_study

FEW = {"dataset": "market1501", "epochs": 1, "steps_per_epoch": 1, "p": 2, "k": 2, "height": 32, "width": 16}


@pytest.fixture
def data_root(tmp_path):
    """Four people of two cameras in the layout of Market-1501."""
    for folder, pids in (("bounding_box_train", (1, 2)), ("query", (3, 4)), ("bounding_box_test", (3, 4))):
        path = tmp_path / "data" / "market1501" / folder
        path.mkdir(parents=True)
        for pid in pids:
            for camera in (1, 2):
                for shot in range(2):
                    pixels = numpy.random.default_rng(pid).integers(0, 255, (40, 20, 3), dtype=numpy.uint8)
                    Image.fromarray(pixels).save(path / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg")
    return tmp_path / "data"


def record(job, folder, **changes):
    """A result file as a finished run leaves it."""
    made = {"recipe": recipe_digest(job.notebook)} | changes.pop("provenance", {})
    result = runs.Result(job.notebook, job.preset, job.variant, job.seed, job.params, {}, 1.0, 1, provenance=made)
    runs.save_result(dataclasses.replace(result, **changes), folder)


def test_every_recipe_has_what_a_study_needs():
    for notebook in RECIPES:
        method = recipe(notebook)
        assert notebook == method.NOTEBOOK
        assert {name for group in method.STUDIES.values() for name in group} <= method.VARIANTS.keys()
        assert {name for e in method.EFFECTS for name in (e.variant, e.against)} <= method.VARIANTS.keys()


def test_a_plan_goes_seed_by_seed_and_draws_a_city_for_each():
    jobs = plan("02_baseline", "tiny", variants=["neck", "softmax", "neck"], seeds=[3, 4])
    assert [job.name for job in jobs] == ["02.tiny.neck.3", "02.tiny.softmax.3", "02.tiny.neck.4", "02.tiny.softmax.4"]
    assert [(job.params["seed"], job.params["city_seed"]) for job in jobs] == [(3, 3), (3, 3), (4, 4), (4, 4)]


def test_a_real_archive_and_a_city_of_ones_own_choice_stay():
    assert plan("02", "market1501", seeds=[5])[0].params["city_seed"] == 0
    assert plan("02", "tiny", seeds=[5], changes={"city_seed": 9})[0].params["city_seed"] == 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"notebook": "77"}, "notebook .77. has no presets"),
        ({"preset": "huge"}, "preset must be one of"),
        ({"variants": ["sofmax"]}, "the nearest is softmax"),
        ({"changes": {"epoch": 3}}, "the nearest is epochs"),
        ({"seeds": []}, "at least one seed"),
    ],
)
def test_unknown_names_fail_before_anything_runs(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(**{"notebook": "02", "preset": "tiny"} | arguments)


def test_a_run_is_done_with_its_parameters_and_code_only(tmp_path):
    (job,) = plan("02", "tiny", variants=["softmax"], seeds=[0])
    assert job.state(tmp_path) == "missing"
    record(job, tmp_path)
    assert job.state(tmp_path) == "done"
    record(job, tmp_path, provenance={"recipe": "other"})
    assert job.state(tmp_path) == "stale"
    record(job, tmp_path, params=job.params | {"lr": 1.0})
    assert job.state(tmp_path) == "missing"


@pytest.fixture
def library(tmp_path):
    """A copy of the library, to change."""
    ignore = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(studies.LIBRARY, tmp_path / "reidkit", ignore=ignore)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("recipes/baseline.py", 'terms = {"softmax": softmax}', 'terms = {"softmax": 2 * softmax}', True),
        ("losses/triplet.py", "margin + farthest", "2 * margin + farthest", True),
        ("models/heads.py", "std=0.001", "std=0.002", True),
        ("data/images.py", "MEAN = (0.485", "MEAN = (0.5", True),
        ("world/light.py", "def ", "def unused():\n    return 0\n\n\ndef ", False),  # nobody calls it
        ("training.py", '"""One training loop', '"""A training loop', False),
        ("recipes/baseline.py", '"light": (0, 2)', '"light": (0, 3)', False),  # the parameters tell
        ("nb.py", "def ", "def unused():\n    return 0\n\n\ndef ", False),
    ],
)
def test_the_digest_changes_with_what_the_numbers_come_from_and_with_nothing_else(library, file, old, new, changes):
    before = recipe_digest("02", library)
    source = (library / file).read_text()
    assert old in source
    (library / file).write_text(source.replace(old, new, 1))
    recipe_digest.cache_clear(), studies._definitions.cache_clear()
    assert (recipe_digest("02", library) != before) is changes


def test_a_study_runs_what_is_missing_and_writes_a_ledger(tmp_path, data_root, capsys):
    changes = FEW | {"data_root": str(data_root)}
    jobs = plan("02", "quick", variants=["softmax", "default"], seeds=[0], changes=changes)
    results, ledger = tmp_path / "results", tmp_path / "scratch" / "ledger.jsonl"
    assert run_study(jobs, workers=2, folder=results, ledger=ledger) == []
    assert {path.name for path in results.iterdir()} == {f"{job.name}.json" for job in jobs}
    assert [job.state(results) for job in jobs] == ["done", "done"]
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    assert run_study(jobs, workers=2, folder=results, ledger=ledger) == []
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    assert "2 of 2 runs are done" in capsys.readouterr().out
    # the results become those of older code, and one of them wrong
    for job in jobs:
        (result,) = runs.load_results("02", "quick", job.variant, folder=results)
        wrong = {"mAP": 0.0} if job.variant == "default" else {}
        older = {"metrics": result.metrics | wrong, "provenance": result.provenance | {"recipe": "older"}}
        runs.save_result(dataclasses.replace(result, **older), results)
    assert studies.verify(jobs, workers=2, folder=results, ledger=tmp_path / "again" / "l") == [jobs[1].name]
    assert [job.state(results) for job in jobs] == ["done", "stale"]
    events = [(event["event"], event["run"]) for event in files.read_lines(ledger)]
    assert sorted(events) == sorted((event, job.name) for job in jobs for event in ("start", "done"))


def test_a_run_that_fails_is_tried_again_told_with_its_reason_and_does_not_stop_the_others(tmp_path, data_root):
    broken = tmp_path / "broken"
    shutil.copytree(data_root, broken)
    next((broken / "market1501" / "query").iterdir()).write_bytes(b"")
    jobs = [
        Job("02", "quick", "softmax", 0, FEW | {"data_root": str(broken)}),
        Job("02", "quick", "untrained", 0, FEW | {"data_root": str(data_root)}),
    ]
    ledger = tmp_path / "scratch" / "ledger.jsonl"
    failed = run_study(jobs, workers=2, folder=tmp_path / "results", ledger=ledger, progress=False)
    assert (
        len(failed) == 1 and failed[0].startswith("02.quick.softmax.0: ") and "cannot be read as an image" in failed[0]
    )
    assert [job.state(tmp_path / "results") for job in jobs] == ["missing", "done"]
    assert [event["event"] for event in files.read_lines(ledger)].count("failed") == studies.TRIES
