"""Made-up sweeps whose ρ is known: together, apart, or neither; and as little of one as a store may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import csv_files
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from replaylab.analysis import alignment, claims
from replaylab.analysis.alignment import LATE, OF_A_CLIP, PREREGISTERED, WITH_BASE, Sweeps
from replaylab.analysis.claims import Configuration
from replaylab.analysis.statistics import interval
from replaylab.pages import alignment as alignment_page
from replaylab.pages import own_alignment
from replaylab.store import claim, published_folder
from replaylab.sweeps.presets import grid

STEPS, SCENES = (10, 25, 50, 100, 150, 300), 24
BASES = {0: "one", 1: "one", 2: "one", 3: "two", 4: "two"}
HIGHER = ("psnr_db", "ssim")  # is better
SHARES = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])  # of the last step's gain that each step has
DRAWINGS = ("within_runs", "plane", "across_configurations", "per_clip", "doses")
SENTENCES = ("status_line", "bases_summary", "early_rise", "summary")

Key = tuple[str, str, float]  # target, replay, fraction


def sweeps(
    gains: Mapping[Key, tuple[float, float]],
    seeds: dict[int, str] = BASES,
    asked: tuple[Key, ...] = (),
    shares: np.ndarray = SHARES,
    clips_agree: float = 1.0,
    split: str = "test",
) -> Sweeps:
    """Runs that gain these (EffNet-KD, ADE) by their last step, and `shares` of the first before it, ADE evenly.

    Of each clip, every measure of looks gains `clips_agree` times what its ADE gains. `asked`: configurations without a run.
    """
    random = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    scene = random.normal(0, 0.3, SCENES)

    def add(run: str, base: str, model: str, key: Key, seed: int, step: int, kd: float, ade: np.ndarray) -> None:
        looks = clips_agree * (ade - ade.mean() - scene)  # rises where ADE rises more than elsewhere
        values = {"ade_px": ade, **{name: scene + (-1 if name in HIGHER else 1) * looks for name in OF_A_CLIP}}
        same = {"run": run, "base": base, "model": model, "target": key[0], "replay": key[1], "replay_fraction": key[2],
                "seed": seed, "step": step, "split": split}  # fmt: skip
        for domain in alignment.DOMAINS:
            rows.extend(
                {**same, "domain": domain, "measure": measure, "scene": f"{domain}/{number}", "value": value}
                for measure, each in values.items()
                for number, value in enumerate(each)
            )
            rows.extend(
                {**same, "domain": domain, "measure": measure, "scene": "", "value": value}
                for measure, value in (("effnet_kd", kd), ("pull_to_mean", 0.1 + step / 3000))
            )

    nothing = ("", "", np.nan)
    for base in dict.fromkeys(("one", "two", *seeds.values())):
        add(base, base, "base", nothing, -1, 0, 20.0, 3 + scene)
    for model, ade in (("real", 0.5), ("copy-last-frame", 7.0)):
        add(model, "one", model, nothing, -1, -1, 0.0, ade + scene)
    for key, (kd, ade) in gains.items():
        for seed, base in seeds.items():
            luck = random.normal(0, 0.02)
            for share, step in zip(shares, STEPS, strict=True):
                of_clips = random.normal(0, 0.2, SCENES)
                after = 3 + scene - ade * step / 300 - luck + of_clips - of_clips.mean()
                add(f"{key}{seed}", base, "fine-tuned", key, seed, step, 20 - kd * share - luck, after)
    runs = [
        {"run": f"{key}{seed}", "base": base, "target": key[0], "replay": key[1], "replay_fraction": key[2],
         "seed": seed, "state": "done" if key in gains else "missing"}
        for key in (*gains, *asked)
        for seed, base in seeds.items()
    ]  # fmt: skip
    return Sweeps(("published", "dose"), split, pd.DataFrame(rows), pd.DataFrame(runs))


REGULAR, EVENTFUL, DOSED, ONE = (
    (name, "", 0.0) for name in ("driving", "driving-eventful", "driving-dose-20", "driving-repetitive")
)
NEAR = ("driving", "near", 0.25)


@pytest.fixture(scope="module")
def made() -> Sweeps:
    """Apart on ordinary driving, together on eventful driving, and a dose and an event between."""
    return sweeps({REGULAR: (5, -2), EVENTFUL: (3, 2), DOSED: (4, -1), ONE: (2, -1.5), NEAR: (4.5, -0.2)})


# Numbers


@pytest.mark.parametrize(("kd", "ade", "rho"), [(5, 2, 1), (5, -2, -1), (-5, 2, -1), (-5, -2, 1)])
def test_gains_that_go_the_same_way_have_a_positive_rho(kd: float, ade: float, rho: int) -> None:
    table = sweeps({REGULAR: (kd, ade)}, seeds={0: "one", 3: "two"}).rhos
    assert len(table) == 2 * len(alignment.DOMAINS) * len(alignment.READINGS)
    assert (table["rho"].round(9) == rho).all()


def test_what_does_not_change_has_no_rho() -> None:
    still = sweeps({REGULAR: (0, 2)}, seeds={0: "one", 3: "two"})
    assert set(still.rhos["reading"]) <= {WITH_BASE}  # a base may differ from a run that never changes
    table = alignment_page.rho_table(still).data
    assert set(table.loc[table["reading"] != WITH_BASE, "status"]) == {"too few checkpoints or no change"}


def test_readings_are_those_of_scipy_over_their_own_checkpoints() -> None:
    rises_first = np.array([-0.4, -0.6, -0.1, 0.3, 0.2, 1.0])  # EffNet-KD is worse than the base's before step 100
    table = sweeps({REGULAR: (5, -2)}, shares=rises_first).rhos
    means = table[table["domain"] == "driving-eventful"].groupby("reading")["rho"].mean()
    moves = -np.array(STEPS)
    assert means[PREREGISTERED] == pytest.approx(stats.spearmanr(rises_first, moves)[0])
    assert means[LATE] == pytest.approx(stats.spearmanr(rises_first[2:], moves[2:])[0])
    with_base = stats.spearmanr([0, *rises_first], [0, *moves])[0]
    assert means[WITH_BASE] == pytest.approx(with_base) and len(set(means.round(6))) == 3


def test_the_preregistered_reading_is_that_of_the_claim(made: Sweeps) -> None:
    table = made.rhos[(made.rhos["domain"] == "driving-eventful") & (made.rhos["reading"] == PREREGISTERED)]
    for target in made.targets:
        of_rows = claims.alignments(made.rows, Configuration(target=target), "driving-eventful")
        here = table[table["target"] == target].set_index(["seed", "base"])["rho"]
        pd.testing.assert_series_equal(here, of_rows, check_names=False)
    ((_, judged),) = alignment_page.judged_claim(made)
    assert judged is not None and judged.verdict == "holds"
    apart = alignment.rho_minus_ordinary(made, "driving-eventful")
    assert judged.interval.estimate == pytest.approx(apart.mean()) and len(apart) == 5


def test_across_configurations_only_those_that_every_seed_has_are_ranked(made: Sweeps) -> None:
    values, count = alignment.rhos_across(made, "driving-eventful")
    order = stats.spearmanr([5, 3, 4, 2, 4.5], [-2, 2, -1, -1.5, -0.2])[0]
    assert count == 5 and len(values) == 5 and values == pytest.approx(order)
    lost = made.rows[~((made.rows["target"] == "driving-repetitive") & (made.rows["seed"] == 3))]
    values, count = alignment.rhos_across(Sweeps(("less",), "test", lost, made.runs), "driving-eventful")
    assert count == 4 and values == pytest.approx(stats.spearmanr([5, 3, 4, 4.5], [-2, 2, -1, -0.2])[0])


@pytest.mark.parametrize("agree", [1.0, -1.0])
def test_clip_by_clip_every_measure_is_turned_the_way_it_is_better(agree: float) -> None:
    table = sweeps({REGULAR: (5, -2)}, clips_agree=agree).clip_rhos
    assert set(table["measure"]) == set(OF_A_CLIP) and set(table["clips"]) == {SCENES}
    assert table["rho"].to_numpy() == pytest.approx(agree)
    assert table[["low", "high"]].notna().all(axis=None)


def test_clips_without_a_value_are_left_out_for_all_seeds(made: Sweeps) -> None:
    rows = made.rows.copy()
    gone = (rows["scene"] == "driving/3") & (rows["measure"] == "psnr_db") & (rows["seed"] == 2)
    rows.loc[gone, "value"] = np.nan
    holes = Sweeps(("holes",), "test", rows, made.runs)
    assert alignment.clip_gains(holes, "driving", "psnr_db", "driving")[0].shape == (5, SCENES - 1)
    assert alignment.clip_gains(holes, "driving", "ssim", "driving")[0].shape == (5, SCENES)


def test_targets_go_by_dose_and_what_is_no_dose_comes_last(made: Sweeps) -> None:
    assert made.targets == ["driving", "driving-dose-20", "driving-eventful", "driving-repetitive"]
    doses = [alignment.dose(target) for target in [*made.targets, "diverse-driving"]]
    assert doses[:3] == [0, 0.2, 1] and np.isnan(doses[3:]).all()


# Sentences and the table


@pytest.mark.parametrize(("ade", "said"), [(2, "**together**"), (-2, "**apart**")])
def test_words_are_those_of_the_interval(ade: float, said: str) -> None:
    first = alignment_page.summary(sweeps({REGULAR: (5, ade)})).splitlines()[0]
    assert said in first and f"above 0 in {5 if ade > 0 else 0} of 5 runs" in first
    assert "−1.00 (" in first or "+1.00 (" in first


def test_where_both_directions_are_found_neither_is_said() -> None:
    rows = [sweeps({REGULAR: (5, ade)}, {seed: BASES[seed]}) for seed, ade in ((0, 2), (1, -2), (3, 2))]
    mixed = Sweeps(("mixed",), "test", pd.concat([one.rows for one in rows]).drop_duplicates(),
                   pd.concat([one.runs for one in rows]))  # fmt: skip
    assert "above 0 in 2 of 3 runs: **cannot tell**" in alignment_page.summary(mixed)


def test_too_few_seeds_get_no_words() -> None:
    few = sweeps({REGULAR: (5, -2)}, {0: "one", 1: "one"})
    assert "**too few seeds**" in alignment_page.summary(few)


def test_only_the_preregistered_line_has_a_verdict(made: Sweeps) -> None:
    table = alignment_page.rho_table(made).data
    judged = table[table["status"] == "preregistered: supported"]
    assert judged[["reading", "fine-tuned on", "ρ"]].astype(str).to_numpy().tolist() == [
        [PREREGISTERED, "100 % eventful", "+1.00 (1.00 to 1.00)"]
    ]
    assert set(table["status"]) == {"preregistered: supported", "exploratory"}
    assert csv_files.check(str(alignment_page.rho_table(made)._repr_html_())) == 1
    own = alignment_page.rho_table(Sweeps(("quick",), made.split, made.rows, made.runs)).data
    assert set(own["status"]) == {"exploratory"}


def test_a_base_that_is_no_better_than_copying_is_named(made: Sweeps) -> None:
    assert "no better than" not in alignment_page.bases_summary(made)
    rows = made.rows.copy()
    rows.loc[(rows["model"] == "copy-last-frame") & (rows["domain"] == "driving-held-out"), "value"] = 1.0
    told = alignment_page.bases_summary(Sweeps(("low",), "test", rows, made.runs))
    assert "On held-out events the bases are no better than a copied last frame" in told


def test_an_early_rise_is_counted() -> None:
    rises_first = np.array([-0.4, -0.6, 0.1, 0.3, 0.2, 1.0])
    told = alignment_page.early_rise(sweeps({REGULAR: (5, -2), EVENTFUL: (4, 2)}, shares=rises_first))
    assert "10 of 10 at step 10, 10 of 10 at step 25, 0 of 10 at step 50" in told


# Figures


def points(figure: Figure, panel: int, markers: str) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[panel].lines if line.get_marker() in tuple(markers)]
    return [(float(x), float(y)) for line in lines for x, y in np.asarray(line.get_xydata())]


def test_every_run_is_a_point_and_their_mean_a_bar(made: Sweeps) -> None:
    figure = alignment_page.within_runs(made)
    table = made.rhos[(made.rhos["domain"] == "driving-eventful") & (made.rhos["reading"] == PREREGISTERED)]
    np.testing.assert_allclose(sorted(y for _, y in points(figure, 0, "os")), np.sort(table["rho"]))
    means = table.groupby("target")["rho"].mean().clip(-1, 1)
    np.testing.assert_allclose(sorted(y for _, y in points(figure, 0, "_")), np.sort(means), atol=1e-9)


def test_six_bases_other_targets_and_other_kinds_of_replay_can_be_told_apart() -> None:
    """As in the second edition."""
    families = [(f"driving-family-{one}", "", 0.0) for one in "ab"]
    bases = {seed: f"base {seed}" for seed in range(6)}
    gains = {REGULAR: (5, -2), NEAR: (4, 0), ("driving", "near-without-a", 0.25): (3, 1)} | dict.fromkeys(families, (3, 2))
    made = sweeps(gains, seeds=bases)
    for drawing in DRAWINGS:
        assert len(getattr(alignment_page, drawing)(made).axes)
    within, across = alignment_page.within_runs(made), alignment_page.across_configurations(made)
    markers = {line.get_marker() for line in within.axes[0].lines} - {"_", "None", ""}
    assert len(markers) == len(bases)
    colours = [line.get_color() for line in across.legends[0].get_lines()]
    assert len({str(colour) for colour in colours}) == len(colours) == len(gains)
    said = [text.get_text() for figure in (within, across) for legend in figure.legends for text in legend.get_texts()]
    assert "a run; a marker per base" in said and "near-without-a replay (%)" in said and "target of events A" in said


def test_changes_stand_at_their_dose(made: Sweeps) -> None:
    figure = alignment_page.doses(made)
    bars = sorted(points(figure, 2, "_"))  # ADE on eventful driving: lower is better, so a loss stands above 0
    np.testing.assert_allclose([y for _, y in bars], [2, 1, -2, 1.5], atol=0.05)
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["0", "20", "100", "one\nevent"]


def test_gains_point_up_and_right_where_the_model_gets_better(made: Sweeps) -> None:
    ends = alignment_page.across_configurations(made).axes[0]
    large = [line for line in ends.lines if line.get_markersize() == 9]
    found = sorted(tuple(np.asarray(line.get_xydata())[0]) for line in large)
    np.testing.assert_allclose(found, [(2, -1.5), (3, 2), (4, -1), (4.5, -0.2), (5, -2)], atol=0.05)
    way = [line for line in alignment_page.plane(made).axes[0].lines if line.get_linewidth() == 1.8]
    assert len(way) == 4 and all(np.asarray(line.get_xydata())[0].tolist() == [0, 0] for line in way)


# Sweeps that are not whole


def some_of(made: Sweeps, keep: Callable[[pd.DataFrame], pd.Series]) -> Sweeps:
    """As if only the runs were there that `keep` says."""
    there = keep(made.runs)
    rows = made.rows[(made.rows["model"] != "fine-tuned") | made.rows["run"].isin(made.runs.loc[there, "run"])]
    states = np.where(there, "done", "missing")
    return Sweeps(made.presets, made.split, rows, made.runs.assign(state=states))


CUTS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "none": lambda runs: runs["seed"] < 0,
    "one run": lambda runs: (runs["target"] == "driving") & (runs["seed"] == 0) & (runs["replay_fraction"] == 0),
    "ordinary alone": lambda runs: (runs["target"] == "driving") & (runs["replay_fraction"] == 0),
    "replay alone": lambda runs: runs["replay_fraction"] > 0,
    "two seeds": lambda runs: runs["seed"] < 2,
}


@pytest.mark.parametrize("cut", CUTS)
def test_every_figure_and_sentence_stands_whatever_is_missing(made: Sweeps, cut: str) -> None:
    part = some_of(made, CUTS[cut])
    done, asked = int((part.runs["state"] == "done").sum()), len(part.runs)
    ordinary = part.without_replay.query("target == 'driving'")["state"].eq("done").sum()
    assert f"0 % eventful {ordinary} of 5, 20 % eventful" in alignment_page.status_line(part)
    assert f"{done} of {asked} runs are complete" in alignment_page.across_configurations(part)._suptitle.get_text()  # type: ignore[attr-defined]
    for name in DRAWINGS:
        assert "runs are complete" in getattr(alignment_page, name)(part)._suptitle.get_text()
    for name in SENTENCES:
        assert "nan" not in getattr(alignment_page, name)(part)
    ((_, judged),) = alignment_page.judged_claim(part)
    assert judged is None or judged.verdict == "exploratory"
    table = alignment_page.rho_table(part).data
    assert len(table) == 12 and ("not run yet" in set(table["status"])) == (cut != "two seeds")


def test_a_reader_s_own_runs_stand_beside_the_published_ones(made: Sweeps, tmp_path: Path) -> None:
    part = some_of(made, CUTS["two seeds"])
    part = replace(part, runs=part.runs.assign(preset="dose"))
    assert own_alignment.own_run_of(made, tmp_path) is None, "a whole replication has a verdict"
    assert own_alignment.own_run_of(part, published_folder()) is None
    own = own_alignment.own_run_of(part, tmp_path)
    assert own is not None and own.what.startswith("300 steps of fine-tuning on 0 % eventful, 20 % eventful, 100 % eventful")
    effects = {one.effect: one for one in own.effects}
    assert len(effects) == 4 * len(part.done_targets) + 1
    rho = effects["ρ over checkpoints, eventful driving: fine-tuned on 100 % eventful"]
    published = alignment.read(["published", "dose"], store=published_folder())
    values = published.rhos_of("driving-eventful", PREREGISTERED)
    values = values.loc[values["target"] == "driving-eventful", "rho"]
    assert rho.own.estimate == pytest.approx(1) and rho.published == interval(values, 1.0)
    change = effects["ADE (px), eventful driving: fine-tuned on 0 % eventful"]
    assert change.own.estimate == pytest.approx(2, abs=0.1) and change.published is not None
    assert effects["ρ: 100 % eventful − 0 % eventful"].own.estimate == pytest.approx(2)
    assert effects["ADE (px), eventful driving: fine-tuned on 20 % eventful"].published is None  # not among these presets


def test_the_clips_at_the_top_are_without_replay_by_target_in_one_seed(made: Sweeps, tmp_path: Path) -> None:
    """The first seed has no finished run, and one target none at all."""
    specs = [
        run for preset in ("published", "dose", "dose-between") for run in grid(preset, None, [0, 1])
        if run.target.name in made.targets
    ]  # fmt: skip
    for run in specs:
        if run.seed == 1 and run.target.name != "driving-dose-20":
            (claim(run, tmp_path) / "summary.json").write_text("{}")
    part = some_of(made, CUTS["two seeds"])
    part = replace(part, runs=part.runs.assign(preset="dose"), specs=tuple(specs))
    own = own_alignment.own_run_of(part, tmp_path)
    assert own is not None
    chosen = own.find_shown()
    assert list(chosen) == ["0 % eventful", "100 % eventful", alignment_page.target_name("driving-repetitive")]
    assert [run.target.name for run in chosen.values()] == ["driving", "driving-eventful", "driving-repetitive"]
    assert {(run.seed, run.replay.fraction) for run in chosen.values()} == {(1, 0.0)}


def test_an_empty_store_is_read_as_runs_that_are_missing(tmp_path: Path) -> None:
    made = alignment.read(["published", "dose", "dose-between"], store=tmp_path)
    assert made.rows.empty and made.runs["run"].is_unique and made.split == "test"
    runs = made.without_replay.groupby("target").size()
    assert runs.to_dict() == {"driving": 5, "driving-eventful": 5, **dict.fromkeys(
        ("driving-dose-5", "driving-dose-20", "driving-dose-50", "driving-repetitive"), 3)}  # fmt: skip
    for name in DRAWINGS:
        getattr(alignment_page, name)(made)
    assert alignment_page.summary(made) == "Claim C3: not run yet."
    said = own_alignment.opening(made, tmp_path)
    assert f"**No run of this page is in `{tmp_path}`.**" in said and len(said.splitlines()) == 1
    assert "`for preset in published dose dose-between; do python -m replaylab sweep --preset $preset --store" in said
    assert f"That is {len(made.runs)} runs, about" in said
    assert set(alignment_page.rho_table(made).data["status"]) == {"not run yet"}
    assert "not run yet" in alignment_page.early_rise(made) + alignment_page.bases_summary(made)


def test_sweeps_of_other_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="published, pilot do not measure the same clips"):
        alignment.read(["published", "pilot"], store=tmp_path)
    with pytest.raises(ValueError, match="presets is empty: name at least one"):
        alignment.read([], store=tmp_path)
