"""Distances against closed forms, their known bias or lack of it, and an extractor that is loaded only on
demand.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

from replaylab import fidelity


def normal(seed: int, n: int, d: int, spread: float = 1.0) -> np.ndarray:
    """Correlated Gaussian samples (n, d); the correlation depends on d only."""
    mixing = np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d) + np.eye(d)
    return spread * np.random.default_rng((seed, n)).standard_normal((n, d)) @ mixing


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
    assert fidelity.frechet_distance(a, b) == pytest.approx(textbook_frechet(a, b), rel=1e-6)
    assert fidelity.frechet_distance(b, a) == pytest.approx(fidelity.frechet_distance(a, b), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
def test_frechet_of_equal_sets_is_zero_and_of_shifted_ones_the_squared_shift(n: int, d: int) -> None:
    a = normal(2, n, d)
    shift = np.random.default_rng(3).standard_normal(d)
    scale = float((a**2).sum(1).mean())
    assert fidelity.frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * scale)
    assert fidelity.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9 * scale)
    assert fidelity.frechet_distance(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (30, 200)])
def test_frechet_of_a_stretched_set_has_a_closed_form(n: int, d: int) -> None:
    """Covariances C and s^2 C commute, so the distance is (s - 1)^2 tr C, of full rank (n > d) or not (n <
    d).
    """
    a = normal(4, n, d)
    a -= a.mean(0)
    trace = (a**2).sum() / (n - 1)
    assert fidelity.frechet_distance(a, 1.5 * a) == pytest.approx(0.25 * trace, rel=1e-8)


def test_frechet_of_sets_in_perpendicular_subspaces_is_the_sum_of_their_traces() -> None:
    """Rank-deficient with A B = 0: nothing is shared, where the root of A B is hardest on the usual
    algorithm.
    """
    a, b = np.zeros((40, 120)), np.zeros((50, 120))
    a[:, :60], b[:, 60:] = normal(5, 40, 60), normal(6, 50, 60)
    a, b = a - a.mean(0), b - b.mean(0)
    expected = (a**2).sum() / 39 + (b**2).sum() / 49
    assert fidelity.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_with_fewer_samples_than_dimensions_agrees_with_the_subspace_they_span() -> None:
    """Turning 15 dimensions into 300 by an isometry changes no distance, but makes both covariances singular."""
    isometry = np.linalg.qr(np.random.default_rng(7).standard_normal((300, 15)))[0].T
    a, b = normal(8, 60, 15), normal(9, 80, 15, spread=0.5) + 1
    assert fidelity.frechet_distance(a @ isometry, b @ isometry) == pytest.approx(
        textbook_frechet(a, b), rel=1e-6
    )


def test_frechet_of_large_samples_approaches_the_distance_of_the_gaussians() -> None:
    rng = np.random.default_rng(10)
    deviations = np.array([1.0, 2.0, 0.5])
    a, b = rng.standard_normal((200_000, 3)), rng.standard_normal((200_000, 3)) * deviations + [1, 0, 0]
    assert fidelity.frechet_distance(a, b) == pytest.approx(1 + ((deviations - 1) ** 2).sum(), rel=0.02)


def test_kernel_distance_is_its_definition_pair_by_pair() -> None:
    a, b = normal(11, 24, 5), normal(12, 31, 5, spread=1.3)
    assert fidelity.kernel_distance(a, b) == pytest.approx(textbook_kernel(a, b), rel=1e-10)
    assert fidelity.kernel_distance(b, a) == pytest.approx(fidelity.kernel_distance(a, b), rel=1e-10)


def test_kernel_distance_does_not_depend_on_how_its_sums_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(13, 50, 4), normal(14, 40, 4)
    whole = fidelity.kernel_distance(a, b)
    monkeypatch.setattr(fidelity, "ROWS_AT_A_TIME", 7)
    assert fidelity.kernel_distance(a, b) == pytest.approx(whole, rel=1e-10)


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
            fidelity.kernel_distance(rng.standard_normal((n, 1)), rng.standard_normal((n, 1)) + shift)
            for _ in range(2000)
        ]
        error = float(np.std(values) / np.sqrt(len(values)))
        assert abs(np.mean(values) - true) < 4 * error
        # Keeping k(x, x) would add at least 2 (E k(x, x) - E k(x, x')) / n = 2 (28 - 4) / n: this test would see it.
        assert 4 * error < 0.5 * 48 / n


def test_kernel_distance_may_be_negative() -> None:
    values = [fidelity.kernel_distance(normal(s, 30, 3), normal(s + 100, 30, 3)) for s in range(20)]
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize("distance", [fidelity.frechet_distance, fidelity.kernel_distance])
def test_bad_features_are_refused_by_name(distance: Any) -> None:
    good = normal(0, 30, 4)
    broken = good.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="features_b: holds NaN"):
        distance(good, broken)
    with pytest.raises(ValueError, match=f"features_a: 19 frames, at least {fidelity.MIN_FRAMES}"):
        distance(good[:19], good)
    with pytest.raises(ValueError, match="features_b: 3 dimensions"):
        distance(good, good[:, :3])
    with pytest.raises(ValueError, match=r"features_a: shape \(30,\)"):
        distance(good[:, 0], good)
    assert np.isfinite(distance(good[:20], good))


def test_psnr_of_a_known_error() -> None:
    a = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    assert fidelity.psnr_db(a, a + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))
    assert fidelity.psnr_db(a + np.uint8(5), a) == pytest.approx(20 * np.log10(255 / 5))
    assert fidelity.psnr_db(a * 0, a * 0 + 255) == pytest.approx(0)
    assert fidelity.psnr_db(a, a) == float("inf")
    with pytest.raises(ValueError, match="frames_b: shape"):
        fidelity.psnr_db(a, a[:1])
    with pytest.raises(ValueError, match="frames_a: float64"):
        fidelity.psnr_db(a / 255, a)


def test_importing_fidelity_does_not_import_torch() -> None:
    code = "import sys, replaylab.fidelity, replaylab.dynamics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def pictures(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def test_features_have_their_shape_and_do_not_depend_on_the_batch() -> None:
    frames = pictures(5, 0)
    features = fidelity.efficientnet_features(frames)
    assert features.shape == (5, fidelity.EXTRACTOR.dimensions) and features.dtype == np.float32
    np.testing.assert_allclose(fidelity.efficientnet_features(frames, batch_size=2), features, atol=1e-4)
    assert fidelity.efficientnet_features(frames[:0]).shape == (0, 1280)


def test_features_tell_blurred_pictures_from_others_of_their_kind() -> None:
    one, other = pictures(24, 1), pictures(24, 2)
    soft = scipy.ndimage.gaussian_filter(other.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    a, b, c = (fidelity.efficientnet_features(frames) for frames in (one, other, soft))
    assert fidelity.kernel_distance(a, c) > 3 * abs(fidelity.kernel_distance(a, b))
    assert fidelity.frechet_distance(a, c) > fidelity.frechet_distance(a, b)


def test_frames_of_another_kind_are_refused() -> None:
    frames = pictures(1, 0)
    with pytest.raises(ValueError, match="frames: float64"):
        fidelity.efficientnet_features(frames / 255)
    with pytest.raises(ValueError, match="frames: 50x64 pixels"):
        fidelity.efficientnet_features(frames[:, :, :50])


def test_other_weights_than_the_named_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(fidelity, "EXTRACTOR", replace(fidelity.EXTRACTOR, weights_sha256="0" * 64))
    fidelity._efficientnet.cache_clear()
    with pytest.raises(ValueError, match="sha256 5793442"):
        fidelity.efficientnet_features(pictures(1, 0))
