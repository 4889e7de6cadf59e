"""What a reader does: run the map and turn a knob, step through 03, and open the course that was executed."""

from pathlib import Path

import nbformat
import pytest

INDEX = Path(__file__).resolve().parents[2] / "build" / "course" / "index.html"
MINUTE = 60_000  # milliseconds
pytestmark = pytest.mark.browser


def open_notebook(lab, page, name):
    page.goto(f"{lab}lab/tree/{name}.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=3 * MINUTE)


def wait_and_check(page, path):
    """Wait until no cell runs; save; every code cell was executed in order, without an error or a warning."""
    page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for(state="detached", timeout=6 * MINUTE)
    said = page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert not any(text.strip() for text in said), said  # a bar that is done leaves blanks
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").first.wait_for(state="detached")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source]
    errors = [output.evalue for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not errors and [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_a_reader_steps_through_a_notebook(lab, page, tmp_path):
    """Shift+Enter, cell by cell, as the prose asks for."""
    path = tmp_path / "notebooks" / "03_ranking.ipynb"
    open_notebook(lab, page, "03_ranking")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    for _ in nbformat.read(path, as_version=4).cells:
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(100)  # milliseconds, as fast as a finger
    page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for()
    wait_and_check(page, path)
    assert page.locator(".widget-interact").count() > 0


def test_the_map_runs_and_a_slider_changes_its_picture(lab, page, tmp_path):
    open_notebook(lab, page, "00_map")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for()
    wait_and_check(page, tmp_path / "notebooks" / "00_map.ipynb")

    knobs = page.locator(".widget-interact").first
    picture, handle = knobs.locator("img"), knobs.locator("[role=slider]").first
    before, value = picture.get_attribute("src"), handle.get_attribute("aria-valuenow")
    handle.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('.widget-interact img')?.src != old", arg=before)
    assert handle.get_attribute("aria-valuenow") != value
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_the_index_of_the_course_leads_to_an_executed_notebook(page):
    if not INDEX.exists():
        pytest.skip("there is no build/course/index.html; `make course` writes it")
    page.goto(INDEX.as_uri(), wait_until="domcontentloaded")
    link = page.locator("table a").first
    title = link.inner_text().partition(" ")[2]
    link.click()
    page.get_by_role("heading", level=1, name=title).wait_for()
    assert page.url != INDEX.as_uri()
    pictures = "[...document.images].map(image => image.decode().then(() => image.naturalWidth))"
    widths = page.evaluate(f"Promise.all({pictures})")
    assert widths and min(widths) > 100
