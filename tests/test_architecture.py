"""The rules of the house, read off the source: who imports whom, how long things may be, what happens at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from front import ROOT, code_lines, library_files

LIBRARY = ROOT / "reidkit"
EVERYBODY = {"files", "progress", "distances", "blocks", "inputs", "code"}
METHOD = {"losses", "models", "metrics", "data", "pseudo_labels", "checkpoints", "training", "embed"}
MAY_IMPORT = {  # package or module of ours -> what of ours it may import, beyond itself and EVERYBODY
    "files": set(),
    "progress": set(),
    "distances": set(),
    "blocks": set(),
    "inputs": {"blocks"},
    "code": set(),
    "losses": set(),
    "metrics": set(),
    "models": set(),
    "world": set(),
    "data": set(),
    "pseudo_labels": {"data.records"},
    "checkpoints": {"models"},
    "training": {"checkpoints", "models"},
    "embed": {"data", "models"},
    "parameters": set(),
    "claims": set(),
    "runs": {"claims"},
    "recipes": METHOD | {"world", "parameters", "runs"},
    "studies": {"metrics.comparison", "models.backbones", "parameters", "claims", "runs", "recipes"},
    "plots": {"metrics", "data.records"},
    "nb": set(),
    "cli": {"world", "data", "runs", "studies"},
}
ONLY_IN = {  # a library -> the modules of ours that may import it
    "matplotlib": {"plots"},
    "seaborn": {"plots"},
    "umap": {"plots"},
    "sklearn.manifold": {"plots"},
    "IPython": {"nb"},
    "ipywidgets": {"nb"},
    "torchvision": {"models.backbones", "data.images"},
    "tqdm": {"progress"},
    "filelock": {"files"},
    "click": {"cli"},
    "ray": {"studies.on_ray"},
    "papermill": {"studies.notebook"},
}
FILES = pytest.mark.parametrize("path", library_files(), ids=lambda path: path.relative_to(LIBRARY).as_posix())


def module(path: Path) -> str:
    """`losses.ranking` for reidkit/losses/ranking.py, `losses` for its __init__.py."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, packages: set[str]) -> bool:
    """Whether a dotted name is one of the packages or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports(path: Path) -> set[str]:
    """Every dotted name a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively; write reidkit. in full"
            assert all(alias.name != "*" for alias in node.names), f"{path.name}:{node.lineno} imports a star"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def of_ours(name: str) -> str:
    """`losses.ranking` for reidkit.losses.ranking.lin_loss: what is a file or a folder of the library."""
    parts = name.split(".")[1:]
    while parts and not (LIBRARY.joinpath(*parts).is_dir() or LIBRARY.joinpath(*parts).with_suffix(".py").exists()):
        parts.pop()
    return ".".join(parts)


@FILES
def test_only_the_allowed_modules_are_imported(path):
    here = module(path)
    top = here.partition(".")[0]
    if not top:
        assert not imports(path), "reidkit/__init__.py imports something"
        return
    assert top in MAY_IMPORT, f"reidkit.{top} is not in the design; say what it may import"
    allowed = MAY_IMPORT[top] | EVERYBODY | {top, ""}
    for name in (name for name in imports(path) if name.partition(".")[0] == "reidkit"):
        assert within(of_ours(name), allowed), f"reidkit.{here} may not import {name}"


@FILES
def test_a_library_is_imported_where_it_belongs(path):
    for name in imports(path):
        for library, places in ONLY_IN.items():
            if within(name, {library}):
                assert within(module(path), places), f"{name} belongs in {', '.join(sorted(places))}"


@FILES
def test_nothing_happens_at_import(path):
    """The top level of a file holds definitions only; a bare call would act."""
    quiet = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    first, *rest = ast.parse(path.read_text()).body
    assert isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant), "the docstring of the file is missing"
    for node in rest:
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        assert isinstance(node, quiet) or constant or typing, f"line {node.lineno} acts at import"


def test_importing_is_silent_and_draws_in_nothing_heavy():
    """Everything but plots, nb and cli together needs no plotting and no notebook library."""
    names = [module(path) for path in library_files()]
    plain = [f"reidkit.{name}" for name in names if name and not within(name, {"plots", "nb", "cli"})]
    script = f"""
import importlib, sys
import reidkit
print(*sorted({{"torch", "numpy", "pandas", "sklearn"}} & set(sys.modules)))
for name in {plain}:
    importlib.import_module(name)
print(*sorted({{"matplotlib", "seaborn", "umap", "IPython", "ipywidgets", "pytest"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n\n" and done.stderr == "", f"drawn in or said: {done.stdout} {done.stderr}"


def test_losses_need_torch_numpy_and_jaxtyping_alone():
    """Whoever takes one loss into code of his own needs no more; an import that is not there fails here."""
    script = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BANNED:
            raise ImportError(f"{name} is not to be had")
BANNED = {"torchvision", "PIL", "sklearn", "scipy", "pandas", "matplotlib", "safetensors", "tqdm", "click", "yaml"}
sys.meta_path.insert(0, Nothing())
from reidkit.losses import one_shot, ranking, smoothing, soft_multilabel, triplet
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lines_of_code_are_counted_without_words():
    source = '"""Title."""\n\n# note\nx = 1  # one\n\n\ndef f():\n    """Two\n    lines."""\n    return (\n    x)\n'
    assert code_lines(source) == {4, 7, 10, 11}
