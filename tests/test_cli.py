"""The command line: quick to answer, one sentence for an error, and the files it promises."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

import reidkit
from reidkit import cli


def run(*arguments: object):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_version():
    assert run("--version").output == f"reidkit, version {reidkit.__version__}\n"


def test_help_names_every_command_and_loads_no_torch():
    script = "import sys; from reidkit.cli import main; main(['--help'], standalone_mode=False); "
    script += "sys.exit(bool({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.main.commands)


@pytest.mark.parametrize(
    "error", [ValueError("no city\n  named 'rome'"), OSError("disk full"), FloatingPointError("NaN")]
)
def test_an_error_is_one_line_without_a_traceback(error, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("reidkit.world.city.build_city", fail)
    result = run("world", tmp_path)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"Error: {' '.join(str(error).split())}\n"


def test_a_programming_error_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise KeyError("bug")

    monkeypatch.setattr("reidkit.world.city.build_city", fail)
    assert isinstance(run("world", tmp_path).exception, KeyError)


def test_world_hands_its_options_on_and_prints_the_counts(monkeypatch, tmp_path):
    asked = {}

    class Counted:
        def counts(self):
            return {"train": {"images": 12, "junk": 0}, "query": {"images": 3}}

    def build_city(out, **options):
        asked.update(options, out=out)
        return out / "archive"

    monkeypatch.setattr("reidkit.world.city.build_city", build_city)
    monkeypatch.setattr("reidkit.data.layouts.market1501", lambda path: Counted())
    result = run("world", tmp_path, "--city", "duke", "--preset", "tiny", "--seed", 7, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert asked == {"out": tmp_path, "city": "duke", "preset": "tiny", "seed": 7, "workers": 1, "device": "cpu"}
    assert result.output.splitlines() == [str(tmp_path / "archive"), "train: 12 images, 0 junk", "query: 3 images"]


@pytest.mark.parametrize(
    ("city", "reader", "how"),
    [("viper", "viper", {}), ("cuhk03", "cuhk03", {"protocol": "new"}), ("duke", "market1501", {})],
)
def test_world_reads_a_city_as_the_archive_it_is_laid_out_like(city, reader, how, monkeypatch, tmp_path):
    class Counted:
        def counts(self):
            return {"train": {"images": 12}}

    def read(path, **options):
        return Counted() if (path, options) == (tmp_path, how) else None

    monkeypatch.setattr("reidkit.world.city.build_city", lambda out, **_: out)
    monkeypatch.setattr(f"reidkit.data.layouts.{reader}", read)
    assert run("world", tmp_path, "--city", city).output.splitlines() == [str(tmp_path), "train: 12 images"]


def test_run_and_study_take_the_same_options_by_the_same_names():
    shared = {name: {p.name: (p.opts, p.default) for p in cli.main.commands[name].params} for name in ("run", "study")}
    for name, option in shared["run"].items():
        assert shared["study"][name] == option


def test_another_parameter_of_a_study_asks_for_a_folder():
    result = run("study", "02", "-p", "lr", "0.1")
    assert result.exit_code == 1 and "name a folder for their results with --out" in result.stderr
    listed = run("study", "02", "--preset", "tiny", "--variants", "neck", "--seeds", "0", "--dry-run")
    assert listed.exit_code == 0 and listed.output.split()[0] == "02.tiny.neck.0"
