"""What `fit` is given by each recipe, made by the recipe's own builders from parameters and a bank of images."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from reidkit import runs
from reidkit.data.images import Images, identity_labels
from reidkit.losses.one_shot import ExclusiveLoss
from reidkit.losses.smoothing import cluster_membership
from reidkit.models.heads import Agents, ReID
from reidkit.recipes import baseline, generators, one_shot, ranking, soft_multilabel, sparse_smoothing, supervised
from reidkit.recipes.driver import device
from reidkit.recipes.extra_images import find_extra

RECIPES = {
    "02": baseline, "03": ranking, "04": sparse_smoothing, "05": one_shot, "06": soft_multilabel,
}  # fmt: skip


class Training(NamedTuple):
    """The arguments of `fit`, by their names."""

    model: nn.Module
    batches: Any
    training_step: Callable
    optimizers: Any
    schedules: Any = ()
    state: dict[str, Any] = {}  # noqa: RUF012


def of_labels(recipe, params, images: Images, people: int) -> Training:
    """02 and 03."""
    model = supervised.build_model(params, people)
    optimizer, schedule = supervised.build_optimizer(params, model), supervised.build_schedule(params)
    return Training(model, supervised.build_batches(params, images), recipe.build_step(params), optimizer, schedule)


def of_sparse_smoothing(params, images: Images, people: int) -> Training:
    """The second network of 04; its extra images are noise here."""
    labels = identity_labels(images.pids)[0]
    clusters = labels % 2
    extra = find_extra("noise", len(images), images, labels, clusters, [], generated=True, seed=0)
    model = sparse_smoothing.build_model(params, people)
    everybody = torch.arange(people)
    loss = sparse_smoothing.build_loss(params, cluster_membership(everybody, everybody % 2))
    batches = sparse_smoothing.build_batches(params, images, labels, extra)
    step = functools.partial(sparse_smoothing.training_step, loss=loss)
    schedule = sparse_smoothing.build_schedule(params, len(batches))
    return Training(model, batches, step, sparse_smoothing.build_optimizer(params, model), schedule)


def of_one_shot(params, images: Images, people: int) -> Training:
    """A step of 05 that has guessed nothing yet: every fourth image has a name."""
    named = torch.arange(len(images)) % 4 == 0
    rest = (~named).nonzero()[:, 0]
    model = one_shot.build_model(params, people)
    table = ExclusiveLoss(len(rest), model.dim).to(device())
    labels = identity_labels(images.pids)[0]
    known = named.nonzero()[:, 0]
    batches = one_shot.LabelledAndUnlabelledBatches(params, images, known, labels[known], rest, seed=0)
    step, optimizer = one_shot.build_step(params, table), one_shot.build_optimizer(params, model)
    return Training(model, batches, step, optimizer, one_shot.build_schedule(params), {"exclusive": table})


def of_soft_multilabel(params, images: Images, people: int, *, ready: bool = False) -> Training:
    """MAR, the second stage of 06; `ready` if centres and threshold are set from all images first."""
    backbone = supervised.build_backbone(params.but(weights="", stage_one="train"))
    model = ReID(backbone, Agents(backbone.dim, people)).to(device())
    sides = [
        soft_multilabel.build_batches(params, images, size, seed=number)
        for number, size in enumerate((params.source_batch, params.target_batch))
    ]
    if params.steps_per_epoch:
        sides[0] = soft_multilabel.Cycle(sides[0], params.steps_per_epoch)
    memory = soft_multilabel.Memory(params, len(images), people).to(device())
    if ready:
        memory.initialise(model, images, precision="fp32")
    step, optimizer = soft_multilabel.build_step(params, memory), soft_multilabel.build_optimizer(params, model)
    batches, schedule = soft_multilabel.JoinedBatches(*sides), soft_multilabel.build_schedule(params)
    return Training(model, batches, step, optimizer, schedule, {"memory": memory})


def of_agents(params, images: Images, people: int) -> Training:
    """The first stage of 06."""
    second = of_soft_multilabel(params, images, people)
    step = functools.partial(soft_multilabel.agent_step, weight=1.0)
    return second._replace(batches=second.batches.source, training_step=step, state={})


def of_generator(params, images: Images, _: int) -> Training:
    """A generator of 04, which learns from images of its own size."""
    size = (params.gan_height, params.gan_width)
    model = generators.build(params).to(device())
    snapshots = generators.Snapshots(params.gan_epochs, size, seed=0)
    pixels = torch.zeros(len(images), 3, *size, dtype=torch.uint8).to(device())
    batches = generators.GANBatches(pixels, batch_size=params.gan_batch, steps=params.gan_steps, seed=0)
    step = functools.partial(generators.gan_step, snapshots=snapshots)
    adam = functools.partial(torch.optim.Adam, lr=params.gan_lr, **generators.fused())
    optimizers = {name: adam(part.parameters()) for name, part in model.items()}
    return Training(model, batches, step, optimizers, (), {"snapshots": snapshots})


MAKE = {
    "02": functools.partial(of_labels, baseline),
    "03": functools.partial(of_labels, ranking),
    "04": of_sparse_smoothing,
    "05": of_one_shot,
    "06": of_soft_multilabel,
}


def training(number: str, params, images: Images, people: int, **options: bool) -> Training:
    """The training of a recipe, from the same start on every device."""
    runs.seed(0)
    return MAKE[number](params, images, people, **options)
