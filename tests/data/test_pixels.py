"""Every kind of image file as it is meant to be seen: upright, of 8 bits, without the colours transparency hides."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from reidkit.data.images import decode
from reidkit.data.pixels import read_rgb, suffixes

STORED = {  # orientation -> how an upright image is stored with it
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def person(height=64, width=32) -> Image.Image:
    """Four quarters of four colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    return Image.fromarray(pixels)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def seen(path, size=(64, 32)) -> np.ndarray:
    return decode(path, size).astype(int)


# ---------------------------------------------------------------------------------------------------- orientation
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_people_stand_upright(tmp_path, kind, orientation):
    turn, exif = STORED[orientation], Image.Exif()
    exif[0x0112] = orientation
    image = person() if turn is None else person().transpose(turn)
    options = {"quality": 95} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    got = seen(saved(tmp_path, image, f"a.{kind}", exif=exif, **options))
    away = np.abs(got - np.asarray(person()).astype(int))
    assert np.median(away) == 0 if kind == "jpg" else away.max() == 0


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_on_its_side_is_decoded_at_twice_the_wanted_size(tmp_path, orientation, monkeypatch):
    exif, asked = Image.Exif(), []
    exif[0x0112] = orientation
    image = person(1024, 512) if orientation == 1 else person(1024, 512).transpose(STORED[6])
    path = saved(tmp_path, image, "a.jpg", exif=exif)
    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda *a: asked.append(a[2]) or draft(*a))
    assert read_rgb(path, (128, 64)).size == (128, 256)  # width, height
    assert asked == [(128, 256) if orientation == 1 else (256, 128)]


@pytest.mark.filterwarnings("ignore")  # Pillow's, that the block is damaged
@pytest.mark.parametrize("block", [b"MM\0*\0\0\0\x08\xff\xff\x01", b"", b"nonsense", b"II*\0\xff\xff\xff\xff"])
def test_a_damaged_exif_block_takes_nothing_from_the_pixels(tmp_path, block):
    path = saved(tmp_path, person(), "a.jpg", exif=b"Exif\0\0" + block)
    plain = saved(tmp_path, person(), "b.jpg")
    assert np.array_equal(seen(path), seen(plain))


# ----------------------------------------------------------------------------------------------------------- bits
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_to_8(tmp_path, name):
    grey = np.linspace(0, 65535, 2048).astype(np.uint16).reshape(64, 32)
    got = seen(saved(tmp_path, Image.fromarray(grey), name))
    assert np.array_equal(got, np.repeat(np.round(grey / 257)[:, :, None], 3, 2))
    assert (got == 255).mean() < 0.01


def test_16_bits_in_the_other_byte_order_are_scaled_too(tmp_path):
    grey = np.linspace(0, 65535, 2048).astype(np.uint16).reshape(64, 32)
    path = saved(tmp_path, Image.frombytes("I;16B", (32, 64), grey.astype(">u2").tobytes()), "a.tif")
    assert np.array_equal(seen(path)[:, :, 0], np.round(grey / 257))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_in_which_white_is_zero_is_no_negative(tmp_path, bits):
    grey = np.full((64, 32), 0, np.uint16 if bits == 16 else np.uint8)
    path = saved(tmp_path, Image.fromarray(grey), "a.tif")
    data = bytearray(path.read_bytes())
    at = data.index(bytes([6, 1, 3, 0, 1, 0, 0, 0, 1, 0]))  # photometric interpretation, a short, one, black is zero
    data[at + 8] = 0
    path.write_bytes(data)
    assert (seen(path) == 255).all()


def test_one_transparent_grey_of_16_bits_is_white(tmp_path):
    grey = np.full((64, 32), 257 * 7, np.uint16)
    grey[:32] = 257 * 100
    path = saved(tmp_path, Image.fromarray(grey), "a.png", transparency=257 * 7)
    got = seen(path)
    assert (got[:32] == 100).all() and (got[32:] == 255).all()


@pytest.mark.parametrize(
    ("values", "run"),
    [(np.float32([0, 1]), "0.0 to 1.0"), (np.int32([-5, 9]), "-5 to 9"), (np.int32([0, 999]), "0 to")],
)
def test_32_bits_without_a_known_range_are_refused(tmp_path, values, run):
    path = saved(tmp_path, Image.fromarray(np.resize(values, (64, 32))), "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif cannot be read as an image: its 32-bit pixels run from {run}"):
        decode(path, (64, 32))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bits_within_8_are_read_as_ever(tmp_path, kind):
    values = np.arange(64 * 32).reshape(64, 32) % 256
    got = seen(saved(tmp_path, Image.fromarray(values.astype(kind)), "a.tif"))
    assert np.array_equal(got[:, :, 1], values)


# --------------------------------------------------------------------------------------------------- transparency
def hidden(mode: str) -> Image.Image:
    """Red (or grey) above; below, green that is transparent."""
    alpha = np.zeros((64, 32), np.uint8)
    alpha[:32] = 255
    image = Image.new("RGB", (32, 64), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, 32, 32))
    if mode == "LA":
        image = image.convert("L")
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "a.png"), ("RGBA", "a.webp"), ("RGBA", "a.tif"), ("LA", "a.png")])
def test_transparent_parts_are_white_not_the_colour_they_hide(tmp_path, mode, name):
    got = seen(saved(tmp_path, hidden(mode), name, **({"lossless": True, "exact": True} if "webp" in name else {})))
    assert (got[32:] == 255).all()
    assert (got[:32] == (76 if mode == "LA" else [255, 0, 0])).all()


def test_half_transparent_is_half_white(tmp_path):
    got = seen(saved(tmp_path, Image.new("RGBA", (32, 64), (200, 0, 0, 51)), "a.png"))
    assert (got == [244, 204, 204]).all()


@pytest.mark.parametrize(("name", "transparency"), [("a.gif", 0), ("a.png", 0), ("a.png", bytes([0, 255]))])
def test_transparent_entries_of_a_palette_are_white(tmp_path, name, transparency):
    indices = np.zeros((64, 32), np.uint8)
    indices[32:] = 1
    image = Image.fromarray(indices).convert("P")
    image.putpalette([9, 8, 7, 10, 20, 30])
    path = saved(tmp_path, image, name, transparency=transparency)
    got = seen(path)
    assert (got[:32] == 255).all() and (got[32:] == [10, 20, 30]).all()


@pytest.mark.parametrize(("mode", "colour", "key"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 5, 5), ("1", 0, 0)])
def test_one_transparent_colour_is_white(tmp_path, mode, colour, key):
    assert (seen(saved(tmp_path, Image.new(mode, (32, 64), colour), "a.png", transparency=key)) == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"])
def test_opaque_images_keep_their_bits(tmp_path, mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8))
    path = saved(tmp_path, noise.convert(mode), "a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(seen(path), np.asarray(image.convert("RGB")))


def test_lightness_and_two_colours_become_rgb(tmp_path):
    path = saved(tmp_path, Image.new("LAB", (32, 64), (255, 128, 128)), "a.tif")
    assert (seen(path) >= 250).all()


# ----------------------------------------------------------------------------------------------------------- kinds
@pytest.mark.parametrize("kind", ["webp", "tif", "tiff", "gif", "ppm", "jfif", "tga", "bmp", "jp2", "avif"])
def test_what_pillow_reads_is_read(tmp_path, kind):
    assert f".{kind}" in suffixes()
    path = saved(tmp_path, Image.new("RGB", (32, 64), (250, 10, 20)), f"a.{kind}")
    assert np.abs(seen(path) - [250, 10, 20]).max() < 6


def test_films_measurements_and_pages_are_no_pictures():
    assert not suffixes() & {".pdf", ".mpg", ".h5", ".grib", ".eps", ".mat", ".txt", ""}


def test_a_file_one_may_not_read_is_no_damaged_image(tmp_path, monkeypatch):
    path = saved(tmp_path, person(), "a.png")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(Permission denied\); give yourself the right"):
        decode(path, (64, 32))


def test_a_comment_in_a_png_moves_nothing(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "orientation 6")
    assert np.array_equal(seen(saved(tmp_path, person(), "a.png", pnginfo=text)), np.asarray(person()))
