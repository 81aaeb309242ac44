"""The tables of the second edition's preregistration, reckoned from what was published."""

from __future__ import annotations

import pytest

from replaylab.analysis import design
from replaylab.analysis.second_edition import CLAIMS
from replaylab.pages import second_edition as page


@pytest.fixture(scope="module")
def endpoints() -> list[design.Endpoint]:
    return page.first_edition()


def test_the_tables_show_every_claim_whose_runs_were_published(endpoints) -> None:
    claims = page.claims().data
    assert list(dict.fromkeys(claims["claim"])) == [claim.name for claim in CLAIMS]
    power = page.power(endpoints).data
    assert set(power["claim"]) <= set(claims["claim"]) and len(power) == len(endpoints)
    coverage = page.coverage(endpoints, trials=20).data
    assert len(coverage) == len(design.RATIOS) * sum(one.measure in page.COVERED for one in endpoints)


def test_the_words_name_what_cannot_be_told(endpoints) -> None:
    table, said = design.power_table(endpoints), page.in_words(endpoints)
    yes = (table["6 are enough"] == "yes").sum()
    assert f"tell {yes} of {len(table)} contrasts" in said
    assert said.count("): ") == len(table) - yes


def test_keeping_has_a_line_for_each_margin_and_one_for_what_it_presupposes() -> None:
    near = page.claims().data.set_index("claim").loc["C4, near"]
    assert list(near["statement"]) == ["near replay keeps accuracy"] * 2 + ["presupposes"]
    assert list(near["holds if"]) == ["below 0", "below 0", "above 0"]
    assert "−0.25 × replay 0 %" in near["contrast"].iloc[1]
