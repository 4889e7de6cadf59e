"""What every committed notebook must be: executed, navigable, the same everywhere, and true to the library."""

import functools
import io
import json
import re
import shlex
import tokenize
from pathlib import Path

import nbformat
import pytest
import torch
from click.testing import CliRunner

import miniatures
from front import ROOT, front, library_files, notebook_paths
from reidkit import cli, parameters, runs
from reidkit.models import backbones
from reidkit.models.backbones import small_resnet
from reidkit.recipes import sources, supervised
from reidkit.studies import notebook, runner

COURSE = ("00_map", "01_retrieval", "02_baseline", "03_ranking", "04_sparse_smoothing", "05_one_shot",
          "06_soft_multilabel", "07_crossroads")  # fmt: skip
TAGS = {"parameters", "nbval-ignore-output"}
MEGABYTE = 1_000_000
PATHS = notebook_paths()
NOTEBOOK = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
METHOD_NOTEBOOK = pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: path.stem)  # 00 is the map


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    return [output for cell in code(path) for output in cell.outputs]


def test_the_course_is_whole_and_holds_nothing_else():
    assert [path.stem for path in PATHS] == list(COURSE)


@NOTEBOOK
def test_the_front_is_complete(path):
    lines = front(path)
    assert lines.title and lines.sentence.endswith(".") and lines.learn
    headings = re.findall(r"^# .+$", re.sub(r"^```.*?^```", "", "\n\n".join(prose(path)), flags=re.S | re.M), re.M)
    assert len(headings) == 1, f"one heading of the first order, not {headings}"


@NOTEBOOK
def test_navigation_stands_first_and_last(path):
    at = PATHS.index(path)
    wanted = {PATHS[0].name, *(PATHS[i].name for i in (at - 1, at + 1) if 0 <= i < len(PATHS))} - {path.name}
    first, *_, last = read(path).cells
    for cell in (first, last):
        assert cell.cell_type == "markdown"
        linked = set(re.findall(r"\]\(([\w.-]+\.ipynb)\)", cell.source))
        assert wanted <= linked, f"no link to {', '.join(sorted(wanted - linked))}"


@NOTEBOOK
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", "\n".join(prose(path))):
        assert (path.parent / target).exists(), target


@NOTEBOOK
def test_the_parameters_cell_is_that_of_the_dataclass_and_is_checked_in_the_next_code_cell(path):
    cells = code(path)
    (at,) = (i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    assert cells[at].source == parameters.cell(notebook.parameters_of(path.name[:2])), "run make notebooks"
    assert re.search(r"^params = parameters\.read\([\w.]+, globals\(\)\)$", cells[at + 1].source, re.M)


@NOTEBOOK
def test_every_cell_was_executed_in_order(path):
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))
    assert all(cell.source.strip() for cell in code(path)), "an empty cell"


@NOTEBOOK
def test_outputs_are_clean(path):
    for output in outputs(path):
        assert output.output_type != "error", output.get("evalue")
        assert output.get("name") != "stderr", f"a warning or a bar: {output.get('text')}"
        kinds = set(output.get("data", {}))
        assert kinds <= {"text/plain", "text/html", "text/markdown", "text/latex", "image/png"}, kinds
        assert " at 0x" not in json.dumps(output), "an address in memory differs each time"


@NOTEBOOK
def test_nothing_is_too_large_to_be_shown(path):
    assert path.stat().st_size <= MEGABYTE
    assert all(len(json.dumps(output)) <= MEGABYTE for output in outputs(path))


@NOTEBOOK
def test_metadata_say_nothing_about_the_machine(path):
    notebook = read(path)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }, "run make notebooks"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, f"{dict(cell.metadata)}: run make notebooks"
        assert set(cell.metadata.get("tags", [])) <= TAGS
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@NOTEBOOK
def test_no_path_of_a_machine(path):
    notebook = read(path)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        output.get("data", {}).pop("image/png", None)
    text = nbformat.writes(notebook)
    assert str(ROOT) not in text
    assert not re.search(r"(?<![\w.~])/(home|root|Users|tmp|work|usr|opt)/|\b[A-Z]:\\\\\\\\", text)


@NOTEBOOK
def test_code_is_plain_python(path):
    for cell in code(path):
        assert not re.search(r"^\s*[%!]", cell.source, re.M), "a magic"
        assert not re.search(r";\s*(#.*)?$", cell.source, re.M), "end a figure cell with plt.show(), not with ;"
        assert "NBVAL_" not in cell.source, "use the tag nbval-ignore-output"
        compile(cell.source, path.stem, "exec")


@NOTEBOOK
def test_equations_are_paired_with_lines_of_the_library(path):
    """`\\tag{lin-push}` in the notebook, `# [lin-push]` on the line of code that computes it."""
    labels = set()
    for file in library_files():
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            if token.type == tokenize.COMMENT:
                labels.update(re.findall(r"\[([a-z0-9]+(?:-[a-z0-9]+)*)\]", token.string))
    tags = re.findall(r"\\tag\{([^}]+)\}", "\n".join(prose(path)))
    assert set(tags) <= labels, f"no line of the library is marked {', '.join(sorted(set(tags) - labels))}"
    assert len(tags) == len(set(tags)), "a label twice in one notebook"


def solutions(path: Path) -> list[str]:
    return re.findall(r"<details>(.*?)</details>", "\n\n".join(prose(path)), re.S)


@METHOD_NOTEBOOK
def test_three_exercises_have_their_solutions_folded(path):
    assert len(solutions(path)) >= 3


@pytest.mark.parametrize(
    "solution",
    [
        pytest.param(block, id=f"{path.stem}-{number}")
        for path in PATHS
        for number, text in enumerate(solutions(path), 1)
        for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    ],
)
def test_a_solution_runs_by_itself(solution):
    """A folded `python` block imports what it needs and asserts what it shows."""
    assert "assert" in solution
    exec(compile(solution, "solution", "exec"), {"__name__": "solution"})


# ---------------------------------------------------------------------------------------------------- printed commands

RUNS = r"((?:\.venv/bin/)?reidkit (?:run|study) [^`\n#]+)"
PRINTED = [
    pytest.param(command.strip(), id=f"{name}: {command.strip()}")
    for name, text in [
        *((path.stem, "\n\n".join(prose(path))) for path in PATHS),
        *((name, (ROOT / name).read_text()) for name in ("README.md", "data/README.md")),
    ]
    for command in dict.fromkeys(re.findall(rf"`{RUNS}`", text) + re.findall(rf"^{RUNS}", text, re.M))
]


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Fabricated archives, Market-1501 and MSMT17, in place of the folder that commands name; every network is thin."""
    root = tmp_path / "archives"
    miniatures.market1501(root / "Market-1501-v15.09.15")
    miniatures.msmt17(root / "MSMT17_V1")
    thin = functools.partial(small_resnet, width=4)
    torch.save(thin().state_dict(), tmp_path / "weights.pth")
    for name in backbones.IMAGENET:
        monkeypatch.setitem(supervised.BACKBONES, name, thin)
    monkeypatch.setattr(sources, "imagenet_weights", lambda backbone: tmp_path / "weights.pth")
    monkeypatch.setattr(runner, "check_writable", lambda *_: None)  # where notebooks and cities go is no matter here
    monkeypatch.setattr(sources, "check_writable", lambda *_: None)
    monkeypatch.setattr(runs, "digest", lambda number: "pinned")
    return tmp_path


@pytest.mark.parametrize("command", PRINTED)
def test_a_printed_command_is_complete(command, archives):
    """As it is written, it would start: presets, parameters, archives, and weights. Only folders and files are ours."""
    words = shlex.split(command)[1:]
    for what, ours in (("data_root", "archives"), ("weights", "weights.pth")):
        for at in (at for at, word in enumerate(words) if word == what and words[at - 1] == "-p"):
            assert not re.search(r"[a-z]", words[at + 1]) or words[at + 1].startswith(("/", "resnet50_ibn_a"))
            words[at + 1] = str(archives / ours)
    words = [word.replace("NN", "03") for word in words]
    done = CliRunner().invoke(cli.main, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "not run" not in done.output


def test_commands_are_printed_for_every_archive_of_the_course():
    text = "\n".join(command.values[0] for command in PRINTED)
    assert all(
        f"reidkit run {number} --preset market1501 -p data_root" in text for number in ("02", "03", "04", "05", "06")
    )
    assert "papermill" not in "\n".join(line for path in PATHS for line in prose(path) if "market1501" in line)


def test_notebook_03_runs_with_market1501_alone(tmp_path, capsys, monkeypatch):
    """Its cells about the other archive, on a fabricated Market-1501: they say what is missing instead of stopping."""
    miniatures.people_in_colours(tmp_path / "archives" / "market1501")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    given = {"dataset": "market1501", "other_dataset": "dukemtmc", "data_root": str(tmp_path / "archives")}
    given |= {"weights": "scratch", "p": 3, "k": 2, "epochs": 1, "steps_per_epoch": 1, "height": 32, "width": 16}
    sources_of = [cell.source for cell in code(ROOT / "notebooks" / "03_ranking.ipynb")]
    (cities,) = (at for at, text in enumerate(sources_of) if text.startswith("names = [dataset]"))
    (domains,) = (at for at, text in enumerate(sources_of) if '"softmax_there"' in text)
    (beside,) = (at for at, text in enumerate(sources_of) if text.startswith("def stamp"))
    space = {"__name__": "__main__"}
    exec(sources_of[0], space)
    space |= given
    exec(sources_of[1].replace("parameters.read(recipe.Parameters, globals())", "recipe.Parameters.of(given)"),
         space | {"given": given}, space)  # fmt: skip
    exec("data = sources.load_data(params)", space)
    exec(sources_of[cities], space)
    assert space["cities"].keys() == {"market1501"}
    space["results"] = {name: space["recipe"].run(name, **given, progress=False) for name in ("softmax", "default")}
    for at in (beside, domains):
        exec(sources_of[at], space)
    said = capsys.readouterr().out
    assert said.count("not run: needs dukemtmc") == 2 and "Table VI" in said
