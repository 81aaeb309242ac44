"""Every verdict of both editions again, by code that shares nothing with the library (`helpers/outside.py`)."""

from __future__ import annotations

import json

import outside
import pandas as pd
import pytest
from conftest import ROOT
from made_up_bases import NONE, made_up

from replaylab.analysis import claims, second_edition
from replaylab.analysis.tables import for_changes
from replaylab.pages import second_edition as second_edition_page
from replaylab.pages import verdicts
from replaylab.sweeps.presets import CONFIRMATORY

MEASURES = ["effnet_kd", "effnet_kd_pseudo", "ade_px", "ade_matched_px", "ade_second_detector_px"]
FAMILY_A, FAMILY_B, REPEATED = ("", 0.0, "driving-family-a"), ("", 0.0, "driving-family-b"), ("", 0.0, "driving-repetitive")
NATURAL, WITHOUT_A = ("", 0.0, "natural"), ("near-without-a", 0.25, "driving")
NEAR, FAR = ("near", 0.25, "driving"), ("far", 0.25, "driving")
LOSES = {("ade", ""): 2.0, ("ade", "driving"): 0.6, ("kd", ""): -8.0}
KEEPS, HALF = {("ade", ""): 0.02, ("kd", ""): -7.8}, {("ade", ""): 1.0, ("kd", ""): -3.0}


def packed_rows(*presets: str) -> pd.DataFrame:
    """The rows of these presets' runs of 300 steps, and of the references that were measured in the same way."""
    results = ROOT / "book" / "results"
    runs = pd.read_parquet(results / "runs.parquet")
    evaluations = runs["spec"].map(lambda text: json.dumps(json.loads(text)["evaluation"], sort_keys=True))
    is_of = runs["preset"].isin(presets) & (runs["steps"] == 300)
    is_reference = (runs["preset"] == "references") & evaluations.isin(evaluations[is_of])
    wanted = [("run", "in", list(runs.loc[is_of | is_reference, "run"])), ("measure", "in", MEASURES)]
    files = [results / "rows" / f"{name}.parquet" for name in (*presets, "references")]
    rows = pd.concat([pd.read_parquet(file, filters=wanted) for file in files])
    return rows.assign(value=rows["value"].astype(float))


def test_the_first_editions_verdicts_follow_from_the_packed_rows_by_pandas_and_scipy_alone() -> None:
    found = outside.first_edition(packed_rows("published", "dose"))
    judged = verdicts.judge_all(verdicts.read_together().rows)
    assert len(found) == len(judged) == len(claims.CLAIMS)
    for (claim, one), (name, ours) in zip(judged, _in_their_order(found).items(), strict=True):
        assert one is not None and name.startswith(claim.name)
        assert ours.verdict == one.verdict, name
        assert (ours.low, ours.high) == pytest.approx((one.interval.low, one.interval.high), abs=1e-4), name


def test_the_second_editions_verdicts_follow_from_the_packed_rows_by_pandas_and_scipy_alone() -> None:
    found = outside.second_edition(packed_rows(*CONFIRMATORY))
    judged = second_edition_page.read().found
    assert list(found) == [claim.name for claim, _ in judged]
    for claim, one in judged:
        ours = found[claim.name]
        assert one is not None and ours.verdict == one.verdict, claim.name
        assert ours.p == pytest.approx(one.adjusted_p, rel=1e-3), claim.name


def _in_their_order(found: dict[str, outside.Found]) -> dict[str, outside.Found]:
    """Accuracy before visual quality."""
    return dict(sorted(found.items(), key=lambda one: ("visual" in one[0], list(found).index(one[0]))))


MOST_HOLD = {
    NONE: LOSES, NEAR: KEEPS, FAR: HALF, WITHOUT_A: KEEPS, NATURAL: LOSES,
    FAMILY_A: LOSES, FAMILY_B: {("ade", ""): -1.0, ("kd", ""): -5.0}, REPEATED: LOSES,
}  # fmt: skip
OTHER_WAY = {NONE: {("ade", ""): -0.4, ("kd", ""): 3.0}, NEAR: HALF, WITHOUT_A: HALF, NATURAL: {("ade", ""): -1.0}}
READINGS_DIFFER = {NONE: {("ade_matched_px", ""): 1.0, ("ade_px", ""): 0.01, ("ade_second_detector_px", ""): 1.0}}


@pytest.mark.parametrize(("effects", "bases", "ahead", "spread"), [
    (MOST_HOLD, 6, 1.0, 0.2), (MOST_HOLD, 6, -0.2, 0.02), (MOST_HOLD, 4, 1.0, 0.02),
    (OTHER_WAY, 6, 1.0, 0.1), (READINGS_DIFFER, 6, 1.0, 0.1), ({}, 6, 1.0, 0.1),
])  # fmt: skip
def test_the_second_editions_verdicts_are_those_of_an_independent_reckoning(effects, bases, ahead, spread) -> None:
    names = tuple(f"base {number}" for number in range(bases))
    rows = made_up(effects, names, spread, ahead)
    found, judged = outside.second_edition(rows), second_edition.judge_all(for_changes(rows))
    assert list(found) == [claim.name for claim, _ in judged]
    for claim, one in judged:
        ours = found[claim.name]
        assert ours.verdict == ("missing" if one is None else one.verdict), claim.name
        if one is not None and one.verdict != "exploratory":
            assert ours.p == pytest.approx(one.adjusted_p, rel=1e-3), claim.name


def test_the_made_up_rows_reach_every_verdict() -> None:
    said = {one.verdict for effects in (MOST_HOLD, {}) for one in outside.second_edition(made_up(effects)).values()}
    assert said >= {"holds", "does not hold", "missing"}
