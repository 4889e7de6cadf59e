"""Everything that knows Jupyter: source shown in place, claims that can fail, tables, and knobs for a live reader.

What a notebook stores must be the same on every machine, so nothing here leaves a widget, an address in memory or a
style with random names in an output: text, Markdown and plain HTML only.
"""

import ast
import html
import inspect
import textwrap
from collections.abc import Callable, Sequence

import numpy
import pandas
import torch
from IPython.display import Markdown, display

from reidkit.progress import is_watched


def show(*objects: object) -> None:
    """Show the source of functions or classes of the library, so that prose beside them cannot drift from the code.

    A strict notebook test compares this output: a change to the function fails it until the notebook is run again.

    Args:
        objects: functions or classes; of each docstring only the first paragraph is shown.

    Raises:
        ValueError: an object has no Python source.

    >>> show(claim)
    <IPython.core.display.Markdown object>
    """
    for thing in objects:
        display(Markdown(_source(thing)))


def _source(thing: object) -> str:
    """The source as Markdown: where it stands, then the code in a fence."""
    try:
        code = textwrap.dedent(inspect.getsource(thing)).rstrip()
    except TypeError:
        raise ValueError(f"{thing!r} has no source to show; pass a function or a class, not its value.") from None
    thing = inspect.unwrap(thing)
    place = f"`{thing.__module__}.{thing.__qualname__}`"
    return f"{place}\n\n```python\n{_first_paragraph_only(code)}\n```"


def _first_paragraph_only(code: str) -> str:
    """`code` with each docstring cut down to its first paragraph."""
    lines = code.splitlines()
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in reversed([node for node in ast.walk(ast.parse(code)) if isinstance(node, documented)]):
        text = ast.get_docstring(node)
        if text and "\n\n" in text:
            first, indent = node.body[0], " " * node.body[0].col_offset
            short = textwrap.indent(f'"""{text.split(chr(10) * 2)[0]}"""', indent)
            lines[first.lineno - 1 : first.end_lineno] = short.splitlines()
    return "\n".join(lines)


def claim(sentence: str, condition: object) -> None:
    """Print `✓ sentence` if the condition holds, and stop the notebook with `✗ sentence` if not.

    Args:
        sentence: what holds, in words and without a measured number.
        condition: one truth value: a bool, or a tensor of one. A list or a text is refused, because it would hold
            whatever it says.

    Raises:
        AssertionError: the condition does not hold.
        ValueError: the condition is not one truth value.

    >>> claim("two comes after one", 2 > 1)
    ✓ two comes after one
    """
    single = isinstance(condition, torch.Tensor) and condition.dtype == torch.bool and condition.numel() == 1
    if not (single or isinstance(condition, bool | numpy.bool_)):
        kind = type(condition).__name__
        raise ValueError(f"condition is a {kind}; a claim needs one truth value, such as (x > 0).all() or a > b.")
    if not condition:
        raise AssertionError(f"✗ {sentence}")
    print(f"✓ {sentence}")


def table(rows: pandas.DataFrame | Sequence[dict] | dict, *, caption: str = "", digits: int = 3) -> None:
    """Show a plain table, the same bytes in every run.

    Args:
        rows: a data frame (its index is not shown), a list of rows, or one row (a dictionary of scalars). A table
            without rows says so.
        caption: a line above the table.
        digits: decimals of floating-point cells.

    >>> table([{"camera": 1, "images": 3}])
    camera  images
         1       3
    """
    frame = pandas.DataFrame([rows] if isinstance(rows, dict) else rows)
    if frame.empty:
        frame = pandas.DataFrame([{"rows": "none yet"}])
    look = {"index": False, "float_format": f"{{:.{digits}f}}".format, "na_rep": "–"}
    page = frame.to_html(border=0, justify="left", **look)
    text = textwrap.dedent(frame.to_string(**look))
    if caption:
        page = page.replace(">", f">\n  <caption>{html.escape(caption)}</caption>", 1)
        text = f"{caption}\n{text}"
    display(_Table(page, text))


class _Table:
    """A table as HTML where that is understood, and as text elsewhere."""

    def __init__(self, page: str, text: str):
        self.page, self.text = page, text

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return self.text


def explore(draw: Callable, **knobs: Sequence) -> None:
    """Draw a figure at a few values of a knob, and add a slider if a person is there to move it.

    `draw` takes each knob as a sequence of values and draws a figure with one panel per value. A stored notebook
    therefore holds the static panels; in a live kernel the slider calls `draw` with one value.

    Args:
        draw: the function that draws; what it returns is not used.
        knobs: for each parameter of `draw` the values of the static panels, ascending; the slider spans them.

    Raises:
        ValueError: no knob, or a knob with fewer than two values.

    >>> explore(lambda radius: print(radius), radius=(0.3, 0.7, 1.1))
    (0.3, 0.7, 1.1)
    """
    if not knobs or any(len(values) < 2 for values in knobs.values()):
        raise ValueError("explore needs a knob with at least two values, such as radius=(0.3, 0.7, 1.1).")
    draw(**knobs)
    if is_watched():
        import ipywidgets  # only here: a headless run must not even load it

        def redraw(**chosen) -> None:
            draw(**{name: (value,) for name, value in chosen.items()})

        ipywidgets.interact(redraw, **{name: _slider(values) for name, values in knobs.items()})


def _slider(values: Sequence):
    """A slider over the span of numbers, or a choice among anything else."""
    import ipywidgets

    if any(isinstance(value, bool | str) for value in values):
        return ipywidgets.Dropdown(options=list(values))
    low, high = min(values), max(values)
    if all(isinstance(value, int) for value in values):
        return ipywidgets.IntSlider(min=low, max=high, value=values[0], continuous_update=False)
    step = (high - low) / 40
    return ipywidgets.FloatSlider(min=low, max=high, step=step, value=values[0], continuous_update=False)
