"""The clips of a domain's split, decoded from its video files.

Decision: a clip is (video, start); windows start every `STRIDE` frames and never cross videos. Only the frames of a clip are
decoded, from the key frame before it to its last frame, with one thread per clip on every core and a few clips in advance.
Readers are closed after each clip. Refused: a split without clips, and a video that cannot be decoded or is shorter than
listed in domain.json.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.data.domain import Domain
from replaylab.data.video import UndecodableVideo, decode
from replaylab.util.processes import usable_cores

STRIDE = 2
MOST_THREADS = 8  # with LONGEST_SPAN, a bound on the frames that are held at once
LONGEST_SPAN = 32  # frames that overlapping clips may be decoded in together


@dataclass(frozen=True)
class Clip:
    """Frames of a video from `start` on; clips of one scene must be in one split."""

    video: str
    scene: str
    start: int


def clips_of(domain: Domain, split: str, frames: int) -> list[Clip]:
    """Every window of a split, in the domain's order; raises ValueError, with the folder, if there is none."""
    clips = [
        Clip(Path(video.file).stem, str(video.scene), start)
        for video in domain.split(split).itertuples()
        for start in range(0, int(video.frames) - frames + 1, STRIDE)
    ]
    if not clips:
        raise ValueError(f"{domain.folder}: no clips in split {split!r}: every video has fewer than {frames} frames")
    return clips


def one_per_scene(clips: list[Clip]) -> list[Clip]:
    """The first window of every scene: independent clips, for evaluation."""
    first: dict[str, Clip] = {}
    for clip in clips:
        first.setdefault(clip.scene, clip)
    return list(first.values())


def read(domain: Domain, clips: list[Clip], frames: int) -> Generator[NDArray[np.uint8], None, None]:
    """Each clip's frames, uint8 (T, H, W, 3), in the given order, decoded in advance on all cores.

    Consecutive overlapping clips are decoded once. A missing or undecodable file raises FileNotFoundError or
    UndecodableVideo at its clip, after the clips before it. Closing the generator ends the threads.
    """
    threads = min(usable_cores(), MOST_THREADS)
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


def truth_of(domain: Domain, clips: list[Clip], frames: int) -> list[list[pd.DataFrame]]:
    """For each clip and frame, the truth's rows (columns: domain.TRACK_COLUMNS)."""
    videos = {str(video): rows for video, rows in domain.tracks.groupby("video")}
    nothing = domain.tracks.iloc[:0]
    truth = []
    for clip in clips:
        by_frame = {int(frame): rows for frame, rows in videos.get(clip.video, nothing).groupby("frame")}
        truth.append([by_frame.get(frame, nothing) for frame in range(clip.start, clip.start + frames)])
    return truth


def _spans(clips: list[Clip], frames: int) -> Iterator[list[Clip]]:
    """Groups of clips to decode together: from one video, each beginning within the previous one or at its end."""
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


def _cut(domain: Domain, span: list[Clip], frames: int, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for clip in span:
        start = clip.start - span[0].start
        if start + frames > len(pixels):
            path = _path(domain, clip)
            raise UndecodableVideo(
                f"{path}: {len(decode(path))} frames could be decoded, "
                f"but a clip needs frames {clip.start} to {clip.start + frames - 1}"
            )
        yield pixels[start : start + frames]


def _path(domain: Domain, clip: Clip) -> Path:
    return domain.video(clip.video)
