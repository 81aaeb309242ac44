"""Exact, scheduled replay mixing: which domain and which clip fill each slot of each batch, as a pure function.

Decision: slots are numbered through the whole run, and at every slot each domain has a target count: its share of all slots
so far, given by fraction, schedule and weight, in exact rational arithmetic. Tijdeman's algorithm for the chairman
assignment problem (R. Tijdeman, 1980, Discrete Mathematics 32, 323-330, section 2) fills the slots so that the count of each
domain always differs from its target by less than one sample, for any number of domains and any schedule. Clips of a domain
are visited in epochs, each a new permutation: no clip repeats before all others were used. The content of a slot depends on
the mixture and the slot alone, so a resumed run equals an uninterrupted one, all ranks agree, and any step can be computed
without those before it.

Refused: fractions outside 0 to 1, domains without clips, batches that ranks cannot share evenly, and steps beyond a
scheduled run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from heapq import heappop, heappush, heappushpop
from math import isfinite, lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from replaylab.description import check_fraction
from replaylab.spec import BUFFERS, CLIP_ORDERS, SCHEDULES, generator

MOST_SHUFFLED = 2**16  # clips of a domain whose order is a held permutation even where orders are computed
ROUNDS = 8


class Slot(NamedTuple):
    """One sample of a batch: domain 0 is the target, 1, 2, ... the replayed ones in the spec's order."""

    domain: int
    clip: int


@dataclass(frozen=True)
class Mixture:
    """The batches of a run. With every schedule, `replay_fraction` of all samples of the run are replayed.

    Schedules: `constant`, the same share in every batch; `periodic`, the target alone and then a burst of replay alone at
    the end of every `period` steps; `ramp`, a share that grows linearly from 0 (from 2f - 1 if the fraction f exceeds
    one half) to 2f (at most 1); `anneal`, the reverse of `ramp`.
    """

    replay_fraction: float
    batch_size: int  # of all ranks together
    clips: Sequence[int]  # the number in each domain, the target's first
    seed: int
    schedule: str = "constant"
    steps: int = 0  # of the whole run; needed by all schedules but `constant`
    period: int = 0  # steps from one burst to the next
    weights: Sequence[float] = ()  # of the replayed domains among themselves; () for equal ones
    clip_order: str = "shuffled"  # of an epoch: a permutation in memory; or `computed` clip by clip, for millions of clips

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
        if self.clip_order not in CLIP_ORDERS:
            raise ValueError(f"clip_order {self.clip_order!r} is none of {', '.join(CLIP_ORDERS)}")
        if self.schedule != "constant" and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; schedule {self.schedule!r} must know the run's length")
        if self.schedule == "periodic" and (self.period < 1 or self.steps % self.period):
            raise ValueError(f"period is {self.period}; the {self.steps} steps must be whole periods, at least one")
        if self.weights and (
            len(self.weights) != sources
            or not all(isfinite(weight) and weight >= 0 for weight in self.weights)
            or not sum(self.weights)
        ):
            raise ValueError(f"weights is {self.weights}; give {sources} numbers from 0, one a replayed domain, not all 0")
        empty = [domain for domain, share in enumerate(self.shares) if share and self.clips[domain] < 1]
        if empty:
            raise ValueError(f"domain {empty[0]} (0 is the target) has no clips to fill its slots with")

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Slot]:
        """The slots of one step (from 0) that a rank fills: every `ranks`-th of the batch, from `rank` on."""
        if self.batch_size % ranks:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared evenly by {ranks} ranks: make it a multiple")
        self.check_step(step + 1)
        domains, before = _filling(self).advance(step * self.batch_size, (step + 1) * self.batch_size)
        visits = np.empty(self.batch_size, np.int64)
        for domain in np.flatnonzero(np.bincount(domains)):
            slots = np.flatnonzero(domains == domain)
            visits[slots] = before[domain] + np.arange(len(slots))
        clips = self._clips_of(domains, visits)
        return list(map(Slot._make, zip(domains[rank::ranks].tolist(), clips[rank::ranks].tolist(), strict=True)))

    def counts(self, steps: int) -> list[int]:
        """Realised number of samples of each domain in the first `steps` steps."""
        self.check_step(steps)
        return _filling(self).counts(steps * self.batch_size)

    def targets(self, steps: int) -> list[Fraction]:
        """Target number of samples of each domain in the first `steps` steps: exact rational numbers."""
        return [self.target(domain, steps) for domain in range(len(self.clips))]

    def target(self, domain: int, step: int) -> Fraction:
        """Target number of samples of one domain (0: the target domain) in the first `step` steps: an exact rational."""
        replayed = self.batch_size * self._replayed_until(step)
        return step * self.batch_size - replayed if domain == 0 else replayed * self._source_weights[domain - 1]

    def check_step(self, step: int) -> None:
        """Raises ValueError for a step beyond the run, where the schedule depends on the run's length."""
        if self.schedule != "constant" and step > self.steps:
            raise ValueError(f"step {step} is beyond the run of {self.steps} steps that the schedule is for")

    def _replayed_until(self, step: int) -> Fraction:
        """The sum of the replayed shares of the first `step` batches."""
        fraction = self._fraction
        if self.schedule == "constant":
            return step * fraction
        self.check_step(step)
        if self.schedule == "periodic":
            bursts, rest = divmod(step, self.period)
            return bursts * fraction * self.period + max(Fraction(0), rest - (1 - fraction) * self.period)
        low, high = max(Fraction(0), 2 * fraction - 1), min(Fraction(1), 2 * fraction)
        start, slope = (low, high - low) if self.schedule == "ramp" else (high, low - high)
        return start * step + slope * step**2 / (2 * self.steps)

    def _clips_of(self, domains: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """The clip of each sample, given its domain and its number among the samples of that domain."""
        sizes = np.array(self.clips)[domains]
        epochs, places = visits // sizes, visits % sizes
        clips = np.empty(len(visits), np.int64)
        large = (sizes > MOST_SHUFFLED) & (self.clip_order == "computed")
        groups, group = np.unique(epochs * len(self.clips) + domains, return_inverse=True)
        keys = np.zeros((len(groups), ROUNDS), np.uint64)
        for number, code in enumerate(groups.tolist()):
            slots, (epoch, domain) = np.flatnonzero(group == number), divmod(code, len(self.clips))
            if large[slots[0]]:
                keys[number] = _round_keys(self.seed, domain, epoch)
            else:
                clips[slots] = _order(self.seed, domain, epoch, self.clips[domain])[places[slots]]
        clips[large] = _computed(places[large], sizes[large], keys[group[large]])
        return clips

    @cached_property
    def _fraction(self) -> Fraction:
        return Fraction(str(self.replay_fraction))  # 0.1 means one tenth, not its binary neighbour

    @cached_property
    def _source_weights(self) -> list[Fraction]:
        given = [Fraction(str(weight)) for weight in self.weights] or [Fraction(1)] * (len(self.clips) - 1)
        return [weight / sum(given) for weight in given]

    @cached_property
    def shares(self) -> list[Fraction]:
        """Each domain's share of the run."""
        return [1 - self._fraction, *(self._fraction * weight for weight in self._source_weights)]


class _Filling:
    """The slots of a mixture, filled by Tijdeman's rule, from any slot on.

    With k domains, the m-th sample of a domain (m from 0) is released when its target reaches m + d and is due before the
    target exceeds m + 1 - d, where d = 1 / (2k - 2). Of the released samples, the one with the earliest deadline is taken.

    Slot n is computed without the slots before it. The number of samples with deadlines up to x in the queue at n depends on
    the number of such samples queued earlier, not on their identity (the queue's recursion: D. V. Lindley, 1952,
    Mathematical Proceedings of the Cambridge Philosophical Society 48, 277-289). Filling may therefore begin at a slot s
    before the release of any sample that can still be queued at n. Any choice of the queued samples at s is valid if their
    number is right: from n on the result equals that of filling from slot 0. The distance from s to n is at most the longest
    time in the queue, 1 / (the smallest share) where shares are constant.

    All numbers are integers: targets are counted in `unit` parts of a sample. Arrays have dtype int64 where it is large
    enough, else Python's integers.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture, self.size = mixture, mixture.batch_size
        self.is_constant = mixture.schedule == "constant"
        self.domains = [domain for domain, share in enumerate(mixture.shares) if share]
        margin = Fraction(1, max(2, 2 * len(self.domains) - 2))
        self.weight_sum = lcm(*(weight.denominator for weight in mixture._source_weights))
        self.weights = [int(weight * self.weight_sum) for weight in mixture._source_weights]
        self.unit = margin.denominator * mixture._fraction.denominator * self.weight_sum
        self.unit *= 2 * mixture.steps if mixture.schedule in ("ramp", "anneal") else 1
        self.margin = int(margin * self.unit)
        self._targets = lru_cache(maxsize=1024)(self._targets_after)
        self._reached = 0, [0] * len(self.domains)  # a slot, and the samples taken before it: where the next step begins

    def _taken(self, slots: int) -> list[int]:
        reached, taken = self._reached  # at once: a loader's thread may be filling too
        if reached != slots:
            taken = self._fill(*self._start(slots), slots)[1]
            self._reached = slots, taken
        return taken

    def advance(self, start: int, stop: int) -> tuple[np.ndarray, list[int]]:
        """The domain of each slot from `start` to `stop`, and the samples of each domain before them."""
        before = self._taken(start)
        filled, after = self._fill(start, before, stop)
        self._reached = stop, after
        return np.array(self.domains)[filled], self._of_all(before)

    def counts(self, slots: int) -> list[int]:
        """Samples of each domain in the first `slots` slots."""
        return self._of_all(self._taken(slots))

    def _of_all(self, taken: list[int]) -> list[int]:
        counts = dict(zip(self.domains, taken, strict=True))
        return [counts.get(domain, 0) for domain in range(len(self.mixture.clips))]

    def _start(self, slots: int) -> tuple[int, list[int]]:
        """The slot at which to begin for the state after `slots` slots, and the numbers assumed taken there."""
        ends = [self._slot(which, (m + 1) * self.unit - self.margin) for which, m in enumerate(self._surely_taken(slots))]
        undue = self._due(min(slots, min(ends) - 1))  # each domain's first sample that may wait then, or is released later
        released = [self._slot(which, m * self.unit + self.margin) for which, m in enumerate(undue)]
        begin = max(0, min(slots, min(released) - 1))
        taken = self._released(begin)
        waiting = sum(taken) - begin
        for which, least in enumerate(self._surely_taken(begin)):
            untaken = min(waiting, taken[which] - least)
            taken[which] -= untaken
            waiting -= untaken
        return begin, taken

    def _fill(self, start: int, taken: list[int], stop: int) -> tuple[np.ndarray, list[int]]:
        """The index in `domains` that fills each slot from `start` to `stop`, and the numbers taken after them."""
        counts = np.array(self._released(stop)) - np.array(taken)
        which = np.repeat(np.arange(len(counts)), counts)
        samples = np.array(taken)[which] + np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
        steps = range(0, 2) if self.is_constant else range(start // self.size, -(-stop // self.size) + 1)
        bounds = [self._targets(step) for step in steps]
        most = max((max(taken) + len(which) + 2) * self.unit, *bounds[-1]) * (len(counts) if self.is_constant else self.size)
        latest = max(stop, (self.mixture.steps + 1) * self.size) * len(counts)  # of priorities, where a run has an end
        kind = np.int64 if max(most, 2 * latest) < 2**62 else object
        amounts, limits = samples.astype(kind) * self.unit, np.array(bounds, kind)
        releases = self._slots(which, amounts + self.margin, steps, limits)
        deadlines = self._slots(which, amounts + (self.unit - self.margin), steps, limits)
        priorities = deadlines * len(counts) + which  # by deadline, then by domain
        order = np.argsort(releases, kind="stable")
        filled = _earliest_first(releases[order].tolist(), priorities[order].tolist(), start, stop, len(counts))
        return filled, (np.array(taken) + np.bincount(filled, minlength=len(counts))).tolist()

    def _slots(self, which: np.ndarray, amounts: np.ndarray, steps: range, limits: np.ndarray) -> np.ndarray:
        """`_slot` of many: fast where the result lies within `steps`, at whose ends the targets are `limits`."""
        if self.is_constant:
            return -(-amounts // (limits[1] // self.size)[which])
        piece = np.empty(len(amounts), int)
        for number in range(limits.shape[1]):
            piece[which == number] = np.searchsorted(limits[:, number], amounts[which == number]) - 1
        inside = (piece >= 0) & (piece < len(limits) - 1)
        before, after = (limits[piece[inside] + later, which[inside]] for later in (0, 1))
        slots = np.zeros_like(amounts)
        slots[inside] = (steps[0] + piece[inside]) * self.size - (before - amounts[inside]) * self.size // (after - before)
        for number in np.flatnonzero(~inside).tolist():
            slots[number] = self._slot(int(which[number]), int(amounts[number]))
        return slots

    def _slot(self, which: int, amount: int) -> int:
        """The smallest number of slots after which the target of a domain is at least `amount`."""
        if self.is_constant:
            return -(-amount // (self._targets(1)[which] // self.size))
        last = self.mixture.steps
        step = bisect_left(range(last + 1), amount, key=lambda step: self._targets(step)[which]) - 1  # reached within it
        if step >= last:
            return (last + 1) * self.size  # not within this run
        before, after = self._targets(step)[which], self._targets(step + 1)[which]
        return step * self.size - (before - amount) * self.size // (after - before)

    def _released(self, slots: int) -> list[int]:
        return self._count(slots, self.size * (self.unit - self.margin))

    def _due(self, slots: int) -> list[int]:
        return self._count(slots, self.size * self.margin)

    def _surely_taken(self, slots: int) -> list[int]:
        """The number of deadlines that have passed: a sample may still be queued when its deadline is just reached."""
        return self._count(slots, self.size * self.margin - 1)

    def _count(self, slots: int, ahead: int) -> list[int]:
        """Whole samples in the targets after `slots` slots, which grow evenly within a step, plus `ahead` / (size unit)."""
        step, rest = divmod(slots, self.size)
        before = self._targets(step)
        after = self._targets(step + 1) if rest else before
        levels = (low * self.size + (high - low) * rest for low, high in zip(before, after, strict=True))
        return [(level + ahead) // (self.size * self.unit) for level in levels]

    def _targets_after(self, step: int) -> list[int]:
        replayed = self.size * int(self.mixture._replayed_until(step) * (self.unit // self.weight_sum))  # over `weight_sum`
        driving = step * self.size * self.unit - replayed * self.weight_sum
        targets = [driving, *(replayed * weight for weight in self.weights)]
        return [targets[domain] for domain in self.domains]


def _earliest_first(releases: list[int], priorities: list[int], start: int, stop: int, kinds: int) -> np.ndarray:
    """The kind, `priority % kinds`, that fills each slot: the lowest priority among those released and not yet taken."""
    filled: list[int] = []
    waiting: list[int] = []
    releases.append(stop + 1)
    event = 0
    for slot in range(start + 1, stop + 1):
        if releases[event] > slot:
            filled.append(heappop(waiting))
            continue
        while releases[event + 1] <= slot:
            heappush(waiting, priorities[event])
            event += 1
        filled.append(heappushpop(waiting, priorities[event]))
        event += 1
    return (np.array(filled) % kinds).astype(np.int64)


@lru_cache(maxsize=16)
def _filling(mixture: Mixture) -> _Filling:
    return _Filling(mixture)


@lru_cache(maxsize=64)
def _order(seed: int, domain: int, epoch: int, clips: int) -> np.ndarray:
    return generator(seed, f"order of domain {domain}", epoch).permutation(clips)


@lru_cache(maxsize=1024)
def _round_keys(seed: int, domain: int, epoch: int) -> np.ndarray:
    return generator(seed, f"rounds of domain {domain}", epoch).integers(2**64, size=ROUNDS, dtype=np.uint64)


def _computed(places: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The clips at `places` of permutations of `sizes` clips, computed place by place without storing the permutation.

    A Feistel network over the smallest even number of bits, with a round for each of the `keys` (places, rounds); values
    beyond the size are permuted again (cycle walking: J. Black and P. Rogaway, 2002, CT-RSA, section 4).
    """
    numbers = places.astype(np.uint64)
    half = ((np.frexp(sizes - 1)[1] + 1) // 2).astype(np.uint64)  # of the bits of the largest number
    mask = (np.uint64(1) << half) - np.uint64(1)
    walking = np.arange(len(numbers))
    while len(walking):
        left, right = numbers[walking] >> half[walking], numbers[walking] & mask[walking]
        for key in keys[walking].T:
            left, right = right, left ^ (_scrambled(right + key) & mask[walking])
        numbers[walking] = (left << half[walking]) | right
        walking = walking[numbers[walking] >= sizes[walking].astype(np.uint64)]
    return numbers.astype(np.int64)


def _scrambled(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (G. L. Steele, D. Lea and C. H. Flood, 2014, OOPSLA, figure 16)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def buffer(clips: int, size: int, choose: str = "first", seed: int = 0, features: ArrayLike | None = None) -> list[int]:
    """The ascending numbers of the `size` clips of a domain that are kept for replay.

    `first`; `random`, from the seed; `coverage`, farthest-first in `features` (clips, D): the largest distance from a clip
    to the nearest kept one is at most twice the optimum (Gonzalez 1985, Theoretical Computer Science 38, 293-306;
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
