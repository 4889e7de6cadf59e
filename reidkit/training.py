"""One training loop: several optimizers, learning-rate schedules, mixed precision, and runs that survive being killed.

The method of a paper is its `training_step`; everything around it is here. Of a killed run the last whole epoch is
kept, and the next call goes on from there to the same bits (on a CPU, with the same number of threads).
"""

import contextlib
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reidkit import checkpoints
from reidkit.models.precision import network_precision, resolve_precision
from reidkit.progress import bar, is_watched, note

Schedule = Callable[[float], float]
LOOK_EVERY = 50  # steps between two looks at the losses on CUDA, because each look makes the host wait for the device


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
        batches: anything that can be iterated over again; `set_epoch(epoch)` is called where it exists, and to resume
            to the same bits its order must depend on that number alone. With `len()` schedules move at each step,
            without at each epoch.
        training_step: the method.
        epochs: passes over `batches`.
        optimizers: one, a list (named "0", "1", ...), or a dict by name.
        schedules: function of the epoch (a float, from 0) that gives a factor of the learning rate: one for all
            optimizers, a list, or a dict by name.
        state: whatever else must survive a kill, by name: `torch.Generator`s, and objects with `state_dict` and
            `load_state_dict` such as memories.
        checkpoint: a folder that keeps the last whole epoch; a run found there is continued.
        precision: "auto" (bf16 on CUDA, fp32 elsewhere), "bf16" or "fp32".
        progress: show a bar where a person watches, and one line an epoch.

    Returns:
        The history of all epochs, those of an earlier, killed call included.

    Raises:
        FloatingPointError: a term is NaN or infinite; the sentence names epoch, step, term and images.
        ValueError: a step that names no optimizer, or gives nothing to minimise; a checkpoint that is damaged or of
            another run.

    >>> model = nn.Linear(1, 1); batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
    >>> def step(model, batch): return (model(batch[0]) - batch[1]).square().mean()
    >>> history = fit(model, batches, step, epochs=2, optimizers=torch.optim.SGD(model.parameters(), lr=0.1))
    epoch 1 of 2 · 1 step
    epoch 2 of 2 · 1 step
    """
    optimizers = _by_name(optimizers)
    schedules = dict.fromkeys(optimizers, schedules) if callable(schedules) else _by_name(schedules)
    if unknown := set(schedules) - set(optimizers):
        raise ValueError(f"there is a schedule for {sorted(unknown)}, but the optimizers are {sorted(optimizers)}.")
    rates = {name: [group["lr"] for group in optimizers[name].param_groups] for name in schedules}
    loop = _Loop(model, batches, training_step, optimizers, schedules, rates)
    history = History()
    with contextlib.ExitStack() as stack:
        stack.callback(loop.set_rates, lambda name: 1.0)  # leaves the optimizers as they came, for a next round
        stack.enter_context(network_precision(model, precision))
        if checkpoint is not None:
            facts = checkpoints.facts(training_step, epochs, optimizers, schedules, resolve_precision(model, precision))
            keeper = stack.enter_context(
                checkpoints.keep(Path(checkpoint), model, optimizers, dict(state or {}), facts)
            )
            history.rows = keeper.restore()
        length = _length(batches)
        steps_bar = stack.enter_context(
            bar(total=length and epochs * length, title="training", unit="step", enabled=progress)
        )
        for row in history.rows:
            steps_bar.update(row["steps"])
            note(_line(row, epochs), enabled=progress)
        for epoch in range(len(history.rows), epochs):
            history.rows.append(loop.run(epoch, steps_bar))
            if checkpoint is not None:
                keeper.save(history.rows)
            note(_line(history.rows[-1], epochs), enabled=progress)
    return history


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

    def run(self, epoch: int, steps_bar) -> dict[str, Any]:
        """Train for one epoch and return its row of the history."""
        start, watch, lr, step = time.perf_counter(), _Watch(epoch), {}, -1
        self.model.train()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)
        length = _length(self.batches)
        for step, batch in enumerate(self.batches):
            position = epoch + min(step, length - 1) / length if length else epoch
            self.set_rates(lambda name, position=position: self.schedules[name](position))
            lr = lr or {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
            for name, terms in self._losses(batch):
                chosen = list(self.optimizers.values()) if name is None else [self.optimizers[name]]
                for optimizer in chosen:
                    optimizer.zero_grad()
                _total(terms).backward()
                watch.add(step, name, terms, batch)
                for optimizer in chosen:
                    optimizer.step()
            steps_bar.update()
        if step < 0:
            raise ValueError(f"there is no batch in epoch {epoch + 1}; the data is too small for this batch size.")
        means = watch.means()
        lr = {f"lr/{name}": rate for name, rate in lr.items()} if len(lr) > 1 else {"lr": lr.popitem()[1]}
        return {"epoch": epoch + 1, "steps": step + 1, **lr, **means, "seconds": time.perf_counter() - start}

    def set_rates(self, factor: Callable) -> None:
        """Set the rate of each scheduled optimizer to its own times `factor(name)`."""
        for name, rates in self.rates.items():
            scale = factor(name)
            for group, rate in zip(self.optimizers[name].param_groups, rates, strict=True):
                group["lr"] = rate * scale

    def _losses(self, batch) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
        """The steps of one batch as (optimizer name or None for all, terms), whatever form the training step has."""
        outcome = self.training_step(self.model, batch)
        for item in outcome if isinstance(outcome, Iterator) else [outcome]:
            name, terms = item if isinstance(item, tuple) else (None, item)
            if name is not None and str(name) not in self.optimizers:
                raise ValueError(f"the step names optimizer {name!r}, but there are {sorted(self.optimizers)}.")
            yield None if name is None else str(name), terms if isinstance(terms, Mapping) else {"loss": terms}


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
    """Adds up the terms of an epoch and stops at the first that is not finite, without a wait at each step on CUDA."""

    def __init__(self, epoch: int):
        self.epoch, self.pending, self.sums, self.counts = epoch, [], {}, {}

    def add(self, step: int, optimizer: str | None, terms: Mapping[str, Tensor], batch) -> None:
        names = [name if optimizer is None else f"{optimizer}/{name}" for name in terms]
        values = torch.stack([term.detach().float() for term in terms.values()])
        self.pending.append((step, names, values, getattr(batch, "indices", None)))
        if not values.is_cuda or len(self.pending) >= LOOK_EVERY:
            self.look()

    def look(self) -> None:
        values = iter(torch.cat([values for _, _, values, _ in self.pending]).tolist())  # the only wait
        for step, names, _, indices in self.pending:
            for name in names:
                value = next(values)
                if not math.isfinite(value):
                    images = "" if indices is None else f" on the images {torch.as_tensor(indices).tolist()}"
                    raise FloatingPointError(
                        f"epoch {self.epoch + 1}, step {step + 1}: the term {name!r} is {value}{images}; "
                        "try a smaller learning rate, or look at these images."
                    )
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        self.pending = []

    def means(self) -> dict[str, float]:
        if self.pending:
            self.look()
        return {name: value / self.counts[name] for name, value in self.sums.items()}
