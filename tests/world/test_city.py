"""Cities on disk: the same files however they are made."""

import csv
import dataclasses
import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest

from reidkit import files
from reidkit.world import city as city_module
from reidkit.world.cameras import Knobs
from reidkit.world.city import CITY_SPECS, Plan, Size, build_city, network, people, roster

NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Cities of eight identities: the rules do not depend on the size."""
    monkeypatch.setitem(city_module.SIZES, "quick", Size(8, 32, 1))


def digest(folder):
    """A hash of every file of a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(city_module.SIZES, "quick", Size(8, 32, 1))
        return build_city(tmp_path_factory.mktemp("cities") / "market", workers=1)


def test_layout_is_that_of_market1501(built):
    names = {
        folder: sorted(p.name for p in (built / folder).iterdir())
        for folder in ("bounding_box_train", "bounding_box_test", "query", "gt_bbox")
    }
    assert all(NAME.fullmatch(name) for folder in names.values() for name in folder)
    pids = {folder: {int(NAME.fullmatch(n)[1]) for n in files} for folder, files in names.items()}
    assert len(pids["bounding_box_train"]) == 8 and len(pids["query"]) == 8
    assert not pids["bounding_box_train"] & (pids["query"] | pids["bounding_box_test"])
    assert {0, -1} <= pids["bounding_box_test"] and pids["gt_bbox"] == pids["query"]
    once = Counter(NAME.fullmatch(n).group(1, 2) for n in names["query"])
    assert set(once.values()) == {1}  # one query an identity and camera
    assert files.read_json(built / "manifest.json")["counts"] == {folder: len(v) for folder, v in sorted(names.items())}


def test_every_query_has_a_match_under_another_camera(built):
    cameras = {}
    for file in (built / "bounding_box_test").iterdir():
        pid, camera = NAME.fullmatch(file.name).group(1, 2)
        cameras.setdefault(pid, set()).add(camera)
    for file in (built / "query").iterdir():
        pid, camera = NAME.fullmatch(file.name).group(1, 2)
        assert cameras.get(pid, set()) - {camera}


def test_the_truth_stands_beside_the_images(built):
    with (built / "factors.csv").open() as handle:
        table = list(csv.DictReader(handle))
    images = {f"{p.parent.name}/{p.name}" for p in built.rglob("*.jpg")}
    assert {row["file"] for row in table} == images and len(table) == len(images)
    assert {"yaw", "occluder", "upper_colour_r", "family", "exposure"} <= set(table[0])
    by_person = {}
    for row in table:
        if int(row["pid"]) > 0:
            by_person.setdefault(row["pid"], set()).add((row["height"], row["pattern"], row["upper_colour_g"]))
    assert all(len(values) == 1 for values in by_person.values())


def test_the_shares_of_several_processes_make_the_same_files(built, tmp_path, monkeypatch):
    """What three helper processes run, in the worst order and with smaller chunks."""
    monkeypatch.setattr(city_module, "CHUNK", {"cpu": 2**13})
    task = json.dumps([dataclasses.asdict(Plan("market", "quick", 0)), str(tmp_path), 3])
    drawn = []
    for share in "210":
        city_module.help_draw(share, task)
        drawn.append(len(list(tmp_path.rglob("*.jpg"))))
    assert 0 < drawn[0] < drawn[1] < drawn[2]
    assert digest(tmp_path) == {name: value for name, value in digest(built).items() if name.endswith(".jpg")}


def test_the_seed_decides_the_files(built, tmp_path):
    assert digest(build_city(tmp_path / "again", workers=1)) == digest(built)
    assert digest(build_city(tmp_path / "other", seed=1, workers=1)) != digest(built)


def test_a_finished_city_is_not_drawn_again(built, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*")}
    monkeypatch.setattr(city_module, "_draw_all", None)
    assert build_city(built) == built
    assert {p: p.stat().st_mtime_ns for p in built.rglob("*")} == before


def test_another_plan_replaces_a_city_and_spares_strangers(built, tmp_path):
    mine = build_city(tmp_path / "mine", workers=1, knobs={"occluders": 0.0})
    assert digest(mine) != digest(built)
    assert digest(build_city(tmp_path / "mine", workers=1)) == digest(built)
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no city"):
        build_city(tmp_path / "yours")
    assert (tmp_path / "yours" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"city": "paris"}, "no city 'paris'; choose one of market, duke, auxiliary"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"knobs": {"colour": 1}}, "no knob colour; the world has blur, box"),
    ],
)
def test_wrong_words(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_city(tmp_path / "city", **options)
    assert list(tmp_path.iterdir()) == []


def test_cities_differ():
    plans = {name: Plan(name, "quick", 0) for name in CITY_SPECS}
    assert [len(network(plan)) for plan in plans.values()] == [6, 8, 15, 2, 10, 24]
    assert len({row.pid for row in roster(plans["auxiliary"])}) > 1.8 * len(
        {row.pid for row in roster(plans["market"])}
    )
    heights = [people(plan, np.arange(50)).height for plan in plans.values()]
    assert not (heights[0] == heights[1]).any() and not (heights[0] == heights[2]).any()
    coats = [(people(plan, np.arange(400)).upper == 3).float().mean().item() for plan in plans.values()]
    assert coats[0] < coats[2] < coats[1]  # summer, autumn, winter


def test_cameras_really_shift_colour():
    """The same people under each camera: mean colours lie apart, and stay together when the knob is off."""
    from reidkit.world.cameras import observe
    from reidkit.world.render import render

    spreads = {}
    for colour in (0.0, 1.0):
        plan = Plan("market", "quick", 3, Knobs(camera_colour=colour, light=0.0, companions=0.0, occluders=0.0))
        cameras = network(plan)
        cameras = cameras.replace(scene=0.2, sunny=0.5, fog=0.0)
        pids = np.repeat(np.arange(12), 6)
        pose = observe(pids, np.tile(np.arange(6), 12), np.zeros(72, int), cameras, seed=3, knobs=plan.knobs)
        means = render(people(plan, pids), pose, cameras, (64, 32)).float().mean((2, 3)).view(12, 6, 3).mean(0)
        spreads[colour] = means.std(0).mean().item()
    assert spreads[1.0] > 4 * spreads[0.0]
