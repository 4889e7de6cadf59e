"""Lin and ranked list loss: double loops, released numbers, gradients, degenerate batches, invariances."""

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

from reidkit.losses.ranking import lin_loss, ranked_list_loss

ORACLES = Path(__file__).parents[1] / "oracles"
CASES = {  # what each released batch was computed with
    "a_P16K4_D64_iso": (lin_loss, {}),
    "b_P8K4_D32_tight": (lin_loss, {"temperature": 0.5}),
    "c_P8K4_D32_T5": (lin_loss, {"radius": 0.8, "temperature": 5.0}),
    "d_P6K3_alpha1.2_T10": (ranked_list_loss, {}),
    "e_one_identity_no_neg": (lin_loss, {}),
    "f_K1_no_pos": (lin_loss, {}),
    "h_shuffled_unequal": (lin_loss, {"radius": 0.6}),
    "i_duplicated_feats": (lin_loss, {}),
}
BATCHES = {
    "PK": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
    "uneven": [5, 5, -1, 7, 7, 7, 7, 9, 5, 7],
    "one identity": [3, 3, 3, 3],
    "K = 1": [4, 1, 0, 2],
}
BOTH = pytest.mark.parametrize("loss", [lin_loss, ranked_list_loss])


def loop(x, pids, *, radius, limit, temperature, printed, detach, eps):
    """The equations, term by term."""
    x, total = x / x.norm(dim=1, keepdim=True), 0
    for i in range(len(x)):
        pull, weights, pushes = [], [], []
        for j in range(len(x)):
            if i == j:
                continue
            d = (x[i] - x[j]).norm()
            if pids[i] == pids[j]:
                pull.append((d - radius).clamp(min=0))
            elif d < limit:
                weight = torch.exp(temperature * (limit - d)) * (torch.exp(-d) if printed else 1)
                weights.append(weight.detach() if detach else weight)
                pushes.append(limit - d)
        if pull:
            total = total + sum(pull) / (len(pull) + eps)
        if pushes:
            total = total + sum(w * p for w, p in zip(weights, pushes, strict=True)) / (sum(weights) + eps)
    return total / len(x)


def draw(name, generator, dim=6):
    pids = torch.tensor(BATCHES[name])
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator, requires_grad=True), pids


def assert_equal_with_gradient(ours, naive, x):
    torch.testing.assert_close(ours, naive)
    assert ours > 0
    torch.testing.assert_close(torch.autograd.grad(ours, x)[0], torch.autograd.grad(naive, x)[0])


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 0.5, 0.0])
@pytest.mark.parametrize("weighting", ["code", "eq3"])
@pytest.mark.parametrize("name", BATCHES)
def test_lin_equals_the_double_loop_in_value_and_gradient(name, weighting, eps, detach, generator):
    x, pids = draw(name, generator)
    options = {"radius": 0.9, "temperature": 2.5, "eps": eps}
    ours = lin_loss(x, pids, weighting=weighting, detach_weights=detach, **options)
    assert_equal_with_gradient(ours, loop(x, pids, limit=2, printed=weighting == "eq3", detach=detach, **options), x)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 0.5, 0.0])
@pytest.mark.parametrize("name", BATCHES)
def test_ranked_list_equals_the_double_loop_in_value_and_gradient(name, eps, detach, generator):
    x, pids = draw(name, generator)
    options = {"temperature": 4.0, "eps": eps}
    ours = ranked_list_loss(x, pids, alpha=1.5, margin=0.6, detach_weights=detach, **options)
    assert_equal_with_gradient(ours, loop(x, pids, radius=0.9, limit=1.5, printed=False, detach=detach, **options), x)


@functools.cache
def oracle(name, prefix=""):
    arrays = np.load(ORACLES / f"{name}.npz")
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(prefix)}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(case):
    released, (loss, options) = oracle("p002_ranked_loss", f"{case}__"), CASES[case]
    x, pids = released["feat"].clone().requires_grad_(), released["label"]
    value = loss(x, pids, **options)
    value.backward()
    torch.testing.assert_close(value.detach(), released["loss"], atol=2e-5, rtol=0)
    torch.testing.assert_close(value.detach(), (released["Lp"] + released["Ln"]).mean(), atol=2e-5, rtol=0)
    if not case.startswith("i_"):  # between equal rows the released gradient is rounding
        torch.testing.assert_close(x.grad, released["grad"], atol=2e-5, rtol=0)
    if loss is lin_loss:
        printed = lin_loss(x, pids, weighting="eq3", **options).detach()
        torch.testing.assert_close(printed, released["derived_paper_eq3_loss"], atol=2e-5, rtol=0)


def test_equals_the_released_code_without_normalisation():
    """Ours always normalises: on a sphere so large that it is flat here, distances remain, in units of its radius."""
    released = oracle("p002_ranked_loss", "g_unnormalised__")
    x = released["feat"].double().requires_grad_()
    radius = 1000 * x.detach().norm(dim=1).max().item()
    lifted = torch.cat([x, (radius**2 - x.square().sum(1, keepdim=True)).sqrt()], dim=1)
    options = {"alpha": 2 / radius, "margin": 1.3 / radius, "temperature": radius}
    value = radius * ranked_list_loss(lifted, released["label"], **options)
    torch.testing.assert_close(value.detach(), released["loss"].double(), atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], released["grad"].double(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", "abc")
def test_label_smoothing_of_the_released_code_is_that_of_pytorch(case):
    released = oracle("p002_label_smooth_ce", f"{case}__")
    x = released["logits"].clone().requires_grad_()
    value = F.cross_entropy(x, released["label"], label_smoothing=0.1)
    torch.testing.assert_close(value.detach(), released["loss"], atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], released["grad"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 5.0])
def test_the_printed_weights_are_the_released_ones_one_temperature_up(temperature, generator):
    x, pids = draw("PK", generator)
    printed = lin_loss(x, pids, temperature=temperature, weighting="eq3", eps=0.0)
    torch.testing.assert_close(printed, lin_loss(x, pids, temperature=temperature + 1, eps=0.0))


def test_an_antipode_is_no_negative():
    """The first two are 2 apart: each is pushed by the third alone."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(lin_loss(x, torch.arange(3), eps=0.0).item(), 2 - math.sqrt(2), atol=1e-6, rtol=0)


def test_ranked_list_with_alpha_2_is_lin(generator):
    x, pids = draw("uneven", generator)
    ours = ranked_list_loss(x, pids, alpha=2.0, margin=1.3, temperature=1.0)
    torch.testing.assert_close(ours, lin_loss(x, pids, radius=0.7, temperature=1.0))


def test_detached_weights_change_the_gradient_and_nothing_else(generator):
    x, pids = draw("PK", generator)
    for loss in (lin_loss, ranked_list_loss):
        through, detached = loss(x, pids), loss(x, pids, detach_weights=True)
        assert torch.equal(through, detached)
        assert not torch.allclose(torch.autograd.grad(through, x)[0], torch.autograd.grad(detached, x)[0])


@pytest.mark.parametrize("name", ["PK", "uneven"])
@pytest.mark.parametrize("loss", [lin_loss, functools.partial(lin_loss, weighting="eq3"), ranked_list_loss])
def test_gradcheck(loss, name, generator):
    x, pids = draw(name, generator, dim=4)
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (x,))


@BOTH
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_nothing_to_pull_or_push_is_zero_with_a_zero_gradient(loss, eps):
    """One image; equal images of one identity; antipodes of two; no embedding left at all."""
    axis = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for x, pids in ((axis[:1], [4]), (axis[:1].expand(5, 2), [4] * 5), (axis, [4, 5]), (torch.zeros(3, 2), [4] * 3)):
        x = x.clone().requires_grad_()
        value = loss(x, torch.tensor(pids), eps=eps)
        value.backward()
        assert value.item() == 0
        assert torch.equal(x.grad, torch.zeros_like(x))


@BOTH
@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("pids", [[3, 3, 3, 3], [1, 2, 3, 4], [1, 1, 2, 2], [1]])
def test_equal_rows_of_any_length_are_finite(loss, pids, scale, eps):
    x = torch.full((len(pids), 5), scale, requires_grad=True)
    value = loss(x, torch.tensor(pids), eps=eps)
    value.backward()
    limit = 2 if loss is lin_loss else 1.2
    expected = limit if len(set(pids)) > 1 else 0  # nothing to pull, and negatives at distance 0
    torch.testing.assert_close(value.item(), float(expected), atol=2e-3, rtol=0)
    assert x.grad.isfinite().all()


@BOTH
def test_no_temperature_overflows(loss, generator):
    x, pids = draw("PK", generator)
    x = x.detach().float().requires_grad_()
    value = loss(x, pids, temperature=1e4)  # each anchor's nearest negative takes all the weight
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    torch.testing.assert_close(value, loss(x, pids, temperature=1e5), atol=1e-4, rtol=0)


@BOTH
@given(st.permutations(range(10)), st.integers(-1000, 1000), st.integers(1, 10**6))
def test_order_names_and_length_do_not_matter(loss, order, shift, factor):
    x, pids = draw("uneven", torch.Generator().manual_seed(0))
    lengths = torch.arange(1, 11)[:, None] / 3
    torch.testing.assert_close(loss((x * lengths)[order], pids[order] * factor + shift), loss(x, pids))


@BOTH
@pytest.mark.parametrize("length", [1e-9, 1e-4, 1e9])
def test_tiny_and_huge_embeddings_are_normalised_like_others(loss, length, generator):
    x, pids = draw("uneven", generator)
    torch.testing.assert_close(loss(length * x, pids), loss(x, pids))


@BOTH
@pytest.mark.parametrize("length", [1e-30, 1e-15, 1e-9, 1e9, 1e20, 1e36])
def test_in_float32_too_any_scale_will_do_and_each_row_may_have_its_own(loss, length, generator):
    """Squares of such rows are infinite or nothing; a power of 2 takes no bit away."""
    x, pids = draw("uneven", generator)
    x = x.detach().float().requires_grad_()
    expected = loss(x, pids)
    gradient = torch.autograd.grad(expected, x)[0]
    rows = torch.arange(len(x))[:, None] % 2 == 0
    for factor in (torch.tensor(length), torch.where(rows, length, 1.0)):
        factor = torch.exp2(factor.log2().round())
        value = loss(factor * x, pids)
        assert torch.equal(value, expected)
        finest = 2.0**-149 * length  # the smallest float32 that is not 0 is a step of the gradient of such long rows
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], gradient, rtol=1e-6, atol=finest)


@BOTH
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(loss, wrong):
    assert loss(torch.tensor([[wrong, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])).isnan()


@BOTH
def test_under_autocast_it_is_computed_in_float32(loss, generator):
    x, pids = draw("PK", generator)
    x = x.detach().float().requires_grad_()
    expected = loss(x, pids)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x, pids)
    assert torch.equal(value, expected)
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x)[0])
    assert torch.equal(loss(x.bfloat16(), pids), loss(x.bfloat16().float(), pids))


@BOTH
def test_host_and_device_are_not_synchronised(loss, generator):
    """Under vmap there is no value to look at: to read one, or to need a size that depends on values, fails."""
    x, pids = torch.randn(3, 12, 5, generator=generator), torch.randint(4, (3, 12), generator=generator)
    gradients, values = torch.vmap(torch.func.grad_and_value(loss))(x, pids)
    for one, names, value, gradient in zip(x, pids, values, gradients, strict=True):
        one = one.requires_grad_()
        torch.testing.assert_close(loss(one, names), value)
        torch.testing.assert_close(torch.autograd.grad(loss(one, names), one)[0], gradient)


@pytest.mark.parametrize(
    ("loss", "options", "sentence"),
    [
        (lin_loss, {"radius": 2.1}, r"radius must be from 0 to 2, .* not 2\.1"),
        (lin_loss, {"weighting": "paper"}, r"weighting must be \"code\" or \"eq3\", not 'paper'"),
        (lin_loss, {"temperature": -1.0}, r"temperature must be at least 0 and finite, not -1\.0"),
        (lin_loss, {"eps": math.nan}, r"eps must be at least 0 and finite, not nan"),
        (ranked_list_loss, {"alpha": 0.0, "margin": 0.0}, r"alpha must be above 0 .* not alpha=0\.0"),
        (ranked_list_loss, {"margin": 1.3}, r"margin from 0 to alpha, not alpha=1\.2 and margin=1\.3"),
        (ranked_list_loss, {"temperature": math.inf}, r"temperature must be at least 0 and finite, not inf"),
        (ranked_list_loss, {"eps": -1e-5}, r"eps must be at least 0 and finite, not -1e-05"),
    ],
)
def test_a_wrong_parameter_is_refused(loss, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(loss)(torch.eye(2), torch.tensor([0, 1]), **options)


@BOTH
@pytest.mark.parametrize(("n", "n_pids"), [(3, 2), (3, 1), (0, 0)])
def test_embeddings_and_pids_must_fit(loss, n, n_pids):
    with pytest.raises(ValueError, match=rf"pids \(n,\) with n at least 1, not \({n}, 2\) and \({n_pids},\)"):
        inspect.unwrap(loss)(torch.ones(n, 2), torch.zeros(n_pids, dtype=torch.int64))
