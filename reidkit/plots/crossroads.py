"""Methods side by side: differences with their intervals in sections or panels, and one feature space under each."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reidkit.plots import style
from reidkit.plots.style import INK, WIDTH, Numbers, as_array, by_name, canvas, styled

CAMERAS = "os^DvP"
PEOPLE = (*style.IDENTITIES, style.BLUE, style.ORANGE, style.INK)


class Row(NamedTuple):
    """A number with its interval; nan where nothing was run.

    Attributes:
        value, low, high: what is drawn, in the unit of the figure.
        kind: what its colour says.
        dots: the values it is the mean of, one per seed.
        note: a few words at the right end.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    kind: str = ""
    dots: tuple[float, ...] = ()
    note: str = ""


def _row(ax: Axes, y: float, row: Row, colour: str, *, size: float = 5) -> None:
    """Draw one row: interval, dots, mean."""
    if np.isnan(row.value):
        look = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 7, "color": style.GREY}
        ax.text(0.01, y, "not run", **look)
        return
    ax.plot([row.low, row.high], [y, y], color=colour, linewidth=1.4, alpha=0.55)
    ax.plot(row.dots, [y] * len(row.dots), "o", color="white", markeredgecolor=colour, markersize=3.2)
    ax.plot(row.value, y, "D" if row.dots else "o", color=colour, markersize=size)


@styled
def interval_sections(
    sections: Mapping[str, Mapping[str, Row]], *, unit: str, colours: Mapping[str, str], title: str = ""
) -> Figure:
    """Rows of numbers with intervals under headings, coloured by what they are.

    Args:
        sections: heading to name to row.
        unit: of the numbers.
        colours: kind of a row to its colour; the legend in this order.
        title: the finding.

    Raises:
        ValueError: no section, or a kind without a colour.

    >>> fig = interval_sections({"all": {"a": Row(1, 0, 2, "up")}}, unit="points", colours={"up": style.BLUE})
    >>> [label.get_text() for label in fig.axes[0].get_yticklabels()]
    ['a']
    """
    if unknown := {row.kind for rows in by_name("sections", sections).values() for row in rows.values()} - {*colours}:
        raise ValueError(f"no colour for {', '.join(sorted(unknown))}; there is one for {', '.join(colours)}.")
    lines = sum(len(rows) + 1.3 for rows in sections.values())
    fig, axes = canvas(height=0.185 * lines + 0.75, title=title)
    ax, y, names = axes[0, 0], 0.0, {}
    for heading, rows in sections.items():
        look = {"transform": ax.get_yaxis_transform(), "fontweight": "bold", "fontsize": 8, "va": "center"}
        ax.text(0.0, y, heading, **look)
        for name, row in rows.items():
            y += 1
            names[y] = name
            _row(ax, y, row, colours[row.kind])
            ax.text(1.0, y, row.note, transform=ax.get_yaxis_transform(), fontsize=7, color=style.GREY, va="center")
        y += 1.3
    ax.axvline(0, color=style.GREY, linewidth=0.8)
    ax.set(xlabel=unit, ylim=(y - 0.7, -0.8))
    ax.set_yticks(list(names), list(names.values()), fontsize=7.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    keys = [Line2D([], [], color=colour, marker="o", label=kind) for kind, colour in colours.items()]
    fig.legend(handles=keys, loc="outside lower right", ncols=len(keys), frameon=False)
    return fig


@styled
def interval_panels(
    panels: Mapping[str, Mapping[str, Row]], *, unit: str, columns: int = 4, title: str = "", note: str = ""
) -> Figure:
    """The same rows for several methods, one panel each; blue where the interval excludes 0.

    Args:
        panels: name of the panel to name of the row to row; the rows are those of the first panel.
        unit: of the numbers.
        columns: panels side by side.
        title: the finding.
        note: how to read it.

    Raises:
        ValueError: no panel, or a panel that lacks a row.

    >>> fig = interval_panels({"A": {"view": Row(-3, -5, -1)}, "B": {"view": Row(-1, -3, 1)}}, unit="points")
    >>> [ax.get_title(loc="left") for ax in fig.axes]
    ['A', 'B']
    """
    names = list(next(iter(by_name("panels", panels).values())))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    size = {"height": lines * (0.17 * len(names) + 0.4) + 0.4, "width": WIDTH}
    fig, axes = canvas(lines, columns, **size, title=title, note=note, sharex=True, sharey=True)
    for ax, (panel, rows) in zip(axes.flat, panels.items(), strict=False):
        if missing := [name for name in names if name not in rows]:
            raise ValueError(f"{panel} has no row {missing[0]}; all panels need the same rows.")
        for y, name in enumerate(names):
            sure = rows[name].low > 0 or rows[name].high < 0
            _row(ax, y, rows[name], style.BLUE if sure else style.GREY, size=4)
        ax.axvline(0, color=INK, linewidth=0.7)
        ax.set_title(panel, fontsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=7.5)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel(unit, fontsize=7.5)
    return fig


@styled
def atlas(maps: Mapping[str, Numbers], *, identity: Numbers, camera: Numbers, title: str = "") -> Figure:
    """The same images under each method: identity as colour, camera as marker, up to three maps in a row.

    Args:
        maps: title of the panel to (n, 2) coordinates.
        identity, camera: (n,) of each image.
        title: the finding.

    Raises:
        ValueError: no map, or another number of labels than points.

    >>> fig = atlas({"A": [[0, 0], [1, 1]]}, identity=[7, 8], camera=[0, 3])
    >>> len(fig.axes[0].collections)
    2
    """
    points = {name: as_array(f"map of {name}", xy, None, 2) for name, xy in by_name("maps", maps).items()}
    n = len(next(iter(points.values())))
    pids, camids = as_array("identity", identity, n), as_array("camera", camera, n)
    colour = {pid: PEOPLE[k % len(PEOPLE)] for k, pid in enumerate(np.unique(pids))}
    columns = min(3, len(points))
    lines, side = -(-len(points) // columns), WIDTH / columns
    fig, axes = canvas(lines, columns, height=(side + 0.25) * lines + 0.2, title=title)
    for ax, (name, xy) in zip(axes.flat, points.items(), strict=False):
        if len(xy) != n:
            raise ValueError(f"the map of {name} has {len(xy)} points, the labels {n}.")
        for camid in np.unique(camids):
            mine = camids == camid
            look = {"marker": CAMERAS[camid % len(CAMERAS)], "s": 13, "linewidths": 0.25, "edgecolors": "white"}
            ax.scatter(*xy[mine].T, c=[colour[pid] for pid in pids[mine]], **look)
        ax.set_title(name, fontsize=8)
        style.bare(ax)
    for ax in axes.flat[len(points) :]:
        ax.remove()
    dot = {"linestyle": "", "color": style.GREY, "markersize": 4}
    keys = [Line2D([], [], marker=CAMERAS[c % len(CAMERAS)], label=f"camera {c}", **dot) for c in np.unique(camids)]
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=7)
    return fig


@styled
def two_worlds(
    groups: Mapping[str, Mapping[str, tuple[float, float]]], *, names: tuple[str, str], unit: str, title: str = ""
) -> Figure:
    """The same methods in two worlds: a dot a method, on its rank's diagonal where both rank it alike.

    The left panel has the numbers, the right one the ranks, 1 the best, with a line from each dot to the diagonal.

    Args:
        groups: group of methods (a colour) to name of the method to its numbers in the two worlds.
        names: of the worlds, horizontal first.
        unit: of the numbers.
        title: the finding.

    Raises:
        ValueError: no group, or more groups than colours.

    >>> fig = two_worlds({"02": {"softmax": (20, 38), "neck": (46, 40)}}, names=("drawn", "real"), unit="mAP (%)")
    >>> [len(ax.texts) for ax in fig.axes]
    [0, 2]
    """
    colours = (style.BLUE, style.ORANGE, *style.IDENTITIES)
    if len(by_name("groups", groups)) > len(colours):
        raise ValueError(f"{len(groups)} groups are more than the {len(colours)} colours.")
    points = [(group, name, xy) for group, rows in groups.items() for name, xy in rows.items()]
    values = np.array([xy for _, _, xy in points], dtype=float)
    ranks = (-values).argsort(0, kind="stable").argsort(0) + 1
    colour = [colours[list(groups).index(group)] for group, _, _ in points]
    fig, axes = canvas(1, 2, height=0.14 * len(points) + 2.4, title=title)
    axes[0, 0].scatter(*values.T, c=colour, s=22, linewidths=0)
    axes[0, 0].set(xlabel=f"{unit}, {names[0]}", ylabel=f"{unit}, {names[1]}")
    ax = axes[0, 1]
    ax.plot([0.5, len(points) + 0.5], [0.5, len(points) + 0.5], color=style.GREY, linewidth=0.8)
    for (x, y), (_, name, _), shade in zip(ranks, points, colour, strict=True):
        ax.plot([x, x], [x, y], color=shade, linewidth=0.8, alpha=0.5)
        ax.plot(x, y, "o", color=shade, markersize=4.5)
        ax.annotate(name, (x, y), (4, 0), textcoords="offset points", fontsize=6.5, va="center")
    ends = (0.3, len(points) + 0.7)
    ax.set(xlabel=f"rank, {names[0]}", ylabel=f"rank, {names[1]}", xlim=(0.3, len(points) + 2.5), ylim=ends[::-1])
    keys = [
        Line2D([], [], color=shade, marker="o", linestyle="", label=group)
        for group, shade in zip(groups, colours, strict=False)
    ]
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=7.5)
    return fig


@styled
def effect_by_length(
    effects: Mapping[str, Mapping[float, Row]], *, unit: str, length: str = "training steps", title: str = ""
) -> Figure:
    """What tricks give in short and in long trainings: a line a trick, with intervals, over a logarithmic length.

    Args:
        effects: name of the trick to length to its difference.
        unit: of the differences.
        length: what the lengths count.
        title: the finding.

    Raises:
        ValueError: no trick, or more than there are colours.

    >>> fig = effect_by_length({"neck": {200: Row(26, 20, 32), 3000: Row(4, 2, 6)}}, unit="mAP points")
    >>> fig.axes[0].get_xscale()
    'log'
    """
    colours = (style.BLUE, style.ORANGE, style.PINK, style.GREY)
    if len(by_name("effects", effects)) > len(colours):
        raise ValueError(f"{len(effects)} effects are more than the {len(colours)} colours.")
    fig, axes = canvas(height=2.9, title=title)
    ax = axes[0, 0]
    for (name, rows), colour in zip(effects.items(), colours, strict=False):
        x, y = np.array(list(rows)), np.array([row[:3] for row in rows.values()], dtype=float)
        ax.fill_between(x, y[:, 1], y[:, 2], color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y[:, 0], "o-", color=colour, markersize=4, label=name)
    ax.axhline(0, color=INK, linewidth=0.7)
    ax.set(xscale="log", xlabel=length, ylabel=unit)
    ticks = sorted({length for rows in effects.values() for length in rows})
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.legend()
    return fig
