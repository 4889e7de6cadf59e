"""Pictures of labels and clusters of generated images: the right numbers in the right place, nothing clipped."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from reidkit.plots.generated import cluster_panels, label_bars
from reidkit.plots.style import BLUE, ORANGE, PALE, SERIES

LONG = "A finding so long that it must be wrapped: the more identities there are, the less a label says that names all"
RNG = np.random.default_rng(0)
XY = RNG.normal(size=(60, 2))
RULES = {
    "one-hot": [1.0, 0.0, 0.0],
    "LSR, ε = 0.1": [1 - 0.2 / 3, 0.1 / 3, 0.1 / 3],
    "LSRO": [1 / 3, 1 / 3, 1 / 3],
    "SLSR": [0.5, 0.0, 0.5],
}


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def clusters(k):
    return XY, np.arange(60) % k, np.linspace(-0.5, 1, 60)


FIGURES = {
    "label_bars": lambda title: label_bars(RULES, title=title),
    "label_bars_many": lambda title: label_bars(
        {"LSRO": np.full(100, 0.01), "SLSR": np.arange(100) % 2 / 50}, title=title
    ),
    "cluster_panels": lambda title: cluster_panels(
        {f"K = {k}, {space}": clusters(k) for space in ("plane", "512-d") for k in range(2, 6)}, title=title
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_one_open_figure_with_all_its_text_on_the_paper(name):
    fig = FIGURES[name](LONG)
    assert plt.get_fignums() == [fig.number]
    fig.canvas.draw()
    renderer, (width, height) = fig.canvas.get_renderer(), fig.get_size_inches()
    everything = fig.get_tightbbox(renderer)  # inches
    assert everything.x0 >= -0.01 and everything.y0 >= 0 and everything.x1 <= width + 0.01 and everything.y1 <= height
    assert width <= 7.51 and fig._suptitle.get_text().replace("\n", " ") == LONG
    titles = [ax._left_title.get_window_extent(renderer) for ax in fig.axes]
    for first, second in itertools.combinations(titles, 2):
        assert not first.overlaps(second)


# --------------------------------------------------------------------------------------------------------- label bars


def test_bars_are_the_probabilities_and_the_title_tells_their_entropy():
    fig = label_bars(RULES)
    for ax, (name, label) in zip(fig.axes, RULES.items(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(label)
        assert [text.get_text() for text in ax.texts] == [f"{p:.2f}" for p in label]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
        assert ax._left_title.get_text().startswith(f"{name}\n")
    says = [ax._left_title.get_text().split("\n")[1] for ax in fig.axes]
    assert says == ["entropy 0.00 nats", "entropy 0.29 nats", "entropy 1.10 nats", "entropy 0.69 nats"]  # ln 3 and ln 2
    assert len({ax.get_ylim() for ax in fig.axes}) == 1


def test_many_identities_have_no_numbers_and_one_scale():
    fig = FIGURES["label_bars_many"]("")
    assert [ax.get_xlabel() for ax in fig.axes] == ["100 identities"] * 2 and not any(ax.texts for ax in fig.axes)
    assert fig.axes[0].get_ylim()[1] == pytest.approx(fig.axes[1].get_ylim()[1]) and fig.axes[0].get_ylim()[1] > 0.02
    heights = fig.axes[1].patches[0].get_data().values
    assert heights[:4].tolist() == [0, 0.02, 0, 0.02]


def test_one_label_alone_needs_no_name_and_reads_a_tensor():
    fig = label_bars(torch.tensor([0.25, 0.75]))
    assert [bar.get_height() for bar in fig.axes[0].patches] == [0.25, 0.75]
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["0", "1"]
    assert fig.axes[0]._left_title.get_text() == "entropy 0.56 nats"


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({}, "labels is empty"),
        ({"a": [0.5, 0.6]}, "a sums to 1.1; a label is probabilities that sum to 1"),
        ({"a": [1.5, -0.5]}, "a sums to 1, with -0.5; a label is probabilities"),
        ({"a": [0.5, 0.5], "b": [1.0]}, r"label b has shape \(1,\); this plot needs \(2\)"),
    ],
)
def test_what_is_no_label_is_refused(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        label_bars(labels)


# ----------------------------------------------------------------------------------------------------- cluster panels


def test_each_point_has_the_colour_of_its_cluster_and_centres_are_means():
    points = np.array([[0.0, 0], [2, 0], [10, 10], [12, 10], [11, 13]])
    labels, scores = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0.9, 0.8, 0.7, 0.9, 0.7])
    ax = cluster_panels({"K = 2": (points, labels, scores)}).axes[0]
    assert ax._left_title.get_text() == "K = 2\nsilhouette 0.80"
    colours = {}
    for dots in ax.collections:
        at, fill = dots.get_offsets(), dots.get_facecolors()
        colours |= {tuple(xy): to_hex(colour).upper() for xy, colour in zip(at, itertools.cycle(fill), strict=False)}
    assert [colours[tuple(xy)] for xy in points] == [BLUE] * 2 + [ORANGE] * 3
    centres = [dots.get_offsets()[0].tolist() for dots in ax.collections[1:]]
    assert centres == [[1, 0], pytest.approx([11, 11])]
    assert [text.get_text() for text in ax.figure.legends[0].texts] == ["0", "1"]


def test_panels_stand_four_in_a_row_and_a_silhouette_below_zero_has_its_sign():
    fig = FIGURES["cluster_panels"]("")
    tops = [ax.get_position().y1 for ax in fig.axes]
    assert len(fig.axes) == 8 and len(set(np.round(tops, 3))) == 2
    low = cluster_panels({"bad": (XY, np.arange(60) % 2, np.full(60, -0.25))}).axes[0]
    assert low._left_title.get_text() == "bad\nsilhouette −0.25"
    assert len(cluster_panels({name: clusters(3) for name in "abc"}).axes) == 3


def test_a_cluster_keeps_its_colour_where_another_one_is_empty_and_what_is_in_none_is_pale():
    ax = cluster_panels({"two of three": (XY, np.where(np.arange(60) < 2, -1, 2 * (np.arange(60) % 2)), None)}).axes[0]
    assert ax._left_title.get_text() == "two of three"
    colours = {to_hex(fill).upper() for dots in ax.collections for fill in dots.get_facecolors()}
    assert {PALE, SERIES[0], SERIES[2]} <= colours and SERIES[1] not in colours
    assert to_hex(ax.figure.legends[0].legend_handles[2].get_color()).upper() == SERIES[2]


@pytest.mark.parametrize(
    ("panel", "sentence"),
    [
        ((XY, np.zeros(59), None), "clusters of a has shape"),
        ((np.zeros((60, 3)), np.zeros(60), None), "points of a has shape"),
        ((XY, np.zeros(60), np.zeros(3)), "silhouettes of a has shape"),
        ((XY, np.arange(60), None), "a has 60 clusters; only 8 can be told apart by colour"),
    ],
)
def test_panels_that_do_not_fit_are_refused(panel, sentence):
    with pytest.raises(ValueError, match=sentence):
        cluster_panels({"a": panel})
    with pytest.raises(ValueError, match="panels is empty"):
        cluster_panels({})
