"""Comparison of configurations: the figure, table and sentences that several pages share.

The functions take `configurations.Configurations` and return a matplotlib figure, a pandas Styler or Markdown. Decision:
outcomes such as "better" are determined by the interval of the difference to near replay 25 %, seed by seed and clip by
clip; "cannot tell" if it contains 0. The figure and the first columns of the table show these differences; changes from the
base, whose intervals are wider because they include the variation between seeds, come after them. Missing runs are counted
in every title.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis import configurations
from replaylab.analysis.configurations import DYNAMICS, EQUAL, FIDELITY, LAST, LOWER, REFERENCE, TRADE, Configurations
from replaylab.analysis.statistics import BETTER, CANNOT_TELL, FEW, WORSE, Interval, describe, interval
from replaylab.analysis.tables import NONE
from replaylab.pages import style, verdicts
from replaylab.pages.style import BLUE, GREY, LIGHT_GREY, SMALLEST_PT, VERMILION, WIDTH, figure_style
from replaylab.sweeps.ablations import NO_REPLAY
from replaylab.util.text import capital, percent

AGAINST = f"against {REFERENCE}"
READ_OFF = ((DYNAMICS, EQUAL), (DYNAMICS, LAST), (FIDELITY, LAST))
"""The differences that determine the comparison with near replay."""
HUES = ("#029e73", "#7b6fd0", "#8f5a2c", "#c0578f", "#5f6b73", "#b8860b", "#0b5a73", "#94493a")  # of groups


# -------------------------------------------------------------------------------------------------------------- tables
def configurations_table(made: Configurations) -> Styler:
    """Every configuration against near replay 25 %; the file has its changes from the base and its cost, too."""
    lines = []
    for place, name in enumerate(made.names, start=1):
        runs = made.runs[made.runs["configuration"] == name]
        there = runs[runs["state"] == "done"]
        kept, step_ms = int(runs["clips_kept"].iloc[0]), 1000 * there["step_seconds"].median()
        line: dict[str, Any] = {"no.": str(place), "configuration": name, AGAINST: "–"}
        if name != REFERENCE:
            line[AGAINST] = verdicts.MISSING if there.empty else configurations.against_reference(made, name)
        for label, reading in READ_OFF:
            difference = interval([]) if name == REFERENCE else made.difference_from_reference(name, label, reading)
            line[difference_label(label, reading)] = style.IntervalCell(difference, configurations.digits_of(label))
        readings = [(label, label, LAST) for label in configurations.MEASURES]
        readings += [(f"{DYNAMICS}, {reading}", DYNAMICS, reading) for reading in configurations.SHARES]
        for column, label, reading in readings:
            line[column] = style.IntervalCell(made.change(name, label, reading), configurations.digits_of(label))
        steps = made.steps_of(name, EQUAL)
        line["get so far"] = f"{steps.notna().sum()} of {len(steps)}" if len(steps) else "–"
        line["at step"] = "–" if steps.isna().any() or steps.empty else f"{steps.mean():.0f}"
        line["time of a step (ms)"] = "–" if np.isnan(step_ms) else f"{step_ms:.0f}"
        line["clips kept"] = str(kept) if kept else "–"
        line["seeds"] = f"{len(there)} of {len(runs)}"
        line["group"] = str(runs["group"].iloc[0])
        lines.append(line)
    shown = ["configuration", AGAINST, *(difference_label(*one) for one in READ_OFF), "seeds"]
    return style.styled(pd.DataFrame(lines), f"configurations-{made.preset}", shown=shown).hide(axis="index")


def difference_label(label: str, reading: str) -> str:
    """The heading of a column of differences, such as "ADE, eventful (px), minus near replay's, at equal fidelity"."""
    return f"{label}, minus near replay's, {reading}"


def describe_with_outcome(difference: Interval, label: str = DYNAMICS) -> str:
    """A difference in a measure of MEASURES with its outcome, such as "+1.2 (0.9 to 1.5), worse"."""
    return f"{describe(difference, configurations.digits_of(label))}, {configurations.outcome_of(difference, label)}"


# ------------------------------------------------------------------------------------------------------------- figures
def at_equal_fidelity(made: Configurations) -> Figure:
    """ADE on eventful driving at equal fidelity, minus that of near replay 25 %, with intervals: a line per configuration,
    by group, in a group the best first.
    """
    if made.effects.empty:
        return nothing_yet(made)
    differences = {name: made.difference_from_reference(name, DYNAMICS, EQUAL) for name in made.names}
    colours, group_of, names = _colours(made), _group_of(made), _grouped(made, differences)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.25 * len(names)))
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        for place, name in enumerate(names):
            found, colour = differences[name], colours[name]
            axes.plot([found.low, found.high], [place, place], color=colour, lw=2)
            axes.plot(found.estimate, place, "o", color=colour, ms=6)
            if np.isnan(found.estimate):
                axes.text(0.995, place, _why_none(made, name), transform=axes.get_yaxis_transform(), fontsize=SMALLEST_PT,
                          color=GREY, ha="right", va="center", style="italic")  # fmt: skip
        for place in range(1, len(names)):
            if group_of[names[place]] != group_of[names[place - 1]]:
                axes.axhline(place - 0.5, color=LIGHT_GREY, lw=0.8, zorder=0)
        axes.set_yticks(range(len(names)), names, fontsize=SMALLEST_PT)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="← better    difference in ADE, eventful (px)    worse →")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return style.finished(figure, f"{made.title},\nagainst {REFERENCE}, {EQUAL}", made.runs)


def _grouped(made: Configurations, differences: dict[str, Interval]) -> list[str]:
    """Configurations by group, and within a group by their difference; those without one last."""
    groups = _group_of(made)
    order = list(dict.fromkeys(groups.values()))

    def place(name: str) -> tuple[int, bool, float]:
        value = differences[name].estimate
        return order.index(groups[name]), bool(np.isnan(value)), 0.0 if np.isnan(value) else value

    return sorted(made.names, key=place)


def _group_of(made: Configurations) -> dict[str, str]:
    of = made.runs.drop_duplicates("configuration").set_index("configuration")["group"]
    return {name: str(of[name]) for name in made.names}


def nothing_yet(made: Configurations) -> Figure:
    """A sentence in place of a figure, if no run is finished."""
    return style.text_figure(f"{made.title}: {verdicts.MISSING}, {style.count_runs(made.runs)}.")


def _why_none(made: Configurations, name: str) -> str:
    """The reason why a configuration has no value at equal fidelity."""
    if not (made.done["configuration"] == name).any():
        return verdicts.MISSING
    steps = made.steps_of(name, EQUAL)
    if steps.empty:
        return "no near replay 25 % to compare with"
    reached = int(steps.notna().sum())
    return f"reached by {reached} of {len(steps)} runs" if reached else "never reached"


def _colours(made: Configurations) -> dict[str, Any]:
    """A colour per group; replay 0 % is vermilion and near replay blue, as everywhere."""
    groups = [one for one in dict.fromkeys(made.runs["group"]) if one != NO_REPLAY.group]
    hues = {NO_REPLAY.group: BLUE, **dict(zip(groups, HUES, strict=False))}
    of = _group_of(made)
    return {name: VERMILION if name == NONE else hues[of[name]] for name in made.names}


# ----------------------------------------------------------------------------------------------------------- sentences
def reading_explained(made: Configurations) -> str:
    """Markdown: the definition of equal fidelity, how many configurations reach it, and which before the first step."""
    shares = [percent(share) for share in configurations.SHARES.values()]
    text = (
        f"*{capital(EQUAL)}* is the step at which a configuration's EffNet-KD has improved by {shares[0]} of the "
        f"improvement of {REFERENCE} at its last step with the same seed; *{LOWER}*, by {shares[1]} of it."
    )
    seeds = int((made.done["configuration"] == REFERENCE).sum())
    without = seeds - len(made.levels)
    if without:
        text += f" With {without} of {seeds} seeds {REFERENCE} does not improve, and no configuration is read there."
    steps = {name: of for name in made.names if len(of := made.steps_of(name, EQUAL))}
    if not steps:
        return f"{text} Configurations that reach it: {verdicts.MISSING}."
    there = [name for name, of in steps.items() if of.notna().all()]
    first = made.first_step
    early = [name for name in there if (steps[name] < first).any()]
    text += f" {len(there)} of {len(steps)} configurations reach equal fidelity with every seed."
    if early:
        text += (
            f" For {', '.join(early)}, the step of some seed is interpolated between the base and step {first}, the first "
            "measured one; fidelity may not improve linearly there."
        )
    return text


def short_summary(made: Configurations) -> str:
    """The number of configurations with each outcome against near replay 25 %, in words."""
    if made.done.empty:
        return f"**{verdicts.MISSING}** ({style.count_runs(made.runs)})."
    others = [name for name in made.names if name != REFERENCE]
    stands = by_outcome(made, others)
    words = {BETTER: "better", WORSE: "worse", TRADE: "better in one, worse in another", CANNOT_TELL: "not distinguished",
             FEW: FEW}  # fmt: skip
    counts = [f"{len(stands[key])} {word}" for key, word in words.items() if key in stands]
    if not counts:
        return f"{style.count_runs(made.runs)}."
    known = len(others) - len(stands.get(verdicts.MISSING, []))
    return f"of {known} configurations against {REFERENCE}, {', '.join(counts)}."


def summary(made: Configurations) -> str:
    """Markdown: the configurations with each outcome against near replay 25 %."""
    if made.done.empty:
        return f"{made.title}: {verdicts.MISSING}, {style.count_runs(made.runs)}."
    stands = by_outcome(made, [name for name in made.names if name != REFERENCE])
    words = list_outcomes(stands) if made.has_reference else f"no run of {REFERENCE} to compare with"
    text = f"{style.completeness_paragraph(made.runs)}- **Against {REFERENCE}**: {words}."
    return text


def by_outcome(made: Configurations, names: Sequence[str]) -> dict[str, list[str]]:
    """Outcome -> configurations; MISSING for those without runs."""
    there, stands = set(made.done["configuration"]), dict[str, list[str]]()
    for name in names:
        outcome = configurations.against_reference(made, name) if name in there else verdicts.MISSING
        stands.setdefault(outcome, []).append(name)
    return stands


def list_names(names: Iterable[str]) -> str:
    """Markdown: a list of configurations, in italics because their names may contain commas."""
    return ", ".join(f"*{name}*" for name in names)


def list_outcomes(stands: dict[str, list[str]]) -> str:
    """Markdown: `by_outcome` in words, such as "worse: *ramp*, *anneal*; cannot tell: *64 clips*"."""
    return "; ".join(f"{word}: {list_names(names)}" for word, names in stands.items())
