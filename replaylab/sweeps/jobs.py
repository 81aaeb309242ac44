"""Submission of runs as jobs, local or on SLURM, each trained by one process at a time.

Decision: submitit dispatches one job per run, and a job contains the spec alone: when it is restarted, it continues from
the store. Two mechanisms prevent a run from being trained twice:

- No job is submitted for a run while the job that the store records for it is queued or running.
- The process that trains holds a lock on the run's folder (`files.locked`), which the kernel releases when the process
  ends for any reason; a requeued job takes it again.

Refused: to submit while the state of a run's job is unknown.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.spec import MachineSpec, RunSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps.cluster import ClusterSpec, Job, active, clean_environment, executor_for, signals_ignored, slurm_queue
from replaylab.training import preemption
from replaylab.util.files import locked, write_text
from replaylab.util.processes import importing_torch, memory_gb, usable_cores
from replaylab.util.progress import report
from replaylab.util.text import printable

if TYPE_CHECKING:
    from replaylab.util.distributed import Rank

SECONDS_BETWEEN_ATTEMPTS = 1.0  # to take a slot
GB_OF_A_RUN = 3.0  # of memory, at most, that a tiny model's run needs


# ----------------------------------------------------------------------------------------------------------- the claim
@contextmanager
def claimed(spec: RunSpec, store: Path, rank: Rank, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a run; yields False if another process holds it and `wait` is off.

    Rank 0 takes the lock on behalf of all ranks.
    """
    from replaylab.util import distributed

    lock = locked(store / spec.run_id, wait) if rank.is_main else nullcontext(True)
    with lock as acquired:
        yield bool(distributed.broadcast_number(rank, int(acquired)))


def prepare(specs: Sequence[RunSpec], store: Path) -> None:
    """Compute the shared inputs of these runs if they are missing: domains, latents and references."""
    from replaylab.evaluation import evaluate
    from replaylab.models import pipelines
    from replaylab.training import fine_tuning

    bases = {spec.base: spec for spec in specs}
    loaded = {base: pipelines.load(spec, store) for base, spec in bases.items()}
    for spec in specs:
        evaluate.references(ReferenceSpec.of(spec), store, loaded[spec.base])
        fine_tuning.mixed_sources(loaded[spec.base], spec, store)


def build_domains(specs: Sequence[RunSpec], store: Path) -> None:
    """Render the domains of these runs that are missing."""
    from replaylab.worlds.build import build_domain

    for world in dict.fromkeys(world for spec in specs for world in spec.worlds):
        build_domain(world, store / "domains")


def is_prepared(specs: Sequence[RunSpec], store: Path) -> bool:
    """Whether domains and references exist. Latents are not checked: each chunk is encoded by the first job to need it."""
    from replaylab.worlds.build import is_built

    return all(
        Store(store).is_done(ReferenceSpec.of(spec))
        and all(is_built(world, store / "domains") for world in (spec.target, *spec.replay.domains))
        for spec in specs
    )


# ------------------------------------------------------------------------------------------------------- inside a job
@dataclass(frozen=True)
class Task:
    """What a job executes, pickled by submitit: the training of one run, or the preparation of several.

    Called whenever the job is started; `checkpoint` tells submitit what to call after a requeue.
    """

    specs: list[dict[str, Any]]
    store: str
    machine: dict[str, Any]
    prepares: bool = False
    threads: int = 0
    at_once: int = 0  # of local jobs; 0: no limit
    environment: dict[str, str] = field(default_factory=dict)  # to set; "" to remove

    def checkpoint(self) -> Any:
        """The task of a requeued job: the same, since all state is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        import submitit

        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value:
                os.environ[name] = value
        if self.threads:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
        job, store = submitit.JobEnvironment(), Path(self.store)
        _install_handlers(job)
        slot = _slot(store / "jobs", self.at_once) if self.at_once and job.global_rank == 0 else nullcontext()
        try:
            with slot:
                self.work(store, job)
        except Exception as error:
            # the requeue itself failed: submitit counts too many, or SLURM refused
            was_refused = isinstance(error, (submitit.core.utils.UncompletedJobError, subprocess.CalledProcessError))
            if preemption.requested() == preemption.EXIT and not was_refused:
                preemption.exit_now()  # the error is only that another rank has left
            if not self.prepares:
                _write_failure(store / RunSpec.from_dict(self.specs[0]).run_id, error)
            raise

    def work(self, store: Path, job: Any) -> None:
        """Compute the shared inputs, or train the one run, unless it belongs to another job or is done."""
        with importing_torch():
            from replaylab.training import fine_tuning
            from replaylab.util import distributed

        specs = [RunSpec.from_dict(plain) for plain in self.specs]
        if self.prepares:
            prepare(specs, store)
            return
        rank = distributed.this_rank()
        with claimed(specs[0], store, rank):
            if not distributed.broadcast_number(rank, _belongs_to_another_job(specs[0], store, job) if rank.is_main else 0):
                if rank.is_main:
                    (store / specs[0].run_id / "failed.txt").unlink(missing_ok=True)
                fine_tuning.train_one(self.specs[0], store, self.machine)


def _install_handlers(job: Any) -> None:
    """On submitit's signal the job exits by submitit's handler, which requeues it; on SIGTERM, before a kill, it saves."""
    signal_to_leave = getattr(signal, f"SIG{job.USR_SIG}")
    requeue = signal.getsignal(signal_to_leave)

    def leave() -> None:
        if job.global_rank > 0:
            sys.stdout.flush()
            sys.exit(0)  # another status could make SLURM kill rank 0 before it has requeued the job
        requeue(signal_to_leave, None)  # type: ignore[operator, misc]

    if job.cluster == "local":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a local job is stopped by `kill`
        preemption.install_handlers(leave, [], [signal_to_leave])
    else:
        preemption.install_handlers(leave, [signal.SIGTERM], [signal_to_leave])


@contextmanager
def _slot(folder: Path, at_once: int) -> Iterator[None]:
    """Hold one of `at_once` slots as soon as one is free."""
    while True:
        for number in range(at_once):
            with locked(folder / f"turn-{number}", wait=False) as acquired:
                if acquired:
                    yield
                    return
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _belongs_to_another_job(spec: RunSpec, store: Path, job: Any) -> int:
    """1 if a job that was submitted later has this run: an additional check for file systems without locks."""
    known = Job.read(spec, store)
    if known is None or job.cluster != "slurm" or known.id == job.job_id:
        return 0
    alive = known.cluster == "slurm" and bool((slurm_queue([known.id]) or {}).get(known.id))
    if alive:
        report(f"{spec.run_id} is trained by job {known.id}")
    return int(alive)


def _write_failure(folder: Path, error: Exception) -> None:
    """Record the error of the first rank that fails: the errors of the others are consequences of it."""
    path = folder / "failed.txt"
    with suppress(OSError):  # the store may be full
        if not path.exists():
            text = printable("".join(traceback.format_exception(error)))
            write_text(path, text)


# ------------------------------------------------------------------------------------------------------ outside of jobs
def submit(specs: Sequence[RunSpec], store: Path, machine: MachineSpec, cluster: str, settings: ClusterSpec) -> None:
    """Submit and record (`jobs/`) a job for each unfinished run without an active one; jobs continue after this process."""
    folder = store / "jobs"
    if "%" in str(folder):
        raise ValueError(
            f"store {store}: jobs cannot be kept in a path with '%', where SLURM puts numbers of the job; name another store"
        )
    if cluster == "local":  # one job measures the references while others train
        build_domains(specs, store)
    with locked(folder / "submission"), signals_ignored():
        known = {spec.run_id: Job.read(spec, store) for spec in specs}
        alive = active([job for job in known.values() if job])
        if alive is None:
            raise OSError(f"SLURM does not answer (squeue), and {folder} names jobs that may be alive: try again")
        with_jobs = {run for run, job in known.items() if job and job.id in alive}
        wanted = [spec for spec in specs if not Store(store).is_done(spec) and spec.run_id not in with_jobs]
        if len(wanted) < len(specs):
            report(f"{len(specs) - len(wanted)} runs have a job already, or are done: monitoring")
        if not wanted:
            return
        for spec in wanted:
            (store / spec.run_id / "failed.txt").unlink(missing_ok=True)
        with clean_environment():
            jobs = _submitted(wanted, store, machine, cluster, settings)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for spec, job in zip(wanted, jobs, strict=True):
            Job(cluster, job.job_id, socket.gethostname(), now).write(spec, store)
        report(f"submitted {len(jobs)} jobs ({cluster}: {_listed([job.job_id for job in jobs])}); logs are in {folder}")


def _submitted(
    specs: Sequence[RunSpec], store: Path, machine: MachineSpec, cluster: str, settings: ClusterSpec
) -> list[Any]:
    threads = settings.cpus_per_task or (1 if cluster == "slurm" else 0)
    machine = replace(machine, threads=settings.cpus_per_task or machine.threads)
    plain = [spec.as_dict() for spec in specs]
    executor = executor_for(store, cluster, settings, {})
    if cluster == "slurm" and not is_prepared(specs, store):
        one_task = {"nodes": 1, "tasks_per_node": 1}
        first = Task(plain, str(store), machine.as_dict(), prepares=True, threads=threads)
        job = executor_for(store, cluster, settings, one_task).submit(first)
        report(f"job {job.job_id} prepares domains, latents and references; the runs wait for it")
        # afterany: where it fails, the runs make what is missing, or fail with the reason
        others = settings.slurm.get("slurm_dependency")
        waiting = f"afterany:{job.job_id}" + (f",{others}" if others else "")
        executor = executor_for(store, cluster, settings, {"slurm_dependency": waiting})
    at_once, environment = _local_slots(settings, machine) if cluster == "local" else (0, {})
    with executor.batch():
        jobs = [
            executor.submit(Task([each], str(store), machine.as_dict(), False, threads, at_once, environment))
            for each in plain
        ]
    return jobs


def _local_slots(settings: ClusterSpec, machine: MachineSpec) -> tuple[int, dict[str, str]]:
    """The number of concurrent jobs, and the GPUs visible to this process: submitit hides all that were not requested."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return runs_at_once(settings, machine), {} if settings.gpus_per_node else {"CUDA_VISIBLE_DEVICES": visible}


def runs_at_once(settings: ClusterSpec, machine: MachineSpec) -> int:
    """The number of concurrent local jobs: as set, or as many as the cores and the free memory allow if the threads of a
    run are set, and one with a GPU or without such a setting.
    """
    threads = settings.cpus_per_task or machine.threads
    if settings.runs_at_once or not threads:
        return settings.runs_at_once or 1
    with importing_torch():
        import torch

    if torch.cuda.is_available():
        return 1
    _, free_gb = memory_gb() or (0.0, float("inf"))
    return max(1, int(min(usable_cores() / (threads * settings.tasks_per_node), free_gb / GB_OF_A_RUN)))


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids) if len(ids) <= 4 else f"{ids[0]} to {ids[-1]}"
