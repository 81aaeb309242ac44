"""The rendered domains of the experiments, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replaylab.spec import WorldSpec

_VIDEOS = (512, 128, 128)


DOMAINS = {
    spec.name: spec
    for spec in (
        WorldSpec("driving", "traffic", "target", "ordinary", _VIDEOS),
        WorldSpec("driving-eventful", "traffic", "target", "eventful", _VIDEOS),
        WorldSpec("driving-held-out", "traffic", "target", "held-out", _VIDEOS),
        WorldSpec("driving-repetitive", "traffic", "target", "repetitive", _VIDEOS),
        WorldSpec("diverse-driving", "traffic", "target", "free", _VIDEOS),
        WorldSpec("near", "traffic", "diverse", "free", _VIDEOS),
        WorldSpec("physics", "physics", "any", "bodies", _VIDEOS),
        WorldSpec("orbit", "orbit", "any", "any", _VIDEOS),
        WorldSpec("doom", "doom", "any", "walk", _VIDEOS),
        WorldSpec("country", "country", "country", "ordinary", _VIDEOS),
        WorldSpec("country-eventful", "country", "country", "eventful", _VIDEOS),
        WorldSpec("country-held-out", "country", "country", "held-out", _VIDEOS),
    )
}
"""The domains of the experiments, in a size that is easily changed: `domain_spec("near", videos=...)`."""


LOOKED_AT = {
    f"near-{motion}": WorldSpec(f"near-{motion}", "traffic", "diverse", motion, _VIDEOS)
    for motion in ("ordinary", "eventful", "held-out")
}
"""The target's kinds of motion in other looks: only evaluated."""


DOSES = {
    f"driving-dose-{100 * share:.0f}": WorldSpec(
        f"driving-dose-{100 * share:.0f}", "traffic", "target", "eventful", _VIDEOS, eventful_share=share
    )
    for share in (0.05, 0.2, 0.5)
}
"""Targets between ordinary and eventful driving: the share of eventful videos in percent."""


def domain_spec(name: str, /, **changes: Any) -> WorldSpec:
    """One of DOMAINS, LOOKED_AT or DOSES with other fields; raises ValueError that lists the names."""
    known = {**DOMAINS, **LOOKED_AT, **DOSES}
    if name not in known:
        raise ValueError(f"domain {name!r} is none of {', '.join(known)}")
    return replace(known[name], **changes)
