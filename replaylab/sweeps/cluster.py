"""The settings of a cluster (a YAML file), the record of a run's job, and the state of jobs.

Decision: the YAML file has short keys for common settings, and submitit's (`slurm_...`) for the rest. A store records
each run's job in `jobs/<run id>.json`; its state is read from SLURM's queue, since accounting is delayed and missing on many
clusters. Refused: keys without effect.
"""

from __future__ import annotations

import difflib
import json
import math
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
from replaylab.util import reading
from replaylab.util.files import write_text

MINUTES_WITHOUT_END = 60 * 24 * 365  # for local jobs
MAX_RESTARTS = 1000  # by the time limit; each continues from a checkpoint
NAME = "replaylab"  # of every job


@dataclass(frozen=True)
class ClusterSpec:
    """The resources of a run's job: the keys of the YAML file. Empty texts and zeros mean the cluster's own defaults."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    tasks_per_node: int = 1  # a run's ranks: one a GPU
    gpus_per_node: int = 0
    cpus_per_task: int = 0  # threads of a rank; 0: one under slurm, under local the preset's or torch's own choice
    time_minutes: int = 60
    memory_gb: float = 0.0  # a node
    runs_at_once: int = 0  # 0: no limit under slurm; under local as many as there are cores for, one if threads are unset
    slurm: dict[str, Any] = field(default_factory=dict)  # by submitit's names (`slurm_...`)

    @classmethod
    def read(cls, file: str | Path, cluster: str) -> ClusterSpec:
        """Settings from a YAML file, or the defaults without one.

        Raises ValueError, with the key and the valid ones, for a key that is unknown or has no effect, or a
        value of the wrong type, and FileNotFoundError.
        """
        if not str(file):
            return cls()
        path = reading.expanded(file)
        if cluster == "inline":
            raise ValueError(f"{path} says how to use a cluster, and cluster is 'inline': name local or slurm, or no file")
        options = reading.yaml_object(path)
        own: dict[str, Any] = {}
        slurm: dict[str, Any] = {}
        for key, value in options.items():
            _check_key(path, str(key), value, cluster)
            (slurm if str(key).startswith("slurm_") else own)[key] = value
        return cls(**own, slurm=slurm)

    @property
    def ranks(self) -> int:
        """The number of processes that train a run together."""
        return self.nodes * self.tasks_per_node


KEY_TYPES = {each.name: type(each.default) for each in fields(ClusterSpec) if each.name != "slurm"}
VALID_KEYS = {"local": ("tasks_per_node", "gpus_per_node", "cpus_per_task", "runs_at_once"), "slurm": tuple(KEY_TYPES)}


def _fits_slurm(kind: str, value: object) -> bool:
    """Whether a value has the type of submitit's annotation, given as text."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if "Dict" in kind:
        return isinstance(value, dict) and all(
            isinstance(name, str) and isinstance(each, str | int | float | bool) for name, each in value.items()
        )
    if "List" in kind or "Iterable" in kind:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if "str" in kind:  # SLURM's texts may be numbers, such as memory
        return isinstance(value, str) or is_number or ("bool" in kind and isinstance(value, bool))
    return isinstance(value, bool) if "bool" in kind else is_number


def _check_key(path: Path, key: str, value: object, cluster: str) -> None:
    of_slurm = _slurm_options() if cluster == "slurm" else {}
    valid = [*VALID_KEYS[cluster], *of_slurm]
    if key not in valid:
        near = difflib.get_close_matches(key, valid, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        unheeded = f"cluster {cluster!r} has no use for" if key in KEY_TYPES else "unknown key"
        raise ValueError(f"{path}: {unheeded} {key!r}{meant}; valid keys are {', '.join(valid)}")
    if key in of_slurm and not _fits_slurm(of_slurm[key], value):
        raise ValueError(f"{path}: {key} is {reading.shown(value)}; submitit takes {_in_words(of_slurm[key])}")
    kind = KEY_TYPES.get(key)
    if kind is not None:
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits or (kind is not str and not 0 <= value < math.inf):  # type: ignore[operator]
            words = "text" if kind is str else f"a number ({kind.__name__}) from 0 up"
            raise ValueError(f"{path}: {key} is {reading.shown(value)}; it must be {words}")
        if key in ("nodes", "tasks_per_node", "time_minutes") and value == 0:
            raise ValueError(f"{path}: {key} is 0; it must be at least 1")


def _in_words(kind: str) -> str:
    for part, words in (
        ("Dict", "keys with values, such as {mem-bind: local}"), ("List", "a list of texts"),
        ("Iterable", "a list of texts"), ("bool, str", "true, false or a text"), ("str", "a text"),
        ("bool", "true or false"),
    ):  # fmt: skip
        if part in kind:
            return words
    return "a whole number from 0 up"


def _slurm_options() -> dict[str, str]:
    """Submitit's options, as keys of the file: name -> annotation of its type."""
    import inspect

    from submitit.slurm import slurm
    from submitit.slurm.slurm import SlurmExecutor

    with_keys_of_our_own = {"partition", "account", "qos", "nodes", "ntasks_per_node", "gpus_per_node", "cpus_per_task",
                      "time", "mem", "array_parallelism", "num_gpus", "job_name", "stderr_to_stdout"}  # fmt: skip
    kinds = {name: str(one.annotation) for name, one in inspect.signature(slurm._make_sbatch_string).parameters.items()}
    kinds |= {"max_num_timeout": "int"}
    names = sorted({*SlurmExecutor._valid_parameters(), "max_num_timeout"} - with_keys_of_our_own)
    return {f"slurm_{name}": kinds[name] for name in names}


# ------------------------------------------------------------------------------------------------------ state of jobs
@dataclass(frozen=True)
class Job:
    """The store's record of a job that was submitted for a run."""

    cluster: str
    id: str
    host: str  # of a local job
    submitted: str  # time in UTC

    @classmethod
    def read(cls, spec: RunSpec, store: Path) -> Job | None:
        """The recorded job of a run; None if there is none, or its file cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(cls.file(spec, store).read_text()))
        return None

    @staticmethod
    def file(spec: RunSpec, store: Path) -> Path:
        """The record's path: `jobs/<run id>.json`."""
        return store / "jobs" / f"{spec.run_id}.json"

    def write(self, spec: RunSpec, store: Path) -> None:
        """Write the record atomically."""
        write_text(self.file(spec, store), json.dumps(self.__dict__))

    def log(self, store: Path) -> Path:
        """The path of the job's standard error."""
        from submitit.core.utils import JobPaths

        return JobPaths(store / "jobs", self.id).stderr

    def is_running_here(self) -> bool:
        """Whether a local job's process is alive on this host."""
        command = Path(f"/proc/{self.id}/cmdline")
        if self.host != socket.gethostname():
            return False
        if Path("/proc/self").exists():  # the id may since have gone to another process
            with suppress(OSError):
                return b"submitit" in command.read_bytes()
            return False
        try:
            os.kill(int(self.id), 0)
        except OSError:
            return False
        return True


def slurm_queue(ids: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """The state of the jobs that are queued or running: id -> (state, reason). None if SLURM does not respond.

    squeue is used instead of sacct: it is up to date, and always lists a job that is being requeued.
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


def active(jobs: Sequence[Job]) -> dict[str, tuple[str, str]] | None:
    """The state of the jobs that are queued or running, also local ones, as `slurm_queue`; None if it is unknown."""
    local = {job.id: ("RUNNING", "") for job in jobs if job.cluster == "local" and job.is_running_here()}
    slurm_ids = [job.id for job in jobs if job.cluster == "slurm"]
    queue = slurm_queue(slurm_ids) if slurm_ids else {}
    return None if queue is None else local | queue


# --------------------------------------------------------------------------------------------------------- dispatching
def executor_for(store: Path, cluster: str, settings: ClusterSpec, changes: dict[str, Any]) -> Any:
    """submitit's executor with these settings; under slurm `changes`, by submitit's names, override them."""
    import submitit

    slurm = dict(settings.slurm)
    restarts = slurm.pop("slurm_max_num_timeout", MAX_RESTARTS)
    options = {
        "name": NAME, "nodes": settings.nodes, "tasks_per_node": settings.tasks_per_node,
        "gpus_per_node": settings.gpus_per_node or None,
    }  # fmt: skip
    if cluster == "local":
        executor = submitit.AutoExecutor(store / "jobs", cluster="local", local_max_num_timeout=MAX_RESTARTS)
        executor.update_parameters(**options, timeout_min=MINUTES_WITHOUT_END)
        return executor
    executor = submitit.AutoExecutor(store / "jobs", cluster="slurm", slurm_max_num_timeout=restarts)
    threads = settings.cpus_per_task or 1
    options |= {
        "timeout_min": settings.time_minutes, "cpus_per_task": threads, "mem_gb": settings.memory_gb or None,
        "slurm_partition": settings.partition or None, "slurm_account": settings.account or None,
        "slurm_qos": settings.qos or None, "slurm_array_parallelism": settings.runs_at_once or None,
        **slurm, **changes,
    }  # fmt: skip
    # after node failure and preemption too, whatever the cluster's default
    options["slurm_additional_parameters"] = {"requeue": True} | (slurm.get("slurm_additional_parameters") or {})
    # since 22.05 srun does not inherit sbatch's
    options["slurm_srun_args"] = [f"--cpus-per-task={threads}", *(slurm.get("slurm_srun_args") or [])]
    executor.update_parameters(**options)
    return executor


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Context in which SIGINT and SIGHUP are ignored, also by all processes started in it."""
    signals = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    try:
        before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    except ValueError:  # not the main thread, which alone handles signals
        yield
        return
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


@contextmanager
def clean_environment() -> Iterator[None]:
    """Context without the variables of this process's own SLURM job: jobs submitted in it do not inherit them."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield
