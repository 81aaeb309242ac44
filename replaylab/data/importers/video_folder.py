"""A folder of any video files as a domain.

Decision: a file is first demuxed without decoding, for the times of its pictures: they give its length, its regularity, and
whether its end is missing. Then its first pictures are decoded, for their shape and the time that takes. So a folder is
known, and the work estimated, before anything is converted. Pictures are taken as a player shows them: turned as the file
says, and with square pixels. Such a domain has no tracks and no ego car.

A file that is no video, is cut off, too short or too slow is `Unusable`. Other files are ignored. Refused: a folder without
video files.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from replaylab.data.importers import conversion
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.sources import Picture, Recipe, Source, Unusable, pieces, stamp_of
from replaylab.util.processes import map_in_processes
from replaylab.util.progress import report

ENDINGS = (  # in lower case
    ".3gp", ".asf", ".avi", ".flv", ".h264", ".hevc", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
SCENES = ("file", "folder")
TIMED_PICTURES = 12  # decoded to see how long all will take
LEAST_MISSING_S = 1.0  # and a twentieth: less of a video's end is no sign of a cut


@dataclass(frozen=True)
class _Probe:
    """The size and times of a video file's pictures."""

    height_px: int
    width_px: int  # as shown: turned, and with square pixels
    turned_deg: int  # by which a player turns it to the left
    times_s: list[float]  # of the pictures, ascending
    stamps: list[int]  # the same in the file's own unit
    seconds_per_picture: float  # of decoding

    @property
    def frames_per_second(self) -> float:
        """By the median time between pictures."""
        return 1 / float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 0.0

    @property
    def varies(self) -> bool:
        """Whether some picture is shown 1.5 times as long as the median, or half as long."""
        steps = np.diff(self.times_s) * self.frames_per_second
        return bool(len(steps) and (steps.max() > 1.5 or steps.min() < 0.5))


def add(folder: Path, settings: ConversionSettings, scene_from: str = "file") -> ConversionResult:
    """Make a domain of all video files in and below a folder; continues where it was stopped, and with new files.

    `scene_from`: a scene is a file, or all files of a folder. Raises ValueError where no file is usable, and for a
    `settings.out` that holds something else.
    """
    if scene_from not in SCENES:
        raise ValueError(f"scene_from: {scene_from!r} is none of {', '.join(SCENES)}")
    origin = f"videos, scene from {scene_from}"
    conversion.check(settings, origin)
    files = _video_files(folder, settings.out)
    new = [file for file in files if not conversion.is_converted(settings.out, _name_of(file), stamp_of([folder / file]))]
    probe_one = partial(_probed, folder, settings.recipe, scene_from)
    probed = map_in_processes(probe_one, new, settings.processes, f"probing {folder}", "files")
    ordered = sorted(probed, key=lambda one: one.label)
    sources = [one for one in ordered if isinstance(one, Source)]
    unusable = [one for one in ordered if isinstance(one, Unusable)]
    about = {"licence": settings.licence or "unknown", "made_by": "replaylab.videos"}
    return conversion.convert(settings, origin, [_name_of(file) for file in files], sources, unusable, about)


def _video_files(folder: Path, out: Path) -> list[str]:
    """Video files in and below a folder, by their endings, sorted, relative to it; without hidden ones and those of `out`.

    Raises ValueError if there is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if (folder / "domain.json").is_file():
        raise ValueError(f"{folder} is a domain already; use it as it is")
    videos, others = [], 0
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".") and (Path(place) / name).resolve() != out.resolve()]
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in ENDINGS:
                videos.append((Path(place) / name).relative_to(folder).as_posix())
            else:
                others += 1
    if not videos:
        raise ValueError(f"{folder}: no video files in or below it ({others} others); endings: {' '.join(ENDINGS)}")
    if others:
        report(f"{folder}: {len(videos)} video files; {others} others are not looked at")
    return sorted(videos)


def _name_of(file: str) -> str:
    """A name for a file's videos: readable, and of this relative path alone."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", file.rpartition(".")[0]).strip("-")[-60:]
    return f"{readable or 'video'}-{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"


def _probe(path: Path, label: str) -> _Probe:
    """What a video file is; raises Unusable, under its `label`."""
    if not path.stat().st_size:
        raise Unusable(label, "empty", "copy it again")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Unusable(label, "has no pictures, only sound or data", "leave it out")
            stamps, unit = _stamps(container, label)
        if stamps is None:
            stamps = _decoded_stamps(path)
        first, square, seconds_per_picture = _first_picture(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        why = f"no video, or damaged at its beginning ({type(error).__name__})"
        raise Unusable(label, why, "if it plays, convert it: ffmpeg -i FILE new.mp4; else copy it again") from error
    if not stamps:
        raise Unusable(label, "its pictures have no times", "give it some: ffmpeg -fflags +genpts -i FILE -c copy new.mp4")
    if first.rotation % 90:
        raise Unusable(label, f"turned by {first.rotation} degrees", "turn it: ffmpeg -i FILE new.mp4")
    height, width = _upright(np.zeros((first.height, first.width, 3), np.uint8), first.rotation, square).shape[:2]
    times = [float(stamp * unit) for stamp in stamps]
    return _Probe(height, width, first.rotation, times, stamps, seconds_per_picture)


def _pictures(path: Path, label: str, stamps: Sequence[int], wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of a video file, whose pictures are at `stamps`; raises Unusable where one cannot be decoded."""
    due = {stamps[number] for number in wanted}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # files are converted side by side
            square = float(stream.sample_aspect_ratio or 1)
            for frame in container.decode(stream):
                if frame.pts in due:
                    due.remove(frame.pts)
                    picture: Any = frame.to_ndarray(format="rgb24")
                    yield _upright(picture, frame.rotation, square)
                if not due:
                    return
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Unusable(label, f"damaged: cannot be decoded ({type(error).__name__})", "copy it again") from error
    raise Unusable(label, f"damaged: {len(due)} of its pictures cannot be decoded", "copy it again")


def _probed(folder: Path, recipe: Recipe, scene_from: str, file: str) -> Source | Unusable:
    path = folder / file
    try:
        known = _probe(path, file)
        chosen = pieces(known.times_s, recipe, file)
    except Unusable as error:
        return error
    scene = file if scene_from == "file" else Path(file).parent.as_posix()
    about = {
        "filmed_px": f"{known.height_px}x{known.width_px}",
        "turned_deg": known.turned_deg,
        "filmed_frames_per_second": round(known.frames_per_second, 3),
        "varies": known.varies,
        "filmed_s": round(known.times_s[-1] - known.times_s[0], 2),
    }
    return Source(
        _name_of(file), file, scene, scene, stamp_of([path]), chosen,
        partial(_pictures, path, file, known.stamps), known.seconds_per_picture * len(known.times_s), about=about,
    )  # fmt: skip


def _stamps(container: Any, label: str) -> tuple[list[int] | None, Any]:
    """The times of the pictures and their unit, from the packets alone; None where these have no times.

    Raises Unusable for a file whose end is missing.
    """
    stream = container.streams.video[0]
    stamps: list[int] = []
    packets, last_s = 0, 0.0
    complete = True
    for packet in container.demux(stream):
        if not packet.size or packet.is_corrupt:  # the end; or the part of a packet before a cut
            continue
        packets += 1
        if packet.pts is None:
            complete = False
        elif not packet.is_discard:
            insort(stamps, packet.pts)
            last_s = max(last_s, float((packet.pts + (packet.duration or 0)) * stream.time_base))
    if stream.frames > packets:
        raise _cut_off(label, f"{packets} of its {stream.frames} pictures are there")
    length_s = _length_s(container, stream)
    if complete and length_s - last_s > max(LEAST_MISSING_S, length_s / 20):
        raise _cut_off(label, f"{last_s:.1f} of its {length_s:.1f} s are there")
    return (sorted(set(stamps)) if complete else None), stream.time_base


def _length_s(container: Any, stream: Any) -> float:
    """The length of the pictures by the file's header; 0 where it has none."""
    start = stream.start_time or 0
    if stream.duration:
        return float((start + stream.duration) * stream.time_base)
    if container.duration and len(container.streams) == 1:  # the sound may be longer
        return container.duration / av.time_base
    return 0.0


def _cut_off(label: str, what: str) -> Unusable:
    return Unusable(label, f"cut off: {what}", "copy it again, or keep what is there: ffmpeg -i FILE new.mp4")


def _decoded_stamps(path: Path) -> list[int]:
    """The times of decoded pictures: old containers have times for some packets only."""
    with av.open(str(path)) as container:
        return sorted({frame.pts for frame in container.decode(video=0) if frame.pts is not None})


def _first_picture(path: Path) -> tuple[Any, float, float]:
    """The first frame, the aspect ratio of its pixels, and the seconds that a picture takes to decode."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # as they will be converted
        start = time.perf_counter()
        frames = list(islice(container.decode(video=0), TIMED_PICTURES))
        seconds = time.perf_counter() - start
        if not frames:
            raise ValueError("no picture can be decoded")
        return frames[0], float(container.streams.video[0].sample_aspect_ratio or 1), seconds / len(frames)


def _upright(picture: Picture, turned_deg: int, square: float) -> Picture:
    """As a player shows it: with square pixels, then turned to the left."""
    if square != 1:
        height, width = picture.shape[:2]
        wider = (max(1, round(width * square)), height)
        picture = np.asarray(Image.fromarray(picture).resize(wider, Image.Resampling.BICUBIC))
    return np.rot90(picture, turned_deg // 90)
