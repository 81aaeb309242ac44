"""The folder of a run: its spec, its rows and its summary.

A run is a folder `<store>/<run id>/`: `spec.json`, `log.jsonl`, `rows.parquet`, `summary.json` and, where it was trained
here, its last weights. References (real, autoencoder, copy-last-frame, base) are a folder of the same kind, shared by
every run with the same base and evaluation.

Decision: `summary.json` is written last, so a folder that has one is a finished run. Reading imports no torch.
Refused: a folder whose spec does not match its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.description import LATER, NAME, Described, digest, digest_of_plain, without_places
from replaylab.spec import EvaluationSpec, ModelSpec, RunSpec
from replaylab.store.origin import provenance
from replaylab.util import digests, reading
from replaylab.util.files import BESIDE, SUMS, remove_abandoned, sync, write_atomically, write_sums, write_text

COLUMNS = ["run", "base", "model", "target", "replay", "replay_fraction", "seed", "step", "domain", "split", "video",
           "start", "scene", "measure", "value", "n"]  # fmt: skip
OF_DISTANCES = {"frames": 0, "size_px": 0, "resize": "", "extractor": "", "extractor_digest": ""}
"""Columns that describe how a distance was computed (`distances.Distance`), and their values in other rows."""

NAMES = ("domain", "target", "replay", "model", "measure", "split")
"""Columns shown on pages. Each holds a `spec.NAME`, several joined by "+", or an empty text."""
WORKING = {"checkpoints", "tensorboard", "wandb", "parts", "failed.txt", "summary.json", SUMS}
"""Names in a run's folder that are not results, or are written after them."""
STEP_OF = {"real": -1, "base": 0}  # in rows: of what was not fine-tuned


@dataclass(frozen=True)
class ReferenceSpec(Described):
    """The references of every result: measured once for a base and an evaluation."""

    base: str
    evaluation: EvaluationSpec
    model: ModelSpec | None = field(default=None, metadata=LATER)

    @cached_property
    def run_id(self) -> str:
        """The name of the references' folder in a store."""
        return f"references-{digest(self)}"

    @classmethod
    def of(cls, spec: RunSpec) -> ReferenceSpec:
        """The references that a run is compared with."""
        return cls(spec.base, spec.evaluation, spec.model)


def check_store(store: Path) -> None:
    """Raise PermissionError, with the path, if the store is not writable; remove incomplete files of dead processes."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        remove_abandoned(store)
        write_text(store / ".writable", "yes")  # not empty: there must be room
        (store / ".writable").unlink(missing_ok=True)  # another sweep may have been as quick
    except OSError as error:
        raise PermissionError(
            f"store {store} cannot be written ({error.strerror}); name another: -p store FOLDER or --store FOLDER"
        ) from error


def claim(spec: RunSpec | ReferenceSpec, store: Path) -> Path:
    """The run's folder, with its spec written; raises ValueError if it holds another spec."""
    folder = store / spec.run_id
    if not (folder / "spec.json").is_file():
        text = json.dumps(spec.as_dict(), indent=1, sort_keys=True)
        write_text(folder / "spec.json", text)
    check_spec(spec, folder)
    return folder


def check_spec(spec: Described, folder: Path) -> None:
    """Raise ValueError, with the differing fields, if the folder holds another spec."""
    path = folder / "spec.json"
    name = spec.run_id if isinstance(spec, RunSpec | ReferenceSpec) else digest(spec)
    with suppress(OSError, ValueError):  # said below
        if digests.remembered(_digest_in, path) == name.rpartition("-")[2]:
            return
    try:
        found = reading.json_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); move {folder} away and run again") from error
    wanted, found = without_places(spec.as_dict()), without_places(found)
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        first = differing[0]
        raise ValueError(
            f"{path} is not the spec that its folder is named after: {', '.join(differing)} differ "
            f"({first}: {reading.shown(found.get(first))} there, {reading.shown(wanted.get(first))} wanted); move {folder} "
            "away and run again"
        )


def _digest_in(path: Path) -> str:
    return digest_of_plain(reading.json_object(path))


def finish(folder: Path, rows: pd.DataFrame, **facts: Any) -> None:
    """Write the rows, then the summary, which marks the run as finished. All its other files must exist already; logs are
    synchronised to disk. The note of an earlier failure and incomplete files of dead processes are removed.
    """
    remove_abandoned(folder)
    write_rows(folder / "rows.parquet", rows)
    for path in folder.glob("*.jsonl"):
        sync(path)
    summary = json.dumps({**facts, **provenance()}, indent=1)
    write_sums(folder, results_in(folder), {"summary.json": summary})
    write_text(folder / "summary.json", summary)
    (folder / "failed.txt").unlink(missing_ok=True)


def results_in(folder: Path) -> list[str]:
    """The files of a finished run except its summary; files that only training needs are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        path.as_posix() for path in found
        if path.parts[0] not in WORKING and not path.name.startswith((".", "rows-")) and not path.name.endswith(BESIDE)
    ]  # fmt: skip


def write_rows(path: Path, rows: pd.DataFrame, with_digest: bool = False) -> None:
    """Write rows as Parquet, columns COLUMNS and OF_DISTANCES, values as float32; the write is atomic."""
    of_no_distance = {column: other for column, other in OF_DISTANCES.items() if column not in rows}
    narrow = rows.assign(**of_no_distance).reindex(columns=[*COLUMNS, *OF_DISTANCES]).fillna(OF_DISTANCES)
    narrow = narrow.astype(
        {"value": np.float32, "replay_fraction": np.float32, "n": np.int32, "frames": np.int32, "size_px": np.int32}
    )
    narrow["value"] = _rounded(narrow["value"].to_numpy())
    packed = {  # bytes of like places in a number side by side: a quarter smaller than whole numbers in a row
        "use_byte_stream_split": ["value"],
        "use_dictionary": [column for column in narrow if column != "value"],
        "compression": "zstd",
        "compression_level": 19,
        "write_page_checksum": True,
    }
    write_atomically(path, lambda aside: narrow.to_parquet(aside, index=False, **packed), with_digest)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 12 binary digits, about four decimal ones: the rest is noise that does not compress."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 4096) / 4096, exponent).astype(np.float32)


def checked_rows(path: Path, remedy: str, **options: Any) -> pd.DataFrame:
    """A Parquet file of rows; ValueError, with the remedy, if it has changed since it was written."""
    if not path.is_dir():
        check_result(path, remedy)
    return reading.table(path, remedy, **options)


def check_result(path: Path, remedy: str = "") -> bool:
    """ValueError, with a remedy, if a run's file has changed since it was written; returns `digests.check` of the file."""
    try:
        return digests.check(path)
    except digests.WrongDigest as error:
        raise ValueError(f"{error}. Copy it again from where it is whole, or {remedy or 'run again'}") from error


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a finished run's trained weights, as its SHA256SUMS lists it (of several files, with spaces between); empty
    if it lists none.
    """
    listed = [digests.line_of(path) for path in sorted(folder.rglob("*.safetensors"))]
    return " ".join(line[1] for line in listed if line is not None)


@lru_cache(maxsize=2**12)  # thousands of runs have the same few
def _are_names(value: str) -> bool:
    return all(NAME.fullmatch(name) for name in value.split("+") if value)


def check_names(values: Mapping[str, Iterable[str]], path: Path, remedy: str) -> None:
    """Raises DamagedFile, with the file and the column, for an invalid name in a column of NAMES."""
    for column, several in values.items():
        for value in several:
            if isinstance(value, str) and not _are_names(value):
                raise reading.DamagedFile(f"{path}: {column} {reading.shown(value)} is no name; {remedy}")


def samples_folder(run: Path, step: int) -> Path:
    """The folder of the clips that a run keeps from one evaluation."""
    return run / "samples" / f"{step:06d}"


def samples_in(folder: Path) -> list[tuple[Any, ...]]:
    """The clips that a run's folder keeps, `samples/<step, real or base>/<domain>-<percentile>.mp4` and `.json`: a tuple
    of `reading.KEPT` each.
    """
    found = []
    for path in sorted(folder.glob("samples/*/*.mp4")):
        for file in (path, path.with_suffix(".json")):
            check_result(file, f"move {folder} away and run again")
        of, (domain, _, percentile) = path.parent.name, path.stem.rpartition("-")
        model, step = ("fine-tuned", int(of)) if of.isdigit() else (of, STEP_OF[of])
        found.append(
            (folder.name, model, step, domain, percentile, reading.text(path.with_suffix(".json")), path.read_bytes())
        )
    return found
