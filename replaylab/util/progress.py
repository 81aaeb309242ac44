"""Progress of long work: messages, a bar or lines for one loop, a board for several concurrent items.

Decision: on a terminal `track` shows a tqdm bar; elsewhere (papermill, CI, a SLURM log, a notebook's cell) it writes whole
lines, at most one every ten seconds, because a bar redrawn by carriage returns fills a log with thousands of fragments.
A last line gives the number of items and the time. Everything goes to stderr, so that piped output is unaffected.
`StatusBoard` has one line for each item, redrawn on a terminal; elsewhere it writes a line when the state of one changes,
and occasionally one line for all.

Not supported: nested bars, messages in the bar, log levels. A loop that ends early has no last line.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from replaylab.util.text import duration, printable

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0
MOST_NAMED = 4  # running things in one line


def report(text: str) -> None:
    """Write `text` as one line to stderr, above the bar if there is one."""
    if is_follower():
        return
    text = printable(text)
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr)
    else:
        # one write for the whole line: several processes may share this log
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def track(iterable: Iterable[Item], what: str, total: int | None = None, unit: str = "items") -> Iterator[Item]:
    """Yield the items of `iterable` and report progress.

    `what` names the work, `unit` the items in the plural: "rendering driving: 120/384 videos, 14.2 videos/s,
    19 s left". `total` is their number, by default the iterable's length; if it has none, no remaining time
    is shown.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    start = time.monotonic()
    count = 0
    if is_follower():
        shown = iterable
    elif sys.stderr.isatty():
        shown = tqdm(iterable, desc=what, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True)
    else:
        shown = _lines(iterable, what, total, unit)
    for item in shown:
        yield item
        count += 1
    report(f"{what}: {count} {unit} in {duration(time.monotonic() - start)}")


class StatusBoard:
    """The current states of several items: call `show` whenever they may have changed, and finally `close`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown: dict[str, tuple[str, str]] = {}
        self._reported = self._shown  # in the last line for all
        self._reported_at = time.monotonic()
        self._lines = 0  # on the terminal

    def show(self, things: dict[str, tuple[str, str]]) -> None:
        """Show the states: name -> (state in one word, more)."""
        if is_follower():
            return
        if sys.stderr.isatty():
            self._redraw(things)
        else:
            self._report(things)
        self._shown = dict(things)

    def close(self) -> None:
        """Finish the board; further output follows below it."""
        self._lines = 0

    def _redraw(self, things: dict[str, tuple[str, str]]) -> None:
        width, height = shutil.get_terminal_size()
        lines = [_board_line(name, *state) for name, state in things.items()]
        if len(lines) > height - 2:  # leave out what is finished
            lines = [_board_line(name, *state) for name, state in things.items() if state[0] != "done"]
        lines = [line[: width - 1] for line in [*lines[: height - 2], f"{self._what}: {counted(things)}"]]
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        sys.stderr.write(back + "\n".join(lines) + "\n")
        sys.stderr.flush()
        self._lines = len(lines)

    def _report(self, things: dict[str, tuple[str, str]]) -> None:
        for name, (state, more) in things.items():
            if self._shown.get(name, ("done", ""))[0] != state:  # what was done before is not news
                report(_board_line(name, state, more))
        now = time.monotonic()
        if now - self._reported_at >= SECONDS_BETWEEN_LINES:
            if things != self._reported:
                running = [f"{name}: {more}" for name, (state, more) in things.items() if state == "running"]
                report("; ".join([f"{self._what}: {counted(things)}", *running[:MOST_NAMED]]))
            self._reported_at, self._reported = now, dict(things)


def counted(things: dict[str, tuple[str, str]]) -> str:
    """The number of items in each state: "1 done, 2 running"."""
    states = [state for state, _ in things.values()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _board_line(name: str, state: str, more: str) -> str:
    return f"{name}: {state}" + (f", {more}" if more else "")


def is_follower() -> bool:
    """Whether this is a rank (of torchrun or submitit) other than 0, the only one that reports."""
    return os.environ.get("RANK", "0") != "0"


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
