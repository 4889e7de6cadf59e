"""Numbers against numbers: retrieval curves, distances and thresholds, training, sweeps and comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidkit.metrics.verification import equal_error_rate, error_rates
from reidkit.plots import style
from reidkit.plots.style import BLUE, INK, ORANGE, SERIES, Numbers, as_array, by_name, canvas, mark, one_axes, styled


@styled
def cmc_curve(rankings: Mapping[str, Any], *, title: str = "") -> Figure:
    """Cumulative matching curves: how many queries have found their person by rank k, up to rank 20.

    Args:
        rankings: name to `Ranking`, or to anything with `.cmc` (r,) in fractions (and `.mAP`).
        title: the finding.

    Raises:
        ValueError: no curve.

    >>> from types import SimpleNamespace
    >>> fig = cmc_curve({"mine": SimpleNamespace(cmc=[0.5, 0.75], mAP=0.6)})
    >>> fig.axes[0].get_legend_handles_labels()[1]
    ['mine: rank1 0.500, mAP 0.600']
    """
    ax = one_axes(title=title)
    for (name, ranking), colour in zip(by_name("rankings", rankings).items(), SERIES * 9, strict=False):
        cmc = as_array(f"cmc of {name}", ranking.cmc, None)[:20]
        ranks = np.arange(1, len(cmc) + 1)
        scores = f"rank1 {cmc[0]:.3f}" + (f", mAP {float(ranking.mAP):.3f}" if hasattr(ranking, "mAP") else "")
        ax.plot(ranks, cmc, color=colour, marker="o", markersize=3, label=f"{name}: {scores}")
    ax.set(xlabel="rank k", ylabel="queries matched (fraction)")
    ax.set_ylim(top=1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="best")
    return ax.figure


@styled
def distance_histogram(
    positive: Numbers, negative: Numbers, *, rates: bool = False, unit: str = "embedding distance", title: str = ""
) -> Figure:
    """Distances of pairs of one person against pairs of two, with the threshold of equal error.

    Args:
        positive, negative: distances of pairs of the same and of different identities, (n,) each.
        rates: draw both error rates against the threshold in a second panel.
        unit: what the distance is.
        title: the finding.

    Raises:
        ValueError: no pair of one kind, or a distance that is not finite.

    >>> fig = distance_histogram([0.1, 0.2, 0.5], [0.4, 0.8, 0.9], rates=True)
    >>> len(fig.axes)
    2
    """
    pairs = {"same person": as_array("positive", positive, None), "two persons": as_array("negative", negative, None)}
    tensors = [torch.tensor(values, dtype=torch.float64) for values in pairs.values()]
    rate, threshold = equal_error_rate(*tensors)
    fig, axes = canvas(1, 1 + rates, height=2.8, width=7.5 if rates else 5.6, title=title)
    edges = np.histogram_bin_edges(np.concatenate(list(pairs.values())), bins=48)
    for (name, values), colour in zip(pairs.items(), (BLUE, ORANGE), strict=True):
        density = np.histogram(values, edges, density=True)[0]
        axes[0, 0].stairs(density, edges, fill=True, color=colour, alpha=0.3)
        axes[0, 0].stairs(density, edges, color=colour, linewidth=1.4, label=f"{name} (n = {len(values):,})")
    axes[0, 0].set(xlabel=unit, ylabel="density of pairs", ylim=(0, 1.22 * axes[0, 0].get_ylim()[1]))
    if rates:
        grid = torch.linspace(edges[0], edges[-1], 300, dtype=torch.float64)
        _, fmr, fnmr = error_rates(*tensors, grid)
        axes[0, 1].plot(grid, fnmr, color=BLUE, label="FNMR: same person refused")
        axes[0, 1].plot(grid, fmr, color=ORANGE, label="FMR: two persons accepted")
        axes[0, 1].plot(threshold, rate, "o", color=INK, markersize=5, zorder=4)
        axes[0, 1].set(xlabel=f"threshold on the {unit}", ylabel="error rate (fraction)", ylim=(0, 1.22))
    for ax in axes.flat:
        mark(ax, threshold, f"EER {rate:.3f}\nat {threshold:.2f}")
        ax.grid(axis="x", visible=False)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), handlelength=1.2)
    return fig


@styled
def paired_scatter(theirs: Numbers, ours: Numbers, *, names: tuple[str, str], title: str = "") -> Figure:
    """Two methods on the same queries: one dot per query, above the diagonal where the second does better.

    Args:
        theirs, ours: (n,) average precision of each query, in the same order.
        names: of the two methods.
        title: the finding.

    Raises:
        ValueError: rows of different length, or empty ones.

    >>> fig = paired_scatter([0.1, 0.5], [0.3, 0.5], names=("softmax", "Lin"))
    >>> [text.get_text() for text in fig.axes[0].texts]
    ['Lin better: 1', 'softmax better: 0']
    """
    x = as_array(names[0], theirs, None).astype(float)
    y = as_array(names[1], ours, len(x)).astype(float)
    ax = one_axes(title=title, height=3.4, width=3.8)
    for better, colour in ((y > x, BLUE), (y < x, ORANGE), (y == x, style.GREY)):
        ax.scatter(x[better], y[better], s=9, color=colour, alpha=0.6, linewidths=0)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color=style.GREY, linewidth=0.8)
    ax.text(0.04, 0.95, f"{names[1]} better: {(y > x).sum()}", transform=ax.transAxes, color=BLUE, fontsize=8)
    look = {"transform": ax.transAxes, "color": ORANGE, "fontsize": 8, "ha": "right"}
    ax.text(0.97, 0.04, f"{names[0]} better: {(y < x).sum()}", **look)
    theirs, ours = (f"average precision of a query, {name}" for name in names)
    ax.set(xlabel=theirs, ylabel=ours, aspect="equal")
    return ax.figure


@styled
def training_curves(
    history: Any, *, columns: Sequence[str] | None = None, names: Mapping[str, str] | None = None, title: str = ""
) -> Figure:
    """One small panel for each column of a training history.

    Args:
        history: `History.frame()`, or what `pandas.DataFrame` reads; one row per epoch, epoch as index or column.
        columns: which columns to draw; all numeric ones if not given.
        names: column to panel title, with its unit.
        title: the finding.

    Raises:
        ValueError: a column that is not there, or nothing to draw.

    >>> fig = training_curves({"epoch": [1, 2], "loss": [3.0, 2.0], "rank1": [0.2, 0.4]})
    >>> [ax.get_title(loc="left") for ax in fig.axes]
    ['loss', 'rank1']
    """
    frame = pd.DataFrame(history)
    frame = frame.set_index("epoch") if "epoch" in frame else frame
    numeric = list(frame.select_dtypes("number").columns)
    columns = numeric if columns is None else list(columns)
    if frame.empty or not columns or not set(columns) <= set(numeric):
        raise ValueError(f"history has no numbers for {columns}; it has {len(frame)} rows of {numeric}.")
    across, down = min(3, len(columns)), -(-len(columns) // 3)
    fig, axes = canvas(down, across, height=1.95 * down, width=2.5 * across, title=title)
    for ax, column, colour in zip(axes.flat, columns, SERIES * 9, strict=False):
        ax.plot(frame[column], color=colour, marker="o" if len(frame) <= 20 else None, markersize=3)
        end = (frame.index[-1], frame[column].iloc[-1])
        look = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": colour}
        ax.annotate(f"{end[1]:.3g}", end, (5, 0), **look)
        ax.set(title=(names or {}).get(column, column), xlabel="epoch")
        ax.margins(x=0.12)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in axes.flat[len(columns) :]:
        ax.remove()
    return fig


@styled
def bars_with_interval(
    values: Mapping[str, float | Sequence[float]], *, unit: str, reference: Mapping[str, float] | None = None,
    digits: int = 3, title: str = ""
) -> Figure:  # fmt: skip
    """Horizontal bars, each with its interval and its number; values below zero are orange.

    Args:
        values: name to a value, or to (value, low, high).
        unit: of the values, along the bottom.
        reference: name to a value marked by a dashed line (the paper's number, chance).
        digits: decimals of the printed numbers.
        title: the finding.

    Raises:
        ValueError: nothing to draw, or an interval that is not (value, low, high) with low <= value <= high.

    >>> fig = bars_with_interval({"baseline": 0.31, "ours": (0.36, 0.33, 0.40)}, unit="mAP")
    >>> len(fig.axes[0].patches)
    2
    """
    rows = {name: np.atleast_1d(np.asarray(value, float)) for name, value in by_name("values", values).items()}
    ax = one_axes(title=title, height=0.3 * len(rows) + 0.75 + 0.2 * bool(reference))
    for y, (name, row) in enumerate(rows.items()):
        if row.shape not in ((1,), (3,)) or row[0] != np.median(row):
            raise ValueError(f"{name} is {row.tolist()}; give value or (value, low, high), low <= value <= high.")
        side, end, colour = (1, row.max(), BLUE) if row[0] >= 0 else (-1, row.min(), ORANGE)
        ax.barh(y, row[0], height=0.62, color=colour, alpha=0.85)
        ax.plot(row[1:], [y] * len(row[1:]), color=INK, linewidth=1.1, marker="|", markersize=6)
        look = {"textcoords": "offset points", "va": "center", "ha": "left" if side > 0 else "right", "fontsize": 7.5}
        ax.annotate(f"{row[0]:.{digits}f}".replace("-", "−"), (end, y), (5 * side, 0), **look)
    for name, value in (reference or {}).items():
        mark(ax, value, name, above=True)
    ax.axvline(0, color=style.GREY, linewidth=0.8)
    ax.set_xlabel(unit)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.18)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax.figure


@styled
def knob_curve(
    x: Numbers, y: Numbers | Mapping[str, Numbers], *, xlabel: str, ylabel: str, default: float | None = None,
    log: bool = False, title: str = "", ax: Axes | None = None
) -> Figure:  # fmt: skip
    """What turning one knob does.

    Args:
        x: (n,) settings of the knob.
        y: (n,) what came out, or name to (n,) for several curves.
        xlabel, ylabel: what they are, with unit.
        default: the paper's setting, marked by a dashed line.
        log: the knob turns by factors.
        title: the finding.
        ax: draw here instead of in a new figure.

    Raises:
        ValueError: lengths that differ.

    >>> fig = knob_curve([0.1, 0.2], [0.3, 0.4], xlabel="margin", ylabel="mAP")
    >>> len(fig.axes[0].lines)
    1
    """
    ax, x, curves = one_axes(ax, title=title), as_array("x", x, None), by_name("y", y)
    for (name, values), colour in zip(curves.items(), SERIES * 9, strict=False):
        values = as_array(f"y {name}".strip(), values, len(x))
        ax.plot(x, values, color=colour, marker="o", markersize=4, label=name)
    if log:
        ax.set_xscale("log")
    if len(x) <= 8:
        ax.set_xticks(x, [f"{value:g}" for value in x], minor=False)
        ax.minorticks_off()
    if default is not None:
        mark(ax, default, "paper")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(curves) > 1:
        ax.legend()
    return ax.figure


@styled
def knob_panels(
    panels: Mapping[str, tuple[Numbers, Numbers, float | None]], *, ylabel: str, log: Sequence[str] = (),
    title: str = ""
) -> Figure:  # fmt: skip
    """What turning each of several knobs does to one and the same number, on one scale.

    Args:
        panels: name of the knob, with its unit, to ((n,) settings, (n,) what came out, the paper's setting or None);
            what was not run is NaN.
        ylabel: what came out, with unit.
        log: names of the knobs that turn by factors.
        title: the finding.

    Raises:
        ValueError: no knob, or lengths that differ.

    >>> fig = knob_panels({"T": ([1, 2], [0.3, 0.4], 1), "r": ([0.7], [0.3], None)}, ylabel="mAP")
    >>> [ax.get_xlabel() for ax in fig.axes]
    ['T', 'r']
    """
    size = {"height": 2.3, "width": min(7.5, 2.5 * len(by_name("panels", panels)))}
    fig, axes = canvas(1, len(panels), **size, title=title, sharey=True)
    for ax, (name, (x, y, default)) in zip(axes.flat, panels.items(), strict=True):
        x = as_array(f"settings of {name}", x, None).astype(float)
        y = as_array(f"outcomes of {name}", y, len(x)).astype(float)
        ran = ~np.isnan(y)
        ax.plot(x[ran], y[ran], color=BLUE, marker="o", markersize=4)
        if name in log:
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
        if default is not None:
            mark(ax, default, "paper")
        ax.set(xlabel=name)
    axes[0, 0].set_ylabel(ylabel)
    return fig


@styled
def lr_schedule(factors: Numbers | Mapping[str, Numbers], *, base: float = 1.0, title: str = "") -> Figure:
    """The learning rate of each epoch, as steps.

    Args:
        factors: (epochs,) what the base rate is multiplied by, or name to (epochs,).
        base: the base learning rate.
        title: the finding.

    Raises:
        ValueError: no epoch.

    >>> fig = lr_schedule([0.1, 1.0, 1.0, 0.1], base=3.5e-4)
    >>> len(fig.axes[0].lines)
    1
    """
    ax, schedules = one_axes(title=title, height=2.0), by_name("factors", factors)
    for name, values in schedules.items():
        rates = base * as_array(f"factors {name}".strip(), values, None)
        ax.plot(np.arange(1, len(rates) + 1), rates, drawstyle="steps-mid", label=name)
    ax.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if len(schedules) > 1:
        ax.legend()
    return ax.figure


@styled
def heatmap(
    values: Numbers, *, rows: Sequence[Any], columns: Sequence[Any], xlabel: str, ylabel: str, unit: str,
    digits: int = 2, title: str = ""
) -> Figure:  # fmt: skip
    """A table as colours with its numbers written in: cameras against cameras, one knob against another.

    Args:
        values: (r, c).
        rows, columns: r and c names.
        xlabel, ylabel: what the columns and the rows are.
        unit: of the values.
        digits: decimals of the printed numbers.
        title: the finding.

    Raises:
        ValueError: another number of names than rows or columns.

    >>> fig = heatmap([[0.1, 0.2]], rows=["a"], columns=[1, 2], xlabel="camera", ylabel="query", unit="rank1")
    >>> [text.get_text() for text in fig.axes[0].texts]
    ['0.10', '0.20']
    """
    import seaborn

    values = as_array("values", values, len(rows), len(columns))
    fig, axes = canvas(height=0.34 * len(rows) + 0.9, width=min(7.5, 0.55 * len(columns) + 2.2), title=title)
    look = {"cmap": "cividis", "annot": True, "fmt": f".{digits}f", "annot_kws": {"size": 7.5}, "linewidths": 1}
    names = {"xticklabels": [str(name) for name in columns], "yticklabels": [str(name) for name in rows]}
    ax = seaborn.heatmap(values, ax=axes[0, 0], cbar_kws={"label": unit, "fraction": 0.06}, **look, **names)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(visible=False)  # would show through where there is no number
    ax.tick_params(length=0, rotation=0)
    return fig
