"""embed: unit rows, whatever the batches; search: a stable sort, without sorting."""

import inspect

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reidkit import distances
from reidkit.data.images import Images, normalise
from reidkit.embed import Embeddings, colour_histogram, embed, search
from reidkit.models.backbones import small_resnet
from reidkit.models.heads import BNNeck, ReID


@pytest.fixture
def images(generator):
    pixels = torch.randint(0, 256, (7, 3, 32, 16), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(7) // 2, torch.arange(7) % 3)


@pytest.fixture
def model():
    backbone = small_resnet(width=4)
    network = ReID(backbone, BNNeck(backbone.dim, 3))
    network(torch.randn(16, 3, 32, 16))  # running statistics that are not those of a new network
    return network


def test_embeddings_are_the_networks_in_eval_mode_with_unit_rows(model, images):
    got = embed(model, images, batch_size=3)
    model.eval()
    with torch.no_grad():
        expected = F.normalize(model(normalise(images.pixels)).embedding)
    torch.testing.assert_close(got.x, expected)
    torch.testing.assert_close(got.x.norm(dim=1), torch.ones(7))
    assert torch.equal(got.pids, images.pids) and torch.equal(got.camids, images.camids)
    assert got.x.dtype == torch.float32 and not got.x.requires_grad


def test_the_mode_of_every_module_comes_back(model, images):
    model.head.bn.eval()  # a frozen layer in a network that trains
    embed(model, images)
    assert model.training and not model.head.bn.training
    model.eval()
    embed(model, images)
    assert not model.training


def test_the_mode_comes_back_after_an_error(images):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            raise RuntimeError("broken")

    model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        embed(model, images)
    assert model.training and model.layer.training


def test_flip_makes_an_image_and_its_mirror_equal(model, images):
    mirrored = Images(images.pixels.flip(3), images.pids, images.camids)
    both = [embed(model, bank, flip=True).x for bank in (images, mirrored)]
    torch.testing.assert_close(*both)
    plain = [embed(model, bank).x for bank in (images, mirrored)]
    assert (plain[0] - plain[1]).abs().max() > 1e-3
    torch.testing.assert_close(both[0].norm(dim=1), torch.ones(7))


def test_half_precision_is_close_and_comes_out_whole(model, images):
    half, full = embed(model, images, precision="bf16").x, embed(model, images, precision="fp32").x
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1


def test_nothing_to_embed_is_said(model, images):
    with pytest.raises(ValueError, match="no images to embed"):
        embed(model, images[:0])


@given(
    seed=st.integers(0, 10_000),
    n_query=st.integers(1, 5),
    n_gallery=st.integers(1, 30),
    values=st.integers(1, 4),
    data=st.data(),
)
def test_search_is_a_stable_sort(seed, n_query, n_gallery, values, data):
    """On a coarse grid most distances are equal to others, so any other order than the gallery's would show."""
    rng = numpy.random.default_rng(seed)
    query, gallery = (rng.integers(0, values, (n, 2)).astype(numpy.float32) for n in (n_query, n_gallery))
    top_k = data.draw(st.integers(1, n_gallery))
    squared = ((query[:, None] - gallery[None]) ** 2).sum(2)
    expected = numpy.argsort(squared, axis=1, kind="stable")[:, :top_k]
    indices, distances = search(torch.from_numpy(query), torch.from_numpy(gallery), top_k=top_k)
    assert indices.tolist() == expected.tolist()
    torch.testing.assert_close(distances, torch.from_numpy(numpy.take_along_axis(squared, expected, 1)).sqrt())


def test_search_does_not_depend_on_the_blocks(monkeypatch, generator):
    query, gallery = (F.normalize(torch.randn(n, 5, generator=generator)) for n in (23, 40))
    sides = [Embeddings(x, torch.zeros(len(x)).long(), torch.zeros(len(x)).long()) for x in (query, gallery)]
    whole = search(*sides, top_k=7)
    few = lambda n, row_bytes, budget=1: [slice(i, min(i + 4, n)) for i in range(0, n, 4)]  # noqa: E731
    monkeypatch.setattr(distances, "row_blocks", few)
    parts = search(query, gallery, top_k=7)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("top_k", [0, 6])
def test_search_refuses_more_than_there_is(top_k):
    with pytest.raises(ValueError, match=r"top_k must be 1 to 5, the size of the gallery, not"):
        search(torch.zeros(2, 3), torch.zeros(5, 3), top_k=top_k)


def test_colour_histogram_counts_by_hand_and_image_by_image(images):
    """A red image above blue: half the stripes hold one red cell, half one blue cell, whatever stands beside it."""
    flag = torch.zeros(1, 3, 12, 10, dtype=torch.uint8)
    flag[:, 0, :6], flag[:, 2, 6:] = 255, 255
    one = torch.tensor([1])
    x = colour_histogram(Images(flag, one, one), stripes=2).x.view(2, 8, 4, 4)
    assert (x > 0).nonzero().tolist() == [[0, 0, 3, 3], [1, 5, 3, 3]]
    torch.testing.assert_close(x[x > 0], torch.full((2,), 0.5**0.5))
    alone = torch.cat([colour_histogram(images[i : i + 1]).x for i in range(len(images))])
    torch.testing.assert_close(colour_histogram(images).x, alone)


@pytest.mark.parametrize("offset", [0, 100, 3000])
def test_search_is_that_of_float64_wherever_the_embeddings_lie(offset, generator):
    query, gallery = (torch.randn(n, 64, generator=generator) + offset for n in (20, 300))
    gallery[150:] = gallery[:150]
    gallery[:20] = query
    indices, far = search(query, gallery, top_k=12)
    exact = (query[:, None].double() - gallery.double()).square().sum(2).sort(dim=1, stable=True)
    assert torch.equal(indices, exact.indices[:, :12])
    torch.testing.assert_close(far, exact.values[:, :12].sqrt().float())
    assert (far[:, 0] == 0).all() and far.dtype == torch.float32


def test_search_takes_arrays_and_refuses_what_it_cannot_rank():
    x = numpy.eye(3, dtype=numpy.float32)
    assert search(x, x.astype(numpy.float16), top_k=1)[0].tolist() == [[0], [1], [2]]
    call = inspect.unwrap(search)
    for sentence, pair in {
        "query must be a tensor or a NumPy array of embeddings, not a list": (x.tolist(), x),
        "query has 2 numbers per row and gallery 3": (x[:, :2], x),
        "1 rows of gallery hold NaN or infinity, the first is row 2": (x, numpy.diag([1, 1, numpy.nan]).astype("f")),
        "gallery must hold floating-point embeddings, not int64": (x, x.astype(int)),
    }.items():
        with pytest.raises(ValueError, match=sentence):
            call(*pair, top_k=1)
