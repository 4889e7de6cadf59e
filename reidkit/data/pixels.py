"""An image file as upright red, green and blue, or a sentence on why not; what kind of file Pillow can read."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

TURNS = {  # EXIF orientation -> how the stored image becomes upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, PHOTOMETRIC = 0x0112, 262  # tags of EXIF and of TIFF
NO_PICTURES = {"BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "MPEG", "WMF"}  # films, measurements, pages


class UnreadKindError(ValueError):
    """The file is whole, but nobody can tell which of its values is black and which is white."""


@cache
def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the pictures that Pillow can read here.

    >>> {".jpg", ".png", ".bmp", ".webp", ".tif"} <= suffixes()
    True
    """
    kinds = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in kinds.items() if kind in Image.OPEN and kind not in NO_PICTURES)


def read_rgb(file: Path | io.BytesIO, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image as it is meant to be seen: upright, in RGB, what is transparent white.

    The orientation in its EXIF block is applied, 16 bits are scaled to 8, and transparent parts are laid on white, not
    shown in the colours they hide. Grey, palettes, CMYK and black and white become RGB. Of several frames it is the
    first.

    Args:
        file: a path or an open file.
        size: (height, width); a JPEG at least four times too large is decoded at a reduced scale, still twice that.

    Raises:
        UnreadKindError: pixels of 32 bits that do not lie within 0 to 255.
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: Pillow cannot decode it.
    """
    with Image.open(file) as image:
        if size and image.format in ("JPEG", "MPO"):
            height, width = size[::-1] if _orientation(image) > 4 else size  # beyond 4 it lies on its side
            image.draft("RGB", (2 * width, 2 * height))
        image.load()
        turn = TURNS.get(_orientation(image))  # after loading: Pillow turns TIFF files itself
        rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block, in whatever way, takes nothing from the pixels
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _eight_bits(image)
    elif image.mode in ("I", "F"):
        low, high = image.getextrema()
        if not 0 <= low <= high <= 255 or (image.mode == "F" and 0 < high <= 1):
            raise UnreadKindError(f"its 32-bit pixels run from {low} to {high}; save it with 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3] != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits of grey to 8, rounded."""
    grey = np.asarray(image).astype(np.int64)
    eight = (grey * 255 + 32767) // 65535
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # TIFF's "white is zero", which Pillow leaves at 16 bits
        eight = 255 - eight
    if "transparency" in image.info:  # the one grey that is
        eight[grey == image.info["transparency"]] = 255
    return Image.fromarray(eight.astype(np.uint8))
