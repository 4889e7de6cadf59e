"""Batch-hard triplet loss: the double loop, its gradient, degenerate batches, invariances."""

import pytest
import torch

from reidkit.losses.triplet import batch_hard_triplet_loss


def loop(x, pids, margin):
    terms = []
    for i, (anchor, pid) in enumerate(zip(x, pids.tolist(), strict=True)):
        dist = [(anchor - other).norm() for other in x]
        positive = [d for j, d in enumerate(dist) if pids[j] == pid and j != i]
        negative = [d for j, d in enumerate(dist) if pids[j] != pid]
        if positive and negative:
            terms.append((margin + max(positive) - min(negative)).clamp(min=0))
    return torch.stack(terms).mean()


BATCHES = {"PK": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], "uneven": [5, 5, -1, 7, 7, 7, 7, 9, 5, 7]}


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("name", BATCHES)
def test_equals_the_double_loop_in_value_and_gradient(name, margin, generator):
    pids = torch.tensor(BATCHES[name])
    x = torch.randn(len(pids), 6, dtype=torch.float64, generator=generator, requires_grad=True)
    ours, naive = batch_hard_triplet_loss(x, pids, margin=margin), loop(x, pids, margin)
    torch.testing.assert_close(ours, naive)
    assert ours > 0
    torch.testing.assert_close(torch.autograd.grad(ours, x)[0], torch.autograd.grad(naive, x)[0])


def test_gradcheck(generator):
    pids = torch.tensor(BATCHES["uneven"])
    x = torch.randn(len(pids), 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet_loss(x, pids, margin=1.0), (x,))


@pytest.mark.parametrize("pids", [[3, 3, 3, 3], [1, 2, 3, 4], [1]])
def test_without_an_anchor_the_loss_is_zero_and_so_is_its_gradient(pids, generator):
    x = torch.randn(len(pids), 4, generator=generator, requires_grad=True)
    loss = batch_hard_triplet_loss(x, torch.tensor(pids), margin=10.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_equal_rows_give_the_margin_and_a_finite_gradient():
    x = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet_loss(x, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.3))
    assert x.grad.isfinite().all()


def test_a_satisfied_batch_costs_nothing():
    x = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    assert batch_hard_triplet_loss(x, torch.tensor([0, 0, 1, 1])).item() == 0


def test_order_and_names_do_not_matter(generator):
    pids, order = torch.tensor(BATCHES["uneven"]), torch.randperm(10, generator=generator)
    x = torch.randn(10, 6, dtype=torch.float64, generator=generator)
    expected = batch_hard_triplet_loss(x, pids)
    torch.testing.assert_close(batch_hard_triplet_loss(x[order], pids[order] * 1000 - 5), expected)


def test_under_autocast_it_is_computed_in_float32(generator):
    pids, x = torch.tensor(BATCHES["PK"]), torch.randn(12, 6, generator=generator)
    expected = batch_hard_triplet_loss(x, pids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(batch_hard_triplet_loss(x, pids), expected)
    assert batch_hard_triplet_loss(x.bfloat16(), pids).dtype == torch.float32


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"margin must be at least 0, not -0\.1"):
        batch_hard_triplet_loss(torch.ones(2, 2), torch.tensor([0, 1]), margin=-0.1)
