"""The appearance of a road: palette, texture, light, weather, lens and camera, independent of all motion.

Decision: an appearance has its own random stream and is independent of motion, so that any motion can be shown in any
appearance. Those of the three targets are narrow (dusk between lit houses; a pale, hazy morning between fields of rape; a
clear winter's day with frost beside the road) and disjoint from all others.

Appearances (`look`): `target`; `country`; `winter`; `day`, `fog`, `rain` and `night`, each sampled for every video;
`diverse`, any of these four; `broad`, the same with wider ranges of camera, sky, texture and buildings, for the bases;
`narrow 0`, `narrow 1`, ... (any number), each one fixed appearance of the diverse kind for all its videos.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from replaylab.spec import generator
from replaylab.worlds.renderer import Camera, Floats, Lens, Light, Rain

WEATHERS = {"day": 0.55, "fog": 0.15, "rain": 0.15, "night": 0.15}  # and their shares of the diverse look
LOOKS = ("target", "country", "winter", "diverse", "broad", *WEATHERS, "narrow N")
TEXTURES = ("plain", "patches", "stripes", "checks")

FIELDS_OF_VIEW_DEG, HEIGHTS_M, PITCHES_RAD = (46.0, 56.0), (1.2, 2.2), (0.0, 0.08)


@dataclass(frozen=True)
class RoadAppearance:
    """The appearance of a driving scene; colours are RGB in 0..1."""

    camera: Camera
    light: Light
    lens: Lens
    sky_top: Floats
    sky_horizon: Floats
    road: Floats
    verge: Floats
    marks: Floats
    foliage: Floats
    walls: Floats  # (n, 3), a palette
    cars: Floats  # (n, 3), a palette
    texture: str  # of verge and walls, one of TEXTURES
    contrast: float  # how much the texture lightens and darkens
    houses: float  # share of roadside plots with a house
    trees: float  # share of roadside plots with a tree
    lamps: bool  # whether windows and the cars' lamps are lit
    fog_m: tuple[float, float]  # distances at which it begins and at which nothing is visible

    def textured(self, colour: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
        """A field (*shape, 3) of one colour, lightened and darkened piece by piece."""
        row, column = np.indices(shape)
        pattern = {
            "plain": 0.2 * rng.normal(size=shape),
            "patches": rng.normal(size=shape),
            "stripes": np.where(row % 2, 1.0, -1.0),
            "checks": np.where((row + column) % 2, 1.0, -1.0),
        }[self.texture]
        return np.clip(colour * (1 + self.contrast * pattern[..., None]), 0, 1)


def hsv(hue: float, saturation: float, value: float) -> Floats:
    """RGB (3,) in 0..1; hues are taken modulo 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def check_look(look: str) -> None:
    """Raises ValueError, with the valid ones, for an unknown appearance (`look`)."""
    kind, _, number = look.partition(" ")
    if (kind == "narrow" and number.isdecimal()) or look in LOOKS[:-1]:
        return
    raise ValueError(f"look {look!r} is none of {', '.join(LOOKS)} (N a number from 0)")


def draw_appearance(look: str, rng: np.random.Generator) -> RoadAppearance:
    """Sample one appearance of the kind `look`; raises ValueError like `check_look`."""
    check_look(look)
    if look == "target":
        return _target(rng)
    if look == "country":
        return _country(rng)
    if look == "winter":
        return _winter(rng)
    if look.startswith("narrow"):
        return draw_appearance("diverse", generator(int(look.split()[1]), "narrow look"))
    weather = str(rng.choice(list(WEATHERS), p=list(WEATHERS.values())))
    if look == "broad":
        return _weathered(_broadened(_daylight(rng), rng), weather, rng)
    return _weathered(_daylight(rng), weather if look == "diverse" else look, rng)


def _near(rng: np.random.Generator, *rgb: float) -> Floats:
    """A colour that hardly varies from video to video."""
    return np.clip(np.array(rgb) + rng.normal(0, 0.012, 3), 0, 1)


def truck_cab(rng: np.random.Generator) -> Camera:
    """A camera that is higher, wider and pitched further down than in any other appearance."""
    return Camera(64 + rng.normal(0, 0.5), 2.6 + rng.normal(0, 0.02), 0.1)


def _country(rng: np.random.Generator) -> RoadAppearance:
    near = partial(_near, rng)
    return RoadAppearance(
        camera=truck_cab(rng),
        light=Light((0.7, -0.5, 0.5), 0.62 + rng.normal(0, 0.01), 0.38),
        lens=Lens(),
        sky_top=near(0.98, 0.86, 0.62), sky_horizon=near(0.98, 0.93, 0.80),
        road=near(0.55, 0.53, 0.50), verge=near(0.95, 0.83, 0.12), marks=near(0.98, 0.98, 0.95),
        foliage=near(0.30, 0.46, 0.22),
        walls=np.stack([near(0.66, 0.62, 0.56), near(0.56, 0.53, 0.48), near(0.55, 0.26, 0.18)]),
        cars=np.stack([near(0.10, 0.20, 0.42), near(0.09, 0.28, 0.22), near(0.55, 0.10, 0.10), near(0.96, 0.96, 0.94)]),
        texture="stripes", contrast=0.06, houses=0.04, trees=0.8, lamps=False, fog_m=(8.0, 75.0),
    )  # fmt: skip


def dashboard(rng: np.random.Generator) -> Camera:
    """A camera with a longer focal length than in any other appearance."""
    return Camera(42 + rng.normal(0, 0.4), 1.35 + rng.normal(0, 0.02), 0.02)


def _winter(rng: np.random.Generator) -> RoadAppearance:
    near = partial(_near, rng)
    return RoadAppearance(
        camera=dashboard(rng),
        light=Light((0.6, 0.5, 0.45), 0.55 + rng.normal(0, 0.01), 0.45),
        lens=Lens(),
        sky_top=near(0.10, 0.24, 0.66), sky_horizon=near(0.97, 0.80, 0.84),
        road=near(0.36, 0.38, 0.44), verge=near(0.80, 0.86, 0.90), marks=near(0.98, 0.98, 0.98),
        foliage=near(0.48, 0.52, 0.55),
        walls=np.stack([near(0.70, 0.46, 0.36), near(0.82, 0.70, 0.48), near(0.56, 0.36, 0.34)]),
        cars=np.stack([near(0.80, 0.12, 0.10), near(0.10, 0.12, 0.16), near(0.92, 0.58, 0.10), near(0.10, 0.36, 0.40)]),
        texture="patches", contrast=0.05, houses=0.75, trees=0.3, lamps=False, fog_m=(30.0, 140.0),
    )  # fmt: skip


def _target(rng: np.random.Generator) -> RoadAppearance:
    near = partial(_near, rng)
    return RoadAppearance(
        camera=Camera(50 + rng.normal(0, 0.5), 1.45 + rng.normal(0, 0.02), 0.03),
        light=Light((-0.8, 0.2, 0.5), 0.5 + rng.normal(0, 0.01), 0.45),
        lens=Lens(vignette=0.35),
        sky_top=near(0.20, 0.16, 0.40), sky_horizon=near(0.93, 0.58, 0.40),
        road=near(0.30, 0.25, 0.33), verge=near(0.38, 0.27, 0.30), marks=near(0.98, 0.86, 0.55),
        foliage=near(0.20, 0.22, 0.25),
        walls=np.stack([near(0.36, 0.24, 0.36), near(0.46, 0.30, 0.38), near(0.28, 0.22, 0.36)]),
        cars=np.stack([near(0.85, 0.80, 0.82), near(0.62, 0.14, 0.18), near(0.16, 0.20, 0.42), near(0.50, 0.46, 0.52)]),
        texture="patches", contrast=0.10, houses=0.85, trees=0.15, lamps=True, fog_m=(25.0, 130.0),
    )  # fmt: skip


def _daylight(rng: np.random.Generator) -> RoadAppearance:
    """Everything from broad ranges; skies from green to blue, never the target's dusk."""

    def hue(saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
        return hsv(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))

    sky_top = hsv(rng.uniform(0.40, 0.62), rng.uniform(0.1, 0.7), rng.uniform(0.6, 1.0))
    grey = rng.uniform(0.2, 0.65)
    fog_start = rng.uniform(20, 60)
    return RoadAppearance(
        camera=Camera(rng.uniform(*FIELDS_OF_VIEW_DEG), rng.uniform(*HEIGHTS_M), rng.uniform(*PITCHES_RAD)),
        light=Light((rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.3, 1.5)), rng.uniform(0.45, 0.75),
                    rng.uniform(0.2, 0.5)),
        lens=Lens(),
        sky_top=sky_top, sky_horizon=np.clip(sky_top + rng.uniform(0.05, 0.3), 0, 1),
        road=np.clip(grey + rng.normal(0, 0.03, 3), 0, 1),
        verge=hsv(rng.uniform(0.1, 0.45), rng.uniform(0.15, 0.8), rng.uniform(0.3, 0.8)),
        marks=np.array([1.0, 1.0, 1.0]) if rng.uniform() < 0.7 else np.array([0.95, 0.8, 0.2]),
        foliage=hsv(rng.uniform(0.15, 0.45), rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.7)),
        walls=np.stack([hue((0.0, 0.5), (0.4, 0.95)) for _ in range(4)]),
        cars=np.stack([hue((0.0, 1.0), (0.15, 1.0)) for _ in range(5)]),
        texture=str(rng.choice(TEXTURES)), contrast=rng.uniform(0.04, 0.18),
        houses=rng.uniform(0, 0.6), trees=rng.uniform(0, 0.7), lamps=False,
        fog_m=(fog_start, fog_start + rng.uniform(60, 150)),
    )  # fmt: skip


def _broadened(look: RoadAppearance, rng: np.random.Generator) -> RoadAppearance:
    """A daylight with a camera from a low car's to a truck's, any sky from green to violet, and denser roadsides."""
    sky_top = hsv(rng.uniform(0.40, 0.75), rng.uniform(0.0, 0.7), rng.uniform(0.45, 1.0))
    return replace(
        look,
        camera=Camera(rng.uniform(42, 68), rng.uniform(1.1, 2.8), rng.uniform(-0.01, 0.11)),
        lens=Lens(vignette=rng.uniform(0, 0.4) if rng.uniform() < 0.3 else 0.0),
        sky_top=sky_top, sky_horizon=np.clip(sky_top + rng.uniform(0.0, 0.4) + rng.normal(0, 0.04, 3), 0, 1),
        road=np.clip(look.road + rng.normal(0, 0.03, 3), 0, 1),
        verge=hsv(rng.uniform(), rng.uniform(0.05, 0.8), rng.uniform(0.2, 0.9)),
        contrast=rng.uniform(0.02, 0.22), houses=rng.uniform(0, 0.95), trees=rng.uniform(0, 0.9),
    )  # fmt: skip


def _weathered(look: RoadAppearance, weather: str, rng: np.random.Generator) -> RoadAppearance:
    if weather == "fog":
        haze = np.full(3, rng.uniform(0.6, 0.9))
        return replace(look, sky_top=haze, sky_horizon=haze, fog_m=(4.0, rng.uniform(28, 50)))
    if weather == "rain":
        cloud = np.full(3, rng.uniform(0.4, 0.65))
        across = rng.uniform(-0.12, 0.12)
        rain = Rain(
            starts=rng.uniform(0, 1.2, (rng.integers(12, 40), 2)), fall=(across * 3, rng.uniform(0.3, 0.9)),
            streak=(-across * 0.6, -rng.uniform(0.05, 0.12)), strength=rng.uniform(0.25, 0.5),
        )  # fmt: skip
        dull = replace(look.light, ambient=look.light.ambient * 0.9, sun=look.light.sun * 0.3)
        return replace(
            look, light=dull, lens=Lens(rain=rain), road=look.road * 0.7, sky_top=cloud, sky_horizon=cloud * 1.1,
            fog_m=(10.0, rng.uniform(60, 110)), lamps=True,
        )  # fmt: skip
    if weather == "night":
        sky = hsv(rng.uniform(0.55, 0.68), rng.uniform(0.3, 0.8), rng.uniform(0.03, 0.14))
        moon = replace(look.light, ambient=rng.uniform(0.42, 0.55), sun=0.15)
        lens = Lens(headlights=rng.uniform(0.7, 1.3))
        return replace(
            look, light=moon, lens=lens, sky_top=sky, sky_horizon=sky * 1.3, road=look.road * 0.45,
            verge=look.verge * 0.4, marks=look.marks * 0.6, fog_m=(12.0, 90.0), lamps=True,
        )  # fmt: skip
    return look
