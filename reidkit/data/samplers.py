"""In which order images are seen: pure functions of (seed, epoch), so that a killed run resumes exactly."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from reidkit.data.images import Augment, Images, fits_on_card, normalise, to_device
from reidkit.inputs import Labels, as_labels, whole


def epoch_generator(seed: int, epoch: int, stream: str = "") -> torch.Generator:
    """Make a random generator for one epoch of one stream; streams and epochs of one seed are independent.

    Args:
        seed: of the run, at least 0.
        epoch: from 0.
        stream: what is drawn (order, augmentation, ...), any text.

    >>> torch.rand(1, generator=epoch_generator(0, 1)) == torch.rand(1, generator=epoch_generator(0, 1))
    tensor([True])
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must be at least 0, not {seed} and {epoch}.")
    state = np.random.SeedSequence([seed, epoch, *stream.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class PKSampler:
    """Yield batches of p identities with k images each.

    In each epoch the images of every identity are shuffled and cut into groups of k. A batch takes the next group of
    each of p identities, sampled among those that still have one; the epoch ends when fewer than p have.

    Corner cases
        * An identity with fewer than k images gives one group per epoch, sampled from its images with replacement.
        * The n mod k images that are left of a larger identity are not seen in this epoch.
        * Groups left over at the end of the epoch are not seen in this epoch; so its length varies from epoch to epoch.
        * Each identity is at most once in a batch, and an image of a large identity at most once in an epoch.

    Args:
        pids: (n,) the identity of every image, any integers; a tensor, an array or a list.
        p: identities in a batch.
        k: images of each.
        seed: of the run.

    Raises:
        ValueError: p or k below 1, fewer than p identities, or `pids` is not one integer for each image.

    Source: H. Luo et al., Bag of Tricks, CVPRW 2019, and the released code of Ranked_Person_ReID.

    >>> sampler = PKSampler(torch.tensor([5, 5, 5, 8, 8, 9, 9]), p=2, k=2)
    >>> [len(batch) for batch in sampler]
    [4]
    """

    def __init__(self, pids: Labels, *, p: int = 16, k: int = 4, seed: int = 0):
        whole(p=p, k=k, seed=seed)
        pids = as_labels(pids, "pids").cpu()
        self.labels, self.counts = torch.unique(pids, return_inverse=True, return_counts=True)[1:]
        if p < 1 or k < 1:
            raise ValueError(f"p and k must be at least 1, not {p} and {k}.")
        if len(self.counts) < p:
            raise ValueError(
                f"a batch wants p={p} identities and there are only {len(self.counts)}; choose a smaller p."
            )
        self.p, self.k, self.seed = p, k, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, and plan its batches."""
        generator = epoch_generator(self.seed, epoch, "pk")
        groups = self._groups(generator)
        self.batches: list[list[int]] = []
        while len(alive := [identity for identity, left in enumerate(groups) if left]) >= self.p:
            chosen = torch.randperm(len(alive), generator=generator)[: self.p].tolist()
            self.batches.append([index for i in chosen for index in groups[alive[i]].pop()])

    def _groups(self, generator: torch.Generator) -> list[list[list[int]]]:
        """For each identity its images in random order, cut into groups of k."""
        order = torch.randperm(len(self.labels), generator=generator)
        order = order[self.labels[order].argsort(stable=True)]  # shuffled within each identity
        groups = []
        for images in order.split(self.counts.tolist()):
            if len(images) < self.k:
                images = images[torch.randint(len(images), (self.k,), generator=generator)]
            groups.append(images[: len(images) // self.k * self.k].view(-1, self.k).tolist())
        return groups

    def __len__(self) -> int:
        """How many batches this epoch has."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class PlainSampler:
    """Yield all positions once per epoch, shuffled, in batches of one size; a last, smaller batch is left out.

    Args:
        n: how many images there are.
        batch_size: images in a batch.
        seed: of the run.

    Raises:
        ValueError: no batch can be made, or a number is not whole.

    >>> sorted(index for batch in PlainSampler(6, batch_size=2) for index in batch)
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, n: int, *, batch_size: int, seed: int = 0):
        whole(n=n, batch_size=batch_size, seed=seed)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if n < batch_size:
            raise ValueError(f"{n} images do not fill a batch of {batch_size}; choose a smaller batch_size.")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """How many batches every epoch has."""
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.n, generator=epoch_generator(self.seed, self.epoch, "plain")).tolist()
        return (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self)))


class Sample(NamedTuple):
    """A batch as a training step gets it.

    Attributes:
        images: (b, 3, h, w) augmented and normalised.
        labels: (b,) identities, 0 to C - 1.
        camids: (b,) cameras from 0.
        indices: (b,) positions in the bank.
    """

    images: Float[Tensor, "b 3 h w"]
    labels: Int64[Tensor, " b"]
    camids: Int64[Tensor, " b"]
    indices: Int64[Tensor, " b"]


class Batches:
    """Turn a bank of images and an order into augmented batches on a device.

    Args:
        images: the bank. On a CUDA device it lies there itself if it takes no more than a quarter of the free memory;
            if not, the next batch is gathered and copied while this one is learnt from.
        labels: (n,) what stands in `Sample.labels`, one for each image of the bank.
        sampler: yields lists of positions and has a method `set_epoch(epoch)`.
        augment: how images are changed; None only normalises.
        seed: of the augmentation.
        device: where the samples go.

    Raises:
        ValueError: not one label for each image.

    >>> bank = Images(torch.zeros(6, 3, 8, 4, dtype=torch.uint8), torch.arange(6), torch.zeros(6, dtype=torch.long))
    >>> batches = Batches(bank, bank.pids, PlainSampler(6, batch_size=3), Augment())
    >>> [sample.images.shape for sample in batches]
    [torch.Size([3, 3, 8, 4]), torch.Size([3, 3, 8, 4])]
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        sampler: Iterable[list[int]],
        augment: Augment | None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        labels = as_labels(labels, "labels")
        if len(labels) != len(images):
            raise ValueError(f"there must be one label for each image, not {len(labels)} for {len(images)}.")
        self.images = images.to(device) if fits_on_card(images, device) else images
        self.sampler, self.augment, self.seed = sampler, augment, seed
        self.labels, self.device = labels.to(self.images.pixels.device), torch.device(device)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the order and of the augmentation."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """How many batches this epoch has, if the sampler knows."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Sample]:
        generator = epoch_generator(self.seed, self.epoch, "augment")
        near = self.labels.device.type == self.device.type
        for pixels, rows in map(self._gather, self.sampler) if near else self._ahead():
            images = self.augment(pixels, generator=generator) if self.augment else normalise(pixels)
            yield Sample(images, *rows)

    def _gather(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """The pixels of a batch, and its labels, camids and indices, where the bank is."""
        indices = to_device(torch.tensor(positions), self.labels.device)
        rows = torch.stack([self.labels[indices], self.images.camids[indices], indices])
        return self.images.pixels.index_select(0, indices), rows

    def _ahead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same on the card: a thread gathers the next batch, and a stream of its own copies this one."""
        stream = torch.cuda.Stream(self.device)
        with ThreadPoolExecutor(1) as thread:
            waiting = deque()
            for positions in self.sampler:
                waiting.append(thread.submit(self._gather, positions))
                if len(waiting) > 1:
                    yield self._copied(stream, *waiting.popleft().result())
            if waiting:
                yield self._copied(stream, *waiting.popleft().result())

    def _copied(self, stream: torch.cuda.Stream, *parts: Tensor) -> list[Tensor]:
        """Copies on the card, without a wait of the host; the work that is there already goes on meanwhile."""
        with torch.cuda.stream(stream):
            copies = [to_device(part, self.device) for part in parts]
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(stream)
        for copy in copies:
            copy.record_stream(now)  # its memory is not given away before that is done with it
        return copies
