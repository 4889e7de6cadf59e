"""Make the README's picture, figures/front.png: one query ranked before and after training, and the two embeddings.

python tools/picture.py             # trains the small net on the tiny city of seed 0 for 500 steps, minutes on a CPU
"""

import io

from PIL import Image

from reidkit import files, plots, runs
from reidkit.distances import euclidean
from reidkit.recipes import baseline

IDENTITIES = 24  # whose images the embedding shows
NAMES = {"untrained": "before training", "default": "after training"}


def picture_of(figure) -> Image.Image:
    """A figure as a picture."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return Image.open(data).convert("RGB")


def main() -> None:
    """Train, draw the two figures and put them under each other."""
    results = {name: baseline.run(name, preset="tiny", seed=0) for name in NAMES}
    data = results["default"].objects["data"]
    sides = {NAMES[name]: (run.objects["query"], run.objects["gallery"]) for name, run in results.items()}
    dists = {name: euclidean(query.x, gallery.x) for name, (query, gallery) in sides.items()}
    before, after = (run.objects["ranking"] for run in results.values())
    gain = after.ap - before.ap  # of the valid queries
    middling = int(gain.argsort()[int(0.6 * len(gain))])  # neither the luckiest query nor the worst
    row = int(after.valid.nonzero().flatten()[middling])
    strip = plots.film_strip(data.query, data.gallery, dists, row=row, title="One query, before and after 500 steps")
    chosen = sorted(set(data.gallery.pids.tolist()) - {-1, 0})[:IDENTITIES]
    keep = [i for i, pid in enumerate(data.gallery.pids.tolist()) if pid in chosen]
    people = data.gallery.pids[keep]
    maps = [
        plots.feature_space(
            plots.feature_map_2d(gallery.x[keep]), identity=people, title=f"{len(chosen)} new people {name}"
        )
        for name, (_, gallery) in sides.items()
    ]
    top, *lower = (picture_of(figure) for figure in (strip, *maps))
    sheet = Image.new("RGB", (top.width, top.height + lower[0].height), "white")
    sheet.paste(top, (0, 0))
    for part, centre in zip(lower, (0.25, 0.75), strict=True):
        sheet.paste(part, (int(top.width * centre) - part.width // 2, top.height))
    with files.atomic_path(runs.ROOT / "figures" / "front.png") as path:
        sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
