"""What claims presuppose is measured on dev as the confirmatory runs are measured, and said claim by claim."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_bases import NONE, made_up

from replaylab.analysis import presuppositions
from replaylab.analysis.second_edition import CLAIMS, READINGS, judge_all
from replaylab.pages import preregistration as page
from replaylab.sweeps.presets import CONFIRMATORY, evaluation_of


@pytest.fixture
def every_domain(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    domains = tuple(dict.fromkeys(on for claim in CLAIMS if set(claim.measures) & {*READINGS} for on in claim.domains))
    assert set(domains) <= set(presuppositions.DOMAINS)
    monkeypatch.setattr(presuppositions, "DOMAINS", domains)
    return domains


def test_it_is_measured_as_the_runs_are_on_other_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presuppositions, "SECOND_BASES", (2, 3))
    of_runs = evaluation_of(CONFIRMATORY["confirmatory"])
    for spec in presuppositions.specs():
        here = spec.evaluation
        assert here.split == "dev" != of_runs.split
        for name in ("detector", "second_detector", "sampler_steps", "measured_in", "precision", "edition", "miss_cap_px"):
            assert getattr(here, name) == getattr(of_runs, name), name


@pytest.mark.parametrize(("ahead", "real"), [(1.0, 0.5), (-0.5, 0.5), (1.0, 2.0)])
def test_what_is_not_shown_is_what_leaves_claims_open(every_domain: tuple[str, ...], ahead: float, real: float) -> None:
    rows = made_up({NONE: {("ade", ""): 2.0}}, ahead=ahead, real=real)
    table = presuppositions.table(rows)
    assert len(table) == 3 * len(READINGS) * len(every_domain) and np.isfinite(table["difference"]).all()
    is_shown = table["high"] < 0
    assert set(table.loc[~is_shown, "against"]) == {
        *(["constant-velocity"] if ahead < 0 else []), *(["real"] if real > 1 else []),
    }  # fmt: skip
    said = page.expected_open(table)
    for claim, one in judge_all(rows):
        if one is not None and set(claim.measures) <= {*READINGS}:
            assert (f"**{claim.name}**, " in said) == (one.verdict == "undecided") == bool(one.why)
    shown = page.presuppositions(table).data
    assert len(shown) == len(READINGS) * len(every_domain) and len(shown.columns) == 5
    assert said.startswith("With 6 bases and 24 dev clips of each domain, ") and ("everything" in said) == is_shown.all()
