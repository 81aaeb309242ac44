"""The machine is about to be taken away: what does a run do with its last minute?

Decision: only a training step lives in memory alone. All else is files, each written whole (rendered chunks, latents,
checkpoints, rows), so a process that is told to leave does so at once; within the steps it finishes the one it is at,
saves, and leaves. How to leave is up to whoever listens, a job of a cluster (`jobs`): where nobody listens, signals
do what they always do. Refused: to save from inside a signal's handler, when half of the weights may be a step ahead.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAVE, LEAVE = 1, 2  # what one may be told; 0: nothing


class _Ear:
    """What this process was told, and whether it is in the middle of something."""

    def __init__(self) -> None:
        self.told = 0
        self.holds = False
        self.leaves = False
        self.go: Callable[[], None] | None = None

    def hear(self, what: int) -> None:
        self.told = max(self.told, what)
        if self.told == LEAVE and not self.holds and not self.leaves:  # SLURM may say it twice
            leave()


_ear = _Ear()


def listen(go: Callable[[], None], save: list[signal.Signals], leave: list[signal.Signals]) -> None:
    """From now on these signals tell this process to save, or to save and `go()`, which must not return."""
    _ear.go = go
    for each in save:
        signal.signal(each, lambda number, frame: _ear.hear(SAVE))
    for each in leave:
        signal.signal(each, lambda number, frame: _ear.hear(LEAVE))


def told() -> int:
    """SAVE or LEAVE, if this process was told to and has not done so; else 0."""
    return _ear.told


def saved() -> None:
    """What SAVE asked for is done."""
    _ear.told = 0 if _ear.told == SAVE else _ear.told


def leave() -> None:
    """Does not return."""
    assert _ear.go is not None, "nobody listens, so nobody can have been told"
    _ear.leaves = True
    _ear.go()


@contextmanager
def held() -> Iterator[None]:
    """Inside, whoever is told to leave stays: `told` has to be asked. At its end nobody stays longer."""
    _ear.holds = True
    try:
        yield
    finally:
        _ear.holds = False
    _leave_if_told()


@contextmanager
def free() -> Iterator[None]:
    """Within `held`, for a while: what is written is all there is, so whoever is told to leave, or was, does so at once."""
    _ear.holds = False
    _leave_if_told()
    try:
        yield
    finally:
        _ear.holds = True


def _leave_if_told() -> None:
    if _ear.told == LEAVE:
        leave()
