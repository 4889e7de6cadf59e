"""One training loop: several optimizers, learning-rate schedules, mixed precision, and runs that survive being killed.

The method of a paper is its `training_step`; everything around it is here. Of a killed run the last whole epoch is
kept, and the next call goes on from there to the same bits (on a CPU, with the same number of threads).
"""

import contextlib
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from reidkit import checkpoints
from reidkit.models.precision import network_precision, resolve_precision
from reidkit.progress import bar, is_watched, note

Schedule = Callable[[float], float]
PATIENCE = 20  # steps in a row that fp16 may leave out: the scale of the loss falls from 65,536 to less than 1
LOOK_EVERY = 50  # steps between two looks at the numbers on CUDA, because each look makes the host wait for the device


@dataclass
class History:
    """What a training did, one row an epoch: epoch (from 1), steps, seconds, lr at its start, mean of each term."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def frame(self):
        """The rows as a pandas table indexed by epoch.

        >>> History([{"epoch": 1, "steps": 30, "softmax": 3.5}]).frame().softmax.tolist()
        [3.5]
        """
        import pandas

        return pandas.DataFrame(self.rows, columns=None if self.rows else ["epoch"]).set_index("epoch")


# ---------------------------------------------------------------------------------------------------------- schedules


def warmup_steps(
    *, milestones: Sequence[int] = (40, 70), gamma: float = 0.1, warmup: int = 10, factor: float = 0.01, offset: int = 0
) -> Schedule:
    r"""The strong baseline's schedule: linear warm-up, then a drop at each milestone, constant within an epoch.

    $$ f(e) = \gamma^{|\{m \le k\}|}\,\bigl(\phi\,(1 - a) + a\bigr), \quad a = \min(1, k / w), \quad
    k = \lfloor e \rfloor + o $$

    Args:
        milestones: epochs, counted from 0, at which the rate drops.
        gamma: what a drop multiplies the rate by.
        warmup: length of the warm-up in epochs ($w$).
        factor: where the warm-up starts, as a share of the full rate ($\phi$).
        offset: 0 as in the paper (the released code under PyTorch <= 1.0); 1 is the same code under PyTorch >= 1.1,
            where everything happens one epoch earlier ($o$).

    Source: released code of Ranked_Person_ReID (solver/lr_scheduler.py); ledger D2.11.

    >>> schedule = warmup_steps()
    >>> [round(schedule(epoch), 4) for epoch in (0, 5, 10, 39.9, 40, 70)]
    [0.01, 0.505, 1.0, 1.0, 0.1, 0.01]
    """
    milestones = sorted(milestones)

    def schedule(epoch):
        index = math.floor(epoch) + offset
        share = min(1.0, index / warmup) if warmup else 1.0
        return gamma ** bisect_right(milestones, index) * (factor * (1 - share) + share)  # [warmup]

    return schedule


def warmup_cosine(epochs: int, *, warmup: float = 0.15, flat: float = 0.5, floor: float = 0.001) -> Schedule:
    r"""The short schedule of the small net: linear warm-up, a plateau to half-way, a cosine down to almost nothing.

    Args:
        epochs: length of the training.
        warmup: share of the training that warms up, 0 to 1.
        flat: share of the training at which the descent begins, 0 to 1.
        floor: smallest factor, at both ends.

    >>> schedule = warmup_cosine(10)
    >>> [round(schedule(epoch), 3) for epoch in (0, 1.5, 5, 7.5, 10)]
    [0.001, 1.0, 1.0, 0.5, 0.001]
    """

    def schedule(epoch):
        share = epoch / epochs
        rise = min(1.0, share / warmup) if warmup else 1.0
        fall = 0.5 + 0.5 * math.cos(math.pi * (share - flat) / (1 - flat)) if share > flat else 1.0
        return floor + (1 - floor) * min(rise, fall)

    return schedule


class Cycle:
    """Batches in epochs of exactly `steps`: as many passes over `batches` as that takes, each with a number of its own.

    A pass over PK batches has no fixed length; this gives a training that must have one.

    >>> cycle = Cycle(["a", "b", "c"], 4); list(cycle), len(cycle)
    (['a', 'b', 'c', 'a'], 4)
    """

    def __init__(self, batches: Iterable, steps: int):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}.")
        _check_repeatable(batches)
        self.batches, self.steps, self.epoch = batches, steps, 0

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is; no pass over the batches is used in two epochs."""
        self.epoch = epoch

    def __iter__(self) -> Iterator:
        done = 0
        for number in range(self.steps):  # each pass gives at least one batch, so `steps` passes are enough
            if hasattr(self.batches, "set_epoch"):
                self.batches.set_epoch(self.epoch * self.steps + number)
            for batch in self.batches:
                yield batch
                done += 1
                if done == self.steps:
                    return


# --------------------------------------------------------------------------------------------------------- the loop


def fit(
    model: nn.Module,
    batches: Iterable,
    training_step: Callable,
    *,
    epochs: int,
    optimizers: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer],
    schedules: Schedule | Sequence[Schedule] | Mapping[str, Schedule] = (),
    state: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    changed: str | Sequence[str] = (),
    precision: str = "auto",
    progress: bool = True,
) -> History:
    """Train `model` for `epochs` passes over `batches`.

    `training_step(model, batch)` returns a scalar, or a dict of named scalar terms that are summed; a term without
    gradient is only recorded. It may be a generator instead: each `yield` of terms is one step of all optimizers, each
    `yield` of `(name, terms)` one step of the optimizer of that name, and what follows a `yield` runs after the step,
    which is the place to update memories (under `torch.no_grad()`).

    Args:
        model: a network, or an `nn.ModuleDict` of several; its forward runs in `precision`, the losses in float32.
        batches: anything that can be iterated over again, so no generator; `set_epoch(epoch)` is called where it
            exists, and to resume to the same bits its order must depend on that number alone. With `len()` schedules
            move at each step, without at each epoch.
        training_step: the method.
        epochs: passes over `batches`.
        optimizers: one, a list (named "0", "1", ...), or a dict by name.
        schedules: function of the epoch (a float, from 0) that gives a factor of the learning rate: one for all
            optimizers, a list, or a dict by name.
        state: whatever else must survive a kill, by name: `torch.Generator`s, and objects with `state_dict` and
            `load_state_dict` such as memories.
        checkpoint: a folder that keeps the last whole epoch (of those that take longer than a second to keep, as many
            as take 2 % of the time); a run found there is continued, and a finished one is extended by a larger
            `epochs` if the schedules are the same where it has been.
        changed: what differs on purpose from the run in `checkpoint`, which is otherwise an error: any of "optimizers",
            "schedules", "precision", "training_step".
        precision: "auto" (bf16 or fp16 on CUDA, whichever it has, fp32 elsewhere), "bf16", "fp16" or "fp32". With fp16
            the loss is scaled before its gradient is taken, so that small gradients do not vanish; where that makes one
            infinite, the step is left out and the scale is halved, and only if it goes on so is that an error.
        progress: show a bar where a person watches, and one line an epoch.

    Returns:
        The history of all epochs, those of an earlier, killed call included.

    Raises:
        FloatingPointError: a term or a gradient is NaN or infinite (found before the optimizer's step; on CUDA at most
            50 steps later), or a step made weights so; the sentence names epoch, step, term or parameter, and images.
            Nothing of it is ever kept in `checkpoint`.
        ValueError: a step that names no optimizer, or gives nothing to minimise; batches that can be passed over only
            once, or one image under batch normalisation; a state that cannot be kept; a checkpoint that is damaged or
            of another run.

    >>> model = nn.Linear(1, 1); batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> def step(model, batch): return (model(batch[0]) - batch[1]).square().mean()
    >>> history = fit(model, batches, step, epochs=2, optimizers=torch.optim.SGD(model.parameters(), lr=0.1))
    epoch 1 of 2 · 1 step
    epoch 2 of 2 · 1 step
    """
    _check_repeatable(batches)
    if isinstance(epochs, bool) or not isinstance(epochs, Integral) or epochs < 0:
        raise ValueError(f"epochs is a whole number of passes over the batches, at least 0, not {epochs!r}.")
    epochs = int(epochs)
    optimizers = _by_name(optimizers)
    schedules = dict.fromkeys(optimizers, schedules) if callable(schedules) else _by_name(schedules)
    if unknown := set(schedules) - set(optimizers):
        raise ValueError(f"there is a schedule for {sorted(unknown)}, but the optimizers are {sorted(optimizers)}.")
    rates = {name: [group["lr"] for group in optimizers[name].param_groups] for name in schedules}
    dtype = resolve_precision(model, precision)
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=dtype is torch.float16)
    loop = _Loop(model, batches, training_step, optimizers, schedules, rates, dict(state or {}), scaler)
    history = History()
    with contextlib.ExitStack() as stack:
        stack.callback(loop.set_rates, lambda name: 1.0)  # leaves the optimizers as they came, for a next round
        stack.enter_context(network_precision(model, precision))
        if checkpoint is not None:
            facts = checkpoints.facts(training_step, epochs, optimizers, schedules, dtype)
            keeper = stack.enter_context(
                checkpoints.keep(Path(checkpoint), model, optimizers, dict(state or {}), facts, changed, scaler)
            )
            keeper.check()
            history.rows = keeper.restore()
        loop.begin(len(history.rows))
        length = _length(batches)
        steps_bar = stack.enter_context(
            bar(total=length and epochs * length, title="training", unit="step", enabled=progress)
        )
        for row in history.rows:
            steps_bar.update(row["steps"])
            note(_line(row, epochs), enabled=progress)
        for epoch in range(len(history.rows), epochs):
            history.rows.append(loop.run(epoch, steps_bar))
            if checkpoint is not None and (epoch == epochs - 1 or keeper.is_due()):
                keeper.save(history.rows)
            note(_line(history.rows[-1], epochs), enabled=progress)
    return history


def _check_repeatable(batches) -> None:
    if isinstance(batches, Iterator) and not hasattr(batches, "__len__"):
        raise ValueError(
            f"batches is a {type(batches).__name__}, which can be passed over only once, and every epoch is a pass; "
            "give a list, a DataLoader, or an object whose __iter__ starts again."
        )


def _by_name(items) -> dict[str, Any]:
    if isinstance(items, Mapping):
        return dict(items)
    return {str(number): item for number, item in enumerate(items if isinstance(items, Sequence) else [items])}


def _length(batches: Iterable) -> int | None:
    try:
        return len(batches)
    except TypeError:
        return None


def _line(row: Mapping[str, Any], epochs: int) -> str:
    """One line about an epoch; in a log it holds no trained number and no time, so that it is the same in every run."""
    line = f"epoch {row['epoch']} of {epochs} · {row['steps']} step" + "s" * (row["steps"] != 1)
    if is_watched():
        terms = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "steps", "seconds")]
        line = " · ".join([line, *terms, f"{row['seconds']:.1f} s"])
    return line


@dataclass
class _Loop:
    """One epoch after another; holds what does not change between them."""

    model: nn.Module
    batches: Iterable
    training_step: Callable
    optimizers: dict[str, Optimizer]
    schedules: dict[str, Schedule]
    rates: dict[str, list[float]]
    state: dict[str, Any]
    scaler: torch.amp.GradScaler
    skipped: dict[int, int] = field(default_factory=dict)  # steps in a row that fp16 left out
    unknown: set[str] = field(default_factory=set)  # tensors that are not finite by intention: a mask, an empty memory

    def begin(self, epoch: int) -> None:
        """Refuse weights that are not finite before the first step, and learn which other tensors are not."""
        found = _not_finite(self._tensors())
        weights = {name for name, _ in self.model.named_parameters()}
        bad = [name for name in found if name in weights or name.endswith(("running_mean", "running_var"))]
        if bad:
            raise FloatingPointError(
                f"before epoch {epoch + 1}: {_listed('weights', bad)} not finite (NaN or infinite); "
                "make the model anew, or load other weights."
            )
        self.unknown = set(found)

    def end(self, epoch: int) -> None:
        """Refuse to go on, and to keep anything, with tensors that are no longer finite."""
        if bad := [name for name in _not_finite(self._tensors()) if name not in self.unknown]:
            raise FloatingPointError(
                f"epoch {epoch + 1}: at its end {_listed('tensors', bad)} not finite (NaN or infinite) although every "
                "loss was; try a smaller learning rate, or look at what the training step itself writes there."
            )

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that lasts longer than a step, by name: the model, memories, and what optimizers remember."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        names = {id(tensor): name for name, tensor in tensors.items()}
        for name, memory in self.state.items():
            if isinstance(memory, nn.Module):
                own = (*memory.named_parameters(), *memory.named_buffers())
                tensors |= {f"{name}.{part}": tensor for part, tensor in own}
        for optimizer in self.optimizers.values():
            for parameter, kept in optimizer.state.items():
                whose = names.get(id(parameter), f"a tensor {tuple(parameter.shape)} outside the model")
                tensors |= {f"{what} of {whose}": tensor for what, tensor in kept.items() if isinstance(tensor, Tensor)}
        return tensors

    def run(self, epoch: int, steps_bar) -> dict[str, Any]:
        """Train for one epoch and return its row of the history."""
        skipped = self.skipped if self.scaler.is_enabled() else None
        start, watch, lr, step = time.perf_counter(), _Watch(epoch, self.model, self.unknown, skipped), {}, -1
        self.model.train()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)
        length = _length(self.batches)
        for step, batch in enumerate(self.batches):
            position = epoch + min(step, length - 1) / length if length else epoch
            self.set_rates(lambda name, position=position: self.schedules[name](position))
            lr = lr or {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
            for name, terms in self._losses(batch, f"epoch {epoch + 1}, step {step + 1}"):
                chosen = list(self.optimizers.values()) if name is None else [self.optimizers[name]]
                for optimizer in chosen:
                    optimizer.zero_grad()
                self.scaler.scale(_total(terms)).backward()
                moving = {optimizer: moved for optimizer in chosen if (moved := _with_gradient(optimizer))}
                for optimizer in moving:
                    self.scaler.unscale_(optimizer)
                moved = [parameter for parameters in moving.values() for parameter in parameters]
                watch.before(step, name, terms, moved, batch)
                for optimizer in moving:
                    self.scaler.step(optimizer)
                if self.scaler.is_enabled():
                    self.scaler.update()
                watch.after(step, moved, batch)
            steps_bar.update()
        if step < 0:
            why = "the data is too small for this batch size"
            if epoch:
                why = "an epoch before had some; batches must start again at each pass"
            raise ValueError(f"there is no batch in epoch {epoch + 1}; {why}.")
        means = watch.means()
        self.end(epoch)
        lr = {f"lr/{name}": rate for name, rate in lr.items()} if len(lr) > 1 else {"lr": lr.popitem()[1]}
        return {"epoch": epoch + 1, "steps": step + 1, **lr, **means, "seconds": time.perf_counter() - start}

    def set_rates(self, factor: Callable) -> None:
        """Set the rate of each scheduled optimizer to its own times `factor(name)`."""
        for name, rates in self.rates.items():
            scale = factor(name)
            if not math.isfinite(scale):
                raise ValueError(f"the schedule of optimizer {name!r} gives {scale}; it must give finite factors.")
            for group, rate in zip(self.optimizers[name].param_groups, rates, strict=True):
                group["lr"] = rate * scale

    def _losses(self, batch, where: str) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
        """The steps of one batch as (optimizer name or None for all, terms), whatever form the training step has."""
        for item in self._items(batch, where):
            name, terms = item if isinstance(item, tuple) else (None, item)
            if name is not None and str(name) not in self.optimizers:
                raise ValueError(f"the step names optimizer {name!r}, but there are {sorted(self.optimizers)}.")
            yield None if name is None else str(name), terms if isinstance(terms, Mapping) else {"loss": terms}

    def _items(self, batch, where: str) -> Iterator:
        try:
            outcome = self.training_step(self.model, batch)
            yield from outcome if isinstance(outcome, Iterator) else [outcome]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"{where}: batch normalisation got a single image, which has no variance; use batches of at least two "
                "(p x k of at least 2), and leave out a last batch of one (drop_last)."
            ) from error


def _with_gradient(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _total(terms: Mapping[str, Any]) -> Tensor:
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            what = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise ValueError(f"the term {name!r} is {what}; a training step gives scalar tensors.")
    parts = [term for term in terms.values() if term.requires_grad]
    if not parts:
        raise ValueError(
            f"the terms {sorted(terms)} have no gradient; a training step must give something to minimise."
        )
    return sum(parts[1:], start=parts[0])


class _Watch:
    """Adds up the terms of an epoch, and stops at the first number that is not finite.

    Terms and gradients are looked at before the optimizer's step and weights after it; on CUDA all of them once in
    `LOOK_EVERY` steps and before an epoch ends, without a wait in between, and in the order in which they came.
    """

    def __init__(
        self, epoch: int, model: nn.Module, unknown: Collection[str] = (), skipped: dict[int, int] | None = None
    ):
        self.epoch, self.model, self.pending, self.steps, self.sums, self.counts = epoch, model, [], 0, {}, {}
        self.skipped = skipped  # None: no gradient may be infinite
        self.buffers = [b for name, b in model.named_buffers() if name not in unknown and _has_numbers(b)]

    def before(self, step: int, optimizer: str | None, terms: Mapping[str, Tensor], moved, batch) -> None:
        """Note the terms, and a norm of each gradient."""
        names = [name if optimizer is None else f"{optimizer}/{name}" for name in terms]
        values = torch.stack([term.detach().float() for term in terms.values()])
        images = _images(batch)
        self.pending.append((step, "term", names, values, images))
        gradients = [p.grad._values() if p.grad.is_sparse else p.grad for p in moved]
        for some, norms in _norms(moved, gradients):
            self.pending.append((step, "gradient", some, norms, images))
        self._look(values)

    def after(self, step: int, moved, batch) -> None:
        """Note a norm of each weight that a step has moved, and of each buffer."""
        tensors = [*moved, *self.buffers]
        for some, norms in _norms(tensors, [tensor.detach() for tensor in tensors]):
            self.pending.append((step, "weights", some, norms, _images(batch)))
            self._look(norms)
        self.steps += 1

    def _look(self, values: Tensor) -> None:
        if not _makes_wait(values) or self.steps >= LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Look at all that was noted, the oldest first."""
        device = self.pending[0][3].device
        values = iter(torch.cat([values.to(device) for _, _, _, values, _ in self.pending]).tolist())  # the only wait
        for step, kind, owners, _, images in self.pending:
            here = [next(values) for _ in owners]
            if not self._may_be(kind, owners, finite=all(map(math.isfinite, here))):
                raise FloatingPointError(self._sentence(step, kind, owners, here, images))
            if kind == "term":
                for name, value in zip(owners, here, strict=True):
                    self.sums[name] = self.sums.get(name, 0.0) + value
                    self.counts[name] = self.counts.get(name, 0) + 1
        self.pending, self.steps = [], 0

    def _may_be(self, kind: str, owners: list, *, finite: bool) -> bool:
        """Whether numbers may be as they are: finite, or of gradients whose step fp16 has left out, for a while."""
        if kind != "gradient" or self.skipped is None:
            return finite
        self.skipped[id(owners[0])] = row = 0 if finite else self.skipped.get(id(owners[0]), 0) + 1
        return row <= PATIENCE

    def _sentence(self, step: int, kind: str, owners: list, values: list[float], images) -> str:
        where = f"epoch {self.epoch + 1}, step {step + 1}"
        images = "" if images is None else f" on the images {torch.as_tensor(images).flatten().tolist()}"
        bad = [owner for owner, value in zip(owners, values, strict=True) if not math.isfinite(value)]
        value = next(value for value in values if not math.isfinite(value))
        if kind == "term":
            # on CUDA the steps since then have spoilt the weights too
            early = [(n, p) for n, p in self.model.named_parameters() if not _makes_wait(p)]
            if spoilt := [name for name, weights in early if not _is_finite(weights)]:
                return (
                    f"{where}: {_listed('weights', spoilt)} not finite before the step, so that the term {bad[0]!r} is "
                    f"{value}; look at what the training step itself writes there."
                )
            remedy = "try a smaller learning rate, or look at these images"
            return f"{where}: the term {bad[0]!r} is {value}{images}; {remedy}."
        known = {id(t): name for name, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        bad = [known.get(id(tensor), f"a tensor {tuple(tensor.shape)} outside the model") for tensor in bad]
        if kind == "gradient":
            row = "" if self.skipped is None else f" in {PATIENCE + 1} steps in a row, each with half the scale,"
            terms = [name for at, what, some, _, _ in self.pending if (at, what) == (step, "term") for name in some]
            return (
                f"{where}: {_listed('gradients of', bad)} not finite ({value}){row} although {_listed('terms', terms)} "
                f"finite{images}; look there for the root, norm or logarithm of 0, or try a smaller learning rate."
            )
        return (
            f"{where}: {_listed('weights', bad)} not finite ({value}) after the optimizer's step{images}; "
            "try a smaller learning rate."
        )

    def means(self) -> dict[str, float]:
        """Look at what is left, and give the mean of each term."""
        if self.pending:
            self.look()
        return {name: value / self.counts[name] for name, value in self.sums.items()}


def _images(batch):
    """Which images a batch holds, if it says so by tensor, array or list; (a tensor has a method of that name)."""
    indices = getattr(batch, "indices", None)
    return None if callable(indices) else indices


def _makes_wait(values: Tensor) -> bool:
    """Whether reading a value makes the host wait for a device."""
    return values.device.type != "cpu"


def _has_numbers(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex())


def _is_finite(tensor: Tensor) -> bool:
    return not _has_numbers(tensor) or bool(tensor.isfinite().all())


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not finite; one wait for each device and type."""
    found = {
        name
        for names, norms in _norms(list(tensors), [tensor.detach() for tensor in tensors.values()])
        for name, norm in zip(names, norms.tolist(), strict=True)
        if not math.isfinite(norm)
    }
    return [name for name in tensors if name in found]


def _norms(owners: Sequence, tensors: Sequence[Tensor]) -> list[tuple[list, Tensor]]:
    """A norm of each tensor, finite if all its numbers are; in one go for each device and type."""
    groups: dict[tuple, tuple[list, list[Tensor]]] = {}
    for owner, tensor in zip(owners, tensors, strict=True):
        if _has_numbers(tensor):
            some, numbers = groups.setdefault((tensor.device, tensor.dtype), ([], []))
            some.append(owner)
            numbers.append(tensor)
    return [(some, _norms_of(numbers)) for some, numbers in groups.values()]


def _norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """Lengths are quick on a CPU; that of large numbers may be infinite, the largest number is not."""
    lengths = None if _makes_wait(tensors[0]) else torch.stack(torch._foreach_norm(tensors))
    if lengths is not None and lengths.isfinite().all():
        return lengths
    return torch.stack(torch._foreach_norm(tensors, math.inf))


def _listed(what: str, names: Sequence[str]) -> str:
    """At most three names, how many more, and the verb."""
    more = f" and {len(names) - 3} more" * (len(names) > 3)
    one = {"gradients of": "gradient of", "terms": "term", "tensors": "tensor"}.get(what, what)
    verb = "is" if len(names) == 1 and one != what else "are"
    return f"the {one if len(names) == 1 else what} {', '.join(map(repr, names[:3]))}{more} {verb}"
