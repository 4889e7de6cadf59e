"""The strong baseline the other recipes build on: identities as categories, BN neck, label smoothing, PK batches.

Source: H. Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019; the settings
are those that Ranked_Person_ReID released.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from reidkit.data.images import identity_labels
from reidkit.data.samplers import Sample
from reidkit.embed import embed
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.models.heads import ReID
from reidkit.parameters import parameter
from reidkit.recipes import supervised
from reidkit.recipes.driver import open_run
from reidkit.recipes.sources import load_data
from reidkit.recipes.supervised import (
    build_batches,
    build_model,
    build_optimizer,
    build_schedule,
    check_weights,
    measure,
)
from reidkit.runs import Result, Variant
from reidkit.training import fit


@dataclass(frozen=True, kw_only=True)
class Parameters(supervised.Parameters):
    """What a run of the baseline is made with."""

    triplet_weight: float = parameter(0.0, "weight of the triplet loss; 0 leaves it out", low=0)
    triplet_margin: float = parameter(0.3, "Euclidean distance of features", low=0)


KNOBS = {  # of the world: a value that is easier than the default, and one that is harder
    "camera_colour": (0, 2),
    "light": (0, 2),
    "view": (0, 56),
    "occluders": (0, 0.44),
    "box": (0, 2),
    "resolution": (0.5, 2),
    "look_alikes": (0, 0.9),
}
RUNGS = (  # each adds one thing to the rung before
    ("softmax", "softmax", {"neck": "none", "label_smoothing": 0.0, "erase": 0.0}),
    ("neck", "+ BN neck", {"label_smoothing": 0.0, "erase": 0.0}),
    ("smoothing", "+ label smoothing", {"erase": 0.0}),
    ("default", "+ random erasing (default)", {}),
)
# Luo et al.'s ladder, in the order of their table: softmax and triplet, then one trick more on each rung
LUO = {"triplet_weight": 1.0, "neck": "none", "last_stride": 2, "label_smoothing": 0.0, "erase": 0.0, "warmup": 0.0}
LUO_RUNGS = {
    "luo_standard": ("Luo: softmax + triplet, no tricks", ()),
    "luo_warmup": ("Luo: + warm-up", ("warmup",)),
    "luo_erasing": ("Luo: + random erasing", ("warmup", "erase")),
    "luo_smoothing": ("Luo: + label smoothing", ("warmup", "erase", "label_smoothing")),
    "luo_stride": (
        "Luo: + last stride 1",
        ("warmup", "erase", "label_smoothing", "last_stride"),
    ),  # the next is "triplet"
}
LENGTHS = (1, 3, 7, 30)  # epochs beside the preset's, for what a trick gives in short and in long trainings
VARIANTS = {
    # a ladder
    **{name: Variant(title, changes) for name, title, changes in RUNGS},
    # Luo et al.'s own
    **{
        name: Variant(title, {knob: value for knob, value in LUO.items() if knob not in tricks})
        for name, (title, tricks) in LUO_RUNGS.items()
    },
    # and what changes one thing in the default
    "triplet": Variant("default + triplet", {"triplet_weight": 1.0}),
    "last_stride_2": Variant("default, last stride 2", {"last_stride": 2}),
    "plain_batches": Variant("default, plain batches", {"sampler": "plain"}),
    "reference": Variant("default, from the reference weights", {"weights": "reference"}),
    "untrained": Variant("default, not trained", {"epochs": 0}),
    # the ladder again in shorter and longer trainings
    **{
        f"{name}_epochs_{epochs}": Variant(f"{title}, {epochs} epochs", changes | {"epochs": epochs})
        for name, title, changes in RUNGS
        for epochs in LENGTHS
    },
    # one knob of the world turned to either side
    **{
        f"{knob}_{way}": Variant(f"{knob} = {value}", {"knobs": f"{knob}={value}"})
        for knob, values in KNOBS.items()
        for way, value in zip(("easy", "hard"), values, strict=True)
    },
}


def training_step(
    model: ReID, batch: Sample, *, label_smoothing: float, triplet_weight: float, triplet_margin: float
) -> dict[str, torch.Tensor]:
    """One step of the baseline: name the identity, and, if wanted, rank the hardest pair of each anchor."""
    output = model(batch.images)
    # each training identity is a category; smoothing spreads a share of the target over all of them
    softmax = F.cross_entropy(output.logits, batch.labels, label_smoothing=label_smoothing)  # [softmax] [smoothing]
    terms = {"softmax": softmax}
    if triplet_weight:
        # the farthest positive must be nearer than the nearest negative by a margin, on the feature before the neck
        triplet = batch_hard_triplet_loss(output.feature, batch.labels, margin=triplet_margin)
        terms["triplet"] = triplet_weight * triplet
    return terms


def run(
    variant: str = "default",
    *,
    preset: str = "tiny",
    seed: int = 0,
    data_root: str | None = None,
    weights: str | None = None,
    **options: int | float | str | bool | Path,
) -> Result:
    """Train one variant, embed query and gallery, and evaluate; arguments and errors are those of `driver.open_run`.

    Returns:
        The result; in `objects` are data, model, history, query and gallery (embeddings) and ranking.
    """
    start = {"preset": preset, "seed": seed, "data_root": data_root, "weights": weights}
    with open_run("baseline", Parameters, VARIANTS, variant, **start, **options) as run:
        params = run.params
        check_weights(params)
        data = load_data(params, progress=run.progress)
        model = build_model(params, identity_labels(data.train.pids)[1])
        history = fit(
            model,
            build_batches(params, data.train),
            build_step(params),
            epochs=params.epochs,
            optimizers=build_optimizer(params, model),
            schedules=build_schedule(params),
            **run.fitting,
        )
        query, gallery = (embed(model, part, **run.embedding) for part in (data.query, data.gallery))
        ranking, metrics = measure(query, gallery)
        return run.result(
            metrics, query=query, ranking=ranking, gallery=gallery, data=data, model=model, history=history
        )


def build_step(params: Parameters) -> Callable:
    """`training_step` with the weights that `params` give its terms."""
    names = ("label_smoothing", "triplet_weight", "triplet_margin")
    return functools.partial(training_step, **{name: getattr(params, name) for name in names})
