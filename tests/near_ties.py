"""Embeddings that are hard to rank: duplicates, rows a few units in the last place apart, offsets, odd scales."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st


@st.composite
def near_ties(draw, longest=1e18):
    """Query and gallery, whose float64 distances are either equal or differ by more than float64 rounds.

    All rows are near a few places; some are exactly there.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, n_query, n_gallery = (
        draw(st.sampled_from([1, 2, 17, 128, 600, 1100])),
        *draw(st.tuples(st.integers(1, 6), st.integers(1, 50))),
    )
    offset, scale = (
        draw(st.sampled_from([0, 0, 1, 100, 3000, 1e6])),
        draw(st.sampled_from([1, 1, 1e-3, 1e-30, longest])),
    )
    noise, stretch = draw(st.sampled_from([0, 1e-7, 1e-5, 1e-2, 1])), draw(st.sampled_from([0, 1e-7, 1e-6, 1e-3]))
    dtypes = [np.float32, np.float16, np.float64] if scale == 1 and offset < 3000 else [np.float32]
    places = rng.standard_normal((draw(st.integers(1, 7)), d))
    places = np.sign(places) / d**0.5 if draw(st.booleans()) else places
    sides = []
    for n in (n_query, n_gallery):
        x = places[rng.integers(len(places), size=n)] * (1 + stretch * rng.integers(-3, 4, (n, 1)))
        x += noise * rng.standard_normal((n, d)) * (rng.random((n, 1)) < 0.5)
        sides.append(((x + offset) * scale).astype(draw(st.sampled_from(dtypes))))
    if draw(st.booleans()):
        sides[1][0] *= 100  # one far longer than the others
    every = np.concatenate([side.astype(float) for side in sides])
    assume(np.isfinite(every).all())
    ordered = np.sort([np.square(every - row).sum(1) for row in every], axis=1)
    gaps = np.diff(ordered, axis=1)
    assume(not ((gaps > 0) & (gaps < 1e-12 * ordered[:, 1:])).any())
    return tuple(sides)
