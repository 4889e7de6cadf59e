"""Installed from a wheel, outside of any clone: it works, and it writes into the working directory alone."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import miniatures

FEW = {"dataset": "market1501", "epochs": 1, "steps_per_epoch": 1, "p": 2, "k": 2, "height": 32, "width": 16}
USE = """
import json, pathlib, torch
import reidkit
from reidkit.losses.ranking import lin_loss
from reidkit.metrics.retrieval import evaluate
from reidkit.data import layouts
from reidkit.recipes import baseline, sources
from reidkit.world import city

x, pids = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
assert lin_loss(x, pids).isfinite() and evaluate(x, x, pids, pids * 0, pids, pids * 0 + 1).rank1 == 1
assert layouts.market1501("archives/market1501").num_pids == 2
city.SIZES["quick"] = city.Size(4, 32, 1)
split = sources.open_split("market", preset="quick", progress=False)
assert split.root == pathlib.Path.cwd() / "data" / "cities" / "market-quick-0"
result = baseline.run("default", preset="quick", data_root="archives", weights="reference", last_relu=False,
                      progress=False, **json.loads(FEW))
assert result.provenance["commit"] == "" and len(result.provenance["code"]) == 12
print(reidkit.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory, root) -> Path:
    """A virtual environment of its own with the wheel in it; other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True}
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    copy = folder / "source"  # because a build leaves its traces beside the source
    names = subprocess.run(["git", "ls-files", "reidkit", "pyproject.toml", "README.md", "LICENSE"], cwd=root, **quiet)
    for name in names.stdout.decode().split():
        if (root / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((root / name).read_bytes())
    subprocess.run([*build, folder / "dist", copy], cwd=folder, **quiet)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], **quiet)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site,
         next((folder / "dist").glob("*.whl"))], **quiet,
    )  # fmt: skip
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder_and_leaves_site_packages_alone(installed, tmp_path):
    def python(*arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REIDKIT", "PYTHON"))}
        call = [str(installed), "-B", *arguments]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reidkit(*arguments: str) -> str:
        return python("-c", "import sys; from reidkit.cli import main; main(sys.argv[1:])", *arguments)

    miniatures.four_people(tmp_path / "archives")
    before = {path: path.stat().st_mtime_ns for path in installed.parents[1].rglob("*")}
    place = Path(python("-c", USE.replace("FEW", repr(json.dumps(FEW)))).splitlines()[-1])
    assert place.is_relative_to(installed.parents[1]), "another copy was imported"
    assert "Nothing is wrong" in reidkit("doctor", "data/cities/market-quick-0")
    changes = [word for name, value in (FEW | {"weights": "scratch"}).items() for word in ("-p", name, str(value))]
    few = ["--variants", "softmax", "--seeds", "0", "-p", "data_root", "archives", *changes, "--out", "mine"]
    assert "02.quick.softmax.0: done" in reidkit("study", "02", *few)
    assert "softmax" in reidkit("table", "02", "--preset", "quick", "--variants", "softmax", "--out", "mine")
    assert {path: path.stat().st_mtime_ns for path in installed.parents[1].rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"archives", "data", "mine", "runs"}
