"""Backgrounds and occluders: one painted scene per camera, and things between camera and walker."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reidkit.world.cameras import Occluder
from reidkit.world.chance import Dice
from reidkit.world.wardrobe import linear

HEIGHT, WIDTH = 320, 640  # pixels of a painted scene
FOCAL = 440.0  # pixels; a person of 1.75 m at 10 m is 77 pixels tall in the scene
HORIZON = 62  # row of the horizon

GROUND = linear("96928c", "78787a", "b0a494", "687064", "8c7868")
WALLS = linear("b09682", "969aa0", "c4beb2", "805c4c", "6c7480", "c8c4be")
TUBES = [  # of a bicycle, in radii of its wheels from where the rear one stands: rear, seat, front, handlebar
    ((0, 1), (1.4, 1)),
    ((0, 1), (1.1, 2.4)),
    ((1.4, 1), (1.0, 2.8)),
    ((1.1, 2.4), (2.7, 2.5)),
    ((1.4, 1), (2.7, 2.3)),
    ((3.1, 1), (2.6, 3.0)),
    ((2.4, 3.1), (2.9, 3.2)),
]
GRASS, LEAVES, GLASS, SKIN = linear("56783a", "3a5c30", "46566a", "be967d")


class Canvas:
    """A scene being painted: pixel coordinates, ground coordinates in metres, and dice."""

    def __init__(self, key: tuple[int, ...], camera_height: float, detail: int = 1) -> None:
        self.dice = Dice(*key, 7_000_004)
        self.noise = np.random.Generator(np.random.PCG64([abs(k) for k in key]))
        self.detail, self.shape = detail, (HEIGHT * detail, WIDTH * detail)  # samples a pixel and axis
        self.y, self.x = np.mgrid[0 : self.shape[0], 0 : self.shape[1]].astype(np.float32) / detail
        self.camera_height = camera_height
        self.depth = FOCAL * camera_height / np.maximum(self.y - HORIZON, 1.0)  # metres away, of the ground
        self.side = (self.x - WIDTH / 2) / FOCAL * self.depth  # metres across
        self.image = np.zeros((*self.shape, 3), np.float32)

    def row(self, depth: float) -> float:
        """The picture row of the ground at `depth` metres."""
        return HORIZON + FOCAL * self.camera_height / depth

    def clouds(self, cells: int, octaves: int = 5) -> np.ndarray:
        """Smooth noise in [0, 1]: bilinear grids of growing fineness."""
        total, weight = np.zeros(self.shape, np.float32), 0.0
        for octave in range(octaves):
            rows = min(HEIGHT, cells * 2**octave)
            grid = torch.from_numpy(self.noise.random((1, 1, rows, min(WIDTH, 2 * rows)), dtype=np.float32))
            total += 0.55**octave * F.interpolate(grid, self.shape, mode="bilinear", align_corners=True)[0, 0].numpy()
            weight += 0.55**octave
        return total / weight

    def paint(self, where: np.ndarray, colours: np.ndarray) -> None:
        """Lay a picture of colours where the mask holds."""
        self.image[where] = colours[where]

    def window(self, left: float, top: float, right: float, foot: float) -> tuple[slice, slice]:
        """The samples of a box given in pixels."""
        (top, foot), (left, right) = (
            [int(np.clip(at, 0, most) * self.detail) for at in (low, high + 1)]
            for low, high, most in ((top, foot, HEIGHT), (left, right, WIDTH))
        )
        return np.s_[top:foot, left:right]

    def oval(
        self,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        colour: np.ndarray,
        *,
        power: int = 2,
        sheen: float = 0.0,
    ) -> None:
        """Paint an oval (power 2) or a rounded block (power 4); with `sheen` its top is lighter than its foot."""
        window = self.window(x - half_width, y - half_height, x + half_width, y + half_height)
        across, down = (self.x[window] - x) / half_width, (self.y[window] - y) / half_height
        inside = np.abs(across) ** power + np.abs(down) ** power < 1
        light = 1 + sheen * (0.4 - 0.5 * (down + 1) / 2)
        self.image[window][inside] = (colour * light[..., None])[inside]


def paint(key: tuple[int, ...], camera_height: float, clutter: float = 0.0) -> Tensor:
    """Paint the scene of one camera.

    Args:
        key: numbers that decide everything (the city's seed and the camera).
        camera_height: metres; with the focal length it fixes the perspective of the ground.
        clutter: 0 is an open place. Up to 1, walls come nearer, and rows of bicycles, dark entrances and more people
            stand before them; with any, the scene is painted twice as finely.

    Returns:
        (3, 320, 640) or (3, 640, 1280) float32, linear light, to about 1.2.
    """
    canvas = Canvas(key, camera_height, 2 if clutter else 1)
    depth = float(canvas.dice.uniform("wall depth", 26, 48)) * (1 - 0.55 * clutter)
    foot = canvas.row(depth)  # where the wall meets the ground
    _wall(canvas, foot)
    _hedge(canvas, foot)
    _ground(canvas, foot, clutter)
    _stalls(canvas)
    _passers_by(canvas, 10 + 30 * clutter, 14 - 6 * clutter)
    if clutter:
        _entrance(canvas, foot)
        for i in range(3):
            _bicycles(canvas, depth, 50 * clutter, 200 * (i + 1))
        canvas.image += 0.6 * clutter * (canvas.image.mean(2, keepdims=True) - canvas.image)  # dust and concrete
    picture = torch.from_numpy(canvas.image).permute(2, 0, 1)[None]
    tap = torch.tensor([0.25, 0.5, 0.25])
    kernel = (tap[:, None] * tap)[None, None].repeat(3, 1, 1, 1)
    return F.conv2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)[0].clamp(0, 1.2)


def _cells(x: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each cell of a lattice."""
    return np.abs(np.sin(x) * 43758.5) % 1


def _ground(canvas: Canvas, foot: float, clutter: float) -> None:
    dice, side, depth = canvas.dice, canvas.side, canvas.depth
    grain = canvas.clouds(16, 6)
    ground = GROUND[int(dice.uniform("ground") * len(GROUND))] * (0.75 + 0.5 * grain[..., None])
    tile = float(dice.uniform("tile", 0.6, 1.4)) * (1 - 0.7 * clutter)
    kind = int(dice.uniform("ground kind") * 4)
    if kind == 0:  # paving with joints, each stone its own grey
        stone = np.floor(side / tile) * 12.9 + np.floor(depth / tile) * 78.2
        joint = np.minimum(*(1 - np.abs((c / tile) % 1 * 2 - 1) for c in (side, depth))) < 0.10
        ground = ground * ((1 - 0.3 * joint) * (0.86 + 0.28 * _cells(stone)))[..., None]
    elif kind == 1:  # asphalt with a broken line
        line = (np.abs(side - float(dice.uniform("line", -2, 2))) < 0.08) & (depth % 3 < 1.7)
        ground = np.where(line[..., None], 0.65, ground * 0.7)
    elif kind == 2:  # a path through grass
        width = float(dice.uniform("path", 1.6, 3.1))
        path = np.abs(side - 0.4 * np.sin(depth * 0.5)) < width + 0.3 * (grain - 0.5)
        ground = np.where(path[..., None], ground, GRASS * (0.5 + grain[..., None]))
    else:  # tiles in two greys
        ground = ground * (0.8 + 0.35 * ((np.floor(side / tile) + np.floor(depth / tile)) % 2))[..., None]
    below = canvas.y > foot
    contact = 1 - 0.35 * np.exp(-np.maximum(canvas.y - foot, 0) / 5)
    canvas.paint(below, ground * (1 + 0.4 * clutter) * contact[..., None])


def _wall(canvas: Canvas, foot: float) -> None:
    dice, x, y = canvas.dice, canvas.x, canvas.y
    wall = WALLS[int(dice.uniform("wall") * len(WALLS))] * (0.85 + 0.3 * canvas.clouds(4)[..., None])
    across, up = float(dice.uniform("window width", 16, 42)), float(dice.uniform("storey", 14, 28))
    column, storey = (x + float(dice.uniform("window shift", 0, 40))) / across, (foot - y) / up
    u, v = column % 1, storey % 1
    kind = int(dice.uniform("wall kind") * 3)
    if kind == 0:  # single windows
        window = (np.abs(u - 0.5) < 0.3) & (np.abs(v - 0.55) < 0.28)
    elif kind == 1:  # bands of glass
        window = (np.abs(u - 0.5) < 0.44) & (v > 0.35)
    else:  # brick with small windows
        course = np.floor(y / 3.5)
        joint = (np.abs(((x + course % 2 * 3.5) / 7) % 1 - 0.5) > 0.44) | (y / 3.5 % 1 > 0.78)
        wall = wall * (1 - 0.25 * joint[..., None])
        window = (np.abs(u - 0.5) < 0.18) & (np.abs(v - 0.5) < 0.3)
    lit = _cells(np.floor(column) * 91.7 + np.floor(storey) * 17.3)
    canvas.image = np.where(window[..., None], GLASS * (0.4 + 1.5 * lit[..., None]), wall).astype(np.float32)


def _hedge(canvas: Canvas, foot: float) -> None:
    """Bushes and low trees at the foot of the wall."""
    if not canvas.dice.coin("hedge", 0.75):
        return
    outline = canvas.clouds(6)
    tall = float(canvas.dice.uniform("hedge height", 6, 32))
    top = foot - tall * (0.4 + 1.2 * outline[len(outline) // 2]) + 3
    grows = outline[len(outline) // 3] > 0.42 + 0.1 * float(canvas.dice.uniform("hedge gaps"))
    leaves = LEAVES * (0.3 + 1.5 * canvas.clouds(24, 6)[..., None])
    low = 1 - 0.5 * np.clip((canvas.y - top) / tall, 0, 1)
    canvas.paint((canvas.y > top) & (canvas.y < foot + 2) & grows, leaves * low[..., None])


def _stalls(canvas: Canvas) -> None:
    """Parked cars and stalls: faded blocks with a dark band of glass and a shadow under them."""
    for i in range(int(canvas.dice.uniform("stalls", 1, 5))):
        dice = Dice(*canvas.dice.keys, i)
        x, depth = float(dice.uniform("stall x", 0, WIDTH)), float(dice.uniform("stall depth", 16, 30))
        foot, scale = canvas.row(depth), FOCAL / depth
        wide, tall = (
            scale * float(dice.uniform("stall width", 1.2, 3.6)),
            scale * float(dice.uniform("stall height", 1.0, 1.6)),
        )
        grey = dice.uniform("stall grey", 50, 200) + dice.uniform("stall hue", -20, 20) * np.array([1, 0.7, -1])
        paintwork = (np.clip(grey, 10, 230) / 255) ** 2.2
        canvas.oval(x, foot, wide * 1.05, 2, np.full(3, 0.04), power=4)
        canvas.oval(x, foot - tall * 0.55, wide, tall * 0.55, paintwork, power=4, sheen=0.6)
        canvas.oval(x, foot - tall * 0.82, wide * 0.7, tall * 0.18, GLASS * 0.8, power=4)


def _passers_by(canvas: Canvas, most: float, nearest: float) -> None:
    """People far away: three ovals each are enough at their size."""
    for i in range(int(canvas.dice.uniform("passers-by", 0, most))):
        dice = Dice(*canvas.dice.keys, 100 + i)
        x, depth = float(dice.uniform("passer x", 0, WIDTH)), float(dice.uniform("passer depth", nearest, 30))
        foot, scale = canvas.row(depth), FOCAL / depth
        grey = float(dice.uniform("passer grey", 40, 190))
        top = (np.clip(grey + dice.normals("passer hue", 3, 22), 8, 240) / 255) ** 2.2
        legs = np.full(3, (float(dice.uniform("passer legs", 30, 100)) / 255) ** 2.2)
        for rise, wide, tall, colour in ((0.42, 0.16, 0.46, legs), (1.12, 0.22, 0.36, top), (1.58, 0.10, 0.13, SKIN)):
            canvas.oval(x, foot - scale * rise, scale * wide, scale * tall, colour * 0.8)


def _entrance(canvas: Canvas, foot: float) -> None:
    """A dark gate or shop front, in one scene of three."""
    dice, x = canvas.dice, canvas.x
    if dice.coin("entrance", 0.33):
        middle, half = float(dice.uniform("entrance x", 0, WIDTH)), float(dice.uniform("entrance width", 60, 320))
        inside = (np.abs(x - middle) < half) & (canvas.y < foot + float(dice.uniform("entrance floor", 0, 60)))
        canvas.image[inside] *= float(dice.uniform("entrance light", 0.02, 0.25))


def _bicycles(canvas: Canvas, wall: float, most: float, key: int) -> None:
    """A row of parked bicycles: two wheels, and tubes between them, often dark, some bright."""
    row = Dice(*canvas.dice.keys, key)
    depth, left, pitch = (
        float(row.uniform("depth", 0.4, 1)) * wall,
        float(row.uniform("left", -0.3, 0.8)) * WIDTH,
        float(row.uniform("pitch", 0.3, 0.9)),
    )
    for i in range(int(row.uniform("bicycles", 0, most))):
        dice = Dice(*canvas.dice.keys, key + 1 + i)
        away = depth * float(dice.uniform("away", 0.92, 1.08))
        scale, foot = FOCAL / away, canvas.row(away)
        x, wheel = left + i * pitch * FOCAL / depth, 0.33 * scale
        paintwork = (dice.uniform("grey", 0.05, 0.5) + dice.normals("hue", 3, 0.08)).clip(0.02, 0.9) ** 2.2
        window = canvas.window(x - wheel, foot - 3.4 * wheel, x + 4.2 * wheel, foot)
        across, down = (canvas.x[window] - x) / wheel, (foot - canvas.y[window]) / wheel
        line = 0.10 + 0.5 / scale
        for middle in (0.0, 3.1):
            tyre = np.abs(np.hypot(across - middle, down - 1) - 0.93) < line
            canvas.image[window][tyre] = 0.012
        for (x0, y0), (x1, y1) in TUBES:
            long, high = x1 - x0, y1 - y0
            share = (((across - x0) * long + (down - y0) * high) / (long**2 + high**2)).clip(0, 1)
            tube = np.hypot(across - x0 - share * long, down - y0 - share * high) < line
            canvas.image[window][tube] = paintwork


# ---------------------------------------------------------------------------------------------- things in front
def occluders(kind: Tensor, x: Tensor, size: Tensor, colour: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw a pole, a bush, a bicycle or a railing in front of each image.

    Args:
        kind: (n,) Occluder.
        x, size: (n,) place across and size, 0 to 1.
        colour: (n, 3) in [0, 1]; it is made dark and faded, since bright things look like errors.
        height, width: pixels.

    Returns:
        Colour (n, 3, height, width) in linear light, and cover (n, 1, height, width) in [0, 1].
    """
    device = kind.device
    rows = ((torch.arange(height, device=device) + 0.5) / height)[None, :, None]
    columns = ((torch.arange(width, device=device) + 0.5) / width)[None, None]
    cover = torch.zeros(len(kind), height, width, device=device)
    shade = torch.ones_like(cover)
    dark = colour**2 * 0.28 + 0.015
    grey = dark.mean(1, keepdim=True)
    paintwork = grey + 0.3 * (dark - grey)
    drawers = {Occluder.POLE: _pole, Occluder.BUSH: _bush, Occluder.BICYCLE: _bicycle, Occluder.RAILING: _railing}
    for what, draw in drawers.items():
        mine = (kind == what).nonzero()[:, 0]
        if len(mine):
            inside, light = draw(rows, columns, x[mine, None, None], size[mine, None, None])
            cover[mine] = torch.sigmoid(inside * height * 1.2).expand(-1, height, width)
            shade[mine] = light.expand(len(mine), height, width)
            if what == Occluder.BUSH:
                paintwork[mine] = torch.from_numpy(LEAVES).to(device) * (0.6 + colour[mine])
    return paintwork[:, :, None, None] * shade[:, None], cover[:, None]


# Each returns how far inside the thing a pixel lies (in picture heights, > 0 inside) and its light.
# A picture is half as wide as high, so distances across are halved.
def _pole(y: Tensor, x: Tensor, at: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    radius = 0.018 + 0.036 * size
    off = (x - (0.12 + 0.76 * at)) * 0.5 + 0 * y
    return radius - off.abs(), 0.55 + 0.6 * torch.cos((off / radius * 0.6).clamp(-1.5, 1.5))


def _bush(y: Tensor, x: Tensor, at: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    top = 0.62 + 0.22 * size + 0.03 * torch.sin(x * 23 + at * 30) + 0.02 * torch.sin(x * 57 + size * 40)
    leaf = torch.sin(x * 41 + 6 * torch.sin(y * 37 + at * 9)) * torch.sin(y * 83 + 5 * torch.sin(x * 29 + size * 7))
    return y - top, 0.75 + 0.45 * leaf + 0.5 * (top - y)


def _bicycle(y: Tensor, x: Tensor, at: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    hub = -0.1 + 1.2 * at

    def wheel(shift: float) -> Tensor:
        return 0.016 - ((((x - hub - shift) * 0.5) ** 2 + (y - 0.86) ** 2).sqrt() - 0.115).abs()

    def tube(x0: float, y0: float, x1: float, y1: float) -> Tensor:
        dx, dy = (x1 - x0) * 0.5, y1 - y0
        along = (((x - hub - x0) * 0.5 * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        return 0.012 - (((x - hub - x0) * 0.5 - along * dx) ** 2 + (y - y0 - along * dy) ** 2).sqrt()

    frame = [(0, 0.86, 0.2, 0.7), (0.2, 0.7, 0.46, 0.7), (0.2, 0.7, 0.28, 0.86), (0.28, 0.86, 0.46, 0.7)]
    inside = torch.maximum(wheel(0), wheel(0.56))
    for ends in [*frame, (0.56, 0.86, 0.46, 0.64), (0.40, 0.63, 0.50, 0.66)]:
        inside = torch.maximum(inside, tube(*ends))
    return inside, torch.ones_like(inside)


def _railing(y: Tensor, x: Tensor, at: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    top = 0.5 + 0.28 * size
    rails = torch.maximum(0.012 - (y - top).abs(), 0.010 - (y - top - 0.16).abs())
    bars = 0.010 - (((x + at) * 2.2) % 1 - 0.5).abs() * 0.5 / 2.2 - (y < top).float()
    inside = torch.maximum(rails + 0 * x, bars)
    return inside, torch.ones_like(inside)
