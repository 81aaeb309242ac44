"""Replay in buckets: each batch has one resolution (or length, or shape), and each domain has its share of the mixture.

Decision: the mixture determines domains, the bucket determines clips. A bucket's share of the steps is its share of the
mixture's samples, allotted by the mixture's rule; within its steps, its domains are allotted by the same rule. Both
are exact to one, so the count of a domain stays within `bounds()` of its target at every step. Like a mixture, it is a pure
function of the step. Refused: schedules, whose shares change over the run, and clips without a bucket.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import lcm
from statistics import median

from replaylab.mixture import Mixture, Slot
from replaylab.spec import torch_seed


@dataclass(frozen=True)
class BucketedMixture:
    """A mixture whose batches each come from one bucket; used like a mixture in a `ReplayBatchSampler`.

    `buckets` lists, for each domain, the bucket of each of its clips: any hashable value, such as (height, width).
    """

    mixture: Mixture
    buckets: Sequence[Sequence[Hashable]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(tuple(named) for named in self.buckets))
        if self.mixture.schedule != "constant":
            raise ValueError(f"schedule is {self.mixture.schedule!r}; buckets have constant shares only")
        counts = tuple(len(named) for named in self.buckets)
        if counts != self.mixture.clips:
            raise ValueError(f"buckets are given for {counts} clips of the domains; the mixture has {self.mixture.clips}")

    @property
    def batch_size(self) -> int:
        """Slots of a step, of all ranks together."""
        return self.mixture.batch_size

    @property
    def clips(self) -> Sequence[int]:
        """The number of clips of each domain."""
        return self.mixture.clips

    def bucket(self, step: int) -> Hashable:
        """The bucket of all clips of a step's batch."""
        return self._names[self._chosen.batch(step)[0].domain - 1]

    def batch(self, step: int) -> list[Slot]:
        """The slots of one step (from 0)."""
        done = self._chosen.counts(step)
        number = self._chosen.batch(step)[0].domain
        clips = self._clips[number - 1]
        return [
            Slot(slot.domain - 1, clips[slot.domain - 1][slot.clip]) for slot in self._filled[number - 1].batch(done[number])
        ]

    def counts(self, steps: int) -> list[int]:
        """Samples of each domain in the first `steps` steps."""
        done = self._chosen.counts(steps)[1:]
        filled = [mixture.counts(count)[1:] for mixture, count in zip(self._filled, done, strict=True)]
        return [sum(counts) for counts in zip(*filled, strict=True)]

    def targets(self, steps: int) -> list[Fraction]:
        """Target number of samples of each domain in the first `steps` steps: exact rational numbers."""
        return self.mixture.targets(steps)

    def bounds(self) -> list[float]:
        """The largest difference between each domain's count and its target, after any number of steps.

        One for each bucket that it shares with another domain; and, since a bucket differs from its own target by less than
        a batch, the batch size times the domain's shares of the buckets, relative to their median: zero for equal shares.
        """
        bounds = []
        for domain in range(len(self.clips)):
            shares = [weights[domain] / sum(weights) for weights in self._weights]
            middle = median(shares)
            shared = sum(0 < share < 1 for share in shares)
            bounds.append(float(shared + self.batch_size * sum(abs(share - middle) for share in shares)))
        return bounds

    @cached_property
    def _names(self) -> list[Hashable]:
        """The buckets with a share above 0."""
        named = dict.fromkeys(
            name for names, share in zip(self.buckets, self.mixture.shares, strict=True) if share for name in names
        )
        return list(named)

    @cached_property
    def _clips(self) -> list[list[list[int]]]:
        """For each bucket, the clips of each domain in it."""
        number = {name: number for number, name in enumerate(self._names)}
        clips: list[list[list[int]]] = [[[] for _ in self.buckets] for _ in self._names]
        for domain, names in enumerate(self.buckets):
            for clip, name in enumerate(names):
                if name in number:
                    clips[number[name]][domain].append(clip)
        return clips

    @cached_property
    def _weights(self) -> list[list[Fraction]]:
        """The target share of the run's samples for the clips of each domain in each bucket."""
        return [
            [share * len(clips) / max(1, total)
             for share, clips, total in zip(self.mixture.shares, of_domains, self.clips, strict=True)]
            for of_domains in self._clips
        ]  # fmt: skip

    @cached_property
    def _chosen(self) -> Mixture:
        """The bucket of each step, as domain 1, 2, ... of a mixture with batches of one."""
        weights = _whole([sum(weights, Fraction(0)) for weights in self._weights])
        return Mixture(1.0, 1, [0, *(1 for _ in weights)], self.mixture.seed, weights=weights)

    @cached_property
    def _filled(self) -> list[Mixture]:
        """The mixture that fills the steps of each bucket, with domains from 1 on."""
        return [
            replace(self.mixture, replay_fraction=1.0, clips=[0, *map(len, clips)], weights=_whole(weights),
                    seed=torch_seed(self.mixture.seed, "clips of a bucket", number))
            for number, (clips, weights) in enumerate(zip(self._clips, self._weights, strict=True))
        ]  # fmt: skip


def _whole(weights: Sequence[Fraction]) -> list[int]:
    unit = lcm(*(weight.denominator for weight in weights))
    return [int(weight * unit) for weight in weights]
