"""Does a claim hold? Intervals over seeds and scenes, distances at infinite n, forgetting, alignment, trade-offs, and
the rule that turns an interval into a verdict.

S is the number of seeds (runs), N of scenes, K of checkpoints or arms, D of source domains. A *change* is after − before
in the measure's own unit; a *gain* is positive where the model got better, whichever way the measure points.

Decision: a verdict is a function of an interval alone, by a rule that can be printed (`rule`); how far a value can be
trusted goes into the interval, and never into the wording. Intervals are t intervals over seeds. Scenes, which all seeds
share, add their own part, so an interval over both is never narrower than the one over seeds.

Refused, by the argument's name: one seed, NaN (a clip without a value is left out by the caller, for all seeds), arrays
that do not pair, sizes beyond a set, and correlations of what never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from replaylab.spec import generator
from replaylab.util.checks import Floats, checked_at_least, checked_numbers

Claim = Literal["above", "below"]
Verdict = Literal["holds", "does not hold", "undecided", "exploratory"]


@dataclass(frozen=True)
class Interval:
    """An estimate and what it may be, in the unit of the measure; ValueError if out of order or not numbers."""

    estimate: float
    low: float
    high: float
    n: int  # seeds behind it

    def __post_init__(self) -> None:
        if not self.low <= self.estimate <= self.high:
            raise ValueError(
                f"interval: low {self.low}, estimate {self.estimate}, high {self.high}; numbers in this order are needed"
            )


# ----------------------------------------------------------------------------------------------------------- intervals
def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval for the mean of values (S,), one a seed; ValueError for fewer than two.

    Seeds count as independent; those that start from one base share its luck, and the interval does not know.
    """
    kept = checked_numbers(values, "values", 1)
    n = checked_at_least(2, len(kept), "values", "seeds", "train another seed")
    half = _t(n - 1, level) * float(kept.std(ddof=1)) / n**0.5
    return _around(float(kept.mean()), half, n)


def seeds_and_scenes(values: ArrayLike, level: float = 0.95) -> Interval:
    """An interval for the mean of values (S, N), if other seeds and other scenes had been drawn.

    Every seed is measured on the same scenes, so the two are crossed: value = mean + seed + scene + rest. The variance
    of the mean is estimated from the mean squares of that layout (Searle, Casella & McCulloch 1992, chapter 4): of the
    seeds' means over S, the rest included, and of the scenes' means over N, without it. Each part has its own t
    quantile, and the half widths add up as squares (Howe 1974; Zou & Donner 2008). This is in place of drawing scenes
    at random inside a t interval over seeds, and needs no random numbers. `coverage` says how often it is right: for
    normal effects a little more often than asked. n is S. ValueError for fewer than two seeds or scenes.
    """
    kept = checked_numbers(values, "values", 2)
    seeds = checked_at_least(2, kept.shape[0], "values", "seeds (rows)", "train another seed")
    scenes = checked_at_least(2, kept.shape[1], "values", "scenes (columns)", "measure more clips")
    mean, of_seeds, of_scenes = kept.mean(), kept.mean(1), kept.mean(0)
    rest = kept - of_seeds[:, None] - of_scenes + mean
    from_rest = (rest**2).sum() / ((seeds - 1) * (scenes - 1)) / (seeds * scenes)
    from_seeds = of_seeds.var(ddof=1) / seeds
    from_scenes = max(of_scenes.var(ddof=1) / scenes - from_rest, 0.0)
    half = np.hypot(_t(seeds - 1, level) * from_seeds**0.5, _t(scenes - 1, level) * from_scenes**0.5)
    return _around(float(mean), float(half), seeds)


def pseudo_values(statistic: Callable[[NDArray[np.intp]], float], scenes: int) -> Floats:
    """What each of N scenes adds to a statistic that is no mean, such as a kernel distance: pseudo-values (N,).

    `statistic` is given the numbers of the scenes to use. N times the value of all, less N − 1 times that without the
    scene (Tukey's jackknife; Efron & Stein 1981). One such row a seed goes into `seeds_and_scenes`.
    """
    checked_at_least(3, scenes, "scenes", "scenes", "measure more clips")
    every = np.arange(scenes)
    without = np.array([statistic(np.delete(every, one)) for one in every], np.float64)
    return checked_numbers(scenes * statistic(every) - (scenes - 1) * without, "statistic", 1)


def coverage(
    seeds: int,
    scenes: int,
    seed_sd: float,
    scene_sd: float,
    rest_sd: float,
    *,
    skewed: bool = False,
    level: float = 0.95,
    trials: int = 2000,
    seed: int = 0,
) -> float:
    """The share of simulated experiments in which `seeds_and_scenes` holds the true mean; it should be `level`.

    Effects of seeds, scenes and the rest are normal with these standard deviations; skewed scenes are exponential.
    """
    random, inside = generator(seed, "coverage"), 0
    for _ in range(trials):
        scene = random.exponential(size=scenes) - 1 if skewed else random.standard_normal(scenes)
        values = seed_sd * random.standard_normal((seeds, 1)) + scene_sd * scene
        interval = seeds_and_scenes(values + rest_sd * random.standard_normal((seeds, scenes)), level)
        inside += interval.low <= 0 <= interval.high
    return inside / trials


# ----------------------------------------------------------------------------------------------------------- distances


# ---------------------------------------------------------------------------------------------------------- forgetting
def gain(before: ArrayLike, after: ArrayLike, lower_is_better: bool = True) -> Floats:
    """How much better, elementwise: before − after for errors and distances, after − before for PSNR or recall."""
    old, new = _pair(before, after, ("before", "after"))
    return old - new if lower_is_better else new - old


def backward_transfer(changes: ArrayLike, lower_is_better: bool = True) -> float:
    """Mean gain over source domains, below 0 where they were forgotten (BWT of Lopez-Paz & Ranzato 2017).

    changes (K, D): after − before at K checkpoints, the last one last, all domains in one unit. Only the last
    checkpoint counts. Theirs is of accuracies; an error that rises (lower_is_better) is likewise below 0.
    """
    return float(_gains(changes, lower_is_better)[-1].mean())


def average_forgetting(changes: ArrayLike, lower_is_better: bool = True) -> float:
    """Mean over source domains of what was lost since their best (Chaudhry et al. 2018); above 0: forgotten.

    changes (K, D) as in `backward_transfer`. The best is taken over the base, whose change is 0, and the checkpoints
    before the last; so it is at least minus the backward transfer, and equal to it for one checkpoint.
    """
    gains = _gains(changes, lower_is_better)
    return float((gains[:-1].max(0, initial=0.0) - gains[-1]).mean())


def _gains(changes: ArrayLike, lower_is_better: bool) -> Floats:
    kept = checked_numbers(changes, "changes", 2)
    return -kept if lower_is_better else kept


# ----------------------------------------------------------------------------------------------------------- alignment
def alignments(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike) -> Floats:
    """Spearman's ρ (S,) of the two gains (S, K) in each run: positive where both improve together.

    K checkpoints of a run, or K arms of one seed at a fixed step; at least 3. Two groups of runs are compared by
    `t_interval` of the difference. ValueError names the row in which a gain never changes: it has no ρ.
    """
    pair = _pair(fidelity_gain, dynamics_gain, ("fidelity_gain", "dynamics_gain"), 2)
    checked_at_least(3, pair[0].shape[1], "fidelity_gain", "columns", "add checkpoints, arms or clips")
    for name, gains in zip(("fidelity_gain", "dynamics_gain"), pair, strict=True):
        still = np.flatnonzero(np.ptp(gains, axis=1) == 0)
        if len(still):
            raise ValueError(f"{name}: row {still[0]} never changes, so it has no rank correlation; leave it out")
    x, y = (rank - rank.mean(1, keepdims=True) for rank in (stats.rankdata(one, axis=1) for one in pair))
    return np.asarray((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def alignment(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `alignments` over runs, with its t interval cut at −1 and 1; errors as theirs, or for one run."""
    return _within_one(t_interval(alignments(fidelity_gain, dynamics_gain), level))


def alignment_per_clip(fidelity_gain: ArrayLike, dynamics_gain: ArrayLike, level: float = 0.95) -> Interval:
    """Mean over runs of ρ over clips, gains (S, N), one clip a scene: over seeds and scenes, cut at −1 and 1.

    The width is `seeds_and_scenes` of each run's `pseudo_values`; errors as in `alignments`, or for one run.
    """
    x, y = _pair(fidelity_gain, dynamics_gain, ("fidelity_gain", "dynamics_gain"), 2)
    checked_at_least(4, x.shape[1], "fidelity_gain", "clips (columns)", "measure more clips")
    estimate = alignments(x, y)
    seeds, clips = x.shape
    without_each = [np.concatenate([np.delete(gains, clip, axis=1) for clip in range(clips)]) for gains in (x, y)]
    without = alignments(*without_each).reshape(clips, seeds).T
    spread = seeds_and_scenes(clips * estimate[:, None] - (clips - 1) * without, level)
    return _within_one(_around(float(estimate.mean()), spread.high - spread.estimate, spread.n))


# ---------------------------------------------------------------------------------------------------------- trade-offs
def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of points (P, 2), both better when lower, no other point beats (P,): as good in both and better in one."""
    kept = _two_columns(points)
    no_worse = (kept[:, None] <= kept[None]).all(2)
    better = (kept[:, None] < kept[None]).any(2)
    return np.asarray(~(no_worse & better).any(0))


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The area that points (P, 2), both better when lower, dominate within the reference (2,) (Zitzler & Thiele 1999).

    In the product of both units; larger is better. Points that are not below the reference in both add nothing.
    """
    kept, corner = _two_columns(points), checked_numbers(reference, "reference", 1)
    if corner.shape != (2,):
        raise ValueError(f"reference: shape {corner.shape}, expected (2,), a value that all arms stay below")
    inside = kept[(kept < corner).all(1)]
    inside = inside[inside[:, 0].argsort()]
    widths = np.diff(inside[:, 0], append=corner[0])
    return float((widths * (corner[1] - np.minimum.accumulate(inside[:, 1]))).sum())


# ------------------------------------------------------------------------------------------------------------ verdicts
def verdict(interval: Interval, claim: Claim, margin: float = 0.0, seeds_needed: int = 0) -> Verdict:
    """Whether a quantity is `claim` ("above" or "below") the margin, as `rule` says; ValueError for another claim."""
    _check_claim(claim, margin)
    if interval.n < seeds_needed:
        return "exploratory"
    below, above = interval.high < margin, interval.low > margin
    if not below and not above:
        return "undecided"
    return "holds" if below == (claim == "below") else "does not hold"


def rule(claim: Claim, margin: float = 0.0, seeds_needed: int = 0) -> str:
    """The sentence that `verdict` follows, for a page."""
    _check_claim(claim, margin)
    other = "above" if claim == "below" else "below"
    sentence = (
        f"The claim holds if the whole interval lies {claim} {margin:.4g}, does not hold if the whole interval lies "
        f"{other} {margin:.4g}, and is undecided otherwise."
    )
    return f"{sentence} With fewer than {seeds_needed} seeds it is exploratory." if seeds_needed else sentence


def keeps(interval: Interval, margin: float, seeds_needed: int = 0) -> Verdict:
    """Non-inferiority: whether what was lost stays below a margin fixed beforehand (`rule("below", margin)`).

    The interval is of a loss, above 0 where it got worse: after − before of a measure that is better when lower.
    ValueError for a margin that is not above 0: nothing could be shown to be kept.
    """
    if not margin > 0:
        raise ValueError(f"margin: {margin}, must be above 0; give the loss that would still count as keeping")
    return verdict(interval, "below", margin, seeds_needed)


def _check_claim(claim: str, margin: float) -> None:
    if claim not in get_args(Claim):
        raise ValueError(f"claim: {claim!r} is none of {', '.join(get_args(Claim))}")
    if not np.isfinite(margin):
        raise ValueError(f"margin: {margin}, expected a number in the measure's unit")


# -------------------------------------------------------------------------------------------------------------- inputs


def _pair(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str], dimensions: int | None = None
) -> tuple[Floats, Floats]:
    a, b = checked_numbers(first, names[0], dimensions), checked_numbers(second, names[1], dimensions)
    if a.shape != b.shape:
        raise ValueError(f"{names[1]}: shape {b.shape}, {names[0]} has {a.shape}; give values of the same clips")
    return a, b


def _two_columns(points: ArrayLike) -> Floats:
    kept = checked_numbers(points, "points", 2)
    if kept.shape[1] != 2:
        raise ValueError(f"points: shape {kept.shape}, expected (P, 2), two measures that are better when lower")
    return kept


def _t(freedom: int, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: {level}, must lie between 0 and 1, such as 0.95")
    return float(special.stdtrit(freedom, (1 + level) / 2))


def _around(estimate: float, half: float, n: int) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, n)


def _within_one(interval: Interval) -> Interval:
    # The estimate too: rounding may carry a mean of ones past 1.
    estimate, low, high = np.clip([interval.estimate, interval.low, interval.high], -1, 1).tolist()
    return Interval(estimate, low, high, interval.n)
