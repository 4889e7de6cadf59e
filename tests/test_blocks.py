"""Blocks of rows, and what embeddings are let in."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.blocks import embedding_rows, row_blocks


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 300))
def test_row_blocks_cover_all_rows_once_within_the_budget(n_rows, row_bytes, budget):
    blocks = list(row_blocks(n_rows, row_bytes, budget=budget))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(n_rows))
    assert all((b.stop - b.start) * row_bytes <= budget or b.stop - b.start == 1 for b in blocks)


def test_embedding_rows_takes_awkward_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert embedding_rows(array, "x").data_ptr() == array.ctypes.data  # shared, not copied
    array.flags.writeable = False
    for awkward in (array, array[:, ::-1], torch.tensor(array.copy(), requires_grad=True)):
        rows = embedding_rows(awkward, "x")
        assert not rows.requires_grad
        np.testing.assert_array_equal(rows, awkward.detach() if isinstance(awkward, torch.Tensor) else awkward)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3, 4)])
def test_embedding_rows_wants_rows(bad):
    with pytest.raises(ValueError, match=r"query must be embeddings of shape \(n, d\)"):
        embedding_rows(bad, "query")


def test_embedding_rows_wants_real_numbers():
    with pytest.raises(ValueError, match=r"gallery must hold floating-point embeddings, not torch\.uint8"):
        inspect.unwrap(embedding_rows)(torch.zeros(2, 3, dtype=torch.uint8), "gallery")
