"""Pairwise distances against loops, their gradients, and the blocks of rows."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.distances import cosine, embedding_rows, euclidean, min_max, row_blocks, squared_euclidean, triangle_tiles


def loop(x, y, distance):
    return torch.stack([torch.stack([distance(a, b) for b in y]) for a in x])


def test_distances_equal_the_double_loop(generator):
    x = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(squared_euclidean(x, y), loop(x, y, lambda a, b: (a - b).square().sum()))
    torch.testing.assert_close(euclidean(x, y), loop(x, y, lambda a, b: (a - b).norm()))
    torch.testing.assert_close(cosine(x, y), loop(x, y, lambda a, b: 1 - (a / a.norm()) @ (b / b.norm())))


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
    torch.testing.assert_close(min_max(dist), torch.tensor([[0, 0.5], [0.25, 1]]))
    assert torch.equal(min_max(torch.full((2, 3), 7.0)), torch.zeros(2, 3))


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 300))
def test_row_blocks_cover_all_rows_once_within_the_budget(n_rows, row_bytes, budget):
    blocks = list(row_blocks(n_rows, row_bytes, budget=budget))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(n_rows))
    assert all((b.stop - b.start) * row_bytes <= budget or b.stop - b.start == 1 for b in blocks)


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


def test_embedding_rows_takes_awkward_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert embedding_rows(array, "x").data_ptr() == array.ctypes.data  # shared, not copied
    array.flags.writeable = False
    for awkward in (array, array[:, ::-1], torch.tensor(array.copy(), requires_grad=True)):
        rows = embedding_rows(awkward, "x")
        assert not rows.requires_grad
        np.testing.assert_array_equal(rows, awkward.detach() if isinstance(awkward, torch.Tensor) else awkward)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3, 4)])
def test_embedding_rows_wants_rows(bad):
    with pytest.raises(ValueError, match=r"query must be embeddings of shape \(n, d\)"):
        embedding_rows(bad, "query")


def test_embedding_rows_wants_real_numbers():
    with pytest.raises(ValueError, match=r"gallery must hold floating-point embeddings, not torch\.uint8"):
        inspect.unwrap(embedding_rows)(torch.zeros(2, 3, dtype=torch.uint8), "gallery")
