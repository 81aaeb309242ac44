"""The second edition's verdicts as a table and sentences, from made-up runs whose effects are known."""

from __future__ import annotations

import csv_files
import numpy as np
import pytest
from made_up_bases import NEAR, NONE, made_up

from replaylab.analysis.second_edition import CLAIMS, judge_all
from replaylab.analysis.statistics import describe
from replaylab.catalogue import measure_of
from replaylab.pages import second_edition as page
from replaylab.pages.verdicts import MISSING


@pytest.fixture(scope="module")
def found():
    ordinary = {("ade", "driving"): -1.0, ("ade", "driving-eventful"): 2.0, ("kd", ""): -8.0}
    return judge_all(made_up({NONE: ordinary, NEAR: {("ade", ""): 0.02, ("kd", ""): -2.0}}))


def test_every_claim_has_a_verdict_with_what_it_is_of(found) -> None:
    table = page.verdicts(found).data.set_index("claim")
    assert list(table.index) == [claim.name for claim in CLAIMS]
    expected = {
        "C1": "supported", "C2": "contradicted", "C2, eventful": "supported", "C4, near": "supported",
        "C4, near, quality": "contradicted", "C4, far": MISSING, "C3": MISSING,
    }  # fmt: skip
    assert {name: table.loc[name, "verdict"] for name in expected} == expected
    near = table.loc["C4, near"]
    assert near["change"].count("; ") == 5 and near["bases"] == "6" and near["not shown"] == "–"
    parts = next(one for claim, one in found if claim.name == "C4, near").parts
    assert all(describe(part.interval, measure_of(part.measure).digits) in near["change"] for part in parts)
    (saved,) = csv_files.files_of(str(page.verdicts(found)._repr_html_())).values()
    saved = saved[saved["claim"] == "C4, near"]
    assert not csv_files.intervals_as_text(saved)
    np.testing.assert_allclose(saved["change"], [part.interval.estimate for part in parts], rtol=1e-5)
    np.testing.assert_allclose(saved["change, high"], [part.interval.high for part in parts], rtol=1e-5)


def test_sentences_count_verdicts_and_give_the_rule(found) -> None:
    said = page.in_sentences(found)
    assert said.startswith(f"5 of {len(CLAIMS)} claims are supported or contradicted.")
    assert said.count(MISSING) == sum(one is None for _, one in found)
    assert f"Holm's adjustment over {len(CLAIMS)} claims" in said


def test_what_was_not_shown_is_said() -> None:
    behind = judge_all(made_up({NONE: {("ade", ""): 2.0}}, ahead=-0.5))
    table = page.verdicts(behind).data.set_index("claim")
    assert table.loc["C2", "verdict"] == "inconclusive"
    assert "not shown that the bases are better than constant-velocity in driving" in table.loc["C2", "not shown"]
    assert "Inconclusive because not shown that the bases" in page.in_sentences(behind)
