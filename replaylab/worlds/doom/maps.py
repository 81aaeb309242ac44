"""The walls of a Doom map, read from the game's file, and the clearance of a path from them.

Decision: a wall is any line, seen from above, that stops a walker: a one-sided line, one marked impassable, a step or drop
higher than a walker can take, or an opening lower than the walker. Walls are those of the map's initial state.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from replaylab.worlds.renderer import Floats

STEP_UNITS, TALL_UNITS = 24, 56  # the highest step and the height of a walker
NO_SIDE, IMPASSABLE = 0xFFFF, 1
# lumps after the one with the map's name (doomwiki.org/wiki/WAD): number, and fields of a record
LINES: tuple[int, list[Any]] = (
    2, [("ends", "<u2", 2), ("flags", "<u2"), ("kind", "<u2"), ("tag", "<u2"), ("sides", "<u2", 2)],
)  # fmt: skip
SIDES: tuple[int, list[Any]] = (3, [("offset", "<i2", 2), ("textures", "S8", 3), ("sector", "<u2")])
POINTS: tuple[int, list[Any]] = (4, [("place", "<i2", 2)])
SECTORS: tuple[int, list[Any]] = (8, [("floor", "<i2"), ("ceiling", "<i2"), ("textures", "S8", 2), ("light", "<i2", 3)])


@lru_cache(maxsize=1)
def _wad(path: Path) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """The contents of the file, and the offset, size and name of each lump."""
    data = path.read_bytes()
    _, count, start = struct.unpack_from("<4sii", data)
    return data, list(struct.iter_unpack("<ii8s", data[start : start + 16 * count]))


@cache
def walls(path: Path, map_name: str) -> Floats:
    """The walls as line segments (N, 2, 2), each with two end points, in map units."""
    data, lumps = _wad(path)
    here = [name.rstrip(b"\0") for _, _, name in lumps].index(map_name.encode())

    def table(lump: tuple[int, list[Any]]) -> np.ndarray:
        kind = np.dtype(lump[1])
        offset, size, _ = lumps[here + lump[0]]
        return np.frombuffer(data, kind, size // kind.itemsize, offset)

    lines, sectors = table(LINES), table(SECTORS)
    one_sided = (lines["sides"] == NO_SIDE).any(axis=1)
    both = sectors[table(SIDES)["sector"][np.where(one_sided[:, None], 0, lines["sides"])]]
    floors, ceilings = both["floor"].astype(int), both["ceiling"].astype(int)
    stops = np.abs(floors[:, 0] - floors[:, 1]) > STEP_UNITS
    stops |= ceilings.min(axis=1) - floors.max(axis=1) < TALL_UNITS
    stops |= one_sided | (lines["flags"] & IMPASSABLE > 0)
    return table(POINTS)["place"].astype(float)[lines["ends"][stops]]


def near(low: Floats, high: Floats, points: Floats, reach: float) -> np.ndarray:
    """(N,): which bounding boxes, low (N, 2) to high (N, 2), are within `reach` of the bounding box of points (M, 2)."""
    return ((high > points.min(axis=0) - reach) & (low < points.max(axis=0) + reach)).all(axis=1)


def crosses(path: Floats, lines: Floats) -> bool:
    """Whether a path of points (N, 2) crosses any line segment (M, 2, 2)."""
    a, b = path[:-1, None], path[1:, None]
    c, d = lines[None, :, 0], lines[None, :, 1]

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        return np.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])

    return bool(((side(a, b, c) != side(a, b, d)) & (side(c, d, a) != side(c, d, b))).any())


def clearance(path: Floats, lines: Floats) -> float:
    """The smallest distance from any point (N, 2) to any line segment (M, 2, 2); a segment may have length zero."""
    start, along = lines[None, :, 0], (lines[:, 1] - lines[:, 0])[None]
    offset = path[:, None] - start
    share = np.clip((offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9), 0, 1)
    return float(np.linalg.norm(offset - share[..., None] * along, axis=-1).min(initial=np.inf))
