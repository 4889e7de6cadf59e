"""Who looks, when and how: a network of cameras, the moments they catch, and the knobs that make it hard."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from torch import Tensor

from reidkit.world.chance import Dice
from reidkit.world.factors import Factors

Arms = IntEnum("Arms", "SWING PHONE POCKETS BUSY", start=0)
Occluder = IntEnum("Occluder", "NONE POLE BUSH BICYCLE RAILING", start=0)
SENSOR_PIXELS = 1425.0  # focal length of a good sensor in pixels: how tall a person of 1 m at 1 m would be


@dataclass(frozen=True)
class Knobs:
    """What makes the world hard. 1 (or the share given) is the default world; 0 switches a cause off."""

    camera_colour: float = 1.0  # how far the cameras' colour responses lie apart
    light: float = 1.0  # changes of light from one passage to the next
    view: float = 28.0  # degrees (standard deviation) around a camera's main walking direction
    occluders: float = 0.22  # share of images with something in front
    companions: float = 0.25  # share of passages with a second person
    box: float = 1.0  # jitter and failures of the detector's boxes
    resolution: float = 1.0  # 1 as the sensors are; .5 doubles every sensor's resolution
    blur: float = 0.35  # share of images with motion blur
    look_alikes: float = 0.45  # share of identities dressed like others


@dataclass(frozen=True)
class Place:
    """What the cameras of one city have in common."""

    height: tuple[float, float]  # metres
    distance: float  # factor on the walkers' distance
    sunny: tuple[float, float]  # share of direct light
    tint: tuple[float, float, float]  # colour of the light
    exposure: float  # mean, in powers of e
    saturation: float  # added to 1
    fog: tuple[float, float]
    contrast: tuple[float, float] = (1.0, 1.0)
    sharpening: tuple[float, float] = (0.0, 0.0)
    box_width: tuple[float, float] = (1.0, 1.0)  # of the detector's boxes, against half their height
    clutter: float = 0.0  # how much stands behind people, 0 to 1: bicycles, dark entrances, other people


@dataclass(frozen=True)
class Cameras(Factors):
    """A network of fixed cameras, one row each."""

    height: Tensor  # metres above the ground
    near: Tensor  # metres; the closest walkers
    far: Tensor  # metres; the farthest walkers
    direction: Tensor  # degrees; main walking direction, 0 is towards the camera
    two_way: Tensor  # share of people who walk the other way
    sensor: Tensor  # resolution of the sensor, 1 or .55
    sun_azimuth: Tensor  # degrees, against the line of sight
    sun_elevation: Tensor  # degrees
    sunny: Tensor  # share of direct light, 0 to 1
    tint: Tensor  # gain of red, green, blue (3)
    mixing: Tensor  # (3, 3), rows sum to 1: crosstalk of the colour filters
    saturation: Tensor  # 1 is neutral
    gamma: Tensor  # 1 is neutral
    exposure: Tensor  # 1 is neutral
    fog: Tensor  # share of haze
    noise: Tensor  # standard deviation, of a range of 1
    contrast: Tensor  # of the stored picture around a dark grey; 1 is neutral
    sharpening: Tensor  # how much of its fine detail a camera adds once more
    narrowest: Tensor  # width of the detector's boxes against half their height
    widest: Tensor
    quality: Tensor  # JPEG quality
    scene: Tensor  # (3, 320, 640), or twice that, painted background, linear light


@dataclass(frozen=True)
class Pose(Factors):
    """The causes that belong to an image: when somebody passes a camera, and how the detector cuts them out."""

    camid: Tensor  # row of the camera
    yaw: Tensor  # degrees; 0 comes towards the camera, 90 walks to the right, 180 away from it
    distance: Tensor  # metres
    place: Tensor  # across the camera's picture, 0 left to 1 right
    phase: Tensor  # degrees of the walking cycle
    stride: Tensor  # 0 stands, 1 walks
    arms: Tensor  # Arms
    arm_side: Tensor  # -1 or 1: which arm phones
    lean: Tensor  # radians forwards
    sun_azimuth: Tensor  # degrees
    sun_elevation: Tensor  # degrees
    sunny: Tensor  # share of direct light after shade, 0 to 1
    exposure: Tensor  # 1 is neutral; camera and moment together
    temperature: Tensor  # shift of the light, > 0 warmer
    box_x: Tensor  # offset of the box, share of the person's height
    box_y: Tensor  # offset of the box, share of the person's height
    box_scale: Tensor  # height of the box against the person's
    box_width: Tensor  # width of the box against half its height; it is stretched to the picture
    native: Tensor  # pixels the sensor really had over the person's height
    blur: Tensor  # motion blur, pixels at height 128
    occluder: Tensor  # Occluder
    occluder_x: Tensor  # place across, 0 to 1
    occluder_size: Tensor  # 0 to 1
    occluder_colour: Tensor  # (3)
    companion: Tensor  # bool; a second person is in the box
    companion_x: Tensor  # metres beside
    companion_depth: Tensor  # metres behind; negative is in front
    companion_yaw: Tensor  # degrees, against the person's
    companion_pid: Tensor  # key of the second person
    folds: Tensor  # which folds the clothes throw
    quality: Tensor  # JPEG quality, 40 to 95
    noise_key: Tensor  # seed of the sensor noise


def install(count: int, place: Place, *, seed: int, knobs: Knobs) -> dict[str, np.ndarray]:
    """Draw a network of `count` cameras; all columns of `Cameras` but the painted scene."""
    dice = Dice(seed, 7_000_001, np.arange(count))
    near = dice.uniform("near", 7, 10) * place.distance
    mixing = np.eye(3) + knobs.camera_colour * dice.normals("mixing", 9, 0.05).reshape(count, 3, 3)
    colour = knobs.camera_colour
    return dict(
        height=dice.uniform("height", *place.height),
        near=near,
        far=near + dice.uniform("far", 8, 17) * place.distance,
        direction=(Dice(seed).uniform("direction", 0, 360) + np.arange(count) * 222.5) % 360,
        two_way=dice.uniform("two way", 0.2, 0.55),
        sensor=np.where(dice.coin("sensor", 0.25), 0.55, 1.0),
        sun_azimuth=dice.uniform("sun azimuth", 0, 360),
        sun_elevation=dice.uniform("sun elevation", 28, 63),
        sunny=dice.uniform("sunny", *place.sunny),
        tint=np.array(place.tint) * np.exp(colour * dice.normals("tint", 3, 0.11)),
        mixing=mixing / mixing.sum(2, keepdims=True),
        saturation=1 + place.saturation + colour * dice.normal("saturation", sd=0.16),
        gamma=np.exp(colour * dice.normal("gamma", sd=0.09)),
        exposure=np.exp(place.exposure + colour * dice.normal("exposure", sd=0.14)),
        fog=dice.uniform("fog", *place.fog),
        noise=0.008 + 0.02 * dice.uniform("noise") ** 2,
        contrast=dice.uniform("contrast", *place.contrast),
        sharpening=dice.uniform("sharpening", *place.sharpening),
        narrowest=np.full(count, place.box_width[0]),
        widest=np.full(count, place.box_width[1]),
        quality=dice.uniform("quality", 62, 92),
    )


def observe(
    pids: np.ndarray, camids: np.ndarray, shots: np.ndarray, cameras: Cameras, *, seed: int, knobs: Knobs
) -> Pose:
    """Draw the moment of each image. Images of one identity under one camera are one passage: they share way and light.

    Args:
        pids, camids: (n,) identity and camera.
        shots: (n,) number of the image in its passage.
        cameras: the network.
        seed: the city's seed.
        knobs: what is hard.
    """
    pids, camids, shots = np.broadcast_arrays(pids, camids, shots)
    passage, shot = Dice(seed, 7_000_002, pids, camids), Dice(seed, 7_000_003, pids, camids, shots)
    seen = {name: column[camids] for name, column in cameras.columns().items()}
    return Pose.from_arrays(
        camid=camids,
        **_walk(passage, shot, seen, knobs),
        **_light(passage, shot, seen, knobs),
        **_detect(passage, shot, seen, knobs),
        **_crowd(passage, shot, knobs),
    )


def _walk(passage: Dice, shot: Dice, seen: dict[str, np.ndarray], knobs: Knobs) -> dict[str, np.ndarray]:
    back = 180 * passage.coin("back", seen["two_way"])
    return dict(
        yaw=seen["direction"]
        + back
        + passage.normal("yaw", sd=knobs.view)
        + shot.normal("yaw", sd=8 * min(1, knobs.view / 28)),
        place=passage.uniform("place", 0.1, 0.9) + shot.normal("place", sd=0.03),
        phase=shot.uniform("phase", 0, 360),
        stride=np.where(passage.coin("stands", 0.14), 0.12, passage.uniform("stride", 0.75, 1.10)),
        arms=passage.pick("arms", [0.66, 0.12, 0.12, 0.10]),
        arm_side=np.where(passage.coin("arm side", 0.5), -1.0, 1.0),
        lean=passage.normal("lean", 0.03, 0.05),
        folds=shot.uniform("folds", 0, 100),
    )


def _light(passage: Dice, shot: Dice, seen: dict[str, np.ndarray], knobs: Knobs) -> dict[str, np.ndarray]:
    light = knobs.light
    sunny = np.clip(seen["sunny"] + light * passage.normal("sunny", sd=0.13), 0, 1)
    return dict(
        sun_azimuth=seen["sun_azimuth"] + light * passage.normal("azimuth", sd=25),
        sun_elevation=np.clip(seen["sun_elevation"] + light * passage.normal("elevation", sd=6), 15, 75),
        sunny=sunny * np.where(passage.coin("shade", 0.2 * light), 0.45, 1.0),
        exposure=seen["exposure"]
        * np.exp(light * (passage.normal("exposure", sd=0.11) + shot.normal("exposure", sd=0.05))),
        temperature=light * passage.normal("temperature", sd=0.06),
    )


def _detect(passage: Dice, shot: Dice, seen: dict[str, np.ndarray], knobs: Knobs) -> dict[str, np.ndarray]:
    distance = passage.uniform("distance", seen["near"], seen["far"]) * shot.normal("distance", 1.0, 0.06)
    distance = np.clip(distance, 5, 40)
    bad = shot.coin("bad box", 0.08 * knobs.box)
    return dict(
        distance=distance,
        box_x=shot.normal("box x", sd=0.045 * knobs.box),
        box_y=shot.normal("box y", sd=0.035 * knobs.box) + bad * 0.14 * np.sign(shot.normal("bad y")),
        box_scale=1.06
        * np.exp(shot.normal("box scale", sd=0.05 * knobs.box))
        * np.where(bad, shot.uniform("bad scale", 0.78, 1.08), 1.0),
        box_width=shot.uniform("box width", seen["narrowest"], seen["widest"]),
        native=SENSOR_PIXELS * 1.75 / distance * seen["sensor"] / knobs.resolution,
        blur=np.where(shot.coin("blur", knobs.blur), shot.uniform("blur length", 1, 4), 0.0),
        quality=np.clip(seen["quality"] + shot.normal("quality", sd=6), 40, 95).astype(int),
        noise_key=shot.key("noise"),
    )


def _crowd(passage: Dice, shot: Dice, knobs: Knobs) -> dict[str, np.ndarray]:
    front = passage.coin("companion in front", 0.4)
    aside = shot.uniform("companion x", 0.30, 0.70) * np.where(passage.coin("companion side", 0.5), -1, 1)
    return dict(
        occluder=np.where(
            shot.coin("occluded", knobs.occluders), 1 + shot.pick("occluder", [0.30, 0.22, 0.22, 0.26]), 0
        ),
        occluder_x=shot.uniform("occluder x"),
        occluder_size=shot.uniform("occluder size"),
        occluder_colour=np.stack([shot.uniform(f"occluder colour {c}") for c in "rgb"], -1),
        companion=passage.coin("companion", knobs.companions),
        companion_x=aside,
        companion_depth=np.where(
            front, -shot.uniform("companion before", 0.5, 0.8), shot.uniform("companion behind", 0.6, 2.1)
        ),
        companion_yaw=np.where(passage.coin("companion way", 0.5), 0.0, 172.0),
        companion_pid=5_000_000 + passage.key("companion") % 4000,
    )
