"""Reading of raw streams: files of coded frames without timestamps.

Decision: frames are identified by their number in coding order, because their timestamps are stored elsewhere.

Refused, as `Unusable`: files that are not videos or are damaged, and streams whose display order differs from their coding
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from av.codec.context import Flags
from av.video.reformatter import VideoReformatter

from replaylab.data.importers.display import looks_of
from replaylab.data.importers.recording import COPY_AGAIN, ffmpeg_errors_as_unusable, opened
from replaylab.data.importers.sources import Picture, Unusable


def count(path: Path, label: str) -> int:
    """The number of frames of a raw stream, by its packets; raises Unusable if it is not a video."""
    why = f"{path} is not a video, or damaged at its beginning"
    with (
        ffmpeg_errors_as_unusable(label, why, COPY_AGAIN), opened(path) as container,
        closing(container.demux(container.streams.video[0])) as demuxed,
    ):  # fmt: skip
        return sum(1 for packet in demuxed if packet.size)


def pictures(path: Path, label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """The frames with these numbers, which ascend, of a raw stream, whose timestamps are stored elsewhere.

    Raises Unusable if one cannot be decoded, and for a stream whose display order differs from its coding order.
    """
    due, done, last, looks = list(wanted), 0, -1, None
    reformatter = VideoReformatter()
    with ffmpeg_errors_as_unusable(label, f"{path} is damaged: cannot be decoded", COPY_AGAIN), opened(path) as container:
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
                        why = f"{path} stores its frames in another order than they are shown in"
                        raise Unusable(label, why, "remove it")
                    last = at
                    if at == due[done]:
                        looks = looks or looks_of([frame], square, label)
                        yield looks.shown(frame, reformatter)
                        done += 1
                    if done == len(due):
                        return
                    if at > due[done]:
                        raise Unusable(label, f"{path} is damaged: frame {due[done]} cannot be decoded", COPY_AGAIN)
    raise Unusable(label, f"{path} is damaged: frame {due[done]} cannot be decoded", COPY_AGAIN)
