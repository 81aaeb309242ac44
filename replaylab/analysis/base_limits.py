"""What a base of the second edition should reach, and whether it does.

Decision: a limit is a share of what a reference baseline has on the same dev clips, or a value, and was written down before
the bases were trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Bar:
    """A criterion for a base of the second edition on dev clips: a share of a reference's value, or a value."""

    measure: str
    domain: str
    reference: str  # empty: `limit` is the value itself
    limit: float
    is_at_least: bool = False


BARS = (
    *(Bar("ade_px", domain, "constant-velocity", 1.0) for domain in ("driving-eventful", "near-eventful")),
    Bar("ade_px", "driving", "copy-last-frame", 0.5),
    Bar("ade_px", "driving-held-out", "copy-last-frame", 0.8),
    *(Bar("ade_px", domain, reference, 1.0) for domain in ("country", "country-eventful")
      for reference in ("copy-last-frame", "constant-velocity")),
    Bar("effnet_kd", "near-eventful", "autoencoder", 2.0), Bar("effnet_kd", "driving", "", 8.0),
    *(Bar("recall", domain, "", 0.96, True) for domain in ("driving", "driving-eventful")),
)  # fmt: skip


def bars(curve: pd.DataFrame) -> pd.DataFrame:
    """The criteria at the last step of a base's `curve.csv`: measure, domain, reference, value, limit, and if it is met."""
    last = curve[curve["step"].isin([-1, curve["step"].max()])]
    values = last.set_index(["model", "measure", "domain"])["value"]
    rows = []
    for bar in BARS:
        value = values["base", bar.measure, bar.domain]
        limit = bar.limit * (values[bar.reference, bar.measure, bar.domain] if bar.reference else 1.0)
        reached = value >= limit if bar.is_at_least else value <= limit
        rows.append((bar.measure, bar.domain, bar.reference or "-", value, limit, bool(reached)))
    return pd.DataFrame(rows, columns=["measure", "domain", "reference", "value", "limit", "reached"])
