"""The mean motion that predictions are compared with, from made-up truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.evaluation.evaluation_sets import CELLS, MeanMotion, prepare_sets
from replaylab.spec import EvaluationSpec, WorldSpec

SIZE = 64


def clip(starts: dict[int, tuple[float, float]], px_a_frame: dict[int, tuple[float, float]]) -> list[pd.DataFrame]:
    """Truth of one clip: agents at a place in the last context frame, moving evenly."""
    tables = []
    for frame in range(CLIP_FRAMES):
        rows = []
        for agent, (x, y) in starts.items():
            dx, dy = px_a_frame[agent]
            cx, cy = x + dx * (frame - CONTEXT_FRAMES + 1), y + dy * (frame - CONTEXT_FRAMES + 1)
            rows.append({"agent": agent, "x0": cx - 4, "y0": cy - 3, "x1": cx + 4, "y1": cy + 3, "eligible": True})
        tables.append(pd.DataFrame(rows))
    return tables


def test_agents_of_one_cell_have_its_mean_motion_and_those_of_an_empty_one_everybodys():
    truth = [clip({1: (8, 8), 2: (40, 40)}, {1: (1, 0), 2: (0, 2)}), clip({7: (9, 12)}, {7: (3, 0)})]
    mean = MeanMotion.measured(truth, SIZE)
    frames = np.arange(CLIP_FRAMES - CONTEXT_FRAMES)
    for place, step in (((8.0, 8.0), (2, 0)), ((45.0, 42.0), (0, 2)), ((60.0, 60.0), (4 / 3, 2 / 3))):
        found = mean.of(frames, np.tile(place, (len(frames), 1)))
        np.testing.assert_allclose(found, np.outer(frames + 1, step))
    assert mean.field_px.shape == (len(frames), CELLS, CELLS, 2)


def test_who_comes_later_or_does_not_count_has_no_part_in_it():
    truth = clip({1: (8, 8), 2: (9, 9)}, {1: (1, 0), 2: (5, 5)})
    for table in truth:
        table.loc[table["agent"] == 2, "eligible"] = False
    for table in truth[:CONTEXT_FRAMES]:
        table.loc[table["agent"] == 1, "agent"] = 5
    with pytest.raises(ValueError, match="no eligible agent is there from the last context frame on"):
        MeanMotion.measured([truth], SIZE)


def test_a_split_with_too_few_scenes_is_refused_by_its_folder(tmp_path):
    world = WorldSpec("tiny", "traffic", "target", "ordinary", (0, 3, 0))
    with pytest.raises(ValueError, match=r"tiny-.*: split 'dev' has 3 scenes, but 2 clips to continue and 2 reference"):
        prepare_sets(EvaluationSpec((world,), "dev", 2, 2), tmp_path)
