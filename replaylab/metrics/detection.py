"""Published scores of detections over many frames: average precision and NTA-IoU.

Decision: they are computed as their authors do; `dynamics` has the measures in which a miss is never rewarded. Pure
functions of boxes. Refused: boxes that are not finite or have reversed edges, and missing scores. Shapes as in `dynamics`:
T frames, A true agents in a frame, K detections.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from replaylab.data.boxes import PerFrame, centres, checked_boxes, checked_frames, checked_mask, inside, pairwise_iou
from replaylab.metrics.dynamics import Statistic, mean
from replaylab.util.checks import BoolArray, FloatArray, checked_positive, checked_shape


def average_precision(true_boxes: PerFrame, eligible: PerFrame, detections: PerFrame, *, min_iou: float) -> Statistic:
    """Average precision over the frames of any number of clips, and the number of eligible agent-frames.

    The frames of all clips are concatenated: true_boxes (A, 4), eligible (A,) bool, detections (K, 5), the score in the
    last column.

    Assignment as in COCO: in order of decreasing score, each detection takes the best unassigned eligible box with an IoU of
    at least `min_iou` (COCO, VOC: 0.5), otherwise an ignored one, and then it does not count. As elsewhere here, an ignored
    agent also takes a box centred inside its own. The area is VOC's since 2010: under the non-increasing envelope of
    precision, with every point of recall (COCO samples 101); equal scores form one point, so the order of the frames has no
    effect. The value is 0 without detections and NaN without eligible agents. ValueError or TypeError names argument and
    frame.
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou: {min_iou!r}, expected a number over 0 and up to 1")
    scores, outcomes, n = [], [], 0
    for t in range(checked_frames(true_boxes, eligible=eligible, detections=detections)):
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        counts = checked_mask(eligible[t], len(truth), f"eligible[{t}]")
        boxes = checked_boxes(detections[t], f"detections[{t}]", scored=True)
        score = _scores(detections[t], f"detections[{t}]")
        overlap = pairwise_iou(truth[:, None], boxes[None])
        meets = (overlap >= min_iou) | (~counts[:, None] & inside(truth, centres(boxes)[None]))
        scores.append(score)
        outcomes.append(_outcomes(overlap, meets, counts, score))
        n += int(counts.sum())
    return Statistic(_area(np.concatenate(scores), np.concatenate(outcomes), n), n)


def _outcomes(overlap: FloatArray, meets: BoolArray, counts: BoolArray, score: FloatArray) -> FloatArray:
    """Outcome (K,) of each detection: 1 right, 0 wrong, NaN if taken by an ignored agent. overlap, meets (A, K)."""
    outcome, free = np.zeros(len(score)), np.ones(len(counts), dtype=np.bool_)
    for box in np.argsort(-score, kind="stable"):
        for among, result in ((counts, 1.0), (~counts, np.nan)):
            able = np.flatnonzero(free & among & meets[:, box])
            if len(able):
                free[able[np.argmax(overlap[able, box])]] = False
                outcome[box] = result
                break
    return outcome


def _area(scores: FloatArray, outcomes: FloatArray, n: int) -> float:
    """Area under the precision-recall curve of detections that are right (1), wrong (0) or do not count (NaN)."""
    if n == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(outcomes[order])]
    right = np.cumsum(outcomes[order])
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # the last of each run of equal scores
    precision = (right / np.arange(1, len(right) + 1))[ends]
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(right[ends] / n, prepend=0.0) * best_beyond))


def nta_iou(true_boxes: PerFrame, eligible: PerFrame, detections: PerFrame, *, gate_px: float) -> Statistic:
    """Novel-trajectory-agent IoU over the T frames of a clip, and the number of eligible agent-frames.

    Zhao et al., DriveDreamer4D (arXiv 2410.13571), as their evaluation code computes it: the mean over the true boxes of
    the IoU with the detection whose centre is nearest, or 0 if none is nearer than the gate. The assignment is not one to
    one, and false positives have no cost. The original has a gate of 10 px in images 480 px wide and uses boxes that lie
    entirely in the image; here the eligible agents are used. true_boxes (A, 4), eligible (A,) bool, detections (K, 4 or 5),
    pixels. ValueError or TypeError names argument and frame.
    """
    gate, values = checked_positive(gate_px, "gate_px"), [np.zeros(0)]
    for t in range(checked_frames(true_boxes, eligible=eligible, detections=detections)):
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        truth = truth[checked_mask(eligible[t], len(truth), f"eligible[{t}]")]
        boxes = checked_boxes(detections[t], f"detections[{t}]", scored=True)
        if len(truth) and len(boxes):
            distance = np.linalg.norm(centres(truth)[:, None] - centres(boxes)[None], axis=-1)
            values.append(np.where(distance.min(1) < gate, pairwise_iou(truth, boxes[distance.argmin(1)]), 0.0))
        else:
            values.append(np.zeros(len(truth)))
    return mean(np.concatenate(values))


def _scores(values: ArrayLike, name: str) -> FloatArray:
    """The last column (K,) of detections (K, 5), whose boxes were checked before."""
    if np.size(values) == 0:
        return np.zeros(0)
    boxes = checked_shape(values, name, ("K", 5), ", boxes with a score")
    if not np.isfinite(boxes[:, 4]).all():
        raise ValueError(f"{name}: holds a score that is NaN or infinity")
    return boxes[:, 4]
