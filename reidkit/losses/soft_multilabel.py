r"""Losses for a target set without labels, of H.-X. Yu et al., "Unsupervised person re-identification by soft
multilabel learning" (MAR), CVPR 2019, arXiv:1903.06325.

Each identity of a labelled source set has an agent, a unit vector. How much an unlabelled image resembles each of them
is its soft multilabel, and two images of one person should have one multilabel, whichever cameras saw them.

Total         $L = L_{MDL} + \lambda_1 L_{CML} + \lambda_2 (L_{AL} + \beta L_{RJ})$; released:
              $\lambda_1 = 2 \cdot 10^{-4}$, $\lambda_2 = 50$, $\beta = 0.2$, and $L_{MDL} = 0$ in the first epoch.
Order         In each step `update` of the cross-camera loss and of the memory, then the losses, then `update` of the
              discriminative loss: so it is released. Nothing remembered changes elsewhere.
Precision     Inner products, softmax and logarithms are float32 even under autocast: log y reaches -60.
"""

import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reidkit.blocks import nonzero, product, row_blocks, same_precision, tile_size
from reidkit.distances import squared_euclidean
from reidkit.inputs import check_inputs


def soft_multilabels(
    embeddings: Float[Tensor, "n d"], agents: Float[Tensor, "a d"], *, scale: float = 30.0, log: bool = False
) -> Float[Tensor, "n a"]:
    r"""Describe images by how much they resemble each agent.

    $$ y_k = \frac{\exp(s\, a_k^\top f)}{\sum_i \exp(s\, a_i^\top f)} \tag{multilabel} $$

    Args:
        embeddings: (n, d) unit rows.
        agents: (a, d) unit rows, one for each source identity.
        scale: s, above 0; the paper gives none, the released code 30.
        log: whether to return log y, which `CrossCameraConsistency` takes.

    Returns:
        (n, a), float32 or float64; rows of y sum to 1.

    Raises:
        ValueError: `scale` is not above 0, or shapes do not fit.

    Source: eq. 1 of the paper.

    >>> soft_multilabels(torch.tensor([[1.0, 0.0]]), torch.eye(2), scale=1.0)    # e / (e + 1)
    tensor([[0.7311, 0.2689]])
    """
    logits = _logits(embeddings, agents, scale)
    return logits.log_softmax(1) if log else logits.softmax(1)  # [multilabel]


def agreement(multilabels: Float[Tensor, "n a"]) -> Float[Tensor, "n n"]:
    r"""How much of their multilabels each two images share.

    $$ A_{ij} = \sum_k \min(y_{ik}, y_{jk}) = 1 - \tfrac12 \lVert y_i - y_j \rVert_1 \tag{agreement} $$

    Args:
        multilabels: (n, a), rows sum to 1.

    Returns:
        (n, n), symmetric, in [0, 1]; 1 on the diagonal.

    Source: section 3 of the paper.

    >>> agreement(torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    tensor([[1.0000, 0.2500],
            [0.2500, 1.0000]])
    """
    check_inputs(multilabels=("float n a", multilabels))
    y, _ = same_precision(multilabels, multilabels)
    i, j = torch.triu_indices(len(y), len(y), 1, device=y.device)
    upper = y.new_zeros(len(y), len(y)).index_put((i, j), F.pdist(y, p=1))
    return 1 - (upper + upper.T) / 2  # [agreement]


def agent_learning_loss(
    embeddings: Float[Tensor, "n d"], pids: Int[Tensor, " n"], agents: Float[Tensor, "a d"], *, scale: float = 30.0
) -> Float[Tensor, ""]:
    r"""Want each source image to resemble the agent of its identity more than the others.

    $$ L_{AL} = -\frac1n \sum_k \log y_{k, w_k} \tag{agent-learning} $$

    Args:
        embeddings: (n, d) unit rows, of source images.
        pids: (n,) their identities w, row numbers of `agents`.
        agents: (a, d) unit rows.
        scale: s of `soft_multilabels`.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: `scale` is not above 0, or shapes do not fit.

    Source: eq. 7 of the paper (a sum there, a mean in the released code).

    >>> agent_learning_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.eye(2), scale=1.0)    # -ln 0.7311
    tensor(0.3133)
    """
    check_inputs(1, embeddings=("float n d", embeddings), pids=("int n", pids))
    return F.cross_entropy(_logits(embeddings, agents, scale), pids.long())  # [agent-learning]


def joint_embedding_loss(
    source: Float[Tensor, "n d"],
    source_pids: Int[Tensor, " n"],
    target: Float[Tensor, "m d"],
    agents: Float[Tensor, "a d"],
    *,
    margin: float = 1.0,
    reading: Literal["code", "eq8"] = "code",
) -> Float[Tensor, ""]:
    r"""Want source images at the agent of their identity, and no image near an agent of another person.

    $$ L_{RJ} = \frac{1}{n + |H|} \Big( \sum_k \lVert a_{w_k} - z_k \rVert^2 + \sum_{x \in H} \frac{1}{|H_x|}
       \sum_{a \in H_x} \big( m - \lVert a - x \rVert^2 \big) \Big) \tag{joint-embedding} $$
    $$ L_{RJ} = \sum_k \lVert a_{w_k} - z_k \rVert^2 + \sum_i \sum_j
       \big[ m - \lVert a_i - x_j \rVert^2 \big]_+ \ \text{("eq8")} \tag{joint-embedding-eq8} $$

    $H_x$ are the hard agents of image x: of another identity, if x has one, and nearer than the margin; H holds the
    source and target images that have any. The agents are constants. The printed form knows no hard agents of source
    images, takes sums, and moves the agents too. No host-device synchronisation.

    Args:
        source: (n, d) unit rows $z$.
        source_pids: (n,) their identities w, row numbers of `agents`.
        target: (m, d) unit rows $x$.
        agents: (a, d) unit rows.
        margin: m, a squared distance, above 0 and at most 4.
        reading: "code", as released, or "eq8", as printed, with each pair once.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: a parameter is out of range, or shapes do not fit.

    Source: eq. 8 of the paper, and its released code.

    >>> agents, x = torch.eye(2), torch.tensor([[0.6, 0.8]])
    >>> joint_embedding_loss(agents[:1], torch.tensor([0]), x, agents)    # terms 0, and the mean of 1 - 0.8, 1 - 0.4
    tensor(0.2000)
    """
    if reading not in ("code", "eq8"):
        raise ValueError(f'reading must be "code" or "eq8", not {reading!r}.')
    if not 0 < margin <= 4:
        raise ValueError(f"margin must be above 0 and at most 4, a squared distance of unit vectors, not {margin}.")
    target_and_agents = {"target": ("float m d", target), "agents": ("float a d", agents)}
    check_inputs(source=("float n d", source), source_pids=("int n", source_pids), **target_and_agents)
    source, agents = same_precision(source, agents)
    target, _ = same_precision(target, agents)
    if reading == "code":
        agents = agents.detach()
    attraction = (source - agents.index_select(0, source_pids)).square().sum(1)
    if reading == "eq8":
        repulsion = (margin - squared_euclidean(target, agents)).clamp(min=0)
        return attraction.sum() + repulsion.sum()  # [joint-embedding-eq8]
    images = torch.cat([source, target])
    with torch.no_grad():
        cos = product(images.detach(), agents, out=images.new_empty(len(images), len(agents)))
        hard = cos > 1 - margin / 2
        hard[: len(source)].scatter_(1, source_pids[:, None], False)
        mean_agent = _mean_agent_looked_up if hard.device.type == "cpu" else _mean_agent
        centre, has_any = mean_agent(hard, agents), hard.any(1)
    # The mean of |x - a|² over unit vectors a with mean c is |x - c|² + 1 - |c|².
    squared = (images - centre).square().sum(1) + 1 - centre.square().sum(1)
    repulsion = (margin - squared).masked_fill(~has_any, 0)
    return (attraction.sum() + repulsion.sum()) / (len(source) + has_any.sum())  # [joint-embedding]


class CrossCameraConsistency(nn.Module):
    r"""Want the multilabels of each camera distributed like those of all cameras together.

    $$ L_{CML} = \frac{1}{2V} \sum_v \lVert \mu_v - \mu \rVert^2 + \lVert \sigma_v - \sigma \rVert^2
       \tag{cross-camera} $$
    $$ \mu \leftarrow \alpha \mu + (1 - \alpha) \frac1V \sum_v \mu_v, \quad
       \sigma \leftarrow \alpha \sigma + (1 - \alpha) \frac1V \sum_v \sigma_v \tag{camera-centres} $$

    $\mu_v$ and $\sigma_v$ are mean and (unbiased) standard deviation of the logarithms of the multilabels of camera v,
    if the batch has two images of it; without such a camera the loss is 0 and `update` does nothing. The centres are
    constants for the gradient, and NaN until `initialise` or a first `update` sets them: a training that forgets
    them stops at once.

    Args:
        num_agents: a, at least 1.
        momentum: α, 0 to 1, of the old centres; 1 - B / 10,000 with B = 368 images, source and target, is released.
        reduction: "mean", as above and released, or "sum", without 1 / 2V, as printed.

    Raises:
        ValueError: a parameter is out of range.

    Source: the section on L_CML of the paper, and its released code.

    >>> loss, camids = CrossCameraConsistency(1), torch.tensor([0, 0, 1, 1])
    >>> log_y = torch.tensor([[-1.0], [-3.0], [-2.0], [-4.0]])
    >>> loss.initialise(log_y, camids)
    >>> loss(log_y, camids)    # μ = -2 and -3 about -2.5, σ equal; (0.25 + 0.25) / 4
    tensor(0.1250)
    """

    mean: Float[Tensor, " a"]
    std: Float[Tensor, " a"]

    def __init__(self, num_agents: int, *, momentum: float = 0.9632, reduction: Literal["mean", "sum"] = "mean"):
        super().__init__()
        if num_agents < 1:
            raise ValueError(f"num_agents must be at least 1, not {num_agents}.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", not {reduction!r}.')
        self.momentum, self.reduction = _fraction("momentum", momentum), reduction
        self.register_buffer("mean", torch.full((num_agents,), torch.nan))
        self.register_buffer("std", torch.full((num_agents,), torch.nan))

    @torch.no_grad()
    def initialise(self, log_multilabels: Float[Tensor, "n a"], camids: Int[Tensor, " n"]) -> None:
        """Set the centres from the whole target set, log y and camera of each image.

        Raises:
            ValueError: no camera has two images.
        """
        self._check(log_multilabels, camids)
        cameras = [log_multilabels[camids == camid] for camid in camids.unique()]
        cameras = [rows for rows in cameras if len(rows) > 1]
        if not cameras:
            raise ValueError("log_multilabels holds no two images of one camera; the centres need one that has.")
        self.mean.copy_(torch.stack([rows.mean(0) for rows in cameras]).mean(0))
        self.std.copy_(torch.stack([rows.std(0) for rows in cameras]).mean(0))

    @torch.no_grad()
    def update(self, log_multilabels: Float[Tensor, "n a"], camids: Int[Tensor, " n"]) -> None:
        """Move the centres towards those of a batch."""
        self._check(log_multilabels, camids)
        mean, std, counts = _camera_statistics(log_multilabels, camids)
        for centre, batch in (self.mean, mean), (self.std, std):
            batch = (batch * counts[:, None]).sum(0) / counts.sum()  # NaN without a camera
            moved = _blend(centre, batch, self.momentum)  # [camera-centres]
            centre.copy_(torch.where(counts.any(), moved, centre))

    def forward(self, log_multilabels: Float[Tensor, "n a"], camids: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compare the cameras of a batch of target images, (n, a) log y, with the centres."""
        self._check(log_multilabels, camids)
        mean, std, counts = _camera_statistics(log_multilabels, camids)
        gaps = [gap.masked_fill(~counts[:, None], 0) for gap in (mean - self.mean, std - self.std)]
        total = (gaps[0].square() + gaps[1].square()).sum(1).sum()
        return total / (2 * counts.sum()).clamp(min=1) if self.reduction == "mean" else total  # [cross-camera]

    def _check(self, log_multilabels: Tensor, camids: Tensor) -> None:
        a = len(self.mean)
        check_inputs(
            log_multilabels=(f"float n {a}", log_multilabels),
            camids=("int n", camids),
            centres=(f"float {a}", self.mean),
        )


class MultilabelMemory(nn.Module):
    r"""The multilabel of every target image, averaged over the visits to it.

    $$ \bar y \leftarrow \alpha \bar y + (1 - \alpha)\, y \tag{memory} $$

    A first visit copies y; an image not visited has zeros. Without gradient; on the device where the module is.

    Args:
        num_images: number of target images, at least 1.
        num_agents: a, at least 1.
        momentum: α, 0 to 1, of the old multilabel.

    Raises:
        ValueError: a parameter is out of range.

    Source: released code of the paper, which starts to fill it in the second epoch.

    >>> memory, image = MultilabelMemory(3, 2), torch.tensor([1])
    >>> memory.update(image, torch.tensor([[1.0, 0.0]]))
    >>> memory.update(image, torch.tensor([[0.0, 1.0]]))
    >>> memory[image]
    tensor([[0.9000, 0.1000]])
    """

    table: Float[Tensor, "num_images a"]
    visited: Bool[Tensor, " num_images"]

    def __init__(self, num_images: int, num_agents: int, *, momentum: float = 0.9):
        super().__init__()
        if num_images < 1 or num_agents < 1:
            raise ValueError(f"num_images and num_agents must be at least 1, not {num_images} and {num_agents}.")
        self.momentum = _fraction("momentum", momentum)
        self.register_buffer("table", torch.zeros(num_images, num_agents))
        self.register_buffer("visited", torch.zeros(num_images, dtype=torch.bool))

    @torch.no_grad()
    def update(self, indices: Int[Tensor, " n"], multilabels: Float[Tensor, "n a"]) -> None:
        """Visit the images `indices`, each once, with their present multilabels."""
        check_inputs(indices=("int n", indices))
        check_inputs(multilabels=(f"float {len(indices)} {self.table.shape[1]}", multilabels))
        indices, multilabels = indices.to(self.table.device, torch.int64), multilabels.to(self.table)
        moved = torch.lerp(multilabels, self.table[indices], self.momentum)  # [memory]
        self.table.index_copy_(0, indices, torch.where(self.visited[indices, None], moved, multilabels))
        self.visited.index_fill_(0, indices, True)

    def __getitem__(self, indices: Int[Tensor, " n"]) -> Float[Tensor, "n a"]:
        """Multilabels of the images `indices`."""
        check_inputs(indices=("int n", indices))
        return self.table[indices.to(self.table.device)]


class MultilabelDiscriminativeLoss(nn.Module):
    r"""Want pairs that look alike nearer if their multilabels agree, and farther apart if they do not.

    $$ L_{MDL} = -\log \frac{\bar P}{\bar P + \bar N}, \quad
       \bar P = \frac{1}{|P|} \sum_{(i, j) \in P} e^{-\lVert f_i - f_j \rVert^2} \tag{discriminative} $$
    $$ P = \{ (i, j) \in M : A_{ij} > T \}, \quad N = M \setminus P \tag{partition} $$
    $$ T \leftarrow \alpha T + (1 - \alpha)\, A_{(|M|)} \tag{threshold} $$

    M are the nearest pairs of the batch: the share p of all its pairs. $\bar N$ is the same mean over N, and $A_{(k)}$
    the k-th largest agreement of the batch. Without positives $\bar P$ is 1, and without negatives $\bar N$ is 1/2.
    T is NaN until `initialise` or a first `update` sets it, and no pair is positive then. Only `initialise` and
    `partition` synchronise host and device; `mine` finds the same pairs without, once for the loss and who counts them.

    Where p takes not even one pair of the batch, the nearest one is taken and T stays; a warning says so, once.

    Args:
        mining_ratio: p, above 0 and at most 1.
        momentum: α, 0 to 1, of the old threshold.
        strict_official: whether a batch too small for p does what the released code does: it costs log 1.5 without
            gradient, and T moves towards the *smallest* agreement.
        baseline_split: if given, 0 to 1, P is this share of M, the nearer pairs, and agreements do not count: the
            paper's Baseline (which does not tell the share; 0.5 is a guess).

    Raises:
        ValueError: a parameter is out of range.

    Source: section 3 of the paper, and its released code.

    >>> loss, x = MultilabelDiscriminativeLoss(mining_ratio=1.0), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> y = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.2, 0.8], [0.0, 1.0]])
    >>> loss.initialise(y)    # the agreements are 0.8, 0.2, 0, 0.4, 0.2, 0.8: the sixth is 0
    >>> loss.partition(x, y)[1]    # the negative pairs; all others agree more than that
    tensor([[0, 3]])
    >>> loss(x, y)    # P = (1 + 1 + 3/e) / 5, N = 1/e
    tensor(0.4654)
    """

    threshold: Float[Tensor, ""]

    def __init__(
        self,
        *,
        mining_ratio: float = 0.005,
        momentum: float = 0.9,
        strict_official: bool = False,
        baseline_split: float | None = None,
    ):
        super().__init__()
        if not 0 < mining_ratio <= 1:
            raise ValueError(f"mining_ratio must be above 0 and at most 1, not {mining_ratio}.")
        self.mining_ratio, self.momentum = mining_ratio, _fraction("momentum", momentum)
        self.strict_official = strict_official
        self.baseline_split = None if baseline_split is None else _fraction("baseline_split", baseline_split)
        self._has_warned = False
        self.register_buffer("threshold", torch.tensor(torch.nan))

    @torch.no_grad()
    def initialise(self, multilabels: Float[Tensor, "n a"]) -> None:
        """Set T to the int(p M)-th largest agreement of all M pairs of the target set, exactly.

        Raises:
            ValueError: there are fewer than two images.
        """
        check_inputs(multilabels=("float n a", multilabels))
        n_pairs, n_mined = self._count(len(multilabels))
        if not n_pairs:
            raise ValueError(f"multilabels must be those of at least two images, not of {len(multilabels)}.")
        self.threshold.copy_(kth_largest_agreement(multilabels, n_mined or (n_pairs if self.strict_official else 1)))

    @torch.no_grad()
    def partition(
        self, embeddings: Float[Tensor, "n d"], multilabels: Float[Tensor, "n a"]
    ) -> tuple[Int[Tensor, "p 2"], Int[Tensor, "q 2"]]:
        """The positive and the negative pairs (i, j), i < j, nearest first, of n images."""
        self._check(embeddings, multilabels)
        pairs, positive = self.mine(embeddings, multilabels)
        return pairs[positive], pairs[~positive]

    @torch.no_grad()
    def mine(
        self, embeddings: Float[Tensor, "n d"], multilabels: Float[Tensor, "n a"]
    ) -> tuple[Int[Tensor, "m 2"], Bool[Tensor, " m"]]:
        """The nearest pairs (i, j), i < j, nearest first, of n images, and which of them are positive."""
        self._check(embeddings, multilabels)
        return self._mine(embeddings, multilabels)

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        multilabels: Float[Tensor, "n a"],
        mined: tuple[Int[Tensor, "m 2"], Bool[Tensor, " m"]] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of n target images: unit rows, the multilabels that the memory has of them, and the pairs that
        `mine` found, if it was asked before."""
        self._check(embeddings, multilabels)
        x, _ = same_precision(embeddings, embeddings)
        pairs, positive = mined or self._mine(x, multilabels)
        i, j = pairs.unbind(1)
        similarity = (x.index_select(0, i) - x.index_select(0, j)).square().sum(1).neg().exp()
        n_positive, n_negative = positive.sum(), (~positive).sum()
        p = torch.where(n_positive > 0, similarity.masked_fill(~positive, 0).sum() / n_positive.clamp(min=1), 1)
        n = torch.where(n_negative > 0, similarity.masked_fill(positive, 0).sum() / n_negative.clamp(min=1), 0.5)
        return (p + n).log() - p.log()  # [discriminative]

    @torch.no_grad()
    def update(self, multilabels: Float[Tensor, "n a"]) -> None:
        """Move T towards the agreement that it should have had for this batch; after `forward`."""
        check_inputs(multilabels=("float n a", multilabels), threshold=("float", self.threshold))
        n_pairs, n_mined = self._count(len(multilabels))
        if n_mined or (self.strict_official and n_pairs):
            y, _ = same_precision(multilabels, multilabels)
            kth = 1 - F.pdist(y, p=1).kthvalue(n_mined or n_pairs).values / 2
            self.threshold.copy_(_blend(self.threshold, kth, self.momentum))  # [threshold]

    def _check(self, embeddings: Tensor, multilabels: Tensor) -> None:
        rows = {"embeddings": ("float n d", embeddings), "multilabels": ("float n a", multilabels)}
        check_inputs(**rows, threshold=("float", self.threshold))

    @torch.no_grad()
    def _mine(self, embeddings: Tensor, multilabels: Tensor) -> tuple[Tensor, Tensor]:
        n_pairs, n_mined = self._count(n := len(embeddings))
        if not self.strict_official:
            n_mined = min(max(1, n_mined), n_pairs)
        x, _ = same_precision(embeddings.detach(), embeddings)
        norms = x.square().sum(1)
        squared = norms[:, None] + norms - 2 * product(x, x, out=x.new_empty(n, n))
        other_half = torch.ones_like(squared, dtype=torch.bool).tril_()
        nearest = squared.masked_fill_(other_half, torch.inf).flatten().topk(n_mined, largest=False).indices
        i, j = nearest // max(1, n), nearest % max(1, n)
        if self.baseline_split is not None:
            return torch.stack([i, j], 1), torch.arange(n_mined, device=i.device) < int(self.baseline_split * n_mined)
        y, _ = same_precision(multilabels, multilabels)
        l1 = y.index_select(0, i).sub_(y.index_select(0, j)).abs_().sum(1)
        return torch.stack([i, j], 1), 1 - l1 / 2 > self.threshold  # [partition]

    def _count(self, n: int) -> tuple[int, int]:
        """How many pairs n images have, and how many of them p takes; warns where it takes none."""
        n_pairs = n * (n - 1) // 2
        n_mined = int(self.mining_ratio * n_pairs)
        if n_mined == 0 and not self._has_warned:
            self._has_warned = True
            then = "do as the released code does" if self.strict_official else "take the nearest and keep the threshold"
            warnings.warn(
                f"{n} images have {n_pairs} pairs, of which mining_ratio {self.mining_ratio} takes none, so we {then}; "
                "a larger batch or mining_ratio avoids it.",
                stacklevel=3,
            )
        return n_pairs, n_mined


@torch.no_grad()
def kth_largest_agreement(multilabels: Float[Tensor, "n a"], k: int, *, tile: int = 0) -> Float[Tensor, ""]:
    """The k-th largest agreement of all pairs of images, exactly, in the memory of k numbers and a few rows of pairs.

    Every pair is computed: 3.4e11 absolute differences for the 12,936 images and 4,101 agents of the paper, a minute of
    one processor core. PyTorch's `pdist` does it, on two blocks of images at a time; though it repeats the pairs within
    each block, it takes a third of the time of `cdist`.

    Args:
        multilabels: (n, a), at least two rows.
        k: 1 to n (n - 1) / 2.
        tile: images to compare with as many others at once; 0 chooses what suits the device.

    Returns:
        A scalar.

    Raises:
        ValueError: `k` is out of range.

    >>> kth_largest_agreement(torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]), 2)    # of 0.75, 0.25 and 0
    tensor(0.2500)
    """
    check_inputs(multilabels=("float n a", multilabels))
    n_pairs = len(multilabels) * (len(multilabels) - 1) // 2
    if not 1 <= k <= n_pairs:
        raise ValueError(f"k must be from 1 to the number of pairs, {n_pairs}, not {k}.")
    y, _ = same_precision(multilabels, multilabels)
    nearest, farthest = y.new_empty(0), torch.inf
    for l1 in _l1_of_all_pairs(y, tile or tile_size(y) // 8):
        nearest = torch.cat([nearest, l1[l1 < farthest]])
        if len(nearest) > k:
            nearest = nearest.topk(k, largest=False, sorted=False).values
            farthest = nearest.max()
    return 1 - nearest.max() / 2


def _l1_of_all_pairs(y: Tensor, tile: int) -> Iterator[Tensor]:
    """L1 distances of all pairs of rows, those of one block of rows with itself and all later ones at a time."""
    blocks = [y[rows] for rows in row_blocks(len(y), 1, budget=tile)]
    for step, rows in enumerate(blocks):
        found = [F.pdist(rows, p=1)]
        for cols in blocks[step + 1 :]:
            i, j = torch.triu_indices(n := len(rows) + len(cols), n, 1, device=y.device)
            found.append(F.pdist(torch.cat([rows, cols]), p=1)[(i < len(rows)) & (j >= len(rows))])
        yield torch.cat(found)


def _camera_statistics(x: Tensor, camids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (n, a), standard deviation (n, a) and whether it counts (n,), one row per camera.

    A camera counts with two images or more. It has the row where its number would first be in a sorted list; the other
    rows stay empty.
    """
    x, _ = same_precision(x, x)
    row = torch.searchsorted(camids.sort().values, camids.contiguous())
    size = x.new_zeros(len(x), 1).index_add_(0, row, x.new_ones(len(x), 1))
    x = x.masked_fill(size.index_select(0, row) < 2, 0)  # a camera that does not count may hold anything
    mean = torch.zeros_like(x).index_add(0, row, x) / size.clamp(min=1)
    squares = (x - mean.index_select(0, row)).square()
    variance = torch.zeros_like(x).index_add(0, row, squares) / (size - 1).clamp(min=1)
    std = variance.clamp(min=torch.finfo(x.dtype).tiny).sqrt()  # so that its gradient at 0 is 0
    return mean, std, size[:, 0] > 1


def _logits(embeddings: Tensor, agents: Tensor, scale: float) -> Float[Tensor, "n a"]:
    if not scale > 0:
        raise ValueError(f"scale must be above 0, not {scale}.")
    check_inputs(embeddings=("float n d", embeddings), agents=("float a d", agents))
    x, agents = same_precision(embeddings, agents)
    with torch.autocast(x.device.type, enabled=False):
        return scale * (x @ agents.T)


def _mean_agent(hard: Tensor, agents: Tensor) -> Float[Tensor, "n d"]:
    """The mean of the agents chosen in each row, 0 without any."""
    with torch.autocast(hard.device.type, enabled=False):
        return hard.to(agents.dtype) @ agents / hard.sum(1, keepdim=True).clamp(min=1)


def _mean_agent_looked_up(hard: Tensor, agents: Tensor) -> Float[Tensor, "n d"]:
    """The same by looking up the few that are chosen; their number is only known on the host."""
    counts = hard.sum(1)
    return F.embedding_bag(nonzero(hard)[1], agents, counts.cumsum(0) - counts, mode="mean")


def _blend(old: Tensor, new: Tensor, momentum: float) -> Tensor:
    """The old value moved towards the new one; the new one where there is no old one (NaN)."""
    return torch.where(old.isnan(), new, momentum * old + (1 - momentum) * new)


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value}.")
    return value
