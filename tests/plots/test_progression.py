"""Pictures of a one-shot run: the right numbers in the right place, all text on the paper, nothing left open."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from reidkit import plots
from reidkit.plots.progression import MEASURES
from reidkit.plots.style import BLUE, GREY, IDENTITIES, ORANGE, PALE

LONG = "A finding so long that it must be wrapped: the guesses that are trusted most are right, and the rest are not so"
RNG = np.random.default_rng(0)
TRUTH = np.repeat(np.arange(12), 4)
XY = RNG.normal(size=(48, 2))


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def a_run(n_steps=3, shift=0.0, measures=MEASURES):
    """Metrics of a run that adds ten of fifty images a step."""
    run = {"n_steps": n_steps, "n_unlabelled": 50}
    for step in range(n_steps):
        run |= {f"n_step{step}": 10 * step, f"n_selected_step{step}": 10 * step + 10}
        run |= {f"{measure}_step{step}": 0.1 * step + shift for measure in measures}
    return run | {measure: 0.1 * (n_steps - 1) + shift for measure in measures}


FIGURES = {
    "progression": lambda title: plots.progression(
        {"B + FSR + JD": [a_run(), a_run(shift=0.1)], "B": [a_run(2)]}, bounds={"all": [a_run()]}, title=title
    ),
    "selected": lambda title: plots.selected_per_identity(
        {"with FSR": (TRUTH, TRUTH[::-1]), "without": (TRUTH // 2, TRUTH)}, everyone=np.full(12, 4), title=title
    ),
    "guesses": lambda title: plots.guesses(
        {f"step {t}, {what}": (XY, TRUTH + t) for what in ("truth", "guess") for t in range(5)}, TRUTH, title=title
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
    for first, second in itertools.pairwise(titles):
        assert not first.overlaps(second)


# -------------------------------------------------------------------------------------------------------- progression


def test_a_curve_is_the_mean_over_seeds_against_the_share_it_is_about():
    fig = plots.progression({"B": [a_run(), a_run(shift=0.2)]}, measures=["mAP", "precision"])
    retrieval, labels = (ax.lines[0].get_xydata().tolist() for ax in fig.axes)
    assert retrieval == pytest.approx(np.array([[0.0, 0.1], [0.2, 0.2], [0.4, 0.3]]))  # trained with
    assert labels == pytest.approx(np.array([[0.2, 0.1], [0.4, 0.2], [0.6, 0.3]]))  # selected after it
    band = fig.axes[0].collections[0].get_paths()[0].get_extents()
    spread = 0.2 / 2**0.5
    assert (band.y0, band.y1) == pytest.approx((0.1 - spread, 0.3 + spread))


def test_a_bound_is_a_level_line_at_its_last_step_and_what_did_not_run_is_left_out():
    runs = {"B": [a_run()], "never run": []}
    fig = plots.progression(runs, bounds={"all": [a_run(shift=0.3)], "none": []}, measures=["mAP", "purity"])
    ax = fig.axes[0]
    assert [line.get_label() for line in ax.lines] == ["B", "all"]
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.5, 0.5])
    without = [{name: value for name, value in a_run().items() if "purity" not in name}]
    fig = plots.progression(runs, bounds={"all": without}, measures=["purity"])
    assert [line.get_label() for line in fig.axes[0].lines] == ["B"]


def test_without_a_run_every_panel_says_so():
    fig = plots.progression({"B": []})
    assert [ax.texts[0].get_text() for ax in fig.axes] == ["not run yet"] * 6


@pytest.mark.parametrize("measures", [["rank2"], []])
def test_an_unknown_measure_is_refused(measures):
    with pytest.raises(ValueError, match=r"measures are rank1, mAP, .*, not (rank2|none)"):
        plots.progression({"B": [a_run()]}, measures=measures)


# ----------------------------------------------------------------------------------------------- selected per identity


def test_bars_stack_right_and_wrong_guesses_and_the_largest_comes_first():
    guessed, true = torch.tensor([2, 2, 2, 0, 1, 1]), torch.tensor([2, 2, 0, 0, 0, 1])
    ax = plots.selected_per_identity({"B": (guessed, true)}, everyone=[6, 3, 3, 0]).axes[0]
    bars = [(bar.get_y(), bar.get_height(), to_hex(bar.get_facecolor()).upper()) for bar in ax.patches[:8]]
    assert bars == [
        *((0, n, BLUE) for n in (2, 1, 1, 0)),  # 2 has three images, one of them wrong; 1 has one right, one wrong; ...
        *((base, n, ORANGE) for base, n in ((2, 1), (1, 1), (1, 0), (0, 0))),
    ]
    assert ax._left_title.get_text() == "B\n1 of 4 get none"
    assert ax.patches[8].get_data().values.tolist() == [3, 1.5, 1.5, 0]  # the truth's shares of six images
    with pytest.raises(ValueError, match="truth of B has shape"):
        plots.selected_per_identity({"B": (guessed, true[:3])}, everyone=[6, 3, 3])
    with pytest.raises(ValueError, match="panels is empty"):
        plots.selected_per_identity({}, everyone=[1])


# ------------------------------------------------------------------------------------------------------------ guesses


def test_a_wrong_guess_is_ringed_in_the_colour_of_the_truth():
    points, truth = np.arange(12.0).reshape(6, 2), [0, 0, 0, 1, 1, 2]
    fig = plots.guesses({"guess": (points, [0, 1, 0, 1, 2, 0])}, truth, labelled=[0, 3, 5], n_coloured=2)
    ax = fig.axes[0]
    assert ax._left_title.get_text() == "guess: 67% wrong"  # 1 and 4 of 1, 2, 4; labelled ones are given
    *_, rings = ax.collections
    np.testing.assert_array_equal(rings.get_offsets(), points[[1, 4]])
    assert [to_hex(colour) for colour in rings.get_edgecolors()] == [c.lower() for c in IDENTITIES[:2]]
    fills = {}
    for dots in ax.collections[:-1]:
        at, colours = dots.get_offsets(), dots.get_facecolors()
        fills |= {tuple(xy): to_hex(colour) for xy, colour in zip(at, colours, strict=False)}
    wanted = [IDENTITIES[0], IDENTITIES[1], IDENTITIES[0], IDENTITIES[1], PALE, IDENTITIES[0]]
    assert [fills[tuple(xy)] for xy in points] == [colour.lower() for colour in wanted]


def test_people_without_a_colour_have_no_rings_unless_they_take_from_others():
    points, truth = np.arange(12.0).reshape(6, 2), [0, 0, 0, 1, 1, 2]
    fig = plots.guesses({"guess": (points, [0, 0, 1, 1, 2, 0])}, truth, n_coloured=1)
    *_, rings = fig.axes[0].collections
    np.testing.assert_array_equal(rings.get_offsets(), points[[2, 5]])  # 4 is of 1 and goes to 2
    assert [to_hex(colour) for colour in rings.get_edgecolors()] == [IDENTITIES[0].lower(), GREY.lower()]


def test_the_truth_itself_has_no_rings_and_sizes_must_fit():
    fig = plots.guesses({"truth": (XY, TRUTH)}, TRUTH)
    assert fig.axes[0]._left_title.get_text() == "truth" and not len(fig.axes[0].collections[-1].get_offsets())
    assert len(plots.guesses({name: (XY, TRUTH) for name in "abc"}, TRUTH, columns=2).axes) == 3
    with pytest.raises(ValueError, match="names of a has shape"):
        plots.guesses({"a": (XY, TRUTH[:3])}, TRUTH)
    with pytest.raises(ValueError, match="panels is empty"):
        plots.guesses({}, TRUTH)
