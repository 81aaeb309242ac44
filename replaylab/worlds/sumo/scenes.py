"""Scenes of the simulated traffic: the windows of each domain, and the rendering of one.

Decision: motions are filters on the stored windows, and a video shows one window, so a domain has at most as many videos as
there are windows; motorway and town alternate. *Natural* driving is that of heterogeneous drivers, with events at their
natural rate, in windows that constant acceleration and yaw rate explain within 0.2 m: as in the other worlds, three frames
then determine the future. Windows in which nothing moves (the camera and all visible agents stand still) are excluded.

Motions: `natural`; `eventful`, the natural windows with an event; `unfiltered`, natural driving whether predictable or not;
`regular`, identical drivers without errors. The camera is a dashboard camera in every appearance.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from replaylab.catalogue import FRAMES_PER_SECOND
from replaylab.data.domain import SPLITS
from replaylab.spec import WorldSpec, generator
from replaylab.worlds.appearance import dashboard, draw_appearance
from replaylab.worlds.meshes import shadow, vehicle
from replaylab.worlds.renderer import Floats, Scene, placed, rigid
from replaylab.worlds.sumo import tracks
from replaylab.worlds.sumo.roads import MOTORWAY_MIDDLE_M, surroundings
from replaylab.worlds.sumo.simulation import PLACES
from replaylab.worlds.sumo.windows import EXPLAINED_M, FRAMES, NO_EVENT

DRIVES_M_S, MOVES_PX = 1.0, 0.5  # minimum speed of the camera, or motion of the agents in the image
MOTIONS = {  # drivers, whether only predictable windows, whether only those with an event
    "natural": ("heterogeneous", True, False),
    "eventful": ("heterogeneous", True, True),
    "unfiltered": ("heterogeneous", False, False),
    "regular": ("regular", True, False),
}


def check(spec: WorldSpec) -> None:
    """Raises ValueError for a description of videos that the stored windows cannot provide."""
    if spec.frames > FRAMES or spec.frames_per_second != FRAMES_PER_SECOND:
        raise ValueError(
            f"frames is {spec.frames} and frames_per_second {spec.frames_per_second:g}; simulated traffic is stored in "
            f"windows of {FRAMES} frames at {FRAMES_PER_SECOND:g} frames/s"
        )
    if spec.eventful_share != 1.0:
        raise ValueError(
            f"eventful_share is {spec.eventful_share}; simulated traffic has events at their natural rate: leave it at 1"
        )
    for split, count in zip(SPLITS, spec.videos, strict=True):
        if count > (most := len(order(spec.motion, split, spec.seed))):
            raise ValueError(
                f"videos: {count} of split {split!r}, but there are only {most} windows of {spec.motion!r} in it"
            )


@cache
def order(motion: str, split: str, seed: int) -> tuple[int, ...]:
    """The windows of a motion and split, motorway and town alternating, in an order determined by the seed."""
    found = tracks.windows()
    drivers, explained, eventful = MOTIONS[motion]
    fits = (found["drivers"] == drivers) & (found["split"] == split)
    fits &= (found["camera_m_s"] >= DRIVES_M_S) | (found["moved_px"] >= MOVES_PX)
    if explained:
        fits &= found["unexplained_m"] <= EXPLAINED_M
    fits &= (found["event"] != NO_EVENT) if eventful else found["as_it_came"]
    rng = generator(seed, f"order of simulated traffic {motion} {split}")
    turns = [rng.permutation(found.index[fits & (found["place"] == place)]) for place in PLACES]
    return tuple(int(window) for both in zip(*turns, strict=False) for window in both)


def draw(spec: WorldSpec, look_rng: np.random.Generator, split: str, number: int) -> Scene:
    """The scene of one video, in the frame of the camera's first pose."""
    window = tracks.recorded(order(spec.motion, split, spec.seed)[number])
    origin = window.paths[0, 0]
    paths = np.stack([_seen_from(origin, path[: spec.frames]) for path in window.paths])
    look = replace(draw_appearance(spec.look, look_rng), camera=dashboard(look_rng))
    layers = surroundings(window.place, origin, look, look_rng)
    kinds = window.kinds[1:]
    bodies = [
        vehicle(kind, look.cars[look_rng.integers(len(look.cars))], look.light, look.lamps, look_rng) for kind in kinds
    ]
    on_motorway = window.place == "motorway"
    return Scene(
        cameras=(look.camera,) * spec.frames, ego=paths[0], poses=np.stack([rigid(*path.T) for path in paths[1:]]),
        layers=layers, agents=bodies, shadows=[shadow(kind, look) for kind in kinds], kinds=kinds,
        sky_horizon=look.sky_horizon, sky_top=look.sky_top, fog_m=look.fog_m, event=window.event, lens=look.lens,
        road_m=window.paths[1:, : spec.frames, 0] - MOTORWAY_MIDDLE_M if on_motorway else None,
    )  # fmt: skip


def _seen_from(origin: Floats, path: Floats) -> Floats:
    """A path (T, 3) in the network's frame, transformed to the frame of a pose (x, y, heading)."""
    flat = np.concatenate([path[:, :2] - origin[:2], np.zeros((len(path), 1))], axis=1)
    return np.column_stack([placed(flat, np.zeros(3), -origin[2])[:, :2], path[:, 2] - origin[2]])
