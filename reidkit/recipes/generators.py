"""One DCGAN for each cluster of training images: trained once, kept by what it was made of, and drawn from by all runs.

Source: A. Radford et al., DCGAN, ICLR 2016, with the settings that SLSR released.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit import files, runs
from reidkit.data.samplers import PlainSampler, epoch_generator
from reidkit.models.backbones import load_weights
from reidkit.models.dcgan import Generator, dcgan, from_pixels, to_pixels
from reidkit.progress import note
from reidkit.training import Cycle, fit

REFERENCE = Path("data/weights/generator.safetensors")  # made by tools/generator.py
KEPT = Path("data/generators")
LATENT = 100  # length of the noise
UPDATES = 2  # of the generator for each one of the discriminator, from the same noise
FRAMES = 8  # noise vectors whose images are looked at after every epoch
# what decides a generator, beside the images it learns from and the networks it starts with: parameters, and code
MADE_OF = ("gan_batch", "gan_epochs", "gan_steps", "gan_lr", "gan_precision")
MADE_BY = ("recipes/generators", "models/dcgan", "models/precision", "data/samplers", "training")


class Drawn(NamedTuple):
    """A batch of real images in -1 to 1, noise for as many others, and the epoch and step, both from 0."""

    images: Float[Tensor, "n 3 h w"]
    noise: Float[Tensor, "n z"]
    epoch: int
    step: int


class Draws:
    """Batches of real images in random order, each with noise; the last, smaller batch of a pass is left out.

    An epoch is one pass, or `steps` batches of as many passes as that takes.

    >>> draws = Draws(torch.zeros(6, 3, 8, 4, dtype=torch.uint8), batch_size=3, steps=3, seed=0)
    >>> [tuple(drawn.noise.shape) for drawn in draws]
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

    def __iter__(self) -> Iterator[Drawn]:
        epoch, device = self.order.epoch, self.pixels.device
        generator = epoch_generator(self.seed, epoch, "noise")
        for step, positions in enumerate(self.order):
            z = noise(len(positions), generator=generator).to(device, non_blocking=True)
            rows = torch.tensor(positions).to(device, non_blocking=True)
            yield Drawn(from_pixels(self.pixels.index_select(0, rows)), z, epoch, step)


class Film(nn.Module):
    """What a generator draws from the same noise after every epoch.

    Attributes:
        noise: (8, z), fixed.
        frames: (epochs + 1, 8, 3, h, w) bytes; the first before the training.
    """

    def __init__(self, epochs: int, size: tuple[int, int], *, seed: int):
        super().__init__()
        self.register_buffer("noise", noise(FRAMES, generator=epoch_generator(seed, 0, "film")))
        self.register_buffer("frames", torch.zeros(epochs + 1, FRAMES, 3, *size, dtype=torch.uint8))

    def shoot(self, generator: Generator, epoch: int) -> None:
        """Keep what it draws now as frame `epoch`."""
        self.frames[epoch] = draw(generator, self.noise)


class Trained(NamedTuple):
    """A generator with its discriminator, the film of its training, and its history, one row an epoch."""

    model: nn.ModuleDict
    film: UInt8[Tensor, "epochs_1 8 3 h w"]
    history: list[dict[str, Any]]


def gan_step(model: nn.ModuleDict, batch: Drawn, *, film: Film) -> Iterator:
    r"""One step: the discriminator learns from real and drawn images, then the generator learns to pass its test.

    $$ L_D = -\log D(x) - \log(1 - D(G(z))) \tag{gan-discriminator} $$
    $$ L_G = -\log D(G(z)) \tag{gan-generator} $$
    """
    generator, discriminator = model["generator"], model["discriminator"]
    if batch.step == 0:
        film.shoot(generator, batch.epoch)
    drawn = generator(batch.noise)
    real, other = discriminator(batch.images), discriminator(drawn.detach())
    yield "discriminator", {"real": _judged(real, 1.0), "drawn": _judged(other, 0.0)}  # [gan-discriminator]
    discriminator.requires_grad_(False)
    for update in range(UPDATES):
        drawn = generator(batch.noise) if update else drawn
        yield "generator", {"passed": _judged(discriminator(drawn), 1.0)}  # [gan-generator]
    discriminator.requires_grad_(True)


def _judged(logits: Tensor, truth: float) -> Tensor:
    """Cross-entropy of logits whose images are all real (1) or all drawn (0)."""
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, truth, dtype=torch.float32))


def noise(n: int, *, generator: torch.Generator) -> Float[Tensor, "n z"]:
    """Draw noise, uniform in -1 to 1."""
    return 2 * torch.rand(n, LATENT, generator=generator) - 1


@torch.no_grad()
def draw(generator: Generator, z: Float[Tensor, "n z"], *, batch_size: int = 256) -> UInt8[Tensor, "n 3 h w"]:
    """The images of some noise, batch normalisation as at test time; the mode is restored."""
    mode = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    pixels = torch.cat([to_pixels(generator(part.to(device))) for part in z.split(batch_size)])
    generator.train(mode)
    return pixels.cpu()


def sample(generator: Generator, n: int, *, seed: int) -> UInt8[Tensor, "n 3 h w"]:
    """Draw n images; more images of the same seed begin with the same ones."""
    return draw(generator, noise(n, generator=epoch_generator(seed, 0, "sample")))


def train_generators(
    params: Mapping[str, Any], pixels: UInt8[Tensor, "n 3 h w"], clusters: Int64[Tensor, " n"], *, progress: bool = True
) -> list[Trained]:
    """A generator for each cluster, in order of their numbers, from the start that the parameter `gan_init` names.

    "scratch"; "whole": one that has learnt from all images first; "reference": the one that comes with the project,
    which has seen no image of this data set.

    Raises:
        ValueError: images of another size than the parameters say, or a reference that does not fit them.
    """
    train = functools.partial(train_generator, params, seed=params["seed"], progress=progress)
    start = None
    if params["gan_init"] == "whole":
        start = train(pixels, title="all images").model.state_dict()
    elif params["gan_init"] == "reference":
        reference = build(params)
        load_weights(reference, runs.ROOT / REFERENCE)
        start = reference.state_dict()
    return [train(pixels[clusters == k], start=start, title=f"cluster {k}") for k in range(int(clusters.max()) + 1)]


def train_generator(
    params: Mapping[str, Any], pixels: UInt8[Tensor, "n 3 h w"], *, start: Mapping[str, Tensor] | None = None,
    title: str, seed: int, progress: bool = True
) -> Trained:  # fmt: skip
    """Train one generator, or read the one that was trained before with the same images, start and parameters.

    It is on the GPU if there is one. A killed training goes on where it was.
    """
    size = (params["gan_height"], params["gan_width"])
    if pixels.shape[2:] != size:
        raise ValueError(f"images are {tuple(pixels.shape[2:])} pixels, gan_height and gan_width say {size}.")
    runs.seed(seed)
    model = build(params)
    if start is not None:
        model.load_state_dict(start)
    settings = {name: params[name] for name in MADE_OF} | {"seed": seed}
    name = fingerprint(MADE_BY, settings, pixels, *model.state_dict().values())
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")

    def make(folder: Path) -> tuple[dict[str, Tensor], list]:
        note(f"generator of {title}: {len(pixels)} images", enabled=progress)
        film = Film(params["gan_epochs"], size, seed=seed)
        rows = _fit(params, model, pixels, film, folder, seed=seed, progress=progress)
        return model.state_dict() | {"film": film.frames}, rows

    tensors, rows = keep(name, make)
    film = tensors.pop("film")
    model.load_state_dict(tensors)
    return Trained(model, film, rows)


def _fit(params, model, pixels, film, folder, *, seed, progress) -> list[dict[str, Any]]:
    """The training itself."""
    pixels = pixels.to(next(model.parameters()).device)
    adam = functools.partial(torch.optim.Adam, lr=params["gan_lr"], betas=(0.5, 0.999))
    history = fit(
        model,
        Draws(pixels, batch_size=params["gan_batch"], steps=params["gan_steps"], seed=seed),
        functools.partial(gan_step, film=film),
        epochs=params["gan_epochs"],
        optimizers={name: adam(part.parameters()) for name, part in model.items()},
        state={"film": film},
        checkpoint=folder,
        precision=params["gan_precision"],
        progress=progress,
    )
    film.shoot(model["generator"], params["gan_epochs"])
    return history.rows


def build(params: Mapping[str, Any]) -> nn.ModuleDict:
    """The two networks of `params`."""
    size = (params["gan_height"], params["gan_width"])
    return dcgan(size, latent=LATENT, width=params["gan_channels"], stages=params["gan_stages"])


def keep(
    name: str, make: Callable[[Path], tuple[Mapping[str, Tensor], list]]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors and history that `make` gives: made once, and from then on read; who asks meanwhile waits.

    Args:
        name: of the file; another one for whatever would give other tensors, as `fingerprint` makes it.
        make: called with a folder for checkpoints, from which it goes on if it was killed.

    Raises:
        ValueError: the file is damaged.
    """
    folder = runs.ROOT / KEPT / name
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


def fingerprint(code: tuple[str, ...], settings: Mapping[str, Any], *tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of all that something is made of: code (files of the library), settings, tensors.

    Whether there is a GPU counts, too: it computes other bits.
    """
    made = [code_digest(code), settings, torch.cuda.is_available()]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().numpy())
    return digest.hexdigest()[:16]


@functools.cache
def code_digest(code: tuple[str, ...]) -> str:
    """Digits that change with what files of the library do; read once, because they may be edited while a run lasts."""
    return files.source_digest([Path(runs.__file__).parent / f"{name}.py" for name in code])
