"""The head: the neck's formula, one type of output in both modes, float32 under autocast."""

import pytest
import torch
from torch import nn

from reidkit.models.backbones import small_resnet
from reidkit.models.heads import NECKS, Agents, BNNeck, NoNeck, Output, ReID


@pytest.fixture
def images():
    return torch.randn(6, 3, 64, 32)


def reid(neck="bn"):
    backbone = small_resnet(width=4)
    return ReID(backbone, NECKS[neck](backbone.dim, 5))


def test_the_neck_equals_its_formula():
    neck, feature = BNNeck(7, 5).double(), torch.randn(9, 7).double()
    nn.init.uniform_(neck.bn.weight)
    mean, variance = feature.mean(0), feature.var(0, unbiased=False)
    output = neck.train()(feature)
    expected = neck.bn.weight * (feature - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(output.embedding, expected)
    torch.testing.assert_close(output.logits, expected @ neck.classifier.weight.T)
    assert output.feature is feature
    running = 0.1 * mean, 0.9 + 0.1 * feature.var(0)
    expected = neck.bn.weight * (feature - running[0]) / (running[1] + 1e-5).sqrt()
    torch.testing.assert_close(neck.eval()(feature).embedding, expected)


def test_agents_compare_directions_only():
    head, feature = Agents(7, 5, scale=20).double(), torch.randn(9, 7).double()
    output = head(feature)
    cosines = torch.stack([torch.stack([f @ a / f.norm() / a.norm() for a in head.classifier.weight]) for f in feature])
    torch.testing.assert_close(output.logits, 20 * cosines)
    torch.testing.assert_close(output.embedding, feature / feature.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head(3 * feature).logits, output.logits)
    torch.testing.assert_close(head.agents.norm(dim=1), torch.ones(5).double())


def test_the_shift_of_the_neck_stays_zero():
    neck = BNNeck(7, 5)
    optimizer = torch.optim.Adam(neck.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        neck(torch.randn(9, 7)).logits.square().sum().backward()
        optimizer.step()
    assert not neck.bn.bias.any() and (neck.bn.weight != 1).all()


@pytest.mark.parametrize("kind", [BNNeck, NoNeck])
def test_the_classifier_starts_small_and_has_no_bias(kind):
    classifier = kind(400, 100).classifier
    assert classifier.bias is None and classifier.weight.shape == (100, 400)
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_without_a_neck_the_feature_is_compared_and_classified(images):
    net = reid(neck="none")
    output = net(images)
    assert output.embedding is output.feature
    torch.testing.assert_close(output.logits, output.feature @ net.head.classifier.weight.T)


@pytest.mark.parametrize("neck", ["bn", "none"])
@pytest.mark.parametrize("training", [True, False])
def test_training_and_testing_return_the_same_type(images, neck, training):
    net = reid(neck=neck).train(training)
    output = net(images)
    assert type(output) is Output and net.dim == 32
    assert [tuple(x.shape) for x in output] == [(6, 32), (6, 32), (6, 5)]
    torch.testing.assert_close(net.eval()(images).feature, net.backbone(images).mean((2, 3)))


@pytest.mark.parametrize("neck", ["bn", "none"])
def test_the_head_is_float32_under_autocast(images, neck):
    net = reid(neck=neck).eval()
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.backbone(images).dtype == torch.bfloat16
        rough = net(images)
    assert {x.dtype for x in rough} == {torch.float32}
    torch.testing.assert_close(rough.feature, exact.feature, rtol=0.1, atol=0.1)
    assert not torch.equal(rough.feature, rough.feature.bfloat16().float())  # the mean itself was not rounded


def test_every_parameter_but_the_shift_learns(images):
    net = reid()
    nn.functional.cross_entropy(net(images).logits, torch.tensor([0, 1, 2, 3, 4, 0])).backward()
    still = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"head.bn.bias"}


def test_at_test_time_an_embedding_does_not_depend_on_its_batch(images):
    net = reid().eval()
    together = net(images).embedding
    alone = torch.cat([net(image[None]).embedding for image in images])
    torch.testing.assert_close(alone, together)


def test_weights_are_laid_out_channels_last():
    net = reid()
    assert net.backbone.layer2.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("head", NECKS.values())
def test_a_head_for_nobody_is_refused(head):
    with pytest.raises(ValueError, match="num_pids is the number of training identities, at least 1, not 0"):
        head(8, 0)
