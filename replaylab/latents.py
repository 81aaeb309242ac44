"""Encode once, read many times: a split's clips as a memory-mapped array of latents.

Decision: the file's name is the digest of the autoencoder and of every video's checksum, so that nothing stale can be
read; it is written aside and renamed, so that two processes may want it at once (the work is then done twice, the
result is the same).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaylab import clips as clips_room
from replaylab.clips import Clip
from replaylab.domain import Domain, write_atomically
from replaylab.models import CLIP_FRAMES, TinyWan
from replaylab.progress import track

CLIPS_AT_ONCE = 32


def encoded(model: TinyWan, domain: Domain, split: str, chosen: list[Clip], home: Path, key: str) -> NDArray[np.float32]:
    """Latents (N, C, T, h, w) of the chosen clips, memory-mapped, read-only; `key` names the autoencoder's weights."""
    videos = domain.split(split)
    content = [key, split, *videos["sha256"], *(f"{clip.video}:{clip.start}" for clip in chosen)]
    name = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    path = home / f"{domain.name}-{split}-{name}.npy"
    if not path.is_file():
        write_atomically(path, lambda aside: _write(aside, _encode(model, domain, chosen)))
    return np.load(path, mmap_mode="r")


def _encode(model: TinyWan, domain: Domain, chosen: list[Clip]) -> NDArray[np.float32]:
    frames = clips_room.read(domain, chosen, CLIP_FRAMES)
    batches = []
    for start in track(range(0, len(chosen), CLIPS_AT_ONCE), what=f"encoding {domain.name}", unit="batches"):
        batch = [next(frames) for _ in chosen[start : start + CLIPS_AT_ONCE]]
        batches.append(model.encode(np.stack(batch)).numpy())
    return np.concatenate(batches)


def _write(path: Path, latents: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # a name would get `.npy` appended
        np.save(file, latents)
