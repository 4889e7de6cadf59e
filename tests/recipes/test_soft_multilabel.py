"""MAR on miniatures of the archives: its step, what it remembers, what it must not see, where it starts from."""

import collections
import copy
import functools
import inspect

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import miniatures
from reidkit import claims, parameters, runs
from reidkit.data.images import Augment, identity_labels, normalise
from reidkit.data.samplers import Sample
from reidkit.embed import embed
from reidkit.losses.soft_multilabel import agreement, joint_embedding_loss
from reidkit.models.backbones import small_resnet
from reidkit.models.heads import Agents, ReID
from reidkit.recipes import driver, soft_multilabel, sources, supervised
from reidkit.recipes.soft_multilabel import (
    VARIANTS,
    JoinedBatches,
    Memory,
    Parameters,
    SourceAndTarget,
    agent_step,
    build_optimizer,
    build_schedule,
    build_step,
    count_mined,
    everybody,
    run,
    stage_one,
    training_step,
)
from reidkit.training import Cycle

FEW = {"dataset": "market1501", "source_dataset": "msmt17", "epochs": 2, "steps_per_epoch": 2, "mining_from": 1}
FEW |= {"height": 32, "width": 16, "source_batch": 4, "target_batch": 6, "mining_ratio": 0.25, "target": True}
ONE = {"lambda1": 0.1, "lambda2": 3.0, "beta": 0.5, "margin": 1.0, "joint_reading": "code", "mining_from": 0}
N_TARGET, N_SOURCE, N_AGENTS = 16, 24, 5  # images and people of the miniatures
GROUPS = claims.groups("06", VARIANTS)
SWEPT = {name for knob in soft_multilabel.SWEEPS for name in GROUPS[knob]}
WHOLE = dict(supervised.BACKBONES)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("archives")
    miniatures.market1501(root / "market1501")
    miniatures.msmt17(root / "msmt17")
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Checkpoints go to a scratch folder, and the backbones are thin; so are the reference weights."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "REFERENCE", tmp_path / "reference.safetensors")
    thin = functools.partial(small_resnet, width=4)
    for name in ("small_resnet", "resnet50"):
        monkeypatch.setitem(supervised.BACKBONES, name, thin)
    write_weights(network(N_AGENTS), tmp_path / "reference.safetensors")


def network(num_agents, **options):
    backbone = small_resnet(width=4, **{"last_relu": False} | options)
    return ReID(backbone, Agents(backbone.dim, num_agents))


def write_weights(model, path):
    """A file as tools/reference.py writes it: the agents are the last layer of the network."""
    tensors = model.backbone.state_dict() | {"classifier.weight": model.head.agents}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def few(variant, archives, **changes):
    return run(variant, preset="quick", data_root=str(archives), progress=False, **FEW | changes)


def params_of(archives, **changes):
    return Parameters.of({**FEW, "data_root": str(archives), **changes})


def preset(name):
    return Parameters.of(parameters.preset("06", name))


@pytest.fixture
def batch():
    """Five source images of three people and eight target images of two, seen by two cameras."""
    labels, same = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    source = Sample(torch.randn(5, 3, 32, 16), labels, labels, torch.arange(5))
    target = Sample(torch.randn(8, 3, 32, 16), same, torch.arange(8) % 2, torch.arange(8) + 2)
    return SourceAndTarget(source, target, epoch=0)


def remembered(mining="multilabels", **changes):
    params = Parameters.of({"mining": mining, "mining_ratio": 0.25} | changes)
    return Memory(params, num_images=10, num_agents=4)


# The step


def test_a_step_is_the_sum_it_says(batch):
    model, memory = network(4), remembered()
    twin = copy.deepcopy(model)
    terms = training_step(model, batch, memory=memory, **ONE)
    assert [name for name, term in terms.items() if term.requires_grad] == [
        "agents",
        "joint",
        "cameras",
        "discriminative",
    ]
    source, target = twin(batch.source.images), twin(batch.target.images)
    torch.testing.assert_close(terms["agents"], 3.0 * F.cross_entropy(source.logits, batch.source.labels))
    joint = joint_embedding_loss(source.embedding, batch.source.labels, target.embedding, twin.head.agents)
    torch.testing.assert_close(terms["joint"], 3.0 * 0.5 * joint)
    log_y = target.logits.log_softmax(1).detach()
    # no centres before: those of the batch are taken, before the loss; then the mean over cameras of the differences
    means, stds = (
        torch.stack([f(log_y[batch.target.camids == v]) for v in (0, 1)])
        for f in (lambda rows: rows.mean(0), lambda rows: rows.std(0))
    )
    differences = [(x - x.mean(0)).square().sum() for x in (means, stds)]
    torch.testing.assert_close(terms["cameras"].detach(), 0.1 * sum(differences) / 4)
    # no threshold before: no pair is positive; 7 of 28 pairs are mined
    squared = torch.cdist(target.embedding, target.embedding).square()[tuple(torch.triu_indices(8, 8, 1))].detach()
    near = squared.sort().values[:7]
    torch.testing.assert_close(terms["discriminative"].detach(), torch.log(1 + (-near).exp().mean()))
    assert (terms["positives"], terms["negatives"]) == (0, 7)
    # only now the threshold is what 7 pairs of the batch exceed or reach
    y = log_y.exp()
    expected = agreement(y)[tuple(torch.triu_indices(8, 8, 1))].sort(descending=True).values[6]
    torch.testing.assert_close(memory.mining.threshold, expected)
    torch.testing.assert_close(memory.multilabels[batch.target.indices], y)


def test_agents_learn_from_their_own_people_alone(batch):
    model = network(4)
    terms = training_step(model, batch, memory=remembered(), **ONE)
    weight = model.head.classifier.weight
    for name in ("joint", "cameras", "discriminative"):
        assert torch.autograd.grad(terms[name], weight, retain_graph=True, allow_unused=True) == (None,), name
    assert torch.autograd.grad(terms["agents"], weight)[0].any()


def test_nothing_is_mined_or_kept_before_its_epoch(batch):
    model, memory = network(4, last_relu=True), remembered()
    terms = training_step(model, batch, memory=memory, **ONE | {"mining_from": 1})
    assert terms.keys() == {"agents", "joint", "cameras"}
    assert not memory.multilabels.visited.any() and memory.mining.threshold.isnan()
    assert not memory.cameras.mean.isnan().any()
    assert training_step(model, batch, memory=remembered("none"), **ONE).keys() == {"agents", "joint", "cameras"}


def test_the_baseline_splits_by_features(batch):
    model = network(4, last_relu=True)
    terms = training_step(model, batch, memory=remembered("features"), **ONE)
    assert (terms["positives"], terms["negatives"]) == (3, 4)  # half of 7


def test_the_step_is_short_enough_to_be_read_in_the_notebook():
    lines = [line for line in inspect.getsource(training_step).splitlines() if line.strip()]
    assert len(lines) <= 30


def test_mined_pairs_are_counted_as_one_would():
    labels = torch.tensor([4, 4, 9, 9, 7])
    positive, negative = [(0, 1), (2, 3), (1, 2)], [(0, 4), (2, 3)]
    pairs, kinds = torch.tensor(positive + negative), torch.tensor([True] * 3 + [False] * 2)
    counts = count_mined(pairs, kinds, labels)
    for name, pairs in (("positives", positive), ("negatives", negative)):
        assert counts[name] == len(pairs)
        assert counts[f"{name}_same"] == sum(bool(labels[i] == labels[j]) for i, j in pairs)
    assert count_mined(torch.tensor(negative), kinds[3:], labels)["positives_same"] == 0


# Two cities at a time


class Counted:
    """Three batches named by the pass they belong to."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([(self.epoch, n) for n in range(3)])


def test_a_short_target_begins_again_and_no_pass_is_used_twice():
    batches, passes = JoinedBatches(Cycle(list("abcd"), 7), Counted()), []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        pairs = list(batches)
        assert len(pairs) == len(batches) == 7 and {pair.epoch for pair in pairs} == {epoch}
        assert "".join(pair.source for pair in pairs) == "abcdabc"
        assert [pair.target[1] for pair in pairs] == [0, 1, 2, 0, 1, 2, 0]
        passes.append({pair.target[0] for pair in pairs})
    assert len(passes[0]) == 3 and not passes[0] & passes[1]
    again = list(batches)
    assert again == pairs


def test_a_long_target_is_cut():
    batches = JoinedBatches(Cycle(["a"], 1), Counted())
    batches.set_epoch(0)
    assert len(list(batches)) == 1


# What is remembered


def test_the_start_is_that_of_all_target_images(archives):
    params = params_of(archives, mining_ratio=0.1)
    source, target = everybody(params, progress=False), soft_multilabel.load_data(params, progress=False).train
    model = stage_one(params, source, progress=False)
    memory = Memory(params, len(target), N_AGENTS)
    memory.initialise(model, target, precision="fp32")
    log_y = model.eval()(normalise(target.pixels)).logits.log_softmax(1).detach()
    pairs = agreement(log_y.exp())[tuple(torch.triu_indices(N_TARGET, N_TARGET, 1))]
    torch.testing.assert_close(memory.mining.threshold, pairs.sort(descending=True).values[int(0.1 * 120) - 1])
    cameras = [log_y[target.camids == v] for v in target.camids.unique()]
    torch.testing.assert_close(memory.cameras.mean, torch.stack([rows.mean(0) for rows in cameras]).mean(0))
    torch.testing.assert_close(memory.cameras.std, torch.stack([rows.std(0) for rows in cameras]).mean(0))
    assert not memory.multilabels.visited.any()


def weights_of(result):
    return torch.cat([parameter.detach().flatten() for parameter in result.objects["model"].parameters()])


def test_nobody_learns_from_the_labels_of_the_target(archives, monkeypatch):
    known = few("default", archives, epochs=3)
    loaded = soft_multilabel.load_data

    def renamed(params, **options):
        data = loaded(params, **options)
        object.__setattr__(data.train, "pids", torch.arange(N_TARGET))
        return data

    monkeypatch.setattr(soft_multilabel, "load_data", renamed)
    unknown = few("default", archives, epochs=3)
    assert torch.equal(weights_of(known), weights_of(unknown))
    assert unknown.metrics["precision_nearest_last"] == 0  # everybody is somebody else, and that is all that changed


def test_the_control_does_not_see_the_target(archives, monkeypatch):
    plain, loaded = few("control", archives), soft_multilabel.load_data

    def black(params, **options):
        data = loaded(params, **options)
        data.train.pixels.zero_()
        return data

    monkeypatch.setattr(soft_multilabel, "load_data", black)
    assert torch.equal(weights_of(plain), weights_of(few("control", archives)))
    seen = [few("control_seen", archives)]
    monkeypatch.setattr(soft_multilabel, "load_data", loaded)
    seen.append(few("control_seen", archives))
    statistics = [result.objects["model"].backbone.bn1.running_mean for result in seen]
    assert not torch.equal(*statistics)
    assert torch.equal(*map(weights_of, seen))  # batch norm alone sees it


# Whole runs


@pytest.mark.filterwarnings("ignore:.* images have .* pairs, of which mining_ratio")
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in SWEPT] + ["beta_0", "mining_ratio_0_001"])
def test_every_variant_runs_and_measures(variant, archives):
    result = few(variant, archives)
    params = Parameters.of(result.params)
    metrics = result.metrics
    assert metrics["n_query"] == metrics["n_valid"] == 4 and metrics["ap"] == "mean"
    assert 0 < metrics["mAP"] <= 1 and 0 < metrics["mAP_mar"] <= 1
    history, memory = result.objects["history"], result.objects["memory"]
    assert len(history.rows) == params.epochs
    assert (memory is None) == (not params.target)
    if params.target and params.epochs:
        mines = params.mining != "none"
        assert [("discriminative" in row) for row in history.rows] == [False, mines]
        assert memory.multilabels.visited.any() == mines
    assert not list((runs.ROOT / "runs").glob("soft_multilabel.*")), "the checkpoint of a finished run is left"
    runs.save_result(result, runs.ROOT)


@pytest.mark.filterwarnings("ignore:.* images have .* pairs, of which mining_ratio")
@pytest.mark.parametrize("variant", sorted(SWEPT))
def test_every_setting_of_a_knob_takes_a_step(variant, batch):
    params = driver.settings("soft_multilabel", Parameters, VARIANTS, variant, preset="tiny")
    model, memory = network(4, last_relu=True), remembered(**VARIANTS[variant].changes)
    terms = build_step(params, memory)(model, batch._replace(epoch=1))
    assert all(term.isfinite() for term in terms.values()) and terms["positives"] + terms["negatives"] >= 1
    silent = {"joint"} if VARIANTS[variant].changes == {"beta": 0.0} else set()
    assert {name for name, term in terms.items() if term.requires_grad and term == 0} == silent


def test_a_seed_decides_everything(archives):
    first, again, other = few("default", archives), few("default", archives), few("default", archives, seed=1)
    assert torch.equal(weights_of(first), weights_of(again))
    assert not torch.equal(weights_of(first), weights_of(other))


def test_a_killed_run_goes_on_with_all_it_remembers(archives, monkeypatch):
    whole = few("default", archives, epochs=4)
    trained = soft_multilabel.fit

    class Killed(BaseException):
        pass

    def killed_in_the_third_epoch(model, batches, *arguments, **options):
        class Dying:
            def __len__(self):
                return len(batches)

            def set_epoch(self, epoch):
                if epoch == 2:
                    raise Killed
                batches.set_epoch(epoch)

            def __iter__(self):
                return iter(batches)

        return trained(model, Dying(), *arguments, **options)

    monkeypatch.setattr(soft_multilabel, "fit", killed_in_the_third_epoch)
    with pytest.raises(Killed):
        few("default", archives, epochs=4)
    (folder,) = (runs.ROOT / "runs").glob("soft_multilabel.*")
    assert [path.name for path in folder.iterdir()] == ["epoch-00002"]
    monkeypatch.setattr(soft_multilabel, "fit", trained)
    resumed = few("default", archives, epochs=4)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert resumed.metrics == whole.metrics
    before, after = (result.objects["memory"].state_dict() for result in (whole, resumed))
    assert before.keys() == after.keys() == {
        "multilabels.table", "multilabels.visited", "cameras.mean", "cameras.std", "mining.threshold"
    }  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["multilabels.visited"].any()


def test_the_shares_of_true_pairs_are_those_of_the_history(archives):
    result = few("default", archives, epochs=3)
    first, last = (row for row in result.objects["history"].rows if "discriminative" in row)
    for when, row in (("first", first), ("last", last)):
        same, all_mined = row["positives_same"] + row["negatives_same"], row["positives"] + row["negatives"]
        assert result.metrics[f"precision_nearest_{when}"] == pytest.approx(same / all_mined)
        assert all_mined == int(0.25 * 15)
        if row["positives"]:
            assert result.metrics[f"precision_{when}"] == pytest.approx(row["positives_same"] / row["positives"])
    assert "precision_last" not in few("control", archives).metrics


# Where it starts


def test_everybody_of_the_source_is_a_reference_person(archives):
    source = everybody(params_of(archives), progress=False)
    assert len(source) == N_SOURCE and identity_labels(source.pids)[1] == N_AGENTS


def test_agents_come_from_a_file_that_knows_just_these_people(archives, tmp_path):
    params = params_of(archives, stage_one="file")
    source = everybody(params, progress=False)
    model = stage_one(params, source, progress=False)
    torch.testing.assert_close(model.head.classifier.weight.norm(dim=1), torch.ones(N_AGENTS))
    write_weights(model, tmp_path / "mine.safetensors")
    again = stage_one(params.but(weights="mine.safetensors"), source, progress=False)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)
    assert "classifier.weight" not in again.backbone.state_dict()
    with pytest.raises(ValueError, match=r"1 of another shape: classifier\.weight \(5, 32\) for \(4, 32\)"):
        stage_one(params, source[source.pids != source.pids[0]], progress=False)


def test_the_file_that_mar_published_gives_network_and_agents(archives, tmp_path):
    """Its last layer is called fc, and what it counts are all people of its source."""
    params = params_of(archives, stage_one="file", weights="pretrained.pth")
    theirs = network(N_AGENTS)
    backbone = {name: tensor for name, tensor in theirs.backbone.state_dict().items() if "batches" not in name}
    fc = {"fc.weight": 2 * theirs.head.classifier.weight.detach()}
    torch.save(collections.OrderedDict(backbone | fc), tmp_path / "pretrained.pth")
    supervised.check_weights(params)
    model = stage_one(params, everybody(params, progress=False), progress=False)
    assert torch.equal(model.head.classifier.weight, fc["fc.weight"])
    torch.testing.assert_close(model.head.agents, theirs.head.agents)
    for name, tensor in backbone.items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_agents_may_be_the_means_of_their_people(archives):
    params = params_of(archives, stage_one="means")
    source = everybody(params, progress=False)
    model = stage_one(params, source, progress=False)
    x, labels = embed(model, source).x, identity_labels(source.pids)[0]
    for person, agent in enumerate(model.head.agents):
        torch.testing.assert_close(agent, F.normalize(x[labels == person].sum(0), dim=0))


def test_stage_one_is_trained_once_for_all_variants_and_seeds(archives, monkeypatch):
    steps = []

    def counted(model, batch, *, weight):
        steps.append(weight)
        return agent_step(model, batch, weight=weight)

    monkeypatch.setattr(soft_multilabel, "agent_step", counted)
    start = {"stage_one": "train", "stage_one_epochs": 2}
    first = few("pretrained", archives, **start)
    assert steps == [1.0] * 4
    other = few("pretrained", archives, seed=1, **start)
    few("default", archives, **start)
    assert steps == [1.0] * 4
    assert torch.equal(weights_of(first), weights_of(other))
    few("pretrained", archives, **start | {"stage_one_lr": 0.5})
    assert len(steps) == 8
    few("pretrained", archives, **start | {"weight_decay": 0.5})
    assert len(steps) == 8, "the weight decay of stage 2 is none of stage 1's"
    few("pretrained", archives, **start | {"stage_one_weight_decay": 0.5})
    assert len(steps) == 12


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stage_one": "files"}, "stage_one must be one of file, means, train"),
        ({"mining": "labels"}, "mining must be one of multilabels, features, none"),
        ({"optimizer": "sdg"}, "optimizer must be one of sgd, adam"),
        ({"schedule": "step"}, "schedule must be one of cosine, steps"),
        ({"source_dataset": "msmt"}, "dataset must be one of .* the nearest is msmt17"),
        ({"joint_reading": "eq7"}, "joint_reading must be one of code, eq8"),
        ({"memory_momentum": 1.1}, "memory_momentum must be at least 0 and at most 1"),
        ({"lambda3": 1.0}, "lambda3 is not a parameter of soft_multilabel; the nearest is"),
        ({"target_batch": 17}, "16 images do not fill a batch of 17"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
    ],
)
def test_what_a_run_does_not_know_is_refused(archives, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        few("default", archives, **changes)


def test_without_weights_there_is_nothing_to_take_agents_from(archives):
    for way in ("file", "means"):
        with pytest.raises(ValueError, match=f'weights is empty, and stage_one is "{way}"'):
            params_of(archives, stage_one=way, weights="")


def test_the_schedule_drops_where_the_released_one_does():
    """spec 4.3: of 20 epochs, a tenth from epoch 12 on and a hundredth from epoch 17 on."""
    schedule = build_schedule(Parameters(schedule="steps", epochs=20))
    assert [schedule(epoch) for epoch in range(20)] == pytest.approx([1.0] * 12 + [0.1] * 5 + [0.01] * 3)


def test_images_of_the_archives_are_moved_by_the_released_seven_pixels():
    augment = Augment(pad=preset("market1501").pad, erase=0.0)
    drawn = augment.draw(4000, 384, 128, generator=torch.Generator().manual_seed(0))
    assert (drawn.down.min(), drawn.down.max(), drawn.right.min(), drawn.right.max()) == (-7, 7, -7, 7)


def test_consistency_over_cameras_is_a_mean_or_the_printed_sum():
    assert [remembered(camera_reduction=how).cameras.reduction for how in ("mean", "sum")] == ["mean", "sum"]


def test_everything_is_decoded_as_resize_says(archives):
    params, sources = params_of(archives), {}
    for how in ("bilinear", "bicubic"):
        sources[how] = everybody(params.but(resize=how), progress=False).pixels
    assert not torch.equal(*sources.values())


def test_weight_decay_spares_batch_normalisation():
    model = network(4, last_relu=True)
    optimizer = build_optimizer(preset("market1501"), model)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            assert decays.pop(id(parameter)) == (0 if isinstance(module, nn.BatchNorm2d) else 2.5e-2)
    assert not decays and optimizer.defaults["momentum"] == 0.9


def test_the_weights_of_the_terms_reach_the_step():
    step = build_step(preset("market1501"), remembered())
    given = {name: value for name, value in step.keywords.items() if name != "memory"}
    assert given == ONE | {"lambda1": 2e-4, "lambda2": 50.0, "beta": 0.2, "mining_from": 1}
    assert build_step(preset("market1501"), None).keywords == {"weight": 50.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* images have .* pairs, of which mining_ratio")
def test_the_exact_recipe_runs_dry(archives, monkeypatch):
    """All of the released settings on fabricated archives, in batches of two; both stages end after one step an epoch.

    Sixteen images have 120 pairs, of which p = 0.005 takes none: so the guard is in it too.
    """
    monkeypatch.setattr(supervised, "BACKBONES", WHOLE)
    few_steps = {"source_batch": 2, "target_batch": 2, "steps_per_epoch": 1, "stage_one_epochs": 1, "epochs": 2}
    few_steps |= {"weights": "scratch"}
    result = run(preset="market1501", data_root=str(archives), progress=False, **few_steps)
    model, memory, rows = (result.objects[name] for name in ("model", "memory", "history"))
    assert model.dim == 2048 and model.head.agents.shape == (N_AGENTS, 2048)
    assert model.backbone(torch.zeros(1, 3, 384, 128)).min() < 0  # the last ReLU is gone
    first, second = rows.rows
    assert (first["lr"], second["lr"]) == pytest.approx((2e-4, 2e-6))  # both drops of 20 epochs fall on the second of 2
    assert "discriminative" not in first and second["positives"] + second["negatives"] == 1
    assert memory.multilabels.visited.sum() == 2 and memory.mining.threshold.isfinite()
    assert 0 < result.metrics["mAP"] <= 1


def test_every_printed_row_is_a_variant():
    printed = claims.printed("06")
    assert printed["table_of_variants"].keys() == set(GROUPS["table3"])
    assert printed["table_of_variants"]["default"]["market"][:3] == printed["state_of_the_art"]["MAR"]["market"]
    for row in (printed["table_of_variants"] | printed["state_of_the_art"]).values():
        for city in row.keys() & {"market", "duke"}:
            assert row[city][1:] == sorted(row[city][1:]) and row[city][0] < row[city][1]  # mAP < rank-1 < rank-5 ...


def test_groups_hold_what_they_say():
    for knob in soft_multilabel.SWEEPS:
        assert {name for variant in GROUPS[knob] for name in VARIANTS[variant].changes} == {knob}
    assert sum(map(len, soft_multilabel.SWEEPS.values())) == sum(len(GROUPS[knob]) for knob in soft_multilabel.SWEEPS)
