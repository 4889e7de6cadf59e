"""Mixed precision for the network alone: what it returns is float32, so every loss and distance is, too."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(model: nn.Module, precision: str) -> torch.dtype:
    """The type a network computes in: "bf16", "fp16", "fp32", or "auto".

    That is bf16 on a CUDA device that has it (compute capability 8.0: A100, RTX 30), fp16 on one that has tensor cores
    for that alone (7.0: V100, T4), and fp32 elsewhere.

    >>> resolve_precision(nn.Linear(2, 2), "auto")
    torch.float32
    """
    if precision == "auto":
        precision = _best(next(model.parameters()).device)
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be "auto", "bf16", "fp16" or "fp32", not {precision!r}.')
    return PRECISIONS[precision]


def _best(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    major = torch.cuda.get_device_capability(device)[0]
    return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"


@contextlib.contextmanager
def network_precision(model: nn.Module, precision: str = "auto") -> Iterator[None]:
    """While open, the network alone computes in `precision`; what it returns is float32, and so is every loss.

    Args:
        model: a network, or an `nn.ModuleDict` of several.
        precision: "auto", "bf16", "fp16" or "fp32"; gradients of fp16 must be scaled, as `fit` does.

    >>> model = nn.Linear(3, 2)
    >>> with network_precision(model, "bf16"): model(torch.zeros(1, 3)).dtype
    torch.float32
    """
    dtype = resolve_precision(model, precision)
    networks = list(model.values()) if isinstance(model, nn.ModuleDict) else [model]
    before = [network.__dict__.get("forward") for network in networks]
    if dtype is not torch.float32:
        for network in networks:
            network.forward = _autocast(network.forward, next(model.parameters()).device.type, dtype)
    try:
        yield
    finally:
        for network, forward in zip(networks, before, strict=True):
            network.__dict__.pop("forward", None)  # the class's own forward shows again
            if forward is not None:
                network.forward = forward


def _autocast(forward: Callable, device: str, dtype: torch.dtype) -> Callable:
    @functools.wraps(forward)
    def wrapped(*args, **kwargs):
        with torch.autocast(device, dtype):
            output = forward(*args, **kwargs)
        return _raise_to_float32(output)

    return wrapped


def _raise_to_float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, tuple):
        items = [_raise_to_float32(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
