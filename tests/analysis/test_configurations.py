"""Configurations whose effects are known: what is read at the last step and at equal fidelity, and the words that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from made_up_configurations import EFFECTS_OF, SCENES, write_references, write_run

from replaylab.analysis import claims, configurations, statistics
from replaylab.analysis.claims import Configuration
from replaylab.analysis.configurations import (
    DYNAMICS,
    EQUAL,
    FIDELITY,
    LAST,
    LOWER,
    MEASURES,
    REFERENCE,
    SHARES,
    Configurations,
    name_of,
)
from replaylab.pages import comparisons
from replaylab.sweeps import ablations

CHOSEN = ("replay 0 %", "near replay 25 %", "physics", "64 clips", "LoRA", "64 videos, replay 0 %")
SEEDS = (0, 1, 3)


def store_of(folder: Path, left_out: tuple[tuple[str, int], ...] = ()) -> Configurations:
    """Some configurations, without the runs (configuration, seed) that are left out."""
    chosen = [configuration for configuration in ablations.ABLATIONS if name_of(configuration) in CHOSEN]
    named = [
        (run, configuration.group, name_of(configuration))
        for configuration in chosen
        for run in ablations.runs_of("ablations", configuration)
    ]
    write_references([run for run, _, _ in named], folder)
    for run, _, name in named:
        if (name, run.seed) not in left_out:
            write_run(run, folder, EFFECTS_OF[name])
    return configurations.configurations_of("ablations", "Configurations", named, folder, "driving", "driving-eventful")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Configurations:
    return store_of(tmp_path_factory.mktemp("configurations"))


# ------------------------------------------------------------------------------------------------------------- numbers
def test_changes_at_the_last_step_are_those_of_the_claims(made: Configurations) -> None:
    alone = set(made.runs.loc[made.runs["configuration"] == "replay 0 %", "run"])
    rows = made.rows[(made.rows["model"] == "base") | made.rows["run"].isin(alone)]
    for label, (measure, domain) in ((FIDELITY, ("effnet_kd", "driving")), (DYNAMICS, ("ade_px", "driving-eventful"))):
        found = claims.changes(rows, Configuration(), measure, domain)
        assert found is not None
        expected = statistics.seeds_and_scenes(found[0])
        found_by_label = made.change("replay 0 %", label)
        assert (found_by_label.low, found_by_label.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("name", CHOSEN)
def test_what_was_put_in_comes_out(made: Configurations, name: str) -> None:
    kd, ade = EFFECTS_OF[name]
    assert made.change(name, FIDELITY).estimate == pytest.approx(kd, abs=0.1)
    assert made.change(name, DYNAMICS).estimate == pytest.approx(ade, abs=0.1)
    kd_less, ade_less = (mine - theirs for mine, theirs in zip((kd, ade), EFFECTS_OF[REFERENCE], strict=True))
    # a seed's luck is the same whatever the configuration, so a difference is known better than a change
    assert made.difference_from_reference(name, FIDELITY).estimate == pytest.approx(kd_less, abs=0.03)
    assert made.difference_from_reference(name, DYNAMICS).estimate == pytest.approx(ade_less, abs=0.03)
    set_of_effects = made.effects[made.effects["configuration"] == name]
    assert set(set_of_effects["measure"]) == set(MEASURES) and set(set_of_effects["seeds"]) == {len(SEEDS)}
    whole = set_of_effects["measure"] == configurations.label_of("pull_to_mean", "eventful")
    assert set(set_of_effects.loc[~whole, "clips"]) == {SCENES} and set(set_of_effects.loc[whole, "clips"]) == {1}


def test_at_equal_fidelity_every_configuration_has_the_same_gain_in_each_seed(made: Configurations) -> None:
    for reading, share in SHARES.items():
        levels = share * made.changes(REFERENCE, FIDELITY).mean(axis=1)
        for name in ("replay 0 %", REFERENCE, "physics"):
            gained = made.changes(name, FIDELITY, reading).mean(axis=1)
            pd.testing.assert_series_equal(gained, levels, check_names=False, check_dtype=False)


def test_a_configuration_that_trains_less_is_not_flattered(made: Configurations) -> None:
    """LoRA hardly moves and hardly looks better: at the last step its ADE is better, and at equal fidelity it has none."""
    assert made.difference_from_reference("LoRA", DYNAMICS).high < 0
    assert np.isnan(made.change("LoRA", DYNAMICS, EQUAL).estimate) and made.steps_of("LoRA", EQUAL).isna().all()
    assert configurations.against_reference(made, "LoRA") == configurations.TRADE
    # replay 0 % gains as much earlier, and has lost less by then, but still more than replay
    at_the_end, at_equal = (made.difference_from_reference("replay 0 %", DYNAMICS, one).estimate for one in (LAST, EQUAL))
    assert 0 < at_equal < at_the_end and configurations.against_reference(made, "replay 0 %") == statistics.WORSE
    assert (made.steps_of("replay 0 %", EQUAL) < made.steps_of(REFERENCE, EQUAL)).all()
    assert configurations.against_reference(made, "64 clips") == statistics.CANNOT_TELL


def test_a_reading_is_on_the_line_between_the_steps_beside_it(made: Configurations) -> None:
    step = made.steps_of("replay 0 %", EQUAL)[0]
    (run,) = made.runs.loc[(made.runs["configuration"] == "replay 0 %") & (made.runs["seed"] == 0), "run"]
    curve = made.curves[DYNAMICS][run]
    assert 50 < step < 150
    expected = curve.loc[50] + (curve.loc[150] - curve.loc[50]) * (step - 50) / 100
    pd.testing.assert_series_equal(made.changes("replay 0 %", DYNAMICS, EQUAL).loc[0], expected, check_names=False)


@given(some.lists(some.floats(-5, 5), min_size=2, max_size=6), some.floats(-5, 5))
def test_a_level_is_reached_where_the_line_first_comes_down_to_it(values: list[float], level: float) -> None:
    curve = pd.Series(values, index=np.cumsum(range(1, len(values) + 1)), dtype=float)
    step = configurations.reached(curve, level)
    assert np.isnan(step) == (curve.min() > level)
    if not np.isnan(step):
        found = np.interp(step, curve.index, curve)
        assert found <= level + 1e-6 and (curve[curve.index < step] > level).all()
        table = pd.DataFrame({"a": curve, "b": 2 * curve})
        assert configurations.at_step(table, step).to_numpy() == pytest.approx([found, 2 * found], abs=1e-6)


def test_where_replay_gains_nothing_there_is_no_equal_fidelity(made: Configurations) -> None:
    worse = made.rows.copy()
    reference = made.runs.loc[made.runs["configuration"] == REFERENCE, "run"]
    worse.loc[worse["run"].isin(reference) & (worse["measure"] == "effnet_kd_pseudo"), "value"] += 10
    flat = replace(made, rows=worse)
    assert flat.steps_of("replay 0 %", EQUAL).empty and np.isnan(flat.change("replay 0 %", DYNAMICS, EQUAL).estimate)
    assert configurations.against_reference(flat, "replay 0 %") == configurations.TRADE  # looks better now, and moves worse


def test_where_replay_gains_with_too_few_seeds_it_is_the_last_step_that_counts(made: Configurations) -> None:
    rows = made.rows.copy()
    (flat,) = made.runs.loc[(made.runs["configuration"] == REFERENCE) & (made.runs["seed"] == 0), "run"]
    rows.loc[(rows["run"] == flat) & (rows["measure"] == "effnet_kd_pseudo"), "value"] += 10
    two = replace(made, rows=rows)
    assert set(two.levels) == {1, 3} and np.isnan(two.difference_from_reference("physics", DYNAMICS, EQUAL).low)
    assert configurations.against_reference(two, "physics") == statistics.WORSE
    assert "With 1 of 3 seeds near replay 25 % does not improve" in comparisons.reading_explained(two)


def test_what_is_measured_at_the_end_only_is_not_read_before_it(made: Configurations) -> None:
    early = replace(made, runs=made.runs.assign(last=150))
    assert early.changes("replay 0 %", configurations.label_of("denoising_loss_0.5", "physics")).empty
    assert early.change("replay 0 %", DYNAMICS).estimate == pytest.approx(EFFECTS_OF["replay 0 %"][1] / 2, abs=0.1)


def test_words_follow_intervals_and_the_direction_of_the_measure() -> None:
    up, down = statistics.Interval(0.15, 0.1, 0.2, 3), statistics.Interval(-0.15, -0.2, -0.1, 3)
    assert [configurations.outcome_of(one) for one in (up, down)] == [statistics.WORSE, statistics.BETTER]
    assert configurations.outcome_of(up, configurations.RECALL) == statistics.BETTER
    assert configurations.outcome_of(statistics.Interval(0.1, -0.1, 0.2, 3)) == statistics.CANNOT_TELL


def test_runs_without_their_base_are_refused(made: Configurations) -> None:
    with pytest.raises(ValueError, match="without that base's own effnet_kd_pseudo in driving"):
        _ = replace(made, rows=made.rows[made.rows["model"] != "base"]).effects


def test_clips_are_counted_as_they_are_cut(made: Configurations) -> None:
    kept = made.runs.groupby("configuration")["clips_kept"].first()
    assert kept[["replay 0 %", REFERENCE, "64 clips"]].tolist() == [0, 1536, 64]


# ---------------------------------------------------------------------------------------------------- figure and words
def test_the_figure_has_every_configuration_group_by_group_the_best_first(made: Configurations) -> None:
    (axes,) = comparisons.at_equal_fidelity(made).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(made.names)
    groups = made.runs.drop_duplicates("configuration").set_index("configuration")["group"][names]
    assert (groups != groups.shift()).sum() == groups.nunique(), "a group is torn apart"
    differences = [made.difference_from_reference(name, DYNAMICS, EQUAL).estimate for name in names]
    for group in groups.unique():
        of_group = [one for one, of in zip(differences, groups, strict=True) if of == group]
        assert of_group == sorted(of_group, key=lambda one: (np.isnan(one), one))
    found = [np.asarray(line.get_xydata())[0] for line in axes.lines if line.get_marker() == "o"]
    points = {round(y): x for x, y in found}
    np.testing.assert_allclose([points[place] for place in range(len(names))], differences)
    assert {text.get_text() for text in axes.texts} == {"never reached"} and plt.get_fignums() == []


def test_an_interval_of_the_figure_holds_zero_where_the_word_is_cannot_tell(made: Configurations) -> None:
    (axes,) = comparisons.at_equal_fidelity(made).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    ends = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_linewidth() == 2 and line.get_marker() != "o"]
    bars = {names[round(at[0, 1])]: at[:, 0] for at in ends}
    words = {name: configurations.against_reference(made, name) for name in ("replay 0 %", "physics", "64 clips")}
    assert set(words.values()) == {statistics.WORSE, statistics.CANNOT_TELL}
    for name, word in words.items():
        assert (bars[name][0] <= 0 <= bars[name][1]) == (word == statistics.CANNOT_TELL)


def test_the_table_has_what_it_costs_and_who_does_not_get_there(made: Configurations) -> None:
    table = comparisons.configurations_table(made).data.map(str).set_index("configuration")
    assert table.loc[REFERENCE, f"against {REFERENCE}"] == "–"
    assert table.loc["LoRA", ["get so far", "at step", f"{DYNAMICS}, {EQUAL}"]].tolist() == ["0 of 3", "–", "–"]
    assert table.loc["64 clips", ["clips kept", "time of a step (ms)"]].tolist() == ["64", "250"]
    change = made.change("physics", DYNAMICS)
    assert (
        table.loc["physics", DYNAMICS] == statistics.describe(change, configurations.digits_of(DYNAMICS))
        and change.estimate > 0
    )
    assert table.loc["replay 0 %", f"{DYNAMICS}, {LOWER}"].startswith("+")
    less = [comparisons.difference_label(*one) for one in comparisons.READ_OFF]
    assert table.loc["physics", less].tolist() == [
        statistics.describe(made.difference_from_reference("physics", *one), configurations.digits_of(one[0]))
        for one in comparisons.READ_OFF
    ]
    assert set(table.loc[REFERENCE, less]) == {"–"} and table.loc["LoRA", less[0]] == "–"


def test_sentences_are_those_of_the_numbers(made: Configurations) -> None:
    said = comparisons.summary(made)
    for name in set(CHOSEN) - {REFERENCE}:
        (group,) = [of for of in said.split(": ", 1)[1].splitlines()[0].split("; ") if f"*{name}*" in of]
        assert group.startswith(f"{configurations.against_reference(made, name)}: ")
    assert "80 %" in comparisons.reading_explained(made) and "4 of 6 configurations" in comparisons.reading_explained(made)
    assert "interpolated" not in comparisons.reading_explained(made)
    late = replace(made, rows=made.rows[made.rows["step"] != 50])
    assert "interpolated between the base and step 150" in comparisons.reading_explained(late)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ((("replay 0 %", 3),), statistics.FEW),
        (tuple((REFERENCE, seed) for seed in SEEDS), f"no run of {REFERENCE} to compare with"),
        (tuple(("physics", seed) for seed in SEEDS), "not run yet: *physics*"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, left_out: tuple[tuple[str, int], ...], said: str) -> None:
    part = store_of(tmp_path, left_out)
    assert said in comparisons.summary(part) and f"{18 - len(left_out)} of 18 runs" in comparisons.summary(part)
    words = comparisons.at_equal_fidelity(part).get_suptitle()
    assert f"{18 - len(left_out)} of 18 runs are complete" in words
    for text in (comparisons.summary(part), comparisons.reading_explained(part), comparisons.short_summary(part)):
        assert "nan" not in text
    assert "nan" not in comparisons.configurations_table(part).to_html()


def test_without_any_run_everything_says_so(tmp_path: Path) -> None:
    nothing = store_of(tmp_path, tuple((name, seed) for name in CHOSEN for seed in SEEDS))
    figure = comparisons.at_equal_fidelity(nothing)
    assert "not run yet, 0 of 18 runs" in figure.texts[0].get_text()
    assert "not run yet, 0 of 18 runs" in comparisons.summary(nothing)
    assert "not run yet" in comparisons.reading_explained(nothing) and "not run yet" in comparisons.short_summary(nothing)
    table = comparisons.configurations_table(nothing).data
    assert set(table.loc[table["configuration"] != REFERENCE, f"against {REFERENCE}"]) == {"not run yet"}
