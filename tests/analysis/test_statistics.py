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
from replaylab.metrics.distances import subsampled_distance

ORDINARY = some.floats(-100, 100, width=32)
GRID = some.integers(0, 8)  # few values, so that ties and duplicates come up


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def ends(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


# Intervals


@given(arrays.arrays(float, some.integers(2, 9), elements=ORDINARY), some.sampled_from([0.5, 0.9, 0.95]))
def test_the_t_interval_is_that_of_scipy(values: np.ndarray, level: float) -> None:
    ours = statistics.t_interval(values, level)
    assert ours.n == len(values)
    if np.ptp(values) > 1e-3:
        theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
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


def test_coverage_follows_the_level() -> None:
    share = statistics.coverage(5, 40, 1.0, 0.0, 1.0, level=0.5, trials=1500)
    assert share == pytest.approx(0.5, abs=0.04)


def test_leaving_scenes_out_of_the_interval_would_be_found() -> None:
    inside = 0
    for trial in range(500):
        values = normal(trial, 5, 40) + np.random.default_rng(trial).standard_normal(40)
        interval = statistics.t_interval(values.mean(1))
        inside += interval.low <= 0 <= interval.high
    assert inside / 500 < 0.8


def test_pseudo_values_of_a_mean_are_the_values_and_of_a_pairwise_mean_average_to_it() -> None:
    values = normal(3, 12)
    np.testing.assert_allclose(statistics.pseudo_values(lambda kept: values[kept].mean(), 12), values)

    def variance(kept: np.ndarray) -> float:  # a mean over pairs, as the kernel distance is
        return float(values[kept].var(ddof=1))

    assert statistics.pseudo_values(variance, 12).mean() == pytest.approx(values.var(ddof=1))


# Distances


def test_a_distance_that_falls_as_one_over_n_is_carried_on_exactly() -> None:
    a, b = normal(0, 90, 3), normal(1, 60, 3)
    found = subsampled_distance(lambda x, y: 7 + 3 / len(x), a, b, [20, 30, 60], repeats=4)
    assert (found.estimate, found.spread) == pytest.approx((7, 0), abs=1e-9)
    assert found.means == pytest.approx((7 + 3 / 20, 7 + 3 / 30, 7 + 3 / 60))
    assert found.sizes == (20, 30, 60)


def test_the_bias_of_squared_mean_differences_is_taken_out() -> None:
    a, b = normal(2, 400, 1) + 0.3, normal(3, 300, 1)

    def squared(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.mean() - y.mean()) ** 2)

    # Over subsets drawn without replacement, a mean of n varies by s^2 (1/n - 1/N).
    expected = squared(a, b) - a.var(ddof=1) / 400 - b.var(ddof=1) / 300
    found = subsampled_distance(squared, a, b, [25, 50, 100, 200], repeats=400)
    assert found.estimate == pytest.approx(expected, abs=4 * found.spread / 400**0.5)
    assert found.means[0] - found.estimate > 8 * found.spread / 400**0.5  # there was a bias to take out


def test_subsets_have_the_asked_size_no_row_twice_and_depend_on_the_seed_alone() -> None:
    a = np.arange(50.0)[:, None, None] * np.ones((1, 2, 3))
    seen: list[tuple[float, ...]] = []

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        assert x.shape == y.shape == (len(x), 2, 3)
        assert len(set(x[:, 0, 0])) == len(x)
        seen.append(tuple(x[:, 0, 0]))
        return float(x.mean() - y.mean())

    first = subsampled_distance(distance, a, a, [10, 40], repeats=3, seed=1)
    assert [len(one) for one in seen] == [10, 40] * 3 and len(set(seen)) == 6
    assert subsampled_distance(distance, a, a, [10, 40], repeats=3, seed=1) == first
    assert subsampled_distance(distance, a, a, [10, 40], repeats=3, seed=2) != first


# Forgetting


def test_gains_transfer_and_forgetting_have_the_signs_they_say() -> None:
    assert statistics.gain([3.0, 1.0], [1.0, 2.0]).tolist() == [2, -1]
    assert statistics.gain(20.0, 25.0, lower_is_better=False) == 5  # PSNR that rose
    worse = [[1.0, 2.0]]  # errors rose in both domains
    assert statistics.backward_transfer(worse) == -1.5
    assert statistics.average_forgetting(worse) == 1.5
    # Better at first (by 2), worse than the base in the end (by 1): transfer -1, but 3 were lost since the best.
    there_and_back = [[-2.0], [1.0]]
    assert statistics.backward_transfer(there_and_back) == -1
    assert statistics.average_forgetting(there_and_back) == 3


@given(arrays.arrays(float, some.tuples(some.integers(1, 5), some.integers(1, 4)), elements=ORDINARY))
def test_forgetting_is_at_least_minus_the_transfer_and_both_mirror_the_measure(changes: np.ndarray) -> None:
    transfer, forgetting = statistics.backward_transfer(changes), statistics.average_forgetting(changes)
    assert forgetting >= -transfer - 1e-9
    if len(changes) == 1:
        assert forgetting == pytest.approx(-transfer)
    assert statistics.backward_transfer(-changes, lower_is_better=False) == transfer
    assert statistics.average_forgetting(-changes, lower_is_better=False) == forgetting
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


def test_alignment_is_positive_where_both_improve_together_and_cut_at_one() -> None:
    falling = 10 - np.sort(normal(5, 4, 8), axis=1)  # two errors, better from checkpoint to checkpoint
    gains = statistics.gain(falling[:, :1] + np.zeros(8), falling)
    together = statistics.alignment(gains, gains**3)
    assert ends(together) == pytest.approx([1, 1, 1]) and together.n == 4
    assert ends(statistics.alignment(gains, -gains)) == pytest.approx([-1, -1, -1])
    x, y = normal(6, 4, 8), normal(7, 4, 8)
    assert ends(statistics.alignment(x, y)) == pytest.approx(
        np.clip(ends(statistics.t_interval(statistics.alignments(x, y))), -1, 1)
    )
    x[0], y[0] = (np.arange(8), np.arange(8))  # one run at 1 and the others above 0.7: the t interval goes beyond
    x[1:], y[1:] = np.arange(8), [0, 1, 2, 3, 4, 7, 6, 5]
    assert statistics.alignment(x, y).high == 1


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


# Trade-offs


@given(arrays.arrays(float, some.tuples(some.integers(1, 12), some.just(2)), elements=GRID))
def test_the_pareto_front_is_what_pairwise_comparison_leaves(points: np.ndarray) -> None:
    def beaten(one: np.ndarray) -> bool:
        return any((other <= one).all() and (other < one).any() for other in points)

    front = statistics.pareto_front(points)
    assert front.tolist() == [not beaten(one) for one in points]
    assert front.any()
    order = np.random.default_rng(0).permutation(len(points))
    assert statistics.pareto_front(points[order]).tolist() == front[order].tolist()


@given(arrays.arrays(float, some.tuples(some.integers(1, 9), some.just(2)), elements=GRID))
def test_hypervolume_counts_dominated_cells_and_only_the_front_matters(points: np.ndarray) -> None:
    cells = np.stack(np.meshgrid(np.arange(-1, 6) + 0.5, np.arange(-1, 4) + 0.5), axis=-1).reshape(-1, 2)
    counted = (points[:, None] <= cells[None]).all(2).any(0).sum()
    assert statistics.hypervolume(points, (6, 4)) == counted
    assert statistics.hypervolume(points[statistics.pareto_front(points)], (6, 4)) == counted
    assert statistics.hypervolume(points[::-1], (6, 4)) == counted


# Verdicts


@given(some.lists(ORDINARY, min_size=3, max_size=3), ORDINARY)
def test_a_verdict_holds_where_every_value_of_the_interval_fulfils_the_claim(
    values: list[float], margin: float
) -> None:
    low, estimate, high = sorted(values)
    interval = Interval(estimate, low, high, 5)
    inside = np.array([low, estimate, high])
    below = statistics.verdict(interval, "below", margin)
    assert (below == "holds") == (inside < margin).all()
    assert (below == "does not hold") == (inside > margin).all()
    mirror = {"holds": "does not hold", "does not hold": "holds", "undecided": "undecided"}
    assert statistics.verdict(interval, "above", margin) == mirror[below]
    if margin > 0:
        assert statistics.keeps(interval, margin) == below
    assert statistics.keeps(interval, 1.0, seeds_needed=6) == "exploratory"
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
CLIPS = normal(0, 20, 2)


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("t_interval", ([],), r"values: shape \(0,\)"),
        ("t_interval", ([1.0],), "values: 1 seeds, at least 2 are needed; train another seed"),
        ("t_interval", ([1.0, np.nan],), "values: holds NaN or infinity; leave out"),
        ("t_interval", ([1.0, 2.0], 95), "level: 95, must lie between 0 and 1"),
        ("seeds_and_scenes", (ONES[:1],), r"values: 1 seeds \(rows\)"),
        ("seeds_and_scenes", (ONES[:, :1],), r"values: 1 scenes \(columns\)"),
        ("seeds_and_scenes", ([1.0, 2.0],), r"values: shape \(2,\), expected .* 2 dimensions"),
        ("seeds_and_scenes", (WITH_NAN,), "values: holds NaN"),
        ("pseudo_values", (lambda kept: 0.0, 2), "scenes: 2 scenes, at least 3"),
        ("pseudo_values", (lambda kept: np.nan, 5), "statistic: holds NaN"),
        ("subsampled_distance", (mean_distance, CLIPS, CLIPS[:9], [5, 10]), "sizes: .* from 1 to 9"),
        ("subsampled_distance", (mean_distance, CLIPS, CLIPS, [0, 10]), "sizes: .* from 1 to 20"),
        ("subsampled_distance", (mean_distance, CLIPS, CLIPS, [10, 10]), "sizes: 1 different sizes"),
        ("subsampled_distance", (mean_distance, CLIPS, CLIPS, [5, 10], 1), "repeats: 1 repeats"),
        ("subsampled_distance", (mean_distance, CLIPS, CLIPS[:0], [5, 10]), "features_b: shape"),
        ("subsampled_distance", (lambda a, b: np.nan, CLIPS, CLIPS, [5, 10]), "distance: holds NaN"),
        ("gain", ([1.0, 2.0], [1.0]), r"after: shape \(1,\), before has \(2,\)"),
        ("backward_transfer", ([1.0, 2.0],), "changes: shape"),
        ("average_forgetting", (WITH_NAN,), "changes: holds NaN"),
        ("alignments", (RISING, RISING[:2]), "dynamics_gain: shape"),
        ("alignments", (RISING, ONES), "dynamics_gain: row 0 never changes"),
        ("alignments", (RISING[:, :2], RISING[:, :2]), "fidelity_gain: 2 columns, at least 3"),
        ("alignment", (RISING[:1], RISING[:1]), "values: 1 seeds"),
        ("alignment_per_clip", (RISING[:, :3], RISING[:, :3]), r"fidelity_gain: 3 clips"),
        ("pareto_front", (ONES,), r"points: shape \(3, 5\), expected \(P, 2\)"),
        ("pareto_front", ([],), "points: shape"),
        ("hypervolume", (ONES[:, :2], [1.0]), r"reference: shape \(1,\), expected \(2,\)"),
        ("hypervolume", ([[np.nan, 1.0]], [1.0, 1.0]), "points: holds NaN"),
        ("verdict", (Interval(1, 0, 2, 5), "better"), "claim: 'better' is none of above, below"),
        ("verdict", (Interval(1, 0, 2, 5), "above", np.nan), "margin: nan"),
        ("rule", ("keeps",), "claim: 'keeps' is none of"),
        ("keeps", (Interval(1, 0, 2, 5), 0.0), "margin: 0.0, must be above 0"),
        ("Interval", (1.0, 2.0, 3.0, 5), "interval: low 2.0"),
        ("Interval", (np.nan, np.nan, np.nan, 5), "interval: low nan"),
    ],
)
def test_bad_input_is_refused_by_name(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(statistics, name)(*arguments)
