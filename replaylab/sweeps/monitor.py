"""Monitoring of runs that are trained by jobs, until all have ended.

Decision: the store is read often, which is cheap, and SLURM's queue rarely. A run is done when it has a summary, and failed
when its job has ended without one; the reason is the failure recorded by the run, otherwise the state in SLURM's accounting.
Refused: to report a run as failed while its job may still be requeued.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from replaylab.spec import RunSpec
from replaylab.store import Store
from replaylab.sweeps.cluster import Job, active
from replaylab.util.progress import StatusBoard, report
from replaylab.util.text import printable

STORE_INTERVAL_S = 1.0  # between readings of the store
QUEUE_INTERVALS_S = (2.0, 20.0)  # between queries of the queue: at first, and after FREQUENT_FOR_S
FREQUENT_FOR_S = 180.0
GRACE_S = 6.0  # after a job is gone, for its files to appear: network file systems lag


def watch(specs: Sequence[RunSpec], store: Path, resume_hint: str) -> dict[str, str]:
    """Show all runs until each is done or has failed; returns run id -> reason of failure, with the path of its log.

    Ctrl-C stops monitoring; jobs continue. It prints how to resume monitoring, and raises KeyboardInterrupt.
    """
    monitor = _Monitor(specs, store)
    board = StatusBoard("runs")
    try:
        while True:
            states = monitor.states()
            board.show({spec.title: states[spec.run_id] for spec in specs})
            if all(state in ("done", "failed") for state, _ in states.values()):
                break
            time.sleep(STORE_INTERVAL_S)
    except KeyboardInterrupt:
        _report_remaining(monitor, resume_hint)
        raise
    finally:
        board.close()
    return monitor.failed


class _Monitor:
    """The state of each run; the queue is read at most every QUEUE_INTERVALS_S."""

    def __init__(self, specs: Sequence[RunSpec], store: Path) -> None:
        self.specs, self.store = specs, store
        self.failed: dict[str, str] = {}
        self.alive: dict[str, tuple[str, str]] | None = None
        self._began_s = time.monotonic()
        self._queried_s = -float("inf")
        self._gone_since_s: dict[str, float] = {}  # by job, or by run whose job is not known

    def jobs(self) -> dict[str, Job]:
        """Run id -> its newest job, for the runs that have not ended."""
        done = Store(self.store).is_done
        jobs = {
            one.run_id: Job.read(one, self.store) for one in self.specs if one.run_id not in self.failed and not done(one)
        }
        return {run: job for run, job in jobs.items() if job}

    def states(self) -> dict[str, tuple[str, str]]:
        """Run id -> (queued | running | done | failed, details)."""
        jobs = self.jobs()
        self._query_queue(jobs)
        return {spec.run_id: self._state(spec, jobs.get(spec.run_id)) for spec in self.specs}

    def _query_queue(self, jobs: dict[str, Job]) -> None:
        now_s = time.monotonic()
        if now_s - self._queried_s < QUEUE_INTERVALS_S[now_s - self._began_s > FREQUENT_FOR_S]:
            return
        self._queried_s, self.alive = now_s, active(list(jobs.values()))
        for job in jobs.values():
            if self.alive is None or job.id in self.alive:
                self._gone_since_s.pop(job.id, None)
            else:
                self._gone_since_s.setdefault(job.id, now_s)

    def _state(self, spec: RunSpec, job: Job | None) -> tuple[str, str]:
        if spec.run_id in self.failed:
            return "failed", self.failed[spec.run_id]
        if Store(self.store).is_done(spec):
            return "done", ""
        reached = progress(spec, self.store, job.submitted if job else "")
        if job is None:
            return self._without_a_record(spec)
        self._gone_since_s.pop(spec.run_id, None)
        if self.alive is None:
            return "queued", "SLURM does not answer"
        if job.id in self.alive:
            state, reason = self.alive[job.id]
            if state == "PENDING" and "launch failed" in reason:  # and SLURM holds it for ever
                return self._failed(spec, f"job {job.id}: {reason}; `scancel {job.id}`, and call the same again")
            if state == "PENDING":
                return "queued", f"job {job.id}: {reason}" + (f", at {reached}" if reached else "")
            if job.cluster == "local" and not reached:
                return "queued", f"process {job.id} waits for a slot, or starts"
            return "running", reached or f"job {job.id}: {state.lower()}"
        failure = self.store / spec.run_id / "failed.txt"
        seconds_gone = time.monotonic() - self._gone_since_s.get(job.id, float("inf"))
        if seconds_gone > GRACE_S or (seconds_gone >= 0 and failure.is_file()):
            return self._failed(spec, self._reason(spec, job))
        return "running", "ended; waiting for its files"

    def _failed(self, spec: RunSpec, reason: str) -> tuple[str, str]:
        self.failed[spec.run_id] = printable(reason)
        return "failed", self.failed[spec.run_id]

    def _without_a_record(self, spec: RunSpec) -> tuple[str, str]:
        """The state of a run whose job record was removed; monitoring begins after a job is recorded."""
        since_s = self._gone_since_s.setdefault(spec.run_id, time.monotonic())
        if time.monotonic() - since_s > GRACE_S:
            path = Job.file(spec, self.store)
            return self._failed(spec, f"{path} is gone, and with it which job trains this run; call the same again")
        return "queued", "the record of its job is gone; waiting for it"

    def _reason(self, spec: RunSpec, job: Job) -> str:
        failure = self.store / spec.run_id / "failed.txt"
        with suppress(OSError, IndexError):
            return f"{failure.read_text().strip().splitlines()[-1]} (log: {job.log(self.store)})"
        state = _final_state(self.store, job)
        free_mb = shutil.disk_usage(self.store).free / 1e6
        full = f"; {self.store} is full" if free_mb < 1 else ""
        return f"{state} before it recorded a reason{full} (log: {job.log(self.store)})"


def _final_state(store: Path, job: Job) -> str:
    """The last state of a job that has ended, from SLURM's accounting."""
    if job.cluster == "local":
        return f"process {job.id} on {job.host} ended"
    import submitit

    state = submitit.SlurmJob(store / "jobs", job.id).watcher.get_state(job.id, mode="force")
    return f"job {job.id} ended" if state == "UNKNOWN" else f"job {job.id} ended as {state}"


def progress(spec: RunSpec, store: Path, since: str = "") -> str:
    """The last complete line of a run's log, in words; "" before the first, or if it is older than `since`."""
    path = store / spec.run_id / "log.jsonl"
    with suppress(OSError, ValueError, KeyError, IndexError):
        if since and path.stat().st_mtime < datetime.fromisoformat(since).timestamp():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1000))
            line = json.loads(file.read().rsplit(b"\n", 2)[-2])
        return f"step {line['step']}/{spec.training.steps}, loss {line['loss']:.3g}"
    return ""


def _report_remaining(monitor: _Monitor, resume_hint: str) -> None:
    alive = [job for job in monitor.jobs().values() if monitor.alive is None or job.id in monitor.alive]
    if not alive:
        return
    ids = [job.id for job in alive]
    stop = ("scancel " if alive[0].cluster == "slurm" else "kill ") + " ".join(ids)
    report(
        f"{len(alive)} jobs continue without this process. To monitor them, and to train missing runs: {resume_hint}. "
        f"To stop them: {stop}"
    )
