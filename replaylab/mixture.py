"""Exact, scheduled replay mixing: which domain and which clip fill each slot of each batch, as a pure function.

Decision: slots are numbered through the whole run, and at every slot each domain has a target: the share of all slots so far
that its fraction, schedule and weight ask for, in exact rational arithmetic. Tijdeman's algorithm for the chairman
assignment problem (R. Tijdeman, 1980, Discrete Mathematics 32, 323-330, section 2) fills the slots so that no domain is ever
a whole sample away from its target, whatever the number of domains and however the targets vary. Clips of a domain are
visited in epochs, each a fresh permutation: none repeats before the others were used. What fills a slot depends on the
mixture and the slot alone, so a resumed run equals one that was never interrupted, and ranks agree.

Refused: fractions outside 0 to 1, domains without clips, batches that ranks cannot share evenly, and steps beyond a
scheduled run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from replaylab.spec import BUFFERS, SCHEDULES, check_fraction, generator


@dataclass(frozen=True)
class Slot:
    """One sample of a batch: domain 0 is the target, 1, 2, ... the replayed ones in the spec's order."""

    domain: int
    clip: int


@dataclass(frozen=True)
class Mixture:
    """The batches of a run. Whatever the schedule, `replay_fraction` of all its samples are replayed.

    Schedules: `constant`, the same share in every batch; `periodic`, driving alone and then a burst of replay alone at
    the end of every `period` steps; `ramp`, a share that grows linearly from 0 (from 2f - 1 if the fraction f is over
    one half) to 2f (at most 1); `anneal`, the same falling.
    """

    replay_fraction: float
    batch_size: int  # of all ranks together
    clips: Sequence[int]  # the number in each domain, the target's first
    seed: int
    schedule: str = "constant"
    steps: int = 0  # of the whole run; needed by all schedules but `constant`
    period: int = 0  # steps from one burst to the next
    weights: Sequence[float] = ()  # of the replayed domains among themselves; () for equal ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", tuple(self.clips))
        object.__setattr__(self, "weights", tuple(self.weights))
        check_fraction(self.replay_fraction)
        sources = len(self.clips) - 1
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.replay_fraction > 0 and not sources:
            raise ValueError(f"replay_fraction is {self.replay_fraction}, but there is no domain to replay")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if self.schedule != "constant" and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; schedule {self.schedule!r} must know the run's length")
        if self.schedule == "periodic" and (self.period < 1 or self.steps % self.period):
            raise ValueError(f"period is {self.period}; the {self.steps} steps must be whole periods, at least one")
        if self.weights and (
            len(self.weights) != sources
            or not all(np.isfinite(weight) and weight >= 0 for weight in self.weights)
            or not sum(self.weights)
        ):
            raise ValueError(f"weights is {self.weights}; give {sources} numbers from 0, one a replayed domain, not all 0")
        empty = [domain for domain, share in enumerate(self._shares) if share and self.clips[domain] < 1]
        if empty:
            raise ValueError(f"domain {empty[0]} (0 is the target) has no clips to fill its slots with")

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Slot]:
        """The slots of one step (from 0) that a rank fills: every `ranks`-th of the batch, from `rank` on."""
        if self.batch_size % ranks:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared evenly by {ranks} ranks: make it a multiple")
        filled = _filled(self)
        visits = filled.before(step)
        slots = []
        for domain in filled.domains(step):
            slots.append(Slot(domain, self._clip(domain, visits[domain])))
            visits[domain] += 1
        return slots[rank::ranks]

    def counts(self, steps: int) -> list[int]:
        """Samples of each domain in the first `steps` steps, as realised."""
        return _filled(self).before(steps)

    def targets(self, steps: int) -> list[Fraction]:
        """Samples of each domain in the first `steps` steps, as asked for: exact, not whole numbers."""
        return [self.target(domain, steps) for domain in range(len(self.clips))]

    def target(self, domain: int, step: int) -> Fraction:
        """Samples of one domain (0: the target) in the first `step` steps, as asked for: exact, not a whole number."""
        replayed = self.batch_size * self._replayed_until(step)
        return step * self.batch_size - replayed if domain == 0 else replayed * self._source_weights[domain - 1]

    def first_slot(self, domain: int, amount: Fraction) -> int:
        """The smallest number of slots after which the domain's target is at least `amount`."""
        if self.schedule == "constant":
            return ceil(amount / self._shares[domain])
        step = bisect_left(self._targets_by_step[domain], amount) - 1  # reached within this step
        if step >= self.steps:
            return (self.steps + 1) * self.batch_size  # not within this run
        before, after = self._targets_by_step[domain][step : step + 2]
        return step * self.batch_size + ceil((amount - before) * self.batch_size / (after - before))

    def check_step(self, step: int) -> None:
        """Raises ValueError for a step beyond the run, where the schedule depends on the run's length."""
        if self.schedule != "constant" and step > self.steps:
            raise ValueError(f"step {step} is beyond the run of {self.steps} steps that the schedule is for")

    def _replayed_until(self, step: int) -> Fraction:
        """The sum of the first `step` batches' replayed shares."""
        fraction = Fraction(str(self.replay_fraction))  # 0.1 means one tenth, not its binary neighbour
        if self.schedule == "constant":
            return step * fraction
        self.check_step(step)
        if self.schedule == "periodic":
            bursts, rest = divmod(step, self.period)
            return bursts * fraction * self.period + max(Fraction(0), rest - (1 - fraction) * self.period)
        low, high = max(Fraction(0), 2 * fraction - 1), min(Fraction(1), 2 * fraction)
        start, slope = (low, high - low) if self.schedule == "ramp" else (high, low - high)
        return start * step + slope * step**2 / (2 * self.steps)

    @cached_property
    def _source_weights(self) -> list[Fraction]:
        given = [Fraction(str(weight)) for weight in self.weights] or [Fraction(1)] * (len(self.clips) - 1)
        return [weight / sum(given) for weight in given]

    @cached_property
    def _shares(self) -> list[Fraction]:
        """Each domain's share of the run."""
        fraction = Fraction(str(self.replay_fraction))
        return [1 - fraction, *(fraction * weight for weight in self._source_weights)]

    @cached_property
    def _targets_by_step(self) -> list[list[Fraction]]:
        return [[self.target(domain, step) for step in range(self.steps + 1)] for domain in range(len(self.clips))]

    def _clip(self, domain: int, visit: int) -> int:
        epoch, place = divmod(visit, self.clips[domain])
        return int(_order(self.seed, domain, epoch, self.clips[domain])[place])


class _Filled:
    """The slots of a mixture, filled from the first on as far as needed: a cache, not a state.

    Of k domains, the m-th sample of one (m from 0) may be taken once its target has reached m + d, and must be before
    it exceeds m + 1 - d, where d = 1 / (2k - 2); of those that may, the one with the earliest deadline is taken.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.active = [domain for domain, share in enumerate(mixture._shares) if share]
        self.margin = Fraction(1, max(2, 2 * len(self.active) - 2))
        self.order = bytearray() if len(mixture.clips) < 256 else []  # type: bytearray | list[int]
        self.counts = [[0] * len(mixture.clips)]  # before each step
        self.windows = {domain: self._window(domain, 0) for domain in self.active}

    def _window(self, domain: int, taken: int) -> tuple[int, int]:
        first = self.mixture.first_slot(domain, taken + self.margin)
        return first, self.mixture.first_slot(domain, taken + 1 - self.margin)

    def _fill(self, steps: int) -> None:
        size = self.mixture.batch_size
        self.mixture.check_step(steps)
        while len(self.counts) <= steps:
            taken = list(self.counts[-1])
            for slot in range(len(self.order) + 1, len(self.order) + size + 1):
                ready = [(last, domain) for domain, (first, last) in self.windows.items() if first <= slot]
                _, domain = min(ready)
                taken[domain] += 1
                self.windows[domain] = self._window(domain, taken[domain])
                self.order.append(domain)
            self.counts.append(taken)

    def before(self, step: int) -> list[int]:
        self._fill(step)
        return list(self.counts[step])

    def domains(self, step: int) -> list[int]:
        self._fill(step + 1)
        size = self.mixture.batch_size
        return list(self.order[step * size : (step + 1) * size])


@lru_cache(maxsize=16)
def _filled(mixture: Mixture) -> _Filled:
    return _Filled(mixture)


@lru_cache(maxsize=64)
def _order(seed: int, domain: int, epoch: int, clips: int) -> np.ndarray:
    return generator(seed, f"order of domain {domain}", epoch).permutation(clips)


def buffer(clips: int, size: int, choose: str = "first", seed: int = 0, features: ArrayLike | None = None) -> list[int]:
    """The ascending numbers of the `size` clips of a domain that are kept for replay.

    `first`; `random`, from the seed; `coverage`, farthest-first in `features` (clips, D), so that every clip has a kept
    one near it: at most twice as far as with the best choice (Gonzalez 1985, Theoretical Computer Science 38, 293-306;
    as core-set in Sener and Savarese 2018, arXiv 1708.00489). Raises ValueError that names the argument.
    """
    if not 1 <= size <= clips:
        raise ValueError(f"size is {size}; a buffer keeps from 1 to all of the {clips} clips")
    if choose not in BUFFERS:
        raise ValueError(f"choose is {choose!r}, none of {', '.join(BUFFERS)}")
    if choose == "first":
        return list(range(size))
    if choose == "random":
        return sorted(map(int, generator(seed, "buffer").choice(clips, size, replace=False)))
    places = np.asarray(features, dtype=float)
    if features is None or places.ndim != 2 or len(places) != clips or not np.isfinite(places).all():
        raise ValueError(f"features: finite numbers ({clips}, D) are needed to choose for coverage")
    kept = [int(np.linalg.norm(places - places.mean(0), axis=1).argmin())]
    nearest = np.linalg.norm(places - places[kept[0]], axis=1)
    while len(kept) < size:
        nearest[kept] = -1.0  # copies of a kept clip come last
        kept.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[kept[-1]], axis=1))
    return sorted(kept)
