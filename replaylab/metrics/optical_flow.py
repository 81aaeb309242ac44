"""The background's motion: dense optical flow, its dominant motion, and errors of both.

Decision: no network is used, so that no error is shared with the detector. Every measure has a ceiling, its value on real
frames, to be reported with it: at 64 pixels and 4 frames per second much of the road moves further than optical flow can
follow. The motion of the ego car and of the agents is measured by other means (`ego_motion`, `template_tracking`).

Refused: a clip of one frame, frames that are not uint8, boxes that are not finite. Uniform sky and road have no visible
motion, and the vignette is static on them: pixels without texture in the true clip are left out.

Clips here begin with the last context frame: T frames, T-1 transitions, the first of them out of the context. Shapes:
H rows and W columns, A agents. Pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1), as for boxes. Flow
from frame t to t + 1 is given at the pixels of frame t; x right, y down, pixels per frame. Deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike

from replaylab.data.boxes import centres, checked_agents, checked_boxes
from replaylab.metrics import trajectories
from replaylab.metrics.dynamics import AgentErrors, Statistic, mean
from replaylab.metrics.opencv import FloatImages, checked_clip, one_thread
from replaylab.util.checks import BoolArray, FloatArray, Images, checked_shape

MARGIN_PX = 2.0  # around boxes: what smoothing mixes the agent into
LEAST_CONTRAST = 4.0  # grey levels a pixel, root mean square over 3 x 3: below it motion cannot be seen
LEAST_PIXELS = 50  # fewer do not determine the motion of a plane


@one_thread()
def flow(frames: ArrayLike) -> FloatImages:
    """Optical flow (T-1, H, W, 2), px per frame, of frames (T, H, W, 3): Farnebäck's method, Gaussian window of 13 px.

    Chosen by the error against the flow of the road implied by ego motion and camera, on textured road within 7 m of
    the camera's line, dev clips at 64 px, 4 frames/s. Mean error in px for driving / driving-eventful / near: 2.4 / 1.1 /
    1.2; OpenCV's DIS 3.6 / 1.5 / 1.4 by default, and at best 3.5 / 1.5 / 1.2, with frames enlarged two to four times; no
    motion 5.9 / 2.5 / 2.6. On the fast, dashed road of `driving`, only four pixels of ten are correct within 1 px.
    """
    clip = checked_clip(frames, "frames")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    output = np.zeros((*clip.shape[1:3], 2), np.float32)
    fields = [
        cv2.calcOpticalFlowFarneback(*pair, output.copy(), 0.5, 5, 13, 3, 5, 1.2, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
        for pair in pairwise(grey)
    ]
    return np.stack(fields).astype(np.float32)


@one_thread()
def background(frames: ArrayLike, boxes: Sequence[ArrayLike]) -> BoolArray:
    """The mask (T-1, H, W) of the background: texture in the frame before, and no box in it or in the frame after.

    boxes: T frames of (A, 4) px, the true ones and, for a generated clip, also the detected ones: an agent at the wrong
    position is not an error of the background.
    """
    clip = checked_clip(frames, "frames")
    free = outside(boxes, clip.shape)
    textured = np.stack([_contrast(frame) >= LEAST_CONTRAST for frame in clip[:-1]])
    return textured & free[:-1] & free[1:]


def outside(boxes: Sequence[ArrayLike], shape: tuple[int, ...]) -> BoolArray:
    """Pixels (T, H, W) whose centres lie in none of the frame's boxes, enlarged by MARGIN_PX. shape: that of the frames."""
    if len(boxes) != shape[0]:
        raise ValueError(f"boxes: {len(boxes)} frames, but the clip has {shape[0]}; give one entry per frame")
    x, y = np.arange(shape[2]) + 0.5, np.arange(shape[1]) + 0.5
    free = np.ones(shape[:3], dtype=np.bool_)
    for t, values in enumerate(boxes):
        for x0, y0, x1, y1 in checked_boxes(values, f"boxes[{t}]"):
            across, down = (np.abs(2 * at - low - high) < high - low + 2 * MARGIN_PX
                             for at, low, high in ((x, x0, x1), (y, y0, y1)))  # fmt: skip
            free[t, down[:, None] & across] = False
    return free


def background_flow_error_px(generated: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> Statistic:
    """Mean length of the difference of two flows (T-1, H, W, 2) over the pixels of the mask (T-1, H, W); px per frame.

    The error of the dominant motion in claim C7; the mask is `background` of the true frames. n counts pixels.
    """
    fields = [_flow(values, name) for values, name in ((generated, "generated"), (truth, "truth"))]
    if fields[0].shape != fields[1].shape:
        raise ValueError(f"generated: shape {fields[0].shape}, but truth has {fields[1].shape}; are they of one clip?")
    chosen = _mask(mask, fields[1])
    return mean(np.linalg.norm((fields[0][chosen] - fields[1][chosen]).astype(np.float64), axis=1))


def dominant_motion(flow: ArrayLike, mask: ArrayLike) -> FloatArray:
    """The affine motion (T-1, 2, 3) of most of the flow in the mask: u(x, y) = M (x, y, 1), pixels.

    Least squares, reweighted six times by Geman and McClure's 1 / (1 + (r / s)²)², s the median residual, at least
    0.5 px, so that outliers have little weight. NaN if the mask has fewer than LEAST_PIXELS pixels.
    """
    fields = _flow(flow, "flow")
    chosen = _mask(mask, fields)
    models = np.full((len(fields), 2, 3), np.nan)
    for t, (field, where) in enumerate(zip(fields, chosen, strict=True)):
        rows, columns = np.nonzero(where)
        if len(rows) < LEAST_PIXELS:
            continue
        rows, columns = rows[::2], columns[::2]  # neighbours have the same motion
        places = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1)
        moved, weights = field[rows, columns].astype(np.float64), np.ones(len(rows))
        for _ in range(6):
            weighted = places * weights[:, None]
            # A mask that is one line has no affine motion: then the smallest.
            model = np.linalg.lstsq(weighted.T @ places, weighted.T @ moved, rcond=1e-12)[0]
            apart = moved - places @ model
            apart *= apart
            residual = np.sqrt(apart[:, 0] + apart[:, 1])
            weights = (1 + (residual / max(_median(residual), 0.5)) ** 2) ** -2.0
        models[t] = model.T
    return models


def displacements_of(motion: ArrayLike, points: ArrayLike) -> FloatArray:
    """Displacements (T-1, A, 2) px, after each transition, of points (A, 2) that move with dominant motion (T-1, 2, 3)."""
    models = checked_shape(motion, "motion", ("T-1", 2, 3), ", from `dominant_motion`")
    start = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    at, moved = start, np.zeros((len(models), *start.shape))
    for t, model in enumerate(models):
        at = at + at @ model[:, :2].T + model[:, 2]
        moved[t] = at - start
    return moved


def residual_agent_error_px(
    errors: AgentErrors, last_boxes: ArrayLike, last_agents: ArrayLike, generated: ArrayLike, truth: ArrayLike
) -> Statistic:
    """Error of the matched agents' displacement since the last context frame, relative to the dominant motion; px.

    |(detected − dominant motion of the generated clip) − (true − dominant motion of the true clip)|. A dominant displacement
    is that of a point which starts at the agent's centre in the last context frame and follows `dominant_motion`
    (T-1, 2, 3). Boxes (A, 4) and ids (A,) of that frame as in `trajectories.displacements`. Agent-frames without a match or
    a known dominant motion are left out: report it together with recall. For claim C7. Correctly placed agents before a
    background with wrong motion also have an error, because their motion relative to it is wrong.
    """
    boxes = checked_boxes(last_boxes, "last_boxes")
    ids = checked_agents(last_agents, len(boxes), "last_agents")
    moved = trajectories.displacements(errors, boxes, ids)
    dominant = [displacements_of(motion, centres(boxes)) for motion in (generated, truth)]
    frames = len(errors.false_positives)
    for name, field in zip(("generated", "truth"), dominant, strict=True):
        if len(field) != frames:
            raise ValueError(f"{name}: {len(field)} transitions, but the errors are of {frames} future frames")
    row = {agent: number for number, agent in enumerate(ids.tolist())}
    which = np.array([row[agent] for agent in moved.agent.tolist()], dtype=np.int64)
    own = [agent - field[moved.frame, which]
           for agent, field in zip((moved.predicted_px, moved.true_px), dominant, strict=True)]  # fmt: skip
    apart = np.linalg.norm(own[0] - own[1], axis=1)
    return mean(apart[np.isfinite(apart)])


def _median(values: FloatArray) -> float:
    """numpy's median of (n,) finite values without its checks, which take three times as long for some hundred values."""
    half = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, half)[half])
    low, high = np.partition(values, (half - 1, half))[half - 1 : half + 1]
    return float((low + high) / 2)


def _contrast(frame: Images) -> FloatImages:
    """Root mean square of the slope over 3 x 3 px, grey levels per pixel (H, W)."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    slopes = [cv2.Sobel(grey, cv2.CV_32F, *along, scale=1 / 8) for along in ((1, 0), (0, 1))]
    return np.asarray(np.sqrt(cv2.blur(slopes[0] ** 2 + slopes[1] ** 2, (3, 3))), dtype=np.float32)


def _flow(values: ArrayLike, name: str) -> FloatImages:
    return checked_shape(values, name, ("T-1", "H", "W", 2), ", from `flow`", finite=True, dtype=np.float32)


def _mask(values: ArrayLike, fields: FloatImages) -> BoolArray:
    mask = checked_shape(values, "mask", fields.shape[:3], ", as the flow has", dtype=None)
    if mask.dtype != np.bool_:
        raise TypeError(f"mask: {mask.dtype} values, expected True or False")
    return mask
