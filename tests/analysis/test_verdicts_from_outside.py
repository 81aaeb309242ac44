"""Every verdict of both editions again, by code that shares nothing with the library (`helpers/outside.py`)."""

from __future__ import annotations

import json

import outside
import pandas as pd
import pytest
from conftest import ROOT
from made_up_bases import NONE, made_up

from replaylab.analysis import claims, second_edition
from replaylab.pages import verdicts

FAMILY_A, FAMILY_B, REPEATED = ("", 0.0, "driving-family-a"), ("", 0.0, "driving-family-b"), ("", 0.0, "driving-repetitive")
NATURAL, WITHOUT_A = ("", 0.0, "natural"), ("near-without-a", 0.25, "driving")
NEAR, FAR = ("near", 0.25, "driving"), ("far", 0.25, "driving")
LOSES = {("ade", ""): 2.0, ("ade", "driving"): 0.6, ("kd", ""): -8.0}
KEEPS, HALF = {("ade", ""): 0.02, ("kd", ""): -7.8}, {("ade", ""): 1.0, ("kd", ""): -3.0}


def test_the_first_editions_verdicts_follow_from_the_packed_rows_by_pandas_and_scipy_alone() -> None:
    results = ROOT / "book" / "results"
    runs = pd.read_parquet(results / "runs.parquet")
    evaluations = runs["spec"].map(lambda text: json.dumps(json.loads(text)["evaluation"], sort_keys=True))
    (measured,) = evaluations[runs["preset"] == "published"].unique()
    is_reference = (runs["preset"] == "references") & (evaluations == measured)
    is_of_equal_steps = runs["preset"].isin(["published", "dose"]) & (runs["steps"] == 300)
    wanted = runs.loc[is_reference | is_of_equal_steps, "run"]
    parts = [pd.read_parquet(results / "rows" / f"{name}.parquet") for name in ("published", "dose", "references")]
    rows = pd.concat([part[part["run"].isin(wanted)] for part in parts])
    rows = rows[rows["measure"].isin(["ade_px", "effnet_kd", "effnet_kd_pseudo"])]
    found = outside.first_edition(rows.assign(value=rows["value"].astype(float)))
    judged = verdicts.judge_all(verdicts.read_together().rows)
    assert len(found) == len(judged) == len(claims.CLAIMS)
    for (claim, one), (name, ours) in zip(judged, _in_their_order(found).items(), strict=True):
        assert one is not None and name.startswith(claim.name)
        assert ours.verdict == one.verdict, name
        assert (ours.low, ours.high) == pytest.approx((one.interval.low, one.interval.high), abs=1e-4), name


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
    found, judged = outside.second_edition(rows), second_edition.judge_all(rows)
    assert list(found) == [claim.name for claim, _ in judged]
    for claim, one in judged:
        ours = found[claim.name]
        assert ours.verdict == ("missing" if one is None else one.verdict), claim.name
        if one is not None and one.verdict != "exploratory":
            assert ours.p == pytest.approx(one.adjusted_p, rel=1e-3), claim.name


def test_the_made_up_rows_reach_every_verdict() -> None:
    said = {one.verdict for effects in (MOST_HOLD, {}) for one in outside.second_edition(made_up(effects)).values()}
    assert said >= {"holds", "does not hold", "missing"}
