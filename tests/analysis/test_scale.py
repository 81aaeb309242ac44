"""What a base knew beside what it lost: the line, where it crosses 0, and the interval of that place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from replaylab.analysis import scale

SCENES = [f"scene {number}" for number in range(20)]


def rows_of(bases: dict[str, tuple[float, float]], copied: float = 8.0, lost: tuple[str, ...] = ()) -> pd.DataFrame:
    """base -> its error, and by how much fine-tuning changes it; scenes differ, all models alike. lost: scenes that the
    runs have no value of.
    """
    of_scene = np.random.default_rng(0).normal(0, 1, len(SCENES))
    models = [("copy-last-frame", "", "", copied, -1)]
    for base, (error, change) in bases.items():
        models += [("base", base, f"references {base}", error, 0)]
        models += [
            ("fine-tuned", base, f"run {base}", error + share * change, step) for step, share in ((10, 0.3), (300, 1.0))
        ]
    return pd.DataFrame(
        [
            {"run": run, "base": base, "model": model, "target": "driving", "replay": "", "replay_fraction": 0.0, "seed": 0,
             "step": step, "domain": "driving", "measure": "ade_px", "scene": scene,
             "value": np.nan if model == "fine-tuned" and scene in lost else value + luck}
            for model, base, run, value, step in models for scene, luck in zip(SCENES, of_scene, strict=True)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("lost", [(), ("scene 3", "scene 7")])
def test_a_point_is_the_share_of_the_way_and_the_change_on_the_same_clips(lost: tuple[str, ...]) -> None:
    rows = rows_of({"poor": (7.0, -0.5), "good": (2.0, 1.5)}, lost=lost)
    found = scale.points(rows, "ade_px", "driving").set_index("base")
    assert found["change"].to_dict() == pytest.approx({"poor": -0.5, "good": 1.5})
    copied = rows[(rows["model"] == "copy-last-frame") & ~rows["scene"].isin(lost)]["value"].mean()
    assert found.loc["good", "skill"] == pytest.approx(6 / copied) and found.loc["poor", "skill"] == pytest.approx(
        1 / copied
    )
    assert set(found["scenes"]) == {len(SCENES) - len(lost)}


def test_copying_is_no_skill_and_real_clips_are_all_of_it() -> None:
    assert scale.skill(8.0, 8.0, 2.0) == 0 and scale.skill(2.0, 8.0, 2.0) == 1 and np.isnan(scale.skill(1.0, 2.0, 2.0))


def test_the_line_is_the_one_that_scipy_fits() -> None:
    random = np.random.default_rng(1)
    x, y = random.uniform(0, 1, 12), random.normal(0, 1, 12)
    ours, theirs = scale.line(x, y), stats.linregress(x, y)
    assert (ours.slope, ours.intercept) == pytest.approx((theirs.slope, theirs.intercept))
    half = stats.t.ppf(0.975, 10) * theirs.stderr
    assert (ours.rise.low, ours.rise.high) == pytest.approx((theirs.slope - half, theirs.slope + half))
    at_zero = stats.t.ppf(0.975, 10) * theirs.intercept_stderr
    assert ours.at(0.0).high == pytest.approx(theirs.intercept + at_zero)


@pytest.mark.parametrize(("slope", "scatter"), [(4.0, 0.3), (0.8, 0.3), (0.1, 0.5)])
def test_the_places_where_it_may_cross_hold_the_true_one_as_often_as_said(slope: float, scatter: float) -> None:
    random, x, held, trials = np.random.default_rng(2), np.linspace(0.1, 0.9, 10), 0, 2000
    for _ in range(trials):
        y = slope * (x - 0.6) + random.normal(0, scatter, len(x))
        _, places = scale.line(x, y).crossing()
        held += any(low <= 0.6 <= high for low, high in places)
    assert abs(held / trials - scale.LEVEL) < 4 * np.sqrt(scale.LEVEL * (1 - scale.LEVEL) / trials)


def test_where_the_line_is_told_from_a_level_one_the_place_has_two_ends_about_it_and_else_not() -> None:
    x, jitter = np.linspace(0, 1, 8), 0.05 * np.array([1, -1, 1, -1, -1, 1, -1, 1])
    place, ((low, high),) = scale.line(x, 2 * (x - 0.4) + jitter).crossing()
    assert low < place < high and place == pytest.approx(0.4, abs=0.02)
    assert scale.line(x, jitter).crossing()[1] == [(-np.inf, np.inf)]
    _, outside = scale.line(x, 1 + 0.5 * jitter + 0.01 * x).crossing()  # away from 0 wherever there are points
    assert (
        len(outside) == 2 and outside[0][0] == -np.inf and outside[1][1] == np.inf and outside[0][1] < 0 < 1 < outside[1][0]
    )


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([0, 1], [1, 2], "points"), ([1, 1, 1], [1, 2, 3], "one place"), ([1, 2, 3], [1, 2], "pairs"),
        ([1, np.nan, 2], [1, 2, 3], "x"),
    ],
)  # fmt: skip
def test_points_through_which_no_line_goes_are_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale.line(x, y)
