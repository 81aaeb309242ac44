"""The top of a page with a reader's own runs: what ran, beside what is published, and what to run next at which cost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import csv_files
import numpy as np
import pandas as pd
import pytest
from kept_clips import captions, keep_of_runs
from made_up_configurations import SECONDS, write_references, write_run

from replaylab.analysis.statistics import Interval
from replaylab.pages import own_results
from replaylab.pages.own_results import OPPOSITE, THE_SAME, UNKNOWN, Comparison, OwnRun
from replaylab.store import published_folder
from replaylab.sweeps.presets import grid
from replaylab.util.text import duration

PRESET = "second-world"
ONE = Comparison("ADE", "ade_px", Interval(1.0, np.nan, np.nan, 1), Interval(2.0, 1.0, 3.0, 3))


def own_run(store: Path, states: dict[int, str], **changes: object) -> OwnRun:
    """Two runs of a preset for each seed, in a state."""
    runs = [{"run": spec.run_id, "preset": PRESET, "seed": spec.seed, "state": states[spec.seed]}
            for spec in grid(PRESET, [0.0, 0.25], list(states)) if spec.replay.name in ("", "near")]  # fmt: skip
    own = OwnRun("07_second_world", pd.DataFrame(runs), store, "some steps", lambda: [ONE], f"-p preset {PRESET}")
    return replace(own, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the two runs of seed 0."""
    folder = tmp_path_factory.mktemp("own store")
    runs = grid(PRESET, [0.0, 0.25], [0])
    write_references(runs, folder)
    for run in runs:
        write_run(run, folder, (-5.0, 1.0))
    return folder


@pytest.mark.parametrize(
    ("own", "published", "direction"),
    [(-1.0, (0.5, 1.0, 2.0), OPPOSITE), (0.1, (0.5, 1.0, 2.0), THE_SAME), (-0.1, (-2.0, -1.0, -0.5), THE_SAME),
     (1.0, (-0.5, 1.0, 2.0), UNKNOWN), (1.0, None, UNKNOWN)],
)  # fmt: skip
def test_a_direction_is_compared_with_one_that_is_shown(
    own: float, published: tuple[float, float, float] | None, direction: str
) -> None:
    beside = published and Interval(published[1], published[0], published[2], 5)
    assert Comparison("", "ade_px", Interval(own, np.nan, np.nan, 1), beside or None).direction == direction


def test_runs_are_own_unless_published_or_a_whole_replication_of_preregistered_ones(tmp_path: Path) -> None:
    whole, part = (pd.DataFrame({"state": ["done", state]}) for state in ("done", "missing"))
    assert own_results.is_own(tmp_path, ["published"], part) and own_results.is_own(tmp_path, ["quick"], whole)
    assert not own_results.is_own(tmp_path, ["published", "dose"], whole)
    assert own_results.is_own(tmp_path, ["published", "quick"], whole)
    assert not own_results.is_own(published_folder(), ["second-world"], part)


def test_the_banner_says_what_ran_and_how_many_directions_agree(store: Path) -> None:
    said = own_results.banner(own_run(store, {0: "done", 1: "missing"}))
    assert f"preset *{PRESET}*, 2 of 4 runs complete: some steps, 1 seed, the *test* split." in said
    assert f"**It took** 2 runs, {duration(2 * SECONDS)} in all, {duration(SECONDS)} each" in said
    assert "**1 of 1 directions agree**" in said and "a direction may be chance" in said
    against = replace(ONE, own=Interval(-1.0, np.nan, np.nan, 1))
    unknown = replace(ONE, published=None)
    said = own_results.banner(own_run(store, {0: "done"}, find_effects=lambda: [ONE, against, unknown]))
    assert "**1 of 2 directions agree**" in said
    nothing = own_results.banner(own_run(store, {0: "done"}, find_effects=lambda: []))
    assert nothing.endswith("No run without replay is finished, so there is nothing to compare.")
    assert "0 of" not in nothing and "too few" not in nothing


def test_effects_stand_beside_the_published_ones_and_in_the_file_as_numbers(store: Path) -> None:
    table = own_results.effects_table(own_run(store, {0: "done"}))
    assert table is not None and table.data.iloc[0].map(str).tolist() == ["ADE", "+1.00", "+2.00 (1.00 to 3.00)", THE_SAME]
    (saved,) = csv_files.files_of(str(table._repr_html_())).values()
    assert saved.loc[0, ["this run", "published", "published, low", "published, high"]].tolist() == [1.0, 2.0, 1.0, 3.0]
    assert own_results.effects_table(None) is None
    assert own_results.effects_table(own_run(store, {0: "missing"})) is None


def test_what_is_not_measured_is_no_effect_and_what_is_not_published_no_number() -> None:
    missing = Interval(np.nan, np.nan, np.nan, 0)
    found = own_results.measured([ONE, replace(ONE, own=missing), replace(ONE, published=missing)])
    assert found == [ONE, replace(ONE, published=None)]


@pytest.mark.parametrize("percentiles", [["95"], ["5", "95"]])
@pytest.mark.parametrize("kinds", [[""], ["near", ""], ["far"]])
def test_clips_are_those_of_the_named_runs_beside_truth_and_base(
    kinds: list[str], percentiles: list[str], tmp_path: Path
) -> None:
    runs = {run.replay.name: run for run in grid(PRESET, [0.0, 0.25], [0])}
    write_references(list(runs.values()), tmp_path)
    for run in runs.values():
        write_run(run, tmp_path, (-5.0, 1.0))
    named = {f"made {kind}": runs[kind] for kind in kinds}
    own = own_run(tmp_path, {0: "done"}, find_shown=lambda: named, shown_rule="a rule", shown_domain="country-eventful")
    assert own_results.clips(own) is None, "none is stored"
    keep_of_runs(tmp_path, [runs["far"]], {"country-eventful": percentiles})
    assert (own_results.clips(own) is None) == (kinds != ["far"]), "truth and base are of no run"
    keep_of_runs(tmp_path, list(runs.values()), {"country": percentiles, "country-eventful": percentiles})
    shown = own_results.clips(own)
    assert shown is not None
    said, page = str(shown.data).split("\n", 1)
    assert said == "<p>Sample clips of seed 0 at the last step, eventful country road: a rule.</p>"
    found = captions(page)
    assert [title for title, _ in found] == ["Truth", "Base", *(name.capitalize() for name in named)] * len(percentiles)
    assert [note.startswith(f"step {runs[''].evaluate_at[-1]}, ADE") for _, note in found] == [
        place > 1 for place in range(2 + len(named))
    ] * len(percentiles)


def test_published_pages_and_pages_without_chosen_runs_have_no_clips_at_the_top(store: Path) -> None:
    assert own_results.clips(None) is None and own_results.clips(own_run(store, {0: "done"})) is None


def commands_in(text: str) -> list[str]:
    return [
        line.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.strip().splitlines()
    ]


def test_what_to_run_next_names_commands_and_costs(store: Path) -> None:
    followed = own_results.next_steps(own_run(store, {0: "done", 1: "missing"}))
    assert followed is not None
    said, quoted = str(followed.data), f"'{store}'"
    assert f"2 runs, about {duration(2 * SECONDS)}" in said  # the missing ones
    assert f"2 runs more, about {duration(2 * SECONDS)}" in said  # of the third seed
    commands = commands_in(said)
    page = f'papermill book/07_second_world.ipynb book/runs/second-world{{}}.ipynb -p preset {PRESET} -y "seeds: {{}}"'
    assert commands[:4] == [
        f"python -m replaylab sweep --preset {PRESET} --seeds 0 1 --store {quoted}",
        f"{page.format('', [0, 1])} -p store {quoted}",
        f"python -m replaylab sweep --preset {PRESET} --seeds 0 1 3 --store {quoted}",  # the preset's own third seed
        f"{page.format('-seeds', [0, 1, 3])} -p store {quoted}",
    ]
    whole = own_results.next_steps(own_run(store, {0: "done"}))
    assert whole is not None and "missing runs" not in str(whole.data)
    assert own_results.next_steps(None) is None


def test_presets_that_choose_settings_keep_their_own_seeds(store: Path) -> None:
    runs = pd.DataFrame({"run": ["a", "b", "c"], "preset": ["alternatives-dev", "alternatives", "ablations"],
                         "seed": [0, 7, 7], "state": "missing"})  # fmt: skip
    own = OwnRun("04_ablations", runs, Path("mine"), "", list, choosing=["alternatives-dev"])
    assert own.seeds() == [7]
    first, then = own.training_commands(own.presets)
    assert first == "python -m replaylab sweep --preset alternatives-dev --store mine"
    assert then.startswith("for preset in alternatives ablations; do ") and "$preset --seeds 7 --store mine" in then
    of_presets = replace(own, runs=pd.concat([runs.assign(seed=seed) for seed in (0, 1, 3)]))
    (all_at_once,) = of_presets.training_commands(own.presets)
    assert (
        all_at_once.startswith("for preset in alternatives-dev alternatives ablations; do ") and "--seeds" not in all_at_once
    )


def test_without_a_run_one_line_says_how_to_train_them_and_for_how_long(tmp_path: Path) -> None:
    said = own_results.banner(own_run(tmp_path, dict.fromkeys((0, 1, 3), "missing")))
    assert len(said.splitlines()) == 1 and f"**No run of this page is in `{tmp_path}`.**" in said
    assert f"`python -m replaylab sweep --preset {PRESET} --store {tmp_path}`" in said
    assert re.search(r"That is 6 runs, about [\d hmins.]+ one after the other by the times of the published ones", said)
    quick = own_run(tmp_path, {0: "missing"})
    quick = replace(quick, runs=quick.runs.assign(preset="quick"), fractions=[0.0, 0.1])
    said = own_results.banner(quick)
    assert "--preset quick --replay-fractions 0 0.1 --store" in said and "`--dry-run`" in said
