"""Atomic and durable writing of files and folders, and locks between processes.

Decision: all stored files are written here, by `write_atomically` or `write_folder`: under a temporary name, fsynced,
renamed, and then the folder is fsynced, so that a later file (a summary that marks a run as done) is never on disk without
it. A lock is the kernel's (`filelock`, without its fallback to marker files, which would remain after a killed owner).
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from replaylab.util.progress import report
from replaylab.util.reading import reason

if TYPE_CHECKING:
    import pandas as pd

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
NO_SYNC = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
SUMS, BESIDE = "SHA256SUMS", ".sha256"
"""Names of digest files, in sha256sum's format: for a folder's files, and `<name>.sha256` for one; see `digests`."""
_BESIDE = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-[0-9a-f]{8}")  # as `_beside` names
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder and missing ones above it; each is on disk before anything is written into it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)  # another process may be as quick
        sync(each.parent)


def write_atomically(path: Path, write: Any, with_digest: bool = False) -> None:
    """Call `write(aside)` on an empty file beside the target and rename it: the file is complete or missing, and after this
    call it survives a power failure. Its permissions follow the umask, independent of `write`. `with_digest`: also write
    `<name>.sha256` beside it, for `digests.check`.
    """
    make_folder(path.parent)
    aside = _beside(path)
    try:
        aside.touch(exist_ok=False)
        mode = aside.stat().st_mode
        with _named(path, aside):
            write(aside)
            _open_to(aside, mode)
            sync(aside)
        if with_digest:  # first: the file is never there without it
            write_text(path.with_name(path.name + BESIDE), _lines({path.name: sha256(aside)}))
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda aside: aside.write_text(text))


def write_json(path: Path, plain: Any) -> None:
    """Write plain JSON atomically."""
    write_text(path, json.dumps(plain, indent=1))


def write_table(path: Path, table: pd.DataFrame, with_digest: bool = False) -> None:
    """Write a table as parquet, without its index, atomically; `with_digest` as in `write_atomically`."""
    write_atomically(path, lambda aside: table.to_parquet(aside, index=False), with_digest)


def write_folder(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Call `fill(fresh)` on a folder beside the target and replace the target by it, as in `write_atomically`."""
    make_folder(folder.parent)
    fresh, replaced = _beside(folder), []
    try:
        fresh.mkdir()
        mode = fresh.stat().st_mode
        with _named(folder, fresh):
            fill(fresh)
        for here, _, names in os.walk(fresh, topdown=False):
            for path in (Path(here, name) for name in names):
                _open_to(path, mode & 0o666)
                sync(path)
            sync(Path(here))
        while not _moved(fresh, folder):
            replaced.append(_beside(folder))
            with suppress(FileNotFoundError):  # another process replaces it, too
                folder.replace(replaced[-1])
        sync(folder.parent)
    finally:
        for each in (fresh, *replaced):
            shutil.rmtree(each, ignore_errors=True)


def _moved(fresh: Path, folder: Path) -> bool:
    """Whether a folder could be renamed to its target; False if another one exists there."""
    try:
        fresh.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot, of folders
        if error.errno not in NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of dead processes of this host, in this folder and all below."""
    for here, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (found := _BESIDE.fullmatch(name)) and found[1] == _HOST and not Path(f"/proc/{found[2]}").exists():
                path = Path(here, name)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if not _BESIDE.fullmatch(name)]


@contextmanager
def _named(path: Path, aside: Path) -> Iterator[None]:
    """Context in which a failing write, mostly due to a full disk, is an OSError with the path of the target."""
    try:
        yield
    except Exception as error:
        of_safetensors = type(error).__name__ == "SafetensorError" and "error" in str(error)  # no OSError, and no errno
        if not of_safetensors and not isinstance(error, OSError):
            raise
        filename = getattr(error, "filename", None)
        if filename is not None and not str(filename).startswith(str(aside)):
            raise  # of what is read for it
        why = getattr(error, "strerror", None) or reason(error)
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, f"{why}: make room, and call the same again", str(path)) from error


def _beside(path: Path) -> Path:
    """A new name that identifies its process: without locks, two processes may write one file, and be killed."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{uuid4().hex[:8]}")


def _open_to(path: Path, mode: int) -> None:
    if path.stat().st_mode & 0o777 != mode & 0o777:  # safetensors makes files that are their owner's alone
        path.chmod(mode & 0o777)


def write_sums(folder: Path, names: Iterable[str], texts: Mapping[str, str] = {}) -> None:
    """Write SHA256SUMS of a folder: of these files, and of others that will be written with these texts."""
    found = {name: sha256(folder / name) for name in names}
    found |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    if found:
        write_text(folder / SUMS, _lines(found))
    else:
        (folder / SUMS).unlink(missing_ok=True)


def _lines(found: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of `path`, which need not exist; its folder is made. Yields whether the lock is held.

    If another process holds it, this one waits and reports that once; with `wait=False` it yields False instead. The
    lock is the kernel's (on a hidden file beside `path`), so it is released when its owner ends for any reason. On a
    file system without locks a line is reported and access is not exclusive: work may be done twice, but atomic writes stay
    complete. Not reentrant. Raises OSError, with the path, if the hidden file cannot be written, and RuntimeError
    in a worker process that is importing the script which started it: it would wait for its own parent.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a script starts worker processes, which import it, and so begin its work anew: put what it does under "
            '`if __name__ == "__main__":`'
        )
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
