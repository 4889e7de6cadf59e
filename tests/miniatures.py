"""Miniatures of the archives for the tests: a handful of tiny images in the layout, names and formats of the real ones.

Each writer takes the folder to make and returns it. No two images are the same.
"""

import itertools
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

BOXES = ("detected", "labeled")
PAIRS = (3, 2, 2, 1, 2)  # people of CUHK03's five camera pairs
NOBODY_IN_VIEW_2 = (2, 1)  # camera pair and person, from 1
NOISE = ("Thumbs.db", "._0002_c1s1_000451_03.jpg")  # what file managers leave behind


def picture(path: Path, size: tuple[int, int] = (16, 8)) -> None:
    """Save coloured noise that depends on the last three names of the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise("/".join(path.parts[-3:]), size)).save(path, quality=90)


def noise(name: str, size: tuple[int, int] = (16, 8)) -> np.ndarray:
    """An image (height, width, 3) that depends on a name."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (*size, 3), np.uint8)


def _fill(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        picture(root / name)
        for rubbish in NOISE:
            ((root / name).parent / rubbish).write_bytes(b"")
    return root


def _seen(*people: tuple[int, Iterable[int]]) -> list[tuple[int, int]]:
    return [(pid, camera) for pid, cameras in people for camera in cameras]


def market1501(root: Path) -> Path:
    """Three identities to learn from, two to search for, two distractors, junk, hand-drawn boxes; six cameras."""
    train, test = _seen((2, (1, 2, 3)), (7, (4, 5, 6)), (11, (1, 6))), _seen((3, (1, 2)), (5, (3, 4)))
    names = [f"bounding_box_train/{pid:04d}_c{c}s1_00{shot}451_03.jpg" for pid, c in train for shot in (1, 2)]
    names += [f"query/{pid:04d}_c{c}s2_000076_00.jpg" for pid, c in test]
    names += [f"bounding_box_test/{pid:04d}_c{c}s2_000101_01.jpg" for pid, c in test]
    names += [f"bounding_box_test/0000_c{c}s1_000151_01.jpg" for c in (5, 6)] + [
        "bounding_box_test/-1_c1s1_000401_03.jpg"
    ]
    names += [f"gt_bbox/{pid:04d}_c{c}s2_0000{shot}6_00.jpg" for pid, c in test for shot in (7, 9)]
    return _fill(root, names)


def people_in_colours(root: Path, people: int = 5, *, shots: int = 3, searched: int = 4) -> Path:
    """People whom a network can tell apart, each in clothes of one colour, in the layout of Market-1501.

    So many people to learn from, with so many shots in each of two cameras; others to search for, and one nobody asks
    for.
    """
    rng = np.random.default_rng(0)
    for folder, pids, count in (
        ("bounding_box_train", range(1, people + 1), shots),
        ("query", range(people + 1, people + 1 + searched), 1),
        ("bounding_box_test", range(people + 1, people + 2 + searched), 2),
    ):
        (root / folder).mkdir(parents=True)
        for pid in pids:
            colour = np.random.default_rng(pid).integers(0, 256, 3)
            for camera in (1, 2):
                for shot in range(count):
                    pixels = np.clip(colour + rng.normal(0, 20, (40, 20, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(root / folder / f"{pid:04d}_c{camera}s1_{shot:06d}_0{shot}.jpg")
    return root


def dukemtmc(root: Path) -> Path:
    """Two identities to learn from, two to search for, one that nobody asks for; eight cameras."""
    train, test = _seen((1, range(1, 5)), (10, range(5, 9))), _seen((5, (1, 2)), (20, (7, 8)))
    names = [f"bounding_box_train/{pid:04d}_c{c}_f0046{pid:03d}.jpg" for pid, c in train]
    names += [f"query/{pid:04d}_c{c}_f0057{pid:03d}.jpg" for pid, c in test]
    names += [f"bounding_box_test/{pid:04d}_c{c}_f0090{pid:03d}.jpg" for pid, c in [*test, (7139, 3)]]
    return _fill(root, names)


def viper(root: Path) -> Path:
    """Seven identities, numbered with gaps from 0, one image a camera, seen from other angles."""
    numbers = (0, 1, 5, 8, 45, 120, 873)
    names = [
        f"{camera}/{number:03d}_{angle}.bmp" for camera, angle in (("cam_a", 0), ("cam_b", 90)) for number in numbers
    ]
    return _fill(root, names)


def msmt17(root: Path, version: int = 1) -> Path:
    """Three identities to learn from, two to search for, numbered from 0 on both sides; fifteen cameras."""
    train_folder, test_folder = {1: ("train", "test"), 2: ("mask_train_v2", "mask_test_v2")}[version]
    train = _seen((0, range(1, 6)), (1, range(6, 11)), (2, range(11, 16)))
    lists = {"train": train[:-2], "val": train[-2:], "query": _seen((0, (1, 15)), (1, (2, 3)))}
    lists["gallery"] = [*lists["query"], (1, 4)]
    root.mkdir(parents=True)
    for part, seen in lists.items():
        shot = 3 if part == "gallery" else 0
        names = [f"{pid:04d}/{pid:04d}_{shot:03d}_{c:02d}_0303morning_{16 * c:04d}_0.jpg" for pid, c in seen]
        text = "".join(f"{name} {pid}\n" for name, (pid, _) in zip(names, seen, strict=True))
        (root / f"list_{part}.txt").write_text(text)
        _fill(root / (train_folder if part in ("train", "val") else test_folder), names)
    return root


def cuhk03_np(root: Path) -> Path:
    """Two identities to learn from and two to search for, two views; the detector missed one image."""
    for boxes in BOXES:
        shots = {"bounding_box_train": (1, 2), "query": (1,), "bounding_box_test": (2, 3)}
        for folder, numbers in shots.items():
            pids = (1, 4) if folder == "bounding_box_train" else (2, 9)
            rows = [(pid, view, 5 * (view - 1) + shot) for pid in pids for view in (1, 2) for shot in numbers]
            lost = boxes == "detected" and folder == "bounding_box_test"
            _fill(root / boxes / folder, [f"{pid:04d}_c{view}_{n}.png" for pid, view, n in rows[lost:]])
    return root


def cuhk03_images(boxes: str) -> dict[tuple[int, int, int], np.ndarray]:
    """The images of the release: camera pair, person and column, from 1; columns 6 to 10 are of view 2."""
    images = {}
    for pair, people in enumerate(PAIRS, 1):
        for person in range(1, people + 1):
            columns = (1, 2, 6, 7, 8) if (pair, person) != NOBODY_IN_VIEW_2 else (1, 3, 5)
            for column in columns[boxes == "detected" and (pair, person) == (1, 1) :]:
                size = (16 + pair, 8 + column)  # every box has a size of its own
                images[pair, person, column] = noise(f"{boxes} {pair} {person} {column}", size)
    return images


def cuhk03_tested(split: int) -> list[tuple[int, int]]:
    """Camera pairs and people of a test set, from 1: three of them, in no order."""
    everybody = [(pair, person) for pair, people in enumerate(PAIRS, 1) for person in range(1, people + 1)]
    return [everybody[(3 * split + i) % len(everybody)] for i in (5, 0, 2)]


def cuhk03_release(root: Path) -> Path:
    """`cuhk03_release/cuhk-03.mat`: nested cells of references, every array transposed, behind MATLAB's header."""
    import h5py

    path = root / "cuhk03_release" / "cuhk-03.mat"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w", userblock_size=512) as mat:
        store = mat.create_group("#refs#")

        def keep(value: np.ndarray, matlab_class: str, where: h5py.Group = store, name: str = "") -> h5py.Reference:
            data = where.create_dataset(name or f"x{len(store)}", data=value.T)
            data.attrs["MATLAB_class"] = np.bytes_(matlab_class)
            return data.ref

        def cell(references: list[list[h5py.Reference]], where: h5py.Group = store, name: str = "") -> h5py.Reference:
            table = np.empty((len(references), len(references[0])), h5py.ref_dtype)
            table[:] = references
            return keep(table, "cell", where, name)

        empty = keep(np.zeros(2, np.uint64), "double")  # an empty array: its size in its place
        mat[empty].attrs["MATLAB_empty"] = np.uint8(1)
        for boxes in BOXES:
            there = {key: keep(image, "uint8") for key, image in cuhk03_images(boxes).items()}
            pairs = [
                [cell([[there.get((pair, person, n), empty) for n in range(1, 11)] for person in range(1, people + 1)])]
                for pair, people in enumerate(PAIRS, 1)
            ]
            cell(pairs, mat, boxes)
        cell([[keep(np.array(cuhk03_tested(split), float), "double")] for split in range(20)], mat, "testsets")
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return root


def cuhk03_config(root: Path, boxes: str = "detected") -> Path:
    """`cuhk03_new_protocol_config_<boxes>.mat` (MATLAB 5): (1, 2) and (3, 1) are tested, all others train."""
    from scipy.io import savemat

    keys = sorted(cuhk03_images(boxes))
    names = [f"{pair}_{person:03d}_{1 if n <= 5 else 2}_{n:02d}.png" for pair, person, n in keys]
    people = sorted({key[:2] for key in keys})
    tested = [key[:2] in ((1, 2), (3, 1)) for key in keys]
    query = [test and key[2] in (1, 6) for key, test in zip(keys, tested, strict=True)]
    gallery = [test and not asked for test, asked in zip(tested, query, strict=True)]
    savemat(
        root / f"cuhk03_new_protocol_config_{boxes}.mat",
        {
            "labels": np.array([[1 + people.index(key[:2])] for key in keys], np.uint16),
            "camId": np.array([[1 if key[2] <= 5 else 2] for key in keys], np.uint8),
            "filelist": np.array([[name] for name in names], object),
            "train_idx": 1 + np.flatnonzero(~np.array(tested))[:, None],
            "query_idx": 1 + np.flatnonzero(query)[:, None],
            "gallery_idx": 1 + np.flatnonzero(gallery)[:, None],
        },
    )
    return root


def folders(root: Path, cameras: bool = True) -> Path:
    """Four people called by name, each seen by two cameras, twice by the first."""
    shots = ("c1_a", "c1_b", "c2_a") if cameras else ("a", "b", "c")
    return _fill(root, [f"{name}/{name}_{shot}.jpg" for name in ("ada", "ben", "cyd", "dan") for shot in shots])


def table(root: Path, columns: str = "path,pid,camid,split") -> Path:
    """`people.csv` with some of the columns: people 1 and 2 train, 3 and 4 are searched by two cameras."""
    rows = [(pid, camera, shot) for pid in (1, 2, 3, 4) for camera in ("door", "hall") for shot in (0, 1)]
    lines = []
    for pid, camera, shot in rows:
        name = f"images/{pid}-{camera}-{shot}.png"
        picture(root / name)
        part = "train" if pid < 3 else "gallery" if shot else "query"
        cells = {"path": name, "pid": str(pid), "camid": camera, "split": part}
        lines.append(",".join(cells[column] for column in columns.split(",")))
    (root / "people.csv").write_text("\n".join([columns, *lines]) + "\n")
    return root / "people.csv"


def four_people(root: Path) -> str:
    """Four people of two cameras in the layout of Market-1501, two to learn from and two to find; the data root."""
    for folder, pids in (("bounding_box_train", (1, 2)), ("query", (3, 4)), ("bounding_box_test", (3, 4))):
        for pid, camera, shot in itertools.product(pids, (1, 2), range(2)):
            picture(root / "market1501" / folder / f"{pid:04d}_c{camera}s1_{shot:06d}_00.jpg", (40, 20))
    return str(root)
