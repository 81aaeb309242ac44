"""Does a better base forget more? The skill of a base before fine-tuning, and the change due to fine-tuning.

Decision: a base's *skill* in a domain is its share of the way from copy-last-frame to real clips, in the measure itself,
so that bases of several sizes, editions and architectures have a common axis. A point is a base in one configuration: its
skill, and the change (after − before) on the same clips. A straight line is fitted to the points; it crosses 0 at the skill
from which fine-tuning is harmful. Fieller's interval of this skill (Fieller 1954, Journal of the Royal Statistical
Society B 16) may have one end, both, or none, because a nearly level line may cross anywhere.

Refused: fewer than three bases, and bases of equal skill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from replaylab.analysis.changes import before_and_after, last_steps, of_measure
from replaylab.analysis.statistics import Interval
from replaylab.util.checks import FloatArray, checked_at_least, checked_numbers

LEVEL = 0.95
POINTS_FOR_A_LINE = 3
COLUMNS = ["base", "replay", "replay_fraction", "seed", "skill", "change", "way", "scenes"]


def skill(base: float, copied: float, real: float) -> float:
    """(copied − base) / (copied − real): 0 for copy-last-frame, 1 for real clips, NaN if these two are equal."""
    return (copied - base) / (copied - real) if copied != real else np.nan


def points(rows: pd.DataFrame, measure: str, domain: str) -> pd.DataFrame:
    """One row per run: base, replay, replay_fraction, seed, skill, change, for a measure in a domain after the last step;
    way, the value of copy-last-frame − that of real clips; scenes, their number.

    The means are over clips with values of the run, its base, and copy-last-frame. Real clips have the value 0 if the
    measure is not defined for them, as for an error against the truth.
    """
    before, after = (last_steps(table) for table in before_and_after(rows, measure, domain))
    here = of_measure(rows, measure, domain)
    copied, real = (here[here["model"] == name].groupby("scene")["value"].mean() for name in ("copy-last-frame", "real"))
    lines = []
    for (_, of_base), (about, of_run) in zip(before.iterrows(), after.iterrows(), strict=True):
        run = dict(zip(after.index.names, about, strict=True))
        shared = of_run.dropna().index.intersection(of_base.dropna().index).intersection(copied.dropna().index)
        truth = real.reindex(shared).mean() if len(real) else 0.0
        ends = copied[shared].mean(), 0.0 if np.isnan(truth) else truth
        lines.append({
            **{name: run[name] for name in ("base", "replay", "replay_fraction", "seed")},
            "skill": skill(of_base[shared].mean(), *ends), "change": (of_run[shared] - of_base[shared]).mean(),
            "way": ends[0] - ends[1], "scenes": len(shared),
        })  # fmt: skip
    return pd.DataFrame(lines, columns=COLUMNS)


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x, fitted to n points by least squares; their scatter around it, and the spread of x."""

    intercept: float
    slope: float
    scatter: float  # standard deviation of the residuals, n − 2 degrees of freedom
    mean_x: float
    squares_x: float  # sum of (x − mean)^2
    n: int

    @property
    def quantile(self) -> float:
        """The quantile of Student's t for the level, with n − 2 degrees of freedom."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.n - 2))

    def at(self, x: float) -> Interval:
        """The line's value at `x`, with its 95 % interval."""
        half = self.quantile * self.scatter * np.sqrt(1 / self.n + (x - self.mean_x) ** 2 / self.squares_x)
        y = self.intercept + self.slope * x
        return Interval(float(y), float(y - half), float(y + half), self.n)

    @property
    def rise(self) -> Interval:
        """The slope, with its 95 % interval: the increase of the change from zero skill to that of real clips."""
        half = self.quantile * self.scatter / np.sqrt(self.squares_x)
        return Interval(self.slope, float(self.slope - half), float(self.slope + half), self.n)

    def crossing(self) -> tuple[float, list[tuple[float, float]]]:
        """The zero crossing and its confidence set, as intervals from left to right: one if the slope differs significantly
        from 0, otherwise the complement of an interval, or the whole axis.
        """
        # (intercept + slope x)^2 <= t^2 scatter^2 (1/n + (x - mean)^2 / squares), about the mean: a u^2 + 2 b u + c <= 0
        noise = (self.quantile * self.scatter) ** 2
        level = self.intercept + self.slope * self.mean_x
        a, b, c = self.slope**2 - noise / self.squares_x, self.slope * level, level**2 - noise / self.n
        place = -self.intercept / self.slope if self.slope else np.nan
        inside = max(b**2 - a * c, 0.0) if a > 0 else b**2 - a * c  # with a > 0, below 0 by rounding only
        if inside < 0 or a == 0:  # nowhere told from 0
            return place, [(-np.inf, np.inf)]
        low, high = sorted(self.mean_x + (-b + sign * np.sqrt(inside)) / a for sign in (-1, 1))
        return place, [(low, high)] if a > 0 else [(-np.inf, low), (high, np.inf)]


def line(x: ArrayLike, y: ArrayLike) -> Line:
    """Least squares through points (N,) and (N,). ValueError for fewer than POINTS_FOR_A_LINE, and for one x only."""
    xs, ys = checked_numbers(x, "x", 1), checked_numbers(y, "y", 1)
    n = checked_at_least(POINTS_FOR_A_LINE, len(xs), "x", "points", "train another base")
    if len(ys) != n:
        raise ValueError(f"y has {len(ys)} values and x {n}; they are pairs")
    squares = float(((xs - xs.mean()) ** 2).sum())
    if not squares > 0:
        raise ValueError("x: all points are at one place, so no line goes through them; add a base that knows more or less")
    slope = float(((xs - xs.mean()) * (ys - ys.mean())).sum() / squares)
    intercept = float(ys.mean() - slope * xs.mean())
    left: FloatArray = ys - intercept - slope * xs
    return Line(intercept, slope, float(np.sqrt((left**2).sum() / (n - 2))), float(xs.mean()), squares, n)
