"""What has become of the runs that others train?

Decision: the store is looked at often (it is cheap), SLURM asked seldom. A run is done when its summary is there, and
failed when its job is gone without one; it is then asked why: the failure that the run wrote down, else SLURM's accounts.
Refused: to call a run failed while its job may still come back.
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
from replaylab.sweeps.cluster import Job, states
from replaylab.util.progress import StatusBoard, report

SECONDS_BETWEEN_LOOKS = 1.0  # at the store
SECONDS_BETWEEN_QUESTIONS = (2.0, 20.0)  # to SLURM: at first, and after some minutes
SECONDS_OF_GRACE = 6.0  # from when a job is gone until its files must be here (network file systems lag)


def watch(specs: Sequence[RunSpec], store: Path, how_back: str) -> dict[str, str]:
    """Show all runs until each is finished or has failed; returns run id -> why it failed, with the path of its log.

    Ctrl-C leaves the jobs alone, says how to come back, and goes on as KeyboardInterrupt.
    """
    looks = _Looks(specs, store)
    board = StatusBoard("runs")
    try:
        while True:
            found = looks.look()
            board.show({spec.title: found[spec.run_id] for spec in specs})
            if all(state in ("done", "failed") for state, _ in found.values()):
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        _say_goodbye(looks, how_back)
        raise
    finally:
        board.close()
    return looks.failed


class _Looks:
    """What is known of each run, asked for no more often than SLURM likes."""

    def __init__(self, specs: Sequence[RunSpec], store: Path) -> None:
        self.specs, self.store = specs, store
        self.failed: dict[str, str] = {}
        self.alive: dict[str, tuple[str, str]] | None = None
        self._began = time.monotonic()
        self._asked = -float("inf")
        self._gone: dict[str, float] = {}  # job -> since when

    def jobs(self) -> dict[str, Job]:
        """Run id -> its newest job, of the runs that are not at their end."""
        found = {spec.run_id: Job.of(spec, self.store) for spec in self.specs if self._is_open(spec)}
        return {run: job for run, job in found.items() if job}

    def _is_open(self, spec: RunSpec) -> bool:
        return spec.run_id not in self.failed and not Store(self.store).is_done(spec)

    def look(self) -> dict[str, tuple[str, str]]:
        """Run id -> (queued | running | done | failed, what more there is to say)."""
        jobs = self.jobs()
        self._ask(jobs)
        return {spec.run_id: self._state(spec, jobs.get(spec.run_id)) for spec in self.specs}

    def _ask(self, jobs: dict[str, Job]) -> None:
        now = time.monotonic()
        at_first, later = SECONDS_BETWEEN_QUESTIONS
        if now - self._asked < (at_first if now - self._began < 180 else later):
            return
        self._asked, self.alive = now, states(list(jobs.values()))
        for job in jobs.values():
            if self.alive is None or job.id in self.alive:
                self._gone.pop(job.id, None)
            else:
                self._gone.setdefault(job.id, now)

    def _state(self, spec: RunSpec, job: Job | None) -> tuple[str, str]:
        if spec.run_id in self.failed:
            return "failed", self.failed[spec.run_id]
        if Store(self.store).is_done(spec):
            return "done", ""
        how_far = progress_of(spec, self.store, job.submitted if job else "")
        if job is None or self.alive is None:
            return "queued", "SLURM does not answer" if job else ""
        if job.id in self.alive:
            state, reason = self.alive[job.id]
            if state == "PENDING":
                return "queued", f"job {job.id}: {reason}" + (f", at {how_far}" if how_far else "")
            if job.cluster == "local" and not how_far:
                return "queued", f"process {job.id} waits, or starts"
            return "running", how_far or f"job {job.id}: {state.lower()}"
        written = self.store / spec.run_id / "failed.txt"
        seconds_gone = time.monotonic() - self._gone.get(job.id, float("inf"))
        if seconds_gone > SECONDS_OF_GRACE or (seconds_gone >= 0 and written.is_file()):
            self.failed[spec.run_id] = self._why(spec, job)
            return "failed", self.failed[spec.run_id]
        return "running", "ended; its files are waited for"

    def _why(self, spec: RunSpec, job: Job) -> str:
        written = self.store / spec.run_id / "failed.txt"
        with suppress(OSError, IndexError):
            return f"{written.read_text().strip().splitlines()[-1]} (log: {job.log(self.store)})"
        said = _last_state(self.store, job)
        free_mb = shutil.disk_usage(self.store).free / 1e6
        full = f"; {self.store} is full" if free_mb < 1 else ""
        return f"{said} before it could say why{full} (log: {job.log(self.store)})"


def _last_state(store: Path, job: Job) -> str:
    """What SLURM's accounts say of a job that is gone."""
    if job.cluster == "local":
        return f"process {job.id} on {job.host} ended"
    import submitit

    state = submitit.SlurmJob(store / "jobs", job.id).watcher.get_state(job.id, mode="force")
    return f"job {job.id} ended" if state == "UNKNOWN" else f"job {job.id} ended as {state}"


def progress_of(spec: RunSpec, store: Path, since: str = "") -> str:
    """The last whole line of a run's log, in words; "" before the first, or where it is older than `since`."""
    path = store / spec.run_id / "log.jsonl"
    with suppress(OSError, ValueError, KeyError, IndexError):
        if since and path.stat().st_mtime < datetime.fromisoformat(since).timestamp():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1000))
            line = json.loads(file.read().rsplit(b"\n", 2)[-2])
        return f"step {line['step']}/{spec.training.steps}, loss {line['loss']:.3g}"
    return ""


def _say_goodbye(looks: _Looks, how_back: str) -> None:
    alive = [job for job in looks.jobs().values() if looks.alive is None or job.id in looks.alive]
    if not alive:
        return
    ids = [job.id for job in alive]
    stop = ("scancel " if alive[0].cluster == "slurm" else "kill ") + " ".join(ids)
    report(
        f"{len(alive)} jobs go on without this process. To look on, and to train what is still missing: {how_back}. To stop "
        f"them: {stop}"
    )
