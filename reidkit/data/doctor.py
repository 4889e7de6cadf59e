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
from reidkit.data.copies import firsts
from reidkit.data.layouts import CLUTTER, entries, image_names, misspelt, read_lines, some
from reidkit.data.pixels import UnreadKindError, read_rgb
from reidkit.data.records import DISTRACTOR, JUNK, Record, Split, whole_number
from reidkit.progress import track

SEVERITIES = ("error", "warning", "note")
SIGNS = {  # layout -> names that give it away, though some may be missing or spelt otherwise
    "market1501": layouts.MARKET_FOLDERS,
    "msmt17": layouts.MSMT_LISTS,
    "viper": layouts.VIPER_FOLDERS,
    "cuhk03": ("cuhk-03.mat", "cuhk03_release", "cuhk03-np", *layouts.BOXES),
    "folders": own.PARTS,
}
WRITINGS = {".txt", ".md", ".csv", ".json", ".xml", ".yml", ".yaml", ".html", ".pdf"}  # beside images; none is lost
REMEDIES = {  # what may be wrong with an image file -> what to do
    "missing": "unpack the archive again or mend the list",
    "not to be read": "give yourself the right to read them",
    "damaged": "replace them",
    "of a kind that is not read": "save them as RGB with 8 bits",
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
    try:
        places = [root] if recognise(root) else _deeper(root)
    except (ValueError, OSError) as error:  # a folder or a table that may not be read
        return Report(root, "", {}, (Problem("error", " ".join(str(error).split())),))
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
        except (ValueError, OSError) as error:
            problems.append(Problem("error", " ".join(str(error).split())))
            continue
        reading = name.removeprefix(layout).strip()  # "new detected" of CUHK03, else nothing
        parts = {f"{reading} {part}".strip(): row for part, row in split.counts().items()}
        published = {} if city else layouts.PUBLISHED.get(name, {})
        found = [*_compare(split, published), *_cameras(split, layouts.CAMERAS.get(layout) if published else None)]
        whole = not lost if city else bool(published) and not found
        complete |= {part for part in parts if city or part.split()[-1] in published} if whole else set()
        about_people = [*_reserved(split, layout), *_people(split)]
        about_files = [*_passed_over(place, split, layout), *_files(split, layout, progress)]
        for severity, text in (*found, *about_people, *about_files):
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
    there = entries(place)
    names, score = {path.name for path in there}, {}
    for layout, signs in SIGNS.items():
        here = names & set(signs)
        score[layout] = len(here) + len(misspelt(signs, names - here).keys() - here) / 2
    best = max(score, key=score.__getitem__)
    if score[best] >= 1:
        return "dukemtmc" if best == "market1501" and _is_duke(place) else best
    if _table(place):
        return "csv"
    return "folders" if any(_images(path) for path in there) else ""


def _images(place: Path) -> list[str]:
    return image_names(path.name for path in entries(place)) if place.is_dir() else []


def _is_duke(place: Path) -> bool:
    """Its names go on with `_f` and the frame after the camera, those of Market-1501 with the sequence."""
    firsts = [name for folder in layouts.MARKET_FOLDERS for name in _images(place / folder)[:1]]
    return any(re.match(r"\d+_c\d+_f\d", name) for name in firsts)


def _table(place: Path) -> Path | None:
    """The one CSV file of a folder whose first line names path and pid."""
    tables = []
    for path in sorted(place.glob("*.csv")):
        try:
            header = (read_lines(path) or [""])[0]
        except ValueError:  # in an encoding of which the reader will speak
            header = path.read_bytes()[:1000].decode("latin-1").replace("\0", "")
        if {"path", "pid"} <= set(re.split(r'[\s,;"]+', header.lower())):
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
        inner = [path for place in inner if place.is_dir() for path in entries(place) if path.name[0] != "."]
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
    packed = [path.name for path in entries(root) if path.suffix.lower() in layouts.PACKED_SUFFIXES]
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
    records = [record for part in split.parts.values() for record in part]
    seen = {record.camid for record in records}
    several = 1 < len(seen) <= len(records) <= 2 * len(seen)  # few images a camera: perhaps copies of one
    if several and len(seen) == len(set(firsts([r._replace(camid=i) for i, r in enumerate(records)]))):
        text = "each image counts as taken by a camera of its own; name cameras by c1, c2 … in file names or by camid."
        yield Problem("note", text)
    count = published or max(seen, default=-1) + 1
    if seen != set(range(count)):
        there = ", ".join(str(camid + 1) for camid in sorted(seen))
        text = f"cameras with images: {there}, not 1 to {count}; look for images that are lost or misnamed."
        yield Problem("warning" if published else "note", text)


def _reserved(split: Split, layout: str) -> Iterator[Problem]:
    """How many of one's own images became distractors and junk; of an archive the table says it."""
    count = split.counts()["gallery"]
    if layout not in ("folders", "csv") or not (count["distractors"] or count["junk"]):
        return
    text = f"images by their pid: {count['distractors']:,} distractors (0), {count['junk']:,} junk (-1)"
    records = [record for part in split.parts.values() for record in part]
    pids = {record.pid for record in records} - {JUNK}
    named = layout == "folders" and any(whole_number(record.path.parent.name) is None for record in records)
    if count["distractors"] and len(pids) > 1 and pids == set(range(len(pids))) and not named:
        text += "; identities seem to be numbered from 0: number them from 1, or 0 is nobody that can be found."
        yield Problem("warning", text)
    else:
        yield Problem("note", f"{text}; number identities from 1, or name them.")


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
    for state, remedy in REMEDIES.items():
        if bad := [path.name for path, found in states.items() if found == state]:
            text = f"images that are {state}: {len(bad):,} of {len(records):,} ({some(bad)}); {remedy}."
            yield Problem("error", text)
    yield from _copies(split, layout, states)


def _copies(split: Split, layout: str, states: dict[Path, bytes | str]) -> Iterator[Problem]:
    """Images that are there twice: one file listed twice, a link to it, or the same bytes under another name."""
    shown = defaultdict(list)  # digest -> part and record; multi-query boxes are left out: they hold the queries again
    classic = layout == "cuhk03" and split.query == split.gallery  # every test image is both, by its protocol
    for part in ("train", "query") if classic else ("train", "query", "gallery"):
        for record in split.parts[part]:
            if isinstance(states[record.path], bytes):
                shown[states[record.path]].append((part, record))
    kinds = defaultdict(list)
    for group in (group for group in shown.values() if len(group) > 1):
        parts = {part for part, _ in group}
        one = len({record.pid for _, record in group}) == 1
        kind = "train" if one and "train" in parts else "query" if one and "query" in parts else ""
        kinds[kind if len(parts) > 1 else ""].append(group)
    for kind, said, remedy in (
        ("train", "images that train and are tested", "keep each on one side"),
        ("query", "images that are query and gallery", "each is junk for itself; keep each in one of the two"),
    ):
        if groups := kinds[kind]:
            yield Problem("warning", f"{said}: {len(groups):,} ({some(map(_pair, groups))}); {remedy}.")
    if groups := kinds[""]:
        strange = [group for group in groups if len({record.pid for _, record in group}) > 1]
        text = (
            f"files that are copies of others: {sum(map(len, groups)) - len(groups):,} ({_pair((strange or groups)[0])}"
        )
        text += f"; under another identity: {len(strange):,})" if strange else ")"
        yield Problem("warning", f"{text}; keep one of each.")


def _pair(group: list[tuple[str, Record]]) -> str:
    """The first two of some copies; a file that is listed twice by its name alone."""
    return " = ".join(dict.fromkeys(record.path.name for _, record in group[:2]))


def _passed_over(place: Path, split: Split, layout: str) -> Iterator[Problem]:
    """Files that lie among the images, or in a folder of identities, and are not read."""
    read = {record.path for part in split.parts.values() for record in part}
    homes = {path.parent for path in read}
    for top in () if layout == "csv" else (place,) if layout == "folders" else sorted(homes):
        for home, inner, _ in os.walk(top):  # images in a folder too many are lost as well
            inner[:] = [name for name in inner if not _is_clutter(name)]
            homes.add(Path(home))
    lost = [path for home in sorted(homes) if home.is_dir() for path in entries(home)]
    lost = [path for path in lost if path not in read and path.is_file() and not _is_clutter(path.name)]
    lost = [path for path in lost if path.suffix != ".csv" or layout != "csv"]  # the list itself
    writings = [path for path in lost if path.suffix.lower() in WRITINGS]
    if pictures := [path for path in lost if path.suffix.lower() not in WRITINGS]:
        text = f"files that are passed over: {len(pictures):,} ({some(path.name for path in pictures)}); "
        if layout in ("csv", "msmt17"):
            yield Problem("note" if layout == "csv" else "warning", f"{text}the list does not name them.")
        else:
            text += "give images a suffix that Pillow reads, those of an identity a folder, and move out what is none."
            yield Problem("warning", text)
    if writings:
        text = f"files that are passed over: {len(writings):,} ({some(path.name for path in writings)}); no images."
        yield Problem("note", text)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER or name == "index.json"  # the last of CUHK03's export


def _inspect(path: Path) -> bytes | str:
    """A digest of an image that can be decoded, or else what is wrong with it, as in `REMEDIES`."""
    try:
        data = path.read_bytes()
        read_rgb(io.BytesIO(data))
    except FileNotFoundError:
        return "missing"
    except PermissionError:
        return "not to be read"
    except UnreadKindError:
        return "of a kind that is not read"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "damaged"
    return hashlib.blake2b(data, digest_size=16).digest()
