"""Which code made a number: one digest of a module and of everything of ours that it imports, directly or not.

Results, checkpoints, caches and machines are compared by it. It changes with whatever may change a number: readers,
the world, seeds, settings, losses. It does not change with comments, docstrings, pictures, or another paper's recipe.
"""

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# what these names hold is written beside each number: a run's parameters, the number of its notebook, the version
RECORDED = ("VARIANTS", "NOTEBOOKS", "__version__")


@functools.cache
def digest(module: str, package: Path = PACKAGE) -> str:
    """Twelve hexadecimal digits of what a module and all that it imports of ours do.

    They are computed once in a process, so that edits while a run lasts do not count.

    Args:
        module: its dotted name, such as "reidkit.recipes.ranking".
        package: the folder that holds the package.

    Raises:
        ValueError: there is no such module.

    >>> digest("reidkit.losses.ranking") == digest("reidkit.losses.ranking"), len(digest("reidkit.losses.ranking"))
    (True, 12)
    """
    made = hashlib.sha256()
    for name, path in sorted(closure(module, package).items()):
        made.update(f"{name}\0{_what_it_does(path.read_text())}\0".encode())
    return made.hexdigest()[:12]


def closure(module: str, package: Path = PACKAGE) -> dict[str, Path]:
    """The files that a module stands on: name -> path, itself, the packages it lies in, and what these import of ours.

    Imports inside functions count, too.

    >>> sorted(closure("reidkit.losses.triplet"))[:3]
    ['reidkit', 'reidkit.blocks', 'reidkit.distances']
    """
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        path = _file(name, package)
        if path is None:
            raise ValueError(f"there is no module {name} in {package.parent}.")
        found[name] = path
        todo += [name.rpartition(".")[0]] if "." in name else []
        todo += _imports(name, path, package)
    return found


def _file(name: str, package: Path) -> Path | None:
    place = package.parent.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in files if path.is_file()), None)


def _imports(name: str, path: Path, package: Path) -> list[str]:
    """The modules of ours that a file imports, wherever in it."""
    ours, names = package.name, []
    for node in _import_nodes(path.read_text()):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        else:
            above = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
            base = [*above[: len(above) - node.level + 1], node.module] if node.level else [node.module]
            source = ".".join(part for part in base if part)
            inner = [f"{source}.{alias.name}" for alias in node.names]
            names += [inside if source.split(".")[0] == ours and _file(inside, package) else source for inside in inner]
    return [name for name in names if name.split(".")[0] == ours]


@functools.cache
def _import_nodes(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


@functools.cache
def _what_it_does(source: str) -> str:
    """The syntax tree as text, the same under every Python, without words and without what a result records itself."""
    return repr(_plain([node for node in ast.parse(source).body if not _is_recorded(node)]))


def _is_recorded(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id in RECORDED for target in targets)


def _plain(node: object) -> object:
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_words(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, _plain(value)) for name, value in ast.iter_fields(node)]
    return [type(node).__name__, *(field for field in fields if field[1] not in ("None", []))]


def _is_words(node: object) -> bool:
    """Whether this is a docstring, or a text that stands by itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
