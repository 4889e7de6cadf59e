"""What sparse label smoothing is measured by beside single queries: clusters, generators, a data set's own protocol.

Source: "Sparse label smoothing for semi-supervised person re-identification" (SLSR), Tables 1 and 3 to 7.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from reidkit.data.images import Images, load, normalise
from reidkit.data.samplers import epoch_generator
from reidkit.distances import squared_euclidean
from reidkit.embed import Embeddings, embed
from reidkit.metrics import generation
from reidkit.metrics.clustering import kmeans, silhouette
from reidkit.metrics.protocols import multi_query, single_gallery_shot
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.metrics.retrieval import evaluate
from reidkit.models.heads import ReID
from reidkit.progress import note
from reidkit.recipes.driver import Parameters
from reidkit.recipes.extra_images import resize
from reidkit.recipes.generators import Trained, sample
from reidkit.recipes.sources import CITIES, Data
from reidkit.recipes.supervised import rerank


class Clustering(NamedTuple):
    """Training images, cut into clusters.

    Attributes:
        clusters: (n,) of each image, numbers from 0.
        membership: (k, C), whether an identity has images in a cluster.
        model: the first network; None where all images are one cluster, which needs none.
        features: (n, d) of all training images, as they leave it, on the CPU.
        generators: one for each cluster; empty where no image is generated.
        metrics: what is measured on them.
    """

    clusters: Int64[Tensor, " n"]
    membership: Bool[Tensor, "k c"]
    model: ReID | None
    features: Float[Tensor, "n d"] | None
    generators: list[Trained]
    metrics: dict[str, float]


@torch.no_grad()
def features_of(model: ReID, pixels: Tensor, *, batch_size: int = 256) -> Float[Tensor, "n d"]:
    """Pooled features as they leave the network, of any length, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(normalise(part.to(device))).feature.cpu() for part in pixels.split(batch_size)])


def measure_clusters(clustering: Clustering, images: Images, *, seed: int) -> dict[str, float]:
    """How large clusters are, how many identities they hold, and how their generated images compare with real ones.

    Returns:
        For each cluster k: `images_k`; `members_k`, the share of all identities; and in the features of the first
        network, between half of its images and as many generated ones, `frechet_k` (`floor_k` between the two halves),
        `spread_k` and `nearest_k`. A line names the generator that has collapsed.
    """
    found = {}
    for k, members in enumerate(clustering.membership.double().mean(1).tolist()):
        mine = (clustering.clusters == k).nonzero()[:, 0]
        found |= {f"members_{k}": members, f"images_{k}": len(mine)}
        if clustering.generators and len(mine) > 3:
            order = torch.randperm(len(mine), generator=epoch_generator(0, 0))
            real, other = clustering.features[mine[order]].tensor_split(2)
            pixels = sample(clustering.generators[k].model["generator"], len(other), seed=seed)
            generated = features_of(clustering.model, resize(pixels, images.pixels.shape[2:]))
            found |= {f"frechet_{k}": generation.frechet_distance(real, generated)}
            found |= {f"floor_{k}": generation.frechet_distance(real, other)}
            spread, nearest = generation.spread_ratio(real, generated), generation.nearest_ratio(real, generated)
            found |= {f"spread_{k}": spread, f"nearest_{k}": nearest}
            if spread < generation.COLLAPSED_SPREAD or nearest < generation.COLLAPSED_NEAREST:
                note(f"cluster {k}: the generator repeats a few images; try another gan_lr or gan_epochs.")
    return found


def separation(features: Float[Tensor, "n d"], ks: tuple[int, ...] = (2, 3, 4, 5)) -> dict[str, float]:
    """Mean silhouettes of K clusters, Table 1: `silhouette_K` in the features, `silhouette_plane_K` in their first two
    principal axes, where the released script clusters and measures (D1.6).
    """
    centred = features - features.mean(0)
    plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    spaces = {f"silhouette{where}_{k}": (x, k) for where, x in (("", features), ("_plane", plane)) for k in ks}
    scores = {name: silhouette(x, kmeans(x, k, seed=0, n_init=10).labels) for name, (x, k) in spaces.items()}
    return {name: score.mean().item() for name, score in scores.items()}


def by_protocol(
    params: Parameters, data: Data, model: ReID, query: Embeddings, gallery: Embeddings, **embedding: Any
) -> dict[str, float]:
    """What the data set's own tables hold beside single queries over the whole gallery.

    Args:
        params: of the run, with its `protocol`.
        data: of the test.
        model: what queries and gallery are embedded by.
        query, gallery: embeddings.
        embedding: options of `embed`, for images of averaged queries.
    """
    found = rerank(query, gallery, trapezoid=params.dataset not in CITIES)  # on an archive, to be held beside Table 2
    if data.split.multi_query:
        boxes = load(data.split.multi_query, (params.height, params.width), resize=params.resize)
        boxes = embed(model, boxes, **embedding)
        averages = multi_query(boxes.x, boxes.pids, boxes.camids, query.pids, query.camids)
        sides = (query.pids, query.camids, gallery.pids, gallery.camids)
        found |= _named(evaluate(averages, gallery.x, *sides), "multi")
        found |= {"mAP_multi_trapezoid": float(evaluate(averages, gallery.x, *sides, ap="trapezoid").mAP)}
    if params.protocol == "cuhk03":
        ids = (query.pids, query.camids, gallery.pids, gallery.camids)
        single = single_gallery_shot(squared_euclidean(query.x, gallery.x), *ids)
        again = single_gallery_shot(k_reciprocal_rerank(query.x, gallery.x), *ids)
        found |= _named(single, "single") | _named(again, "single_reranked")
    return found


def _named(ranking, what: str) -> dict[str, float]:
    return {f"rank{k}_{what}": float(ranking.cmc[k - 1]) for k in (1, 5, 10, 20)} | {f"mAP_{what}": float(ranking.mAP)}


def accuracy(model: ReID, images: Images, labels: Int64[Tensor, " n"]) -> float:
    """The share of images whose identity has the highest logit."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = [model(normalise(part.to(device))).logits.cpu() for part in images.pixels.split(256)]
    return float((torch.cat(logits).argmax(1) == labels).double().mean())
