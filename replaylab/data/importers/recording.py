"""Reading of any video file as a player shows it.

Decision: a file is demuxed once without decoding to get the timestamps of its frames, which give its length and regularity,
whether its end is missing, and where its clock restarts (in concatenated files). Then its first frames are decoded to get
their geometry, colours and decoding time. Frames are deinterlaced to one frame for two fields (`bwdif`) and converted to
what a player shows (`display`). Frames that an edit list hides or that precede the first key frame are skipped. Of several
video streams, the one that players show is read, or the requested one; cover images do not count.

Refused, as `Unusable`: files that are not videos, are truncated or damaged, have no timestamps (raw streams, whose rate is
unknown: `raw_stream`), are rotated by other angles than multiples of 90 degrees, or have unsupported colours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph
from av.format import Flags as FormatFlags
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from replaylab.data.importers.display import Looks, looks_of
from replaylab.data.importers.sources import Picture, Unusable

TIMED_PICTURES = 12  # decoded to estimate the time for all
LEAST_MISSING_S = 1.0  # and a twentieth of its length: a file is truncated if more is missing at its end
SCENE_SCORE = 0.3  # threshold of FFmpeg's score, from 0 to 1; its documentation recommends 0.3 to 0.5
LONGEST_STILL_S = 3600.0  # a larger jump is a restart of the clock
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
COPY_AGAIN = "copy it again"
CONVERT = "if it plays, convert it: ffmpeg -i FILE new.mp4; else copy it again"


class NoVideo(Unusable):
    """A file without a video."""


@dataclass(frozen=True)
class Recording:
    """A video file, and the properties of its frames."""

    path: Path
    label: str  # its name in messages
    stream: int  # the number of the video stream in the file
    other_streams: int
    height_px: int
    width_px: int  # as shown
    looks: Looks
    stamps: NDArray[np.int64]  # (frames, 2): the number of the clock, and the time by it in units of `unit_s`; ascending
    unit_s: float
    seconds_per_picture: float  # of decoding
    seekable: bool  # whether reading can begin at any frame

    @cached_property
    def times_s(self) -> list[float]:
        """The times of the frames, ascending; a restarted clock continues where the previous one ended."""
        times = self.stamps[:, 1] * self.unit_s
        for start in self.clock_starts[1:]:
            times[start:] += times[start - 1] - times[start] + 1 / (self.frames_per_second or 1)
        return [float(one) for one in times]

    @property
    def clock_starts(self) -> list[int]:
        """The numbers of the frames at which a clock starts: 0, and those at which the file's clock restarts."""
        return [0, *(int(number) + 1 for number in np.flatnonzero(np.diff(self.stamps[:, 0])))]

    @cached_property
    def steps_s(self) -> NDArray[np.float64]:
        """The times between successive frames of the same clock."""
        return np.diff(self.stamps[:, 1])[np.diff(self.stamps[:, 0]) == 0] * self.unit_s

    @property
    def frames_per_second(self) -> float:
        """The frame rate, from the median time between frames; 0 for a single frame."""
        return 1 / float(np.median(self.steps_s)) if len(self.steps_s) else 0.0

    @property
    def varies(self) -> bool:
        """Whether any frame is shown more than 1.5 times or less than half as long as the median."""
        steps = self.steps_s * self.frames_per_second
        return bool(len(steps) and (steps.max() > 1.5 or steps.min() < 0.5))

    def pictures(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """The frames with these numbers, which ascend; raises Unusable if one cannot be decoded."""
        return _pictures(self, wanted, self.seekable)


def opened(path: Path, **options: Any) -> Any:
    """The file's container; the path is made absolute, so that `10:30.mp4` is not read as a protocol."""
    return av.open(os.path.abspath(path), **options)


def probe(path: Path, label: str, stream: int | None = None) -> Recording:
    """Read the properties of a video file. `stream`: the number of the video stream; None: the one that players show.

    Raises NoVideo for a file that is not a video, Unusable for one that cannot be read entirely.
    """
    with ffmpeg_errors_as_unusable(label, "not a video, or damaged at its beginning", CONVERT, NoVideo):
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
        except PermissionError as error:
            what_to_do = "allow it: chmod +r FILE"
            raise NoVideo(label, "it cannot be read (permission denied)", what_to_do) from error
        if empty:
            raise NoVideo(label, "empty", COPY_AGAIN)
        with opened(path) as container:
            number, others = _film(container, label, stream)
            of_images = container.format.name.endswith("_pipe")  # concatenated images, which FFmpeg reads at 25 frames/s
            if of_images or container.format.flags & FormatFlags.no_timestamps.value:
                why = "its frames have no times: a raw stream, whose rate is not in the file"
                raise Unusable(label, why, "give its rate: ffmpeg -r RATE -i FILE -crf 12 new.mp4")
            if container.streams.video[number].codec_context is None:
                raise Unusable(label, "its codec is not supported", "convert it: ffmpeg -i FILE new.mp4")
            stamps, unit_s = _stamps(container, number, label)
            timed = stamps is not None
        if stamps is None:
            stamps = _decoded_stamps(path, number)
        if not len(stamps):
            raise Unusable(label, "its frames have no times", "add them: ffmpeg -fflags +genpts -i FILE -c copy new.mp4")
        looks, (height, width), seconds_per_picture = _first_pictures(path, number, label)
    seekable = timed and not stamps[-1, 0]
    return Recording(
        path, label, number, others, height, width, looks, stamps, unit_s, seconds_per_picture, seekable
    )  # fmt: skip


@contextmanager
def ffmpeg_errors_as_unusable(label: str, why: str, what_to_do: str, kind: type[Unusable] = Unusable) -> Iterator[None]:
    """In this context FFmpeg's and the system's errors become `kind`."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        raise kind(label, f"{why} ({type(error).__name__})", what_to_do) from error


def _film(container: Any, label: str, asked: int | None) -> tuple[int, int]:
    """The number of the video stream to read, among the container's, and how many others there are."""
    streams = container.streams.video
    films = [number for number, stream in enumerate(streams) if not stream.disposition.value & NO_FILM.value]
    if not films:
        raise Unusable(label, "has no video stream, only sound or data", "leave it out")
    if asked is None:
        shown = [number for number in films if streams[number].disposition.value & Disposition.default.value]
        return (shown or films)[0], len(films) - 1
    if asked >= len(films):
        last = len(films) - 1
        raise Unusable(label, f"has no video stream {asked}, its last is {last}", f"give --stream {last} or less")
    return films[asked], len(films) - 1


def _stamps(container: Any, number: int, label: str) -> tuple[NDArray[np.int64] | None, float]:
    """The timestamps of the frames and their unit, from the packets alone; None if packets have no timestamps.

    Raises Unusable for a truncated file.
    """
    stream = container.streams.video[number]
    unit_s = float(stream.time_base)
    # an AVI counts repeated frames, for which it has no packets; an edit list removes entries from the index
    counts_repeats = container.format.name == "avi"
    expected = 0 if counts_repeats else min(stream.frames, len(stream.index_entries) or stream.frames)
    length_s = stream.frames * unit_s if counts_repeats else _length_s(container, stream)
    clock = _Clock(unit_s)
    firsts: dict[int, int] = {}  # the first key frame by each clock
    stamps: list[tuple[int, int]] = []
    packets, end, complete = 0, None, True
    with closing(container.demux(stream)) as demuxed:
        for packet in demuxed:
            if not packet.size or packet.is_corrupt:  # the end of the file, or a truncated packet
                continue
            packets += 1
            pts, at = packet.pts, clock.number_at(packet.dts)
            if pts is None:
                complete = False
                continue
            end = max(pts + (packet.duration or 0), pts if end is None else end)
            if packet.is_keyframe:
                firsts.setdefault(at, pts)
            if not packet.is_discard:
                stamps.append((at, pts))
    last_s = (end or 0) * unit_s
    if expected > packets:
        raise _cut_off(label, f"{packets} of {expected} frames came out")
    if complete and not clock.number and length_s - last_s > max(LEAST_MISSING_S, length_s / 20):
        raise _cut_off(label, f"{last_s:.1f} of its {length_s:.1f} s are there")
    if not complete:
        return None, unit_s
    # frames before the first key frame cannot be decoded
    known = [(at, pts) for at, pts in stamps if pts >= firsts.get(at, pts)]
    return np.unique(np.array(known, np.int64).reshape(-1, 2), axis=0), unit_s


def _length_s(container: Any, stream: Any) -> float:
    """The length of the video stream according to the file's header; 0 if it is not given."""
    start = stream.start_time or 0
    if stream.duration:
        return float((start + stream.duration) * stream.time_base)
    if container.duration and len(container.streams) == 1:  # the sound may be longer
        return container.duration / av.time_base
    return 0.0


def _cut_off(label: str, what: str) -> Unusable:
    return Unusable(label, f"cut off: {what}", "copy it again, or use the existing part: ffmpeg -i FILE new.mp4")


def _decoded_stamps(path: Path, number: int) -> NDArray[np.int64]:
    """The timestamps of decoded frames, for old containers, which have them for some packets only."""
    with opened(path) as container:
        times = [frame.pts for frame in container.decode(container.streams.video[number]) if frame.pts is not None]
    return np.unique([(0, pts) for pts in times], axis=0).reshape(-1, 2).astype(np.int64)


def _first_pictures(path: Path, number: int, label: str) -> tuple[Looks, tuple[int, int], float]:
    """The properties of the first frames, height and width as shown, and the decoding time of a frame."""
    with opened(path) as container:
        stream = container.streams.video[number]
        stream.codec_context.thread_count = 1  # as in the conversion
        start = time.perf_counter()
        frames: list[Any] = list(islice(container.decode(stream), TIMED_PICTURES))
        seconds = time.perf_counter() - start
        if not frames:
            raise ValueError("no frame can be decoded")
        square = float(stream.sample_aspect_ratio or 1)
    looks = looks_of(frames, square, label)
    height, width = looks.shown(frames[0], VideoReformatter()).shape[:2]
    return looks, (height, width), seconds / len(frames)


def _pictures(recording: Recording, wanted: Sequence[int], seek: bool) -> Iterator[Picture]:
    label, looks = recording.label, recording.looks
    due = {(int(clock), int(pts)) for clock, pts in recording.stamps[list(wanted)]}
    if not due:
        return
    first, reformatter = min(due), VideoReformatter()
    seek = seek and first > tuple(recording.stamps[0])
    with ffmpeg_errors_as_unusable(label, "damaged: cannot be decoded", COPY_AGAIN), opened(recording.path) as container:
        stream = container.streams.video[recording.stream]
        stream.codec_context.thread_count = 1  # files are converted side by side
        frames = _decoded(container, stream, recording, due, first[1] if seek else None)
        with closing(_deinterlaced(frames, stream) if looks.interlaced else frames) as shown:
            for stamp, frame in shown:
                if seek and first in due and stamp > first:
                    break
                if stamp in due:
                    due.remove(stamp)
                    yield looks.shown(frame, reformatter)
                if not due:
                    return
    if seek and first in due:  # such as a key frame from which decoding cannot start at once (intra refresh)
        yield from _pictures(recording, wanted, seek=False)
    else:
        raise Unusable(label, f"damaged: {len(due)} of its frames cannot be decoded", COPY_AGAIN)


def _decoded(
    container: Any, stream: Any, recording: Recording, due: set[tuple[int, int]], from_pts: int | None
) -> Generator[tuple[tuple[int, int], Any], None, None]:
    """Decoded frames with their timestamps, from `from_pts` on if it is given; none if its key frame is not found.

    In H.264, non-reference frames that are not in `due` are skipped.
    """
    decoder, clock = stream.codec_context, _Clock(recording.unit_s)
    skips = decoder.name == "h264" and recording.seekable and not recording.looks.interlaced
    if several := bool(recording.stamps[-1, 0]):
        decoder.flags |= Flags.copy_opaque.value
    if from_pts is not None:
        container.seek(from_pts, stream=stream)
    with closing(container.demux(stream)) as demuxed:
        for packet in demuxed:
            if from_pts is not None:
                if packet.pts is None or packet.pts > from_pts or not packet.is_keyframe:
                    return
                from_pts = None
            if several:
                packet.opaque = [clock.number_at(packet.dts)]  # PyAV needs an object of its own for each
            if skips:
                decoder.skip_frame = "DEFAULT" if (0, packet.pts) in due or packet.pts is None else "NONREF"
            for frame in packet.decode():
                if frame.pts is not None:
                    yield (frame.opaque[0] if several else 0, frame.pts), frame


class _Clock:
    """The clocks of a file: one restarts where decoding timestamps decrease, or increase by more than LONGEST_STILL_S."""

    def __init__(self, unit_s: float) -> None:
        self.unit_s, self.number = unit_s, 0
        self.last: int | None = None

    def number_at(self, dts: int | None) -> int:
        """The number of the clock of the next packet."""
        if dts is not None:
            if self.last is not None and not 0 <= (dts - self.last) * self.unit_s <= LONGEST_STILL_S:
                self.number += 1
            self.last = dts
        return self.number


def _deinterlaced(frames: Iterator[tuple[Any, Any]], stream: Any) -> Generator[tuple[Any, Any], None, None]:
    """One deinterlaced frame for both fields of each frame, with its timestamp."""
    graph = _graph(stream, ("bwdif", "mode=send_frame:deint=interlaced"))
    waiting: list[Any] = []
    for stamp, frame in frames:
        waiting.append(stamp)
        graph.vpush(frame)
        yield from _pulled(graph, waiting)
    graph.vpush(None)
    yield from _pulled(graph, waiting)


def _graph(stream: Any, *filters: tuple[str, str]) -> Graph:
    """A chain of filters for the frames of a stream."""
    graph = Graph()
    graph.threads = 1
    steps = [graph.add(name, order) for name, order in filters]
    graph.link_nodes(graph.add_buffer(template=stream), *steps, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph, waiting: list[Any]) -> Iterator[tuple[Any, Any]]:
    while waiting:
        try:
            frame = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        yield waiting.pop(0), frame


def scene_changes(recording: Recording) -> list[int]:
    """The numbers of the frames at which a new scene begins, by FFmpeg's score of the difference to the previous frame
    (`select`, SCENE_SCORE). The whole file is decoded. Raises Unusable if that fails.
    """
    numbers = {(int(clock), int(pts)): number for number, (clock, pts) in enumerate(recording.stamps)}
    found = []
    with (
        ffmpeg_errors_as_unusable(recording.label, "damaged: cannot be decoded", COPY_AGAIN),
        opened(recording.path) as container,
    ):
        stream = container.streams.video[recording.stream]
        stream.codec_context.thread_count = 1
        graph = _graph(stream, ("scale", "160:-2"), ("select", f"gt(scene,{SCENE_SCORE})"))
        with closing(_decoded(container, stream, recording, set(numbers), None)) as frames:
            for stamp, frame in frames:
                graph.vpush(frame)
                if next(_pulled(graph, [stamp]), None) and stamp in numbers:
                    found.append(numbers[stamp])
    return found
