"""Conversion of the sources of an importer (video files; scenes, segments or sequences of a data set) into a domain.

Decision: `placement` assigns scenes to splits. For every converted source a note is written to `sources/`; a source with a
valid note is not converted again. A source that cannot be used is `Unusable`: it becomes a row of `unusable.csv`, and the
others are converted. The parts of a long source are read in parallel; its note is written after the last of them.

Refused: a folder with other contents, without write permission or begun with another recipe, a copy of an earlier source (it
could be in another split), and a domain without any usable source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replaylab.data.domain import Domain, write_domain
from replaylab.data.importers import look_alikes
from replaylab.data.importers.notes import (
    Video,
    checksums,
    hashes_by_scene,
    is_converted,
    joined_tables,
    mark_as_copy,
    note_path,
    read_note,
    rows_by_scene,
    write_note,
)
from replaylab.data.importers.placement import PLACES_FILE, Places, SplitShares, empty_splits
from replaylab.data.importers.sources import Fit, ImageSequence, Recipe, Source, Unusable, seconds_per_picture
from replaylab.data.video import write_video
from replaylab.description import check_name, check_prompt
from replaylab.util import reading
from replaylab.util.files import locked, sha256, write_atomically, write_json
from replaylab.util.processes import map_in_processes
from replaylab.util.progress import report
from replaylab.util.text import duration

RECIPE_FILE = "sources/recipe.json"  # the settings with which a folder was begun


@dataclass(frozen=True)
class ConversionSettings:
    """The settings shared by all importers."""

    out: Path
    recipe: Recipe = Recipe()
    shares: SplitShares = SplitShares(0.1, 0.1)
    name: str = ""  # of the domain; the folder's if empty
    licence: str = ""
    prompt: str = ""  # a description of its videos, for models with a text condition
    processes: int = 1
    dry_run: bool = False


@dataclass(frozen=True)
class ConversionResult:
    """The domain, and the converted and unusable sources."""

    domain: Domain | None  # None after a dry run
    listing: pd.DataFrame  # one row per source that was converted, or would be
    unusable: pd.DataFrame  # file, why, what_to_do
    look_alikes: pd.DataFrame  # scene, looks_like, split: scenes that share a split because they are near-duplicates


def check(settings: ConversionSettings, origin: str) -> None:
    """Check the settings; raises ValueError, with the field, also unless `out` is empty or was begun by the same command."""
    check_name(settings.name or settings.out.resolve().name, f"{settings.out}: --name (by default the folder's)")
    check_prompt(settings.prompt, "prompt")
    dev, test = settings.shares
    if not (dev >= 0 and test >= 0 and dev + test <= 1):
        raise ValueError(f"dev {dev}, test {test}: shares of scenes, from 0 to 1 together")
    out, wanted = settings.out, {"origin": origin, **asdict(settings.recipe)}
    path = out / RECIPE_FILE
    if path.exists():
        known = reading.json_object(path, "give a new --out")
        for name, value in wanted.items():
            if (before := known.get(name)) != value:
                raise ValueError(f"{out}: was begun with {name} {before!r}, not {value!r}; give another --out")
    elif (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ValueError(f"{out}: exists, and was not begun by `domain add`; give a new --out for the domain")
    if not settings.dry_run:
        _check_writable(out)


def _check_writable(out: Path) -> None:
    """Raises ValueError if a folder cannot be created or written to."""
    place = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"{out}: nothing can be written to {place} ({error.strerror}); give another --out") from error


def sources_of(
    settings: ConversionSettings, openers: Iterable[Callable[[], ImageSequence]]
) -> tuple[list[Source], list[Unusable]]:
    """The sources among sequences of images that are not converted yet, and those that cannot be used."""
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
    unusable: Sequence[Unusable], about: dict[str, Any], of_video_files: bool = False,
) -> ConversionResult:  # fmt: skip
    """Convert the missing sources, and complete the domain of all sources `names`; an estimate is reported first.

    `origin` describes the importer in words that never change for this domain; `about` has further fields of domain.json.
    `of_video_files`: near-duplicate scenes are assigned to one split, and long files can be cut into scenes. Raises
    ValueError if no source is usable, after writing unusable.csv.
    """
    if len(sources) + len(unusable) < len(names):
        done = len(names) - len(sources) - len(unusable)
        report(f"{settings.out}: {done} of {len(names)} sources were already converted")
    if sources:
        report(_estimate(settings, sources))
    places = _places(settings, names)
    for line in empty_splits(_splits_to_be(settings.out, names, sources, places), settings.shares, of_video_files):
        report(f"{settings.out}: {line}")
    if settings.dry_run:
        return ConversionResult(None, _listing(sources, places), _unusable_table(unusable), _look_alike_table(places))
    with locked(settings.out):
        check(settings, origin)  # again: another command may have begun the folder in the meantime
        write_json(settings.out / RECIPE_FILE, {"origin": origin, **asdict(settings.recipe)})
        places = _places(settings, names)
        places.write(settings.out)
        unusable = [*unusable, *_convert_missing(settings, sources, of_video_files)]
        domain, table = _finish(settings, names, about, unusable, places, of_video_files)
    return ConversionResult(domain, _listing(sources, places), table, _look_alike_table(places))


def _places(settings: ConversionSettings, names: Sequence[str]) -> Places:
    """The stored assignments; for an older domain without them, or with other shares, those by the scenes' names."""
    out, shares = settings.out, settings.shares
    if known := Places.read(out, shares):
        return known
    places = Places(shares)
    if (out / PLACES_FILE).is_file() or not (out / "domain.json").is_file():
        return places
    for note in filter(None, (read_note(out, name) for name in names)):
        places.stamps[note["name"]] = note["stamp"]
        places.splits |= {scene: shares.split_of(scene) for scene in rows_by_scene(note)}
    return places


def _splits_to_be(out: Path, names: Sequence[str], sources: Sequence[Source], places: Places) -> dict[str, str]:
    """The splits by scene of all sources, including those that are not converted yet."""
    notes = filter(None, (read_note(out, name) for name in names))
    scenes = {scene for note in notes for scene in rows_by_scene(note)}
    scenes |= {scene for source in sources for scene in source.scenes or [source.split_key]}
    return {scene: places.split_of(scene) for scene in sorted(scenes)}


def _listing(sources: Sequence[Source], places: Places) -> pd.DataFrame:
    """`ConversionResult.listing`."""
    return pd.DataFrame([
        {"file": source.label, **source.about, "files": len(source.pieces), "frames": source.frames,
         "scene": source.scene, "split": _described_splits(source, places)}
        for source in sources
    ])  # fmt: skip


def _described_splits(source: Source, places: Places) -> str:
    """The split of a source, or the number of its scenes in each: "train 5, test 1"."""
    splits = [places.split_of(scene) for scene in dict.fromkeys(source.scenes or [source.split_key])]
    return splits[0] if len(splits) == 1 else ", ".join(f"{split} {splits.count(split)}" for split in dict.fromkeys(splits))


def _estimate(settings: ConversionSettings, sources: Sequence[Source]) -> str:
    files = sum(len(source.pieces) for source in sources)
    frames = sum(source.frames for source in sources)
    parts = sum(len(source.parts) for source in sources)
    seconds = sum(source.seconds for source in sources) / max(1, min(settings.processes, parts))
    of_video = duration(frames / settings.recipe.frames_per_second)
    return (
        f"{len(sources)} sources to convert: {frames} frames, {of_video} of video in {files} files; "
        f"at least {duration(seconds)}"
    )


def _convert_missing(settings: ConversionSettings, sources: Sequence[Source], hashed: bool) -> list[Unusable]:
    """Make the videos of all sources, in several processes; returns those that could not be converted."""
    missing = [source for source in sources if not is_converted(settings.out, source.name, source.stamp)]
    if not missing:  # another process may have made them while this one waited
        return []
    (settings.out / "domain.json").unlink(missing_ok=True)  # written again when all are converted
    (settings.out / "videos").mkdir(exist_ok=True)
    jobs, left = [], {source.name: len(source.parts) for source in missing}
    for source in missing:
        note_path(settings.out, source.name).unlink(missing_ok=True)
        _delete_videos(settings.out, source.name)
        ends = [*source.parts[1:], len(source.pieces)]
        light = replace(source, tracks=None, ego=None)  # sent to other processes
        jobs += [(light, start, end) for start, end in zip(source.parts, ends, strict=True)]
    by_name = {source.name: source for source in missing}
    done: dict[str, dict[str, Video]] = {source.name: {} for source in missing}
    errors: dict[str, Unusable] = {}
    unit = "sources" if len(jobs) == len(missing) else "parts of sources"
    convert_one = partial(_try_to_convert, settings.out, settings.recipe, hashed)
    for name, made in map_in_processes(convert_one, jobs, settings.processes, "converting", unit):
        left[name] -= 1
        if isinstance(made, Unusable):
            errors[name] = made
        else:
            done[name] |= made
        if not left[name] and name not in errors:
            write_note(settings.out, by_name[name], done[name])
    for name in errors:  # videos made before the damage was detected
        _delete_videos(settings.out, name)
    return list(errors.values())


def _delete_videos(out: Path, name: str) -> None:
    for path in (out / "videos").glob(f"{name}-[0-9]*.mp4"):
        path.unlink()


def _try_to_convert(
    out: Path, recipe: Recipe, hashed: bool, job: tuple[Source, int, int]
) -> tuple[str, dict[str, Video] | Unusable]:
    """The name of a source, and its videos of some pieces (first, last + 1), or the reason why there are none."""
    source, start, end = job
    try:
        return source.name, _convert_pieces(out, recipe, hashed, source, start, end)
    except Unusable as error:
        return source.name, error


def _convert_pieces(out: Path, recipe: Recipe, hashed: bool, source: Source, start: int, end: int) -> dict[str, Video]:
    """Write the videos of some pieces of a source; returns them by file."""
    chosen, videos = source.pieces[start:end], {}
    images = source.read([number for piece in chosen for number in piece])
    for file, piece in zip(source.files()[start:end], chosen, strict=True):
        fitted = [Fit.of(each.shape[0], each.shape[1], recipe).picture(each) for _, each in zip(piece, images, strict=False)]
        if len(fitted) < len(piece):
            raise Unusable(source.label, "damaged: not all of its frames can be decoded", "copy it again")
        path = out / "videos" / file
        frames = np.stack(fitted)
        write_atomically(path, lambda aside, frames=frames: write_video(aside, frames, recipe.frames_per_second))
        hashes = look_alikes.hashes(frames, recipe.frames_per_second) if hashed else None
        videos[file] = Video(len(piece), sha256(path), hashes)
    return videos


def _finish(
    settings: ConversionSettings, names: Sequence[str], about: dict[str, Any], unusable: Sequence[Unusable], places: Places,
    join_look_alikes: bool,
) -> tuple[Domain, pd.DataFrame]:  # fmt: skip
    """The domain of all converted sources among `names`, and the table of those that are not in it."""
    out, recipe = settings.out, settings.recipe
    failed = {error.label for error in unusable}
    notes = [note for name in names if (note := read_note(out, name)) is not None and note["shown"] not in failed]
    # assigned sources come first, former copies last
    notes.sort(key=lambda note: ("twin_of" in note, places.stamps.get(note["name"]) != note["stamp"]))
    notes, copies = _without_copies(out, notes)
    torn = _place(out, recipe, notes, places, join_look_alikes)
    order = {name: number for number, name in enumerate(names)}
    notes.sort(key=lambda note: order[note["name"]])
    places.stamps = {note["name"]: note["stamp"] for note in notes}
    places.write(out)
    table = _unusable_table([*unusable, *copies, *torn.values()])
    write_atomically(out / "unusable.csv", lambda aside: table.to_csv(aside, index=False, errors="backslashreplace"))
    rows = [
        {"file": row["file"], "split": places.splits[scene], "scene": note["scene"], **row}
        for note in notes
        for scene, of_scene in rows_by_scene(note).items()
        if (note["name"], scene) not in torn
        for row in of_scene
    ]
    if not rows:
        first = table.iloc[0]
        raise ValueError(
            f"{out}: nothing usable among {len(table)} sources, see unusable.csv; the first: "
            f"{first['file']}: {first['why']}: {first['what_to_do']}"
        )
    sides = [recipe.height_px, recipe.width_px]
    description: dict[str, Any] = {
        "name": settings.name or out.resolve().name,
        "frames_per_second": recipe.frames_per_second,
        "size_px": sides if sides[0] != sides[1] else sides[0],
        "fit": recipe.fit,
    }
    if settings.prompt:
        description["prompt"] = settings.prompt
    tables = [joined_tables(out, notes, kind) for kind in ("tracks", "ego")]
    return write_domain(out, description | about, pd.DataFrame(rows), *tables), table


def _without_copies(out: Path, notes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Unusable]]:
    """The notes without copies, which could be in another split: the first is used, the others' videos are deleted."""
    seen: dict[str, dict[str, Any]] = {}
    kept, copies = [], []
    for note in notes:
        original = next((seen[checksum] for checksum in checksums(note) if checksum in seen), None)
        if original is not None:
            copies.append(Unusable(note["shown"], f"shows the same as {original['shown']}", "remove one of them"))
            mark_as_copy(out, note, original["name"])
        elif "twin_of" in note:  # a copy of a source that has changed since
            note_path(out, note["name"]).unlink()
            why = "showed the same as another file, which has changed"
            copies.append(Unusable(note["shown"], why, "give the same command again"))
        else:
            kept.append(note)
            seen |= dict.fromkeys(checksums(note), note)
    return kept, copies


def _place(
    out: Path, recipe: Recipe, notes: Sequence[dict[str, Any]], places: Places, join_look_alikes: bool
) -> dict[tuple[str, str], Unusable]:
    """Assign every scene to a split, in the order of the notes; returns, by note and scene, those that would be in two."""
    new = [note for note in notes if places.stamps.get(note["name"]) != note["stamp"]]
    like: dict[str, list[str]] = {}
    if join_look_alikes and new:
        hashes: dict[str, list[str]] = {}
        for note in notes:
            for scene, texts in hashes_by_scene(out, recipe, note).items():
                hashes.setdefault(scene, []).extend(texts)
        fresh = {scene for note in new for scene in rows_by_scene(note)}
        like = look_alikes.alike({scene: texts for scene, texts in hashes.items() if scene in fresh}, hashes)
    torn = {}
    for note in notes:
        for scene in rows_by_scene(note):
            others = [other for other in like.get(scene, []) if other in places.splits]
            if by_split := places.place(scene, others if note in new else []):
                where = " and ".join(f"{other} ({split})" for split, other in sorted(by_split.items()))
                torn[note["name"], scene] = Unusable(
                    note["shown"] if scene == note["drawn_by"] else scene, f"shows nearly the same as {where}",
                    "remove all but one of them, or start a new --out",
                )  # fmt: skip
    return torn


def _look_alike_table(places: Places) -> pd.DataFrame:
    rows = [
        (scene, others[0] + (f" and {len(others) - 1} more" if len(others) > 1 else ""), places.splits[scene])
        for scene, others in sorted(places.looks_like.items())
    ]
    return pd.DataFrame(rows, columns=["scene", "looks_like", "split"])


def _unusable_table(unusable: Sequence[Unusable]) -> pd.DataFrame:
    rows = sorted((error.row() for error in unusable), key=lambda row: row["file"])
    return pd.DataFrame(rows, columns=["file", "why", "what_to_do"])
