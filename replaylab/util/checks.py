"""Checks of array arguments, with errors that name the argument, the reason and a remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Images = NDArray[np.uint8]


def checked_numbers(values: ArrayLike, name: str, dimensions: int | None = None) -> FloatArray:
    """The values as float64, of any shape or with `dimensions`; ValueError for none, NaN or infinity."""
    kept = np.asarray(values, np.float64)
    if kept.size == 0 or (dimensions is not None and kept.ndim != dimensions):
        wanted = f" and {dimensions} dimensions" if dimensions else ""
        raise ValueError(f"{name}: shape {kept.shape}, expected at least one value{wanted}")
    if not np.isfinite(kept).all():
        raise ValueError(f"{name}: holds NaN or infinity; leave out what was not measured, for all seeds alike")
    return kept


def checked_at_least(least: int, count: int, name: str, what: str, advice: str) -> int:
    """The count; ValueError if it is below `least`, with the counted items and a remedy."""
    if count < least:
        raise ValueError(f"{name}: {count} {what}, at least {least} are needed; {advice}")
    return count


def checked_images(values: ArrayLike, name: str, multiple: int = 1) -> Images:
    """Frames uint8 (N, H, W, 3), H and W multiples of `multiple`; ValueError with the argument's `name`."""
    images = np.asarray(values)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"{name}: {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)")
    if images.shape[1] % multiple or images.shape[2] % multiple:
        sides = f"{images.shape[2]}x{images.shape[1]}"
        raise ValueError(f"{name}: {sides} pixels, both sides must be divisible by {multiple}")
    return images


def checked_shape(
    values: ArrayLike, name: str, sides: tuple[int | str, ...], note: str = "", *, finite: bool = False,
    dtype: DTypeLike | None = np.float64,
) -> NDArray[Any]:  # fmt: skip
    """The values as an array with these `sides`, a letter for any length; with `finite`, without NaN and infinity.

    ValueError, with the argument's `name`, the expected shape and the explanatory `note`.
    """
    array = np.asarray(values, dtype)
    if array.ndim != len(sides) or any(
        isinstance(side, int) and side != length for length, side in zip(array.shape, sides, strict=True)
    ):
        wanted = str(sides).replace("'", "")
        raise ValueError(f"{name}: shape {array.shape}, expected {wanted}{note}")
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    return array


def checked_positive(value: float, name: str, what: str = "number of pixels") -> float:
    """A positive number as a float; ValueError with the argument's `name`."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}: {value!r}, expected a positive {what}")
    return float(value)
