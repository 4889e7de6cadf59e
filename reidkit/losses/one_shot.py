r"""What images without a label can teach: the losses of "Feature Space Regularization for person re-identification with
one sample", on top of Y. Wu et al., "Progressive learning for person re-identification with one example", TIP 2019.

With identities where they are known or guessed, a training step there minimises
$\lambda L_{CE} + (1 - \lambda) (\gamma L_{Ex} + (1 - \gamma) L_{FSR})$; in the released code $\lambda = \gamma = 0.8$.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reidkit.blocks import same_precision
from reidkit.distances import euclidean, squared_euclidean
from reidkit.inputs import check_inputs

EPS = 1e-12  # keeps the root of a vanishing difference differentiable: its gradient is 0


def feature_space_regularization(
    labelled: Float[Tensor, "n d"],
    unlabelled: Float[Tensor, "m d"],
    *,
    reading: Literal["vector", "matrix", "variance"] = "vector",
    reduction: Literal["sum", "mean"] = "sum",
    squared: bool = False,
) -> Float[Tensor, ""]:
    r"""Want every labelled image equally far, on average, from the unlabelled images of the batch.

    $$ D_i = \frac{1}{m} \sum_{j=1}^{m} \lVert z_i - u_j \rVert \tag{mean-distance} $$
    $$ L = \sum_{i=1}^{n} \sum_{j=1}^{n} \sqrt{(D_i - D_j)^2 + 10^{-12}} \tag{fsr} $$

    The pairs are ordered and include i = j, so that the least value is $10^{-6} n^2$. Without labelled or unlabelled
    images the value is 0 and so is the gradient. No host-device synchronisation.

    Args:
        labelled: (n, d) unit rows, of labelled and pseudo-labelled images.
        unlabelled: (m, d) unit rows.
        reading: of the paper's "distance matrix D": "vector", the equations above; "matrix", D is (n, m), not averaged,
            and the distance is that of its rows; "variance", as "vector" but $(D_i - D_j)^2$ without the root.
        reduction: "sum" over the pairs, or their "mean".
        squared: whether squared distances are averaged to D.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: an unknown reading or reduction, or shapes that do not fit.

    Source: eqs. 3 and 4 of the paper; the defaults are those of its released code.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> feature_space_regularization(x, torch.tensor([[0.0], [0.5]]))    # D = 0.25 and 0.75, two pairs
    tensor(1.0000)
    """
    if reading not in ("vector", "matrix", "variance"):
        raise ValueError(f'reading must be "vector", "matrix" or "variance", not {reading!r}.')
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "sum" or "mean", not {reduction!r}.')
    check_inputs(labelled=("float n d", labelled), unlabelled=("float m d", unlabelled))
    if not len(labelled) or not len(unlabelled):
        return labelled[:0].sum() + unlabelled[:0].sum()
    dist = (squared_euclidean if squared else euclidean)(labelled, unlabelled)
    if reading != "matrix":
        dist = dist.mean(1, keepdim=True)  # [mean-distance]
    gaps = (dist[:, None] - dist).square().sum(2)
    if reading != "variance":
        gaps = (gaps + EPS).sqrt()
    return gaps.sum() if reduction == "sum" else gaps.mean()  # [fsr]


class ExclusiveLoss(nn.Module):
    r"""Want each unlabelled image near its own row of a table, where it was last, and far from the rows of all others.

    $$ L = -\frac{1}{n} \sum_i \log \frac{\exp(t\, v_{k_i}^\top f_i)}{\sum_j \exp(t\, v_j^\top f_i)} \tag{exclusive} $$
    $$ v_{k_i} \leftarrow \frac{v_{k_i} + f_i}{\lVert v_{k_i} + f_i \rVert} \tag{table} $$

    The table starts at zero (copy another start into `.table`), so a first batch costs ln(num_images). It is a constant
    for the gradient and changes in `update` only, which may be called as soon as the loss is computed.

    Args:
        num_images: number of unlabelled images, at least 1: the rows of the table.
        dim: length of an embedding, at least 1.
        temperature: t, above 0.

    Raises:
        ValueError: a number is out of range.

    Source: eq. 1 and 2 of the paper, and the released code of Wu et al., which changes the table in the backward pass.

    >>> loss, x, k = ExclusiveLoss(3, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([2])
    >>> first = loss(x, k)
    >>> loss.update(x, k)
    >>> first, loss(x, k)    # ln 3, and ln(1 + 2 exp(-10)) now that row 2 is the image
    (tensor(1.0986), tensor(9.0833e-05))
    """

    table: Float[Tensor, "num_images dim"]

    def __init__(self, num_images: int, dim: int, *, temperature: float = 10.0):
        super().__init__()
        if num_images < 1 or dim < 1 or not temperature > 0:
            given = f"{num_images}, {dim} and {temperature}"
            raise ValueError(f"num_images and dim must be at least 1 and temperature above 0, not {given}.")
        self.temperature = temperature
        self.register_buffer("table", torch.zeros(num_images, dim))

    def forward(self, embeddings: Float[Tensor, "n d"], indices: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compare (n, d) unit rows, images `indices` of the unlabelled ones, with the table; no image costs nothing.

        Raises:
            ValueError: shapes do not fit the table or each other.
        """
        self._check(embeddings, indices)
        x, table = same_precision(embeddings, self.table)
        with torch.autocast(x.device.type, enabled=False):
            return _TableCrossEntropy.apply(x, table, indices.long(), self.temperature)

    @torch.no_grad()
    def update(self, embeddings: Float[Tensor, "n d"], indices: Int[Tensor, " n"]) -> None:
        """Move rows towards their images, one after the other: an image that is there twice moves its row twice."""
        self._check(embeddings, indices)
        for k, x in zip(indices.long().split(1), embeddings.to(self.table.dtype).split(1), strict=True):
            self.table.index_copy_(0, k, F.normalize(self.table[k] + x))  # [table]

    def _check(self, embeddings: Tensor, indices: Tensor) -> None:
        n, d = self.table.shape
        check_inputs(
            embeddings=(f"float n {d}", embeddings), indices=("int n", indices), table=(f"float {n} {d}", self.table)
        )


class _TableCrossEntropy(torch.autograd.Function):
    """Cross-entropy of the products with a table; its gradient is made at once, so that the table may change after."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, indices: Tensor, temperature: float) -> Tensor:
        logits = x @ table.T * temperature
        loss = F.cross_entropy(logits, indices, reduction="sum") / max(1, len(x))  # [exclusive]
        if ctx.needs_input_grad[0]:
            excess = logits.softmax(1).scatter_add_(1, indices[:, None], logits.new_full((len(x), 1), -1))
            ctx.save_for_backward(excess @ table * (temperature / max(1, len(x))))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor) -> tuple[Tensor, None, None, None]:
        return scale * ctx.saved_tensors[0], None, None, None
