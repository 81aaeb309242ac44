"""Which measure sees which damage? One function per figure, table or sentence of the page; no torch.

The functions take a `CorruptionStudy` and give back a matplotlib figure, a pandas Styler or Markdown. Decision: names,
groups and directions of the measures stand here once (`MEASURES`), and a measure that is not among them is shown all the
same, under its own name and among the others. What counts as seen is `LEAST_EVIDENCE`, for every measure alike.

Refused: a domain that was not damaged.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
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
from PIL import Image

from replaylab.analysis import tables
from replaylab.analysis.tables import last_step, per_arm
from replaylab.catalogue import (
    BY_HORIZON,
    GROUPS,
    MEASURES,
    OF_AGENTS,
    OF_FRAMES,
    OF_VIDEOS,
    PSEUDO_SUFFIX,
    domain_of,
    measure_of,
)
from replaylab.evaluation import corruption_study
from replaylab.evaluation.corruption_study import DOMAINS, EVENTFUL, LEAST_EVIDENCE, CorruptionStudy
from replaylab.evaluation.corruptions import AGENTS, KINDS, PICTURES, REFERENCES, TIME
from replaylab.pages.style import GREY, INK, LIGHT_GREY, WIDTH, figure_style, finished, styled
from replaylab.util import text as text_module
from replaylab.util.text import capital, number

DAMAGES = {
    "real": "real", "re-rendered": "rendered again", "autoencoder": "autoencoder", "copy-last-frame": "copy last frame",
    "constant-velocity": "constant velocity", "blur": "blur", "noise": "noise", "colour": "warmer",
    "slowed": "slower", "shuffled": "shuffled", "moved": "agents moved", "removed": "nearest agent removed",
    "pulled": "motion pulled to the mean",
}  # fmt: skip
SHORT = {"re-rendered": "again", "autoencoder": "autoenc.", "copy-last-frame": "copy", "shuffled": "shuffled",
         "slowed": "slower", "removed": "gone", "pulled": "pulled", "moved": "moved"}  # fmt: skip
SHOWN_BLUR = (0.5, 1.0, 2.0)  # in the maps; the others are for the detector's ceiling
COLUMNS = {  # what stands in which map
    PICTURES: ("blur", "noise", "colour"),
    TIME: ("re-rendered", "autoencoder", "slowed", "shuffled", "copy-last-frame"),
    AGENTS: ("moved", "pulled", "removed"),
}
TITLES = {PICTURES: "Damaged pictures", TIME: "Damaged time, and references", AGENTS: "Damaged agents"}
BOUNDS = (-np.inf, -10.0, -LEAST_EVIDENCE, LEAST_EVIDENCE, 10.0, 30.0, np.inf)
SHADES = ("#2166ac", "#92c5de", "#f7f7f7", "#fdcc8a", "#f16913", "#9e2f00")
CLASSES = (
    "better, over 10",
    "better",
    f"not seen, under {LEAST_EVIDENCE:g}",
    "worse",
    "worse, over 10",
    "worse, over 30",
)


def damage_name(name: str, grade: float) -> str:
    """Such as "blur 0.5 px"."""
    kind = KINDS.get(name)
    words = DAMAGES.get(name, name)
    return f"{words} {grade:g} {kind.unit}".strip() if kind and kind.unit else words


def answers(made: CorruptionStudy, domain: str = EVENTFUL) -> pd.DataFrame:
    """`damage.response` of one domain with a column `worse`: the evidence, positive where the measure says worse.

    ValueError lists the domains there are.
    """
    there = sorted(set(made.rows["domain"]))
    if domain not in there:
        raise ValueError(f"domain {domain!r} is none of {', '.join(there)}")
    table = corruption_study.response(made.rows[made.rows["domain"] == domain])
    better = table["measure"].map(lambda name: measure_of(name).better)
    sign = better.map({"low": 1.0, "high": -1.0}).fillna(0.0)
    return table.assign(worse=np.where(sign == 0, table["evidence"].abs(), sign * table["evidence"]))


def _in_order(names: Iterable[str]) -> list[str]:
    """As MEASURES lists them, by group; others last in theirs."""
    known = list(MEASURES)
    return sorted(
        set(names),
        key=lambda name: (
            GROUPS.index(measure_of(name).group), known.index(name) if name in known else len(known), name,
        ),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- figures
def examples_figure(made: CorruptionStudy) -> Figure:
    """The last frame of one eventful clip, under the strongest of each kind of damage."""
    pictures, across = made.examples(), 4
    down = -(-len(pictures) // across)
    with figure_style():
        figure, panels = plt.subplots(down, across, figsize=(WIDTH, 1.72 * down + 0.4), squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, ((name, grade), png) in zip(panels.flat, pictures.items(), strict=False):
            axes.imshow(np.asarray(Image.open(io.BytesIO(png))), interpolation="nearest")
            unit = f"\n{grade:g} {KINDS[name].unit}" if KINDS[name].unit else "\n"
            axes.set_title(SHORT.get(name, DAMAGES[name]) + unit, fontsize=9)
        return finished(figure, "The same frame under each damage")


def response_map(made: CorruptionStudy, group: str, domain: str = EVENTFUL) -> Figure:
    """Measures (lines) against the damages of one group of COLUMNS: how many standard errors worse.

    "=" where nothing changed at all, "?" where the error is not known, "–" where there is nothing to compare; a measure
    that has nothing to compare anywhere (PSNR: a clip against itself has none) stands in the table of values only.
    """
    table = answers(made, domain)
    table = table[~table["measure"].str.startswith(BY_HORIZON)]
    table = table[table["damage"].isin(COLUMNS[group])]
    table = table[(table["damage"] != "blur") | table["grade"].isin(SHOWN_BLUR)]
    columns = [
        (name, grade) for name in COLUMNS[group] for grade in sorted(set(table.loc[table["damage"] == name, "grade"]))
    ]
    by_cell = table.set_index(["measure", "damage", "grade"])
    lines = _lines(_in_order(table.loc[table["change"].notna(), "measure"]))
    with figure_style():
        height = 0.205 * len(lines) + 1.75
        figure, axes = plt.subplots(figsize=(WIDTH, height))
        shown = np.full((len(lines), len(columns)), np.nan)
        for row, measure in enumerate(lines):
            for column, at in enumerate(columns):
                if (measure, *at) in by_cell.index:
                    cell = by_cell.loc[(measure, *at)]
                    shown[row, column] = cell["worse"]
                    _annotate(axes, column, row, cell)
        colours = ListedColormap(list(SHADES)).with_extremes(bad="white")
        edges = [-1e9, *BOUNDS[1:-1], 1e9]
        axes.imshow(np.clip(shown, -1e8, 1e8), cmap=colours, norm=BoundaryNorm(edges, len(SHADES)), aspect="auto")
        _name_lines(axes, lines)
        _name_columns(axes, columns)
        entries = [Patch(fc=shade, ec=GREY, lw=0.5, label=label) for shade, label in zip(SHADES, CLASSES, strict=True)]
        return finished(
            figure, f"{TITLES[group]}: {domain_of(domain).label}", entries=entries, below_in=1.05,
            fontsize=9, title="standard errors from real", title_fontsize=9,
        )  # fmt: skip


def _lines(measures: list[str]) -> list[str]:
    """The measures with the groups' names between them."""
    lines: list[str] = []
    for name in measures:
        if measure_of(name).group not in lines:
            lines.append(measure_of(name).group)
        lines.append(name)
    return lines


def _annotate(axes: Axes, column: int, row: int, cell: pd.Series[Any]) -> None:
    if np.isnan(cell["change"]):
        text = "–"
    elif cell["change"] == 0:
        text = "="
    elif np.isnan(cell["worse"]):
        text = "?"
    else:
        text = "99+" if abs(cell["worse"]) > 99 else f"{cell['worse']:.0f}".replace("-", "−").replace("−0", "0")
    dark = cell["worse"] > BOUNDS[-2] or cell["worse"] < BOUNDS[1]
    axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)


def _name_lines(axes: Axes, lines: list[str]) -> None:
    axes.set_yticks(range(len(lines)), ["" if line in GROUPS else measure_of(line).label for line in lines])
    axes.tick_params(length=0)
    for row, line in enumerate(lines):
        if line in GROUPS:
            axes.text(-0.02, row, line, ha="right", va="center", fontsize=9, fontweight="bold",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name_columns(axes: Axes, columns: list[tuple[str, float]]) -> None:
    """Grades above the cells, and the damage above its grades."""
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), [f"{at:g}" if KINDS[name].unit else "" for name, at in columns])
    for name in dict.fromkeys(name for name, _ in columns):
        places = [place for place, (one, _) in enumerate(columns) if one == name]
        unit = f"\n({KINDS[name].unit})" if KINDS[name].unit else ""
        label = SHORT.get(name, DAMAGES[name]) + unit
        axes.annotate(label, ((places[0] + places[-1]) / 2, 1), (0, 14 if unit else 4), fontsize=9, ha="center",
                      va="bottom", xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      rotation=0 if unit else 30)  # fmt: skip
        if places[0]:
            axes.axvline(places[0] - 0.5, color="white", lw=3)


def as_blur_figure(made: CorruptionStudy, domain: str = EVENTFUL) -> Figure:
    """Which blur of all frames changes each distance between sets as much as a damage to agents or time does."""
    table = _distances_as_blur(made, domain)
    strongest = max(KINDS["blur"].grades)
    edge = strongest * 1.15
    damages = list(dict.fromkeys(zip(table["damage"], table["grade"], strict=True)))
    names = _in_order(table["measure"])
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * max(len(damages), 3) + 1.7))
        for place, name in enumerate(names):
            here = table[table["measure"] == name]
            rows = np.array([damages.index(at) for at in zip(here["damage"], here["grade"], strict=True)])
            rows = rows + 0.16 * (place - (len(names) - 1) / 2)
            beyond = np.isinf(here["blur_px"].to_numpy())
            faces = [colours[name] if not abs(evidence) < LEAST_EVIDENCE else "white" for evidence in here["evidence"]]
            x = np.where(beyond, edge, here["blur_px"])
            for marker, chosen in (("o", ~beyond), (">", beyond)):
                axes.scatter(x[chosen], rows[chosen], marker=marker, s=38, zorder=3, edgecolors=[colours[name]],
                             facecolors=[face for face, one in zip(faces, chosen, strict=True) if one])  # fmt: skip
            axes.plot([], [], "o", color=colours[name], label=measure_of(name).label)
        axes.set_yticks(range(len(damages)), [damage_name(*at) for at in damages])
        axes.set_ylim(max(len(damages), 1) - 0.5, -0.5)
        axes.set_xlim(-0.05, edge + 0.1)
        axes.axvline(strongest, color=GREY, lw=0.9, ls=(0, (1, 1.5)))
        axes.grid(axis="x", color=LIGHT_GREY, lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("blur with the same effect (px)")
        title = f"As bad as which blur? {capital(domain_of(domain).label)}"
        entries = axes.get_legend_handles_labels()[0]
        return finished(figure, title, entries=entries, columns=4, below_in=0.3, fontsize=9)


def _distances_as_blur(made: CorruptionStudy, domain: str) -> pd.DataFrame:
    """`damage.as_blur` of the distances between sets of frames or videos, for damages to time and agents."""
    table = corruption_study.as_blur(answers(made, domain))
    of_sets = set(made.rows.loc[made.rows["video"] == "", "measure"])
    wanted = {name for name in of_sets if measure_of(name).group in (OF_FRAMES, OF_VIDEOS)}
    shown = [name for name, kind in KINDS.items() if kind.group in (TIME, AGENTS)] + ["copy-last-frame"]
    table = table[table["measure"].isin(wanted) & table["damage"].isin(shown)]
    order = table["damage"].map({name: place for place, name in enumerate(shown)})
    return table.assign(order=order).sort_values(["order", "grade"], kind="stable").drop(columns="order")


def ceiling_figure(made: CorruptionStudy) -> Figure:
    """The detector on real frames, blurred more and more: ADE and recall against sharpness, a line a domain."""
    domains = [name for name in DOMAINS if name in set(made.rows["domain"])]
    colours = dict(zip(DOMAINS, sns.color_palette("colorblind")[:2], strict=True))
    with figure_style():
        figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True)
        for domain in domains:
            at = corruption_study.blur_curve(made.rows, domain)
            for axes, name in zip(panels, ("ade_px", "recall"), strict=True):
                axes.plot(at["sharpness_ratio"], at[name], "o-", ms=5, color=colours[domain],
                          label=domain_of(domain).label)  # fmt: skip
        named = corruption_study.blur_curve(made.rows, domains[-1])["sharpness_ratio"]
        for sigma, ratio in named[~(named.diff() > -0.04)].items():  # not so near the one before that they overlap
            label = "real" if sigma == 0 else f"{sigma:g} px"
            panels[0].annotate(label, (ratio, 1), (0, 2), xycoords=panels[0].get_xaxis_transform(), fontsize=8,
                               textcoords="offset points", ha="center", rotation=45, color=GREY)  # fmt: skip
        panels[0].set(ylabel=measure_of("ade_px").axis, ylim=(0, None))
        panels[1].set(
            ylabel=measure_of("recall").axis, ylim=(0, 1.03), xlabel="sharpness of the frames (of the real ones')"
        )
        panels[1].legend(loc="lower right")
        return finished(figure, "What the detector can reach in blurred frames")


# -------------------------------------------------------------------------------------------------------------- tables
def values_table(made: CorruptionStudy, domain: str = EVENTFUL) -> Styler:
    """Every measure (a column) under every damage (a line), the references first: the plain values."""
    table = answers(made, domain).pivot(index=["damage", "grade"], columns="measure", values="value")
    order = [(name, float(grade)) for name, kind in KINDS.items() for grade in kind.grades]
    table = table.reindex([at for at in order if at in table.index])
    table = table[_in_order(table.columns)]
    first = next((place for place, (name, _) in enumerate(table.index) if KINDS[name].group != REFERENCES), 0)
    table.index = pd.Index([damage_name(*at) for at in table.index])
    table.columns = pd.Index([measure_of(name).name for name in table.columns])
    return styled(table, f"damage-values-{domain}", ruled=[first], wide=True).format(_plain, na_rep="–")


def _plain(value: float) -> str:
    return "0" if value == 0 else number(value)


# ----------------------------------------------------------------------------------------------------------- sentences
def standing(made: CorruptionStudy) -> str:
    """Markdown: what the page shows."""
    damages = made.rows[["damage", "grade"]].drop_duplicates()
    kinds = [KINDS[name].group for name in damages["damage"]]
    measures = {name for name in made.rows["measure"] if not name.endswith(PSEUDO_SUFFIX)}
    domains = [domain_of(name).label for name in DOMAINS if name in set(made.rows["domain"])]
    return (
        f"Preset **{made.preset}**: {made.clips} clips each of {' and '.join(domains)} "
        f"(the *{corruption_study.SPLIT}* split), "
        f"{sum(kind != REFERENCES for kind in kinds)} damages and {kinds.count(REFERENCES)} references, "
        f"{len(measures)} measures."
    )


def found(made: CorruptionStudy, domain: str = EVENTFUL) -> str:
    """Markdown: what the numbers say, line by line."""
    table = answers(made, domain)
    table = table[~table["measure"].str.startswith(BY_HORIZON)]
    lines = [_control(table), _told_apart(table), *_who_sees_agents(table), _who_minds_blur(table), _flattered(table)]
    lines += [_as_which_blur(made, domain, table), _ceilings(made, domain)]
    text = "\n".join(f"- {line}" for line in lines if line)
    return f"On {domain_of(domain).label}, with {made.clips} clips:\n\n{text}"


def _control(table: pd.DataFrame) -> str:
    again = table[table["damage"] == "re-rendered"].dropna(subset=["change"])
    if again.empty:
        return ""
    moved = again[again["change"] != 0]
    if moved.empty:
        return (
            f"The control, rendered again without damage, measures as real does: {len(again)} of {len(again)} measures, "
            "to the last digit."
        )
    worst = moved.loc[moved["evidence"].abs().idxmax()] if moved["evidence"].notna().any() else moved.iloc[0]
    return (
        f"The control, rendered again without damage, changes {len(moved)} of {len(again)} measures, most of all "
        f"{measure_of(worst['measure']).label}, by {number(worst['change'])} "
        f"({number(abs(worst['evidence']))} standard errors)."
    )


def _told_apart(table: pd.DataFrame) -> str:
    """A measure that cannot tell real from copy-last-frame is not used."""
    still = table[table["damage"] == "copy-last-frame"].dropna(subset=["evidence"])
    blind = still[still["worse"] < LEAST_EVIDENCE]
    if still.empty:
        return ""
    text = f"Of {len(still)} measures whose error is known, {len(still) - len(blind)} tell real from copying the last frame"
    if blind.empty:
        return f"{text}."
    return f"{text}. With this many clips these do not, and by themselves say nothing of motion: {_named(blind)}."


def _who_sees_agents(table: pd.DataFrame) -> list[str]:
    """Of the strongest damage of each kind."""
    lines = []
    for name in COLUMNS[AGENTS]:
        one = table[table["damage"] == name].dropna(subset=["evidence"])
        one = one[one["grade"] == one["grade"].max()]
        if one.empty:
            continue
        groups = one["measure"].map(lambda measure: measure_of(measure).group)
        looks, moves = one[groups.isin([OF_FRAMES, OF_VIDEOS])], one[groups == OF_AGENTS]
        blind = moves[moves["worse"] < LEAST_EVIDENCE]
        unseen = f" (not by {_named(blind)})" if 0 < len(blind) < len(moves) else ""
        lines.append(
            f"*{capital(damage_name(name, float(one['grade'].iloc[0])))}*: seen by {_seen(looks)} measures of fidelity "
            f"and by {_seen(moves)} of agents{unseen}."
        )
    return lines


def _who_minds_blur(table: pd.DataFrame) -> str:
    """Measures of agents that would take a loss of sharpness for a loss of accuracy."""
    blur = table[(table["damage"] == "blur") & (table["grade"] == 1)].dropna(subset=["evidence"])
    agents = blur[blur["measure"].map(lambda measure: measure_of(measure).group) == OF_AGENTS]
    if agents.empty:
        return ""
    minds = agents[agents["worse"] >= LEAST_EVIDENCE]
    text = f"A blur of 1 px, which moves no agent, is seen by {_seen(agents)} measures of agents"
    if minds.empty:
        return f"{text}."
    return f"{text}: {_named(minds)}. That is the detector's doing, and why its ceiling is printed."


def _flattered(table: pd.DataFrame) -> str:
    damaged = table[table["damage"].map(lambda name: KINDS[name].group != REFERENCES)]
    better = damaged[damaged["worse"] <= -LEAST_EVIDENCE]
    if better.empty:
        return "No damage is taken for an improvement by any measure."
    each = []
    for measure, one in better.groupby("measure", sort=False):
        damages = ", ".join(damage_name(*at) for at in zip(one["damage"], one["grade"], strict=True))
        each.append(f"{measure_of(measure).label} ({damages})")
    return f"Damage is taken for an improvement by {'; '.join(each)}."


def _as_which_blur(made: CorruptionStudy, domain: str, table: pd.DataFrame) -> str:
    """Does a distance between videos see what the paper cares about? Beside what ADE says of the same damage."""
    blurs = _distances_as_blur(made, domain)
    ade = table[table["measure"] == "ade_px"].set_index(["damage", "grade"])["value"]
    lines = []
    for name in COLUMNS[AGENTS]:
        one = blurs[blurs["damage"] == name]
        one = one[one["grade"] == one["grade"].max()]
        at = (name, float(KINDS[name].grades[-1]))
        if one.empty or not {("real", 0.0), at} <= set(ade.index):
            continue
        each = one.set_index("measure")
        told = [f"{measure_of(measure).label} {_blur_in_words(each.loc[measure])}" for measure in _in_order(each.index)]
        lines.append(
            f"    - {damage_name(*at)}, ADE from {number(ade[('real', 0.0)])} to {number(ade[at])} px: {', '.join(told)}"
        )
    if not lines:
        return ""
    question = (
        "Do distances between sets see what happens to agents? A damage changes each as a blur of all frames does:"
    )
    return "\n".join([question, *lines])


def _blur_in_words(one: pd.Series[Any]) -> str:
    unsure = " (not seen)" if abs(one["evidence"]) < LEAST_EVIDENCE else ""
    if np.isinf(one["blur_px"]):
        return f"more than one of {max(KINDS['blur'].grades):g} px{unsure}"
    return f"as one of {number(one['blur_px'])} px{unsure}" if one["blur_px"] > 0 else f"not for the worse{unsure}"


def ceilings(rows: pd.DataFrame, domain: str = EVENTFUL) -> str:
    """Markdown: what the detector reaches on real frames that are blurred to each model's sharpness, of a sweep's rows.

    From the published damages; where the results were not copied along, a sentence that says so.
    """
    try:
        made = corruption_study.run("published")
    except FileNotFoundError:
        return "The detector's ceiling under blur is not here: its results lie in book/results."
    values = last_step(per_arm(rows))
    sharp = values[(values["measure"] == "sharpness_ratio") & (values["domain"] == domain)].set_index("arm")["value"]
    sharp = sharp[[arm for arm in sharp.index if arm not in tables.REFERENCES.values()]]
    least, most = (
        f"{arm}, {text_module.number(sharp[arm])} times as sharp as real frames, it has "
        f"{corruption_study.blur_ceiling(made.rows, sharp[arm], domain)}"
        for arm in (sharp.idxmin(), sharp.idxmax())
    )
    return (
        f"**The detector's ceiling**, on real frames of {domain_of(domain).label} blurred to a model's sharpness (the page "
        f"on measures has its curve): at that of the least sharp model here, {least}; at that of the sharpest, {most}."
    )


def _ceilings(made: CorruptionStudy, domain: str) -> str:
    at = corruption_study.blur_curve(made.rows, domain)
    ratios = at["sharpness_ratio"]
    asked = [ratio for ratio in (0.9, 0.8, 0.6) if ratios.min() <= ratio <= ratios.max()]
    each = [
        f"at a sharpness of {ratio:g}, {corruption_study.blur_ceiling(made.rows, ratio, domain)}" for ratio in asked
    ]
    real = corruption_study.blur_ceiling(made.rows, float(ratios.iloc[0]), domain)
    return f"The detector's ceiling on real frames is {real}; blurred, " + "; ".join(each) + "." if each else ""


def _seen(some: pd.DataFrame) -> str:
    return f"{int((some['worse'] >= LEAST_EVIDENCE).sum())} of {len(some)}"


def _named(some: pd.DataFrame) -> str:
    return ", ".join(measure_of(name).label for name in _in_order(some["measure"]))
