"""The drivers of the simulated traffic and their variation, as SUMO's vehicle types.

Decision: a set of drivers is a few ranges, from which the types are sampled once, with a seed; SUMO assigns them to routes.
If a range is a single number, all drivers have it. Not here: parameters of SUMO that are not varied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replaylab.spec import generator
from replaylab.worlds.kinematics import VEHICLE_SHARES, VEHICLES
from replaylab.worlds.meshes import KINDS

Range = tuple[float, float]
WALKERS = 6  # types of pedestrians
USUAL_ERRORS = {"sigmaleader": 0.02, "sigmagap": 0.1, "sigmaerror": 0.04}  # SUMO's defaults of EIDM
CLASSES = {"motorcycle": "motorcycle"}  # SUMO's vehicle classes by kind; all others are passenger cars


@dataclass(frozen=True)
class Drivers:
    """Ranges of SUMO's driver parameters; each vehicle type has one value from each range."""

    model: str  # car-following model: Krauss, or EIDM
    sigma: Range  # imperfection, 0 to 1: Krauss' sigma, or for EIDM the errors of estimates (0.5: SUMO's defaults)
    headway_s: Range  # SUMO's tau
    acceleration_m_s2: Range
    deceleration_m_s2: Range
    speed_deviation: float  # standard deviation of the desired speed, as a share of the limit
    speed_gain: Range  # eagerness to change lanes for speed
    keep_right: Range  # eagerness to return to the right lane
    assertiveness: Range  # willingness to accept small gaps
    sideways_m_s: Range  # highest lateral speed
    types: int  # of each kind of vehicle


DRIVERS = {
    "regular": Drivers(
        model="EIDM", sigma=(0, 0), headway_s=(1, 1), acceleration_m_s2=(2.6, 2.6), deceleration_m_s2=(4.5, 4.5),
        speed_deviation=0.0, speed_gain=(0, 0), keep_right=(0, 0), assertiveness=(1, 1), sideways_m_s=(1, 1), types=1,
    ),
    "heterogeneous": Drivers(
        model="EIDM", sigma=(0.1, 0.9), headway_s=(0.6, 1.6), acceleration_m_s2=(1.5, 3.5),
        deceleration_m_s2=(3.5, 5.5), speed_deviation=0.2, speed_gain=(0.3, 2.5), keep_right=(0, 0.8),
        assertiveness=(0.7, 1.8), sideways_m_s=(0.7, 1.6), types=8,
    ),
}  # fmt: skip
"""The two sets of drivers whose tracks are in the package."""


def vehicle_types(drivers: Drivers) -> str:
    """The text of SUMO's additional file: the distributions `traffic` of vehicles and `walkers` of pedestrians."""
    rng = generator(0, "drivers of simulated traffic")
    vehicles = [
        _vehicle(drivers, kind, number, share / drivers.types, rng)
        for kind, share in zip(VEHICLES, VEHICLE_SHARES, strict=True)
        for number in range(drivers.types)
    ]
    width, length, height = KINDS["pedestrian"]
    spread = 0.0 if drivers.speed_deviation == 0 else 1.0
    walkers = [
        _element("vType", id=f"pedestrian_{number}", vClass="pedestrian", length=length, width=width, height=height,
                 maxSpeed=round(1.3 + spread * float(rng.uniform(-0.4, 0.5)), 2), speedDev=0, speedFactor=1)
        for number in range(WALKERS)
    ]  # fmt: skip
    return "\n".join([
        "<additional>",
        '    <vTypeDistribution id="traffic">', *vehicles, "    </vTypeDistribution>",
        '    <vTypeDistribution id="walkers">', *walkers, "    </vTypeDistribution>",
        "</additional>", "",
    ])  # fmt: skip


def kind_of(vehicle_type: str) -> str:
    """The kind of agent of a SUMO vehicle type: "car" of "car_3"."""
    return vehicle_type.partition("_")[0]


def _vehicle(drivers: Drivers, kind: str, number: int, share: float, rng: np.random.Generator) -> str:
    def one_of(bounds: Range) -> float:
        return round(float(rng.uniform(*bounds)), 2)

    width, length, height = KINDS[kind]
    deviation = drivers.speed_deviation
    return _element(
        "vType", id=f"{kind}_{number}", vClass=CLASSES.get(kind, "passenger"), probability=round(share, 5), length=length,
        width=width, height=height, minGap=2, **_following(drivers.model, one_of(drivers.sigma)),
        tau=one_of(drivers.headway_s), accel=one_of(drivers.acceleration_m_s2), decel=one_of(drivers.deceleration_m_s2),
        speedFactor=f"normc(1,{deviation},{1 - 3 * deviation:.2f},{1 + 3 * deviation:.2f})" if deviation else 1,
        lcSpeedGain=one_of(drivers.speed_gain), lcKeepRight=one_of(drivers.keep_right),
        lcAssertive=one_of(drivers.assertiveness), maxSpeedLat=one_of(drivers.sideways_m_s),
        **({} if deviation else {"speedDev": 0}),
    )  # fmt: skip


def _following(model: str, sigma: float) -> dict[str, object]:
    """The attributes of a car-following model; raises ValueError for an unknown one."""
    if model == "Krauss":
        return {"carFollowModel": model, "sigma": sigma, "sigmaStep": 1}
    if model == "EIDM":
        errors = {name: round(2 * sigma * usual, 4) for name, usual in USUAL_ERRORS.items()}
        return {"carFollowModel": model, **errors}
    raise ValueError(f"car-following model {model!r} is none of Krauss, EIDM")


def _element(tag: str, **attributes: object) -> str:
    words = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f"        <{tag} {words}/>"
