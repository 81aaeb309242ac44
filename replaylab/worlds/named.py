"""The rendered domains of the experiments, by name.

Decision: everything about a rendered domain is here, except its words (`catalogue`). A new world needs its module, its entry
in `build.WORLDS`, its domains here and their words there. Refused: an unknown name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replaylab.spec import WorldSpec

DRIVING_WORLDS = ("traffic", "country")
"""Worlds of roads and their agents, which the detector knows; with a look of `appearance.LOOKS`."""


def _domain(name: str, world: str, look: str, motion: str, eventful_share: float = 1.0) -> tuple[str, WorldSpec]:
    return name, WorldSpec(name, world, look, motion, (512, 128, 128), eventful_share=eventful_share)


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
"""What only bases are trained on: any motion, in the broadest appearances."""

DOSE_DOMAINS = dict(
    _domain(f"driving-dose-{100 * share:.0f}", "traffic", "target", "eventful", share) for share in (0.05, 0.2, 0.5)
)
"""Targets between ordinary and eventful driving: the share of eventful videos in percent."""


def domain_spec(name: str, /, **changes: Any) -> WorldSpec:
    """A domain by its name, with other fields; raises ValueError that lists the names."""
    known = {**DOMAINS, **EVALUATION_DOMAINS, **BASE_DOMAINS, **DOSE_DOMAINS}
    if name not in known:
        raise ValueError(f"domain {name!r} is none of {', '.join(known)}")
    return replace(known[name], **changes)
