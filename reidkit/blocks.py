"""What all work on large arrays shares: checks of embeddings and labels, one precision, blocks that fit in memory."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Array = Tensor | np.ndarray
TILE = {"cpu": 1024, "cuda": 8192}  # rows of a square tile of distances; 4 MB stay in a processor's cache


def row_blocks(n_rows: int, row_bytes: int, *, budget: int = 2**25) -> Iterator[slice]:
    """Cut `n_rows` rows into consecutive blocks that need at most `budget` bytes each (but at least one row).

    Args:
        n_rows: number of rows, 0 or more.
        row_bytes: what the work on one row needs, in bytes.
        budget: bytes a block may need; 32 MiB by default.

    Yields:
        Slices that cover 0 to `n_rows` in order.

    >>> list(row_blocks(5, 10, budget=25))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, budget // max(1, row_bytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def product(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, out: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    r"""Write $x y^\top$ into `out`, without gradient and without autocast.

    On the CPU by NumPy: its BLAS (usually OpenBLAS) is no slower than PyTorch's, and 1.4 times as fast on an AMD
    processor.

    >>> product(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), out=torch.empty(1, 1))
    tensor([[3.]])
    """
    if out.device.type == "cpu":
        np.matmul(x.numpy(), y.numpy().T, out=out.numpy())
        return out
    with torch.autocast(out.device.type, enabled=False):
        return torch.mm(x, y.T, out=out)


def tile_size(x: Tensor) -> int:
    """Rows and columns of the tiles that suit the device of `x`.

    >>> tile_size(torch.zeros(1))
    1024
    """
    return TILE["cpu" if x.device.type == "cpu" else "cuda"]


def nonzero(mask: Bool[Tensor, "n m"]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the true entries, row by row; on the CPU by NumPy, which is several times faster here.

    >>> nonzero(torch.tensor([[False, True], [True, False]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    if mask.device.type != "cpu":
        return mask.nonzero(as_tuple=True)
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    return flat // mask.shape[1], flat % mask.shape[1]


def same_precision(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two tensors to their common dtype, float32 or float64.

    >>> [t.dtype for t in same_precision(torch.ones(1).half(), torch.ones(1).double())]
    [torch.float64, torch.float64]
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


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
