"""A reader's own run is compared with the published ones by direction, both numbers side by side."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from replaylab.analysis.claims import Configuration, changes
from replaylab.analysis.statistics import Interval
from replaylab.pages import own_results, own_run, verdicts
from replaylab.pages.own_results import Comparison
from replaylab.sweeps import sweep
from replaylab.sweeps.sweep import Table

ONE = Comparison("ADE", "ade_px", Interval(1.0, np.nan, np.nan, 1), None)


@pytest.fixture(scope="module")
def published() -> Table:
    return sweep.read("published", [0.0, 0.25], measures=verdicts.JUDGED)


def test_effects_are_changes_from_the_base_and_from_no_replay(published: Table) -> None:
    rows = published.rows[published.rows["replay"] != "far"]
    found = {(one.effect, one.measure): one for one in own_run.compared(replace(published, rows=rows), published.rows)}
    assert len(found) == 6
    for configuration, words in ((Configuration(), "without"), (Configuration("near", 0.25), "replay 25 % − replay 0 %")):
        of_clips, _ = changes(published.rows, configuration, "ade_px", "driving-eventful")  # type: ignore[misc]
        none, _ = changes(published.rows, Configuration(), "ade_px", "driving-eventful")  # type: ignore[misc]
        expected = of_clips.mean() - (none.mean() if "25" in words else 0)
        (one,) = (one for key, one in found.items() if key[0].startswith("ADE (px), eventful") and words in key[0])
        assert one.own.estimate == pytest.approx(expected)
        assert one.published is not None and one.published.estimate == pytest.approx(expected)


def test_what_is_published_is_no_run_of_a_reader_s(published: Table, tmp_path) -> None:
    assert not own_run.is_own(published) and own_run.next_steps(published) is None
    assert own_run.effects_table(published) is None
    assert own_run.clips_first(published) is None and "<figure" in own_run.clips(published).data
    assert own_run.is_own(replace(published, preset="quick", store=tmp_path))
    assert not own_run.is_own(replace(published, store=tmp_path))  # the preregistered runs once more have verdicts


def test_without_published_results_it_says_so(published: Table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = replace(published, preset="quick", store=tmp_path)
    monkeypatch.setattr(own_run, "_effects", lambda table: [ONE])
    monkeypatch.setattr(verdicts, "cost_in_words", lambda *_: "nothing.")
    assert "None of these effects is among the published ones" in own_run.opening(alone, [])
    monkeypatch.setattr(own_results, "published_folder", lambda: tmp_path / "results")
    assert "published results are not here" in own_run.opening(alone, [])
    assert own_run._effect(pd.DataFrame(), "ade_px", "driving") is None
