"""The page on the base models: what was tried on dev before the second edition's bases were trained.

Decision: the recipes stand beside the first edition's bases and the reference baselines, measured on the same dev clips, one
training each: they chose a recipe and are no result.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.catalogue import domain_of, measure_of
from replaylab.pages import style
from replaylab.pages.style import BLUE, GREY, INK, WIDTH, figure_style
from replaylab.util import reading
from replaylab.util.text import number

X, Y = ("effnet_kd", "driving"), ("ade_px", "driving-eventful")
SHOWN = ("driving", "driving-eventful", "driving-held-out", "near-eventful", "country-eventful")


def read(file: str | Path = "base_recipes.csv") -> pd.DataFrame:
    """The table of recipes: recipe, about, steps, million_weights, cpu_seconds, measure, domain, value; `file` is beside the
    page.
    """
    return reading.csv(Path(file))


def recipes(table: pd.DataFrame) -> Styler:
    """What each recipe was: its clips and its changes, steps, weights, and what training took."""
    about = table[table["steps"] > 0].drop_duplicates("recipe")
    minutes = (about["cpu_seconds"] / 60).map(lambda value: "–" if pd.isna(value) else f"{value:.0f}")
    shown = pd.DataFrame({
        "recipe": about["recipe"], "steps": about["steps"], "million weights": about["million_weights"].map(number),
        "core min": minutes, "trained on": about["about"],
    })  # fmt: skip
    last_wraps = {"selector": f"td.col{shown.shape[1] - 1}", "props": "white-space: normal; min-width: 14em"}
    return style.styled(shown, "recipes").hide(axis="index").set_table_styles([last_wraps], overwrite=False)


def values(table: pd.DataFrame, measure: str) -> Styler:
    """A measure of every recipe and reference baseline, a column a domain."""
    wide = table[table["measure"] == measure].pivot(index="recipe", columns="domain", values="value")
    wide = wide.reindex([name for name in table["recipe"].unique() if name in wide.index])[list(SHOWN)]
    wide = wide.rename(columns=lambda name: domain_of(name).label).rename_axis(index=None, columns=None)
    return style.styled(wide, f"recipes-{measure}", wide=True).format(number, na_rep="–")


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
