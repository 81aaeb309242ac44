"""Which runs are missing, and who trains them?

Decision: a sweep is a grid of specs read against a store. Finished runs are read, missing ones trained, in this process
(`inline`) or by jobs (`local` processes, `slurm`: see `jobs`), each by one process, however many sweeps are at it.
Called again, it trains nothing again and finds the jobs it left. The published store is only read. A run that fails
becomes a row with its reason; the others go on. Reading imports no torch.
"""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from replaylab.catalogue import PUBLISHED
from replaylab.spec import CLUSTERS, MachineSpec, RunSpec
from replaylab.store import Store, check_store, store_of
from replaylab.sweeps import ablations, jobs, monitor
from replaylab.sweeps.cluster import ClusterSpec, Job, states
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.util.files import write_text
from replaylab.util.progress import report
from replaylab.util.text import duration


@dataclass(frozen=True)
class Table:
    """A sweep as it stands: `rows` of finished runs and references, `runs` with one row a run of the grid."""

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
    """Read the grid of a preset from a store, and train what is missing (never in the published store).

    Empty lists and texts mean the preset's own, and so does no `machine`, which says how to execute; `budget` as in
    `presets.grid`, `cluster_file` (YAML, `cluster.ClusterSpec`) what a job gets. A dry run says what would be trained and
    what it would cost, and trains nothing. The table has the rows of `measures`, or of all that were measured. Raises
    ValueError for an unknown preset, fraction, budget, cluster or key of the file or a run folder whose spec differs,
    PermissionError for a store that cannot be written. Ctrl-C leaves jobs running: the same call finds them again.
    """
    home = store_of(preset, store)
    specs = _specs(preset, replay_fractions, seeds, budget, home)
    back = _to_come_back(preset, replay_fractions, seeds, cluster, home, budget, cluster_file)
    if preset in PUBLISHED and not str(store):
        _settings(cluster, cluster_file)  # nobody is to train, but a wrong word is still wrong
        missing = _missing(specs, home)
        if missing:
            report(
                f"{len(missing)} of {len(specs)} published runs are not in {home}; to train them, name a store of your own"
            )
        return _table(preset, specs, home, set(), {}, measures=measures)
    machine = machine or PRESETS[preset].execution
    return run_specs(preset, specs, home, cluster, machine, cluster_file, dry_run, back, measures)


def run_specs(
    name: str, specs: list[RunSpec], home: Path, cluster: str, machine: MachineSpec, cluster_file: str | Path,
    dry_run: bool, back: str, measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    """`run` of any runs, in the store `home`; `back` says how to come back to jobs that were left running."""
    settings = _settings(cluster, cluster_file)
    missing = _missing(specs, home)
    failed: dict[str, str] = {}
    trained: set[str] = set()
    counted = f"{len(specs) - len(missing)} of {len(specs)} runs are in {home}; "
    if dry_run:
        report(f"{counted}{len(missing)} would be trained. {estimate(missing, home, specs, cluster, settings)}")
        return _table(name, specs, home, set(), {}, _under_way(missing, home), measures)
    if missing and cluster == "inline":
        check_store(home)
        report(f"{counted}training {len(missing)}. {estimate(missing, home, specs, cluster, settings)}")
        failed, trained = _inline(missing, home, machine)
    elif missing:
        check_store(home)
        report(f"{counted}{len(missing)} are for jobs ({cluster})")
        jobs.submit(missing, home, machine, cluster, settings)
        failed = monitor.watch(specs, home, back)
        trained = {spec.run_id for spec in missing}
    else:
        report(f"all {len(specs)} runs are in {home}: trained nothing")
    return _table(name, specs, home, trained, failed, measures=measures)


def read(
    preset: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None, store: str | Path = "",
    budget: str = "steps", measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    """The grid as it stands in a store, trained or not, with the rows of these measures or of all.

    Other arguments, and errors, as in `run`.
    """
    home = store_of(preset, store)
    specs = _specs(preset, replay_fractions, seeds, budget, home)
    return _table(preset, specs, home, set(), {}, _under_way(_missing(specs, home), home), measures)


def _specs(
    preset: str, replay_fractions: list[float] | None, seeds: list[int] | None, budget: str, home: Path
) -> list[RunSpec]:
    """Every run of a preset; those of ablations are no grid of fractions."""
    if preset not in ablations.PRESETS:
        return grid(preset, replay_fractions, seeds, budget)
    if replay_fractions or budget != "steps":
        raise ValueError(f"preset {preset!r} has variations of its own: give it no replay fractions and no budget")
    return ablations.grid(preset, seeds or (), home)


def _settings(cluster: str, cluster_file: str | Path) -> ClusterSpec:
    """What a job gets; raises ValueError for an unknown cluster or key of the file."""
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster {cluster!r} is none of {', '.join(CLUSTERS)}")
    return ClusterSpec.read(cluster_file, cluster)


def _missing(specs: list[RunSpec], home: Path) -> list[RunSpec]:
    return [spec for spec in specs if not Store(home).is_done(spec)]


def estimate(missing: list[RunSpec], store: Path, specs: list[RunSpec], cluster: str, settings: ClusterSpec) -> str:
    """What training the missing runs will take: as the finished ones of the grid did, else a few real steps timed here."""
    if not missing:
        return "Estimated: nothing"
    steps, kept = sum(spec.training.steps for spec in missing), Store(store)
    finished = [(kept.summary(spec.run_id)["seconds"], spec.training.steps) for spec in specs if kept.is_done(spec)]
    if finished:
        seconds = steps * median(took / of_steps for took, of_steps in finished)
        how = f"as the {len(finished)} that are done took"
    else:
        from replaylab.training import fine_tuning

        (load, *_), cores = os.getloadavg(), os.cpu_count() or 1  # before the timing, which is work too
        seconds, how = fine_tuning.estimate_seconds(missing, store), "timed on this machine"
        if load >= cores:
            how += f" while it does other work (load {load:.1f} on {cores} cores): alone it is quicker"
    text = f"Estimated: {seconds / 60:.0f} min, {how} ({len(missing)} runs, {steps} steps)"
    return text if cluster == "inline" else f"{text}. {_cost(seconds, len(missing), cluster, settings)}"


def _cost(seconds: float, runs: int, cluster: str, settings: ClusterSpec) -> str:
    """What that is on a cluster, if its machines are as quick."""
    hours, each = seconds / 3600, seconds / runs
    gpus = settings.nodes * settings.gpus_per_node
    cores = settings.ranks * (settings.cpus_per_task or 1)
    text = f"If a job is as quick as that: {duration(each)} a run, " + (
        f"{hours * gpus:.1f} GPU hours" if gpus else f"{hours * cores:.1f} core hours"
    )
    limit = 60 * settings.time_minutes
    if cluster == "slurm" and each > limit - 90:
        text += (
            f"; that is more than time_minutes, {settings.time_minutes}: a run is stopped, started again and goes on, about "
            f"{each // limit:.0f} times"
        )
    return text


def _under_way(missing: list[RunSpec], store: Path) -> dict[str, str]:
    """Run id -> queued or running, of those that have a job."""
    known = {spec.run_id: job for spec in missing if (job := Job.of(spec, store))}
    alive = states(list(known.values())) or {}
    return {run: "queued" if alive[job.id][0] == "PENDING" else "running" for run, job in known.items() if job.id in alive}


def _to_come_back(
    preset: str, replay_fractions: list[float] | None, seeds: list[int] | None, cluster: str, store: Path, budget: str,
    cluster_file: str | Path,
) -> str:  # fmt: skip
    """The command that is the same call."""
    words = [*f"python -m replaylab sweep --preset {preset} --cluster {cluster} --store".split(), str(store)]
    for option, values in (("--replay-fractions", replay_fractions), ("--seeds", seeds)):
        words += [option, *(f"{value:g}" for value in values)] if values else []
    words += ["--budget", budget] if budget != "steps" else []
    words += ["--cluster-file", str(cluster_file)] if str(cluster_file) else []
    return f"call the same again, or `{shlex.join(words)}`"


def _inline(missing: list[RunSpec], store: Path, machine: MachineSpec) -> tuple[dict[str, str], set[str]]:
    """Why runs failed, and which were trained here. Those that another process is at come last."""
    from replaylab.training import fine_tuning
    from replaylab.util import distributed

    failed: dict[str, str] = {}
    trained: set[str] = set()
    rank = distributed.this_rank()

    def train(spec: RunSpec, wait: bool) -> bool:
        """Whether there is nothing more to do, here or elsewhere."""
        try:
            with jobs.claimed(spec, store, rank, wait) as mine:
                if mine and not Store(store).is_done(spec):
                    fine_tuning.train_one(spec.as_dict(), store, machine.as_dict())
                    trained.add(spec.run_id)
                return mine
        except Exception as error:  # one run's failure is a row of the table; the others go on
            if rank.world_size > 1:  # but not where other ranks wait for this one
                raise
            failed[spec.run_id] = _failed(store / spec.run_id, error)
            return True

    elsewhere = []
    for number, spec in enumerate(missing, start=1):
        if not train(spec, wait=False):
            elsewhere.append(spec)
        if len(missing) > 1:
            left = len(missing) - number
            report(f"runs: {len(trained)} trained, {len(failed)} failed, {len(elsewhere)} elsewhere, {left} left")
    for spec in elsewhere:
        train(spec, wait=True)
    return failed, trained


def _failed(folder: Path, error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    write_text(folder / "failed.txt", text)
    report(f"failed: {error}; the whole story is in {folder / 'failed.txt'}")
    return f"{type(error).__name__}: {error}"


def _table(
    preset: str, specs: list[RunSpec], store: Path, trained: set[str], failed: dict[str, str],
    under_way: dict[str, str] | None = None, measures: Collection[str] | None = None,
) -> Table:  # fmt: skip
    kept, runs = Store(store), []
    states = {**(under_way or {}), **dict.fromkeys(failed, "failed")}
    for spec in specs:
        done = kept.is_done(spec)
        summary = kept.summary(spec.run_id) if done else {}
        runs.append({
            "run": spec.run_id, "replay": spec.replay.name, "replay_fraction": spec.replay.fraction, "seed": spec.seed,
            "state": "done" if done else states.get(spec.run_id, "missing"),
            "trained_now": done and spec.run_id in trained, "seconds": summary.get("seconds"),
            "realised_replay_fraction": summary.get("realised_replay_fraction"), "reason": failed.get(spec.run_id, ""),
        })  # fmt: skip
    rows = kept.table(specs, measures)
    return Table(preset, specs[0].evaluation.split, store, rows, pd.DataFrame(runs), tuple(specs))
