"""A body of quadrics: some sixty tapered cylinders and ellipsoids on a posed skeleton.

Body frame, in metres: x to the person's left, y up, z to the front; the ground is y = 0. One form serves all parts. In
the frame (u, v, w) of a part, with u and v in units of its radii and w along its axis,

    u² + v² + δ w² - 2 γ w - 1 = 0,   low <= w <= high,

where a tapered cylinder has w = 0 at its start, 1 at its end, γ = taper - 1 and δ = -γ², and an ellipsoid has γ = 0 and
δ = 1. The slab cuts hems, hair lines and cap brims.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from reidkit.world.cameras import Arms, Pose
from reidkit.world.factors import Factors
from reidkit.world.wardrobe import Bag, Hair, Hat, Lower, Pattern, Person, Upper

Slot = IntEnum("Slot", "SKIN HAIR UPPER UPPER2 INNER LOWER LOWER2 SHOE SOLE SOCK BAG HAT LIPS DARK SCARF", start=0)
Fabric = IntEnum("Fabric", "PLAIN TORSO SLEEVE LOWER FACE SHOE HAIR SHIN BAG", start=0)


@dataclass(frozen=True)
class Parts(Factors):
    """The parts of n bodies: (n, k) columns, or (n, k, 3)."""

    start: Tensor  # (n, k, 3) start of a cylinder's axis; centre of an ellipsoid
    end: Tensor  # (n, k, 3) end of the axis; pole of an ellipsoid
    side: Tensor  # (n, k, 3) a direction near the u axis
    radius_u: Tensor  # metres at the start
    radius_v: Tensor  # metres at the start
    taper: Tensor  # radius at the end against that at the start
    low: Tensor  # the slab
    high: Tensor
    is_round: Tensor  # 1 ellipsoid, 0 cylinder
    slot: Tensor  # Slot of the first colour
    slot2: Tensor  # Slot of the second colour
    fabric: Tensor  # Fabric
    rest_y: Tensor  # height of w = 0 above the hips when standing straight, metres: where patterns are fixed
    rest_length: Tensor  # metres a unit of w
    rest_x: Tensor  # metres of u = 0 to the side; for legs the side, -1 or 1
    exists: Tensor  # 1 or 0


def _look(first: Slot, second: Slot = Slot.DARK, fabric: Fabric = Fabric.PLAIN) -> tuple[Slot, Slot, Fabric]:
    """The colours and the texture of a part."""
    return first, second, fabric


BARE, SOCK, STRAP = _look(Slot.SKIN), _look(Slot.SOCK), _look(Slot.BAG)
FACE, SHOE = _look(Slot.SKIN, Slot.HAIR, Fabric.FACE), _look(Slot.SHOE, Slot.SOLE, Fabric.SHOE)
SHIRT, SLEEVE = (_look(Slot.UPPER, Slot.UPPER2, fabric) for fabric in (Fabric.TORSO, Fabric.SLEEVE))
CLOTH, LUGGAGE = _look(Slot.LOWER, Slot.LOWER2, Fabric.LOWER), _look(Slot.BAG, fabric=Fabric.BAG)
HAIR, CAP, SCARF = (_look(slot, fabric=Fabric.HAIR) for slot in (Slot.HAIR, Slot.HAT, Slot.SCARF))


class _Builder:
    """Collects the parts of n bodies; numbers may be (n,) tensors or the same for all."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.n, self.device, self.rows = n, device, []

    def _column(self, value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self.device).expand(self.n)

    def _add(self, start, end, side, *numbers) -> None:
        points = [p.expand(self.n, 3) for p in (start, end, side)]
        self.rows.append((*points, *(self._column(number) for number in numbers)))

    def cylinder(self, start, end, side, radius, look, depth=None, taper=1.0, rest=(0.0, 1.0, 0.0), where=1.0):
        """A tapered elliptic cylinder: `radius` along `side`, `depth` across it."""
        self._add(start, end, side, radius, radius if depth is None else depth, taper, 0, 1, 0, *look, *rest, where)

    def ball(self, centre, axis, side, radii, look, cut=-1.01, rest=(0.0, 1.0, 0.0), where=1.0):
        """An ellipsoid with `radii` along `side`, across, and along `axis`; `cut` removes what lies below that w."""
        along, across, up = (self._column(radius) for radius in radii)
        pole = centre + axis / axis.norm(dim=-1, keepdim=True) * up[:, None]
        self._add(centre, pole, side, along, across, 1, cut, 1.01, 1, *look, *rest, where)

    def parts(self) -> Parts:
        return Parts(*(torch.stack(column, 1).contiguous() for column in zip(*self.rows, strict=True)))


def _tilt(points: Tensor, angle: Tensor) -> Tensor:
    """Turn points about the lateral axis; a positive angle leans forwards."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y, z = points.unbind(-1)
    return torch.stack([x, y * cos + z * sin, z * cos - y * sin], -1)


class Skeleton:
    """Where the joints of n walkers are, and the sizes that all parts share.

    The walk: thighs swing as sin φ, knees bend while the leg comes forwards, arms swing against the legs, shoulders
    turn against the hips; the lowest foot stands on the ground.
    """

    def __init__(self, person: Person, pose: Pose) -> None:
        self.person, self.pose, height = person, pose, person.height
        self.zero = torch.zeros_like(height)
        self.x, self.y, self.z = torch.eye(3, device=height.device)
        narrow = 0.45 * person.skirt_length * (person.lower == Lower.SKIRT) + 0.25 * (person.upper == Upper.COAT)
        self.phase, self.stride = torch.deg2rad(pose.phase), pose.stride * (1 - narrow)  # long hems make short steps
        self.hip_rise = 0.515 * height * person.legs
        self.thigh, self.shin = self.hip_rise * 0.485, self.hip_rise * 0.44
        legs = [self._leg(side) for side in (1.0, -1.0)]
        sole = torch.stack(
            [torch.minimum(ankle[:, 1], ankle[:, 1] + 0.17 * toe[:, 1]) for _, _, ankle, toe in legs]
        ).amin(0)
        lift = self.at(0, 0.045 - sole, 0)
        self.legs = [(hip + lift, knee + lift, ankle + lift, toe) for hip, knee, ankle, toe in legs]
        self.apart = (
            legs[0][2][:, 2] - legs[1][2][:, 2]
        ).abs()  # metres; a skirt or coat must not be pierced by a step
        self.pelvis = self.at(0, self.hip_rise + 0.015, 0) + lift
        twist = 0.10 * self.stride * torch.sin(self.phase)
        self.across_shoulders = torch.stack([torch.cos(twist), self.zero, torch.sin(twist)], -1)
        self.across_hips = torch.stack([torch.cos(twist), self.zero, -torch.sin(twist)], -1)
        self.spine = _tilt(self.y.expand(len(height), 3), pose.lean)
        girth = person.girth
        self.chest_width, self.chest_depth = 0.105 * height * person.shoulders * girth**0.35, 0.066 * height * girth
        self.waist_width, self.waist_depth = (
            (0.084 - 0.009 * person.female.float()) * height * girth,
            0.058 * height * girth,
        )
        self.hip_width, self.hip_depth = 0.097 * height * person.hips * girth**0.8, 0.068 * height * girth**0.9
        self.cloth = 1 + 0.05 * (person.upper == Upper.JACKET) + 0.10 * (person.upper == Upper.COAT)
        self.neck = self.trunk(0.300 * height + 0.015)
        self.skull = 0.066 * height * person.head * (1.69 / height) ** 0.4
        self.face = self.neck + _tilt(self.at(0, 0.030 * height + self.skull * 0.95, 0.022), pose.lean * 0.5)

    def at(self, x, y, z) -> Tensor:
        """A point for each body."""
        return torch.stack([self.zero + value for value in (x, y, z)], -1)

    def trunk(self, y, z=0.0, x=0.0) -> Tensor:
        """A point fixed to the leaning trunk: y metres above the pelvis, z before the spine."""
        return self.pelvis + _tilt(self.at(x, y, z), self.pose.lean)

    def _leg(self, side: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hip, knee, ankle and the direction of the toes, before the feet find the ground."""
        swing = self.phase if side > 0 else self.phase + math.pi
        thigh = 0.50 * self.stride * torch.sin(swing) + 0.04
        bend = self.stride * (0.10 + 0.95 * torch.cos(swing).clamp(min=0) ** 1.5) + 0.03
        hip = self.at(side * 0.052 * self.person.height * self.person.hips * self.person.girth**0.5, self.hip_rise, 0)
        knee = hip + _tilt(self.at(0, -self.thigh, 0), -thigh)
        ankle = knee + _tilt(self.at(0, -self.shin, 0), bend - thigh)
        toe = _tilt(self.z.expand(len(hip), 3), 0.55 * (bend - thigh)) + 0.18 * side * self.x
        return hip, knee, ankle, toe / toe.norm(dim=-1, keepdim=True)


def body(person: Person, pose: Pose) -> Parts:
    """Build the posed bodies.

    Args:
        person: n identities.
        pose: n moments.

    Returns:
        The same parts in the same order for all bodies; those that somebody does not have are marked.
    """
    skeleton = Skeleton(person, pose)
    parts = _Builder(len(person), person.height.device)
    for side, joints in zip((1.0, -1.0), skeleton.legs, strict=True):
        _leg(parts, skeleton, side, *joints)
    _hips(parts, skeleton)
    _trunk(parts, skeleton)
    _head(parts, skeleton)
    _hair(parts, skeleton)
    for side in (1.0, -1.0):
        _arm(parts, skeleton, side)
    _luggage(parts, skeleton)
    return parts.parts()


def _leg(p: _Builder, s: Skeleton, side: float, hip: Tensor, knee: Tensor, ankle: Tensor, toe: Tensor) -> None:
    who, tall, slim = s.person, s.person.height, s.person.girth**0.5
    thigh, calf, narrow = 0.0525 * tall * who.girth * who.hips**0.5, 0.034 * tall * slim, 0.022 * tall * slim
    bare = who.lower > Lower.TROUSERS
    fit = torch.where(bare, 1.0, who.fit)
    look = (torch.where(bare, Slot.SKIN, Slot.LOWER), Slot.LOWER2, torch.where(bare, Fabric.PLAIN, Fabric.LOWER))
    top, middle, shin = s.hip_rise, s.hip_rise - s.thigh, ankle - knee
    upper = thigh * (0.96 + 0.06 * fit)
    p.cylinder(hip, knee, s.x, upper, look, taper=calf * fit / thigh, rest=(top, -s.thigh, side))
    p.ball(knee, s.y, s.x, (calf * fit * 1.02,) * 3, look, rest=(middle, calf, side))
    below = (look[0], torch.where(bare, Slot.SOCK, Slot.LOWER2), torch.where(bare, Fabric.SHIN, Fabric.LOWER))
    hem, width = knee + shin * torch.where(bare, 0.97, 0.93)[:, None], torch.where(bare, calf * 1.06, calf * fit)
    end = torch.where(bare, narrow, torch.maximum(narrow * 1.25 * fit**1.8, narrow * 1.1))
    p.cylinder(knee, hem, s.x, width, below, taper=end / width, rest=(middle, -s.shin, side))
    p.cylinder(knee + shin * 0.85, ankle + shin * 0.02, s.x, narrow * 0.95, SOCK, narrow)
    foot = (0.027 * tall, 0.0225 * tall, 0.080 * tall)
    p.ball(ankle + toe * 0.055 - 0.018 * s.y, toe, s.x, foot, SHOE, rest=(0.0, 0.080 * tall, 0.0))
    p.ball(ankle - toe * 0.012, s.y, s.x, (0.027 * tall, 0.031 * tall, 0.036 * tall), (*SHOE[:2], Fabric.PLAIN))
    short = hip + (knee - hip) * who.shorts_length[:, None]
    rest = (top, -s.thigh * who.shorts_length, side)
    p.cylinder(hip, short, s.x, thigh * 1.08, CLOTH, taper=1.02, rest=rest, where=who.lower == Lower.SHORTS)


def _hips(p: _Builder, s: Skeleton) -> None:
    who, tall = s.person, s.person.height
    radii = (s.hip_width * 0.97, s.hip_depth, 0.085 * tall)
    p.ball(s.pelvis, s.spine, s.across_hips, radii, CLOTH, rest=(s.hip_rise, 0.09 * tall, 0.0))
    length, top = who.skirt_length * s.hip_rise * 0.95, s.pelvis + 0.06 * s.y
    taper, rest = who.flare * (1 + 0.35 * s.apart * who.skirt_length), (s.hip_rise + 0.06, -length, 0.0)
    hem, width, depth = top - s.at(0, length, 0), s.hip_width * 0.98, s.hip_depth * 1.10
    p.cylinder(top, hem, s.across_hips, width, CLOTH, depth, taper, rest, who.lower == Lower.SKIRT)


def _trunk(p: _Builder, s: Skeleton) -> None:
    """Hem, abdomen, chest, shoulders: a garment is the body, a little thicker, with a hem outside the hips."""
    who, tall, cloth, coat = s.person, s.person.height, s.cloth, s.person.upper == Upper.COAT
    waist = 0.115 * tall
    hem = torch.where(coat, 0.26, torch.where(who.upper == Upper.JACKET, 0.055, 0.045)) * tall + who.hem
    width = torch.maximum(s.waist_width * 1.03, s.hip_width * 0.97) * cloth
    depth = torch.maximum(s.waist_depth * 1.05, s.hip_depth * 1.03) * cloth
    flare = (s.hip_width * 1.15 / width).clamp(min=1) * (1 + (0.12 + 0.30 * s.apart) * coat)
    foot, rest = s.pelvis - s.at(0, hem, 0), (waist, -(waist + hem), 0.0)
    p.cylinder(s.trunk(waist), foot, s.across_hips, width, SHIRT, depth, flare, rest)
    low, high = s.pelvis + 0.5 * (s.trunk(waist) - s.pelvis), 0.25 * tall
    width, depth, taper = s.waist_width * cloth, s.waist_depth * cloth, s.chest_width * 0.90 / s.waist_width
    p.cylinder(
        low, s.trunk(high), s.across_shoulders, width, SHIRT, depth, taper, (waist * 0.5, high - waist * 0.5, 0.0)
    )
    chest, ribs = 0.245 * tall, (s.chest_width * 0.93 * cloth, s.chest_depth * 1.02 * cloth, 0.075 * tall)
    p.ball(s.trunk(chest), s.spine, s.across_shoulders, ribs, SHIRT, rest=(chest, 0.075 * tall, 0.0))
    collar, bones = 0.285 * tall, (s.chest_width * 0.62, s.chest_depth * 0.62, 0.045 * tall)
    p.ball(s.trunk(collar, -0.012), s.spine, s.across_shoulders, bones, SHIRT, rest=(collar, 0.045 * tall, 0.0))
    bust, radii = 0.205 * tall, (0.034 * tall * who.girth**0.5, 0.030 * tall, 0.036 * tall)
    for x in (s.chest_width * 0.42, s.chest_width * -0.42):
        centre, rest = s.trunk(bust, s.chest_depth * 0.72, x), (bust, 0.036 * tall, x)
        p.ball(centre, s.spine, s.across_shoulders, radii, SHIRT, rest=rest, where=who.female & ~coat)


def _head(p: _Builder, s: Skeleton) -> None:
    who, neck, r, wide = s.person, s.neck, s.skull, s.person.height * s.person.girth**0.5
    p.cylinder(neck - 0.03 * s.y, s.face, s.x, 0.030 * wide, BARE, 0.031 * wide, 0.95)
    collar = (who.upper >= Upper.SWEATER) & (who.pattern != Pattern.LOGO)
    low, high = neck - 0.045 * s.y, neck + 0.018 * s.y
    p.cylinder(low, high, s.x, 0.044 * wide, (*SHIRT[:2], Fabric.PLAIN), 0.041 * wide, 0.86, where=collar)
    low, high = neck - 0.035 * s.y, neck + 0.045 * s.y
    p.cylinder(low, high, s.x, 0.054 * wide, SCARF, 0.053 * wide, 0.86, where=who.scarf)
    knot, tip = (
        neck + s.at(0.03, -0.02, s.chest_depth * 0.75),
        s.trunk(0.12 * who.height, s.chest_depth * 1.22 * s.cloth, 0.035),
    )
    p.cylinder(knot, tip, s.x, 0.040, SCARF, 0.018, 1.1, where=who.scarf)
    p.ball(s.face, s.y, s.x, (r * 0.79, r * 0.93, r * 1.08), FACE, rest=(0.0, r * 1.08, 0.0))
    p.ball(s.face + s.at(0, -0.18 * r, 0.86 * r), s.y, s.x, (r * 0.13, r * 0.15, r * 0.19), BARE)
    for x in (0.80 * r, -0.80 * r):
        ear = s.face + s.at(x, -0.05 * r, -0.02)
        p.ball(ear, s.y, s.x, (r * 0.10, r * 0.18, r * 0.24), BARE, where=who.hair <= Hair.SHORT)


def _hair(p: _Builder, s: Skeleton) -> None:
    r, style, hat = s.skull, s.person.hair, s.person.hat
    hairy, up, back = style != Hair.BALD, s.y, _tilt(s.at(0, 1, 0), s.zero - 0.30)

    def at(x, y, z) -> Tensor:
        return s.face + s.at(x * r, y * r, z * r)

    crown, dome, bun = (r * 0.89, r, r * 1.06), (r * 0.93, r * 1.04, r * 0.98), (r * 0.42, r * 0.42, r * 0.40)
    p.ball(at(0, 0.14, -0.14), back, s.x, crown, HAIR, -0.12, (0.0, r, 0.0), hairy & (hat != Hat.BEANIE))
    p.ball(at(0, -0.22, -0.30), up, s.x, (r * 0.84, r * 0.76, r * 0.85), HAIR, where=hairy)
    fall = (0.0, -2 * r, 0.0)
    p.cylinder(at(0, 0.05, -0.28), at(0, -2.1, -0.62), s.x, r * 0.88, HAIR, r * 0.72, 1.02, fall, style == Hair.LONG)
    p.ball(at(0, 0.85, -0.72), up, s.x, bun, HAIR, where=(style == Hair.BUN) & (hat == Hat.NONE))
    tip = at(0.25 * torch.sin(s.phase), -1.5, -1.35)
    p.cylinder(at(0, 0.35, -0.92), tip, s.x, r * 0.27, HAIR, taper=0.55, where=style == Hair.PONYTAIL)
    p.ball(at(0, 0.30, -0.05), _tilt(s.at(0, 1, 0), s.zero - 0.10), s.x, dome, CAP, -0.02, where=hat != Hat.NONE)
    brim = (r * 0.72, r * 0.62, r * 0.08)
    p.ball(at(0, 0.36, 0.98), up, s.x, brim, (*CAP[:2], Fabric.PLAIN), where=hat == Hat.CAP)
    p.ball(at(0, 1.35, -0.1), up, s.x, (r * 0.26,) * 3, CAP, where=(hat == Hat.BEANIE) & (s.person.duty > 0.45))


def _arm_angles(s: Skeleton, side: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shoulder swing, elbow bend, spread from the trunk, turn of the forearm inwards; radians."""
    swing = s.phase if side > 0 else s.phase + math.pi
    shoulder = -0.50 * s.stride * torch.sin(swing)
    elbow = 0.22 + 0.30 * s.stride * (0.4 - 0.7 * torch.sin(swing)).clamp(min=0)
    spread, pockets = 0.10 + 0.05 * s.person.girth, s.pose.arms == Arms.POCKETS
    phones = (s.pose.arms == Arms.PHONE) & (s.pose.arm_side == side)
    shoulder = torch.where(phones, 0.55, torch.where(pockets, shoulder * 0.25 - 0.18, shoulder))
    elbow = torch.where(phones, 1.75, torch.where(pockets, 0.62, elbow))
    carries = _carries(s.person, side)
    shoulder, elbow = torch.where(carries, shoulder * 0.3, shoulder), torch.where(carries, 0.10, elbow)
    return shoulder, elbow, torch.where(pockets, spread + 0.22, spread), torch.where(pockets, 0.35, 0.06)


def _carries(person: Person, side: float) -> Tensor:
    return (person.bag == Bag.HANDBAG) & (person.bag_side == side)


def _arm(p: _Builder, s: Skeleton, side: float) -> None:
    who, tall, slim = s.person, s.person.height, s.person.height * s.person.girth**0.7
    swing, bend, spread, inwards = _arm_angles(s, side)
    above, below = 0.168 * tall, 0.148 * tall
    shoulder = s.trunk(0.262 * tall, -0.008) + s.across_shoulders * (side * s.chest_width * 0.93)[:, None]
    way = _tilt(s.at(side * torch.sin(spread), -torch.cos(spread), 0), -swing)
    elbow = shoulder + way * above[:, None]
    fore = _tilt(s.at(side * (spread * 0.5 - inwards), -1, 0), -(swing + bend))
    fore = fore / fore.norm(dim=-1, keepdim=True)
    wrist = elbow + fore * below[:, None]
    top, mid, end = 0.0300 * slim, 0.0235 * slim, 0.0165 * tall * who.girth**0.5
    long = who.upper != Upper.TSHIRT
    thick = torch.where(long, 1.12 * s.cloth**0.6, 1.0)
    look = (torch.where(long, Slot.UPPER, Slot.SKIN), Slot.UPPER2, torch.where(long, Fabric.SLEEVE, Fabric.PLAIN))
    y, ball = 0.24 * tall, top * 1.08 * thick**0.5
    p.ball(shoulder, s.y, s.x, (ball, ball, top * 1.06), SLEEVE, rest=(y, top, 0.0))
    p.cylinder(shoulder, elbow, s.x, top * thick, look, taper=mid / top, rest=(y, -above, 0.0))
    p.ball(elbow, s.y, s.x, (mid * thick,) * 3, look, rest=(y - above, mid, 0.0))
    p.cylinder(elbow, wrist, s.x, mid * thick, look, None, end / mid * (1 + 0.25 * long), (y - above, -below, 0.0))
    short = shoulder + way * (above * (0.50 + 0.25 * who.duty))[:, None]
    p.cylinder(shoulder, short, s.x, top * 1.12, SLEEVE, taper=1.04, rest=(y, -above * 0.6, 0.0), where=~long)
    hand = (0.0150 * tall, 0.021 * tall, 0.047 * tall)
    p.ball(wrist + fore * 0.055, fore, s.x, hand, BARE, where=s.pose.arms != Arms.POCKETS)
    size, carries = who.bag_size, _carries(who, side)
    bag, up = wrist - s.at(0, 0.20 * size, 0), s.at(0, 0.13 * size, 0)
    p.cylinder(bag + up, bag - up, s.x, 0.055 * size, LUGGAGE, 0.15 * size, 1.08, (0.0, -0.3, 0.0), carries)
    p.cylinder(wrist - 0.03 * s.y, bag + up * 0.92, s.x, 0.011, STRAP, 0.05 * size, 1.6, where=carries)


def _luggage(p: _Builder, s: Skeleton) -> None:
    """A backpack, or a bag across the body; their straps are textures of the torso."""
    size, tall, across = s.person.bag_size, s.person.height, s.across_shoulders
    pack, back = s.person.bag == Bag.BACKPACK, s.chest_depth * s.cloth + 0.055 * size
    top, low = s.trunk(0.255 * tall, -back), s.trunk(0.255 * tall - 0.36 * size, -back - 0.01)
    p.cylinder(low, top, across, 0.150 * size, LUGGAGE, 0.105 * size, 0.92, (0.0, 0.36, 0.0), pack)
    p.ball(top, s.spine, across, (0.138 * size, 0.097 * size, 0.06 * size), STRAP, where=pack)
    pocket = low + _tilt(s.at(0, 0.10 * size, -0.075 * size), s.pose.lean)
    p.ball(pocket, s.spine, across, (0.11 * size, 0.055 * size, 0.10 * size), STRAP, where=pack)
    beside = s.pelvis + s.at(s.person.bag_side * (s.hip_width * 1.10 + 0.02), 0.02, -0.02)
    up, rest, slung = s.at(0, 0.105 * size, 0), (0.0, -0.2, 0.0), s.person.bag == Bag.CROSSBODY
    p.cylinder(beside + up, beside - up, s.x, 0.050 * size, LUGGAGE, 0.125 * size, 1.05, rest, slung)
