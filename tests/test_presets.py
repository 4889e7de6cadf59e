"""Presets are flat files of scalars, with the same names and types in all presets of a notebook."""

import importlib
from pathlib import Path

import pytest
import yaml

from reidkit import runs

FILES = sorted(runs.PRESETS.glob("*.yml"))
RECIPES = {"02": "baseline", "03": "ranking", "04": "sparse_smoothing", "05": "one_shot", "06": "soft_multilabel"}
EVERY = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def name(path: Path) -> tuple[str, str]:
    notebook, preset = path.stem.split(".")
    return notebook, preset


def test_there_are_presets():
    assert {"02.quick", "02.tiny", "02.world", "02.market1501"} <= {path.stem for path in FILES}


@EVERY
def test_a_preset_is_flat_and_every_number_is_a_number(path):
    values = runs.preset(*name(path))  # which refuses lists, nothing, and numbers that YAML reads as text
    assert values == yaml.safe_load(path.read_text())
    assert values["preset"] == name(path)[1]


@EVERY
def test_a_preset_has_the_names_types_and_order_of_the_quick_one(path):
    quick, values = runs.preset(name(path)[0], "quick"), runs.preset(*name(path))
    assert [(key, type(value)) for key, value in values.items()] == [(key, type(value)) for key, value in quick.items()]


@EVERY
def test_a_preset_explains_itself_in_its_first_line(path):
    notebook, preset = name(path)
    assert path.read_text().startswith(f"# notebook {notebook}, {preset}: ")


@EVERY
def test_a_preset_names_no_path_of_a_machine_and_starts_at_seed_0(path):
    values = runs.preset(*name(path))
    assert values.get("data_root", "") == "" and not Path(values.get("weights", "")).is_absolute()
    assert values["seed"] == 0


@pytest.mark.parametrize("notebook", sorted({name(path)[0] for path in FILES} & RECIPES.keys()))
def test_every_variant_changes_known_parameters_to_another_value_of_their_type(notebook):
    recipe = importlib.import_module(f"reidkit.recipes.{RECIPES[notebook]}")
    quick = runs.preset(notebook, "quick")
    assert notebook == recipe.NOTEBOOK
    titles = [variant.title for variant in recipe.VARIANTS.values()]
    assert len(set(titles)) == len(titles)
    for key, variant in recipe.VARIANTS.items():
        params = runs.settings(notebook, "quick", recipe.VARIANTS, key, {})
        assert {name for name in quick if params[name] != quick[name]} == set(variant.changes), key


def test_the_market_recipe_is_the_released_one():
    """spec 1.3: Adam 3.5e-4, weight decay 5e-4, 120 epochs, x 0.1 at 40 and 70, 16 x 4 images of 256x128."""
    released = {"dataset": "market1501", "height": 256, "width": 128, "backbone": "resnet50", "last_stride": 1}
    released |= {"p": 16, "k": 4, "epochs": 120, "steps_per_epoch": 0, "schedule": "steps", "lr_index_offset": 0}
    released |= {
        "lr": 3.5e-4,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
        "erase": 0.5,
        "neck": "bn",
        "sampler": "pk",
    }
    values = runs.preset("02", "market1501")
    assert {key: values[key] for key in released} == released
