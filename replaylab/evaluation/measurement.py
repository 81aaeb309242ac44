"""Measures of generated clips: a row for each clip and measure, and one for each measure of the whole set.

Decision: every measure is computed from the same frames and the same matching of agents, in one place. A baseline with
boxes but no pictures (constant velocity) has the measures of boxes alone. Context frames are excluded from every measure. A
distance is stored with the number of vectors, the extent of one vector, and the extractor with the digest of its weights. A
measure computed here is in every table once `catalogue.MEASURES` names it.

Refused: clips whose shape differs from that of the real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import PSEUDO, PSEUDO_SUFFIX
from replaylab.evaluation.evaluation_sets import ClipBoxes, EvaluationSet, Frames, flat, true_boxes
from replaylab.metrics import distances, dynamics, ego_motion, fidelity, optical_flow, trajectories, video_network
from replaylab.metrics.detection import average_precision, nta_iou
from replaylab.metrics.distances import Extractor
from replaylab.metrics.dynamics import AgentErrors, Statistic
from replaylab.metrics.fidelity import Activations
from replaylab.metrics.template_tracking import ade_tracked_px, track_templates
from replaylab.models.pipelines import PretrainedPipeline

MISS_CAP_M = 10.0  # error on the ground plane of an agent that is not detected; no error counts for more
NTA_GATE_PX, NTA_WIDTH_PX = 10, 480  # its authors' gate in images of that width

Flows = Sequence[NDArray[np.float32]]  # of each clip from the last context frame on: N x (future frames, H, W, 2)
Values = dict[str, Statistic]
"""Measures by name, each with the number of observations."""


@dataclass(frozen=True)
class NetworkOutputs:
    """The outputs of all networks for the futures of N clips."""

    frames: Activations  # EfficientNet's activations on every future frame, N x future frames
    videos: NDArray[np.float32] | None  # video features (N, d); None of clips that the video network does not take
    boxes: ClipBoxes  # detected, N x future frames; empty where no agent is measured
    boxes_again: ClipBoxes | None  # by the second detector; None where no agent is measured, or only once


@dataclass(frozen=True)
class Measurement:
    """The measures of generated clips, and the detected boxes on which they are based."""

    rows: pd.DataFrame
    boxes: ClipBoxes  # detected, N x future frames


def measure(
    evaluation_set: EvaluationSet, frames: Frames, miss_cap_px: float, latents: torch.Tensor | None = None,
    thorough: bool = True,
) -> Measurement:  # fmt: skip
    """Every measure of generated clips (N, T, H, W, 3), one for each clip of the evaluation set.

    `latents` (N, C, T, h, w): those from which the frames were decoded, if any. `thorough`: also the slowest measures, which
    are not compared over many steps: the ego car's motion and the second tracker. ValueError for clips of another shape.
    """
    if frames.shape != (shape := evaluation_set.frames.shape):
        raise ValueError(f"frames: shape {frames.shape}, but {evaluation_set.name} has clips of shape {shape}")
    flows = [optical_flow.flow(clip[evaluation_set.context_frames - 1 :]) for clip in frames]
    outputs = _network_outputs(evaluation_set, evaluation_set.future(frames), flows)
    latents = evaluation_set.pipeline.encode(frames) if latents is None else latents
    parts = [
        rows_of_clips(evaluation_set, _pictures(evaluation_set, frames, outputs, latents)),
        _feature_distances(evaluation_set, outputs),
    ]
    if evaluation_set.has_agents:
        errors = agent_errors(evaluation_set, outputs.boxes, miss_cap_px)
        parts.append(_agents(evaluation_set, outputs.boxes, errors))
        parts += _agents_again(evaluation_set, outputs.boxes_again, miss_cap_px)
        motion = _motion(evaluation_set, frames, flows, outputs.boxes, errors, miss_cap_px if thorough else None)
        parts.append(rows_of_clips(evaluation_set, motion))
    # in one's own videos agents may never be detected
    if not evaluation_set.has_agents or isinstance(evaluation_set.pipeline, PretrainedPipeline):
        parts.append(rows_of_clips(evaluation_set, _flow_errors(evaluation_set, flows)))
    return Measurement(pd.concat(parts, ignore_index=True), outputs.boxes)


def _network_outputs(evaluation_set: EvaluationSet, futures: Frames, flows: Flows) -> NetworkOutputs:
    """The outputs of all networks for futures (N, F, H, W, 3); of the detector only if agents are measured.

    The video network was trained on the tiny model's clips and accepts no others; `compare` has networks for those.
    """
    takes = (video_network.FRAMES, video_network.SIZE_PX, video_network.SIZE_PX)
    within = [flow[1:] for flow in flows]  # without the step out of the context
    return NetworkOutputs(
        fidelity.efficientnet(flat(futures)),
        evaluation_set.video_features(futures, within) if futures.shape[1:4] == takes else None,
        evaluation_set.detect(futures) if evaluation_set.has_agents else [],
        evaluation_set.detect_again(futures) if evaluation_set.has_agents and evaluation_set.detect_again else None,
    )


# ------------------------------------------------------------------------------------------------------------ pictures
def _pictures(evaluation_set: EvaluationSet, frames: Frames, outputs: NetworkOutputs, latents: torch.Tensor) -> list[Values]:
    """Each clip's fidelity to the true one, and its contribution to the kernel distances."""
    future, true = evaluation_set.future(frames), evaluation_set.future(evaluation_set.frames)
    count = future.shape[1]
    by_clip = outputs.frames.features.reshape(len(frames), count, -1)
    perceptual = fidelity.perceptual_distances(outputs.frames, evaluation_set.activations)
    of_networks: dict[str, Any] = {
        "effnet_perceptual": perceptual.reshape(-1, count).mean(1),
        "latent_mse": _latent_mse(evaluation_set, latents.cpu()),
        PSEUDO["effnet_kd"]: distances.kernel_pseudo_values(by_clip, evaluation_set.reference_features),
    }
    if outputs.videos is not None and _enough_videos(evaluation_set):
        videos = outputs.videos[:, None]
        of_networks[PSEUDO["video_kd"]] = distances.kernel_pseudo_values(videos, evaluation_set.reference_videos)
    clips = []
    for number in range(len(frames)):
        values = fidelity.clip_fidelity(future[number], true[number])
        values |= {name: float(of_clips[number]) for name, of_clips in of_networks.items()}
        # a clip against itself has no finite PSNR
        clips.append({name: Statistic(value, count) for name, value in values.items() if np.isfinite(value)})
    return clips


def _latent_mse(evaluation_set: EvaluationSet, latents: torch.Tensor) -> torch.Tensor:
    """Mean squared error (N,) over the future's latents, or over all if one latent covers context and future frames."""
    true = evaluation_set.latents
    first = evaluation_set.context_frames if true.shape[2] == evaluation_set.frames.shape[1] else 0
    return (latents - true)[:, :, first:].square().mean((1, 2, 3, 4))


def _enough_videos(evaluation_set: EvaluationSet) -> bool:
    return min(len(evaluation_set.clips), len(evaluation_set.reference_clips)) >= distances.N_MIN


def _feature_distances(evaluation_set: EvaluationSet, outputs: NetworkOutputs) -> pd.DataFrame:
    """Fréchet and kernel distances to real clips of other scenes, of single frames and of whole futures.

    Distances with fewer vectors than `distances.N_MIN` are left out: small presets have none of whole futures.
    """
    scenes, others = ([clip.scene for clip in each] for each in (evaluation_set.clips, evaluation_set.reference_clips))
    features, real = outputs.frames.features, evaluation_set.reference_features
    by_clip = features.reshape(len(scenes), -1, features.shape[1]), real.reshape(len(others), -1, real.shape[1])
    sets: list[tuple[str, Any, Any, Extractor]] = [
        ("effnet", *by_clip, fidelity.extractor(*evaluation_set.frames.shape[2:4]))
    ]
    if outputs.videos is not None and _enough_videos(evaluation_set):
        sets.append(("video", outputs.videos, evaluation_set.reference_videos, video_network.extractor()))
    names = f"{evaluation_set.name}, made", f"{evaluation_set.name}, real"
    rows = []
    for network, a, b, extractor in sets:
        for kind, of in (("fd", distances.frechet_distance), ("kd", distances.kernel_distance)):
            name = f"{network}_{kind}"
            distance = distances.between(name, of, a, b, extractor, names=names, clips_a=scenes, clips_b=others)
            rows.append({"measure": name, **asdict(distance)})
    return _of_the_set(evaluation_set, pd.DataFrame(rows).drop(columns="name"))


# -------------------------------------------------------------------------------------------------------------- agents
def measure_boxes(
    evaluation_set: EvaluationSet, boxes: ClipBoxes, miss_cap_px: float, boxes_again: ClipBoxes | None = None
) -> pd.DataFrame:
    """Rows of every measure of agents that needs only boxes (N x future frames, with scores); `boxes_again`: those of the
    second detector.
    """
    rows = _agents(evaluation_set, boxes, agent_errors(evaluation_set, boxes, miss_cap_px))
    return pd.concat([rows, *_agents_again(evaluation_set, boxes_again, miss_cap_px)], ignore_index=True)


def agent_errors(evaluation_set: EvaluationSet, boxes: ClipBoxes, miss_cap_px: float) -> list[AgentErrors]:
    """Each clip's agents matched with the detected boxes, once for all measures."""
    return [
        dynamics.agent_errors(*agents, detected, miss_cap_px=miss_cap_px)
        for agents, detected in zip(evaluation_set.true_agents, boxes, strict=True)
    ]


def _agents(evaluation_set: EvaluationSet, boxes: ClipBoxes, errors: list[AgentErrors]) -> pd.DataFrame:
    context, width = evaluation_set.context_frames, evaluation_set.frames.shape[3]
    gate_px = NTA_GATE_PX * width / NTA_WIDTH_PX
    clips = []
    for number, (true, _, eligible) in enumerate(evaluation_set.true_agents):
        cameras = None if evaluation_set.cameras is None else evaluation_set.cameras[number, context:]
        values: Values = dynamics.accuracy(errors[number])._asdict()
        values |= trajectories.clip_measures(errors[number], cameras, width, cap_m=MISS_CAP_M)
        values["nta_iou"] = nta_iou(true, eligible, boxes[number], gate_px=gate_px)
        clips.append(values)
    pooled = pooled_measures(evaluation_set, boxes, errors, range(len(clips)))
    rows = [{"measure": name, "value": value, "n": n} for name, (value, n) in pooled.items()]
    parts = [rows_of_clips(evaluation_set, clips), _of_the_set(evaluation_set, pd.DataFrame(rows))]
    parts += _motion_shares(evaluation_set, errors) if evaluation_set.edition >= 3 else []
    return pd.concat(parts, ignore_index=True)


def _agents_again(evaluation_set: EvaluationSet, boxes: ClipBoxes | None, miss_cap_px: float) -> list[pd.DataFrame]:
    """Rows of the accuracy measured with the second detector."""
    if boxes is None:
        return []
    clips = [dynamics.accuracy(each) for each in agent_errors(evaluation_set, boxes, miss_cap_px)]
    values: list[Values] = [{"ade_second_detector_px": one.ade_px, "recall_second_detector": one.recall} for one in clips]
    return [rows_of_clips(evaluation_set, values)]


def _motion_shares(evaluation_set: EvaluationSet, errors: list[AgentErrors]) -> list[pd.DataFrame]:
    """Rows of the share of the agents' true motion that is predicted, for the set and as a pseudo-value of each clip."""
    last, name = evaluation_set.context_frames - 1, "motion_share"
    starts = [(true_boxes(truth[last]), truth[last]["agent"].to_numpy()) for truth in evaluation_set.truth]
    moves = [trajectories.motion_along_truth(one, *start) for one, start in zip(errors, starts, strict=True)]
    true_px, along_px = (np.concatenate([move[side] for move in moves]) for side in (0, 1))
    whole = trajectories.motion_share(true_px, along_px)
    sums = np.array([[true.sum(), along.sum()] for true, along in moves])
    without = sums.sum(0) - sums
    with np.errstate(divide="ignore", invalid="ignore"):
        pseudo = len(moves) * whole.value - (len(moves) - 1) * without[:, 1] / without[:, 0]
    values: list[Values] = [
        {name + PSEUDO_SUFFIX: Statistic(float(value), len(move[0]))} for value, move in zip(pseudo, moves, strict=True)
    ]
    of_set = pd.DataFrame([{"measure": name, "value": whole.value, "n": whole.n}])
    return [rows_of_clips(evaluation_set, values), _of_the_set(evaluation_set, of_set)]


def pooled_measures(
    evaluation_set: EvaluationSet, boxes: ClipBoxes, errors: list[AgentErrors], clips: Iterable[int]
) -> Values:
    """Measures of all agents of these clips (by number) together: the slope of predicted on true displacement, the bias of
    predictions toward the target's mean motion (claim C7), and the average precision.
    """
    moves: list[trajectories.Displacements] = []
    frames: list[Any] = []
    for clip in clips:
        last, true = evaluation_set.truth[clip][evaluation_set.context_frames - 1], evaluation_set.true_agents[clip]
        moves.append(trajectories.displacements(errors[clip], true_boxes(last), last["agent"].to_numpy()))
        frames += zip(true.boxes, true.eligible, boxes[clip], strict=True)
    names = ("true_px", "predicted_px", "frame", "start_px")
    true_px, predicted_px, frame, start_px = (np.concatenate([getattr(one, name) for one in moves]) for name in names)
    values = {"displacement_slope": trajectories.displacement_slope(true_px, predicted_px)}
    if evaluation_set.mean_motion is not None:
        mean_px = evaluation_set.mean_motion.of(frame, start_px)
        values["pull_to_mean"] = trajectories.pull_towards(true_px, predicted_px, mean_px)
    values["average_precision_iou50"] = average_precision(*zip(*frames, strict=True), min_iou=0.5)
    return values


# -------------------------------------------------------------------------------------------------------------- motion
def _motion(
    evaluation_set: EvaluationSet, frames: Frames, flows: Flows, boxes: ClipBoxes, errors: list[AgentErrors],
    miss_cap_px: float | None,
) -> list[Values]:  # fmt: skip
    """Measures of each clip from optical flow: the background, and agents relative to it. If a cap for lost agents is
    given, also the second tracker and the ego car's motion.
    """
    last, clips = evaluation_set.context_frames - 1, []
    for number, truth in enumerate(evaluation_set.truth):
        generated, true = frames[number, last:], evaluation_set.frames[number, last:]
        agents = evaluation_set.true_agents[number]
        start, (ids, eligible) = (true_boxes(truth[last]), (truth[last][name].to_numpy() for name in ("agent", "eligible")))
        # an agent in the wrong place is no error of the background
        hidden = [start, *(np.concatenate([a, b[:, :4]]) for a, b in zip(agents.boxes, boxes[number], strict=True))]
        mask = optical_flow.background(true, hidden)
        flow, true_flow = flows[number], evaluation_set.flows[number]
        dominant = (optical_flow.dominant_motion(each, mask) for each in (flow, true_flow))
        values = {
            "background_flow_error_px": optical_flow.background_flow_error_px(flow, true_flow, mask),
            "residual_agent_error_px": optical_flow.residual_agent_error_px(errors[number], start, ids, *dominant),
        }
        if miss_cap_px is not None:
            values |= _ego_errors(evaluation_set, number, generated, hidden)
            path = track_templates(generated, start[eligible])[1:]
            ade = ade_tracked_px(path, ids[eligible], *agents, miss_cap_px=miss_cap_px)
            values["ade_tracked_px"] = ade
        clips.append(values)
    return clips


def _ego_errors(evaluation_set: EvaluationSet, number: int, clip: Frames, hidden: Any) -> Values:
    """Errors of the ego car's motion in a clip, if its ground truth is known."""
    if evaluation_set.ego is None or evaluation_set.cameras is None:
        return {}
    last, rate = evaluation_set.context_frames - 1, evaluation_set.frames_per_second
    measured = ego_motion.ego_motion(clip, evaluation_set.cameras[number, last:], hidden, rate)
    values: Values = dict(ego_motion.ego_errors(measured, evaluation_set.ego[number, last:], rate))
    if not evaluation_set.ego_turns:
        del values["ego_yaw_rate_error_deg_s"]
    return values


def _flow_errors(evaluation_set: EvaluationSet, flows: Flows) -> list[Values]:
    """Each clip's error of optical flow in textured regions, for domains in which no agent is measured."""
    last, clips = evaluation_set.context_frames - 1, []
    for number, true_flow in enumerate(evaluation_set.flows):
        true = evaluation_set.frames[number, last:]
        mask = optical_flow.background(true, [np.zeros((0, 4))] * len(true))
        clips.append({"flow_error_px": optical_flow.background_flow_error_px(flows[number], true_flow, mask)})
    return clips


# ---------------------------------------------------------------------------------------------------------------- rows
def rows_of_clips(evaluation_set: EvaluationSet, clips: list[Values]) -> pd.DataFrame:
    """A row for each clip of the evaluation set and each of its values."""
    rows = [
        {"video": clip.video, "start": clip.start, "scene": clip.scene, "measure": name, "value": value, "n": n}
        for clip, values in zip(evaluation_set.clips, clips, strict=True)
        for name, (value, n) in values.items()
    ]
    return pd.DataFrame(rows).assign(domain=evaluation_set.name, split=evaluation_set.split)


def _of_the_set(evaluation_set: EvaluationSet, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of measures of all clips together."""
    return rows.assign(domain=evaluation_set.name, split=evaluation_set.split, video="", start=-1, scene="")
