"""Backbones against the released networks' parameter counts, names, blocks; and files of weights, good and bad."""

import argparse
import hashlib
import math
import pickle
import shutil
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


def test_one_wrong_tensor_refuses_the_file_and_names_three(tmp_path, net, weights):
    del weights["layer1.conv1.weight"], weights["bn1.bias"]
    weights["conv1.weight"] = torch.zeros(4, 3, 7, 7)
    weights["extra"] = torch.zeros(1)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit SmallResNet and was not loaded") as caught:
        load_weights(net, write(tmp_path / "w.safetensors", weights))
    said = str(caught.value)
    assert "2 missing: bn1.bias and 1 more; 1 unknown: extra; 1 of" in said
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


def moved(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


def head(prefix, dim=32, people=5, layer="classifier"):
    """What other projects put behind a backbone: a batch normalisation and a classifier."""
    neck = {
        f"{prefix}bottleneck.{name}": torch.zeros(dim) for name in ("weight", "bias", "running_mean", "running_var")
    }
    return neck | {f"{prefix}{layer}.weight": torch.zeros(people, dim)}


def optimizer_of(weights):
    return {
        "state": {0: {"exp_avg": torch.zeros(2)}},
        "param_groups": [{"lr": 0.1, "params": list(range(len(weights)))}],
    }


def released(weights):
    """Miniatures of the files that other projects release, and what is said of each."""
    rows = {"fc.weight": torch.zeros(5, 32), "fc.bias": torch.zeros(5)}
    beside = {"epoch": 60, "optimizer": optimizer_of(weights), "scheduler": {"last_epoch": 60, "milestones": [20, 40]}}
    rank1 = {"rank1": np.float64(0.9), "mAP": np.float32(0.8), "best": np.int64(3), "flag": np.bool_(True)}
    classifier = {"module.classifier.weight": torch.zeros(5, 32), "module.classifier.bias": torch.zeros(5)}
    return {
        "torchvision": (weights | rows, "fc.weight, fc.bias not used (rows of a classifier)"),
        "torchreid": (
            {"state_dict": moved(weights, "module.") | classifier, **beside, **rank1},
            "the weights under 'state_dict'; names without 'module.'; "
            "classifier.weight, classifier.bias not used (rows of a classifier)",
        ),
        "fastreid": (
            {"model": moved(weights, "backbone.") | head("heads.", layer="cls_layer")
             | {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}, **beside},
            "the weights under 'model'; names without 'backbone.'; "
            "heads.bottleneck.weight, heads.bottleneck.bias, heads.bottleneck.running_mean and 4 more not used",
        ),
        "strong baseline": (
            moved(weights, "base.") | head(""),
            "names without 'base.'; bottleneck.weight, bottleneck.bias, bottleneck.running_mean and 2 more not used",
        ),
        "MAR": (
            moved(weights | {"fc.weight": torch.zeros(7, 32)}, "module."),
            "names without 'module.'; fc.weight not used (rows of a classifier)",
        ),
        "two prefixes": (moved(weights, "module.backbone."), "names without 'module.backbone.'"),
        "an unknown wrapper": ({"weights_of_ours": weights, "epoch": 3}, "the weights under 'weights_of_ours'"),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "project", ["torchvision", "torchreid", "fastreid", "strong baseline", "MAR", "two prefixes", "an unknown wrapper"]
)
def test_weights_of_other_projects_are_understood_and_that_is_said_once(
    tmp_path, net, weights, capsys, project, zipped
):
    content, said = released(weights)[project]
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=zipped)
    load_weights(net, tmp_path / "w.pth.tar")
    assert all(torch.equal(tensor, weights[key].to(tensor.dtype)) for key, tensor in net.state_dict().items())
    load_weights(net, tmp_path / "w.pth.tar")
    assert capsys.readouterr().out == f"w.pth.tar: {said}\n"


def test_agents_of_mar_are_the_last_layer_of_a_module_that_calls_it_otherwise(tmp_path, net, weights, capsys):
    network = nn.ModuleDict({**dict(net.named_children()), "classifier": nn.Linear(32, 7, bias=False)})
    agents = torch.rand(7, 32)
    write(tmp_path / "w.pth", moved(weights | {"fc.weight": agents}, "module."))
    load_weights(network, tmp_path / "w.pth")
    assert torch.equal(network["classifier"].weight, agents)
    assert capsys.readouterr().out == "w.pth: names without 'module.'; fc.weight taken as classifier.weight\n"


def test_names_that_fit_are_taken_as_they_are(tmp_path, capsys):
    """Parts called as others call their prefixes, with a second set of the same names one level below."""
    module = nn.ModuleDict({"module": nn.Linear(2, 2), "fc": nn.Linear(2, 2), "weights": nn.ModuleDict()})
    module["weights"].update({"module": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    copy = nn.ModuleDict({"module": nn.Linear(2, 2), "fc": nn.Linear(2, 2), "weights": nn.ModuleDict()})
    copy["weights"].update({"module": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    load_weights(copy, write(tmp_path / "w.safetensors", module.state_dict()))
    torch.testing.assert_close(dict(copy.state_dict()), dict(module.state_dict()), rtol=0, atol=0)
    parallel = nn.DataParallel(nn.Linear(2, 2))
    load_weights(nn.DataParallel(nn.Linear(2, 2)), write(tmp_path / "w.pth", parallel.state_dict()))
    assert capsys.readouterr().out == ""


def test_weights_that_are_there_twice_are_not_guessed(tmp_path, net, weights):
    both = moved(weights, "student.") | moved(weights, "teacher.")
    with pytest.raises(ValueError, match=r"holds these weights in several places \(student\., teacher\.\); save one"):
        load_weights(net, write(tmp_path / "w.pth", both))
    with pytest.raises(ValueError, match=r"several sets of them \(mine, yours\); save one\."):
        load_weights(net, write(tmp_path / "w.pth", {"mine": weights, "yours": weights}))


def test_a_file_that_fits_nowhere_is_refused_in_a_short_sentence(tmp_path, net, weights):
    with torch.device("meta"):
        other = BACKBONES["resnet50"]().state_dict()
    other = {f"base.{name}": torch.zeros(1) for name in other}
    with pytest.raises(ValueError, match=r"\d+ missing: .* more; \d+ unknown: .* and \d+ more") as caught:
        load_weights(net, write(tmp_path / "w.pth", other))
    assert len(str(caught.value)) - len(str(tmp_path)) < 300
    del weights["conv1.weight"]
    with pytest.raises(ValueError, match=r"\(1 missing: conv1\.weight, names taken without 'base\.'\)"):
        load_weights(net, write(tmp_path / "w.pth", moved(weights, "base.")))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, net, weights, value):
    weights["layer2.bn1.running_var"][1] = value
    before = net.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"holds NaN or infinity in layer2\.bn1\.running_var and was not loaded"):
        load_weights(net, write(tmp_path / "w.pth", {"state_dict": weights}))
    assert torch.equal(net.conv1.weight, before)


def test_why_a_file_cannot_be_read_is_said(tmp_path, net, weights):
    path = tmp_path / "w.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=r"it is text that begins with 'version https://git-lfs\.'; download"):
        load_weights(net, path)
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(ValueError, match=r"it holds argparse\.Namespace, .*nothing was run; save its state_dict alone"):
        load_weights(net, path)
    torch.save(weights, path)
    for length in (0, 3, 100, path.stat().st_size // 2, path.stat().st_size - 30):
        (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="not a readable file of weights: it is damaged, cut short") as caught:
            load_weights(net, tmp_path / "cut.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros(2), np.array([Malice()], dtype=object), np.str_("a")])
def test_of_numpy_no_more_than_numbers_may_stand_beside_the_tensors(tmp_path, net, weights, array, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": weights, "other": array}, tmp_path / "w.pth")
    if isinstance(array, np.str_):  # a scalar too; it is not read
        load_weights(net, tmp_path / "w.pth")
    else:
        with pytest.raises(ValueError, match="not a readable file of weights: it holds numpy"):
            load_weights(net, tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()
    assert not any("numpy" in str(known) for known in torch.serialization.get_safe_globals())


def test_every_backbone_is_listed_by_its_name():
    assert all(getattr(backbones, name) is make for name, make in BACKBONES.items())


# ------------------------------------------------------------------------------------------------------------- imagenet


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of files as PyTorch keeps them, and a small file that torchvision publishes for the thin resnet34."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    source = tmp_path / "published.pth"
    torch.save(small_resnet(width=4).state_dict(), source)
    name = f"resnet34-{hashlib.sha256(source.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(backbones.IMAGENET, "resnet34", name)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a test downloads nothing"))
    return folder, source


def test_imagenet_is_the_file_that_torchvision_publishes(published, monkeypatch):
    folder, source = published

    def download(url, path, hash_prefix, *, progress):
        assert url == torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url and not progress
        assert hash_prefix == backbones.IMAGENET["resnet34"][9:17] and Path(path).parent == folder
        shutil.copy(source, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = backbones.imagenet_weights("resnet34")
    assert path.parent == folder and path.read_bytes() == source.read_bytes()
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert backbones.imagenet_weights("resnet34") == path  # and it is downloaded once
    path.write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"not the file that its name says: its SHA-256 begins with \w{8}; delete it"):
        backbones.imagenet_weights("resnet34")


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_without_a_network_the_file_may_come_by_hand(published, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    folder, source = published
    sentence = f"could not be downloaded \\({error}\\); where there is no network, put resnet34-.* into {folder}, name"
    with pytest.raises(ValueError, match=sentence):
        backbones.imagenet_weights("resnet34")
    shutil.copy(source, folder / backbones.IMAGENET["resnet34"])
    assert backbones.imagenet_weights("resnet34").parent == folder


@pytest.mark.parametrize(("name", "sentence"), [
    ("resnet50_ibn_a", "torchvision publishes none for resnet50_ibn_a; the authors of IBN-Net do, .*: put resnet50"),
    ("se_resnet50", "torchvision publishes none for se_resnet50; Cadene does, .*: put se_resnet50-ce0d4300.pth into"),
    ("se_resnext50", "torchvision publishes none for se_resnext50; Cadene does, .*: put se_resnext50_32x4d-a26"),
    ("small_resnet", "nobody has learnt ImageNet with small_resnet, a network of this project; set weights to ref"),
])  # fmt: skip
def test_who_publishes_nothing_is_named_and_the_remedy_too(published, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        backbones.imagenet_weights(name)


def test_every_backbone_has_its_file_or_none_at_all():
    """torchvision's files are those that it names itself."""
    assert BACKBONES.keys() - backbones.IMAGENET.keys() == {"small_resnet"}
    assert backbones.TORCHVISION.keys() | backbones.OTHERS.keys() == backbones.IMAGENET.keys()
    for name, weights in backbones.TORCHVISION.items():
        assert weights.url.rpartition("/")[2] == backbones.IMAGENET[name]
