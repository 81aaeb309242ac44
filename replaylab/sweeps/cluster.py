"""What is a cluster here, and what does it say of its jobs?

Decision: a small YAML file says what a job gets, in words of our own for what everybody sets, and in submitit's
(`slurm_...`) for the rest. The store remembers each run's job, `jobs/<run id>.json`, and SLURM's queue is asked what
became of it: accounts lag, and many clusters keep none. Refused: options that would not be heeded.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from replaylab.spec import RunSpec
from replaylab.util.files import write_text

MINUTES_WITHOUT_END = 60 * 24 * 365  # for local jobs
INTERRUPTIONS = 1000  # a job may run into its time limit so often: each time it has come further
NAME = "replaylab"  # of every job


@dataclass(frozen=True)
class ClusterSpec:
    """What a run gets of a cluster: the keys of the YAML file. Empty texts and zeros mean the cluster's own."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    tasks_per_node: int = 1  # a run's ranks: one a GPU
    gpus_per_node: int = 0
    cpus_per_task: int = 0  # threads of a rank; 0: one under slurm, torch's own choice under local
    time_minutes: int = 60
    memory_gb: float = 0.0  # a node
    runs_at_once: int = 0  # 0: as many as the cluster lets, under local one
    slurm: dict[str, Any] = field(default_factory=dict)  # the free options, by submitit's names (`slurm_...`)

    @classmethod
    def read(cls, file: str | Path, cluster: str) -> ClusterSpec:
        """From a YAML file, or the defaults where none is named.

        Raises ValueError, with the key and the valid ones, for a key that is unknown or would not be heeded, or a
        value of the wrong kind, and FileNotFoundError.
        """
        if not str(file):
            return cls()
        import yaml

        path = Path(file).expanduser()
        if cluster == "inline":
            raise ValueError(f"{path} says how to use a cluster, and cluster is 'inline': name local or slurm, or no file")
        try:
            found = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path} must hold keys with values, such as `partition: gpu`; got {found!r}")
        plain: dict[str, Any] = {}
        free: dict[str, Any] = {}
        for key, value in found.items():
            _check_key(path, str(key), value, cluster)
            (free if key.startswith("slurm_") else plain)[key] = value
        return cls(**plain, slurm=free)

    @property
    def ranks(self) -> int:
        """How many processes train a run together."""
        return self.nodes * self.tasks_per_node


KINDS = {each.name: type(each.default) for each in fields(ClusterSpec) if each.name != "slurm"}
HEEDED = {"local": ("tasks_per_node", "gpus_per_node", "cpus_per_task", "runs_at_once"), "slurm": tuple(KINDS)}


def _check_key(path: Path, key: str, value: object, cluster: str) -> None:
    valid = [*HEEDED[cluster], *(_slurm_options() if cluster == "slurm" else ())]
    if key not in valid:
        near = difflib.get_close_matches(key, valid, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        unheeded = f"cluster {cluster!r} does not heed" if key in KINDS else "unknown key"
        raise ValueError(f"{path}: {unheeded} {key!r}{meant}; valid keys are {', '.join(valid)}")
    kind = KINDS.get(key)
    if kind is not None:
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits or (kind is not str and value < 0):  # type: ignore[operator]
            words = "text" if kind is str else f"a number ({kind.__name__}) from 0 up"
            raise ValueError(f"{path}: {key} is {value!r}; it must be {words}")
        if key in ("nodes", "tasks_per_node", "time_minutes") and value == 0:
            raise ValueError(f"{path}: {key} is 0; it must be at least 1")


def _slurm_options() -> list[str]:
    from submitit.slurm.slurm import SlurmExecutor

    said_otherwise = {"partition", "account", "qos", "nodes", "ntasks_per_node", "gpus_per_node", "cpus_per_task",
                      "time", "mem", "array_parallelism", "num_gpus", "job_name", "stderr_to_stdout"}  # fmt: skip
    return [f"slurm_{name}" for name in sorted({*SlurmExecutor._valid_parameters(), "max_num_timeout"} - said_otherwise)]


# ----------------------------------------------------------------------------------------------------- what it says
@dataclass(frozen=True)
class Job:
    """A job that was submitted for a run, as the store remembers it."""

    cluster: str
    id: str
    host: str  # of a local job
    submitted: str  # when, in UTC

    @classmethod
    def of(cls, spec: RunSpec, store: Path) -> Job | None:
        """The job that the store remembers for a run; None where there is none, or its file cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(cls.file(spec, store).read_text()))
        return None

    @staticmethod
    def file(spec: RunSpec, store: Path) -> Path:
        """Where the store keeps it: `jobs/<run id>.json`."""
        return store / "jobs" / f"{spec.run_id}.json"

    def keep(self, spec: RunSpec, store: Path) -> None:
        """Write it there, whole or not at all."""
        text = json.dumps(self.__dict__)
        write_text(self.file(spec, store), text)

    def log(self, store: Path) -> Path:
        """What the job wrote to its error stream: the file's path."""
        from submitit.core.utils import JobPaths

        return JobPaths(store / "jobs", self.id).stderr

    def is_here(self) -> bool:
        """Whether a local job is still there."""
        command = Path(f"/proc/{self.id}/cmdline")
        if self.host != socket.gethostname():
            return False
        if Path("/proc/self").exists():  # a number may have become another process's
            with suppress(OSError):
                return b"submitit" in command.read_bytes()
            return False
        try:
            os.kill(int(self.id), 0)
        except OSError:
            return False
        return True


def ask_slurm(ids: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """Those of the jobs that are queued or running: id -> (state, reason). None if SLURM does not answer.

    The queue, not the accounts: it lags behind nothing, and a job that is being requeued never leaves it.
    """
    arrays = sorted({each.split("_")[0] for each in ids})
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return {} if "Invalid job id" in done.stderr else None
    parts = (line.split("|", 2) for line in done.stdout.splitlines())
    return {job: (state, reason) for job, state, reason in parts if job in ids}


def states(jobs: Sequence[Job]) -> dict[str, tuple[str, str]] | None:
    """Those that will still come to an end, as `ask_slurm`; None if that is not known now."""
    here = {job.id: ("RUNNING", "") for job in jobs if job.cluster == "local" and job.is_here()}
    elsewhere = [job.id for job in jobs if job.cluster == "slurm"]
    found = ask_slurm(elsewhere) if elsewhere else {}
    return None if found is None else here | found


# --------------------------------------------------------------------------------------------------------- dispatching
def executor_for(store: Path, cluster: str, settings: ClusterSpec, changes: dict[str, Any]) -> Any:
    """submitit's executor as the cluster's file wants it; under slurm `changes`, in submitit's words, go over the file."""
    import submitit

    free = dict(settings.slurm)
    times = free.pop("slurm_max_num_timeout", INTERRUPTIONS)
    options = {
        "name": NAME, "nodes": settings.nodes, "tasks_per_node": settings.tasks_per_node,
        "gpus_per_node": settings.gpus_per_node or None,
    }  # fmt: skip
    if cluster == "local":
        made = submitit.AutoExecutor(store / "jobs", cluster="local", local_max_num_timeout=INTERRUPTIONS)
        made.update_parameters(**options, timeout_min=MINUTES_WITHOUT_END)
        return made
    made = submitit.AutoExecutor(store / "jobs", cluster="slurm", slurm_max_num_timeout=times)
    threads = settings.cpus_per_task or 1
    options |= {
        "timeout_min": settings.time_minutes, "cpus_per_task": threads, "mem_gb": settings.memory_gb or None,
        "slurm_partition": settings.partition or None, "slurm_account": settings.account or None,
        "slurm_qos": settings.qos or None, "slurm_array_parallelism": settings.runs_at_once or None,
        **free, **changes,
    }  # fmt: skip
    # whatever the cluster's default is, for node failures and preemption
    options["slurm_additional_parameters"] = {"requeue": True} | (free.get("slurm_additional_parameters") or {})
    # since 22.05 srun does not take over what sbatch was told
    options["slurm_srun_args"] = [f"--cpus-per-task={threads}", *(free.get("slurm_srun_args") or [])]
    made.update_parameters(**options)
    return made


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and a closed terminal do nothing here, nor to processes that are started here, to their end."""
    signals = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    try:
        before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Where this process is a job itself: what it submits must not inherit its tasks."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield
