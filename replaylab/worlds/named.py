"""The rendered domains of the experiments, by name.

Decision: rendered domains are fully defined here, except their labels (`catalogue`). A new world needs its module, its entry
in `build.WORLDS`, its domains here and their labels there. Refused: an unknown name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replaylab.spec import WorldSpec

DRIVING_WORLDS = ("traffic", "country", "sumo")
"""Worlds of roads and agents on which the detector is trained; their appearance is one of `appearance.LOOKS`."""


def _domain(
    name: str, world: str, look: str, motion: str, eventful_share: float = 1.0,
    videos: tuple[int, int, int] = (512, 128, 128),
) -> tuple[str, WorldSpec]:  # fmt: skip
    return name, WorldSpec(name, world, look, motion, videos, eventful_share=eventful_share)


DOMAINS = dict([
    _domain("driving", "traffic", "target", "ordinary"),
    _domain("driving-eventful", "traffic", "target", "eventful"),
    _domain("driving-held-out", "traffic", "target", "held-out"),
    _domain("driving-repetitive", "traffic", "target", "repetitive"),
    _domain("diverse-driving", "traffic", "target", "free"),
    _domain("near", "traffic", "diverse", "free"),
    _domain("physics", "physics", "any", "bodies"),
    _domain("orbit", "orbit", "any", "any"),
    _domain("doom", "doom", "any", "walk"),
    _domain("country", "country", "country", "ordinary"),
    _domain("country-eventful", "country", "country", "eventful"),
    _domain("country-held-out", "country", "country", "held-out"),
])  # fmt: skip
"""The domains of the experiments, in a size that is easily changed: `domain_spec("near", videos=...)`."""

EVALUATION_DOMAINS = dict(
    _domain(f"near-{motion}", "traffic", "diverse", motion) for motion in ("ordinary", "eventful", "held-out")
)
"""The target's kinds of motion in other appearances: only evaluated."""

BASE_DOMAINS = dict([_domain("near-any", "traffic", "broad", "any")])
"""Training domain of the bases only: any motion, in the broadest appearances."""

DOSE_DOMAINS = dict(
    _domain(f"driving-dose-{100 * share:.0f}", "traffic", "target", "eventful", share) for share in (0.05, 0.2, 0.5)
)
"""Targets between ordinary and eventful driving: the share of eventful videos in percent."""


FAMILY_DOMAINS = dict([
    _domain("driving-family-a", "traffic", "target", "family-a"),
    _domain("driving-family-b", "traffic", "target", "family-b"),
    _domain("near-without-a", "traffic", "diverse", "without-a", 0.5),
    _domain("near-without-b", "traffic", "diverse", "without-b", 0.5),
    _domain("near-all-events", "traffic", "diverse", "all-events", 0.5),
])  # fmt: skip
"""Targets of two disjoint families of events, and near replay that lacks one of them, or none: half of it is ordinary."""

NATURAL_DOMAINS = dict([
    _domain("natural", "sumo", "winter", "natural"),
    _domain("natural-eventful", "sumo", "winter", "eventful", videos=(0, 128, 128)),
    _domain("natural-unfiltered", "sumo", "winter", "unfiltered"),
    _domain("natural-regular", "sumo", "winter", "regular"),
])  # fmt: skip
"""Simulated traffic: events as they come, those of its clips that have one, whether to be foreseen or not, and without."""

ALL_DOMAINS = {**DOMAINS, **EVALUATION_DOMAINS, **BASE_DOMAINS, **FAMILY_DOMAINS, **NATURAL_DOMAINS, **DOSE_DOMAINS}


SURVEYS = {"published": 128, "natural": 128, "quick": 64, "smoke": 4}
"""The number of videos of each domain in the surveys, by preset."""


def domain_spec(name: str, /, **changes: Any) -> WorldSpec:
    """A domain by its name, with other fields; raises ValueError that lists the names."""
    if name not in ALL_DOMAINS:
        raise ValueError(f"domain {name!r} is none of {', '.join(ALL_DOMAINS)}")
    return replace(ALL_DOMAINS[name], **changes)
