"""The page of the second edition, from made-up runs whose effects are known."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import csv_files
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from executed_pages import run_here
from made_up_bases import NEAR, NONE, made_up

from replaylab.analysis import claims
from replaylab.analysis.second_edition import CLAIMS
from replaylab.analysis.statistics import describe
from replaylab.catalogue import measure_of
from replaylab.pages import first_page
from replaylab.pages import second_edition as page
from replaylab.pages.second_edition import SecondEdition
from replaylab.pages.verdicts import MISSING, TOO_FEW
from replaylab.sweeps.sweep import Table


def of_rows(rows: pd.DataFrame) -> SecondEdition:
    runs = pd.DataFrame({"run": ["one", "two"], "state": ["missing", "missing"]})
    return SecondEdition(Table("confirmatory", "test", Path("store"), rows, runs, ()))


@pytest.fixture(scope="module")
def made() -> SecondEdition:
    ordinary = {("ade", "driving"): -1.0, ("ade", "driving-eventful"): 2.0, ("kd", ""): -8.0}
    return of_rows(made_up({NONE: ordinary, NEAR: {("ade", ""): 0.02, ("kd", ""): -2.0}}))


def test_every_claim_has_a_verdict_with_what_it_is_of(made: SecondEdition) -> None:
    table = page.verdicts(made).data.set_index("claim")
    assert list(table.index) == [claim.name for claim in CLAIMS]
    expected = {
        "C1": "supported", "C2": "contradicted", "C2, eventful": "supported", "C4, near": "supported",
        "C4, near, quality": "contradicted", "C4, far": MISSING, "C3": MISSING,
    }  # fmt: skip
    assert {name: table.loc[name, "verdict"] for name in expected} == expected
    near = table.loc["C4, near"]
    assert near["change"].count("; ") == 5 and near["bases"] == "6" and near["not shown"] == "–"
    parts = next(one.parts for claim, one in made.found if claim.name == "C4, near" and one is not None)
    assert all(describe(part.interval, measure_of(part.measure).digits) in near["change"] for part in parts)
    (saved,) = csv_files.files_of(str(page.verdicts(made)._repr_html_())).values()
    saved = saved[saved["claim"] == "C4, near"]
    assert not csv_files.intervals_as_text(saved)
    np.testing.assert_allclose(saved["change"], [part.interval.estimate for part in parts], rtol=1e-5)
    np.testing.assert_allclose(saved["change, high"], [part.interval.high for part in parts], rtol=1e-5)


def test_sentences_count_verdicts_and_give_the_rule(made: SecondEdition) -> None:
    said = page.in_sentences(made)
    assert said.startswith(f"5 of {len(CLAIMS)} claims are supported or contradicted.")
    assert said.count(MISSING) + said.count(TOO_FEW) == sum(one is None for _, one in made.found)
    assert f"Holm's adjustment over {len(CLAIMS)} claims" in said


def test_what_was_not_shown_is_said() -> None:
    behind = of_rows(made_up({NONE: {("ade", ""): 2.0}}, ahead=-0.5))
    table = page.verdicts(behind).data.set_index("claim")
    assert table.loc["C2", "verdict"] == "inconclusive"
    assert (
        "it is not shown that the bases are better than constant velocity on ordinary driving (ADE)"
        in table.loc["C2", "not shown"]
    )
    assert "Inconclusive: it is not shown that the bases" in page.in_sentences(behind)
    assert page.in_sentences(behind).count("; supported but for what is presupposed") == 2
    assert page.cards(behind).data.count("supported but for what is presupposed") == 2
    (saved,) = csv_files.files_of(str(page.verdicts(behind)._repr_html_())).values()
    assert set(saved.loc[saved["claim"] == "C2", "by intervals alone"]) == {"supported"}


def test_the_opening_counts_verdicts_and_runs(made: SecondEdition) -> None:
    said = page.opening(made)
    words = list(page.verdicts(made).data["verdict"])
    assert f"**Of {len(CLAIMS)} claims**: **{words.count('supported')} supported**" in said
    assert f"**{words.count(MISSING)} {MISSING}**" in said and "0 of 2 are complete" in said


def test_pages_of_the_first_edition_say_the_verdicts_of_a_published_second(
    made: SecondEdition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "read", lambda: made)
    monkeypatch.setattr(page, "newest_edition", lambda: "first")
    assert page.beside(["C2"]) == []
    monkeypatch.setattr(page, "newest_edition", lambda: "second")
    said = page.beside(["C2"])
    assert [one.split("**")[1] for one in said] == [claim.name for claim in CLAIMS if claim.name.startswith("C2")]
    assert "**contradicted**. ADE" in said[0] and f"**{MISSING}**" in said[2]
    assert "ρ" in page.beside(["C3"])[0] or MISSING in page.beside(["C3"])[0]


def test_the_first_page_shows_either_edition(made: SecondEdition) -> None:
    shown = replace(first_page.read("first"), edition="second", every=made.table)
    cards = first_page.cards(shown).data
    assert cards.count('class="rl-card ') == len(CLAIMS) + 3 and cards.count(f'href="{page.PAGE}.html"') == len(CLAIMS)
    judged = {claim.name: one for claim, one in made.found if one is not None}
    for one in first_page.effects(made.table.rows):
        name = {"effnet_kd": "C1", "ade_px": "C2" if one.domain == "driving" else "C2, eventful"}[one.measure]
        assert judged[name].parts[0].interval == one.without  # the same effect has the same interval everywhere
    assert "All runs start from 6 bases." in first_page.caveats(shown) and "C3 depends" not in first_page.caveats(shown)


def test_a_card_shows_an_effect_with_the_sign_of_its_verdict(made: SecondEdition) -> None:
    """Also where one contrast of a claim lies on each side: near replay loses less than a quarter of what plain fine-tuning
    loses, and more than a tenth of the way to copying.
    """
    shown = page.cards(made).data
    assert shown.count('class="rl-card ') == len(CLAIMS) and (ROOT / "book" / f"{page.PAGE}.ipynb").is_file()
    both_sides = of_rows(made_up({NONE: {("ade", ""): 9.0}, NEAR: {("ade", ""): 1.0}}))
    verdicts = set()
    for claim, one in (*made.found, *both_sides.found):
        if one is not None and one.verdict in ("holds", "does not hold"):
            verdicts.add((claim.name, one.verdict))
            is_above = page.shown_part(one).interval.estimate > 0
            assert is_above == ((claim.side == "above") == (one.verdict == "holds")), claim.name
    assert ("C4, near", "holds") in verdicts and ("C4, near", "does not hold") in verdicts
    assert page._described(page.shown_part(next(one for _, one in made.found if one is not None))) in shown


def test_too_few_runs_are_not_none(made: SecondEdition) -> None:
    one_base = of_rows(made_up({NONE: {("ade", ""): 2.0}}, bases=("base 0",)))
    words = page.verdicts(one_base).data.set_index("claim")["verdict"]
    assert words["C2"] == TOO_FEW and words["C2, natural"] == MISSING
    assert TOO_FEW in page.opening(one_base)


def test_the_figure_has_every_interval_and_every_base(made: SecondEdition) -> None:
    figure = page.forest(made)
    parts = [part for _, one in made.found if one is not None for part in one.parts]
    lines = [np.asarray(line.get_xdata(), float) for axes in figure.axes for line in axes.lines]
    drawn = {tuple(np.round(line, 9)) for line in lines if len(line) == 2}
    assert all(tuple(np.round((part.interval.low, part.interval.high), 9)) in drawn for part in parts)
    assert sum(len(line) == 6 for line in lines) == len(parts)
    assert page.forest(SecondEdition(Table("", "test", Path("store"), made.table.rows[:0], made.table.runs, ()))).texts


def test_claims_stand_beside_those_of_the_first_edition(made: SecondEdition) -> None:
    table = page.both_editions(made).data.set_index("claim")
    assert set(page.DIFFERENCES) == set(table.index)
    of_first = {claim.statement for claim in claims.CLAIMS}
    new = table.index[table["first edition"] == "–"]
    assert set(new) == {"C2, natural", "C4, near, unseen"}
    assert set(table.loc[table.index.difference([*new, "C3"]), "statement"]) == of_first - {claims.CLAIMS[3].statement}


def test_the_notebook_runs_whatever_has_been_run(made: SecondEdition, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = replace(made.table, rows=made.table.rows[made.table.rows["model"] != "fine-tuned"])
    for one in (made, SecondEdition(nothing)):
        monkeypatch.setattr(page, "read", lambda store, one=one: one)
        assert run_here(page.PAGE)["made"] is one
    assert MISSING in page.opening(one) and page.verdicts(one)._repr_html_()


def test_what_is_published_is_read_and_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("replaylab.pages.preloaded")
    monkeypatch.setattr(page.first, "read_together", lambda *_: pytest.fail("it is read again"))
    monkeypatch.setattr(page.second_edition, "judge_all", lambda *_: pytest.fail("it is judged again"))
    assert page.read().found is page.read().found
    read = object()
    monkeypatch.setattr(page.first, "read_together", lambda presets, store, measures: (read, store))
    assert page.read(tmp_path).table == (read, tmp_path)  # a store of one's own may have grown
