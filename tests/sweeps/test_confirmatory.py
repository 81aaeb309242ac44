"""The second edition's presets are the runs that its claims are about, measured where they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import named_weights
import pytest

from replaylab.analysis.claims import Configuration
from replaylab.analysis.second_edition import BASES_NEEDED, CLAIMS, READINGS, AlignmentClaim
from replaylab.catalogue import DOMAINS
from replaylab.shipped_weights import base_folder, weights_digest
from replaylab.spec import MachineSpec, RunSpec
from replaylab.store import ReferenceSpec
from replaylab.sweeps import ablations, presets, sweep
from replaylab.sweeps.cluster import ClusterSpec
from replaylab.sweeps.presets import CONFIRMATORY, DETECTORS, EXPLORATORY, MEASURED, SECOND_BASES, Preset
from replaylab.worlds.build import check_world
from replaylab.worlds.named import domain_spec

SECOND_EDITION = CONFIRMATORY | EXPLORATORY


def configurations(preset: Preset) -> set[Configuration]:
    shares = [(kind, share) for kind in preset.replay_kinds for share in preset.replay_fractions if share]
    none = [("", 0.0)] if 0 in preset.replay_fractions else []
    return {Configuration(kind, share, target) for kind, share in (*none, *shares) for target in preset.targets}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_a_claim_is_about_is_run_from_every_base_and_measured_where_it_is_read(claim) -> None:
    for configuration in claim.configurations:
        preset = next(one for one in CONFIRMATORY.values() if configuration in configurations(one))
        assert len(preset.bases) == len(set(preset.bases)) == len(preset.seeds) == BASES_NEEDED
        at_steps = isinstance(claim, AlignmentClaim)
        assert set(claim.domains) <= {*preset.evaluated, *(() if at_steps else preset.at_the_end)}
        assert not at_steps or len(preset.evaluate_at) >= 5


def test_every_target_is_evaluated_on_every_kind_of_driving() -> None:
    kinds = {"driving", "driving-repetitive", "driving-family-a", "driving-family-b", "driving-eventful"}
    for name in ("confirmatory", "confirmatory-targets"):
        preset = CONFIRMATORY[name]
        assert {*preset.evaluated, *preset.at_the_end} == kinds and set(preset.targets) <= kinds


def test_nothing_is_run_that_no_claim_is_about() -> None:
    wanted = {configuration for claim in CLAIMS for configuration in claim.configurations}
    assert {one for preset in CONFIRMATORY.values() for one in configurations(preset)} == wanted


@pytest.fixture
def there(monkeypatch, tmp_path) -> Path:
    named_weights.install(monkeypatch, tmp_path)
    return tmp_path


def test_every_base_has_one_run_of_each_configuration_with_clips_of_its_own(there) -> None:
    specs = presets.grid("confirmatory")
    assert len(specs) == 4 * 6 == len({spec.run_id for spec in specs})
    by_base: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_base.setdefault(spec.base, []).append(spec)
    assert set(by_base) == {weights_digest(there / f"base-{seed}") for seed in range(2, 8)}
    for of in by_base.values():
        assert {(spec.replay.name, spec.replay.fraction) for spec in of} == {
            ("", 0.0), ("near", 0.25), ("near-without-a", 0.25), ("far", 0.25)
        }  # fmt: skip
        assert len({spec.seed for spec in of}) == len({spec.target for spec in of}) == 1
    assert len({spec.target for spec in specs}) == len(SECOND_BASES)
    targets = presets.grid("confirmatory-targets")
    assert {ReferenceSpec.of(spec) for spec in targets} == {ReferenceSpec.of(spec) for spec in specs}


def test_the_second_edition_is_measured_with_its_own_settings_and_the_first_as_ever(there) -> None:
    (evaluation,) = {spec.evaluation for spec in presets.grid("confirmatory")}
    assert evaluation.kept_clips == 24
    assert (evaluation.sampler_steps, evaluation.measured_in, evaluation.edition) == (4, "bf16", 3)
    assert (evaluation.futures_of(False), evaluation.futures_of(True)) == (1, 1)
    (natural,) = {spec.evaluation for spec in presets.grid("confirmatory-natural")}
    assert (natural.futures_of(False), natural.futures_of(True)) == (1, 5)  # its drivers may act after the context
    detectors = tuple(weights_digest(there / name) for name in DETECTORS["second"])
    assert (evaluation.detector, evaluation.second_detector) == detectors and len(set(detectors)) == 2
    assert READINGS[2] == "ade_second_detector_px"
    assert MEASURED["first"] == {} and presets.evaluation_of(presets.PRESETS["quick"]).second_detector == ""


def test_a_seed_without_a_base_is_refused(there) -> None:
    with pytest.raises(ValueError, match="seed 0 has no base: preset 'confirmatory' has the seeds 12, 13, 14, 15, 16, 17"):
        presets.grid("confirmatory", seeds=[0])


@pytest.mark.parametrize("name", SECOND_EDITION)
def test_a_preset_is_offered_once_its_bases_are_shipped(name, there) -> None:
    preset = SECOND_EDITION[name]
    assert preset.split == ("dev" if name.endswith("-dev") else "test")
    parts = [base_folder(base, preset.family, part) for base in preset.bases for part in preset.sixteenths]
    for folder in parts:
        folder.mkdir(exist_ok=True)
    assert presets.is_offered(preset)
    for missing in (parts[-1], *(there / name for name in DETECTORS["second"])):
        missing.rename(there / "elsewhere")
        assert not presets.is_offered(preset)
        (there / "elsewhere").rename(missing)


@pytest.mark.parametrize("name", presets.PRESETS | SECOND_EDITION)
def test_all_domains_of_a_preset_can_be_rendered_and_have_the_clips_that_are_measured(name) -> None:
    preset = (presets.PRESETS | SECOND_EDITION)[name]
    of_split = dict(zip(("train", "dev", "test"), preset.videos, strict=True))[preset.split]
    assert of_split >= preset.evaluation_clips + preset.reference_clips
    for seed in preset.seeds:
        for world in presets.trained_worlds(preset, seed).values():
            check_world(world)
    for at_the_end in (False, True):
        for world in presets.evaluated_worlds(preset, at_the_end).values():
            check_world(world)


def test_the_second_edition_is_measured_on_scenes_that_the_first_did_not_see() -> None:
    first, second = (
        {world.seed for end in (False, True) for world in presets.evaluated_worlds(preset, end).values()}
        for preset in (presets.PRESETS["published"], CONFIRMATORY["confirmatory"])
    )
    assert not first & second


@pytest.mark.parametrize("name", SECOND_EDITION)
def test_what_is_offered_is_what_can_be_run(name) -> None:
    assert (name in presets.PRESETS) == presets.is_offered(SECOND_EDITION[name])


def test_whether_a_better_base_forgets_more_is_run_from_every_part_of_two_bases_training(there) -> None:
    specs = presets.grid("scale")
    assert len(specs) == 2 * 5 * 2 == len({spec.run_id for spec in specs})
    assert len({spec.base for spec in specs}) == 10 and {spec.replay.fraction for spec in specs} == {0.0, 0.25}


def test_the_second_editions_ablations_change_one_thing_each(there) -> None:
    made = {variation.name: ablations.runs_of("second-ablations", variation) for variation in ablations.SECOND_ABLATIONS}
    assert len({run.run_id for runs in made.values() for run in runs}) == 3 * len(made)
    plain = made["near replay 25 %"][0].replay
    assert made["loss weight 0.25"][0].replay == replace(plain, loss_weight=0.25)
    assert made["high noise levels only"][0].replay == replace(plain, noise_levels="high")


def test_a_dry_run_tells_core_hours(monkeypatch, tmp_path) -> None:
    from replaylab.training import fine_tuning

    monkeypatch.setattr(fine_tuning, "estimate_seconds", lambda *_: 5400.0)
    specs = presets.grid("smoke")
    for threads, hours in ((1, "1.5 core hours"), (4, "6.0 core hours")):
        machine = MachineSpec(threads=threads)
        assert sweep.estimate(specs, tmp_path, specs, "inline", ClusterSpec(), machine).endswith(hours)


def test_every_domain_that_is_trained_on_or_read_exists_and_has_words() -> None:
    read = {domain for claim in CLAIMS for domain in claim.domains}
    for preset in CONFIRMATORY.values():
        kinds = preset.replay_kinds if any(preset.replay_fractions) else ()
        trained = {*preset.targets, *(name for kind in kinds for name in presets.members_of(kind))}
        for name in trained | read | {*preset.evaluated, *preset.at_the_end}:
            assert domain_spec(name).name == name in DOMAINS


def test_an_edition_is_the_newest_once_all_runs_of_its_claims_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    assert presets.newest_edition() == ("second" if {*CONFIRMATORY} <= {*presets.PUBLISHED} else "first")
    some = [*presets.EDITIONS["first"].claims, *list(CONFIRMATORY)[:-1]]
    monkeypatch.setattr(presets, "PUBLISHED", some)
    assert presets.newest_edition() == "first"
    monkeypatch.setattr(presets, "PUBLISHED", [*some, list(CONFIRMATORY)[-1]])
    assert presets.newest_edition() == "second"
