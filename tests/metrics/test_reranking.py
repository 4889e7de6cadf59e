"""k-reciprocal re-ranking: released results, a dense slow twin, small and degenerate sets."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from reidkit import blocks
from reidkit.metrics.reranking import (
    average_neighbours,
    expand_sets,
    jaccard_blocks,
    k_nearest,
    k_reciprocal_rerank,
    reciprocal_sets,
    soft_sets,
)

ORACLE = Path(__file__).resolve().parents[1] / "oracles" / "rerank_k_reciprocal.npz"
CASES = {
    "zhong_ranklist": {},
    "torchreid": {},
    "fastreid": {},
    "sls_cosine_input": {},
    "zhong_k1_10_k2_1": dict(k1=10, k2=1),
    "zhong_k1_20_k2_6_lam0": dict(lam=0.0),
    "zhong_k1_15_k2_4_lam0.5": dict(k1=15, k2=4, lam=0.5),
}


def dense(x, n_query, k1, k2, lam):
    """The paper, with n x n matrices and loops, in float64."""
    x = x.astype(np.float64)
    dist = np.square(x[:, None] - x[None]).sum(2)
    dist /= dist.max(1, keepdims=True)
    ranked = np.argsort(dist - 10 * np.eye(len(x)), axis=1, kind="stable")  # each image is its own nearest

    def reciprocal(i, k):
        return {j for j in ranked[i, : k + 1] if i in ranked[j, : k + 1]}

    weights = np.zeros_like(dist)
    for i in range(len(x)):
        core = reciprocal(i, k1)
        members = set(core)
        for c in core:
            small = reciprocal(c, int(np.around(k1 / 2)))
            if len(small & core) > 2 / 3 * len(small):
                members |= small
        for j in members:
            weights[i, j] = np.exp(-dist[i, j])
    weights /= weights.sum(1, keepdims=True)
    weights = np.stack([weights[ranked[i, :k2]].mean(0) for i in range(len(x))])
    shared = np.minimum(weights[:n_query, None], weights[None, n_query:]).sum(2)
    return (1 - lam) * (1 - shared / (2 - shared)) + lam * dist[:n_query, n_query:]


@pytest.mark.parametrize("tile", [1024, 50])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_released_implementations(name, tile, monkeypatch):
    monkeypatch.setitem(blocks.TILE, "cpu", tile)
    oracle = np.load(ORACLE)
    query, gallery = oracle["feat"][:60], oracle["feat"][60:]
    found = k_reciprocal_rerank(query, torch.from_numpy(gallery), **CASES[name])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, oracle[name], rtol=0, atol=5e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_query=st.integers(1, 8),
    n_gallery=st.integers(1, 30),
    k1=st.integers(1, 25),
    k2=st.integers(1, 8),
    lam=st.sampled_from([0.0, 0.3, 1.0]),
    tile=st.sampled_from([3, 10, 1024]),
)
def test_equals_the_dense_twin(seed, n_query, n_gallery, k1, k2, lam, tile):
    rng = np.random.default_rng(seed)
    n_people = max(1, (n_query + n_gallery) // 5)
    people = rng.integers(0, n_people, n_query + n_gallery)
    x = (rng.standard_normal((n_people, 6))[people] + 0.5 * rng.standard_normal((len(people), 6))).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(blocks.TILE, "cpu", tile)
        found = k_reciprocal_rerank(x[:n_query], x[n_query:], k1=k1, k2=k2, lam=lam)
    np.testing.assert_allclose(found, dense(x, n_query, k1, k2, lam), rtol=0, atol=5e-6)


@pytest.mark.parametrize("tile", [4, 7, 1024])
def test_nearest_neighbours(tile, monkeypatch, generator):
    monkeypatch.setitem(blocks.TILE, "cpu", tile)
    x = torch.randn(30, 5, generator=generator)
    between = torch.full((8, 22), torch.nan)
    found = k_nearest(x, 6, between=between)
    dist = (x[:, None].double() - x[None].double()).square().sum(2)
    expected = dist.sort(dim=1)
    assert torch.equal(found.index, expected.indices[:, :6])
    torch.testing.assert_close(found.squared.double(), expected.values[:, :6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.farthest.double(), dist.amax(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(between.double(), dist[:8, 8:], atol=1e-5, rtol=1e-5)
    assert k_nearest(x, 100).index.shape == (30, 30)


def test_each_image_is_its_own_first_neighbour_even_among_duplicates():
    x = torch.ones(12, 3)
    assert torch.equal(k_nearest(x, 4).index[:, 0], torch.arange(12))


def test_steps_on_a_chain_of_five():
    # On a line. R(i, 2): image 2 is near to 0, but 0 is not among the two nearest of 2 (1 and 3); so for all others.
    x = torch.tensor([[0.0], [1.0], [2.1], [4.0], [8.0]])
    near = k_nearest(x, 3)
    index = near.index.numpy()
    assert index.tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 3], [3, 2, 1], [4, 3, 2]]
    sets = reciprocal_sets(index, 2)
    assert [set(row.nonzero()[0].tolist()) for row in sets.toarray()] == [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}, {4}]
    # R(c, 1): 0 and 1 have each other; 2 wants 1 and 3 wants 2, in vain. {0, 1} is whole in R(0, 2), half in R(2, 2).
    small = reciprocal_sets(index, 1)
    assert [set(row.nonzero()[0].tolist()) for row in small.toarray()] == [{0, 1}, {0, 1}, {2}, {3}, {4}]
    expanded = expand_sets(sets, small)
    assert np.array_equal(expanded.toarray(), sets.toarray())
    # R(0) = {0, 1}: distances 0 and 1, farthest 64, so the weights are as 1 to exp(-1/64).
    weights = soft_sets(expanded, x, near).toarray()
    fall = np.exp(-1 / 64)
    np.testing.assert_allclose(weights[0], [1 / (1 + fall), fall / (1 + fall), 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    mean = average_neighbours(sparse.csr_array(weights), index, 2).toarray()
    np.testing.assert_allclose(mean[4], (weights[4] + weights[3]) / 2, rtol=1e-6)


def test_a_small_set_joins_only_with_more_than_two_thirds():
    core, small = np.eye(6, dtype=np.int32), np.eye(6, dtype=np.int32)
    core[0, :3] = 1
    small[1, :] = [1, 1, 1, 1, 0, 0]  # 3 of 4 are in the core: joins
    small[2, :] = [0, 1, 1, 0, 1, 0]  # 2 of 3 are: does not
    expanded = expand_sets(sparse.csr_array(core), sparse.csr_array(small)).toarray()
    assert expanded[0].tolist() == [1, 1, 1, 1, 0, 0]


def test_jaccard_does_not_depend_on_the_budget():
    rng = np.random.default_rng(0)
    weights = rng.random((20, 20)) * (rng.random((20, 20)) < 0.3) + np.eye(20)
    weights = sparse.csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    dense_rows = weights.toarray().astype(np.float64)
    shared = np.minimum(dense_rows[:6, None], dense_rows[None, 6:]).sum(2)
    for budget in (1, 5000, 2**25):
        blocks = list(jaccard_blocks(weights[:6], weights[6:].tocsc(), budget=budget))
        assert (len(blocks) == 1) == (budget == 2**25)
        found = np.concatenate([part for _, part in blocks])
        np.testing.assert_allclose(found, 1 - shared / (2 - shared), rtol=0, atol=1e-6)


def test_all_images_equal_gives_numbers():
    found = k_reciprocal_rerank(torch.ones(3, 4), torch.ones(20, 4), k1=5, k2=3)
    assert found.isfinite().all()
    assert k_reciprocal_rerank(torch.ones(1, 2), torch.ones(1, 2)).tolist() == [[0.0]]


def test_order_of_the_gallery_does_not_matter(generator):
    query, gallery = torch.randn(5, 4, generator=generator), torch.randn(40, 4, generator=generator)
    order = torch.randperm(40, generator=generator)
    expected = k_reciprocal_rerank(query, gallery, k1=8, k2=3)[:, order]
    torch.testing.assert_close(k_reciprocal_rerank(query, gallery[order], k1=8, k2=3), expected, atol=1e-5, rtol=0)


def test_half_precision_and_autocast_are_computed_in_float32(generator):
    query, gallery = torch.randn(5, 8, generator=generator).half(), torch.randn(40, 8, generator=generator).half()
    expected = k_reciprocal_rerank(query.float(), gallery.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(k_reciprocal_rerank(query, gallery), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(k1=0), "k1 and k2 must be at least 1"),
        (dict(k2=0), "k1 and k2 must be at least 1"),
        (dict(lam=1.5), "lam from 0 to 1, not k1=20, k2=6, lam=1.5"),
        (dict(query=torch.zeros(2, 4)), "query has 4 numbers per row and gallery 3"),
        (dict(gallery=torch.full((5, 3), torch.nan)), "query or gallery holds NaN or infinity"),
    ],
)
def test_wrong_calls_fail_with_a_sentence(change, sentence):
    right = dict(query=torch.zeros(2, 3), gallery=torch.ones(5, 3))
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(k_reciprocal_rerank)(**right | change)


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (3000, 1), (0, 1e-25), (0, 1e15), (0, 1e25)])
def test_far_from_the_origin_and_in_any_unit_it_is_that_of_float64(offset, scale):
    rng = np.random.default_rng(0)
    people = rng.standard_normal((8, 6))[rng.integers(8, size=50)]
    x = ((people + 0.5 * rng.standard_normal((50, 6)) + offset) * scale).astype(np.float32)
    found = k_reciprocal_rerank(x[:10], x[10:], k1=8, k2=3)
    np.testing.assert_allclose(found, dense(x.astype(float) / scale, 10, 8, 3, 0.3), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 9999), d=st.sampled_from([3, 64, 300]), k2=st.integers(1, 6))
def test_equal_images_have_equal_distances(seed, d, k2):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((30, d)).astype(np.float32)
    copies = rng.integers(1, 4, 30).repeat(2)[:30]  # one to three of each: fewer than the neighbourhoods hold
    gallery, which = gallery.repeat(copies, 0), np.arange(30).repeat(copies)
    shuffled = rng.permutation(len(which))
    query = np.concatenate([gallery[:2], rng.standard_normal((3, d)).astype(np.float32)])
    found = k_reciprocal_rerank(query, gallery[shuffled], k1=12, k2=k2).numpy()
    expected = dense(np.concatenate([query, gallery[shuffled]]), len(query), 12, k2, 0.3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    for person in range(30):
        same = which[shuffled] == person
        alike = np.ptp(expected[:, same], axis=1) < 1e-12  # a neighbourhood may end between two equal images
        assert (np.ptp(found[:, same], axis=1)[alike] == 0).all()
