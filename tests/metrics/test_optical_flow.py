"""Properties of measures that no network takes part in: textures, roads and squares whose motion is known."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.data.boxes import centres
from replaylab.metrics import dynamics, ego_motion, optical_flow, template_tracking
from replaylab.worlds.renderer import Camera

SIZE, CAP, RATE = 64, 10.0, 4.0
SEEDS = st.integers(0, 2**32 - 1)
LENS = (50.0, 1.5, 0.03)
NOBODY: list[list[float]] = [[]] * 6


def texture(seed: int, side: int = 160, grain_px: float = 1.5) -> np.ndarray:
    """Smooth noise (side, side, 3), grey levels 0 to 255."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain_px)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255)


def sliding(seed: int, step: tuple[float, float], frames: int = 6) -> np.ndarray:
    """A texture that moves by `step` px (x, y) a frame."""
    large = texture(seed)
    views = []
    for t in range(frames):
        way = np.array([[1, 0, t * step[0] - 48], [0, 1, t * step[1] - 48]])
        views.append(cv2.warpAffine(large.astype(np.float32), way, (SIZE, SIZE), flags=cv2.INTER_CUBIC))
    return np.clip(np.stack(views) + 0.5, 0, 255).astype(np.uint8)


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


def square(
    start: tuple[float, float], step: tuple[float, float], side: float = 12, grow: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A two-coloured square over a texture (still, or moving by `shift` px a frame): frames, and its boxes (T, 1, 4)."""
    behind = sliding(5, (shift, 0.0)).astype(np.float32) * 0.5 + 30
    boxes, frames = [], []
    for t in range(6):
        half = side * grow**t / 2
        middle = np.array(start) + t * np.array(step)
        boxes.append([[*(middle - half), *(middle + half)]])
        # Coverage of each pixel by an interval, in x and in y: a square at a fraction of a pixel.
        pixel = np.arange(SIZE)
        x, y = (np.clip(np.minimum(pixel + 1, at + half) - np.maximum(pixel, at - half), 0, 1) for at in middle)
        top = np.clip(np.minimum(pixel + 1, middle[1]) - np.maximum(pixel, middle[1] - half), 0, 1)
        frame = behind[t] * (1 - np.outer(y, x))[..., None]
        frame += np.outer(top, x)[..., None] * [230, 40, 40] + np.outer(y - top, x)[..., None] * [40, 40, 230]
        frames.append(frame)
    return np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8), np.array(boxes)


def mirrored(boxes: np.ndarray) -> np.ndarray:
    return np.stack([SIZE - boxes[..., 2], boxes[..., 1], SIZE - boxes[..., 0], boxes[..., 3]], axis=-1)


# The background


@given(SEEDS, st.floats(-3, 3), st.floats(-3, 3))
@settings(deadline=None, max_examples=15)
def test_a_sliding_texture_has_constant_flow_and_that_dominant_motion(seed: int, x: float, y: float) -> None:
    frames = sliding(seed, (x, y))
    field = optical_flow.flow(frames)
    assert field.shape == (5, SIZE, SIZE, 2)
    inner = field[:, 10:-10, 10:-10]
    assert np.abs(np.median(inner, axis=(1, 2)) - [x, y]).max() < 0.1
    models = optical_flow.dominant_motion(field, optical_flow.background(frames, NOBODY))
    middle = optical_flow.displacements_of(models, [[32.0, 32.0]])
    np.testing.assert_allclose(middle[:, 0], np.outer(np.arange(1, 6), [x, y]), atol=0.5)


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_the_flow_of_a_mirrored_clip_is_the_mirrored_flow(seed: int) -> None:
    frames = sliding(seed, (1.5, -0.5), frames=2)
    there, back = optical_flow.flow(frames), optical_flow.flow(frames[:, :, ::-1])[:, :, ::-1] * [-1, 1]
    assert np.abs(there - back)[:, 10:-10, 10:-10].mean() < 0.05


def test_a_clip_against_itself_has_no_error_and_against_a_still_one_its_own_motion() -> None:
    frames = sliding(1, (2.0, 0.0))
    still = np.repeat(frames[:1], 6, axis=0)
    mask, truth = optical_flow.background(frames, NOBODY), optical_flow.flow(frames)
    assert optical_flow.background_flow_error_px(truth, truth, mask) == (0.0, int(mask.sum()))
    assert optical_flow.background_flow_error_px(optical_flow.flow(still), truth, mask).value == pytest.approx(2, abs=0.2)


def test_an_error_inside_the_boxes_is_no_error_of_the_background() -> None:
    frames = sliding(2, (1.0, 0.0))
    boxes = [[[20.0, 20.0, 40.0, 40.0]]] * 6
    mask, truth = optical_flow.background(frames, boxes), optical_flow.flow(frames)
    wrong = truth.copy()
    wrong[:, 18:42, 18:42] += 7
    assert optical_flow.background_flow_error_px(wrong, truth, mask).value == 0
    wrong[:, :4] += 7
    assert optical_flow.background_flow_error_px(wrong, truth, mask).value > 0
    assert not optical_flow.outside(boxes, frames.shape)[:, 18:42, 18:42].any()


def test_plain_sky_is_no_background_and_without_any_pixel_nothing_is_said() -> None:
    plain = np.full((3, SIZE, SIZE, 3), 120, np.uint8)
    mask = optical_flow.background(plain, [[]] * 3)
    assert not mask.any()
    value, n = optical_flow.background_flow_error_px(optical_flow.flow(plain), optical_flow.flow(plain), mask)
    assert np.isnan(value) and n == 0
    assert np.isnan(optical_flow.dominant_motion(optical_flow.flow(plain), mask)).all()


@given(SEEDS, st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=4))
@settings(deadline=None, max_examples=20)
def test_an_affine_field_is_found_again_though_a_third_moves_otherwise(seed: int, turn: list[float]) -> None:
    matrix = np.column_stack([np.reshape(turn, (2, 2)), [1.0, -2.0]])
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    field = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
    rows = np.random.default_rng(seed).random((SIZE, SIZE)) < 1 / 3
    field[rows] += [9.0, 6.0]
    found = optical_flow.dominant_motion(field[None], np.ones((1, SIZE, SIZE), bool))
    np.testing.assert_allclose(
        optical_flow.displacements_of(found, [[32, 32]]), optical_flow.displacements_of(matrix[None], [[32, 32]]), atol=0.05
    )


def errors_of(true: np.ndarray, found: np.ndarray) -> dynamics.AgentErrors:
    """Of T future frames (T, A, 4), every agent eligible."""
    n = true.shape[1]
    return dynamics.agent_errors(
        list(true), [np.arange(n)] * len(true), [np.ones(n, bool)] * len(true), list(found), miss_cap_px=CAP
    )


@given(SEEDS)
@settings(deadline=None, max_examples=25)
def test_agents_carried_by_the_background_have_no_residual_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = np.array([[10.0, 10.0], [40.0, 10.0], [10.0, 40.0]]) + rng.uniform(0, 3, (3, 2))
    start = np.concatenate([low, low + 8], axis=1)
    models = [np.concatenate([rng.normal(0, 0.02, (5, 2, 2)), rng.normal(0, 0.3, (5, 2, 1))], 2) for _ in range(2)]
    middle = centres(start)
    own = rng.normal(0, 0.5, (5, 3, 2)).cumsum(0)  # the agents' own motion, right in the made clip
    made, true = (start + np.tile(optical_flow.displacements_of(model, middle) + own, 2) for model in models)
    errors = errors_of(true, made)
    ids = np.arange(3)
    value, n = optical_flow.residual_agent_error_px(errors, start, ids, *models)
    assert n == errors.matched.sum() and value == pytest.approx(0, abs=1e-9)
    turned = rng.permutation(3)
    again = optical_flow.residual_agent_error_px(errors, start[turned], ids[turned], *models)
    assert again.value == pytest.approx(value, abs=1e-9)
    still = np.zeros((5, 2, 3))
    plain = optical_flow.residual_agent_error_px(errors, start, ids, still, still)
    assert plain.value == pytest.approx(float(errors.error_px[errors.matched].mean()))


def test_a_frozen_agent_in_a_moving_background_is_a_residual_error() -> None:
    start = np.array([[20.0, 20.0, 30.0, 30.0]])
    moves = np.tile(np.array([[0.0, 0, 1], [0, 0, 0]]), (5, 1, 1))
    true = np.stack([start + np.array([t, 0, t, 0]) for t in range(1, 6)])
    frozen = np.repeat(start[None], 5, 0)
    errors = errors_of(true, frozen)
    assert optical_flow.residual_agent_error_px(errors, start, [0], moves, moves).value == pytest.approx(3)
    # One whose whole world froze has only lost the dominant motion.
    assert optical_flow.residual_agent_error_px(errors, start, [0], 0 * moves, moves).value == pytest.approx(0)


# The ego car


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


# The second tracker


@pytest.mark.parametrize("shift", [0.0, 1.5, -2.0])
@pytest.mark.parametrize(("step", "grow"), [((0.0, 0.0), 1.0), ((2.3, -0.7), 1.0), ((-1.4, 0.6), 1.05)])
def test_a_moving_square_is_followed_to_a_fraction_of_a_pixel(step: tuple[float, float], grow: float, shift: float) -> None:
    frames, boxes = square((30.0, 34.0), step, grow=grow, shift=shift)
    found = template_tracking.track_templates(frames, boxes[0])
    np.testing.assert_array_equal(found[0], boxes[0])
    away = np.linalg.norm(centres(found[:, 0]) - centres(boxes[:, 0]), axis=1)
    assert away.max() < 0.5
    wide = found[-1, 0, 2] - found[-1, 0, 0]
    assert wide == pytest.approx(12 * grow**5, rel=0.12)
    flipped = template_tracking.track_templates(frames[:, :, ::-1], mirrored(boxes[0]))
    np.testing.assert_allclose(mirrored(flipped), found, atol=0.3)


def test_a_square_cut_off_by_the_edge_keeps_the_centre_of_the_whole() -> None:
    frames, boxes = square((2.0, 30.0), (1.0, 0.0))
    found = template_tracking.track_templates(frames, boxes[0])
    assert np.abs(centres(found[:, 0]) - centres(boxes[:, 0])).max() < 1


@pytest.mark.parametrize("behind", ["plain", "texture"])
def test_a_vanished_square_is_lost_for_good_and_costs_the_cap(behind: str) -> None:
    frames, boxes = square((30.0, 34.0), (1.0, 0.0))
    frames[3] = 100 if behind == "plain" else sliding(5, (0.0, 0.0))[3]
    found = template_tracking.track_templates(frames, boxes[0])
    assert np.isfinite(found[:3]).all() and np.isnan(found[3:]).all()
    value, n = tracked(found[1:], boxes[1:])
    assert n == 5 and value == pytest.approx(3 / 5 * CAP, abs=0.3)


def tracked(found: np.ndarray, true: np.ndarray, **changes: Any) -> dynamics.Statistic:
    n, frames = found.shape[1], len(true)
    given: dict[str, Any] = {
        "tracked_agents": np.arange(n), "agents": [np.arange(n)] * frames, "eligible": [np.ones(n, bool)] * frames,
    }  # fmt: skip
    return template_tracking.ade_tracked_px(found, true_boxes=list(true), miss_cap_px=CAP, **(given | changes))


def test_the_tracked_error_is_zero_at_the_truth_and_the_distance_or_the_cap_off_it() -> None:
    true = np.tile([[10.0, 10, 20, 20], [40, 40, 50, 50]], (5, 1, 1))
    assert tracked(true, true) == (0.0, 10)
    assert tracked(true + np.array([3, 4, 3, 4]), true) == (5.0, 10)
    assert tracked(true + np.array([30, 40, 30, 40]), true) == (CAP, 10)
    assert tracked(np.full_like(true, np.nan), true) == (CAP, 10)
    # In any order; an agent that was not there, or does not count, is left out.
    turned = tracked(true[:, ::-1], true, tracked_agents=np.array([1, 0]))
    assert turned == (0.0, 10)
    assert tracked(true[:, :1], true, tracked_agents=np.array([1]), agents=[np.arange(2)] * 5,
                   eligible=[np.array([True, False])] * 5).n == 0  # fmt: skip


# Bad input, and what is left as it was


def test_bad_input_is_refused_by_name() -> None:
    frames, boxes = square((30.0, 34.0), (1.0, 0.0))
    cameras = np.tile(LENS, (6, 1))
    field = optical_flow.flow(frames)
    mask = optical_flow.background(frames, NOBODY)
    bad = np.array([[np.nan, 0, 1, 1]])
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: optical_flow.flow(frames[:1]), ValueError, "frames: one frame"),
        (lambda: optical_flow.flow(frames[..., 0]), ValueError, r"frames: uint8 \(6, 64, 64\)"),
        (lambda: optical_flow.flow(frames / 255), ValueError, "frames: float64"),
        (lambda: template_tracking.track_templates(frames, bad), ValueError, "boxes: holds NaN"),
        (lambda: optical_flow.background(frames, [[]] * 5), ValueError, "boxes: 5 frames"),
        (lambda: optical_flow.background(frames, [bad] * 6), ValueError, r"boxes\[0\]: holds NaN"),
        (lambda: optical_flow.background_flow_error_px(field[1:], field, mask), ValueError, "generated: shape"),
        (lambda: optical_flow.background_flow_error_px(field, field, mask[1:]), ValueError, "mask: shape"),
        (lambda: optical_flow.background_flow_error_px(field, field * np.nan, mask), ValueError, "truth: holds NaN"),
        (lambda: optical_flow.dominant_motion(field, mask.astype(float)), TypeError, "mask: float64"),
        (lambda: optical_flow.displacements_of(np.zeros((5, 3, 2)), [[1, 1]]), ValueError, "motion: shape"),
        (lambda: ego_motion.ego_motion(frames, cameras[1:], NOBODY, RATE), ValueError, "cameras: shape"),
        (lambda: ego_motion.ego_motion(frames, cameras * 0, NOBODY, RATE), ValueError, "cameras"),
        (lambda: ego_motion.ego_motion(frames, cameras, NOBODY, 0), ValueError, "frames_per_second: 0"),
        (lambda: ego_motion.ego_motion(frames[:, :32], cameras, NOBODY, RATE), ValueError, "square"),
        (lambda: ego_motion.ego_errors(np.zeros((5, 2)), np.zeros((5, 3)), RATE), ValueError, "measured, ego: shapes"),
        (lambda: ego_motion.ego_errors(np.zeros((5, 2)), np.full((6, 3), np.nan), RATE), ValueError, "ego: holds NaN"),
        (lambda: tracked(boxes[1:, 0], boxes[1:]), ValueError, "tracks: shape"),
        (lambda: tracked(boxes[2:], boxes[1:]), ValueError, "tracks: shape"),
    ]  # fmt: skip
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_threads_are_put_back_and_the_same_clip_gives_the_same_numbers() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        frames, boxes = square((30.0, 34.0), (1.0, 0.5), shift=1)
        np.testing.assert_array_equal(optical_flow.flow(frames), optical_flow.flow(frames.copy()))
        np.testing.assert_array_equal(
            template_tracking.track_templates(frames, boxes[0]), template_tracking.track_templates(frames, boxes[0])
        )
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
