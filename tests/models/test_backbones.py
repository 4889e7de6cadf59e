"""Backbones against the released networks' parameter counts, names, blocks; and files of weights, good and bad."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import Bottleneck

from reidkit.models import backbones
from reidkit.models.backbones import BACKBONES, IBN, CaffeSEBottleneck, SEBottleneck, load_weights, small_resnet

ORACLES = Path(__file__).parents[1] / "oracles"
COUNTS, NORMS = np.load(ORACLES / "p002_backbones.npz"), np.load(ORACLES / "p002_ibn_a.npz")
OFFICIAL = ["resnet34", "resnet50", "resnet50_ibn_a", "se_resnet50", "se_resnext50"]


def tensors(oracle, prefix):
    return {name[len(prefix) :]: torch.from_numpy(oracle[name]) for name in oracle.files if name.startswith(prefix)}


def on_meta(name, **options):
    with torch.device("meta"):
        return BACKBONES[name](**options)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_and_maps_are_those_of_the_released_network(name):
    net = on_meta(name)
    parameters = list(net.parameters())
    assert sum(p.numel() for p in parameters) == COUNTS[f"{name}__num_params"]
    assert len(parameters) == COUNTS[f"{name}__num_tensors"]
    for height in (256, 384):
        shape = net(torch.empty(1, 3, height, 128, device="meta")).shape
        assert tuple(shape) == tuple(COUNTS[f"{name}__out_shape_{height}x128"])


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_stride_halves_the_map_and_changes_no_tensor(name):
    wide, narrow = on_meta(name), on_meta(name, last_stride=2)
    images = torch.empty(2, 3, 256, 128, device="meta")
    assert wide(images).shape == (2, wide.dim, 16, 8)
    assert narrow(images).shape == (2, narrow.dim, 8, 4)
    assert {k: v.shape for k, v in wide.state_dict().items()} == {k: v.shape for k, v in narrow.state_dict().items()}
    with pytest.raises(ValueError, match=r"last_stride is 1 .* or 2, not 3"):
        on_meta(name, last_stride=3)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "densenet121"])
def test_tensors_are_named_as_in_torchvision(name):
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in getattr(torchvision.models, name)().state_dict().items()}
    ours = {k: v.shape for k, v in on_meta(name).state_dict().items()}
    assert ours == {k: v for k, v in theirs.items() if not k.startswith(("fc.", "classifier."))}


def test_with_stride_two_resnet_is_torchvisions_feature_map():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34().eval()
    ours = BACKBONES["resnet34"](last_stride=2).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    maps = {}
    theirs.layer4.register_forward_hook(lambda module, inputs, output: maps.update(out=output))
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        theirs(images)
        torch.testing.assert_close(ours(images), maps["out"])


def test_se_tensors_are_named_as_in_cadenes_files():
    names = on_meta("se_resnext50").state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"layer0", "layer1", "layer2", "layer3", "layer4"}
    assert {"layer0.conv1.weight", "layer0.bn1.running_var", "layer2.0.downsample.1.bias"} <= names
    assert {"layer1.0.se_module.fc1.weight", "layer4.2.se_module.fc2.bias", "layer3.5.conv3.weight"} <= names


def test_ibn_stands_in_every_bottleneck_of_the_first_three_stages():
    net = on_meta("resnet50_ibn_a")
    found = {name for name, module in net.named_modules() if isinstance(module, IBN)}
    blocks = {f"layer{stage}.{i}.bn1" for stage, depth in ((1, 3), (2, 4), (3, 6)) for i in range(depth)}
    assert found == blocks
    assert net.layer1[0].bn1.IN.num_features == net.layer1[0].bn1.BN.num_features == 32


def test_the_ibn_layer_equals_the_released_one():
    layer, x = IBN(10), torch.from_numpy(NORMS["x"])
    start = {f"{big}.{what}": f"{big.lower()}_{what}" for big in ("IN", "BN") for what in ("weight", "bias")}
    start |= {"BN.running_mean": "bn_running_mean", "BN.running_var": "bn_running_var"}
    layer.load_state_dict({key: torch.from_numpy(NORMS[name]) for key, name in start.items()}, strict=False)
    for source in ("ibnnet", "q213"):
        torch.testing.assert_close(layer.eval()(x), torch.from_numpy(NORMS[f"{source}__y_eval"]), rtol=0, atol=2e-5)
    torch.testing.assert_close(layer.train()(x), torch.from_numpy(NORMS["q213__y_train"]), rtol=0, atol=2e-5)
    for what in ("running_mean", "running_var"):
        after = torch.from_numpy(NORMS[f"ibnnet__bn_{what}_after"])
        torch.testing.assert_close(getattr(layer.BN, what), after, rtol=0, atol=2e-5)


def shortcut(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


@pytest.mark.parametrize(("case", "inputs", "stride"), [("block_s1", 16, 1), ("block_s2_down", 8, 2)])
def test_ibn_blocks_equal_the_released_ones(case, inputs, stride):
    block = Bottleneck(inputs, 4, stride, shortcut(inputs, 16, stride) if stride == 2 else None)
    block.bn1 = IBN(4)
    block.load_state_dict(tensors(NORMS, f"{case}__w__"), strict=False)
    x, expected = (torch.from_numpy(NORMS[f"{case}__{name}"]) for name in ("x", "y_eval"))
    torch.testing.assert_close(block.eval()(x), expected, rtol=0, atol=2e-5)
    expected = torch.from_numpy(NORMS[f"{case}__y_train"])
    torch.testing.assert_close(block.train()(x), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("case", "kind", "planes", "options"),
    [("seres", CaffeSEBottleneck, 16, {}), ("seresnext", SEBottleneck, 32, {"groups": 32, "base_width": 4})],
)
def test_se_blocks_equal_the_released_ones(case, kind, planes, options):
    block = kind(32, planes, 2, shortcut(32, 4 * planes, 2), **options)
    own = {name for name in block.state_dict() if not name.endswith("num_batches_tracked")}
    weights = tensors(COUNTS, f"{case}__w__")
    assert own == weights.keys()
    block.load_state_dict(weights, strict=False)
    x, expected = (torch.from_numpy(COUNTS[f"{case}__{name}"]) for name in ("x", "y_eval"))
    torch.testing.assert_close(block.eval()(x), expected, rtol=0, atol=2e-4)


def test_the_pool_of_an_se_stem_keeps_the_ragged_border():
    net = on_meta("se_resnet50")
    assert net.stem(torch.empty(1, 3, 256, 128, device="meta")).shape == (1, 64, 64, 32)
    assert net.layer0.pool.padding == 0


def test_the_small_network_is_small():
    net = small_resnet()
    assert (sum(p.numel() for p in net.parameters()), net.dim) == (1_227_936, 256)
    assert small_resnet(width=16)(torch.zeros(1, 3, 64, 32)).shape == (1, 128, 4, 2)
    for conv in (module for module in net.modules() if isinstance(module, nn.Conv2d)):
        fan_out = conv.out_channels * math.prod(conv.kernel_size)
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "densenet121", "small_resnet"])
def test_without_its_last_relu_a_network_is_the_same_but_for_the_sign(name):
    make = BACKBONES[name]
    usual, opened = make(), make(last_relu=False)
    opened.load_state_dict(usual.state_dict())
    images = torch.randn(2, 3, 64, 32)
    maps = opened.eval()(images)
    assert (maps < 0).any()
    torch.testing.assert_close(maps.relu(), usual.eval()(images))


def test_densenet_ends_with_a_relu():
    with torch.no_grad():
        assert BACKBONES["densenet121"]()(torch.randn(2, 3, 64, 32)).min() == 0


# ---- files of weights ----


@pytest.fixture
def net():
    return small_resnet(width=4)


@pytest.fixture
def weights():
    return {name: torch.rand_like(tensor.float()) for name, tensor in small_resnet(width=4).state_dict().items()}


def write(path, weights):
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_weights_come_back(tmp_path, net, weights, name):
    load_weights(net, write(tmp_path / name, weights))
    assert all(torch.equal(tensor, weights[key].to(tensor.dtype)) for key, tensor in net.state_dict().items())


def test_half_precision_is_widened(tmp_path, net, weights):
    load_weights(net, write(tmp_path / "w.safetensors", {key: tensor.half() for key, tensor in weights.items()}))
    assert net.conv1.weight.dtype == torch.float32
    assert torch.equal(net.conv1.weight, weights["conv1.weight"].half().float())


def test_wrapped_and_old_files_are_understood(tmp_path, net, weights):
    old = {f"module.{key}": tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    load_weights(net, write(tmp_path / "w.pth", {"epoch": 3, "state_dict": old}))
    assert torch.equal(net.layer4.conv2.weight, weights["layer4.conv2.weight"])
    dense = BACKBONES["densenet121"]()
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for key, v in dense.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_weights(dense, write(tmp_path / "dense.pth", old))


def test_rows_of_a_classifier_are_ignored_and_that_is_said(tmp_path, net, weights, capsys):
    rows = {"fc.weight": torch.zeros(5, 32), "fc.bias": torch.zeros(5), "last_linear.weight": torch.zeros(5, 32)}
    load_weights(net, write(tmp_path / "w.safetensors", weights | rows))
    said = capsys.readouterr().out
    assert said.startswith("w.safetensors: ") and all(name in said for name in rows) and "not used" in said
    assert torch.equal(net.conv1.weight, weights["conv1.weight"])


def test_a_classifier_that_the_module_has_is_loaded(tmp_path, capsys):
    module = nn.ModuleDict({"classifier": nn.Linear(2, 3, bias=False)})
    load_weights(module, write(tmp_path / "w.safetensors", {"classifier.weight": torch.ones(3, 2)}))
    assert module["classifier"].weight.sum() == 6 and capsys.readouterr().out == ""


def test_one_wrong_tensor_refuses_the_file_and_lists_all(tmp_path, net, weights):
    del weights["layer1.conv1.weight"], weights["bn1.bias"]
    weights["conv1.weight"] = torch.zeros(4, 3, 7, 7)
    weights["extra"] = torch.zeros(1)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit SmallResNet and was not loaded") as caught:
        load_weights(net, write(tmp_path / "w.safetensors", weights))
    said = str(caught.value)
    assert "2 missing: bn1.bias, layer1.conv1.weight" in said and "1 unknown: extra" in said
    assert "1 of another shape: conv1.weight (4, 3, 7, 7) for (4, 3, 5, 5)" in said
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


class Malice:
    def __reduce__(self):
        return (Path("owned").touch, ())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_broken_file_is_named(tmp_path, net, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(ValueError, match=rf"{name} is not a readable file of weights"):
        load_weights(net, tmp_path / name)


def test_a_file_with_code_is_not_run(tmp_path, net, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Malice()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not a readable file of weights"):
        load_weights(net, tmp_path / "w.pth")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(ValueError, match="not a readable file of weights"):
        load_weights(net, tmp_path / "w.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)]])
def test_a_file_without_named_tensors_is_refused(tmp_path, net, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth does not hold named tensors"):
        load_weights(net, tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path, net):
    with pytest.raises(ValueError, match=r"w\.pth does not exist"):
        load_weights(net, tmp_path / "w.pth")


def test_every_backbone_is_listed_by_its_name():
    assert all(getattr(backbones, name) is make for name, make in BACKBONES.items())
