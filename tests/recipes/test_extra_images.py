"""Images beside the training set: each kind is what it says, crops are windows, and batches mix all of them once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidkit.data.images import Augment, Images, normalise
from reidkit.data.samplers import PlainSampler, epoch_generator
from reidkit.recipes.extra_images import FILL, Extra, MixedBatches, crop, find_extra, generate_balanced, resize
from reidkit.recipes.generators import Parameters, Trained, build, sample

ORACLE = np.load(Path(__file__).parents[1] / "oracles" / "p001_gan_labels.npz")
GAN = Parameters(gan_height=16, gan_width=8, gan_channels=4, gan_stages=2)
KINDS = ("generated", "wrong_clusters", "copies", "wrong_identities", "noise")


@pytest.fixture(scope="module")
def trained():
    """Three generators that have learnt nothing, each of another start."""
    torch.manual_seed(0)
    return [Trained(build(GAN), torch.zeros(1, 8, 3, 16, 8, dtype=torch.uint8), []) for _ in range(3)]


@pytest.fixture(scope="module")
def bank():
    """Six images of three people in three clusters; pixel (0, 0) is the number of the image."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (6, 3, 16, 8), dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(6, dtype=torch.uint8)
    return Images(pixels, torch.arange(6) // 2 + 40, torch.arange(6) % 2)


LABELS, CLUSTERS = torch.arange(6) // 2, torch.tensor([0, 1, 2, 2, 1, 1])


def find(bank, trained, kind, *, n=20, seed=0, generated=True):
    return find_extra(kind, n, bank, LABELS, CLUSTERS, trained, generated=generated, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("generated", [True, False])
def test_there_are_as_many_as_asked_in_the_size_of_the_others(bank, trained, kind, generated):
    for n in (20, 30, 0):
        extra = find(bank, trained, kind, n=n, generated=generated)
        assert extra.pixels.shape == (n, 3, 16, 8) and extra.pixels.dtype == torch.uint8
        assert len(extra.labels) == len(extra.generated) == len(extra.clusters) == n
        assert extra.labels.dtype == extra.clusters.dtype == torch.long
        assert (extra.generated == generated).all()
        assert set(extra.labels.tolist()) <= {0, 1, 2} and set(extra.clusters.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_them(bank, trained, kind):
    first, other = find(bank, trained, kind), find(bank, trained, kind, seed=1)
    torch.manual_seed(77)
    for ours, theirs in zip(find(bank, trained, kind), first, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.pixels, other.pixels)


def test_none_is_none(bank, trained):
    assert [len(part) for part in find(bank, trained, "none")] == [0, 0, 0, 0]


def shares(numbers, generators):
    """How many images of each generator."""
    return torch.bincount(numbers, minlength=generators).tolist()


@pytest.mark.parametrize(("n", "k"), [(20, 3), (30, 3), (7, 1), (2, 3), (12, 5)])
def test_images_are_shared_out_as_released(trained, n, k, generator):
    """floor(n / K) + 1 of each, of which the last are left out after shuffling: as in the numbers of get_gan_data."""
    pixels, numbers = generate_balanced((trained * 2)[:k], n, seed=0, rng=generator)
    each = n // k + 1
    assert len(pixels) == len(numbers) == n and max(shares(numbers, k)) <= each
    assert sum(each - share for share in shares(numbers, k)) == each * k - n
    if (n, k) == (20, 3):
        assert len(ORACLE["cluster"]) == n and max(np.bincount(ORACLE["cluster"])) <= each


def test_an_image_is_of_the_generator_it_names_and_no_image_comes_twice(trained, generator):
    pixels, numbers = generate_balanced(trained, 20, seed=3, rng=generator)
    for k, one in enumerate(trained):
        mine = {image.numpy().tobytes() for image in sample(one.model["generator"], 7, seed=3000 + k)}
        found = [image.numpy().tobytes() for image in pixels[numbers == k]]
        assert set(found) <= mine and len(set(found)) == len(found)
    assert numbers.tolist() != sorted(numbers.tolist())


def test_clusters_do_not_share_their_noise(trained, generator):
    pixels, _ = generate_balanced([trained[0]] * 3, 20, seed=0, rng=generator)
    assert len(pixels.flatten(1).unique(dim=0)) == 20, "one generator three times, and twice the same image"


def test_mixed_up_clusters_are_any_but_the_right_one(bank, trained):
    right, wrong = (find(bank, trained, kind, n=300) for kind in ("generated", "wrong_clusters"))
    assert torch.equal(right.pixels, wrong.pixels)
    assert not (right.clusters == wrong.clusters).any()
    for k in range(3):
        others = shares(wrong.clusters[right.clusters == k], 3)
        assert others[k] == 0 and min(others[:k] + others[k + 1 :]) > 30


def test_copies_are_training_images_each_as_often_as_the_others(bank, trained):
    extra = find(bank, trained, "copies", generated=False)
    sources = extra.pixels[:, 0, 0, 0].long()
    assert torch.equal(extra.pixels, bank.pixels[sources])
    assert torch.equal(extra.labels, LABELS[sources]) and torch.equal(extra.clusters, CLUSTERS[sources])
    assert sorted(shares(sources, 6)) == [3, 3, 3, 3, 4, 4]
    assert all(sorted(sources[start : start + 6].tolist()) == list(range(6)) for start in (0, 6, 12))


def test_mixed_up_names_belong_to_nobody_in_particular(bank, trained):
    extra = find(bank, trained, "wrong_identities", generated=False, n=600)
    truth = LABELS[extra.pixels[:, 0, 0, 0].long()]
    for label in range(3):
        assert min(shares(extra.labels[truth == label], 3)) > 40  # of 200


def test_noise_is_noise_in_every_byte_and_in_its_cluster(bank, trained):
    extra = find(bank, trained, "noise", n=90)
    assert extra.pixels.double().mean().item() == pytest.approx(127.5, abs=1) and len(extra.pixels.unique()) == 256
    assert extra.pixels.double().std().item() == pytest.approx(73.9, abs=1)
    assert min(shares(extra.clusters, 3)) > 15


def test_generated_images_take_the_size_of_the_others(bank, trained):
    large = Images(torch.zeros(6, 3, 32, 24, dtype=torch.uint8), bank.pids, bank.camids)
    extra, small = find(large, trained, "generated"), find(bank, trained, "generated")
    assert extra.pixels.shape == (20, 3, 32, 24)
    assert torch.equal(extra.pixels, resize(small.pixels, (32, 24))) and torch.equal(extra.clusters, small.clusters)


@pytest.mark.parametrize("size", [(32, 24), (9, 5), (16, 8)])
def test_resizing_is_that_of_pillow(size):
    pixels = torch.randint(256, (2, 3, 16, 8), dtype=torch.uint8)
    for image, resized in zip(pixels, resize(pixels, size), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert (resized.int() - theirs.int()).abs().max() <= 1


# ----------------------------------------------------------------------------------------------------------- windows


def test_a_crop_is_a_window_of_its_image_anywhere(generator):
    """Every pixel knows its image, row and column."""
    number, row, column = torch.meshgrid(torch.arange(200), torch.arange(7), torch.arange(5), indexing="ij")
    pixels = torch.stack([number, row, column], 1).to(torch.uint8)
    windows = crop(pixels, (4, 3), generator=generator).long()
    assert windows.shape == (200, 3, 4, 3)
    corners = windows[:, :, 0, 0]
    assert torch.equal(corners[:, 0], torch.arange(200))
    assert torch.equal(windows[:, 1], (corners[:, 1, None, None] + torch.arange(4)[:, None]).expand(200, 4, 3))
    assert torch.equal(windows[:, 2], (corners[:, 2, None, None] + torch.arange(3)).expand(200, 4, 3))
    assert len(corners[:, 1:].unique(dim=0)) == 4 * 3  # each place is somebody's
    assert min(shares(corners[:, 1], 4)) > 30 and min(shares(corners[:, 2], 3)) > 40


def test_a_window_as_large_as_the_image_is_the_image_and_a_larger_one_is_refused(generator):
    pixels = torch.randint(256, (3, 3, 7, 5), dtype=torch.uint8)
    assert torch.equal(crop(pixels, (7, 5), generator=generator), pixels)
    for size in ((8, 5), (7, 6)):
        with pytest.raises(ValueError, match=f"a window of {size[0]}x{size[1]} does not fit 7x5 pixels"):
            crop(pixels, size, generator=generator)


# ----------------------------------------------------------------------------------------------------------- batches

MIXED = {"seed": 0, "window": (12, 6), "erase": 0.8, "batch_size": 4}


def mixed(bank, **changes):
    extra = Extra(bank.pixels[:5] // 2, torch.tensor([2, 0, 1, 0, 1]), torch.arange(5) > 1, torch.arange(5))
    return MixedBatches(bank.pixels, LABELS, extra, device="cpu", **MIXED | changes), extra


def test_batches_hold_every_image_once_with_what_belongs_to_it(bank):
    batches, extra = mixed(bank, batch_size=11)
    (batch,) = batches
    assert len(batches) == 1 and sorted(batch.indices.tolist()) == list(range(11)) != batch.indices.tolist()
    for row, index in enumerate(batch.indices.tolist()):
        if index < 6:
            assert (batch.labels[row], bool(batch.generated[row])) == (LABELS[index], False)
        else:
            assert batch.labels[row] == extra.labels[index - 6] and batch.clusters[row] == extra.clusters[index - 6]
            assert batch.generated[row] == extra.generated[index - 6]


def test_a_pass_leaves_the_last_smaller_batch_out(bank):
    batches, _ = mixed(bank)
    assert [len(batch.images) for batch in batches] == [4, 4] and len(batches) == 2
    assert batches.sampler.epoch == 0
    order = torch.cat([batch.indices for batch in batches]).tolist()
    assert order == [i for positions in PlainSampler(11, batch_size=4, seed=0) for i in positions]


def test_images_are_cropped_then_mirrored_normalised_and_erased(bank):
    """The same with the same chance: a window, then everything that `Augment` does, without a frame."""
    batches, extra = mixed(bank)
    generator, everything = epoch_generator(0, 0, "augment"), torch.cat([bank.pixels, extra.pixels])
    augment = Augment(flip=0.5, pad=0, erase=0.8, fill=(0.4914, 0.4822, 0.4465))
    for batch in batches:
        window = crop(everything[batch.indices], (12, 6), generator=generator)
        torch.testing.assert_close(batch.images, augment(window, generator=generator), rtol=0, atol=0)
    filled = (batch.images == torch.tensor(FILL).view(3, 1, 1)).all(1).flatten(1).any(1)
    assert filled.any()


def test_without_chance_an_image_stays_as_it_is(bank):
    batches, extra = mixed(bank, window=(16, 8), erase=0.0)
    everything = normalise(torch.cat([bank.pixels, extra.pixels]))
    for batch in batches:
        for image, index in zip(batch.images, batch.indices, strict=True):
            plain = everything[index]
            assert torch.equal(image, plain) or torch.equal(image, plain.flip(2))


def test_epochs_differ_and_repeat(bank):
    def epoch(batches, number):
        batches.set_epoch(number)
        return [batch.images for batch in batches]

    batches, again = mixed(bank)[0], mixed(bank)[0]
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(epoch(again, 1), second, strict=True))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(epoch(mixed(bank, seed=1)[0], 0)[0], first[0])
