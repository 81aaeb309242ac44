"""Distances between the videos of two folders, each with the settings needed to compare it with other results.

Decision: each video gives one clip, the frames after the context, with the same number for all. Clips are decoded once, and
every network receives the same pixels, as a player shows them (`data.importers.recording`: upright, square pixels, BT.709).
A folder holds video files, also in subfolders, or is a domain (`domain.json`), of which one split is used. With fewer than
`distances.N_MIN` clips in either set nothing is measured, regardless of the number of frames.

The Fréchet distance decreases with n, so it is given with its value extrapolated to infinite n, from 2 N_MIN clips on. The
kernel distance needs no extrapolation; `distances` describes its dependence on n. If the real clips continue the contexts of
the generated ones, as `paired` requires, the distance is smaller than between sets of different scenes.

Refused, with the set and the file: invalid or truncated videos, differing sizes or frame rates, too few frames (frames are
never repeated), duplicate clips, and features that are not finite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import measure_of
from replaylab.data.domain import open_domain
from replaylab.data.importers.listing import listed
from replaylab.data.importers.recording import NoVideo, Recording, probe
from replaylab.data.importers.sources import Unusable
from replaylab.data.video import UndecodableVideo
from replaylab.metrics import distances, extractors, fidelity
from replaylab.metrics.distances import Extractor, extrapolated_distances
from replaylab.metrics.extractors import FeatureNetwork
from replaylab.util.progress import track

EXTRACTORS = ("efficientnet", "videonet", "inception=FILE", "i3d=FILE", "videomae=FOLDER", "vjepa2=FOLDER")
NAMES = {  # of the Fréchet and the kernel distance
    "efficientnet": (measure_of("effnet_fd").label, measure_of("effnet_kd").label),
    "videonet": (measure_of("video_fd").label, measure_of("video_kd").label),
    "inception": ("FID", "KID"),
    "i3d": ("FVD", "KVD"),
    "videomae": ("VideoMAE-FVD", "VideoMAE-KVD"),
    "vjepa2": ("V-JEPA2-FVD", "V-JEPA2-MMD"),
}
CLIPS_AT_A_TIME, BYTES_AT_A_TIME = 8, 2**30
REPEATS = 10  # extrapolations to infinite n, averaged
Features = NDArray[np.float32]


@dataclass(frozen=True)
class VideoFile:
    """A video of a set."""

    set_name: str  # as errors call it
    path: Path
    name: str  # its path below the folder, or its file in a domain: those of a pair have the same
    recording: Recording = field(repr=False)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.recording.width_px, self.recording.height_px

    @property
    def frames(self) -> int:
        """The number of frames."""
        return len(self.recording.stamps)

    @property
    def frames_per_second(self) -> float:
        """From the median time between frames; 0 for a single frame."""
        return self.recording.frames_per_second

    def __str__(self) -> str:
        return f"{self.set_name}: {self.path}"


def table(
    made: str | Path, real: str | Path, networks: Sequence[str] = ("efficientnet",), context_frames: int = 0,
    frames: int = 0, split: str = "test", paired: bool = False, allow_unknown: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """One row per measure: every network's distances and, if `paired`, mean fidelity to the real clip of the same file name.

    networks: of EXTRACTORS, each with its path. frames: number after the context; 0: that of the shortest video.
    allow_unknown: also run TorchScript files that are not the published ones.
    Columns: those of `distances.Distance`, `at_infinite_n` (NaN where n is too small), `clips` in the smaller set,
    `video` (size and rate). ValueError or FileNotFoundError names the set and the file.
    """
    sets = _videos(f"MADE {made}", Path(made), split), _videos(f"REAL {real}", Path(real), split)
    frames = _check([*sets[0], *sets[1]], context_frames, frames)
    first = sets[0][0]
    loaded = [_open(network, frames, first.size_px, allow_unknown) for network in networks]
    digests: dict[bytes, VideoFile] = {}
    features = [_features(videos, loaded, context_frames, frames, digests) for videos in sets]
    rows = [
        row
        for text, network, *of_both in zip(networks, loaded, *features, strict=True)
        for row in _distances(NAMES[text.partition("=")[0]], network.extractor, sets, of_both)
    ]
    if paired:
        rows += _pairs(*sets, context_frames, frames)
    width, height = first.size_px
    return pd.DataFrame(rows).assign(video=f"{width}x{height}, {first.frames_per_second:g}/s")


def _videos(set_name: str, folder: Path, split: str) -> list[VideoFile]:
    if (folder / "domain.json").is_file():
        domain = open_domain(folder)
        paths = [domain.video(Path(file).stem) for file in domain.split(split)["file"]]
        videos = [(path, path.name) for path in paths]
        found = f"{len(videos)} videos in split {split!r}"
    elif folder.is_dir():
        files = listed(folder)
        if files.unusable:
            raise UndecodableVideo(f"{set_name}: {_reason(files.unusable[0])}")
        videos = [(folder / file, file) for file in files.videos]
        found = f"{len(videos)} videos in and below it (by their endings; {files.described_others})"
    else:
        videos, found = [], "0 videos: there is no such folder"
    if len(videos) < distances.N_MIN:
        raise ValueError(f"{set_name}: {found}, at least {distances.N_MIN} are needed; add clips, do not repeat them")
    return [_opened(set_name, path, name) for path, name in videos]


def _opened(set_name: str, path: Path, name: str) -> VideoFile:
    try:
        return VideoFile(set_name, path, name, probe(path, str(path)))
    except NoVideo as error:
        raise UndecodableVideo(f"{set_name}: {path} is no video, or not all of one: {error.args[1]}") from error
    except Unusable as error:
        raise UndecodableVideo(f"{set_name}: {_reason(error)}") from error
    except OSError as error:
        raise UndecodableVideo(f"{set_name}: {path} is no video, or not all of one ({type(error).__name__})") from error


def _reason(error: Unusable) -> str:
    return "{}: {}; {}".format(*error.args)


def _check(videos: list[VideoFile], context_frames: int, frames: int) -> int:
    """The number of frames to use; ValueError names a video with too few, or whose size or rate differs from the first."""
    if context_frames < 0 or frames < 0:
        raise ValueError(f"context_frames {context_frames}, frames {frames}: neither may be below 0")
    frames = frames or max(1, min(video.frames for video in videos) - context_frames)
    first = videos[0]
    for video in videos:
        if video.size_px != first.size_px:
            size, wanted = ("x".join(map(str, one.size_px)) for one in (video, first))
            raise ValueError(f"{video}: {size} pixels, {first.path} has {wanted}; bring all to one size, by one kernel")
        if not math.isclose(video.frames_per_second, first.frames_per_second, rel_tol=0.01):
            raise ValueError(
                f"{video}: {video.frames_per_second:g} frames per second, {first.path} has "
                f"{first.frames_per_second:g}; bring all to one rate"
            )
        if video.frames < context_frames + frames:
            needed = f"{context_frames} of context and {frames} to compare are needed"
            raise ValueError(f"{video}: {video.frames} frames, but {needed}")
    return frames


def _decoded(video: VideoFile, context_frames: int, frames: int) -> NDArray[np.uint8]:
    try:
        pictures = list(video.recording.pictures(range(context_frames, context_frames + frames)))
    except Unusable as error:
        raise UndecodableVideo(f"{video.set_name}: {_reason(error)}") from error
    for picture in pictures:
        if picture.shape[1::-1] != video.size_px:
            size, wanted = ("x".join(map(str, one)) for one in (picture.shape[1::-1], video.size_px))
            raise UndecodableVideo(f"{video}: a frame has {size} pixels, and the first one {wanted}")
    return np.stack(pictures)


def _open(text: str, frames: int, size_px: tuple[int, int], allow_unknown: bool) -> FeatureNetwork:
    """The network given as text, such as "i3d=weights/i3d_torchscript.pt", for clips of `frames` frames."""
    kind, _, path = text.partition("=")
    if kind not in NAMES or (kind not in ("efficientnet", "videonet")) != bool(path):
        raise ValueError(f"extractor: {text!r} is none of {', '.join(EXTRACTORS)}")
    if kind == "efficientnet":
        network = FeatureNetwork(fidelity.extractor(*size_px[::-1]), _of_each_frame)
    elif kind == "videonet":
        from replaylab.metrics import video_network

        network = FeatureNetwork(video_network.extractor(), video_network.features)
    elif kind == "inception":
        network = extractors.inception(path, allow_unknown)
    elif kind == "i3d":
        network = extractors.i3d(path, frames, allow_unknown)
    else:
        network = extractors.vjepa2(path, frames) if kind == "vjepa2" else extractors.videomae(path)
    if network.extractor.frames > frames:
        raise ValueError(
            f"{text}: sees {network.extractor.frames} frames, but {frames} after the context are to be compared; give "
            "longer videos (frames are never repeated)"
        )
    return network


def _of_each_frame(batch: Any) -> Features:
    features = fidelity.efficientnet_features(batch.reshape(-1, *batch.shape[2:]))
    return features.reshape(*batch.shape[:2], -1)


def _features(
    videos: list[VideoFile], networks: list[FeatureNetwork], context_frames: int, frames: int,
    digests: dict[bytes, VideoFile],
) -> list[Features]:  # fmt: skip
    """The features of a set from each network: (clips, d), or (clips, frames, d). `digests`: of all clips, updated here."""
    features: list[list[Features]] = [[] for _ in networks]
    remaining = track(videos, f"comparing {videos[0].set_name}", unit="clips")
    fitting = BYTES_AT_A_TIME // (frames * math.prod(videos[0].size_px) * 3)
    while batch := list(islice(remaining, max(1, min(CLIPS_AT_A_TIME, fitting)))):
        pixels = np.stack([_decoded(video, context_frames, frames) for video in batch])
        for video, clip in zip(batch, pixels, strict=True):
            twin = digests.setdefault(hashlib.sha256(clip.tobytes()).digest(), video)
            if twin is not video:
                raise ValueError(f"{video} has the frames of {twin}; no clip may count twice")
        for network, parts in zip(networks, features, strict=True):
            extractor = network.extractor
            try:
                parts.append(network.features(pixels[:, : frames if extractor.frames == 1 else extractor.frames]))
            except ValueError as error:
                raise ValueError(f"{batch[0]}: {extractor.name}: {error}") from error
            for video, one in zip(batch, parts[-1], strict=True):
                if not np.isfinite(one).all():
                    raise ValueError(f"{video}: {extractor.name} gives NaN or infinity; are its weights whole?")
    return [np.concatenate(parts) for parts in features]


def _distances(
    names: tuple[str, str], extractor: Extractor, sets: Sequence[list[VideoFile]], features: list[Features]
) -> list[dict[str, Any]]:
    """Rows of the Fréchet and the kernel distance, under their names."""
    a, b = features
    n = min(len(a), len(b))
    infinite = math.nan
    if n >= 2 * distances.N_MIN:
        infinite = float(extrapolated_distances(_frechet, a, b, [n // 2, n * 3 // 4, n], REPEATS).mean())
    measures = (distances.frechet_distance, infinite), (distances.kernel_distance, math.nan)
    set_names = sets[0][0].set_name, sets[1][0].set_name
    clips_a, clips_b = ([str(video.path) for video in videos] for videos in sets)
    rows = []
    for name, (of, at_infinite_n) in zip(names, measures, strict=True):
        distance = distances.between(name, of, a, b, extractor, names=set_names, clips_a=clips_a, clips_b=clips_b)
        rows.append(asdict(distance) | {"at_infinite_n": at_infinite_n, "clips": n})
    return rows


def _frechet(a: Any, b: Any) -> float:
    return distances.frechet_distance(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))


def _pairs(made: list[VideoFile], real: list[VideoFile], context_frames: int, frames: int) -> list[dict[str, Any]]:
    """Means of `fidelity.clip_fidelity` over generated clips, each compared with the real clip of the same file name."""
    partners = {video.name: video for video in real}
    if alone := [video for video in made if video.name not in partners]:
        raise ValueError(f"{alone[0]} has no partner of that name in {real[0].set_name}")
    values = []
    for video in track(made, "comparing pairs", unit="pairs"):
        pair = [_decoded(one, context_frames, frames) for one in (video, partners[video.name])]
        try:
            values.append(fidelity.clip_fidelity(*pair))
        except ValueError as error:
            raise ValueError(f"{video}: {error}") from error
    n, side = len(values), min(made[0].size_px)
    about = {"n": n, "frames": frames, "size_px": side, "resize": "none", "clips": n}
    return [{"name": name, "value": value} | about for name, value in pd.DataFrame(values).mean().items()]
