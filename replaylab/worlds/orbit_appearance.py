"""The appearance of the scenes of `orbit`: palette, floor, light, walls, pillars, and the things themselves.

Decision: colours come from the whole range, but without dusk: no sky is near the driving target's violet over orange.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from replaylab.worlds.appearance import hsv
from replaylab.worlds.meshes import ball
from replaylab.worlds.renderer import GROUND, SOLID, Floats, Layers, Light, Mesh, box, join, quads, strip

KINDS = ("box", "ball", "plank", "pyramid", "stack")
PATTERNS = ("checks", "stripes", "patches", "rings", "paving")
PLACES = ("plain", "pillars", "room", "court")  # what stands around
TILE_M, FLOOR_M, FAR_FLOOR_M = 1.5, 24.0, 96.0


@dataclass(frozen=True)
class OrbitAppearance:
    """The appearance of an orbit scene; colours are RGB in 0..1."""

    light: Light
    sky_top: Floats
    sky_horizon: Floats
    floors: Floats  # (2, 3): the pattern's two colours
    pattern: str  # one of PATTERNS
    place: str  # one of PLACES
    walls: Floats  # (2, 3)
    hue: float  # of the things, within `scatter`
    scatter: float


def draw_appearance(rng: np.random.Generator) -> OrbitAppearance:
    """Palette, place and light of one scene."""
    floor = hsv(rng.uniform(), rng.uniform(0.0, 0.7), rng.uniform(0.25, 0.9))
    contrast = rng.uniform(0.2, 0.55)
    other = floor * (1 - contrast) if floor.mean() > 0.4 else floor + (1 - floor) * contrast
    # a sky from orange over green to blue, bright; or a studio's grey
    sky = hsv(rng.uniform(0.05, 0.64), rng.uniform(0.05, 0.7), rng.uniform(0.6, 1.0))
    if rng.uniform() < 0.3:
        sky = np.full(3, rng.uniform(0.0, 1.0))
    return OrbitAppearance(
        light=Light((rng.uniform(-1, 1), rng.uniform(-1, 0.5), rng.uniform(0.4, 1.5)), rng.uniform(0.4, 0.6),
                    rng.uniform(0.35, 0.55)),
        sky_top=sky, sky_horizon=np.clip(sky + rng.uniform(0.0, 0.35), 0, 1),
        floors=np.stack([floor, other]), pattern=str(rng.choice(PATTERNS)), place=str(rng.choice(PLACES)),
        walls=np.stack([hsv(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(0.3, 0.95)) for _ in range(2)]),
        hue=rng.uniform(), scatter=float(rng.choice([0.06, 0.2, 0.5])),
    )  # fmt: skip


def _paint(look: OrbitAppearance, rng: np.random.Generator) -> Floats:
    """A colour that differs from the floor's."""
    for _ in range(20):
        hue = look.hue + rng.uniform(-1, 1) * look.scatter
        colour = hsv(hue, rng.uniform(0.3, 1.0), rng.uniform(0.35, 1.0))
        if np.linalg.norm(colour - look.floors, axis=1).min() > 0.35:
            return colour
    return 1.0 - look.floors[0]


def thing(kind: str, size: float, look: OrbitAppearance, rng: np.random.Generator) -> Mesh:
    """One thing on the ground around its own origin, about `size` m large, with corners within 0.75 of that."""
    first, second, light = _paint(look, rng), _paint(look, rng), look.light
    if kind == "ball":
        return ball(size / 2, np.stack([first, second]), light).moved(0, 0, z=size / 2)
    if kind == "pyramid":
        return _pyramid(size, first, second, light)
    if kind == "stack":
        half = box((0, 0, 0), (size * 0.8, size * 0.8, size * 0.6), first, light)
        if rng.uniform() < 0.5:
            top = ball(size * 0.35, np.stack([second, first]), light).moved(0, 0, z=size * 0.95)
        else:
            top = box((0, 0, size * 0.6), (size * 0.5, size * 0.5, size * 0.5), second, light)
        return join([half, top])
    width, length, height = (size, size, size) if kind == "box" else (size * 0.45, size * 1.4, size * 0.7)
    lower = box((0, 0, 0), (width, length, height * 0.55), first, light)
    return join([lower, box((0, 0, height * 0.55), (width, length, height * 0.45), second, light)])


def _pyramid(size: float, first: Floats, second: Floats, light: Light) -> Mesh:
    """Four sides in two colours."""
    rim = size * 0.5 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
    apex = np.array([0, 0, size * 1.1])
    corners = np.stack([[rim[side], rim[(side + 1) % 4], apex, apex] for side in range(4)])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return quads(corners, np.stack([first, second, first, second]) * light.shade(normals)[:, None])


def surroundings(look: OrbitAppearance, middle: Floats, inner_m: float, rng: np.random.Generator) -> Layers:
    """Floor, and walls or pillars at least `inner_m` from the middle."""
    layers = [(GROUND, _floor(look, middle, FAR_FLOOR_M, FAR_FLOOR_M / 12, rng)),
              (GROUND, _floor(look, middle, FLOOR_M, TILE_M, rng))]  # fmt: skip
    if look.place == "plain":
        return layers
    if look.place == "room":
        return [*layers, *((SOLID, wall) for wall in _walls(look, middle, inner_m + rng.uniform(1, 6), rng))]
    solids = []
    count, ring = int(rng.integers(6, 13)), inner_m + rng.uniform(1.0, 5.0)
    for angle in rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count:
        x, y = middle + (ring + rng.uniform(0, 2)) * np.array([np.cos(angle), np.sin(angle)])
        width = rng.uniform(0.6, 1.2) if look.place == "pillars" else rng.uniform(2.0, 4.5)
        height = rng.uniform(3.0, 7.0) if look.place == "pillars" else rng.uniform(1.0, 6.0)
        foot, shaft = height * 0.25, height * 0.75
        colours = look.walls[rng.permutation(2)]
        parts = [box((0, 0, 0), (width * 1.15, width * 1.15, foot), colours[0], look.light),
                 box((0, 0, foot), (width, width, shaft), colours[1], look.light)]  # fmt: skip
        solids.append(join(parts).moved(x, y, float(angle)))
    return [*layers, *((SOLID, solid) for solid in solids)]


def _floor(look: OrbitAppearance, middle: Floats, half_m: float, tile_m: float, rng: np.random.Generator) -> Mesh:
    cuts = np.arange(-half_m, half_m + tile_m / 2, tile_m)
    row, column = np.indices((len(cuts) - 1, len(cuts) - 1))
    centre = (len(cuts) - 2) / 2
    share = {
        "checks": (row + column) % 2,
        "stripes": column % 2,
        "patches": rng.uniform(size=row.shape),
        "rings": np.maximum(abs(row - centre), abs(column - centre)) // 1 % 2,
        "paving": ((row % 3 == 0) | (column % 3 == 0)),
    }[look.pattern][..., None]
    colours = look.floors[0] * (1 - share) + look.floors[1] * share
    colours = colours * (1 + rng.normal(0, 0.03, (*row.shape, 1)))
    strips = [
        strip(middle[0] + x, middle[0] + x + tile_m, middle[1] + cuts, np.clip(colours[:, number], 0, 1))
        for number, x in enumerate(cuts[:-1])
    ]
    return join(strips)


def _walls(look: OrbitAppearance, middle: Floats, half_m: float, rng: np.random.Generator) -> list[Mesh]:
    """Four walls of upright panels in two colours, turned as a whole."""
    height, turn = rng.uniform(2.0, 6.0), rng.uniform(0, np.pi / 2)
    panels = max(4, round(half_m * 2 / rng.uniform(2.0, 4.5)))
    edges = np.linspace(-half_m, half_m, panels + 1)
    walls = []
    for side in range(4):
        parts = [
            box(((low + high) / 2, half_m, 0), (high - low, 0.4, height), look.walls[number % 2], look.light)
            for number, (low, high) in enumerate(pairwise(edges))
        ]
        walls.append(join(parts).moved(middle[0], middle[1], turn + side * np.pi / 2))
    return walls
