"""What a training of each archive preset would take of a card, from shapes: no card is asked, and no number computed.

    python tools/forecast.py            # writes figures/results/forecast.json; a few minutes

One step of each training runs on a device without values (`fake_cuda.py`). Its floating-point operations are counted,
and so is what its backward pass keeps. The rest is arithmetic, and its assumptions are in the file.
"""

import argparse
import math
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fake_cuda import FakeCUDA, OnCUDA
from front import ROOT
from reidkit import files, parameters
from reidkit.data.images import Images
from reidkit.data.layouts import PUBLISHED
from reidkit.models.precision import network_precision
from reidkit.recipes.driver import settings
from reidkit.recipes.sources import CITIES
from reidkit.world.city import Plan
from trainings import RECIPES, Training, of_agents, of_generator, training

OUT = ROOT / "figures" / "results" / "forecast.json"
CARDS = {  # bytes of memory, and floating-point operations a second in the precision that "auto" takes, dense
    "T4 16 GB": (15.0e9, 65e12),
    "A100 80 GB": (79.0e9, 312e12),
    "H100": (79.0e9, 989e12),
}
SHARE = 0.35  # of these operations that a training reaches
BESIDE = 1.15  # workspaces and gaps between tensors, as a factor
CONTEXT = 0.6e9  # bytes that CUDA and cuDNN take for themselves
SEEN = 12  # images of a person in a rendered city, about
ALL_OF_MSMT17 = (4_101, 126_441)  # identities and images of all its parts


def presets() -> list[tuple[str, str]]:
    """Notebook and name of each preset that reads an archive on a card."""
    found = [path.name.split(".")[:2] for path in sorted(parameters.PRESETS.glob("*.yml"))]
    found = [(n, name) for n, name in found if n in RECIPES and name != "market_cpu"]
    return [(n, name) for n, name in found if of(n, name).dataset not in CITIES]


def of(number: str, preset: str) -> Any:
    """The parameters of a preset's default variant; where it starts from costs neither time nor memory."""
    recipe = RECIPES[number]
    name = recipe.__name__.rpartition(".")[2]
    params = settings(name, recipe.Parameters, recipe.VARIANTS, "default", preset=preset, seed=0)
    return params.but(weights="scratch") if params.weights == "imagenet" else params


def size_of(dataset: str) -> tuple[int, int]:
    """How many people and images there are to learn from."""
    name = dataset.partition("_")[0]
    return PUBLISHED["cuhk03 classic detected" if name == "cuhk03" else name]["train"]


def source_of(params: Any) -> tuple[int, int]:
    """The same of the named people of MAR, who are in all parts of MSMT17 or of a city, some `SEEN` images of each."""
    if params.source_dataset in CITIES:
        people = Plan(params.source_dataset, params.source_preset, params.source_seed).everybody
        return people, SEEN * people
    return ALL_OF_MSMT17 if params.source_dataset == "msmt17" else size_of(params.source_dataset)


def bank(n: int, height: int, width: int) -> Images:
    """Images without content; four of each person."""
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8).expand(n, -1, -1, -1)
    return Images(pixels, torch.arange(n) // 4, torch.arange(n) % 4)


class Kept:
    """Adds up the memory of what is kept for a backward pass, each piece once."""

    def __init__(self) -> None:
        self.bytes, self.alive = 0, {}

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        held = tensor.held if isinstance(tensor, OnCUDA) else tensor
        key = held.untyped_storage()._cdata
        if key not in self.alive and not tensor.is_leaf:
            self.alive[key] = held
            self.bytes += held.untyped_storage().nbytes()
        return tensor


def one_step(made: Training, precision: str = "auto") -> dict[str, int]:
    """Operations of one batch, forward and backward, bytes kept for the backward pass, and bytes of weights."""
    kept, counter = Kept(), FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor)
    batch, most = next(iter(made.batches)), 0
    made.model.train()
    with network_precision(made.model, precision), counter, hooks:
        outcome = made.training_step(made.model, batch)
        for terms in [outcome] if isinstance(outcome, dict) else outcome:
            most, terms = max(most, kept.bytes), terms[1] if isinstance(terms, tuple) else terms
            sum(term for term in terms.values() if term.requires_grad).backward()
    return {
        "operations": counter.get_total_flops(),
        "kept": max(most, kept.bytes) if isinstance(outcome, dict) else most,
        "weights": sum(p.nbytes for p in made.model.parameters()),
    }


def phases(number: str, params: Any) -> dict[str, tuple[Training, float, int]]:
    """The trainings of a run by name: made for one batch, how many batches all its epochs have, and images a batch."""
    people, images = size_of(params.dataset)
    size = params.height, params.width
    if number in ("02", "03"):
        batch = params.p * params.k
        steps = params.epochs * (params.steps_per_epoch or images // batch)
        return {"network": (training(number, params, bank(batch, *size), people), steps, batch)}
    if number == "04":
        batch, extra = params.batch_size, round(params.amount * params.amount_factor) * (params.extra != "none")
        found = {"network": (training(number, params, bank(batch, *size), people),
                             params.epochs * ((images + extra) // batch), batch)}  # fmt: skip
        if params.extra == "generated":
            found["first network"] = (found["network"][0], params.epochs * (images // batch), batch)
            gan = of_generator(params, bank(params.gan_batch, *size), people)
            found["generators"] = gan, params.gan_epochs * (images // params.gan_batch), params.gan_batch
        return found
    if number == "05":
        batch = params.batch_size
        rest = images - people
        named = [people + chosen for chosen, _ in RECIPES[number].build_sizes(params, rest)]
        steps = sum(max(1, n // batch) for n in named) * (params.epochs - params.ce_only_epochs / 2)
        return {"networks": (training(number, params, bank(4 * batch, *size), people), steps, 2 * batch)}
    people, everybody = source_of(params)
    batch = params.source_batch + params.target_batch
    made = training(number, params, bank(batch, *size), people)
    found = {"MAR": (made, params.epochs * (everybody // params.source_batch), batch)}
    if params.stage_one == "train":
        first, steps = of_agents(params, bank(batch, *size), people), everybody // params.source_batch
        found["agents"] = first, params.stage_one_epochs * steps, params.source_batch
    return found


def forecast(number: str, preset: str) -> dict[str, Any]:
    """What one run of a preset takes of each card."""
    params, row = of(number, preset), {"phases": {}}
    state = 2 if getattr(params, "optimizer", "adam") == "adam" else 1
    with FakeCUDA(values=False):
        for phase, (made, steps, batch) in phases(number, params).items():
            precision = params.gan_precision if phase == "generators" else params.precision
            row["phases"][phase] = one_step(made, precision) | {"steps": int(steps), "batch": batch}
    images = size_of(params.dataset)[1] + (source_of(params)[1] if number == "06" else 0)
    row["images in bytes"] = images * 3 * params.height * params.width
    row["cards"] = {card: on_card(row, state, *limits) for card, limits in CARDS.items()}
    return row


def on_card(row: dict[str, Any], state: int, memory: float, speed: float) -> dict[str, Any]:
    """Hours, gigabytes, whether that fits, and if not the largest batch that does."""
    found = row["phases"].values()
    hours = sum(phase["operations"] * phase["steps"] for phase in found) / (SHARE * speed) / 3600
    fixed = [CONTEXT + phase["weights"] * (2 + state) for phase in found]  # weights, gradients, what optimizers keep
    needed = [CONTEXT + BESIDE * (f - CONTEXT + phase["kept"]) for f, phase in zip(fixed, found, strict=True)]
    bank = row["images in bytes"] if 4 * row["images in bytes"] <= memory else 0
    worst = max(range(len(needed)), key=needed.__getitem__)
    phase = [*found][worst]
    each = BESIDE * phase["kept"] / phase["batch"]
    room = memory - bank - CONTEXT - BESIDE * (fixed[worst] - CONTEXT)
    return {
        "hours": hours,
        "gigabytes": (needed[worst] + bank) / 1e9,
        "bank": "card" if bank else "host",
        "fits": needed[worst] + bank <= memory,
        "batch": phase["batch"],
        "batch that fits": min(phase["batch"], math.floor(room / each)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Forecast what each archive preset takes of a card.")
    parser.add_argument("only", nargs="*", metavar="NN.preset", help="show these alone and write nothing")
    only = parser.parse_args().only
    made = {}
    for number, preset in presets():
        if not only or f"{number}.{preset}" in only:
            made[f"{number}.{preset}"] = forecast(number, preset)
            print(f"{number}.{preset}", made[f"{number}.{preset}"]["cards"], flush=True)
    assumed = {"share of peak": SHARE, "factor for workspaces": BESIDE, "context in bytes": CONTEXT, "cards": CARDS}
    if not only:
        files.write_json(OUT, {"assumptions": assumed, "torch": torch.__version__, "presets": made})
    return 0


if __name__ == "__main__":
    sys.exit(main())
