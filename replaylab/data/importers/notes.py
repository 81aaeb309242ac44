"""Notes of converted sources: one JSON file for each source, and the tables of its tracks and its ego car, in `sources/`.

Decision: a note is written after all that it lists, so a source with a note is complete. It has the source's stamp, the
checksums of its videos and tables, and their perceptual hashes; a source whose note is missing, damaged or of another stamp
is converted again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, is_file_name
from replaylab.data.importers import look_alikes
from replaylab.data.importers.sources import Recipe, Source
from replaylab.data.video import decode
from replaylab.util import digests, reading
from replaylab.util.files import sha256, write_atomically, write_table
from replaylab.util.progress import report

AGAIN = "remove it, and call the same again"


class Video(NamedTuple):
    """A converted video."""

    frames: int
    sha256: str
    hashes: list[str] | None  # of `look_alikes`


def note_path(out: Path, name: str) -> Path:
    """The file of a source's note, in the folder `out` of its domain."""
    return out / "sources" / f"{name}.note.json"


def table_path(out: Path, name: str, kind: str) -> Path:
    """The file of a source's table: `kind` is tracks or ego."""
    return out / "sources" / f"{name}-{kind}.parquet"


def read_note(out: Path, name: str) -> dict[str, Any] | None:
    """The note of a converted source; None if it is missing or unreadable: then the source is converted again."""
    path = note_path(out, name)
    if not path.exists():
        return None
    try:
        digests.check(path)
        note = reading.json_object(path, stamp=str, shown=str, scene=str, drawn_by=str, name=str, rows=list)
        for row in note["rows"]:
            if not isinstance(row, dict) or not is_file_name(row.get("file")):
                raise reading.DamagedFile(f"{path}: {reading.shown(row)} is no row of a video")
        for kind, digest in note.get("tables", {}).items():  # the tables that it was written with
            digests.compare(table_path(out, name, kind), digest, path)
    except (ValueError, FileNotFoundError) as error:
        report(f"warning: {error}: the source is converted again")
        return None
    return note


def _keep_note(out: Path, note: dict[str, Any]) -> None:
    text = json.dumps(note, indent=1)
    write_atomically(note_path(out, note["name"]), lambda aside: aside.write_text(text), with_digest=True)


def write_note(out: Path, source: Source, videos: Mapping[str, Video]) -> None:
    """Write the tables of a source, then its note, which marks it as complete."""
    tables = {}
    for kind, table, columns in (("tracks", source.tracks, TRACK_COLUMNS), ("ego", source.ego, EGO_COLUMNS)):
        if table is not None:
            path = table_path(out, source.name, kind)
            write_table(path, table[list(columns)])
            tables[kind] = sha256(path)
    rows = [
        {"file": file, "frames": videos[file].frames, "sha256": videos[file].sha256, "source": source.label, **source.about}
        | ({"scene": source.scenes[number]} if source.scenes else {})
        for number, file in enumerate(source.files())
    ]
    note: dict[str, Any] = {"name": source.name, "shown": source.label, "stamp": source.stamp, "scene": source.scene,
            "drawn_by": source.split_key, "rows": rows, "tables": tables}  # fmt: skip
    if all(video.hashes is not None for video in videos.values()):
        note["hashes"] = {file: videos[file].hashes for file in source.files()}
    _keep_note(out, note)


def is_converted(out: Path, name: str, stamp: str, names: Collection[str] = ()) -> bool:
    """Whether a source has been converted in its current state; a copy, which has no videos, if `names` has its original."""
    note = read_note(out, name)
    if note is None or note["stamp"] != stamp:
        return False
    if "twin_of" in note:
        original = read_note(out, note["twin_of"]) if note["twin_of"] in names else None
        return original is not None and not checksums(note).isdisjoint(checksums(original))
    return all((out / "videos" / row["file"]).is_file() for row in note["rows"])


def rows_by_scene(note: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a note by the scene that determines their split."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in note["rows"]:
        rows.setdefault(row.get("scene", note["drawn_by"]), []).append(row)
    return rows


def checksums(note: dict[str, Any]) -> set[str]:
    """The SHA-256 of a source's videos."""
    return {row["sha256"] for row in note["rows"]}


def hashes_by_scene(out: Path, recipe: Recipe, note: dict[str, Any]) -> dict[str, list[str]]:
    """`look_alikes.hashes` of a source's scenes; computed from its videos if an older version converted it without them."""
    if "hashes" not in note:
        files = [row["file"] for row in note["rows"]]
        note["hashes"] = {
            file: look_alikes.hashes(decode(out / "videos" / file), recipe.frames_per_second) for file in files
        }  # fmt: skip
        _keep_note(out, note)
    return {
        scene: [text for row in rows for text in note["hashes"][row["file"]]]
        for scene, rows in rows_by_scene(note).items()
    }  # fmt: skip


def mark_as_copy(out: Path, note: dict[str, Any], original: str) -> None:
    """Write the original of a copy to its note, and delete its videos."""
    if note.get("twin_of") != original:
        _keep_note(out, note | {"twin_of": original})
    for row in note["rows"]:
        (out / "videos" / row["file"]).unlink(missing_ok=True)


def joined_tables(out: Path, notes: list[dict[str, Any]], kind: str) -> pd.DataFrame | None:
    """A table of all sources together; None if not all have it."""
    parts = [table_path(out, note["name"], kind) for note in notes]
    if not all(path.is_file() for path in parts):
        return None
    return pd.concat([reading.table(path, AGAIN) for path in parts], ignore_index=True)
