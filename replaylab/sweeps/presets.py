"""Presets: grids of runs by name, and the specs of their runs.

Decision: every published table shows one of these presets, so its name is sufficient to reproduce its runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

from replaylab.catalogue import PUBLISHED, SOURCES
from replaylab.description import Described, check_fraction
from replaylab.shipped_weights import WEIGHTS, base_folder, published_digest, weights_digest
from replaylab.spec import EvaluationSpec, MachineSpec, ReplaySpec, RunSpec, TrainingSpec, WorldSpec
from replaylab.worlds.named import DOSE_DOMAINS, domain_spec


def steps_for(target_samples: int, replay_fraction: float, batch_size: int) -> int:
    """Steps after which the target has filled at least `target_samples` slots: the budget of equal driving samples.

    Raises ValueError if everything is replayed.
    """
    check_fraction(replay_fraction)
    if replay_fraction == 1:
        raise ValueError("replay_fraction is 1: no number of steps shows the target")
    return ceil(target_samples / (batch_size * (1 - Fraction(str(replay_fraction)))))


SHARES = {"all": (9.0, 1.0, 1.0, 1.0)}
"""The shares of the domains, if they are not equal."""


@dataclass(frozen=True)
class Preset(Described):
    """A grid of runs: every seed at every replay fraction of every kind of replay, all else being equal."""

    name: str
    replay_fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    videos: tuple[int, int, int]  # of the target; each kind of replay has as many
    evaluation_clips: int
    reference_clips: int
    training: TrainingSpec
    evaluate_at: tuple[int, ...]
    about: str
    split: str = "dev"  # the test split belongs to preregistered runs
    targets: tuple[str, ...] = ("driving",)
    replay_kinds: tuple[str, ...] = ("near",)  # of SOURCES, or a domain; all are one where everything is replayed
    evaluated: tuple[str, ...] = ("driving", "driving-eventful", "near")
    at_the_end: tuple[str, ...] = ()  # evaluated besides, after the last step only
    replayed_at: tuple[int, ...] = ()  # steps at which runs with replay are evaluated; () for `evaluate_at`
    drawn_in: str = "fp32"  # EvaluationSpec.precision
    family: str = "wan"  # of the base that runs start from, one of FAMILIES
    second_base_seeds: tuple[int, ...] = ()  # the runs that start from the family's other base
    bases: tuple[int, ...] = ()  # seeds of the bases that runs start from instead, one for each of the seeds
    sixteenths: tuple[int, ...] = (16,)  # of the bases' whole training: runs start from each of them
    measures: str = "first"  # how runs are measured, one of MEASURED
    kept_clips: int = 3  # of each domain, as examples
    evaluation_seed: int = 0  # of the domains that are evaluated: each seed has other scenes
    futures_at_the_end: int = 0  # sampled per clip after the last step; 0: one, as after the others
    execution: MachineSpec = MachineSpec()  # how its runs are executed where nobody says otherwise; in no run's name
    without_replay_in: str = ""  # the preset that has the same runs without replay, if it is another one; in no run's name


MEASURED: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {"sampler_steps": 4, "measured_in": "bf16", "edition": 3},
}  # fmt: skip
"""Settings of `EvaluationSpec`, of the first and second edition of the experiment."""
DETECTORS = {"first": ("detector",), "second": ("detector-2", "detector-fcos")}
"""Folders of weights of the detectors: the first edition's has not seen simulated traffic, and misses too much of it."""


_QUICK = Preset(
    name="quick", replay_fractions=(0.0, 0.25, 0.5), seeds=(0,), videos=(192, 112, 0), evaluation_clips=40,
    reference_clips=72, training=TrainingSpec(steps=120, batch_size=16, learning_rate=4e-4, ema_decay=0.98),
    evaluate_at=(40, 120), execution=MachineSpec(threads=1),
    about="one seed on the dev split, minutes on two cores",
)  # fmt: skip

_TARGET_LOOK = ("driving", "driving-eventful", "driving-held-out")

_OTHERS = ("near", "near-ordinary", "near-eventful", "near-held-out", "physics", "orbit", "doom")

_PUBLISHED = replace(
    _QUICK, name="published", replay_fractions=(0.0, 0.05, 0.1, 0.25, 0.5, 1.0), seeds=(0, 1, 2, 3, 4),
    videos=(512, 0, 384), evaluation_clips=128, reference_clips=256, training=replace(_QUICK.training, steps=300),
    evaluate_at=(10, 25, 50, 100, 150, 300), split="test", replay_kinds=("near", "far"), evaluated=_TARGET_LOOK,
    at_the_end=_OTHERS, replayed_at=(50, 150, 300), drawn_in="bf16", second_base_seeds=(3, 4),
    execution=MachineSpec("bf16", threads=1),
    about="the preregistered replay sweep: five seeds on the test split, two bases; hours on two cores",
)  # fmt: skip

_PILOT = replace(
    _PUBLISHED, name="pilot", replay_fractions=(0.0, 0.25), seeds=(0, 1, 3), videos=(512, 128, 0),
    evaluation_clips=40, reference_clips=80, replayed_at=(), split="dev",
    about="exploratory runs before the preregistration: three seeds on the dev split",
)  # fmt: skip

_DOSE = replace(
    _PUBLISHED, name="dose", targets=("driving", "driving-eventful"), replay_fractions=(0.0,),
    about="targets that are all ordinary and all eventful, without replay: five seeds on the test split",
)  # fmt: skip

_ABLATION = replace(
    _PUBLISHED, replay_fractions=(0.0, 0.25), seeds=(0, 1, 3), evaluation_clips=64, reference_clips=128,
    evaluate_at=(50, 150, 300), replayed_at=(), replay_kinds=("near",), evaluated=("driving", "driving-eventful"),
    at_the_end=("near-eventful", "physics"),
)  # fmt: skip

SECOND_BASES = tuple(range(2, 8))
"""Seeds of the bases of the second edition, each with clips of its own: the units of its claims."""

_CONFIRMATORY = replace(
    _PUBLISHED, name="confirmatory", replay_fractions=(0.0, 0.25), seeds=tuple(10 + base for base in SECOND_BASES),
    bases=SECOND_BASES, second_base_seeds=(), replay_kinds=("near", "near-without-a", "far"), videos=(512, 0, 416),
    evaluation_clips=160, evaluation_seed=1, evaluate_at=(25, 50, 100, 150, 300), replayed_at=(300,),
    evaluated=("driving", "driving-family-a", "driving-family-b"),
    at_the_end=("driving-eventful", "driving-repetitive"), measures="second", kept_clips=24,
    about="the second edition's claims on driving: without replay and with a quarter of it, one run from each of six bases",
)  # fmt: skip

CONFIRMATORY = {
    preset.name: preset
    for preset in (
        _CONFIRMATORY,
        replace(
            _CONFIRMATORY, name="confirmatory-targets", replay_fractions=(0.0,),
            targets=("driving-repetitive", "driving-family-a", "driving-family-b"),
            about="the second edition's regular and diverse targets without replay: one run from each of six bases",
        ),
        replace(
            _CONFIRMATORY, name="confirmatory-natural", replay_fractions=(0.0,), targets=("natural",),
            evaluate_at=(50, 150, 300), evaluated=("natural",), at_the_end=("natural-eventful", "natural-unfiltered"),
            videos=(512, 0, 384), evaluation_clips=128, futures_at_the_end=5,
            about="the second edition's target that a driver model moves, without replay: one run from each of six bases",
        ),
    )
}  # fmt: skip
"""The runs of the second edition's claims."""

_SECOND_ABLATION = replace(
    _CONFIRMATORY, seeds=(12, 13, 14), bases=(2, 3, 4), replay_kinds=("near",), evaluation_clips=64, reference_clips=128,
    evaluate_at=(50, 150, 300), evaluated=("driving", "driving-eventful"), at_the_end=("near-eventful", "physics"),
    kept_clips=3,
)  # fmt: skip

_SECOND_RIVALS = replace(
    _SECOND_ABLATION, name="second-alternatives",
    about="rivals of replay in the setting that did best on dev, from three of the second edition's bases, exploratory",
)  # fmt: skip

EXPLORATORY = {
    preset.name: preset
    for preset in (
        replace(
            _CONFIRMATORY, name="fractions", replay_fractions=(0.05, 0.1, 0.5, 1.0), replay_kinds=("near", "far"),
            without_replay_in="confirmatory",
            about="the second edition's other replay fractions: one run from each of six bases, exploratory",
        ),
        replace(
            CONFIRMATORY["confirmatory-natural"], name="natural-replay", replay_fractions=(0.25,),
            replay_kinds=("near", "far"), evaluate_at=(300,), without_replay_in="confirmatory-natural",
            about="a quarter of replay on natural driving: one run from each of six bases, exploratory",
        ),
        replace(
            _SECOND_ABLATION, name="country-replay", targets=("country",), replay_fractions=(0.0, 0.25),
            replay_kinds=("near", "far"), evaluated=("country", "country-eventful"), at_the_end=(),
            seeds=_CONFIRMATORY.seeds, bases=SECOND_BASES, evaluation_clips=128, reference_clips=256,
            about="the country road without replay and with a quarter of it: one run from each of six bases, exploratory",
        ),
        replace(
            _SECOND_ABLATION, name="scale", seeds=(13, 14), bases=(3, 4), sixteenths=(1, 2, 4, 8, 16),
            replay_fractions=(0.0, 0.25), evaluate_at=(300,), evaluation_clips=128, reference_clips=256,
            about="bases with a sixteenth to all of their training: does a better base forget more? exploratory",
        ),
        replace(
            _SECOND_ABLATION, name="second-ablations",
            about="near replay of 25 % from three of the second edition's bases with one thing changed, exploratory",
        ),
        replace(
            _SECOND_RIVALS, name="second-alternatives-dev", split="dev", videos=(512, 128, 0), evaluation_clips=40,
            reference_clips=80, evaluation_seed=0, evaluate_at=(300,), at_the_end=(),
            about="rivals of replay with five settings, from three of the second edition's bases, on the dev split",
        ),
        _SECOND_RIVALS,
        replace(
            _SECOND_ABLATION, name="second-family-replay", family="cogvideox", seeds=(12, 13), bases=(2, 3),
            replay_fractions=(0.0, 0.25), replay_kinds=("near", "far"), evaluation_clips=128, reference_clips=256,
            about="another family of models without replay and with a quarter of it, from two bases, exploratory",
        ),
    )
}  # fmt: skip
"""The second edition's runs besides. Each of its presets is among PRESETS once its bases are among the shipped weights."""

PRESETS = {
    preset.name: preset
    for preset in (
        replace(
            _QUICK, name="smoke", replay_fractions=(0.0, 0.5), videos=(8, 16, 0), evaluation_clips=8, reference_clips=8,
            training=TrainingSpec(steps=4, batch_size=4, learning_rate=4e-4, ema_decay=0.98), evaluate_at=(2, 4),
            about="seconds, for tests: its numbers mean nothing",
        ),
        _QUICK,
        _PILOT,
        replace(
            _PILOT, name="pilot-diverse", targets=("diverse-driving",), replay_fractions=(0.0,),
            about="the control of `pilot`: diverse driving with the same appearance and number of clips",
        ),
        _PUBLISHED,
        _DOSE,
        replace(
            _DOSE, name="dose-between", seeds=(0, 1, 3),
            targets=(*DOSE_DOMAINS, "driving-repetitive"),
            about="the doses between, and one event repeated: three seeds, exploratory",
        ),
        replace(
            _ABLATION, name="ablations", about="near replay of 25 % with one thing changed: three seeds, exploratory",
        ),
        replace(
            _ABLATION, name="alternatives",
            about="every alternative to replay in the setting that did best on dev: three seeds, exploratory",
        ),
        replace(
            _PILOT, name="alternatives-dev", seeds=(0,), evaluate_at=(50, 150, 300), at_the_end=(), replay_kinds=("near",),
            evaluated=("driving", "driving-eventful"),
            about="every alternative to replay with five settings, on the dev split",
        ),
        replace(
            _ABLATION, name="second-world", targets=("country",), replay_fractions=(0.0, 0.1, 0.25),
            replay_kinds=("near", "far"), evaluated=("country", "country-eventful"), evaluation_clips=128,
            reference_clips=256, about="the sweep on another driving world: three seeds, exploratory",
        ),
        replace(
            _ABLATION, name="second-family", family="cogvideox", second_base_seeds=(), replay_kinds=("near", "far"),
            evaluation_clips=128, reference_clips=256,
            about="another family of models without replay and with a quarter of it: three seeds, exploratory",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Edition:
    """The presets of an edition of the experiment, by what they are for."""

    claims: tuple[str, ...]
    """those of the preregistration, the only ones that give a verdict"""
    sweep: tuple[str, ...]
    """replay 0 % and the replay fractions of each kind, on the rendered driving world"""
    ablations: str
    dev: str
    """alternatives to replay with several settings, on the dev split"""
    alternatives: str
    """those in their best setting"""
    second_world: str
    second_family: str


EDITIONS = {
    "first": Edition(
        ("published", "dose", "dose-between"), ("published",), "ablations", "alternatives-dev", "alternatives",
        "second-world", "second-family",
    ),
    "second": Edition(
        tuple(CONFIRMATORY), ("confirmatory", "fractions"), "second-ablations", "second-alternatives-dev",
        "second-alternatives", "country-replay", "second-family-replay",
    ),
}  # fmt: skip


def newest_edition() -> str:
    """The newest edition of the experiment whose claims have their runs in the repository."""
    return [name for name, of in EDITIONS.items() if {*of.claims} <= {*PUBLISHED}][-1]


def is_offered(preset: Preset) -> bool:
    """Whether the initial weights of its runs and those of its measures are known: shipped, or by `published_digest`."""
    needed = [base for seed in preset.seeds for base in _bases_of(preset, seed)]
    needed += [WEIGHTS / name for name in DETECTORS[preset.measures]]
    return all(folder.is_dir() for folder in needed)


def trained_worlds(preset: Preset, seed: int = 0) -> dict[str, WorldSpec]:
    """The target and replayed domains, by name; training clips only, different ones for each seed."""
    train = preset.videos[0]
    videos = {name: ceil(train / len(members_of(kind))) for kind in preset.replay_kinds for name in members_of(kind)}
    videos |= dict.fromkeys(preset.targets, train)
    return {name: domain_spec(name, videos=(count, 0, 0), seed=seed) for name, count in videos.items()}


def members_of(kind: str) -> tuple[str, ...]:
    """The domains of a kind of replay: an entry of SOURCES, or the domain of this name."""
    return SOURCES.get(kind, (kind,))


def evaluated_worlds(preset: Preset, at_the_end: bool = False) -> dict[str, WorldSpec]:
    """The domains that are evaluated after every step of `evaluate_at`, or only at the end, by name; without training clips,
    so that presets with other targets share them.
    """
    names = preset.at_the_end if at_the_end else preset.evaluated
    return {name: domain_spec(name, videos=(0, *preset.videos[1:]), seed=preset.evaluation_seed) for name in names}


FAMILIES = ("wan", "cogvideox")
"""Of the tiny bases."""

BUDGETS = ("steps", "driving-samples")


def grid(
    preset_name: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None, budget: str = "steps"
) -> list[RunSpec]:
    """The runs of a preset, or of other fractions and seeds with its settings; errors list what is valid.

    Budget `steps`: all train for the preset's steps. `driving-samples`: all are trained on as many driving samples as the
    run without replay, so a larger fraction needs more steps; evaluations are moved accordingly.
    """
    if preset_name not in PRESETS:
        raise ValueError(f"preset {preset_name!r} is none of {', '.join(PRESETS)}")
    if budget not in BUDGETS:
        raise ValueError(f"budget {budget!r} is none of {', '.join(BUDGETS)}")
    preset = PRESETS[preset_name]
    evaluation = evaluation_of(preset)
    specs = []
    for seed in seeds or preset.seeds:
        worlds = trained_worlds(preset, seed)
        bases = [published_digest(folder) for folder in _bases_of(preset, seed)]
        for fraction in replay_fractions or preset.replay_fractions:
            check_fraction(fraction)
            for base, target in product(bases, preset.targets):
                for replay in _replays(preset, worlds, float(fraction)):
                    steps = preset.replayed_at if replay.fraction and preset.replayed_at else preset.evaluate_at
                    spec = RunSpec(base, worlds[target], seed, preset.training, steps, evaluation, replay)
                    specs.append(_lengthened(spec) if budget == "driving-samples" else spec)
    return specs


def evaluation_of(preset: Preset) -> EvaluationSpec:
    """The evaluation of the runs of a preset."""
    settings, detectors = dict(MEASURED[preset.measures]), DETECTORS[preset.measures]
    for field, name in zip(("detector", "second_detector"), detectors, strict=False):
        settings[field] = weights_digest(WEIGHTS / name)
    return EvaluationSpec(
        tuple(evaluated_worlds(preset).values()), preset.split, preset.evaluation_clips, preset.reference_clips,
        tuple(evaluated_worlds(preset, at_the_end=True).values()),
        precision=preset.drawn_in, video_network=weights_digest(WEIGHTS / "videonet"),
        futures_at_the_end=preset.futures_at_the_end, kept_clips=preset.kept_clips, **settings,
    )  # fmt: skip


def _bases_of(preset: Preset, seed: int) -> list[Path]:
    if not preset.bases:
        return [base_folder(int(seed in preset.second_base_seeds), preset.family)]
    of_seeds = dict(zip(preset.seeds, preset.bases, strict=True))
    if seed not in of_seeds:
        raise ValueError(f"seed {seed} has no base: preset {preset.name!r} has the seeds {', '.join(map(str, of_seeds))}")
    return [base_folder(of_seeds[seed], preset.family, part) for part in preset.sixteenths]


PRESETS |= {name: preset for name, preset in (CONFIRMATORY | EXPLORATORY).items() if is_offered(preset)}
OFFERED_EDITIONS = tuple(
    name for name, of in EDITIONS.items() if {*of.sweep, of.ablations, of.dev, of.alternatives} <= set(PRESETS)
)
"""The editions all of whose presets are offered."""


def _replays(preset: Preset, worlds: dict[str, WorldSpec], fraction: float) -> list[ReplaySpec]:
    """One spec for each kind of replay; a single one if nothing or everything is replayed."""
    if fraction == 0:
        return [ReplaySpec()]
    kinds = ("all",) if fraction == 1 and len(preset.replay_kinds) > 1 else preset.replay_kinds
    return [
        ReplaySpec(tuple(worlds[name] for name in members_of(kind)), fraction, weights=SHARES.get(kind, ()))
        for kind in kinds
    ]


def _lengthened(spec: RunSpec) -> RunSpec:
    """The run with the number of steps that gives it as many driving samples as the run without replay."""
    training = spec.training
    steps = steps_for(training.steps * training.batch_size, spec.replay.fraction, training.batch_size)
    evaluate_at = tuple(round(step * steps / training.steps) for step in spec.evaluate_at)
    return replace(spec, training=replace(training, steps=steps), evaluate_at=evaluate_at)
