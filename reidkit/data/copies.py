"""Which records show the same image: one file, also through links, or the same bytes in two files.

An image that is query and gallery at once would find itself at distance 0. The evaluators know pids and cameras only,
so the readers see to it that such an image has one camera: then it is junk for itself.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from reidkit.data.records import JUNK, Record


def firsts(records: Sequence[Record]) -> list[int]:
    """For each record, the place of the first one of the same pid that shows the same image.

    Bytes are compared only where they matter: files of one size, of one identity, that are said to be by several
    cameras.

    >>> firsts([Record(Path("a.jpg"), 1, 0), Record(Path("b.jpg"), 1, 1), Record(Path("./a.jpg"), 1, 2)])
    [0, 1, 0]
    """
    known, found, alike = {}, [], defaultdict(list)
    for place, record in enumerate(records):
        file, size = _file(record.path)
        found.append(known.setdefault((record.pid, file), place))
        if found[place] == place and size and record.pid > 0:
            alike[record.pid, size].append(place)
    for places in alike.values():
        if len({records[place].camid for place in places}) > 1:
            same = {}
            for place in places:
                found[place] = same.setdefault(_digest(records[place].path), place)
    return [found[place] for place in found]


def one_camera(records: Sequence[Record]) -> list[Record]:
    """Give each copy of an image the camera of the first, so that it is junk for itself; all else stays as it is.

    >>> one_camera([Record(Path("a.jpg"), 1, 0), Record(Path("a.jpg"), 1, 5)])[1].camid
    0
    """
    cameras = (records[first].camid for first in firsts(records))
    return [record._replace(camid=camid) for record, camid in zip(records, cameras, strict=True)]


def refuse_two_identities(records: Sequence[Record], rows: Sequence[str] = ()) -> None:
    """Refuse a file that stands under two identities; as junk beside an identity it does no harm.

    Args:
        records: all images.
        rows: where each record comes from, for the sentence; by default its path.

    Raises:
        ValueError: there is such a file; both rows are named.
    """
    owners: dict[tuple, int] = {}
    for place, record in enumerate(records):
        if record.pid == JUNK:
            continue
        first = owners.setdefault(_file(record.path)[0], place)
        if records[first].pid != record.pid:
            one, other = (f"{rows[i] if rows else records[i].path} (pid {records[i].pid})" for i in (first, place))
            raise ValueError(
                f"{one} and {other} are the same file, {record.path.name}, under two identities; keep the right one."
            )


def _file(path: Path) -> tuple[tuple, int]:
    """What tells a file from all others, whatever it is called, and its size in bytes."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return (os.path.realpath(path),), 0
    if not stat.st_ino:  # a file system that numbers no files
        return (os.path.realpath(path),), stat.st_size
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns), stat.st_size


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:  # reading it for its pixels will say so
        return os.fsencode(path)
