"""One place that checks what public functions are given, so that nothing is broadcast to something else in silence.

Losses and memories are checked by shapes, dtypes and devices alone, never by a value: on a GPU the host does not wait
for it. What works on the host takes arrays and lists too.
"""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from reidkit.blocks import same_precision

Array = Tensor | np.ndarray
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


def embedding_rows(x: object, name: str) -> Tensor:
    """Turn embeddings, a tensor or a NumPy array, into a (n, d) tensor of float32 or float64 without gradient.

    Args:
        x: the embeddings; memory is shared where it can be.
        name: what they are, for the error message.

    Raises:
        ValueError: they are no rows, no floating-point numbers, or there are none.

    >>> embedding_rows(np.zeros((2, 3), np.float16), "query").dtype
    torch.float32
    """
    x = stored_rows(x, name)
    return same_precision(x, x)[0]


def stored_rows(x: object, name: str) -> Tensor:
    """The same check, but nothing is converted: the tensor shares the memory of `x`, be it a file on disk.

    What is read-only stays so by agreement: nobody writes into the result.

    >>> stored_rows(np.zeros((2, 3), np.float16), "query").dtype
    torch.float16
    """
    if not isinstance(x, Tensor | np.ndarray):
        kind = type(x).__name__
        raise ValueError(f"{name} must be a tensor or a NumPy array of embeddings, not a {kind}; np.array makes one.")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be embeddings of shape (n, d) with at least one row, not {tuple(x.shape)}.")
    if not (x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f" and x.dtype.itemsize <= 8):
        raise ValueError(f"{name} must hold floating-point embeddings, not {x.dtype}.")
    return x.detach() if isinstance(x, Tensor) else shared_tensor(x)


def shared_tensor(array: Shaped[np.ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """A tensor on the memory of an array, read-only or mapped ones too; it must not be written to.

    Only what PyTorch cannot describe (strides that run backwards, the other order of bytes) is copied.

    >>> shared_tensor(np.arange(3)[::-1])
    tensor([2, 1, 0])
    """
    if not array.dtype.isnative or min(array.strides, default=0) < 0:
        array = np.array(array, array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def same_width(x: Tensor, y: Tensor, names: tuple[str, str]) -> None:
    """Refuse two sets of embeddings whose rows differ in length.

    >>> same_width(torch.zeros(2, 3), torch.zeros(5, 3), ("query", "gallery"))
    """
    if x.shape[1] != y.shape[1]:
        first, second = names
        raise ValueError(f"{first} has {x.shape[1]} numbers per row and {second} {y.shape[1]}; they must agree.")


def labels(values: object, name: str, n: int | None = None) -> np.ndarray:
    """Pids, camids or other numbers of images as an int64 NumPy array; whatever does not fit is refused by name.

    Args:
        values: (n,) integers: a tensor, an array or a list. Nothing is broadcast: neither (1,) nor (n, 1) will do.
        name: what they are, for the error message.
        n: how many there must be; None for any number above 0.

    Raises:
        ValueError: another shape, or no integers.

    >>> labels(torch.tensor([7, 9], dtype=torch.uint8), "pids", 2)
    array([7, 9])
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype is torch.bfloat16 else values  # only to be refused
    try:
        values = np.asarray(values)
    except (ValueError, TypeError):
        raise ValueError(f"{name} must be one row of integers; these are rows of different lengths.") from None
    if values.ndim != 1 or len(values) != (n or max(1, len(values))):
        raise ValueError(f"{name} must be of shape ({n or 'n'},), one for each image, not {values.shape}.")
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {values.dtype}.")
    return values.astype(np.int64)
