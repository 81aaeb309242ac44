"""The page on simulated traffic says what the stored tables hold."""

from __future__ import annotations

import re

from replaylab.pages import natural_driving
from replaylab.worlds.named import NATURAL_DOMAINS
from replaylab.worlds.sumo import scenes, tracks, windows


def percentages(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) %", line)]


def test_shares_are_of_all_windows_of_both_places() -> None:
    said = natural_driving.shares_in_words().splitlines()
    found = tracks.shares()
    assert len(said) == found["drivers"].nunique() == 2
    for line, (drivers, of) in zip(said, found.groupby("drivers", sort=False), strict=True):
        assert drivers in line.lower()
        share, explained = percentages(line)
        for value, column in ((share, "eventful"), (explained, "explained_of_shown")):
            assert 100 * of[column].min() - 0.1 <= value <= 100 * of[column].max() + 0.1
        assert f"{of['windows'].sum():,}" in line
    regular, heterogeneous = (percentages(line)[0] for line in said)
    assert regular < heterogeneous


def test_tables_have_a_row_for_each_simulation_and_each_domain() -> None:
    assert len(natural_driving.shares().data) == len(tracks.shares())
    table = natural_driving.domains().data.set_index("domain")
    assert list(table.index) == list(NATURAL_DOMAINS)
    assert table.loc["natural", "test"] == len(scenes.order("natural", "test", 0))


def test_the_definition_of_an_event_has_the_thresholds_in_use() -> None:
    said = natural_driving.events_in_words()
    for value in (windows.AHEAD_M, windows.BRAKING_M_S2, windows.SIDEWAYS_M_S, windows.EXPLAINED_M):
        assert f"{value:g} m" in said
