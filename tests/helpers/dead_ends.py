"""States of a store that nothing got out of: each ends, goes on, or is made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from bad_inputs import REFERENCES, SPEC, _run
from fault_campaign import Fault
from hostile_names import rows_of

from replaylab.evaluation import evaluate, evaluation_sets, measurement
from replaylab.spec import MachineSpec
from replaylab.store import Store, check_store, finish
from replaylab.sweeps import monitor, sweep
from replaylab.sweeps.cluster import Job
from replaylab.sweeps.presets import grid
from replaylab.util import files

JOB = Job("slurm", "7", "here", "2026-01-01T00:00:00+00:00")


# -------------------------------------------------------------------------------------------------------------- watching
def _watched(folder: Path, queue: dict[str, tuple[str, str]]) -> str:
    """Why the run failed, by a sweep that watches until it has ended."""
    with ExitStack() as patched:
        for name, value in (("GRACE_S", 0.0), ("STORE_INTERVAL_S", 0.01), ("active", lambda jobs: queue)):
            patched.enter_context(mock.patch.object(monitor, name, value))
        patched.enter_context(mock.patch.object(monitor, "_final_state", lambda store, job: f"job {job.id} ended"))
        return monitor.watch([SPEC], folder, "")[SPEC.run_id]


def _its_record_is_gone(folder: Path) -> None:
    assert f"{Job.file(SPEC, folder)} is gone" in _watched(folder, {})


def _its_folder_is_gone(folder: Path) -> None:
    """SLURM could not start it again, and holds it for ever."""
    JOB.write(SPEC, folder)
    assert "launch failed requeued held; `scancel 7`" in _watched(folder, {"7": ("PENDING", "launch failed requeued held")})


def _its_job_is_gone(folder: Path) -> None:
    JOB.write(SPEC, folder)
    assert "job 7 ended before it recorded a reason" in _watched(folder, {})


# ------------------------------------------------------------------------------------------------------- what is left over
def _success_after_a_failure(folder: Path) -> None:
    (folder / "failed.txt").write_text("ValueError: no")
    with mock.patch("replaylab.store.run_folders.provenance", dict):
        finish(folder, rows_of("near"))
    assert not (folder / "failed.txt").exists() and (folder / "summary.json").exists()


def _left_by_the_dead(folder: Path) -> None:
    """Of a dead process: swept. Of a living one, or of another host, which may live: kept."""
    dead, below = 2**22 + 1, folder / "store" / "run" / "checkpoints"  # no process has this number
    below.mkdir(parents=True)
    name = files._beside(below / "rows.parquet").name
    host, _, rest = name.removeprefix(".rows.parquet.").split("-")
    of_others = [name, f".rows.parquet.ffffff-{dead}-{rest}", ".hidden", "rows.parquet"]
    for each in (*of_others, f".rows.parquet.{host}-{dead}-{rest}"):
        (below / each).touch()
    (below.parent / f".step-000001.{host}-{dead}-{rest}").mkdir()
    (below.parent / f".step-000001.{host}-{dead}-{rest}" / "weights").touch()
    check_store(folder / "store")
    assert sorted(path.name for path in below.iterdir()) == sorted(of_others)
    assert [path.name for path in below.parent.iterdir()] == ["checkpoints"]


def _references_were_deleted(folder: Path) -> None:
    """They are measured again, once, though no run is missing."""
    specs = grid("smoke", [0.0, 0.5], [0])
    for spec in specs:
        _run(folder, spec)
    _run(folder, REFERENCES)
    shutil.rmtree(folder / REFERENCES.run_id)
    asked = []

    def measured(references: Any, store: Path) -> None:
        asked.append(references)
        _run(store, references)

    with mock.patch.object(evaluate, "references", measured):
        for _ in range(2):
            table = sweep.run_specs("smoke", list(specs), folder, "inline", MachineSpec(), "", False, "")
    assert asked == [REFERENCES] and "base" in set(table.rows["model"])


# ------------------------------------------------------------------------------------------- references that are killed
class _Killed(BaseException):
    """What no handler of errors catches, as none catches a kill."""


SETS = [
    SimpleNamespace(
        name=name, frames=np.zeros((3, 4, 8, 8, 3), np.uint8), context_frames=1, has_agents=False, clips=[0, 1, 2],
        condition=None, latents=np.zeros((3, 1)),
    )
    for name in ("one", "two", "three")
]  # fmt: skip


def _measured_rows(evaluation_set: Any, *_: Any, **__: Any) -> Any:
    rows = rows_of(evaluation_set.name, ("ade_px",)).iloc[:3].drop(columns=["run", "base", "model", "step"])
    return measurement.Measurement(rows, [])


def _measure(folder: Path, dies_at: int) -> tuple[int, pd.DataFrame]:
    """References with a stand-in for measuring, which dies in a call; how many calls there were, and the rows."""
    calls = []

    def measure(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == dies_at:
            raise _Killed
        return _measured_rows(*arguments, **named)

    base = SimpleNamespace(model=SimpleNamespace(transformer=SimpleNamespace(eval=lambda: None), vae=None))
    stand_ins: list[tuple[Any, str, Callable[..., Any]]] = [
        (evaluation_sets, "prepare_sets", lambda *a, **b: SETS), (measurement, "measure", measure),
        (evaluate, "keep_clips", lambda *a: None), (evaluate, "autoencoded", lambda frames, _: frames),
        (evaluate, "_denoising", lambda *a: pd.DataFrame()), (evaluate.autoencoder, "digest", lambda vae: "none"),
        (evaluate, "_futures", lambda pipeline, of, *a: iter([(of.frames, None)])),
    ]  # fmt: skip
    with ExitStack() as patched:
        for owner, name, stand_in in stand_ins:
            patched.enter_context(mock.patch.object(owner, name, stand_in))
        patched.enter_context(mock.patch("replaylab.store.run_folders.provenance", dict))
        try:
            evaluate.references(REFERENCES, folder, base)  # type: ignore[arg-type]
        except _Killed:
            return len(calls), pd.DataFrame()
    return len(calls), Store(folder).rows([REFERENCES.run_id])


def _references_are_killed(folder: Path) -> None:
    """Killed in every second measurement: each start comes one further, and the rows are those of no kill."""
    parts, whole = _measure(folder / "whole", dies_at=0)
    for _ in range(parts):
        done, rows = _measure(folder / "killed", dies_at=2)
        if done < 2:
            break
    assert done < 2 and len(rows), "it came no further"
    pd.testing.assert_frame_equal(rows, whole)
    assert not (folder / "killed" / REFERENCES.run_id / "parts").exists()


KIND = "dead ends"
FAULTS = [
    Fault(KIND, name, happen) for name, happen in (
        ("a job's record is gone", _its_record_is_gone), ("a requeued job's folder is gone", _its_folder_is_gone),
        ("a job is gone", _its_job_is_gone), ("success after a failure", _success_after_a_failure),
        ("half-written files of dead processes", _left_by_the_dead),
        ("references that were deleted", _references_were_deleted),
        ("references that are killed again and again", _references_are_killed),
    )
]  # fmt: skip
