"""Gaussian blur of frames, the same for training the detector and for corrupted videos."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

FRAMES_AT_A_TIME = 256


def blurred(frames: ArrayLike, blur_px: float) -> NDArray[np.uint8]:
    """Frames uint8 (N, H, W, 3) blurred by a Gaussian of standard deviation blur_px; unchanged for 0."""
    images = np.asarray(frames)
    if blur_px == 0:
        return images
    parts = [
        gaussian_blur(as_tensor(part), np.full(len(part), blur_px))
        for part in np.array_split(images, max(1, len(images) // FRAMES_AT_A_TIME))
    ]
    return (torch.cat(parts) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def gaussian_blur(frames: Tensor, sigma_px: NDArray[np.float64]) -> Tensor:
    """Each frame of (B, 3, H, W) blurred by its own Gaussian, standard deviations (B,), with repeated edges."""
    b, c, h, w = frames.shape
    reach = math.ceil(3 * sigma_px.max())
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1)[None] / sigma_px[:, None]) ** 2)
    taps = torch.from_numpy((kernel / kernel.sum(1, keepdims=True)).astype(np.float32)).repeat_interleave(c, 0)
    x = F.pad(frames.reshape(1, b * c, h, w), (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, taps[:, None, None, :], groups=b * c)
    x = F.conv2d(x, taps[:, None, :, None], groups=b * c)
    return x.reshape(b, c, h, w)


def as_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in 0..1; the memory layout stays channels last."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
