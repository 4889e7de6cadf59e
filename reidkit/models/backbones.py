"""Backbones: (n, 3, h, w) images to (n, dim, h', w') feature maps, without pooling and without a classifier.

Tensors are named as in the released ImageNet files (torchvision; Cadene for the SE networks; IBN-Net), so that
`load_weights` takes those files as they are.
"""

import functools
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from reidkit.progress import note


class ResNet(torchvision.models.ResNet):
    """torchvision's residual network, ending with its feature map; `last_stride` 1 keeps the last map twice as large.

    Attributes:
        dim: channels of the feature map.
    """

    def __init__(
        self, block: type[nn.Module], depths: list[int], *, last_stride: int = 1, last_relu: bool = True, **options
    ):
        super().__init__(block, depths, num_classes=1, **options)
        del self.avgpool, self.fc
        if not last_relu:
            _drop_last_relu(self.layer4[-1])
        self.dim = 512 * block.expansion
        _check_stride(last_stride)
        for conv in self.layer4[0].modules():
            if isinstance(conv, nn.Conv2d) and conv.stride == (2, 2):
                conv.stride = (last_stride, last_stride)

    def stem(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        """Convolve with stride 2 and pool with stride 2."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature map."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))


class IBN(nn.Module):
    r"""Instance normalisation of the first half of the channels, batch normalisation of the others.

    Statistics of one image hold its light and camera colour; normalising them away in half of the channels makes
    features transfer between cameras. Instance statistics are used at test time too.

    Args:
        channels: of the input; floor(channels / 2) are instance-normalised.

    Source: X. Pan et al., Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net, ECCV 2018.

    >>> IBN(5)(torch.ones(2, 5, 3, 3)).shape
    torch.Size([2, 5, 3, 3])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise; the order of the channels stays."""
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], 1)


class SqueezeExcite(nn.Module):
    r"""Weigh the channels by what the whole image holds: $u \cdot \sigma(W_2 [W_1 \bar u + b_1]_+ + b_2)$.

    Args:
        channels: of the input.
        reduction: how much narrower the hidden layer is.

    Source: J. Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.

    >>> SqueezeExcite(16)(torch.ones(2, 16, 3, 3)).shape
    torch.Size([2, 16, 3, 3])
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Weigh the channels."""
        weights = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        return x * weights.sigmoid()


class SEBottleneck(Bottleneck):
    """torchvision's bottleneck with `SqueezeExcite` before the sum (the block of SE-ResNeXt; stride in the 3x3)."""

    def __init__(self, inplanes: int, planes: int, *args, **options):
        super().__init__(inplanes, planes, *args, **options)
        self.se_module = SqueezeExcite(planes * self.expansion)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Compute relu(SE(u) + shortcut)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        u = self.relu(self.bn1(self.conv1(x)))
        u = self.relu(self.bn2(self.conv2(u)))
        return self.relu(self.se_module(self.bn3(self.conv3(u))) + shortcut)


class CaffeSEBottleneck(SEBottleneck):
    """The block of SE-ResNet: as in Caffe, the stride is in the first 1x1 convolution."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class SENet(ResNet):
    """A residual network of SE blocks with Cadene's stem: its pooling has no padding and keeps the ragged border."""

    def __init__(self, block: type[nn.Module], **options):
        super().__init__(block, [3, 4, 6, 3], **options)
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.layer0 = nn.Sequential(OrderedDict(conv1=self.conv1, bn1=self.bn1, relu1=self.relu, pool=pool))
        del self.conv1, self.bn1, self.maxpool

    def stem(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c i j"]:
        """Convolve with stride 2 and pool with stride 2."""
        return self.layer0(images)


class DenseNet(nn.Module):
    """torchvision's DenseNet-121, ending with its feature map; `last_stride` 1 drops a pooling.

    Attributes:
        dim: channels of the feature map.
    """

    def __init__(self, *, last_stride: int = 1, last_relu: bool = True):
        super().__init__()
        _check_stride(last_stride)
        self.dim, self.last_relu = 1024, last_relu
        self.features = torchvision.models.densenet121(num_classes=1).features
        if last_stride == 1:
            self.features.transition3.pool = nn.Identity()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature map."""
        maps = self.features(images)
        return maps.relu() if self.last_relu else maps


class SmallResNet(nn.Module):
    """The CPU's network: a 5x5 convolution with stride 2, pooling, and four residual blocks.

    Attributes:
        dim: channels of the feature map.
    """

    def __init__(self, *, width: int = 32, last_stride: int = 1, last_relu: bool = True):
        super().__init__()
        _check_stride(last_stride)
        self.conv1 = nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = _basic_block(width, width, 1)
        self.layer2 = _basic_block(width, 2 * width, 2)
        self.layer3 = _basic_block(2 * width, 4 * width, 2)
        self.layer4 = _basic_block(4 * width, 8 * width, last_stride)
        self.dim = 8 * width
        if not last_relu:
            _drop_last_relu(self.layer4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature map."""
        x = self.maxpool(self.bn1(self.conv1(images))).relu()  # as pooling after the ReLU, on a quarter of the numbers
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _basic_block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


class _OpenBasicBlock(BasicBlock):
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        u = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return u + (x if self.downsample is None else self.downsample(x))


class _OpenBottleneck(Bottleneck):
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        u = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(u)) + (x if self.downsample is None else self.downsample(x))


def _drop_last_relu(block: BasicBlock | Bottleneck) -> None:
    """Let a block end with its sum, as MAR does: a feature then has numbers of both signs. No tensor changes."""
    block.__class__ = _OpenBasicBlock if isinstance(block, BasicBlock) else _OpenBottleneck


def _check_stride(last_stride: int) -> None:
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride is 1 (a feature map twice as large) or 2, not {last_stride}.")


def resnet50(*, last_stride: int = 1, last_relu: bool = True) -> ResNet:
    """Make ResNet-50: 23.5 million parameters, dim 2048.

    Args:
        last_stride: of the last stage; 1 gives a 16x8 map for 256x128 images, 2 the usual 8x4.
        last_relu: False leaves out the very last ReLU, as MAR does (ledger D3.9).

    Source: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (torchvision's, stride in the 3x3).

    >>> with torch.device("meta"): resnet50()(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 2048, 16, 8])
    """
    return ResNet(Bottleneck, [3, 4, 6, 3], last_stride=last_stride, last_relu=last_relu)


def resnet34(*, last_stride: int = 1, last_relu: bool = True) -> ResNet:
    """Make ResNet-34: 21.3 million parameters, dim 512; arguments and source as in `resnet50`.

    >>> with torch.device("meta"): resnet34()(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 512, 16, 8])
    """
    return ResNet(BasicBlock, [3, 4, 6, 3], last_stride=last_stride, last_relu=last_relu)


def resnet50_ibn_a(*, last_stride: int = 1) -> ResNet:
    """Make ResNet-50-IBN-a: `IBN` after the first convolution of every bottleneck but those of the last stage.

    Args:
        last_stride: as in `resnet50`.

    Source: X. Pan et al., ECCV 2018, variant IBN-a.

    >>> with torch.device("meta"): resnet50_ibn_a()(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 2048, 16, 8])
    """
    net = resnet50(last_stride=last_stride)
    for block in (*net.layer1, *net.layer2, *net.layer3):
        block.bn1 = IBN(block.bn1.num_features)
    return net


def se_resnet50(*, last_stride: int = 1) -> SENet:
    """Make SE-ResNet-50: 26.0 million parameters, dim 2048.

    Args:
        last_stride: as in `resnet50`.

    Source: J. Hu et al., CVPR 2018, as in Cadene's conversion of the Caffe network.

    >>> with torch.device("meta"): se_resnet50()(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 2048, 16, 8])
    """
    return SENet(CaffeSEBottleneck, last_stride=last_stride)


def se_resnext50(*, last_stride: int = 1) -> SENet:
    """Make SE-ResNeXt-50 32x4d: 25.5 million parameters, dim 2048; arguments and source as in `se_resnet50`.

    >>> with torch.device("meta"): se_resnext50()(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 2048, 16, 8])
    """
    return SENet(SEBottleneck, last_stride=last_stride, groups=32, width_per_group=4)


def densenet121(*, last_stride: int = 1, last_relu: bool = True) -> DenseNet:
    """Make DenseNet-121: 7.0 million parameters, dim 1024.

    Args:
        last_stride: as in `resnet50`; here 1 leaves the last pooling out.
        last_relu: False ends with the last batch normalisation, as SLSR does (ledger D1.12).

    Source: G. Huang et al., Densely Connected Convolutional Networks, CVPR 2017 (torchvision's).

    >>> with torch.device("meta"): densenet121(last_stride=2)(torch.empty(1, 3, 256, 128)).shape
    torch.Size([1, 1024, 8, 4])
    """
    return DenseNet(last_stride=last_stride, last_relu=last_relu)


def small_resnet(*, width: int = 32, last_stride: int = 1, last_relu: bool = True) -> SmallResNet:
    """Make the small residual network: 1.2 million parameters at width 32, dim 8 x width.

    Args:
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        last_stride: of the last stage; 1 gives an 8x4 map for 128x64 images.
        last_relu: as in `resnet50`.

    >>> small_resnet(width=8)(torch.zeros(1, 3, 128, 64)).shape
    torch.Size([1, 64, 8, 4])
    """
    return SmallResNet(width=width, last_stride=last_stride, last_relu=last_relu)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    make.__name__: make
    for make in (resnet50, resnet34, resnet50_ibn_a, se_resnet50, se_resnext50, densenet121, small_resnet)
}

IMAGENET = {  # the file of weights learnt on ImageNet; its name ends with the first digits of its SHA-256
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "resnet50_ibn_a": "resnet50_ibn_a-d9d0bb7b.pth",
    "se_resnet50": "se_resnet50-ce0d4300.pth",
    "se_resnext50": "se_resnext50_32x4d-a260b3a4.pth",
}
TORCHVISION = {  # who publishes them: torchvision these, of its first version, from which re-identification starts
    "resnet34": torchvision.models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    "densenet121": torchvision.models.DenseNet121_Weights.IMAGENET1K_V1,
}
OTHERS = {  # and others these
    "resnet50_ibn_a": "the authors of IBN-Net do, in their release v1.0",
    "se_resnet50": "Cadene does, in pretrained-models.pytorch",
    "se_resnext50": "Cadene does, in pretrained-models.pytorch",
}


def imagenet_weights(backbone: str) -> Path:
    """The file of the weights of a backbone that were learnt on ImageNet, from where PyTorch keeps such files.

    What is not there is downloaded if torchvision publishes it. A file counts only with the digest in its name.

    Args:
        backbone: a key of `BACKBONES`.

    Raises:
        ValueError: nobody has published such weights, or the file is not there and cannot be had, or is another one;
            the sentence says which file goes where.
    """
    if backbone not in IMAGENET:
        raise ValueError(
            f"weights are imagenet, and nobody has learnt ImageNet with {backbone}, a network of this project; "
            "set weights to reference, scratch or a file, or choose another backbone."
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET[backbone]
    wanted = path.stem.rpartition("-")[2]
    remedy = f"put {path.name} into {path.parent}, name another file by weights, or set weights to scratch"
    if not path.is_file() and backbone in OTHERS:
        raise ValueError(
            f"weights are imagenet, and torchvision publishes none for {backbone}; {OTHERS[backbone]}: {remedy}."
        )
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(TORCHVISION[backbone].url, str(path), wanted, progress=False)
        except (OSError, RuntimeError) as error:  # no network, no right to write, or another file than was asked for
            why = " ".join(str(error).split())
            raise ValueError(
                f"weights are imagenet, and {path.name} of torchvision could not be downloaded ({why}); "
                f"where there is no network, {remedy}."
            ) from None
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise ValueError(
            f"{path} is not the file that its name says: its SHA-256 begins with {found[: len(wanted)]}; delete it, "
            "and download it again."
        )
    return path


LAST_LAYERS = ("fc.", "classifier.", "last_linear.")  # what the last layer is called in released files
CLASSIFIERS = (*LAST_LAYERS, "head.", "heads.", "bottleneck.")  # and what comes with it in those of others' projects
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")  # under which a file may hold its tensors


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module: all of its tensors, or none.

    Names that fit are taken as they are. Otherwise the file is another project's (torchreid, fast-reid, the strong
    baseline, MAR): the dict it is wrapped in and the prefix its names share are found and named in a line, which also
    says what is not used, such as rows of a classifier that the module does not have. Counters of batches, which old
    files lack, may be missing. Half precision is widened.

    Args:
        module: what to load into; its tensors' names are those of the file.
        path: a `.safetensors` file, or one of `torch.save` that holds tensors, and beside them at most numbers, texts
            and optimizers. Nothing in it is executed.

    Raises:
        ValueError: the file cannot be read, or a tensor is missing, not known to the module, of another shape, or not
            finite; the module is left as it was.

    >>> import tempfile; from safetensors.torch import save_file
    >>> file = tempfile.mkdtemp() + "/w.safetensors"; save_file({"weight": torch.ones(1, 2)}, file)
    >>> load_weights(nn.Linear(2, 1, bias=False), file)
    """
    path = Path(path)
    found, wrapper = _unwrap(path, _read(path))
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    found = {name if name in own else _new_name(name): tensor for name, tensor in found.items()}
    prefix = _prefix(path, own, found)
    used = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    used, renamed = _with_last_layer(own, used)
    rows = [name for name in used if name.startswith(CLASSIFIERS) and name not in own]
    used = {name: tensor for name, tensor in used.items() if name not in rows}
    problem = differences(own, used)
    without = f", names taken without {prefix!r}" if prefix else ""
    if problem:
        raise ValueError(f"{path} does not fit {type(module).__name__} and was not loaded ({problem}{without}).")
    spoilt = [n for n, tensor in used.items() if not tensor.isfinite().all() and own[n].isfinite().all()]
    if spoilt:
        raise ValueError(f"{path} holds NaN or infinity in {_some(spoilt)} and was not loaded; take another file.")
    module.load_state_dict({**module.state_dict(), **used})
    left = rows + [name for name in found if not name.startswith(prefix)]
    facts = [f"the weights under {wrapper!r}"] * bool(wrapper) + [f"names without {prefix!r}"] * bool(prefix)
    facts += [f"{theirs} taken as {ours}" for theirs, ours in renamed.items()]
    facts += [f"{_some(left)} not used" + " (rows of a classifier)" * (left == rows)] * bool(left)
    if facts:
        _say_once(path.resolve(), f"{path.name}: {'; '.join(facts)}")


@functools.cache
def _say_once(path: Path, line: str) -> None:
    note(line)


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, exact: bool = False) -> str:
    """How the tensors `found` differ from those a module has, in words; empty if they fit.

    Three names at most are listed. If `exact`, counters of batches must be there and types must be the same.

    >>> differences({"weight": torch.zeros(2)}, {"weigth": torch.zeros(2)})
    '1 missing: weight; 1 unknown: weigth'
    """
    own = {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}
    both = [name for name in own if name in found]
    problems = {
        "missing": [n for n in own if n not in found and (exact or not n.endswith("num_batches_tracked"))],
        "unknown": [n for n in found if n not in own],
        "of another shape": [
            f"{n} {tuple(found[n].shape)} for {tuple(own[n].shape)}" for n in both if found[n].shape != own[n].shape
        ],
        "of another type": [
            f"{n} {found[n].dtype} for {own[n].dtype}" for n in both if exact and found[n].dtype != own[n].dtype
        ],
    }
    problems = {what: names for what, names in problems.items() if names}
    each = max(1, 3 // max(1, len(problems)))
    return "; ".join(f"{len(names)} {what}: {_some(names, each)}" for what, names in problems.items())


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" * (len(names) > limit)
    return ", ".join(names[:limit]) + more


class _Ignored:
    """Stands for a number of NumPy beside the tensors (torchreid keeps its rank-1 so): no code of NumPy runs for it."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


def _read(path: Path):
    """Read what a file holds, without running any code that may be in it."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a .safetensors, .pth or .pt file of weights.")
    with path.open("rb") as file:
        start = file.read(64)
    try:
        if path.suffix == ".safetensors" or start[8:10] == b'{"':
            return load_file(path)
        with torch.serialization.safe_globals([(_Ignored, name) for name in NUMBERS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own, with advice of its own; what to do is the same
        why = "it is damaged, cut short or of another kind, and nothing was run"
        if start and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
            why = f"it is text that begins with {start[:24].decode()!r}; download the file itself"
        elif code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = (
                f"it holds {code[1]}, which is more than tensors and would have to be run, and nothing was run; "
                "save its state_dict alone, where that project is installed"
            )
        raise ValueError(f"{path} is not a readable file of weights: {why}.") from None


def _unwrap(path: Path, found) -> tuple[dict[str, Tensor], str]:
    """The named tensors of a file, and the key under which they were."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} does not hold named tensors; save a state_dict.")
    inner = {str(name): value for name, value in found.items() if isinstance(value, Mapping) and _tensors(value)}
    known = [name for name in WRAPPERS if name in inner]
    outer = _tensors(found)
    if known or (not outer and len(inner) == 1):
        name = known[0] if known else next(iter(inner))
        return _tensors(inner[name]), name
    if not outer:
        several = (
            f" itself, but several sets of them ({_some(sorted(inner))}); save one" if inner else "; save a state_dict"
        )
        raise ValueError(f"{path} does not hold named tensors{several}.")
    return outer, ""


def _tensors(found: Mapping) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _new_name(name: str) -> str:
    """torchvision's DenseNet file still says norm.1 for what is now norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _prefix(path: Path, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What stands before the names of a file, as in "module." or "backbone."; empty where names fit as they are."""
    names: dict[str, list[str]] = {}
    for name in found:
        parts = name.split(".")
        for depth in range(len(parts)):
            if (rest := ".".join(parts[depth:])) in own and not rest.endswith("num_batches_tracked"):
                names.setdefault("".join(f"{part}." for part in parts[:depth]), []).append(rest)
    most = max(map(len, names.values()), default=0)
    best = [prefix for prefix, rests in names.items() if len(rests) == most]
    whole = sum(not name.endswith("num_batches_tracked") for name in own)
    if not best or "" in best or (len(best) > 1 and most < whole):
        return ""
    fitting = [p for p in best if all(found[p + rest].shape == own[rest].shape for rest in names[p])]
    if len(fitting) > 1:
        raise ValueError(f"{path} holds these weights in several places ({_some(fitting)}); save one of them.")
    return (fitting or best)[0]


def _with_last_layer(own: Mapping[str, Tensor], found: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the last layer the name it has in the module, where the shapes are the same (MAR says fc for its agents)."""
    renamed = {}
    for ours in (name for name in own if name.startswith(LAST_LAYERS) and name not in found):
        rest = ours.partition(".")[2]
        for theirs in (layer + rest for layer in LAST_LAYERS):
            if theirs in found and theirs not in own and found[theirs].shape == own[ours].shape:
                renamed[theirs] = ours
    return {renamed.get(name, name): tensor for name, tensor in found.items()}, renamed
