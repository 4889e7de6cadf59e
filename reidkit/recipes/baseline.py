"""The strong baseline the other recipes build on: identities as categories, BN neck, label smoothing, PK batches.

Source: H. Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019; the settings
are those that Ranked_Person_ReID released.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from reidkit.data.samplers import Sample
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.models.heads import ReID
from reidkit.recipes.supervised import run_supervised
from reidkit.runs import Effect, Result, Variant

NOTEBOOK = "02"
KNOBS = {  # of the world: a value that is easier than the default, and one that is harder
    "camera_colour": (0, 2),
    "light": (0, 2),
    "view": (0, 56),
    "occluders": (0, 0.44),
    "box": (0, 2),
    "resolution": (0.5, 2),
    "look_alikes": (0, 0.9),
}
VARIANTS = {
    # a ladder: each rung adds one thing to the rung before
    "softmax": Variant("softmax", {"neck": "none", "label_smoothing": 0.0, "erase": 0.0}),
    "neck": Variant("+ BN neck", {"label_smoothing": 0.0, "erase": 0.0}),
    "smoothing": Variant("+ label smoothing", {"erase": 0.0}),
    "default": Variant("+ random erasing (default)", {}),
    # and what changes one thing in the default
    "triplet": Variant("default + triplet", {"triplet_weight": 1.0}),
    "last_stride_2": Variant("default, last stride 2", {"last_stride": 2}),
    "plain_batches": Variant("default, plain batches", {"sampler": "plain"}),
    "reference": Variant("default, from the reference weights", {"weights": "reference"}),
    "untrained": Variant("default, not trained", {"epochs": 0}),
    # one knob of the world turned to either side
    **{
        f"{knob}_{way}": Variant(f"{knob} = {value}", {"knobs": f"{knob}={value}"})
        for knob, values in KNOBS.items()
        for way, value in zip(("easy", "hard"), values, strict=True)
    },
}
STUDIES = {  # groups of variants that are run together
    "tricks": tuple(name for name in VARIANTS if name.rpartition("_")[0] not in KNOBS),
    "knobs": ("default", *(name for name in VARIANTS if name.rpartition("_")[0] in KNOBS)),
}
LUO = "Luo et al. 2019"
EFFECTS = (
    Effect("neck", "softmax", "a BN neck helps", LUO),
    Effect("smoothing", "neck", "label smoothing helps", LUO),
    Effect("default", "smoothing", "random erasing helps", LUO),
    Effect("default", "softmax", "the three tricks together help", LUO),
    Effect("triplet", "default", "the triplet loss helps", LUO),
    Effect("default", "last_stride_2", "last stride 1 helps", LUO),
    Effect("default", "plain_batches", "PK batches help even softmax"),
    Effect("reference", "default", "a start from the reference weights helps"),
)


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
    data_root: str = "",
    weights: str = "",
    **options: int | float | str | bool | Path,
) -> Result:
    """Train and evaluate one variant; arguments, result and errors are those of `supervised.run_supervised`."""
    paths = {"data_root": data_root, "weights": weights}
    return run_supervised(NOTEBOOK, VARIANTS, build_step, variant, preset=preset, seed=seed, **paths, **options)


def build_step(params: Mapping[str, Any]) -> Callable:
    """`training_step` with the weights that `params` give its terms."""
    names = ("label_smoothing", "triplet_weight", "triplet_margin")
    return functools.partial(training_step, **{name: params[name] for name in names})
