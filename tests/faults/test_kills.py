"""kill -9 at random moments: the next call goes on, and ends with the bits of work that nobody disturbed."""

import contextlib
import itertools
import random
import time
from pathlib import Path

import pytest


def scraps(folder: Path) -> list[str]:
    """What a killed process may leave for a moment, and nobody should find at the end."""
    return [path.name for path in folder.rglob("*") if ".part" in path.name or path.name.startswith("part-")]


def wait_for_the_end_of(folder: Path) -> None:
    """The helpers of a killed process notice that it is gone, and end by themselves."""
    for _ in range(600):
        lines = b""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                lines += path.read_bytes()
        if str(folder).encode() not in lines:
            return
        time.sleep(0.1)
    raise AssertionError(f"a process still works on {folder}")


@pytest.mark.parametrize(
    ("workers", "share", "fault"), [(1, 1, "city build, kill -9"), (2, 4, "city build in two processes, kill -9")]
)
def test_a_city_build(victim, tally, tries, tmp_path, workers, share, fault):
    if tries < share:
        pytest.skip("each process imports PyTorch, which takes its time: make test-faults")
    options, tries = {"workers": workers}, tries // share
    for folder, whole in itertools.islice(victim.kill("draw", tmp_path, options=options), tries):
        with tally(fault):
            there = victim.do("look", folder, options={})["files"]
            finished = {name: bits for name, bits in there.items() if name.startswith("market/")}
            assert not finished or finished.items() <= whole["files"].items(), "half a city is in its place"
            again = victim.do("draw", folder, options=options)
            assert (again["said"], again["files"]) == ("", whole["files"])
            assert not scraps(folder)
            wait_for_the_end_of(folder)


def test_a_training_run(victim, tally, tries, data, tmp_path):
    options = {"data": data, "checkpoint": "kept"}
    for folder, whole in itertools.islice(victim.kill("train", tmp_path, options=options), tries):
        with tally("training run, kill -9"):
            again = victim.do("train", folder, options=options)
            assert (again["said"], again["files"].get("bits.json")) == ("", whole["files"]["bits.json"])
            assert again["files"].keys() == whole["files"].keys(), "another epoch, or a scrap, is left"


@pytest.mark.parametrize("recipe", ["baseline", "ranking", "sparse_smoothing", "one_shot", "soft_multilabel"])
def test_a_run_that_is_killed_again_and_again(victim, tally, tries, data, tmp_path, recipe):
    """Ten times by `make test-faults`: each time it goes on, and in the end its bits are those of a whole run."""
    options, rng = {"data": data, "recipe": recipe, "variant": "default"}, random.Random(recipe)
    whole, kills = victim.undisturbed("train", options), 0
    with tally(f"{recipe}, kill -9 again and again"):
        for _ in range(4 * tries):  # now and then it comes to its end
            if kills == min(tries, 10):
                break
            moment = {"operation": rng.randint(1, 12), "delay": rng.uniform(0, 0.05)}
            kills += victim.do("train", tmp_path, options=options, **moment)["killed"]
        again = victim.do("train", tmp_path, options=options)
        assert kills > 0 and again["said"] == ""
        assert again["files"]["bits.json"] == whole["files"]["bits.json"]


def test_a_study(victim, tally, tries, data, tmp_path):
    options = {"data": data}
    for folder, whole in itertools.islice(victim.kill("study", tmp_path, options=options), tries):
        with tally("study, kill -9"):
            again = victim.do("study", folder, options=options)
            assert (again["said"], again["files"]) == ("", whole["files"])


def test_a_run_of_a_study(victim, tally, tries, data, tmp_path):
    whole, rng, hits = victim.undisturbed("study", {"data": data}), random.Random(0), 0
    while hits < tries // 2:
        folder, moment = tmp_path / f"{rng.random()}", rng.uniform(0.001, whole["times"][-1] / 2)
        ended = victim.do("study", folder, options={"data": data, "killed_after": moment})
        if int((folder / "runs" / "started.txt").read_text()) > 4:  # it was killed, and not after its end
            hits += 1
            with tally("one process of a study, kill -9"):
                assert (ended["said"], ended["files"]) == ("", whole["files"])


def test_two_builds_of_one_city_at_once(victim, tally, tries, tmp_path):
    whole = victim.undisturbed("draw", {})
    for number in range(tries // 2):
        with tally("two builds of one city at once"):
            both = victim.side_by_side(*[victim.job("draw", tmp_path / f"{number}", options={})] * 2)
            assert [(one["said"], one["files"]) for one in both] == [("", whole["files"])] * 2


def test_two_trainings_with_one_checkpoint_at_once(victim, tally, tries, data, tmp_path):
    options = {"data": data, "checkpoint": "kept"}
    whole = victim.undisturbed("train", options)
    for number in range(tries // 2):
        with tally("two trainings with one checkpoint at once"):
            both = victim.side_by_side(*[victim.job("train", tmp_path / f"{number}", options=options)] * 2)
            assert [one["said"] for one in both] == ["", ""]
            assert both[0]["files"]["bits.json"] == both[1]["files"]["bits.json"] == whole["files"]["bits.json"]
