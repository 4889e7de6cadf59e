"""A CUDA device without a card: everything that computes runs on one that only says it is, and no step waits for it.

`tools/fake_cuda.py` is the device, and `tools/gpu_check.py` holds what runs on it here and on a real one there.
What such a device cannot show is named in `UNSEEN`.
"""

import functools
import json
from unittest import mock

import pytest
import torch
from torch import nn

import gpu_check
from fake_cuda import CUDA, DeviceError, FakeCUDA
from gpu_check import CHECKS, difference, on_cpu
from miniatures import people_in_colours
from reidkit import runs
from reidkit.data.images import Augment, Images
from reidkit.data.samplers import Batches, PlainSampler
from reidkit.models.backbones import BACKBONES
from reidkit.models.dcgan import dcgan
from reidkit.models.heads import NECKS, ReID
from reidkit.models.one_shot import HEADS
from reidkit.models.precision import network_precision, resolve_precision
from reidkit.models.sparse_smoothing import ClassBlock
from reidkit.training import fit
from trainings import RECIPES

# Where a training may wait for the device, and what for
MAY_WAIT = {
    ("training.py", "look"): "the numbers of 50 steps are looked at",
    ("training.py", "<setcomp>"): "before and after an epoch all that lasts is looked at",
    ("images.py", "to"): "a bank goes to the device",
    ("samplers.py", "__init__"): "its labels go with it",
    ("extra_images.py", "__init__"): "the same of real and extra images",
    ("extra_images.py", "<listcomp>"): "and of their labels",
    ("generators.py", "_train"): "the same of what a generator learns from",
    ("generators.py", "<listcomp>"): "the same noise as ever, once an epoch",
    ("generators.py", "generate"): "its pictures, once an epoch",
    ("supervised.py", "build_model"): "a network goes to the device",
    ("one_shot.py", "build_model"): "the same",
    ("sparse_smoothing.py", "build_model"): "the same",
    ("soft_multilabel.py", "stage_one"): "the same",
    ("sparse_smoothing.py", "build_loss"): "which identities a cluster has",
    ("checkpoints.py", "save"): "an epoch is kept",
    ("checkpoints.py", "_check_readable"): "what is to be kept is tried",
    ("embed.py", "embed"): "labels of a whole set",
    ("soft_multilabel.py", "initialise"): "what MAR makes of the whole target set, once",
    ("soft_multilabel.py", "<listcomp>"): "of that",
    ("soft_multilabel.py", "kth_largest_agreement"): "of that",
}
CALLERS = ("gpu_check.py", "trainings.py", "test_cuda.py")  # which bring inputs, and read what came of them

# What no fake device shows, by the name of what stands in for it
UNSEEN = {
    "Stream": "that a copy on a stream of its own is done before it is read, and goes on beside a step",
    "stream": "the same",
    "synchronize": "how long anything takes",
    "mem_get_info": "what fits into the memory of a card",
    "max_memory_allocated": "the same",
    "get_device_capability": "what cuDNN and cuBLAS round otherwise than the CPU: kernels, TF32, bf16, fp16",
    "is_bf16_supported": "the same",
}


def found_waits(cuda):
    return {(wait.file, wait.function) for wait in cuda.waits if wait.file not in CALLERS}


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, checks in CHECKS.items() for name in checks])
def test_a_card_would_compute_what_the_cpu_does(kind, name):
    reference = on_cpu(CHECKS[kind][name])
    with FakeCUDA() as cuda:
        here = CHECKS[kind][name]()
        gap = difference(kind, here, reference)
    assert gap <= gpu_check.CAREFUL[kind]
    if kind == "losses":
        assert all(tensor.device == CUDA for tensor in here)
        assert not found_waits(cuda)
    if kind == "steps":
        assert found_waits(cuda) <= set(MAY_WAIT)


# ------------------------------------------------------------------------------------------------- the device itself


def wait_of(act):
    with FakeCUDA() as cuda:
        x = torch.zeros(4, 3, device="cuda")
        before = len(cuda.waits)
        act(x)
        return [wait.what for wait in cuda.waits[before:]]


@pytest.mark.parametrize(
    "act, what",
    [
        (lambda x: x.sum().item(), "aten._local_scalar_dense.default"),
        (lambda x: bool(x.sum() > 0), "aten._local_scalar_dense.default"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x[torch.tensor([1, 2])], "index by numbers on the CPU"),
        (lambda x: (x > 0).nonzero(), "aten.nonzero.default"),
        (lambda x: x.tolist(), "copy to the host"),
        (lambda x: x.to("cpu", non_blocking=True), "copy to the host"),
        (lambda x: torch.zeros(2).to(x.device), "copy to the device"),
        (lambda x: torch.tensor([1.0], device="cuda"), "copy to the device"),
        (lambda x: x.new_tensor([1.0]), "copy to the device"),
    ],
)
def test_what_the_host_waits_for_is_noted(act, what):
    assert wait_of(act) == [what]


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x[torch.zeros(2, dtype=torch.long, device=x.device)],
        lambda x: x.masked_fill(x > 0, 1.0),
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: torch.zeros(2).to(x.device, non_blocking=True),
        lambda x: torch.where(x > 0, x, 1.0),
        lambda x: x + torch.tensor(1.0),
    ],
)
def test_what_the_host_need_not_wait_for_is_not(act):
    assert not wait_of(act)


@pytest.mark.parametrize(
    "act", [lambda x: x + torch.zeros(3), lambda x: torch.cat([x, torch.zeros(1, 3)]), lambda x: x @ torch.zeros(3, 2)]
)
def test_two_devices_in_one_operation_are_refused(act):
    with FakeCUDA(), pytest.raises(DeviceError, match="mixes tensors on cuda with tensors on the CPU"):
        act(torch.zeros(4, 3, device="cuda"))


def test_what_it_does_not_show_is_named():
    with FakeCUDA():
        standing_in = {name for name, value in vars(torch.cuda).items() if isinstance(value, mock.Mock)}
    trivial = {"is_available", "is_initialized", "_lazy_init", "device_count", "current_device", "current_stream"}
    assert standing_in - trivial - {"get_device_properties", "reset_peak_memory_stats"} == set(UNSEEN)


def faulty(fault):
    """A training step with a fault, for a few steps of `fit`."""
    with FakeCUDA() as cuda:
        model = nn.Linear(3, 2).to("cuda")
        batches = [torch.ones(4, 3).to("cuda") for _ in range(3)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, batches, lambda model, x: fault(model(x)).sum(), epochs=1, optimizers=optimizer, progress=False)
        return cuda


def test_a_tensor_on_the_cpu_in_a_step_is_caught():
    with pytest.raises(DeviceError):
        faulty(lambda x: x * torch.ones(2))


def test_a_wait_in_a_step_is_caught():
    quiet, waiting = faulty(lambda x: x), faulty(lambda x: x * float(x.detach().max()))
    assert {(wait.file, wait.function) for wait in quiet.waits} <= {*MAY_WAIT, ("test_cuda.py", "<listcomp>")} | {
        ("test_cuda.py", "faulty")
    }
    assert len([wait for wait in waiting.waits if "float(" in wait.line]) == 3


# ------------------------------------------------------------------------------------------------ networks and heads


def one_step(model, *inputs, precision, total):
    with network_precision(model, precision):
        value = total(model(*inputs))
    assert value.dtype == torch.float32 and value.device == CUDA
    value.backward()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    optimizer.step()
    assert all(p.grad.device == CUDA for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_takes_a_step_at_full_size(name, precision):
    with FakeCUDA(values=False) as cuda:
        backbone = BACKBONES[name]()
        model = ReID(backbone, NECKS["bn"](backbone.dim, 751)).to("cuda")
        before, images = len(cuda.waits), torch.zeros(64, 3, 256, 128, device="cuda")
        one_step(model, images, precision=precision, total=lambda output: output.logits.sum())
        assert not cuda.waits[before:]


@pytest.mark.parametrize(
    "head",
    [
        *(lambda dim, make=make: make(dim, 7) for make in NECKS.values()),
        *(lambda dim, make=make: make(dim, 7) for make in HEADS.values()),
        lambda dim: ClassBlock(dim, 7, hidden=8, noise_layer="post"),
    ],
)
def test_every_head_takes_a_step(head):
    with FakeCUDA() as cuda:
        backbone = BACKBONES["small_resnet"](width=4)
        model = ReID(backbone, head(backbone.dim)).to("cuda")
        before, images = len(cuda.waits), torch.zeros(4, 3, 64, 32, device="cuda")
        parts = lambda output: sum(part.square().sum() for part in output)  # noqa: E731
        one_step(model, images, precision="bf16", total=parts)
        assert not cuda.waits[before:]


@pytest.mark.parametrize("size, stages", [((64, 32), 3), ((128, 128), 4)])
def test_both_networks_of_a_gan_take_a_step(size, stages):
    with FakeCUDA(values=False) as cuda:
        model = dcgan(size, width=64, stages=stages).to("cuda")
        before, noise = len(cuda.waits), torch.zeros(16, 100, device="cuda")
        with network_precision(model, "bf16"):
            images = model["generator"](noise)
            model["discriminator"](images).sum().backward()
        assert images.shape == (16, 3, *size) and not cuda.waits[before:]


@pytest.mark.parametrize("capability, dtype", [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16")])
def test_the_precision_is_what_a_card_has(capability, dtype):
    with FakeCUDA(capability=capability):
        assert resolve_precision(nn.Linear(1, 1).to("cuda"), "auto") == getattr(torch, dtype)
    with FakeCUDA(capability=(9, 0)):
        assert resolve_precision(nn.Linear(1, 1).to("cuda"), "auto") == torch.bfloat16
    assert resolve_precision(nn.Linear(1, 1), "auto") == torch.float32


# ------------------------------------------------------------------------------------------------------------ batches


def batches_of(images, **options):
    order = PlainSampler(len(images), batch_size=4, seed=3)
    return Batches(images, images.pids, order, Augment(), seed=3, **options)


def numbered(n=10):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (n, 3, 64, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n), torch.arange(n) % 3)


@pytest.mark.parametrize("free", [2**34, 1000])
def test_batches_are_the_same_from_a_bank_on_the_card_and_from_one_beside_it(free):
    images = numbered()
    reference = list(batches_of(images))
    with FakeCUDA() as cuda:
        torch.cuda.mem_get_info.return_value = (free, 2**34)
        batches = batches_of(images, device="cuda")
        assert batches.images.pixels.device.type == ("cuda" if free > 1000 else "cpu")
        before = len(cuda.waits)
        found = list(batches)
        assert not cuda.waits[before:]
        for sample, other in zip(found, reference, strict=True):
            assert all(part.device == CUDA for part in sample)
            torch.testing.assert_close(sample.images.cpu(), other.images)
            assert [part.tolist() for part in sample[1:]] == [part.tolist() for part in other[1:]]


def test_a_pass_that_is_left_early_leaves_no_thread_behind():
    with FakeCUDA():
        torch.cuda.mem_get_info.return_value = (1000, 2**34)
        iterator = iter(batches_of(numbered(), device="cuda"))
        next(iterator)
        iterator.close()
        assert len(list(batches_of(numbered(), device="cuda"))) == 2


# --------------------------------------------------------------------------------------------------------- whole runs

SHORT = {
    "02": {"p": 4, "k": 2, "epochs": 1, "steps_per_epoch": 2},
    "03": {"p": 4, "k": 2, "epochs": 1, "steps_per_epoch": 2},
    "04": {"amount": 8, "clusters": 2, "gan_batch": 4, "gan_epochs": 1, "gan_steps": 1, "epochs": 1}
    | {"steps_per_epoch": 2, "batch_size": 8, "gan_init": "scratch", "gan_channels": 8},
    "05": {"batch_size": 4, "epochs": 2, "steps_per_epoch": 1, "enlarging_factor": 0.4, "dropout": 0.0},
    "06": {"source_dataset": "market1501", "stage_one": "train", "source_batch": 8, "target_batch": 8}
    | {"mining_ratio": 0.3, "mining_from": 0, "steps_per_epoch": 2, "epochs": 1, "stage_one_epochs": 1},
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("archives")
    people_in_colours(root / "market1501", 6)
    return str(root)


@pytest.mark.filterwarnings("ignore:.*of which mining_ratio.*takes none")
@pytest.mark.parametrize("number", SHORT)
def test_a_whole_run_gives_on_the_device_what_it_gives_on_the_cpu(number, archives, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    options = {
        "data_root": archives,
        "dataset": "market1501",
        "weights": "scratch",
        "precision": "fp32",
        "progress": False,
    }
    run = functools.partial(RECIPES[number].run, preset="quick", **options | SHORT[number])
    there = on_cpu(run)
    with FakeCUDA():
        here = run()
        assert next(here.objects["model"].parameters()).device == CUDA
    # a network of random noise ranks at random, and the last digits of its embeddings decide
    assert here.metrics.keys() == there.metrics.keys()
    for name in ("mAP", "rank1", "n_query", "n_valid", "n_gallery"):
        assert here.metrics[name] == pytest.approx(there.metrics[name], abs=0.02)


# ---------------------------------------------------------------------------------------------------- tools/gpu_check


def test_without_a_card_the_check_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().out.startswith("There is no CUDA device here; --fake runs")


def test_the_check_gives_a_line_for_each_loss(capsys):
    assert gpu_check.main(["--fake", "losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device: fake" and lines[-1] == "All agree." and len(lines) == len(gpu_check.LOSSES) + 2


def test_the_check_fails_where_a_device_differs_or_an_error_occurs(capsys, monkeypatch):
    wrong = {
        "another number": lambda: [torch.ones(2) if gpu_check.device() == "cpu" else torch.tensor([1.0, 1.1])],
        "an error": lambda: [torch.zeros(2, device=gpu_check.device()) + torch.zeros(2)],
        "no number": lambda: [torch.ones(2) if gpu_check.device() == "cpu" else torch.full((2,), torch.nan)],
    }
    monkeypatch.setitem(gpu_check.CHECKS, "losses", wrong)
    assert gpu_check.main(["--fake", "losses"]) == 1
    out = capsys.readouterr().out
    assert "more than 0.0001" in out and "DeviceError: aten.add.Tensor mixes" in out and "3 of 3 differ." in out


def test_a_notebook_that_feeds_the_wrong_device_is_caught_by_its_cell(tmp_path):
    model, wrong = "import torch\nmodel = torch.nn.Linear(2, 1).to('cuda')", "model(torch.zeros(1, 2))"
    cells = [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in (model, wrong)]
    (tmp_path / "09_wrong.ipynb").write_text(json.dumps({"cells": cells}))
    with FakeCUDA(), pytest.raises(RuntimeError, match="cell 1: DeviceError"):
        gpu_check.executed(tmp_path / "09_wrong.ipynb")
