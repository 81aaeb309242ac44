"""Power analysis of an experiment: the coverage of its intervals, and the smallest detectable difference.

Decision: a change is modelled as base + seed + scene + residual, each normal; their standard deviations are estimated from a
completed experiment and used to predict the next one: bases, one run of each, crossed with scenes. The variation among bases
cannot be estimated from two bases alone, so all results are also given for a standard deviation of bases equal to that of
runs of one base, and three times as large.

Refused: fewer than two runs in every base, and levels and powers outside 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special

from replaylab.analysis import claims, second_edition, statistics
from replaylab.analysis.second_edition import BASES_NEEDED, CLAIMS, FALSE_CLAIMS, READINGS, AnyClaim, Claim, Contrast
from replaylab.analysis.statistics import t_quantile
from replaylab.spec import generator
from replaylab.util.checks import FloatArray, checked_at_least, checked_numbers

RATIOS = (1.0, 2.0, 3.0)
"""Ratios of the standard deviation of bases to that of runs of one base, at which coverage is simulated."""
FIRST_EDITION = (3, 2)
"""The number of runs from each of its bases."""
POWER = 0.8
MOST_BASES, ALL_BASES = 40, 100_000
STAND_INS = {"ade_second_detector_px": "ade_tracked_px"}
"""In the first edition: the measure of accuracy that is independent of the detector."""


@dataclass(frozen=True)
class Components:
    """Standard deviations of the parts of a change, in the measure's unit, and the number of scenes."""

    base: float
    seed: float
    scene: float
    rest: float
    scenes: int

    def with_ratio(self, ratio: float) -> Components:
        """The components with this ratio of the standard deviation of bases to that of runs of one base."""
        return replace(self, base=ratio * self.within_a_base**0.5)

    @property
    def within_a_base(self) -> float:
        """Variance, among runs of one base, of the mean over scenes."""
        return self.seed**2 + self.rest**2 / self.scenes

    @property
    def of_a_run(self) -> float:
        """The same among runs that each have another base."""
        return self.base**2 + self.within_a_base


def components(values: ArrayLike, bases: Sequence[str]) -> Components:
    """Estimated from values (S, N) of S runs, each with its base, and N scenes; N is 1 if a run has one value.

    Mean squares of the nested and crossed layout are equated to their expectations (Searle, Casella & McCulloch 1992,
    chapters 3 and 4); negative variances are set to 0. With two bases, the variance of bases has one degree of freedom.
    """
    kept = checked_numbers(values, "values", 2)
    runs, scenes = kept.shape
    groups = pd.Series(kept.mean(1)).groupby(list(bases))
    sizes = groups.size().to_numpy()
    inner = checked_at_least(1, runs - len(sizes), "values", "runs more than bases", "seeds cannot be told from bases")
    checked_at_least(2, len(sizes), "bases", "bases", "bases cannot be told from seeds")
    within = float(((kept.mean(1) - groups.transform("mean")) ** 2).sum() / inner)
    between = float((sizes * (groups.mean().to_numpy() - kept.mean()) ** 2).sum() / (len(sizes) - 1))
    each = (runs - (sizes**2).sum() / runs) / (len(sizes) - 1)
    rest, scene = 0.0, 0.0
    if scenes > 1:
        left = kept - kept.mean(1, keepdims=True) - kept.mean(0) + kept.mean()
        rest = float((left**2).sum() / ((runs - 1) * (scenes - 1)))
        scene = max(float(kept.mean(0).var(ddof=1)) - rest / runs, 0.0)
    seed, base = max(within - rest / scenes, 0.0), max((between - within) / each, 0.0)
    return Components(base**0.5, seed**0.5, scene**0.5, rest**0.5, scenes)


# ------------------------------------------------------------------------------------------------------------- coverage
def coverage(of: Components, runs: Sequence[int], trials: int, *, units: str = "bases") -> tuple[float, float]:
    """The share of simulated experiments whose interval contains the true value, and the intervals' mean half width.

    runs: number from each base. units "bases": runs of one base are averaged; "runs": they are treated as independent, as in
    the first edition. ValueError for other units.
    """
    if units not in ("bases", "runs"):
        raise ValueError(f"units: {units!r} is none of bases, runs")
    random = generator(0, "coverage")
    of_base = np.repeat(np.arange(len(runs)), runs)
    inside, halves = 0, 0.0
    for _ in range(trials):
        base, seed = random.standard_normal(len(runs)), random.standard_normal(len(of_base))
        scene = random.standard_normal(of.scenes)
        rest = random.standard_normal((len(of_base), of.scenes))
        values = (of.base * base[of_base] + of.seed * seed)[:, None] + of.scene * scene + of.rest * rest
        if units == "bases":
            values = np.stack([values[of_base == number].mean(0) for number in range(len(runs))])
        found = statistics.t_interval(values[:, 0]) if of.scenes == 1 else statistics.seeds_and_scenes(values)
        inside += found.low <= 0 <= found.high
        halves += found.high - found.estimate
    return inside / trials, halves / trials


def coverage_table(of: dict[str, Components], bases: int = BASES_NEEDED, trials: int = 2000) -> pd.DataFrame:
    """One row per endpoint and ratio: the coverage of a 95 % interval, for five runs from two bases treated as independent
    (the first edition), and for one run from each of `bases`.
    """
    lines = []
    for name, found in of.items():
        for ratio in RATIOS:
            at = found.with_ratio(ratio)
            before = coverage(at, FIRST_EDITION, trials, units="runs")
            after = coverage(at, [1] * bases, trials)
            lines.append((name, ratio, *before, *after))
    columns = ["endpoint", "base SD / run SD", "five runs of two bases", "its half width", f"{bases} bases", "half width"]
    return pd.DataFrame(lines, columns=columns)


# ---------------------------------------------------------------------------------------------------------------- power
def detectable(of: Components, bases: int, p: float = 0.05, power: float = POWER) -> float:
    """The difference from 0, in the measure's unit, that is detected with this p and power by one run from each base.

    The power is averaged over the variance of bases, which is estimated with few degrees of freedom; that of scenes is
    treated as known.
    """
    checked_at_least(2, bases, "bases", "bases", "a spread needs two")
    for name, value in (("p", p), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: {value}, expected a number between 0 and 1")
    of_bases, of_scenes = of.of_a_run / bases, of.scene**2 / of.scenes
    estimated = of_bases * special.chdtri(bases - 1, _MIDDLES) / (bases - 1)
    widest = t_quantile(of.scenes - 1, 1 - p) ** 2 * of_scenes if of.scenes > 1 else 0.0
    halves = np.sqrt(t_quantile(bases - 1, 1 - p) ** 2 * estimated + widest)
    error = (of_bases + of_scenes) ** 0.5
    if error == 0:
        return 0.0

    def short_of(difference: float) -> float:
        return float(special.ndtr((difference - halves) / error).mean()) - power

    return float(optimize.brentq(short_of, 0.0, float(halves.max()) + 10 * error))


_MIDDLES: FloatArray = (np.arange(400) + 0.5) / 400  # of equal shares of a distribution


def bases_needed(of: Components, difference: float, p: float = 0.05, power: float = POWER) -> int:
    """The smallest number of bases that detect this difference; 0 if MOST_BASES do not, or if it is 0."""
    enough = (bases for bases in range(2, MOST_BASES + 1) if detectable(of, bases, p, power) <= difference)
    return next(enough, 0)


@dataclass(frozen=True)
class Endpoint:
    """A contrast of the second edition, estimated from the first edition's runs."""

    claim: str
    words: str
    measure: str
    seen: float
    """its mean there"""
    to_tell: float
    """how far from 0 the truth is: as far as seen; of keeping, if replay lost nothing or gained as much; NaN: no room"""
    parts: Components

    @property
    def name(self) -> str:
        """Such as "C4, near: loss − 25 % of plain fine-tuning's, ade_px"."""
        return f"{self.claim}: {self.words}, {self.measure}"


def endpoints(rows: pd.DataFrame, claims_: Sequence[AnyClaim] = CLAIMS) -> list[Endpoint]:
    """The endpoints of claims with runs in the first edition: seeds 0 to 4 from two bases; for alignment, its own claim."""
    found: list[Endpoint] = []
    for claim in claims_:
        if isinstance(claim, Claim):
            found += _endpoints(rows, claim)
    return [*found, *_of_alignment(rows)]


def _endpoints(rows: pd.DataFrame, claim: Claim) -> list[Endpoint]:
    found = []
    for reading in claim.measures:
        measure = STAND_INS.get(reading, reading)
        for contrast in claim.contrasts:
            table = second_edition.contrast(rows, contrast, measure, claim.domain)
            if len(table) < 3:
                continue
            seen = float(table.to_numpy().mean())
            to_tell = _room(rows, claim, contrast, measure) if claim.presupposes else abs(seen)
            parts = components(table.to_numpy(), list(table.index.get_level_values("base")))
            found.append(Endpoint(claim.name, contrast.words, measure, seen, to_tell, parts))
    return found


def _room(rows: pd.DataFrame, claim: Claim, contrast: Contrast, measure: str) -> float:
    """The value below 0 of a contrast of keeping if replay lost no accuracy, or had the full gain of plain fine-tuning."""
    (replay, _), *others = contrast.changes
    (plain, _), *_ = claim.presupposes[0][0].changes
    best = (replay, 0.0) if claim.measures == READINGS else (plain, 1.0)
    table = second_edition.contrast(rows, replace(contrast, changes=(best, *others)), measure, claim.domain)
    room = -float(table.to_numpy().mean())
    return room if room > 0 else float("nan")


def _of_alignment(rows: pd.DataFrame) -> list[Endpoint]:
    first = next(claim for claim in claims.CLAIMS if claim.against is not None)
    assert first.against is not None
    pair = [claims.alignments(rows, one, first.domain) for one in (first.configuration, first.against)]
    both = pd.concat(pair, axis=1, join="inner").dropna()
    if len(both) < 3:
        return []
    values = (both.iloc[:, 0] - both.iloc[:, 1]).to_numpy()
    parts = components(values[:, None], list(both.index.get_level_values("base")))
    return [Endpoint(first.name, "ρ − ρ", "ade_px", float(values.mean()), abs(float(values.mean())), parts)]


def power_table(
    of: Sequence[Endpoint], bases: int = BASES_NEEDED, claims_: int = len(CLAIMS), scenes: int = 0
) -> pd.DataFrame:  # fmt: skip
    """One row per endpoint: standard deviations, the detectable difference with `bases` bases, and if that is sufficient.

    `told` is the detectable difference at p = 0.05, `told first` that for the first of all claims (Holm), followed by the
    same with a standard deviation of bases equal to that of runs of one base, and three times as large. `bases needed`: for
    `told first`, 0 for more than MOST_BASES or none; `told by all bases`: the limit of many bases, which only more scenes
    improve. scenes: 0 for their actual number. A claim with several contrasts is shown less often than each of them.
    """
    p = FALSE_CLAIMS / claims_
    lines = []
    for one in of:
        parts = replace(one.parts, scenes=scenes) if scenes and one.parts.scenes > 1 else one.parts
        told = [detectable(parts, bases), *(detectable(each, bases, p) for each in _with_other_bases(parts))]
        enough = "no margin" if np.isnan(one.to_tell) else "yes" if told[1] <= one.to_tell else "no"
        needed = bases_needed(parts, one.to_tell, p)
        sd = (parts.base, parts.seed, parts.scene, parts.rest)
        limit = detectable(parts, ALL_BASES, p)
        lines.append((one.claim, one.words, one.measure, one.seen, one.to_tell, *sd, *told, enough, needed, limit))
    columns = [
        "claim", "contrast", "measure", "seen", "to tell", "base SD", "seed SD", "scene SD", "rest SD", "told", "told first",
        "told first, bases as runs", "told first, bases three times runs", f"{bases} are enough", "bases needed",
        "told by all bases",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def _with_other_bases(parts: Components) -> list[Components]:
    return [parts, parts.with_ratio(RATIOS[0]), parts.with_ratio(RATIOS[-1])]
