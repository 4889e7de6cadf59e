"""Ranking and classification together: the Lin loss beside label-smoothed softmax, both on one BN neck.

Source: "Ranking and classification-driven feature learning for person re-identification"; the settings are those that
its authors released (Ranked_Person_ReID, softmax_ranked.yml).
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
from reidkit.losses.ranking import lin_loss, ranked_list_loss
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
    rerank,
)
from reidkit.runs import Result, Variant
from reidkit.training import fit

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


@dataclass(frozen=True, kw_only=True)
class Parameters(supervised.Parameters):
    """What a run of the recipe is made with.

    Raises:
        ValueError: as `parameters.Parameters`, or two values that contradict each other.
    """

    epochs: int = parameter(3, "passes of steps_per_epoch steps", low=0)
    steps_per_epoch: int = parameter(26, "0: true passes over the data", low=0)
    other_dataset: str = parameter("duke", "the one to go to, or to come from (Table VI)")
    domains: str = parameter(
        "home",
        "home; there: trained in dataset, tested in the other; back: the other way",
        among=("home", "there", "back"),
    )
    classify: bool = parameter(True, "the softmax loss")
    ranking: str = parameter("lin", "lin, ranked_list, triplet, none", among=(*LOSSES, "none"))
    rank_weight: float = parameter(0.4, "w, weight of the ranking loss beside softmax", low=0)
    ranked: str = parameter(
        "embedding", "what is ranked: embedding (after the neck), feature (before)", among=("embedding", "feature")
    )
    radius: float = parameter(0.7, "r of Lin, distance of unit vectors, 0..2", low=0, high=2)
    temperature: float = parameter(1.0, "T of Lin and ranked list; larger: nearer negatives count more", low=0)
    weighting: str = parameter("code", "of Lin: code, eq3 (ledger D2.1)", among=("code", "eq3"))
    detach_weights: bool = parameter(False, "of Lin and ranked list: whether the weights count as constants")
    alpha: float = parameter(1.2, "of ranked list: how far negatives have to be, 0..2", low=0, high=2)
    margin: float = parameter(0.3, "of triplet (any distance) and of ranked list (0..alpha)", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranking == "none" and not self.classify:
            raise ValueError('nothing to learn from: set classify to true, or ranking to "lin".')
        if self.ranking == "ranked_list" and not (self.margin <= self.alpha and self.alpha > 0):
            raise ValueError(f"margin must be from 0 to alpha, and alpha above 0, not {self.margin} and {self.alpha}.")


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
    data_root: str | None = None,
    weights: str | None = None,
    **options: int | float | str | bool | Path,
) -> Result:
    """Train one variant, and evaluate it without and with re-ranking; arguments and errors are those of
    `driver.open_run`.

    Returns:
        The result, also with `rank1_reranked` and `mAP_reranked`; in `objects` are data (of the test), model, history,
        query and gallery (embeddings) and ranking.
    """
    start = {"preset": preset, "seed": seed, "data_root": data_root, "weights": weights}
    with open_run("ranking", Parameters, VARIANTS, variant, **start, **options) as run:
        params = run.params
        check_weights(params)
        home, other = params.dataset, params.other_dataset
        trained_in, tested_in = {"home": (home, home), "there": (home, other), "back": (other, home)}[params.domains]
        data = load_data(params.but(dataset=trained_in), progress=run.progress)
        step = build_step(params)
        model = build_model(params, identity_labels(data.train.pids)[1])
        history = fit(
            model,
            build_batches(params, data.train),
            step,
            epochs=params.epochs,
            optimizers=build_optimizer(params, model),
            schedules=build_schedule(params),
            **run.fitting,
        )
        if tested_in != trained_in:
            data = load_data(params.but(dataset=tested_in), progress=run.progress)
        query, gallery = (embed(model, part, **run.embedding) for part in (data.query, data.gallery))
        ranking, metrics = measure(query, gallery)
        metrics |= rerank(query, gallery)
        return run.result(
            metrics, query=query, ranking=ranking, gallery=gallery, data=data, model=model, history=history
        )


def build_step(params: Parameters) -> Callable:
    """`training_step` with the losses, weights and knobs that `params` name."""
    loss, knobs = (LOSSES | {"none": (None, ())})[params.ranking]
    rank = functools.partial(loss, **{name: getattr(params, name) for name in knobs}) if loss else None
    names = ("classify", "label_smoothing", "rank_weight", "ranked")
    return functools.partial(training_step, rank=rank, **{name: getattr(params, name) for name in names})
