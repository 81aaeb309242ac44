"""The page on scale: does fine-tuning cost more with a better base?

The functions take the table of `points` and return a matplotlib figure, a pandas Styler or Markdown. Decision: the skill of
a base is the position of its ADE between copying the last frame (0) and real clips (1), on the clips on which the change is
measured (`analysis.scale`). Fidelity, in which copies are better than any base's clips, is shown over the same skill. A
point is the mean of the runs of a base in one configuration. Lines are fitted to the second edition's bases only: the first
edition's were trained and measured differently, and are shown beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaylab.analysis import scale
from replaylab.analysis.statistics import Interval, describe
from replaylab.analysis.tables import NONE
from replaylab.catalogue import MAIN_FRACTION, domain_of, measure_of
from replaylab.pages import style, verdicts
from replaylab.pages.style import BLUE, GREY, VERMILION, WIDTH, figure_style
from replaylab.shipped_weights import digests_of
from replaylab.store import published_folder
from replaylab.sweeps import sweep
from replaylab.util.text import number, percent, with_minus_sign

KNOWN_BY = "ade_px"
PANELS = (("ade_px", "driving"), ("ade_px", "driving-eventful"), ("effnet_kd", "driving"))
REPLAY = f"near replay {percent(MAIN_FRACTION)}"
COLOURS = {NONE: VERMILION, REPLAY: BLUE}
EDITIONS = ("second", "first")
PRESET_OF = {"second": "scale", "first": "published"}


def read(store: str | Path = "", editions: Sequence[str] = EDITIONS) -> pd.DataFrame:
    """`points` of the finished runs, with a column `edition`; nothing is trained. `store`: where the second edition's runs
    are, "" for the preset's own; the first edition's are always the published ones.

    Raises ValueError for an edition that is not in EDITIONS.
    """
    if unknown := set(editions) - set(EDITIONS):
        raise ValueError(f"edition {sorted(unknown)[0]!r} is none of {', '.join(EDITIONS)}")
    measures = {measure for measure, _ in PANELS}
    stores = {"second": store, "first": published_folder()}
    parts = [
        points(verdicts.read_together((PRESET_OF[edition],), stores[edition], measures).rows).assign(edition=edition)
        for edition in editions
    ]
    return pd.concat([one for one in parts if len(one)] or parts, ignore_index=True)


def opening(store: str | Path = "") -> str:
    """Markdown for the top of the page: the finished runs of the second edition, their cost and the command."""
    preset = PRESET_OF["second"]
    made = sweep.read(preset, store=store, measures=[])
    command = f"python -m replaylab sweep --preset {preset} --store FOLDER"
    return "\n".join(verdicts.status_lines(made.runs, [preset], made.split, command, made.store, " They are exploratory."))


def points(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per base, configuration and panel: base, configuration, measure, domain, skill, change, way (as in
    `scale.points`), and runs, their number.
    """
    parts = []
    for measure, domain in PANELS:
        changes = scale.points(rows, measure, domain)
        keys = ["base", "replay", "replay_fraction", "seed"]
        known = scale.points(rows, KNOWN_BY, domain)[[*keys, "skill"]]
        both = changes.drop(columns="skill").merge(known, on=keys, validate="one_to_one")
        is_main = (both["replay"] == "near") & (both["replay_fraction"] == MAIN_FRACTION)
        both = both.assign(configuration=np.where(is_main, REPLAY, NONE), measure=measure, domain=domain)
        parts.append(both[is_main | (both["replay_fraction"] == 0)])
    every = pd.concat(parts, ignore_index=True)
    grouped = every.groupby(["base", "configuration", "measure", "domain"], sort=False)
    return grouped.agg(
        skill=("skill", "mean"), change=("change", "mean"), way=("way", "mean"), runs=("seed", "nunique")
    ).reset_index()


def lines(table: pd.DataFrame) -> dict[tuple[str, str, str], scale.Line]:
    """The lines through the second edition's bases, by configuration, measure and domain, if there are enough of them."""
    found = {}
    of_second = table[table["edition"] == "second"].dropna(subset=["skill", "change"])
    for (configuration, measure, domain), rows in of_second.groupby(["configuration", "measure", "domain"], sort=False):
        if len(rows) >= scale.POINTS_FOR_A_LINE and rows["skill"].nunique() > 1:
            found[str(configuration), str(measure), str(domain)] = scale.line(rows["skill"], rows["change"])
    return found


def over_skill(table: pd.DataFrame) -> Figure:
    """The changes over the base's skill: a panel per measure, a colour per configuration, and lines with 95 % bands."""
    fitted = lines(table)
    with figure_style():
        figure, every = plt.subplots(len(PANELS), figsize=(WIDTH, 2.6 * len(PANELS)))
        for axes, (measure, domain) in zip(every, PANELS, strict=True):
            here = table[(table["measure"] == measure) & (table["domain"] == domain)]
            for configuration, colour in COLOURS.items():
                _draw(axes, here[here["configuration"] == configuration], colour)
                if line := fitted.get((configuration, measure, domain)):
                    _draw_line(axes, line, colour)
            axes.axhline(0, color=GREY, lw=0.9)
            axes.set_ylabel(f"change of {measure_of(measure).name}")
            axes.set_title(f"{measure_of(measure).label} on {domain_of(domain).label}")
        every[-1].set_xlabel("base's skill: 0 copying the last frame, 1 real clips →")
        entries = [style.legend_entry(colour, name, "o") for name, colour in COLOURS.items()]
        entries.append(style.legend_entry(GREY, "first edition's bases", "o", mfc="none"))
        return style.finished(
            figure,
            "Change by fine-tuning over the base's skill",
            entries=entries,
            note="Lower is better. Bands: 95 % intervals of the lines.",
        )


def _draw(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Filled points for the second edition's bases, open ones for the first's."""
    for edition, fill in (("second", colour), ("first", "none")):
        of_edition = rows[rows["edition"] == edition]
        axes.scatter(of_edition["skill"], of_edition["change"], s=28, facecolors=fill, edgecolors=colour, zorder=3)


def _draw_line(axes: Axes, line: scale.Line, colour: str) -> None:
    reach = float(np.sqrt(3 * line.squares_x / line.n))  # of points spread evenly
    x = np.linspace(line.mean_x - reach, line.mean_x + reach, 50)
    at = [line.at(one) for one in x]
    axes.plot(x, [one.estimate for one in at], color=colour, lw=1.2)
    axes.fill_between(x, [one.low for one in at], [one.high for one in at], color=colour, alpha=0.15, lw=0)


def in_words(table: pd.DataFrame) -> str:
    """Markdown: for every panel, whether the change depends on the base's skill, and where its sign changes."""
    fitted = lines(table)
    if not fitted:
        return (
            f"Fewer than {scale.POINTS_FOR_A_LINE} of the second edition's points have finished runs and different skills, "
            "so no line is fitted."
        )
    said = []
    for (configuration, measure, domain), line in fitted.items():
        rise = line.rise
        trend = "increases with" if rise.low > 0 else "decreases with" if rise.high < 0 else "shows no clear dependence on"
        unit = f" {measure_of(measure).unit}".rstrip()
        what = f"{measure_of(measure).label} on {domain_of(domain).label}, {configuration}"
        here = table[(table["edition"] == "second") & (table["measure"] == measure) & (table["domain"] == domain)]
        said.append(
            f"- **{what}**: the change {trend} the base's skill ({describe(rise)}{unit} from copying to real clips, "
            f"{line.n} points). {_lost(rise, here['way'].mean()) if measure == KNOWN_BY else ''}"
            f"{_crossing(line, here['skill'])}"
        )
    return "\n".join(said)


def _lost(rise: Interval, way: float) -> str:
    """The slope as a share of the way from copying to real clips: 1 if all bases end with the same error, below 0 if they
    end further apart.
    """
    share, low, high = (with_minus_sign(percent(round(end / way, 2))) for end in (rise.estimate, rise.low, rise.high))
    return f"Fine-tuning reduces the advantage of a better base by {share} ({low} to {high}). "


def _crossing(line: scale.Line, skills: pd.Series[float]) -> str:
    place, places = line.crossing()
    if len(places) > 1 or not np.isfinite(places[0]).all():
        return "The data do not determine where its sign changes."
    turns = ("a gain", "a cost") if line.slope > 0 else ("a cost", "a gain")
    low, high = (number(end) for end in places[0])
    beyond = "" if skills.min() <= place <= skills.max() else ", an extrapolation"
    return f"It turns from {turns[0]} into {turns[1]} at a skill of {number(place)} ({low} to {high}){beyond}."


def values(table: pd.DataFrame) -> pd.DataFrame:
    """The points for readers: with the folder of a base instead of its digest."""
    names = {digest: folder.name for digest, folder in digests_of("base").items()}
    shown = table.assign(base=[names.get(base, base) for base in table["base"]])
    return shown[["edition", "base", "configuration", "measure", "domain", "skill", "change", "way", "runs"]]
