"""Your own images: a folder per identity, or a table of them, divided like a benchmark.

Without cameras   An image of the same identity by the same camera is junk. Where nobody knows the cameras, each image
                  counts as taken by a camera of its own: every image of the identity is right then and none is junk.
                  Numbers from such data are not about finding people across cameras.
Copies            An image that is there twice is junk for itself: its copies count as taken by one camera. A file under
                  two identities is refused.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reidkit.data.copies import firsts, one_camera, refuse_two_identities
from reidkit.data.layouts import CLUTTER, entries, image_names, read_lines, require, shuffled, some
from reidkit.data.records import MISSING, Record, Split, number_pids, reserved, whole_number

PARTS = ("train", "query", "gallery")
CAMERA = re.compile(r"(?:^|[^a-z0-9])c(?:am(?:era)?)?[-_ ]?(\d+)", re.IGNORECASE)  # 0002_c1s1_000451_03.jpg, cam-3.png


class _Entry(NamedTuple):
    """One image as its folders or the table describe it."""

    path: Path
    pid: str
    where: str  # in the folders or the table, for a message
    camera: str = ""  # empty: not known
    part: str = ""  # empty: not given


def folders(root: str | Path, *, cameras: bool = True, seed: int = 0) -> Split:
    """Read a folder per identity, `root/<identity>/*.jpg`, or such folders within `train`, `query` and `gallery`.

    Identities named by whole numbers keep them, others are numbered from 1 in the order of their names; -1 is always
    junk and 0 always a distractor (`data.records` has the rule). The camera is the number after a lone `c`, `cam` or
    `camera` in the file's name (`0002_c1s1.jpg`, `cam-3.png`); cameras are numbered from 0 in order. Where no name has
    one, there are no cameras.

    Args:
        root: the folder.
        cameras: False lets each image count as taken by a camera of its own.
        seed: of the division, where `train`, `query` and `gallery` are not there; see `divide`.

    Raises:
        ValueError: no such folders, no image, a name that is no pid, only some names give a camera, a file under two
            identities, or nothing is left to search for.

    >>> folders("no/such/folder")
    Traceback (most recent call last):
    ValueError: no/such/folder does not exist; data/README.md says where each archive comes from and where it goes.
    """
    root = Path(root)
    require(root)
    given = [part for part in PARTS if (root / part).is_dir()]
    homes = require(root, *PARTS) if given else [root]
    rows = []
    for home in homes:
        for folder in identity_folders(home):
            for name in image_names(path.name for path in entries(folder)):
                camera, path = CAMERA.search(name), folder / name
                part = home.name if given else ""
                rows.append(_Entry(path, folder.name, str(path), camera[1] if camera else "", part))
    if not rows:
        raise ValueError(f"{root} holds no folder with images; put those of an identity into a folder of their own.")
    return _read(root, root, rows, cameras, seed)


def identity_folders(home: Path) -> list[Path]:
    """The folders in a folder that may each be an identity's, sorted."""
    names = [path for path in entries(home) if path.name[0] != "." and path.name.lower() not in CLUTTER]
    return [path for path in names if path.is_dir()]


def table(path: str | Path, *, cameras: bool = True, seed: int = 0) -> Split:
    """Read a CSV file with the columns `path` and `pid` and, where known, `camid` and `split`.

    Paths count from the file's folder, with / or \\ between names; the separator is a comma, a semicolon or a tab, the
    encoding UTF-8, or UTF-16 that says so. Pids that are whole numbers are kept, others are numbered from 1 in order;
    -1 is always junk and 0 always a distractor (`data.records` has the rule). Cameras, whatever they are called, are
    numbered from 0 in order. `split` is train, query or gallery.

    Args:
        path: the file.
        cameras: False lets each image count as taken by a camera of its own, as where there is no `camid`.
        seed: of the division, where there is no `split`; see `divide`.

    Raises:
        ValueError: no such file, another encoding, a column or a cell is missing, an unknown split, a pid that is none,
            a file under two identities, or nothing is left to search for.

    >>> table("no/such/file.csv")
    Traceback (most recent call last):
    ValueError: no/such/file.csv does not exist; write a CSV file with columns path, pid and perhaps camid and split.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write a CSV file with columns path, pid and perhaps camid and split.")
    lines = read_lines(path)
    header = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=header.count), restval="", skipinitialspace=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if absent := {"path", "pid"} - set(reader.fieldnames):
        raise ValueError(
            f"{path} has no column {' and no column '.join(sorted(absent))}; its first line is {header!r}"
            f"{'; separate columns by commas, semicolons or tabs' if re.search('[| :]', header) else ''}."
        )
    rows = []
    for line in reader:
        if any(line.get(None, ())):
            raise ValueError(
                f"{path}, line {reader.line_num}: has more cells than the first line; put a path that holds the "
                'separator between quotation marks ".'
            )
        file, pid, camera, part = ((line.get(name) or "").strip() for name in ("path", "pid", "camid", "split"))
        if not (file and pid) or part.lower() not in ("", *PARTS):
            raise ValueError(
                f"{path}, line {reader.line_num}: needs a path, a pid and a split of {', '.join(PARTS)} if any."
            )
        camera = "" if camera.lower() in MISSING else camera
        where = f"{path}, line {reader.line_num}"
        rows.append(_Entry(_beside(path, file), pid, where, camera, part.lower()))
    if not rows:
        raise ValueError(f"{path} lists no image; its lines are a path, a pid and perhaps a camid and a split.")
    return _read(path, path.parent, rows, cameras, seed)


def _beside(table: Path, file: str) -> Path:
    """The file that a table names; where there is none of that name, backslashes are those of Windows."""
    path = table.parent / file
    return table.parent / file.replace("\\", "/") if "\\" in file and not path.exists() else path


def divide(records: Sequence[Record], *, seed: int = 0) -> tuple[tuple[Record, ...], ...]:
    """Divide images into training images, queries and gallery: half of the identities train, the others are searched.

    The identities are put in the order of the SHA-256 of "identities seed pid"; the first half (rounded down) trains.
    Of every other identity that two cameras or more have seen, each camera that took several images gives one as a
    query, or, where none did, one camera gives its only one. All else is gallery, junk and distractors too. So every
    query has an image by another camera to find.

    Args:
        records: all images.
        seed: another one divides otherwise.

    Returns:
        train, query, gallery; each in the order of `records`.

    Raises:
        ValueError: no query is left: no test identity was seen by two cameras.

    >>> records = [Record(Path(f"{pid}{camid}.jpg"), pid, camid) for pid in (1, 2) for camid in (0, 1)]
    >>> [[record.path.name for record in part] for part in divide(records)]
    [['10.jpg', '11.jpg'], ['20.jpg'], ['21.jpg']]
    """
    pids = sorted({record.pid for record in records if record.pid > 0})
    train = set(shuffled(pids, "identities", seed)[: len(pids) // 2])
    taken: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # pid -> camid -> images
    for i, record in enumerate(records):
        if record.pid > 0 and record.pid not in train:
            taken[record.pid][record.camid].append(i)
    query = set()
    for pid, cameras in taken.items():
        several = [images for images in cameras.values() if len(images) > 1] or list(cameras.values())[:1]
        if len(cameras) > 1:
            query |= {shuffled(images, "query", seed, pid)[0] for images in several}
    if not query:
        raise ValueError(
            f"None of the {len(taken)} test identities was seen by two cameras, so there is nothing to search for; "
            "give each identity images by two cameras, or read with cameras=False."
        )
    part = ["train" if r.pid in train else "query" if i in query else "gallery" for i, r in enumerate(records)]
    return tuple(tuple(r for r, name in zip(records, part, strict=True) if name == wanted) for wanted in PARTS)


def _read(source: Path, root: Path, rows: list[_Entry], cameras: bool, seed: int) -> Split:
    cameras = cameras and any(row.camera for row in rows)
    if lacking := [row.path.name for row in rows if cameras and not row.camera]:
        raise ValueError(
            f"{source}: no camera for {some(lacking)}, but for others; give one to all, or read with cameras=False."
        )
    if lacking := [row.path.name for row in rows if not row.part and any(row.part for row in rows)]:
        raise ValueError(f"{source}: no split for {some(lacking)}, but for others; give one to all or to none.")
    pids = number_pids({row.pid: row.where for row in reversed(rows)})
    places = _places([_camera(row.camera) for row in rows]) if cameras else range(len(rows))
    records = [Record(row.path, pids[row.pid], camid) for row, camid in zip(rows, places, strict=True)]
    refuse_two_identities(records, [row.where for row in rows])
    if not cameras:
        records = [record._replace(camid=c) for record, c in zip(records, _places(firsts(records)), strict=True)]
    if rows[0].part:
        parts = [[r for r, row in zip(records, rows, strict=True) if row.part == part] for part in PARTS]
    else:
        parts = divide(records, seed=seed)
    train, query, gallery = map(list, parts)
    if nobody := [record.path.name for record in reserved(train + query)]:
        raise ValueError(f"{source}: pid -1 or 0 is no identity, but {some(nobody)} has it; number identities from 1.")
    tested = one_camera(query + gallery)
    name = source.stem if source.is_file() else source.resolve().name
    return Split(name, root, *map(tuple, (train, tested[: len(query)], tested[len(query) :])))


def _camera(label: str) -> int | str:
    """A camera's number, or its name."""
    number = whole_number(label)
    return label if number is None else number


def _places(keys: Sequence) -> list[int]:
    """The place of each key among all keys in order; as texts, unless all are numbers."""
    if not all(isinstance(key, int) for key in keys):
        keys = list(map(str, keys))
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return [places[key] for key in keys]
