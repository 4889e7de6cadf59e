"""From images to embeddings, and from an embedding to the images nearest to it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit.blocks import row_blocks
from reidkit.data.images import Images, normalise, to_device
from reidkit.distances import nearest
from reidkit.inputs import Array, same_width, stored_rows
from reidkit.models.precision import network_precision
from reidkit.progress import track


class Embeddings(NamedTuple):
    """What a network says about a set of images: x has unit rows, float32, and is where the network is."""

    x: Float[Tensor, "n d"]
    pids: Int[Tensor, " n"]
    camids: Int[Tensor, " n"]

    def cpu(self) -> "Embeddings":
        """The same in main memory, as plots need it."""
        return Embeddings(self.x.cpu(), self.pids.cpu(), self.camids.cpu())


@torch.no_grad()
def embed(
    model: nn.Module,
    images: Images,
    *,
    flip: bool = False,
    batch_size: int = 256,
    precision: str = "auto",
    progress: bool = False,
) -> Embeddings:
    """Embed `images` with `model` in eval mode; the mode it had is restored.

    Args:
        model: its forward gives an `Output`, whose embedding is taken.
        images: n images, uint8.
        flip: add the embedding of the mirrored image, which some papers do at test time.
        batch_size: images at a time.
        precision: what the network computes in: "auto" (bf16 or fp16 on CUDA, whichever it has, fp32 elsewhere),
            "bf16", "fp16" or "fp32".
        progress: show a bar where a person watches.

    Returns:
        Embeddings of unit length, with the pids and camids of the images, on the device of the model.

    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("there are no images to embed.")
    device, modes = next(model.parameters()).device, [(module, module.training) for module in model.modules()]
    model.eval()
    rows = []
    try:
        with network_precision(model, precision):
            for pixels in track(images.pixels.split(batch_size), title="embedding", unit="batch", enabled=progress):
                batch = normalise(to_device(pixels, device))
                x = model(batch).embedding
                rows.append(F.normalize(x + model(batch.flip(3)).embedding if flip else x))
    finally:
        for module, mode in modes:
            module.training = mode
    return Embeddings(torch.cat(rows), images.pids.to(device), images.camids.to(device))


@torch.no_grad()
def search(
    query: Embeddings | Float[Array, "n_q d"], gallery: Embeddings | Float[Array, "n_g d"], *, top_k: int = 10
) -> tuple[Int[Tensor, "n_q k"], Float[Tensor, "n_q k"]]:
    """The `top_k` gallery images nearest to each query, the nearest first; equals stay in the order of the gallery.

    The order is that of float64 distances, wherever the embeddings lie; equal images have equal distances.

    Args:
        query: embeddings, or just their rows, tensor or NumPy array.
        gallery: embeddings, or just their rows; memory is bounded, however many, and a mapped file is not copied.
        top_k: how many, 1 to the size of the gallery.

    Returns:
        Indices into the gallery and Euclidean distances (0 to 2 for unit rows), on the device of `gallery`.

    Raises:
        ValueError: `top_k` is out of range, shapes do not fit, or an embedding is not finite.

    >>> gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> indices, distances = search(torch.tensor([[1.0, 0.0]]), gallery, top_k=2)
    >>> indices.tolist()
    [[1, 0]]
    """
    query, gallery = (side.x if isinstance(side, Embeddings) else side for side in (query, gallery))
    query, gallery = stored_rows(query, "query"), stored_rows(gallery, "gallery")
    same_width(query, gallery, ("query", "gallery"))
    if not 1 <= top_k <= len(gallery):
        raise ValueError(f"top_k must be 1 to {len(gallery)}, the size of the gallery, not {top_k}.")
    indices, squared = nearest(query.to(gallery.device), gallery, top_k)
    dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)
    return indices, squared.sqrt().to(dtype)


def colour_histogram(images: Images, *, stripes: int = 6, bins: tuple[int, int, int] = (8, 4, 4)) -> Embeddings:
    """Describe images without learning: the colours (hue, saturation, value) of horizontal stripes.

    The oldest descriptor of the field and the floor of every table: what it finds needs no network.

    Args:
        images: n images, uint8.
        stripes: how many bands from head to foot; a fifth is cut off at either side.
        bins: of hue, saturation and value.

    Returns:
        Embeddings of unit length, the square roots of the counts.

    Source: after D. Gray and H. Tao, ECCV 2008 (stripes), in its simplest form.
    """
    blocks = row_blocks(len(images), 100 * images.pixels[0, 0].numel(), budget=2**28)
    rows = [_stripe_counts(images.pixels[block], stripes, bins) for block in blocks]
    return Embeddings(F.normalize(torch.cat(rows).sqrt()), images.pids, images.camids)


def _stripe_counts(pixels: UInt8[Tensor, "n 3 h w"], stripes: int, bins: tuple[int, int, int]) -> Float[Tensor, "n d"]:
    """How many pixels of each stripe fall into each cell of colour."""
    rgb = pixels.float() / 255
    value, low = rgb.amax(1), rgb.amin(1)
    red, green, blue = rgb.unbind(1)
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue) / (2 * torch.pi) % 1
    cells = torch.zeros_like(hue, dtype=torch.long)
    for channel, count in zip((hue, (value - low) / (value + 1e-4), value), bins, strict=True):
        cells = cells * count + (channel * count).long().clamp(max=count - 1)
    margin, total = cells.shape[2] // 5, bins[0] * bins[1] * bins[2]
    bands = [band.flatten(1) for band in cells[:, :, margin : cells.shape[2] - margin].tensor_split(stripes, 1)]
    counts = [torch.zeros(len(cells), total).scatter_add_(1, band, torch.ones(band.shape)) for band in bands]
    return torch.cat(counts, 1)
