"""Importer of a folder of any video files as a domain.

Decision: all files are listed and probed (`recording`) before the conversion, so that unusable files, the duration of the
conversion and empty splits are reported first. A scene, which is never in two splits, is a file, all files of a folder, or a
part of a file: between two cuts, or of a given length. Between two scenes of a given length the length of a clip is left
out, because the end of one is nearly the same as the beginning of the next. Such a domain has no tracks and no ego motion.

A file that is not a video, is truncated, too short or has too few frames per second is `Unusable`. Files with other
extensions are ignored. Refused: a folder without video files.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from replaylab.data.importers import conversion
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.listing import ENDINGS, Listing, listed
from replaylab.data.importers.notes import is_converted
from replaylab.data.importers.recording import Recording, probe, scene_changes
from replaylab.data.importers.sources import Fit, Recipe, Source, Unusable, left_out, pieces, stamp_of
from replaylab.util.processes import map_in_processes
from replaylab.util.progress import report

SCENES = ("file", "folder", "cuts")
PART_S = 120.0  # of a source, read by one process


@dataclass(frozen=True)
class Scenes:
    """The definition of a scene, and the video stream that is read of files with several."""

    of: str = "file"  # of SCENES
    seconds: float = 0.0  # the approximate length of the scenes into which files are cut; 0: they are not cut
    stream: int | None = None  # None: the one that players show

    def __post_init__(self) -> None:
        if self.of not in SCENES:
            raise ValueError(f"scene_from: {self.of!r} is none of {', '.join(SCENES)}")
        if self.seconds < 0 or (self.stream or 0) < 0:
            raise ValueError(f"scene_seconds {self.seconds:g}, stream {self.stream}: neither may be below 0")
        if self.seconds and self.of == "folder":
            raise ValueError(
                "scene_seconds cuts files into scenes, and scene_from folder joins files into one: give one of them"
            )

    @property
    def origin(self) -> str:
        """The importer with its settings, in words that never change for a domain."""
        parts = f", {self.seconds:g} s each" if self.seconds else "", f", stream {self.stream}" if self.stream else ""
        return f"videos, scene from {self.of}" + "".join(parts)


def add(folder: Path, settings: ConversionSettings, scene_from: str = "file", scene_seconds: float = 0.0,
        stream: int | None = None) -> ConversionResult:  # fmt: skip
    """Make a domain of all video files in and below a folder; an interrupted conversion is resumed, and new files are added.

    `scene_from`: a scene is a file, all files of a folder, or the part between two cuts (SCENES); `scene_seconds` and
    `stream` as in `Scenes`. Raises ValueError if no file is usable, and for a `settings.out` with other contents.
    """
    scenes = Scenes(scene_from, scene_seconds, stream)
    clip_s = settings.recipe.frames / settings.recipe.frames_per_second
    if 0 < scene_seconds < 2 * clip_s:
        raise ValueError(
            f"scene_seconds: {scene_seconds:g}; a clip has {clip_s:g} s, and a scene needs at least two of them"
        )
    conversion.check(settings, scenes.origin)
    files = _video_files(folder, settings.out)
    names = {file: _name_of(file) for file in files.videos}
    new = [
        file
        for file, name in names.items()
        if not is_converted(settings.out, name, stamp_of([folder / file]), names.values())
    ]
    probe_one = partial(_probed, folder, settings.recipe, scenes)
    probed = map_in_processes(probe_one, new, settings.processes, f"probing {folder}", "files")
    ordered = sorted(probed, key=lambda one: one.label)
    sources = [one for one in ordered if isinstance(one, Source)]
    unusable = [*files.unusable, *(one for one in ordered if isinstance(one, Unusable))]
    _remark(sources)
    about = {"licence": settings.licence or "unknown", "made_by": "replaylab.videos"}
    return conversion.convert(settings, scenes.origin, list(names.values()), sources, unusable, about, of_video_files=True)


def _video_files(folder: Path, out: Path) -> Listing:
    """`listing.listed`, without the files in `out`; raises ValueError if there is no video file."""
    if (folder / "domain.json").is_file():
        raise ValueError(f"{folder} is a domain already; use it as it is")
    files = listed(folder, out)
    if not files.videos and not files.unusable:
        others = files.described_others
        raise ValueError(f"{folder}: no video files in or below it ({others}); extensions: {' '.join(ENDINGS)}")
    if files.others:
        number, _, which = files.described_others.partition(":")
        report(f"{folder}: {len(files.videos)} video files; {number} are ignored:{which}")
    return files


def _name_of(file: str) -> str:
    """A name for a file's videos: readable, and unique to this relative path."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", file.rpartition(".")[0]).strip("-")[-60:]
    return f"{readable or 'video'}-{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"


def _probed(folder: Path, recipe: Recipe, scenes: Scenes, file: str) -> Source | Unusable:
    path = folder / file
    try:
        known = probe(path, file, scenes.stream)
        starts = _scene_starts(known, scenes)
        spans = _spans(known, starts, recipe.frames / recipe.frames_per_second if scenes.seconds else 0.0)
        chosen = pieces(known.times_s, recipe, file, spans)
    except Unusable as error:
        return error
    times_s = known.times_s
    seconds, why = left_out(times_s, chosen, recipe, spans)
    about = {
        "filmed_px": f"{known.height_px}x{known.width_px}",
        "turned_deg": known.looks.turned_deg,
        "filmed_frames_per_second": round(known.frames_per_second, 3),
        "varies": known.varies,
        "filmed_s": round(times_s[-1] - times_s[0], 2),
        "left_out_s": seconds,
        "left_out_why": why,
        "remarks": _remarks(known, recipe),
    }
    scene = Path(file).parent.as_posix() if scenes.of == "folder" else file
    of_pieces = [bisect_right(starts, piece[0]) - 1 for piece in chosen]
    return Source(
        _name_of(file), file, scene, scene, stamp_of([path]), chosen, replace(known).pictures,
        known.seconds_per_picture * len(times_s), about=about,
        scenes=tuple(f"{file} from {times_s[starts[at]] - times_s[0]:.2f} s" for at in of_pieces) if len(starts) > 1 else (),
        parts=_parts(known, chosen),
    )  # fmt: skip


def _scene_starts(known: Recording, scenes: Scenes) -> list[int]:
    """The numbers of the frames at which scenes start, including the first."""
    starts = {0, *(scene_changes(known) if scenes.of == "cuts" else [])}
    if scenes.seconds:
        times_s = np.array(known.times_s)
        for start, stop in zip(sorted(starts), [*sorted(starts)[1:], len(times_s)], strict=True):
            length_s = times_s[stop - 1] - times_s[start]
            count = max(1, round(length_s / scenes.seconds))
            starts |= {int(one) for one in np.searchsorted(times_s, times_s[start] + length_s * np.arange(count) / count)}
    return sorted(starts)


def _spans(known: Recording, starts: list[int], margin_s: float) -> list[tuple[int, int]]:
    """The usable ranges of frames, by scene and clock, without the last `margin_s` of every scene except the last."""
    times_s, spans = known.times_s, []
    for start, stop in zip(starts, [*starts[1:], len(times_s)], strict=True):
        if stop < len(times_s):
            stop = bisect_right(times_s, times_s[stop] - margin_s - 1e-9, start, stop) if margin_s else stop
        clocks = [start, *(number for number in known.clock_starts if start < number < stop), stop]
        spans += [(first, last) for first, last in pairwise(clocks) if first < last]
    return spans


def _parts(known: Recording, chosen: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """`Source.parts`: a part for every PART_S of the file, if reading can begin at any frame."""
    parts = [0]
    for number, piece in enumerate(chosen):
        if known.seekable and known.times_s[piece[0]] - known.times_s[chosen[parts[-1]][0]] >= PART_S:
            parts.append(number)
    return tuple(parts)


def _remarks(known: Recording, recipe: Recipe) -> str:
    """Further conversions of the frames, and peculiarities of the file, in words."""
    looks, larger = known.looks, float(max(Fit.of(known.height_px, known.width_px, recipe).scale))
    said = {
        "mirrored": looks.mirrored,
        "deinterlaced": looks.interlaced,
        f"{looks.colours} converted to BT.709": bool(looks.colours),
        f"clock restarts {len(known.clock_starts) - 1} times": len(known.clock_starts) > 1,
        f"{known.other_streams} more video streams (--stream)": known.other_streams > 0,
        f"enlarged {larger:.1f} times": larger > 1.05,
    }
    return "; ".join(remark for remark, holds in said.items() if holds)


def _remark(sources: list[Source]) -> None:
    """Report the remarks and the omitted parts, one line for all files with the same remark."""
    kinds: dict[str, list[str]] = {}
    for source in sources:
        for remark in filter(None, source.about["remarks"].split("; ")):
            kinds.setdefault(re.sub(r" [\d.]+ times$", "", remark), []).append(source.label)
        if source.about["left_out_s"]:
            kinds.setdefault("partly left out (columns left_out_s, left_out_why)", []).append(source.label)
    for kind, labels in kinds.items():
        report(f"{kind}: {len(labels)} files, e.g. {labels[0]}" if len(labels) > 1 else f"{kind}: {labels[0]}")
