"""Labels of generated images: the equations in loops, released numbers, gradients, degenerate batches, invariances."""

import functools
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from reidkit.losses.smoothing import all_in_one_loss, cluster_membership, lsro_loss, sparse_label_smoothing_loss

ORACLES = Path(__file__).parents[1] / "oracles"
GENERATED = {
    "mixed": [False, True, True, False, True, False, False, True],
    "all real": [False] * 8,
    "all generated": [True] * 8,
    "one": [True],
}
MEMBERSHIP = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]]).bool()


def oracle(name, prefix=""):
    arrays = np.load(ORACLES / f"{name}.npz")
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}


def draw(name, generator):
    """A batch, with numbers that mean nothing where they are to be ignored."""
    generated = torch.tensor(GENERATED[name])
    n = len(generated)
    logits = torch.randn(n, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    pids = torch.randint(4, (n,), generator=generator).masked_fill(generated, -1)
    clusters = torch.randint(4, (n,), generator=generator).masked_fill(~generated, 99)
    return logits, pids, generated, clusters


LOSSES = {
    "slsr": lambda x, pids, generated, clusters: sparse_label_smoothing_loss(x, pids, generated, clusters, MEMBERSHIP),
    "lsro": lambda x, pids, generated, clusters: lsro_loss(x, pids, generated),
    "all in one": lambda x, pids, generated, clusters: all_in_one_loss(x, pids, generated),
}
EACH = pytest.mark.parametrize("name", LOSSES)


def share(name, c, cluster):
    """How much of identity c a generated image is labelled with."""
    if name == "slsr":
        return MEMBERSHIP[cluster, c].item() / sum(MEMBERSHIP[cluster].tolist())
    return 1 / 5 if name == "lsro" else float(c == 4)


def loop(name, x, pids, generated, clusters):
    """The equations, term by term."""
    total = 0
    for i in range(len(x)):
        p = torch.exp(x[i]) / torch.exp(x[i]).sum()
        if generated[i]:
            total = total - sum(share(name, c, clusters[i]) * torch.log(p[c]) for c in range(5))
        else:
            total = total - torch.log(p[pids[i]])
    return total / len(x)


@EACH
@pytest.mark.parametrize("batch", GENERATED)
def test_equals_the_double_loop_in_value_and_gradient(name, batch, generator):
    inputs = draw(batch, generator)
    ours, naive = LOSSES[name](*inputs), loop(name, *inputs)
    torch.testing.assert_close(ours, naive)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs[0])[0], torch.autograd.grad(naive, inputs[0])[0])


@EACH
def test_gradcheck(name, generator):
    logits, *others = draw("mixed", generator)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, *others), (logits,))


@pytest.mark.parametrize("case", ["a", "b", "c_all_real", "d_all_generated"])
def test_equals_the_released_code_and_the_printed_equations(case):
    """The released class of SLSR computes LSRO: what it should have computed is derived from the equations."""
    released = oracle("p001_slsr_lsro_loss", f"{case}__")
    x, pids, generated = released["logits"].requires_grad_(), released["label"], released["flag"].bool()
    lsro = lsro_loss(x, pids, generated)
    slsr = sparse_label_smoothing_loss(x, pids, generated, released["cluster"], released["cluster_membership"].bool())
    for loss, name in ((lsro, "official"), (slsr, "derived_paper_slsr")):
        torch.testing.assert_close(loss.detach(), released[f"{name}_loss"], atol=2e-5, rtol=0)
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0], released[f"{name}_grad"], atol=1e-6, rtol=0)


def test_equals_lsro_of_matconvnet():
    released = oracle("p001_lsro_matconvnet")
    logits, pids = released["logits"], released["label_1based_0gan"] - 1
    torch.testing.assert_close(lsro_loss(logits, pids, pids < 0), released["mean"], atol=1e-5, rtol=0)
    each = torch.stack([lsro_loss(x[None], pid[None], pid[None] < 0) for x, pid in zip(logits, pids, strict=True)])
    torch.testing.assert_close(each, released["per_sample"], atol=1e-5, rtol=0)


def test_labels_of_generated_images_are_those_of_the_released_loader():
    """The gradient by a row of logits is (softmax - label) / n, which gives the label away."""
    released = oracle("p001_gan_labels")
    lists = [released[f"list{k}"] for k in range(3)]
    sizes = torch.tensor([len(identities) for identities in lists])
    membership = torch.zeros(3, 316, dtype=torch.bool)
    membership[torch.arange(3).repeat_interleave(sizes), torch.cat(lists)] = True
    x = torch.zeros(20, 316, requires_grad=True)
    nobody = torch.full((20,), -1)
    loss = sparse_label_smoothing_loss(x, nobody, released["flag"].bool(), released["cluster"], membership)
    labels = 1 / 316 - 20 * torch.autograd.grad(loss, x)[0]
    torch.testing.assert_close(labels, released["label"], atol=1e-6, rtol=0)


def test_real_images_alone_cost_their_cross_entropy(generator):
    logits, pids, generated, clusters = draw("all real", generator)
    for loss in LOSSES.values():
        torch.testing.assert_close(loss(logits, pids, generated, clusters), F.cross_entropy(logits, pids))


def test_clusters_that_hold_everybody_make_it_lsro(generator):
    logits, pids, generated, clusters = draw("mixed", generator)
    slsr = sparse_label_smoothing_loss(logits, pids, generated, clusters, torch.ones(4, 5, dtype=torch.bool))
    torch.testing.assert_close(slsr, lsro_loss(logits, pids, generated))


def test_a_cluster_of_one_identity_makes_its_images_that_identity(generator):
    logits, pids, generated, clusters = draw("mixed", generator)
    slsr = sparse_label_smoothing_loss(logits, pids, generated, torch.full_like(clusters, 3), MEMBERSHIP)
    torch.testing.assert_close(slsr, F.cross_entropy(logits, pids.masked_fill(generated, 3)))


def test_a_cluster_without_identities_costs_nothing(generator):
    logits = torch.randn(3, 5, generator=generator, requires_grad=True)
    zeros = torch.zeros(3, dtype=torch.int64)
    loss = sparse_label_smoothing_loss(logits, zeros, zeros == 0, zeros, torch.zeros(1, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 5))


@EACH
def test_huge_logits_stay_finite(name, generator):
    logits, *others = draw("mixed", generator)
    x = (1e30 * logits.detach()).float().requires_grad_()
    loss = LOSSES[name](x, *others)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize("nothing", [-1e5, -torch.inf])
def test_an_identity_without_probability_outside_of_the_cluster_costs_nothing(nothing):
    """Two identities share the generated image in equal parts, and the third has no part: ln 2."""
    x = torch.tensor([[0.0, 0.0, nothing], [0.0, 0.0, nothing]], requires_grad=True)
    generated, clusters = torch.tensor([True, False]), torch.tensor([0, 5])
    membership = torch.tensor([[True, True, False]])
    loss = sparse_label_smoothing_loss(x, torch.tensor([-1, 1]), generated, clusters, membership)
    torch.testing.assert_close(loss.item(), math.log(2))
    gradient = torch.autograd.grad(loss, x)[0]
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 0.0], [0.25, -0.25, 0.0]]))


@EACH
def test_what_another_kind_of_image_would_cost_does_not_matter(name):
    """Generated, the first image would cost infinity."""
    x = torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf], [0.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = LOSSES[name](x, torch.tensor([1, -1]), torch.tensor([False, True]), torch.tensor([9, 0]))
    torch.testing.assert_close(loss.item(), (math.log(3) + math.log(5)) / 2)
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_a_single_identity_costs_nothing():
    sure = torch.zeros(2, 1, requires_grad=True)
    zeros, generated = torch.zeros(2, dtype=torch.int64), torch.tensor([False, True])
    for loss in (
        sparse_label_smoothing_loss(sure, zeros, generated, zeros, torch.ones(1, 1, dtype=torch.bool)),
        lsro_loss(sure, zeros, generated),
    ):
        assert loss.item() == 0
        assert torch.equal(torch.autograd.grad(loss, sure)[0], torch.zeros(2, 1))


@EACH
@given(st.permutations(range(8)), st.permutations(range(4)), st.permutations(range(4)))
def test_order_and_names_do_not_matter(name, order, identities, clusters_again):
    x, pids, generated, clusters = draw("mixed", torch.Generator().manual_seed(0))
    columns, rows = torch.tensor([*identities, 4]), torch.tensor(clusters_again)  # new name -> old name
    renamed = columns.argsort()[pids].masked_fill(generated, -7)[order]
    moved = rows.argsort()[clusters.clamp(max=3)].masked_fill(~generated, -7)[order]
    if name == "slsr":
        membership = MEMBERSHIP[rows][:, columns]
        again = sparse_label_smoothing_loss(x[order][:, columns], renamed, generated[order], moved, membership)
    else:
        again = LOSSES[name](x[order][:, columns], renamed, generated[order], moved)
    torch.testing.assert_close(again, LOSSES[name](x, pids, generated, clusters))


@EACH
def test_under_autocast_it_is_computed_in_float32(name, generator):
    logits, *others = draw("mixed", generator)
    logits = logits.detach().float()
    expected = LOSSES[name](logits, *others)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LOSSES[name](logits, *others), expected)
    assert torch.equal(LOSSES[name](logits.bfloat16(), *others), LOSSES[name](logits.bfloat16().float(), *others))


@EACH
def test_host_and_device_are_not_synchronised(name, generator):
    """Under vmap there is no value to look at: to read one, or to need a size that depends on values, fails."""
    batches = [draw("mixed", generator) for _ in range(3)]
    stacked = [torch.stack(column).detach() for column in zip(*batches, strict=True)]
    gradients, values = torch.vmap(torch.func.grad_and_value(LOSSES[name]))(*stacked)
    for inputs, gradient, value in zip(batches, gradients, values, strict=True):
        loss = LOSSES[name](*inputs)
        torch.testing.assert_close(value, loss)
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, inputs[0])[0])


def test_shapes_must_fit():
    three, two = torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    for loss in (lsro_loss, all_in_one_loss):
        loss = inspect.unwrap(loss)
        with pytest.raises(ValueError, match=r"and pids \(n,\) with n at least 1, not \(3, 5\) and \(2,\)"):
            loss(torch.zeros(3, 5), two, three == 0)
        with pytest.raises(ValueError, match=r"and generated \(n,\) with n at least 1, not \(3, 5\) and \(2,\)"):
            loss(torch.zeros(3, 5), three, two == 0)
        with pytest.raises(ValueError, match=r"n at least 1, not \(0, 5\)"):
            loss(torch.zeros(0, 5), three[:0], three[:0] == 0)
    loss = functools.partial(inspect.unwrap(sparse_label_smoothing_loss), torch.zeros(3, 5), three, three == 0)
    with pytest.raises(ValueError, match=r"and clusters \(n,\) with n at least 1, not \(3, 5\) and \(2,\)"):
        loss(two, MEMBERSHIP)
    with pytest.raises(ValueError, match=r"and membership \(k, c\) with .* the same c, not \(3, 5\) and \(4, 4\)"):
        loss(three, MEMBERSHIP[:, :4])


def test_membership_counts_images():
    pids = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    clusters = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 1])
    assert cluster_membership(pids, clusters).int().tolist() == [[1, 0, 1], [1, 1, 1]]
    assert cluster_membership(pids, clusters, min_images=2).int().tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match="a cluster holds no identity with 3 images"):
        cluster_membership(pids, clusters, min_images=3)


@pytest.mark.parametrize(("pids", "clusters"), [([0, -1], [0, 0]), ([0, 1], [0, -1])])
def test_membership_wants_a_pair_for_each_image(pids, clusters):
    pids, clusters = (torch.tensor(x, dtype=torch.int64) for x in (pids, clusters))
    with pytest.raises(ValueError, match="one pair for each training image"):
        cluster_membership(pids, clusters)
    for n in (0, 1):
        with pytest.raises(ValueError, match=rf"clusters \(n,\) with n at least 1, not \({n},\) and \({2 * n},\)"):
            inspect.unwrap(cluster_membership)(pids[:n], torch.zeros(2 * n, dtype=torch.int64))


def test_membership_needs_an_image():
    with pytest.raises(ValueError, match="min_images must be at least 1, not 0"):
        cluster_membership(torch.tensor([0]), torch.tensor([0]), min_images=0)
