"""What is kept of a training: a killed run goes on from its last whole epoch, and nothing on disk is executed."""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.optim import Optimizer

from reidkit import files
from reidkit.models.backbones import load_weights

PARTS = ("weights.safetensors", "state.pt")


def facts(training_step, epochs, optimizers, schedules, dtype) -> dict[str, Any]:
    """What must be equal for a killed run to be continued, by name, as plain JSON."""
    given = training_step.keywords if isinstance(training_step, functools.partial) else {}
    made = {
        "epochs": epochs,
        "precision": str(dtype),
        "optimizers": {
            name: [
                type(optimizer).__name__,
                [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
            ]
            for name, optimizer in optimizers.items()
        },
        "schedules": {name: [schedule(epoch) for epoch in range(epochs)] for name, schedule in schedules.items()},
        "training_step": {name: value for name, value in given.items() if isinstance(value, int | float | str)},
    }
    return json.loads(json.dumps(made, default=repr))


@contextlib.contextmanager
def keep(folder: Path, model: nn.Module, optimizers: dict, state: dict, facts: dict) -> Iterator["Checkpoint"]:
    """Open the checkpoint in `folder` for this run alone; another run of the same folder waits."""
    with files.lock(folder.parent / f".{folder.name}.lock"):
        yield Checkpoint(folder, model, optimizers, state, facts)


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

    def save(self, rows: list[dict[str, Any]]) -> None:
        """Write the state after the last epoch of `rows`, then drop the one before."""
        part, state = self.folder / f"part-{os.getpid()}", io.BytesIO()
        torch.save(self._state(), state)
        weights = {name: tensor.detach().contiguous() for name, tensor in self.model.state_dict().items()}
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

    def _state(self) -> dict[str, Any]:
        rng = {"cpu": torch.get_rng_state()} | (
            {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
        )
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "state": {
                name: item.get_state() if isinstance(item, torch.Generator) else item.state_dict()
                for name, item in self.state.items()
            },
            "rng": rng,
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
            load_weights(self.model, epochs[-1] / "weights.safetensors")
        except ValueError as error:
            raise self._refusal(f"is of another model: {str(error).rstrip('.')}") from None
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        for name, item in self.state.items():
            (item.set_state if isinstance(item, torch.Generator) else item.load_state_dict)(saved["state"][name])
        torch.set_rng_state(saved["rng"]["cpu"])
        if "cuda" in saved["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["rng"]["cuda"])
        return record["rows"]

    def _checked_record(self, epoch: Path) -> dict[str, Any]:
        try:
            record = json.loads((epoch / "epoch.json").read_text())
            broken = [name for name in PARTS if digest(epoch / name) != record["digests"][name]]
            facts, _ = dict(record["facts"]), record["rows"]
        except (OSError, ValueError, KeyError, TypeError):
            broken = ["epoch.json"]
        if broken:
            raise self._refusal(f"is damaged ({epoch.name}/{broken[0]} was cut short or changed)")
        for name, value in self.facts.items():
            if facts.get(name) != value:
                raise self._refusal(f"is of a run with other {name} ({_short(facts.get(name))}, not {_short(value)})")
        return record

    def _refusal(self, problem: str) -> ValueError:
        return ValueError(
            f"the checkpoint {self.folder} {problem}; delete the folder to start again, or name another one."
        )


def digest(path: Path) -> str:
    """The SHA-256 of a file, or "missing"."""
    if not path.exists():
        return "missing"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + "..."
