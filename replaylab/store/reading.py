"""The contents of a store: finished runs with their rows, summaries, logs and sample clips.

Decision: all results are read through this module, so that the folder of a run (`run_folders`) and the packed form
(`packed`) give the same result, even side by side in one store. Refused: a run stored with the spec of another, or in both
forms with different results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from replaylab.spec import RunSpec
from replaylab.store import packed, row_tables
from replaylab.store.run_folders import ReferenceSpec, check_result, check_spec, samples_in, weights_sha256
from replaylab.util import reading

KEPT = ["run", "model", "step", "domain", "percentile", "boxes", "mp4"]
"""Columns of sample clips."""


@dataclass(frozen=True)
class Store:
    """The runs and references in a folder. Methods that take the ids of runs require finished ones."""

    folder: Path

    def is_done(self, spec: RunSpec | ReferenceSpec) -> bool:
        """Whether this run is stored and finished; ValueError if its folder and the packed run differ in spec or results."""
        path, row = self.folder / spec.run_id / "summary.json", self._packed(spec.run_id)
        if not path.is_file():
            return row is not None  # under the name of its spec, which publishing has checked
        if row and row["summary"] != reading.text(path):
            raise ValueError(
                f"{path} and {self.folder / packed.RUNS} both hold run {spec.run_id}, with different results; publish the "
                f"store again, or move {path.parent} away"
            )
        check_spec(spec, path.parent)
        return True

    def summary(self, run: str) -> dict[str, Any]:
        """Facts about a run as a whole: seconds, realised samples, execution, provenance."""
        row = self._packed(run)
        if row:
            return packed.json_in(self.folder, row, "summary")
        path = self._checked(run, "summary.json")
        return reading.json_object(path, f"move {path.parent} away and run again", seconds=(int, float))

    def weights_sha256(self, run: str) -> str:
        """SHA-256 of the trained weights; empty if it is unknown, or the run is not here."""
        row = self._packed(run)
        return str(row.get("weights_sha256") or "") if row else weights_sha256(self.folder / run)

    def table(
        self, specs: Sequence[RunSpec], measures: Collection[str] | None = None, done: Collection[str] | None = None
    ) -> pd.DataFrame:
        """The rows of `references`, then of the finished runs, with the given measures or all. `done`: the ids of the
        finished runs, if known.
        """
        there = [spec.run_id for spec in specs if (self.is_done(spec) if done is None else spec.run_id in done)]
        return row_tables.frame(chain(self._references(specs, measures), self._tables(there, measures)))

    def rows(self, runs: Sequence[str], measures: Collection[str] | None = None) -> pd.DataFrame:
        """The rows of these runs, in their order, with the given measures or all.

        Rows of a run are in the order of measurement, those of a packed run sorted by measure, domain and clip.
        """
        return row_tables.frame(self._tables(runs, measures))

    def _tables(self, runs: Sequence[str], measures: Collection[str] | None) -> Iterator[pa.Table]:
        """The same rows as tables, each with some of the runs; each run once, and no file is opened without measures."""
        if measures is not None and not measures:
            return
        runs = list(dict.fromkeys(runs))
        there = [run for run in runs if self._packed(run)]
        found = packed.rows_of(self.folder, there, measures) if there else None
        if found is not None and there == runs:
            yield found
            return
        parts = (
            row_tables.where(found, run=[run]) if run in there else row_tables.of_folder(self.folder / run) for run in runs
        )
        for part in row_tables.joined(parts):
            yield part if measures is None else row_tables.where(part, measure=measures)

    def references(self, specs: Sequence[RunSpec], measures: Collection[str] | None = None) -> pd.DataFrame:
        """The rows of the references of these runs: model-free baselines once, and every base."""
        return row_tables.frame(self._references(specs, measures))

    def _references(self, specs: Sequence[RunSpec], measures: Collection[str] | None) -> Iterator[pa.Table]:
        wanted = dict.fromkeys(ReferenceSpec.of(spec) for spec in specs)
        found = [spec.run_id for spec in wanted if self.is_done(spec)]
        for table in self._tables(found, measures):
            yield row_tables.where(table, run=found[:1], model=["base"])

    def seconds_a_step(self, run: str) -> float:
        """The median time of a run's training steps, s. It is robust to the few steps with an evaluation or an interruption
        between them, although the log's clock restarts when a run resumes.
        """
        if self._packed(run):
            return float(np.median(np.diff(packed.seconds_logged(self.folder, run))))
        path = self._checked(run, "log.jsonl")
        lines = reading.json_lines(path)
        with reading.named(path, "whole log"):
            return float(np.median(np.diff([line["seconds"] for line in lines])))

    def gallery_clips(self, references: str) -> dict[str, dict[str, int]]:
        """Domain -> percentile -> number of the clip that is kept from every run; empty if none is kept."""
        path, row = self.folder / references / "gallery.json", self._packed(references)
        if row:
            return packed.json_in(self.folder, row, "gallery") if row["gallery"] else {}
        found = reading.json_object(self._checked(references, path.name)) if path.exists() else {}
        with reading.named(path, "whole list of clips"):
            return {domain: {str(at): int(clip) for at, clip in clips.items()} for domain, clips in found.items()}

    def samples(self, runs: Sequence[str]) -> pd.DataFrame:
        """The kept clips (KEPT) of these runs and references.

        `model` and `step` as in rows: "real", -1; "base", 0; "fine-tuned" and the step. `boxes`: JSON, one list per frame
        under "true" and "found" (detected). `mp4`: the file's bytes.
        """
        there = [run for run in runs if self._packed(run)]
        clips = [clip for run in runs if run not in there for clip in samples_in(self.folder / run)]
        parts = [packed.samples_of(self.folder, there), pd.DataFrame(clips, columns=KEPT)]
        return pd.concat([part for part in parts if len(part)] or parts[1:], ignore_index=True)

    def _checked(self, run: str, name: str) -> Path:
        """A file of a run's folder whose checksum is correct."""
        path = self.folder / run / name
        if not path.is_dir():
            check_result(path, f"move {path.parent} away and run again")
        return path

    def _packed(self, run: str) -> dict[str, Any] | None:
        return packed.runs_in(self.folder).get(run)
