"""Parameters: one list of names, and every value is checked, whoever gives it."""

import atexit
import builtins
from dataclasses import dataclass

import nbformat
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from papermill.inspection import _infer_parameters
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from reidkit import parameters, runs
from reidkit.parameters import Parameters, cell, choose, parameter, preset, read
from reidkit.recipes.sources import CITIES
from reidkit.studies import notebook, runner

NUMBERS = sorted(runs.NOTEBOOKS)


@dataclass(frozen=True, kw_only=True)
class Few(Parameters):
    radius: float = parameter(0.7, "r, a distance", low=0, high=2)
    lr: float = parameter(2e-4, "of Adam", above=0)
    epochs: int = parameter(4, "passes", low=0)
    neck: str = parameter("bn", "bn, none", among=("bn", "none"))
    folder: str = parameter("", "any text")
    flip: bool = parameter(False, "whether")


def test_values_come_in_the_order_of_the_declaration_and_a_whole_number_will_do_for_a_float():
    made = Few(radius=2, seed=3)
    assert list(made.values()) == ["preset", "seed", "radius", "lr", "epochs", "neck", "folder", "flip"]
    assert (
        made.radius == 2.0
        and type(made.radius) is float
        and made.but(flip=True).values() | {"flip": False} == made.values()
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"radus": 0.6}, r"radus is not a parameter of \w+; the nearest is radius\."),
        ({"Epochs": 3}, "the nearest is epochs"),
        ({"radius": "3e-4"}, r"radius is the text '3e-4', not a number; in YAML write 3.0e-4\."),
        ({"radius": "1.5E3"}, r"in YAML write 1.5e\+3\."),
        ({"radius": "far"}, "radius must be of type float, not 'far'"),
        ({"radius": float("nan")}, "radius must be a finite number, not nan"),
        ({"radius": True}, "radius must be of type float, not True"),
        ({"radius": 2.5}, r"radius must be at least 0 and at most 2, not 2.5\."),
        ({"lr": 0}, r"lr must be above 0, not 0\."),
        ({"epochs": -1}, r"epochs must be at least 0, not -1\."),
        ({"epochs": 4.0}, "epochs must be of type int, not 4.0"),
        ({"epochs": True}, "epochs must be of type int, not True"),
        ({"epochs": "8"}, r"epochs is the text '8', not a number; in YAML write 8\."),
        ({"flip": 1}, "flip must be of type bool, not 1"),
        ({"neck": "non"}, "neck must be one of bn, none, not 'non'; the nearest is none"),
        ({"folder": 3}, "folder must be of type str, not 3"),
        ({"folder": None}, "folder must be of type str, not None"),
        ({"seed": 2**32}, r"seed must be at least 0 and at most 4294967295, not 4294967296\."),
    ],
)
def test_what_is_wrong_with_a_value_is_said(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Few.of(changes)
    with pytest.raises(ValueError, match=sentence):
        Few().but(**changes)


def test_choose_folds_long_lists():
    with pytest.raises(ValueError, match="one of a, part_0 … part_9, not 'b'"):
        choose("which", "b", dict.fromkeys(["a", *(f"part_{k}" for k in range(10))]))


# --------------------------------------------------------------------------------------------------------- in notebooks


def test_the_cell_of_a_notebook_is_python_that_gives_the_defaults():
    assert "lr: float = 2.0e-4  # of Adam\n" in cell(Few)
    space = {}
    exec(cell(Few), space)
    assert {name: space[name] for name in Few().values()} == Few().values()


@pytest.mark.parametrize("number", NUMBERS)
def test_papermill_understands_every_parameter(number):
    """It stops reading a comment at "=", and then warns of an unknown parameter."""
    kind = notebook.parameters_of(number)
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell(kind))])
    page.cells[0].metadata.tags = ["parameters"]
    page.metadata = nbformat.from_dict({"kernelspec": {"name": "python3", "language": "python"}})
    assert [found.name for found in _infer_parameters(page)] == list(kind().values())
    assert all(len(line) <= 120 for line in cell(kind).splitlines())


@pytest.fixture
def shell(monkeypatch):
    monkeypatch.setattr(builtins, "get_ipython", None, raising=False)  # the shell sets it, and this takes it back
    made = InteractiveShell(config=Config(HistoryManager={"enabled": False, "hist_file": ":memory:"}))
    made.user_ns["Few"] = Few
    yield made
    atexit.unregister(made.atexit_operations)
    made.atexit_operations()


def run_notebook(shell, *cells, **injected):
    """Run cells as papermill has them run: what it injects comes in a cell after the parameters."""
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for number, made in enumerate(page.cells):
        made.metadata.tags = [] if number else ["parameters"]
    page.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}, "papermill": {}}
    )
    if injected:
        page = parameterize_notebook(page, injected)
        assert len(page.cells) == len(cells) + 1
    for made in page.cells:
        shell.run_cell(made.source, store_history=True).raise_error()
    return shell.user_ns["params"]


CALL = "from reidkit import parameters\nparams = parameters.read(Few, globals())"


def test_in_a_notebook_papermills_values_count(shell):
    assert run_notebook(shell, cell(Few), CALL, radius=0.5, epochs=9) == Few(radius=0.5, epochs=9)


def test_in_a_notebook_a_mistyped_name_and_a_wrong_value_stop_it(shell):
    with pytest.raises(ValueError, match="radus is not a parameter"):
        run_notebook(shell, cell(Few), CALL, radus=0.5)
    with pytest.raises(ValueError, match="epochs must be at least 0"):
        run_notebook(shell, cell(Few), CALL, epochs=-1)


def test_a_reader_may_run_the_cells_again_when_the_notebook_has_variables(shell):
    made = run_notebook(shell, cell(Few), CALL, "loss = 0.25\nname = 'x'", cell(Few).replace("= 4", "= 5"), CALL)
    assert made == Few(epochs=5)


def test_outside_of_a_notebook_the_names_of_the_parameters_are_read():
    assert read(Few, {"epochs": 7, "other": 3}) == Few(epochs=7)


# -------------------------------------------------------------------------------------------------------------- presets

FILES = sorted(parameters.PRESETS.glob("*.yml"))
EVERY = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@EVERY
def test_a_preset_changes_known_parameters_to_other_values_that_are_allowed(path):
    number, name = path.stem.split(".")
    kind, values = notebook.parameters_of(number), preset(number, name)
    own = yaml.safe_load(path.read_text())
    like = own.pop("like", "quick")
    before, made = kind.of(preset(number, like)).values(), kind.of(values)
    assert made.preset == name and made.seed == 0 and list(own) == [n for n in before if n in own]
    assert {key for key in before if made.values()[key] != before[key]} == own.keys()
    assert values.get("data_root", "") == "" and not values.get("weights", "").startswith("/")
    text = path.read_text()
    assert text.startswith(f"# notebook {number}, {name}: ") and (like == "quick" or f" as {like}, " in text)


@EVERY
def test_who_trains_on_an_archive_starts_from_imagenet(path):
    """None of the archives' presets forgets it, none of the others names it, and the CPU's says that it does not."""
    number, name = path.stem.split(".")
    values = preset(number, name)
    if name == "market_cpu":
        assert values["weights"] == "scratch"
    else:
        assert (values.get("weights") == "imagenet") == (values.get("dataset", "market") not in CITIES)


def test_quick_is_the_notebook_as_it_is():
    assert preset("03", "quick") == {"preset": "quick"}


@pytest.mark.parametrize("text", ["lr: [1, 2]", "lr:"])
def test_a_preset_holds_scalars_only(tmp_path, monkeypatch, text):
    monkeypatch.setattr(parameters, "PRESETS", tmp_path)
    (tmp_path / "09.bad.yml").write_text(text)
    with pytest.raises(ValueError, match=r"09.bad.yml: lr is not a number, a text or a truth value, but"):
        preset("09", "bad")
    with pytest.raises(ValueError, match="preset must be one of quick, bad, not 'quik'; the nearest is quick"):
        preset("09", "quik")


@pytest.mark.parametrize("number", [n for n in NUMBERS if n in ("02", "03", "04", "05", "06")])
def test_every_variant_changes_known_parameters_to_another_value_that_is_allowed(number):
    recipe = runner.recipe(number)
    usual = recipe.Parameters()
    titles = [variant.title for variant in recipe.VARIANTS.values()]
    assert len(set(titles)) == len(titles)
    for key, variant in recipe.VARIANTS.items():
        made = usual.but(**variant.changes).values()
        assert {name for name in made if made[name] != usual.values()[name]} == set(variant.changes), key
