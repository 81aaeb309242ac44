"""What an experiment can see, against simulation and closed forms; and what the first edition's runs say of the second."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from replaylab.analysis import claims, design, statistics
from replaylab.analysis.design import Components, Endpoint
from replaylab.analysis.second_edition import CLAIMS, READINGS
from replaylab.sweeps import sweep

PLAIN = Components(base=0.2, seed=0.1, scene=1.0, rest=0.8, scenes=64)


def drawn(of: Components, runs: list[int], seed: int) -> tuple[np.ndarray, list[str]]:
    """Values (runs, scenes) with these standard deviations, and the base of each run."""
    random, bases = np.random.default_rng(seed), np.repeat(np.arange(len(runs)), runs)
    values = of.base * random.standard_normal(len(runs))[bases] + of.seed * random.standard_normal(len(bases))
    crossed = of.scene * random.standard_normal(of.scenes) + of.rest * random.standard_normal((len(bases), of.scenes))
    return values[:, None] + crossed, [f"base {number}" for number in bases]


# Parts of a change


def test_the_parts_of_a_change_are_found_again() -> None:
    of = Components(base=0.5, seed=0.3, scene=1.0, rest=0.8, scenes=200)
    found = design.components(*drawn(of, [4] * 300, 0))
    assert found.base == pytest.approx(0.5, rel=0.1) and found.seed == pytest.approx(0.3, rel=0.1)
    assert found.scene == pytest.approx(1.0, rel=0.15) and found.rest == pytest.approx(0.8, rel=0.02)


def test_the_parts_are_unbiased_where_bases_have_unlike_many_runs() -> None:
    of = Components(base=0.4, seed=0.3, scene=0.5, rest=0.5, scenes=8)
    squares = np.array([
        [getattr(design.components(*drawn(of, [3, 2], trial)), name) ** 2 for name in ("base", "seed", "scene", "rest")]
        for trial in range(500)
    ])  # fmt: skip
    # variances below 0 count as 0, so means may be too large, never too small
    expected = np.array([0.16, 0.09, 0.25, 0.25])
    assert (squares.mean(0) > 0.9 * expected).all() and squares.mean(0)[3] == pytest.approx(0.25, rel=0.1)


def test_a_run_that_is_one_number_has_no_scenes() -> None:
    found = design.components(np.array([[1.0], [2.0], [3.0], [7.0], [9.0]]), ["a", "a", "a", "b", "b"])
    assert (found.scene, found.rest, found.scenes) == (0, 0, 1)
    assert found.seed == pytest.approx(((1 + 0 + 1 + 1 + 1) / 3) ** 0.5)
    between = 5 * 0.24 * 6**2  # 5 p (1 − p) d²
    assert found.base == pytest.approx(((between - 4 / 3) / 2.4) ** 0.5)


@pytest.mark.parametrize(("bases", "message"), [(["a"] * 4, "bases"), (["a", "b", "c", "d"], "seeds cannot be told")])
def test_bases_and_seeds_must_be_told_apart(bases: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design.components(np.random.default_rng(0).standard_normal((4, 5)), bases)


# Coverage


@pytest.mark.parametrize("ratio", design.RATIOS)
def test_with_bases_for_units_an_interval_holds_the_truth_as_often_as_it_says(ratio: float) -> None:
    share, half = design.coverage(PLAIN.with_ratio(ratio), [1] * 6, 1500)
    assert 0.935 <= share <= 0.99 and half > 0


def test_runs_that_share_bases_are_not_independent_and_the_more_bases_differ_the_less() -> None:
    of = Components(base=0, seed=0.3, scene=0.5, rest=0.5, scenes=64)
    table = design.coverage_table({"an endpoint": of}, trials=800)
    old, new = table["five runs of two bases"], table["6 bases"]
    assert list(table["base SD / run SD"]) == list(design.RATIOS)
    assert old.is_monotonic_decreasing and old.iloc[-1] < 0.85 and new.min() > 0.93


def test_more_runs_of_a_base_are_one_unit() -> None:
    of = Components(base=1.0, seed=0.1, scene=0.2, rest=0.2, scenes=16)
    assert design.coverage(of, [3, 3, 3], 600)[0] > 0.93 > design.coverage(of, [3, 3, 3], 600, units="runs")[0]
    with pytest.raises(ValueError, match="units: 'clips' is none of"):
        design.coverage(of, [1, 1], 1, units="clips")


# Power


@pytest.mark.parametrize(("of", "bases", "p"), [
    (PLAIN, 6, 0.05), (PLAIN.with_ratio(3), 6, 0.005), (Components(0.5, 0.2, 0.0, 0.3, 32), 4, 0.05),
])  # fmt: skip
def test_the_difference_that_is_told_is_told_as_often_as_asked(of: Components, bases: int, p: float) -> None:
    difference = design.detectable(of, bases, p)
    told = 0
    for trial in range(1200):
        values = drawn(of, [1] * bases, trial)[0] + difference
        told += statistics.p_value(values) <= p and values.mean() > 0
    assert told / 1200 == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("bases", [3, 6, 12])
def test_of_runs_that_are_one_number_it_is_the_power_of_a_t_test(bases: int) -> None:
    difference = design.detectable(Components(0.6, 0.8, 0.0, 0.0, 1), bases)
    beyond = stats.nct.sf(stats.t.ppf(0.975, bases - 1), bases - 1, difference * bases**0.5)
    assert beyond == pytest.approx(0.8, abs=0.005)


def test_more_bases_and_likelier_mistakes_tell_smaller_differences() -> None:
    told = [design.detectable(PLAIN, bases) for bases in (3, 6, 12)]
    assert told[0] > told[1] > told[2] > 0
    assert design.detectable(PLAIN, 6, 0.005) > told[1] > design.detectable(PLAIN, 6, 0.2)
    assert design.detectable(PLAIN, 6, power=0.5) < told[1]
    needed = design.bases_needed(PLAIN, told[1])
    assert needed == 6 and design.bases_needed(PLAIN, 1e-6) == 0 == design.bases_needed(PLAIN, math.nan)
    with pytest.raises(ValueError, match=r"power: 1\.2"):
        design.detectable(PLAIN, 6, power=1.2)


def test_the_table_says_where_a_margin_cannot_be_told() -> None:
    told = design.detectable(PLAIN, 6, 0.05 / len(CLAIMS))
    of = [Endpoint("C", "a margin", "ade_px", 0.0, room, PLAIN) for room in (1.01 * told, 0.9 * told, math.nan)]
    table = design.power_table(of)
    assert list(table["6 are enough"]) == ["yes", "no", "no margin"]
    needed = list(table["bases needed"])
    assert needed[0] == 6 and needed[1] > 6 and needed[2] == 0
    assert (table["told"] < table["told first"]).all() and table["told first"].iloc[0] == pytest.approx(told)
    limit = table["told by all bases"].iloc[0]
    normal = stats.norm.ppf(0.8) - stats.norm.ppf(0.05 / len(CLAIMS) / 2)
    assert limit == pytest.approx(normal * PLAIN.scene / PLAIN.scenes**0.5, rel=0.05) and limit < told
    more = design.power_table(of, scenes=4 * PLAIN.scenes)
    assert more["told by all bases"].iloc[0] == pytest.approx(limit / 2, rel=0.05)
    assert more["6 are enough"].iloc[1] == "yes" and (more["told first"] < table["told first"]).all()


def test_bases_as_runs_differ_by_what_runs_of_one_base_do_rest_included() -> None:
    of = Components(base=5.0, seed=0.0, scene=1.0, rest=0.8, scenes=64)
    assert of.with_ratio(3).base == pytest.approx(3 * 0.8 / 8) and of.with_ratio(3).of_a_run == pytest.approx(10 * 0.01)


# The first edition's runs


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    wanted = {"ade_px", "ade_matched_px", "ade_tracked_px", "effnet_kd", "effnet_kd_pseudo"}
    parts = [sweep.read(preset, measures=wanted).rows for preset in ("published", "dose")]
    return pd.concat([parts[0], parts[1][~parts[1]["run"].isin(parts[0]["run"].unique())]], ignore_index=True)


@pytest.fixture(scope="module")
def found(rows: pd.DataFrame) -> dict[tuple[str, str, str], Endpoint]:
    return {(one.claim, one.words, one.measure): one for one in design.endpoints(rows)}


def test_the_first_editions_runs_are_seen_as_it_saw_them(
    rows: pd.DataFrame, found: dict[tuple[str, str, str], Endpoint]
) -> None:
    names = {"C1": "C1", "C2": "C2", "C2, ours": "C2, eventful"}
    for claim in claims.CLAIMS:
        if claim.name in names:
            judged = claims.judge(rows, claim)
            assert judged is not None
            seen = found[names[claim.name], "change", claim.measure].seen
            assert seen == pytest.approx(judged.interval.estimate)
        elif claim.against is not None:
            judged = claims.judge(rows, claim)
            assert judged is not None and found["C3", "ρ − ρ", "ade_px"].seen == pytest.approx(judged.interval.estimate)
    by_claim = {claim: {key[2] for key in found if key[0] == claim} for claim, _, _ in found}
    assert by_claim["C4, near"] == {design.STAND_INS.get(reading, reading) for reading in READINGS}
    assert by_claim["C4, far, quality"] == {"effnet_kd"}


def test_the_room_for_keeping_is_the_margin_itself(found: dict[tuple[str, str, str], Endpoint]) -> None:
    plain = found["C2, eventful", "change", "ade_px"].seen
    quarter = found["C4, far", "loss − 25 % of plain fine-tuning's", "ade_px"].to_tell
    assert quarter == pytest.approx(0.25 * plain)
    gain = found["C1", "change", "effnet_kd"].seen
    assert found["C4, near, quality", "change − 75 % of plain fine-tuning's", "effnet_kd"].to_tell == pytest.approx(
        -gain / 4
    )
