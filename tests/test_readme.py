"""The README says what is so: its numbers come from files, its links lead somewhere, its commands exist."""

import json
import re
import subprocess
import sys

import pytest

import readme
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


def test_the_verdicts_are_read_off_the_recorded_files(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "No full run" in readme.result_table()
    runs_made = [("tiny", "softmax", 0, 0.5), ("tiny", "neck", 0, 0.7), ("quick", "softmax", 0, 0.1)]
    for preset, variant, seed, ap in runs_made:  # quick is not shown
        per_query = {"pid": [1, 2], "ap": [ap, ap]}
        metrics = {"rank1": 0.5, "mAP": ap}
        result = runs.Result("02", preset, variant, seed, {}, metrics, seconds=1.0, peak_memory=1, per_query=per_query)
        runs.save_result(result, tmp_path)
    title, _, _, _, row = readme.result_table().splitlines()
    assert title == "Notebook 02, preset `tiny`:"
    assert "a BN neck helps" in row and "+20.0" in row and "one seed: no verdict" in row


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
