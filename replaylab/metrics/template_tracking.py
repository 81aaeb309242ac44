"""A second tracker of agents, by template matching, and the error of its tracks.

Decision: no network is used, so that no error is shared with the detector. Refused: a clip of one frame, frames that
are not uint8, boxes that are not finite. Clips and shapes as in `optical_flow`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.data.boxes import centres, checked_agents, checked_boxes, checked_frames, checked_mask
from replaylab.metrics.dynamics import Statistic, mean
from replaylab.metrics.opencv import checked_clip, one_thread, peak_offset
from replaylab.util.checks import FloatArray, Images, checked_positive, checked_shape

ENLARGED = 2  # templates are matched at twice the resolution
FRINGE_PX = 0.5  # of the background in a template: the outline of a plain agent
SEARCH_PX = 6.0  # from where the agent was in the frame before, in an image of 64 (in proportion in others)
GROWTH = (0.88, 0.94, 1.0, 1.06, 1.14)  # from one frame to the next
RENEWED = 0.5  # of a template at each frame: agents turn and grow
LEAST_SCORE = 0.5  # of a normalised correlation; below it the agent is lost


@one_thread()
def track_templates(frames: ArrayLike, boxes: ArrayLike) -> FloatArray:
    """Boxes (T, A, 4) px of the agents that have boxes (A, 4) in the first of frames (T, H, W, 3); NaN once lost.

    Template matching in colour by normalised correlation (OpenCV's TM_CCOEFF_NORMED), from frame to frame: the position and
    size of the highest score, to a fraction of a pixel. A template is the visible part of the box; half of it is updated in
    every frame, because cars turn and approach: mean error on dev clips of driving-eventful 1.8 px without update, 1.1 with
    full, 0.9 with half. An agent whose best score is below LEAST_SCORE is lost from then on. A similar object nearby may be
    tracked instead (in the frames of an unrelated clip, a quarter to two fifths of agents are still tracked at the end).

    Ceilings, `ade_tracked_px` with a cap of 16 px on dev clips, real / blurred by 1 px / last frame repeated: 0.4 / 0.3 /
    2.7 px in `driving`, 0.9 / 1.1 / 7.0 in `driving-eventful`.
    """
    clip, start = checked_clip(frames, "frames"), checked_boxes(boxes, "boxes")
    height, width = clip.shape[1:3]
    sides = (width * ENLARGED, height * ENLARGED)
    large = [np.asarray(cv2.resize(f, sides, interpolation=cv2.INTER_CUBIC), dtype=np.uint8) for f in clip]
    tracks = np.full((len(clip), len(start), 4), np.nan)
    tracks[0] = start
    for agent, box in enumerate(start):
        grown = box + FRINGE_PX * np.array([-1, -1, 1, 1])
        visible = np.clip(grown, 0, [width, height, width, height]) * ENLARGED
        x0, y0 = np.floor(visible[:2]).astype(int)
        x1, y1 = np.ceil(visible[2:]).astype(int)
        template = large[0][y0:y1, x0:x1]
        if min(template.shape[:2]) < 3 * ENLARGED or template.std((0, 1)).max() < 1:
            continue
        at, scale = np.array([x0 + x1, y0 + y1]) / 2, 1.0
        # An agent cut off by the image's edge has its box's middle elsewhere than its template's.
        middle, half = (box[:2] + box[2:]) / 2 - at / ENLARGED, (box[2:] - box[:2]) / 2
        for t in range(1, len(clip)):
            score, place, size = _best_match(large[t], template, at, scale)
            if not score >= LEAST_SCORE:
                break
            at, scale = place, size
            centre = at / ENLARGED + middle * scale
            tracks[t, agent] = [*(centre - half * scale), *(centre + half * scale)]
            now = _patch(large[t], at, (template.shape[1] * scale, template.shape[0] * scale))
            renewed = cv2.resize(now, template.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            mixed = cv2.addWeighted(template, 1 - RENEWED, renewed, RENEWED, 0)
            template = np.asarray(mixed, dtype=np.uint8)
    return tracks


def ade_tracked_px(
    tracks: ArrayLike, tracked_agents: ArrayLike, true_boxes: Sequence[ArrayLike],
    agents: Sequence[ArrayLike], eligible: Sequence[ArrayLike], *, miss_cap_px: float,
) -> Statistic:  # fmt: skip
    """Mean distance of centres, over the agent-frames in which a tracked agent is eligible; px, at most the cap.

    tracks (T, A, 4): in the T future frames (`track_templates` without its first), NaN if lost, which costs the cap; the
    ids tracked_agents (A,) are those that were eligible in the last context frame. The ground truth as in
    `dynamics.agent_errors`. n counts agent-frames.
    """
    cap, n_frames = checked_positive(miss_cap_px, "miss_cap_px"), len(true_boxes)
    checked_frames(true_boxes, agents=agents, eligible=eligible)
    boxes = checked_shape(tracks, "tracks", (n_frames, "A", 4), ", one entry per true frame")
    ids = checked_agents(tracked_agents, boxes.shape[1], "tracked_agents")
    errors = []
    for t in range(n_frames):
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        here = checked_agents(agents[t], len(truth), f"agents[{t}]")
        counts = checked_mask(eligible[t], len(truth), f"eligible[{t}]")
        rows, columns = np.nonzero((ids[:, None] == here) & counts)
        middle = (boxes[t, rows, :2] + boxes[t, rows, 2:]) / 2
        apart = np.linalg.norm(middle - centres(truth)[columns], axis=1)
        errors.append(np.minimum(np.nan_to_num(apart, nan=cap), cap))
    return mean(np.concatenate(errors))


def _best_match(image: Images, template: Images, at: FloatArray, scale: float) -> tuple[float, FloatArray, float]:
    """The best score near a position (2,), its position, and the template's scale there."""
    best: tuple[float, FloatArray, float] = (-1.0, at, scale)
    reach = round(SEARCH_PX * image.shape[1] / 64)  # the image is enlarged already
    for grown in GROWTH:
        width, height = (round(side * scale * grown) for side in template.shape[1::-1])
        if min(width, height) < 3 * ENLARGED or max(width, height) > 2 * max(image.shape[:2]):
            continue
        method = cv2.INTER_AREA if scale * grown < 1 else cv2.INTER_LINEAR
        view = _patch(image, at, (width + 2 * reach, height + 2 * reach))
        scores = cv2.matchTemplate(view, cv2.resize(template, (width, height), interpolation=method), cv2.TM_CCOEFF_NORMED)
        _, score, _, (x, y) = cv2.minMaxLoc(scores)
        if np.isfinite(score) and score > best[0]:
            corner = _corner(at, (width + 2 * reach, height + 2 * reach))
            within = np.array([x + peak_offset(scores[y], x) + width / 2, y + peak_offset(scores[:, x], y) + height / 2])
            best = (score, corner + within, scale * grown)
    return best


def _patch(image: Images, middle: FloatArray, sides: tuple[float, float]) -> Images:
    """The part of an image around a position, px; the edge is repeated beyond the image."""
    (x, y), (width, height) = _corner(middle, sides), (round(side) for side in sides)
    rows, columns = image.shape[:2]
    before, after = (max(0, -y), max(0, -x)), (max(0, y + height - rows), max(0, x + width - columns))
    if any(before) or any(after):
        grown = cv2.copyMakeBorder(image, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE)
        image = np.asarray(grown, dtype=np.uint8)
    return image[y + before[0] : y + before[0] + height, x + before[1] : x + before[1] + width]


def _corner(middle: FloatArray, sides: tuple[float, float]) -> NDArray[np.int64]:
    return np.array([round(float(at) - round(side) / 2) for at, side in zip(middle, sides, strict=True)])
