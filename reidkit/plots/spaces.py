"""Embeddings in the plane, and how well their groups hold together."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reidkit.plots import style
from reidkit.plots.style import IDENTITIES, MARKERS, SERIES, WIDTH, Numbers, as_array, by_name, canvas, styled


def feature_map_2d(x: Numbers, *, method: Literal["tsne", "umap", "pca"] = "tsne", seed: int = 0) -> np.ndarray:
    """Lay embeddings out in the plane so that near ones stay near; the same numbers for the same input and seed.

    t-SNE and UMAP both start from the principal axes, so that two runs (and two epochs) can be compared.

    Args:
        x: (n, d) embeddings, at least 4; a few thousand at most.
        method: `tsne` (perplexity 30, at most a third of n), `umap` (15 neighbours, one thread) or `pca`.
        seed: of the stochastic methods.

    Returns: (n, 2) coordinates without unit.

    Raises:
        ValueError: an unknown method, fewer than 4 embeddings, or embeddings that are all the same.

    >>> feature_map_2d(np.eye(6), method="pca").shape
    (6, 2)
    """
    x = np.ascontiguousarray(as_array("x", x, None, None), dtype=np.float32)
    if method not in ("tsne", "umap", "pca"):
        raise ValueError(f"method is {method!r}; use 'tsne', 'umap' or 'pca'.")
    if len(x) < 4 or x.shape[1] < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"x is {len(x)} x {x.shape[1]}; a map needs 4 or more finite embeddings of 2 or more dimensions."
        )
    if (x == x[0]).all():
        raise ValueError("all embeddings are equal (they have collapsed); there is nothing to lay out.")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if method == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # it says that TensorFlow is missing, which we do not use
            from umap import UMAP
    with threadpool_limits(1):  # the same map on any number of cores; OpenMP's threads and UMAP's would also fight
        if method == "umap":
            return UMAP(n_neighbors=min(15, len(x) - 1), init="pca", random_state=seed, n_jobs=1).fit_transform(x)
        axes = PCA(2, svd_solver="full").fit_transform(x)
        if method == "pca":
            return axes
        start = axes / max(axes[:, 0].std(), 1e-12) * 1e-4  # small, as t-SNE wants its start
        return TSNE(init=start, perplexity=min(30, (len(x) - 1) / 3), random_state=seed, n_jobs=1).fit_transform(x)


def _largest(labels: np.ndarray, n_coloured: int) -> list:
    """The `n_coloured` most frequent labels from 0 on, larger groups first, ties by label."""
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    return values[np.lexsort((values, -counts))][:n_coloured].tolist()


def _scatter(
    ax: Axes, points: np.ndarray, labels: np.ndarray, order: list, colours: Sequence[str], markers: str
) -> list[Line2D]:
    """Draw points of the labels in `order` in colour, all others in grey behind them; return a key for each label."""
    ax.scatter(*points[~np.isin(labels, order)].T, s=7, color=style.PALE, linewidths=0, zorder=1)
    looks = {label: (colours[k % len(colours)], markers[k % len(markers)]) for k, label in enumerate(order)}
    shuffled = np.random.default_rng(0).permutation(len(points))  # no label lies on top of all others
    for marker in dict.fromkeys(marker for _, marker in looks.values()):
        mine = [index for index in shuffled if looks.get(labels[index], ("", ""))[1] == marker]
        colour = [looks[labels[index]][0] for index in mine]
        ax.scatter(*points[mine].T, s=15, c=colour, marker=marker, linewidths=0.3, edgecolors="white", zorder=2)
    dot = {"linestyle": "", "markersize": 4}
    return [Line2D([], [], color=c, marker=m, label=str(label), **dot) for label, (c, m) in looks.items()]


@styled
def feature_space(
    coordinates: Numbers | Mapping[str, Numbers], *, identity: Numbers | None = None, camera: Numbers | None = None,
    pseudo: Numbers | None = None, n_coloured: int = 9, title: str = ""
) -> Figure:  # fmt: skip
    r"""Maps of one feature space side by side, each coloured by other labels; each panel says which.

    Args:
        coordinates: (n, 2), or name of the map ("t-SNE") to (n, 2), one row of panels each; with a single kind of
            labels, up to four maps stand in a row.
        identity: (n,) true identities.
        camera: (n,) cameras.
        pseudo: (n,) pseudo-labels, negative where an image has none. Where `identity` is given they have its colours,
            and wrong ones are ringed.
        n_coloured: colour the largest so many identities; the others stay grey.
        title: the finding.

    Raises:
        ValueError: no labels at all, or another number of labels than points.

    >>> fig = feature_space([[0, 0], [1, 1]], identity=[0, 1], camera=[0, 0])
    >>> [ax.get_title(loc="left").split("\n")[0] for ax in fig.axes]
    ['coloured by identity (truth)', 'coloured by camera']
    """
    maps = {name: as_array("coordinates", xy, None, 2) for name, xy in by_name("coordinates", coordinates).items()}
    n = len(next(iter(maps.values())))
    given = {"identity (truth)": identity, "pseudo-label": pseudo, "camera": camera}
    labels = {kind: as_array(kind, values, n) for kind, values in given.items() if values is not None}
    if not labels or any(len(points) != n for points in maps.values()):
        raise ValueError("give identity, camera or pseudo to colour by, and maps of the same points.")
    compare = {"identity (truth)", "pseudo-label"} <= labels.keys()
    wrong = (labels["pseudo-label"] != labels["identity (truth)"]) & (labels["pseudo-label"] >= 0) if compare else None
    columns = len(labels) if len(labels) > 1 else min(4, len(maps))
    rows = -(-len(maps) * len(labels) // columns)
    side, key = min(2.9, WIDTH / columns), 0.3 * ("camera" in labels)
    fig, axes = canvas(rows, columns, height=(side + 0.15) * rows + 0.4 + key, width=side * columns, title=title)
    for place, ((name, points), (kind, values)) in enumerate(product(maps.items(), labels.items())):
        ax, n_groups = axes.flat[place], len(np.unique(values[values >= 0]))
        if kind == "camera":
            markers = MARKERS if n_groups > len(SERIES) else "o"
            keys, says = _scatter(ax, points, values, np.unique(values).tolist(), SERIES, markers), f"all {n_groups}"
            if place == len(maps) * len(labels) - 1:
                look = {"fontsize": 7, "title_fontsize": 7, "handletextpad": 0, "columnspacing": 1}
                look |= {"handles": keys, "title": "camera", "ncols": min(6 if columns < 3 else 15, len(keys))}
                if len(labels) > 1:  # below its own column
                    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), **look)
                else:
                    fig.legend(loc="outside lower center", frameon=False, **look)
        else:
            shown = _largest(labels["identity (truth)"] if compare else values, n_coloured)
            _scatter(ax, points, values, shown, IDENTITIES, MARKERS)
            says = f"{len(shown)} of {n_groups} in colour" if n_groups > len(shown) else f"all {n_groups}"
        if kind == "pseudo-label" and compare:
            ax.scatter(*points[wrong].T, s=34, facecolors="none", edgecolors=style.INK, linewidths=0.7, zorder=3)
            says = f"{wrong.sum() / max((values >= 0).sum(), 1):.0%} wrong, ringed"
        if len(labels) == 1 < len(maps):
            ax.set_title(name, fontsize=8)
        elif place < columns:
            ax.set_title(f"coloured by {kind}\n{says}", fontsize=8)
        if len(labels) > 1 and place % columns == 0:
            ax.set_ylabel(name)
        style.bare(ax)
    for ax in axes.flat[len(maps) * len(labels) :]:
        ax.remove()
    return fig


@styled
def directions(spaces: Mapping[str, tuple[Numbers, Numbers]], *, title: str = "") -> Figure:
    """Embeddings of two or three dimensions by their direction, one colour per identity, up to four panels in a row.

    Two dimensions: the embeddings as they are, in one scale, with a ray for each identity's mean direction. Three
    dimensions: the unit vectors on a globe seen from above its equator; those on the far side are pale.

    Args:
        spaces: name to ((n, 2 or 3) embeddings, (n,) labels).
        title: the finding.

    Raises:
        ValueError: no space, or embeddings of another dimension.

    >>> fig = directions({"softmax": ([[1, 0], [0, 2.0]], [0, 1])})
    >>> fig.axes[0].get_title()
    'softmax'
    """
    columns = min(4, len(by_name("spaces", spaces)))
    rows, side = -(-len(spaces) // columns), min(2.5, WIDTH / columns)
    fig, axes = canvas(rows, columns, height=(side + 0.15) * rows, width=side * columns, title=title)
    for ax, (name, (x, labels)) in zip(axes.flat, spaces.items(), strict=False):
        x = as_array(f"x of {name}", x, None, None).astype(float)
        labels = as_array(f"labels of {name}", labels, len(x))
        if x.shape[1] not in (2, 3):
            raise ValueError(f"the embeddings of {name} have {x.shape[1]} dimensions; only 2 or 3 can be drawn.")
        (_flat if x.shape[1] == 2 else _globe)(ax, x, labels)
        ax.set_title(name, loc="center", fontweight="bold", fontsize=8)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
        ax.axis("off")
    for ax in axes.flat[len(spaces) :]:
        ax.remove()
    return fig


def _flat(ax: Axes, x: np.ndarray, labels: np.ndarray) -> None:
    """The plane, scaled to the length that nineteen of twenty embeddings stay below."""
    x = x / max(np.quantile(np.linalg.norm(x, axis=1), 0.95), 1e-12)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    for k, label in enumerate(np.unique(labels)):
        ray, colour = unit[labels == label].mean(0), IDENTITIES[k % len(IDENTITIES)]
        ax.plot(*np.outer([0, 1.05 / max(np.linalg.norm(ray), 1e-12)], ray).T, color=colour, linewidth=0.8, alpha=0.6)
        ax.scatter(*x[labels == label].T, s=9, color=colour, linewidths=0.2, edgecolors="white", zorder=2)


def _globe(ax: Axes, x: np.ndarray, labels: np.ndarray) -> None:
    """The unit sphere in parallel projection, its equator tilted by 25 degrees."""
    tilt, turn = np.deg2rad(25), np.linspace(0, 2 * np.pi, 100)
    ax.plot(np.cos(turn), np.sin(turn), color=style.PALE, linewidth=1)
    ax.plot(np.cos(turn), np.sin(tilt) * np.sin(turn), color=style.PALE, linewidth=0.7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
    up = np.cos(tilt) * unit[:, 2] + np.sin(tilt) * unit[:, 1]
    front = np.sin(tilt) * unit[:, 2] - np.cos(tilt) * unit[:, 1] >= 0
    for k, label in enumerate(np.unique(labels)):
        colour = IDENTITIES[k % len(IDENTITIES)]
        for side, look in ((~front, {"alpha": 0.25, "s": 5}), (front, {"alpha": 1.0, "s": 9})):
            mine = (labels == label) & side
            ax.scatter(unit[mine, 0], up[mine], color=colour, linewidths=0.2, edgecolors="white", zorder=2, **look)


@styled
def silhouettes(scores: Mapping[str, tuple[Numbers, Numbers]], *, title: str = "") -> Figure:
    """Silhouettes of one or more variants side by side: the sorted scores of each identity, and the mean as a line.

    Args:
        scores: name to (scores (n,) in -1..1, identities (n,)).
        title: the finding.

    Raises:
        ValueError: no variant, scores outside -1..1, or other lengths.

    >>> fig = silhouettes({"before": ([0.5, 0.1, -0.2], [0, 0, 1])})
    >>> fig.axes[0].get_title(loc="left").splitlines()
    ['before', 'mean 0.13, 33% below 0']
    """
    n_panels = len(by_name("scores", scores))
    fig, axes = canvas(1, n_panels, height=3.2, width=min(WIDTH, 2.5 * n_panels + 0.6), title=title, sharex=True)
    for ax, (name, (values, labels)) in zip(axes.flat, scores.items(), strict=True):
        values = as_array(f"scores of {name}", values, None)
        labels = as_array(f"labels of {name}", labels, len(values))
        if np.abs(values).max() > 1 + 1e-6:
            raise ValueError(f"scores of {name} reach {np.abs(values).max():.3g}; silhouettes lie in -1..1.")
        groups = sorted(np.unique(labels), key=lambda group: values[labels == group].mean())
        bottom, gap = 0.0, 0.15 * len(values) / len(groups)
        for rank, group in enumerate(groups):
            mine = np.sort(values[labels == group])
            edges, strength = bottom + np.arange(len(mine) + 1), 0.9 if rank % 2 else 0.6
            for part, colour in ((np.maximum(mine, 0), style.BLUE), (np.minimum(mine, 0), style.ORANGE)):
                ax.stairs(part, edges, orientation="horizontal", fill=True, color=colour, alpha=strength)
            if len(groups) <= 12:
                look = {"transform": ax.get_yaxis_transform(), "va": "center", "ha": "right", "fontsize": 7}
                ax.text(-0.02, edges.mean(), str(group), color=style.GREY, **look)
            bottom += len(mine) + gap
        style.mark(ax, values.mean())
        ax.axvline(0, color=style.GREY, linewidth=0.7)
        ax.set_title(f"{name}\nmean {values.mean():.2f}, {(values < 0).mean():.0%} below 0".replace("-", "−"))
        ax.set(xlabel="silhouette (−1..1)", yticks=[], ylim=(-gap, bottom))
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
    axes[0, 0].set_ylabel(f"images, grouped by identity (n = {len(values):,})", labelpad=14)
    return fig
