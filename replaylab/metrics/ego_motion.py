"""The ego car's motion from pixels alone, and its errors.

Decision: no network is used, so that no error is shared with the detector. The road in two consecutive frames is aligned
according to the ego motion, because optical flow is wrong on dashed lines that move by 10 px.

Refused: a clip of one frame, frames that are not square or not uint8, cameras of another shape. Clips and shapes as in
`optical_flow`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from replaylab.metrics import trajectories
from replaylab.metrics.dynamics import Statistic, mean
from replaylab.metrics.opencv import FloatImages, checked_clip, one_thread, peak_offset
from replaylab.metrics.optical_flow import outside
from replaylab.util.checks import BoolArray, FloatArray, Images, checked_positive, checked_shape

FASTEST_M_S, FASTEST_TURN_DEG_S = 15.0, 20.0  # of the search
GROUND_AHEAD_M, GROUND_ASIDE_M = 30.0, 8.0  # the ground that is compared: further off, a pixel is metres
LEAST_PIXELS = 50  # fewer do not determine the motion of a car


@one_thread()
def ego_motion(frames: ArrayLike, cameras: ArrayLike, boxes: Sequence[ArrayLike], frames_per_second: float) -> FloatArray:
    """Speed in m/s and yaw rate in rad/s, positive to the left: (T-1, 2), one row per transition, of square frames.

    The motion for which the level ground of the first frame, seen from the camera's position in the second, has the highest
    correlation with the second frame, over ground pixels outside the boxes. Coarse shading is subtracted first (a Gaussian
    of 3 px), which also removes vignette and headlights, fixed to the camera. The search uses grids from coarse to fine, up
    to FASTEST_M_S and FASTEST_TURN_DEG_S, chosen for 4 frames/s. cameras (T, 3) as in `trajectories.pixels_to_ground`;
    boxes: T frames of (A, 4). NaN if fewer than LEAST_PIXELS of ground are visible, or none with texture.

    Mean errors on dev clips, real / real blurred by 1 px / last frame repeated: speed 0.7 / 1.2 / 9.1 m/s in `driving`, 0.4
    / 0.5 / 4.2 in `driving-eventful`; yaw rate 0.4 / 0.4 / 0.1 deg/s and 0.5 / 0.4 / 2.1. Blur lowers the measured speed, by
    0.9 m/s in `driving`: compare with real frames as blurred as the generated ones. A yaw rate error distinguishes real from
    still clips only if the ego car turns: in `driving` it never does, and the measure must not be used there.
    """
    clip = checked_clip(frames, "frames")
    size = clip.shape[1]
    if clip.shape[2] != size:
        raise ValueError(f"frames: {clip.shape[2]} by {size} px; the camera's image is square")
    checked_positive(frames_per_second, "frames_per_second", "number")
    lenses = checked_shape(cameras, "cameras", (len(clip), 3), ": degrees, m, radians")
    free = outside(boxes, clip.shape)
    fine = [_without_shading(frame) for frame in clip]
    rows, columns = np.nonzero(_chessboard(size))
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=1)
    result = np.full((len(clip) - 1, 2), np.nan)
    for t in range(len(clip) - 1):
        if t == 0 or (lenses[t + 1] != lenses[t]).any():  # a car's camera hardly ever changes
            ground = trajectories.pixels_to_ground(pixels, np.broadcast_to(lenses[t + 1], (len(pixels), 3)), size)
            near = (ground[:, 1] < GROUND_AHEAD_M) & (np.abs(ground[:, 0]) < GROUND_ASIDE_M)
        chosen = near & (free[t] & free[t + 1])[rows, columns]
        after = fine[t + 1][rows[chosen], columns[chosen]]
        if len(after) >= LEAST_PIXELS and (np.abs(after) >= 1).any():
            # What stood on the ground in the frame before hides it, and is left out there too.
            before = np.stack([np.where(free[t], fine[t], 0), free[t]], axis=-1).astype(np.float32)
            result[t] = _search(before, after, ground[chosen].astype(np.float32), lenses[t], frames_per_second)
    return result


def ego_errors(measured: ArrayLike, ego: ArrayLike, frames_per_second: float) -> dict[str, Statistic]:
    """Mean absolute errors of `ego_motion` (T-1, 2) against the true ego (T, 3): x m, y m, heading rad, of one clip.

    `ego_speed_error_m_s` and `ego_yaw_rate_error_deg_s`; n counts the transitions whose motion is known.
    """
    moved, poses = np.asarray(measured, dtype=np.float64), np.asarray(ego, dtype=np.float64)
    if moved.ndim != 2 or moved.shape[1] != 2 or poses.shape != (len(moved) + 1, 3):
        raise ValueError(f"measured, ego: shapes {moved.shape} and {poses.shape}, expected (T-1, 2) and (T, 3), of one clip")
    if not np.isfinite(poses).all():
        raise ValueError("ego: holds NaN or infinity")
    error = moved - true_ego_motion(poses, frames_per_second)
    known = np.abs(error[np.isfinite(error).all(axis=1)])
    return {"ego_speed_error_m_s": mean(known[:, 0]), "ego_yaw_rate_error_deg_s": mean(np.rad2deg(known[:, 1]))}


def true_ego_motion(ego: ArrayLike, frames_per_second: float) -> FloatArray:
    """Speed in m/s, forwards, and yaw rate in rad/s between poses (T, 3): x m, y m, heading rad. (T-1, 2)."""
    x, y, heading = np.asarray(ego, dtype=np.float64).T
    turn = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    middle = heading[:-1] + turn / 2
    ahead = np.cos(middle) * np.diff(y) - np.sin(middle) * np.diff(x)
    return np.stack([ahead, turn], axis=1) * frames_per_second


def _search(
    before: FloatImages, after: FloatImages, ground: FloatImages, lens: FloatArray, frames_per_second: float
) -> FloatArray:
    """Speed and yaw rate of the highest correlation: all turns at few speeds, then all speeds, then a fine grid."""
    speeds = np.arange(0, FASTEST_M_S + 0.1, 3)
    turns = np.deg2rad(np.arange(-FASTEST_TURN_DEG_S, FASTEST_TURN_DEG_S + 0.1, 4))
    scores = _correlations(before, after, ground, lens, frames_per_second, speeds, turns)
    turn = turns[np.unravel_index(scores.argmax(), scores.shape)[1]]
    speeds = np.arange(0, FASTEST_M_S + 0.1, 0.5)
    scores = _correlations(before, after, ground, lens, frames_per_second, speeds, np.array([turn]))
    speeds = speeds[scores[:, 0].argmax()] + np.arange(-0.5, 0.6, 0.25)
    turns = turn + np.deg2rad(np.arange(-2, 2.1, 1))
    scores = _correlations(before, after, ground, lens, frames_per_second, speeds, turns)
    i, j = np.unravel_index(scores.argmax(), scores.shape)
    return np.array([
        speeds[i] + peak_offset(scores[:, j], int(i)) * 0.25, turns[j] + peak_offset(scores[i], int(j)) * np.deg2rad(1)
    ])  # fmt: skip


def _correlations(
    before: FloatImages, after: FloatImages, ground: FloatImages, lens: FloatArray,
    frames_per_second: float, speeds: FloatArray, turns: FloatArray,
) -> FloatArray:  # fmt: skip
    """Correlations (speeds, turns), means not subtracted, of the pixels at ground positions (n, 2) after and before.

    before (H, W, 2): the image, and 1 where the ground is visible; elsewhere both are 0. Only positions visible in both
    frames count: otherwise a car ahead, which hides the road, lowers the speed (by 1 m/s in `driving`).
    """
    distance = (speeds / frames_per_second)[:, None, None].astype(np.float32)
    angle = (turns / frames_per_second)[None, :, None].astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    right = cos * ground[:, 0] - sin * ground[:, 1] - np.sin(angle / 2) * distance
    ahead = sin * ground[:, 0] + cos * ground[:, 1] + np.cos(angle / 2) * distance  # (speeds, turns, n), as all below
    size, height, pitch = len(before), np.float32(lens[1]), np.float32(lens[2])
    focal = np.float32(size / 2 / np.tan(np.deg2rad(lens[0]) / 2))
    depth = np.maximum(ahead * np.cos(pitch) + height * np.sin(pitch), np.float32(0.1))
    right *= focal
    right /= depth
    right += size / 2 - 0.5
    ahead *= np.sin(pitch)
    ahead -= height * np.cos(pitch)
    ahead *= focal
    ahead /= depth
    x, y = right, np.subtract(size / 2 - 0.5, ahead, out=ahead)
    flat = (x.reshape(-1, len(after)), y.reshape(-1, len(after)))
    warped = cv2.remap(before, *flat, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    pixels, visible = warped[..., 0], warped[..., 1]
    power = (pixels**2).sum(axis=1) * (visible @ after**2)
    return np.asarray((pixels @ after / np.sqrt(power + 1e-6)).reshape(x.shape[:2]), dtype=np.float64)


def _chessboard(size: int) -> BoolArray:
    """Every second pixel, like the black squares of a chessboard, symmetric from left to right."""
    columns = np.minimum(np.arange(size), np.arange(size)[::-1])
    return np.asarray((np.arange(size)[:, None] + columns) % 2 == 0)


def _without_shading(frame: Images) -> FloatImages:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), 3 * len(grey) / 64), dtype=np.float32)
