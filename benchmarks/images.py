"""Augmented batches from images in memory, in images a second of one core.

    python benchmarks/images.py [--quick] [--device cuda]

One call is an epoch in batches of 64: mirrored, padded and cropped, normalised, erased. The floor gathers the batch
by `index_select`, makes it float and normalises it; the same with `bank[index]` stands beside it. The usual way decodes
a JPEG with Pillow and augments it with torchvision, one image after the other; with v2 the images are decoded already.
"""

import io
from functools import partial

import harness
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import v2

from reidkit.data.images import MEAN, STD, Augment, Images
from reidkit.data.samplers import Batches, PlainSampler

BATCH = 64
USUAL, BRACKETS = "Pillow + torchvision, one by one", "bank[index], float, normalise"


def pipeline(options: harness.Options, height: int, n: int, bars: dict[str, float]) -> harness.Row:
    """A row: the library, the floor and the usual ways, on n images."""
    n = 2 * BATCH if options.quick else n
    pixels = draw(n, height)
    jpegs = [jpeg(image) for image in pixels]
    bank = pixels.to(options.device)
    return harness.Row(
        f"{height}x{height // 2}, an epoch of {n:,} in batches of {BATCH}",
        {
            "reidkit": partial(by_library, bank),
            "floor: gather, float, normalise": partial(floor, bank, torch.index_select),
            BRACKETS: partial(floor, bank, lambda bank, _, index: bank[index]),
            USUAL: partial(one_by_one, jpegs, usual(height)),
            "torchvision v2, decoded": partial(one_by_one, pixels.unbind(), version_2(height)),
        },
        bars=bars,
        check=same_statistics,
        items=n,
    )


def draw(n: int, height: int) -> Tensor:
    """Smooth random images, which are as large as JPEG files as photographs are."""
    small = torch.rand(n, 3, height // 8, height // 16, generator=torch.Generator().manual_seed(1))
    return torch.cat(
        [
            F.interpolate(part, (height, height // 2), mode="bicubic").clamp_(0, 1).mul_(255).byte()
            for part in small.split(256)
        ]
    )


def jpeg(image: Tensor) -> bytes:
    """The image as a JPEG file, in memory."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=90)
    return file.getvalue()


def by_library(bank: Tensor) -> Tensor:
    """An epoch as the recipes see it; returns the last batch."""
    images = Images(bank, *torch.zeros(2, len(bank), dtype=torch.long, device=bank.device))
    for sample in Batches(
        images, images.pids, PlainSampler(len(bank), batch_size=BATCH), Augment(), device=bank.device
    ):
        batch = sample.images
    return batch


def floor(bank: Tensor, gather) -> None:
    """What every pipeline must do to a batch; like a training loop, it holds one while the next is made."""
    scale = torch.tensor([1 / (255 * s) for s in STD], device=bank.device).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], device=bank.device).view(3, 1, 1)
    for index in torch.randperm(len(bank)).to(bank.device).split(BATCH):
        batch = gather(bank, 0, index).float().mul_(scale).add_(shift)
    del batch


def usual(height: int) -> transforms.Compose:
    """From a JPEG file to a tensor, as most released code does it."""
    size, pad = (height, height // 2), round(10 * height / 256)
    return transforms.Compose(
        [
            lambda file: Image.open(io.BytesIO(file)).convert("RGB"),
            transforms.Resize(size),
            transforms.RandomHorizontalFlip(),
            transforms.Pad(pad),
            transforms.RandomCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            transforms.RandomErasing(0.5, scale=(0.02, 0.4), value=MEAN),
        ]
    )


def version_2(height: int) -> v2.Compose:
    """The same from a decoded image."""
    size, pad = (height, height // 2), round(10 * height / 256)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.Pad(pad),
            v2.RandomCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.5, scale=(0.02, 0.4), value=MEAN),
        ]
    )


def one_by_one(images: list, transform) -> Tensor:
    """Transform image after image and stack each batch; returns the last one."""
    for index in torch.randperm(len(images)).split(BATCH):
        batch = torch.stack([transform(images[i]) for i in index.tolist()])
    return batch


def same_statistics(ours: Tensor, theirs: Tensor) -> str:
    """Chance differs, so only mean and deviation of the last batch can agree."""
    pairs = ((batch.mean().item(), batch.std().item()) for batch in (ours, theirs))
    return harness.close(0.1, "mean and deviation")(*pairs)


def epochs(options: harness.Options) -> harness.Curve:
    """An epoch of ever more images."""
    sizes = [64, 128] if options.quick else [1_000, 2_000, 5_000, 10_000, 20_000, 30_000]

    def row(n: int) -> harness.Row:
        bank = draw(n, 128).to(options.device)
        ways = {
            "reidkit": partial(by_library, bank),
            "floor: gather, float, normalise": partial(floor, bank, torch.index_select),
        }
        return harness.Row(f"{n:,} images", ways, items=n)

    return harness.Curve("Images: an epoch at 128x64", "images", {n: partial(row, n) for n in sizes})


ROWS = {
    "128x64": partial(pipeline, height=128, n=2_048, bars={USUAL: 5, "floor": 1.43, BRACKETS: 0.7}),
    "256x128": partial(pipeline, height=256, n=1_024, bars={USUAL: 5, "floor": 1.43, BRACKETS: 0.7}),
    "growth": epochs,
}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
