"""One labelled image of each person: train, guess the others, keep the guesses most to be trusted, and train anew.

Source: "Feature Space Regularization for person re-identification with one sample" and its released code, on top of
Y. Wu et al., "Progressive learning for person re-identification with one example", TIP 2019 (the baseline B).
"""

import copy
import functools
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from reidkit import files, runs
from reidkit.data.images import Augment, Images, identity_labels
from reidkit.data.samplers import Batches, PlainSampler, Sample
from reidkit.embed import embed
from reidkit.losses.one_shot import ExclusiveLoss, feature_space_regularization
from reidkit.models.one_shot import HEADS, OneShotReID
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
from reidkit.recipes import supervised
from reidkit.recipes.sources import Data, load_data
from reidkit.runs import Effect, Result, Variant
from reidkit.training import Cycle, fit, warmup_cosine, warmup_steps

NOTEBOOK = "05"
FIXED = ("ap", "n_query", "n_valid", "n_gallery")  # of the test: the same in all steps
TENSORS = ("labels", "confidence", "selected", "x")  # of a step
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
    "from_scratch": Variant("B + FSR + JD, from scratch", {"weights": ""}),
}
STUDIES = {  # groups of variants that are run together
    "headline": tuple(ABLATION),
    "bounds": ("direct", "one_shot_only", "supervised", "from_scratch", "convolution"),
    "smaller_steps": tuple(f"{name}_0_1" for name in ABLATION),
    "enlarging": ("default_0_05", "default_0_1", "default", "default_0_3"),
    **{knob: tuple(name for name in VARIANTS if name.startswith(f"{knob}_")) for knob in SWEEPS},
}
PAPER = "the paper, Table "
EFFECTS = (
    Effect("fsr", "base", "FSR helps", PAPER + "2"),
    Effect("joint", "base", "the joint distance helps", PAPER + "2 and Fig. 4"),
    Effect("default", "fsr", "the joint distance helps FSR", PAPER + "2"),
    Effect("default", "base", "both together help", PAPER + "2"),
    Effect("fsr_0_1", "base_0_1", "FSR helps at p = 0.1", PAPER + "2"),
    Effect("joint_0_1", "base_0_1", "the joint distance helps at p = 0.1", PAPER + "2 and Fig. 4"),
    Effect("default_0_1", "base_0_1", "both together help at p = 0.1", PAPER + "2"),
    Effect("default_0_1", "default", "p = 0.1 is better than p = 0.2"),
    Effect("default_0_05", "default_0_1", "p = 0.05 is better than p = 0.1"),
    Effect("default", "default_0_3", "p = 0.2 is better than p = 0.3"),
    Effect("fsr", "convolution", "FSR helps more than its convolution does"),
    Effect("one_shot_only", "direct", "one image of each person helps"),
    Effect("default", "one_shot_only", "guessed identities help"),
    Effect("supervised", "default", "all true identities help more"),
    Effect("default", "from_scratch", "a start from the reference weights helps"),
)


class Pair(NamedTuple):
    """A batch of labelled and one of unlabelled images; in these, `labels` are rows of the exclusive table."""

    labelled: Sample
    unlabelled: Sample | None


def training_step(
    model: OneShotReID, batch: Pair, *, exclusive: ExclusiveLoss, fsr: Callable,
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

    params: Mapping[str, Any]
    data: Data
    truth: Int64[Tensor, " n"]
    labelled: Int64[Tensor, " n_l"]
    unlabelled: Int64[Tensor, " n_u"]


@dataclass
class Step:
    """What is left of a step once it is done.

    Attributes:
        row: how the network retrieves, what its guesses are worth, and n, the guesses it was trained with.
        labels, confidence: (n_u,) guessed identities of all unlabelled images, 0 to C - 1, and how far to trust them.
        selected: (n_u,) the guesses that the next step is trained with.
        x: (n, d) embeddings of all training images, half precision.
        history: one row an epoch.
        objects: model, query and gallery (embeddings) and ranking, of the last step only.
    """

    row: dict[str, Any]
    labels: Int64[Tensor, " n_u"]
    confidence: Float[Tensor, " n_u"]
    selected: Bool[Tensor, " n_u"]
    x: Float[Tensor, "n d"]
    history: list[dict[str, Any]]
    objects: dict[str, Any] = field(default_factory=dict, repr=False)


def run(
    variant: str = "default",
    *,
    preset: str = "tiny",
    seed: int = 0,
    data_root: str = "",
    weights: str = "",
    checkpoint: str | Path = "",
    progress: bool = True,
    **overrides: int | float | str | bool,
) -> Result:
    """Run all steps of one variant; a killed call is continued by the next equal one, in whichever step it was.

    Arguments and errors are those of `supervised.run_supervised`.

    Returns:
        The result. `rank1`, `mAP` and the like are of the last step, which no test image chose; `_settled` of the step
        whose guesses agree best with those of the step before; `_best` of the step with the highest rank-1 in the test,
        as papers report it. `rank1_step0`, `precision_step0`, ... are all steps. In `objects` are task (`Task`), data,
        steps (`Step`), and of the last step model, query, gallery and ranking.
    """
    paths = {name: path for name, path in (("data_root", data_root), ("weights", weights)) if path}
    params = runs.settings(NOTEBOOK, preset, VARIANTS, variant, {"seed": seed, **paths, **overrides})
    start = time.perf_counter()
    data = load_data(params, progress=progress)
    split = one_shot_split(data.train.pids, data.train.camids, seed=params["split_seed"])
    task = Task(params, data, identity_labels(data.train.pids)[0], *split)
    folder = Path(checkpoint or supervised.checkpoint_folder(NOTEBOOK, variant, params))
    with files.lock(folder.parent / f".{folder.name}.lock"):
        steps = list(progress_steps(task, folder, progress=progress))
        if not checkpoint:
            shutil.rmtree(folder, ignore_errors=True)
    ranking, query = steps[-1].objects["ranking"], steps[-1].objects["query"]
    return Result(
        NOTEBOOK,
        preset,
        variant,
        seed,
        params,
        summary(steps) | {"n_labelled": len(task.labelled), "n_unlabelled": len(task.unlabelled)},
        seconds=round(time.perf_counter() - start, 2),
        peak_memory=runs.peak_memory(),
        per_query={"pid": query.pids.cpu()[ranking.valid].tolist(), "ap": ranking.ap.tolist()},
        objects={"task": task, "data": data, "steps": steps, **steps[-1].objects},
    )


def progress_steps(task: Task, folder: Path, *, progress: bool = True) -> Iterator[Step]:
    """Train, guess, select, and train anew with more; the steps that a killed run has done are read from `folder`."""
    params, n, step = task.params, len(task.unlabelled), None
    p, rules = params["enlarging_factor"], {name: params[name] for name in ("stop_rule", "final_full_step")}
    sizes = step_sizes(n, p, **rules)
    runs.seed(params["seed"])
    start = build_model(params, len(task.labelled))
    for number, following in enumerate([*sizes[1:], selection_size(n, len(sizes) - 1, p)]):
        note(f"step {number} of {len(sizes) - 1} · {sizes[number]} of {n} identities guessed", enabled=progress)
        kept, before, last = folder / f"step-{number:03d}", step, number == len(sizes) - 1
        step = None if last else read_step(kept, params)  # of the last one the model is wanted, too
        if step is None:
            model = copy.deepcopy(start)  # no step goes on from the network of the one before
            history = train(task, model, before, kept, seed=1000 * params["seed"] + number, progress=progress)
            step = look(task, model, before, history, following)
            write_step(step, kept, params)
            if not last:
                step.objects.clear()
                shutil.rmtree(kept, ignore_errors=True)
        yield step


def train(task: Task, model: OneShotReID, before: Step | None, folder: Path, *, seed: int, progress: bool) -> list:
    """Train with the labelled images and what the step before selected; returns one row an epoch."""
    params, named, labels, rest = task.params, task.labelled, task.truth[task.labelled], task.unlabelled
    if before is not None:
        named = torch.cat([named, rest[before.selected]])
        labels = torch.cat([labels, before.labels[before.selected]])
        rest = rest[~before.selected]
    device = next(model.parameters()).device
    table = ExclusiveLoss(max(1, len(rest)), model.dim, temperature=params["exclusive_temperature"]).to(device)
    schedules = {
        "steps": warmup_steps(milestones=[params["epochs"] - params["ce_only_epochs"]], warmup=0),
        "cosine": warmup_cosine(params["epochs"]),
    }
    runs.seed(seed)
    return fit(
        model,
        Pairs(params, task.data.train, named, labels, rest, seed=seed, device=device),
        build_step(params, table),
        epochs=params["epochs"],
        optimizers=build_optimizer(params, model),
        schedules=runs.choose("schedule", params["schedule"], schedules),
        state={"exclusive": table},
        checkpoint=folder,
        precision=params["precision"],
        progress=progress,
    ).rows


def build_model(params: Mapping[str, Any], num_pids: int) -> OneShotReID:
    """The network of `params`, on the GPU if there is one, started from weights if any are named."""
    backbone = supervised.build_model({**params, "neck": "none"}, num_pids).backbone
    options = {name: params[name] for name in ("hidden", "dropout")}
    head = runs.choose("head", params["head"], HEADS)(backbone.dim, num_pids, **options)
    return OneShotReID(backbone, head).to(next(backbone.parameters()).device)


def build_optimizer(params: Mapping[str, Any], model: OneShotReID) -> torch.optim.Optimizer:
    """SGD as released, or Adam for short trainings; the backbone is not new and learns at a share of the rate."""
    sgd = functools.partial(torch.optim.SGD, momentum=params["momentum"], nesterov=True)
    rates = {model.backbone: params["lr"] * params["backbone_rate"], model.head: params["lr"]}
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    kinds = {"sgd": sgd, "adam": torch.optim.Adam}
    return runs.choose("optimizer", params["optimizer"], kinds)(groups, weight_decay=params["weight_decay"])


def build_step(params: Mapping[str, Any], exclusive: ExclusiveLoss) -> Callable:
    """`training_step` with a table and the weights and switches that `params` give its terms."""
    switches = {name: params[f"fsr_{name}"] for name in ("reading", "reduction", "squared")}
    fsr = functools.partial(feature_space_regularization, **switches)
    names = ("ce_weight", "exclusive_share")
    return functools.partial(training_step, exclusive=exclusive, fsr=fsr, **{name: params[name] for name in names})


class Pairs:
    """Batches of the images with a name, and beside each a batch of those without.

    The last `ce_only_epochs` have only the first, and so has every epoch where the others do not fill a batch.
    """

    def __init__(self, params, images: Images, known: Tensor, labels: Tensor, rest: Tensor, *, seed: int, device):
        size, augment = params["batch_size"], Augment(rect_crop=params["rect_crop"], pad=0, erase=0)

        def stream(positions, labels, seed):
            sampler = PlainSampler(len(positions), batch_size=size, seed=seed)
            bank = images[positions].to(device)
            return Batches(bank, labels, sampler, augment, seed=seed, device=device)

        self.labelled = stream(known, labels, seed)
        if params["steps_per_epoch"]:
            self.labelled = Cycle(self.labelled, params["steps_per_epoch"])
        self.unlabelled, self.epoch, self.until = None, 0, params["epochs"] - params["ce_only_epochs"]
        if len(rest) >= size:
            self.unlabelled = Cycle(stream(rest, torch.arange(len(rest)), seed + 500), len(self.labelled))

    def __len__(self) -> int:
        return len(self.labelled)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of both streams."""
        self.epoch = epoch
        for stream in (self.labelled, self.unlabelled or self.labelled):
            stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Pair]:
        both = self.unlabelled is not None and self.epoch < self.until
        return map(Pair, self.labelled, self.unlabelled if both else itertools.repeat(None))


def look(task: Task, model: OneShotReID, before: Step | None, history: list, following: int) -> Step:
    """Search, guess the identity of every unlabelled image, select, and compare the guesses with the truth."""
    train, query, gallery = (embed(model, part, precision=task.params["precision"]) for part in task.data[1:])
    ranking, row = supervised.measure(query, gallery)
    sides = train.x[task.unlabelled], train.x[task.labelled], task.truth[task.labelled]
    truth = task.truth[task.unlabelled]
    labels, confidence = (part.cpu() for part in estimate(task.params, *sides, truth))
    selected = select_confident(confidence, following)
    row |= {"n": 0, "n_selected": following, **label_quality(labels, truth, selected)._asdict()}
    row["gini"] = gini(torch.bincount(labels[selected], minlength=len(task.labelled)))
    if before is not None:
        row |= {"n": int(before.selected.sum()), "agreement": (labels == before.labels).double().mean().item()}
    row |= sweep(*sides, truth, following)
    found = {"model": model, "query": query, "gallery": gallery, "ranking": ranking}
    return Step(row, labels, confidence, selected, train.x.half().cpu(), history, found)


def estimate(
    params: Mapping[str, Any], unlabelled: Tensor, labelled: Tensor, labels: Tensor, truth: Tensor
) -> Estimate:
    """Guess identities by the rule of `params`: "joint" distance, "nearest" label, or the "true" ones, as a bound."""
    rules = {
        "joint": lambda: joint_labels(unlabelled, labelled, labels, **{name: params[name] for name in JOINT}),
        "nearest": lambda: nearest_labels(unlabelled, labelled, labels),
        "true": lambda: Estimate(truth, torch.ones(len(truth))),
    }
    return runs.choose("labels", params["labels"], rules)()


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


def write_step(step: Step, path: Path, params: Mapping[str, Any]) -> None:
    """Keep a finished step in one file, which is whole or not there."""
    tensors = {name: getattr(step, name).contiguous() for name in TENSORS}
    words = {"row": step.row, "history": step.history, "params": runs.public(params)}
    data = save(tensors, metadata={name: json.dumps(value) for name, value in words.items()})
    files.write_bytes(path.with_suffix(".safetensors"), data)


def read_step(path: Path, params: Mapping[str, Any]) -> Step | None:
    """A step that was finished before; None if it was not.

    Raises:
        ValueError: the file is damaged, or of a run with other parameters.
    """
    path = path.with_suffix(".safetensors")
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            words = {name: json.loads(text) for name, text in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except Exception:  # whatever is wrong with it, what to do is the same
        raise ValueError(f"{path} is damaged; delete its folder to start again.") from None
    if words.pop("params") != runs.public(params):
        raise ValueError(f"{path} is of a run with other parameters; delete its folder, or name another checkpoint.")
    return Step(**words, **tensors)
