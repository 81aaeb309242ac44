"""Who trains a run, and only once?

Decision: submitit dispatches, one job a run, and only specs travel: a job that is started again, by whomever, reads the
store and goes on from there. Two things keep a run from being trained twice:

- While the job that the store remembers for a run is queued or at work, nobody submits another.
- A claim is the kernel's lock on the run's folder (`files.locked`), taken by the process that trains and released when
  that process ends, however it ends: it cannot outlive its owner, and a requeued job takes it anew.

Refused: to submit where it is not known whether a run's job is alive.
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
from replaylab.sweeps.cluster import ClusterSpec, Job, ask_slurm, executor_for, outside_of_a_job, states, undisturbed
from replaylab.training import preemption
from replaylab.util.files import locked, write_text
from replaylab.util.progress import report

if TYPE_CHECKING:
    from replaylab.util.distributed import Rank

SECONDS_BETWEEN_TRIES = 1.0  # for a turn


# ----------------------------------------------------------------------------------------------------------- the claim
@contextmanager
def claimed(spec: RunSpec, store: Path, rank: Rank, wait: bool = True) -> Iterator[bool]:
    """Inside, no other process trains this run; False comes out where one does and is not waited for.

    The leading rank claims, for all.
    """
    from replaylab.util import distributed

    turn = locked(store / spec.run_id, wait) if rank.is_main else nullcontext(True)
    with turn as mine:
        yield bool(distributed.broadcast_number(rank, int(mine)))


def prepare(specs: Sequence[RunSpec], store: Path) -> None:
    """Make what these runs share: worlds, latents, floors and bases. What is there is left alone."""
    from replaylab.evaluation import evaluate
    from replaylab.models import pipelines
    from replaylab.training import fine_tuning

    bases = {spec.base: spec for spec in specs}
    loaded = {base: pipelines.load(spec, store) for base, spec in bases.items()}
    for spec in specs:
        evaluate.references(ReferenceSpec.of(spec), store, loaded[spec.base])
        fine_tuning.mixed_sources(loaded[spec.base], spec, store)


def is_prepared(specs: Sequence[RunSpec], store: Path) -> bool:
    """Whether the long parts are there; of latents each chunk is made by one job, whoever comes first."""
    from replaylab.worlds.build import is_built

    return all(
        Store(store).is_done(ReferenceSpec.of(spec))
        and all(is_built(world, store / "domains") for world in (spec.target, *spec.replay.domains))
        for spec in specs
    )


# ------------------------------------------------------------------------------------------------------- inside a job
@dataclass(frozen=True)
class Task:
    """What travels to a job, as plain JSON, and is called there: trains a run, or prepares for several.

    Called as often as the job is started; submitit asks `checkpoint` what to call next time.
    """

    specs: list[dict[str, Any]]
    store: str
    machine: dict[str, Any]
    prepares: bool = False
    threads: int = 0
    at_once: int = 0  # local jobs take turns
    environment: dict[str, str] = field(default_factory=dict)  # to set; "" to remove

    def checkpoint(self) -> Any:
        """What submitit calls before it is stopped: the same task again, since all state is on disk."""
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
        _listen(job)
        turn = _turn(store / "jobs", self.at_once) if self.at_once and job.global_rank == 0 else nullcontext()
        try:
            with turn:
                self.work(store, job)
        except Exception as error:
            # to be started again: too often by submitit's count, or SLURM said no
            was_refused = isinstance(error, (submitit.core.utils.UncompletedJobError, subprocess.CalledProcessError))
            if preemption.requested() == preemption.EXIT and not was_refused:
                preemption.exit_now()  # this is what it looks like when another rank has left
            if not self.prepares:
                _write_failure(store / RunSpec.from_dict(self.specs[0]).run_id, error)
            raise

    def work(self, store: Path, job: Any) -> None:
        """Make what runs share, or train the one run, unless another job has the run or it is done."""
        from replaylab.training import fine_tuning
        from replaylab.util import distributed

        specs = [RunSpec.from_dict(plain) for plain in self.specs]
        if self.prepares:
            prepare(specs, store)
            return
        rank = distributed.this_rank()
        with claimed(specs[0], store, rank):
            if not distributed.broadcast_number(rank, _is_for_another(specs[0], store, job) if rank.is_main else 0):
                if rank.is_main:
                    (store / specs[0].run_id / "failed.txt").unlink(missing_ok=True)
                fine_tuning.train_one(self.specs[0], store, self.machine)


def _listen(job: Any) -> None:
    """Leave by submitit's handler, which asks SLURM to start this job again. SIGTERM comes before a kill: save."""
    signal_to_leave = getattr(signal, f"SIG{job.USR_SIG}")
    requeue = signal.getsignal(signal_to_leave)

    def go() -> None:
        if job.global_rank > 0:
            sys.stdout.flush()
            sys.exit(0)  # anything else could make SLURM end the leading rank before it has asked
        requeue(signal_to_leave, None)  # type: ignore[operator, misc]

    if job.cluster == "local":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # `kill` is all there is to stop it with
        preemption.install_handlers(go, [], [signal_to_leave])
    else:
        preemption.install_handlers(go, [signal.SIGTERM], [signal_to_leave])


@contextmanager
def _turn(folder: Path, at_once: int) -> Iterator[None]:
    """One of so many turns, as soon as one is free."""
    while True:
        for number in range(at_once):
            with locked(folder / f"turn-{number}", wait=False) as mine:
                if mine:
                    yield
                    return
        time.sleep(SECONDS_BETWEEN_TRIES)


def _is_for_another(spec: RunSpec, store: Path, job: Any) -> int:
    """Whether a job that was submitted later is to train this run: the second defence, where locks are none."""
    known = Job.of(spec, store)
    if known is None or job.cluster != "slurm" or known.id == job.job_id:
        return 0
    alive = known.cluster == "slurm" and bool((ask_slurm([known.id]) or {}).get(known.id))
    if alive:
        report(f"{spec.run_id} is left to job {known.id}")
    return int(alive)


def _write_failure(folder: Path, error: Exception) -> None:
    """The first rank that fails says why: the others' errors are that it is gone."""
    path = folder / "failed.txt"
    with suppress(OSError):  # the store may be full
        if not path.exists():
            text = "".join(traceback.format_exception(error))
            write_text(path, text)


# ------------------------------------------------------------------------------------------------------ outside of jobs
def submit(specs: Sequence[RunSpec], store: Path, machine: MachineSpec, cluster: str, settings: ClusterSpec) -> None:
    """A job for each of the runs that has none: all that go on after this process, and how to find them again."""
    folder = store / "jobs"
    if cluster == "local" and not is_prepared(specs, store):
        prepare(specs, store)
    with locked(folder / "submission"), undisturbed():
        known = {spec.run_id: Job.of(spec, store) for spec in specs}
        alive = states([job for job in known.values() if job])
        if alive is None:
            raise OSError(f"SLURM does not answer (squeue), and {folder} names jobs that may be alive: try again")
        wanted = [spec for spec in specs if not Store(store).is_done(spec) and _id(known[spec.run_id]) not in alive]
        if len(wanted) < len(specs):
            report(f"{len(specs) - len(wanted)} runs have a job already: looking on")
        if not wanted:
            return
        for spec in wanted:
            (store / spec.run_id / "failed.txt").unlink(missing_ok=True)
        with outside_of_a_job():
            jobs = _submitted(wanted, store, machine, cluster, settings)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for spec, job in zip(wanted, jobs, strict=True):
            Job(cluster, job.job_id, socket.gethostname(), now).keep(spec, store)
        report(f"submitted {len(jobs)} jobs ({cluster}: {_names([job.job_id for job in jobs])}); logs are in {folder}")


def _id(job: Job | None) -> str:
    return job.id if job else ""


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
        report(f"job {job.job_id} prepares worlds, latents and floors; the runs wait for it")
        # whatever becomes of it: the runs make what is missing, or say why it cannot be made
        others = settings.slurm.get("slurm_dependency")
        waiting = f"afterany:{job.job_id}" + (f",{others}" if others else "")
        executor = executor_for(store, cluster, settings, {"slurm_dependency": waiting})
    at_once, environment = _of_local_jobs(cluster, settings)
    with executor.batch():
        jobs = [
            executor.submit(Task([each], str(store), machine.as_dict(), False, threads, at_once, environment))
            for each in plain
        ]
    return jobs


def _of_local_jobs(cluster: str, settings: ClusterSpec) -> tuple[int, dict[str, str]]:
    """How many take a turn at once, and the GPUs that this process sees: submitit hides all that were not asked for."""
    if cluster != "local":
        return 0, {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return settings.runs_at_once or 1, {} if settings.gpus_per_node else {"CUDA_VISIBLE_DEVICES": visible}


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids) if len(ids) <= 4 else f"{ids[0]} to {ids[-1]}"
