"""Same person or not? Error rates of a threshold on the distance of a pair, and the point where the two are equal."""

import torch
from torch import Tensor


def _sorted(name: str, distances: Tensor) -> Tensor:
    distances = torch.as_tensor(distances).detach().flatten().double()
    if distances.numel() == 0:
        raise ValueError(f"{name} is empty; give the distance of at least one pair.")
    if not torch.isfinite(distances).all():
        raise ValueError(f"{name} holds NaN or infinity; distances must be finite.")
    return distances.sort().values


def error_rates(positive: Tensor, negative: Tensor, thresholds: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""How often a threshold on the distance accepts two identities as one, and how often it rejects one identity.

    $$ \mathrm{FMR}(t) = \frac{|\{d^- \le t\}|}{n^-} \tag{fmr} \qquad
       \mathrm{FNMR}(t) = \frac{|\{d^+ > t\}|}{n^+} \tag{fnmr} $$

    Args:
        positive: distances of pairs of the same identity, any shape, >= 0.
        negative: distances of pairs of two identities, any shape, >= 0.
        thresholds: (t,) where to look; if not given, half-way between each two neighbouring distances (and at the
            largest), which gives every pair of rates that any threshold reaches, except that of no pair accepted.

    Returns: thresholds (t,), FMR (t,) and FNMR (t,), float64, fractions. FMR rises with t, FNMR falls.

    Raises:
        ValueError: no pair of one kind, or a distance that is not finite.

    Source: ISO/IEC 19795-1, false match rate and false non-match rate.

    >>> t, fmr, fnmr = error_rates(torch.tensor([0.2, 0.6]), torch.tensor([0.5, 0.9]), torch.tensor([0.55]))
    >>> fmr.item(), fnmr.item()
    (0.5, 0.5)
    """
    positive, negative = _sorted("positive", positive), _sorted("negative", negative)
    if thresholds is None:
        seen = torch.cat([positive, negative]).unique()
        thresholds = torch.cat([(seen[:-1] + seen[1:]) / 2, seen[-1:]])
    thresholds = thresholds.to(positive)
    let_in = torch.searchsorted(negative, thresholds, right=True) / negative.numel()  # [fmr]
    let_by = torch.searchsorted(positive, thresholds, right=True) / positive.numel()
    return thresholds, let_in.double(), 1 - let_by.double()  # [fnmr]


def equal_error_rate(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    r"""The error rate of the threshold at which both kinds of error are (most nearly) equally frequent.

    $$ t^* = \arg\min_t |\mathrm{FMR}(t) - \mathrm{FNMR}(t)|, \quad
       \mathrm{EER} = \tfrac{1}{2} (\mathrm{FMR}(t^*) + \mathrm{FNMR}(t^*)) \tag{eer} $$

    Args:
        positive: distances of pairs of the same identity, any shape, >= 0.
        negative: distances of pairs of two identities, any shape, >= 0.

    Returns: the rate, a fraction (0 separates perfectly, 0.5 is chance), and $t^*$, the smallest if several tie.

    Raises:
        ValueError: no pair of one kind, or a distance that is not finite.

    Source: ISO/IEC 19795-1.

    >>> rate, threshold = equal_error_rate(torch.tensor([0.1, 0.3]), torch.tensor([0.7, 0.9]))
    >>> rate, round(threshold, 3)
    (0.0, 0.5)
    """
    thresholds, fmr, fnmr = error_rates(positive, negative)
    best = (fmr - fnmr).abs().argmin()  # [eer]
    return float((fmr[best] + fnmr[best]) / 2), float(thresholds[best])
