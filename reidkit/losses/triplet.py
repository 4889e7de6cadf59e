"""Batch-hard triplet loss: A. Hermans, L. Beyer, B. Leibe, "In defense of the triplet loss for person
re-identification", arXiv:1703.07737."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reidkit.distances import euclidean
from reidkit.inputs import check_inputs


def batch_hard_triplet_loss(
    embeddings: Float[Tensor, "n d"], pids: Int[Tensor, " n"], *, margin: float = 0.3
) -> Float[Tensor, ""]:
    r"""Want each anchor's farthest positive nearer, by a margin, than its nearest negative.

    $$ L = \frac{1}{|A|} \sum_{i \in A}
       \Big[ m + \max_{y_j = y_i,\, j \ne i} d_{ij} - \min_{y_j \ne y_i} d_{ij} \Big]_+ \tag{batch-hard} $$

    A holds the anchors that have both a positive and a negative in the batch. No anchor, no loss: the value is 0 and so
    is the gradient. No host-device synchronisation.

    Args:
        embeddings: (n, d), n at least 1; not normalised here, so their squares must be finite in their precision.
        pids: (n,) identities, any integers.
        margin: m, in Euclidean distance, at least 0.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: `margin` is negative, or `pids` does not fit `embeddings`.

    Source: eq. 5 of the paper (a sum there, a mean in all released code).

    >>> x = torch.tensor([[0.0], [1.0], [1.1]])
    >>> batch_hard_triplet_loss(x, torch.tensor([7, 7, 9]))    # anchors 0.3 + 1 - 1.1 and 0.3 + 1 - 0.1
    tensor(0.7000)
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, not {margin}.")
    check_inputs(1, embeddings=("float n d", embeddings), pids=("int n", pids))
    dist = euclidean(embeddings, embeddings)
    same = pids[:, None] == pids
    positive = same ^ torch.eye(len(pids), dtype=torch.bool, device=pids.device)

    farthest = dist.masked_fill(~positive, 0).amax(1)
    nearest = dist.masked_fill(same, torch.inf).amin(1)  # infinite without negatives: the hinge is then 0
    hinge = (margin + farthest - nearest).clamp(min=0)  # [batch-hard]
    anchors = positive.any(1) & ~same.all(1)
    return (hinge * anchors).sum() / anchors.sum().clamp(min=1)
