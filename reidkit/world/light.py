"""Light on a body: sun and sky, folds, blurred normals where the surface is continuous, occlusion, contact shadows."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reidkit.world.body import Fabric, Slot
from reidkit.world.cameras import Pose
from reidkit.world.rays import View
from reidkit.world.textures import Hits

SKY, GROUND, SUN = (0.86, 0.96, 1.12), (0.92, 0.86, 0.78), (1.12, 1.0, 0.84)  # colours of the three lights


@dataclass(frozen=True)
class Sun:
    """Directions in camera coordinates (right, down, away), (n, 3), and the shares of direct light, (n,)."""

    way: Tensor
    up: Tensor
    sunny: Tensor
    right: Tensor  # horizontal components and height of the way to the sun
    away: Tensor
    rise: Tensor


def sun(pose: Pose, view: View) -> Sun:
    """Where the sun stands; its azimuth is measured from the line of sight."""
    azimuth, elevation, zero = (
        torch.deg2rad(pose.sun_azimuth),
        torch.deg2rad(pose.sun_elevation),
        torch.zeros_like(view.cos),
    )
    right, away, rise = (
        torch.sin(azimuth) * torch.cos(elevation),
        torch.cos(azimuth) * torch.cos(elevation),
        torch.sin(elevation),
    )
    up = torch.stack([zero, -view.cos, -view.sin], -1)
    ahead = torch.stack([zero, -view.sin, view.cos], -1)
    across = up.new_tensor([1.0, 0, 0])
    way = right[:, None] * across + away[:, None] * ahead + rise[:, None] * up
    return Sun(way, up, pose.sunny, right, away, rise)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def folded(normal: Tensor, hits: Hits, folds: Tensor) -> Tensor:
    """Throw folds into cloth and strands into hair, by tilting the normals in a few sine waves."""
    cloth = ((hits.fabric == Fabric.TORSO) | (hits.fabric == Fabric.SLEEVE) | (hits.fabric == Fabric.LOWER)).float()
    hair = (hits.fabric == Fabric.HAIR).float()
    x, y, phase = hits.x, hits.y, folds[hits.image]
    down = torch.sin(34 * y + 11 * x * torch.sin(phase) + 2.5 * torch.sin(9 * x + phase) + phase * 3) * torch.sin(
        7 * y + 13 * x + phase * 1.7
    )
    right = torch.sin(23 * x + 9 * y * torch.cos(phase * 2) + 2 * torch.sin(11 * y + phase * 5))
    strands = torch.sin(hits.u * 16 + 3 * torch.sin(hits.v * 5))
    tilt = torch.stack([0.154 * right * cloth + 0.14 * strands * hair, 0.22 * down * cloth, torch.zeros_like(x)], -1)
    return _unit(normal + tilt)


def _box(image: Tensor, radius: int) -> Tensor:
    """Sum over a square neighbourhood of an (n, h, w, c) image, by shifted additions."""
    for dim in (1, 2):
        total = image.clone()
        size = image.shape[dim]
        for shift in range(1, radius + 1):
            total.narrow(dim, shift, size - shift).add_(image.narrow(dim, 0, size - shift))
            total.narrow(dim, 0, size - shift).add_(image.narrow(dim, shift, size - shift))
        image = total
    return image


def shade(
    albedo: Tensor, normal: Tensor, depth: Tensor, hits: Hits, lamp: Sun, scale: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """Light the hits.

    Args:
        albedo: (m, 3) linear light.
        normal: (m, 3) towards the camera.
        depth: (m,) pixels.
        hits: the m samples.
        lamp: the sun.
        scale: (n,) pixels a metre.
        shape: (n, height, width) of the picture of samples.

    Returns:
        (m, 3) light that reaches the camera, linear.
    """
    n, height, width = shape
    metres = depth / scale[hits.image]
    place = hits.image * (height * width) + hits.pixel
    screen = torch.zeros(n * height * width, 5, device=depth.device)
    screen[place] = torch.cat([normal, metres[:, None], torch.ones_like(metres)[:, None]], -1)
    normal, occlusion = _smoothed(screen.view(n, height, width, 5), normal, metres, hits, width)
    shadow = _contact(screen[:, 3:], metres, hits, lamp, scale, height, width)

    sky, ground, sunlight = (albedo.new_tensor(colour) for colour in (SKY, GROUND, SUN))
    way, sunny = lamp.way[hits.image], lamp.sunny[hits.image][:, None]
    upwards = (normal * lamp.up[hits.image]).sum(-1, keepdim=True)
    ambient = (0.5 + 0.5 * upwards) * sky + 0.55 * (0.5 - 0.5 * upwards) * ground
    direct = ((normal * way).sum(-1) * 0.88 + 0.12).clamp(min=0) * (
        0.25 + 0.75 * shadow
    )  # wrapped a little round the edge
    light = ambient * (occlusion * (0.80 - 0.25 * sunny[:, 0]))[:, None]
    light = light + sunlight * ((direct * (0.5 + 0.5 * occlusion))[:, None] * (0.25 + 1.15 * sunny))
    rim = (1 + normal[:, 2]).clamp(0, 1) ** 3 * 0.05 * occlusion
    glossy = (hits.fabric == Fabric.HAIR) | (hits.fabric == Fabric.SHOE) | (hits.fabric == Fabric.BAG)
    half = _unit(way - way.new_tensor([0, 0, 1.0]))
    gleam = (normal * half).sum(-1).clamp(min=0) ** 18 * shadow * torch.where(glossy, 0.16, 0.035)
    lit = albedo * light + rim[:, None] * sky + gleam[:, None] * (0.3 + sunny)
    skin = ((hits.slot == Slot.SKIN) | (hits.fabric == Fabric.FACE))[:, None]
    warm = lit * lit.new_tensor([1.06, 1.0, 0.97]) + albedo * lit.new_tensor([0.05, 0.02, 0.01])  # light under the skin
    return torch.where(skin, warm, lit)


def _smoothed(screen: Tensor, normal: Tensor, metres: Tensor, hits: Hits, width: int) -> tuple[Tensor, Tensor]:
    """Normals blurred where the depth is continuous (joints melt into each other), and occlusion at two scales."""
    height = screen.shape[1]
    half = screen[:, ::2, ::2] + screen[:, 1::2, ::2] + screen[:, ::2, 1::2] + screen[:, 1::2, 1::2]
    row, column = hits.pixel // width, hits.pixel % width
    near = _box(half, 1).view(-1, 5)[(hits.image * (height // 2) + row // 2) * (width // 2) + column // 2]
    level = near[:, 3] / near[:, 4].clamp(min=1e-4)
    flat = 0.75 * torch.exp(-(((level - metres) / 0.02) ** 2))
    smooth = _unit(normal + flat[:, None] * (_unit(near[:, :3]) - normal))
    coarse = F.avg_pool2d(half[..., 3:].permute(0, 3, 1, 2).contiguous(), 2)
    coarse = F.avg_pool2d(coarse, 5, 1, 2).permute(0, 2, 3, 1)
    rows, columns = coarse.shape[1:3]
    wide = coarse.reshape(-1, 2)[
        (hits.image * rows + (row // 4).clamp(max=rows - 1)) * columns + (column // 4).clamp(max=columns - 1)
    ]
    deep = wide[:, 0] / wide[:, 1].clamp(min=1e-4)
    occlusion = (1 - 3.2 * (metres - deep - 0.012).clamp(0, 0.14)) * (1 - 5.0 * (metres - level - 0.004).clamp(0, 0.06))
    return smooth, occlusion


def _contact(screen: Tensor, metres: Tensor, hits: Hits, lamp: Sun, scale: Tensor, height: int, width: int) -> Tensor:
    """Shadows of a body on itself: three steps towards the sun, and is something in the way there?"""
    way, size = lamp.way[hits.image], scale[hits.image]
    x, y = hits.pixel % width + 0.5, hits.pixel // width + 0.5
    depth = torch.where(screen[:, 1] > 0, screen[:, 0], 1e6)
    shadow = torch.ones_like(metres)
    for step in (0.05, 0.12, 0.28):
        column = (x + way[:, 0] * step * size).long().clamp(0, width - 1)
        line = (y + way[:, 1] * step * size).long().clamp(0, height - 1)
        over = metres + way[:, 2] * step - depth[(hits.image * height + line) * width + column]
        shadow = torch.minimum(shadow, 1 - torch.sigmoid((over - 0.02) / 0.012) * (over < 0.35))
    return shadow
