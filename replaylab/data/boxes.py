"""Boxes of agents in frames: which are eligible, their centres and overlaps, and checks of arrays of boxes.

Boxes are (n, 4): left, top, right, bottom, px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.util.checks import BoolArray, FloatArray, IntArray, checked_shape

MIN_HEIGHT_PX = 6.0  # of an image of 64
MIN_VISIBLE = 0.5
SAME_BOX_IOU = 0.7  # of two detections: above it they are of one agent
PerFrame = Sequence[ArrayLike]
AnyFloats = NDArray[np.floating[Any]]


def is_eligible(boxes: ArrayLike, visible: ArrayLike, size_px: int = 64) -> BoolArray:
    """Which agents are eligible: at least 6 px tall in an image of 64 px (scaled for others) and at least half visible.

    boxes (A, 4) as x0 y0 x1 y1 in pixels, visible (A,) in 0..1, size_px the image's side; returns (A,) bool.
    ValueError names a bad argument.
    """
    checked = checked_boxes(boxes, "boxes")
    share = checked_shape(visible, "visible", (len(checked),), ", one value per box")
    if not np.all((share >= 0) & (share <= 1)):
        raise ValueError("visible: every value must be a number in 0..1")
    return ((checked[:, 3] - checked[:, 1]) >= MIN_HEIGHT_PX * size_px / 64) & (share >= MIN_VISIBLE)


def centres(boxes: ArrayLike) -> FloatArray:
    """Centres (A, 2), x and y in pixels, of boxes (A, 4)."""
    checked = checked_boxes(boxes, "boxes")
    return (checked[:, :2] + checked[:, 2:]) / 2


def iou(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Intersection over union (M,) of two lists of boxes (M, 4), row by row; 0 for two boxes of zero area."""
    a, b = checked_boxes(first, "first"), checked_boxes(second, "second")
    if len(a) != len(b):
        raise ValueError(f"second: {len(b)} boxes, but first has {len(a)}; give pairs")
    return pairwise_iou(a, b)


def pairwise_iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """IoU of boxes (..., 4) that broadcast against each other."""
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = _areas(first) + _areas(second) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def share_inside(boxes: FloatArray, height_px: int, width_px: int) -> FloatArray:
    """Share (A,) of the area of each box (A, 4) that lies in an image; 0 for boxes of zero area."""
    return _areas(np.clip(boxes, 0, np.tile([width_px, height_px], 2))) / np.maximum(_areas(boxes), 1e-9)


def uncovered_shares(boxes: AnyFloats, depths: AnyFloats, height_px: int, width_px: int) -> FloatArray:
    """Share (A,) of each full box (A, 4) that is in the image and not covered by a nearer agent's box (`depths` (A,)).

    0 for missing boxes (NaN).
    """
    shares = np.zeros(len(boxes))
    cells = 4  # a quarter of a pixel: fine enough for a share of an agent of 6 px
    taken = np.zeros((height_px * cells, width_px * cells), dtype=bool)
    most = np.tile([width_px, height_px], 2) * cells
    for agent in np.argsort(depths):
        if not np.isfinite(boxes[agent]).all():
            continue
        x0, y0, x1, y1 = boxes[agent]
        left, top, right, bottom = np.clip(np.round(boxes[agent] * cells), 0, most).astype(int)
        free = (~taken[top:bottom, left:right]).sum() / cells**2
        shares[agent] = min(1.0, free / max((x1 - x0) * (y1 - y0), 1e-9))
        taken[top:bottom, left:right] = True
    return shares


def _areas(boxes: FloatArray) -> FloatArray:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def inside(boxes: FloatArray, points: FloatArray) -> BoolArray:
    """Which points (1, K, 2) lie in which boxes (A, 4): bool (A, K)."""
    return np.asarray(((boxes[:, None, :2] <= points) & (points <= boxes[:, None, 2:])).all(-1))


def checked_frames(true_boxes: PerFrame, **others: PerFrame) -> int:
    """The number of frames; raises ValueError unless it is the same in every argument."""
    if len(true_boxes) == 0:
        raise ValueError("true_boxes: no frames; a clip needs at least one future frame")
    for name, frames in others.items():
        if len(frames) != len(true_boxes):
            raise ValueError(f"{name}: {len(frames)} frames, but true_boxes has {len(true_boxes)}; give one entry per frame")
    return len(true_boxes)


def checked_boxes(values: ArrayLike, name: str, scored: bool = False) -> FloatArray:
    """(A, 4) float boxes; an empty list gives (0, 4). A score column, where allowed, is dropped.

    ValueError, with the argument's `name`, for another shape, NaN, infinity and boxes with reversed edges.
    """
    boxes = np.asarray(values, dtype=np.float64)
    if boxes.size == 0 and boxes.ndim <= 2:
        return np.zeros((0, 4))
    widths = (4, 5) if scored else (4,)
    if boxes.ndim != 2 or boxes.shape[1] not in widths:
        wanted = "(K, 4) or (K, 5)" if scored else "(A, 4)"
        raise ValueError(f"{name}: shape {boxes.shape}, expected {wanted}, boxes as x0 y0 x1 y1")
    boxes = boxes[:, :4]
    if not np.isfinite(boxes).all():
        raise ValueError(f"{name}: holds NaN or infinity; leave out boxes that are not known")
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise ValueError(f"{name}: holds a box with x1 < x0 or y1 < y0; the order is x0 y0 x1 y1")
    return boxes


def checked_agents(values: ArrayLike, n: int, name: str) -> IntArray:
    """(n,) distinct integer ids; ValueError or TypeError with the argument's `name`."""
    ids = checked_shape(values, name, (n,), ", one id per true box", dtype=None if n else np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name}: {ids.dtype} values, expected integer agent ids")
    if len(np.unique(ids)) != n:
        raise ValueError(f"{name}: an agent appears twice in this frame; ids must be distinct")
    return ids.astype(np.int64)


def checked_mask(values: ArrayLike, n: int, name: str) -> BoolArray:
    """Boolean values (n,); ValueError for another shape, TypeError for other values, with the argument's `name`."""
    mask = checked_shape(values, name, (n,), ", one value per true box", dtype=None if n else np.bool_)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name}: {mask.dtype} values, expected True or False")
    return mask
