"""Shared by the measures that use OpenCV: one thread, checks of clips, and peaks between grid points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.util.checks import Images, checked_images

FloatImages = NDArray[np.float32]


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV with one thread: on small images, often in one of many workers, its threads cost more than they save."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def checked_clip(values: ArrayLike, name: str) -> Images:
    """Frames uint8 (T, H, W, 3), T at least 2; ValueError with the argument's `name`."""
    frames = checked_images(values, name)
    if len(frames) < 2:
        raise ValueError(f"{name}: one frame, but motion takes two; begin with the last context frame")
    return frames


def peak_offset(values: ArrayLike, at: int) -> float:
    """Offset, in steps, from the largest value, at index `at`, to the vertex of the parabola through its neighbourhood."""
    line = np.asarray(values, dtype=np.float64)
    if not 0 < at < len(line) - 1:
        return 0.0
    curvature = line[at - 1] - 2 * line[at] + line[at + 1]
    return float(np.clip((line[at - 1] - line[at + 1]) / (2 * curvature), -0.5, 0.5)) if curvature < 0 else 0.0
