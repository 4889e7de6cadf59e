"""The colour of a point on a body: patterns fixed to the cloth in metres, a face, straps, necklines.

Patterns live in rest coordinates, so they move with the limbs, and their edges are as wide as a sample of the picture,
so they do not flicker.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reidkit.world.body import Fabric, Slot
from reidkit.world.factors import Factors
from reidkit.world.wardrobe import Bag, Logo, LowerPattern, Pattern, Person, Upper


@dataclass(frozen=True)
class Hits(Factors):
    """The m samples of the picture where a body was hit."""

    image: Tensor  # which body
    pixel: Tensor  # where in its picture
    u: Tensor  # coordinates in the frame of the part, in radii
    v: Tensor
    w: Tensor
    x: Tensor  # rest coordinates in metres: to the person's left
    y: Tensor  # and above the hips
    side: Tensor  # for legs: -1 or 1
    edge: Tensor  # metres a sample
    slot: Tensor
    slot2: Tensor
    fabric: Tensor

    @property
    def front(self) -> Tensor:
        """1 where the part faces forwards."""
        return (self.v > 0).float()


def colours(person: Person, hits: Hits) -> Tensor:
    """The albedo of each hit.

    Args:
        person: n identities.
        hits: m samples on them.

    Returns:
        (m, 3) linear light in [0, 1].
    """
    palette = _palette(person)
    first, second = palette[hits.image, hits.slot], palette[hits.image, hits.slot2]
    painted = first.clone()
    for fabric, paint in PAINTERS.items():
        rows = (hits.fabric == fabric).nonzero()[:, 0]
        if len(rows):
            mine = hits[rows]
            painted[rows] = paint(person, palette, mine, first[rows], second[rows])
    return painted


def _palette(person: Person) -> Tensor:
    """(n, 15, 3) colours in the order of Slot."""
    dark = torch.full_like(person.skin, 0.02)
    lips = person.skin * torch.tensor([0.75, 0.42, 0.42], device=dark.device)
    upper = [person.upper_colour, person.upper_colour2, person.inner_colour]
    lower = [person.lower_colour, person.lower_colour2, person.shoe_colour, person.sole_colour, person.sock_colour]
    rest = [person.bag_colour, person.hat_colour, lips, dark, person.scarf_colour]
    return torch.stack([person.skin, person.hair_colour, *upper, *lower, *rest], 1)


def _step(distance: Tensor, width: Tensor | float) -> Tensor:
    """A soft edge: 0 outside, 1 inside, half at distance 0."""
    return torch.sigmoid(distance / width)


def _mix(base: Tensor, colour: Tensor | float, share: Tensor) -> Tensor:
    return base + (colour - base) * share[:, None]


def _wave(x: Tensor) -> Tensor:
    """A triangle wave of period 1 between 0 and 1."""
    return (x % 1 - 0.5).abs() * 2


# ------------------------------------------------------------------------------------------------ the torso
def _stripes(person: Person, h: Hits, along: Tensor) -> Tensor:
    frequency, duty = person.frequency[h.image], person.duty[h.image]
    return _step((duty - _wave(along * frequency)) / frequency, h.edge * 0.5)


def _rings(person: Person, h: Hits) -> Tensor:
    return _stripes(person, h, h.y)


def _vertical(person: Person, h: Hits) -> Tensor:
    return _stripes(person, h, (h.x + 0.4) * 0.9)


def _check(person: Person, h: Hits) -> Tensor:
    return 0.5 * _rings(person, h) + 0.5 * _vertical(person, h)


def _logo(person: Person, h: Hits) -> Tensor:
    size, kind = person.logo_size[h.image], person.logo[h.image]
    x, y, soft = h.x, h.y - 0.185 * person.height[h.image] - person.logo_rise[h.image], h.edge * 0.5
    radius = (x**2 + y**2).sqrt()
    bar = torch.minimum(size * 1.3 - x.abs(), size * 0.7 - y.abs())
    shapes = {
        Logo.DISC: size - radius,
        Logo.BAR: bar,
        Logo.BARS: torch.minimum(bar, (_wave(y / (size * 0.7) * 1.5) - 0.45) * size * 0.2),
        Logo.RING: size * 0.28 - (radius - size * 0.8).abs(),
        Logo.TRIANGLE: torch.minimum(y + size * 0.7, size * 0.8 - y * 0.6 - x.abs() * 1.2),
    }
    inside = torch.zeros_like(x)
    for which, distance in shapes.items():
        inside = torch.where(kind == which, _step(distance, soft), inside)
    return inside * h.front


def _yoke(person: Person, h: Hits) -> Tensor:
    return _step(h.y - (0.14 + 0.10 * person.duty[h.image]) * person.height[h.image], h.edge * 0.5)


def _dots(person: Person, h: Hits) -> Tensor:
    cell = person.frequency[h.image] * 0.8
    return _step(0.30 - (((h.x * cell) % 1 - 0.5) ** 2 + ((h.y * cell) % 1 - 0.5) ** 2).sqrt(), 0.06)


def _backprint(person: Person, h: Hits) -> Tensor:
    y = h.y - 0.185 * person.height[h.image] - person.logo_rise[h.image]
    return _step(torch.minimum(0.11 - h.x.abs(), 0.08 - (y + 0.01).abs()), h.edge * 0.5) * (1 - h.front)


def _band(person: Person, h: Hits) -> Tensor:
    off = (h.y - 0.19 * person.height[h.image]).abs()
    return _step(0.035 + 0.02 * person.duty[h.image] - off, h.edge * 0.5)


def _print(person: Person, h: Hits) -> Tensor:
    cell, turn = person.frequency[h.image] * 3, person.duty[h.image] * 40
    x, y = h.x * cell, h.y * cell
    blot = torch.sin(x + 2 * torch.sin(0.7 * y + turn)) * torch.sin(y + 2 * torch.sin(0.6 * x - turn))
    return _step(blot - 0.15, 0.1)


TORSO_PATTERNS = {
    Pattern.RINGS: _rings,
    Pattern.STRIPES: _vertical,
    Pattern.CHECK: _check,
    Pattern.LOGO: _logo,
    Pattern.YOKE: _yoke,
    Pattern.DOTS: _dots,
    Pattern.BACKPRINT: _backprint,
    Pattern.BAND: _band,
    Pattern.PRINT: _print,
}


def _torso(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    pattern, upper, soft = person.pattern[h.image], person.upper[h.image], h.edge * 0.5
    share = torch.zeros_like(h.x)
    for which, draw in TORSO_PATTERNS.items():
        rows = (pattern == which).nonzero()[:, 0]
        if len(rows):
            share[rows] = draw(person, h[rows])
    colour = _mix(first, second, share)
    return _straps(person, palette, h, _opening(person, palette, h, colour, upper, soft), soft)


def _opening(person: Person, palette: Tensor, h: Hits, colour: Tensor, upper: Tensor, soft: Tensor) -> Tensor:
    """What a jacket or coat shows of the inner garment, the seam beside it, the neckline, the belt of a coat."""
    height, open_front = person.height[h.image], (upper >= Upper.JACKET).float() * h.front
    jacket = 0.035 + 0.05 * (person.duty[h.image] - 0.3) + 0.06 * (h.y - 0.02).clamp(min=0)
    coat = 0.008 + 0.55 * (h.y - 0.20 * height).clamp(min=0)
    gap = torch.where(upper == Upper.JACKET, jacket, coat)
    colour = _mix(colour, palette[h.image, Slot.INNER], _step(gap - h.x.abs(), soft) * open_front)
    seam = torch.exp(-(((h.x.abs() - gap) / (h.edge * 1.5)) ** 2)) * open_front
    colour = colour * (1 - 0.45 * seam[:, None])
    slope = 0.2 + 1.6 * (person.logo[h.image] < 2).float()  # a V or a round neck
    neck = _step(h.y - 0.268 * height - slope * h.x.abs(), soft) * h.front * (upper <= Upper.SWEATER).float()
    colour = _mix(colour, palette[h.image, Slot.SKIN], neck)
    belt = _step(0.014 - (h.y - 0.075 * height).abs(), soft) * (upper == Upper.COAT).float()
    return colour * (1 - 0.6 * belt[:, None])


def _straps(person: Person, palette: Tensor, h: Hits, colour: Tensor, soft: Tensor) -> Tensor:
    height, bag = person.height[h.image], person.bag[h.image]
    shoulder = _step(0.021 - (h.x.abs() - 0.062 * height).abs(), soft) * h.front
    shoulder = shoulder * ((h.y > 0.11 * height) & (bag == Bag.BACKPACK)).float()
    slanted = (0.80 * h.x * person.bag_side[h.image] + 0.60 * (h.y - 0.16 * height)).abs()
    across = _step(0.017 - slanted, soft) * (bag == Bag.CROSSBODY).float()
    return _mix(colour, palette[h.image, Slot.BAG], torch.maximum(shoulder, across))


# ------------------------------------------------------------------------------------------------ other parts
def _sleeve(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    pattern, rings = person.pattern[h.image], _rings(person, h)
    share = torch.where(pattern == Pattern.RINGS, rings, torch.zeros_like(rings))
    share = torch.where(pattern == Pattern.CHECK, 0.25 + 0.5 * rings, share)
    if len(printed := (pattern == Pattern.PRINT).nonzero()[:, 0]):
        share[printed] = _print(person, h[printed])
    share = torch.where(pattern == Pattern.SLEEVES, 1.0, share)
    share = torch.where(pattern == Pattern.YOKE, _yoke(person, h), share)
    cuff = (h.w > 0.92) & (h.y < 0) & person.cuffs[h.image] & (person.upper[h.image] == Upper.SWEATER)
    return _mix(first, second, torch.maximum(share, cuff.float()))


def _lower(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    pattern, frequency = person.lower_pattern[h.image], person.frequency[h.image]
    on_leg = h.side != 0
    outside = torch.where(on_leg, _step(h.u * h.side - 0.86, 0.04), _step(h.u.abs() - 0.93, 0.03))
    check = 0.35 * (((h.y * frequency) % 1 < 0.3).float() + ((h.x * frequency + 0.3) % 1 < 0.3).float())
    share = torch.where(
        pattern == LowerPattern.SIDE_STRIPE, outside, torch.where(pattern == LowerPattern.CHECK, check, 0.0)
    )
    knee = torch.exp(-(((h.y - 0.30 * person.height[h.image]) / 0.12) ** 2)) * h.front * (pattern == LowerPattern.FADED)
    return _mix(_mix(first, second, share), 0.75, 0.22 * knee)


def _shin(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    return torch.where((h.w > 0.62)[:, None], second, first)


def _shoe(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    sole = (h.v < -0.45) | ((h.w > 0.80) & (h.v < -0.1))
    return torch.where(sole[:, None], second, first)


def _bag(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    return torch.where((h.w % 0.5 > 0.46)[:, None], first * 0.55, first)


def _spot(x: Tensor, y: Tensor, width: float, height: float, power: float = 1.0) -> Tensor:
    return torch.exp(-(((x / width) ** 2 + (y / height) ** 2) ** power))


def _face(person: Person, palette: Tensor, h: Hits, first: Tensor, second: Tensor) -> Tensor:
    x, y, aside, image = h.u, h.w, h.u.abs(), h.image
    lips, dark, hair = palette[image, Slot.LIPS], palette[image, Slot.DARK], palette[image, Slot.HAIR]
    face = _mix(first, lips, 0.35 * _spot(aside - 0.50, y + 0.22, 0.22, 0.18) * h.front)
    face = _mix(face, dark, 0.9 * _spot(aside - 0.38, y - 0.06, 0.13, 0.085, 1.5) * h.front)
    face = _mix(face, hair, 0.7 * _spot(aside - 0.40, y - 0.26, 0.22, 0.06) * h.front)
    face = _mix(face, lips, 0.8 * _spot(x, y + 0.50, 0.26, 0.055, 1.3) * h.front)
    beard = _step(-0.30 - y - 0.15 * (1 - aside), 0.05) * h.front * person.beard[image]
    face = _mix(face, hair, 0.8 * beard)
    rims = (_spot(aside - 0.38, y - 0.05, 0.24, 0.16, 3.0) + 0.6 * torch.exp(-(((y - 0.09) / 0.05) ** 2))).clamp(max=1)
    return _mix(face, dark, 0.85 * rims * h.front * person.glasses[image])


PAINTERS = {
    Fabric.TORSO: _torso,
    Fabric.SLEEVE: _sleeve,
    Fabric.LOWER: _lower,
    Fabric.FACE: _face,
    Fabric.SHIN: _shin,
    Fabric.SHOE: _shoe,
    Fabric.BAG: _bag,
}
