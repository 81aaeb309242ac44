"""What a store holds: which runs are finished, their rows, summaries, logs and sample clips.

Decision: everything that reads results does it here. Refused: a folder whose spec is not the one that its name stands for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replaylab.spec import RunSpec
from replaylab.store.run_folders import COLUMNS, ReferenceSpec, check_spec, read_rows

KEPT = ["run", "model", "step", "domain", "percentile", "boxes", "mp4"]
"""Columns of sample clips."""


@dataclass(frozen=True)
class Store:
    """The runs and references in a folder. Methods that take a run's id, or a list of them, want finished ones."""

    folder: Path

    def is_done(self, spec: RunSpec | ReferenceSpec) -> bool:
        """Whether this run is here, finished; raises ValueError if it is kept with another's spec."""
        folder = self.folder / spec.run_id
        if not (folder / "summary.json").is_file():
            return False
        check_spec(spec, folder)
        return True

    def summary(self, run: str) -> dict[str, Any]:
        """What is known of a run as a whole: seconds, realised samples, execution, provenance."""
        return json.loads((self.folder / run / "summary.json").read_text())

    def table(self, specs: Sequence[RunSpec], measures: Collection[str] | None = None) -> pd.DataFrame:
        """The rows of `references`, then of those runs that are finished; of these measures or of all."""
        done = list(dict.fromkeys(spec.run_id for spec in specs if self.is_done(spec)))
        parts = [rows for rows in (self.references(specs, measures), self.rows(done, measures)) if len(rows)]
        return pd.concat(parts, ignore_index=True) if parts else _no_rows()

    def rows(self, runs: Sequence[str], measures: Collection[str] | None = None) -> pd.DataFrame:
        """The rows of these runs, in their order, of these measures or of all; within a run by measure, domain, clip."""
        parts = [read_rows(self.folder / run, measures) for run in runs]
        return pd.concat(parts, ignore_index=True) if parts else _no_rows()

    def references(self, specs: Sequence[RunSpec], measures: Collection[str] | None = None) -> pd.DataFrame:
        """The rows of the references of these runs: the baselines without a model once, and every base."""
        wanted = dict.fromkeys(ReferenceSpec.of(spec) for spec in specs)
        found = [spec.run_id for spec in wanted if self.is_done(spec)]
        rows = self.rows(found, measures)
        return rows[(rows["run"] == found[0]) | (rows["model"] == "base")] if found else rows

    def seconds_a_step(self, run: str) -> float:
        """The median time of a run's training steps, s: the few that an evaluation or an interruption lies between do not
        move it, though the log's clock begins again where a run resumed.
        """
        lines = (self.folder / run / "log.jsonl").read_text().splitlines()
        return float(np.median(np.diff([json.loads(line)["seconds"] for line in lines])))

    def gallery_clips(self, references: str) -> dict[str, dict[str, int]]:
        """Domain -> percentile -> number of the clip that is kept of every run; empty where none is."""
        path = self.folder / references / "gallery.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def samples(self, runs: Sequence[str]) -> pd.DataFrame:
        """The kept clips (KEPT) of these runs and references, finished or not.

        `model` and `step` as in rows: "real", -1; "base", 0; "fine-tuned" and the step. `boxes`: JSON, lists a frame under
        "true" and "found". `mp4`: the file's bytes.
        """
        clips = [clip for run in runs for clip in samples_in(self.folder / run)]
        return pd.DataFrame(clips, columns=KEPT)


def samples_in(folder: Path) -> list[tuple[Any, ...]]:
    """The clips that a run's folder keeps, `samples/<step, real or base>/<domain>-<percentile>.mp4` and `.json`: KEPT."""
    found = []
    for path in sorted(folder.glob("samples/*/*.mp4")):
        of, (domain, _, percentile) = path.parent.name, path.stem.rpartition("-")
        model, step = (of, {"real": -1, "base": 0}[of]) if not of.isdigit() else ("fine-tuned", int(of))
        boxes = path.with_suffix(".json").read_text()
        found.append((folder.name, model, step, domain, percentile, boxes, path.read_bytes()))
    return found


def _no_rows() -> pd.DataFrame:
    types = {"value": float, "replay_fraction": float, "seed": int, "step": int}
    return pd.DataFrame(columns=COLUMNS).astype(types)
