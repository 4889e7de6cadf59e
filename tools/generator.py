"""Train the reference generator, from which those of clusters can start: reidkit/weights/generator.safetensors.

    python tools/generator.py                    # 24 minutes on a shared core

A DCGAN of 64x32 pixels learns from all people of the tiny `auxiliary` city, seed 0. Nobody of them lives in another
city, so that no experiment's data set is in it. Both networks are kept in half precision, with what was measured beside
them in figures/results/generator.json, and seven moments of the training in figures/generator.png.
"""

import argparse
import time

import torch
from PIL import Image
from safetensors.torch import save_file

from reidkit import checkpoints, code, files, parameters, runs
from reidkit.data.images import load
from reidkit.recipes import generators, sources, sparse_smoothing

CITY = {"preset": "tiny", "city_seed": 0}
EPOCHS = 12


def main() -> None:
    """Train, write the file, seven of its snapshots and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6_000)
    arguments = parser.parse_args()
    tiny = sparse_smoothing.Parameters.of(parameters.preset("04", "tiny"))
    params = tiny.but(seed=0, gan_epochs=EPOCHS, gan_steps=arguments.steps // EPOCHS)
    split = sources.open_split("auxiliary", **CITY)
    records = [record for part in (split.train, split.query, split.gallery) for record in part if record.pid > 0]
    images = load(records, (params.gan_height, params.gan_width))
    start = time.perf_counter()
    trained = generators.train_generator(params, images.pixels, title="the auxiliary city")
    tensors = {name: t.half().contiguous() for name, t in trained.model.state_dict().items() if t.is_floating_point()}
    path = generators.REFERENCE
    with files.atomic_path(path) as part:
        save_file(tensors, part, metadata={"city": f"auxiliary, tiny, seed 0, {len(images)} images"})
    rows = [torch.cat(list(frame), 2) for frame in trained.snapshots[:: EPOCHS // 6]]  # one moment a row
    with files.atomic_path(runs.ROOT / "figures" / "generator.png") as part:
        Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy()).save(part)
    record = {"images": len(images), "steps": arguments.steps, "seconds": round(time.perf_counter() - start)}
    record |= {"bytes": path.stat().st_size, "sha256": checkpoints.digest(path), "last": trained.history[-1]}
    record |= {"provenance": runs.provenance(code.digest("reidkit.recipes.generators"))}
    files.write_json(runs.RESULTS / "generator.json", record)
    print(record)


if __name__ == "__main__":
    main()
