"""Training with labels, as every recipe that has them does it: from parameters to a network, batches, and metrics."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reidkit.data.images import Augment, Images, identity_labels
from reidkit.data.records import JUNK
from reidkit.data.samplers import Batches, PKSampler, PlainSampler
from reidkit.embed import Embeddings
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.metrics.retrieval import Ranking, evaluate, evaluate_distances
from reidkit.models.backbones import BACKBONES, load_weights
from reidkit.models.heads import NECKS, ReID
from reidkit.parameters import parameter
from reidkit.recipes import driver
from reidkit.recipes.driver import device, fused
from reidkit.recipes.sources import ARCHIVES, find_weights
from reidkit.training import Cycle, Schedule, warmup_cosine, warmup_steps


@dataclass(frozen=True, kw_only=True)
class Parameters(driver.Parameters):
    """What recipes have that learn from the labels of all images."""

    neck: str = parameter("bn", "bn, none", among=("bn", "none"))
    sampler: str = parameter("pk", "pk: p identities x k images; plain: as many at random", among=("pk", "plain"))
    p: int = parameter(12, "identities in a batch", low=1)
    k: int = parameter(4, "images of each identity", low=1)
    epochs: int = parameter(4, "passes of steps_per_epoch steps", low=0)
    steps_per_epoch: int = parameter(30, "0: true passes over the data", low=0)
    schedule: str = parameter("cosine", "cosine, steps", among=("cosine", "steps"))
    warmup: float = parameter(0.15, 'of the schedule "cosine": share of the training that warms up', low=0, high=1)
    lr_index_offset: int = parameter(
        0, 'of the schedule "steps": 1 drops the rate one epoch earlier (ledger D2.11)', low=0, high=1
    )
    lr: float = parameter(2e-3, "Adam", above=0)
    weight_decay: float = parameter(5e-4, "of Adam, on every weight", low=0)
    label_smoothing: float = parameter(0.1, "share of the target spread over all identities", low=0, high=1)
    erase: float = parameter(0.5, "probability of random erasing", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p * self.k < 2 and self.neck == "bn":
            raise ValueError(
                'p and k make batches of one image, which have no statistics; set one of them to 2, or neck to "none".'
            )


def check_weights(params: driver.Parameters) -> None:
    """Refuse weights that do not fit the backbone of `params`, before data are rendered or loaded; random numbers stay.

    Raises:
        ValueError: the file is not there, is no file of weights, or does not fit; or nothing is said about the start,
            and the images are an archive's, whose recipes start from ImageNet.
    """
    if not params.weights and params.dataset.replace("{seed}", "0") in ARCHIVES:
        raise ValueError(
            f"weights is empty, and {params.dataset} is an archive, whose recipes start from ImageNet; "
            "set it to imagenet or to a file, or to scratch if that is what you want."
        )
    if params.weights not in driver.SCRATCH:
        first = params.values().get("cluster_backbone")  # the other network of 04, where it is another
        with torch.random.fork_rng(devices=[]):
            for name in dict.fromkeys((params.backbone, first or params.backbone)):
                build_backbone(params.but(backbone=name))


def build_backbone(params: driver.Parameters) -> nn.Module:
    """The backbone of `params`, started from weights if any are named."""
    options = {} if params.last_relu else {"last_relu": False}
    backbone = BACKBONES[params.backbone](last_stride=params.last_stride, **options)
    if params.weights not in driver.SCRATCH:
        load_weights(backbone, find_weights(params.weights, params.backbone))
    return backbone


def build_model(params: Parameters, num_pids: int) -> ReID:
    """The network of `params`, on the GPU if there is one."""
    backbone = build_backbone(params)
    return ReID(backbone, NECKS[params.neck](backbone.dim, num_pids)).to(device())


def build_batches(params: Parameters, images: Images) -> Batches | Cycle:
    """Augmented batches of the training images: p identities x k images, or as many of anybody."""
    labels, p, k, seed = identity_labels(images.pids)[0], params.p, params.k, params.seed
    if params.sampler == "pk":
        sampler = PKSampler(labels, p=p, k=k, seed=seed)
    else:
        sampler = PlainSampler(len(labels), batch_size=p * k, seed=seed)
    batches = Batches(images, labels, sampler, Augment(erase=params.erase), seed=seed, device=device())
    return Cycle(batches, params.steps_per_epoch) if params.steps_per_epoch else batches


def build_optimizer(params: Parameters, model: nn.Module) -> torch.optim.Optimizer:
    """Adam over all that learns; the weight decay is L2 and spares nothing, as in the released code."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(learning, lr=params.lr, weight_decay=params.weight_decay, **fused())


def build_schedule(params: Parameters) -> Schedule:
    """ "steps", the released recipe's, or "cosine", for a training of any length."""
    if params.schedule == "steps":
        return warmup_steps(offset=params.lr_index_offset)
    return warmup_cosine(params.epochs, warmup=params.warmup)


def measure(query: Embeddings, gallery: Embeddings) -> tuple[Ranking, dict[str, Any]]:
    """Rank the gallery for each query: CMC, and mAP in the three conventions papers use without saying which.

    Returns:
        The ranking, and metrics as a result records them: fractions and counts.
    """
    sides = (query.x, gallery.x, query.pids, query.camids, gallery.pids, gallery.camids)
    ranking = evaluate(*sides, ap="mean")
    metrics = {f"rank{k}": float(ranking.cmc[k - 1]) for k in (1, 5, 10, 20)}
    metrics |= {"mAP": float(ranking.mAP), "mINP": float(ranking.mINP), "ap": "mean"}
    metrics |= {f"mAP_{ap}": float(evaluate(*sides, ap=ap).mAP) for ap in ("trapezoid", "mar")}
    return ranking, metrics | {"n_query": len(query.x), "n_valid": len(ranking.ap), "n_gallery": len(gallery.x)}


def rerank(query: Embeddings, gallery: Embeddings, *, trapezoid: bool = False) -> dict[str, float]:
    """Rank-1 and mAP after k-reciprocal re-ranking with the usual k1 = 20, k2 = 6, λ = 0.3; junk takes no part.

    With `trapezoid` also mAP as the papers before 2018 count it.
    """
    known = gallery.pids != JUNK
    dist = k_reciprocal_rerank(query.x, gallery.x[known])
    sides = (query.pids, query.camids, gallery.pids[known], gallery.camids[known])
    ranking = evaluate_distances(dist, *sides, ap="mean")
    found = {"rank1_reranked": float(ranking.cmc[0]), "mAP_reranked": float(ranking.mAP)}
    if trapezoid:
        found["mAP_reranked_trapezoid"] = float(evaluate_distances(dist, *sides, ap="trapezoid").mAP)
    return found
