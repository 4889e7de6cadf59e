"""A table of named causes: one column per factor, one row per person, camera or image."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Rows = TypeVar("Rows", bound="Factors")


class Factors:
    """What the dataclasses of the world share: rows can be taken, moved to a device, changed and written as a table."""

    def __len__(self) -> int:
        return len(getattr(self, dataclasses.fields(self)[0].name))

    def __getitem__(self: Rows, rows: Tensor | slice) -> Rows:
        return self._each(lambda column: column[rows])

    def to(self: Rows, device: str | torch.device) -> Rows:
        """The same rows on another device."""
        return self._each(lambda column: column.to(device))

    def replace(self: Rows, **columns: float | Tensor) -> Rows:
        """The same rows with some factors set: one knob turned, the rest held.

        Args:
            columns: a value for all rows, or a column of the same shape.

        Raises:
            ValueError: there is no factor of that name.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := set(columns) - known:
            raise ValueError(f"{type(self).__name__} has no factor {sorted(unknown)}; it has {sorted(known)}.")
        changed = {}
        for name, value in columns.items():
            old = getattr(self, name)
            changed[name] = torch.as_tensor(value, dtype=old.dtype, device=old.device).expand(old.shape).clone()
        return dataclasses.replace(self, **changed)

    def columns(self) -> dict[str, np.ndarray]:
        """Factor name -> column; a colour becomes three columns (`_r`, `_g`, `_b`)."""
        table = {}
        for field in dataclasses.fields(self):
            column = getattr(self, field.name).cpu().numpy()
            if column.ndim == 1:
                table[field.name] = column
            elif column.ndim == 2:
                table |= {f"{field.name}_{part}": column[:, i] for i, part in enumerate("rgb")}
        return table

    @classmethod
    def cat(cls: type[Rows], parts: list[Rows]) -> Rows:
        """The rows of several tables, one after another."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(cls)))

    @classmethod
    def from_arrays(cls: type[Rows], **columns: np.ndarray) -> Rows:
        """Build from numpy columns: float32 for measures, int64 for kinds and keys, bool for flags."""
        types = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        return cls(**{name: torch.from_numpy(a.astype(types[a.dtype.kind])) for name, a in arrays.items()})

    def _each(self: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
        return type(self)(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))
