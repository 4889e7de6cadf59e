"""Every archive preset goes through an epoch on a device without values, and a forecast counts as one would by hand."""

import pytest
import torch
from torch import nn

import forecast
from fake_cuda import CUDA, FakeCUDA
from gpu_check import device
from miniatures import people_in_colours
from reidkit.data.images import identity_labels, load
from reidkit.data.layouts import market1501
from reidkit.training import Cycle, fit
from trainings import Training, of_agents, of_generator, training

STAGES = {"04": {"generators": of_generator}, "06": {"agents": of_agents}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """47 people, 376 images: as many as the largest batch of any preset needs."""
    return market1501(people_in_colours(tmp_path_factory.mktemp("archive"), 47, shots=4)).train


@pytest.mark.parametrize("number, preset", forecast.presets())
def test_every_archive_preset_trains_to_the_end_of_an_epoch(number, preset, archive):
    params = forecast.of(number, preset)
    images = load(archive, (params.height, params.width))
    people = identity_labels(images.pids)[1]
    for make in (None, *STAGES.get(number, {}).values()):
        with FakeCUDA(values=False):
            made = make(params, images, people) if make else training(number, params, images, people)
            precision = params.gan_precision if make is of_generator else params.precision
            made = made._replace(batches=Cycle(made.batches, 1))
            rows = fit(**made._asdict(), epochs=1, precision=precision, progress=False).rows
            assert rows[0]["steps"] == 1 and next(made.model.parameters()).device == CUDA


def by_hand(batch=8):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(device())
    images = torch.zeros(batch, 16).to(device())
    step = lambda model, batch: {"loss": model(batch).square().sum()}  # noqa: E731
    return Training(model, [images], step, torch.optim.SGD(model.parameters(), lr=0.1))


def test_operations_and_tensors_of_a_step_are_counted():
    with FakeCUDA(values=False):
        found = forecast.one_step(by_hand(), "fp32")
    products = 8 * 16 * 32 + 8 * 32 * 4
    # forward; the gradient of weights; that of inputs, where they need one
    assert found["operations"] == 2 * (products + products + 8 * 32 * 4)
    assert found["weights"] == 4 * (16 * 32 + 32 + 32 * 4 + 4)
    assert 4 * 8 * 32 <= found["kept"] <= 4 * 8 * (32 + 32 + 4 + 4)  # what ReLU and the square need


def test_a_step_that_does_not_fit_is_told_the_batch_that_does():
    phase = {"operations": 10**12, "kept": 10**10, "weights": 10**8, "steps": 3600, "batch": 100}
    row = {"phases": {"network": phase}, "images in bytes": 10**12}
    tight = forecast.on_card(row, 2, 7e9, 1e12 / forecast.SHARE)
    assert tight["hours"] == pytest.approx(1) and not tight["fits"] and tight["bank"] == "host"
    assert tight["batch that fits"] == int((7e9 - 0.6e9 - 1.15 * 4e8) / (1.15 * 1e8))
    assert forecast.on_card(row, 2, 20e9, 1e12)["fits"]
