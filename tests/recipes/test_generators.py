"""A DCGAN for each cluster: its step by hand, its film, where it starts; it is made once and survives a kill."""

import copy
import functools
import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from reidkit import runs, studies
from reidkit.models.dcgan import from_pixels, to_pixels
from reidkit.recipes import generators
from reidkit.recipes.generators import (
    MADE_BY,
    MADE_OF,
    Drawn,
    Draws,
    Film,
    build,
    code_digest,
    draw,
    fingerprint,
    gan_step,
    keep,
    noise,
    sample,
    train_generator,
    train_generators,
)
from reidkit.recipes.sparse_smoothing import TRAINED_WITH
from reidkit.training import History, fit

PARAMS = {"gan_height": 16, "gan_width": 8, "gan_channels": 4, "gan_stages": 2, "gan_batch": 4, "gan_epochs": 2}
PARAMS |= {"gan_steps": 3, "gan_lr": 1e-3, "gan_precision": "fp32", "gan_init": "scratch", "seed": 0}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def pixels(generator):
    """Ten images, brighter from one to the next."""
    bright = torch.linspace(0, 200, 10).view(-1, 1, 1, 1)
    return (bright + 50 * torch.rand(10, 3, 16, 8, generator=generator)).to(torch.uint8)


def train(pixels, start=None, seed=0, **changes):
    return train_generator(PARAMS | changes, pixels, start=start, title="tests", seed=seed, progress=False)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------- the step


@pytest.fixture
def batch(pixels):
    return Drawn(from_pixels(pixels), torch.rand(10, 100) * 2 - 1, 0, 1)


FILM = Film(2, (16, 8), seed=0)


def test_a_step_is_one_update_of_the_discriminator_and_two_of_the_generator_with_the_same_noise(batch):
    """With the equations written out, and every forward made anew."""
    model = build(PARAMS)
    twin = copy.deepcopy(model)
    generator, discriminator = twin["generator"], twin["discriminator"]

    def sgd(networks):
        return {name: torch.optim.SGD(network.parameters(), lr=0.5) for name, network in networks.items()}

    step = functools.partial(gan_step, film=FILM)
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
    steps = gan_step(model, batch, film=FILM)
    name, terms = next(steps)
    assert name == "discriminator"
    real, other = discriminator(batch.images).sigmoid(), discriminator(generator(batch.noise)).sigmoid()
    torch.testing.assert_close(terms["real"], -real.log().mean())
    torch.testing.assert_close(terms["drawn"], -(1 - other).log().mean())
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
    for name, terms in gan_step(model, batch, film=FILM):
        other = model["generator" if name == "discriminator" else "discriminator"]
        sum(terms.values()).backward()
        assert all(parameter.grad is None for parameter in other.parameters()), name
        assert all(parameter.grad is not None for parameter in model[name].parameters()), name
        model.zero_grad()
    assert all(parameter.requires_grad for parameter in model.parameters())


# -------------------------------------------------------------------------------------------------- batches and noise


def test_an_epoch_is_one_pass_or_so_many_batches(pixels):
    one = [drawn.images for drawn in Draws(pixels, batch_size=4, seed=0)]
    assert [len(images) for images in one] == [4, 4]  # the last two of the ten are left out
    found = torch.cat(one).flatten(1)
    assert len(found.unique(dim=0)) == 8
    assert all((from_pixels(pixels).flatten(1) == image).all(1).any() for image in found)
    many = list(Draws(pixels, batch_size=4, steps=7, seed=0))
    assert [drawn.step for drawn in many] == list(range(7)) and {len(drawn.noise) for drawn in many} == {4}
    assert [len(drawn.images) for drawn in Draws(pixels[:3], batch_size=4, seed=0)] == [3]  # a small cluster


def test_epochs_differ_and_repeat(pixels):
    draws, again = Draws(pixels, batch_size=4, steps=3, seed=0), Draws(pixels, batch_size=4, steps=3, seed=0)

    def epoch(stream, number):
        stream.set_epoch(number)
        return [torch.stack(part) for part in ([d.images for d in stream], [d.noise for d in stream])]

    first, second = epoch(draws, 0), epoch(draws, 1)
    same(epoch(again, 1), second)
    for one, other in zip(first, second, strict=True):
        assert not torch.equal(one, other)
    assert [drawn.epoch for drawn in draws] == [1] * 3


def test_noise_is_uniform_from_minus_one_to_one(generator):
    z = noise(500, generator=generator)
    assert z.shape == (500, 100) and z.min() < -0.999 and z.max() > 0.999
    assert z.mean().item() == pytest.approx(0, abs=0.01) and z.var().item() == pytest.approx(1 / 3, rel=0.02)


# ------------------------------------------------------------------------------------------------- images and the film


def test_images_are_drawn_as_at_test_time_and_the_mode_is_restored():
    network, z = build(PARAMS)["generator"].train(), torch.rand(5, 100)
    before = copy.deepcopy(network.state_dict())
    drawn = draw(network, z, batch_size=2)
    assert network.training and all(module.training for module in network.modules())
    same(network.state_dict(), before)  # batch statistics did not move
    same(drawn, to_pixels(network.eval()(z)))
    draw(network, z)
    assert not network.training


def test_more_images_of_a_seed_begin_with_the_same_ones():
    network = build(PARAMS)["generator"]
    few, many = sample(network, 3, seed=4), sample(network, 6, seed=4)
    assert torch.equal(many[:3], few) and not torch.equal(sample(network, 3, seed=5), few)


def test_the_film_shows_the_same_noise_before_and_after_every_epoch(pixels):
    made = train(pixels)
    z = Film(2, (16, 8), seed=0).noise
    runs.seed(0)
    assert made.film.shape == (3, 8, 3, 16, 8)
    same(made.film[0], draw(build(PARAMS)["generator"], z))
    same(made.film[1], draw(train(pixels, gan_epochs=1).model["generator"], z))
    same(made.film[2], draw(made.model["generator"], z))
    assert not torch.equal(made.film[0], made.film[1]) and not torch.equal(made.film[1], made.film[2])
    assert [
        row.keys() >= {"discriminator/real", "discriminator/drawn", "generator/passed"} for row in made.history
    ] == [True, True]


def test_it_learns_what_its_images_have_in_common():
    """Black on the left and white on the right: at first a generator draws grey, and within 150 steps this."""
    halves = torch.cat([torch.zeros(8, 3, 16, 4), torch.full((8, 3, 16, 4), 255.0)], 3).to(torch.uint8)
    made = train(halves, gan_epochs=1, gan_steps=150, gan_lr=2e-3, gan_batch=8)
    before, after = (frame.float().mean((0, 1, 2)) for frame in made.film)
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
    same(again.film, first.film)
    assert again.history == first.history


def test_a_seed_decides_everything(pixels, root):
    first = train(pixels)
    for path in (root / "data/generators").glob("*.safetensors"):
        path.unlink()
    torch.manual_seed(77)
    same(train(pixels).model.state_dict(), first.model.state_dict())
    assert not torch.equal(train(pixels, seed=1).film, first.film)


def test_whatever_decides_a_generator_gives_it_another_file(pixels, root):
    changes = [{"gan_batch": 3}, {"gan_epochs": 1}, {"gan_steps": 2}, {"gan_lr": 2e-3}, {"gan_precision": "bf16"}]
    assert {name for change in changes for name in change} == set(MADE_OF)
    changes += [
        {},
        {"seed": 1},
        {"gan_channels": 5},
        {"pixels": pixels + 1},
        {"start": train(pixels).model.state_dict()},
    ]
    for number, change in enumerate(changes):
        train(**{"pixels": pixels} | change)
        assert len(files_of(root)) == number + 1 + (number < 5), change
    train(pixels, amount=7, epochs=100, clusters=2)
    train(pixels.clone())
    assert len(files_of(root)) == len(changes)


def test_the_code_that_decides_a_generator_is_in_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))

    def named(text="", settings=None, tensor=None):
        if text:
            (tmp_path / "tests_code.py").write_text(text)
            code_digest.cache_clear()
        return fingerprint(("tests_code",), settings or {}, torch.zeros(2) if tensor is None else tensor)

    before = named("x = 1")
    assert named("x = 1  # one") == before != named("x = 2") and named("x = 1") == before
    (tmp_path / "tests_code.py").write_text("x = 3")
    assert named() == before, "a run is named by the code that it has read"
    assert named(settings={"lr": 1}) != before
    assert before not in (named(tensor=torch.zeros(2, 1)), named(tensor=torch.zeros(2).double()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert named() != before


@pytest.mark.parametrize(
    ("file", "names", "listed", "others"),
    [
        ("generators", ["train_generator"], MADE_BY, set()),
        # where weights lie does not matter, only what is in them; blocks of rows change no number
        ("sparse_smoothing", ["train", "build_model"], TRAINED_WITH, {"recipes/sources", "distances"}),
    ],
)
def test_no_code_that_trains_what_is_kept_is_forgotten(file, names, listed, others):
    """The files that hold what these functions use, directly or not, as a study finds them."""
    todo, found = [(studies.LIBRARY / "recipes" / f"{file}.py", name) for name in names], set()
    while todo:
        path, name = todo.pop()
        known = studies._definitions(path, studies.LIBRARY)
        if (path, name) not in found and name in known:
            found.add((path, name))
            todo += known[name][1]
    assert {path.relative_to(studies.LIBRARY).with_suffix("").as_posix() for path, _ in found} == {*listed, *others}


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
        keep("some", make)
    assert files_of(root) == ["some"]
    tensors, rows = keep("some", lambda folder: ({"x": torch.ones(3, 2).T}, [{"epoch": 1}]))
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

    def dying(model, batch, *, film):
        if (batch.epoch, batch.step) == (epoch, 1):
            raise Killed
        yield from step(model, batch, film=film)

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
    same(resumed.film, whole.film)


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
def test_each_cluster_has_a_generator_that_starts_as_asked(pixels, root, seen, way):
    runs.seed(5)
    reference = build(PARAMS).state_dict()
    path = root / generators.REFERENCE
    path.parent.mkdir(parents=True)
    save_file({name: tensor.half() for name, tensor in reference.items() if tensor.is_floating_point()}, path)
    made = train_generators(PARAMS | {"gan_init": way}, pixels, CLUSTERS, progress=False)
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
    assert len(seen) == 2 and not torch.equal(made[0].film[-1], made[1].film[-1])


def test_a_reference_that_is_not_there_or_does_not_fit_is_named(pixels, root):
    params = PARAMS | {"gan_init": "reference"}
    with pytest.raises(ValueError, match=r"generator\.safetensors does not exist"):
        train_generators(params, pixels, CLUSTERS, progress=False)
    (root / generators.REFERENCE).parent.mkdir(parents=True)
    save_file(build(params | {"gan_channels": 8}).state_dict(), root / generators.REFERENCE)
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
            F.mse_loss(from_pixels(made.film[-1]), made.model["generator"].eval()(Film(2, (16, 8), seed=0).noise))
            < 1e-4
        )
