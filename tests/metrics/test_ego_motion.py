"""Properties of the ego car's motion from pixels: roads seen from a car whose motion is known."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from moving_textures import LENS, NOBODY, RATE, SIZE, square, texture

from replaylab.metrics import ego_motion
from replaylab.worlds.renderer import Camera


def road(seed: int, ego: np.ndarray, camera: tuple[float, float, float] = LENS) -> np.ndarray:
    """A textured plane, 5 pixels a metre, under a grey sky, seen by `renderer.Camera` from poses (T, 3): x, y, heading."""
    large, lens = texture(seed, 400), Camera(camera[0], camera[1], camera[2])
    frames = []
    for x, y, heading in ego:
        # A plane's image is a homography of it: four points on the ground ahead, and where the camera sees them.
        ahead = np.array([[-4.0, 6.0], [4.0, 6.0], [15.0, 40.0], [-15.0, 40.0]])
        cos, sin = np.cos(heading), np.sin(heading)
        world = ahead @ np.array([[cos, sin], [-sin, cos]]) + [x, y]
        pixels, _ = lens.project(np.column_stack([world, np.zeros(4)]), np.array([x, y, 0.0]), heading, SIZE * 4)
        to_image = cv2.getPerspectiveTransform((world * 5 + 100).astype(np.float32), (pixels - 0.5).astype(np.float32))
        view = cv2.warpPerspective(large.astype(np.float32), to_image, (SIZE * 4, SIZE * 4), borderMode=cv2.BORDER_WRAP)
        horizon = int(SIZE * 2 - lens.focal_px(SIZE * 4) * np.tan(camera[2])) + 2
        view[:horizon] = 128
        frames.append(cv2.resize(view, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8)


def driven(speed_m_s: float, yaw_rad_s: float, frames: int = 6) -> np.ndarray:
    """Poses (T, 3) at a constant speed and yaw rate, on chords whose direction is that of the middle of the turn."""
    poses = np.zeros((frames, 3))
    poses[:, 2] = np.arange(frames) * yaw_rad_s / RATE
    middle = poses[:-1, 2] + yaw_rad_s / RATE / 2
    poses[1:, 0] = np.cumsum(-np.sin(middle)) * speed_m_s / RATE
    poses[1:, 1] = np.cumsum(np.cos(middle)) * speed_m_s / RATE
    return poses


@pytest.mark.parametrize(("speed", "yaw_deg_s"), [(0, 0), (3, 0), (6, 8), (9, -4), (4, -12)])
def test_a_plane_seen_from_a_known_camera_gives_back_speed_and_yaw_rate(speed: float, yaw_deg_s: float) -> None:
    ego = driven(speed, np.deg2rad(yaw_deg_s))
    frames = road(3, ego)
    cameras = np.tile(LENS, (6, 1))
    np.testing.assert_allclose(
        ego_motion.true_ego_motion(ego, RATE), np.tile([speed, np.deg2rad(yaw_deg_s)], (5, 1)), atol=1e-9
    )
    found = ego_motion.ego_motion(frames, cameras, NOBODY, RATE)
    errors = ego_motion.ego_errors(found, ego, RATE)
    assert errors["ego_speed_error_m_s"].n == 5
    assert errors["ego_speed_error_m_s"].value < 0.25
    assert errors["ego_yaw_rate_error_deg_s"].value < 0.5
    flipped = ego_motion.ego_motion(frames[:, :, ::-1], cameras, NOBODY, RATE)
    np.testing.assert_allclose(flipped * [1, -1], found, atol=0.02)


def test_a_still_clip_stands_and_agents_do_not_count() -> None:
    ego = driven(5, 0)
    frames = road(4, ego)
    cameras = np.tile(LENS, (6, 1))
    still = ego_motion.ego_errors(ego_motion.ego_motion(frames[[0] * 6], cameras, NOBODY, RATE), ego, RATE)
    assert still["ego_speed_error_m_s"].value == pytest.approx(5, abs=0.1)
    box = [10, 42, 54, 54]  # something over the road that stays where it is in the image
    covered = frames.copy()
    covered[:, 42:54, 10:54] = texture(9)[42:54, 10:54].astype(np.uint8)
    known = ego_motion.ego_errors(ego_motion.ego_motion(covered, cameras, [[box]] * 6, RATE), ego, RATE)
    assert known["ego_speed_error_m_s"].value < 0.25


def test_where_no_ground_can_be_seen_nothing_is_said_of_the_ego() -> None:
    cameras = np.tile(LENS, (6, 1))
    plain = np.full((6, SIZE, SIZE, 3), 90, np.uint8)
    hidden = ego_motion.ego_motion(road(4, driven(5, 0)), cameras, [[[0, 0, 64, 64]]] * 6, RATE)
    for found in (ego_motion.ego_motion(plain, cameras, NOBODY, RATE), hidden):
        assert np.isnan(found).all()
        assert ego_motion.ego_errors(found, driven(5, 0), RATE)["ego_speed_error_m_s"].n == 0


def test_bad_input_is_refused_by_name() -> None:
    frames, _ = square((30.0, 34.0), (1.0, 0.0))
    cameras = np.tile(LENS, (6, 1))
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: ego_motion.ego_motion(frames, cameras[1:], NOBODY, RATE), ValueError, "cameras: shape"),
        (lambda: ego_motion.ego_motion(frames, cameras * 0, NOBODY, RATE), ValueError, "cameras"),
        (lambda: ego_motion.ego_motion(frames, cameras, NOBODY, 0), ValueError, "frames_per_second: 0"),
        (lambda: ego_motion.ego_motion(frames[:, :32], cameras, NOBODY, RATE), ValueError, "square"),
        (lambda: ego_motion.ego_errors(np.zeros((5, 2)), np.zeros((5, 3)), RATE), ValueError, "measured, ego: shapes"),
        (lambda: ego_motion.ego_errors(np.zeros((5, 2)), np.full((6, 3), np.nan), RATE), ValueError, "ego: holds NaN"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
