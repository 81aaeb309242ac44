"""A reader's own runs on the pages of a sweep, which train them: their effects, the clips, and what is left out beside them.

Decision: the top of the page is that of `own_results`. On the published pages these functions return the published content:
the claims' verdicts at the top, the clips further down, and the sections on published runs.

Refused: what `tables.per_run` and `claims.changes` refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from replaylab.analysis import statistics
from replaylab.analysis.changes import last_steps, of_measure
from replaylab.analysis.claims import Configuration, changes
from replaylab.analysis.statistics import Interval, interval
from replaylab.analysis.tables import NONE, drawn
from replaylab.catalogue import MAIN_FRACTION, domain_of, measure_of
from replaylab.pages import explorer, finetune_degradation, own_results, replay_sweep, sample_clips, second_edition, verdicts
from replaylab.pages.own_results import PUBLISHED, Comparison, OwnRun
from replaylab.pages.style import csv_link
from replaylab.store import published_folder
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.sweeps.sweep import Table
from replaylab.util.text import percent

COMPARED = (("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"))
ABOVE = HTML("<p>The clips of this run are at the top of the page.</p>")


def is_own(table: Table) -> bool:
    """Whether these are a reader's own runs (`own_results.is_own`)."""
    return own_results.is_own(table.store, [table.preset], table.runs)


def of_table(table: Table, page: str = "03_replay_sweep") -> OwnRun | None:
    """A reader's own runs of a sweep; None for published ones."""
    if not is_own(table):
        return None
    done = table.runs[table.runs["state"] == "done"]
    fractions = list(dict.fromkeys(spec.replay.fraction for spec in table.specs))
    return OwnRun(
        page, table.runs.assign(preset=table.preset), table.store,
        own_results.sweep_in_words(table.specs[0].training.steps, done["replay_fraction"]), partial(_effects, table),
        f"-p preset {table.preset}", [] if fractions == list(PRESETS[table.preset].replay_fractions) else fractions,
        trains=True,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- what is compared
def compared(table: Table, published: pd.DataFrame) -> list[Comparison]:
    """The effects of fine-tuning without replay, then of replay, at the last step; those that this run has.

    The effect of replay is the change at the largest replay fraction below 100 % in these runs − that at replay 0 %. It is
    compared with the same fraction of near replay in the rows of `published`, or with MAIN_FRACTION if that is not there.
    """
    few = replace(table, rows=table.rows[table.rows["measure"].isin(verdicts.JUDGED)])
    of_runs = last_steps(finetune_degradation.read(few).of_runs)
    of_runs = of_runs.merge(table.runs[["run", "replay", "replay_fraction"]], on="run")
    replayed = of_runs[(of_runs["replay_fraction"] > 0) & (of_runs["replay_fraction"] < 1)]
    kinds = sorted(replayed["replay"].unique(), key=lambda kind: kind != "near")
    shares = sorted(replayed.loc[replayed["replay"].isin(kinds[:1]), "replay_fraction"].unique())
    published_shares = set(published["replay_fraction"]) if len(published) else set()
    found = []
    for measure, domain in COMPARED:
        here = of_measure(of_runs, measure, domain)
        none = here[here["replay_fraction"] == 0].set_index("seed")["change"]
        where = f"{measure_of(measure).name}, {domain_of(domain).label}"
        if len(none):
            beside = _effect(published, measure, domain)
            found.append(Comparison(f"{where}: fine-tuning without replay", measure, interval(none), beside))
        if len(none) and shares:
            is_most = (here["replay_fraction"] == shares[-1]) & (here["replay"] == kinds[0])
            difference = (here[is_most].set_index("seed")["change"] - none).dropna()
            beside = _effect(published, measure, domain, shares[-1] if shares[-1] in published_shares else MAIN_FRACTION)
            effect = f"{where}: replay {percent(shares[-1])} − {NONE}"
            found.append(Comparison(effect, measure, interval(difference), beside))
    return found


def _effect(published: pd.DataFrame, measure: str, domain: str, share: float = 0.0) -> Interval | None:
    """The published change without replay, or that of a share of near replay − it, seed by seed and clip by clip."""
    if published.empty:
        return None
    none = changes(published, Configuration(), measure, domain)
    if none is None or not share:
        return None if none is None else statistics.seeds_and_scenes(none[0])
    replay = changes(published, Configuration("near", share), measure, domain)
    return None if replay is None else statistics.seeds_and_scenes(replay[0] - none[0])


def _effects(table: Table) -> list[Comparison]:
    published = sweep.read(PUBLISHED, [0.0, *_shares(table)], store=published_folder(), measures=verdicts.JUDGED)
    return compared(table, published.rows)


def _shares(table: Table) -> list[float]:
    """The published fractions to read: those run here, and MAIN_FRACTION."""
    there = {spec.replay.fraction for spec in grid(PUBLISHED)}
    return sorted({MAIN_FRACTION, *(spec.replay.fraction for spec in table.specs)} & there - {0.0, 1.0})


# ------------------------------------------------------------------------------------------------------------- on the page
def opening(table: Table, names: Sequence[str], options: str = "", beside: Sequence[str] = ()) -> str:
    """Markdown: the banner of a reader's own runs, or else `verdicts.opening_of`, with the second edition's verdicts."""
    if own := of_table(table):
        return own_results.banner(own)
    return verdicts.opening_of(table, names, options, [*second_edition.beside(names), *beside])


def effects_table(table: Table) -> Styler | None:
    """The effects of a reader's own runs beside the published ones; None on the published pages."""
    return own_results.effects_table(of_table(table))


def clips_first(table: Table) -> HTML | None:
    """A reader's clips, at the top; None on the published pages, where the clips are further down."""
    return explorer.player(sample_clips.main_sample_clips(table)) if is_own(table) else None


def clips(table: Table) -> HTML:
    """The clips in their section; for a reader's own runs, a note that they are at the top."""
    return ABOVE if is_own(table) else explorer.player(sample_clips.main_sample_clips(table))


def next_steps(table: Table, page: str = "03_replay_sweep") -> Markdown | None:
    """What a reader can run next, and its cost; None on the published pages."""
    return own_results.next_steps(of_table(table, page))


def control(table: Table) -> Table:
    """`verdicts.control`, which is published; without its rows beside a reader's own runs."""
    found = verdicts.control()
    return replace(found, rows=found.rows.iloc[:0]) if is_own(table) else found


def control_values(found: Table) -> HTML | None:
    """A link to the values of the control, if it is shown."""
    values = drawn(found.rows, replay_sweep.TRADEOFF)
    return csv_link(values, "control") if len(values) else None


def budgets(table: Table) -> pd.DataFrame:
    """`verdicts.budgets`, which is published; empty on a page of a reader's own runs."""
    return pd.DataFrame() if is_own(table) else verdicts.budgets()
