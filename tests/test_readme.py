"""The README says what is so: its numbers come from files, its links lead somewhere, its commands exist."""

import io
import itertools
import json
import re
import subprocess
import sys

import numpy
import pytest
from PIL import Image

import forecast
import readme
import thumbnails
from front import ROOT, notebook_paths
from reidkit import runs

TEXT = (ROOT / "README.md").read_text()


def test_generated_blocks_are_up_to_date():
    stale = [path.name for path, text in readme.rendered().items() if path.read_text() != text]
    assert not stale, f"run make readme: {', '.join(stale)}"


def test_every_block_is_there():
    assert set(re.findall(r"<!-- begin:(\w+) -->", TEXT)) == set(readme.readme_blocks())


def test_links_and_pictures_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", TEXT) + re.findall(r'src="([^"]+)"', TEXT):
        assert (ROOT / target).exists(), target
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    assert {target for target in re.findall(r"\]\(#([^)]+)\)", TEXT)} <= headings


def test_every_picture_has_words():
    assert all(len(words.split()) >= 5 for words in re.findall(r"!\[(.*?)\]\(", TEXT))


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {word for line in re.findall(r"\bmake ([^`\n#]+)", "\n".join(fences("bash"))) for word in line.split()}
    assert asked and {word for word in asked if "=" not in word} <= targets


def test_every_notebook_is_listed():
    assert all(f"(notebooks/{path.name})" in TEXT for path in notebook_paths())


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)


@pytest.mark.parametrize("code", fences("python"), ids=range(len(fences("python"))))
def test_python_examples_run(code, tmp_path):
    """In an empty folder with a drawn archive as `your-images`, warnings are errors."""
    from reidkit.recipes.sources import open_split

    (tmp_path / "your-images").symlink_to(open_split("market", preset="quick", progress=False).root)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_block_is_replaced_and_an_unknown_one_is_an_error():
    text = "a <!-- begin:x -->old<!-- end:x --> b\n<!-- begin:y -->\n<!-- end:y -->\n"
    filled = "a <!-- begin:x -->1<!-- end:x --> b\n<!-- begin:y -->\n2\n<!-- end:y -->\n"
    assert readme.fill(text, {"x": "1", "y": "2"}) == filled
    assert readme.fill(filled, {"x": "1", "y": "2"}) == filled
    with pytest.raises(ValueError, match="no block 'y'"):
        readme.fill(text, {"x": "1"})


def record(folder, notebook, preset, variant, seed, ap, code=""):
    """A result that today's code made, or other code."""
    details = {"per_query": {"pid": [1, 2], "ap": [ap, ap]}, "provenance": {"code": code or runs.digest(notebook)}}
    metrics = {"rank1": 0.5, "mAP": ap}
    result = runs.Result(notebook, preset, variant, seed, {}, metrics, seconds=1.0, peak_memory=1, **details)
    runs.save_result(result, folder)


def test_the_verdicts_are_read_off_the_recorded_files(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "No full run" in readme.result_table() and "No full run" in readme.question_table()
    for seed in range(3):
        for variant, ap in (("softmax", 0.5), ("default", 0.55 + seed / 1000), ("triplet", 0.6)):
            record(tmp_path, "03", "tiny", variant, seed, ap)
            record(tmp_path, "03", "quick", variant, seed, 0.1)  # not shown
    for variant, ap in (("softmax", 0.1), ("neck", 0.2)):  # one seed is not shown either
        record(tmp_path, "02", "tiny", variant, 0, ap)
    titles = ["where", "claim", "printed", "Market-1501", "drawn people"]
    head, _, *rows = readme.result_table().splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == titles
    (helps,) = [row for row in rows if "Lin helps softmax" in row]
    assert "| 03, Table I against II" in helps and "| +2.8 " in helps and "| +5.1 (" in helps  # 88.9 - 86.1 in print
    assert helps.endswith("): reproduces |") and not any(row.startswith("| 02") for row in rows)
    assert "| –  " in helps  # nothing is recorded of real people
    head, _, *rows = readme.question_table().splitlines()
    assert (
        "printed" not in head and len(rows) == 1 and "the triplet helps softmax" in rows[0] and "| +10.0 (" in rows[0]
    )


def test_both_worlds_have_a_column(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    for seed in range(3):
        for variant, ap in (("softmax", 0.5), ("default", 0.45 + seed / 1000)):
            record(tmp_path, "03", "market_cpu", variant, seed, ap)
    (row,) = readme.result_table().splitlines()[2:]
    *_, real, drawn, _ = (cell.strip() for cell in row.split("|"))
    assert real.startswith("-4.9 (") and real.endswith("): opposite") and drawn == "–"


def test_stale_results_are_named_and_mixed_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    for notebook, code in (("02", ""), ("03", "0ld")):
        for seed, variant in itertools.product(range(3), ("softmax", "neck" if notebook == "02" else "default")):
            record(tmp_path, notebook, "tiny", variant, seed, 0.5 + seed / 1000, code)
    *table, space, line = readme.result_table().splitlines()
    assert all(row.startswith("|") for row in table) and space == ""
    assert line.startswith("All 6 results of notebook 03, preset tiny are stale")
    record(tmp_path, "03", "tiny", "softmax", 0, 0.5)
    with pytest.raises(ValueError, match=r"notebook 03, preset tiny, were made by different code .*--verify"):
        readme.result_table()


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_every_notebook_has_its_small_picture(path):
    made = io.BytesIO(thumbnails.thumbnail(thumbnails.figures_of(path)[thumbnails.CHOSEN[path.stem]]))
    kept = ROOT / "figures" / "thumbnails" / f"{path.stem}.png"
    wanted, found = (numpy.asarray(Image.open(file).convert("RGB"), dtype=float) for file in (made, kept))
    assert wanted.shape == found.shape and abs(wanted - found).mean() < 2, "run make readme"  # of 255, by version


def test_times_are_read_off_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    path = ROOT / "notebooks" / "00_map.ipynb"
    assert readme.cost(path) == "not measured yet"
    made = {"cpus": 2, "seconds": 150.0, "notebooks": {"00_map": {"seconds": 41.3, "claims": 7}}}
    (tmp_path / "course.json").write_text(json.dumps(made))
    assert readme.cost(path) == "41 s on 2 CPU cores"
    assert "take 2.5 min and check 7 claims." in readme.course() and "fresh" not in readme.course()
    fresh = {"cpus": 2, "seconds": {"installation": 44, "course": 131, "test": 612}}
    (tmp_path / "fresh.json").write_text(json.dumps(fresh))
    assert "`make course` 2.2 min and `make test` 10.2 min." in readme.course()


def test_the_forecast_is_of_every_archive_preset_that_there_is():
    made = json.loads((ROOT / "figures" / "results" / "forecast.json").read_text())["presets"]
    assert set(made) == {".".join(found) for found in forecast.presets()}, "run python tools/forecast.py"
    small = made["06.market1501"]["cards"]["T4 16 GB"]
    assert not small["fits"] and f"{small['batch that fits']} images of 368 would fit" in readme.forecast_table()
