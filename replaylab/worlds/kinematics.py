"""Motion of cars, pedestrians and cyclists: constant acceleration and yaw rate from a pose, for any road and appearance.

Decision: within a video acceleration and yaw rate do not change, so that three context frames determine the future and
errors are due to the model, not to chance. A motion is accepted with one fixed camera, independent of the rendering camera:
the same seed gives the same motion in every appearance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from replaylab.spec import WorldSpec
from replaylab.worlds import renderer
from replaylab.worlds.appearance import RoadAppearance
from replaylab.worlds.meshes import KINDS, shadow, vehicle
from replaylab.worlds.renderer import NEAR_M, Camera, Floats, Layers, Light, Scene, eligible, rigid, visible_shares

VEHICLES, VEHICLE_SHARES = ("car", "van", "truck", "bus", "motorcycle"), (0.55, 0.17, 0.12, 0.06, 0.10)
SMALL, SMALL_SHARES = ("pedestrian", "cyclist"), (0.6, 0.4)
TRIES = 1000

TRAINABLE_EVENTS = ("crossing", "cut_in", "turning")
HELD_OUT_EVENTS = ("braking", "oncoming", "overtaking")
EVENT_FAMILIES = {"a": ("cut_in", "turning"), "b": HELD_OUT_EVENTS}
"""Two disjoint families of events, neither of which contains the repeated event (`traffic`, a crossing)."""
ALL_EVENTS = TRAINABLE_EVENTS + HELD_OUT_EVENTS
MOTIONS = {  # the events of the eventful videos of a motion
    "ordinary": ("ordinary",),
    "eventful": TRAINABLE_EVENTS,
    "held-out": HELD_OUT_EVENTS,
    "free": ("free", "free", "free", *TRAINABLE_EVENTS),
    "any": ("any",),
    **{f"family-{name}": events for name, events in EVENT_FAMILIES.items()},
    **{
        f"without-{name}": tuple(event for event in ALL_EVENTS if event not in events)
        for name, events in EVENT_FAMILIES.items()
    },
    "all-events": ALL_EVENTS,
    **{event: (event,) for event in ALL_EVENTS},
}


@dataclass(frozen=True)
class Mover:
    """Constant acceleration and yaw rate from a pose at time 0: kind, m, rad, m/s, m/s^2, rad/s."""

    kind: str
    x: float
    y: float
    heading: float
    speed: float
    acceleration: float = 0.0
    yaw_rate: float = 0.0

    def speeds(self, times: Floats) -> Floats:
        """Speeds (T,) in m/s."""
        return np.maximum(self.speed + self.acceleration * times, 0.0)

    def path(self, times: Floats) -> Floats:
        """Poses (T, 3): x, y, heading. The closed form of constant turn rate and acceleration (CTRA)."""
        v, a, w, h = self.speed, self.acceleration, self.yaw_rate, self.heading
        if a < 0:  # a braking car stops instead of driving backwards
            times = np.minimum(times, -v / a)
        heading = h + w * times
        if abs(w) < 1e-6:
            distance = v * times + a * times**2 / 2
            return np.stack([self.x - distance * np.sin(h), self.y + distance * np.cos(h), heading], axis=1)
        now = v + a * times
        x = self.x + (now * np.cos(heading) - v * np.cos(h)) / w - a * (np.sin(heading) - np.sin(h)) / w**2
        y = self.y + (now * np.sin(heading) - v * np.sin(h)) / w + a * (np.cos(heading) - np.cos(h)) / w**2
        return np.stack([x, y, heading], axis=1)


@dataclass(frozen=True)
class Motion:
    """The motion of the ego car and all agents in one video, and the event that it shows."""

    ego: Mover
    agents: tuple[Mover, ...]
    event: str

    def paths(self, times: Floats) -> Floats:
        """Poses (agent, T, 3): x, y, heading."""
        return np.stack([agent.path(times) for agent in self.agents])


def random_vehicle(rng: np.random.Generator) -> str:
    """One of VEHICLES, with the probabilities VEHICLE_SHARES."""
    return str(rng.choice(VEHICLES, p=VEHICLE_SHARES))


def random_small_agent(rng: np.random.Generator) -> str:
    """One of SMALL, with the probabilities SMALL_SHARES."""
    return str(rng.choice(SMALL, p=SMALL_SHARES))


def event_of(spec: WorldSpec, number: int, rng: np.random.Generator, motions: dict[str, tuple[str, ...]]) -> str:
    """The event of video `number`: of the first n videos, floor(n x eventful_share) are eventful."""
    share = Fraction(str(spec.eventful_share))
    is_eventful = int((number + 1) * share) > int(number * share)
    return str(rng.choice(motions[spec.motion])) if is_eventful else "ordinary"


def draw_any(rng: np.random.Generator, seconds: float) -> Motion:
    """One to three agents with arbitrary constant acceleration, yaw rate and start: a continuous family.

    A motion is specified at a random time of the video, when the agent is in front of the ego car, so that it may start
    anywhere. Half of the agents follow the road's direction, with or against the ego car; the others have any heading.
    """
    ego = Mover(
        "ego", 0, 0, 0, rng.uniform(0, 10), rng.uniform(-2.5, 2.0) if rng.uniform() < 0.4 else 0.0,
        rng.normal(0, 0.12) if rng.uniform() < 0.5 else 0.0,
    )  # fmt: skip
    return Motion(ego, tuple(_any_agent(rng, ego, seconds) for _ in range(rng.integers(1, 4))), "any")


def _any_agent(rng: np.random.Generator, ego: Mover, seconds: float) -> Mover:
    small = rng.uniform() < 0.25
    when = rng.uniform(0, 1) * seconds
    acceleration = rng.uniform(-4.5, 3.0) if rng.uniform() < 0.5 else 0.0
    yaw_rate = rng.normal(0, 0.3) if rng.uniform() < 0.4 else 0.0
    if small:
        speed, heading = rng.uniform(0, 4), rng.uniform(-np.pi, np.pi)
    elif rng.uniform() < 0.5:
        against = rng.uniform() < 0.25
        speed = rng.uniform(0, 7) if against else max(0.0, ego.speeds(np.array([when]))[0] + rng.uniform(-6, 6))
        heading = rng.normal(0, 0.1) + np.pi * against
    else:
        speed, heading = rng.uniform(0, 8), rng.uniform(-np.pi, np.pi)
    # its speed at that time; a braking agent was faster before
    start_speed = max(speed - acceleration * when, 0.0)
    moved = Mover("car", 0, 0, heading - yaw_rate * when, start_speed, acceleration, yaw_rate).path(np.array([when]))[0]
    at, turned = ego.path(np.array([when]))[0, :2], ego.path(np.array([when]))[0, 2]
    ahead, aside = rng.uniform(5, 20), rng.uniform(-0.45, 0.45)
    right = ahead * aside
    x = at[0] + np.cos(turned) * right - np.sin(turned) * ahead
    y = at[1] + np.sin(turned) * right + np.cos(turned) * ahead
    kind = random_small_agent(rng) if small else random_vehicle(rng)
    return Mover(kind, x - moved[0], y - moved[1], heading - yaw_rate * when, start_speed, acceleration, yaw_rate)


def _keeps_apart(motion: Motion, times: Floats) -> bool:
    """Whether no body touches another or the ego car, which counts as a truck. Bodies are rows of discs, so that agents may
    pass close by.
    """
    truck = _discs("truck", motion.ego.path(times))
    bodies = [truck, *(_discs(agent.kind, agent.path(times)) for agent in motion.agents)]
    for index, (place, radius) in enumerate(bodies):
        for other, other_radius in bodies[index + 1 :]:
            apart = np.linalg.norm(place[:, :, None] - other[:, None], axis=-1)
            if (apart < radius + other_radius).any():
                return False
    return True


def _discs(kind: str, path: Floats) -> tuple[Floats, float]:
    """Discs that cover a body and 10 cm around it: centres (T, N, 2) and their radius in m."""
    width, length, _ = KINDS[kind]
    along = np.linspace(-0.5, 0.5, max(2, round(1.5 * length / width))) * max(length - width, 0.0)
    ahead = np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], axis=1)
    return path[:, None, :2] + along[:, None] * ahead[:, None], width / 2 * 1.1 + 0.1


def _is_shown(motion: Motion, times: Floats, camera: Camera) -> bool:
    """Whether the agents are visible to `camera` throughout (`renderer.shown_throughout`), in any appearance."""
    ego = motion.ego.path(times)
    paths = [agent.path(times) for agent in motion.agents]
    counts = np.zeros((len(times), len(paths)), dtype=bool)
    for frame, (x, y, heading) in enumerate(ego):
        boxes, depths = np.full((len(paths), 4), np.nan), np.zeros(len(paths))
        for agent, path in enumerate(paths):
            corners = silhouette(motion.agents[agent].kind) @ rigid(*path[frame, :, None])[0].T
            pixels, depth = camera.project(corners[:, :3], np.array([x, y, 0.0]), heading, 64)
            depths[agent] = depth.mean()
            if depth.min() > NEAR_M:
                boxes[agent] = [*pixels.min(axis=0), *pixels.max(axis=0)]
        counts[frame] = eligible(boxes, visible_shares(boxes, depths, 64), 64)
    return renderer.shown_throughout(counts)


@cache
def silhouette(kind: str) -> Floats:
    """The points (N, 4) of a body as it is rendered, homogeneous: seen from above a car is smaller than its hull."""
    light = Light((0, 0, 1), 1.0, 0.0)
    points = vehicle(kind, np.ones(3), light, False, np.random.default_rng(0)).vertices
    return np.append(points, np.ones((len(points), 1)), axis=1)


def draw_accepted(
    draw: Callable[[], Motion], shows_held_out: Callable[[Motion], bool], times: Floats, camera: Camera
) -> Motion:
    """The first motion without collisions that is visible to `camera`, and without held-out events unless it is one itself
    or of the kind `any`. Raises RuntimeError if none of TRIES is.
    """
    for _ in range(TRIES):
        motion = draw()
        while motion.event not in (*HELD_OUT_EVENTS, "any") and shows_held_out(motion):
            motion = draw()
        if _keeps_apart(motion, times) and _is_shown(motion, times, camera):
            return motion
    raise RuntimeError(f"none of {TRIES} motions of event {motion.event!r} keeps apart and is seen")


def make_scene(
    motion: Motion, times: Floats, look: RoadAppearance, layers: Layers, road_m: Floats,
    look_rng: np.random.Generator,
) -> Scene:  # fmt: skip
    """The scene of a motion in an appearance, with surroundings `layers` and the agents' positions on the road, `road_m`."""
    bodies = [
        vehicle(agent.kind, look.cars[look_rng.integers(len(look.cars))], look.light, look.lamps, look_rng)
        for agent in motion.agents
    ]
    return Scene(
        cameras=(look.camera,) * len(times), ego=motion.ego.path(times),
        poses=np.stack([rigid(*path.T) for path in motion.paths(times)]), layers=layers, agents=bodies,
        shadows=[shadow(agent.kind, look) for agent in motion.agents],
        kinds=tuple(agent.kind for agent in motion.agents), sky_horizon=look.sky_horizon, sky_top=look.sky_top,
        fog_m=look.fog_m, event=motion.event, lens=look.lens, road_m=road_m,
    )  # fmt: skip
