"""Rows as Arrow tables with dictionary-encoded texts, and as the data frame used by all other modules.

Decision: thousands of runs are read one by one into one data frame, in which a text that occurs a million times is stored
once. Refused: missing columns, and columns of another type.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replaylab.store.run_folders import COLUMNS, NAMES, OF_DISTANCES, check_names, check_result
from replaylab.util import reading

TYPES = {
    **dict.fromkeys(("seed", "step", "start"), pa.int64()), **dict.fromkeys(("n", "frames", "size_px"), pa.int32()),
    **dict.fromkeys(("replay_fraction", "value"), pa.float32()),
}  # fmt: skip
SCHEMA = {name: TYPES.get(name, pa.string()) for name in (*COLUMNS, *OF_DISTANCES)}
TEXTS = [name for name, kind in SCHEMA.items() if kind == pa.string()]
AS_WRITTEN = [pa.dictionary(pa.int32(), pa.string()) if name in TEXTS else kind for name, kind in SCHEMA.items()]
ROWS_AT_ONCE = 2**15
TEXT = pd.StringDtype("python", na_value=np.nan)  # Arrow's own would have each text as often as it comes


def read(path: Path, remedy: str) -> pa.Table:
    """A run's file of rows, checked; ValueError with the path and the remedy."""
    is_whole = not path.is_dir() and check_result(path, remedy)
    with reading.named(path, "Parquet file", remedy):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        data = pa.BufferReader(path.read_bytes())
        with pq.ParquetFile(data, read_dictionary=TEXTS, page_checksum_verification=not is_whole) as file:
            names = set(file.schema_arrow.names)
            if missing := [name for name in SCHEMA if name not in names]:
                raise reading.DamagedFile(f"{path}: column {missing[0]!r} is missing; {remedy}")
            table = file.read(columns=list(SCHEMA), use_threads=False).select(list(SCHEMA))
        types = table.schema.types
        for name, kind, found in [] if types == AS_WRITTEN else zip(SCHEMA, SCHEMA.values(), types, strict=True):
            if name in TEXTS and not pa.types.is_dictionary(found):
                raise reading.DamagedFile(f"{path}: column {name!r} holds {found}, and should hold text; {remedy}")
            if name not in TEXTS and not (pa.types.is_integer(found) or pa.types.is_floating(found)):
                raise reading.DamagedFile(f"{path}: column {name!r} holds {found}, and should hold numbers; {remedy}")
            if name not in TEXTS and found != kind:
                table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    check_names({name: values_of(table, name) for name in NAMES}, path, remedy)
    return table


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of a run's folder; ValueError for a column that is missing."""
    return frame([of_folder(folder)])


def of_folder(folder: Path) -> pa.Table:
    """The rows of a run's folder as a table."""
    return read(folder / "rows.parquet", f"move {folder} away and run again")


def joined(parts: Iterable[pa.Table], rows: int = ROWS_AT_ONCE) -> Iterator[pa.Table]:
    """The tables concatenated into tables of at least `rows` rows: work per table would take seconds for thousands."""
    group: list[pa.Table] = []
    for part in parts:
        plain = part.replace_schema_metadata(None)
        if group and (not plain.schema.equals(group[0].schema) or sum(map(len, group)) >= rows):
            yield _concatenated(group)
            group = []
        group.append(plain)
    if group:
        yield _concatenated(group)


def _concatenated(group: list[pa.Table]) -> pa.Table:
    return group[0] if len(group) == 1 else pa.concat_tables(group).unify_dictionaries().combine_chunks()


def values_of(table: pa.Table, name: str) -> list[Any]:
    """The values in a column's dictionary."""
    return list(dict.fromkeys(value for chunk in table[name].chunks for value in chunk.dictionary.to_pylist()))


def where(table: pa.Table, **wanted: Collection[str]) -> pa.Table:
    """The rows in which at least one of these columns has one of the given values."""
    kept = np.zeros(len(table), bool)
    for name, values in wanted.items():
        known = set(values)
        parts = [
            np.array([*(value in known for value in chunk.dictionary.to_pylist()), False])[_codes(chunk)]
            for chunk in table[name].chunks
        ]
        kept |= np.concatenate(parts) if parts else kept
    return table if kept.all() else table.filter(pa.array(kept))


def frame(parts: Iterable[pa.Table]) -> pd.DataFrame:
    """The concatenated tables; measured numbers as float64, because 0.1 stored as float32 must be read as 0.1."""
    known: dict[str, dict[Any, int]] = {name: {} for name in TEXTS}
    columns = {name: _Growing(np.int32 if name in known else _kept_as(name)) for name in SCHEMA}
    for part in parts:  # of which no other is in memory, if they are read as they are asked for
        for name, column in columns.items():
            for chunk in part[name].chunks:
                column.add(_coded(chunk, known[name]) if name in known else _numbers(chunk, name))
    found: dict[str, Any] = {}
    for name in SCHEMA:
        whole = columns.pop(name).whole()
        found[name] = pd.Series(np.array([*known[name]], object)[whole], dtype=TEXT) if name in known else whole
    return pd.DataFrame(found, copy=False)


class _Growing:
    """A growing column in one contiguous block, since many small blocks would fragment the memory. It has its own pages,
    which are returned to the system as soon as it is released.
    """

    def __init__(self, kind: Any) -> None:
        self._numbers, self._length = _pages(2**14, kind), 0

    def add(self, numbers: NDArray[Any]) -> None:
        end = self._length + len(numbers)
        if end > len(self._numbers):
            larger = _pages(2 * end, self._numbers.dtype)  # what is not written to takes no memory
            larger[: self._length] = self._numbers[: self._length]
            self._numbers = larger
        self._numbers[self._length : end] = numbers
        self._length = end

    def whole(self) -> NDArray[Any]:
        return self._numbers[: self._length]


def _pages(count: int, kind: Any) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(-1, count * np.dtype(kind).itemsize), kind)


def _coded(chunk: Any, known: dict[Any, int]) -> NDArray[np.int32]:
    """The indices of the chunk's texts among the known ones; new ones are added."""
    chunk = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
    values = [*chunk.dictionary.to_pylist(), *[np.nan] * bool(chunk.null_count)]
    return np.array([known.setdefault(value, len(known)) for value in values], np.int32)[_codes(chunk)]


def _numbers(chunk: Any, name: str) -> Any:
    numbers = chunk.to_numpy(zero_copy_only=False).astype(_kept_as(name))
    return numbers.round(6) if name == "replay_fraction" else numbers


def _kept_as(name: str) -> Any:
    return float if SCHEMA[name] == pa.float32() else SCHEMA[name].to_pandas_dtype()


def _codes(chunk: Any) -> Any:
    """The indices into the dictionary; missing values have the index after its end."""
    indices = chunk.indices
    return (indices.fill_null(len(chunk.dictionary)) if indices.null_count else indices).to_numpy()
