"""Notebooks from the command line: refused before they start, executed whole or not at all, continued after a kill."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import miniatures
from reidkit import cli, files, parameters, runs
from reidkit.recipes import driver
from reidkit.studies import lectures, notebook
from reidkit.studies.runner import recipe

FEW = {"dataset": "market1501", "epochs": 12, "steps_per_epoch": 2, "p": 2, "k": 2, "height": 32, "width": 16}
FEW["weights"] = "scratch"


def write(root: Path, *sources: str, name: str = "02_baseline") -> None:
    """A notebook of some cells, Markdown where they begin with a heading, after its parameters."""
    new, kind = nbformat.v4, notebook.parameters_of(name[:2])
    first = new.new_code_cell(parameters.cell(kind), metadata={"tags": ["parameters"]})
    cells = [new.new_markdown_cell("# Small"), first]
    cells += [(new.new_markdown_cell if text.startswith("#") else new.new_code_cell)(text) for text in sources]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / f"{name}.ipynb")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone with one notebook; the working directory lies elsewhere."""
    root = tmp_path / "project"
    for name in ("data", "elsewhere"):
        (root / name).mkdir(parents=True)
    write(root, "1")
    monkeypatch.setattr(runs, "ROOT", root)
    monkeypatch.setenv("REIDKIT_HOME", str(root))
    monkeypatch.chdir(root / "elsewhere")
    return root


def printed(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["08"], "notebook must be one of 02, not '08'; the nearest is 02."),
        (["02", "--preset", "tinny"],
         "preset must be one of quick, market1501, market_cpu, tiny, world, not 'tinny'; the nearest is tiny."),
        (["02", "-p", "sed", "1"], "sed is not a parameter of baseline; the nearest is seed."),
        (["02", "-p", "seed", "1.5"], "seed must be of type int, not 1.5."),
        (["02", "-p", "lr", "fast"], "lr must be of type float, not 'fast'."),
        (["02", "-p", "lr", "nan"], "lr must be a finite number, not nan."),
        (["02", "-p", "epochs", "-1"], "epochs must be at least 0, not -1."),
        (["02", "-p", "backbone", "resnet5"],
         "backbone must be one of resnet50, resnet34, resnet50_ibn_a, se_resnet50, se_resnext50, densenet121, "
         "small_resnet, not 'resnet5'; the nearest is resnet50."),
        (["02", "-p", "last_relu", "1"], "last_relu must be of type bool, not '1'."),
        (["02", "-p", "preset", "tiny"], "preset is chosen by --preset, which sets all its parameters."),
        (["02", "-p", "precision", "fp8"],
         "precision must be one of auto, bf16, fp16, fp32, not 'fp8'; the nearest is fp32."),
        (["02", "-p", "knobs", "light"], "knobs are written as light=2,occluders=0, not 'light'."),
        (["02", "-p", "knobs", "ligth=2"],
         "knob must be one of camera_colour, light, view, occluders, companions, box, resolution, blur, look_alikes, "
         "not 'ligth'; the nearest is light."),
        (["02", "-p", "p", "1", "-p", "k", "1"],
         "p and k make batches of one image, which have no statistics; set one of them to 2, or neck to \"none\"."),
        (["02", "-p", "data_root", "a"], "data_root is {here}/a, which is no folder; make it, or leave data_root out."),
        (["02", "-p", "weights", "a"], "{here}/a does not exist; give a .safetensors, .pth or .pt file of weights."),
        (
            ["02", "--preset", "market1501"],
            "{root}/data/Market-1501-v15.09.15 does not exist; data/README.md says where each archive comes from and "
            "where it goes.",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_wrong_is_said_in_one_sentence_before_anything_starts(arguments, sentence, dry, project, monkeypatch):
    monkeypatch.setattr(notebook, "execute", None)
    done = CliRunner().invoke(cli.main, ["run", *arguments] + ["--dry-run"] * dry)
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr == f"Error: {sentence.format(root=project, here=Path.cwd())}\n"
    assert not (project / "runs").exists()


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("number", "changes", "sentence"),
    [
        ("02", {"weights": "text.safetensors"}, "text.safetensors"),
        ("02", {"weights": "text.pth"}, "text.pth"),
        ("02", {"weights": "linear.pth"}, "linear.pth .*missing"),
        ("02", {"weights": "reference", "backbone": "resnet34"}, "reference.safetensors .*missing"),
        ("06", {"weights": "text.pth"}, "text.pth"),
        ("01", {"weights": "text.pth"}, "text.pth"),
        ("01", {"weights": "linear.pth"}, "linear.pth .*missing"),
        ("06", {"weights": ""}, 'weights is empty, and stage_one is "means"'),
        ("06", {"source_dataset": "msmt17"}, "MSMT17_V1 does not exist"),
        ("06", {"margin": 0}, "margin must be above 0 and at most 4, not 0"),
        ("05", {"seed": 5_000_000}, "seed must be at least 0 and at most"),
        ("04", {"crop_height": 80}, "a window of 80x32 does not fit 72x36 pixels"),
        ("03", {"ranking": "ranked_list", "margin": 1.5}, "margin must be from 0 to alpha, .* not 1.5 and 1.2"),
        ("03", {"ranking": "none", "classify": "false"}, "nothing to learn from"),
        ("02", {"data_root": "file"}, "data_root is .*/file, which is no folder"),
        ("02", {"data_root": "."}, "the city market-quick-0 is not rendered yet; it goes to .*/cities is a file"),
    ],
)
def test_what_a_run_would_fail_for_is_said_before_a_kernel_starts(number, changes, sentence, dry, project, monkeypatch):
    name = f"{number}_{runs.NOTEBOOKS[number]}"
    write(project, "1", name=name)
    for text in ("text.pth", "text.safetensors", "file", "cities"):
        Path(text).write_text("no weights")
    torch.save(nn.Linear(2, 2).state_dict(), "linear.pth")
    monkeypatch.setattr(notebook, "execute", None)
    arguments = [word for item in changes.items() for word in ("-p", *map(str, item))] + ["--dry-run"] * dry
    done = CliRunner().invoke(cli.main, ["run", number, *arguments])
    assert done.exit_code == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert re.search(sentence, done.stderr) and not (project / "runs").exists()


def test_weights_that_fit_are_let_in_without_a_word(project, monkeypatch):
    monkeypatch.setattr(notebook, "execute", None)
    write(project, "1", name="01_retrieval")
    for number in ("01", "02"):
        done = CliRunner().invoke(cli.main, ["run", number, "-p", "weights", "reference", "--dry-run"])
        assert done.exit_code == 0 and done.output.count("\n") == 1, done.output


@pytest.mark.parametrize("place", ["runs", "out", "data"])
def test_a_folder_that_may_not_be_written_to_is_said_before_a_kernel_starts(place, project, monkeypatch):
    """Where the notebook goes, by default or as named, and where a city will be rendered."""
    (project / "elsewhere" / "out").mkdir()
    closed = {"runs": project, "out": project / "elsewhere" / "out", "data": project / "data"}[place]
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    monkeypatch.setattr(notebook, "execute", None)
    out = ["--out", "out"] * (place == "out")
    done = CliRunner().invoke(cli.main, ["run", "02", *out, "--dry-run"])
    assert done.exit_code == 1
    assert re.fullmatch(
        f"Error: the .* goes to .*, and {closed} may not be written to; choose another folder.\n", done.stderr
    )
    if place == "data":  # what is rendered already is only read
        files.write_json(project / "data" / "cities" / "market-quick-0" / "manifest.json", {})
        assert CliRunner().invoke(cli.main, ["run", "02", "--dry-run"]).exit_code == 0


def test_one_archive_will_do_where_no_row_asks_for_another(project, monkeypatch):
    """03 wants the other archive for the rows of Table VI alone."""
    monkeypatch.setattr(notebook, "execute", None)
    write(project, "1", name="03_ranking")
    miniatures.market1501(project / "archives" / "market1501")
    call = ["run", "03", "--preset", "market1501", "-p", "data_root", str(project / "archives"), "--dry-run"]
    done = CliRunner().invoke(cli.main, call)
    assert done.exit_code == 1 and "torchvision publishes none for resnet50_ibn_a" in done.stderr
    done = CliRunner().invoke(cli.main, [*call, "-p", "weights", ""])
    assert done.exit_code == 1 and "weights is empty, and market1501 is an archive" in done.stderr
    call += ["-p", "weights", "scratch"]
    done = CliRunner().invoke(cli.main, call)
    assert done.exit_code == 0, done.output
    for way in ("there", "back"):
        done = CliRunner().invoke(cli.main, [*call, "-p", "domains", way])
        assert done.exit_code == 1 and "DukeMTMC-reID does not exist" in done.stderr


def test_parameters_suit_each_other_in_the_preset_that_they_change(project, monkeypatch):
    """The defaults of 06 want weights and those of 04 are smaller than this window; their archives' presets do not."""
    monkeypatch.setattr(notebook, "execute", None)
    for name in ("04_sparse_smoothing", "06_soft_multilabel"):
        write(project, "1", name=name)
    miniatures.market1501(project / "archives" / "market1501")
    where = ["-p", "data_root", str(project / "archives"), "-p", "weights", "scratch", "--dry-run"]
    for call in (["06", "--preset", "market1501_alone"], ["04", "--preset", "market1501", "-p", "crop_height", "200"]):
        done = CliRunner().invoke(cli.main, ["run", *call, *where])
        assert done.exit_code == 0, done.output


def test_a_notebook_is_needed(project):
    shutil.rmtree(project / "notebooks")
    with pytest.raises(ValueError, match=r"there are no notebooks in .*from a checkout"):
        notebook.plan("02")


def test_parameters_are_read_by_their_type(project):
    (project / "elsewhere" / "archives").mkdir()
    changes = {"seed": "3", "lr": "3e-4", "last_relu": "false", "knobs": "light=7", "data_root": "archives"}
    plan = notebook.plan("02_baseline", changes=list(changes.items()))
    wanted = {
        "seed": 3,
        "lr": 3e-4,
        "last_relu": False,
        "knobs": "light=7",
        "data_root": f"{project}/elsewhere/archives",
    }
    assert plan.changes == wanted and plan.params == recipe("02").Parameters(**wanted)
    assert notebook.plan("02", changes=[("lr", "1")]).params.lr == 1.0
    tiny = notebook.plan("02", "tiny", changes=[("lr", "1")])
    assert tiny.changes == parameters.preset("02", "tiny") | {"lr": 1.0}


def test_a_file_is_named_by_what_is_given(project):
    assert notebook.plan("02").out == project / "runs" / "notebooks" / "02.quick.ipynb"
    names = {notebook.plan("02", changes=[("seed", seed)]).out.name for seed in ("1", "2", "3", "2")}
    assert len(names) == 3 and all(name.startswith("02.quick.") and name.endswith(".ipynb") for name in names)
    assert notebook.plan("02", out="a").out == project / "elsewhere" / "a" / "02.quick.ipynb"


def test_a_dry_run_only_talks(project, monkeypatch):
    monkeypatch.setattr(notebook, "execute", None)
    done = CliRunner().invoke(cli.main, ["run", "02", "-p", "seed", "1", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"02_baseline, preset quick, seed 1 -> {project}/runs/notebooks/02.quick.")
    assert not (project / "runs").exists()


def test_a_notebook_is_executed_with_its_parameters_in_its_folder(project, monkeypatch, capsys):
    monkeypatch.setenv("REIDKIT_LIVE", "1")
    where = "import os\nprint(os.getcwd(), os.environ.get('REIDKIT_LIVE'), os.environ['REIDKIT_KEEP'])\n"
    write(project, "## First", where + "print(seed, lr)")
    plan = notebook.plan("02", changes=[("seed", "5")])
    assert notebook.run(plan) > 0
    assert printed(plan.out) == [f"{project}/notebooks None {plan.out.with_suffix('.kept')}\n5 0.002\n"]
    assert [path.name for path in plan.out.parent.glob("[!.]*")] == [plan.out.name]
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"s: {plan.out}")
    assert os.environ["REIDKIT_LIVE"] == "1" and driver.KEEP not in os.environ


def test_a_cell_that_fails_is_one_sentence_and_what_there_is_stays(project):
    write(project, "## The end", "print('before')", "raise KeyError('no\\nmore')", "print('after')")
    plan = notebook.plan("02")
    files.write_text(plan.out, "of an earlier run")
    done = CliRunner().invoke(cli.main, ["run", "02"])
    part = plan.out.with_suffix(".unfinished.ipynb")
    assert done.exit_code == 1
    said = f"02_baseline stopped in cell [3]: KeyError: 'no\\nmore' (what there is of it: {part})"
    assert done.stderr == f"Error: {said}\n"
    assert printed(part) == ["before\n"] and plan.out.read_text() == "of an earlier run"


def test_two_equal_runs_do_not_meet(project, monkeypatch):
    monkeypatch.setattr(notebook, "execute", None)
    plan = notebook.plan("02")
    with files.lock(plan.out.with_name(".02.quick.lock")), pytest.raises(ValueError, match="is doing the same"):
        notebook.run(plan)


def test_a_killed_notebook_goes_on_and_repeats_no_training_that_was_done(project):
    few = ", ".join(f"{name}={value!r}" for name, value in FEW.items())
    train = f"result = baseline.run('{{}}', preset='quick', seed=seed, data_root=data_root, progress=False, {few})\n"
    train += "rows = result.objects['history'].rows\n"
    train += "print(result.metrics['mAP'], [row['softmax'] for row in rows], [row['seconds'] for row in rows])"
    write(project, "from reidkit.recipes import baseline", train.format("softmax"), train.format("neck"))
    plan = notebook.plan("02", changes=[("data_root", miniatures.four_people(project / "archives"))])
    call = [sys.executable, "-m", "reidkit.cli", "run", "02", "-p", "data_root", plan.params.data_root]
    command = "import sys; from reidkit.cli import main; main(sys.argv[1:])"
    kept = plan.out.with_suffix(".kept")
    process = subprocess.Popen([call[0], "-c", command, *call[3:]], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not list(kept.glob("baseline.quick.neck.*/epoch-*")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the command, and its kernel, which inherited the variable
            if int(folder.name) == process.pid or str(kept).encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    process.wait()
    assert not plan.out.exists() and plan.out.with_suffix(".unfinished.ipynb").exists()
    (done,) = kept.glob("baseline.quick.softmax.*/epoch-*/epoch.json")
    seconds = [row["seconds"] for row in files.read_json(done)["rows"]]
    notebook.run(plan)
    assert not kept.exists() and [path.name for path in plan.out.parent.glob("*.ipynb")] == [plan.out.name]
    for variant, line in zip(("softmax", "neck"), printed(plan.out), strict=True):
        alone = recipe("02").run(variant, preset="quick", data_root=plan.params.data_root, progress=False, **FEW)
        losses = [row["softmax"] for row in alone.objects["history"].rows]
        assert line.startswith(f"{alone.metrics['mAP']} {losses} ")
    assert printed(plan.out)[0].endswith(f"{seconds}\n"), "the first training was done again"


def test_every_notebook_has_parameters():
    kinds = [notebook.parameters_of(number) for number in runs.NOTEBOOKS]
    assert len(set(kinds)) == len(kinds) and set(lectures.NUMBERED) == {"00", "01", "07"}
