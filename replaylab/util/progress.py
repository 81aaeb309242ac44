"""How far is it, and how long will it take?

`track` wraps an iterable. On a terminal it draws a tqdm bar; elsewhere (papermill, CI, a SLURM log, a
notebook's cell) it writes whole lines, at most one every ten seconds, because a bar redrawn by carriage
returns fills a log with thousands of fragments. Either way one closing line says what was done and how long
it took. Everything goes to stderr, so that piped output stays clean.

`Board` is for several things that go on at once, elsewhere: one line each, redrawn on a terminal; elsewhere a line
when the state of one changes, and now and then one line that says how far all are.

Refused: bars inside bars, messages in the bar, log levels. A loop that is left early (an exception, a
`break`) gets no closing line: nothing was finished.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from replaylab.util.text import duration

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0
MOST_NAMED = 4  # of those that run, in one line


def report(text: str) -> None:
    """Write `text` as one line to stderr, above the bar if there is one."""
    if is_follower():
        return
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr)
    else:
        # One write for the whole line: several processes may share this log.
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def track(iterable: Iterable[Item], what: str, total: int | None = None, unit: str = "items") -> Iterator[Item]:
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
    report(f"{what}: {count} {unit} in {duration(time.monotonic() - start)}")


class StatusBoard:
    """The states of several things, as they are now: `show` as often as they are looked at, then `close`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown: dict[str, tuple[str, str]] = {}
        self._told = self._shown  # when all were told of in one line
        self._said = time.monotonic()
        self._drawn = 0  # lines on the terminal

    def show(self, things: dict[str, tuple[str, str]]) -> None:
        """Name -> (state in one word, what more there is to say)."""
        if is_follower():
            return
        if sys.stderr.isatty():
            self._draw(things)
        else:
            self._tell(things)
        self._shown = dict(things)

    def close(self) -> None:
        """What is shown stays; whatever comes next goes below it."""
        self._drawn = 0

    def _draw(self, things: dict[str, tuple[str, str]]) -> None:
        width, height = shutil.get_terminal_size()
        lines = [_of_board(name, *state) for name, state in things.items()]
        if len(lines) > height - 2:  # what is finished needs no room
            lines = [_of_board(name, *state) for name, state in things.items() if state[0] != "done"]
        lines = [line[: width - 1] for line in [*lines[: height - 2], f"{self._what}: {counted(things)}"]]
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        sys.stderr.write(back + "\n".join(lines) + "\n")
        sys.stderr.flush()
        self._drawn = len(lines)

    def _tell(self, things: dict[str, tuple[str, str]]) -> None:
        for name, (state, more) in things.items():
            if self._shown.get(name, ("done", ""))[0] != state:  # what was done before is no news
                report(_of_board(name, state, more))
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES:
            if things != self._told:
                running = [f"{name}: {more}" for name, (state, more) in things.items() if state == "running"]
                report("; ".join([f"{self._what}: {counted(things)}", *running[:MOST_NAMED]]))
            self._said, self._told = now, dict(things)


def counted(things: dict[str, tuple[str, str]]) -> str:
    """How many are in which state: "1 done, 2 running"."""
    states = [state for state, _ in things.values()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _of_board(name: str, state: str, more: str) -> str:
    return f"{name}: {state}" + (f", {more}" if more else "")


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
            report(progress_line(what, done, total, unit, now - start))
            last = now


def progress_line(what: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    """The line `track` writes after `done` items in `seconds` (both above 0)."""
    rate = done / seconds
    speed = f"{1 / rate:.1f} s each" if rate < 1 else f"{rate:.{0 if rate >= 100 else 1}f} {unit}/s"
    if total is None:
        return f"{what}: {done} {unit}, {speed}"
    return f"{what}: {done}/{total} {unit}, {speed}, {duration(max(total - done, 0) / rate)} left"
