"""Pairwise distances against loops, their gradients, and the tiles of half a matrix."""

import pytest
import torch

from reidkit.distances import cosine, euclidean, min_max, squared_euclidean, triangle_tiles


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
