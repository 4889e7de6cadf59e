"""Losses on unlabelled images: released values, double loops, degenerate batches, a table that changes in `update`."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reidkit.losses.one_shot import ExclusiveLoss, feature_space_regularization

ORACLES = Path(__file__).resolve().parents[1] / "oracles"
CASES = ["a", "b", "c_one_labelled", "d_identical"]


def oracle(name, prefix=""):
    arrays = np.load(ORACLES / f"{name}.npz")
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}


def unit_rows(n, d, generator, dtype=torch.float64):
    return F.normalize(torch.randn(n, d, dtype=dtype, generator=generator), dim=1).requires_grad_()


def regularization_loop(labelled, unlabelled, reading, reduction, squared):
    def distance(a, b):
        total = (a - b).square().sum()
        return total if squared else (total + 1e-12).sqrt()

    dist = [[distance(z, u) for u in unlabelled] for z in labelled]
    terms = []
    for mine in dist:
        for other in dist:
            if reading == "matrix":
                gap = sum((a - b) ** 2 for a, b in zip(mine, other, strict=True))
            else:
                gap = (sum(mine) / len(mine) - sum(other) / len(other)) ** 2
            terms.append(gap if reading == "variance" else (gap + 1e-12).sqrt())
    return sum(terms) / (len(terms) if reduction == "mean" else 1)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("reading", ["vector", "matrix", "variance"])
def test_regularization_equals_the_double_loop_in_value_and_gradient(reading, reduction, squared, generator):
    x, y = unit_rows(5, 6, generator), unit_rows(4, 6, generator)
    options = {"reading": reading, "reduction": reduction, "squared": squared}
    ours, naive = feature_space_regularization(x, y, **options), regularization_loop(x, y, **options)
    torch.testing.assert_close(ours, naive)
    assert ours > 1e-3
    for mine, other in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(naive, (x, y)), strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.autograd.gradcheck(lambda x, y: feature_space_regularization(x, y, **options), (x, y))


@pytest.mark.parametrize("case", CASES)
def test_regularization_equals_the_released_code(case):
    released = oracle("p000_fsr_loss", f"{case}__")
    x, y = (released[f"feat_{name}"].clone().requires_grad_() for name in ("labelled", "unlabelled"))
    value = feature_space_regularization(x, y)
    value.backward()
    torch.testing.assert_close(value.detach(), released["loss_sum"], atol=2e-5, rtol=0)
    torch.testing.assert_close(x.grad, released["grad_labelled"], atol=1e-5, rtol=0)
    torch.testing.assert_close(y.grad, released["grad_unlabelled"], atol=1e-5, rtol=0)
    mean = feature_space_regularization(x, y, reduction="mean").detach()
    torch.testing.assert_close(mean, released["derived_loss_mean"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("reading", ["vector", "matrix", "variance"])
def test_equal_distances_are_what_it_wants(reading, generator):
    """Labelled images on a circle around the only unlabelled one; or all in one place, with it or without."""
    angles = torch.linspace(0, 5, 6, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    for x, y in ((circle, torch.zeros(1, 2).double()), (circle[:1].repeat(6, 1), circle[2:]), (circle[:1], circle[:1])):
        x = x.clone().requires_grad_()
        value = feature_space_regularization(x, y, reading=reading)
        value.backward()
        least = 0.0 if reading == "variance" else 1e-6 * len(x) ** 2
        torch.testing.assert_close(value.item(), least, atol=1e-8, rtol=1e-3)
        torch.testing.assert_close(x.grad, torch.zeros_like(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_no_image_on_one_side_costs_nothing(n, m):
    x, y = torch.ones(n, 2, requires_grad=True), torch.ones(m, 2, requires_grad=True)
    value = feature_space_regularization(x, y)
    value.backward()
    assert value.item() == 0
    assert not x.grad.any() and not y.grad.any()


def test_regularization_ignores_the_order(generator):
    x, y = unit_rows(7, 5, generator), unit_rows(4, 5, generator)
    for reading in ("vector", "matrix", "variance"):
        expected = feature_space_regularization(x, y, reading=reading)
        shuffled = feature_space_regularization(x.flip(0), y.flip(0), reading=reading)
        torch.testing.assert_close(shuffled, expected)


def test_computed_in_float32_under_autocast(generator):
    x, y = unit_rows(7, 5, generator, torch.float32), unit_rows(4, 5, generator, torch.float32)
    loss, k = ExclusiveLoss(9, 5), torch.arange(7)
    loss.update(x, k)
    expected = feature_space_regularization(x, y), loss(x, k)
    with torch.autocast("cpu", torch.bfloat16):
        assert feature_space_regularization(x, y) == expected[0] and loss(x, k) == expected[1]
        loss.update(x, k)
    assert feature_space_regularization(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    assert loss(x.bfloat16(), k).dtype == loss.table.dtype == torch.float32


def test_exclusive_equals_the_released_code_over_five_steps():
    released = oracle("p000_exclusive_loss")
    loss = ExclusiveLoss(12, 16)
    assert torch.equal(loss.table, released["V_0"])
    for step in range(5):
        x, k = (released[f"step{step}__{name}"] for name in ("feat", "index"))
        x = x.clone().requires_grad_()
        value = loss(x, k)
        loss.update(x, k)
        value.backward()
        torch.testing.assert_close(value.detach(), released[f"step{step}__loss"], atol=1e-5, rtol=0)
        torch.testing.assert_close(x.grad, released[f"step{step}__grad"], atol=1e-5, rtol=0)
        torch.testing.assert_close(loss.table, released[f"V_{step + 1}"], atol=1e-6, rtol=0)


@pytest.fixture
def exclusive(generator):
    """A table that has seen some images, a batch in which two of them are there twice, and its rows."""
    loss = ExclusiveLoss(9, 4, temperature=3.0).double()
    loss.update(unit_rows(9, 4, generator), torch.randperm(9, generator=generator))
    return loss, unit_rows(6, 4, generator), torch.tensor([8, 0, 0, 5, 8, 1])


def test_exclusive_equals_the_double_loop_in_value_and_gradient(exclusive):
    loss, x, k = exclusive
    terms = []
    for f, own in zip(x, k.tolist(), strict=True):
        similar = torch.stack([(3.0 * (f * row).sum()).exp() for row in loss.table])
        terms.append(-(similar[own] / similar.sum()).log())
    naive = sum(terms) / len(terms)
    torch.testing.assert_close(loss(x, k), naive)
    torch.testing.assert_close(torch.autograd.grad(loss(x, k), x)[0], torch.autograd.grad(naive, x)[0])
    assert torch.autograd.gradcheck(loss, (x, k))


def test_the_table_changes_in_update_only_row_after_row(exclusive):
    loss, x, k = exclusive
    expected = loss.table.clone()
    loss(x, k).backward()
    assert torch.equal(loss.table, expected) and not loss.table.requires_grad
    for f, own in zip(x.detach(), k.tolist(), strict=True):
        middle = (expected[own] + f) / 2
        expected[own] = middle / middle.norm()
    loss.update(x, k)
    torch.testing.assert_close(loss.table, expected)
    assert "table" in loss.state_dict()  # a run that is resumed needs it


def test_a_row_keeps_its_length_though_an_image_almost_cancels_it():
    """Midway between a direction and almost the opposite one is a unit vector, at a right angle to both."""
    for gap in (1e-2, 1e-4, 1e-6):
        loss, row = ExclusiveLoss(1, 2).double(), torch.tensor([0])
        for angle in (0.0, math.pi - gap):
            loss.update(torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64), row)
        torch.testing.assert_close(loss.table, torch.tensor([[gap / 2, 1.0]]).double(), atol=1e-4, rtol=0)


def test_an_update_before_the_backward_pass_leaves_the_gradient_alone(exclusive):
    loss, x, k = exclusive
    expected = torch.autograd.grad(loss(x, k), x)[0]
    value = loss(x, k)
    loss.update(x, k)
    assert torch.equal(torch.autograd.grad(value, x)[0], expected)


def test_first_batches(generator):
    x = unit_rows(3, 4, generator, torch.float32)
    loss = ExclusiveLoss(50, 4)
    value = loss(x, torch.tensor([0, 7, 7]))
    value.backward()
    torch.testing.assert_close(value.item(), math.log(50))
    assert not x.grad.any()
    nothing = torch.ones(0, 4, requires_grad=True)
    value = loss(nothing, torch.tensor([], dtype=torch.int64))
    value.backward()
    loss.update(nothing, torch.tensor([], dtype=torch.int64))
    assert value.item() == 0 and not loss.table.any()
    assert ExclusiveLoss(1, 4)(x[:1], torch.tensor([0])).item() == 0  # nobody else to be told from
    opposite = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    loss.update(opposite, torch.tensor([3, 3]))
    assert torch.equal(loss.table, torch.zeros(50, 4))  # what cancels has no direction


def test_without_unlabelled_images_the_value_is_zero_however_large_the_others_are():
    large = torch.full((3, 2), 6e4, dtype=torch.float16, requires_grad=True)  # their sum is infinite
    for loss in (feature_space_regularization(large, large[:0]), feature_space_regularization(large[:0], large)):
        assert loss.item() == 0
        assert torch.equal(torch.autograd.grad(loss, large)[0], torch.zeros_like(large))


def test_wrong_values_are_refused():
    loss, x = inspect.unwrap(feature_space_regularization), torch.eye(2)
    with pytest.raises(ValueError, match="not 'rows'"):
        loss(x, x, reading="rows")
    with pytest.raises(ValueError, match="not 'none'"):
        loss(x, x, reduction="none")
    with pytest.raises(ValueError, match=r"the same d, not \(2, 2\) and \(2, 3\)"):
        loss(x, torch.eye(2, 3))
    for options in ({"num_images": 0}, {"dim": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="at least 1 and temperature above 0"):
            ExclusiveLoss(**{"num_images": 3, "dim": 2} | options)
    exclusive = ExclusiveLoss(3, 2)
    for method in (exclusive.forward, exclusive.update):
        with pytest.raises(ValueError, match=r"must be \(n, 2\) and indices \(n,\), not \(2, 3\) and \(2,\)"):
            method(torch.eye(2, 3), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match=r"not \(2, 2\) and \(1,\)"):
            inspect.unwrap(method.__func__)(exclusive, x, torch.tensor([0]))
