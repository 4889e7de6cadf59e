"""Progress that suits its reader: a bar for a person, fixed lines for a log.

A bar that redraws itself fails a strict notebook test and freezes in a saved file. So bars appear only where somebody
watches (a terminal, a live notebook); a headless run prints what `note` is given and nothing else.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.std import tqdm as Bar

Item = TypeVar("Item")


def is_watched() -> bool:
    """Whether a person watches: standard error is a terminal, or REIDKIT_LIVE=1 is set, as `make lab` does.

    In a notebook kernel standard error is no terminal, so there the variable alone decides.

    >>> os.environ["REIDKIT_LIVE"] = "1"; is_watched(), os.environ.pop("REIDKIT_LIVE")
    (True, '1')
    """
    return sys.stderr.isatty() or os.environ.get("REIDKIT_LIVE") == "1"


def track(
    items: Iterable[Item], *, title: str, total: int | None = None, unit: str = "it", enabled: bool = True
) -> Iterator[Item]:
    """Iterate over `items`, with a bar if a person watches.

    Args:
        items: what to iterate over.
        title: what is being done, a few words.
        total: how many items there are; taken from `len(items)` where it has one.
        unit: what one item is, for the rate (`images`, `epochs`).
        enabled: False never draws.

    >>> list(track([1, 2, 3], title="counting"))
    [1, 2, 3]
    """
    yield from bar(items, title=title, total=total, unit=unit, enabled=enabled)


def bar(items=None, *, title: str, total: int | None = None, unit: str = "it", enabled: bool = True) -> Bar:
    """A bar that is moved by hand with `.update(n)`; the same rules as `track`."""
    return tqdm(items, desc=title, total=total, unit=unit, disable=not (enabled and is_watched()), leave=False)


def note(text: str, *, enabled: bool = True) -> None:
    """Print one fixed line, above the bar if there is one.

    >>> note("epoch 1 of 2")
    epoch 1 of 2
    """
    if enabled:
        tqdm.write(text, file=sys.stdout)
