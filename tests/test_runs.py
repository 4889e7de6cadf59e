"""runs: a result is what was written and names the code that made it, a figure is signed."""

import json
import os
import random
import subprocess
import sys

import numpy
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from reidkit import runs
from reidkit.runs import Result, load_results, save_figure, save_result


def test_seed_repeats_everything_random():
    def draw():
        runs.seed(3)
        return random.random(), numpy.random.rand(), torch.rand(1).item()

    assert draw() == draw()
    runs.seed(4)
    assert random.random() != draw()[0]
    with pytest.raises(ValueError, match="the seed must be 0 to"):
        runs.seed(-1)


# ------------------------------------------------------------------------------------------------ results and figures


def result(**changes):
    values = {
        "notebook": "02",
        "preset": "tiny",
        "variant": "default",
        "seed": 1,
        "params": {"lr": 1e-3, "data_root": "/home/me/archives", "weights": "/home/me/weights/small.safetensors"},
        "metrics": {"mAP": 0.5, "rank1": 0.75, "ap": "mean", "n_query": 2, "n_valid": 2, "n_gallery": 9},
        "seconds": 3.5,
        "peak_memory": 12345,
        "paper": {"table": "I", "mAP": 0.861},
        "per_query": {"pid": [7, 9], "ap": [1.0, 1 / 3]},
        "objects": {"model": torch.nn.Linear(1, 1)},
    }
    return Result(**values | changes)


def test_a_result_comes_back_as_it_was_written(tmp_path):
    path = save_result(result(), tmp_path)
    assert path.name == "02.tiny.default.1.json"
    (back,) = load_results("02", "tiny", folder=tmp_path)
    assert back.metrics == result().metrics and back.paper == result().paper and back.name == result().name
    assert back.per_query["pid"] == [7, 9] and back.per_query["ap"] == pytest.approx([1, 1 / 3], abs=1e-6)
    assert back.objects == {} and back.provenance.keys() == {"device", "versions", "commit", "code"}
    assert save_result(back, tmp_path / "again").read_text() == path.read_text()


def test_a_result_holds_the_keys_of_the_design_and_no_path_of_this_machine(tmp_path):
    values = json.loads(save_result(result(), tmp_path).read_text())
    keys = "notebook preset variant seed params metrics paper seconds peak_memory device versions commit"
    assert set(keys.split()) <= values.keys()
    assert "/home/me" not in json.dumps(values) and values["params"]["weights"] == "small.safetensors"


def test_results_are_found_by_name(tmp_path):
    for notebook, variant, seed in (
        ("02", "default", 0),
        ("02", "softmax", 0),
        ("03", "default", 0),
        ("02", "default", 2),
    ):
        save_result(result(notebook=notebook, variant=variant, seed=seed), tmp_path)
    assert [r.name for r in load_results("02", folder=tmp_path)] == [
        "02.tiny.default.0",
        "02.tiny.default.2",
        "02.tiny.softmax.0",
    ]
    assert len(load_results(variant="default", folder=tmp_path)) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"variant": "a.b"}, "is no name of a result"),
        ({"notebook": "2"}, "is no name of a result"),
        ({"metrics": {"mAP": 86.1}}, "mAP must be a fraction, 0 to 1, not 86.1"),
        ({"metrics": {"rank1": float("nan")}}, "rank1 must be a fraction"),
    ],
)
def test_a_result_that_would_mislead_is_not_written(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        save_result(result(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_figure_is_signed_in_its_corner(tmp_path):
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    path = save_figure(figure, "02_curve", preset="tiny", seed=3, folder=tmp_path)
    assert path.name == "02_curve.tiny.png"
    with Image.open(path) as image:
        assert image.text["Title"] == f"02 · tiny · seed 3 · {runs.digest('02')}"
        corner = numpy.asarray(image.convert("L"))[-12:, image.width // 2 :]
    assert corner.min() < 200, "no signature is to be seen"
    assert not figure.texts  # and the figure itself is as it was
    again = path.read_bytes()
    save_figure(figure, "02_curve", preset="tiny", seed=3, folder=tmp_path)
    assert path.read_bytes() == again


def test_a_result_is_stale_when_other_code_made_it():
    assert not result(provenance={"code": runs.digest("02")}).stale
    assert result(provenance={"code": "0123456789ab"}).stale and result(provenance={}).stale


def test_every_notebook_has_a_digest_and_those_of_recipes_differ():
    found = {number: runs.digest(number) for number in runs.NOTEBOOKS}
    assert len({found[number] for number in ("02", "03", "04", "05", "06")}) == 5
    assert runs.number_of("one_shot") == "05" and found["00"] == found["07"]


def test_provenance_names_what_a_result_was_made_with():
    made = runs.provenance("0123456789ab")
    assert made["versions"]["torch"] == torch.__version__ or made["versions"]["torch"] in torch.__version__
    assert made["code"] == "0123456789ab" and "threads" in made["device"]
    assert runs.peak_memory() > 10_000_000


def test_results_go_to_the_folder_that_the_user_names(tmp_path):
    call = [sys.executable, "-c", "from reidkit import runs; print(runs.RESULTS)"]
    environment = os.environ | {"REIDKIT_HOME": str(tmp_path / "mine")}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "mine" / "figures" / "results")
