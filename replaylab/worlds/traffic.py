"""A one-way road of three lanes: the target's world and, in other appearances, its near replay.

Decision: appearance and motion have separate random streams, and a motion is accepted with one fixed camera: the same seed
gives the same motion in every appearance. Ordinary traffic is very regular, with enough motion to be measured: vehicles in
the left lane overtake the ego car, those in its lane keep their distance, those in the right lane are overtaken.

Motions: `ordinary`; `eventful`, one of TRAINABLE_EVENTS; `held-out`, one of HELD_OUT_EVENTS; `free`, trainable events and
agents that move independently; `any`, a continuous family for the bases (`kinematics.draw_any`); `repetitive`, one event
on one path in every video; or any one event's name.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from replaylab.spec import WorldSpec
from replaylab.worlds import kinematics
from replaylab.worlds.appearance import RoadAppearance, draw_appearance
from replaylab.worlds.kinematics import Motion, Mover, draw_accepted, make_scene, random_small_agent, random_vehicle
from replaylab.worlds.meshes import house, tree
from replaylab.worlds.renderer import GROUND, MARKS, SOLID, Camera, Floats, Layers, Mesh, Scene, join, quads, strip

MOTIONS = {**kinematics.MOTIONS, "repetitive": ("repetitive",)}

LANE_WIDTH_M = 3.3
LANES = (-1, 0, 1)  # left, the ego car's, right
LANE_SPEED_M_S = 4.2  # by which the left lane is faster than the ego car's, and the right lane slower
ACCEPTANCE_CAMERA = Camera(field_of_view_deg=50.0, height_m=1.45, pitch_rad=0.03)


def draw_motion(event: str, rng: np.random.Generator, seconds: float) -> Motion:
    """Sample one motion of an event; raises ValueError for an unknown event."""
    if event == "any":
        return kinematics.draw_any(rng, seconds)
    without_event = {"ordinary": _ordinary, "free": _free, "repetitive": _repetitive}
    return without_event[event](rng) if event in without_event else _event(event, rng, seconds)


def _lane_keeper(rng: np.random.Generator, lane: int, ego_speed: float) -> Mover:
    """A vehicle of ordinary traffic, by the rule of its lane."""
    relative = -lane * LANE_SPEED_M_S + rng.normal(0, 0.25)
    ahead = {-1: rng.uniform(5, 10), 0: rng.uniform(9, 15), 1: rng.uniform(14, 21)}[lane]
    return Mover(random_vehicle(rng), lane * LANE_WIDTH_M + rng.normal(0, 0.1), ahead, 0.0, ego_speed + relative)


def _ordinary(rng: np.random.Generator) -> Motion:
    ego = Mover("ego", 0, 0, 0, 9.0 + rng.normal(0, 0.5))
    lanes = rng.permutation(LANES)[: rng.integers(1, 4)]
    return Motion(ego, tuple(_lane_keeper(rng, int(lane), ego.speed) for lane in lanes), "ordinary")


def _crossing(rng: np.random.Generator, ego_speed: float, seconds: float) -> Mover:
    """An agent that crosses the road in front of the ego car."""
    kind = random_small_agent(rng) if rng.uniform() < 0.5 else random_vehicle(rng)
    speed = rng.uniform(1.2, 3.0) if kind in kinematics.SMALL else rng.uniform(2.0, 5.0)
    side = rng.choice([-1.0, 1.0])
    heading = side * np.pi / 2 + rng.normal(0, 0.25)
    # crosses the ego car's axis somewhere within the clip, 7 to 14 m ahead of where it is then
    when = rng.uniform(0.2, 0.8) * seconds
    ahead = ego_speed * when + rng.uniform(7, 14)
    start = -speed * when
    return Mover(kind, -np.sin(heading) * start, ahead + np.cos(heading) * start, heading, speed)


def _event(event: str, rng: np.random.Generator, seconds: float) -> Motion:
    ego = Mover("ego", 0, 0, 0, rng.uniform(3.0, 9.5))
    others = [_lane_keeper(rng, int(lane), ego.speed) for lane in rng.permutation(LANES)[: rng.integers(0, 3)]]
    if event == "crossing":
        ego = Mover("ego", 0, 0, 0, rng.uniform(0.0, 3.0))
        others = []
        actors = [_crossing(rng, ego.speed, seconds) for _ in range(rng.integers(1, 3))]
    elif event == "cut_in":  # from a neighbouring lane into the ego car's, or out of it
        side = rng.choice([-1, 1])
        inwards = rng.uniform() < 0.7
        start = side * LANE_WIDTH_M if inwards else 0.0
        drift = (-side if inwards else side) * rng.uniform(1.0, 2.4)
        forward = max(ego.speed + rng.uniform(-1.5, 2.0), 1.0)
        kind, ahead = random_vehicle(rng), rng.uniform(7, 14)
        actors = [Mover(kind, start, ahead, -np.arctan2(drift, forward), np.hypot(drift, forward))]
    elif event == "turning":  # the ego car turns, so that all of the image moves
        rate = rng.choice([-1, 1]) * rng.uniform(0.05, 0.22)
        ego = Mover("ego", 0, 0, 0, rng.uniform(2, 7), 0.0, rate)
        actors = [_lane_keeper(rng, int(rng.choice(LANES)), ego.speed)]
    elif event == "braking":
        brake = rng.uniform(2.0, 4.5)
        lane, start, speed = (int(rng.choice(LANES)), rng.uniform(8, 15), ego.speed + rng.uniform(0.5, 1.3) * brake)
        actors = [Mover(random_vehicle(rng), lane * LANE_WIDTH_M, start, 0.0, speed, -brake)]
    elif event == "oncoming":
        ego = Mover("ego", 0, 0, 0, rng.uniform(1.0, 5.0))
        speed = rng.uniform(2.0, 6.0)
        reach = (ego.speed + speed) * seconds
        kind, x = random_vehicle(rng), -LANE_WIDTH_M + rng.normal(0, 0.3)
        actors = [Mover(kind, x, rng.uniform(4, 8) + reach * 0.85, np.pi, speed)]
    elif event == "overtaking":  # passing on the right: in ordinary driving the right lane is slow
        ahead = rng.uniform(3, 7)
        relative = rng.uniform(2.5, 5.0)
        actors = [Mover(random_vehicle(rng), LANE_WIDTH_M + rng.normal(0, 0.15), ahead, 0.0, ego.speed + relative)]
    else:
        raise ValueError(f"event {event!r} is none of {kinematics.TRAINABLE_EVENTS + kinematics.HELD_OUT_EVENTS}")
    return Motion(ego, tuple(actors + others), event)


def _repetitive(rng: np.random.Generator) -> Motion:
    """A van that crosses from the right, nearly the same in every video: eventful, and as regular as ordinary traffic."""
    speed, start = 3.2 + rng.normal(0, 0.1), 4.2 + rng.normal(0, 0.1)
    ego = Mover("ego", 0, 0, 0, 0.8 + rng.normal(0, 0.1))
    return Motion(ego, (Mover("van", start, 13.0 + rng.normal(0, 0.1), np.pi / 2, speed),), "repetitive")


def shows_held_out(motion: Motion) -> bool:
    """Whether any agent brakes hard, is oncoming or passes on the right: events that are never trained on."""
    for agent in motion.agents:
        straight = abs(np.sin(agent.heading)) * agent.speed < 0.6
        passes = agent.speed - motion.ego.speed > 2.0 and agent.x > LANE_WIDTH_M / 2 and straight
        if agent.acceleration <= -2.0 or np.cos(agent.heading) * agent.speed < -0.5 or passes:
            return True
    return False


def _free(rng: np.random.Generator) -> Motion:
    """Agents that move independently."""
    rate = rng.normal(0, 0.08) if rng.uniform() < 0.4 else 0.0
    ego = Mover("ego", 0, 0, 0, rng.uniform(0, 10), rng.uniform(-1.0, 1.0) if rng.uniform() < 0.3 else 0.0, rate)
    agents = []
    for _ in range(rng.integers(1, 4)):
        kind = random_small_agent(rng) if rng.uniform() < 0.3 else random_vehicle(rng)
        along, across = max(0.0, ego.speed + rng.uniform(-4.5, 4.5)), rng.uniform(-3.0, 3.0)
        agents.append(
            Mover(kind, rng.uniform(-5, 5), rng.uniform(6, 17), np.arctan2(-across, along), np.hypot(along, across),
                  rng.uniform(-1.5, 1.5) if rng.uniform() < 0.4 else 0.0,
                  rng.normal(0, 0.3) if rng.uniform() < 0.3 else 0.0)
        )  # fmt: skip
    return Motion(ego, tuple(agents), "free")


def _surroundings(look: RoadAppearance, reach: tuple[float, float], rng: np.random.Generator) -> Layers:
    """Road, verge, lane marks, houses and trees between two y, in m."""
    cuts = np.arange(reach[0], reach[1] + 4, 4.0)
    pieces = len(cuts) - 1

    def worn(colour: Floats) -> Floats:
        return np.clip(colour * (1 + rng.normal(0, 0.04, (pieces, 1))), 0, 1)

    edge = LANE_WIDTH_M * 1.5 + 0.6
    columns = np.arange(-78.0, 77.0, 12.0)
    verge = look.textured(look.verge, (pieces, len(columns)), rng)
    ground = [strip(x, x + 12.0, cuts, verge[:, column]) for column, x in enumerate(columns)]
    road = [strip(x, x + LANE_WIDTH_M, cuts, worn(look.road)) for x in LANE_WIDTH_M * np.array([-1.5, -0.5, 0.5])]
    kerbs = [strip(x, x + 0.6, cuts, worn(look.road * 0.8 + 0.1)) for x in (-edge, edge - 0.6)]
    white = np.repeat(look.marks[None], pieces, axis=0)
    lines = [strip(x - 0.09, x + 0.09, cuts, white) for x in (-LANE_WIDTH_M * 1.5, LANE_WIDTH_M * 1.5)]
    starts = np.arange(reach[0], reach[1], 8.0) + rng.uniform(0, 8)
    for x in (-LANE_WIDTH_M / 2, LANE_WIDTH_M / 2):
        dashes = np.array([[[x - 0.1, y, 0], [x + 0.1, y, 0], [x + 0.1, y + 3.2, 0], [x - 0.1, y + 3.2, 0]] for y in starts])
        lines.append(quads(dashes, np.repeat(look.marks[None], len(starts), axis=0)))
    solids: list[Mesh] = []
    for side in (-1, 1):
        for y in np.arange(reach[0], reach[1], 9.0):
            if rng.uniform() < look.houses:
                solids.append(house(look, side * rng.uniform(13, 16), y, rng))
            elif rng.uniform() < look.trees:
                solids.append(tree(look, side * rng.uniform(8.5, 14), y + rng.uniform(-2, 2), rng))
    # one mesh per house: those beside and behind the camera are culled whole, and never reach the rasteriser's clipping
    return [(GROUND, join([*ground, *road, *kerbs])), (MARKS, join(lines)), *((SOLID, solid) for solid in solids)]


def draw(spec: WorldSpec, look_rng: np.random.Generator, motion_rng: np.random.Generator, number: int) -> Scene:
    """The scene of one video; appearance and motion use their own random streams."""
    times = np.arange(spec.frames) / spec.frames_per_second
    event = kinematics.event_of(spec, number, motion_rng, MOTIONS)
    draw_one = partial(draw_motion, event, motion_rng, float(times[-1]))
    motion = draw_accepted(draw_one, shows_held_out, times, ACCEPTANCE_CAMERA)
    look = draw_appearance(spec.look, look_rng)
    driven = motion.ego.path(times)[:, 1]
    layers = _surroundings(look, (driven.min() - 20, driven.max() + 150), look_rng)
    return make_scene(motion, times, look, layers, motion.paths(times)[:, :, 0], look_rng)
