"""Whether a GPU computes what the CPU does: losses and gradients, a few steps of each recipe, measures, pictures.

    python tools/gpu_check.py            # on a machine with a card
    python tools/gpu_check.py --fake     # anywhere: the same on a device that only says it is one, see fake_cuda.py
    python tools/gpu_check.py --fake notebooks      # every cell of notebooks 01 to 06

The exit code is 1 if anything differs, and 2 if there is no card.
"""

import argparse
import contextlib
import functools
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from fake_cuda import FakeCUDA
from front import notebook_paths
from reidkit import pseudo_labels, runs
from reidkit.data.images import Augment, Images
from reidkit.data.samplers import Batches, PKSampler
from reidkit.embed import embed, search
from reidkit.losses import one_shot as one_shot_losses
from reidkit.losses import ranking as ranking_losses
from reidkit.losses import smoothing, soft_multilabel, triplet
from reidkit.metrics import retrieval
from reidkit.metrics.reranking import k_reciprocal_rerank
from reidkit.recipes import baseline, generators, sparse_smoothing, supervised
from reidkit.recipes.driver import device
from reidkit.training import fit
from reidkit.world import city
from trainings import RECIPES, training

PEOPLE, SHOTS, WIDE = 6, 4, 16  # of the batch that losses are given, and length of its embeddings
CAREFUL = {"losses": 1e-4, "steps": 2e-2, "measures": 1e-4, "pictures": 1.01}  # share, or for pictures grey levels
STEPS = {"epochs": 1, "steps_per_epoch": 2}


def numbers(*shape: int, seed: int = 0, unit: bool = False) -> Tensor:
    """The same normal numbers on every device."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return there(nn.functional.normalize(x) if unit else x)


def there(tensor: Tensor) -> Tensor:
    """The tensor where networks are."""
    return tensor.to(device(), non_blocking=True)


def pids() -> Tensor:
    return there(torch.arange(PEOPLE).repeat_interleave(SHOTS))


def camids() -> Tensor:
    return there(torch.arange(PEOPLE * SHOTS) % SHOTS)


def bank(height: int = 64, width: int = 32) -> Images:
    """Coloured noise of a few people."""
    n, rng = PEOPLE * SHOTS, torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, height, width), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(PEOPLE).repeat_interleave(SHOTS), torch.arange(n) % SHOTS)


# ------------------------------------------------------------------------------------------------------------ losses


def differentiated(loss: Callable, *shapes: tuple[int, int], unit: bool = True) -> Callable[[], list[Tensor]]:
    """What gives the value of a loss and its gradients for rows of such shapes."""

    def check() -> list[Tensor]:
        leaves = [numbers(*shape, seed=k, unit=unit).requires_grad_() for k, shape in enumerate(shapes)]
        value = loss(*leaves)
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return check


def exclusive(x: Tensor) -> Tensor:
    memory, rows = there(one_shot_losses.ExclusiveLoss(len(x), x.shape[1])), there(torch.arange(len(x)))
    memory.update(x.detach().flip(0), rows)
    return memory(x, rows)


def cameras(log_y: Tensor) -> Tensor:
    memory = there(soft_multilabel.CrossCameraConsistency(log_y.shape[1]))
    memory.update(log_y.detach().flip(0), camids())
    return memory(log_y, camids())


def discriminative(x: Tensor) -> Tensor:
    y, rows = numbers(len(x), 5, seed=9).softmax(1), there(torch.arange(len(x)))
    memory = there(soft_multilabel.MultilabelMemory(len(x), 5))
    memory.update(rows, y)
    mining = there(soft_multilabel.MultilabelDiscriminativeLoss(mining_ratio=0.3))
    mining.update(memory[rows])
    return mining(x, memory[rows], mining.mine(x, memory[rows]))


def generated() -> Tensor:
    return there(torch.arange(PEOPLE * SHOTS) % 3 == 0)


def membership() -> Tensor:
    return there(torch.arange(2 * PEOPLE).view(2, PEOPLE) % 3 > 0)


ROWS, AGENTS, LOGITS = (PEOPLE * SHOTS, WIDE), (PEOPLE, WIDE), (PEOPLE * SHOTS, PEOPLE)
LOSSES = {
    "lin_loss": differentiated(lambda x: ranking_losses.lin_loss(x, pids()), ROWS),
    "lin_loss eq3": differentiated(lambda x: ranking_losses.lin_loss(x, pids(), weighting="eq3"), ROWS),
    "ranked_list_loss": differentiated(lambda x: ranking_losses.ranked_list_loss(x, pids()), ROWS),
    "batch_hard_triplet_loss": differentiated(lambda x: triplet.batch_hard_triplet_loss(x, pids()), ROWS),
    "feature_space_regularization": differentiated(one_shot_losses.feature_space_regularization, ROWS, AGENTS),
    "ExclusiveLoss": differentiated(exclusive, ROWS),
    "sparse_label_smoothing_loss": differentiated(
        lambda z: smoothing.sparse_label_smoothing_loss(z, pids(), generated(), pids() % 2, membership()), LOGITS
    ),
    "lsro_loss": differentiated(lambda z: smoothing.lsro_loss(z, pids(), generated()), LOGITS),
    "all_in_one_loss": differentiated(lambda z: smoothing.all_in_one_loss(z, pids(), generated()), LOGITS),
    "agreement": differentiated(lambda x: soft_multilabel.agreement(x.softmax(1)).square().mean(), ROWS),
    "agent_learning_loss": differentiated(lambda x, a: soft_multilabel.agent_learning_loss(x, pids(), a), ROWS, AGENTS),
    "joint_embedding_loss": differentiated(
        lambda x, a, t: soft_multilabel.joint_embedding_loss(x, pids(), t, a, margin=1.9), ROWS, AGENTS, ROWS
    ),
    "joint_embedding_loss eq8": differentiated(
        lambda x, a, t: soft_multilabel.joint_embedding_loss(x, pids(), t, a, reading="eq8"), ROWS, AGENTS, ROWS
    ),
    "CrossCameraConsistency": differentiated(lambda z: cameras(z.log_softmax(1)), LOGITS),
    "MultilabelDiscriminativeLoss": differentiated(discriminative, ROWS),
}


# ------------------------------------------------------------------------------------------------------------- steps


def trained(number: str, **changes) -> list[Tensor]:
    """The terms of a few steps of a recipe, and what its memories hold then."""
    known = {"weights": ""} if number in ("04", "05", "06") else {}
    params = RECIPES[number].Parameters(**known | STEPS | changes)
    options = {"ready": True} if number == "06" else {}
    model, *_, state = made = training(number, params, bank(params.height, params.width), PEOPLE, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # which every device draws from a generator of its own
    rows = fit(**made._asdict(), epochs=1, precision="fp32", progress=False).rows
    terms = [value for row in rows for name, value in row.items() if name not in ("epoch", "steps", "seconds", "lr")]
    return [torch.tensor(terms), *(table.cpu() for memory in state.values() for table in memory.buffers())]


def generated_images() -> list[Tensor]:
    """The terms of a few steps of a GAN, and what it makes of noise then."""
    params = sparse_smoothing.Parameters(gan_steps=2, gan_epochs=1, gan_batch=4, gan_channels=8, gan_precision="fp32")
    runs.seed(0)
    model, snapshots = generators.build(params).to(device()), generators.Snapshots(1, (64, 32), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        rows = generators._train(params, model, bank().pixels, snapshots, Path(folder) / "run", progress=False)
    names = [name for name in rows[0] if "/" in name and not name.startswith("lr")]
    return [torch.tensor([row[name] for row in rows for name in names]), snapshots.images[1].float() / 255]


def augmented(**changes) -> list[Tensor]:
    """Two passes of batches from the bank, augmented."""
    images = bank()
    batches = Batches(images, images.pids, PKSampler(images.pids, p=4, k=2), Augment(**changes), device=device())
    return [part.cpu() for sample in batches for part in sample]


BATCHES = {
    "02": {"p": 4, "k": 2}, "03": {"p": 4, "k": 2}, "04": {"batch_size": 8, "hidden": 8},
    "05": {"batch_size": 4, "ce_only_epochs": 0, "dropout": 0.0},
    "06": {"source_batch": 8, "target_batch": 8, "stage_one": "train", "mining_from": 0, "mining_ratio": 0.3},
}  # fmt: skip
TRAINED = {
    **{number: functools.partial(trained, number, **changes) for number, changes in BATCHES.items()},
    "02, triplet": functools.partial(trained, "02", triplet_weight=1.0, **BATCHES["02"]),
    "03, ranked list": functools.partial(trained, "03", ranking="ranked_list", margin=0.4, **BATCHES["03"]),
    "04, a square layer": functools.partial(trained, "04", noise_layer="post", **BATCHES["04"]),
    "06, baseline": functools.partial(trained, "06", mining="features", **BATCHES["06"]),
    "generators": generated_images,
    "augmentation": augmented,
    "augmentation, rectangular crops": functools.partial(augmented, rect_crop=1.0, pad=0, erase=0.0),
}


# -------------------------------------------------------------------------------------------------------- measures


def search_sides() -> tuple[Tensor, ...]:
    """Embeddings with ties, pids and camids of 9 queries and 60 images of a gallery, some of them junk."""
    query, gallery = numbers(9, WIDE, seed=1, unit=True), numbers(60, WIDE, seed=2, unit=True)
    gallery[30:40] = gallery[:10]
    people = torch.arange(60) % 7 - 1
    return (
        query,
        gallery,
        there(torch.arange(9) % 6),
        there(torch.arange(9) % 2),
        there(people),
        there(torch.arange(60) % 3),
    )


def evaluated() -> list[Tensor]:
    ranking = retrieval.evaluate(*search_sides())
    return [ranking.ap, ranking.inp, ranking.cmc]


def reranked() -> list[Tensor]:
    query, gallery, *labels = search_sides()
    dist = k_reciprocal_rerank(query, gallery, k1=6, k2=3)
    ranking = retrieval.evaluate_distances(dist, *labels)
    return [dist, ranking.ap, ranking.cmc]


def guessed(guess: Callable, **knobs) -> list[Tensor]:
    query, gallery, *_ = search_sides()
    return list(guess(gallery, query, torch.arange(len(query)), **knobs))


def embedded() -> list[Tensor]:
    runs.seed(0)
    model = supervised.build_model(baseline.Parameters(), PEOPLE)
    return [embed(model, bank(), flip=True, batch_size=10, precision="fp32").x]


def thresholds() -> list[Tensor]:
    """What MAR makes of a whole target set before it trains."""
    y, memory = numbers(40, 6, seed=3).softmax(1), there(soft_multilabel.CrossCameraConsistency(6))
    memory.initialise(y.log(), there(torch.arange(40) % 3))
    return [soft_multilabel.kth_largest_agreement(y, 30), memory.mean, memory.std]


MEASURES = {
    "evaluate": evaluated,
    "k_reciprocal_rerank, evaluate_distances": reranked,
    "nearest_labels": functools.partial(guessed, pseudo_labels.nearest_labels),
    "joint_labels": functools.partial(guessed, pseudo_labels.joint_labels),
    "joint_labels, other readings": functools.partial(
        guessed, pseudo_labels.joint_labels, label_class_pool="L+U", jd_squared=False, class_dist="centroid"
    ),
    "search": lambda: list(search(*search_sides()[:2], top_k=7)),
    "embed": embedded,
    "kth_largest_agreement, CrossCameraConsistency.initialise": thresholds,
}


# --------------------------------------------------------------------------------------------------------- pictures


def drawn() -> list[Tensor]:
    """Pictures of the world."""
    plan = city.Plan("market", "quick", 0)
    rows = city.roster(plan)[:6]
    return [city.draw_rows(plan, rows, city.network(plan).to(device()), device())[0].float()]


PICTURES = {"draw_rows": drawn}
CHECKS = {"losses": LOSSES, "steps": TRAINED, "measures": MEASURES, "pictures": PICTURES}


# -------------------------------------------------------------------------------------------------------- notebooks


def executed(path: Path) -> list[Tensor]:
    """Run the code of a notebook here; the sentence of an error names the cell."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")
    names = {}
    with contextlib.chdir(path.parent), contextlib.redirect_stdout(io.StringIO()):
        for number, cell in enumerate(json.loads(path.read_text())["cells"]):
            if cell["cell_type"] == "code":
                source = "".join(line for line in cell["source"] if not line.startswith("%"))
                try:
                    exec(compile(source, f"{path.stem} [{number}]", "exec"), names)
                except Exception as error:
                    raise RuntimeError(f"cell {number}: {type(error).__name__}: {error}") from error
                pyplot.close("all")
    return []


NOTEBOOKS = {path.stem: functools.partial(executed, path) for path in notebook_paths() if "00" < path.stem < "07"}


# ------------------------------------------------------------------------------------------------------------- main


def on_cpu(check: Callable) -> list[Tensor]:
    """What a check gives without a card."""
    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        return check()


def difference(kind: str, here: list[Tensor], reference: list[Tensor]) -> float:
    """The largest difference, of pictures in grey levels, else as a share of the largest number of its tensor."""
    gaps = [0.0]
    for one, other in zip(here, reference, strict=True):
        one, other = one.cpu().double(), other.double()
        scale = 1.0 if kind == "pictures" else max(float(other.abs().max()), 1e-3)
        gap = float((one - other).abs().max()) / scale
        gaps.append(gap if np.isfinite(gap) else np.inf)
    return max(gaps)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Whether a GPU computes what the CPU does.")
    parser.add_argument("--fake", action="store_true", help="on a device that only says it is one")
    kinds = CHECKS | {"notebooks": NOTEBOOKS}
    parser.add_argument("only", nargs="*", help=f"of {', '.join(kinds)}; all but notebooks by default")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.only) - set(kinds):
        parser.error(f"there is no kind {', '.join(unknown)}; there are {', '.join(kinds)}.")
    if not (asked.fake or torch.cuda.is_available()):
        print("There is no CUDA device here; --fake runs the same checks on one that only says it is.")
        return 2
    print("device:", "fake" if asked.fake else torch.cuda.get_device_name())
    failed = 0
    for kind in asked.only or CHECKS:
        for name, check in kinds[kind].items():
            start, reference = time.perf_counter(), on_cpu(check) if kind in CHECKS else []
            try:
                with FakeCUDA() if asked.fake else contextlib.nullcontext():
                    gap = difference(kind, check(), reference)
                verdict = "ok" if gap <= CAREFUL.get(kind, 0) else f"more than {CAREFUL[kind]:g}"
            except Exception as error:  # the others are to be tried as well
                gap, verdict = float("nan"), f"{type(error).__name__}: {str(error).splitlines()[0]:.90}"
            failed += verdict != "ok"
            print(f"{kind:9} {name:58} {gap:8.1e} {time.perf_counter() - start:6.1f} s  {verdict}", flush=True)
    print(f"{failed} of {sum(len(kinds[kind]) for kind in asked.only or CHECKS)} differ." if failed else "All agree.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
