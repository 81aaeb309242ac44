"""Images and ground truth from a state of Doom's engine.

Decision: Doom renders vertical lengths 1.2 times as large as horizontal ones, so the region that is cropped from its screen
is 1.2 times as high as wide and is scaled to a square: the camera is a pinhole with square pixels, as in the other worlds.

Not known: a box bounds the visible part of an agent within the image, without its occluded part; `visible` is the share of
the agent's pixels on Doom's wider screen that lie in the crop. Dead monsters are agents (named dead...), as are lamps,
medikits and fireballs. Sprites are flat and face the camera.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from replaylab.data.domain import Rows
from replaylab.worlds.doom.game import UNITS_PER_METRE
from replaylab.worlds.renderer import Floats, eligible

FOCAL_PX = 200.0  # of a screen 400 wide, which is 90 degrees; and 1.2 times that in height
CROP_PX = (75, 0, 325, 300)  # left, top, right, bottom
FIELD_OF_VIEW_DEG = float(2 * np.rad2deg(np.arctan((CROP_PX[2] - CROP_PX[0]) / 2 / FOCAL_PX)))
GAMMA = 1.5  # Doom is dark
NOT_AGENTS = ("Self", "Unknown")


def square_image(screen: Any, size_px: int) -> Any:
    """The square image, uint8 (H, W, 3), of a screen (300, 400, 3)."""
    small = np.asarray(Image.fromarray(screen).resize((size_px, size_px), Image.Resampling.BOX, box=CROP_PX))
    return np.round(255 * (small / 255) ** (1 / GAMMA)).astype(np.uint8)


def largest_share(state: Any) -> float:
    """The largest share of the image that a single object covers."""
    left, top, right, bottom = CROP_PX
    pixels = np.bincount(state.labels_buffer[top:bottom, left:right].ravel(), minlength=256)
    return float(max((pixels[label.value] for label in state.labels), default=0) / pixels.sum())


def wrapped_deg(angle_deg: float) -> float:
    """The same angle, between -180 and 180 degrees."""
    return float((angle_deg + 180) % 360 - 180)


def _seen_from(pose: Floats, x: float, y: float) -> tuple[float, float]:
    """Metres to the right of and ahead of a camera (x, y, z, angle in degrees, ..)."""
    angle = np.deg2rad(pose[3])
    right = (x - pose[0]) * np.sin(angle) - (y - pose[1]) * np.cos(angle)
    ahead = (x - pose[0]) * np.cos(angle) + (y - pose[1]) * np.sin(angle)
    return float(right / UNITS_PER_METRE), float(ahead / UNITS_PER_METRE)


def ego_rows(poses: list[Floats]) -> Rows:
    """Rows with EGO_COLUMNS without `video`, from camera poses (x, y, z, angle in degrees, eye height) in map units."""
    rows = []
    for frame, pose in enumerate(poses):
        x, y = _seen_from(poses[0], pose[0], pose[1])
        rows.append({
            "frame": frame, "x_m": x, "y_m": y, "heading_rad": float(np.deg2rad(wrapped_deg(pose[3] - poses[0][3]))),
            "field_of_view_deg": FIELD_OF_VIEW_DEG, "camera_height_m": float(pose[4] / UNITS_PER_METRE),
            "camera_pitch_rad": 0.0, "event": "walk",
        })  # fmt: skip
    return rows


def track_rows(states: list[Any], size_px: int) -> Rows:
    """Rows with TRACK_COLUMNS without `video`, of every labelled object; agents are numbered by first appearance."""
    rows: Rows = []
    numbers: dict[int, int] = {}  # of agents, by the engine's object id
    left, top, right, bottom = CROP_PX
    scale = size_px / np.array([right - left, bottom - top])
    for frame, state in enumerate(states):
        for label in state.labels:
            shape = state.labels_buffer == label.value
            inside = shape[top:bottom, left:right]
            if label.object_category in NOT_AGENTS or not inside.any():
                continue
            across, down = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
            box = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) * np.tile(scale, 2)
            visible = float(inside.sum() / shape.sum())
            x, y = _seen_from(state.game_variables, label.object_position_x, label.object_position_y)
            turned = wrapped_deg(label.object_angle - state.game_variables[3])
            rows.append({
                "frame": frame, "agent": numbers.setdefault(label.object_id, len(numbers)),
                "kind": label.object_name.lower(), **dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True)),
                "x_m": x, "y_m": y, "heading_rad": float(np.deg2rad(turned)), "road_m": float("nan"),
                "visible": visible, "eligible": bool(eligible(box[None], np.array([visible]), size_px)[0]),
            })  # fmt: skip
    return rows
