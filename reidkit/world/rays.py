"""Rays: which part of a body each sample of the picture sees.

A picture point is warped to (x D/Z, y D/Z, -D log(D/Z)) with D the walker's distance. The warp is conformal at each
part: rays become parallel, so that a part is a quadratic in the depth z of a ray, while heads still grow under a high
camera.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reidkit.world.body import Parts
from reidkit.world.cameras import Pose
from reidkit.world.factors import Factors

EMPTY = 2**31 - 64  # depth key of a sample that sees nobody; its last six bits are free for the number of the part
OFFSET = 2048.0  # added to depths, so that their bits sort like the numbers


class View:
    """How n cameras look at n walkers: directions in body coordinates and distances.

    Args:
        pose: n moments.
        camera_height: (n,) metres.
        aside, behind: (n,) metres by which a companion stands beside and behind the walker who is in the frame.
    """

    def __init__(
        self, pose: Pose, camera_height: Tensor, aside: Tensor | None = None, behind: Tensor | None = None
    ) -> None:
        pitch, yaw = torch.atan((camera_height - 0.9) / pose.distance), torch.deg2rad(pose.yaw)
        self.cos, self.sin = torch.cos(pitch), torch.sin(pitch)
        turn, facing, zero = torch.sin(yaw), torch.cos(yaw), torch.zeros_like(yaw)
        self.right = torch.stack([facing, zero, turn], -1)
        self.down = torch.stack([-turn * self.sin, -self.cos, facing * self.sin], -1)
        self.away = torch.stack([turn * self.cos, -self.sin, -facing * self.cos], -1)
        self.distance = pose.distance / self.cos
        self.aside = zero if aside is None else aside
        self.behind = zero if behind is None else behind

    def turn(self, vectors: Tensor) -> Tensor:
        """Body directions (n, k, 3) to camera directions: right, down, away."""
        axes = (self.right, self.down, self.away)
        return torch.stack([(vectors * axis[:, None]).sum(-1) for axis in axes], -1)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Body points (n, k, 3) to warped picture points in metres, and the scale D/Z there (n, k)."""
        x, y, z = self.turn(points - points.new_tensor([0, 0.9, 0])).unbind(-1)
        x = x + self.aside[:, None]
        y = y - (self.behind * self.sin)[:, None]
        z = z + (self.distance + self.behind * self.cos)[:, None]
        scale = self.distance[:, None] / z.clamp(min=0.5)
        return torch.stack([x * scale, y * scale, -self.distance[:, None] * torch.log(scale)], -1), scale


@dataclass(frozen=True)
class Cast(Factors):
    """The parts as samples see them: affine maps from the picture (pixels, relative to `origin`) to their frames."""

    origin: Tensor  # (n, k, 3) pixels
    matrix: Tensor  # (n, k, 3, 3): (u, v, w) = matrix @ (x, y, z)
    gamma: Tensor  # (n, k)
    delta: Tensor
    low: Tensor
    high: Tensor
    box: Tensor  # (n, k, 4) left, top, right, bottom in pixels
    seen: Tensor  # (n, k) bool: exists and touches the picture


def _outline(parts: Parts, view: View) -> tuple[Tensor, ...]:
    """Projected parts in metres: start, end scale, axes in camera directions, length, box."""
    start, scale = view.project(parts.start)
    end, end_scale = view.project(parts.end)
    along = end - start
    length = along.norm(dim=-1).clamp(min=1e-5)
    axis = along / length[..., None]
    side = view.turn(parts.side)
    side = side - (side * axis).sum(-1, keepdim=True) * axis
    side = side / side.norm(dim=-1, keepdim=True).clamp(min=1e-5)
    forwards = torch.linalg.cross(parts.side, parts.end - parts.start) @ parts.start.new_tensor([0, 0.3, 1.0])
    across = torch.linalg.cross(side, axis) * torch.where(forwards < 0, -1.0, 1.0)[..., None]
    reach = (
        (parts.radius_u[..., None] * side[..., :2]) ** 2 + (parts.radius_v[..., None] * across[..., :2]) ** 2
    ).sqrt() * scale[..., None]
    ball = (reach**2 + (length[..., None] * axis[..., :2]) ** 2).sqrt()
    far = reach * parts.taper[..., None]
    is_round = parts.is_round[..., None] > 0.5
    low = torch.where(is_round, start[..., :2] - ball, torch.minimum(start[..., :2] - reach, end[..., :2] - far))
    high = torch.where(is_round, start[..., :2] + ball, torch.maximum(start[..., :2] + reach, end[..., :2] + far))
    return start, scale, end_scale, side, across, axis, length, low, high


def crop(parts: Parts, view: View, pose: Pose) -> Tensor:
    """Where the detector cuts: centre x, y in metres and the share of the picture's height a metre takes, (n, 3)."""
    *_, low, high = _outline(parts, view)
    missing = (parts.exists < 0.5)[..., None]
    low, high = low.masked_fill(missing, 1e3).amin(1), high.masked_fill(missing, -1e3).amax(1)
    tall = high[:, 1] - low[:, 1]
    centre = (low + high) / 2 + torch.stack([pose.box_x, pose.box_y], -1) * tall[:, None]
    return torch.cat([centre, (1 / (tall * pose.box_scale))[:, None]], -1)


def cast(parts: Parts, view: View, window: Tensor, height: int, width: int) -> Cast:
    """Place the parts on a picture of height x width samples that shows `window` (see `crop`)."""
    start, scale, end_scale, side, across, axis, length, low, high = _outline(parts, view)
    pixels = (window[:, 2] * height)[:, None]
    shift = torch.stack([width / 2 - window[:, 0] * pixels[:, 0], height / 2 - window[:, 1] * pixels[:, 0]], -1)[
        :, None
    ]
    low, high = low * pixels[..., None] + shift, high * pixels[..., None] + shift
    origin = torch.cat([start[..., :2] * pixels[..., None] + shift, start[..., 2:] * pixels[..., None]], -1)
    size = scale * pixels
    rows = (
        side / (parts.radius_u * size)[..., None],
        across / (parts.radius_v * size)[..., None],
        axis / (length * pixels)[..., None],
    )
    gamma = torch.where(parts.is_round > 0.5, 0.0, parts.taper * end_scale / scale - 1)
    inside = (high > 0).all(-1) & (low[..., 0] < width) & (low[..., 1] < height)
    limit = torch.tensor([width - 1, height - 1], device=low.device)
    box = torch.cat(
        [torch.minimum(low.floor().clamp(min=0), limit), torch.minimum(high.ceil().clamp(min=0), limit)], -1
    )
    return Cast(
        origin,
        torch.stack(rows, 2),
        gamma,
        parts.is_round - gamma**2,
        parts.low,
        parts.high,
        box.long(),
        inside & (parts.exists > 0.5),
    )


def _depth(
    reach: Tensor, root: Tensor, w: Tensor, slope: Tensor, low: Tensor | float, high: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The nearest point of a part on its ray, and whether there is one.

    The surface is met at z = -reach ∓ root. If that lies outside the slab, the ray goes on to the slab's plane, and
    hits the flat end if it is still inside the body there.
    """
    near = -reach - root
    w_near = w + slope * near
    held = (
        torch.minimum(torch.maximum(w_near, torch.as_tensor(low)), torch.as_tensor(high))
        if torch.is_tensor(low)
        else w_near.clamp(low, high)
    )
    depth = near + (held - w_near) / slope
    return depth, (depth >= near) & (depth <= root - reach)


def _quadratic(rays: Cast) -> dict[str, Tensor]:
    """Per part, the coefficients of the ray equation z² + 2 B z + C = 0 over the picture: B affine, B²-C quadratic."""
    (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = (row.unbind(-1) for row in rays.matrix.unbind(-2))
    gamma, delta = rays.gamma, rays.delta
    a = (uz * uz + vz * vz + delta * wz * wz).clamp(min=1e-9)
    bx = (ux * uz + vx * vz + delta * wx * wz) / a
    by = (uy * uz + vy * vz + delta * wy * wz) / a
    b = -gamma * wz / a
    return dict(
        bx=bx,
        by=by,
        b=b,
        xx=bx * bx - (ux * ux + vx * vx + delta * wx * wx) / a,
        xy=2 * (bx * by - (ux * uy + vx * vy + delta * wx * wy) / a),
        yy=by * by - (uy * uy + vy * vy + delta * wy * wy) / a,
        x=2 * (bx * b + gamma * wx / a),
        y=2 * (by * b + gamma * wy / a),
        one=b * b + 1 / a,
        wx=wx,
        wy=wy,
        wz=torch.where(wz.abs() < 1e-9, 1e-9, wz),
    )


def trace(rays: Cast, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find what every sample sees.

    Each part casts rays only inside its box on the picture. A depth and the part's number share one integer: the bits
    of a positive float sort like the float, and its last six bits (1/64 pixel at most) hold the number.

    Returns:
        For the m samples that see somebody: image, pixel, part (int64), depth in pixels.
    """
    n = len(rays)
    device, form = rays.gamma.device, _quadratic(rays)
    keys = torch.full((n * height * width,), EMPTY, dtype=torch.int32, device=device)
    left, top, right, bottom = rays.box.unbind(-1)
    extent = torch.stack(
        [
            torch.where(rays.seen, right - left + 1, 0).amax(0),
            torch.where(rays.seen, bottom - top + 1, 0).amax(0),
            rays.seen.sum(0),
        ]
    )
    slabs = torch.stack([rays.low[0], rays.high[0]], 1).tolist()  # the same in all bodies
    for part, ((wide, tall, visible), (low, high)) in enumerate(zip(extent.T.tolist(), slabs, strict=True)):
        if not visible:
            continue
        who = rays.seen[:, part].nonzero()[:, 0]
        columns = left[who, part].clamp(max=width - wide)[:, None] + torch.arange(wide, device=device)
        lines = top[who, part].clamp(max=height - tall)[:, None] + torch.arange(tall, device=device)
        x = columns + (0.5 - rays.origin[who, part, :1])
        y = lines + (0.5 - rays.origin[who, part, 1:2])
        f = {name: value[who, part, None] for name, value in form.items()}
        inside = (f["one"] + (f["x"] + f["xx"] * x) * x)[:, None, :] + ((f["y"] + f["yy"] * y) * y)[:, :, None]
        inside = inside.addcmul((f["xy"] * y)[:, :, None], x[:, None, :])
        root = inside.clamp(min=0).sqrt_()
        reach = (f["b"] + f["bx"] * x)[:, None, :] + (f["by"] * y)[:, :, None]
        met = inside > 0
        if low < -1:
            depth = -reach - root
        else:
            w = (f["wx"] * x)[:, None, :] + (f["wy"] * y)[:, :, None]
            depth, ends = _depth(reach, root, w, f["wz"][..., None], low, high)
            met &= ends
        bits = (depth + (rays.origin[who, part, 2] + OFFSET)[:, None, None]).view(torch.int32) & -64 | part
        where = ((who * height)[:, None, None] + lines[:, :, None]) * width + columns[:, None, :]
        where = where.flatten()
        keys[where] = torch.minimum(keys[where], torch.where(met, bits, EMPTY).flatten())
    where = (keys != EMPTY).nonzero()[:, 0]
    image, pixel, part = where // (height * width), where % (height * width), (keys[where] & 63).long()
    return image, pixel, part, _exact(rays, form, image, pixel, part, width)


def _exact(rays: Cast, form: dict[str, Tensor], image: Tensor, pixel: Tensor, part: Tensor, width: int) -> Tensor:
    """The depth of the samples once more, now that the part is known, with all its bits."""
    columns = [*form.values(), rays.low, rays.high, *rays.origin.unbind(-1)]
    *values, low, high, left, top, deep = pick(columns, image * rays.gamma.shape[1] + part)
    f = dict(zip(form, values, strict=True))
    x, y = pixel % width + 0.5 - left, pixel // width + 0.5 - top
    inside = f["one"] + (f["x"] + f["xx"] * x) * x + (f["y"] + f["yy"] * y + f["xy"] * x) * y
    reach = f["b"] + f["bx"] * x + f["by"] * y
    depth, _ = _depth(reach, inside.clamp(min=0).sqrt(), f["wx"] * x + f["wy"] * y, f["wz"], low, high)
    return depth + deep


def pick(columns: list[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
    """Take the same rows of several (n, k) columns, flattened; in one pass over the memory."""
    table = torch.stack([column.flatten().float() for column in columns], -1)
    return table[rows].T.contiguous().unbind(0)
