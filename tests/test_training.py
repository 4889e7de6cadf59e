"""fit: what a step may be, what is written down, and that a killed run ends with the bits of one never killed."""

import contextlib
import functools
import inspect
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reidkit import checkpoints, training
from reidkit.training import Cycle, fit, network_precision, warmup_cosine, warmup_steps

ORACLES = Path(__file__).parent / "oracles"


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    indices: Tensor


def make_batches(n: int = 3, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(size, 3, generator=generator) for _ in range(n)]
    return [Batch(x, x.sum(1, keepdim=True), torch.arange(size) + 10 * i) for i, x in enumerate(draw)]


def squared_error(model, batch):
    return (model(batch.x) - batch.y).square().mean()


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def sgd(model, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


# ------------------------------------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize(("offset", "name"), [(0, "lr_torch_le_1_0"), (1, "lr_torch_ge_1_1")])
def test_warmup_steps_is_the_released_schedule(offset, name):
    expected = numpy.load(ORACLES / "p002_lr_schedule.npz")[name]
    schedule = warmup_steps(offset=offset)
    got = [3.5e-4 * schedule(epoch) for epoch in range(120)]
    numpy.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    within = [3.5e-4 * schedule(epoch + 0.999) for epoch in range(120)]
    assert within == got  # constant within an epoch


def test_warmup_steps_follow_their_equation_whatever_order_the_drops_are_told_in():
    schedule = warmup_steps(milestones=(6, 4), gamma=0.5, warmup=2, factor=0.2)
    assert [schedule(epoch) for epoch in range(8)] == pytest.approx([0.2, 0.6, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_warmup_steps_without_warmup_starts_at_full_rate():
    assert warmup_steps(warmup=0, milestones=(2,))(0) == 1


def test_warmup_cosine_rises_rests_falls():
    schedule = warmup_cosine(20, warmup=0.2, flat=0.6, floor=0.01)
    values = [schedule(step / 10) for step in range(201)]
    assert values[:41] == sorted(values[:41]) and values[40:121] == [1.0] * 81
    assert values[120:] == sorted(values[120:], reverse=True)
    assert values[0] == values[-1] == pytest.approx(0.01) and min(values) >= 0.01


def test_warmup_cosine_rises_along_a_line_and_falls_along_half_a_cosine():
    schedule = warmup_cosine(20, warmup=0.2, flat=0.6, floor=0.1)
    above = [(schedule(epoch) - 0.1) / 0.9 for epoch in (1, 2, 3, 14, 16, 18)]
    assert above == pytest.approx([1 / 4, 1 / 2, 3 / 4, (1 + 0.5**0.5) / 2, 1 / 2, (1 - 0.5**0.5) / 2])


def test_fit_moves_the_rate_at_each_step_and_leaves_the_optimizer_as_it_came():
    seen = []

    def step(model, batch):
        seen.append(optimizer.param_groups[0]["lr"])
        return squared_error(model, batch)

    model = linear()
    optimizer = sgd(model, lr=0.5)
    fit(model, make_batches(4), step, epochs=2, optimizers=optimizer, schedules=lambda e: e / 2, progress=False)
    assert seen == [0.5 * step / 4 / 2 for step in range(8)]
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="is float"):
        fit(model, make_batches(), lambda *_: 0.5, epochs=1, optimizers=optimizer, schedules=lambda e: 0.1)
    assert optimizer.param_groups[0]["lr"] == 0.5


# ---------------------------------------------------------------------------------------------------------------- steps


def test_one_optimizer_equals_the_loop_written_out():
    model, twin = linear(), linear()
    history = fit(model, make_batches(), squared_error, epochs=3, optimizers=sgd(model), progress=False)
    optimizer, losses = sgd(twin), []
    for _ in range(3):
        for batch in make_batches():
            optimizer.zero_grad()
            loss = squared_error(twin, batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert history.frame().loss.tolist() == pytest.approx([sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)])


def test_a_network_left_in_evaluation_mode_is_trained_in_training_mode():
    model, modes = linear().eval(), []
    fit(
        model,
        make_batches(),
        lambda model, batch: modes.append(model.training) or squared_error(model, batch),
        epochs=1,
        optimizers=sgd(model),
        progress=False,
    )
    assert modes == [True] * 3


def test_terms_are_summed_and_recorded_and_those_without_gradient_only_recorded():
    def step(model, batch):
        error = squared_error(model, batch)
        return {"a": 0.25 * error, "b": 0.75 * error, "share": torch.tensor(1000.0)}

    model, twin = linear(), linear()
    history = fit(model, make_batches(), step, epochs=2, optimizers=sgd(model), progress=False)
    fit(twin, make_batches(), squared_error, epochs=2, optimizers=sgd(twin), progress=False)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    row = history.rows[0]
    assert row["b"] == pytest.approx(3 * row["a"]) and row["share"] == 1000 and row["steps"] == 3
    assert list(history.frame().columns) == ["steps", "lr", "a", "b", "share", "seconds"]


def test_a_generator_step_takes_turns_between_two_optimizers():
    """A tiny adversarial pair, equal to the loop written out; what follows a yield sees the stepped weights."""

    def networks():
        torch.manual_seed(1)
        return nn.ModuleDict({"generator": nn.Linear(3, 3), "judge": nn.Linear(3, 1)})

    after = []

    def step(model, batch):
        fake, before = model["generator"](batch.x), model["judge"].weight.clone()
        yield "judge", {"real": model["judge"](batch.x).mean(), "fake": -model["judge"](fake.detach()).mean()}
        after.append(not torch.equal(model["judge"].weight, before))
        yield "generator", {"fool": model["judge"](fake).mean()}

    def optimizers(model):
        return {name: sgd(part, lr=0.01) for name, part in model.items()}

    model, twin = networks(), networks()
    history = fit(model, make_batches(), step, epochs=2, optimizers=optimizers(model), progress=False)
    both = optimizers(twin)
    for batch in make_batches() * 2:
        fake = twin["generator"](batch.x)
        for name, loss in (
            ("judge", lambda fake=fake, x=batch.x: twin["judge"](x).mean() - twin["judge"](fake.detach()).mean()),
            ("generator", lambda fake=fake: twin["judge"](fake).mean()),
        ):
            both[name].zero_grad()
            loss().backward()
            both[name].step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert after == [True] * 6
    assert {"judge/real", "judge/fake", "generator/fool", "lr/judge", "lr/generator"} <= set(history.frame().columns)


def test_a_bare_yield_steps_every_optimizer():
    def step(model, batch):
        yield {"error": squared_error(model, batch)}

    model, twin = linear(), linear()
    pair = [torch.optim.SGD([model.weight], lr=0.1), torch.optim.SGD([model.bias], lr=0.1)]
    fit(model, make_batches(), step, epochs=2, optimizers=pair, progress=False)
    fit(twin, make_batches(), squared_error, epochs=2, optimizers=sgd(twin), progress=False)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (lambda loss: ("judge", {"a": loss}), "names optimizer 'judge', but there are"),
        (lambda loss: {"a": loss.repeat(2)}, r"the term 'a' is a tensor of shape \(2,\)"),
        (lambda loss: {"a": 0.5}, "the term 'a' is float"),
        (lambda loss: {"a": loss.detach()}, "have no gradient"),
    ],
)
def test_a_wrong_step_is_told_what_is_wrong(outcome, sentence):
    model = linear()
    with pytest.raises(ValueError, match=sentence):
        fit(
            model,
            make_batches(),
            lambda model, batch: outcome(squared_error(model, batch)),
            epochs=1,
            optimizers=sgd(model),
            progress=False,
        )


def test_no_batch_and_unknown_schedule_are_refused():
    model = linear()
    with pytest.raises(ValueError, match="no batch in epoch 1"):
        fit(model, [], squared_error, epochs=1, optimizers=sgd(model), progress=False)
    with pytest.raises(ValueError, match="schedule for"):
        fit(model, [], squared_error, epochs=1, optimizers=sgd(model), schedules={"x": float}, progress=False)


def test_batches_that_can_be_passed_over_only_once_are_refused_by_name():
    model, batches = linear(), make_batches()
    for once, name in (
        (iter(batches), "list_iterator"),
        ((b for b in batches), "generator"),
        (map(str, batches), "map"),
    ):
        with pytest.raises(ValueError, match=f"batches is a {name}, which can be passed over only once"):
            fit(model, once, squared_error, epochs=1, optimizers=sgd(model), progress=False)
        with pytest.raises(ValueError, match=f"batches is a {name}"):
            Cycle(once, 3)

    class Once:
        """Says nothing of being exhausted."""

        inner = iter(batches)

        def __iter__(self):
            return self.inner

    with pytest.raises(ValueError, match="no batch in epoch 2; an epoch before had some; batches must start again"):
        fit(model, Once(), squared_error, epochs=2, optimizers=sgd(model), progress=False)


@pytest.mark.parametrize("epochs", [-1, 1.5, "3", True])
def test_epochs_that_are_no_number_of_passes_are_refused(epochs):
    model = linear()
    with pytest.raises(ValueError, match="epochs is a whole number of passes"):
        inspect.unwrap(fit)(model, make_batches(), squared_error, epochs=epochs, optimizers=sgd(model), progress=False)


def test_one_image_under_batch_normalisation_is_one_sentence():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    batches = [*make_batches(2), *make_batches(1, size=1)]

    def generator(model, batch):
        yield squared_error(model, batch)

    for step in (squared_error, generator):
        with pytest.raises(
            ValueError, match=r"epoch 1, step 3: batch normalisation got a single image.*drop_last"
        ) as caught:
            fit(model, batches, step, epochs=1, optimizers=sgd(model), progress=False)
        assert "\n" not in str(caught.value)


def test_a_schedule_that_gives_no_number_is_named():
    model = linear()
    with pytest.raises(ValueError, match="schedule of optimizer '0' gives nan"):
        fit(model, make_batches(), squared_error, epochs=1, optimizers=sgd(model), progress=False,
            schedules=lambda epoch: float("nan"))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- numbers


class TwoLayers(nn.Module):
    """Two parameters that a training step can spoil one by one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # meant to be infinite
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        return self.second(self.first(x))


def spoil(what: str, at: int):
    """A step whose numbers stop being finite in the batch of number `at`: its gradient, a weight, or a buffer."""

    def step(model, batch):
        error = 1e-6 * squared_error(model, batch)
        if batch.indices[0] != 10 * at:
            return error
        if what == "gradient":  # the root of 0 is 0, its slope is not
            return {"error": error, "root": (0 * model.second.weight).sum().square().sqrt()}
        if what == "weights":  # finite, but not what the optimizer makes of it
            return 1e38 * (model.second.weight.sum() - model.second.weight.sum().detach())
        model.mean = torch.full((2,), torch.nan)
        return error

    return step


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(5))
def test_a_gradient_that_is_not_finite_names_step_parameter_and_images(tmp_path, monkeypatch, late, at):
    """At once on a CPU, where the weights stay as they were; at the next look elsewhere, and never in a checkpoint."""
    monkeypatch.setattr(training, "_makes_wait", lambda values: late)
    monkeypatch.setattr(training, "LOOK_EVERY", 3)
    model = TwoLayers()
    sentence = (
        rf"epoch 1, step {at + 1}: the gradient of 'second.weight' is not finite \(nan\) although the terms 'error', "
        rf"'root' are finite on the images \[{10 * at}, .*; look there for the root"
    )
    with pytest.raises(FloatingPointError, match=sentence):
        fit(model, make_batches(5), spoil("gradient", at), epochs=1, optimizers=sgd(model), progress=False,
            checkpoint=tmp_path / "run")  # fmt: skip
    assert not list((tmp_path / "run").glob("*"))
    assert late or all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("late", [False, True])
def test_weights_that_a_step_makes_infinite_name_that_step(tmp_path, monkeypatch, late):
    monkeypatch.setattr(training, "_makes_wait", lambda values: late)
    model = TwoLayers()
    sentence = (
        r"epoch 1, step 3: the weights 'second.weight' are not finite \(inf\) after the .*step on the images \[20, "
    )
    with pytest.raises(FloatingPointError, match=sentence):
        fit(model, make_batches(5), spoil("weights", 2), epochs=1, optimizers=sgd(model, lr=100.0), progress=False,
            checkpoint=tmp_path / "run")  # fmt: skip
    assert not list((tmp_path / "run").glob("*"))


def test_a_spoilt_buffer_is_not_kept_and_one_that_is_meant_so_is_no_fault(tmp_path):
    model = TwoLayers()
    with pytest.raises(FloatingPointError, match=r"epoch 1: at its end the tensor 'mean' is not finite"):
        fit(model, make_batches(), spoil("buffer", 1), epochs=1, optimizers=sgd(model), progress=False,
            checkpoint=tmp_path / "run")  # fmt: skip
    assert not list((tmp_path / "run").glob("*"))


def test_a_memory_or_an_optimizer_that_is_spoilt_is_not_kept(tmp_path):
    memory = nn.Module()
    memory.register_buffer("table", torch.zeros(2))
    memory.register_buffer("threshold", torch.tensor(torch.nan))  # not known yet
    checkpointed(tmp_path, state={"memory": memory})

    def step(model, batch):
        memory.table = memory.table + torch.nan
        return squared_error(model, batch)

    with pytest.raises(FloatingPointError, match=r"epoch 2: at its end the tensor 'memory\.table' is not finite"):
        checkpointed(tmp_path, state={"memory": memory}, epochs=2, step=step)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["epoch-00001"]
    model = linear()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(FloatingPointError, match=r"the tensors 'exp_avg_sq of weight', 'exp_avg_sq of bias' are not"):
        fit(model, make_batches(), lambda model, batch: 1e25 * squared_error(model, batch), epochs=1, optimizers=adam,
            progress=False)  # fmt: skip


def test_running_statistics_that_are_not_finite_are_refused_before_the_first_step():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[1].running_var[2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"before epoch 1: the weights '1\.running_var' are not finite"):
        fit(model, make_batches(), squared_error, epochs=1, optimizers=sgd(model), progress=False)


def test_weights_spoilt_before_or_between_the_steps_are_blamed_and_no_image():
    model = TwoLayers()
    with torch.no_grad():
        model.first.bias[1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"before epoch 1: the weights 'first.bias' are not finite"):
        fit(model, make_batches(), squared_error, epochs=1, optimizers=sgd(model), progress=False)
    model = TwoLayers()

    def step(model, batch):
        yield squared_error(model, batch)
        with torch.no_grad():
            model.first.bias.fill_(torch.inf)

    with pytest.raises(
        FloatingPointError, match=r"step 2: the weights 'first.bias' are not finite before the step"
    ) as e:
        fit(model, make_batches(), step, epochs=1, optimizers=sgd(model), progress=False)
    assert "images" not in str(e.value)


def test_numbers_that_are_large_or_sparse_or_of_several_types_are_no_fault():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.wide = (
                nn.Embedding(4, 2, sparse=True),
                nn.Parameter(torch.tensor([1e200], dtype=torch.float64)),
            )
            self.short, self.none = nn.Parameter(torch.ones(2).bfloat16()), nn.Parameter(torch.zeros(0))

        def forward(self, x):
            return (
                self.table(x).sum()
                + 1e25 * self.table(x).sum()
                + self.wide.sum().log()
                + self.short.sum()
                + self.none.sum()
            )

    model = Mixed()
    fit(
        model,
        [torch.tensor([1, 2])],
        lambda model, x: model(x),
        epochs=2,
        optimizers=sgd(model, lr=1e-30),
        progress=False,
    )


def test_a_batch_that_is_a_tensor_names_no_images():
    """A tensor has a method called indices."""
    model = linear()
    with pytest.raises(
        FloatingPointError,
        match=r"gradients of 'weight', 'bias' are not finite .nan. although the term 'loss' is finite;",
    ):
        fit(model, [torch.ones(2, 3)], lambda model, x: (model(x)[0] - model(x)[1]).square().sum().sqrt(), epochs=1,
            optimizers=sgd(model), progress=False)  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(value):
    def step(model, batch):
        error, poison = squared_error(model, batch), value if batch.indices[0] == 10 else 0.0
        return {"error": error, "triplet": error * 0 + poison}

    model = linear()
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step 2: the term 'triplet' is .* images \[10, 11, 12, 13\]"
    ):
        fit(model, make_batches(), step, epochs=1, optimizers=sgd(model), progress=False)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_looking_late_still_names_the_right_step(monkeypatch):
    """On CUDA the losses are looked at once in 50 steps; a device that never looks in between is played by a tensor."""
    monkeypatch.setattr(training, "_makes_wait", lambda values: True)
    watch = training._Watch(epoch=2, model=linear())
    for step in range(5):
        term = torch.tensor(float("nan") if step >= 3 else 1.0)
        batch = Batch(term, term, torch.tensor([step, step + 1]))
        watch.before(step, None, {"softmax": term}, [], batch)
        watch.after(step, [], batch)
    with pytest.raises(FloatingPointError, match=r"epoch 3, step 4: .*'softmax' is nan on the images \[3, 4\]"):
        watch.means()


def test_lines_hold_no_trained_number_unless_somebody_watches(capsys, monkeypatch):
    monkeypatch.delenv("REIDKIT_LIVE", raising=False)
    model = linear()
    fit(model, make_batches(), squared_error, epochs=2, optimizers=sgd(model))
    assert capsys.readouterr().out == "epoch 1 of 2 · 3 steps\nepoch 2 of 2 · 3 steps\n"
    monkeypatch.setenv("REIDKIT_LIVE", "1")
    fit(model, make_batches(), squared_error, epochs=1, optimizers=sgd(model))
    assert "loss" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- cycles, precision


def test_cycle_gives_every_epoch_its_own_passes():
    numbers = []

    class Passes:
        def set_epoch(self, epoch):
            self.epoch = epoch
            numbers.append(epoch)

        def __iter__(self):
            return iter([(self.epoch, i) for i in range(2 + self.epoch % 2)])

    cycle, seen = Cycle(Passes(), 5), []
    for epoch in range(3):
        cycle.set_epoch(epoch)
        seen += list(cycle)
        assert len(seen) == 5 * (epoch + 1)
    assert len(set(seen)) == 15 and len(set(numbers)) == len(numbers)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Cycle([1], 0)
    assert list(Cycle([], 4)) == []


class Probe(nn.Module):
    """Reports the type it computes in."""

    class Output(NamedTuple):
        embedding: Tensor
        parts: tuple
        count: Tensor

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        y = self.layer(x)
        self.inside = y.dtype
        return self.Output(y, (y, "text"), torch.arange(2))


def test_network_precision_is_inside_the_network_only():
    model, x = Probe(), torch.randn(4, 3)
    with network_precision(model, "bf16"):
        output = model(x)
        assert model.inside == torch.bfloat16
        assert output.embedding.dtype == output.parts[0].dtype == torch.float32 and output.count.dtype == torch.int64
        assert isinstance(output, Probe.Output)
        assert (x @ x.T).dtype == torch.float32
        with network_precision(model, "bf16"):
            assert model(x).embedding.dtype == torch.float32
        assert model(x) and model.inside == torch.bfloat16  # the inner one gave back what it found
    assert model(x).embedding.dtype == torch.float32 and model.inside == torch.float32
    assert "forward" not in model.__dict__
    with network_precision(model, "auto"):
        assert model(x) and model.inside == torch.float32
    with pytest.raises(ValueError, match='"auto", "bf16", "fp16" or "fp32", not'), network_precision(model, "half"):
        pass


def test_network_precision_reaches_the_networks_of_a_dict_and_lets_go_after_an_error():
    model = nn.ModuleDict({"a": Probe(), "b": Probe()})
    with contextlib.suppress(RuntimeError), network_precision(model, "bf16"):
        model["b"](torch.randn(4, 3))
        assert model["b"].inside == torch.bfloat16
        raise RuntimeError
    model["b"](torch.randn(4, 3))
    assert model["b"].inside == torch.float32


# Half precision on cards without bf16: a scale for the loss


def half(tmp_path=None, *, factor=1.0, epochs=1, lr=0.1, step=None, n=3, **more):
    """Train a linear model in fp16 whose gradients are `factor` times as large as usual."""
    model = linear()

    def usual(model, batch):
        return factor * squared_error(model, batch)

    options = {"optimizers": sgd(model, lr / factor), "precision": "fp16", "progress": False, **more}
    history = fit(model, make_batches(n), step or usual, epochs=epochs, checkpoint=tmp_path, **options)
    return model, history


def scale_of(folder):
    """The scale that the newest checkpoint keeps."""
    newest = max(folder.glob("epoch-*"))
    return torch.load(newest / "state.pt", weights_only=True)["scaler"].get("scale")


def test_gradients_too_small_for_half_precision_are_scaled():
    (small, _), (usual, _) = half(factor=1e-7), half(precision="fp32")
    assert not torch.equal(small.weight, linear().weight)
    torch.testing.assert_close(small.weight, usual.weight, rtol=1e-2, atol=1e-3)


def test_a_step_whose_gradient_the_scale_makes_infinite_is_left_out_and_the_scale_is_halved(tmp_path):
    model, history = half(tmp_path / "run", factor=1e3, n=20)
    assert not torch.equal(model.weight, linear().weight) and model.weight.isfinite().all()
    assert 1 < scale_of(tmp_path / "run") < 65536 and math.isfinite(history.rows[0]["loss"])


@pytest.mark.parametrize("late", [False, True])
def test_a_gradient_that_stays_infinite_whatever_the_scale_is_an_error(monkeypatch, late):
    if late:
        monkeypatch.setattr(training, "_makes_wait", lambda values: True)

    def step(model, batch):
        return squared_error(model, batch) + 0 * model.weight.sub(model.weight.detach()).norm().sqrt()

    half(step=step, n=training.PATIENCE)  # so long it may be the scale
    with pytest.raises(FloatingPointError, match=r"step 21: the gradient of 'weight' .* in 21 steps in a row"):
        half(step=step, n=training.PATIENCE + 1)


def test_a_run_in_half_precision_that_was_killed_ends_with_the_bits_of_one_never_killed(tmp_path):
    whole, _ = half(tmp_path / "whole", factor=1e3, epochs=6)
    half(tmp_path / "killed", factor=1e3, epochs=3)
    resumed, _ = half(tmp_path / "killed", factor=1e3, epochs=6)
    assert torch.equal(resumed.weight, whole.weight) and scale_of(tmp_path / "killed") == scale_of(tmp_path / "whole")
    half(tmp_path / "killed", factor=1e3, epochs=7, precision="fp32", changed="precision")
    assert scale_of(tmp_path / "killed") is None


# ------------------------------------------------------------------------------------------------------- checkpoints

SCRIPT = textwrap.dedent(
    '''
    """Train a small network with everything that has a state; `kill` names a moment at which the process dies."""
    import os, signal, sys, torch
    from torch import nn
    from reidkit import checkpoints, training

    class Batches:
        def set_epoch(self, epoch):
            self.generator = torch.Generator().manual_seed(epoch)
        def __len__(self):
            return 3
        def __iter__(self):
            return iter(torch.randn(3, 8, 5, generator=self.generator))

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.zeros(4))

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def dies_at(call, n):
        counter = iter(range(1, 100))
        def wrapped(*args, **kwargs):
            if next(counter) == n:
                die()
            return call(*args, **kwargs)
        return wrapped

    def train(folder, kill=""):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Conv1d(1, 4, 1), nn.Flatten())
        net = nn.Sequential(net[:3], nn.Unflatten(1, (1, 6)), net[3], nn.Flatten(), nn.Linear(24, 4))
        memory, noise, steps = Memory(), torch.Generator().manual_seed(7), iter(range(1, 100))
        def step(model, x):
            if kill == f"step {next(steps)}":
                die()
            y = model(x + torch.randn(x.shape, generator=noise))
            yield {"fit": (y - memory.table).square().mean() + y.mean()}
            memory.table = 0.9 * memory.table + 0.1 * y.detach().mean(0)
        kept = checkpoints
        where = {"file": (kept.files, "write_bytes"), "rename": (kept.os, "rename"), "tidy": (kept.shutil, "rmtree")}
        if kill.split()[0:1] and kill.split()[0] in where:
            module, name = where[kill.split()[0]]
            setattr(module, name, dies_at(getattr(module, name), int(kill.split()[1])))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.01)
        history = training.fit(net, Batches(), step, epochs=5, optimizers=optimizer,
            schedules=training.warmup_cosine(5), state={"memory": memory, "noise": noise}, checkpoint=folder,
            progress=False)
        return net.state_dict() | {"memory": memory.table, "draw": torch.rand(3), "noise": noise.get_state()}, history

    if __name__ == "__main__":
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what torch imports late is imported before the forks
        for kill in sys.argv[2:]:
            if os.fork() == 0:
                train(sys.argv[1], kill)
                os._exit(0)
            print(kill, os.WTERMSIG(os.wait()[1]), len([n for n in os.listdir(sys.argv[1]) if n.startswith("epoch")]))
    '''
)


def test_a_run_killed_again_and_again_ends_with_the_bits_of_one_never_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    train = runpy.run_path(str(script))["train"]
    expected, history = train(tmp_path / "whole")
    # before the first checkpoint; between its files; before it is switched on; after that, before the old one goes
    (tmp_path / "killed").mkdir()
    moments = {"step 2": 0, "file 2": 0, "step 5": 1, "rename 1": 1, "tidy 2": 2}  # and the epochs found afterwards
    command = [sys.executable, script, tmp_path / "killed", *moments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines() == [f"{kill} {signal.SIGKILL:d} {epochs}" for kill, epochs in moments.items()]
    got, resumed = train(tmp_path / "killed")
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in h.rows] for h in (history, resumed)]
    assert strip[0] == strip[1] and len(strip[0]) == 5
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["epoch-00005"]


def checkpointed(tmp_path, *, model=None, epochs=1, lr=0.1, step=squared_error, **more):
    model = model or linear()
    return fit(model, make_batches(), step, epochs=epochs, optimizers=sgd(model, lr), progress=False,
               checkpoint=tmp_path / "run", **more)  # fmt: skip


@pytest.mark.parametrize("ways", [({}, {"fused": True}), ({"fused": True}, {}), ({}, {"foreach": True})])
def test_a_run_is_continued_by_an_optimizer_that_computes_otherwise(tmp_path, ways):
    for epochs, way in enumerate(ways, 1):
        model = linear()
        adam = torch.optim.Adam(model.parameters(), lr=0.1, **way)
        fit(model, make_batches(), squared_error, epochs=epochs, optimizers=adam, checkpoint=tmp_path, progress=False)
        assert adam.param_groups[0]["fused"] == way.get("fused") and adam.state[model.weight]["step"] == 3 * epochs


def test_what_takes_long_to_keep_is_kept_as_often_as_two_percent_of_the_time_allow(tmp_path, monkeypatch):
    clock, kept, write = [0.0], [], checkpoints.files.write_bytes
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock[0])

    def slowly(path, data):
        clock[0] += 1.0  # three times a save
        write(path, data)

    def step(model, batch):
        kept.extend(sorted({int(path.name[6:]) for path in (tmp_path / "run").glob("epoch-*")} - set(kept)))
        clock[0] += 10.0
        return squared_error(model, batch)

    monkeypatch.setattr(checkpoints.files, "write_bytes", slowly)
    model = linear()
    options = {"epochs": 26, "optimizers": sgd(model), "checkpoint": tmp_path / "run", "progress": False}
    fit(model, make_batches(1), step, **options)
    assert kept == [1, 17]  # the first, and the next after more than 150 seconds
    assert [path.name for path in (tmp_path / "run").glob("epoch-*")] == ["epoch-00026"]  # and the last


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    first, model = linear(), linear(seed=9)
    rows = checkpointed(tmp_path, model=first).rows
    history = fit(model, make_batches(), squared_error, epochs=1, optimizers=sgd(model), checkpoint=tmp_path / "run")
    assert history.rows == rows and torch.equal(model.weight, first.weight)
    assert capsys.readouterr().out == "epoch 1 of 1 · 3 steps\n"  # the same lines as the run that trained


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "epoch.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path, name, damage):
    checkpointed(tmp_path)
    path = tmp_path / "run" / "epoch-00001" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:40] + b"!!" + data[42:])
    if damage == "gone":
        path.unlink()
    named = "" if (name, damage) == ("epoch.json", "changed") else name  # it holds the digests of the others
    with pytest.raises(ValueError, match=rf"is damaged \(epoch-00001/{named}.*; delete the folder") as caught:
        checkpointed(tmp_path)
    assert "\n" not in str(caught.value)


def redigest(epoch: Path) -> None:
    record = json.loads((epoch / "epoch.json").read_text())
    record["digests"] = {name: checkpoints.digest(epoch / name) for name in record["digests"]}
    (epoch / "epoch.json").write_text(json.dumps(record))


def test_a_renamed_or_reshaped_tensor_is_named(tmp_path):
    checkpointed(tmp_path)
    epoch = tmp_path / "run" / "epoch-00001"
    weights = load_file(epoch / "weights.safetensors")
    save_file({"weigth": weights["weight"], "bias": torch.zeros(2)}, epoch / "weights.safetensors")
    redigest(epoch)
    model = linear()
    before = model.weight.clone()
    with pytest.raises(ValueError, match=r"1 missing: weight; 1 unknown: weigth; 1 of another shape: bias .* delete"):
        checkpointed(tmp_path, model=model)
    assert torch.equal(model.weight, before)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    checkpointed(tmp_path)
    epoch, witness = tmp_path / "run" / "epoch-00001", tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    torch.save({"optimizers": Bomb(), "state": {}, "rng": {}}, epoch / "state.pt")
    redigest(epoch)
    with pytest.raises(ValueError, match="holds more than tensors, and nothing of it was run; delete the folder"):
        checkpointed(tmp_path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"lr": 0.2}, r"other optimizers \(this one has lr 0\.2, not 0\.1\); delete .* changed=\["),
        ({"precision": "bf16"}, r"other precision \(this one has precision bfloat16, not float32\)"),
        ({"schedules": lambda epoch: 0.5}, r"other schedules \(this one has schedules for \['0'\], not \[\]\)"),
        (
            {"lr": 0.2, "precision": "bf16", "epochs": 2},
            r"other precision and optimizers .this one has epochs 2, not 1; precision .*; lr 0\.2, not 0\.1\)",
        ),
        ({"step": functools.partial(lambda model, batch, radius: squared_error(model, batch), radius=2.0)}, "radius"),
        ({"state": {"noise": torch.Generator()}}, r"keeps the state of \[\], this run has \['noise'\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, what):
    checkpointed(tmp_path)
    with pytest.raises(ValueError, match=what):
        checkpointed(tmp_path, **changed)


@pytest.mark.parametrize("schedules", [(), warmup_steps(milestones=(1, 3), warmup=2)])
def test_a_finished_run_that_is_extended_ends_with_the_bits_of_a_longer_one(tmp_path, schedules):
    long, short, again = linear(), linear(), linear(seed=9)
    rows = fit(long, make_batches(), squared_error, epochs=4, optimizers=sgd(long), schedules=schedules, progress=False)
    checkpointed(tmp_path, model=short, epochs=2, schedules=schedules)
    history = checkpointed(tmp_path, model=again, epochs=4, schedules=schedules)
    assert torch.equal(again.weight, long.weight) and torch.equal(again.bias, long.bias)
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in h.rows] for h in (history, rows)]
    assert strip[0] == strip[1] and len(strip[0]) == 4
    with pytest.raises(ValueError, match="has been trained for 4 epochs, more than these 2;"):
        checkpointed(tmp_path, epochs=2, schedules=schedules)


@pytest.mark.parametrize("epochs", [(1, 2), (4, 8)])
def test_a_schedule_made_for_a_number_of_epochs_is_extended_only_on_purpose(tmp_path, epochs):
    """With one epoch the two schedules agree at its start, and not within."""
    before, after = epochs
    checkpointed(tmp_path, epochs=before, schedules=warmup_cosine(before))
    more = {"epochs": after, "schedules": warmup_cosine(after)}
    with pytest.raises(ValueError) as caught:
        checkpointed(tmp_path, **more)
    said = str(caught.value)
    different = r"a rate factor of [\d.]+ after [\d.]+ epochs, not [\d.]+"
    assert re.search(rf"other schedules \(this one has epochs {after}, not {before}; {different}\); delete the", said)
    assert said.endswith('or go on with what is new by changed=["schedules"].')
    history = checkpointed(tmp_path, **more, changed="schedules")
    assert len(history.rows) == after
    assert len(checkpointed(tmp_path, **more).rows) == after  # from now on this is what the run is


def test_another_rate_is_taken_on_purpose_and_the_state_of_the_optimizer_stays(tmp_path):
    model = linear()

    def run(epochs, lr, **more):
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        fit(model, make_batches(), squared_error, epochs=epochs, optimizers=optimizer, progress=False,
            checkpoint=tmp_path / "run", **more)  # fmt: skip
        return optimizer

    run(1, 0.1)
    with pytest.raises(ValueError, match=r"changed names \['lr'\]; what may differ from the kept run is epochs, "):
        run(2, 0.2, changed=["lr"])
    optimizer = run(2, 0.2, changed=["optimizers"])
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert optimizer.state[model.weight]["step"] == 6  # three of either epoch
    other = sgd(model, 0.3)
    fit(model, make_batches(), squared_error, epochs=3, optimizers=other, progress=False, checkpoint=tmp_path / "run",
        changed=("optimizers",))  # fmt: skip
    assert other.param_groups[0]["lr"] == 0.3


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model)


class Named(nn.Module):
    """Parts with the names that the files of others are known by."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.module, self.fc, self.classifier = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.classifier(self.fc(self.module(x)))


class Tied(nn.Module):
    """One weight under two names, two halves of one memory, a transposed view, and a state that is no tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, both = nn.Linear(3, 3), torch.arange(6.0)
        self.same, self.last, self.calls = self.net, nn.Linear(3, 1), 0
        self.register_buffer("left", both[:3])
        self.register_buffer("right", both[3:])
        self.register_buffer("turned", both.view(2, 3).T)

    def forward(self, x):
        self.calls += 1
        return self.last(self.same(self.net(x)))

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize(
    "make", [lambda: nn.DataParallel(linear()), lambda: averaged(linear()), Named, Tied,
             lambda: nn.ModuleDict({"module": linear(), "fc": linear()})["fc"]],
    ids=["DataParallel", "AveragedModel", "Named", "Tied", "fc"],
)  # fmt: skip
def test_every_model_takes_its_own_checkpoint_back(tmp_path, make):
    first, again, longer = make(), make(), make()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    checkpointed(tmp_path, model=first)
    checkpointed(tmp_path, model=again)
    for name, tensor in first.state_dict().items():
        assert (
            tensor == again.state_dict()[name]
            if isinstance(tensor, dict)
            else torch.equal(tensor, again.state_dict()[name])
        ), name
    fit(longer, make_batches(), squared_error, epochs=2, optimizers=sgd(longer), progress=False)
    checkpointed(tmp_path, model=again, epochs=2)
    for ours, theirs in zip(again.parameters(), longer.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    if isinstance(again, Tied):
        assert again.same.weight is again.net.weight and again.calls == 6


def test_a_checkpoint_is_taken_by_its_exact_names_alone(tmp_path):
    checkpointed(tmp_path, model=nn.DataParallel(linear()))
    with pytest.raises(ValueError, match=r"is of another Linear \(2 missing: weight and 1 more; 2 unknown: module\."):
        checkpointed(tmp_path)
    with pytest.raises(ValueError, match=r"1 of another type: module\.bias torch\.float32 for torch\.float64"):
        wide = linear()
        wide.bias = nn.Parameter(wide.bias.detach().double())
        checkpointed(tmp_path, model=nn.DataParallel(wide))


class Holder:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (torch.zeros(2), r"state\['memory'\] is a Tensor and cannot be kept"),
        ([1], r"state\['memory'\] is a list and cannot be kept"),
        (Holder({"rank1": numpy.float64(0.9)}), r"state\['memory'\] holds more than tensors, numbers"),
        (Holder({"path": Path("x")}), r"state\['memory'\] holds more than tensors"),
        (Holder({"call": lambda: 0}), r"state\['memory'\] holds more than tensors"),
    ],
)
def test_a_state_that_could_not_be_read_back_is_refused_before_the_first_step(tmp_path, item, sentence):
    steps = []

    def step(model, batch):
        steps.append(0)
        return squared_error(model, batch)

    with pytest.raises(ValueError, match=sentence):
        checkpointed(tmp_path, step=step, state={"memory": item})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        model = linear()
        fit(model, make_batches(), step, epochs=1, optimizers=sgd(model), checkpoint=tmp_path / "file")
    assert not steps
