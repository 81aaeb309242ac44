"""Pseudo-tracks: tracks of detections in real frames, a substitute for missing ground truth.

Decision: an agent's next box is predicted at constant velocity of its centre, and one-to-one matching assigns it a
detection. Agents detected in a few frames only, and boxes interpolated between two detections, are in the tracks but are not
eligible.

Shapes: T frames, K boxes in a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from replaylab.data.boxes import centres, is_eligible, share_inside
from replaylab.data.domain import TRACK_TYPES
from replaylab.metrics import dynamics
from replaylab.metrics.detectors.pretrained import Detections, ObjectDetector
from replaylab.util.checks import checked_images

GATE = 10 / 64  # of the image's height: a detection further from the expected box is of another agent
MOST_MISSED = 1  # frames in a row, between which an agent is still the same
LEAST_DETECTED = 3  # frames: what is detected in fewer may not be there


def pseudo_tracks(frames: ArrayLike, detector: ObjectDetector) -> list[pd.DataFrame]:
    """Tracks of the detections in the real frames (T, H, W, 3) of one clip: a substitute for ground truth.

    T tables, one per frame, with the columns of `domain.TRACK_COLUMNS` and one row per agent, made by `tracks_of`, so that
    `dynamics` can compare a generated video with its real one. Their limits:

    - an agent that is never detected is missing: a model in which it vanishes has no error, and one in which it is detected
      has a false positive;
    - errors that the detector makes in both real and generated frames cancel, so measured errors are too small;
    - boxes cover only the visible part of an agent, so their centres are not those of the full boxes;
    - agents that pass each other closely may exchange numbers. ADE and recall, matched frame by frame, do not depend on
      numbers; displacements and vanishing do;
    - positions on the ground and headings are not known (NaN);
    - an agent that appears after the context counts, although no model could predict it.
    """
    images = checked_images(frames, "frames")
    return tracks_of(detector.detect_with_kinds(images), *images.shape[1:3])


def tracks_of(detections: Sequence[Detections], height_px: int, width_px: int) -> list[pd.DataFrame]:
    """Tracks of the agents detected in each of T frames of one clip: one table per frame, columns `domain.TRACK_COLUMNS`.

    Boxes are matched by `dynamics.match` within GATE of the height. An agent may be missed in MOST_MISSED consecutive
    frames; there it has a linearly interpolated box with visible 0, which is neither a miss nor a false positive. An agent
    detected in fewer than LEAST_DETECTED frames (all, if there are fewer) is not eligible either. Otherwise `eligible` is
    `boxes.is_eligible`, at the image's height, and `visible` is the share of the box in the image: occlusion is not known.
    The kind is that of most of the agent's boxes.
    """
    tracks: list[_Track] = []
    for frame, (boxes, kinds) in enumerate(detections):
        alive = [track for track in tracks if frame - track.frames[-1] <= 1 + MOST_MISSED]
        expected = np.array([track.expected(frame) for track in alive]).reshape(-1, 4)
        rows, columns, _ = dynamics.match(expected, boxes, GATE * height_px)
        whose = {int(column): alive[row] for row, column in zip(rows, columns, strict=True)}
        for number, kind in enumerate(kinds):
            track = whose.get(number)
            if track is None:
                track = _Track([], [], [])
                tracks.append(track)
            track.frames.append(frame)
            track.boxes.append(np.asarray(boxes[number, :4], dtype=np.float64))
            track.kinds.append(kind)
    least = min(LEAST_DETECTED, len(detections))
    parts = [track.rows(least, height_px, width_px).assign(agent=n) for n, track in enumerate(tracks)]
    table = pd.concat([_NOTHING, *parts], ignore_index=True) if parts else _NOTHING
    return [table[table["frame"] == frame] for frame in range(len(detections))]


_SIDES = ["x0", "y0", "x1", "y1"]
_NOTHING = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in TRACK_TYPES.items()})


@dataclass(frozen=True)
class _Track:
    """The detections of one agent."""

    frames: list[int]
    boxes: list[NDArray[np.float64]]
    kinds: list[str]

    def expected(self, frame: int) -> NDArray[np.float64]:
        """The agent's last box, extrapolated at its last velocity."""
        if len(self.frames) < 2:
            return self.boxes[-1]
        then, last = centres(np.stack(self.boxes[-2:]))
        speed = (last - then) / (self.frames[-1] - self.frames[-2])
        return self.boxes[-1] + np.tile(speed * (frame - self.frames[-1]), 2)

    def rows(self, least: int, height_px: int, width_px: int) -> pd.DataFrame:
        """The rows of every frame from the first to the last."""
        frames, known = np.arange(self.frames[0], self.frames[-1] + 1), np.stack(self.boxes)
        boxes = np.stack([np.interp(frames, self.frames, side) for side in known.T], axis=1)
        visible = np.where(np.isin(frames, self.frames), share_inside(boxes, height_px, width_px), 0.0)
        eligible = is_eligible(boxes, visible, height_px) & (len(self.frames) >= least)
        same: dict[str, Any] = {"video": "", "kind": max(self.kinds, key=self.kinds.count)}
        same |= dict.fromkeys(("x_m", "y_m", "heading_rad", "road_m"), np.nan)
        return pd.DataFrame(boxes, columns=_SIDES).assign(frame=frames, visible=visible, eligible=eligible, **same)
