"""The one-shot heads: released sizes, what each branch is, and what is compared at test time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidkit.models.backbones import small_resnet
from reidkit.models.heads import ReID
from reidkit.models.one_shot import HEADS, FSRHead, OneShotOutput, PLHead

ORACLE = np.load(Path(__file__).parents[1] / "oracles" / "p000_heads.npz")
KINDS = pytest.mark.parametrize("kind", HEADS.values())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_as_large_as_the_released_one(name):
    with torch.device("meta"):
        head = HEADS[name](2048, 751)
        output = head(torch.empty(4, 2048))
    assert sum(parameter.numel() for parameter in head.parameters()) == ORACLE[f"{name}_head_num_params_C751"]
    branches = (output.logits, output.exclusive, output.metric)[: {"pl": 2, "fsr": 3}[name]]
    assert [branch.shape[1] for branch in branches] == ORACLE[f"{name}_train_output_dims"].tolist()


@KINDS
def test_at_test_time_every_branch_equals_its_formula(kind):
    head, feature = kind(8, 5).eval(), torch.randn(6, 8)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm1d):
            (
                nn.init.uniform_(module.running_mean),
                nn.init.uniform_(module.running_var, 0.5, 2),
                nn.init.uniform_(module.bias),
            )

    def normalised(bn, x):
        return bn.weight * (x - bn.running_mean) / (bn.running_var + 1e-5).sqrt() + bn.bias

    output = head(feature)
    middle = feature
    if kind is FSRHead:
        middle = normalised(head.convolution[1], feature @ head.convolution[0].weight.T)
    _, linear, bn, _ = head.hidden
    hidden = normalised(bn, middle @ linear.weight.T + linear.bias).clamp(min=0)
    last = head.classifier[1]
    torch.testing.assert_close(output.logits, hidden @ last.weight.T + last.bias)
    linear, bn = head.exclusive
    exclusive = normalised(bn, middle @ linear.weight.T + linear.bias)
    torch.testing.assert_close(output.exclusive, exclusive / exclusive.norm(dim=1, keepdim=True))
    torch.testing.assert_close(output.metric, middle / middle.norm(dim=1, keepdim=True))
    assert type(output) is OneShotOutput and output.embedding is output.feature is feature


@KINDS
def test_dropout_after_the_unit_vector_keeps_its_length_in_expectation_only(kind):
    output = kind(400, 5).train()(torch.randn(64, 400))
    dropped = output.exclusive == 0
    assert dropped.double().mean().item() == pytest.approx(0.5, abs=0.02)
    squared = output.exclusive.square().sum(1)
    assert squared.std() > 0.01 and squared.mean().item() == pytest.approx(2, rel=0.05)  # of what is left, doubled
    torch.testing.assert_close(output.metric.norm(dim=1), torch.ones(64))
    assert not (kind(400, 5, dropout=0.0).train()(torch.randn(64, 400)).exclusive == 0).any()


def test_the_classifier_of_pl_is_half_as_wide_and_that_of_fsr_as_wide_as_the_feature():
    widths = {name: kind(12, 5).classifier[1].in_features for name, kind in HEADS.items()}
    assert widths == {"pl": 6, "fsr": 12}
    assert PLHead(12, 5, hidden=7).classifier[1].in_features == FSRHead(12, 5, hidden=7).classifier[1].in_features == 7


@KINDS
def test_layers_start_as_released(kind):
    head = kind(256, 100)
    last = head.classifier[1]
    assert last.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for linear in (module for module in head.modules() if isinstance(module, nn.Linear)):
        assert linear.bias is None or not linear.bias.any()
        if linear is not last:
            assert linear.weight.std().item() == pytest.approx((2 / linear.out_features) ** 0.5, rel=0.05)


@KINDS
def test_every_branch_reaches_the_feature_and_every_parameter_learns(kind):
    head, feature = kind(16, 5).train(), torch.randn(8, 16, requires_grad=True)
    output = head(feature)
    branches = [output.logits, output.exclusive, *([output.metric] if kind is FSRHead else [])]
    for branch in branches:
        (gradient,) = torch.autograd.grad(branch.square().sum() + branch.sum(), feature, retain_graph=True)
        assert gradient.any()
    loss = F.cross_entropy(output.logits, torch.arange(8) % 5) + output.exclusive.sum() + output.metric.sum()
    loss.backward()
    assert {name for name, p in head.named_parameters() if p.grad is None} == set()


@KINDS
def test_wrong_sizes_are_refused(kind):
    with pytest.raises(ValueError, match="num_pids is the number of training identities, at least 1, not 0"):
        kind(8, 0)


@KINDS
def test_a_network_pools_and_its_head_is_float32_under_autocast(kind):
    net, images = ReID(small_resnet(width=4), kind(32, 5)).eval(), torch.randn(6, 3, 64, 32)
    exact = net(images)
    torch.testing.assert_close(exact.feature, net.backbone(images).mean((2, 3)))
    torch.testing.assert_close(exact.logits, net.head(exact.feature).logits)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(images)
    assert {x.dtype for x in rough} == {torch.float32}
    assert not torch.equal(rough.feature, rough.feature.bfloat16().float())
    assert net.dim == 32 and {name.partition(".")[0] for name in net.state_dict()} == {"backbone", "head"}
