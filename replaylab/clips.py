"""Which 8 frames? The clips of a domain's split, decoded from its video files.

Decision: a clip is (video, start); windows start every `STRIDE` frames and never cross a video. Frames come from the
file through decord, or PyAV where decord has no wheel; both give the same pixels. Refused: a split without clips, a
video that cannot be decoded or is shorter than its description says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.domain import Domain

STRIDE = 2


@dataclass(frozen=True)
class Clip:
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


def read(domain: Domain, clips: list[Clip], frames: int) -> Iterator[NDArray[np.uint8]]:
    """Each clip's frames, uint8 (T, H, W, 3). Neighbouring windows of one video are decoded once."""
    name, pixels = "", np.zeros((0, 0, 0, 3), np.uint8)
    for clip in clips:
        if clip.video != name:
            name, pixels = clip.video, decode(domain.folder / "videos" / f"{clip.video}.mp4")
        if clip.start + frames > len(pixels):
            raise UndecodableVideo(
                f"{domain.folder}/videos/{clip.video}.mp4: {len(pixels)} frames could be decoded, "
                f"but a clip needs frames {clip.start} to {clip.start + frames - 1}"
            )
        yield pixels[clip.start : clip.start + frames]


def decode(path: Path) -> NDArray[np.uint8]:
    """All frames of a video, uint8 (T, H, W, 3); raises FileNotFoundError or UndecodableVideo with the path."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; its domain.json lists it")
    try:
        return decode_with_decord(path) if importlib.util.find_spec("decord") else decode_with_av(path)
    except Exception as error:
        raise UndecodableVideo(
            f"{path} cannot be decoded ({type(error).__name__}): {_first_line(error)}"
        ) from error


def decode_with_decord(path: Path) -> NDArray[np.uint8]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def decode_with_av(path: Path) -> NDArray[np.uint8]:
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def truth_of(domain: Domain, clips: list[Clip], frames: int) -> list[list[pd.DataFrame]]:
    """For each clip and frame, the truth's rows (columns: domain.TRACK_COLUMNS)."""
    videos = {str(video): rows for video, rows in domain.tracks.groupby("video")}
    nothing = domain.tracks.iloc[:0]
    found = []
    for clip in clips:
        by_frame = {int(frame): rows for frame, rows in videos.get(clip.video, nothing).groupby("frame")}
        found.append([by_frame.get(frame, nothing) for frame in range(clip.start, clip.start + frames)])
    return found


def _named(videos: pd.DataFrame) -> list[tuple[str, str, int]]:
    return [(Path(row.file).stem, str(row.scene), int(row.frames)) for row in videos.itertuples()]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
