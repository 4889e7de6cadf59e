"""Generated images: the label distributions they are given, and the clusters these come from.

The images themselves are shown by `contact_sheet`: epochs beside each other, or real ones above generated ones.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reidkit.plots import style
from reidkit.plots.style import BLUE, SERIES, WIDTH, Numbers, as_array, by_name, canvas, styled

FEW = 6  # bars that have room for a number each


@styled
def label_bars(labels: Numbers | Mapping[str, Numbers], *, title: str = "") -> Figure:
    """The label distribution that each method gives an image: one bar per identity, one panel per method, in one scale.

    Above each panel stands the entropy, which is the smallest cross-entropy that the label leaves: 0 for one
    identity, the logarithm of their number where several are equally likely.

    Args:
        labels: name of the method to (c,) probabilities of the identities, or (c,) alone.
        title: the finding.

    Raises:
        ValueError: no label, probabilities that do not sum to 1, or another number of them.

    >>> fig = label_bars({"LSRO": [0.25] * 4, "SLSR": [0.5, 0.5, 0, 0]})
    >>> [ax.get_title(loc="left").splitlines() for ax in fig.axes]
    [['LSRO', 'entropy 1.39 nats'], ['SLSR', 'entropy 0.69 nats']]
    """
    bars, size = {}, None
    for name, label in by_name("labels", labels).items():
        bars[name] = as_array(f"label {name}".strip(), label, size).astype(float)
        size, low, total = len(bars[name]), bars[name].min(), bars[name].sum()
        if low < 0 or abs(total - 1) > 1e-4:
            negative = f", with {low:g}" if low < 0 else ""
            raise ValueError(
                f"{name or 'the label'} sums to {total:g}{negative}; a label is probabilities that sum to 1."
            )
    across = min(4, len(bars))
    down = -(-len(bars) // across)
    width = WIDTH if across > 2 else 3.2 * across
    fig, axes = canvas(down, across, height=2.1 * down, width=width, title=title, sharey=True)
    place, top = np.arange(size), max(label.max() for label in bars.values())
    for ax, (name, label) in zip(axes.flat, bars.items(), strict=False):
        held = label[label > 0]
        ax.set_title(f"{name}\nentropy {abs((held * np.log(held)).sum()):.2f} nats".strip())
        ax.set(ylim=(0, 1.12 * top), xlabel="identity" if size <= FEW else f"{size:,} identities")
        ax.grid(axis="x", visible=False)
        if size <= FEW:
            ax.bar(place, label, width=0.7, color=BLUE, alpha=0.85)
            ax.set_xticks(place, [str(number) for number in place])
            for x, p in enumerate(label):
                ax.annotate(f"{p:.2f}", (x, p), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        else:
            ax.stairs(label, np.arange(size + 1) - 0.5, fill=True, color=BLUE, alpha=0.85)
            ax.set_xlim(-0.5, size - 0.5)
    for ax in axes[:, 0]:
        ax.set_ylabel("probability")
    for ax in axes.flat[len(bars) :]:
        ax.remove()
    return fig


@styled
def cluster_panels(panels: Mapping[str, tuple[Numbers, Numbers, Numbers | None]], *, title: str = "") -> Figure:
    """Clusters of one set of images for several numbers of clusters, up to four panels in a row.

    Args:
        panels: name ("K = 3") to (points (n, 2), clusters (n,) from 0, silhouettes (n,) or None). The mean of the
            silhouettes, of whatever space they are from, stands above the panel. A negative cluster is none.
        title: the finding.

    Raises:
        ValueError: no panel, rows that do not fit each other, or more clusters than there are colours.

    >>> fig = cluster_panels({"K = 2": ([[0, 0], [1, 0], [8, 8], [9, 8]], [0, 0, 1, 1], [0.9, 0.9, 0.8, 0.8])})
    >>> fig.axes[0].get_title(loc="left").splitlines()
    ['K = 2', 'silhouette 0.85']
    """
    across = min(4, len(by_name("panels", panels)))
    rows, side = -(-len(panels) // across), min(2.9, WIDTH / across)
    fig, axes = canvas(rows, across, height=(side + 0.3) * rows + 0.35, width=side * across, title=title)
    most = 0
    for ax, (name, (points, clusters, scores)) in zip(axes.flat, panels.items(), strict=False):
        points = as_array(f"points of {name}", points, None, 2)
        clusters = as_array(f"clusters of {name}", clusters, len(points)).astype(int)
        if clusters.max() >= len(SERIES):
            n_clusters, n_colours = clusters.max() + 1, len(SERIES)
            raise ValueError(f"{name} has {n_clusters} clusters; only {n_colours} can be told apart by colour.")
        says = ""
        if scores is not None:
            scores = as_array(f"silhouettes of {name}", scores, len(points))
            says = f"\nsilhouette {scores.mean():.2f}".replace("-", "−")
        colours = np.where(clusters < 0, style.PALE, np.array(SERIES)[clusters])
        order = np.random.default_rng(0).permutation(len(points))  # no cluster lies on top of all others
        ax.scatter(*points[order].T, s=9 if len(points) < 2000 else 3, c=colours[order], linewidths=0, alpha=0.75)
        for cluster in np.unique(clusters[clusters >= 0]):
            centre = points[clusters == cluster].mean(0)
            ax.scatter(*centre, s=110, color=SERIES[cluster], edgecolors=style.INK, marker="X", zorder=3)
        most = max(most, clusters.max() + 1)
        ax.set_title(f"{name}{says}")
        style.bare(ax)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    keys = [Line2D([], [], color=colour, marker="o", linestyle="", markersize=4) for colour in SERIES[:most]]
    look = {"title": "cluster (cross: its centre)", "title_fontsize": 7, "handletextpad": 0, "columnspacing": 1}
    fig.legend(keys, [str(cluster) for cluster in range(most)], loc="outside lower center", ncols=most, **look)
    return fig
