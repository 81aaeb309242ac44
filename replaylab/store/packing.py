"""Publishing: packs the folders of finished runs into the packed form (`packed`).

Decision: every file is written under a temporary name and renamed, so that no file is ever incomplete. runs.parquet follows
the rows, so that new runs are not visible before their rows, and SHA256SUMS comes last. After an interruption the same call
continues. Runs that are already packed are kept, or replaced if they are given again. The same runs give the same bytes, and
a file of rows that already holds them is not rewritten.
Refused: unfinished and damaged runs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replaylab.spec import RunSpec
from replaylab.store import packed
from replaylab.store.packed import LOGS, MEDIA, OTHERS, REFERENCES, RUNS, SAMPLES, SCHEMA
from replaylab.store.reading import KEPT
from replaylab.store.readme import text_of
from replaylab.store.run_folders import ReferenceSpec, check_result, samples_in, weights_sha256
from replaylab.util import reading
from replaylab.util.files import SUMS, sha256, write_atomically, write_sums, write_text
from replaylab.util.progress import report, track
from replaylab.util.text import duration

ORDER = ("measure", "domain", "scene", "video", "start", "run", "model", "step")
ROWS_A_GROUP = 2**16  # at least, of whole measures
PLAIN: dict[str, Any] = {"compression": "zstd", "compression_level": 19, "write_page_checksum": True}
ENCODINGS = {**dict.fromkeys(("value", "n"), "BYTE_STREAM_SPLIT"), **dict.fromkeys(("scene", "video"), "DELTA_BYTE_ARRAY")}
OF_ROWS: dict[str, Any] = {
    "column_encoding": ENCODINGS,
    "use_dictionary": [name for name in SCHEMA if name not in ENCODINGS],
    "write_statistics": ["run", "measure"],
    # neighbours' values are alike, which Brotli learns and zstd does not: an eighth smaller
    "compression": {name: "brotli" if name == "value" else "zstd" for name in SCHEMA},
    "compression_level": {name: 11 if name == "value" else 19 for name in SCHEMA},
}
Records = Mapping[str, dict[str, Any]]
"""Run id -> its row of runs.parquet."""


def publish(store: Path, out: Path, asked: Mapping[str, Mapping[str, str]], with_all_clips: Collection[str] = ()) -> None:
    """Pack the finished runs, references and small folders (`worlds...`, `damage-<id>`) of `store` into the folder `out`.

    `asked`: preset -> run id -> its configuration in words; rows and clips go to the file of the first preset with this
    run. `with_all_clips`: presets of which all kept clips are published, and not three of each domain. Raises ValueError,
    with the file, for a run that is not finished or cannot be read.
    """
    if not store.is_dir():
        raise ValueError(f"{store} is no folder: name a store, as `sweep --store` made it")
    folders = {path.parent.name: path.parent for path in sorted(store.glob("*/spec.json"))}
    small = [folders.pop(name) for name in list(folders) if name.startswith("damage-")]
    small += [survey.parent for survey in sorted(store.glob("worlds*/survey.json"))]
    before = packed.runs_in(out)
    if not folders and not small and not before:
        raise ValueError(f"{store} holds no folder of a run: nothing to publish")
    for folder in small:
        _pack_small(folder, out / folder.name)
    fresh = {name: _checked(folder) for name, folder in track(folders.items(), "checking", len(folders), "runs")}
    records = {run: _placed(record, asked) for run, record in sorted({**before, **fresh}.items())}
    if records:
        _write_rows(records, folders, before, out)
        _write_samples(records, folders, out, with_all_clips)
        _write_logs(folders, out)
        _write(out / RUNS, [pa.Table.from_pylist(list(records.values()))])
        names = {record["preset"] for record in records.values()}
        for path in out.glob("rows/*.parquet"):
            if path.stem not in names:
                path.unlink()  # its runs are in other presets now
    write_text(out / "README.md", text_of(out))
    written = [path for part in ("", "rows") for path in (out / part).glob("*.parquet")]
    write_sums(out, [path.relative_to(out).as_posix() for path in written])
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    report(f"{out}: {len(records)} runs and references in {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")


# ------------------------------------------------------------------------------------------------------ runs.parquet
def _checked(folder: Path) -> dict[str, Any]:
    """A run's row; raises ValueError, with the file, if anything is missing or damaged."""
    is_run = not folder.name.startswith(REFERENCES)
    texts = {name: _json_text(folder / f"{name}.json") for name in ("spec", "summary", "manifest" if is_run else "gallery")}
    with reading.named(folder / "spec.json", "whole spec"):
        plain = json.loads(texts["spec"])
        spec: Any = RunSpec.from_dict(plain) if is_run else ReferenceSpec.from_dict(plain)
    summary = reading.json_object(folder / "summary.json", seconds=(int, float), git_commit=(str, type(None)))
    if spec.run_id != folder.name:
        raise ValueError(f"{folder / 'spec.json'} is the spec of {spec.run_id}")
    rows = packed.read(folder / "rows.parquet")
    if missing := sorted({*SCHEMA} - {*rows.column_names}):
        raise ValueError(f"{folder / 'rows.parquet'}: columns {missing} are missing")
    if rows["run"].unique().to_pylist() != [folder.name]:
        raise ValueError(f"{folder / 'rows.parquet'} holds rows of other runs than {folder.name}")
    if is_run and [line.get("step") for line in _log(folder)] != list(range(1, spec.training.steps + 1)):
        raise ValueError(f"{folder / 'log.jsonl'} has not one line for each of the {spec.training.steps} steps")
    for path in folder.glob("samples/*/*.mp4"):
        _json_text(path.with_suffix(".json"))
    what = (spec.target.name, spec.replay.name, float(spec.replay.fraction), spec.seed) if is_run else ("", "", None, -1)
    return {
        "run": folder.name, "preset": "" if is_run else REFERENCES, "presets": "",
        "configuration": spec.title.rpartition(", seed")[0] if is_run else "base, real clips, autoencoder, copied frames",
        "base": spec.base, **dict(zip(("target", "replay", "replay_fraction", "seed"), what, strict=True)),
        "split": spec.evaluation.split, "steps": spec.training.steps if is_run else 0, "state": "done",
        "seconds": summary["seconds"], "commit": summary["git_commit"] or "", "sha256": sha256(folder / "rows.parquet"),
        "weights_sha256": weights_sha256(folder),
        **{name: texts.get(name, "") for name in ("spec", "summary", "manifest", "gallery")},
    }  # fmt: skip


def _json_text(path: Path) -> str:
    try:
        check_result(path, "train the run again")
        reading.json_object(path, "train the run again")
        return reading.text(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: the run is not finished, or not whole") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _placed(record: dict[str, Any], asked: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The row with its presets, and with the first preset's description of its configuration."""
    record = {"weights_sha256": ""} | record  # those packed before have none
    if record["preset"] == REFERENCES:
        return record
    presets = [name for name, runs in asked.items() if record["run"] in runs]
    words = asked[presets[0]][record["run"]] if presets else record["configuration"]
    return record | {"preset": (presets or [OTHERS])[0], "presets": " ".join(presets), "configuration": words}


# ------------------------------------------------------------------------------------------------------ rows/<preset>
def _write_rows(records: Records, folders: Mapping[str, Path], before: Records, out: Path) -> None:
    """Writes the small files first, so that the remaining time is known early."""

    def rows_of(runs: Iterable[str]) -> pa.Table:
        sources: dict[Path, list[str]] = {}
        for run in runs:
            old = out / "rows" / f"{before[run]['preset']}.parquet" if run not in folders else folders[run] / "rows.parquet"
            sources.setdefault(old, []).append(run)
        return pa.concat_tables([packed.selected(path, of_path) for path, of_path in sources.items()])

    files: dict[str, dict[str, str]] = {}
    for run, record in records.items():
        files.setdefault(record["preset"], {})[run] = record["sha256"]
    stale = {path: runs for name, runs in files.items() if not _is_of(path := out / "rows" / f"{name}.parquet", runs)}
    # all are read before the first is written: a run may move from one file to another
    tables = {path: _sorted(rows_of(runs)) for path, runs in stale.items()}
    (out / SUMS).unlink(missing_ok=True)  # written again when all else is
    started, done, total = time.monotonic(), 0, sum(map(len, tables.values()))
    for path in sorted(tables, key=lambda path: len(tables[path])):
        _write(path, list(_by_measure(tables[path])), {"sources": json.dumps(stale[path])}, **OF_ROWS)
        done += len(tables[path])
        left = (time.monotonic() - started) * (total - done) / max(1, done)
        report(f"{path.name}: {len(tables[path])} rows of {len(stale[path])} runs; {duration(left)} left")


def _is_of(path: Path, sources: Mapping[str, str]) -> bool:
    """Whether a file holds the rows of these files, according to their checksums."""
    if not path.is_file():
        return False
    try:
        of = (pq.read_schema(path).metadata or {}).get(b"sources", b"{}")
        return bool(json.loads(of) == sources)
    except (OSError, ValueError, pa.ArrowException):  # damaged: it is written again, if its runs are there
        return False


def _sorted(table: pa.Table) -> pa.Table:
    """The table sorted by ORDER; a stable sort."""
    table, keys = table.unify_dictionaries().combine_chunks(), []
    for name in ORDER:
        column = table[name].combine_chunks()
        if SCHEMA[name] == pa.string():
            column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            ranks = np.argsort(np.argsort(np.asarray(column.dictionary.to_pylist(), dtype=object)))
            keys.append(ranks[column.indices.to_numpy()])
        else:
            keys.append(column.to_numpy())
    return table.take(np.lexsort(keys[::-1]))


def _by_measure(table: pa.Table) -> Iterator[pa.Table]:
    """The table in parts of at least ROWS_A_GROUP rows, each with complete measures."""
    begin = end = 0
    for count in table["measure"].value_counts().field("counts").to_pylist():
        end += count
        if end - begin >= ROWS_A_GROUP or end == len(table):
            yield table.slice(begin, end - begin).cast(pa.schema(SCHEMA))
            begin = end


# -------------------------------------------------------------------------------------------------------- other files
def _write_samples(records: Records, folders: Mapping[str, Path], out: Path, with_all: Collection[str]) -> None:
    clips = [clip for folder in folders.values() for clip in samples_in(folder)]
    for path in packed.files_of_samples(out):
        clips += [tuple(line[name] for name in KEPT) for line in _lines(path) if line["run"] not in folders]
    clips = sorted(_published(clips, records, with_all))
    if clips:
        table = pa.table(dict(zip(KEPT, map(list, zip(*clips, strict=True)), strict=True)))
        # one dictionary however large: a clip that comes twice is kept once
        _write(out / SAMPLES, [table], dictionary_pagesize_limit=2**30)
    shutil.rmtree(out / "samples", ignore_errors=True)  # of an older store


def _published(clips: list[tuple[Any, ...]], records: Records, with_all: Collection[str]) -> Iterator[tuple[Any, ...]]:
    """Clips after the last step: three of each domain (at the lowest, middle and highest kept percentile), of the first
    seed's base of each preset and of all bases themselves; and all kept ones of that base in these presets. Clips are most
    of what is published, and a run may keep many, after every evaluation.
    """
    runs = [record for record in records.values() if record["preset"] != REFERENCES]
    first = {record["preset"]: record["base"] for record in sorted(runs, key=lambda one: one["seed"], reverse=True)}
    whole = {base for preset, base in first.items() if preset in with_all}
    last: dict[tuple[str, str], int] = {}
    percentiles: dict[tuple[str, str], set[int]] = {}
    for run, model, step, domain, percentile, *_ in clips:
        last[run, model] = max(step, last.get((run, model), step))
        percentiles.setdefault((run, domain), set()).add(int(percentile))
    for clip in clips:
        run, model, step, domain, percentile, *_ = clip
        every, record = sorted(percentiles[run, domain]), records[run]
        if step < last[run, model] or record["base"] != first.get(record["preset"], record["base"]):
            continue
        has_all = record["base"] in whole and record["preset"] in (REFERENCES, *with_all)
        if has_all or int(percentile) in (every[0], every[len(every) // 2], every[-1]):
            yield clip


def _write_logs(folders: Mapping[str, Path], out: Path) -> None:
    lines = [line for line in _lines(out / LOGS) if line["run"] not in folders]
    lines = sorted([*lines, *(line for folder in folders.values() for line in _log(folder))], key=lambda line: line["run"])
    names = list(dict.fromkeys(name for line in lines for name in line))
    if lines:
        logs = pa.table({name: [line.get(name) for line in lines] for name in names})
        numbers = [name for name in names if logs[name].type == pa.float64()]
        _write(out / LOGS, [logs], use_dictionary=["run"], use_byte_stream_split=numbers)


def _log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; references have none."""
    path = folder / "log.jsonl"
    if folder.name.startswith(REFERENCES):
        return []
    check_result(path, "train the run again")
    return [{"run": folder.name, **line} for line in reading.json_lines(path, "train the run again")]


def _lines(path: Path) -> list[dict[str, Any]]:
    return packed.read(path).to_pylist() if path.exists() else []


def _pack_small(folder: Path, out: Path) -> None:
    """Copies tables and JSON unchanged, and packs pictures and videos into one file."""
    if not (folder / "survey.json").is_file():
        _json_text(folder / "summary.json")
    kept = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".parquet") and path.name != MEDIA)
    for path in kept:
        check_result(path, f"move {folder} away and measure again")
    (out / SUMS).unlink(missing_ok=True)  # written again when all else is
    for path in kept if out != folder else ():
        write_atomically(out / path.name, partial(shutil.copyfile, path))
    media = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".png"))
    if media:
        names = [path.relative_to(folder).as_posix() for path in media]
        table = pa.table({"name": names, "bytes": [path.read_bytes() for path in media]})
        _write(out / MEDIA, [table], use_dictionary=False)
    write_sums(out, [path.name for path in (*kept, out / MEDIA) if (out / path.name).is_file()])


def _write(path: Path, parts: Sequence[pa.Table], about: dict[str, str] | None = None, **options: Any) -> None:
    """Writes each part as a row group."""
    schema = parts[0].schema.with_metadata(about)

    def write(aside: Path) -> None:
        with pq.ParquetWriter(aside, schema, **(PLAIN | options)) as writer:
            for part in parts:
                writer.write_table(part.cast(schema), row_group_size=max(1, len(part)))

    write_atomically(path, write)
