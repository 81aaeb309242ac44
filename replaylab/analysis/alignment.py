"""Whether fidelity and dynamics improve together: the values of claim C3, from the rows of several sweeps.

Decision: all values are changes from the run's own base on the same clips, so runs of both bases can be combined. In
pairs of two measures both changes are converted to gains, which are positive where the model improves. ρ within a run is
computed as preregistered (`claims.alignments`), which alone determines the verdict, and in other, exploratory ways.

Refused: sweeps that measure different clips, and what `changes` refuses. Missing runs are counted in `Sweeps.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.analysis import claims, statistics
from replaylab.analysis.changes import FINE_TUNED, RUN, before_and_after, last_steps, of_measure
from replaylab.analysis.claims import Configuration
from replaylab.catalogue import ALIGNMENT, PSEUDO, measure_of
from replaylab.spec import RunSpec
from replaylab.store import COLUMNS, Store, store_of
from replaylab.sweeps.presets import grid
from replaylab.worlds.named import domain_spec

(CLAIM,) = [claim for claim in claims.CLAIMS if claim.measure == ALIGNMENT]
ORDINARY, EVENTFUL, HELD_OUT = "driving", CLAIM.domain, "driving-held-out"
DOMAINS = (ORDINARY, EVENTFUL, HELD_OUT)
FIDELITY, DYNAMICS, PULL = "effnet_kd", "ade_px", "pull_to_mean"
OF_A_CLIP = ("effnet_perceptual", "psnr_db", "ssim", PSEUDO["effnet_kd"])
"""Visual measures of single clips. The last one is not a fidelity of a clip: see the page."""
WHOLE = (FIDELITY, DYNAMICS, PULL)  # one value a run
MEASURES = (*WHOLE, *OF_A_CLIP)
SETTLED = 50  # the step before which EffNet-KD rises whatever is trained on
PREREGISTERED, LATE, WITH_BASE = "all checkpoints", f"from step {SETTLED} on", "the base counted too"
READINGS = (PREREGISTERED, LATE, WITH_BASE)
CONFIGURATION = ["target", "replay", "replay_fraction"]


@dataclass(frozen=True)
class Sweeps:
    """The current state of several sweeps, each run and each reference once."""

    presets: tuple[str, ...]
    split: str
    rows: pd.DataFrame
    """of finished runs and their references (`store.COLUMNS`), of DOMAINS and MEASURES"""
    runs: pd.DataFrame
    """one row per run of the presets: run, preset (the first that has it), base, target, replay, replay_fraction, seed,
    state"""
    specs: tuple[RunSpec, ...] = ()
    """the same runs"""

    @cached_property
    def values(self) -> pd.DataFrame:
        """One value for each of RUN, model, step, domain and measure: the mean over clips."""
        whole = self.rows[self.rows["measure"].isin(WHOLE)]
        keys = [*RUN, "model", "step", "domain", "measure"]
        return whole.groupby(keys, dropna=False, as_index=False)["value"].mean()

    @cached_property
    def changes(self) -> pd.DataFrame:
        """Changes of every run and step, for WHOLE and DOMAINS: RUN, step, domain, measure, value, before, change."""
        parts = []
        for measure, domain in product(WHOLE, DOMAINS):
            before, after = (table.mean(axis=1) for table in before_and_after(self.rows, measure, domain))
            table = pd.DataFrame({"value": after, "before": before, "change": after - before})
            parts.append(table.reset_index().assign(domain=domain, measure=measure))
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def clip_changes(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Measure of a clip and domain -> the changes of runs without replay at their last step (RUN; scenes)."""
        rows = self.rows[(self.rows["model"] == "base") | (self.rows["replay_fraction"] == 0)]
        tables = {}
        for measure, domain in product((*OF_A_CLIP, DYNAMICS), (ORDINARY, EVENTFUL)):
            before, after = before_and_after(rows, measure, domain)
            tables[measure, domain] = last_steps(after - before)
        return tables

    @cached_property
    def rhos(self) -> pd.DataFrame:
        """ρ within each run without replay, in every reading: target, domain, reading, seed, base, rho."""
        columns = ["target", "domain", "reading", "seed", "base", "rho"]
        parts = [pd.DataFrame(columns=columns).astype({"seed": int, "rho": float})]
        for reading in READINGS:
            values = _read_as(self.values, reading)
            for target, domain in product(self.done_targets, DOMAINS):
                found = claims.alignments(values, Configuration(target=target), domain)
                if len(found):
                    line = found.rename("rho").reset_index()
                    parts.append(line.assign(target=target, domain=domain, reading=reading)[columns])
        return pd.concat(parts[1:] or parts, ignore_index=True).dropna(subset=["rho"])

    def rhos_of(self, domain: str, reading: str) -> pd.DataFrame:
        """The lines of `rhos` of a domain in a reading."""
        return self.rhos[(self.rhos["domain"] == domain) & (self.rhos["reading"] == reading)]

    @cached_property
    def clip_rhos(self) -> pd.DataFrame:
        """ρ over clips: target, domain, measure, rho, low, high (NaN for fewer than three seeds), seeds, clips."""
        lines = [
            (target, domain, measure, *found)
            for target, domain, measure in product(self.done_targets, (ORDINARY, EVENTFUL), OF_A_CLIP)
            if (found := _clip_rho(*clip_gains(self, target, measure, domain)))
        ]
        columns = ["target", "domain", "measure", "rho", "low", "high", "seeds", "clips"]
        return pd.DataFrame(lines, columns=columns)

    @property
    def targets(self) -> list[str]:
        """The targets of runs without replay, finished or not: by dose, then those without a dose."""
        asked = set(self.without_replay["target"])
        return sorted(asked, key=lambda target: (np.nan_to_num(dose(target), nan=2), target))

    @property
    def done_targets(self) -> list[str]:
        """The targets with a finished run without replay, in their order."""
        there = set(self.without_replay.loc[self.without_replay["state"] == "done", "target"])
        return [target for target in self.targets if target in there]

    @property
    def without_replay(self) -> pd.DataFrame:
        """The runs without replay."""
        return self.runs[self.runs["replay_fraction"] == 0]


def read(presets: Sequence[str], seeds: Sequence[int] = (), store: str | Path = "") -> Sweeps:
    """The finished runs of some presets; nothing is trained. An empty `seeds` or `store` means the presets' own.

    Raises ValueError for no or an unknown preset, and for presets that measure different clips.
    """
    if not presets:
        raise ValueError("presets is empty: name at least one, such as published")
    grids = {preset: grid(preset, None, list(seeds)) for preset in presets}
    specs = {spec.run_id: spec for of in grids.values() for spec in of}
    preset_of = {spec.run_id: preset for preset, of in reversed(grids.items()) for spec in of}
    if len({spec.evaluation for spec in specs.values()}) > 1:
        raise ValueError(
            f"presets {', '.join(presets)} do not measure the same clips; name some that do, such as published and dose, "
            "or pilot and pilot-diverse"
        )
    kept = Store(store_of(presets[0], store))  # presets that measure the same clips are kept in the same store
    rows = kept.table(list(specs.values()), MEASURES)
    rows = rows.loc[rows["domain"].isin(DOMAINS), COLUMNS].reset_index(drop=True)
    runs = [
        {"run": run, "preset": preset_of[run], "base": spec.base, "target": spec.target.name, "replay": spec.replay.name,
         "replay_fraction": spec.replay.fraction, "seed": spec.seed, "state": "done" if kept.is_done(spec) else "missing"}
        for run, spec in specs.items()
    ]  # fmt: skip
    split = next(iter(specs.values())).evaluation.split
    return Sweeps(tuple(presets), split, rows, pd.DataFrame(runs), tuple(specs.values()))


def dose(target: str) -> float:
    """The share of eventful clips in a target; NaN where it is undefined: one repeated event, or free motion."""
    world = domain_spec(target)
    return {"ordinary": 0.0, "eventful": world.eventful_share}.get(world.motion, float("nan"))


# -------------------------------------------------------------------------------------------------------- within a run
def _read_as(values: pd.DataFrame, reading: str) -> pd.DataFrame:
    tuned = values["model"] == FINE_TUNED
    if reading == LATE:
        return values[~tuned | (values["step"] >= SETTLED)]
    if reading == WITH_BASE:
        of_runs = values.loc[tuned, [*RUN, "model"]].drop_duplicates()
        of_bases = values.loc[values["model"] == "base", ["base", "step", "domain", "measure", "value"]]
        return pd.concat([values, of_runs.merge(of_bases, on="base")], ignore_index=True)
    return values


def rho_minus_ordinary(
    made: Sweeps, target: str, reading: str = PREREGISTERED, domain: str = EVENTFUL
) -> pd.Series[float]:  # fmt: skip
    """ρ with ADE on eventful driving (or another domain) for a target − ρ for ordinary driving as target, by seed and
    base, for the runs that both have.
    """
    table = made.rhos_of(domain, reading)
    of = [table[table["target"] == one].set_index(["seed", "base"])["rho"] for one in (target, ORDINARY)]
    return (of[0] - of[1]).dropna()


def gains(made: Sweeps, domain: str) -> pd.DataFrame:
    """Every run at every step: RUN, step, `fidelity` (gain in EffNet-KD on ordinary driving) and `dynamics` (in ADE, px)."""
    both = [
        -of_measure(made.changes, measure, of).set_index([*RUN, "step"])["change"]
        for measure, of in ((FIDELITY, ORDINARY), (DYNAMICS, domain))
    ]
    return pd.concat(both, axis=1, keys=["fidelity", "dynamics"], join="inner").dropna().reset_index()


# ------------------------------------------------------------------------------------- at the last step: configurations
def rhos_across(made: Sweeps, domain: str) -> tuple[NDArray[np.float64], int]:
    """ρ per seed over the configurations that all seeds have, at the last step, and their number; none for fewer than 3."""
    here = last_steps(gains(made, domain))
    pair = [here.pivot(index="seed", columns=CONFIGURATION, values=of).dropna(axis=1) for of in ("fidelity", "dynamics")]
    count = pair[0].shape[1]
    if count < 3 or not _vary(pair[0].to_numpy(), pair[1].to_numpy()):
        return np.empty(0), count
    return statistics.alignments(*pair), count


def _vary(*tables: NDArray[np.float64]) -> bool:
    return all((np.ptp(table, axis=1) > 0).all() for table in tables)


# ------------------------------------------------------------------------------------------- at the last step: clips
def clip_gains(made: Sweeps, target: str, measure: str, domain: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains of each clip (S, N) in `measure` and in ADE, without replay; only clips with both in every run."""
    both = []
    for one in (measure, DYNAMICS):
        changes = made.clip_changes[one, domain]
        both.append((-1 if measure_of(one).better == "low" else 1) * changes.xs(target, level="target"))
    clips = both[0].columns.intersection(both[1].columns)
    fidelity, dynamics = (gains[clips].to_numpy(np.float64) for gains in both)
    whole = np.isfinite(fidelity).all(0) & np.isfinite(dynamics).all(0)
    return fidelity[:, whole], dynamics[:, whole]


def _clip_rho(fidelity: NDArray[np.float64], dynamics: NDArray[np.float64]) -> tuple[float, float, float, int, int] | None:
    """ρ, its interval, the numbers of seeds and clips; None if the rank correlation is undefined."""
    seeds, clips = fidelity.shape
    if not seeds or clips < 4 or not _vary(fidelity, dynamics):
        return None
    if seeds < statistics.SEEDS_FOR_AN_INTERVAL:
        return float(statistics.alignments(fidelity, dynamics).mean()), np.nan, np.nan, seeds, clips
    found = statistics.alignment_per_clip(fidelity, dynamics)
    return found.estimate, found.low, found.high, seeds, clips
