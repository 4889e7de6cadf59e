"""Files that are either whole or not there: atomic writes, and locks that die with their process."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

REMEDIES = {  # why a file cannot be written -> what to do about it
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space and run it again"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder you may write to"),
}


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place on success, remove it on any error.

    A reader therefore sees the old file, or the whole new one, and never a half of it.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The path to write to. Its suffix is that of `path`, for writers that look at it.

    Raises:
        OSError: the disk is full or the folder read-only; the sentence names `path` and the remedy.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as part: _ = part.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with _told(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path, part: Path) -> Iterator[None]:
    """Say why `path` cannot be written; an error about any other file than `part` and its folders stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES or Path(error.filename or part) not in (part, *part.parents):
            raise
        raise type(error)(f"{path} cannot be written ({error.strerror}); {REMEDIES[error.errno]}.") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` atomically.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "new" / "b"
    >>> write_bytes(file, b"1"); file.read_bytes()
    b'1'
    """
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Write `value` atomically as indented JSON with sorted keys, so that equal values give equal files.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> object:
    """Read a JSON file.

    Raises:
        ValueError: the file is not JSON; the sentence names the file.
    """
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and run the command again.") from None


@contextlib.contextmanager
def lock(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`.

    The system releases the lock when its process ends, however it ends, so a killed run blocks nobody.

    Args:
        path: the lock file; it is made if need be.
        wait: until another process that holds it gives it back; otherwise that is an error.

    Raises:
        OSError: its folder is read-only; the sentence names the remedy.
        ValueError: another process holds it, and `wait` is false.
    """
    path = Path(path)
    held = FileLock(path, timeout=-1 if wait else 0)
    with _told(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            raise ValueError(f"another process is doing the same ({path} is locked); wait for it.") from None
    try:
        yield
    finally:
        held.release()
