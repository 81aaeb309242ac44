"""Preemption: signals by which a cluster asks this process to save a checkpoint, or to save and exit.

Decision: only a training step lives in memory alone. All else is files, each written whole (rendered chunks, latents,
checkpoints, rows), so a process that is asked to exit does so at once; within training it finishes the current step,
saves, and exits. How to exit is up to whoever installs the handlers, a job of a cluster (`jobs`): without them signals
do what they always do. Refused: to save from inside a signal's handler, when half of the weights may be a step ahead.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

SAVE, EXIT = 1, 2  # what may be requested; 0: nothing


class _State:
    """What was requested of this process, and whether it is within a training step."""

    requested = 0
    deferred = False
    exiting = False
    exit: Callable[[], None] | None = None

    def request(self, what: int, *about_signal: object) -> None:
        self.requested = max(self.requested, what)
        if self.requested == EXIT and not self.deferred and not self.exiting:  # SLURM may signal twice
            exit_now()


_state = _State()


def install_handlers(exit: Callable[[], None], save: list[signal.Signals], leave: list[signal.Signals]) -> None:
    """From now on the signals `save` ask this process to save, and `leave` to save and `exit()`, which must not return."""
    _state.exit = exit
    for signals, what in ((save, SAVE), (leave, EXIT)):
        for each in signals:
            signal.signal(each, partial(_state.request, what))


def requested() -> int:
    """SAVE or EXIT, if it was requested of this process and is not done; else 0."""
    return _state.requested


def mark_saved() -> None:
    """A requested SAVE is done."""
    _state.requested = 0 if _state.requested == SAVE else _state.requested


def exit_now() -> None:
    """Does not return."""
    assert _state.exit is not None, "no handler is installed, so nothing can have been requested"
    _state.exiting = True
    _state.exit()


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a request to exit is deferred: `requested` has to be asked. At its end the process exits."""
    _state.deferred = True
    try:
        yield
    finally:
        _state.deferred = False
    _exit_if_requested()


@contextmanager
def immediate() -> Iterator[None]:
    """Within `deferred`, for a while: all work is in files, so a request to exit, earlier or now, is followed at once."""
    _state.deferred = False
    _exit_if_requested()
    try:
        yield
    finally:
        _state.deferred = True


def _exit_if_requested() -> None:
    if _state.requested == EXIT:
        exit_now()
