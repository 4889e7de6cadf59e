"""People nobody has named: each is described by how much he resembles reference persons of another, labelled city.

Stage 1 learns to tell the reference persons apart; the rows of its last layer are their agents. Stage 2 goes on with
them and with unlabelled images of the target city at the same time.

Source: H.-X. Yu et al., Unsupervised Person Re-identification by Soft Multilabel Learning (MAR), CVPR 2019; where the
paper is silent, its released code.
"""

import functools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit import files, runs
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
from reidkit.models.heads import ReID
from reidkit.recipes.sources import find_weights, load_data, open_split
from reidkit.recipes.supervised import build_model, checkpoint_folder, measure
from reidkit.runs import Effect, Result, Variant
from reidkit.training import Cycle, History, Schedule, fit, warmup_cosine, warmup_steps

NOTEBOOK = "06"
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
STUDIES = {  # groups of variants that are run together
    "table3": ("pretrained", "baseline", "without_cml", "without_cml_ral", "without_ral", "default"),
    "headline": ("pretrained", "control", "baseline", "without_cml", "without_cml_ral", "without_ral", "default"),
    "controls": ("control", "control_seen", "without_mdl", "default"),
    "readings": ("baseline_without_cml", "printed_joint"),
    **{knob: tuple(name for name in VARIANTS if name.rpartition(f"{knob}_")[1]) for knob in SWEEPS},
}
STAGE_ONE = (  # what decides it, where it is trained
    *("preset", "source_dataset", "source_preset", "source_seed", "source_batch", "weights", "height", "width"),
    *("backbone", "last_stride", "last_relu", "stage_one_epochs", "stage_one_lr", "steps_per_epoch", "schedule"),
    *("optimizer", "weight_decay", "pad", "erase", "precision"),
)
PAPER = "the paper, Table 3"
EFFECTS = (
    Effect("default", "pretrained", "MAR is better than direct transfer", PAPER),
    Effect("default", "control", "MAR is better than as many steps on the agents alone"),
    Effect("default", "baseline", "multilabels mine better than features", PAPER),
    Effect("without_cml", "baseline_without_cml", "they do so where no camera is corrected"),
    Effect("default", "without_cml", "consistency over cameras helps", PAPER),
    Effect("default", "without_ral", "reference agents have to go on learning", PAPER),
    Effect("default", "without_cml_ral", "both together help", PAPER),
    Effect("without_cml", "without_cml_ral", "the agents help without the cameras", PAPER),
    Effect("without_cml_ral", "pretrained", "mining alone helps", PAPER),
    Effect("default", "without_mdl", "mining helps the other two"),
    Effect("control", "pretrained", "more steps on the agents alone help"),
    Effect("control_seen", "control", "batch norm that sees the target helps"),
)


class Streams:
    """Source batches, and with each a target batch; the target begins again where it ends sooner.

    >>> list(Streams(Cycle("ab", 3), Cycle("x", 3)))[2]
    Pair(source='a', target='x', epoch=0)
    """

    def __init__(self, source: Iterable, target: Iterable):
        self.source, self.target, self.epoch = source, Cycle(target, len(source)), 0

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of both."""
        self.epoch = epoch
        for stream in (self.source, self.target):
            stream.set_epoch(epoch)

    def __iter__(self) -> Iterator["Pair"]:
        return (Pair(*both, self.epoch) for both in zip(self.source, self.target, strict=True))


class Pair(NamedTuple):
    """A batch of labelled source images, one of target images whose labels nobody learns from, and the epoch."""

    source: Sample
    target: Sample
    epoch: int


class Memory(nn.Module):
    """What MAR remembers from step to step, and a checkpoint keeps.

    Attributes:
        multilabels: of every target image, averaged over the visits to it.
        cameras: the loss L_CML, with the centres of all cameras.
        mining: the loss L_MDL, with its threshold; None where nothing is mined.
    """

    def __init__(self, params: Mapping[str, Any], num_images: int, num_agents: int):
        super().__init__()
        self.multilabels = MultilabelMemory(num_images, num_agents, momentum=params["memory_momentum"])
        self.cameras = CrossCameraConsistency(num_agents, momentum=params["camera_momentum"])
        ways = {"multilabels": None, "features": params["baseline_split"], "none": None}
        split, momentum = runs.choose("mining", params["mining"], ways), params["threshold_momentum"]
        mining = {"mining_ratio": params["mining_ratio"], "momentum": momentum, "baseline_split": split}
        self.mining = None if params["mining"] == "none" else MultilabelDiscriminativeLoss(**mining)

    def initialise(self, model: ReID, target: Images, **options: str | bool) -> None:
        """Set centres and threshold from all target images, as the network sees them now; `options` as in `embed`."""
        x, _, camids = embed(model, target, **options)
        log_y = soft_multilabels(x, model.head.agents.detach(), log=True)
        self.cameras.initialise(log_y, camids)
        if self.mining is not None:
            self.mining.initialise(log_y.exp())


def training_step(
    model: ReID, batch: Pair, *, memory: Memory, lambda1: float, lambda2: float, beta: float, margin: float,
    joint_reading: str, mining_from: int
) -> dict[str, Tensor]:  # fmt: skip
    """One step of MAR: reference persons go on being learnt, and strangers are compared by their multilabels."""
    source, target = (model(stream.images).embedding for stream in (batch.source, batch.target))
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
        terms["discriminative"] = memory.mining(target, y)  # [total]
        terms |= count_mined(*memory.mining.partition(target, y), batch.target.labels)
        memory.mining.update(y)
    return terms


def agent_step(model: ReID, batch: Sample, *, weight: float) -> dict[str, Tensor]:
    """One step of stage 1, and of the control: source images and their agents alone."""
    return {"agents": weight * agent_learning_loss(model(batch.images).embedding, batch.labels, model.head.agents)}


def count_mined(positive: Tensor, negative: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """How many pairs are positive and negative, and how many of either are of one person: for the record only.

    >>> pairs = torch.tensor([[0, 1], [0, 2]])
    >>> [int(n) for n in count_mined(pairs, pairs[:1], torch.tensor([5, 5, 6])).values()]
    [2, 1, 1, 1]
    """
    same = [(labels[pairs[:, 0]] == labels[pairs[:, 1]]).sum() for pairs in (positive, negative)]
    counts = [torch.tensor(len(positive)), same[0], torch.tensor(len(negative)), same[1]]
    names = ("positives", "positives_same", "negatives", "negatives_same")
    return {name: count.to(labels.device, torch.float32) for name, count in zip(names, counts, strict=True)}


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
    """Train one variant from stage 1 on, embed query and gallery of the target, and evaluate.

    Arguments, result and errors are those of `supervised.run_supervised`. In `objects` are also source (images of the
    reference persons) and memory (`Memory`, None in the control). The metrics hold too, of the first and of the last
    epoch that mined, `precision_*`, the share of positive pairs that are of one person, and `precision_nearest_*`, the
    same of all mined pairs, whatever their multilabels. `mAP_mar` is in the convention of the released code, which
    counts too much (D3.5); `mAP` is the usual one.
    """
    paths = {name: path for name, path in (("data_root", data_root), ("weights", weights)) if path}
    params = runs.settings(NOTEBOOK, preset, VARIANTS, variant, {"seed": seed, **paths, **overrides})
    start = time.perf_counter()
    data, source = load_data(params, progress=progress), everybody(params, progress=progress)
    model = stage_one(params, source, progress=progress)
    runs.seed(seed)
    batches, memory = stream(params, source, params["source_batch"], seed=2 * seed), None
    if params["target"]:
        batches = Streams(batches, stream(params, data.train, params["target_batch"], seed=2 * seed + 1, steps=0))
        memory = Memory(params, len(data.train), len(model.head.agents)).to(model.head.agents.device)
        memory.initialise(model, data.train, precision=params["precision"], progress=progress)
    folder = Path(checkpoint or checkpoint_folder(NOTEBOOK, variant, params))
    state = {} if memory is None else {"memory": memory}
    history = train(params, model, batches, build_step(params, memory), folder, state=state, progress=progress)
    query, gallery = (embed(model, part, precision=params["precision"], progress=progress) for part in data[2:])
    ranking, metrics = measure(query, gallery)
    if not checkpoint:
        shutil.rmtree(folder, ignore_errors=True)
    seconds, peak = round(time.perf_counter() - start, 2), runs.peak_memory()
    per_query = {"pid": query.pids.cpu()[ranking.valid].tolist(), "ap": ranking.ap.tolist()}
    objects = {"data": data, "source": source, "model": model, "memory": memory, "history": history}
    objects |= {"query": query, "gallery": gallery, "ranking": ranking}
    metrics |= precision(history)
    return Result(NOTEBOOK, preset, variant, seed, params, metrics, seconds, peak, per_query=per_query, objects=objects)


def everybody(params: Mapping[str, Any], *, progress: bool = True) -> Images:
    """All images of the named people of the source, whichever part they are in (D3.6); nobody of them is searched."""
    city = {"preset": params["source_preset"], "city_seed": params["source_seed"]}
    split = open_split(params["source_dataset"], data_root=params["data_root"], **city, progress=progress)
    records = [record for part in (split.train, split.query, split.gallery) for record in part if record.pid > 0]
    return load(records, (params["height"], params["width"]), progress=progress)


def stage_one(params: Mapping[str, Any], source: Images, *, progress: bool = True) -> ReID:
    """The network and the agents that every variant and seed starts from, by the parameter `stage_one`.

    "file": both of `weights`, of a source of just these people; "means": the network of `weights`, and as each agent
    the mean embedding of its person; "train": learnt here from `weights` or from scratch, and kept under `runs`.

    Raises:
        ValueError: another way; weights that do not fit; no weights where there must be some.
    """
    way = runs.choose("stage_one", params["stage_one"], {name: name for name in ("file", "means", "train")})
    if way != "train" and not params["weights"]:
        raise ValueError(f'weights is empty, and stage_one is "{way}"; name a file, or set stage_one to "train".')
    runs.seed(0)
    labels, people = identity_labels(source.pids)
    model = build_model({**params, "neck": "agents", "weights": "" if way == "file" else params["weights"]}, people)
    if way == "file":
        model.backbone.classifier = model.head.classifier  # a file names the agents as the last layer of its network
        load_weights(model.backbone, find_weights(params["weights"]))
        del model.backbone.classifier
    if way == "means":
        x = embed(model, source, precision=params["precision"], progress=progress).x
        sums = x.new_zeros(people, x.shape[1]).index_add_(0, labels.to(x.device), x)
        model.head.classifier.weight.data.copy_(F.normalize(sums))
    if way == "train":
        made = {name: params[name] for name in STAGE_ONE} | {"lr": params["stage_one_lr"], "seed": 0}
        folder = checkpoint_folder(NOTEBOOK, "stage_one", made)
        batches, step = stream(made, source, made["source_batch"], seed=0), functools.partial(agent_step, weight=1.0)
        train(made | {"epochs": made["stage_one_epochs"]}, model, batches, step, folder, progress=progress)
    return model


def train(
    params: Mapping[str, Any], model: ReID, batches: Any, step: Callable, checkpoint: Path, **options: Any
) -> History:
    """`fit` with the epochs, optimizer, schedule and precision of `params`."""
    options |= {"optimizers": build_optimizer(params, model), "schedules": build_schedule(params)}
    return fit(
        model, batches, step, epochs=params["epochs"], checkpoint=checkpoint, precision=params["precision"], **options
    )


def save_stage_one(model: ReID, path: str | Path) -> None:
    """Write network and agents to a file that `weights` with `stage_one="file"` takes."""
    tensors = model.backbone.state_dict() | {"classifier.weight": model.head.agents}
    with files.atomic_path(Path(path)) as part:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part)


def stream(params: Mapping[str, Any], images: Images, batch_size: int, *, seed: int, steps: int | None = None):
    """Augmented batches of images in any order; an epoch is one pass, or `steps_per_epoch`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = PlainSampler(len(images), batch_size=batch_size, seed=seed)
    augment = Augment(pad=params["pad"], erase=params["erase"])
    batches = Batches(images, identity_labels(images.pids)[0], sampler, augment, seed=seed, device=device)
    steps = params["steps_per_epoch"] if steps is None else steps
    return Cycle(batches, steps) if steps else batches


def build_step(params: Mapping[str, Any], memory: Memory | None) -> Callable:
    """`training_step` with what it remembers and the weights that `params` give its terms; without, `agent_step`."""
    if memory is None:
        return functools.partial(agent_step, weight=params["lambda2"])
    names = ("lambda1", "lambda2", "beta", "margin", "joint_reading", "mining_from")
    return functools.partial(training_step, memory=memory, **{name: params[name] for name in names})


def build_optimizer(params: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, as released, or Adam; batch normalisation keeps its weights."""
    optimizers = {"sgd": functools.partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam}
    make = runs.choose("optimizer", params["optimizer"], optimizers)
    others, vectors = ([p for p in model.parameters() if (p.ndim == 1) == flat] for flat in (False, True))
    groups = [{"params": others, "weight_decay": params["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    return make(groups, lr=params["lr"])


def build_schedule(params: Mapping[str, Any]) -> Schedule:
    """ "steps", a tenth after 5/8 and after 7/8 of the epochs, as released, or "cosine"."""
    drops = [int(params["epochs"] / 8 * share) for share in (5, 7)]
    schedules = {"steps": warmup_steps(milestones=drops, warmup=0), "cosine": warmup_cosine(params["epochs"])}
    return runs.choose("schedule", params["schedule"], schedules)


def precision(history: History) -> dict[str, float]:
    """Which share of the pairs is of one person, in the first and in the last epoch that mined."""
    rows = [row for row in history.rows if "discriminative" in row]
    found = {}
    for when, row in zip(("first", "last"), (rows[0], rows[-1]) if rows else (), strict=False):
        same, mined = (row[f"positives{what}"] + row[f"negatives{what}"] for what in ("_same", ""))
        found[f"precision_nearest_{when}"] = same / mined
        if row["positives"]:
            found[f"precision_{when}"] = row["positives_same"] / row["positives"]
    return found
