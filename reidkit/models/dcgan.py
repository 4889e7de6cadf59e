"""DCGAN: a generator that makes images from noise, and a discriminator that tells them from real ones."""

import itertools

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

KERNEL = {"kernel_size": 5, "stride": 2, "padding": 2}  # doubles or halves height and width


class Generator(nn.Module):
    r"""Noise to images: a linear layer gives a small map, which transposed convolutions double.

    With the paper's size the maps are 512 x 8 x 8, 256 x 16 x 16, 128 x 32 x 32, 64 x 64 x 64 and 3 x 128 x 128.

    Args:
        size: height and width of the images in pixels, multiples of $2^{stages}$.
        latent: length of the noise.
        width: channels before the last layer; each layer below has twice as many.
        stages: how often the map is doubled.

    Raises:
        ValueError: a size that cannot be halved so often.

    Source: A. Radford et al., Unsupervised representation learning with DCGAN, ICLR 2016, as in the released code of
    SLSR (TensorFlow), whose padding differs by a pixel between the sides.

    >>> Generator((16, 8), width=4, stages=2)(torch.zeros(5, 100)).shape
    torch.Size([5, 3, 16, 8])
    """

    def __init__(self, size: tuple[int, int] = (128, 128), *, latent: int = 100, width: int = 64, stages: int = 4):
        super().__init__()
        channels = [width << stage for stage in reversed(range(stages))]
        self.latent, self.map = latent, (channels[0], *_smallest(size, stages))
        self.start = nn.Linear(latent, channels[0] * self.map[1] * self.map[2])
        layers = [nn.BatchNorm2d(channels[0]), nn.ReLU()]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.ConvTranspose2d(inputs, outputs, output_padding=1, **KERNEL), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU()]
        self.grow = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, output_padding=1, **KERNEL), nn.Tanh())
        self.apply(_start)

    def forward(self, noise: Float[Tensor, "n z"]) -> Float[Tensor, "n 3 h w"]:
        """Generate images, -1 to 1, from noise in -1 to 1."""
        return self.grow(self.start(noise).unflatten(1, self.map))


class Discriminator(nn.Module):
    """Images to a logit, high where they seem real: convolutions that halve the map, and a linear layer.

    Args:
        size: height and width of the images in pixels, multiples of $2^{stages}$.
        width: channels after the first layer; each next one has twice as many.
        stages: how often the map is halved.

    Raises:
        ValueError: a size that cannot be halved so often.

    Source: as `Generator`; the paper prints ReLU, the released code has the leaky one (D1.7).

    >>> Discriminator((16, 8), width=4, stages=2)(torch.zeros(5, 3, 16, 8)).shape
    torch.Size([5, 1])
    """

    def __init__(self, size: tuple[int, int] = (128, 128), *, width: int = 64, stages: int = 4):
        super().__init__()
        channels = [width << stage for stage in range(stages)]
        layers = [nn.Conv2d(3, width, **KERNEL), nn.LeakyReLU(0.2)]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, **KERNEL), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        rows, columns = _smallest(size, stages)
        self.shrink = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * rows * columns, 1))
        self.apply(_start)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1"]:
        """Say how real images in -1 to 1 seem."""
        return self.shrink(images)


def dcgan(size: tuple[int, int], *, latent: int = 100, width: int = 64, stages: int = 4) -> nn.ModuleDict:
    """Both networks, as `generator` and `discriminator`; arguments as in `Generator`."""
    generator = Generator(size, latent=latent, width=width, stages=stages)
    return nn.ModuleDict({"generator": generator, "discriminator": Discriminator(size, width=width, stages=stages)})


def to_pixels(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Bytes, 0 to 255, of images in -1 to 1.

    >>> to_pixels(torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 1, 3))[0, 0]
    tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_pixels(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Images in -1 to 1 of bytes, as the networks know them."""
    return pixels.float() / 127.5 - 1


def _smallest(size: tuple[int, int], stages: int) -> tuple[int, int]:
    """Height and width of the smallest map."""
    if stages < 1 or min(size) < 1 or any(side % 2**stages for side in size):
        raise ValueError(f"{size[0]}x{size[1]} pixels cannot be halved {stages} times; take multiples of {2**stages}.")
    return size[0] >> stages, size[1] >> stages


def _start(module: nn.Module) -> None:
    """The released start: N(0, 0.02), for the discriminator's convolutions without what is beyond two deviations."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    elif isinstance(module, nn.Linear | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.zeros_(module.bias)
