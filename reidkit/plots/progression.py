"""Pseudo-labels step by step: how many identities they cover, how the model retrieves, and where they lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from reidkit.plots import style
from reidkit.plots.style import BLUE, GREY, IDENTITIES, INK, ORANGE, SERIES, WIDTH, Numbers, as_array, by_name, canvas

MEASURES = {  # of a step: the count of images along the axis, and the title
    "rank1": ("n", "rank-1 in the test"),
    "mAP": ("n", "mAP in the test"),
    "accuracy": ("n", "label accuracy, of all"),
    "precision": ("n_selected", "label precision, of the selected"),
    "recall": ("n_selected", "label recall, of all"),
    "gini": ("n_selected", "imbalance of the selected (Gini)"),
    "purity": ("n", "purity of the guessed groups"),
    "silhouette_truth": ("n", "silhouette by identity"),
    "silhouette_guess": ("n", "silhouette by pseudo-label"),
}
AXES = {"n": "share trained with", "n_selected": "share selected"}


@style.styled
def progression(
    results: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    bounds: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    measures: Sequence[str] = ("rank1", "mAP", "accuracy", "precision", "recall", "gini"),
    title: str = "",
) -> Figure:
    """Retrieval and label quality of one-shot runs against the share of the images with a pseudo-label.

    A curve is the mean over seeds, its band one standard deviation to either side.

    Args:
        results: name to the metrics of its runs, one mapping per seed, with `n_steps`, `n_unlabelled`, and
            `rank1_step0`, `n_step0`, ... for each step. Names without a run are left out.
        bounds: name to metrics of runs that are drawn as a level line, from the metrics of their last step.
        measures: which panels to draw, keys of `MEASURES`.
        title: the finding.

    Raises:
        ValueError: an unknown measure.

    >>> run = {"n_steps": 2, "n_unlabelled": 10, "mAP_step0": 0.2, "mAP_step1": 0.3, "n_step0": 0, "n_step1": 5}
    >>> fig = progression({"B": [run]}, measures=["mAP"])
    >>> fig.axes[0].lines[0].get_xydata().tolist()
    [[0.0, 0.2], [0.5, 0.3]]
    """
    unknown = [measure for measure in measures if measure not in MEASURES]
    if unknown or not measures:
        raise ValueError(f"measures are {', '.join(MEASURES)}, not {', '.join(unknown) or 'none'}.")
    across = min(3, len(measures))
    down, shown = -(-len(measures) // across), {name: list(runs) for name, runs in results.items() if runs}
    fig, axes = canvas(down, across, height=2.1 * down + 0.3, width=2.5 * across, title=title)
    for ax, measure in zip(axes.flat, measures, strict=False):
        count, heading = MEASURES[measure]
        for name, colour, marker in zip(shown, SERIES * 9, style.MARKERS * 9, strict=False):
            values, n = _steps(shown[name], measure), shown[name][0]["n_unlabelled"]
            x, y, spread = _steps(shown[name], count).mean(0) / n, values.mean(0), values.std(0, ddof=len(values) > 1)
            ax.plot(x, y, color=colour, marker=marker, markersize=3.5, label=name)
            ax.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
        for (name, runs), line in zip((bounds or {}).items(), ("--", ":", "-."), strict=False):
            level = [run[measure] for run in runs if measure in run]
            if level:
                ax.axhline(np.mean(level), color=GREY, linewidth=1.1, linestyle=line, label=name, zorder=1)
        if not shown:
            ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", color=GREY)
        ax.set(title=heading, xlabel=AXES[count], xlim=(-0.04, 1.04))
    for ax in axes.flat[len(measures) :]:
        ax.remove()
    handles, names = axes.flat[0].get_legend_handles_labels()
    if names:
        fig.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), handlelength=2.2)
    return fig


def _steps(runs: Sequence[Mapping[str, float]], measure: str) -> np.ndarray:
    """(seeds, steps) of one measure."""
    return np.array([[run[f"{measure}_step{t}"] for t in range(run["n_steps"])] for run in runs], dtype=float)


@style.styled
def selected_per_identity(
    panels: Mapping[str, tuple[Numbers, Numbers]], *, everyone: Numbers, title: str = ""
) -> Figure:
    """How many images each identity gets when only the most confident pseudo-labels are selected, right and wrong ones.

    Args:
        panels: name to (pseudo-labels (n,), true (n,)) identities of the selected images, 0 to C - 1.
        everyone: (C,) how many images each identity has in truth; as a line, scaled to the number selected.
        title: the finding.

    Raises:
        ValueError: no panel, or rows of different length.

    >>> fig = selected_per_identity({"B": ([0, 0, 0, 1], [0, 0, 1, 1])}, everyone=[2, 2])
    >>> [int(bar.get_height()) for bar in fig.axes[0].patches[:4]]    # right ones of both, then wrong ones
    [2, 1, 1, 0]
    """
    everyone = np.sort(as_array("everyone", everyone, None))[::-1]
    n_panels, size = len(by_name("panels", panels)), len(everyone)
    fig, axes = canvas(1, n_panels, height=2.4, width=WIDTH, title=title, sharey=True)
    for ax, (name, (guessed, true)) in zip(axes.flat, panels.items(), strict=True):
        guessed = as_array(f"guesses of {name}", guessed, None)
        right = guessed == as_array(f"truth of {name}", true, len(guessed))
        hits, misses = (np.bincount(guessed[chosen], minlength=size).astype(float) for chosen in (right, ~right))
        order = np.lexsort((-hits, -(hits + misses)))
        ax.bar(np.arange(size), hits[order], width=1, color=BLUE, alpha=0.85, label="right")
        ax.bar(np.arange(size), misses[order], bottom=hits[order], width=1, color=ORANGE, alpha=0.85, label="wrong")
        fair, edges = everyone * len(guessed) / everyone.sum(), np.arange(size + 1) - 0.5
        ax.stairs(fair, edges, baseline=None, color=INK, linewidth=1, label="as the truth would have it")
        ax.set(title=f"{name}\n{int((hits + misses == 0).sum())} of {size} get none", xlabel="identities, sorted")
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("selected images")
    axes[0, -1].legend(loc="upper right")
    return fig


@style.styled
def guesses(
    panels: Mapping[str, tuple[Numbers, Numbers]], truth: Numbers, *, labelled: Sequence[int] = (), columns: int = 5,
    n_coloured: int = 9, title: str = ""
) -> Figure:  # fmt: skip
    """Maps of images in the colours of their pseudo-labels; wrong ones have a ring in the colour of the true identity.

    Args:
        panels: name to (coordinates (n, 2), pseudo-labels (n,)); a panel may show the true identities instead.
        truth: (n,) true identities, from 0.
        labelled: the images whose identity was given, drawn as stars.
        columns: panels in a row.
        n_coloured: colour the identities with the most images; the others stay grey and have no rings.
        title: the finding.

    Raises:
        ValueError: no panel, or rows of different length.

    >>> fig = guesses({"guessed": ([[0, 0], [1, 0], [1, 1]], [0, 1, 0])}, [0, 1, 1], labelled=[0, 1])
    >>> fig.axes[0].get_title(loc="left")
    'guessed: 100% wrong'
    """
    truth, labelled = as_array("truth", truth, None), np.asarray(labelled, dtype=int)
    values, counts = np.unique(truth, return_counts=True)
    coloured = values[np.lexsort((values, -counts))][:n_coloured]
    across = min(columns, len(by_name("panels", panels)))
    rows, side = -(-len(panels) // across), min(2.6, WIDTH / across)
    fig, axes = canvas(rows, across, height=(side + 0.15) * rows + 0.1, width=side * across, title=title)
    asked, size = np.setdiff1d(np.arange(len(truth)), labelled), 9 if len(truth) > 100 else 40
    palette = {name: IDENTITIES[k % len(IDENTITIES)] for k, name in enumerate(coloured)}
    for ax, (name, (points, names)) in zip(axes.flat, panels.items(), strict=False):
        points = as_array(f"coordinates of {name}", points, len(truth), 2)
        names = as_array(f"names of {name}", names, len(truth))
        wrong = asked[names[asked] != truth[asked]]
        ax.set_title(f"{name}: {len(wrong) / len(asked):.0%} wrong" if len(wrong) else name, fontsize=8)
        for order, (chosen, marker, area) in enumerate(((asked, "o", size), (labelled, "*", 50 + size))):
            for pale in (True, False):
                mine = chosen[np.isin(names[chosen], coloured) != pale]
                look = {"s": area, "marker": marker, "edgecolors": INK if order and not pale else "white"}
                look |= {"c": [palette.get(name, style.PALE) for name in names[mine]], "linewidths": 0.4}
                ax.scatter(*points[mine].T, zorder=1 if pale else 2 + 2 * order, **look)
        ringed = wrong[np.isin(names[wrong], coloured) | np.isin(truth[wrong], coloured)]
        rings = [palette.get(name, GREY) for name in truth[ringed]]
        ax.scatter(*points[ringed].T, s=2.4 * size, facecolors="none", edgecolors=rings, linewidths=0.9, zorder=3)
        style.bare(ax)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    return fig
