"""The pages on another world and another family: the claims asked again, beside the first's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import csv_files
import named_weights
import numpy as np
import pandas as pd
import pytest
from executed_pages import shown
from kept_clips import captions, keep_of_runs
from made_up_configurations import write_references, write_run

from replaylab.analysis import configurations
from replaylab.analysis.claims import CLAIMS
from replaylab.analysis.configurations import DYNAMICS, FIDELITIES, Configurations
from replaylab.analysis.statistics import FEW, describe
from replaylab.pages import generalisation, own_results
from replaylab.pages.generalisation import AS_CLAIMED, FAMILY, FIRST, OTHER_WAY, WORLD, Generalisation
from replaylab.store import base_curve, locations
from replaylab.sweeps.presets import PRESETS, grid

EFFECTS = {("", 0.0): (-5.0, 1.0), ("near", 0.1): (-4.6, 0.6), ("far", 0.1): (-4.5, 0.7),
           ("near", 0.25): (-4.2, 0.1), ("far", 0.25): (-4.0, 0.9)}  # fmt: skip
PAGES = {
    "second-world": ("07_second_world", WORLD, 15, "country", ["plane-figure", "fractions-figure"]),
    "second-family": ("08_architectures", FAMILY, 9, "driving", ["bases-figure", "plane-figure"]),
}
"""By preset: the page, what differs on it, its runs, its target and its figures."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both presets, whole."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for preset in PAGES:
        runs = grid(preset)
        write_references(runs, folder)
        for run in runs:
            write_run(run, folder, EFFECTS[run.replay.name, run.replay.fraction])
    return folder


@pytest.fixture(scope="module", params=list(PAGES))
def made(store: Path, request: pytest.FixtureRequest) -> Generalisation:
    """Where both are the same."""
    read = generalisation.read(request.param, store=store)
    return replace(read, first=as_first(read.second))


def as_first(second: Configurations) -> Configurations:
    """The same rows, as if they were of the first."""
    names = dict(zip((second.ordinary, second.eventful), FIRST, strict=True))
    rows = second.rows.replace({"domain": names, "target": names})
    return replace(second, preset="published", ordinary=FIRST[0], eventful=FIRST[1], rows=rows)


def test_the_second_editions_runs_stand_beside_its_own_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without replay are those of another preset, and no seed is advised that has no base."""
    named_weights.install(monkeypatch, tmp_path / "weights")
    for preset in ("natural-replay", "confirmatory-natural", "confirmatory"):
        runs = [run for run in grid(preset, seeds=[12, 13]) if run.replay.name in ("", "near", "far")]
        write_references(runs, tmp_path)
        for run in runs:
            write_run(run, tmp_path, EFFECTS[run.replay.name, run.replay.fraction])
    made = generalisation.read("natural-replay", seeds=[12, 13], store=tmp_path)
    assert made.first.preset == "confirmatory" and made.second.names == made.first.names and made.differs == WORLD
    assert made.own is not None and made.own.presets == ["confirmatory-natural", "natural-replay"]
    assert "6 of 6 runs complete" in own_results.banner(made.own)
    assert all(one.published is None for one in made.own.effects), "the sweep of this store is not published"
    assert "--seeds 12 13 14" in str(own_results.next_steps(made.own).data)  # type: ignore[union-attr]
    for preset in made.own.presets:
        monkeypatch.setitem(PRESETS, preset, replace(PRESETS[preset], seeds=(12, 13), bases=(2, 3)))
    assert "Intervals" not in str(own_results.next_steps(made.own).data)  # type: ignore[union-attr]


def without_runs(some: Configurations) -> Configurations:
    return replace(some, rows=some.rows.iloc[:0], runs=some.runs.assign(state="missing"))


def test_the_claims_are_those_of_the_preregistration_on_the_second_s_clips(made: Generalisation) -> None:
    _, differs, _, target, _ = PAGES[made.second.preset]
    asked = [claim for claim, _ in made.judged]
    kept = [claim for claim in CLAIMS if claim.measure != "alignment"]
    assert [claim.statement for claim in asked] == [claim.statement for claim in kept]
    assert [claim.name for claim in asked] == [f"{differs.claim}, {claim.name}" for claim in kept]
    assert {claim.configuration.target for claim in asked} == {target}
    assert {claim.domain for claim in asked} == {target, f"{target}-eventful"}
    assert all(result is not None and result.interval.n == 3 for _, result in made.judged)


@pytest.mark.parametrize("preset", ["smoke", *PAGES])
def test_only_the_second_family_differs_in_its_family(preset: str, tmp_path: Path) -> None:
    made = generalisation.read(preset, store=tmp_path)
    assert made.differs == (FAMILY if preset == "second-family" else WORLD)
    assert (PRESETS[preset].family != "wan") == (made.differs == FAMILY)
    for one, title in (("second", made.second.title), ("first", made.first.title)):
        assert f"the {one} {made.differs.one}" in title


def test_what_does_the_same_says_the_same(made: Generalisation) -> None:
    table, one = generalisation.claims_table(made).data, made.differs.one
    assert table[f"second {one}"].tolist() == table[f"first {one}"].tolist()
    assert table[f"change, second {one}"].tolist() == table[f"change, first {one}"].tolist()
    assert table["claim"].tolist() == [claim.name for claim in CLAIMS if claim.against is None]
    by = dict(zip(table["statement"], table[f"second {one}"], strict=True))
    assert by["fidelity improves"] == by["near replay keeps accuracy"] == AS_CLAIMED
    assert by["far replay keeps accuracy"] == OTHER_WAY
    assert csv_files.check(str(generalisation.claims_table(made)._repr_html_())) == 1
    said = generalisation.summary(made)
    assert f"**Both {made.differs.both}**" in said and "the same result in 7" in said
    assert "whatever the interval" not in said
    looks = [line for line in said.splitlines() if "Fidelity without replay" in line]
    assert len(looks) == 2 and [line.split(": ", 1)[1] for line in looks] == [looks[0].split(": ", 1)[1]] * 2
    for label in FIDELITIES:
        change = made.second.change("replay 0 %", label)
        assert f"{label} {describe(change, configurations.digits_of(label))}, better" in looks[0]


def test_what_parts_is_told(made: Generalisation) -> None:
    rows = made.first.rows.copy()
    moved = (rows["model"] == "fine-tuned") & (rows["measure"] == "ade_px")
    rows.loc[moved, "value"] -= 3 * rows.loc[moved, "step"] / 300  # there, all get better
    said = generalisation.summary(replace(made, first=replace(made.first, rows=rows)))
    assert "opposite results in 3" in said and "accuracy degrades on eventful driving" in said


def test_the_figure_has_each_kind_from_no_replay_up(made: Generalisation) -> None:
    figure, one = generalisation.over_fractions(made), made.differs.one
    panel = figure.axes[generalisation.PANELS.index(DYNAMICS)]
    solid = [line for line in panel.lines if line.get_linewidth() == 1.8]
    fractions = PRESETS[made.second.preset].replay_fractions
    for line, kind in zip(solid, ("near", "far"), strict=True):
        effects = [EFFECTS[kind if share else "", share][1] for share in fractions]
        expected = np.stack([100 * np.array(fractions), effects], axis=1)
        np.testing.assert_allclose(np.asarray(line.get_xydata()), expected, atol=0.1)
    assert f"second {one}" in figure.get_suptitle()
    assert f"first {one}" in [text.get_text() for text in figure.legends[0].get_texts()]
    counts = generalisation.both_effects(made)[one].value_counts().to_dict()
    assert counts == dict.fromkeys(("second", "first"), len(made.second.effects))


def test_what_is_missing_is_said(made: Generalisation) -> None:
    runs, one = PAGES[made.second.preset][2], made.differs.one
    nothing = without_runs(made.second)
    half = replace(made, first=nothing)
    table = generalisation.claims_table(half).data
    assert set(table[f"first {one}"]) == {"not run yet"} and set(map(str, table[f"change, first {one}"])) == {"–"}
    assert "one or both cannot tell in 7" in generalisation.summary(half)
    empty = replace(half, second=nothing)
    said = generalisation.summary(empty)
    assert f"Claim {made.differs.claim}: not run yet, 0 of {runs} runs" in said
    assert f"0 of {runs} runs" in generalisation.over_fractions(empty).texts[0].get_text()
    two = made.second.runs.assign(state=made.second.runs["seed"].map({0: "done", 1: "done", 3: "missing"}))
    rows = made.second.rows[made.second.rows["seed"] != 3]
    few = replace(half, second=replace(made.second, rows=rows, runs=two))
    assert set(generalisation.claims_table(few).data[f"second {one}"]) == {FEW}
    part = f"{2 * runs // 3} of {runs} runs are complete"
    assert part in generalisation.over_fractions(few).get_suptitle()


def test_an_opening_has_every_question_and_no_verdict(made: Generalisation) -> None:
    said, runs = generalisation.opening(replace(made, own=None)), PAGES[made.second.preset][2]
    assert said.count("**exploratory**") == len(CLAIMS) and "supported if" not in said.lower()
    assert f"{runs} of {runs} are complete" in said and f"- **{made.differs.claim}, C1**" in said


def test_a_reader_s_own_runs_stand_beside_the_published_ones(made: Generalisation, store: Path) -> None:
    assert generalisation.read(made.second.preset).own is None
    runs, said = PAGES[made.second.preset][2], generalisation.opening(made, store)
    assert f"preset *{made.second.preset}*, {runs} of {runs} runs complete" in said and "**It took**" in said
    assert "300 steps of fine-tuning with 0 %, " in said and "3 seeds" in said and "directions agree" in said
    assert "too few" not in said and "claim" not in said
    assert made.own is not None
    effects = {one.effect: one for one in made.own.effects}
    assert len(effects) == 6
    of_published = generalisation.read(made.second.preset).second
    for label in (FIDELITIES[0], configurations.ORDINARY_DYNAMICS, DYNAMICS):
        without = effects[f"{label}: fine-tuning without replay"]
        assert without.own == made.second.change("replay 0 %", label)
        assert without.published == of_published.change("replay 0 %", label)
        replay = effects[f"{label}: near replay 25 % − replay 0 %"]
        assert replay.own == made.second.difference("near replay 25 %", "replay 0 %", label)
        assert replay.published == of_published.difference("near replay 25 %", "replay 0 %", label)


def test_the_clips_at_the_top_are_of_the_main_comparison_in_one_seed(made: Generalisation) -> None:
    assert made.own is not None and made.own.shown_domain == made.second.eventful
    chosen = made.own.find_shown()
    assert list(chosen) == ["replay 0 %", "near replay 25 %", "far replay 25 %"]
    runs = made.second.runs.set_index("run")["configuration"]
    assert all(runs[spec.run_id] == name and spec.seed == made.second.named[0][0].seed for name, spec in chosen.items())


def test_a_part_of_the_runs_is_compared_as_far_as_it_goes(store: Path, tmp_path: Path) -> None:
    runs = grid("second-world", [0.0, 0.1], [0])
    write_references(runs, tmp_path)
    for run in runs[:2]:
        write_run(run, tmp_path, EFFECTS[run.replay.name, run.replay.fraction])
    part = generalisation.read("second-world", [0.0, 0.1], [0], tmp_path)
    assert part.own is not None and list(part.own.find_shown()) == ["replay 0 %", "near replay 10 %"]
    said = generalisation.opening(part)
    assert "2 of 3 runs complete" in said and "1 seed" in said and "a direction may be chance" in said
    assert len(part.own.effects) == 6
    assert all(np.isnan(one.own.low) for one in part.own.effects)
    followed = str(own_results.next_steps(part.own).data)  # type: ignore[union-attr]
    assert "**The missing runs**: 1 run, about" in followed and "3 seeds: 6 runs more" in followed
    assert "--preset second-world --replay-fractions 0 0.1 --seeds 0 1 3 --store" in followed
    assert '-y "seeds: [0, 1, 3]" -y "replay_fractions: [0, 0.1]" -p store' in followed


def test_both_bases_are_drawn_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second's errors are here a third of the first's, after half the steps."""
    curve = base_curve()
    learnt = curve["model"] == "base"
    ours = curve.assign(value=curve["value"].where(~learnt, curve["value"] / 3))
    ours["step"] = ours["step"].where(~learnt, ours["step"] // 2)
    for base, of in (("base", curve), ("base-cogvideox", ours)):
        (tmp_path / base).mkdir()
        of.to_csv(tmp_path / base / "curve.csv", index=False)
    monkeypatch.setattr(locations, "WEIGHTS", tmp_path)
    second, first = (
        Configurations(preset, "", *FIRST, pd.DataFrame(), pd.DataFrame()) for preset in ("second-family", "published")
    )
    family = Generalisation(second, first, FAMILY)
    figure, values = generalisation.base_curves(family), generalisation.both_curves(family)
    drawn = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    for base in ("base", "base-cogvideox"):
        of_base = values[(values["base"] == base) & (values["model"] == "base")]
        assert set(of_base["domain"]) == {"near", "driving-eventful"}
        for _, of in of_base.groupby("domain"):
            assert any(np.array_equal(line, of[["step", "value"]]) for line in drawn)
    last = curve[learnt & (curve["domain"] == "near") & (curve["measure"] == "ade_px")].iloc[-1]
    said = generalisation.bases_summary(family)
    assert f"{last['value'] / 3:.2f} px after {last['step'] // 2} steps" in said
    assert f"first at {last['value']:.2f} px after {last['step']}" in said


@pytest.mark.parametrize("preset", ["second-world", pytest.param("second-family", marks=pytest.mark.slow)])
def test_the_page_shows_what_a_store_has(preset: str, store: Path, tmp_path: Path) -> None:
    page, differs, runs, target, drawn = PAGES[preset]
    keep_of_runs(store, grid(preset, None, [0]), {target: ["95"], f"{target}-eventful": ["95"]})
    cells = shown(store, tmp_path / "out.ipynb", page)
    assert [name for name, data in cells.items() if "image/svg+xml" in data] == drawn
    assert f"{runs} of {runs} runs complete" in cells["opening"]["text/markdown"]
    assert "near replay 25 % − replay 0 %" in "".join(cells["own-effects"]["text/html"])
    clips = [title for title, _ in captions("".join(cells["own-clips"]["text/html"]))]
    assert clips == ["Truth", "Base", "Replay 0 %", "Near replay 25 %", "Far replay 25 %"]
    assert "The preregistered sweep" in "".join(cells["own-next"]["text/markdown"])
    assert f"**Both {differs.both}**, of 7 questions" in cells["found-text"]["text/markdown"]
    empty = shown(tmp_path / "store", tmp_path / "empty.ipynb", page)
    assert f"`python -m replaylab sweep --preset {preset} --store " in empty["opening"]["text/markdown"]
    assert f"That is {runs} runs, about" in empty["opening"]["text/markdown"]
    assert not {"own-effects", "own-clips", "own-next"} & set(empty)
    assert f"not run yet, 0 of {runs} runs" in empty["found-text"]["text/markdown"]
    assert all("image/svg+xml" in empty[name] for name in drawn)
