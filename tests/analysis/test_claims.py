"""Verdicts from made-up rows whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_rows import BASES, NEAR_CONFIGURATION, NONE, SCENES, made_up

from replaylab.analysis import claims, statistics
from replaylab.analysis.claims import CLAIMS, Configuration

FIDELITY, PAPERS, OURS, APART, NEAR, *_ = CLAIMS


@pytest.mark.parametrize(("ordinary", "eventful", "kd", "verdicts_of"), [
    (1.0, 2.0, -5.0, ("holds", "holds", "holds")),
    (-1.0, 2.0, -5.0, ("holds", "does not hold", "holds")),
    (0.0, -2.0, 5.0, ("does not hold", "undecided", "does not hold")),
])  # fmt: skip
def test_a_claim_is_judged_by_the_change_that_was_put_in(ordinary, eventful, kd, verdicts_of):
    rows = made_up({NONE: {"driving": ordinary, "driving-eventful": eventful, "kd": kd}})
    judged = [claims.judge(rows, claim) for claim in (FIDELITY, PAPERS, OURS)]
    assert tuple(one.verdict for one in judged) == verdicts_of
    for one, effect in zip(judged, (kd, ordinary, eventful), strict=True):
        assert one.interval.estimate == pytest.approx(effect, abs=0.15) and one.interval.n == 5
        assert one.interval.low <= effect <= one.interval.high


@pytest.mark.parametrize(("loss", "verdict"), [(0.05, "holds"), (2.0, "does not hold"), (0.4, "undecided")])
def test_keeping_is_losing_less_than_a_tenth_of_what_there_is_to_lose(loss, verdict):
    rows = made_up({NEAR_CONFIGURATION: {"driving-eventful": loss}})
    judged = claims.judge(rows, NEAR)
    assert judged.margin == pytest.approx(0.1 * (7 - 3), abs=1e-9)
    assert judged.verdict == verdict and f"{judged.margin:.4g}" in judged.rule


def test_bases_that_disagree_leave_a_claim_undecided():
    rows = made_up({NEAR_CONFIGURATION: {"driving-eventful": 0.0}}, of_base=(-3.0, 0.6))
    judged = claims.judge(rows, NEAR)
    assert judged.verdict == "undecided" and "two bases" in judged.why
    assert judged.of_bases["one"] < judged.margin < judged.of_bases["two"]


def test_a_base_that_knows_nothing_of_motion_has_nothing_to_lose():
    rows = made_up({NONE: {"driving-eventful": 2.0}})
    rows.loc[(rows["model"] == "copy-last-frame") & (rows["measure"] == "ade_px"), "value"] = 2.0
    judged = claims.judge(rows, OURS)
    assert judged.verdict == "undecided" and "copied last frame" in judged.why and judged.interval.low > 0


def test_fewer_seeds_get_no_verdict_and_fewer_than_two_none_at_all():
    effect = {NONE: {"driving": 2.0}}
    assert claims.judge(made_up(effect, seeds={0: "one", 1: "one", 3: "two"}), PAPERS).verdict == "exploratory"
    assert claims.judge(made_up(effect, seeds={0: "one"}), PAPERS) is None
    assert claims.judge(made_up({}), APART) is None


def test_alignment_is_of_gains_within_a_run_and_compared_seed_by_seed():
    regular = {"driving-eventful": 2.0, "kd": -5.0}  # looks better, moves worse
    diverse = {"driving-eventful": -2.0, "kd": -5.0}
    rows = made_up({NONE: regular, ("", 0.0, "driving-eventful"): diverse})
    assert (claims.alignments(rows, Configuration(), "driving-eventful") == -1).all()
    judged = claims.judge(rows, APART)
    assert judged.interval.estimate == pytest.approx(2) and judged.verdict == "holds"


def test_an_interval_is_that_of_seeds_and_scenes_and_misses_are_left_out_for_all():
    rows = made_up({NONE: {"driving": 1.0}})
    gone = (rows["scene"] == "scene 3") & (rows["measure"] == "ade_px") & (rows["seed"] == 2)
    rows.loc[gone, "value"] = np.nan
    table, bases = claims.changes(rows, Configuration(), "ade_px", "driving")
    assert table.shape == (5, SCENES - 1) and bases == list(BASES.values())
    assert claims.judge(rows, PAPERS).interval == statistics.seeds_and_scenes(table)


def test_what_cannot_be_compared_is_refused():
    rows = made_up({NONE: {"driving": 1.0}})
    with pytest.raises(ValueError, match="from the base two without that base's own ade_px in driving"):
        claims.judge(rows[~((rows["model"] == "base") & (rows["base"] == "two"))], PAPERS)
    with pytest.raises(ValueError, match="ade_px in driving: the runs and their bases have other clips"):
        claims.judge(rows[~((rows["model"] == "base") & (rows["scene"] == "scene 3"))], PAPERS)


def test_the_claims_are_those_that_were_written_down():
    names = [claim.name for claim in CLAIMS]
    assert names == ["C1", "C2", "C2, ours", "C3", "C4, near", "C4, far", "C4, near", "C4, far"]
    assert {claim.keeps for claim in CLAIMS if claim.name.startswith("C4")} == {True}
    assert replace(APART, against=None).configuration.name == "replay 0 %, target driving-eventful"


@pytest.mark.parametrize("claim", [PAPERS, NEAR, APART], ids=lambda claim: claim.name)
def test_runs_of_one_configuration_that_end_at_different_steps_are_refused(claim):
    rows = made_up({NONE: {"driving": 1.0}, NEAR_CONFIGURATION: {}, ("", 0.0, "driving-eventful"): {}})
    of = claim.configuration
    longer = rows["model"].eq("fine-tuned") & rows["replay_fraction"].eq(of.replay_fraction) & rows["target"].eq(of.target)
    later = rows[longer & rows["seed"].eq(1) & rows["step"].eq(300)].assign(step=400)
    with pytest.raises(ValueError, match=r"end at different steps \(.*0.* at 300, .*1.* at 400"):
        claims.judge(pd.concat([rows, later]), claim)
    with pytest.raises(ValueError, match=r"end at different steps \(another run at 400, .* at 300"):
        claims.judge(pd.concat([rows, later.assign(run="another run")]), claim)


def test_another_configuration_that_trains_longer_changes_no_verdict():
    """Replay that shows as much driving takes more steps than replay 0 %: each run is read at its own end."""
    rows = made_up({NONE: {"driving": 1.0}, NEAR_CONFIGURATION: {"driving-eventful": 0.1}})
    expected = [claims.judge(rows, claim) for claim in (PAPERS, NEAR)]
    near = rows["model"].eq("fine-tuned") & rows["replay_fraction"].eq(0.25)
    longer = pd.concat([rows[~near], rows[near].assign(step=rows.loc[near, "step"] * 2)])
    assert [claims.judge(longer, claim) for claim in (PAPERS, NEAR)] == expected


def test_two_runs_of_one_seed_are_refused():
    rows = made_up({NONE: {"driving": 1.0}})
    again = rows[rows["model"].eq("fine-tuned") & rows["seed"].eq(0)].assign(run="again")
    with pytest.raises(ValueError, match="two runs of replay 0 % for one seed and base"):
        claims.judge(pd.concat([rows, again]), PAPERS)
