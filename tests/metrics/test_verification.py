"""Error rates of a threshold, against counting pair by pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.metrics.verification import equal_error_rate, error_rates

distances = st.lists(st.integers(0, 12).map(lambda value: value / 4), min_size=1, max_size=12)


def count(positive: list[float], negative: list[float], threshold: float) -> tuple[float, float]:
    """The two rates by counting."""
    let_in = sum(distance <= threshold for distance in negative)
    refused = sum(distance > threshold for distance in positive)
    return let_in / len(negative), refused / len(positive)


@given(positive=distances, negative=distances)
def test_rates_equal_counting(positive, negative):
    thresholds, fmr, fnmr = error_rates(torch.tensor(positive), torch.tensor(negative))
    for threshold, false_match, false_non_match in zip(thresholds, fmr, fnmr, strict=True):
        assert (false_match.item(), false_non_match.item()) == pytest.approx(
            count(positive, negative, threshold.item())
        )
    assert (fmr.diff() >= 0).all() and (fnmr.diff() <= 0).all()
    assert len(thresholds) == len({*positive, *negative})


@given(positive=distances, negative=distances)
def test_equal_error_is_the_best_of_all_thresholds(positive, negative):
    rate, threshold = equal_error_rate(torch.tensor(positive), torch.tensor(negative))
    fmr, fnmr = count(positive, negative, threshold)
    assert rate == pytest.approx((fmr + fnmr) / 2)
    gaps = [
        abs(false_match - refused) for false_match, refused in (count(positive, negative, t / 8) for t in range(26))
    ]
    assert abs(fmr - fnmr) == pytest.approx(min(gaps))


def test_a_case_worked_out_by_hand():
    # + .2  + .4  - .5  + .6  - .8  - .9: at .45 none of 3 is let in and 1 of 3 refused, at .55 it is 1 of 3 and 1 of 3
    rate, threshold = equal_error_rate(torch.tensor([0.2, 0.6, 0.4]), torch.tensor([0.9, 0.5, 0.8]))
    assert rate == pytest.approx(1 / 3) and threshold == pytest.approx(0.55)


def test_perfect_separation_takes_the_middle_of_the_gap():
    assert equal_error_rate(torch.tensor([0.1, 0.4]), torch.tensor([0.8, 1.0])) == (0.0, pytest.approx(0.6))


def test_labels_that_mean_nothing_give_chance():
    same = torch.linspace(0, 1, 101)
    assert equal_error_rate(same, same)[0] == pytest.approx(0.5, abs=0.01)


def test_all_distances_equal_is_still_a_number():
    rate, threshold = equal_error_rate(torch.ones(3), torch.ones(4))
    assert rate == 0.5 and threshold == 1.0


def test_neither_order_nor_shape_nor_scale_matters():
    generator = torch.Generator().manual_seed(3)
    positive, negative = torch.rand(6, 5, generator=generator), 0.3 + torch.rand(40, generator=generator)
    rate, threshold = equal_error_rate(positive, negative)
    shuffled = negative[torch.randperm(40, generator=generator)]
    assert equal_error_rate(positive.flatten(), shuffled) == (rate, threshold)
    assert equal_error_rate(4 * positive, 4 * negative) == (rate, pytest.approx(4 * threshold))


def test_thresholds_are_used_as_given_and_a_distance_at_the_threshold_is_accepted():
    thresholds, fmr, fnmr = error_rates(torch.tensor([0.5]), torch.tensor([0.5, 0.75]), torch.tensor([0.25, 0.5, 1.0]))
    assert thresholds.tolist() == [0.25, 0.5, 1.0]
    assert fmr.tolist() == [0.0, 0.5, 1.0] and fnmr.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("positive", "negative", "sentence"),
    [([], [1.0], "positive is empty"), ([1.0], [], "negative is empty"), ([1.0], [math.nan], "negative holds NaN")],
)
def test_a_wrong_call_says_what_is_missing(positive, negative, sentence):
    with pytest.raises(ValueError, match=sentence):
        equal_error_rate(torch.tensor(positive), torch.tensor(negative))
