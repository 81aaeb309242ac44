"""A two-way country road that bends, driven on the left and filmed from a truck's cab: the second target's world.

Decision: everything is described along the road (station and distance to the right of its centre line, in m) and then
mapped onto its arc, so that an agent that keeps its lane keeps it exactly: an arc at constant speed is a constant yaw rate.
Ordinary traffic is as regular as the first target's, by other rules: the vehicle ahead falls back slowly, a cyclist is
caught up with, and a column comes towards the ego car in the right-hand lane.

Motions: `ordinary`; `eventful`, one of TRAINABLE_EVENTS; `held-out`, one of HELD_OUT_EVENTS; `free`, trainable events and
agents that move independently; or any one event's name. The camera is the cab's in every appearance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from replaylab.spec import WorldSpec
from replaylab.worlds import kinematics
from replaylab.worlds.appearance import RoadAppearance, draw_appearance, truck_cab
from replaylab.worlds.kinematics import Motion, Mover, draw_accepted, event_of, make_scene, random_small_agent
from replaylab.worlds.meshes import barn, hedge, pole, poplar, wall
from replaylab.worlds.renderer import GROUND, MARKS, SOLID, Camera, Floats, Mesh, Scene, join, quads, strip

LANE_WIDTH_M = 3.2
# to the right of the centre line
EGO_LANE_M, OTHER_LANE_M, EDGE_M = -LANE_WIDTH_M / 2, LANE_WIDTH_M / 2, -LANE_WIDTH_M + 0.35
RADII_M = (80.0, 120.0, 200.0)  # of the bends, to either side
EGO_SPEED_M_S, ONCOMING_SPEED_M_S = 7.0, 4.0
LEADER_SLOWER_M_S, CYCLIST_SLOWER_M_S = 2.6, 3.0  # than the ego car
VEHICLE_SHARES = (0.38, 0.25, 0.22, 0.07, 0.08)  # of kinematics.VEHICLES
MOTIONS = {motion: events for motion, events in kinematics.MOTIONS.items() if motion != "any"}
ACCEPTANCE_CAMERA = Camera(field_of_view_deg=64.0, height_m=2.6, pitch_rad=0.1)
REACH_M = (-16.0, 148.0)  # of what is rendered along the road


@dataclass(frozen=True)
class Road:
    """An arc. The ego car begins in the middle of the left lane, at station 0, heading along it."""

    radius_m: float  # of its centre line; positive: it bends to the left

    def at(self, station: Floats | float, right: Floats | float) -> Floats:
        """Poses (..., 3): x, y, heading."""
        turned = np.asarray(station) / self.radius_m
        x = right * np.cos(turned) - self.radius_m * (1 - np.cos(turned)) - EGO_LANE_M
        return np.stack(np.broadcast_arrays(x, (self.radius_m + right) * np.sin(turned), turned), axis=-1)

    def right_of_centre(self, places: Floats) -> Floats:
        """Signed distance (...) of places (..., 2 or more) from the centre line."""
        from_pivot = np.hypot(places[..., 0] + EGO_LANE_M + self.radius_m, places[..., 1])
        return np.sign(self.radius_m) * (from_pivot - abs(self.radius_m))

    def heading(self, places: Floats) -> Floats:
        """The road's heading at places (..., 2 or more)."""
        side = np.sign(self.radius_m)
        return np.arctan2(side * places[..., 1], side * (places[..., 0] + EGO_LANE_M + self.radius_m))

    def mover(self, kind: str, station: float, right: float, speed: float, drift: float = 0.0) -> Mover:
        """An agent that follows the road, oncoming if `speed` is negative, drifting `drift` m/s to its right."""
        x, y, heading = self.at(station, right)
        if speed < 0:
            heading += np.pi
        aside = -np.arctan2(drift, abs(speed)) * np.sign(speed or 1)
        return Mover(kind, x, y, heading + aside, np.hypot(speed, drift), 0.0, speed / (self.radius_m + right))


def draw_motion(event: str, road: Road, rng: np.random.Generator, seconds: float) -> Motion:
    """Sample one motion of an event; raises ValueError for an unknown event."""
    if event == "ordinary":
        ego = road.mover("ego", 0, EGO_LANE_M, EGO_SPEED_M_S + rng.normal(0, 0.3))
        column = _column(road, rng, int(rng.integers(1, 4)))
        return Motion(ego, (*_ahead(road, rng, ego.speed), *column), event)
    if event == "free":
        return _free(road, rng)
    return _event(event, road, rng, seconds)


def _random_vehicle(rng: np.random.Generator) -> str:
    return str(rng.choice(kinematics.VEHICLES, p=VEHICLE_SHARES))


def _ahead(road: Road, rng: np.random.Generator, ego_speed: float) -> list[Mover]:
    """Ordinary traffic of the ego car's lane: a vehicle that slowly falls back, or a cyclist who is approached."""
    if rng.uniform() < 0.25:
        speed = max(ego_speed - CYCLIST_SLOWER_M_S + rng.normal(0, 0.2), 0.5)
        return [road.mover("cyclist", rng.uniform(12, 15), EDGE_M + rng.normal(0, 0.08), speed)]
    kind, speed = _random_vehicle(rng), max(ego_speed - LEADER_SLOWER_M_S + rng.normal(0, 0.2), 0.5)
    return [road.mover(kind, rng.uniform(14, 17), EGO_LANE_M + rng.normal(0, 0.1), speed)]


def _column(road: Road, rng: np.random.Generator, vehicles: int) -> list[Mover]:
    """Ordinary traffic of the other lane."""
    speed, station = ONCOMING_SPEED_M_S + rng.normal(0, 0.2), rng.uniform(11, 20)
    column = []
    for _ in range(vehicles):
        column.append(road.mover(_random_vehicle(rng), station, OTHER_LANE_M + rng.normal(0, 0.1), -speed))
        station += rng.uniform(10, 13)
    return column


def _crossing(road: Road, rng: np.random.Generator, ego_speed: float, seconds: float) -> Mover:
    """An agent that crosses the road in front of the ego car."""
    kind = random_small_agent(rng) if rng.uniform() < 0.5 else _random_vehicle(rng)
    speed = rng.uniform(1.2, 3.0) if kind in kinematics.SMALL else rng.uniform(2.0, 5.0)
    when = rng.uniform(0.2, 0.8) * seconds  # it is in the ego car's lane then, 8 to 16 m ahead of it
    x, y, heading = road.at(ego_speed * when + rng.uniform(8, 16), EGO_LANE_M)
    heading += rng.choice([-1.0, 1.0]) * np.pi / 2 + rng.normal(0, 0.25)
    return Mover(kind, x + np.sin(heading) * speed * when, y - np.cos(heading) * speed * when, heading, speed)


def _event(event: str, road: Road, rng: np.random.Generator, seconds: float) -> Motion:
    ego = road.mover("ego", 0, EGO_LANE_M, rng.uniform(3.0, 8.0))
    ahead, column = _ahead(road, rng, ego.speed), _column(road, rng, int(rng.integers(1, 3)))
    others = [*ahead, *column] if rng.uniform() < 0.3 else ahead if rng.uniform() < 0.5 else column
    if event == "crossing":
        ego = road.mover("ego", 0, EGO_LANE_M, rng.uniform(0.0, 3.0))
        actors = [_crossing(road, rng, ego.speed, seconds) for _ in range(rng.integers(1, 3))]
        others = []
    elif event == "cut_in":  # from the other lane into the ego car's, or out of it
        inwards = rng.uniform() < 0.7
        drift = rng.uniform(1.0, 2.2) * (-1 if inwards else 1)
        speed = max(ego.speed + rng.uniform(-1.5, 2.0), 1.0)
        start = OTHER_LANE_M if inwards else EGO_LANE_M
        actors = [road.mover(_random_vehicle(rng), rng.uniform(8, 15), start, speed, drift)]
    elif event == "turning":  # the ego car leaves the road, so that all of the image moves
        ego = replace(ego, yaw_rate=ego.yaw_rate + rng.choice([-1, 1]) * rng.uniform(0.08, 0.20))
        kind, right = ("cyclist", EDGE_M) if rng.uniform() < 0.12 else (_random_vehicle(rng), EGO_LANE_M)
        actors = [road.mover(kind, rng.uniform(7, 14), right, ego.speed + rng.uniform(-1.0, 1.0))]
        others = column[:1]
    elif event == "braking":
        brake = rng.uniform(2.0, 4.5)
        speed = ego.speed + rng.uniform(0.2, 0.8) * brake
        mean_speed = max(speed - brake * seconds / 2, speed / 2)
        leader = road.mover(_random_vehicle(rng), rng.uniform(11, 16), EGO_LANE_M, mean_speed)
        actors, others = [replace(leader, speed=speed, acceleration=-brake)], column
    elif event == "oncoming":  # in the ego car's lane
        ego = road.mover("ego", 0, EGO_LANE_M, rng.uniform(1.0, 4.0))
        speed = rng.uniform(1.5, 5.0)
        station = rng.uniform(5, 9) + (ego.speed + speed) * seconds * 0.85
        actors = [road.mover(_random_vehicle(rng), station, EGO_LANE_M + rng.normal(0, 0.25), -speed)]
        others = column
    elif event == "overtaking":  # forwards in the lane in which ordinary traffic is oncoming
        speed = ego.speed + rng.uniform(2.5, 5.0)
        actors = [road.mover(_random_vehicle(rng), rng.uniform(3, 8), OTHER_LANE_M + rng.normal(0, 0.15), speed)]
        others = ahead
    else:
        raise ValueError(f"event {event!r} is none of {kinematics.TRAINABLE_EVENTS + kinematics.HELD_OUT_EVENTS}")
    return Motion(ego, (*actors, *others), event)


def _free(road: Road, rng: np.random.Generator) -> Motion:
    """Agents that move independently."""
    ego = road.mover("ego", 0, EGO_LANE_M, rng.uniform(0, 9))
    if rng.uniform() < 0.4:
        ego = replace(ego, yaw_rate=ego.yaw_rate + rng.normal(0, 0.08))
    if rng.uniform() < 0.3:
        ego = replace(ego, acceleration=rng.uniform(-1.0, 1.0))
    agents = []
    for _ in range(rng.integers(1, 4)):
        kind = random_small_agent(rng) if rng.uniform() < 0.3 else _random_vehicle(rng)
        along, across = max(0.0, ego.speed + rng.uniform(-4.5, 4.5)), rng.uniform(-3.0, 3.0)
        acceleration = rng.uniform(-1.5, 1.5) if rng.uniform() < 0.4 else 0.0
        wander = rng.normal(0, 0.3) if rng.uniform() < 0.3 else 0.0
        agent = road.mover(kind, rng.uniform(7, 19), rng.uniform(-5, 4), along, across)
        agents.append(replace(agent, acceleration=acceleration, yaw_rate=agent.yaw_rate + wander))
    return Motion(ego, (*agents, *_column(road, rng, int(rng.uniform() < 0.4))), "free")


def shows_held_out(motion: Motion, road: Road, times: Floats) -> bool:
    """Whether any agent brakes hard, is oncoming in the ego car's lane or passes in the other: never trained on."""
    ego_speeds = motion.ego.speeds(times)
    for agent in motion.agents:
        path, speeds = agent.path(times), agent.speeds(times)
        aside, right = path[:, 2] - road.heading(path), road.right_of_centre(path)
        oncoming = (np.cos(aside) * speeds < -0.5) & (right < OTHER_LANE_M / 2)
        straight = np.abs(np.sin(aside) * speeds) < 0.6
        passes = (np.cos(aside) * speeds - ego_speeds > 2.0) & (right > 0) & straight
        if agent.acceleration <= -2.0 or oncoming.any() or passes.any():
            return True
    return False


def _band(road: Road, left: float, right: float, cuts: Floats, colours: Floats) -> Mesh:
    """Ground between two distances from the centre line, cut at stations (N + 1): colours (N, 3), one per piece."""
    edges = [road.at(cuts, side) * [1, 1, 0] for side in (left, right)]
    return quads(np.stack([edges[0][:-1], edges[1][:-1], edges[1][1:], edges[0][1:]], axis=1), colours)


def _ground(look: RoadAppearance, road: Road, rng: np.random.Generator) -> Mesh:
    """Fields to the horizon and, over them, grass and two lanes along the road."""
    plain = np.arange(-160.0, 161.0, 20.0)
    green = (look.foliage + look.verge) / 2
    far = look.textured(look.verge * 0.7 + green * 0.3, (len(plain) - 1, len(plain) - 1), rng)
    pieces = [strip(x, x + 20, plain, far[:, column]) for column, x in enumerate(plain[:-1])]
    cuts = np.arange(REACH_M[0], REACH_M[1] + 1, 4.0)
    for left, right in ((-45.0, -26.0), (-26.0, -14.0), (-14.0, -6.0), (6.0, 14.0), (14.0, 26.0), (26.0, 45.0)):
        fields = np.repeat(rng.uniform(size=len(cuts) // 6 + 1) < 0.65, 6)[: len(cuts) - 1, None]
        rape, grass = (look.textured(colour, (len(cuts) - 1, 1), rng)[:, 0] for colour in (look.verge, green))
        pieces.append(_band(road, left, right, cuts, np.where(fields, rape, grass)))
    for left, right, colour in (
        (-6, -LANE_WIDTH_M, look.foliage * 1.25), (LANE_WIDTH_M, 6, look.foliage * 1.25),
        (-LANE_WIDTH_M, 0, look.road), (0, LANE_WIDTH_M, look.road),
    ):  # fmt: skip
        worn = 1 + rng.normal(0, 0.04, (len(cuts) - 1, 1))
        pieces.append(_band(road, left, right, cuts, np.clip(colour * worn, 0, 1)))
    return join(pieces)


def _marks(look: RoadAppearance, road: Road, rng: np.random.Generator) -> Mesh:
    """Edges of the road, and dashes between its lanes."""
    cuts = np.arange(REACH_M[0], REACH_M[1] + 1, 4.0)
    edges = [
        _band(road, x - 0.08, x + 0.08, cuts, np.repeat(look.marks[None], len(cuts) - 1, axis=0))
        for x in (-LANE_WIDTH_M + 0.15, LANE_WIDTH_M - 0.15)
    ]
    starts = np.arange(REACH_M[0], REACH_M[1], 6.0) + rng.uniform(0, 6)
    dashes = [_band(road, -0.1, 0.1, np.array([start, start + 2.5]), look.marks[None]) for start in starts]
    return join([*edges, *dashes])


def _roadside(look: RoadAppearance, road: Road, occupied: Floats, rng: np.random.Generator) -> list[Mesh]:
    """One mesh per thing, so that those out of sight are culled whole; with gaps where an agent leaves the road."""
    side = float(rng.choice([-1, 1]))  # of hedge and poles; wall and poplars stand on the other
    things: list[tuple[float, float, Mesh]] = []
    for station in np.arange(REACH_M[0], REACH_M[1], 6.0):
        things.append((station, side * 6.6, hedge(look, 5.9, rng)))
        things.append((station, -side * 6.6, wall(look, 5.9, rng)))
        if rng.uniform() < look.houses:
            things.append((station, rng.choice([-1, 1]) * rng.uniform(24, 32), barn(look, rng)))
    for station in np.arange(REACH_M[0], REACH_M[1], 9.0):
        if rng.uniform() < look.trees:
            things.append((station, -side * rng.uniform(12, 14), poplar(look, rng)))
    first = REACH_M[0] + rng.uniform(0, 20)
    things += [(station, side * 8.2, pole(look)) for station in np.arange(first, REACH_M[1], 20.0)]
    kept = []
    for station, right, mesh in things:
        x, y, heading = road.at(station, right)
        if np.hypot(occupied[:, 0] - x, occupied[:, 1] - y).min() > 4.0:
            kept.append(mesh.moved(x, y, heading))
    return kept


def draw(spec: WorldSpec, look_rng: np.random.Generator, motion_rng: np.random.Generator, number: int) -> Scene:
    """The scene of one video; appearance and motion use their own random streams."""
    times = np.arange(spec.frames) / spec.frames_per_second
    event = event_of(spec, number, motion_rng, MOTIONS)
    road = Road(float(motion_rng.choice(RADII_M) * motion_rng.choice([-1, 1])))

    draw_one = partial(draw_motion, event, road, motion_rng, float(times[-1]))
    motion = draw_accepted(draw_one, lambda motion: shows_held_out(motion, road, times), times, ACCEPTANCE_CAMERA)
    look = replace(draw_appearance(spec.look, look_rng), camera=truck_cab(look_rng))
    paths = motion.paths(times)
    occupied = np.concatenate([motion.ego.path(times), *paths])
    layers = [
        (GROUND, _ground(look, road, look_rng)),
        (MARKS, _marks(look, road, look_rng)),
        *((SOLID, solid) for solid in _roadside(look, road, occupied, look_rng)),
    ]
    return make_scene(motion, times, look, layers, road.right_of_centre(paths), look_rng)
