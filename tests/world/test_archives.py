"""The layouts of VIPeR and CUHK03, drawn: names, counts, the release's .mat, and builds that are killed."""

import csv
import hashlib
import importlib.util
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from reidkit import files
from reidkit.world import city as city_module
from reidkit.world.city import Plan, Size, build_city, roster

SMALL = Size(14, 64, 1)  # 28 identities: enough for each pair of cameras to have one
MAT = Path("cuhk03_release", "cuhk-03.mat")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(city_module.SIZES, "quick", SMALL)


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(city_module.SIZES, "quick", SMALL)
        folder = tmp_path_factory.mktemp("cities")
        return {city: build_city(folder / city, city=city, workers=1) for city in ("viper", "cuhk03")}


def digest(folder):
    """A hash of every file of a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_viper_has_one_image_of_everybody_in_each_folder(cities):
    names = {view: sorted(p.name for p in (cities["viper"] / view).iterdir()) for view in ("cam_a", "cam_b")}
    matches = {view: [re.fullmatch(r"(\d{3})_(\d+)\.bmp", name) for name in found] for view, found in names.items()}
    pids, others = ([int(match[1]) for match in found] for found in matches.values())
    assert pids == others and len(set(pids)) == 28
    assert pids[0] == 0 and max(pids) > 28  # the first is 000, and the numbers have gaps
    assert {int(match[2]) for found in matches.values() for match in found} <= set(range(0, 360, 45))
    with Image.open(cities["viper"] / "cam_a" / names["cam_a"][0]) as image:
        assert image.size == (24, 64) and image.format == "BMP"


def test_angles_of_viper_are_those_of_the_walkers(cities):
    with (cities["viper"] / "factors.csv").open() as handle:
        table = list(csv.DictReader(handle))
    assert len(table) == 56
    for row in table:
        angle = int(re.search(r"_(\d+)\.bmp", row["file"])[1])
        assert abs((float(row["yaw"]) - angle + 180) % 360 - 180) <= 22.6
        assert float(row["box_scale"]) == pytest.approx(1.06) and float(row["box_x"]) == 0  # VIPeR was cut by hand


@pytest.mark.parametrize("kind", ["detected", "labeled"])
def test_the_new_protocol_of_cuhk03(cities, kind):
    root = cities["cuhk03"] / "cuhk03-np" / kind
    names = {
        part: sorted(p.name for p in (root / part).iterdir())
        for part in ("bounding_box_train", "bounding_box_test", "query")
    }
    seen = {
        part: Counter(re.fullmatch(r"(\d{4})_c([12])_\d\d\.png", n).groups() for n in found)
        for part, found in names.items()
    }
    train, test, query = ({pid for pid, _ in found} for found in seen.values())
    assert len(test) == round(28 * 700 / 1467) and len(train) == 28 - len(test)
    assert test == query and not train & test
    assert seen["query"] == {(pid, view): 1 for pid in test for view in "12"}
    assert set(seen["bounding_box_test"]) == set(seen["query"])  # every query has a match under the other view
    counts = files.read_json(cities["cuhk03"] / "manifest.json")["counts"]
    assert {part: counts[f"cuhk03-np/{kind}/{part}"] for part in names} == {p: len(n) for p, n in names.items()}


def test_hand_drawn_boxes_fit_and_show_the_same_moment():
    plan = Plan("cuhk03", "quick", 0)
    rows = roster(plan)
    moments = city_module.moments(plan, rows, city_module.network(plan)).columns()
    where = {(row.by_hand, row.pid, row.camid, row.shot): i for i, row in enumerate(rows)}
    pairs = np.array([(i, where[True, *rest]) for (by_hand, *rest), i in where.items() if not by_hand])
    for name, column in moments.items():
        same = column[pairs[:, 0]] == column[pairs[:, 1]]
        assert not same.any() if name == "box_x" else same.all() or name in ("box_y", "box_scale")
    assert (moments["box_x"][pairs[:, 1]] == 0).all()


def test_the_release_holds_the_same_images(cities):
    root = cities["cuhk03"]
    assert (root / MAT).read_bytes()[:10] == b"MATLAB 7.3" and (root / MAT).read_bytes()[124:128] == b"\x00\x02IM"
    with h5py.File(root / MAT) as mat:
        shapes = {}
        for kind in ("detected", "labeled"):
            cells = [mat[ref][()].T for ref in mat[kind][0]]
            assert mat[kind].attrs["MATLAB_class"] == b"cell"
            shapes[kind] = [cell.shape for cell in cells]
            images = {p.name: p for p in (root / "cuhk03-np" / kind).rglob("*.png")}
            pid, found = 0, 0
            for people in cells:
                for person in people:
                    pid += 1
                    for column, ref in enumerate(person, 1):
                        name = f"{pid:04d}_c{1 if column <= 5 else 2}_{column:02d}.png"
                        if mat[ref].ndim == 3:
                            assert np.array_equal(mat[ref][()].T, np.asarray(Image.open(images[name])))
                            found += 1
                        else:
                            assert mat[ref].attrs["MATLAB_empty"] and name not in images
            assert found == len(images) < 280
        assert shapes["detected"] == shapes["labeled"] == [(16, 10), (8, 10), (2, 10), (1, 10), (1, 10)]
        tests = [mat[ref][()].T for ref in mat["testsets"][0]]
    assert len(tests) == 20 and len({test.tobytes() for test in tests}) > 10
    for test in tests:
        assert test.shape == (2, 2) and len(np.unique(test, axis=0)) == 2  # 100 of 1467 are 2 of 28
        assert all(1 <= person <= shapes["labeled"][int(pair) - 1][0] for pair, person in test)


@pytest.mark.parametrize("preset", ["tiny", "world"])
def test_cuhk03_is_as_incomplete_as_the_release(preset):
    rows = roster(Plan("cuhk03", preset, 0))
    n = 1467 if preset == "world" else 300
    for by_hand in (False, True):
        views = Counter((row.pid, row.camid) for row in rows if row.by_hand == by_hand)
        assert max(views.values()) == 5 and 4.7 < sum(views.values()) / (2 * n) < 4.9
        assert len({pid for pid, _ in views}) == n
        assert 0.005 * n < 2 * n - len(views) < 0.04 * n  # identities that lack a view
    assert 0 < sum(row.by_hand for row in rows) - len(rows) / 2 < 0.02 * len(rows)  # the detector missed a few
    if preset == "world":
        pairs = Counter(pair for _, pair in {(row.pid, row.camid // 2) for row in rows})
        assert [pairs[i] for i in range(5)] == [843, 440, 77, 58, 49]
        query = [row for row in rows if row.folder == "cuhk03-np/labeled/query"]
        assert len(query) == 1400


def test_viper_at_world_size():
    rows = roster(Plan("viper", "world", 3))
    assert Counter(row.folder for row in rows) == {"cam_a": 632, "cam_b": 632}
    assert Plan("viper", "world", 0).size == Plan("viper", "tiny", 0).size == (128, 48)
    assert len({row.pid for row in roster(Plan("viper", "tiny", 3))}) == 300


def test_the_seed_decides_viper(cities, tmp_path):
    assert digest(build_city(tmp_path / "again", city="viper", workers=1)) == digest(cities["viper"])
    assert digest(build_city(tmp_path / "other", city="viper", seed=1, workers=1)) != digest(cities["viper"])


KILLED = """
import sys
from reidkit.world import city
city.SIZES["quick"] = city.Size(14, 64, 1)
city.build_city(sys.argv[1], city="cuhk03", workers=1)
"""


def test_killed_while_the_release_is_written(cities, tmp_path):
    """kill -9 when all images are there and the .mat is not; then the same files, and no image is drawn twice."""
    out = tmp_path / "cuhk03"
    command = [sys.executable, "-c", KILLED, str(out)]
    process = subprocess.Popen(command)
    while process.poll() is None and not list(tmp_path.glob(".*/cuhk03_release/.*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not out.exists() and not list(tmp_path.rglob("[!.]*.mat"))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("[!.]*.png")}
    subprocess.run(command, check=True)
    assert digest(out) == digest(cities["cuhk03"])
    assert {p.name: p.stat().st_mtime_ns for p in out.rglob("*.png")} == before


def test_without_h5py_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"cuhk03 is written with h5py; install it: pip install 'reidkit\[mat\]'"):
        build_city(tmp_path / "city", city="cuhk03")
    assert list(tmp_path.iterdir()) == []
