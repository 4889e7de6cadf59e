"""A CUDA device where there is none: tensors that say they are on "cuda", and are watched as a card would be.

They are fake tensors after PyTorch's own (`torch._subclasses.fake_tensor`), which can neither take a gradient without
a driver nor follow a number that the host asks for. Here a tensor of the host stays real, so that samplers and decoders
work, and one of the device has values too, computed by the CPU (`values=True`), so that evaluators run and what they
say can be compared; or it is empty (`values=False`), so that a step of ResNet-50 at full size takes a moment.

    with FakeCUDA() as cuda:
        step()                  # a tensor on the wrong device raises DeviceError
    cuda.waits                  # where the host waited for the device
"""

import contextlib
import traceback
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).resolve().parents[1]
CUDA, ELSEWHERE = torch.device("cuda", 0), torch.device("meta")  # what Python is told, and what autograd's engine is
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
LOOKED_UP = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
WAITING = (  # the host must know a number to go on
    *(aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default),
    *(aten.nonzero.default, aten.masked_select.default, aten.bincount.default, aten.repeat_interleave.Tensor),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
)
FUSED = (aten._fused_sgd_.default, aten._fused_adam_.default)  # which change values alone, and know no empty ones
HALVED = (torch.float32, torch.float16, torch.bfloat16)
LOWERED = (  # what autocast computes in half precision
    *(F.linear, F.conv2d, F.conv_transpose2d, torch.conv2d, torch.conv_transpose2d),
    *(torch.mm, torch.bmm, torch.addmm, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.mm),
)


class Wait(NamedTuple):
    """An operation that the host waits for, and the file, function and line of ours that asked for it."""

    what: str
    file: str
    function: str
    line: str


class DeviceError(RuntimeError):
    """Tensors of two devices in one operation."""


class OnCUDA(Tensor):
    """A tensor that says it is on a card."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCUDA":
        """Share the memory of `held`, which is on the CPU, or on "meta" without values."""
        self = Tensor._make_subclass(cls, held, False, dispatch_device=True, device_for_backend_keys=CUDA)
        self.held = held
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)  # a file holds plain tensors

    def __deepcopy__(self, memo):
        twin = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            twin._is_param = True
        return memo.setdefault(id(self), twin)

    def __repr__(self, **_) -> str:
        return f"{self.held}@cuda"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:
            return ELSEWHERE
        raise DeviceError(f"{func} of a fake CUDA tensor outside the device that it is on")


class _Asked(TorchFunctionMode):
    """What C++ would ask a card for before any operation: its number, and whether autocast is for its tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def numbered(part):
            plain = part == "cuda" if isinstance(part, str) else isinstance(part, torch.device) and part.type == "cuda"
            return CUDA if plain else part

        if func is Tensor.tolist and isinstance(args[0], OnCUDA):
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor and isinstance(args[0], OnCUDA):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **(kwargs or {})}).to(CUDA)
        if func in (torch.tensor, torch.as_tensor) and "cuda" in str((kwargs or {}).get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(CUDA)
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], CUDA, *args[1:])
        args, kwargs = tree_map(numbered, args), tree_map(numbered, kwargs or {})
        if func in LOWERED and torch.is_autocast_enabled("cuda"):
            half = torch.get_autocast_dtype("cuda")
            args, kwargs = tree_map(lambda part: self._lower(part, half), (args, kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def _lower(part, half):
        return part.to(half) if isinstance(part, OnCUDA) and part.dtype in HALVED else part


class FakeCUDA(TorchDispatchMode):
    """While open, "cuda" is a device.

    Args:
        values: whether its tensors have values; else what is copied from it is 0.
        capability: of the card: (7, 5) is a T4, (8, 0) an A100.

    Attributes:
        waits: each time that the host waited for the device.
    """

    def __init__(self, *, values: bool = True, capability: tuple[int, int] = (8, 0)):
        super().__init__()
        self.values, self.capability, self.waits, self.stack = values, capability, [], contextlib.ExitStack()

    def __enter__(self) -> "FakeCUDA":
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        self.stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        for name, given in {
            "is_available": True, "is_initialized": False, "_lazy_init": None, "device_count": 1, "current_device": 0,
            "get_device_capability": self.capability, "is_bf16_supported": self.capability[0] >= 8, "synchronize": None,
            "get_device_properties": mock.Mock(total_memory=2**34),
            "max_memory_allocated": 0, "reset_peak_memory_stats": None,
            "mem_get_info": (2**34, 2**34),
            "current_stream": mock.MagicMock(), "Stream": mock.MagicMock(spec=torch.cuda.Stream),
            "stream": mock.MagicMock(),
        }.items():  # fmt: skip
            self.stack.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=given)))
        self.stack.enter_context(_Asked())
        stream = mock.Mock(is_capturing=mock.Mock(return_value=False))
        self.stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", mock.Mock(return_value=stream)))
        self.stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, device=None: tensor))
        self.stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is torch.ops.prim.device.default:
            return ELSEWHERE if isinstance(args[0], OnCUDA) else args[0].device
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        there = [isinstance(tensor, OnCUDA) for tensor in tensors]
        if not any(there) and (device is None or torch.device(device).type not in ("cuda", "meta")):
            return func(*args, **kwargs)
        if any(there) and func not in (*COPIES, *LOOKED_UP):
            strangers = [
                tuple(tensor.shape) for tensor, on in zip(tensors, there, strict=True) if not on and tensor.ndim
            ]
            if strangers:
                raise DeviceError(f"{func} mixes tensors on cuda with tensors on the CPU, of shapes {strangers}")
        self._watch(func, args, kwargs, device)
        to_host = device is not None and torch.device(device).type == "cpu"
        if device is not None:
            kwargs["device"] = "cpu" if self.values or to_host else "meta"
        if func is aten._local_scalar_dense.default and not self.values:
            return torch.zeros((), dtype=args[0].dtype).item()
        if not self.values and func in FUSED:
            return None
        if to_host and not self.values:
            return torch.zeros_like(args[0].held, device="cpu", dtype=kwargs.get("dtype"))
        if func is aten.copy_.default and not there[0] and not self.values:
            return args[0].zero_()

        def held(leaf):
            if isinstance(leaf, OnCUDA):
                return leaf.held
            return leaf.to("meta") if isinstance(leaf, Tensor) and not self.values else leaf

        outcome = func(*tree_map(held, args), **tree_map(held, kwargs))
        kept = {id(tensor.held): tensor for tensor, on in zip(tensors, there, strict=True) if on}  # what was changed
        own = {id(tensor): tensor for tensor, on in zip(tensors, there, strict=True) if not on}

        def returned(part):
            if not isinstance(part, Tensor) or to_host or id(part) in own:
                return part
            return kept[id(part)] if id(part) in kept else OnCUDA(part)

        return tree_map(returned, outcome)

    def _watch(self, func, args, kwargs, device) -> None:
        """Note an operation that the host must wait for."""
        if func in COPIES:
            source, target = (args[0], device or CUDA) if func is COPIES[0] else (args[1], args[0].device)
            ways = source.device.type, torch.device(target).type.replace("meta", "cuda")
            blocks = ways[0] != ways[1] and not (ways[1] == "cuda" and self._asynchronous(func, args, kwargs))
            blocks = blocks and not (ways[1] == "cuda" and source.ndim == 0 and func is COPIES[1])
            what = "copy to the host" if ways[1] == "cpu" else "copy to the device"
        elif func in LOOKED_UP:
            indices = [index for index in args[1] if index is not None]
            masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
            number = len(args) > 2 and args[2].ndim == 0 and masks and len(indices) == 1  # which a card does by filling
            blocks = (masks and not number) or any(not isinstance(index, OnCUDA) for index in indices)
            what = "index by a mask" if masks else "index by numbers on the CPU"
        else:
            blocks, what = func in WAITING, str(func)
        if blocks:
            ours = [
                f
                for f in traceback.extract_stack()
                if str(ROOT) in f.filename and "site-packages" not in f.filename and f.filename != __file__
            ]
            last = ours[-1] if ours else traceback.FrameSummary("elsewhere", 0, "")
            self.waits.append(Wait(what, Path(last.filename).name, last.name, last.line or ""))

    @staticmethod
    def _asynchronous(func, args, kwargs) -> bool:
        """Whether a copy was asked for without waiting."""
        return bool(kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
