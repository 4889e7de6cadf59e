"""Pseudo-labels: released splits, labels, sizes and selections; the released loop to the last bit; slow twins."""

import functools
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from reidkit import blocks, pseudo_labels
from reidkit.distances import min_max
from reidkit.pseudo_labels import (
    Estimate,
    joint_distance,
    joint_labels,
    label_quality,
    nearest_labels,
    one_shot_split,
    select_confident,
    selection_size,
    step_sizes,
)

ORACLES = Path(__file__).with_name("oracles")


@functools.cache
def oracle(name):
    arrays = np.load(ORACLES / f"p000_{name}.npz")
    return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def rows(n, d, generator, dtype=torch.float32):
    return F.normalize(torch.randn(n, d, dtype=dtype, generator=generator), dim=1)


@pytest.mark.parametrize(("name", "n_unlabelled"), [("market", 12_185), ("duke", 15_820)])
def test_seed_0_draws_the_released_split(name, n_unlabelled):
    released = oracle("oneshot_split")
    pids, camids = released[f"{name}_all_pid"], released[f"{name}_all_cam"]
    labelled, unlabelled = one_shot_split(pids, camids - 1)
    assert torch.equal(labelled, released[f"{name}_labelled_index"])
    assert torch.equal(torch.cat([labelled, unlabelled]).sort().values, torch.arange(len(pids)))
    assert len(unlabelled) == n_unlabelled


@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(0, 3)), min_size=1), st.integers(0, 99))
def test_one_image_of_each_identity_from_its_first_camera(images, seed):
    pids, camids = (np.array(column) for column in zip(*images, strict=True))
    labelled, unlabelled = one_shot_split(pids, camids, seed=seed)
    assert pids[labelled.numpy()].tolist() == sorted(set(pids.tolist()))
    assert all(camids[i] == camids[pids == pids[i]].min() for i in labelled.tolist())
    assert sorted(labelled.tolist() + unlabelled.tolist()) == list(range(len(pids)))
    assert unlabelled.tolist() == sorted(unlabelled.tolist())
    assert torch.equal(one_shot_split(torch.tensor(pids), torch.tensor(camids), seed=seed)[0], labelled)


def test_another_seed_is_another_split():
    pids, camids = np.repeat([4, 2], [30, 10]), np.zeros(40, np.int64)
    assert len({tuple(one_shot_split(pids, camids, seed=seed)[0].tolist()) for seed in range(9)}) > 5


def released_loop(unlabelled, labelled):
    """The loop of the released code over all images: index of the nearest, and its distance."""
    nearest, dist = np.empty(len(unlabelled), np.int64), np.empty(len(unlabelled))
    for i, x in enumerate(unlabelled):
        norm = np.linalg.norm(labelled - x, axis=1)
        nearest[i] = norm.argmin()
        dist[i] = norm[nearest[i]]
    return nearest, dist


def assert_equal_to_the_last_bit(unlabelled, labelled):
    nearest, dist = released_loop(unlabelled.numpy(), labelled.numpy())
    found = nearest_labels(unlabelled, labelled, torch.arange(len(labelled)))
    assert found.pids.numpy().tolist() == nearest.tolist()
    assert (-found.confidence).double().numpy().tolist() == dist.tolist()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dim", [1, 7, 128, 2048])
@pytest.mark.parametrize("cache", [2**21, 2**13])
def test_nearest_equals_the_released_loop_to_the_last_bit_among_near_ties(cache, dim, scale, monkeypatch, generator):
    """Labelled images around few places, a few units in the last place apart; and everything in one place."""
    monkeypatch.setattr(pseudo_labels, "CACHE_BYTES", cache)
    places = rows(5, dim, generator) * scale
    labelled = places[torch.arange(60) % 5]
    labelled[20:] *= 1 + 1e-7 * torch.randint(-3, 4, (40, dim), generator=generator)
    unlabelled = places[torch.arange(80) % 5] + 0.3 * scale * torch.randn(80, dim, generator=generator)
    unlabelled[:10] = labelled[30:40]
    assert_equal_to_the_last_bit(unlabelled, labelled)
    assert_equal_to_the_last_bit(places[:1].expand(30, dim), places[:1].expand(7, dim))


def test_nearest_equals_the_released_code():
    released = oracle("label_estimation")
    found = nearest_labels(released["feat_unlabelled"], released["feat_labelled"], released["label_labelled"])
    assert torch.equal(found.pids, released["nn_label"])
    assert torch.equal(found.confidence.double(), released["nn_score"])
    shuffled = released["perm_feat_labelled"].numpy(), released["perm_label_labelled"].numpy()
    found = nearest_labels(released["feat_unlabelled"].numpy(), *shuffled)
    assert torch.equal(found.pids, released["nn_perm_label"])


@pytest.mark.parametrize("tile", [1024, 64])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_inter_class_distance_equals_the_released_code(k, tile, monkeypatch):
    monkeypatch.setitem(blocks.TILE, "cpu", tile)
    released = oracle("label_estimation")
    x, y = released["feat_unlabelled"], released["feat_labelled"]
    expected = released[f"classdist_K{k}"]
    torch.testing.assert_close(joint_distance(x, y, k=k, mu=0.0), min_max(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(joint_distance(x, y, k=k, mu=1.0), min_max(released["sqdist_ul"]), atol=1e-5, rtol=0)
    further = joint_distance(x, y, k=max(1, k - 1), k_includes_self=False)
    torch.testing.assert_close(further, joint_distance(x, y, k=max(2, k)))


def test_joint_labels_equal_the_released_code():
    released = oracle("label_estimation")
    x, y = released["feat_unlabelled"], released["feat_labelled"]
    torch.testing.assert_close(joint_distance(x, y), released["joint_dist_K3_mu0.5"], atol=1e-5, rtol=0)
    found = joint_labels(x, y, released["label_labelled"])
    assert torch.equal(found.pids, released["joint_label"])
    torch.testing.assert_close(found.confidence, released["joint_score"], atol=1e-5, rtol=0)
    assert torch.equal(joint_labels(x, y, released["label_labelled"], k=1).pids, released["nn_label"])
    shuffled = joint_labels(x, released["perm_feat_labelled"], released["perm_label_labelled"])
    assert torch.equal(shuffled.pids, found.pids)


def joint_loop(x, y, k, mu, k_includes_self, label_class_pool, jd_squared, class_dist):
    """The equations, image by image, in float64."""
    others = k - 1 if k_includes_self else k

    def distance(a, b):
        squared = ((a - b) ** 2).sum()
        return squared if jd_squared else squared**0.5

    def group(image, pool):
        return [image, *sorted(pool, key=lambda other: ((image - other) ** 2).sum())[:others]]

    def between(first, second):
        if class_dist == "centroid":
            return distance(sum(first) / len(first), sum(second) / len(second))
        return np.mean([distance(a, b) for a in first for b in second])

    def scaled(matrix):
        matrix = np.array(matrix)
        return (matrix - matrix.min()) / (matrix.max() - matrix.min())

    around_x = [group(a, [b for j, b in enumerate(x) if j != i]) for i, a in enumerate(x)]
    also = [[b for j, b in enumerate(y) if j != i] if label_class_pool == "L+U" else [] for i in range(len(y))]
    around_y = [group(a, [*x, *more]) for a, more in zip(y, also, strict=True)]
    groups = scaled([[between(first, second) for second in around_y] for first in around_x])
    return mu * scaled([[distance(a, b) for b in y] for a in x]) + (1 - mu) * groups


SWITCHES = [*itertools.product([True, False], ["U", "L+U"], [True, False], ["pairs", "centroid"])]


@pytest.mark.parametrize(("k_includes_self", "label_class_pool", "jd_squared", "class_dist"), SWITCHES)
@pytest.mark.parametrize(("k", "mu"), [(1, 0.5), (3, 0.3), (13, 0.9)])
def test_joint_distance_equals_the_loops_under_every_switch(
    k, mu, k_includes_self, label_class_pool, jd_squared, class_dist, monkeypatch, generator
):
    monkeypatch.setitem(blocks.TILE, "cpu", 6)
    x, y = rows(14, 4, generator, torch.float64), rows(5, 4, generator, torch.float64) + 0.5
    switches = {"k_includes_self": k_includes_self, "label_class_pool": label_class_pool}
    switches |= {"jd_squared": jd_squared, "class_dist": class_dist}
    expected = joint_loop(x.numpy(), y.numpy(), k, mu, **switches)
    dist = joint_distance(x, y, k=k, mu=mu, **switches)
    np.testing.assert_allclose(dist, expected, rtol=0, atol=1e-9)
    found = joint_labels(x, y, torch.arange(5), k=k, mu=mu, **switches)
    assert torch.equal(found.pids, dist.argmin(1)) and torch.equal(found.confidence, -dist.amin(1))


def test_an_outlier_is_corrected_by_its_group():
    """Image 0 is a little nearer to the wrong labelled image, its two neighbours much nearer to the right one."""
    x = torch.tensor([[0.52], [0.2], [0.22], [0.98], [1.0], [0.96]])
    y, pids = torch.tensor([[0.0], [1.0]]), torch.tensor([7, 9])
    assert nearest_labels(x, y, pids).pids.tolist() == [9, 7, 7, 9, 9, 9]
    assert joint_labels(x, y, pids).pids.tolist() == [7, 7, 7, 9, 9, 9]


def test_equal_images_get_the_first_label():
    x, y, pids = torch.ones(5, 3), torch.ones(4, 3), torch.tensor([8, 2, 3, 4])
    assert torch.equal(joint_distance(x, y), torch.zeros(5, 4))
    for found in (nearest_labels(x, y, pids), joint_labels(x, y, pids)):
        assert found.pids.tolist() == [8] * 5 and not found.confidence.any()


def test_kinds_of_input(generator):
    x, y, pids = rows(9, 4, generator), rows(3, 4, generator), torch.tensor([5, 6, 7], dtype=torch.int32)
    for estimate in (nearest_labels, joint_labels):
        expected = estimate(x, y, pids)
        assert [part.dtype for part in expected] == [torch.int64, torch.float32]
        from_numpy = estimate(x.numpy(), y.numpy(), pids.numpy())
        in_double = estimate(x.double(), y.requires_grad_(), pids)
        assert torch.equal(from_numpy.pids, expected.pids) and torch.equal(in_double.pids, expected.pids)
        assert in_double.confidence.dtype == torch.float64 and not in_double.confidence.requires_grad
        torch.testing.assert_close(in_double.confidence.float(), expected.confidence, atol=1e-5, rtol=0)
        y = y.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(joint_distance(x, y), joint_distance(x, y))
        torch.testing.assert_close(joint_distance(x, y).double(), joint_distance(x.double(), y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [0, 1, 30, 150, 300])
@pytest.mark.parametrize("kind", ["nn", "joint"])
def test_selection_equals_the_released_code(kind, n):
    released = oracle("label_estimation")
    selected = select_confident(released[f"{kind}_score"], n)
    assert torch.equal(selected, released[f"{kind}_selected_{n}"].bool())


def test_next_training_set_and_quality_equal_the_released_code():
    released = oracle("label_estimation")
    found = Estimate(released["joint_label"], released["joint_score"])
    selected = select_confident(found.confidence, 150)
    pseudo = released["new_train_is_pseudo"].bool()
    assert torch.equal(released["new_train_src_index"][pseudo], selected.nonzero()[:, 0])
    assert torch.equal(released["new_train_label"][pseudo], found.pids[selected])
    assert torch.equal(released["unselected_index"], (~selected).nonzero()[:, 0])
    quality = label_quality(found.pids, released["label_unlabelled"], selected)
    torch.testing.assert_close(torch.tensor(quality), released["joint_metrics_150"])
    assert label_quality(found.pids, found.pids + 1, ~selected & selected) == (0, 0, 0, 0)
    assert label_quality(found.pids, found.pids, selected | ~selected) == (1, 1, 1, 1)


@given(st.lists(st.sampled_from([-2.0, -1.0, -0.5, -torch.inf, 0.0]), max_size=30), st.data())
def test_the_most_confident_are_selected_and_the_first_among_equals(values, data):
    n = data.draw(st.integers(0, len(values)))
    ranked = sorted(range(len(values)), key=lambda i: -values[i])  # a stable sort
    selected = select_confident(torch.tensor(values), n)
    assert selected.nonzero()[:, 0].tolist() == sorted(ranked[:n])


@pytest.mark.parametrize("name", ["market", "duke"])
@pytest.mark.parametrize("percent", [5, 10, 15, 20, 30])
def test_sizes_equal_the_released_schedules(name, percent):
    schedules, n = oracle("progressive_schedule"), {"market": 12_185, "duke": 15_820}[name]
    for rule in ("pl", "fsr"):
        released = schedules[f"{name}_EF{percent}_{rule}"].tolist()
        assert [selection_size(n, step, percent / 100) for step in range(len(released))] == released
    pl, fsr = (schedules[f"{name}_EF{percent}_{rule}"].tolist() for rule in ("pl", "fsr"))
    assert step_sizes(n, percent / 100, stop_rule="pl") == [0, *pl[:-1]]
    assert step_sizes(n, percent / 100) == [0, *(size for size in fsr if size < n)]


@given(st.integers(1, 500), st.integers(1, 100))
@example(100, 29)  # 100 * 0.29 is a bit less than 29
def test_sizes_are_cut_exactly_and_grow_to_the_end(n, percent):
    assert all(selection_size(n, t, percent / 100) == min(n, n * (t + 1) * percent // 100) for t in range(30))
    sizes = step_sizes(n, percent / 100, final_full_step=True)
    assert sizes[0] == 0 and sizes[-1] == n and sizes == sorted(sizes) and sizes.count(n) == 1
    assert step_sizes(n, percent / 100) == sizes[:-1]
    assert step_sizes(n, percent / 100, stop_rule="pl") == (sizes[:-2] or [0])


def test_wrong_values_are_refused():
    ids, split = torch.tensor([1, 2]), inspect.unwrap(one_shot_split)
    calls = {
        r"camids must be of shape \(2,\), one for each image, not \(3,\)": lambda: split(ids, torch.arange(3)),
        r"pids must be of shape \(n,\), one for each image, not \(0,\)": lambda: one_shot_split(ids[:0], ids[:0]),
        "n must be from 0 to the number of images, 1, not 2": lambda: select_confident(torch.zeros(1), 2),
        "confidence holds NaN": lambda: select_confident(torch.tensor([torch.nan]), 0),
        "at least 0, not 5 and -1": lambda: selection_size(5, -1, 0.1),
        r"a share above 0 and at most 1 \(0\.1 for 10 %\), not 10": lambda: selection_size(5, 0, 10.0),
        "not 'eug' and 5": lambda: inspect.unwrap(step_sizes)(5, 0.1, stop_rule="eug"),
        "not 'fsr' and 0": lambda: step_sizes(0, 0.1),
    }
    for sentence, call in calls.items():
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("name", ["nearest_labels", "joint_distance"])
def test_wrong_embeddings_are_refused(name):
    pids = [torch.tensor([1, 2, 3])] * (name == "nearest_labels")
    function = inspect.unwrap(getattr(pseudo_labels, name))
    x, y = torch.ones(5, 4), torch.ones(3, 4)
    broken = x.clone()
    broken[2, 1] = torch.inf
    with pytest.raises(ValueError, match="unlabelled holds NaN, infinity"):
        function(broken, y, *pids)
    with pytest.raises(ValueError, match="labelled holds NaN, infinity"):
        function(x, y * torch.nan, *pids)
    with pytest.raises(ValueError, match="unlabelled has 2 numbers per row and labelled 4"):
        function(x[:, :2], y, *pids)
    with pytest.raises(ValueError, match="unlabelled must be embeddings"):
        function(x[:0], y, *pids)


def test_every_labelled_image_needs_an_identity():
    for estimate in (nearest_labels, joint_labels):
        with pytest.raises(ValueError, match=r"labelled_pids must be of shape \(3,\), .* not \(2,\)"):
            inspect.unwrap(estimate)(torch.rand(5, 4), torch.rand(3, 4), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("sentence", "options"),
    {
        "k must be from 1 to 5 .* not 0 and": {"k": 0},
        "k must be from 1 to 5 .* not 6 and": {"k": 6},
        "k must be from 1 to 4 .* not 5 and": {"k": 5, "k_includes_self": False},
        r"mu from 0 to 1, not 3 and 1\.5": {"mu": 1.5},
        "label_class_pool must be .* not 'L'": {"label_class_pool": "L"},
        "class_dist must be .* not 'mean'": {"class_dist": "mean"},
    }.items(),
)
def test_wrong_parameters_of_the_joint_distance_are_refused(sentence, options):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(joint_distance)(torch.rand(5, 4), torch.rand(3, 4), **options)


@pytest.mark.parametrize("pool", ["U", "L+U"])
def test_joint_distances_far_from_the_origin_are_those_of_float64(pool, generator):
    x = (rows(60, 16, generator).double() + 3000).float()
    near, far = (joint_distance(x[12:].to(t), x[:12].to(t), label_class_pool=pool) for t in (torch.double, torch.float))
    torch.testing.assert_close(far.double(), near, atol=1e-4, rtol=0)
    assert torch.equal(far.argmin(1), near.argmin(1))


@given(seed=st.integers(0, 9999), d=st.sampled_from([3, 64, 300]), pool=st.sampled_from(["U", "L+U"]))
def test_of_equal_labelled_images_the_first_one_counts(seed, d, pool):
    generator = torch.Generator().manual_seed(seed)
    labelled, unlabelled = rows(4, d, generator)[torch.randint(0, 4, (17,), generator=generator)], rows(9, d, generator)
    first = [int((labelled == row).all(1).nonzero()[0]) for row in labelled]
    for found in (
        joint_labels(unlabelled, labelled, torch.arange(17), label_class_pool=pool),
        nearest_labels(unlabelled, labelled, torch.arange(17)),
    ):
        assert all(first[pid] == pid for pid in found.pids.tolist())
    dist = joint_distance(unlabelled, labelled, label_class_pool=pool)
    assert torch.equal(dist, dist[:, first])


@pytest.mark.parametrize("shape", [(1,), (4, 1)])
def test_labels_of_another_shape_are_not_broadcast(shape):
    right, wrong, used = torch.arange(4), torch.zeros(shape, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    x, refused = torch.eye(4), pytest.raises(ValueError, match="must be ")
    calls = [
        lambda: inspect.unwrap(one_shot_split)(right, wrong),
        lambda: inspect.unwrap(nearest_labels)(x, x, wrong),
        lambda: inspect.unwrap(joint_labels)(x, x, wrong),
        lambda: inspect.unwrap(label_quality)(right, wrong, used),
        lambda: inspect.unwrap(label_quality)(right, right, wrong.bool()),
        lambda: inspect.unwrap(label_quality)(right, right, right),
        lambda: inspect.unwrap(select_confident)(torch.zeros(4, 1), 2),
    ]
    for call in calls:
        with refused:
            call()
