"""Clusters, and silhouettes equal to scikit-learn's."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from reidkit import blocks
from reidkit.metrics import clustering
from reidkit.metrics.clustering import angular_spread, kmeans, silhouette


def blobs(seed, n=60, d=5, k=4, spread=0.3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    return (rng.standard_normal((k, d))[labels] + spread * rng.standard_normal((n, d))).astype(np.float32), labels


def test_silhouette_by_hand():
    # On a line: 0 and 1 in one cluster, 10 and 13 in another, 20 alone.
    #   0:  a = 1, b = (10 + 13) / 2 = 11.5         1:  a = 1, b = (9 + 12) / 2 = 10.5
    #   10: a = 3, b = min((10 + 9) / 2, 10) = 9.5  13: a = 3, b = min((13 + 12) / 2, 7) = 7
    x = torch.tensor([[0.0], [1.0], [10.0], [13.0], [20.0]])
    expected = torch.tensor([10.5 / 11.5, 9.5 / 10.5, 6.5 / 9.5, 4 / 7, 0])
    torch.testing.assert_close(silhouette(x, torch.tensor([5, 5, -1, -1, 3])), expected)


@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(3, 60), k=st.integers(2, 12), tile=st.sampled_from([1, 4, 7, 1024])
)
def test_silhouette_equals_scikit_learn(seed, n, k, tile):
    x, labels = blobs(seed, n, k=k)
    if not 2 <= len(np.unique(labels)) < n:  # what scikit-learn accepts
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(blocks.TILE, "cpu", tile)
        found = silhouette(torch.from_numpy(x), torch.from_numpy(labels))
    np.testing.assert_allclose(found, silhouette_samples(x.astype(np.float64), labels), rtol=0, atol=1e-5)


def test_silhouette_in_float64_far_from_the_origin():
    x, labels = blobs(0)
    found = silhouette(x.astype(np.float64) + 100, labels)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, silhouette_samples(x.astype(np.float64), labels), rtol=0, atol=1e-9)


def test_silhouette_keeps_its_digits_in_tight_clusters():
    x, labels = blobs(0, n=200, d=64, k=20, spread=1e-4)
    np.testing.assert_allclose(
        silhouette(x, labels), silhouette_samples(x.astype(np.float64), labels), rtol=0, atol=1e-6
    )
    repeated = np.repeat(x[:10], 3, axis=0)  # copies of an image are at distance 0, exactly
    assert torch.equal(silhouette(repeated, np.repeat(np.arange(10), 3)), torch.ones(30))


def test_sums_by_cluster_are_the_same_on_other_devices():
    dist, sizes = torch.rand(5, 12, dtype=torch.float64), torch.tensor([3, 1, 6, 2])
    expected = torch.stack([part.sum(1) for part in dist.split(sizes.tolist(), dim=1)], dim=1)
    torch.testing.assert_close(clustering._sum_pieces(dist, sizes), expected)
    torch.testing.assert_close(clustering._sum_pieces_indexed(dist, sizes), expected)


def test_silhouette_of_coinciding_rows_is_zero():
    assert torch.equal(silhouette(torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])), torch.zeros(6))
    assert torch.equal(silhouette(torch.eye(3), torch.tensor([0, 1, 2])), torch.zeros(3))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.zeros(4).int(), "a silhouette needs at least 2 clusters, but labels holds 1"),
        (torch.arange(3), r"labels must be of shape \(4,\), one for each image, not \(3,\)"),
    ],
)
def test_silhouette_refuses(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(silhouette)(torch.rand(4, 2), labels)


def test_kmeans_finds_blobs_repeatably():
    x, labels = blobs(0, n=200, spread=0.02)
    found = kmeans(x, 4, seed=0)
    assert len({*zip(found.labels.tolist(), labels.tolist(), strict=True)}) == 4  # one to one
    means = np.stack([x[found.labels.numpy() == i].mean(0) for i in range(4)])
    np.testing.assert_allclose(found.centres, means, atol=1e-5)
    assert torch.equal(found.labels, kmeans(torch.from_numpy(x), 4, seed=0).labels)
    assert silhouette(x, found.labels).mean() > 0.9
    assert (found.labels.dtype, found.centres.dtype) == (torch.int64, torch.float32)


def test_kmeans_starts_elsewhere_for_another_seed_and_keeps_the_tightest_of_its_starts(generator):
    x = torch.rand(200, 4, generator=generator)  # no clusters: where it starts decides where it ends

    def spread(**start):
        found = kmeans(x, 12, **start)
        return (x - found.centres[found.labels]).square().sum().item()

    once = [spread(seed=seed) for seed in range(5)]
    assert len(set(once)) == 5
    assert spread(seed=0, n_init=20) < min(once)


@pytest.mark.parametrize(
    ("k", "sentence"),
    [(0, "k must be from 1 to the number of rows, 6"), (7, "not 7"), (3, "fewer distinct rows than k")],
)
def test_kmeans_refuses(k, sentence):
    x = torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 1], [1, 1], [1, 1]])
    with pytest.raises(ValueError, match=sentence):
        kmeans(x, k, seed=0)


def test_angles_are_those_of_a_loop_over_pairs():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(40, 3, generator=generator).double(), torch.arange(40) % 5 + 7
    found = angular_spread(x, labels)
    unit = [row / row.norm() for row in x]
    means = {}
    for label in labels.unique().tolist():
        total = sum(row for row, mine in zip(unit, labels, strict=True) if mine == label)
        means[label] = total / total.norm()

    def angle(a, b):
        return math.degrees(math.atan2(torch.linalg.cross(a, b).norm(), a @ b))

    within = [angle(row, means[int(label)]) for row, label in zip(unit, labels, strict=True)]
    between = [min(angle(a, b) for j, b in means.items() if j != i) for i, a in means.items()]
    torch.testing.assert_close(found.within, torch.tensor(within), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.between, torch.tensor(between), atol=1e-4, rtol=0)


def test_angles_know_no_length():
    x, labels = torch.randn(12, 2, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    stretched = x * torch.logspace(-6, 6, 12)[:, None]
    for one, other in zip(angular_spread(x, labels), angular_spread(stretched, labels), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_angles_go_up_to_180_degrees():
    found = angular_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(found.between, torch.tensor([180.0, 180.0]))


def test_angles_need_two_groups():
    with pytest.raises(ValueError, match="angles need two groups"):
        angular_spread(torch.eye(3), torch.zeros(3, dtype=torch.long))
