"""The packed form of a store: runs, rows, logs and sample clips as Parquet files that any Parquet reader can read.

    runs.parquet                one row per run or set of references, with its spec and summary as JSON
    rows/<preset>.parquet       measurements of the runs whose first preset this is
    logs.parquet                one row per training step
    samples.parquet             kept clips (mp4) with their boxes
    <folder>/media.parquet      the pictures or videos of a small folder (`worlds...`, `damage-<id>`)

Decision: rows are sorted by measure, domain, clip and run, so that similar numbers are adjacent and compress well. A row
group holds one measure or several small ones, so that reading a measure skips the others. Refused: files with a wrong
checksum.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from replaylab.store.row_tables import SCHEMA, TEXTS
from replaylab.store.run_folders import NAMES, check_names
from replaylab.util import digests, reading

RUNS, LOGS, SAMPLES, MEDIA = "runs.parquet", "logs.parquet", "samples.parquet", "media.parquet"
REFERENCES, OTHERS = "references", "others"
"""Used instead of a preset's name for references, and for runs without a preset."""
CODED = [name for name in TEXTS if name not in ("scene", "video")]
"""Text columns with few values; the others are written as DELTA_BYTE_ARRAY, which cannot be read as dictionaries."""
AS_READ = {name: pa.dictionary(pa.int32(), pa.string()) if name in CODED else kind for name, kind in SCHEMA.items()}


def runs_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Run id -> its row of runs.parquet; empty where nothing is packed."""
    return _runs(folder / RUNS, stamp(folder / RUNS))


@lru_cache(maxsize=8)
def _runs(path: Path, at: tuple[int, int]) -> dict[str, dict[str, Any]]:
    if not at[0]:
        return {}
    table = read(path)
    if missing := [name for name in ("run", "preset", "summary", "gallery") if name not in table.column_names]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; restore it, or publish again")
    return {row["run"]: row for row in table.to_pylist()}


def json_in(folder: Path, row: dict[str, Any], column: str) -> dict[str, Any]:
    """The JSON object in a column of a row of runs.parquet; raises ValueError, with file and run, if it is invalid."""
    with reading.named(folder / RUNS, f"whole table of runs: {column} of {row['run']}", "restore it, or publish again"):
        found = json.loads(row[column])
        if not isinstance(found, dict):
            raise ValueError(f"no object, but {reading.shown(found)}")
        return found


def rows_of(folder: Path, runs: Sequence[str], measures: Collection[str] | None = None) -> pa.Table:
    """The packed rows of these runs, in their order, with the given measures or all; texts as dictionaries."""
    files: dict[str, list[str]] = {}
    for run in runs:
        files.setdefault(runs_in(folder)[run]["preset"], []).append(run)
    parts = [selected(folder / "rows" / f"{name}.parquet", some, measures) for name, some in files.items()]
    return parts[0] if len(parts) == 1 else _taken(pa.concat_tables(parts), {"run": runs})


def selected(path: Path, runs: Sequence[str], measures: Collection[str] | None = None) -> pa.Table:
    """The rows of some runs in a file, in their order, with the given measures or all; repeated texts as dictionaries.

    Row groups without any of the measures are not read.
    """
    with _readable(path), pq.ParquetFile(path, read_dictionary=CODED, page_checksum_verification=True) as file:
        place = file.schema_arrow.get_field_index("measure")
        of = [file.metadata.row_group(group).column(place).statistics for group in range(file.num_row_groups)]
        groups = [
            group for group, held in enumerate(of)
            if measures is None or held is None or any(held.min <= measure <= held.max for measure in measures)
        ]  # fmt: skip
        table = file.read_row_groups(groups, columns=list(SCHEMA)).cast(pa.schema(AS_READ))
    table = table.unify_dictionaries()
    names = {name: table[name].chunk(0).dictionary.to_pylist() for name in NAMES if table[name].num_chunks}
    check_names(names, path, "restore it, or publish again")
    return _taken(table, {"run": runs} if measures is None else {"run": runs, "measure": [*measures]})


def _taken(table: pa.Table, wanted: dict[str, Sequence[str]]) -> pa.Table:
    """The rows in which each of these columns has one of the given values, in the order of the first column's values."""
    table, places = table.unify_dictionaries().combine_chunks(), []
    for name, values in wanted.items():
        column = table[name].combine_chunks()
        known = {value: number for number, value in enumerate(values)}
        codes = np.array([known.get(value, -1) for value in column.dictionary.to_pylist()], np.int16)
        places.append(codes[column.indices.to_numpy()])
    kept = np.flatnonzero(np.min(places, axis=0) >= 0)
    return table.take(kept[np.argsort(places[0][kept], kind="stable")])


def samples_of(folder: Path, runs: Sequence[str]) -> pd.DataFrame:
    """The packed clips of these runs and references."""
    parts = [read(path, filters=[("run", "in", list(runs))]) for path in files_of_samples(folder)]
    return pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame()


def files_of_samples(folder: Path) -> list[Path]:
    """The file of packed clips, or those of an older store, which has one for each preset."""
    return [folder / SAMPLES] if (folder / SAMPLES).exists() else sorted(folder.glob("samples/*.parquet"))


def seconds_logged(folder: Path, run: str) -> np.ndarray:
    """The elapsed time in a run's log at each step, s."""
    return _clocks(folder / LOGS, stamp(folder / LOGS))[run]


@lru_cache(maxsize=8)
def _clocks(path: Path, at: tuple[int, int]) -> dict[str, np.ndarray]:
    seconds = read(path, columns=["run", "seconds"]).to_pandas()
    return {str(run): each.to_numpy() for run, each in seconds.groupby("run", sort=False)["seconds"]}


def medium(folder: Path, name: str) -> bytes | None:
    """The bytes of a small folder's picture or video, from its own file or the packed one; None if it is in neither."""
    if (folder / name).is_file():
        return (folder / name).read_bytes()
    return _media(folder / MEDIA, stamp(folder / MEDIA)).get(name)


@lru_cache(maxsize=8)
def _media(path: Path, at: tuple[int, int]) -> dict[str, bytes]:
    return {row["name"]: row["bytes"] for row in read(path).to_pylist()} if at[0] else {}


def stamp(path: Path) -> tuple[int, int]:
    """A file's time of change and size, (0, 0) for a missing file: the key under which its content is cached."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return found.st_mtime_ns, found.st_size


def read(path: Path, **options: Any) -> pa.Table:
    """A Parquet file, or the selected columns and rows; raises ValueError, with its path, if it cannot be read."""
    with _readable(path):
        return pq.read_table(path, page_checksum_verification=True, partitioning=None, **options)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        digests.check(path)  # pages have checksums of their own, heads and ends have not
        yield
    except Exception as error:  # of pyarrow, or of what it raised in a schema that is another table's
        why = f"{type(error).__name__}: {reading.reason(error)}"
        raise ValueError(f"{path} cannot be read ({why}); restore it, or publish again") from error
