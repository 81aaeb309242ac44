"""Intervals over seeds and scenes, their interpretation, forgetting, alignment, trade-offs, and the rule of a verdict.

S is the number of seeds (runs), N of scenes, K of checkpoints or configurations, D of source domains. A *change* is
after − before in the measure's own unit; a *gain* is positive if the model improved, for measures of either direction.

Decision: a verdict is a function of an interval alone, by a rule that can be printed (`rule`); the uncertainty of a value is
in the interval, never in the wording. Intervals are t intervals over seeds. The variance of scenes, which all seeds
share, is added, so an interval over both is never narrower than the one over seeds.

Refused, with the argument's name: NaN (a clip without a value is left out by the caller, for all seeds), arrays of unequal
length, and correlations of constant values. `interval` has no ends for fewer than three seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from replaylab.spec import generator
from replaylab.util.checks import FloatArray, checked_at_least, checked_numbers
from replaylab.util.text import number

Side = Literal["above", "below"]
Verdict = Literal["holds", "does not hold", "undecided", "exploratory"]
SEEDS_FOR_AN_INTERVAL = 3
LEAST_LOG_P = -25.0  # of a p value; below it, e to this
BETTER, WORSE, CANNOT_TELL, FEW = "better", "worse", "cannot tell", "too few seeds"
"""The possible outcomes of an interval of a change (`outcome`)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the measure's unit; ends are NaN for too few seeds. ValueError if out of order."""

    estimate: float
    low: float
    high: float
    n: int  # seeds behind it

    def __post_init__(self) -> None:
        has_ends = not (np.isnan(self.low) and np.isnan(self.high))
        if has_ends and not self.low <= self.estimate <= self.high:
            raise ValueError(
                f"interval: low {self.low}, estimate {self.estimate}, high {self.high}; numbers in this order are needed"
            )


# ----------------------------------------------------------------------------------------------------------- intervals
def interval(values: ArrayLike, widest: float = np.inf) -> Interval:
    """The mean of values (S,) of seeds or (S, N) of seeds and scenes, with its 95 % interval, limited to ± `widest`.

    A single column is treated as (S,). The ends are NaN for fewer than SEEDS_FOR_AN_INTERVAL seeds, the mean for S = 0.
    """
    kept = np.asarray(values, np.float64)
    if not kept.size:
        return Interval(np.nan, np.nan, np.nan, 0)
    if kept.ndim == 2 and kept.shape[1] == 1:
        kept = kept[:, 0]
    if len(kept) < SEEDS_FOR_AN_INTERVAL:
        return Interval(float(kept.mean()), np.nan, np.nan, len(kept))
    return _cut(t_interval(kept) if kept.ndim == 1 else seeds_and_scenes(kept), widest)


def t_interval(values: ArrayLike) -> Interval:
    """Student's t interval for the mean of values (S,), one per seed; ValueError for fewer than two.

    Seeds are treated as independent; the interval ignores the correlation of seeds with the same base.
    """
    kept = checked_numbers(values, "values", 1)
    n = checked_at_least(2, len(kept), "values", "seeds", "train another seed")
    return _around(float(kept.mean()), float(half_width(kept.std(ddof=1), n)), n)


def seeds_and_scenes(values: ArrayLike) -> Interval:
    """An interval for the mean of values (S, N) over the populations of seeds and scenes.

    Every seed is measured on the same scenes, so the two are crossed: value = mean + seed + scene + rest. The variance
    of the mean is estimated from the mean squares of that layout (Searle, Casella & McCulloch 1992, chapter 4): of the
    seeds' means over S, including the residual, and of the scenes' means over N, without it. Each part has its own t
    quantile, and the half widths are added in quadrature (Howe 1974; Zou & Donner 2008). This replaces resampling of scenes
    within a t interval over seeds, and needs no random numbers. `coverage` simulates its coverage, which is slightly above
    the nominal level for normal effects. n is S. ValueError for fewer than two seeds or scenes.
    """
    mean, seeds, scenes = _crossed(values)
    half = np.hypot(t_quantile(seeds.n - 1) * seeds.variance**0.5, t_quantile(scenes.n - 1) * scenes.variance**0.5)
    return _around(mean, float(half), seeds.n)


def p_value(values: ArrayLike) -> float:
    """The two-sided p value for a zero mean of values (S,) of seeds or (S, N) of seeds and scenes.

    1 − the level of the widest interval, `t_interval` or `seeds_and_scenes`, that excludes 0: 0.05 if the 95 % interval
    ends at 0. Errors as there.
    """
    if np.ndim(values) == 1:
        kept = checked_numbers(values, "values", 1)
        n = checked_at_least(2, len(kept), "values", "seeds", "train another seed")
        mean, parts = float(kept.mean()), [_Part(n, float(kept.var(ddof=1) / n))]
    else:
        mean, *parts = _crossed(values)
    if mean == 0 or not any(part.variance for part in parts):
        return float(mean == 0)

    def beyond(log_p: float) -> float:
        halves = (t_quantile(part.n - 1, 1 - np.exp(log_p)) ** 2 * part.variance for part in parts)
        return float(np.sqrt(sum(halves)) - abs(mean))

    is_least = beyond(LEAST_LOG_P) <= 0
    return float(np.exp(LEAST_LOG_P if is_least else optimize.brentq(beyond, LEAST_LOG_P, 0.0)))


def holm(p_values: ArrayLike) -> FloatArray:
    """P values adjusted for multiple testing: claiming those of at most α gives a family-wise error rate of at most α
    (Holm 1979, Scandinavian Journal of Statistics 6). p_values (M,) in any order; ValueError for an invalid p value.
    """
    kept = checked_numbers(p_values, "p_values", 1)
    if ((kept < 0) | (kept > 1)).any():
        raise ValueError(f"p_values: {kept.tolist()}, expected numbers from 0 to 1")
    order = np.argsort(kept, kind="stable")
    stepped = np.maximum.accumulate(kept[order] * np.arange(len(kept), 0, -1))
    adjusted = np.empty(len(kept))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


@dataclass(frozen=True)
class _Part:
    """The contribution of one of two crossed factors to the variance of a mean."""

    n: int  # levels of the factor
    variance: float


def _crossed(values: ArrayLike) -> tuple[float, _Part, _Part]:
    """The mean of values (S, N), and the contributions of seeds and scenes to its variance: see `seeds_and_scenes`."""
    kept = checked_numbers(values, "values", 2)
    seeds = checked_at_least(2, kept.shape[0], "values", "seeds (rows)", "train another seed")
    scenes = checked_at_least(2, kept.shape[1], "values", "scenes (columns)", "measure more clips")
    mean, of_seeds, of_scenes = kept.mean(), kept.mean(1), kept.mean(0)
    rest = kept - of_seeds[:, None] - of_scenes + mean
    from_rest = (rest**2).sum() / ((seeds - 1) * (scenes - 1)) / (seeds * scenes)
    from_seeds = of_seeds.var(ddof=1) / seeds
    from_scenes = max(of_scenes.var(ddof=1) / scenes - from_rest, 0.0)
    return float(mean), _Part(seeds, float(from_seeds)), _Part(scenes, float(from_scenes))


def coverage(
    seeds: int, scenes: int, seed_sd: float, scene_sd: float, rest_sd: float, *, skewed: bool, trials: int
) -> float:
    """The share of simulated experiments in which `seeds_and_scenes` contains the true mean; nominally 0.95.

    Effects of seeds, scenes and the residual are normal with these standard deviations; skewed scenes are exponential.
    """
    random, inside = generator(0, "coverage"), 0
    for _ in range(trials):
        scene = random.exponential(size=scenes) - 1 if skewed else random.standard_normal(scenes)
        values = seed_sd * random.standard_normal((seeds, 1)) + scene_sd * scene
        interval = seeds_and_scenes(values + rest_sd * random.standard_normal((seeds, scenes)))
        inside += interval.low <= 0 <= interval.high
    return inside / trials


# ---------------------------------------------------------------------------------------------------------- forgetting
def backward_transfer(changes: ArrayLike) -> float:
    """Mean gain over source domains, below 0 where they were forgotten (BWT of Lopez-Paz & Ranzato 2017).

    changes (K, D): after − before at K checkpoints, the last one last, all domains in one unit, of a measure that is better
    when lower. Only the last checkpoint counts. The original is defined for accuracies; a rising error is likewise below 0.
    """
    return float(-checked_numbers(changes, "changes", 2)[-1].mean())


def average_forgetting(changes: ArrayLike) -> float:
    """Mean over source domains of the loss relative to their best value (Chaudhry et al. 2018); above 0: forgotten.

    changes (K, D) as in `backward_transfer`. The best is taken over the base, whose change is 0, and the checkpoints
    before the last; the result is at least minus the backward transfer, and equal to it for one checkpoint.
    """
    gains = -checked_numbers(changes, "changes", 2)
    return float((gains[:-1].max(0, initial=0.0) - gains[-1]).mean())


# ----------------------------------------------------------------------------------------------------------- alignment
def alignments(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike) -> FloatArray:
    """Spearman's ρ (S,) of the two gains (S, K) in each run: positive if both improve together.

    K checkpoints of a run, or K configurations of one seed at a fixed step; at least 3. Two groups of runs are compared by
    `t_interval` of the difference. ValueError names the row with a constant gain, for which ρ is undefined.
    """
    pair = _pair(fidelity_gain, dynamics_gain)
    checked_at_least(3, pair[0].shape[1], "fidelity_gain", "columns", "add checkpoints, configurations or clips")
    for name, gains in zip(("fidelity_gain", "dynamics_gain"), pair, strict=True):
        still = np.flatnonzero(np.ptp(gains, axis=1) == 0)
        if len(still):
            raise ValueError(f"{name}: row {still[0]} never changes, so it has no rank correlation; leave it out")
    x, y = (rank - rank.mean(1, keepdims=True) for rank in (stats.rankdata(one, axis=1) for one in pair))
    return np.asarray((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def alignment_per_clip(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike) -> Interval:
    """Mean over runs of ρ over clips, from gains (S, N), one clip per scene: over seeds and scenes, limited to −1 and 1.

    The width is `seeds_and_scenes` of each run's pseudo-values (Tukey's jackknife); errors as in `alignments`.
    """
    x, y = _pair(fidelity_gain, dynamics_gain)
    checked_at_least(4, x.shape[1], "fidelity_gain", "clips (columns)", "measure more clips")
    estimate = alignments(x, y)
    seeds, clips = x.shape
    without_each = [np.concatenate([np.delete(gains, clip, axis=1) for clip in range(clips)]) for gains in (x, y)]
    without = alignments(*without_each).reshape(clips, seeds).T
    spread = seeds_and_scenes(clips * estimate[:, None] - (clips - 1) * without)
    return _cut(_around(float(estimate.mean()), spread.high - spread.estimate, spread.n), 1.0)


# ---------------------------------------------------------------------------------------------------------- trade-offs
def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The area that points (P, 2), both better when lower, dominate within the reference (2,) (Zitzler & Thiele 1999).

    In the product of both units; larger is better. Points that are not below the reference in both do not contribute.
    """
    kept, corner = _two_columns(points), checked_numbers(reference, "reference", 1)
    if corner.shape != (2,):
        raise ValueError(f"reference: shape {corner.shape}, expected (2,), a value that all points stay below")
    inside = kept[(kept < corner).all(1)]
    inside = inside[inside[:, 0].argsort()]
    widths = np.diff(inside[:, 0], append=corner[0])
    return float((widths * (corner[1] - np.minimum.accumulate(inside[:, 1]))).sum())


# ------------------------------------------------------------------------------------------------- outcomes, verdicts
def side(found: Interval, margin: float = 0.0) -> str:
    """The position of the whole interval: "above" or "below" the margin, else CANNOT_TELL; FEW for one without ends."""
    if np.isnan(found.low):
        return FEW
    return "below" if found.high < margin else "above" if found.low > margin else CANNOT_TELL


def outcome(change: Interval, better: str) -> str:
    """BETTER, WORSE, CANNOT_TELL or FEW: the outcome of the interval of a change, for a measure that is better if `better`.

    `better` is "low", "high" or "real" as in `catalogue.MeasureEntry`; for "real" a change alone is inconclusive.
    """
    shown = {"low": {"below": BETTER, "above": WORSE}, "high": {"below": WORSE, "above": BETTER}}.get(better, {})
    at = side(change)
    return FEW if at == FEW else shown.get(at, CANNOT_TELL)


def describe(found: Interval, digits: str = ".3g") -> str:
    """The interval as text, such as "+0.66 (0.31 to 1.00)", "+0.66" without ends, or "–" if it is missing."""
    if np.isnan(found.estimate):
        return "–"
    ends = "" if np.isnan(found.low) else f" ({number(found.low, digits)} to {number(found.high, digits)})"
    return f"{number(found.estimate, f'+{digits}')}{ends}"


def verdict(found: Interval, claim: Side, margin: float = 0.0, seeds_needed: int = 0) -> Verdict:
    """Whether a quantity is `claim` ("above" or "below") the margin, by `rule`; ValueError for another claim."""
    _check_claim(claim, margin)
    if found.n < seeds_needed:
        return "exploratory"
    at = side(found, margin)
    return "undecided" if at == CANNOT_TELL else "holds" if at == claim else "does not hold"


def rule(claim: Side, margin: float = 0.0, seeds_needed: int = 0) -> str:
    """The rule of `verdict` as a sentence, for a page."""
    _check_claim(claim, margin)
    other = "above" if claim == "below" else "below"
    sentence = (
        f"The claim holds if the whole interval lies {claim} {margin:.4g}, does not hold if the whole interval lies "
        f"{other} {margin:.4g}, and is undecided otherwise."
    )
    return f"{sentence} With fewer than {seeds_needed} seeds it is exploratory." if seeds_needed else sentence


def _check_claim(claim: str, margin: float) -> None:
    if claim not in get_args(Side):
        raise ValueError(f"claim: {claim!r} is none of {', '.join(get_args(Side))}")
    if not np.isfinite(margin):
        raise ValueError(f"margin: {margin}, expected a number in the measure's unit")


# ------------------------------------------------------------------------------------------------------------ helpers
def _pair(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = checked_numbers(fidelity_gain, "fidelity_gain", 2), checked_numbers(dynamics_gain, "dynamics_gain", 2)
    if a.shape != b.shape:
        raise ValueError(f"dynamics_gain: shape {b.shape}, fidelity_gain has {a.shape}; give values of the same clips")
    return a, b


def _two_columns(points: ArrayLike) -> FloatArray:
    kept = checked_numbers(points, "points", 2)
    if kept.shape[1] != 2:
        raise ValueError(f"points: shape {kept.shape}, expected (P, 2), two measures that are better when lower")
    return kept


def t_quantile(freedom: Any, level: Any = 0.95) -> Any:
    """The quantile of Student's t with this share within ±; elementwise."""
    return special.stdtrit(freedom, (1 + level) / 2)


def half_width(sd: Any, seeds: Any) -> Any:
    """The half width of the t interval for a mean over seeds with this standard deviation (ddof 1); elementwise."""
    return t_quantile(seeds - 1) * sd / np.sqrt(seeds)


def _around(estimate: float, half: float, n: int) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, n)


def _cut(found: Interval, widest: float) -> Interval:
    """The interval limited to ± `widest`, with its estimate: by rounding, a mean of ones may exceed 1."""
    estimate, low, high = np.clip([found.estimate, found.low, found.high], -widest, widest).tolist()
    return Interval(estimate, low, high, found.n)
