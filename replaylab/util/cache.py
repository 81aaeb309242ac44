"""Cached files: stored under a name that identifies all their inputs, with a digest beside them.

Decision: one mechanism for latents, conditions, features and generated clips. A file is computed by one process at a time
and read by all; a damaged one (with a wrong digest, or unreadable) is computed again, with a warning. Refused: to
treat errors of the system (no permission, a broken disk) as damage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from replaylab.util import digests, reading
from replaylab.util.files import locked, make_folder, write_atomically
from replaylab.util.progress import report

if TYPE_CHECKING:
    import pandas as pd

Kept = TypeVar("Kept")


def cached(path: Path, load: Callable[[Path], Kept], save: Callable[[Path, Any], object], make: Callable[[], Any]) -> Kept:
    """The file read by `load`; if missing or damaged, the result of `make` is first written, by `save(aside, made)`."""
    found = kept(path, load)
    if found is not None:
        return found
    make_folder(path.parent)
    with locked(path):
        found = kept(path, load)  # by the process that held the lock
        if found is None:
            write(path, save, make())
            found = load(path)
    return found


def kept(path: Path, load: Callable[[Path], Kept]) -> Kept | None:
    """The file read by `load`; None if it is missing or damaged."""
    try:
        digests.check(path)
        return load(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is not None:  # it may well be whole
            raise
        return None
    except Exception:  # a damaged file can raise almost anything: tokenize.TokenError, safetensors' and pyarrow's own
        return None


def kept_table(path: Path) -> pd.DataFrame | None:
    """A table written by `write_table` with its digest; None if it is missing or, with a warning, damaged."""
    found = kept(path, reading.table)
    if found is None and path.exists():
        report(f"warning: {path} is damaged and is made again")
    return found


def write(path: Path, save: Callable[[Path, Any], object], made: Any) -> None:
    """Write the file with its digest, and report if it replaces a damaged one."""
    if path.exists():
        report(f"warning: {path} is damaged and is made again")
    write_atomically(path, lambda aside: save(aside, made), with_digest=True)
