"""The tables of the second edition's preregistration, computed from what was published."""

from __future__ import annotations

import pytest
from conftest import ROOT

from replaylab.analysis import design
from replaylab.analysis.second_edition import CLAIMS, judging_code
from replaylab.pages import preregistration as page
from replaylab.sweeps.presets import CONFIRMATORY, SECOND_BASES


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
    table, said = design.power_table(endpoints, scenes=page.CLIPS), page.in_words(endpoints)
    yes = (table["6 are enough"] == "yes").sum()
    assert f"detect {yes} of {len(table)} contrasts" in said
    assert said.count("): ") == len(table) - yes


def test_keeping_has_a_line_for_each_margin_and_one_for_what_it_presupposes() -> None:
    near = page.claims().data.set_index("claim").loc["C4, near"]
    assert list(near["statement"]) == ["near replay keeps accuracy"] * 2 + ["presupposes"]
    assert list(near["holds if"]) == ["below 0", "below 0", "above 0"]
    assert "−0.25 × replay 0 %" in near["contrast"].iloc[1]


def test_the_preregistration_names_the_code_that_judges_and_everything_that_is_run() -> None:
    """Who changes this code after the first run must say so in an addition to the page, with the new digest."""
    text = (ROOT / "book/preregistration.md").read_text()
    assert f"has the digest `{judging_code()}`" in text
    assert f"have the digest `{page.digest_of_runs()}`" in text or not page.digest_of_runs()  # a base is missing
    runs = page.runs(CONFIRMATORY).data.set_index("preset")
    assert list(runs.index) == list(CONFIRMATORY)
    assert "25 % near, near-without-a, far; 0 %" in runs.loc["confirmatory", "replay"]
    assert runs.loc["confirmatory", "after the last"].endswith(f"{page.CLIPS} clips")
    assert set(page.bases().data["base"]) == {f"base-{seed}" for seed in SECOND_BASES}
