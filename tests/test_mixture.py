"""Replay mixing: exact at every step, no clip again before the others, and nothing remembered."""

import tracemalloc
from bisect import bisect_left
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from replaylab.mixture import MOST_SHUFFLED, Mixture, buffer
from replaylab.spec import BUFFERS, SCHEDULES
from replaylab.sweeps.presets import steps_for

FRACTIONS = st.one_of(st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.8, 1.0]), st.floats(0, 1))
STEPS = 24


@st.composite
def mixtures(draw, ranks: int = 1):
    sources = draw(st.integers(1, 6))
    weights = draw(st.one_of(st.just([]), st.lists(st.integers(0, 9), min_size=sources, max_size=sources)))
    return Mixture(
        draw(FRACTIONS), ranks * draw(st.integers(1, 12)), [draw(st.integers(1, 30)) for _ in range(sources + 1)],
        draw(st.integers(0, 3)), draw(st.sampled_from(SCHEDULES)), STEPS, draw(st.sampled_from([1, 3, 8, STEPS])),
        weights if sum(weights) else [],
    )  # fmt: skip


@given(mixtures())
def test_every_domain_is_within_one_sample_of_its_target_after_every_step(mixture):
    filled = Counter()
    for step in range(STEPS + 1):
        counts, targets = mixture.counts(step), mixture.targets(step)
        assert counts == [filled[domain] for domain in range(len(mixture.clips))]
        assert sum(targets) == sum(counts) == step * mixture.batch_size
        assert all(abs(count - target) < 1 for count, target in zip(counts, targets, strict=True))
        if step < STEPS:
            filled.update(slot.domain for slot in mixture.batch(step))


@given(mixtures())
def test_no_clip_repeats_before_the_others_were_used(mixture):
    visits: dict[int, list[int]] = {domain: [] for domain in range(len(mixture.clips))}
    for step in range(STEPS):
        for slot in mixture.batch(step):
            visits[slot.domain].append(slot.clip)
    for domain, clips in enumerate(mixture.clips):
        for start in range(0, len(visits[domain]), clips):
            epoch = visits[domain][start : start + clips]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(clips))


@given(mixtures(ranks=6), st.sampled_from([1, 2, 3, 6]), st.integers(0, STEPS - 1))
def test_ranks_share_each_batch_without_overlap(mixture, ranks, step):
    parts = [mixture.batch(step, rank, ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    together = [slot for group in zip(*parts, strict=True) for slot in group]
    assert together == mixture.batch(step)


@settings(max_examples=25)
@given(mixtures(), st.randoms(use_true_random=False))
def test_a_step_does_not_depend_on_what_was_asked_before(mixture, random):
    forwards = [mixture.batch(step) for step in range(STEPS)]
    steps = list(range(STEPS))
    random.shuffle(steps)
    fresh = Mixture(*(getattr(mixture, name) for name in mixture.__dataclass_fields__))
    assert {step: fresh.batch(step) for step in steps} == dict(enumerate(forwards))


def tijdeman(mixture: Mixture) -> list[int]:
    """The domains of all slots of STEPS steps by the rule as it is written: slot after slot, in exact fractions."""
    size, slots = mixture.batch_size, STEPS * mixture.batch_size

    def target(domain: int, slot: int) -> Fraction:
        step, rest = divmod(slot, size)
        before = mixture.target(domain, step)
        return before + (mixture.target(domain, step + 1) - before) * rest / size if rest else before

    sources = [domain for domain in range(len(mixture.clips)) if mixture.target(domain, STEPS)]
    margin = Fraction(1, max(2, 2 * len(sources) - 2))
    targets = {domain: [target(domain, slot) for slot in range(slots + 1)] for domain in sources}

    def first_slot(domain: int, amount: Fraction) -> int:
        if mixture.schedule == "constant":
            return ceil(amount * size / mixture.target(domain, 1))
        return bisect_left(targets[domain], amount)  # whatever is beyond the run is equally late

    taken, filled = dict.fromkeys(sources, 0), []
    windows = {domain: (first_slot(domain, margin), first_slot(domain, 1 - margin)) for domain in sources}
    for slot in range(1, slots + 1):
        domain = min((last, domain) for domain, (first, last) in windows.items() if first <= slot)[1]
        filled.append(domain)
        taken[domain] += 1
        windows[domain] = first_slot(domain, taken[domain] + margin), first_slot(domain, taken[domain] + 1 - margin)
    return filled


@given(mixtures(), st.integers(0, STEPS - 1))
def test_any_step_is_filled_as_if_all_before_it_had_been(mixture, step):
    filled = tijdeman(mixture)
    size = mixture.batch_size
    assert [slot.domain for slot in mixture.batch(step)] == filled[step * size : (step + 1) * size]
    assert mixture.counts(step + 1) == [filled[: (step + 1) * size].count(domain) for domain in range(len(mixture.clips))]


LARGE = {"clips": [10**7] * 50, "seed": 0, "clip_order": "computed"}


@pytest.mark.parametrize("schedule", [*SCHEDULES, "weights"])
def test_a_late_step_of_a_large_run_needs_little_memory_and_is_exact(schedule):
    given = (
        {"weights": [1 + (7 * number) % 23 / 10 for number in range(49)]}
        if schedule == "weights"
        else {"schedule": schedule}
    )
    step = 9_000_000
    mixture = Mixture(0.25, 512, steps=10**7, period=1000, **given, **LARGE)
    tracemalloc.start()
    batch = mixture.batch(step)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6
    before, after, targets = mixture.counts(step), mixture.counts(step + 1), mixture.targets(step)
    assert all(abs(count - target) < 1 for count, target in zip(before, targets, strict=True))
    filled = Counter(slot.domain for slot in batch)
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [
        filled[domain] for domain in range(50)
    ]
    assert all(0 <= slot.clip < 10**7 for slot in batch) and len(set(batch)) == len(batch)


@pytest.mark.parametrize("clips", [MOST_SHUFFLED, MOST_SHUFFLED + 1, 100_003, 2**17])
def test_a_computed_order_visits_every_clip_once_in_each_epoch_and_otherwise_in_the_next(clips):
    mixture = Mixture(0.0, clips, [clips], 3, clip_order="computed")
    first, second = ([slot.clip for slot in mixture.batch(epoch)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(clips))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10  # one is expected of independent permutations


def test_a_computed_order_is_as_even_as_a_shuffled_one():
    """Chi-square over cells of (place, clip) and of neighbouring clips, one below 1 in 1000 for a fair permutation."""
    clips, cells = 100_003, 16
    mixture = Mixture(0.0, clips, [clips], 5, clip_order="computed")
    order = np.array([slot.clip for slot in mixture.batch(0)])
    low, high = chi2.ppf([0.001, 0.999], (cells - 1) ** 2)
    place, band = np.arange(clips), order * cells // clips
    for a, b in ((place * cells // clips, band), (band[:-1], band[1:]), (place % cells, order % cells)):
        table = np.bincount(a * cells + b, minlength=cells**2).reshape(cells, cells)
        expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
        assert low < ((table - expected) ** 2 / expected).sum() < high
    steps = np.diff(order)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(clips) and len(np.unique(steps)) > 0.4 * clips


@given(FRACTIONS, st.integers(1, 9), st.sampled_from(SCHEDULES))
def test_every_schedule_replays_the_same_share_of_the_whole_run(fraction, batch_size, schedule):
    mixture = Mixture(fraction, batch_size, [5, 5], 0, schedule, STEPS, period=8)
    assert mixture.targets(STEPS)[1] == STEPS * batch_size * Fraction(str(fraction))


def replayed_by_step(schedule, fraction, **fields):
    mixture = Mixture(fraction, 100, [5, 5], 0, schedule, STEPS, **fields)
    return [sum(slot.domain > 0 for slot in mixture.batch(step)) for step in range(STEPS)]


def test_schedules_do_what_their_names_say():
    assert set(replayed_by_step("constant", 0.25)) == {25}
    assert replayed_by_step("periodic", 0.25, period=8) == ([0] * 6 + [100] * 2) * 3
    ramp, anneal = replayed_by_step("ramp", 0.25), replayed_by_step("anneal", 0.25)
    assert all(later >= earlier - 1 for earlier, later in pairwise(ramp))
    assert ramp[0] <= 1 and ramp[-1] >= 49
    assert all(abs(a - b) <= 1 for a, b in zip(ramp, anneal[::-1], strict=True))
    steep = replayed_by_step("ramp", 0.75)
    assert steep[0] >= 50 and steep[-1] >= 99


def test_weights_share_the_replay_between_sources():
    mixture = Mixture(0.5, 16, [9, 9, 9, 9], 0, weights=(5, 3, 0))
    assert mixture.counts(100) == [800, 500, 300, 0]


def test_a_longer_run_begins_like_a_shorter_one():
    short, long = (Mixture(0.3, 7, [11, 5], 3, steps=steps) for steps in (10, 1000))
    assert [short.batch(step) for step in range(10)] == [long.batch(step) for step in range(10)]


def test_seeds_order_clips_differently():
    assert Mixture(0.5, 16, [100, 100], 0).batch(0) != Mixture(0.5, 16, [100, 100], 1).batch(0)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_fraction_outside_zero_to_one_is_refused_by_name(fraction):
    with pytest.raises(ValueError, match="replay_fraction"):
        Mixture(fraction, 4, [5, 5], 0)


@pytest.mark.parametrize("fields, message", [
    ({"clips": [5, 0]}, "domain 1"),
    ({"clips": [5]}, "no domain to replay"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"schedule": "sometimes"}, "none of constant, periodic, ramp, anneal"),
    ({"clip_order": "sorted"}, "none of shuffled, computed"),
    ({"schedule": "ramp"}, "steps is 0"),
    ({"schedule": "periodic", "steps": 9}, "period is 0"),
    ({"schedule": "periodic", "steps": 9, "period": 4}, "whole periods"),
    ({"weights": [1, 2]}, "give 1 numbers"),
    ({"weights": [0]}, "not all 0"),
])  # fmt: skip
def test_what_cannot_be_mixed_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**{"replay_fraction": 0.5, "batch_size": 4, "clips": [5, 5], "seed": 0, **fields})


def test_what_nothing_is_taken_from_may_be_empty():
    assert Mixture(0.0, 4, [5, 0], 0).counts(3) == [12, 0]
    assert Mixture(1.0, 4, [0, 5], 0).counts(3) == [0, 12]
    assert Mixture(0.5, 4, [5, 5, 0], 0, weights=[1, 0]).counts(3) == [6, 6, 0]


def test_uneven_ranks_and_steps_beyond_the_run_are_refused():
    with pytest.raises(ValueError, match="shared evenly by 3 ranks"):
        Mixture(0.5, 4, [5, 5], 0).batch(0, 0, 3)
    with pytest.raises(ValueError, match="beyond the run of 10 steps"):
        Mixture(0.5, 4, [5, 5], 0, "ramp", 10).batch(10)


@given(st.integers(1, 40), st.data(), st.sampled_from(BUFFERS), st.integers(0, 5))
def test_a_buffer_keeps_that_many_different_clips(clips, data, choose, seed):
    size = data.draw(st.integers(1, clips))
    features = np.random.default_rng(seed).integers(0, 3, (clips, 2))
    kept = buffer(clips, size, choose, seed, features)
    assert kept == sorted(set(kept)) and len(kept) == size and set(kept) <= set(range(clips))
    assert kept == buffer(clips, size, choose, seed, features)


def test_coverage_keeps_one_of_every_cluster():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 20, (8, 3))
    features = np.repeat(centres, [90, 2, 1, 1, 1, 1, 1, 3], axis=0) + rng.normal(0, 0.1, (100, 3))
    clusters = np.repeat(np.arange(8), [90, 2, 1, 1, 1, 1, 1, 3])
    assert set(clusters[buffer(100, 8, "coverage", features=features)]) == set(range(8))
    assert set(clusters[buffer(100, 8, "first")]) == {0}
    with pytest.raises(ValueError, match=r"features: finite numbers \(100, D\)"):
        buffer(100, 8, "coverage")


@given(st.integers(1, 500), st.floats(0, 0.95), st.integers(1, 20))
def test_the_budget_of_driving_samples_is_met_and_no_step_too_many(samples, fraction, batch_size):
    steps = steps_for(samples, fraction, batch_size)
    mixture = Mixture(fraction, batch_size, [5, 5], 0)
    assert mixture.targets(steps)[0] >= samples > mixture.targets(steps - 1)[0]
    assert mixture.counts(steps)[0] > samples - 1
