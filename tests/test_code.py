"""One digest: it moves with all that a number stands on, and with nothing else. A copy of the package is edited."""

import shutil

import pytest

from reidkit import code

RECIPES = ("baseline", "ranking", "sparse_smoothing", "one_shot", "soft_multilabel")
EVERY, NONE = set(RECIPES), set()
LABELLED = {"baseline", "ranking", "sparse_smoothing"}


@pytest.fixture
def package(tmp_path):
    return shutil.copytree(code.PACKAGE, tmp_path / "reidkit", ignore=shutil.ignore_patterns("__pycache__", "weights"))


def digests(package):
    code.digest.cache_clear()
    return {recipe: code.digest(f"reidkit.recipes.{recipe}", package) for recipe in RECIPES}


@pytest.mark.parametrize(
    ("file", "old", "new", "moved"),
    [
        # readers, the world, seeds, settings, the loop: everything stands on them
        ("data/layouts.py", "- 1", "- 2", EVERY),
        ("data/records.py", "JUNK", "JUNKED", EVERY),
        ("data/images.py", "MEAN = (0.485", "MEAN = (0.5", EVERY),
        ("data/samplers.py", "torch.randperm", "torch.arange", EVERY),
        ("world/city.py", '"market": City(', '"market": City(1 + ', EVERY),
        ("world/light.py", "def ", "def unused():\n    return 0\n\n\ndef ", EVERY),
        ("runs.py", "torch.manual_seed(n)", "torch.manual_seed(n + 1)", EVERY),
        ("runs.py", "torch.set_num_threads(threads)", "pass", EVERY),
        ("parameters.py", "value = float(value)", "value = 2 * float(value)", EVERY),
        ("recipes/driver.py", "**changes, **wanted", "**wanted, **changes", EVERY),
        ("recipes/sources.py", '"market": ("market"', '"market": ("duke"', EVERY),
        ("training.py", "self.scaler.step(optimizer)", "pass", EVERY),
        ("embed.py", "model.eval()", "model.train()", EVERY),
        ("metrics/retrieval.py", "def evaluate_distances(", "def evaluate_matrix(", EVERY),
        ("models/backbones.py", "stride=2", "stride=1", EVERY),
        ("recipes/__init__.py", '"""One', 'X = 1\n"""One', EVERY),
        # one paper's own
        ("losses/ranking.py", "radius: float = 0.7", "radius: float = 0.8", {"ranking"}),
        ("losses/one_shot.py", "temperature: float = 10.0", "temperature: float = 11.0", {"one_shot"}),
        ("losses/soft_multilabel.py", "scale: float = 30.0", "scale: float = 31.0", {"soft_multilabel"}),
        ("models/dcgan.py", "LeakyReLU(0.2", "LeakyReLU(0.3", {"sparse_smoothing"}),
        ("recipes/baseline.py", 'terms = {"softmax": softmax}', 'terms = {"softmax": 2 * softmax}', {"baseline"}),
        ("recipes/ranking.py", "parameter(0.7", "parameter(0.8", None),
        # words, pictures, names and numbers that a result records itself, and what only reads results
        ("training.py", '"""One training loop', '"""A training loop', NONE),
        ("training.py", "\nimport math", "\n# a remark\nimport math", NONE),
        ("losses/triplet.py", "def batch_hard", "\n\n\ndef batch_hard", NONE),
        ("recipes/ranking.py", '"softmax + triplet"', '"softmax and triplet"', NONE),
        ("runs.py", '"07": "crossroads",', '"07": "crossroads",\n    "08": "next",', NONE),
        ("__init__.py", "__version__ = ", "__version__ = '1' + ", NONE),
        ("nb.py", "def ", "def unused():\n    return 0\n\n\ndef ", NONE),
        ("plots/style.py", "def ", "def unused():\n    return 0\n\n\ndef ", NONE),
        ("studies/tables.py", "def ", "def unused():\n    return 0\n\n\ndef ", NONE),
        ("cli.py", "def ", "def unused():\n    return 0\n\n\ndef ", NONE),
        ("data/doctor.py", "def ", "def unused():\n    return 0\n\n\ndef ", NONE),
        ("claims/03.yml", "Lin helps softmax", "Lin hurts softmax", NONE),
    ],
)
def test_a_digest_moves_with_what_numbers_stand_on_and_with_nothing_else(package, file, old, new, moved):
    before, source = digests(package), (package / file).read_text()
    assert old in source
    (package / file).write_text(source.replace(old, new, 1))
    after = digests(package)
    found = {recipe for recipe in RECIPES if after[recipe] != before[recipe]}
    assert found == moved if moved is not None else "ranking" in found and "baseline" not in found


def test_a_digest_does_not_depend_on_where_the_package_lies(package):
    assert digests(package) == {recipe: code.digest(f"reidkit.recipes.{recipe}") for recipe in RECIPES}


def test_a_new_file_counts_once_it_is_imported(package):
    before = digests(package)
    (package / "losses" / "extra.py").write_text("WEIGHT = 2\n")
    assert digests(package) == before
    path = package / "recipes" / "baseline.py"
    path.write_text(path.read_text() + "\n\ndef late():\n    from ..losses import extra\n    return extra.WEIGHT\n")
    with_it = digests(package)
    assert with_it["baseline"] != before["baseline"]
    (package / "losses" / "extra.py").write_text("WEIGHT = 3\n")
    assert digests(package)["baseline"] != with_it["baseline"]


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match=r"there is no module reidkit\.recipes\.rankings"):
        code.digest("reidkit.recipes.rankings")
