"""Files and folders that are whole or not there, their checksums, and locks between processes.

Decision: a file is written beside its place, fsynced and renamed; a lock is the kernel's, so it ends with its owner.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from replaylab.util.progress import report

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Any) -> None:
    """`write(aside)` beside the target, fsync, rename: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}")  # processes of two hosts may have one number
    try:
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """`fill(fresh)` beside the folder, then in its place: nobody ever reads half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        fill(fresh)
        aside = fresh.with_name(fresh.name + "-old")
        if folder.exists():
            folder.replace(aside)
        fresh.replace(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Inside, no other process is inside for the same `path`, which need not exist; its folder is made.

    Another one is waited for, which is said once; with `wait=False` it is not, and False is what comes out, not True.
    The lock is the kernel's, on a hidden file beside `path`, and ends with its owner, however that ends. Where there
    are no locks nobody is kept out: work may be done twice, but what is written atomically is whole. Not to be entered
    again from inside for the same path. Raises OSError, with the path, if the hidden file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield True
        return
    lock = path.with_name(f".{path.name}.lock")
    said = False
    while True:
        with lock.open("a") as file:
            mine = _lock(file, lock, wait=False)
            if not mine and wait:
                if not said:
                    report(f"waiting for another process that is making {path}")
                    said = True
                mine = _lock(file, lock, wait=True)
            if mine and not _is_at(file, lock):
                continue  # whoever had this file before has removed it: the next one has locked another
            try:
                yield mine
            finally:
                if mine:
                    lock.unlink(missing_ok=True)  # before it is unlocked, or it could be the next one's
            return


def _lock(file: IO[str], lock: Path, wait: bool) -> bool:
    """Whether the file is now locked by this process, or cannot be by any."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _say_no_locks(lock.parent)
    return True


@cache  # once a folder
def _say_no_locks(folder: Path) -> None:
    report(f"{folder} is on a file system without locks: two processes may do the same work there")


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
