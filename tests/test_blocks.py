"""Blocks of rows within a budget of memory."""

from hypothesis import given
from hypothesis import strategies as st

from reidkit.blocks import row_blocks


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 300))
def test_row_blocks_cover_all_rows_once_within_the_budget(n_rows, row_bytes, budget):
    blocks = list(row_blocks(n_rows, row_bytes, budget=budget))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(n_rows))
    assert all((b.stop - b.start) * row_bytes <= budget or b.stop - b.start == 1 for b in blocks)
