"""Each archive in miniature: what its reader makes of it, and what it says of one that is broken."""

import hashlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import miniatures
from reidkit.data.layouts import PUBLISHED, cuhk03, dukemtmc, match_names, misspelt, msmt17, require, shuffled, viper


def rows(records) -> list[tuple[str, int, int]]:
    return [(record.path.name, record.pid, record.camid) for record in records]


def sentence(read, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        read(*arguments, **options)
    said = str(caught.value)
    assert "\n" not in said and said.endswith((".", "…."))
    return said


# -------------------------------------------------------------------------------------------------- DukeMTMC-reID
def test_dukemtmc_keeps_the_pids_of_those_whom_nobody_asks_for(tmp_path):
    split = dukemtmc(miniatures.dukemtmc(tmp_path / "DukeMTMC-reID"))
    assert split.name == "DukeMTMC-reID" and split.multi_query == ()
    assert rows(split.train)[:2] == [("0001_c1_f0046001.jpg", 1, 0), ("0001_c2_f0046001.jpg", 1, 1)]
    assert [(r.pid, r.camid) for r in split.query] == [(5, 0), (5, 1), (20, 6), (20, 7)]
    assert (7139, 2) in [(r.pid, r.camid) for r in split.gallery]
    assert split.num_cams == 8


# ---------------------------------------------------------------------------------------------------------- VIPeR
@pytest.fixture
def viper_root(tmp_path):
    return miniatures.viper(tmp_path / "VIPeR")


def test_viper_pairs_the_two_cameras_and_leaves_pid_0_to_distractors(viper_root):
    split = viper(viper_root)
    numbers = {int(path.name[:3]) for path in (viper_root / "cam_a").glob("*.bmp")}
    assert {r.pid - 1 for r in split.train + split.query} == numbers
    assert sorted(r.pid for r in split.train) == sorted(2 * [r.pid for r in split.train if r.camid == 0])
    assert [r.pid for r in split.query] == [r.pid for r in split.gallery] == sorted(r.pid for r in split.query)
    assert {(r.camid, r.path.parent.name) for r in split.query} == {(0, "cam_a")}
    assert {(r.camid, r.path.parent.name) for r in split.gallery} == {(1, "cam_b")}
    assert not {r.pid for r in split.train} & {r.pid for r in split.query}
    assert (split.num_pids, len(split.query)) == (3, 4)
    assert all(r.pid == int(r.path.name[:3]) + 1 for part in split.parts.values() for r in part)


def test_vipers_halves_are_those_of_the_documented_rule(viper_root):
    """Written out once more, by hand: whoever reads the docstring gets the same ten halves."""
    for s in range(10):
        numbers = [0, 1, 5, 8, 45, 120, 873]
        order = sorted(numbers, key=lambda i, s=s: hashlib.sha256(f"viper {s} {i}".encode()).hexdigest())
        assert {r.pid - 1 for r in viper(viper_root, split=s).train} == set(order[:3])


def test_vipers_halves_are_pinned_at_full_size():
    """The numbers 0 to 631, so that no change of code moves a split of which results were published."""
    first = shuffled(range(632), "viper", 0)[:316]
    assert len(set(first)) == 316
    assert hashlib.sha256(str(sorted(first)).encode()).hexdigest()[:8] == "6c51a139"
    counts = np.bincount(np.concatenate([shuffled(range(632), "viper", s)[:316] for s in range(10)]))
    assert abs(counts.mean() - 5) < 1e-9 and 1 < counts.std() < 2  # binomial: 1.58


@pytest.mark.parametrize("split", [-1, 10])
def test_viper_has_ten_splits(viper_root, split):
    assert sentence(viper, viper_root, split=split) == f"split is 0 to 9 of VIPeR, not {split}."


def test_viper_names_who_lacks_a_camera(viper_root):
    (viper_root / "cam_b" / "045_90.bmp").unlink()
    (viper_root / "cam_a" / "008_0.bmp").unlink()
    assert "identities in only one of cam_a and cam_b: 2 (8, 45);" in sentence(viper, viper_root)


def test_viper_has_one_image_a_camera(viper_root):
    shutil.copy(viper_root / "cam_a" / "045_0.bmp", viper_root / "cam_a" / "045_45.bmp")
    assert "cam_a holds 8 images of 7 identities" in sentence(viper, viper_root)


def test_viper_names_begin_with_a_number(viper_root):
    (viper_root / "cam_a" / "person.bmp").touch()
    assert "do not start with <id>_, as 045_90.bmp does: person.bmp." in sentence(viper, viper_root)


# --------------------------------------------------------------------------------------------------------- MSMT17
@pytest.fixture(params=[1, 2])
def msmt_root(tmp_path, request):
    return miniatures.msmt17(tmp_path / f"MSMT17_V{request.param}", request.param)


def test_msmt17_follows_its_lists_and_counts_test_identities_on(msmt_root):
    split = msmt17(msmt_root)
    assert [(r.pid, r.camid) for r in split.train] == [(1 + c // 5, c) for c in range(15)]  # list_val is the last two
    assert [(r.pid, r.camid) for r in split.query] == [(4, 0), (4, 14), (5, 1), (5, 2)]
    assert [(r.pid, r.camid) for r in split.gallery] == [(4, 0), (4, 14), (5, 1), (5, 2), (5, 3)]
    assert all(r.path.is_file() for part in split.parts.values() for r in part)
    assert {r.path.parent.parent.name for r in split.train} in ({"train"}, {"mask_train_v2"})
    assert split.num_cams == 15


def test_msmt17_numbers_test_identities_after_1041_at_full_size(tmp_path):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    with (root / "list_train.txt").open("a") as lines:
        lines.write("1040/1040_000_01_0303morning_0016_0.jpg 1040\n")
    split = msmt17(root)
    assert max(r.pid for r in split.train) == 1041
    assert [r.pid for r in split.query] == [1042, 1042, 1043, 1043]


@pytest.mark.parametrize("name", ["list_val.txt", "list_gallery.txt", "train", "test"])
def test_msmt17_names_what_is_missing(tmp_path, name):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sentence(msmt17, root).startswith(f"{path} missing; data/README.md")


@pytest.mark.parametrize(
    "line", ["0004/0004_012_07_0303morning_1234_0.jpg", "0004/0004_012_00_0303morning_1.jpg 4", "a.jpg 4", "x"]
)
def test_msmt17_names_the_line_of_a_list_that_is_wrong(tmp_path, line):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    with (root / "list_query.txt").open("a") as lines:
        lines.write(f"\n{line}\n")
    assert f"list_query.txt, line 6: {line!r} is not a path and an identity" in sentence(msmt17, root)


def test_an_empty_list_of_msmt17_is_named(tmp_path):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    (root / "list_query.txt").write_text("\n")
    assert sentence(msmt17, root) == f"{root / 'list_query.txt'} is empty; fetch the list again."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_msmt17_that_another_system_saved(tmp_path, encoding):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    expected, path = msmt17(root), root / "list_query.txt"
    path.write_text(path.read_text().replace("/", "\\"), encoding=encoding, newline="\r\n")
    assert msmt17(root) == expected


def test_a_list_of_msmt17_in_another_encoding_is_named(tmp_path):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    (root / "list_val.txt").write_bytes("张/0001_012_07_0303morning_1234_0.jpg 4".encode("gbk"))
    assert sentence(msmt17, root).startswith(f"{root / 'list_val.txt'} is not text in utf-8 (byte 1 is 0xd5);")


# ---------------------------------------------------------------------------------------------------- CUHK03, new
@pytest.mark.parametrize("home", ["", "cuhk03-np"])
@pytest.mark.parametrize(("boxes", "gallery"), [("detected", 7), ("labeled", 8), ("labelled", 8)])
def test_the_new_protocol_is_read_from_its_folders(tmp_path, home, boxes, gallery):
    miniatures.cuhk03_np(tmp_path / "cuhk03" / home)
    split = cuhk03(tmp_path / "cuhk03", protocol="new", boxes=boxes)
    assert split.name == "cuhk03"
    assert [(r.pid, r.camid) for r in split.query] == [(2, 0), (2, 1), (9, 0), (9, 1)]
    assert (len(split.train), len(split.gallery)) == (8, gallery)
    assert {r.path.parents[1].name for r in split.train} == {boxes.replace("ll", "l")}


@pytest.fixture
def release(tmp_path):
    return miniatures.cuhk03_release(tmp_path / "cuhk03")


@pytest.mark.parametrize("home", ["", "cuhk03_release"])
@pytest.mark.parametrize("boxes", miniatures.BOXES)
def test_the_new_protocol_is_read_from_the_release_and_its_index(release, home, boxes):
    miniatures.cuhk03_config(release / home, boxes)
    split = cuhk03(release, protocol="new", boxes=boxes)
    people = sorted({key[:2] for key in miniatures.cuhk03_images(boxes)})
    tested = {people.index((1, 2)) + 1, people.index((3, 1)) + 1}
    assert {r.pid for r in split.query} == {r.pid for r in split.gallery} == tested
    assert {r.pid for r in split.train} == set(range(1, len(people) + 1)) - tested
    assert [(r.path.name, r.camid) for r in split.query][:2] == [("1_002_1_01.png", 0), ("1_002_2_06.png", 1)]
    assert sum(map(len, split.parts.values())) == len(miniatures.cuhk03_images(boxes))
    assert all(r.path.is_file() for part in split.parts.values() for r in part)


def test_the_new_protocol_says_what_it_lacks(tmp_path, release):
    said = sentence(cuhk03, release, protocol="new")
    assert said.startswith(f"{release / 'cuhk03_new_protocol_config_detected.mat'} missing")
    assert "cuhk-03.mat missing" in sentence(cuhk03, tmp_path, protocol="new")


def test_an_index_of_other_images_is_refused(release):
    config = miniatures.cuhk03_config(release, "labeled") / "cuhk03_new_protocol_config_labeled.mat"
    config.rename(release / "cuhk03_new_protocol_config_detected.mat")
    assert "names images that" in (said := sentence(cuhk03, release, protocol="new")) and "1_001_1_01.png;" in said


# ------------------------------------------------------------------------------------------------ CUHK03, classic
@pytest.mark.parametrize("boxes", miniatures.BOXES)
@pytest.mark.parametrize("split", [0, 1, 19])
def test_the_classic_protocol_searches_all_test_images_in_all_test_images(release, boxes, split):
    read = cuhk03(release, protocol="classic", boxes=boxes, split=split)
    tested = {1000 * pair + person for pair, person in miniatures.cuhk03_tested(split)}
    images = miniatures.cuhk03_images(boxes)
    assert read.query == read.gallery
    assert {r.pid for r in read.query} == tested
    assert {r.pid for r in read.train} == {1000 * pair + person for pair, person, _ in images} - tested
    for record in read.train + read.query:
        pair, person, view, column = map(int, record.path.stem.split("_"))
        assert (record.pid, record.camid) == (1000 * pair + person, view - 1) == (record.pid, int(column > 5))
        assert np.array_equal(np.asarray(Image.open(record.path)), images[pair, person, column])
    assert len(read.train + read.query) == len(images)


@pytest.mark.parametrize("split", [-1, 20])
def test_the_classic_protocol_has_twenty_splits(release, split):
    said = sentence(cuhk03, release, protocol="classic", split=split)
    assert said == f"split is 0 to 19 in CUHK03's classic protocol, not {split}."


def test_unknown_choices_of_cuhk03_are_named(release):
    assert sentence(cuhk03, release, protocol="old") == "protocol is 'classic' or 'new', not 'old'."
    said = sentence(cuhk03, release, protocol="new", boxes="drawn")
    assert said == "boxes is 'detected' or 'labeled', not 'drawn'."


def test_without_export_nothing_is_written(release):
    before = sorted(release.rglob("*"))
    split = cuhk03(release, protocol="classic", export=False)
    assert sorted(release.rglob("*")) == before
    assert rows(split.train + split.query) == rows((s := cuhk03(release, protocol="classic")).train + s.query)


# -------------------------------------------------------------------------------------------------------- helpers
def test_a_folder_that_is_spelt_otherwise_is_named(tmp_path):
    (tmp_path / "Cam_A").mkdir()
    (tmp_path / "cam-b").mkdir()
    said = sentence(require, tmp_path, "cam_a", "cam_b")
    assert said.endswith("rename Cam_A to cam_a and cam-b to cam_b.")


def test_an_archive_that_is_still_packed_is_named(tmp_path):
    (tmp_path / "VIPeR.v1.0.zip").touch()
    assert sentence(require, tmp_path, "cam_a").endswith("VIPeR.v1.0.zip is still packed: unpack it there.")


def test_a_name_is_recognised_through_its_spelling_only():
    names = ("bounding_box_train", "bounding_box_test")
    others = ["bbox_test", "Bounding Box Train"]
    assert misspelt(names, others) == {names[0]: others[1], names[1]: others[0]}
    assert misspelt(names, ["bounding_box_train.zip", "train", "gt_bbox"]) == {}


def test_images_in_folders_of_folders_are_named(tmp_path):
    miniatures.picture(tmp_path / "0002" / "0002_c1.jpg")
    said = sentence(match_names, tmp_path, re.compile("x"), "x", "x")
    assert said == f"{tmp_path} holds no image but folders (0002); move their images up into it."


def test_the_published_numbers_add_up():
    """Sums that the papers state: all images of an archive."""
    images = {name: sum(row[1] for row in parts.values()) for name, parts in PUBLISHED.items() if "labeled" not in name}
    assert images["market1501"] == 32_668 + 3_368
    assert images["dukemtmc"] == 36_411
    assert images["msmt17"] == 126_441
    assert images["viper"] == 2 * 632
    assert PUBLISHED["cuhk03 classic detected"]["train"][1] + PUBLISHED["cuhk03 classic detected"]["query"][1] == 14_097
    for boxes, total in (("detected", 14_097), ("labeled", 14_096)):
        assert sum(row[1] for row in PUBLISHED[f"cuhk03 new {boxes}"].values()) == total
