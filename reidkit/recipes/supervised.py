"""Training with labels, as every recipe that has them does it: from parameters to a network, batches, and a result."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reidkit import runs
from reidkit.data.images import Augment, Images, identity_labels
from reidkit.data.samplers import Batches, PKSampler, PlainSampler
from reidkit.embed import Embeddings, embed
from reidkit.metrics.retrieval import Ranking, evaluate
from reidkit.models.backbones import BACKBONES, load_weights
from reidkit.models.heads import ReID
from reidkit.recipes.sources import find_weights, load_data
from reidkit.runs import Result, Variant
from reidkit.training import Cycle, Schedule, fit, warmup_cosine, warmup_steps


def run_supervised(
    notebook: str,
    variants: Mapping[str, Variant],
    build_step: Callable[[Mapping[str, Any]], Callable],
    variant: str,
    *,
    preset: str,
    seed: int,
    data_root: str = "",
    weights: str = "",
    checkpoint: str | Path = "",
    progress: bool = True,
    **overrides: int | float | str | bool,
) -> Result:
    """Train one variant, embed query and gallery, and evaluate; a killed call is continued by the next equal one.

    Args:
        notebook: two digits.
        variants: of the recipe.
        build_step: parameters -> training step.
        variant: a key of `variants`.
        preset: of the notebook.
        seed: of everything that is random in the training.
        data_root: the folder that holds the archives.
        weights: safetensors to start the backbone from; "reference" names those that come with the project.
        checkpoint: folder for the state of the training, which is then kept; by default it is one under `runs` that is
            removed when the run is done.
        progress: show bars, and a line an epoch.
        overrides: other parameters of the preset by name; what the variant is about wins over them.

    Returns:
        The result; in `objects` are data (of the test), model, history, query and gallery (embeddings) and ranking.

    Raises:
        ValueError: an unknown variant, preset or parameter; the nearest is named.
    """
    paths = {name: path for name, path in (("data_root", data_root), ("weights", weights)) if path}
    params = runs.settings(notebook, preset, variants, variant, {"seed": seed, **paths, **overrides})
    start = time.perf_counter()
    trained_in, tested_in = domains(params)
    data = load_data({**params, "dataset": trained_in}, progress=progress)
    runs.seed(seed)
    model = build_model(params, identity_labels(data.train.pids)[1])
    folder = Path(checkpoint or checkpoint_folder(notebook, variant, params))
    history = fit(
        model,
        build_batches(params, data.train),
        build_step(params),
        epochs=params["epochs"],
        optimizers=build_optimizer(params, model),
        schedules=build_schedule(params),
        checkpoint=folder,
        precision=params["precision"],
        progress=progress,
    )
    tested = data if tested_in == trained_in else load_data({**params, "dataset": tested_in}, progress=progress)
    query, gallery = (embed(model, part, precision=params["precision"], progress=progress) for part in tested[2:])
    ranking, metrics = measure(query, gallery)
    if not checkpoint:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(
        notebook,
        preset,
        variant,
        seed,
        params,
        metrics,
        seconds=round(time.perf_counter() - start, 2),
        peak_memory=runs.peak_memory(),
        per_query={"pid": query.pids.cpu()[ranking.valid].tolist(), "ap": ranking.ap.tolist()},
        objects={
            "data": tested,
            "model": model,
            "history": history,
            "query": query,
            "gallery": gallery,
            "ranking": ranking,
        },
    )


def domains(params: Mapping[str, Any]) -> tuple[str, str]:
    """The data sets to train in and to test in, by the parameters `dataset`, `other_dataset` and `domains`.

    >>> domains({"dataset": "market", "other_dataset": "duke", "domains": "there"})
    ('market', 'duke')
    """
    home, other = params["dataset"], params.get("other_dataset", "")
    ways = {"home": (home, home), "there": (home, other), "back": (other, home)}
    return runs.choose("domains", params.get("domains", "home"), ways)


def build_model(params: Mapping[str, Any], num_pids: int) -> ReID:
    """The network of `params`, on the GPU if there is one, started from weights if any are named."""
    options = {} if params.get("last_relu", True) else {"last_relu": False}
    backbone = runs.choose("backbone", params["backbone"], BACKBONES)(last_stride=params["last_stride"], **options)
    if params["weights"]:
        load_weights(backbone, find_weights(params["weights"]))
    return ReID(backbone, num_pids, neck=params["neck"]).to("cuda" if torch.cuda.is_available() else "cpu")


def build_batches(params: Mapping[str, Any], images: Images) -> Batches | Cycle:
    """Augmented batches of the training images: p identities x k images, or as many of anybody."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = images.to(device), identity_labels(images.pids)[0]
    p, k, seed = params["p"], params["k"], params["seed"]
    samplers = {
        "pk": lambda: PKSampler(labels, p=p, k=k, seed=seed),
        "plain": lambda: PlainSampler(len(labels), batch_size=p * k, seed=seed),
    }
    sampler = runs.choose("sampler", params["sampler"], samplers)()
    batches = Batches(images, labels, sampler, Augment(erase=params["erase"]), seed=seed, device=device)
    return Cycle(batches, params["steps_per_epoch"]) if params["steps_per_epoch"] else batches


def build_optimizer(params: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Adam over all that learns; the weight decay is L2 and spares nothing, as in the released code."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(learning, lr=params["lr"], weight_decay=params["weight_decay"])


def build_schedule(params: Mapping[str, Any]) -> Schedule:
    """ "steps", the released recipe's, or "cosine", for a training of any length."""
    schedules = {
        "steps": lambda: warmup_steps(offset=params["lr_index_offset"]),
        "cosine": lambda: warmup_cosine(params["epochs"]),
    }
    return runs.choose("schedule", params["schedule"], schedules)()


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


def checkpoint_folder(notebook: str, variant: str, params: Mapping[str, Any]) -> Path:
    """Where a run keeps its state: another code or another parameter gives another folder."""
    digest = hashlib.sha256(json.dumps([params, runs.code_hash()], sort_keys=True).encode()).hexdigest()[:12]
    return runs.ROOT / "runs" / f"{notebook}.{params['preset']}.{variant}.{params['seed']}.{digest}"
