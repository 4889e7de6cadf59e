"""Make the README's small pictures, figures/thumbnails: of each notebook the figure that says most at that size."""

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

from front import ROOT, notebook_paths
from reidkit import files

WIDTH, HEIGHT = 220, 150  # pixels on the page; the files have twice as many
CHOSEN = {  # which of a notebook's figures, from 0
    "00_map": 0,
    "01_retrieval": 0,
    "02_baseline": 11,
    "03_ranking": 4,
    "04_sparse_smoothing": 4,
    "05_one_shot": 6,
    "06_soft_multilabel": 8,
    "07_crossroads": 0,
}


def figures_of(path: Path) -> list[bytes]:
    """All figures of an executed notebook, as PNG."""
    cells = nbformat.read(path, as_version=4).cells
    found = [output.get("data", {}).get("image/png") for cell in cells for output in cell.get("outputs", [])]
    return [base64.b64decode(data) for data in found if data]


def thumbnail(data: bytes) -> bytes:
    """The top of a figure without its title's margin, small, as PNG with 64 colours.

    >>> out = io.BytesIO(); Image.new("RGB", (900, 900)).save(out, "png")
    >>> Image.open(io.BytesIO(thumbnail(out.getvalue()))).size
    (440, 300)
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    height = min(image.height, round(image.width * HEIGHT / WIDTH))
    image = image.crop((0, 0, image.width, height)).resize((2 * WIDTH, round(2 * WIDTH * height / image.width)))
    out = io.BytesIO()
    image.quantize(64).save(out, "png", optimize=True)
    return out.getvalue()


def main() -> None:
    """Write one picture for each notebook."""
    for path in notebook_paths():
        files.write_bytes(
            ROOT / "figures" / "thumbnails" / f"{path.stem}.png", thumbnail(figures_of(path)[CHOSEN[path.stem]])
        )


if __name__ == "__main__":
    main()
