"""Frozen descriptions of runs and their parts, and the random streams of a run.

Decision: a run's name is the hash of everything that determines its numbers, base weights included. A finished run can
therefore be read instead of trained on any machine, and a changed setting always gives another name. Random numbers are a
function of (seed, purpose, number) and never stored as state.

Neither torch nor pandas is imported here, so that results are read quickly.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from replaylab.catalogue import SOURCES
from replaylab.description import LATER, Described, check_fraction, check_name, check_numbers, digest


def generator(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """The random stream for one purpose: the same for the same arguments."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def torch_seed(seed: int, purpose: str, number: int = 0) -> int:
    """A 63-bit seed for `torch.Generator.manual_seed`."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number])
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class WorldSpec(Described):
    """A domain to render: the numbers of videos of (train, dev, test), and the world, appearance (`look`) and motion.

    `worlds.build.check_world` lists the appearances and motions of each world. In the driving worlds `motion` is that of the
    eventful videos, whose share is `eventful_share`, exact in the long run; the others are ordinary.
    """

    name: str
    world: str  # one of worlds.build.WORLDS
    look: str
    motion: str
    videos: tuple[int, int, int]
    seed: int = 0
    eventful_share: float = 1.0
    frames: int = 12
    frames_per_second: float = 4.0
    size_px: int = 64
    edition: int = 2  # of the worlds: raised when the same description would give other videos

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        check_numbers(self, "seed", least=0)


@dataclass(frozen=True)
class FolderSpec(Described):
    """A domain in a folder (`data.domain`): your own videos."""

    name: str
    digest: str  # of its domain.json, which has the checksum of every video
    size_px: tuple[int, int]  # height and width
    folder: str

    def __post_init__(self) -> None:
        check_name(self.name, "name")

    @property
    def videos(self) -> tuple[int, int, int]:
        """No videos are rendered."""
        return 0, 0, 0


World = WorldSpec | FolderSpec


@dataclass(frozen=True)
class ModelSpec(Described):
    """A pretrained video generator of one of the `models.families`, and the shape of its clips."""

    folder: str  # in diffusers' layout, or a name on the hub
    digest: str  # of its network's weights
    frames: int  # of a clip, the context included
    context_frames: int
    frames_per_second: float
    prompt: str = ""
    guidance: float = 1.0  # at sampling, away from an empty prompt

    def __post_init__(self) -> None:
        check_numbers(self, "frames", "context_frames", least=1)
        check_numbers(self, "frames_per_second", "guidance", least=0)


@dataclass(frozen=True)
class DetectorSpec(Described):
    """An object detector of transformers, in place of the shipped one: see `metrics.detectors.pretrained`."""

    folder: str  # in transformers' layout, or a name on the hub
    digest: str  # of weights, classes and threshold
    agents: tuple[str, ...] = ()  # its classes, each with the kind of agent: "car=car"; () for the usual ones
    threshold: float = 0.5  # the lowest score of a box

    def __post_init__(self) -> None:
        check_numbers(self, "threshold", above=0)


EDITIONS_OF_MEASURES = (2, 3)
"""Editions of the set of measures: edition 3 adds the share of the true motion that is predicted."""


KEPT_PERCENTILES = (5, 95)
"""The first and the last percentile of motion of the clips that are kept as examples."""
MOST_KEPT = KEPT_PERCENTILES[1] - KEPT_PERCENTILES[0] + 1


@dataclass(frozen=True)
class EvaluationSpec(Described):
    """Which clips are sampled and measured, the same for every configuration and step.

    The first `clips` clips of `split` are continued by the model; distances are computed to the next `reference_clips`, real
    clips of other scenes of the same split.
    """

    domains: tuple[World, ...]  # first ordinary driving in the target's look, whose mean motion the others use
    split: str
    clips: int
    reference_clips: int
    at_the_end: tuple[World, ...] = ()  # more domains, measured at the last step only
    futures: int = 1  # sampled per clip: its measures are means over them, beside the ADE of the best
    sampler_steps: int = 8
    precision: str = "fp32"  # of sampling: fp32, or bf16, twice as fast where there is hardware
    miss_cap_px: float = 16.0  # the cost of an agent that is not detected; no error counts for more
    noise_seed: int = 0
    detector: str = ""  # digest of its weights
    video_network: str = ""  # digest of its weights
    edition: int = 2  # one of EDITIONS_OF_MEASURES: raised when the same description would give other numbers
    object_detector: DetectorSpec | None = field(default=None, metadata=LATER)  # None: the shipped one
    measured_in: str = field(default="fp32", metadata=LATER)  # or bf16: the video network, denoising losses
    futures_at_the_end: int = field(default=0, metadata=LATER)  # sampled per clip after the last step; 0: `futures`
    second_detector: str = field(default="", metadata=LATER)  # digest of its weights; "": agents are detected once
    kept_clips: int = field(default=3, metadata=LATER)  # of each domain, kept of every run as examples

    def __post_init__(self) -> None:
        check_numbers(self, "sampler_steps", "futures", least=1)
        check_numbers(self, "clips", "reference_clips", "noise_seed", least=0)
        check_numbers(self, "miss_cap_px", above=0)
        check_numbers(self, "kept_clips", least=1)
        if self.kept_clips > MOST_KEPT:
            raise ValueError(f"kept_clips is {self.kept_clips}; at most {MOST_KEPT} percentiles of motion differ")
        if self.futures_at_the_end < 0:
            raise ValueError(f"futures_at_the_end is {self.futures_at_the_end}; it must be at least 1, or 0 for as ever")
        if self.edition not in EDITIONS_OF_MEASURES:
            raise ValueError(f"edition {self.edition} is none of {', '.join(map(str, EDITIONS_OF_MEASURES))}")
        for name in ("precision", "measured_in"):
            if (value := getattr(self, name)) not in ("fp32", "bf16"):
                raise ValueError(f"{name} {value!r} is none of fp32, bf16")

    @property
    def worlds(self) -> tuple[World, ...]:
        """All domains that are measured."""
        return (*self.domains, *self.at_the_end)

    def futures_of(self, at_the_end: bool) -> int:
        """The number of futures sampled per clip, after the last step or an earlier one."""
        return (self.futures_at_the_end if at_the_end else 0) or self.futures


SCHEDULES = ("constant", "periodic", "ramp", "anneal")
BUFFERS = ("first", "random", "coverage")
CLIP_ORDERS = ("shuffled", "computed")


NOISE_LEVELS = ("all", "high", "low")
"""Noise levels of replayed clips: the model's own distribution, or only its part above, or below, the median."""


@dataclass(frozen=True)
class ReplaySpec(Described):
    """The replayed domains, their share of the batches, and its schedule."""

    domains: tuple[World, ...] = ()  # empty where the fraction is 0
    fraction: float = 0.0  # share of all samples that are replayed, exact in the long run
    schedule: str = "constant"  # one of SCHEDULES: see `mixture.Mixture`
    period: int = 0  # steps from one burst to the next, where the schedule is periodic
    weights: tuple[float, ...] = ()  # of the domains among themselves; () for equal ones
    buffer_clips: int = 0  # clips kept of each domain; 0 for all
    buffer_choice: str = "random"  # one of BUFFERS: see `mixture.buffer`
    generated: bool = False  # generative replay: of each clip the context is kept, the future is sampled from the base
    still: bool = field(default=False, metadata=LATER)  # each clip is its first frame, repeated
    loss_weight: float = field(default=1.0, metadata=LATER)  # of a replayed clip's loss, where a driving clip's is 1
    noise_levels: str = field(default="all", metadata=LATER)  # at which replayed clips are trained, one of NOISE_LEVELS

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.fraction == 0 and any(getattr(self, one.name) != one.default for one in fields(self)):
            raise ValueError(
                "replay_fraction is 0, so replay must name no domain, schedule, weights or buffer: it is the same run "
                "whatever is not replayed"
            )
        if self.fraction > 0 and not self.domains:
            raise ValueError(f"replay_fraction is {self.fraction}, but replay names no domain")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        check_numbers(self, "loss_weight", above=0)
        if self.noise_levels not in NOISE_LEVELS:
            raise ValueError(f"noise_levels {self.noise_levels!r} is none of {', '.join(NOISE_LEVELS)}")
        if not all(isinstance(each, (int, float)) and 0 < each < math.inf for each in self.weights) or self.period < 0:
            raise ValueError(f"weights are {self.weights} and period {self.period}; they must be above 0, and 0 or above")
        if self.still and self.generated:
            raise ValueError("replay is still or generated, not both")
        if self.buffer_choice not in BUFFERS or self.buffer_clips < 0:
            raise ValueError(
                f"buffer_choice is {self.buffer_choice!r} and buffer_clips {self.buffer_clips}; choices are "
                f"{', '.join(BUFFERS)}, and clips 0 for all or more"
            )

    @property
    def name(self) -> str:
        """The kind of replay, one of `catalogue.SOURCES`; else the domains' names."""
        names = tuple(world.name for world in self.domains)
        return next((kind for kind, members in SOURCES.items() if members == names), "+".join(names))


TRAINED = ("full", "lora", "temporal")
REMEDIES_ON_WEIGHTS = ("l2-sp", "ewc", "wise-ft")  # they compare weights with the base's
REMEDIES = ("none", "lwf", *REMEDIES_ON_WEIGHTS)


@dataclass(frozen=True)
class TrainingSpec(Described):
    """Steps, batch size, learning rate and which weights are trained."""

    steps: int
    batch_size: int  # of all ranks and gradient accumulation steps together
    learning_rate: float
    ema_decay: float
    decay: bool = False  # whether the learning rate falls linearly to zero, as in pretraining
    trained: str = "full"  # full: all weights | lora: low-rank adapters | temporal: the layers that mix frames
    lora_rank: int = 8
    accumulate: int = 1  # gradient accumulation steps
    clip_order: str = field(default="shuffled", metadata=LATER)  # one of CLIP_ORDERS: see `mixture.Mixture`
    stable_share: float = field(default=0.0, metadata=LATER)  # of the steps, before the learning rate begins to fall
    muon_rate: float = field(default=0.0, metadata=LATER)  # of Muon on the blocks' matrices; 0: AdamW on all weights

    def __post_init__(self) -> None:
        check_numbers(self, "steps", "batch_size", "lora_rank", "accumulate", least=1)
        check_numbers(self, "learning_rate", above=0)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be from 0 to below 1")
        if not 0 <= self.stable_share < 1 or not 0 <= self.muon_rate < math.inf:
            raise ValueError(
                f"stable_share is {self.stable_share} and muon_rate {self.muon_rate}; they must be from 0 to below 1, and "
                "0 or above"
            )
        if self.trained not in TRAINED:
            raise ValueError(f"trained is {self.trained!r}, none of {', '.join(TRAINED)}")
        if self.clip_order not in CLIP_ORDERS:
            raise ValueError(f"clip_order is {self.clip_order!r}, none of {', '.join(CLIP_ORDERS)}")


@dataclass(frozen=True)
class RemedySpec(Described):
    """A method against forgetting in addition to replay, or instead of it: see `training.regularizers`."""

    kind: str = "none"
    strength: float = 0.0  # l2-sp, ewc, lwf: weight of the penalty; wise-ft: the base's share of the average
    domains: tuple[World, ...] = ()  # ewc: of the Fisher information
    clips: int = 0  # ewc: the number of each domain

    def __post_init__(self) -> None:
        check_numbers(self, "strength", "clips", least=0)
        if self.kind not in REMEDIES:
            raise ValueError(f"remedy {self.kind!r} is none of {', '.join(REMEDIES)}")
        if (self.kind == "none") != (self.strength == 0) or self.strength < 0:
            raise ValueError(f"remedy {self.kind!r} with strength {self.strength}: a remedy has one above 0")
        if self.kind == "wise-ft" and self.strength > 1:
            raise ValueError(f"remedy 'wise-ft' with strength {self.strength}: it is the base's share, at most 1")
        if (self.kind == "ewc") != bool(self.domains and self.clips):
            raise ValueError("remedy ewc needs domains and clips, and no other remedy has them")


PRECISIONS = ("auto", "fp32", "bf16")
CLUSTERS = ("inline", "local", "slurm")
"""Where missing runs are trained: in this process, in processes that outlive it, or in SLURM jobs."""


@dataclass(frozen=True)
class MachineSpec(Described):
    """How a run is executed: it changes numbers in their last bits at most, and is not part of the run's name."""

    precision: str = "auto"  # bf16 where the GPU or the processor has it, else fp32
    compiled: bool = False  # torch.compile: faster after some hundreds of steps
    sharded: bool = False  # FSDP2 instead of DDP, with several ranks
    gradient_checkpointing: bool = False  # less memory, a third more time
    checkpoint_steps: int = 100  # from one checkpoint to the next
    threads: int = 0  # of each process; 0: torch's own choice
    tracker: str = ""  # what gets the values of the log besides: see `training.trackers`

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be at least 1, or 0 for torch's own choice")
        if self.checkpoint_steps < 1:
            raise ValueError(f"checkpoint_steps is {self.checkpoint_steps}; it must be at least 1")


@dataclass(frozen=True)
class RunSpec(Described):
    """One fine-tuning and its evaluation."""

    base: str  # digest of the base weights
    target: World
    seed: int  # of the order of target and replayed clips, and of noise
    training: TrainingSpec
    evaluate_at: tuple[int, ...]  # fine-tuning steps; step 0 is the base, measured once for all runs
    evaluation: EvaluationSpec
    replay: ReplaySpec = ReplaySpec()
    remedy: RemedySpec = RemedySpec()
    model: ModelSpec | None = field(default=None, metadata=LATER)  # None: the tiny one

    def __post_init__(self) -> None:
        check_numbers(self, "seed", least=0)
        if not self.evaluate_at or self.evaluate_at[-1] != self.training.steps:
            raise ValueError(f"evaluate_at must end with the last step, {self.training.steps}; got {self.evaluate_at}")
        if self.training.trained == "lora" and self.remedy.kind in REMEDIES_ON_WEIGHTS:
            raise ValueError(
                f"remedy {self.remedy.kind!r} compares weights with the base's, and trained 'lora' leaves those alone"
            )

    @cached_property
    def run_id(self) -> str:
        """The run's name, its `digest`."""
        return digest(self)

    @property
    def worlds(self) -> tuple[World, ...]:
        """All domains of the run, each once: trained on, replayed, measured, or needed by its remedy."""
        return tuple(dict.fromkeys((self.target, *self.replay.domains, *self.remedy.domains, *self.evaluation.worlds)))

    @property
    def title(self) -> str:
        """The run in words, such as "driving, near replay 25 %, seed 0"."""
        kind = f"{self.replay.name} " if self.replay.name else ""
        return f"{self.target.name}, {kind}replay {100 * self.replay.fraction:g} %, seed {self.seed}"
