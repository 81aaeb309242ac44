"""The table of recipes is whole, and its page shows each of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from replaylab.pages import base_models


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return base_models.read(ROOT / "book" / "base_recipes.csv")


def test_every_recipe_is_measured_everywhere_and_described_once(table: pd.DataFrame) -> None:
    trained = table[table["steps"] > 0]
    assert (trained.groupby("recipe")["about"].nunique() == 1).all()
    counts = trained.groupby(["recipe", "measure"])["domain"].nunique().unstack()
    assert (counts == table["domain"].nunique()).all(axis=None) and set(counts) == {"ade_px", "effnet_kd", "recall"}
    assert len(base_models.recipes(table).data) == trained["recipe"].nunique()


def test_tables_and_figure_have_the_values_of_the_file(table: pd.DataFrame) -> None:
    shown = base_models.values(table, "ade_px").data
    one = table[(table["recipe"] == "H") & (table["measure"] == "ade_px") & (table["domain"] == "driving")]["value"].item()
    assert shown.loc["H", "ordinary driving"] == one and "constant velocity" in shown.index
    (axes,) = base_models.plane(table).axes
    points = [np.asarray(line.get_xydata())[0] for line in axes.lines if line.get_marker() == "o"]
    assert len(points) == table.loc[table["steps"] > 0, "recipe"].nunique()
