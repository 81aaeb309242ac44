"""What is measured of a clip beside the true one, against definitions and closed forms, and a network loaded on demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from replaylab.metrics import distances, fidelity


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
    assert distances.kernel_distance(a, c) > 3 * abs(distances.kernel_distance(a, b))
    assert distances.frechet_distance(a, c) > distances.frechet_distance(a, b)


def test_frames_of_another_kind_are_refused() -> None:
    frames = pictures(1, 0)
    with pytest.raises(ValueError, match="frames: float64"):
        fidelity.efficientnet_features(frames / 255)
    with pytest.raises(ValueError, match=r"frames: uint8 \(1, 64, 0, 3\)"):
        fidelity.efficientnet_features(frames[:, :, :0])


def test_frames_of_any_size_are_mirrored_to_whole_strides_and_their_features_say_so() -> None:
    frames = pictures(3, 0)
    cut = frames[:, :63, 3:55]  # one row and twelve columns are missing
    rows = np.concatenate([cut, cut[:, -1:]], axis=1)
    mirrored = np.concatenate([rows[:, :, 5::-1], rows, rows[:, :, :-7:-1]], axis=2)
    np.testing.assert_array_equal(fidelity.efficientnet_features(cut), fidelity.efficientnet_features(mirrored))
    assert fidelity.extractor(64, 64) == fidelity.EXTRACTOR
    assert fidelity.extractor(480, 832) == replace(fidelity.EXTRACTOR, frame_size_px=480)
    for height, width, padded in ((480, 720, "736x480"), (720, 1280, "1280x736"), (180, 320, "320x192"),
                                  (1080, 1920, "1920x1088")):  # fmt: skip
        about = fidelity.extractor(height, width)
        assert about.frame_size_px == height and about.resize == f"none; mirrored at the border to {padded}"


def test_other_weights_than_the_named_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "EXTRACTOR", replace(fidelity.EXTRACTOR, weights_sha256="0" * 64))
    fidelity._efficientnet.cache_clear()
    with pytest.raises(ValueError, match="sha256 5793442"):
        fidelity.efficientnet_features(pictures(1, 0))


def clip(seed: int, frames: int = 4, height: int = 24, width: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def textbook_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Window by window, as Wang et al. 2004 write it in equations 13 to 16, and their K1, K2 and L."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for frame_x, frame_y in zip(x.astype(float), y.astype(float), strict=True):
        for row in range(x.shape[1] - 10):
            for column in range(x.shape[2] - 10):
                for colour in range(3):
                    here = np.s_[row : row + 11, column : column + 11, colour]
                    mean_x, mean_y = (window * frame_x[here]).sum(), (window * frame_y[here]).sum()
                    off_x, off_y = frame_x[here] - mean_x, frame_y[here] - mean_y
                    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                    likeness = (2 * mean_x * mean_y + c1) * (2 * (window * off_x * off_y).sum() + c2)
                    values.append(
                        likeness
                        / (mean_x**2 + mean_y**2 + c1)
                        / ((window * off_x**2).sum() + (window * off_y**2).sum() + c2)
                    )
    return float(np.mean(values))


def test_ssim_is_its_definition_window_by_window() -> None:
    a, noise = clip(0, frames=2), clip(1, frames=2)
    b = (0.7 * a + 0.3 * noise).astype(np.uint8)
    assert 0.2 < fidelity.ssim(a, b) < 0.99
    assert fidelity.ssim(a, b) == pytest.approx(textbook_ssim(a, b), rel=1e-9)
    assert fidelity.ssim(a, noise) == pytest.approx(textbook_ssim(a, noise), rel=1e-9, abs=1e-9)


def test_ssim_is_one_for_equal_clips_symmetric_and_known_for_flat_ones() -> None:
    a, b = clip(2), clip(3)
    assert fidelity.ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert fidelity.ssim(a, b) == pytest.approx(fidelity.ssim(b, a), rel=1e-12)
    grey, white = np.full((1, 11, 11, 3), 100, np.uint8), np.full((1, 11, 11, 3), 255, np.uint8)
    c1 = 2.55**2
    expected = (2 * 100 * 255 + c1) / (100**2 + 255**2 + c1)
    assert fidelity.ssim(grey, white) == pytest.approx(expected, rel=1e-9)


def test_sharpness_of_a_ramp_is_its_slope_and_linear_in_contrast() -> None:
    levels = 3 * np.arange(40) + 4 * np.arange(30)[:, None]
    ramp = np.broadcast_to(levels[..., None], (2, 30, 40, 3)).astype(np.uint8)
    assert fidelity.sharpness(ramp) == pytest.approx(5)
    checks = clip(4) // 2
    assert fidelity.sharpness_ratio(checks * 2, checks) == pytest.approx(2)
    assert fidelity.sharpness_ratio(checks + np.uint8(50), checks) == pytest.approx(1)
    assert fidelity.sharpness_ratio(checks[::-1, ::-1, ::-1], checks) == pytest.approx(1)


def test_sharpness_falls_with_blur() -> None:
    truth = pictures(4, 5)
    blurred = [scipy.ndimage.gaussian_filter(truth, (0, sigma, sigma, 0)) for sigma in (0.5, 1, 2, 4)]
    ratios = [fidelity.sharpness_ratio(each, truth) for each in [truth, *blurred]]
    assert ratios[0] == 1 and ratios == sorted(ratios, reverse=True) and ratios[-1] < 0.6


def test_flicker_of_alternating_frames_is_twice_their_difference_and_of_an_even_fade_zero() -> None:
    still = np.full((6, 8, 8, 3), 90, np.uint8)
    fade = still + (5 * np.arange(6, dtype=np.uint8))[:, None, None, None]
    alternating = still.copy()
    alternating[::2] += np.uint8(10)
    assert fidelity.flicker(still) == pytest.approx(0, abs=1e-9)
    assert fidelity.flicker(fade) == pytest.approx(0, abs=1e-9)
    assert fidelity.flicker(alternating) == pytest.approx(20)
    assert fidelity.flicker_excess(alternating, fade) == pytest.approx(20)
    assert fidelity.flicker_excess(still, alternating) == pytest.approx(-20)
    noisy = clip(6)
    assert fidelity.flicker(noisy[::-1]) == pytest.approx(fidelity.flicker(noisy))


def test_bad_clips_are_refused_by_name() -> None:
    good = clip(7)
    for measure in (fidelity.ssim, fidelity.sharpness_ratio, fidelity.flicker_excess):
        with pytest.raises(ValueError, match=r"(clip_b|truth): shape \(2, 24, 17, 3\), (clip_a|generated) has"):
            measure(good, good[:2])
        with pytest.raises(ValueError, match=r"(clip_a|generated): float64"):
            measure(good / 255, good)
        with pytest.raises(ValueError, match=r"(clip_b|truth): shape .* at least 1 frame"):
            measure(good, good[:0])
        with pytest.raises(ValueError, match=r"(clip_a|generated): uint8 \(24, 17, 3\)"):
            measure(good[0], good)
    with pytest.raises(ValueError, match="17x10 pixels, at least 11x11"):
        fidelity.ssim(good[:, :10], good[:, :10])
    with pytest.raises(ValueError, match="clip: 2 frames, at least 3"):
        fidelity.flicker(good[:2])
    with pytest.raises(ValueError, match="truth: every frame is of one colour"):
        fidelity.sharpness_ratio(good, good * 0)
    with pytest.raises(ValueError, match=r"clip: .* 2x2 pixels"):
        fidelity.sharpness(good[:, :1])


def perceptual(a: np.ndarray, b: np.ndarray, batch_size: int = 64) -> float:
    activations = (fidelity.efficientnet(frames, batch_size) for frames in (a, b))
    return float(fidelity.perceptual_distances(*activations).mean())


def test_perceptual_distance_is_its_definition() -> None:
    """Zhang et al. 2018, equation 1, weights 1: position by position, from maps that hooks took out of the network."""
    import torch

    a, b = pictures(3, 8), pictures(3, 9)
    network, maps = fidelity._efficientnet(), []
    hooks = [
        network._blocks[number].register_forward_hook(lambda *call: maps.append(call[2].numpy()))
        for number in fidelity.PERCEPTUAL_BLOCKS
    ]
    with torch.inference_mode():
        network.extract_features(fidelity._scaled(np.concatenate([a, b])))
    for hook in hooks:
        hook.remove()
    assert [each.shape[2] for each in maps] == [32, 16, 8, 4, 2]
    total = 0.0
    for each in maps:
        x, y = (half / np.linalg.norm(half, axis=1, keepdims=True) for half in (each[:3], each[3:]))
        total += float(((x - y) ** 2).sum(1).mean())
    assert perceptual(a, b) == pytest.approx(total, rel=1e-4)
    assert perceptual(b, a) == pytest.approx(total, rel=1e-4)
    assert perceptual(a, b, batch_size=2) == pytest.approx(total, rel=1e-4)
    assert perceptual(a, a) == 0


def test_perceptual_distance_grows_with_damage() -> None:
    truth = pictures(4, 10)
    blurred = [scipy.ndimage.gaussian_filter(truth, (0, sigma, sigma, 0)) for sigma in (0.5, 1, 2, 4)]
    found = [perceptual(each, truth) for each in blurred]
    assert found[0] > 0 and found == sorted(found) and found[-1] < 20


def test_a_clip_is_measured_as_by_hand_and_the_true_one_is_perfect() -> None:
    truth = pictures(3, 11)
    soft = scipy.ndimage.gaussian_filter(truth, (0, 1, 1, 0))
    found = fidelity.clip_fidelity(soft, truth)
    assert found == {name: getattr(fidelity, name)(soft, truth) for name in found}
    assert found["ssim"] < 1 and found["sharpness_ratio"] < 1 and found["flicker_excess"] < 0
    assert perceptual(soft, truth) > 0 == perceptual(truth, truth)
    perfect = fidelity.clip_fidelity(truth, truth)
    assert perfect == {
        "psnr_db": float("inf"), "ssim": pytest.approx(1, abs=1e-12), "sharpness_ratio": 1.0, "flicker_excess": 0.0,
    }  # fmt: skip


def test_features_of_frames_make_a_distance_that_carries_their_extractor() -> None:
    features = fidelity.efficientnet_features(pictures(40, 12))
    made, real = features[:20], features[20:]
    found = distances.between("effnet_kd", distances.kernel_distance, made, real, fidelity.EXTRACTOR)
    assert (found.n, found.frames, found.size_px, found.resize) == (20, 1, 64, "none")
    assert found.value == distances.kernel_distance(made, real)
    assert found.extractor_digest == fidelity.EXTRACTOR.weights_sha256
