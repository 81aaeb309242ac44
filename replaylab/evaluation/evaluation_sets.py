"""What is measured on which clips? Evaluation domains made ready once a process, for every arm and step.

Decision: clips, truth, context latents, and what the networks see in the truth and in real clips of other scenes are
prepared once and shared, so that an arm costs what it draws. Distances are taken to those other scenes, and the floor,
real against real, is then what a perfect model would get. Refused: a split with too few scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.data import clips as clips_room
from replaylab.data.boxes import centres
from replaylab.data.clips import Clip
from replaylab.data.domain import TRACK_COLUMNS, Domain
from replaylab.metrics import fidelity, optical_flow, trajectories, video_network
from replaylab.metrics.detectors import centre_point
from replaylab.metrics.fidelity import Seen
from replaylab.metrics.trajectories import CELLS, cells
from replaylab.models import pipelines
from replaylab.models.interface import Condition, stacked, to_draw
from replaylab.models.pipelines import Frames, Pipeline
from replaylab.spec import DetectorSpec, EvaluationSpec, FolderSpec, World
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import DRIVING_WORLDS

if TYPE_CHECKING:
    from replaylab.metrics.detectors.pretrained import ObjectDetector

Boxes = Sequence[Sequence[NDArray[np.floating]]]  # N clips x T frames

LEAST_TURN_RAD_S = np.deg2rad(1)
FOLLOWED = 10 / 64  # of the width, from a context frame to the next: who went further is not known again


@dataclass(frozen=True)
class EvaluationSet:
    """One evaluation domain made ready: N clips with truth, and M real clips of other scenes."""

    name: str
    split: str
    has_agents: bool
    """whether its agents are measured"""
    frames_per_second: float
    clips: list[Clip]
    frames: Frames
    """(N, T, H, W, 3)"""
    truth: list[list[pd.DataFrame]]
    """N x T"""
    ego: NDArray[np.float64] | None
    """(N, T, 3): where the ego car is, x and y in m, and its heading in radians; None where that is not known"""
    cameras: NDArray[np.float64] | None
    """(N, T, 3): field of view in degrees, height in m, pitch in radians; None where they are not known"""
    pipeline: Pipeline
    """the model that continues the clips, or one with its autoencoder and context"""
    latents: torch.Tensor
    """(N, C, T, h, w)"""
    known: Condition
    """what is known of the clips beside their latents"""
    references: Frames
    """(M, T, H, W, 3)"""
    reference_names: tuple[str, ...]
    """the scenes of the references"""
    mean_motion: MeanMotion | None
    """of the target's ordinary driving; None where no agent of it is known"""
    detect: Callable[[Frames], Boxes]
    """boxes of agents, with their scores, in clips (N, T, H, W, 3): N x T"""

    @property
    def context_frames(self) -> int:
        """K, the frames of a clip that are given."""
        return self.pipeline.context_frames

    @property
    def to_draw(self) -> Condition:
        """What a model is told of the clips to draw their futures."""
        return to_draw(self.latents, self.known)

    def future(self, frames: Frames) -> Frames:
        """The frames after the context of clips (N, T, H, W, 3)."""
        return frames[:, self.context_frames :]

    def flat_future(self, frames: Frames) -> Frames:
        """The same, one after another: (N x future frames, H, W, 3)."""
        return flat_future(frames, self.context_frames)

    def subset(self, kept: Sequence[int] | NDArray[np.intp]) -> EvaluationSet:
        """The same evaluation set with some of its clips, by number."""
        number = np.asarray(kept)
        return replace(
            self, clips=[self.clips[clip] for clip in kept], truth=[self.truth[clip] for clip in kept],
            frames=self.frames[number], latents=self.latents[number],
            ego=None if self.ego is None else self.ego[number],
            cameras=None if self.cameras is None else self.cameras[number],
            known={name: tensor[number] for name, tensor in self.known.items()},
        )  # fmt: skip

    @cached_property
    def true_agents(self) -> list[TrueAgents]:
        """The true agents of each clip's future frames."""
        return [TrueAgents.of(clip[self.context_frames :]) for clip in self.truth]

    @cached_property
    def seen(self) -> Seen:
        """What EfficientNet makes of the true future frames (N x future frames)."""
        return fidelity.efficientnet(self.flat_future(self.frames))

    @cached_property
    def reference_features(self) -> NDArray[np.float32]:
        """Of the references' future frames (M x future frames, 1280)."""
        return fidelity.efficientnet_features(self.flat_future(self.references))

    @cached_property
    def reference_videos(self) -> NDArray[np.float32]:
        """Video features (M, d) of the references' futures."""
        return video_network.features(self.future(self.references))

    @cached_property
    def flows(self) -> list[NDArray[np.float32]]:
        """Optical flow of the true clips from the last context frame on, N x (future frames, H, W, 2)."""
        return [optical_flow.flow(clip[self.context_frames - 1 :]) for clip in self.frames]

    @cached_property
    def ego_turns(self) -> bool:
        """Whether the ego car ever turns: where it does not, a yaw rate tells a still clip from nothing."""
        if self.ego is None:
            return False
        rates = [optical_flow.true_ego_motion(ego, self.frames_per_second)[:, 1] for ego in self.ego]
        return bool(np.abs(rates).max() > LEAST_TURN_RAD_S)

    @cached_property
    def extrapolated(self) -> Boxes:
        """Boxes that the detector finds in the context, carried on at constant velocity: N x future frames."""
        context = self.frames[:, : self.context_frames]
        count, gate_px = self.frames.shape[1] - context.shape[1], FOLLOWED * self.frames.shape[3]
        return [trajectories.extrapolated(clip, count, gate_px=gate_px) for clip in self.detect(context)]


class TrueAgents(NamedTuple):
    """The true agents of a clip's T future frames; A may differ from frame to frame."""

    boxes: list[NDArray[np.float64]]
    """T x (A, 4) px"""
    ids: list[NDArray[np.int64]]
    """T x (A,)"""
    eligible: list[NDArray[np.bool_]]
    """T x (A,)"""

    @classmethod
    def of(cls, future: list[pd.DataFrame]) -> TrueAgents:
        """From the truth's rows of each future frame."""
        columns = [[table[name].to_numpy() for table in future] for name in ("agent", "eligible")]
        return cls([true_boxes(table) for table in future], *columns)


@dataclass(frozen=True)
class MeanMotion:
    """How agents move on average in some clips, by where they are in the last context frame."""

    size_px: tuple[int, int]
    """height and width"""
    field_px: NDArray[np.float64]
    """(future frames, CELLS, CELLS, 2): mean displacement since then; that of all agents where a cell has none"""

    def of(self, frame: NDArray[np.int64], start_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacements (n, 2) for future frames (n,) and centres in the last context frame (n, 2), in px."""
        column, row = cells(start_px, self.size_px).T
        return self.field_px[frame, row, column]

    @classmethod
    def measured(
        cls, truth: Sequence[Sequence[pd.DataFrame]], size_px: tuple[int, int], context_frames: int = CONTEXT_FRAMES
    ) -> MeanMotion:
        """Of clips' truth, whole clips with their context; ValueError where no eligible agent stays."""
        parts = []
        for clip in truth:
            last = clip[context_frames - 1]
            start = dict(zip(last["agent"], centres(true_boxes(last)), strict=True))
            for frame, table in enumerate(clip[context_frames:]):
                table = table[table["eligible"] & table["agent"].isin(start)]
                then = np.array([start[agent] for agent in table["agent"]]).reshape(-1, 2)
                now = centres(true_boxes(table))
                parts += [(frame, *cell, *moved) for cell, moved in zip(cells(then, size_px), now - then, strict=True)]
        if not parts:
            raise ValueError("mean motion: no eligible agent is there from the last context frame on")
        moves = pd.DataFrame(parts, columns=["frame", "column", "row", "x", "y"])
        field = np.full((len(truth[0]) - context_frames, CELLS, CELLS, 2), np.nan)
        for (frame, column, row), found in moves.groupby(["frame", "column", "row"])[["x", "y"]].mean().iterrows():
            field[int(frame), int(row), int(column)] = found
        everywhere = moves.groupby("frame")[["x", "y"]].mean().reindex(range(len(field))).to_numpy()
        return cls(size_px, np.where(np.isnan(field), everywhere[:, None, None], field))


def prepare_sets(
    spec: EvaluationSpec, home: Path, at_the_end: bool = False, pipeline: Pipeline | None = None
) -> list[EvaluationSet]:
    """The domains that are measured at every step, or all of them at the end; rendered and encoded once a process.

    `pipeline`: whose context and latents they are; by default the tiny model's.
    """
    chosen = (*spec.domains, *(spec.at_the_end if at_the_end else ()))
    pipeline = pipeline or pipelines.published_tiny()
    return [
        _prepared_set(
            world, spec.domains[0], spec.split, spec.clips, spec.reference_clips, spec.object_detector, home, pipeline
        )
        for world in chosen
    ]  # fmt: skip


@cache
def _prepared_set(
    world: World, ordinary: World, split: str, clips: int, reference_clips: int, by: DetectorSpec | None, home: Path,
    pipeline: Pipeline,
) -> EvaluationSet:  # fmt: skip
    domain, length = build_domain(world, home / "domains"), pipeline.frames
    scenes = clips_room.one_a_scene(clips_room.clips_of(domain, split, length))
    if len(scenes) < clips + reference_clips:
        raise ValueError(
            f"{domain.folder}: split {split!r} has {len(scenes)} scenes, but {clips} clips to continue and "
            f"{reference_clips} reference clips of other scenes are asked for"
        )
    chosen, others = scenes[:clips], scenes[clips : clips + reference_clips]
    encoded, known = stacked(list(pipeline.encode_clips(domain, split, chosen, home)))
    has_agents = _has_agents(world, by)
    frames = _frames(domain, chosen, length)
    return EvaluationSet(
        domain.name, split, has_agents, domain.frames_per_second, chosen, frames,
        _truth(domain, chosen, frames, by),
        _ego(domain, chosen, length, ["x_m", "y_m", "heading_rad"]),
        _ego(domain, chosen, length, ["field_of_view_deg", "camera_height_m", "camera_pitch_rad"]), pipeline, encoded,
        known, _frames(domain, others, length), tuple(clip.scene for clip in others),
        _mean_motion(ordinary, split, by, home, pipeline), detector_for(by),
    )  # fmt: skip


def _has_agents(world: World, by: DetectorSpec | None) -> bool:
    """Whether agents are measured: in the driving worlds, and in folders whose agents somebody knows or can find."""
    if isinstance(world, FolderSpec):
        return by is not None
    return world.world in DRIVING_WORLDS


def _truth(domain: Domain, chosen: list[Clip], frames: Frames, by: DetectorSpec | None) -> list[list[pd.DataFrame]]:
    """The tracks that the domain has, else those that the detector makes of the real frames, else none."""
    if domain.has_tracks:
        return clips_room.truth_of(domain, chosen, frames.shape[1])
    if by is None:
        nothing = pd.DataFrame(columns=list(TRACK_COLUMNS))
        return [[nothing] * frames.shape[1]] * len(frames)
    from replaylab.metrics.detectors import pretrained

    return [pretrained.pseudo_tracks(clip, _object_detector(by)) for clip in frames]


@cache
def _object_detector(by: DetectorSpec) -> ObjectDetector:
    from replaylab.metrics.detectors import pretrained

    agents = pretrained.agents_of(by.agents)
    found = pretrained.load(by.folder, agents or None, by.threshold)
    if found.digest != by.digest:
        raise ValueError(f"{by.folder} is another detector ({found.digest}) than the one described ({by.digest})")
    return found


@cache
def _mean_motion(
    world: World, split: str, by: DetectorSpec | None, home: Path, pipeline: Pipeline
) -> MeanMotion | None:
    """Of all clips of the split, one a scene; None where no agent is measured."""
    domain, length = build_domain(world, home / "domains"), pipeline.frames
    if not _has_agents(world, by):
        return None
    scenes = clips_room.one_a_scene(clips_room.clips_of(domain, split, length))
    truth = (
        clips_room.truth_of(domain, scenes, length)
        if domain.has_tracks
        else _truth(domain, scenes, _frames(domain, scenes, length), by)
    )
    size_px = domain.height_px, domain.width_px
    try:
        return MeanMotion.measured(truth, size_px, pipeline.context_frames)
    except ValueError:
        if isinstance(world, FolderSpec):  # in videos of one's own it may well be that no agent stays
            return None
        raise


def _frames(domain: Domain, chosen: list[Clip], length: int) -> Frames:
    return np.stack(list(clips_room.read(domain, chosen, length)))


def _ego(domain: Domain, chosen: list[Clip], length: int, columns: list[str]) -> NDArray[np.float64] | None:
    if not domain.has_ego or domain.ego[columns].isna().any(axis=None):
        return None
    by_video = dict(iter(domain.ego.sort_values("frame").groupby("video")))
    return np.stack([by_video[clip.video].iloc[clip.start : clip.start + length][columns] for clip in chosen])


def clear_cache() -> None:
    """Free the prepared sets: each holds the model that it was prepared for, and the next run has another."""
    _prepared_set.cache_clear()
    _mean_motion.cache_clear()


@cache
def detector_for(by: DetectorSpec | None = None) -> Callable[[Frames], Boxes]:
    """Finds agents in clips (N, T, H, W, 3), N x T boxes with their scores: the shipped detector, or one of transformers
    by name or folder.
    """
    if by is not None:
        return _object_detector(by).find_in_clips
    network = centre_point.load()
    return lambda frames: _by_clip(centre_point.detect(network, flat(frames)), len(frames))


def detect(frames: Frames) -> Boxes:
    """The shipped detector's boxes, with their scores, in clips (N, T, H, W, 3): N x T."""
    return detector_for()(frames)


def _by_clip(found: list[NDArray[np.float32]], clips: int) -> Boxes:
    length = len(found) // clips
    return [found[clip * length : (clip + 1) * length] for clip in range(clips)]


def flat(frames: Frames) -> Frames:
    """Clips (N, T, H, W, 3) as frames, one after another."""
    return frames.reshape(-1, *frames.shape[2:])


def flat_future(frames: Frames, context_frames: int = CONTEXT_FRAMES) -> Frames:
    """The future frames of clips (N, T, H, W, 3), one after another: (N x future frames, H, W, 3)."""
    return flat(frames[:, context_frames:])


def true_boxes(table: pd.DataFrame) -> NDArray[np.float64]:
    """Boxes (A, 4) of the truth's rows of one frame, px."""
    return table[["x0", "y0", "x1", "y1"]].to_numpy(float)
