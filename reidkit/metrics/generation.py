"""How good generated images are, measured between their embeddings and those of the real images they imitate."""

import torch
from jaxtyping import Float
from torch import Tensor

from reidkit.distances import k_nearest
from reidkit.inputs import Array, embedding_rows, same_width

# Below these a generator has collapsed. Measured on rendered cities with the reference weights: one image with noise
# over and over has a spread of 0.03 at most, the images of one person have 0.26 or more.
COLLAPSED_SPREAD = 0.2
# There 1, 5, 30 or 100 images with noise, repeated to 250, come to 0.14 to 0.24; all blurred sixteenfold, to 0.64.
COLLAPSED_NEAREST = 0.5


@torch.no_grad()
def frechet_distance(real: Float[Array, "n d"], generated: Float[Array, "m d"]) -> float:
    r"""How far the generated embeddings lie from the real ones, in place and in shape.

    $$ d^2 = \lVert \mu_r - \mu_g \rVert^2 + \mathrm{tr}\big(C_r + C_g - 2\, (C_r C_g)^{1/2}\big) \tag{frechet} $$

    The squared 2-Wasserstein distance of the normal distributions that have the means and covariances of the two sets.
    The fewer the rows, the larger it comes out, of two halves of one set too: compare sets of one size.

    Args:
        real: (n, d) embeddings, n at least 2, also below d; any scale, and the distance grows with its square.
        generated: (m, d), of the same network.

    Returns:
        At least 0, which means the same mean and covariance; made in float64 on the CPU.

    Raises:
        ValueError: fewer than 2 rows, another width, or embeddings that are not finite.

    Source: D. Dowson, B. Landau, The Fréchet distance between multivariate normal distributions, 1982; M. Heusel et
        al., 2017, arXiv:1706.08500, which measures it on an ImageNet network.

    >>> real = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> round(frechet_distance(real, real + torch.tensor([3.0, 4.0])), 6)    # a copy, 5 away
    25.0
    """
    real, generated = _two_sets(real, generated)
    apart = (real.mean(0) - generated.mean(0)).square().sum()
    common = torch.linalg.svdvals(_root(real) @ _root(generated).T).sum()  # their squares are eigenvalues of CᵣC_g
    return max(float(apart + real.var(0).sum() + generated.var(0).sum() - 2 * common), 0.0)  # [frechet]


@torch.no_grad()
def spread_ratio(real: Float[Array, "n d"], generated: Float[Array, "m d"]) -> float:
    r"""How much the generated embeddings vary, as a share of how much the real ones do.

    $$ s = \mathrm{tr}(C_g)\, /\, \mathrm{tr}(C_r) \tag{spread} $$

    Near 0 all generated images are alike: the generator has collapsed. A handful of different images over and over
    still vary: `nearest_ratio` finds those out.

    Args:
        real: (n, d) embeddings, n at least 2.
        generated: (m, d), of the same network.

    Returns:
        At least 0; 1 where both vary alike, more where the generated ones vary more.

    Raises:
        ValueError: fewer than 2 rows, another width, embeddings that are not finite, or real ones that do not vary.

    >>> spread_ratio(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[9.0], [11.0]]))
    0.5
    """
    real, generated = _two_sets(real, generated)
    if (real == real[0]).all():
        raise ValueError("the real embeddings are all the same; there is no spread to compare with.")
    return float(generated.var(0).sum() / real.var(0).sum())  # [spread]


@torch.no_grad()
def nearest_ratio(real: Float[Array, "n d"], generated: Float[Array, "m d"]) -> float:
    r"""How far a generated embedding is from the nearest other one, as a share of the same among the real ones.

    $$ \nu = \frac{1}{m} \sum_i \min_{j \ne i} \lVert g_i - g_j \rVert \Big/
       \frac{1}{m} \sum_i \min_{j \ne i} \lVert r_i - r_j \rVert \tag{nearest} $$

    Near 0 every generated image has a twin: the generator repeats itself, be it one image or a hundred. Neighbours are
    nearer where there are more, so both sums go over the smaller number; of the larger set rows are taken evenly.

    Args:
        real: (n, d) embeddings, n at least 2.
        generated: (m, d), of the same network.

    Returns:
        At least 0; 1 where both keep the same distance.

    Raises:
        ValueError: fewer than 2 rows, another width, embeddings that are not finite, or real ones that are all twins.

    >>> nearest_ratio(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[9.0], [10.0], [9.0]])).__round__(3)
    0.167
    """
    n = min(len(real), len(generated))
    far = {}
    for name, x in zip(("real", "generated"), _two_sets(real, generated), strict=True):
        x = x[torch.linspace(0, len(x) - 1, n).round().long()]
        far[name] = k_nearest(x - x.mean(0), 2).squared[:, 1].sqrt().mean()
        if name == "real" and far[name] <= 1e-6 * x.var(0).sum().sqrt() + 1e-12 * x.abs().max():
            raise ValueError("each of the real embeddings has a twin; there is no distance to compare with.")
    return float(far["generated"] / far["real"])  # [nearest]


def _root(x: Float[Tensor, "n d"]) -> Float[Tensor, "r d"]:
    """R with R'R = the covariance of the rows of `x`, and as few rows as may be."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred


def _two_sets(real: Array, generated: Array) -> tuple[Tensor, Tensor]:
    """Both as float64 on the CPU, or why they cannot be compared."""
    named = {"real": embedding_rows(real, "real"), "generated": embedding_rows(generated, "generated")}
    for name, x in named.items():
        if len(x) < 2:
            raise ValueError(f"{name} has 1 row; a spread needs at least 2.")
        if not x.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity; give finite embeddings.")
    first, second = named.values()
    same_width(first, second, ("real", "generated"))
    return first.cpu().double(), second.cpu().double()
