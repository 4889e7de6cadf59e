"""Pairwise distances against loops, their gradients, and the tiles of half a matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from near_ties import near_ties
from reidkit import blocks, distances
from reidkit.distances import (
    Nearness,
    cosine,
    euclidean,
    first_equal,
    frame,
    k_nearest,
    min_max,
    nearest,
    squared_euclidean,
    triangle_tiles,
)


def loop(x, y, distance):
    return torch.stack([torch.stack([distance(a, b) for b in y]) for a in x])


def test_distances_equal_the_double_loop(generator):
    x = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(squared_euclidean(x, y), loop(x, y, lambda a, b: (a - b).square().sum()))
    torch.testing.assert_close(euclidean(x, y), loop(x, y, lambda a, b: (a - b).norm()))
    torch.testing.assert_close(cosine(x, y), loop(x, y, lambda a, b: 1 - (a / a.norm()) @ (b / b.norm())))


@pytest.mark.parametrize("length", [1e-9, 1e-4, 1e9])
def test_the_cosine_knows_no_length(length, generator):
    x, y = (torch.randn(n, 7, dtype=torch.float64, generator=generator) for n in (5, 4))
    torch.testing.assert_close(cosine(length * x, y), cosine(x, y))
    torch.testing.assert_close(cosine(x, length * y), cosine(x, y))


def test_gradients(generator):
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    for distance in (squared_euclidean, euclidean, cosine):
        assert torch.autograd.gradcheck(distance, (x, y))


def test_gradient_is_finite_between_equal_rows():
    x = torch.ones(3, 4, requires_grad=True)
    dist = euclidean(x, x)
    torch.testing.assert_close(dist, torch.full((3, 3), 1e-6))
    dist.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_and_autocast_is_off(dtype, generator):
    x, y = torch.randn(6, 32, generator=generator).to(dtype), torch.randn(5, 32, generator=generator).to(dtype)
    for distance in (squared_euclidean, euclidean, cosine):
        expected = distance(x.float(), y.float())
        assert expected.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(distance(x, y), expected)
            assert torch.equal(distance(x.float(), y), expected)


def test_min_max():
    dist = torch.tensor([[2.0, 4.0], [3.0, 6.0]])
    for unit in (1e-6, 1.0, 1e6):
        torch.testing.assert_close(min_max(unit * dist), torch.tensor([[0, 0.5], [0.25, 1]]))
    assert torch.equal(min_max(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_triangle_tiles_are_half_of_the_matrix(size, generator):
    x = torch.randn(8, 5, generator=generator)
    whole = torch.full((8, 8), torch.nan)
    for rows, cols, tile in triangle_tiles(x, size=size):
        assert rows.start <= cols.start and whole[rows, cols].isnan().all()
        whole[rows, cols] = tile
    expected = (x[:, None] - x[None]).square().sum(2)
    upper = torch.arange(8)[:, None] // size <= torch.arange(8) // size
    torch.testing.assert_close(whole[upper], expected[upper], atol=1e-5, rtol=0)
    assert whole[~upper].isnan().all()


def of_float64(x, y):
    return torch.stack([(row.double() - y.double()).square().sum(1) for row in x])


@given(sides=near_ties(), k=st.integers(1, 12), tile=st.sampled_from([500, 2**23]), pairs=st.sampled_from([3, 2**18]))
def test_nearest_is_a_stable_sort_in_float64(sides, k, tile, pairs):
    query, gallery = map(torch.from_numpy, sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(distances.TILE_BYTES, "cpu", tile)
        patch.setattr(distances, "PAIRS", pairs)
        index, squared = nearest(query, gallery, min(k, len(gallery)))
    exact = of_float64(query, gallery).sort(dim=1, stable=True)
    assert torch.equal(index, exact.indices[:, :k])
    torch.testing.assert_close(squared, exact.values[:, :k], rtol=1e-12, atol=0)


@given(
    sides=near_ties(longest=1e9), k=st.integers(1, 12), tile=st.sampled_from([4, 1024]), spare=st.sampled_from([0, 8])
)
def test_k_nearest_are_those_of_float64(sides, k, tile, spare):
    x = torch.from_numpy(np.concatenate(sides)).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(blocks.TILE, "cpu", tile)
        patch.setattr(distances, "SPARE", spare)
        found = k_nearest(x, k).index
    exact = of_float64(x, x).fill_diagonal_(-1).sort(dim=1, stable=True)
    assert torch.equal(found, exact.indices[:, :k])


@given(sides=near_ties())
def test_scores_further_apart_than_the_slack_are_in_the_order_of_float64(sides):
    query, gallery = map(torch.from_numpy, sides)
    near = Nearness(query, gallery)
    score = near.scores(slice(0, len(query)), near.bias.new_empty(len(query), len(gallery))).double()
    far = of_float64(query, gallery)
    sure = score[:, :, None] - score[:, None] > near.slack[:, None, None].double()
    assert (far[:, :, None] < far[:, None])[sure].all()


def test_embeddings_around_the_origin_stay_as_they_are(generator):
    x = torch.randn(40, 8, generator=generator)
    assert frame(x + 1, names=("x",))[0].plain
    put = Nearness(x, x).frame.put(x, x.dtype)
    assert put.data_ptr() == x.data_ptr()
    assert not frame(x + 30, names=("x",))[0].plain


def test_first_equal():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -0.0], [0.0, 1.0], [0.0, -1.0]])
    assert first_equal(x).tolist() == [0, 1, 0, 1, 4]
