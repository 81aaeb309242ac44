"""Properties of what follows from matched agents: round trips through the world's camera, and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.data.boxes import centres
from replaylab.metrics import dynamics, trajectories
from replaylab.worlds.renderer import Camera, placed

CAP = 10.0
SEEDS = st.integers(0, 2**32 - 1)
Clip = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]


def clip_of(rng: np.random.Generator, n_frames: int = 5, n_agents: int = 4) -> Clip:
    """Agents 40 px apart, moving by less than 2 px a frame, some ineligible now and then; boxes, ids, eligible."""
    start = np.stack([np.arange(n_agents) * 40.0, rng.uniform(30, 50, n_agents)], 1)
    velocity, half = rng.uniform(-2, 2, (n_agents, 2)), rng.uniform(3, 8, (n_agents, 2))
    boxes = [np.concatenate([c - half, c + half], 1) for c in (start + t * velocity for t in range(n_frames))]
    ids = [rng.permutation(n_agents) for _ in range(n_frames)]
    return (
        [b[i] for b, i in zip(boxes, ids, strict=True)], [i + 7 for i in ids],
        [rng.random(n_agents) < 0.8 for _ in ids],
    )  # fmt: skip


def errors_of(clip: Clip, found: list[np.ndarray]) -> dynamics.AgentErrors:
    return dynamics.agent_errors(*clip, found, miss_cap_px=CAP)


def some_of(rng: np.random.Generator, boxes: list[np.ndarray]) -> list[np.ndarray]:
    """A detector's view: shifted by up to 2 px, some missing, in any order."""
    return [rng.permutation(b + np.tile(rng.uniform(-2, 2, (len(b), 2)), 2))[: rng.integers(0, len(b) + 1)] for b in boxes]


# Boxes


@given(SEEDS, st.floats(0.5, 2))
@settings(deadline=None)
def test_size_error_is_the_logarithm_of_what_boxes_were_scaled_by(seed: int, scale: float) -> None:
    clip = clip_of(np.random.default_rng(seed))
    found = []
    for boxes in clip[0]:
        middle, half = centres(boxes), scale * (boxes[:, 2:] - boxes[:, :2]) / 2
        found.append(np.concatenate([middle - half, middle + half], 1))
    errors = errors_of(clip, found)
    log_area, overlap = trajectories.log_area_ratio(errors), trajectories.clip_measures(errors, None, 64, cap_m=10)
    assert len(log_area) == overlap["iou_matched"].n == sum(e.sum() for e in clip[2])
    np.testing.assert_allclose(log_area, 2 * math.log(scale), atol=1e-9)
    if len(log_area):
        assert overlap["iou_matched"].value == pytest.approx(min(scale, 1 / scale) ** 2)


@given(SEEDS)
@settings(deadline=None)
def test_agreement_is_of_the_matched_alone_and_survives_a_box_without_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = clip_of(rng)
    points = [np.tile(centres(b), 2) for b in some_of(rng, clip[0])]
    errors = errors_of(clip, points)
    log_area, overlap = trajectories.log_area_ratio(errors), trajectories.clip_measures(errors, None, 64, cap_m=10)
    assert len(log_area) == overlap["iou_matched"].n == errors.matched.sum()
    assert overlap["iou_matched"].value in (0, pytest.approx(math.nan, nan_ok=True))
    assert np.isfinite(log_area).all() and (log_area < 0).all()


# Over time


@given(SEEDS)
@settings(deadline=None)
def test_the_horizons_weighted_by_their_agents_make_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = clip_of(rng)
    errors = errors_of(clip, some_of(rng, clip[0]))
    measures, whole = trajectories.clip_measures(errors, None, 64, cap_m=1), dynamics.accuracy(errors)
    frames = [measures[f"ade_px_frame_{t}"] for t in range(1, 6)]
    assert "ade_px_frame_6" not in measures and sum(f.n for f in frames) == whole.ade_px.n
    np.testing.assert_equal(frames[-1], whole.fde_px)
    if whole.ade_px.n:
        assert sum(f.value * f.n for f in frames if f.n) / whole.ade_px.n == pytest.approx(whole.ade_px.value)


def test_vanishing_counts_agents_found_at_first_and_not_at_last() -> None:
    box = np.array([[0.0, 0, 8, 8]])
    boxes = [np.concatenate([box + 40 * a for a in range(5)])] * 3
    ids = [np.arange(5)] * 3
    eligible = [np.array(e, dtype=bool) for e in ([1, 1, 1, 0, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0])]
    # 0 stays, 1 vanishes, 2 is never found, 3 vanishes in its second frame, 4 is eligible only once
    found = [boxes[0][seen] for seen in ([0, 1, 4], [0, 3], [0])]
    errors = dynamics.agent_errors(boxes, ids, eligible, found, miss_cap_px=CAP)
    assert trajectories.vanishing_rate(errors) == (pytest.approx(2 / 3), 3)
    blink = [boxes[0], boxes[0][:0], boxes[0]]
    again = dynamics.agent_errors(boxes, ids, eligible, blink, miss_cap_px=CAP)
    assert trajectories.vanishing_rate(again) == (0, 3)  # what comes back in the end has not vanished


@given(SEEDS)
@settings(deadline=None)
def test_nothing_vanishes_from_the_truth_and_nothing_is_left_to_vanish_from_an_empty_world(seed: int) -> None:
    clip = clip_of(np.random.default_rng(seed))
    assert trajectories.vanishing_rate(errors_of(clip, clip[0])).value in (0, pytest.approx(math.nan, nan_ok=True))
    nothing = trajectories.vanishing_rate(errors_of(clip, [b[:0] for b in clip[0]]))
    assert math.isnan(nothing.value) and nothing.n == 0


# On the ground


@st.composite
def cameras(draw: Any) -> Camera:
    return Camera(draw(st.floats(30, 90)), draw(st.floats(0.5, 5)), draw(st.floats(-0.2, 0.5)))


def row_of(camera: Camera) -> list[float]:
    return [camera.field_of_view_deg, camera.height_m, camera.pitch_rad]


@given(cameras(), SEEDS, st.floats(-3.1, 3.1), st.sampled_from([64, 128, 333]))
@settings(deadline=None)
def test_the_ground_inverts_the_camera_of_the_worlds(camera: Camera, seed: int, heading: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    relative = np.concatenate([rng.uniform(-20, 20, (50, 1)), rng.uniform(0.5, 80, (50, 1)), np.zeros((50, 1))], 1)
    ego = np.array([*rng.uniform(-100, 100, 2), 0.0])
    pixels, depth = camera.project(placed(relative, ego, heading), ego, heading, size)
    seen = depth > 0.1
    places = trajectories.pixels_to_ground(pixels[seen], [row_of(camera)] * seen.sum(), size)
    np.testing.assert_allclose(places, relative[seen, :2], rtol=1e-6, atol=1e-6)


@given(cameras(), st.floats(-100, 164), st.floats(0, 60))
def test_at_and_above_the_horizon_there_is_no_ground(camera: Camera, x: float, above: float) -> None:
    horizon = 32 - camera.focal_px(64) * math.tan(camera.pitch_rad)
    assert np.isnan(trajectories.pixels_to_ground([[x, horizon - above - 1e-6]], [row_of(camera)], 64)).all()
    assert np.isfinite(trajectories.pixels_to_ground([[x, horizon + above + 0.01]], [row_of(camera)], 64)).all()


@given(st.floats(0.1, 100), st.floats(-179, 179))
def test_range_and_bearing_are_polar_coordinates(distance: float, angle: float) -> None:
    radians = math.radians(angle)
    place = [[distance * math.sin(radians), distance * math.cos(radians)]]
    np.testing.assert_allclose(trajectories.range_and_bearing(place), [[distance], [angle]], atol=1e-9)


def standing(camera: Camera, places: np.ndarray) -> np.ndarray:
    """Boxes 4 px wide and 8 px tall that stand at places (N, 2) right and ahead, m."""
    points = np.concatenate([places, np.zeros((len(places), 1))], 1)
    feet, _ = camera.project(points, np.zeros(3), 0.0, 64)
    return np.concatenate([feet - np.array([2, 8]), feet + np.array([2, 0])], 1)


def ground(camera: Camera, true: np.ndarray, found: np.ndarray, cap_m: float = 10) -> trajectories.GroundPlaneErrors:
    n = len(true)
    errors = dynamics.agent_errors([true], [np.arange(n)], [np.ones(n, dtype=bool)], [found], miss_cap_px=16)
    return trajectories.ground_plane_errors(errors, [row_of(camera)], 64, cap_m=cap_m)


@given(st.floats(4, 12), st.floats(-25, 25), st.floats(0.9, 1.1), st.floats(-5, 5))
@settings(deadline=None)
def test_an_agent_moved_on_the_ground_is_off_by_what_it_was_moved(
    distance: float, angle: float, farther: float, turn: float
) -> None:
    camera = Camera(50, 1.45, 0.03)

    def at(r: float, degrees: float) -> np.ndarray:
        return r * np.array([[math.sin(math.radians(degrees)), math.cos(math.radians(degrees))]])

    true, found = at(distance, angle), at(distance * farther, angle + turn)
    result = ground(camera, standing(camera, true), standing(camera, found))
    assert result.position_m[0] == pytest.approx(math.dist(true[0], found[0]), abs=1e-6)
    assert result.range_m[0] == pytest.approx(distance * (farther - 1), abs=1e-6)
    assert result.bearing_deg[0] == pytest.approx(turn, abs=1e-6)


def test_misses_and_the_sky_cost_the_cap_and_an_agent_in_the_air_has_no_place() -> None:
    camera = Camera(50, 1.45, 0.0)
    true = standing(camera, np.array([[0.0, 8]]))
    assert vars(ground(camera, true, true)) == {"position_m": [0], "range_m": [0], "bearing_deg": [0]}
    missed = ground(camera, true, true[:0])
    assert missed.position_m == [10] and np.isnan([missed.range_m, missed.bearing_deg]).all()
    risen = ground(camera, true, true - [0, 13, 0, 13])  # its foot above the horizon
    assert (risen.position_m, risen.range_m) == ([10], [10]) and risen.bearing_deg == pytest.approx(0)
    flying = ground(camera, true - [0, 13, 0, 13], true)
    assert np.isnan([flying.position_m, flying.range_m]).all() and flying.bearing_deg == pytest.approx(0)


def test_directions_on_either_side_of_straight_behind_are_close() -> None:
    camera, below = Camera(50, 1.45, 0.5), 350.0  # so far under the image that its rays go backwards
    box = np.array([[28.0, below - 8, 32, below]])  # 2 px to the left of the middle, found 2 px to the right
    result = ground(camera, box, box + np.array([4, 0, 4, 0]))
    left, right = trajectories.pixels_to_ground([[30, below], [34, below]], [row_of(camera)] * 2, 64)
    assert right[1] < 0
    assert -20 < result.bearing_deg[0] < 0
    assert result.position_m[0] == pytest.approx(math.dist(left, right), abs=1e-6)


# Motion


@given(SEEDS, st.floats(-2, 2), st.floats(-2, 2))
@settings(deadline=None)
def test_displacements_start_at_the_true_centres_of_the_last_context_frame(seed: int, dx: float, dy: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, ids, eligible = clip_of(rng, n_frames=6)
    here = rng.random(4) < 0.7  # agents that were there in the last context frame
    last_boxes, last_ids = boxes[0][here], ids[0][here]
    future: Clip = (boxes[1:], ids[1:], eligible[1:])
    found = [b + np.array([dx, dy, dx, dy]) for b in some_of(rng, future[0])]
    errors = errors_of(future, found)
    moved = trajectories.displacements(errors, last_boxes, last_ids)
    then = dict(zip(last_ids, centres(last_boxes), strict=True))
    kept = np.array([a in then for a in errors.agent], dtype=bool) & errors.matched
    assert moved.agent.tolist() == errors.agent[kept].tolist()
    assert moved.frame.tolist() == errors.frame[kept].tolist()
    for row, agent in enumerate(moved.agent):
        np.testing.assert_allclose(then[agent] + moved.true_px[row], centres(errors.true_boxes[kept])[row])
    np.testing.assert_allclose(np.linalg.norm(moved.predicted_px - moved.true_px, axis=1), errors.error_px[kept])


@given(SEEDS, st.floats(-2, 2), st.floats(-5, 5))
def test_the_slope_of_a_line_is_found_whatever_its_intercept(seed: int, slope: float, intercept: float) -> None:
    true = np.random.default_rng(seed).normal(0, 4, (20, 2))
    line = trajectories.displacement_slope(true, slope * true + intercept)
    assert line == (pytest.approx(slope), 40)


@given(SEEDS)
def test_the_slope_is_that_of_numpy_and_the_axes_are_alike(seed: int) -> None:
    true, predicted = np.random.default_rng(seed).normal(0, 4, (2, 20, 2))
    line = trajectories.displacement_slope(true, predicted)
    assert line.value == pytest.approx(np.polyfit(true.ravel(), predicted.ravel(), 1)[0], abs=1e-9)
    turned = trajectories.displacement_slope(true[:, ::-1], predicted[:, ::-1])
    assert turned.value == pytest.approx(line.value)


@given(SEEDS, st.floats(-1, 2))
def test_predictions_part_of_the_way_to_the_mean_are_pulled_by_that_part(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    true, field, vector = rng.normal(0, 4, (20, 2)), rng.normal(0, 4, (20, 2)), rng.normal(0, 4, 2)
    for mean in (field, np.tile(vector, (20, 1)), np.full((20, 2), 3.0)):
        pull = trajectories.pull_towards(true, true + share * (mean - true), mean)
        assert pull == (pytest.approx(share, abs=1e-9), 20)
    # towards one mean for both axes: the slope falls by the pull
    line = trajectories.displacement_slope(true, true + share * (3 - true))
    assert line.value == pytest.approx(1 - share, abs=1e-9)


def test_without_any_difference_there_is_neither_slope_nor_pull() -> None:
    for true in (np.zeros((0, 2)), np.ones((3, 2))):
        line = trajectories.displacement_slope(true, true)
        assert math.isnan(line.value) and line.n == true.size
        pull = trajectories.pull_towards(true, true, np.ones_like(true))
        assert math.isnan(pull.value) and pull.n == len(true)


@given(SEEDS, st.integers(1, 5))
@settings(deadline=None)
def test_constant_velocity_is_carried_on_exactly(seed: int, n_future: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, ids, _ = clip_of(rng, n_frames=3 + n_future)
    scores = rng.random((4, 1))
    context = [np.concatenate([b, scores], 1) for b in boxes[:3]]
    found = trajectories.constant_velocity(context, n_future, gate_px=CAP)
    assert [f.shape for f in found] == [(4, 5)] * n_future
    for t, frame in enumerate(found):
        np.testing.assert_allclose(frame[np.argsort(ids[2]), :4], boxes[3 + t][np.argsort(ids[3 + t])], atol=1e-9)
        np.testing.assert_array_equal(frame[:, 4:], scores)
    clip: Clip = (boxes[3:], ids[3:], [np.ones(4, dtype=bool)] * n_future)
    assert dynamics.accuracy(errors_of(clip, found)).ade_px.value == pytest.approx(0, abs=1e-9)


def test_a_box_that_was_not_there_before_stays_and_a_shrinking_one_does_not_turn_inside_out() -> None:
    before = np.array([[0.0, 0, 8, 8]])
    last = np.array([[1.0, 1, 7, 7], [40, 40, 50, 50]])
    found = trajectories.constant_velocity([before, last], 5, gate_px=CAP)
    assert found[0].tolist() == [[2, 2, 6, 6], [40, 40, 50, 50]]
    assert found[4].tolist() == [[4, 4, 4, 4], [40, 40, 50, 50]]
    assert [len(f) for f in trajectories.constant_velocity([before, []], 2, gate_px=CAP)] == [0, 0]
    still = trajectories.constant_velocity([[], last], 1, gate_px=CAP)
    assert still[0].tolist() == last.tolist()


# Everything of a clip


@given(SEEDS)
@settings(deadline=None)
def test_a_clip_measured_against_itself_is_perfect(seed: int) -> None:
    clip = clip_of(np.random.default_rng(seed))
    rows = trajectories.clip_measures(errors_of(clip, clip[0]), [[50, 1.45, 0.03]] * 5, 64, cap_m=10)
    assert {f"ade_px_frame_{t}" for t in range(1, 6)} < set(rows)
    for name, (value, n) in rows.items():
        assert math.isnan(value) == (n == 0)
        if n:
            assert value == pytest.approx(1 if name == "iou_matched" else 0, abs=1e-6)


def test_a_clip_without_agents_is_nan_throughout() -> None:
    none: Clip = ([np.zeros((0, 4))] * 2, [np.zeros(0, dtype=int)] * 2, [np.zeros(0, dtype=bool)] * 2)
    rows = trajectories.clip_measures(errors_of(none, none[0]), [[50, 1.45, 0.03]] * 2, 64, cap_m=10)
    assert all(math.isnan(value) and n == 0 for value, n in rows.values())


BOX = np.array([[0.0, 0, 8, 8]])
ONE = dynamics.agent_errors([BOX, BOX], [[0], [0]], [[True], [True]], [BOX, BOX], miss_cap_px=CAP)
CAMERA = [50.0, 1.45, 0.03]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trajectories.pixels_to_ground([[0, 0]], [CAMERA, CAMERA], 64), "cameras: 2 rows, but 1 points"),
        (lambda: trajectories.pixels_to_ground([[0, 0]], [[50, 1]], 64), r"cameras: shape \(1, 2\)"),
        (lambda: trajectories.pixels_to_ground([[0, 0]], [CAMERA], 0), "size_px: 0"),
        (lambda: trajectories.ground_plane_errors(ONE, [CAMERA], 64, cap_m=1), r"cameras.*expected \(2, 3\)"),
        (lambda: trajectories.ground_plane_errors(ONE, [CAMERA, [180.0, 1.0, 0.0]], 64, cap_m=1), r"cameras\[1\].*180"),
        (lambda: trajectories.ground_plane_errors(ONE, [[50, 1, math.nan], CAMERA], 64, cap_m=1), r"cameras\[0\]"),
        (lambda: trajectories.ground_plane_errors(ONE, [CAMERA] * 2, 64, cap_m=math.inf), "cap_m: inf"),
        (lambda: trajectories.displacements(ONE, BOX, [0, 1]), "last_agents: shape"),
        (lambda: trajectories.displacements(ONE, BOX[:, :3], [0]), "last_boxes: shape"),
        (lambda: trajectories.displacement_slope([[0, 1]], [[0, 1], [2, 3]]), r"predicted_px.*\(1, 2\)"),
        (lambda: trajectories.displacement_slope([[0, math.nan]], [[0, 1]]), "true_px: holds NaN"),
        (lambda: trajectories.pull_towards([[0, 1]], [[0, 1]], [1, 2, 3]), "mean_px: shape"),
        (lambda: trajectories.constant_velocity([BOX], 1, gate_px=1), "context: 1 frames"),
        (lambda: trajectories.constant_velocity([BOX, BOX[:, :3]], 1, gate_px=1), r"context\[1\]: shape"),
        (lambda: trajectories.constant_velocity([BOX, BOX], 0, gate_px=1), "n_future: 0"),
        (lambda: trajectories.constant_velocity([BOX, BOX], 1, gate_px=0), "gate_px: 0"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# How much of the true motion is predicted


def moved(clip: Clip, share: float, sideways_px: float = 0.0) -> list[np.ndarray]:
    """Detections of agents that went this share of their way since the first frame, and so far across it."""
    boxes, ids, _ = clip
    start = dict(zip(ids[0], centres(boxes[0]), strict=True))
    found = []
    for box, of in zip(boxes, ids, strict=True):
        way = centres(box) - np.array([start[agent] for agent in of])
        across = np.stack([-way[:, 1], way[:, 0]], 1)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
        found.append(box + np.tile((share - 1) * way + sideways_px * across, 2))
    return found


def share_of(clip: Clip, found: list[np.ndarray]) -> dynamics.Statistic:
    boxes, ids, eligible = (part[1:] for part in clip)
    errors = dynamics.agent_errors(boxes, ids, eligible, found[1:], miss_cap_px=19)  # no agent moves as far
    return trajectories.motion_share(*trajectories.motion_along_truth(errors, clip[0][0], clip[1][0]))


@given(SEEDS, st.floats(0, 1.3), st.floats(-1, 1))
@settings(deadline=None)
def test_the_motion_share_is_what_agents_moved_and_steps_aside_do_not_count(seed: int, share: float, aside: float) -> None:
    clip = clip_of(np.random.default_rng(seed))
    found = share_of(clip, moved(clip, share, aside))
    assert found.n == sum(e.sum() for e in clip[2][1:])
    if found.n:
        assert found.value == pytest.approx(share, abs=1e-9)


@given(SEEDS)
@settings(deadline=None)
def test_of_an_agent_that_is_missed_no_motion_is_predicted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = clip_of(rng)
    lost = [box[of != 7] for box, of in zip(clip[0], clip[1], strict=True)]
    start = dict(zip(clip[1][0], centres(clip[0][0]), strict=True))
    way = dict.fromkeys(start, 0.0)
    for boxes, of, counts in zip(*(part[1:] for part in clip), strict=True):
        for centre, agent in zip(centres(boxes)[counts], of[counts], strict=True):
            way[agent] += float(np.linalg.norm(centre - start[agent]))
    if sum(way.values()):
        assert share_of(clip, lost).value == pytest.approx(1 - way[7] / sum(way.values()), abs=1e-9)


def test_a_noisy_box_beside_an_agent_that_stands_still_weighs_nothing_and_going_back_is_below_zero() -> None:
    still, mover = np.array([0.0, 0, 8, 8]), np.array([40.0, 0, 48, 8])
    boxes = [np.stack([still, mover + 3 * t * np.array([1, 0, 1, 0])]) for t in range(3)]
    clip: Clip = boxes, [np.array([0, 1])] * 3, [np.array([True, True])] * 3
    noisy = [box + np.array([[2.0], [0.0]]) for box in boxes]
    assert share_of(clip, noisy).value == pytest.approx(1)
    assert share_of(clip, moved(clip, -0.5)).value == pytest.approx(-0.5)
    stands: Clip = [boxes[0]] * 3, clip[1], clip[2]
    assert math.isnan(share_of(stands, [boxes[0]] * 3).value)
