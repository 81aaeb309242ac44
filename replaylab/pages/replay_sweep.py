"""The page on the replay sweep: its figures, tables and sentences.

The functions take the long table of measures (`rows`) and the table of runs (`runs`) of `sweep`, or the values of
`tables.per_run` instead of the rows, and return a matplotlib figure, a pandas Styler or Markdown; none reads a file.
Decision: every figure and table has the reference baselines, so that no number is read without them, and words such as
"falls" are determined by the numbers. The titles of figures say if a sweep is incomplete.

Refused: what `tables.per_run` refuses.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis import tables
from replaylab.analysis.changes import FINE_TUNED, of_measure
from replaylab.analysis.tables import NONE, last_step, per_configuration, per_run
from replaylab.catalogue import HEADLINE, MAIN_FRACTION, domain_of, measure_of
from replaylab.pages import style
from replaylab.pages.style import GREY, INK, SEED_DOT, WIDTH, figure_style, legend_entry
from replaylab.pages.sweep_configurations import (
    chains_of,
    colour_of_chain,
    colours_of,
    main_comparison,
    tuned_configurations,
)
from replaylab.util.text import capital, counted, number, percent

TABLE = (
    "effnet_kd", "ade_px", "recall", "fde_px", "ade_matched_px", "false_positives", "position_error_m", "ade_tracked_px",
    "background_flow_error_px", "residual_agent_error_px", "displacement_slope", "pull_to_mean", "effnet_fd", "video_kd",
    "video_fd", "psnr_db", "ssim", "effnet_perceptual", "sharpness_ratio", "latent_mse",
)  # fmt: skip
"""The measures of the table, in its order."""
IN_THE_TABLE = ("effnet_kd", "ade_px", "recall", "psnr_db")
PANELS = [
    ("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"), ("recall", "driving-eventful"),
    ("ade_px", "near"), ("recall", "near"),
]  # fmt: skip
TRADEOFF = (FIDELITY, ACCURACY) = ("effnet_kd", "driving"), ("ade_px", "driving-eventful")
CONTROL, CONTROL_COLOUR = "eventful target", "#cc78bc"
EXPLORATORY = "**exploratory** and give no verdict"
NOT_MEASURED = "This sweep did not measure what this figure shows."


def _value(values: pd.DataFrame, name: str, measure: str, domain: str) -> float:
    """A configuration's value in a table of `per_configuration` at one step; NaN where it was not measured."""
    found = of_measure(values[values["configuration"] == name], measure, domain)["value"]
    return float(found.iloc[0]) if len(found) else float("nan")


# -------------------------------------------------------------------------------------------------------------- tables
def status_table(runs: pd.DataFrame) -> Styler:
    """Every run of the grid: its state, with the reason of a failure, its time, and the realised replay fraction."""
    trained = runs["trained_now"].map({True: "now", False: "earlier"}).where(runs["state"] == "done")
    table = pd.DataFrame({
        "run": runs["run"].str[:8], "replay": runs["replay"].replace("", "–"),
        "replay requested": runs["replay_fraction"].map(percent),
        "replay realised": runs["realised_replay_fraction"].map(percent, na_action="ignore"), "seed": runs["seed"],
        "state": runs["state"], "trained": trained, "time (s)": runs["seconds"].map("{:.0f}".format, na_action="ignore"),
        "reason": runs["reason"],
    })  # fmt: skip
    shown = ["run", "replay", "replay realised", "seed", "state", "reason"]
    return style.styled(table.fillna("–"), "runs", shown=shown).hide(axis="index")


def measures_table(rows: pd.DataFrame) -> Styler:
    """Measures at the last step, per domain: the reference baselines first, then the base, then every replay fraction.

    Columns are measures with their units, of which a page shows IN_THE_TABLE, then the numbers of seeds, clips, agent-frames
    (of the ADE) and frames (of the EffNet distances) behind a value.
    """
    values = last_step(per_configuration(rows))
    order = [*tables.REFERENCES.values(), "base", *tuned_configurations(values)]
    domains = [*HEADLINE, *sorted(set(values["domain"]) - set(HEADLINE))]
    lines = pd.MultiIndex.from_product([domains, order], names=["domain", "model"])
    table = values.pivot(index=["domain", "configuration"], columns="measure", values="value").reindex(lines)
    table = table[[measure for measure in TABLE if measure in table]]
    table.columns = [measure_of(measure).name for measure in table]
    by_line = values.set_index(["domain", "configuration"])
    table["seeds"] = by_line.groupby(level=[0, 1])["seeds"].max()
    columns = (("clips", "clips", "ade_px"), ("agent-frames", "n", "ade_px"), ("frames", "n", "effnet_kd"))
    for name, count, measure in columns:
        table[name] = by_line.loc[by_line["measure"] == measure, count]
    table = table.dropna(how="all").rename(index=lambda domain: domain_of(domain).label, level="domain")
    counts = ["seeds", "clips", "agent-frames", "frames"]
    firsts = np.flatnonzero(~table.index.get_level_values(0).duplicated())  # the first row of each domain
    digits = {measure_of(measure).name: measure_of(measure).digits for measure in TABLE}
    shown = [measure_of(measure).name for measure in IN_THE_TABLE if measure_of(measure).name in table]
    styler = style.styled(table, "measures", ruled=firsts, shown=shown).hide(names=True)
    of_measures = {column: partial(number, digits=digits[column]) for column in table if column in digits}
    return styler.format({**of_measures, **dict.fromkeys(counts, "{:.0f}")}, na_rep="–")


# ----------------------------------------------------------------------------------------------------------- sentences
def status_line(preset: str, rows: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Markdown: the preset, the state of its runs, and whether the results are exploratory."""
    split = tables.split_of(rows)
    done = runs[runs["state"] == "done"]
    whole = "all of them finished"
    if len(done) < len(runs):
        whole = f"**{len(done)} of them finished, the others missing or failed** (the table above says why)"
    seeds = int(done.groupby("replay_fraction")["seed"].nunique().min()) if len(done) else 0
    text = f"Preset **{preset}**, {len(runs)} runs, {whole}, measured on the **{split}** split. "
    if split != "test":
        text += f"That split is for pilots and tuning: these results are {EXPLORATORY}."
    elif seeds < tables.SEEDS_FOR_AN_INTERVAL:
        text += f"Not every replay fraction has {tables.SEEDS_FOR_AN_INTERVAL} seeds: these results are {EXPLORATORY}."
    else:
        text += f"Every configuration has at least {seeds} seeds; intervals are 95 % t intervals over seeds."
    return text


def headline(rows: pd.DataFrame) -> str:
    """EffNet-KD on ordinary and ADE on eventful driving, from the base to replay 0 % and to the most below 100 %."""
    values = last_step(per_configuration(rows))
    tuned = values[values["model"] == FINE_TUNED]
    if tuned.empty:
        return "No run of this sweep is finished: only the reference baselines were measured."
    fractions = sorted(tuned["replay_fraction"].unique())
    mixed = [fraction for fraction in fractions if 0 < fraction < 1] or [f for f in fractions if f > 0]
    shown = fractions[: 1 if fractions[0] == 0 else 0] + mixed[-1:]
    parts = []
    for name in tuned_configurations(tuned[tuned["replay_fraction"].isin(shown)]):
        kind, share = name.split("replay ")
        how = "without replay" if name == NONE else f"with {share} {kind}replay"
        kd = _change(values, name, "effnet_kd", "driving")
        ade = _change(values, name, "ade_px", "driving-eventful")
        seeds = int(values.loc[values["configuration"] == name, "seeds"].max())
        count = counted(seeds, "seed") + (": no interval" if seeds < tables.SEEDS_FOR_AN_INTERVAL else "")
        parts.append(f"{how} ({count}), {kd}, and {ade}")
    return f"Fine-tuned on driving {'; '.join(parts)}."


def summary(rows: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Markdown: the headline, then the ADE of every domain beside that of the reference baselines."""
    values, digits = last_step(per_configuration(rows)), measure_of("ade_px").digits
    lines = [style.completeness_paragraph(runs) + headline(rows), ""]
    for domain in HEADLINE:
        ade = of_measure(values, "ade_px", domain).set_index("configuration")["value"]
        if ade.empty:
            continue
        models, copied = ade.reindex(["base", *tuned_configurations(values)]), ade["copy last frame"]
        worse = ", ".join(models.index[models >= copied])
        values_of = ", ".join(f"{name} {number(value, digits)}" for name, value in models.items())
        of_real, of_copied = (number(value, digits) for value in (ade["real"], copied))
        lines.append(
            f"- {capital(domain_of(domain).label)}: ADE in px is {values_of}; the detector itself has {of_real} on real "
            f"frames, and copying the last frame {of_copied}. "
            + (f"No better than copying: {worse}." if worse else "All are better than copying.")
        )
    return "\n".join(lines)


def _change(values: pd.DataFrame, name: str, measure: str, domain: str) -> str:
    """A change, such as "ADE on eventful driving rises from 5.72 to 7.21 px (worse)"; for measures better when lower."""
    unit = f" {measure_of(measure).unit}".rstrip()
    what = f"{measure_of(measure).label} on {domain_of(domain).label}"
    before, after = _value(values, "base", measure, domain), _value(values, name, measure, domain)
    if np.isnan(before) or np.isnan(after):
        return f"{what} was not measured"
    said = partial(number, digits=measure_of(measure).digits)
    if said(before) == said(after):
        return f"{what} stays at {said(before)}{unit}"
    verb, note = ("falls", "better") if after < before else ("rises", "worse")
    line = of_measure(values[values["configuration"] == name], measure, domain).iloc[0]
    if not np.isnan(line["low"]):
        interval = f"95 % interval {said(line['low'])} to {said(line['high'])}"
        is_apart = not line["low"] <= before <= line["high"]
        note = f"{note}; {interval}" if is_apart else f"{interval} contains the base's value"
    return f"{what} {verb} from {said(before)} to {said(after)}{unit} ({note})"


# ------------------------------------------------------------------------------------------------------------- figures
def tradeoff(rows: pd.DataFrame, runs: pd.DataFrame, title: str = "") -> Figure:
    """Fidelity against accuracy at the last step: EffNet-KD on ordinary driving (x), ADE on eventful driving (y).

    A path for each kind of replay, from none to all, its points labelled with their share in percent; bars are t intervals
    (three seeds or more), without replay and at MAIN_FRACTION only. title: the result, if it can be stated.
    """
    means = last_step(per_configuration(rows))
    if not all(len(of_measure(means, *axis)) for axis in TRADEOFF):
        return style.text_figure(NOT_MEASURED)
    at = tables.side_by_side(means, FIDELITY, ACCURACY, ["configuration"])
    shares = means.drop_duplicates("configuration").set_index("configuration")["replay_fraction"]
    colours = colours_of(means)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
        shown = at.loc[["base", *colours]]
        entries = []
        for kind, chain in chains_of(means).items():
            colour = colour_of_chain(chain, colours)
            axes.plot(at.loc[chain, "x"], at.loc[chain, "y"], color=colour, lw=1.4, zorder=1)
            entries.append(legend_entry(colour, f"{kind} replay" if len(colours) > 1 else kind, "o", line="-"))
        _arrow(axes, shown)
        for name in colours:
            has_bars = shares[name] in (0, MAIN_FRACTION)
            _point(axes, at.loc[name], colours[name], "o", has_bars)
            axes.annotate(f"{100 * shares[name]:g} %", (at.loc[name, "x"], at.loc[name, "y"]), (6, 5),
                          textcoords="offset points", fontsize=style.SMALLEST_PT, color=INK, zorder=5)  # fmt: skip
        _point(axes, at.loc["base"], INK, "D", False)
        axes.annotate("base", (at.loc["base", "x"], at.loc["base", "y"]), (-4, -16), textcoords="offset points",
                      fontweight="bold")  # fmt: skip
        _limit(axes, shown, [name for name in colours if shares[name] in (0, MAIN_FRACTION)])
        note = _reference_levels(axes, means, *ACCURACY)
        axes.set(
            xlabel="← better    EffNet-KD on ordinary driving (no unit)", ylabel="← better    ADE on eventful driving (px)"
        )
        return style.finished(figure, title or "Fidelity against accuracy", runs, entries, columns=3, note=note)


def over_fractions(rows: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Each measure of PANELS that the sweep has against the replay fraction, at the last step; base and reference baselines
    as level lines.
    """
    everything = last_step(per_configuration(rows))
    means, seeds = (one[one["model"] == FINE_TUNED] for one in (everything, last_step(per_run(rows))))
    measured = [panel for panel in PANELS if len(of_measure(everything, *panel))]
    if not measured:
        return style.text_figure(NOT_MEASURED)
    chains, colours = chains_of(means), colours_of(means)
    shades = {kind: colour_of_chain(chain, colours) for kind, chain in chains.items()}
    shade_of = {name: shades[kind] for kind, chain in chains.items() for name in chain}
    rows_of_panels = -(-len(measured) // 2)
    with figure_style():
        size = (WIDTH, 0.8 + 2.4 * rows_of_panels)
        figure, panels = plt.subplots(rows_of_panels, 2, figsize=size, sharex=True, squeeze=False)
        for axes in panels.flat[len(measured) :]:
            axes.set_axis_off()
        for axes, (measure, domain) in zip(panels.flat, measured, strict=False):
            _reference_lines(axes, everything, measure, domain)
            axes.axhline(_value(everything, "base", measure, domain), color=INK, lw=1.6, zorder=1)
            here, single = (of_measure(one, measure, domain).set_index("configuration") for one in (means, seeds))
            bars, dots = ([shade_of[name] for name in one.index] for one in (here, single))
            axes.vlines(100 * here["replay_fraction"], here["low"], here["high"], color=bars, lw=1.6, zorder=2)
            for kind, chain in chains.items():
                there = [name for name in chain if name in here.index]
                x, y = 100 * here.loc[there, "replay_fraction"], here.loc[there, "value"]
                sns.lineplot(x=x, y=y, color=shades[kind], marker="o", ms=7, ax=axes)
            axes.scatter(100 * single["replay_fraction"], single["value"], c=dots or None, **SEED_DOT)
            axes.set(xlabel="replay fraction (%)", ylabel=measure_of(measure).axis)
            axes.set_title(capital(domain_of(domain).label))
            if measure == "recall":
                axes.set_ylim(0, 1.03)
            elif measure != "effnet_kd":
                axes.set_ylim(bottom=0)  # an unbiased kernel distance may be negative; an error in pixels cannot
        entries = [legend_entry(shade, kind, "o", line="-") for kind, shade in shades.items()]
        entries.append(legend_entry(INK, "base", "", line="-"))
        return style.finished_with_references(figure, "Measures against the replay fraction", runs, entries)


def over_steps(rows: pd.DataFrame, runs: pd.DataFrame, control: pd.DataFrame | None = None) -> Figure:
    """EffNet-KD and ADE over the steps of fine-tuning: a labelled line with a band (t intervals, three seeds or more) per
    configuration of the main comparison, and one for the rows of a `control` with another target.
    """
    if rows.empty:
        return style.text_figure("These results are missing: they are in book/results.")
    means = per_configuration(rows)
    if not all(len(of_measure(means, *panel)) for panel in TRADEOFF):
        return style.text_figure(NOT_MEASURED)
    every = colours_of(means)
    colours = {name: every[name] for name in main_comparison(means)}
    lines = {name: means[means["configuration"] == name] for name in colours}
    if control is not None and len(control):
        of_control = per_configuration(control)
        lines[CONTROL], colours[CONTROL] = of_control[of_control["configuration"] == NONE], CONTROL_COLOUR
    with figure_style():
        figure, panels = plt.subplots(len(TRADEOFF), 1, figsize=(WIDTH, 6.4), sharex=True)
        notes = []
        for axes, (measure, domain) in zip(panels, TRADEOFF, strict=True):
            start, ends = _value(means, "base", measure, domain), {}
            for name, values in lines.items():
                here = of_measure(values, measure, domain).sort_values("step")
                here = here[here["step"] > 0]
                steps, of_steps = [0, *here["step"]], [start, *here["value"]]
                axes.fill_between(
                    steps, [start, *here["low"]], [start, *here["high"]], color=colours[name], alpha=0.15, lw=0
                )
                axes.plot(steps, of_steps, "o-", color=colours[name], lw=2, ms=4)
                ends[name] = of_steps[-1]
            axes.plot(0, start, "D", ms=7, color=INK, zorder=5)
            axes.margins(y=0.1)
            notes.append(_reference_levels(axes, means, measure, domain))
            style.label_ends(axes, ends, colours)
            axes.set(ylabel=measure_of(measure).axis, title=f"{capital(domain_of(domain).label)} (lower is better)")
        panels[-1].set_xlabel("fine-tuning step")
        note = "\n".join(filter(None, notes))
        return style.finished(figure, "Fidelity and accuracy over fine-tuning", runs, note=note)


def every_measure(rows: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """The measures of the table at the last step, on ordinary and on eventful driving: a line per measure, each on its own
    scale from the best of the models shown, on the left, to the worst.
    """
    means = last_step(per_configuration(rows))
    colours = {name: colour for name, colour in colours_of(means).items() if name in main_comparison(means)}
    styles = {"real": (GREY, "|"), "copy last frame": (GREY, "x"), "base": (INK, "D")}
    styles |= {name: (colour, "o") for name, colour in colours.items()}
    measures = [measure for measure in TABLE if measure in set(means["measure"])]
    with figure_style():
        figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 1.5 + 0.27 * len(measures)), sharey=True)
        for axes, (_, domain) in zip(panels, TRADEOFF, strict=True):
            axes.hlines(range(len(measures)), 0, 1, color=style.LIGHT_GREY, lw=0.8, zorder=0)
            for row, measure in enumerate(measures):
                values = of_measure(means, measure, domain).set_index("configuration")["value"].reindex(list(styles))
                for name, place in _from_the_best(values, measure).items():
                    colour, marker = styles[str(name)]
                    axes.plot(place, row, marker, color=colour, ms=6, mew=1.6 if marker in "|x" else 0, alpha=0.9)
            axes.set(title=capital(domain_of(domain).label), xlim=(-0.08, 1.08))
            axes.set_xticks([0, 1], ["best", "worst"])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(measures)), [measure_of(measure).label for measure in measures])
        panels[0].set_ylim(len(measures) - 0.5, -0.5)
        entries = [legend_entry(colour, name, marker) for name, (colour, marker) in styles.items()]
        return style.finished(figure, "Every measure at the last step (left is better)", runs, entries, columns=3)


def _from_the_best(values: "pd.Series[float]", measure: str) -> "pd.Series[float]":
    """Values scaled from 0, the best of them, to 1, the worst; NaN for infinite ones."""
    better = measure_of(measure).better
    distance = {"low": values, "high": -values}.get(better, (values - values["real"]).abs())
    distance = distance.where(np.isfinite(distance))
    return (distance - distance.min()) / ((distance.max() - distance.min()) or 1.0)


def drawn_measures(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The panels of `every_measure`, for `tables.drawn`: each measure in its two domains."""
    there = set(per_run(rows)["measure"])
    return [(measure, domain) for measure in TABLE if measure in there for _, domain in TRADEOFF]


# ---------------------------------------------------------------------------------------------------- parts of figures
def _reference_lines(axes: Axes, values: pd.DataFrame, measure: str, domain: str) -> None:
    for model in style.DASHES:
        axes.axhline(_value(values, tables.REFERENCES[model], measure, domain), **style.reference_style(model))


def _arrow(axes: Axes, at: pd.DataFrame) -> None:
    """An arrow from the first row of `at` to the second, if both were measured."""
    ends = at[["x", "y"]].to_numpy()[:2]
    if len(ends) == 2 and not np.isnan(ends).any():
        look = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 5, "shrinkB": 6}
        axes.annotate("", ends[1], ends[0], arrowprops=look, zorder=2)


def _limit(axes: Axes, at: pd.DataFrame, with_bars: Sequence[str]) -> None:
    """Limits of the axes around all points, and the bars of some."""
    for of, set_limits in (("x", axes.set_xlim), ("y", axes.set_ylim)):
        ends = [*at[of], *at.loc[list(with_bars), [f"{of}_low", f"{of}_high"]].to_numpy().ravel()]
        low, high = np.nanmin(ends), np.nanmax(ends)
        margin = 0.12 * (high - low) or 1.0
        set_limits(low - margin, high + margin)


def _reference_levels(axes: Axes, values: pd.DataFrame, measure: str, domain: str) -> str:
    """Draw level lines of the reference baselines within the limits, with their names; returns the others in words."""
    outside, (low, high) = [], axes.get_ylim()
    for model, label in tables.REFERENCES.items():
        level = _value(values, label, measure, domain)
        if low <= level <= high:
            axes.axhline(level, **style.reference_style(model))
            axes.annotate(label, (0.01, level), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                          fontsize=style.SMALLEST_PT, color=GREY)  # fmt: skip
        elif not np.isnan(level):
            outside.append(f"{label} {number(level, measure_of(measure).digits)}")
    return f"{measure_of(measure).label} beyond the axis: {', '.join(outside)}" if outside else ""


def _point(axes: Axes, one: "pd.Series[float]", colour: Any, marker: str, has_bars: bool) -> None:
    if has_bars and not np.isnan(one["x_low"]):
        axes.plot([one["x_low"], one["x_high"]], [one["y"]] * 2, color=colour, lw=1.4, zorder=3)
        axes.plot([one["x"]] * 2, [one["y_low"], one["y_high"]], color=colour, lw=1.4, zorder=3)
    axes.plot(one["x"], one["y"], marker, ms=8, color=colour, mec="white", mew=0.8, zorder=4)
