"""Replay in buckets: one bucket a batch, no clip again before the others of its bucket, domains within the stated bounds."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.buckets import BucketedMixture
from replaylab.mixture import Mixture

STEPS = 30


@st.composite
def mixtures(draw):
    buckets = draw(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=20), min_size=2, max_size=4))
    weights = draw(st.lists(st.sampled_from([0, 1, 2.5]), min_size=len(buckets) - 1, max_size=len(buckets) - 1))
    mixture = Mixture(draw(st.sampled_from([0, 0.1, 0.25, 0.5, 1.0])), draw(st.integers(1, 9)), list(map(len, buckets)),
                      draw(st.integers(0, 3)), weights=weights if sum(weights) else [])  # fmt: skip
    return BucketedMixture(mixture, buckets)


@settings(max_examples=40)
@given(mixtures(), st.randoms(use_true_random=False))
def test_every_batch_is_of_one_bucket_and_every_domain_within_its_bound(mixture, random):
    taken, visited = Counter(), {}
    batches = {step: mixture.batch(step) for step in range(STEPS)}
    for step, batch in batches.items():
        counts, targets = mixture.counts(step), mixture.targets(step)
        assert counts == [taken[domain] for domain in range(len(counts))] and len(batch) == mixture.batch_size
        for count, target, bound in zip(counts, targets, mixture.bounds(), strict=True):
            assert abs(count - target) <= Fraction(bound)
        taken.update(slot.domain for slot in batch)
        for slot in batch:
            assert mixture.buckets[slot.domain][slot.clip] == mixture.bucket(step)
            visited.setdefault((slot.domain, mixture.bucket(step)), []).append(slot.clip)
    for (domain, bucket), clips in visited.items():
        size = mixture.buckets[domain].count(bucket)
        for start in range(0, len(clips), size):
            epoch = clips[start : start + size]
            assert len(set(epoch)) == len(epoch)
    steps = list(range(STEPS))
    random.shuffle(steps)
    fresh = BucketedMixture(mixture.mixture, mixture.buckets)
    assert {step: fresh.batch(step) for step in steps} == batches


def test_one_bucket_is_within_one_sample():
    assert BucketedMixture(Mixture(0.25, 8, [5, 5], 0), ["aaaaa", "aaaaa"]).bounds() == [1, 1]
    assert BucketedMixture(Mixture(0.5, 8, [2, 2], 0), ["aa", "bb"]).bounds() == [4 * 2, 4 * 2]


def test_what_cannot_be_put_into_buckets_is_refused():
    with pytest.raises(ValueError, match=r"given for \(2, 1\) clips of the domains; the mixture has \(2, 2\)"):
        BucketedMixture(Mixture(0.5, 4, [2, 2], 0), ["ab", "a"])
    with pytest.raises(ValueError, match="schedule is 'ramp'; buckets have constant shares only"):
        BucketedMixture(Mixture(0.5, 4, [2, 2], 0, "ramp", 10), ["ab", "ab"])
