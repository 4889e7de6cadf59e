"""One check of what losses, memories and samplers are given, so that nothing is broadcast to something else in silence.

It looks at shapes, dtypes and devices alone, never at a value: on a GPU the host does not wait for it.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

Labels = Int[Tensor, " n"] | Int[np.ndarray, " n"] | Sequence[int]
KINDS = {"float": "floating-point numbers", "int": "signed integers", "bool": "truth values (torch.bool)"}


def check_inputs(least: int = 0, /, **inputs: tuple[str, Any]) -> None:
    """Refuse tensors that do not fit each other.

    Args:
        least: the smallest first dimension that the first input may have.
        inputs: by name, kind and dimensions ("float n d", "int n", "bool k c") and the tensor. A letter is the same
            number everywhere, a number is itself, and all tensors are on the device of the first.

    Raises:
        ValueError: an input is no tensor, or its dtype, shape or device is wrong.

    >>> check_inputs(embeddings=("float n d", torch.zeros(4, 8)), pids=("int n", torch.zeros(4, 1).long()))
    Traceback (most recent call last):
    ValueError: embeddings must be (n, d) and pids (n,), not (4, 8) and (4, 1).
    """
    (first, (wanted, reference)), *others = inputs.items()
    for name, (spec, tensor) in inputs.items():
        kind = spec.split()[0]
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} must be a tensor, not a {type(tensor).__name__}; torch.as_tensor(...) makes one of it."
            )
        if kind != _kind(tensor):
            raise ValueError(f"{name} must hold {KINDS[kind]}, not {tensor.dtype}.")
    for name, (spec, tensor) in others or inputs.items():
        if not _fit(least, (wanted, reference), (spec, tensor)):
            shapes = f"{tuple(reference.shape)} and {tuple(tensor.shape)}" if others else tuple(tensor.shape)
            must = f"{first} must be {_shape(wanted)}" + f" and {name} {_shape(spec)}" * bool(others)
            raise ValueError(f"{must}{_terms(least, wanted, spec)}, not {shapes}.")
        if tensor.device != reference.device:
            there = reference.device
            raise ValueError(
                f"{name} must be on the device of {first}, {there}, not on {tensor.device}; move it by .to."
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "float"
    if tensor.dtype == torch.bool:
        return "bool"
    return "int" if tensor.dtype.is_signed and not tensor.is_complex() else "another"  # uint8 would index as a mask


def _fit(least: int, *inputs: tuple[str, Tensor]) -> bool:
    """Whether the shapes of some inputs are those that they should have."""
    known: dict[str, int] = {}
    for spec, tensor in inputs:
        dims = spec.split()[1:]
        if tensor.ndim != len(dims):
            return False
        for dim, size in zip(dims, tensor.shape, strict=True):
            if known.setdefault(dim, int(dim) if dim.isdigit() else size) != size:
                return False
    return inputs[0][1].shape[0] >= least


def _shape(spec: str) -> str:
    """How a shape is written, "(n, d)" or "(n,)"."""
    dims = spec.split()[1:]
    return f"({', '.join(dims)}{',' * (len(dims) == 1)})"


def _terms(least: int, wanted: str, spec: str) -> str:
    """What letters have to be, beside the same in one shape and the other: " with n at least 1 and the same d"."""
    (n, *others), common = wanted.split()[1:], spec.split()[1:]
    terms = [f"{n} at least {least}"] * bool(least)
    terms += [f"the same {dim}" for dim in others if wanted != spec and dim in common and not dim.isdigit()]
    return " with " * bool(terms) + " and ".join(terms)


def as_labels(labels: Any, name: str) -> Int[Tensor, " n"]:
    """Labels as a tensor: they may also come as a NumPy array or as a list of integers, for work on the host.

    Raises:
        ValueError: they are not one integer for each image.

    >>> as_labels([5, 5, 8], "pids")
    tensor([5, 5, 8])
    """
    if not isinstance(labels, Tensor):
        try:
            array = np.array(labels, order="C", dtype=None if len(labels) else np.int64)
            labels = torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array)
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} must be one integer for each image, not {type(labels).__name__} {labels!r:.60}."
            ) from None
    check_inputs(**{name: ("int n", labels)})
    return labels


def whole(**numbers: Any) -> None:
    """Refuse what is no whole number.

    Raises:
        ValueError: naming it.

    >>> whole(p=16, k=np.int64(4))
    """
    for name, number in numbers.items():
        try:
            operator.index(number)
        except TypeError:
            raise ValueError(f"{name} must be a whole number, not {number!r:.60}.") from None
