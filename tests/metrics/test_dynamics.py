"""Properties of the agents' errors: what holds for any boxes, and a reference that tries every matching."""

from __future__ import annotations

import itertools
import math
import random as randomness
from typing import Any

import numpy as np
import pytest
from agents_in_frames import BOX, CAP, Scene, boxes_at, grid_clip, scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.data.boxes import centres, iou, is_eligible
from replaylab.metrics import dynamics


def accuracy_of(*arguments: Any, **named: Any) -> dynamics.ClipAccuracy:
    return dynamics.accuracy(dynamics.agent_errors(*arguments, **named))


def measure(truth: Any, eligible: np.ndarray, found: Any) -> dynamics.ClipAccuracy:
    return accuracy_of([boxes_at(truth)], [np.arange(len(truth))], [eligible], [boxes_at(found)], miss_cap_px=CAP)


def lowest_cost(truth: np.ndarray, found: np.ndarray, cap: float) -> float:
    """Every way to give each true agent a different found box or none; the lowest summed cost."""
    best = math.inf
    options: list[int | None] = [*range(len(found)), *[None] * len(truth)]
    for choice in set(itertools.permutations(options, len(truth))):
        cost = 0.0
        for agent, box in enumerate(choice):
            cost += cap if box is None else min(cap, float(np.linalg.norm(truth[agent] - found[box])))
        best = min(best, cost)
    return best


def test_perfect_detections_have_no_error() -> None:
    boxes, agents, eligible = grid_clip(np.random.default_rng(0))
    result = accuracy_of(boxes, agents, eligible, boxes, miss_cap_px=CAP)
    assert (result.ade_px.value, result.fde_px.value, result.ade_matched_px.value) == (0, 0, 0)
    assert (result.recall.value, result.false_positives.value) == (1, 0)
    assert (result.ade_px.n, result.fde_px.n, result.ade_matched_px.n, result.false_positives.n) == (15, 3, 15, 5)


@given(distance=st.floats(0, 9.9), angle=st.floats(0, 6.3), seed=st.integers(0, 1000))
def test_shifting_every_box_by_d_gives_an_error_of_d(distance: float, angle: float, seed: int) -> None:
    boxes, agents, eligible = grid_clip(np.random.default_rng(seed))
    shift = distance * np.array([math.cos(angle), math.sin(angle)] * 2)
    result = accuracy_of(boxes, agents, eligible, [b + shift for b in boxes], miss_cap_px=CAP)
    assert result.ade_px.value == pytest.approx(distance, abs=1e-9)
    assert result.fde_px.value == pytest.approx(distance, abs=1e-9)
    assert result.ade_matched_px.value == pytest.approx(distance, abs=1e-9)
    assert (result.recall.value, result.false_positives.value) == (1, 0)


def test_the_last_frame_alone_makes_fde() -> None:
    boxes, agents, eligible = grid_clip(np.random.default_rng(1))
    found = [b + 2.0 * t for t, b in enumerate(boxes[:4])] + [boxes[4] + np.array([3, 4, 3, 4])]
    result = accuracy_of(boxes, agents, eligible, found, miss_cap_px=100)
    assert result.fde_px.value == pytest.approx(5)
    assert result.ade_px.value == pytest.approx(np.mean([0, 2 * math.sqrt(2), 4 * math.sqrt(2), 6 * math.sqrt(2), 5]))


@pytest.mark.parametrize("far", [CAP, CAP + 0.1, 1000.0])
def test_a_box_at_the_cap_or_beyond_is_a_miss_and_a_false_positive(far: float) -> None:
    result = measure([[0, 0]], np.array([True]), [[far, 0]])
    assert (result.ade_px.value, result.recall.value, result.false_positives.value) == (CAP, 0, 1)
    assert math.isnan(result.ade_matched_px.value) and result.ade_matched_px.n == 0


def test_an_agent_lost_in_all_frames_costs_the_cap_and_is_not_in_the_matched_error() -> None:
    boxes, agents, eligible = grid_clip(np.random.default_rng(2))
    result = accuracy_of(boxes, agents, eligible, [b[1:] for b in boxes], miss_cap_px=CAP)
    assert result.ade_px.value == pytest.approx(CAP / 3)
    assert result.ade_matched_px.value == 0
    assert result.recall.value == pytest.approx(2 / 3)


@given(scenes())
@settings(max_examples=200, deadline=None)
def test_agrees_with_trying_every_matching(scene: Scene) -> None:
    truth, eligible, found = scene
    result = measure(truth, eligible, found)
    assert result.ade_px.n == eligible.sum()
    if result.ade_px.n:
        assert result.ade_px.value * result.ade_px.n == pytest.approx(lowest_cost(truth[eligible], found, CAP))
        parts = result.ade_matched_px.n * (result.ade_matched_px.value if result.ade_matched_px.n else 0) + CAP * (
            result.ade_px.n - result.ade_matched_px.n
        )
        assert parts == pytest.approx(result.ade_px.value * result.ade_px.n)
        assert result.recall.value == pytest.approx(result.ade_matched_px.n / result.ade_px.n)


@given(scenes())
@settings(max_examples=200, deadline=None)
def test_a_detection_taken_away_never_lowers_the_error(scene: Scene) -> None:
    truth, eligible, found = scene
    whole = measure(truth, eligible, found)
    for i in range(len(found)):
        less = measure(truth, eligible, np.delete(found, i, axis=0))
        assert whole.ade_px.n == less.ade_px.n
        if whole.ade_px.n:
            assert less.ade_px.value >= whole.ade_px.value - 1e-12


@given(scenes(), st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_order_of_agents_and_detections_does_not_matter(scene: Scene, random: randomness.Random) -> None:
    truth, eligible, found = scene
    order, rows = list(range(len(found))), list(range(len(truth)))
    random.shuffle(order)
    random.shuffle(rows)
    a, b = measure(truth, eligible, found), measure(truth[rows], eligible[rows], found[order])
    np.testing.assert_allclose(
        [a.ade_px.value, a.fde_px.value, a.ade_matched_px.value, a.recall.value, a.false_positives.value],
        [b.ade_px.value, b.fde_px.value, b.ade_matched_px.value, b.recall.value, b.false_positives.value],
    )


@given(scenes())
@settings(max_examples=200, deadline=None)
def test_every_detection_is_a_match_absorbed_or_a_false_positive(scene: Scene) -> None:
    truth, eligible, found = scene
    result = measure(truth, eligible, found)
    left = len(found) - result.ade_matched_px.n
    assert 0 <= result.false_positives.value <= left
    assert result.false_positives.value >= left - (~eligible).sum()


def test_an_ignored_agent_absorbs_one_detection_without_reward_or_penalty() -> None:
    truth, eligible = [[0, 0], [50, 0]], np.array([True, False])
    without, one, two = (measure(truth, eligible, [[1, 0]] + [[50, 0]] * extra) for extra in (0, 1, 2))
    assert without == one
    assert (two.ade_px.value, two.recall.value, two.false_positives.value) == (1, 1, 1)


def test_an_ignored_agent_cut_off_by_the_edge_absorbs_a_detection_of_its_visible_part() -> None:
    bus, visible_part, elsewhere = [[-80.0, 0, 10, 60]], [[0.0, 5, 10, 55]], [[12.0, 5, 22, 55]]
    assert dynamics.ignored_detections(bus, visible_part, CAP) == 1
    assert dynamics.ignored_detections(bus, elsewhere, CAP) == 0
    assert dynamics.ignored_detections(bus, visible_part + visible_part, CAP) == 1
    assert dynamics.ignored_detections([], visible_part, CAP) == dynamics.ignored_detections(bus, [], CAP) == 0


def test_two_ignored_agents_absorb_two_detections_even_where_the_nearer_choice_would_leave_one() -> None:
    ignored = boxes_at([[0, 0], [9, 0]])
    # Both agents could take the detection at 4.5, only the second the one at 18.5.
    assert dynamics.ignored_detections(ignored, boxes_at([[4.5, 0], [18.5, 0]]), CAP) == 2


def test_an_agent_counts_in_the_frames_where_it_is_eligible() -> None:
    boxes, agents, _ = grid_clip(np.random.default_rng(3), n_frames=2, n_agents=2)
    eligible = [np.array([True, False]), np.array([False, False])]
    errors = dynamics.agent_errors(boxes, agents, eligible, [b + 1 for b in boxes], miss_cap_px=CAP)
    assert (errors.frame.tolist(), errors.agent.tolist(), errors.matched.tolist()) == ([0], [0], [True])
    result = accuracy_of(boxes, agents, eligible, boxes, miss_cap_px=CAP)
    assert (result.ade_px.value, result.ade_px.n, result.fde_px.n) == (0, 1, 0)
    assert math.isnan(result.fde_px.value)


def test_a_clip_without_eligible_agents_has_no_error_rather_than_zero() -> None:
    result = measure(np.zeros((0, 2)), np.zeros(0, dtype=bool), [[5, 5]])
    assert all(
        math.isnan(v) for v in (result.ade_px.value, result.fde_px.value, result.ade_matched_px.value, result.recall.value)
    )
    assert (result.ade_px.n, result.fde_px.n, result.ade_matched_px.n, result.false_positives.value) == (0, 0, 0, 1)


def test_eligible_means_tall_and_visible_enough() -> None:
    boxes: list[list[float]] = [[0, 0, 2, 6], [0, 0, 20, 5.9], [0, 0, 20, 20], [0, 0, 20, 20]]
    assert is_eligible(boxes, [1, 1, 0.5, 0.49]).tolist() == [True, False, True, False]
    doubled = 2 * np.asarray(boxes)
    assert is_eligible(doubled, [1, 1, 0.5, 0.49], size_px=128).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="visible"):
        is_eligible(boxes, [1, 1, 1, 1.2])
    with pytest.raises(ValueError, match="visible"):
        is_eligible(boxes, [1, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"true_boxes": [BOX, BOX[:, :3]]}, ValueError, r"true_boxes\[1\]: shape \(1, 3\)"),
        ({"true_boxes": [BOX, BOX * np.nan]}, ValueError, r"true_boxes\[1\]: holds NaN"),
        ({"true_boxes": [BOX[:, [2, 1, 0, 3]], BOX]}, ValueError, r"true_boxes\[0\].*x1 < x0"),
        ({"true_boxes": []}, ValueError, "true_boxes: no frames"),
        ({"detections": [BOX, np.full((1, 5), np.inf)]}, ValueError, r"detections\[1\]: holds NaN"),
        ({"detections": [np.zeros(4), BOX]}, ValueError, r"detections\[0\]: shape \(4,\)"),
        ({"detections": [BOX]}, ValueError, "detections: 1 frames"),
        ({"agents": [[0], [0, 1]]}, ValueError, r"agents\[1\]: shape"),
        ({"agents": [[0], [0.5]]}, TypeError, r"agents\[1\].*integer"),
        ({"eligible": [[True], [1]]}, TypeError, r"eligible\[1\].*True or False"),
        ({"eligible": [[True], [True, False]]}, ValueError, r"eligible\[1\]: shape"),
        ({"miss_cap_px": 0}, ValueError, "miss_cap_px"),
        ({"miss_cap_px": float("nan")}, ValueError, "miss_cap_px"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "true_boxes": [BOX, BOX],
        "agents": [[0], [0]],
        "eligible": [[True], [True]],
        "detections": [BOX, BOX],
    }
    with pytest.raises(error, match=message):
        accuracy_of(**({"miss_cap_px": CAP} | arguments | change))


def test_an_agent_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agents\[0\].*twice"):
        accuracy_of([np.concatenate([BOX, BOX])], [[3, 3]], [[True, True]], [BOX], miss_cap_px=CAP)


@given(scenes())
@settings(max_examples=100, deadline=None)
def test_the_errors_carry_the_boxes_they_come_from(scene: Scene) -> None:
    truth, eligible, found = scene
    errors = dynamics.agent_errors(
        [boxes_at(truth)], [np.arange(len(truth))], [eligible], [boxes_at(found)], miss_cap_px=CAP
    )
    np.testing.assert_array_equal(errors.true_boxes, boxes_at(truth)[eligible])
    assert np.isnan(errors.detected_boxes).all(1).tolist() == (~errors.matched).tolist()
    hit = errors.matched
    distance = np.linalg.norm(centres(errors.true_boxes[hit]) - centres(errors.detected_boxes[hit]), axis=1)
    np.testing.assert_allclose(distance, errors.error_px[hit])
    np.testing.assert_equal(dynamics.accuracy(errors), measure(truth, eligible, found))


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    corner = rng.uniform(0, 30, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 25, (n, 2))], 1)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), shift=st.floats(-50, 50))
def test_iou_is_symmetric_bounded_and_blind_to_scale_and_place(seed: int, scale: float, shift: float) -> None:
    a, b = (random_boxes(np.random.default_rng(seed + i), 5) for i in (0, 1))
    value = iou(a, b)
    assert ((value >= 0) & (value <= 1)).all()
    np.testing.assert_allclose(iou(b, a), value)
    np.testing.assert_allclose(iou(a, a), 1)
    np.testing.assert_allclose(iou(a * scale + shift, b * scale + shift), value, atol=1e-9)


def test_iou_counts_the_cells_of_boxes_on_a_grid() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (40, 2, 2, 2)), axis=2)  # pair, box, low and high, axis
    for first, second in corners:
        masks = np.zeros((2, 12, 12), dtype=bool)
        for mask, ((x0, y0), (x1, y1)) in zip(masks, (first, second), strict=True):
            mask[x0:x1, y0:y1] = True
        union = (masks[0] | masks[1]).sum()
        expected = (masks[0] & masks[1]).sum() / union if union else 0
        assert iou([first.ravel()], [second.ravel()])[0] == pytest.approx(expected)


def test_pairs_of_boxes_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="second: 2 boxes"):
        iou(BOX, np.concatenate([BOX, BOX]))
