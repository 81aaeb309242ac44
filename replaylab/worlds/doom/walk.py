"""First-person walks through an existing game: Freedoom's maps and monsters in the engine of Doom (vizdoom).

Decision: the game is used unchanged; boxes come from the engine's labels, camera poses from its variables. The camera starts
in front of an object of the map and walks with constant thrust and turn rate; recording begins when its speed has settled.
Walks that deviate from their plan because of a wall, a step or a shot are discarded, so the past determines the camera's
future. Monsters act as in the game; in some videos they ignore the player. Each map belongs to one split.

Frames are an integer number of tics apart: 9 at 4 frames/s, so Doom runs 3 % too fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from replaylab.data.domain import SPLITS
from replaylab.spec import WorldSpec
from replaylab.worlds.doom.game import MAPS, TICS_PER_SECOND, started, wad_path
from replaylab.worlds.doom.maps import clearance, crosses, near, walls
from replaylab.worlds.doom.truth import NOT_AGENTS, Rows, ego_rows, largest_share, square_image, track_rows, wrapped_deg
from replaylab.worlds.renderer import Floats

LOOKS, MOTIONS = ("any",), ("walk",)
LICENCE = "BSD-3-Clause (Freedoom: https://freedoom.github.io)"
FRICTION, THRUST = 0.90625, 1 / 32  # share of the speed kept per tic; units/tic that one unit of a button adds
SMALLEST_TURN_DEG = 360 / 65536
KICK, KICK_TICS, SETTLE_TICS = 3, 4, 8  # stronger thrust at the start: 98 % of the final speed after eight tics
FIRST_TICS, REST_TICS = 14, 40  # before the game accepts actions; until the walker is at rest
EPISODES, PLACES, WALKS = 30, 200, 6  # maps to try, places to try for a walk, walks to try in each map
ASLEEP = 0.3  # share of episodes whose monsters ignore the player
SIGHT_UNITS = (80.0, 280.0)  # distance to the object that the camera faces
WALL_UNITS, THING_UNITS = 24.0, 44.0  # minimum distances
OFF_UNITS, DROP_UNITS = 4.0, 26.0  # largest deviation from the plan, and largest vertical change per frame
DARK, STILL = 40.0, 3.0  # minimum mean grey level, minimum mean change between frames
COVERED = 0.25  # the largest share of the image that one object (such as a fireball) may cover
SHOWN = 0.75  # minimum share of frames with an eligible agent
Video = tuple[Any, Rows, Rows]


@dataclass(frozen=True)
class Walk:
    """Constant button values: thrust ahead and to the right, and degrees turned to the right per tic."""

    ahead: int
    right: int
    turn_deg: float

    def poses(self, tics: int) -> Floats:
        """The poses (tics + 1, 3) on open ground, from the origin along +x: x and y in map units, angle in radians."""
        angle = -np.deg2rad(self.turn_deg) * np.arange(1, tics + 1)
        push = THRUST * (self.ahead - 1j * self.right) * np.exp(1j * angle)
        push[:KICK_TICS] *= KICK
        kept = FRICTION ** np.arange(tics)
        place = np.append(0, np.cumsum(kept * np.cumsum(push / kept)))
        return np.stack([place.real, place.imag, np.append(0.0, angle)], axis=1)


def maps_of(split: str) -> list[tuple[str, str]]:
    """The games and maps of a split: of every six maps, four are for training, one for dev and one for test."""
    every = [(wad, name) for wad, names in MAPS.items() for name in names]
    mine = {SPLITS[0]: (0, 1, 3, 4), SPLITS[1]: (2,), SPLITS[2]: (5,)}[split]
    return [place for number, place in enumerate(every) if number % 6 in mine]


def _tics_per_frame(spec: WorldSpec) -> int:
    """Doom's tics from one frame to the next."""
    return max(1, round(TICS_PER_SECOND / spec.frames_per_second))


def render(spec: WorldSpec, split: str, look_rng: np.random.Generator, motion_rng: np.random.Generator) -> Video:
    """The frames uint8 (T, H, W, 3), track rows and ego rows of one video.

    Raises MissingExtra if vizdoom is not installed, RuntimeError if no walk with visible agents was found.
    """
    tics = _tics_per_frame(spec)
    maps = maps_of(split)
    for _ in range(EPISODES):
        wad, map_name = maps[look_rng.integers(len(maps))]
        game = started(wad, map_name, int(look_rng.integers(2**31)))
        if motion_rng.uniform() < ASLEEP:
            game.send_game_command("notarget")
        game.advance_action(FIRST_TICS, True)
        lines = walls(wad_path(wad), map_name)
        for _ in range(WALKS):
            plan = _place(game.get_state().objects, lines, motion_rng, SETTLE_TICS + tics * (spec.frames - 1))
            video = plan and _record(game, *plan, spec)
            if video:
                return video
            if game.is_episode_finished():
                break
    raise RuntimeError(f"no walk through {EPISODES} maps of Doom shows anything")


def _draw_walk(rng: np.random.Generator) -> Walk:
    ahead = int(rng.integers(3, 11)) * (1 if rng.uniform() < 0.85 else -1)  # a third of it is units/tic
    right = int(rng.integers(-6, 7)) if rng.uniform() < 0.5 else 0
    turn = int(rng.choice([-1, 1]) * rng.integers(22, 100)) if rng.uniform() < 0.7 else 0
    return Walk(ahead, right, turn * SMALLEST_TURN_DEG)


def _place(objects: list[Any], lines: Floats, rng: np.random.Generator, tics: int) -> tuple[Walk, Floats] | None:
    """A walk on open ground that faces an object of the map halfway, and its poses (tics + 1, 3); None if none was found."""
    things = [thing for thing in objects if thing.category not in NOT_AGENTS]
    monsters = [thing for thing in things if thing.category == "Monster"]
    points = np.array([[(thing.position_x, thing.position_y)] * 2 for thing in things])
    bounds = lines.min(axis=1), lines.max(axis=1)
    for _ in range(PLACES if things else 0):
        group = monsters if monsters and rng.uniform() < 0.8 else things
        thing = group[rng.integers(len(group))]
        target = np.array([thing.position_x, thing.position_y])
        walk = _draw_walk(rng)
        poses = _before(target, walk.poses(tics), rng)
        steps = poses[np.unique(np.linspace(0, tics, 12).astype(int)), :2]
        close = lines[near(*bounds, np.vstack([steps, target]), WALL_UNITS)]
        sight = np.stack([poses[len(poses) // 2, :2], target])
        if (
            clearance(steps, close) > WALL_UNITS
            and not crosses(sight, close)
            and not crosses(steps, close)
            and clearance(steps, points) > THING_UNITS
        ):
            return walk, poses
    return None


def _before(target: Floats, poses: Floats, rng: np.random.Generator) -> Floats:
    """The same walk, moved so that `target` is in sight in the middle of the recording."""
    middle = poses[(SETTLE_TICS + len(poses)) // 2]
    towards, distance = rng.uniform(-np.pi, np.pi), rng.uniform(*SIGHT_UNITS)
    turn = towards + rng.uniform(-0.3, 0.3) - middle[2]
    spun = (poses[:, 0] + 1j * poses[:, 1] - middle[0] - 1j * middle[1]) * np.exp(1j * turn)
    x = target[0] - distance * np.cos(towards) + spun.real
    y = target[1] - distance * np.sin(towards) + spun.imag
    whole = np.round([x[0], y[0]])  # the engine's `warp` takes whole numbers
    return np.stack([x + whole[0] - x[0], y + whole[1] - y[0], poses[:, 2] + turn], axis=1)


def _record(game: Any, walk: Walk, plan: Floats, spec: WorldSpec) -> Video | None:
    """The video of a walk; None if it deviates from its plan or shows no agents."""
    states: list[Any] = []
    for frame in range(spec.frames):
        if frame:
            game.advance_action(_tics_per_frame(spec), True)
        elif not _set_off(game, walk, plan):
            return None
        state = game.get_state()
        now = plan[SETTLE_TICS + _tics_per_frame(spec) * frame]
        if state is None or not _as_planned(state, states, now) or largest_share(state) > COVERED:
            return None
        states.append(state)
    frames = np.stack([square_image(state.screen_buffer, spec.size_px) for state in states])
    if frames.mean() < DARK or np.abs(np.diff(frames.astype(int), axis=0)).mean() < STILL:
        return None
    tracks = track_rows(states, spec.size_px)
    counting = {row["frame"] for row in tracks if row["eligible"]}
    if len(counting) < SHOWN * spec.frames:
        return None
    return frames, tracks, ego_rows([state.game_variables for state in states])


def _set_off(game: Any, walk: Walk, plan: Floats) -> bool:
    """Walk from the plan's first pose until the speed has settled; returns False if the episode is over."""
    game.set_action([0, 0, 0])
    game.advance_action(REST_TICS, False)
    game.send_game_command(f"warp {plan[0, 0]:.0f} {plan[0, 1]:.0f}")
    game.advance_action(2, True)
    state = game.get_state()
    if state is None:
        return False
    game.set_action([0, 0, wrapped_deg(state.game_variables[3] - np.rad2deg(plan[0, 2]))])
    game.advance_action(1, False)
    game.set_action([KICK * walk.ahead, KICK * walk.right, walk.turn_deg])
    game.advance_action(KICK_TICS, False)
    game.set_action([walk.ahead, walk.right, walk.turn_deg])
    game.advance_action(SETTLE_TICS - KICK_TICS, True)
    return True


def _as_planned(state: Any, before: list[Any], plan: Floats) -> bool:
    x, y, z, angle, _ = state.game_variables
    dropped = before and abs(z - before[-1].game_variables[2]) > DROP_UNITS
    turned = abs(wrapped_deg(angle - np.rad2deg(plan[2])))
    return bool(np.hypot(x - plan[0], y - plan[1]) < OFF_UNITS and turned < 1 and not dropped)
