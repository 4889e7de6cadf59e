"""CUHK03's MATLAB files: read as MATLAB wrote them, exported once and whole, and refused in one sentence."""

import contextlib
import json
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

import miniatures
from reidkit import files
from reidkit.data import mat as module
from reidkit.data.mat import open_release, read_config


@pytest.fixture
def mat(tmp_path):
    return miniatures.cuhk03_release(tmp_path) / "cuhk03_release" / "cuhk-03.mat"


def sentence(call, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def hidden(mat) -> list[str]:
    return sorted(path.name for path in mat.parent.iterdir() if path.name != mat.name)


@pytest.mark.parametrize("boxes", miniatures.BOXES)
def test_names_pixels_and_test_sets_are_those_of_the_file(mat, boxes):
    release = open_release(mat, boxes)
    images = miniatures.cuhk03_images(boxes)
    names = [f"{pair}_{person:03d}_{1 + (n > 5)}_{n:02d}.png" for pair, person, n in sorted(images)]
    assert release.folder == mat.parent / f"cuhk-03-{boxes}"
    assert release.names == names
    for name, key in zip(names, sorted(images), strict=True):
        assert np.array_equal(np.asarray(Image.open(release.folder / name)), images[key])
    assert release.test_sets == [
        [f"{pair}_{person:03d}" for pair, person in miniatures.cuhk03_tested(split)] for split in range(20)
    ]
    assert hidden(mat) == [f".cuhk-03-{boxes}.lock", f"cuhk-03-{boxes}"]


def test_the_archive_is_opened_once(mat, monkeypatch):
    first = open_release(mat, "detected")
    monkeypatch.setitem(sys.modules, "h5py", None)  # importing it fails
    with monkeypatch.context() as read_only:
        read_only.setattr(module.files, "lock", None)
        assert open_release(mat, "detected") == first
    assert sentence(open_release, mat, "labeled") == (
        f"{mat} is an HDF5 file; install h5py to read it: pip install 'reidkit[mat]'."
    )


def test_a_killed_export_goes_on_and_shows_nothing_before_it_is_whole(mat, monkeypatch):
    write, written = files.write_bytes, []

    def die_at_the_tenth(path, data):
        if len(written) == 9:
            (path.parent / f".{path.stem}.123.part.png").write_bytes(data[:20])  # what kill -9 leaves
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, data)

    monkeypatch.setattr(module.files, "write_bytes", die_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        open_release(mat, "detected")
    assert not (mat.parent / "cuhk-03-detected").exists()

    again = []
    monkeypatch.setattr(module.files, "write_bytes", lambda path, data: (again.append(path.name), write(path, data)))
    release = open_release(mat, "detected")
    assert [name for name in again if name.endswith(".png")] == release.names[9:]
    assert sorted(path.name for path in release.folder.iterdir()) == sorted([*release.names, "index.json"])
    assert hidden(mat) == [".cuhk-03-detected.lock", "cuhk-03-detected"]


def test_another_archive_is_exported_anew(mat):
    old = open_release(mat, "labeled")
    index = old.folder / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"bytes": 1, "names": ["old.png"]}))
    assert open_release(mat, "labeled") == old


def test_a_strangers_folder_is_left_alone(mat):
    (mat.parent / "cuhk-03-detected").mkdir()
    said = sentence(open_release, mat, "detected")
    assert "cuhk-03-detected is not an export of cuhk-03.mat (it has no index.json); move it" in said


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_file_that_is_no_hdf5_is_named(mat, damage):
    data = mat.read_bytes()
    mat.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": b"MATLAB 5.0 MAT-file".ljust(999)}[damage])
    said = sentence(open_release, mat, "detected")
    assert said.startswith(f"{mat} cannot be opened as MATLAB 7.3 (") and said.endswith("; unpack or fetch it again.")


def test_another_hdf5_file_is_named(tmp_path):
    with h5py.File(tmp_path / "cuhk-03.mat", "w") as other:
        other["detected"] = [1]
    said = sentence(open_release, tmp_path / "cuhk-03.mat", "detected")
    assert said.endswith("holds no labeled and no testsets; it is not the CUHK03 release.")


def test_the_index_of_the_new_protocol_is_read(tmp_path):
    parts = read_config(miniatures.cuhk03_config(tmp_path) / "cuhk03_new_protocol_config_detected.mat")
    assert list(parts) == ["train", "query", "gallery"]
    assert parts["query"][0] == ("1_002_1_01.png", 2, 0)
    names = [name for rows in parts.values() for name, *_ in rows]
    assert len(names) == len(set(names)) == len(miniatures.cuhk03_images("detected"))


@pytest.mark.parametrize("data", [b"", b"no matrix", b"MATLAB 5.0 MAT-file".ljust(128) + bytes(40)])
def test_a_broken_index_is_named(tmp_path, data):
    config = tmp_path / "cuhk03_new_protocol_config_detected.mat"
    config.write_bytes(data)
    assert sentence(read_config, config).startswith(f"{config} is not the index of the new protocol (")


def test_an_index_without_its_columns_is_named(tmp_path):
    from scipy.io import savemat

    savemat(config := tmp_path / "config.mat", {"labels": [[1]], "filelist": np.array([["a.png"]], object)})
    assert "is not the index of the new protocol ('camId'); fetch it again." in sentence(read_config, config)


def test_two_processes_write_one_export(mat, monkeypatch):
    """The second one waits for the lock and finds the work done."""
    first, lock = open_release(mat, "labeled"), files.lock
    hidden_away = mat.parent / "later"
    first.folder.rename(hidden_away)

    @contextlib.contextmanager
    def meanwhile(path):
        hidden_away.rename(first.folder)
        with lock(path):
            yield

    monkeypatch.setattr(module.files, "lock", meanwhile)
    monkeypatch.setattr(module.files, "write_bytes", None)
    assert open_release(mat, "labeled") == first


def test_what_one_may_not_read_is_named(mat, tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", forbidden)
    assert sentence(open_release, mat, "detected").startswith(f"{mat} cannot be read (")
    monkeypatch.setattr("scipy.io.loadmat", forbidden)
    said = sentence(read_config, tmp_path / "config.mat")
    assert said == f"{tmp_path / 'config.mat'} cannot be read (Permission denied); give yourself the right to read it."
