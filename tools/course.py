"""Run the whole course: draw the synthetic people, execute every notebook, say what held.

    python tools/course.py [--preset quick] [--only 02] [--record]

Executed copies, their HTML and an index page lie in build/course. The exit code is 1 if a notebook failed.
"""

import argparse
import html
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbconvert import HTMLExporter

from front import ROOT, Front, front, notebook_paths
from reidkit import files, parameters
from reidkit.recipes.sources import open_split
from reidkit.studies import notebook as headless

OUT = ROOT / "build" / "course"
CITY_PRESETS = ("quick", "tiny", "world")
RECORD = ROOT / "figures" / "results" / "course.json"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>reidkit: the course, executed</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem; color: #222; }}
  table {{ border-collapse: collapse; }}
  th, td {{ text-align: left; vertical-align: top; padding: .5rem .8rem; border-bottom: 1px solid #ddd; }}
  td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
  .failed {{ color: #b34700; }}
</style>
<h1>reidkit: the course, executed</h1>
<p>{summary}</p>
<table>
<tr><th>Notebook<th>In one sentence<th>Seconds<th>Claims that hold</tr>
{rows}
</table>
</html>
"""


class Report(NamedTuple):
    """One executed notebook: how long it took, how many claims held, and why it stopped (empty if it did not)."""

    front: Front
    seconds: float
    claims: int
    failure: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks and write build/course.")
    parser.add_argument("--preset", default="quick", help="size of the runs: quick (as committed), tiny, ...")
    parser.add_argument("--only", default="", metavar="NN", help="only notebooks whose name begins with NN")
    parser.add_argument("--record", action="store_true", help=f"write the times to {RECORD.relative_to(ROOT)}")
    options = parser.parse_args()
    paths = notebook_paths(options.only)
    if not paths:
        parser.error(f"no notebook begins with {options.only!r}")
    os.chdir(ROOT)
    os.environ.pop("REIDKIT_LIVE", None)  # nobody turns knobs here
    OUT.mkdir(parents=True, exist_ok=True)

    start, drawn = time.perf_counter(), 0.0
    if options.preset in CITY_PRESETS:
        print("drawing the people", flush=True)
        for city in ("market", "duke", "auxiliary"):
            open_split(city, preset=options.preset)
        drawn = time.perf_counter() - start
        print(f"  {drawn:.0f} s", flush=True)
    reports = [execute(path, options.preset) for path in paths]
    total = time.perf_counter() - start

    summary = say(reports, total)
    files.write_text(OUT / "index.html", index_page(reports, summary))
    print(f"read it: {(OUT / 'index.html').relative_to(ROOT)}")
    failed = any(report.failure for report in reports)
    if options.record and not failed and not options.only:
        record(reports, options.preset, drawn, total)
    return int(failed)


def execute(path: Path, preset: str) -> Report:
    """Execute one notebook in a process of its own; a failure is reported, not raised."""
    front_lines, copy = front(path), (OUT / path.name).relative_to(ROOT)
    print(f"{path.stem}: {front_lines.title}", flush=True)
    known = (parameters.PRESETS / f"{front_lines.number}.{preset}.yml").exists()
    changes = parameters.preset(front_lines.number, preset) if known else {}  # as committed, which is the quick preset
    copy.unlink(missing_ok=True)
    seconds, failure = headless.execute(path, copy, changes)
    claims = publish(copy) if copy.exists() else 0
    failed = f", then FAILED in {failure}" * bool(failure)
    print(f"  {seconds:.0f} s, {claims} claims hold{failed}", flush=True)
    return Report(front_lines, seconds, claims, failure)


def publish(copy: Path) -> int:
    """Write the HTML of an executed copy, and count the claims that hold in it."""
    notebook = nbformat.read(copy, as_version=4)
    heading, claims, figures = "", 0, []
    for cell in notebook.cells:
        headings = re.findall(r"^#+ (.+)$", cell.source, re.M) if cell.cell_type == "markdown" else []
        heading = headings[-1] if headings else heading
        for output in cell.get("outputs", []):
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            claims += sum(line.startswith("✓ ") for line in text.splitlines())
            figures += [f"Figure: {heading}"] * ("image/png" in output.get("data", {}))
    page, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": copy.stem}})
    said = iter(figures)  # what a screen reader says, in place of the exporter's apology
    page = re.sub(r'alt="No description[^"]*"', lambda _: f'alt="{html.escape(next(said))}"', page)
    page = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)  # to the other executed copies
    page = page.replace('href="../', 'href="../../')  # to the repository: build/course lies one folder deeper
    files.write_text(copy.with_suffix(".html"), page)
    return claims


def say(reports: list[Report], total: float) -> str:
    """Print the table, and return the sentence that sums it up."""
    width = max(len(report.front.path.stem) for report in reports)
    print(f"\n{'notebook':{width}}  seconds  claims  failed")
    for report in reports:
        print(f"{report.front.path.stem:{width}}  {report.seconds:7.1f}  {report.claims:6}  {report.failure or '-'}")
    failed = sum(bool(report.failure) for report in reports)
    claims = sum(report.claims for report in reports)
    minutes, seconds = divmod(round(total), 60)
    summary = f"{len(reports)} notebooks in {minutes} min {seconds} s: {claims} claims hold, {failed} notebooks failed."
    print(f"\n{summary}")
    return summary


def index_page(reports: list[Report], summary: str) -> str:
    """The page that links the executed notebooks."""
    rows = []
    for report in reports:
        path, title, sentence, _ = report.front
        failure = f'<br><span class="failed">stopped in {html.escape(report.failure)}</span>' * bool(report.failure)
        rows.append(
            f'<tr><td><a href="{path.stem}.html">{path.stem[:2]} {html.escape(title)}</a>'
            f"<td>{html.escape(sentence)}{failure}"
            f'<td class="number">{report.seconds:.0f}<td class="number">{report.claims}</tr>'
        )
    return PAGE.format(summary=html.escape(summary), rows="\n".join(rows))


def record(reports: list[Report], preset: str, drawn: float, total: float) -> None:
    """Keep the times for the README and the notebooks' cost lines."""
    notebooks = {r.front.path.stem: {"seconds": round(r.seconds, 1), "claims": r.claims} for r in reports}
    made = {"preset": preset, "cpus": os.cpu_count(), "drawing_seconds": round(drawn, 1), "seconds": round(total, 1)}
    files.write_json(RECORD, made | {"notebooks": notebooks})


if __name__ == "__main__":
    sys.exit(main())
