"""The losses of the papers: one value and its gradient by everything that is trained.

    python benchmarks/losses.py [--quick] [--only lin] [--device cuda]

A floor does what no exact form of the loss can leave out, as a user would write it, forward and backward. "As
released" candidates are written here, from what the released code does: a loop over the anchors.
"""

from collections.abc import Callable
from functools import partial

import harness
import numpy as np
import torch
from harness import Candidate
from scipy.spatial.distance import pdist
from torch import Tensor
from torch.nn import functional as F

from reidkit.losses.one_shot import ExclusiveLoss, feature_space_regularization
from reidkit.losses.ranking import lin_loss, ranked_list_loss
from reidkit.losses.soft_multilabel import MultilabelDiscriminativeLoss, joint_embedding_loss, kth_largest_agreement


def step(loss: Callable[..., Tensor], *trained: Tensor, compared: bool = True) -> Callable[[], tuple | None]:
    """What a candidate runs: the loss of the trained tensors and its gradient by each; None if another loss's."""

    def run() -> tuple[Tensor, ...] | None:
        value = loss(*trained)
        gradients = torch.autograd.grad(value, trained)
        return (value.detach(), *gradients) if compared else None

    return run


# ---- ranking: Lin and ranked list


def ranking(options: harness.Options, loss: Callable[..., Tensor], n: int, d: int = 2048) -> harness.Row:
    """A PK batch of `n` images, four of each identity, in which negatives lie on both sides of alpha."""
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(n) // 4
    centres = 1 + torch.randn(n, d, generator=generator)[pids] * torch.rand(n, 1, generator=generator)[pids] * 2
    x = centres + torch.randn(n, d, generator=generator)
    x, pids = x.to(options.device).requires_grad_(), pids.to(options.device)
    title, radius, limit, temperature = ("Lin", 0.7, 2.0, 1.0) if loss is lin_loss else ("Ranked list", 0.8, 1.2, 10.0)
    candidates = {
        "reidkit": step(lambda x: loss(x, pids), x),
        "floor: normalise and product": step(normalised_product, x, compared=False),
        "as released, ours": step(lambda x: by_anchor(x, pids, radius, limit, temperature), x),
    }
    if loss is ranked_list_loss:  # the peer has other divisors, so other values
        peer = harness.peer("pytorch_metric_learning.losses", "RankedListLoss")
        theirs = peer and peer(margin=limit - radius, Tn=temperature, alpha=limit)
        candidates["pytorch-metric-learning"] = theirs and step(lambda x: theirs(x, pids), x, compared=False)
    return harness.Row(
        f"{title}, forward and backward: B {n}, d {d}",
        candidates,
        bars={"as released, ours": 5, "floor": 1.5 if n < 256 else 1.25},  # small batches: the calls cost, not the work
        check=harness.close(2e-5, "value and gradient equal"),
        reported={"released loop": {64: "11.8 ms", 256: "63.9 ms"}[n]},
    )


def normalised_product(x: Tensor) -> Tensor:
    """All inner products of the embeddings scaled to length 1."""
    x = F.normalize(x)
    return (x @ x.T).sum()


def by_anchor(x: Tensor, pids: Tensor, radius: float, limit: float, temperature: float, eps: float = 1e-5) -> Tensor:
    """Anchor by anchor: pick its positives and negatives out of the matrix of distances, and add up."""
    x = x / (x.norm(dim=1, keepdim=True) + 1e-12)
    squares = x.square().sum(1, keepdim=True)
    dist = torch.addmm(squares + squares.T, x, x.T, alpha=-2).clamp(min=1e-12).sqrt()
    total = 0
    for i in range(len(x)):
        same = pids == pids[i]
        others = same.clone()
        others[i] = False
        near, far = dist[i][others], dist[i][~same]
        far = far[far < limit]
        pull = (near - radius).clamp(min=0).sum() / (len(near) + eps)
        weights = torch.exp(temperature * (limit - far))
        total = total + pull + (weights * (limit - far)).sum() / (weights.sum() + eps)
    return total / len(x)


# ---- one-shot (FSR)


def regularization(options: harness.Options, n: int = 64, d: int = 2048) -> harness.Row:
    """Unit rows of as many labelled as unlabelled images."""
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(n, d, generator=generator)).to(options.device) for _ in range(2))
    x, y = x.requires_grad_(), y.requires_grad_()
    return harness.Row(
        f"Feature space regularization, forward and backward: {n} x {n}, d {d}",
        {
            "reidkit": step(feature_space_regularization, x, y),
            "floor: product": step(lambda x, y: (x @ y.T).sum(), x, y, compared=False),
            "as released, ours": step(by_labelled_image, x, y),
        },
        bars={"as released, ours": 10},
        check=harness.close(1e-3, "value and gradients equal"),  # the value is a sum over n x n pairs
        reported={"released row loop": "18.0 ms"},
    )


def by_labelled_image(x: Tensor, y: Tensor) -> Tensor:
    """All differences at once, then the mean distances compared with all others, one after the other."""
    dist = ((x[:, None] - y).square().sum(2) + 1e-12).sqrt().mean(1)
    return sum(((own - dist).square() + 1e-12).sqrt().sum() for own in dist)


def exclusive(options: harness.Options, n: int = 16, d: int = 2048) -> harness.Row:
    """A batch against the table of Market-1501's unlabelled images; the row of each image moves afterwards."""
    rows, generator = (2_000 if options.quick else 12_185), torch.Generator().manual_seed(0)
    loss = ExclusiveLoss(rows, d).to(options.device)
    loss.table.copy_(F.normalize(torch.randn(rows, d, generator=generator)))
    x = F.normalize(torch.randn(n, d, generator=generator)).to(options.device).requires_grad_()
    k = torch.randperm(rows, generator=generator)[:n].to(options.device)
    start, weights = loss.table[k].clone(), torch.rand(n, rows, generator=generator).to(options.device)

    def then(value: Callable[[Tensor], Tensor], update: Callable[[], None]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            loss.table[k] = start
            found = step(value, x)()
            update()
            return *found, loss.table[k]

        return run

    def one_by_one() -> None:
        for i, row in enumerate(k):
            middle = (loss.table[row] + x[i].detach()) / 2
            loss.table[row] = middle / middle.norm()

    return harness.Row(
        f"Exclusive loss, forward, backward and update: batch {n}, table {rows:,} x {d}",
        {
            "reidkit": then(lambda x: loss(x, k), lambda: loss.update(x, k)),
            "floor: two products": uncompared(lambda: (x.detach() @ loss.table.T, weights @ loss.table)),
            "as released, ours": then(lambda x: F.cross_entropy(10 * (x @ loss.table.T), k), one_by_one),
        },
        bars={"floor": 1.15, "as released, ours": 0.95},  # the released code does no more than the two products either
        check=harness.close(1e-5, "value, gradient and table equal"),
        reported={"released loop": "38.5 ms"},
    )


# ---- soft multilabels (MAR)

IMAGES, AGENTS = 184, 4101  # of each half of a batch; source identities


def uncompared(run: Callable[[], object]) -> Callable[[], None]:
    """A candidate that does part of the work: its result is not compared."""

    def call() -> None:
        run()

    return call


def discriminative(options: harness.Options, d: int = 2048, ratio: float = 0.005) -> harness.Row:
    """Loss, gradient and next threshold for the target half of a batch, the agreements of which spread about it."""
    n, generator = (24 if options.quick else IMAGES), torch.Generator().manual_seed(0)
    people = torch.arange(n) // 4
    x, y = (
        torch.randn(n, width, generator=generator)[people] + torch.randn(n, width, generator=generator)
        for width in (d, AGENTS)
    )
    x, y = F.normalize(x).to(options.device).requires_grad_(), (2 * y).softmax(1).to(options.device)
    loss = MultilabelDiscriminativeLoss(mining_ratio=max(ratio, 2 / n)).to(options.device)
    loss.initialise(y)
    before = loss.threshold.clone() * 0.98

    def ours() -> tuple[Tensor, ...]:
        loss.threshold.copy_(before)
        value, gradient = step(lambda x: loss(x, y), x)()
        loss.update(y)
        return value, gradient, loss.threshold.clone()

    return harness.Row(
        f"MAR discriminative, forward, backward and threshold: {n} images x {AGENTS:,} agents, d {d}",
        {
            "reidkit": ours,
            "floor: pairwise L1 of the multilabels": uncompared(lambda: F.pdist(y, p=1)),
            "as released, ours": lambda: by_pair(x, y, before, loss.mining_ratio),
        },
        bars={"as released, ours": 8},
        check=harness.close(1e-5, "value, gradient and threshold equal"),
        reported={"released loop": "384 ms"},
    )


def by_pair(x: Tensor, y: Tensor, threshold: Tensor, ratio: float) -> tuple[Tensor, ...]:
    """All distances and agreements by SciPy, all distances sorted, and then pair by pair."""
    dist = pdist(x.detach().cpu().numpy())
    agreements = 1 - pdist(y.cpu().numpy(), "minkowski", p=1) / 2
    nearest = np.argsort(dist)[: int(ratio * len(dist))]
    i, j = (side[nearest].tolist() for side in np.triu_indices(len(x), 1))
    sets = {True: [], False: []}
    for one, other, agreed in zip(i, j, agreements[nearest] > threshold.item(), strict=True):
        sets[bool(agreed)].append((x[one] - x[other]).square().sum())
    positive, negative = (torch.exp(-torch.stack(sets[side])).mean() for side in (True, False))
    value = -torch.log(positive / (positive + negative))
    moved = 0.9 * threshold + 0.1 * np.sort(agreements)[-len(nearest)]
    return value.detach(), *torch.autograd.grad(value, x), moved


def joint(options: harness.Options, d: int = 2048, margin: float = 1.0) -> harness.Row:
    """Images that lie near eight alike agents each; the loop is given the cosines, as it is in the released code."""
    n, generator = (24 if options.quick else IMAGES), torch.Generator().manual_seed(0)
    alike = torch.randn(AGENTS // 8 + 1, d, generator=generator).repeat_interleave(8, dim=0)[:AGENTS]
    agents = F.normalize(alike + 0.7 * torch.randn(AGENTS, d, generator=generator))
    pids = torch.randint(AGENTS, (n,), generator=generator)
    images = [alike[pids], alike[torch.randint(AGENTS, (n,), generator=generator)]]
    images = [F.normalize(x + 0.7 * torch.randn(n, d, generator=generator)).to(options.device) for x in images]
    source, target = (x.requires_grad_() for x in images)
    agents, pids = agents.to(options.device), pids.to(options.device)
    cosines = [x.detach() @ agents.T for x in images]
    count = sum(int((cos > 1 - margin / 2).sum()) for cos in cosines)
    return harness.Row(
        f"MAR joint embedding, forward and backward: {n} + {n} images x {AGENTS:,} agents, {count:,} hard, d {d}",
        {
            "reidkit": step(lambda z, x: joint_embedding_loss(z, pids, x, agents, margin=margin), source, target),
            "floor: the cosines": uncompared(lambda: [x.detach() @ agents.T for x in images]),
            "as released, ours (cosines given)": step(
                lambda z, x: by_image(z, pids, x, agents, cosines, margin), source, target
            ),
        },
        bars={"as released, ours (cosines given)": 1.2},
        check=harness.close(1e-5, "value and gradients equal"),
        reported={"released loop": "114 ms"},
    )


def by_image(
    source: Tensor, pids: Tensor, target: Tensor, agents: Tensor, cosines: list[Tensor], margin: float
) -> Tensor:
    """Image by image: the distance to its own agent, and the mean over its hard agents."""
    terms = []
    for k in range(len(source)):
        terms.append((source[k] - agents[pids[k]]).square().sum())
        hard = cosines[0][k] > 1 - margin / 2
        hard[pids[k]] = False
        if hard.any():
            terms.append((margin - (source[k] - agents[hard]).square().sum(1)).clamp(min=0).mean())
    for k in range(len(target)):
        hard = cosines[1][k] > 1 - margin / 2
        if hard.any():
            terms.append((margin - (target[k] - agents[hard]).square().sum(1)).clamp(min=0).mean())
    return torch.stack(terms).mean()


def first_threshold(options: harness.Options, ratio: float = 0.005) -> harness.Row:
    """The first threshold of the loss above, from all pairs of Market-1501's training images."""
    n, generator = (600 if options.quick else 12936), torch.Generator().manual_seed(0)
    y = (2 * torch.randn(n, AGENTS, generator=generator)).softmax(1).to(options.device)
    some = y[:600]
    share = len(some) ** 2 / n**2
    k = int(ratio * n * (n - 1) / 2)
    return harness.Row(
        f"MAR first threshold: agreements of {n:,} images x {AGENTS:,} agents, the {k:,}-th largest",
        {
            "reidkit": Candidate(lambda: kth_largest_agreement(y, k), rounds=1),
            "torch cdist": Candidate(uncompared(lambda: torch.cdist(some[:300], some, p=1)), share=share),
            "SciPy pdist, as released": Candidate(
                uncompared(lambda: pdist(some.cpu().numpy(), "minkowski", p=1)), share=share
            ),
        },
        bars={"torch cdist": 2, "MB": 512},
    )


ROWS = {
    "lin_64": partial(ranking, loss=lin_loss, n=64),
    "lin_256": partial(ranking, loss=lin_loss, n=256),
    "ranked_list_64": partial(ranking, loss=ranked_list_loss, n=64),
    "ranked_list_256": partial(ranking, loss=ranked_list_loss, n=256),
    "regularization": regularization,
    "exclusive": exclusive,
    "mar_discriminative": discriminative,
    "mar_joint": joint,
    "mar_threshold": first_threshold,
}

if __name__ == "__main__":
    harness.main(__file__, __doc__, ROWS)
