"""Converting the sources of an importer (video files, KITTI sequences, nuScenes scenes) into a domain.

Decision: a scene's split follows from a hash of its name, so that files added later move no others. A converted source
leaves a note in `sources/`, which is read instead of converting it again. A source that cannot be used is `Unusable`:
one row of `unusable.csv`, and the others are converted.

Refused: a folder that holds something else or was begun with another recipe, a copy of an earlier source (it could be in
another split), and a domain without a single usable source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, Domain, write_domain
from replaylab.data.importers.sources import Fit, ImageSequence, Recipe, Source, Unusable, seconds_per_picture
from replaylab.data.video import write_video
from replaylab.util.files import locked, sha256, write_atomically, write_json, write_table
from replaylab.util.processes import map_in_processes
from replaylab.util.progress import report
from replaylab.util.text import duration

RECIPE_FILE = "sources/recipe.json"  # how a folder was begun


class SplitShares(NamedTuple):
    """The shares of scenes that are not for training."""

    dev: float
    test: float

    def split_of(self, scene: str) -> str:
        """The split of a scene, by a hash of its name."""
        digits = hashlib.sha256(scene.encode(errors="surrogateescape")).hexdigest()[:13]
        place = int(digits, 16) / 16**13
        return "test" if place < self.test else "dev" if place < self.test + self.dev else "train"


@dataclass(frozen=True)
class ConversionSettings:
    """The settings that all importers share."""

    out: Path
    recipe: Recipe = Recipe()
    shares: SplitShares = SplitShares(0.1, 0.1)
    name: str = ""  # of the domain; the folder's if empty
    licence: str = ""
    prompt: str = ""  # what its videos show, for models with a text condition
    processes: int = 1
    dry_run: bool = False


@dataclass(frozen=True)
class ConversionResult:
    """The domain, and what was and was not converted."""

    domain: Domain | None  # None of a dry run
    listing: pd.DataFrame  # what was, or is to be, converted: one row a source
    unusable: pd.DataFrame  # file, why, what_to_do


def check(settings: ConversionSettings, origin: str) -> None:
    """Raises ValueError, with the field, unless `out` is free or was begun by the same command."""
    dev, test = settings.shares
    if not (dev >= 0 and test >= 0 and dev + test <= 1):
        raise ValueError(f"dev {dev}, test {test}: shares of scenes, from 0 to 1 together")
    out, wanted = settings.out, {"origin": origin, **asdict(settings.recipe)}
    path = out / RECIPE_FILE
    if path.is_file():
        known = json.loads(path.read_text())
        for name, value in wanted.items():
            if (before := known.get(name)) != value:
                raise ValueError(f"{out}: was begun with {name} {before!r}, and {value!r} is asked for; give another --out")
    elif (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ValueError(f"{out}: is there already, and `domain add` did not begin it; give a new --out for the domain")


def is_converted(out: Path, name: str, stamp: str) -> bool:
    """Whether a source was converted as it is now."""
    path = _note_path(out, name)
    if not path.is_file():
        return False
    note = json.loads(path.read_text())
    return note["stamp"] == stamp and all((out / "videos" / row["file"]).is_file() for row in note["rows"])


def sources_of(
    settings: ConversionSettings, openers: Iterable[Callable[[], ImageSequence]]
) -> tuple[list[Source], list[Unusable]]:
    """Of sequences of images: the sources that are not converted yet, and those that cannot be used."""
    sources, unusable, seconds = [], [], 0.0
    for open_sequence in openers:
        try:
            sequence = open_sequence()
            if is_converted(settings.out, sequence.name, sequence.stamp):
                continue
            seconds = seconds or seconds_per_picture(sequence.read)
            sources.append(sequence.source(settings.recipe, seconds))
        except Unusable as error:
            unusable.append(error)
    return sources, unusable


def convert(
    settings: ConversionSettings, origin: str, names: Sequence[str], sources: Sequence[Source],
    unusable: Sequence[Unusable], about: dict[str, Any],
) -> ConversionResult:  # fmt: skip
    """Convert what is missing, and finish the domain of all the sources `names`; an estimate is reported first.

    `origin` describes the importer in words that never change for this domain; `about` goes into domain.json. Raises
    ValueError where nothing is usable, after unusable.csv was written.
    """
    if len(sources) + len(unusable) < len(names):
        done = len(names) - len(sources) - len(unusable)
        report(f"{settings.out}: {done} of {len(names)} sources were already converted")
    if sources:
        report(_estimate(settings, sources))
    listing = pd.DataFrame([
        {"file": source.label, **source.about, "files": len(source.pieces), "frames": source.frames,
         "scene": source.scene, "split": settings.shares.split_of(source.split_key)}
        for source in sources
    ])  # fmt: skip
    if settings.dry_run:
        return ConversionResult(None, listing, _unusable_table(unusable))
    with locked(settings.out):
        write_json(settings.out / RECIPE_FILE, {"origin": origin, **asdict(settings.recipe)})
        unusable = [*unusable, *_convert_missing(settings, sources)]
        domain, table = _finish(settings, names, about, unusable)
    return ConversionResult(domain, listing, table)


def _estimate(settings: ConversionSettings, sources: Sequence[Source]) -> str:
    files = sum(len(source.pieces) for source in sources)
    frames = sum(source.frames for source in sources)
    seconds = sum(source.seconds for source in sources) / max(1, min(settings.processes, len(sources)))
    of_video = duration(frames / settings.recipe.frames_per_second)
    return (
        f"{len(sources)} sources to convert: {frames} frames, {of_video} of video in {files} files; "
        f"at least {duration(seconds)}"
    )


def _convert_missing(settings: ConversionSettings, sources: Sequence[Source]) -> list[Unusable]:
    """Make the videos of all sources, in processes; returns what could not be converted."""
    missing = [source for source in sources if not is_converted(settings.out, source.name, source.stamp)]
    if not missing:  # another process, which was waited for, may have made them
        return []
    (settings.out / "domain.json").unlink(missing_ok=True)  # written again when all are converted
    (settings.out / "videos").mkdir(exist_ok=True)
    convert_one = partial(_try_to_convert, settings.out, settings.recipe)
    errors = map_in_processes(convert_one, missing, settings.processes, "converting", "sources")
    return [error for error in errors if error is not None]


def _try_to_convert(out: Path, recipe: Recipe, source: Source) -> Unusable | None:
    try:
        _convert_source(out, recipe, source)
    except Unusable as error:
        return error
    return None


def _convert_source(out: Path, recipe: Recipe, source: Source) -> None:
    """Write the videos of a source, then its tables, then its note: with a note, it is complete."""
    _note_path(out, source.name).unlink(missing_ok=True)
    for old in (out / "videos").glob(f"{source.name}-[0-9]*.mp4"):
        old.unlink()
    images = source.read([number for piece in source.pieces for number in piece])
    rows = []
    for file, piece in zip(source.files(), source.pieces, strict=True):
        fitted = [Fit.of(each.shape[0], each.shape[1], recipe).picture(each) for _, each in zip(piece, images, strict=False)]
        if len(fitted) < len(piece):
            raise Unusable(source.label, "damaged: not all of its pictures can be decoded", "copy it again")
        path = out / "videos" / file
        frames = np.stack(fitted)
        write_atomically(path, lambda aside, frames=frames: write_video(aside, frames, recipe.frames_per_second))
        rows.append({"file": file, "frames": len(piece), "sha256": sha256(path), "source": source.label, **source.about})
    for kind, table, columns in (("tracks", source.tracks, TRACK_COLUMNS), ("ego", source.ego, EGO_COLUMNS)):
        if table is not None:
            write_table(_part_path(out, source.name, kind), table[list(columns)])
    note = {"name": source.name, "shown": source.label, "stamp": source.stamp, "scene": source.scene,
            "drawn_by": source.split_key, "rows": rows}  # fmt: skip
    write_json(_note_path(out, source.name), note)


def _finish(
    settings: ConversionSettings, names: Sequence[str], about: dict[str, Any], unusable: Sequence[Unusable]
) -> tuple[Domain, pd.DataFrame]:
    """The domain of all the named sources that are converted, and the table of those that are not in it."""
    out, recipe = settings.out, settings.recipe
    failed = {error.label for error in unusable}
    paths = [_note_path(out, name) for name in names]
    notes = [json.loads(path.read_text()) for path in paths if path.is_file()]
    notes, copies = _without_copies([note for note in notes if note["shown"] not in failed])
    table = _unusable_table([*unusable, *copies])
    write_atomically(out / "unusable.csv", lambda aside: table.to_csv(aside, index=False, errors="backslashreplace"))
    if not notes:
        first = table.iloc[0]
        raise ValueError(
            f"{out}: nothing usable among {len(table)} sources, see unusable.csv; the first: "
            f"{first['file']}: {first['why']}: {first['what_to_do']}"
        )
    rows = [
        {"file": row["file"], "split": settings.shares.split_of(note["drawn_by"]), "scene": note["scene"], **row}
        for note in notes
        for row in note["rows"]
    ]
    sides = [recipe.height_px, recipe.width_px]
    description: dict[str, Any] = {
        "name": settings.name or out.resolve().name,
        "frames_per_second": recipe.frames_per_second,
        "size_px": sides if sides[0] != sides[1] else sides[0],
        "fit": recipe.fit,
    }
    if settings.prompt:
        description["prompt"] = settings.prompt
    tables = [_joined_parts(out, notes, kind) for kind in ("tracks", "ego")]
    return write_domain(out, description | about, pd.DataFrame(rows), *tables), table


def _without_copies(notes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Unusable]]:
    """Copies of a video could be in two splits: the first one stays."""
    seen: dict[str, str] = {}
    kept, copies = [], []
    for note in notes:
        checksums = [row["sha256"] for row in note["rows"]]
        original = next((seen[checksum] for checksum in checksums if checksum in seen), "")
        if original:
            copies.append(Unusable(note["shown"], f"shows the same as {original}", "take one of them away"))
        else:
            kept.append(note)
            seen |= dict.fromkeys(checksums, note["shown"])
    return kept, copies


def _joined_parts(out: Path, notes: list[dict[str, Any]], kind: str) -> pd.DataFrame | None:
    """A table of all sources; None where it is not known of all."""
    parts = [_part_path(out, note["name"], kind) for note in notes]
    if not all(path.is_file() for path in parts):
        return None
    return pd.concat(map(pd.read_parquet, parts), ignore_index=True)


def _unusable_table(unusable: Sequence[Unusable]) -> pd.DataFrame:
    rows = sorted((error.row() for error in unusable), key=lambda row: row["file"])
    return pd.DataFrame(rows, columns=["file", "why", "what_to_do"])


def _note_path(out: Path, name: str) -> Path:
    return out / "sources" / f"{name}.note.json"


def _part_path(out: Path, name: str, kind: str) -> Path:
    return out / "sources" / f"{name}-{kind}.parquet"
