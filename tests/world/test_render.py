"""The renderer: one factor moves what it should move, and the bits depend on the factors alone."""

import numpy as np
import pytest
import torch

from reidkit.world import rays
from reidkit.world.body import body
from reidkit.world.city import Plan, network, people, roster
from reidkit.world.city import moments as moments_of
from reidkit.world.render import render
from reidkit.world.sensor import _grain
from reidkit.world.wardrobe import Bag, Hat

PLAN = Plan("market", "quick", 7)
SIZE = (64, 32)


@pytest.fixture(scope="module")
def cameras():
    return network(PLAN)


@pytest.fixture(scope="module")
def scene(cameras):
    rows = roster(PLAN)[:24]
    return people(PLAN, np.array([row.key for row in rows])), moments_of(PLAN, rows, cameras)


def draw(person, pose, cameras, **options):
    second = people(PLAN, pose.companion_pid.numpy())
    return render(person, pose, cameras, SIZE, companion=second, **options)


def test_bits_do_not_depend_on_the_batch(scene, cameras):
    person, pose = scene
    whole = draw(person, pose, cameras)
    for size in (1, 5, 11):
        parts = [draw(person[i : i + size], pose[i : i + size], cameras) for i in range(0, len(pose), size)]
        assert torch.equal(whole, torch.cat(parts)), size
    back = torch.arange(len(pose)).flip(0)
    assert torch.equal(draw(person[back], pose[back], cameras), whole.flip(0))


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
@pytest.mark.parametrize("samples", [1, 1.5, 2])
def test_sizes(scene, cameras, size, samples):
    person, pose = scene[0][:3], scene[1][:3]
    image = render(person, pose, cameras, size, supersampling=samples)
    assert image.shape == (3, 3, *size) and image.dtype == torch.uint8
    assert image.float().std((1, 2, 3)).min() > 8  # a picture, not a flat field


def test_the_nearest_part_is_seen(scene, cameras):
    """The traced depth against a dense twin: march along each ray and take the first point inside any part."""
    person, pose = scene[0][:2], scene[1][:2]
    height, width = 48, 24
    parts, view = body(person, pose), rays.View(pose, cameras.height[pose.camid])
    cast = rays.cast(parts, view, rays.crop(parts, view, pose), height, width)
    image, pixel, _, depth = rays.trace(cast, height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    steps = torch.arange(-60, 60, 0.05)
    for who in range(2):
        first = torch.full((height * width,), torch.inf)
        for k in cast.seen[who].nonzero()[:, 0].tolist():
            matrix, origin = cast.matrix[who, k], cast.origin[who, k]
            flat = torch.stack([x.flatten() - origin[0], y.flatten() - origin[1]])
            base = matrix[:, :2] @ flat  # (3, pixels)
            point = base[:, :, None] + matrix[:, 2, None, None] * (steps - origin[2])
            u, v, w = point
            form = u * u + v * v + cast.delta[who, k] * w * w - 2 * cast.gamma[who, k] * w - 1
            inside = (form <= 0) & (w >= cast.low[who, k]) & (w <= cast.high[who, k])
            met = torch.where(inside.any(1), steps[inside.float().argmax(1)], torch.inf)
            first = torch.minimum(first, met)
        mine = image == who
        traced = torch.full((height * width,), torch.inf)
        traced[pixel[mine]] = depth[mine]
        both = torch.isfinite(first) & torch.isfinite(traced)
        agree = torch.isfinite(first) == torch.isfinite(traced)
        assert agree.float().mean() > 0.99  # marching misses grazing rays
        assert both.sum() > 200
        assert ((first - traced)[both].abs() < 0.15).float().mean() > 0.97


def test_one_knob_moves_one_thing(scene, cameras):
    person, pose = scene
    still = pose.replace(companion=False, occluder=0, blur=0.0)
    plain = draw(person, still, cameras).float()
    assert (
        draw(person, still.replace(exposure=2.0), cameras).float().mean()
        > draw(person, still.replace(exposure=0.5), cameras).float().mean() + 40
    )
    warm = draw(person, still.replace(temperature=0.3), cameras).float().mean((0, 2, 3))
    assert warm[0] - warm[2] > plain.mean((0, 2, 3))[0] - plain.mean((0, 2, 3))[2] + 10
    hidden = draw(person, still.replace(occluder=2, occluder_size=0.0), cameras).float()
    changed = (hidden - plain).abs().mean((0, 1, 3))
    assert changed[48:].mean() > 20 and changed[:28].mean() < 1  # a bush hides the legs and nothing above
    capped = draw(person.replace(hat=int(Hat.CAP)), still.replace(box_y=0.0, box_scale=1.06), cameras).float()
    bare = draw(person.replace(hat=int(Hat.NONE)), still.replace(box_y=0.0, box_scale=1.06), cameras).float()
    moved = (capped - bare).abs().mean((0, 1, 3))
    assert moved[:16].mean() > 8 * moved[32:].mean()


def test_a_backpack_is_seen_from_behind(scene, cameras):
    person, pose = (
        scene[0].replace(bag_size=1.2),
        scene[1].replace(companion=False, occluder=0, box_x=0.0, box_y=0.0, box_scale=1.06),
    )
    seen = {}
    for yaw in (0.0, 180.0):
        packed, empty = (
            draw(person.replace(bag=int(bag)), pose.replace(yaw=yaw), cameras).float()
            for bag in (Bag.BACKPACK, Bag.NONE)
        )
        seen[yaw] = (packed - empty).abs()[:, :, 16:36, 8:24].mean()
    assert seen[180.0] > 2 * seen[0.0]


def test_noise_is_normal_and_has_a_key():
    grain = _grain(torch.tensor([1, 2, 2**30]), 64, 32)
    assert abs(float(grain.mean())) < 0.02 and abs(float(grain.std()) - 1) < 0.02
    assert np.abs(np.corrcoef(grain.flatten(1).numpy()) - np.eye(3)).max() < 0.05
    neighbours = (grain[:, :, :, 1:] * grain[:, :, :, :-1]).mean()
    assert abs(float(neighbours)) < 0.03


@pytest.mark.parametrize(
    ("size", "options", "sentence"),
    [((64, 33), {}, "multiples of 4"), ((64, 32), {"supersampling": 3}, "supersampling is 3")],
)
def test_wrong_calls(scene, cameras, size, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        render(*scene, cameras, size, **options)


def test_rows_must_fit(scene, cameras):
    person, pose = scene
    with pytest.raises(ValueError, match="one pose for each person"):
        render(person[:3], pose, cameras, SIZE)
    with pytest.raises(ValueError, match="camera 9"):
        render(person, pose.replace(camid=9), cameras, SIZE)
    with pytest.raises(ValueError, match="no factor"):
        pose.replace(colour=1.0)
