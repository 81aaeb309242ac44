"""The page on scale: points of both editions, lines of the second's bases, and what they say of where a change turns."""

from __future__ import annotations

from typing import Any

import named_weights
import numpy as np
import pandas as pd
import pytest
from executed_pages import run_here
from matplotlib.collections import PathCollection

from replaylab.analysis.tables import NONE
from replaylab.pages import scale

REAL = 0.5  # ADE of detections in real clips
SCENES = [f"scene {number}" for number in range(10)]


def rows_of(errors: dict[str, float], slope: float, turns_at: float = 0.5, seeds: tuple[int, ...] = (12,)) -> pd.DataFrame:
    """Bases by their error, of which copying has 8: without replay, ADE changes by slope x (skill − turns_at)."""
    luck = np.random.default_rng(0).normal(0, 1, len(SCENES))
    lines: list[dict[str, Any]] = []

    def add(values: dict[str, float], **about: Any) -> None:
        for measure, domain in scale.PANELS:
            scenes = zip(SCENES, luck, strict=True) if measure == "ade_px" else [("", 0.0)]
            lines.extend(
                {"run": "", "base": "", "target": "", "replay": "", "replay_fraction": np.nan, "seed": -1, **about,
                 "measure": measure, "domain": domain, "scene": scene, "value": values[measure] + more}
                for scene, more in scenes
            )  # fmt: skip

    add({"ade_px": 8.0, "effnet_kd": 2.0}, model="copy-last-frame", step=-1)
    add({"ade_px": REAL, "effnet_kd": 0.5}, model="real", step=-1)
    for base, error in errors.items():
        add({"ade_px": error, "effnet_kd": 15.0}, model="base", base=base, step=0)
        for seed in seeds:
            for replay, fraction in (("", 0.0), ("near", 0.25), ("far", 0.25)):
                kept = 0.1 + 0.05 * (-1) ** round(error)
                change = kept if fraction else slope * ((8 - error) / (8 - REAL) - turns_at)
                about = {"run": f"{base} {seed} {replay}", "base": base, "target": "driving", "replay": replay}
                values = {"ade_px": error + change, "effnet_kd": 15.0 - change}
                add(values, model="fine-tuned", replay_fraction=fraction, seed=seed, step=300, **about)
    return pd.DataFrame(lines)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    errors = {f"base {number}": 7.0 - number for number in range(5)}
    second = scale.points(rows_of(errors, slope=3.0)).assign(edition="second")
    first = scale.points(rows_of({"old": 4.0}, slope=9.0, seeds=(0, 1, 2))).assign(edition="first")
    return pd.concat([second, first], ignore_index=True)


def test_a_point_is_a_base_in_one_of_two_configurations_and_no_run_of_another_is_in_it(table: pd.DataFrame) -> None:
    counts = table.groupby(["measure", "domain", "configuration", "edition"])["base"].nunique()
    assert counts.unstack("edition").to_numpy().tolist() == [[1, 5]] * 2 * len(scale.PANELS)
    assert set(table["runs"][table["edition"] == "first"]) == {3} and set(table["configuration"]) == set(scale.COLOURS)
    per_base = table.groupby(["base", "domain"])["skill"].nunique()
    assert (per_base == 1).all(), "fidelity is shown over what the base knows of motion"


def test_lines_are_of_the_second_edition_alone_and_say_where_the_change_turns(table: pd.DataFrame) -> None:
    fitted = scale.lines(table)
    assert len(fitted) == 2 * len(scale.PANELS)
    line = fitted[NONE, "ade_px", "driving"]
    assert line.n == 5 and line.slope == pytest.approx(3.0) and line.crossing()[0] == pytest.approx(0.5)
    said = scale.in_words(table).splitlines()
    assert len(said) == len(fitted)
    assert "increases with the base's skill" in said[0] and "from a gain into a cost at a skill of 0.5" in said[0]
    share = scale.percent(round(3.0 / table.loc[table["edition"] == "second", "way"].iloc[0], 2))
    assert f"Fine-tuning reduces the advantage of a better base by {share} (" in said[0]
    assert sum("advantage" in line for line in said) == 4, "fidelity is shown over the skill in motion"
    kept = next(line for line in said if line.startswith(f"- **ADE on ordinary driving, {scale.REPLAY}"))
    assert "no clear dependence" in kept and "do not determine where its sign changes" in kept
    few = table[table["base"].isin(["base 0", "base 1", "old"])]
    assert scale.lines(few) == {} and "Fewer than 3" in scale.in_words(few)


def test_the_figure_draws_every_point_once_and_a_line_a_configuration(table: pd.DataFrame) -> None:
    figure = scale.over_skill(table)
    assert len(figure.axes) == len(scale.PANELS)
    for axes, (measure, domain) in zip(figure.axes, scale.PANELS, strict=True):
        dots = [one for one in axes.collections if isinstance(one, PathCollection)]
        drawn = [tuple(point) for one in dots for point in np.asarray(one.get_offsets())]
        here = table[(table["measure"] == measure) & (table["domain"] == domain)]
        assert sorted(drawn) == sorted(zip(here["skill"], here["change"], strict=True))


def test_a_store_without_runs_has_no_points(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    named_weights.install(monkeypatch, tmp_path / "weights")
    monkeypatch.setattr(scale, "published_folder", lambda: tmp_path)
    nothing = scale.read(tmp_path)
    assert nothing.empty and scale.lines(nothing) == {} and "no line is fitted" in scale.in_words(nothing)
    assert len(scale.over_skill(nothing).axes) == len(scale.PANELS) and scale.values(nothing).empty


def test_an_unknown_edition_is_refused() -> None:
    with pytest.raises(ValueError, match="edition 'third' is none of second, first"):
        scale.read(editions=("third",))


def test_the_notebook_runs_with_few_bases_too(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "opening", lambda store: "")
    for points in (table, table[table["base"].isin(["base 0", "old"])]):
        monkeypatch.setattr(scale, "read", lambda store, points=points: points)
        assert run_here("10_scale")["points"] is points
