"""Distances of feature sets against closed forms, their known bias or lack of it, batch by batch, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg

from replaylab.metrics import distances
from replaylab.metrics.distances import Extractor, extrapolated_distances

EXTRACTOR = Extractor("a network", "last", "5" * 64, "a package 1.0", "bicubic", 224, 6, frames=8)


def normal(seed: int, n: int, d: int, spread: float = 1.0) -> np.ndarray:
    """Correlated Gaussian samples (n, d); the correlation depends on d only."""
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d) + np.eye(d)
    return spread * np.random.default_rng((seed, n)).standard_normal((n, d)) @ mixing


def pseudo_values(statistic: Callable[[np.ndarray], float], scenes: int) -> np.ndarray:
    """N times the value of all, minus N − 1 times that without the scene (Tukey's jackknife)."""
    every = np.arange(scenes)
    without = [statistic(np.delete(every, one)) for one in every]
    return scenes * statistic(every) - (scenes - 1) * np.array(without)


def textbook_frechet(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def textbook_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Pair by pair, as the definition reads."""
    d = a.shape[1]

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / d + 1) ** 3)

    def within(x: np.ndarray) -> float:
        return float(np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]))

    return within(a) + within(b) - 2 * float(np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 200, 6), (90, 300, 40), (21, 25, 20)])
def test_frechet_agrees_with_the_matrix_root_on_full_rank_data(n: int, m: int, d: int) -> None:
    a, b = normal(0, n, d), normal(1, m, d, spread=1.7) + 0.3
    assert distances.frechet_distance(a, b) == pytest.approx(textbook_frechet(a, b), rel=1e-6)
    assert distances.frechet_distance(b, a) == pytest.approx(distances.frechet_distance(a, b), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
def test_frechet_of_equal_sets_is_zero_and_of_shifted_ones_the_squared_shift(n: int, d: int) -> None:
    a = normal(2, n, d)
    shift = np.random.default_rng(3).standard_normal(d)
    scale = float((a**2).sum(1).mean())
    assert distances.frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * scale)
    assert distances.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9 * scale)
    assert distances.frechet_distance(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
def test_frechet_of_a_stretched_set_has_a_closed_form(n: int, d: int) -> None:
    """Covariances C and s^2 C commute, so the distance is (s - 1)^2 tr C, of full rank (n > d) or not (n <
    d).
    """
    a = normal(4, n, d)
    a -= a.mean(0)
    trace = (a**2).sum() / (n - 1)
    assert distances.frechet_distance(a, 1.5 * a) == pytest.approx(0.25 * trace, rel=1e-8)


def test_frechet_of_sets_in_perpendicular_subspaces_is_the_sum_of_their_traces() -> None:
    """Rank-deficient with A B = 0: nothing is shared, where the root of A B is hardest on the usual
    algorithm.
    """
    a, b = np.zeros((40, 120)), np.zeros((50, 120))
    a[:, :60], b[:, 60:] = normal(5, 40, 60), normal(6, 50, 60)
    a, b = a - a.mean(0), b - b.mean(0)
    expected = (a**2).sum() / 39 + (b**2).sum() / 49
    assert distances.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_with_fewer_samples_than_dimensions_agrees_with_the_subspace_they_span() -> None:
    """Turning 15 dimensions into 300 by an isometry changes no distance, but makes both covariances singular."""
    isometry = np.linalg.qr(np.random.default_rng(7).standard_normal((300, 15)))[0].T
    a, b = normal(8, 60, 15), normal(9, 80, 15, spread=0.5) + 1
    assert distances.frechet_distance(a @ isometry, b @ isometry) == pytest.approx(textbook_frechet(a, b), rel=1e-6)


def test_frechet_of_large_samples_approaches_the_distance_of_the_gaussians() -> None:
    rng = np.random.default_rng(10)
    deviations = np.array([1.0, 2.0, 0.5])
    a, b = rng.standard_normal((200_000, 3)), rng.standard_normal((200_000, 3)) * deviations + [1, 0, 0]
    assert distances.frechet_distance(a, b) == pytest.approx(1 + ((deviations - 1) ** 2).sum(), rel=0.02)


def test_kernel_distance_is_its_definition_pair_by_pair() -> None:
    a, b = normal(11, 24, 5), normal(12, 31, 5, spread=1.3)
    assert distances.kernel_distance(a, b) == pytest.approx(textbook_kernel(a, b), rel=1e-10)
    assert distances.kernel_distance(b, a) == pytest.approx(distances.kernel_distance(a, b), rel=1e-10)


def test_kernel_distance_does_not_depend_on_how_its_sums_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(13, 50, 4), normal(14, 40, 4)
    whole = distances.kernel_distance(a, b)
    monkeypatch.setattr(distances, "ROWS_AT_A_TIME", 7)
    assert distances.kernel_distance(a, b) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_kernel_distance_is_unbiased(shift: float) -> None:
    """The mean over many draws meets the true value within its standard error, at two very different n.

    In one dimension (xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3, so the true value is the weighted squared difference
    of the first three raw moments, which are 0, 1, 0 for N(0, 1) and s, 1 + s^2, 3 s + s^3 for N(s, 1).
    """
    moments_a, moments_b = np.array([0, 1, 0]), np.array([shift, 1 + shift**2, 3 * shift + shift**3])
    true = float((np.array([3, 3, 1]) * (moments_a - moments_b) ** 2).sum())
    rng = np.random.default_rng(15)
    for n in (20, 50):
        values = [
            distances.kernel_distance(rng.standard_normal((n, 1)), rng.standard_normal((n, 1)) + shift) for _ in range(2000)
        ]
        error = float(np.std(values) / np.sqrt(len(values)))
        assert abs(np.mean(values) - true) < 4 * error
        # Keeping k(x, x) would add at least 2 (E k(x, x) - E k(x, x')) / n = 2 (28 - 4) / n: this test would see it.
        assert 4 * error < 0.5 * 48 / n


def test_kernel_distance_may_be_negative() -> None:
    values = [distances.kernel_distance(normal(s, 30, 3), normal(s + 100, 30, 3)) for s in range(20)]
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize("distance", [distances.frechet_distance, distances.kernel_distance])
def test_bad_features_are_refused_by_name(distance: Any) -> None:
    good = normal(0, 30, 4)
    broken = good.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="features_b: holds NaN"):
        distance(good, broken)
    with pytest.raises(ValueError, match=f"features_a: 19 feature vectors, at least {distances.N_MIN}"):
        distance(good[:19], good)
    with pytest.raises(ValueError, match="features_b: 3 dimensions"):
        distance(good, good[:, :3])
    with pytest.raises(ValueError, match=r"features_a: shape \(30,\)"):
        distance(good[:, 0], good)
    assert np.isfinite(distance(good[:20], good))


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
@pytest.mark.parametrize("distance", [distances.frechet_distance, distances.kernel_distance])
def test_no_distance_depends_on_order_or_on_a_common_rotation(distance: Any, n: int, d: int) -> None:
    a, b = normal(16, n, d), normal(17, n + 7, d, spread=1.4) + 0.2
    expected = pytest.approx(distance(a, b), rel=1e-8)
    order = np.random.default_rng(18).permutation(n)
    assert distance(a[order], b[::-1]) == expected
    assert distance(a @ rotation(d), b @ rotation(d)) == expected


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
def test_frechet_is_a_square_in_the_unit_of_the_features(n: int, d: int) -> None:
    a, b = normal(19, n, d), normal(20, n, d, spread=0.7) + 0.5
    expected = pytest.approx(1e-8 * distances.frechet_distance(a, b), rel=1e-8)
    assert distances.frechet_distance(1e-4 * a + 3, 1e-4 * b + 3) == expected


def test_frechet_agrees_with_the_matrix_root_in_many_dimensions() -> None:
    a, b = normal(21, 500, 200), normal(22, 700, 200, spread=1.2) + 0.1
    assert distances.frechet_distance(a, b) == pytest.approx(textbook_frechet(a, b), rel=1e-6)


def test_frechet_of_features_whose_variances_span_twelve_orders_has_a_closed_form() -> None:
    """Enough samples for full rank, but nearly without it: stretched, as above, it is (s - 1)^2 tr C."""
    a = normal(23, 300, 60) * np.logspace(0, -6, 60)
    a -= a.mean(0)
    assert distances.frechet_distance(a, 1.1 * a) == pytest.approx(0.01 * (a**2).sum() / 299, rel=1e-6)


def test_frechet_does_not_mind_features_that_never_vary_or_repeat_others() -> None:
    """Enough samples for full rank, but without it: zeros add nothing, and a copy is a rotation of sqrt 2 and zero."""
    a, b = normal(24, 200, 10), normal(25, 250, 10, spread=1.6) + 0.3
    expected = pytest.approx(textbook_frechet(a, b), rel=1e-6)
    padding = ((0, 0), (0, 30))
    assert distances.frechet_distance(np.pad(a, padding), np.pad(b, padding)) == expected
    twice_a, twice_b = (np.hstack([x, x]) / np.sqrt(2) for x in (a, b))
    assert distances.frechet_distance(twice_a, twice_b) == expected
    # The one without full rank may be either.
    wide = np.pad(b, ((0, 0), (0, 10))) + np.hstack([np.zeros((250, 10)), normal(26, 250, 10)])
    narrow = np.pad(a, ((0, 0), (0, 10)))
    one, other = distances.frechet_distance(narrow, wide), distances.frechet_distance(wide, narrow)
    assert one == pytest.approx(other, rel=1e-6)


def test_a_large_common_mean_costs_no_digits() -> None:
    """Sums of squares would lose everything here: the mean is 10^8 standard deviations."""
    a, b = normal(32, 400, 8), normal(28, 300, 8, spread=1.5) + 0.3
    assert distances.frechet_distance(a + 1e8, b + 1e8) == pytest.approx(distances.frechet_distance(a, b), rel=1e-5)


@pytest.mark.parametrize("distance", [distances.frechet_distance, distances.kernel_distance])
def test_an_empty_set_is_refused_by_name(distance: Any) -> None:
    with pytest.raises(ValueError, match="features_a: empty"):
        distance(normal(0, 0, 4), normal(0, 30, 4))


def test_a_distance_carries_what_it_is_of() -> None:
    a, b = normal(35, 24, 6), normal(36, 30, 6)
    found = distances.between("kernel", distances.kernel_distance, a, b, EXTRACTOR)
    assert found == distances.Distance(
        name="kernel", value=distances.kernel_distance(a, b), n=24, frames=8, size_px=224, resize="bicubic",
        extractor="a network", extractor_digest="5" * 64,
    )  # fmt: skip
    grouped = distances.between(
        "kernel", distances.kernel_distance, a.reshape(8, 3, 6), b.reshape(10, 3, 6), EXTRACTOR,
        clips_a=range(8), clips_b=range(8, 18),
    )  # fmt: skip
    assert grouped == found


def refused(a: np.ndarray, b: np.ndarray, match: str, **how: Any) -> None:
    settings = {"extractor": EXTRACTOR, "names": ("made", "real"), **how}
    with pytest.raises(ValueError, match=match):
        distances.between("fd", distances.frechet_distance, a, b, **settings)


def test_repeated_clips_are_refused_by_name() -> None:
    a, b = normal(37, 24, 6), normal(38, 24, 6)
    refused(a, np.vstack([b, b]), "real: clips 0 and 24 share a feature vector")
    refused(np.vstack([a, b[3:4]]), b, "real: clip 3 has a feature vector of made")
    a[5, 2], b[7] = 0.0, a[5]
    b[7, 2] = -0.0
    refused(a, b, "real: clip 7 has a feature vector of made")


def test_a_clip_may_stand_still_but_not_come_twice() -> None:
    a, b = normal(39, 24, 6).reshape(8, 3, 6), normal(40, 24, 6).reshape(8, 3, 6)
    still = a.copy()
    still[:, 1:] = still[:, :1]
    found = distances.between("fd", distances.frechet_distance, still, b, EXTRACTOR)
    assert found.n == 24
    refused(np.vstack([a, a[2:3]]), b, "made: clips 2 and 8 share a feature vector")
    names = [f"clip {number}" for number in range(16)]
    refused(a, b, "real: clip 'clip 0' is in made too", clips_a=names[:8], clips_b=[names[0], *names[9:]])
    refused(a, b, "made: 7 different names for 8 clips", clips_a=[names[0], *names[:7]])
    refused(a, b, "real: 7 different names for 8 clips", clips_b=names[:7])


def test_bad_sets_are_refused_by_name() -> None:
    a, b = normal(41, 24, 6), normal(42, 24, 6)
    broken = b.copy()
    broken[0, 0] = np.inf
    refused(a, broken, "real: holds NaN or infinity")
    refused(a[:0], b, "made: empty")
    refused(a[:19], b, "made: 19 feature vectors, at least 20")
    refused(a, b[:1], "real: 1 feature vectors, at least 20")
    refused(a, b[:, 0], r"real: shape \(24,\)")
    refused(a, b[:, :5], "real: 5 dimensions, a network has 6")
    refused(a, b, "made: 6 dimensions, a network has 7", extractor=replace(EXTRACTOR, dimensions=7))


def test_a_distance_that_is_no_number_is_refused() -> None:
    a, b = normal(43, 24, 6), normal(44, 24, 6)
    with pytest.raises(ValueError, match="broken: nan between"):
        distances.between("broken", lambda x, y: float("nan"), a, b, EXTRACTOR)


@pytest.mark.parametrize("each", [1, 3])
def test_pseudo_values_are_those_of_leaving_one_clip_out(each: int) -> None:
    clips, b = normal(4, 24 * each, 7).reshape(24, each, 7), normal(5, 30, 7, spread=1.3)
    found = distances.kernel_pseudo_values(clips, b)

    def without(kept: Any) -> float:
        return distances.kernel_distance(clips[kept].reshape(-1, 7), b)

    np.testing.assert_allclose(found, pseudo_values(without, len(clips)), rtol=1e-9)
    if each == 1:  # a U-statistic: its pseudo-values have it for their mean
        assert found.mean() == pytest.approx(without(slice(None)), rel=1e-9)


def test_pseudo_values_need_clips_with_vectors_of_one_length() -> None:
    with pytest.raises(ValueError, match=r"features_a: shape \(40, 7\), expected \(clips, vectors of each, d\)"):
        distances.kernel_pseudo_values(normal(4, 40, 7), normal(5, 30, 7))
    with pytest.raises(ValueError, match="features_b: 6 dimensions, features_a has 7"):
        distances.kernel_pseudo_values(normal(4, 40, 7).reshape(20, 2, 7), normal(5, 30, 6))


# Distances carried on to infinite n


def gaussian(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def test_a_distance_that_falls_as_one_over_n_is_carried_on_exactly() -> None:
    a, b = gaussian(0, 90, 3), gaussian(1, 60, 3)
    estimates = extrapolated_distances(lambda x, y: 7 + 3 / len(x), a, b, [20, 30, 60], repeats=4)
    np.testing.assert_allclose(estimates, np.full(4, 7), atol=1e-9)


def test_the_bias_of_squared_mean_differences_is_taken_out() -> None:
    a, b = gaussian(2, 400, 1) + 0.3, gaussian(3, 300, 1)

    def squared(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.mean() - y.mean()) ** 2)

    # Over subsets drawn without replacement, a mean of n varies by s^2 (1/n - 1/N).
    expected = squared(a, b) - a.var(ddof=1) / 400 - b.var(ddof=1) / 300
    estimates = extrapolated_distances(squared, a, b, [25, 50, 100, 200], repeats=400)
    error = estimates.std(ddof=1) / 400**0.5
    assert estimates.mean() == pytest.approx(expected, abs=4 * error)
    biased = squared(a, b) + a.var(ddof=1) * (1 / 25 - 1 / 400) + b.var(ddof=1) * (1 / 25 - 1 / 300)
    assert biased - estimates.mean() > 8 * error  # of subsets of 25: there was a bias to take out


def test_subsets_have_the_asked_size_no_row_twice_and_depend_on_the_seed_alone() -> None:
    a = np.arange(50.0)[:, None, None] * np.ones((1, 2, 3))
    seen: list[tuple[float, ...]] = []

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        assert x.shape == y.shape == (len(x), 2, 3)
        assert len(set(x[:, 0, 0])) == len(x)
        seen.append(tuple(x[:, 0, 0]))
        return float(x.mean() - y.mean())

    first = extrapolated_distances(distance, a, a, [10, 40], repeats=3, seed=1)
    assert [len(one) for one in seen] == [10, 40] * 3 and len(set(seen)) == 6
    assert (extrapolated_distances(distance, a, a, [10, 40], repeats=3, seed=1) == first).all()
    assert (extrapolated_distances(distance, a, a, [10, 40], repeats=3, seed=2) != first).any()


CLIPS = gaussian(0, 20, 2)


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((mean_distance, CLIPS, CLIPS[:9], [5, 10]), "sizes: .* from 1 to 9"),
        ((mean_distance, CLIPS, CLIPS, [0, 10]), "sizes: .* from 1 to 20"),
        ((mean_distance, CLIPS, CLIPS, [10, 10]), "sizes: 1 different sizes"),
        ((mean_distance, CLIPS, CLIPS, [5, 10], 1), "repeats: 1 repeats"),
        ((mean_distance, CLIPS, CLIPS[:0], [5, 10]), "features_b: shape"),
        ((lambda a, b: np.nan, CLIPS, CLIPS, [5, 10]), "distance: holds NaN"),
    ],
)
def test_subsampling_refuses_bad_input_by_name(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extrapolated_distances(*arguments)


def correlated(seed: int, clips: int, each: int, d: int = 6, own: float = 0.8) -> np.ndarray:
    """Vectors (clips, each, d) of which those of a clip have a part in common."""
    random = np.random.default_rng((seed, clips, each))
    return own * random.standard_normal((clips, 1, d)) + np.sqrt(1 - own**2) * random.standard_normal((clips, each, d))


def mean_kernel(a: np.ndarray, of_one_clip: bool) -> float:
    """Over the pairs of different vectors that are, or are not, of one clip."""
    rows, clip = a.reshape(-1, a.shape[2]), np.repeat(np.arange(len(a)), a.shape[1])
    pairs = (clip[:, None] == clip) == of_one_clip
    np.fill_diagonal(pairs, False)
    return float(((rows @ rows.T / rows.shape[1] + 1) ** 3)[pairs].mean())


@pytest.mark.parametrize(("clips", "each"), [(20, 5), (40, 2), (25, 1)])
def test_frames_of_one_clip_make_the_kernel_distance_too_large_by_their_share_of_the_pairs(clips: int, each: int) -> None:
    a, b = correlated(1, clips, each), correlated(2, clips + 5, each)
    flat_a, flat_b = (x.reshape(-1, x.shape[2]) for x in (a, b))
    across = 2 * float(((flat_a @ flat_b.T / 6 + 1) ** 3).mean())
    unbiased = mean_kernel(a, of_one_clip=False) + mean_kernel(b, of_one_clip=False) - across
    too_much = 0.0
    for x in (a, b) if each > 1 else ():
        share = (each - 1) / (x.shape[0] * each - 1)
        too_much += share * (mean_kernel(x, of_one_clip=True) - mean_kernel(x, of_one_clip=False))
    assert distances.kernel_distance(flat_a, flat_b) == pytest.approx(unbiased + too_much)
    assert too_much > 0 or each == 1


def test_on_average_only_independent_vectors_are_no_distance_apart() -> None:
    def mean_of(clips: int, each: int) -> float:
        pairs = [(correlated(2 * trial, clips, each), correlated(2 * trial + 1, clips, each)) for trial in range(300)]
        return float(np.mean([distances.kernel_distance(*(x.reshape(-1, 6) for x in pair)) for pair in pairs]))

    one, many, more = mean_of(40, 1), mean_of(40, 5), mean_of(80, 5)
    assert abs(one) < 0.3 * many
    assert more == pytest.approx(many / 2, rel=0.35)


def test_leaving_out_whole_clips_takes_away_what_pairs_within_them_add() -> None:
    found, whole = [], []
    for trial in range(300):
        a, b = correlated(2 * trial, 40, 5), correlated(2 * trial + 1, 200, 1)
        found.append(distances.kernel_pseudo_values(a, b.reshape(-1, 6)).mean())
        whole.append(distances.kernel_distance(a.reshape(-1, 6), b.reshape(-1, 6)))
    assert abs(np.mean(found)) < 0.3 * np.mean(whole)
