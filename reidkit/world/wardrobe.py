"""Who somebody is and wears: some forty factors of an identity, with clothes families as look-alikes."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from torch import Tensor

from reidkit.world.chance import Dice
from reidkit.world.factors import Factors

Hair = IntEnum("Hair", "BALD SHORT LONG BUN PONYTAIL", start=0)
Hat = IntEnum("Hat", "NONE CAP BEANIE", start=0)
Upper = IntEnum("Upper", "TSHIRT SWEATER JACKET COAT", start=0)
Lower = IntEnum("Lower", "TROUSERS SHORTS SKIRT", start=0)
Bag = IntEnum("Bag", "NONE BACKPACK CROSSBODY HANDBAG", start=0)
Pattern = IntEnum("Pattern", "PLAIN RINGS STRIPES CHECK LOGO YOKE DOTS BACKPRINT BAND SLEEVES PRINT", start=0)
LowerPattern = IntEnum("LowerPattern", "PLAIN SIDE_STRIPE CHECK FADED", start=0)
Logo = IntEnum("Logo", "DISC BAR BARS RING TRIANGLE", start=0)


def linear(*colours: str) -> np.ndarray:
    """Hex sRGB colours to linear light, (k, 3) in [0, 1]."""
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in colours], np.float32) ** 2.2


SKIN = linear("f4d5bd", "e6bd9e", "d4a480", "b98561", "8a5f42", "5b3d2c")
HAIR = linear("161212", "281c16", "452e1e", "6d4a2c", "b08a54", "969492", "77341e")
SHOES = linear("18181a", "ececec", "785032", "be282c", "32468c", "969696", "e6c83c")
BAGS = linear("1a1a1e", "3c466e", "962a2c", "6e5032", "28645a", "c87832", "8c8c96", "d6bea0")


@dataclass(frozen=True)
class Season:
    """What people of a city wear: colours with their shares, and shares of garments in the order of the enums."""

    upper: np.ndarray
    upper_shares: list[float]
    lower: np.ndarray
    lower_shares: list[float]
    garments: list[float]
    lower_women: list[float]
    lower_men: list[float]
    hats: list[float]
    scarves: float
    patterns: tuple[float, ...] = (0.26, 0.12, 0.04, 0.09, 0.20, 0.07, 0.05, 0.06, 0.06, 0.05, 0)
    hair: tuple[float, ...] = (6, 4, 3, 2, 1.6, 1.2, 0.8)  # shares of colours
    skin: tuple[float, ...] = (3, 4, 4, 2, 1.6, 1.2)
    bags: tuple[float, ...] = (1,) * len(BAGS)
    dresses: float = 0.0  # share of skirts of the upper garment's cloth


SUMMER = Season(
    upper=linear(
        "1c1c20",
        "eeeeec",
        "7e8084",
        "be2228",
        "3a3a78",
        "5c96ce",
        "e8c43c",
        "3c7846",
        "e28ca0",
        "78462c",
        "602c6e",
        "e46e28",
        "b2c8aa",
        "464a5a",
    ),
    upper_shares=[16, 15, 10, 8, 9, 8, 5, 5, 5, 4, 4, 4, 4, 5],
    lower=linear("1a1a1e", "2c385c", "58709e", "787672", "c4b89e", "523c34", "ecece8", "78242c", "343e30"),
    lower_shares=[24, 20, 15, 11, 9, 7, 5, 4, 5],
    garments=[0.48, 0.24, 0.22, 0.06],
    lower_women=[0.60, 0.19, 0.21],
    lower_men=[0.68, 0.32, 0.0],
    hats=[0.82, 0.13, 0.05],
    scarves=0.03,
)
WINTER = Season(
    upper=linear(
        "1e1e22",
        "3c404a",
        "222c4a",
        "685638",
        "462826",
        "3a4a34",
        "969289",
        "c4aa78",
        "961e34",
        "dedad0",
        "1e5a60",
        "6e788c",
        "be501e",
    ),
    upper_shares=[15, 11, 11, 10, 9, 9, 9, 7, 7, 7, 6, 7, 5],
    lower=linear("18181c", "26304a", "46484e", "605240", "3c322c", "787878", "32403c"),
    lower_shares=[28, 22, 14, 11, 9, 9, 7],
    garments=[0.08, 0.27, 0.33, 0.32],
    lower_women=[0.82, 0.02, 0.16],
    lower_men=[0.97, 0.03, 0.0],
    hats=[0.70, 0.10, 0.20],
    scarves=0.30,
)
AUTUMN = Season(
    upper=np.concatenate([SUMMER.upper[:11], WINTER.upper[2:]]),
    upper_shares=[10, 10, 8, 6, 7, 7, 4, 4, 4, 4, 3, 5, 5, 4, 4, 4, 5, 4, 4, 3, 4, 4],
    lower=np.concatenate([SUMMER.lower[:6], WINTER.lower[1:5]]),
    lower_shares=[22, 18, 13, 9, 6, 6, 8, 7, 6, 5],
    garments=[0.26, 0.30, 0.30, 0.14],
    lower_women=[0.74, 0.10, 0.16],
    lower_men=[0.87, 0.13, 0.0],
    hats=[0.76, 0.14, 0.10],
    scarves=0.12,
)
STREET = Season(  # mostly black, white, grey and denim, plain cloth, bare arms and legs, dark hair
    upper=linear(
        "16161a",
        "f6f6f6",
        "b9babb",
        "7a7b7d",
        "3a3b3e",
        "1e2848",
        "2450b4",
        "78b4e4",
        "c41622",
        "e66a92",
        "5a2c74",
        "169a48",
        "a0ccb0",
        "f0c416",
        "c9c0ae",
        "5e4636",
        "e85a1e",
        "8a1a34",
    ),
    upper_shares=[22, 25, 7, 6, 7, 6, 5, 4, 4, 3, 2, 3, 2, 3, 3, 2, 1, 2],
    lower=linear(
        "131316", "34363c", "28334e", "4e678e", "76777b", "887a60", "b5aa94", "e8e8e4", "48382e", "8a2c38", "43473a"
    ),
    lower_shares=[28, 12, 14, 10, 9, 8, 6, 4, 4, 2, 3],
    garments=[0.72, 0.14, 0.10, 0.04],
    lower_women=[0.42, 0.33, 0.25],
    lower_men=[0.62, 0.38, 0.0],
    hats=[0.92, 0.07, 0.01],
    scarves=0.01,
    patterns=(0.44, 0.07, 0.03, 0.07, 0.14, 0.03, 0.03, 0.05, 0.03, 0.05, 0.06),
    hair=(10, 5, 2, 0.6, 0.3, 0.3, 0.2),
    skin=(3, 5, 4, 1, 0.5, 0.3),
    bags=(6, 2, 1, 1.5, 0.7, 0.7, 2, 1),
    dresses=0.3,
)
SEASONS = {"summer": SUMMER, "winter": WINTER, "autumn": AUTUMN, "street": STREET}


@dataclass(frozen=True)
class Person(Factors):
    """The causes that belong to an identity: the same in every image of it. Colours are linear light in [0, 1]."""

    female: Tensor  # bool; body shape and the shares of hair styles and garments
    height: Tensor  # metres, 1.48 to 1.95
    girth: Tensor  # width of the body, 1 is average
    shoulders: Tensor  # width of the shoulders, 1 is average
    hips: Tensor  # width of the hips, 1 is average
    legs: Tensor  # length of the legs against the height, 1 is average
    head: Tensor  # size of the head; 1.1 on average: a little large reads better at 64 pixels
    skin: Tensor  # colour (3)
    hair: Tensor  # Hair
    hair_colour: Tensor  # colour (3)
    hat: Tensor  # Hat
    hat_colour: Tensor  # colour (3)
    glasses: Tensor  # bool
    beard: Tensor  # bool
    upper: Tensor  # Upper, shared in a family
    upper_colour: Tensor  # colour (3), shared in a family but for a small shift
    upper_colour2: Tensor  # colour (3) of the pattern
    inner_colour: Tensor  # colour (3) of what an open jacket shows
    pattern: Tensor  # Pattern
    frequency: Tensor  # periods of the pattern a metre, 9 to 25
    duty: Tensor  # share of a period in the second colour, .3 to .65
    logo: Tensor  # Logo
    logo_size: Tensor  # metres, half its height
    logo_rise: Tensor  # metres above its usual place
    cuffs: Tensor  # bool; a sweater's cuffs in the second colour
    hem: Tensor  # metres by which the upper garment is longer than usual
    scarf: Tensor  # bool
    scarf_colour: Tensor  # colour (3)
    lower: Tensor  # Lower, shared in a family
    lower_colour: Tensor  # colour (3), shared in a family but for a small shift
    lower_colour2: Tensor  # colour (3) of the pattern
    lower_pattern: Tensor  # LowerPattern
    fit: Tensor  # width of trousers, .92 narrow to 1.28 wide
    shorts_length: Tensor  # share of the thigh, .55 to 1
    skirt_length: Tensor  # share of the leg, .35 to .9
    flare: Tensor  # width of a skirt's hem against its waist, 1.05 to 1.5
    shoe_colour: Tensor  # colour (3)
    sole_colour: Tensor  # colour (3)
    sock_colour: Tensor  # colour (3)
    bag: Tensor  # Bag
    bag_colour: Tensor  # colour (3)
    bag_size: Tensor  # 1 is average
    bag_side: Tensor  # -1 right, 1 left
    family: Tensor  # number of the clothes family, -1 for nobody's look-alike


def dress(
    pids: np.ndarray, *, seed: int, season: str = "summer", look_alikes: float = 0.45, families: int = 36
) -> Person:
    """Draw the factors of identities.

    Args:
        pids: (n,) whole numbers; the same number and seed give the same person.
        seed: the city's seed.
        season: "summer", "winter", "autumn" or "street".
        look_alikes: share of identities that take garments and their colours from a family, and keep their own pattern,
            hair, shoes, bag and body.
        families: how many families there are.

    Returns:
        One row per identity.
    """
    pids = np.asarray(pids)
    wear = SEASONS[season]
    own = Dice(seed, pids)
    family = np.where(own.coin("in a family", look_alikes), (own.uniform("family") * families).astype(int), -1)
    shared = Dice(seed, np.where(family >= 0, -1 - family, pids))
    female = own.coin("female", 0.5)
    return Person.from_arrays(
        female=female,
        family=family,
        **_body(own, wear, female),
        **(upper := _upper(own, shared, wear)),
        **_lower(own, shared, wear, female, upper["upper_colour"]),
    )


def _body(own: Dice, wear: Season, female: np.ndarray) -> dict[str, np.ndarray]:
    """Shape, skin, hair, and what is worn on the head and carried."""
    women, men = (
        own.pick("hair of women", [0, 0.22, 0.40, 0.20, 0.18]),
        own.pick("hair of men", [0.08, 0.80, 0.07, 0.02, 0.03]),
    )
    return dict(
        height=np.clip(np.where(female, 1.645, 1.765) + own.normal("height", sd=0.065), 1.48, 1.95),
        girth=np.clip(own.normal("girth", 1.0, 0.11), 0.80, 1.36),
        shoulders=np.where(female, 0.93, 1.04) * own.normal("shoulders", 1.0, 0.035),
        hips=np.where(female, 1.06, 0.98) * own.normal("hips", 1.0, 0.035),
        legs=own.normal("legs", 1.0, 0.03),
        head=own.normal("head", 1.10, 0.04),
        skin=np.clip(SKIN[own.pick("skin", wear.skin)] * own.normal("skin shift", 1.0, 0.05)[..., None], 0.01, 0.95),
        hair=np.where(female, women, men),
        hair_colour=HAIR[own.pick("hair colour", wear.hair)],
        glasses=own.coin("glasses", 0.15),
        beard=~female & own.coin("beard", 0.2),
        bag=own.pick("bag", [0.46, 0.24, 0.16, 0.14]),
        bag_colour=BAGS[own.pick("bag colour", wear.bags)],
        bag_size=own.uniform("bag size", 0.85, 1.25),
        bag_side=np.where(own.coin("bag side", 0.5), -1.0, 1.0),
    )


def _shifted(colour: np.ndarray, name: str, shared: Dice, own: Dice) -> np.ndarray:
    """A dye lot: the family's shift of hue and lightness, and a smaller one of one's own."""
    shift = (
        shared.normals(name, 3, 0.10) + shared.normal(name + " light", sd=0.12)[..., None] + own.normals(name, 3, 0.05)
    )
    return np.clip(colour * np.exp(shift), 0.004, 0.92)


def _upper(own: Dice, shared: Dice, wear: Season) -> dict[str, np.ndarray]:
    """Hat, scarf and the upper garment."""
    count = len(wear.upper)
    first = shared.pick("upper colour", wear.upper_shares)
    second = (first + 1 + (own.uniform("second colour") * (count - 1)).astype(int)) % count
    inner = np.array([4, 8, 4, 2, 2, 2] + [1] * (count - 6))
    return dict(
        hat=own.pick("hat", wear.hats),
        hat_colour=BAGS[own.pick("hat colour", np.ones(len(BAGS)))],
        upper=shared.pick("upper", wear.garments),
        upper_colour=_shifted(wear.upper[first], "upper dye", shared, own),
        upper_colour2=_shifted(wear.upper[second], "second dye", own, own),
        inner_colour=wear.upper[own.pick("inner colour", inner)],
        pattern=own.pick("pattern", wear.patterns),
        frequency=own.uniform("frequency", 9, 25),
        duty=own.uniform("duty", 0.30, 0.65),
        logo=own.pick("logo", np.ones(5)),
        logo_size=own.uniform("logo size", 0.05, 0.10),
        logo_rise=own.normal("logo rise", sd=0.02),
        cuffs=own.coin("cuffs", 0.4),
        hem=own.uniform("hem", -0.02, 0.02),
        scarf=own.coin("scarf", wear.scarves),
        scarf_colour=wear.upper[own.pick("scarf colour", np.ones(count))],
    )


def _lower(
    own: Dice, shared: Dice, wear: Season, female: np.ndarray, upper_colour: np.ndarray
) -> dict[str, np.ndarray]:
    """The lower garment and the feet."""
    light = np.ones(3, np.float32)
    lower = np.where(
        female, shared.pick("lower of women", wear.lower_women), shared.pick("lower of men", wear.lower_men)
    )
    colour = _shifted(wear.lower[shared.pick("lower colour", wear.lower_shares)], "lower dye", shared, own)
    dress = (lower == Lower.SKIRT) & shared.coin("dress", wear.dresses)
    return dict(
        lower=lower,
        lower_colour=np.where(dress[..., None], upper_colour, colour),
        lower_colour2=wear.upper[own.pick("lower second colour", np.ones(len(wear.upper)))],
        lower_pattern=own.pick("lower pattern", [0.72, 0.14, 0.06, 0.08]),
        fit=own.uniform("fit", 0.92, 1.28),
        shorts_length=own.uniform("shorts length", 0.55, 1.0),
        skirt_length=own.uniform("skirt length", 0.35, 0.90),
        flare=own.uniform("flare", 1.05, 1.50),
        shoe_colour=SHOES[own.pick("shoes", [5, 4, 2, 1.2, 1, 1.5, 0.5])],
        sole_colour=np.where(own.coin("sole", 0.5), 0.8, 0.05)[..., None] * light,
        sock_colour=np.where(own.coin("sock", 0.5), 0.75, 0.03)[..., None] * light,
    )
