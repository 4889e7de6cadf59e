"""Reading a folder laid out like Market-1501, and saying what is wrong with one that is not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reidkit.data.layouts import image_names, market1501, read_folder
from reidkit.data.records import Record, Split, number_pids, whole_number

FILES = {
    "bounding_box_train": ["0007_c2s1_000151_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c3s2_000001_00.JPG"],
    "query": ["0005_c1s1_000000_00.jpg"],
    "bounding_box_test": [
        "0005_c2s1_000000_01.jpg",
        "0005_c6s4_000000_01.png",
        "0000_c3s1_000000_01.jpg",
        "0000_c3s1_000000_02.jpg",
        "-1_c4s1_000000_01.jpg",
    ],
}
NO_IMAGES = ["Thumbs.db", "._0002_c1s1_000451_03.jpg", "readme.txt"]


def build(root: Path, files: dict[str, list[str]]) -> Path:
    for folder, names in files.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()
    return root


@pytest.fixture
def archive(tmp_path):
    return build(tmp_path / "Market-1501-v15.09.15", {part: names + NO_IMAGES for part, names in FILES.items()})


def test_a_market_archive_is_read_in_the_order_of_its_names(archive):
    split = market1501(archive)
    assert (split.name, split.root, split.multi_query) == ("Market-1501-v15.09.15", archive, ())
    assert [(r.path.name, r.pid, r.camid) for r in split.train] == [
        ("0002_c1s1_000451_03.jpg", 2, 0),
        ("0002_c3s2_000001_00.JPG", 2, 2),
        ("0007_c2s1_000151_01.jpg", 7, 1),
    ]
    assert split.query == (Record(archive / "query" / "0005_c1s1_000000_00.jpg", 5, 0),)
    assert [(r.pid, r.camid) for r in split.gallery] == [(-1, 3), (0, 2), (0, 2), (5, 1), (5, 5)]
    assert market1501(str(archive)) == split


def test_counts_tell_identities_from_distractors_and_junk(archive):
    split = market1501(archive)
    assert (split.num_pids, split.num_cams) == (2, 5)  # cameras 1, 2, 3, 4 and 6
    row = {"identities": 2, "images": 3, "cameras": 3, "distractors": 0, "junk": 0}
    assert split.counts() == {
        "train": row,
        "query": row | {"identities": 1, "images": 1, "cameras": 1},
        "gallery": {"identities": 1, "images": 5, "cameras": 4, "distractors": 2, "junk": 1},
    }


def test_boxes_for_multi_query_are_read_where_they_are(archive):
    build(archive, {"gt_bbox": ["0005_c1s1_000000_00.jpg", "0005_c1s1_000025_00.jpg"]})
    split = market1501(archive)
    assert [r.pid for r in split.multi_query] == [5, 5]
    assert list(split.counts()) == ["train", "query", "gallery", "multi_query"]


def test_a_split_cannot_be_changed():
    split = Split("toy", Path(), (), (), ())
    with pytest.raises(AttributeError):
        split.name = "other"


@given(st.lists(st.tuples(st.integers(-1, 99999), st.integers(1, 99)), min_size=1, max_size=9, unique=True))
def test_every_pid_and_camera_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("names")
    for pid, camera in rows:
        (folder / f"{pid:04d}_c{camera}s1_000151_01.jpg").touch()
    records = read_folder(folder)
    assert sorted((r.pid, r.camid + 1) for r in records) == sorted(rows)
    assert [r.path.name for r in records] == sorted(r.path.name for r in records)


def test_suffixes_count_in_any_case_and_hidden_files_do_not():
    assert image_names(["a.jpg", "b.JPEG", "c.png", "d.bmp", ".jpg", "._e.jpg", "f.jpg.txt", "jpg"]) == [
        "a.jpg",
        "b.JPEG",
        "c.png",
        "d.bmp",
    ]
    assert image_names(["a.webp", "b.TIFF", "Thumbs.db", "a.pdf", "a.mp4"]) == ["a.webp", "b.TIFF"]


def sentence(root) -> str:
    with pytest.raises(ValueError) as caught:
        market1501(root)
    return str(caught.value)


def test_a_missing_archive_points_to_the_readme(tmp_path):
    said = sentence(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said and "data/README.md" in said


@pytest.mark.parametrize("part", FILES)
def test_a_missing_folder_is_named(tmp_path, part):
    said = sentence(build(tmp_path, {name: files for name, files in FILES.items() if name != part}))
    assert str(tmp_path / part) in said and "data/README.md" in said
    assert not any(str(tmp_path / other) in said for other in FILES if other != part)


def test_an_archive_one_folder_deeper_is_named(archive):
    said = sentence(archive.parent)
    assert f"{archive} holds" in said and str(archive.parent / "bounding_box_train") in said


@pytest.mark.parametrize("part", FILES)
def test_an_empty_folder_is_named(tmp_path, part):
    said = sentence(build(tmp_path, FILES | {part: NO_IMAGES}))
    assert said.startswith(f"{tmp_path / part} holds no image")


def test_names_that_do_not_fit_are_named_up_to_three(tmp_path):
    wrong = ["IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg", "IMG_4.jpg"]
    said = sentence(build(tmp_path, FILES | {"query": FILES["query"] + wrong}))
    assert "4 of 5" in said and said.endswith("IMG_1.jpg, IMG_2.jpg, IMG_3.jpg, ….")


def test_cameras_count_from_one_on_disk(tmp_path):
    assert "0002_c0s1.jpg" in sentence(build(tmp_path, FILES | {"query": ["0002_c0s1.jpg"]}))


@pytest.mark.parametrize("part", ["bounding_box_train", "query"])
def test_junk_is_refused_outside_the_gallery(tmp_path, part):
    said = sentence(build(tmp_path, FILES | {part: FILES[part] + ["-1_c1s1_000000_00.jpg"]}))
    assert "-1_c1s1_000000_00.jpg is junk" in said


@pytest.mark.parametrize("part", ["bounding_box_train", "query"])
def test_distractors_are_refused_outside_the_gallery(tmp_path, part):
    """One rule for all readers: pid 0 is nobody whom one could learn."""
    said = sentence(build(tmp_path, FILES | {part: FILES[part] + ["0000_c1s1_000000_00.jpg"]}))
    assert said == (
        f"{tmp_path / part / '0000_c1s1_000000_00.jpg'} is a distractor (pid 0); distractors belong in "
        f"{tmp_path / 'bounding_box_test'} only."
    )


def test_a_negative_number_that_is_not_junk_is_refused(tmp_path):
    said = sentence(build(tmp_path, FILES | {"query": ["-2_c1s1_000000_00.jpg"]}))
    assert said.startswith(f"{tmp_path / 'query' / '-2_c1s1_000000_00.jpg'}: '-2' is no pid;")


def test_whole_numbers_are_told_from_other_texts():
    texts = {"7": 7, "0007": 7, "7.0": 7, "7,0": 7, "-1": -1, "\N{MINUS SIGN}1": -1, " 7 ": 7, "+7": 7, "7.": 7}
    assert {text: whole_number(text) for text in texts} == texts
    assert [whole_number(text) for text in ("", "7.5", "1e3", "7a", "nan", "--1", "1_0")] == [None] * 7


def test_pids_beside_names_are_numbered_in_order():
    texts = dict.fromkeys(["10", "9.0", "bob", "0", "-1.0", "ann"], "here")
    assert number_pids(texts) == {"0": 0, "-1.0": -1, "10": 1, "9.0": 2, "ann": 3, "bob": 4}
    assert number_pids(dict.fromkeys(["10", "9.0", "0"], "here")) == {"10": 10, "9.0": 9, "0": 0}
    assert number_pids(dict.fromkeys(["v1.0", "7.0", "7"], "here")) == {"7": 1, "7.0": 1, "v1.0": 2}
