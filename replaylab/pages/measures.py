"""The page on metrics: the response of each measure to controlled corruptions of real clips; no torch.

The functions take a `CorruptionStudy` and return a matplotlib figure, a pandas Styler or Markdown. Decision: a measure
responds to a corruption if the evidence is at least `LEAST_EVIDENCE`, for all measures alike; a measure that the catalogue
does not list is shown under its own name. Refused: a domain that was not corrupted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
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

from replaylab import catalogue
from replaylab.analysis.changes import of_measure
from replaylab.analysis.tables import REFERENCES as BASELINES
from replaylab.analysis.tables import last_step, per_configuration
from replaylab.catalogue import domain_of, measure_of
from replaylab.evaluation import corruption_study
from replaylab.evaluation.corruption_study import DOMAINS, EVENTFUL, LEAST_EVIDENCE, SPLIT, CorruptionStudy
from replaylab.evaluation.corruptions import AGENTS, KINDS, PICTURES, REFERENCES, TIME
from replaylab.pages.style import GREY, INK, LIGHT_GREY, WIDTH, figure_style, finished, styled
from replaylab.util.text import capital, number, plain_number

FIDELITY = (catalogue.OF_FRAMES, catalogue.OF_VIDEOS)  # the groups of such measures
LABELS = {
    **BASELINES, "re-rendered": "rendered again", "colour": "warmer", "slowed": "slower", "moved": "agents moved",
    "removed": "nearest agent removed", "pulled": "motion pulled to the mean",
}  # fmt: skip
SHORT = {"re-rendered": "again", "autoencoder": "autoenc.", "copy-last-frame": "copy", "colour": "warmer",
         "slowed": "slower", "removed": "gone"}  # fmt: skip
SHOWN_BLUR = (0.5, 1.0, 2.0)  # in the maps; the others are for the detector's ceiling
COLUMNS = {  # of the maps
    PICTURES: ("blur", "noise", "colour"),
    TIME: ("re-rendered", "autoencoder", "slowed", "shuffled", "copy-last-frame"),
    AGENTS: ("moved", "pulled", "removed"),
}
IN_THE_TABLE = ("effnet_kd", "psnr_db", "video_kd", "ade_px", "recall")
TITLES = {PICTURES: "Corrupted pictures", TIME: "Corrupted time, and references", AGENTS: "Corrupted agents"}
BOUNDS = (-1e9, -10.0, -LEAST_EVIDENCE, LEAST_EVIDENCE, 10.0, 30.0, 1e9)  # of the colours, in standard errors
SHADES = {
    "better, over 10": "#2166ac", "better": "#92c5de", f"no response, under {LEAST_EVIDENCE:g}": "#f7f7f7",
    "worse": "#fdcc8a", "worse, over 10": "#f16913", "worse, over 30": "#9e2f00",
}  # fmt: skip


def label_of(corruption: str, grade: float) -> str:
    """A corruption with its grade, such as "blur 0.5 px"."""
    label, kind = LABELS.get(corruption, corruption), KINDS.get(corruption)
    return f"{label} {grade:g} {kind.unit}" if kind and kind.unit else label


def responses(made: CorruptionStudy, domain: str = EVENTFUL) -> pd.DataFrame:
    """`corruption_study.response` of one domain, with the measure's `kind`, the evidence that it got `worse`, and whether it
    responds (`seen`). ValueError, with the domains of the study, for another one.
    """
    domains = sorted(set(made.rows["domain"]))
    if domain not in domains:
        raise ValueError(f"domain {domain!r} is none of {', '.join(domains)}")
    table = corruption_study.response(made.rows[made.rows["domain"] == domain])
    entries = table["measure"].map(measure_of)
    sign = entries.map(lambda entry: {"low": 1.0, "high": -1.0}.get(entry.better, 0.0))
    worse = np.where(sign == 0, table["evidence"].abs(), sign * table["evidence"])
    return table.assign(worse=worse, seen=worse >= LEAST_EVIDENCE, kind=entries.map(lambda entry: entry.group))


def _without_horizons(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table["measure"].str.startswith(catalogue.BY_HORIZON)]


def _in_order(names: Iterable[str]) -> list[str]:
    """The measures in the catalogue's order, by group; others last in their group."""
    known = {name: place for place, name in enumerate(catalogue.MEASURES)}
    groups = catalogue.GROUPS
    return sorted(set(names), key=lambda name: (groups.index(measure_of(name).group), known.get(name, len(known)), name))


# ------------------------------------------------------------------------------------------------------------- figures
def examples_figure(made: CorruptionStudy) -> Figure:
    """The last frame of one eventful clip, under the strongest corruption of each kind."""
    pictures = made.examples()
    rows = -(-len(pictures) // 4)
    with figure_style():
        figure, panels = plt.subplots(rows, 4, figsize=(WIDTH, 1.72 * rows + 0.4), squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, ((name, grade), png) in zip(panels.flat, pictures.items(), strict=False):
            axes.imshow(np.asarray(Image.open(io.BytesIO(png))), interpolation="nearest")
            unit = f"\n{grade:g} {KINDS[name].unit}" if KINDS[name].unit else "\n"
            axes.set_title(SHORT.get(name, name) + unit, fontsize=9)
        return finished(figure, "The same frame under each corruption")


def response_map(made: CorruptionStudy, group: str, domain: str = EVENTFUL) -> Figure:
    """Measures (rows) against the corruptions of one group of COLUMNS: the change for the worse in standard errors.

    "=": no change at all; "?": unknown standard error; "–": undefined. Measures that are undefined everywhere (PSNR of a
    clip against itself) are in the table of values only.
    """
    table = mapped(made, group, domain)
    columns = sorted(set(_at(table)), key=lambda at: (COLUMNS[group].index(at[0]), at[1]))
    names = _with_groups(_in_order(table.loc[table["change"].notna(), "measure"]))
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.205 * len(names) + 1.75))
        worse = np.full((len(names), len(columns)), np.nan)
        for _, cell in table[table["measure"].isin(names)].iterrows():
            row, column = names.index(cell["measure"]), columns.index((cell["damage"], cell["grade"]))
            worse[row, column] = cell["worse"]
            _annotate(axes, column, row, cell)
        colours = ListedColormap(list(SHADES.values())).with_extremes(bad="white")
        axes.imshow(np.clip(worse, -1e8, 1e8), cmap=colours, norm=BoundaryNorm(BOUNDS, len(SHADES)), aspect="auto")
        _name_rows(axes, names)
        _name_columns(axes, columns)
        entries = [Patch(fc=shade, ec=GREY, lw=0.5, label=label) for label, shade in SHADES.items()]
        legend: dict[str, Any] = {"extra_in": 0.39, "title": "standard errors from real", "title_fontsize": 9, "fontsize": 9}
        return finished(figure, f"{TITLES[group]}: {domain_of(domain).label}", entries=entries, **legend)


def mapped(made: CorruptionStudy, group: str, domain: str = EVENTFUL) -> pd.DataFrame:
    """The values of `response_map`: `responses` to the corruptions of one group of COLUMNS."""
    table = _without_horizons(responses(made, domain))
    table = table[table["damage"].isin(COLUMNS[group])]
    return table[(table["damage"] != "blur") | table["grade"].isin(SHOWN_BLUR)]


def _with_groups(measures: list[str]) -> list[str]:
    """The measures, each group preceded by its name."""
    groups = dict.fromkeys(measure_of(name).group for name in measures)
    return [row for group in groups for row in [group, *(one for one in measures if measure_of(one).group == group)]]


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


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), ["" if name in catalogue.GROUPS else measure_of(name).label for name in names])
    axes.tick_params(length=0)
    for row, name in enumerate(names):
        if name in catalogue.GROUPS:
            axes.text(-0.02, row, name, ha="right", va="center", fontsize=9, fontweight="bold",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.spines[:].set_visible(False)


def _name_columns(axes: Axes, columns: list[tuple[str, float]]) -> None:
    """Label the columns: grades above the cells, and corruptions above their grades."""
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), [f"{at:g}" if KINDS[name].unit else "" for name, at in columns])
    for name in dict.fromkeys(name for name, _ in columns):
        places = [place for place, (one, _) in enumerate(columns) if one == name]
        unit = f"\n({KINDS[name].unit})" if KINDS[name].unit else ""
        label = SHORT.get(name, name) + unit
        axes.annotate(label, ((places[0] + places[-1]) / 2, 1), (0, 14 if unit else 4), fontsize=9, ha="center",
                      va="bottom", xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      rotation=0 if unit else 30)  # fmt: skip
        if places[0]:
            axes.axvline(places[0] - 0.5, color="white", lw=3)


def as_blur_figure(made: CorruptionStudy, domain: str = EVENTFUL) -> Figure:
    """The blur of all frames that changes each distance between sets as much as a corruption of agents or time does."""
    table = drawn_as_blur(made, domain)
    strongest = max(KINDS["blur"].grades)
    edge = strongest * 1.15
    corruptions = list(dict.fromkeys(_at(table)))
    names = _in_order(table["measure"])
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * max(len(corruptions), 3) + 1.7))
        for place, name in enumerate(names):
            here = table[table["measure"] == name]
            rows = np.array([corruptions.index(at) for at in _at(here)]) + 0.16 * (place - (len(names) - 1) / 2)
            beyond = np.isinf(here["blur_px"].to_numpy())
            faces = [colours[name] if not abs(evidence) < LEAST_EVIDENCE else "white" for evidence in here["evidence"]]
            x = np.where(beyond, edge, here["blur_px"])
            for marker, chosen in (("o", ~beyond), (">", beyond)):
                axes.scatter(x[chosen], rows[chosen], marker=marker, s=38, zorder=3, edgecolors=[colours[name]],
                             facecolors=[face for face, one in zip(faces, chosen, strict=True) if one])  # fmt: skip
            axes.plot([], [], "o", color=colours[name], label=measure_of(name).label)
        axes.set_yticks(range(len(corruptions)), [label_of(*at) for at in corruptions])
        axes.set(xlim=(-0.05, edge + 0.1), ylim=(max(len(corruptions), 1) - 0.5, -0.5))
        axes.axvline(strongest, color=GREY, lw=0.9, ls=(0, (1, 1.5)))
        axes.grid(axis="x", color=LIGHT_GREY, lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("blur with the same effect (px)")
        title = f"As bad as which blur? {capital(domain_of(domain).label)}"
        entries = axes.get_legend_handles_labels()[0]
        return finished(figure, title, entries=entries, columns=4, fontsize=9)


def _at(table: pd.DataFrame) -> Iterable[tuple[str, float]]:
    return zip(table["damage"], table["grade"], strict=True)


def drawn_as_blur(made: CorruptionStudy, domain: str) -> pd.DataFrame:
    """`corruption_study.as_blur` of the distances between sets of frames or videos, for corruptions of time or agents."""
    table = corruption_study.as_blur(responses(made, domain))
    of_sets = made.rows.loc[made.rows["video"] == "", "measure"].unique()
    order = [*(name for name, kind in KINDS.items() if kind.group in (TIME, AGENTS)), "copy-last-frame"]
    table = table[table["measure"].isin(of_sets) & table["kind"].isin(FIDELITY) & table["damage"].isin(order)]
    return table.assign(place=table["damage"].map(order.index)).sort_values(["place", "grade"])


def drawn_ceiling(made: CorruptionStudy) -> pd.DataFrame:
    """The values of `ceiling_figure`: `corruption_study.blur_curve` of each domain."""
    domains = [name for name in DOMAINS if name in set(made.rows["domain"])]
    curves = {name: corruption_study.blur_curve(made.rows, name) for name in domains}
    return pd.concat(curves, names=["domain"]).reset_index()


def ceiling_figure(made: CorruptionStudy) -> Figure:
    """The detector on increasingly blurred real frames: ADE and recall against sharpness, a line per domain."""
    domains = [name for name in DOMAINS if name in set(made.rows["domain"])]
    colours = dict(zip(DOMAINS, sns.color_palette("colorblind")[:2], strict=True))
    with figure_style():
        figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True)
        for domain in domains:
            at = corruption_study.blur_curve(made.rows, domain)
            for axes, name in zip(panels, ("ade_px", "recall"), strict=True):
                axes.plot(at["sharpness_ratio"], at[name], "o-", ms=5, color=colours[domain], label=domain_of(domain).label)
        named = corruption_study.blur_curve(made.rows, domains[-1])["sharpness_ratio"]
        for sigma, ratio in named[~(named.diff() > -0.04)].items():  # without labels that would overlap the previous one
            label = "real" if sigma == 0 else f"{sigma:g} px"
            panels[0].annotate(label, (ratio, 1), (0, 2), xycoords=panels[0].get_xaxis_transform(), fontsize=8,
                               textcoords="offset points", ha="center", rotation=45, color=GREY)  # fmt: skip
        panels[0].set(ylabel=measure_of("ade_px").axis, ylim=(0, None))
        panels[1].set(ylabel=measure_of("recall").axis, ylim=(0, 1.03))
        panels[1].set_xlabel("sharpness of the frames (share of the real ones')")
        panels[1].legend(loc="lower right")
        return finished(figure, "The detector's ceiling in blurred frames")


# -------------------------------------------------------------------------------------------------------------- tables
def values_table(made: CorruptionStudy, domain: str = EVENTFUL) -> Styler:
    """The values of every measure (columns, of which a page shows a few) under every corruption (rows), references first."""
    table = responses(made, domain).pivot(index=["damage", "grade"], columns="measure", values="value")
    order = [(name, float(grade)) for name, kind in KINDS.items() for grade in kind.grades]
    table = table.reindex([at for at in order if at in table.index])
    names = _in_order(table.columns)
    table = table[names]
    first = next((place for place, (name, _) in enumerate(table.index) if KINDS[name].group != REFERENCES), 0)
    table.index = pd.Index([label_of(*at) for at in table.index])
    table.columns = pd.Index([measure_of(name).name for name in names])
    digits = [entry.digits for entry in map(measure_of, names)]
    shown = [measure_of(name).name for name in IN_THE_TABLE if name in names]
    styler = styled(table, f"damage-values-{domain}", ruled=[first], shown=shown)
    return styler.format(dict(zip(table, [partial(plain_number, digits=one) for one in digits], strict=True)), na_rep="–")


# --------------------------------------------------------------------------------------------------------------- texts
def status_line(made: CorruptionStudy) -> str:
    """Markdown: the preset, clips, domains, corruptions and measures of the study."""
    kinds = [KINDS[name].group for name, _ in dict.fromkeys(_at(made.rows))]
    measures = {name for name in made.rows["measure"] if not name.endswith(catalogue.PSEUDO_SUFFIX)}
    domains = [domain_of(name).label for name in DOMAINS if name in set(made.rows["domain"])]
    references = kinds.count(REFERENCES)
    return (
        f"Preset **{made.preset}**: {made.clips} clips each of {' and '.join(domains)} (the *{SPLIT}* split), "
        f"{len(kinds) - references} corruptions and {references} references, {len(measures)} measures."
    )


def summary(made: CorruptionStudy, domain: str = EVENTFUL) -> str:
    """Markdown: the results, a line each."""
    table = _without_horizons(responses(made, domain))
    lines = [_control(table), _copied_frame(table), *_corrupted_agents(table), _mild_blur(table), _taken_for_better(table),
             _distances(made, domain, table), _ceilings(made, domain)]  # fmt: skip
    text = "\n".join(f"- {line}" for line in lines if line)
    return f"On {domain_of(domain).label}, with {made.clips} clips:\n\n{text}"


def _control(table: pd.DataFrame) -> str:
    again = table[table["damage"] == "re-rendered"].dropna(subset=["change"])
    if again.empty:
        return ""
    control, moved = "The control, rendered again without corruption,", again[again["change"] != 0]
    if moved.empty:
        return f"{control} has the values of real frames in {len(again)} of {len(again)} measures, to the last digit."
    worst = moved.loc[moved["evidence"].abs().idxmax()] if moved["evidence"].notna().any() else moved.iloc[0]
    return (
        f"{control} changes {len(moved)} of {len(again)} measures, most of all {measure_of(worst['measure']).name}, by "
        f"{number(worst['change'], measure_of(worst['measure']).digits)} ({number(abs(worst['evidence']))} standard errors)."
    )


def _copied_frame(table: pd.DataFrame) -> str:
    """Which measures distinguish real frames from a copied last frame; others are not used."""
    copied = table[table["damage"] == "copy-last-frame"].dropna(subset=["evidence"])
    if copied.empty:
        return ""
    text = (
        f"Of {len(copied)} measures with a known standard error, {copied['seen'].sum()} distinguish real frames from a "
        "copied last frame"
    )
    if copied["seen"].all():
        return f"{text}."
    unseen = _listed(copied[~copied["seen"]])
    return f"{text}. These do not with this number of clips, and by themselves do not measure motion: {unseen}."


def _corrupted_agents(table: pd.DataFrame) -> list[str]:
    """How many measures respond to the strongest corruption of agents of each kind."""
    lines = []
    for name in COLUMNS[AGENTS]:
        one = _strongest(table.dropna(subset=["evidence"]), name)
        if one.empty:
            continue
        fidelity, accuracy = one[one["kind"].isin(FIDELITY)], one[one["kind"] == catalogue.OF_AGENTS]
        seen = accuracy["seen"]
        unseen = f" (not {_listed(accuracy[~seen])})" if seen.any() and not seen.all() else ""
        lines.append(
            f"*{capital(label_of(name, float(one['grade'].iloc[0])))}*: {_counted(fidelity)} measures of fidelity respond, "
            f"and {_counted(accuracy)} of agents{unseen}."
        )
    return lines


def _mild_blur(table: pd.DataFrame) -> str:
    """Measures of agents that respond to a loss of sharpness as to a loss of accuracy."""
    blur = table[(table["damage"] == "blur") & (table["grade"] == 1)].dropna(subset=["evidence"])
    agents = blur[blur["kind"] == catalogue.OF_AGENTS]
    if agents.empty:
        return ""
    text = f"To a blur of 1 px, which moves no agent, {_counted(agents)} measures of agents respond"
    if not agents["seen"].any():
        return f"{text}."
    said = f"{text}: {_listed(agents[agents['seen']])}."
    return f"{said} The detector misses more agents in blurred frames, so its ceiling is given."


def _taken_for_better(table: pd.DataFrame) -> str:
    corrupted = table[table["damage"].map(lambda name: KINDS[name].group != REFERENCES)]
    better = corrupted[corrupted["worse"] <= -LEAST_EVIDENCE]
    if better.empty:
        return "No measure counts a corruption as an improvement."
    each = [
        f"{measure_of(measure).label} ({', '.join(label_of(*at) for at in _at(one))})"
        for measure, one in better.groupby("measure", sort=False)
    ]
    return f"Measures that count a corruption as an improvement: {'; '.join(each)}."


def _distances(made: CorruptionStudy, domain: str, table: pd.DataFrame) -> str:
    """The response of distances between sets to corruptions of agents, beside the ADE under the same corruption."""
    blurs = drawn_as_blur(made, domain)
    ade = table[table["measure"] == "ade_px"].set_index(["damage", "grade"])["value"]
    lines = []
    for name in COLUMNS[AGENTS]:
        one, at = _strongest(blurs, name).set_index("measure"), (name, float(KINDS[name].grades[-1]))
        if one.empty or not {("real", 0.0), at} <= set(ade.index):
            continue
        each = [f"{measure_of(measure).label} {_blur_text(one.loc[measure])}" for measure in _in_order(one.index)]
        before, after = (number(ade[of], measure_of("ade_px").digits) for of in (("real", 0.0), at))
        errors = f"ADE from {before} to {after} px"
        lines.append(f"    - {label_of(*at)}, {errors}: {', '.join(each)}")
    question = "Do distances between sets respond to corruptions of agents?"
    return "\n".join([f"{question} A corruption changes each as much as a blur of all frames:", *lines]) if lines else ""


def _blur_text(one: pd.Series[Any]) -> str:
    unsure = " (no response)" if abs(one["evidence"]) < LEAST_EVIDENCE else ""
    if np.isinf(one["blur_px"]):
        return f"more than one of {max(KINDS['blur'].grades):g} px{unsure}"
    return f"as one of {number(one['blur_px'])} px{unsure}" if one["blur_px"] > 0 else f"not for the worse{unsure}"


def ceilings(rows: pd.DataFrame) -> str:
    """Markdown, for a sweep's rows: the detector's ceiling at the sharpness of the least sharp model and of the sharpest.

    On eventful driving, from the published corruptions; if these are missing, a sentence that says so.
    """
    try:
        made = corruption_study.run("published")
    except FileNotFoundError:
        return "The detector's ceiling under blur is not available: book/results is missing."
    values = last_step(per_configuration(rows))
    sharp = of_measure(values, "sharpness_ratio", EVENTFUL).set_index("configuration")["value"]
    sharp = sharp[[name for name in sharp.index if name not in BASELINES.values()]]
    if sharp.empty:
        return f"The detector's ceiling under blur is for {domain_of(EVENTFUL).label}, which this sweep did not measure."
    least, most = (
        f"{name}, {number(sharp[name], measure_of('sharpness_ratio').digits)} times as sharp as real frames, it has "
        f"{corruption_study.blur_ceiling(made.rows, sharp[name], EVENTFUL)}"
        for name in (sharp.idxmin(), sharp.idxmax())
    )
    return (
        f"**The detector's ceiling**, on real frames of {domain_of(EVENTFUL).label} blurred to a model's sharpness (the "
        f"page on measures has its curve): at that of the least sharp model here, {least}; at that of the sharpest, {most}."
    )


def _ceilings(made: CorruptionStudy, domain: str) -> str:
    ratios = corruption_study.blur_curve(made.rows, domain)["sharpness_ratio"]
    at = {ratio: corruption_study.blur_ceiling(made.rows, ratio, domain) for ratio in (float(ratios.iloc[0]), 0.9, 0.8, 0.6)}
    real, *blurred = (ratio for ratio in at if ratios.min() <= ratio <= ratios.max())
    each = "; ".join(f"at a sharpness of {ratio:g}, {at[ratio]}" for ratio in blurred)
    return f"The detector's ceiling on real frames is {at[real]}; blurred, {each}." if each else ""


def _strongest(table: pd.DataFrame, corruption: str) -> pd.DataFrame:
    one = table[table["damage"] == corruption]
    return one[one["grade"] == one["grade"].max()]


def _counted(table: pd.DataFrame) -> str:
    return f"{table['seen'].sum()} of {len(table)}"


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(measure_of(name).label for name in _in_order(table["measure"]))
