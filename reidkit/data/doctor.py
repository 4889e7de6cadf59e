"""What is this folder, is it whole, and what is wrong with it? Nothing is written."""

import functools
import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from reidkit import files
from reidkit.data import layouts, own
from reidkit.data.layouts import image_names, misspelt, some
from reidkit.data.records import DISTRACTOR, JUNK, Record, Split
from reidkit.progress import track

SEVERITIES = ("error", "warning", "note")
SIGNS = {  # layout -> names that give it away, though some may be missing or spelt otherwise
    "market1501": layouts.MARKET_FOLDERS,
    "msmt17": layouts.MSMT_LISTS,
    "viper": layouts.VIPER_FOLDERS,
    "cuhk03": ("cuhk-03.mat", "cuhk03_release", "cuhk03-np", *layouts.BOXES),
    "folders": own.PARTS,
}
READERS: dict[str, Callable[[Path], Split]] = {
    "market1501": layouts.market1501,
    "dukemtmc": layouts.dukemtmc,
    "msmt17": layouts.msmt17,
    "viper": layouts.viper,
    "folders": own.folders,
    "csv": own.table,
}


class Problem(NamedTuple):
    """What is wrong and what to do about it, in one line.

    severity: "error" (it does not work), "warning" (it works, numbers will differ) or "note" (good to know).
    """

    severity: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity:9}{self.text}"


@dataclass(frozen=True)
class Report:
    """What `examine` found; printed, it is a page to read.

    Attributes:
        root: the folder that was examined.
        layout: "market1501", "dukemtmc", "cuhk03", "viper", "msmt17", "city" (rendered), "folders" (one per identity),
            "csv", or "" where it is none of them.
        counts: part -> name -> number, as `Split.counts`; the parts of CUHK03 are called "new detected train" and so
            on, for each protocol and kind of boxes that is there.
        problems: errors, warnings, notes.
        invalid_queries: queries that have no image of their identity by another camera to find.
        complete: the parts that count what was published or, in a city, rendered.
    """

    root: Path
    layout: str
    counts: dict[str, dict[str, int]]
    problems: tuple[Problem, ...]
    invalid_queries: tuple[Record, ...] = ()
    complete: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong (notes do not count), 1: something is, 2: no layout was recognised."""
        return 2 if not self.layout else int(any(problem.severity != "note" for problem in self.problems))

    def __str__(self) -> str:
        title = f"{self.root.resolve().name} · {self.layout or 'no layout that is known'}"
        said = [*map(str, self.problems), *(["Nothing is wrong."] if self.exit_code == 0 else [])]
        if not self.counts:
            return "\n".join([title, "", *said])
        rows, wide = list(self.counts.values()), 2 + max(map(len, self.counts))
        names = [name for name in rows[0] if any(row[name] for row in rows)]
        table = [" " * wide + "".join(f"{name:>{len(name) + 3}}" for name in names)]
        for part, row in self.counts.items():
            cells = "".join(f"{f'{row[name]:,}' if row[name] else '–':>{len(name) + 3}}" for name in names)
            table.append(f"{part:{wide}}{cells}{'   ✓ complete' if part in self.complete else ''}")
        return "\n".join([title, "", *table, "", *said])


def examine(root: str | Path, *, progress: bool = True) -> Report:
    """Name the layout of a folder, compare its counts with the published ones and find what is wrong with it.

    Every image is decoded, in threads. An archive one or two folders deeper is examined there. Images that are still
    inside `cuhk-03.mat` are counted, not decoded. What is odd in an archive that is complete is only noted.

    Args:
        root: the folder of an archive, of a city or of your own images, or a CSV file of them.
        progress: show a bar where somebody watches.

    Returns:
        The report; `print` it.

    >>> print(examine("no/such/folder"))
    folder · no layout that is known
    <BLANKLINE>
    error    no/such/folder does not exist; data/README.md says where each archive comes from and where it goes.
    """
    root = Path(root)
    places = [root] if recognise(root) else _deeper(root)
    if len(places) != 1:
        return Report(root, "", {}, (Problem("error", _why_not(root, places)),))
    place, layout = places[0], recognise(places[0])
    city = _manifest(place)
    problems = [] if place == root else [Problem("error", f"{root} is not the data set, {place} is; give that folder.")]
    problems += (lost := list(_compare_city(place, city)))
    counts, invalid, complete = {}, {}, set()
    for name, read in _readings(layout, place).items():
        try:
            split = read()
        except ValueError as error:
            problems.append(Problem("error", " ".join(str(error).split())))
            continue
        reading = name.removeprefix(layout).strip()  # "new detected" of CUHK03, else nothing
        parts = {f"{reading} {part}".strip(): row for part, row in split.counts().items()}
        published = {} if city else layouts.PUBLISHED.get(name, {})
        found = [*_compare(split, published), *_cameras(split, layouts.CAMERAS.get(layout) if published else None)]
        whole = not lost if city else bool(published) and not found
        complete |= {part for part in parts if city or part.split()[-1] in published} if whole else set()
        for severity, text in (*found, *_people(split), *_files(split, layout, progress)):
            severity = "note" if whole and severity == "warning" else severity
            problems.append(Problem(severity, f"{reading}: {text}" if reading else text))
        counts |= parts
        invalid |= dict.fromkeys(_unmatched(split))
    problems = sorted(dict.fromkeys(problems), key=lambda problem: SEVERITIES.index(problem.severity))
    return Report(root, "city" if city else layout, counts, tuple(problems), tuple(invalid), frozenset(complete))


# --------------------------------------------------------------------------------------------------- which layout
def recognise(place: Path) -> str:
    """The layout of a folder (or a CSV file) by the names in it, or "".

    >>> recognise(Path("no/such/folder"))
    ''
    """
    if not place.is_dir():
        return "csv" if place.suffix.lower() == ".csv" and place.is_file() else ""
    names, score = {path.name for path in place.iterdir()}, {}
    for layout, signs in SIGNS.items():
        here = names & set(signs)
        score[layout] = len(here) + len(misspelt(signs, names - here).keys() - here) / 2
    best = max(score, key=score.__getitem__)
    if score[best] >= 1:
        return "dukemtmc" if best == "market1501" and _is_duke(place) else best
    if _table(place):
        return "csv"
    return "folders" if any(_images(path) for path in place.iterdir()) else ""


def _images(place: Path) -> list[str]:
    return image_names(path.name for path in place.iterdir()) if place.is_dir() else []


def _is_duke(place: Path) -> bool:
    """Its names go on with `_f` and the frame after the camera, those of Market-1501 with the sequence."""
    firsts = [name for folder in layouts.MARKET_FOLDERS for name in _images(place / folder)[:1]]
    return any(re.match(r"\d+_c\d+_f\d", name) for name in firsts)


def _table(place: Path) -> Path | None:
    """The one CSV file of a folder whose first line names path and pid."""
    tables = []
    for path in sorted(place.glob("*.csv")):
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            if {"path", "pid"} <= set(re.split(r'[\s,;"]+', next(lines, "").lower())):
                tables.append(path)
    return tables[0] if len(tables) == 1 else None


def _manifest(place: Path) -> dict[str, int]:
    """How many images each folder of a rendered city got; empty where it is none."""
    manifest = files.read_json(place / "manifest.json") if (place / "manifest.json").is_file() else {}
    return manifest["counts"] if isinstance(manifest, dict) and {"plan", "counts"} <= manifest.keys() else {}


def _deeper(root: Path) -> list[Path]:
    """The data sets among the folders in `root`, or else among the folders in those."""
    inner = [root]
    for _ in range(2):
        inner = [path for place in inner if place.is_dir() for path in sorted(place.iterdir()) if path.name[0] != "."]
        if found := [path for path in inner if path.is_dir() and recognise(path)]:
            return found
    return []


def _why_not(root: Path, places: list[Path]) -> str:
    """Why `root` is no data set, and what to do."""
    if root.is_file():
        return f"{root} is a file; give the folder that was unpacked from it, or a CSV file."
    try:
        layouts.require(root)
    except ValueError as error:
        return str(error)
    names, above = _images(root), root.resolve().parent
    packed = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in layouts.PACKED_SUFFIXES]
    if places:
        return (
            f"{root} holds {len(places)} folders that look like data sets ({some(p.name for p in places)}); give one."
        )
    if packed:
        return f"{root} holds nothing that is unpacked; unpack {some(packed)} and give the folder that comes out."
    if names and recognise(above) not in ("", "folders"):
        return f"{root} is a part of a data set; give {above}."
    if names:
        return (
            f"{root} holds {len(names):,} images side by side; give each identity a folder of its own, "
            "or list all in a CSV file with the columns path and pid (and camid and split)."
        )
    return f"{root} has no layout that is known; data/README.md shows those that are."


def _readings(layout: str, place: Path) -> dict[str, Callable[[], Split]]:
    """How to read the folder; the ways to read CUHK03 are as many as there are files for."""
    if layout == "csv" and place.is_dir():
        place = _table(place) or place
    if layout != "cuhk03":
        return {layout: functools.partial(READERS[layout], place)}
    ways = []
    for boxes in layouts.BOXES:
        folder, mat, config = layouts.cuhk03_files(place, boxes)
        ways += [("classic", boxes)] * bool(mat) + [("new", boxes)] * bool(folder or (mat and config))
    read = functools.partial(layouts.cuhk03, place, export=False)
    return {
        f"cuhk03 {protocol} {boxes}": functools.partial(read, protocol=protocol, boxes=boxes)
        for protocol, boxes in ways or [("new", "detected")]
    }


# ---------------------------------------------------------------------------------------------- what may be wrong
def _compare(split: Split, published: dict[str, tuple[int, ...]]) -> Iterator[Problem]:
    """Against the published numbers, unless these are surely other images."""
    counts = split.counts()
    for part in (part for part, row in counts.items() if not row["images"]):
        yield Problem("error", f"{part} has no image; add some.")
    expected = {part: dict(zip(layouts.COUNTED, row, strict=False)) for part, row in published.items()}
    here, there = (rows.get("train", {}).get("identities", 0) for rows in (counts, expected))
    if 2 * here < there:
        text = f"identities to train on: {here:,}, published are {there:,}; fine if these are your own images."
        yield Problem("note", text)
        return
    for part, row in expected.items():
        have = counts[part]
        if wrong := [f"{have[name]:,} {name}, not {count:,}" for name, count in row.items() if have[name] != count]:
            yield Problem("warning", f"{part} has {' and '.join(wrong)}; unpack the archive again.")


def _compare_city(place: Path, city: dict[str, int]) -> Iterator[Problem]:
    """A city against its manifest."""
    if lost := [folder for folder, count in city.items() if len(_images(place / folder)) != count]:
        text = f"{some(lost)}: not as many images as were rendered; delete {place} and build it again."
        yield Problem("warning", text)


def _cameras(split: Split, published: int | None) -> Iterator[Problem]:
    """Cameras that are missing or too many, or not known at all."""
    seen = {record.camid for records in split.parts.values() for record in records}
    if len(seen) == sum(map(len, split.parts.values())) > 1:
        text = "each image counts as taken by a camera of its own; name cameras by c1, c2 … in file names or by camid."
        yield Problem("note", text)
    count = published or max(seen, default=-1) + 1
    if seen != set(range(count)):
        there = ", ".join(str(camid + 1) for camid in sorted(seen))
        text = f"cameras with images: {there}, not 1 to {count}; look for images that are lost or misnamed."
        yield Problem("warning" if published else "note", text)


def _people(split: Split) -> Iterator[Problem]:
    """Identities on both sides, and queries that nothing answers."""
    train, tested = ({record.pid for record in part} for part in (split.train, split.query + split.gallery))
    if both := sorted((train & tested) - {JUNK, DISTRACTOR}):
        text = f"identities that train and are tested: {len(both):,} ({some(both)}); keep each on one side."
        yield Problem("warning", text)
    alone = _unmatched(split)
    text = "queries without an image of their identity by another camera: "
    text += f"{len(alone):,} of {len(split.query):,} ({some(record.path.name for record in alone)}); "
    if alone and len(alone) == len(split.query):
        text += "if cameras are not known, read a folder per identity or a CSV file with cameras=False."
        yield Problem("error", text)
    elif alone:
        yield Problem("warning", f"{text}nothing can answer them and evaluation skips them; leave them out.")


def _unmatched(split: Split) -> list[Record]:
    cameras = defaultdict(set)
    for record in split.gallery:
        cameras[record.pid].add(record.camid)
    return [record for record in split.query if not cameras[record.pid] - {record.camid}]


def _files(split: Split, layout: str, progress: bool) -> Iterator[Problem]:
    """Decode every image: what is missing, what is damaged, what is there twice."""
    records = {record.path: record for part in split.parts.values() for record in part}
    inside = [path for path in records if layout == "cuhk03" and not path.parent.exists()]
    if inside:
        text = (
            f"images still inside cuhk-03.mat: {len(inside):,}; the first use writes them to {inside[0].parent.name}."
        )
        yield Problem("note", text)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter while it decodes
        found = pool.map(_inspect, records)
        found = track(found, title="decoding", total=len(records), unit="images", enabled=progress)
        states = dict(zip(records, found, strict=True))
    for state, remedy in (("missing", "unpack the archive again or mend the list"), ("damaged", "replace them")):
        if bad := [path.name for path, found in states.items() if found == state]:
            text = f"images that are {state}: {len(bad):,} of {len(records):,} ({some(bad)}); {remedy}."
            yield Problem("error", text)
    copies = defaultdict(dict)
    for record in split.train + split.query + split.gallery:  # multi-query boxes hold the queries again
        if isinstance(states[record.path], bytes):
            copies[states[record.path]][record.path] = record.pid
    groups = [paths for paths in copies.values() if len(paths) > 1]
    if groups:
        strange = [paths for paths in groups if len(set(paths.values())) > 1]
        pair = " = ".join(path.name for path in list((strange or groups)[0])[:2])
        text = f"files that are copies of others: {sum(map(len, groups)) - len(groups):,} ({pair}"
        text += f"; under another identity: {len(strange):,})" if strange else ")"
        yield Problem("warning" if strange else "note", f"{text}; keep one of each.")


def _inspect(path: Path) -> bytes | str:
    """A digest of an image that can be decoded, or else "missing" or "damaged"."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except FileNotFoundError:
        return "missing"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "damaged"
    return hashlib.blake2b(data, digest_size=16).digest()
