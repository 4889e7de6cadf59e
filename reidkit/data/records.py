"""What a data set is to the rest of the library: three tuples of records, and nothing that touches a pixel.

Reserved pids   Two name no identity: -1 is junk, which counts for nothing, and 0 a distractor, which is always wrong.
                They belong in the gallery. Every reader goes by `read_pid`: what is written -1, -1.0 or -01 is junk, 0,
                0000 or 0.0 a distractor, whatever stands beside it; other whole numbers from 1 are identities, and so
                are names. All other numbers, and words for a missing one (nan, none, null), are refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

JUNK, DISTRACTOR = -1, 0  # the two pids that name no identity
RESERVED = {JUNK: "junk", DISTRACTOR: "a distractor"}
MISSING = {"", "nan", "none", "null", "na", "n/a", "<na>", "#n/a"}  # as spreadsheets and pandas write it, in any case
WHOLE = re.compile(r"([-+]?\d+)(?:[.,]0*)?")  # 7, 0007, -1, and 7.0 or 7,0 as spreadsheets and pandas write it
NUMBER = re.compile(  # any other number; 12e4 is none: it may be a name of hexadecimal digits
    r"[-+]?(?:\d+[.,]\d*|[.,]\d+)(?:e[-+]?\d+)?|[-+]?\d+e[-+]\d+|[-+]?inf(?:inity)?", re.IGNORECASE
)


class Record(NamedTuple):
    """One image of one person seen by one camera.

    Attributes:
        path: the image file.
        pid: the identity as the archive numbers it; -1 is junk, 0 a distractor.
        camid: the camera, from 0.

    >>> Record(Path("0002_c1s1_000451_03.jpg"), pid=2, camid=0).camid
    0
    """

    path: Path
    pid: int
    camid: int


@dataclass(frozen=True)
class Split:
    """One data set, divided as its protocol says.

    Junk (pid -1) and distractors (pid 0) stay in the gallery; what they count for is the evaluator's affair.

    Attributes:
        name: the name of the data set's folder, for tables and results.
        root: the folder the records were read from.
        train: images to learn from; none is junk or a distractor.
        query: images to search with; none is junk or a distractor.
        gallery: images to search in.
        multi_query: more images of the query identities, for the multi-query protocol; empty where there are none.

    >>> one = Record(Path("a.jpg"), 7, 0)
    >>> Split("toy", Path("."), train=(one,), query=(), gallery=()).num_pids
    1
    """

    name: str
    root: Path
    train: tuple[Record, ...]
    query: tuple[Record, ...]
    gallery: tuple[Record, ...]
    multi_query: tuple[Record, ...] = ()

    @property
    def parts(self) -> dict[str, tuple[Record, ...]]:
        """The parts by name, without `multi_query` where it is empty."""
        parts = {"train": self.train, "query": self.query, "gallery": self.gallery}
        return parts | {"multi_query": self.multi_query} if self.multi_query else parts

    @property
    def num_pids(self) -> int:
        """How many identities the training part has."""
        return len({record.pid for record in self.train})

    @property
    def num_cams(self) -> int:
        """How many cameras have taken at least one image, over all parts."""
        return len({record.camid for part in self.parts.values() for record in part})

    def counts(self) -> dict[str, dict[str, int]]:
        """Count identities, images, cameras, distractor images and junk images of each part.

        Returns:
            part -> name -> number; `pandas.DataFrame(split.counts()).T` is the table. Identities leave out distractors
            and junk, images do not.

        >>> from pathlib import Path
        >>> gallery = (Record(Path("a.jpg"), 7, 0), Record(Path("b.jpg"), -1, 1))
        >>> Split("toy", Path("."), (), (), gallery).counts()["gallery"]
        {'identities': 1, 'images': 2, 'cameras': 2, 'distractors': 0, 'junk': 1}
        """
        return {name: _count(part) for name, part in self.parts.items()}


def hold_out(split: Split, *, every: int = 5) -> Split:
    """Let every fifth training identity be searched for, and the others train: a split to choose settings on.

    The test of the archive plays no part. As in Market-1501, a query is one image of a person and camera, the first in
    order, where others have seen the person too; all other images of the held-out identities are the gallery.

    Args:
        split: whose training part is divided.
        every: of the identities in order of pid, which are held out: the last of each `every`.

    Raises:
        ValueError: `every` is not from 2 to the number of training identities.

    >>> names = [(pid, camid, n) for pid in (3, 8) for camid in (0, 1) for n in (0, 1)]
    >>> seen = [Record(Path("_".join(map(str, name)) + ".jpg"), *name[:2]) for name in names]
    >>> held = hold_out(Split("toy", Path("."), tuple(seen), (), ()), every=2)
    >>> held.num_pids, [record.path.name for record in held.query], len(held.gallery)
    (1, ['8_0_0.jpg', '8_1_0.jpg'], 2)
    """
    pids = sorted({record.pid for record in split.train})
    if not 2 <= every <= len(pids):
        raise ValueError(f"every must be from 2 to {len(pids)}, the number of training identities, not {every}.")
    held = set(pids[every - 1 :: every])
    train = tuple(record for record in split.train if record.pid not in held)
    test = [record for record in split.train if record.pid in held]
    first = {(record.pid, record.camid): record for record in reversed(test)}
    cameras = Counter(pid for pid, _ in first)
    query = {record for (pid, _), record in first.items() if cameras[pid] > 1}
    parts = (tuple(record for record in test if (record in query) == wanted) for wanted in (True, False))
    return Split(f"{split.name}, every {every}th training identity held out", split.root, train, *parts)


def whole_number(text: str) -> int | None:
    """The whole number that a text says, or None.

    >>> [whole_number(text) for text in ("0007", "-1.0", "7.5", "ann")]
    [7, -1, None, None]
    """
    found = WHOLE.fullmatch(text.strip().replace("\N{MINUS SIGN}", "-"))
    return int(found[1]) if found else None


def read_pid(text: str, where: object) -> int | str:
    """Read what a folder, a file name or a cell says of an identity: -1, 0, a number from 1, or a name.

    Args:
        text: as it is written.
        where: what to name in the error message.

    Raises:
        ValueError: it says nothing, or a number that is no pid.

    >>> read_pid("-1.0", "people.csv"), read_pid("0000", "people.csv"), read_pid("ann", "people.csv")
    (-1, 0, 'ann')
    """
    number = whole_number(text)
    if number is None and text.strip().lower() not in MISSING and not NUMBER.fullmatch(text.strip()):
        return text
    if number is None or not JUNK <= number < 2**63:
        raise ValueError(
            f"{where}: {text!r} is no pid; write a name or a whole number from 1 (-1 is junk, 0 a distractor)."
        )
    return number


def number_pids(texts: Mapping[str, object]) -> dict[str, int]:
    """Give every text its pid: whole numbers keep theirs, and where names are among them all are numbered from 1.

    Junk and distractors stay what they are beside names too.

    Args:
        texts: each text, and where it is written, for an error message.

    Raises:
        ValueError: as `read_pid`.

    >>> number_pids(dict.fromkeys(["bob", "-1", "ann"], "people.csv"))
    {'-1': -1, 'ann': 1, 'bob': 2}
    """
    pids = {text: read_pid(text, texts[text]) for text in sorted(texts)}
    if any(isinstance(pid, str) for pid in pids.values()):
        names = {text: text for text, pid in pids.items() if pid not in RESERVED}
        names |= {text: re.split("[.,]", text)[0] for text in names if isinstance(pids[text], int)}  # 7.0 is 7
        places = {name: place for place, name in enumerate(sorted(set(names.values())), 1)}
        pids |= {text: places[name] for text, name in names.items()}
    return pids


def reserved(records: Iterable[Record]) -> list[Record]:
    """The records that show nobody one could learn or search for: junk and distractors."""
    return [record for record in records if record.pid in RESERVED]


def _count(records: tuple[Record, ...]) -> dict[str, int]:
    pids = [record.pid for record in records]
    return {
        "identities": len(set(pids) - {JUNK, DISTRACTOR}),
        "images": len(records),
        "cameras": len({record.camid for record in records}),
        "distractors": pids.count(DISTRACTOR),
        "junk": pids.count(JUNK),
    }
