"""Backbones: (n, 3, h, w) images to (n, dim, h', w') feature maps, without pooling and without a classifier.

Tensors are named as in the released ImageNet files (torchvision; Cadene for the SE networks; IBN-Net), so that
`load_weights` takes those files as they are.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
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
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
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

CLASSIFIERS = ("fc.", "classifier.", "last_linear.")  # what the last layer is called in released ImageNet files


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load weights into a module: all of its tensors, or none.

    Rows of an ImageNet classifier (`fc.*`, `classifier.*`, `last_linear.*`) that the module does not have are ignored,
    and a line says so. Counters of batches, which old files lack, may be missing. Half precision is widened.

    Args:
        module: what to load into; its tensors' names are those of the file.
        path: a `.safetensors` file, or a `.pth` or `.pt` file that holds tensors only.

    Raises:
        ValueError: the file cannot be read, or a tensor is missing, not known to the module, or of another shape; all
            such tensors are listed and the module is left as it was.

    >>> import tempfile; from safetensors.torch import save_file
    >>> file = tempfile.mkdtemp() + "/w.safetensors"; save_file({"weight": torch.ones(1, 2)}, file)
    >>> load_weights(nn.Linear(2, 1, bias=False), file)
    """
    found, own = _read_weights(Path(path)), module.state_dict()
    ignored = [name for name in found if name.startswith(CLASSIFIERS) and name not in own]
    if ignored:
        note(f"{Path(path).name}: {', '.join(ignored)} not used (rows of a classifier)")
    found = {name: tensor for name, tensor in found.items() if name not in ignored}
    problems = {
        "missing": [name for name in own if name not in found and not name.endswith("num_batches_tracked")],
        "unknown": [name for name in found if name not in own],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise ValueError(f"{path} does not fit {type(module).__name__} and was not loaded ({listed}).")
    module.load_state_dict({**own, **found})


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a file of named tensors, without running any code that it may hold."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a .safetensors, .pth or .pt file of weights.")
    try:
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # each reader has errors of its own, with advice of its own; what to do is the same
        raise ValueError(
            f"{path} is not a readable file of weights: it is damaged, or holds more than tensors, and nothing was run."
        ) from None
    found = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path} does not hold named tensors; save a state_dict.")
    # "module." is left by nn.DataParallel; torchvision's DenseNet file still says norm.1 for what is now norm1
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name.removeprefix("module.")): tensor
        for name, tensor in found.items()
    }
