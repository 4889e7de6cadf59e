"""What a study shows of its runs: a table that is drawn anew in its place in a terminal, fixed lines in a log."""

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from reidkit.progress import note

STATES = ("running", "failed", "waiting", "done")  # in the order in which a table too long for the screen is cut
REDRAW = 0.5  # seconds


@dataclass
class Row:
    """What is known of one run.

    Attributes:
        run: its name.
        state: one of `STATES`.
        node, place: the machine it is or was on, for people and for the engine.
        tries: how often it was started.
        failures: how often it failed, and how often its process was lost.
        since: when it was started last.
        seconds: what the last try took.
    """

    run: str
    state: str = "waiting"
    node: str = ""
    place: str = ""
    tries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    since: float = 0.0
    seconds: float = 0.0

    def spent(self) -> float:
        """Seconds of the present or the last try."""
        return time.monotonic() - self.since if self.state == "running" else self.seconds


def table(rows: list[Row], *, width: int = 100, height: int = 40) -> list[str]:
    """The table of a study as lines that fit a screen; the last one counts all runs, those without a line included.

    >>> rows = [Row("02.tiny.neck.0", "done", "anna", "", 1, seconds=61.4), Row("02.tiny.neck.1")]
    >>> for line in table(rows): print(line)
    run             state    node  seconds  tries
    02.tiny.neck.1  waiting                     0
    02.tiny.neck.0  done     anna       61      1
    0 running, 0 failed, 1 waiting, 1 done
    """
    head = ("run", "state", "node", "seconds", "tries")
    shown = sorted(rows, key=lambda row: STATES.index(row.state))[: max(height - 3, 0)]
    cells = [(r.run, r.state, r.node, f"{r.spent():.0f}" if r.tries else "", str(r.tries)) for r in shown]
    widths = [max(len(row[column]) for row in [head, *cells]) for column in range(len(head))]
    signs = ("<", "<", "<", ">", ">")
    lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, signs, widths, strict=True)) for row in [head, *cells]]
    counts = Counter(row.state for row in rows)
    lines.append(", ".join(f"{counts[state]} {state}" for state in STATES))
    return [line[: width - 1] for line in lines]


class Board:
    """The rows of a study, before somebody's eyes if standard error is a terminal."""

    def __init__(self, rows: list[Row], *, enabled: bool = True):
        self.rows, self.enabled, self.live = rows, enabled, enabled and sys.stderr.isatty()
        self.lines, self.drawn = 0, 0.0

    def draw(self) -> None:
        """Draw the table over the former one, unless that was just now."""
        if self.live and time.monotonic() - self.drawn >= REDRAW:
            screen = shutil.get_terminal_size()
            lines = table(self.rows, width=screen.columns, height=screen.lines)
            self.clear()
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()
            self.lines, self.drawn = len(lines), time.monotonic()

    def clear(self) -> None:
        """Take the table away."""
        if self.lines:
            sys.stderr.write(f"\x1b[{self.lines}F\x1b[J")
            sys.stderr.flush()
        self.lines, self.drawn = 0, 0.0

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self.clear()
        note(text, enabled=self.enabled)
        self.draw()
