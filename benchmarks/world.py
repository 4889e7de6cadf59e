"""How fast are people drawn? Images a second of one process with one thread, at the sizes of the presets.

    python benchmarks/world.py [--device cuda]      # prints the table and writes benchmarks/world.<device>.json

Sizes and supersamplings take turns in one run, five rounds; a row gives the median and the range, and its ratio to
128x64 images with 1.5 x 1.5 samples a pixel. Factors, companions, occluders and the sensor are included, JPEG
files are not.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from reidkit import files, runs
from reidkit.world.city import CHUNK, Plan, moments, network, people, roster
from reidkit.world.render import render

CASES = [(64, 1), (64, 2), (128, 1), (128, 1.5), (256, 1), (256, 1.5)]  # height, samples a pixel and axis
BASE = (128, 1.5)


def rate(plan: Plan, cameras, height: int, samples: float, device: str, first: int) -> float:
    """Images a second of one chunk."""
    count = max(8, CHUNK[device] // (height * height // 2))
    rows = roster(plan)[first : first + count]
    start = time.perf_counter()
    person, pose = people(plan, np.array([row.key for row in rows])), moments(plan, rows, cameras.to("cpu"))
    second = people(plan, pose.companion_pid.numpy())
    size = (height, height // 2)
    render(person.to(device), pose.to(device), cameras, size, companion=second.to(device), supersampling=samples).cpu()
    return len(rows) / (time.perf_counter() - start)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    torch.set_num_threads(1)
    plan = Plan("market", "tiny", 0)
    cameras = network(plan).to(device)
    rates = {case: [] for case in CASES}
    for turn in range(6):
        for case in CASES:
            speed = rate(plan, cameras, *case, device, 40 * turn)
            if turn:  # the first round warms up
                rates[case].append(speed)
    base = statistics.median(rates[BASE])
    table = [
        {
            "size": f"{height}x{height // 2}",
            "samples": samples,
            "images_per_second": round(statistics.median(values), 1),
            "range": [round(min(values), 1), round(max(values), 1)],
            "ratio": round(statistics.median(values) / base, 2),
        }
        for (height, samples), values in rates.items()
    ]
    for row in table:
        print("{size:>8}  samples {samples:<3}  {images_per_second:8} images/s  {range}  ratio {ratio}".format(**row))
    record = {"device": device, "threads": 1, "table": table, "provenance": runs.provenance()}
    files.write_json(Path(__file__).with_name(f"world.{device}.json"), record)


if __name__ == "__main__":
    main()
