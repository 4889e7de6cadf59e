"""One labelled image of each person: train, guess the others, keep the guesses most to be trusted, and train anew.

Source: "Feature Space Regularization for person re-identification with one sample" and its released code, on top of
Y. Wu et al., "Progressive learning for person re-identification with one example", TIP 2019 (the baseline B).
"""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from reidkit import runs
from reidkit.data.images import Augment, Images, identity_labels
from reidkit.data.samplers import Batches, PlainSampler, Sample
from reidkit.embed import embed
from reidkit.losses.one_shot import ExclusiveLoss, feature_space_regularization
from reidkit.models.heads import NoNeck, ReID
from reidkit.models.one_shot import HEADS
from reidkit.parameters import parameter
from reidkit.progress import note
from reidkit.pseudo_labels import (
    Estimate,
    joint_labels,
    label_quality,
    nearest_labels,
    one_shot_split,
    select_confident,
    selection_size,
    step_sizes,
)
from reidkit.recipes import driver
from reidkit.recipes.driver import device, open_run
from reidkit.recipes.sources import Data, load_data
from reidkit.recipes.supervised import build_backbone, check_weights, measure
from reidkit.runs import Result, Variant
from reidkit.training import Cycle, Schedule, fit, warmup_cosine, warmup_steps

FIXED = ("ap", "n_query", "n_valid", "n_gallery")  # of the test: the same in all steps
JOINT = ("k", "mu", "k_includes_self", "label_class_pool", "jd_squared", "class_dist")  # knobs of the joint distance
SWEEPS = {"k": (1, 2, 3, 5, 8), "mu": (0.0, 0.25, 0.5, 0.75, 1.0)}  # Tables 3 and 4
NO_FSR = {"head": "pl", "exclusive_share": 1.0}
ABLATION = {  # Table 2: B has neither of the two
    "base": ("B", NO_FSR | {"labels": "nearest"}),
    "fsr": ("B + FSR", {"labels": "nearest"}),
    "joint": ("B + JD", NO_FSR),
    "default": ("B + FSR + JD", {}),
}
VARIANTS = {
    **{name: Variant(title, changes) for name, (title, changes) in ABLATION.items()},
    "convolution": Variant("B + 1x1 convolution, no FSR", {"exclusive_share": 1.0, "labels": "nearest"}),
    # Table 1: other enlarging factors
    **{
        f"{name}_0_1": Variant(f"{title}, p = 0.1", changes | {"enlarging_factor": 0.1})
        for name, (title, changes) in ABLATION.items()
    },
    "default_0_05": Variant("B + FSR + JD, p = 0.05", {"enlarging_factor": 0.05}),
    "default_0_3": Variant("B + FSR + JD, p = 0.3", {"enlarging_factor": 0.3}),
    # Tables 3 and 4, trained
    **{
        f"{knob}_{value:g}".replace(".", "_"): Variant(f"{knob} = {value:g}", {knob: value})
        for knob, default in (("k", 3), ("mu", 0.5))
        for value in SWEEPS[knob]
        if value != default
    },
    # bounds and starts
    "direct": Variant("the start, not trained", {"enlarging_factor": 1.0, "epochs": 0}),
    "one_shot_only": Variant("labels of one image each, no guesses", {"enlarging_factor": 1.0}),
    "supervised": Variant("all labels", {"enlarging_factor": 1.0, "final_full_step": True, "labels": "true"}),
    "from_scratch": Variant("B + FSR + JD, from scratch", {"weights": "scratch"}),
}


@dataclass(frozen=True, kw_only=True)
class Parameters(driver.Parameters):
    """What a run of the recipe is made with."""

    seed: int = parameter(0, "of everything random", low=0, high=4_000_000)  # a step is seeded by 1000 times as much
    weights: str = parameter("reference", driver.WEIGHTS)
    last_relu: bool = parameter(False, "whether the backbone ends with a ReLU; the reference weights do without")
    split_seed: int = parameter(
        0, "of the draw of the labelled images; 0 on the real archives: the published split", low=0
    )
    head: str = parameter("fsr", "fsr: 1x1 convolution before the branches; pl: none (ledger D0.12)", among=HEADS)
    hidden: int = parameter(0, "length of the classifier's hidden layer; 0: as released (ledger D0.7)", low=0)
    dropout: float = parameter(0.5, "of the classifier twice, and of the exclusive unit vector", low=0, high=1)
    batch_size: int = parameter(16, "labelled images, and as many unlabelled ones", low=2)
    epochs: int = parameter(2, "of each step", low=0)
    ce_only_epochs: int = parameter(1, "at the end of each step, cross-entropy alone", low=0)
    steps_per_epoch: int = parameter(8, "0: true passes over the labelled and selected images", low=0)
    optimizer: str = parameter("adam", "sgd, adam", among=("sgd", "adam"))
    momentum: float = parameter(0.5, "of sgd, Nesterov's", above=0, high=1)
    lr: float = parameter(2e-3, "of the heads", above=0)
    backbone_rate: float = parameter(0.1, "learning rate of the backbone, as a share of lr", low=0)
    weight_decay: float = parameter(5e-4, "L2, on every weight", low=0)
    schedule: str = parameter("cosine", "steps: x 0.1 for the last epochs; cosine", among=("steps", "cosine"))
    rect_crop: float = parameter(1.0, "probability of a random crop, 64 to 100 % of the area", low=0, high=1)
    ce_weight: float = parameter(0.8, "lambda, share of cross-entropy in the total", low=0, high=1)
    exclusive_share: float = parameter(
        0.8, "gamma, share of the exclusive loss in the rest; FSR has what is left", low=0, high=1
    )
    exclusive_temperature: float = parameter(10.0, "t of the exclusive loss", above=0)
    fsr_reading: str = parameter(
        "vector", "vector, matrix, variance (ledger D0.1)", among=("vector", "matrix", "variance")
    )
    fsr_reduction: str = parameter("sum", "sum, mean", among=("sum", "mean"))
    fsr_squared: bool = parameter(False, "of FSR: whether squared distances are averaged")
    labels: str = parameter(
        "joint", "rule that guesses: joint, nearest; true: no guess, a bound", among=("joint", "nearest", "true")
    )
    k: int = parameter(3, "K of the joint distance, images in a group", low=1)
    mu: float = parameter(0.5, "of the joint distance, weight of single images, 0..1", low=0, high=1)
    k_includes_self: bool = parameter(True, "of the joint distance (ledger D0.3)")
    label_class_pool: str = parameter("U", "of the joint distance: U, L+U (ledger D0.4)", among=("U", "L+U"))
    jd_squared: bool = parameter(True, "of the joint distance (ledger D0.5)")
    class_dist: str = parameter(
        "pairs", "of the joint distance: pairs, centroid (ledger D0.6)", among=("pairs", "centroid")
    )
    enlarging_factor: float = parameter(0.2, "p, share of the unlabelled images that each step adds", above=0, high=1)
    stop_rule: str = parameter(
        "fsr", "fsr: stop before all are selected; pl: one step earlier (ledger D0.9)", among=("fsr", "pl")
    )
    final_full_step: bool = parameter(False, "whether a step with all of them follows")


class LabelledAndUnlabelled(NamedTuple):
    """A batch of labelled and one of unlabelled images; in these, `labels` are rows of the exclusive table."""

    labelled: Sample
    unlabelled: Sample | None


def training_step(
    model: ReID, batch: LabelledAndUnlabelled, *, exclusive: ExclusiveLoss, fsr: Callable,
    ce_weight: float, exclusive_share: float
) -> dict[str, Tensor]:  # fmt: skip
    """One step of the recipe: name the people that have a name, keep the others apart, and even out the space."""
    known = model(batch.labelled.images)
    softmax = F.cross_entropy(known.logits, batch.labelled.labels)  # true names and guessed ones alike
    if batch.unlabelled is None:  # the last epochs, or hardly anybody without a name
        return {"softmax": softmax}
    # a pass of its own: batch normalisation must not mix the two kinds of images
    unknown, rows = model(batch.unlabelled.images), batch.unlabelled.labels
    terms = {"softmax": ce_weight * softmax}
    # each unlabelled image near its own row of a table, far from all other rows; then the row follows the image
    terms["exclusive"] = (1 - ce_weight) * exclusive_share * exclusive(unknown.exclusive, rows)
    exclusive.update(unknown.exclusive, rows)
    if exclusive_share < 1:
        # every named image equally far, on average, from the unlabelled ones
        terms["fsr"] = (1 - ce_weight) * (1 - exclusive_share) * fsr(known.metric, unknown.metric)  # [one-shot-total]
    return terms


class Task(NamedTuple):
    """What a run is about.

    Attributes:
        params: of the run.
        data: its images.
        truth: (n,) identities of all training images, 0 to C - 1; beyond the labelled ones, only measurements see them.
        labelled, unlabelled: positions of the two kinds among the training images.
    """

    params: Parameters
    data: Data
    truth: Int64[Tensor, " n"]
    labelled: Int64[Tensor, " n_l"]
    unlabelled: Int64[Tensor, " n_u"]


@dataclass(frozen=True)
class Step:
    """What is left of a step once it is done.

    Attributes:
        row: how the network retrieves, what its guesses are worth, and n, the guesses it was trained with.
        labels, confidence: (n_u,) guessed identities of all unlabelled images, 0 to C - 1, and how far to trust them.
        selected: (n_u,) the guesses that the next step is trained with.
        x: (n, d) embeddings of all training images, half precision.
        history: one row an epoch.
    """

    row: dict[str, Any]
    labels: Int64[Tensor, " n_u"]
    confidence: Float[Tensor, " n_u"]
    selected: Bool[Tensor, " n_u"]
    x: Float[Tensor, "n d"]
    history: list[dict[str, Any]]


def run(
    variant: str = "default",
    *,
    preset: str = "tiny",
    seed: int = 0,
    data_root: str | None = None,
    weights: str | None = None,
    **options: int | float | str | bool | Path,
) -> Result:
    """Train, guess, select, and train anew with more; arguments and errors are those of `driver.open_run`.

    A killed call is continued in whichever step it was: each step keeps the state of its training in a folder of its
    own, so that steps that were done are not trained again, only embedded.

    Returns:
        The result. `rank1`, `mAP` and the like are of the last step, which no test image chose; `_settled` of the step
        whose guesses agree best with those of the step before; `_best` of the step with the highest rank-1 in the test,
        as papers report it. `rank1_step0`, `precision_step0`, ... are all steps. In `objects` are task (`Task`), data,
        steps (`Step`), and of the last step model, query and gallery (embeddings) and ranking.
    """
    start = {"preset": preset, "seed": seed, "data_root": data_root, "weights": weights}
    with open_run("one_shot", Parameters, VARIANTS, variant, **start, **options) as run:
        params = run.params
        check_weights(params)
        data = load_data(params, progress=run.progress)
        truth = identity_labels(data.train.pids)[0]
        labelled, unlabelled = one_shot_split(data.train.pids, data.train.camids, seed=params.split_seed)
        task = Task(params, data, truth, labelled, unlabelled)
        fresh, sizes, steps = build_model(params, len(labelled)), build_sizes(params, len(unlabelled)), []
        for number, (size, following) in enumerate(sizes):
            line = f"step {number} of {len(sizes) - 1} · {size} of {len(unlabelled)} identities guessed"
            note(line, enabled=run.progress)
            model = copy.deepcopy(fresh)  # no step goes on from the network of the one before
            before = steps[-1] if steps else None
            fitting = run.fitting | {"checkpoint": run.folder / f"step-{number:03d}"}
            history = train(task, model, before, seed=1000 * params.seed + number, **fitting)
            parts = (data.train, data.query, data.gallery)
            everyone, query, gallery = (embed(model, part, **run.embedding) for part in parts)
            ranking, retrieval = measure(query, gallery)
            sides = everyone.x[unlabelled], everyone.x[labelled], truth[labelled]
            labels, confidence = (part.cpu() for part in estimate(params, *sides, truth[unlabelled]))
            selected = select_confident(confidence, following)
            row = retrieval | assess(task, labels, selected, before) | sweep(*sides, truth[unlabelled], following)
            steps.append(Step(row, labels, confidence, selected, everyone.x.half().cpu(), history))
        metrics = summary(steps) | {"n_labelled": len(labelled), "n_unlabelled": len(unlabelled)}
        return run.result(
            metrics, query=query, ranking=ranking, gallery=gallery, task=task, data=data, steps=steps, model=model
        )


def train(task: Task, model: ReID, before: Step | None, *, seed: int, **fitting: Any) -> list[dict[str, Any]]:
    """Train with the labelled images and what the step before selected.

    Args:
        task: what the run is about.
        model: the network, which is changed.
        before: the step before; None in the first.
        seed: of everything random in this step.
        fitting: checkpoint, precision and progress, as `fit` has them.

    Returns:
        One row an epoch.
    """
    params, named, labels, rest = task.params, task.labelled, task.truth[task.labelled], task.unlabelled
    if before is not None:
        named = torch.cat([named, rest[before.selected]])
        labels = torch.cat([labels, before.labels[before.selected]])
        rest = rest[~before.selected]
    table = ExclusiveLoss(max(1, len(rest)), model.dim, temperature=params.exclusive_temperature).to(device())
    runs.seed(seed)
    return fit(
        model,
        LabelledAndUnlabelledBatches(params, task.data.train, named, labels, rest, seed=seed),
        build_step(params, table),
        epochs=params.epochs,
        optimizers=build_optimizer(params, model),
        schedules=build_schedule(params),
        state={"exclusive": table},
        **fitting,
    ).rows


def build_sizes(params: Parameters, n_unlabelled: int) -> list[tuple[int, int]]:
    """For each step: how many guesses it is trained with, and how many it selects for the next."""
    p, rules = params.enlarging_factor, {"stop_rule": params.stop_rule, "final_full_step": params.final_full_step}
    sizes = step_sizes(n_unlabelled, p, **rules)
    return list(itertools.pairwise([*sizes, selection_size(n_unlabelled, len(sizes) - 1, p)]))


def build_model(params: Parameters, num_pids: int) -> ReID:
    """The network of `params`, on the GPU if there is one, started from weights if any are named."""
    backbone = build_backbone(params)
    NoNeck(backbone.dim, num_pids)  # drawn and left, so that recorded runs keep their bits
    head = HEADS[params.head](backbone.dim, num_pids, hidden=params.hidden, dropout=params.dropout)
    return ReID(backbone, head).to(device())


def build_optimizer(params: Parameters, model: ReID) -> torch.optim.Optimizer:
    """SGD as released, or Adam for short trainings; the backbone is not new and learns at a share of the rate."""
    rates = {model.backbone: params.lr * params.backbone_rate, model.head: params.lr}
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, weight_decay=params.weight_decay, momentum=params.momentum, nesterov=True)
    return torch.optim.Adam(groups, weight_decay=params.weight_decay)


def build_schedule(params: Parameters) -> Schedule:
    """ "steps", a tenth of the rate for the last epochs of a step, as released, or "cosine"."""
    if params.schedule == "steps":
        return warmup_steps(milestones=[params.epochs - params.ce_only_epochs], warmup=0)
    return warmup_cosine(params.epochs)


def build_step(params: Parameters, exclusive: ExclusiveLoss) -> Callable:
    """`training_step` with a table and the weights and switches that `params` give its terms."""
    switches = {name: getattr(params, f"fsr_{name}") for name in ("reading", "reduction", "squared")}
    fsr = functools.partial(feature_space_regularization, **switches)
    weights = {"ce_weight": params.ce_weight, "exclusive_share": params.exclusive_share}
    return functools.partial(training_step, exclusive=exclusive, fsr=fsr, **weights)


class LabelledAndUnlabelledBatches:
    """Batches of the images with a name, labelled or guessed, and beside each a batch of those without.

    The last `ce_only_epochs` have only the first, and so has every epoch where the others do not fill a batch.

    Args:
        params: of the run.
        images: all training images.
        named, labels: positions of the images that have a name, and their identities.
        rest: positions of the others.
        seed: of order and augmentation.
    """

    def __init__(self, params: Parameters, images: Images, named: Tensor, labels: Tensor, rest: Tensor, *, seed: int):
        size, augment = params.batch_size, Augment(rect_crop=params.rect_crop, pad=0, erase=0)

        def stream(positions, labels, seed):
            sampler = PlainSampler(len(positions), batch_size=size, seed=seed)
            return Batches(images[positions], labels, sampler, augment, seed=seed, device=device())

        self.labelled = stream(named, labels, seed)
        if params.steps_per_epoch:
            self.labelled = Cycle(self.labelled, params.steps_per_epoch)
        self.unlabelled, self.epoch, self.until = None, 0, params.epochs - params.ce_only_epochs
        if len(rest) >= size:
            self.unlabelled = Cycle(stream(rest, torch.arange(len(rest)), seed + 500), len(self.labelled))

    def __len__(self) -> int:
        return len(self.labelled)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of both streams."""
        self.epoch = epoch
        for stream in (self.labelled, self.unlabelled or self.labelled):
            stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[LabelledAndUnlabelled]:
        both = self.unlabelled is not None and self.epoch < self.until
        return map(LabelledAndUnlabelled, self.labelled, self.unlabelled if both else itertools.repeat(None))


def estimate(params: Parameters, unlabelled: Tensor, labelled: Tensor, labels: Tensor, truth: Tensor) -> Estimate:
    """Guess identities by the rule of `params`: "joint" distance, "nearest" label, or the "true" ones, as a bound."""
    if params.labels == "true":
        return Estimate(truth, torch.ones(len(truth)))
    if params.labels == "nearest":
        return nearest_labels(unlabelled, labelled, labels)
    return joint_labels(unlabelled, labelled, labels, **{name: getattr(params, name) for name in JOINT})


def assess(task: Task, labels: Tensor, selected: Tensor, before: Step | None) -> dict[str, Any]:
    """What guesses are worth beside the truth, how evenly they fall, and how many are those of the step before.

    Args:
        task: what the run is about.
        labels: (n_u,) guessed identities.
        selected: (n_u,) those that the next step is trained with.
        before: the step before; None in the first.
    """
    row = {"n": 0 if before is None else int(before.selected.sum()), "n_selected": int(selected.sum())}
    row |= label_quality(labels, task.truth[task.unlabelled], selected)._asdict()
    row["gini"] = gini(torch.bincount(labels[selected], minlength=len(task.labelled)))
    if before is not None:
        row["agreement"] = (labels == before.labels).double().mean().item()
    return row


def sweep(unlabelled: Tensor, labelled: Tensor, labels: Tensor, truth: Tensor, n: int) -> dict[str, float]:
    """Accuracy of guesses by the joint distance, and precision of the first n, for each K and mu of `SWEEPS`.

    The embeddings stay as they are: this is what a knob does to the labels, not to the training.
    """
    found = {}
    for knob, value in ((knob, value) for knob, values in SWEEPS.items() for value in values):
        guess = joint_labels(unlabelled, labelled, labels, **{knob: min(value, len(unlabelled))})
        quality = label_quality(guess.pids.cpu(), truth, select_confident(guess.confidence.cpu(), n))
        found |= {f"{name}_{knob}_{value:g}": getattr(quality, name) for name in ("accuracy", "precision")}
    return found


def gini(counts: Int64[Tensor, " c"]) -> float:
    r"""How unevenly images fall to identities: 0 as many each, towards 1 all to one.

    $$ G = \frac{\sum_i \sum_j |c_i - c_j|}{2 C \sum_i c_i} \tag{gini} $$

    >>> gini(torch.tensor([5, 5, 5])), gini(torch.tensor([0, 0, 3, 1]))
    (0.0, 0.625)
    """
    return float((counts[:, None] - counts).abs().sum() / (2 * len(counts) * counts.sum().clamp(min=1)))  # [gini]


def summary(steps: list[Step]) -> dict[str, Any]:
    """The metrics of a run: those of the last step, of two others, and the rows of all."""
    rows = [step.row for step in steps]
    settled = max(range(len(rows)), key=lambda number: (rows[number].get("agreement", 0.0), number))
    best = max(range(len(rows)), key=lambda number: rows[number]["rank1"])  # the first of equals
    metrics = rows[-1] | {"n_steps": len(rows), "step_settled": settled, "step_best": best}
    for title, number in (("settled", settled), ("best", best)):
        metrics |= {f"{name}_{title}": rows[number][name] for name in ("rank1", "mAP", "mAP_trapezoid")}
    for number, row in enumerate(rows):
        metrics |= {f"{name}_step{number}": value for name, value in row.items() if name not in FIXED}
    return metrics
