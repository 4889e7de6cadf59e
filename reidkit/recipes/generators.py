"""One DCGAN for each cluster of training images, which is trained once and used by all runs.

Source: A. Radford et al., DCGAN, ICLR 2016, with the settings that SLSR released.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit import parameters, runs
from reidkit.data.images import to_device
from reidkit.data.samplers import PlainSampler, epoch_generator
from reidkit.models.backbones import load_weights
from reidkit.models.dcgan import Generator, dcgan, from_pixels, to_pixels
from reidkit.parameters import parameter
from reidkit.progress import note
from reidkit.recipes.driver import device, fused
from reidkit.recipes.kept import fingerprint, kept
from reidkit.training import Cycle, fit

REFERENCE = runs.PACKAGE / "weights" / "generator.safetensors"  # made by tools/generator.py
REFERENCE_SHA256 = "4e33c53b0794b1436d673df31eb9322c0ce2f813e1c4eb835a6b027996cfc602"  # so other weights are other code
LATENT = 100  # length of the noise
UPDATES = 2  # of the generator for each one of the discriminator, from the same noise
SHOWN = 8  # noise vectors whose images are kept after every epoch
# the parameters that decide a generator, beside the images it learns from and the networks it starts as
DECISIVE = ("seed", "gan_batch", "gan_epochs", "gan_steps", "gan_lr", "gan_precision")


@dataclass(frozen=True, kw_only=True)
class Parameters(parameters.Parameters):
    """What the training of generators is made with."""

    gan_height: int = parameter(64, "pixels of generated images", low=2)
    gan_width: int = parameter(32, "pixels", low=2)
    gan_channels: int = parameter(32, "of the generator's last map; twice as many a stage before", low=1)
    gan_stages: int = parameter(3, "how often its map is doubled", low=1)
    gan_init: str = parameter(
        "reference",
        "reference: comes with the project; whole: one of all images first; scratch (ledger D1.8)",
        among=("reference", "whole", "scratch"),
    )
    gan_batch: int = parameter(16, "images in its batches", low=1)
    gan_epochs: int = parameter(3, "of gan_steps each", low=0)
    gan_steps: int = parameter(8, "of an epoch; 0: true passes over the cluster", low=0)
    gan_lr: float = parameter(2e-4, "Adam, beta1 0.5", above=0)
    gan_precision: str = parameter("auto", "auto, bf16, fp16, fp32", among=("auto", "bf16", "fp16", "fp32"))


class GANBatch(NamedTuple):
    """A batch of real images in -1 to 1, noise for as many others, and the epoch and step, both from 0."""

    images: Float[Tensor, "n 3 h w"]
    noise: Float[Tensor, "n z"]
    epoch: int
    step: int


class GANBatches:
    """Batches of real images in random order, each with noise; the last, smaller batch of a pass is left out.

    An epoch is one pass, or `steps` batches of as many passes as that takes.

    >>> batches = GANBatches(torch.zeros(6, 3, 8, 4, dtype=torch.uint8), batch_size=3, steps=3, seed=0)
    >>> [tuple(batch.noise.shape) for batch in batches]
    [(3, 100), (3, 100), (3, 100)]
    """

    def __init__(self, pixels: UInt8[Tensor, "n 3 h w"], *, batch_size: int, seed: int, steps: int = 0):
        sampler = PlainSampler(len(pixels), batch_size=min(batch_size, len(pixels)), seed=seed)
        self.order, self.pixels, self.seed = Cycle(sampler, steps or len(sampler)), pixels, seed

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the order and of the noise."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[GANBatch]:
        epoch, device = self.order.epoch, self.pixels.device
        rng = epoch_generator(self.seed, epoch, "noise")
        for step, positions in enumerate(self.order):
            z = to_device(noise(len(positions), rng=rng), device)
            rows = to_device(torch.tensor(positions), device)
            yield GANBatch(from_pixels(self.pixels.index_select(0, rows)), z, epoch, step)


class Snapshots(nn.Module):
    """What a generator makes of the same noise after every epoch.

    Attributes:
        noise: (8, z), fixed.
        images: (epochs + 1, 8, 3, h, w) bytes; the first before the training.
    """

    def __init__(self, epochs: int, size: tuple[int, int], *, seed: int):
        super().__init__()
        self.register_buffer("noise", noise(SHOWN, rng=epoch_generator(seed, 0, "film")))
        self.register_buffer("images", torch.zeros(epochs + 1, SHOWN, 3, *size, dtype=torch.uint8))

    def take(self, generator: Generator, epoch: int) -> None:
        """Keep the images that it generates now, before epoch `epoch`."""
        self.images[epoch] = generate(generator, self.noise)


class Trained(NamedTuple):
    """A generator with its discriminator, the snapshots of its training, and its history, one row per epoch."""

    model: nn.ModuleDict
    snapshots: UInt8[Tensor, "epochs_1 8 3 h w"]
    history: list[dict[str, Any]]


def gan_step(model: nn.ModuleDict, batch: GANBatch, *, snapshots: Snapshots) -> Iterator:
    r"""One step: the discriminator learns from real and generated images, then the generator learns to pass its test.

    $$ L_D = -\log D(x) - \log(1 - D(G(z))) \tag{gan-discriminator} $$
    $$ L_G = -\log D(G(z)) \tag{gan-generator} $$
    """
    generator, discriminator = model["generator"], model["discriminator"]
    if batch.step == 0:
        snapshots.take(generator, batch.epoch)
    generated = generator(batch.noise)
    real, other = discriminator(batch.images), discriminator(generated.detach())
    yield "discriminator", {"real": _bce(real, 1.0), "generated": _bce(other, 0.0)}  # [gan-discriminator]
    discriminator.requires_grad_(False)
    for update in range(UPDATES):
        generated = generator(batch.noise) if update else generated
        yield "generator", {"passed": _bce(discriminator(generated), 1.0)}  # [gan-generator]
    discriminator.requires_grad_(True)


def _bce(logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of logits whose images are all real (1) or all generated (0)."""
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, label, dtype=torch.float32))


def noise(n: int, *, rng: torch.Generator) -> Float[Tensor, "n z"]:
    """Noise for n images, uniform in -1 to 1."""
    return 2 * torch.rand(n, LATENT, generator=rng) - 1


@torch.no_grad()
def generate(generator: Generator, z: Float[Tensor, "n z"], *, batch_size: int = 256) -> UInt8[Tensor, "n 3 h w"]:
    """The images of some noise, batch normalisation as at test time; the mode is restored."""
    mode = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    pixels = torch.cat([to_pixels(generator(part.to(device))) for part in z.split(batch_size)])
    generator.train(mode)
    return pixels.cpu()


def sample(generator: Generator, n: int, *, seed: int) -> UInt8[Tensor, "n 3 h w"]:
    """Generate n images; more images of the same seed begin with the same ones."""
    return generate(generator, noise(n, rng=epoch_generator(seed, 0, "sample")))


def check(params: Parameters) -> None:
    """Refuse sizes that no generator can have, and a reference that does not fit them, before anything is trained."""
    with torch.random.fork_rng(devices=[]):
        (build_reference if params.gan_init == "reference" else build)(params)


def build_reference(params: Parameters) -> nn.ModuleDict:
    """The networks that come with the project."""
    reference = build(params)
    load_weights(reference, REFERENCE)
    return reference


def train_generators(
    params: Parameters, pixels: UInt8[Tensor, "n 3 h w"], clusters: Int64[Tensor, " n"], *, progress: bool = True
) -> list[Trained]:
    """A generator for each cluster, in order of their numbers, from the start that the parameter `gan_init` names.

    "scratch"; "whole": one that has learnt from all images first; "reference": the one that comes with the project,
    which has seen no image of this data set.

    Raises:
        ValueError: images of another size than the parameters say, or a reference that does not fit them.
    """
    train = functools.partial(train_generator, params, progress=progress)
    start = None
    if params.gan_init == "whole":
        start = train(pixels, title="all images").model.state_dict()
    elif params.gan_init == "reference":
        start = build_reference(params).state_dict()
    return [train(pixels[clusters == k], start=start, title=f"cluster {k}") for k in range(int(clusters.max()) + 1)]


def train_generator(
    params: Parameters, pixels: UInt8[Tensor, "n 3 h w"], *, title: str, start: Mapping[str, Tensor] | None = None,
    progress: bool = True
) -> Trained:  # fmt: skip
    """Train one generator, or read the one that was trained before with the same images, start and parameters.

    It is on the GPU if there is one. A killed training goes on where it was.
    """
    size = (params.gan_height, params.gan_width)
    if pixels.shape[2:] != size:
        raise ValueError(f"images are {tuple(pixels.shape[2:])} pixels, gan_height and gan_width say {size}.")
    runs.seed(params.seed)
    model = build(params)
    if start is not None:
        model.load_state_dict(start)
    settings = {name: getattr(params, name) for name in DECISIVE}
    name = fingerprint("reidkit.recipes.generators", settings, pixels, *model.state_dict().values())
    model = model.to(device())

    def make(checkpoint: Path) -> tuple[dict[str, Tensor], list]:
        note(f"generator of {title}: {len(pixels)} images", enabled=progress)
        snapshots = Snapshots(params.gan_epochs, size, seed=params.seed)
        rows = _train(params, model, pixels, snapshots, checkpoint, progress=progress)
        return model.state_dict() | {"snapshots": snapshots.images}, rows

    tensors, rows = kept(name, make)
    images = tensors.pop("snapshots")
    model.load_state_dict(tensors)
    return Trained(model, images, rows)


def _train(params, model, pixels, snapshots, checkpoint, *, progress) -> list[dict[str, Any]]:
    """The training itself."""
    pixels = pixels.to(next(model.parameters()).device)
    adam = functools.partial(torch.optim.Adam, lr=params.gan_lr, betas=(0.5, 0.999), **fused())
    history = fit(
        model,
        GANBatches(pixels, batch_size=params.gan_batch, steps=params.gan_steps, seed=params.seed),
        functools.partial(gan_step, snapshots=snapshots),
        epochs=params.gan_epochs,
        optimizers={name: adam(part.parameters()) for name, part in model.items()},
        state={"snapshots": snapshots},
        checkpoint=checkpoint,
        precision=params.gan_precision,
        progress=progress,
    )
    snapshots.take(model["generator"], params.gan_epochs)
    return history.rows


def build(params: Parameters) -> nn.ModuleDict:
    """The two networks of `params`."""
    size = (params.gan_height, params.gan_width)
    return dcgan(size, latent=LATENT, width=params.gan_channels, stages=params.gan_stages)
