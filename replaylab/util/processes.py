"""Work spread over processes, none of which outlives its parent."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from replaylab.util.progress import track

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def importing_torch() -> Iterator[None]:
    """Context for the first import of torch and diffusers: with large pages (`ask_for_large_pages`), and without garbage
    collection, which would repeatedly search the growing number of permanent objects and takes a fifth of the time.
    """
    ask_for_large_pages()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ask_for_large_pages() -> None:
    """Let torch ask for pages of 2 MB for large tensors, unless the environment has THP_MEM_ALLOC_ENABLE=0.

    Without them, a system that gives such pages on request only (transparent_hugepage "madvise") clears memory in pages of
    4 kB whenever glibc takes it anew: a tenth of the CPU time in the long training of a base, nothing in a short one.
    Results are the same bits. Effective before torch's first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> tuple[float, float] | None:
    """This machine's memory, and how much of it is free; None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kib["MemTotal"] * 1024 / 1e9, kib["MemAvailable"] * 1024 / 1e9


def _end_with_parent() -> None:
    """In a worker: end when the parent was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def map_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, what: str, unit: str, here: bool = True
) -> Iterator[Result]:
    """`function` of every job, in order of completion, with progress (`progress.track`); `here` if one process is enough.

    Raises OSError if a process ended early.
    """
    if here and min(processes, len(jobs)) <= 1:
        yield from track(map(function, jobs), what, len(jobs), unit)
        return
    # spawn: FFmpeg's and OpenCV's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_end_with_parent)
    try:
        done = as_completed([pool.submit(function, job) for job in jobs])
        for future in track(done, what, len(jobs), unit):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            f"{what}: a process ended early; its error stands above, and if there is none it was killed (is memory short?). "
            "The same command continues, with fewer processes if asked"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
