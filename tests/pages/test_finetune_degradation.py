"""What fine-tuning changes: what was put in comes out, with the intervals of the claims, and words follow them."""

from __future__ import annotations

from pathlib import Path

import csv_files
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from executed_pages import papermill
from made_up_rows import BASES, NONE, SCENES, made_up

from replaylab.analysis import claims
from replaylab.analysis.changes import of_measure
from replaylab.analysis.tables import FLOORS
from replaylab.catalogue import DENOISING_LOSSES, SOURCES
from replaylab.pages import finetune_degradation
from replaylab.pages.finetune_degradation import MOTION, OUTCOME_COLOURS, Changes
from replaylab.sweeps.sweep import Table

EFFECT = {"driving": -1.0, "driving-eventful": 2.0, "kd": -5.0}
FIGURES = ("path", "over_steps", "changes_map", "dominant_motion", "forgetting", "drift")


def table_of(rows: pd.DataFrame, done: int = 5) -> Table:
    """As a sweep gives it: with the floors that a figure needs, and a run that is missing."""
    copy = rows[rows["model"] == "copy-last-frame"]
    kd = rows[(rows["model"] == "base") & rows["measure"].str.startswith("effnet") & (rows["base"] == "one")]
    floors = [
        one.assign(model=model, run=model, step=-1)
        for one in (copy[~copy["measure"].str.startswith("effnet")], kd)
        for model in FLOORS
    ]
    whole = pd.concat([rows[rows["model"] != "copy-last-frame"], *floors]).assign(split="test", video="")
    runs = pd.DataFrame({"run": [f"run {one}" for one in range(6)], "state": ["done"] * done + ["missing"] * (6 - done)})
    return Table("published", "test", Path("store"), whole, runs, ())


def with_sources(rows: pd.DataFrame, losses: dict[str, float]) -> pd.DataFrame:
    """Denoising losses of the base's own domains, which rise by `losses` in every run."""
    more = []
    for name, loss in losses.items():
        for model, step in (("base", 0), ("fine-tuned", 300)):
            here = rows[(rows["model"] == model) & (rows["step"] == step)]
            here = here[(here["measure"] == "ade_px") & (here["domain"] == "driving")]
            clip = here["scene"].str.removeprefix("scene ").astype(float)
            value = clip + (loss if model == "fine-tuned" else 0.0)
            more += [here.assign(domain=name, measure=measure, value=value) for measure in DENOISING_LOSSES]
    return pd.concat([rows, *more], ignore_index=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return made_up({NONE: EFFECT})


@pytest.fixture(scope="module")
def made(rows: pd.DataFrame) -> Changes:
    return finetune_degradation.read(
        table_of(with_sources(rows, dict(zip(SOURCES["all"], (0.1, 0.2, 0.3, 0.4), strict=True))))
    )


def test_a_change_is_the_one_of_the_claims_with_its_interval(made: Changes, rows: pd.DataFrame) -> None:
    for claim in claims.CLAIMS[:3]:
        judged = claims.judge(rows, claim)
        assert judged is not None
        (one,) = of_measure(made.at_the_end(), claim.measure, claim.domain).to_dict("records")
        found = (one["change"], one["low"], one["high"], one["seeds"])
        assert found == pytest.approx((judged.interval.estimate, judged.interval.low, judged.interval.high, 5))
    of_ade = made.of_configurations[made.of_configurations["measure"] == "ade_px"]
    assert of_ade["before"].to_numpy() == pytest.approx(3, abs=0.5)


def test_changes_of_runs_average_to_those_of_their_configuration(made: Changes) -> None:
    keys = ["configuration", "step", "domain", "measure"]
    means = made.of_runs.groupby(keys)["change"].mean()
    assert means.to_dict() == pytest.approx(made.of_configurations.set_index(keys)["change"].to_dict())
    assert set(made.of_runs["base"]) == set(BASES.values())


def test_a_clip_that_one_run_lacks_is_left_out_for_all(rows: pd.DataFrame) -> None:
    holes = rows.copy()
    gone = (holes["scene"] == "scene 3") & (holes["measure"] == "ade_px") & (holes["seed"] == 2)
    holes.loc[gone, "value"] = np.nan
    found = finetune_degradation.read(table_of(holes)).of_runs
    clips = found[(found["measure"] == "ade_px") & (found["step"] == 300)]["clips"]
    assert set(clips) == {SCENES - 1}


@pytest.mark.parametrize("seeds", [{0: "one"}, {0: "one", 3: "two"}])
def test_fewer_than_three_seeds_have_a_change_and_no_interval(seeds: dict[int, str]) -> None:
    few = finetune_degradation.read(table_of(made_up({NONE: EFFECT}, seeds=seeds)))
    assert few.of_configurations[["low", "high"]].isna().all(axis=None) and len(few.of_configurations)
    assert "too few seeds" in finetune_degradation.summary(few)


def test_runs_without_their_base_are_refused(rows: pd.DataFrame) -> None:
    lost = rows[~((rows["model"] == "base") & (rows["base"] == "two") & (rows["measure"] == "ade_px"))]
    with pytest.raises(ValueError, match="from the base two without that base's own ade_px in driving"):
        finetune_degradation.read(table_of(lost))


def test_transfer_is_the_mean_loss_of_the_sources_with_its_sign(made: Changes) -> None:
    table = finetune_degradation.transfer_table(made).data.set_index("measure")
    line = table.loc["denoising loss, level 0.5"]
    assert str(line["backward transfer"]) == "−0.2500 (−0.2500 to −0.2500)"
    assert str(line["average forgetting"]).startswith("+0.2500 ")
    assert line["domains"].count(";") == len(SOURCES["all"]) - 1 and line["runs"] == "5"


def test_the_files_of_the_tables_have_the_numbers_of_the_intervals(made: Changes) -> None:
    for table in (finetune_degradation.transfer_table, finetune_degradation.changes_table):
        assert csv_files.check(str(table(made)._repr_html_())) == 1
    (saved,) = csv_files.files_of(str(finetune_degradation.changes_table(made)._repr_html_())).values()
    (ade,) = of_measure(made.at_the_end(), "ade_px", "driving-eventful").to_dict("records")
    line = saved.set_index("measure").loc["ADE (px)"]
    ends = [line[f"eventful driving{end}"] for end in ("", ", low", ", high")]
    assert ends == pytest.approx([ade["change"], ade["low"], ade["high"]], rel=1e-5)


def test_sentences_hold_the_numbers_and_say_what_is_missing(made: Changes) -> None:
    said = finetune_degradation.summary(made)
    (ade,) = of_measure(made.at_the_end(), "ade_px", "driving-eventful").to_dict("records")
    assert ade["described"] in said and "5 of 6 runs" in said
    (kd,) = of_measure(made.at_the_end(), "effnet_kd", "driving").to_dict("records")
    assert f"EffNet-KD on ordinary driving changes by {kd['described']}: better, 5 seeds" in said
    assert finetune_degradation.motion_claim(made).endswith("**not run yet**.")


def test_motion_counts_what_points_where_the_claim_says(rows: pd.DataFrame) -> None:
    of_ade = rows[(rows["measure"] == "ade_px") & (rows["domain"] == "driving-eventful")]  # rises by 2
    more = [of_ade.assign(measure=measure) for measure in MOTION]
    said = finetune_degradation.motion_claim(
        finetune_degradation.read(table_of(pd.concat([rows, *more], ignore_index=True)))
    )
    assert "2 of 4 change as C7 predicts, 2 the other way" in said and "exploratory" in said


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_how_much_of_the_sweep_is_there_and_stays_in_nothing(made: Changes, name: str) -> None:
    figure = getattr(finetune_degradation, name)(made)
    assert "5 of 6 runs" in figure.get_suptitle() and plt.get_fignums() == []


def test_lines_over_steps_are_the_changes_from_zero(made: Changes) -> None:
    for axes, (measure, domain) in zip(
        finetune_degradation.over_steps(made).axes, finetune_degradation.OVER_STEPS, strict=True
    ):
        here = of_measure(made.of_configurations, measure, domain).sort_values("step")
        (line,) = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [0, *here["change"]])
        np.testing.assert_allclose(np.asarray(line.get_xdata(), float), [0, *here["step"]])


def test_the_map_colours_what_the_words_say(made: Changes) -> None:
    axes = finetune_degradation.changes_map(made).axes[0]
    codes: np.ndarray = np.ma.filled(np.ma.asarray(axes.collections[0].get_array(), float), np.nan).ravel()
    kinds = [list(OUTCOME_COLOURS)[int(code)] for code in codes if not np.isnan(code)]
    expected = [
        one["outcome"]
        for one in made.at_the_end().to_dict("records")
        if one["measure"] in (*finetune_degradation.FIDELITY, *finetune_degradation.AGENTS)
        and one["domain"] in finetune_degradation.EVERYWHERE
    ]
    assert sorted(kinds) == sorted(expected)


def test_without_a_finished_run_every_part_says_so(rows: pd.DataFrame) -> None:
    nothing = finetune_degradation.read(table_of(rows[rows["model"] != "fine-tuned"], done=0))
    for name in FIGURES:
        figure = getattr(finetune_degradation, name)(nothing)
        assert len(figure.axes) == 1 and figure.texts[0].get_text() == finetune_degradation.NO_RUN
    assert finetune_degradation.summary(nothing) == finetune_degradation.NO_RUN
    assert "not run yet" in finetune_degradation.motion_claim(nothing)
    for table in (finetune_degradation.changes_table, finetune_degradation.transfer_table):
        assert len(table(nothing).data) == 0
        table(nothing).to_html()


def test_the_page_shows_a_reader_s_own_sweep(swept: Table, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    papermill("book/02_finetune_degradation.ipynb", str(out), "-p", "preset", "smoke", "-p", "store", str(swept.store))
    cells = {cell.id: cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"}
    shown = {name: [output.get("data", {}) for output in cell.outputs] for name, cell in cells.items()}
    drawn = [name for name, datas in shown.items() if any("image/svg+xml" in data for data in datas)]
    assert drawn == [f"{name}-figure" for name in ("path", "steps", "map", "motion", "forgetting", "drift")]
    (opening,), (found,) = shown["opening"], shown["found-text"]
    assert "1 of 1 runs complete" in opening["text/markdown"] and "directions agree" in opening["text/markdown"]
    assert "too few seeds" in found["text/markdown"]
    links = [data["text/html"] for name, datas in shown.items() if name.endswith("-values") for data in datas]
    assert len(links) == len(drawn) and all('class="rl-csv"' in link for link in links)
