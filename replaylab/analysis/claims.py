"""The claims of `book/preregistration.md`, and their verdicts from a sweep's rows.

Decision: a claim is a description (configuration, measure, domain, side), fixed before the runs, and its verdict requires
no choice. Endpoints are after − before: a run's last step − step 0 of its base, clip by clip. Every interval is given with
the mean of each base and the rule. A claim is undecided if the two bases disagree, or if its base is no better than
copy-last-frame.

Refused: what `changes` refuses: rows without their base, runs with different clips, or that end at different steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.analysis import statistics
from replaylab.analysis.changes import FINE_TUNED, before_and_after, check_ends, last_steps, of_measure
from replaylab.analysis.statistics import Interval, Verdict
from replaylab.catalogue import ALIGNMENT, PSEUDO

SEEDS_NEEDED = 5
KEEPS = 0.1  # of the distance between base and copied last frame: the loss that still counts as keeping


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed only."""

    replay: str = ""
    replay_fraction: float = 0.0
    target: str = "driving"

    @property
    def name(self) -> str:
        """The configuration in words, such as "replay near 25 %, target country"."""
        share = f"{self.replay} {100 * self.replay_fraction:g} %".strip()
        return f"replay {share}" + (f", target {self.target}" if self.target != "driving" else "")

    def select(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of this configuration in a table of runs with columns target, replay and replay_fraction."""
        at = np.isclose(table["replay_fraction"], self.replay_fraction) & (table["target"] == self.target)
        return table[at & ((table["replay"] == self.replay) | (self.replay_fraction == 0))]


@dataclass(frozen=True)
class Claim:
    """One endpoint. With `keeps`, the margin is the loss that still counts as keeping, otherwise 0."""

    name: str
    statement: str
    configuration: Configuration
    measure: str
    domain: str
    side: statistics.Side
    keeps: bool = False
    against: Configuration | None = None
    """for alignment: the configuration whose ρ is subtracted"""


_NONE = Configuration()
CLAIMS = (
    Claim("C1", "fidelity improves", _NONE, "effnet_kd", "driving", "below"),
    Claim("C2", "accuracy degrades on ordinary driving", _NONE, "ade_px", "driving", "above"),
    Claim("C2, ours", "accuracy degrades on eventful driving", _NONE, "ade_px", "driving-eventful", "above"),
    Claim("C3", "they come apart where driving is regular", Configuration(target="driving-eventful"),
          ALIGNMENT, "driving-eventful", "above", against=_NONE),
    *(
        Claim(f"C4, {kind}", f"{kind} replay keeps {what}", Configuration(kind, 0.25), measure, domain, "below", keeps=True)
        for what, measure, domain in (("accuracy", "ade_px", "driving-eventful"), ("visual quality", "effnet_kd", "driving"))
        for kind in ("near", "far")
    ),
)  # fmt: skip
"""The table of the preregistration, in its order."""


@dataclass(frozen=True)
class Judged:
    """A claim with its result."""

    claim: Claim
    interval: Interval
    margin: float
    verdict: Verdict
    of_bases: dict[str, float]
    """each base's own mean"""
    why: str
    """the reason of the verdict other than the interval; empty if there is none"""

    @property
    def rule(self) -> str:
        """The rule of this claim's verdict, in words."""
        return statistics.rule(self.claim.side, self.margin, SEEDS_NEEDED)


def judge(rows: pd.DataFrame, claim: Claim) -> Judged | None:
    """The claim's verdict from rows of runs and references (`store.COLUMNS`); None for fewer than two seeds."""
    if claim.against is not None:
        return _judge_alignment(rows, claim)
    found = changes(rows, claim.configuration, claim.measure, claim.domain)
    if found is None:
        return None
    table, bases = found
    interval = statistics.seeds_and_scenes(table)
    before, copied = _before_and_copied(rows, claim, bases)
    margin = KEEPS * abs(copied - before) if claim.keeps else 0.0
    why = ""
    if claim.measure == "ade_px" and before >= copied:
        why = "the base is no better than a copied last frame"
    return _judged(claim, interval, margin, table.mean(1), bases, why)


def _judged(
    claim: Claim, interval: Interval, margin: float, by_seed: NDArray[np.float64], bases: list[str], why: str
) -> Judged:
    of_bases = pd.Series(by_seed).groupby(bases, sort=False).mean().to_dict()
    sides = {mean > margin for mean in of_bases.values()}
    if len(sides) > 1 and not why:
        why = "the two bases lie on different sides of the margin"
    verdict = statistics.verdict(interval, claim.side, margin, SEEDS_NEEDED)
    if why and verdict != "exploratory":
        verdict = "undecided"
    return Judged(claim, interval, margin, verdict, of_bases, why)


def changes(
    rows: pd.DataFrame, configuration: Configuration, measure: str, domain: str
) -> tuple[NDArray[np.float64], list[str]] | None:
    """After − before (S, N) of every seed and clip, and the base of every seed; None for fewer than two seeds.

    For a measure of the whole set, the contribution of each clip. Clips without a value are left out for all seeds.
    ValueError as from `before_and_after`, and if runs of one seed or of different lengths are mixed.
    """
    part = PSEUDO.get(measure, measure)
    here = of_measure(rows, part, domain)
    few = pd.concat([runs_of(here, configuration), here[here["model"] == "base"]])
    before, after = before_and_after(few, part, domain)
    table = last_steps(after - before).reset_index(["seed", "base"]).sort_values(["seed", "base"])
    if table.duplicated(["seed", "base"]).any():
        raise ValueError(f"rows hold two runs of {configuration.name} for one seed and base: give the rows of one sweep")
    bases = list(table.pop("base"))
    difference = table.drop(columns="seed").to_numpy()
    return (difference[:, np.isfinite(difference).all(0)], bases) if len(bases) > 1 else None


def _judge_alignment(rows: pd.DataFrame, claim: Claim) -> Judged | None:
    """ρ of the configuration − ρ of the other one, seed by seed."""
    assert claim.against is not None
    pairs = [alignments(rows, configuration, claim.domain) for configuration in (claim.configuration, claim.against)]
    apart = pd.concat(pairs, axis=1, join="inner").dropna()
    if len(apart) < 2:
        return None
    difference = (apart.iloc[:, 0] - apart.iloc[:, 1]).to_numpy()
    interval = statistics.t_interval(difference)
    bases = list(apart.index.get_level_values("base"))
    return _judged(claim, interval, 0.0, difference, bases, "")


def alignments(
    rows: pd.DataFrame, configuration: Configuration, domain: str, accuracy: str = "ade_px", look: str = "driving"
) -> pd.Series[float]:  # fmt: skip
    """Spearman's ρ between the gains in EffNet-KD in the domain `look` and in `accuracy` over a run's checkpoints, by seed
    and base; NaN if one of them is constant.
    """
    gains = []
    for measure, of in (("effnet_kd", look), (accuracy, domain)):
        here = of_measure(rows, measure, of)
        by_step = runs_of(here, configuration).groupby(["seed", "base", "step"])["value"].mean()
        before = here[here["model"] == "base"].groupby("base")["value"].mean()
        gains.append(before.reindex(by_step.index.get_level_values("base")).to_numpy() - by_step)
    both = pd.concat(gains, axis=1, keys=["fidelity", "dynamics"], join="inner")
    return both.groupby(["seed", "base"])[["fidelity", "dynamics"]].apply(_alignment_of_one)


def _alignment_of_one(run: pd.DataFrame) -> float:
    gains = run.to_numpy().T
    if len(run) < 3 or (np.ptp(gains, axis=1) == 0).any():
        return float("nan")
    return float(statistics.alignments(gains[:1], gains[1:])[0])


def _before_and_copied(rows: pd.DataFrame, claim: Claim, bases: list[str]) -> tuple[float, float]:
    """The mean value of the runs' bases, and that of copy-last-frame."""
    here = of_measure(rows, claim.measure, claim.domain)
    of_bases = here[here["model"] == "base"].groupby("base")["value"].mean()
    return float(of_bases.loc[bases].mean()), float(here.loc[here["model"] == "copy-last-frame", "value"].mean())


def runs_of(rows: pd.DataFrame, configuration: Configuration) -> pd.DataFrame:
    """The rows of a configuration's runs; ValueError if they end at different steps."""
    runs = configuration.select(rows[rows["model"] == FINE_TUNED])
    check_ends(runs, ["target", "replay_fraction"])
    return runs
