"""The doctor on whole miniatures and on broken ones: one line says what is wrong and what to do, an exit code tells."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import miniatures
from reidkit import cli
from reidkit.data import layouts
from reidkit.data.doctor import examine, recognise

README = "data/README.md shows the layout that is expected."


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All archives, whole."""
    root = tmp_path_factory.mktemp("whole")
    for name in ("market1501", "dukemtmc", "viper", "msmt17"):
        getattr(miniatures, name)(root / name)
    miniatures.cuhk03_np(miniatures.cuhk03_release(root / "cuhk03"))
    return root


@pytest.fixture(scope="module")
def small_numbers(whole):
    """What the miniatures count, in the form of the published numbers."""
    splits = {name: getattr(layouts, name)(whole / name) for name in ("market1501", "dukemtmc", "viper", "msmt17")}
    for protocol in ("classic", "new"):
        for boxes in miniatures.BOXES:
            split = layouts.cuhk03(whole / "cuhk03", protocol=protocol, boxes=boxes, export=False)
            splits[f"cuhk03 {protocol} {boxes}"] = split
    counts = {name: split.counts() for name, split in splits.items()}
    return {
        name: {part: tuple(parts[part][field] for field in layouts.COUNTED) for part in ("train", "query", "gallery")}
        for name, parts in counts.items()
    }


@pytest.fixture(autouse=True)
def _small_numbers_are_published(small_numbers, monkeypatch):
    monkeypatch.setattr(layouts, "PUBLISHED", dict(small_numbers))


@pytest.fixture
def market(tmp_path):
    return miniatures.market1501(tmp_path / "Market-1501-v15.09.15")


def diagnose(root) -> list[str]:
    """The problems as lines `severity: text`, each of them one line, with paths shortened to the folder's name."""
    report = examine(root)
    lines = [f"{severity}: {text}" for severity, text in report.problems]
    assert all("\n" not in line and line.endswith(".") for line in lines)
    assert all(str(problem) in str(report).splitlines() for problem in report.problems)
    return [line.replace(f"{root.parent}/", "") for line in lines]


def run(*arguments):
    return CliRunner().invoke(cli.main, ["doctor", *map(str, arguments)])


# ----------------------------------------------------------------------------------------------------- whole ones
@pytest.mark.parametrize("layout", ["market1501", "dukemtmc", "viper", "msmt17", "cuhk03", "folders", "csv"])
def test_a_whole_archive_is_named_and_nothing_is_wrong(tmp_path, whole, layout):
    if layout == "folders":
        root = miniatures.folders(tmp_path / "own")
    else:
        root = miniatures.table(tmp_path / "own") if layout == "csv" else whole / layout
    report = examine(root)
    assert report.layout == layout
    assert {severity for severity, _ in report.problems} <= {"note"}
    assert report.exit_code == 0 and report.invalid_queries == ()
    assert (set(report.complete) == set(report.counts) - {"multi_query"}) == (layout not in ("folders", "csv"))
    assert str(report).endswith("\nNothing is wrong.")
    assert run(root).exit_code == 0


def test_the_report_is_a_page_to_read(market):
    assert str(examine(market)).splitlines() == [
        "Market-1501-v15.09.15 · market1501",
        "",
        "                identities   images   cameras   distractors   junk",
        "train                    3       16         6             –      –   ✓ complete",
        "query                    2        4         4             –      –   ✓ complete",
        "gallery                  2        7         6             2      1   ✓ complete",
        "multi_query              2        8         4             –      –",
        "",
        "Nothing is wrong.",
    ]


def test_cuhk03_is_counted_by_each_protocol_without_writing_a_file(whole):
    root = whole / "cuhk03"
    before = sorted(root.rglob("*"))
    report = examine(root)
    assert list(report.counts)[:4] == [f"classic detected {part}" for part in ("train", "query", "gallery")] + [
        "new detected train"
    ]
    assert len(report.counts) == 12
    assert [text for _, text in report.problems] == [
        "classic detected: images still inside cuhk-03.mat: 47; the first use writes them to cuhk-03-detected.",
        "classic labeled: images still inside cuhk-03.mat: 48; the first use writes them to cuhk-03-labeled.",
    ]
    assert sorted(root.rglob("*")) == before


def test_a_city_is_compared_with_its_manifest(market):
    folders = {path.name: len(list(path.glob("[!.]*.jpg"))) for path in market.iterdir()}
    (market / "manifest.json").write_text(json.dumps({"plan": {"city": "market"}, "counts": folders}))
    report = examine(market)
    assert (report.layout, report.exit_code, report.problems) == ("city", 0, ())
    assert set(report.complete) == set(report.counts)
    next((market / "query").glob("0*")).unlink()
    said = f"query: not as many images as were rendered; delete {market.name} and build it again."
    assert diagnose(market) == [f"warning: {said}"]


def test_own_images_in_the_layout_of_an_archive_are_no_fault(market, monkeypatch):
    monkeypatch.setitem(layouts.PUBLISHED, "market1501", {"train": (751, 12_936)})
    assert diagnose(market) == [
        "note: identities to train on: 3, published are 751; fine if these are your own images."
    ]


def test_what_is_odd_in_a_complete_archive_is_only_noted(tmp_path):
    root = miniatures.dukemtmc(tmp_path / "DukeMTMC-reID")
    for name in ("0005_c1_f0090005.jpg", "0020_c7_f0090020.jpg"):
        path = root / "bounding_box_test" / name
        path.rename(path.with_name(name.replace("_c1_", "_c2_").replace("_c7_", "_c8_").replace("00900", "00911")))
    assert diagnose(root)[0].startswith("note: queries without an image of their identity by another camera: 2 of 4 (")
    assert [r.path.name for r in examine(root).invalid_queries] == ["0005_c2_f0057005.jpg", "0020_c8_f0057020.jpg"]


# ---------------------------------------------------------------------------------------------------- broken ones
def a_folder_is_missing(root):
    shutil.rmtree(root / "query")
    return [f"error: {root.name}/query missing; {README}"]


def a_folder_is_empty(root):
    for path in (root / "query").iterdir():
        path.unlink()
    return [
        f"error: {root.name}/query holds no image (.jpg, .png and what else Pillow reads); unpack the archive again."
    ]


def folders_are_renamed(root):
    (root / "bounding_box_train").rename(root / "Bounding_Box_Train")
    (root / "bounding_box_test").rename(root / "bbox_test")
    return [
        f"error: {root.name}/bounding_box_train and {root.name}/bounding_box_test missing, but there is something like "
        "it: rename Bounding_Box_Train to bounding_box_train and bbox_test to bounding_box_test."
    ]


def training_images_lie_in_folders_by_identity(root):
    for path in (root / "bounding_box_train").glob("0*"):
        miniatures.picture(path.parent / path.name[:4] / path.name)
        path.unlink()
    return [
        f"error: {root.name}/bounding_box_train holds no image but folders (0002, 0007, 0011); "
        "move their images up into it."
    ]


def identities_are_words(root):
    miniatures.picture(root / "query" / "alice_c1s1_000001_00.jpg")
    return [
        f"error: {root.name}/query: 1 of 5 image names do not start with <pid>_c<camera from 1>, as "
        "0002_c1s1_000451_03.jpg does: alice_c1s1_000001_00.jpg."
    ]


def junk_lies_among_the_queries(root):
    miniatures.picture(root / "query" / "-1_c1s1_000001_00.jpg")
    return [
        f"error: {root.name}/query/-1_c1s1_000001_00.jpg is junk (pid -1); junk belongs in "
        f"{root.name}/bounding_box_test only."
    ]


def images_are_lost(root):
    for path in (root / "bounding_box_train").glob("0011*"):
        path.unlink()
    return ["warning: train has 2 identities, not 3 and 12 images, not 16; unpack the archive again."]


def images_are_cut_short_or_empty(root):
    cut, empty, text = sorted((root / "bounding_box_test").glob("0*"))[:3]
    cut.write_bytes(cut.read_bytes()[:400])
    empty.write_bytes(b"")
    text.write_bytes(b"<html>404 Not Found</html>")
    names = f"{cut.name}, {empty.name}, {text.name}"
    return [f"error: images that are damaged: 3 of 35 ({names}); replace them."]


def a_camera_is_missing(root):
    for path in root.rglob("*_c5*"):
        path.unlink()
    return [
        "warning: train has 14 images, not 16; unpack the archive again.",
        "warning: gallery has 6 images, not 7 and 1 distractors, not 2; unpack the archive again.",
        "warning: cameras with images: 1, 2, 3, 4, 6, not 1 to 6; look for images that are lost or misnamed.",
    ]


def a_query_cannot_be_answered(root):
    (root / "bounding_box_test" / "0003_c2s2_000101_01.jpg").unlink()
    return [
        "warning: gallery has 6 images, not 7; unpack the archive again.",
        "warning: queries without an image of their identity by another camera: 1 of 4 (0003_c1s2_000076_00.jpg); "
        "nothing can answer them and evaluation skips them; leave them out.",
    ]


def every_image_is_by_one_camera(root):
    for i, path in enumerate(sorted(root.rglob("*_c*.jpg"))):
        if path.name[0] != ".":
            path.rename(path.with_name(f"{path.name[: path.name.index('_')]}_c1s1_{i:06d}_00.jpg"))
    names = ", ".join(sorted(path.name for path in (root / "query").glob("0*"))[:3])
    return [
        f"error: queries without an image of their identity by another camera: 4 of 4 ({names}, …); if cameras are not "
        "known, read a folder per identity or a CSV file with cameras=False.",
        "warning: cameras with images: 1, not 1 to 6; look for images that are lost or misnamed.",
    ]


def an_identity_trains_and_is_tested(root):
    for name in ("0003_c1s1_000001_00.jpg", "0005_c1s1_000001_00.jpg"):
        miniatures.picture(root / "bounding_box_train" / name)
    return [
        "warning: train has 5 identities, not 3 and 18 images, not 16; unpack the archive again.",
        "warning: identities that train and are tested: 2 (3, 5); keep each on one side.",
    ]


def an_image_is_there_under_two_identities(root):
    one, other = root / "bounding_box_train" / "0002_c1s1_001451_03.jpg", root / "query" / "0003_c1s2_000076_00.jpg"
    shutil.copy(one, other)
    (root / "bounding_box_train" / "0011_c6s1_002451_03.jpg").unlink()
    return [
        "warning: train has 15 images, not 16; unpack the archive again.",
        "warning: files that are copies of others: 1 (0002_c1s1_001451_03.jpg = 0003_c1s2_000076_00.jpg; under another "
        "identity: 1); keep one of each.",
    ]


def it_lies_two_folders_deeper(root):
    inner = root.parent / "unpacked" / "Market" / root.name
    inner.parent.mkdir(parents=True)
    root.rename(inner)
    root.mkdir()
    inner.parent.rename(root / "Market")
    where = f"{root.name}/Market/{root.name}"
    return [f"error: {root.name} is not the data set, {where} is; give that folder."]


BROKEN = (
    a_folder_is_missing,
    a_folder_is_empty,
    folders_are_renamed,
    training_images_lie_in_folders_by_identity,
    identities_are_words,
    junk_lies_among_the_queries,
    images_are_lost,
    images_are_cut_short_or_empty,
    a_camera_is_missing,
    a_query_cannot_be_answered,
    every_image_is_by_one_camera,
    an_identity_trains_and_is_tested,
    an_image_is_there_under_two_identities,
    it_lies_two_folders_deeper,
)


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_archive_gets_its_line(market, damage):
    expected = damage(market)
    assert diagnose(market) == expected
    assert examine(market).layout == "market1501"
    result = run(market)
    assert (result.exit_code, result.stdout, result.stderr) == (1, f"{examine(market)}\n", "")


def lists_are_missing(root):
    (root / "list_val.txt").unlink()
    return [f"error: {root.name}/list_val.txt missing; {README}"]


def listed_images_are_missing(root):
    for path in (root / "test" / "0001").glob("0001_000*"):
        path.unlink()
    return [
        "error: images that are missing: 2 of 24 (0001_000_02_0303morning_0032_0.jpg, "
        "0001_000_03_0303morning_0048_0.jpg); unpack the archive again or mend the list."
    ]


@pytest.mark.parametrize("damage", [lists_are_missing, listed_images_are_missing], ids=lambda damage: damage.__name__)
def test_a_broken_msmt17_gets_its_line(tmp_path, damage):
    root = miniatures.msmt17(tmp_path / "MSMT17_V1")
    expected = damage(root)
    assert diagnose(root) == expected
    assert examine(root).layout == "msmt17" and run(root).exit_code == 1


def test_a_viper_that_lost_images_gets_its_line(tmp_path):
    root = miniatures.viper(tmp_path / "VIPeR")
    (root / "cam_b" / "008_90.bmp").unlink()
    assert diagnose(root) == [
        "error: VIPeR: identities in only one of cam_a and cam_b: 1 (8); unpack the archive again."
    ]


def test_cuhk03_without_h5py_is_told_once(tmp_path, monkeypatch):
    root = miniatures.cuhk03_release(tmp_path / "cuhk03")
    monkeypatch.setitem(sys.modules, "h5py", None)
    (said,) = diagnose(root)
    assert said.endswith("cuhk-03.mat is an HDF5 file; install h5py to read it: pip install 'reidkit[mat]'.")


def test_cuhk03_that_was_cut_short_gets_its_line(tmp_path):
    root = miniatures.cuhk03_release(tmp_path / "cuhk03")
    mat = root / "cuhk03_release" / "cuhk-03.mat"
    mat.write_bytes(mat.read_bytes()[:5000])
    (said,) = diagnose(root)
    assert said.startswith("error: cuhk03/cuhk03_release/cuhk-03.mat cannot be opened as MATLAB 7.3 (")
    assert examine(root).layout == "cuhk03" and run(root).exit_code == 1


def test_exported_images_of_cuhk03_are_decoded(tmp_path):
    root = miniatures.cuhk03_release(tmp_path / "cuhk03")
    layouts.cuhk03(root, protocol="classic")
    (root / "cuhk03_release" / "cuhk-03-detected" / "1_002_1_01.png").write_bytes(b"")
    assert (
        diagnose(root)[0] == "error: classic detected: images that are damaged: 1 of 47 (1_002_1_01.png); replace them."
    )


def test_a_table_whose_images_are_gone_gets_its_line(tmp_path):
    root = miniatures.table(tmp_path / "own").parent
    shutil.rmtree(root / "images")
    assert diagnose(root)[0] == (
        "error: images that are missing: 16 of 16 (1-door-0.png, 1-door-1.png, 1-hall-0.png, …); unpack the archive "
        "again or mend the list."
    )


def test_images_without_cameras_are_noted(tmp_path):
    root = miniatures.folders(tmp_path / "own", cameras=False)
    assert diagnose(root) == [
        "note: each image counts as taken by a camera of its own; name cameras by c1, c2 … in file names or by camid."
    ]


# --------------------------------------------------------------------------------------------------------- own images
@pytest.mark.parametrize("way", ["listed", "link", "bytes"])
def test_images_that_are_query_and_gallery_are_named(tmp_path, way):
    path = miniatures.table(tmp_path / "own")
    one, other = "images/3-door-0.png", "images/again.png"
    if way == "link":
        (path.parent / other).symlink_to(path.parent / one)
    elif way == "bytes":
        shutil.copy(path.parent / one, path.parent / other)
    other = one if way == "listed" else other
    path.write_text(f"{path.read_text()}{other},3,hall,gallery\n")
    named = "3-door-0.png" if way == "listed" else "3-door-0.png = again.png"
    assert diagnose(path.parent) == [
        f"warning: images that are query and gallery: 1 ({named}); each is junk for itself; keep each in one of the "
        "two."
    ]
    assert "Nothing is wrong" not in str(examine(path.parent))


def test_images_that_train_and_are_tested_are_named(tmp_path):
    path = miniatures.table(tmp_path / "own")
    path.write_text(f"{path.read_text()}images/1-door-0.png,1,door,gallery\n")
    assert diagnose(path.parent) == [
        "warning: identities that train and are tested: 1 (1); keep each on one side.",
        "warning: images that train and are tested: 1 (1-door-0.png); keep each on one side.",
    ]


def test_an_image_listed_twice_in_one_part_is_named(tmp_path):
    path = miniatures.table(tmp_path / "own")
    path.write_text(f"{path.read_text()}images/3-door-1.png,3,door,gallery\n")
    assert diagnose(path.parent) == ["warning: files that are copies of others: 1 (3-door-1.png); keep one of each."]


def test_a_file_under_two_identities_gets_its_line(tmp_path):
    path = miniatures.table(tmp_path / "own")
    path.write_text(f"{path.read_text()}images/3-door-1.png,4,door,gallery\n")
    assert diagnose(path.parent) == [
        "error: own/people.csv, line 11 (pid 3) and own/people.csv, line 18 (pid 4) are the same file, 3-door-1.png, "
        "under two identities; keep the right one."
    ]


@pytest.mark.parametrize("name", ["3-door-0.png", "copy.png"])
def test_copies_without_cameras_still_have_their_note(tmp_path, name):
    path = miniatures.table(tmp_path / "own", "path,pid,split")
    path.write_text(f"{path.read_text()}images/{name},3,gallery\n")
    if name == "copy.png":
        shutil.copy(path.parent / "images" / "3-door-0.png", path.parent / "images" / name)
    assert diagnose(path.parent)[1].startswith("note: each image counts as taken by a camera of its own;")


def test_how_many_became_distractors_and_junk_is_said(tmp_path):
    root = miniatures.folders(tmp_path / "own")
    for name in ("0/c1_a.jpg", "0/c2_a.jpg", "-1/c1_a.jpg"):
        miniatures.picture(root / name)
    assert diagnose(root) == [
        "note: images by their pid: 2 distractors (0), 1 junk (-1); number identities from 1, or name them."
    ]


def test_identities_numbered_from_0_are_suspected(tmp_path):
    for pid in range(4):
        for camera in (1, 2):
            miniatures.picture(tmp_path / "own" / f"{pid}" / f"c{camera}.png")
    (said,) = diagnose(tmp_path / "own")
    assert said == (
        "warning: images by their pid: 2 distractors (0), 0 junk (-1); identities seem to be numbered from 0: number "
        "them from 1, or 0 is nobody that can be found."
    )


def files_without_a_suffix_that_is_known(root):
    for i, name in enumerate(("c1_x.heic", "c1_y", "c1_z.mp4")):
        (root / "ada" / name).write_bytes(bytes([i]))
    return "ada", "3 (c1_x.heic, c1_y, c1_z.mp4)"


def images_in_a_folder_too_many(root):
    miniatures.picture(root / "ada" / "cam1" / "a.png")
    return "ada", "1 (a.png)"


def images_beside_the_folders(root):
    miniatures.picture(root / "eve.jpg")
    return "", "1 (eve.jpg)"


@pytest.mark.parametrize(
    "lose",
    [files_without_a_suffix_that_is_known, images_in_a_folder_too_many, images_beside_the_folders],
    ids=lambda lose: lose.__name__,
)
def test_files_that_are_passed_over_are_counted(tmp_path, lose):
    root = miniatures.folders(tmp_path / "own")
    _, named = lose(root)
    assert diagnose(root) == [
        f"warning: files that are passed over: {named}; give images a suffix that Pillow reads, those of an identity a "
        "folder, and move out what is none."
    ]


def test_files_passed_over_in_an_archive_are_counted(market, monkeypatch):
    monkeypatch.setitem(layouts.PUBLISHED, "market1501", {"train": (751, 12_936)})
    (market / "query" / "0003_c1s2_000099_00.heic").touch()
    miniatures.picture(market / "bounding_box_train" / "more" / "0002_c1s1_000001_00.jpg")
    assert diagnose(market)[0].startswith(
        "warning: files that are passed over: 2 (0002_c1s1_000001_00.jpg, 0003_c1s2_000099_00.heic);"
    )


def test_writings_and_what_systems_leave_are_no_images(tmp_path):
    root = miniatures.folders(tmp_path / "own")
    for name in ("ada/labels.txt", "readme.md", ".DS_Store", "desktop.ini", "ada/THUMBS.DB", "__MACOSX/ada/c1.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert diagnose(root) == ["note: files that are passed over: 2 (readme.md, labels.txt); no images."]


def test_images_that_a_list_leaves_out_are_noted(tmp_path):
    path = miniatures.table(tmp_path / "own")
    miniatures.picture(path.parent / "images" / "more.png")
    (path.parent / "images" / "deeper").mkdir()
    assert diagnose(path.parent) == ["note: files that are passed over: 1 (more.png); the list does not name them."]


def test_images_of_a_kind_that_is_not_read_are_named(tmp_path):
    root = miniatures.folders(tmp_path / "own")
    Image.fromarray(np.float32([[0, 1], [0, 1]])).save(root / "ada" / "c1_x.tif")
    assert diagnose(root) == [
        "error: images that are of a kind that is not read: 1 of 13 (c1_x.tif); save them as RGB with 8 bits."
    ]


def test_images_that_one_may_not_read_are_not_called_damaged(tmp_path, monkeypatch):
    root, read = miniatures.folders(tmp_path / "own"), Path.read_bytes

    def forbidden(path):
        if path.name == "ada_c1_a.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert diagnose(root) == [
        "error: images that are not to be read: 1 of 12 (ada_c1_a.jpg); give yourself the right to read them."
    ]


def test_a_folder_that_one_may_not_read_is_named(tmp_path, monkeypatch):
    root = miniatures.folders(tmp_path / "own")

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert diagnose(root) == ["error: own cannot be read (Permission denied); give yourself the right to read it."]


@pytest.mark.parametrize("encoding", ["gbk", "utf-16-le"])
def test_a_table_in_another_encoding_is_found_and_named(tmp_path, encoding):
    path = miniatures.table(tmp_path / "own")
    path.write_text(path.read_text() + "images/3-door-1.png,张三,door,gallery\n", encoding=encoding)
    (said,) = diagnose(path.parent)
    assert said.startswith("error: own/people.csv is not text in utf-8") and "save it as UTF-8" in said


# ------------------------------------------------------------------------------------------------ not recognised
def nothing_is_there(root):
    return f"{root.name} does not exist; data/README.md says where each archive comes from and where it goes."


def it_is_still_packed(root):
    root.mkdir()
    (root / "VIPeR.zip").touch()
    return f"{root.name} holds nothing that is unpacked; unpack VIPeR.zip and give the folder that comes out."


def it_holds_several_archives(root):
    miniatures.viper(root / "VIPeR")
    miniatures.msmt17(root / "MSMT17_V1")
    return f"{root.name} holds 2 folders that look like data sets (MSMT17_V1, VIPeR); give one."


def all_images_lie_side_by_side(root):
    for i in range(3):
        miniatures.picture(root / f"{i}.jpg")
    return (
        f"{root.name} holds 3 images side by side; give each identity a folder of its own, or list all in a CSV file "
        "with the columns path and pid (and camid and split)."
    )


def it_holds_something_else(root):
    root.mkdir()
    (root / "notes.txt").touch()
    return f"{root.name} has no layout that is known; data/README.md shows those that are."


def it_is_a_file(root):
    root.write_bytes(b"PK")
    return f"{root.name} is a file; give the folder that was unpacked from it, or a CSV file."


STRANGE = (
    nothing_is_there,
    it_is_a_file,
    it_is_still_packed,
    it_holds_several_archives,
    all_images_lie_side_by_side,
    it_holds_something_else,
)


@pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
def test_what_is_no_data_set_gets_its_line(tmp_path, make):
    root = tmp_path / "x" / "somewhere"
    root.parent.mkdir()
    expected = make(root)
    assert diagnose(root) == [f"error: {expected}"]
    assert examine(root).layout == "" and run(root).exit_code == 2


def test_a_part_of_an_archive_leads_to_the_whole(market):
    (said,) = diagnose(market / "query")
    assert said.startswith("error: query is a part of a data set; give ") and said.endswith(f"{market.name}.")


def test_a_wrong_call_exits_as_what_is_not_recognised():
    assert run().exit_code == 2


def test_own_images_are_told_from_archives(tmp_path):
    """Folders that sound a little like an archive's are no sign of it."""
    for name in ("train driver", "anna", "detector"):
        miniatures.picture(tmp_path / name / "c1.jpg")
    assert recognise(tmp_path) == "folders"
    assert recognise(miniatures.table(tmp_path / "own").parent) == "csv"
