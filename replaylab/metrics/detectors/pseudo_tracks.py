"""Pseudo-tracks: tracks of what a detector detects in real frames, a stand-in for the truth where there is none.

Decision: an agent's box is expected where its centre's last velocity takes it, and one-to-one matching gives it its next
detection. What is detected in a few frames only, or interpolated between two, is in the tracks and counts for nothing.

Letters: T frames, K boxes in a frame.
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
    """Tracks of the detections in the real frames (T, H, W, 3) of one clip: a stand-in for the truth, not the truth.

    T tables, one a frame, with the columns of `domain.TRACK_COLUMNS` and a row an agent, made by `tracks_of`, so that
    `dynamics` can score a generated video against its real one. Their limits:

    - an agent that is never detected is missing: a model that lets it vanish is not charged for it, and one that keeps it is
      charged a false positive if it is then detected;
    - an error that the detector makes in real and generated frames alike cancels out, so errors come out too small;
    - boxes end where an agent is covered or cut off by the edge of the image, and their centres are not those of whole
      agents;
    - agents that pass each other closely may exchange numbers. ADE and recall, matched frame by frame, do not depend on
      numbers; displacements and vanishing do;
    - places on the ground and headings are not known (NaN);
    - an agent that comes into view after the context counts, though no model could foresee it.
    """
    images = checked_images(frames, "frames")
    return tracks_of(detector.detect_with_kinds(images), *images.shape[1:3])


def tracks_of(detections: Sequence[Detections], height_px: int, width_px: int) -> list[pd.DataFrame]:
    """Tracks of the agents detected in each of T frames of one clip: a table a frame, columns `domain.TRACK_COLUMNS`.

    Boxes are matched by `dynamics.match` within GATE of the height. An agent may be missed in MOST_MISSED frames in a row;
    there it gets a linearly interpolated box, of visible 0, that counts for nothing: neither a miss nor a false positive.
    Nor does an agent count that is detected in fewer than LEAST_DETECTED frames (all, if there are fewer). Otherwise
    `eligible` is `boxes.is_eligible`, at the image's height, and `visible` the share of the box in the image: occlusion is
    not known. The kind is the one that most of the agent's boxes have.
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
    """Where an agent was detected."""

    frames: list[int]
    boxes: list[NDArray[np.float64]]
    kinds: list[str]

    def expected(self, frame: int) -> NDArray[np.float64]:
        """Its last box, moved on as it moved last."""
        if len(self.frames) < 2:
            return self.boxes[-1]
        then, last = centres(np.stack(self.boxes[-2:]))
        speed = (last - then) / (self.frames[-1] - self.frames[-2])
        return self.boxes[-1] + np.tile(speed * (frame - self.frames[-1]), 2)

    def rows(self, least: int, height_px: int, width_px: int) -> pd.DataFrame:
        """Of every frame from the first to the last."""
        frames, known = np.arange(self.frames[0], self.frames[-1] + 1), np.stack(self.boxes)
        boxes = np.stack([np.interp(frames, self.frames, side) for side in known.T], axis=1)
        visible = np.where(np.isin(frames, self.frames), share_inside(boxes, height_px, width_px), 0.0)
        eligible = is_eligible(boxes, visible, height_px) & (len(self.frames) >= least)
        same: dict[str, Any] = {"video": "", "kind": max(self.kinds, key=self.kinds.count)}
        same |= dict.fromkeys(("x_m", "y_m", "heading_rad", "road_m"), np.nan)
        return pd.DataFrame(boxes, columns=_SIDES).assign(frame=frames, visible=visible, eligible=eligible, **same)
