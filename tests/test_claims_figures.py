"""Verdicts as a table, a figure and sentences: what is missing says so, and the words are those of the numbers."""

from __future__ import annotations

import pytest
from test_claims import NEAR_ARM, NONE, made_up

from replaylab import claims_figures
from replaylab.claims import CLAIMS
from replaylab.claims_figures import MISSING


@pytest.fixture(scope="module")
def found():
    return claims_figures.judged(
        made_up({NONE: {"driving": -1.0, "kd": -5.0}, NEAR_ARM: {"driving-eventful": 2.0}})
    )


def test_every_claim_has_a_line_and_those_without_runs_say_so(found):
    table = claims_figures.verdict_table(found).data
    assert table["claim"].tolist() == [claim.name for claim in CLAIMS]
    verdicts = dict(zip(table["says"], table["verdict"], strict=True))
    assert (
        verdicts["fidelity improves"] == "holds" and verdicts["near replay keeps accuracy"] == "does not hold"
    )
    assert verdicts["accuracy degrades on ordinary driving"] == "does not hold"
    without = table[table["arm"].str.contains("far|driving-eventful")]
    assert set(without["verdict"]) == {MISSING} and set(without["change"]) == {"–"}


def test_sentences_give_the_verdict_its_interval_and_the_rule(found):
    said = claims_figures.standing(found)
    first = next(result for _, result in found if result is not None)
    assert claims_figures.in_words(first) in said and first.rule in said
    assert said.startswith("5 of 8 preregistered endpoints") and said.count(MISSING) == 3


def test_the_figure_has_a_panel_for_each_claim_that_was_judged(found):
    judged = [result for _, result in found if result is not None]
    panels = claims_figures.forest(found).axes
    assert len(panels) == len(judged)
    for panel, result in zip(panels, judged, strict=True):
        assert result.verdict in panel.get_title(loc="left")
        low, high = panel.get_xlim()
        assert low < result.interval.low <= result.interval.high < high and low <= result.margin <= high
    (empty,) = claims_figures.forest([(claim, None) for claim in CLAIMS]).axes
    assert "No claim has its runs yet" in empty.texts[0].get_text()
