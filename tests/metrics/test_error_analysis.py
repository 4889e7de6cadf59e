"""Levels of a cause, the difference between them and the variance they explain: by hand, by loops, by simulation."""

import math

import numpy as np
import pytest

from reidkit.metrics.error_analysis import level_gap, shares, thirds


def test_thirds_are_cut_in_each_group_and_equals_stay_together():
    values, groups = np.r_[np.arange(9.0), 100 + np.arange(9.0)], np.repeat([0, 1], 9)
    assert thirds(values, groups).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    assert thirds(values, groups, reverse=True).tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0] * 2
    assert thirds([1, 1, 1, 5], [0] * 4).tolist() == [0, 0, 0, 2]
    many = np.random.default_rng(0).integers(0, 20, 300)
    levels = thirds(many, np.zeros(300))
    assert all(len(set(levels[many == value])) == 1 for value in range(20))


def test_a_gap_is_the_difference_of_means_and_its_interval_that_of_a_loop():
    rng = np.random.default_rng(1)
    who, levels = rng.integers(0, 30, 200), rng.integers(0, 3, 200)
    values = rng.random(200) - 0.1 * levels
    found = level_gap(values, levels, who, n_boot=400, seed=5)
    assert found.difference == pytest.approx(values[levels == 2].mean() - values[levels == 0].mean())
    again = []
    for counts in np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), size=400):
        rows = np.concatenate([np.repeat(np.flatnonzero(who == k), counts[k]) for k in range(30)])
        again.append(values[rows][levels[rows] == 2].mean() - values[rows][levels[rows] == 0].mean())
    assert found[1:] == pytest.approx(tuple(np.quantile(again, (0.025, 0.975))))


def test_a_gap_refuses_a_level_that_nobody_has():
    with pytest.raises(ValueError, match=r"no query is of level 2; there are \[0, 1\]"):
        level_gap([0.1, 0.2], [0, 1], [1, 2])


def test_queries_of_one_identity_widen_the_interval():
    rng = np.random.default_rng(2)
    person = np.repeat(rng.normal(size=60), 5)
    levels = np.repeat(rng.integers(0, 2, 60) * 2, 5)
    together = level_gap(person, levels, np.repeat(np.arange(60), 5))
    alone = level_gap(person, levels, np.arange(300))
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.15)


def test_shares_find_what_a_simulation_put_in():
    rng = np.random.default_rng(3)
    who, group = np.repeat(np.arange(900), 4), np.repeat([0, 1, 2], 1200)
    cause = rng.integers(0, 3, 3600)
    values = 5 * group + rng.normal(0, 0.6, 900)[who] + np.array([0, 0.4, 0.9])[cause] + rng.normal(0, 0.6, 3600)
    spread = np.array([0, 0.4, 0.9]).var()
    found = shares(values, {"cause": cause}, who, group)
    assert found.causes == pytest.approx(spread / (spread + 0.72), abs=0.02)
    assert found.identity == pytest.approx(0.36 / (spread + 0.72), abs=0.03)
    assert shares(values, {"nothing": np.zeros(3600)}, who, group).causes == pytest.approx(0, abs=1e-9)
