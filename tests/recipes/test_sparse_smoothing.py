"""SLSR on miniatures: its step, what runs share, its protocols against slow twins, and the exact recipe run dry."""

import copy
import functools
import inspect
import itertools
import math

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import miniatures
from reidkit import claims, parameters, runs
from reidkit.data.images import identity_labels, load
from reidkit.data.layouts import cuhk03, market1501, viper
from reidkit.embed import embed
from reidkit.metrics import generation
from reidkit.metrics.clustering import kmeans
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.models.backbones import resnet50, small_resnet
from reidkit.recipes import driver, generators, sources, sparse_measures, sparse_smoothing, supervised
from reidkit.recipes.extra_images import Mixed
from reidkit.recipes.sparse_smoothing import (
    DECISIVE,
    VARIANTS,
    Parameters,
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
    find_clusters,
    first_network,
    hold_out,
    run,
    separation,
    training_step,
)
from reidkit.studies import runner

FEW = {"dataset": "market1501", "height": 36, "width": 18, "crop_height": 32, "crop_width": 16, "hidden": 8}
FEW |= {"epochs": 1, "steps_per_epoch": 2, "batch_size": 8, "amount": 13, "gan_height": 16, "gan_width": 8}
FEW |= {"gan_channels": 4, "gan_stages": 2, "gan_batch": 4, "gan_epochs": 1, "gan_steps": 1, "gan_init": "scratch"}
PEOPLE, SHOTS = 5, 6  # of the archive in colours: 30 images to learn from


def thin():
    return functools.partial(small_resnet, width=4)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("archives")
    miniatures.people_in_colours(root / "market1501", PEOPLE, shots=SHOTS // 2)
    miniatures.cuhk03_release(root / "cuhk03")
    miniatures.viper(root / "viper")
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What is kept goes to a scratch folder, and the backbone is thin; so are the reference weights there."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "REFERENCE", tmp_path / "reference.safetensors")
    monkeypatch.setitem(supervised.BACKBONES, "small_resnet", thin())
    save_file(thin()().state_dict(), sources.REFERENCE)
    return tmp_path


def few(variant, archives, preset="quick", **changes):
    changes = {name: value for name, value in (FEW | changes).items() if name not in VARIANTS[variant].changes}
    return run(variant, preset=preset, data_root=str(archives), progress=False, **changes)


def params_of(archives, variant="default", **changes):
    changes = {name: value for name, value in (FEW | changes).items() if name not in VARIANTS[variant].changes}
    start = {"preset": "quick", "data_root": str(archives)}
    return driver.settings("sparse_smoothing", Parameters, VARIANTS, variant, **start, **changes)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------- the step

MEMBERSHIP = torch.tensor([[True, True, False, False], [False, True, True, True]])


@pytest.fixture
def batch():
    """Two real images, of people 3 and 0, and three generated ones: of cluster 1, 0 and 1."""
    generated, clusters = torch.tensor([0, 1, 1, 0, 1]).bool(), torch.tensor([0, 1, 0, 0, 1])
    images = torch.randn(5, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    return Mixed(images, torch.tensor([3, 0, 2, 0, 1]), generated, clusters, torch.arange(5))


def step(batch, **changes):
    """The training step of some parameters, and the probabilities that it should see."""
    params = Parameters(**{"weights": "", "hidden": 8} | changes)
    model = build_model(params, 4)
    twin = copy.deepcopy(model)
    torch.manual_seed(3)  # of the dropout
    terms = training_step(model, batch, loss=build_loss(params, MEMBERSHIP))
    torch.manual_seed(3)
    p = twin(batch.images).logits.softmax(1)
    assert terms.keys() == {"softmax"}
    return terms["softmax"], p


def test_a_step_is_the_printed_equation(batch):
    """eq. 13: a generated image of cluster 0 is person 0 or 1, one of cluster 1 is person 1, 2 or 3."""
    loss, p = step(batch)
    parts = [p[0, 3].log(), p[1, 1:].log().mean(), p[2, :2].log().mean(), p[3, 0].log(), p[4, 1:].log().mean()]
    torch.testing.assert_close(loss, -torch.stack(parts).sum() / 5)


def test_other_targets_are_other_labels_of_generated_images_alone(batch):
    for target, labels in (
        ("uniform", [p_ for p_ in itertools.repeat(slice(None), 3)]),  # LSRO: everybody
        ("extra", [[4]] * 3),  # all in one: a fifth person
        ("own", [[0], [2], [1]]),  # as it comes
    ):
        extra = "copies" if target == "own" else "generated"
        loss, p = step(batch, target=target, extra=extra)
        assert p.shape == (5, 5 if target == "extra" else 4)
        others = [p[row, label].log().mean() for row, label in zip((1, 2, 4), labels, strict=True)]
        torch.testing.assert_close(loss, -torch.stack([p[0, 3].log(), p[3, 0].log(), *others]).sum() / 5)


def test_without_extra_images_a_step_is_cross_entropy_smoothed_or_not(batch):
    real = batch._replace(generated=torch.zeros(5, dtype=torch.bool))
    labels = F.one_hot(real.labels, 4)
    for smoothing, target in ((0.0, labels), (0.1, 0.9 * labels + 0.1 / 4)):
        for kind in ("cluster", "uniform", "extra", "own"):
            loss, p = step(real, target=kind, extra="none", label_smoothing=smoothing)
            assert p.shape == (5, 4)
            torch.testing.assert_close(loss, -(target * p.log()).sum(1).mean())


def test_the_noise_layer_is_between_the_logits_and_the_loss(batch):
    params = Parameters(weights="", hidden=8, noise_layer="post", noise_on="generated")
    model, loss = build_model(params, 4).eval(), build_loss(params, MEMBERSHIP)
    torch.nn.init.uniform_(model.head.noise.weight)
    logits = model(batch.images).logits
    changed = torch.where(batch.generated[:, None], logits @ model.head.noise.weight.T, logits)
    expected = loss(changed, batch.labels, batch.generated, batch.clusters)
    torch.testing.assert_close(training_step(model, batch, loss=loss)["softmax"], expected)
    assert (expected - loss(logits, batch.labels, batch.generated, batch.clusters)).abs() > 1e-3


def test_the_step_is_short_enough_to_be_read_in_the_notebook():
    for method in (training_step, generators.gan_step):
        lines = [line for line in inspect.getsource(method).splitlines() if line.strip()]
        assert len(lines) <= 24


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for what several variants share."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_measures(variant, archives, shared, monkeypatch):
    if not (weights := shared / "reference.safetensors").exists():
        sources.REFERENCE.rename(weights)
    monkeypatch.setattr(sources, "REFERENCE", weights)
    monkeypatch.setattr(runs, "ROOT", shared)
    result = few(variant, archives)
    params, metrics, objects = result.params, result.metrics, result.objects
    assert {name: params[name] for name in VARIANTS[variant].changes} == VARIANTS[variant].changes
    assert metrics["n_query"] == metrics["n_valid"] == 8 and metrics["n_gallery"] == 20
    assert metrics["mAP"] == pytest.approx(numpy.mean(result.per_query["ap"])) and metrics["ap"] == "mean"
    assert metrics["mAP_trapezoid"] <= metrics["mAP"] and 0 < metrics["mAP_reranked"] <= 1
    n = 0 if params["extra"] == "none" else round(13 * params["amount_factor"])
    assert (metrics["n_pids"], metrics["n_extra"]) == (PEOPLE, n) and len(objects["extra"].labels) == n
    assert len(objects["history"].rows) == 1 and objects["history"].rows[0]["softmax"] > 0
    clustering, generated = objects["clustering"], params["extra"] in ("generated", "wrong_clusters")
    assert (clustering.model is None) == (params["extra"] == "none" or params["target"] == "own")
    if clustering.model is None:
        assert not clustering.clusters.any() and clustering.membership.all() and not clustering.metrics
    else:
        assert clustering.membership.shape == (params["clusters"], PEOPLE)
        assert len(clustering.generators) == (params["clusters"] if generated else 0)
        assert sum(metrics[f"images_{k}"] for k in range(params["clusters"])) == PEOPLE * SHOTS
        assert all(0 < metrics[f"members_{k}"] <= 1 for k in range(params["clusters"]))
    assert not list((runs.ROOT / "runs").glob("sparse_smoothing.*")), "the checkpoint of a finished run is left"
    path = runs.save_result(result, shared)
    (again,) = runs.load_results("04", "quick", variant, folder=path.parent)
    assert again.metrics == metrics
    kept = list((shared / "data/generators").glob("network-*.safetensors"))
    assert len(kept) <= 1, "the first network is trained once for all variants"


def test_what_runs_share_is_made_once(archives, monkeypatch):
    first = few("default", archives)
    trained, seen = sparse_smoothing.fit, []

    def counting(model, batches, *arguments, **options):
        seen.append(len(batches.batches.pixels))
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(sparse_smoothing, "fit", counting)
    monkeypatch.setattr(generators, "fit", lambda *_, **__: 1 / 0)
    again = few("default", archives)
    assert seen == [30 + 13], "the second network alone is trained again"
    assert again.metrics == first.metrics and again.per_query == first.per_query
    same(again.objects["query"].x, first.objects["query"].x)
    few("lsro", archives)
    few("wrong_clusters", archives)
    assert seen == [43] * 3


def test_a_seed_decides_everything(archives, elsewhere):
    first, other = few("default", archives), few("default", archives, seed=1)
    assert not torch.equal(first.objects["query"].x, other.objects["query"].x)
    for path in (elsewhere / "data/generators").glob("*.safetensors"):
        path.unlink()
    torch.manual_seed(77)
    again = few("default", archives)
    assert again.metrics == first.metrics
    same(again.objects["query"].x, first.objects["query"].x)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("which", ["first network", "second network"])
def test_a_killed_run_goes_on_to_the_same_bits(archives, elsewhere, monkeypatch, which):
    whole = few("default", archives, epochs=3)
    for path in (elsewhere / "data/generators").glob("*.safetensors"):
        path.unlink()
    trained, images = sparse_smoothing.fit, {"first network": 30, "second network": 43}[which]

    def dying(model, batches, *arguments, **options):
        chosen = batches.set_epoch

        def set_epoch(number):
            if number == 2 and len(batches.batches.pixels) == images:
                raise Killed
            chosen(number)

        batches.set_epoch = set_epoch
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(sparse_smoothing, "fit", dying)
    with pytest.raises(Killed):
        few("default", archives, epochs=3)
    where = {"first network": "data/generators/network-*/training", "second network": "runs/sparse_smoothing.*"}[which]
    (folder,) = elsewhere.glob(where)
    assert [path.name for path in folder.iterdir()] == ["epoch-00002"]
    monkeypatch.setattr(sparse_smoothing, "fit", trained)
    torch.manual_seed(77)
    resumed = few("default", archives, epochs=3)
    assert resumed.metrics == whole.metrics
    same(resumed.objects["model"].state_dict(), whole.objects["model"].state_dict())
    same(resumed.objects["clustering"].features, whole.objects["clustering"].features)


def test_it_learns(archives):
    """People in clothes of one colour are told apart, with generated images beside them."""
    long = {"epochs": 4, "steps_per_epoch": 15, "lr": 1e-2, "backbone_rate": 1.0, "hidden": 64, "erase": 0.0}
    result = few("default", archives, **long)
    losses = result.objects["history"].frame().softmax
    assert losses.iloc[-1] < 1 < losses.iloc[0] - 0.3
    assert result.metrics["mAP"] > 0.95 > few("baseline", archives, epochs=0).metrics["mAP"]


# ------------------------------------------------------------------------------------------- clusters


def test_clusters_are_those_of_the_features_of_the_first_network(archives):
    result = few("default", archives, min_images_in_cluster=2)
    clustering, data = result.objects["clustering"], result.objects["data"]
    labels = identity_labels(data.train.pids)[0]
    found = clustering.model.eval()(sparse_measures.normalise(data.train.pixels)).feature.detach()
    torch.testing.assert_close(clustering.features, found)
    assert clustering.features.norm(dim=1).std() > 0, "as they leave the network, of any length"
    assert torch.equal(clustering.clusters, kmeans(clustering.features, 3, seed=0, n_init=10).labels)
    for k in range(3):
        for person in range(PEOPLE):
            many = int(((clustering.clusters == k) & (labels == person)).sum())
            assert clustering.membership[k, person] == (many >= 2)
        assert result.metrics[f"members_{k}"] == pytest.approx(clustering.membership[k].double().mean().item())
    # the labels of generated images are of the cluster their generator has learnt
    assert set(result.objects["extra"].clusters.tolist()) <= {0, 1, 2}


def test_each_generator_learns_the_images_of_its_cluster(archives, monkeypatch):
    learnt, trained = [], sparse_smoothing.train_generators

    def spying(params, pixels, clusters, **options):
        learnt.append((pixels, clusters))
        return trained(params, pixels, clusters, **options)

    monkeypatch.setattr(sparse_smoothing, "train_generators", spying)
    clustering = few("default", archives).objects["clustering"]
    ((pixels, clusters),) = learnt
    same(pixels, load(market1501(archives / "market1501").train, (16, 8)).pixels)
    assert torch.equal(clusters, clustering.clusters)


def test_the_first_network_learns_from_real_images_alone_or_not_at_all(archives, monkeypatch):
    params = params_of(archives, noise_layer="post", target="extra")
    data = sparse_smoothing.load_data(params, progress=False)
    labels = identity_labels(data.train.pids)[0]
    trained, seen = sparse_smoothing.fit, []

    def spying(model, batches, *arguments, **options):
        seen.append((batches.batches.pixels, model.head.classifier.out_features, model.head.noise))
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(sparse_smoothing, "fit", spying)
    first_network(params, data.train, labels, progress=False)
    ((pixels, outputs, noise),) = seen
    same(pixels, data.train.pixels)
    assert outputs == PEOPLE and noise is None
    start = torch.nn.ModuleDict({"backbone": thin()(last_relu=False)})
    supervised.load_weights(start["backbone"], sources.find_weights("reference"))
    model, features = first_network(params.but(cluster_net="weights"), data.train, labels, progress=False)
    assert len(seen) == 1
    same(model.backbone.state_dict(), start["backbone"].state_dict())
    torch.testing.assert_close(features, model(sparse_measures.normalise(data.train.pixels)).feature.detach())


def test_whatever_decides_the_first_network_gives_it_another_file(archives, elsewhere, monkeypatch):
    """And nothing else does: variants that differ in other parameters share it."""
    names = []

    def named(name, make):
        names.append(name)
        return {}, []

    monkeypatch.setattr(sparse_smoothing, "kept", named)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    monkeypatch.setattr(sparse_smoothing, "features_of", lambda *_: torch.zeros(30, 32))
    data = sparse_smoothing.load_data(params_of(archives), progress=False)
    labels = identity_labels(data.train.pids)[0]

    def name_of(changes, images=data.train, labels=labels):
        first_network(params_of(archives, **{"weights": ""} | changes), images, labels)
        return names[-1]

    usual = name_of({})
    others = {"seed": 1, "crop_height": 31, "crop_width": 15, "last_relu": True, "dense_relu": True, "batch_size": 7}
    others |= {"epochs": 2, "steps_per_epoch": 3, "optimizer": "sgd", "lr": 2.0, "backbone_rate": 0.5, "erase": 0.1}
    others |= {"weight_decay": 1.0, "schedule": "inv", "precision": "bf16", "hidden": 9}
    assert set(DECISIVE) - {"backbone", "last_stride"} <= others.keys()
    found = [name_of({name: value}) for name, value in others.items()]
    found += [name_of({}, labels=labels.flip(0)), name_of({}, images=data.train[list(range(30))[::-1]])]
    assert usual not in found and len(set(found)) == len(found)
    same_ones = {"amount": 1, "clusters": 2, "target": "uniform", "noise_layer": "post", "noise_on": "generated"}
    same_ones |= {"extra": "noise", "flip_test": False, "gan_lr": 1.0, "min_images_in_cluster": 4, "protocol": "viper"}
    assert {name_of({name: value}) for name, value in same_ones.items()} == {usual}
    assert name_of({"extra": "none", "label_smoothing": 0.3}) == usual
    monkeypatch.undo()  # weights count by what is in the file, not by its name


def test_weights_count_by_what_is_in_the_file(archives, elsewhere):
    network = functools.partial(few, "copies_smoothed", archives)
    network(), network()
    kept = elsewhere / "data/generators"
    assert len(list(kept.glob("network-*.safetensors"))) == 1
    save_file(thin()().state_dict(), sources.find_weights("reference"))
    network()
    assert len(list(kept.glob("network-*.safetensors"))) == 2


def test_a_damaged_first_network_is_named(archives, elsewhere):
    few("copies_smoothed", archives)
    (path,) = (elsewhere / "data/generators").glob("network-*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged; delete it, and it is made again"):
        few("copies_smoothed", archives)


def test_generated_images_are_measured_in_the_features_of_the_first_network(archives):
    result = few("default", archives)
    clustering, metrics = result.objects["clustering"], result.metrics
    for k in range(3):
        n = metrics[f"images_{k}"]
        assert n == int((clustering.clusters == k).sum())
        if n > 3:
            order = torch.randperm(n, generator=sparse_smoothing.epoch_generator(0, 0))
            real, other = clustering.features[clustering.clusters == k][order].tensor_split(2)
            pixels = generators.sample(clustering.generators[k].model["generator"], len(other), seed=0)
            generated = sparse_smoothing.features_of(clustering.model, sparse_measures.resize(pixels, (36, 18)))
            assert metrics[f"frechet_{k}"] == pytest.approx(generation.frechet_distance(real, generated))
            assert metrics[f"floor_{k}"] == pytest.approx(generation.frechet_distance(real, other))
            assert metrics[f"spread_{k}"] == pytest.approx(generation.spread_ratio(real, generated))
            assert metrics[f"nearest_{k}"] == pytest.approx(generation.nearest_ratio(real, generated))


@pytest.mark.parametrize("images", [1, 4, 0])
def test_a_collapsed_generator_is_named_before_the_second_network_is_trained(archives, monkeypatch, capsys, images):
    """One image over and over, or four, or (0) as many as there are real ones, which is as it should be."""
    learnt = load(market1501(archives / "market1501").train, (16, 8)).pixels
    several = learnt[:: max(1, 30 // images)][:images] if images else learnt

    def sampled(generator, n, *, seed):
        return several[torch.arange(n) % len(several)]

    monkeypatch.setattr(sparse_measures, "sample", sampled)
    monkeypatch.setattr(sparse_smoothing, "train", lambda *_, **__: pytest.fail("first the line"))
    params = params_of(archives, clusters=1, cluster_net="weights")
    data = sparse_smoothing.load_data(params, progress=False)
    find_clusters(params, data, identity_labels(data.train.pids)[0], progress=False)
    said = capsys.readouterr().out
    line = "cluster 0: the generator repeats a few images; try another gan_lr or gan_epochs.\n"
    assert said.endswith(line) == (images > 0) and ("repeats" in said) == (images > 0)


# --------------------------------------------------------------------------------------------------------- validation


def test_one_image_of_each_identity_is_held_out_if_asked():
    labels = torch.tensor([0, 2, 0, 1, 2, 2, 0, 3, 3])
    chosen = set()
    for seed in range(20):
        learnt, held = hold_out(labels, seed, train_all=False)
        assert sorted(learnt.tolist() + held.tolist()) == list(range(9)) and learnt.tolist() == sorted(learnt.tolist())
        assert sorted(labels[held].tolist()) == [0, 2, 3]  # the only image of identity 1 is learnt from
        again = hold_out(labels, seed, train_all=False)
        assert torch.equal(again[0], learnt) and torch.equal(again[1], held)
        chosen |= set(held.tolist())
        learnt, held = hold_out(labels, seed, train_all=True)
        assert (learnt.tolist(), held.tolist()) == (list(range(9)), [])
    assert chosen == {0, 1, 2, 4, 5, 6, 7, 8}


def test_the_best_epoch_is_kept_if_asked_and_the_first_of_equals(archives, monkeypatch):
    """D1.10: the released script chooses by one image of each identity, which it learns from as well."""
    shares, shown = iter([0.25, 0.75, 0.75, 0.5]), []

    def named(model, images, labels):
        shown.append((images, labels, {name: value.clone() for name, value in model.state_dict().items()}))
        model.eval()  # as accuracy does
        return next(shares)

    monkeypatch.setattr(sparse_smoothing, "accuracy", named)
    result = few("baseline", archives, epochs=4, keep="best")
    data, model = result.objects["data"], result.objects["model"]
    labels = identity_labels(data.train.pids)[0]
    held = hold_out(labels, 0, train_all=False)[1]
    assert len(shown) == 4 and all(torch.equal(images.pixels, data.train.pixels[held]) for images, *_ in shown)
    assert all(torch.equal(names, labels[held]) for _, names, _ in shown)
    same(model.state_dict(), shown[1][2])
    assert (result.metrics["epoch_kept"], result.metrics["accuracy_kept"]) == (2, 0.75)
    last = few("baseline", archives, epochs=4)
    same(last.objects["model"].state_dict(), shown[3][2])  # to look changes nothing
    assert "epoch_kept" not in last.metrics


def test_a_killed_run_remembers_the_best_epoch(archives, monkeypatch):
    options, shares = {"epochs": 3, "keep": "best"}, iter([0.9, 0.5, 0.3] * 2)
    monkeypatch.setattr(sparse_smoothing, "accuracy", lambda *_: next(shares))
    whole, look = few("baseline", archives, **options), sparse_smoothing.Best.look

    def dying(best, model, epoch):
        if epoch == 2:
            raise Killed
        look(best, model, epoch)

    monkeypatch.setattr(sparse_smoothing.Best, "look", dying)
    with pytest.raises(Killed):
        few("baseline", archives, **options)
    monkeypatch.setattr(sparse_smoothing.Best, "look", look)
    resumed = few("baseline", archives, **options)
    assert resumed.metrics == whole.metrics and whole.metrics["epoch_kept"] == 1
    same(resumed.objects["model"].state_dict(), whole.objects["model"].state_dict())


def test_without_a_second_image_nothing_can_choose(tmp_path):
    miniatures.people_in_colours(tmp_path / "market1501", 4, shots=1, searched=1)
    for path in (tmp_path / "market1501" / "bounding_box_train").glob("*c2*"):
        path.unlink()
    with pytest.raises(ValueError, match="nobody has two images, one of which could choose the best epoch; set keep"):
        few("baseline", tmp_path, keep="best")


def test_the_network_that_is_clustered_may_be_another(archives, monkeypatch):
    """The paper's is ResNet-50 whatever is trained in the end; its weights are looked at beforehand too."""
    monkeypatch.setitem(supervised.BACKBONES, "resnet50", functools.partial(small_resnet, width=2))
    options = {"cluster_backbone": "resnet50", "weights": "scratch"}
    result = few("copies_smoothed", archives, **options)
    first, second = result.objects["clustering"].model, result.objects["model"]
    assert (first.dim, second.dim) == (16, 32)
    alone = few("copies_smoothed", archives, weights="scratch")
    assert alone.objects["clustering"].model.dim == alone.objects["model"].dim == 32
    with pytest.raises(ValueError, match="of another shape"):  # the reference weights are of the other network
        supervised.check_weights(params_of(archives, cluster_backbone="resnet50"))


def test_an_archive_is_measured_by_the_convention_of_table_2_too(archives):
    metrics = few("baseline", archives).metrics
    assert 0 < metrics["mAP_reranked_trapezoid"] <= metrics["mAP_reranked"]


def test_held_out_images_are_not_learnt_from_and_measured(archives, monkeypatch):
    trained, seen = sparse_smoothing.train, []

    def spying(params, model, images, labels, extra, *arguments, **options):
        seen.append((images, labels, extra))
        return trained(params, model, images, labels, extra, *arguments, **options)

    monkeypatch.setattr(sparse_smoothing, "train", spying)
    result = few("copies", archives, train_all=False, amount=40)
    data, model = result.objects["data"], result.objects["model"]
    labels = identity_labels(data.train.pids)[0]
    learnt, held = hold_out(labels, 0, train_all=False)
    ((images, names, extra),) = seen
    assert len(held) == PEOPLE and torch.equal(images.pixels, data.train.pixels[learnt])
    assert torch.equal(names, labels[learnt])
    hidden = {image.numpy().tobytes() for image in data.train.pixels[held]}
    assert not hidden & {image.numpy().tobytes() for image in extra.pixels}
    right = [
        model.eval()(sparse_measures.normalise(data.train.pixels[i : i + 1])).logits.argmax().item() == labels[i]
        for i in held
    ]
    assert result.metrics["accuracy_held_out"] == pytest.approx(sum(map(float, right)) / PEOPLE)
    assert "accuracy_held_out" not in few("copies", archives).metrics


# ---------------------------------------------------------------------------------------------------------- protocols


def by_hand(dist, query, gallery, good, junk):
    """CMC and AP (mean precision) of one query after another."""
    places, aps = [], []
    for q in range(len(query)):
        ranked = [g for g in numpy.argsort(dist[q], kind="stable") if not junk(query[q], gallery[g])]
        hits = [place for place, g in enumerate(ranked) if good(query[q], gallery[g])]
        places.append(hits[0])
        aps.append(numpy.mean([(i + 1) / (place + 1) for i, place in enumerate(hits)]))
    return [numpy.mean([place < k for place in places]) for k in (1, 5, 10, 20)], numpy.mean(aps)


def people_of(part):
    return list(zip(part.pids.tolist(), part.camids.tolist(), strict=True))


def test_viper_is_a_naive_cmc_over_the_half_of_its_seed(archives):
    for seed in (0, 3):
        result = few("default", archives, dataset="viper_{seed}", protocol="viper", seed=seed, clusters=2, batch_size=4)
        query, gallery = result.objects["query"], result.objects["gallery"]
        half = viper(archives / "viper", split=seed)
        assert people_of(query) == [(record.pid, 0) for record in half.query]
        assert people_of(gallery) == [(record.pid, 1) for record in half.gallery]
        dist = (query.x[:, None] - gallery.x).square().sum(2).numpy()
        cmc, mean = by_hand(dist, people_of(query), people_of(gallery), lambda q, g: q[0] == g[0], lambda q, g: False)
        assert [result.metrics[f"rank{k}"] for k in (1, 5, 10, 20)] == pytest.approx(cmc)
        assert result.metrics["mAP"] == pytest.approx(mean)
        assert result.params["dataset"] == "viper_{seed}" and "rank1_single" not in result.metrics
    assert {record.pid for record in viper(archives / "viper").query} != set(query.pids.tolist())


def test_cuhk03_is_the_mean_over_every_gallery_of_one_image_a_person(archives):
    """All galleries that can be drawn are drawn: 100 people would have too many, three have a few dozen."""
    result = few("copies", archives, dataset="cuhk03_{seed}", protocol="cuhk03", seed=2)
    query, gallery = result.objects["query"], result.objects["gallery"]
    split = cuhk03(archives / "cuhk03", protocol="classic", split=2)
    assert people_of(query) == people_of(gallery) == [(record.pid, record.camid) for record in split.query]
    plain = (query.x[:, None] - gallery.x).square().sum(2)
    for ending, dist in (("_single", plain), ("_single_reranked", k_reciprocal_rerank(query.x, gallery.x))):
        people, ranks = people_of(query), []
        for q, (pid, camid) in enumerate(people):
            shown = {}
            for g, other in enumerate(people):
                if other != (pid, camid):  # her own images under this camera are left out
                    shown.setdefault(other[0], []).append(g)
            if pid not in shown:
                continue
            mine = []
            for one in itertools.product(*shown.values()):
                right = one[list(shown).index(pid)]
                # equal distances keep the order of the gallery
                mine.append(sum((float(dist[q, g]), g) < (float(dist[q, right]), right) for g in one))
            ranks.append(mine)
        assert max(map(len, ranks)) > 10
        for k in (1, 5, 10, 20):
            expected = numpy.mean([numpy.mean([rank < k for rank in mine]) for mine in ranks])
            assert result.metrics[f"rank{k}{ending}"] == pytest.approx(expected)
        expected = numpy.mean([numpy.mean([1 / (rank + 1) for rank in mine]) for mine in ranks])
        assert result.metrics[f"mAP{ending}"] == pytest.approx(expected)
    good, junk = (lambda q, g: q[0] == g[0] and q[1] != g[1]), (lambda q, g: q == g)
    with_match = [q for q in range(len(query.x)) if any(good(people[q], g) for g in people)]
    cmc, mean = by_hand(plain.numpy()[with_match], [people[q] for q in with_match], people, good, junk)
    assert result.metrics["mAP"] == pytest.approx(mean)  # over the whole gallery, beside it
    assert [result.metrics[f"rank{k}"] for k in (1, 5, 10, 20)] == pytest.approx(cmc)


def test_multi_query_is_the_average_of_the_boxes_of_each_query(tmp_path):
    miniatures.market1501(tmp_path / "market1501")
    result = few("baseline", tmp_path)
    model, query, gallery = (result.objects[name] for name in ("model", "query", "gallery"))
    boxes = market1501(tmp_path / "market1501").multi_query
    pictures = embed(model, load(boxes, (36, 18)), flip=True)
    averages = []
    for person in people_of(query):
        rows = [x for x, box in zip(pictures.x, boxes, strict=True) if (box.pid, box.camid) == person]
        assert len(rows) == 2
        averages.append(sum(rows) / 2)
    dist = -(torch.stack(averages) @ gallery.x.T).numpy()

    def junk(q, g):
        return g[0] == -1 or q == g

    cmc, mean = by_hand(dist, people_of(query), people_of(gallery), lambda q, g: q[0] == g[0] and q[1] != g[1], junk)
    assert result.metrics["mAP_multi"] == pytest.approx(mean)
    assert 0 < result.metrics["mAP_multi_trapezoid"] < mean  # half of it counts the step before a match
    assert [result.metrics[f"rank{k}_multi"] for k in (1, 5, 10, 20)] == pytest.approx(cmc)
    assert result.metrics["mAP_multi"] != result.metrics["mAP"]


def test_mirrored_images_are_added_at_test_time_if_asked(archives):
    both, one = few("baseline", archives), few("baseline", archives, flip_test=False)
    data, model = both.objects["data"], both.objects["model"]
    same(both.objects["query"].x, embed(model, data.query, flip=True).x)
    same(one.objects["query"].x, embed(model, data.query).x)
    assert not torch.equal(both.objects["query"].x, one.objects["query"].x)


# -------------------------------------------------------------------------------------------------- what a run may be


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"learning_rate": 0.1}, "learning_rate is not a parameter of sparse_smoothing; the nearest is"),
        ({"variant": "defalt"}, "variant must be one of .* the nearest is default"),
        ({"extra": "generatd"}, "extra must be one of none, generated, .* the nearest is generated"),
        ({"target": "clusters"}, "target must be one of cluster, uniform, extra, own"),
        ({"protocol": "viper1"}, "protocol must be one of market, cuhk03, viper"),
        ({"cluster_net": "imagenet"}, "cluster_net must be one of ce, weights"),
        ({"noise_layer": "square"}, "noise_layer must be one of bottleneck, post"),
        ({"schedule": "step"}, "schedule must be one of steps, inv, cosine"),
        ({"optimizer": "adamw"}, "optimizer must be one of sgd, adam"),
        ({"gan_init": "all"}, "gan_init must be one of reference, whole, scratch"),
        ({"target": "own"}, 'images of the kind "generated" have no identity of their own; set target to "cluster"'),
        ({"label_smoothing": 0.1}, 'label_smoothing is of real images; set it to 0, or extra to "none"'),
        ({"variant": "wrong_clusters", "clusters": 1}, "no other to mix it up with; set clusters to 2 or more"),
        ({"dataset": "viper_10"}, "viper_0 … viper_9, cuhk03_0 … cuhk03_19, not 'viper_10'; the nearest is viper_1"),
        ({"dataset": "market_{seed}"}, "dataset must be one of .*, not 'market_0'"),
    ],
)
def test_what_a_run_does_not_know_is_refused_before_anything_is_trained(arguments, sentence, archives, monkeypatch):
    monkeypatch.setattr(sparse_smoothing, "fit", lambda *_, **__: pytest.fail("a network is trained"))
    with pytest.raises(ValueError, match=sentence):
        run(**{"preset": "quick", "data_root": str(archives), "progress": False} | FEW | arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"crop_height": 40}, "a window of 40x16 does not fit 36x18 pixels"),
        ({"batch_size": 99}, "30 images do not fill a batch of 99"),
        ({"clusters": 31}, "k must be from 1 to the number of rows, 30"),
        ({"min_images_in_cluster": 7}, "a cluster holds no identity with 7 images"),
        ({"gan_width": 9}, "16x9 pixels cannot be halved 2 times"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(arguments, sentence, archives):
    with pytest.raises(ValueError, match=sentence):
        few("default", archives, **arguments)


def test_a_plan_of_the_splits_leaves_the_name_of_the_data_set_alone():
    jobs = runner.plan("04", "viper", variants=["headline"], seeds=range(10))
    assert {job.params["dataset"] for job in jobs} == {"viper_{seed}"} and {
        job.params["city_seed"] for job in jobs
    } == {0}
    assert [job.params["city_seed"] for job in runner.plan("04", "tiny_viper", variants=["lsr"])] == [0, 1, 2]


def test_every_variant_is_in_a_group():
    assert set().union(*claims.groups("04", VARIANTS).values()) == VARIANTS.keys(), "a variant that no study runs"


def test_the_table_of_amounts_has_all_its_cells():
    amounts = claims.groups("04", VARIANTS)["amounts"]
    changes = [VARIANTS[name].changes for name in (*amounts, "default")]
    cells = {(change.get("amount_factor", 1.0), change.get("clusters", 3)) for change in changes}
    assert cells == set(itertools.product((1.0, 1.5, 2.0, 2.5, 3.0), (2, 3, 4))) and len(amounts) == 14


# -------------------------------------------------------------------------------------------------------- the recipe


def preset(name):
    return Parameters.of(parameters.preset("04", name))


def test_the_released_rates_are_those_of_the_optimizer():
    """SGD with Nesterov momentum 0.9: 0.05, and 0.01 for the backbone; x 0.1 every 40 epochs."""
    params = preset("market1501").but(backbone="small_resnet", weights="scratch")
    model = build_model(params, 5)
    backbone, head = build_optimizer(params, model).param_groups
    assert (backbone["lr"], head["lr"]) == (pytest.approx(0.01), 0.05)
    for group in (backbone, head):
        assert group["nesterov"] and (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    assert {id(p) for p in model.parameters()} == {id(p) for group in (backbone, head) for p in group["params"]}
    steps = build_schedule(params, 100)
    assert [steps(epoch) for epoch in (0, 39.99, 40, 79, 80, 120, 129)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 1e-3, 1e-3]
    )
    assert [build_schedule(params.but(epochs=3), 100)(epoch) for epoch in (0, 2.9)] == [1, 1]


def test_the_printed_schedule_falls_with_every_batch():
    schedule = build_schedule(preset("market1501").but(schedule="inv"), 780)
    for epoch in (0, 0.5, 1, 129.9):
        assert schedule(epoch) == pytest.approx(math.exp(-0.75 * math.log1p(1e-4 * 780 * epoch)))


@pytest.mark.slow
def test_the_exact_recipe_runs_dry(tmp_path):
    """All of the released settings on a fabricated archive; only trainings end after a step, and extra images are few.

    Clusters are those of the network as it starts: another step of this size says nothing new.
    """
    miniatures.people_in_colours(tmp_path / "archives/market1501", 4, shots=2, searched=1)
    short = {"epochs": 1, "steps_per_epoch": 1, "amount": 16, "gan_epochs": 1, "gan_steps": 1, "gan_batch": 2}
    short |= {"cluster_net": "weights", "weights": "scratch"}
    result = run(preset="market1501", data_root=str(tmp_path / "archives"), progress=False, **short)
    data, model, clustering, extra = (result.objects[name] for name in ("data", "model", "clustering", "extra"))
    assert data.train.pixels.shape == extra.pixels.shape == (16, 3, 288, 144)
    assert result.objects["query"].x.shape == (2, 1024) and model.head.hidden[0].in_features == 1024
    assert clustering.features.shape == (16, 2048) and clustering.features.min() >= 0  # of ResNet-50
    for trained in clustering.generators:
        assert [sum(p.numel() for p in part.parameters()) for part in trained.model.values()] == [7_617_539, 4_341_121]
        assert trained.snapshots.shape == (2, 8, 3, 128, 128) and len(trained.history) == 1
    (row,) = result.objects["history"].rows
    assert row["steps"] == 1 and 0.5 < row["softmax"] < 3  # of 4 people: log 4 is 1.4
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.slow
def test_resnet50_runs_dry_at_the_size_the_paper_names(tmp_path):
    """D1.5: 256x256 and a window of 224x224; and the printed schedule."""
    assert supervised.BACKBONES["resnet50"] is resnet50
    miniatures.people_in_colours(tmp_path / "archives/market1501", 4, shots=1, searched=1)
    short = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4, "weights": "scratch"}
    where = {"preset": "market1501_resnet50_printed", "data_root": str(tmp_path / "archives")}
    result = run("baseline", **where, progress=False, **short)
    assert result.objects["query"].x.shape == (2, 2048) and result.objects["query"].x.min() >= 0
    assert result.objects["data"].train.pixels.shape == (8, 3, 256, 256)


def test_clusters_are_as_separate_as_scikit_learn_says():
    """In the features and in the plane of the first two principal axes."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 2, 1, 1, 1])
    x[:20, 0] += 12
    found, plane = separation(x), torch.from_numpy(PCA(2, svd_solver="full").fit_transform(x.numpy())).float()
    assert found.keys() == {f"silhouette{where}_{k}" for where in ("", "_plane") for k in (2, 3, 4, 5)}
    for where, space in (("", x), ("_plane", plane)):
        labels = kmeans(space, 2, seed=0, n_init=10).labels
        assert found[f"silhouette{where}_2"] == pytest.approx(silhouette_score(space, labels), abs=1e-4)
    assert found["silhouette_plane_2"] > found["silhouette_2"] > 0.3


def test_every_printed_row_is_a_variant_and_the_tables_agree():
    printed = claims.printed("04")
    rows = printed["state_of_the_art"]
    assert printed["table_of_variants"].keys() <= VARIANTS.keys()
    assert set(claims.groups("04", VARIANTS)["amounts"]) <= printed["table_of_variants"].keys()
    for factor, amount in {"1": "12000", "1_5": "18000", "2": "24000", "2_5": "30000", "3": "36000"}.items():
        for k, row in printed["clusters_and_amount"][amount].items():
            variant = printed["table_of_variants"].get(f"amount_{factor}_clusters_{k}", {"market": None})
            assert variant["market"] == row or (amount, k) == ("12000", "3")
    assert printed["clusters_and_amount"]["12000"]["3"] == rows["SLSR, DenseNet-121, re-ranked"]["market"]
    assert max(printed["silhouettes"], key=printed["silhouettes"].get) == "3"
    ranks = [row[1:] for by_k in printed["clusters_and_amount"].values() for row in by_k.values()]
    ranks += [row[1:] for name in ("multi_query", "cuhk03") for row in printed[name].values()]
    ranks += [row[city][1:] for row in rows.values() for city in row.keys() & {"market", "duke"}]
    ranks += printed["viper"].values()
    known = [[value for value in row if value is not None] for row in ranks]
    assert [row for row in known if row != sorted(row)] == [[92.42, 96.99, 96.94]]  # 24,000 of 4 clusters, as printed
    assert [len(printed[name]) for name in ("state_of_the_art", "multi_query", "cuhk03", "viper")] == [22, 11, 23, 15]
