"""A reader's own runs at the top of a page: what ran, its cost, effects beside the published ones, clips, and next steps.

Decision: the direction of an effect is the sign of its change; it is compared with the published one if that interval
excludes 0. Both numbers are shown side by side, and a reader's runs give no verdict. A complete replication of the
preregistered runs does, so it does not count as a reader's own.

Not here: the effects of each page, which are computed by its module.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from replaylab.analysis import statistics
from replaylab.analysis.statistics import SEEDS_FOR_AN_INTERVAL, Interval, interval
from replaylab.catalogue import domain_of, measure_of
from replaylab.pages import explorer, sample_clips, verdicts
from replaylab.pages.style import IntervalCell, styled
from replaylab.pages.verdicts import PREREGISTERED
from replaylab.spec import RunSpec
from replaylab.store import Store, published_folder, store_of
from replaylab.store.packed import RUNS
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import PRESETS
from replaylab.util.text import counted, duration, percent

PUBLISHED = PREREGISTERED[0]
THE_SAME, OPPOSITE, UNKNOWN = "the same", "opposite", "the published runs show none"


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


@dataclass(frozen=True)
class OwnRun:
    """A reader's own runs of a page."""

    page: str
    """the name of its notebook"""
    runs: pd.DataFrame
    """one row per requested run: run, preset, seed, state; presets in the order in which they are trained"""
    store: Path
    what: str
    """the finished runs in words (`sweep_in_words`)"""
    find_effects: Callable[[], Sequence[Comparison]]
    """computes the effects; called once, if they are shown"""
    options: str = ""
    """options of papermill for the page, besides its store, seeds and fractions"""
    fractions: Sequence[float] = ()
    """the requested replay fractions, if they are not the presets' own"""
    trains: bool = False
    """whether the page itself trains missing runs"""
    choosing: Collection[str] = ()
    """presets that only choose settings for the others, with their own seeds"""
    needed: str = "run without replay"
    """the run without which nothing can be compared"""
    find_shown: Callable[[], Mapping[str, RunSpec]] = dict
    """finds the finished runs of one seed whose clips are shown (`sample_clips.of_one_seed`), by their names in figures"""
    shown_rule: str = ""
    """which runs these are, in words"""
    shown_domain: str = sample_clips.OPENS_WITH
    """the domain of these clips"""

    @cached_property
    def effects(self) -> Sequence[Comparison]:
        """The effects beside the published ones."""
        return self.find_effects()

    @property
    def presets(self) -> list[str]:
        """The presets of the runs."""
        return list(dict.fromkeys(self.runs["preset"]))

    @property
    def done(self) -> pd.DataFrame:
        """The finished runs."""
        return self.runs[self.runs["state"] == "done"]

    def seeds(self, *, done: bool = False) -> list[int]:
        """The requested seeds, or those of the finished runs."""
        runs = self.done if done else self.runs
        return sorted(set(runs.loc[~runs["preset"].isin(list(self.choosing)), "seed"]))

    def training_commands(self, presets: Sequence[str], seeds: Sequence[int] = ()) -> list[str]:
        """The commands that train the runs of these presets with these seeds; by default with the requested ones."""
        seeds = seeds or self._seeds_option()
        groups = [[one for one in presets if (one in self.choosing) == is_choosing] for is_choosing in (True, False)]
        if not seeds or not all(groups):
            groups = [list(presets)]
        return [self._sweep(group, [] if set(group) <= set(self.choosing) else seeds) for group in groups]

    def _sweep(self, presets: Sequence[str], seeds: Sequence[int]) -> str:
        options = f" --replay-fractions {' '.join(f'{one:g}' for one in self.fractions)}" if self.fractions else ""
        options += f" --seeds {' '.join(map(str, seeds))}" if seeds else ""
        options += f" --store {shlex.quote(str(self.store))}"
        if len(presets) == 1:
            return f"python -m replaylab sweep --preset {presets[0]}{options}"
        return f"for preset in {' '.join(presets)}; do python -m replaylab sweep --preset $preset{options}; done"

    def page_command(self, seeds: Sequence[int] = ()) -> str:
        """The papermill command that makes the page, with these seeds or the requested ones."""
        name = self.page.partition("_")[2].replace("_", "-") + "-seeds" * bool(seeds)
        words = [f"papermill book/{self.page}.ipynb book/runs/{name}.ipynb", self.options]
        if seeds := seeds or self._seeds_option():
            words.append(f'-y "seeds: {list(seeds)}"')
        if self.fractions:
            words.append(f'-y "replay_fractions: [{", ".join(f"{one:g}" for one in self.fractions)}]"')
        if self.store != _default_store(self.presets[0]):
            words.append(f"-p store {shlex.quote(str(self.store))}")
        return " ".join(filter(None, words))

    def _seeds_option(self) -> list[int]:
        """The requested seeds, if they are not the presets' own."""
        own = {seed for one in self.presets if one not in self.choosing for seed in PRESETS[one].seeds}
        return [] if own == set(self.seeds()) else self.seeds()


def _default_store(preset: str) -> Path | None:
    """The store of a preset if none is given; None outside of the book."""
    try:
        return store_of(preset, "")
    except FileNotFoundError:
        return None


def is_own(store: Path, presets: Collection[str], runs: pd.DataFrame) -> bool:
    """Whether these runs are a reader's own: not in the published store, and not a complete replication of preregistered
    presets.
    """
    if store.resolve() == published_folder().resolve():
        return False
    return not (set(presets) <= set(PREREGISTERED) and (runs["state"] == "done").all())


def measured(effects: Sequence[Comparison]) -> list[Comparison]:
    """The effects that these runs have; without a published one where its runs are missing."""
    there = [one for one in effects if not np.isnan(one.own.estimate)]
    return [
        replace(one, published=None) if one.published is not None and np.isnan(one.published.estimate) else one
        for one in there
    ]


def sweep_in_words(steps: int, fractions: Collection[float]) -> str:
    """`OwnRun.what` of a sweep over replay fractions, such as "300 steps of fine-tuning with 0 %, 25 % replay"."""
    return f"{steps} steps of fine-tuning with {', '.join(percent(one) for one in sorted(set(fractions)))} replay"


# ------------------------------------------------------------------------------------------------------------- on the page
def banner(own: OwnRun) -> str:
    """Markdown: what ran, how long it took, and how many directions agree with the published ones; or how to train runs."""
    names = ", ".join(f"*{one}*" for one in own.presets)
    title = f"**Your run**: preset{'s' * (len(own.presets) > 1)} {names}, {len(own.done)} of {len(own.runs)} runs complete"
    if own.done.empty and own.trains:
        return f"{title}. The table of runs at the end of this page has the reason for each."
    if own.done.empty:
        return _nothing(own)
    splits = " and ".join(f"*{one}*" for one in dict.fromkeys(PRESETS[one].split for one in own.presets))
    seeds = len(own.seeds(done=True))
    title += f": {own.what}, {counted(seeds, 'seed')}, the {splits} split{'s' * (' and ' in splits)}."
    cost = f"**It took** {verdicts.cost_in_words(own.runs, own.store)}"
    return "\n\n".join([title, cost, _agreement(own.effects, seeds, own.needed)])


def _nothing(own: OwnRun) -> str:
    commands = " && ".join(own.training_commands(own.presets))
    return f"**No run of this page is in `{own.store}`.** To train them: `{commands}`. {_expected_cost(own)}"


def _expected_cost(own: OwnRun) -> str:
    """The cost of the requested runs, by the times of the published ones."""
    seconds, summaries = 0.0, list[dict[str, Any]]()
    for preset, runs in own.runs.groupby("preset", sort=False):
        of_preset = _published_summaries(str(preset))
        if not of_preset:
            return f"That is {counted(len(own.runs), 'run')}; with `--dry-run`, the command estimates their time."
        seconds += len(runs) * median(one["seconds"] for one in of_preset)
        summaries += of_preset
    return (
        f"That is {counted(len(own.runs), 'run')}, about {duration(seconds)} one after the other by the times of the "
        f"published ones (on {verdicts.machines_in_words(summaries)})."
    )


def _published_summaries(preset: str) -> list[dict[str, Any]]:
    try:
        runs = sweep.read(preset, store=published_folder(), measures=[]).runs
    except FileNotFoundError:  # settings that are not chosen there
        return []
    return [Store(published_folder()).summary(run) for run in runs.loc[runs["state"] == "done", "run"]]


def _agreement(effects: Sequence[Comparison], seeds: int, needed: str) -> str:
    if not effects:
        return f"No {needed} is finished, so there is nothing to compare."
    known = [one for one in effects if one.direction != UNKNOWN]
    if not known:
        if all(one.published is None for one in effects):
            if (published_folder() / RUNS).is_file():
                return "None of these effects is among the published ones."
            return "The published results are not here to compare with: they lie in book/results."
        return "Of the effects of these runs, the published ones show no direction to compare with."
    same = sum(one.direction == THE_SAME for one in known)
    text = f"**{same} of {len(known)} directions agree** with the published ones."
    if seeds < SEEDS_FOR_AN_INTERVAL:
        text += f" With {counted(seeds, 'seed')} there is no interval: a direction may be chance."
    return text


def effects_table(own: OwnRun | None) -> Styler | None:
    """The effects of a reader's runs beside the published ones; None on the published pages and without effects."""
    if own is None or own.done.empty or not own.effects:
        return None
    lines = []
    for one in own.effects:
        mine, published = (
            IntervalCell(interval([]) if found is None else found, measure_of(one.measure).digits)
            for found in (one.own, one.published)
        )
        lines.append({"change": one.effect, "this run": mine, "published": published, "direction": one.direction})
    return styled(pd.DataFrame(lines), "own-effects").hide(axis="index")


def clips(own: OwnRun | None) -> HTML | None:
    """The clips of a reader's runs at their last step, beside truth and base, below a sentence that says which they are;
    None on the published pages and where no clip of a run is stored.
    """
    runs = own.find_shown() if own else {}
    if own is None or not runs:
        return None
    shown = sample_clips.of_runs(own.store, runs, [own.shown_domain], at_the_end=True)
    if not any(one.step for one in shown):
        return None
    seed, where = next(iter(runs.values())).seed, domain_of(own.shown_domain).label
    said = f"Sample clips of seed {seed} at the last step, {where}: {own.shown_rule}."
    return HTML(f"<p>{html.escape(said)}</p>\n{explorer.player(shown).data}")


def next_steps(own: OwnRun | None) -> Markdown | None:
    """What a reader can run next, and its cost by the times of the finished runs; None on the published pages and without
    finished runs.
    """
    if own is None or own.done.empty:
        return None
    seconds = median(Store(own.store).summary(run)["seconds"] for run in own.done["run"])
    lines, left, seeds = [], own.runs[own.runs["state"] != "done"], own.seeds()
    if len(left):
        commands = [] if own.trains else own.training_commands(list(dict.fromkeys(left["preset"])))
        head = f"**The missing runs**: {counted(len(left), 'run')}, {_about(len(left) * seconds)}"
        lines.append(_with_commands(head, [*commands, own.page_command()]))
    every = _more_seeds(own, seeds)
    if len(seeds) < SEEDS_FOR_AN_INTERVAL <= len(every):
        presets = [one for one in own.presets if one not in own.choosing]
        count = sum(own.runs["preset"].isin(presets)) // len(seeds) * (len(every) - len(seeds))
        commands = [] if own.trains else own.training_commands(presets, every)
        more = f"{counted(count, 'run')} more, {_about(count * seconds)}"
        head = f"**Intervals**, which take {SEEDS_FOR_AN_INTERVAL} seeds: {more}"
        lines.append(_with_commands(head, [*commands, own.page_command(every)]))
    if PUBLISHED not in own.presets:
        published = sweep.read(PUBLISHED, store=published_folder(), measures=[])
        head = f"**The preregistered sweep**: {verdicts.cost_in_words(published.runs, published.store)}"
        lines.append(_with_commands(head, [f"python -m replaylab sweep --preset {PUBLISHED} --store FOLDER"]))
    lines.append("- **Your own model and videos**: the page *Your own model, your own videos* says what they take.")
    return Markdown("\n".join(["**What to run next**", "", *lines]))


def _about(seconds: float) -> str:
    return f"about {duration(seconds)} on this machine."


def _more_seeds(own: OwnRun, seeds: Sequence[int]) -> list[int]:
    """The requested seeds and as many others as an interval takes, first the presets' own; fewer if there are no more."""
    of_presets = [seed for one in own.presets if one not in own.choosing for seed in PRESETS[one].seeds]
    has_bases = any(PRESETS[one].bases for one in own.presets)  # a seed for each, and no others
    candidates = dict.fromkeys([*of_presets, *range(0 if has_bases else SEEDS_FOR_AN_INTERVAL + len(seeds))])
    others = [seed for seed in candidates if seed not in seeds]
    return sorted([*seeds, *others[: SEEDS_FOR_AN_INTERVAL - len(seeds)]])


def _with_commands(head: str, commands: Sequence[str]) -> str:
    """An item of a list with its commands."""
    lines = "\n".join(f"  {one}" for one in commands)
    return f"- {head}\n\n  ```bash\n{lines}\n  ```"
