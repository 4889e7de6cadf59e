"""The tools around the notebooks: a failing notebook is told and stops nothing, an executed one is clean."""

import json

import nbformat
import pytest

import course
import execute
import front
from reidkit import parameters
from reidkit.studies import lectures


def notebook(path, *codes: str) -> None:
    """A notebook with the front that every one has, and these cells."""
    cells = [
        nbformat.v4.new_markdown_cell("[next](01_next.ipynb)"),
        nbformat.v4.new_markdown_cell("# 00 · The map\n\nCost: none."),
        nbformat.v4.new_markdown_cell(
            "**In one sentence.** People are found\nagain.\n\n"
            "**After this notebook you can**\n\n- say what\n  a query is;\n- read a list.\n\n**You need** nothing."
        ),
        *(nbformat.v4.new_code_cell(code) for code in codes),
    ]
    cells[3].metadata["collapsed"] = True
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"signature": "mine"}), path)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The tools work on a temporary repository."""
    for module in (course, execute):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(course, "OUT", tmp_path / "build" / "course")
    course.OUT.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "notebooks" / "00_map.ipynb"


def test_the_front_is_read_off_a_notebook(tmp_path):
    notebook(tmp_path / "00_map.ipynb", "1")
    lines = front.front(tmp_path / "00_map.ipynb")
    assert (lines.number, lines.title) == ("00", "The map")
    assert lines.sentence == "People are found again."
    assert lines.learn == "say what a query is; read a list"


def test_a_missing_front_line_is_named(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_map.ipynb")
    with pytest.raises(ValueError, match=r"00_map\.ipynb lacks its front line '\*\*In one sentence"):
        front.front(tmp_path / "00_map.ipynb")


def test_the_course_counts_claims_and_tells_the_first_error(elsewhere):
    png = "from IPython.display import Image, display\nimport base64\n"
    png += "display(Image(base64.b64decode('iVBORw0KGgo='), format='png'))"
    notebook(elsewhere, "print('✓ one\\n✓ two\\nnot a ✓ claim')", png, "raise AssertionError('✗ three\\nmore')", "1")
    report = course.execute(elsewhere, "quick")
    assert report.claims == 2
    assert report.failure == "cell [3]: AssertionError: ✗ three"
    page = (course.OUT / "00_map.html").read_text()
    assert 'alt="Figure: 00 · The map"' in page and 'href="01_next.html"' in page
    summary = course.say([report], 61.0)
    assert summary == "1 notebooks in 1 min 1 s: 2 claims hold, 1 notebooks failed."
    index = course.index_page([report], summary)
    assert "cell [3]: AssertionError: ✗ three" in index and 'href="00_map.html"' in index


def test_a_notebook_that_cannot_start_is_a_failure_too(elsewhere, monkeypatch):
    notebook(elsewhere, "1")

    def fail(*_, **__):
        raise RuntimeError("the kernel died\nat once")

    monkeypatch.setattr("papermill.execute_notebook", fail)
    report = course.execute(elsewhere, "quick")
    assert report.failure == "RuntimeError: the kernel died" and report.claims == 0


def test_a_preset_is_handed_to_the_notebooks_that_have_it(elsewhere, monkeypatch):
    given = []
    monkeypatch.setattr("papermill.execute_notebook", lambda path, out, changes, **_: given.append(changes))
    for preset in ("tiny", "quick", "world"):
        path = elsewhere.with_name("01_retrieval.ipynb")
        notebook(path, "1")
        course.execute(path, preset)
    assert given == [parameters.preset("01", "tiny"), {}, {}] and given[0]["preset"] == "tiny"


def test_the_record_holds_what_the_readme_reads(elsewhere, monkeypatch):
    monkeypatch.setattr(course, "RECORD", elsewhere.parent / "course.json")
    notebook(elsewhere, "1")
    course.record([course.Report(front.front(elsewhere), 1.26, 3, "")], "quick", 2.0, 3.3)
    made = json.loads(course.RECORD.read_text())
    assert made["notebooks"] == {"00_map": {"seconds": 1.3, "claims": 3}} and made["seconds"] == 3.3


def test_an_executed_notebook_says_nothing_about_the_machine(elsewhere):
    notebook(elsewhere, "print(1)", "print(2)\nprint(3)")
    before = [cell.id for cell in nbformat.read(elsewhere, as_version=4).cells]
    assert execute.execute(elsewhere)
    first = elsewhere.read_bytes()
    after = nbformat.read(elsewhere, as_version=4)
    assert after.metadata == execute.METADATA
    assert [cell.id for cell in after.cells] == before and all(cell.metadata == {} for cell in after.cells)
    assert after.cells[-1].outputs == [{"name": "stdout", "output_type": "stream", "text": "2\n3\n"}]
    assert execute.execute(elsewhere) and elsewhere.read_bytes() == first


def test_the_parameters_cell_is_written_anew(elsewhere):
    notebook(elsewhere, "pid: int = 7", "print(pid)")
    made = nbformat.read(elsewhere, as_version=4)
    made.cells[3].metadata["tags"] = ["parameters"]
    nbformat.write(made, elsewhere)
    assert execute.execute(elsewhere)
    after = nbformat.read(elsewhere, as_version=4)
    assert after.cells[3].source == parameters.cell(lectures.Map) and after.cells[3].metadata.tags == ["parameters"]
    assert after.cells[-1].outputs[0].text == f"{lectures.Map().pid}\n"


@pytest.mark.parametrize("code", ["1 / 0", "import os\nprint(os.path.dirname(os.getcwd()))"])
def test_a_notebook_that_fails_or_names_the_checkout_is_left_as_it_was(elsewhere, code):
    notebook(elsewhere, code)
    before = elsewhere.read_bytes()
    assert not execute.execute(elsewhere)
    assert elsewhere.read_bytes() == before
