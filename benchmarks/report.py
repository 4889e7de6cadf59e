"""Make the tables of benchmarks/README.md and benchmarks/growth.png from the JSON files in benchmarks/results.

    python benchmarks/report.py [--check]

Nothing is measured here. With --check nothing is written either, and the exit code says whether the README is up to
date.
"""

import argparse
import re
import sys
from itertools import groupby
from pathlib import Path

import harness
import matplotlib.pyplot as plt
from harness import fastest_floor, library
from matplotlib.figure import Figure

from reidkit import files
from reidkit.plots.style import BLUE, GREY, ORANGE, canvas, styled

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- begin:results -->\n).*(<!-- end:results -->)", re.S)
HEAD = ["| work | reidkit | floor | others, and how many times the library's time | bars |", "|---|---|---|---|---|"]
SCRIPTS = ["evaluation", "reranking", "label_estimation", "losses", "images", "clusters", "world"]


def records(folder: Path = harness.RESULTS) -> list[dict]:
    """All records, in the order of the scripts and of their rows; each with the name of its file."""
    found = [files.read_json(path) | {"file": path.stem} for path in sorted(folder.glob("*.json"))]

    def place(record: dict) -> tuple:
        script = record["file"].partition(".")[0]
        return SCRIPTS.index(script) if script in SCRIPTS else len(SCRIPTS), script, record["place"], record["file"]

    return sorted(found, key=place)


def report(found: list[dict]) -> str:
    """Everything between the markers of the README."""
    if not found:
        return "Nothing is measured yet: `make bench`.\n"
    bars = [bar for record in found for bar in record["bars"]]
    met, missed = (sum(bar["met"] is truth for bar in bars) for truth in (True, False))
    lines = [f"{met} bars are met, {missed} are missed.", ""]
    lines += [made_with(found)]
    for _, family in groupby(found, key=lambda record: record["file"].partition(".")[0]):
        family = list(family)
        lines += [
            "",
            f"### {family[0]['family']}",
            "",
            "| work | reidkit | floor | others | bars |",
            "|---|---|---|---|---|",
        ]
        lines += [line(record) for record in family if "points" not in record]
        lines += [curve_line(record) for record in family if "points" in record]
    return "\n".join(lines) + "\n"


def made_with(found: list[dict]) -> str:
    """Machine and versions in a line; each file says its commit."""
    devices = sorted({record["provenance"]["device"] for record in found})
    versions = {name: number for r in found for name, number in (r["provenance"]["versions"] | r["peers"]).items()}
    return f"{', '.join(devices)} · " + ", ".join(f"{name} {number}" for name, number in versions.items())


def line(record: dict) -> str:
    """A row of the table."""
    table = record["candidates"]
    ours = library(table)
    floors, others = ([one for one in table[1:] if one["name"].startswith("floor") is truth] for truth in (True, False))
    said = [f"{one['name']} {harness.amount(one)}, {one['best'] / ours['best']:.3g}x" + note(one) for one in others]
    said += [f"{name}: not installed" for name in record["missing"]]
    said += [f"*{name}, reported: {text}*" for name, text in record["reported"].items()]
    cells = [title(record), harness.amount(ours)]
    cells.append("<br>".join(f"{one['name'].removeprefix('floor: ')} {harness.amount(one)}" for one in floors))
    return "| " + " | ".join([*cells, "<br>".join(said), "<br>".join(judged(record))]) + " |"


def curve_line(record: dict) -> str:
    """A curve as a row: how both grow."""
    points = record["points"]
    span = f"{points[0]['size']:,} to {points[-1]['size']:,} {record['axis']}"
    ends = [[pick(points[at]["candidates"]) for at in (0, -1)] for pick in (library, fastest_floor)]
    ours, floor = (" → ".join(harness.amount(one) for one in pair) for pair in ends)
    slopes = "grows as n^{:.2f}, the floor as n^{:.2f}".format(*record["slopes"])
    return f"| {title(record)}; {span} | {ours} | {floor} | {slopes} | {'<br>'.join(judged(record))} |"


def title(record: dict) -> str:
    """The work; and the device, if it is not the processor."""
    device = record["provenance"]["device"].partition(",")[0]
    return record["title"] + (f" ({device})" if record["file"].endswith(".cuda") else "")


def note(one: dict) -> str:
    """What the check said of a candidate."""
    return f"; {one['result']}" if "result" in one else ""


def judged(record: dict) -> list[str]:
    """The bars of a record, those missed in bold."""
    said = [harness.verdict(bar) for bar in record["bars"]]
    return [text if bar["met"] else f"**{text}**" for text, bar in zip(said, record["bars"], strict=True)]


@styled
def growth(found: list[dict]) -> Figure:
    """Time and memory against size, the floor beside it."""
    curves = [record for record in found if "points" in record]
    note = "Time of one thread, best call, on logarithmic axes; memory beyond the input, on a linear one."
    fig, axes = canvas(len(curves), 2, height=1.75 * len(curves), title="Time and memory as the data grow", note=note)
    for (left, right), record in zip(axes, curves, strict=True):
        sizes = [point["size"] for point in record["points"]]
        ours, floor = ([pick(p["candidates"]) for p in record["points"]] for pick in (library, fastest_floor))
        left.loglog(sizes, [one["best"] for one in ours], color=BLUE, marker="o", markersize=3, label="reidkit")
        left.loglog(sizes, [one["best"] for one in floor], color=GREY, marker="s", markersize=3, label="floor")
        left.set(title=title(record), ylabel="time")
        left.yaxis.set_major_formatter(lambda seconds, _: harness.duration(seconds))
        left.legend()
        if None not in (memory := [one["memory"] for one in ours]):
            right.semilogx(sizes, [m / 1e6 for m in memory], color=ORANGE, marker="o", markersize=3)
        right.set(title="its memory", ylabel="MB")
        right.set_ylim(bottom=0)
        for ax in (left, right):
            ax.set_xticks(sizes, [f"{n / 1000:g}k" for n in sizes])
            ax.minorticks_off()
            ax.set_xlabel(record["axis"])
    return fig


def main(argv: list[str] | None = None) -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether README.md is up to date")
    parser.add_argument("--results", type=Path, default=harness.RESULTS, help="folder of the JSON files")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="the file with the markers")
    given = parser.parse_args(argv)
    found, text = records(given.results), given.readme.read_text()
    new = BLOCK.sub(lambda block: block[1] + report(found) + block[2], text)
    if given.check:
        sys.exit(0 if new == text else "benchmarks/README.md is not what the results say: python benchmarks/report.py")
    files.write_text(given.readme, new)
    if any("points" in record for record in found):
        fig = growth(found)
        with files.atomic_path(given.readme.with_name("growth.png")) as part:
            fig.savefig(part, metadata={"Software": None})
        plt.close(fig)


if __name__ == "__main__":
    main()
