"""Fill in what README.md and the notebooks' cost lines say in numbers, from files that a command made.

    python tools/readme.py [--check]

A block stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; nobody types into it.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

import thumbnails
from front import ROOT, code_lines, front, library_files, notebook_paths
from reidkit import claims, files, runs
from reidkit.studies import tables

RESULTS = ROOT / "figures" / "results"
WORLDS = {"Market-1501": "market_cpu", "drawn people": "tiny"}  # the columns of the tables: a preset each
FEWEST = 3  # seeds of a claim in the README; the notebooks show the others too
BLOCK = re.compile(r"(<!-- begin:(\w+) -->)(\n?).*?(<!-- end:\2 -->)", re.S)


def fill(text: str, blocks: dict[str, str]) -> str:
    """`text` with each marked block replaced.

    Raises:
        ValueError: the text has a block that nothing fills.
    """

    def put(found: re.Match) -> str:
        begin, name, line, end = found.groups()  # in a line, or on lines of its own
        if name not in blocks:
            raise ValueError(f"no block {name!r}; there are {', '.join(sorted(blocks))}.")
        return f"{begin}{line}{blocks[name]}{line}{end}"

    return BLOCK.sub(put, text)


def readme_blocks() -> dict[str, str]:
    """The blocks of README.md."""
    blocks = {"course": course(), "notebooks": notebook_table(), "results": result_table()}
    blocks |= {"questions": question_table(), "lines": line_count(), "faults": fault_table()}
    return blocks | {"forecast": forecast_table(), "teacher": teacher()}


def timing() -> dict:
    """What `make course` measured last, as `tools/course.py --record` wrote it."""
    path = RESULTS / "course.json"
    return files.read_json(path) if path.exists() else {"notebooks": {}}


def minutes(seconds: float) -> str:
    """A duration as a reader says it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def course() -> str:
    """How long the course takes, and on what."""
    made = timing()
    if not made["notebooks"]:
        return "The times are not measured yet."
    claims = sum(notebook["claims"] for notebook in made["notebooks"].values())
    text = f"On {made['cpus']} CPU cores without a GPU the {len(made['notebooks'])} notebooks take "
    text += f"{minutes(made['seconds'])} and check {claims} claims."
    fresh = RESULTS / "fresh.json"
    if fresh.exists():
        made = files.read_json(fresh)
        took = {step: minutes(seconds) for step, seconds in made["seconds"].items()}
        where = "a fresh clone" if made.get("clones", 1) == 1 else f"{made['clones']} fresh clones, step by step"
        text += f" In {where}: installation {took['installation']} (packages from a near mirror), then "
        text += f"`make course` {took['course']} and `make test` {took['test']}."
    return text


def cost(path: Path) -> str:
    """The cost line of one notebook."""
    measured = timing()["notebooks"].get(path.stem)
    return f"{minutes(measured['seconds'])} on {timing()['cpus']} CPU cores" if measured else "not measured yet"


def notebook_table() -> str:
    """One row per notebook: a figure of it, where it is, what it is about, what it costs."""
    rows = ["| | notebook | quick run |", "|---|---|---|"]
    for path in notebook_paths():
        lines = front(path)
        picture = (
            f'<img src="figures/thumbnails/{path.stem}.png" width="{thumbnails.WIDTH}" alt="a figure of {path.stem}">'
        )
        link = f"**[{lines.number} {lines.title}](notebooks/{path.name})**"
        rows.append(f"| {picture} | {link}<br>{lines.sentence} | {cost(path)} |")
    return "\n".join(rows)


def result_table() -> str:
    """What the papers claim, each with its difference as printed and as recorded, and the verdict."""
    return _table(ours=False)


def question_table() -> str:
    """The same for what nobody claimed: our own questions."""
    return _table(ours=True)


def _table(*, ours: bool) -> str:
    """The claims of all notebooks in both worlds, and a sentence for each study that today's code did not make.

    Raises:
        ValueError: the results of a study were made by different code.
    """
    rows = [row for notebook in runs.NOTEBOOKS for row in decided(notebook, ours=ours)]
    if not rows:
        return "No full run is recorded yet."
    stale = [study for study in studies() if runs.load_results(*study, folder=RESULTS)[0].stale]
    stale = [study for study in stale if study[1] in WORLDS.values()]
    return "\n\n".join(
        [tables.text(rows, markdown=True), *(tables.standing(*study, folder=RESULTS) for study in stale)]
    )


def studies() -> list[tuple[str, str]]:
    """The (notebook, preset) of all recorded studies."""
    return sorted({(r.notebook, r.preset) for r in runs.load_results(folder=RESULTS) if r.preset != "quick"})


def decided(notebook: str, *, ours: bool) -> list[dict[str, str]]:
    """One row a claim that recorded runs of three seeds or more decide in a world; `ours`: of our questions, else of
    papers."""
    worlds = {
        title: {row["claim"]: row for row in tables.effects(notebook, preset, folder=RESULTS)}
        for title, preset in WORLDS.items()
        if (notebook, preset) in studies()
    }
    rows = []
    for effect in claims.effects(notebook) if worlds else ():
        found = {title: world.get(effect.claim, {"seeds": "0"}) for title, world in worlds.items()}
        known = {title: row for title, row in found.items() if int(row["seeds"]) >= FEWEST}
        if bool(effect.source) == ours or not known:
            continue
        printed = claims.points_in_print(notebook, effect)
        place = f"{notebook}, {effect.source.removeprefix('the paper, ')}" if effect.source else notebook
        cells = {"where": place, "claim": effect.claim + f" ({effect.measure})" * (effect.measure != "mAP")}
        cells |= {} if ours else {"printed": "–" if printed is None else f"{printed:+.1f}"}
        for title in WORLDS:
            row = known.get(title)
            cells[title] = f"{row['points']} ({row['95 % interval']}): {row['verdict']}" if row else "–"
        rows.append(cells)
    return rows


def teacher() -> str:
    """How many real people a network finds that has seen drawn ones alone."""
    made = files.read_json(RESULTS / "reference.json")
    new, former = made["Market-1501, no image of which was learnt from"]
    return (
        f"Trained on {made['people']:,} drawn people and no real one, the reference weights find "
        f"{new['rank1']:.1%} of Market-1501's queries at rank 1, mAP {100 * new['mAP']:.1f} "
        f"(the file before them: {former['rank1']:.1%} and {100 * former['mAP']:.1f})."
    )


def fault_table() -> str:
    """What `make test-faults` tried and what was survived, as it recorded it last."""
    path = RESULTS / "faults.json"
    made = files.read_json(path) if path.exists() else {}
    rows = [{"fault": name, "tried": str(row["tried"]), "survived": str(row["survived"])} for name, row in made.items()]
    return tables.text(rows, markdown=True)


def forecast_table() -> str:
    """What a run of each archive preset takes of a card, as `tools/forecast.py` reckoned it last."""
    path = RESULTS / "forecast.json"
    if not path.exists():
        return "Nothing is forecast yet."
    made = files.read_json(path)
    assumed = made["assumptions"]
    cards = sorted(assumed["cards"], key=lambda card: assumed["cards"][card][1])  # the slowest first
    rows = [
        {"preset": name.replace(".", " ", 1)} | {card: _on_card(found["cards"][card]) for card in cards}
        for name, found in made["presets"].items()
    ]
    share, factor = f"{assumed['share of peak']:.0%}", f"{assumed['factor for workspaces']:g}"
    return (
        "What one training of the default variant takes of a card, at the least. No card was asked: operations and "
        f"tensors of one step are counted from shapes. The card is taken to sustain {share} of its peak in half "
        f"precision, which small convolutions on fast cards do not reach; memory is {factor} times what a step keeps, "
        "with weights, gradients and optimizer, and the images where they fill at most a quarter of the card. Reading, "
        f"embedding and measuring come on top.\n\n{tables.text(rows, markdown=True)}"
    )


def _on_card(needs: dict) -> str:
    """A cell of that table."""
    if not needs["fits"]:
        return f"no: {needs['gigabytes']:.0f} GB; {needs['batch that fits']} images of {needs['batch']} would fit"
    time = f"{needs['hours']:.1f} h" if needs["hours"] >= 1 else f"{60 * needs['hours']:.0f} min"
    return f"{time}, {needs['gigabytes']:.0f} GB"


def line_count() -> str:
    """How long the library is."""
    counts = {path: len(code_lines(path.read_text())) for path in library_files()}
    world = sum(n for path, n in counts.items() if path.parent.name == "world")
    files = sum(count > 0 for count in counts.values())
    return (
        f"The library is {sum(counts.values()) - world:,} lines of code, and {world:,} more draw the people; the "
        f"longest of its {files} files has {max(counts.values())}. Blank lines, comments and docstrings do not count."
    )


def rendered() -> dict[Path, str]:
    """README.md and every notebook whose cost line is out of date, with what they should hold."""
    texts = {ROOT / "README.md": fill((ROOT / "README.md").read_text(), readme_blocks())}
    for path in notebook_paths():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and (filled := fill(cell.source, {"cost": cost(path)})) != cell.source:
                cell.source = filled
                texts[path] = nbformat.writes(notebook).rstrip("\n") + "\n"
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill in the generated blocks of README.md and the notebooks.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a block is out of date")
    check = parser.parse_args().check
    if not check:
        thumbnails.main()
    stale = {path: text for path, text in rendered().items() if path.read_text() != text}
    for path, text in stale.items():
        print(f"{'out of date' if check else 'filled in'}: {path.relative_to(ROOT)}")
        if not check:
            files.write_text(path, text)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
