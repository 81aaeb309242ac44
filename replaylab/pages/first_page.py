"""The first page: the result in one sentence, four clips that show it, three changes in a figure, and a card per claim.

Decision: everything is computed from the published runs of the newest edition of the experiment. The sentence says
"improves" or "degrades" if the whole interval lies on that side, and otherwise that no change is shown. The clip is selected
by a rule that is printed below it. Intervals are those of the verdicts: over seeds and scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from replaylab.analysis import alignment, statistics
from replaylab.analysis.changes import FINE_TUNED, before_and_after
from replaylab.analysis.claims import Configuration, changes
from replaylab.analysis.statistics import Interval, describe
from replaylab.analysis.tables import REFERENCES, for_changes
from replaylab.catalogue import MAIN_FRACTION, PUBLISHED, domain_of, measure_of
from replaylab.pages import explorer, finetune_degradation, generalisation, sample_clips, second_edition, style, verdicts
from replaylab.pages.cards import Card, in_a_grid
from replaylab.pages.second_edition import SecondEdition
from replaylab.pages.style import BLUE, GREY, INK, SMALLEST_PT, VERMILION, WIDTH, figure_style
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import EDITIONS, newest_edition
from replaylab.sweeps.sweep import Table
from replaylab.util.text import counted, number, percent

ENDPOINTS = (("ade_px", "driving"), ("ade_px", "driving-eventful"), ("effnet_kd", "driving"))
NONE, REPLAY = Configuration(), Configuration("near", MAIN_FRACTION)
LINES = {
    "C1": "Generated frames come closer to real driving.", "C2": "Agents of ordinary driving end up in the wrong places.",
    "C2, ours": "Agents of eventful driving end up in the wrong places.",
    "C3": "Fidelity and accuracy diverge on a regular target, more than on an eventful one.",
    "C4": "{} replay of a quarter keeps {}.",
    "C5": "The same in a second family of models, tiny CogVideoX.",
    "C6": "The same on a second driving world, a country road.",
    "C7": "The model learns the dominant motion instead of the agents' own.",
}  # fmt: skip
PAGES = {"C1": "02_finetune_degradation", "C2": "02_finetune_degradation", "C3": "06_alignment", "C4": "03_replay_sweep",
         "C5": "08_architectures", "C6": "07_second_world", "C7": "02_finetune_degradation"}  # fmt: skip
"""Where each claim's evidence is."""


@dataclass(frozen=True)
class FirstPage:
    """The runs that the first page shows, of one edition of the experiment."""

    edition: str
    """one of EDITIONS"""
    every: Table
    """the runs of its claims"""
    without_replay: Table
    """its runs without replay on regular driving, with the measures of C7"""
    second: SecondEdition | None = None
    """the second edition's, judged"""


def read(edition: str = "", store: str | Path = "") -> FirstPage:
    """The runs of an edition, by default the newest that is published; nothing is trained."""
    name = edition or newest_edition()
    of = EDITIONS[name]
    second = second_edition.read(store) if name == "second" else None
    every = second.table if second else verdicts.read_together(of.claims, store)
    without_replay = sweep.read(of.sweep[0], [0.0], store=store, measures=finetune_degradation.MOTION)
    return FirstPage(name, every, without_replay, second)


@dataclass(frozen=True)
class Change:
    """A measure before fine-tuning, and its changes at the last step, without and with replay."""

    measure: str
    domain: str
    before: float
    without: Interval
    with_replay: Interval

    @property
    def words(self) -> str:
        """Such as "ADE on eventful driving"."""
        return f"{measure_of(self.measure).label} on {domain_of(self.domain).label}"


def effects(rows: pd.DataFrame) -> list[Change]:
    """The changes of ENDPOINTS, with intervals over seeds and scenes; only those for which both configurations have runs."""
    rows, found = for_changes(rows[rows["domain"].isin({domain for _, domain in ENDPOINTS})]), []
    for measure, domain in ENDPOINTS:
        both = [changes(rows, one, measure, domain) for one in (NONE, REPLAY)]
        if all(one is not None for one in both):
            is_tuned = rows["model"] == FINE_TUNED
            before, _ = before_and_after(pd.concat([rows[~is_tuned], NONE.select(rows[is_tuned])]), measure, domain)
            intervals = [statistics.seeds_and_scenes(one[0]) for one in both if one is not None]
            found.append(Change(measure, domain, float(before.mean(axis=1).mean()), *intervals))
    return found


def sentence(found: Sequence[Change]) -> str:
    """Markdown: the effects of fine-tuning on fidelity and on accuracy (regular driving, events), and those of replay."""
    by = {(one.measure, one.domain): one for one in found}
    if set(by) != set(ENDPOINTS):
        return "Not all runs of this page are complete."
    regular, events, fidelity = (by[one] for one in ENDPOINTS)
    said = (
        f"Fine-tuning a small video generator on regular driving {_verb(fidelity.without, 'improves', 'degrades')} its "
        f"visual fidelity ({_from_to(fidelity)}). On driving as regular as its training clips, the accuracy of what moves "
        f"{_verb(regular.without, 'improves', 'degrades')} ({_from_to(regular)}); on events, it "
        f"{_verb(events.without, 'improves', 'degrades')} ({_from_to(events)})."
    )
    kept = _shares_kept(found)
    if kept:
        share = percent(MAIN_FRACTION)
        said += (
            f" Replaying diverse traffic in {share} of each batch keeps {kept[0]} of the gain in fidelity and avoids "
            f"{kept[1]} of that loss."
        )
    return said


def title_of_tradeoff(found: Sequence[Change]) -> str:
    """The effects of replay as a figure's title, in two lines; empty if there is no gain to keep or no loss to avoid."""
    kept = _shares_kept(found)
    if not kept:
        return ""
    of_replay = f"{percent(MAIN_FRACTION)} near replay keeps {kept[0]} of the gain in fidelity"
    return f"{of_replay}\nand avoids {kept[1]} of the loss in accuracy on events"


def _shares_kept(found: Sequence[Change]) -> tuple[str, str] | None:
    """The kept share of the gain in fidelity, and the avoided share of the loss in accuracy on events; None without both."""
    by = {(one.measure, one.domain): one for one in found}
    if set(by) != set(ENDPOINTS):
        return None
    _, events, fidelity = (by[one] for one in ENDPOINTS)
    gain, loss = fidelity.without.estimate, events.without.estimate
    if not gain < 0 < loss:
        return None
    shares = fidelity.with_replay.estimate / gain, 1 - events.with_replay.estimate / loss
    return percent(round(shares[0], 2)), percent(round(shares[1], 2))


def _verb(change: Interval, better: str, worse: str) -> str:
    """The verb of a change in a measure that is better when lower."""
    if change.high < 0:
        return f"**{better}**"
    return f"**{worse}**" if change.low > 0 else "shows **no certain change**"


def _from_to(one: Change) -> str:
    """Such as "ADE on eventful driving 3.30 → 4.47 px; 95 % interval of the change 0.716 to 1.63"."""
    unit = f" {measure_of(one.measure).unit}".rstrip()
    levels = one.before, one.before + one.without.estimate, one.without.low, one.without.high
    before, after, low, high = (number(value, measure_of(one.measure).digits) for value in levels)
    return f"{one.words} {before} → {after}{unit}; 95 % interval of the change {low} to {high}"


# -------------------------------------------------------------------------------------------------------------- clips
def versions(table: Table) -> list[sample_clips.SampleClip]:
    """All stored eventful clips of the runs on regular driving in four versions with plain names: truth, base, fine-tuned
    without replay, and with replay.
    """
    kept = sample_clips.main_sample_clips(verdicts.of_target(table, "driving"))
    tuned = list(dict.fromkeys(one.configuration for one in kept if one.step))
    names = {sample_clips.TRUTH: sample_clips.TRUTH, sample_clips.BASE: sample_clips.BASE} | dict(
        zip(tuned, ("fine-tuned", f"fine-tuned with {percent(MAIN_FRACTION)} replay"), strict=False)
    )
    return [replace(one, configuration=names[one.configuration]) for one in kept if one.configuration in names]


def chosen_clip(shown: Sequence[sample_clips.SampleClip], found: Sequence[Change]) -> str:
    """The percentile of the clip whose change is nearest to the mean effect of all test clips; empty if there is none."""
    mean = _of_clips(found)
    return sample_clips.nearest_to_the_mean(shown, mean.without.estimate) if shown and mean else ""


def clips(shown: Sequence[sample_clips.SampleClip], found: Sequence[Change]) -> HTML:
    """The selected clip in its `versions`, and a button that shows another one."""
    chosen = chosen_clip(shown, found)
    return explorer.comparison(shown, chosen) if chosen else explorer.NO_CLIPS


def rule_of_clips(shown: Sequence[sample_clips.SampleClip], found: Sequence[Change]) -> str:
    """Markdown: the rule by which the clip is selected; empty if there is none."""
    mean, count = _of_clips(found), len({clip.percentile for clip in shown})
    if not count or mean is None:
        return ""
    return (
        f"Three frames are given (dashed edge), the model generates the next five. Cyan: where agents are; magenta: where "
        f"they are detected; white arrows: from there to where they should be. Of the {count} eventful clips stored for a "
        f"run, this is the one whose change of ADE without replay is nearest to the mean change of all test clips "
        f"({describe(mean.without, measure_of(mean.measure).digits)} px)."
    )


def _of_clips(found: Sequence[Change]) -> Change | None:
    return next((one for one in found if (one.measure, one.domain) == ("ade_px", sample_clips.OPENS_WITH)), None)


# ------------------------------------------------------------------------------------------------------------- figures
def dumbbells(found: Sequence[Change]) -> Figure:
    """Changes from the base, without replay and with a quarter of near replay: a row per measure, better to the left."""
    if not found:
        return style.text_figure("The runs of this figure are missing.")
    with figure_style():
        figure, panels = plt.subplots(len(found), 1, figsize=(WIDTH, 0.6 + 1.15 * len(found)), squeeze=False)
        for axes, one in zip(panels[:, 0], found, strict=True):
            axes.axvline(0, color=GREY, lw=0.8, zorder=0)
            axes.plot([one.without.estimate, one.with_replay.estimate], [0.22, -0.22], color=GREY, lw=1, zorder=1)
            for y, interval, colour in ((0.22, one.without, VERMILION), (-0.22, one.with_replay, BLUE)):
                axes.plot([interval.low, interval.high], [y, y], color=colour, lw=2.5)
                axes.plot(interval.estimate, y, "o", color=colour, ms=8)
            axes.plot(0, 0, "D", color=INK, ms=7)
            axes.set(ylim=(-0.6, 0.6), yticks=[])
            unit = measure_of(one.measure).unit
            before = number(one.before, measure_of(one.measure).digits)
            axes.set_title(f"{one.words}{f' ({unit})' if unit else ''}, change from {before}")
            reach = 1.1 * max(abs(end) for part in (one.without, one.with_replay) for end in (part.low, part.high))
            axes.set_xlim(-reach, reach)
            axes.spines["left"].set_visible(False)
            for x, words, side in ((0, "← better", "left"), (1, "worse →", "right")):
                axes.annotate(words, (x, 0), (0, 3), xycoords="axes fraction", textcoords="offset points", ha=side,
                              fontsize=SMALLEST_PT, color=GREY)  # fmt: skip
        entries = [
            style.legend_entry(INK, "base", "D"), style.legend_entry(VERMILION, "fine-tuned", "o"),
            style.legend_entry(BLUE, f"with {percent(MAIN_FRACTION)} near replay", "o"),
        ]  # fmt: skip
        return style.finished(figure, "Effects of fine-tuning without and with replay", entries=entries, columns=3)


def drawn(found: Sequence[Change]) -> pd.DataFrame:
    """The values of `dumbbells`."""
    lines = [
        {"measure": one.measure, "domain": one.domain, "before": one.before,
         "configuration": verdicts.configuration_name(configuration), "change": change.estimate, "low": change.low,
         "high": change.high, "seeds": change.n}
        for one in found
        for configuration, change in ((NONE, one.without), (REPLAY, one.with_replay))
    ]  # fmt: skip
    return pd.DataFrame(lines)


# --------------------------------------------------------------------------------------------------------------- cards
def cards(made: FirstPage) -> HTML:
    """A card per claim: its verdict, its effect and a plain sentence, with a link to the evidence. The claims without a
    verdict have their results in words.
    """
    if made.edition == "second":
        shown = second_edition.cards_of(made.second or SecondEdition(made.every))
    else:
        shown = [_of_claim(claim, result) for claim, result in verdicts.judge_all(made.every.rows)]
    shown += [Card(name, LINES[name], "exploratory", text, PAGES[name]) for name, text in exploratory(made).items()]
    return in_a_grid(shown)


def _of_claim(claim: verdicts.Claim, result: verdicts.Judged | None) -> Card:
    kind, _, what = claim.name.partition(", ")
    line = LINES[claim.name if claim.name in LINES else kind]
    if kind == "C4":
        line = line.format(what.capitalize(), claim.statement.split(" keeps ")[1])
    if result is None:
        return Card(kind, line, verdicts.MISSING, "", PAGES[kind])
    where = f"{measure_of(claim.measure).name}, {domain_of(claim.domain).label}"
    effect = f"{where}: change {describe(result.interval, measure_of(claim.measure).digits)}"
    return Card(kind, line, result.verdict, effect, PAGES[kind])


def exploratory(made: FirstPage) -> dict[str, str]:
    """The results of the claims without a preregistered verdict, in words, by name: of the edition's runs, or of the first
    edition's where it has none yet.
    """
    of, of_first = EDITIONS[made.edition], EDITIONS["first"]
    said = {}
    for name, preset, instead in (
        ("C5", of.second_family, of_first.second_family), ("C6", of.second_world, of_first.second_world),
    ):  # fmt: skip
        second = generalisation.read(preset if preset in PUBLISHED else instead).judged
        outcomes = [generalisation.outcome_of_claim(result) for _, result in second]
        there = [one for one in outcomes if one != verdicts.MISSING]
        seeds = max((result.interval.n for _, result in second if result is not None), default=0)
        as_claimed = there.count(generalisation.AS_CLAIMED)
        said[name] = f"{as_claimed} of {len(there)} endpoints lie as claimed, {counted(seeds, 'seed')}."
    said["C7"] = f"{finetune_degradation.signs_in_words(finetune_degradation.read(made.without_replay))}."
    return said


def caveats(made: FirstPage) -> str:
    """Markdown: the number of bases, where they are no better than the reference baselines, and for the first edition the
    result of C3 on other test clips.
    """
    rows = made.every.rows[(made.every.rows["measure"] == "ade_px") & (made.every.rows["model"] != FINE_TUNED)]
    ade = rows.groupby(["domain", "model"], sort=False)["value"].mean().unstack()
    bases = rows.loc[rows["model"] == "base", "base"].nunique()
    lines, digits = [f"- All runs start from {counted(bases, 'base')}."], measure_of("ade_px").digits
    for name in ("constant-velocity", "copy-last-frame"):
        worse = [
            f"{domain_of(str(domain)).label} ({number(one['base'], digits)} against {number(one[name], digits)} px)"
            for domain, one in ade.iterrows() if name in ade and one["base"] >= one[name]
        ]  # fmt: skip
        lines.append(
            f"- ADE of the bases is no better than that of *{REFERENCES[name]}* on: {', '.join(worse) or 'no domain'}."
        )
    if made.edition == "first":
        lines.append(_other_clips_of_c3(made.every))
    return "\n".join(lines)


def _other_clips_of_c3(every: Table) -> str:
    made = alignment.Sweeps(tuple(every.preset.split(" + ")), every.split, every.rows, every.runs)
    each = []
    for domain in (alignment.EVENTFUL, alignment.ORDINARY):
        difference = alignment.rho_minus_ordinary(made, alignment.CLAIM.configuration.target, domain=domain)
        each.append(f"{describe(statistics.interval(difference, 2.0), '.2f')} on {domain_of(domain).label}")
    return (
        f"- C3 depends on the test clips: its difference in ρ is {each[0]}, and {each[1]}, which the regular target "
        "matches: training on a kind of clip improves that kind."
    )
