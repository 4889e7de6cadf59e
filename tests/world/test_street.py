"""The street: a city whose people, pictures and boxes look like an archive's; the others stay as they were."""

import numpy as np
import pytest
import torch

from reidkit.world import scenes
from reidkit.world.cameras import Place, install, observe
from reidkit.world.city import CITY_SPECS, Knobs, Plan, network, people, roster
from reidkit.world.city import moments as moments_of
from reidkit.world.render import _stretched, render
from reidkit.world.sensor import _sharpen
from reidkit.world.wardrobe import SEASONS, Lower

PLAN = Plan("market", "quick", 7)
NEUTRAL = {"contrast": 1.0, "sharpening": 0.0}


@pytest.fixture(scope="module")
def scene():
    cameras, rows = network(PLAN), roster(PLAN)[:12]
    return people(PLAN, np.array([row.key for row in rows])), moments_of(PLAN, rows, cameras), cameras


def test_the_everyday_cities_turn_none_of_it_on(scene):
    """So their pixels are what they were before there was a street."""
    _, pose, cameras = scene
    assert (pose.box_width == 1).all()
    for name, value in NEUTRAL.items():
        assert (getattr(cameras, name) == value).all()
    for name, city in CITY_SPECS.items():
        neutral = Place(*(getattr(city.place, f) for f in list(Place.__dataclass_fields__)[:7]))
        assert (city.place == neutral) == (name != "street")
        assert (SEASONS[city.season].dresses == 0) == (name != "street")


def test_a_narrow_box_stretches_its_middle():
    """A ramp over the columns, cut to its middle half: half as steep, the same mean; wide boxes keep their bits."""
    ramp = torch.arange(64.0).expand(2, 3, 8, 64).clone()
    wide, narrow = _stretched(ramp, torch.tensor([1.0, 0.5]))
    assert torch.equal(wide, ramp[0])
    torch.testing.assert_close(narrow.diff(dim=2), torch.full((3, 8, 63), 0.5))
    torch.testing.assert_close(narrow.mean(), ramp.mean())


def test_boxes_are_as_wide_as_the_place_says():
    cameras = network(PLAN)
    street = cameras.replace(narrowest=0.6, widest=0.8)
    pids = np.arange(300)
    width = observe(pids, pids % 6, pids * 0, street, seed=1, knobs=Knobs()).box_width
    assert 0.6 <= width.min() < 0.62 and 0.78 < width.max() <= 0.8


def test_contrast_and_sharpening_do_what_they_say(scene):
    person, pose, cameras = scene
    plain = render(person, pose, cameras, (64, 32)).float()
    strong = render(person, pose, cameras.replace(contrast=1.5), (64, 32)).float()
    assert 1.3 < strong.std((1, 2, 3)).mean() / plain.std((1, 2, 3)).mean() < 1.5
    step = torch.zeros(2, 1, 4, 8)
    step[..., 4:] = 1
    same, sharp = _sharpen(step, torch.tensor([0.0, 0.9]).view(2, 1, 1, 1))
    assert torch.equal(same, step[0])
    torch.testing.assert_close(sharp[0, 0], torch.tensor([0, 0, 0, -0.3, 1.3, 1, 1, 1]))


def test_bits_do_not_depend_on_the_batch(scene):
    person, pose, cameras = scene
    cameras = cameras.replace(contrast=1.3, sharpening=torch.tensor([0, 1.0, 0, 1.0, 0, 1.0]))
    pose = pose.replace(box_width=torch.where(torch.arange(len(pose)) % 3 == 0, 1.0, 0.7))
    whole = render(person, pose, cameras, (64, 32))
    parts = [render(person[i : i + 5], pose[i : i + 5], cameras, (64, 32)) for i in range(0, len(pose), 5)]
    assert torch.equal(whole, torch.cat(parts))


def test_clutter_brings_detail_and_takes_colour():
    plain, full = (scenes.paint((5, 3), 2.0, clutter) for clutter in (0.0, 1.0))
    assert plain.shape == (3, 320, 640) and full.shape == (3, 640, 1280)
    assert torch.equal(full, scenes.paint((5, 3), 2.0, 1.0))
    edges = [picture[:, len(picture[0]) // 2 :].mean(0).diff(dim=0).abs().mean() for picture in (plain, full)]
    assert edges[1] > edges[0]  # a pixel of the finer scene is half as large
    colour = [(picture.amax(0) - picture.amin(0)).mean() for picture in (plain, full)]
    assert colour[1] < 0.6 * colour[0]


def test_the_street_has_many_people_and_few_images_of_each():
    rows = roster(Plan("street", "tiny", 0))
    known = [row for row in rows if row.pid > 0]
    assert not any(row.by_hand for row in rows) and len({row.camid for row in known}) == CITY_SPECS["street"].cameras
    people_there = len({row.pid for row in known})
    assert people_there == Plan("street", "tiny", 0).everybody > 2000
    assert 6 < len(known) / people_there < 10
    assert max(row.shot for row in known) == 1


def test_the_street_wears_everyday_clothes():
    """Half of it is nearly grey, and there are dresses: skirts of the upper garment's cloth."""
    keys = np.arange(2000)
    street, market = (people(Plan(city, "tiny", 0), keys) for city in ("street", "market"))
    chroma = [(who.upper_colour.amax(1) - who.upper_colour.amin(1)).median() for who in (street, market)]
    assert chroma[0] < 0.5 * chroma[1]
    skirts = street[street.lower == Lower.SKIRT]
    dresses = (skirts.lower_colour == skirts.upper_colour).all(1).float().mean()
    assert 0.22 < dresses < 0.38
    assert not (market.lower_colour == market.upper_colour).all(1).any()


def test_cameras_of_a_place_lie_within_its_ranges():
    place = CITY_SPECS["street"].place
    columns = install(200, place, seed=3, knobs=Knobs())
    for name in ("contrast", "sharpening", "height"):
        low, high = getattr(place, name)
        assert low <= columns[name].min() < columns[name].max() <= high
