"""Is one method better than another? Paired differences over seeds, with an interval that knows how few they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95  # of an interval
POWER = 0.8  # chance to see an effect that is there
WITHIN = 3.0  # a factor: so far may our size be from the printed one


class Pair(NamedTuple):
    """Two methods on the queries of one seed: same city, same order.

    Attributes:
        ours, theirs: (n,) one number per query, for example its average precision.
        pids: (n,) the identity of each query.
    """

    ours: Sequence[float]
    theirs: Sequence[float]
    pids: Sequence[float]


class Comparison(NamedTuple):
    """What `compare` found, in the unit of the numbers it was given.

    Attributes:
        difference: mean over seeds of the mean paired difference.
        low, high: its 95 % interval; from one seed over identities alone.
        spread: standard deviation over the seeds; nan from one seed.
        seeds: how many.
    """

    difference: float
    low: float
    high: float
    spread: float
    seeds: int

    @property
    def visible(self) -> float:
        """The smallest true difference that so many seeds show in four cases of five; nan from one seed.

        Source: the noncentral t distribution of the paired t-test, with half the interval for its standard error.
        """
        if self.seeds < 2:
            return float("nan")
        bar = stats.t.ppf((1 + LEVEL) / 2, self.seeds - 1)
        standard_error = (self.high - self.low) / 2 / bar
        shown = optimize.brentq(lambda lift: stats.nct.sf(bar, self.seeds - 1, lift) - POWER, 0, 3 * bar + 3)
        return standard_error * shown

    def verdict(self, direction: int = 1, *, printed: float | None = None, other_cause: bool = False) -> str:
        """Say how the difference stands to a paper's claim that it is above 0 (`direction` 1) or below (-1).

        Args:
            direction: of the claim.
            printed: the difference that the paper prints, in the same unit; None where it prints none.
            other_cause: whether an honest control, which lacks what the claim is about, has the same effect.

        Returns:
            "reproduces" (the direction holds, and the printed size lies in the interval or within a factor of three),
            "same direction, other size", "same effect, other cause", "opposite", "no effect seen" (with what would have
            been seen in four cases of five), or "one seed: no verdict".

        >>> found = Comparison(0.03, 0.01, 0.05, 0.01, 3)
        >>> found.verdict(), found.verdict(printed=0.3), found.verdict(-1)
        ('reproduces', 'same direction, other size', 'opposite')
        >>> Comparison(0.03, -0.01, 0.07, 0.02, 3).verdict()
        'no effect seen (80 % power for ≥ 5.3)'
        """
        if self.seeds < 2:
            return "one seed: no verdict"
        low, high = sorted((direction * self.low, direction * self.high))
        if high < 0:
            return "opposite"
        if low <= 0:
            return f"no effect seen (80 % power for ≥ {100 * self.visible:.1f})"
        if other_cause:
            return "same effect, other cause"
        if printed is None or low <= direction * printed <= high:
            return "reproduces"
        near = 1 / WITHIN <= direction * printed / abs(self.difference) <= WITHIN
        return "reproduces" if near else "same direction, other size"


def compare(pairs: Sequence[Pair], *, shared: bool = False, n_boot: int = 1000) -> Comparison:
    r"""The mean paired difference, with an interval over seeds (Student's t) and over identities (bootstrap).

    $$ \bar\Delta = \frac1S \sum_s \frac{1}{n_s} \sum_{q} (a_{sq} - b_{sq}) \tag{paired-difference} $$

    Half the interval is $t_{S-1}\, s / \sqrt S$, with s the spread of the S differences: a bootstrap over a handful of
    seeds would be too narrow. Where each seed has a city of its own, this already contains the variation over people,
    and the bootstrap over identities is only a lower bound; where all seeds are tested on the same people, the
    variation over identities is added (root of the sum of squares).

    Args:
        pairs: one for each seed.
        shared: whether all seeds were tested on the same people, as on a real archive.
        n_boot: number of resamples.

    Returns:
        The comparison; from one seed the interval is over its identities alone.

    Raises:
        ValueError: no pair, or a pair whose rows differ in length.

    Source: B. Efron, R. Tibshirani, An introduction to the bootstrap, 1993 (cluster bootstrap, paired).

    >>> pair = Pair([0.5, 0.7], [0.4, 0.5], [1, 2])
    >>> round(compare([pair, pair, pair]).difference, 3)
    0.15
    """
    if not pairs:
        raise ValueError("nothing to compare: no seed was run with both variants.")
    groups = [_by_identity(pair) for pair in pairs]
    means = np.array([totals.sum() / sizes.sum() for totals, sizes in groups])  # [paired-difference]
    tail = (1 + LEVEL) / 2
    again = np.mean([_resample(0 if shared else (0, k), *group, n_boot) for k, group in enumerate(groups)], 0)
    half = stats.norm.ppf(tail) * again.std()
    if len(means) > 1:
        over_seeds = stats.t.ppf(tail, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
        half = np.hypot(over_seeds, half) if shared else max(over_seeds, half)
    spread = means.std(ddof=1) if len(means) > 1 else np.nan
    mean = means.mean()
    return Comparison(*(float(v) for v in (mean, mean - half, mean + half, spread)), len(means))


def _by_identity(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the differences and number of the queries of each identity."""
    ours, theirs, pids = (np.asarray(row, float) for row in pair)
    if not len(ours) == len(theirs) == len(pids) > 0:
        raise ValueError(f"rows of {len(ours)}, {len(theirs)} and {len(pids)} queries; a pair needs the same queries.")
    if not ours.ndim == theirs.ndim == pids.ndim == 1:
        raise ValueError(f"shapes {ours.shape}, {theirs.shape} and {pids.shape}; a pair is three rows of numbers.")
    _, identity = np.unique(pids, return_inverse=True)
    return np.bincount(identity, ours - theirs), np.bincount(identity)


def _resample(seed: int | tuple, totals: np.ndarray, sizes: np.ndarray, n_boot: int) -> np.ndarray:
    """The mean difference of `n_boot` bootstrap samples of the identities; the same samples for the same seed."""
    share = np.full(len(sizes), 1 / len(sizes))
    counts = np.random.default_rng(seed).multinomial(len(sizes), share, size=n_boot)
    return counts @ totals / (counts @ sizes)


def seeds_needed(effect: float, spread: float) -> int:
    """How many paired seeds show a difference of `effect` with 80 % power, when differences scatter by `spread`.

    Args:
        effect: the true mean difference, above 0.
        spread: standard deviation of the difference over seeds, in the same unit.

    Returns:
        The smallest number for which the two-sided 95 % t-interval leaves out 0; at least 2 and at most 10,000.

    Raises:
        ValueError: `effect` or `spread` is not above 0.

    Source: the noncentral t distribution of the paired t-test.

    >>> seeds_needed(2.0, 1.0), seeds_needed(1.0, 1.0)
    (5, 10)
    """
    if not effect > 0 or not spread > 0:
        raise ValueError(f"effect and spread must be above 0, not {effect} and {spread}.")
    for n in range(2, 10_000):
        bar = stats.t.ppf((1 + LEVEL) / 2, n - 1)
        if stats.nct.sf(bar, n - 1, effect / spread * np.sqrt(n)) >= POWER:
            return n
    return 10_000


class Agreement(NamedTuple):
    """How far two worlds rank the same methods alike: Kendall's tau, from -1 (reversed) over 0 to 1, and its interval.

    Attributes:
        tau: of the means over seeds.
        low, high: 95 %, over methods and seeds.
        methods: how many.
    """

    tau: float
    low: float
    high: float
    methods: int


def agreement(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], *, n_boot: int = 2000) -> Agreement:
    r"""Kendall's tau-b between the means of methods in two worlds, with a bootstrap over methods and over seeds.

    $$ \tau_b = \frac{P - Q}{\sqrt{(P + Q + T_x)(P + Q + T_y)}} \tag{tau} $$

    P and Q count the pairs of methods that both worlds put in the same and in opposite order, T those tied in one. A
    resample draws methods, and for each of them seeds, both with replacement; two copies of one method are tied in both
    worlds, and so count as no pair.

    Args:
        ours, theirs: a row a method, in the same order, of one number a seed.
        n_boot: number of resamples.

    Raises:
        ValueError: fewer than three methods, rows that do not belong together, or a method without a number.

    Source: M. G. Kendall, A new measure of rank correlation, 1938.

    >>> agreement([[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]).tau
    1.0
    """
    if len(ours) != len(theirs) or len(ours) < 3 or not all(map(len, (*ours, *theirs))):
        raise ValueError(f"rows of {len(ours)} and {len(theirs)} methods; tau needs the same three or more, each run.")
    tau = stats.kendalltau([np.mean(row) for row in ours], [np.mean(row) for row in theirs]).statistic  # [tau]
    rng, again = np.random.default_rng(0), []
    for _ in range(n_boot):
        methods = rng.integers(len(ours), size=len(ours))
        means = [np.array([rng.choice(row, len(row)).mean() for row in rows])[methods] for rows in (ours, theirs)]
        again.append(stats.kendalltau(*means).statistic)
    low, high = np.nanquantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(float(tau), float(low), float(high), len(ours))
