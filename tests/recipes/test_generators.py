"""A DCGAN for each cluster: its step by hand, its snapshots, where it starts; it is made once and survives a kill."""

import copy
import functools
import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from reidkit import code, runs
from reidkit.models.dcgan import from_pixels, to_pixels
from reidkit.recipes import generators
from reidkit.recipes.generators import (
    DECISIVE,
    GANBatch,
    GANBatches,
    Snapshots,
    build,
    gan_step,
    generate,
    noise,
    sample,
    train_generator,
    train_generators,
)
from reidkit.recipes.kept import fingerprint, kept
from reidkit.recipes.sparse_smoothing import Parameters
from reidkit.training import History, fit

SMALL = {"gan_height": 16, "gan_width": 8, "gan_channels": 4, "gan_stages": 2, "gan_batch": 4, "gan_epochs": 2}
PARAMS = Parameters(**SMALL, gan_steps=3, gan_lr=1e-3, gan_precision="fp32", gan_init="scratch")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(generators, "REFERENCE", tmp_path / "generator.safetensors")
    return tmp_path


@pytest.fixture
def pixels(generator):
    """Ten images, brighter from one to the next."""
    bright = torch.linspace(0, 200, 10).view(-1, 1, 1, 1)
    return (bright + 50 * torch.rand(10, 3, 16, 8, generator=generator)).to(torch.uint8)


def train(pixels, start=None, **changes):
    return train_generator(PARAMS.but(**changes), pixels, start=start, title="tests", progress=False)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------- the step


@pytest.fixture
def batch(pixels):
    return GANBatch(from_pixels(pixels), torch.rand(10, 100) * 2 - 1, 0, 1)


SNAPSHOTS = Snapshots(2, (16, 8), seed=0)


def test_a_step_is_one_update_of_the_discriminator_and_two_of_the_generator_with_the_same_noise(batch):
    """With the equations written out, and every forward made anew."""
    model = build(PARAMS)
    twin = copy.deepcopy(model)
    generator, discriminator = twin["generator"], twin["discriminator"]

    def sgd(networks):
        return {name: torch.optim.SGD(network.parameters(), lr=0.5) for name, network in networks.items()}

    step = functools.partial(gan_step, snapshots=SNAPSHOTS)
    fit(model, [batch], step, epochs=1, optimizers=sgd(model), precision="fp32", progress=False)
    ways = sgd(twin)

    def update(name, loss):
        ways[name].zero_grad()
        loss.backward()
        ways[name].step()

    def passed():
        return discriminator(generator(batch.noise)).sigmoid()

    update("discriminator", -(discriminator(batch.images).sigmoid().log() + (1 - passed()).log()).mean())
    update("generator", -passed().log().mean())
    once = copy.deepcopy(twin)
    update("generator", -passed().log().mean())
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    far = (model["generator"].start.weight - once["generator"].start.weight).abs().max()
    assert far > 1e-3, "one update of the generator would not be told from two"


def test_both_networks_learn_as_released(pixels, monkeypatch):
    found = {}
    monkeypatch.setattr(generators, "fit", lambda *_, **options: found.update(options) or History([]))
    train(pixels, gan_lr=2e-4)
    assert found["optimizers"].keys() == {"generator", "discriminator"} and "schedules" not in found
    for adam in found["optimizers"].values():
        (group,) = adam.param_groups
        assert type(adam) is torch.optim.Adam
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)


def test_the_terms_of_a_step_equal_their_equations(batch):
    model = build(PARAMS)
    generator, discriminator = model["generator"], model["discriminator"]
    steps = gan_step(model, batch, snapshots=SNAPSHOTS)
    name, terms = next(steps)
    assert name == "discriminator"
    real, other = discriminator(batch.images).sigmoid(), discriminator(generator(batch.noise)).sigmoid()
    torch.testing.assert_close(terms["real"], -real.log().mean())
    torch.testing.assert_close(terms["generated"], -(1 - other).log().mean())
    for _ in range(2):
        name, terms = next(steps)
        assert name == "generator"
        passed = discriminator(generator(batch.noise)).sigmoid()
        torch.testing.assert_close(terms["passed"], -passed.log().mean())
        with torch.no_grad():  # an update of the generator is seen by the next
            generator.start.weight.mul_(1.1)
    assert next(steps, None) is None


def test_neither_network_learns_from_the_other_ones_loss(batch):
    model = build(PARAMS)
    for name, terms in gan_step(model, batch, snapshots=SNAPSHOTS):
        other = model["generator" if name == "discriminator" else "discriminator"]
        sum(terms.values()).backward()
        assert all(parameter.grad is None for parameter in other.parameters()), name
        assert all(parameter.grad is not None for parameter in model[name].parameters()), name
        model.zero_grad()
    assert all(parameter.requires_grad for parameter in model.parameters())


# -------------------------------------------------------------------------------------------------- batches and noise


def test_an_epoch_is_one_pass_or_so_many_batches(pixels):
    one = [batch.images for batch in GANBatches(pixels, batch_size=4, seed=0)]
    assert [len(images) for images in one] == [4, 4]  # the last two of the ten are left out
    found = torch.cat(one).flatten(1)
    assert len(found.unique(dim=0)) == 8
    assert all((from_pixels(pixels).flatten(1) == image).all(1).any() for image in found)
    many = list(GANBatches(pixels, batch_size=4, steps=7, seed=0))
    assert [batch.step for batch in many] == list(range(7)) and {len(batch.noise) for batch in many} == {4}
    assert [len(batch.images) for batch in GANBatches(pixels[:3], batch_size=4, seed=0)] == [3]  # a small cluster


def test_epochs_differ_and_repeat(pixels):
    batches, again = (
        GANBatches(pixels, batch_size=4, steps=3, seed=0),
        GANBatches(pixels, batch_size=4, steps=3, seed=0),
    )

    def epoch(stream, number):
        stream.set_epoch(number)
        return [torch.stack(part) for part in ([d.images for d in stream], [d.noise for d in stream])]

    first, second = epoch(batches, 0), epoch(batches, 1)
    same(epoch(again, 1), second)
    for one, other in zip(first, second, strict=True):
        assert not torch.equal(one, other)
    assert [batch.epoch for batch in batches] == [1] * 3


def test_noise_is_uniform_from_minus_one_to_one(generator):
    z = noise(500, rng=generator)
    assert z.shape == (500, 100) and z.min() < -0.999 and z.max() > 0.999
    assert z.mean().item() == pytest.approx(0, abs=0.01) and z.var().item() == pytest.approx(1 / 3, rel=0.02)


# ------------------------------------------------------------------------------------------------- images and snapshots


def test_images_are_generated_as_at_test_time_and_the_mode_is_restored():
    network, z = build(PARAMS)["generator"].train(), torch.rand(5, 100)
    before = copy.deepcopy(network.state_dict())
    images = generate(network, z, batch_size=2)
    assert network.training and all(module.training for module in network.modules())
    same(network.state_dict(), before)  # batch statistics did not move
    same(images, to_pixels(network.eval()(z)))
    generate(network, z)
    assert not network.training


def test_more_images_of_a_seed_begin_with_the_same_ones():
    network = build(PARAMS)["generator"]
    few, many = sample(network, 3, seed=4), sample(network, 6, seed=4)
    assert torch.equal(many[:3], few) and not torch.equal(sample(network, 3, seed=5), few)


def test_snapshots_are_of_the_same_noise_before_and_after_every_epoch(pixels):
    made = train(pixels)
    z = Snapshots(2, (16, 8), seed=0).noise
    runs.seed(0)
    assert made.snapshots.shape == (3, 8, 3, 16, 8)
    same(made.snapshots[0], generate(build(PARAMS)["generator"], z))
    same(made.snapshots[1], generate(train(pixels, gan_epochs=1).model["generator"], z))
    same(made.snapshots[2], generate(made.model["generator"], z))
    assert not torch.equal(made.snapshots[0], made.snapshots[1]) and not torch.equal(
        made.snapshots[1], made.snapshots[2]
    )
    assert [
        row.keys() >= {"discriminator/real", "discriminator/generated", "generator/passed"} for row in made.history
    ] == [True, True]


def test_it_learns_what_its_images_have_in_common():
    """Black on the left and white on the right: at first a generator draws grey, and within 150 steps this."""
    halves = torch.cat([torch.zeros(8, 3, 16, 4), torch.full((8, 3, 16, 4), 255.0)], 3).to(torch.uint8)
    made = train(halves, gan_epochs=1, gan_steps=150, gan_lr=2e-3, gan_batch=8)
    before, after = (frame.float().mean((0, 1, 2)) for frame in made.snapshots)
    assert (before - 127).abs().max() < 20
    assert after[:3].mean() < 80 and after[5:].mean() > 170


# -------------------------------------------------------------------------------------------------- made once, and kept


def files_of(root):
    return sorted(path.name for path in (root / "data/generators").glob("[!.]*"))


def test_a_generator_is_trained_once(pixels, root, monkeypatch):
    first = train(pixels)
    assert len(files_of(root)) == 1 and files_of(root)[0].endswith(".safetensors")  # the checkpoint is gone
    monkeypatch.setattr(generators, "fit", lambda *_, **__: 1 / 0)
    torch.manual_seed(77)
    again = train(pixels)
    same(again.model.state_dict(), first.model.state_dict())
    same(again.snapshots, first.snapshots)
    assert again.history == first.history


def test_a_seed_decides_everything(pixels, root):
    first = train(pixels)
    for path in (root / "data/generators").glob("*.safetensors"):
        path.unlink()
    torch.manual_seed(77)
    same(train(pixels).model.state_dict(), first.model.state_dict())
    assert not torch.equal(train(pixels, seed=1).snapshots, first.snapshots)


def test_whatever_decides_a_generator_gives_it_another_file(pixels, root):
    changes = [{"gan_batch": 3}, {"gan_epochs": 1}, {"gan_steps": 2}, {"gan_lr": 2e-3}, {"gan_precision": "bf16"}]
    changes += [{"seed": 1}]
    assert {name for change in changes for name in change} == set(DECISIVE)
    changes += [{}, {"gan_channels": 5}, {"pixels": pixels + 1}, {"start": train(pixels).model.state_dict()}]
    for number, change in enumerate(changes):
        train(**{"pixels": pixels} | change)
        assert len(files_of(root)) == number + 1 + (number < 6), change
    train(pixels, amount=7, epochs=100, clusters=2)
    train(pixels.clone())
    assert len(files_of(root)) == len(changes)


def test_code_settings_tensors_and_the_device_are_in_the_name_of_what_is_kept(monkeypatch):
    def named(module="reidkit.recipes.generators", settings=None, tensor=None):
        return fingerprint(module, settings or {}, torch.zeros(2) if tensor is None else tensor)

    names = [named(), named("reidkit.models.dcgan"), named(settings={"lr": 1})]
    names += [named(tensor=torch.zeros(2, 1)), named(tensor=torch.zeros(2).double()), named(tensor=torch.ones(2))]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names.append(named())
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("module", "needed", "foreign"),
    [
        ("generators", {"models.dcgan", "models.precision", "data.samplers", "training"}, {"recipes.sparse_smoothing"}),
        ("sparse_smoothing", {"models.sparse_smoothing", "recipes.supervised", "recipes.extra_images"}, {"plots"}),
    ],
)
def test_no_code_that_trains_what_is_kept_is_forgotten(module, needed, foreign):
    found = {name.removeprefix("reidkit.") for name in code.closure(f"reidkit.recipes.{module}")}
    assert needed <= found and not foreign & found


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\0" * 40 + data])
def test_a_damaged_file_is_named_and_so_is_the_remedy(pixels, root, damage):
    train(pixels)
    (path,) = (root / "data/generators").glob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} is damaged; delete it, and it is made again\."):
        train(pixels)
    path.unlink()
    train(pixels)


def test_what_is_kept_is_whole_or_not_there(root):
    def make(folder):
        (root / "data/generators/some/training").mkdir(parents=True)
        assert folder == root / "data/generators/some/training"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept("some", make)
    assert files_of(root) == ["some"]
    tensors, rows = kept("some", lambda folder: ({"x": torch.ones(3, 2).T}, [{"epoch": 1}]))
    assert files_of(root) == ["some.safetensors"]
    same(tensors, {"x": torch.ones(2, 3)})
    assert rows == json.loads(json.dumps(rows)) == [{"epoch": 1}]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_killed_training_goes_on_to_the_same_bits(pixels, root, monkeypatch, epoch):
    whole = train(pixels, gan_epochs=3)
    for path in (root / "data/generators").glob("*.safetensors"):
        path.unlink()
    step = generators.gan_step

    def dying(model, batch, *, snapshots):
        if (batch.epoch, batch.step) == (epoch, 1):
            raise Killed
        yield from step(model, batch, snapshots=snapshots)

    monkeypatch.setattr(generators, "gan_step", dying)
    with pytest.raises(Killed):
        train(pixels, gan_epochs=3)
    assert [path.name for path in (root / "data/generators").glob("*/training/epoch-*")] == [f"epoch-0000{epoch}"][
        :epoch
    ]
    torch.manual_seed(77)
    done = []
    monkeypatch.setattr(generators, "gan_step", lambda *a, **o: (done.append(1), step(*a, **o))[1])
    resumed = train(pixels, gan_epochs=3)
    assert len(done) == 3 * (3 - epoch), "epochs that were done are not done again"
    same(resumed.model.state_dict(), whole.model.state_dict())
    same(resumed.snapshots, whole.snapshots)


# -------------------------------------------------------------------------------------------------------- three starts

CLUSTERS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1])


@pytest.fixture
def seen(monkeypatch):
    """What each training learns from, and what it starts with."""
    trained, found = generators.fit, []

    def spying(model, batches, *arguments, **options):
        found.append((batches.pixels, copy.deepcopy(model.state_dict())))
        return trained(model, batches, *arguments, **options)

    monkeypatch.setattr(generators, "fit", spying)
    return found


@pytest.mark.parametrize("way", ["scratch", "whole", "reference"])
def test_each_cluster_has_a_generator_that_starts_as_asked(pixels, seen, way):
    runs.seed(5)
    reference = build(PARAMS).state_dict()
    half = {name: tensor.half() for name, tensor in reference.items() if tensor.is_floating_point()}
    save_file(half, generators.REFERENCE)
    made = train_generators(PARAMS.but(gan_init=way), pixels, CLUSTERS, progress=False)
    assert len(made) == 2
    runs.seed(0)
    scratch = build(PARAMS).state_dict()
    if way == "whole":
        everybody, start = seen.pop(0)
        same(everybody, pixels)
        same(start, scratch)
        scratch = train(pixels).model.state_dict()  # which was kept
    elif way == "reference":
        scratch = {name: tensor.half().to(tensor.dtype) for name, tensor in reference.items()}
    for k, (learnt, start) in enumerate(seen):
        same(learnt, pixels[k == CLUSTERS])
        same(start, scratch)
    assert len(seen) == 2 and not torch.equal(made[0].snapshots[-1], made[1].snapshots[-1])


def test_a_reference_that_is_not_there_or_does_not_fit_is_named(pixels):
    params = PARAMS.but(gan_init="reference")
    with pytest.raises(ValueError, match=r"generator\.safetensors does not exist"):
        train_generators(params, pixels, CLUSTERS, progress=False)
    save_file(build(params.but(gan_channels=8)).state_dict(), generators.REFERENCE)
    with pytest.raises(ValueError, match=r"generator\.safetensors does not fit .* of another shape"):
        train_generators(params, pixels, CLUSTERS, progress=False)


def test_images_of_another_size_are_refused(pixels):
    with pytest.raises(ValueError, match=r"images are \(16, 8\) pixels, gan_height and gan_width say \(32, 8\)"):
        train(pixels, gan_height=32)


def test_bf16_is_for_the_computing_alone(pixels):
    made = train(pixels, gan_precision="bf16")
    assert all(tensor.isfinite().all() for tensor in made.model.state_dict().values())
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in made.model.state_dict().values())
    with torch.no_grad():
        assert (
            F.mse_loss(
                from_pixels(made.snapshots[-1]), made.model["generator"].eval()(Snapshots(2, (16, 8), seed=0).noise)
            )
            < 1e-4
        )
