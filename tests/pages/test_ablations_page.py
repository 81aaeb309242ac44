"""The page of the ablations: settings chosen as `ablations.best` does, sentences that follow the numbers, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import csv_files
import named_weights
import numpy as np
import pytest
from executed_pages import shown
from kept_clips import captions, keep_of_runs
from made_up_configurations import EFFECTS_OF, STEP_SECONDS, of_alternative, write_variations

from replaylab.analysis import configurations, statistics
from replaylab.analysis.configurations import DYNAMICS, LAST, REFERENCE, name_of
from replaylab.analysis.statistics import describe
from replaylab.pages import ablations as ablations_page
from replaylab.pages import comparisons, own_results, style
from replaylab.pages.ablations import EARLY_STOP, NEAR, Ablations
from replaylab.store import published_folder
from replaylab.sweeps import ablations
from replaylab.sweeps.ablations import ABLATIONS, ALTERNATIVES, NO_REPLAY
from replaylab.sweeps.presets import EDITIONS, PRESETS
from replaylab.util.text import percent

FIRST = EDITIONS["first"]
DEV = FIRST.dev
FIGURES = ("plane-figure", "alternatives-figure")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three presets, whole."""
    folder = tmp_path_factory.mktemp("ablations")
    write_variations("ablations", folder, lambda one: EFFECTS_OF[name_of(one)])
    write_variations(DEV, folder, of_alternative)
    write_variations("alternatives", folder, of_alternative)
    return folder


@pytest.fixture(scope="module")
def made(store: Path) -> Ablations:
    return ablations_page.read(store=store)


# ------------------------------------------------------------------------------------------------------------- settings
def test_settings_are_those_that_were_run_on_the_test_split_and_early_stop(made: Ablations, store: Path) -> None:
    chosen = made.settings[made.settings["chosen"]]
    best = [(configuration.group, configuration.name) for configuration in ablations.best(store)]
    assert list(zip(chosen["group"], chosen["setting"], strict=True)) == [*best, (EARLY_STOP, "step 300")]
    names = [*(f"{group} {name}" for group, name in best), f"{EARLY_STOP}, step 300"]
    assert made.alternatives.names == ["replay 0 %", REFERENCE, *names]
    assert made.ablations.names == [name_of(configuration) for configuration in ABLATIONS]
    assert len(made.settings) == len(ALTERNATIVES) + 3


def test_early_stop_is_chosen_by_the_same_rule(store: Path, made: Ablations, tmp_path: Path) -> None:
    """Less is lost earlier, so the earliest step that keeps the fidelity is chosen, and its configuration ends there."""
    write_variations(
        DEV, tmp_path, lambda configuration: (-8.0, 1.2) if configuration == NO_REPLAY else of_alternative(configuration)
    )
    early = ablations_page.read(store=tmp_path)
    (name,) = [configuration for configuration in early.alternatives.names if configuration.startswith(EARLY_STOP)]
    assert name == f"{EARLY_STOP}, step 150"
    stopped = ablations_page._stopped(made.alternatives, 150)
    late, soon = (stopped.changes(configuration, DYNAMICS) for configuration in ("replay 0 %", f"{EARLY_STOP}, step 150"))
    assert soon.mean(axis=None) == pytest.approx(late.mean(axis=None) / 2, abs=0.1)
    assert style.count_runs(stopped.runs) == "24 of 24 runs"


def test_the_table_says_how_a_setting_was_chosen(made: Ablations) -> None:
    table = ablations_page.settings_table(made).data
    why = table[table["choice"].str.startswith("chosen")].set_index("method")["choice"]
    assert why["lower rate"] == "chosen, best fidelity" and len(why) == 7
    assert (why.drop("lower rate") == "chosen").all()
    said = ablations_page.settings_summary(made)
    assert "No setting of lower rate keeps the fidelity of" in said
    chosen = table[table["choice"].str.startswith("chosen")]
    assert all(f"{one.method} {one.setting}" in said for one in chosen.itertuples())


def test_areas_are_hypervolumes_within_what_base_and_copy_have(made: Ablations) -> None:
    assert made.areas[NEAR] == 1 and made.areas.between(0, 1).all()
    of = {
        group: statistics.hypervolume(points[["effnet_kd", "ade_px"]].to_numpy(), (20, 7))
        for group, points in made.settings.groupby("group")
    }
    for group, share in made.areas.items():
        assert share == pytest.approx(of[group] / of[NEAR], abs=0.02)


# ------------------------------------------------------------------------------------------------------------ sentences
def test_the_answer_takes_what_is_better_and_says_what_is_not_told_apart(made: Ablations) -> None:
    said = dict(line.removeprefix("- **").split("**", 1) for line in ablations_page.answer(made).splitlines())
    assert f"do replay: {REFERENCE} is better than replay 0 %" in said["Fraction"]
    assert "take *ramp* (" in said["Schedule"] and "worse: *anneal*" in said["Schedule"]
    assert "nothing is shown to be better than replay of near video" in said["Source"]
    assert "*64 clips* are the fewest that are not shown to be worse than all 1536" in said["Clips to keep"]
    assert "takes 400 steps instead of 300" in said["Cost"] and f"{1000 * STEP_SECONDS:.0f} ms with replay" in said["Cost"]
    for label in ablations_page.ON_TARGET:
        difference = made.ablations.difference(REFERENCE, "replay 0 %", label)
        outcome = configurations.outcome_of(difference, label)
        assert f"{label} {describe(difference, configurations.digits_of(label))}, {outcome}" in said["Cost"]
    assert "cannot tell: *bursts every 20 steps*" in said["Schedule"]
    assert "*early stop, step 300*" in said["Instead of replay"]
    doubt = said["Where the data cannot tell"]
    unsure = [
        name
        for name in made.ablations.names
        if configurations.against_reference(made.ablations, name) == statistics.CANNOT_TELL and name != REFERENCE
    ]
    assert (
        f"{len(unsure)} of {len(ABLATIONS) - 1} configurations ({comparisons.list_names(unsure)})" in doubt
        and "64 clips" in unsure
    )
    pairs = next(value for key, value in said.items() if key.startswith("Does replay help"))
    for name in (REFERENCE, "64 videos", "2048 videos", "LoRA", "temporal layers"):
        without = "replay 0 %" if name == REFERENCE else f"{name}, replay 0 %"
        assert describe(made.ablations.difference(name, without), configurations.digits_of(DYNAMICS)) in pairs


def test_fractions_are_those_of_the_published_sweep_and_what_is_better_says_by_how_much(made: Ablations) -> None:
    assert "replay sweep" not in ablations_page.answer(made)  # which is not in the reader's store
    swept = ablations_page._fractions(FIRST, (), published_folder())
    made = replace(made, fractions=swept)
    said = ablations_page.answer(made).splitlines()[0]
    assert swept.names == [
        "replay 0 %",
        *(f"near replay {percent(share)}" for share in PRESETS["published"].replay_fractions if 0 < share < 1),
    ]
    others = [name for name in swept.names if name not in ("replay 0 %", REFERENCE)]
    for name in others:
        assert f"*{name}*" in said
        difference = describe(swept.difference_from_reference(name, DYNAMICS), configurations.digits_of(DYNAMICS))
        is_better = configurations.against_reference(swept, name) == statistics.BETTER
        assert (f"− {REFERENCE}: ADE {difference} px" in said) == is_better
    nothing = swept.runs.assign(state="missing")
    assert "near replay 5 %" not in ablations_page.answer(replace(made, fractions=replace(swept, runs=nothing)))


def test_the_second_edition_has_recommendations_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds on dev, no early stop, every kind of replay among the fractions, and questions that the first lacks."""
    named_weights.install(monkeypatch, tmp_path / "weights")
    of, store = EDITIONS["second"], tmp_path / "store"
    effects = EFFECTS_OF | {
        "loss weight 0.25": (-5.0, 0.9), "loss weight 0.5": (-5.0, 0.2), "high noise levels only": (-5.5, -0.2),
        "low noise levels only": (-5.0, 0.8), "near, ordinary motion only": (-5.0, 0.9),
    }  # fmt: skip
    write_variations(of.ablations, store, lambda one: effects[name_of(one)])
    write_variations(of.dev, store, of_alternative)
    write_variations(of.alternatives, store, of_alternative)
    made = ablations_page.read(store=store, edition="second")
    chosen = made.settings[made.settings["chosen"]]
    best = [(one.group, one.name) for one in ablations.best(store, of.dev)]
    assert list(zip(chosen["group"], chosen["setting"], strict=True)) == best and made.areas.empty
    assert "with 3 seeds" in ablations_page.settings_summary(made)
    assert made.own is not None and "-p edition second" in made.own.page_command()
    assert "None of these effects is among the published ones" in ablations_page.opening(made)
    said = dict(line.removeprefix("- **").split("**", 1) for line in ablations_page.answer(made).splitlines())
    assert "worse: *loss weight 0.25*" in said["Loss weight"] and "cannot tell: *loss weight 0.5*" in said["Loss weight"]
    assert "take *high noise levels only*" in said["Noise levels"] and "Control" not in said
    assert "worse: *near, ordinary motion only*" in said["Source"]
    assert "near replay 1 %" not in said["Fraction"]


def test_where_less_replay_is_as_good_replay_is_not_advised(made: Ablations) -> None:
    rows = made.ablations.rows.copy()
    without = made.ablations.runs.loc[made.ablations.runs["configuration"] == "replay 0 %", "run"]
    here = rows["run"].isin(without) & (rows["measure"] == "ade_px")
    rows.loc[here, "value"] -= 1.5 * rows.loc[here, "step"] / 300
    turned = replace(made, ablations=replace(made.ablations, rows=rows))
    assert f"do not replay: replay 0 % is better than {REFERENCE}" in ablations_page.answer(turned)


def test_the_opening_counts_each_run_once_and_draws_no_verdict(made: Ablations, store: Path) -> None:
    said = ablations_page.opening(replace(made, own=None), store)
    runs = 3 * len(ABLATIONS) + 3 * 6  # replay 0 % and near replay are in both
    assert f"{runs} of {runs} are complete" in said and "**exploratory**" in said and "4 min 20 s each" in said
    others = [name for name in map(name_of, ABLATIONS) if name != REFERENCE]
    standings = [configurations.against_reference(made.ablations, name) for name in others]
    assert f"{standings.count(statistics.WORSE)} worse" in said and "--preset $preset" in said


def test_a_reader_s_own_runs_are_all_counted_and_stand_beside_the_published_ones(made: Ablations) -> None:
    own, said = made.own, ablations_page.opening(made)
    assert own is not None and ablations_page.read(store=published_folder()).own is None
    runs = 3 * len(ABLATIONS) + 3 * 6 + len(ALTERNATIVES) + 1
    assert f"{runs} of {runs} runs complete: {len(ABLATIONS)} of {len(ABLATIONS)} ablations" in said
    assert "and 36 of 36 runs on *dev*" in said
    assert "presets *alternatives-dev*, *alternatives*, *ablations*" in said and "3 seeds" in said
    assert "**exploratory**" not in said and "directions agree" in said and "too few" not in said
    effects = {one.effect: one for one in own.effects}
    assert len(effects) == len(own.effects) == len(ABLATIONS) - 1 + 7
    one = effects[f"{DYNAMICS}, at equal fidelity: ramp − {REFERENCE}"]
    assert one.own == made.ablations.difference_from_reference("ramp", DYNAMICS, configurations.EQUAL)
    published = ablations_page.read(store=published_folder()).ablations
    assert one.published == published.difference_from_reference("ramp", DYNAMICS, configurations.EQUAL)
    late = effects[f"{DYNAMICS}, at the last step: still clips − {REFERENCE}"]  # which never reaches that fidelity
    assert late.own == made.ablations.difference_from_reference("still clips", DYNAMICS, LAST)


def test_the_clips_at_the_top_are_of_both_references_and_of_both_extremes(made: Ablations) -> None:
    assert made.own is not None
    chosen, both = made.own.find_shown(), (made.ablations, made.alternatives)
    assert list(chosen)[:2] == ["replay 0 %", REFERENCE] and len(chosen) == 4
    assert {spec.seed for spec in chosen.values()} == {0} and {spec.evaluation.split for spec in chosen.values()} == {"test"}
    changes = {name: one.change(name).estimate for one in both for name in one.names}
    others = {name: change for name, change in changes.items() if name not in list(chosen)[:2] and EARLY_STOP not in name}
    assert list(chosen)[2:] == [min(others, key=lambda name: others[name]), max(others, key=lambda name: others[name])]
    names = {run.run_id: name for one in both for run, _, name in one.named}
    assert all(names[spec.run_id] == name for name, spec in chosen.items())


def test_a_part_is_read_as_a_part(tmp_path: Path) -> None:
    """Two seeds of three configurations, and some of the settings."""
    few = ("replay 0 %", REFERENCE, "ramp")
    chosen = {name: EFFECTS_OF[name] for name in few}
    write_variations("ablations", tmp_path, lambda one: chosen.get(name_of(one)), seeds=(0, 1))
    write_variations(DEV, tmp_path, lambda name: of_alternative(name) if name.group in (NEAR, "ewc") else None)
    part = ablations_page.read(store=tmp_path)
    said = [ablations_page.opening(part, tmp_path), ablations_page.settings_summary(part), ablations_page.answer(part)]
    said += [comparisons.summary(one) for one in (part.ablations, part.alternatives)]
    assert "16 of 123 runs complete: 3 of 23 ablations and 10 of 36 runs on *dev*" in said[0] and "too few" not in said[0]
    followed = str(own_results.next_steps(part.own).data)  # type: ignore[union-attr]
    assert "**The missing runs**: 107 runs, about" in followed
    assert f"for preset in {DEV} alternatives ablations; do python -m replaylab sweep --preset $preset --store" in followed
    assert "10 of 36 runs are complete" in said[1] and not part.settings["chosen"].any() and part.areas.empty
    assert "no recommendation" in said[2] and "no configuration has three seeds" in said[2]
    assert "4 of 6 runs are complete" in said[4] and "6 of 69 runs are complete" in said[3]
    assert part.ablations.change("ramp", DYNAMICS, LAST).estimate == pytest.approx(EFFECTS_OF["ramp"][1], abs=0.1)
    assert not any("nan" in text for text in said)
    assert part.own is not None and list(part.own.find_shown()) == list(few)
    table = ablations_page.settings_table(part).data
    assert (table["choice"] == "not run yet").sum() == len(part.settings) - 10
    assert "6 of 69" in comparisons.at_equal_fidelity(part.ablations).get_suptitle()


def test_seeds_are_those_that_were_asked_for(store: Path) -> None:
    one = ablations_page.read([0], store)
    assert set(one.ablations.runs["seed"]) == {0} and len(one.ablations.done) == len(ABLATIONS)
    assert np.isnan(one.ablations.change("ramp").low) and "too few seeds" in comparisons.short_summary(one.ablations)


# ------------------------------------------------------------------------------------------------------------- the page
def test_the_page_shows_figures_tables_and_the_answer(store: Path, made: Ablations, tmp_path: Path) -> None:
    every = {run.run_id: run for one in (made.ablations, made.alternatives) for run, _, _ in one.named if run.seed == 0}
    keep_of_runs(store, list(every.values()), {"driving-eventful": ["95"]})
    cells = shown(store, tmp_path / "out.ipynb", "04_ablations")
    clips = [title for title, _ in captions("".join(cells["own-clips"]["text/html"]))]
    assert clips == ["Truth", "Base", "Replay 0 %", "Near replay 25 %", "Ramp", "64 videos, replay 0 %"]
    assert tuple(name for name, data in cells.items() if "image/svg+xml" in data) == FIGURES
    assert "take *ramp*" in cells["answer-text"]["text/markdown"]
    assert f"ramp − {REFERENCE}" in "".join(cells["own-effects"]["text/html"])
    assert "The preregistered sweep" in "".join(cells["own-next"]["text/markdown"])
    assert cells["configurations-table"]["text/html"].count("<tr") == len(ABLATIONS) + 1
    saved = csv_files.files_of("".join(cells["configurations-table"]["text/html"]))["configurations-ablations.csv"]
    assert {f"{DYNAMICS}, low", f"{DYNAMICS}, high"} <= set(saved) and saved[f"{DYNAMICS}, low"].notna().all()
    links = [data["text/html"] for name, data in cells.items() if name.endswith("-values")]
    assert len(links) == 3 and all('class="rl-csv"' in link for link in links)


def test_an_empty_store_is_a_page_that_says_so(tmp_path: Path) -> None:
    cells = shown(tmp_path / "store", tmp_path / "out.ipynb", "04_ablations")
    assert tuple(name for name, data in cells.items() if "image/svg+xml" in data) == FIGURES
    assert "**No run of this page is in `" in cells["opening"]["text/markdown"]
    assert f"`for preset in {DEV} alternatives ablations; do " in cells["opening"]["text/markdown"]
    assert "That is 123 runs, about" in cells["opening"]["text/markdown"] and not {"own-clips", "own-next"} & set(cells)
    assert cells["settings-found"]["text/markdown"].startswith("Settings on dev: not run yet (0 of 36 runs are complete)")
    assert "not run yet, 0 of 69 runs" in cells["answer-text"]["text/markdown"]
    assert not any("nan" in data.get("text/markdown", "") for data in cells.values())
