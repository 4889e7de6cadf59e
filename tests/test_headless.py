"""Notebooks from the command line: refused before they start, forecast from files, and continued after a kill."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from click.testing import CliRunner

from reidkit import checkpoints, cli, files, headless, runs
from reidkit.training import fit

PARAMETERS = """preset: str = "quick"  # size
seed: int = 0  # of everything
lr: float = 0.5  # of the training
flag: bool = False  # a switch
dataset: str = "market"  # drawn, or your copy
data_root: str = ""  # where archives are
weights: str = ""  # to start from
place: str = ""  # a folder
"""
QUICK = {"preset": "quick", "seed": 0, "lr": 0.5, "flag": False, "dataset": "market", "data_root": "", "weights": ""}
OWN = " must be a notebook of its own; give a new name that ends in .ipynb."
TRAINING = """
import hashlib, os, shutil, time
from pathlib import Path
import torch
from reidkit.training import fit

torch.set_num_threads(1)

def train(name):
    torch.manual_seed(0)
    model, folder = torch.nn.Linear(3, 2), Path(place) / "runs" / name

    def step(model, batch):
        with (Path(place) / "steps.txt").open("a") as ledger:
            ledger.write(name)
        if name == "b" and (Path(place) / "steps.txt").read_text() == "aaaabbbb" and flag:
            (Path(place) / "pid").write_text(str(os.getpid()))  # killed here: in the last step of all
            time.sleep(300)
        return (model(batch + 0.1 * torch.rand(4, 3))).square().mean()

    adam = torch.optim.Adam(model.parameters(), lr=lr)
    history = fit(model, [torch.ones(4, 3)] * 2, step, epochs=2, optimizers=adam, checkpoint=folder)
    shutil.rmtree(folder)
    tensors = [*model.parameters(), torch.get_rng_state()]
    print(name, hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest())
    print(history.rows[-1]["loss"])
"""
LAST = "train('b')\nprint(torch.rand(2).tolist())"


def write(root: Path, *sources: str, name: str = "09_small") -> None:
    """A notebook of some cells, Markdown where they begin with a heading, after its parameters."""
    new = nbformat.v4
    cells = [new.new_markdown_cell("# 09 · Small"), new.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [(new.new_markdown_cell if text.startswith("#") else new.new_code_cell)(text) for text in sources]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one notebook and two presets; the working directory lies elsewhere."""
    root = tmp_path / "project"
    for name in ("notebooks", "presets", "results", "data", "elsewhere"):
        (root / name).mkdir(parents=True)
    for preset, changes in {"quick": {}, "large": {"preset": "large", "lr": 0.1, "dataset": "market1501"}}.items():
        lines = {**QUICK, "place": "", **changes}.items()
        (root / "presets" / f"09.{preset}.yml").write_text("\n".join(f"{n}: {json.dumps(v)}" for n, v in lines))
    write(root, "1")
    for name, path in {"ROOT": root, "PRESETS": root / "presets", "RESULTS": root / "results"}.items():
        monkeypatch.setattr(runs, name, path)
    monkeypatch.chdir(root / "elsewhere")
    return root


def printed(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["08"], "notebook must be one of 09, not '08'; the nearest is 09."),
        (["09", "--preset", "quik"], "preset must be one of large, quick, not 'quik'; the nearest is quick."),
        (["09", "-p", "sed", "1"], "sed is not a parameter of notebook 09; the nearest is seed."),
        (["09", "-p", "seed", "1.5"], "seed must be of type int, not 1.5."),
        (["09", "-p", "lr", "fast"], "lr must be of type float, not 'fast'."),
        (["09", "-p", "lr", "nan"], "lr must be a finite number, not nan."),
        (["09", "-p", "flag", "1"], "flag must be of type bool, not '1'."),
        (["09", "-p", "preset", "large"], "preset is chosen by --preset, which sets all its parameters."),
        (["09", "-p", "data_root", "a"], "data_root is {here}/a, which is no folder; make it, or leave data_root out."),
        (["09", "-p", "weights", "a"], "{here}/a does not exist; give a .safetensors, .pth or .pt file of weights."),
        (
            ["09", "--preset", "large"],
            "{root}/data/Market-1501-v15.09.15 does not exist; data/README.md says where each archive comes from and "
            "where it goes.",
        ),
        (["09", "--out", "a.html"], "{here}/a.html" + OWN),
        (["09", "--out", "../notebooks/09_small.ipynb"], "{root}/notebooks/09_small.ipynb" + OWN),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence_before_anything_starts(arguments, sentence, project, monkeypatch):
    monkeypatch.setattr(headless, "execute", None)
    done = CliRunner().invoke(cli.main, ["run", *arguments])
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr == f"Error: {sentence.format(root=project, here=Path.cwd())}\n"
    assert not (project / "runs").exists()


def test_a_notebook_is_needed(project):
    shutil.rmtree(project / "notebooks")
    with pytest.raises(ValueError, match=r"there are no notebooks in .*from a checkout"):
        headless.plan("09")


def test_parameters_are_read_by_their_type(project):
    (project / "elsewhere" / "archives").mkdir()
    changes = {"seed": "3", "lr": "3e-4", "flag": "true", "place": "7", "data_root": "archives"}
    plan = headless.plan("09_small", changes=list(changes.items()))
    wanted = {"seed": 3, "lr": 3e-4, "flag": True, "place": "7", "data_root": f"{project}/elsewhere/archives"}
    assert plan.changes == wanted
    assert {name: type(value) for name, value in plan.changes.items()} == {n: type(v) for n, v in wanted.items()}
    assert plan.params == {**QUICK, **wanted}
    assert headless.plan("09", changes=[("lr", "1")]).params["lr"] == 1.0


def test_a_file_is_named_by_what_is_not_as_in_the_preset(project):
    assert headless.plan("09", changes=[("seed", "0")]).out == project / "runs" / "notebooks" / "09.quick.ipynb"
    names = {headless.plan("09", changes=[("seed", seed)]).out.name for seed in ("1", "2", "3", "2")}
    assert len(names) == 3 and all(name.startswith("09.quick.") and name.endswith(".ipynb") for name in names)
    assert headless.plan("09", out="a.ipynb").out == project / "elsewhere" / "a.ipynb"


def test_a_dry_run_only_talks(project, monkeypatch):
    monkeypatch.setattr(headless, "execute", None)
    done = CliRunner().invoke(cli.main, ["run", "09", "-p", "seed", "1", "--dry-run"])
    assert done.exit_code == 0, done.output
    first, second, third = done.output.splitlines()
    assert (first, second) == ("09_small, preset quick, seed 1", "forecast: not measured yet")
    assert third.startswith(f"to: {project}/runs/notebooks/09.quick.") and not (project / "runs").exists()


# ------------------------------------------------------------------------------------------------------ forecasts


def remember(**facts: object) -> None:
    row = {"notebook": "09", "preset": "quick", "changes": {}, "machine": headless._machine(), "resumed": False}
    files.append_json(headless.folder() / "history.jsonl", row | {"seconds": 7.0, "memory": 2_000_000_000} | facts)


def test_a_forecast_is_the_last_run_here(project):
    plan = headless.plan("09", changes=[("seed", "1")])
    for passed_over in ({"machine": "another"}, {"resumed": True}, {"preset": "large"}, {"notebook": "08"}):
        remember(**passed_over)
        assert headless.forecast(plan).text == "not measured yet"
    remember(seconds=75.0)
    assert headless.forecast(plan).text == (
        "1 min 15 s and 2.0 GB, as the last time on this machine, with other parameters"
    )
    remember(changes={"seed": 1}, seconds=8.0)
    remember()
    assert headless.forecast(plan) == ("8 s and 2.0 GB, as the last time on this machine", 2_000_000_000)
    assert headless.forecast(headless.plan("09")).text.startswith("7 s and")


def test_a_forecast_that_does_not_fit_is_a_warning(project, capsys):
    needed = 2 * psutil.virtual_memory().total
    remember(memory=needed)
    headless.describe(headless.plan("09"))
    (warning,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert warning.startswith(f"warning: {headless.size(needed)} are expected, and ")


def test_a_forecast_from_the_recorded_course(project):
    course = {"preset": "quick", "cpus": 2, "notebooks": {"09_small": {"seconds": 46.2, "claims": 1}}}
    files.write_json(runs.RESULTS / "course.json", course)
    assert headless.forecast(headless.plan("09")).text == "46 s, as recorded on 2 CPU cores; memory not measured yet"
    changed = headless.forecast(headless.plan("09", changes=[("seed", "1")])).text
    assert changed == "46 s, as recorded for the preset as it is on 2 CPU cores; memory not measured yet"


@pytest.mark.parametrize(("device", "of", "memory"), [("x86_64", "", 4 * 10**9), ("NVIDIA X", " of the GPU", 0)])
def test_a_forecast_from_recorded_trainings(device, of, memory, project, monkeypatch):
    for seed, seconds in enumerate((60.0, 90.0, 70.0)):
        made = {"device": f"{device}, 1 of 2 threads"}
        what = runs.Result("09", "quick", "v", seed, {}, {}, seconds, (2 + seed) * 10**9, provenance=made)
        runs.save_result(what, runs.RESULTS)
    text, needed = headless.forecast(headless.plan("09"))
    assert needed == memory
    assert text == (
        f"one run of the recipe took 1 min 10 s (median of 3) and up to 4.0 GB{of} on {device}, 1 of 2 threads; "
        "the whole notebook is not measured yet"
    )


# -------------------------------------------------------------------------------------------------- the execution


def test_a_notebook_is_executed_and_remembered(project, monkeypatch, capsys):
    monkeypatch.setenv("REIDKIT_LIVE", "1")
    monkeypatch.setenv(checkpoints.KEEP, "nowhere")
    where = "import os, time\nprint(os.getcwd(), os.environ.get('REIDKIT_LIVE'), os.environ['REIDKIT_KEEP'])\n"
    memory = "x = bytearray(200_000_000)\ntime.sleep(1)"
    write(project, "## First", where + "print(seed, lr)", "## Second\n\n### Not this", memory)
    monkeypatch.setattr(headless, "is_watched", lambda: False)
    plan = headless.plan("09", changes=[("seed", "5")])
    ran = headless.run(plan)
    kept = project / "runs" / "notebooks" / f"{plan.out.stem}.kept" / runs.code_hash()
    assert printed(plan.out) == [f"{project}/notebooks None {kept}\n5 0.5\n"]
    assert [path.name for path in sorted(plan.out.parent.glob("[!.]*"))] == [plan.out.name, "history.jsonl"]
    assert 200e6 < ran.memory < 5e9 and ran.seconds > 1
    (row,) = files.read_lines(plan.out.parent / "history.jsonl")
    assert (row["changes"], row["memory"], row["resumed"]) == ({"seed": 5}, ran.memory, False)
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in said[3:-1]] == ["First", "Second"]
    assert said[-1].startswith("done in ") and said[-1].endswith(f": {plan.out}")
    assert (os.environ["REIDKIT_LIVE"], os.environ[checkpoints.KEEP]) == ("1", "nowhere")


def test_a_cell_that_fails_is_one_sentence_and_what_there_is_stays(project):
    write(project, "## The *end*", "print('before')", "raise KeyError('no\\nmore')", "print('after')")
    plan = headless.plan("09", out="a.ipynb")
    plan.out.write_text("of an earlier run")
    done = CliRunner().invoke(cli.main, ["run", "09", "--out", "a.ipynb"])
    part = project / "elsewhere" / "a.unfinished.ipynb"
    assert done.exit_code == 1
    where = 'cell [3] under "The *end*"'
    assert done.stderr == f"Error: 09_small stopped in {where}: KeyError: 'no\\nmore' (what there is of it: {part})\n"
    assert printed(part) == ["before\n"] and plan.out.read_text() == "of an earlier run"
    assert not (headless.folder() / "history.jsonl").exists()


def test_two_equal_runs_do_not_meet(project, monkeypatch):
    monkeypatch.setattr(headless, "execute", None)
    with files.lock(headless.folder() / ".09.quick.lock"), pytest.raises(ValueError, match="is running with these"):
        headless.run(headless.plan("09"))


def test_what_was_kept_by_other_code_is_removed_and_an_interruption_says_how_to_go_on(project, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(headless, "execute", interrupted)
    kept = headless.folder() / "09.quick.kept"
    (kept / "deadbeef" / "x").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        headless.run(headless.plan("09"))
    assert [path.name for path in kept.iterdir()] == [runs.code_hash()]
    said = capsys.readouterr().out
    assert "an earlier run did not end" not in said
    assert said.endswith("interrupted; the same command goes on from here\n")
    with pytest.raises(KeyboardInterrupt):
        headless.run(headless.plan("09"))
    assert "an earlier run did not end" in capsys.readouterr().out


def test_a_killed_run_goes_on_and_prints_what_an_uninterrupted_one_prints(project, monkeypatch):
    """Training a is done when it dies, b in its second of two epochs: only that epoch is done again."""
    write(project, TRAINING, "train('a')", LAST)
    changes = [("flag", "true"), ("place", str(project))]
    script = f"""
import pathlib; from reidkit import headless, runs
runs.ROOT = pathlib.Path({str(project)!r}); runs.PRESETS = runs.ROOT / "presets"; runs.RESULTS = runs.ROOT / "results"
headless.run(headless.plan("09", changes={changes}))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    kernel = int((project / "pid").read_text())
    for pid in (process.pid, kernel):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert (project / "steps.txt").read_text() == "aaaabbbb"
    plan = headless.plan("09", changes=changes)
    assert not plan.out.exists() and plan.out.with_name(f"{plan.out.stem}.unfinished.ipynb").exists()
    headless.run(plan)
    assert (project / "steps.txt").read_text() == "aaaabbbb" + "bb"
    assert files.read_lines(plan.out.parent / "history.jsonl")[-1]["resumed"]
    assert not list(plan.out.parent.glob("*.kept")) and not list(plan.out.parent.glob("*.unfinished.ipynb"))
    whole, said = project / "whole", io.StringIO()
    whole.mkdir()
    with redirect_stdout(said):
        exec(f"{TRAINING}\ntrain('a')\n{LAST}", {"place": str(whole), "lr": 0.5, "flag": False})
    assert (whole / "steps.txt").read_text() == "aaaabbbb"
    assert "".join(printed(plan.out)) == said.getvalue()


# ------------------------------------------------------------------------------------- what is kept of a training


class Training:
    """A small training with a generator of its own that counts its steps."""

    def __init__(self, folder: Path, **changes: float):
        self.folder, self.steps, self.changes = folder, 0, changes

    def run(self, *, remove: bool = True) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model, noise = torch.nn.Linear(3, 2), torch.Generator().manual_seed(2)

        def step(model, batch):
            self.steps += 1
            return model(batch + torch.rand(4, 3, generator=noise) + torch.rand(4, 3)).square().mean()

        optimizer = torch.optim.Adam(model.parameters(), lr=self.changes.get("lr", 0.1))
        options = {"optimizers": optimizer, "state": {"noise": noise}, "checkpoint": self.folder, "progress": False}
        history = fit(model, [torch.ones(4, 3)] * 3, step, epochs=2, **options)
        if remove:
            shutil.rmtree(self.folder)
        moments = {f"{k} {n}": v for k, s in optimizer.state_dict()["state"].items() for n, v in s.items()}
        losses = torch.tensor([row["loss"] for row in history.rows])
        chance = {"noise": noise.get_state(), "chance": torch.get_rng_state()}
        return model.state_dict() | moments | chance | {"losses": losses}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv(checkpoints.KEEP, str(tmp_path / "kept"))
    monkeypatch.setattr(checkpoints, "OPENED", type(checkpoints.OPENED)())
    return tmp_path / "kept"


def test_another_process_has_back_what_was_finished_to_the_bit(shelf, tmp_path):
    training = Training(tmp_path / "runs" / "a")
    first = training.run()
    assert training.steps == 6
    second = training.run()  # in the same process this is another training, which is done
    assert training.steps == 12 and same(first, second)
    for _ in range(2):  # and it is still there for the process after the next
        checkpoints.OPENED.clear()
        assert same(first, training.run()) and same(first, training.run())
        assert training.steps == 12
    checkpoints.OPENED.clear()
    other = Training(tmp_path / "runs" / "b")
    assert same(first, other.run()) and other.steps == 6


def test_nothing_is_kept_where_nobody_asks(shelf, tmp_path, monkeypatch):
    monkeypatch.delenv(checkpoints.KEEP)
    training = Training(tmp_path / "runs" / "a")
    training.run()
    training.run()
    assert training.steps == 12 and not shelf.exists()


def test_what_is_kept_takes_no_room_and_survives_the_checkpoint(shelf, tmp_path):
    Training(tmp_path / "runs" / "a").run(remove=False)
    (kept,) = shelf.glob("*/epoch-*/weights.safetensors")
    assert kept.parent.name == "epoch-00002" and os.stat(kept).st_nlink == 2
    shutil.rmtree(tmp_path / "runs")
    assert checkpoints.digest(kept) != "missing"


@pytest.mark.parametrize("where", ["link", "rename"])
def test_a_kill_while_it_is_kept_leaves_nothing_or_all(where, shelf, tmp_path, monkeypatch):
    training, real = Training(tmp_path / "runs" / "a"), getattr(os, where)

    def die(source, target):
        if shelf in Path(target).parents:
            raise KeyboardInterrupt
        return real(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, where, die)
        training.run()
    assert not [path for path in shelf.glob("*") if not path.name.startswith(".")]
    checkpoints.OPENED.clear()
    first = training.run()  # the checkpoint itself was not removed yet
    assert training.steps == 6
    checkpoints.OPENED.clear()
    assert same(first, training.run()) and training.steps == 6


def test_a_disk_without_links_keeps_copies(shelf, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    training = Training(tmp_path / "runs" / "a")
    first = training.run()
    checkpoints.OPENED.clear()
    assert same(first, training.run()) and training.steps == 6


def test_what_was_kept_of_another_training_is_refused_once(shelf, tmp_path):
    Training(tmp_path / "runs" / "a").run()
    checkpoints.OPENED.clear()
    other = Training(tmp_path / "runs" / "a", lr=0.2)
    with pytest.raises(ValueError, match=r"is of a run with other optimizers.*delete the folder to start again"):
        other.run()
    shutil.rmtree(tmp_path / "runs" / "a")  # as the sentence says
    checkpoints.OPENED.clear()
    other.run()
    assert other.steps == 6
