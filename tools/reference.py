"""Train the reference weights, which play ImageNet's part in this course: reidkit/weights/reference.safetensors.

    python tools/reference.py                    # about ten minutes on one core

The small net learns to name the 600 people of the tiny `auxiliary` city, seed 0, training and test people alike, in the
order of their pids: the source of notebook 06. Nobody of them lives in another city. The rows of the last layer have
unit length and can stand for their persons: they are the agents of MAR. Everything is kept in half precision, with what
was measured beside it in figures/results/reference.json.
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from reidkit import checkpoints, code, files, parameters, runs
from reidkit.data.images import identity_labels
from reidkit.data.samplers import Sample
from reidkit.embed import embed
from reidkit.models.backbones import small_resnet
from reidkit.models.heads import Agents, ReID
from reidkit.recipes import baseline, soft_multilabel, sources, supervised
from reidkit.training import fit


def step(model: ReID, batch: Sample) -> dict[str, torch.Tensor]:
    """Name the person by the nearest agent: eq. 7 of MAR, without label smoothing."""
    return {"agents": F.cross_entropy(model(batch.images).logits, batch.labels)}


def main() -> None:
    """Train, measure in cities that no experiment uses, write the file and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--cities", type=int, nargs="*", default=[100, 101], help="seeds of market cities to search in")
    arguments = parser.parse_args()
    params = baseline.Parameters.of(parameters.preset("02", "tiny"))
    params = params.but(epochs=20, steps_per_epoch=arguments.steps // 20, precision=arguments.precision)
    start = time.perf_counter()
    images = soft_multilabel.everybody(soft_multilabel.Parameters.of(parameters.preset("06", "tiny")))
    people = identity_labels(images.pids)[1]
    runs.seed(params.seed)
    backbone = small_resnet(last_relu=False)  # as in MAR (D3.9)
    model = ReID(backbone, Agents(backbone.dim, people))
    history = fit(
        model,
        supervised.build_batches(params, images),
        step,
        epochs=params.epochs,
        optimizers=supervised.build_optimizer(params, model),
        schedules=supervised.build_schedule(params),
        checkpoint=runs.ROOT / "runs" / "reference",
        precision=params.precision,
    )
    seconds = time.perf_counter() - start
    tensors = model.backbone.state_dict() | {"classifier.weight": model.head.agents}
    half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items() if tensor.is_floating_point()}
    path = sources.REFERENCE
    with files.atomic_path(path) as part:
        save_file(half, part, metadata={"city": f"auxiliary, tiny, seed 0, {people} people by pid"})
    found = {f"market {seed}": search(model, params, seed) for seed in arguments.cities}
    record = {"people": people, "images": len(images), "steps": arguments.steps, "loss": history.rows[-1]["agents"]}
    record |= {"seconds": round(seconds), "bytes": path.stat().st_size, "sha256": checkpoints.digest(path)}
    record |= {"direct transfer": found}
    made_by = runs.provenance(code.digest("reidkit.recipes.soft_multilabel"))
    files.write_json(runs.RESULTS / "reference.json", record | {"provenance": made_by})
    print(record)


def search(model: ReID, params: baseline.Parameters, seed: int) -> dict[str, float]:
    """Fractions that the network finds, without any further training, in the market city of a seed."""
    data = sources.load_data(params.but(city_seed=seed))
    metrics = supervised.measure(*(embed(model, part) for part in (data.query, data.gallery)))[1]
    return {name: round(metrics[name], 4) for name in ("rank1", "rank5", "mAP")}


if __name__ == "__main__":
    main()
