"""The variations of the ablations are what they say, and the settings of the alternatives are chosen by a rule."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from replaylab import spec
from replaylab.description import without_places
from replaylab.spec import RunSpec
from replaylab.store import COLUMNS, claim, finish
from replaylab.sweeps import ablations, sweep
from replaylab.sweeps.ablations import ABLATIONS, ALTERNATIVES, NEAR_25, NO_REPLAY, SETTINGS
from replaylab.sweeps.presets import SHARES


def differing(one: RunSpec, other: RunSpec) -> set[str]:
    """The fields, of the parts too, in which two runs differ."""

    def flat(plain: object, name: str = "") -> dict[str, object]:
        if isinstance(plain, dict):
            return {key: value for part, inner in plain.items() for key, value in flat(inner, f"{name}.{part}").items()}
        return {name[1:]: plain}

    a, b = (flat(without_places(run.as_dict())) for run in (one, other))
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


def test_every_variation_has_three_seeds_over_two_bases_and_its_own_name() -> None:
    for variation in ABLATIONS:
        runs = ablations.runs_of("ablations", variation)
        assert [run.seed for run in runs] == [0, 1, 3]
        assert len({run.base for run in runs}) == 2
        assert {run.evaluation.split for run in runs} == {"test"}
    names = ablations.named("ablations")
    assert len(names) == 3 * len(ABLATIONS) and names["variation"].nunique() == len(ABLATIONS)
    assert [run.run_id for run in ablations.grid("ablations")] == list(names["run"])


@pytest.mark.parametrize("variation", ABLATIONS, ids=lambda variation: variation.name)
def test_a_variation_changes_one_thing(variation: ablations.Variation) -> None:
    (plain,), (run,) = (ablations.runs_of("ablations", one, [1]) for one in (NEAR_25, variation))
    parts = {key.split(".")[0] for key in differing(plain, run)}
    allowed = {"replay", "target"} if variation.group == "target" else {"replay", "training"}
    assert parts <= allowed and (variation is NEAR_25 or parts)
    assert run.evaluation == plain.evaluation and run.seed == 1
    assert (run.replay.fraction == 0) == ("no replay" in variation.name)


def test_more_driving_is_of_other_scenes_and_sources_have_as_many_clips() -> None:
    by_name = {variation.name: ablations.runs_of("ablations", variation, [0])[0] for variation in ABLATIONS}
    (more,), target = by_name["more driving"].replay.domains, by_name["more driving"].target
    assert isinstance(more, spec.WorldSpec) and isinstance(target, spec.WorldSpec)
    assert more.seed != target.seed and (more.world, more.look, more.motion) == (target.world, target.look, target.motion)
    for name in ("physics", "orbit", "doom", "near and far", "more driving"):
        replay = by_name[name].replay
        assert sum(world.videos[0] for world in replay.domains) >= 512
    assert by_name["near and far"].replay.weights == SHARES["all"]
    assert by_name["still clips"].replay.still and not by_name["ramp"].replay.still


def test_every_alternative_has_as_many_settings_as_replay_on_dev() -> None:
    counted = Counter(variation.group for variation in ALTERNATIVES)
    assert set(counted) == {"near replay", "l2-sp", "ewc", "lwf", "wise-ft", "lower rate", "generative replay"}
    assert set(counted.values()) == {SETTINGS}
    runs = ablations.grid("alternatives-dev")
    assert {run.evaluation.split for run in runs} == {"dev"} and len({run.run_id for run in runs}) == len(runs)
    assert runs[0].replay.fraction == 0  # NO_REPLAY, whose steps early stop is read off


def finished(store: Path, run: RunSpec, effnet_kd: float, ade_px: float) -> None:
    folder = claim(run, store)
    rows = [
        {"measure": measure, "domain": domain, "value": value, "step": step}
        for measure, domain, value in (("effnet_kd", "driving", effnet_kd), ("ade_px", "driving-eventful", ade_px))
        for step in (150, 300)
    ]
    table = pd.DataFrame(rows).assign(run=run.run_id, replay_fraction=run.replay.fraction, seed=0, start=0, n=1)
    finish(folder, table.assign(**{name: "" for name in COLUMNS if name not in table}))


def test_settings_of_several_seeds_are_chosen_by_their_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run alone would choose another setting."""
    monkeypatch.setattr(ablations, "CANDIDATES", {"ablations": tuple(each for each in ALTERNATIVES if each.group == "ewc")})
    for number, variation in enumerate((*ablations.CANDIDATES["ablations"], NEAR_25)):
        of_seeds = [[2.0, 2.0, 2.0], [0.0, 4.0, 4.0], [1.5, 1.5, 1.5]]  # ADE
        for seed, run in enumerate(ablations.runs_of("ablations", variation)):
            finished(tmp_path, run, 9.0, of_seeds[number][seed] if number < len(of_seeds) else 9.0)
    assert [one.name for one in ablations.best(tmp_path, "ablations")] == ["0.001"]


def test_settings_are_chosen_by_dynamics_among_those_that_look_as_good(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"36 of 36 runs .*alternatives-dev"):
        ablations.grid("alternatives", store=tmp_path)
    (limit,) = ablations.runs_of("alternatives-dev", NEAR_25)
    for number, variation in enumerate(ALTERNATIVES):
        (run,) = ablations.runs_of("alternatives-dev", variation)
        at = number % SETTINGS
        if run == limit:
            finished(tmp_path, run, 10, 2.0)
        elif variation.group == "lwf":  # none looks as good: the one that looks best
            finished(tmp_path, run, 20 - at, 1.0 + at)
        else:  # of the first three, which look as good, the second moves best
            finished(tmp_path, run, 9 + 0.5 * at, [2.0, 1.0, 3.0, 0.1, 0.1][at])
    chosen = {variation.group: variation.name for variation in ablations.best(tmp_path)}
    assert chosen == {
        "l2-sp": "0.0003", "ewc": "0.0003", "lwf": "10", "wise-ft": "0.25", "lower rate": "0.00025",
        "generative replay": "10 %",
    }  # fmt: skip
    runs = ablations.grid("alternatives", store=tmp_path)
    assert len(runs) == 3 * (2 + len(chosen)) and {run.evaluation.split for run in runs} == {"test"}
    assert set(ablations.named("alternatives", store=tmp_path)["variation"]) == {
        NO_REPLAY.name,
        NEAR_25.name,
        *chosen.values(),
    }


def test_a_sweep_reads_them_and_refuses_fractions(tmp_path: Path) -> None:
    table = sweep.read("ablations", store=tmp_path)
    assert len(table.runs) == 3 * len(ABLATIONS) and set(table.runs["state"]) == {"missing"}
    with pytest.raises(ValueError, match="variations of its own"):
        sweep.read("ablations", [0.5], store=tmp_path)
    json.dumps([run.as_dict() for run in table.specs])
