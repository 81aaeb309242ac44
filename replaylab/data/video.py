"""Reading frames from video files and writing them.

Decision: PyAV is the default: it is exact for every kind of file and, where measured (`make bench`), takes less time than
decord for all kinds but webm and mkv without an index. decord can be chosen; it gives the same frames for 8-bit files.
There is no fallback to another reader where the chosen one fails.
"""

from __future__ import annotations

import os
import sys
import tempfile
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from contextlib import closing
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

FAITHFUL = {"crf": "10", "preset": "superfast"}  # H.264 visually lossless, so that what is lost is the model's doing
READER_VARIABLE = "REPLAYLAB_READER"


class UndecodableVideo(ValueError):
    """A video file that cannot be decoded as its domain lists it; the message names the file."""


def write_video(path: Path, frames: Any, frames_per_second: float, options: Mapping[str, object] = FAITHFUL) -> None:
    """Write uint8 frames (T, H, W, 3) as H.264 mp4 (yuv420p, so that every browser plays it); H and W even."""
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        # slower presets gave other bytes each time for the same frames of this size, even with one thread
        stream.options = dict(options)
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def coded(frames: NDArray[np.uint8], frames_per_second: float) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) written as H.264 and read back, like those of every rendered domain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, frames_per_second)
        return decode(path)


def chosen_reader(reader: str = "") -> str:
    """The name of the reader: the given one, else that in the environment variable REPLAYLAB_READER, else "pyav".

    Raises ValueError, with the valid names, for an unknown one or one that is not installed.
    """
    reader = reader or os.environ.get(READER_VARIABLE) or "pyav"
    installed = [name for name in READERS if name != "decord" or find_spec("decord")]
    if reader not in installed:
        raise ValueError(f"video reader {reader!r} (option or {READER_VARIABLE}) is none of {', '.join(installed)}")
    return reader


def decode(path: Path, start: int = 0, stop: int = sys.maxsize, reader: str = "") -> NDArray[np.uint8]:
    """Frames `start` to `stop` (exclusive) of a video, by default all; fewer if it ends earlier. uint8 (T, H, W, 3).

    Raises FileNotFoundError or UndecodableVideo with the path, and the errors of `chosen_reader`.
    """
    reader = chosen_reader(reader)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; its domain.json lists it")
    try:
        return READERS[reader](path.absolute(), start, stop)  # FFmpeg takes what is before a colon for a protocol
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UndecodableVideo(f"{path} cannot be decoded by {reader} ({type(error).__name__}): {reason}") from error


def decode_with_pyav(path: Path, start: int = 0, stop: int = sys.maxsize, seek: bool = True) -> NDArray[np.uint8]:
    """`decode` with FFmpeg's own errors. Seeking is verified frame by frame; if it fails, decoding starts at the first
    frame.
    """
    # without this option FFmpeg decodes pictures to learn what is in the file's header
    with av.open(str(path), options={"skip_frame": "all"} if seek else {}) as container:
        stream = container.streams.video[0]
        decoder: Any = stream.codec_context
        decoder.thread_count = 1  # clips are decoded side by side
        packets, times = _packets(container, start, stop, seek)
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
    if seek:  # e.g. a key frame after which not every frame can be shown at once (intra refresh)
        return decode_with_pyav(path, start, stop, seek=False)
    raise ValueError(f"{len(shown)} of the {len(times)} frames from frame {start} on came out")


def decode_with_decord(path: Path, start: int = 0, stop: int = sys.maxsize) -> NDArray[np.uint8]:
    """`decode` with decord's own errors. It decodes from the first frame on, because decord's seeking gives wrong frames in
    files with open groups of pictures or intra refresh. FFmpeg first checks for truncation, which decord may not report.
    """
    import decord

    with av.open(str(path)) as container:
        listed = min(stop, container.streams.video[0].frames)  # 0 where the file does not list its frames
        whole = (packet for packet in container.demux(video=0) if packet.size and not packet.is_corrupt)
        if (there := sum(1 for _ in islice(whole, listed))) < listed:
            raise ValueError(f"the file ends within frame {there + 1} of at least {listed}")
    video = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-9)  # no frame may be another one repeated
    return video.get_batch(range(min(stop, len(video)))).asnumpy()[start:]


READERS = {"pyav": decode_with_pyav, "decord": decode_with_decord}


def _packets(container: Any, start: int, stop: int, seek: bool) -> tuple[list[Any], list[int]]:
    """The packets to decode, in order, for frames `start` to `stop` (exclusive), and the times of those frames.

    An mp4 lists its frames in decoding order, so the index of a key frame in the list is the number of the first
    frame shown from there on. That frame may precede the key frame (an open group of pictures) and then needs the
    previous key frame. Without such a list, everything from the first frame on is decoded.
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
    """From the container's position: the number of the first frame, the packets that all frames before `stop` need, and
    the sorted times of their frames.
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
