"""Properties of average precision and NTA-IoU."""

from __future__ import annotations

import math
import random as randomness
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from agents_in_frames import BOX, CAP, Frames, Scene, boxes_at, grid_clip, scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.data.boxes import iou
from replaylab.metrics import detection


def scored(boxes: np.ndarray, scores: Any) -> np.ndarray:
    return np.concatenate([boxes, np.asarray(scores, dtype=float).reshape(-1, 1)], 1)


Detections = tuple[Frames, Frames, Frames, list[list[int]]]


@st.composite
def detection_sets(draw: Callable[..., Any]) -> Detections:
    """Frames of agents far from each other; every box found is right or far from all of them. Scores may be equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_frames = draw(st.integers(1, 4))
    boxes, _, eligible = grid_clip(rng, n_frames=n_frames, n_agents=draw(st.integers(0, 4)))
    found, right = [], []
    for t in range(n_frames):
        seen = boxes[t][rng.random(len(boxes[t])) < 0.7]
        spurious = boxes_at(rng.uniform(500, 900, (rng.integers(0, 4), 2)))
        scores = rng.choice(np.arange(1, 10) / 10, len(seen) + len(spurious))
        found.append(scored(np.concatenate([seen, spurious]), scores))
        right.append([1] * len(seen) + [0] * len(spurious))
    return boxes, eligible, found, right


@given(detection_sets())
@settings(max_examples=150, deadline=None)
def test_average_precision_is_the_mean_over_agents_of_the_best_precision_that_reaches_them(frames: Detections) -> None:
    boxes, eligible, found, right = frames
    n = sum(len(b) for b in boxes)
    value, count = detection.average_precision(boxes, eligible, found, min_iou=0.5)
    assert count == n
    if n == 0:
        assert math.isnan(value)
        return
    scores, hits = np.concatenate([f[:, 4] for f in found]), np.concatenate(right)
    points = [(hits[scores >= s].sum(), hits[scores >= s].mean()) for s in np.unique(scores)]
    expected = sum(max((p for r, p in points if r >= i), default=0) for i in range(1, n + 1)) / n
    assert value == pytest.approx(expected)


@given(detection_sets(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_average_precision_looks_at_the_order_of_scores_and_not_of_frames(
    frames: Detections, random: randomness.Random
) -> None:
    boxes, eligible, found, _ = frames
    order = list(range(len(boxes)))
    random.shuffle(order)
    mapped = [scored(f[:, :4], f[:, 4] ** 3 - 7) for f in found]
    a = detection.average_precision(boxes, eligible, found, min_iou=0.5)
    b = detection.average_precision(
        [boxes[t] for t in order], [eligible[t] for t in order], [mapped[t] for t in order], min_iou=0.5
    )
    np.testing.assert_allclose(a, b)


@given(detection_sets())
@settings(max_examples=100, deadline=None)
def test_average_precision_is_1_of_the_truth_and_a_second_box_for_an_agent_is_wrong(frames: Detections) -> None:
    boxes, eligible, _, _ = frames
    if sum(len(b) for b in boxes):
        perfect = [scored(b, np.full(len(b), 0.5)) for b in boxes]
        assert detection.average_precision(boxes, eligible, perfect, min_iou=0.5).value == 1
        twice = [np.concatenate([b, b]) for b in perfect]
        assert detection.average_precision(boxes, eligible, twice, min_iou=0.5).value == 0.5
        none = [np.zeros((0, 5))] * len(boxes)
        assert detection.average_precision(boxes, eligible, none, min_iou=0.5).value == 0


def test_average_precision_meets_its_thresholds() -> None:
    truth, counts = np.array([[0.0, 0, 10, 10]]), np.array([True])

    def found(*box: float) -> list[np.ndarray]:
        return [np.array([[*box, 0.9]])]

    by_iou = detection.average_precision([truth], [counts], found(0, 0, 10, 5), min_iou=0.5)
    assert by_iou.value == 1  # half of it: an IoU of exactly 0.5 is enough, as in COCO
    assert detection.average_precision([truth], [counts], found(0, 0, 10, 4.9), min_iou=0.5).value == 0


def test_a_better_scored_box_takes_its_best_agent_and_an_ignored_agent_takes_one_for_nothing() -> None:
    truth = boxes_at([[0, 0], [3, 0], [50, 0]])
    counts = np.array([True, True, False])
    # The first could take either agent and takes the nearer: the second reaches the other only.
    found = scored(boxes_at([[2.5, 0], [-1, 0], [50, 0]]), [0.9, 0.8, 0.95])
    assert detection.average_precision([truth], [counts], [found], min_iou=0.5) == (1, 2)
    more = np.concatenate([found, scored(boxes_at([[50, 0]]), [0.99])])
    assert detection.average_precision([truth], [counts], [more], min_iou=0.5).value == pytest.approx(2 / 3)
    cut_off = np.concatenate([truth[:2], [[-80.0, 100, 10, 160]]])  # an ignored bus, found where it can be seen
    part = scored(np.array([[0.0, 105, 10, 155]]), [0.99])
    perfect = np.concatenate([part, scored(truth[:2], [0.9, 0.8])])
    assert detection.average_precision([cut_off], [counts], [perfect], min_iou=0.5) == (1, 2)


@given(scenes())
@settings(max_examples=150, deadline=None)
def test_nta_iou_is_the_overlap_with_the_nearest_box_and_0_without_one(scene: Scene) -> None:
    truth, eligible, found = scene
    gate = 4.0  # boxes that are further apart may still overlap
    value, n = detection.nta_iou([boxes_at(truth)], [eligible], [boxes_at(found)], gate_px=gate)
    overlaps = []
    for agent in truth[eligible]:
        distance, box = min(((math.dist(agent, f), i) for i, f in enumerate(found)), default=(gate, -1))
        near = distance < gate
        overlaps.append(iou(boxes_at(agent), boxes_at(found[box]))[0] if near else 0.0)
    assert n == len(overlaps)
    assert math.isnan(value) if n == 0 else value == pytest.approx(np.mean(overlaps))


def test_nta_iou_is_1_of_the_truth_and_ignores_false_positives() -> None:
    boxes, _, eligible = grid_clip(np.random.default_rng(4))
    more = [np.concatenate([b, boxes_at([[500, 500]])]) for b in boxes]
    assert detection.nta_iou(boxes, eligible, more, gate_px=CAP) == (pytest.approx(1), 15)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"detections": [scored(BOX, [1]), BOX]}, ValueError, r"detections\[1\].*expected \(K, 5\)"),
        ({"detections": [scored(BOX, [np.nan])] * 2}, ValueError, r"detections\[0\].*score that is NaN"),
        ({"detections": []}, ValueError, "detections: 0 frames"),
        ({"eligible": [[True], [1]]}, TypeError, r"eligible\[1\]"),
        ({"true_boxes": [BOX, BOX * np.nan]}, ValueError, r"true_boxes\[1\]: holds NaN"),
        ({"min_iou": 0}, ValueError, "min_iou: 0"),
        ({"min_iou": 1.1}, ValueError, "min_iou: 1.1"),
    ],
)
def test_bad_arguments_of_average_precision_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "true_boxes": [BOX, BOX], "eligible": [[True], [True]], "detections": [scored(BOX, [1])] * 2, "min_iou": 0.5,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        detection.average_precision(**(arguments | change))
