"""Pictures of multilabels: the right frames around the right pairs, counts and statistics as by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle, StepPatch

from reidkit import plots
from reidkit.plots.style import BLUE, ORANGE

RNG = np.random.default_rng(0)
PEOPLE = SimpleNamespace(
    pixels=torch.from_numpy(RNG.integers(0, 256, (6, 3, 64, 32), dtype=np.uint8)),
    pids=torch.tensor([7, 7, 8, 8, 9, 7]),
    camids=torch.tensor([0, 1, 0, 2, 1, 3]),
)
LOG_Y = RNG.normal(size=(40, 5)) - np.arange(40)[:, None] % 4
CAMIDS = np.arange(40) % 4
LONG = "A finding so long that it must be wrapped: cameras shift what is said of a stranger, and a term pulls it back"
FIGURES = {
    "image_pairs": lambda title: plots.image_pairs(
        PEOPLE,
        {"positive": [[0, 1], [2, 4]] * 4, "hard negative": [[3, 2], [0, 2], [5, 1]]},
        captions={"positive": ["A 0.81"] * 8, "hard negative": ["A 0.12"] * 3},
        title=title,
    ),
    "threshold_histogram": lambda title: plots.threshold_histogram(
        RNG.random(300), RNG.random(3000) ** 8, 0.7, unit="agreement", title=title
    ),
    "camera_statistics": lambda title: plots.camera_statistics(
        dict.fromkeys(("before", "control", "MAR"), (LOG_Y, CAMIDS)), title=title
    ),
}


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_one_figure_with_all_its_text_on_the_paper(name):
    fig = FIGURES[name](LONG)
    assert plt.get_fignums() == [fig.number]
    fig.canvas.draw()
    everything, (width, height) = fig.get_tightbbox(fig.canvas.get_renderer()), fig.get_size_inches()
    assert everything.x0 >= -0.01 and everything.y0 >= 0 and everything.x1 <= width + 0.01 and everything.y1 <= height
    assert width <= 7.51


def test_pairs_have_the_frames_of_their_true_answer():
    pairs = {"positive": torch.tensor([[0, 1], [1, 2]]), "negative": torch.tensor([[3, 2]])}
    captions = {"positive": ["A 0.9", "A 0.8"], "negative": ["A 0.1"]}
    (ax,) = plots.image_pairs(PEOPLE, pairs, captions=captions).axes
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [to_hex(frame.get_edgecolor()).upper() for frame in frames] == [BLUE, BLUE, ORANGE, ORANGE, BLUE, BLUE]
    for image, shown in zip((0, 1, 1, 2, 3, 2), ax.images, strict=True):
        np.testing.assert_array_equal(shown.get_array(), PEOPLE.pixels[image].permute(1, 2, 0) & 0xFC)
    assert [text for text in texts(ax) if "A 0" in text] == ["✓ A 0.9", "✗ A 0.8", "✓ A 0.1"]
    assert [text for text in texts(ax) if "cam" in text] == ["cam 0 · 1", "cam 1 · 0", "cam 2 · 0"]
    extents = [shown.get_extent() for shown in ax.images]
    assert extents[0][1] < extents[1][0] and extents[1][1] < extents[2][0]  # side by side, and the next pair beyond
    assert extents[2][0] - extents[1][1] > extents[1][0] - extents[0][1]
    assert extents[4][3] > extents[0][2]  # the second group below the first


@pytest.mark.parametrize(
    ("pairs", "captions", "sentence"),
    [
        ({}, None, "pairs is empty"),
        ({"positive": np.zeros((0, 2), int)}, None, "pairs positive is empty"),
        ({"positive": [[0, 6]]}, None, r"pairs name images that are not there; they are 0\.\.5"),
        ({"positive": [[-1, 2]]}, None, "pairs name images that are not there"),
        ({"positive": [[0, 1]]}, {"positive": ["a", "b"]}, "positive has 1 pairs and 2 captions"),
    ],
)
def test_pairs_that_cannot_be_shown_are_refused(pairs, captions, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.image_pairs(PEOPLE, pairs, captions=captions)


def test_every_pair_is_in_the_histogram_and_the_legend_counts_those_above():
    same, different = RNG.random(200), RNG.random(5000) ** 4
    (ax,) = plots.threshold_histogram(same, different, 0.5, unit="agreement").axes
    filled = [patch for patch in ax.patches if isinstance(patch, StepPatch) and patch.get_fill()]
    assert [patch.get_data().values.sum() for patch in filled] == [200, 5000]
    assert [to_hex(patch.get_facecolor()).upper() for patch in filled] == [BLUE, ORANGE]
    above = [100 * (values > 0.5).sum() / len(values) for values in (same, different)]
    names = ax.get_legend_handles_labels()[1]
    assert names == [
        f"one person: 200 pairs, {above[0]:.2f} % above",
        f"two persons: 5,000 pairs, {above[1]:.2f} % above",
    ]
    assert ax.lines[0].get_xdata()[0] == 0.5 and "T = 0.50" in texts(ax) and ax.get_yscale() == "log"


def test_a_pair_on_the_threshold_is_not_above_it():
    (ax,) = plots.threshold_histogram([0.5, 0.6], [0.5], 0.5, unit="agreement").axes
    assert [name.split(", ")[1] for name in ax.get_legend_handles_labels()[1]] == ["50.00 % above", "0.00 % above"]


def test_camera_statistics_are_those_of_a_loop():
    fig = plots.camera_statistics({"before": (LOG_Y, CAMIDS), "after": (LOG_Y / 2, CAMIDS)})
    for ax, statistic in zip(fig.axes, (lambda x: x.mean(), lambda x: x.std(ddof=1)), strict=True):
        table = np.array([[statistic(LOG_Y[camera == CAMIDS, agent]) for agent in range(5)] for camera in range(4)])
        shift = table - table.mean(0)
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        bars = [found for found in ax.collections if isinstance(found, LineCollection)]
        for part, dot, bar in zip((shift, shift / 2), dots, bars, strict=True):
            np.testing.assert_allclose(dot.get_ydata(), np.median(part, 1))
            ends = [segment[:, 1] for segment in bar.get_segments()]
            np.testing.assert_allclose(ends, np.quantile(part, (0.1, 0.9), axis=1).T)
        rms = np.sqrt((shift**2).mean())
        assert ax.get_legend_handles_labels()[1] == [f"before {rms:.2f}", f"after {rms / 2:.2f}"]
        assert np.all(dots[0].get_xdata() < dots[1].get_xdata())
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "3"]


def test_camera_statistics_refuse_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="cameras of before has shape"):
        plots.camera_statistics({"before": (LOG_Y, CAMIDS[1:])})
    with pytest.raises(ValueError, match="moments is empty"):
        plots.camera_statistics({})
