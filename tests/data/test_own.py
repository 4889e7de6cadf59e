"""Own images: a folder per identity, a table, no cameras, and a division in which every query can be answered."""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import miniatures
from reidkit.data.own import divide, folders, table
from reidkit.data.records import Record


def rows(records) -> list[tuple[str, int, int]]:
    return [(record.path.name, record.pid, record.camid) for record in records]


def sentence(call, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ the division
SEEN = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 3)), min_size=1, max_size=40)


@given(SEEN, st.integers(0, 3))
def test_a_division_keeps_identities_apart_and_every_query_answerable(seen, seed):
    records = [Record(Path(f"{i}.jpg"), pid, camid) for i, (pid, camid) in enumerate(seen)]
    try:
        train, query, gallery = divide(records, seed=seed)
    except ValueError:
        return  # nobody is left to search for: the next test
    assert sorted(train + query + gallery) == sorted(records)
    assert not {r.pid for r in train} & {r.pid for r in query + gallery}
    pids = {r.pid for r in records if r.pid > 0}
    assert len({r.pid for r in train}) == len(pids) // 2
    assert all(r.pid > 0 for r in train + query)
    assert max(Counter((r.pid, r.camid) for r in query).values()) == 1  # one for each identity and camera
    answers = defaultdict(set)
    for record in gallery:
        answers[record.pid].add(record.camid)
    assert all(answers[r.pid] - {r.camid} for r in query)


@given(SEEN, st.integers(0, 3))
def test_a_division_fails_only_where_no_test_identity_was_seen_twice(seen, seed):
    records = [Record(Path(f"{i}.jpg"), pid, camid) for i, (pid, camid) in enumerate(seen)]
    try:
        divide(records, seed=seed)
    except ValueError:
        cameras = defaultdict(set)
        for record in records:
            cameras[record.pid].add(record.camid)
        twice = [pid for pid, camids in cameras.items() if pid > 0 and len(camids) > 1]
        assert len(twice) <= len([pid for pid in cameras if pid > 0]) // 2  # they may all train


def test_a_division_takes_one_query_per_camera_that_can_spare_it():
    seen = [(1, 0), (1, 0), (1, 1), (1, 2), (1, 2), (1, 2)]  # camera 1 has one image only
    records = [Record(Path(f"{i}.jpg"), pid, camid) for i, (pid, camid) in enumerate(seen)]
    train, query, gallery = divide(records)
    assert train == () and sorted(r.camid for r in query) == [0, 2] and sorted(r.camid for r in gallery) == [0, 1, 2, 2]


def test_another_seed_divides_otherwise():
    records = [Record(Path(f"{pid}-{c}.jpg"), pid, c) for pid in range(1, 21) for c in (0, 1)]
    assert len({frozenset(r.pid for r in divide(records, seed=seed)[0]) for seed in range(10)}) == 10
    assert divide(records, seed=3) == divide(records, seed=3)


@pytest.mark.parametrize(
    ("read", "make"), [(folders, miniatures.folders), (table, lambda root: miniatures.table(root, "path,pid,camid"))]
)
def test_a_folder_and_a_table_are_divided_by_their_seed(tmp_path, read, make):
    path = make(tmp_path)
    assert len({frozenset(r.pid for r in read(path, seed=seed).train) for seed in range(10)}) > 2


# -------------------------------------------------------------------------------------------------------- folders
def test_a_folder_per_identity(tmp_path):
    split = folders(miniatures.folders(tmp_path / "my.people"))
    assert split.name == "my.people"
    pid = {"ada": 1, "ben": 2, "cyd": 3, "dan": 4}
    everything = split.train + split.query + split.gallery
    assert all(pid[r.path.parent.name] == r.pid and r.camid == int(r.path.stem[5]) - 1 for r in everything)
    assert len(everything) == 12 and (len(split.query), len(split.gallery)) == (2, 4)
    assert all("_c1_" in r.path.name for r in split.query)  # the camera that took two


def test_identities_called_by_numbers_keep_them(tmp_path):
    names = [f"{pid}/{pid}_{camera}.jpg" for pid in ("0007", "12", "-1", "0000") for camera in ("cam1", "Camera-02")]
    for name in names:
        miniatures.picture(tmp_path / name)
    split = folders(tmp_path)
    assert {r.pid for r in split.train + split.query} == {7, 12}
    assert sorted(r.pid for r in split.gallery if r.pid <= 0) == [-1, -1, 0, 0]
    assert {r.camid for r in split.train} == {0, 1}


def test_cameras_are_numbered_in_the_order_of_their_numbers(tmp_path):
    for camera in ("c2", "c10", "c9"):
        for shot in "ab":
            miniatures.picture(tmp_path / "ada" / f"{camera}_{shot}.jpg")
    split = folders(tmp_path)
    found = {(r.path.name.split("_")[0], r.camid) for r in split.query + split.gallery}
    assert found == {("c2", 0), ("c9", 1), ("c10", 2)}


def test_parts_that_are_given_are_kept(tmp_path):
    names = {"train": ["a", "b"], "query": ["c"], "gallery": ["c", "d"]}
    for part, people in names.items():
        for person in people:
            miniatures.picture(tmp_path / part / person / f"c{1 + (part == 'gallery')}.jpg")
    split = folders(tmp_path)
    assert {part: [(r.pid, r.camid) for r in rs] for part, rs in split.parts.items()} == {
        "train": [(1, 0), (2, 0)],
        "query": [(3, 0)],
        "gallery": [(3, 1), (4, 1)],
    }
    shutil.rmtree(tmp_path / "query")
    assert sentence(folders, tmp_path).startswith(f"{tmp_path / 'query'} missing")


@pytest.mark.parametrize(("named", "cameras"), [(False, True), (True, False)])
def test_without_cameras_each_image_has_its_own(tmp_path, named, cameras):
    """So that no image of the same identity is junk."""
    split = folders(miniatures.folders(tmp_path, cameras=named), cameras=cameras)
    everything = split.train + split.query + split.gallery
    assert len({r.camid for r in everything}) == len(everything) == 12
    assert Counter(r.pid for r in split.query) == dict.fromkeys({r.pid for r in split.gallery}, 1)


def test_a_camera_in_some_names_only_is_refused(tmp_path):
    miniatures.picture(miniatures.folders(tmp_path) / "ada" / "ada_3.jpg")
    said = sentence(folders, tmp_path)
    assert said == f"{tmp_path}: no camera for ada_3.jpg, but for others; give one to all, or read with cameras=False."
    assert len(folders(tmp_path, cameras=False).query) == 2


def test_a_folder_without_identities_is_named(tmp_path):
    miniatures.picture(tmp_path / "a.jpg")
    assert sentence(folders, tmp_path).startswith(f"{tmp_path} holds no folder with images;")


def test_one_image_each_cannot_be_searched(tmp_path):
    for name in "ab":
        miniatures.picture(tmp_path / name / "1.jpg")
    assert sentence(folders, tmp_path).startswith("None of the 1 test identities was seen by two cameras")


# ---------------------------------------------------------------------------------------------------------- table
def test_a_table_with_all_columns(tmp_path):
    split = table(miniatures.table(tmp_path))
    assert split.name == "people" and split.root == tmp_path
    assert rows(split.query) == [
        (f"{pid}-{camera}-0.png", pid, i) for pid in (3, 4) for i, camera in enumerate(("door", "hall"))
    ]
    assert len(split.train) == 8 and all(r.path.is_file() for part in split.parts.values() for r in part)


def test_a_table_without_a_split_is_divided(tmp_path):
    split = table(miniatures.table(tmp_path, "path,pid,camid"))
    assert (len({r.pid for r in split.train}), len(split.query), len(split.gallery)) == (2, 4, 4)


def test_a_table_without_cameras(tmp_path):
    split = table(miniatures.table(tmp_path, "pid,path"))
    assert (split.num_cams, len(split.query)) == (16, 2)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_as_a_spreadsheet_saves_it(tmp_path, separator):
    path = miniatures.table(tmp_path)
    expected = table(path)
    path.write_text(
        path.read_text().replace(",", separator).replace("path", " Path ").replace("query", "Query"),
        encoding="utf-8-sig",
    )
    assert table(path) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,pid\na.jpg,1\n", "has no column path; its first line is 'file,pid'."),
        ("", "has no column path and no column pid; its first line is ''."),
        ("path,pid\n", "lists no image;"),
        ("path,pid\na.jpg,\n", "line 2: needs a path, a pid"),
        ("path,pid,split\na.jpg,1,test\n", "line 2: needs a path, a pid and a split of train, query, gallery if any."),
        ("path,pid,split\na.jpg,1,train\nb.jpg,2,\n", "no split for b.jpg, but for others;"),
        ("path,pid,camid\na.jpg,1,1\nb.jpg,2,\n", "no camera for b.jpg, but for others;"),
        ("path,pid,split\na.jpg,0,query\nb.jpg,1,gallery\n", "pid -1 or 0 is no identity, but a.jpg has it;"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_a_sentence(tmp_path, text, said):
    (tmp_path / "people.csv").write_text(text)
    assert said in sentence(table, tmp_path / "people.csv")


def test_paths_may_be_absolute(tmp_path):
    path = miniatures.table(tmp_path / "here")
    path.write_text(path.read_text().replace("images/", f"{tmp_path / 'here' / 'images'}/"))
    moved = shutil.move(path, tmp_path / "people.csv")
    assert all(r.path.is_file() for r in table(moved).train)
