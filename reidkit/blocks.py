"""What all work on large arrays shares: one precision, products, and blocks that fit in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
