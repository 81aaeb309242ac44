"""What do all the instruments say of made clips? Rows: one a clip and measure, and one a measure of the whole set.

Decision: fidelity and dynamics are read off the same frames in one place, and a model that gives boxes but no pictures
(constant velocity) has the measures of boxes alone. Context frames are left out of every measure. A distance carries
how many vectors it is of, what one vector saw, and the extractor with the digest of its weights (`records.COLUMNS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.evaluation.evaluation_sets import Boxes, Frames, Ground, boxes_of, flat_future, found_in
from replaylab.metrics import detection, distances, dynamics, fidelity, optical_flow, trajectories, video_network
from replaylab.metrics.distances import Distance, Extractor
from replaylab.metrics.dynamics import AgentErrors, Counted
from replaylab.metrics.fidelity import Seen
from replaylab.models.pipelines import PretrainedPipeline
from replaylab.models.tiny import CONTEXT_FRAMES

MISS_CAP_M = 10.0  # what an agent that is not found costs on the ground plane; no error counts for more
NTA_GATE_PX, NTA_WIDTH_PX = 10, 480  # its authors' gate in images of that width

Values = dict[str, Counted]
DISTANCES = {"fd": distances.frechet_distance, "kd": distances.kernel_distance}


@dataclass(frozen=True)
class Look:
    """What the networks see of the futures of N clips."""

    frames: Seen
    """of every future frame, N x future frames"""
    videos: NDArray[np.float32] | None
    """video features (N, d); None of clips that the video network does not take"""
    found: Boxes
    """the detector's boxes, N x future frames; empty where there is nothing it knows"""


@dataclass(frozen=True)
class Measured:
    """What was measured of made clips, and the boxes that it rests on."""

    rows: pd.DataFrame
    found: Boxes
    """boxes found, N x future frames"""


def measure(
    ground: Ground, frames: Frames, miss_cap_px: float, drawn: torch.Tensor | None = None, thoroughly: bool = True
) -> Measured:
    """Every measure of made clips (N, T, H, W, 3), one for each of the ground's.

    `drawn`: their latents (N, C, T, h, w), where the frames were decoded from some. Thoroughly, that is with what takes
    longest and is not looked at over many steps: the ego car's motion and the second tracker.
    """
    if frames.shape != ground.frames.shape:
        raise ValueError(f"frames: shape {frames.shape}, but {ground.name} has clips of shape {ground.frames.shape}")
    seen = look(frames, ground.drives, ground.context_frames, ground.find)
    clips = _pictures(ground, frames, seen, ground.pipeline.encode(frames) if drawn is None else drawn)
    whole = [_row(distance) for distance in _feature_distances(ground, seen)]
    parts = [rows_of_clips(ground, clips), _named(ground, pd.DataFrame(whole))]
    if ground.drives:
        errors = _errors(ground, seen.found, miss_cap_px)
        parts.append(_agents(ground, seen.found, errors))
        motions = _motion(ground, frames, seen.found, errors, miss_cap_px if thoroughly else None)
        parts.append(rows_of_clips(ground, motions))
    # on videos of one's own, agents may never be found
    if not ground.drives or isinstance(ground.pipeline, PretrainedPipeline):
        parts.append(rows_of_clips(ground, _flow_errors(ground, frames)))
    return Measured(pd.concat(parts, ignore_index=True), seen.found)


def look(
    frames: Frames, drives: bool = True, context_frames: int = CONTEXT_FRAMES,
    find: Callable[[Frames], Boxes] = found_in,
) -> Look:  # fmt: skip
    """Show the futures of clips (N, T, H, W, 3) to every network, to the detector only where agents are on roads."""
    future = frames[:, context_frames:]
    return Look(
        fidelity.efficientnet(flat_future(frames, context_frames)),
        video_network.features(future) if _suits_the_video_network(future) else None,
        find(future) if drives else [],
    )


def _suits_the_video_network(future: Frames) -> bool:
    """It was trained on the tiny model's clips alone; for others `compare` has the field's own networks."""
    return future.shape[1:4] == (video_network.FRAMES, video_network.SIZE_PX, video_network.SIZE_PX)


# ------------------------------------------------------------------------------------------------------------ pictures
def _pictures(ground: Ground, frames: Frames, seen: Look, drawn: torch.Tensor) -> list[Values]:
    """What is seen of each clip beside the true one; and what it adds to the kernel distances."""
    future, true = ground.future(frames), ground.future(ground.frames)
    count = future.shape[1]
    by_clip = seen.frames.features.reshape(len(frames), count, -1)
    more: dict[str, Any] = {
        "effnet_perceptual": fidelity.perceptual(seen.frames, ground.seen).reshape(-1, count).mean(1),
        "latent_mse": _latent_mse(ground, drawn.cpu()),
        "effnet_kd_pseudo": distances.kernel_pseudo_values(by_clip, ground.reference_features),
    }
    if seen.videos is not None and _enough_videos(ground):
        more["video_kd_pseudo"] = distances.kernel_pseudo_values(seen.videos[:, None], ground.reference_videos)
    clips = []
    for number in range(len(frames)):
        looks = asdict(fidelity.clip_fidelity(future[number], true[number]))
        looks |= {name: float(values[number]) for name, values in more.items()}
        # a clip against itself has no finite PSNR
        clips.append({name: Counted(value, count) for name, value in looks.items() if np.isfinite(value)})
    return clips


def _latent_mse(ground: Ground, drawn: torch.Tensor) -> torch.Tensor:
    """(N,) over the latents of the future alone; over all, where one latent is of frames of both."""
    true = ground.latents
    first = ground.context_frames if true.shape[2] == ground.frames.shape[1] else 0
    return (drawn - true)[:, :, first:].square().mean((1, 2, 3, 4))


def _enough_videos(ground: Ground) -> bool:
    return min(len(ground.clips), len(ground.reference_names)) >= distances.N_MIN


def _feature_distances(ground: Ground, seen: Look) -> list[Distance]:
    """Fréchet and kernel distances to real clips of other scenes, of single frames and of whole futures.

    Those of fewer vectors than `distances.N_MIN` are left out: small presets have none of whole futures.
    """
    scenes = [clip.scene for clip in ground.clips]
    made, real = seen.frames.features, ground.reference_features
    sets: list[tuple[str, Any, Any, Extractor]] = [(
        "effnet", made.reshape(len(scenes), -1, made.shape[1]),
        real.reshape(len(ground.reference_names), -1, real.shape[1]), fidelity.EXTRACTOR,
    )]  # fmt: skip
    if seen.videos is not None and _enough_videos(ground):
        sets.append(("video", seen.videos, ground.reference_videos, video_network.extractor()))
    return [
        distances.between(
            f"{kind}_{name}", of, a, b, extractor, names=(f"{ground.name}, made", f"{ground.name}, real"),
            clips_a=scenes, clips_b=ground.reference_names,
        )
        for kind, a, b, extractor in sets
        for name, of in DISTANCES.items()
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- agents
def measure_found(ground: Ground, found: Boxes, miss_cap_px: float) -> pd.DataFrame:
    """Rows of all that boxes (N x future frames, with scores) say about the agents."""
    return _agents(ground, found, _errors(ground, found, miss_cap_px))


def _errors(ground: Ground, found: Boxes, miss_cap_px: float) -> list[AgentErrors]:
    """Each clip's agents matched with the boxes, once for all measures."""
    return [
        dynamics.agent_errors(*agents, boxes, miss_cap_px=miss_cap_px)
        for agents, boxes in zip(ground.future_agents, found, strict=True)
    ]


def _agents(ground: Ground, found: Boxes, errors: list[AgentErrors]) -> pd.DataFrame:
    clips, moved = [], []
    for number, (boxes, _, eligible) in enumerate(ground.future_agents):
        cameras = None if ground.cameras is None else ground.cameras[number, ground.context_frames :]
        width = ground.frames.shape[3]
        clips.append({
            **_accuracy(errors[number]),
            **trajectories.clip_measures(errors[number], cameras, width, cap_m=MISS_CAP_M),
            "nta_iou": detection.nta_iou(boxes, eligible, found[number], gate_px=NTA_GATE_PX * width / NTA_WIDTH_PX),
        })  # fmt: skip
        last = ground.truth[number][ground.context_frames - 1]
        moved.append(trajectories.displacements(errors[number], boxes_of(last), last["agent"].to_numpy()))
    whole = {**_of_displacements(ground, moved), "average_precision_iou50": _precision(ground, found)}
    rows = [{"measure": name, "value": value, "n": n} for name, (value, n) in whole.items()]
    return pd.concat([rows_of_clips(ground, clips), _named(ground, pd.DataFrame(rows))], ignore_index=True)


def _accuracy(errors: AgentErrors) -> Values:
    result = dynamics.summary(errors)
    return {
        "ade_px": Counted(result.ade_px, result.n),
        "fde_px": Counted(result.fde_px, result.n_last),
        "ade_matched_px": Counted(result.ade_matched_px, result.n_matched),
        "recall": Counted(result.recall, result.n),
        "false_positives": Counted(result.false_positives, result.n_frames),
    }


def _of_displacements(ground: Ground, moved: list[trajectories.Displacements]) -> Values:
    """For claim C7: predicted on true displacement, and how far predictions lean to the target's mean motion."""
    true, predicted, frame, start = (
        np.concatenate([getattr(each, name) for each in moved])
        for name in ("true_px", "predicted_px", "frame", "start_px")
    )
    line = trajectories.regression(true, predicted)
    values = {"displacement_slope": Counted(line.slope, line.n)}
    if ground.mean_motion is not None:
        mean = ground.mean_motion.of(frame, start)
        values["pull_to_mean"] = trajectories.pull_towards(true, predicted, mean)
    return values


def _precision(ground: Ground, found: Boxes) -> Counted:
    boxes, _, eligible = zip(*ground.future_agents, strict=True)
    frames = [[frame for clip in clips for frame in clip] for clips in (boxes, eligible, found)]
    return detection.average_precision(*frames, min_iou=0.5)


# -------------------------------------------------------------------------------------------------------------- motion
def _motion(
    ground: Ground, frames: Frames, found: Boxes, errors: list[AgentErrors], miss_cap_px: float | None
) -> list[Values]:
    """What pixels alone say of each clip: background and agents without it; and, where a cap is given for the agents that
    it loses, the second tracker, with the ego car's motion.
    """
    last, clips = ground.context_frames - 1, []
    for number, truth in enumerate(ground.truth):
        made, true = frames[number, last:], ground.frames[number, last:]
        boxes, agents, eligible = ground.future_agents[number]
        start, ids, counts = (
            boxes_of(truth[last]),
            truth[last]["agent"].to_numpy(),
            truth[last]["eligible"].to_numpy(),
        )
        # an agent in the wrong place is no error of the background
        hidden = [start, *(np.concatenate([b, f[:, :4]]) for b, f in zip(boxes, found[number], strict=True))]
        mask = optical_flow.background(true, hidden)
        flow, true_flow = optical_flow.flow(made), ground.flows[number]
        values = {
            "background_flow_error_px": optical_flow.background_flow_error_px(flow, true_flow, mask),
            "residual_agent_error_px": optical_flow.residual_agent_error_px(
                errors[number], start, ids, *(optical_flow.dominant_motion(each, mask) for each in (flow, true_flow))
            ),
        }
        if miss_cap_px is not None:
            values |= _ego(ground, number, made, hidden)
            values["ade_tracked_px"] = optical_flow.ade_tracked_px(
                optical_flow.follow(made, start[counts])[1:],
                ids[counts],
                boxes,
                agents,
                eligible,
                miss_cap_px=miss_cap_px,
            )
        clips.append(values)
    return clips


def _ego(ground: Ground, number: int, made: Frames, hidden: Any) -> Values:
    """Errors of the ego car's motion in a clip, where its truth is known."""
    if ground.ego is None or ground.cameras is None:
        return {}
    last, rate = ground.context_frames - 1, ground.frames_per_second
    ego = optical_flow.ego_motion(made, ground.cameras[number, last:], hidden, rate)
    values: Values = dict(optical_flow.ego_errors(ego, ground.ego[number, last:], rate))
    if not ground.turns:
        del values["ego_yaw_rate_error_deg_s"]
    return values


def _flow_errors(ground: Ground, frames: Frames) -> list[Values]:
    """How far the motion of everything with texture is from the true one: where no agent is measured."""
    last, clips = ground.context_frames - 1, []
    for number, true_flow in enumerate(ground.flows):
        true = ground.frames[number, last:]
        mask = optical_flow.background(true, [np.zeros((0, 4))] * len(true))
        flow = optical_flow.flow(frames[number, last:])
        clips.append({"flow_error_px": optical_flow.background_flow_error_px(flow, true_flow, mask)})
    return clips


# ---------------------------------------------------------------------------------------------------------------- rows
def rows_of_clips(ground: Ground, clips: list[Values]) -> pd.DataFrame:
    """A row for each clip of the ground and each of its values."""
    rows = [
        {"video": clip.video, "start": clip.start, "scene": clip.scene, "measure": name, "value": value, "n": n}
        for clip, values in zip(ground.clips, clips, strict=True)
        for name, (value, n) in values.items()
    ]
    return _named(ground, pd.DataFrame(rows))


def _row(distance: Distance) -> dict[str, Any]:
    plain = asdict(distance)
    return {"measure": plain.pop("name"), **plain}


def _named(ground: Ground, rows: pd.DataFrame) -> pd.DataFrame:
    whole = {"video": "", "start": -1, "scene": ""}  # of a measure of all clips together
    return rows.assign(
        domain=ground.name, split=ground.split, **{name: value for name, value in whole.items() if name not in rows}
    )
