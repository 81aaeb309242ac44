"""A run's description: its name is its content, and bad content is refused by name."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from replaylab.spec import (
    PRESETS,
    RunSpec,
    WorldSpec,
    canonical_json,
    digest,
    generator,
    grid,
    torch_seed,
    worlds_of,
)


def test_a_spec_survives_its_json_and_keeps_its_name():
    for spec in grid("smoke"):
        again = RunSpec.from_dict(spec.as_dict())
        assert again == spec
        assert again.run_id == spec.run_id


def test_every_field_of_a_run_is_in_its_name():
    spec = grid("smoke")[1]
    changed = {
        "base": "other",
        "target": dataclasses.replace(spec.target, seed=99),
        "replay": (dataclasses.replace(spec.replay[0], seed=99),),
        "replay_fraction": 0.25,
        "seed": 7,
        "batch_size": 5,
        "learning_rate": 1e-5,
        "ema_decay": 0.5,
        "evaluation": dataclasses.replace(spec.evaluation, clips=9),
    }
    names = {dataclasses.replace(spec, **{field: value}).run_id for field, value in changed.items()}
    assert len(names | {spec.run_id}) == len(changed) + 1


def test_unknown_and_missing_keys_are_refused_with_the_valid_ones():
    plain = grid("smoke")[0].as_dict()
    with pytest.raises(ValueError, match=r"unknown keys \['replay_ratio'\].*replay_fraction"):
        RunSpec.from_dict({**plain, "replay_ratio": 0.5})
    plain.pop("seed")
    with pytest.raises(ValueError, match=r"missing keys \['seed'\]"):
        RunSpec.from_dict(plain)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), "0.5", True])
def test_a_replay_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="replay_fraction"):
        grid("smoke", [fraction])


def test_the_run_without_replay_is_one_run_whatever_is_not_replayed():
    (without,) = grid("quick", [0.0], [0])
    assert without.replay == ()
    with pytest.raises(ValueError, match="replay must be empty"):
        dataclasses.replace(without, replay=(worlds_of(PRESETS["quick"])["near"],))


def test_an_unknown_preset_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="smoke, quick, published"):
        grid("quik")


def test_only_preregistered_runs_may_look_at_the_test_split():
    assert {preset.split for preset in PRESETS.values()} == {"dev"}


def test_randomness_depends_on_every_part_of_the_question_and_on_nothing_else():
    draws = {tuple(generator(*question).integers(0, 2**60, 2)) for question in
             [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1)]}  # fmt: skip
    assert len(draws) == 4
    assert np.array_equal(generator(3, "x", 5).normal(size=4), generator(3, "x", 5).normal(size=4))
    assert torch_seed(0, "a", 1) == torch_seed(0, "a", 1) != torch_seed(0, "a", 2)
    assert 0 <= torch_seed(0, "a") < 2**63


def test_canonical_json_does_not_depend_on_the_order_of_fields():
    world = WorldSpec("w", "traffic", "target", "ordinary", (1, 1, 0))
    assert canonical_json(world).startswith('{"edition":')
    assert digest(world) == digest(WorldSpec(**{**world.as_dict(), "videos": (1, 1, 0)}))


def test_describing_runs_imports_neither_torch_nor_pandas():
    code = "import sys; from replaylab.spec import grid; grid('quick'); print({'torch', 'pandas'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
