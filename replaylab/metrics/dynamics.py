"""Errors of the agents of generated futures against the true ones, in pixels, and the matching behind them.

Decision: an error is a mean over *all* true agents, and an undetected agent costs a fixed cap. A model whose agents vanish
is therefore never rewarded; the error of the matched agents alone (`ade_matched_px`) is reported in addition, never
instead. Matching is one to one in every frame, by the distance of box centres, and assigns the eligible agents first.
Removing a detection can therefore never lower the error; on the other hand, the detection of an ignored agent may be
matched to a missing eligible agent closer than the cap.

Each ignored agent (too small or mostly hidden) may then take one of the remaining detections, without reward or penalty.
All others are false positives. A clip without any eligible agent has no error: NaN with n = 0, never 0.

Everything here is a pure function of boxes. Refused: boxes that are not finite or have reversed edges, and an agent that
appears twice in one frame. Measures of the matched agents over time, on the ground plane and in motion, are in
`trajectories`. Shapes: T future frames, A true agents in a frame, K detections in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from replaylab.data.boxes import PerFrame, centres, checked_agents, checked_boxes, checked_frames, checked_mask, inside
from replaylab.util.checks import BoolArray, FloatArray, IntArray, checked_positive


class Statistic(NamedTuple):
    """A measured value and its number of observations n; NaN for n = 0."""

    value: float
    n: int


@dataclass(frozen=True)
class AgentErrors:
    """One entry per eligible agent-frame, by frame and then in the order of the truth; n entries in all."""

    frame: IntArray  # (n,) index of the future frame, from 0
    agent: IntArray  # (n,) agent id
    error_px: FloatArray  # (n,) distance of centres, pixels; the cap where the agent was missed
    matched: BoolArray  # (n,) whether a detection was matched to the agent
    false_positives: IntArray  # (T,) detections in each frame that match no agent, eligible or ignored
    true_boxes: FloatArray  # (n, 4) the agent's box, pixels
    detected_boxes: FloatArray  # (n, 4) the box matched to it, pixels; NaN where the agent was missed


class ClipAccuracy(NamedTuple):
    """Spatial accuracy of the agents of one clip."""

    ade_px: Statistic  # mean error over all eligible agent-frames, a miss costing the cap; pixels
    fde_px: Statistic  # the same at the last frame only; pixels
    ade_matched_px: Statistic  # over the matched agent-frames alone; pixels. Flatters a model that loses the hard agents
    recall: Statistic  # share of the eligible agent-frames that were matched, 0..1
    false_positives: Statistic  # detections per frame that match no agent; n counts frames


def match(true_boxes: ArrayLike, detections: ArrayLike, gate_px: float) -> tuple[IntArray, IntArray, FloatArray]:
    """One-to-one matching that minimises the summed distance of centres; pairs at or beyond the gate are excluded.

    true_boxes (A, 4), detections (K, 4 or 5; a score is not used). Returns the rows of the truth, the rows of the
    detections and the distances in pixels of the matched pairs, (M,) each, by rows of the truth. The sum that it
    minimises counts gate_px for every unmatched true box, and therefore has a unique value.
    """
    truth, detected = checked_boxes(true_boxes, "true_boxes"), checked_boxes(detections, "detections", scored=True)
    gate = checked_positive(gate_px, "gate_px")
    distance = np.linalg.norm(centres(truth)[:, None] - centres(detected)[None], axis=-1)
    # With costs cut at the gate, a pair the solver is forced to make costs what leaving both alone costs.
    rows, columns = linear_sum_assignment(np.minimum(distance, gate))
    near = distance[rows, columns] < gate
    rows, columns = rows[near].astype(np.int64), columns[near].astype(np.int64)
    return rows, columns, distance[rows, columns]


def ignored_detections(ignored_agents: ArrayLike, detections: ArrayLike, gate_px: float) -> int:
    """The number of detections taken by ignored agents, at most one each: near an agent's centre or centred inside its box.

    The box is considered in addition to the distance because an ignored agent is often cut off by the edge of the image:
    it is detected in its visible part, far from the centre of its full box. Boxes (A, 4) and (K, 4 or 5), pixels.
    """
    truth = checked_boxes(ignored_agents, "ignored_agents")
    points = centres(checked_boxes(detections, "detections", scored=True))[None]
    near = np.linalg.norm(centres(truth)[:, None] - points, axis=-1) < checked_positive(gate_px, "gate_px")
    takes = near | inside(truth, points)
    return int(takes[linear_sum_assignment(takes, maximize=True)].sum())


def agent_errors(
    true_boxes: PerFrame, agents: PerFrame, eligible: PerFrame, detections: PerFrame, *, miss_cap_px: float
) -> AgentErrors:
    """Error of every eligible agent in every future frame of one clip.

    Each argument is a sequence of T frames: true_boxes (A, 4) as x0 y0 x1 y1 in pixels, agents (A,) integer ids, eligible
    (A,) bool, detections (K, 4 or 5) boxes with or without a score. A may differ from frame to frame; an agent counts in
    the frames where it is eligible. ValueError or TypeError names the invalid argument and frame.
    """
    cap = checked_positive(miss_cap_px, "miss_cap_px")
    frames = range(checked_frames(true_boxes, agents=agents, eligible=eligible, detections=detections))
    parts: list[tuple[NDArray[Any], ...]] = []
    false_positives = np.zeros(len(frames), dtype=np.int64)
    for t in frames:
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        boxes = checked_boxes(detections[t], f"detections[{t}]", scored=True)
        ids = checked_agents(agents[t], len(truth), f"agents[{t}]")
        counts = checked_mask(eligible[t], len(truth), f"eligible[{t}]")
        rows, columns, distance = match(truth[counts], boxes, cap)
        n = int(counts.sum())
        error, matched, detected = np.full(n, cap), np.zeros(n, dtype=np.bool_), np.full((n, 4), np.nan)
        error[rows], matched[rows], detected[rows] = distance, True, boxes[columns]
        others = np.delete(boxes, columns, axis=0)
        false_positives[t] = len(others) - ignored_detections(truth[~counts], others, cap)
        parts.append((np.full(n, t, dtype=np.int64), ids[counts], error, matched, truth[counts], detected))
    frame, agent, error, matched, true, detected = map(np.concatenate, zip(*parts, strict=True))
    return AgentErrors(frame, agent, error, matched, false_positives, true, detected)


def accuracy(errors: AgentErrors) -> ClipAccuracy:
    """Spatial accuracy of one clip from the errors of its agents."""
    last = errors.frame == len(errors.false_positives) - 1
    return ClipAccuracy(
        ade_px=mean(errors.error_px),
        fde_px=mean(errors.error_px[last]),
        ade_matched_px=mean(errors.error_px[errors.matched]),
        recall=mean(errors.matched.astype(np.float64)),
        false_positives=mean(errors.false_positives.astype(np.float64)),
    )


def mean(values: FloatArray) -> Statistic:
    """The mean of values (n,), and n; NaN for n = 0."""
    return Statistic(float(values.mean()) if len(values) else float("nan"), len(values))
