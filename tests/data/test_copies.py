"""One image in two roles: it is junk for itself, whatever it is called, and a file has one identity."""

import os
import shutil

import numpy as np
import pytest
import torch

import miniatures
from reidkit.data.copies import firsts, one_camera, refuse_two_identities
from reidkit.data.images import load
from reidkit.data.layouts import market1501, viper
from reidkit.data.own import folders, table
from reidkit.data.records import Record
from reidkit.metrics.retrieval import evaluate


def copied(way: str, one, other) -> str:
    """Make `other` the same image as `one`, and return the name by which a list would call it."""
    other.parent.mkdir(parents=True, exist_ok=True)
    if way == "listed":
        return os.path.relpath(one, other.parent)
    {"bytes": shutil.copy, "link": lambda a, b: b.symlink_to(a), "hard link": lambda a, b: b.hardlink_to(a)}[way](
        one, other
    )
    return other.name


WAYS = pytest.mark.parametrize("way", ["listed", "bytes", "link", "hard link"])


def people(root, way, *, columns="path,pid,split", people=7, shots=3):
    """A list in which every image is query and gallery."""
    lines = [columns]
    for i in range(people * shots):
        miniatures.picture(root / f"{i}.png", (32, 16))
        again = copied(way, root / f"{i}.png", root / f"{i}-again.png")
        for name, part, camera in ((f"{i}.png", "query", i % shots), (again, "gallery", (i + 1) % shots)):
            cells = {"path": name, "pid": str(i // shots + 1), "split": part, "camid": str(camera)}
            lines.append(",".join(cells[column] for column in columns.split(",")))
    (root / "people.csv").write_text("\n".join(lines))
    return root / "people.csv"


@WAYS
@pytest.mark.parametrize("columns", ["path,pid,split", "path,pid,split,camid"])
def test_noise_does_not_find_itself(tmp_path, way, columns):
    split = table(people(tmp_path, way, columns=columns))
    assert [r.camid for r in split.query] == [r.camid for r in split.gallery]
    query, gallery = load(split.query, (32, 16)), load(split.gallery, (32, 16))
    assert torch.equal(query.pixels, gallery.pixels)
    x, y = (bank.pixels.flatten(1).float() for bank in (query, gallery))
    assert evaluate(x, y, query.pids, query.camids, gallery.pids, gallery.camids).rank1 < 0.6


@pytest.mark.parametrize("way", ["bytes", "link", "hard link"])
@pytest.mark.parametrize("camera", ["", "c1_", "c2_"])
def test_copies_in_folders_are_junk_for_themselves(tmp_path, way, camera):
    for pid in "123":
        for part in ("train", "query") if pid != "1" else ("train",):
            miniatures.picture(tmp_path / part / pid / f"{camera and 'c1_'}a.png")
        copied(
            way, tmp_path / "train" / pid / f"{camera and 'c1_'}a.png", tmp_path / "gallery" / pid / f"{camera}b.png"
        )
        if pid != "1":
            copied(
                way, tmp_path / "query" / pid / f"{camera and 'c1_'}a.png", tmp_path / "gallery" / pid / f"{camera}.png"
            )
    split = folders(tmp_path)
    cameras = {r.pid: r.camid for r in split.query}
    assert all(r.camid == cameras[r.pid] for r in split.gallery if r.path.stem in ("", camera) and r.pid in cameras)


def test_an_image_listed_twice_is_divided_as_one(tmp_path):
    path = people(tmp_path, "listed", columns="path,pid")
    split = table(path)
    camera = {record.path.name: record.camid for record in split.query + split.gallery}
    assert all(camera[record.path.name] == record.camid for record in split.query + split.gallery)
    assert split.num_cams == 21  # one for each image, not for each line


@WAYS
def test_a_file_under_two_identities_names_both_rows(tmp_path, way):
    miniatures.picture(tmp_path / "a.png")
    again = copied(way, tmp_path / "a.png", tmp_path / "b.png")
    text = f"path,pid,split\na.png,1,query\n{again},2,gallery\na.png,-1,gallery\n"
    (tmp_path / "people.csv").write_text(text)
    if way == "bytes":  # two files, of which the doctor speaks
        assert [r.pid for r in table(tmp_path / "people.csv").gallery] == [2, -1]
        return
    with pytest.raises(ValueError) as caught:
        table(tmp_path / "people.csv")
    where = tmp_path / "people.csv"
    assert str(caught.value) == (
        f"{where}, line 2 (pid 1) and {where}, line 3 (pid 2) are the same file, {again}, under two identities; "
        "keep the right one."
    )


@pytest.mark.parametrize("read", [folders, market1501])
def test_a_link_under_another_identity_is_refused_in_folders(tmp_path, read):
    root = (miniatures.folders if read is folders else miniatures.market1501)(tmp_path / "own")
    one, other = (
        (root / "ada" / "ada_c1_a.jpg", root / "ben" / "ben_c1_a.jpg")
        if read is folders
        else (root / "bounding_box_train" / "0002_c1s1_001451_03.jpg", root / "query" / "0003_c1s2_000076_00.jpg")
    )
    other.unlink()
    other.symlink_to(one)
    with pytest.raises(ValueError, match="under two identities") as caught:
        read(root)
    assert str(one) in str(caught.value) and str(other) in str(caught.value)


def test_a_copy_in_an_archive_gets_the_camera_of_the_query(tmp_path):
    root = miniatures.market1501(tmp_path / "Market")
    before = market1501(root)
    shutil.copy(root / "query" / "0003_c1s2_000076_00.jpg", root / "bounding_box_test" / "0003_c4s2_000999_00.jpg")
    split = market1501(root)
    (new,) = set(split.gallery) - set(before.gallery)
    assert (new.pid, new.camid) == (3, 0)
    assert set(before.gallery) < set(split.gallery) and (split.train, split.query) == (before.train, before.query)


@pytest.mark.parametrize("way", ["bytes", "link"])
def test_viper_needs_two_images_of_a_person(tmp_path, way):
    root = miniatures.viper(tmp_path / "VIPeR")
    number = viper(root).query[0].path.name[:3]
    (root / "cam_b" / f"{number}_90.bmp").unlink()
    copied(way, root / "cam_a" / f"{number}_0.bmp", root / "cam_b" / f"{number}_90.bmp")
    with pytest.raises(ValueError, match=rf"cam_a and cam_b hold the same image of {number}_0\.bmp;"):
        viper(root)


def test_only_what_could_matter_is_read(tmp_path, monkeypatch):
    """Bytes of one identity, under several cameras, of one size; never those of junk and distractors."""
    names = ["1-0", "1-0b", "2-0", "2-1", "0-0", "0-1", "-1-0", "-1-1"]
    for name in names:
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "2-1").write_bytes(b"longer")
    records = [
        Record(tmp_path / name, *map(int, (name.rpartition("-")[0], name[-1].replace("b", "0")))) for name in names
    ]
    monkeypatch.setattr("reidkit.data.copies._digest", None)
    assert firsts(records) == list(range(8))
    assert one_camera(records) == records


def test_files_that_are_not_there_are_told_by_their_paths(tmp_path):
    records = [Record(tmp_path / name, 1, i) for i, name in enumerate(("a", "b", "c/../a"))]
    assert firsts(records) == [0, 1, 0]
    assert firsts([]) == [] and one_camera([]) == []
    with pytest.raises(ValueError, match=r"line 2 \(pid 1\) and line 4 \(pid 3\)"):
        refuse_two_identities([records[0], records[1], records[2]._replace(pid=3)], ["line 2", "line 3", "line 4"])


def test_empty_files_are_no_copies(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    assert firsts([Record(tmp_path / name, 1, i) for i, name in enumerate("ab")]) == [0, 1]


def test_a_chain_of_copies_has_one_camera(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(b"same")
    (tmp_path / "3").symlink_to(tmp_path / "2")
    records = [Record(tmp_path / f"{i}", 5, i) for i in (3, 1, 2, 0)]
    assert np.unique([record.camid for record in one_camera(records)]).tolist() == [3]
