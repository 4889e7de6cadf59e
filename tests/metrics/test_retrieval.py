"""CMC, mAP and mINP: by hand, against a slow reference, against released evaluators, and in bounded memory."""

import inspect
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from near_ties import near_ties
from reidkit import distances
from reidkit.embed import search
from reidkit.metrics import retrieval
from reidkit.metrics.retrieval import bootstrap_interval, evaluate, evaluate_distances

ORACLES = Path(__file__).resolve().parents[1] / "oracles"
AP = ("mean", "trapezoid", "mar")


def reference(dist, query_pids, query_camids, gallery_pids, gallery_camids, ap, invalid, max_rank):
    """The protocol as one would explain it: sort, delete junk, walk down the list."""
    aps, inps, cmc, valid = [], [], np.zeros(max_rank), []
    for row, pid, camid in zip(dist, query_pids, query_camids, strict=True):
        order = np.argsort(row, kind="stable")
        ranked = [(gallery_pids[j], gallery_camids[j]) for j in order]
        right = [p == pid for p, c in ranked if p != -1 and not (p == pid and c == camid)]
        valid.append(any(right))
        if not any(right):
            continue
        hits, area, before = 0, 0.0, 1.0
        for position, is_right in enumerate(right):
            if position and not (ap == "mar" and hits == 0):
                before = hits / position
            hits += is_right
            if is_right:
                precision = hits / (position + 1)
                area += precision if ap == "mean" else (before + precision) / 2
        aps.append(area / hits)
        last = max(position for position, is_right in enumerate(right) if is_right)
        inps.append(hits / (last + 1))
        cmc[right.index(True) :] += 1
    total = len(aps) if invalid == "skip" else len(valid)
    return cmc / total, sum(aps) / total, sum(inps) / total, aps, inps, valid


def assert_same(ranking, expected, atol=1e-12):
    for found, value in zip(ranking[:6], expected, strict=True):
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(value, float), rtol=0, atol=atol)


# One query, identity 7 under camera 1. The gallery by distance, and what each image is:
#   0.1  identity 9, camera 2   wrong                       0.4  identity -1             junk, deleted
#   0.2  identity 7, camera 1   junk: same camera, deleted  0.5  identity 7, camera 3   right
#   0.3  identity 7, camera 2   right
# Without junk: wrong, right, right. Hits at ranks 1 and 2 (from 0), n = 2.
#   precisions at the hits        p  = 1/2, 2/3           mean       (1/2 + 2/3) / 2                  = 7/12
#   just before them              p' = 0/1, 1/2           trapezoid  ((0 + 1/2)/2 + (1/2 + 2/3)/2) / 2 = 5/12
#   MAR puts the first p' at 1    p' = 1, 1/2             mar        ((1 + 1/2)/2 + (1/2 + 2/3)/2) / 2 = 2/3
# CMC: nothing at 1, found from 2 on. INP: 2 positives, the last at place 3: 2/3.
FIVE = dict(
    query_pids=torch.tensor([7]),
    query_camids=torch.tensor([1]),
    gallery_pids=torch.tensor([7, 9, -1, 7, 7]),
    gallery_camids=torch.tensor([3, 2, 1, 2, 1]),
)
FIVE_DIST = torch.tensor([[0.5, 0.1, 0.4, 0.3, 0.2]])


@pytest.mark.parametrize(("ap", "expected"), [("mean", 7 / 12), ("trapezoid", 5 / 12), ("mar", 2 / 3)])
def test_five_images_by_hand(ap, expected):
    from_distances = evaluate_distances(FIVE_DIST, **FIVE, ap=ap, max_rank=4)
    from_embeddings = evaluate(torch.zeros(1, 1), FIVE_DIST.T.clone(), **FIVE, ap=ap, max_rank=4)
    for ranking in (from_distances, from_embeddings):
        assert_same(ranking, ([0, 1, 1, 1], expected, 2 / 3, [expected], [2 / 3], [True]))
        assert ranking.rank1 == 0 and ranking.rank(2) == 1
        assert ranking.protocol == f"single query · AP {ap} · 1/1 queries valid · gallery 5"


@pytest.fixture(scope="module")
def oracle():
    return dict(np.load(ORACLES / "eval_market_style.npz"))


def labels_of(oracle):
    return [oracle[name] for name in ("query_id", "query_cam", "gallery_id", "gallery_cam")]


def test_equals_torchreid_fastreid_and_the_ranking_papers_code(oracle):
    labels = labels_of(oracle)
    for ranking in (
        evaluate_distances(oracle["dist"], *labels),
        evaluate(oracle["query_feat"], oracle["gallery_feat"], *labels),
    ):
        for source in ("torchreid", "fastreid", "baseline002"):
            np.testing.assert_allclose(ranking.cmc, oracle[f"{source}_cmc"], atol=1e-6)
        np.testing.assert_allclose(ranking.mAP, oracle["torchreid_mAP"], atol=1e-6)
        np.testing.assert_allclose(ranking.ap, oracle["fastreid_AP"], atol=1e-12)
        np.testing.assert_allclose(ranking.inp, oracle["fastreid_INP"], atol=1e-12)
        np.testing.assert_array_equal(ranking.valid, oracle["valid_query"].astype(bool))
        assert (ranking.cmc.dtype, ranking.ap.dtype, ranking.valid.dtype) == (torch.float64, torch.float64, torch.bool)


def test_equals_the_trapezoid_scripts(oracle):
    labels, valid = labels_of(oracle), oracle["valid_query"].astype(bool)
    skip = evaluate_distances(oracle["dist"], *labels, ap="trapezoid")
    np.testing.assert_allclose(skip.ap, oracle["layumi_AP"][valid], atol=1e-12)
    np.testing.assert_allclose(skip.mAP, oracle["layumi_mAP_valid"], atol=1e-6)
    np.testing.assert_allclose(skip.mAP, oracle["pl_mAP"], atol=1e-6)
    np.testing.assert_allclose(skip.cmc, oracle["pl_cmc"], atol=1e-6)
    zero = evaluate_distances(oracle["dist"], *labels, ap="trapezoid", invalid="zero")
    np.testing.assert_allclose(zero.mAP, oracle["layumi_mAP_div_all"], atol=1e-6)
    np.testing.assert_allclose(zero.cmc, oracle["layumi_cmc_div_all"], atol=1e-6)
    assert torch.equal(zero.ap, skip.ap)
    assert "52/60 queries valid (the others count 0)" in zero.protocol


def test_equals_mar(oracle):
    ranking = evaluate_distances(oracle["dist"], *labels_of(oracle), ap="mar")
    np.testing.assert_allclose(100 * ranking.mAP, oracle["mar_mAP_percent"], atol=1e-5)
    np.testing.assert_allclose(100 * ranking.cmc, oracle["mar_cmc_percent"], atol=1e-5)


def test_junk_left_in_would_be_seen(oracle):
    query_pids, query_camids, gallery_pids, gallery_camids = labels_of(oracle)
    kept = np.where(gallery_pids == -1, -2, gallery_pids)  # -2 is nobody, but is not deleted
    ranking = evaluate_distances(oracle["dist"], query_pids, query_camids, kept, gallery_camids)
    np.testing.assert_allclose(ranking.mAP, oracle["torchreid_mAP_if_junk_kept"], atol=1e-6)
    np.testing.assert_allclose(ranking.cmc, oracle["torchreid_cmc_if_junk_kept"], atol=1e-6)


@st.composite
def cases(draw):
    """Few identities, cameras and coordinates: ties, junk, distractors and queries without a positive in most cases."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_query, n_gallery = draw(st.integers(1, 8)), draw(st.integers(1, 40))
    n_pids, n_cams, span = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    labels = (
        rng.integers(1, n_pids + 1, n_query),
        rng.integers(0, n_cams, n_query),
        rng.integers(-1, n_pids + 1, n_gallery),
        rng.integers(0, n_cams, n_gallery),
    )
    query, gallery = (rng.integers(-span, span + 1, (n, 2)).astype(np.float32) for n in (n_query, n_gallery))
    switches = draw(st.tuples(st.sampled_from(AP), st.sampled_from(["skip", "zero"]), st.integers(1, 50)))
    return query, gallery, labels, switches


@pytest.mark.parametrize("ranks", ["sorting", "counting"])
@given(case=cases(), block_bytes=st.sampled_from([1, 1000, 2**20]))
def test_equals_the_slow_reference(ranks, case, block_bytes):
    query, gallery, labels, (ap, invalid, max_rank) = case
    dist = np.square(query[:, None] - gallery[None]).sum(2)  # small whole numbers: no rounding anywhere
    switches = dict(ap=ap, invalid=invalid, max_rank=max_rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_BYTES", block_bytes)
        patch.setattr(retrieval, "_ranks_by_sorting", getattr(retrieval, f"_ranks_by_{ranks}"))
        _, _, gallery_pids, _ = labels
        positive = (labels[0][:, None] == gallery_pids) & (labels[1][:, None] != labels[3])
        if not positive.any():
            with pytest.raises(ValueError, match=f"all {len(query)} queries have no image of the same identity"):
                evaluate(query, gallery, *labels, **switches)
            return
        expected = reference(dist, *labels, **switches)
        assert_same(evaluate(query, gallery, *labels, **switches), expected)
        assert_same(evaluate_distances(dist, *labels, **switches), expected)


def make(rng, n_query=40, n_gallery=500, d=16, n_pids=12, n_cams=4):
    query, gallery = (rng.standard_normal((n, d)).astype(np.float32) for n in (n_query, n_gallery))
    pids, camids = rng.integers(1, n_pids + 1, n_query), rng.integers(0, n_cams, n_query)
    return query, gallery, (pids, camids, rng.integers(-1, n_pids + 3, n_gallery), rng.integers(0, n_cams, n_gallery))


def test_embeddings_and_their_distances_rank_alike():
    query, gallery, labels = make(np.random.default_rng(0))
    gallery *= np.random.default_rng(1).uniform(0.5, 2, (len(gallery), 1)).astype(np.float32)  # norms matter
    dist = np.linalg.norm(query[:, None].astype(float) - gallery[None], axis=2)
    for ap in AP:
        expected = reference(dist, *labels, ap, "skip", 50)
        assert_same(evaluate(query, gallery, *labels, ap=ap), expected)
        assert_same(evaluate_distances(dist, *labels, ap=ap), expected)


def test_result_does_not_depend_on_the_block_budget_and_the_buffer_obeys_it(monkeypatch):
    query, gallery, labels = make(np.random.default_rng(0))
    whole = evaluate(query, gallery, *labels)
    sizes = []
    for budget in (1, 50_000, 2**30):
        monkeypatch.setattr(retrieval, "BLOCK_BYTES", budget)
        blocks = []
        original = retrieval._ranks_by_sorting
        spy = lambda scores, *pairs: blocks.append(scores.shape[0]) or original(scores, *pairs)  # noqa: E731, B023
        with monkeypatch.context() as patch:
            patch.setattr(retrieval, "_ranks_by_sorting", spy)
            ranking = evaluate(query, gallery, *labels)
        assert_same(ranking, whole[:6])
        assert max(blocks) == 1 or max(blocks) * len(gallery) * 4 <= budget
        sizes.append(max(blocks))
    assert sizes[0] == 1 < sizes[1] < sizes[2] == len(query)


def test_takes_tensors_and_arrays_of_any_number_type():
    query, gallery, labels = make(np.random.default_rng(0))
    query, gallery = query.round(), gallery.round()  # exact in every precision
    expected = evaluate(query.astype(np.float64), gallery, *labels)[:6]
    tensors = [torch.from_numpy(a).int() for a in labels]
    assert_same(evaluate(torch.from_numpy(query).requires_grad_(), gallery, *tensors), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(evaluate(query, torch.from_numpy(gallery), *tensors), expected)
    dist = np.abs(np.random.default_rng(2).integers(0, 30, (len(query), len(gallery))))
    expected = evaluate_distances(dist.astype(np.float64), *labels)[:6]
    for same in (dist, dist.astype(np.uint8), dist.astype(np.float16), torch.from_numpy(dist).bfloat16()):
        assert_same(evaluate_distances(same, *labels), expected)
    dist.flags.writeable = False
    assert_same(evaluate_distances(dist, *labels), expected)


def test_ties_keep_the_order_of_the_gallery():
    one = torch.tensor([1])
    for order, place in (([1, 2, 2], 1), ([2, 1, 2], 2), ([2, 2, 1], 3)):
        gallery_pids, camids = torch.tensor(order), torch.tensor([2, 2, 2])
        for ranking in (
            evaluate(torch.ones(1, 4), torch.ones(3, 4), one, one, gallery_pids, camids),
            evaluate_distances(torch.zeros(1, 3), one, one, gallery_pids, camids),
        ):
            assert ranking.mAP == pytest.approx(1 / place)


@pytest.mark.parametrize("ranks", ["sorting", "counting"])
def test_infinite_distance_comes_last_but_before_nothing_deleted(ranks, monkeypatch):
    monkeypatch.setattr(retrieval, "_ranks_by_sorting", getattr(retrieval, f"_ranks_by_{ranks}"))
    dist = torch.tensor([[torch.inf, 0.5, torch.inf, torch.inf]])  # junk, wrong, junk, right
    labels = (*torch.tensor([[7], [1]]), torch.tensor([7, 9, -1, 7]), torch.tensor([1, 1, 2, 2]))
    assert evaluate_distances(dist, *labels).mAP == 0.5


def test_cmc_is_padded_beyond_the_gallery_and_ranks_are_told():
    ranking = evaluate_distances(FIVE_DIST, **FIVE, max_rank=30)
    assert ranking.cmc.tolist() == [0.0] + [1.0] * 29
    assert (ranking.rank1, ranking.rank5, ranking.rank10, ranking.rank20) == (0, 1, 1, 1)
    short = evaluate_distances(FIVE_DIST, **FIVE, max_rank=5)
    assert short.rank5 == 1
    with pytest.raises(ValueError, match="rank 10 is not known: this ranking was made with max_rank=5"):
        _ = short.rank10


def test_rank_k_looks_at_the_first_k():
    """Twenty queries, each right at another place of the same list."""
    people, zeros = torch.arange(20), torch.zeros(20, dtype=torch.long)
    ranking = evaluate_distances(people.expand(20, 20), people, zeros, people, zeros + 1)
    assert (ranking.rank1, ranking.rank5, ranking.rank10, ranking.rank20) == (1 / 20, 5 / 20, 10 / 20, 1)


def test_renaming_identities_and_cameras_and_shuffling_the_gallery_change_nothing():
    rng = np.random.default_rng(0)
    query, gallery, (query_pids, query_camids, gallery_pids, gallery_camids) = make(rng)
    expected = evaluate(query, gallery, query_pids, query_camids, gallery_pids, gallery_camids)[:6]
    order = rng.permutation(len(gallery))
    name = np.concatenate([rng.permutation(np.arange(100, 130)) * 10**10, [-1]])  # name[-1] is -1: junk stays junk
    renamed = evaluate(
        query, gallery[order], name[query_pids], -query_camids, name[gallery_pids[order]], -gallery_camids[order]
    )
    assert_same(renamed, expected)


@pytest.mark.parametrize(
    ("pids", "camids", "reason"),
    [
        ([8, 9], [1, 2], "query and gallery share no pid: number both by the same identities"),
        ([7, 9], [0, 0], "every image has camid 0: give the camera of each image"),
        ([7, 9], [0, 1], "check that pids and camids belong to the rows in this order"),
    ],
)
def test_no_valid_query_says_why(pids, camids, reason):
    query = torch.zeros(2, 3), torch.tensor([7, 7]), torch.tensor([0, 0])
    gallery = torch.zeros(2, 3), torch.tensor(pids), torch.tensor(camids)
    for invalid in ("skip", "zero"):
        with pytest.raises(ValueError, match="all 2 queries have no image of the same identity under another") as error:
            evaluate(*(a for pair in zip(query[:1], gallery[:1], strict=True) for a in pair), *query[1:], *gallery[1:],
                     invalid=invalid)  # fmt: skip
        assert reason in str(error.value)


def test_junk_is_nobodys_match():
    labels = torch.tensor([-1]), torch.tensor([0]), torch.tensor([-1, -1]), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="all 1 queries"):
        evaluate_distances(torch.zeros(1, 2), *labels)


WRONG = {
    "query must be embeddings": dict(query=torch.zeros(3)),
    "query has 3 numbers per row and gallery 2": dict(query=torch.zeros(2, 3)),
    r"query_pids must be of shape \(2,\), one for each image, not \(3,\)": dict(query_pids=torch.ones(3).int()),
    r"gallery_camids must be of shape \(4,\)": dict(gallery_camids=torch.ones(4, 1).int()),
    "query_camids must be integers, not float32": dict(query_camids=torch.ones(2)),
    "gallery must hold floating-point": dict(gallery=torch.ones(4, 2).int()),
    "1 rows of gallery hold NaN or infinity, the first is row 3": dict(
        gallery=torch.tensor([[0.0, 1], [0, 1], [0, 1], [torch.nan, 1]])
    ),
    "2 rows of query hold NaN or infinity, the first is row 0": dict(query=torch.full((2, 2), torch.inf)),
    "ap must be": dict(ap="step"),
    "invalid must be": dict(invalid="ignore"),
    "max_rank must be at least 1": dict(max_rank=0),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_calls_fail_with_a_sentence(sentence):
    right = dict(
        query=torch.ones(2, 2),
        gallery=torch.ones(4, 2),
        query_pids=torch.tensor([1, 2]),
        query_camids=torch.tensor([0, 0]),
        gallery_pids=torch.tensor([1, 1, 2, 2]),
        gallery_camids=torch.tensor([0, 1, 0, 1]),
    )
    evaluate(**right)
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(evaluate)(**right | WRONG[sentence])


def test_wrong_distances_fail_with_a_sentence():
    call = inspect.unwrap(evaluate_distances)
    with pytest.raises(ValueError, match="dist holds NaN between rows 0 and 0"):
        call(torch.where(FIVE_DIST > 0.4, torch.nan, FIVE_DIST), **FIVE)
    with pytest.raises(ValueError, match=r"dist must be \(n_query, n_gallery\)"):
        call(torch.zeros(5), **FIVE)
    with pytest.raises(ValueError, match=r"gallery_pids must be of shape \(1,\)"):
        call(FIVE_DIST.T, **FIVE | dict(query_pids=torch.ones(5).int(), query_camids=torch.ones(5).int()))


def test_bootstrap_interval_of_two_identities_by_enumeration():
    # Identity 1 has values 0 and 0, identity 2 has 0.8: the four equally likely draws have means 0, 4/15, 4/15, 0.8.
    values, groups = torch.tensor([0.0, 0.0, 0.8]), torch.tensor([1, 1, 2])
    means = [
        sum((0, 0.8)[g] for g in draw) / sum((2, 1)[g] for g in draw) for draw in itertools.product((0, 1), (0, 1))
    ]
    low, high = bootstrap_interval(values, groups, n_boot=2000, level=0.9)
    assert (low, high) == (pytest.approx(min(means)), pytest.approx(max(means)))
    low, high = bootstrap_interval(values, groups, n_boot=2000, level=0.2)
    assert (low, high) == (pytest.approx(sorted(means)[1]), pytest.approx(sorted(means)[2]))


def test_bootstrap_interval_has_the_width_of_the_central_limit_theorem():
    rng = np.random.default_rng(0)
    values = rng.normal(0.6, 0.2, 400)
    low, high = bootstrap_interval(values, np.arange(400), n_boot=4000)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    groups = np.repeat(np.arange(100), 4)  # four copies of each value know no more than one
    low4, high4 = bootstrap_interval(values[groups], groups, n_boot=4000)
    assert high4 - low4 == pytest.approx(2 * 1.96 * values[:100].std() / 10, rel=0.1)
    assert bootstrap_interval(values, np.arange(400), seed=1) == bootstrap_interval(values, np.arange(400), seed=1)
    assert bootstrap_interval(values, np.arange(400), seed=1) != bootstrap_interval(values, np.arange(400), seed=2)


def test_bootstrap_interval_refuses():
    call, two = inspect.unwrap(bootstrap_interval), np.array([1, 2])
    with pytest.raises(ValueError, match="equally long, non-empty"):
        call(np.zeros(3), two)
    with pytest.raises(ValueError, match="equally long, non-empty"):
        call(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="values must be finite"):
        call(np.array([0, np.nan]), two)
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        call(np.zeros(2), two, level=95)


@pytest.mark.parametrize("ranks", ["sorting", "counting"])
@given(sides=near_ties(), seed=st.integers(0, 9999), pairs=st.sampled_from([3, 2**18]), ap=st.sampled_from(AP))
def test_ranks_are_those_of_a_stable_sort_of_float64_distances(ranks, sides, seed, pairs, ap):
    rng, (query, gallery) = np.random.default_rng(seed), sides
    labels = [rng.integers(low, high, len(side)) for side in sides for low, high in ((-(side is gallery), 4), (0, 3))]
    dist = np.array([np.square(gallery.astype(float) - row).sum(1) for row in query.astype(float)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "PAIRS", pairs)
        patch.setattr(retrieval, "_ranks_by_sorting", getattr(retrieval, f"_ranks_by_{ranks}"))
        try:
            found = evaluate(query, gallery, *labels, ap=ap)
        except ValueError as error:
            assert "queries have no image of the same identity" in str(error)
            return
    assert_same(found, reference(dist, *labels, ap, "skip", 50))


@pytest.mark.parametrize("n", [5, 7, 9, 13, 17])
def test_equal_gallery_images_keep_their_order_however_many(n):
    """As the released scripts put it, the first of equals is the first of the gallery: it is right here."""
    rng = np.random.default_rng(0)
    row, query = (rng.normal(size=(1, 300)).astype("f") for _ in range(2))
    gallery = np.repeat(row / np.linalg.norm(row), n, 0)
    ranking = inspect.unwrap(evaluate)(query, gallery, [7], [0], [7] + [9] * (n - 1), [1] * n)
    assert ranking.rank1 == 1


@pytest.mark.parametrize("offset", [0, 100, 3000, 1e5])
def test_far_from_the_origin_ranks_are_those_of_float64(offset):
    rng, people = np.random.default_rng(0), np.arange(50)
    centres = rng.normal(size=(50, 128))
    query, gallery = ((centres + 0.5 * rng.normal(size=(50, 128)) + offset).astype("f") for _ in range(2))
    labels = people, 0 * people, people, 0 * people + 1
    assert_same(evaluate(query, gallery, *labels), evaluate(query.astype(float), gallery.astype(float), *labels)[:6])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_mapped_gallery_is_never_copied_whole(dtype, tmp_path, monkeypatch):
    """No tensor or array of its size is made: it is read from its file tile by tile."""
    query, gallery, labels = make(np.random.default_rng(0), n_gallery=2000, d=64)
    expected = evaluate(query, gallery.astype(dtype), *labels)
    np.save(tmp_path / "gallery.npy", gallery.astype(dtype))
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    monkeypatch.setitem(distances.TILE_BYTES, "cpu", 2**15)

    class Sizes(torch.overrides.TorchFunctionMode):
        largest = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not self._is_of_the_file(result):
                self.largest = max(self.largest, result.untyped_storage().nbytes())
            return result

        def _is_of_the_file(self, x):
            return mapped.ctypes.data <= x.untyped_storage().data_ptr() < mapped.ctypes.data + mapped.nbytes

    tracemalloc.start()
    try:
        with Sizes() as sizes:
            for n in (slice(None), slice(1, 2)):
                ranking = evaluate(query[n], mapped, *(part[n] for part in labels[:2]), *labels[2:])
                search(query[n], mapped, top_k=5)
                if n == slice(None):
                    assert_same(ranking, expected[:6])
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    n_scores = 4 * len(query) * len(mapped)
    assert sizes.largest <= max(n_scores, 2**19) and n_scores < mapped.nbytes * 4
    assert arrays < 8 * n_scores
