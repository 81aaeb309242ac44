"""The top of a page with a reader's own runs: what ran and how long it took, comparison with the published results, clips,
and next steps.

Decision: the direction of an effect is the sign of its change; it is compared with the published one if that interval
excludes 0. Both numbers are shown side by side, and the reader's runs give no verdict. On the published pages these
functions return the published content: the claims' verdicts at the top, and the clips further down.

Refused: what `tables.per_run` and `claims.changes` refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from replaylab.analysis import statistics
from replaylab.analysis.changes import last_steps, of_measure
from replaylab.analysis.claims import Configuration, changes
from replaylab.analysis.statistics import SEEDS_FOR_AN_INTERVAL, Interval, interval
from replaylab.analysis.tables import drawn
from replaylab.catalogue import MAIN_FRACTION, domain_of, measure_of
from replaylab.pages import explorer, finetune_degradation, replay_sweep, sample_clips, verdicts
from replaylab.pages.style import IntervalCell, csv_link, styled
from replaylab.pages.verdicts import PREREGISTERED
from replaylab.store import Store, published_folder
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import grid
from replaylab.sweeps.sweep import Table
from replaylab.util.text import counted, duration, percent

PUBLISHED = PREREGISTERED[0]
COMPARED = (("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"))
THE_SAME, OPPOSITE, UNKNOWN = "the same", "opposite", "the published runs show none"
ABOVE = HTML("<p>The clips of this run stand at the top of the page.</p>")


@dataclass(frozen=True)
class Comparison:
    """One effect, here and in the published runs."""

    effect: str
    measure: str
    own: Interval
    published: Interval | None

    @property
    def direction(self) -> str:
        """THE_SAME, OPPOSITE or UNKNOWN."""
        if self.published is None or statistics.side(self.published) not in ("above", "below"):
            return UNKNOWN
        return THE_SAME if np.sign(self.own.estimate) == np.sign(self.published.estimate) else OPPOSITE


def is_own(table: Table) -> bool:
    """Whether these are a reader's own runs: not in the published store, and not a replication of the preregistered runs."""
    return table.preset not in PREREGISTERED and table.store != published_folder()


# ------------------------------------------------------------------------------------------------------- what is compared
def compared(table: Table, published: pd.DataFrame) -> list[Comparison]:
    """The effects of fine-tuning without replay, then of replay, at the last step; those that this run has.

    Replay is the most below all that was run here, against none, beside that share of near replay in the rows of
    `published`, or MAIN_FRACTION of it where that was not published.
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
            effect = f"{where}: {percent(shares[-1])} replay, against none"
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


# ------------------------------------------------------------------------------------------------------------- on the page
def opening(table: Table, names: Sequence[str], options: str = "", beside: Sequence[str] = ()) -> str:
    """Markdown: for a run of the reader's a banner, else `verdicts.opening_of`."""
    if not is_own(table):
        return verdicts.opening_of(table, names, options, beside)
    done = table.runs[table.runs["state"] == "done"]
    title = f"**Your run**: preset *{table.preset}*, {len(done)} of {len(table.runs)} runs complete"
    if done.empty:
        return f"{title}. The table of runs at the end of this page has the reason for each."
    seeds, steps = done["seed"].nunique(), table.specs[0].training.steps
    shares = ", ".join(percent(share) for share in sorted(done["replay_fraction"].unique()))
    title += f": {steps} steps of fine-tuning with {shares} replay, {counted(seeds, 'seed')}, the *{table.split}* split."
    cost = f"**It took** {verdicts.cost_in_words(table.runs, table.store)}"
    return "\n\n".join([title, cost, _agreement(_effects(table), seeds)])


def effects_table(table: Table) -> Styler | None:
    """The effects of a reader's run beside the published ones; nothing on the published pages."""
    if not is_own(table) or not (table.runs["state"] == "done").any():
        return None
    return _side_by_side(_effects(table))


def _effects(table: Table) -> list[Comparison]:
    published = sweep.read(PUBLISHED, [0.0, *_shares(table)], store=published_folder(), measures=verdicts.JUDGED)
    return compared(table, published.rows)


def _shares(table: Table) -> list[float]:
    """The published fractions to read: those run here, and MAIN_FRACTION."""
    there = {spec.replay.fraction for spec in grid(PUBLISHED)}
    return sorted({MAIN_FRACTION, *(spec.replay.fraction for spec in table.specs)} & there - {0.0, 1.0})


def _agreement(effects: Sequence[Comparison], seeds: int) -> str:
    if not effects:
        return "No run without replay is finished, so there is nothing to compare."
    known = [one for one in effects if one.direction != UNKNOWN]
    if not known:
        return "The published results are not here to compare with: they lie in book/results."
    same = sum(one.direction == THE_SAME for one in known)
    text = f"**{same} of {len(known)} directions agree** with the published ones."
    if seeds < SEEDS_FOR_AN_INTERVAL:
        text += f" With {counted(seeds, 'seed')} there is no interval: a direction may be chance."
    return text


def _side_by_side(effects: Sequence[Comparison]) -> Styler:
    lines = []
    for one in effects:
        own, published = (
            IntervalCell(interval([]) if found is None else found, measure_of(one.measure).digits)
            for found in (one.own, one.published)
        )
        lines.append({"change": one.effect, "this run": own, "published": published, "direction": one.direction})
    return styled(pd.DataFrame(lines), "own-effects").hide(axis="index")


def clips_first(table: Table) -> HTML | None:
    """A reader's clips, at the top; nothing on the published pages, whose clips have a place of their own."""
    return explorer.player(sample_clips.main_sample_clips(table)) if is_own(table) else None


def clips(table: Table) -> HTML:
    """The clips in their place; of a reader's run, where they stand."""
    return ABOVE if is_own(table) else explorer.player(sample_clips.main_sample_clips(table))


def next_steps(table: Table, page: str = "03_replay_sweep") -> Markdown | None:
    """What a reader can run next, and what it costs by the times of this run and of the published ones; nothing on the
    published pages.
    """
    done = table.runs[table.runs["state"] == "done"]
    if not is_own(table) or done.empty:
        return None
    lines = []
    seconds = [Store(table.store).summary(run)["seconds"] for run in done["run"]]
    seeds = sorted(set(table.runs["seed"]))
    if len(seeds) < SEEDS_FOR_AN_INTERVAL:
        more = [seed for seed in range(SEEDS_FOR_AN_INTERVAL + len(seeds)) if seed not in seeds]
        every = [*seeds, *more[: SEEDS_FOR_AN_INTERVAL - len(seeds)]]
        count = len(table.runs) // len(seeds) * (len(every) - len(seeds))
        command = (
            f'papermill book/{page}.ipynb book/runs/{table.preset}-seeds.ipynb -p preset {table.preset} -y "seeds: {every}"'
        )
        lines.append(
            f"- **Intervals**, which take {SEEDS_FOR_AN_INTERVAL} seeds: {counted(count, 'run')} more, about "
            f"{duration(count * median(seconds))} on this machine.\n\n  ```bash\n  {command}\n  ```"
        )
    published = sweep.read(PUBLISHED, store=published_folder(), measures=[])
    lines.append(
        f"- **The preregistered sweep**: {verdicts.cost_in_words(published.runs, published.store)}\n\n  ```bash\n"
        f"  python -m replaylab sweep --preset {PUBLISHED} --store FOLDER\n  ```"
    )
    lines.append("- **Your own model and videos**: the page *Your own model, your own videos* says what they take.")
    return Markdown("\n".join(["**What to run next**", "", *lines]))


def control(table: Table) -> Table:
    """`verdicts.control`, which is published: beside a reader's run without its rows."""
    found = verdicts.control()
    return replace(found, rows=found.rows.iloc[:0]) if is_own(table) else found


def control_values(found: Table) -> HTML | None:
    """A link to the values of the control, where it is shown."""
    values = drawn(found.rows, replay_sweep.TRADEOFF)
    return csv_link(values, "control") if len(values) else None


def budgets(table: Table) -> pd.DataFrame:
    """`verdicts.budgets`, which is published; empty on a page of a reader's run."""
    return pd.DataFrame() if is_own(table) else verdicts.budgets()
