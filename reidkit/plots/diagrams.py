"""Ideas drawn by hand: toy rankings, average precision as an area, neighbours, boxes and arrows."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from reidkit.plots import style
from reidkit.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    WIDTH,
    Numbers,
    as_array,
    by_name,
    canvas,
    sheet,
    styled,
    text_width,
)

KINDS = {"relevant": (BLUE, "white", "✓"), "wrong": (ORANGE, "white", "✗"), "junk": (PALE, GREY, "–")}


def _strip(ax: Axes, items: Sequence[str], x: float, y: float, size: float, points: float) -> None:
    """A row of squares of `size` data units with signs of `points`; junk has no rank."""
    rank = 0
    for place, kind in enumerate(items):
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of item; use {', '.join(KINDS)}.")
        (colour, ink, sign), left = KINDS[kind], x + place * size * 1.12
        rank += kind != "junk"
        middle, under = left + size / 2, "junk" if kind == "junk" else str(rank)
        ax.add_patch(Rectangle((left, y), size, size, facecolor=colour, edgecolor="none"))
        ax.text(middle, y + size / 2, sign, ha="center", va="center", color=ink, fontsize=points, fontweight="bold")
        ax.text(middle, y + size * 1.1, under, ha="center", va="top", color=GREY, fontsize=6.5)


@styled
def ranking_strip(
    lists: Mapping[str, Sequence[str]], *, notes: Mapping[str, str] | None = None, title: str = ""
) -> Figure:
    """Toy ranked lists as squares from near to far; ranks are counted without junk.

    Args:
        lists: name to a list of "relevant", "wrong" and "junk".
        notes: name to a text at the right end ("AP 0.58").
        title: the finding.

    Raises:
        ValueError: no list, or another kind of item.

    >>> fig = ranking_strip({"query 1": ["relevant", "junk", "wrong"]})
    >>> [text.get_text() for text in fig.axes[0].texts if text.get_text().isdigit()]
    ['1', '2']
    """
    notes, longest = notes or {}, max(len(items) for items in by_name("lists", lists).values())
    left = max(text_width(name, 8.5) for name in lists) + 0.2
    right = max((text_width(text, 8.5) for text in notes.values()), default=0) + 0.2
    size = min(0.36, (WIDTH - left - right) / (1.12 * max(longest, 1)))
    fig, ax = sheet(left + longest * size * 1.12 + right, len(lists) * (size + 0.3), title=title)
    for line, (name, items) in enumerate(lists.items()):
        y = 0.05 + line * (size + 0.3)
        ax.text(left - 0.12, y + size / 2, name, ha="right", va="center")
        _strip(ax, items, left, y, size, 36 * size)
        ax.text(left + len(items) * size * 1.12 + 0.06, y + size / 2, notes.get(name, ""), va="center")
    return fig


def precision_steps(relevant: Numbers, convention: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision just before and at each hit, (n,) each; the mean over both is the AP of that convention.

    >>> before, after = precision_steps([False, True, True], "trapezoid")
    >>> before.tolist(), after.round(2).tolist()
    ([0.0, 0.5], [0.5, 0.67])
    """
    ranks = np.flatnonzero(relevant)  # from 0
    hits = np.arange(len(ranks))
    after = (hits + 1) / (ranks + 1)
    before = after if convention == "mean" else np.where(ranks > 0, hits / np.maximum(ranks, 1), 1.0)
    return np.where((hits == 0) & (convention == "mar"), 1.0, before), after


@styled
def average_precision_areas(relevant: Numbers, *, title: str = "") -> Figure:
    """The average precision of one toy list as an area, in the three conventions of `metrics.retrieval.evaluate`.

    Args:
        relevant: (n,) from near to far, without junk: is it the same person?
        title: the finding.

    Raises:
        ValueError: nothing relevant in the list.

    >>> fig = average_precision_areas([False, True, True])
    >>> [ax.get_title(loc="left") for ax in fig.axes[:3]]
    ['ap="mean": 0.583', 'ap="trapezoid": 0.417', 'ap="mar": 0.667']
    """
    relevant = as_array("relevant", relevant, None).astype(bool)
    if not relevant.any():
        raise ValueError("relevant holds no hit; average precision needs at least one.")
    n = int(relevant.sum())
    fig, axes = canvas(2, 3, height=3.0, title=title, height_ratios=(0.24, 1))
    strip = fig.add_subplot(
        axes[0, 0].get_gridspec()[0, :], xlim=(-0.1, max(1.12 * len(relevant), 16)), ylim=(1.5, -0.1)
    )
    strip.set_aspect("equal", anchor="W")
    for ax in axes[0]:
        ax.remove()
    strip.axis("off")
    _strip(strip, ["relevant" if hit else "wrong" for hit in relevant], 0, 0, 1, 10)
    for ax, convention in zip(axes[1], ("mean", "trapezoid", "mar"), strict=True):
        before, after = precision_steps(relevant, convention)
        for hit, (low, high) in enumerate(zip(before, after, strict=True)):
            corners = [(hit / n, 0), (hit / n, low), ((hit + 1) / n, high), ((hit + 1) / n, 0)]
            ax.add_patch(Polygon(corners, facecolor=BLUE, alpha=0.28, edgecolor=BLUE, linewidth=1.2))
            ax.text((hit + 0.5) / n, 0.04, f"{(low + high) / 2:.2f}", ha="center", fontsize=7, color=BLUE)
        ax.plot(np.arange(1, n + 1) / n, after, "o", color=BLUE, markersize=4, clip_on=False)
        ax.set_title(f'ap="{convention}": {np.mean([before, after]):.3f}')
        ax.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall (fraction)")
    axes[1, 0].set_ylabel("precision (fraction)")
    return fig


@styled
def neighbour_steps(
    points: Numbers, query: int, steps: Mapping[str, Collection[int]], *, pids: Numbers | None = None, title: str = ""
) -> Figure:
    """The neighbours of one query at each step of an algorithm (nearest, reciprocal, expanded), one panel per step.

    Args:
        points: (n, 2) a toy feature space.
        query: which point asks.
        steps: name of the step to the points it has chosen.
        pids: (n,) identities; chosen points are blue if they are the query's, orange if not. All blue without.
        title: the finding.

    Raises:
        ValueError: no step, or a point that is not there.

    >>> fig = neighbour_steps([[0, 0], [1, 0], [0, 1]], 0, {"two nearest": [1, 2], "reciprocal": [1]})
    >>> [ax.get_title(loc="left") for ax in fig.axes]
    ['two nearest (2)', 'reciprocal (1)']
    """
    points = as_array("points", points, None, 2)
    n = len(points)
    same = np.full(n, True) if pids is None else np.equal(as_array("pids", pids, n), pids[query])
    named = {index for chosen in by_name("steps", steps).values() for index in chosen} | {query}
    if not all(0 <= index < n for index in named):
        raise ValueError(f"points {sorted(named)} are named, but there are only 0..{n - 1}.")
    note = "★ query. Joined: chosen (blue = same identity, orange = another). Blue rim: same identity, not chosen."
    side = WIDTH / max(len(steps), 2)
    fig, axes = canvas(1, len(steps), height=side + 0.25, width=side * len(steps), title=title, note=note)
    for ax, (name, chosen) in zip(axes.flat, steps.items(), strict=True):
        chosen = [index for index in dict.fromkeys(chosen) if index != query]
        for index in set(range(n)) - {query}:
            colour = BLUE if same[index] else ORANGE
            if index in chosen:
                ax.plot(*points[[query, index]].T, color=colour, linewidth=0.9, alpha=0.6, zorder=1)
                ax.scatter(*points[index], s=46, color=colour, edgecolors="white", linewidths=0.6, zorder=3)
            else:
                rim = BLUE if same[index] else GREY
                ax.scatter(*points[index], s=24, facecolors="white", edgecolors=rim, linewidths=0.8, zorder=2)
        ax.scatter(*points[query], s=170, color=INK, marker="*", zorder=4)
        ax.set_title(f"{name} ({len(chosen)})")
        ax.margins(0.08)
        style.bare(ax)
    return fig


@styled
def flow(nodes: Mapping[str, tuple], edges: Iterable[tuple], *, row_height: float = 0.8, title: str = "") -> Figure:
    """Boxes and arrows: the idea of a method on one strip.

    Args:
        nodes: name to (column, row, text) or (column, row, text, colour); columns and rows may be fractions.
        edges: (from, to) or (from, to, label).
        row_height: inches from row to row.
        title: the finding.

    Raises:
        ValueError: no node, or an edge to a node that is not there.

    >>> fig = flow({"a": (0, 0, "images"), "b": (1, 0, "network")}, [("a", "b", "batch")])
    >>> len(fig.axes[0].patches)
    3
    """
    x, y = np.array([node[:2] for node in by_name("nodes", nodes).values()], dtype=float).T
    sizes = {name: (text_width(node[2], 8) + 0.26, 0.36 + 0.16 * node[2].count("\n")) for name, node in nodes.items()}
    left, top = np.max(list(sizes.values()), axis=0) / 2 + 0.05
    step = (WIDTH - 2 * left) / max(np.ptp(x), 1e-9)
    fig, ax = sheet(WIDTH, np.ptp(y) * row_height + 2 * top, title=title)
    boxes, centres = {}, {}
    look = {"boxstyle": "round,pad=0,rounding_size=0.07", "facecolor": style.PAPER, "linewidth": 1.2, "zorder": 2}
    for name, (column, row, text, *colour) in nodes.items():
        centres[name] = np.array([left + (column - x.min()) * step, top + (row - y.min()) * row_height])
        corner = centres[name] - np.divide(sizes[name], 2)
        boxes[name] = ax.add_patch(FancyBboxPatch(corner, *sizes[name], edgecolor=(colour or [GREY])[0], **look))
        ax.text(*centres[name], text, ha="center", va="center", fontsize=8, zorder=3)
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": INK, "linewidth": 1, "shrinkA": 2, "shrinkB": 2}
    for start, end, *label in edges:
        if start not in boxes or end not in boxes:
            raise ValueError(f"the edge {start!r} to {end!r} has no node at one end; nodes are {', '.join(boxes)}.")
        ends = {"posA": centres[start], "posB": centres[end], "patchA": boxes[start], "patchB": boxes[end]}
        ax.add_patch(FancyArrowPatch(**ends, **look, zorder=1))
        middle = (centres[start] + centres[end]) / 2 - (0, 0.04)  # just above the arrow
        ax.text(*middle, *(label or [""]), ha="center", va="bottom", fontsize=7, color=GREY, zorder=4)
    return fig
