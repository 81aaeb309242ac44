"""Comparison of configurations with one difference: the values of the ablations, the second world and family.

Decision: every configuration is evaluated twice, after its last step and where its fidelity first reaches most of the gain
of near replay of 25 % with the same seed, so that merely training less is not an advantage. Between measured steps,
including the base's step 0, values are interpolated linearly. Configurations are compared seed by seed and clip
by clip; if the interval of the difference over seeds and scenes contains 0, the comparison is inconclusive.

Refused: what `before_and_after` refuses. Intervals from fewer than three seeds have no ends. Missing runs are not an error:
they are counted in `Configurations.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replaylab.analysis.changes import before_and_after
from replaylab.analysis.statistics import BETTER, CANNOT_TELL, FEW, WORSE, Interval, interval, outcome
from replaylab.analysis.tables import NONE
from replaylab.catalogue import CLIP_FRAMES, PSEUDO, domain_of, measure_of
from replaylab.data import clips
from replaylab.spec import RunSpec, WorldSpec
from replaylab.store import COLUMNS, Store
from replaylab.sweeps.ablations import NEAR_25, NO_REPLAY, Variation
from replaylab.util.text import percent

REFERENCE = NEAR_25.name
LAST, EQUAL, LOWER = "at the last step", "at equal fidelity", "at a lower one"
SHARES = {EQUAL: 0.8, LOWER: 0.5}
"""Readings at equal fidelity: shares of near replay 25 %'s gain in EffNet-KD, by seed; reaching all of it is chance."""


def label_of(measure: str, place: str) -> str:
    """A label such as "ADE, eventful (px)"; `place`: "ordinary", "eventful" (in the target's appearance) or a domain."""
    entry = measure_of(measure)
    where = place if place in ("ordinary", "eventful") else domain_of(place).label
    return replace(entry, label=f"{entry.label}, {where}").name


MEASURES = {
    label_of(measure, place): (measure, place)
    for measure, place in (
        ("effnet_kd", "ordinary"), ("video_kd", "ordinary"), ("psnr_db", "ordinary"), ("ade_px", "ordinary"),
        ("ade_px", "eventful"), ("ade_px", "near-eventful"), ("recall", "eventful"), ("pull_to_mean", "eventful"),
        ("denoising_loss_0.5", "physics"),
    )
}  # fmt: skip
"""By label, in the order of tables: the measure, and where (`label_of`)."""
FIDELITIES = tuple(label_of(measure, "ordinary") for measure in ("effnet_kd", "video_kd", "psnr_db"))
FIDELITY = FIDELITIES[0]
ORDINARY_DYNAMICS, DYNAMICS = label_of("ade_px", "ordinary"), label_of("ade_px", "eventful")
RECALL = label_of("recall", "eventful")
TRADE = "a trade"  # better in one of fidelity and dynamics, worse in the other
RUN = ["run", "group", "configuration", "base", "replay", "replay_fraction", "seed", "state", "seconds", "step_seconds",
       "last", "clips_kept"]  # fmt: skip
EFFECT = ["group", "configuration", "measure", "reading", "step", "change", "low", "high", "difference", "difference_low",
          "difference_high", "seeds", "clips"]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- numbers
@dataclass(frozen=True)
class Configurations:
    """Runs by configuration, in their current state in a store."""

    preset: str
    title: str
    ordinary: str
    """the target, on which fidelity is measured"""
    eventful: str
    """eventful driving in the target's appearance, on which dynamics is measured"""
    rows: pd.DataFrame
    """of finished runs and their references (`store.COLUMNS`), only what MEASURES names"""
    runs: pd.DataFrame
    """one row per requested run (RUN): `last` is its last step, `clips_kept` the size of its replay buffer"""
    named: Sequence[tuple[RunSpec, str, str]] = ()
    """the requested runs, each with its group and its configuration"""

    @property
    def names(self) -> list[str]:
        """Every requested configuration, in its order."""
        return list(dict.fromkeys(self.runs["configuration"]))

    @cached_property
    def done(self) -> pd.DataFrame:
        """The finished runs."""
        return self.runs[self.runs["state"] == "done"]

    @property
    def has_reference(self) -> bool:
        """Whether there is a finished run of near replay 25 % to compare with."""
        return bool((self.done["configuration"] == REFERENCE).any())

    @property
    def first_step(self) -> int:
        """The first step after the base's at which a run was measured."""
        return int(min(curve.index[1] for curve in self.curves[FIDELITY].values()))

    @cached_property
    def curves(self) -> dict[str, dict[str, pd.DataFrame]]:
        """Measure -> run -> after − before by step (from 0) and scene; for measures of a set, the scenes' contributions."""
        return {label: self._curves(*self.measured(label)) for label in MEASURES}

    def _curves(self, measure: str, domain: str) -> dict[str, pd.DataFrame]:
        before, after = before_and_after(self.rows, PSEUDO.get(measure, measure), domain)
        change, steps = (after - before).to_numpy(), after.index.get_level_values("step").to_numpy()
        base = np.zeros((1, change.shape[1]))
        return {
            str(run): pd.DataFrame(np.asfortranarray(np.vstack([base, change[of]])), [0, *steps[of]], after.columns)
            for run, of in after.groupby(level="run").indices.items()
        }

    def steps_of(self, name: str, reading: str) -> pd.Series[float]:
        """Seed -> the step at which a configuration's run is read: NaN if it never reaches that fidelity; seeds are left out
        if near replay of 25 % is missing or has no gain.
        """
        if (name, reading) not in self._steps:
            self._steps[name, reading] = self._steps_of(name, reading)
        return self._steps[name, reading]

    @cached_property
    def _steps(self) -> dict[tuple[str, str], pd.Series[float]]:
        """Cached results of `steps_of`."""
        return {}

    def _steps_of(self, name: str, reading: str) -> pd.Series[float]:
        runs = self.done[self.done["configuration"] == name].set_index("seed")
        if reading == LAST:
            return runs["last"].astype(float)
        steps = {}
        for seed, level in self.levels.items():
            if seed in runs.index:
                run = runs.loc[seed]
                fidelity = self.curves[FIDELITY][run["run"]].loc[: run["last"]].mean(axis=1)
                steps[seed] = reached(fidelity, SHARES[reading] * level)
        return pd.Series(steps, dtype=float)

    @cached_property
    def levels(self) -> dict[int, float]:
        """Seed -> change of EffNet-KD of near replay 25 % at its last step, where it is a gain."""
        curves, done = self.curves[FIDELITY], self.done[self.done["configuration"] == REFERENCE]
        levels = {one.seed: float(curves[one.run].iloc[-1].mean()) for one in done.itertuples() if one.run in curves}
        return {seed: level for seed, level in levels.items() if level < 0}

    def changes(self, name: str, label: str, reading: str = LAST) -> pd.DataFrame:
        """After − before of each seed (rows) and scene (columns); empty if a seed never reaches that fidelity, or if the
        measure exists at the last step only and the configuration is read before it.
        """
        runs = self.done[self.done["configuration"] == name].set_index("seed")["run"]
        steps = self.steps_of(name, reading)
        curves = {seed: self.curves[label].get(runs[seed]) for seed in steps.index}
        if steps.isna().any() or any(
            curve is None or (reading == LAST and steps[seed] not in curve.index) for seed, curve in curves.items()
        ):
            return pd.DataFrame()
        found = {seed: at_step(curve, steps[seed]) for seed, curve in curves.items() if curve is not None}
        if not found:
            return pd.DataFrame()
        scenes = next(iter(found.values())).index  # the same in every run
        # Laid out like this because published sums were: their last digits depend on it.
        return pd.DataFrame(np.stack([*found.values()], axis=1), scenes, list(found)).T.dropna(axis=1)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """One row per configuration, measure and reading (EFFECT): its change, and its change − that of near replay 25 %."""
        lines = []
        groups = self.runs.drop_duplicates("configuration").set_index("configuration")["group"]
        for label in MEASURES:
            for reading in (LAST, *SHARES) if label in (FIDELITY, DYNAMICS) else (LAST,):
                tables = {name: self.changes(name, label, reading) for name in [*self.names, REFERENCE]}
                for name, change in tables.items():
                    if not change.empty:
                        difference = interval(minus(change, tables[REFERENCE]))
                        step = self.steps_of(name, reading).mean()
                        of, against = ((one.estimate, one.low, one.high) for one in (interval(change), difference))
                        lines.append((groups[name], name, label, reading, step, *of, *against, *change.shape))
        return pd.DataFrame(lines, columns=EFFECT)

    def change(self, name: str, label: str = DYNAMICS, reading: str = LAST) -> Interval:
        """A configuration's change in a measure of MEASURES; NaN if it is missing."""
        return self._effect(name, label, reading, ("change", "low", "high"))

    def difference_from_reference(self, name: str, label: str = DYNAMICS, reading: str = LAST) -> Interval:
        """A configuration's change − that of near replay 25 %."""
        return self._effect(name, label, reading, ("difference", "difference_low", "difference_high"))

    def _effect(self, name: str, label: str, reading: str, columns: tuple[str, str, str]) -> Interval:
        line = self._effects.get((name, label, reading))
        if line is None:
            return interval([])
        estimate, low, high = (float(line[column]) for column in columns)
        return Interval(estimate, low, high, int(line["seeds"]))

    @cached_property
    def _effects(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """The rows of `effects` by configuration, measure and reading."""
        return {(one["configuration"], one["measure"], one["reading"]): one for one in self.effects.to_dict("records")}

    def difference(self, name: str, other: str, label: str = DYNAMICS) -> Interval:
        """A configuration's change at the last step − another's, for the seeds and scenes that both have."""
        return interval(minus(self.changes(name, label), self.changes(other, label)))

    def measured(self, label: str) -> tuple[str, str]:
        """The measure with this label in MEASURES, and its domain."""
        measure, where = MEASURES[label]
        return measure, {"ordinary": self.ordinary, "eventful": self.eventful}.get(where, where)


def reached(curve: pd.Series[float], level: float) -> float:
    """The first step at which a curve over steps falls to a level, by linear interpolation; NaN if it never does."""
    steps, values = curve.index.to_numpy(float), curve.to_numpy(float)
    down = np.flatnonzero(values <= level)
    if not len(down):
        return float("nan")
    after = int(down[0])
    if after == 0:
        return float(steps[0])
    share = (values[after - 1] - level) / (values[after - 1] - values[after])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


def at_step(curve: pd.DataFrame, step: float) -> pd.Series[float]:
    """A curve (steps, scenes) at a step between its first and its last, by linear interpolation."""
    steps, values = curve.index.to_numpy(float), curve.to_numpy()
    after = int(np.searchsorted(steps, step))
    if steps[after] == step:
        return pd.Series(values[after], curve.columns)
    share = (step - steps[after - 1]) / (steps[after] - steps[after - 1])
    return pd.Series((1 - share) * values[after - 1] + share * values[after], curve.columns)


def minus(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The difference of two tables (seeds, scenes), for the seeds and scenes that both have."""
    seeds, scenes = one.index.intersection(other.index), one.columns.intersection(other.columns)
    return one.loc[seeds, scenes] - other.loc[seeds, scenes]


def outcome_of(difference: Interval, label: str = DYNAMICS) -> str:
    """The outcome of a difference in a measure of MEASURES: BETTER, WORSE, CANNOT_TELL or FEW."""
    return outcome(difference, measure_of(MEASURES[label][0]).better)


def digits_of(label: str) -> str:
    """The number format of a measure of MEASURES."""
    return measure_of(MEASURES[label][0]).digits


def against_reference(made: Configurations, name: str) -> str:
    """Comparison with near replay 25 % in ADE on eventful driving at equal fidelity: BETTER, WORSE, CANNOT_TELL or FEW.

    If one of its runs never reaches that fidelity, or near replay itself gains with too few seeds, ADE and EffNet-KD at the
    last step are compared: BETTER or WORSE if one is so and the other is not the opposite, TRADE if it is.
    """
    at_equal = outcome_of(made.difference_from_reference(name, DYNAMICS, EQUAL))
    if at_equal != FEW:
        return at_equal
    both = {outcome_of(made.difference_from_reference(name, label), label) for label in (DYNAMICS, FIDELITY)}
    if {BETTER, WORSE} <= both:
        return TRADE
    return next((word for word in (BETTER, WORSE, CANNOT_TELL) if word in both), FEW)


def clips_kept(run: RunSpec) -> int:
    """The number of clips in a run's replay buffers, over all domains."""
    kept = 0
    for world in run.replay.domains:
        assert isinstance(world, WorldSpec)
        there = world.videos[0] * len(range(0, world.frames - CLIP_FRAMES + 1, clips.STRIDE))
        kept += min(run.replay.buffer_clips or there, there)
    return kept


# ------------------------------------------------------------------------------------------------------------- reading
def name_of(variation: Variation) -> str:
    """The configuration of a variation, with the name of replay 0 % that all figures and tables have; the published table of
    runs keeps the variation's own.
    """
    return variation.name.replace(NO_REPLAY.name, NONE)


def by_replay(runs: Sequence[RunSpec]) -> list[tuple[RunSpec, str, str]]:
    """Runs of a sweep with their group and configuration; near replay is in the group of replay 0 %, as in the ablations."""
    named = []
    for run in runs:
        kind = run.replay.name
        name = f"{kind} replay {percent(run.replay.fraction)}" if kind else NONE
        named.append((run, f"{kind} replay" if kind not in ("", "near") else NO_REPLAY.group, name))
    return named


def configurations_of(
    preset: str, title: str, named: Sequence[tuple[RunSpec, str, str]], home: Path, ordinary: str, eventful: str
) -> Configurations:  # fmt: skip
    """Runs, each with its group and its configuration, in their current state in the store `home`; nothing is trained."""
    lines, store = [], Store(home)
    for run, group, name in named:
        done = store.is_done(run)
        seconds = store.summary(run.run_id)["seconds"] if done else None
        step_seconds = store.seconds_a_step(run.run_id) if done else None
        lines.append((
            run.run_id, group, name, run.base, run.replay.name, run.replay.fraction, run.seed, "done" if done else "missing",
            seconds, step_seconds, run.training.steps, clips_kept(run),
        ))  # fmt: skip
    runs = pd.DataFrame(lines, columns=RUN).astype({"seconds": float, "step_seconds": float})
    runs = runs.drop_duplicates("run").reset_index(drop=True)
    measures = {one for measure, _ in MEASURES.values() for one in (measure, PSEUDO.get(measure, measure))}
    rows = store.table([run for run, _, _ in named], measures)
    made = Configurations(preset, title, ordinary, eventful, rows, runs, named)
    domains = {made.measured(label)[1] for label in MEASURES}
    return replace(made, rows=rows.loc[rows["domain"].isin(domains), COLUMNS].reset_index(drop=True))
