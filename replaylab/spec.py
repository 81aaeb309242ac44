"""What is this run? Frozen descriptions, presets, canonical JSON and the run's name.

Decision: a run's name is the hash of everything that determines its numbers, base weights included, so a finished
run can be read instead of trained, anywhere, and a changed setting can never be mistaken for the old one.
Randomness is asked for by (seed, purpose, number) and never kept as state. Refused: unknown or missing keys.

This room imports neither torch nor pandas: reading results must be quick.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = Path(__file__).parent / "weights"


class Described:
    """What all descriptions share: to and from plain JSON."""

    def as_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]  # tuples become lists


def canonical_json(spec: Described) -> str:
    return json.dumps(spec.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(spec: Described) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]


def generator(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """The stream of random numbers for one purpose: the same for the same arguments, wherever it is asked for."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def torch_seed(seed: int, purpose: str, number: int = 0) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed`."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class WorldSpec(Described):
    """A domain to render: how many videos of (train, dev, test), of which world, look and motion.

    `worlds.check` lists what each world knows. In the driving worlds `motion` says what happens
    in the eventful videos and `eventful_share` how many there are, exact in the long run; the others are ordinary.
    """

    name: str
    world: str  # traffic | country | physics | orbit | doom
    look: str
    motion: str
    videos: tuple[int, int, int]
    seed: int = 0
    eventful_share: float = 1.0
    frames: int = 12
    frames_per_second: float = 4.0
    size_px: int = 64
    edition: int = 2  # of the worlds: raised when the same description would give other videos


@dataclass(frozen=True)
class EvaluationSpec(Described):
    """Which clips are sampled and measured, the same for every arm and step.

    The first `clips` clips of `split` are continued by the model; real clips of other scenes of the same split, the
    next `reference_clips`, are what distances are taken to.
    """

    domains: tuple[WorldSpec, ...]
    split: str
    clips: int
    reference_clips: int
    sampler_steps: int = 8
    miss_cap_px: float = 16.0  # what an agent that is not found costs; no error counts for more
    noise_seed: int = 0
    detector: str = ""  # digest of its weights


@dataclass(frozen=True)
class RunSpec(Described):
    """One fine-tuning and its evaluation."""

    base: str  # digest of the weights that fine-tuning starts from
    target: WorldSpec
    replay: tuple[WorldSpec, ...]  # empty where replay_fraction is 0
    replay_fraction: float  # share of each batch that is replayed, exact in the long run
    seed: int  # target clips' order, replayed clips' order, noise
    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float
    evaluate_at: tuple[int, ...]  # fine-tuning steps; step 0 is the base, measured once for all runs
    evaluation: EvaluationSpec

    def __post_init__(self) -> None:
        check_fraction(self.replay_fraction)
        if self.replay_fraction == 0 and self.replay:
            raise ValueError(
                "replay must be empty where replay_fraction is 0: it is the same run whatever is not replayed"
            )
        if self.replay_fraction > 0 and not self.replay:
            raise ValueError(f"replay_fraction is {self.replay_fraction}, but replay names no domain")
        if not self.evaluate_at or self.evaluate_at[-1] != self.steps:
            raise ValueError(f"evaluate_at must end with the last step, {self.steps}; got {self.evaluate_at}")

    @property
    def run_id(self) -> str:
        return digest(self)

    @property
    def replay_name(self) -> str:
        return "+".join(world.name for world in self.replay)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RunSpec:
        """The inverse of `as_dict`; raises ValueError that names the unknown or missing keys and lists the valid ones."""
        evaluation = dict(plain.get("evaluation", {}))
        evaluation["domains"] = tuple(_world(world) for world in evaluation.get("domains", ()))
        return _build(cls, {
            **plain,
            "target": _world(plain.get("target", {})),
            "replay": tuple(_world(world) for world in plain.get("replay", ())),
            "evaluate_at": tuple(plain.get("evaluate_at", ())),
            "evaluation": _build(EvaluationSpec, evaluation),
        })  # fmt: skip


def _world(plain: dict[str, Any]) -> WorldSpec:
    return _build(WorldSpec, {**plain, "videos": tuple(plain.get("videos", ()))})


def _build(cls: Any, plain: dict[str, Any]) -> Any:
    valid = {entry.name for entry in fields(cls)}
    unknown, missing = sorted(set(plain) - valid), sorted(valid - set(plain))
    if unknown or missing:
        raise ValueError(
            f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; valid keys are {sorted(valid)}"
        )
    return cls(**plain)


def check_fraction(fraction: float) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise ValueError(
            f"replay_fraction is {fraction!r}; it must be a number from 0 (no replay) to 1 (replay only)"
        )


@cache
def weights_digest(folder: Path) -> str:
    """Twelve hex digits of the SHA-256 of a folder's safetensors and JSON files; raises FileNotFoundError."""
    files = sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights; make them with `python -m replaylab pretrain`")
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.relative_to(folder).as_posix().encode())
        whole.update(file.read_bytes())
    return whole.hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------------- domains
_VIDEOS = (512, 128, 128)
DOMAINS = {
    spec.name: spec
    for spec in (
        WorldSpec("driving", "traffic", "target", "ordinary", _VIDEOS),
        WorldSpec("driving-eventful", "traffic", "target", "eventful", _VIDEOS),
        WorldSpec("driving-held-out", "traffic", "target", "held-out", _VIDEOS),
        WorldSpec("driving-repetitive", "traffic", "target", "repetitive", _VIDEOS),
        WorldSpec("diverse-driving", "traffic", "target", "free", _VIDEOS),
        WorldSpec("near", "traffic", "diverse", "free", _VIDEOS),
        WorldSpec("physics", "physics", "any", "bodies", _VIDEOS),
        WorldSpec("orbit", "orbit", "any", "any", _VIDEOS),
        WorldSpec("doom", "doom", "any", "walk", _VIDEOS),
        WorldSpec("country", "country", "country", "ordinary", _VIDEOS),
        WorldSpec("country-eventful", "country", "country", "eventful", _VIDEOS),
        WorldSpec("country-held-out", "country", "country", "held-out", _VIDEOS),
    )
}
"""The domains of the experiments, in a size that is easily changed: `domain_spec("near", videos=...)`."""


def domain_spec(name: str, /, **changes: Any) -> WorldSpec:
    """One of DOMAINS with other fields; raises ValueError that lists the names."""
    if name not in DOMAINS:
        raise ValueError(f"domain {name!r} is none of {', '.join(DOMAINS)}")
    return replace(DOMAINS[name], **changes)


# ------------------------------------------------------------------------------------------------------------- presets
@dataclass(frozen=True)
class Preset(Described):
    """A grid of runs: every seed at every replay fraction, all else equal."""

    name: str
    replay_fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    videos: tuple[int, int, int]  # of the target and of the replayed domain
    evaluation_clips: int
    reference_clips: int
    steps: int
    evaluate_at: tuple[int, ...]
    batch_size: int
    about: str
    learning_rate: float = 4e-4
    ema_decay: float = 0.98
    split: str = "dev"  # the test split belongs to preregistered runs


_QUICK = Preset(
    name="quick",
    replay_fractions=(0.0, 0.25, 0.5),
    seeds=(0,),
    videos=(192, 112, 0),
    evaluation_clips=40,
    reference_clips=72,
    steps=120,
    evaluate_at=(40, 120),
    batch_size=16,
    about="one seed on the dev split, at most ten minutes on two cores",
)
PRESETS = {
    "smoke": replace(
        _QUICK, name="smoke", replay_fractions=(0.0, 0.5), videos=(8, 16, 0), evaluation_clips=8, reference_clips=8,
        steps=4, evaluate_at=(2, 4), batch_size=4, about="seconds, for tests: its numbers mean nothing",
    ),
    "quick": _QUICK,
    "published": replace(
        _QUICK, name="published", seeds=(0, 1, 2), replay_fractions=(0.0, 0.25),
        about="what the book shows: until the preregistered runs exist, three seeds on the dev split, exploratory",
    ),
}  # fmt: skip


def worlds_of(preset: Preset) -> dict[str, WorldSpec]:
    """The domains of a preset by name: the target, its eventful twin, and what is replayed."""
    unseen = (0, *preset.videos[1:])  # nobody trains on the eventful twin
    videos = {"driving": preset.videos, "driving-eventful": unseen, "near": preset.videos}
    return {name: domain_spec(name, videos=count) for name, count in videos.items()}


def grid(
    preset_name: str, replay_fractions: list[float] | None = None, seeds: list[int] | None = None
) -> list[RunSpec]:
    """The runs of a preset, or of other fractions and seeds with its settings; errors list what is valid."""
    if preset_name not in PRESETS:
        raise ValueError(f"preset {preset_name!r} is none of {', '.join(PRESETS)}")
    preset = PRESETS[preset_name]
    worlds = worlds_of(preset)
    evaluation = EvaluationSpec(
        tuple(worlds.values()), preset.split, preset.evaluation_clips, preset.reference_clips,
        detector=weights_digest(WEIGHTS / "detector"),
    )  # fmt: skip
    template = RunSpec(
        base=weights_digest(WEIGHTS / "base"), target=worlds["driving"], replay=(), replay_fraction=0.0, seed=0,
        steps=preset.steps, batch_size=preset.batch_size, learning_rate=preset.learning_rate,
        ema_decay=preset.ema_decay, evaluate_at=preset.evaluate_at, evaluation=evaluation,
    )  # fmt: skip
    return [
        replace(
            template, replay=(worlds["near"],) if fraction else (), replay_fraction=float(fraction), seed=seed
        )
        for seed in (seeds or preset.seeds)
        for fraction in map(_checked, replay_fractions or preset.replay_fractions)
    ]


def _checked(fraction: float) -> float:
    check_fraction(fraction)
    return fraction
