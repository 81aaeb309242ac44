"""The first page says what the numbers say, in the README too, and shows the clip that its rule chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from made_up_rows import NEAR_CONFIGURATION, NONE, made_up
from PIL import Image
from test_explorer import clip

from replaylab.analysis.claims import CLAIMS
from replaylab.analysis.statistics import Interval
from replaylab.cli.main import main
from replaylab.pages import first_page, moving_picture, sample_clips, verdicts
from replaylab.pages.first_page import ENDPOINTS, Change
from replaylab.pages.sample_clips import BASE, TRUTH

UP, DOWN, NEITHER = Interval(2.0, 1.0, 3.0, 5), Interval(-2.0, -3.0, -1.0, 5), Interval(0.5, -1.0, 2.0, 5)


def changes(regular: Interval, events: Interval, fidelity: Interval, with_replay: float = 0.5) -> list[Change]:
    """Replay changes everything by a share of what there is without it."""
    return [
        Change(*endpoint, 4.0, one, replace(one, estimate=with_replay * one.estimate))
        for endpoint, one in zip(ENDPOINTS, (regular, events, fidelity), strict=True)
    ]


def test_verbs_follow_the_intervals() -> None:
    said = first_page.sentence(changes(DOWN, UP, DOWN))
    assert said.count("**improves**") == 2 and said.count("**degrades**") == 1
    assert "keeps 50 % of the gain in fidelity and avoids 50 % of that loss" in said
    assert "ADE on eventful driving 4.00 → 6.00 px; 95 % interval of the change 1.00 to 3.00" in said
    said = first_page.sentence(changes(NEITHER, DOWN, UP))
    assert "no certain change" in said and said.count("**degrades**") == 1 and "keeps" not in said
    assert first_page.title_of_tradeoff(changes(NEITHER, DOWN, UP)) == ""
    assert "Not all runs" in first_page.sentence([])


def test_effects_are_those_of_the_verdicts() -> None:
    rows = made_up({NONE: {"driving": -1.0, "kd": -5.0, "driving-eventful": 2.0}, NEAR_CONFIGURATION: {"kd": -4.0}})
    found = first_page.effects(rows)
    assert [(one.measure, one.domain) for one in found] == list(ENDPOINTS)
    judged = {claim.name: result for claim, result in verdicts.judge_all(rows) if result is not None}
    of_claims = (judged["C2"], judged["C2, ours"], judged["C1"])
    for one, result in zip(found, of_claims, strict=True):
        assert (one.without.low, one.without.high) == (result.interval.low, result.interval.high)
    assert len(first_page.drawn(found)) == 2 * len(ENDPOINTS) and len(first_page.dumbbells(found).axes) == len(ENDPOINTS)


def test_the_clip_is_the_one_nearest_to_the_mean() -> None:
    versions = [
        replace(clip(sample_clips.OPENS_WITH, percentile, name, step, brightness=change), percentile=percentile)
        for percentile, changed in (("5", 1), ("50", 4), ("95", 9))
        for name, step, change in ((TRUTH, 0, 0), (BASE, 0, 0), ("fine-tuned", 300, changed))
    ]
    assert [sample_clips.nearest_to_the_mean(versions, mean) for mean in (0.0, 4.4, 20.0)] == ["5", "50", "95"]


def test_every_claim_has_a_card_with_its_verdict_and_a_page() -> None:
    cards = first_page.cards(first_page.read("first")).data
    assert cards.count('class="rl-card ') == len(CLAIMS) + 3 and cards.count("supported") >= 1
    for page in set(first_page.PAGES.values()):
        assert (ROOT / "book" / f"{page}.ipynb").is_file()


@pytest.fixture(scope="module")
def published() -> tuple[verdicts.Table, list[Change]]:
    every = first_page.read().every
    return every, first_page.effects(every.rows)


def test_the_readme_opens_with_the_sentence_and_the_moving_picture(published: tuple, tmp_path: Path) -> None:
    every, found = published
    readme = (ROOT / "README.md").read_text()
    assert " ".join(readme.split()).startswith(f"# replaylab {first_page.sentence(found)} ![")
    assert "](book/_static/four-panels.webp)" in readme
    there = ROOT / "book" / "_static" / "four-panels.webp"
    assert there.stat().st_size < 1e6
    shown = first_page.versions(every)
    chosen = first_page.chosen_clip(shown, found)
    moving_picture.write([one for one in shown if one.percentile == chosen], tmp_path / "again.webp")
    with Image.open(there) as old, Image.open(tmp_path / "again.webp") as new:
        assert old.n_frames == new.n_frames == 8 and old.size == new.size  # type: ignore[attr-defined]
        for frame in range(8):
            old.seek(frame)
            new.seek(frame)
            pixels = [np.asarray(one.convert("RGB"), float) for one in (old, new)]
            assert np.abs(pixels[0] - pixels[1]).mean() < 2, "make it again: python -m replaylab picture"


def test_a_picture_is_a_webp_of_one_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="several clips"):
        moving_picture.write([clip(percentile="5"), clip(percentile="95")], tmp_path / "four.webp")
    assert main(["picture", str(tmp_path / "four.gif")]) == 2 and "ends in .webp" in capsys.readouterr().err
