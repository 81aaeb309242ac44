"""The table of recipes is whole and its page shows each of them; a learning curve is drawn with its baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from replaylab.analysis import base_limits
from replaylab.data.video import write_video
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


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Folders as of two bases, one of half its training and the first edition's: the second base misses every bar."""
    boxes: dict[str, list[list[list[int]]]] = {"true": [[[8, 8, 24, 24]]] * 8, "found": [[]] * 3 + [[[8, 8, 24, 24]]] * 5}
    for name, of_base in (("base-2", 1.0), ("base-10", 9.0), ("base-2-8of16", 1.0), ("base", 1.0)):
        (folder := tmp_path / name).mkdir()
        models = {"base": of_base, "copy-last-frame": 4.0, "constant-velocity": 3.0, "autoencoder": 1.0}
        pd.DataFrame(
            {"domain": bar.domain, "measure": bar.measure, "model": model, "step": 5 if model == "base" else -1,
             "value": value / 10 + (1 if of_base == 1 else 0) if bar.measure == "recall" else value}
            for bar in {(bar.domain, bar.measure): bar for bar in base_limits.BARS}.values()
            for model, value in models.items()
        ).to_csv(folder / "curve.csv")  # fmt: skip
        for kind in ("base", "real") if name != "base" else ():
            (folder / "samples" / kind).mkdir(parents=True)
            for domain in base_models.CLIPS_OF:
                file = folder / "samples" / kind / f"{domain}-95.json"
                file.write_text(json.dumps(boxes))
                write_video(file.with_suffix(".mp4"), np.zeros((8, 64, 64, 3), np.uint8), 4)
    return tmp_path


def test_what_the_bases_reach_is_shown_of_whole_ones_in_the_order_of_their_seeds(weights: Path) -> None:
    folders = base_models.shipped(weights)
    assert list(folders) == ["base 2", "base 10"]
    table = base_models.reached(folders)
    assert len(table) == 2 * len(base_limits.BARS) and ((table["share"] <= 1) == table["reached"]).all()
    assert table.groupby("base")["reached"].all().to_dict() == {"base 10": False, "base 2": True}
    (axes,) = base_models.bars(table).axes
    assert sum(len(np.asarray(points.get_offsets())) for points in axes.collections) == len(table)
    shown = base_models.clips(folders).data
    assert shown.count("<figure") == 3 * len(base_models.CLIPS_OF) and "Base 10" in shown
    (weights / "base-10" / "samples" / "base" / "driving-95.json").write_text("{}")
    with pytest.raises(ValueError, match=r"base-10/samples/base/driving-95\.json"):
        base_models.clips(folders)


def test_a_learning_curve_draws_its_domains_and_their_floors() -> None:
    steps = [("copy-last-frame", -1, 6.0), ("autoencoder", -1, 0.5), ("base", 1, 6.0), ("base", 2, 3.0)]
    curve = pd.DataFrame(
        [(model, step, domain, "ade_px", value) for domain in ("near", "driving-eventful") for model, step, value in steps],
        columns=["model", "step", "domain", "measure", "value"],
    )
    (axes,) = base_models.learning_curve(curve).axes
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines]
    learnt = [points for points in drawn if points[:, 0].tolist() == [1, 2]]
    assert [points[:, 1].tolist() for points in learnt] == [[6.0, 3.0]] * 2
    floors = sorted(points[0, 1] for points in drawn if points[:, 0].tolist() != [1, 2])
    assert floors == [0.5, 0.5, 6.0, 6.0]
