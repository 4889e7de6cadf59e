"""Random numbers without a state: each is a pure function of a seed, a name and the keys of what it belongs to.

So any image can be drawn alone, in any order and in any batch, and a new factor never shifts the others.
"""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray | np.generic
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(*keys: str | int | Array) -> Array:
    """One 64-bit number for each row of the broadcast keys."""
    with np.errstate(over="ignore"):
        state = np.asarray(_GOLDEN)
        for key in keys:
            if isinstance(key, str):
                key = int.from_bytes(key.encode(), "little") % (2**61 - 1)
            state = _mix(
                (state ^ np.asarray(key).astype(np.int64).astype(np.uint64)) * np.uint64(0xD6E8FEB86659FD93) + _GOLDEN
            )
    return state


class Dice:
    """Random numbers for rows of keys, e.g. one row per identity and camera.

    Args:
        keys: the seed and whatever else identifies a row; integers or integer arrays that broadcast.

    >>> few, many = Dice(0, np.arange(3)).uniform("height"), Dice(0, np.arange(5)).uniform("height")
    >>> bool((few == many[:3]).all())
    True
    """

    def __init__(self, *keys: int | Array) -> None:
        self.keys = keys

    def uniform(self, name: str, low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
        """Uniform in [low, high)."""
        unit = (_hash(name, *self.keys) >> np.uint64(11)).astype(np.float64) / 2**53
        return (low + (high - low) * unit).astype(np.float32)

    def normal(self, name: str, mean: float | Array = 0.0, sd: float | Array = 1.0) -> Array:
        """Normal, by the transform of Box and Muller."""
        radius = np.sqrt(-2 * np.log(np.maximum(self.uniform(name + "/radius"), 1e-7)))
        return (mean + sd * radius * np.cos(2 * np.pi * self.uniform(name + "/angle"))).astype(np.float32)

    def normals(self, name: str, count: int, sd: float = 1.0) -> Array:
        """`count` independent normals in a last axis."""
        return np.stack([self.normal(f"{name}{i}", sd=sd) for i in range(count)], -1)

    def coin(self, name: str, probability: float | Array) -> Array:
        """True with the given probability."""
        return self.uniform(name) < probability

    def pick(self, name: str, weights: Sequence[float] | Array) -> Array:
        """An index, drawn with the given relative weights."""
        steps = np.cumsum(np.asarray(weights, np.float64))
        return np.minimum(np.searchsorted(steps / steps[-1], self.uniform(name), side="right"), len(steps) - 1)

    def key(self, name: str) -> Array:
        """A whole number below 2**31, to seed something else."""
        return (_hash(name, *self.keys) >> np.uint64(33)).astype(np.int64)
