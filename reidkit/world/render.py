"""Render people in a camera's scene: bodies, shadows on the ground, companions, occluders, the sensor."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reidkit.world import light, rays, scenes, sensor
from reidkit.world.body import Fabric, body
from reidkit.world.cameras import Cameras, Pose
from reidkit.world.factors import Factors
from reidkit.world.textures import Hits, colours
from reidkit.world.wardrobe import Person


@dataclass(frozen=True)
class Figure(Factors):
    """People drawn on a transparent picture."""

    picture: Tensor  # (n, 4, h, w) light times cover, and cover
    window: Tensor  # (n, 3) what of the world the picture shows; see `rays.crop`
    foot: Tensor  # (n, 2) pixel under the walker
    scale: Tensor  # (n,) pixels a metre at the foot
    shift: Tensor  # (n, 2) right and away: how far, per metre of height, a shadow falls
    tilt: Tensor  # (n, 2) cosine and sine of the camera's pitch


@torch.no_grad()
def render(
    person: Person,
    pose: Pose,
    camera: Cameras,
    size: tuple[int, int],
    *,
    companion: Person | None = None,
    supersampling: float = 1.5,
) -> Tensor:
    """Render images.

    Args:
        person: n identities.
        pose: n moments; `pose.camid` is the row of the camera.
        camera: the network of cameras.
        size: (height, width) in pixels; even, and made for 64x32, 128x64 and 256x128.
        companion: n second persons, drawn where `pose.companion` holds; None draws none.
        supersampling: samples a pixel and axis: 1, 1.5 or 2. Images whose sensor is coarse get 1.

    Returns:
        (n, 3, height, width) uint8. On a CPU the bits depend on the factors alone, not on the batch.

    Raises:
        ValueError: the rows do not fit together, or the size or the supersampling is not offered.
    """
    _check(person, pose, camera, size, supersampling)
    height, width = size
    figure = _adaptive(person, pose, camera, size, supersampling)
    ground = _background(figure, pose, camera, size)
    lit = (0.62 + 0.55 * pose.sunny)[:, None, None, None]
    picture = _grounded(ground * lit, figure, pose)
    front = figure.picture
    if companion is not None and bool(pose.companion.any()):
        picture, front = _accompanied(picture, figure, companion, pose, camera, size)
    picture = front[:, :3] + picture * (1 - front[:, 3:])
    if bool((pose.occluder > 0).any()):
        colour, cover = scenes.occluders(
            pose.occluder, pose.occluder_x, pose.occluder_size, pose.occluder_colour, height, width
        )
        picture = picture * (1 - cover) + colour * lit * cover
    picture = _stretched(picture, pose.box_width)
    return sensor.develop(picture, pose, camera)


def _check(person: Person, pose: Pose, camera: Cameras, size: tuple[int, int], supersampling: float) -> None:
    if len(person) != len(pose):
        raise ValueError(f"{len(person)} persons and {len(pose)} poses: give one pose for each person.")
    if len(pose) and int(pose.camid.max()) >= len(camera):
        raise ValueError(
            f"A pose names camera {int(pose.camid.max())}, but the network has cameras 0 to {len(camera) - 1}."
        )
    if min(size) < 16 or size[0] % 4 or size[1] % 4:
        raise ValueError(f"The size {size} is (height, width) in pixels: multiples of 4, at least 16.")
    if supersampling not in (1, 1.5, 2):
        raise ValueError(f"supersampling is {supersampling}; it can be 1, 1.5 or 2.")


def _adaptive(person: Person, pose: Pose, camera: Cameras, size: tuple[int, int], supersampling: float) -> Figure:
    """Draw the walkers, with fewer samples where the sensor is coarse anyway."""
    fine = pose.native > 0.66 * size[0]
    parts, order = [], []
    for rows, samples in ((fine, supersampling), (~fine, 1)):
        rows = rows.nonzero()[:, 0]
        if len(rows):
            parts.append(draw(person[rows], pose[rows], camera.height[pose.camid[rows]], size, samples))
            order.append(rows)
    return Figure.cat(parts)[torch.cat(order).argsort()]


def draw(
    person: Person,
    pose: Pose,
    camera_height: Tensor,
    size: tuple[int, int],
    samples: float,
    beside: Figure | None = None,
) -> Figure:
    """Draw people on a transparent picture; with `beside`, as companions in the window of those figures."""
    height, width = int(size[0] * samples), int(size[1] * samples)
    view = rays.View(pose, camera_height, *((pose.companion_x, pose.companion_depth) if beside is not None else ()))
    parts = body(person, pose)
    window = rays.crop(parts, view, pose) if beside is None else beside.window
    cast = rays.cast(parts, view, window, height, width)
    image, pixel, part, depth = rays.trace(cast, height, width)
    scale = window[:, 2] * height
    lamp = light.sun(pose, view)
    hits, normal, cut = _surface(parts, cast, scale, image, pixel, part, depth, width)
    albedo = colours(person, hits)
    albedo = torch.where(cut[:, None], albedo * 0.35, albedo)  # flat ends: the dark inside of a sleeve or a hem
    normal = light.folded(normal, hits, pose.folds)
    lit = light.shade(albedo, normal, depth, hits, lamp, scale, (len(pose), height, width))
    picture = torch.zeros(len(pose) * height * width, 4, device=lit.device)
    picture[image * (height * width) + pixel] = torch.cat([lit, torch.ones_like(lit[:, :1])], -1)
    picture = _shrink(picture.view(len(pose), height, width, 4), samples).permute(0, 3, 1, 2).contiguous()
    foot, zoom = view.project(torch.zeros(len(pose), 1, 3, device=lit.device))
    foot = (foot[:, 0, :2] - window[:, :2]) * (window[:, 2:] * size[0]) + foot.new_tensor([size[1] / 2, size[0] / 2])
    rise = lamp.rise.clamp(min=0.25)
    shift = torch.stack([-lamp.right / rise, -lamp.away / rise], -1)
    return Figure(
        picture, window, foot, window[:, 2] * size[0] * zoom[:, 0], shift, torch.stack([view.cos, view.sin], -1)
    )


def _surface(
    parts, cast: rays.Cast, scale: Tensor, image: Tensor, pixel: Tensor, part: Tensor, depth: Tensor, width: int
) -> tuple[Hits, Tensor, Tensor]:
    """Coordinates and normals of the hits, and which of them lie on a flat end."""
    named = [cast.gamma, cast.delta, cast.low, cast.high, parts.radius_u, parts.rest_x, parts.rest_y, parts.rest_length]
    kinds = [parts.slot, parts.slot2, parts.fabric]
    place = [*cast.matrix.flatten(2).unbind(-1), *cast.origin.unbind(-1)]
    picked = rays.pick([*named, *kinds, *place], image * cast.gamma.shape[1] + part)
    gamma, delta, low, high, radius, rest_x, rest_y, length = picked[:8]
    slot, slot2, fabric = (kind.long() for kind in picked[8:11])
    rows, (left, top, near) = (picked[11:14], picked[14:17], picked[17:20]), picked[20:]
    x, y, z = pixel % width + 0.5 - left, pixel // width + 0.5 - top, depth - near
    u, v, w = (a * x + b * y + c * z for a, b, c in rows)
    slope = delta * w - gamma
    normal = torch.stack([u * a + v * b + slope * c for a, b, c in zip(*rows, strict=True)], -1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    form = u * u + v * v + (delta * w - 2 * gamma) * w - 1
    cut = (form < -0.03) & ((w < low + 0.02) | (w > high - 0.02))
    axis = torch.stack(rows[2], -1)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    normal = torch.where(cut[:, None], torch.where(axis[:, 2:] > 0, -axis, axis), normal)
    shift = torch.where(fabric == Fabric.TORSO, rest_x, 0.0)
    return (
        Hits(
            image,
            pixel,
            u,
            v,
            w,
            u * radius + shift,
            rest_y + w * length,
            rest_x,
            1.2 / scale[image],
            slot,
            slot2,
            fabric,
        ),
        normal,
        cut,
    )


def _shrink(picture: Tensor, samples: float) -> Tensor:
    """Average the samples (n, H, W, 4) of each pixel: 2x2 to one, or 3x3 to 2x2."""
    if samples == 1:
        return picture
    n, height, width, _ = picture.shape
    if samples == 2:
        return picture.view(n, height // 2, 2, width // 2, 2, 4).mean((2, 4))
    for dim in (1, 2):
        size = list(picture.shape)
        a, b, c = picture.view(*size[:dim], size[dim] // 3, 3, *size[dim + 1 :]).unbind(dim + 1)
        pair = torch.stack([(a + 0.5 * b) / 1.5, (c + 0.5 * b) / 1.5], dim + 1)
        size[dim] = size[dim] // 3 * 2
        picture = pair.view(size)
    return picture


def _stretched(picture: Tensor, box_width: Tensor) -> Tensor:
    """Stretch the middle of each picture to its whole width, as narrow boxes are when they are stored."""
    rows = (box_width != 1).nonzero()[:, 0]
    if not len(rows):
        return picture
    zoom = torch.zeros(len(rows), 2, 3, device=picture.device)
    zoom[:, 0, 0], zoom[:, 1, 1] = box_width[rows], 1
    grid = F.affine_grid(zoom, list(picture[rows].shape), align_corners=False)
    picture = picture.clone()
    picture[rows] = F.grid_sample(picture[rows], grid, padding_mode="border", align_corners=False)
    return picture


def _background(figure: Figure, pose: Pose, camera: Cameras, size: tuple[int, int]) -> Tensor:
    """Cut the camera's scene where the walker stands: the distance gives the row of the feet and the scale."""
    height, width = size
    foot = scenes.HORIZON + scenes.FOCAL * camera.height[pose.camid] / pose.distance
    step = scenes.FOCAL / pose.distance / figure.scale  # scene pixels a picture pixel
    lines = torch.arange(height, device=foot.device) - figure.foot[:, 1:]
    columns = torch.arange(width, device=foot.device) - figure.foot[:, :1]
    y = (foot[:, None] + lines * step[:, None]) / scenes.HEIGHT * 2 - 1
    x = pose.place[:, None] * 2 - 1 + columns * step[:, None] / scenes.WIDTH * 2
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    picture = torch.empty(len(pose), 3, height, width, device=foot.device)
    for camid in pose.camid.unique().tolist():
        rows = (pose.camid == camid).nonzero()[:, 0]
        scene = camera.scene[camid : camid + 1].expand(len(rows), -1, -1, -1)
        picture[rows] = F.grid_sample(scene, grid[rows], padding_mode="reflection", align_corners=False)
    return picture


def _grounded(ground: Tensor, figure: Figure, pose: Pose) -> Tensor:
    """Shadows on the ground: the sheared silhouette, and a soft spot under the feet, so that nobody floats."""
    _, _, height, width = ground.shape
    right, away = figure.shift.unbind(-1)
    away = torch.where(away.abs() < 0.15, torch.where(away < 0, -0.15, 0.15), away)
    cos, sin, scale = figure.tilt[:, 0], figure.tilt[:, 1], figure.scale
    lines = torch.arange(1, height, 2, device=ground.device, dtype=torch.float32)
    columns = torch.arange(1, width, 2, device=ground.device, dtype=torch.float32)
    rise = (figure.foot[:, 1:] - lines) / (away * sin * scale)[
        :, None
    ]  # metres above ground of what casts the shadow here
    x = columns - (rise * (right * scale)[:, None])[..., None]
    y = (figure.foot[:, 1:] - rise * (cos * scale)[:, None])[..., None].expand_as(x)
    grid = torch.stack([x / width * 2 - 1, y / height * 2 - 1], -1)
    cover = F.grid_sample(F.avg_pool2d(figure.picture[:, 3:], 2), grid, align_corners=False)
    cover = F.avg_pool2d(cover * (rise > -0.02)[:, None, :, None], 3, 1, 1)
    cover = F.interpolate(cover, (height, width), mode="bilinear", align_corners=False)
    lines, columns = torch.arange(height, device=ground.device), torch.arange(width, device=ground.device)
    wide, tall = 0.26 * scale, (0.20 * sin + 0.03) * scale
    off_x = ((columns - figure.foot[:, :1]) / wide[:, None]) ** 2
    off_y = ((lines - figure.foot[:, 1:]) / tall[:, None]) ** 2
    spot = torch.exp(-(off_x[:, None, :] + off_y[:, :, None]))[:, None]
    dark = ((0.25 + 0.5 * pose.sunny)[:, None, None, None] * cover).clamp(max=0.75)
    return ground * (1 - dark) * (1 - 0.5 * spot)


def _accompanied(
    picture: Tensor, figure: Figure, companion: Person, pose: Pose, camera: Cameras, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Put companions behind the walker (into the ground picture) or in front (onto the figure)."""
    rows = pose.companion.nonzero()[:, 0]
    mine = pose[rows]
    way = mine.replace(phase=mine.phase + 120, yaw=mine.yaw + mine.companion_yaw)
    second = draw(companion[rows], way, camera.height[mine.camid], size, 1, beside=figure[rows]).picture
    behind = (mine.companion_depth > 0)[:, None, None, None]
    picture, front = picture.clone(), figure.picture.clone()
    back = torch.where(behind, second, torch.zeros_like(second))
    picture[rows] = back[:, :3] + picture[rows] * (1 - back[:, 3:])
    before = torch.where(behind, torch.zeros_like(second), second)
    front[rows] = before + front[rows] * (1 - before[:, 3:])
    return picture, front
