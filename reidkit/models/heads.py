"""Heads: from a feature map to what is compared (embedding) and what is classified (logits)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Output(NamedTuple):
    """What a re-identification network returns, in training and at test time alike.

    Attributes:
        feature: (n, d) the pooled feature map, before the neck.
        embedding: (n, d) what is compared at test time; not normalised.
        logits: (n, C) one score for each training identity.
    """

    feature: Float[Tensor, "n d"]
    embedding: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]


class BNNeck(nn.Module):
    r"""Batch normalisation between feature and classifier: $e = \gamma (f - \mu) / \sigma$, $z = W e$.

    The shift of the normalisation stays 0 and the classifier has no bias, so that identities are told apart by
    directions from the origin, as they are at test time.

    Args:
        dim: length of the feature, d.
        num_pids: number of training identities, C.

    Raises:
        ValueError: fewer than one identity.

    Source: H. Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019.

    >>> BNNeck(8, 5)(torch.randn(4, 8)).logits.shape
    torch.Size([4, 5])
    """

    def __init__(self, dim: int, num_pids: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(dim)
        self.bn.bias.requires_grad_(False)
        self.classifier = _classifier(dim, num_pids)

    def forward(self, feature: Float[Tensor, "n d"]) -> Output:
        """Normalise and classify."""
        embedding = self.bn(feature)  # [neck]
        return Output(feature, embedding, self.classifier(embedding))


class NoNeck(nn.Module):
    """A classifier on the feature itself, which is also the embedding; arguments as in `BNNeck`.

    >>> output = NoNeck(8, 5)(torch.randn(4, 8))
    >>> output.embedding is output.feature
    True
    """

    def __init__(self, dim: int, num_pids: int):
        super().__init__()
        self.classifier = _classifier(dim, num_pids)

    def forward(self, feature: Float[Tensor, "n d"]) -> Output:
        """Classify."""
        return Output(feature, feature, self.classifier(feature))


class Agents(nn.Module):
    r"""Reference persons as unit vectors: $e = f / \|f\|$, $z_k = s \cos(e, a_k)$.

    The classifier's rows are compared by direction only, so that after the training each can stand for its person (an
    agent): a stranger is described by how much he is like each of them.

    Args:
        dim: length of the feature, d.
        num_pids: number of reference persons, C.
        scale: s, what the cosines are multiplied by.

    Source: H.-X. Yu et al., Unsupervised Person Re-identification by Soft Multilabel Learning, CVPR 2019, eq. 1 and 7;
    s as in the released code.

    >>> embedding = Agents(8, 5)(torch.randn(4, 8)).embedding
    >>> torch.allclose(embedding.norm(dim=1), torch.ones(4))
    True
    """

    def __init__(self, dim: int, num_pids: int, *, scale: float = 30.0):
        super().__init__()
        self.classifier, self.scale = _classifier(dim, num_pids), scale

    @property
    def agents(self) -> Float[Tensor, "c d"]:
        """The reference persons, unit rows."""
        return F.normalize(self.classifier.weight)

    def forward(self, feature: Float[Tensor, "n d"]) -> Output:
        """Scale to unit length and compare with every agent."""
        embedding = F.normalize(feature)
        return Output(feature, embedding, self.scale * embedding @ self.agents.T)  # [agents]


def _classifier(dim: int, num_pids: int) -> nn.Linear:
    if num_pids < 1:
        raise ValueError(f"num_pids is the number of training identities, at least 1, not {num_pids}.")
    linear = nn.Linear(dim, num_pids, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear


NECKS = {"bn": BNNeck, "none": NoNeck, "agents": Agents}


class ReID(nn.Module):
    """A whole network: backbone, average pooling, head.

    Weights and activations are laid out channels-last, which is faster on every device; the head computes in float32
    even under autocast.

    Args:
        backbone: images (n, 3, h, w) to feature maps (n, d, h', w'), with d as its attribute `dim`.
        head: features (n, d) to an `Output`, or another named tuple that has at least its fields.

    >>> from reidkit.models.backbones import small_resnet
    >>> backbone = small_resnet(width=4)
    >>> ReID(backbone, BNNeck(backbone.dim, 5)).eval()(torch.zeros(2, 3, 64, 32)).embedding.shape
    torch.Size([2, 32])
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.head, self.dim = head, backbone.dim

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
        """Embed and classify normalised images."""
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(images.device.type, enabled=False):
            return self.head(maps.float().mean((2, 3)))
