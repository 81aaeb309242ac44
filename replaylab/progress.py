"""How far is it, and how long will it take?

`track` wraps an iterable. On a terminal it draws a tqdm bar; elsewhere (papermill, CI, a SLURM log, a
notebook's cell) it writes whole lines, at most one every ten seconds, because a bar redrawn by carriage
returns fills a log with thousands of fragments. Either way one closing line says what was done and how long
it took. Everything goes to stderr, so that piped output stays clean.

Refused: bars inside bars, messages in the bar, log levels. A loop that is left early (an exception, a
`break`) gets no closing line: nothing was finished.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """Write `text` as one line to stderr, above the bar if there is one."""
    if is_follower():
        return
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr)
    else:
        # One write for the whole line: several processes may share this log.
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def track(
    iterable: Iterable[Item], what: str, total: int | None = None, unit: str = "items"
) -> Iterator[Item]:
    """Yield the items of `iterable` and report on the way.

    `what` names the work, `unit` the things in the plural: "rendering driving: 120/384 videos, 14.2 videos/s,
    19 s left". `total` is their number; where it is not given, the iterable's length if it has one, and
    otherwise no time left is claimed.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    start = time.monotonic()
    count = 0
    reported = _silently if is_follower() else _bar if sys.stderr.isatty() else _lines
    for item in reported(iterable, what, total, unit):
        yield item
        count += 1
    say(f"{what}: {count} {unit} in {duration(time.monotonic() - start)}")


def duration(seconds: float) -> str:
    """Seconds in words a reader takes in at once: "0.4 s", "19 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def is_follower() -> bool:
    """Whether this is one of several ranks (torchrun's, or submitit's) and not the one that speaks for all."""
    return os.environ.get("RANK", "0") != "0"


def _silently(iterable: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    yield from iterable


def _bar(iterable: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    bar = tqdm(iterable, desc=what, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True)
    yield from bar


def _lines(iterable: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done != total:
            say(progress_line(what, done, total, unit, now - start))
            last = now


def progress_line(what: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """The line `track` writes after `done` items in `seconds` (both above 0)."""
    rate = done / seconds
    speed = f"{1 / rate:.1f} s each" if rate < 1 else f"{rate:.{0 if rate >= 100 else 1}f} {unit}/s"
    if total is None:
        return f"{what}: {done} {unit}, {speed}"
    return f"{what}: {done}/{total} {unit}, {speed}, {duration(max(total - done, 0) / rate)} left"
