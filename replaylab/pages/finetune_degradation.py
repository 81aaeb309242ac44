"""What does fine-tuning change, measure by measure and step by step? One function per figure, table or sentence.

The functions take a `Changes` (`read` makes one of a sweep's table) and give back a matplotlib figure, a pandas Styler or
Markdown; no torch. Decision: everything is after − before, clip by clip against the run's own base, and so are the values
that a figure's link hands on. A change counts as better or worse where its interval over seeds and scenes leaves 0
(`statistics.interval`); of a measure of a whole set, where no clip has a part, it is over seeds.

Refused: runs whose base was not measured, and intervals from fewer than three seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    outcome,
)
from replaylab.analysis.tables import NONE, per_arm, per_run
from replaylab.catalogue import (
    DENOISING_LOSSES,
    NOISE_LEVELS,
    OTHER_LOOKS,
    PSEUDO,
    SOURCES,
    TARGET_LOOK,
    domain_of,
    measure_of,
)
from replaylab.pages.style import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    INK,
    SEED_DOT,
    VERMILION,
    WIDTH,
    completeness,
    figure_style,
    finished,
    legend_entry,
    reference_entries,
    styled,
    text_figure,
)
from replaylab.sweeps.sweep import Table
from replaylab.util.text import capital, number

AGENTS = (
    "ade_px", *(f"ade_px_frame_{frame}" for frame in range(1, 6)), "ade_matched_px", "ade_tracked_px", "fde_px",
    "recall", "vanishing_rate", "false_positives", "average_precision_iou50", "iou_matched", "size_error_matched",
    "position_error_m", "range_error_matched_m", "bearing_error_matched_deg",
)  # fmt: skip
FIDELITY = ("effnet_kd", "video_kd", "effnet_perceptual", "psnr_db", "ssim")
MOTION = {  # what C7 says of each: the sign of its change
    "background_flow_error_px": -1, "residual_agent_error_px": +1, "displacement_slope": -1, "pull_to_mean": +1,
}  # fmt: skip
PATH = ("effnet_kd", "ade_px")
IN_THE_MAP = (*FIDELITY, *AGENTS)
EVERYWHERE = (*TARGET_LOOK, *OTHER_LOOKS)
ALL_DOMAINS = (*EVERYWHERE, *(name for name in SOURCES["all"] if name not in EVERYWHERE))
MOTION_PANELS = [(measure, domain) for measure in MOTION for domain in TARGET_LOOK]
FORGOTTEN = (*DENOISING_LOSSES, "effnet_kd", "flow_error_px", "ade_px")
SHOWN = dict.fromkeys((*AGENTS, *FIDELITY, *MOTION, *FORGOTTEN))

OVER_STEPS = [
    ("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"), ("ade_px", "driving-held-out"),
    ("ade_matched_px", "driving-eventful"), ("recall", "driving-eventful"),
]  # fmt: skip
COLOURS = {"driving": VERMILION, "driving-eventful": BLUE, "driving-held-out": GREEN}
MARKERS = {"driving": "o", "driving-eventful": "s", "driving-held-out": "^"}
OF_SOURCES = {"near": BLUE, "physics": "#7b6fd0", "orbit": "#ca9161", "doom": "#949494"}
OUTCOMES = {BETTER: "#92c5de", CANNOT_TELL: "#f7f7f7", WORSE: "#fdcc8a", FEW: "#e4e4e4"}
NOTHING = "No run without replay is finished in this sweep."


@dataclass(frozen=True)
class Changes:
    """After − before of every measure, domain and evaluated step. A `change` is in the measure's own unit."""

    runs: pd.DataFrame
    """the grid's runs, as `sweep.Table` has them"""
    values: pd.DataFrame
    """`figures.per_run`: the levels themselves, and those of the references"""
    of_runs: pd.DataFrame
    """arm, run, seed, base, step, domain, measure, before, change, and clips, which are the same for an arm's runs"""
    of_arms: pd.DataFrame
    """arm, step, domain, measure, before, change, low, high (NaN for fewer than three seeds), seeds, clips"""

    def at_the_end(self, arm: str = NONE) -> pd.DataFrame:
        """An arm's changes at its last step, by measure and domain."""
        here = self.of_arms[self.of_arms["arm"] == arm]
        return here[here["step"] == here["step"].max()]

    def drawn(
        self, measures: Iterable[str], domains: Iterable[str], *, at_the_end: bool = False, arm: str = NONE
    ) -> pd.DataFrame:
        """The rows of runs behind a figure, for `figures.csv_link`; arm "" for all."""
        here = self.of_runs[self.of_runs["arm"].isin([arm] if arm else self.of_runs["arm"])]
        last = here["step"] == here.groupby("arm")["step"].transform("max")
        here = here[last] if at_the_end else here
        return here[here["measure"].isin(list(measures)) & here["domain"].isin(list(domains))]


def read(table: Table) -> Changes:
    """The changes in a sweep's rows; ValueError where a run's base was not measured on the same measures and domains."""
    of_runs, of_arms = [], []
    names = {PSEUDO.get(measure, measure): measure for measure in SHOWN}
    few = table.rows[table.rows["measure"].isin(names) & table.rows["model"].isin([FINE_TUNED, "base"])]
    keys = ["replay", "replay_fraction", "target", "step"]
    for (domain, measure), here in few.groupby(["domain", "measure"], sort=False):
        before, after = before_and_after(here, measure, domain)
        for (*configuration, step), values in after.groupby(level=keys):
            of_base = before.loc[values.index].to_numpy()
            change = values.to_numpy() - of_base
            in_all = np.isfinite(change).all(axis=0)
            if not in_all.any():
                continue
            of_base, change = of_base[:, in_all], change[:, in_all]
            at = {"arm": Configuration(*configuration).name, "step": step, "domain": domain, "measure": names[measure],
                  "clips": in_all.sum()}  # fmt: skip
            runs = values.index.droplevel(keys).to_frame().to_dict("records")
            for run, one, by in zip(runs, of_base.mean(1), change.mean(1), strict=True):
                of_runs.append({**at, **run, "before": one, "change": by})
            mean = interval(change)
            of_arms.append({**at, "before": of_base.mean(), "change": mean.estimate, "low": mean.low, "high": mean.high,
                            "seeds": len(runs)})  # fmt: skip
    keys = ["arm", "step", "domain", "measure"]
    numbers = ["before", "change", "clips"]
    return Changes(
        table.runs,
        per_run(table.rows),
        pd.DataFrame(of_runs, columns=["arm", "run", "seed", "base", "step", "domain", "measure", *numbers]),
        pd.DataFrame(of_arms, columns=[*keys, *numbers[:2], "low", "high", "seeds", "clips"]),
    )


def outcome_of(one: Any) -> str:
    """What a line of `of_arms` shows: BETTER, WORSE, CANNOT_TELL or FEW."""
    return outcome(_change(one), measure_of(one["measure"]).better)


def _change(one: Any) -> Interval:
    return Interval(one["change"], one["low"], one["high"], int(one["seeds"]))


def in_words(one: Any) -> str:
    """A change with its interval, such as "+1.2 (0.9 to 1.5)", of a line of `of_arms`."""
    return describe(_change(one))


def _label(measure: str) -> str:
    return measure_of(measure).name


# ------------------------------------------------------------------------------------------------------------- figures
def path(made: Changes) -> Figure:
    """Where fine-tuning without replay goes: change of EffNet-KD on ordinary driving against change of ADE, a line for
    each kind of driving, a point for each evaluated step, bars over both at the last one.
    """
    table = made.of_arms[made.of_arms["arm"] == NONE]
    if table.empty:
        return text_figure(NOTHING)
    fidelity = of_measure(table, "effnet_kd", "driving").set_index("step").sort_index()
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
        axes.axhline(0, color=GREY, lw=0.8, zorder=0)
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
        for domain in _there(table, TARGET_LOOK):
            motion = of_measure(table, "ade_px", domain).set_index("step").sort_index()
            both = fidelity.merge(motion, left_index=True, right_index=True, suffixes=("_x", ""))
            x, y, colour = [0, *both["change_x"]], [0, *both["change"]], COLOURS[domain]
            axes.plot(x, y, color=colour, marker=MARKERS[domain], ms=5, lw=1.6, label=domain_of(domain).label)
            last = both.iloc[-1]
            axes.plot([last["low_x"], last["high_x"]], [last["change"]] * 2, color=colour, lw=1)
            axes.plot([last["change_x"]] * 2, [last["low"], last["high"]], color=colour, lw=1)
            axes.plot(x[-1], y[-1], MARKERS[domain], color=colour, ms=9, mec="white", zorder=4)
        for step, at in _apart(dict(fidelity["change"]), 0.05).items():
            axes.annotate(
                f"step {step}", (at, 0), xycoords=("data", "axes fraction"), xytext=(2, 3),
                textcoords="offset points", rotation=90, fontsize=7.5, color=GREY,
            )  # fmt: skip
            axes.axvline(at, color=GREY, lw=0.4, ls=":", zorder=0)
        axes.plot(0, 0, "D", color=INK, ms=7, zorder=5, label="base")
        axes.set(
            xlabel="change of EffNet-KD on ordinary driving (no unit); left is better",
            ylabel="change of ADE (px); down is better",
        )
        return _finished(figure, made, "Where fine-tuning without replay goes", axes.get_legend_handles_labels()[0])


def over_steps(made: Changes) -> Figure:
    """Changes from the base over fine-tuning without replay; thin lines are single runs, bars intervals."""
    table, runs = (one[one["arm"] == NONE] for one in (made.of_arms, made.of_runs))
    if table.empty:
        return text_figure(NOTHING)
    with figure_style():
        figure, panels = plt.subplots(3, 2, figsize=(WIDTH, 7.6), sharex=True)
        for axes, (measure, domain) in zip(panels.flat, OVER_STEPS, strict=True):
            _line(axes, of_measure(table, measure, domain), VERMILION)
            for _, one in of_measure(runs, measure, domain).groupby("run"):
                one = one.sort_values("step")
                axes.plot([0, *one["step"]], [0, *one["change"]], color=VERMILION, lw=0.6, alpha=0.6)
            axes.axhline(0, color=INK, lw=1.2, zorder=1)
            axes.set_title(capital(domain_of(domain).label))
            axes.set(xlabel="fine-tuning step", ylabel=f"change of\n{_label(measure)}")
        _over_square_root(panels[0, 0], table["step"])
        entries = [legend_entry(VERMILION, NONE, "o", "-"), legend_entry(INK, "base", "", "-")]
        return _finished(figure, made, "Changes from the base over fine-tuning", entries)


def map_of_changes(made: Changes) -> Figure:
    """Every measure of looks and of agents in every kind of driving and look: its change at the last step, coloured by
    whether its interval leaves 0.
    """
    table = made.at_the_end()
    if table.empty:
        return text_figure(NOTHING)
    domains = _there(table, EVERYWHERE)
    measures = [measure for measure in IN_THE_MAP if measure in set(table["measure"])]
    kinds = list(OUTCOMES)
    codes, words = np.full((len(measures), len(domains)), np.nan), np.full((len(measures), len(domains)), "")
    words = words.astype(object)
    for row, measure in enumerate(measures):
        for column, domain in enumerate(domains):
            for one in of_measure(table, measure, domain).to_dict("records"):
                codes[row, column] = kinds.index(outcome_of(one))
                words[row, column] = f"{one['change']:+.2g}".replace("-", "−")
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 1.5 + 0.24 * len(measures)))
        colours, bounds = (
            ListedColormap(list(OUTCOMES.values())),
            BoundaryNorm(np.arange(-0.5, len(kinds)), len(kinds)),
        )
        sns.heatmap(
            codes, annot=words, fmt="", cmap=colours, norm=bounds, cbar=False, linewidths=0.8, linecolor="white",
            annot_kws={"fontsize": 7.5, "color": INK}, ax=axes,
        )  # fmt: skip
        labels = [_label(measure) for measure in measures]
        axes.set_yticks(np.arange(len(measures)) + 0.5, labels, fontsize=8, rotation=0)
        heads = [domain_of(domain).short.replace(" ", "\n") for domain in domains]
        axes.set_xticks(np.arange(len(domains)) + 0.5, heads, fontsize=7.5, rotation=0)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        of_driving = sum(domain in TARGET_LOOK for domain in domains)
        axes.axhline(sum(measure in FIDELITY for measure in measures), color=INK, lw=1)
        for first, last, name in ((0, of_driving, "driving's look"), (of_driving, len(domains), "other looks")):
            if last > first:
                axes.text((first + last) / 2, 1.065, name, ha="center", va="bottom", fontsize=8.5,
                          transform=axes.get_xaxis_transform())  # fmt: skip
        axes.axvline(of_driving, color=INK, lw=1)
        there = [kind for code, kind in enumerate(kinds) if (codes == code).any()]
        patches = [Patch(facecolor=OUTCOMES[kind], edgecolor=GREY, lw=0.5, label=kind) for kind in there]
        return _finished(figure, made, "What fine-tuning without replay changes", patches, 3)


def dominant_motion(made: Changes) -> Figure:
    """The four numbers of C7 over fine-tuning without replay, a line for each kind of driving from its base; level lines:
    the same of real frames (solid) and of a copied last frame (dotted).
    """
    values = per_arm(made.values)
    tuned = values[values["arm"] == NONE]
    if tuned.empty:
        return text_figure(NOTHING)
    domains = _there(tuned, TARGET_LOOK)
    with figure_style():
        figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.8), sharex=True)
        for axes, measure in zip(panels.flat, MOTION, strict=True):
            for domain in domains:
                colour, here = COLOURS[domain], of_measure(values, measure, domain)
                start = here.loc[here["arm"] == "base", "value"]
                line = here[here["arm"] == NONE].sort_values("step")
                if line.empty:
                    continue
                axes.plot([0, *line["step"]], [*start, *line["value"]], color=colour, marker=MARKERS[domain], ms=5)
                axes.vlines(line["step"], line["low"], line["high"], color=colour, lw=1.2)
                for model in ("real", "copy-last-frame"):
                    for level in here.loc[here["model"] == model, "value"]:
                        axes.axhline(level, color=colour, lw=0.9, ls=DASHES[model], alpha=0.8, zorder=0)
            axes.set(xlabel="fine-tuning step")
            axes.set_title(capital(measure_of(measure).axis), fontsize=9)
        _over_square_root(panels[0, 0], tuned["step"])
        entries = [legend_entry(COLOURS[domain], domain_of(domain).label, MARKERS[domain], "-") for domain in domains]
        levels = reference_entries(("real", "copy-last-frame"))
        return _finished(figure, made, "Background's motion and the agents' own", [*entries, *levels])


def forgetting(made: Changes) -> Figure:
    """What each domain lost at the last step without replay: a panel per measure, mean and interval; dots are runs."""
    table, runs = made.at_the_end(), made.drawn(FORGOTTEN, ALL_DOMAINS, at_the_end=True)
    if table.empty:
        return text_figure(NOTHING)
    measures = [DENOISING_LOSSES[1], "effnet_kd", "flow_error_px", "ade_px"]
    domains = _there(table, [*TARGET_LOOK, *[name for name in OTHER_LOOKS if name != "near"], *SOURCES["all"]])
    with figure_style():
        figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 1.3 + 0.46 * len(domains)), sharey=True)
        for axes, measure in zip(panels.flat, measures, strict=True):
            axes.axvline(0, color=INK, lw=1, zorder=1)
            for place, domain in enumerate(domains):
                colour = INK if domain in SOURCES["all"] else GREY
                dots = of_measure(runs, measure, domain)["change"]
                axes.scatter(dots, [place] * len(dots), color=colour, **SEED_DOT)
                for one in of_measure(table, measure, domain).to_dict("records"):
                    axes.plot([one["low"], one["high"]], [place] * 2, color=colour, lw=1.6)
                    axes.plot(one["change"], place, "D", ms=5, color=colour, mec="white", zorder=4)
            axes.set_title(f"Change of\n{_label(measure)}", fontsize=9)
            axes.set_yticks(range(len(domains)), [domain_of(domain).label for domain in domains], fontsize=8)
            axes.tick_params(axis="x", labelsize=8)
            axes.axhline(len(domains) - sum(domain in SOURCES["all"] for domain in domains) - 0.5, color=GREY, lw=0.6)
        panels[0, 0].invert_yaxis()
        entries = [
            legend_entry(INK, "what the base was trained on", "D"),
            legend_entry(GREY, "not in its training", "D"),
        ]
        return _finished(figure, made, "What was forgotten at the last step (right is worse)", entries)


def drift(made: Changes) -> Figure:
    """Change of the denoising loss at the last step without replay by noise level, a line for each domain."""
    table = made.at_the_end()
    table = table[table["measure"].isin(DENOISING_LOSSES)]
    if table.empty:
        return text_figure(NOTHING)
    colours = {**OF_SOURCES, "driving": VERMILION, "driving-eventful": "#e8a26e"}
    domains = _there(table, colours)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.0))
        axes.axhline(0, color=INK, lw=1, zorder=1)
        for place, domain in enumerate(domains):
            here = table[table["domain"] == domain].set_index("measure").reindex(DENOISING_LOSSES)
            x = np.array(NOISE_LEVELS) + 0.006 * (place - len(domains) / 2)  # so that bars do not hide each other
            axes.plot(x, here["change"], color=colours[domain], marker="o", ms=5, lw=1.6)
            axes.vlines(x, here["low"], here["high"], color=colours[domain], lw=1.2)
        axes.set_xticks(NOISE_LEVELS)
        axes.set(xlabel="noise level (0: clean, 1: noise alone)", ylabel="change of denoising loss (no unit)")
        entries = [legend_entry(colours[domain], domain_of(domain).label, "o", "-") for domain in domains]
        return _finished(figure, made, "Drift from the base by noise level (up is worse)", entries)


# -------------------------------------------------------------------------------------------------------------- tables
def table_of_changes(made: Changes) -> Styler:
    """`map_of_changes` with intervals, and the four numbers of C7."""
    table = made.at_the_end()
    domains = _there(table, EVERYWHERE)
    words = table.assign(words=[in_words(one) for one in table.to_dict("records")])
    wide = words.pivot(index="measure", columns="domain", values="words")
    order = [measure for measure in (*IN_THE_MAP, *MOTION) if measure in wide.index]
    wide = wide.reindex(index=order, columns=domains).fillna("–").rename(columns=lambda domain: domain_of(domain).label)
    wide.index = pd.Index([_label(measure) for measure in order], name="measure")
    wide.columns.name = None
    return styled(wide.reset_index(), "changes").hide(axis="index")


def transfer_table(made: Changes) -> Styler:
    """Backward transfer and average forgetting over the base's own domains, in each arm, means over runs with intervals.

    Both as in `verdicts`, of all checkpoints at which every one of those domains was measured.
    """
    return styled(pd.DataFrame(_transfers(made)), "transfer").hide(axis="index")


def _transfers(made: Changes) -> list[dict[str, str]]:
    lines = []
    sources = made.of_runs[made.of_runs["domain"].isin(SOURCES["all"])]
    sources = sources[sources["measure"].isin(FORGOTTEN)]
    for (arm, measure), here in sources.sort_values("measure", kind="stable").groupby(["arm", "measure"], sort=False):
        tables = [
            run.pivot(index="step", columns="domain", values="change").sort_index().dropna()
            for _, run in here.groupby("run")
        ]
        transfers = [statistics.backward_transfer(one) for one in tables]
        losses = [statistics.average_forgetting(one) for one in tables]
        lines.append({
            "arm": arm, "measure": _label(measure),
            "domains": "; ".join(domain_of(domain).label for domain in SOURCES["all"] if domain in set(here["domain"])),
            "checkpoints": str(max(map(len, tables))), "runs": str(len(tables)),
            "backward transfer": _mean_in_words(transfers), "average forgetting": _mean_in_words(losses),
        })  # fmt: skip
    return lines


def _mean_in_words(values: Sequence[float]) -> str:
    return describe(interval(values))


# ----------------------------------------------------------------------------------------------------------- sentences
def motion(made: Changes, domain: str = "driving-eventful") -> str:
    """C7 in a sentence, for the opening: the changes of its four numbers, and how many point where C7 says."""
    table = made.at_the_end()
    head = "**C7**, the model learns the dominant motion instead: "
    found = {measure: of_measure(table, measure, domain) for measure in MOTION}
    found = {measure: one.iloc[0] for measure, one in found.items() if len(one)}
    if not found:
        return f"{head}**not run yet**."
    each = "; ".join(f"{measure_of(measure).axis} {in_words(one)}" for measure, one in found.items())
    apart = [np.sign(one["change"]) * MOTION[measure] for measure, one in found.items() if one["low"] * one["high"] > 0]
    counted = (
        f"{sum(sign > 0 for sign in apart)} of {len(found)} change as C7 says, "
        f"{sum(sign < 0 for sign in apart)} the other way"
    )
    seeds = max(int(one["seeds"]) for one in found.values())
    if seeds < SEEDS_FOR_AN_INTERVAL:
        counted = f"{_seeds(seeds)}, no interval"
    return (
        f"{head}**exploratory**, no verdict was planned. Changes on {domain_of(domain).label}, {_seeds(seeds)}: {each}. "
        f"{capital(counted)}."
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def found(made: Changes) -> str:
    """Markdown: fidelity and accuracy in numbers, how many measures of agents got worse where, and what was forgotten."""
    table = made.at_the_end()
    if table.empty:
        return NOTHING
    part = completeness(made.runs)
    lines = [f"**{capital(part)}.**\n"] if part else []
    step = int(table["step"].max())
    for kd in of_measure(table, "effnet_kd", "driving").to_dict("records"):
        words = f"after {step} steps EffNet-KD on ordinary driving changes by {in_words(kd)}"
        lines.append(f"- **Looks**: {words}: {_said(kd)}.")
    for ade in table[table["measure"] == "ade_px"].to_dict("records"):
        here = table[(table["domain"] == ade["domain"]) & table["measure"].isin(AGENTS)]
        kinds = pd.Series([outcome_of(one) for one in here.to_dict("records")])
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.value_counts().items())
        where = capital(domain_of(ade["domain"]).label)
        lines.append(
            f"- **{where}**: ADE changes by {in_words(ade)} px from {number(ade['before'])}: "
            f"{_said(ade)}. Of {len(here)} measures of agents: {counted}."
        )
    lost = [line for line in _transfers(made) if line["arm"] == NONE]
    if lost:
        each = "; ".join(f"{line['measure']} {line['backward transfer']}" for line in lost)
        lines.append(f"- **What the base was trained on** (backward transfer, below 0: forgotten): {each}.")
    return "\n".join(lines)


def _said(one: Any) -> str:
    return f"{outcome_of(one)}, {_seeds(int(one['seeds']))}"


# ------------------------------------------------------------------------------------------------------ parts of figures
def _there(table: pd.DataFrame, domains: Any) -> list[str]:
    """Of these domains, those that were measured."""
    measured = set(table["domain"])
    return [domain for domain in domains if domain in measured]


def _line(axes: Axes, line: pd.DataFrame, colour: Any) -> None:
    line = line.sort_values("step")
    axes.plot([0, *line["step"]], [0, *line["change"]], color=colour, lw=2, marker="o", ms=5)
    axes.vlines(line["step"], line["low"], line["high"], color=colour, lw=1.4)


def _over_square_root(axes: Axes, steps: Any) -> None:
    """Early steps, which are close together, apart; the x axis of all panels that share it."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ticks = {step: float(np.sqrt(step)) for step in [0, *sorted(set(steps))]}
    named = _apart(ticks, 0.14)
    axes.set_xticks(list(ticks), [str(step) if step in named else "" for step in ticks], fontsize=8)
    axes.minorticks_off()


def _apart(places: dict[int, float], share: float) -> dict[int, float]:
    """Of steps at these places, those with room for a label: the last one first, and none nearer than a share of all."""
    kept: dict[int, float] = {}
    room = share * np.ptp([0.0, *places.values()])
    for step in sorted(places, reverse=True):
        if all(abs(places[step] - other) >= room for other in kept.values()):
            kept[step] = places[step]
    return kept


def _finished(figure: Figure, made: Changes, title: str, entries: Sequence[Any], columns: int = 2) -> Figure:
    below_in = -(-len(entries) // columns) * 0.22 + 0.05
    return finished(figure, title, completeness(made.runs), entries=entries, columns=columns, below_in=below_in)
