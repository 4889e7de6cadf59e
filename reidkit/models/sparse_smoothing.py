"""What SLSR puts on a backbone: a hidden layer before the classifier, and the reading of the "noise layer" after it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reidkit.models.heads import Output


class ClassBlock(nn.Module):
    r"""A hidden layer and a classifier; what is compared at test time is the feature below both.

    The paper's "linear layer on top of the softmax layer" for noisy labels can be read in two ways (D1.3): as the
    hidden layer that its code has, or as a square layer $z' = W z + b$ that starts as the identity and is dropped at
    test time.

    Args:
        dim: length of the feature, d.
        num_logits: number of training identities, and 1 more for "all in one".
        hidden: units of the hidden layer.
        dropout: probability, 0 to 1, before the classifier.
        noise_layer: "bottleneck" (the hidden layer is all there is) or "post" (the square layer too).
        noise_on: which logits the square layer changes: "all" or those of "generated" images.

    Raises:
        ValueError: fewer than one logit, or another reading.

    Source: released code of SLSR (ClassBlock); the square layer after S. Sukhbaatar et al., Training convolutional
    networks with noisy labels, 2015.

    >>> ClassBlock(8, 5)(torch.randn(4, 8)).logits.shape
    torch.Size([4, 5])
    """

    def __init__(
        self, dim: int, num_logits: int, *, hidden: int = 512, dropout: float = 0.5, noise_layer: str = "bottleneck",
        noise_on: str = "all"
    ):  # fmt: skip
        super().__init__()
        allowed = {"noise_layer": ("bottleneck", "post"), "noise_on": ("all", "generated")}
        for name, value in (("noise_layer", noise_layer), ("noise_on", noise_on)):
            if value not in allowed[name]:
                raise ValueError(f"{name} is one of {', '.join(allowed[name])}, not {value!r}.")
        if num_logits < 1:
            raise ValueError(f"num_logits is the number of training identities, at least 1, not {num_logits}.")
        middle = nn.Linear(dim, hidden)
        self.hidden = nn.Sequential(middle, nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1), nn.Dropout(dropout))
        self.classifier = nn.Linear(hidden, num_logits)
        nn.init.kaiming_normal_(middle.weight, mode="fan_out")
        nn.init.normal_(self.hidden[1].weight, mean=1.0, std=0.02)
        nn.init.normal_(self.classifier.weight, std=0.001)
        for bias in (middle.bias, self.classifier.bias):
            nn.init.zeros_(bias)
        self.noise, self.noise_on = None, noise_on
        if noise_layer == "post":
            self.noise = nn.Linear(num_logits, num_logits)
            nn.init.eye_(self.noise.weight)
            nn.init.zeros_(self.noise.bias)

    def forward(self, feature: Float[Tensor, "n d"]) -> Output:
        """Classify."""
        return Output(feature, feature, self.classifier(self.hidden(feature)))

    def adapt(self, logits: Float[Tensor, "n c"], generated: Bool[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """The logits that the loss sees in training: changed by the square layer, where there is one."""
        if self.noise is None:
            return logits
        adapted = self.noise(logits)  # [noise-layer]
        return adapted if self.noise_on == "all" else torch.where(generated[:, None], adapted, logits)
