"""Encode once, read many times: the frames of a split's clips as a memory-mapped array of latents.

Decision: every frame is encoded once, however many clips it is in, because the autoencoder works frame by frame. The
file's name is the digest of the autoencoder and of every video's checksum, so that nothing stale can be read; it is
written aside and renamed, so that two processes may want it at once (the work is then done twice, the result is the
same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaylab import clips as clips_room
from replaylab.clips import Clip
from replaylab.domain import Domain, write_atomically
from replaylab.models import CLIP_FRAMES, TinyWan
from replaylab.progress import track

VIDEOS_AT_ONCE = 32


@dataclass(frozen=True)
class Latents(Sequence[NDArray[np.float32]]):
    """Clips as latents (C, T, h, w): item i is the i-th of the clips that were asked for."""

    frames: NDArray[np.float32]  # (all frames of all videos, C, h, w), memory-mapped
    starts: list[int]  # each clip's first frame

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, clip: int) -> NDArray[np.float32]:  # type: ignore[override]  # no slices
        start = self.starts[clip]
        return self.frames[start : start + CLIP_FRAMES].swapaxes(0, 1)


def encoded(model: TinyWan, domain: Domain, split: str, chosen: list[Clip], home: Path, key: str) -> Latents:
    """Latents of the chosen clips of a split; `key` names the autoencoder's weights."""
    wanted = {f"{clip.video}.mp4" for clip in chosen}
    videos = domain.split(split)
    videos = videos[videos["file"].isin(wanted)]
    name = hashlib.sha256("\n".join([key, *videos["sha256"]]).encode()).hexdigest()[:16]
    path = home / f"{domain.name}-{split}-{name}.npy"
    if not path.is_file():
        write_atomically(path, lambda aside: _write(aside, _encode(model, domain, list(videos["file"]))))
    firsts = np.cumsum([0, *videos["frames"]])
    first = {Path(file).stem: int(start) for file, start in zip(videos["file"], firsts, strict=False)}
    return Latents(np.load(path, mmap_mode="r"), [first[clip.video] + clip.start for clip in chosen])


def _encode(model: TinyWan, domain: Domain, files: list[str]) -> NDArray[np.float32]:
    batches = []
    for start in track(range(0, len(files), VIDEOS_AT_ONCE), what=f"encoding {domain.name}", unit="batches"):
        videos = [
            clips_room.decode(domain.folder / "videos" / file)
            for file in files[start : start + VIDEOS_AT_ONCE]
        ]
        batches.append(model.encode(np.concatenate(videos)[:, None])[:, :, 0].numpy())
    return np.concatenate(batches)


def _write(path: Path, latents: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # a name would get `.npy` appended
        np.save(file, latents)
