"""Single gallery shot, VIPeR and multi-query: by enumeration, by hand, against released code."""

import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidkit.metrics import protocols
from reidkit.metrics.protocols import multi_query, poisson_binomial, single_gallery_shot, viper_cmc
from reidkit.metrics.retrieval import evaluate, evaluate_distances

ORACLES = Path(__file__).resolve().parents[1] / "oracles"


def oracle(name):
    return dict(np.load(ORACLES / f"eval_{name}.npz"))


def everybody(data):
    """CUHK03 asks with every test image, and its gallery is the same images."""
    return data["dist"], data["pid"], data["cam"], data["pid"], data["cam"]


@pytest.fixture(scope="module")
def cuhk03():
    return oracle("cuhk03_classic")


@pytest.fixture(scope="module")
def market():
    return oracle("market_style")


# ---------------------------------------------------------------------------------------------- single gallery shot


def reference(dist, query_pids, query_camids, gallery_pids, gallery_camids, other_camera_only, max_rank):
    """Every gallery that can be drawn, one after the other, each sorted and searched for the one right image."""
    cmc, aps, valid = np.zeros(max_rank), [], []
    for row, pid, camid in zip(dist, query_pids, query_camids, strict=True):
        images = {}
        for j, (p, c) in enumerate(zip(gallery_pids, gallery_camids, strict=True)):
            if p != -1 and not (c == camid and (p == pid or other_camera_only)):
                images.setdefault(p, []).append(j)
        valid.append(pid in images)
        if pid not in images:
            continue
        places = []
        for drawn in itertools.product(*images.values()):
            ranked = sorted(drawn, key=lambda j: (row[j], j))  # equal distances: gallery order
            places.append(1 + [gallery_pids[j] for j in ranked].index(pid))
        cmc += [np.mean(np.array(places) <= k + 1) for k in range(max_rank)]
        aps.append(np.mean(1 / np.array(places)))
    return cmc / max(1, len(aps)), aps, valid


@st.composite
def cases(draw):
    """Few identities, cameras and distances: ties, junk, pid 0 and queries without a right image in most cases."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_query, n_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    n_pids, n_cams, span = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 30))
    labels = (
        rng.integers(0, n_pids + 1, n_query),
        rng.integers(0, n_cams, n_query),
        rng.integers(-1, n_pids + 1, n_gallery),
        rng.integers(0, n_cams, n_gallery),
    )
    return rng.integers(0, span, (n_query, n_gallery)), labels, draw(st.booleans()), draw(st.integers(1, 8))


@given(case=cases(), block_bytes=st.sampled_from([1, 2000, 2**22]))
def test_closed_form_is_the_mean_over_all_galleries(case, block_bytes):
    dist, labels, other_camera_only, max_rank = case
    cmc, aps, valid = reference(dist, *labels, other_camera_only, max_rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "BLOCK_BYTES", block_bytes)
        if not aps:
            with pytest.raises(ValueError, match=f"all {len(dist)} queries have no image of the same identity"):
                single_gallery_shot(dist, *labels, other_camera_only=other_camera_only)
            return
        ranking = single_gallery_shot(dist, *labels, other_camera_only=other_camera_only, max_rank=max_rank)
    np.testing.assert_allclose(ranking.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose(ranking.ap, aps, atol=1e-12)
    assert ranking.valid.tolist() == valid
    assert ranking.mAP == ranking.mINP == pytest.approx(np.mean(aps))
    assert torch.equal(ranking.ap, ranking.inp)


@given(case=cases())
def test_draws_come_near_the_closed_form(case):
    dist, labels, other_camera_only, max_rank = case
    if not reference(dist, *labels, other_camera_only, max_rank)[1]:
        return
    switches = dict(other_camera_only=other_camera_only, max_rank=max_rank)
    exact, drawn = (single_gallery_shot(dist, *labels, **switches, n_repeats=n) for n in (None, 2000))
    slack = 5 * 0.5 / np.sqrt(2000)  # five standard errors of the least certain share, for each query
    np.testing.assert_allclose(drawn.ap, exact.ap, atol=slack)
    np.testing.assert_allclose(drawn.cmc, exact.cmc, atol=slack)
    assert torch.equal(drawn.valid, exact.valid)


@pytest.mark.parametrize(("other_camera_only", "suffix"), [(False, ""), (True, "_separate_camera")])
def test_closed_form_equals_the_expectation_of_the_released_protocols(cuhk03, other_camera_only, suffix):
    ranking = single_gallery_shot(*everybody(cuhk03), other_camera_only=other_camera_only)
    ap = cuhk03["expected_AP_separate_camera" if suffix else "expected_single_shot_AP"]
    np.testing.assert_allclose(ranking.cmc[:20], cuhk03[f"expected_cmc{suffix}"], atol=1e-12)
    np.testing.assert_allclose(ranking.mAP, ap, atol=1e-12)
    assert ranking.valid.all()


@pytest.mark.parametrize(
    ("name", "other_camera_only", "atol"),
    [
        ("torchreid_cmc_seed0", False, 0.02),  # 10 draws
        ("sls_cmc_seed0_N100", False, 0.005),
        ("sls_cmc_N1000", False, 0.002),
        ("openreid_cmc_separate_camera_10rep", True, 0.02),
    ],
)
def test_released_draws_and_ours_agree(cuhk03, name, other_camera_only, atol):
    ranking = single_gallery_shot(*everybody(cuhk03), other_camera_only=other_camera_only, n_repeats=1000)
    np.testing.assert_allclose(ranking.cmc[:20], cuhk03[name], atol=atol)
    if name == "sls_cmc_N1000":
        np.testing.assert_allclose(ranking.mAP, cuhk03["sls_mAP_N1000"], atol=atol)


def test_ap_of_the_full_gallery_is_another_number(cuhk03):
    """torchreid prints it beside a single-shot CMC; it is plain single query."""
    full, shot = evaluate_distances(*everybody(cuhk03)), single_gallery_shot(*everybody(cuhk03))
    np.testing.assert_allclose(full.mAP, cuhk03["torchreid_mAP"], atol=1e-6)
    assert shot.mAP > full.mAP + 0.2
    assert "single gallery shot" in shot.protocol and "AP 1/place" in shot.protocol
    assert "single query" in full.protocol and "AP mean" in full.protocol


def test_the_line_says_what_was_measured(cuhk03):
    lines = {single_gallery_shot(*everybody(cuhk03), other_camera_only=other, n_repeats=n).protocol
             for other in (False, True) for n in (None, 3)}  # fmt: skip
    counts = "AP 1/place · 252/252 queries valid · gallery 252"
    assert lines == {
        f"single gallery shot, {cameras}, {how} · {counts}"
        for cameras in ("any camera", "other cameras")
        for how in ("closed form", "3 draws")
    }


def test_draws_repeat_for_a_seed_whatever_the_blocks(cuhk03, monkeypatch):
    draw = lambda **kw: single_gallery_shot(*everybody(cuhk03), n_repeats=5, **kw)  # noqa: E731
    first, again, other = draw(), draw(), draw(seed=1)
    monkeypatch.setattr(protocols, "BLOCK_BYTES", 1)
    small = draw()
    for same in (again, small):
        assert torch.equal(same.ap, first.ap) and torch.equal(same.cmc, first.cmc)
    assert not torch.equal(other.ap, first.ap)


def test_one_image_of_each_leaves_nothing_to_draw():
    """Then single gallery shot, VIPeR's CMC and single query are one protocol."""
    rng = np.random.default_rng(0)
    dist, pids, there = rng.random((30, 30)), rng.permutation(30), rng.permutation(30)
    zeros, ones = np.zeros(30, int), np.ones(30, int)
    labels = pids, zeros, there, ones
    single = evaluate_distances(dist, *labels, max_rank=30)
    for ranking in (single_gallery_shot(dist, *labels, max_rank=30, n_repeats=n) for n in (None, 1)):
        np.testing.assert_allclose(ranking.cmc, single.cmc, atol=1e-12)
        np.testing.assert_allclose(ranking.ap, single.ap, atol=1e-12)
    np.testing.assert_allclose(viper_cmc(dist, pids, there), single.cmc, atol=1e-12)


def test_perfect_distances_and_dead_ones():
    pids, camids = np.repeat([3, 5, 8], 4), np.tile([0, 0, 1, 1], 3)
    perfect = single_gallery_shot(pids[:, None] != pids, pids, camids, pids, camids)
    assert perfect.rank1 == perfect.mAP == 1 and len(perfect.cmc) == 50 and (perfect.cmc == 1).all()
    dead = single_gallery_shot(np.zeros((12, 12)), pids, camids, pids, camids)  # ties: gallery order decides
    assert dead.rank1 == pytest.approx(1 / 3) and dead.rank(3) == pytest.approx(1)
    never = np.full((12, 12), np.inf)
    assert torch.equal(single_gallery_shot(never, pids, camids, pids, camids).cmc, dead.cmc)


def test_renaming_identities_and_cameras_and_shuffling_the_gallery_change_nothing(cuhk03):
    dist, pids, camids, _, _ = everybody(cuhk03)
    rng = np.random.default_rng(0)
    order, name = rng.permutation(len(pids)), rng.permutation(100) * 10**10
    expected = single_gallery_shot(dist, pids, camids, pids, camids)
    renamed = single_gallery_shot(dist[:, order], name[pids], -camids, name[pids[order]], -camids[order])
    np.testing.assert_allclose(renamed.cmc, expected.cmc, atol=1e-12)
    np.testing.assert_allclose(renamed.ap, expected.ap, atol=1e-12)


def test_takes_tensors_and_arrays_of_any_number_type(cuhk03):
    dist, *labels = everybody(cuhk03)
    expected = single_gallery_shot(dist, *labels)
    tensors = [torch.from_numpy(a).int() for a in labels]
    for same in (dist.astype(np.float64), torch.from_numpy(dist).requires_grad_(), torch.from_numpy(dist).double()):
        assert torch.equal(single_gallery_shot(same, *tensors).ap, expected.ap)
    coarse = torch.from_numpy(dist).bfloat16()
    assert torch.equal(single_gallery_shot(coarse, *labels).ap, single_gallery_shot(coarse.double(), *labels).ap)


@given(data=st.data())
def test_poisson_binomial_by_throwing_every_way(data):
    n, m = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 6))
    shares = st.sampled_from([0.0, 1.0, 0.5, 0.25, 1e-9]) | st.floats(0, 1)
    p = np.array(data.draw(st.lists(st.lists(shares, min_size=m, max_size=m), min_size=n, max_size=n)), float)
    expected = np.zeros((n, m + 1))
    for heads in itertools.product((0, 1), repeat=m):
        expected[:, sum(heads)] += np.where(heads, p, 1 - p).prod(1)
    np.testing.assert_allclose(poisson_binomial(p.reshape(n, m)), expected, atol=1e-12)


def test_wrong_single_gallery_shots_fail_with_a_sentence(cuhk03):
    call = inspect.unwrap(single_gallery_shot)
    dist, *labels = everybody(cuhk03)
    with pytest.raises(ValueError, match="n_repeats must be at least 1, not 0"):
        call(dist, *labels, n_repeats=0)
    with pytest.raises(ValueError, match="max_rank must be at least 1, not 0"):
        call(dist, *labels, max_rank=0)
    with pytest.raises(ValueError, match=r"dist must be \(n_query, n_gallery\)"):
        call(dist[0], *labels)
    with pytest.raises(ValueError, match=r"query_pids must be of shape \(1,\)"):
        call(dist[:1], *labels)
    with pytest.raises(ValueError, match="gallery_camids must be integers"):
        call(dist, *labels[:3], labels[3] + 0.5)
    with pytest.raises(ValueError, match="dist holds NaN"):
        call(np.where(dist > 1.3, np.nan, dist), *labels)
    with pytest.raises(ValueError, match="every image has camid 0: give the camera of each image"):
        call(dist, labels[0], 0 * labels[1], labels[2], 0 * labels[3])


def test_a_gallery_of_junk_alone_has_nobody():
    one, junk = torch.tensor([1]), torch.tensor([-1, -1])
    with pytest.raises(ValueError, match="query and gallery share no pid"):
        single_gallery_shot(torch.rand(1, 2), one, one, junk, 0 * junk)


# ------------------------------------------------------------------------------------------------------------ VIPeR


def test_viper_equals_released_code():
    data = oracle("viper")
    dist = 1 - data["query_feat"] @ data["gallery_feat"].T  # cosine
    cmc = viper_cmc(dist, data["query_id"], data["gallery_id"])
    assert cmc.shape == (130,) and cmc.dtype == torch.float64 and cmc[-1] == 1
    np.testing.assert_allclose(cmc[:110], data["cmc110"], atol=1e-9)
    np.testing.assert_allclose(cmc, np.mean(data["rank_of_match"][:, None] <= np.arange(130), axis=0), atol=1e-12)


def test_viper_by_hand():
    # From a to b: 1 is second (0.1 < 0.2), 2 is first (0.05). From b to a: both are first (0.2 < 0.4, 0.05 < 0.1).
    dist, pids = torch.tensor([[0.2, 0.1], [0.4, 0.05]]), torch.tensor([1, 2])
    assert viper_cmc(dist, pids, pids).tolist() == [0.5, 1]
    assert viper_cmc(dist.T, pids, pids).tolist() == [1, 1]


def test_viper_gallery_may_hold_strangers_and_ignores_junk():
    dist = torch.tensor([[0.3, 0.1, 0.2, 0.0]])
    cmc = viper_cmc(dist, torch.tensor([1]), torch.tensor([1, 0, 0, -1]))
    assert cmc.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("query", "gallery", "sentence"),
    [
        ([1, 2], [1, 3], r"query image 1 \(pid 2\) has 0 matches in the gallery; here each must have one"),
        ([1, 2], [1, 2, 2], r"query image 1 \(pid 2\) has 2 matches"),
        ([-1, 2], [-1, 2], r"query image 0 \(pid -1\) has 0 matches"),
    ],
)
def test_viper_needs_one_image_of_each(query, gallery, sentence):
    with pytest.raises(ValueError, match=sentence):
        viper_cmc(torch.rand(2, len(gallery)), torch.tensor(query), torch.tensor(gallery))


# ------------------------------------------------------------------------------------------------------ multi-query


def test_multi_query_equals_the_trapezoid_script(market):
    boxes, asked = (market[f"mquery_{x}"] for x in ("feat", "id", "cam")), (market["query_id"], market["query_cam"])
    averages = multi_query(*boxes, *asked)
    labels = (*asked, market["gallery_id"], market["gallery_cam"])
    switches = dict(ap="trapezoid", invalid="zero", protocol="multi-query")
    ranking = evaluate(averages, market["gallery_feat"], *labels, **switches)
    np.testing.assert_allclose(ranking.ap, market["layumi_multiquery_AP"][ranking.valid.numpy()], atol=1e-9)
    np.testing.assert_allclose(ranking.rank1, market["layumi_multiquery_rank1_div_all"], atol=1e-6)
    assert ranking.protocol == "multi-query · AP trapezoid · 52/60 queries valid (the others count 0) · gallery 402"
    unit = torch.nn.functional.normalize(averages)  # a longer query ranks a gallery of unit rows alike
    assert torch.equal(evaluate(unit, market["gallery_feat"], *labels, **switches).ap, ranking.ap)
    dist = np.linalg.norm(averages.numpy()[:, None] - market["gallery_feat"], axis=2)
    assert evaluate_distances(dist, *labels, **switches).protocol == ranking.protocol


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_multi_query_averages_box_by_box(seed, n, n_query):
    rng = np.random.default_rng(seed)
    x, pids, camids = rng.standard_normal((n, 3)), rng.integers(-1, 3, n), rng.integers(0, 2, n)
    chosen = rng.integers(0, n, n_query)
    averages = multi_query(x, pids, camids, pids[chosen], camids[chosen])
    for average, i in zip(averages, chosen, strict=True):
        mine = [x[j] for j in range(n) if pids[j] == pids[i] and camids[j] == camids[i]]
        np.testing.assert_allclose(average, sum(mine) / len(mine), atol=1e-12)
    tensors = [torch.from_numpy(a) for a in (x, pids, camids, pids[chosen], camids[chosen])]
    assert torch.equal(multi_query(*tensors), averages)
    assert averages.dtype == torch.float64
    assert multi_query(x.astype(np.float32), *tensors[1:]).dtype == torch.float32


def test_multi_query_refuses():
    call, x, ids = inspect.unwrap(multi_query), torch.eye(3), torch.tensor([1, 1, 2])
    with pytest.raises(ValueError, match=r"2 queries have no box .* the first is query 1 \(pid 2, camid 1\): add the"):
        call(x, ids, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 9]), torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match=r"pids must be of shape \(3,\)"):
        call(x, ids[:2], ids, ids, ids)
    with pytest.raises(ValueError, match=r"query_camids must be of shape \(3,\)"):
        call(x, ids, ids, ids, ids[:2])
    with pytest.raises(ValueError, match="embeddings must be embeddings"):
        call(x[0], ids, ids, ids, ids)
