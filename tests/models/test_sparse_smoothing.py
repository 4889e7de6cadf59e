"""The head of SLSR: sizes of the released one, its formula, and a noise layer that is there in training alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidkit.models.backbones import densenet121, resnet50, small_resnet
from reidkit.models.heads import Output, ReID
from reidkit.models.sparse_smoothing import ClassBlock

ORACLE = np.load(Path(__file__).parents[1] / "oracles" / "p001_models.npz")


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_head_and_feature_are_as_large_as_the_released_ones(name):
    with torch.device("meta"):
        backbone = resnet50(last_stride=2) if name == "resnet50" else densenet121(last_stride=2, last_relu=False)
        head = ClassBlock(backbone.dim, 751)
        output = head(backbone(torch.empty(2, 3, 288, 144)).mean((2, 3)))
    assert sum(parameter.numel() for parameter in head.parameters()) == ORACLE[f"{name}_classblock_params_C751"]
    assert tuple(output.logits.shape) == tuple(ORACLE[f"{name}_logit_shape"])
    assert tuple(output.embedding.shape) == tuple(ORACLE[f"{name}_feature_shape_288x144"])


def test_features_of_the_densenet_are_negative_as_in_the_released_one():
    assert ORACLE["densenet121_feature_min"] < 0 and ORACLE["resnet50_feature_min"] == 0
    maps = densenet121(last_stride=2, last_relu=False).eval()(torch.randn(2, 3, 64, 32))
    assert maps.mean((2, 3)).min() < 0


def test_at_test_time_logits_equal_their_formula():
    head, feature = ClassBlock(8, 5, hidden=6).eval(), torch.randn(7, 8)
    linear, bn, _, _ = head.hidden
    for tensor in (bn.running_mean, bn.bias, linear.bias, head.classifier.bias):
        nn.init.uniform_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    x = feature @ linear.weight.T + linear.bias
    x = bn.weight * (x - bn.running_mean) / (bn.running_var + 1e-5).sqrt() + bn.bias
    x = torch.where(x > 0, x, 0.1 * x)
    output = head(feature)
    torch.testing.assert_close(output.logits, x @ head.classifier.weight.T + head.classifier.bias)
    assert type(output) is Output and output.embedding is output.feature is feature


def test_half_of_the_hidden_units_drop_out_in_training_alone():
    def dropped(module, inputs):
        found.append((inputs[0] == 0).double().mean().item())

    found, feature = [], torch.randn(64, 8)
    for dropout in (0.5, 0.0):
        head = ClassBlock(8, 5, dropout=dropout)
        head.classifier.register_forward_pre_hook(dropped)
        head.train()(feature)
        head.eval()(feature)
    assert found == [pytest.approx(0.5, abs=0.02), 0, 0, 0]


def test_layers_start_as_released():
    head = ClassBlock(256, 300)
    linear, bn = head.hidden[0], head.hidden[1]
    assert linear.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.03)  # Kaiming, by the outputs
    assert (bn.weight.mean().item(), bn.weight.std().item()) == (pytest.approx(1, abs=0.004), pytest.approx(0.02, 0.1))
    assert head.classifier.weight.std().item() == pytest.approx(0.001, rel=0.03)
    assert not any(bias.any() for bias in (linear.bias, bn.bias, head.classifier.bias))


# The noise layer


def test_a_bottleneck_changes_no_logits():
    head, logits = ClassBlock(8, 5), torch.randn(4, 5)
    assert head.adapt(logits, torch.tensor([True, False, True, False])) is logits
    assert not any("noise" in name for name in head.state_dict())


@pytest.mark.parametrize("noise_on", ["all", "generated"])
def test_a_square_layer_starts_as_the_identity(noise_on):
    head, logits = ClassBlock(8, 5, noise_layer="post", noise_on=noise_on), torch.randn(4, 5)
    assert head.noise.weight.shape == (5, 5)
    torch.testing.assert_close(head.adapt(logits, torch.tensor([True, False, True, False])), logits, rtol=0, atol=0)


def test_a_square_layer_changes_all_logits_or_those_of_generated_images():
    logits, generated = torch.randn(4, 5), torch.tensor([True, False, True, False])
    for noise_on in ("all", "generated"):
        head = ClassBlock(8, 5, noise_layer="post", noise_on=noise_on)
        nn.init.uniform_(head.noise.weight)
        nn.init.uniform_(head.noise.bias)
        changed = torch.stack([head.noise.weight @ z + head.noise.bias for z in logits])
        found = head.adapt(logits, generated)
        torch.testing.assert_close(found[generated], changed[generated])
        torch.testing.assert_close(found[~generated], (changed if noise_on == "all" else logits)[~generated])


def test_a_square_layer_learns_but_is_dropped_at_test_time():
    model = ReID(small_resnet(width=4), ClassBlock(32, 5, noise_layer="post"))
    images = torch.randn(4, 3, 32, 16)
    adapted = model.head.adapt(model(images).logits, torch.ones(4, dtype=torch.bool))
    F.cross_entropy(adapted, torch.arange(4)).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()
    model.eval()
    before = model(images)
    nn.init.normal_(model.head.noise.weight)
    for ours, theirs in zip(model(images), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise_layer": "pre"}, "noise_layer is one of bottleneck, post, not 'pre'"),
        ({"noise_on": "real"}, "noise_on is one of all, generated, not 'real'"),
        ({"num_logits": 0}, "num_logits is the number of training identities, at least 1, not 0"),
    ],
)
def test_what_is_unknown_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClassBlock(8, **{"num_logits": 5} | options)
