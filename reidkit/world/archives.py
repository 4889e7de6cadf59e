"""How each archive is laid out: who is seen how often under which camera, how files are called, what else is there.

An `Archive` is that knowledge as data and two functions. Nothing in here renders.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from reidkit import files
from reidkit.world.cameras import Cameras, Knobs, observe
from reidkit.world.chance import Dice

FIRST_DISTRACTOR, FIRST_JUNK = 100_000, 200_000  # keys from here on are people with pid 0, or with pid -1, on disk
HAND_DRAWN = 50  # number of the first hand-drawn box of a passage of Market-1501
CUHK03_PAIRS = (843, 440, 77, 58, 49)  # identities under each pair of cameras
CUHK03_NEW_TEST, CUHK03_OLD_TEST = 700, 100  # test identities of the new protocol, and of a set of the old one
VIEWS, SHOTS = 2, 5  # of CUHK03: views of an identity, and the most images of a view


@dataclass(frozen=True)
class ImageSpec:
    """One image to render."""

    file: str  # path in the archive
    pid: int  # as in the file's name
    key: int  # whose factors
    camid: int
    shot: int
    by_hand: bool = False  # the box was drawn by hand, so it fits

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0]


def _nothing_else(workshop: Path, rows: list[ImageSpec], seed: int) -> None:
    pass


@dataclass(frozen=True)
class Archive:
    """A layout: its rows, the shape of its images, and what is written beside them.

    Its functions take the city's seed; `roster` takes the number of identities, the cameras and the knobs as well.
    """

    roster: Callable[[int, int, Cameras, Knobs], list[ImageSpec]]
    most: int = 10**5  # identities; the archive that it imitates has no more
    tallest: int = 256  # pixels
    aspect: float = 0.5  # width against height
    finish: Callable[[Path, list[ImageSpec], int], None] = _nothing_else  # run when all images are there
    needs: str = ""  # a library of the extra [mat] that `finish` imports


def encode(image: np.ndarray, quality: int, suffix: str) -> bytes:
    """The bytes of an image file. Every camera sends JPEG; an archive of BMP or PNG keeps what arrived.

    >>> encode(np.zeros((8, 8, 3), np.uint8), 80, ".bmp")[:2]
    b'BM'
    """
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality)
    if suffix != ".jpg":
        arrived, data = Image.open(data), io.BytesIO()
        arrived.save(data, suffix[1:].upper())
    return data.getvalue()


# --------------------------------------------------------------------------------------------------- Market-1501
def _market_file(seed: int, folder: str, pid: int, key: int, camid: int, shot: int) -> str:
    """Market-1501's name: identity, camera and sequence, frame, number of the box."""
    dice = Dice(seed, key, camid)
    sequence, frame = (
        1 + int(dice.uniform("sequence") * 6),
        int(dice.uniform("frame") * 90_000) + 25 * (shot % HAND_DRAWN),
    )
    if pid <= 0:
        frame = key % FIRST_DISTRACTOR  # one name for each
    name = f"{pid:04d}" if pid >= 0 else "-1"
    box = 0 if shot >= HAND_DRAWN else shot + 1
    return f"{folder}/{name}_c{camid + 1}s{sequence}_{frame:06d}_{box:02d}.jpg"


def _passages(seed: int, key: int, count: int) -> list[tuple[int, int]]:
    """Which of the cameras somebody passes (2 to 6 of them), and how many boxes the detector finds there (2 to 4)."""
    dice = Dice(seed, key, np.arange(count))
    visits = 2 + int(Dice(seed, key).uniform("visits") * (min(count, 6) - 1))
    boxes = 3 + dice.coin("one more", 0.3).astype(int) - dice.coin("one less", 0.3).astype(int)
    return [(camid, int(boxes[camid])) for camid in sorted(np.argsort(dice.uniform("passes"))[:visits].tolist())]


def _market(
    seed: int, identities: int, cameras: Cameras, knobs: Knobs, *, most: int = 4, by_hand: int = 2
) -> list[ImageSpec]:
    """Even numbers are training identities, odd ones are for testing; a passage has at most so many boxes."""
    rows, n = [], identities // 2

    def add(folder: str, pid: int, key: int, camid: int, shot: int) -> None:
        file = _market_file(seed, folder, pid, key, camid, shot)
        rows.append(ImageSpec(file, pid, key, camid, shot, by_hand=shot >= HAND_DRAWN))

    for key in range(2, 2 * n + 1, 2):
        for camid, boxes in _passages(seed, key, len(cameras)):
            for shot in range(min(boxes, most)):
                add("bounding_box_train", key, key, camid, shot)
    for key in range(1, 2 * n, 2):
        for camid, boxes in _passages(seed, key, len(cameras)):
            for shot in range(min(boxes, most)):
                add("bounding_box_test" if shot else "query", key, key, camid, shot)
            for shot in range(by_hand):
                add("gt_bbox", key, key, camid, HAND_DRAWN + shot)
    for first, pid, count in ((FIRST_DISTRACTOR, 0, n), (FIRST_JUNK, -1, int(0.4 * n))):
        keys = first + np.arange(count)
        seen = Dice(seed, keys).uniform("seen by", 0, len(cameras)).astype(int)
        for key, camid in zip(keys.tolist(), seen.tolist(), strict=True):
            add("bounding_box_test", pid, key, camid, 0)
    return rows


# --------------------------------------------------------------------------------------------------------- VIPeR
def _viper(seed: int, identities: int, cameras: Cameras, knobs: Knobs) -> list[ImageSpec]:
    """One image a camera, cut out by hand. Numbers begin with 0 and have gaps.

    The angle is that of the walker, to the next 45 degrees.
    """
    others = 1 + np.argsort(Dice(seed, np.arange(1, round(1.38 * identities))).uniform("number"))
    pids = np.sort(np.append(0, others[: identities - 1]))
    rows = []
    for camid, folder in enumerate(("cam_a", "cam_b")):
        yaw = observe(pids, np.asarray(camid), np.asarray(0), cameras, seed=seed, knobs=knobs).yaw.numpy()
        angles = 45 * (np.round(yaw / 45).astype(int) % 8)
        rows += [
            ImageSpec(f"{folder}/{pid:03d}_{angle}.bmp", pid, pid, camid, 0, by_hand=True)
            for pid, angle in zip(pids.tolist(), angles.tolist(), strict=True)
        ]
    return rows


# -------------------------------------------------------------------------------------------------------- CUHK03
def _share(part: int, identities: int) -> int:
    """As large a part of the city's identities as `part` is of CUHK03's."""
    return round(part / sum(CUHK03_PAIRS) * identities)


def _cuhk03_boxes(seed: int, pids: np.ndarray) -> dict[str, np.ndarray]:
    """Which images exist: (identity, view, shot). A few identities lack a view; the detector misses a few people."""
    own, view = Dice(seed, pids), Dice(seed, pids[:, None], np.arange(VIEWS))
    count = 1 + view.pick("images", [0.005, 0.01, 0.02, 0.045, 0.92])
    lacking = np.where(own.coin("lacks a view", 0.02), own.coin("which view", 0.5), -1)
    count[lacking[:, None] == np.arange(VIEWS)] = 0
    shot = np.arange(SHOTS)
    missed = Dice(seed, pids[:, None, None], np.arange(VIEWS)[:, None], shot).coin("missed", 0.01) & (shot > 0)
    by_hand = shot < count[..., None]
    return {"detected": by_hand & ~missed, "labeled": by_hand}


def _cuhk03(seed: int, identities: int, cameras: Cameras, knobs: Knobs) -> list[ImageSpec]:
    """The images of the new-protocol folders, which are all there are: each view shows a passage, boxed twice.

    Names are `<pid>_c<view>_<column of the .mat>`. The cameras of pair p are 2 p and 2 p + 1, from 0. Test identities
    have at least two images under both views; of each view, one is the query.
    """
    pids = np.arange(1, identities + 1)
    ends = [_share(sum(CUHK03_PAIRS[: i + 1]), identities) for i in range(len(CUHK03_PAIRS))]
    pairs = np.searchsorted(ends, pids)
    boxes = _cuhk03_boxes(seed, pids)
    able = pids[(boxes["detected"].sum(2) > 1).all(1)]
    order = np.argsort(Dice(seed, able).uniform("new protocol"))
    test = set(able[order[: _share(CUHK03_NEW_TEST, identities)]].tolist())
    lot = Dice(seed, pids[:, None, None], np.arange(VIEWS)[:, None], np.arange(SHOTS)).uniform("query")
    rows = []
    for kind, there in boxes.items():
        query = np.where(there, lot, 2).argmin(2)
        for i, view, shot in np.argwhere(there).tolist():
            pid = i + 1
            part = (
                "bounding_box_train" if pid not in test else "query" if shot == query[i, view] else "bounding_box_test"
            )
            name = f"{pid:04d}_c{view + 1}_{SHOTS * view + shot + 1:02d}.png"
            camid = VIEWS * int(pairs[i]) + view
            rows.append(ImageSpec(f"cuhk03-np/{kind}/{part}/{name}", pid, pid, camid, shot, kind == "labeled"))
    return rows


def _cuhk03_release(workshop: Path, rows: list[ImageSpec], seed: int) -> None:
    """Write `cuhk03_release/cuhk-03.mat` from the images: MATLAB 7.3, which is HDF5 behind a header of 512 bytes.

    MATLAB counts columns first, so every array is transposed. A cell is an array of references into `#refs#`.
    """
    import h5py

    pids = [sorted({row.pid for row in rows if row.camid // VIEWS == pair}) for pair in range(len(CUHK03_PAIRS))]
    place = {pid: (pair, i) for pair, members in enumerate(pids) for i, pid in enumerate(members)}
    with files.atomic_path(workshop / "cuhk03_release" / "cuhk-03.mat") as part:
        with h5py.File(part, "w", userblock_size=512) as mat:
            store = mat.create_group("#refs#")

            def keep(kind: str, value: np.ndarray, name: str = "", **options: object) -> h5py.Reference:
                dtype = h5py.ref_dtype if kind == "cell" else None
                where = mat if name else store
                data = where.create_dataset(name or str(len(store)), data=value, dtype=dtype, **options)
                data.attrs["MATLAB_class"] = np.bytes_(kind)
                return data.ref

            empty = keep("double", np.zeros(2, np.uint64))  # the size of the empty array stands in its place
            mat[empty].attrs["MATLAB_empty"] = np.uint8(1)
            for kind in ("detected", "labeled"):
                cells = [np.full((VIEWS * SHOTS, len(members)), empty, h5py.ref_dtype) for members in pids]
                for row in rows:
                    if row.by_hand == (kind == "labeled"):
                        pair, person = place[row.pid]
                        pixels = np.asarray(Image.open(workshop / row.file)).T
                        column = row.camid % VIEWS * SHOTS + row.shot
                        options = {"chunks": pixels.shape, "compression": 3}
                        cells[pair][column, person] = keep("uint8", pixels, **options)
                keep("cell", np.array([[keep("cell", cell) for cell in cells]], h5py.ref_dtype), kind)
            sets = [keep("double", test) for test in _cuhk03_test_sets(rows, place, seed)]
            keep("cell", np.array([sets], h5py.ref_dtype), "testsets")
        with part.open("r+b") as handle:
            text = b"MATLAB 7.3 MAT-file, HDF5 schema 1.00 ."
            handle.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")


def _cuhk03_test_sets(rows: list[ImageSpec], place: dict[int, tuple[int, int]], seed: int) -> list[np.ndarray]:
    """The 20 test sets of the old protocol, (2, n): pair and person, from 1. The detector found each in both views."""
    detected = [{row.pid for row in rows if not row.by_hand and row.camid % VIEWS == view} for view in range(VIEWS)]
    able = np.array(sorted(detected[0] & detected[1]))
    size = _share(CUHK03_OLD_TEST, len(place))
    chosen = [able[np.argsort(Dice(seed, able).uniform(f"test set {i}"))[:size]] for i in range(20)]
    return [np.array([place[pid] for pid in members.tolist()], np.float64).T + 1 for members in chosen]


MARKET1501 = Archive(_market)
STREET = Archive(partial(_market, most=2, by_hand=0))  # many people, few images of each, none cut by hand
VIPER = Archive(_viper, most=632, tallest=128, aspect=0.375)
CUHK03 = Archive(_cuhk03, most=sum(CUHK03_PAIRS), finish=_cuhk03_release, needs="h5py")
