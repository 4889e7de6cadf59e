"""How drawn crowds are compared with real ones: two crowds of one kind are alike, and a planted difference is seen."""

import numpy as np
import pytest

import realism


@pytest.fixture(scope="module")
def crowds():
    """Three crowds of coarse and fine noise; in the last the middle columns are brighter."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 180, (3, 300, 8, 4, 3), dtype=np.uint8)
    crowds = coarse.repeat(16, axis=2).repeat(16, axis=3) + rng.integers(0, 30, (3, 300, 128, 64, 1), dtype=np.uint8)
    crowds[2, :, :, 24:40] += 30
    return crowds


def test_a_crowd_is_nearer_to_its_own_kind(crowds):
    same, other, brighter = (realism.describe(crowd) for crowd in crowds)
    assert same.shape == (300, 192)
    assert realism.frechet(same, same) == pytest.approx(0, abs=1e-3)
    assert realism.frechet(other, same) < realism.frechet(brighter, same)
    assert abs(realism.told_apart(other, same) - 0.5) < 0.1
    assert realism.told_apart(brighter, same) > 0.95


def test_statistics_of_pictures_that_can_be_counted():
    """A red middle before black: light, colour and one edge on either side."""
    image = np.zeros((2, 128, 64, 3), np.uint8)
    image[:, :, 20:44, 0] = 255
    found = realism.statistics(image)
    assert found["trunk: brightness, percentile 50"] == pytest.approx(0.299, abs=1e-3)
    assert found["trunk: colourfulness"] == 1 and found["border: colourfulness"] == 0
    assert found["edges down"] == 0 and found["edges across"] == pytest.approx(2 * 0.299 / 63, abs=1e-4)
    assert found["edges across, border"] == 0
    assert found["middle against border"] == pytest.approx(1 / 3, abs=1e-3)
