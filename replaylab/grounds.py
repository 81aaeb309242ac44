"""What is measured on which clips? Evaluation domains made ready once a process, for every arm and step.

Decision: clips, truth, context latents, and what the networks see in the truth and in real clips of other scenes are
prepared once and shared, so that an arm costs what it draws. Distances are taken to those other scenes, and the floor,
real against real, is then what a perfect model would get. Refused: a split with too few scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab import clips as clips_room
from replaylab import detector, dynamics, fidelity, latents, motion, parallel, trajectories, videonet, worlds
from replaylab.clips import Clip
from replaylab.domain import Domain
from replaylab.fidelity import Seen
from replaylab.models import CLIP_FRAMES, CONTEXT_FRAMES, TinyWan
from replaylab.spec import WEIGHTS, EvaluationSpec, WorldSpec, weights_digest
from replaylab.trajectories import CELLS, cells

Frames = NDArray[np.uint8]
Boxes = Sequence[Sequence[NDArray[np.floating]]]  # N clips x T frames
DRIVING = ("traffic", "country")  # worlds whose agents the detector knows
LEAST_TURN_RAD_S = np.deg2rad(1)
FOLLOWED_PX = 10.0  # from a context frame to the next: who went further is not known again


@dataclass(frozen=True)
class Ground:
    """One evaluation domain made ready: N clips with truth, and M real clips of other scenes."""

    name: str
    split: str
    drives: bool
    """whether its agents are measured"""
    frames_per_second: float
    clips: list[Clip]
    frames: Frames
    """(N, T, H, W, 3)"""
    truth: list[list[pd.DataFrame]]
    """N x T"""
    ego: NDArray[np.float64]
    """(N, T, 3): where the ego car is, x and y in m, and its heading in radians"""
    cameras: NDArray[np.float64]
    """(N, T, 3): field of view in degrees, height in m, pitch in radians"""
    latents: torch.Tensor
    """(N, C, T, h, w)"""
    references: Frames
    """(M, T, H, W, 3)"""
    reference_names: tuple[str, ...]
    """the scenes of the references"""
    mean_motion: MeanMotion
    """of the target's ordinary driving"""

    @property
    def context(self) -> torch.Tensor:
        """Latents (N, C, K, h, w)."""
        return self.latents[:, :, :CONTEXT_FRAMES]

    @cached_property
    def future_agents(self) -> list[FutureAgents]:
        """The true agents of each clip's future frames."""
        return [FutureAgents.of(clip[CONTEXT_FRAMES:]) for clip in self.truth]

    @cached_property
    def seen(self) -> Seen:
        """What EfficientNet makes of the true future frames (N x future frames)."""
        return fidelity.efficientnet(flat_future(self.frames))

    @cached_property
    def reference_features(self) -> NDArray[np.float32]:
        """Of the references' future frames (M x future frames, 1280)."""
        return fidelity.efficientnet_features(flat_future(self.references))

    @cached_property
    def reference_videos(self) -> NDArray[np.float32]:
        """Video features (M, d) of the references' futures."""
        return videonet.features(self.references[:, CONTEXT_FRAMES:])

    @cached_property
    def flows(self) -> list[NDArray[np.float32]]:
        """Optical flow of the true clips from the last context frame on, N x (future frames, H, W, 2)."""
        return [motion.flow(clip[CONTEXT_FRAMES - 1 :]) for clip in self.frames]

    @cached_property
    def turns(self) -> bool:
        """Whether the ego car ever turns: where it does not, a yaw rate tells a still clip from nothing."""
        rates = [motion.true_ego_motion(ego, self.frames_per_second)[:, 1] for ego in self.ego]
        return bool(np.abs(rates).max() > LEAST_TURN_RAD_S)

    @cached_property
    def extrapolated(self) -> Boxes:
        """Boxes that the detector finds in the context, carried on at constant velocity: N x future frames."""
        found, future = found_in(self.frames[:, :CONTEXT_FRAMES]), CLIP_FRAMES - CONTEXT_FRAMES
        return [trajectories.extrapolated(clip, future, gate_px=FOLLOWED_PX) for clip in found]


class FutureAgents(NamedTuple):
    """The true agents of a clip's T future frames; A may differ from frame to frame."""

    boxes: list[NDArray[np.float64]]
    """T x (A, 4) px"""
    ids: list[NDArray[np.int64]]
    """T x (A,)"""
    eligible: list[NDArray[np.bool_]]
    """T x (A,)"""

    @classmethod
    def of(cls, future: list[pd.DataFrame]) -> FutureAgents:
        """From the truth's rows of each future frame."""
        columns = [[table[name].to_numpy() for table in future] for name in ("agent", "eligible")]
        return cls([boxes_of(table) for table in future], *columns)


@dataclass(frozen=True)
class MeanMotion:
    """How agents move on average in some clips, by where they are in the last context frame."""

    size_px: int
    field_px: NDArray[np.float64]
    """(future frames, CELLS, CELLS, 2): mean displacement since then; that of all agents where a cell has none"""

    def of(self, frame: NDArray[np.int64], start_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacements (n, 2) for future frames (n,) and centres in the last context frame (n, 2), in px."""
        column, row = cells(start_px, self.size_px).T
        return self.field_px[frame, row, column]

    @classmethod
    def measured(cls, truth: Sequence[Sequence[pd.DataFrame]], size_px: int) -> MeanMotion:
        """Of clips' truth, whole clips with their context; ValueError where no eligible agent stays."""
        parts = []
        for clip in truth:
            last = clip[CONTEXT_FRAMES - 1]
            start = dict(zip(last["agent"], dynamics.centres(boxes_of(last)), strict=True))
            for frame, table in enumerate(clip[CONTEXT_FRAMES:]):
                table = table[table["eligible"] & table["agent"].isin(start)]
                then = np.array([start[agent] for agent in table["agent"]]).reshape(-1, 2)
                now = dynamics.centres(boxes_of(table))
                parts += [
                    (frame, *cell, *moved)
                    for cell, moved in zip(cells(then, size_px), now - then, strict=True)
                ]
        if not parts:
            raise ValueError("mean motion: no eligible agent is there from the last context frame on")
        moves = pd.DataFrame(parts, columns=["frame", "column", "row", "x", "y"])
        field = np.full((CLIP_FRAMES - CONTEXT_FRAMES, CELLS, CELLS, 2), np.nan)
        for (frame, column, row), found in (
            moves.groupby(["frame", "column", "row"])[["x", "y"]].mean().iterrows()
        ):
            field[int(frame), int(row), int(column)] = found
        everywhere = moves.groupby("frame")[["x", "y"]].mean().reindex(range(len(field))).to_numpy()
        return cls(size_px, np.where(np.isnan(field), everywhere[:, None, None], field))


def prepare(spec: EvaluationSpec, home: Path, at_the_end: bool = False) -> list[Ground]:
    """The domains that are measured at every step, or all of them at the end; rendered and encoded once a process."""
    chosen = (*spec.domains, *(spec.at_the_end if at_the_end else ()))
    return [
        _ground(world, spec.domains[0], spec.split, spec.clips, spec.reference_clips, home)
        for world in chosen
    ]


@cache
def _ground(
    world: WorldSpec, ordinary: WorldSpec, split: str, clips: int, reference_clips: int, home: Path
) -> Ground:
    domain = worlds.build(world, home / "domains")
    scenes = clips_room.one_a_scene(clips_room.clips_of(domain, split, CLIP_FRAMES))
    if len(scenes) < clips + reference_clips:
        raise ValueError(
            f"{domain.folder}: split {split!r} has {len(scenes)} scenes, but {clips} clips to continue and "
            f"{reference_clips} reference clips of other scenes are asked for"
        )
    chosen, others = scenes[:clips], scenes[clips : clips + reference_clips]
    return Ground(
        domain.name, split, world.world in DRIVING, domain.frames_per_second, chosen, _frames(domain, chosen),
        clips_room.truth_of(domain, chosen, CLIP_FRAMES), _ego(domain, chosen, ["x_m", "y_m", "heading_rad"]),
        _ego(domain, chosen, ["field_of_view_deg", "camera_height_m", "camera_pitch_rad"]),
        _latents(domain, split, chosen, home), _frames(domain, others), tuple(clip.scene for clip in others),
        _mean_motion(ordinary, split, home),
    )  # fmt: skip


@cache
def _mean_motion(world: WorldSpec, split: str, home: Path) -> MeanMotion:
    """Of all clips of the split, one a scene."""
    domain = worlds.build(world, home / "domains")
    scenes = clips_room.one_a_scene(clips_room.clips_of(domain, split, CLIP_FRAMES))
    return MeanMotion.measured(clips_room.truth_of(domain, scenes, CLIP_FRAMES), world.size_px)


def _frames(domain: Domain, chosen: list[Clip]) -> Frames:
    return np.stack(list(clips_room.read(domain, chosen, CLIP_FRAMES)))


def _ego(domain: Domain, chosen: list[Clip], columns: list[str]) -> NDArray[np.float64]:
    by_video = dict(iter(domain.ego.sort_values("frame").groupby("video")))
    return np.stack(
        [by_video[clip.video].iloc[clip.start : clip.start + CLIP_FRAMES][columns] for clip in chosen]
    )


def _latents(domain: Domain, split: str, chosen: list[Clip], home: Path) -> torch.Tensor:
    coded = latents.encoded(
        coder(), domain, split, chosen, home / "latents", weights_digest(WEIGHTS / "base" / "vae")
    )
    return torch.from_numpy(np.stack(list(coded)))


@cache
def coder() -> TinyWan:
    """For its autoencoder, which all bases share."""
    return TinyWan.load(WEIGHTS / "base").to(parallel.place().device)


@cache
def _detector() -> Any:
    return detector.load()


def found_in(frames: Frames) -> Boxes:
    """The detector's boxes, with their scores, in clips (N, T, H, W, 3): N x T."""
    flat = detector.find(_detector(), frames.reshape(-1, *frames.shape[2:]))
    length = frames.shape[1]
    return [flat[clip * length : (clip + 1) * length] for clip in range(len(frames))]


def flat_future(frames: Frames) -> Frames:
    """The future frames of clips (N, T, H, W, 3), one after another: (N x future frames, H, W, 3)."""
    return frames[:, CONTEXT_FRAMES:].reshape(-1, *frames.shape[2:])


def boxes_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """Boxes (A, 4) of the truth's rows of one frame, px."""
    return table[["x0", "y0", "x1", "y1"]].to_numpy(float)
