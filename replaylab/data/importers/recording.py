"""Any video file as a player shows it: the only reader of external videos.

Decision: a file is demuxed once without decoding, for the times of its pictures; they give its length and regularity,
whether its end is missing, and where its clock starts again (files joined into one). Then its first pictures are decoded,
for what they look like and the time that takes. Pictures are given upright, mirrored and with square pixels as the file
says, one picture of two fields (`bwdif`), and in BT.709 (`colour`). What an edit list hides and what comes before the first
key frame is not there. Of several video streams the one that players show is taken, or the one asked for; covers are none.

Refused, as `Unusable`: what is no video, is cut off or damaged, has no times (raw streams: their rate would be invented), is
turned by anything but quarters, or has colours that are not understood.
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
from PIL import Image

from replaylab.data.importers import colour
from replaylab.data.importers.sources import Picture, Unusable

TIMED_PICTURES = 12  # decoded to see how long all will take
LEAST_MISSING_S = 1.0  # and a twentieth: less of a video's end is no sign of a cut
SCENE_SCORE = 0.3  # of FFmpeg's, from 0 to 1; it advises 0.3 to 0.5
LONGEST_STILL_S = 3600.0  # a jump by more is another clock
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
COPY_AGAIN = "copy it again"
CONVERT = "if it plays, convert it: ffmpeg -i FILE new.mp4; else copy it again"


class NoVideo(Unusable):
    """A file without a video."""


@dataclass(frozen=True)
class Looks:
    """What is to be done to decoded pictures before they look as in a player."""

    square: float  # width of a pixel, its height being 1
    turn: tuple[int, int, int, int]  # x' = a x + c y and y' = b x + d y: a, b, c, d, each -1, 0 or 1; y is downwards
    turned_deg: int  # the same in words: by how much to the left
    interlaced: bool
    colours: str  # of `colour.name`

    def shown(self, frame: Any, reformatter: VideoReformatter) -> Picture:
        """A decoded frame as a player shows it; one reformatter for all frames, because each has tables to set up."""
        if self.colours:
            picture: Any = colour.to_bt709(frame)
        else:
            picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if self.square != 1:
            height, width = picture.shape[:2]
            wider = (max(1, round(width * self.square)), height)
            picture = np.asarray(Image.fromarray(picture).resize(wider, Image.Resampling.BICUBIC))
        a, b, c, d = self.turn
        if not a:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]

    @property
    def mirrored(self) -> bool:
        """Whether left and right change places."""
        a, b, c, d = self.turn
        return a * d - b * c < 0


@dataclass(frozen=True)
class Recording:
    """A video file, and the properties of its pictures."""

    path: Path
    label: str  # its name for people
    stream: int  # which of the file's video streams
    other_streams: int
    height_px: int
    width_px: int  # as shown
    looks: Looks
    stamps: NDArray[np.int64]  # (pictures, 2): the number of the clock, ascending, and the time by it in `unit_s`, ascending
    unit_s: float
    seconds_per_picture: float  # of decoding
    seekable: bool  # whether reading can begin at any picture

    @cached_property
    def times_s(self) -> list[float]:
        """Of the pictures, ascending; a clock that starts again goes on where the one before ended."""
        times = self.stamps[:, 1] * self.unit_s
        for start in self.clock_starts[1:]:
            times[start:] += times[start - 1] - times[start] + 1 / (self.frames_per_second or 1)
        return [float(one) for one in times]

    @property
    def clock_starts(self) -> list[int]:
        """The numbers of the pictures with which a clock starts: 0, and where the file's times start again."""
        return [0, *(int(number) + 1 for number in np.flatnonzero(np.diff(self.stamps[:, 0])))]

    @cached_property
    def steps_s(self) -> NDArray[np.float64]:
        """Between pictures of one clock."""
        return np.diff(self.stamps[:, 1])[np.diff(self.stamps[:, 0]) == 0] * self.unit_s

    @property
    def frames_per_second(self) -> float:
        """By the median time between pictures."""
        return 1 / float(np.median(self.steps_s)) if len(self.steps_s) else 0.0

    @property
    def varies(self) -> bool:
        """Whether some picture is shown 1.5 times as long as the median, or half as long."""
        steps = self.steps_s * self.frames_per_second
        return bool(len(steps) and (steps.max() > 1.5 or steps.min() < 0.5))

    def pictures(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """The pictures of some numbers, ascending; raises Unusable where one cannot be decoded."""
        return _pictures(self, wanted, self.seekable)


def opened(path: Path, **options: Any) -> Any:
    """The file's container; an absolute path is never read as a protocol (`10:30.mp4`)."""
    return av.open(os.path.abspath(path), **options)


def probe(path: Path, label: str, stream: int | None = None) -> Recording:
    """What a video file is. `stream`: of its video streams; None: that which players show. Raises Unusable."""
    with _as_unusable(label, "no video, or damaged at its beginning", CONVERT, NoVideo):
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
        except PermissionError as error:
            what_to_do = "get the right to read it: chmod +r FILE"
            raise NoVideo(label, "it may not be read (permission denied)", what_to_do) from error
        if empty:
            raise NoVideo(label, "empty", COPY_AGAIN)
        with opened(path) as container:
            number, others = _film(container, label, stream)
            of_images = container.format.name.endswith("_pipe")  # one after the other, 25 a second whatever they were
            if of_images or container.format.flags & FormatFlags.no_timestamps.value:
                why = "its pictures have no times: a raw stream, whose rate is not in the file"
                raise Unusable(label, why, "give its rate: ffmpeg -r RATE -i FILE -crf 12 new.mp4")
            if container.streams.video[number].codec_context is None:
                raise Unusable(label, "its codec is unknown here", "convert it: ffmpeg -i FILE new.mp4")
            stamps, unit_s = _stamps(container, number, label)
            timed = stamps is not None
        if stamps is None:
            stamps = _decoded_stamps(path, number)
        if not len(stamps):
            raise Unusable(
                label, "its pictures have no times", "give it some: ffmpeg -fflags +genpts -i FILE -c copy new.mp4"
            )
        looks, (height, width), seconds_per_picture = _first_pictures(path, number, label)
    seekable = timed and not stamps[-1, 0]
    return Recording(
        path, label, number, others, height, width, looks, stamps, unit_s, seconds_per_picture, seekable
    )  # fmt: skip


@contextmanager
def _as_unusable(label: str, why: str, what_to_do: str, kind: type[Unusable] = Unusable) -> Iterator[None]:
    """FFmpeg's and the system's errors become `kind`."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        raise kind(label, f"{why} ({type(error).__name__})", what_to_do) from error


def _film(container: Any, label: str, asked: int | None) -> tuple[int, int]:
    """The number of the video stream to read, among the container's, and how many others there are."""
    streams = container.streams.video
    films = [number for number, stream in enumerate(streams) if not stream.disposition.value & NO_FILM.value]
    if not films:
        raise Unusable(label, "has no pictures, only sound or data", "leave it out")
    if asked is None:
        shown = [number for number in films if streams[number].disposition.value & Disposition.default.value]
        return (shown or films)[0], len(films) - 1
    if asked >= len(films):
        last = len(films) - 1
        raise Unusable(label, f"has no video stream {asked}, its last is {last}", f"give --stream {last} or less")
    return films[asked], len(films) - 1


def _stamps(container: Any, number: int, label: str) -> tuple[NDArray[np.int64] | None, float]:
    """The times of the pictures and their unit, from the packets alone; None where these have no times.

    Raises Unusable for a file whose end is missing.
    """
    stream = container.streams.video[number]
    unit_s = float(stream.time_base)
    # an AVI counts pictures that are shown again, and has no packet for them; an edit list leaves entries out of the index
    counts_repeats = container.format.name == "avi"
    expected = 0 if counts_repeats else min(stream.frames, len(stream.index_entries) or stream.frames)
    length_s = stream.frames * unit_s if counts_repeats else _length_s(container, stream)
    clock = _Clock(unit_s)
    firsts: dict[int, int] = {}  # the first key frame by each clock
    stamps: list[tuple[int, int]] = []
    packets, end, complete = 0, None, True
    with closing(container.demux(stream)) as demuxed:
        for packet in demuxed:
            if not packet.size or packet.is_corrupt:  # the end; or the part of a packet before a cut
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
    # what comes before the first key frame cannot be decoded
    known = [(at, pts) for at, pts in stamps if pts >= firsts.get(at, pts)]
    return np.unique(np.array(known, np.int64).reshape(-1, 2), axis=0), unit_s


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


def _decoded_stamps(path: Path, number: int) -> NDArray[np.int64]:
    """The times of decoded pictures: old containers have times for some packets only."""
    with opened(path) as container:
        times = [frame.pts for frame in container.decode(container.streams.video[number]) if frame.pts is not None]
    return np.unique([(0, pts) for pts in times], axis=0).reshape(-1, 2).astype(np.int64)


def _first_pictures(path: Path, number: int, label: str) -> tuple[Looks, tuple[int, int], float]:
    """What the first pictures look like, height and width as shown, and the seconds that a picture takes to decode."""
    with opened(path) as container:
        stream = container.streams.video[number]
        stream.codec_context.thread_count = 1  # as they will be converted
        start = time.perf_counter()
        frames: list[Any] = list(islice(container.decode(stream), TIMED_PICTURES))
        seconds = time.perf_counter() - start
        if not frames:
            raise ValueError("no picture can be decoded")
        square = float(stream.sample_aspect_ratio or 1)
    looks = _looks(frames, square, label)
    height, width = looks.shown(frames[0], VideoReformatter()).shape[:2]
    return looks, (height, width), seconds / len(frames)


def _looks(frames: Sequence[Any], square: float, label: str) -> Looks:
    """What some decoded pictures look like."""
    first = frames[0]
    if wrong := colour.unknown(first.color_trc, first.colorspace):
        raise Unusable(
            label, f"{wrong} is not understood", "make it ordinary: ffmpeg -i FILE -vf scale=out_color_matrix=bt709"
        )
    colours = colour.name(first.color_trc, first.color_primaries)
    interlaced = any(frame.interlaced_frame for frame in frames)
    return Looks(square, _turn(first, label), first.rotation, interlaced, colours)


def _turn(frame: Any, label: str) -> tuple[int, int, int, int]:
    """`Looks.turn` of a frame's display matrix; raises Unusable for other turns than by quarters."""
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return 1, 0, 0, 1
    a, b, _, c, d = (float(one) for one in np.frombuffer(bytes(stored), np.int32)[:5] / 2**16)
    size = max(map(abs, (a, b, c, d))) or 1.0
    turn = tuple(round(one / size) for one in (a, b, c, d))
    near = all(abs(one / size - whole) < 0.01 for one, whole in zip((a, b, c, d), turn, strict=True))
    if not near or abs(turn[0] * turn[3] - turn[1] * turn[2]) != 1 or turn[0] * turn[2]:
        degrees = round(float(np.rad2deg(np.arctan2(c, a))))
        raise Unusable(label, f"turned by {degrees} degrees, or slanted", "turn it: ffmpeg -i FILE new.mp4")
    return turn[0], turn[1], turn[2], turn[3]


def _pictures(recording: Recording, wanted: Sequence[int], seek: bool) -> Iterator[Picture]:
    label, looks = recording.label, recording.looks
    due = {(int(clock), int(pts)) for clock, pts in recording.stamps[list(wanted)]}
    if not due:
        return
    first, reformatter = min(due), VideoReformatter()
    seek = seek and first > tuple(recording.stamps[0])
    with _as_unusable(label, "damaged: cannot be decoded", COPY_AGAIN), opened(recording.path) as container:
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
    if seek and first in due:  # e.g. a key frame after which not every frame can be shown at once (intra refresh)
        yield from _pictures(recording, wanted, seek=False)
    else:
        raise Unusable(label, f"damaged: {len(due)} of its pictures cannot be decoded", COPY_AGAIN)


def raw_count(path: Path, label: str) -> int:
    """How many pictures a raw stream has, by its packets; raises Unusable for what is none."""
    why = f"{path} is no video, or damaged at its beginning"
    with (
        _as_unusable(label, why, COPY_AGAIN), opened(path) as container,
        closing(container.demux(container.streams.video[0])) as demuxed,
    ):  # fmt: skip
        return sum(1 for packet in demuxed if packet.size)


def raw_pictures(path: Path, label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """The pictures of some numbers, ascending, of a raw stream, whose times are known from elsewhere.

    Raises Unusable where one cannot be decoded, and for a stream whose pictures are shown in another order than they come.
    """
    due, done, last, looks = list(wanted), 0, -1, None
    reformatter = VideoReformatter()
    with _as_unusable(label, f"{path} is damaged: cannot be decoded", COPY_AGAIN), opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # files are converted side by side
        stream.codec_context.flags |= Flags.copy_opaque.value
        square = float(stream.sample_aspect_ratio or 1)
        with closing(container.demux(stream)) as demuxed:
            for number, packet in enumerate(demuxed):
                packet.opaque = [number]
                for frame in packet.decode():
                    at = frame.opaque[0]
                    if at < last:
                        why = f"{path} shows its pictures in another order than they come in"
                        raise Unusable(label, why, "take it away")
                    last = at
                    if at == due[done]:
                        looks = looks or _looks([frame], square, label)
                        yield looks.shown(frame, reformatter)
                        done += 1
                    if done == len(due):
                        return
                    if at > due[done]:
                        raise Unusable(label, f"{path} is damaged: picture {due[done]} cannot be decoded", COPY_AGAIN)
    raise Unusable(label, f"{path} is damaged: picture {due[done]} cannot be decoded", COPY_AGAIN)


def _decoded(
    container: Any, stream: Any, recording: Recording, due: set[tuple[int, int]], from_pts: int | None
) -> Generator[tuple[tuple[int, int], Any], None, None]:
    """Decoded frames with their stamps, from `from_pts` on if one is given; none where its key frame is not found.

    Of H.264, frames that are not due and to which no other refers are left out.
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
    """Counts the clocks of a file: one starts again where times of decoding go back, or jump by more than an hour."""

    def __init__(self, unit_s: float) -> None:
        self.unit_s, self.number = unit_s, 0
        self.last: int | None = None

    def number_at(self, dts: int | None) -> int:
        """Of the clock by which the next packet is timed."""
        if dts is not None:
            if self.last is not None and not 0 <= (dts - self.last) * self.unit_s <= LONGEST_STILL_S:
                self.number += 1
            self.last = dts
        return self.number


def _deinterlaced(frames: Iterator[tuple[Any, Any]], stream: Any) -> Generator[tuple[Any, Any], None, None]:
    """One whole picture for both fields of each frame; it has the frame's stamp."""
    graph = _graph(stream, ("bwdif", "mode=send_frame:deint=interlaced"))
    waiting: list[Any] = []
    for stamp, frame in frames:
        waiting.append(stamp)
        graph.vpush(frame)
        yield from _pulled(graph, waiting)
    graph.vpush(None)
    yield from _pulled(graph, waiting)


def _graph(stream: Any, *filters: tuple[str, str]) -> Graph:
    """Filters, one after the other, for the frames of a stream."""
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
    """The numbers of the pictures with which another scene begins, by FFmpeg's score of how little a picture is like the one
    before (`select`, SCENE_SCORE). Everything is decoded for it. Raises Unusable where it cannot be.
    """
    numbers = {(int(clock), int(pts)): number for number, (clock, pts) in enumerate(recording.stamps)}
    found = []
    with _as_unusable(recording.label, "damaged: cannot be decoded", COPY_AGAIN), opened(recording.path) as container:
        stream = container.streams.video[recording.stream]
        stream.codec_context.thread_count = 1
        graph = _graph(stream, ("scale", "160:-2"), ("select", f"gt(scene,{SCENE_SCORE})"))
        with closing(_decoded(container, stream, recording, set(numbers), None)) as frames:
            for stamp, frame in frames:
                graph.vpush(frame)
                if next(_pulled(graph, [stamp]), None) and stamp in numbers:
                    found.append(numbers[stamp])
    return found
