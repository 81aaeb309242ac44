"""The page on claim C3, whether fidelity and accuracy improve together: its figures, tables and sentences.

The functions take an `alignment.Sweeps` and return a matplotlib figure, a pandas Styler or Markdown. Decision: words such as
"together" and "apart" are determined by intervals, and not used with too few seeds for one. Missing runs are counted in
every title, and their places on an axis stay empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from pandas.io.formats.style import Styler

from replaylab.analysis import alignment, claims
from replaylab.analysis.alignment import CLAIM, DYNAMICS, EVENTFUL, FIDELITY, ORDINARY, PREREGISTERED, Sweeps, dose, gains
from replaylab.analysis.changes import last_steps, of_measure
from replaylab.analysis.statistics import Interval, describe, interval, side
from replaylab.analysis.tables import NONE
from replaylab.catalogue import ALIGNMENT, domain_of, measure_of
from replaylab.pages import style, verdicts
from replaylab.pages.style import BLUE, GREEN, GREY, INK, SMALLEST_PT, VERMILION, WIDTH, figure_style, finished, legend_entry
from replaylab.util.text import capital, number, percent

BOTH = (EVENTFUL, ORDINARY)  # the test clips of a figure's two panels
MARKERS, ORDINALS = "os^vDPX<>", ("first", "second", "third", "fourth")  # of bases
DARKEST, LIGHT, VIOLET, BROWN = "#0b2d4e", "#949494", "#7b6fd0", "#ca9161"


def target_name(target: str) -> str:
    """A target in words: its share of eventful clips, or the domain's label if it has none."""
    return domain_of(target).label if np.isnan(dose(target)) else f"{percent(dose(target))} eventful"


# -------------------------------------------------------------------------------------------------------------- tables
def judged_claim(made: Sweeps) -> list[tuple[claims.Claim, claims.Judged | None]]:
    """Claim C3 with its result (None if runs are missing), as in `verdicts.judge_all`."""
    return [(CLAIM, claims.judge(made.rows, CLAIM))]


def rho_table(made: Sweeps) -> Styler:
    """ρ with ADE on eventful driving for each target and reading, and its difference to ordinary driving, seed by seed."""
    lines = [_rho_line(made, target, reading) for reading in alignment.READINGS for target in made.targets]
    return style.styled(pd.DataFrame(lines), "rho").hide(axis="index")


def _rho_line(made: Sweeps, target: str, reading: str) -> dict[str, Any]:
    table = made.rhos_of(EVENTFUL, reading)
    values = table.loc[table["target"] == target, "rho"]
    difference = interval([] if target == ORDINARY else alignment.rho_minus_ordinary(made, target, reading=reading))
    line = {
        "reading": reading, "fine-tuned on": target_name(target), "seeds": str(len(values)),
        measure_of(ALIGNMENT).label: style.IntervalCell(interval(values, 1.0), ".2f"),
        "− that of 0 %": style.IntervalCell(difference, ".2f"), "status": "exploratory",
    }  # fmt: skip
    if (target, reading) == (CLAIM.configuration.target, PREREGISTERED) and {*made.presets} <= {*verdicts.PREREGISTERED}:
        result = claims.judge(made.rows, CLAIM)
        line["status"] = f"preregistered: {verdicts.WORDS[result.verdict]}" if result else line["status"]
    if values.empty:
        line["status"] = "too few checkpoints or no change" if target in made.done_targets else verdicts.MISSING
    return line


# ------------------------------------------------------------------------------------------------------------- figures
def within_runs(made: Sweeps) -> Figure:
    """ρ over a run's checkpoints by dose, with ADE on eventful and ordinary clips, with and without the first ones."""
    with figure_style():
        figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.9), sharex=True, sharey=True)
        for row, domain in zip(panels, BOTH, strict=True):
            for axes, reading in zip(row, (PREREGISTERED, alignment.LATE), strict=True):
                _by_dose(axes, made, made.rhos_of(domain, reading), "rho", widest=1.0)
                axes.set_ylim(-1.08, 1.08)
                axes.set_title(f"{capital(domain_of(domain).label)},\n{reading}")
            row[0].set_ylabel("ρ within a run")
        _dose_axis(panels[-1], made)
        return finished(figure, "Do both improve together, within a run?", made.without_replay, _of_bases(made))


def plane(made: Sweeps) -> Figure:
    """Gain in ADE over gain in EffNet-KD: a path over the steps for each target, from the base at 0."""
    colours = _colours(made)
    with figure_style():
        figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 7.6), sharex=True)
        tables = {}
        for axes, domain in zip(panels, BOTH, strict=True):
            table = gains(made, domain)
            for target, colour in colours.items():
                here = table[(table["replay_fraction"] == 0) & (table["target"] == target)]
                for _, one in here.groupby("run"):
                    axes.plot([0, *one["fidelity"]], [0, *one["dynamics"]], color=colour, lw=0.5, alpha=0.3)
                _way(axes, here.groupby("step")[["fidelity", "dynamics"]].mean(), colour)
            tables[domain] = table[table["replay_fraction"] == 0]
            _gain_axes(axes, domain)
        note = _crop(panels, tables)
        panels[-1].set_xlabel("gain in EffNet-KD on ordinary driving    better →")
        entries = [legend_entry(colour, target_name(target), "o", "-") for target, colour in colours.items()]
        return finished(figure, "Gains over fine-tuning, from the base at 0", made.without_replay, entries, note=note)


def _way(axes: Axes, way: pd.DataFrame, colour: Any) -> None:
    """A path from the base over the steps, with a large point at the last."""
    if len(way):
        axes.plot([0, *way["fidelity"]], [0, *way["dynamics"]], color=colour, lw=1.8, zorder=3)
        axes.plot(way["fidelity"], way["dynamics"], "o", color=colour, ms=3.5, zorder=4)
        axes.plot(*way.iloc[-1], "o", color=colour, ms=9, mec="white", zorder=5)


def across_configurations(made: Sweeps) -> Figure:
    """Every configuration at the last step: gain in ADE over gain in EffNet-KD; large points are means over seeds."""
    styles = _group_styles(made)
    with figure_style():
        figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 7.6), sharex=True)
        tables = {domain: last_steps(gains(made, domain)) for domain in BOTH}
        for axes, domain in zip(panels, BOTH, strict=True):
            for (target, replay, fraction), runs in tables[domain].groupby(alignment.CONFIGURATION):
                colour, marker, _ = styles[_kind(target, replay, fraction)]
                at = runs[["fidelity", "dynamics"]].mean()
                axes.plot(runs["fidelity"], runs["dynamics"], marker, color=colour, ms=3.5, alpha=0.4, mew=0)
                axes.plot(*at, marker, color=colour, ms=9, mec="white", zorder=3)
                share = fraction or dose(target)
                if 0 < share < 1:
                    axes.annotate(f"{100 * share:g}", at, (5, 4), textcoords="offset points", fontsize=SMALLEST_PT,
                                  color=colour, zorder=4)  # fmt: skip
            _gain_axes(axes, domain)
        note = _crop(panels, tables)
        panels[-1].set_xlabel("gain in EffNet-KD on ordinary driving    better →")
        entries = [legend_entry(colour, name, marker) for colour, marker, name in styles.values()]
        return finished(figure, "All configurations at the last step", made.runs, entries, note=note)


def per_clip(made: Sweeps) -> Figure:
    """ρ over clips for each measure of single clips, with its interval over seeds and scenes; a colour per target."""
    colours = _colours(made)
    order = list(colours)
    with figure_style():
        figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.6), sharex=True, sharey=True)
        for axes, domain in zip(panels, BOTH, strict=True):
            axes.axvline(0, color=GREY, lw=0.8)
            for one in made.clip_rhos[made.clip_rhos["domain"] == domain].itertuples():
                y = list(alignment.OF_A_CLIP).index(one.measure) + 0.12 * (order.index(one.target) - (len(order) - 1) / 2)
                axes.plot([one.low, one.high], [y, y], color=colours[one.target], lw=1.4)
                axes.plot(one.rho, y, "o", color=colours[one.target], ms=5)
            axes.set_title(capital(domain_of(domain).label))
            axes.set(xlabel="ρ over clips", xlim=(-1.05, 1.05), ylim=(len(alignment.OF_A_CLIP) - 0.5, -0.5))
        labels = [measure_of(measure).label.replace(", ", ",\n") for measure in alignment.OF_A_CLIP]
        panels[0].set_yticks(range(len(labels)), labels)
        entries = [legend_entry(colour, target_name(target), "o") for target, colour in colours.items()]
        return finished(figure, "Do both improve together, clip by clip?", made.without_replay, entries)


def doses(made: Sweeps) -> Figure:
    """Changes at the last step by the share of eventful clips: a point per run, mean and interval over seeds."""
    of_ade, of_pull = ([(measure, domain) for domain in alignment.DOMAINS] for measure in (DYNAMICS, alignment.PULL))
    table = last_changes(made)
    with figure_style():
        figure, panels = plt.subplots(3, 2, figsize=(WIDTH, 8.2), sharex=True)
        for axes, (measure, domain) in zip(panels.flat, [(FIDELITY, ORDINARY), *of_ade, *of_pull[1:]], strict=True):
            _by_dose(axes, made, of_measure(table, measure, domain), "change")
            axes.set_title(capital(domain_of(domain).label))
            axes.set_ylabel(f"change of\n{measure_of(measure).name}")
        _dose_axis(panels[-1], made)
        return finished(figure, "What a share of events changes", made.without_replay, _of_bases(made))


def gains_over_steps(made: Sweeps) -> pd.DataFrame:
    """The values of `plane`: `gains` of the runs without replay in both of its domains."""
    both = pd.concat([gains(made, domain).assign(domain=domain) for domain in BOTH])
    return both[both["replay_fraction"] == 0].drop(columns=["replay", "replay_fraction"])


def gains_at_the_end(made: Sweeps) -> pd.DataFrame:
    """The values of `across_configurations`: `gains` of all runs at their last step in both of its domains."""
    return pd.concat([last_steps(gains(made, domain)).assign(domain=domain) for domain in BOTH])


def last_changes(made: Sweeps) -> pd.DataFrame:
    """`Sweeps.changes` of the runs without replay at their last step."""
    return last_steps(made.changes[made.changes["replay_fraction"] == 0])


# ---------------------------------------------------------------------------------------------------- parts of figures
def _places(made: Sweeps) -> dict[str, float]:
    """The place of each target on the axis: doses side by side, targets without a dose apart from them."""
    return {target: place + 0.7 * np.isnan(dose(target)) for place, target in enumerate(made.targets)}


def _colours(made: Sweeps) -> dict[str, Any]:
    """Vermilion for ordinary driving, as everywhere, darker with the dose; separate colours for targets without a dose."""
    some = [target for target in made.targets if dose(target) > 0]
    shades = sns.blend_palette(["#e8a0c8", VIOLET, DARKEST], len(some)) if len(some) > 1 else [DARKEST]
    known = {ORDINARY: VERMILION, "driving-repetitive": LIGHT, "diverse-driving": GREEN}
    known |= dict(zip(some, shades, strict=False))
    here = {target: known[target] for target in made.targets if target in known}
    every = here | _in_free_colours([target for target in made.targets if target not in known], here.values())
    return {target: every[target] for target in made.targets}


def _in_free_colours(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """A colour for each group that has none of its own, which no other group of the figure has if there are enough."""
    free = [one for one in (BROWN, BLUE, VIOLET, DARKEST, LIGHT) if one not in {*taken}]
    return dict(zip(names, cycle(free), strict=False))


def _shapes(made: Sweeps) -> dict[str, str]:
    """A marker for each base, that of the first seed first."""
    return dict(zip(made.runs.sort_values("seed")["base"].drop_duplicates(), cycle(MARKERS), strict=False))


def _of_bases(made: Sweeps) -> list[Line2D]:
    shapes = list(_shapes(made).values())
    if len(shapes) > len(ORDINALS):
        seeds = [legend_entry(GREY, "a run; a marker per base", shapes[0])]
    else:
        seeds = [legend_entry(GREY, f"a run, {name} base", marker) for name, marker in zip(ORDINALS, shapes, strict=False)]
    return [*seeds, legend_entry(INK, "mean and interval", "_")]


def _by_dose(axes: Axes, made: Sweeps, table: pd.DataFrame, column: str, widest: float = np.inf) -> None:
    """A point for each run of a target, with their mean and interval; a line through the means of doses."""
    places, colours, shapes = _places(made), _colours(made), _shapes(made)
    axes.axhline(0, color=GREY, lw=0.8)
    means = {}
    for target, runs in table.groupby("target"):
        place, colour = places[target], colours[target]
        for turn, one in enumerate(runs.sort_values("seed").to_dict("records")):
            x = place - 0.14 - 0.07 * turn
            axes.plot(x, one[column], shapes[one["base"]], color=colour, ms=4, alpha=0.75, mew=0, zorder=3)
        middle = interval(runs[column], widest)
        means[target] = middle.estimate
        axes.plot([place + 0.1] * 2, [middle.low, middle.high], color=colour, lw=2, zorder=3)
        axes.plot(place + 0.1, means[target], "_", color=colour, ms=9, mew=2.5, zorder=4)
    line = [target for target in places if target in means and not np.isnan(dose(target))]
    axes.plot([places[one] + 0.1 for one in line], [means[one] for one in line], color=GREY, lw=1, zorder=1)


def _dose_axis(panels: NDArray[Any], made: Sweeps) -> None:
    places = _places(made)
    labels = [domain_of(one).short.replace(" ", "\n") if np.isnan(dose(one)) else f"{100 * dose(one):g}" for one in places]
    for axes in panels:
        axes.set_xticks(list(places.values()), labels)
        axes.set_xlim(-0.7, max(places.values()) + 0.5)
        axes.set_xlabel("eventful clips (%)")


def _crop(panels: NDArray[Any], tables: Mapping[str, pd.DataFrame]) -> str:
    """Set limits around the runs whose target has a dose; returns where the others end, in words."""
    beyond = []
    for axes, (domain, table) in zip(panels, tables.items(), strict=True):
        is_dose = ~np.isnan([dose(target) for target in table["target"]])
        for of, set_limits in (("fidelity", axes.set_xlim), ("dynamics", axes.set_ylim)):
            values = [0.0, *table.loc[is_dose, of]]
            margin = 0.1 * (max(values) - min(values)) or 1.0
            set_limits(min(values) - margin, max(values) + margin)
        for target, runs in last_steps(table[~is_dose]).groupby("target"):
            at = runs[["fidelity", "dynamics"]].mean()
            gains_of = (number(at[of], "+.1f") for of in ("fidelity", "dynamics"))
            ends = "EffNet-KD {}, ADE {} px".format(*gains_of)
            beyond.append(f"{target_name(str(target))} ends at {ends}, {domain_of(domain).label}")
    return f"Cropped: {'; '.join(beyond)}." if beyond else ""


def _gain_axes(axes: Axes, domain: str) -> None:
    """Lines through the base, and labels of the two quadrants that the claim distinguishes."""
    axes.axhline(0, color=GREY, lw=0.8, zorder=0)
    axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    axes.margins(0.14)
    axes.set(ylabel="gain in ADE (px)    better →", title=capital(domain_of(domain).label))
    for y, words in ((0.98, "both improve"), (0.02, "fidelity improves, accuracy degrades")):
        axes.text(0.99, y, words, transform=axes.transAxes, fontsize=SMALLEST_PT, color=GREY, style="italic", ha="right",
                  va="top" if y > 0.5 else "bottom")  # fmt: skip


def _kind(target: str, replay: str, fraction: float) -> str:
    """The group of a configuration: its kind of replay, or its target."""
    if fraction > 0:
        return replay
    return "doses" if dose(target) > 0 else target


def _group_styles(made: Sweeps) -> dict[str, tuple[Any, str, str]]:
    """Colour, marker and name of each group of configurations in the sweeps."""
    known = {
        "driving": (VERMILION, "o", NONE), "near": (BLUE, "s", "near replay (%)"),
        "far": (GREEN, "^", "far replay (%)"), "all": (INK, "*", "replay 100 %"),
        "doses": (VIOLET, "D", "eventful target (%)"), "driving-repetitive": (LIGHT, "X", "target of one event"),
        "diverse-driving": (BROWN, "P", "target of free motion"),
    }  # fmt: skip
    there = {_kind(*name): name[2] > 0 for name in made.runs[alignment.CONFIGURATION].itertuples(index=False)}
    here = {kind: style for kind, style in known.items() if kind in there}
    colours = _in_free_colours([kind for kind in there if kind not in known], [colour for colour, _, _ in here.values()])
    return here | {
        kind: (colour, "h", f"{kind} replay (%)" if there[kind] else f"target of {domain_of(kind).label}")
        for kind, colour in colours.items()
    }


# ----------------------------------------------------------------------------------------------------------- sentences
def status_line(made: Sweeps) -> str:
    """Markdown: the number of finished runs without replay for each target."""
    is_done = made.without_replay["state"] == "done"
    counts = is_done.groupby(made.without_replay["target"]).agg(["sum", "size"])
    each = [f"{target_name(one)} {counts.loc[one, 'sum']} of {counts.loc[one, 'size']}" for one in made.targets]
    return f"Complete runs without replay, by target: {', '.join(each)}."


def bases_summary(made: Sweeps) -> str:
    """Markdown: the bases' ADE between that of real and of copied frames, as the starting point of changes."""
    lines, empty = [], []
    for domain in alignment.DOMAINS:
        of = of_measure(made.values, DYNAMICS, domain).groupby("model")["value"].mean()
        if {"base", "real", "copy-last-frame"} <= set(of.index):
            base, real, copied = of["base"], of["real"], of["copy-last-frame"]
            label = domain_of(domain).label
            levels = [number(one, measure_of(DYNAMICS).digits) for one in (base, real, copied)]
            lines.append("on {} {} (real {}, copied last frame {})".format(label, *levels))
            empty += [label] if base >= copied else []
    if not lines:
        return f"The bases: {verdicts.MISSING}."
    text = f"Starting point of the changes: the bases' ADE in px is {'; '.join(lines)}."
    if empty:
        text += f" On {' and '.join(empty)} the bases are no better than a copied last frame"
        text += ", so changes there are not a loss of what they had learned."
    return text


def early_rise(made: Sweeps) -> str:
    """Markdown: the number of runs of all targets whose EffNet-KD is above their base's, step by step."""
    here = gains(made, ORDINARY).query("replay_fraction == 0")
    each = [f"{(at['fidelity'] < 0).sum()} of {len(at)} at step {step}" for step, at in here.groupby("step")]
    if not each:
        return f"EffNet-KD in the first steps: {verdicts.MISSING}."
    return f"Runs without replay whose EffNet-KD on ordinary driving is above their base's: {', '.join(each)}."


def summary(made: Sweeps) -> str:
    """Markdown: the results of each analysis, an item each, with intervals."""
    if not made.done_targets:
        return f"Claim C3: {verdicts.MISSING}."
    items = [*(_within_text(made, domain) for domain in BOTH), _late_text(made), _across_text(made), _per_clip_text(made),
             *_doses_texts(made)]  # fmt: skip
    return style.completeness_paragraph(made.runs) + "\n".join(f"- {item}" for item in items)


def _in_words(found: Interval, above: str, below: str) -> str:
    """The position of an interval in words, with a word for each side of 0."""
    at = side(found)
    return {"above": above, "below": below}.get(at, at)


def _by_target(made: Sweeps, table: pd.DataFrame, column: str, above: str, below: str, widest: float = np.inf) -> str:
    """The mean of each target with its interval and outcome; for ρ also the number of runs in which it is above 0."""
    each = []
    for target in made.targets:
        values = table.loc[table["target"] == target, column]
        if len(values):
            middle = interval(values, widest)
            counted = f", above 0 in {(values > 0).sum()} of {len(values)} runs" if column == "rho" else ""
            words = f"**{_in_words(middle, above, below)}**"
            each.append(f"{target_name(target)} {describe(middle, '.2f')}{counted}: {words}")
    return "; ".join(each)


def _within_text(made: Sweeps, domain: str) -> str:
    table = made.rhos_of(domain, PREREGISTERED)
    text = _by_target(made, table, "rho", "together", "apart", 1.0) or "no run has enough checkpoints for a ρ"
    return f"**Within a run**, ρ of the gains in EffNet-KD and in ADE on {domain_of(domain).label}: {text}."


def _late_text(made: Sweeps) -> str:
    table = made.rhos[made.rhos["domain"] == EVENTFUL]
    means = table.pivot_table(index="target", columns="reading", values="rho").reindex(columns=list(alignment.READINGS))
    means = means[[PREREGISTERED, alignment.LATE]].dropna()
    if means.empty:
        return f"**Without the checkpoints before step {alignment.SETTLED}** too few are left for a ρ."
    turned = [target_name(one) for one, both in means.iterrows() if np.sign(both).nunique() > 1]
    means = means.loc[[target for target in made.targets if target in means.index]]
    each = [
        f"{target_name(one)} from {number(first, '+.2f')} to {number(late, '+.2f')}"
        for one, first, late in means.itertuples()
    ]
    signs = f"the sign of the mean changes for {', '.join(turned)}" if turned else "no mean changes its sign"
    words = f"ρ with ADE on eventful driving: {signs} ({'; '.join(each)})"
    return f"**Without the checkpoints before step {alignment.SETTLED}** (exploratory), {words}."


def _across_text(made: Sweeps) -> str:
    texts = []
    for domain in BOTH:
        values, count = alignment.rhos_across(made, domain)
        if len(values):
            middle = interval(values, 1.0)
            words = _in_words(middle, *(f"better fidelity goes with {how} accuracy" for how in ("better", "worse")))
            of = f"{count} configurations, a ρ for each of {len(values)} seeds"
            texts.append(f"{domain_of(domain).label} {describe(middle, '.2f')} ({of}): **{words}**")
    text = "; ".join(texts) or "fewer than three configurations are complete for every seed"
    return f"**Across configurations at the last step** (exploratory): {text}."


def _per_clip_text(made: Sweeps) -> str:
    texts = []
    for target, table in made.clip_rhos.groupby("target", sort=False):
        reach = " to ".join(number(end, "+.2f") for end in (table["rho"].min(), table["rho"].max()))
        above, below = (table["low"] > 0).sum(), (table["high"] < 0).sum()
        intervals = f"{above} of {len(table)} intervals above 0, {below} below"
        texts.append(f"{target_name(target)} {reach} ({'no intervals' if table['low'].isna().all() else intervals})")
    text = "; ".join(texts) or "no clip was measured in both"
    return f"**Clip by clip** (exploratory), ρ over {len(alignment.OF_A_CLIP)} measures and two kinds of clips: {text}."


def _doses_texts(made: Sweeps) -> list[str]:
    texts = []
    of_ade = [(DYNAMICS, domain) for domain in (EVENTFUL, alignment.HELD_OUT, ORDINARY)]
    for measure, domain in [*of_ade, (FIDELITY, ORDINARY)]:
        table = of_measure(last_changes(made), measure, domain)
        if text := _by_target(made, table, "change", "worse", "better"):
            where = f"{measure_of(measure).label} on {domain_of(domain).label}"
            texts.append(f"**{where}**, change at the last step: {text}.")
    return texts
