"""Clips whose motion is known: textures that slide, and squares that move over them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZE, CAP, RATE = 64, 10.0, 4.0
LENS = (50.0, 1.5, 0.03)
NOBODY: list[list[float]] = [[]] * 6


def texture(seed: int, side: int = 160, grain_px: float = 1.5) -> np.ndarray:
    """Smooth noise (side, side, 3), grey levels 0 to 255."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain_px)
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255)


def sliding(seed: int, step: tuple[float, float], frames: int = 6) -> np.ndarray:
    """A texture that moves by `step` px (x, y) a frame."""
    large = texture(seed)
    views = []
    for t in range(frames):
        way = np.array([[1, 0, t * step[0] - 48], [0, 1, t * step[1] - 48]])
        views.append(cv2.warpAffine(large.astype(np.float32), way, (SIZE, SIZE), flags=cv2.INTER_CUBIC))
    return np.clip(np.stack(views) + 0.5, 0, 255).astype(np.uint8)


def square(
    start: tuple[float, float], step: tuple[float, float], side: float = 12, grow: float = 1.0, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A two-coloured square over a texture (still, or moving by `shift` px a frame): frames, and its boxes (T, 1, 4)."""
    behind = sliding(5, (shift, 0.0)).astype(np.float32) * 0.5 + 30
    boxes, frames = [], []
    for t in range(6):
        half = side * grow**t / 2
        middle = np.array(start) + t * np.array(step)
        boxes.append([[*(middle - half), *(middle + half)]])
        # Coverage of each pixel by an interval, in x and in y: a square at a fraction of a pixel.
        pixel = np.arange(SIZE)
        x, y = (np.clip(np.minimum(pixel + 1, at + half) - np.maximum(pixel, at - half), 0, 1) for at in middle)
        top = np.clip(np.minimum(pixel + 1, middle[1]) - np.maximum(pixel, middle[1] - half), 0, 1)
        frame = behind[t] * (1 - np.outer(y, x))[..., None]
        frame += np.outer(top, x)[..., None] * [230, 40, 40] + np.outer(y - top, x)[..., None] * [40, 40, 230]
        frames.append(frame)
    return np.clip(np.stack(frames) + 0.5, 0, 255).astype(np.uint8), np.array(boxes)


def mirrored(boxes: np.ndarray) -> np.ndarray:
    return np.stack([SIZE - boxes[..., 2], boxes[..., 1], SIZE - boxes[..., 0], boxes[..., 3]], axis=-1)


def is_repeatable_on_two_threads(measure: Callable[[], np.ndarray]) -> None:
    """The measure gives the same twice, and leaves OpenCV with the threads that it had."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        np.testing.assert_array_equal(measure(), measure())
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
