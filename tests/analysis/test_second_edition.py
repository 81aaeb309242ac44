"""Verdicts of the second edition from made-up rows whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_bases import BASES, FAR, NEAR, NONE, made_up

from replaylab.analysis import second_edition as edition
from replaylab.analysis import statistics
from replaylab.analysis.claims import Configuration
from replaylab.analysis.second_edition import CLAIMS, READINGS, AlignmentClaim, judge_all

BY_NAME = {claim.name: claim for claim in CLAIMS}
LOSES = {("ade", ""): 2.0, ("kd", ""): -8.0}  # plain fine-tuning: looks better, moves worse


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {claim.name: "missing" if one is None else one.verdict for claim, one in judge_all(rows)}


def judged(rows: pd.DataFrame, name: str) -> edition.Judged:
    """This claim alone: no other is tested."""
    found = judge_all(rows, [BY_NAME[name]])[0][1]
    assert found is not None
    return found


@pytest.mark.parametrize(("ordinary", "eventful", "kd", "expected"), [
    (1.0, 2.0, -5.0, ("holds", "holds", "holds")),
    (-1.0, 2.0, 5.0, ("does not hold", "does not hold", "holds")),
    (0.0, -2.0, 0.0, ("undecided", "undecided", "does not hold")),
])  # fmt: skip
def test_a_claim_is_judged_by_the_change_that_was_put_in(ordinary, eventful, kd, expected) -> None:
    rows = made_up({NONE: {("ade", "driving"): ordinary, ("ade", "driving-eventful"): eventful, ("kd", ""): kd}})
    found = verdicts(rows)
    assert tuple(found[name] for name in ("C1", "C2", "C2, eventful")) == expected
    assert found["C4, near"] == found["C3"] == "missing"
    for part in judged(rows, "C2, eventful").parts:
        assert part.interval.low <= eventful + 0.1 and part.interval.high >= eventful - 0.1 and len(part.of_bases) == 6


def test_accuracy_must_say_the_same_in_all_three_readings() -> None:
    one_differs = {(measure, ""): 2.0 for measure in READINGS} | {(READINGS[1], ""): -2.0}
    assert verdicts(made_up({NONE: one_differs}))["C2"] == "undecided"
    one_is_open = {(measure, ""): 2.0 for measure in READINGS} | {(READINGS[2], ""): 1e-9}
    assert verdicts(made_up({NONE: one_is_open}))["C2"] == "undecided"


@pytest.mark.parametrize(("loss", "verdict"), [(0.05, "holds"), (0.4, "undecided"), (0.7, "does not hold")])
def test_keeping_accuracy_is_losing_less_than_both_margins(loss: float, verdict: str) -> None:
    """A tenth of the way to copying is 0.4 px here, and a quarter of what plain fine-tuning loses 0.5 px."""
    rows = made_up({NONE: LOSES, NEAR: {("ade", ""): loss}})
    found = judged(rows, "C4, near")
    assert found.verdict == verdict
    way, share = (next(p for p in found.parts if text in p.words) for text in ("copying", "plain"))
    assert way.interval.estimate == pytest.approx(loss - 0.4, abs=0.05)
    assert share.interval.estimate == pytest.approx(loss - 0.5, abs=0.05)


@pytest.mark.parametrize(("plain", "loss"), [(0.8, 0.3), (4.0, 0.7)])
def test_keeping_one_margin_alone_is_not_enough(plain: float, loss: float) -> None:
    """0.3 px is under 0.4 px and over a quarter of 0.8; 0.7 px is over 0.4 px and under a quarter of 4."""
    found = judged(made_up({NONE: {("ade", ""): plain}, NEAR: {("ade", ""): loss}}), "C4, near")
    assert found.verdict == "does not hold"
    assert {part.interval.estimate > 0 for part in found.parts} == {True, False}


@pytest.mark.parametrize(("gain", "verdict"), [(7.5, "holds"), (9.0, "holds"), (4.0, "does not hold")])
def test_keeping_quality_is_gaining_three_quarters_of_what_plain_fine_tuning_gains(gain: float, verdict: str) -> None:
    rows = made_up({NONE: LOSES, FAR: {("kd", ""): -gain}})
    assert judged(rows, "C4, far, quality").verdict == verdict


def test_what_was_not_lost_cannot_be_kept() -> None:
    rows = made_up({NONE: {("ade", ""): -1.0, ("kd", ""): 3.0}, NEAR: {("ade", ""): -2.0, ("kd", ""): -9.0}})
    for name, text in (("C4, near", "plain fine-tuning loses"), ("C4, near, quality", "plain fine-tuning gains")):
        found = judged(rows, name)
        assert found.verdict == "undecided" and text in found.why
        assert max(part.interval.high for part in found.parts) < 0


@pytest.mark.parametrize(("ahead", "open_"), [(1.0, False), (-0.2, True), (0.0, True)])
def test_bases_that_are_no_better_than_constant_velocity_leave_claims_on_accuracy_open(ahead: float, open_: bool) -> None:
    found = judged(made_up({NONE: LOSES}, ahead=ahead), "C2")
    assert (found.verdict == "undecided") == open_ == ("better than constant velocity on ordinary driving" in found.why)
    assert found.by_intervals == "holds"
    assert judged(made_up({NONE: LOSES}, ahead=ahead), "C1").verdict == "holds"  # which is not about accuracy


@pytest.mark.parametrize(("real", "open_"), [(0.7, False), (1.4, True), (2.0, True)])
def test_a_detector_that_hardly_tells_real_clips_from_a_copied_frame_leaves_claims_on_accuracy_open(
    real: float, open_: bool,
) -> None:  # fmt: skip
    """Copying has an error of 7 px here: a fifth of it is 1.4 px."""
    found = judged(made_up({NONE: LOSES}, real=real), "C2")
    assert (
        (found.verdict == "undecided")
        == open_
        == ("at least 5 times the error of real clips on ordinary driving" in found.why)
    )
    assert judged(made_up({NONE: LOSES}, real=real), "C1").verdict == "holds"  # which is not about accuracy


def test_that_a_base_is_ahead_is_judged_by_its_interval() -> None:
    """Ahead on the mean of the clips, and by no interval."""
    rows = made_up({NONE: LOSES})
    here = (rows["model"] == "copy-last-frame") & (rows["domain"] == "driving") & (rows["measure"] == "ade_px")
    values = 3.2 + np.random.default_rng(1).normal(0, 2, here.sum())
    rows.loc[here, "value"] = values - values.mean() + 3.2
    found = judged(rows, "C2")
    condition = next(
        part
        for part, _ in found.conditions
        if "copied last frame" in part.words and "bases" in part.words and part.measure == "ade_px"
    )
    assert condition.interval.estimate < 0 < condition.interval.high
    assert found.verdict == "undecided" and "than a copied last frame" in found.why


def test_fewer_bases_get_no_verdict_and_one_none_at_all() -> None:
    assert verdicts(made_up({NONE: LOSES}, bases=BASES[:5]))["C2"] == "exploratory"
    assert verdicts(made_up({NONE: LOSES}, bases=BASES[:1]))["C2"] == "missing"


def test_claims_are_adjusted_for_one_another_missing_ones_too() -> None:
    rows = made_up({NONE: LOSES}, spread=2.0)
    found = [one for _, one in judge_all(rows) if one is not None]
    adjusted = statistics.holm([*(one.p for one in found), *[1.0] * (len(CLAIMS) - len(found))])
    assert [one.adjusted_p for one in found] == list(adjusted[: len(found)])
    alone = [judged(rows, one.claim.name) for one in found]
    assert any(one.adjusted_p > two.adjusted_p for one, two in zip(found, alone, strict=True))
    weak = next(one for one in found if one.p < 0.05 < one.adjusted_p)
    assert weak.verdict == "undecided"
    assert next(one for one in alone if one.claim == weak.claim).verdict != "undecided"


def test_a_contrast_is_of_one_base_and_clip_and_its_margin_is_no_constant() -> None:
    rows = made_up({NONE: LOSES, NEAR: {("ade", ""): 0.1}})
    claim = BY_NAME["C4, near"]
    assert isinstance(claim, edition.Claim)
    way = claim.contrasts[0]
    table = edition.contrast(rows, way, "ade_px", claim.domain)
    here = rows[(rows["measure"] == "ade_px") & (rows["domain"] == claim.domain)]
    values = {model: of.set_index(["base", "scene"])["value"] for model, of in here[here["step"] != 10].groupby("model")}
    near = here[(here["replay"] == "near") & (here["step"] == 300)].set_index(["base", "scene"])["value"]
    for base, scene in ((BASES[2], "scene 3"), (BASES[5], "scene 20")):
        before, copied = values["base"][base, scene], values["copy-last-frame"][BASES[0], scene]
        expected = near[base, scene] - before - 0.1 * (copied - before)
        assert table.xs(base, level="base")[scene].item() == pytest.approx(expected)


def test_alignment_is_of_gains_on_clips_unlike_the_targets_and_compared_base_by_base() -> None:
    claim = BY_NAME["C3"]
    assert isinstance(claim, AlignmentClaim)
    for configuration, domain in (*claim.together, *claim.apart):
        assert configuration.target != domain
    together = {("ade", ""): -2.0, ("kd", ""): -5.0}
    effects = {("", 0.0, one.target): together for one, _ in claim.together}
    effects |= {("", 0.0, one.target): LOSES for one, _ in claim.apart}
    found = judged(made_up(effects), "C3")
    assert found.verdict == "holds" and all(part.interval.estimate == pytest.approx(2) for part in found.parts)
    swapped = {name: together if effect is LOSES else LOSES for name, effect in effects.items()}
    assert judged(made_up(swapped), "C3").verdict == "does not hold"
    del effects["", 0.0, claim.apart[0][0].target]
    assert verdicts(made_up(effects))["C3"] == "missing"


def test_clips_without_a_value_in_one_run_are_left_out_for_all() -> None:
    rows = made_up({NONE: LOSES, NEAR: {("ade", ""): 0.1}})
    lost = (rows["scene"] == "scene 3") & (rows["measure"] == READINGS[1]) & (rows["base"] == BASES[4])
    rows.loc[lost & (rows["model"] == "fine-tuned") & (rows["replay"] == "near"), "value"] = np.nan
    found = {(part.measure, part.words): part.clips for part in judged(rows, "C4, near").parts}
    assert {clips for (measure, _), clips in found.items() if measure == READINGS[1]} == {23}
    assert {clips for (measure, _), clips in found.items() if measure != READINGS[1]} == {24}


def test_two_runs_from_one_base_and_references_that_are_missing_are_refused() -> None:
    rows = made_up({NONE: LOSES})
    again = rows[(rows["model"] == "fine-tuned") & (rows["base"] == BASES[1])].assign(run="again", seed=17)
    with pytest.raises(ValueError, match="two runs of one configuration from the base base 1; the unit is the base"):
        judge_all(pd.concat([rows, again], ignore_index=True))
    with pytest.raises(ValueError, match="no constant-velocity of ade_px in driving"):
        judge_all(rows[rows["model"] != "constant-velocity"])
    copied = rows[rows["model"] == "copy-last-frame"]
    with pytest.raises(ValueError, match="copy-last-frame of ade_px in driving twice: give the rows of each reference once"):
        judge_all(pd.concat([rows, copied], ignore_index=True))


def test_alignment_is_read_on_the_clips_that_have_a_value_everywhere() -> None:
    """A clip whose agents are lost at one checkpoint would change the mean there, and so ρ."""
    effects = {("", 0.0, target): LOSES for target in ("driving", "driving-repetitive", *edition.FAMILIES)}
    rows = made_up(effects)
    (claim,) = (one for one in CLAIMS if isinstance(one, AlignmentClaim))
    before = judged(rows, claim.name)
    is_hard = rows["scene"].isin(["scene 3"]) & (rows["measure"] == "ade_matched_px") & (rows["model"] == "fine-tuned")
    hard = rows.assign(value=rows["value"].where(~is_hard, rows["value"] + 500.0))
    lost = hard.assign(value=hard["value"].where(~(is_hard & (hard["step"] == 100))))
    without = rows[~(rows["scene"].isin(["scene 3"]) & (rows["measure"] == "ade_matched_px"))]
    assert judged(lost, claim.name).parts == judged(without, claim.name).parts
    assert judged(lost, claim.name).bases == before.bases == 6


def test_the_claims_name_their_runs_and_the_code_that_judges_has_a_digest() -> None:
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names) and {name.split(",")[0] for name in names} == {"C1", "C2", "C3", "C4"}
    wanted = {configuration for claim in CLAIMS for configuration in claim.configurations}
    assert {Configuration(), Configuration("near", 0.25), Configuration("far", 0.25)} <= wanted
    for claim in CLAIMS:
        if claim.name.startswith("C4"):
            assert replace(claim.configurations[0], replay="", replay_fraction=0.0) in claim.configurations
    assert len(edition.judging_code()) == 12 and int(edition.judging_code(), 16) >= 0
