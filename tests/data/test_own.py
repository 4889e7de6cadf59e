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
        ("path,pid,split\na.jpg,0.0,train\nb.jpg,1,gallery\n", "pid -1 or 0 is no identity, but a.jpg has it;"),
        ("path,pid,split\na.jpg,ann,query\nb.jpg,-1.0,query\n", "pid -1 or 0 is no identity, but b.jpg has it;"),
        ("path,pid\na.jpg,1\nb.jpg,nan\nc.jpg,2\n", "people.csv, line 3: 'nan' is no pid; write a name or a whole"),
        ("path,pid,camid\na.jpg,1,1\nb.jpg,2,nan\n", "no camera for b.jpg, but for others;"),
        ("path,pid\nb.jpg,1,,\na,b.jpg,1\n", "line 3: has more cells than the first line; put a path that holds the"),
        ("path|pid\na.jpg|1\n", "its first line is 'path|pid'; separate columns by commas, semicolons or tabs."),
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


# ------------------------------------------------------------------------------------------------------ reserved ids
@pytest.mark.parametrize("names", [("1", "2", "3"), ("0001", "0002", "0003"), ("ann", "bob", "cyd")])
@pytest.mark.parametrize(("junk", "distractor"), [("-1", "0"), ("-1.0", "0.0"), ("-01", "0000"), ("-1", "-0")])
def test_reserved_ids_are_the_same_in_folders_and_tables_beside_numbers_and_names(tmp_path, names, junk, distractor):
    lines = ["path,pid"]
    for name in (*names, junk, distractor):
        for camera in (1, 2):
            miniatures.picture(tmp_path / name / f"c{camera}.png")
            lines.append(f"{name}/c{camera}.png,{name}")
    (tmp_path / "people.csv").write_text("\n".join(lines))
    for split in (folders(tmp_path), table(tmp_path / "people.csv")):
        assert {r.pid for r in split.train + split.query} == {1, 2, 3}
        found = {r.path.parent.name: r.pid for r in split.gallery if r.pid <= 0}
        assert found == {junk: -1, distractor: 0}


def test_numbers_are_the_same_with_and_without_a_decimal_point(tmp_path):
    path = miniatures.table(tmp_path)
    expected = table(path)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for ending in (".0", ".", ".000"):
        rows = [f"{file},{pid}{ending},{camera},{part}" for file, pid, camera, part in lines[1:]]
        path.write_text("\n".join([",".join(lines[0]), *rows]))
        assert table(path) == expected
    rows = [f"{file};{pid},0;{camera};{part}" for file, pid, camera, part in lines[1:]]  # a spreadsheet in German
    path.write_text("\n".join([";".join(lines[0]), *rows]))
    assert table(path) == expected


def test_cameras_are_the_same_with_and_without_a_decimal_point(tmp_path):
    (tmp_path / "a.csv").write_text("path,pid,camid,split\na,1,1.0,query\nb,1,1,gallery\nc,1,2.0,gallery\n")
    split = table(tmp_path / "a.csv")
    assert [r.camid for r in split.query + split.gallery] == [0, 0, 1]


@pytest.mark.parametrize("name", ["-2", "1.5", "NaN", "None", "<NA>", "1e+05", "-inf", "9" * 20])
def test_a_number_that_is_no_pid_is_refused_in_a_folder_too(tmp_path, name):
    miniatures.picture(miniatures.folders(tmp_path) / name / "c1.png")
    said = sentence(folders, tmp_path)
    assert said.startswith(f"{tmp_path / name / 'c1.png'}: {name!r} is no pid; write a name or a whole number from 1")


def test_names_that_look_a_little_like_numbers_are_names(tmp_path):
    names = ["12e4", "00f1", "1_2", "2024-05", "v1.0", "7a"]
    lines = [f"{name}-{c}.png,{name},{c},query" for name in names for c in (1, 2)]
    (tmp_path / "a.csv").write_text("\n".join(["path,pid,camid,split", *lines]))
    assert {r.path.name[:-6]: r.pid for r in table(tmp_path / "a.csv").query} == {
        name: place for place, name in enumerate(sorted(names), 1)
    }


# --------------------------------------------------------------------------------------------- files of other systems
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_table_in_an_encoding_that_it_states(tmp_path, encoding):
    text = "path,pid,camid,split\n张三.png,张三,1,query\nb.png,张三,2,gallery\n"
    (tmp_path / "people.csv").write_text(text, encoding=encoding)
    assert rows(table(tmp_path / "people.csv").query) == [("张三.png", 1, 0)]


@pytest.mark.parametrize("encoding", ["gbk", "utf-16-le", "utf-16-be", "latin-1"])
def test_another_encoding_is_told_with_its_file_and_remedy(tmp_path, encoding):
    name = "Müller" if encoding == "latin-1" else "张三"
    (tmp_path / "people.csv").write_text(f"path,pid\na.png,{name}\n", encoding=encoding)
    said = sentence(table, tmp_path / "people.csv")
    assert said.startswith(f"{tmp_path / 'people.csv'} is not text in utf-8")
    assert said.endswith("; save it as UTF-8 ('CSV UTF-8' in a spreadsheet).")


def test_a_marked_file_that_is_cut_in_a_letter_is_told(tmp_path):
    (tmp_path / "people.csv").write_bytes("path,pid\na.png,1".encode("utf-16")[:-1])
    assert "people.csv is not text in utf-16 (byte" in sentence(table, tmp_path / "people.csv")


def test_paths_as_windows_writes_them(tmp_path):
    path = miniatures.table(tmp_path)
    expected = table(path)
    path.write_text(path.read_text().replace("images/", "images\\"))
    assert table(path) == expected
    miniatures.picture(tmp_path / "odd\\name.png")  # a name on other systems
    path.write_text("path,pid,split\nodd\\name.png,1,query\n")
    assert table(path).query[0].path == tmp_path / "odd\\name.png"


def test_what_one_may_not_read_is_named(tmp_path, monkeypatch):
    path = miniatures.table(tmp_path)

    def forbidden(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert sentence(table, path) == f"{path} cannot be read (Permission denied); give yourself the right to read it."
    assert sentence(folders, tmp_path).startswith(f"{tmp_path} cannot be read (Permission denied);")


def test_folders_of_the_system_are_no_identities(tmp_path):
    expected = folders(miniatures.folders(tmp_path))
    for name in ("__MACOSX", ".thumbnails"):
        miniatures.picture(tmp_path / name / "c1.png")
    assert folders(tmp_path) == expected


def test_every_kind_of_image_is_read(tmp_path):
    for pid in "123":
        for i, kind in enumerate(("webp", "tif", "gif", "JPG")):
            miniatures.picture(tmp_path / pid / f"c{1 + i % 2}_{i}.{kind}")
    assert sum(map(len, folders(tmp_path).parts.values())) == 12
