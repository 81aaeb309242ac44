"""A run's description: its name is its content, and bad content is refused by name."""

import dataclasses

import numpy as np
import pytest

from replaylab.description import canonical_json, digest
from replaylab.mixture import Mixture
from replaylab.shipped_weights import WEIGHTS, base_folder, base_of, weights_digest
from replaylab.spec import RemedySpec, ReplaySpec, RunSpec, WorldSpec, generator, torch_seed
from replaylab.sweeps.presets import CONFIRMATORY, EXPLORATORY, PRESETS, grid, trained_worlds
from replaylab.worlds.named import domain_spec


def test_a_spec_survives_its_json_and_keeps_its_name():
    for spec in grid("smoke"):
        again = RunSpec.from_dict(spec.as_dict())
        assert again == spec
        assert again.run_id == spec.run_id


def changed(spec, path, value):
    """The spec with one field, however deep, of another value."""
    first, *rest = path
    return dataclasses.replace(spec, **{first: changed(getattr(spec, first), rest, value) if rest else value})


def test_every_field_of_a_run_is_in_its_name():
    spec = changed(grid("smoke")[1], ["remedy"], RemedySpec("l2-sp", 0.1))
    others = [
        (["base"], "other"), (["target", "seed"], 99), (["seed"], 7), (["evaluation", "clips"], 9),
        (["evaluate_at"], (1, 4)), (["replay", "domains"], (changed(spec.replay.domains[0], ["seed"], 99),)),
        (["replay", "fraction"], 0.25), (["replay", "schedule"], "ramp"), (["replay", "period"], 2),
        (["replay", "weights"], (2.0,)), (["replay", "buffer_clips"], 3), (["replay", "buffer_choice"], "first"),
        (["replay", "generated"], True), (["remedy", "strength"], 0.2), (["training", "batch_size"], 5),
        (["training", "learning_rate"], 1e-5), (["training", "ema_decay"], 0.5), (["training", "trained"], "temporal"),
        (["training", "lora_rank"], 3), (["training", "accumulate"], 2), (["training", "decay"], True),
    ]  # fmt: skip
    names = {changed(spec, path, value).run_id for path, value in others}
    assert len(names | {spec.run_id}) == len(others) + 1


def test_unknown_missing_and_wrong_keys_are_refused_with_the_valid_ones():
    plain = grid("smoke")[0].as_dict()
    with pytest.raises(ValueError, match=r"RunSpec: unknown keys \['replay_ratio'\].*valid keys are .*'replay'"):
        RunSpec.from_dict({**plain, "replay_ratio": 0.5})
    with pytest.raises(ValueError, match=r"TrainingSpec: unknown keys \['momentum'\].*'learning_rate'"):
        RunSpec.from_dict({**plain, "training": {**plain["training"], "momentum": 0.9}})
    with pytest.raises(ValueError, match="TrainingSpec: steps is '4', not of type int"):
        RunSpec.from_dict({**plain, "training": {**plain["training"], "steps": "4"}})
    with pytest.raises(ValueError, match=r"ReplaySpec: an object with keys is needed, not 0\.5"):
        RunSpec.from_dict({**plain, "replay": 0.5})
    plain.pop("seed")
    with pytest.raises(ValueError, match=r"missing keys \['seed'\]"):
        RunSpec.from_dict(plain)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["replay", "schedule"], "wave", "schedule 'wave' is none of constant, periodic, ramp, anneal"),
        (["replay", "buffer_choice"], "best", "choices are first, random, coverage"),
        (["replay", "domains"], (), "replay names no domain"),
        (["training", "trained"], "half", "none of full, lora, temporal"),
        (["training", "accumulate"], 0, "accumulate is 0"),
        (["training", "learning_rate"], 0.0, "learning_rate is 0.0"),
        (["remedy", "kind"], "hope", "none of none, lwf, l2-sp, ewc, wise-ft"),
        (["remedy"], ("ewc", 1.0), "ewc needs domains and clips"),
        (["remedy"], ("l2-sp", 0.0), "a remedy has one above 0"),
        (["remedy"], ("wise-ft", 1.5), "the base's share, at most 1"),
        (["evaluate_at"], (2,), r"evaluate_at must end with the last step, 4; got \(2,\)"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message):
        changed(grid("smoke")[1], path, RemedySpec(*value) if path == ["remedy"] else value)


def test_remedies_that_compare_weights_are_refused_where_only_adapters_are_trained():
    lora = changed(grid("smoke")[0], ["training", "trained"], "lora")
    with pytest.raises(ValueError, match="'wise-ft' compares weights with the base's, and trained 'lora'"):
        changed(lora, ["remedy"], RemedySpec("wise-ft", 0.5))
    changed(lora, ["remedy"], RemedySpec("lwf", 0.5))


def test_with_the_budget_of_driving_samples_every_fraction_sees_as_many():
    for spec in grid("quick", [0, 0.1, 0.25, 0.5, 0.9], budget="driving-samples"):
        training = spec.training
        driving = Mixture(spec.replay.fraction, training.batch_size, [5, 5], 0).targets(training.steps)[0]
        assert 0 <= driving - 120 * 16 < training.batch_size
        assert spec.evaluate_at[-1] == training.steps and len(spec.evaluate_at) == 2
    assert grid("quick", [0.25])[0].training.steps == 120
    with pytest.raises(ValueError, match="no number of steps shows the target"):
        grid("quick", [1.0], budget="driving-samples")
    with pytest.raises(ValueError, match="steps, driving-samples"):
        grid("quick", budget="hours")


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), "0.5", True])
def test_a_replay_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="replay_fraction"):
        grid("smoke", [fraction])


def test_the_run_without_replay_is_one_run_whatever_is_not_replayed():
    (without,) = grid("quick", [0.0], [0])
    assert without.replay == ReplaySpec()
    for not_replayed in (
        {"domains": (trained_worlds(PRESETS["quick"])["near"],)},
        {"schedule": "ramp"},
        {"buffer_clips": 5},
    ):
        with pytest.raises(ValueError, match="replay_fraction is 0, so replay must name no domain, schedule"):
            ReplaySpec(**not_replayed)


def test_each_kind_of_replay_is_a_configuration_and_nothing_or_everything_replayed_is_one():
    configurations = [(spec.replay.name, spec.replay.fraction) for spec in grid("published", [0, 0.25, 1], [0])]
    assert configurations == [("", 0.0), ("near", 0.25), ("far", 0.25), ("all", 1.0)]
    everything = grid("published", [1], [0])[0].replay
    shares = dict(zip((world.name for world in everything.domains), everything.weights, strict=True))
    assert shares["near"] / sum(shares.values()) == 0.75 and len(shares) == 4
    counts = {spec.replay.name: sum(world.videos[0] for world in spec.replay.domains) for spec in grid("pilot")}
    assert counts["near"] <= counts["far"] < counts["near"] + 3  # as many clips, up to rounding


def test_presets_with_other_targets_are_measured_on_the_same_clips():
    ours, control = grid("pilot")[0], grid("pilot-diverse")[0]
    assert ours.evaluation == control.evaluation and ours.target != control.target
    looked_at = (*ours.evaluation.domains, *ours.evaluation.at_the_end)
    assert all(world.videos[0] == 0 for world in looked_at)
    (regular,) = (spec for spec in grid("dose", seeds=[0]) if spec.target.name == "driving")
    assert regular == grid("published", [0], [0])[0]  # one run, and trained once


def test_a_seed_draws_its_own_clips_and_is_measured_on_the_same_ones():
    specs = grid("published", [0.25])
    for kind in ("near", "far"):
        of_kind = [spec for spec in specs if spec.replay.name == kind]
        assert len({spec.target for spec in of_kind}) == len({spec.replay for spec in of_kind}) == 5
    assert len({spec.evaluation for spec in specs}) == 1


def test_the_last_seeds_start_from_the_second_base():
    bases = {spec.seed: spec.base for spec in grid("published")}
    first, second = (weights_digest(base_folder(number)) for number in (0, 1))
    assert bases == {0: first, 1: first, 2: first, 3: second, 4: second} and first != second
    assert [base_of(base) for base in (first, second)] == [WEIGHTS / "base", WEIGHTS / "base-1"]


def test_a_clip_has_at_least_one_future():
    with pytest.raises(ValueError, match="futures is 0; it must be at least 1"):
        changed(grid("smoke")[0], ["evaluation", "futures"], 0)


def test_an_unknown_preset_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="smoke, quick, pilot"):
        grid("quik")


def test_only_preregistered_runs_may_look_at_the_test_split():
    looking = {name for name, preset in PRESETS.items() if preset.split == "test"}
    exploratory = {"dose-between", "ablations", "alternatives", "second-world", "second-family"}
    offered = {name for name in CONFIRMATORY | EXPLORATORY if name in PRESETS}  # which they are when their bases are there
    second = offered - {"second-alternatives-dev"}
    assert looking == {"published", "dose", *exploratory, *second}
    assert {PRESETS[name].split for name in PRESETS} == {"dev", "test"}


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


def test_a_seed_that_tables_cannot_keep_is_refused_before_anything_is_built():
    with pytest.raises(ValueError, match="seed is 99999999999999999999; it must be at most 9223372036854775807"):
        grid("smoke", seeds=[99999999999999999999])
    with pytest.raises(ValueError, match="seed is 99999999999999999999"):
        changed(domain_spec("driving"), ["seed"], 99999999999999999999)
