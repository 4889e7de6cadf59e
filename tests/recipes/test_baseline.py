"""The baseline on a handful of coloured noise: it learns, repeats itself, survives a kill, refuses the unknown."""

import copy
import functools
import inspect

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import miniatures
from reidkit import parameters, runs
from reidkit.data.images import identity_labels
from reidkit.data.samplers import Sample
from reidkit.embed import embed
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.models.backbones import small_resnet
from reidkit.models.heads import BNNeck, ReID
from reidkit.recipes import baseline, driver, sources, supervised
from reidkit.recipes.baseline import VARIANTS, Parameters, run, training_step

FEW = {"epochs": 2, "steps_per_epoch": 2, "p": 3, "k": 2, "height": 32, "width": 16, "dataset": "market1501"}
FEW |= {"weights": "scratch"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Ten people in clothes of one colour, three to a camera, in the layout of Market-1501."""
    root = tmp_path_factory.mktemp("archives")
    miniatures.people_in_colours(root / "market1501")
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, archive):
    """Checkpoints go to a scratch folder, and the backbone is thin; so are the reference weights there."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    thin = functools.partial(small_resnet, width=4)
    save_file(thin().state_dict(), tmp_path / "reference.safetensors")
    monkeypatch.setattr(sources, "REFERENCE", tmp_path / "reference.safetensors")
    monkeypatch.setitem(supervised.BACKBONES, "small_resnet", thin)
    monkeypatch.setitem(supervised.BACKBONES, "resnet50", thin)


def few(variant, archive, **changes):
    return run(variant, preset="quick", data_root=str(archive), progress=False, **FEW | changes)


def test_a_step_is_the_sum_it_says():
    torch.manual_seed(0)
    model = ReID(small_resnet(width=4), BNNeck(32, 3))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    batch = Sample(torch.randn(6, 3, 32, 16), labels, labels, torch.arange(6))
    twin = copy.deepcopy(model)
    terms = training_step(model, batch, label_smoothing=0.1, triplet_weight=0.5, triplet_margin=0.3)
    output = twin(batch.images)
    # spec 1.1: target (1 - eps) on the identity plus eps / C on all C
    target = 0.9 * F.one_hot(labels, 3) + 0.1 / 3
    torch.testing.assert_close(terms["softmax"], -(target * output.logits.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(terms["triplet"], 0.5 * batch_hard_triplet_loss(output.feature, labels, margin=0.3))
    assert training_step(model, batch, label_smoothing=0.0, triplet_weight=0.0, triplet_margin=0.3).keys() == {
        "softmax"
    }


def test_the_step_is_short_enough_to_be_read_in_the_notebook():
    lines = [line for line in inspect.getsource(training_step).splitlines() if line.strip()]
    assert len(lines) <= 20


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_and_measures(variant, archive):
    result = few(variant, archive)
    params, metrics = result.params, result.metrics
    assert {name: params[name] for name in VARIANTS[variant].changes} == VARIANTS[variant].changes
    assert metrics["n_query"] == metrics["n_valid"] == 8 and metrics["n_gallery"] == 20
    assert metrics["rank1"] <= metrics["rank5"] <= metrics["rank10"] <= metrics["rank20"] == 1
    assert 0 < metrics["mINP"] <= metrics["mAP"] <= 1 and metrics["ap"] == "mean"
    assert metrics["mAP_trapezoid"] <= metrics["mAP"]
    assert metrics["mAP"] == pytest.approx(numpy.mean(result.per_query["ap"]))
    assert result.per_query["pid"] == [6, 6, 7, 7, 8, 8, 9, 9]
    assert len(result.objects["history"].rows) == params["epochs"]
    assert not list((runs.ROOT / "runs").glob("baseline.*")), "the checkpoint of a finished run is left"
    runs.save_result(result, runs.ROOT)


def test_it_learns(archive):
    """The loss comes near the entropy of the smoothed target (0.39), and people of one colour are found."""
    long = {"epochs": 4, "steps_per_epoch": 15, "p": 5, "k": 4, "lr": 5e-3}
    result = few("smoothing", archive, **long)
    losses = result.objects["history"].frame().softmax
    assert losses.iloc[-1] < 0.5 < losses.iloc[0]
    assert result.metrics["mAP"] > 0.9 > few("untrained", archive).metrics["mAP"]


def test_a_seed_decides_everything(archive):
    first, again, other = few("default", archive), few("default", archive), few("default", archive, seed=1)
    assert torch.equal(first.objects["query"].x, again.objects["query"].x)
    assert not torch.equal(first.objects["query"].x, other.objects["query"].x)


def test_a_killed_run_goes_on(archive, monkeypatch):
    whole = few("default", archive)
    trained = baseline.fit

    class Killed(BaseException):
        pass

    def killed_after_one_epoch(model, batches, *arguments, **options):
        class Dying:
            def __len__(self):
                return len(batches)

            def set_epoch(self, epoch):
                if epoch == 1:
                    raise Killed
                batches.set_epoch(epoch)

            def __iter__(self):
                return iter(batches)

        return trained(model, Dying(), *arguments, **options)

    monkeypatch.setattr(baseline, "fit", killed_after_one_epoch)
    with pytest.raises(Killed):
        few("default", archive)
    (folder,) = (runs.ROOT / "runs").glob("baseline.*")
    assert [path.name for path in folder.iterdir()] == ["epoch-00001"]
    monkeypatch.setattr(baseline, "fit", trained)
    resumed = few("default", archive)
    assert torch.equal(whole.objects["query"].x, resumed.objects["query"].x)
    assert resumed.metrics == whole.metrics


def test_a_named_checkpoint_is_kept(archive, tmp_path):
    few("default", archive, checkpoint=tmp_path / "mine")
    assert (tmp_path / "mine" / "epoch-00002" / "weights.safetensors").exists()


def test_another_parameter_and_other_code_have_another_checkpoint(monkeypatch):
    params = Parameters()
    made = {driver.checkpoint_folder("baseline", "default", params.but(**c)) for c in ({}, {"lr": 0.1}, {"seed": 1})}
    monkeypatch.setattr(driver.code, "digest", lambda module: "0123456789ab")
    assert len(made | {driver.checkpoint_folder("baseline", "default", params)}) == 4


def test_checkpoints_stay_where_somebody_wants_them_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setenv(driver.KEEP, str(tmp_path / "kept"))
    first = few("default", archive)
    assert [path.name.rpartition(".")[0] for path in (tmp_path / "kept").glob("[!.]*")] == ["baseline.quick.default.0"]
    monkeypatch.setattr(baseline, "training_step", lambda *_, **__: pytest.fail("it was done"))
    assert few("default", archive).metrics == first.metrics


def test_scratch_is_what_no_weights_are_where_people_are_drawn(archive):
    """On an archive it must be said: nobody forgets ImageNet by leaving a parameter out."""
    scratch, reference = (few("untrained", archive, weights=name, seed=1) for name in ("scratch", "reference"))
    assert not torch.equal(scratch.objects["query"].x, reference.objects["query"].x)
    runs.seed(1)
    empty = supervised.build_model(Parameters.of(FEW | {"weights": ""}), scratch.objects["data"].split.num_pids)
    assert torch.equal(embed(empty, scratch.objects["data"].query).x, scratch.objects["query"].x)
    with pytest.raises(ValueError, match=r"weights is empty, and market1501 is an archive, .* or to scratch if that"):
        few("default", archive, weights="")
    supervised.check_weights(Parameters(weights=""))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"learning_rate": 0.1}, "learning_rate is not a parameter of baseline; the nearest is"),
        ({"lr": "3e-4"}, "in YAML write 3.0e-4"),
        ({"variant": "sofmax"}, "variant must be one of .* the nearest is softmax"),
        ({"preset": "tinny"}, "preset must be one of .* the nearest is tiny"),
        ({"backbone": "resnet"}, "backbone must be one of"),
        ({"sampler": "kp"}, "sampler must be one of pk, plain"),
        ({"schedule": "step"}, "schedule must be one of cosine, steps"),
        ({"dataset": "market1502"}, "dataset must be one of .* the nearest is market1501"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
    ],
)
def test_what_a_run_does_not_know_is_refused(arguments, sentence, archive):
    with pytest.raises(ValueError, match=sentence):
        run(**{"variant": "default", "preset": "quick", "data_root": str(archive), "progress": False} | FEW | arguments)


def test_weights_that_do_not_fit_are_refused_before_data_are_loaded(archive, monkeypatch, tmp_path):
    monkeypatch.setattr(baseline, "load_data", lambda *_, **__: pytest.fail("data are loaded"))
    (tmp_path / "text.pth").write_text("no weights")
    for weights in (tmp_path / "text.pth", "reference"):
        with pytest.raises(ValueError, match=r"text\.pth|reference\.safetensors"):
            few("default", archive, weights=str(weights), backbone="resnet34")


def test_to_look_at_weights_draws_nothing():
    before = torch.get_rng_state()
    supervised.check_weights(Parameters(weights="reference", last_relu=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_that_may_not_be_written_to_is_named_before_anything_is_done(archive, tmp_path):
    (tmp_path / "file").write_text("")
    for checkpoint in (tmp_path / "file" / "run", tmp_path / "file" / "deep" / "run"):
        with pytest.raises(ValueError, match=f"the state of the run goes to {checkpoint.parent}, and .*file is a file"):
            few("default", archive, checkpoint=checkpoint)


def test_a_batch_of_one_image_has_no_statistics(archive):
    with pytest.raises(ValueError, match="batches of one image"):
        few("default", archive, p=1, k=1)
    assert Parameters(p=1, k=1, neck="none").p == 1


def test_the_released_recipe_runs_dry(archive):
    """The preset market1501 as it is, but for the length of an epoch, the number of them, and a thin network."""
    few_of_it = {"epochs": 1, "steps_per_epoch": 2, "p": 3, "height": 64, "width": 32, "weights": "scratch"}
    result = run(preset="market1501", data_root=str(archive), progress=False, **few_of_it)
    released = Parameters.of(parameters.preset("02", "market1501"))
    assert result.params == released.but(**few_of_it, data_root=str(archive)).values()
    row = result.objects["history"].rows[0]
    assert row["steps"] == 2 and row["lr"] == pytest.approx(3.5e-6)


def test_an_epoch_without_a_number_of_steps_is_one_pass(archive):
    history = few("plain_batches", archive, steps_per_epoch=0, epochs=1).objects["history"]
    assert history.rows[0]["steps"] == 30 // 6


def test_the_backbone_starts_from_weights(archive, tmp_path):
    from safetensors.torch import save_file

    backbone = small_resnet(width=4)
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, tmp_path / "w.safetensors")
    params = Parameters(weights="w.safetensors")  # relative to the project's folder
    model = supervised.build_model(params, 5)
    torch.testing.assert_close(model.backbone.state_dict(), backbone.state_dict())


def test_the_optimizer_spares_nothing_that_learns():
    params = Parameters()
    model = supervised.build_model(params, 5)
    (group,) = supervised.build_optimizer(params, model).param_groups
    learning = {id(p) for p in model.parameters()} - {id(model.head.bn.bias)}
    assert {id(p) for p in group["params"]} == learning
    assert group["weight_decay"] == 5e-4 and group["lr"] == 2e-3


def test_a_city_is_drawn_where_the_data_are(monkeypatch, tmp_path, archive):
    asked = []

    def build_city(out, **options):
        asked.append((out, options))
        return archive / "market1501"

    monkeypatch.setattr(sources, "build_city", build_city)
    split = sources.open_split("duke", data_root=tmp_path / "mine", preset="tiny", city_seed=7, progress=False)
    plan = {"city": "duke", "preset": "tiny", "seed": 7, "progress": False}
    plan |= {"knobs": {}, "device": sources.device()}
    assert asked == [(tmp_path / "mine" / "cities" / "duke-tiny-7", plan)]
    assert split.num_pids == 5
    sources.open_split("market", progress=False)
    assert asked[1][0] == runs.ROOT / "data" / "cities" / "market-tiny-0"


def test_turned_knobs_are_another_city(monkeypatch, archive):
    asked = []

    def build_city(out, **options):
        asked.append((out.name, options["knobs"]))
        return archive / "market1501"

    monkeypatch.setattr(sources, "build_city", build_city)
    sources.open_split("market", knobs="light=2, occluders=0")
    assert asked == [("market-tiny-0-light=2,occluders=0", {"light": 2.0, "occluders": 0.0})]
    with pytest.raises(ValueError, match="knobs are written as light=2,occluders=0, not 'light'"):
        sources.open_split("market", knobs="light")


def test_data_come_decoded_at_the_size_of_the_parameters(archive):
    data = sources.load_data(Parameters(**FEW, data_root=str(archive)), progress=False)
    assert data.train.pixels.shape == (30, 3, 32, 16) and len(data.query) == 8 and len(data.gallery) == 20
    assert identity_labels(data.train.pids)[1] == data.split.num_pids == 5
    batches = supervised.build_batches(Parameters(**FEW), data.train)
    assert len(batches) == 2 and next(iter(batches)).images.shape == (6, 3, 32, 16)
    assert isinstance(supervised.build_model(Parameters(), 5), nn.Module)
