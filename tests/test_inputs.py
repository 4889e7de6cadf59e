"""What losses, memories and samplers are given: whatever would be broadcast is refused, everywhere by one sentence."""

import inspect
import re

import jaxtyping
import numpy as np
import pytest
import torch

from reidkit.data.images import Images
from reidkit.data.samplers import Batches, PKSampler, PlainSampler
from reidkit.inputs import as_labels, check_inputs, embedding_rows, labels, stored_rows
from reidkit.losses import one_shot, ranking, smoothing, soft_multilabel, triplet

N, D, A = 6, 4, 3
PIDS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture(autouse=True)
def _as_users_have_it(monkeypatch):
    """Without the checks of types that tests add, which come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


INPUTS = {  # by name: what fits
    **dict.fromkeys(("embeddings", "logits", "labelled", "unlabelled", "source", "target"), torch.eye(N, D)),
    **dict.fromkeys(("pids", "source_pids", "clusters", "camids", "indices"), PIDS),
    "agents": torch.eye(A, D),
    "multilabels": torch.full((N, A), 1 / A),
    "log_multilabels": torch.zeros(N, A),
    "generated": PIDS > 0,
    "membership": torch.ones(3, D, dtype=torch.bool),
}
FUNCTIONS = [
    ranking.lin_loss, ranking.ranked_list_loss, triplet.batch_hard_triplet_loss,
    smoothing.sparse_label_smoothing_loss, smoothing.lsro_loss, smoothing.all_in_one_loss, smoothing.cluster_membership,
    one_shot.feature_space_regularization,
    soft_multilabel.soft_multilabels, soft_multilabel.agreement, soft_multilabel.agent_learning_loss,
    soft_multilabel.joint_embedding_loss, soft_multilabel.kth_largest_agreement,
]  # fmt: skip
MODULES = {
    one_shot.ExclusiveLoss: ((N, D), ("forward", "update")),
    soft_multilabel.CrossCameraConsistency: ((A,), ("initialise", "update", "forward")),
    soft_multilabel.MultilabelMemory: ((N, A), ("update", "__getitem__")),
    soft_multilabel.MultilabelDiscriminativeLoss: ((), ("initialise", "partition", "forward", "update")),
}


def callable_by_name(function):
    """The names of the tensors that a function takes, and how it is called with a dict of them."""
    known = inspect.signature(function).parameters
    names, options = [name for name in known if name in INPUTS], {"k": 1} if "k" in known else {}
    return names, lambda **inputs: function(*(inputs[name] for name in names), **options)


def calls():
    """Everything of the losses that takes tensors: its name, the names of these, and how it is called with them."""
    for function in FUNCTIONS:
        yield function.__name__, *callable_by_name(function)
    for kind, (sizes, methods) in MODULES.items():
        for method in methods:
            loss = kind(*sizes, **({"mining_ratio": 0.5} if not sizes else {}))
            yield f"{kind.__name__}.{method}", *callable_by_name(getattr(loss, method))


CALLS = [pytest.param(names, call, id=name) for name, names, call in calls()]
EACH = pytest.mark.parametrize(("names", "call"), CALLS)


def wrong(name):
    """Inputs like the right one, each wrong in one way."""
    right = INPUTS[name]
    yield "one dimension more", right[..., None]
    yield "no dimension", right.flatten()[0]
    yield "a list", right.tolist()
    yield "an array", right.numpy()
    yield "nothing", None
    yield "complex", right.to(torch.complex64)
    if right.is_floating_point():
        yield "one row", right[0]
        yield "integers", right.long()
        yield "truth values", right.bool()
    elif right.dtype == torch.int64:
        yield "floating-point", right.float()
        yield "truth values", right.bool()
        yield "bytes, which would choose like truth values", right.byte()
    else:
        yield "integers", right.long()
        yield "floating-point", right.float()


@EACH
def test_what_fits_is_taken_in_any_precision(names, call):
    for integer, number in ((torch.int64, torch.float32), (torch.int32, torch.float64), (torch.int64, torch.bfloat16)):
        kinds = {torch.int64: integer, torch.float32: number}
        call(**{name: value.to(kinds.get(value.dtype, value.dtype)) for name, value in INPUTS.items()})


@EACH
def test_a_wrong_shape_or_type_is_refused_and_named(names, call):
    for name in names:
        for what, value in wrong(name):
            with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
                call(**INPUTS | {name: value})
            assert str(caught.value).endswith(".") and len(str(caught.value)) < 200, what


@EACH
def test_another_number_of_images_is_refused(names, call):
    """One label is no label for all, and neither are labels of fewer images."""
    rows = [name for name in names if len(INPUTS[name]) == N and name not in ("target", "unlabelled")]
    for name in rows if len(rows) > 1 else ():
        for n in (1, N - 1):
            with pytest.raises(ValueError, match=rf"\b{name}\b|must be \({n}, {A}\)"):
                call(**INPUTS | {name: INPUTS[name][:n]})


@EACH
def test_another_width_is_refused(names, call):
    """Where two inputs, or an input and what a module remembers, have to be as wide."""
    together = (
        {"embeddings", "agents"},
        {"source", "target", "agents"},
        {"labelled", "unlabelled"},
        {"logits", "membership"},
    )
    for several in together:
        for name in several & set(names) if len(several & set(names)) > 1 else ():
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                call(**INPUTS | {name: INPUTS[name][:, :1]})


@EACH
def test_another_device_is_refused(names, call):
    """A device without numbers stands for a GPU here."""
    for name in names[1:]:
        if (set(names), name) != ({"indices", "multilabels"}, name):  # the memory takes them to where it is
            with pytest.raises(ValueError, match=r"must be on the device of \w+, cpu, not on meta; move it"):
                call(**INPUTS | {name: INPUTS[name].to("meta")})


def test_a_module_elsewhere_is_named():
    inputs = {name: value.to("meta") for name, value in INPUTS.items()}
    for kind, buffer in (
        (one_shot.ExclusiveLoss, "table"),
        (soft_multilabel.CrossCameraConsistency, "centres"),
        (soft_multilabel.MultilabelDiscriminativeLoss, "threshold"),
    ):
        with pytest.raises(ValueError, match=f"{buffer} must be on the device of .*, meta, not on cpu"):
            callable_by_name(kind(*MODULES[kind][0]).forward)[1](**inputs)


def test_nothing_is_looked_at():
    """Tensors without values are as good: the check waits for no device."""
    check_inputs(1, x=("float n d", torch.empty(3, 2, device="meta")), y=("int n", torch.empty(3, device="meta").int()))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"x": ("float n d", torch.ones(2))}, "x must be (n, d) with n at least 1, not (2,)."),
        ({"x": ("float n 3", torch.ones(2, 4))}, "x must be (n, 3) with n at least 1, not (2, 4)."),
        ({"x": ("float n d", torch.ones(0, 2)), "y": ("float m d", torch.ones(2, 2))},
         "x must be (n, d) and y (m, d) with n at least 1 and the same d, not (0, 2) and (2, 2)."),
        ({"x": ("bool n", [True])}, "x must be a tensor, not a list; torch.as_tensor(...) makes one of it."),
        ({"x": ("bool n", torch.ones(2))}, "x must hold truth values (torch.bool), not torch.float32."),
    ],
)  # fmt: skip
def test_sentences(inputs, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        check_inputs(1, **inputs)


IMAGES = Images(torch.zeros(N, 3, 8, 4, dtype=torch.uint8), PIDS, torch.zeros(N, dtype=torch.int64))
SAMPLERS = {
    "pids": lambda pids: PKSampler(pids, p=2, k=2),
    "labels": lambda labels: Batches(IMAGES, labels, PlainSampler(N, batch_size=2), None),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_take_lists_and_arrays(name):
    frozen = PIDS.numpy().astype(np.uint16)[::-1]
    frozen.flags.writeable = False
    for given in (PIDS, PIDS.int(), PIDS.tolist(), tuple(PIDS.tolist()), PIDS.numpy(), frozen):
        SAMPLERS[name](given)
    assert (
        list(PKSampler(PIDS.tolist(), p=2, k=2))
        == list(PKSampler(PIDS, p=2, k=2))
        == list(PKSampler(PIDS.numpy(), p=2, k=2))
    )


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "labels",
    [
        *(PIDS[:, None], PIDS[None], PIDS[0], PIDS.float(), PIDS > 0, PIDS.numpy() / 2, PIDS[:, None].tolist()),
        *(list("abcdef"), [0, [1]], [0.5] * N, [None] * N, "aabbcc", None, 5, {1, 2}),
    ],
    ids=repr,
)
def test_samplers_refuse_what_is_no_integer_for_each_image(name, labels):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        SAMPLERS[name](labels)


def test_no_labels_are_no_identities():
    assert as_labels([], "pids").dtype == torch.int64
    with pytest.raises(ValueError, match="wants p=2 identities and there are only 0"):
        SAMPLERS["pids"]([])


@pytest.mark.parametrize(
    ("name", "value"), [("n", PIDS), ("n", [1, 2, 3]), ("n", 6.0), ("batch_size", 2.5), ("seed", "1")]
)
def test_a_plain_sampler_wants_whole_numbers(name, value):
    numbers = {"n": 6, "batch_size": 2, "seed": 0} | {name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number, not"):
        PlainSampler(**numbers)


@pytest.mark.parametrize(("name", "value"), [("p", 2.0), ("k", "4"), ("seed", 0.5)])
def test_a_pk_sampler_wants_whole_numbers(name, value):
    numbers = {"p": 2, "k": 2, "seed": 0} | {name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number, not"):
        PKSampler(PIDS, **numbers)


# what works on the host: metrics, searches, label estimation


def test_embedding_rows_takes_awkward_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert embedding_rows(array, "x").data_ptr() == array.ctypes.data  # shared, not copied
    array.flags.writeable = False
    for awkward in (array, array[:, ::-1], torch.tensor(array.copy(), requires_grad=True)):
        rows = embedding_rows(awkward, "x")
        assert not rows.requires_grad
        np.testing.assert_array_equal(rows, awkward.detach() if isinstance(awkward, torch.Tensor) else awkward)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3, 4)])
def test_embedding_rows_wants_rows(bad):
    with pytest.raises(ValueError, match=r"query must be embeddings of shape \(n, d\)"):
        embedding_rows(bad, "query")


def test_embedding_rows_wants_real_numbers():
    with pytest.raises(ValueError, match=r"gallery must hold floating-point embeddings, not torch\.uint8"):
        inspect.unwrap(embedding_rows)(torch.zeros(2, 3, dtype=torch.uint8), "gallery")


def test_stored_rows_share_the_memory_of_a_file(tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "x.npy", np.arange(6, dtype=dtype).reshape(2, 3))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        rows = stored_rows(mapped, "gallery")
        assert rows.data_ptr() == mapped.ctypes.data
        np.testing.assert_array_equal(rows, mapped)
    swapped = mapped.astype(mapped.dtype.newbyteorder())
    np.testing.assert_array_equal(stored_rows(swapped, "gallery"), mapped)


@pytest.mark.parametrize(
    "right", [[7, 9], np.array([7, 9], np.uint8), torch.tensor([7, 9]), torch.tensor([7, 9], dtype=torch.int16)]
)
def test_labels_may_be_a_list_an_array_or_a_tensor(right):
    assert labels(right, "pids", 2).tolist() == labels(right, "pids").tolist() == [7, 9]
    assert labels(right, "pids").dtype == np.int64


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.zeros(2, 1).long(), r"pids must be of shape \(2,\), one for each image, not \(2, 1\)"),
        ([7], r"pids must be of shape \(2,\), one for each image, not \(1,\)"),
        (7, r"not \(\)"),
        ([[7], [8, 9]], "pids must be one row of integers; these are rows of different lengths"),
        (torch.ones(2), "pids must be integers, not float32"),
        (torch.ones(2).bfloat16(), "pids must be integers, not"),
        (np.array([True, False]), "pids must be integers, not bool"),
        (["a", "b"], "pids must be integers, not <U1"),
        (None, r"not \(\)"),
    ],
)
def test_other_labels_are_refused_and_nothing_is_broadcast(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspect.unwrap(labels)(wrong, "pids", 2)
