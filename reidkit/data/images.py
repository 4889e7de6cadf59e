"""Images in RAM as bytes, and everything done to them before a network sees them.

A training set of tens of thousands of person crops fits in memory, so it is decoded once. A batch is then gathered,
augmented and normalised in one pass, on whatever device it lies; no worker processes are needed.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from reidkit.blocks import row_blocks
from reidkit.data.pixels import UnreadKindError, read_rgb
from reidkit.data.records import Record
from reidkit.progress import track

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, red, green, blue, in units of full brightness
STD = (0.229, 0.224, 0.225)
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, eq=False)
class Images:
    """A bank of decoded images with their labels.

    Attributes:
        pixels: (n, 3, h, w), red, green, blue, 0 to 255.
        pids: (n,) identities as on disk.
        camids: (n,) cameras from 0.

    >>> bank = Images(torch.zeros(5, 3, 4, 2, dtype=torch.uint8), torch.arange(5), torch.zeros(5, dtype=torch.long))
    >>> len(bank), bank[bank.pids > 2].pids.tolist()
    (5, [3, 4])
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    pids: Int64[Tensor, " n"]
    camids: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.pids)

    def __getitem__(self, index) -> "Images":
        """Take some of the images; `index` is a slice, a list, or a tensor of positions or of truth values."""
        if isinstance(index, Sequence):
            index = torch.tensor(index, dtype=None if index else torch.long, device=self.pids.device)
        return Images(self.pixels[index], self.pids[index], self.camids[index])

    def to(self, device: str | torch.device) -> "Images":
        """Move the bank to a device; a bank that is there already is not copied."""
        return Images(self.pixels.to(device), self.pids.to(device), self.camids.to(device))


def load(
    records: Sequence[Record], size: tuple[int, int], *, resize: str = "bilinear", progress: bool = False
) -> Images:
    """Decode and resize (with antialiasing, as Pillow does) every record into memory, or what is too much for it into a
    file without a name in the folder for temporary files, from where pixels are read as they are wanted.

    Each is upright and RGB, what is transparent white; see `pixels.read_rgb`. A JPEG at least four times too large is
    decoded at a reduced scale that is still twice the wanted size, which changes a pixel by a grey level or two and
    saves most of the time.

    Args:
        records: what to read, in this order.
        size: height and width in pixels.
        resize: "bilinear" or "bicubic".
        progress: show a bar where somebody watches.

    Returns:
        The bank, on the CPU.

    Raises:
        ValueError: a file cannot be read as an image (it is named), or the bank would take more than 80 % of the free
            memory and more than is free on the disk.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size is (height, width) in pixels, at least (1, 1), not {size}.")
    pixels = _room(len(records), height, width)

    def read(row: int) -> None:
        pixels[row] = decode(records[row].path, (height, width), resize).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter while it decodes
        done = pool.map(read, range(len(records)))
        for _ in track(done, title="reading images", total=len(records), enabled=progress):
            pass
    pids, camids = (torch.tensor([getattr(r, field) for r in records], dtype=torch.long) for field in ("pid", "camid"))
    return Images(torch.from_numpy(pixels), pids, camids)


def decode(path: Path, size: tuple[int, int], resize: str = "bilinear") -> UInt8[np.ndarray, "h w 3"]:
    """Read one image file as RGB at `size` (height, width), a key of `RESAMPLING` says how.

    Raises:
        ValueError: the file is missing, cut short, no image, of a kind that is not read, or may not be read; the
            sentence names it.
    """
    height, width = size
    try:
        rgb = read_rgb(path, size)
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give yourself the right to read it.") from error
    except UnreadKindError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); replace the file or remove it.") from error
    return np.asarray(rgb if rgb.size == (width, height) else rgb.resize((width, height), RESAMPLING[resize]))


def _room(n: int, height: int, width: int) -> UInt8[np.ndarray, "n 3 h w"]:
    """Memory for n images; where that is too small, a file that is gone with the last that reads it."""
    shape, needed, free = (n, 3, height, width), 3 * n * height * width, available_memory()
    if needed <= 0.8 * free:
        return np.empty(shape, np.uint8)
    folder = tempfile.gettempdir()
    if needed > (left := shutil.disk_usage(folder).free):
        raise ValueError(
            f"{n} images of {height}x{width} take {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB of memory are free and "
            f"{left / 1e9:.1f} GB in {folder}; choose a smaller size or fewer images, or set TMPDIR."
        )
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def available_memory() -> int:
    """Bytes of memory that can be had without swapping (all memory on systems that do not say how much is free).

    >>> available_memory() > 0
    True
    """
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fits_on_card(images: Images, device: str | torch.device) -> bool:
    """Whether a device is a CUDA device, and a bank takes at most a quarter of the memory that is free on it."""
    return torch.device(device).type == "cuda" and 4 * images.pixels.nbytes <= torch.cuda.mem_get_info(device)[0]


def to_device(tensor: Shaped[Tensor, "..."], device: str | torch.device) -> Shaped[Tensor, "..."]:
    """The tensor on a device; from the host to a card by way of pinned memory, so that the host does not wait.

    >>> to_device(torch.ones(2), "cpu")
    tensor([1., 1.])
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def identity_labels(pids: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " n"], int]:
    """Number the identities from 0, in the order of their pids.

    Args:
        pids: (n,) identities as on disk, any integers.

    Returns:
        labels (n,), 0 to C - 1, and C.

    >>> identity_labels(torch.tensor([7, 2, 7, 30]))
    (tensor([1, 0, 1, 2]), 3)
    """
    known, labels = torch.unique(pids, return_inverse=True)
    return labels, len(known)


def normalise(
    pixels: Shaped[Tensor, "n 3 h w"], *, out: Float[Tensor, "n 3 h w"] | None = None
) -> Float[Tensor, "n 3 h w"]:
    r"""Scale brightness to zero mean and unit deviation over ImageNet: $(x / 255 - \mu) / \sigma$.

    Args:
        pixels: 0 to 255, bytes or float32.
        out: float32, written over instead of new memory.

    Returns:
        float32, about -2.1 to 2.7.

    >>> normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    tensor([2.2489, 2.4286, 2.6400])
    """
    scale = _per_channel([1 / (255 * std) for std in STD], pixels.device)
    shift = _per_channel([-mean / std for mean, std in zip(MEAN, STD, strict=True)], pixels.device)
    out = torch.empty_like(pixels, dtype=torch.float32) if out is None else out
    return out.copy_(pixels).mul_(scale).add_(shift)


def _per_channel(values: Sequence[float], device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Three numbers where they are used: filled in there, as a copy would make the host wait."""
    return torch.cat([torch.full((1, 1, 1), value, device=device) for value in values])


class AugmentParams(NamedTuple):
    """The random parameters of a batch of n images: all that is random about `Augment`.

    Attributes:
        flip: whether the image is mirrored.
        down, right: how far the padded image is shifted, in pixels, -pad to pad.
        crop: box (top, left, height, width) that is stretched to the whole image.
        erase: box that is overwritten; of height and width 0 where nothing is.
    """

    flip: Bool[Tensor, " n"]
    down: Int64[Tensor, " n"]
    right: Int64[Tensor, " n"]
    crop: Int64[Tensor, "n 4"]
    erase: Int64[Tensor, "n 4"]


@dataclass(frozen=True)
class Augment:
    r"""Crop, mirror, shift, normalise and erase a batch at random.

    In this order: with probability `rect_crop` a box of 64 to 100 % of the area and 2 to 3 times as high as wide is
    stretched to the whole image; with probability `flip` left and right are exchanged; the image is framed by `pad`
    black pixels and a window of the old size is cut out anywhere; it is normalised; with probability `erase` a box of 2
    to 40 % of the area is overwritten by `fill`.

    The parameters are drawn on the CPU for the whole batch at once, so a seed gives the same images on every device up
    to the rounding of floats. On the CPU each image is shifted by one copy of a slice; elsewhere the batch is one
    gather.

    Args:
        flip: probability, 0 to 1.
        pad: pixels at height 256; scaled in proportion for other heights (5 at 128).
        rect_crop: probability, 0 to 1. The one-shot recipes use 1, with `pad=0` and `erase=0`.
        erase: probability, 0 to 1.
        fill: three numbers written *after* normalisation. The released code writes ImageNet's mean there, as if the
            image were not normalised yet; so does this default.

    Raises:
        ValueError: a probability outside 0 to 1, a negative pad.

    Source: released code of Ranked_Person_ReID (flip, pad, erase) and One-Example-Person-ReID (rectangular crop); Z.
    Zhong et al., Random Erasing Data Augmentation, AAAI 2020.

    >>> batch = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    >>> Augment()(batch, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 64, 32])
    """

    flip: float = 0.5
    pad: float = 10
    rect_crop: float = 0.0
    erase: float = 0.5
    fill: tuple[float, float, float] = MEAN

    def __post_init__(self):
        for name in ("flip", "rect_crop", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, not {getattr(self, name)}.")
        if self.pad < 0:
            raise ValueError(f"pad is a number of pixels, at least 0, not {self.pad}.")

    def __call__(self, pixels: UInt8[Tensor, "n 3 h w"], *, generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
        """Augment and normalise a batch.

        Args:
            pixels: 0 to 255; left as they are.
            generator: of the random parameters, on the CPU.

        Returns:
            float32, on the device of `pixels`.
        """
        n, _, height, width = pixels.shape
        params = self.draw(n, height, width, generator=generator)
        apply = self.apply_on_cpu if pixels.device.type == "cpu" else self.apply_on_device
        return apply(pixels, params)

    def draw(self, n: int, height: int, width: int, *, generator: torch.Generator) -> AugmentParams:
        """Draw the parameters of n images of one size."""
        pad = round(self.pad * height / 256)
        probabilities = torch.tensor([self.flip, self.rect_crop, self.erase])
        flip, crops, erases = torch.rand(3, n, generator=generator) < probabilities[:, None]
        down, right = torch.randint(-pad, pad + 1, (2, n), generator=generator)
        crop = torch.tensor([0, 0, height, width]).repeat(n, 1)
        if self.rect_crop:
            crop = torch.where(crops[:, None], rect_crop_boxes(n, height, width, generator=generator), crop)
        erase = torch.zeros(n, 4, dtype=torch.long)
        if self.erase:
            erase = erasing_boxes(n, height, width, generator=generator) * erases[:, None]
        return AugmentParams(flip, down, right, crop, erase)

    def apply_on_cpu(self, pixels: UInt8[Tensor, "n 3 h w"], params: AugmentParams) -> Float[Tensor, "n 3 h w"]:
        """Augment by one slice copy per image (NumPy's, which start faster than PyTorch's).

        A few images at a time, so that all steps but the last find them in the processor's cache.
        """
        pixels = stretch(pixels, params.crop) if self.rect_crop else pixels
        batch = torch.empty_like(pixels, dtype=torch.float32)
        fill = np.array(self.fill, np.float32)[:, None, None]
        moves, boxes = list(zip(*(x.tolist() for x in params[:3]), strict=True)), params.erase.tolist()
        for rows in row_blocks(len(pixels), pixels[:1].nbytes, budget=2**20):
            part, done = pixels[rows], batch[rows]
            plain, mirrored, moved = part.numpy(), part.flip(3).numpy(), torch.zeros_like(part)
            for before, mirror, after, (flip, down, right) in zip(
                plain, mirrored, moved.numpy(), moves[rows], strict=True
            ):
                to_rows, from_rows = _overlap(down)
                to_columns, from_columns = _overlap(right)
                after[:, to_rows, to_columns] = (mirror if flip else before)[:, from_rows, from_columns]
            normalise(moved, out=done)
            for image, (top, left, height, width) in zip(done.numpy(), boxes[rows], strict=True):
                if height:
                    image[:, top : top + height, left : left + width] = fill
        return batch

    def apply_on_device(self, pixels: UInt8[Tensor, "n 3 h w"], params: AugmentParams) -> Float[Tensor, "n 3 h w"]:
        """Augment by one gather, without host-device synchronisation."""
        n, _, height, width = pixels.shape
        device = pixels.device
        numbers = torch.cat([torch.stack(params[:3], 1), *params[3:]], 1)  # in one copy
        flip, down, right, crop, erase = to_device(numbers, device).split([1, 1, 1, 4, 4], 1)
        if self.rect_crop:
            pixels = stretch(pixels, crop)
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        from_rows, from_columns = rows - down, columns - right  # (n, h), (n, w)
        inside = _outer(_within(from_rows, 0, height), _within(from_columns, 0, width))
        from_columns = torch.where(flip.bool(), width - 1 - from_columns, from_columns).clamp(0, width - 1)
        from_rows = from_rows.clamp(0, height - 1)
        image = torch.arange(n, device=device)[:, None, None]
        moved = pixels[image, :, from_rows[:, :, None], from_columns[:, None, :]].permute(0, 3, 1, 2)
        batch = normalise(moved * inside)
        top, left, high, wide = erase[:, :, None].unbind(1)
        box = _outer(_within(rows, top, top + high), _within(columns, left, left + wide))
        return torch.where(box, _per_channel(self.fill, device), batch)


@cache
def _overlap(shift: int) -> tuple[slice, slice]:
    """For a line shifted by `shift`: the slice that is written, and the slice of the old line that is read."""
    return slice(max(shift, 0), min(shift, 0) or None), slice(max(-shift, 0), min(-shift, 0) or None)


def _within(values: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    return (values >= low) & (values < high)


def _outer(rows: Bool[Tensor, "n h"], columns: Bool[Tensor, "n w"]) -> Bool[Tensor, "n 1 h w"]:
    return rows[:, None, :, None] & columns[:, None, None, :]


def erasing_boxes(n: int, height: int, width: int, *, generator: torch.Generator) -> Int64[Tensor, "n 4"]:
    """Draw the boxes of random erasing: area 2-40 %, height/width 0.3-1/0.3, strictly smaller than the image.

    Args:
        n: how many boxes.
        height, width: of the image, in pixels.

    Returns:
        (n, 4) top, left, height, width; height and width are 0 where 100 tries found no box that fits.

    Source: Z. Zhong et al., AAAI 2020; released code of Ranked_Person_ReID.

    >>> erasing_boxes(500, 64, 32, generator=torch.Generator().manual_seed(0))[:, 3].max() < 32
    tensor(True)
    """
    boxes, found = _draw_boxes(n, (height, width), (0.02, 0.4), (0.3, 1 / 0.3), rounds=10, slack=1, generator=generator)
    return boxes * found[:, None]


def rect_crop_boxes(n: int, height: int, width: int, *, generator: torch.Generator) -> Int64[Tensor, "n 4"]:
    """Draw the boxes of the rectangular crop: area 64-100 %, height/width 2-3, inside the image.

    Args:
        n: how many boxes.
        height, width: of the image, in pixels.

    Returns:
        (n, 4) top, left, height, width; the whole image where 10 tries found no box that fits.

    Source: released code of One-Example-Person-ReID.

    >>> rect_crop_boxes(1, 64, 64, generator=torch.Generator().manual_seed(0))
    tensor([[ 0,  0, 64, 64]])
    """
    boxes, found = _draw_boxes(n, (height, width), (0.64, 1.0), (2.0, 3.0), rounds=1, slack=0, generator=generator)
    return torch.where(found[:, None], boxes, torch.tensor([0, 0, height, width]))


def _draw_boxes(n, size, area, aspect, *, rounds, slack, generator) -> tuple[Tensor, Tensor]:
    """Draw boxes of random area (as a fraction) and aspect (height/width) at random places, and whether they fit.

    The box of an image is the first of 10 x `rounds` tries that leaves `slack` pixels in both directions. Ten tries are
    drawn for all images at once; further rounds only happen where some image has no box yet.
    """
    size = np.array(size)
    boxes, found = np.zeros((n, 4), np.int64), np.zeros(n, bool)
    for _ in range(rounds):
        uniform = torch.rand(
            2, n, 10, dtype=torch.float64, generator=generator
        ).numpy()  # small arrays: NumPy starts faster
        areas = (area[0] + (area[1] - area[0]) * uniform[0]) * size.prod()
        aspects = aspect[0] + (aspect[1] - aspect[0]) * uniform[1]
        sides = np.sqrt(np.stack([areas * aspects, areas / aspects], -1)).round().astype(np.int64)  # (n, 10, 2)
        fits = ((sides >= 1) & (sides <= size - slack)).all(-1)
        sides = sides[np.arange(n), fits.argmax(1)]  # of equal values, argmax takes the first
        places = torch.rand(n, 2, dtype=torch.float64, generator=generator).numpy() * (size - sides + 1)
        boxes = np.where(found[:, None], boxes, np.hstack([np.floor(places).astype(np.int64), sides]))
        found |= fits.any(1)
        if found.all():
            break
    return torch.from_numpy(boxes), torch.from_numpy(found)


def stretch(pixels: Shaped[Tensor, "n 3 h w"], boxes: Int64[Tensor, "n 4"]) -> Float[Tensor, "n 3 h w"]:
    """Stretch a box (top, left, height, width) of each image to the whole image, bilinearly; edges repeat.

    Returns:
        float32, 0 to 255.

    >>> ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    >>> stretch(ramp, torch.tensor([[0, 1, 4, 2]]))[0, 0, 0]
    tensor([1.0000, 1.2500, 1.7500, 2.0000])
    """
    height, width = pixels.shape[2:]
    top, left, high, wide = boxes[:, :, None].float().unbind(1)
    y = _centres(height, high, device=pixels.device) + top
    x = _centres(width, wide, device=pixels.device) + left
    x, y = 2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return F.grid_sample(pixels.float(), grid, align_corners=True)


def _centres(n: int, length: Tensor, *, device: torch.device) -> Tensor:
    """Centres of n equal cells that share `length` pixels, held within the first and the last pixel's centre."""
    centres = (torch.arange(n, device=device) + 0.5) * length / n - 0.5
    return torch.minimum(centres.clamp(min=0), length - 1)
