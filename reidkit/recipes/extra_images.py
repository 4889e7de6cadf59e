"""Images beside the training set, generated or not, and batches in which they are mixed with it."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from reidkit.data.images import Augment, Images, to_device
from reidkit.data.samplers import PlainSampler, epoch_generator
from reidkit.recipes.generators import Trained, sample

FILL = (0.4914, 0.4822, 0.4465)  # written by random erasing: CIFAR's mean, as released


class Mixed(NamedTuple):
    """A batch of real and extra images.

    Attributes:
        images: (b, 3, h, w) augmented and normalised.
        labels: (b,) identities, 0 to C - 1; of no meaning where generated.
        generated: (b,) whether an image has no identity of its own.
        clusters: (b,) the cluster of a generated image; of no meaning elsewhere.
        indices: (b,) positions among all images, the real ones first.
    """

    images: Float[Tensor, "b 3 h w"]
    labels: Int64[Tensor, " b"]
    generated: Bool[Tensor, " b"]
    clusters: Int64[Tensor, " b"]
    indices: Int64[Tensor, " b"]


class Extra(NamedTuple):
    """Images that are learnt from beside the training set; the other fields as in `Mixed`."""

    pixels: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    generated: Bool[Tensor, " n"]
    clusters: Int64[Tensor, " n"]


def find_extra(
    kind: str, n: int, images: Images, labels: Int64[Tensor, " n"], clusters: Int64[Tensor, " n"],
    generators: Sequence[Trained], *, generated: bool, seed: int
) -> Extra:  # fmt: skip
    """The extra images of a run.

    Args:
        kind: "none"; "generated", as many by each cluster's generator; "wrong_clusters", the same with another cluster
            each, at random; "copies" of training images; "wrong_identities", the same with an identity each, at
            random; "noise", every byte at random, and the cluster too.
        n: how many.
        images, labels, clusters: to learn from.
        generators: one for each cluster, where images are generated.
        generated: whether the extra images count as generated, which have no identity of their own.
        seed: of everything random.
    """
    rng, size = epoch_generator(seed, 0, "extra"), images.pixels.shape[2:]

    def of_generators() -> tuple[Tensor, ...]:
        pixels, numbers = generate_balanced(generators, n, seed=seed, rng=rng)
        return resize(pixels, size), torch.zeros(n, dtype=torch.long), numbers

    def wrong_clusters() -> tuple[Tensor, ...]:
        pixels, nobody, numbers = of_generators()
        return pixels, nobody, (numbers + torch.randint(1, len(generators), (n,), generator=rng)) % len(generators)

    def copies() -> tuple[Tensor, ...]:
        rounds = [torch.randperm(len(images), generator=rng) for _ in range(n // len(images) + 1)]
        rows = torch.cat(rounds)[:n]
        return images.pixels[rows], labels[rows], clusters[rows]

    def wrong_identities() -> tuple[Tensor, ...]:
        pixels, _, numbers = copies()
        return pixels, torch.randint(int(labels.max()) + 1, (n,), generator=rng), numbers

    def noise() -> tuple[Tensor, ...]:
        pixels = torch.randint(256, (n, 3, *size), generator=rng, dtype=torch.uint8)
        numbers = torch.randint(int(clusters.max()) + 1, (n,), generator=rng)
        return pixels, torch.zeros(n, dtype=torch.long), numbers

    def none() -> tuple[Tensor, ...]:
        return images.pixels[:0], labels[:0], labels[:0]

    kinds = {made.__name__: made for made in (none, wrong_clusters, copies, wrong_identities, noise)}
    pixels, names, numbers = (kinds | {"generated": of_generators})[kind]()
    return Extra(pixels, names, torch.full((len(names),), generated), numbers)


def generate_balanced(
    generators: Sequence[Trained], n: int, *, seed: int, rng: torch.Generator
) -> tuple[UInt8[Tensor, "n 3 h w"], Int64[Tensor, " n"]]:
    """Generate n images, about as many by each generator: floor(n / K) + 1 each, shuffled, and the last ones left out.

    Returns:
        The images, and the number of the generator of each.

    Source: released code (utils.py, get_gan_data).
    """
    each = n // len(generators) + 1
    pixels = [sample(one.model["generator"], each, seed=1000 * seed + k) for k, one in enumerate(generators)]
    keep = torch.randperm(each * len(generators), generator=rng)[:n]
    return torch.cat(pixels)[keep], torch.arange(len(generators)).repeat_interleave(each)[keep]


def resize(pixels: UInt8[Tensor, "n 3 h w"], size: Sequence[int]) -> UInt8[Tensor, "n 3 i j"]:
    """Enlarge or reduce images, bilinearly and smoothed where they shrink."""
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    resized = functools.partial(F.interpolate, size=tuple(size), mode="bilinear", antialias=True)
    return torch.cat([resized(part.float()).round().clamp(0, 255).byte() for part in pixels.split(512)])


class MixedBatches:
    """Real and extra images in one shuffled order, cropped at random, mirrored, normalised and erased.

    Args:
        pixels, labels: real images and their identities.
        extra: what is mixed with them.
        window: height and width of the crops.
        erase: probability of random erasing.
        batch_size: of real and extra images together.
        seed: of order and augmentation.
        device: where images are kept, and batches are made.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, extra: Extra, *, window: tuple[int, int], erase: float, batch_size: int,
        seed: int, device: str
    ):  # fmt: skip
        n = len(labels)
        self.pixels = torch.cat([pixels, extra.pixels]).to(device)
        self.rows = [
            torch.cat([real, more]).to(device)
            for real, more in (
                (labels, extra.labels),
                (torch.zeros(n, dtype=torch.bool), extra.generated),
                (torch.zeros(n, dtype=torch.long), extra.clusters),
            )
        ]
        self.window, self.seed, self.epoch = window, seed, 0
        self.augment = Augment(pad=0, erase=erase, fill=FILL)
        self.sampler = PlainSampler(len(self.pixels), batch_size=batch_size, seed=seed)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the order and of the augmentation."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Mixed]:
        rng, device = epoch_generator(self.seed, self.epoch, "augment"), self.pixels.device
        for positions in self.sampler:
            indices = to_device(torch.tensor(positions), device)
            pixels = crop(self.pixels.index_select(0, indices), self.window, generator=rng)
            yield Mixed(self.augment(pixels, generator=rng), *(row[indices] for row in self.rows), indices)


def crop(pixels: UInt8[Tensor, "n 3 h w"], size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """Cut a window of `size` out of each image, at random places.

    Raises:
        ValueError: the window is larger than the images.

    >>> crop(torch.arange(4, dtype=torch.uint8).expand(1, 3, 1, 4), (1, 4), generator=torch.Generator())[0, 0]
    tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    """
    (height, width), (n, _, high, wide) = size, pixels.shape
    if height > high or width > wide:
        raise ValueError(f"a window of {height}x{width} does not fit {high}x{wide} pixels; make the crop smaller.")
    device = pixels.device
    corners = [torch.randint(room + 1, (n, 1), generator=generator) for room in (high - height, wide - width)]
    top, left = to_device(torch.stack(corners), device)
    lines, columns = top + torch.arange(height, device=device), left + torch.arange(width, device=device)
    every, channel = torch.arange(n, device=device)[:, None, None, None], torch.arange(3, device=device)[:, None, None]
    return pixels[every, channel, lines[:, None, :, None], columns[:, None, None]]
