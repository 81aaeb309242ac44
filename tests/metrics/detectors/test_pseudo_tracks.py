"""Properties of pseudo-tracks: detections whose agents are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detectors import WIDTH, fixed, some_frames

from replaylab.data.boxes import MIN_HEIGHT_PX
from replaylab.data.domain import TRACK_COLUMNS
from replaylab.metrics import dynamics
from replaylab.metrics.detectors.pretrained import Detections
from replaylab.metrics.detectors.pseudo_tracks import pseudo_tracks, tracks_of

SIDE = 120  # px
STARTS = [(20.0, 20.0), (60.0, 60.0), (100.0, 100.0)]


def seen_at(centres: list[tuple[float, float]], kinds: list[str] | None = None, half: float = 8.0) -> Detections:
    boxes = np.array([[x - half, y - half, x + half, y + half, 0.9] for x, y in centres], np.float32)
    return Detections(boxes.reshape(-1, 5), kinds or ["car"] * len(centres))


def moving(rng: np.random.Generator, frames: int) -> tuple[list[Detections], list[np.ndarray]]:
    """Agents well apart that move by up to 3 px a frame, in any order; and which of them each row is."""
    velocity = rng.uniform(-3, 3, (len(STARTS), 2))
    orders = [rng.permutation(len(STARTS)) for _ in range(frames)]
    places = [np.array(STARTS) + t * velocity for t in range(frames)]
    return [seen_at([tuple(at[i]) for i in order]) for at, order in zip(places, orders, strict=True)], orders


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=25)
def test_an_agent_keeps_its_number_and_agrees_with_itself(seed: int, n: int) -> None:
    found, orders = moving(np.random.default_rng(seed), n)
    tables = tracks_of(found, SIDE, SIDE)
    assert len(tables) == n and all(list(table) == list(TRACK_COLUMNS) for table in tables)
    names = []
    for table, seen, order in zip(tables, found, orders, strict=True):
        assert table["eligible"].all() and np.isnan(table["x_m"]).all()
        boxes = table[["x0", "y0", "x1", "y1"]].to_numpy()
        rows, columns, apart = dynamics.match(boxes, seen.boxes, 1.0)
        assert len(rows) == len(STARTS) and not apart.any()
        agents = table["agent"].to_numpy()
        names.append({int(order[c]): int(agents[r]) for r, c in zip(rows, columns, strict=True)})
    assert all(name == names[0] for name in names)
    errors = dynamics.agent_errors(
        [table[["x0", "y0", "x1", "y1"]].to_numpy() for table in tables],
        [table["agent"].to_numpy() for table in tables],
        [table["eligible"].to_numpy() for table in tables],
        [seen.boxes for seen in found],
        miss_cap_px=20.0,
    )
    accuracy = dynamics.accuracy(errors)
    assert (accuracy.ade_px.value, accuracy.recall.value, accuracy.false_positives.value) == (0.0, 1.0, 0.0)


def test_agents_that_pass_each_other_keep_their_numbers() -> None:
    found = [seen_at([(20.0 + 10 * t, 50.0), (100.0 - 10 * t, 54.0)]) for t in range(9)]
    tables = tracks_of(found, SIDE, SIDE)
    assert all(table["agent"].tolist() == [0, 1] for table in tables)
    assert tables[-1]["x0"].tolist() == [92.0, 12.0]


def test_a_frame_in_which_an_agent_is_missed_counts_for_nothing() -> None:
    found = [seen_at([(20.0 + 4 * t, 50.0)] if t != 2 else []) for t in range(5)]
    tables = tracks_of(found, SIDE, SIDE)
    assert [table["agent"].tolist() for table in tables] == [[0]] * 5
    assert [table["eligible"].tolist() for table in tables] == [[True], [True], [False], [True], [True]]
    assert tables[2][["x0", "y0", "x1", "y1", "visible"]].to_numpy().tolist() == [[20.0, 42.0, 36.0, 58.0, 0.0]]
    gone = tracks_of([seen_at([(20.0, 50.0)] if t not in (2, 3) else []) for t in range(6)], SIDE, SIDE)
    assert [table["agent"].tolist() for table in gone] == [[0], [0], [], [], [1], [1]]


def test_what_is_seen_once_is_small_or_beyond_the_edge_does_not_count() -> None:
    once = [seen_at([(20.0, 50.0)] + [(90.0, 90.0)] * (t == 1)) for t in range(4)]
    assert [table["eligible"].tolist() for table in tracks_of(once, SIDE, SIDE)] == [
        [True], [True, False], [True], [True],
    ]  # fmt: skip
    small = MIN_HEIGHT_PX * SIDE / 64 / 2
    for half, counts in ((small * 0.9, False), (small * 1.1, True)):
        tables = tracks_of([seen_at([(60.0, 60.0)], half=half)] * 3, SIDE, SIDE)
        assert tables[0]["eligible"].tolist() == [counts]
    tables = tracks_of([seen_at([(-4.0, 60.0)])] * 3, SIDE, SIDE)
    assert tables[0]["visible"].tolist() == [0.25] and tables[0]["eligible"].tolist() == [False]


def test_the_kind_is_what_most_frames_say_and_nothing_makes_empty_tables() -> None:
    found = [seen_at([(60.0, 60.0)], [kind]) for kind in ("truck", "car", "truck")]
    assert {kind for table in tracks_of(found, SIDE, SIDE) for kind in table["kind"]} == {"truck"}
    for table in tracks_of([seen_at([])] * 2, SIDE, SIDE):
        assert table.empty and list(table) == list(TRACK_COLUMNS) and table["eligible"].dtype == bool
    assert tracks_of([], SIDE, SIDE) == []


def test_pseudo_tracks_are_those_of_what_is_found() -> None:
    detector = fixed([[3.0, -9.0, -9.0]], [[0.5, 0.5, 0.2, 0.5]])
    tables = pseudo_tracks(some_frames(4), detector)
    assert [table["agent"].tolist() for table in tables] == [[0]] * 4
    assert {table["kind"].item() for table in tables} == {"car"}
    assert tables[0][["x0", "x1"]].to_numpy().tolist()[0] == pytest.approx([0.4 * WIDTH, 0.6 * WIDTH], abs=1e-3)
