"""Broken and strange images, checkpoints and weights: one sentence each, nothing lost, and nothing executed."""

import io
import json
import os
import pickle
import random
import re
import shutil

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from reidkit import checkpoints, training
from reidkit.models.backbones import load_weights, small_resnet
from reidkit.recipes import driver
from reidkit.recipes.sources import load_data

PARAMS = {"dataset": "market1501", "city_preset": "quick", "city_seed": 0, "height": 32, "width": 16}


def refused(call, *arguments, **options) -> str:
    """The one sentence of the ValueError that a call ends with."""
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence, sentence
    return sentence


# ------------------------------------------------------------------------------------------------------------- images


@pytest.fixture
def archive(tmp_path):
    """Two people under two cameras, in Market-1501's layout; gives the folder of archives and one image of it."""
    rows, columns = numpy.mgrid[0:64, 0:32]
    pixels = numpy.stack([127 + 120 * numpy.sin(rows / 9 + columns / (5 + c)) for c in range(3)], -1)
    for folder, pid in (("bounding_box_train", 1), ("bounding_box_test", 2), ("query", 2)):
        path = tmp_path / "market1501" / folder
        path.mkdir(parents=True)
        for camera in (1, 2):
            Image.fromarray(pixels.astype(numpy.uint8)).save(path / f"{pid:04d}_c{camera}s1_000000_00.jpg")
    return tmp_path, tmp_path / "market1501" / "bounding_box_train" / "0001_c2s1_000000_00.jpg"


def broken_images(image: bytes, tries: int):
    """Kinds of damage and what the file then holds."""
    rng = random.Random(0)
    for _ in range(5 * tries):
        yield "truncated JPEG", image[: rng.randrange(2, len(image) - 2)]
    yield "zero-byte JPEG", b""
    yield "text named .jpg", b"<html>404 Not Found</html>"
    size = image.index(b"\xff\xc0") + 5  # height and width in the header
    yield "JPEG that claims 65500 x 65500 pixels", image[:size] + b"\xff\xdc" * 2 + image[size + 4 :]


def test_a_broken_image_is_named(archive, tally, tries):
    root, path = archive
    for fault, data in broken_images(path.read_bytes(), tries):
        with tally(fault):
            path.write_bytes(data)
            sentence = refused(load_data, driver.Parameters(**PARAMS, data_root=str(root)), progress=False)
            assert str(path) in sentence and "cannot be read as an image" in sentence
            assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "GIF")]
)
def test_a_strange_image_is_read_in_its_colours(archive, tally, mode, kind):
    root, path = archive
    with tally("grey, CMYK and other kinds of image"):
        colour = Image.open(path).convert("RGB")
        with path.open("wb") as file:  # Pillow looks at the first bytes, not at the name
            colour.convert(mode).save(file, kind)
        got = load_data(driver.Parameters(**PARAMS, data_root=str(root)), progress=False).train.pixels[1].float()
        meant = colour.convert("L").convert("RGB") if mode == "L" else colour
        meant = numpy.array(meant.resize((16, 32), Image.Resampling.BILINEAR))
        assert (got - torch.tensor(meant).permute(2, 0, 1)).abs().mean() < 6


# -------------------------------------------------------------------------------------------- checkpoints and weights


def trained(folder, seed: int = 0) -> nn.Module:
    """A small network trained for one epoch, with a checkpoint."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    options = {"optimizers": torch.optim.Adam(model.parameters()), "state": {"noise": torch.Generator()}}
    options |= {"checkpoint": folder, "progress": False}
    training.fit(model, [torch.randn(8, 3)], lambda model, x: model(x).square().mean(), epochs=1, **options)
    return model


def checkpointed(folder):
    trained(folder)
    return folder / "epoch-00001"


def redigest(epoch) -> None:
    """Make a changed checkpoint agree with itself, as somebody would who means harm."""
    record = json.loads((epoch / "epoch.json").read_text())
    record["digests"] = {name: checkpoints.digest(epoch / name) for name in record["digests"]}
    (epoch / "epoch.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "epoch.json"])
def test_a_checkpoint_cut_short_is_refused(tmp_path, tally, tries, name):
    path, rng = checkpointed(tmp_path / "run") / name, random.Random(0)
    data = path.read_bytes()
    for length in [0, len(data) - 2, *(rng.randrange(len(data) - 2) for _ in range(tries))]:
        with tally("checkpoint cut short"):
            path.write_bytes(data[:length])
            assert f"is damaged (epoch-00001/{name} was cut short" in refused(trained, tmp_path / "run")
            assert path.read_bytes() == data[:length], "the rest of it is lost"
    path.write_bytes(data)
    trained(tmp_path / "run")


def test_a_renamed_tensor_is_named(tmp_path, tally):
    epoch = checkpointed(tmp_path / "run")
    tensors = load_file(epoch / "weights.safetensors")
    for name in (name for name in tensors if not name.endswith("num_batches_tracked")):
        with tally("checkpoint with a renamed tensor"):
            renamed = {key if key != name else "renamed": tensor for key, tensor in tensors.items()}
            save_file(renamed, epoch / "weights.safetensors")
            redigest(epoch)
            assert f"1 missing: {name}; 1 unknown: renamed" in refused(trained, tmp_path / "run")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def pickles(witness):
    """The ways to write a bomb, by name."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle {protocol}", pickle.dumps({"weight": Bomb(witness)}, protocol)
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"state_dict": Bomb(witness)}, stream, _use_new_zipfile_serialization=zipped)
        yield f"torch.save, zip {zipped}", stream.getvalue()


def test_a_pickle_is_not_run(tmp_path, tally):
    witness, epoch = tmp_path / "executed", checkpointed(tmp_path / "run")
    pickle.loads(pickle.dumps(Bomb(witness)))
    witness.rmdir()  # it would have worked
    for _, data in pickles(witness):
        for ending in ("pth", "pt", "safetensors", "bin"):
            with tally("pickle offered as weights"):
                path = tmp_path / f"weights.{ending}"
                path.write_bytes(data)
                model = small_resnet(width=4)
                before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                assert str(path) in refused(load_weights, model, path)
                assert not witness.exists()
                torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
        for part in ("state.pt", "weights.safetensors"):
            with tally("pickle inside a checkpoint"):
                shutil.copytree(epoch.parent, tmp_path / "copy", dirs_exist_ok=True)
                (tmp_path / "copy" / epoch.name / part).write_bytes(data)
                redigest(tmp_path / "copy" / epoch.name)
                assert re.search("nothing of it was run|is of another model", refused(trained, tmp_path / "copy"))
                assert not witness.exists()
