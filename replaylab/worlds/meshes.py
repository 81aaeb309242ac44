"""Meshes of vehicles, pedestrians, balls, houses and trees, a few boxes each, and of their shadows.

Decision: a body is never larger than `KINDS` states, so that a motion can be accepted (no collisions, visible to the
camera) before rendering.
"""

from __future__ import annotations

import numpy as np

from replaylab.worlds.appearance import RoadAppearance, hsv
from replaylab.worlds.renderer import Floats, Light, Mesh, box, join, quads

# kind: (width, length, height) in m
KINDS = {
    "car": (1.85, 4.3, 1.5),
    "van": (2.0, 5.0, 2.2),
    "truck": (2.5, 7.5, 3.2),
    "bus": (2.5, 10.0, 3.0),
    "motorcycle": (0.8, 2.1, 1.6),
    "cyclist": (0.7, 1.8, 1.8),
    "pedestrian": (0.65, 0.5, 1.8),
}


def vehicle(kind: str, colour: Floats, light: Light, lamps: bool, rng: np.random.Generator) -> Mesh:
    """A vehicle or pedestrian of a few boxes around its own origin, facing +y; no bigger than KINDS gives."""
    width, length, height = KINDS[kind]
    dark, glass = np.full(3, 0.07), np.array([0.20, 0.25, 0.30])
    if kind == "pedestrian":
        skin, trousers = hsv(rng.uniform(0.04, 0.09), 0.5, rng.uniform(0.4, 0.9)), np.array([0.12, 0.13, 0.2])
        legs = [box((x, 0, 0), (0.2, 0.3, 0.85), trousers, light) for x in (-0.15, 0.15)]
        torso = box((0, 0, 0.8), (width, 0.4, 0.7), colour, light)
        return join([*legs, torso, box((0, 0, 1.5), (0.28, 0.28, 0.3), skin, light)])
    if kind in ("cyclist", "motorcycle"):
        thick = 0.12 if kind == "cyclist" else 0.3
        parts = [box((0, y, 0), (thick, 0.6, 0.6), dark, light) for y in (-length / 2 + 0.3, length / 2 - 0.3)]
        frame_colour = colour if kind == "motorcycle" else np.array([0.5, 0.5, 0.5])
        parts.append(box((0, 0, 0.5), (thick, length * 0.7, 0.3), frame_colour, light))
        parts.append(box((0, -0.1, 0.75), (width, 0.45, height - 1.05), colour, light))
        parts.append(box((0, 0, height - 0.3), (0.3, 0.3, 0.3), np.array([0.75, 0.6, 0.5]), light))
        return join(parts)
    wheel = 0.32 if kind in ("car", "van") else 0.45
    parts = [
        box((x * (width / 2 - 0.12), y * (length / 2 - length * 0.18), 0), (0.24, 2 * wheel, 2 * wheel), dark, light)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    floor = wheel * 0.7
    if kind == "car":
        parts.append(box((0, 0, floor), (width, length, 0.85 - floor), colour, light))
        parts.append(box((0, -0.2, 0.85), (width * 0.86, length * 0.5, height - 0.93), glass, light))
        parts.append(box((0, -0.2, height - 0.1), (width * 0.84, length * 0.46, 0.1), colour, light))
    elif kind == "truck":
        parts.append(box((0, length * 0.37, floor), (width * 0.95, length * 0.26, height * 0.75 - floor), colour, light))
        parts.append(box((0, length * 0.47, height * 0.42), (width * 0.9, length * 0.07, 0.7), glass, light))
        cargo = np.clip(0.6 * colour + 0.4 * rng.uniform(0.3, 1.0), 0, 1)
        parts.append(box((0, -length * 0.13, floor + 0.3), (width, length * 0.74, height - floor - 0.3), cargo, light))
    else:  # van, bus
        parts.append(box((0, 0, floor), (width, length, height - floor), colour, light))
        for end in (-1, 1):
            parts.append(box((0, end * length / 2, height * 0.55), (width * 0.86, 0.06, height * 0.28), glass, light))
        for side in (-1, 1):
            parts.append(box((side * width / 2, 0, height * 0.55), (0.04, length * 0.86, height * 0.25), glass, light))
    tail = np.array([1.0, 0.15, 0.1]) if lamps else np.array([0.75, 0.08, 0.08])
    head = np.array([1.0, 0.97, 0.8]) if lamps else np.array([0.92, 0.92, 0.85])
    flat = Light((0, 0, 1), 1.0, 0.0)  # lamps are not shaded
    for x in (-1, 1):
        parts.append(box((x * width * 0.36, -length / 2, 0.6), (0.34, 0.06, 0.24), tail, flat))
        parts.append(box((x * width * 0.36, length / 2, 0.55), (0.34, 0.06, 0.22), head, flat))
    return join(parts)


def shadow(kind: str, look: RoadAppearance) -> Mesh:
    """The shadow of a body on the road under it."""
    width, length, _ = KINDS[kind]
    x, y = width / 2 + 0.15, length / 2 + 0.15
    return quads(np.array([[[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]]), look.road[None] * 0.45)


def house(look: RoadAppearance, x: float, y: float, rng: np.random.Generator) -> Mesh:
    """A house at (x, y), with windows towards the road (x = 0) and the camera, some of them lit."""
    width, depth, height = rng.uniform(6, 9), rng.uniform(6.5, 8.5), rng.uniform(4, 11)
    wall = look.walls[rng.integers(len(look.walls))] * rng.uniform(0.85, 1.1)
    storeys = np.linspace(0, height, max(2, round(height / 1.4)) + 1)
    courses = look.textured(wall, (len(storeys) - 1, 1), rng)[:, 0]
    parts = [
        box((x, y, low), (width, depth, high - low), course, look.light)
        for low, high, course in zip(storeys, storeys[1:], courses, strict=False)
    ]
    face = x - np.sign(x) * (width / 2 + 0.03)
    flat = Light((0, 0, 1), 1.0, 0.0)
    for floor in np.arange(1.2, height - 1.4, 2.8):
        for along in (-depth * 0.25, depth * 0.25):
            lit = look.lamps and rng.uniform() < 0.6
            colour = np.array([1.0, 0.80, 0.42]) if lit else wall * 0.45
            parts.append(box((face, y + along, floor), (0.06, 1.7, 1.5), colour, flat))
            parts.append(box((x + along, y - depth / 2 - 0.03, floor), (1.5, 0.06, 1.5), colour, flat))
    return join(parts)


def tree(look: RoadAppearance, x: float, y: float, rng: np.random.Generator) -> Mesh:
    """A tree of two boxes on a trunk."""
    height = rng.uniform(3, 7)
    trunk = box((x, y, 0), (0.4, 0.4, height * 0.5), np.array([0.30, 0.2, 0.13]), look.light)
    crown = look.foliage * rng.uniform(0.8, 1.2)
    spread = rng.uniform(1.8, 3.2)
    lower = box((x, y, height * 0.35), (spread, spread, height * 0.4), crown, look.light)
    upper = box((x, y, height * 0.7), (spread * 0.6, spread * 0.6, height * 0.3), crown * 1.08, look.light)
    return join([trunk, lower, upper])


def poplar(look: RoadAppearance, rng: np.random.Generator) -> Mesh:
    """A tall, narrow tree at the origin."""
    height, shade = rng.uniform(9, 12), look.foliage * rng.uniform(0.8, 1.1)
    trunk = box((0, 0, 0), (0.4, 0.4, 1.6), np.array([0.34, 0.27, 0.2]), look.light)
    middle = box((0, 0, 1.4), (1.9, 1.9, height * 0.55), shade, look.light)
    return join([trunk, middle, box((0, 0, height * 0.6), (1.2, 1.2, height * 0.4), shade * 1.06, look.light)])


def pole(look: RoadAppearance) -> Mesh:
    """A telegraph pole at the origin."""
    wood = np.array([0.36, 0.29, 0.23])
    mast = box((0, 0, 0), (0.3, 0.3, 7.5), wood, look.light)
    return join([mast, box((0, 0, 6.6), (2.4, 0.25, 0.25), wood, look.light)])


def rail(look: RoadAppearance, length: float) -> Mesh:
    """A crash barrier along y at the origin, `length` m long."""
    steel = np.array([0.62, 0.64, 0.66])
    posts = [box((0, y, 0), (0.12, 0.12, 0.6), steel * 0.7, look.light) for y in (-length / 3, 0.0, length / 3)]
    return join([*posts, box((0, 0, 0.5), (0.12, length, 0.3), steel, look.light)])


def hedge(look: RoadAppearance, length: float, rng: np.random.Generator) -> Mesh:
    """A hedge along y, `length` m long."""
    size = (rng.uniform(0.9, 1.2), length, rng.uniform(0.9, 1.15))
    return box((0, 0, 0), size, look.foliage * rng.uniform(0.75, 0.95), look.light)


def wall(look: RoadAppearance, length: float, rng: np.random.Generator) -> Mesh:
    """A low stone wall along y, with a lighter top, `length` m long."""
    stone = look.walls[rng.integers(2)] * rng.uniform(0.92, 1.08)
    top = box((0, 0, 0.75), (0.6, length, 0.15), stone * 1.15, look.light)
    return join([box((0, 0, 0), (0.5, length, 0.75), stone, look.light), top])


def barn(look: RoadAppearance, rng: np.random.Generator) -> Mesh:
    """A barn with a stepped roof."""
    width, length, height = rng.uniform(7, 9), rng.uniform(9, 12), rng.uniform(3.5, 4.5)
    body = box((0, 0, 0), (width, length, height), look.walls[-1], look.light)
    roof = [
        box((0, 0, height + step * 0.8), (width * (1 - step * 0.3), length, 0.8), look.walls[1] * 0.8, look.light)
        for step in range(3)
    ]
    return join([body, *roof])


def ball(radius: float, colours: Floats, light: Light) -> Mesh:
    """A sphere of 8 x 6 patches in two alternating colours (2, 3), so that its rolling is visible."""
    turns, rises = np.linspace(0, 2 * np.pi, 9), np.linspace(-np.pi / 2, np.pi / 2, 7)
    across = (np.outer(np.cos(rises), np.cos(turns)), np.outer(np.cos(rises), np.sin(turns)))
    place = np.stack([*across, np.outer(np.sin(rises), np.ones(9))], axis=-1)
    corners = np.stack([place[:-1, :-1], place[:-1, 1:], place[1:, 1:], place[1:, :-1]], axis=2).reshape(-1, 4, 3)
    paint = colours[np.add.outer(np.arange(6) // 2, np.arange(8) // 2).ravel() % 2]
    return quads(radius * corners, paint[:, None] * light.shade(corners)[..., None])


def round_shadow(radius: float, floor: Floats, corners: int = 12) -> Mesh:
    """A dark disc on a floor of that colour around the origin; an even number of corners."""
    turns = np.linspace(0, 2 * np.pi, corners + 1)
    rim = radius * np.stack([np.cos(turns), np.sin(turns), np.zeros(len(turns))], axis=1)
    faces = np.stack([[np.zeros(3), rim[i], rim[i + 1], rim[i + 2]] for i in range(0, corners, 2)])
    return quads(faces, np.repeat(floor[None] * 0.5, len(faces), axis=0))
