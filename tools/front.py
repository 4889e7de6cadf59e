"""What the README, the course page and the tests read off the repository: notebooks' first lines, and lines of code."""

import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


class Front(NamedTuple):
    """The first lines of a notebook: `02_baseline`, its heading, its one sentence, what a reader can do afterwards."""

    path: Path
    title: str
    sentence: str
    learn: str

    @property
    def number(self) -> str:
        return self.path.name[:2]


def notebook_paths(only: str = "") -> list[Path]:
    """The notebooks of the course in their order; `only` keeps those whose name begins with it."""
    return sorted(NOTEBOOKS.glob(f"{only}*.ipynb"))


def front(path: Path) -> Front:
    """Read the front of a notebook: `# title`, `**In one sentence.** …` and the bullets after `**After this …**`."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = re.search(r"^# (?:\d\d\W+)?(.+)$", text, re.M)
    sentence = re.search(r"\*\*In one sentence\.?\*\*\s*(.+?)(?:\n\n|\Z)", text, re.S)
    learn = re.search(r"\*\*After this[^\n]*\n+((?:[-*] .+\n?(?:  .+\n?)*)+)", text)
    for name, found in {"# title": title, "**In one sentence.**": sentence, "**After this … **": learn}.items():
        if not found:
            raise ValueError(f"{path.name} lacks its front line {name!r}.")
    bullets = [" ".join(bullet.split()) for bullet in re.split(r"^[-*] ", learn[1], flags=re.M)[1:]]
    return Front(path, title[1].strip(), " ".join(sentence[1].split()), "; ".join(b.rstrip(".;,") for b in bullets))


def library_files() -> list[Path]:
    """Every Python file of the library."""
    return sorted((ROOT / "reidkit").rglob("*.py"))


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no blank line, no comment, no docstring."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines, statement = set(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            statement.append(token)
        elif token.type == tokenize.NEWLINE:
            if any(part.type != tokenize.STRING for part in statement):  # a lone string is a docstring
                lines.update(line for part in statement for line in range(part.start[0], part.end[0] + 1))
            statement = []
    return lines
