"""Soft multilabels: the equations in loops, released numbers, gradients, degenerate batches, what is remembered."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reidkit.losses import soft_multilabel
from reidkit.losses.soft_multilabel import (
    CrossCameraConsistency,
    MultilabelDiscriminativeLoss,
    MultilabelMemory,
    agent_learning_loss,
    agreement,
    joint_embedding_loss,
    kth_largest_agreement,
    soft_multilabels,
)

ORACLES = Path(__file__).parents[1] / "oracles"
DOUBLE = {"dtype": torch.float64}


def oracle(name, prefix=""):
    arrays = np.load(ORACLES / f"p003_{name}.npz")
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}


def unit_rows(n, d, generator):
    return F.normalize(torch.randn(n, d, **DOUBLE, generator=generator)).requires_grad_()


def multilabels_of(n, a, generator, sharpness=2.0):
    return (sharpness * torch.randn(n, a, **DOUBLE, generator=generator)).softmax(1)


def assert_equal_with_gradient(ours, naive, *inputs):
    torch.testing.assert_close(ours, naive)
    assert ours != 0
    for x in inputs:
        torch.testing.assert_close(*(torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (ours, naive)))


def pairs_of(rows):
    return {tuple(pair) for pair in rows.tolist()}


# Multilabels and agents


def test_multilabels_and_agent_learning_equal_the_loops_in_value_and_gradient(generator):
    x, agents, pids = unit_rows(5, 3, generator), unit_rows(4, 3, generator), [2, 0, 0, 3, 1]
    ours, rows, naive = soft_multilabels(x, agents, scale=7.0), [], 0
    for image, pid in zip(x, pids, strict=True):
        e = [torch.exp(7 * agent @ image) for agent in agents]
        rows.append(torch.stack([value / sum(e) for value in e]))
        naive = naive - torch.log(e[pid] / sum(e)) / len(pids)
    torch.testing.assert_close(ours, torch.stack(rows))
    torch.testing.assert_close(soft_multilabels(x, agents, scale=7.0, log=True), torch.stack(rows).log())
    assert_equal_with_gradient(agent_learning_loss(x, torch.tensor(pids), agents, scale=7.0), naive, x, agents)


def test_agreement_equals_the_double_loop_in_value_and_gradient(generator):
    y = multilabels_of(6, 5, generator).requires_grad_()
    shared = torch.stack([torch.stack([torch.minimum(a, b).sum() for b in y]) for a in y])
    naive = torch.stack([torch.stack([1 - (a - b).abs().sum() / 2 for b in y]) for a in y])
    weights = torch.randn(6, 6, **DOUBLE, generator=generator)
    torch.testing.assert_close(agreement(y), shared)
    assert_equal_with_gradient((agreement(y) * weights).sum(), (naive * weights).sum(), y)


def test_multilabels_and_memory_equal_the_released_code():
    released = oracle("multilabel_memory")
    ordinary = slice(0, 5)  # the released normalisation adds 1e-7 to a norm, which row 5 notices
    y = soft_multilabels(released["feature"], released["agents"])
    torch.testing.assert_close(y[ordinary], released["multilabel"][ordinary], atol=1e-6, rtol=0)
    memory = MultilabelMemory(*released["memory_after"].shape[1:])
    for indices, multilabels, after in zip(
        released["mem_index"], released["mem_multilabel"], released["memory_after"], strict=True
    ):
        memory.update(indices, multilabels)
        torch.testing.assert_close(memory.table, after, atol=1e-6, rtol=0)
        assert torch.equal(memory[indices], memory.table[indices])


def test_logarithms_stay_exact_where_multilabels_almost_vanish():
    agents = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    log_y = soft_multilabels(agents[:1], agents, log=True)
    torch.testing.assert_close(log_y, torch.tensor([[0.0, -60.0]]))
    torch.testing.assert_close(soft_multilabels(agents[:1], agents).log(), log_y)


# Joint embedding


def joint_loop(source, pids, target, agents, margin):
    """The released list of terms, and the printed sum."""

    def hinges(image, others):
        return [h for a in others if (h := margin - (image - a).square().sum()) > 0]

    fixed = agents.detach()
    attraction = [(image - fixed[pid]).square().sum() for image, pid in zip(source, pids, strict=True)]
    lists = [hinges(z, torch.cat([fixed[:pid], fixed[pid + 1 :]])) for z, pid in zip(source, pids, strict=True)]
    lists += [hinges(x, fixed) for x in target]
    terms = attraction + [sum(some) / len(some) for some in lists if some]
    printed = [(image - agents[pid]).square().sum() for image, pid in zip(source, pids, strict=True)]
    unused = 0 * target.sum()  # where no target image has a hard agent
    return unused + sum(terms) / len(terms), unused + sum(printed + [h for x in target for h in hinges(x, agents)])


@pytest.mark.parametrize("margin", [0.01, 0.5, 1.0, 2.5, 4.0])
def test_joint_embedding_equals_the_loops_in_value_and_gradient(margin, generator):
    source, target, agents = (unit_rows(n, 3, generator) for n in (6, 5, 9))
    pids = torch.tensor([0, 8, 8, 3, 5, 0])
    code, printed = joint_loop(source, pids.tolist(), target, agents, margin)
    ours = joint_embedding_loss(source, pids, target, agents, margin=margin)
    assert_equal_with_gradient(ours, code, source, target)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(ours, agents)
    ours = joint_embedding_loss(source, pids, target, agents, margin=margin, reading="eq8")
    assert_equal_with_gradient(ours, printed, source, target, agents)


@pytest.mark.parametrize(("case", "margin"), [("a", 1.0), ("b_margin05", 0.5), ("c_no_hard", 1.0), ("d_margin15", 1.5)])
def test_joint_embedding_equals_the_released_code(case, margin):
    released = oracle("joint_loss", f"{case}__")
    source, target = (released[f"feat_{name}"].clone().requires_grad_() for name in ("source", "target"))
    arguments = (source, released["label"], target, released["agents"])
    loss = joint_embedding_loss(*arguments, margin=margin)
    loss.backward()
    torch.testing.assert_close(loss.detach(), released["loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(source.grad, released["grad_source"], atol=1e-5, rtol=0)
    torch.testing.assert_close(target.grad, released["grad_target"], atol=1e-5, rtol=0)
    printed = joint_embedding_loss(*arguments, margin=margin, reading="eq8").detach()
    torch.testing.assert_close(printed, released["derived_eq8_sum"], atol=1e-5, rtol=1e-6)


def test_an_agent_just_at_the_margin_is_not_hard():
    """Orthogonal agents are 2 apart, squared: the target image repels its own agent only, the source image none."""
    agents = torch.eye(3)
    loss = joint_embedding_loss(agents[:1], torch.tensor([0]), agents[1:2], agents, margin=2.0)
    assert loss.item() == (0 + 2) / 2


def test_chosen_agents_are_averaged_alike_looked_up_and_multiplied(generator):
    hard = torch.rand(7, 9, generator=generator) < torch.linspace(0, 1, 7)[:, None]
    agents = torch.randn(9, 4, generator=generator)
    expected = torch.stack([agents[row].mean(0) if row.any() else torch.zeros(4) for row in hard])
    assert not hard[0].any() and hard[-1].all()
    torch.testing.assert_close(soft_multilabel._mean_agent(hard, agents), expected)
    torch.testing.assert_close(soft_multilabel._mean_agent_looked_up(hard, agents), expected)


# Cameras


def camera_loop(log_y, camids):
    """Mean and standard deviation of each camera with two images."""
    cameras = [log_y[camids == c] for c in sorted(set(camids.tolist()))]
    return [(rows.mean(0), rows.std(0)) for rows in cameras if len(rows) > 1]


CAMERAS = {"six": [3, 0, 3, 5, 0, 3, 9, 9, 0, 9, 3, 9], "one alone": [1, 7, 1, 2, 2, 1, -4, -4], "one": [4, 4, 4]}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CAMERAS)
def test_cross_camera_equals_the_loop_in_value_and_gradient(name, reduction, generator):
    camids = torch.tensor(CAMERAS[name])
    old = torch.randn(9, 5, **DOUBLE, generator=generator), torch.tensor([0, 0, 0, 1, 2, 2, 1, 1, 6])
    x = (3 * torch.randn(len(camids), 5, **DOUBLE, generator=generator)).requires_grad_()
    loss = CrossCameraConsistency(5, momentum=0.8, reduction=reduction).double()
    loss.initialise(*old)
    centres = [torch.stack(part).mean(0) for part in zip(*camera_loop(*old), strict=True)]
    torch.testing.assert_close([loss.mean, loss.std], centres)
    loss.update(x, camids)
    new = [torch.stack(part).mean(0).detach() for part in zip(*camera_loop(x, camids), strict=True)]
    centres = [0.8 * before + 0.2 * after for before, after in zip(centres, new, strict=True)]
    torch.testing.assert_close([loss.mean, loss.std], centres)
    terms = [((s - c) ** 2).sum() for camera in camera_loop(x, camids) for s, c in zip(camera, centres, strict=True)]
    naive = sum(terms) / (len(terms) if reduction == "mean" else 1)
    assert_equal_with_gradient(loss(x, camids), naive, x)


@pytest.mark.parametrize(("case", "momentum"), [("a", 1 - 0.0368), ("b_single_view_sample", 1 - 0.02)])
def test_cross_camera_equals_the_released_code_over_three_steps(case, momentum):
    released = oracle("multilabel_loss", f"{case}__")
    loss = CrossCameraConsistency(released["init_logml"].shape[1], momentum=momentum)
    loss.initialise(released["init_logml"], released["init_view"])
    for step in range(4):
        torch.testing.assert_close(loss.mean, released[f"center_mean_{step}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(loss.std, released[f"center_std_{step}"], atol=1e-5, rtol=0)
        if step < 3:
            x, camids = released[f"logml_{step}"].clone().requires_grad_(), released[f"view_{step}"]
            loss.update(x, camids)
            value = loss(x, camids)
            torch.testing.assert_close(value.detach(), released[f"loss_{step}"], rtol=2e-5, atol=0)
            torch.testing.assert_close(torch.autograd.grad(value, x)[0], released[f"grad_{step}"], atol=1e-4, rtol=0)


def test_without_two_images_of_a_camera_nothing_is_asked_and_nothing_moves(generator):
    loss, x = CrossCameraConsistency(3), torch.randn(4, 3, generator=generator, requires_grad=True)
    loss.initialise(x.detach(), torch.tensor([0, 0, 1, 1]))
    before = loss.mean.clone(), loss.std.clone()
    alone = torch.tensor([0, 1, 2, 3])
    loss.update(x, alone)
    value = loss(x, alone)
    value.backward()
    assert value.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(loss.mean, before[0]) and torch.equal(loss.std, before[1])
    with pytest.raises(ValueError, match="no two images of one camera"):
        loss.initialise(x.detach(), alone)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cameras_that_do_not_count_may_hold_anything(reduction, generator):
    """Before there are centres nothing is compared with them; an image alone in its camera may have log 0."""
    loss, x = CrossCameraConsistency(3, reduction=reduction), torch.randn(4, 3, generator=generator, requires_grad=True)
    alone = torch.arange(4)
    loss.update(x, alone)
    value = loss(x, alone)
    assert value.item() == 0 and torch.equal(torch.autograd.grad(value, x)[0], torch.zeros(4, 3))
    loss.initialise(x.detach() + 1, torch.tensor([0, 0, 1, 1]))
    camids = torch.tensor([0, 0, 0, 5])
    expected, gradient = loss(x[:3], camids[:3]), torch.zeros(4, 3)
    gradient[:3] = torch.autograd.grad(expected, x)[0][:3]
    holed = torch.cat([x.detach()[:3], torch.full((1, 3), -torch.inf)]).requires_grad_()
    for one in (x, holed):
        value = loss(one, camids)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, one)[0], gradient)
    centres = [loss.mean.clone(), loss.std.clone()]
    loss.update(holed, camids)
    assert loss.mean.isfinite().all() and loss.std.isfinite().all() and not torch.equal(loss.mean, centres[0])


def test_equal_images_of_a_camera_have_a_finite_gradient(generator):
    loss, x = CrossCameraConsistency(3), torch.ones(4, 3, requires_grad=True)
    loss.initialise(torch.randn(4, 3, generator=generator), torch.tensor([0, 0, 1, 1]))
    loss(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_a_first_update_sets_the_centres_and_the_threshold(generator):
    x, camids = torch.randn(6, 4, generator=generator), torch.tensor([0, 0, 1, 1, 1, 2])
    initialised, updated = CrossCameraConsistency(4), CrossCameraConsistency(4)
    assert updated(x, camids).isnan()  # a training that forgets them stops at once
    initialised.initialise(x, camids)
    updated.update(x, camids)
    torch.testing.assert_close([updated.mean, updated.std], [initialised.mean, initialised.std])
    losses = [MultilabelDiscriminativeLoss(mining_ratio=0.2) for _ in range(2)]
    losses[0].initialise(x.softmax(1))
    losses[1].update(x.softmax(1))
    assert torch.equal(losses[0].threshold, losses[1].threshold) and losses[0].threshold > 0


# Pairs


def discriminative_loop(x, y, count, threshold):
    """Loss, positive and negative pairs; every pair in turn."""
    pairs = sorted((((x[i] - x[j]) ** 2).sum().item(), i, j) for i in range(len(x)) for j in range(i + 1, len(x)))
    sets = [], []
    for _, i, j in pairs[:count]:
        sets[torch.minimum(y[i], y[j]).sum() <= threshold].append((i, j))
    positive, negative = (
        sum(torch.exp(-((x[i] - x[j]) ** 2).sum()) for i, j in some) / max(1, len(some)) for some in sets
    )
    p, n = positive if sets[0] else torch.ones((), **DOUBLE), negative if sets[1] else 0.5
    return -torch.log(p / (p + n)) if sets[0] else torch.log(1 + n), *map(set, sets)


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.5, 2.0])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_discriminative_equals_the_double_loop_in_value_and_gradient(ratio, threshold, generator):
    x, y = unit_rows(9, 4, generator), multilabels_of(9, 6, generator, 1.0)
    loss = MultilabelDiscriminativeLoss(mining_ratio=ratio)
    loss.threshold.fill_(threshold)
    naive, *sets = discriminative_loop(x, y, int(36 * ratio), threshold)
    assert_equal_with_gradient(loss(x, y), naive, x)
    assert [pairs_of(pairs) for pairs in loss.partition(x, y)] == sets
    loss.update(y)
    values = sorted((torch.minimum(y[i], y[j]).sum().item() for i in range(9) for j in range(i)), reverse=True)
    expected = 0.9 * threshold + 0.1 * values[int(36 * ratio) - 1]
    torch.testing.assert_close(loss.threshold.item(), expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:.*takes none")
@pytest.mark.parametrize(
    ("case", "ratio", "steps"),
    [
        ("a_main", 0.05, 3),
        ("b_paper_ratio", 0.005, 3),
        ("c_view_noise", 0.05, 3),
        ("d_zero_pairs", 0.005, 2),
        ("e_all_positive", 0.1, 1),
        ("f_all_negative", 0.1, 1),
    ],
)
def test_discriminative_equals_the_released_code_over_its_steps(case, ratio, steps):
    released = oracle("discriminative_loss", f"{case}__")
    loss = MultilabelDiscriminativeLoss(mining_ratio=ratio, momentum=1 - 0.1, strict_official=case == "d_zero_pairs")
    if "init_multilabels" in released:
        loss.initialise(released["init_multilabels"])
    else:
        loss.threshold.copy_(released["threshold_0"][0])
    for step in range(steps):
        torch.testing.assert_close(loss.threshold, released[f"threshold_{step}"][0], atol=1e-6, rtol=0)
        x, y = released[f"feat_{step}"].clone().requires_grad_(), released[f"multilabel_{step}"]
        value = loss(x, y)
        value.backward()
        torch.testing.assert_close(value.detach(), released[f"loss_{step}"], atol=2e-5, rtol=0)
        torch.testing.assert_close(x.grad, released[f"grad_{step}"], atol=2e-5, rtol=0)
        positive, negative = loss.partition(x, y)
        assert pairs_of(positive) == pairs_of(released[f"P_{step}"].long())
        assert pairs_of(negative) == pairs_of(released[f"N_{step}"].long())
        loss.update(y)
    torch.testing.assert_close(loss.threshold, released[f"threshold_{steps}"][0], atol=1e-6, rtol=0)


def test_a_batch_too_small_mines_its_nearest_pair_and_keeps_the_threshold(generator):
    x, y = unit_rows(10, 4, generator), multilabels_of(10, 6, generator)
    loss = MultilabelDiscriminativeLoss()
    loss.threshold.fill_(0.25)
    with pytest.warns(
        UserWarning, match=r"10 images have 45 pairs, of which mining_ratio 0\.005 takes none, so we take"
    ):
        value = loss(x, y)
    torch.testing.assert_close(value, discriminative_loop(x, y, 1, 0.25)[0])
    loss.update(y)  # and no second warning
    assert loss.threshold == 0.25
    assert sum(map(len, loss.partition(x, y))) == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("n", [0, 1])
def test_without_a_pair_there_is_no_gradient(n, strict, generator):
    x, y = unit_rows(n, 4, generator), multilabels_of(n, 6, generator)
    loss = MultilabelDiscriminativeLoss(strict_official=strict)
    with pytest.warns(UserWarning, match="have 0 pairs"):
        value = loss(x, y)
    value.backward() if n else None
    torch.testing.assert_close(value.item(), math.log(1.5))
    assert x.grad is None or not x.grad.any()
    loss.update(y)
    assert loss.threshold.isnan()
    with pytest.raises(ValueError, match=f"at least two images, not of {n}"):
        loss.initialise(y)


def test_a_small_set_starts_from_its_largest_agreement_and_released_from_the_smallest(generator):
    y = multilabels_of(5, 4, generator)
    off_diagonal = agreement(y)[torch.ones(5, 5).triu(1).bool()].float()
    for strict, expected in ((False, off_diagonal.max()), (True, off_diagonal.min())):
        loss = MultilabelDiscriminativeLoss(strict_official=strict)
        with pytest.warns(UserWarning, match="takes none"):
            loss.initialise(y)
        torch.testing.assert_close(loss.threshold, expected)


@pytest.mark.parametrize(("split", "positive"), [(0.0, 0), (0.5, 18), (0.75, 27), (1.0, 36)])
def test_the_baseline_splits_by_distance_alone(split, positive, generator):
    x, y = unit_rows(9, 4, generator), multilabels_of(9, 6, generator)
    loss = MultilabelDiscriminativeLoss(mining_ratio=1.0, baseline_split=split)
    sets = loss.partition(x, y)
    assert [len(pairs) for pairs in sets] == [positive, 36 - positive]
    dist = torch.cdist(x, x).detach()
    if 0 < positive < 36:
        assert dist[tuple(sets[0].T)].max() < dist[tuple(sets[1].T)].min()
    means = [dist[tuple(pairs.T)].square().neg().exp().mean() for pairs in sets]
    p, n = means[0] if positive else 1, means[1] if positive < 36 else 0.5
    torch.testing.assert_close(loss(x, y).item(), math.log((p + n) / p))
    assert torch.equal(loss(x, y), loss(x, y.flip(0)))


@given(
    st.integers(2, 60), st.integers(1, 9), st.sampled_from([0.0, 1.0, 8.0]), st.sampled_from([1, 7, 64, 0]), st.data()
)
def test_the_kth_largest_agreement_is_exact(n, a, sharpness, tile, data):
    k = data.draw(st.integers(1, n * (n - 1) // 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    y = multilabels_of(n, a, generator, sharpness)[torch.randint(n, (n,), generator=generator)]  # some of them equal
    values = agreement(y)[torch.ones(n, n).triu(1).bool()]
    torch.testing.assert_close(kth_largest_agreement(y, k, tile=tile), values.sort(descending=True).values[k - 1])


def test_the_threshold_of_a_whole_set_never_holds_all_pairs(generator):
    """12,936 images have 83.7 million pairs; here the largest tensor is watched for 600 images and 179,700 pairs."""
    y, largest = multilabels_of(600, 3, generator).float(), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        found = kth_largest_agreement(y, 898, tile=16)
    assert found == (1 - F.pdist(y, p=1) / 2).topk(898).values[-1]
    assert largest <= 16 * 600 + 898


# All of them


def run_all(generator, dtype=torch.float64):
    """Every loss of a training step as a function of embeddings and agents, after what they remember was made."""
    x, agents = (rows.detach().to(dtype) for rows in (unit_rows(12, 6, generator), unit_rows(7, 6, generator)))
    pids, camids = torch.arange(12) % 7, torch.arange(12) % 3
    cml, mdl = CrossCameraConsistency(7).to(dtype), MultilabelDiscriminativeLoss(mining_ratio=0.2).to(dtype)
    cml.initialise(soft_multilabels(x.roll(1, 1), agents, log=True), camids)
    mdl.initialise(soft_multilabels(x.roll(1, 1), agents))
    y = soft_multilabels(x, agents)
    losses = {
        "agent learning": lambda x, agents: agent_learning_loss(x, pids, agents),
        "joint": lambda x, agents: joint_embedding_loss(x, pids, x.roll(1, 0), agents),
        "joint as printed": lambda x, agents: joint_embedding_loss(x, pids, x.roll(1, 0), agents, reading="eq8"),
        "cross-camera": lambda x, agents: cml(soft_multilabels(x, agents, log=True), camids),
        "discriminative": lambda x, agents: mdl(x, y.to(x.dtype)),
    }
    return losses, x, agents, (pids, camids, cml, mdl)


LOSSES = ["agent learning", "joint", "joint as printed", "cross-camera", "discriminative"]


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name, generator):
    losses, x, agents, _ = run_all(generator)
    assert torch.autograd.gradcheck(lambda x: losses[name](x, agents), (x.requires_grad_(),))


@given(order=st.permutations(range(12)), names=st.permutations(range(7)), shift=st.integers(-1000, 1000))
def test_order_and_names_do_not_matter(order, names, shift):
    _, x, agents, (pids, camids, cml, mdl) = run_all(torch.Generator().manual_seed(0))
    names, place = torch.tensor(names), torch.tensor(names).argsort()
    y, log_y = soft_multilabels(x, agents), soft_multilabels(x, agents, log=True)
    renamed = CrossCameraConsistency(7).double()
    renamed.mean.copy_(cml.mean[names]), renamed.std.copy_(cml.std[names])
    torch.testing.assert_close(soft_multilabels(x[order], agents[names]), y[order][:, names])
    torch.testing.assert_close(agreement(y[order][:, names]), agreement(y)[order][:, order])
    for before, after in (
        (agent_learning_loss(x, pids, agents), agent_learning_loss(x[order], place[pids[order]], agents[names])),
        (
            joint_embedding_loss(x, pids, x[:5], agents),
            joint_embedding_loss(x[order], place[pids[order]], x[:5].flip(0), agents[names]),
        ),
        (cml(log_y, camids), renamed(log_y[order][:, names], 17 * camids[order] + shift)),
        (mdl(x, y), mdl(x[order], y[order][:, names])),
    ):
        torch.testing.assert_close(after, before)


@pytest.mark.parametrize("name", LOSSES)
def test_under_autocast_it_is_computed_in_float32(name, generator):
    losses, x, agents, _ = run_all(generator, torch.float32)
    expected = losses[name](x, agents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses[name](x, agents), expected)
    assert losses[name](x.bfloat16(), agents.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_host_and_device_are_not_synchronised(name, generator, monkeypatch):
    """None of the operations that tell the processor a number or a size, forward, backward or in `update`."""
    losses, x, agents, (_, camids, cml, mdl) = run_all(generator, torch.float32)
    monkeypatch.setattr(soft_multilabel, "_mean_agent_looked_up", soft_multilabel._mean_agent)  # not on the CPU
    used = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            tensors = [i for arg in args if isinstance(arg, list | tuple) for i in arg if isinstance(i, torch.Tensor)]
            by_mask = func.overloadpacket.__name__.startswith("index") and any(i.dtype == torch.bool for i in tensors)
            used.add("index by a mask" if by_mask else func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    y = soft_multilabels(x, agents)
    memory = MultilabelMemory(20, 7)
    with Watch():
        losses[name](x.requires_grad_(), agents).backward()
        cml.update(y.log(), camids)
        memory.update(torch.arange(12), y)
        mdl.update(memory[torch.arange(12)])
    waiting = {"_local_scalar_dense", "item", "nonzero", "masked_select", "index by a mask", "bincount", "equal"}
    assert len(used) > 10
    assert not used & waiting and not {one for one in used if "unique" in one}


def test_only_updates_change_what_is_remembered_and_checkpoints_resume_it(generator):
    losses, x, agents, (_, camids, cml, mdl) = run_all(generator, torch.float32)
    y, memory = soft_multilabels(x, agents), MultilabelMemory(20, 7)
    step = torch.nn.ModuleDict({"cml": cml, "mdl": mdl, "memory": memory})
    memory.update(torch.arange(12), y)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    assert before.keys() == {"cml.mean", "cml.std", "mdl.threshold", "memory.table", "memory.visited"}
    for name in LOSSES:
        losses[name](x.requires_grad_(), agents).backward()
    mdl.partition(x, y)
    memory[torch.arange(12)].zero_()
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())

    moved = soft_multilabels(x.detach().flip(0), agents)
    resumed = [CrossCameraConsistency(7), MultilabelDiscriminativeLoss(mining_ratio=0.2), MultilabelMemory(20, 7)]
    resumed = torch.nn.ModuleDict(dict(zip(["cml", "mdl", "memory"], resumed, strict=True)))
    resumed.load_state_dict(before)
    for one in (step, resumed):
        one["cml"].update(moved.log(), camids)
        one["memory"].update(torch.arange(6, 18), moved)
        one["mdl"].update(one["memory"][torch.arange(12)])
    assert all(torch.equal(value, step.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert not any(torch.equal(value, before[name]) for name, value in resumed.state_dict().items())


X = torch.eye(2)
TWO = torch.tensor([0, 1])
joint, multilabels, learning = map(inspect.unwrap, (joint_embedding_loss, soft_multilabels, agent_learning_loss))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("scale must be above 0, not 0", lambda: soft_multilabels(X, X, scale=0)),
        (r"the same d, not \(2, 2\) and \(2, 1\)", lambda: multilabels(X, X[:, :1])),
        (r"the same d, not \(2, 2\) and \(2, 1\)", lambda: learning(X, TWO, X[:, :1])),
        ('reading must be "code" or "eq8", not \'eq7\'', lambda: joint(X, TWO, X, X, reading="eq7")),
        ("margin must be above 0 and at most 4, .*, not 5", lambda: joint_embedding_loss(X, TWO, X, X, margin=5)),
        ("num_agents must be at least 1, not 0", lambda: CrossCameraConsistency(0)),
        ("momentum must be from 0 to 1, not 1.1", lambda: CrossCameraConsistency(2, momentum=1.1)),
        ("at least 1, not 0 and 3", lambda: MultilabelMemory(0, 3)),
        ("momentum must be from 0 to 1, not -1", lambda: MultilabelMemory(3, 3, momentum=-1)),
        ("mining_ratio must be above 0 and at most 1, not 0", lambda: MultilabelDiscriminativeLoss(mining_ratio=0)),
        ("baseline_split must be from 0 to 1, not 2", lambda: MultilabelDiscriminativeLoss(baseline_split=2)),
        ("k must be from 1 to the number of pairs, 1, not 2", lambda: kth_largest_agreement(X, 2)),
    ],
)
def test_what_is_out_of_range_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_reduction_is_refused():
    empty = CrossCameraConsistency.__new__(CrossCameraConsistency)
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum", not \'max\''):
        inspect.unwrap(CrossCameraConsistency.__init__)(empty, 2, reduction="max")
