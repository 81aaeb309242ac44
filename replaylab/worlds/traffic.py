"""A road with traffic on it, whose look and whose motion are drawn from separate random streams.

Decision: within a video every agent and the ego car move with constant acceleration and yaw rate, so that three
context frames determine the future and an error is the model's, not chance's. A *look* fixes palette, light, fog and
camera; a *motion* fixes who is where and how they move. Any motion can be shown in any look. A scene whose camera does
not show its agents is drawn again, motion only.

Looks: `target` (dusk between lit houses: one narrow palette and camera), `diverse` (daylight, everything drawn
broadly, the target's narrow palette left out).
Motions: `ordinary` (one-way road, near-constant ego speed; the left lane is faster, the right lane slower, always),
`eventful` (one of TRAINABLE_EVENTS in every clip), `held-out` (one of HELD_OUT_EVENTS), `free` (anything that the
trainable events and independent speeds can make).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from replaylab.worlds.stage import (
    GROUND,
    MARKS,
    SOLID,
    Camera,
    Floats,
    Light,
    Mesh,
    Scene,
    box,
    join,
    quads,
    rigid,
    shows_its_agents,
    strip,
)

LOOKS = ("target", "diverse")
TRAINABLE_EVENTS = ("crossing", "cut_in", "turning")
HELD_OUT_EVENTS = ("braking", "oncoming", "undercutting")
MOTIONS = ("ordinary", "eventful", "held-out", "free")

LANE_M = 3.3
LANES = (-1, 0, 1)  # left, ours, right

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


# ---------------------------------------------------------------------------------------------------------------- look
@dataclass(frozen=True)
class Look:
    """Everything of a scene's appearance; colours are RGB in 0..1."""

    camera: Camera
    light: Light
    sky_top: Floats
    sky_horizon: Floats
    road: Floats
    verge: Floats
    marks: Floats
    foliage: Floats
    walls: Floats  # (n, 3), a palette
    cars: Floats  # (n, 3), a palette
    patchiness: float  # how much the ground's brightness varies from piece to piece
    houses: float  # share of roadside plots with a house
    trees: float  # share of roadside plots with a tree
    lit_windows: bool
    vignette: float
    fog_m: tuple[float, float]


def draw_look(look: str, rng: np.random.Generator) -> Look:
    if look == "target":
        return _target_look(rng)
    return _diverse_look(rng)


def _target_look(rng: np.random.Generator) -> Look:
    def near(*rgb: float) -> Floats:
        return np.clip(np.array(rgb) + rng.normal(0, 0.012, 3), 0, 1)

    return Look(
        camera=Camera(50 + rng.normal(0, 0.5), 1.45 + rng.normal(0, 0.02), 0.03),
        light=Light((-0.8, 0.2, 0.5), 0.5 + rng.normal(0, 0.01), 0.45),
        sky_top=near(0.20, 0.16, 0.40), sky_horizon=near(0.93, 0.58, 0.40),
        road=near(0.30, 0.25, 0.33), verge=near(0.38, 0.27, 0.30), marks=near(0.98, 0.86, 0.55),
        foliage=near(0.20, 0.22, 0.25),
        walls=np.stack([near(0.36, 0.24, 0.36), near(0.46, 0.30, 0.38), near(0.28, 0.22, 0.36)]),
        cars=np.stack([near(0.85, 0.80, 0.82), near(0.62, 0.14, 0.18), near(0.16, 0.20, 0.42), near(0.50, 0.46, 0.52)]),
        patchiness=0.10, houses=0.85, trees=0.15, lit_windows=True, vignette=0.35, fog_m=(25.0, 130.0),
    )  # fmt: skip


def _diverse_look(rng: np.random.Generator) -> Look:
    def hue(saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
        return hsv(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))

    sky_value = rng.uniform(0.6, 1.0)
    sky_top = hsv(
        rng.uniform(0.40, 0.66), rng.uniform(0.1, 0.7), sky_value
    )  # greens to blues: never the target's dusk
    sky_horizon = np.clip(sky_top + rng.uniform(0.05, 0.3), 0, 1)
    grey = rng.uniform(0.2, 0.65)
    fog_start = rng.uniform(10, 60)
    return Look(
        camera=Camera(rng.uniform(42, 62), rng.uniform(1.2, 2.4), rng.uniform(0.0, 0.09)),
        light=Light((rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.3, 1.5)), rng.uniform(0.45, 0.75),
                    rng.uniform(0.2, 0.5)),
        sky_top=sky_top, sky_horizon=sky_horizon,
        road=np.clip(grey + rng.normal(0, 0.03, 3), 0, 1), verge=hsv(rng.uniform(0.1, 0.45), rng.uniform(0.15, 0.8),
                                                                     rng.uniform(0.3, 0.8)),
        marks=np.array([1.0, 1.0, 1.0]) if rng.uniform() < 0.7 else np.array([0.95, 0.8, 0.2]),
        foliage=hsv(rng.uniform(0.15, 0.45), rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.7)),
        walls=np.stack([hue((0.0, 0.5), (0.4, 0.95)) for _ in range(4)]),
        cars=np.stack([hue((0.0, 1.0), (0.15, 1.0)) for _ in range(5)]),
        patchiness=rng.uniform(0.03, 0.2), houses=rng.uniform(0, 0.6), trees=rng.uniform(0, 0.7), lit_windows=False,
        vignette=0.0, fog_m=(fog_start, fog_start + rng.uniform(50, 150)),
    )  # fmt: skip


def hsv(hue: float, saturation: float, value: float) -> Floats:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


# -------------------------------------------------------------------------------------------------------------- motion
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

    def path(self, times: Floats) -> Floats:
        """Poses (T, 3): x, y, heading. The closed form of constant turn rate and acceleration (CTRA)."""
        v, a, w, h = self.speed, self.acceleration, self.yaw_rate, self.heading
        if a < 0:  # a braking car stops, it does not come back
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
    ego: Mover
    agents: tuple[Mover, ...]
    event: str


VEHICLES, VEHICLE_SHARES = ("car", "van", "truck", "bus", "motorcycle"), (0.55, 0.17, 0.12, 0.06, 0.10)
SMALL, SMALL_SHARES = ("pedestrian", "cyclist"), (0.6, 0.4)


def choose_event(motion: str, rng: np.random.Generator) -> str:
    """Which event a video shows: drawn once, before any scene is rejected, so that rejection favours none."""
    if motion == "free" and rng.uniform() < 0.5:
        return "free"
    choices = {"ordinary": ("ordinary",), "held-out": HELD_OUT_EVENTS}.get(motion, TRAINABLE_EVENTS)
    return str(rng.choice(choices))


def draw_motion(event: str, rng: np.random.Generator, seconds: float) -> Motion:
    if event == "ordinary":
        return _ordinary(rng)
    if event == "free":
        return _free(rng)
    return _event(event, rng, seconds)


def _vehicle(rng: np.random.Generator) -> str:
    return str(rng.choice(VEHICLES, p=VEHICLE_SHARES))


def _lane_keeper(rng: np.random.Generator, lane: int, ego_speed: float) -> Mover:
    """The target's rule: the left lane passes us, our lane keeps its distance, the right lane is passed."""
    relative = {-1: 3.2, 0: 0.0, 1: -3.2}[lane] + rng.normal(0, 0.25)
    ahead = {-1: rng.uniform(4, 11), 0: rng.uniform(9, 15), 1: rng.uniform(12, 20)}[lane]
    side = lane * LANE_M + rng.normal(0, 0.1)
    return Mover(_vehicle(rng), side, ahead, 0.0, ego_speed + relative)


def _ordinary(rng: np.random.Generator) -> Motion:
    ego = Mover("ego", 0, 0, 0, 9.0 + rng.normal(0, 0.5))
    lanes = rng.permutation(LANES)[: rng.integers(1, 4)]
    return Motion(ego, tuple(_lane_keeper(rng, int(lane), ego.speed) for lane in lanes), "ordinary")


def _crossing(rng: np.random.Generator, ego_speed: float, seconds: float) -> Mover:
    """From one side of the road to the other, in front of us."""
    kind = str(rng.choice(SMALL, p=SMALL_SHARES)) if rng.uniform() < 0.5 else _vehicle(rng)
    speed = rng.uniform(1.2, 3.0) if kind in SMALL else rng.uniform(2.0, 5.0)
    side = rng.choice([-1.0, 1.0])
    heading = side * np.pi / 2 + rng.normal(0, 0.25)
    # crosses our axis somewhere within the clip, 7 to 16 m ahead of where we are then
    when = rng.uniform(0.2, 0.8) * seconds
    ahead = ego_speed * when + rng.uniform(7, 14)
    start = -speed * when
    return Mover(kind, -np.sin(heading) * start, ahead + np.cos(heading) * start, heading, speed)


def _event(event: str, rng: np.random.Generator, seconds: float) -> Motion:
    ego = Mover("ego", 0, 0, 0, rng.uniform(3.0, 9.5))
    others = [
        _lane_keeper(rng, int(lane), ego.speed) for lane in rng.permutation(LANES)[: rng.integers(0, 3)]
    ]
    if event == "crossing":
        ego = Mover("ego", 0, 0, 0, rng.uniform(0.0, 3.0))
        others = []
        actors = [_crossing(rng, ego.speed, seconds) for _ in range(rng.integers(1, 3))]
    elif event == "cut_in":  # from a neighbouring lane across into ours, or out of it
        side = rng.choice([-1, 1])
        inwards = rng.uniform() < 0.7
        start = side * LANE_M if inwards else 0.0
        drift = (-side if inwards else side) * rng.uniform(1.0, 2.4)
        forward = max(ego.speed + rng.uniform(-1.5, 2.0), 1.0)
        actors = [
            Mover(
                _vehicle(rng),
                start,
                rng.uniform(7, 14),
                -np.arctan2(drift, forward),
                np.hypot(drift, forward),
            )
        ]
    elif event == "turning":  # the ego car turns, everything swings across the image
        rate = rng.choice([-1, 1]) * rng.uniform(0.05, 0.22)
        ego = Mover("ego", 0, 0, 0, rng.uniform(2, 7), 0.0, rate)
        actors = [_lane_keeper(rng, int(rng.choice(LANES)), ego.speed)]
    elif event == "braking":
        brake = rng.uniform(2.0, 4.5)
        lane, start, speed = (
            int(rng.choice(LANES)),
            rng.uniform(8, 15),
            ego.speed + rng.uniform(0.5, 1.3) * brake,
        )
        actors = [Mover(_vehicle(rng), lane * LANE_M, start, 0.0, speed, -brake)]
    elif event == "oncoming":
        ego = Mover("ego", 0, 0, 0, rng.uniform(1.0, 5.0))
        speed = rng.uniform(2.0, 6.0)
        reach = (ego.speed + speed) * seconds
        actors = [
            Mover(_vehicle(rng), -LANE_M + rng.normal(0, 0.3), rng.uniform(4, 8) + reach * 0.85, np.pi, speed)
        ]
    elif event == "undercutting":  # passing us on the wrong side: in ordinary driving the right lane is slow
        ahead = rng.uniform(3, 7)
        relative = rng.uniform(2.5, 5.0)
        actors = [Mover(_vehicle(rng), LANE_M + rng.normal(0, 0.15), ahead, 0.0, ego.speed + relative)]
    else:
        raise ValueError(f"event {event!r} is none of {TRAINABLE_EVENTS + HELD_OUT_EVENTS}")
    return Motion(ego, tuple(actors + others), event)


def _free(rng: np.random.Generator) -> Motion:
    """Everyone goes their own way."""
    rate = rng.normal(0, 0.08) if rng.uniform() < 0.4 else 0.0
    ego = Mover(
        "ego", 0, 0, 0, rng.uniform(0, 10), rng.uniform(-1.0, 1.0) if rng.uniform() < 0.3 else 0.0, rate
    )
    agents = []
    for _ in range(rng.integers(1, 4)):
        kind = str(rng.choice(SMALL, p=SMALL_SHARES)) if rng.uniform() < 0.3 else _vehicle(rng)
        along, across = ego.speed + rng.uniform(-3.5, 4.5), rng.uniform(-3.0, 3.0)
        agents.append(
            Mover(kind, rng.uniform(-5, 5), rng.uniform(6, 17), np.arctan2(-across, along), np.hypot(along, across),
                  rng.uniform(-1.5, 1.5) if rng.uniform() < 0.4 else 0.0,
                  rng.normal(0, 0.3) if rng.uniform() < 0.3 else 0.0)
        )  # fmt: skip
    return Motion(ego, tuple(agents), "free")


def _plausible(motion: Motion, times: Floats) -> bool:
    """Nobody drives through anybody, and nobody through the camera."""
    ego = motion.ego.path(times)
    places = [(agent.path(times)[:, :2], KINDS[agent.kind]) for agent in motion.agents]
    for index, (place, (width, length, _)) in enumerate(places):
        offset = place - ego[:, :2]
        ahead = -np.sin(ego[:, 2]) * offset[:, 0] + np.cos(ego[:, 2]) * offset[:, 1]
        if (np.hypot(*offset.T) < 2.2 + (width + length) / 4).any() or (ahead < -8).any():
            return False
        for other, (other_width, other_length, _) in places[index + 1 :]:
            apart = np.abs(place - other)
            if (np.hypot(apart[:, 0] / (0.5 + (width + other_width) / 2),
                         apart[:, 1] / (1.0 + (length + other_length) / 2)) < 1.0).any():  # fmt: skip
                return False
    return True


# ---------------------------------------------------------------------------------------------------------- appearance
def vehicle(kind: str, colour: Floats, light: Light, night: bool, rng: np.random.Generator) -> Mesh:
    """A vehicle or walker of a few boxes around its own origin, facing +y; no bigger than KINDS says."""
    width, length, height = KINDS[kind]
    dark, glass = np.full(3, 0.07), np.array([0.20, 0.25, 0.30])
    if kind == "pedestrian":
        skin, trousers = hsv(rng.uniform(0.04, 0.09), 0.5, rng.uniform(0.4, 0.9)), np.array([0.12, 0.13, 0.2])
        legs = [box((x, 0, 0), (0.2, 0.3, 0.85), trousers, light) for x in (-0.15, 0.15)]
        torso = box((0, 0, 0.8), (width, 0.4, 0.7), colour, light)
        return join([*legs, torso, box((0, 0, 1.5), (0.28, 0.28, 0.3), skin, light)])
    if kind in ("cyclist", "motorcycle"):
        thick = 0.12 if kind == "cyclist" else 0.3
        parts = [
            box((0, y, 0), (thick, 0.6, 0.6), dark, light) for y in (-length / 2 + 0.3, length / 2 - 0.3)
        ]
        frame_colour = colour if kind == "motorcycle" else np.array([0.5, 0.5, 0.5])
        parts.append(box((0, 0, 0.5), (thick, length * 0.7, 0.3), frame_colour, light))
        parts.append(box((0, -0.1, 0.75), (width, 0.45, height - 1.05), colour, light))
        parts.append(box((0, 0, height - 0.3), (0.3, 0.3, 0.3), np.array([0.75, 0.6, 0.5]), light))
        return join(parts)
    wheel = 0.32 if kind in ("car", "van") else 0.45
    parts = [
        box(
            (x * (width / 2 - 0.12), y * (length / 2 - length * 0.18), 0),
            (0.24, 2 * wheel, 2 * wheel),
            dark,
            light,
        )
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    floor = wheel * 0.7
    if kind == "car":
        parts.append(box((0, 0, floor), (width, length, 0.85 - floor), colour, light))
        parts.append(box((0, -0.2, 0.85), (width * 0.86, length * 0.5, height - 0.93), glass, light))
        parts.append(box((0, -0.2, height - 0.1), (width * 0.84, length * 0.46, 0.1), colour, light))
    elif kind == "truck":
        parts.append(
            box(
                (0, length * 0.37, floor), (width * 0.95, length * 0.26, height * 0.75 - floor), colour, light
            )
        )
        parts.append(box((0, length * 0.47, height * 0.42), (width * 0.9, length * 0.07, 0.7), glass, light))
        cargo = np.clip(0.6 * colour + 0.4 * rng.uniform(0.3, 1.0), 0, 1)
        parts.append(
            box((0, -length * 0.13, floor + 0.3), (width, length * 0.74, height - floor - 0.3), cargo, light)
        )
    else:  # van, bus
        parts.append(box((0, 0, floor), (width, length, height - floor), colour, light))
        for end in (-1, 1):
            parts.append(
                box((0, end * length / 2, height * 0.55), (width * 0.86, 0.06, height * 0.28), glass, light)
            )
        for side in (-1, 1):
            parts.append(
                box((side * width / 2, 0, height * 0.55), (0.04, length * 0.86, height * 0.25), glass, light)
            )
    tail = np.array([1.0, 0.15, 0.1]) if night else np.array([0.75, 0.08, 0.08])
    head = np.array([1.0, 0.97, 0.8]) if night else np.array([0.92, 0.92, 0.85])
    flat = Light((0, 0, 1), 1.0, 0.0)  # lamps are not shaded
    for x in (-1, 1):
        parts.append(box((x * width * 0.36, -length / 2, 0.6), (0.34, 0.06, 0.24), tail, flat))
        parts.append(box((x * width * 0.36, length / 2, 0.55), (0.34, 0.06, 0.22), head, flat))
    return join(parts)


def _shadow(kind: str, look: Look) -> Mesh:
    width, length, _ = KINDS[kind]
    x, y = width / 2 + 0.15, length / 2 + 0.15
    return quads(np.array([[[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]]), look.road[None] * 0.45)


def _surroundings(look: Look, reach: tuple[float, float], rng: np.random.Generator) -> list[tuple[int, Mesh]]:
    """Road, verge, lane marks, houses and trees between two y, in m."""
    cuts = np.arange(reach[0], reach[1] + 4, 4.0)
    pieces = len(cuts) - 1

    def patches(colour: Floats, strength: float) -> Floats:
        return np.clip(colour * (1 + rng.normal(0, strength, (pieces, 1))), 0, 1)

    edge = LANE_M * 1.5 + 0.6
    ground = [
        strip(x, x + 12.0, cuts, patches(look.verge, look.patchiness)) for x in np.arange(-78.0, 77.0, 12.0)
    ]
    road = [
        strip(x, x + LANE_M, cuts, patches(look.road, look.patchiness * 0.5))
        for x in LANE_M * np.array([-1.5, -0.5, 0.5])
    ]
    kerbs = [strip(x, x + 0.6, cuts, patches(look.road * 0.8 + 0.1, 0.02)) for x in (-edge, edge - 0.6)]
    lines = []
    for x in (-LANE_M * 1.5, LANE_M * 1.5):
        lines.append(strip(x - 0.09, x + 0.09, cuts, np.repeat(look.marks[None], pieces, axis=0)))
    starts = np.arange(reach[0], reach[1], 8.0) + rng.uniform(0, 8)
    for x in (-LANE_M / 2, LANE_M / 2):
        dashes = np.array(
            [[[x - 0.1, y, 0], [x + 0.1, y, 0], [x + 0.1, y + 3.2, 0], [x - 0.1, y + 3.2, 0]] for y in starts]
        )
        lines.append(quads(dashes, np.repeat(look.marks[None], len(starts), axis=0)))
    solids: list[Mesh] = []
    for side in (-1, 1):
        for y in np.arange(reach[0], reach[1], 9.0):
            if rng.uniform() < look.houses:
                solids.append(_house(look, side * rng.uniform(13, 16), y, rng))
            elif rng.uniform() < look.trees:
                solids.append(_tree(look, side * rng.uniform(8.5, 14), y + rng.uniform(-2, 2), rng))
    # a mesh a house: those beside and behind the camera are culled whole, and never reach the rasteriser's clipping
    return [
        (GROUND, join([*ground, *road, *kerbs])),
        (MARKS, join(lines)),
        *((SOLID, solid) for solid in solids),
    ]


def _house(look: Look, x: float, y: float, rng: np.random.Generator) -> Mesh:
    width, depth, height = rng.uniform(6, 9), rng.uniform(6.5, 8.5), rng.uniform(4, 11)
    wall = look.walls[rng.integers(len(look.walls))] * rng.uniform(0.85, 1.1)
    parts = [box((x, y, 0), (width, depth, height), wall, look.light)]
    face = x - np.sign(x) * (width / 2 + 0.03)
    flat = Light((0, 0, 1), 1.0, 0.0)
    for floor in np.arange(1.2, height - 1.4, 2.8):
        for along in (-depth * 0.25, depth * 0.25):
            lit = look.lit_windows and rng.uniform() < 0.6
            colour = np.array([1.0, 0.80, 0.42]) if lit else wall * 0.45
            parts.append(box((face, y + along, floor), (0.06, 1.7, 1.5), colour, flat))
            parts.append(box((x + along, y - depth / 2 - 0.03, floor), (1.5, 0.06, 1.5), colour, flat))
    return join(parts)


def _tree(look: Look, x: float, y: float, rng: np.random.Generator) -> Mesh:
    height = rng.uniform(3, 7)
    trunk = box((x, y, 0), (0.4, 0.4, height * 0.5), np.array([0.30, 0.2, 0.13]), look.light)
    crown = look.foliage * rng.uniform(0.8, 1.2)
    spread = rng.uniform(1.8, 3.2)
    lower = box((x, y, height * 0.35), (spread, spread, height * 0.4), crown, look.light)
    upper = box((x, y, height * 0.7), (spread * 0.6, spread * 0.6, height * 0.3), crown * 1.08, look.light)
    return join([trunk, lower, upper])


# --------------------------------------------------------------------------------------------------------------- scene
def draw(
    look_name: str, motion_name: str, look_rng: np.random.Generator, motion_rng: np.random.Generator,
    times: Floats, size_px: int,
) -> Scene:  # fmt: skip
    """A scene of a look and a motion at `times` (T,) in s, redrawn until it shows its agents.

    Raises ValueError for an unknown look or motion, RuntimeError if a thousand scenes do not show their agents.
    """
    for name, valid, what in ((look_name, LOOKS, "look"), (motion_name, MOTIONS, "motion")):
        if name not in valid:
            raise ValueError(f"{what} {name!r} is none of {', '.join(valid)}")
    look = draw_look(look_name, look_rng)
    event = choose_event(motion_name, motion_rng)
    for _ in range(1000):
        motion = draw_motion(event, motion_rng, float(times[-1]))
        if not _plausible(motion, times):
            continue
        paints = [look.cars[look_rng.integers(len(look.cars))] for _ in motion.agents]
        scene = Scene(
            camera=look.camera,
            layers=[],
            agents=[
                vehicle(agent.kind, paint, look.light, look.lit_windows, look_rng)
                for agent, paint in zip(motion.agents, paints, strict=True)
            ],
            shadows=[_shadow(agent.kind, look) for agent in motion.agents],
            sky_horizon=look.sky_horizon,
            sky_top=look.sky_top,
            fog_m=look.fog_m,
            kinds=tuple(agent.kind for agent in motion.agents),
            event=event,
            vignette=look.vignette,
            poses=np.stack([rigid(*agent.path(times).T) for agent in motion.agents]),
            ego=motion.ego.path(times),
        )
        if shows_its_agents(scene, size_px):
            scene.layers = _surroundings(
                look, (scene.ego[:, 1].min() - 20, scene.ego[:, 1].max() + 150), look_rng
            )
            return scene
    raise RuntimeError(
        f"no scene of look {look_name!r}, motion {motion_name!r}, event {event!r} in 1000 shows its agents"
    )
