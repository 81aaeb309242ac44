"""Measures derived from one matching of a clip's agents: persistence, size, and amount of motion.

Decision: `dynamics.agent_errors` matches once, and everything here is a function of its result, so that all measures use
the same pairs. There are two kinds of measures, distinguished by their names. For measures over *all* eligible agents (by
horizon, metres on the ground plane) a miss costs a cap. Measures over the *matched* agents alone (IoU, size, range, bearing,
displacement) favour a model that loses its hard agents, so they are reported together with recall. No pair is further apart
than the gate of the matching, so displacements are known only near the true ones: the gate biases a slope towards 1. The
share of the true motion that is predicted (`motion_share`) covers all agents; it is zero for a missed one.

On the ground plane: level ground, square pixels, the true camera. The position of a box, true or detected, is that of
the middle of its lower edge: the near end of the agent, not its centre (the tracks' x_m, y_m). Boxes contain no heading,
and none is measured. Pixels at or above the horizon have no position. Refused: cameras and displacements of another shape.

Shapes: T future frames, n eligible agent-frames, M matched ones. NaN marks values that cannot be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from replaylab.data.boxes import centres, checked_agents, checked_boxes, iou
from replaylab.metrics import dynamics
from replaylab.metrics.dynamics import AgentErrors, Statistic, mean
from replaylab.util.checks import BoolArray, FloatArray, IntArray, checked_positive, checked_shape

CELLS = 4  # a side of the image: where an agent is decides which mean motion it is compared with
LEAST_SIDE_PX = 1.0  # sides are not compared below this: a box without an area has no logarithm


@dataclass(frozen=True)
class GroundPlaneErrors:
    """One entry for each of the n eligible agent-frames, detected − true, relative to the ego car."""

    position_m: FloatArray  # (n,) distance of places, at most the cap, which a miss costs; NaN if the true box has no place
    range_m: FloatArray  # (n,) error of the distance from the ego car, within ± the cap; NaN if missed or of no true place
    bearing_deg: FloatArray  # (n,) error of the direction, positive to the right, -180..180; NaN if missed


@dataclass(frozen=True)
class Displacements:
    """Movement since the last context frame, in pixels, of the M matched agent-frames whose agent is in that frame."""

    frame: IntArray  # (M,) index of the future frame, from 0
    agent: IntArray  # (M,) agent id
    start_px: FloatArray  # (M, 2) the agent's true centre then
    true_px: FloatArray  # (M, 2) x and y from the agent's true centre then to its true centre now
    predicted_px: FloatArray  # (M, 2) from the same true centre then to the detected centre now


def clip_measures(errors: AgentErrors, cameras: ArrayLike | None, size_px: int, *, cap_m: float) -> dict[str, Statistic]:
    """Every measure of one clip that needs no second clip, by name; arguments as in `ground_plane_errors`, whose measures
    are left out if no camera is known.

    `ade_px_frame_1` and so on: the ADE of each future frame alone. Range and bearing: mean absolute errors;
    `size_error_matched` is that of the logarithm of areas, and `growth_matched` its signed mean.
    """
    log_area = log_area_ratio(errors)
    measures = {
        "iou_matched": mean(iou(errors.true_boxes[errors.matched], errors.detected_boxes[errors.matched])),
        "size_error_matched": mean(np.abs(log_area)),
        "growth_matched": mean(log_area),
    }
    if cameras is not None:
        plane = ground_plane_errors(errors, cameras, size_px, cap_m=cap_m)
        measures |= {
            "position_error_m": _mean_known(plane.position_m),
            "range_error_matched_m": _mean_known(np.abs(plane.range_m)),
            "bearing_error_matched_deg": _mean_known(np.abs(plane.bearing_deg)),
        }
    frames = range(len(errors.false_positives))
    horizons = {f"ade_px_frame_{t + 1}": mean(errors.error_px[errors.frame == t]) for t in frames}
    return {**measures, "vanishing_rate": vanishing_rate(errors), **horizons}


def log_area_ratio(errors: AgentErrors) -> FloatArray:
    """(M,) natural logarithm of detected / true area of the matched boxes: 0 if equal, positive if too large; scale-free.

    Sides below LEAST_SIDE_PX are set to that value.
    """
    true, detected = (
        np.maximum(boxes[errors.matched, 2:] - boxes[errors.matched, :2], LEAST_SIDE_PX).prod(1)
        for boxes in (errors.true_boxes, errors.detected_boxes)
    )
    return np.log(detected / true)


def vanishing_rate(errors: AgentErrors) -> Statistic:
    """Of the agents detected in the first future frame in which they are eligible, the share not detected in the last.

    n counts those agents; an agent that is eligible in a single frame, or not detected in the first, cannot vanish and is
    left out (it lowers recall).
    """
    vanished = []
    for agent in np.unique(errors.agent):
        matched = errors.matched[errors.agent == agent]
        if len(matched) > 1 and matched[0]:
            vanished.append(not matched[-1])
    return mean(np.array(vanished, dtype=np.float64))


def pixels_to_ground(points: ArrayLike, cameras: ArrayLike, size_px: int) -> FloatArray:
    """Positions of pixels on level ground: metres (N, 2), right and ahead of the ego car; NaN at or above the horizon.

    points (N, 2), x right and y down, in an image of size_px squared; cameras (N, 3), one for each: field of view in
    degrees, height in m, pitch downwards in radians (in this order in the columns of `domain.EGO_COLUMNS`). It inverts
    `worlds.renderer.Camera.project` for points on the ground. ValueError names the argument.
    """
    pixels, checked = np.asarray(points, dtype=np.float64).reshape(-1, 2), _cameras(cameras, "N")
    if len(pixels) != len(checked):
        raise ValueError(f"cameras: {len(checked)} rows, but {len(pixels)} points; give one for each")
    rays = _rays(pixels, checked, size_px)
    down = np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)
    return rays[:, :2] * checked[:, 1:2] / down


def range_and_bearing(places: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Metres (N,) from the ego car and degrees (N,) from straight ahead, positive to the right, of places (N, 2)."""
    right, ahead = np.asarray(places, dtype=np.float64).reshape(-1, 2).T
    return np.hypot(right, ahead), np.rad2deg(np.arctan2(right, ahead))


def ground_plane_errors(errors: AgentErrors, cameras: ArrayLike, size_px: int, *, cap_m: float) -> GroundPlaneErrors:
    """Errors of the agents on the ground plane, relative to the ego car; no error counts for more than cap_m.

    cameras (T, 3), one row per future frame, and size_px as in `pixels_to_ground`. A detection at or above the horizon is
    infinitely far and costs the cap. ValueError names the argument and frame.
    """
    checked_positive(cap_m, "cap_m", "number of metres")
    rows = _cameras(cameras, len(errors.false_positives))[errors.frame]
    feet = [np.stack([b[:, [0, 2]].mean(1), b[:, 3]], axis=1) for b in (errors.true_boxes, errors.detected_boxes)]
    true, detected = (pixels_to_ground(foot, rows, size_px) for foot in feet)
    has_place = np.isfinite(true).all(1)
    away = np.nan_to_num(np.linalg.norm(detected - true, axis=1), nan=np.inf)
    farther = np.nan_to_num(range_and_bearing(detected)[0] - range_and_bearing(true)[0], nan=np.inf)
    bearings = [range_and_bearing(_rays(foot, rows, size_px)[:, :2])[1] for foot in feet]
    return GroundPlaneErrors(
        np.where(has_place, np.minimum(away, cap_m), np.nan),
        np.where(has_place & errors.matched, np.clip(farther, -cap_m, cap_m), np.nan),
        (bearings[1] - bearings[0] + 180) % 360 - 180,
    )


def displacements(errors: AgentErrors, last_boxes: ArrayLike, last_agents: ArrayLike) -> Displacements:
    """Movement since the last context frame, whose true boxes (A, 4) and agent ids (A,) are given.

    Those of several clips may be concatenated. ValueError or TypeError names the argument.
    """
    there, starts = _starts(errors, last_boxes, last_agents)
    chosen = errors.matched & there
    then = starts[chosen[there]]
    moves = (centres(boxes[chosen]) - then for boxes in (errors.true_boxes, errors.detected_boxes))
    return Displacements(errors.frame[chosen], errors.agent[chosen], then, *moves)


def motion_along_truth(errors: AgentErrors, last_boxes: ArrayLike, last_agents: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """True displacement since the last context frame, and the predicted displacement along it; px, (m,) each.

    For the m eligible agent-frames, matched or missed, whose agent is in the last context frame. The second is the
    projection of the predicted displacement on the true direction (the along-track part: Gong & McNally 2004, AIAA
    2004-4788): below 0 in the opposite direction, and 0 for an agent that is missed or whose true displacement is 0.
    Arguments and errors as in `displacements`.
    """
    there, then = _starts(errors, last_boxes, last_agents)
    true = centres(errors.true_boxes[there]) - then
    distance, matched = np.linalg.norm(true, axis=1), errors.matched[there]
    moves = matched & (distance > 0)
    predicted = centres(errors.detected_boxes[there][moves]) - then[moves]
    along = np.zeros(len(true))
    along[moves] = (predicted * true[moves]).sum(1) / distance[moves]
    return distance, along


def motion_share(true_px: ArrayLike, along_px: ArrayLike) -> Statistic:
    """The share of the true motion that is predicted: the sum of `along_px` / that of `true_px`, (m,) each; and m.

    1: agents move as far as the true ones; 0: they are still, vanish, or move independently of the truth; above 1: too far.
    A ratio of sums, so that noise in the boxes of nearly still agents has little weight. NaN if nothing moves.
    """
    true = checked_shape(true_px, "true_px", ("m",), finite=True)
    along = checked_shape(along_px, "along_px", (len(true),), ", one for each in true_px", finite=True)
    whole = float(true.sum())
    return Statistic(float(along.sum()) / whole if whole > 0 else float("nan"), len(true))


def displacement_slope(true_px: ArrayLike, predicted_px: ArrayLike) -> Statistic:
    """Slope of predicted on true displacement (M, 2) px by ordinary least squares, x and y pooled; for claim C7.

    1: agents move as far as the true ones; 0: predicted and true displacement are uncorrelated. n counts the pooled
    numbers, 2 M; NaN if the true ones do not differ.
    """
    true, predicted = (values.ravel() for values in _paired(true_px, predicted_px=predicted_px))
    deviation = true - true.mean() if len(true) else true
    if not deviation.any():
        return Statistic(float("nan"), len(true))
    return Statistic(float(deviation @ predicted / (deviation @ deviation)), len(true))


def pull_towards(true_px: ArrayLike, predicted_px: ArrayLike, mean_px: ArrayLike) -> Statistic:
    """Bias of the predictions toward a mean displacement, as a share of the way from the true one; and M.

    All (M, 2) px, with the mean one of each agent-frame. The share s in predicted = true + s (mean − true) by least
    squares: 0 at the truth, 1 at the mean, negative in the opposite direction. NaN if truth and mean are equal everywhere.
    """
    true, predicted, aim = _paired(true_px, predicted_px=predicted_px, mean_px=mean_px)
    way = aim - true
    whole = float((way**2).sum())
    return Statistic(float((way * (predicted - true)).sum() / whole) if whole > 0 else float("nan"), len(true))


def image_cells(points_px: ArrayLike, size_px: int | tuple[int, int]) -> IntArray:
    """Column and row (n, 2) of the cell in which each point (n, 2) lies; those outside, or NaN, belong to an edge.

    size_px: of a side of the image, or its height and width.
    """
    known = np.nan_to_num(np.asarray(points_px, dtype=np.float64))
    width_and_height = np.broadcast_to(size_px, 2)[::-1]
    return np.clip(np.floor(known / width_and_height * CELLS), 0, CELLS - 1).astype(np.int64)


def constant_velocity(context: Sequence[ArrayLike], n_future: int, *, gate_px: float) -> list[FloatArray]:
    """Boxes for each future frame: those of the last context frame, extrapolated at constant velocity.

    context: the detections of two or more frames, (K, 4), or (K, 5) with a score, which is kept. Boxes of consecutive frames
    are matched one to one within gate_px (`dynamics.match`), backwards from the last. Centre and size are extrapolated
    linearly from the earliest frame to which a box was traced (over three frames, by the least-squares slope), with sizes
    of at least 0; a box without a match in the previous frame is not moved. ValueError names argument and frame.
    """
    if len(context) < 2:
        raise ValueError(f"context: {len(context)} frames, but a velocity takes two")
    if n_future < 1:
        raise ValueError(f"n_future: {n_future!r}, expected at least 1")
    frames = [checked_boxes(boxes, f"context[{t}]", scored=True) for t, boxes in enumerate(context)]
    last = frames[-1]
    velocity, followed, at = np.zeros_like(last), np.arange(len(last)), np.arange(len(last))
    for back in range(1, len(frames)):
        rows, columns, _ = dynamics.match(frames[-back][at], frames[-back - 1], gate_px)
        followed, at = followed[rows], columns
        velocity[followed] = (last[followed] - frames[-back - 1][at]) / back
    scores = np.asarray(context[-1], dtype=np.float64)[:, 4:] if len(last) else np.zeros((0, 1))
    future = []
    for step in range(1, n_future + 1):
        moved = last + step * velocity
        middle, half = (moved[:, :2] + moved[:, 2:]) / 2, np.maximum(moved[:, 2:] - moved[:, :2], 0) / 2
        future.append(np.concatenate([middle - half, middle + half, scores], axis=1))
    return future


def _starts(errors: AgentErrors, last_boxes: ArrayLike, last_agents: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Which agent-frames (n,) belong to an agent with a box in the last context frame, and its centre there (m, 2)."""
    boxes = checked_boxes(last_boxes, "last_boxes")
    ids = checked_agents(last_agents, len(boxes), "last_agents")
    there, order = np.isin(errors.agent, ids), np.argsort(ids)
    return there, centres(boxes)[order[np.searchsorted(ids[order], errors.agent[there])]]


def _rays(pixels: FloatArray, cameras: FloatArray, size_px: int) -> FloatArray:
    """Directions (N, 3) of the rays through pixels (N, 2), level axes: right, ahead, down; of depth 1."""
    checked_positive(size_px, "size_px")
    focal = size_px / 2 / np.tan(np.deg2rad(cameras[:, 0]) / 2)
    right, up = (pixels[:, 0] - size_px / 2) / focal, (size_px / 2 - pixels[:, 1]) / focal
    cos, sin = np.cos(cameras[:, 2]), np.sin(cameras[:, 2])
    return np.stack([right, cos + up * sin, sin - up * cos], axis=1)


def _cameras(values: ArrayLike, n: int | str) -> FloatArray:
    cameras = checked_shape(values, "cameras", (n, 3), ": degrees, m, radians")
    view, height, pitch = cameras.T
    good = (view > 0) & (view < 180) & (height > 0) & np.isfinite(height) & (np.abs(pitch) < np.pi / 2)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"cameras[{row}]: {cameras[row].tolist()}: a field of view over 0 and under 180 degrees, a "
                         "height over 0 m and a pitch within ± π/2 radians are expected")  # fmt: skip
    return cameras


def _paired(true_px: ArrayLike, **others: ArrayLike) -> list[FloatArray]:
    """Displacements (M, 2), all of one length and finite."""
    checked: list[FloatArray] = []
    for name, values in {"true_px": true_px, **others}.items():
        checked.append(checked_shape(values, name, (len(checked[0]) if checked else "M", 2), finite=True))
    return checked


def _mean_known(values: FloatArray) -> Statistic:
    return mean(values[~np.isnan(values)])
