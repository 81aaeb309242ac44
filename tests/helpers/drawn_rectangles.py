"""Frames with bright rectangles: what a detector can learn in seconds."""

from __future__ import annotations

import numpy as np

SIZE = 32


def drawn(n: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frames of a grey street with one or two bright rectangles, and the boxes of the rectangles."""
    rng = np.random.default_rng(seed)
    frames, boxes = [], []
    for _ in range(n):
        frame = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
        frame[: SIZE // 3] = 150
        rows = []
        for slot in range(rng.integers(1, 3)):
            w, h = rng.integers(6, 12, 2)
            x0, y0 = slot * SIZE // 2 + rng.integers(0, SIZE // 2 - w + 1), rng.integers(0, SIZE - h)
            frame[y0 : y0 + h, x0 : x0 + w] = (230, 60, 40)
            rows.append([x0, y0, x0 + w, y0 + h, 1.0, 0.0])
        frames.append(frame)
        boxes.append(np.array(rows, dtype=np.float32))
    return np.stack(frames), boxes
