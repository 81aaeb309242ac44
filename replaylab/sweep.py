"""Which runs are missing, and who trains them?

Decision: a sweep is a grid of specs read against a store. Finished runs are read, missing ones trained, in this process
(`inline`) or by submitit (`local` processes, `slurm`). Called again, it trains nothing again. The published store is
only read. A run that fails becomes a row with its reason; the others go on. Reading imports no torch.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab import records
from replaylab.domain import write_atomically
from replaylab.progress import say, track
from replaylab.records import ReferenceSpec
from replaylab.spec import PRESETS, MachineSpec, RunSpec, grid

CLUSTERS = ("inline", "local", "slurm")
PUBLISHED = ("published", "diverse")  # presets whose runs are in the repository
LANDMARK = "03_replay_sweep.ipynb"
MINUTES_A_JOB = 60  # what a submitted run may take at most


@dataclass(frozen=True)
class Table:
    """A sweep as it stands: `rows` of finished runs and references, `runs` with one row a run of the grid."""

    preset: str
    split: str
    store: Path
    rows: pd.DataFrame
    runs: pd.DataFrame
    specs: tuple[RunSpec, ...]

    def samples(self, domain: str = "driving-eventful") -> list[dict[str, Any]]:
        """Strips of the clips whose agents move least, as most and most: truth, base and every fraction of one seed."""
        from replaylab.figures import DOMAINS

        references = self.store / ReferenceSpec.of(self.specs[0]).run_id
        strips, kinds = [], {spec.replay.name for spec in self.specs} - {""}
        for percentile in records.gallery_clips(references)[domain]:
            shown = [("truth", references / "samples" / "real"), ("base", references / "samples" / "base")]
            shown += [
                (_name(spec, kinds), self.store / spec.run_id / "samples")
                for spec in self.specs
                if spec.seed == self.specs[0].seed and records.is_done(spec, self.store)
            ]
            for name, folder in shown:
                frames, boxes = records.read_samples(folder, domain, percentile)
                strips.append({
                    "name": name, "frames": frames, "true_boxes": boxes["true"], "found_boxes": boxes["found"],
                    "title": f"{DOMAINS[domain]}, {percentile}th percentile of the agents' motion",
                })  # fmt: skip
        return strips


def _name(spec: RunSpec, kinds: set[str]) -> str:
    kind = spec.replay.name if spec.replay.name and len(kinds) > 1 else "replay"
    return f"{kind} {100 * spec.replay.fraction:g} %"


def run(
    preset: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None,
    cluster: str = "inline", store: str | Path = "", budget: str = "steps", machine: MachineSpec = MachineSpec(),
) -> Table:  # fmt: skip
    """Read the grid of a preset from a store, and train what is missing (never in the published store).

    Empty lists and texts mean the preset's own; `budget` as in `spec.grid`, `machine` says how to execute.
    Raises ValueError for an unknown preset, fraction, budget or cluster or a run folder whose spec differs,
    PermissionError for a store that cannot be written.
    """
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster {cluster!r} is none of {', '.join(CLUSTERS)}")
    specs = grid(preset, replay_fractions, seeds, budget)
    only_reads = preset in PUBLISHED and not str(store)
    home = store_of(preset, store)
    missing = [spec for spec in specs if not records.is_done(spec, home)]
    failed: dict[str, str] = {}
    if missing and only_reads:
        say(
            f"{len(missing)} of {len(specs)} published runs are not in {home}; to train them, name a store of your own"
        )
    elif missing:
        records.check_store(home)
        say(
            f"{len(specs) - len(missing)} of {len(specs)} runs are in {home}; training {len(missing)}. "
            + estimate(missing, home)
        )
        failed = (
            _inline(missing, home, machine)
            if cluster == "inline"
            else _submitted(missing, home, machine, cluster)
        )
    else:
        say(f"all {len(specs)} runs are in {home}: trained nothing")
    return _table(preset, specs, home, {spec.run_id for spec in missing}, failed)


def store_of(preset: str, store: str | Path) -> Path:
    """The folder a sweep reads and writes: the one that was named, else book/results for PUBLISHED, else book/runs/store."""
    if str(store):
        return Path(store).expanduser().absolute()
    return book_folder() / ("results" if preset in PUBLISHED else "runs/store")


def book_folder() -> Path:
    """The folder of the book's pages, found from the working directory upwards.

    papermill runs a notebook where papermill was called (the repository's root), Jupyter and Jupyter Book in the
    notebook's own folder. Raises FileNotFoundError where neither this folder nor one above it holds the book.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        for book in (folder, folder / "book"):
            if (book / LANDMARK).is_file() and (book / "_toc.yml").exists():
                return book
    raise FileNotFoundError(
        f"no book/{LANDMARK} with a _toc.yml beside it in {here} or above: run this from the repository's root or from "
        "book/, or name a store"
    )


def estimate(missing: list[RunSpec], store: Path) -> str:
    """What training the missing runs will take, timed on this machine by a few real steps."""
    from replaylab import runs

    seconds = runs.estimate_seconds(missing, store)
    return f"Estimated: {seconds / 60:.0f} min on this machine ({len(missing)} x {missing[0].training.steps} steps)"


def _inline(missing: list[RunSpec], store: Path, machine: MachineSpec) -> dict[str, str]:
    from replaylab import parallel, runs

    failed = {}
    for spec in missing:
        try:
            runs.train_one(spec.as_dict(), store, machine.as_dict())
        except Exception as error:  # one run's failure is a row of the table; the others go on
            if parallel.place().ranks > 1:  # but not where other ranks wait for this one
                raise
            failed[spec.run_id] = _failed(store / spec.run_id, error)
    return failed


def _failed(folder: Path, error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    write_atomically(folder / "failed.txt", lambda path: path.write_text(text))
    say(f"failed: {error}; the whole story is in {folder / 'failed.txt'}")
    return f"{type(error).__name__}: {error}"


def _submitted(missing: list[RunSpec], store: Path, machine: MachineSpec, cluster: str) -> dict[str, str]:
    """One job a run. What all share is made first, here, so that no two jobs make it at once."""
    import submitit

    from replaylab import evaluate, runs

    evaluate.references(ReferenceSpec.of(missing[0]), store)
    executor = submitit.AutoExecutor(folder=store / "jobs", cluster=cluster)
    executor.update_parameters(name="replaylab", timeout_min=MINUTES_A_JOB)
    jobs = executor.map_array(
        partial(runs.train_one, store=store, plain_machine=machine.as_dict()),
        [spec.as_dict() for spec in missing],
    )
    say(f"submitted {len(jobs)} jobs ({cluster}); their logs are in {store / 'jobs'}")
    failed = {}
    by_job = {id(job): spec for job, spec in zip(jobs, missing, strict=True)}
    for job in track(
        submitit.helpers.as_completed(jobs, poll_frequency=1), what="runs", total=len(jobs), unit="runs"
    ):
        error = job.exception()
        if error is not None:
            reason = str(error).strip().splitlines()[-1]
            failed[by_job[id(job)].run_id] = f"{reason} (log: {job.paths.stderr})"
    return failed


def _table(preset: str, specs: list[RunSpec], store: Path, wanted: set[str], failed: dict[str, str]) -> Table:
    rows, runs = [], []
    references = ReferenceSpec.of(specs[0])
    if records.is_done(references, store):
        rows.append(records.read_rows(store / references.run_id))
    for spec in specs:
        done = records.is_done(spec, store)
        summary = records.read_summary(store / spec.run_id) if done else {}
        if done:
            rows.append(records.read_rows(store / spec.run_id))
        runs.append({
            "run": spec.run_id, "replay": spec.replay.name, "replay_fraction": spec.replay.fraction, "seed": spec.seed,
            "state": "done" if done else "failed" if spec.run_id in failed else "missing",
            "trained_now": done and spec.run_id in wanted, "seconds": summary.get("seconds"),
            "realised_replay_fraction": summary.get("realised_replay_fraction"), "reason": failed.get(spec.run_id, ""),
        })  # fmt: skip
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=records.COLUMNS)
    return Table(preset, PRESETS[preset].split, store, table, pd.DataFrame(runs), tuple(specs))
