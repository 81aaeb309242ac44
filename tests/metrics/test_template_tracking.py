"""Properties of the second tracker: squares whose motion is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from moving_textures import CAP, is_repeatable_on_two_threads, mirrored, sliding, square

from replaylab.data.boxes import centres
from replaylab.metrics import dynamics, template_tracking


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


def test_bad_input_is_refused_by_name() -> None:
    frames, boxes = square((30.0, 34.0), (1.0, 0.0))
    bad = np.array([[np.nan, 0, 1, 1]])
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: template_tracking.track_templates(frames, bad), ValueError, "boxes: holds NaN"),
        (lambda: tracked(boxes[1:, 0], boxes[1:]), ValueError, "tracks: shape"),
        (lambda: tracked(boxes[2:], boxes[1:]), ValueError, "tracks: shape"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_threads_are_put_back_and_the_same_clip_gives_the_same_numbers() -> None:
    frames, boxes = square((30.0, 34.0), (1.0, 0.5), shift=1)
    is_repeatable_on_two_threads(lambda: template_tracking.track_templates(frames, boxes[0]))
