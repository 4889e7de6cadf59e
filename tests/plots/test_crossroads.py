"""Pictures of methods side by side: what is drawn is what was given, and what was not run says so."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from reidkit.plots import style
from reidkit.plots.crossroads import (
    CAMERAS,
    PEOPLE,
    Row,
    atlas,
    effect_by_length,
    interval_panels,
    interval_sections,
    two_worlds,
)

RNG = np.random.default_rng(0)
LONG = "A finding so long that it must be wrapped: some causes hurt every method and others hurt only a few of them"
COLOURS = {"from scratch": style.ORANGE, "reference weights": style.BLUE}
SECTIONS = {
    "all labels": {
        "baseline": Row(51, 37, 65, "from scratch", (57, 45.5, 50.9), "500 × 64"),
        "not made yet": Row(np.nan, kind="reference weights"),
    },
    "no label": {"MAR": Row(53.7, 44, 63, "reference weights", (57.6, 50.0, 53.5))},
}
WORLDS = {"02": {"softmax": (20, 30), "neck": (40, 50)}, "03": {"Lin": (60, 40)}}
BY_LENGTH = {"neck": {200: Row(26, 20, 32), 3000: Row(4, 2, 6)}, "erasing": {1400: Row(-1, -2, 0)}}
PANELS = {
    "A": {"view": Row(-7, -10, -3), "light": Row(1, -3, 5)},
    "B": {"light": Row(2, 1, 3), "view": Row(-8, -12, -4)},
}
MAPS = {"A": RNG.normal(size=(40, 2)), "B": RNG.normal(size=(40, 2))}
PIDS, CAMIDS = np.arange(40) % 13, np.arange(40) // 13 % 3
FIGURES = {
    "interval_sections": lambda title: interval_sections(SECTIONS, unit="mAP (%)", colours=COLOURS, title=title),
    "interval_panels": lambda title: interval_panels(PANELS, unit="points", title=title, note=title),
    "two_worlds": lambda title: two_worlds(WORLDS, names=("drawn", "real"), unit="mAP (%)", title=title),
    "effect_by_length": lambda title: effect_by_length(BY_LENGTH, unit="points", title=title),
    "atlas": lambda title: atlas(MAPS, identity=PIDS, camera=CAMIDS, title=title),
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


def test_sections_draw_every_row_in_its_colour_and_say_what_was_not_run():
    (ax,) = interval_sections(SECTIONS, unit="mAP (%)", colours=COLOURS).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["baseline", "not made yet", "MAR"]
    assert texts(ax) == ["all labels", "500 × 64", "not run", "", "no label", ""]
    means = {to_hex(line.get_color()).upper(): line for line in ax.lines if line.get_marker() == "D"}
    assert {colour: line.get_xdata()[0] for colour, line in means.items()} == {style.ORANGE: 51, style.BLUE: 53.7}
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[57, 45.5, 50.9], [57.6, 50.0, 53.5]]
    ends = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "None"]
    assert [37, 65] in ends and [44, 63] in ends
    low, high = ax.get_ylim()
    assert low > high and all(high < tick < low for tick in ax.get_yticks())  # the first row on top, none cut off


def test_sections_refuse_a_kind_without_a_colour_and_nothing():
    with pytest.raises(ValueError, match="no colour for from scratch; there is one for reference weights"):
        interval_sections(SECTIONS, unit="mAP", colours={"reference weights": style.BLUE})
    with pytest.raises(ValueError, match="sections is empty"):
        interval_sections({}, unit="mAP", colours={})


def test_panels_share_rows_by_name_and_are_blue_where_zero_is_left_out():
    first, second = interval_panels(PANELS, unit="points").axes
    for ax, panel in ((first, PANELS["A"]), (second, PANELS["B"])):
        dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
        assert [line.get_xdata()[0] for line in dots] == [panel["view"].value, panel["light"].value]
        assert [line.get_ydata()[0] for line in dots] == [0, 1]
    colours = [
        to_hex(line.get_color()).upper() for line in first.lines if line.get_marker() == "o" and len(line.get_xdata())
    ]
    assert colours == [style.BLUE, style.GREY]
    assert [label.get_text() for label in first.get_yticklabels()] == ["view", "light"]


def test_panels_refuse_a_missing_row():
    with pytest.raises(ValueError, match="B has no row light; all panels need the same rows"):
        interval_panels({"A": PANELS["A"], "B": {"view": Row(1, 0, 2)}}, unit="points")


def test_the_atlas_has_one_colour_an_identity_and_one_marker_a_camera():
    fig = atlas(MAPS, identity=PIDS, camera=CAMIDS)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["A", "B"]
    for ax, xy in zip(fig.axes, MAPS.values(), strict=True):
        for camid, dots in enumerate(ax.collections):
            mine = camid == CAMIDS
            np.testing.assert_allclose(dots.get_offsets(), xy[mine])
            wanted = [PEOPLE[pid % len(PEOPLE)] for pid in PIDS[mine]]
            assert [to_hex(colour).upper() for colour in dots.get_facecolors()] == [to_hex(c).upper() for c in wanted]
    assert len(set(PEOPLE)) == 12 and len(set(CAMERAS)) == 6


def test_the_atlas_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="identity has shape"):
        atlas(MAPS, identity=PIDS[1:], camera=CAMIDS)
    with pytest.raises(ValueError, match="the map of B has 39 points, the labels 40"):
        atlas({"A": MAPS["A"], "B": MAPS["B"][1:]}, identity=PIDS, camera=CAMIDS)


def test_two_worlds_are_compared_by_ranks_the_best_first():
    numbers, ranks = two_worlds(WORLDS, names=("drawn", "real"), unit="mAP (%)").axes
    assert numbers.collections[0].get_offsets().tolist() == [[20, 30], [40, 50], [60, 40]]
    dots = [line.get_xydata()[0].tolist() for line in ranks.lines if line.get_marker() == "o"]
    assert dots == [[3, 3], [2, 1], [1, 2]] and ranks.yaxis_inverted()
    with pytest.raises(ValueError, match="more than the"):
        two_worlds({str(k): {"a": (1, 2)} for k in range(50)}, names=("drawn", "real"), unit="mAP (%)")


def test_an_effect_has_a_tick_at_each_length_that_was_run():
    (ax,) = effect_by_length(BY_LENGTH, unit="points").axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["200", "1,400", "3,000"]
    assert ax.lines[0].get_ydata().tolist() == [26, 4]
    with pytest.raises(ValueError, match="9 effects are more than the"):
        effect_by_length({str(k): {200: Row(1, 0, 2)} for k in range(9)}, unit="points")
