"""The page on the base models: recipes compared on dev before the second edition's bases were trained, and what these reach.

Decision: recipes are shown with the first edition's bases and the reference baselines, measured on the same dev clips, with
a single training each: they served to select a recipe and are not results. The measures of a base are stored with its
weights, measured on dev at the end of its training.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from replaylab.analysis import base_limits
from replaylab.analysis.changes import of_measure
from replaylab.catalogue import domain_of, measure_of
from replaylab.pages import explorer, sample_clips, style
from replaylab.pages.style import BLUE, GREY, INK, VERMILION, WIDTH, figure_style
from replaylab.shipped_weights import WEIGHTS
from replaylab.util import reading
from replaylab.util.text import number

X, Y = ("effnet_kd", "driving"), ("ade_px", "driving-eventful")
CLIPS_OF = ("driving-eventful", "driving", "near-eventful")
SHOWN = ("driving", "driving-eventful", "driving-held-out", "near-eventful", "country-eventful")


def read(file: str | Path = "base_recipes.csv") -> pd.DataFrame:
    """The table of recipes: recipe, about, steps, million_weights, cpu_seconds, measure, domain, value. `file`: relative to
    the page.
    """
    return reading.csv(Path(file))


def shipped(weights: Path = WEIGHTS) -> dict[str, Path]:
    """The folders of the second edition's fully trained bases, by their names on the page."""
    folders = sorted(weights.glob("base-*/samples"), key=lambda samples: (len(samples.parts[-2]), samples))
    whole = [samples.parent for samples in folders if "of16" not in samples.parts[-2]]
    return {folder.name.replace("-", " "): folder for folder in whole}


def recipes(table: pd.DataFrame) -> Styler:
    """A row per recipe: steps, number of weights, training time, and its clips and changes."""
    about = table[table["steps"] > 0].drop_duplicates("recipe")
    minutes = (about["cpu_seconds"] / 60).map(lambda value: "–" if pd.isna(value) else f"{value:.0f}")
    shown = pd.DataFrame({
        "recipe": about["recipe"], "steps": about["steps"], "million weights": about["million_weights"].map(number),
        "core min": minutes, "trained on": about["about"],
    })  # fmt: skip
    last_wraps = {"selector": f"td.col{shown.shape[1] - 1}", "props": "white-space: normal; min-width: 14em"}
    return style.styled(shown, "recipes").hide(axis="index").set_table_styles([last_wraps], overwrite=False)


def values(table: pd.DataFrame, measure: str) -> Styler:
    """A measure of every recipe and reference baseline, a column per domain."""
    wide = table[table["measure"] == measure].pivot(index="recipe", columns="domain", values="value")
    wide = wide.reindex([name for name in table["recipe"].unique() if name in wide.index])[list(SHOWN)]
    wide = wide.rename(columns=lambda name: domain_of(name).label).rename_axis(index=None, columns=None)
    return style.styled(wide, f"recipes-{measure}").format(partial(number, digits=measure_of(measure).digits), na_rep="–")


def plane(table: pd.DataFrame) -> Figure:
    """ADE on eventful driving over EffNet-KD on ordinary driving of every recipe, with the level of constant velocity."""
    wide = table.set_index(["recipe", "measure", "domain"])["value"].unstack(["measure", "domain"])
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
        for name in table.loc[table["steps"] > 0, "recipe"].unique():
            at, colour = (wide.loc[name, X], wide.loc[name, Y]), INK if name.startswith("base") else BLUE
            axes.plot(*at, "o", color=colour, ms=6)
            axes.annotate(name, at, (6, 4), textcoords="offset points", color=colour)
        level = wide.loc["constant velocity", Y]
        axes.axhline(level, **style.reference_style("constant-velocity"))
        axes.annotate("constant velocity", (0.01, level), (0, 3), color=GREY,
                      xycoords=("axes fraction", "data"), textcoords="offset points",
                      fontsize=style.SMALLEST_PT)  # fmt: skip
        axes.margins(0.1)
        axes.set(xlabel=f"← better    {measure_of(X[0]).label} on {domain_of(X[1]).label}",
                 ylabel=f"← better    {measure_of(Y[0]).name} on {domain_of(Y[1]).label}")  # fmt: skip
        return style.finished(figure, "Recipes of base models on dev clips")


def reached(folders: Mapping[str, Path]) -> pd.DataFrame:
    """The required and reached values of each base (`base_limits.bars`), with `share` of the limit: at most 1 if reached."""
    tables = [base_limits.bars(reading.csv(folder / "curve.csv")).assign(base=name) for name, folder in folders.items()]
    table = pd.concat(tables, ignore_index=True)
    shares = table["value"] / table["limit"]
    return table.assign(share=shares.where(table["measure"] != "recall", 1 / shares))


def bars(table: pd.DataFrame) -> Figure:
    """A row for each requirement, with a point for each base at its share of the limit."""
    keys = ["measure", "domain", "reference"]
    rows = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.42 * len(rows) + 1.1))
        for place, row in rows.iterrows():
            points = table.merge(row.to_frame().T, on=keys)
            colours = [BLUE if is_reached else VERMILION for is_reached in points["reached"]]
            axes.scatter(points["share"], [place] * len(points), c=colours, s=26, alpha=0.8, linewidths=0, zorder=3)
        axes.axvline(1, color=GREY, lw=1)
        for place, row in enumerate(rows.itertuples(index=False)):
            axes.annotate(_of_bar(*row), (0, place - 0.38), xycoords=("axes fraction", "data"), va="center",
                          fontsize=style.SMALLEST_PT)  # fmt: skip
            axes.axhline(place, color=style.LIGHT_GREY, lw=0.8, zorder=0)
        axes.set(yticks=[], ylim=(len(rows) - 0.5, -0.8), xlim=(0, None))
        axes.set(xlabel="← better    share of the limit")
        return style.finished(figure, "What the second edition's bases reach on dev clips")


def _of_bar(measure: str, domain: str, reference: str) -> str:
    """Such as "ADE, eventful driving, of constant velocity's"."""
    against = {"-": "", "autoencoder": ", of the autoencoder's"}.get(reference, f", of {reference.replace('-', ' ')}'s")
    return f"{measure_of(measure).label}, {domain_of(domain).label}{against}"


def learning_curve(curve: pd.DataFrame, first: pd.DataFrame | None = None) -> Figure:
    """ADE in px of a base over its pretraining, a line per domain, with the reference baselines; and of the `first` base in
    thin lines, if it is given.

    `curve` has the columns model, step, domain, measure and value (`store.base_curve`).
    """
    ade = curve[curve["measure"] == "ade_px"]
    colours = dict(zip(("driving-eventful", "near"), (VERMILION, BLUE), strict=True))
    thin: dict[str, Any] = {"lw": 0.7, "marker": "o", "ms": 2.5, "mfc": "white"}
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
        for domain, colour in colours.items():
            here = ade[ade["domain"] == domain].set_index("model")
            learnt = here.loc["base"]
            axes.plot(learnt["step"], learnt["value"], "o-", color=colour, ms=4, label=domain_of(domain).label)
            for model, dashes in style.DASHES.items():
                if model in here.index:
                    axes.axhline(here.loc[model, "value"], color=colour, lw=0.9, ls=dashes, zorder=0)
            if first is not None:
                beside = of_measure(first[first["model"] == "base"], "ade_px", domain)
                axes.plot(beside["step"], beside["value"], color=colour, **thin)
        axes.set(xlabel="pretraining step", ylabel=measure_of("ade_px").axis)
        axes.set_ylim(bottom=0)
        entries = [*axes.get_legend_handles_labels()[0], *style.reference_entries(("copy-last-frame", "autoencoder"))]
        title = "Accuracy of the base over pretraining"
        if first is not None:
            title = "Accuracy of the second base over pretraining"
            entries.append(Line2D([], [], color=GREY, label="the first base", **thin))
        return style.finished(figure, title, entries=entries)


def clips(folders: Mapping[str, Path], percentile: str = "95") -> HTML:
    """A dev clip of each domain of CLIPS_OF, real and generated by each base: the one at this percentile of motion."""
    if not folders:
        return explorer.NO_CLIPS
    first = next(iter(folders.values()))
    versions = {sample_clips.TRUTH: first / "samples" / "real"}
    versions |= {name: folder / "samples" / "base" for name, folder in folders.items()}
    return explorer.player([one for domain in CLIPS_OF for one in sample_clips.of_folders(versions, domain, percentile)])
