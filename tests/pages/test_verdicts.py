"""Verdicts as a table, a figure and sentences: what is missing says so, and the words are those of the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import csv_files
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made_up_rows import NEAR_CONFIGURATION, NONE, made_up

from replaylab.analysis.claims import CLAIMS
from replaylab.analysis.statistics import describe
from replaylab.catalogue import measure_of
from replaylab.pages import verdicts as verdicts_page
from replaylab.pages.verdicts import MISSING
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import PRESETS, grid

RESULTS = ROOT / "book" / "results"


@pytest.fixture(scope="module")
def found():
    return verdicts_page.judge_all(
        made_up({NONE: {"driving": -1.0, "kd": -5.0}, NEAR_CONFIGURATION: {"driving-eventful": 2.0}})
    )


def test_every_claim_has_a_line_and_those_without_runs_say_so(found):
    table = verdicts_page.verdict_table(found).data
    assert table["claim"].tolist() == [claim.name for claim in CLAIMS]
    verdicts = dict(zip(table["statement"], table["verdict"], strict=True))
    assert verdicts["fidelity improves"] == "supported" and verdicts["near replay keeps accuracy"] == "contradicted"
    assert verdicts["accuracy degrades on ordinary driving"] == "contradicted"
    without = table[table["configuration"].str.contains("far|fine-tuned on eventful driving")]
    assert set(without["verdict"]) == {MISSING} and set(map(str, without["change"])) == {"–"}


def test_the_file_of_the_verdicts_has_each_number_in_a_column_of_its_own(found):
    (saved,) = csv_files.files_of(str(verdicts_page.verdict_table(found)._repr_html_())).values()
    assert not csv_files.intervals_as_text(saved)
    for line, (_, result) in zip(saved.to_dict("records"), found, strict=True):
        numbers = [line["change"], line["change, low"], line["change, high"]]
        if result is None:
            assert np.isnan(numbers).all() and np.isnan(line["mean of base 1"])
        else:
            expected = [result.interval.estimate, result.interval.low, result.interval.high]
            np.testing.assert_allclose(numbers, expected, rtol=1e-5)
            bases = [line[f"mean of base {place}"] for place in range(1, len(result.of_bases) + 1)]
            np.testing.assert_allclose(bases, list(result.of_bases.values()), rtol=1e-5)


def test_sentences_give_the_verdict_its_interval_and_the_rule(found):
    said = verdicts_page.summary(found)
    first = next(result for _, result in found if result is not None)
    assert describe(first.interval, ".2f") in said and first.rule in said
    assert said.startswith("5 of 8 preregistered endpoints") and said.count(MISSING) == 3


def test_the_figure_has_a_block_for_each_measure_with_a_line_for_each_claim(found):
    judged = [(claim, result) for claim, result in found if result is not None]
    blocks = verdicts_page.forest(found).axes
    assert len(blocks) == len({claim.measure for claim, _ in judged})
    labels = [text.get_text() for axes in blocks for text in axes.texts]
    assert len(labels) == len(judged)
    for claim, result in judged:
        (axes,) = [one for one in blocks if one.get_xlabel() == f"change of {measure_of(claim.measure).name}"]
        assert any(claim.statement in text and text.endswith(verdicts_page.WORDS[result.verdict]) for text in labels)
        low, high = axes.get_xlim()
        assert low < result.interval.low <= result.interval.high < high and low <= result.margin <= high
    empty = verdicts_page.forest([(claim, None) for claim in CLAIMS])
    assert len(empty.axes) == 1 and "No claim has enough runs yet" in empty.texts[0].get_text()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs that are done, of an hour each."""
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        facts = {"seconds": 3600.0, "processors": 2, "machine": "x86_64", "execution": {"threads": 1, "device": "cpu"}}
        (tmp_path / run / "summary.json").write_text(json.dumps(facts))
    return tmp_path


def runs_of(done: int, fraction: float = 0.0) -> pd.DataFrame:
    """Five runs of a configuration, of which the first are done."""
    states = ["done"] * done + ["missing"] * (5 - done)
    return pd.DataFrame({"run": list("abcde"), "replay": "", "replay_fraction": fraction, "state": states})


def test_an_opening_has_verdict_effect_seeds_cost_and_command(found, store) -> None:
    said = verdicts_page.opening(found, ["C1", "C2"], runs_of(2), "make it", ["published"], store, ["beside"])
    (first,) = [result for claim, result in found if claim.name == "C1"]
    assert (
        f"- **C1**, fidelity improves: **supported**. EffNet-KD, ordinary driving: {describe(first.interval, '.2f')}" in said
    )
    assert "5 seeds" in said and said.count("**C2") == 2 and "C4" not in said and "- beside" in said
    assert "2 of 5 are complete" in said and "not complete yet" in said
    assert "2 runs, 2.0 hours in all" in said and "2 x86_64 processors, 1 thread a run" in said
    assert said.endswith("`make it`")


def test_an_opening_draws_no_verdict_from_other_presets_however_many_their_seeds(found, store) -> None:
    said = verdicts_page.opening(found, ["C1"], runs_of(2), "make it", ["pilot"], store)
    assert "fidelity improves: **exploratory**" in said and "give no verdict" in said and "supported" not in said.lower()


def test_an_opening_counts_the_runs_of_a_claim_that_lacks_them(store) -> None:
    nothing = [(claim, None) for claim in CLAIMS]
    said = verdicts_page.opening(nothing, ["C1"], runs_of(0), "make it", ["published"], store)
    assert f"**{MISSING}** (0 of 5 runs of replay 0 % are complete" in said and "no run is finished yet" in said
    said = verdicts_page.opening(nothing, ["C1"], runs_of(1), "make it", ["published"], store)
    assert "**too few runs** (1 of 5 runs of replay 0 % are complete" in said and MISSING not in said
    few = verdicts_page.judge_all(made_up({NONE: {"kd": -5.0}}, seeds={0: "one", 3: "two"}))
    said = verdicts_page.opening(few, ["C1"], runs_of(2), "make it", ["published"], store)
    assert "**exploratory**" in said and "no verdict (2 of 5 runs of replay 0 % are complete)" in said


def test_progress_names_the_configurations_that_are_not_whole() -> None:
    both = pd.concat([runs_of(5), runs_of(2, 0.25).assign(replay="near")]).assign(target="driving")
    said = verdicts_page.progress(both)
    assert "7 of 10 preregistered runs" in said and "near replay 25 %: 2 of 5" in said and "0 %:" not in said
    assert verdicts_page.progress(both.iloc[:5]) == "All **5** preregistered runs are complete."


def test_presets_together_hold_each_run_and_each_reference_once() -> None:
    presets = ("pilot", "pilot-diverse")
    both = verdicts_page.read_together(presets, RESULTS)
    keys = ["run", "base", "model", "step", "domain", "measure", "video"]
    assert not both.rows.duplicated(keys).any()
    assert list(both.runs["run"]) == [spec.run_id for spec in both.specs]
    assert [spec.run_id for preset in presets for spec in grid(preset)] == list(both.runs["run"])
    assert list(both.runs["target"]) == [spec.target.name for spec in both.specs]
    alone = sweep.read("pilot", store=RESULTS)
    of_one = verdicts_page.of_target(both, "driving")
    assert of_one.specs == alone.specs
    assert len(of_one.rows) == alone.rows["measure"].isin(verdicts_page.JUDGED).sum()
    assert verdicts_page.judge_all(of_one.rows) == verdicts_page.judge_all(alone.rows)
    with pytest.raises(ValueError, match="pilot, published do not measure the same split"):
        verdicts_page.read_together(("pilot", "published"), RESULTS)


def test_the_opening_of_a_preset_s_page_names_its_command_and_its_runs() -> None:
    said = verdicts_page.opening_of(sweep.read("pilot-diverse", store=RESULTS), ["C4"], "--seeds 0")
    assert said.endswith("- **Reproduce**: `python -m replaylab sweep --preset pilot-diverse --seeds 0 --store FOLDER`")
    assert said.count(MISSING) == 4 and "3 of 3 are complete (preset pilot-diverse; *dev* split)" in said


def test_a_store_without_anything_has_no_verdict_and_no_error(tmp_path: Path) -> None:
    nothing = verdicts_page.read_together(store=tmp_path)
    found = verdicts_page.judge_all(nothing.rows)
    assert [result for _, result in found] == [None] * len(CLAIMS)
    assert f"**0 of {len(nothing.runs)} preregistered runs" in verdicts_page.progress(nothing.runs)
    assert set(verdicts_page.verdict_table(found).data["verdict"]) == {MISSING}


def test_budgets_stand_side_by_side_and_say_what_is_not_run(tmp_path: Path) -> None:
    nothing, made = verdicts_page.budgets(tmp_path), verdicts_page.budgets(RESULTS)
    unmade, styled = verdicts_page.budgets_table(nothing), verdicts_page.budgets_table(made)
    assert unmade is not None and styled is not None
    table, shown = unmade.data, styled.data
    assert list(table["budget"]) == ["equal steps"] * 5 + ["equal driving samples"] * 4
    assert list(table["steps"]) == [300] * 5 + [334, 334, 400, 400]
    assert (table.iloc[:, 3:] == verdicts_page.MISSING).all(axis=None)
    assert "Not all runs" in verdicts_page.budgets_summary(nothing)
    assert verdicts_page.budgets_table(pd.DataFrame()) is None
    assert list(shown["configuration"]) == list(table["configuration"]) and not (shown == verdicts_page.MISSING).any(
        axis=None
    )
    said = verdicts_page.budgets_summary(made)
    assert all(str(cell) in said for cell in shown["ADE (px), eventful driving"].drop([*range(1, 5)]))
    assert csv_files.check(str(styled._repr_html_())) == 1


def test_a_preset_is_shown_with_the_runs_without_replay_that_another_has(monkeypatch):
    dose = sweep.read("dose", store=RESULTS, measures=["recall"])
    assert verdicts_page.with_runs_without_replay(dose, ["recall"]) is dose
    both = {"dose": replace(PRESETS["dose"], without_replay_in="published")}
    monkeypatch.setattr(verdicts_page, "PRESETS", PRESETS | both)
    shown = verdicts_page.with_runs_without_replay(dose, ["recall"])
    wanted = {spec.run_id for name in ("published", "dose") for spec in grid(name)}
    assert set(shown.runs["run"]) == wanted == {spec.run_id for spec in shown.specs} and len(shown.runs) == len(wanted)
    assert shown.preset == "dose" and set(shown.rows["measure"]) == {"recall"}
