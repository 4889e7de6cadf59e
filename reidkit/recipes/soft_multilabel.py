"""People nobody has named: each is described by how much he resembles reference persons of another, labelled city.

Stage 1 learns to tell the reference persons apart; the rows of its last layer are their agents. Stage 2 goes on with
them and with unlabelled images of the target city at the same time.

Source: H.-X. Yu et al., Unsupervised Person Re-identification by Soft Multilabel Learning (MAR), CVPR 2019; where the
paper is silent, its released code.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit import runs
from reidkit.data.images import Augment, Images, identity_labels, load
from reidkit.data.samplers import Batches, PlainSampler, Sample
from reidkit.embed import embed
from reidkit.losses.soft_multilabel import (
    CrossCameraConsistency,
    MultilabelDiscriminativeLoss,
    MultilabelMemory,
    agent_learning_loss,
    joint_embedding_loss,
    soft_multilabels,
)
from reidkit.models.backbones import load_weights
from reidkit.models.heads import Agents, ReID
from reidkit.parameters import parameter
from reidkit.recipes import driver
from reidkit.recipes.driver import checkpoint_folder, device, fused, open_run
from reidkit.recipes.sources import find_weights, load_data, open_split
from reidkit.recipes.supervised import build_backbone, check_weights, measure
from reidkit.runs import Result, Variant
from reidkit.training import Cycle, History, Schedule, fit, warmup_cosine, warmup_steps

SWEEPS = {  # over a range much wider than the supplement's
    "lambda1": (0.0001, 0.002, 0.01, 0.1),
    "lambda2": (0.1, 0.3, 3.0, 10.0),
    "beta": (0.0, 0.05, 1.0, 5.0),
    "margin": (0.5, 1.5, 2.0),
    "mining_ratio": (0.001, 0.002, 0.02, 0.05),
    "memory_momentum": (0.0, 0.5, 0.99),
    "threshold_momentum": (0.0, 0.99),
    "target_batch": (32, 64, 256),
}
VARIANTS = {
    # Table 3
    "pretrained": Variant("pretrained", {"epochs": 0}),
    "baseline": Variant("baseline", {"mining": "features"}),
    "without_cml": Variant("MAR without L_CML", {"lambda1": 0.0}),
    "without_cml_ral": Variant("MAR without L_CML, L_RAL", {"lambda1": 0.0, "lambda2": 0.0}),
    "without_ral": Variant("MAR without L_RAL", {"lambda2": 0.0}),
    "default": Variant("MAR", {}),
    # what a gain has to be compared with
    "control": Variant("control: agents only", {"target": False}),
    "control_seen": Variant("control, batch norm sees the target", {"mining": "none", "lambda1": 0.0, "beta": 0.0}),
    # what changes one thing in MAR
    "without_mdl": Variant("MAR without L_MDL", {"mining": "none"}),
    "baseline_without_cml": Variant("baseline without L_CML", {"mining": "features", "lambda1": 0.0}),
    "printed_joint": Variant("MAR, L_RJ as printed", {"joint_reading": "eq8"}),
    **{
        f"{knob}_{value:g}".replace(".", "_"): Variant(f"{knob} = {value:g}", {knob: value})
        for knob, values in SWEEPS.items()
        for value in values
    },
}
STAGE_ONE = (  # the parameters that decide it, where it is trained
    *("preset", "source_dataset", "source_preset", "source_seed", "data_root", "source_batch", "steps_per_epoch"),
    *("weights", "height", "width", "resize", "backbone", "last_stride", "last_relu", "precision"),
    *("optimizer", "schedule", "pad", "erase"),
)


@dataclass(frozen=True, kw_only=True)
class Parameters(driver.Parameters):
    """What a run of the recipe is made with.

    Raises:
        ValueError: as `parameters.Parameters`, or no weights where there must be some.
    """

    dataset: str = parameter(
        "market", "the target, whose labels nobody learns from: market, duke; market1501, dukemtmc, ..."
    )
    weights: str = parameter("reference", driver.WEIGHTS)
    height: int = parameter(128, "pixels", low=16)
    width: int = parameter(64, "pixels", low=8)
    last_relu: bool = parameter(False, "whether the feature map ends with a ReLU (ledger D3.9)")
    source_dataset: str = parameter("auxiliary", "the named people, all images of theirs: auxiliary; msmt17, ...")
    source_preset: str = parameter("quick", "size of a rendered source", among=("quick", "tiny", "world"))
    source_seed: int = parameter(0, "of a rendered source; the reference weights know the people of tiny, 0", low=0)
    stage_one: str = parameter(
        "means",
        "agents: file, those in weights; means, of their people's embeddings; train, stage 1 is run",
        among=("file", "means", "train"),
    )
    stage_one_epochs: int = parameter(0, "of stage_one: train", low=0)
    stage_one_lr: float = parameter(1e-3, "of stage_one: train", above=0)
    stage_one_weight_decay: float = parameter(5e-4, "of stage_one: train", low=0)
    source_batch: int = parameter(24, "images of named people in a batch; the paper: 184 of each kind", low=1)
    target_batch: int = parameter(72, "images of strangers in a batch", low=1)
    epochs: int = parameter(3, "passes of steps_per_epoch steps", low=0)
    steps_per_epoch: int = parameter(4, "0: true passes over the source", low=0)
    optimizer: str = parameter("adam", "sgd (momentum 0.9), adam", among=("sgd", "adam"))
    schedule: str = parameter("cosine", "cosine, steps", among=("cosine", "steps"))
    lr: float = parameter(3e-4, "of either optimizer", above=0)
    weight_decay: float = parameter(5e-4, "of all but batch normalisation", low=0)
    pad: float = parameter(10.0, "pixels around an image at height 256, in proportion and rounded elsewhere", low=0)
    erase: float = parameter(0.5, "probability of random erasing", low=0, high=1)
    target: bool = parameter(True, "False: named people and their agents alone, the control")
    mining: str = parameter(
        "multilabels",
        "what tells positive from negative pairs: multilabels, features (baseline), none",
        among=("multilabels", "features", "none"),
    )
    mining_ratio: float = parameter(0.005, "p, share of a batch's pairs that are mined, 0..1", above=0, high=1)
    mining_from: int = parameter(1, "epoch, from 0, that mines first", low=0)
    baseline_split: float = parameter(
        0.5, "of mining: features, share of the mined pairs that is positive (ledger D3.11)", low=0, high=1
    )
    threshold_momentum: float = parameter(0.9, "of the old threshold of agreement, 0..1", low=0, high=1)
    memory_momentum: float = parameter(0.9, "of an image's old multilabel, 0..1", low=0, high=1)
    camera_momentum: float = parameter(0.9904, "of the old camera centres, 0..1: 1 - batch / 10,000", low=0, high=1)
    lambda1: float = parameter(0.0005, "weight of L_CML, the consistency over cameras", low=0)
    camera_reduction: str = parameter(
        "mean", "of L_CML over cameras and both moments: mean, sum (ledger D3.2)", among=("mean", "sum")
    )
    lambda2: float = parameter(1.0, "weight of L_RAL, the reference agents", low=0)
    beta: float = parameter(0.2, "weight of L_RJ within L_RAL", low=0)
    margin: float = parameter(1.0, "m of L_RJ, squared distance of unit vectors, 0..4", above=0, high=4)
    joint_reading: str = parameter("code", "of L_RJ: code, eq8 (ledger D3.1)", among=("code", "eq8"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage_one != "train" and self.weights in driver.SCRATCH:
            which, way = self.weights or "empty", self.stage_one
            raise ValueError(f'weights is {which}, and stage_one is "{way}"; name a file, or set stage_one to "train".')


class SourceAndTarget(NamedTuple):
    """A batch of labelled source images, one of target images whose labels nobody learns from, and the epoch."""

    source: Sample
    target: Sample
    epoch: int


class JoinedBatches:
    """Source batches, and with each a target batch; the target begins again where it ends sooner.

    >>> list(JoinedBatches(Cycle("ab", 3), Cycle("x", 3)))[2]
    SourceAndTarget(source='a', target='x', epoch=0)
    """

    def __init__(self, source: Iterable, target: Iterable):
        self.source, self.target, self.epoch = source, Cycle(target, len(source)), 0

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of both."""
        self.epoch = epoch
        for batches in (self.source, self.target):
            batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[SourceAndTarget]:
        return (SourceAndTarget(*both, self.epoch) for both in zip(self.source, self.target, strict=True))


class Memory(nn.Module):
    """What MAR remembers from step to step, and a checkpoint keeps.

    Attributes:
        multilabels: of every target image, averaged over the visits to it.
        cameras: the loss L_CML, with the centres of all cameras.
        mining: the loss L_MDL, with its threshold; None where nothing is mined.
    """

    def __init__(self, params: Parameters, num_images: int, num_agents: int):
        super().__init__()
        self.multilabels = MultilabelMemory(num_images, num_agents, momentum=params.memory_momentum)
        self.cameras = CrossCameraConsistency(
            num_agents, momentum=params.camera_momentum, reduction=params.camera_reduction
        )
        self.mining = None
        if params.mining != "none":
            self.mining = MultilabelDiscriminativeLoss(
                mining_ratio=params.mining_ratio,
                momentum=params.threshold_momentum,
                baseline_split=params.baseline_split if params.mining == "features" else None,
            )

    def initialise(self, model: ReID, target: Images, **options: str | bool) -> None:
        """Set centres and threshold from all target images, as the network sees them now; `options` as in `embed`."""
        x, _, camids = embed(model, target, **options)
        log_y = soft_multilabels(x, model.head.agents.detach(), log=True)
        self.cameras.initialise(log_y, camids)
        if self.mining is not None:
            self.mining.initialise(log_y.exp())


def training_step(
    model: ReID, batch: SourceAndTarget, *, memory: Memory, lambda1: float, lambda2: float, beta: float, margin: float,
    joint_reading: str, mining_from: int
) -> dict[str, Tensor]:  # fmt: skip
    """One step of MAR: reference persons go on being learnt, and strangers are compared by their multilabels."""
    source, target = (model(images).embedding for images in (batch.source.images, batch.target.images))
    agents = model.head.agents
    # RAL: each source image at its own agent, and no image near another person's
    al = agent_learning_loss(source, batch.source.labels, agents)
    rj = joint_embedding_loss(source, batch.source.labels, target, agents, margin=margin, reading=joint_reading)
    # CML: multilabels are distributed in each camera as in all of them
    log_y = soft_multilabels(target, agents.detach(), log=True)
    memory.cameras.update(log_y, batch.target.camids)
    cml = memory.cameras(log_y, batch.target.camids)
    terms = {"agents": lambda2 * al, "joint": lambda2 * beta * rj, "cameras": lambda1 * cml}
    if memory.mining is not None and batch.epoch >= mining_from:
        # MDL: of the nearest pairs, those that agree about the reference persons move together, the others apart
        memory.multilabels.update(batch.target.indices, log_y.exp())
        y = memory.multilabels[batch.target.indices].to(target)
        mined = memory.mining.mine(target, y)
        terms["discriminative"] = memory.mining(target, y, mined)  # [total]
        terms |= count_mined(*mined, batch.target.labels)
        memory.mining.update(y)
    return terms


def agent_step(model: ReID, batch: Sample, *, weight: float) -> dict[str, Tensor]:
    """One step of stage 1, and of the control: source images and their agents alone."""
    return {"agents": weight * agent_learning_loss(model(batch.images).embedding, batch.labels, model.head.agents)}


def count_mined(pairs: Tensor, positive: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """How many pairs are positive and negative, and how many of either are of one person: for the record only.

    >>> pairs = torch.tensor([[0, 1], [0, 2], [0, 1]])
    >>> [int(n) for n in count_mined(pairs, torch.tensor([True, True, False]), torch.tensor([5, 5, 6])).values()]
    [2, 1, 1, 1]
    """
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    kinds = {"positives": positive, "positives_same": positive & same}
    kinds |= {"negatives": ~positive, "negatives_same": ~positive & same}
    return {name: kind.sum(dtype=torch.float32) for name, kind in kinds.items()}


def run(
    variant: str = "default",
    *,
    preset: str = "tiny",
    seed: int = 0,
    data_root: str | None = None,
    weights: str | None = None,
    **options: int | float | str | bool | Path,
) -> Result:
    """Train one variant from stage 1 on, embed query and gallery of the target, and evaluate; arguments and errors are
    those of `driver.open_run`.

    Returns:
        The result. Its metrics hold too, of the first and of the last epoch that mined, `precision_*`, the share of
        positive pairs that are of one person, and `precision_nearest_*`, the same of all mined pairs, whatever their
        multilabels. `mAP_mar` is in the convention of the released code, which counts too much (D3.5); `mAP` is the
        usual one. In `objects` are data (of the target), source (images of the reference persons), model, memory
        (`Memory`, None in the control), history, query and gallery (embeddings) and ranking.
    """
    start = {"preset": preset, "seed": seed, "data_root": data_root, "weights": weights}
    with open_run("soft_multilabel", Parameters, VARIANTS, variant, **start, **options) as run:
        params = run.params
        check_weights(params)
        data = load_data(params, progress=run.progress)
        source = everybody(params, progress=run.progress)
        model = stage_one(params, source, progress=run.progress)
        runs.seed(params.seed)  # stage 1 is the same for all seeds
        batches = build_batches(params, source, params.source_batch, seed=2 * params.seed, steps=params.steps_per_epoch)
        memory = None
        if params.target:
            strangers = build_batches(params, data.train, params.target_batch, seed=2 * params.seed + 1)
            batches = JoinedBatches(batches, strangers)
            memory = Memory(params, len(data.train), len(model.head.agents)).to(device())
            memory.initialise(model, data.train, **run.embedding)
        history = fit(
            model,
            batches,
            build_step(params, memory),
            epochs=params.epochs,
            optimizers=build_optimizer(params, model),
            schedules=build_schedule(params),
            state={} if memory is None else {"memory": memory},
            **run.fitting,
        )
        query, gallery = (embed(model, part, **run.embedding) for part in (data.query, data.gallery))
        ranking, metrics = measure(query, gallery)
        metrics |= precision_of_mining(history)
        objects = {"data": data, "source": source, "model": model, "memory": memory, "history": history}
        return run.result(metrics, query=query, ranking=ranking, gallery=gallery, **objects)


def everybody(params: Parameters, *, progress: bool = True) -> Images:
    """All images of the named people of the source, whichever part they are in (D3.6); nobody of them is searched."""
    split = open_split(
        params.source_dataset,
        data_root=params.data_root,
        preset=params.source_preset,
        city_seed=params.source_seed,
        progress=progress,
    )
    records = [record for part in (split.train, split.query, split.gallery) for record in part if record.pid > 0]
    return load(records, (params.height, params.width), resize=params.resize, progress=progress)


def stage_one(params: Parameters, source: Images, *, progress: bool = True) -> ReID:
    """The network and the agents that every variant and seed starts from, by the parameter `stage_one`.

    "file": both of `weights`, of a source of just these people; "means": the network of `weights`, and as each agent
    the mean embedding of its person; "train": learnt here from `weights` or from scratch, and kept under `runs`.

    Raises:
        ValueError: weights that do not fit.
    """
    way = params.stage_one
    runs.seed(0)
    labels, people = identity_labels(source.pids)
    backbone = build_backbone(params.but(stage_one="train", weights="scratch") if way == "file" else params)
    model = ReID(backbone, Agents(backbone.dim, people)).to(device())
    if way == "file":  # it names the agents as the last layer of its network
        network = nn.ModuleDict({**dict(backbone.named_children()), "classifier": model.head.classifier})
        load_weights(network, find_weights(params.weights, params.backbone))
    elif way == "means":
        x = embed(model, source, precision=params.precision, progress=progress).x
        sums = x.new_zeros(people, x.shape[1]).index_add_(0, labels.to(x.device), x)
        model.head.classifier.weight.data.copy_(F.normalize(sums))
    else:
        train_stage_one(params, model, source, progress=progress)
    return model


def train_stage_one(params: Parameters, model: ReID, source: Images, *, progress: bool = True) -> None:
    """Learn to tell the reference persons apart, or take what an equal call has learnt: its checkpoint is kept."""
    shared = {name: getattr(params, name) for name in STAGE_ONE}
    own = {name: getattr(params, f"stage_one_{name}") for name in ("epochs", "lr", "weight_decay")}
    alone = Parameters.of(shared | own | {"stage_one": "train", "seed": 0})
    fit(
        model,
        build_batches(alone, source, alone.source_batch, seed=alone.seed, steps=alone.steps_per_epoch),
        functools.partial(agent_step, weight=1.0),
        epochs=alone.epochs,
        optimizers=build_optimizer(alone, model),
        schedules=build_schedule(alone),
        checkpoint=checkpoint_folder("soft_multilabel", "stage_one", alone),
        precision=alone.precision,
        progress=progress,
    )


def build_batches(params: Parameters, images: Images, batch_size: int, *, seed: int, steps: int = 0) -> Batches | Cycle:
    """Augmented batches of images in any order; an epoch is `steps` batches, and with 0 one pass."""
    sampler = PlainSampler(len(images), batch_size=batch_size, seed=seed)
    augment = Augment(pad=params.pad, erase=params.erase)
    batches = Batches(images, identity_labels(images.pids)[0], sampler, augment, seed=seed, device=device())
    return Cycle(batches, steps) if steps else batches


def build_step(params: Parameters, memory: Memory | None) -> Callable:
    """`training_step` with what it remembers and the weights that `params` give its terms; without, `agent_step`."""
    if memory is None:
        return functools.partial(agent_step, weight=params.lambda2)
    names = ("lambda1", "lambda2", "beta", "margin", "joint_reading", "mining_from")
    return functools.partial(training_step, memory=memory, **{name: getattr(params, name) for name in names})


def build_optimizer(params: Parameters, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, as released, or Adam; batch normalisation keeps its weights."""
    others, vectors = ([p for p in model.parameters() if (p.ndim == 1) == flat] for flat in (False, True))
    groups = [{"params": others, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.lr, momentum=0.9, **fused())
    return torch.optim.Adam(groups, lr=params.lr, **fused())


def build_schedule(params: Parameters) -> Schedule:
    """ "steps", a tenth after 5/8 and after 7/8 of the epochs, as released, or "cosine"."""
    if params.schedule == "cosine":
        return warmup_cosine(params.epochs)
    return warmup_steps(milestones=[int(params.epochs / 8 * share) for share in (5, 7)], warmup=0)


def precision_of_mining(history: History) -> dict[str, float]:
    """Which share of the pairs is of one person, in the first and in the last epoch that mined."""
    rows = [row for row in history.rows if "discriminative" in row]
    found = {}
    for when, row in zip(("first", "last"), (rows[0], rows[-1]) if rows else (), strict=False):
        same, mined = (row[f"positives{what}"] + row[f"negatives{what}"] for what in ("_same", ""))
        found[f"precision_nearest_{when}"] = same / mined
        if row["positives"]:
            found[f"precision_{when}"] = row["positives_same"] / row["positives"]
    return found
