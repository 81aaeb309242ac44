"""Who fills slot i of step s? Exact replay mixing as a pure function.

Decision: slots are numbered through the whole run, slot n = step * batch_size + i. After n slots a fraction f has
been replayed exactly floor(n f + 1/2) times, in exact rational arithmetic: never more than half a sample from its
target, at any step, for any batch size. Clips of a domain are visited in epochs, each a fresh permutation: none
repeats before the others were used. Nothing is remembered, so a resumed run cannot differ from one never killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from replaylab.spec import check_fraction, generator


@dataclass(frozen=True)
class Slot:
    """One sample of a batch: domain 0 is the target, 1, 2, ... the replayed ones in the spec's order."""

    domain: int
    clip: int


@dataclass(frozen=True)
class Mixture:
    """The batches of a run. `clips` counts each domain's clips, the target's first."""

    replay_fraction: float
    batch_size: int
    clips: Sequence[int]
    seed: int

    def __post_init__(self) -> None:
        check_fraction(self.replay_fraction)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        needed = [0] * (self.replay_fraction < 1) + list(range(1, len(self.clips))) * (
            self.replay_fraction > 0
        )
        if self.replay_fraction > 0 and len(self.clips) < 2:
            raise ValueError(f"replay_fraction is {self.replay_fraction}, but there is no domain to replay")
        empty = [domain for domain in needed if self.clips[domain] < 1]
        if empty:
            raise ValueError(f"domain {empty[0]} (0 is the target) has no clips to fill its slots with")

    def replayed_before(self, slot: int) -> int:
        """How many of the first `slot` slots are replayed."""
        return int(slot * self._fraction + Fraction(1, 2))

    @property
    def _fraction(self) -> Fraction:
        return Fraction(str(self.replay_fraction))  # 0.1 means one tenth, not its binary neighbour

    def batch(self, step: int) -> list[Slot]:
        """The slots of one step (from 0)."""
        return [self._slot(step * self.batch_size + i) for i in range(self.batch_size)]

    def _slot(self, slot: int) -> Slot:
        replayed = self.replayed_before(slot)
        if self.replayed_before(slot + 1) == replayed:
            return Slot(0, self._clip(0, slot - replayed))
        sources = len(self.clips) - 1  # several sources take turns
        domain, visit = 1 + replayed % sources, replayed // sources
        return Slot(domain, self._clip(domain, visit))

    def _clip(self, domain: int, visit: int) -> int:
        epoch, place = divmod(visit, self.clips[domain])
        return int(_order(self.seed, domain, epoch, self.clips[domain])[place])

    def counts(self, steps: int) -> list[int]:
        """Realised samples of each domain after `steps` steps."""
        slots = steps * self.batch_size
        replayed = self.replayed_before(slots)
        sources = len(self.clips) - 1
        return [slots - replayed] + [replayed // sources + (i < replayed % sources) for i in range(sources)]


@lru_cache(maxsize=64)
def _order(seed: int, domain: int, epoch: int, clips: int) -> np.ndarray:
    return generator(seed, f"order of domain {domain}", epoch).permutation(clips)
