"""Averaged tables of rows: one value per run, or one value per configuration.

Decision: a value is first the mean over a run's clips, then the mean over seeds. The reference baselines (real,
autoencoder, copy-last-frame, base) are part of every table, so that no value is read without them.

Refused: rows without references, rows of more than one split, runs of different lengths, and intervals from fewer than
three seeds.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from replaylab.analysis.changes import FINE_TUNED, RUN, check_ends, of_measure
from replaylab.analysis.statistics import SEEDS_FOR_AN_INTERVAL, half_width
from replaylab.catalogue import DENOISING
from replaylab.util.text import percent

NONE = "replay 0 %"  # the name of the configuration without replay
FLOORS = {"real": "real", "autoencoder": "autoencoder", "copy-last-frame": "copy last frame"}
REFERENCES = {**FLOORS, "constant-velocity": "constant velocity"}  # the last has boxes and no pictures
CHANGED = ["model", *RUN, "step", "domain", "measure", "scene", "value"]  # columns that determine a change


def for_changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Only the columns that determine changes and verdicts, with texts as categories, which are numbers to compare: judging
    takes half the time.
    """
    texts = [name for name in CHANGED if not is_numeric_dtype(rows[name].dtype)]
    return rows[CHANGED].astype(dict.fromkeys(texts, "category"))


def per_run(rows: pd.DataFrame) -> pd.DataFrame:
    """One value per run, step, domain and measure: the mean over its clips, for runs and references alike.

    Adds the configuration's name ("replay 25 %", "base", "copy last frame"), the split, and `clips`, the number with a
    value; `n` is the total number of agent-frames or frames. The result is returned unchanged if it is given again. Raises
    ValueError if a reference is missing, if splits are mixed, or if a configuration's runs end at different steps.
    """
    if "configuration" in rows:
        return rows
    split = split_of(rows)
    keys = ["run", "model", "replay", "replay_fraction", "seed", "step", "domain", "measure"]
    kinds = rows.dtypes[keys].to_dict()
    # Of millions of rows: their texts are compared once.
    short = rows[[*keys, "value", "n"]].astype({key: "category" for key in keys if not is_numeric_dtype(kinds[key])})
    _check(short)
    grouped = short.dropna(subset=["value"]).groupby(keys, dropna=False, observed=True, as_index=False)
    runs = grouped.agg(value=("value", "mean"), clips=("value", "size"), n=("n", "sum")).astype(kinds)
    # Without replay the kind of replay means nothing: those runs are one configuration.
    runs["replay"] = runs["replay"].where(~(runs["replay_fraction"] <= 0), "")
    name_the_kind = runs.loc[runs["replay_fraction"] > 0, "replay"].nunique() > 1
    names = [_configuration_name(one, name_the_kind) for one in runs.itertuples()]
    return runs.assign(split=split, configuration=names)


def per_configuration(rows: pd.DataFrame) -> pd.DataFrame:
    """One value per configuration, step, domain and measure: the mean over the seeds of `per_run`.

    Adds `seeds`, and `low` and `high`, the 95 % t interval over seeds: NaN with fewer than three. `clips` and
    `n` are those of one run.
    """
    keys = ["configuration", "model", "replay", "replay_fraction", "step", "domain", "measure"]
    grouped = per_run(rows).groupby(keys, dropna=False, observed=True, as_index=False)
    names = grouped.agg(
        value=("value", "mean"), spread=("value", "std"), seeds=("value", "size"), clips=("clips", "first"), n=("n", "first")
    )
    half = half_width(names["spread"], names["seeds"]).where(names["seeds"] >= SEEDS_FOR_AN_INTERVAL)
    return names.drop(columns="spread").assign(low=names["value"] - half, high=names["value"] + half)


def last_step(values: pd.DataFrame) -> pd.DataFrame:
    """The references in `per_run` or `per_configuration`, and fine-tuned models at their configuration's own last step."""
    return values[values["step"] == values.groupby("configuration")["step"].transform("max")]


def side_by_side(values: pd.DataFrame, x: tuple[str, str], y: tuple[str, str], by: list[str]) -> pd.DataFrame:
    """Two measures, each in a domain, for rows with both: columns x and y, and x_low, ..., if there are intervals."""
    ends = [end for end in ("low", "high") if end in values]
    sides = []
    for axis, (measure, domain) in (("x", x), ("y", y)):
        names = {"value": axis, **{end: f"{axis}_{end}" for end in ends}}
        sides.append(of_measure(values, measure, domain).set_index(by)[list(names)].rename(columns=names))
    return sides[0].join(sides[1], how="inner")


def drawn(rows: pd.DataFrame, panels: Sequence[tuple[str, str]], *, at_the_end: bool = False) -> pd.DataFrame:
    """The values of each run and reference in a figure's panels (measure, domain), for `csv_link`; empty without rows."""
    columns = ["configuration", "run", "seed", "step", "domain", "measure", "value", "clips"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    values = per_run(rows)
    values = last_step(values) if at_the_end else values
    shown = pd.MultiIndex.from_frame(values[["measure", "domain"]]).isin(list(panels))
    return values.loc[shown, columns]


def split_of(rows: pd.DataFrame) -> str:
    """The common split of all rows; ValueError without rows, or for several splits."""
    if rows.empty:
        raise ValueError("no rows: the store holds neither a finished run nor the references; run the sweep")
    splits = sorted(rows["split"].unique())
    if len(splits) != 1:
        raise ValueError(f"rows hold {len(splits)} splits ({', '.join(splits)}): give the rows of one split")
    return str(splits[0])


def _check(rows: pd.DataFrame) -> None:
    there = rows[["domain", "measure", "model"]].drop_duplicates().astype(str)
    for (domain, measure), models in there.groupby(["domain", "measure"])["model"]:
        needed = {"base"} if str(measure).startswith(DENOISING) else {*FLOORS, "base"}
        # A real clip against itself has no finite PSNR.
        missing = needed - set(models) - ({"real"} if measure == "psnr_db" else set())
        if missing:
            raise ValueError(
                f"rows hold {measure} in domain {domain} without its references "
                f"{', '.join(sorted(missing))}: evaluate them into the same store"
            )
    check_ends(rows[rows["model"] == FINE_TUNED], ["replay", "replay_fraction"])


def _configuration_name(one: Any, name_the_kind: bool) -> str:
    if one.model != FINE_TUNED:
        return REFERENCES.get(one.model, one.model)
    kind = f"{one.replay} " if name_the_kind and one.replay else ""
    return f"{kind}replay {percent(one.replay_fraction)}"
