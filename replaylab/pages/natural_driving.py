"""The page on simulated traffic: how often its drivers cause events, and how many windows are predictable.

Decision: shares are of all windows of the simulations, before selection. The videos and the statistics of motion are those
of `pages.worlds`.
"""

from __future__ import annotations

import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.catalogue import FRAMES_PER_SECOND, domain_of
from replaylab.data.domain import SPLITS
from replaylab.pages.style import styled
from replaylab.util.text import capital, percent
from replaylab.worlds.named import NATURAL_DOMAINS
from replaylab.worlds.sumo import scenes, tracks, windows

COLUMNS = {
    "windows": "windows",
    "eventful": "with an event",
    "shown": "agents in view throughout",
    "explained_of_shown": "of these, predictable",
    "explained_of_eventful": "of those with an event, predictable",
}


def shares() -> Styler:
    """A row per kind of drivers and place: the number of windows, and shares of them."""
    found = tracks.shares()
    table = pd.DataFrame({"drivers and place": found["drivers"] + ", " + found["place"], "windows": found["windows"]})
    for name, label in COLUMNS.items():
        if name != "windows":
            table[label] = [percent(share) for share in found[name]]
    return styled(table, "simulated-traffic-shares", values=found).hide(axis="index")


def events_in_words() -> str:
    """Markdown: what counts as an event, and what as predictable."""
    return (
        f"A window is {windows.FRAMES / FRAMES_PER_SECOND:g} s of traffic seen from one car. It has an **event** if a "
        f"vehicle at most {windows.AHEAD_M:g} m ahead brakes by more than {windows.BRAKING_M_S2:g} m/s², moves sideways in "
        f"its lane by more than {windows.SIDEWAYS_M_S:g} m/s, or is in a conflict by SUMO's own measures (time to "
        "collision, deceleration that avoids one, time between two vehicles at one place). It is **predictable** if "
        f"constant acceleration and yaw rate describe the path of every agent within {windows.EXPLAINED_M:g} m. Nothing is "
        "labelled by hand."
    )


def shares_in_words() -> str:
    """Markdown: the shares of events and of predictable windows with both kinds of drivers, over both places."""
    found = tracks.shares()
    lines = []
    for drivers, of in found.groupby("drivers", sort=False):
        count = of["windows"]
        eventful = (of["eventful"] * count).sum() / count.sum()
        shown = of["shown"] * count
        explained = (of["explained_of_shown"] * shown).sum() / shown.sum()
        lines.append(
            f"- **{capital(str(drivers))} drivers**: {percent(eventful)} of {count.sum():,} windows have an event; of those "
            f"whose agents are in view throughout, {percent(explained)} are predictable."
        )
    return "\n".join(lines)


def domains() -> Styler:
    """A row per domain: its role, and the number of its windows in each split."""
    lines = [
        {
            "domain": name,
            "what it is": capital(domain_of(name).role),
            **{split: len(scenes.order(spec.motion, split, spec.seed)) for split in SPLITS},
        }
        for name, spec in NATURAL_DOMAINS.items()
    ]
    return styled(pd.DataFrame(lines), "simulated-traffic-domains").hide(axis="index")
