"""The second world's page: the claims asked again, beside the first world's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_arms import write_references, write_run
from test_ablations_figures import shown

from replaylab import arms, second_world_figures, spec
from replaylab.arms import Arms
from replaylab.claims import CLAIMS
from replaylab.second_world_figures import AS_CLAIMED, FIRST, OTHER_WAY, Worlds

EFFECTS = {("", 0.0): (-5.0, 1.0), ("near", 0.1): (-4.6, 0.6), ("far", 0.1): (-4.5, 0.7),
           ("near", 0.25): (-4.2, 0.1), ("far", 0.25): (-4.0, 0.9)}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    runs = spec.grid("second-world")
    write_references(runs, folder)
    for run in runs:
        write_run(run, folder, EFFECTS[run.replay.name, run.replay.fraction])
    return folder


@pytest.fixture(scope="module")
def second(store: Path) -> Arms:
    return second_world_figures.read("second-world", store=store).second


def as_first(second: Arms) -> Arms:
    """The same rows, as if they were of the first world."""
    names = dict(zip((second.ordinary, second.eventful), FIRST, strict=True))
    rows = second.rows.replace({"domain": names, "target": names})
    return replace(second, ordinary=FIRST[0], eventful=FIRST[1], rows=rows)


def test_the_claims_are_those_of_the_preregistration_on_the_second_world_s_clips(second: Arms) -> None:
    asked = second_world_figures.claims_of("country", "country-eventful")
    kept = [claim for claim in CLAIMS if claim.measure != "alignment"]
    assert [claim.says for claim in asked] == [claim.says for claim in kept]
    assert {claim.arm.target for claim in asked} == {"country"}
    assert {claim.domain for claim in asked} == {"country", "country-eventful"}
    results = [result for _, result in Worlds(second, as_first(second)).asked[0]]
    assert all(result is not None and result.interval.n == 3 for result in results)


def test_worlds_that_do_the_same_say_the_same(second: Arms) -> None:
    made = Worlds(second, as_first(second))
    table = second_world_figures.worlds_table(made).data
    assert table["second world"].tolist() == table["first world"].tolist()
    assert table["change, second world"].tolist() == table["change, first world"].tolist()
    by = dict(zip(table["says"], table["second world"], strict=True))
    assert by["fidelity improves"] == by["near replay keeps accuracy"] == AS_CLAIMED
    assert by["far replay keeps accuracy"] == OTHER_WAY
    assert "they say the same in 7" in second_world_figures.found(made)


def test_worlds_that_part_are_told(second: Arms) -> None:
    first = as_first(second)
    rows = first.rows.copy()
    moved = (rows["model"] == "fine-tuned") & (rows["measure"] == "ade_px")
    rows.loc[moved, "value"] -= 3 * rows.loc[moved, "step"] / 300  # there, all get better
    said = second_world_figures.found(Worlds(second, replace(first, rows=rows)))
    assert "they say the opposite in 3" in said and "accuracy degrades on eventful driving" in said


def test_the_figure_has_each_kind_from_no_replay_up(second: Arms) -> None:
    figure = second_world_figures.over_fractions(Worlds(second, as_first(second)))
    solid = [line for line in figure.axes[2].lines if line.get_linewidth() == 1.8]
    for line, kind in zip(solid, ("near", "far"), strict=True):
        effects = [EFFECTS[of][1] for of in (("", 0.0), (kind, 0.1), (kind, 0.25))]
        expected = np.stack([[0, 10, 25], effects], axis=1)
        np.testing.assert_allclose(np.asarray(line.get_xydata()), expected, atol=0.1)
    both = second_world_figures.both_effects(Worlds(second, as_first(second)))
    assert both["world"].value_counts().to_dict() == {
        "second": len(second.effects),
        "first": len(second.effects),
    }


def test_what_is_missing_is_said(second: Arms) -> None:
    nothing = replace(second, rows=second.rows.iloc[:0], runs=second.runs.assign(state="missing"))
    made = Worlds(second, nothing)
    table = second_world_figures.worlds_table(made).data
    assert set(table["first world"]) == {"not run yet"} and set(table["change, first world"]) == {"–"}
    assert "one or both cannot tell in 7" in second_world_figures.found(made)
    empty = Worlds(nothing, nothing)
    assert "not run yet, 0 of 15 runs" in second_world_figures.found(empty)
    assert "0 of 15 runs" in second_world_figures.over_fractions(empty).texts[0].get_text()
    assert len(second_world_figures.both_effects(empty)) == 0
    two = second.runs.assign(state=np.where(second.runs["seed"] < 3, "done", "missing"))
    rows = second.rows[(second.rows["model"] != "fine-tuned") | (second.rows["seed"] < 3)]
    few = Worlds(replace(second, rows=rows, runs=two), nothing)
    assert set(second_world_figures.worlds_table(few).data["second world"]) == {arms.FEW}
    assert "10 of 15 runs are there" in second_world_figures.over_fractions(few).get_suptitle()


def test_an_opening_has_every_question_and_no_verdict(second: Arms, store: Path) -> None:
    said = second_world_figures.opening(Worlds(second, as_first(second)), store)
    assert (
        said.count("**exploratory**") == len(CLAIMS) and "15 of 15 are there" in said and "holds" not in said
    )


def test_the_page_shows_what_a_store_has(store: Path, tmp_path: Path) -> None:
    cells = shown(store, tmp_path / "out.ipynb", "07_second_world")
    assert [name for name, data in cells.items() if "image/png" in data] == [
        "plane-figure",
        "fractions-figure",
    ]
    assert "15 of 15 are there" in cells["opening"]["text/markdown"]
    assert "**Both worlds**, of 7 questions" in cells["found-text"]["text/markdown"]
    empty = shown(tmp_path / "store", tmp_path / "empty.ipynb", "07_second_world")
    assert "not run yet, 0 of 15 runs" in empty["found-text"]["text/markdown"]
    assert "image/png" in empty["plane-figure"] and "image/png" in empty["fractions-figure"]
