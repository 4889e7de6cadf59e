"""Tensors that are made once and kept under `data/generators`: trained generators, and networks that variants share.

The name of a file says all that its content is made of, so that nothing which is kept is ever of something else.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from reidkit import code, files, runs


def kept(
    name: str, make: Callable[[Path], tuple[Mapping[str, Tensor], list]]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors and history that `make` gives: made once, and from then on read; who asks meanwhile waits.

    Args:
        name: of the file; another one for whatever would give other tensors, as `fingerprint` makes it.
        make: called with a folder for checkpoints, from which it goes on if it was killed.

    Raises:
        ValueError: the file is damaged.
    """
    folder = runs.ROOT / "data" / "generators" / name
    path = folder.with_suffix(".safetensors")
    with files.lock(folder.with_name(f".{name}.lock")):
        if not path.exists():
            tensors, rows = make(folder / "training")
            tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            files.write_bytes(path, save(tensors, metadata={"history": json.dumps(rows)}))
            shutil.rmtree(folder, ignore_errors=True)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, json.loads(file.metadata()["history"])
    except Exception:  # whatever is wrong with it, what to do is the same
        raise ValueError(f"{path} is damaged; delete it, and it is made again.") from None


def fingerprint(module: str, settings: Mapping[str, Any], *tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of all that something is made of: code, settings and tensors.

    Whether there is a GPU counts, too: it computes other bits.

    Args:
        module: the one that makes it, such as "reidkit.recipes.generators"; it counts with all that it imports.
        settings: the parameters that decide it.
        tensors: what it is made from.
    """
    made_of = [code.digest(module), settings, torch.cuda.is_available()]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().numpy())
    return digest.hexdigest()[:16]
