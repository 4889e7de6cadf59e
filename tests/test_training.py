"""fit: what a step may be, what is written down, and that a killed run ends with the bits of one never killed."""

import contextlib
import functools
import json
import os
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
    watch = training._Watch(epoch=2)
    for step in range(5):
        term = torch.tensor(float("nan") if step >= 3 else 1.0)
        watch.pending.append((step, ["softmax"], term[None], torch.tensor([step, step + 1])))
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
    with pytest.raises(ValueError, match='"auto", "bf16" or "fp32", not'), network_precision(model, "half"):
        pass


def test_network_precision_reaches_the_networks_of_a_dict_and_lets_go_after_an_error():
    model = nn.ModuleDict({"a": Probe(), "b": Probe()})
    with contextlib.suppress(RuntimeError), network_precision(model, "bf16"):
        model["b"](torch.randn(4, 3))
        assert model["b"].inside == torch.bfloat16
        raise RuntimeError
    model["b"](torch.randn(4, 3))
    assert model["b"].inside == torch.float32


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
        ({"epochs": 2}, "other epochs"),
        ({"lr": 0.2}, "other optimizers"),
        ({"precision": "bf16"}, "other precision"),
        ({"schedules": lambda epoch: 0.5}, "other schedules"),
        ({"step": functools.partial(lambda model, batch, radius: squared_error(model, batch), radius=2.0)}, "radius"),
        ({"state": {"noise": torch.Generator()}}, r"keeps the state of \[\], this run has \['noise'\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, what):
    checkpointed(tmp_path)
    with pytest.raises(ValueError, match=what):
        checkpointed(tmp_path, **changed)
