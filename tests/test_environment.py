"""One list of dependencies: environment.yml leads to pyproject.toml, and the lock satisfies it without an address."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = TOML["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements.lock").read_text()
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def locked() -> dict[str, list[Requirement]]:
    """The pins by name; a name may have several, for different Pythons."""
    pins: dict[str, list[Requirement]] = {}
    for line in LOCK.splitlines():
        if line and not line.lstrip().startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def wanted() -> list[Requirement]:
    """Everything pyproject.toml asks for, the extras too."""
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    return [wish for wish in map(Requirement, texts) if wish.name != PROJECT["name"]]


@pytest.mark.parametrize("wish", wanted(), ids=lambda wish: wish.name)
def test_the_lock_satisfies_every_range(wish):
    pins = locked().get(canonicalize_name(wish.name))
    assert pins, f"{wish.name} is not in requirements.lock; run make lock"
    for pin in pins:
        (version,) = (clause.version for clause in pin.specifier)
        assert wish.specifier.contains(version), f"{pin} is outside {wish}; run make lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_names_one_version_for_every_python(python):
    place = {"python_full_version": f"{python}.9", "python_version": python, "sys_platform": "linux"}
    for name in map(canonicalize_name, (wish.name for wish in wanted())):
        valid = [pin for pin in locked()[name] if pin.marker is None or pin.marker.evaluate(place)]
        assert len(valid) == 1, f"{name} has {len(valid)} versions for Python {python}"


def test_the_lock_pins_exactly_and_holds_no_address():
    assert all(re.fullmatch(r"==[\w.+!]+", str(pin.specifier)) for pins in locked().values() for pin in pins)
    assert not re.search(r"://|--(extra-)?index|--find-links| @ ", LOCK)


def test_an_extra_that_is_named_exists():
    for text in (text for extra in EXTRAS.values() for text in extra):
        wish = Requirement(text)
        assert wish.name != PROJECT["name"] or wish.extras <= EXTRAS.keys(), text


def test_an_installed_package_has_all_its_files():
    patterns = TOML["tool"]["setuptools"]["package-data"]["reidkit"]
    ours = [path.relative_to(ROOT / "reidkit") for path in (ROOT / "reidkit").rglob("*.*") if path.is_file()]
    data = [path for path in ours if path.suffix not in (".py", ".pyc")]
    assert data and not [path for path in data if not any(path.match(pattern) for pattern in patterns)]
    assert all(any(path.match(pattern) for path in data) for pattern in patterns)


def test_conda_leads_to_the_same_list():
    *conda, nested = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"], "dependencies belong in pyproject.toml"
    constraint, project = nested["pip"]
    assert constraint == "--constraint requirements.lock"
    extra = re.fullmatch(r"--editable \.\[(\w+)\]", project)[1]
    assert extra in EXTRAS


def test_ci_runs_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["code"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_ci_runs_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for file in (".github/workflows/ci.yml", ".ci/run"):
        for line in (ROOT / file).read_text().splitlines():
            if command := re.search(r"\bmake (.+)", line.partition("#")[0]):
                asked = {word for word in command[1].split() if "=" not in word}
                assert asked <= targets, f"{file}: {line}"
