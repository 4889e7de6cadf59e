"""Do what a stranger does, in a new directory, and record times and answers in figures/results/fresh.json.

python tools/fresh.py            # clones what is committed; needs git, make and Python, like the stranger

First what README asks for, then the tests, then what people try: a parameter, a misspelt one, a folder that is not
there, a broken image. JupyterLab is stepped through by `make test-browser`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reidkit import files

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"installation": ".venv/.ready", "course": "course", "test": "test"}  # what is timed, and its make target
BROKEN = "build/broken"  # a data root whose Market-1501 has an image that was cut short
FRONT_DOOR = {  # what is tried: command, exit code, what its last line says
    "a changed parameter": ("reidkit run 03 -p radius 0.5", 0, r"done in"),
    "a misspelt parameter": ("reidkit run 03 -p raduis 0.5", 1, r"raduis is not a parameter .* nearest is radius\."),
    "a missing folder": ("reidkit run 03 --preset market1501 -p data_root no/such", 1, r"no/such.* does not exist"),
    "a broken image": (f"reidkit run 02 -p dataset market1501 -p data_root {BROKEN} -p weights scratch", 1, r"\.jpg"),
    "the doctor on it": (f"reidkit doctor {BROKEN}/market1501", 1, r"\.jpg"),
}


def main() -> int:
    """Clone, install, run the course and the tests, try the front door; stop at the first that fails."""
    asked = re.search(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)[1]
    assert asked.rstrip().endswith("make course"), "README's first commands are no longer what is tried here"
    seconds, answers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        for step, target in STEPS.items():
            start = time.perf_counter()
            if subprocess.run(["make", target], cwd=folder, stdin=subprocess.DEVNULL).returncode:
                print(f"make {target} failed in a fresh clone", file=sys.stderr)
                return 1
            seconds[step] = round(time.perf_counter() - start)
            print(f"{step}: {seconds[step]} s", flush=True)
        break_an_image(Path(folder))
        for what, (command, code, wanted) in FRONT_DOOR.items():
            done = subprocess.run(
                [f".venv/bin/{command.split()[0]}", *command.split()[1:]], cwd=folder, capture_output=True, text=True
            )
            said = (done.stdout if code == 0 else done.stderr or done.stdout).strip().replace(folder, "")
            print(f"{what}: {command}\n  {said.splitlines()[-1] if said else '-'}", flush=True)
            if done.returncode != code or not re.search(wanted, said) or "Traceback" in done.stdout + done.stderr:
                print(f"{what}: exit code {done.returncode}, not {code}, or another answer\n{said}", file=sys.stderr)
                return 1
            answers[what] = {"command": command, "answer": said.splitlines()[-1]}
    found = {"cpus": os.cpu_count(), "seconds": seconds, "front_door": answers}
    files.write_json(ROOT / "figures" / "results" / "fresh.json", found)
    return 0


def break_an_image(clone: Path) -> None:
    """Copy a drawn city as a Market-1501 of somebody whose disk was full."""
    copy = clone / BROKEN / "market1501"
    shutil.copytree(clone / "data" / "cities" / "market-quick-0", copy)
    image = sorted(copy.rglob("bounding_box_train/*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:200])


if __name__ == "__main__":
    sys.exit(main())
