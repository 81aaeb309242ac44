"""Atomic writing of files and folders, checksums, and locks between processes.

Decision: a file is written beside its place, fsynced and renamed. A lock is the kernel's (`filelock`, without its fallback
to marker files, which would outlive a killed owner).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from replaylab.util.progress import report

if TYPE_CHECKING:
    import pandas as pd

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(aside)` beside the target, fsync and rename: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}")  # processes of two hosts may have one number
    try:
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda aside: aside.write_text(text))


def write_json(path: Path, plain: Any) -> None:
    """Write plain JSON atomically."""
    write_text(path, json.dumps(plain, indent=1))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, without its index, atomically."""
    write_atomically(path, lambda aside: table.to_parquet(aside, index=False))


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Call `fill(fresh)` on a folder beside the target, then put it in place: nobody ever reads half of it."""
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
    """Hold the lock of `path`, which need not exist; its folder is made. Yields whether the lock is held.

    Where another process holds it, this one waits and reports that once; with `wait=False` it yields False instead. The
    lock is the kernel's (on a hidden file beside `path`), so it is free as soon as its owner ends, however that ends. On a
    file system without locks a line is reported and nobody is kept out: work may be done twice, but what is written
    atomically is whole. Not reentrant. Raises OSError, with the path, if the hidden file cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    held = True
    try:
        lock.acquire(blocking=False)
    except Timeout:
        held = wait
        if wait:
            report(f"waiting for another process that is making {path}")
            lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _report_no_locks(path.parent)
    try:
        yield held
    finally:
        if held:
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: whoever waits for it takes a new one
        lock.release()


@cache  # once a folder
def _report_no_locks(folder: Path) -> None:
    report(f"{folder} is on a file system without locks: two processes may do the same work there")
