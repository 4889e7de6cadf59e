"""Wrong lines in the library, each with the test that must notice it; the suite tries two, `make test-faults` all."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Mutant(NamedTuple):
    """A file of the library, a fragment that is in it once, what stands there instead, and the test that notices."""

    module: str
    right: str
    wrong: str
    test: str


MUTANTS = [
    Mutant(
        "data/samplers.py",
        "torch.randperm(len(alive), generator=generator)",
        "torch.arange(len(alive))",
        "data/test_samplers.py::test_all_identities_have_the_same_chance",
    ),
    Mutant(
        "runs.py",
        "torch.set_num_threads(threads)",
        "pass",
        "test_seeding.py::test_as_many_threads_work_as_were_asked_for",
    ),
    Mutant(
        "data/samplers.py",
        'epoch_generator(self.seed, self.epoch, "augment")',
        'epoch_generator(self.seed, 0, "augment")',
        "data/test_samplers.py::test_the_same_batch_is_augmented_otherwise_in_the_next_epoch",
    ),
    Mutant(
        "data/images.py",
        "torch.rand(3, n, generator=generator)",
        "torch.rand(n, generator=generator).expand(3, n)",
        "data/test_images.py::test_one_chance_says_nothing_about_another",
    ),
    Mutant(
        "data/layouts.py",
        "int(match[1]), int(match[2]) - 1)",
        "int(match[1]), int(match[2]))",
        "data/test_records_layouts.py::test_a_market_archive_is_read_in_the_order_of_its_names",
    ),
    Mutant(
        "distances.py",
        "F.normalize(x, dim=1) @",
        "F.normalize(x, dim=1, eps=1e-3) @",
        "test_distances.py::test_the_cosine_knows_no_length",
    ),
    Mutant(
        "losses/ranking.py",
        "_moderate(same_precision(embeddings, embeddings)[0])",
        "same_precision(embeddings, embeddings)[0]",
        "losses/test_ranking.py::test_in_float32_too_any_scale_will_do_and_each_row_may_have_its_own",
    ),
    Mutant(
        "losses/one_shot.py",
        "F.normalize(self.table[k] + x)",
        "F.normalize(self.table[k] + x, eps=1e-3)",
        "losses/test_one_shot.py::test_a_row_keeps_its_length_though_an_image_almost_cancels_it",
    ),
    Mutant(
        "losses/soft_multilabel.py",
        "cos > 1 - margin / 2",
        "cos >= 1 - margin / 2",
        "losses/test_soft_multilabel.py::test_an_agent_just_at_the_margin_is_not_hard",
    ),
    Mutant(
        "losses/triplet.py",
        "(hinge * anchors).sum() / anchors.sum().clamp(min=1)",
        "(hinge * anchors).mean()",
        "losses/test_triplet.py::test_equals_the_double_loop_in_value_and_gradient",
    ),
    Mutant(
        "metrics/retrieval.py",
        "self.query_camids[queries][rows] == self.gallery_camids[cols]",
        "self.query_camids[queries][rows] < self.gallery_camids[cols]",
        "metrics/test_retrieval.py::test_five_images_by_hand",
    ),
    Mutant(
        "metrics/reranking.py",
        "3 * shared.data > 2 * sizes[shared.col]",
        "3 * shared.data >= 2 * sizes[shared.col]",
        "metrics/test_reranking.py::test_a_small_set_joins_only_with_more_than_two_thirds",
    ),
    Mutant(
        "metrics/clustering.py",
        ".fill_diagonal_(-1)",
        ".fill_diagonal_(0)",
        "metrics/test_clustering.py::test_angles_go_up_to_180_degrees",
    ),
    Mutant(
        "metrics/comparison.py",
        "_, identity = np.unique(pids, return_inverse=True)",
        "identity = np.arange(len(pids))",
        "metrics/test_comparison.py::test_more_queries_of_the_same_people_know_no_more",
    ),
    Mutant(
        "metrics/protocols.py",
        "law[0] *= 1 - p",
        "law[0] *= p",
        "metrics/test_protocols.py::test_closed_form_equals_the_expectation_of_the_released_protocols",
    ),
    Mutant(
        "pseudo_labels.py",
        "camids[images] == camids[images].min()",
        "camids[images] == camids[images].max()",
        "test_pseudo_labels.py::test_seed_0_draws_the_released_split",
    ),
    Mutant(
        "training.py",
        "0.5 + 0.5 * math.cos(math.pi * (share - flat) / (1 - flat))",
        "1 - (share - flat) / (1 - flat)",
        "test_training.py::test_warmup_cosine_rises_along_a_line_and_falls_along_half_a_cosine",
    ),
]


@pytest.fixture(scope="module")
def copy(root, tries, tmp_path_factory) -> Path:
    """A copy of the library and its tests; as long as no line of it is wrong, the tests pass."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("reidkit", "tests", "tools"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(root / "pyproject.toml", folder)
    done = run(folder, *dict.fromkeys(mutant.test for mutant in MUTANTS[:tries]))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess:
    """Run tests of a copy with its library; the checker of shapes is the only plugin, because others start slowly."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",  # a line that comes and goes within a second is not told by its time
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "jaxtyping._pytest_plugin",
    }
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[f"{mutant.module}, {mutant.wrong}" for mutant in MUTANTS])
def test_a_wrong_line_is_noticed(number, tries, root, request):
    mutant = MUTANTS[number]
    right = (root / "reidkit" / mutant.module).read_text()
    assert right.count(mutant.right) == 1, f"{mutant.module} holds {mutant.right!r} no longer; choose another fault"
    if number >= tries:
        pytest.skip("each starts Python and PyTorch anew, which takes its time: make test-faults")
    path = request.getfixturevalue("copy") / "reidkit" / mutant.module
    path.write_text(right.replace(mutant.right, mutant.wrong))
    done = run(path.parents[len(Path(mutant.module).parts)], mutant.test)
    path.write_text(right)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and re.search(r"^1 failed\b(?!.*error)", said, re.MULTILINE), said or "not noticed"
