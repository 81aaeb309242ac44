"""Digests of stored files in the format of `sha256sum --check`: `SHA256SUMS` in a folder, or `<name>.sha256` beside a file.

Decision: one `check` for all files that are read again: results, domains, caches. It looks for the file's line beside it and
in the folders above (those of a run's `samples/000300/` are in the run's folder), and computes a digest once per process
while the file is unchanged. A file without a line (older ones, and users' own) is not checked. Refused: a file whose content
differs from its line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from replaylab.util.files import BESIDE, SUMS, sha256

LEVELS = 3  # of folders, from a file's own upwards, that may list it

JUST_NOW_NS = 10**9
MOST_REMEMBERED = 2**17  # files
T = TypeVar("T")


class WrongDigest(ValueError):
    """A file with a wrong digest; the message names the file, and the source of its digest."""


def check(path: Path) -> bool:
    """Raise WrongDigest if the file has changed since it was written; FileNotFoundError if it is listed and missing.

    Returns whether it was compared: False for a file that is not listed.
    """
    found = line_of(path)
    if found is not None:
        compare(path, found[1], found[0])
    return found is not None


def compare(path: Path, wanted: str, source: Path) -> None:
    """Raise WrongDigest unless the file has the SHA-256 `wanted`, which is from `source`."""
    if (digest := remembered(sha256, path)) != wanted:
        raise WrongDigest(f"{path} is damaged: its SHA-256 is {digest[:12]}..., and {source} says {wanted[:12]}...")


def line_of(path: Path) -> tuple[Path, str] | None:
    """The file that lists this one, and its digest there; None if it is not listed."""
    beside = path.with_name(path.name + BESIDE)
    if (lines := _lines_of(beside)) is not None:
        return beside, lines.get(path.name, "nothing for this name")
    for folder in path.parents[:LEVELS]:
        wanted = (_lines_of(folder / SUMS) or {}).get(path.relative_to(folder).as_posix())
        if wanted is not None:
            return folder / SUMS, wanted
    return None


def _lines_of(path: Path) -> Mapping[str, str] | None:
    """Name -> digest; None if the file is missing."""
    try:
        return remembered(_parsed, path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parsed(path: Path) -> Mapping[str, str]:
    found = {}
    *whole, rest = path.read_bytes().split(b"\n")
    for line in [*whole, rest] if rest or not whole else whole:
        digest, gap, name = line.partition(b"  ")
        if not gap or len(digest) != 64 or line is rest:
            raise WrongDigest(f"{path} is damaged: {line[:99]!r} is no line of sha256sum")
        found[name.decode(errors="surrogateescape")] = digest.decode(errors="replace")
    return found


_memory: dict[tuple[object, ...], object] = {}


def remembered(function: Callable[[Path], T], path: Path) -> T:
    """The result of a function for a file, computed once while the file is unchanged. A file that was just written is not
    remembered: it may be written again within the resolution of its time stamp.
    """
    state = path.stat()
    key = function, path, state.st_ino, state.st_mtime_ns, state.st_size
    if key in _memory:
        return cast(T, _memory[key])
    found = function(path)
    if len(_memory) > MOST_REMEMBERED:
        _memory.clear()
    if time.time_ns() - state.st_mtime_ns > JUST_NOW_NS:
        _memory[key] = found
    return found
