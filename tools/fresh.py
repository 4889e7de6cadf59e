"""Do what a stranger does, in a new directory, and record how long it takes in figures/results/fresh.json.

python tools/fresh.py            # clones what is committed; needs git, make and Python, like the stranger
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reidkit import files

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"installation": ".venv/.ready", "course": "course", "test": "test"}  # what is timed, and its make target


def main() -> int:
    """Clone, install, run the course and the tests; stop at the first that fails."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        for step, target in STEPS.items():
            start = time.perf_counter()
            if subprocess.run(["make", target], cwd=folder, stdin=subprocess.DEVNULL).returncode:
                print(f"make {target} failed in a fresh clone", file=sys.stderr)
                return 1
            seconds[step] = round(time.perf_counter() - start)
            print(f"{step}: {seconds[step]} s", flush=True)
    files.write_json(ROOT / "figures" / "results" / "fresh.json", {"cpus": os.cpu_count(), "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
