"""Files are whole or not there, whatever happens, and locks die with their process."""

import errno
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from reidkit import files

KILLED_WHILE_WRITING = """
import os, signal, sys
from reidkit import files
with files.atomic_path(sys.argv[1]) as part:
    part.write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDS_THE_LOCK = """
import sys, time
from reidkit import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
TAKES_THE_LOCK = """
import sys
from reidkit import files
with files.lock(sys.argv[1]):
    print("taken", flush=True)
"""


def run(script: str, *arguments) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_a_file_appears_whole_in_folders_that_are_made(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "note.txt", "größer")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "größer".encode()
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["note.txt"]


def test_the_temporary_file_keeps_the_suffix_and_hides(tmp_path):
    with files.atomic_path(tmp_path / "figure.png") as part:
        assert part.suffix == ".png" and part.parent == tmp_path and part.name.startswith(".")
        part.write_bytes(b"")
    assert (tmp_path / "figure.png").exists()


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    file = tmp_path / "result.txt"
    files.write_text(file, "old")
    with pytest.raises(RuntimeError, match="in the middle"), files.atomic_path(file) as part:
        part.write_text("ne")
        raise RuntimeError("in the middle")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_writer_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    file = tmp_path / "result.txt"
    files.write_text(file, "old")
    with pytest.raises(FileNotFoundError), files.atomic_path(file):
        pass
    assert file.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    file = tmp_path / "result.txt"
    files.write_text(file, "old")
    with run(KILLED_WHILE_WRITING, file) as process:
        assert process.wait() == -signal.SIGKILL
    assert file.read_text() == "old"
    files.write_text(file, "new")  # and the next writer is not disturbed by what the killed one left
    assert file.read_text() == "new"


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space and run it again"), (errno.EROFS, "choose a folder you may")]
)
def test_why_a_file_cannot_be_written_is_told_with_the_remedy(tmp_path, monkeypatch, number, remedy):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=rf"result\.txt cannot be written \({os.strerror(number)}\); {remedy}.*\.$"):
        files.write_text(tmp_path / "result.txt", "new")
    assert not list(tmp_path.iterdir())


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(PermissionError, match="closed"), files.atomic_path(tmp_path / "result.txt"):
        raise PermissionError(errno.EACCES, "closed", "source.txt")


def test_json_is_the_same_bytes_for_equal_values(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [0.1]})
    files.write_json(tmp_path / "b.json", {"a": [0.1], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.read_json(tmp_path / "a.json") == {"a": [0.1], "b": 1}


def test_json_refuses_what_it_cannot_say_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": math.nan})
    assert not list(tmp_path.iterdir())


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        files.read_json(tmp_path / "broken.json")


def test_a_lock_keeps_others_out_until_its_holder_dies(tmp_path):
    path = tmp_path / "locks" / "city.lock"
    with run(HOLDS_THE_LOCK, path) as holder:
        assert holder.stdout.readline() == "held\n"
        with run(TAKES_THE_LOCK, path) as waiter:
            time.sleep(0.5)
            assert waiter.poll() is None, "the second process did not wait"
            os.kill(holder.pid, signal.SIGKILL)
            assert waiter.communicate(timeout=60)[0] == "taken\n"


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), files.lock(tmp_path / "lock"):
        raise RuntimeError
    with files.lock(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_size == 0


def test_who_does_not_want_to_wait_is_told_that_somebody_holds_it(tmp_path):
    path, sentence = tmp_path / "lock", r"another process is doing the same \(.*lock"
    with files.lock(path), pytest.raises(ValueError, match=sentence), files.lock(path, wait=False):
        raise AssertionError
