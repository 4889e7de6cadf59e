"""Choose the rate and the length of preset market_cpu without its test: figures/results/market_cpu.json.

    python tools/length.py --data-root ~/archives    # 6 trainings, about 50 minutes of one core; goes on where it was

Every fifth training identity of Market-1501 is held out and searched for (`records.hold_out`) by the baseline: first
with each rate at the length of the preset, then with other lengths at the rate that won. Seed 100: no reported run has
it.
"""

import argparse
from pathlib import Path
from typing import Any

from reidkit import files, runs
from reidkit.parameters import preset
from reidkit.recipes import baseline

RATES, STEPS = (2.5e-4, 5e-4, 1e-3, 2e-3), (1500, 6000)
RECORD = runs.RESULTS / "market_cpu.json"


def train(*, lr: float, steps: int, data_root: str, seed: int) -> dict[str, Any]:
    """One training without the held-out identities, and what is found among them: fractions, and seconds."""
    result = baseline.run(
        "default",
        preset="market_cpu",
        seed=seed,
        data_root=data_root,
        dataset="market1501_held_out",
        lr=lr,
        steps_per_epoch=steps // preset("02", "market_cpu")["epochs"],
    )
    row = {"lr": lr, "steps": steps, "seed": seed, "code": result.provenance["code"], "seconds": result.seconds}
    row |= {name: round(result.metrics[name], 4) for name in ("mAP", "rank1")}
    return row | {name: result.metrics[name] for name in ("n_query", "n_gallery")}


def main() -> None:
    """Train what is not recorded yet, and say which rate and length won."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="the folder that holds Market-1501")
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    usual, root = preset("02", "market_cpu"), str(Path(arguments.data_root).absolute())
    length = usual["epochs"] * usual["steps_per_epoch"]
    rows = files.read_json(RECORD)["rows"] if RECORD.is_file() else []

    def measure(lr: float, steps: int) -> float:
        wanted = {"lr": lr, "steps": steps, "seed": arguments.seed}
        row = next((row for row in rows if wanted.items() <= row.items()), None)
        if row is None:
            row = train(**wanted, data_root=root)
            rows.append(row)
            files.write_json(RECORD, {"rows": rows, "provenance": runs.provenance(row["code"])})
        print(row, flush=True)
        return row["mAP"]

    best = max(RATES, key=lambda lr: measure(lr, length))
    print(f"the best rate at {length} steps is {best}; now other lengths")
    for steps in STEPS:
        measure(best, steps)


if __name__ == "__main__":
    main()
