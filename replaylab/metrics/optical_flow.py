"""How does what the detector does not see move: the background, the ego car, and the agents, for a second tracker?

The decision: nothing here is a network and nothing was trained. Pixels alone speak (OpenCV), so that no error is shared
with the detector, and every measure has a ceiling, its value on real frames, to be shown beside it: at 64 pixels and
4 frames a second much of the road moves further than optical flow can follow. Three views, each where it was measured
to work: dense flow for the background as a whole; the road's own pictures, laid over each other, for the ego car, because
flow on dashes that jump by 10 px is wrong; templates for the agents.

Refused: a clip of one frame, frames that are not uint8, boxes that are not finite. Plain sky and plain road have no
motion that can be seen, and the vignette stands still on them: pixels without texture in the truth are left out.

Clips here begin with the last context frame: T frames, T-1 transitions, the first of them out of the context. Letters:
H and W rows and columns, A agents. Pixel (row r, column c) is the square from (c, r) to (c + 1, r + 1), as boxes see it.
Flow from frame t to t + 1 lies at the pixels of frame t; x right, y down, pixels a frame. Deterministic; OpenCV's threads
are put back as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.data.boxes import (
    BoolArray,
    FloatArray,
    centres,
    checked_agents,
    checked_boxes,
    checked_frames,
    checked_mask,
    checked_positive,
)
from replaylab.metrics import trajectories
from replaylab.metrics.dynamics import AgentErrors, Counted, mean

Images = NDArray[np.uint8]
FloatImages = NDArray[np.float32]

MARGIN_PX = 2.0  # around boxes: what smoothing mixes the agent into
LEAST_CONTRAST = 4.0  # grey levels a pixel, root mean square over 3 x 3: below it motion cannot be seen
LEAST_PIXELS = 50  # fewer say nothing of a plane or a car

FASTEST_M_S, FASTEST_TURN_DEG_S = 15.0, 20.0  # how far the ego car's motion is looked for
GROUND_AHEAD_M, GROUND_ASIDE_M = 30.0, 8.0  # the ground that is looked at: further off, a pixel is metres

ENLARGED = 2  # templates are matched at twice the resolution
FRINGE_PX = 0.5  # of the background in a template: the outline of a plain agent
SEARCH_PX = 6.0  # from where the agent was in the frame before, in an image of 64 (in proportion in others)
GROWTH = (0.88, 0.94, 1.0, 1.06, 1.14)  # from one frame to the next
RENEWED = 0.5  # of a template at each frame: agents turn and grow
LEAST_SCORE = 0.5  # of a normalised correlation; below it the agent is lost


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small images, often from one of many workers: OpenCV's own threads cost more than they give."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# The background


@_one_thread()
def flow(frames: ArrayLike) -> FloatImages:
    """Optical flow (T-1, H, W, 2), px a frame, of frames (T, H, W, 3): Farnebäck's, window 13 px, Gaussian.

    Chosen by the error against the flow of the road that ego motion and camera imply, on textured road within 7 m of
    the camera's line, dev clips at 64 px, 4 frames/s. Mean error in px for driving / driving-eventful / near: 2.4 / 1.1 /
    1.2; OpenCV's DIS 3.6 / 1.5 / 1.4 as it comes, and 3.5 / 1.5 / 1.2 at best, frames enlarged two to four times; no
    motion at all 5.9 / 2.5 / 2.6. So on the road of `driving`, fast and dashed, it is right within 1 px at four pixels
    of ten only.
    """
    clip = _clip(frames, "frames")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    room = np.zeros((*clip.shape[1:3], 2), np.float32)
    fields = [
        cv2.calcOpticalFlowFarneback(*pair, room.copy(), 0.5, 5, 13, 3, 5, 1.2, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
        for pair in pairwise(grey)
    ]
    return np.stack(fields).astype(np.float32)


@_one_thread()
def background(frames: ArrayLike, boxes: Sequence[ArrayLike]) -> BoolArray:
    """Where (T-1, H, W) flow tells of the background: texture in the frame before, no box in it nor in the frame after.

    boxes: T frames of (A, 4) px, the true ones, and, where a made clip is measured, the found ones too: an agent in the
    wrong place is no error of the background.
    """
    clip = _clip(frames, "frames")
    free = outside(boxes, clip.shape)
    textured = np.stack([_contrast(frame) >= LEAST_CONTRAST for frame in clip[:-1]])
    return textured & free[:-1] & free[1:]


def outside(boxes: Sequence[ArrayLike], shape: tuple[int, ...]) -> BoolArray:
    """Pixels (T, H, W) whose centres lie in none of the frame's boxes, made larger by MARGIN_PX. shape: of the frames."""
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


def background_flow_error_px(made: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> Counted:
    """Mean length of the difference of two clips' flows (T-1, H, W, 2) over the pixels of the mask (T-1, H, W); px a frame.

    The error of the dominant motion in claim C7; the mask is `background` of the true frames. n counts pixels.
    """
    fields = [_flow(values, name) for values, name in ((made, "made"), (truth, "truth"))]
    if fields[0].shape != fields[1].shape:
        raise ValueError(f"made: shape {fields[0].shape}, but truth has {fields[1].shape}; are they of one clip?")
    chosen = _mask(mask, fields[1])
    return mean(np.linalg.norm((fields[0][chosen] - fields[1][chosen]).astype(np.float64), axis=1))


def dominant_motion(flow: ArrayLike, mask: ArrayLike) -> FloatArray:
    """The affine motion (T-1, 2, 3) that most of the mask's flow follows: u(x, y) = M (x, y, 1), pixels.

    Least squares, reweighted six times by Geman and McClure's 1 / (1 + (r / s)²)², s the median residual, at least
    0.5 px: what moves otherwise hardly counts. NaN where the mask holds fewer than LEAST_PIXELS pixels.
    """
    fields = _flow(flow, "flow")
    chosen = _mask(mask, fields)
    models = np.full((len(fields), 2, 3), np.nan)
    for t, (field, where) in enumerate(zip(fields, chosen, strict=True)):
        rows, columns = np.nonzero(where)
        if len(rows) < LEAST_PIXELS:
            continue
        rows, columns = rows[::2], columns[::2]  # neighbours say the same
        places = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1)
        moved, weights = field[rows, columns].astype(np.float64), np.ones(len(rows))
        for _ in range(6):
            weighted = places * weights[:, None]
            # A mask that is one line has no affine motion: then the smallest.
            model = np.linalg.lstsq(weighted.T @ places, weighted.T @ moved, rcond=1e-12)[0]
            residual = np.linalg.norm(moved - places @ model, axis=1)
            weights = (1 + (residual / max(float(np.median(residual)), 0.5)) ** 2) ** -2.0
        models[t] = model.T
    return models


def carried(motion: ArrayLike, points: ArrayLike) -> FloatArray:
    """Displacements (T-1, A, 2) px, after each transition, of points (A, 2) that move with dominant motion (T-1, 2, 3)."""
    models, start = np.asarray(motion, dtype=np.float64), np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if models.ndim != 3 or models.shape[1:] != (2, 3):
        raise ValueError(f"motion: shape {models.shape}, expected (T-1, 2, 3), from `dominant_motion`")
    at, moved = start, np.zeros((len(models), *start.shape))
    for t, model in enumerate(models):
        at = at + at @ model[:, :2].T + model[:, 2]
        moved[t] = at - start
    return moved


def residual_agent_error_px(
    errors: AgentErrors, last_boxes: ArrayLike, last_agents: ArrayLike, made: ArrayLike, truth: ArrayLike
) -> Counted:
    """Error of the matched agents' displacement since the last context frame, dominant motion taken out; px.

    |(found - made's dominant) - (true - truth's dominant)|, each dominant displacement that of a point which starts at
    the agent's centre in the last context frame and is carried by `dominant_motion` (T-1, 2, 3) of the made or the true
    clip. Boxes (A, 4) and ids (A,) of that frame as in `trajectories.displacements`. An agent-frame without a match, or
    whose dominant motion is not known, is left out: it stands beside recall. For claim C7. Agents in the right place
    before a background that moves wrongly have an error too: they move wrongly with respect to it.
    """
    boxes = checked_boxes(last_boxes, "last_boxes")
    ids = checked_agents(last_agents, len(boxes), "last_agents")
    moved = trajectories.displacements(errors, boxes, ids)
    dominant = [carried(motion, centres(boxes)) for motion in (made, truth)]
    for name, field in zip(("made", "truth"), dominant, strict=True):
        if len(field) != len(errors.false_positives):
            raise ValueError(
                f"{name}: {len(field)} transitions, but the errors are of {len(errors.false_positives)} future frames"
            )
    row = {agent: number for number, agent in enumerate(ids.tolist())}
    which = np.array([row[agent] for agent in moved.agent.tolist()], dtype=np.int64)
    own = [found - field[moved.frame, which]
           for found, field in zip((moved.predicted_px, moved.true_px), dominant, strict=True)]  # fmt: skip
    apart = np.linalg.norm(own[0] - own[1], axis=1)
    return mean(apart[np.isfinite(apart)])


# The ego car


@_one_thread()
def ego_motion(
    frames: ArrayLike, cameras: ArrayLike, boxes: Sequence[ArrayLike], frames_per_second: float
) -> FloatArray:
    """Speed in m/s and yaw rate in rad/s, positive to the left: (T-1, 2), one row a transition, of square frames.

    The motion under which the level ground of the frame before, seen from where the camera is after, looks most like
    the frame after: the highest correlation, over ground pixels outside the boxes, of frames without their coarse
    shades (a Gaussian of 3 px taken off, which takes vignette and headlights, fixed to the camera, with it). Searched
    on grids, coarse to fine, up to FASTEST_M_S and FASTEST_TURN_DEG_S, made for 4 frames/s. cameras (T, 3) as in
    `trajectories.on_ground`; boxes: T frames of (A, 4). NaN where under LEAST_PIXELS of ground, or none with texture, can
    be seen.

    Mean errors on dev clips, real / real blurred by 1 px / last frame repeated: speed 0.7 / 1.2 / 9.1 m/s in `driving`, 0.4
    / 0.5 / 4.2 in `driving-eventful`; yaw rate 0.4 / 0.4 / 0.1 deg/s and 0.5 / 0.4 / 2.1. Blurred, the car seems slower, by
    0.9 m/s in `driving`: compare with real frames as blurred as the made ones. And a yaw rate error tells real from still
    only where the ego car turns: in `driving` it never does, and the measure must not be used there.
    """
    clip = _clip(frames, "frames")
    size = clip.shape[1]
    if clip.shape[2] != size:
        raise ValueError(f"frames: {clip.shape[2]} by {size} px; the camera's image is square")
    if not (np.isfinite(frames_per_second) and frames_per_second > 0):
        raise ValueError(f"frames_per_second: {frames_per_second!r}, expected a positive number")
    lenses = np.asarray(cameras, dtype=np.float64)
    if lenses.shape != (len(clip), 3):
        raise ValueError(f"cameras: shape {lenses.shape}, expected ({len(clip)}, 3): degrees, m, radians")
    free = outside(boxes, clip.shape)
    fine = [_without_shades(frame) for frame in clip]
    rows, columns = np.nonzero(_sampled(size))
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=1)
    result = np.full((len(clip) - 1, 2), np.nan)
    for t in range(len(clip) - 1):
        ground = trajectories.on_ground(pixels, np.broadcast_to(lenses[t + 1], (len(pixels), 3)), size)
        near = (ground[:, 1] < GROUND_AHEAD_M) & (np.abs(ground[:, 0]) < GROUND_ASIDE_M)
        chosen = near & (free[t] & free[t + 1])[rows, columns]
        after = fine[t + 1][rows[chosen], columns[chosen]]
        if len(after) >= LEAST_PIXELS and (np.abs(after) >= 1).any():
            # What stood on the ground in the frame before hides it, and is left out there too.
            before = np.stack([np.where(free[t], fine[t], 0), free[t]], axis=-1).astype(np.float32)
            result[t] = _searched(before, after, ground[chosen].astype(np.float32), lenses[t], frames_per_second)
    return result


def ego_errors(found: ArrayLike, ego: ArrayLike, frames_per_second: float) -> dict[str, Counted]:
    """Mean size of the errors of `ego_motion` (T-1, 2) against the true ego (T, 3): x m, y m, heading rad, of one clip.

    `ego_speed_error_m_s` and `ego_yaw_rate_error_deg_s`; n counts the transitions whose motion is known.
    """
    motion, poses = np.asarray(found, dtype=np.float64), np.asarray(ego, dtype=np.float64)
    if motion.ndim != 2 or motion.shape[1] != 2 or poses.shape != (len(motion) + 1, 3):
        raise ValueError(
            f"found, ego: shapes {motion.shape} and {poses.shape}, expected (T-1, 2) and (T, 3), of one clip"
        )
    if not np.isfinite(poses).all():
        raise ValueError("ego: holds NaN or infinity")
    error = motion - true_ego_motion(poses, frames_per_second)
    known = np.abs(error[np.isfinite(error).all(axis=1)])
    return {"ego_speed_error_m_s": mean(known[:, 0]), "ego_yaw_rate_error_deg_s": mean(np.rad2deg(known[:, 1]))}


def true_ego_motion(ego: ArrayLike, frames_per_second: float) -> FloatArray:
    """Speed in m/s, forwards, and yaw rate in rad/s between poses (T, 3): x m, y m, heading rad. (T-1, 2)."""
    x, y, heading = np.asarray(ego, dtype=np.float64).T
    turn = (np.diff(heading) + np.pi) % (2 * np.pi) - np.pi
    middle = heading[:-1] + turn / 2
    ahead = np.cos(middle) * np.diff(y) - np.sin(middle) * np.diff(x)
    return np.stack([ahead, turn], axis=1) * frames_per_second


def _searched(
    before: FloatImages, after: FloatImages, ground: FloatImages, lens: FloatArray, frames_per_second: float
) -> FloatArray:
    """Speed and yaw rate that fit best: all turns at few speeds, then all speeds, then a fine grid and its parabola."""
    speeds, turns = (
        np.arange(0, FASTEST_M_S + 0.1, 3),
        np.deg2rad(np.arange(-FASTEST_TURN_DEG_S, FASTEST_TURN_DEG_S + 0.1, 4)),
    )
    fits = _fits(before, after, ground, lens, frames_per_second, speeds, turns)
    turn = turns[np.unravel_index(fits.argmax(), fits.shape)[1]]
    speeds = np.arange(0, FASTEST_M_S + 0.1, 0.5)
    fits = _fits(before, after, ground, lens, frames_per_second, speeds, np.array([turn]))
    speeds = speeds[fits[:, 0].argmax()] + np.arange(-0.5, 0.6, 0.25)
    turns = turn + np.deg2rad(np.arange(-2, 2.1, 1))
    fits = _fits(before, after, ground, lens, frames_per_second, speeds, turns)
    i, j = np.unravel_index(fits.argmax(), fits.shape)
    return np.array([
        speeds[i] + _peak(fits[:, j], int(i)) * 0.25, turns[j] + _peak(fits[i], int(j)) * np.deg2rad(1)
    ])  # fmt: skip


def _fits(
    before: FloatImages, after: FloatImages, ground: FloatImages, lens: FloatArray,
    frames_per_second: float, speeds: FloatArray, turns: FloatArray,
) -> FloatArray:  # fmt: skip
    """Correlations (speeds, turns), means left in, of what is seen at places on the ground (n, 2) after and before.

    before (H, W, 2): the picture, and 1 where the ground is seen; elsewhere both are 0. Only places seen both times count:
    otherwise a car ahead, which hides where its road was, draws the speed down (by 1 m/s in `driving`).
    """
    way = (speeds / frames_per_second)[:, None, None].astype(np.float32)
    angle = (turns / frames_per_second)[None, :, None].astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    right = cos * ground[:, 0] - sin * ground[:, 1] - np.sin(angle / 2) * way
    ahead = sin * ground[:, 0] + cos * ground[:, 1] + np.cos(angle / 2) * way
    size, height, pitch = len(before), np.float32(lens[1]), np.float32(lens[2])
    focal = np.float32(size / 2 / np.tan(np.deg2rad(lens[0]) / 2))
    depth = np.maximum(ahead * np.cos(pitch) + height * np.sin(pitch), np.float32(0.1))
    x = size / 2 - 0.5 + focal * right / depth
    y = size / 2 - 0.5 - focal * (ahead * np.sin(pitch) - height * np.cos(pitch)) / depth
    flat = (x.reshape(-1, len(after)), y.reshape(-1, len(after)))
    looked_up = cv2.remap(before, *flat, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    seen, known = looked_up[..., 0], looked_up[..., 1]
    power = (seen**2).sum(axis=1) * (known @ after**2)
    return np.asarray((seen @ after / np.sqrt(power + 1e-6)).reshape(x.shape[:2]), dtype=np.float64)


def _sampled(size: int) -> BoolArray:
    """Every second pixel, like the black squares of a chessboard that is the same from the left and the right."""
    columns = np.minimum(np.arange(size), np.arange(size)[::-1])
    return np.asarray((np.arange(size)[:, None] + columns) % 2 == 0)


def _without_shades(frame: Images) -> FloatImages:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), 3 * len(grey) / 64), dtype=np.float32)


# The second tracker


@_one_thread()
def follow(frames: ArrayLike, boxes: ArrayLike) -> FloatArray:
    """Boxes (T, A, 4) px of the agents that have boxes (A, 4) in the first of frames (T, H, W, 3); NaN once lost.

    Template matching in colour by normalised correlation (OpenCV's TM_CCOEFF_NORMED), from frame to frame: the place
    and size that look most like the agent, at a fraction of a pixel. A template is what can be seen within the box;
    half of it is renewed in every frame, because cars turn and come near: mean error on dev clips of driving-eventful 1.8 px
    never renewed, 1.1 wholly, 0.9 by half. An agent is lost where its best score is under LEAST_SCORE, and stays so; where
    something alike stands nearby, that is followed instead (in the frames of quite another clip, a quarter to two fifths
    of agents are still "followed" at the end).

    Ceilings, `ade_tracked_px` with a cap of 16 px on dev clips, real / blurred by 1 px / last frame repeated: 0.4 / 0.3 /
    2.7 px in `driving`, 0.9 / 1.1 / 7.0 in `driving-eventful`.
    """
    clip, start = _clip(frames, "frames"), checked_boxes(boxes, "boxes")
    height, width = clip.shape[1:3]
    sides = (width * ENLARGED, height * ENLARGED)
    large = [np.asarray(cv2.resize(f, sides, interpolation=cv2.INTER_CUBIC), dtype=np.uint8) for f in clip]
    found = np.full((len(clip), len(start), 4), np.nan)
    found[0] = start
    for agent, box in enumerate(start):
        grown = box + FRINGE_PX * np.array([-1, -1, 1, 1])
        shown = np.clip(grown, 0, [width, height, width, height]) * ENLARGED
        x0, y0 = np.floor(shown[:2]).astype(int)
        x1, y1 = np.ceil(shown[2:]).astype(int)
        template = large[0][y0:y1, x0:x1]
        if min(template.shape[:2]) < 3 * ENLARGED or template.std((0, 1)).max() < 1:
            continue
        at, scale = np.array([x0 + x1, y0 + y1]) / 2, 1.0
        # An agent cut off by the image's edge has its box's middle elsewhere than its template's.
        middle, half = (box[:2] + box[2:]) / 2 - at / ENLARGED, (box[2:] - box[:2]) / 2
        for t in range(1, len(clip)):
            score, place, size = _matched(large[t], template, at, scale)
            if not score >= LEAST_SCORE:
                break
            at, scale = place, size
            centre = at / ENLARGED + middle * scale
            found[t, agent] = [*(centre - half * scale), *(centre + half * scale)]
            now = _patch(large[t], at, (template.shape[1] * scale, template.shape[0] * scale))
            renewed = cv2.resize(now, template.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            mixed = cv2.addWeighted(template, 1 - RENEWED, renewed, RENEWED, 0)
            template = np.asarray(mixed, dtype=np.uint8)
    return found


def ade_tracked_px(
    followed: ArrayLike, followed_agents: ArrayLike, true_boxes: Sequence[ArrayLike],
    agents: Sequence[ArrayLike], eligible: Sequence[ArrayLike], *, miss_cap_px: float,
) -> Counted:  # fmt: skip
    """Mean distance of centres, over the agent-frames in which a followed agent is eligible; px, at most the cap.

    followed (T, A, 4): of the T future frames (`follow` without its first), NaN where lost, which costs the cap; the
    ids followed_agents (A,) are those that were eligible in the last context frame. The truth as in
    `dynamics.agent_errors`. n counts agent-frames.
    """
    cap, n_frames = checked_positive(miss_cap_px, "miss_cap_px"), len(true_boxes)
    checked_frames(true_boxes, agents=agents, eligible=eligible)
    found = np.asarray(followed, dtype=np.float64)
    if found.ndim != 3 or found.shape[::2] != (n_frames, 4):
        raise ValueError(f"followed: shape {found.shape}, expected ({n_frames}, A, 4), one entry per true frame")
    ids = checked_agents(followed_agents, found.shape[1], "followed_agents")
    errors = []
    for t in range(n_frames):
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        here = checked_agents(agents[t], len(truth), f"agents[{t}]")
        counts = checked_mask(eligible[t], len(truth), f"eligible[{t}]")
        rows, columns = np.nonzero((ids[:, None] == here) & counts)
        middle = (found[t, rows, :2] + found[t, rows, 2:]) / 2
        apart = np.linalg.norm(middle - centres(truth)[columns], axis=1)
        errors.append(np.minimum(np.nan_to_num(apart, nan=cap), cap))
    return mean(np.concatenate(errors))


def _matched(image: Images, template: Images, at: FloatArray, scale: float) -> tuple[float, FloatArray, float]:
    """The best score near a place (2,), where it is and at which scale of the template."""
    best: tuple[float, FloatArray, float] = (-1.0, at, scale)
    reach = round(SEARCH_PX * image.shape[1] / 64)  # the image is enlarged already
    for grown in GROWTH:
        width, height = (round(side * scale * grown) for side in template.shape[1::-1])
        if min(width, height) < 3 * ENLARGED or max(width, height) > 2 * max(image.shape[:2]):
            continue
        method = cv2.INTER_AREA if scale * grown < 1 else cv2.INTER_LINEAR
        view = _patch(image, at, (width + 2 * reach, height + 2 * reach))
        scores = cv2.matchTemplate(
            view, cv2.resize(template, (width, height), interpolation=method), cv2.TM_CCOEFF_NORMED
        )
        _, score, _, (x, y) = cv2.minMaxLoc(scores)
        if np.isfinite(score) and score > best[0]:
            corner = _corner(at, (width + 2 * reach, height + 2 * reach))
            within = np.array([x + _peak(scores[y], x) + width / 2, y + _peak(scores[:, x], y) + height / 2])
            best = (score, corner + within, scale * grown)
    return best


def _patch(image: Images, middle: FloatArray, sides: tuple[float, float]) -> Images:
    """The part of an image around a place, px; beyond the image its edge goes on."""
    (x, y), (width, height) = _corner(middle, sides), (round(side) for side in sides)
    rows, columns = image.shape[:2]
    before, after = (max(0, -y), max(0, -x)), (max(0, y + height - rows), max(0, x + width - columns))
    if any(before) or any(after):
        grown = cv2.copyMakeBorder(image, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE)
        image = np.asarray(grown, dtype=np.uint8)
    return image[y + before[0] : y + before[0] + height, x + before[1] : x + before[1] + width]


def _corner(middle: FloatArray, sides: tuple[float, float]) -> NDArray[np.int64]:
    return np.array([round(float(at) - round(side) / 2) for at, side in zip(middle, sides, strict=True)])


def _peak(values: ArrayLike, at: int) -> float:
    """How far from the largest value, in steps, the parabola through it and its neighbours has its top."""
    line = np.asarray(values, dtype=np.float64)
    if not 0 < at < len(line) - 1:
        return 0.0
    bend = line[at - 1] - 2 * line[at] + line[at + 1]
    return float(np.clip((line[at - 1] - line[at + 1]) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


# Arguments


def _contrast(frame: Images) -> FloatImages:
    """Root of the mean squared slope over 3 x 3 px, grey levels a pixel (H, W)."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    slopes = [cv2.Sobel(grey, cv2.CV_32F, *along, scale=1 / 8) for along in ((1, 0), (0, 1))]
    return np.asarray(np.sqrt(cv2.blur(slopes[0] ** 2 + slopes[1] ** 2, (3, 3))), dtype=np.float32)


def _clip(values: ArrayLike, name: str) -> Images:
    frames = np.asarray(values)
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"{name}: shape {frames.shape}, expected (T, H, W, 3)")
    if frames.dtype != np.uint8:
        raise TypeError(f"{name}: {frames.dtype} values, expected uint8")
    if len(frames) < 2:
        raise ValueError(f"{name}: one frame, but motion takes two; begin with the last context frame")
    return frames


def _flow(values: ArrayLike, name: str) -> FloatImages:
    fields = np.asarray(values, dtype=np.float32)
    if fields.ndim != 4 or fields.shape[3] != 2:
        raise ValueError(f"{name}: shape {fields.shape}, expected (T-1, H, W, 2), from `flow`")
    if not np.isfinite(fields).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    return fields


def _mask(values: ArrayLike, fields: FloatImages) -> BoolArray:
    mask = np.asarray(values)
    if mask.shape != fields.shape[:3]:
        raise ValueError(f"mask: shape {mask.shape}, expected {fields.shape[:3]}, as the flow has")
    if mask.dtype != np.bool_:
        raise TypeError(f"mask: {mask.dtype} values, expected True or False")
    return mask
