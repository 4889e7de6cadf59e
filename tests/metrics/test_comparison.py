"""Paired comparisons: the mean by hand, intervals that keep their promise, verdicts, and how many seeds are enough."""

import numpy as np
import pytest

from reidkit.metrics.comparison import Comparison, Pair, agreement, compare, seeds_needed


def drawn(rng, seeds, *, effect=0.0, between=1.0, within=3.0, shared=False, people=60):
    """Pairs whose difference has a part of its own for each seed and each person."""
    luck = rng.normal(0, within, (1 if shared else seeds, people))
    rows = effect + rng.normal(0, between, (seeds, 1)) + luck
    return [Pair(row, np.zeros(people), np.arange(people)) for row in rows]


def half(found):
    """Half the interval."""
    return (found.high - found.low) / 2


def test_the_difference_is_the_mean_over_seeds_of_the_mean_over_queries():
    pairs = [Pair([0.5, 0.7, 0.9], [0.4, 0.7, 0.5], [1, 1, 2]), Pair([0.1], [0.4], [9])]
    found = compare(pairs)
    # seed 0: (0.1 + 0 + 0.4) / 3 = 1/6; seed 1: -0.3
    assert found.difference == pytest.approx((1 / 6 - 0.3) / 2)
    assert found.spread == pytest.approx(np.std([1 / 6, -0.3], ddof=1))
    assert found.seeds == 2


def test_the_interval_is_students_where_seeds_scatter_more_than_their_people():
    pairs = [Pair([mean] * 4, [0] * 4, [1, 2, 3, 4]) for mean in (0.01, 0.02, 0.06)]
    found = compare(pairs)
    students = 4.302652729911275 * np.std([0.01, 0.02, 0.06], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.03 - students, 0.03 + students))


def test_seeds_that_agree_by_luck_do_not_narrow_it_below_what_their_people_allow():
    rng = np.random.default_rng(0)
    rows = [row - row.mean() + 0.03 for row in rng.normal(0, 0.3, (3, 50))]
    found = compare([Pair(row, np.zeros(50), np.arange(50)) for row in rows])
    by_people = 1.96 * 0.3 / np.sqrt(50) / np.sqrt(3)
    assert half(found) == pytest.approx(by_people, rel=0.15)


def test_the_same_people_for_all_seeds_are_not_averaged_away():
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.3, 50)
    pairs = [Pair(luck, np.zeros(50), np.arange(50))] * 3
    assert half(compare(pairs, shared=True)) == pytest.approx(1.96 * luck.std() / np.sqrt(50), rel=0.1)
    assert half(compare(pairs)) < 0.65 * half(compare(pairs, shared=True))


def test_more_queries_of_the_same_people_know_no_more():
    luck, people = np.random.default_rng(0).normal(0, 0.3, 50), np.arange(50)
    once = compare([Pair(luck, 0 * luck, people)])
    four_times = compare([Pair(np.repeat(luck, 4), np.zeros(200), np.repeat(people, 4))])
    assert half(four_times) == pytest.approx(half(once))


def test_a_person_weighs_as_much_as_her_queries():
    # Nine queries of one person differ by 0, the only one of another by 1. Drawing two of the two people gives 0 (once
    # in four), 0.1 (twice) or 1 (once): mean 0.3, variance 0.165.
    found = compare([Pair([0] * 9 + [1], [0] * 10, [7] * 9 + [8])], n_boot=4000)
    assert half(found) == pytest.approx(1.96 * 0.165**0.5, rel=0.05)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_an_effect_one_interval_in_twenty_or_fewer_leaves_out_zero(seeds, shared):
    rng = np.random.default_rng(seeds)
    found = [compare(drawn(rng, seeds, shared=shared), shared=shared, n_boot=200) for _ in range(200)]
    assert np.mean([not c.low <= 0 <= c.high for c in found]) <= 0.085


def test_one_seed_has_an_interval_over_its_people_and_no_verdict():
    found = compare([Pair([0.9, 0.8, 0.9], [0.1, 0.2, 0.1], [1, 2, 3])])
    assert found.low < found.difference < found.high and np.isnan(found.spread)
    assert found.verdict() == "one seed: no verdict"


@pytest.mark.parametrize(
    ("low", "high", "direction", "verdict"),
    [
        (0.01, 0.03, 1, "reproduces"),
        (0.01, 0.03, -1, "opposite"),
        (-0.03, -0.01, -1, "reproduces"),
        (-0.03, -0.01, 1, "opposite"),
        (-0.01, 0.03, 1, "no effect seen (80 % power for ≥ 2.6)"),
        (-0.01, 0.03, -1, "no effect seen (80 % power for ≥ 2.6)"),
    ],
)
def test_the_verdict_compares_with_the_direction_that_was_claimed(low, high, direction, verdict):
    assert Comparison((low + high) / 2, low, high, 0.01, 3).verdict(direction) == verdict


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        (None, "reproduces"),
        (0.03, "reproduces"),
        (0.0101, "reproduces"),  # within the interval
        (0.09, "reproduces"),  # three times as much
        (0.091, "same direction, other size"),
        (0.009, "same direction, other size"),  # less than a third, and outside of the interval
        (-0.03, "same direction, other size"),
    ],
)
def test_a_claim_is_reproduced_by_its_size_too(printed, verdict):
    found = Comparison(0.03, 0.01, 0.05, 0.01, 3)
    assert found.verdict(printed=printed) == verdict
    assert found.verdict(printed=printed, other_cause=True) == "same effect, other cause"
    mirrored = Comparison(-0.03, -0.05, -0.01, 0.01, 3)
    assert mirrored.verdict(-1, printed=None if printed is None else -printed) == verdict
    assert mirrored.verdict(1, printed=printed, other_cause=True) == "opposite"


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_difference_that_is_called_visible_is_seen_four_times_in_five(seeds):
    """Not by half the interval, which would be seen little more than every other time."""
    rng = np.random.default_rng(seeds)
    first = [compare(drawn(rng, seeds, between=1.0, within=1e-6), n_boot=10).visible for _ in range(300)]
    seen = [compare(drawn(rng, seeds, effect=np.mean(first), between=1.0, within=1e-6), n_boot=10) for _ in range(300)]
    assert 0.7 < np.mean([found.low > 0 for found in seen]) < 0.88
    assert np.isnan(Comparison(0.1, 0.0, 0.2, float("nan"), 1).visible)


def test_tau_counts_pairs_in_the_same_order():
    """Four methods: of six pairs five stand in the same order, one is turned round."""
    found = agreement([[1], [2], [3], [4]], [[10], [30], [20], [40]])
    assert found.tau == pytest.approx((5 - 1) / 6) and found.methods == 4
    assert -1 <= found.low <= found.tau <= found.high <= 1
    assert agreement([[1, 3], [2, 9], [5, 6]], [[3], [2], [1]]).tau == pytest.approx(-2 / 6**0.5)  # 2, 5.5, 5.5: a tie


def test_the_interval_of_tau_grows_with_the_scatter_over_seeds():
    rng = np.random.default_rng(0)
    steady, shaky = ([list(k + rng.normal(0, s, 3)) for k in range(12)] for s in (0.01, 6.0))
    sure, unsure = agreement(steady, steady), agreement(shaky, steady)
    assert (sure.tau, sure.low, sure.high) == pytest.approx((1, 1, 1)) and unsure.high - unsure.low > 0.3


def test_tau_refuses_methods_that_are_not_the_same():
    with pytest.raises(ValueError, match="rows of 3 and 2 methods; tau needs the same three or more, each run"):
        agreement([[1], [2], [3]], [[1], [2]])
    with pytest.raises(ValueError, match="each run"):
        agreement([[1], [2], []], [[1], [2], [3]])


def test_bad_pairs_are_named():
    with pytest.raises(ValueError, match="no seed was run with both"):
        compare([])
    with pytest.raises(ValueError, match="rows of 2, 1 and 2 queries"):
        compare([Pair([1, 2], [1], [1, 2])])


@pytest.mark.parametrize("effect", [1.0, 2.0])
def test_so_many_seeds_see_the_effect_four_times_in_five(effect):
    n, rng = seeds_needed(effect, 1.0), np.random.default_rng(0)

    def seen(n):
        pairs = [drawn(rng, n, effect=effect, between=1.0, within=1e-6) for _ in range(300)]
        return np.mean([compare(pair, n_boot=10).low > 0 for pair in pairs])

    assert seen(n) > 0.74 > seen(max(2, n - 3))


def test_no_number_of_seeds_is_told_for_nothing():
    with pytest.raises(ValueError, match="must be above 0, not 0 and 1"):
        seeds_needed(0, 1)
    assert seeds_needed(1e-6, 1.0) == 10_000
