"""Preemption: signals by which a cluster asks this process to save a checkpoint, or to save and exit.

Decision: only the state of a training step is in memory alone. All else is in files, each written atomically (rendered
chunks, latents, checkpoints, rows), so a process exits immediately on request; within training it finishes the current
step, saves, and exits. The code that installs the handlers, a job of a cluster (`jobs`), determines how to exit; without
handlers signals have their default effect. Refused: to save within a signal handler, when a step may be half applied.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

SAVE, EXIT = 1, 2  # what may be requested; 0: nothing


class _State:
    """The request to this process, and whether it is within a training step."""

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
    """Make the signals `save` request saving, and `leave` request saving and a call of `exit()`, which must not return."""
    _state.exit = exit
    for signals, what in ((save, SAVE), (leave, EXIT)):
        for each in signals:
            signal.signal(each, partial(_state.request, what))


def requested() -> int:
    """SAVE or EXIT if there is a pending request, else 0."""
    return _state.requested


def mark_saved() -> None:
    """Mark a requested SAVE as done."""
    _state.requested = 0 if _state.requested == SAVE else _state.requested


def exit_now() -> None:
    """Exit the process by the installed function; does not return."""
    assert _state.exit is not None, "no handler is installed, so nothing can have been requested"
    _state.exiting = True
    _state.exit()


@contextmanager
def deferred() -> Iterator[None]:
    """Context in which a request to exit is deferred: check `requested`. At its end the process exits if requested."""
    _state.deferred = True
    try:
        yield
    finally:
        _state.deferred = False
    _exit_if_requested()


@contextmanager
def immediate() -> Iterator[None]:
    """Context within `deferred` in which all work is in files, so that an earlier or new request to exit takes effect."""
    _state.deferred = False
    _exit_if_requested()
    try:
        yield
    finally:
        _state.deferred = True


def _exit_if_requested() -> None:
    if _state.requested == EXIT:
        exit_now()
