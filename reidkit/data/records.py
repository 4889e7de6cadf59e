"""What a data set is to the rest of the library: three tuples of records, and nothing that touches a pixel."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

JUNK, DISTRACTOR = -1, 0  # the two pids that name no identity


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
        train: images to learn from; their identities never have pid -1.
        query: images to search with.
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


def _count(records: tuple[Record, ...]) -> dict[str, int]:
    pids = [record.pid for record in records]
    return {
        "identities": len(set(pids) - {JUNK, DISTRACTOR}),
        "images": len(records),
        "cameras": len({record.camid for record in records}),
        "distractors": pids.count(DISTRACTOR),
        "junk": pids.count(JUNK),
    }
