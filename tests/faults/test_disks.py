"""A full disk and a read-only folder: one sentence that names file and remedy, and afterwards the work goes on."""

import random
import re

import pytest

WORKS = pytest.mark.parametrize("work", ["draw", "train", "study"])


@pytest.fixture
def options(work, data) -> dict:
    return {} if work == "draw" else {"data": data}


def check_sentence(said: str, folder, why: str, remedy: str) -> None:
    of_a_study = r"(\S+: )?"  # which of its runs
    sentence = rf"(OS|Permission|Value)Error: {of_a_study}{folder}/\S+ cannot be written \((?:{why})\); {remedy}\."
    assert re.fullmatch(sentence, said), said


@WORKS
def test_a_full_disk(victim, tally, tries, tmp_path, work, options):
    whole = victim.undisturbed(work, options)
    peak = victim.do(work, tmp_path / "peak", options=options, room=2**26)["peak"]
    for number in range(tries // 2):
        with tally("full disk"):
            folder, share = tmp_path / f"{number}", random.Random(number).uniform(0.05, 0.95)
            ended = victim.do(work, folder, options=options, room=int(peak * share))
            if work == "study" and not ended["said"]:  # its runs are tried twice, and alone need less room
                assert ended["left"] == whole["files"], "a study that says nothing is not whole"
            else:
                why = "No space left on device|File too large"
                check_sentence(ended["said"], folder, why, "free some space and .*")
            bits = {name.split("/")[-1]: value for name, value in whole["files"].items()}
            pictures = {name.split("/")[-1]: value for name, value in ended["left"].items() if name.endswith(".jpg")}
            assert pictures.items() <= bits.items(), "half an image is left"
            assert not any(name.startswith("market/") for name in ended["left"]), "half a city is in its place"
            assert ended["files"] == whole["files"], "with space again, the end is another one"


@WORKS
def test_a_read_only_folder(victim, tally, tmp_path, work, options):
    whole = victim.undisturbed(work, options)
    with tally("read-only folder"):
        ended = victim.do(work, tmp_path / "closed", options=options, room=0)
        if ended["said"] == "impossible":
            pytest.skip("a read-only folder stops everybody but root, and root may not mount a read-only disk here")
        before = rf"ValueError: .* goes to {tmp_path}/closed\S*, and \S+ may not be written to; choose another folder\."
        if not re.fullmatch(before, ended["said"]):  # which is known before the work begins
            check_sentence(ended["said"], tmp_path / "closed", "Read-only file system|Permission denied", "choose a .*")
        assert (ended["left"], ended["files"]) == ({}, whole["files"])


def test_a_city_is_read_from_a_read_only_folder(victim, tally, tmp_path):
    with tally("city read from a read-only folder"):
        ended = victim.do("draw", tmp_path, options={}, first={}, room=0)
        if ended["said"] == "impossible":
            pytest.skip("see above")
        assert ended["said"] == "" and ended["left"] == ended["files"]
