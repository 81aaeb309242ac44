"""Which 8 frames? The clips of a domain's split, decoded from its video files.

Decision: a clip is (video, start); windows start every `STRIDE` frames and never cross a video. PyAV decodes, because
it was the fastest where measured (`make bench`) and exists everywhere; decord gives the same pixels. A clip costs what
it shows: decoding starts at the key frame before it and ends with its last frame, one thread a clip on every core, a
few clips ahead. Nothing is kept: no reader outlives its clip. Refused: a split without clips, a video that cannot be
decoded or is shorter than its description says.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from replaylab.data.domain import Domain

STRIDE = 2
MOST_THREADS = 8  # with LONGEST_SPAN, a bound on the frames that are held at once
LONGEST_SPAN = 32  # frames that overlapping clips may be decoded in together


@dataclass(frozen=True)
class Clip:
    """Frames of a video from `start` on; its scene says what it must not be split from."""

    video: str
    scene: str
    start: int


class UndecodableVideo(ValueError):
    """A video file that is not what its domain says; the message names the file."""


def clips_of(domain: Domain, split: str, frames: int, stride: int = STRIDE) -> list[Clip]:
    """Every window of a split, in the domain's order; raises ValueError, with the folder, if there is none."""
    clips = [
        Clip(video, scene, start)
        for video, scene, length in _named(domain.split(split))
        for start in range(0, length - frames + 1, stride)
    ]
    if not clips:
        raise ValueError(
            f"{domain.folder}: no clips in split {split!r}: every video has fewer than {frames} frames"
        )
    return clips


def one_a_scene(clips: list[Clip]) -> list[Clip]:
    """The first window of every scene: independent clips, for evaluation."""
    first: dict[str, Clip] = {}
    for clip in clips:
        first.setdefault(clip.scene, clip)
    return list(first.values())


def read(domain: Domain, clips: list[Clip], frames: int) -> Generator[NDArray[np.uint8], None, None]:
    """Each clip's frames, uint8 (T, H, W, 3), in the order asked for, decoded ahead on all cores.

    Clips that follow and overlap one another are decoded once. A file that is missing or no video raises
    FileNotFoundError or UndecodableVideo at its clip, after those before it were given. Closing ends the threads.
    """
    threads = min(_cores(), MOST_THREADS)
    spans = _spans(clips, frames)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")

    def start(span: list[Clip]) -> tuple[list[Clip], Future[NDArray[np.uint8]]]:
        return span, pool.submit(decode, _path(domain, span[0]), span[0].start, span[-1].start + frames)

    try:
        ahead = deque(map(start, islice(spans, 2 * threads)))
        while ahead:
            span, pixels = ahead.popleft()
            yield from _cut(domain, span, frames, pixels.result())
            ahead.extend(map(start, islice(spans, 1)))
    finally:
        pool.shutdown(cancel_futures=True)


def decode(path: Path, start: int = 0, stop: int = sys.maxsize) -> NDArray[np.uint8]:
    """Frames `start` to before `stop` of a video, by default all; fewer where it ends. uint8 (T, H, W, 3).

    Raises FileNotFoundError or UndecodableVideo with the path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; its domain.json lists it")
    try:
        return decode_with_av(path, start, stop)
    except Exception as error:
        raise UndecodableVideo(
            f"{path} cannot be decoded ({type(error).__name__}): {_first_line(error)}"
        ) from error


def decode_with_av(
    path: Path, start: int = 0, stop: int = sys.maxsize, quick: bool = True
) -> NDArray[np.uint8]:
    """`decode`, with FFmpeg's own errors. The quick way is checked, frame by frame; if it fails, the slow one is taken:
    from the first frame on, whatever `start` is.
    """
    # FFmpeg decodes pictures to find out what a file's header says already, unless it may not.
    with av.open(str(path), options={"skip_frame": "all"} if quick else {}) as container:
        stream = container.streams.video[0]
        decoder: Any = stream.codec_context
        decoder.thread_count = 1  # clips are decoded side by side
        packets, times = _packets(container, start, stop, seek=quick)
        if not times:
            return np.zeros((0, stream.height, stream.width, 3), np.uint8)
        reformatter = VideoReformatter()  # one for all frames: each has tables to set up
        shown, pictures = [], []
        for packet in (*packets, None):  # None: give out what is still held back
            if packet is not None:  # before the clip, what no other frame refers to can be left out
                decoder.skip_frame = "NONREF" if packet.pts < times[0] else "DEFAULT"
            for frame in decoder.decode(packet):
                if times[0] <= frame.pts <= times[-1]:
                    shown.append(frame.pts)
                    pictures.append(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
    if shown == times:
        return np.stack(pictures)
    if quick:  # e.g. a key frame after which not every frame can be shown at once (intra refresh)
        return decode_with_av(path, start, stop, quick=False)
    raise ValueError(f"{len(shown)} of the {len(times)} frames from frame {start} on came out")


def decode_with_decord(path: Path) -> NDArray[np.uint8]:
    """All frames, by the decoder that PyAV is compared with."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def truth_of(domain: Domain, clips: list[Clip], frames: int) -> list[list[pd.DataFrame]]:
    """For each clip and frame, the truth's rows (columns: domain.TRACK_COLUMNS)."""
    videos = {str(video): rows for video, rows in domain.tracks.groupby("video")}
    nothing = domain.tracks.iloc[:0]
    found = []
    for clip in clips:
        by_frame = {int(frame): rows for frame, rows in videos.get(clip.video, nothing).groupby("frame")}
        found.append([by_frame.get(frame, nothing) for frame in range(clip.start, clip.start + frames)])
    return found


def _spans(clips: list[Clip], frames: int) -> Iterator[list[Clip]]:
    """Runs of clips to decode together: of one video, each beginning within the one before or at its end."""
    span: list[Clip] = []
    for clip in clips:
        if span and not (
            clip.video == span[0].video
            and 0 <= clip.start - span[-1].start <= frames
            and clip.start - span[0].start <= LONGEST_SPAN - frames
        ):
            yield span
            span = []
        span.append(clip)
    if span:
        yield span


def _cut(
    domain: Domain, span: list[Clip], frames: int, pixels: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    for clip in span:
        start = clip.start - span[0].start
        if start + frames > len(pixels):
            path = _path(domain, clip)
            raise UndecodableVideo(
                f"{path}: {len(decode(path))} frames could be decoded, "
                f"but a clip needs frames {clip.start} to {clip.start + frames - 1}"
            )
        yield pixels[start : start + frames]


def _packets(container: Any, start: int, stop: int, seek: bool) -> tuple[list[Any], list[int]]:
    """What to decode, in that order, to see frames `start` to before `stop`; and the times of those frames.

    An mp4 lists its frames in the order of decoding, so a key frame's place in the list is the number of the first
    frame shown from there on. That may be an earlier one than the key frame (an open group of pictures), which needs
    the key frame before. Without such a list, everything from the first frame on is decoded.
    """
    stream = container.streams.video[0]
    listed = stream.index_entries
    if not 0 < len(listed) == stream.frames or listed[0].is_discard:
        listed = None
    if seek and start and listed:
        delay = stream.start_time - listed[0].timestamp  # from a frame's decoding to its showing
        near = listed[min(start, len(listed) - 1)].timestamp + delay
        while True:
            container.seek(near, stream=stream)
            first, packets, times = _demuxed(container, stop, listed)
            if not first or first + bisect_left(times, packets[0].pts) <= start:
                break
            near = min(near, packets[0].dts) - 1
    else:
        first, packets, times = _demuxed(container, stop, listed)
    times = times[start - first : stop - first]
    while times and packets[-1].pts > times[-1]:
        packets.pop()
    return packets, times


def _demuxed(container: Any, stop: int, listed: Any) -> tuple[int, list[Any], list[int]]:
    """From where the container is: the number of the first frame; the packets, enough of them to see all frames before
    `stop`; their frames' times, sorted.
    """
    first = 0
    packets: list[Any] = []
    times: list[int] = []
    with closing(container.demux(video=0)) as demuxed:  # left unclosed, PyAV 18 loses 150 bytes each time
        for packet in demuxed:
            if packet.pts is None and packet.dts is None:  # the end
                break
            if listed and not packets:
                first = listed.search_timestamp(packet.dts)
            packets.append(packet)
            if not packet.is_discard:
                insort(times, packet.pts)
            if listed and bisect_right(times, packet.dts) >= stop - first:
                break  # what follows is decoded later than these are shown
    if not packets:
        raise ValueError("no frames")
    return first, packets, times


def _named(videos: pd.DataFrame) -> list[tuple[str, str, int]]:
    return [(Path(row.file).stem, str(row.scene), int(row.frames)) for row in videos.itertuples()]


def _path(domain: Domain, clip: Clip) -> Path:
    return domain.folder / "videos" / f"{clip.video}.mp4"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
