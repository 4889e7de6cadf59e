"""The DCGAN: sizes of the released one, each network equal to its formula, and the way it starts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidkit.models.dcgan import Discriminator, Generator, dcgan, from_pixels, to_pixels

ORACLE = np.load(Path(__file__).parents[1] / "oracles" / "p001_dcgan_arch.npz")
SMALL = {"width": 4, "stages": 2}


def maps_of(network, kind, images):
    """The shape of what each layer of a kind gives."""
    found = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[1:])))
    return found, network(images)


def test_the_paper_size_is_the_released_one():
    with torch.device("meta"):
        model = dcgan((128, 128))
        generator, discriminator = model["generator"], model["discriminator"]
        grown, images = maps_of(generator, nn.ConvTranspose2d, torch.empty(2, 100))
        shrunk, logits = maps_of(discriminator, nn.Conv2d, images)
    for network, name in ((generator, "g_params"), (discriminator, "d_params")):
        assert sum(parameter.numel() for parameter in network.parameters()) == ORACLE[name]
    assert tuple(images.shape) == tuple(ORACLE["image_shape"]) and tuple(logits.shape) == tuple(ORACLE["logit_shape"])
    assert [generator.map, *grown] == list(zip(ORACLE["g_channels"], *[(8, 16, 32, 64, 128)] * 2, strict=True))
    assert shrunk == list(zip(ORACLE["d_channels"][1:], *[(64, 32, 16, 8)] * 2, strict=True))


@pytest.mark.parametrize(("size", "stages"), [((64, 32), 3), ((32, 16), 2), ((6, 2), 1)])
def test_other_sizes_are_doubled_and_halved_as_often_as_asked(size, stages):
    model = dcgan(size, width=4, stages=stages)
    grown, images = maps_of(model["generator"], nn.ConvTranspose2d, torch.rand(2, 100))
    shrunk, logits = maps_of(model["discriminator"], nn.Conv2d, images)
    assert images.shape == (2, 3, *size) and logits.shape == (2, 1)
    assert [shape[0] for shape in grown] == [4 << stage for stage in reversed(range(stages - 1))] + [3]
    assert [shape[0] for shape in shrunk] == [4 << stage for stage in range(stages)]
    assert grown[-1][1:] == size and shrunk[-1][1:] == (size[0] >> stages, size[1] >> stages)


def normalised(x, bn):
    """Batch normalisation in training, from its formula; with features or maps."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    shape = mean.shape
    return bn.weight.view(shape) * (x - mean) / (var + 1e-5).sqrt() + bn.bias.view(shape)


def transposed(x, layer):
    """A convolution turned round: the gradient of one with stride 2 by its input, and a bias."""
    size = (len(x), layer.weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    wanted = torch.zeros(size, requires_grad=True)
    forth = F.conv2d(wanted, layer.weight, stride=2, padding=2)
    return torch.autograd.grad(forth, wanted, x.detach())[0] + layer.bias.view(1, -1, 1, 1)


def test_the_generator_equals_its_formula(generator):
    network, z = Generator((16, 8), **SMALL), 2 * torch.rand(5, 100, generator=generator) - 1
    first, _, grow, bn, _, last, _ = network.grow
    x = (z @ network.start.weight.T + network.start.bias).view(5, 8, 4, 2)
    x = normalised(x, first).clamp(min=0)
    x = normalised(transposed(x, grow), bn).clamp(min=0)
    torch.testing.assert_close(network(z), transposed(x, last).tanh())


def test_the_discriminator_equals_its_formula(generator):
    network, x = Discriminator((16, 8), **SMALL), 2 * torch.rand(5, 3, 16, 8, generator=generator) - 1
    first, _, second, bn, _, _, last = network.shrink
    leaky = torch.nn.LeakyReLU(0.2)
    expected = leaky(F.conv2d(x, first.weight, first.bias, stride=2, padding=2))
    expected = leaky(normalised(F.conv2d(expected, second.weight, second.bias, stride=2, padding=2), bn))
    torch.testing.assert_close(network(x), expected.flatten(1) @ last.weight.T + last.bias)


def test_it_starts_as_released():
    model = dcgan((32, 16), width=32, stages=3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert (
                module.weight.abs().max() <= 0.04
            )  # without what is beyond two deviations: the others have 0.88 of it
            assert module.weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.05)
        elif isinstance(module, nn.Linear | nn.ConvTranspose2d):
            assert module.weight.abs().max() > 0.04 and module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1) and (module.weight == 1).all()
        if hasattr(module, "bias"):
            assert not module.bias.any()


def test_every_parameter_learns():
    model = dcgan((16, 8), **SMALL)
    model["discriminator"](model["generator"](torch.rand(6, 100))).square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()


def test_pixels_and_images_are_two_ways_to_write_the_same():
    every = torch.arange(256, dtype=torch.uint8).expand(2, 3, 4, 256)
    images = from_pixels(every)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(to_pixels(images), every)
    assert torch.equal(to_pixels(torch.tensor([-7.0, 7.0]).expand(1, 3, 1, 2))[0, 0, 0], every[0, 0, 0, [0, 255]])
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert (from_pixels(to_pixels(images)) - images).abs().max() <= 0.5 / 127.5 + 1e-6
    assert to_pixels(images.bfloat16()).dtype == torch.uint8


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_size_that_cannot_be_halved_is_refused(network):
    with pytest.raises(ValueError, match=r"40x20 pixels cannot be halved 3 times; take multiples of 8"):
        network((40, 20), stages=3)
