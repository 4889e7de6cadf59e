"""Pictures: the right marks in the right place, nothing clipped or overlapping, no trace left behind."""

import itertools
import math
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, Rectangle

from reidkit import plots
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.metrics.retrieval import evaluate_distances
from reidkit.metrics.verification import equal_error_rate
from reidkit.plots.diagrams import precision_steps
from reidkit.plots.pictures import ranking
from reidkit.plots.portraits import pulls
from reidkit.plots.style import BLUE, IDENTITIES, INK, ORANGE

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def people(n: int, pids=None, camids=None, size=(8, 4)) -> SimpleNamespace:
    """Random images of given people in given cameras."""
    pixels = torch.from_numpy(RNG.integers(0, 256, (n, 3, *size), dtype=np.uint8))
    return SimpleNamespace(
        pixels=pixels,
        pids=torch.arange(n) if pids is None else torch.tensor(pids),
        camids=torch.zeros(n, dtype=torch.int64) if camids is None else torch.tensor(camids),
    )


def texts(fig) -> list[str]:
    """Every text drawn into the axes of a figure, in the order of drawing."""
    return [text.get_text() for ax in fig.axes for text in ax.texts if text.get_text()]


def all_texts(fig) -> list:
    """Every text of a figure but the numbers at its ticks."""
    parts = [*fig.texts]
    for ax in fig.axes:
        parts += [*ax.texts, ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
        parts += ax.get_legend().texts if ax.get_legend() else []
    return [*parts, *(text for text in (fig._suptitle, fig._supxlabel) if text and text not in parts)]


def curve(n=12):
    return SimpleNamespace(cmc=np.linspace(0.4, 0.9, n), mAP=0.5)


XY = RNG.normal(size=(60, 2))
LABELS = RNG.integers(0, 12, 60)
SPHERE = np.column_stack([XY, XY[::-1, 0]])
SCORES = (RNG.uniform(-0.5, 1, 60), LABELS % 5)
LONG = "A finding so long that it must be wrapped: the ranked list helps most where cameras differ, and least at night"
QUERY, GALLERY = people(3, [1, 2, 3], [0, 0, 0], (64, 32)), people(30, [1, 2, 3] * 10, [0, 1, 2, 3, 4] * 6, (64, 32))
DIST = RNG.random((3, 30))
FIGURES = {
    "contact_sheet": lambda title: plots.contact_sheet(
        GALLERY.pixels[:6], columns=3, row_titles=["day", "night, rain"], column_titles=["a", "b", "c"], title=title
    ),
    "captions": lambda title: plots.contact_sheet(
        GALLERY.pixels[:4], captions=["one", "two", "three", "four"], title=title
    ),
    "ranked_lists": lambda title: plots.ranked_lists(QUERY, GALLERY, DIST, title=title),
    "film_strip": lambda title: plots.film_strip(QUERY, GALLERY, {"epoch 0": DIST, "epoch 1": 1 - DIST}, title=title),
    "cmc_curve": lambda title: plots.cmc_curve({"raw pixels": curve(), "baseline": curve()}, title=title),
    "distance_histogram": lambda title: plots.distance_histogram(DIST[0], DIST[1] + 0.5, rates=True, title=title),
    "training_curves": lambda title: plots.training_curves(
        {"epoch": [1, 2, 3], **{key: [3.0, 2, 1] for key in "abcd"}}, title=title
    ),
    "bars": lambda title: plots.bars_with_interval(
        {"a long name of a variant": (0.3, 0.2, 0.4), "b": -0.2}, unit="mAP", reference={"paper": 0.4}, title=title
    ),
    "knob_curve": lambda title: plots.knob_curve(
        [0.1, 1, 10], [1, 2, 1], xlabel="T", ylabel="mAP", log=True, default=1, title=title
    ),
    "knob_panels": lambda title: plots.knob_panels(
        {"T": ([0.1, 1, 10], [1, float("nan"), 1], 1), "r": ([0.2, 0.7], [1, 2], None)},
        ylabel="mAP (%)",
        log=["T"],
        title=title,
    ),
    "maps_by_camera": lambda title: plots.feature_space(
        {f"map {number}": XY for number in range(5)}, camera=LABELS % 6, title=title
    ),
    "lr_schedule": lambda title: plots.lr_schedule([0.1, 1, 0.1], base=3e-4, title=title),
    "heatmap": lambda title: plots.heatmap(
        DIST[:, :4], rows="abc", columns="defg", xlabel="x", ylabel="y", unit="u", title=title
    ),
    "feature_space": lambda title: plots.feature_space(
        {"t-SNE": XY, "UMAP": -XY}, identity=LABELS, camera=LABELS % 4, pseudo=LABELS[::-1].copy(), title=title
    ),
    "directions": lambda title: plots.directions(
        {"flat": (XY, LABELS), "globe": (SPHERE, LABELS), "more": (XY, LABELS)}, title=title
    ),
    "maps_by_identity": lambda title: plots.feature_space(
        {f"map {number}": XY for number in range(6)}, identity=LABELS, title=title
    ),
    "paired_scatter": lambda title: plots.paired_scatter(
        [0.1, 0.5, 0.9], [0.3, 0.4, 0.9], names=("softmax", "Lin"), title=title
    ),
    "silhouettes": lambda title: plots.silhouettes({"before": SCORES, "after": SCORES, "later": SCORES}, title=title),
    "ranking_strip": lambda title: plots.ranking_strip(
        {"query 1": ["relevant", "junk", "wrong"]}, notes={"query 1": "AP 1.0"}, title=title
    ),
    "average_precision": lambda title: plots.average_precision_areas([0, 1, 1, 0, 1], title=title),
    "neighbour_steps": lambda title: plots.neighbour_steps(
        XY, 0, {"nearest": [1, 2], "reciprocal": [1]}, pids=LABELS, title=title
    ),
    "flow": lambda title: plots.flow(
        {"a": (0, 0, "in"), "b": (1, 0.5, "two\nlines"), "c": (2, 0, "out")}, [("a", "b", "x"), ("b", "c")], title=title
    ),
    "loss_portraits": lambda title: plots.loss_portraits(dict.fromkeys("abc", batch_hard_triplet_loss), title=title),
    "course_map": lambda title: plots.course_map(
        {"02": (0, 1, batch_hard_triplet_loss)},
        xticks=["pairs", "lists"],
        yticks=["none", "all"],
        xlabel="x",
        ylabel="y",
        title=title,
    ),
}


# ------------------------------------------------------------------------------------------------------ every picture


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_one_open_figure_with_all_its_text_on_the_paper(name):
    fig = FIGURES[name](LONG)
    assert plt.get_fignums() == [fig.number]
    fig.canvas.draw()
    renderer, (width, height) = fig.canvas.get_renderer(), fig.get_size_inches()
    everything = fig.get_tightbbox(renderer)  # inches
    assert everything.x0 >= -0.01 and everything.y0 >= 0 and everything.x1 <= width + 0.01 and everything.y1 <= height
    assert width <= 7.51
    shown = [text for text in all_texts(fig) if text.get_visible() and text.get_text().strip()]
    assert any(text.get_text().replace("\n", " ") == LONG for text in shown)
    boxes = [text.get_window_extent(renderer) for text in shown]
    for (first, box), (second, other) in itertools.combinations(zip(shown, boxes, strict=True), 2):
        across, down = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
        assert across <= 2 or down <= 2, (first, second)


def test_drawing_leaves_the_settings_of_others_alone():
    with plt.rc_context({"font.size": 3.0, "axes.grid": False, "figure.dpi": 50}):
        before = dict(matplotlib.rcParams)
        assert plots.lr_schedule([1, 2]).dpi == 120
        with pytest.raises(ValueError, match="is empty"):
            plots.lr_schedule([])
        assert dict(matplotlib.rcParams) == before


def test_ticks_keep_the_house_style_when_they_are_made_after_the_call():
    fig = plots.knob_curve(np.arange(20), np.arange(20), xlabel="x", ylabel="y")
    fig.canvas.draw()
    assert {label.get_fontsize() for label in fig.axes[0].get_xticklabels()} == {7.5}


# ----------------------------------------------------------------------------------------------------------- pictures


def test_contact_sheet_shows_each_image_once_in_reading_order():
    pixels = people(7).pixels
    ax = plots.contact_sheet(pixels, columns=3).axes[0]
    assert len(ax.images) == 7
    for shown, image in zip(ax.images, pixels, strict=True):
        np.testing.assert_array_equal(shown.get_array(), image.permute(1, 2, 0) & 0xFC)
    corners = [(round(image.get_extent()[3], 2), round(image.get_extent()[0], 2)) for image in ax.images]  # (y, x)
    assert corners == sorted(corners) and len({y for y, _ in corners}) == 3 and len({x for _, x in corners}) == 3
    for one, two in itertools.combinations([image.get_extent() for image in ax.images], 2):
        assert one[1] < two[0] or two[1] < one[0] or one[2] < two[3] or two[2] < one[3]  # no two overlap


def test_contact_sheet_reads_grids_and_lists_with_holes_alike():
    pixels = people(6).pixels
    grid = plots.contact_sheet(pixels.view(2, 3, 3, 8, 4)).axes[0].images
    nested = plots.contact_sheet([list(pixels[:3]), list(pixels[3:])]).axes[0].images
    assert [image.get_extent() for image in grid] == [image.get_extent() for image in nested]
    holes = plots.contact_sheet([[pixels[0], None, pixels[1]], [pixels[2]]], captions=["a", "b", "c"])
    assert len(holes.axes[0].images) == 3 and texts(holes) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pixels": torch.zeros(2, 1, 8, 4, dtype=torch.uint8)}, "has shape"),
        ({"pixels": torch.zeros(3, 8, 4, dtype=torch.uint8)}, "has shape"),
        ({"pixels": torch.zeros(2, 3, 8, 4)}, "undo the normalisation"),
        ({"pixels": torch.zeros(0, 3, 8, 4, dtype=torch.uint8)}, "is empty"),
        ({"pixels": people(4).pixels, "columns": 0}, "columns is 0"),
        ({"pixels": people(4).pixels, "row_titles": ["a", "b"]}, "row_titles has 2 texts; this sheet needs 1"),
        ({"pixels": people(4).pixels, "captions": ["a"]}, "captions has 1 texts; this sheet needs 4"),
    ],
)
def test_contact_sheet_refuses_what_it_cannot_lay_out(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.contact_sheet(**arguments)


def test_ranked_list_of_five_images_by_hand():
    # Query: person 7 in camera 0. Near to far: junk (same camera), wrong, junk (pid -1), right in camera 2, wrong.
    gallery = people(5, [7, 7, 5, -1, 6], [0, 2, 0, 1, 1])
    dist = [[0.1, 0.4, 0.2, 0.3, 0.5]]
    fig = plots.ranked_lists(people(1, [7], [0]), gallery, dist, top_k=3)
    assert [text for text in texts(fig) if text[0] in "✓✗"] == ["✗ 0.20", "✓ 0.40", "✗ 0.50"]
    assert [text for text in texts(fig) if text.startswith("cam")] == ["cam 0", "cam 0", "cam 2", "cam 1"]
    assert "pid 7" in texts(fig)
    frames = [to_hex(patch.get_edgecolor()).upper() for patch in fig.axes[0].patches if isinstance(patch, Rectangle)]
    assert frames == [INK.upper(), ORANGE, BLUE, ORANGE]
    np.testing.assert_array_equal(fig.axes[0].images[2].get_array(), gallery.pixels[1].permute(1, 2, 0) & 0xFC)
    fig = plots.ranked_lists(people(1, [7], [0]), gallery, dist, top_k=4, keep_junk=True)
    assert [text for text in texts(fig) if text[0] in "✓✗–"] == ["– 0.10", "✗ 0.20", "– 0.30", "✓ 0.40"]
    assert [text for text in texts(fig) if text.isdigit() or text == "junk"] == ["junk", "1", "junk", "2"]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 2), st.integers(0, 1)), min_size=1, max_size=12),
    st.integers(0, 2),
    st.integers(0, 1),
)
def test_ranking_equals_sorting_what_is_not_junk(gallery, pid, camid):
    dist, pids, camids = (np.array(column) for column in zip(*gallery, strict=True))
    kept = [i for i, (_, p, c) in enumerate(gallery) if p != -1 and (p, c) != (pid, camid)]
    assert ranking(dist, pid, camid, pids, camids).tolist() == sorted(kept, key=lambda i: (gallery[i][0], i))


def test_film_strip_shows_the_query_once_and_a_line_for_each_moment():
    fig = plots.film_strip(QUERY, GALLERY, {"epoch 0": DIST, "epoch 1": 1 - DIST}, row=2)
    assert len(fig.axes[0].images) == 1 + 2 * 10
    assert texts(fig).count("pid 3") == 1 and {"epoch 0", "epoch 1"} <= set(texts(fig))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dist": DIST.T}, "dist has shape"),
        ({"rows": [3]}, r"rows \[3\]"),
        ({"rows": []}, "name queries in 0..2"),
        ({"top_k": 0}, "top_k 0"),
        ({"query": people(3, size=(8, 4)), "gallery": SimpleNamespace(**{**vars(GALLERY), "pids": [1]})}, "has shape"),
    ],
)
def test_ranked_lists_refuse_sizes_that_do_not_fit(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.ranked_lists(**{"query": QUERY, "gallery": GALLERY, "dist": DIST, **change})


# ------------------------------------------------------------------------------------------------------------- curves


def test_cmc_curve_draws_the_numbers_it_is_given():
    cmc = torch.tensor([0.5, 0.7, 0.8])
    line = plots.cmc_curve({"a": SimpleNamespace(cmc=cmc)}).axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == pytest.approx([0.5, 0.7, 0.8])
    assert line.get_label() == "a: rank1 0.500"
    assert len(plots.cmc_curve({"long": curve(50)}).axes[0].lines[0].get_xdata()) == 20
    with pytest.raises(ValueError, match="rankings is empty"):
        plots.cmc_curve({})


def test_distance_histogram_marks_the_equal_error_and_has_unit_area():
    positive, negative = RNG.normal(0.7, 0.2, 500), RNG.normal(1.2, 0.2, 800)
    fig = plots.distance_histogram(positive, torch.from_numpy(negative), rates=True)
    rate, threshold = equal_error_rate(torch.from_numpy(positive), torch.from_numpy(negative))
    for ax in fig.axes:
        assert any(list(line.get_xdata()) == [threshold, threshold] for line in ax.lines)
    assert f"EER {rate:.3f}\nat {threshold:.2f}" in texts(fig)
    for patch in fig.axes[0].patches:
        values, edges, _ = patch.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    fnmr, fmr = (line.get_ydata() for line in fig.axes[1].lines[:2])
    assert (
        (np.diff(fnmr) <= 0).all()
        and (np.diff(fmr) >= 0).all()
        and len(plots.distance_histogram([1.0], [2.0]).axes) == 1
    )
    with pytest.raises(ValueError, match="negative is empty"):
        plots.distance_histogram([1.0], [])


def test_training_curves_draw_each_column_against_its_epochs():
    history = {"epoch": [3, 4, 5], "loss": [3.0, 2.0, 1.0], "name": ["a", "b", "c"], "rank1": [0.1, 0.2, 0.3]}
    fig = plots.training_curves(history, names={"loss": "loss (nats)"})
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["loss (nats)", "rank1"]
    assert fig.axes[0].lines[0].get_xdata().tolist() == [3, 4, 5]
    assert len(plots.training_curves({key: [1, 2] for key in "abcd"}).axes) == 4
    with pytest.raises(ValueError, match=r"no numbers for .*margin"):
        plots.training_curves(history, columns=["margin"])
    with pytest.raises(ValueError, match="0 rows"):
        plots.training_curves({"epoch": [], "loss": []})


def test_bars_are_as_long_as_their_values_and_negative_ones_orange():
    fig = plots.bars_with_interval({"a": (0.3, 0.2, 0.5), "b": -0.25}, unit="mAP", reference={"chance": 0.1})
    bars = fig.axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.3, -0.25]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [BLUE, ORANGE]
    assert {"0.300", "−0.250", "chance"} <= set(texts(fig))
    assert list(fig.axes[0].lines[0].get_xdata()) == [0.2, 0.5]
    for wrong in ((0.3, 0.4, 0.5), (0.3, 0.2), (math.nan, 0.2, 0.4)):
        with pytest.raises(ValueError, match="low <= value <= high"):
            plots.bars_with_interval({"a": wrong}, unit="mAP")


def test_knob_curve_draws_curves_by_name():
    y = {"a": [1.0, 2.0], "b": [2.0, 3.0]}
    fig = plots.knob_curve([0.1, 1], y, xlabel="T", ylabel="mAP", log=True, default=1)
    assert [line.get_ydata().tolist() for line in fig.axes[0].lines[:2]] == list(y.values())
    assert fig.axes[0].get_xscale() == "log"
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["0.1", "1"]
    with pytest.raises(ValueError, match="y has shape"):
        plots.knob_curve([1, 2, 3], [1, 2], xlabel="T", ylabel="mAP")


def test_knob_curve_draws_into_the_axes_it_is_given():
    fig, ax = plt.subplots()
    assert plots.knob_curve([1, 2], [1, 2], xlabel="x", ylabel="y", title="found", ax=ax) is fig
    assert plt.get_fignums() == [fig.number] and ax.get_title() + ax.get_title(loc="left") == "found"


def test_heatmap_and_schedule_show_their_numbers():
    fig = plots.heatmap([[0.126, 1.0]], rows=["a"], columns=["b", "c"], xlabel="x", ylabel="y", unit="u", digits=1)
    assert texts(fig) == ["0.1", "1.0"]
    with pytest.raises(ValueError, match="values has shape"):
        plots.heatmap([[1.0]], rows=["a"], columns=["b", "c"], xlabel="x", ylabel="y", unit="u")
    line = plots.lr_schedule({"a": [0.5, 1], "b": [1, 1]}, base=0.2).axes[0].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([0.1, 0.2]) and line.get_xdata().tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------------------- spaces


def groups(n_groups=6, each=12, dim=16) -> tuple[np.ndarray, np.ndarray]:
    """Well separated groups in many dimensions."""
    rng = np.random.default_rng(5)
    centres, labels = 6 * rng.normal(size=(n_groups, dim)), np.repeat(np.arange(n_groups), each)
    return centres[labels] + rng.normal(size=(len(labels), dim)), labels


def kept_neighbours(x: np.ndarray, xy: np.ndarray, labels: np.ndarray) -> float:
    """Share of points whose nearest neighbour on the map is of their group."""
    dist = np.linalg.norm(xy[:, None] - xy, axis=-1) + np.eye(len(xy)) * 1e9
    return float((labels[dist.argmin(1)] == labels).mean())


@pytest.mark.parametrize("method", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_maps_are_repeatable_and_keep_neighbours(method):
    x, labels = groups()
    xy = plots.feature_map_2d(torch.from_numpy(x), method=method, seed=1)
    assert xy.shape == (72, 2) and np.isfinite(xy).all()
    np.testing.assert_array_equal(xy, plots.feature_map_2d(x, method=method, seed=1))
    assert kept_neighbours(x, xy, labels) >= (0.75 if method == "pca" else 0.98)


def test_pca_map_keeps_the_largest_variance():
    x, _ = groups()
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False)[:2] ** 2
    np.testing.assert_allclose((plots.feature_map_2d(x, method="pca") ** 2).sum(0), variances, rtol=1e-4)


@pytest.mark.parametrize("n", [4, 5, 7])
def test_tsne_of_a_handful_lowers_its_perplexity(n):
    assert np.isfinite(plots.feature_map_2d(np.eye(n))).all()


def test_maps_refuse_what_has_no_neighbours():
    for wrong, sentence in (
        (np.eye(3), "4 or more"),
        (np.full((5, 4), np.nan), "finite"),
        (np.ones(5), "has shape"),
        (np.ones((5, 4)), "collapsed"),
    ):
        with pytest.raises(ValueError, match=sentence):
            plots.feature_map_2d(wrong)


def colours_at(ax) -> dict[tuple[float, float], str]:
    """Face colour of each point of a panel, by its place; the later mark wins."""
    found = {}
    for marks in ax.collections:
        faces = marks.get_facecolor()
        for k, place in enumerate(marks.get_offsets()):
            if len(faces):
                found[tuple(np.round(place, 9))] = to_hex(faces[k % len(faces)]).upper()
    return found


def test_feature_space_colours_truth_and_pseudo_label_alike_and_rings_the_wrong():
    identity = np.repeat([4, 5, 6], 20)
    pseudo = identity.copy()
    pseudo[:3], pseudo[30:35] = 5, -1
    fig = plots.feature_space(XY, identity=identity, pseudo=pseudo, camera=identity % 2)
    truth, guess, _ = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "coloured by identity (truth)\nall 3",
        "coloured by pseudo-label\n5% wrong, ringed",
        "coloured by camera\nall 2",
    ]
    true_colour, pseudo_colour = colours_at(truth), colours_at(guess)
    places = [tuple(np.round(place, 9)) for place in XY]
    assert {true_colour[places[k]] for k in range(20)} == {IDENTITIES[0].upper()}
    assert [pseudo_colour[places[k]] for k in range(3)] == [true_colour[places[20]]] * 3
    assert (
        pseudo_colour[places[10]] == true_colour[places[10]] and pseudo_colour[places[32]] not in true_colour.values()
    )
    rings = guess.collections[-1].get_offsets()
    np.testing.assert_allclose(rings, XY[:3])


def test_feature_space_has_a_row_for_each_map_and_greys_the_small_identities():
    identity = np.concatenate([np.repeat(np.arange(3), 15), np.arange(3, 18)])
    fig = plots.feature_space({"t-SNE": XY, "UMAP": XY}, identity=identity, camera=identity % 3, n_coloured=3)
    assert len(fig.axes) == 4 and [fig.axes[k].get_ylabel() for k in (0, 2)] == ["t-SNE", "UMAP"]
    assert fig.axes[0].get_title(loc="left").endswith("3 of 18 in colour")
    assert len(fig.axes[0].collections[0].get_offsets()) == 15
    assert [text.get_text() for text in fig.axes[3].get_legend().texts] == ["0", "1", "2"]
    clusters = plots.feature_space(XY, pseudo=identity % 2)
    assert clusters.axes[0].get_title(loc="left").endswith("all 2")


def test_feature_space_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="identity, camera or pseudo"):
        plots.feature_space(XY)
    with pytest.raises(ValueError, match="camera has shape"):
        plots.feature_space(XY, camera=[1, 2])
    with pytest.raises(ValueError, match="maps of the same points"):
        plots.feature_space({"a": XY, "b": XY[:5]}, camera=LABELS)


def test_maps_with_one_kind_of_labels_stand_four_in_a_row():
    fig = plots.feature_space({f"map {number}": XY for number in range(6)}, identity=LABELS)
    assert [ax.get_title(loc="left") for ax in fig.axes] == [f"map {number}" for number in range(6)]
    spec = fig.axes[5].get_subplotspec()
    assert (spec.rowspan.start, spec.colspan.start) == (1, 1)


def test_directions_keep_the_angles():
    x = np.array([[3.0, 0], [0, 4.0], [0, 2.0]])
    (ax,) = plots.directions({"a": (x, [5, 7, 7])}).axes
    drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
    assert np.allclose(drawn * np.linalg.norm(x[0]) / drawn[0, 0], x)  # one scale for all
    ends = [line.get_xydata()[1] for line in ax.lines]
    assert np.allclose(np.array(ends) / 1.05, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="have 4 dimensions; only 2 or 3"):
        plots.directions({"a": (np.ones((3, 4)), [0, 0, 1])})


def test_a_globe_shows_the_near_side_in_full_colour():
    toward, away = [0.0, -1, 0], [0.0, 1, 0]
    (ax,) = plots.directions({"a": ([toward, away], [0, 0])}).axes
    pale, full = ax.collections
    assert len(pale.get_offsets()) == len(full.get_offsets()) == 1
    assert pale.get_offsets()[0, 1] > 0 > full.get_offsets()[0, 1]  # seen from above, what is near stands lower


def test_knob_panels_leave_out_what_was_not_run():
    fig = plots.knob_panels({"T": ([1, 2, 3], [5.0, float("nan"), 6.0], 1)}, ylabel="mAP")
    assert fig.axes[0].lines[0].get_xydata().tolist() == [[1, 5], [3, 6]]


def test_a_paired_scatter_counts_both_sides():
    fig = plots.paired_scatter([0.1, 0.2, 0.5, 0.5], [0.3, 0.4, 0.4, 0.5], names=("old", "new"))
    assert texts(fig) == ["new better: 2", "old better: 1"]
    with pytest.raises(ValueError, match="new has shape"):
        plots.paired_scatter([0.1, 0.2], [0.3], names=("old", "new"))


def test_silhouettes_show_every_score_and_the_mean():
    scores, labels = np.array([0.5, -0.2, 0.3, 0.9]), np.array([1, 1, 0, 0])
    ax = plots.silhouettes({"before": (torch.from_numpy(scores), labels)}).axes[0]
    drawn = np.concatenate([patch.get_data().values for patch in ax.patches])
    assert sorted(drawn[drawn != 0]) == pytest.approx(sorted(scores))
    assert ax.lines[0].get_xdata()[0] == pytest.approx(scores.mean())
    assert texts(ax.figure) == ["1", "0"]  # the worse group below
    with pytest.raises(ValueError, match=r"silhouettes lie in -1\.\.1"):
        plots.silhouettes({"a": ([1.5], [0])})
    with pytest.raises(ValueError, match="labels of a has shape"):
        plots.silhouettes({"a": ([0.5], [0, 1])})


# ----------------------------------------------------------------------------------------------------------- diagrams


@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
def test_areas_are_the_average_precisions_of_the_evaluator(relevant):
    n, device = len(relevant), {"dtype": torch.int64}
    pids = torch.tensor([1 if hit else 2 for hit in relevant], **device)
    for convention in ("mean", "trapezoid", "mar"):
        before, after = precision_steps(relevant, convention)
        expected = evaluate_distances(
            torch.arange(n, dtype=torch.float32)[None],
            torch.tensor([1], **device),
            torch.tensor([0], **device),
            pids,
            torch.ones(n, **device),
            ap=convention,
        )
        assert np.mean([before, after]) == pytest.approx(float(expected.mAP), abs=1e-6)


def test_strip_counts_ranks_without_junk():
    fig = plots.ranking_strip({"q": ["wrong", "junk", "relevant", "junk", "wrong"]}, notes={"q": "AP 0.50"})
    assert [text for text in texts(fig) if text.isdigit()] == ["1", "2", "3"] and texts(fig).count("junk") == 2
    assert [to_hex(patch.get_facecolor()).upper() for patch in fig.axes[0].patches[:3:2]] == [ORANGE, BLUE]
    with pytest.raises(ValueError, match="'right' is no kind of item"):
        plots.ranking_strip({"q": ["right"]})
    with pytest.raises(ValueError, match="no hit"):
        plots.average_precision_areas([False, False])


def test_neighbour_steps_join_the_chosen_points_only():
    pids = [1, 1, 2, 2, 1]
    fig = plots.neighbour_steps(XY[:5], 0, {"nearest": [0, 1, 2], "reciprocal": np.array([1])}, pids=pids)
    assert [len(ax.lines) for ax in fig.axes] == [2, 1]
    assert [line.get_color() for line in fig.axes[0].lines] == [BLUE, ORANGE]
    with pytest.raises(ValueError, match=r"only 0\.\.4"):
        plots.neighbour_steps(XY[:5], 0, {"nearest": [5]})
    with pytest.raises(ValueError, match="steps is empty"):
        plots.neighbour_steps(XY[:5], 0, {})


def test_flow_draws_a_box_a_node_and_an_arrow_an_edge():
    nodes = {"a": (0, 0, "one"), "b": (1, 0, "two", ORANGE), "c": (1, 1, "three")}
    ax = plots.flow(nodes, [("a", "b"), ("a", "c", "why")]).axes[0]
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 2 and len(ax.patches) == 5 and {"one", "two", "three", "why"} <= set(texts(ax.figure))
    with pytest.raises(ValueError, match="'a' to 'z' has no node"):
        plots.flow(nodes, [("a", "z")])


# ---------------------------------------------------------------------------------------------------------- portraits


def test_pulls_are_the_slopes_of_the_loss_along_the_circle():
    points, pids = plots.portrait_points()
    value, pull = pulls(batch_hard_triplet_loss, points, pids)
    assert value == pytest.approx(batch_hard_triplet_loss(points, pids).item())
    angles = torch.atan2(points[:, 1], points[:, 0])
    for k in range(len(angles)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = angles.clone()
            moved[k] += step
            ends.append(batch_hard_triplet_loss(torch.stack([moved.cos(), moved.sin()], 1), pids).item())
        assert pull[k] == pytest.approx(-(ends[0] - ends[1]) / 2e-5, abs=1e-5)


def test_portrait_draws_an_arrow_for_each_point_that_is_pulled():
    def only_the_first(x, pids):
        return (x[0] - x[1]).pow(2).sum() + 0 * x.sum()

    ax = plots.loss_portraits({"pair": only_the_first}).axes[0]
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    faces = [line.get_markerfacecolor() for line in ax.lines]
    assert len(arrows) == 2 and faces.count("white") == 14
    assert texts(ax.figure) == [f"L = {only_the_first(*plots.portrait_points()).item():.3f}"]
    still = plots.loss_portraits({"nothing": lambda x, pids: 0 * x.sum()}).axes[0]
    assert [line.get_markerfacecolor() for line in still.lines] == ["white"] * 16


def test_portraits_work_where_gradients_are_off_and_wrap_into_rows():
    with torch.no_grad():
        fig = plots.loss_portraits(dict.fromkeys("abcde", batch_hard_triplet_loss))
    assert [ax.get_title() for ax in fig.axes] == list("abcde")


def test_portraits_refuse_points_without_pids_and_a_place_off_the_map():
    with pytest.raises(ValueError, match="both or neither"):
        plots.loss_portraits({"a": batch_hard_triplet_loss}, points=[[0.0, 1.0]])
    with pytest.raises(ValueError, match="pids has shape"):
        plots.loss_portraits({"a": batch_hard_triplet_loss}, points=[[0.0, 1.0]], pids=[1, 2])
    place = {"xticks": ["a"], "yticks": ["b"], "xlabel": "x", "ylabel": "y"}
    with pytest.raises(ValueError, match=r"A is at \(1, 0\)"):
        plots.course_map({"A": (1, 0, batch_hard_triplet_loss)}, **place)
