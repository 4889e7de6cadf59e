r"""Ranking losses: Lin, of "Ranking and classification-driven feature learning for person re-identification", and the
one it grew from: X. Wang et al., "Ranked list loss for deep metric learning", CVPR 2019, arXiv:1903.03238.

Both pull an anchor's positives into a ball around it, no closer, and push its negatives away, the near ones hardest.
The other half of the paper, label smoothing, is PyTorch's own: `F.cross_entropy(..., label_smoothing=0.1)`.
"""

import math
import sys
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reidkit.blocks import same_precision
from reidkit.inputs import check_inputs


def lin_loss(
    embeddings: Float[Tensor, "n d"],
    pids: Int[Tensor, " n"],
    *,
    radius: float = 0.7,
    temperature: float = 1.0,
    weighting: Literal["code", "eq3"] = "code",
    detach_weights: bool = False,
    eps: float = 1e-5,
) -> Float[Tensor, ""]:
    r"""Want positives within a radius of the anchor, and negatives at 2, as far as unit vectors can be.

    $$ L^+_i = \frac{\sum_{j \in P_i} [d_{ij} - r]_+}{|P_i| + \epsilon} \tag{lin-pull} $$
    $$ w_{ij} = e^{T (2 - d_{ij})} \ \text{("code")} \quad \text{or} \quad
       e^{-d_{ij}} e^{T (2 - d_{ij})} \ \text{("eq3")} \tag{lin-weight} $$
    $$ L^-_i = \frac{\sum_{j \in N_i} w_{ij} (2 - d_{ij})}{\sum_{j \in N_i} w_{ij} + \epsilon} \tag{lin-push} $$
    $$ L = \frac{1}{n} \sum_i (L^+_i + L^-_i) \tag{lin} $$

    $d$ is the Euclidean distance of the embeddings scaled to length 1; $P_i$ holds the other images of i's identity,
    $N_i$ the images of others with $d_{ij} < 2$. An empty set costs nothing. As the weights are normalised, "eq3" with
    T is "code" with T + 1 up to $\epsilon$: T = 1 in the paper is T = 2 in the released code.

    Args:
        embeddings: (n, d), n at least 1, any scale; normalised inside. No host-device synchronisation.
        pids: (n,) identities, any integers.
        radius: r, a distance from 0 to 2.
        temperature: T, at least 0.
        weighting: "code", as released, or "eq3", as printed.
        detach_weights: whether the weights count as constants; in the released code they do not.
        eps: at least 0; the paper has none.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: a parameter is out of range, or `pids` does not fit `embeddings`.

    Source: eq. 1 to 5 of the paper, and its released code.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    >>> lin_loss(x, torch.tensor([7, 7, 9]))    # 0, 1 pull by √2 - 0.7; 1, 2 push by 2 - √2; 0, 2 are 2 apart
    tensor(0.8667)
    """
    if not 0 <= radius <= 2:
        raise ValueError(f"radius must be from 0 to 2, which no two unit vectors exceed, not {radius}.")
    if weighting not in ("code", "eq3"):
        raise ValueError(f'weighting must be "code" or "eq3", not {weighting!r}.')
    _check(temperature=temperature, eps=eps)
    dist, positive, negative = _pairs(embeddings, pids)
    room = 2 - dist
    exponent = temperature * room if weighting == "code" else temperature * room - dist  # [lin-weight]
    pull = _mean((dist - radius).clamp(min=0), positive, eps)  # [lin-pull]
    push = _weighted_mean(room, exponent, negative & (dist < 2), eps, detach_weights)  # [lin-push]
    return (pull + push).mean()  # [lin]


def ranked_list_loss(
    embeddings: Float[Tensor, "n d"],
    pids: Int[Tensor, " n"],
    *,
    alpha: float = 1.2,
    margin: float = 0.4,
    temperature: float = 10.0,
    detach_weights: bool = False,
    eps: float = 1e-5,
) -> Float[Tensor, ""]:
    r"""Want positives nearer to the anchor than alpha less a margin, and negatives farther than alpha.

    $$ L = \frac{1}{n} \sum_i \Big( \frac{\sum_{j \in P_i} [d_{ij} - (\alpha - m)]_+}{|P_i| + \epsilon}
       + \frac{\sum_{j \in N_i} w_{ij} (\alpha - d_{ij})}{\sum_{j \in N_i} w_{ij} + \epsilon} \Big), \quad
       w_{ij} = e^{T (\alpha - d_{ij})} \tag{ranked-list} $$

    $d$ and $P_i$ are those of `lin_loss`; $N_i$ holds the images of others with $d_{ij} < \alpha$. An empty set costs
    nothing.

    Args:
        embeddings: (n, d), n at least 1, any scale; normalised inside. No host-device synchronisation.
        pids: (n,) identities, any integers.
        alpha: a distance above 0; unit vectors are at most 2 apart.
        margin: m, from 0 to alpha.
        temperature: T, at least 0.
        detach_weights: whether the weights count as constants; in the released code they do not.
        eps: at least 0.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: a parameter is out of range, or `pids` does not fit `embeddings`.

    Source: Wang et al. in the form of the ranking paper's released code, which adds the two parts (no factor 1/2) and
    divides the first by the number of all positives, not only of those too far away.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    >>> ranked_list_loss(x, torch.tensor([7, 7, 9]))    # pull √2 - 0.8 twice; all negatives are beyond 1.2
    tensor(0.4095)
    """
    if not 0 <= margin <= alpha or alpha == 0:
        raise ValueError(f"alpha must be above 0 and margin from 0 to alpha, not alpha={alpha} and margin={margin}.")
    _check(temperature=temperature, eps=eps)
    dist, positive, negative = _pairs(embeddings, pids)
    room = alpha - dist
    pull = _mean((dist - (alpha - margin)).clamp(min=0), positive, eps)
    push = _weighted_mean(room, temperature * room, negative & (dist < alpha), eps, detach_weights)
    return (pull + push).mean()  # [ranked-list]


def _pairs(embeddings: Tensor, pids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (n, n) of the embeddings scaled to length 1; who is whose positive, who is whose negative."""
    check_inputs(1, embeddings=("float n d", embeddings), pids=("int n", pids))
    x = _moderate(same_precision(embeddings, embeddings)[0])
    with torch.autocast(x.device.type, enabled=False):
        gram = x @ x.T
    scale = gram.diagonal().clamp(min=1e-24).rsqrt()
    cos = gram * scale[:, None] * scale  # n x n numbers to scale are fewer than n x d
    own = cos.diagonal()  # 1, or 0 where an embedding is 0
    dist = (own[:, None] + own - 2 * cos).clamp(min=1e-12).sqrt()
    same = pids[:, None] == pids
    return dist, same ^ torch.eye(len(x), dtype=torch.bool, device=x.device), ~same


def _moderate(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows times powers of 2, so that none has squares too large or too small to be added; no other bit changes."""
    top = x.detach().abs().amax(1, keepdim=True)
    return x * (torch.frexp(top).mantissa / top.clamp(min=torch.finfo(x.dtype).tiny))


def _mean(values: Tensor, members: Tensor, eps: float) -> Float[Tensor, " n"]:
    """Each row's mean over its members, 0 without any."""
    return values.masked_fill(~members, 0).sum(1) / (members.sum(1).clamp(min=1) + eps)


def _weighted_mean(values: Tensor, exponent: Tensor, members: Tensor, eps: float, detach: bool) -> Float[Tensor, " n"]:
    """Each row's mean over its members with weights exp(exponent), 0 without any."""
    # One more column, of value 0 and weight eps, makes this a softmax, which no temperature overflows.
    last = exponent.new_full((len(exponent), 1), math.log(max(eps, sys.float_info.min)))
    weights = torch.cat([exponent.masked_fill(~members, -torch.inf), last], dim=1).softmax(1)[:, :-1]
    return ((weights.detach() if detach else weights) * values).sum(1)


def _check(**parameters: float) -> None:
    for name, value in parameters.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, not {value}.")
