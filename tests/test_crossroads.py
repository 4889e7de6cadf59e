"""What notebook 07 reads: causes of queries are those of the images, an atlas that resumes."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import anatomy
import atlas
from reidkit import files, runs
from reidkit.embed import Embeddings
from reidkit.recipes.sources import open_split
from reidkit.studies import lectures, runner

# ------------------------------------------------------------------------------------------------- causes of queries
CAMERAS = {f"tint_{channel}": np.array([1.0, math.e, 1.0]) for channel in "rgb"}
DEFAULTS = {"yaw": 0.0, "occluder": 0.0, "occluder_size": 0.3, "companion": False, "companion_depth": 1.0, "box_x": 0.0,
            "box_y": 0.0, "box_scale": 1.06, "exposure": 1.0, "blur": 0.0, "native": 200.0, "family": -1.0}  # fmt: skip


def table(*rows: dict) -> dict[str, np.ndarray]:
    """factors.csv of a few images."""
    colours = dict.fromkeys(anatomy.WORN, 0.5)
    full = [DEFAULTS | colours | row for row in rows]
    return {name: np.array([row[name] for row in full]) for name in full[0]}


IMAGES = table(
    {"file": "query/a.jpg", "pid": 1, "camid": 0, "yaw": 350.0, "occluder": 2.0, "companion": True,
     "companion_depth": -0.6, "box_x": 0.03, "box_y": -0.04, "exposure": math.e, "family": 4.0},
    {"file": "query/b.jpg", "pid": 2, "camid": 1, "family": 4.0, "upper_colour_r": 1.0},
    {"file": "bounding_box_test/a0.jpg", "pid": 1, "camid": 0, "yaw": 350.0, "family": 4.0},
    {"file": "bounding_box_test/a1.jpg", "pid": 1, "camid": 1, "yaw": 20.0, "family": 4.0},
    {"file": "bounding_box_test/a2.jpg", "pid": 1, "camid": 2, "yaw": 170.0, "family": 4.0, "exposure": math.e},
    {"file": "bounding_box_test/b1.jpg", "pid": 2, "camid": 1, "family": 4.0, "upper_colour_r": 1.0},
    {"file": "bounding_box_test/c1.jpg", "pid": 3, "camid": 1, "upper_colour_r": 1.0, "lower_colour_b": 1.0},
    {"file": "bounding_box_test/junk.jpg", "pid": -1, "camid": 1, "family": 4.0},
    {"file": "bounding_box_test/nobody.jpg", "pid": 0, "camid": 1, "family": 4.0},
)  # fmt: skip


def test_a_query_is_described_by_its_image_and_by_its_positives():
    rows = anatomy.describe(IMAGES, CAMERAS, ["a.jpg", "b.jpg"])
    assert [row["pid"] for row in rows] == [1]  # b has no positive in another camera: no valid query
    (row,) = rows
    assert list(row) == ["pid", "camid", *anatomy.FACTORS]
    assert row["view"] == pytest.approx(30) and row["positives"] == 2
    assert (row["occluder"], row["occluder_size"], row["companion"]) == (2, 0.3, 2)
    assert row["box_offset"] == pytest.approx(0.05)
    assert row["exposure"] == pytest.approx(0.5)  # one positive a power of e darker, one alike
    assert row["camera_colour"] == pytest.approx(math.sqrt(3) / 2)  # one camera apart in all three channels, one not
    assert row["family"] == 1  # person 2; distractors and junk are nobody
    grey = 0.5 ** (1 / 2.2)
    assert row["clothes"] == pytest.approx((1 - grey) / math.sqrt(6))


def test_the_files_hold_what_the_drawn_cities_hold():
    """The order, the pids and the factors of the file are those of the city's queries."""
    for seed in (0, 1, 2):
        made = files.read_json(runs.RESULTS / f"queries.tiny.{seed}.json")
        rows = {name: [float(value) for value in column.split()] for name, column in made["rows"].items()}
        assert rows.keys() == {"pid", "camid", *anatomy.FACTORS} and len({len(row) for row in rows.values()}) == 1
        assert (runs.RESULTS / f"queries.tiny.{seed}.json").stat().st_size < 150_000
        (result,) = (r for r in runs.load_results("02", "tiny", "default") if r.seed == seed)
        assert result.per_query["pid"] == rows["pid"]
        assert min(rows["positives"]) >= 1 and min(rows["view"]) >= 0 and max(rows["view"]) <= 180


def test_a_quick_city_is_written_and_a_foreign_result_is_refused(tmp_path):
    made = files.read_json(anatomy.write("quick", 0, tmp_path))
    split = open_split("market", preset="quick", progress=False)
    pids = [int(pid) for pid in made["rows"]["pid"].split()]
    assert pids == [record.pid for record in split.query] and made["train"]["images"] == len(split.train)
    params = {"dataset": "market", "city_preset": "quick", "city_seed": 0}
    per_query = {"pid": pids, "ap": [0.5] * len(pids)}
    result = runs.Result("02", "quick", "default", 0, params, {"mAP": 0.5}, 1.0, 1, per_query=per_query)
    runs.save_result(result, tmp_path)
    rows = [{"pid": pid} for pid in pids]
    assert anatomy.check(rows, "quick", 0, tmp_path) == 1
    assert anatomy.check(rows, "quick", 1, tmp_path) == 0  # of another city
    with pytest.raises(ValueError, match=r"02\.quick\.default\.0 was not tested with the queries of market-quick-0"):
        anatomy.check(rows[::-1], "quick", 0, tmp_path)


# ------------------------------------------------------------------------------------------------------------ atlas


def embedded(n: int, seed: int) -> Embeddings:
    """Embeddings of four people and of junk."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, 8, generator=rng))
    return Embeddings(x, torch.arange(n) % 6 - 1, torch.arange(n) % 3)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A folder with the results of two methods, and recipes that count how often they are run."""
    calls = []

    def run(variant, *, preset, seed, city_seed, progress):
        calls.append(variant)
        objects = {"query": embedded(12, 0), "gallery": embedded(30, len(calls))}
        return runs.Result("02", preset, variant, seed, {}, {"mAP": 0.5}, 1.0, 1, objects=objects)

    for variant in ("default", "softmax"):
        runs.save_result(runs.Result("02", "quick", variant, 0, {}, {"mAP": 0.5}, 1.0, 1), tmp_path)
    monkeypatch.setattr(
        atlas, "METHODS", {"one": ("02", "default"), "two": ("02", "softmax"), "none": ("03", "default")}
    )
    monkeypatch.setattr(atlas.runner, "recipe", lambda notebook: SimpleNamespace(run=run))
    monkeypatch.setattr(atlas, "chosen", lambda pids: [1, 2, 3])
    monkeypatch.setattr(atlas.plots, "feature_map_2d", lambda x, *, method, seed: x[:, :2].numpy())  # in no time
    return tmp_path, calls


def test_the_atlas_grows_by_methods_and_resumes(recorded):
    folder, calls = recorded
    lines = atlas.build("quick", 0, folder, progress=False)
    assert lines[:2] == ["one: added", "two: added"] and lines[2].startswith("none: not recorded yet; reidkit study 03")
    made = files.read_json(folder / "atlas.quick.0.json")
    assert made["people"] == [1, 2, 3] and set(made["pids"]) == {1, 2, 3}
    for method in made["methods"].values():
        shapes = {np.shape(points) for points in method["maps"].values()}
        assert shapes == {(len(made["pids"]), 2)} and len(method["silhouettes"]["camera"]) == len(made["camids"])
        assert set(method["everybody"]) == {"identity", "camera"} and method["dimensions"] == 8
    assert atlas.build("quick", 0, folder, progress=False)[:2] == ["one: is there", "two: is there"] and len(calls) == 2
    del made["methods"]["two"]  # as if it had been killed before
    files.write_json(folder / "atlas.quick.0.json", made)
    assert atlas.build("quick", 0, folder, progress=False)[:2] == ["one: is there", "two: added"] and len(calls) == 3


def test_a_run_that_came_out_differently_is_not_drawn(recorded):
    folder, _ = recorded
    (result,) = runs.load_results("02", "quick", "default", folder=folder)
    runs.save_result(dataclasses.replace(result, metrics={"mAP": 0.6}), folder)
    with pytest.raises(ValueError, match=r"02\.quick\.default\.0 has mAP 0\.6000 on record and 0\.5000 now"):
        atlas.build("quick", 0, folder, progress=False)
    assert not (folder / "atlas.quick.0.json").exists()


def test_other_images_are_refused(recorded):
    folder, _ = recorded
    path = folder / "atlas.quick.0.json"
    objects = {"query": embedded(12, 0), "gallery": embedded(30, 0)}
    first = runs.Result("02", "quick", "default", 0, {}, {"mAP": 0.5}, 1.0, 1, objects=objects)
    atlas.add(path, "one", first)
    other = dataclasses.replace(first, objects=objects | {"gallery": embedded(24, 0)})
    with pytest.raises(ValueError, match="two was tested with other images"):
        atlas.add(path, "two", other)


def test_every_method_is_a_variant_of_its_recipe():
    assert atlas.METHODS.items() <= lectures.METHODS.items()
    for notebook, variant in lectures.METHODS.values():
        assert variant in runner.recipe(notebook).VARIANTS
