"""Properties of the background's motion: textures whose motion is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_textures import CAP, NOBODY, SIZE, is_repeatable_on_two_threads, sliding, square

from replaylab.data.boxes import centres
from replaylab.metrics import dynamics, optical_flow

SEEDS = st.integers(0, 2**32 - 1)


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


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
@settings(deadline=None, max_examples=40)
def test_the_median_residual_is_numpys_to_the_bit(values: list[float]) -> None:
    assert optical_flow._median(np.array(values)) == np.median(values)


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


def test_bad_input_is_refused_by_name() -> None:
    frames, _ = square((30.0, 34.0), (1.0, 0.0))
    field = optical_flow.flow(frames)
    mask = optical_flow.background(frames, NOBODY)
    bad = np.array([[np.nan, 0, 1, 1]])
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: optical_flow.flow(frames[:1]), ValueError, "frames: one frame"),
        (lambda: optical_flow.flow(frames[..., 0]), ValueError, r"frames: uint8 \(6, 64, 64\)"),
        (lambda: optical_flow.flow(frames / 255), ValueError, "frames: float64"),
        (lambda: optical_flow.background(frames, [[]] * 5), ValueError, "boxes: 5 frames"),
        (lambda: optical_flow.background(frames, [bad] * 6), ValueError, r"boxes\[0\]: holds NaN"),
        (lambda: optical_flow.background_flow_error_px(field[1:], field, mask), ValueError, "generated: shape"),
        (lambda: optical_flow.background_flow_error_px(field, field, mask[1:]), ValueError, "mask: shape"),
        (lambda: optical_flow.background_flow_error_px(field, field * np.nan, mask), ValueError, "truth: holds NaN"),
        (lambda: optical_flow.dominant_motion(field, mask.astype(float)), TypeError, "mask: float64"),
        (lambda: optical_flow.displacements_of(np.zeros((5, 3, 2)), [[1, 1]]), ValueError, "motion: shape"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_threads_are_put_back_and_the_same_clip_gives_the_same_numbers() -> None:
    frames, _ = square((30.0, 34.0), (1.0, 0.5), shift=1)
    is_repeatable_on_two_threads(lambda: optical_flow.flow(frames.copy()))
