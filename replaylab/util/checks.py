"""Checks of arguments that are arrays, with errors that name the argument, what is wrong and what to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def checked_numbers(values: ArrayLike, name: str, dimensions: int | None = None) -> Floats:
    """The values as float64, of any shape or with `dimensions`; ValueError for none, NaN or infinity."""
    kept = np.asarray(values, np.float64)
    if kept.size == 0 or (dimensions is not None and kept.ndim != dimensions):
        wanted = f" and {dimensions} dimensions" if dimensions else ""
        raise ValueError(f"{name}: shape {kept.shape}, expected at least one value{wanted}")
    if not np.isfinite(kept).all():
        raise ValueError(f"{name}: holds NaN or infinity; leave out what was not measured, for all seeds alike")
    return kept


def checked_at_least(least: int, count: int, name: str, what: str, advice: str) -> int:
    """The count; ValueError if it is under the least, with what is counted and what to do about it."""
    if count < least:
        raise ValueError(f"{name}: {count} {what}, at least {least} are needed; {advice}")
    return count
