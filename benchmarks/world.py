"""Drawing people, in images a second of one core.

    python benchmarks/world.py [--quick] [--device cuda]

Factors, companions, occluders and the sensor are included, JPEG files are not. Samples are a pixel's, along each axis.
"""

from functools import partial

import harness
import numpy as np

from reidkit.world.city import CHUNK, Plan, moments, network, people, roster
from reidkit.world.render import render

SIZES = {"64x32": (64, 2), "128x64": (128, 1.5), "128x64_plain": (128, 1), "256x128": (256, 1.5)}
BARS = {("128x64", "cpu"): 80, ("128x64", "cuda"): 2_000}


def drawing(options: harness.Options, name: str) -> harness.Row:
    """A row: one chunk of images of one size."""
    height, samples = SIZES[name]
    plan = Plan("market", "tiny", 0)
    cameras = network(plan)
    count = 8 if options.quick else max(8, CHUNK[options.device] // (height * height // 2))
    rows = roster(plan)[:count]

    def draw() -> None:
        person, pose = people(plan, np.array([row.key for row in rows])), moments(plan, rows, cameras)
        second = people(plan, pose.companion_pid.numpy())
        scene = (part.to(options.device) for part in (person, pose, cameras))
        size, companion = (height, height // 2), second.to(options.device)
        render(*scene, size, companion=companion, supersampling=samples).cpu()

    bar = BARS.get((name, options.device))
    title = f"{height}x{height // 2}, {samples} x {samples} samples"
    return harness.Row(title, {"reidkit": draw}, bars={"a second": bar} if bar else {}, items=len(rows))


ROWS = {name: partial(drawing, name=name) for name in SIZES}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
