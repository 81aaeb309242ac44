"""The page on a reader's own model: the trade-off of replay, its course over steps, and a table, for any domains.

Decision: fidelity is EffNet-KD on the target; accuracy is measured in every domain, by the agents' ADE if there is a
detector, or else by the error of the optical flow. The reference baselines are in every panel. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis.changes import of_measure
from replaylab.analysis.tables import FLOORS, last_step, per_configuration, per_run, side_by_side
from replaylab.catalogue import measure_of
from replaylab.pages import style
from replaylab.pages.style import GREY, INK, VERMILION, WIDTH, figure_style
from replaylab.pages.sweep_configurations import tuned_configurations
from replaylab.sweeps.sweep import Table
from replaylab.util.text import counted, in_markdown, number

TABLE = ("effnet_kd", "effnet_fd", "psnr_db", "effnet_perceptual", "ade_px", "recall", "flow_error_px")
IN_THE_TABLE = ("effnet_kd", "ade_px", "recall", "flow_error_px")


def domains(table: Table) -> tuple[str, ...]:
    """The names of the target and then of the replayed domains."""
    return tuple(world.name for world in table.specs[0].evaluation.domains)


def measures_table(table: Table) -> Styler:
    """The measures of all models at their last step by domain; means over clips, then seeds. A page shows IN_THE_TABLE."""
    values = last_step(per_configuration(table.rows))
    shown = values[values["measure"].isin(TABLE)]
    lines = pd.MultiIndex.from_product([domains(table), shown["configuration"].unique()], names=["domain", "configuration"])
    wide = shown.pivot(index=lines.names, columns="measure", values="value").reindex(lines).dropna(how="all")
    measured = [measure for measure in TABLE if measure in wide]
    wide = wide[measured].rename(columns=lambda name: measure_of(name).name).rename_axis(columns=None)
    firsts = np.flatnonzero(~wide.index.get_level_values("domain").duplicated())
    in_view = [measure_of(measure).name for measure in IN_THE_TABLE if measure in measured]
    styler = style.styled(wide, "own-measures", ruled=firsts, shown=in_view).hide(names=True)
    digits = {measure_of(measure).name: measure_of(measure).digits for measure in measured}
    return styler.format({column: partial(number, digits=of) for column, of in digits.items()}, na_rep="–")


def tradeoff(table: Table) -> Figure:
    """EffNet-KD on the target against accuracy in each domain at the last step: from the base to replay 0 % and to more."""
    values, names = last_step(per_run(table.rows)), domains(table)
    with figure_style():
        figure, panels = plt.subplots(len(names), 1, figsize=(WIDTH, 0.8 + 3.0 * len(names)), squeeze=False)
        for axes, domain in zip(panels[:, 0], names, strict=True):
            measure = _accuracy(values, domain)
            keys = ["configuration", "model", "replay", "replay_fraction", "run"]
            both = side_by_side(values, ("effnet_kd", names[0]), (measure, domain), keys).reset_index()
            for model in FLOORS:
                at = both[both["model"] == model]
                if len(at):
                    axes.axhline(at["y"].mean(), **style.reference_style(model))
                    axes.axvline(at["x"].mean(), **style.reference_style(model))
            means = both.groupby("configuration", sort=False)[["x", "y"]].mean()
            tuned = tuned_configurations(both)
            for name, colour in zip(tuned, _colours(len(tuned)), strict=True):
                here = both[both["configuration"] == name]
                axes.scatter(here["x"], here["y"], color=colour, **style.SEED_DOT)
                axes.plot(*means.loc[name], "o", color=colour, ms=8, label=name)
            axes.plot(*means.loc["base"], "D", color=INK, ms=7, label="base")
            if tuned:
                line = means.loc[tuned]
                axes.plot(line["x"], line["y"], color=GREY, lw=1, zorder=0)
                start, end = (tuple(means.loc[name]) for name in ("base", tuned[0]))
                arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 6, "shrinkB": 6}
                axes.annotate("", end, start, arrowprops=arrow, zorder=0)
            axes.set(xlabel=f"EffNet-KD on {names[0]}", ylabel=measure_of(measure).axis, title=domain)
        entries = panels[0, 0].get_legend_handles_labels()[0]
        return style.finished_with_references(figure, "Fidelity against accuracy", table.runs, entries)


def over_steps(table: Table) -> Figure:
    """The same two measures over fine-tuning, a row for each domain; every configuration starts at the base."""
    values, names = per_run(table.rows), domains(table)
    with figure_style():
        figure, panels = plt.subplots(len(names), 2, figsize=(WIDTH, 0.8 + 2.2 * len(names)), squeeze=False)
        for row, domain in zip(panels, names, strict=True):
            for axes, measure in zip(row, ("effnet_kd", _accuracy(values, domain)), strict=True):
                here = of_measure(values, measure, domain)
                before = here.loc[here["configuration"] == "base", "value"].mean()
                tuned = tuned_configurations(here)
                for name, colour in zip(tuned, _colours(len(tuned)), strict=True):
                    course = here[here["configuration"] == name].groupby("step")["value"].mean()
                    axes.plot([0, *course.index], [before, *course], "o-", color=colour, ms=4, label=name)
                axes.plot(0, before, "D", color=INK, ms=6, label="base")
                for model in FLOORS:
                    level = here.loc[here["model"] == model, "value"].mean()
                    axes.axhline(level, **style.reference_style(model))
                axes.set(xlabel="step", title=f"{domain}: {measure_of(measure).name}")
        entries = panels[0, 0].get_legend_handles_labels()[0]
        return style.finished_with_references(figure, "Over fine-tuning", table.runs, entries)


def summary(table: Table) -> str:
    """Markdown: the change of accuracy in each domain without and with replay; no verdict, which takes more seeds."""
    values = last_step(per_run(table.rows))
    lines = []
    for domain in domains(table):
        measure = _accuracy(values, domain)
        here = of_measure(values, measure, domain)
        means = here.groupby("configuration", sort=False)["value"].mean()
        before, digits = means["base"], measure_of(measure).digits
        changes = ", ".join(
            f"{in_markdown(name)} {number(means[name] - before, f'+{digits}')}" for name in tuned_configurations(here)
        )
        level = f"{measure_of(measure).name} is {number(before, digits)} before fine-tuning"
        lines.append(f"- **{in_markdown(domain)}**: {level}; it changes by {changes}.")
    seeds = table.runs["seed"].nunique()
    note = f"With {counted(seeds, 'seed')}: only changes larger than the differences between seeds are meaningful."
    return "\n".join([*lines, "", note])


def _accuracy(values: pd.DataFrame, domain: str) -> str:
    measured = set(values.loc[values["domain"] == domain, "measure"])
    return "ade_px" if "ade_px" in measured else "flow_error_px"


def _colours(count: int) -> Sequence[tuple[float, ...]]:
    return [VERMILION, *sns.light_palette(style.BLUE, max(count, 2) + 1)[2:]][:count]
