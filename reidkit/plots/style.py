"""The house style: one palette, one set of rcParams in force while a figure is drawn, and paper cut to size.

Nothing global changes: every drawing function of this package is `styled`, which puts `STYLE` in force for the length
of the call. Figures belong to pyplot, so a notebook cell that ends with `plt.show()` shows each exactly once.
"""

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Numbers = torch.Tensor | np.ndarray | Sequence  # anything that `as_array` can read; the docstrings say the shape

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#DB6D00", "#009E73", "#CC79A7"  # right, wrong, and two more
INK, GREY, PALE, PAPER = "#24292F", "#707780", "#CDD2D8", "#F5F7F9"
SERIES = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#8C6D1F", "#5B3A8E", "#111111")  # after Okabe & Ito (2008)
MUTED = "332288 CC6677 117733 DDAA33 88CCEE 882255 44AA99 999933 AA4499"  # after P. Tol, safe for colour-blind readers
IDENTITIES = tuple(f"#{colour}" for colour in MUTED.split())
MARKERS = "os^"  # colour and marker run together, so that no point rests on its colour alone
WIDTH, DPI = 7.5, 120  # inches and pixels per inch: 900 pixels, the width of a notebook
SIGNATURE = 0.13  # inches left free at the bottom for the signature of a saved figure

FIGURE = {"figure.dpi": DPI, "savefig.dpi": DPI, "figure.facecolor": "white", "text.color": INK}
FONT = {"font.family": "DejaVu Sans", "font.size": 8.5}  # comes with matplotlib and holds every sign used here
FRAME = {"axes.edgecolor": GREY, "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False}
LABELS = {"axes.labelcolor": INK, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.titlepad": 5}
GRID = {"axes.grid": True, "axes.axisbelow": True, "figure.max_open_warning": 0}  # who shows figures also closes them
LINES = {"axes.prop_cycle": plt.cycler(color=SERIES), "lines.linewidth": 1.6, "lines.solid_capstyle": "round"}
LEGEND = {"legend.frameon": False, "legend.fontsize": 7.5}
STYLE = FIGURE | FONT | FRAME | LABELS | GRID | LINES | LEGEND
TICKS = {"color": GREY, "labelcolor": INK, "labelsize": 7.5, "grid_color": "#E6E9EC", "grid_linewidth": 0.6}


def styled(draw: Callable) -> Callable:
    """Decorate a drawing function: the house style is in force while it runs, and only then."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def as_array(name: str, values: Numbers, *shape: int | None) -> np.ndarray:
    """Read tensor, array or list as a NumPy array and check its shape.

    Args:
        name: what the caller calls it; the error message starts with it.
        values: the numbers, on any device.
        shape: one length per axis, None where any length will do.

    Raises:
        ValueError: the shape is another one, or there is nothing in it.

    >>> as_array("coordinates", [[0, 1], [2, 3]], None, 2).shape
    (2, 2)
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    array = np.asarray(values)
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        expected = " x ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} has shape {tuple(array.shape)}; this plot needs ({expected}).")
    if array.size == 0:
        raise ValueError(f"{name} is empty; there is nothing to draw.")
    return array


def by_name(name: str, values) -> Mapping:
    """A mapping as it is, anything else as a mapping with one entry without a name.

    >>> by_name("curves", [1, 2])
    {'': [1, 2]}
    """
    values = values if isinstance(values, Mapping) else {"": values}
    if not values:
        raise ValueError(f"{name} is empty; there is nothing to draw.")
    return values


def canvas(
    rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH, title: str = "", note: str = "", **kwargs
) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of axes, a title that states the finding, and a grey note below.

    Args:
        rows, columns: of the grid.
        height, width: of the figure, inches; a title adds to the height.
        title: the finding, in bold on the left; wrapped to the width.
        note: how to read the picture, small and grey at the bottom.
        kwargs: for `plt.subplots`.

    Returns: the figure and its axes (rows, columns).
    """
    lines = textwrap.wrap(title, int(width * 11))
    height += 0.2 * len(lines) + 0.1 * bool(lines)
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **kwargs)
    for ax in axes.flat:
        ax.tick_params(**TICKS)  # not by rcParams: matplotlib makes most ticks later, when the figure is shown
    margin = SIGNATURE / height
    fig.get_layout_engine().set(rect=(0, margin, 1, 1 - margin), w_pad=0.06, h_pad=0.05)
    if lines:
        fig.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, fontweight="bold")
    if note:
        fig.supxlabel(textwrap.fill(note, int(width * 18)), x=0.01, ha="left", fontsize=7, color=GREY)
    return fig, axes


def one_axes(ax: Axes | None = None, *, title: str, height: float = 2.7, width: float = 5.6) -> Axes:
    """The axes to draw into: the caller's, or those of a new figure."""
    if ax is None:
        return canvas(height=height, width=width, title=title)[1][0, 0]
    ax.set_title(title)
    return ax


def sheet(width: float, height: float, *, title: str = "") -> tuple[Figure, Axes]:
    """Paper measured in inches, x to the right and y down from below the title, with room below for a signature.

    >>> plt.close("all")    # what other examples left open
    >>> fig, ax = sheet(4, 2, title="one line")
    >>> ax.get_xlim() == (0, 4), bool(fig.get_figheight() > 2)
    (True, True)
    """
    width = max(width, min(WIDTH, 1.15 * text_width(title, 10)))  # a title may widen the paper up to a notebook's width
    lines = textwrap.wrap(title, int(width * 11))
    head = 0.2 * len(lines) + 0.1 * bool(lines)
    foot = round(DPI * (height + SIGNATURE)) / DPI  # whole pixels below: images are shown as they are, not resampled
    fig = plt.figure(figsize=(width, head + foot))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(foot, -head), autoscale_on=False)
    ax.axis("off")
    ax.text(0.05, 0.06 - head, "\n".join(lines), fontsize=10, fontweight="bold", va="top")
    return fig, ax


def bare(ax: Axes) -> None:
    """Make axes a map: equal units, no ticks, a thin frame."""
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color=PALE)


def mark(ax: Axes, x: float, text: str = "", *, above: bool = False) -> None:
    """A dashed vertical line at x with a small text beside its top, or above it."""
    ax.axvline(x, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    offset, align = ((0, 2), {"ha": "center", "va": "bottom"}) if above else ((4, 0), {"ha": "left", "va": "top"})
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    ax.annotate(text, (x, 1), offset, fontsize=7, color=GREY if above else INK, **place, **align)


def text_width(text: str, size: float) -> float:
    """Width of the longest line of `text` in inches, set in the house font at `size` points.

    >>> text_width("camera 3", 8) < text_width("camera 3", 16)
    True
    """
    from matplotlib.textpath import TextPath

    lines = [line for line in text.split("\n") if line.strip()]
    return float(max((TextPath((0, 0), line, size=size).get_extents().x1 / 72 for line in lines), default=0))
