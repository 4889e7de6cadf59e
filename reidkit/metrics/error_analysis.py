"""Why queries fail: levels of a cause, the difference between them, and how much of the variance causes explain."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

Column = Collection  # a list, an array or a column of a table
LEVEL = 0.95  # of an interval


class Gap(NamedTuple):
    """Mean of the hard level minus mean of the easy one, with its 95 % interval, in the unit of the values."""

    difference: float
    low: float
    high: float


class Shares(NamedTuple):
    """Which share of the variance within groups levels explain, and which the queries of one identity have in common.

    The first is of the sample, the second corrected for the number of queries (the intraclass correlation).
    """

    causes: float
    identity: float


def _columns(*columns: Column) -> list[np.ndarray]:
    """As arrays, one number for each query; nothing is broadcast."""
    arrays = [np.asarray(column) for column in columns]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"columns must be equally long rows, one number for each query, not of shapes {shapes}.")
    return arrays


def thirds(values: Column, groups: Column, *, reverse: bool = False) -> np.ndarray:
    """Cut values into thirds within each group: 0 for the low, 2 for the high ones, equals together.

    Args:
        values: (n,) measured amounts of a cause.
        groups: (n,) for example the city; each is cut for itself.
        reverse: 2 for the low values.

    >>> thirds([5, 1, 3, 30, 20, 10], [0, 0, 0, 1, 1, 1]).tolist()
    [2, 0, 1, 2, 1, 0]
    """
    values, groups = _columns(values, groups)
    values = values.astype(float) * (-1 if reverse else 1)
    levels = np.zeros(len(values), int)
    for group in np.unique(groups):
        mine = values[groups == group]
        below = np.searchsorted(np.sort(mine), mine, side="left") / len(mine)
        levels[groups == group] = np.minimum(3 * below + 1e-9, 2)
    return levels


def level_gap(values: Column, levels: Column, identities: Column, *, n_boot: int = 1000, seed: int = 0) -> Gap:
    """Compare the queries for which a cause is hard with those for which it is easy, by a bootstrap over identities.

    Args:
        values: (n,) one number per query, for example its average precision.
        levels: (n,) of the cause: 0 is easy, 2 is hard, queries of other levels are left out.
        identities: (n,) whose query it is; the queries of one identity are resampled together.
        n_boot: number of resamples.
        seed: of the resampling.

    Raises:
        ValueError: a level has no query.

    Source: B. Efron, R. Tibshirani, An introduction to the bootstrap, 1993 (cluster bootstrap).

    >>> level_gap([0.5, 0.7, 0.2], [0, 0, 2], [1, 2, 2], n_boot=10).difference
    -0.4
    """
    values, levels, identities = _columns(values, levels, identities)
    values = values.astype(float)
    who = np.unique(identities, return_inverse=True)[1]
    n = who.max() + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    draws = np.vstack([np.ones(n, int), draws])  # the first one is the sample itself
    means = []
    for which in (0, 2):
        if not (mine := levels == which).any():
            raise ValueError(f"no query is of level {which}; there are {np.unique(levels).tolist()}.")
        totals, sizes = np.bincount(who[mine], values[mine], n), np.bincount(who[mine], minlength=n)
        with np.errstate(invalid="ignore"):  # a resample without any query of a level gives NaN, which is left out
            means.append(draws @ totals / (draws @ sizes))
    difference = means[1] - means[0]
    tails = np.nanquantile(difference[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Gap(*(round(float(value), 12) for value in (difference[0], *tails)))


def shares(values: Column, causes: Mapping[str, Column], identities: Column, groups: Column) -> Shares:
    """How much of the variance within groups all causes together explain, and how much one identity shares.

    Args:
        values: (n,) one number per query.
        causes: name to (n,) levels; each level counts as a category of its own.
        identities: (n,) whose query it is; two groups share nobody.
        groups: (n,) for example the city; differences between groups are taken out first.

    Source: R. A. Fisher, Statistical methods for research workers, 1925 (the intraclass correlation).

    >>> shares([1.0, 1.0, 3.0, 3.0], {"none": [0, 0, 0, 0]}, [1, 1, 2, 2], [0, 0, 0, 0])
    Shares(causes=0.0, identity=1.0)
    """
    y, identities, groups, *levels = _columns(values, identities, groups, *causes.values())
    causes, y = dict(zip(causes, levels, strict=True)), y.astype(float)
    for group in np.unique(groups):
        y[groups == group] -= y[groups == group].mean()
    columns = [np.asarray(levels) == which for levels in causes.values() for which in np.unique(levels)]
    table = np.column_stack([*columns, *(groups == group for group in np.unique(groups))]).astype(float)
    left = y - table @ np.linalg.lstsq(table, y, rcond=None)[0]
    who = np.unique(identities, return_inverse=True)[1]
    sizes = np.bincount(who)
    own, people, n = (np.bincount(who, y) / sizes)[who], len(sizes), len(y)
    between, within = (own**2).sum() / (people - 1), ((y - own) ** 2).sum() / (n - people)
    size = (n - (sizes**2).sum() / n) / (people - 1)
    explained = 1 - (left**2).sum() / (y**2).sum()
    return Shares(round(float(explained), 12), float((between - within) / (between + (size - 1) * within)))
