"""Train the reference weights, which play ImageNet's part in this course: reidkit/weights/reference.safetensors.

    python tools/reference.py                    # about 25 minutes of one core; killed, it goes on where it was

Drawing takes six of them, and learning in two sizes, 64x32 and then 128x64, sixteen.

The small net learns to name everybody of two drawn cities: the people of the tiny `auxiliary` city, seed 0, training
and test people alike (the source of notebook 06), and those of the tiny `street`, whose looks are everyday ones. Nobody
of them lives in another city. The rows of the last layer have unit length and can stand for their persons: those of the
`auxiliary` city, in the order of their pids, are kept as the agents of MAR. Everything is kept in half precision, with
what was measured beside it in figures/results/reference.json. No image of a real person is learnt from; with
--data-root, it is measured how many the network finds.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from reidkit import checkpoints, code, files, parameters, runs
from reidkit.data.images import Augment, Images, identity_labels, load
from reidkit.data.samplers import Batches, PKSampler, Sample
from reidkit.embed import embed
from reidkit.models.backbones import load_weights, small_resnet
from reidkit.models.heads import Agents, NoNeck, ReID
from reidkit.recipes import baseline, soft_multilabel, sources, supervised
from reidkit.training import Cycle, fit, warmup_cosine

STREET = "camera_colour=0.4,light=0.6,look_alikes=0.3"  # its cameras' colours differ as little as real ones do
PARTS = {  # of the training: how many pixels are averaged to one, across and down; epochs; the learning rate's course
    "coarse": (2, 15, warmup_cosine(20, warmup=0.1, flat=1)),
    "fine": (1, 20, warmup_cosine(20, warmup=0.05, flat=0.25)),
}


def vary(images: torch.Tensor) -> torch.Tensor:
    """Give each normalised image (n, 3, h, w) a light, contrast, colourfulness and tint of its own."""

    def normal(channels: int, sd: float) -> torch.Tensor:
        return sd * torch.randn(len(images), channels, 1, 1)

    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * normal(1, 0.1).exp()
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * normal(1, 0.15).exp()
    return images * normal(3, 0.04).exp() + normal(1, 0.15) + normal(3, 0.04)


def step(model: ReID, batch: Sample, pool: int) -> dict[str, torch.Tensor]:
    """Name the person by the nearest agent: eq. 7 of MAR, without label smoothing."""
    images = F.avg_pool2d(vary(batch.images), pool)
    return {"agents": F.cross_entropy(model(images).logits, batch.labels)}


def draw(progress: bool = True) -> tuple[Images, int]:
    """Everybody of both cities, drawn where they are not there yet, and how many of them are the agents: the first."""
    params = soft_multilabel.Parameters.of(parameters.preset("06", "tiny"))
    known = soft_multilabel.everybody(params, progress=progress)
    split = sources.open_split("street", knobs=STREET, progress=progress)
    records = [record for part in (split.train, split.query, split.gallery) for record in part if record.pid > 0]
    others = load(records, (params.height, params.width), progress=progress)
    last = int(known.pids.max())
    columns = zip(vars(known).values(), (others.pixels, others.pids + last, others.camids), strict=True)
    return Images(*(torch.cat(column) for column in columns)), identity_labels(known.pids)[1]


def main() -> None:
    """Draw, train, measure in cities that no experiment uses, write the file and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=[4500, 3000], help="at 64x32, then at 128x64")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--cities", type=int, nargs="*", default=[100, 101], help="seeds of market cities to search in")
    parser.add_argument("--data-root", help="the folder that holds Market-1501, to search there, too")
    parser.add_argument("--former", type=Path, help="a file of weights to compare with there")
    arguments = parser.parse_args()
    params = baseline.Parameters.of(parameters.preset("02", "tiny"))
    images, agents = draw()
    labels, people = identity_labels(images.pids)
    runs.seed(params.seed)
    backbone = small_resnet(last_relu=False)  # as in MAR (D3.9)
    model = ReID(backbone, Agents(backbone.dim, people))
    sampler = PKSampler(labels, p=params.p, k=params.k, seed=params.seed)
    batches = Batches(images, labels, sampler, Augment(erase=0), seed=params.seed)
    rows = []
    for (part, (pool, epochs, schedule)), steps in zip(PARTS.items(), arguments.steps, strict=True):
        rows += fit(
            model,
            Cycle(batches, steps // epochs),
            partial(step, pool=pool),
            epochs=epochs,
            optimizers=supervised.build_optimizer(params, model),
            schedules=schedule,
            checkpoint=runs.ROOT / "runs" / "reference" / part,
            precision=arguments.precision,
        ).rows
    tensors = model.backbone.state_dict() | {"classifier.weight": model.head.agents[:agents]}
    half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items() if tensor.is_floating_point()}
    path = sources.REFERENCE
    with files.atomic_path(path) as part:
        save_file(half, part, metadata={"city": f"auxiliary, tiny, seed 0, {agents} people by pid"})
    record = {"agents": agents, "people": people, "images": len(images)}
    record |= {"cities": ["auxiliary, tiny, seed 0", f"street, tiny, seed 0, {STREET}"]}
    record |= {"steps": dict(zip(PARTS, arguments.steps, strict=True))}
    record |= {"loss": rows[-1]["agents"], "seconds": round(sum(row["seconds"] for row in rows))}
    record |= {"bytes": path.stat().st_size, "sha256": checkpoints.digest(path)}
    record |= {"direct transfer": {f"market {seed}": search(path, city_seed=seed) for seed in arguments.cities}}
    if arguments.data_root:
        archive = {"dataset": "market1501", "data_root": arguments.data_root}
        compared = [path] + [arguments.former] * bool(arguments.former)
        found = [{"sha256": checkpoints.digest(file)} | search(file, **archive) for file in compared]
        record["Market-1501, no image of which was learnt from"] = found
    made_by = runs.provenance(code.digest("reidkit.recipes.soft_multilabel"))
    files.write_json(runs.RESULTS / "reference.json", record | {"provenance": made_by})
    print(record)


def search(path: Path, **where: int | str) -> dict[str, float]:
    """Fractions that the network of a file finds, without any further training, and among how many."""
    params = baseline.Parameters.of(parameters.preset("02", "tiny")).but(**where)
    backbone = small_resnet(last_relu=False)
    load_weights(backbone, path)
    data, model = sources.load_data(params), ReID(backbone, NoNeck(backbone.dim, 1))
    metrics = supervised.measure(*(embed(model, part) for part in (data.query, data.gallery)))[1]
    counts = {name: metrics[name] for name in ("n_query", "n_gallery")}
    return {name: round(metrics[name], 4) for name in ("rank1", "rank5", "mAP")} | counts


if __name__ == "__main__":
    main()
