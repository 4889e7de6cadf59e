"""The ranking recipe on small drawn people: its step is the sum it says, each variant is what its title says."""

import copy
import functools
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reidkit import claims, runs
from reidkit.data.samplers import Sample
from reidkit.embed import Embeddings
from reidkit.losses.ranking import lin_loss, ranked_list_loss
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.metrics.retrieval import evaluate_distances
from reidkit.models.backbones import small_resnet
from reidkit.models.heads import BNNeck, ReID
from reidkit.recipes import driver, ranking, supervised
from reidkit.recipes.ranking import BACKBONES, SWEEPS, VARIANTS, Parameters, build_step, run, training_step

FEW = {"epochs": 1, "steps_per_epoch": 2, "p": 3, "k": 2, "height": 32, "width": 16, "weights": "scratch"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Two archives of drawn people in the layout of Market-1501, one under the name of either city's archive."""
    from reidkit.world import city

    root, sizes = tmp_path_factory.mktemp("archives"), dict(city.SIZES)
    try:
        city.SIZES["quick"] = city.Size(16, 32, 1)
        city.build_city(root / "market1501", progress=False)
        city.build_city(root / "dukemtmc", city="duke", progress=False)
    finally:
        city.SIZES.update(sizes)
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)


@pytest.fixture
def thin(monkeypatch):
    """Every backbone is a thin small one."""
    for name in supervised.BACKBONES:
        monkeypatch.setitem(supervised.BACKBONES, name, functools.partial(small_resnet, width=4))


def few(variant, archives, **changes):
    options = {"preset": "quick", "data_root": str(archives), "progress": False, "dataset": "market1501"}
    return run(variant, **options | {"other_dataset": "dukemtmc"} | FEW | changes)


def batch_and_twins():
    torch.manual_seed(0)
    model = ReID(small_resnet(width=4), BNNeck(32, 3))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    return Sample(torch.randn(6, 3, 32, 16), labels, labels, torch.arange(6)), model, copy.deepcopy(model)


@pytest.mark.parametrize("variant", ["default", "ranked_list", "triplet", "softmax", "lin_after"])
def test_a_step_is_the_sum_it_says(variant):
    batch, model, twin = batch_and_twins()
    params = driver.settings("ranking", Parameters, VARIANTS, variant, preset="tiny")
    terms, output = build_step(params)(model, batch), twin(batch.images)
    # the equations with the paper's numbers: L = softmax with smoothing 0.1 + w (Lin at r = 0.7, T = 1), w = 0.4
    ranks = {
        "default": 0.4 * lin_loss(output.embedding, batch.labels, radius=0.7, temperature=1.0),
        "ranked_list": 0.4 * ranked_list_loss(output.embedding, batch.labels, alpha=1.2, margin=0.4, temperature=10.0),
        "triplet": batch_hard_triplet_loss(output.feature, batch.labels, margin=0.3),
        "lin_after": lin_loss(output.embedding, batch.labels, radius=0.7, temperature=1.0),
    }
    wanted = {"ranking": ranks[variant]} if variant in ranks else {}
    if variant != "lin_after":
        wanted["softmax"] = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1)
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value)


def test_the_switches_of_the_ledger_reach_the_loss():
    batch, model, twin = batch_and_twins()
    changes = {"weighting": "eq3", "radius": 0.5, "temperature": 2.0, "ranked": "feature", "rank_weight": 3.0}
    terms = build_step(Parameters(**changes))(model, batch)
    value = lin_loss(twin(batch.images).feature, batch.labels, radius=0.5, temperature=2.0, weighting="eq3")
    torch.testing.assert_close(terms["ranking"], 3 * value)


def test_the_step_is_short_enough_to_be_read_in_the_notebook():
    assert len([line for line in inspect.getsource(training_step).splitlines() if line.strip()]) <= 20


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_measures(variant, archives):
    result = few(variant, archives)
    metrics, changes = result.metrics, VARIANTS[variant].changes
    assert {name: result.params[name] for name in changes} == changes
    assert metrics["ap"] == "mean" and metrics["rank1"] <= metrics["rank5"] <= metrics["rank10"] <= metrics["rank20"]
    assert 0 < metrics["mAP_reranked"] <= 1 and 0 <= metrics["rank1_reranked"] <= 1
    path = runs.save_result(result, runs.ROOT)
    paper = runs._load_result(path).paper  # of the same network, so of Table V alone
    printed = claims.printed("03")["table_of_variants"].get(variant, {})
    assert paper.get("printed") == (printed["market"] if variant in BACKBONES else None)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(("variant", "trained", "tested"), [
    ("default", "market1501", "market1501"), ("lin_there", "market1501", "dukemtmc"),
    ("lin_back", "dukemtmc", "market1501"),
])  # fmt: skip
def test_a_run_across_domains_learns_here_and_is_tested_there(variant, trained, tested, archives, monkeypatch):
    seen = []

    def load_data(params, *, progress):
        seen.append(params.dataset)
        return whole(params, progress=progress)

    whole = ranking.load_data
    monkeypatch.setattr(ranking, "load_data", load_data)
    result = few(variant, archives)
    assert seen == [trained] + [tested] * (tested != trained)
    assert result.objects["data"].split.root.name == tested


def test_re_ranking_leaves_the_junk_out():
    torch.manual_seed(0)
    x = F.normalize(torch.randn(30, 8))
    pids, camids = torch.arange(30) % 5, torch.arange(30) % 3
    query, gallery = Embeddings(x[:6], pids[:6], camids[:6]), Embeddings(x[6:], pids[6:].clone(), camids[6:])
    gallery.pids[:4] = -1
    found = supervised.rerank(query, gallery)
    dist = k_reciprocal_rerank(x[:6], x[10:], k1=20, k2=6, lam=0.3)
    wanted = evaluate_distances(dist, pids[:6], camids[:6], pids[10:], camids[10:])
    assert found == {"rank1_reranked": wanted.rank1, "mAP_reranked": wanted.mAP}


@pytest.mark.slow
def test_the_exact_recipe_runs_dry(archives):
    """All of the released settings on a fabricated archive; only the training ends after two steps."""
    short = {"epochs": 1, "steps_per_epoch": 2, "weights": "scratch"}
    result = run(preset="market1501", data_root=str(archives), progress=False, **short)
    assert result.objects["model"].backbone.dim == 2048
    row = result.objects["history"].rows[0]
    assert row["steps"] == 2 and row["lr"] == pytest.approx(3.5e-6)
    assert row["softmax"] > 0 and row["ranking"] > 0


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"classify": False, "ranking": "none"}, "nothing to learn from"),
    ({"ranking": "ranked_list", "margin": 1.3}, "margin must be from 0 to alpha, .* not 1.3 and 1.2"),
    ({"ranking": "lim"}, "ranking must be one of .* the nearest is lin"),
    ({"ranked": "logits"}, "ranked must be one of embedding, feature"),
    ({"domains": "away"}, "domains must be one of home, there, back"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused(changes, sentence, archives):
    with pytest.raises(ValueError, match=sentence):
        few("default", archives, **changes)


def test_a_sweep_has_its_values_in_order():
    groups = claims.groups("03", VARIANTS)
    for knob, values in SWEEPS.items():
        assert [VARIANTS[name].changes[knob] for name in groups[knob]] == list(values)


def test_every_backbone_of_table_v_is_there():
    for name in BACKBONES:
        assert isinstance(supervised.BACKBONES[name](last_stride=1), nn.Module)
