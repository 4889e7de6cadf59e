"""Execute the committed notebooks in place, so that they hold what the code says today and nothing about the machine.

The parameters cell is written anew from the dataclass that declares the parameters.

    python tools/execute.py [02 ...]

A notebook that fails is left as it was; the exit code is then 1.
"""

import argparse
import base64
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from front import ROOT, notebook_paths
from reidkit import files, parameters
from reidkit.studies.notebook import KERNEL_OPTIONS, parameters_of

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute the committed notebooks in place.")
    parser.add_argument("only", nargs="*", metavar="NN", help="only notebooks whose name begins with NN")
    paths = [path for only in parser.parse_args().only or [""] for path in notebook_paths(only)]
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", "--quiet", "--fix", *paths], check=True)
    subprocess.run([*ruff, "format", "--quiet", *paths], check=True)
    os.environ.pop("REIDKIT_LIVE", None)  # nothing of a widget is stored
    return int(not all([execute(path) for path in paths]))


def execute(path: Path) -> bool:
    """Execute one notebook and write it back; False, with the reason, if a cell failed."""
    print(path.stem, end=" ", flush=True)
    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = parameters.cell(parameters_of(path.name[:2]))
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=KERNEL_OPTIONS,
        resources={"metadata": {"path": path.parent}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"FAILED, left as it was\n{error}", flush=True)
        return False
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
    lighten(notebook)
    text = nbformat.writes(notebook)
    nbformat.validate(notebook)
    if str(ROOT) in text:
        print("FAILED, left as it was: an output or a cell holds the path of this checkout", flush=True)
        return False
    files.write_text(path, text.rstrip("\n") + "\n")
    print(f"{time.perf_counter() - start:.0f} s, {len(text) / 1e3:.0f} kB", flush=True)
    return True


def lighten(notebook: nbformat.NotebookNode) -> None:
    """Store the pictures with a palette of 256 colours: less than half the size, and hardly a visible difference."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if picture := output.get("data", {}).get("image/png"):
            small, buffer = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
            small = small.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
            small.save(buffer, "png", optimize=True)
            output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
