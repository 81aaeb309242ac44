"""What did replay do to your own model? The trade-off, its course over steps, and a table, for domains of any name.

Decision: fidelity is EffNet-KD on the target, what is to be kept is measured in every domain: the agents' ADE where a
detector was named, else how wrong the optical flow is (`motion`). The floors stand in every panel. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from replaylab.analysis.tables import last_step, per_arm, per_run
from replaylab.catalogue import measure_of
from replaylab.pages.style import (
    BLUE,
    DASHES,
    GREY,
    INK,
    SEED_DOT,
    VERMILION,
    WIDTH,
    figure_style,
    finished_with_references,
    styled,
)
from replaylab.sweeps.sweep import Table

DYNAMICS = ("ade_px", "flow_error_px")  # the first that was measured
TABLE = ("effnet_kd", "effnet_fd", "psnr_db", "effnet_perceptual", *DYNAMICS[:1], "recall", *DYNAMICS[1:])
FLOORS = ("real", "autoencoder", "copy-last-frame")


def domains(table: Table) -> tuple[str, ...]:
    """The target first, then what is replayed."""
    return tuple(world.name for world in table.specs[0].evaluation.domains)


def measures(table: Table) -> Styler:
    """Every model at its last step, in every domain; means over clips, then seeds."""
    values = last_step(per_arm(table.rows))
    shown = values[values["measure"].isin(TABLE)]
    wide = shown.pivot(index="arm", columns=["domain", "measure"], values="value")
    order = [(domain, measure) for domain in domains(table) for measure in TABLE if (domain, measure) in wide]
    named = wide.loc[shown["arm"].unique(), order].rename(
        columns=lambda measure: measure_of(measure).name, level="measure"
    )
    return styled(named, "own-measures").format("{:.3g}", na_rep="–")


def tradeoff(table: Table) -> Figure:
    """EffNet-KD on the target against the dynamics of each domain, at the last step: an arrow from the base to no replay,
    a line on to more.
    """
    values = last_step(per_run(table.rows))
    with figure_style():
        figure, panels = _panels(domains(table), 3.0)
        for axes, domain in zip(panels, domains(table), strict=True):
            dynamics = _dynamics(values, domain)
            both = _pairs(values, domains(table)[0], domain, dynamics)
            _floors(axes, both)
            means = both.groupby("arm", sort=False)[["x", "y"]].mean()
            tuned = [arm for arm in _tuned(both) if arm in means.index]
            for arm, colour in zip(tuned, _colours(len(tuned)), strict=True):
                here = both[both["arm"] == arm]
                axes.scatter(here["x"], here["y"], color=colour, **SEED_DOT)
                axes.plot(*means.loc[arm], "o", color=colour, ms=8, label=arm)
            axes.plot(*means.loc["base"], "D", color=INK, ms=7, label="base")
            if tuned:
                line = means.loc[tuned]
                axes.plot(line["x"], line["y"], color=GREY, lw=1, zorder=0)
                start, end = (tuple(means.loc[arm]) for arm in ("base", tuned[0]))
                arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 6, "shrinkB": 6}
                axes.annotate("", end, start, arrowprops=arrow, zorder=0)
            axes.set(xlabel=f"EffNet-KD on {domains(table)[0]}", ylabel=measure_of(dynamics).axis, title=domain)
        return _finished(figure, panels[0], "Fidelity against dynamics", table.runs)


def over_steps(table: Table) -> Figure:
    """The same two measures over fine-tuning, a row for each domain; every arm begins at the base."""
    values = per_run(table.rows)
    with figure_style():
        names = domains(table)
        figure, panels = plt.subplots(len(names), 2, figsize=(WIDTH, 0.8 + 2.2 * len(names)), squeeze=False)
        for row, domain in zip(panels, names, strict=True):
            for axes, measure in zip(row, ("effnet_kd", _dynamics(values, domain)), strict=True):
                here = values[(values["domain"] == domain) & (values["measure"] == measure)]
                before = here.loc[here["arm"] == "base", "value"].mean()
                for arm, colour in zip(_tuned(here), _colours(len(_tuned(here))), strict=True):
                    course = here[here["arm"] == arm].groupby("step")["value"].mean()
                    axes.plot([0, *course.index], [before, *course], "o-", color=colour, ms=4, label=arm)
                axes.plot(0, before, "D", color=INK, ms=6, label="base")
                for model in FLOORS:
                    level = here.loc[here["model"] == model, "value"].mean()
                    axes.axhline(level, color=GREY, lw=0.9, ls=DASHES[model], zorder=0)
                axes.set(xlabel="step", title=f"{domain}: {measure_of(measure).name}")
        return _finished(figure, panels[0, 0], "Over fine-tuning", table.runs)


def found(table: Table) -> str:
    """Markdown: what fine-tuning did to each domain without replay, and what with; no verdict, for few seeds have none."""
    values = last_step(per_run(table.rows))
    lines = []
    for domain in domains(table):
        measure = _dynamics(values, domain)
        here = values[(values["domain"] == domain) & (values["measure"] == measure)]
        means = here.groupby("arm", sort=False)["value"].mean()
        before = means["base"]
        changes = ", ".join(f"{arm} {means[arm] - before:+.3g}" for arm in _tuned(here))
        lines.append(
            f"- **{domain}**: {measure_of(measure).name} is {before:.3g} before fine-tuning; it changes by {changes}."
        )
    seeds = table.runs["seed"].nunique()
    note = f"Of {seeds} seed{'s' if seeds > 1 else ''}: look for changes that are larger than what seeds differ by."
    return "\n".join([*lines, "", note])


def _dynamics(values: pd.DataFrame, domain: str) -> str:
    there = set(values.loc[values["domain"] == domain, "measure"])
    return next(measure for measure in DYNAMICS if measure in there)


def _pairs(values: pd.DataFrame, target: str, domain: str, dynamics: str) -> pd.DataFrame:
    """Per run: x, EffNet-KD on the target, and y, the dynamics of the domain."""
    keys = ["arm", "model", "replay_fraction", "run"]
    x, y = (
        values[(values["domain"] == of) & (values["measure"] == measure)].set_index(keys)["value"]
        for of, measure in ((target, "effnet_kd"), (domain, dynamics))
    )
    return pd.concat({"x": x, "y": y}, axis=1, join="inner").reset_index()


def _tuned(values: pd.DataFrame) -> list[str]:
    """The fine-tuned arms, from no replay upwards."""
    tuned = values[values["model"] == "fine-tuned"].sort_values("replay_fraction", kind="stable")
    return list(tuned["arm"].unique())


def _colours(count: int) -> Sequence[tuple[float, ...]]:
    return [VERMILION, *sns.light_palette(BLUE, max(count, 2) + 1)[2:]][:count]


def _panels(names: Sequence[str], height: float) -> tuple[Figure, Sequence[Axes]]:
    figure, panels = plt.subplots(len(names), 1, figsize=(WIDTH, 0.8 + height * len(names)), squeeze=False)
    return figure, list(panels[:, 0])


def _floors(axes: Axes, both: pd.DataFrame) -> None:
    for model in FLOORS:
        at = both[both["model"] == model]
        if len(at):
            style = {"color": GREY, "lw": 0.9, "ls": DASHES[model], "zorder": 0}
            axes.axhline(at["y"].mean(), **style)
            axes.axvline(at["x"].mean(), **style)


def _finished(figure: Figure, axes: Axes, title: str, runs: pd.DataFrame) -> Figure:
    handles, _ = axes.get_legend_handles_labels()
    return finished_with_references(figure, title, runs, [one for one in handles if isinstance(one, Line2D)])
