"""Random numbers that depend on their keys alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reidkit.world.chance import Dice


@given(st.integers(0, 2**31), st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True), st.randoms())
def test_a_row_does_not_depend_on_the_others(seed, keys, order):
    shuffled = list(keys)
    order.shuffle(shuffled)
    whole = dict(zip(keys, Dice(seed, np.array(keys)).normal("x"), strict=True))
    again = dict(zip(shuffled, Dice(seed, np.array(shuffled)).normal("x"), strict=True))
    assert whole == again
    assert Dice(seed, keys[0]).normal("x") == whole[keys[0]]


def test_names_seeds_and_keys_all_matter():
    keys = np.arange(1000)
    columns = [
        Dice(0, keys).uniform("a"),
        Dice(0, keys).uniform("b"),
        Dice(1, keys).uniform("a"),
        Dice(0, keys, 1).uniform("a"),
    ]
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 0.12


def test_distributions():
    dice = Dice(5, np.arange(40_000))
    uniform, normal = dice.uniform("u", 2, 4), dice.normal("n", 3, 0.5)
    assert uniform.min() >= 2 and uniform.max() < 4
    np.testing.assert_allclose([uniform.mean(), uniform.std()], [3, 2 / 12**0.5], atol=0.02)
    np.testing.assert_allclose([normal.mean(), normal.std()], [3, 0.5], atol=0.02)
    np.testing.assert_allclose(np.bincount(dice.pick("p", [1, 2, 0, 1])) / 40_000, [0.25, 0.5, 0, 0.25], atol=0.01)
    np.testing.assert_allclose(dice.coin("c", 0.3).mean(), 0.3, atol=0.01)
    assert dice.key("k").max() < 2**31 and len(np.unique(dice.key("k"))) > 39_900
