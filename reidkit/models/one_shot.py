"""Heads of the one-shot recipes: one feature, and three things to ask of it.

Whether the identity is known or guessed (logits), which unlabelled image it is (exclusive), and how far it is from the
others (metric). What is compared at test time is the feature itself, below all of them.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class OneShotOutput(NamedTuple):
    """What a one-shot network returns, in training and at test time alike.

    Attributes:
        feature: (n, d) the pooled feature map.
        embedding: (n, d) the same: what is compared at test time; not normalised.
        logits: (n, C) one score for each training identity.
        exclusive: (n, d) for `ExclusiveLoss`; unit rows at test time, in training with dropout after that.
        metric: (n, d) for `feature_space_regularization`, unit rows.
    """

    feature: Float[Tensor, "n d"]
    embedding: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]
    exclusive: Float[Tensor, "n d"]
    metric: Float[Tensor, "n d"]


class PLHead(nn.Module):
    r"""Two branches on the feature: a classifier with a hidden layer, and a unit vector for the exclusive loss.

    Args:
        dim: length of the feature, d.
        num_pids: number of training identities, C.
        hidden: length of the classifier's hidden layer; 0 takes half of d.
        dropout: probability, 0 to 1, before both layers of the classifier and after the unit vector.

    Raises:
        ValueError: fewer than one identity.

    Source: released code of Y. Wu et al., "Progressive learning for person re-identification with one example".

    >>> import torch
    >>> PLHead(8, 5)(torch.randn(4, 8)).logits.shape
    torch.Size([4, 5])
    """

    def __init__(self, dim: int, num_pids: int, *, hidden: int = 0, dropout: float = 0.5):
        super().__init__()
        if num_pids < 1:
            raise ValueError(f"num_pids is the number of training identities, at least 1, not {num_pids}.")
        hidden = hidden or dim // 2
        self.hidden = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, num_pids))
        self.exclusive = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim))
        self.dropout = nn.Dropout(dropout)
        self.apply(_initialise)
        nn.init.normal_(self.classifier[1].weight, std=0.001)

    def forward(self, feature: Float[Tensor, "n d"]) -> OneShotOutput:
        """Branch off the feature."""
        return self.branch(feature, feature)

    def branch(self, feature: Float[Tensor, "n d"], middle: Float[Tensor, "n d"]) -> OneShotOutput:
        """Give all that is asked of what lies between the feature and the branches."""
        exclusive = self.dropout(F.normalize(self.exclusive(middle)))
        return OneShotOutput(feature, feature, self.classifier(self.hidden(middle)), exclusive, F.normalize(middle))


class FSRHead(PLHead):
    r"""The two branches behind a 1x1 convolution and batch normalisation, where the space is regularised.

    After pooling there is one position left, so the convolution is a matrix: $m = \text{BN}(W f)$.

    Args:
        dim, num_pids, dropout: as in `PLHead`.
        hidden: as in `PLHead`, but 0 takes all of d.

    Source: released code of "Feature Space Regularization for person re-identification with one sample".

    >>> import torch
    >>> FSRHead(8, 5)(torch.randn(4, 8)).metric.norm(dim=1).allclose(torch.ones(4))
    True
    """

    def __init__(self, dim: int, num_pids: int, *, hidden: int = 0, dropout: float = 0.5):
        super().__init__(dim, num_pids, hidden=hidden or dim, dropout=dropout)
        self.convolution = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim))
        self.convolution.apply(_initialise)

    def forward(self, feature: Float[Tensor, "n d"]) -> OneShotOutput:
        """Convolve, then branch."""
        return self.branch(feature, self.convolution(feature))


def _initialise(module: nn.Module) -> None:
    """Start a layer as the released code does."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


HEADS = {"pl": PLHead, "fsr": FSRHead}
