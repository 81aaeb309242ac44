"""The page on the effects of fine-tuning, by measure and step: its figures, tables and sentences; no torch.

The functions take a `Changes`, made by `read` from a sweep's table, and return a matplotlib figure, a pandas Styler or
Markdown. Decision: all values are after − before, clip by clip against the run's own base, in figures and in their files. A
change is better or worse if its interval over seeds and scenes excludes 0 (`statistics.interval`); for a measure of a whole
set, without contributions of single clips, the interval is over seeds.

Refused: runs whose base was not measured, and intervals from fewer than three seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pandas.io.formats.style import Styler

from replaylab import catalogue
from replaylab.analysis import statistics
from replaylab.analysis.changes import FINE_TUNED, before_and_after, of_measure
from replaylab.analysis.claims import Configuration
from replaylab.analysis.statistics import (
    BETTER,
    CANNOT_TELL,
    FEW,
    SEEDS_FOR_AN_INTERVAL,
    WORSE,
    Interval,
    describe,
    interval,
)
from replaylab.analysis.tables import NONE, for_changes, per_configuration, per_run, side_by_side
from replaylab.catalogue import DENOISING_LOSSES, OTHER_LOOKS, TARGET_LOOK, domain_of, measure_of
from replaylab.pages import style
from replaylab.pages.style import BLUE, GREEN, GREY, INK, VERMILION, WIDTH, figure_style, finished, legend_entry
from replaylab.pages.verdicts import configuration_name
from replaylab.sweeps.sweep import Table
from replaylab.util.text import capital, counted, number

AGENTS = (
    "ade_px", *(f"ade_px_frame_{frame}" for frame in range(1, 6)), "ade_matched_px", "ade_tracked_px", "fde_px",
    "recall", "vanishing_rate", "false_positives", "average_precision_iou50", "iou_matched", "size_error_matched",
    "position_error_m", "range_error_matched_m", "bearing_error_matched_deg",
)  # fmt: skip
FIDELITY = ("effnet_kd", "video_kd", "effnet_perceptual", "psnr_db", "ssim")
MOTION = {  # the sign of each change according to C7
    "background_flow_error_px": -1, "residual_agent_error_px": +1, "displacement_slope": -1, "pull_to_mean": +1,
}  # fmt: skip
PATH = ("effnet_kd", "ade_px")
IN_THE_MAP = (*FIDELITY, *AGENTS)
EVERYWHERE = (*TARGET_LOOK, *OTHER_LOOKS)
SOURCES = catalogue.SOURCES["all"]  # the base's training domains, which it can forget
ALL_DOMAINS = dict.fromkeys((*EVERYWHERE, *SOURCES))
MOTION_PANELS = [(measure, domain) for measure in MOTION for domain in TARGET_LOOK]
FORGOTTEN = (*DENOISING_LOSSES, "effnet_kd", "flow_error_px", "ade_px")
SHOWN = dict.fromkeys((*AGENTS, *FIDELITY, *MOTION, *FORGOTTEN))
NAMES = {catalogue.PSEUDO.get(measure, measure): measure for measure in SHOWN}  # by the measure that is compared per clip
MEASURES = {*SHOWN, *NAMES}  # the measures that this page needs of a sweep's rows
OVER_STEPS = [
    ("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"), ("ade_px", "driving-held-out"),
    ("ade_matched_px", "driving-eventful"), ("recall", "driving-eventful"),
]  # fmt: skip
COLOURS = {"driving": VERMILION, "driving-eventful": BLUE, "driving-held-out": GREEN}
MARKERS = {"driving": "o", "driving-eventful": "s", "driving-held-out": "^"}
DRIFT_COLOURS = {
    "near": BLUE, "physics": "#7b6fd0", "orbit": "#ca9161", "doom": "#949494", "driving": VERMILION,
    "driving-eventful": "#e8a26e",
}  # fmt: skip
OUTCOME_COLOURS = {BETTER: "#92c5de", CANNOT_TELL: "#f7f7f7", WORSE: "#fdcc8a", FEW: style.LIGHT_GREY}
NO_RUN = "No run without replay is finished in this sweep."


@dataclass(frozen=True)
class Changes:
    """After − before of every measure, domain and evaluated step. A `change` is in the measure's own unit."""

    runs: pd.DataFrame
    """the grid's runs, as `sweep.Table` has them"""
    values: pd.DataFrame
    """`tables.per_run`: the levels themselves, and those of the reference baselines"""
    of_runs: pd.DataFrame
    """configuration, run, seed, base, step, domain, measure, before, change, and clips, equal in all runs of one"""
    of_configurations: pd.DataFrame
    """configuration, step, domain, measure, before, change, low, high (NaN for fewer than three seeds), seeds, clips, and as
    text `described`, such as "+1.2 (0.9 to 1.5)", and `outcome` (`statistics.outcome`)"""

    def at_the_end(self) -> pd.DataFrame:
        """The changes without replay at the last step, by measure and domain."""
        here = self.of_configurations[self.of_configurations["configuration"] == NONE]
        return here[here["step"] == here["step"].max()]

    def drawn(self, measures: Iterable[str], domains: Iterable[str], *, at_the_end: bool = False) -> pd.DataFrame:
        """The values of a figure's runs without replay, for `style.csv_link`."""
        here = self.of_runs[self.of_runs["configuration"] == NONE]
        here = here[here["step"] == here["step"].max()] if at_the_end else here
        return here[here["measure"].isin(list(measures)) & here["domain"].isin(list(domains))]


def read(table: Table) -> Changes:
    """The changes in a sweep's rows; ValueError if a run's base was not measured with the same measures and domains."""
    of_runs, of_configurations = [], []
    few = for_changes(table.rows[table.rows["measure"].isin(NAMES) & table.rows["model"].isin([FINE_TUNED, "base"])])
    keys = ["replay", "replay_fraction", "target", "step"]
    for (domain, measure), here in few.groupby(["domain", "measure"], sort=False):
        before, after = before_and_after(here, measure, domain)
        index, all_before, all_changes = after.index.to_frame(index=False), before.to_numpy(), (after - before).to_numpy()
        runs = index[["run", "seed", "base"]].to_dict("records")
        for (*configuration, step), places in index.groupby(keys).indices.items():
            of_base, change = all_before[places], all_changes[places]
            in_all = np.isfinite(change).all(axis=0)
            if not in_all.any():
                continue
            of_base, change = of_base[:, in_all], change[:, in_all]
            at = {"configuration": configuration_name(Configuration(*configuration)), "step": step, "domain": domain,
                  "measure": NAMES[measure], "clips": in_all.sum()}  # fmt: skip
            for place, one, by in zip(places, of_base.mean(1), change.mean(1), strict=True):
                of_runs.append({**at, **runs[place], "before": one, "change": by})
            mean = interval(change)
            of_configurations.append({
                **at, "change": mean.estimate, "low": mean.low, "high": mean.high, "before": of_base.mean(),
                "seeds": len(places), "described": describe(mean, measure_of(NAMES[measure]).digits),
                "outcome": statistics.outcome(mean, measure_of(NAMES[measure]).better),
            })  # fmt: skip
    at_step = ["step", "domain", "measure", "before", "change", "clips"]
    return Changes(
        table.runs, per_run(table.rows),
        pd.DataFrame(of_runs, columns=["configuration", "run", "seed", "base", *at_step]),
        pd.DataFrame(of_configurations, columns=["configuration", *at_step, "low", "high", "seeds", "described", "outcome"]),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- figures
def path(made: Changes) -> Figure:
    """Change of EffNet-KD on ordinary driving against that of ADE, without replay, with intervals at the last step."""
    table = made.of_configurations[made.of_configurations["configuration"] == NONE]
    if table.empty:
        return style.text_figure(NO_RUN)
    levels = table.rename(columns={"change": "value"})
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        for domain in _measured(table, TARGET_LOOK):
            both = side_by_side(levels, ("effnet_kd", "driving"), ("ade_px", domain), ["step"]).sort_index()
            x, y, colour = [0, *both["x"]], [0, *both["y"]], COLOURS[domain]
            axes.plot(x, y, color=colour, marker=MARKERS[domain], ms=5, lw=1.6, label=domain_of(domain).label)
            last = both.iloc[-1]
            axes.plot([last["x_low"], last["x_high"]], [last["y"]] * 2, color=colour, lw=1)
            axes.plot([last["x"]] * 2, [last["y_low"], last["y_high"]], color=colour, lw=1)
            axes.plot(x[-1], y[-1], MARKERS[domain], color=colour, ms=9, mec="white", zorder=4)
        fidelity = of_measure(levels, "effnet_kd", "driving").set_index("step")["value"]
        for step, at in _spaced(dict(fidelity), 0.05).items():
            axes.annotate(f"step {step}", (at, 0), (2, 3), xycoords=("data", "axes fraction"),
                          textcoords="offset points", rotation=90, fontsize=7.5, color=GREY)  # fmt: skip
            axes.axvline(at, color=GREY, lw=0.4, ls=":", zorder=0)
        axes.plot(0, 0, "D", color=INK, ms=7, zorder=5, label="base")
        axes.set_xlabel("change of EffNet-KD on ordinary driving (no unit); left is better")
        axes.set_ylabel("change of ADE (px); down is better")
        return finished(figure, "Where fine-tuning without replay goes", made.runs, axes.get_legend_handles_labels()[0])


def over_steps(made: Changes) -> Figure:
    """Changes from the base over the steps without replay; thin lines are single runs, bars intervals."""
    table, runs = (one[one["configuration"] == NONE] for one in (made.of_configurations, made.of_runs))
    if table.empty:
        return style.text_figure(NO_RUN)
    with figure_style():
        figure, panels = plt.subplots(3, 2, figsize=(WIDTH, 7.6), sharex=True)
        for axes, (measure, domain) in zip(panels.flat, OVER_STEPS, strict=True):
            line = of_measure(table, measure, domain).sort_values("step")
            axes.plot([0, *line["step"]], [0, *line["change"]], color=VERMILION, lw=2, marker="o", ms=5)
            axes.vlines(line["step"], line["low"], line["high"], color=VERMILION, lw=1.4)
            for _, one in of_measure(runs, measure, domain).sort_values("step").groupby("run"):
                axes.plot([0, *one["step"]], [0, *one["change"]], color=VERMILION, lw=0.6, alpha=0.6)
            axes.axhline(0, color=INK, lw=1.2, zorder=1)
            axes.set_title(capital(domain_of(domain).label))
            axes.set(xlabel="fine-tuning step", ylabel=f"change of\n{measure_of(measure).name}")
        _square_root_steps(panels[0, 0], table["step"])
        entries = [legend_entry(VERMILION, NONE, "o", "-"), legend_entry(INK, "base", "", "-")]
        return finished(figure, "Changes from the base over fine-tuning", made.runs, entries)


def changes_map(made: Changes) -> Figure:
    """Measures of fidelity and agents by kind of driving and appearance: changes at the last step, coloured by outcome."""
    table = made.at_the_end()
    if table.empty:
        return style.text_figure(NO_RUN)
    outcomes = list(OUTCOME_COLOURS)
    table = table.assign(code=table["outcome"].map(outcomes.index), text=table["change"].map("{:+.2g}".format))
    codes = _wide(table, "code", IN_THE_MAP)
    texts = _wide(table, "text", IN_THE_MAP).fillna("").replace("-", "−", regex=True)
    measures, domains = list(codes.index), list(codes.columns)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 1.5 + 0.24 * len(measures)))
        colours = ListedColormap(list(OUTCOME_COLOURS.values()))
        sns.heatmap(
            codes.to_numpy(float), annot=texts.to_numpy(), fmt="", annot_kws={"fontsize": 7.5, "color": INK}, ax=axes,
            cmap=colours, norm=BoundaryNorm(np.arange(-0.5, len(outcomes)), len(outcomes)), cbar=False,
            linewidths=0.8, linecolor="white",
        )  # fmt: skip
        axes.set_yticks(np.arange(len(measures)) + 0.5, [measure_of(name).name for name in measures], fontsize=8, rotation=0)
        heads = [domain_of(domain).short.replace(" ", "\n") for domain in domains]
        axes.set_xticks(np.arange(len(domains)) + 0.5, heads, fontsize=7.5, rotation=0)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        of_target = sum(domain in TARGET_LOOK for domain in domains)
        axes.axhline(sum(measure in FIDELITY for measure in measures), color=INK, lw=1)
        axes.axvline(of_target, color=INK, lw=1)
        for first, last, name in ((0, of_target, "target's appearance"), (of_target, len(domains), "other appearances")):
            if last > first:
                axes.text((first + last) / 2, 1.065, name, ha="center", va="bottom", fontsize=8.5,
                          transform=axes.get_xaxis_transform())  # fmt: skip
        patches = [
            Patch(facecolor=colour, edgecolor=GREY, lw=0.5, label=outcome)
            for code, (outcome, colour) in enumerate(OUTCOME_COLOURS.items())
            if (codes == code).any(axis=None)
        ]
        return finished(figure, "What fine-tuning without replay changes", made.runs, patches, columns=3)


def _wide(table: pd.DataFrame, column: str, measures: Iterable[str]) -> pd.DataFrame:
    """A column of a table by measure (rows) and domain (columns), without those that were not measured."""
    wide = table.pivot(index="measure", columns="domain", values=column)
    return wide.reindex(index=[name for name in measures if name in wide.index], columns=_measured(table, EVERYWHERE))


def dominant_motion(made: Changes) -> Figure:
    """The four measures of C7 over fine-tuning without replay, beside those of real frames and of a copied last frame."""
    values = per_configuration(made.values)
    tuned = values[values["configuration"] == NONE]
    if tuned.empty:
        return style.text_figure(NO_RUN)
    domains = _measured(tuned, TARGET_LOOK)
    with figure_style():
        figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.8), sharex=True)
        for axes, measure in zip(panels.flat, MOTION, strict=True):
            for domain in domains:
                colour, here = COLOURS[domain], of_measure(values, measure, domain)
                start = here.loc[here["configuration"] == "base", "value"]
                line = here[here["configuration"] == NONE].sort_values("step")
                if line.empty:
                    continue
                axes.plot([0, *line["step"]], [*start, *line["value"]], color=colour, marker=MARKERS[domain], ms=5)
                axes.vlines(line["step"], line["low"], line["high"], color=colour, lw=1.2)
                for model in ("real", "copy-last-frame"):
                    for level in here.loc[here["model"] == model, "value"]:
                        axes.axhline(level, color=colour, lw=0.9, ls=style.DASHES[model], alpha=0.8, zorder=0)
            axes.set(xlabel="fine-tuning step")
            axes.set_title(capital(measure_of(measure).axis), fontsize=9)
        _square_root_steps(panels[0, 0], tuned["step"])
        entries = [legend_entry(COLOURS[domain], domain_of(domain).label, MARKERS[domain], "-") for domain in domains]
        levels = style.reference_entries(("real", "copy-last-frame"))
        return finished(figure, "Background's motion and the agents' own", made.runs, [*entries, *levels])


def forgetting(made: Changes) -> Figure:
    """The change on each domain at the last step without replay: a panel per measure, mean and interval; dots are runs."""
    table, runs = made.at_the_end(), made.drawn(FORGOTTEN, ALL_DOMAINS, at_the_end=True)
    if table.empty:
        return style.text_figure(NO_RUN)
    measures = [DENOISING_LOSSES[1], "effnet_kd", "flow_error_px", "ade_px"]
    domains = _measured(table, [*TARGET_LOOK, *[name for name in OTHER_LOOKS if name != "near"], *SOURCES])
    with figure_style():
        figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 1.3 + 0.46 * len(domains)), sharey=True)
        for axes, measure in zip(panels.flat, measures, strict=True):
            axes.axvline(0, color=INK, lw=1, zorder=1)
            for place, domain in enumerate(domains):
                colour = INK if domain in SOURCES else GREY
                dots = of_measure(runs, measure, domain)["change"]
                axes.scatter(dots, [place] * len(dots), color=colour, **style.SEED_DOT)
                for one in of_measure(table, measure, domain).to_dict("records"):
                    axes.plot([one["low"], one["high"]], [place] * 2, color=colour, lw=1.6)
                    axes.plot(one["change"], place, "D", ms=5, color=colour, mec="white", zorder=4)
            axes.set_title(f"Change of\n{measure_of(measure).name}", fontsize=9)
            axes.set_yticks(range(len(domains)), [domain_of(domain).label for domain in domains], fontsize=8)
            axes.tick_params(axis="x", labelsize=8)
            axes.axhline(len(domains) - sum(domain in SOURCES for domain in domains) - 0.5, color=GREY, lw=0.6)
        panels[0, 0].invert_yaxis()
        names = {INK: "the base's training domains", GREY: "not in its training"}
        entries = [legend_entry(colour, name, "D") for colour, name in names.items()]
        return finished(figure, "Forgetting at the last step (right is worse)", made.runs, entries)


def drift(made: Changes) -> Figure:
    """Change of the denoising loss at the last step without replay over the noise level, a line for each domain."""
    table = made.at_the_end()
    table = table[table["measure"].isin(DENOISING_LOSSES)]
    if table.empty:
        return style.text_figure(NO_RUN)
    domains = _measured(table, DRIFT_COLOURS)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.0))
        axes.axhline(0, color=INK, lw=1, zorder=1)
        for place, domain in enumerate(domains):
            here = table[table["domain"] == domain].set_index("measure").reindex(DENOISING_LOSSES)
            x = np.array(catalogue.NOISE_LEVELS) + 0.006 * (place - len(domains) / 2)  # so that bars do not hide each other
            axes.plot(x, here["change"], color=DRIFT_COLOURS[domain], marker="o", ms=5, lw=1.6)
            axes.vlines(x, here["low"], here["high"], color=DRIFT_COLOURS[domain], lw=1.2)
        axes.set_xticks(catalogue.NOISE_LEVELS)
        axes.set(xlabel="noise level (0: clean, 1: noise alone)", ylabel="change of denoising loss (no unit)")
        entries = [legend_entry(DRIFT_COLOURS[domain], domain_of(domain).label, "o", "-") for domain in domains]
        return finished(figure, "Drift from the base by noise level (up is worse)", made.runs, entries)


# -------------------------------------------------------------------------------------------------------------- tables
def changes_table(made: Changes) -> Styler:
    """The changes of `changes_map` with their intervals, and the four measures of C7."""
    table = made.at_the_end()
    table = table.assign(cell=[_cell(one) for one in table.to_dict("records")])
    wide = _wide(table, "cell", (*IN_THE_MAP, *MOTION)).fillna("–")
    wide = wide.rename(columns=lambda domain: domain_of(domain).label, index=lambda name: measure_of(name).name)
    wide = wide.rename_axis(index="measure", columns=None).reset_index()
    shown = ["measure", *(domain_of(domain).label for domain in (*TARGET_LOOK, *OTHER_LOOKS[:2]))]
    return style.styled(wide, "changes", shown=shown).hide(axis="index")


def _cell(one: dict[str, Any]) -> style.IntervalCell:
    """The change of a row of `Changes.of_configurations`."""
    mean = Interval(one["change"], one["low"], one["high"], one["seeds"])
    return style.IntervalCell(mean, measure_of(one["measure"]).digits)


def transfer_table(made: Changes) -> Styler:
    """Backward transfer and average forgetting over the base's training domains by configuration, means over runs.

    Both as in `statistics`, of all checkpoints at which all of these domains were measured.
    """
    shown = ["configuration", "measure", "runs", "backward transfer", "average forgetting"]
    return style.styled(pd.DataFrame(_transfers(made)), "transfer", shown=shown).hide(axis="index")


def _transfers(made: Changes) -> list[dict[str, Any]]:
    lines = []
    sources = made.of_runs[made.of_runs["domain"].isin(SOURCES) & made.of_runs["measure"].isin(FORGOTTEN)]
    sources = sources.sort_values("measure", kind="stable")
    for (name, measure), here in sources.groupby(["configuration", "measure"], sort=False):
        tables = [run.pivot(index="step", columns="domain", values="change").dropna() for _, run in here.groupby("run")]
        transfers = [statistics.backward_transfer(one) for one in tables]
        losses = [statistics.average_forgetting(one) for one in tables]
        digits = measure_of(measure).digits
        lines.append({
            "configuration": name, "measure": measure_of(measure).name,
            "domains": "; ".join(domain_of(domain).label for domain in SOURCES if domain in set(here["domain"])),
            "checkpoints": str(max(map(len, tables))), "runs": str(len(tables)),
            "backward transfer": style.IntervalCell(interval(transfers), digits),
            "average forgetting": style.IntervalCell(interval(losses), digits),
        })  # fmt: skip
    return lines


# --------------------------------------------------------------------------------------------------------------- texts
def motion_claim(made: Changes) -> str:
    """C7 in a sentence, for the opening: the changes of its four measures, and how many have the sign that C7 predicts."""
    head = "**C7**, the model learns the dominant motion instead: "
    rows = _of_motion(made)
    if not rows:
        return f"{head}**not run yet**."
    each = "; ".join(f"{measure_of(one['measure']).axis} {one['described']}" for one in rows)
    text = f"{head}**exploratory**, no verdict was planned. Changes on {domain_of('driving-eventful').label}"
    return f"{text}: {each}. {capital(signs_in_words(made))}."


def signs_in_words(made: Changes) -> str:
    """How many of C7's measures change as predicted, such as "3 of 4 change as C7 predicts, 0 the other way, 5 seeds"."""
    rows = _of_motion(made)
    if not rows:
        return "not run yet"
    of_seeds = counted(seeds := max(one["seeds"] for one in rows), "seed")
    if seeds < SEEDS_FOR_AN_INTERVAL:
        return f"{of_seeds}, no interval"
    signs = [np.sign(one["change"]) * MOTION[one["measure"]] for one in rows if one["low"] * one["high"] > 0]
    return f"{signs.count(1)} of {len(rows)} change as C7 predicts, {signs.count(-1)} the other way, {of_seeds}"


def _of_motion(made: Changes) -> list[pd.Series[Any]]:
    table = made.at_the_end()
    table = table[table["domain"] == "driving-eventful"].set_index("measure", drop=False)
    return [table.loc[measure] for measure in MOTION if measure in table.index]


def summary(made: Changes) -> str:
    """Markdown: the changes in fidelity and accuracy, the outcomes of the measures of agents, and forgetting."""
    table = made.at_the_end()
    if table.empty:
        return NO_RUN
    lines = []
    for kd in of_measure(table, "effnet_kd", "driving").itertuples():
        changed = f"after {kd.step} steps EffNet-KD on ordinary driving changes by {kd.described}"
        lines.append(f"- **Visual fidelity**: {changed}: {kd.outcome}, {counted(kd.seeds, 'seed')}.")
    for ade in table[table["measure"] == "ade_px"].itertuples():
        here = table[(table["domain"] == ade.domain) & table["measure"].isin(AGENTS)]
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in here["outcome"].value_counts().items())
        before = number(ade.before, measure_of("ade_px").digits)
        changed = f"ADE changes by {ade.described} px from {before}: {ade.outcome}, {counted(ade.seeds, 'seed')}"
        where = capital(domain_of(ade.domain).label)
        lines.append(f"- **{where}**: {changed}. Of {len(here)} measures of agents: {outcomes}.")
    lost = [line for line in _transfers(made) if line["configuration"] == NONE]
    if lost:
        each = "; ".join(f"{line['measure']} {line['backward transfer']}" for line in lost)
        lines.append(f"- **The base's training domains** (backward transfer, below 0: forgotten): {each}.")
    return style.completeness_paragraph(made.runs) + "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ parts of figures
def _measured(table: pd.DataFrame, domains: Iterable[str]) -> list[str]:
    """The domains that were measured, in this order."""
    measured = set(table["domain"])
    return [domain for domain in domains if domain in measured]


def _square_root_steps(axes: Axes, steps: Any) -> None:
    """A square-root scale, which spreads the early steps, on the x axis that the panels share."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ticks = {step: float(np.sqrt(step)) for step in [0, *sorted(set(steps))]}
    named = _spaced(ticks, 0.14)
    axes.set_xticks(list(ticks), [str(step) if step in named else "" for step in ticks], fontsize=8)
    axes.minorticks_off()


def _spaced(places: dict[int, float], share: float) -> dict[int, float]:
    """The steps to label, by place: the last one, then those that are at least this share of the axis from any other."""
    kept: dict[int, float] = {}
    distance = share * np.ptp([0.0, *places.values()])
    for step in sorted(places, reverse=True):
        if all(abs(places[step] - other) >= distance for other in kept.values()):
            kept[step] = places[step]
    return kept
