"""Evaluation sets: the held-out clips of a domain, their ground truth, and the real clips to which distances are computed.

Decision: quantities from real frames (latents, features, optical flow, pseudo-tracks, mean motion) are computed once per
store and shared by all configurations and steps, so that a configuration costs only its own clips. Distances are
computed to real clips of other scenes, so the baseline 'real' is the value of a perfect model.

Refused: a split with too few scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.data import clips as clips_module
from replaylab.data.boxes import centres
from replaylab.data.clips import Clip
from replaylab.data.domain import TRACK_COLUMNS, TRACK_TYPES, Domain
from replaylab.evaluation.feature_cache import Arrays, FeatureCache
from replaylab.metrics import ego_motion, fidelity, optical_flow, trajectories, video_network
from replaylab.metrics.detectors import centre_point, fcos
from replaylab.metrics.fidelity import Activations
from replaylab.metrics.trajectories import CELLS, image_cells
from replaylab.models import pipelines
from replaylab.models.interface import Condition, stack_clips
from replaylab.models.pipelines import Frames, Pipeline
from replaylab.shipped_weights import shipped_of
from replaylab.spec import DetectorSpec, EvaluationSpec, FolderSpec, World
from replaylab.util import distributed, networks
from replaylab.util.files import sha256
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import DRIVING_WORLDS

if TYPE_CHECKING:
    from replaylab.metrics.detectors.pretrained import ObjectDetector

ClipBoxes = Sequence[Sequence[NDArray[np.floating]]]
"""Boxes of N clips x T frames, each (A, 4), or (A, 5) with the detector's score; px."""
LEAST_TURN_RAD_S = np.deg2rad(1)
TRACKING_GATE = 10 / 64  # of the width: no agent is followed further than this from one context frame to the next


@dataclass(frozen=True)
class EvaluationSet:
    """N clips of one domain with their ground truth, and M real clips of other scenes."""

    name: str
    split: str
    has_agents: bool  # whether its agents are measured
    frames_per_second: float
    clips: list[Clip]
    frames: Frames  # (N, T, H, W, 3)
    truth: list[list[pd.DataFrame]]  # N x T
    ego: NDArray[np.float64] | None  # (N, T, 3): the ego car's x and y in m, its heading in radians; None: not known
    cameras: NDArray[np.float64] | None  # (N, T, 3): field of view, degrees; height, m; pitch, radians; None: not known
    pipeline: Pipeline  # the model that continues the clips, or one with the same autoencoder and context
    latents: torch.Tensor  # (N, C, T, h, w)
    condition: Condition  # what the model is conditioned on: the context, and what its family needs
    measured_in: str  # fp32 or bf16, as in `EvaluationSpec`
    reference_clips: list[Clip]  # M
    read_references: Callable[[], Frames]  # (M, T, H, W, 3)
    kept: FeatureCache  # of the clips
    kept_of_references: FeatureCache
    mean_motion: MeanMotion | None  # of the target's ordinary driving; None where none of its agents is known
    detect: Callable[[Frames], ClipBoxes]  # boxes of agents, with scores, in clips (N, T, H, W, 3)
    detect_again: Callable[[Frames], ClipBoxes] | None  # the second detector; None: agents are detected once
    edition: int  # of the measures

    @property
    def context_frames(self) -> int:
        """The number of frames of a clip on which the model is conditioned."""
        return self.pipeline.context_frames

    def future(self, frames: Frames) -> Frames:
        """The frames after the context of clips (N, T, H, W, 3)."""
        return frames[:, self.context_frames :]

    def decode(self, latents: torch.Tensor, pipeline: Pipeline) -> Frames:
        """Generated latents (N, C, t, h, w) as clips. The decoded context is the same for all models of one autoencoder, and
        is computed once if frames are decoded one by one.
        """
        if not pipeline.frame_by_frame:
            return pipeline.decode(latents)
        return np.concatenate([self._decoded_context, pipeline.decode(latents[:, :, self.context_frames :])], axis=1)

    @cached_property
    def _decoded_context(self) -> Frames:
        return self.pipeline.decode(self.latents[:, :, : self.context_frames])

    @cached_property
    def true_agents(self) -> list[TrueAgents]:
        """The true agents of each clip's future frames."""
        return [TrueAgents.of(clip[self.context_frames :]) for clip in self.truth]

    @cached_property
    def activations(self) -> Activations:
        """EfficientNet's activations on the true future frames (N x future frames)."""

        def compute() -> Arrays:
            made = fidelity.efficientnet(flat(self.future(self.frames)))
            return {"features": made.features} | {f"map {number}": each for number, each in enumerate(made.maps)}

        kept = self.kept.arrays(f"activations, context {self.context_frames}, {fidelity.EXTRACTOR.weights_sha256}", compute)
        maps = [kept[f"map {number}"] for number in range(len(kept) - 1)]
        return Activations(kept["features"], tuple(maps))

    @cached_property
    def reference_features(self) -> NDArray[np.float32]:
        """EfficientNet's features of the references' future frames: (M x future frames, 1280)."""
        what = f"features, context {self.context_frames}, {fidelity.EXTRACTOR.weights_sha256}"
        return self._of_references(what, lambda futures: fidelity.efficientnet_features(flat(futures)))

    @cached_property
    def reference_videos(self) -> NDArray[np.float32]:
        """The video network's features of the references' futures: (M, d)."""
        network = video_network.extractor().weights_sha256
        what = f"video features in {self.measured_in}, context {self.context_frames}, {network}"
        return self._of_references(what, self.video_features)

    def video_features(self, futures: Frames, flows: Sequence[NDArray[np.float32]] | None = None) -> NDArray[np.float32]:
        """The video network's features (N, d) of futures (N, F, H, W, 3). `flows`: their optical flow, if already known."""
        with distributed.autocast("cpu", self.measured_in):
            return video_network.features(futures, flows=flows)

    def _of_references(self, what: str, compute: Callable[[Frames], NDArray[np.float32]]) -> NDArray[np.float32]:
        kept = self.kept_of_references.arrays(what, lambda: {"features": compute(self.future(self.read_references()))})
        return kept["features"]

    @cached_property
    def flows(self) -> NDArray[np.float32]:
        """Optical flow of the true clips from the last context frame on, (N, future frames, H, W, 2)."""
        first = self.context_frames - 1

        def compute() -> Arrays:
            return {"flows": np.stack([optical_flow.flow(clip[first:]) for clip in self.frames])}

        return self.kept.arrays(f"optical flow from frame {first}", compute)["flows"]

    @cached_property
    def ego_turns(self) -> bool:
        """Whether the ego car ever turns: if not, an error of its yaw rate is meaningless."""
        if self.ego is None:
            return False
        rates = [ego_motion.true_ego_motion(ego, self.frames_per_second)[:, 1] for ego in self.ego]
        return bool(np.abs(rates).max() > LEAST_TURN_RAD_S)

    @cached_property
    def extrapolated(self) -> ClipBoxes:
        """Boxes detected in the context, extrapolated at constant velocity: N x future frames."""
        return self._extrapolated(self.detect)

    @cached_property
    def extrapolated_again(self) -> ClipBoxes | None:
        """The same for the second detector's boxes; None without a second detector."""
        return self._extrapolated(self.detect_again) if self.detect_again else None

    def _extrapolated(self, detect: Callable[[Frames], ClipBoxes]) -> ClipBoxes:
        context = self.frames[:, : self.context_frames]
        count, gate_px = self.frames.shape[1] - context.shape[1], TRACKING_GATE * self.frames.shape[3]
        return [trajectories.constant_velocity(clip, count, gate_px=gate_px) for clip in detect(context)]


class TrueAgents(NamedTuple):
    """The true agents of a clip's T future frames; A may differ from frame to frame."""

    boxes: list[NDArray[np.float64]]  # T x (A, 4) px
    ids: list[NDArray[np.int64]]  # T x (A,)
    eligible: list[NDArray[np.bool_]]  # T x (A,)

    @classmethod
    def of(cls, future: list[pd.DataFrame]) -> TrueAgents:
        """From the rows (columns `data.domain.TRACK_COLUMNS`) of each future frame."""
        columns = [[table[name].to_numpy() for table in future] for name in ("agent", "eligible")]
        return cls([true_boxes(table) for table in future], *columns)


@dataclass(frozen=True)
class MeanMotion:
    """The mean motion of agents, by their position in the last context frame."""

    size_px: tuple[int, int]  # height and width
    field_px: NDArray[np.float64]
    """(future frames, CELLS, CELLS, 2): mean displacement since then, x and y; in empty cells that of all agents"""

    def of(self, frame: NDArray[np.int64], start_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Displacements (n, 2) for future frames (n,) and centres in the last context frame (n, 2), in px."""
        column, row = image_cells(start_px, self.size_px).T
        return self.field_px[frame, row, column]

    @classmethod
    def measured(
        cls, truth: Sequence[Sequence[pd.DataFrame]], size_px: tuple[int, int], context_frames: int = CONTEXT_FRAMES
    ) -> MeanMotion:
        """From the ground truth of whole clips, N x T; ValueError if no eligible agent is in both context and future."""
        parts = []
        for clip in truth:
            last = clip[context_frames - 1]
            start = dict(zip(last["agent"], centres(true_boxes(last)), strict=True))
            for frame, table in enumerate(clip[context_frames:]):
                table = table[table["eligible"] & table["agent"].isin(start)]
                then = np.array([start[agent] for agent in table["agent"]]).reshape(-1, 2)
                now = centres(true_boxes(table))
                parts += [(frame, *cell, *moved) for cell, moved in zip(image_cells(then, size_px), now - then, strict=True)]
        if not parts:
            raise ValueError("mean motion: no eligible agent is there from the last context frame on")
        moves = pd.DataFrame(parts, columns=["frame", "column", "row", "x", "y"])
        field = np.full((len(truth[0]) - context_frames, CELLS, CELLS, 2), np.nan)
        for (frame, column, row), mean in moves.groupby(["frame", "column", "row"])[["x", "y"]].mean().iterrows():
            field[int(frame), int(row), int(column)] = mean
        everywhere = moves.groupby("frame")[["x", "y"]].mean().reindex(range(len(field))).to_numpy()
        return cls(size_px, np.where(np.isnan(field), everywhere[:, None, None], field))


def prepare_sets(
    spec: EvaluationSpec, home: Path, at_the_end: bool = False, pipeline: Pipeline | None = None
) -> list[EvaluationSet]:
    """The domains measured at every step, or all of them at the end; rendered and encoded once per process.

    `pipeline`: determines the context and the latents; by default the tiny model's.
    """
    pipeline = pipeline or pipelines.published_tiny()
    return [_prepared(world, spec, home, pipeline) for world in (spec.worlds if at_the_end else spec.domains)]


@cache
def _prepared(world: World, spec: EvaluationSpec, home: Path, pipeline: Pipeline) -> EvaluationSet:
    split, clips, reference_clips, detector = spec.split, spec.clips, spec.reference_clips, spec.object_detector
    domain, scenes = _scenes(world, split, home, pipeline.frames)
    if len(scenes) < clips + reference_clips:
        raise ValueError(
            f"{domain.folder}: split {split!r} has {len(scenes)} scenes, but {clips} clips to continue and "
            f"{reference_clips} reference clips of other scenes are asked for"
        )
    chosen, others = scenes[:clips], scenes[clips : clips + reference_clips]
    length = pipeline.frames
    latents, condition = stack_clips(list(pipeline.encode_clips(domain, split, chosen, home)))
    return EvaluationSet(
        domain.name, split, _has_agents(world, detector), domain.frames_per_second, chosen,
        _frames(domain, chosen, length), _truth(domain, chosen, length, detector, home),
        _ego(domain, chosen, length, ["x_m", "y_m", "heading_rad"]),
        _ego(domain, chosen, length, ["field_of_view_deg", "camera_height_m", "camera_pitch_rad"]), pipeline, latents,
        condition, spec.measured_in, others, lambda: _frames(domain, others, length),
        _features(home, domain, chosen, length), _features(home, domain, others, length),
        _mean_motion(spec.domains[0], split, detector, home, pipeline),
        detector_for(detector, spec.detector), second_detector_for(spec.second_detector), spec.edition,
    )  # fmt: skip


def synthetic_set(
    spec: EvaluationSpec, pipeline: Pipeline, size_px: tuple[int, int], clips: int, home: Path
) -> EvaluationSet:  # fmt: skip
    """Clips of noise with three agents each, used to time the measures before any domain is rendered.

    `size_px`: height and width.
    """
    height, width = size_px
    has_agents = _has_agents(spec.domains[0], spec.object_detector)
    frames = np.random.default_rng(0).integers(0, 256, (clips, pipeline.frames, *size_px, 3), np.uint8)
    agents = pd.DataFrame({name: np.zeros(3, kind) for name, kind in TRACK_TYPES.items()}).assign(
        agent=range(3), x0=0.2 * width, x1=0.5 * width, y0=[0.2 * height, 0.4 * height, 0.6 * height], eligible=True
    )
    agents["y1"] = agents["y0"] + 0.2 * height
    ahead, camera = np.zeros((clips, pipeline.frames, 3)), np.tile([70.0, 1.5, 0.1], (clips, pipeline.frames, 1))
    ahead[:, :, 1] = range(pipeline.frames)
    scenes = [Clip(f"video {number}", f"scene {number}", 0) for number in range(2 * clips)]
    kept, kept_of_others = (FeatureCache(home / "features", part) for part in ("noise", "noise of other scenes"))
    return EvaluationSet(
        "noise", spec.split, has_agents, 4.0, scenes[:clips], frames, [[agents] * pipeline.frames] * clips, ahead, camera,
        pipeline, pipeline.encode(frames), {}, spec.measured_in, scenes[clips:], lambda: frames, kept, kept_of_others, None,
        detector_for(spec.object_detector, spec.detector), second_detector_for(spec.second_detector), spec.edition,
    )  # fmt: skip


def _features(home: Path, domain: Domain, chosen: list[Clip], length: int) -> FeatureCache:
    return FeatureCache.of(home / "features", domain, chosen, length)


def _scenes(world: World, split: str, home: Path, length: int) -> tuple[Domain, list[Clip]]:
    """The domain, and one clip of each scene of a split."""
    domain = build_domain(world, home / "domains")
    return domain, clips_module.one_per_scene(clips_module.clips_of(domain, split, length))


def _has_agents(world: World, detector: DetectorSpec | None) -> bool:
    """Whether agents are measured: in the driving worlds, and in folders for which a detector is given."""
    if isinstance(world, FolderSpec):
        return detector is not None
    return world.world in DRIVING_WORLDS


def _truth(
    domain: Domain, chosen: list[Clip], length: int, detector: DetectorSpec | None, home: Path
) -> list[list[pd.DataFrame]]:
    """The domain's tracks, otherwise pseudo-tracks of the detector on the real frames, otherwise none."""
    if domain.has_tracks:
        return clips_module.truth_of(domain, chosen, length)
    if detector is None:
        return [[pd.DataFrame(columns=list(TRACK_COLUMNS))] * length] * len(chosen)

    def compute() -> pd.DataFrame:
        from replaylab.metrics.detectors import pseudo_tracks

        loaded = _object_detector(detector)
        tracks = (pseudo_tracks.pseudo_tracks(clip, loaded) for clip in clips_module.read(domain, chosen, length))
        return pd.concat(
            [table.assign(clip=clip, at=at) for clip, tables in enumerate(tracks) for at, table in enumerate(tables)]
        )

    kept = _features(home, domain, chosen, length).table(f"pseudo-tracks, {detector}", compute)
    nothing = kept.iloc[:0].drop(columns=["clip", "at"])
    tables = {key: table.drop(columns=["clip", "at"]) for key, table in kept.groupby(["clip", "at"])}
    return [[tables.get((clip, at), nothing) for at in range(length)] for clip in range(len(chosen))]


@cache
def _object_detector(spec: DetectorSpec) -> ObjectDetector:
    from replaylab.metrics.detectors import pretrained

    loaded = pretrained.load(spec.folder, pretrained.agents_of(spec.agents) or None, spec.threshold)
    if loaded.digest != spec.digest:
        raise ValueError(f"{spec.folder} is another detector ({loaded.digest}) than the one described ({spec.digest})")
    return loaded


@cache
def _mean_motion(
    world: World, split: str, detector: DetectorSpec | None, home: Path, pipeline: Pipeline
) -> MeanMotion | None:
    """The mean motion in all clips of the split, one per scene; None if no agent is measured."""
    if not _has_agents(world, detector):
        return None
    domain, scenes = _scenes(world, split, home, pipeline.frames)
    size_px, context = (domain.height_px, domain.width_px), pipeline.context_frames

    def compute() -> Arrays:
        truth = _truth(domain, scenes, pipeline.frames, detector, home)
        return {"field_px": MeanMotion.measured(truth, size_px, context).field_px}

    tracks = sha256(domain.folder / "tracks.parquet") if domain.has_tracks else detector
    try:
        kept = _features(home, domain, scenes, pipeline.frames).arrays(f"mean motion, context {context}, {tracks}", compute)
        return MeanMotion(size_px, kept["field_px"])
    except ValueError:
        if isinstance(world, FolderSpec):  # in one's own videos it may be that no agent stays
            return None
        raise


def _frames(domain: Domain, chosen: list[Clip], length: int) -> Frames:
    return np.stack(list(clips_module.read(domain, chosen, length)))


def _ego(domain: Domain, chosen: list[Clip], length: int, columns: list[str]) -> NDArray[np.float64] | None:
    if not domain.has_ego or domain.ego[columns].isna().any(axis=None):
        return None
    by_video = dict(iter(domain.ego.sort_values("frame").groupby("video")))
    return np.stack([by_video[clip.video].iloc[clip.start : clip.start + length][columns] for clip in chosen])


def clear_cache() -> None:
    """Free the prepared sets: each refers to the model for which it was prepared, and the next run has another."""
    _prepared.cache_clear()
    _mean_motion.cache_clear()


@cache
def detector_for(spec: DetectorSpec | None = None, digest: str = "") -> Callable[[Frames], ClipBoxes]:
    """A function from clips (N, T, H, W, 3) to N x T detected boxes with scores, by one of transformers' detectors, or by
    the shipped one with this digest; by default that of the first edition. Raises ValueError that lists the existing ones.
    """
    detect: Callable[[Frames], Sequence[NDArray[np.floating]]]
    if spec is None:
        loaded = centre_point.load(shipped_of("detector", digest) if digest else None)
        detect = partial(centre_point.detect, networks.without_batch_norm(loaded))
    else:
        detect = _object_detector(spec).detect
    return partial(_in_clips, detect)


@cache
def second_detector_for(digest: str) -> Callable[[Frames], ClipBoxes] | None:
    """The shipped second detector with this digest, in the form of `detector_for`; None without a digest."""
    return partial(_in_clips, partial(fcos.detect, fcos.load(shipped_of("detector", digest)))) if digest else None


def _in_clips(detect: Callable[[Frames], Sequence[NDArray[np.floating]]], frames: Frames) -> ClipBoxes:
    length, boxes = frames.shape[1], detect(flat(frames))
    return [boxes[first : first + length] for first in range(0, len(boxes), length)]


def flat(frames: Frames) -> Frames:
    """Clips (N, T, H, W, 3) as frames (N x T, H, W, 3)."""
    return frames.reshape(-1, *frames.shape[2:])


def true_boxes(table: pd.DataFrame) -> NDArray[np.float64]:
    """Boxes (A, 4) from the ground truth of one frame, px."""
    return table[["x0", "y0", "x1", "y1"]].to_numpy(float)
