"""Decoding, normalising and augmenting: against Pillow, against slow twins, and against the released code's draws."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.stats import ks_2samp
from torchvision.transforms.functional import normalize, to_tensor

from miniatures import picture
from reidkit.data import images as module
from reidkit.data.images import (
    MEAN,
    STD,
    Augment,
    Images,
    erasing_boxes,
    identity_labels,
    load,
    normalise,
    rect_crop_boxes,
    stretch,
)
from reidkit.data.records import Record
from reidkit.data.samplers import Batches, PlainSampler

ORACLE = Path(__file__).parents[1] / "oracles" / "aug_statistics.npz"


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, height, width, seed=0):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=chance(seed))


def smooth_image(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / height * 5 + c) * np.cos(columns / width * 4 - c) for c in range(3)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


def to_pil(pixels):
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


# ---- the bank ----


def test_images_come_to_their_size_as_asked(tmp_path):
    """Bilinearly, or bicubically as the releases of SLSR and MAR do; both as Pillow."""
    image = smooth_image(30, 20)
    image.save(tmp_path / "0.png")
    records = [Record(tmp_path / "0.png", pid=1, camid=0)]
    found = {}
    for name, how in module.RESAMPLING.items():
        found[name] = load(records, (45, 31), resize=name).pixels[0].permute(1, 2, 0).numpy()
        assert np.array_equal(found[name], np.asarray(image.resize((31, 45), how)))
    assert list(found) == ["bilinear", "bicubic"] and not np.array_equal(*found.values())
    assert np.array_equal(load(records, (45, 31)).pixels[0].permute(1, 2, 0).numpy(), found["bilinear"])


def test_load_keeps_order_labels_and_exact_pixels(tmp_path):
    pixels = noise(6, 16, 8)
    records = []
    for i, image in enumerate(pixels):
        to_pil(image).save(tmp_path / f"{i}.png")
        records.append(Record(tmp_path / f"{i}.png", pid=10 - i, camid=i % 3))
    bank = load(records, (16, 8), progress=True)
    assert torch.equal(bank.pixels, pixels)
    assert (bank.pids.tolist(), bank.camids.tolist()) == ([10, 9, 8, 7, 6, 5], [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("size", [(64, 32), (200, 100), (30, 90)])
def test_load_resizes_as_pillow_does(tmp_path, size):
    image = smooth_image(130, 60)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(load([Record(tmp_path / "a.png", 1, 0)], size).pixels[0].numpy(), expected)


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_a_large_jpeg_decoded_smaller_looks_the_same(tmp_path, factor):
    smooth_image(64 * factor, 32 * factor).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.resize((32, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    got = load([Record(tmp_path / "a.jpg", 1, 0)], (64, 32)).pixels[0].numpy()
    assert np.abs(got.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("CMYK", "a.jpg"), ("RGBA", "a.png"), ("1", "a.bmp")])
def test_other_colour_modes_become_rgb(tmp_path, mode, name):
    smooth_image(16, 8).convert(mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(load([Record(tmp_path / name, 1, 0)], (16, 8)).pixels[0].numpy(), expected)


def test_no_records_give_an_empty_bank():
    bank = load([], (16, 8))
    assert len(bank) == 0 and bank.pixels.shape == (0, 3, 16, 8)


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_file_that_is_no_image_is_named(tmp_path, damage):
    path = tmp_path / "0002_c1.jpg"
    smooth_image(64, 32).save(path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:300] if damage == "cut" else b"no image")
    with pytest.raises(ValueError, match=r"0002_c1\.jpg cannot be read as an image"):
        load([Record(path, 1, 0)], (64, 32))


def test_more_images_than_memory_and_disk_hold_are_refused_before_reading(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 1000 * 3 * 64 * 32)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=800 * 3 * 64 * 32))
    records = [Record(Path("not read.jpg"), 1, 0)] * 801
    with pytest.raises(ValueError, match=r"801 images of 64x32 take .* choose a smaller size or fewer images, or set"):
        load(records, (64, 32))


def test_more_images_than_memory_holds_give_the_same_batches_from_a_file(monkeypatch, tmp_path):
    for name in "abcdefgh":
        picture(tmp_path / f"{name}.jpg", (70, 40))
    records = [Record(tmp_path / f"{name}.jpg", pid, pid % 2) for pid, name in enumerate("abcdefgh")]
    in_memory = load(records, (64, 32))
    monkeypatch.setattr(module, "available_memory", lambda: 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    on_disk = load(records, (64, 32))
    assert isinstance(module._room(8, 64, 32), np.memmap) and torch.equal(on_disk.pixels, in_memory.pixels)
    assert not list((tmp_path / "spill").iterdir())  # the file has no name, and goes with its last reader
    order = [PlainSampler(8, batch_size=3, seed=5) for _ in range(2)]
    banks = zip((in_memory, on_disk), order, strict=True)
    batches = [list(Batches(bank, bank.pids, sampler, Augment(), seed=5)) for bank, sampler in banks]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_size_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"size is \(height, width\)"):
        load([], (0, 32))


def test_a_bank_is_indexed_like_its_tensors():
    bank = Images(noise(5, 4, 2), torch.arange(5), torch.tensor([0, 1, 0, 1, 0]))
    for index in ([3, 0], torch.tensor([3, 0]), slice(1, 3), bank.camids == 1, []):
        part = bank[index]
        rows = torch.arange(5)[torch.as_tensor(index, dtype=torch.long) if index == [] else index]
        assert part.pids.tolist() == rows.tolist()
        assert torch.equal(part.pixels, bank.pixels[rows]) and torch.equal(part.camids, bank.camids[rows])
    assert bank.to("cpu").pixels is bank.pixels


def test_labels_number_the_sorted_identities():
    labels, count = identity_labels(torch.tensor([900, -3, 900, 12]))
    assert (labels.tolist(), count) == ([2, 0, 2, 1], 3)


def test_normalise_equals_torchvision():
    pixels = noise(3, 16, 8)
    expected = torch.stack([normalize(to_tensor(to_pil(image)), MEAN, STD) for image in pixels])
    torch.testing.assert_close(normalise(pixels), expected, rtol=0, atol=1e-5)
    as_float = pixels.float()
    torch.testing.assert_close(normalise(as_float), expected, rtol=0, atol=1e-5)
    assert torch.equal(as_float, pixels.float())  # the input stays as it is


# ---- augmentation ----


def slow_twin(augment, pixels, params):
    """Flip, frame, cut with Pillow, then normalise and erase, image by image."""
    out = []
    for image, flip, down, right, _, box in zip(pixels, *params, strict=True):
        height, width = image.shape[1:]
        pad = round(augment.pad * height / 256)
        pil = ImageOps.mirror(to_pil(image)) if flip else to_pil(image)
        framed = ImageOps.expand(pil, pad, fill=0)
        left, top = pad - int(right), pad - int(down)
        one = normalize(to_tensor(framed.crop((left, top, left + width, top + height))), MEAN, STD)
        top, left, high, wide = box.tolist()
        one[:, top : top + high, left : left + wide] = torch.tensor(augment.fill)[:, None, None]
        out.append(one)
    return torch.stack(out)


@pytest.mark.parametrize("size", [(64, 32), (160, 96), (20, 33)])  # 160x96: in more than one go
@pytest.mark.parametrize("augment", [Augment(), Augment(flip=1.0, pad=40, erase=1.0, fill=(0.4, 0.5, -1.0))])
def test_augment_equals_its_slow_twin_on_both_paths(size, augment):
    pixels = noise(24, *size)
    params = augment.draw(24, *size, generator=chance(3))
    expected = slow_twin(augment, pixels, params)
    torch.testing.assert_close(augment(pixels, generator=chance(3)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(augment.apply_on_device(pixels, params), expected, rtol=0, atol=1e-5)


def test_the_rectangular_crop_is_the_same_on_both_paths():
    augment, pixels = Augment(rect_crop=0.7), noise(24, 64, 32)
    params = augment.draw(24, 64, 32, generator=chance(1))
    assert {tuple(box) for box in params.crop.tolist()} > {(0, 0, 64, 32)}  # some cropped, some not
    on_cpu, on_device = augment.apply_on_cpu(pixels, params), augment.apply_on_device(pixels, params)
    torch.testing.assert_close(on_cpu, on_device, rtol=0, atol=1e-4)
    unmoved = augment.apply_on_cpu(pixels, params._replace(crop=torch.tensor([0, 0, 64, 32]).repeat(24, 1)))
    assert not torch.allclose(on_cpu, unmoved, atol=0.1)


def test_stretch_equals_pillow_up_to_its_rounding():
    pixels = noise(8, 64, 32)
    boxes = rect_crop_boxes(8, 64, 32, generator=chance(5))
    got = stretch(pixels, boxes)
    for image, stretched, (top, left, high, wide) in zip(pixels, got, boxes.tolist(), strict=True):
        crop = to_pil(image).crop((left, top, left + wide, top + high)).resize((32, 64), Image.Resampling.BILINEAR)
        assert np.abs(stretched.permute(1, 2, 0).numpy() - np.asarray(crop, np.float32)).max() < 1.01


def test_without_chance_only_normalising_is_left():
    pixels = noise(4, 32, 16)
    nothing = Augment(flip=0.0, pad=0, erase=0.0)
    assert torch.equal(nothing(pixels, generator=chance()), normalise(pixels))


def test_the_same_chance_gives_the_same_bits_and_leaves_the_input():
    pixels = noise(16, 64, 32)
    before = pixels.clone()
    one, two, other = (Augment()(pixels, generator=chance(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(pixels, before)


@pytest.mark.parametrize(("height", "pad"), [(256, 10), (128, 5), (96, 4), (64, 2), (384, 15)])
def test_moves_are_uniform_and_scale_with_height(height, pad):
    params = Augment(erase=0.0).draw(4000, height, height // 2, generator=chance())
    for moves in (params.down, params.right):
        counts = torch.bincount(moves + pad)
        assert len(counts) == 2 * pad + 1
        expected = 4000 / len(counts)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_probabilities_are_met():
    params = Augment(flip=0.2, rect_crop=0.6, erase=0.8).draw(10000, 64, 32, generator=chance())
    erased, cropped = params.erase[:, 2] > 0, (params.crop != torch.tensor([0, 0, 64, 32])).any(1)
    for event, p in ((params.flip, 0.2), (erased, 0.8), (cropped, 0.6)):
        assert abs(event.float().mean().item() - p) < 0.02


def test_one_chance_says_nothing_about_another():
    """An image that is mirrored is no more likely to be erased, cropped, or moved down and right."""
    params = Augment(flip=0.5, rect_crop=0.5, erase=0.5).draw(10000, 64, 32, generator=chance())
    cropped = (params.crop != torch.tensor([0, 0, 64, 32])).any(1)
    columns = [params.flip, cropped, params.erase[:, 2] > 0, params.down, params.right]
    related = torch.corrcoef(torch.stack([column.float() for column in columns]))
    assert related.fill_diagonal_(0).abs().max() < 0.05  # 5 standard deviations


@pytest.mark.parametrize("column", range(4))
def test_erasing_boxes_are_drawn_as_in_the_released_code(column):
    official = np.load(ORACLE)["erase_top_left_h_w"]
    ours = erasing_boxes(len(official), 256, 128, generator=chance(0)).numpy()
    assert ks_2samp(ours[:, column], official[:, column]).pvalue > 1e-3


@pytest.mark.parametrize("column", range(4))
def test_rectangular_crops_are_drawn_as_in_the_released_code(column):
    official = np.load(ORACLE)["rectcrop_box_64x128"]  # left, top, right, bottom; fallbacks left out
    left, top, right, bottom = official.T
    official = np.stack([top, left, bottom - top, right - left], 1)
    ours = rect_crop_boxes(len(official), 128, 64, generator=chance(0)).numpy()
    assert ks_2samp(ours[:, column], official[:, column]).pvalue > 1e-3


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_boxes_keep_their_rules_at_any_size(height, width, seed):
    top, left, high, wide = erasing_boxes(20, height, width, generator=chance(seed)).unbind(1)
    assert (high < height).all() and (wide < width).all()
    assert (top >= 0).all() and (left >= 0).all() and (top + high <= height).all() and (left + wide <= width).all()
    top, left, high, wide = rect_crop_boxes(20, height, width, generator=chance(seed)).unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + high <= height).all() and (left + wide <= width).all()
    assert (high > 0).all() and (wide > 0).all()


def test_an_image_too_small_to_erase_is_left_whole():
    assert erasing_boxes(9, 1, 1, generator=chance())[:, 2:].sum() == 0
    assert torch.isfinite(Augment(erase=1.0)(noise(9, 1, 1), generator=chance())).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"flip": 1.5}, "flip is a probability"), ({"erase": -0.1}, "erase is a"), ({"pad": -1}, "pad is a number")],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Augment(**wrong)
