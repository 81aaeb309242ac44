"""The frames of a split's videos as latents, encoded once and memory-mapped.

Decision: every frame is encoded once, for any number of clips, because the autoencoder works frame by frame. A
chunk, one file, holds consecutive videos of the split, independent of the requested clips, so that runs with
different clips share it. Its name is the digest of the autoencoder, of the number of frames encoded together
and of its videos' checksums: stale latents are never read, and appending videos to a domain requires encoding only the new
videos and the last chunk. Each chunk is encoded by one process at a time (`util.cache`): several processes share the work,
and a killed process loses at most its current chunk.

Refused: a video whose checksum or number of frames differs from its domain's list, and a clip that is longer than its
video.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from replaylab.catalogue import CLIP_FRAMES
from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.data.video import UndecodableVideo, chosen_reader, decode
from replaylab.models.tiny import TinyModel
from replaylab.util import cache
from replaylab.util.files import locked, sha256
from replaylab.util.progress import track

VIDEOS_AT_ONCE = 32
WINDOW_FRAMES = 1  # encoded together, independently of those before and after


@dataclass(frozen=True)
class CachedClips(Sequence[NDArray[np.float32]]):
    """Clips as latents (C, T, h, w), in the order in which they were requested."""

    chunks: list[NDArray[np.float32]]  # each (frames, C, h, w), memory-mapped
    positions: list[tuple[int, int]]  # each clip's chunk, and its first frame in there

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, clip: int) -> NDArray[np.float32]:  # type: ignore[override]  # no slices
        chunk, start = self.positions[clip]
        return self.chunks[chunk][start : start + CLIP_FRAMES].swapaxes(0, 1)


def joined(parts: Sequence[CachedClips]) -> CachedClips:
    """The concatenated clips of several sequences."""
    chunks: list[NDArray[np.float32]] = []
    positions: list[tuple[int, int]] = []
    for part in parts:
        positions += [(len(chunks) + chunk, start) for chunk, start in part.positions]
        chunks += part.chunks
    return CachedClips(chunks, positions)


@dataclass(frozen=True)
class _Chunk:
    path: Path
    videos: dict[Path, int]  # file -> frames
    checksums: list[str]  # of the files


def encode_clips(model: TinyModel, domain: Domain, split: str, chosen: list[Clip], home: Path, key: str) -> CachedClips:
    """Latents of the chosen clips of a split; `key` names the autoencoder's weights.

    Raises UndecodableVideo, with the file, for a video that differs from its domain's list.
    """
    wanted = {clip.video for clip in chosen}
    chunks = [chunk for chunk in _chunks(domain, split, home, key) if any(video.stem in wanted for video in chunk.videos)]
    missing = [chunk for chunk in chunks if not _is_whole(chunk)]
    if missing:
        for _ in track(_encode_chunks(model, missing), what=f"encoding {domain.name}", total=len(missing), unit="chunks"):
            pass
    return CachedClips([_read(chunk) for chunk in chunks], _positions(domain, chunks, chosen))


def _chunks(domain: Domain, split: str, home: Path, key: str) -> list[_Chunk]:
    videos = domain.split(split)
    reader = chosen_reader()
    other_reader = [] if reader == "pyav" else [f"reader {reader}"]  # chunks were published before there was a choice
    chunks = []
    for start in range(0, len(videos), VIDEOS_AT_ONCE):
        part = videos.iloc[start : start + VIDEOS_AT_ONCE]
        content = "\n".join([key, f"window {WINDOW_FRAMES}", *other_reader, *part["sha256"]])
        name = hashlib.sha256(content.encode()).hexdigest()[:32]
        files = (domain.folder / "videos" / file for file in part["file"])
        frames = dict(zip(files, map(int, part["frames"]), strict=True))
        chunks.append(_Chunk(home / f"{name}.npy", frames, list(part["sha256"])))
    return chunks


def _positions(domain: Domain, chunks: list[_Chunk], chosen: list[Clip]) -> list[tuple[int, int]]:
    """The chunk of each chosen clip, and its first frame in that chunk."""
    videos = {}
    for number, chunk in enumerate(chunks):
        first = 0
        for video, frames in chunk.videos.items():
            videos[video.stem] = (number, first, frames)
            first += frames
    positions = []
    for clip in chosen:
        number, first, frames = videos[clip.video]
        if clip.start + CLIP_FRAMES > frames:  # it would go on in the next video
            raise ValueError(
                f"{domain.folder}: no {CLIP_FRAMES} frames from frame {clip.start} of {clip.video} on: it has {frames}"
            )
        positions.append((number, first + clip.start))
    return positions


def _encode_chunks(model: TinyModel, missing: list[_Chunk]) -> Iterator[_Chunk]:
    """Yields each chunk when it exists: first those that no process is encoding, then those encoded by others."""
    others = []
    for chunk in missing:
        with locked(chunk.path, wait=False) as mine:
            if mine:
                _write_chunk(model, chunk)
        if mine:
            yield chunk
        else:
            others.append(chunk)
    for chunk in others:
        with locked(chunk.path):
            _write_chunk(model, chunk)  # unless the other process has finished it
        yield chunk


def _write_chunk(model: TinyModel, chunk: _Chunk) -> None:
    if not _is_whole(chunk):
        cache.write(chunk.path, write, _encode(model, chunk))


def _encode(model: TinyModel, chunk: _Chunk) -> NDArray[np.float32]:
    videos = []
    for (path, frames), checksum in zip(chunk.videos.items(), chunk.checksums, strict=True):
        if sha256(path) != checksum:
            raise ValueError(f"{path} is another video than its domain.json lists (its checksum differs)")
        videos.append(decode(path))
        if len(videos[-1]) != frames:
            raise UndecodableVideo(f"{path}: {len(videos[-1])} frames could be decoded, but its domain.json says {frames}")
    return model.encode(np.concatenate(videos)[:, None])[:, :, 0].numpy()


def _is_whole(chunk: _Chunk) -> bool:
    return cache.kept(chunk.path, lambda path: _read(chunk)) is not None


def _read(chunk: _Chunk) -> NDArray[np.float32]:
    frames = np.asarray(open_memmap(chunk.path, mode="r"))  # still mapped: a plain array is quicker to cut
    if frames.ndim != 4 or len(frames) != sum(chunk.videos.values()) or frames.dtype != np.float32:
        raise ValueError(f"{chunk.path} holds {frames.dtype} {frames.shape}")
    return frames


def write(aside: Path, latents: NDArray[np.float32]) -> None:
    """Write an .npy file under any name."""
    with aside.open("wb") as file:  # a name would get `.npy` appended
        np.save(file, latents)
