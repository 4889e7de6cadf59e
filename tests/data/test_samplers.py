"""Samplers keep their rules for any data, and repeat themselves exactly."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.data.images import Augment, Images, normalise
from reidkit.data.samplers import Batches, PKSampler, PlainSampler, epoch_generator

ORACLE = np.load(Path(__file__).parents[1] / "oracles" / "p002_pk_sampler.npz")


def check_pk_epoch(pids: list[int], batches: list[list[int]], p: int, k: int) -> None:
    """The invariants of the released sampler, which any epoch of the same rule must have."""
    sizes, groups, seen = Counter(pids), Counter(), Counter()
    for batch in batches:
        assert len(batch) == p * k
        rows = [batch[i : i + k] for i in range(0, p * k, k)]
        owners = [{pids[index] for index in row} for row in rows]
        assert all(len(owner) == 1 for owner in owners)
        assert len(set.union(*owners)) == p
        groups.update(owner.pop() for owner in owners)
        seen.update(batch)
    allowed = {pid: max(size // k, 1) for pid, size in sizes.items()}
    assert all(groups[pid] <= allowed[pid] for pid in allowed)
    assert all(times == 1 for index, times in seen.items() if sizes[pids[index]] >= k)
    assert sum(groups[pid] < allowed[pid] for pid in allowed) < p  # the epoch went on as long as it could


@pytest.mark.parametrize("seed", range(3))
def test_the_invariants_hold_for_the_released_sampler_and_for_ours(seed):
    pids = ORACLE["pids"].tolist()
    official = ORACLE[f"epoch_seed{seed}"].reshape(-1, 24).tolist()
    check_pk_epoch(pids, official, 6, 4)
    ours = PKSampler(torch.tensor(pids), p=6, k=4, seed=seed)
    check_pk_epoch(pids, list(ours), 6, 4)
    assert len(ours) * 24 <= ORACLE["init_len"][seed]


@given(
    st.lists(st.integers(-1, 12), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000)
)
def test_pk_keeps_its_rule_for_any_identities(pids, p, k, seed):
    if len(set(pids)) < p:
        with pytest.raises(ValueError, match=f"wants p={p} identities and there are only {len(set(pids))}"):
            PKSampler(torch.tensor(pids), p=p, k=k)
        return
    sampler = PKSampler(torch.tensor(pids), p=p, k=k, seed=seed)
    sampler.set_epoch(seed % 7)
    assert len(sampler) == len(list(sampler)) > 0
    check_pk_epoch(pids, list(sampler), p, k)


def test_pk_is_a_pure_function_of_seed_and_epoch():
    pids = torch.arange(8).repeat_interleave(6)

    def epoch(seed, epoch):
        sampler = PKSampler(pids, p=4, k=3, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    walked = PKSampler(pids, p=4, k=3, seed=1)
    for number in range(4):
        walked.set_epoch(number)
        next(iter(walked))
        assert list(walked) == epoch(1, number)
    assert epoch(1, 0) != epoch(1, 1) and epoch(1, 0) != epoch(2, 0)


def test_renaming_the_identities_in_order_changes_nothing():
    pids = torch.tensor([0, 1, 2, 3]).repeat(5)
    assert list(PKSampler(pids, p=2, k=2)) == list(PKSampler(pids * 100 - 1, p=2, k=2))


def test_all_images_of_an_identity_have_the_same_chance():
    sampler, seen = PKSampler(torch.tensor([0] * 6 + [1] * 4), p=2, k=4), Counter()
    for epoch in range(600):
        sampler.set_epoch(epoch)
        seen.update(index for batch in sampler for index in batch)
    assert all(abs(seen[index] - 400) < 60 for index in range(6))  # 4 of 6, 600 times; 5 standard deviations


def test_all_identities_have_the_same_chance():
    """Each has one group an epoch, and the only batch of the epoch leaves one of them out."""
    sampler, seen = PKSampler(torch.tensor([0, 1, 2]).repeat(4), p=2, k=4), Counter()
    for epoch in range(600):
        sampler.set_epoch(epoch)
        seen.update(index % 3 for batch in sampler for index in batch[::4])
    assert all(abs(seen[pid] - 400) < 60 for pid in range(3))


def test_images_of_a_small_identity_are_drawn_one_by_one_with_replacement():
    """Of two images, how often the first is among three draws is binomial; it is not the same picture thrice."""
    sampler, times = PKSampler(torch.tensor([5, 5]), p=1, k=3), Counter()
    for epoch in range(800):
        sampler.set_epoch(epoch)
        times.update(batch.count(0) for batch in sampler)
    assert all(abs(times[n] - expected) < 70 for n, expected in enumerate((100, 300, 300, 100)))


@pytest.mark.parametrize("wrong", [{"p": 0}, {"k": 0}])
def test_empty_batches_are_refused(wrong):
    with pytest.raises(ValueError, match="p and k must be at least 1"):
        PKSampler(torch.arange(20), **wrong)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
def test_plain_sees_everything_once(n, batch_size, epoch):
    if n < batch_size:
        with pytest.raises(ValueError, match=f"{n} images do not fill a batch of {batch_size}"):
            PlainSampler(n, batch_size=batch_size)
        return
    sampler = PlainSampler(n, batch_size=batch_size)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    seen = [index for batch in batches for index in batch]
    assert len(batches) == len(sampler) and len(set(seen)) == len(seen) and set(seen) <= set(range(n))
    assert len(seen) == n - n % batch_size
    assert all(len(batch) == batch_size for batch in batches)
    assert batches == list(sampler)  # again the same


def test_plain_shuffles_anew_each_epoch():
    sampler = PlainSampler(100, batch_size=100)
    first = next(iter(sampler))
    sampler.set_epoch(1)
    assert first != list(range(100)) and next(iter(sampler)) != first
    assert next(iter(PlainSampler(100, batch_size=100, seed=1))) != first


def test_plain_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        PlainSampler(10, batch_size=0)


def test_streams_seeds_and_epochs_differ():
    firsts = [epoch_generator(*key).initial_seed() for key in ((0, 0), (0, 1), (1, 0), (0, 0, "a"), (0, 0, "b"))]
    assert len(set(firsts)) == 5
    with pytest.raises(ValueError, match="seed and epoch must be at least 0, not -1 and 0"):
        epoch_generator(-1, 0)


@pytest.fixture
def bank():
    pixels = torch.randint(0, 256, (24, 3, 32, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(24) % 6 + 100, torch.arange(24) % 4)


def all_equal(one, two):
    return all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


def test_a_sample_belongs_together(bank):
    labels = bank.pids - 100
    batches = Batches(bank, labels, PKSampler(labels, p=3, k=2), None)
    assert len(batches) == len(list(batches)) > 0
    for sample in batches:
        assert sample.images.dtype == torch.float32
        assert torch.equal(sample.images, normalise(bank.pixels[sample.indices]))
        assert torch.equal(sample.labels, labels[sample.indices])
        assert torch.equal(sample.camids, bank.camids[sample.indices])


def test_a_resumed_epoch_has_the_same_bits(bank):
    def make():
        return Batches(bank, bank.pids, PlainSampler(24, batch_size=8, seed=3), Augment(), seed=3)

    run, resumed = make(), make()
    epochs = []
    for epoch in range(3):
        run.set_epoch(epoch)
        epochs.append(list(run))
    resumed.set_epoch(2)
    next(iter(resumed))  # a batch that was begun and given up leaves no trace
    assert all_equal(list(resumed), epochs[2])
    assert not torch.equal(epochs[0][0].images, epochs[1][0].images)
    other = Batches(bank, bank.pids, PlainSampler(24, batch_size=8, seed=3), Augment(), seed=4)
    assert not torch.equal(next(iter(other)).images, epochs[0][0].images)


def test_the_same_batch_is_augmented_otherwise_in_the_next_epoch(bank):
    class Still:
        def set_epoch(self, epoch):
            pass

        def __iter__(self):
            return iter([list(range(24))])

    batches = Batches(bank, bank.pids, Still(), Augment())
    first = next(iter(batches)).images
    batches.set_epoch(1)
    assert not torch.equal(next(iter(batches)).images, first)


def test_one_label_for_each_image(bank):
    with pytest.raises(ValueError, match="one label for each image, not 23 for 24"):
        Batches(bank, bank.pids[1:], PlainSampler(24, batch_size=8), None)
