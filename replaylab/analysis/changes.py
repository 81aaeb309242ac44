"""After − before: each run compared with its base, clip by clip; and the last step of each run.

Decision: every comparison of the library uses these two tables, so that 'before' is defined once.

Refused: runs whose base was not measured, runs and bases with different clips, two values of one clip, and runs of one
configuration that end at different steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

FINE_TUNED = "fine-tuned"  # the model of the rows of runs
RUN = ["run", "base", "target", "replay", "replay_fraction", "seed"]


def of_measure(rows: pd.DataFrame, measure: str, domain: str) -> pd.DataFrame:
    """The rows, or averaged values, of a measure in a domain."""
    return rows[(rows["measure"] == measure) & (rows["domain"] == domain)]


def before_and_after(rows: pd.DataFrame, measure: str, domain: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """For each run and step (RUN, step) and scene (columns): the value of its base, and its own.

    A measure of a whole set has one column. Missing values of clips are NaN. ValueError if a run's base was not measured, if
    the clips of both differ, or if a clip has two values.
    """
    here = of_measure(rows, measure, domain)
    after = _by_scene(here[here["model"] == FINE_TUNED], [*RUN, "step"], measure, domain)
    before = _by_scene(here[here["model"] == "base"], ["base"], measure, domain)
    bases = after.index.get_level_values("base")
    if missing := set(bases) - set(before.index):
        raise ValueError(f"rows hold runs from the base {min(missing)} without that base's own {measure} in {domain}")
    if len(after) and set(after.columns) != set(before.columns):
        raise ValueError(f"{measure} in {domain}: the runs and their bases have other clips")
    return before.loc[bases, after.columns].set_axis(after.index), after


def _by_scene(rows: pd.DataFrame, keys: list[str], measure: str, domain: str) -> pd.DataFrame:
    # As set_index and unstack would have it. The first key says all others but the step, so only these are compared.
    lines, of = pd.factorize(rows[keys[0]], sort=True)
    if "step" in keys:
        lines, of = pd.factorize(lines * (rows["step"].max() + 1) + rows["step"].to_numpy(), sort=True)
    columns, scenes = pd.factorize(rows["scene"], sort=True)
    places = lines * len(scenes) + columns
    if len(np.unique(places)) < len(places):
        raise ValueError(f"rows hold two values of one scene for one {keys[0]} ({measure} in {domain})")
    values = np.full(len(of) * len(scenes), np.nan)
    values[places] = rows["value"]
    firsts = rows[keys].iloc[np.unique(lines, return_index=True)[1]]
    index = pd.MultiIndex.from_frame(firsts) if len(keys) > 1 else pd.Index(firsts[keys[0]])
    return pd.DataFrame(values.reshape(len(of), len(scenes)), index, pd.Index(scenes, name="scene"))


def last_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run at its own last step, from a table with `run` and `step` as columns or in its index."""
    steps = table.index.to_frame(index=False) if "step" in table.index.names else table[["run", "step"]]
    last = steps.groupby("run", observed=True)["step"].transform("max")
    return table[(steps["step"] == last).to_numpy()]


def check_ends(runs: pd.DataFrame, configuration: Sequence[str]) -> None:
    """ValueError, with the runs and their last steps, if runs with equal values in these columns end at different steps."""
    ends = runs.groupby([*configuration, "run"], observed=True)["step"].max()
    for name, of in ends.groupby(level=list(configuration), observed=True):
        if of.nunique() > 1:
            words = ", ".join(f"{run} at {step}" for run, step in of.droplevel(list(configuration)).items())
            raise ValueError(f"runs of one configuration {name} end at different steps ({words}); give those of one sweep")
