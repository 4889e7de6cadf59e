"""Soft multilabels: mined pairs, the threshold of agreement, and how cameras shift the multilabels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from reidkit.plots import style
from reidkit.plots.pictures import FRAMED_GAP, LEFT, VERDICTS, ImageSet, _image, _place, _write
from reidkit.plots.style import BLUE, DPI, ORANGE, SERIES, WIDTH, Numbers, as_array, by_name, canvas, one_axes, styled


@styled
def image_pairs(
    images: ImageSet, pairs: Mapping[str, Numbers], *, captions: Mapping[str, Sequence[str]] | None = None,
    title: str = ""
) -> Figure:  # fmt: skip
    """Pairs of images, a line for each group of pairs: one person = blue frames and ✓, two persons = orange and ✗.

    Args:
        images: n images with `pixels` (n, 3, h, w) uint8, `pids` and `camids` (n,).
        pairs: name of the group to positions (p, 2).
        captions: name of the group to p texts that stand beside ✓ or ✗.
        title: the finding.

    Raises:
        ValueError: no pair, a position that is no image, or another number of captions.

    >>> from types import SimpleNamespace
    >>> people = SimpleNamespace(pixels=np.zeros((3, 3, 8, 4), "uint8"), pids=[1, 1, 2], camids=[0, 1, 1])
    >>> fig = image_pairs(people, {"mined": [[0, 1], [0, 2]]})
    >>> [text.get_text() for text in fig.axes[0].texts if text.get_text() in ("✓", "✗")]
    ['✓', '✗']
    """
    n, h, w = len(images.pids), *_image(images.pixels[0]).shape[:2]
    groups = {name: as_array(f"pairs {name}".strip(), ij, None, 2) for name, ij in by_name("pairs", pairs).items()}
    texts = {name: (captions or {}).get(name, [""] * len(ij)) for name, ij in groups.items()}
    if any(ij.min() < 0 or ij.max() >= n for ij in groups.values()):
        raise ValueError(f"pairs name images that are not there; they are 0..{n - 1}.")
    if wrong := [name for name, ij in groups.items() if len(texts[name]) != len(ij)]:
        raise ValueError(f"{wrong[0]} has {len(groups[wrong[0]])} pairs and {len(texts[wrong[0]])} captions.")
    start = max(style.text_width(name, 8) for name in groups) + LEFT + 0.15
    across = max(map(len, groups.values()))
    step = min(2 * 64 / DPI + 0.22, (WIDTH - start) / across)
    width = (step - 0.22) / 2
    height = width * h / w
    pitch = height + 0.42
    fig, ax = style.sheet(start + across * step, len(groups) * pitch - 0.05, title=title)
    for line, (name, ij) in enumerate(groups.items()):
        y = line * pitch + 0.05
        ax.text(start - 0.1, y + height / 2, name, ha="right", va="center", fontsize=8)
        for place, (pair, text) in enumerate(zip(ij, texts[name], strict=True)):
            colour, sign = VERDICTS["right" if images.pids[pair[0]] == images.pids[pair[1]] else "wrong"]
            x, middle = start + place * step, start + place * step + width + FRAMED_GAP / 4
            for corner, index in zip((x, x + width + FRAMED_GAP / 2), pair, strict=True):
                _place(ax, _image(images.pixels[index]), (corner, y), (width, height), colour, 2.4)
            _write(ax, f"{sign} {text}".strip(), middle, y + height + 0.055, 7, colour, fontweight="bold")
            cameras = " · ".join(str(int(images.camids[index])) for index in pair)
            _write(ax, f"cam {cameras}", middle, y + height + 0.18, 6)
    return fig


@styled
def threshold_histogram(same: Numbers, different: Numbers, threshold: float, *, unit: str, title: str = "") -> Figure:
    """How many pairs of one person and of two lie where, on a logarithmic axis, and a threshold.

    Args:
        same, different: (n,) and (m,) numbers of pairs.
        threshold: what the pairs are held against.
        unit: what the numbers are.
        title: the finding.

    Raises:
        ValueError: no pair of one kind.

    >>> fig = threshold_histogram([0.9, 0.2], [0.1, 0.2, 0.3], 0.5, unit="agreement")
    >>> fig.axes[0].get_legend_handles_labels()[1]
    ['one person: 2 pairs, 50.00 % above', 'two persons: 3 pairs, 0.00 % above']
    """
    pairs = {"one person": as_array("same", same, None), "two persons": as_array("different", different, None)}
    ax, edges = one_axes(title=title), np.histogram_bin_edges(np.concatenate(list(pairs.values())), bins=50)
    for (name, values), colour in zip(pairs.items(), (BLUE, ORANGE), strict=True):
        count, above = np.histogram(values, edges)[0], 100 * (values > threshold).mean()
        ax.stairs(count, edges, fill=True, color=colour, alpha=0.25)
        ax.stairs(count, edges, color=colour, label=f"{name}: {len(values):,} pairs, {above:.2f} % above")
    ax.set(yscale="log", ylim=(0.8, None), xlabel=unit, ylabel="pairs")
    style.mark(ax, threshold, f"T = {threshold:.2f}")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98))
    return ax.figure


@styled
def camera_statistics(moments: Mapping[str, tuple[Numbers, Numbers]], *, title: str = "") -> Figure:
    """How far the multilabels of each camera lie from all cameras' mean: their means, and their standard deviations.

    Args:
        moments: name of the moment ("before") to (log-multilabels (n, a), cameras (n,)), each with two images or more.
        title: the finding.

    Raises:
        ValueError: no moment, or rows that do not fit each other.

    >>> fig = camera_statistics({"before": (np.eye(4), [0, 0, 1, 1])})
    >>> [ax.get_title(loc="left") for ax in fig.axes]
    ['mean, μᵥ − μ', 'spread, σᵥ − σ']
    """
    note = "Dot: median of all agents; bar: 10 to 90 % of them; number: root mean square of all agents and cameras."
    fig, axes = canvas(1, 2, height=2.7, title=title, note=note)
    for k, (name, (x, camids)) in enumerate(by_name("moments", moments).items()):
        x = as_array(f"multilabels of {name}", x, None, None)
        camids = as_array(f"cameras of {name}", camids, len(x))
        cameras = np.unique(camids)
        place = np.arange(len(cameras)) + 0.7 * ((k + 0.5) / len(moments) - 0.5)
        for ax, statistic in zip(axes[0], (np.mean, lambda rows, axis: rows.std(axis, ddof=1)), strict=True):
            values = np.stack([statistic(x[camids == camera], 0) for camera in cameras])
            shift = values - values.mean(0)
            low, middle, high = np.quantile(shift, (0.1, 0.5, 0.9), axis=1)
            label = f"{name} {np.sqrt(np.square(shift).mean()):.2f}"
            ax.vlines(place, low, high, color=SERIES[k], linewidth=3, alpha=0.45)
            ax.plot(place, middle, "o", color=SERIES[k], markersize=4, label=label)
            ax.set_xticks(range(len(cameras)), [str(camera) for camera in cameras])
    for ax, what in zip(axes[0], ("mean, μᵥ − μ", "spread, σᵥ − σ"), strict=True):
        ax.set(title=what, xlabel="camera", ylim=(None, ax.get_ylim()[1] + 0.15 * np.ptp(ax.get_ylim())))
        ax.axhline(0, color=style.GREY, linewidth=0.7)
        ax.legend(loc="upper left", ncols=len(moments), handletextpad=0, columnspacing=0.9, borderpad=0)
    axes[0, 0].set_ylabel("log-multilabel (nats)")
    return fig
