"""Ranking and classification together: the Lin loss beside label-smoothed softmax, both on one BN neck.

Source: "Ranking and classification-driven feature learning for person re-identification"; the settings are those that
its authors released (Ranked_Person_ReID, softmax_ranked.yml).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from reidkit import runs
from reidkit.data.records import JUNK
from reidkit.data.samplers import Sample
from reidkit.embed import Embeddings
from reidkit.losses.ranking import lin_loss, ranked_list_loss
from reidkit.losses.triplet import batch_hard_triplet_loss
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.metrics.retrieval import evaluate_distances
from reidkit.models.heads import ReID
from reidkit.recipes.supervised import run_supervised
from reidkit.runs import Effect, Result, Variant

NOTEBOOK = "03"
LOSSES = {  # name -> the loss, and the parameters of a run that it takes
    "lin": (lin_loss, ("radius", "temperature", "weighting", "detach_weights")),
    "ranked_list": (ranked_list_loss, ("alpha", "margin", "temperature", "detach_weights")),
    "triplet": (batch_hard_triplet_loss, ("margin",)),
}
SWEEPS = {  # Tables II to IV, over a range much wider than the paper's
    "temperature": (0.1, 0.5, 5.0, 20.0),
    "radius": (0.2, 0.6, 0.8, 1.2),
    "rank_weight": (0.05, 0.2, 0.6, 2.0),
}
BACKBONES = {  # Table V
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "se_resnet50": "SE-ResNet-50",
    "se_resnext50": "SE-ResNeXt-50",
    "resnet50_ibn_a": "ResNet-50-IBN-a",
}
SOFTMAX, LIN = {"ranking": "none"}, {"classify": False, "rank_weight": 1.0}
VARIANTS = {
    # Table I: one loss alone
    "lin_before": Variant("Lin, no neck", LIN | {"neck": "none"}),
    "lin_after": Variant("Lin after the BN neck", LIN),
    "softmax_no_neck": Variant("softmax, no neck", SOFTMAX | {"neck": "none"}),
    "softmax": Variant("softmax after the BN neck", SOFTMAX),
    # two losses
    "triplet": Variant("softmax + triplet", {"ranking": "triplet", "ranked": "feature", "rank_weight": 1.0}),
    "ranked_list": Variant("softmax + ranked list", {"ranking": "ranked_list", "temperature": 10.0, "margin": 0.4}),
    "default": Variant("softmax + Lin", {}),
    # Tables II to IV: one knob of the default
    **{
        f"{knob}_{value:g}".replace(".", "_"): Variant(f"{knob} = {value:g}", {knob: value})
        for knob, values in SWEEPS.items()
        for value in values
    },
    # Table V: another backbone
    **{name: Variant(title, {"backbone": name}) for name, title in BACKBONES.items()},
    # Table VI: trained in one city, tested in the other
    **{
        f"{name}_{way}": Variant(f"{title}, {arrow}", {"domains": way} | changes)
        for way, arrow in (("there", "home → other"), ("back", "other → home"))
        for name, title, changes in (("softmax", "softmax", SOFTMAX), ("lin", "softmax + Lin", {}))
    },
}
STUDIES = {  # groups of variants that are run together
    "headline": ("softmax", "default"),
    "losses": ("lin_before", "lin_after", "softmax_no_neck", "softmax", "triplet", "ranked_list", "default"),
    **{knob: tuple(name for name in VARIANTS if name.rpartition(f"{knob}_")[1]) for knob in SWEEPS},
    "backbones": tuple(BACKBONES),
    "domains": ("softmax_there", "lin_there", "softmax_back", "lin_back"),
}
PAPER = "the paper, Table "
EFFECTS = (
    Effect("default", "softmax", "Lin helps softmax", PAPER + "I against II"),
    Effect("default", "lin_after", "softmax helps Lin", PAPER + "I against II"),
    Effect("lin_after", "lin_before", "Lin wants the BN neck", PAPER + "I"),
    Effect("softmax", "softmax_no_neck", "softmax wants the BN neck", PAPER + "I"),
    Effect("default", "triplet", "Lin is better than the triplet", PAPER + "VII, BNNK"),
    Effect("default", "ranked_list", "Lin is better than the ranked list", "the paper, Fig. 1"),
    Effect("triplet", "softmax", "the triplet helps softmax"),
    Effect("ranked_list", "softmax", "the ranked list helps softmax"),
    Effect("lin_there", "softmax_there", "Lin helps in another city"),
    Effect("lin_back", "softmax_back", "Lin helps on the way back"),
)


def training_step(
    model: ReID, batch: Sample, *, classify: bool, label_smoothing: float, rank: Callable | None, rank_weight: float,
    ranked: str
) -> dict[str, torch.Tensor]:  # fmt: skip
    """One step of the recipe: name each person, and rank the others around him, on one and the same embedding."""
    output = model(batch.images)
    terms = {}
    if classify:
        # each training identity is a category, told apart by its direction from the origin
        terms["softmax"] = F.cross_entropy(output.logits, batch.labels, label_smoothing=label_smoothing)
    if rank is not None:
        # positives within a radius of each anchor; negatives as far as unit vectors can be, the near ones first
        terms["ranking"] = rank_weight * rank(getattr(output, ranked), batch.labels)  # [total]
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
    """Train and evaluate one variant, without and with re-ranking.

    Arguments, result and errors are those of `supervised.run_supervised`; the metrics also hold `rank1_reranked` and
    `mAP_reranked`.
    """
    paths = {"data_root": data_root, "weights": weights}
    result = run_supervised(NOTEBOOK, VARIANTS, build_step, variant, preset=preset, seed=seed, **paths, **options)
    again = rerank(result.objects["query"], result.objects["gallery"])
    return dataclasses.replace(result, metrics=result.metrics | again)


def build_step(params: Mapping[str, Any]) -> Callable:
    """`training_step` with the losses, weights and knobs that `params` name.

    Raises:
        ValueError: no loss at all, or an unknown loss or place for it.
    """
    loss, knobs = runs.choose("ranking", params["ranking"], LOSSES | {"none": (None, ())})
    runs.choose("ranked", params["ranked"], {"feature": None, "embedding": None})
    if not (loss or params["classify"]):
        raise ValueError('nothing to learn from: set classify to true, or ranking to "lin".')
    rank = functools.partial(loss, **{name: params[name] for name in knobs}) if loss else None
    names = ("classify", "label_smoothing", "rank_weight", "ranked")
    return functools.partial(training_step, rank=rank, **{name: params[name] for name in names})


def rerank(query: Embeddings, gallery: Embeddings) -> dict[str, float]:
    """Rank-1 and mAP after k-reciprocal re-ranking with the paper's k1 = 20, k2 = 6, λ = 0.3; junk takes no part."""
    known = gallery.pids != JUNK
    dist = k_reciprocal_rerank(query.x, gallery.x[known])
    ranking = evaluate_distances(dist, query.pids, query.camids, gallery.pids[known], gallery.camids[known], ap="mean")
    return {"rank1_reranked": float(ranking.cmc[0]), "mAP_reranked": float(ranking.mAP)}
