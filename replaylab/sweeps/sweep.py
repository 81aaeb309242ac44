"""Sweeps: the runs of a grid are read from a store, and missing ones are trained.

Decision: missing runs are trained in this process (`inline`) or by jobs (`local` processes or `slurm`, see `jobs`), each by
one process, for any number of sweeps with the same store. Repeating a call trains nothing twice and resumes monitoring of
the submitted jobs. A failed run becomes a row with its reason; the others continue. Reading imports no torch.

Refused: to train in the published store, which is read-only.
"""

from __future__ import annotations

import math
import os
import shlex
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd

from replaylab.catalogue import PUBLISHED
from replaylab.spec import CLUSTERS, MachineSpec, RunSpec
from replaylab.store import ReferenceSpec, Store, check_store, published_folder, store_of
from replaylab.sweeps import ablations, jobs, monitor
from replaylab.sweeps.cluster import ClusterSpec, Job, active
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.util.files import write_text
from replaylab.util.processes import importing_torch, usable_cores
from replaylab.util.progress import report
from replaylab.util.text import counted, duration, printable


@dataclass(frozen=True)
class Table:
    """The state of a sweep: `rows` of finished runs and references, and `runs` with a row for each run of the grid."""

    preset: str
    split: str
    store: Path
    rows: pd.DataFrame
    runs: pd.DataFrame
    specs: tuple[RunSpec, ...]


def run(
    preset: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None,
    cluster: str = "inline", store: str | Path = "", budget: str = "steps", machine: MachineSpec | None = None,
    cluster_file: str | Path = "", dry_run: bool = False, measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    """Read the grid of a preset from a store, and train missing runs (never in the published store).

    Empty lists and texts mean the preset's own values, as does a missing `machine`, the settings of execution; `budget` as
    in `presets.grid`, `cluster_file` (YAML, `cluster.ClusterSpec`): the resources of a job. A dry run reports the runs to be
    trained and their cost, trains nothing and reads no rows. The table has the rows of `measures`, or all. Raises
    ValueError for an unknown preset, fraction, budget, cluster or key of the file or a run folder whose spec differs,
    PermissionError for a store that cannot be written. Ctrl-C stops monitoring; jobs continue, and the same call resumes it.
    """
    root = store_of(preset, store)
    specs = _specs(preset, replay_fractions, seeds, budget, root)
    resume_hint = _resume_command(preset, replay_fractions, seeds, cluster, root, budget, cluster_file)
    if preset in PUBLISHED and not str(store):
        _settings(cluster, cluster_file)  # nothing is trained, but invalid settings are still refused
        missing = _missing(specs, root)
        if missing:
            report(
                f"{len(missing)} of {len(specs)} published runs are not in {root}; to train them, name a store of your own"
            )
        return _table(preset, specs, root, set(), {}, measures=measures)
    machine = machine or PRESETS[preset].execution
    return run_specs(preset, specs, root, cluster, machine, cluster_file, dry_run, resume_hint, measures)


def run_specs(
    name: str, specs: list[RunSpec], root: Path, cluster: str, machine: MachineSpec, cluster_file: str | Path,
    dry_run: bool, resume_hint: str, measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    """`run` for any list of runs, in the store `root`; `resume_hint` says how to resume monitoring of continuing jobs."""
    settings, specs = _settings(cluster, cluster_file), _once(specs)
    missing = _missing(specs, root)
    failed: dict[str, str] = {}
    trained: set[str] = set()
    present = f"{len(specs) - len(missing)} of {len(specs)} runs are in {root}; "
    comparable = specs if len(missing) < len(specs) else _of_preset(name, root)
    if dry_run:
        report(
            f"{present}{len(missing)} would be trained. {estimate(missing, root, comparable, cluster, settings, machine)}"
        )
        return _table(name, specs, root, set(), {}, _active(missing, root), ())
    if missing and machine.tracker:
        from replaylab.training import trackers

        trackers.check(machine.tracker)
    if missing and cluster == "inline":
        check_store(root)
        report(f"{present}training {len(missing)}. {estimate(missing, root, comparable, cluster, settings, machine)}")
        failed, trained = _inline(missing, root, machine)
    elif missing:
        check_store(root)
        said = f". {estimate(missing, root, comparable, cluster, settings, machine)}" if cluster == "local" else ""
        report(f"{present}{len(missing)} are for jobs ({cluster}){said}")
        jobs.submit(missing, root, machine, cluster, settings)
        failed = monitor.watch(specs, root, resume_hint)
        trained = {spec.run_id for spec in missing}
    else:
        report(f"all {len(specs)} runs are in {root}: trained nothing")
    _measure_lost_references(specs, root)
    _compare_weights(trained, Store(root), Store(published_folder()))
    return _table(name, specs, root, trained, failed, measures=measures)


def _measure_lost_references(specs: list[RunSpec], root: Path) -> None:
    """Measure deleted references of finished runs again, in this process: without them no value can be read."""
    results = Store(root)
    lost = {ReferenceSpec.of(spec): spec for spec in specs if results.is_done(spec)}
    for references in [one for one in lost if not results.is_done(one)]:
        check_store(root)
        report(f"{root / references.run_id} is missing under finished runs: measuring it again")
        with importing_torch():
            from replaylab.evaluation import evaluate

        evaluate.references(references, root)


def _compare_weights(trained: Collection[str], here: Store, published: Store) -> None:
    """Report whether trained runs that are published too have the published weights, to the bit."""
    try:
        both = {run: (here.weights_sha256(run), published.weights_sha256(run)) for run in trained}
    except (OSError, ValueError) as error:  # what was trained is whole all the same
        report(f"weights are not compared with the published ones: {error}")
        return
    known = {run: digests for run, digests in both.items() if all(digests)}
    others = sorted(run for run, (trained_now, published_then) in known.items() if trained_now != published_then)
    if known:
        same = f"{len(known) - len(others)} of {counted(len(known), 'published run')} ended in the same weights, to the bit"
        report(same + f"; not {', '.join(others)}: another processor or version rounds otherwise" * bool(others))


def read(
    preset: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None, store: str | Path = "",
    budget: str = "steps", measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    """The grid with its runs in a store; nothing is trained. The table has the rows of `measures`, or all.

    Other arguments, and errors, as in `run`.
    """
    root = store_of(preset, store)
    specs = _specs(preset, replay_fractions, seeds, budget, root)
    missing = _missing(specs, root)
    done = {spec.run_id for spec in specs} - {spec.run_id for spec in missing}
    return _table(preset, specs, root, set(), {}, _active(missing, root), measures, done)


def _specs(
    preset: str, replay_fractions: list[float] | None, seeds: list[int] | None, budget: str, root: Path
) -> list[RunSpec]:
    """Every run of a preset, once; ablations have variations instead of fractions."""
    if preset not in ablations.PRESETS:
        return _once(grid(preset, replay_fractions, seeds, budget))
    if replay_fractions or budget != "steps":
        raise ValueError(f"preset {preset!r} has variations of its own: give it no replay fractions and no budget")
    return _once(ablations.grid(preset, seeds or (), root))


def _once(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Each run once, in the given order: clips of a repeated run would count twice."""
    return list({spec.run_id: spec for spec in specs}.values())


def _settings(cluster: str, cluster_file: str | Path) -> ClusterSpec:
    """The resources of a job; raises ValueError for an unknown cluster or key of the file."""
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster {cluster!r} is none of {', '.join(CLUSTERS)}")
    return ClusterSpec.read(cluster_file, cluster)


def _missing(specs: list[RunSpec], root: Path) -> list[RunSpec]:
    return [spec for spec in specs if not Store(root).is_done(spec)]


def _of_preset(name: str, root: Path) -> list[RunSpec]:
    """All runs of a preset; none if the name is not a preset, or if its runs are not determined yet."""
    try:
        return _specs(name, None, None, "steps", root) if name in PRESETS else []
    except FileNotFoundError:
        return []


def estimate(
    missing: list[RunSpec], store: Path, comparable: list[RunSpec], cluster: str, settings: ClusterSpec,
    machine: MachineSpec = MachineSpec(),
) -> str:  # fmt: skip
    """Predicted cost of the missing runs, from comparable runs that are finished or from a few steps timed here."""
    if not missing:
        return "Estimated: nothing"
    if cluster == "local":  # as its jobs do
        machine = replace(machine, threads=settings.cpus_per_task or machine.threads)
    steps, results = sum(spec.training.steps for spec in missing), Store(store)
    finished = [
        (results.summary(spec.run_id)["seconds"], spec.training.steps) for spec in _once(comparable) if results.is_done(spec)
    ]
    if finished:
        seconds = steps * median(took / of_steps for took, of_steps in finished)
        how = f"from the {len(finished)} that are done"
    else:
        with importing_torch():
            from replaylab.training import fine_tuning

        (load, *_), cores = os.getloadavg(), os.cpu_count() or 1  # before the timing, which adds to the load
        seconds, how = fine_tuning.estimate_seconds(missing, store, machine), "timed on this machine"
        if load >= cores:
            how += f" while it does other work (load {load:.1f} on {cores} cores): alone it is faster"
    of_all = f"{how} ({len(missing)} runs, {steps} steps)"
    if cluster == "slurm":
        return f"Estimated: {seconds / 60:.0f} min, {of_all}. {_cost(seconds, len(missing), settings)}"
    hours = seconds / 3600 * (machine.threads or usable_cores())
    if cluster == "local":
        at_once = min(jobs.runs_at_once(settings, machine), len(missing))
        seconds *= math.ceil(len(missing) / at_once) / len(missing)
        of_all = f"{at_once} at once, {of_all}"
    return f"Estimated: {seconds / 60:.0f} min, {of_all}; {hours:.1f} core hours"


def _cost(seconds: float, runs: int, settings: ClusterSpec) -> str:
    """The cost on a SLURM cluster whose machines are as fast as this one."""
    hours, each = seconds / 3600, seconds / runs
    gpus = settings.nodes * settings.gpus_per_node
    cores = settings.ranks * (settings.cpus_per_task or 1)
    text = f"If a job is as fast: {duration(each)} per run, " + (
        f"{hours * gpus:.1f} GPU hours" if gpus else f"{hours * cores:.1f} core hours"
    )
    limit = 60 * settings.time_minutes
    if each > limit - 90:
        text += (
            f"; that is more than time_minutes, {settings.time_minutes}: a run is stopped, started again and goes on, about "
            f"{each // limit:.0f} times"
        )
    return text


def _active(missing: list[RunSpec], store: Path) -> dict[str, str]:
    """Run id -> queued or running, of the runs that have a job."""
    known = {spec.run_id: job for spec in missing if (job := Job.read(spec, store))}
    alive = active(list(known.values())) or {}
    return {run: "queued" if alive[job.id][0] == "PENDING" else "running" for run, job in known.items() if job.id in alive}


def _resume_command(
    preset: str, replay_fractions: list[float] | None, seeds: list[int] | None, cluster: str, store: Path, budget: str,
    cluster_file: str | Path,
) -> str:  # fmt: skip
    """How to make the same call again."""
    words = [*f"python -m replaylab sweep --preset {preset} --cluster {cluster} --store".split(), str(store)]
    for option, values in (("--replay-fractions", replay_fractions), ("--seeds", seeds)):
        words += [option, *(f"{value:g}" for value in values)] if values else []
    words += ["--budget", budget] if budget != "steps" else []
    words += ["--cluster-file", str(cluster_file)] if str(cluster_file) else []
    return f"call the same again, or `{shlex.join(words)}`"


def _inline(missing: list[RunSpec], store: Path, machine: MachineSpec) -> tuple[dict[str, str], set[str]]:
    """Train here; returns the reasons of failures, and the trained runs. Runs trained by other processes come last."""
    with importing_torch():
        from replaylab.training import fine_tuning
        from replaylab.util import distributed

    failed: dict[str, str] = {}
    trained: set[str] = set()
    rank = distributed.this_rank()

    def train(spec: RunSpec, wait: bool) -> bool:
        """Returns False if another process trains the run and `wait` is off."""
        try:
            with jobs.claimed(spec, store, rank, wait) as acquired:
                if acquired and not Store(store).is_done(spec):
                    fine_tuning.train_one(spec.as_dict(), store, machine.as_dict())
                    trained.add(spec.run_id)
                return acquired
        except Exception as error:  # becomes a row of the table; the other runs continue
            if rank.world_size > 1:  # other ranks wait for this one
                raise
            if Store(store).is_done(spec):  # without locks, another process was quicker and took its checkpoints away
                return True
            failed[spec.run_id] = _record_failure(store / spec.run_id, error)
            return True

    busy = []
    for number, spec in enumerate(missing, start=1):
        if not train(spec, wait=False):
            busy.append(spec)
        if len(missing) > 1:
            left = len(missing) - number
            report(f"runs: {len(trained)} trained, {len(failed)} failed, {len(busy)} trained elsewhere, {left} left")
    for spec in busy:
        train(spec, wait=True)
    return failed, trained


def _record_failure(folder: Path, error: Exception) -> str:
    where = f"the traceback is in {folder / 'failed.txt'}"
    try:
        write_text(folder / "failed.txt", printable("".join(traceback.format_exception(error))))
    except OSError as unwritten:  # the store may be full
        where = f"the traceback has no place: {unwritten}"
    report(f"failed: {error}; {where}")
    return printable(f"{type(error).__name__}: {error}")


def _table(
    preset: str, specs: list[RunSpec], store: Path, trained: set[str], failed: dict[str, str],
    under_way: dict[str, str] | None = None, measures: Collection[str] | None = None, done: Collection[str] | None = None,
) -> Table:  # fmt: skip
    results, runs = Store(store), []
    done = {spec.run_id for spec in specs if results.is_done(spec)} if done is None else done
    states = {**(under_way or {}), **dict.fromkeys(failed, "failed")}
    for spec in specs:
        is_done = spec.run_id in done
        summary = results.summary(spec.run_id) if is_done else {}
        runs.append({
            "run": spec.run_id, "replay": spec.replay.name, "replay_fraction": spec.replay.fraction, "seed": spec.seed,
            "state": "done" if is_done else states.get(spec.run_id, "missing"),
            "trained_now": is_done and spec.run_id in trained, "seconds": summary.get("seconds"),
            "realised_replay_fraction": summary.get("realised_replay_fraction"), "reason": failed.get(spec.run_id, ""),
        })  # fmt: skip
    rows = results.table(specs, measures, done)
    return Table(preset, specs[0].evaluation.split, store, rows, pd.DataFrame(runs), tuple(specs))
