"""How hard is the world? Measure cities of given seeds and record the numbers in figures/results/world.<preset>.json.

    python tools/difficulty.py --seeds 0 1 2            # the report; knobs were tuned on seeds 100, 101 and 102

For each city: rank-1 and mAP of a colour histogram (striped, hue x saturation x value), of the small net before
training, and of the small net after the preset's 500 steps of the baseline.
"""

import argparse
import time
from statistics import mean

from reidkit import files, runs
from reidkit.embed import colour_histogram
from reidkit.recipes import baseline, supervised


def measure_city(preset: str, seed: int, precision: str) -> dict[str, dict[str, float]]:
    """Fractions of the three ways to search one city."""
    start = time.perf_counter()
    names = {"untrained": "untrained", "small net": "default"}
    results = {
        name: baseline.run(variant, preset=preset, seed=seed, city_seed=seed, precision=precision)
        for name, variant in names.items()
    }
    data = results["untrained"].objects["data"]
    _, histogram = supervised.measure(colour_histogram(data.query), colour_histogram(data.gallery))
    rows = {"colour histogram": histogram} | {name: result.metrics for name, result in results.items()}
    print(
        f"city {seed}: " + ", ".join(f"{name} {row['rank1']:.1%} / {row['mAP']:.1%}" for name, row in rows.items()),
        flush=True,
    )
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    return {name: {key: row[key] for key in ("rank1", "mAP", "n_query", "n_gallery")} for name, row in rows.items()}


def main() -> None:
    """Measure the cities asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    cities = {seed: measure_city(arguments.preset, seed, arguments.precision) for seed in arguments.seeds}
    means = {
        name: {key: mean(city[name][key] for city in cities.values()) for key in ("rank1", "mAP")}
        for name in next(iter(cities.values()))
    }
    for name, row in means.items():
        print(f"{name:20} rank-1 {row['rank1']:.1%}  mAP {row['mAP']:.1%}")
    if not arguments.dry:
        made = {"preset": arguments.preset, "provenance": runs.provenance(runs.digest("02"))}
        files.write_json(runs.RESULTS / f"world.{arguments.preset}.json", made | {"cities": cities, "mean": means})


if __name__ == "__main__":
    main()
