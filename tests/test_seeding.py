"""runs.seed: everything that draws starts from it, and the number of threads is the one that was asked for."""

import random
from collections.abc import Iterator

import numpy
import pytest
import torch

from reidkit import runs

DRAWS = {"Python": random.random, "NumPy": numpy.random.rand, "PyTorch": lambda: torch.rand(()).item()}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("library", DRAWS)
def test_a_seed_draws_the_same_again_and_another_one_otherwise(library):
    def first_after(seed: int) -> float:
        runs.seed(seed)
        return DRAWS[library]()

    assert first_after(3) == first_after(3) != first_after(4)


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_work_as_were_asked_for(threads, before):
    torch.set_num_threads(before)
    runs.seed(0, threads=threads)
    assert torch.get_num_threads() == threads


def test_one_thread_works_where_nobody_asked():
    torch.set_num_threads(2)
    runs.seed(0)
    assert torch.get_num_threads() == 1
