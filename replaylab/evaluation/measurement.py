"""What do all the instruments say of made clips? Rows: one a clip and measure, and one a measure of the whole set.

Decision: fidelity and dynamics are read off the same frames in one place, and a model that gives boxes but no pictures
(constant velocity) has the measures of boxes alone. Context frames are left out of every measure. A distance carries
how many vectors it is of, what one vector saw, and the extractor with the digest of its weights (`store.COLUMNS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.evaluation.evaluation_sets import Boxes, EvaluationSet, Frames, detect, flat_future, true_boxes
from replaylab.metrics import detection, distances, dynamics, fidelity, optical_flow, trajectories, video_network
from replaylab.metrics.distances import Distance, Extractor
from replaylab.metrics.dynamics import AgentErrors, Counted
from replaylab.metrics.fidelity import Seen
from replaylab.models.pipelines import PretrainedPipeline

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
    evaluation_set: EvaluationSet,
    frames: Frames,
    miss_cap_px: float,
    drawn: torch.Tensor | None = None,
    thoroughly: bool = True,
) -> Measured:
    """Every measure of made clips (N, T, H, W, 3), one for each of the evaluation set's.

    `drawn`: their latents (N, C, T, h, w), where the frames were decoded from some. Thoroughly, that is with what takes
    longest and is not looked at over many steps: the ego car's motion and the second tracker.
    """
    if frames.shape != evaluation_set.frames.shape:
        raise ValueError(
            f"frames: shape {frames.shape}, but {evaluation_set.name} has clips of shape {evaluation_set.frames.shape}"
        )
    seen = look(frames, evaluation_set.has_agents, evaluation_set.context_frames, evaluation_set.detect)
    clips = _pictures(evaluation_set, frames, seen, evaluation_set.pipeline.encode(frames) if drawn is None else drawn)
    whole = [_row(distance) for distance in _feature_distances(evaluation_set, seen)]
    parts = [rows_of_clips(evaluation_set, clips), _named(evaluation_set, pd.DataFrame(whole))]
    if evaluation_set.has_agents:
        errors = _errors(evaluation_set, seen.found, miss_cap_px)
        parts.append(_agents(evaluation_set, seen.found, errors))
        motions = _motion(evaluation_set, frames, seen.found, errors, miss_cap_px if thoroughly else None)
        parts.append(rows_of_clips(evaluation_set, motions))
    # on videos of one's own, agents may never be found
    if not evaluation_set.has_agents or isinstance(evaluation_set.pipeline, PretrainedPipeline):
        parts.append(rows_of_clips(evaluation_set, _flow_errors(evaluation_set, frames)))
    return Measured(pd.concat(parts, ignore_index=True), seen.found)


def look(
    frames: Frames, has_agents: bool = True, context_frames: int = CONTEXT_FRAMES,
    detect_agents: Callable[[Frames], Boxes] = detect,
) -> Look:  # fmt: skip
    """Show the futures of clips (N, T, H, W, 3) to every network, to the detector only where agents are on roads."""
    future = frames[:, context_frames:]
    return Look(
        fidelity.efficientnet(flat_future(frames, context_frames)),
        video_network.features(future) if _suits_the_video_network(future) else None,
        detect_agents(future) if has_agents else [],
    )


def _suits_the_video_network(future: Frames) -> bool:
    """It was trained on the tiny model's clips alone; for others `compare` has the field's own networks."""
    return future.shape[1:4] == (video_network.FRAMES, video_network.SIZE_PX, video_network.SIZE_PX)


# ------------------------------------------------------------------------------------------------------------ pictures
def _pictures(evaluation_set: EvaluationSet, frames: Frames, seen: Look, drawn: torch.Tensor) -> list[Values]:
    """What is seen of each clip beside the true one; and what it adds to the kernel distances."""
    future, true = evaluation_set.future(frames), evaluation_set.future(evaluation_set.frames)
    count = future.shape[1]
    by_clip = seen.frames.features.reshape(len(frames), count, -1)
    more: dict[str, Any] = {
        "effnet_perceptual": fidelity.perceptual(seen.frames, evaluation_set.seen).reshape(-1, count).mean(1),
        "latent_mse": _latent_mse(evaluation_set, drawn.cpu()),
        "effnet_kd_pseudo": distances.kernel_pseudo_values(by_clip, evaluation_set.reference_features),
    }
    if seen.videos is not None and _enough_videos(evaluation_set):
        more["video_kd_pseudo"] = distances.kernel_pseudo_values(seen.videos[:, None], evaluation_set.reference_videos)
    clips = []
    for number in range(len(frames)):
        looks = asdict(fidelity.clip_fidelity(future[number], true[number]))
        looks |= {name: float(values[number]) for name, values in more.items()}
        # a clip against itself has no finite PSNR
        clips.append({name: Counted(value, count) for name, value in looks.items() if np.isfinite(value)})
    return clips


def _latent_mse(evaluation_set: EvaluationSet, drawn: torch.Tensor) -> torch.Tensor:
    """(N,) over the latents of the future alone; over all, where one latent is of frames of both."""
    true = evaluation_set.latents
    first = evaluation_set.context_frames if true.shape[2] == evaluation_set.frames.shape[1] else 0
    return (drawn - true)[:, :, first:].square().mean((1, 2, 3, 4))


def _enough_videos(evaluation_set: EvaluationSet) -> bool:
    return min(len(evaluation_set.clips), len(evaluation_set.reference_names)) >= distances.N_MIN


def _feature_distances(evaluation_set: EvaluationSet, seen: Look) -> list[Distance]:
    """Fréchet and kernel distances to real clips of other scenes, of single frames and of whole futures.

    Those of fewer vectors than `distances.N_MIN` are left out: small presets have none of whole futures.
    """
    scenes = [clip.scene for clip in evaluation_set.clips]
    made, real = seen.frames.features, evaluation_set.reference_features
    sets: list[tuple[str, Any, Any, Extractor]] = [(
        "effnet", made.reshape(len(scenes), -1, made.shape[1]),
        real.reshape(len(evaluation_set.reference_names), -1, real.shape[1]), fidelity.EXTRACTOR,
    )]  # fmt: skip
    if seen.videos is not None and _enough_videos(evaluation_set):
        sets.append(("video", seen.videos, evaluation_set.reference_videos, video_network.extractor()))
    return [
        distances.between(
            f"{kind}_{name}", of, a, b, extractor, names=(f"{evaluation_set.name}, made", f"{evaluation_set.name}, real"),
            clips_a=scenes, clips_b=evaluation_set.reference_names,
        )
        for kind, a, b, extractor in sets
        for name, of in DISTANCES.items()
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- agents
def measure_found(evaluation_set: EvaluationSet, found: Boxes, miss_cap_px: float) -> pd.DataFrame:
    """Rows of all that boxes (N x future frames, with scores) say about the agents."""
    return _agents(evaluation_set, found, _errors(evaluation_set, found, miss_cap_px))


def _errors(evaluation_set: EvaluationSet, found: Boxes, miss_cap_px: float) -> list[AgentErrors]:
    """Each clip's agents matched with the boxes, once for all measures."""
    return [
        dynamics.agent_errors(*agents, boxes, miss_cap_px=miss_cap_px)
        for agents, boxes in zip(evaluation_set.true_agents, found, strict=True)
    ]


def _agents(evaluation_set: EvaluationSet, found: Boxes, errors: list[AgentErrors]) -> pd.DataFrame:
    clips, moved = [], []
    for number, (boxes, _, eligible) in enumerate(evaluation_set.true_agents):
        cameras = (
            None if evaluation_set.cameras is None else evaluation_set.cameras[number, evaluation_set.context_frames :]
        )
        width = evaluation_set.frames.shape[3]
        clips.append({
            **_accuracy(errors[number]),
            **trajectories.clip_measures(errors[number], cameras, width, cap_m=MISS_CAP_M),
            "nta_iou": detection.nta_iou(boxes, eligible, found[number], gate_px=NTA_GATE_PX * width / NTA_WIDTH_PX),
        })  # fmt: skip
        last = evaluation_set.truth[number][evaluation_set.context_frames - 1]
        moved.append(trajectories.displacements(errors[number], true_boxes(last), last["agent"].to_numpy()))
    whole = {**_of_displacements(evaluation_set, moved), "average_precision_iou50": _precision(evaluation_set, found)}
    rows = [{"measure": name, "value": value, "n": n} for name, (value, n) in whole.items()]
    return pd.concat(
        [rows_of_clips(evaluation_set, clips), _named(evaluation_set, pd.DataFrame(rows))], ignore_index=True
    )


def _accuracy(errors: AgentErrors) -> Values:
    result = dynamics.summary(errors)
    return {
        "ade_px": Counted(result.ade_px, result.n),
        "fde_px": Counted(result.fde_px, result.n_last),
        "ade_matched_px": Counted(result.ade_matched_px, result.n_matched),
        "recall": Counted(result.recall, result.n),
        "false_positives": Counted(result.false_positives, result.n_frames),
    }


def _of_displacements(evaluation_set: EvaluationSet, moved: list[trajectories.Displacements]) -> Values:
    """For claim C7: predicted on true displacement, and how far predictions lean to the target's mean motion."""
    true, predicted, frame, start = (
        np.concatenate([getattr(each, name) for each in moved])
        for name in ("true_px", "predicted_px", "frame", "start_px")
    )
    line = trajectories.regression(true, predicted)
    values = {"displacement_slope": Counted(line.slope, line.n)}
    if evaluation_set.mean_motion is not None:
        mean = evaluation_set.mean_motion.of(frame, start)
        values["pull_to_mean"] = trajectories.pull_towards(true, predicted, mean)
    return values


def _precision(evaluation_set: EvaluationSet, found: Boxes) -> Counted:
    boxes, _, eligible = zip(*evaluation_set.true_agents, strict=True)
    frames = [[frame for clip in clips for frame in clip] for clips in (boxes, eligible, found)]
    return detection.average_precision(*frames, min_iou=0.5)


# -------------------------------------------------------------------------------------------------------------- motion
def _motion(
    evaluation_set: EvaluationSet, frames: Frames, found: Boxes, errors: list[AgentErrors], miss_cap_px: float | None
) -> list[Values]:
    """What pixels alone say of each clip: background and agents without it; and, where a cap is given for the agents that
    it loses, the second tracker, with the ego car's motion.
    """
    last, clips = evaluation_set.context_frames - 1, []
    for number, truth in enumerate(evaluation_set.truth):
        made, true = frames[number, last:], evaluation_set.frames[number, last:]
        boxes, agents, eligible = evaluation_set.true_agents[number]
        start, ids, counts = (
            true_boxes(truth[last]),
            truth[last]["agent"].to_numpy(),
            truth[last]["eligible"].to_numpy(),
        )
        # an agent in the wrong place is no error of the background
        hidden = [start, *(np.concatenate([b, f[:, :4]]) for b, f in zip(boxes, found[number], strict=True))]
        mask = optical_flow.background(true, hidden)
        flow, true_flow = optical_flow.flow(made), evaluation_set.flows[number]
        values = {
            "background_flow_error_px": optical_flow.background_flow_error_px(flow, true_flow, mask),
            "residual_agent_error_px": optical_flow.residual_agent_error_px(
                errors[number], start, ids, *(optical_flow.dominant_motion(each, mask) for each in (flow, true_flow))
            ),
        }
        if miss_cap_px is not None:
            values |= _ego(evaluation_set, number, made, hidden)
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


def _ego(evaluation_set: EvaluationSet, number: int, made: Frames, hidden: Any) -> Values:
    """Errors of the ego car's motion in a clip, where its truth is known."""
    if evaluation_set.ego is None or evaluation_set.cameras is None:
        return {}
    last, rate = evaluation_set.context_frames - 1, evaluation_set.frames_per_second
    ego = optical_flow.ego_motion(made, evaluation_set.cameras[number, last:], hidden, rate)
    values: Values = dict(optical_flow.ego_errors(ego, evaluation_set.ego[number, last:], rate))
    if not evaluation_set.ego_turns:
        del values["ego_yaw_rate_error_deg_s"]
    return values


def _flow_errors(evaluation_set: EvaluationSet, frames: Frames) -> list[Values]:
    """How far the motion of everything with texture is from the true one: where no agent is measured."""
    last, clips = evaluation_set.context_frames - 1, []
    for number, true_flow in enumerate(evaluation_set.flows):
        true = evaluation_set.frames[number, last:]
        mask = optical_flow.background(true, [np.zeros((0, 4))] * len(true))
        flow = optical_flow.flow(frames[number, last:])
        clips.append({"flow_error_px": optical_flow.background_flow_error_px(flow, true_flow, mask)})
    return clips


# ---------------------------------------------------------------------------------------------------------------- rows
def rows_of_clips(evaluation_set: EvaluationSet, clips: list[Values]) -> pd.DataFrame:
    """A row for each clip of the evaluation set and each of its values."""
    rows = [
        {"video": clip.video, "start": clip.start, "scene": clip.scene, "measure": name, "value": value, "n": n}
        for clip, values in zip(evaluation_set.clips, clips, strict=True)
        for name, (value, n) in values.items()
    ]
    return _named(evaluation_set, pd.DataFrame(rows))


def _row(distance: Distance) -> dict[str, Any]:
    plain = asdict(distance)
    return {"measure": plain.pop("name"), **plain}


def _named(evaluation_set: EvaluationSet, rows: pd.DataFrame) -> pd.DataFrame:
    whole = {"video": "", "start": -1, "scene": ""}  # of a measure of all clips together
    return rows.assign(
        domain=evaluation_set.name,
        split=evaluation_set.split,
        **{name: value for name, value in whole.items() if name not in rows},
    )
