"""Intervals, extrapolation, forgetting, alignment, fronts and verdicts against closed forms, scipy and simulation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from scipy import stats

from replaylab.analysis import statistics
from replaylab.analysis.statistics import Interval

ORDINARY = some.floats(-100, 100, width=32)
GRID = some.integers(0, 8)  # few values, so that ties and duplicates come up


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def ends(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


# Intervals


@given(arrays.arrays(float, some.integers(2, 9), elements=ORDINARY))
def test_the_t_interval_is_that_of_scipy(values: np.ndarray) -> None:
    ours = statistics.t_interval(values)
    assert ours.n == len(values)
    if np.ptp(values) > 1e-3:
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        np.testing.assert_allclose(ends(ours), [values.mean(), theirs.low, theirs.high], rtol=1e-7, atol=1e-7)


def test_where_only_seeds_or_only_scenes_differ_both_intervals_are_plain_t_intervals() -> None:
    seeds, scenes = normal(0, 5), normal(1, 40)
    only_seeds = statistics.seeds_and_scenes(np.repeat(seeds[:, None], 40, axis=1))
    only_scenes = statistics.seeds_and_scenes(np.tile(scenes, (5, 1)))
    assert ends(only_seeds) == pytest.approx(ends(statistics.t_interval(seeds)))
    assert ends(only_scenes) == pytest.approx(ends(statistics.t_interval(scenes)))
    assert only_seeds.n == only_scenes.n == 5


def test_where_both_differ_and_nothing_else_the_squares_of_both_half_widths_add_up() -> None:
    seeds, scenes = normal(0, 5), normal(1, 40)
    both = statistics.seeds_and_scenes(seeds[:, None] + scenes)
    over_seeds, over_scenes = statistics.t_interval(seeds), statistics.t_interval(scenes)
    squares = sum((one.high - one.estimate) ** 2 for one in (over_seeds, over_scenes))
    assert (both.high - both.estimate) ** 2 == pytest.approx(squares)


@given(some.integers(0, 1000), some.integers(2, 6), some.integers(2, 12), some.floats(0, 2))
def test_scenes_never_narrow_an_interval_and_order_and_unit_do_not_matter(
    seed: int, seeds: int, scenes: int, scene_sd: float
) -> None:
    values = normal(seed, seeds, scenes) + scene_sd * normal(seed, scenes)
    interval = statistics.seeds_and_scenes(values)
    over_seeds = statistics.t_interval(values.mean(1))
    assert interval.low <= over_seeds.low + 1e-9 and over_seeds.high - 1e-9 <= interval.high
    shuffle = np.random.default_rng(seed)
    shuffled = values[shuffle.permutation(seeds)][:, shuffle.permutation(scenes)]
    assert ends(statistics.seeds_and_scenes(shuffled)) == pytest.approx(ends(interval), abs=1e-9)
    in_other_unit = [3 * end + 7 for end in ends(interval)]
    assert ends(statistics.seeds_and_scenes(3 * values + 7)) == pytest.approx(in_other_unit, abs=1e-9)


@pytest.mark.parametrize(
    ("seeds", "scenes", "seed_sd", "scene_sd", "rest_sd", "skewed"),
    [
        (3, 40, 0.0, 0.0, 1.0, False),
        (3, 40, 0.2, 1.0, 1.0, False),
        (3, 128, 1.0, 1.0, 1.0, False),
        (5, 40, 0.0, 1.0, 1.0, False),
        (5, 128, 0.1, 1.0, 1.0, False),
        (5, 40, 1.0, 0.0, 1.0, False),
        (5, 128, 0.1, 1.0, 1.0, True),
    ],
)
def test_the_interval_over_seeds_and_scenes_holds_the_truth_as_often_as_it_says(
    seeds: int, scenes: int, seed_sd: float, scene_sd: float, rest_sd: float, skewed: bool
) -> None:
    share = statistics.coverage(seeds, scenes, seed_sd, scene_sd, rest_sd, skewed=skewed, trials=1500)
    assert 0.935 <= share <= 0.99  # two and a half standard errors below 0.95; up to 0.98 where both parts are alike


def test_leaving_scenes_out_of_the_interval_would_be_found() -> None:
    inside = 0
    for trial in range(500):
        values = normal(trial, 5, 40) + np.random.default_rng(trial).standard_normal(40)
        interval = statistics.t_interval(values.mean(1))
        inside += interval.low <= 0 <= interval.high
    assert inside / 500 < 0.8


# Forgetting


def test_transfer_and_forgetting_have_the_signs_they_say() -> None:
    worse = [[1.0, 2.0]]  # errors rose in both domains
    assert statistics.backward_transfer(worse) == -1.5
    assert statistics.average_forgetting(worse) == 1.5
    # Better at first (by 2), worse than the base in the end (by 1): transfer -1, but 3 were lost since the best.
    there_and_back = [[-2.0], [1.0]]
    assert statistics.backward_transfer(there_and_back) == -1
    assert statistics.average_forgetting(there_and_back) == 3


@given(arrays.arrays(float, some.tuples(some.integers(1, 5), some.integers(1, 4)), elements=ORDINARY))
def test_forgetting_is_at_least_minus_the_transfer_and_that_of_the_paper(changes: np.ndarray) -> None:
    transfer, forgetting = statistics.backward_transfer(changes), statistics.average_forgetting(changes)
    assert forgetting >= -transfer - 1e-9
    if len(changes) == 1:
        assert forgetting == pytest.approx(-transfer)
    # Chaudhry et al.: accuracies a of every checkpoint, the base among them; max over the earlier less the last.
    accuracies = np.vstack([np.zeros(changes.shape[1]), -changes])
    assert forgetting == pytest.approx((accuracies[:-1].max(0) - accuracies[-1]).mean())


# Alignment


@given(arrays.arrays(float, (2, 4, 7), elements=GRID))
def test_alignments_are_spearmans_rho_ties_included(gains: np.ndarray) -> None:
    x, y = gains
    if (np.ptp(gains, axis=2) == 0).any():
        with pytest.raises(ValueError, match="never changes"):
            statistics.alignments(x, y)
        return
    theirs = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(statistics.alignments(x, y), theirs, atol=1e-12)
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(statistics.alignments(np.exp(x)[:, order], y[:, order] ** 3), theirs, atol=1e-12)
    np.testing.assert_allclose(statistics.alignments(x, -y), np.negative(theirs), atol=1e-12)


def test_alignment_per_clip_is_the_mean_rho_whatever_the_order_of_clips() -> None:
    x = normal(8, 3, 30)
    y = x + normal(9, 3, 30)
    found = statistics.alignment_per_clip(x, y)
    assert found.estimate == pytest.approx(statistics.alignments(x, y).mean()) and found.n == 3
    order = np.random.default_rng(1).permutation(30)
    assert ends(statistics.alignment_per_clip(x[:, order], y[:, order])) == pytest.approx(ends(found))
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_alignment_per_clip_covers_the_true_rho_even_where_scenes_are_shared(shared: float) -> None:
    random, inside, trials = np.random.default_rng(2), 0, 300
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of normal pairs that correlate by 0.6
    for _ in range(trials):
        x, z = (
            shared**0.5 * random.standard_normal(40) + (1 - shared) ** 0.5 * random.standard_normal((5, 40))
            for _ in range(2)
        )
        found = statistics.alignment_per_clip(x, 0.6 * x + 0.8 * z)
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / trials <= 0.99


# What an interval shows


@given(some.integers(0, 5), some.integers(0, 4))
def test_the_interval_is_chosen_by_shape_and_has_no_ends_for_few_seeds(seeds: int, scenes: int) -> None:
    values = normal(7, seeds, scenes)
    found = statistics.interval(values)
    if not values.size:
        assert np.isnan(ends(found)).all() and found.n == 0
    elif seeds < 3:
        assert found.estimate == values.mean() and np.isnan(ends(found)[1:]).all() and found.n == seeds
    else:
        assert found == (statistics.t_interval(values[:, 0]) if scenes == 1 else statistics.seeds_and_scenes(values))
        over_seeds = statistics.interval(values.mean(1))
        assert over_seeds == statistics.t_interval(values.mean(1))
        assert statistics.interval(values[:, 0]) == statistics.interval(values[:, :1])


def test_an_interval_is_cut_where_its_quantity_ends() -> None:
    assert ends(statistics.interval([1.0, 1.0, 0.4], widest=1.0))[2] == 1


@given(some.floats(-5, 5), some.floats(0.01, 5))
def test_words_follow_the_interval_and_the_direction_of_the_measure(middle: float, half: float) -> None:
    change = Interval(middle, middle - half, middle + half, 5)
    unsure = statistics.CANNOT_TELL if change.low <= 0 <= change.high else ""
    up, down = ("worse", "better") if middle > 0 else ("better", "worse")
    assert statistics.outcome(change, "low") == (unsure or up)
    assert statistics.outcome(change, "high") == (unsure or down)
    assert statistics.outcome(change, "real") == statistics.CANNOT_TELL
    assert statistics.side(change) == (unsure or ("above" if middle > 0 else "below"))
    few = Interval(middle, np.nan, np.nan, 2)
    assert statistics.outcome(few, "low") == statistics.outcome(few, "real") == statistics.FEW


def test_a_description_has_the_change_and_its_ends() -> None:
    assert statistics.describe(Interval(1.234, -0.5, 3, 5)) == "+1.23 (−0.5 to 3)"
    assert statistics.describe(Interval(-1, np.nan, np.nan, 2), ".2f") == "−1.00"
    assert statistics.describe(statistics.interval([])) == "–"


# Trade-offs


@given(arrays.arrays(float, some.tuples(some.integers(1, 9), some.just(2)), elements=GRID))
def test_hypervolume_counts_dominated_cells_and_only_the_front_matters(points: np.ndarray) -> None:
    cells = np.stack(np.meshgrid(np.arange(-1, 6) + 0.5, np.arange(-1, 4) + 0.5), axis=-1).reshape(-1, 2)
    counted = (points[:, None] <= cells[None]).all(2).any(0).sum()
    assert statistics.hypervolume(points, (6, 4)) == counted
    front = [one for one in points if not any((other <= one).all() and (other < one).any() for other in points)]
    assert statistics.hypervolume(front, (6, 4)) == counted
    assert statistics.hypervolume(points[::-1], (6, 4)) == counted


# Verdicts


@given(some.lists(ORDINARY, min_size=3, max_size=3), ORDINARY)
def test_a_verdict_holds_where_every_value_of_the_interval_fulfils_the_claim(values: list[float], margin: float) -> None:
    low, estimate, high = sorted(values)
    interval = Interval(estimate, low, high, 5)
    inside = np.array([low, estimate, high])
    below = statistics.verdict(interval, "below", margin)
    assert (below == "holds") == (inside < margin).all()
    assert (below == "does not hold") == (inside > margin).all()
    mirror = {"holds": "does not hold", "does not hold": "holds", "undecided": "undecided"}
    assert statistics.verdict(interval, "above", margin) == mirror[below]
    assert statistics.verdict(interval, "below", 1.0, seeds_needed=6) == "exploratory"
    assert statistics.verdict(interval, "below", margin, seeds_needed=5) == below


def test_verdicts_go_one_way_as_an_interval_moves_past_the_margin() -> None:
    found = [statistics.verdict(Interval(x, x - 1, x + 1, 5), "above", 0.5) for x in np.linspace(-3, 3, 61)]
    rank = ["does not hold", "undecided", "holds"]
    assert set(found) == set(rank)
    assert all(rank.index(one) <= rank.index(next_one) for one, next_one in pairwise(found))


def test_an_interval_that_touches_the_margin_is_undecided() -> None:
    assert statistics.verdict(Interval(-1, -2, 0, 5), "below") == "undecided"
    assert statistics.verdict(Interval(1, 0, 2, 5), "below") == "undecided"


def test_the_rule_says_side_margin_and_seeds() -> None:
    assert statistics.rule("below", 0.25, seeds_needed=5) == (
        "The claim holds if the whole interval lies below 0.25, does not hold if the whole interval lies above 0.25, "
        "and is undecided otherwise. With fewer than 5 seeds it is exploratory."
    )
    assert "lies above 0, does not hold if the whole interval lies below 0," in statistics.rule("above")
    assert "seeds" not in statistics.rule("above")


# What is refused

ONES, RISING = np.ones((3, 5)), np.tile(np.arange(5.0), (3, 1))
WITH_NAN = np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("t_interval", ([],), r"values: shape \(0,\)"),
        ("t_interval", ([1.0],), "values: 1 seeds, at least 2 are needed; train another seed"),
        ("t_interval", ([1.0, np.nan],), "values: holds NaN or infinity; leave out"),
        ("seeds_and_scenes", (ONES[:1],), r"values: 1 seeds \(rows\)"),
        ("seeds_and_scenes", (ONES[:, :1],), r"values: 1 scenes \(columns\)"),
        ("seeds_and_scenes", ([1.0, 2.0],), r"values: shape \(2,\), expected .* 2 dimensions"),
        ("seeds_and_scenes", (WITH_NAN,), "values: holds NaN"),
        ("backward_transfer", ([1.0, 2.0],), "changes: shape"),
        ("average_forgetting", (WITH_NAN,), "changes: holds NaN"),
        ("alignments", (RISING, RISING[:2]), "dynamics_gain: shape"),
        ("alignments", (RISING, ONES), "dynamics_gain: row 0 never changes"),
        ("alignments", (RISING[:, :2], RISING[:, :2]), "fidelity_gain: 2 columns, at least 3"),
        ("alignment_per_clip", (RISING[:, :3], RISING[:, :3]), r"fidelity_gain: 3 clips"),
        ("hypervolume", (ONES, [1.0, 1.0]), r"points: shape \(3, 5\), expected \(P, 2\)"),
        ("hypervolume", ([], [1.0, 1.0]), "points: shape"),
        ("hypervolume", (ONES[:, :2], [1.0]), r"reference: shape \(1,\), expected \(2,\)"),
        ("hypervolume", ([[np.nan, 1.0]], [1.0, 1.0]), "points: holds NaN"),
        ("verdict", (Interval(1, 0, 2, 5), "better"), "claim: 'better' is none of above, below"),
        ("verdict", (Interval(1, 0, 2, 5), "above", np.nan), "margin: nan"),
        ("rule", ("keeps",), "claim: 'keeps' is none of"),
        ("Interval", (1.0, 2.0, 3.0, 5), "interval: low 2.0"),
        ("Interval", (1.0, np.nan, 2.0, 5), "interval: low nan"),
    ],
)
def test_bad_input_is_refused_by_name(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(statistics, name)(*arguments)


# p values, and many claims


@given(arrays.arrays(float, some.integers(3, 9), elements=ORDINARY))
def test_the_p_value_of_seeds_is_that_of_scipy(values: np.ndarray) -> None:
    if np.ptp(values) > 1e-3 and abs(values.mean()) > 1e-6:
        theirs = stats.ttest_1samp(values, 0).pvalue
        assert statistics.p_value(values) == pytest.approx(max(theirs, np.exp(statistics.LEAST_LOG_P)), rel=1e-3)


@given(some.integers(0, 1000), some.integers(2, 7), some.integers(2, 30), some.floats(0, 3))
def test_the_p_value_is_a_twentieth_where_the_interval_ends_at_zero(
    seed: int, seeds: int, scenes: int, scene_sd: float
) -> None:
    values = normal(seed, seeds, scenes) + scene_sd * normal(seed, scenes)
    interval = statistics.seeds_and_scenes(values)
    assert statistics.p_value(values - interval.low) == pytest.approx(0.05, rel=1e-6)
    assert statistics.p_value(values - interval.high) == pytest.approx(0.05, rel=1e-6)
    further = values - interval.low + (interval.estimate - interval.low)
    assert statistics.p_value(further) < 0.05 < statistics.p_value(values - interval.low / 2 - interval.estimate / 2)


def test_p_values_of_what_does_not_vary() -> None:
    assert statistics.p_value(np.zeros((3, 4))) == 1.0
    assert statistics.p_value(np.full(4, 2.0)) == 0.0


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12), some.floats(0.001, 0.5))
def test_holm_rejects_what_stepping_down_rejects(values: list[float], alpha: float) -> None:
    adjusted = statistics.holm(values)
    order = sorted(range(len(values)), key=lambda at: values[at])
    rejected = set()
    for number, at in enumerate(order):
        if values[at] * (len(values) - number) > alpha:
            break
        rejected.add(at)
    assert {at for at, p in enumerate(adjusted) if p <= alpha} == rejected
    assert (adjusted >= values).all() and (adjusted <= 1).all()


def test_holm_refuses_what_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="p_values"):
        statistics.holm([0.1, 1.2])
