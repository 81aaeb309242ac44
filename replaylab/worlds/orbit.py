"""A camera that circles, pans, drives or zooms among still and moving things: most of the motion is the camera's.

Decision: this is replay with image motion like that of driving (the whole image moves with the camera) and without any
resemblance to a road. Camera and things have constant speed and yaw rate, or a constant zoom rate, so that three frames
determine the future. Walls and pillars stand outside the circle in which camera and things stay: agents are occluded
only by other agents.

Motions: `orbit`, `pan`, `dolly` and `zoom`, each the whole of what the camera does; `any`, one of the four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replaylab.spec import WorldSpec
from replaylab.worlds.kinematics import Mover
from replaylab.worlds.meshes import round_shadow
from replaylab.worlds.orbit_appearance import KINDS, OrbitAppearance, draw_appearance, surroundings, thing
from replaylab.worlds.renderer import Camera, Floats, Scene, rigid, shows_its_agents

LOOKS = ("any",)
CAMERA_MOTIONS = ("orbit", "pan", "dolly", "zoom")
MOTIONS = {"any": CAMERA_MOTIONS, **{name: (name,) for name in CAMERA_MOTIONS}}
TRIES = 300
CORNER = 0.75  # of a thing's size: the distance of its corners from its middle
THINGS_REACH_M = 4.2  # the greatest distance of a thing from the middle of the scene
CLEAR_M = 1.6  # between camera and the edge of any thing


@dataclass(frozen=True)
class View:
    """The camera's path x, y, heading (T, 3), a pinhole per frame, and the middle of the scene in m."""

    path: Floats
    cameras: tuple[Camera, ...]
    middle: Floats


def draw(spec: WorldSpec, look_rng: np.random.Generator, motion_rng: np.random.Generator, number: int) -> Scene:
    """The scene of one video; raises RuntimeError if none of TRIES shows its agents."""
    times = np.arange(spec.frames) / spec.frames_per_second
    motion = str(motion_rng.choice(MOTIONS[spec.motion]))
    look = draw_appearance(look_rng)
    for _ in range(TRIES):
        view = draw_view(motion, motion_rng, times)
        movers, sizes = _things(view, motion_rng, times)
        if len(movers) >= 2:
            scene = _scene(motion, look, view, movers, sizes, times, look_rng)
            if shows_its_agents(scene):
                return scene
    raise RuntimeError(f"none of {TRIES} scenes of motion {motion!r} shows its agents")


def draw_view(motion: str, rng: np.random.Generator, times: Floats) -> View:
    """The camera at `times` (T,), from the origin and facing +y at time 0; halfway it faces the middle."""
    distance, height = rng.uniform(5.2, 7.8), rng.uniform(1.2, 3.8)
    field_of_view, half = rng.uniform(45, 60), float(times[-1]) / 2
    sign = rng.choice([-1.0, 1.0])
    path, fields_of_view = np.zeros((len(times), 3)), np.full(len(times), field_of_view)
    middle = np.array([0.0, distance])
    if motion == "orbit":
        angle = sign * rng.uniform(0.25, 0.55) * times
        path = np.stack([distance * np.sin(angle), distance - distance * np.cos(angle), angle], axis=1)
    elif motion == "pan":
        rate = sign * rng.uniform(0.1, 0.25)
        path[:, 2] = rate * times
        middle = distance * np.array([-np.sin(rate * half), np.cos(rate * half)])
    elif motion == "dolly":
        speed = sign * rng.uniform(1.0, 2.2)
        path[:, 1] = speed * times
        middle[1] += speed * half
    elif motion == "zoom":  # the focal length grows or shrinks by the same share every second
        shrinking = np.exp(sign * rng.uniform(0.22, 0.45) * (times - half))
        fields_of_view = 2 * np.rad2deg(np.arctan(np.tan(np.deg2rad(field_of_view) / 2) * shrinking))
    else:
        raise ValueError(f"motion {motion!r} is none of {', '.join(CAMERA_MOTIONS)}")
    pitch = float(np.arctan2(height - 0.7, distance))
    return View(path, tuple(Camera(float(angle), height, pitch) for angle in fields_of_view), middle)


def _things(view: View, rng: np.random.Generator, times: Floats) -> tuple[list[Mover], list[float]]:
    """Some things and their sizes in m, without those that would touch another or the camera or leave the scene."""
    movers: list[Mover] = []
    sizes: list[float] = []
    paths: list[Floats] = []
    wanted = rng.integers(3, 7)
    for _ in range(50):
        mover, size = _mover(view.middle, rng, times), rng.uniform(1.0, 2.0)
        path, reach = mover.path(times)[:, :2], size * CORNER
        gone = np.linalg.norm(path - view.middle, axis=1).max() > THINGS_REACH_M - reach
        at_camera = np.linalg.norm(path - view.path[:, :2], axis=1).min() < reach + CLEAR_M
        hits = [
            np.linalg.norm(path - other, axis=1).min() < reach + its_size * CORNER
            for other, its_size in zip(paths, sizes, strict=True)
        ]
        if not (gone or at_camera or any(hits)):
            movers.append(mover)
            sizes.append(size)
            paths.append(path)
        if len(movers) == wanted:
            break
    return movers, sizes


def _mover(middle: Floats, rng: np.random.Generator, times: Floats) -> Mover:
    """A thing that stands, slides straight or circles; halfway it is near the middle of the scene."""
    angle, reach = rng.uniform(-np.pi, np.pi), 3.6 * np.sqrt(rng.uniform())
    x, y = middle + reach * np.array([np.cos(angle), np.sin(angle)])
    kind, heading = str(rng.choice(KINDS)), rng.uniform(-np.pi, np.pi)
    moves = rng.choice(["stands", "slides", "circles"], p=[0.4, 0.35, 0.25])
    if moves == "stands":
        return Mover(kind, x, y, heading, 0.0)
    if moves == "slides":
        speed = rng.uniform(0.5, 1.8)
        back = speed * float(times[-1]) / 2
        return Mover(kind, x + back * np.sin(heading), y - back * np.cos(heading), heading, speed)
    rate = rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.4)
    return Mover(kind, x, y, heading, rng.uniform(0.4, 1.4) * abs(rate), 0.0, rate)


def _scene(
    motion: str, look: OrbitAppearance, view: View, movers: list[Mover], sizes: list[float], times: Floats,
    rng: np.random.Generator,
) -> Scene:  # fmt: skip
    inner = max(float(np.linalg.norm(view.path[:, :2] - view.middle, axis=1).max()), THINGS_REACH_M)
    return Scene(
        cameras=view.cameras, ego=view.path, poses=np.stack([rigid(*mover.path(times).T) for mover in movers]),
        layers=surroundings(look, view.middle, inner + 1.5, rng),
        agents=[thing(mover.kind, size, look, rng) for mover, size in zip(movers, sizes, strict=True)],
        shadows=[round_shadow(0.6 * size, look.floors[0]) for size in sizes],
        kinds=tuple(mover.kind for mover in movers), sky_horizon=look.sky_horizon, sky_top=look.sky_top, event=motion,
    )  # fmt: skip
