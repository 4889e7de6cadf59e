"""What is kept of a training: a killed run goes on from its last whole epoch, and nothing on disk is executed."""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from reidkit import files
from reidkit.models.backbones import differences

PARTS = ("weights.safetensors", "state.pt")
CHEAP, SHARE = 1.0, 0.02  # seconds, and share of the time, that a save may take
HOW = ("fused", "foreach", "capturable")  # options of an optimizer that say how it computes, not what
MAY_CHANGE = ("epochs", "precision", "optimizers", "schedules", "training_step")  # what `changed` may name
WITHIN = [k / 8 for k in range(1, 8)]  # where schedules are compared between the epochs


def facts(training_step, epochs, optimizers, schedules, dtype) -> dict[str, Any]:
    """What must be equal for a killed run to be continued, by name, as plain JSON."""
    given = training_step.keywords if isinstance(training_step, functools.partial) else {}
    made = {
        "epochs": epochs,
        "precision": str(dtype),
        "optimizers": {
            name: [
                type(optimizer).__name__,
                [{k: v for k, v in g.items() if k not in ("params", *HOW)} for g in optimizer.param_groups],
            ]
            for name, optimizer in optimizers.items()
        },
        "schedules": {name: [schedule(epoch) for epoch in range(epochs)] for name, schedule in schedules.items()},
        "within": {
            name: [[schedule(epoch + share) for share in WITHIN] for epoch in range(epochs)]
            for name, schedule in schedules.items()
        },
        "training_step": {name: value for name, value in given.items() if isinstance(value, int | float | str)},
    }
    return json.loads(json.dumps(made, default=repr))


@contextlib.contextmanager
def keep(
    folder: Path, model: nn.Module, optimizers: dict, state: dict, facts: dict, changed: str | Sequence[str] = (),
    scaler: torch.amp.GradScaler | None = None
) -> Iterator["Checkpoint"]:  # fmt: skip
    """Open the checkpoint in `folder` for this run alone; another run of the same folder waits.

    Facts named in `changed` may differ from those of the run that is there.
    """
    changed = (changed,) if isinstance(changed, str) else tuple(changed)
    if unknown := [name for name in changed if name not in MAY_CHANGE]:
        raise ValueError(f"changed names {unknown}; what may differ from the kept run is {', '.join(MAY_CHANGE)}.")
    with files.lock(folder.parent / f".{folder.name}.lock"):
        yield Checkpoint(folder, model, optimizers, state, facts, changed, scaler)


@dataclass
class Checkpoint:
    """A folder with one sub-folder `epoch-N`, which appears whole by a single rename and replaces the one before.

    It holds weights.safetensors, state.pt (optimizers, state, random numbers; read with `weights_only`) and epoch.json
    (history, facts, the digests of the other two), so nothing in it can run code.
    """

    folder: Path
    model: nn.Module
    optimizers: dict[str, Optimizer]
    state: dict[str, Any]
    facts: dict[str, Any]
    changed: tuple[str, ...] = ()
    scaler: torch.amp.GradScaler | None = None
    cost: float = 0.0  # seconds that the last save took
    saved: float = 0.0  # when it was done, by the clock of `time.perf_counter`

    def is_due(self) -> bool:
        """Whether a save would be cheap: less than a second, or than 2 % of the time since the last one."""
        return self.cost < CHEAP or self.cost < SHARE * (time.perf_counter() - self.saved)

    def check(self) -> None:
        """Refuse, before the first step, what could not be kept or not be read back.

        Raises:
            ValueError: the folder is a file, or a state is not made of tensors, numbers, texts, lists and dicts.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"the checkpoint {self.folder} is a file; name a folder.")
        for name, item in self.state.items():
            if not isinstance(item, torch.Generator) and not hasattr(item, "load_state_dict"):
                raise ValueError(
                    f"state[{name!r}] is a {type(item).__name__} and cannot be kept; give a torch.Generator, or an "
                    "object with state_dict and load_state_dict."
                )
            _check_readable(f"state[{name!r}]", _state_of(item))
        _check_readable("the extra state of the model", _extra(self.model))

    def save(self, rows: list[dict[str, Any]]) -> None:
        """Write the state after the last epoch of `rows`, then drop the one before."""
        start, part, state = time.perf_counter(), self.folder / f"part-{os.getpid()}", io.BytesIO()
        torch.save(self._state(), state)
        weights = _weights(self.model)
        parts = dict(zip(PARTS, (save(weights), state.getvalue()), strict=True))
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        try:
            for name, data in parts.items():
                files.write_bytes(part / name, data)
            files.write_json(part / "epoch.json", {"rows": rows, "facts": self.facts, "digests": digests})
            os.rename(part, self.folder / f"epoch-{len(rows):05d}")
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        for old in sorted(self.folder.glob("epoch-*"))[:-1]:
            shutil.rmtree(old)
        self.saved = time.perf_counter()
        self.cost = self.saved - start

    def _state(self) -> dict[str, Any]:
        rng = {"cpu": torch.get_rng_state()} | (
            {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
        )
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "state": {name: _state_of(item) for name, item in self.state.items()},
            "rng": rng,
            "extra": _extra(self.model),
            "scaler": self.scaler.state_dict() if self.scaler else {},  # empty unless the network is in fp16
        }

    def restore(self) -> list[dict[str, Any]]:
        """Load the newest epoch into everything, and return the history; nothing changes if there is none."""
        for part in self.folder.glob("part-*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(part)
        epochs = sorted(self.folder.glob("epoch-*"))
        if not epochs:
            return []
        for old in epochs[:-1]:
            shutil.rmtree(old)
        record = self._checked_record(epochs[-1])
        try:
            saved = torch.load(epochs[-1] / "state.pt", map_location="cpu", weights_only=True)
            kept = sorted(saved["state"])
        except Exception:  # the digest is right, so somebody made it; each way to do so has an error of its own
            raise self._refusal("holds more than tensors, and nothing of it was run") from None
        if kept != sorted(self.state):
            raise self._refusal(f"keeps the state of {kept}, this run has {sorted(self.state)}")
        try:
            weights = load_file(epochs[-1] / "weights.safetensors")
        except Exception:  # the same
            raise self._refusal("holds weights that cannot be read, and nothing of it was run") from None
        if problem := differences({**self.model.state_dict(), **saved.get("extra", {})}, weights, exact=True):
            raise self._refusal(f"is of another {type(self.model).__name__} ({problem})")
        self.model.load_state_dict({**weights, **saved.get("extra", {})})
        for name, optimizer in self.optimizers.items():
            self._restore_optimizer(name, optimizer, saved["optimizers"].get(name), record["facts"])
        for name, item in self.state.items():
            (item.set_state if isinstance(item, torch.Generator) else item.load_state_dict)(saved["state"][name])
        if self.scaler and self.scaler.is_enabled() and saved.get("scaler"):
            self.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["rng"]["cpu"])
        if "cuda" in saved["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["rng"]["cuda"])
        return record["rows"]

    def _restore_optimizer(self, name: str, optimizer: Optimizer, saved: dict | None, facts: dict) -> None:
        """Give an optimizer its state; it keeps its own options where they were changed on purpose."""
        before, now = facts["optimizers"].get(name), self.facts["optimizers"][name]
        if saved is None or before[0] != now[0]:
            return  # another kind of optimizer begins anew
        options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        try:
            optimizer.load_state_dict(saved | {"param_groups": _computed_as(options, saved["param_groups"])})
        except ValueError:
            raise self._refusal(f"keeps the state of an optimizer {name!r} of other parameters") from None
        if before != now:
            for group, own in zip(optimizer.param_groups, options, strict=True):
                group.update(own)

    def _checked_record(self, epoch: Path) -> dict[str, Any]:
        try:
            record = json.loads((epoch / "epoch.json").read_text())
            broken = [name for name in PARTS if digest(epoch / name) != record["digests"][name]]
            facts, done = dict(record["facts"]), len(record["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            broken = ["epoch.json"]
        if broken:
            raise self._refusal(f"is damaged ({epoch.name}/{broken[0]} was cut short or changed)")
        if done > self.facts["epochs"]:
            raise self._refusal(f"has been trained for {done} epochs, more than these {self.facts['epochs']}")
        found = {name: what for name, what in _changes(facts, self.facts).items() if what}
        wrong = [name for name in found if name not in self.changed]
        if wrong:
            if facts["epochs"] != self.facts["epochs"]:
                found = {"epochs": [f"epochs {self.facts['epochs']}, not {facts['epochs']}"], **found}
            said = [what for name in found if name not in self.changed for what in found[name]]
            more = f"; and {len(said) - 3} more" * (len(said) > 3)
            remedy = f", or go on with what is new by changed={json.dumps(wrong)}"
            raise self._refusal(
                f"is of a run with other {' and '.join(wrong)} (this one has {'; '.join(said[:3])}{more})", remedy
            )
        return record

    def _refusal(self, problem: str, remedy: str = "") -> ValueError:
        return ValueError(
            f"the checkpoint {self.folder} {problem}; delete the folder to start again, or name another one{remedy}."
        )


def _computed_as(own: list[dict], groups: list[dict]) -> list[dict]:
    """Groups of parameters as they were kept, computed as an optimizer does on this device."""
    if len(own) != len(groups):
        return groups  # which `load_state_dict` refuses
    return [kept | {key: now[key] for key in HOW if key in now} for kept, now in zip(groups, own, strict=True)]


def _state_of(item) -> Any:
    return item.get_state() if isinstance(item, torch.Generator) else item.state_dict()


def _check_readable(what: str, state: Any) -> None:
    stream = io.BytesIO()
    try:
        torch.save(state, stream)
        stream.seek(0)
        torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickling, or of reading without running code
        raise ValueError(
            f"{what} holds more than tensors, numbers, texts, lists and dicts, so it could not be read back without "
            "running code; leave the rest out of its state_dict, or turn it into these."
        ) from error


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model by their names, each with memory of its own although some may be tied."""
    tensors, seen = {}, set()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            tensor = value.detach().contiguous()
            memory = (tensor.device, tensor.untyped_storage().data_ptr())
            tensors[name] = tensor.clone() if memory in seen else tensor
            seen.add(memory)
    return tensors


def _extra(model: nn.Module) -> dict[str, Any]:
    """What else a model keeps (`get_extra_state`)."""
    return {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[str]]:
    """What differs between the facts of two runs in words, by fact; a larger number of epochs alone is no difference.

    >>> _changes({"training_step": {"radius": 0.7}}, {"training_step": {"radius": 0.9}})["training_step"]
    ['radius 0.9, not 0.7']
    """
    changes = {"precision": [], "optimizers": [], "schedules": [], "training_step": []}
    if old.get("precision") != new.get("precision"):
        changes["precision"] = [f"precision {new.get('precision')}, not {old.get('precision')}".replace("torch.", "")]
    before, now = old.get("optimizers", {}), new.get("optimizers", {})
    if before.keys() != now.keys():
        changes["optimizers"] = [f"optimizers {sorted(now)}, not {sorted(before)}"]
    for name in before.keys() & now.keys():
        whose = f" of optimizer {name!r}" * (len(now) > 1)
        (kind, groups), (new_kind, new_groups) = before[name], now[name]
        if kind != new_kind:
            changes["optimizers"].append(f"{new_kind}, not {kind}{whose}")
        elif len(groups) != len(new_groups):
            changes["optimizers"].append(f"{len(new_groups)} groups of parameters, not {len(groups)}{whose}")
        else:
            changed = {
                change: None
                for group, new_group in zip(groups, new_groups, strict=True)
                for change in _values(group, new_group, whose)
            }
            changes["optimizers"] += changed
    changes["schedules"] = _schedule_changes(old, new)
    changes["training_step"] = _values(old.get("training_step", {}), new.get("training_step", {}))
    return changes


def _values(old: dict[str, Any], new: dict[str, Any], whose: str = "") -> list[str]:
    names = [name for name in {**new, **old} if old.get(name) != new.get(name) or (name in old) != (name in new)]
    return [f"{name} {new.get(name, 'left out')}, not {old.get(name, 'left out')}{whose}" for name in names]


def _schedule_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The first difference of each schedule, in the epochs that both runs have."""
    before, now, found = old.get("schedules", {}), new.get("schedules", {}), []
    if before.keys() != now.keys():
        return [f"schedules for {sorted(now)}, not {sorted(before)}"]
    for name in now:
        inner, new_inner = (facts.get("within", {}).get(name, []) for facts in (old, new))
        for epoch, (a, b) in enumerate(zip(before[name], now[name], strict=False)):
            places = [(epoch, a, b)]
            if epoch < min(len(inner), len(new_inner)):
                shares = zip(WITHIN, inner[epoch], new_inner[epoch], strict=True)
                places += [(epoch + share, a, b) for share, a, b in shares]
            if different := [place for place in places if place[1] != place[2]]:
                at, a, b = different[0]
                whose = f" of optimizer {name!r}" * (len(now) > 1)
                found.append(f"a rate factor{whose} of {b:.6g} after {at:g} epochs, not {a:.6g}")
                break
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file, or "missing"."""
    if not path.exists():
        return "missing"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
