"""The vectors of the released implementations: each file is described, and each description has its file and arrays."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("oracles")


def test_index_and_files_agree():
    index = json.loads((FOLDER / "INDEX.json").read_text())
    files = {path.name: path for path in FOLDER.glob("*.npz")}
    assert files.keys() == index.keys() - {"_meta"}
    for name, path in files.items():
        assert index[name]["source"], name
        assert set(np.load(path).files) == set(index[name]["arrays"]), name
