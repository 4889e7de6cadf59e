"""runs: a parameter that is not known fails, a result is what was written, a figure is signed."""

import atexit
import builtins
import json
import random

import nbformat
import numpy
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from papermill.parameterize import parameterize_notebook
from PIL import Image
from traitlets.config import Config

from reidkit import runs
from reidkit.runs import Result, Variant, choose, load_results, parameters, preset, save_figure, save_result, settings

ANNOTATIONS = {"radius": float, "epochs": int, "dataset": str, "flip": bool}
VALUES = {"radius": 0.7, "epochs": 4, "dataset": "market", "flip": False}


def namespace(**changes):
    return {"__annotations__": ANNOTATIONS, "torch": torch, "_": 3, "len": len} | VALUES | changes


# --------------------------------------------------------------------------------------------------------- parameters


def test_parameters_are_those_annotated_in_their_order():
    assert list(parameters(namespace()).items()) == list(VALUES.items())
    assert parameters(namespace(__annotations__={"radius": "float"}, **dict.fromkeys(("epochs", "dataset", "flip"))))


def test_a_whole_number_will_do_for_a_float():
    value = parameters(namespace(radius=2))["radius"]
    assert value == 2.0 and type(value) is float


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"radus": 0.6}, "radus is not a parameter of this notebook; the nearest is radius"),
        ({"Epochs": 3}, "Epochs is not a parameter of this notebook; the nearest is epochs"),
        ({"radius": "3e-4"}, r"radius is the text '3e-4', not a number; in YAML write 3.0e-4\."),
        ({"radius": "1.5E3"}, r"in YAML write 1.5e\+3\."),
        ({"radius": "far"}, "radius must be of type float, not 'far'"),
        ({"radius": float("nan")}, "radius must be a finite number, not nan"),
        ({"radius": True}, "radius must be of type float, not True"),
        ({"epochs": 4.0}, "epochs must be of type int, not 4.0"),
        ({"epochs": True}, "epochs must be of type int, not True"),
        ({"epochs": "8"}, r"epochs is the text '8', not a number; in YAML write 8\."),
        ({"flip": 1}, "flip must be of type bool, not 1"),
        ({"dataset": 3}, "dataset must be of type str, not 3"),
        ({"__annotations__": {"radius": list}, "radius": []}, "radius is not a parameter|radius is annotated list"),
        ({"__annotations__": {}}, "no annotated parameters"),
    ],
)
def test_what_is_wrong_with_parameters_is_said(changes, sentence):
    space = namespace(**changes)
    if "__annotations__" in changes:
        space = {name: space[name] for name in ("__annotations__", "radius")}
    with pytest.raises(ValueError, match=sentence):
        parameters(space)


def test_annotations_that_are_made_when_asked_for():
    """Python 3.14 keeps a function in place of the dictionary."""
    space = namespace(__annotate__=lambda form: ANNOTATIONS)
    del space["__annotations__"]
    assert parameters(space) == VALUES


@pytest.fixture
def shell(monkeypatch):
    monkeypatch.setattr(builtins, "get_ipython", None, raising=False)  # the shell sets it, and this takes it back
    made = InteractiveShell(config=Config(HistoryManager={"enabled": False, "hist_file": ":memory:"}))
    yield made
    atexit.unregister(made.atexit_operations)
    made.atexit_operations()


def run_notebook(shell, *cells, **injected):
    """Run cells as papermill has them run: what it injects comes in a cell after the parameters."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for number, cell in enumerate(notebook.cells):
        cell.metadata.tags = [] if number else ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook.metadata["papermill"] = {}
    if injected:
        notebook = parameterize_notebook(notebook, injected)
        assert len(notebook.cells) == len(cells) + 1
    for cell in notebook.cells:
        shell.run_cell(cell.source, store_history=True).raise_error()


CELL = "radius: float = 0.7   # r\nepochs: int = 4\n"
CALL = "from reidkit import runs\nparams = runs.parameters(globals())"


def test_in_a_notebook_papermills_values_count(shell):
    run_notebook(shell, CELL, CALL, radius=0.5)
    assert shell.user_ns["params"] == {"radius": 0.5, "epochs": 4}


def test_in_a_notebook_a_mistyped_name_stops_it(shell):
    with pytest.raises(ValueError, match="radus is not a parameter of this notebook; the nearest is radius"):
        run_notebook(shell, CELL, CALL, radus=0.5)


def test_a_reader_may_run_the_parameters_cell_again_when_the_notebook_has_variables(shell):
    run_notebook(shell, CELL, CALL, "loss = 0.25\nname = 'x'", CELL.replace("4", "5"), CALL)
    assert shell.user_ns["params"] == {"radius": 0.7, "epochs": 5}


def test_in_a_notebook_lazy_annotations_do_not_matter(shell):
    """From Python 3.14 on the globals know those of the last statement only; the cells know all."""
    run_notebook(shell, CELL, "__annotations__ = {'epochs': int}\n" + CALL)
    assert shell.user_ns["params"] == {"radius": 0.7, "epochs": 4}


# ------------------------------------------------------------------------------------------------ presets and variants


@pytest.fixture
def presets(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PRESETS", tmp_path)
    (tmp_path / "09.quick.yml").write_text("preset: quick\nlr: 2.0e-3\nepochs: 4\nneck: bn\n")
    return tmp_path


def test_a_preset_is_read_by_the_number_of_its_notebook(presets):
    assert (
        preset("09_some_paper", "quick") == preset("09", "quick") == dict(preset="quick", lr=0.002, epochs=4, neck="bn")
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: 3e-4", r"09.bad.yml: lr is the text '3e-4', not a number; write 3.0e-4\."),
        ("lr: [1, 2]", "09.bad.yml: lr is not a number, a text or a truth value, but"),
        ("lr:", "09.bad.yml: lr is not a number, a text or a truth value, but None"),
    ],
)
def test_a_preset_holds_scalars_only(presets, text, sentence):
    (presets / "09.bad.yml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        preset("09", "bad")


def test_unknown_presets_are_told_the_known_ones(presets):
    with pytest.raises(ValueError, match="preset must be one of quick, not 'quik'; the nearest is quick"):
        preset("09", "quik")
    with pytest.raises(ValueError, match="notebook '10' has no presets"):
        preset("10", "quick")


def test_settings_put_the_variant_last(presets):
    variants = {"plain": Variant("plain", {}), "none": Variant("no neck", {"neck": "none"})}
    params = settings("09", "quick", variants, "none", {"lr": 1, "neck": "bn"})
    assert params == {"preset": "quick", "lr": 1.0, "epochs": 4, "neck": "none"}
    with pytest.raises(ValueError, match="learning_rate is not a parameter of notebook 09; the nearest is"):
        settings("09", "quick", variants, "plain", {"learning_rate": 1.0})
    with pytest.raises(ValueError, match="variant must be one of plain, none, not 'plane'; the nearest is plain"):
        settings("09", "quick", variants, "plane", {})
    with pytest.raises(ValueError, match="epochs must be of type int"):
        settings("09", "quick", variants, "plain", {"epochs": 2.5})


def test_choose_names_the_nearest():
    with pytest.raises(ValueError, match="sampler must be one of pk, plain, not 'plan'; the nearest is plain"):
        choose("sampler", "plan", {"pk": 1, "plain": 2})


def test_seed_repeats_everything_random():
    def draw():
        runs.seed(3)
        return random.random(), numpy.random.rand(), torch.rand(1).item()

    assert draw() == draw()
    runs.seed(4, threads=2)
    assert random.random() != draw()[0] and torch.get_num_threads() == 1
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
        assert image.text["Title"] == f"02 · tiny · seed 3 · {runs.code_hash()}"
        corner = numpy.asarray(image.convert("L"))[-12:, image.width // 2 :]
    assert corner.min() < 200, "no signature is to be seen"
    assert not figure.texts  # and the figure itself is as it was
    again = path.read_bytes()
    save_figure(figure, "02_curve", preset="tiny", seed=3, folder=tmp_path)
    assert path.read_bytes() == again


def test_code_hash_changes_with_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    seen = []
    for name, text in (("runs.py", "a"), ("runs.py", "b"), ("other.py", "b"), ("notes.txt", "b")):
        (tmp_path / name).write_text(text)
        seen.append(runs.code_hash())
    assert len(set(seen)) == 3 and seen[2] == seen[3]


def test_provenance_names_what_a_result_was_made_with():
    made = runs.provenance()
    assert made["versions"]["torch"] == torch.__version__ or made["versions"]["torch"] in torch.__version__
    assert made["code"] == runs.code_hash() and "threads" in made["device"]
    assert runs.peak_memory() > 10_000_000
