"""CUHK03 as MATLAB saved it: images in nested cells of one HDF5 file, and the index files of the new protocol.

`cuhk-03.mat` (MATLAB 7.3) holds two cells, `detected` and `labeled`: a cell per camera pair, in it a row per person and
ten columns, five images of the first view and five of the second; some are empty. `testsets` holds the classic
protocol's 20 test sets, rows of camera pair and person, both from 1. MATLAB counts columns first and HDF5 rows first,
so every array comes out transposed.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from reidkit import files
from reidkit.progress import track


class Release(NamedTuple):
    """What `cuhk-03.mat` holds for one kind of boxes.

    Attributes:
        folder: where the images are, or would be, as files.
        names: of the files: `2_007_1_03.png` is camera pair 2, person 7, view 1, column 3; views have five columns.
        test_sets: of the classic protocol: "pair_person", as the names begin.
    """

    folder: Path
    names: list[str]
    test_sets: list[list[str]]


def open_release(mat: Path, boxes: str, *, export: bool = True) -> Release:
    """Read what a `cuhk-03.mat` holds; the first time, write its images as PNG files beside it.

    The files lie in `cuhk-03-<boxes>` beside the archive, with an index. A call that was killed goes on where it
    stopped, and the folder appears when it is whole; from then on neither the archive nor h5py is opened again.

    Args:
        mat: the file of the release.
        boxes: "detected" or "labeled".
        export: False writes nothing; the names are read all the same.

    Raises:
        ValueError: h5py is missing, the file is not that release, or the folder holds something else.
        OSError: the folder beside the archive cannot be written.

    >>> open_release(Path("no/such/cuhk-03.mat"), "detected")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no/such/cuhk-03.mat cannot be opened as MATLAB 7.3 (...); unpack or fetch it again.
    """
    folder = mat.with_name(f"cuhk-03-{boxes}")
    index = _index(folder, mat)
    if index is None:
        with _opened(mat) as archive:
            names = [name for name, _ in _images(archive, boxes)]
            index = {"bytes": mat.stat().st_size, "names": names, "test_sets": _test_sets(archive)}
            if export:
                with files.lock(mat.with_name(f".{folder.name}.lock")):
                    if _index(folder, mat) is None:  # another process may have been quicker
                        _export(archive, boxes, folder, index)
    return Release(folder, index["names"], index["test_sets"])


def _index(folder: Path, mat: Path) -> dict[str, Any] | None:
    """The index of a finished export of this very archive."""
    if not folder.exists():
        return None
    if not (folder / "index.json").exists():
        raise ValueError(f"{folder} is not an export of {mat.name} (it has no index.json); move it out of the way.")
    index = files.read_json(folder / "index.json")
    return index if index["bytes"] == mat.stat().st_size else None


@contextlib.contextmanager
def _opened(mat: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{mat} is an HDF5 file; install h5py to read it: pip install 'reidkit[mat]'.") from None
    try:
        archive = h5py.File(mat)
    except PermissionError as error:
        raise ValueError(f"{mat} cannot be read ({error}); give yourself the right to read it.") from None
    except OSError as error:
        raise ValueError(f"{mat} cannot be opened as MATLAB 7.3 ({error}); unpack or fetch it again.") from None
    with archive:
        if absent := {"detected", "labeled", "testsets"} - set(archive):
            raise ValueError(f"{mat} holds no {' and no '.join(sorted(absent))}; it is not the CUHK03 release.")
        yield archive


def _images(archive: Any, boxes: str) -> Iterator[tuple[str, Any]]:
    """Each image that is there, (channels, width, height) as MATLAB's order has it, and its name."""
    for pair, people in enumerate(archive[boxes][()].flat, 1):
        for person, row in enumerate(archive[people][()].T, 1):
            for column, cell in enumerate(row, 1):
                image = archive[cell]
                if image.ndim == 3:  # an empty cell holds its size instead
                    yield f"{pair}_{person:03d}_{1 if column <= 5 else 2}_{column:02d}.png", image


def _test_sets(archive: Any) -> list[list[str]]:
    tables = (archive[cell][()].T for cell in archive["testsets"][()].flat)
    return [[f"{int(pair)}_{int(person):03d}" for pair, person in table] for table in tables]


def _export(archive: Any, boxes: str, folder: Path, index: dict[str, Any]) -> None:
    workshop = folder.with_name(f".{folder.name}.{index['bytes']}.part")  # another archive never continues this one
    workshop.mkdir(exist_ok=True)
    done = set(os.listdir(workshop))
    images = track(_images(archive, boxes), title=f"exporting {boxes}", total=len(index["names"]))
    for name, cell in images:
        if name not in done:
            data = io.BytesIO()
            Image.fromarray(cell[()].T).save(data, "PNG")
            files.write_bytes(workshop / name, data.getvalue())
    for scrap in workshop.glob(".*"):  # of killed processes
        scrap.unlink()
    files.write_json(workshop / "index.json", index)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(workshop, folder)


def read_config(config: Path) -> dict[str, list[tuple[str, int, int]]]:
    """Read `cuhk03_new_protocol_config_<boxes>.mat`: for each part, the names, pids and cameras (from 0) of its images.

    Raises:
        ValueError: the file is no such index.

    Source: Z. Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017, released files.

    >>> read_config(Path("no/such/config.mat"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no/such/config.mat is not the index of the new protocol (...); fetch it again.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = loadmat(config)
        names = [str(cell[0]) for cell in table["filelist"].ravel()]
        pids, camids = (table[field].ravel().astype(int).tolist() for field in ("labels", "camId"))
        rows = list(zip(names, pids, (camid - 1 for camid in camids), strict=True))
        parts = {part: table[f"{part}_idx"].ravel().astype(int) - 1 for part in ("train", "query", "gallery")}
        return {part: [rows[i] for i in chosen] for part, chosen in parts.items()}
    except PermissionError as error:
        raise ValueError(f"{config} cannot be read ({error.strerror}); give yourself the right to read it.") from None
    except (OSError, KeyError, ValueError, IndexError, TypeError, MatReadError, NotImplementedError) as error:
        raise ValueError(f"{config} is not the index of the new protocol ({error}); fetch it again.") from None
