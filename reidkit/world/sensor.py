"""From light to pixels: a camera's colour, tone, blur, resolution and noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reidkit.world.cameras import Cameras, Pose

GREY = 0.45  # where contrast turns, of a range of 1
LEVELS = (1.0, 0.75, 0.55, 0.40, 0.30)  # resolutions a sensor can have, against the size of the picture


def develop(light: Tensor, pose: Pose, cameras: Cameras) -> Tensor:
    """Turn light into the picture that the camera stores.

    Args:
        light: (n, 3, h, w) linear.
        pose: the n moments.
        cameras: the network.

    Returns:
        (n, 3, h, w) uint8.
    """
    picture = _tone(light, pose, cameras)
    picture = _motion(picture, pose.blur)
    picture = _resolve(picture, pose, cameras.noise[pose.camid])
    picture = _sharpen(picture, cameras.sharpening[pose.camid, None, None, None])
    return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def _tone(light: Tensor, pose: Pose, cameras: Cameras) -> Tensor:
    """Colour of the light and of the filters, haze, a soft shoulder, saturation, gamma."""
    own = cameras.tint[pose.camid] * pose.exposure[:, None]
    warm = torch.stack([1 + pose.temperature, torch.ones_like(pose.temperature), 1 - pose.temperature], -1)
    red, green, blue = (light * (own * warm)[:, :, None, None]).unbind(1)
    mixing = cameras.mixing[pose.camid][..., None, None]
    x = torch.stack(
        [mixing[:, i, 0] * red + mixing[:, i, 1] * green + mixing[:, i, 2] * blue for i in range(3)], 1
    ).clamp(min=0)
    fog = cameras.fog[pose.camid, None, None, None]
    x = x * (1 - fog) + 0.7 * fog
    x = 1.25 * x * (1 + 0.18 * x) / (1 + 0.62 * x)
    grey = ((x[:, 0] + x[:, 1] + x[:, 2]) / 3)[:, None]
    x = (grey + (x - grey) * cameras.saturation[pose.camid, None, None, None]).clamp(1e-5, 1)
    x = x ** (cameras.gamma[pose.camid, None, None, None] / 2.2)
    return (x + (cameras.contrast[pose.camid, None, None, None] - 1) * (x - GREY)).clamp(0, 1)


def _sharpen(picture: Tensor, amount: Tensor) -> Tensor:
    """Add what differs from the neighbours once more, as cameras do; it leaves bright rims."""
    if not bool((amount > 0).any()):
        return picture
    blurred = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return picture + amount * (picture - blurred)


def _motion(picture: Tensor, blur: Tensor) -> Tensor:
    """Five exposures along a short, nearly horizontal way."""
    rows = (blur > 0).nonzero()[:, 0]
    if not len(rows):
        return picture
    moving, (height, width) = picture[rows], picture.shape[2:]
    length = blur[rows] * height / 128 * 0.5
    total = torch.zeros_like(moving)
    for step in (-1.0, -0.5, 0.0, 0.5, 1.0):
        shift = torch.zeros(len(rows), 2, 3, device=picture.device)
        shift[:, 0, 0] = shift[:, 1, 1] = 1
        shift[:, 0, 2], shift[:, 1, 2] = step * length * 2 / width, 0.15 * step * length * 2 / height
        grid = F.affine_grid(shift, list(moving.shape), align_corners=False)
        total += F.grid_sample(moving, grid, padding_mode="border", align_corners=False)
    picture = picture.clone()
    picture[rows] = total / 5
    return picture


def _resolve(picture: Tensor, pose: Pose, noise: Tensor) -> Tensor:
    """Sample at the resolution the sensor has at that distance, add its noise, and enlarge as the detector does."""
    height, width = picture.shape[2:]
    level = ((pose.native / height)[:, None] - picture.new_tensor(LEVELS)).abs().argmin(1)
    grain = _grain(pose.noise_key, height, width) * noise[:, None, None, None]
    result = picture + grain
    for i, scale in enumerate(LEVELS[1:], 1):
        rows = (level == i).nonzero()[:, 0]
        if len(rows):
            small = round(height * scale), round(width * scale)
            coarse = F.interpolate(picture[rows], small, mode="bilinear", antialias=True, align_corners=False)
            coarse = coarse + grain[rows, :, : small[0], : small[1]]
            result[rows] = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return result


def _grain(keys: Tensor, height: int, width: int) -> Tensor:
    """Nearly normal noise of unit variance that is a pure function of key and pixel, on any device.

    A 32-bit hash of both gives four bytes; their sum is close to normal (mean 510, variance 4 · 5461.25).
    """
    pixel = torch.arange(3 * height * width, dtype=torch.int32, device=keys.device) * -1640531527
    state = keys.to(torch.int32)[:, None] ^ pixel
    for multiplier in (73244475, 73244475, -1028477387):
        state = ((state >> 16) & 0xFFFF ^ state) * multiplier
    state = (state >> 16) & 0xFFFF ^ state
    total = (state & 255) + ((state >> 8) & 255) + ((state >> 16) & 255) + ((state >> 24) & 255)
    return ((total - 510).float() / 147.8).view(len(keys), 3, height, width)
