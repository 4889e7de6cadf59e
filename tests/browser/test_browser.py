"""What a reader does first: run the map and turn a knob, and open the course that was executed."""

from pathlib import Path

import nbformat
import pytest

INDEX = Path(__file__).resolve().parents[2] / "build" / "course" / "index.html"
MINUTE = 60_000  # milliseconds
pytestmark = pytest.mark.browser


def test_the_map_runs_and_a_slider_changes_its_picture(lab, page, tmp_path):
    page.goto(f"{lab}lab/tree/00_map.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=3 * MINUTE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    waiting = page.locator(".jp-InputPrompt", has_text="[*]").first
    waiting.wait_for()
    waiting.wait_for(state="detached", timeout=6 * MINUTE)
    assert page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").first.wait_for(state="detached")

    notebook = nbformat.read(tmp_path / "notebooks" / "00_map.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    errors = [output.evalue for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not errors and [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))

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
