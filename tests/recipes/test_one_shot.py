"""One labelled image a person, on coloured noise: the step's sum, the progression, its records, and a kill."""

import copy
import functools
import inspect
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import miniatures
from reidkit import claims, runs
from reidkit.data.images import Images
from reidkit.data.samplers import Sample
from reidkit.losses.one_shot import ExclusiveLoss, feature_space_regularization
from reidkit.models.backbones import resnet50, small_resnet
from reidkit.models.heads import ReID
from reidkit.models.one_shot import HEADS
from reidkit.pseudo_labels import joint_labels, label_quality, nearest_labels, select_confident, step_sizes
from reidkit.recipes import driver, one_shot, sources, supervised
from reidkit.recipes.one_shot import (
    SWEEPS,
    VARIANTS,
    LabelledAndUnlabelled,
    LabelledAndUnlabelledBatches,
    Parameters,
    gini,
    run,
    training_step,
)

ORACLES = Path(__file__).parents[1] / "oracles"
FEW = {"epochs": 2, "ce_only_epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "height": 32, "width": 16}
FEW |= {"dataset": "market1501", "enlarging_factor": 0.4}
FEWEST = {"epochs": 1, "ce_only_epochs": 0, "steps_per_epoch": 1}
PEOPLE, SHOTS = 5, 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Five people to learn from, six images each; four to search for."""
    root = tmp_path_factory.mktemp("archives")
    miniatures.people_in_colours(root / "market1501", PEOPLE, shots=SHOTS // 2)
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, archive):
    """Checkpoints go to a scratch folder, and the backbone is thin; so are the reference weights there."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    thin = functools.partial(small_resnet, width=4)
    monkeypatch.setattr(sources, "REFERENCE", tmp_path / "thin.safetensors")
    save_file(thin().state_dict(), sources.REFERENCE)
    for name in ("small_resnet", "resnet50"):
        monkeypatch.setitem(supervised.BACKBONES, name, thin)


def few(variant, archive, **changes):
    return run(variant, preset="quick", data_root=str(archive), progress=False, **FEW | changes)


def settings(variant="default", preset="quick", **changes):
    return driver.settings("one_shot", Parameters, VARIANTS, variant, preset=preset, **changes)


def pair(n=4, others=6):
    labels, rows = torch.arange(n) % 3, torch.tensor([0, 3, 2, 3, 1, 5])[:others]
    sample = functools.partial(torch.randn, generator=torch.Generator().manual_seed(1))
    known = Sample(sample(n, 3, 32, 16), labels, labels, labels)
    return LabelledAndUnlabelled(known, Sample(sample(others, 3, 32, 16), rows, rows, rows) if others else None)


def network(head="fsr"):
    return ReID(small_resnet(width=4), HEADS[head](32, 3))


# ---------------------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("head", HEADS)
def test_a_step_is_the_sum_it_says(head):
    model, batch, table = network(head), pair(), ExclusiveLoss(7, 32)
    table.table[3] = F.normalize(torch.ones(32), dim=0)
    twin, before = copy.deepcopy((model, table))
    torch.manual_seed(3)  # of the dropout
    options = {"exclusive": table, "fsr": feature_space_regularization}
    terms = training_step(model, batch, ce_weight=0.7, exclusive_share=0.6, **options)
    torch.manual_seed(3)
    known, unknown = twin(batch.labelled.images), twin(batch.unlabelled.images)  # two passes, this one first
    rows = batch.unlabelled.labels
    torch.testing.assert_close(terms["softmax"], 0.7 * F.cross_entropy(known.logits, batch.labelled.labels))
    logits = 10 * unknown.exclusive @ before.table.T
    torch.testing.assert_close(terms["exclusive"], 0.3 * 0.6 * F.cross_entropy(logits, rows))
    regular = feature_space_regularization(known.metric, unknown.metric)
    torch.testing.assert_close(terms["fsr"], 0.3 * 0.4 * regular)
    before.update(unknown.exclusive, rows)
    torch.testing.assert_close(table.table, before.table)
    assert not table.table[4].any() and table.table[5].any()
    assert terms.keys() == {"softmax", "exclusive", "fsr"}


def test_the_weights_of_the_total_are_the_released_ones(monkeypatch):
    """lambda = gamma = 0.8: 0.8 CE + 0.16 Ex + 0.04 FSR, and 0.8 CE + 0.2 Ex for the baseline."""
    oracle = numpy.load(ORACLES / "p000_total_loss.npz")
    for losses, (baseline, whole) in zip(oracle["ce_ex_fsr"], oracle["total_pl_fsr"], strict=True):
        ce, ex, fsr = (torch.tensor(float(loss)) for loss in losses)
        monkeypatch.setattr(one_shot.F, "cross_entropy", lambda *_, ce=ce: ce)

        monkeypatch.setattr(ExclusiveLoss, "forward", lambda *_, ex=ex: ex)
        for variant, expected in (("default", whole), ("base", baseline)):
            params = settings(variant, "market1501")
            step = one_shot.build_step(params, ExclusiveLoss(7, 32))
            terms = step.func(network(), pair(), **step.keywords | {"fsr": lambda *_, fsr=fsr: fsr})
            assert sum(terms.values()).item() == pytest.approx(float(expected), rel=1e-6)
        assert ("fsr" in terms) == (variant != "base")


def test_without_unlabelled_images_a_step_is_cross_entropy_at_full_weight():
    model, batch, table = network().eval(), pair(others=0), ExclusiveLoss(1, 32)
    options = {"exclusive": table, "fsr": feature_space_regularization}
    terms = training_step(model, batch, ce_weight=0.8, exclusive_share=0.8, **options)
    assert terms.keys() == {"softmax"} and not table.table.any()
    expected = F.cross_entropy(model(batch.labelled.images).logits, batch.labelled.labels)
    torch.testing.assert_close(terms["softmax"], expected)


def test_the_step_is_short_enough_to_be_read_in_the_notebook():
    lines = [line for line in inspect.getsource(training_step).splitlines() if line.strip()]
    assert len(lines) <= 24


# -------------------------------------------------------------------------------------------------------- the batches


def pairs(known, rest, **changes):
    params = settings(**FEW | {"epochs": 5, "ce_only_epochs": 2} | changes)
    bank = Images(torch.zeros(40, 3, 32, 16, dtype=torch.uint8), torch.arange(40), torch.zeros(40, dtype=torch.long))
    return LabelledAndUnlabelledBatches(
        params, bank, torch.arange(known), torch.arange(known) + 7, torch.arange(known, known + rest), seed=0
    )


def test_two_streams_run_side_by_side_until_the_last_epochs():
    both = pairs(10, 9)
    for epoch in range(5):
        both.set_epoch(epoch)
        batches = list(both)
        assert len(batches) == len(both) == 2
        for batch in batches:
            assert torch.equal(batch.labelled.labels, batch.labelled.indices + 7)  # names belong to their images
            assert (batch.unlabelled is None) == (epoch >= 3)
            if batch.unlabelled is not None:
                assert (
                    torch.equal(batch.unlabelled.labels, batch.unlabelled.indices) and len(batch.unlabelled.labels) == 4
                )


def test_an_epoch_without_a_number_of_steps_is_one_pass_over_the_named_images():
    both = pairs(10, 9, steps_per_epoch=0)
    seen = [batch.labelled.indices for batch in both]
    assert len(seen) == len(both) == 10 // 4 and len(torch.cat(seen).unique()) == 8
    assert len([batch for batch in pairs(20, 4, steps_per_epoch=0) if batch.unlabelled is not None]) == 5  # cycled


def test_epochs_differ_and_repeat():
    both, again = pairs(10, 30), pairs(10, 30)

    def order(stream, epoch):
        stream.set_epoch(epoch)
        return torch.stack([torch.cat([b.labelled.indices, b.unlabelled.indices]) for b in stream])

    assert torch.equal(order(both, 1), order(again, 1)) and not torch.equal(order(both, 0), order(both, 1))


@pytest.mark.parametrize("rest", [0, 3])
def test_fewer_unlabelled_images_than_a_batch_leave_cross_entropy_alone(rest):
    assert all(batch.unlabelled is None for batch in pairs(10, rest))


# ----------------------------------------------------------------------------------------------------- the progression


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_measures(variant, archive):
    result = few(variant, archive, **FEWEST)
    params, metrics, steps = result.params, result.metrics, result.objects["steps"]
    assert {name: params[name] for name in VARIANTS[variant].changes} == VARIANTS[variant].changes
    n = PEOPLE * (SHOTS - 1)
    rules = {name: params[name] for name in ("stop_rule", "final_full_step")}
    sizes = step_sizes(n, params["enlarging_factor"], **rules)
    assert [step.row["n"] for step in steps] == sizes and metrics["n_steps"] == len(sizes)
    assert [metrics[f"n_step{t}"] for t in range(len(sizes))] == sizes
    assert (metrics["n_labelled"], metrics["n_unlabelled"]) == (PEOPLE, n)
    assert metrics["n_query"] == metrics["n_valid"] == 8 and metrics["n_gallery"] == 20
    assert metrics["mAP"] == pytest.approx(numpy.mean(result.per_query["ap"])) and metrics["ap"] == "mean"
    assert metrics["mAP"] == metrics[f"mAP_step{len(sizes) - 1}"]
    assert metrics["rank1_best"] == max(metrics[f"rank1_step{t}"] for t in range(len(sizes)))
    assert metrics["rank1_settled"] == metrics[f"rank1_step{metrics['step_settled']}"]
    assert all(len(step.history) == params["epochs"] for step in steps)
    assert not list((runs.ROOT / "runs").glob("one_shot.*")), "the checkpoint of a finished run is left"
    path = runs.save_result(result, runs.ROOT)
    (again,) = runs.load_results("05", folder=path.parent)
    assert again.metrics == metrics


def test_each_step_is_trained_with_what_the_one_before_selected(archive, monkeypatch):
    trained, seen = one_shot.fit, []

    def spying(model, batches, *arguments, **options):
        seen.append(
            (batches.labelled.batches, batches.unlabelled.batches.images, copy.deepcopy(model.state_dict()), options)
        )
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(one_shot, "fit", spying)
    result = few("default", archive)
    task, steps = result.objects["task"], result.objects["steps"]
    images, truth = task.data.train, task.truth
    for number, (stream, rest, start, options) in enumerate(seen):
        named, labels, left = task.labelled, truth[task.labelled], torch.ones(len(task.unlabelled), dtype=torch.bool)
        if number:
            before = steps[number - 1]
            left = ~before.selected
            named = torch.cat([named, task.unlabelled[before.selected]])
            labels = torch.cat([labels, before.labels[before.selected]])
        assert torch.equal(stream.images.pixels, images.pixels[named]) and torch.equal(stream.labels, labels)
        assert torch.equal(rest.pixels, images.pixels[task.unlabelled[left]])
        torch.testing.assert_close(start, seen[0][2], rtol=0, atol=0)  # fresh in every step
        table = options["state"]["exclusive"].table  # and so is the table: one row for each image that is left
        assert len(table) == len(rest) and table.any()
    assert len(seen) == 3 and not torch.equal(steps[0].x, steps[1].x)


def test_a_row_says_what_the_guesses_are_worth(archive):
    result = few("default", archive)
    task, steps = result.objects["task"], result.objects["steps"]
    truth = task.truth[task.unlabelled]
    for number, step in enumerate(steps):
        right = step.labels == truth
        row, n = step.row, len(truth)
        assert row["accuracy"] == right.double().mean().item()
        assert row["n_selected"] == step.selected.sum() == min(int(n * 0.4 * (number + 1) + 1e-9), n)
        assert row["precision"] == pytest.approx((right & step.selected).sum().item() / row["n_selected"])
        assert row["recall"] == pytest.approx((right & step.selected).sum().item() / n)
        assert row["gini"] == pytest.approx(gini(torch.bincount(step.labels[step.selected], minlength=PEOPLE)))
        if not step.selected.all():
            assert step.confidence[step.selected].min() >= step.confidence[~step.selected].max()
    assert "agreement" not in steps[0].row
    assert steps[1].row["agreement"] == (steps[1].labels == steps[0].labels).double().mean().item()


@pytest.mark.parametrize("name", ["market", "duke"])
@pytest.mark.parametrize("percent", [5, 10, 20, 30])
def test_the_schedule_of_the_presets_is_the_released_one(name, percent):
    """Step t + 1 trains with what the released code selects after step t; it stops where nothing would be left."""
    released = numpy.load(ORACLES / "p000_progressive_schedule.npz")[f"{name}_EF{percent}_fsr"]
    n = {"market": 12_185, "duke": 15_820}[name]
    variant = {5: "default_0_05", 10: "default", 20: "default", 30: "default_0_3"}[percent]
    other = {"enlarging_factor": 0.2} if percent == 20 else {}
    params = settings(variant, {"market": "market1501", "duke": "dukemtmc"}[name], **other)
    sizes = [size for size, _ in one_shot.build_sizes(params, n)]
    assert sizes == [0, *(int(size) for size in released if size < n)]


def test_a_last_step_with_everybody_uses_every_guess(archive):
    result = few("default", archive, final_full_step=True, stop_rule="pl", enlarging_factor=0.3)
    steps = result.objects["steps"]
    assert [step.row["n"] for step in steps] == [0, 7, 15, 25] and steps[2].selected.all()
    assert [set(row) & {"exclusive"} for row in steps[3].history] == [set(), set()]


def test_true_labels_are_a_bound(archive):
    result = few("supervised", archive)
    assert [step.row["n"] for step in result.objects["steps"]] == [0, PEOPLE * (SHOTS - 1)]
    assert result.metrics["accuracy"] == result.metrics["precision"] == result.metrics["recall"] == 1


def test_the_rules_guess_as_they_should(archive, generator):
    x, y = (F.normalize(torch.randn(n, 8, generator=generator)) for n in (30, 5))
    labels, truth = torch.arange(5), torch.randint(5, (30,), generator=generator)
    params = settings(k=4, mu=0.3, jd_squared=False)
    found = one_shot.estimate(params, x, y, labels, truth)
    expected = joint_labels(x, y, labels, k=4, mu=0.3, jd_squared=False)
    assert torch.equal(found.pids, expected.pids) and torch.equal(found.confidence, expected.confidence)
    found = one_shot.estimate(params.but(labels="nearest"), x, y, labels, truth)
    assert torch.equal(found.pids, nearest_labels(x, y, labels).pids)
    assert torch.equal(one_shot.estimate(params.but(labels="true"), x, y, labels, truth).pids, truth)


def test_a_sweep_changes_one_knob_at_a_time(generator):
    x, y = (F.normalize(torch.randn(n, 8, generator=generator)) for n in (30, 5))
    labels, truth = torch.arange(5), torch.randint(5, (30,), generator=generator)
    found = one_shot.sweep(x, y, labels, truth, 11)
    assert len(found) == 2 * (len(SWEEPS["k"]) + len(SWEEPS["mu"]))
    for knob, value in (("k", 8), ("mu", 0.25)):
        guess = joint_labels(x, y, labels, **{knob: value})
        quality = label_quality(guess.pids, truth, select_confident(guess.confidence, 11))
        assert found[f"accuracy_{knob}_{value:g}"] == quality.accuracy
        assert found[f"precision_{knob}_{value:g}"] == quality.precision
    assert found["accuracy_k_3"] == found["accuracy_mu_0.5"]
    assert found["accuracy_k_1"] == label_quality(nearest_labels(x, y, labels).pids, truth, truth < 0).accuracy


def test_gini_equals_the_area_between_the_curves():
    """0 for equal shares; (C - 1) / C for one who has all; else half the mean gap of two, over the mean."""
    assert gini(torch.tensor([4, 4, 4])) == 0 and gini(torch.zeros(3, dtype=torch.long)) == 0
    assert gini(torch.tensor([0, 0, 0, 9])) == 0.75
    counts = sorted([3, 0, 7, 1, 1])
    lorenz = numpy.concatenate([[0], numpy.cumsum(counts) / sum(counts)])
    assert gini(torch.tensor([3, 0, 7, 1, 1])) == pytest.approx(1 - 2 * numpy.trapezoid(lorenz, dx=1 / 5))


# --------------------------------------------------------------------------------------------------- it can be killed


class Killed(BaseException):
    pass


def kill_at(monkeypatch, step, epoch):
    """Let the training of one step die at the start of an epoch."""
    trained, calls = one_shot.fit, []

    def dying(model, batches, *arguments, **options):
        calls.append(1)
        chosen = batches.set_epoch

        def set_epoch(number):
            if len(calls) == step + 1 and number == epoch:
                raise Killed
            chosen(number)

        batches.set_epoch = set_epoch
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(one_shot, "fit", dying)
    return lambda: monkeypatch.setattr(one_shot, "fit", trained)


@pytest.mark.parametrize(("step", "epoch"), [(0, 1), (1, 0), (2, 1)])
def test_a_run_killed_in_any_step_goes_on_to_the_same_bits(archive, monkeypatch, step, epoch):
    whole = few("default", archive, dropout=0.3)
    revive = kill_at(monkeypatch, step, epoch)
    with pytest.raises(Killed):
        few("default", archive, dropout=0.3)
    (folder,) = (runs.ROOT / "runs").glob("one_shot.*")
    assert len(list(folder.glob("step-*/epoch-00002"))) == step
    revive()
    calls = []
    counting = functools.partial(lambda f, *a, **o: (calls.append(1), f(*a, **o))[1], training_step)
    monkeypatch.setattr(one_shot, "training_step", counting)
    resumed = few("default", archive, dropout=0.3)
    assert len(calls) == 2 * (6 - 2 * step - epoch), "epochs that were done are not done again"
    assert resumed.metrics == whole.metrics and resumed.per_query == whole.per_query
    assert torch.equal(resumed.objects["gallery"].x, whole.objects["gallery"].x)
    for ours, theirs in zip(resumed.objects["steps"], whole.objects["steps"], strict=True):
        for name in ("labels", "confidence", "selected", "x"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    torch.testing.assert_close(
        resumed.objects["model"].state_dict(), whole.objects["model"].state_dict(), rtol=0, atol=0
    )


def test_a_finished_run_with_a_named_checkpoint_is_not_trained_again(archive, tmp_path, monkeypatch):
    first = few("default", archive, checkpoint=tmp_path / "mine")
    monkeypatch.setattr(one_shot, "training_step", lambda *_, **__: 1 / 0)
    again = few("default", archive, checkpoint=tmp_path / "mine")
    assert again.metrics == first.metrics
    with pytest.raises(ValueError, match="is of a run with other optimizers"):
        few("default", archive, checkpoint=tmp_path / "mine", lr=0.5)


def test_a_seed_decides_everything(archive):
    first, again, other = few("default", archive), few("default", archive), few("default", archive, seed=1)
    assert torch.equal(first.objects["query"].x, again.objects["query"].x) and first.metrics == again.metrics
    assert not torch.equal(first.objects["query"].x, other.objects["query"].x)
    assert torch.equal(first.objects["task"].labelled, other.objects["task"].labelled)
    moved = few("default", archive, split_seed=3)
    assert not torch.equal(first.objects["task"].labelled, moved.objects["task"].labelled)


# ------------------------------------------------------------------------------------------------- what a run may be


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"learning_rate": 0.1}, "learning_rate is not a parameter of one_shot; the nearest is"),
        ({"variant": "defalt"}, "variant must be one of .* the nearest is default"),
        ({"head": "slp"}, "head must be one of pl, fsr"),
        ({"optimizer": "adma"}, "optimizer must be one of sgd, adam"),
        ({"schedule": "step"}, "schedule must be one of steps, cosine"),
        ({"labels": "next"}, "labels must be one of joint, nearest, true"),
        ({"enlarging_factor": 20.0}, "enlarging_factor must be above 0 and at most 1, not 20"),
        ({"batch_size": 99}, "5 images do not fill a batch of 99"),
        ({"seed": 4_000_001}, "seed must be at least 0 and at most 4000000, not 4000001"),
    ],
)
def test_what_a_run_does_not_know_is_refused(arguments, sentence, archive):
    with pytest.raises(ValueError, match=sentence):
        run(**{"variant": "default", "preset": "quick", "data_root": str(archive), "progress": False} | FEW | arguments)


def test_claims_name_variants():
    effects, printed = claims.effects("05"), claims.printed("05")["table_of_variants"]
    assert {name for effect in effects for name in (effect.variant, effect.against)} <= VARIANTS.keys()
    assert printed.keys() <= VARIANTS.keys()
    assert set().union(*claims.groups("05", VARIANTS).values()) == VARIANTS.keys(), "a variant that no study runs"


@pytest.mark.slow
def test_the_exact_recipe_runs_dry(tmp_path, monkeypatch):
    """All of the released settings on a fabricated archive; only the trainings end after two steps, and there are two.

    The first epoch of each has both kinds of images and the whole rate, the second named ones alone and a tenth of it.
    """
    monkeypatch.setitem(supervised.BACKBONES, "resnet50", resnet50)
    root, short = tmp_path / "archives", {"epochs": 2, "ce_only_epochs": 1, "steps_per_epoch": 1, "weights": "scratch"}
    miniatures.people_in_colours(root / "market1501", 16, shots=2, searched=2)
    result = run(preset="market1501", data_root=str(root), progress=False, enlarging_factor=0.5, **short)
    task, steps, model = (result.objects[name] for name in ("task", "steps", "model"))
    assert (len(task.labelled), len(task.unlabelled)) == (16, 48) and [step.row["n"] for step in steps] == [0, 24]
    assert model.backbone.dim == 2048 and model.head.classifier[1].in_features == 2048
    assert task.data.train.pixels.shape[2:] == (256, 128)
    for step in steps:
        both, named = step.history
        assert both["lr"] == pytest.approx(10 * named["lr"]) and both["steps"] == named["steps"] == 1
        assert both["softmax"] > 0 and both["exclusive"] > 0 and both["fsr"] > 0
        assert "exclusive" not in named and "fsr" not in named


def test_the_backbone_learns_at_a_tenth_of_the_rate_and_nothing_is_spared():
    params = settings(preset="market1501", weights="scratch")
    model = one_shot.build_model(params, 5)
    optimizer = one_shot.build_optimizer(params, model)
    backbone, head = optimizer.param_groups
    assert (backbone["lr"], head["lr"]) == (pytest.approx(0.01), 0.1)
    assert all(
        group["nesterov"] and group["momentum"] == 0.5 and group["weight_decay"] == 5e-4 for group in (backbone, head)
    )
    assert {id(p) for p in model.parameters()} == {id(p) for group in (backbone, head) for p in group["params"]}
