"""A run's rows, and where they came from.

A run is a folder `<store>/<run id>/`: `spec.json`, `log.jsonl`, `rows.parquet`, `summary.json` and, where it was trained
here, its last weights. References (real, autoencoder, copy-last-frame, base) are a folder of the same kind, shared by
every run with the same base and evaluation.

Decision: `summary.json` is written last, so a folder that has one is a finished run. Reading imports no torch.
Refused: a folder whose spec is not the one that its name stands for.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import PUBLISHED
from replaylab.spec import LATER, WEIGHTS, Described, EvaluationSpec, ModelSpec, RunSpec, digest, without_places
from replaylab.util.files import write_atomically

COLUMNS = ["run", "base", "model", "target", "replay", "replay_fraction", "seed", "step", "domain", "split", "video",
           "start", "scene", "measure", "value", "n"]  # fmt: skip
OF_DISTANCES = {"frames": 0, "size_px": 0, "resize": "", "extractor": "", "extractor_digest": ""}
"""Columns that say what a distance is of (`distances.Distance`), and what other rows have there."""
PACKAGES = ("torch", "diffusers", "numpy", "panda3d", "decord", "av")


@dataclass(frozen=True)
class ReferenceSpec(Described):
    """What stands beside every result: measured once for a base and an evaluation."""

    base: str
    evaluation: EvaluationSpec
    model: ModelSpec | None = field(default=None, metadata=LATER)

    @property
    def run_id(self) -> str:
        """The name of their folder in a store."""
        return f"references-{digest(self)}"

    @classmethod
    def of(cls, spec: RunSpec) -> ReferenceSpec:
        """The references that a run is compared with."""
        return cls(spec.base, spec.evaluation, spec.model)


def check_store(store: Path) -> None:
    """Raise PermissionError, with the path, if nothing can be written there."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        write_atomically(store / ".writable", lambda path: path.write_text(""))
        (store / ".writable").unlink(missing_ok=True)  # another sweep may have been as quick
    except OSError as error:
        raise PermissionError(
            f"store {store} cannot be written ({error.strerror}); name another: -p store FOLDER or --store FOLDER"
        ) from error


def claim(spec: RunSpec | ReferenceSpec, store: Path) -> Path:
    """The run's folder with its spec in it; raises ValueError if it holds another's spec."""
    folder = store / spec.run_id
    if not (folder / "spec.json").is_file():
        text = json.dumps(spec.as_dict(), indent=1, sort_keys=True)
        write_atomically(folder / "spec.json", lambda path: path.write_text(text))
    _check_spec(spec, folder)
    return folder


def is_done(spec: RunSpec | ReferenceSpec, store: Path) -> bool:
    """Whether the store holds this run, finished; raises ValueError if its folder holds another's spec."""
    folder = store / spec.run_id
    if not (folder / "summary.json").is_file():
        return False
    _check_spec(spec, folder)
    return True


def _check_spec(spec: Described, folder: Path) -> None:
    path = folder / "spec.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); move {folder} away and run again") from error
    wanted, found = without_places(spec.as_dict()), without_places(found)
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        first = differing[0]
        raise ValueError(
            f"{path} is not the spec that its folder is named after: {', '.join(differing)} differ "
            f"({first}: {found.get(first)!r} there, {wanted.get(first)!r} wanted); move {folder} away and run again"
        )


def finish(folder: Path, rows: pd.DataFrame, **facts: Any) -> None:
    """Write the rows, then the summary: from now on the run is done."""
    write_rows(folder / "rows.parquet", rows)
    summary = {**facts, **provenance()}
    write_atomically(folder / "summary.json", lambda path: path.write_text(json.dumps(summary, indent=1)))


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Rows as Parquet, in COLUMNS and OF_DISTANCES, values as float32; whole or not at all."""
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
    }
    write_atomically(path, lambda aside: narrow.to_parquet(aside, index=False, **packed))


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 12 binary digits, four decimal ones: what follows is noise that no file compresses."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 4096) / 4096, exponent).astype(np.float32)


def read_rows(folder: Path, measures: Collection[str] | None = None) -> pd.DataFrame:
    """The rows of a run's folder, of these measures only or of all; ValueError for a column that is missing."""
    only = None if measures is None else [("measure", "in", sorted(measures) or [""])]
    rows = pd.read_parquet(folder / "rows.parquet", filters=only)
    missing = [column for column in (*COLUMNS, *OF_DISTANCES) if column not in rows]
    if missing:
        raise ValueError(f"{folder / 'rows.parquet'}: column {missing[0]!r} is missing")
    # float32 on disk is small; 0.1 must be 0.1 again
    return rows.astype({"value": float}).assign(replay_fraction=rows["replay_fraction"].astype(float).round(6))


def read_references(
    specs: Sequence[RunSpec], store: Path, measures: Collection[str] | None = None
) -> list[pd.DataFrame]:
    """The rows of the references of these runs that the store has: the floors once, and every base; measures as in
    `read_rows`.
    """
    wanted = dict.fromkeys(ReferenceSpec.of(spec) for spec in specs)
    found = [read_rows(store / spec.run_id, measures) for spec in wanted if is_done(spec, store)]
    return found[:1] + [rows[rows["model"] == "base"] for rows in found[1:]]


def read_summary(folder: Path) -> dict[str, Any]:
    """What a finished run says of itself, `summary.json`."""
    return json.loads((folder / "summary.json").read_text())


def seconds_a_step(folder: Path) -> float:
    """The median time of a run's training steps, s: the few that an evaluation or an interruption lies between do not move
    it, though the log's clock begins again where a run resumed.
    """
    lines = (folder / "log.jsonl").read_text().splitlines()
    return float(np.median(np.diff([json.loads(line)["seconds"] for line in lines])))


def base_curve(base: str = "base") -> pd.DataFrame:
    """How a shipped base came to its errors: columns model, step, domain, measure, value (on dev clips)."""
    return pd.read_csv(WEIGHTS / base / "curve.csv")


def samples_folder(run: Path, step: int) -> Path:
    """Where a run keeps the clips of one evaluation."""
    return run / "samples" / f"{step:06d}"


def gallery_clips(references: Path) -> dict[str, dict[str, int]]:
    """Domain -> percentile -> number of the clip that every arm shows."""
    return json.loads((references / "gallery.json").read_text())


def read_samples(folder: Path, domain: str, percentile: str) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """A kept clip's frames (T, H, W, 3) and its boxes: lists a frame, under "true" and "found"."""
    from replaylab.data.video import decode

    name = folder / f"{domain}-{percentile}"
    return decode(name.with_suffix(".mp4")), json.loads(name.with_suffix(".json").read_text())


def provenance() -> dict[str, Any]:
    """Git commit, package versions and machine; no host name, no paths."""
    return {
        "replaylab": version("replaylab"),
        "git_commit": _git_commit(),
        "packages": {package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True)
        return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


LANDMARK = "03_replay_sweep.ipynb"


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
