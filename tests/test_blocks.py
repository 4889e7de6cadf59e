"""Blocks of rows, and what embeddings are let in."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.blocks import embedding_rows, labels, row_blocks, stored_rows


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


def test_stored_rows_share_the_memory_of_a_file(tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "x.npy", np.arange(6, dtype=dtype).reshape(2, 3))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        rows = stored_rows(mapped, "gallery")
        assert rows.data_ptr() == mapped.ctypes.data
        np.testing.assert_array_equal(rows, mapped)
    swapped = mapped.astype(mapped.dtype.newbyteorder())
    np.testing.assert_array_equal(stored_rows(swapped, "gallery"), mapped)


@pytest.mark.parametrize(
    "right", [[7, 9], np.array([7, 9], np.uint8), torch.tensor([7, 9]), torch.tensor([7, 9], dtype=torch.int16)]
)
def test_labels_may_be_a_list_an_array_or_a_tensor(right):
    assert labels(right, "pids", 2).tolist() == labels(right, "pids").tolist() == [7, 9]
    assert labels(right, "pids").dtype == np.int64


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.zeros(2, 1).long(), r"pids must be of shape \(2,\), one for each image, not \(2, 1\)"),
        ([7], r"pids must be of shape \(2,\), one for each image, not \(1,\)"),
        (7, r"not \(\)"),
        ([[7], [8, 9]], "pids must be one row of integers; these are rows of different lengths"),
        (torch.ones(2), "pids must be integers, not float32"),
        (torch.ones(2).bfloat16(), "pids must be integers, not"),
        (np.array([True, False]), "pids must be integers, not bool"),
        (["a", "b"], "pids must be integers, not <U1"),
        (None, r"not \(\)"),
    ],
)
def test_other_labels_are_refused_and_nothing_is_broadcast(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(labels)(wrong, "pids", 2)
