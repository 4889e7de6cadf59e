"""How far generated images are from real ones: closed forms, SciPy's matrix root, and what cannot be measured."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from reidkit.metrics.generation import (
    COLLAPSED_NEAREST,
    COLLAPSED_SPREAD,
    frechet_distance,
    nearest_ratio,
    spread_ratio,
)


def rows(seed, n, d, *, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + shift


def by_matrix_root(real, generated):
    """The formula as it is written, with SciPy's root of the product; needs covariances of full rank."""
    first, second = (np.cov(x, rowvar=False) for x in (real, generated))
    root = sqrtm(first @ second).real
    return np.square(real.mean(0) - generated.mean(0)).sum() + np.trace(first + second - 2 * root)


def by_symmetric_root(real, generated):
    """The same with the root of a symmetric product, which exists for any rank."""
    first, second = (np.cov(x, rowvar=False) for x in (real, generated))
    values, vectors = np.linalg.eigh(first)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    return np.square(real.mean(0) - generated.mean(0)).sum() + np.trace(first + second) - 2 * root


# --------------------------------------------------------------------------------------------------- Fréchet distance


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(30, 80), m=st.integers(30, 80), d=st.integers(2, 6))
def test_distance_equals_the_formula_with_scipys_root(seed, n, m, d):
    real, generated = rows(seed, n, d), rows(seed + 1, m, d, scale=0.5, shift=0.3)
    assert frechet_distance(real, generated) == pytest.approx(by_matrix_root(real, generated), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 40), (2, 60, 8), (60, 2, 8), (9, 9, 9)])
def test_fewer_rows_than_dimensions_are_no_obstacle(n, m, d):
    real, generated = rows(0, n, d), rows(1, m, d, scale=0.5, shift=0.3)
    expected = by_symmetric_root(real, generated)
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(generated, real) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(50, 5), (6, 30)])
def test_a_shifted_copy_is_as_far_as_its_shift(n, d):
    real, shift = rows(0, n, d), np.linspace(-1, 2, d)
    assert frechet_distance(real, real + shift) == pytest.approx(np.square(shift).sum())
    assert frechet_distance(real, real[::-1].copy()) == pytest.approx(0, abs=1e-9)  # order means nothing
    assert frechet_distance(real, real) >= 0


def test_in_one_dimension_means_and_standard_deviations_are_subtracted():
    # 0, 2: mean 1, standard deviation √2.  3, 7, 11: mean 7, standard deviation 4.
    found = frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [7.0], [11.0]]))
    assert found == pytest.approx(6**2 + (4 - 2**0.5) ** 2)


def test_axes_that_vary_in_only_one_set_cost_their_variance():
    # Both have mean 0. The first varies along x (variance 2), the second along y (variance 8): nothing in common.
    first, second = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.0, 2.0], [0.0, -2.0]])
    assert frechet_distance(first, second) == pytest.approx(2 + 8)


def test_distance_turns_with_the_space_and_grows_with_the_square_of_its_unit():
    real, generated = rows(0, 40, 4), rows(1, 30, 4, shift=1)
    turn, _ = np.linalg.qr(rows(2, 4, 4))
    expected = frechet_distance(real, generated)
    assert frechet_distance(real @ turn, generated @ turn) == pytest.approx(expected)
    assert frechet_distance(3 * real, 3 * generated) == pytest.approx(9 * expected)


def test_tensors_of_low_precision_far_from_the_origin_keep_their_digits():
    real, generated = (torch.from_numpy(rows(seed, 40, 4) + 1000).float() for seed in (0, 1))
    expected = by_matrix_root(real.double().numpy(), generated.double().numpy())
    found = frechet_distance(real.requires_grad_(), generated)
    assert isinstance(found, float) and found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real.detach().half(), real.detach().half()) == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------- spread ratio


def test_spread_by_hand():
    # Real: 0, 2, 4 around 2, squares 4 + 0 + 4 over n − 1 = 2: 4.  Generated: 9, 11 around 10, 1 + 1 over 1: 2.
    assert spread_ratio(np.array([[0.0], [2.0], [4.0]]), np.array([[9.0], [11.0]])) == pytest.approx(0.5)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 8))
def test_spread_is_the_ratio_of_the_traces(seed, n, m, d):
    real, generated = rows(seed, n, d), rows(seed + 1, m, d, shift=5)
    traces = [np.trace(np.atleast_2d(np.cov(x, rowvar=False))) for x in (generated, real)]
    assert spread_ratio(real, generated) == pytest.approx(traces[0] / traces[1])


def test_one_image_over_and_over_has_no_spread_and_a_copy_has_all_of_it():
    real = torch.from_numpy(rows(0, 20, 5))
    assert spread_ratio(real, real[:1].repeat(7, 1)) == pytest.approx(0, abs=1e-12)
    assert spread_ratio(real, real + 3) == pytest.approx(1)
    assert spread_ratio(real, 0.5 * real) == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------------------ nearest ratio


def test_nearest_by_hand():
    # Real: 0, 1, 5, to the next 1, 1, 4: mean 2.  Generated: 9, 9, 12, to the next 0, 0, 3: mean 1.
    real, generated = np.array([[0.0], [1.0], [5.0]]), np.array([[9.0], [9.0], [12.0]])
    assert nearest_ratio(real, generated) == pytest.approx(0.5)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), d=st.integers(1, 8))
def test_nearest_equals_all_pairs_and_means_nothing_of_place_or_order(seed, n, d):
    real, generated = rows(seed, n, d), rows(seed + 1, n, d, scale=0.5, shift=7)
    far = []
    for x in (generated, real):
        pairs = np.linalg.norm(x[:, None] - x[None], axis=2)
        np.fill_diagonal(pairs, np.inf)
        far.append(pairs.min(1).mean())
    assert nearest_ratio(real, generated) == pytest.approx(far[0] / far[1], rel=1e-5)
    assert nearest_ratio(real[::-1].copy(), generated - 3) == pytest.approx(far[0] / far[1], rel=1e-5)


def test_of_the_larger_set_rows_are_taken_evenly():
    line = np.arange(7.0)[:, None]  # 0, 3 and 6 stand for it, 3 apart
    assert nearest_ratio(line, np.array([[0.0], [1.0], [2.0]])) == pytest.approx(1 / 3)
    assert nearest_ratio(np.array([[0.0], [1.0], [2.0]]), line) == pytest.approx(3)


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_a_generator_that_repeats_k_images_has_collapsed_and_only_one_image_shows_in_the_spread(k):
    real, other = rows(0, 60, 20), rows(0, 120, 20)[60:]
    assert nearest_ratio(real, other) > COLLAPSED_NEAREST and spread_ratio(real, other) > COLLAPSED_SPREAD
    repeated = np.tile(other[:k], (60 // k, 1)) + 0.05 * rows(1, 60, 20)
    assert nearest_ratio(real, repeated) < COLLAPSED_NEAREST
    assert (spread_ratio(real, repeated) < COLLAPSED_SPREAD) == (k == 1)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("measure", [frechet_distance, spread_ratio, nearest_ratio])
@pytest.mark.parametrize(
    ("real", "generated", "sentence"),
    [
        (np.eye(3), np.eye(3)[:1], "generated has 1 row; a spread needs at least 2"),
        (np.eye(3)[:1], np.eye(3), "real has 1 row; a spread needs at least 2"),
        (np.eye(3), np.eye(4), "real has 3 numbers per row and generated 4; they must agree"),
        (np.eye(3), np.zeros((0, 3)), "generated must be embeddings of shape"),
        (np.eye(3), np.full((3, 3), np.nan), "generated holds NaN or infinity"),
    ],
)
def test_what_has_no_spread_is_refused(measure, real, generated, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(measure)(real, generated)


def test_real_images_that_are_all_the_same_are_no_yardstick():
    with pytest.raises(ValueError, match="real embeddings are all the same"):
        spread_ratio(np.full((3, 2), 0.1), np.eye(2))  # the mean of three 0.1 is not 0.1
    for twins in (np.full((3, 2), 0.1), np.repeat(rows(0, 4, 3), 2, axis=0)):
        with pytest.raises(ValueError, match="each of the real embeddings has a twin"):
            nearest_ratio(twins, rows(1, 8, twins.shape[1]))
