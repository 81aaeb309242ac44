"""Replay mixing: exact at every step, no clip again before the others, and nothing remembered."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylab.mixture import Mixture

FRACTIONS = st.one_of(st.sampled_from([0.0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 1.0]), st.floats(0, 1))


@given(FRACTIONS, st.integers(1, 40), st.integers(0, 60), st.integers(1, 3))
def test_every_count_is_within_half_a_sample_of_its_target(fraction, batch_size, steps, sources):
    mixture = Mixture(fraction, batch_size, [50] * (sources + 1), seed=1)
    filled = Counter(slot.domain for step in range(steps) for slot in mixture.batch(step))
    slots = steps * batch_size
    replayed = slots - filled[0]
    assert abs(replayed - slots * Fraction(str(fraction))) <= Fraction(1, 2)
    assert [filled[domain] for domain in range(sources + 1)] == mixture.counts(steps)
    shares = [filled[domain] for domain in range(1, sources + 1)]
    assert max(shares) - min(shares) <= 1


@given(FRACTIONS, st.integers(1, 20), st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_no_clip_repeats_before_the_others_were_used(fraction, batch_size, target_clips, replay_clips, seed):
    mixture = Mixture(fraction, batch_size, [target_clips, replay_clips], seed)
    visits: dict[int, list[int]] = {0: [], 1: []}
    for step in range(30):
        for slot in mixture.batch(step):
            visits[slot.domain].append(slot.clip)
    for domain, clips in ((0, target_clips), (1, replay_clips)):
        for start in range(0, len(visits[domain]), clips):
            epoch = visits[domain][start : start + clips]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(clips))


def test_a_step_does_not_depend_on_the_steps_before_it():
    forwards = [Mixture(0.3, 7, [11, 5], 3).batch(step) for step in range(20)]
    backwards = [Mixture(0.3, 7, [11, 5], 3).batch(step) for step in reversed(range(20))]
    assert forwards == backwards[::-1]


def test_seeds_order_clips_differently():
    assert Mixture(0.5, 16, [100, 100], 0).batch(0) != Mixture(0.5, 16, [100, 100], 1).batch(0)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_fraction_outside_zero_to_one_is_refused_by_name(fraction):
    with pytest.raises(ValueError, match="replay_fraction"):
        Mixture(fraction, 4, [5, 5], 0)


def test_a_domain_without_clips_is_refused():
    with pytest.raises(ValueError, match="domain 1"):
        Mixture(0.5, 4, [5, 0], 0)
    with pytest.raises(ValueError, match="no domain to replay"):
        Mixture(0.5, 4, [5], 0)
    Mixture(0.0, 4, [5, 0], 0)
