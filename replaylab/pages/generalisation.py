"""Does it hold elsewhere? What the pages on another driving world (claim C6) and another family of models (C5) read, draw
and say.

The functions take an `Elsewhere` (`read` makes one) and give back a matplotlib figure, a pandas Styler or Markdown; no
torch. Decision: the claims of the preregistration are asked again, word by word, of what is second, and each stands beside
what the published sweep says of the first. With three seeds none gets a verdict: an interval lies where the claim says, on
the other side, or cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from replaylab import spec
from replaylab.analysis import claims, statistics
from replaylab.analysis.claims import Claim, Judged
from replaylab.analysis.configurations import (
    DYNAMICS,
    LAST,
    LOOKS,
    ORDINARY_DYNAMICS,
    RECALL,
    Configurations,
    by_replay,
    configurations_of,
)
from replaylab.analysis.statistics import CANNOT_TELL, FEW, SEEDS_FOR_AN_INTERVAL, describe
from replaylab.catalogue import domain_of, measure_of
from replaylab.pages import comparisons, replay_sweep, verdicts
from replaylab.pages.comparisons import counted
from replaylab.pages.style import BLUE, GREEN, GREY, INK, VERMILION, WIDTH, figure_style, finished, styled
from replaylab.pages.verdicts import MISSING
from replaylab.store import base_curve, store_of
from replaylab.sweeps.ablations import NO_REPLAY
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.util.text import capital, number

FIRST = ("driving", "driving-eventful")
PANELS = (*LOOKS, RECALL, ORDINARY_DYNAMICS, DYNAMICS)
COLOURS = {"near": BLUE, "far": GREEN}
AS_CLAIMED, OTHER_WAY = "as claimed", "the other way"
READINGS = {"holds": AS_CLAIMED, "does not hold": OTHER_WAY, "undecided": CANNOT_TELL}
Asked = list[tuple[Claim, Judged | None]]


@dataclass(frozen=True)
class Difference:
    """What is another one, and the claim that says that it makes no difference."""

    claim: str
    one: str
    both: str
    title: str
    """of figures of either, which stands in the braces"""


WORLD = Difference("C6", "world", "worlds", "Replay on the {} world")
FAMILY = Difference("C5", "family", "families", "Replay in the {} family")


@dataclass(frozen=True)
class Elsewhere:
    """The same configurations twice, as far as they are there, with a difference."""

    second: Configurations
    first: Configurations
    """of the published sweep, whatever was asked for"""
    differs: Difference = WORLD

    @cached_property
    def asked(self) -> tuple[Asked, Asked]:
        """The claims of the preregistration that are of a single target, with what was found: second, first."""
        second, first = (
            [
                (claim, claims.judge(made.rows, claim))
                for claim in claims_of(made.ordinary, made.eventful, self.differs.claim)
            ]
            for made in (self.second, self.first)
        )
        return second, first


def claims_of(ordinary: str, eventful: str, elsewhere: str) -> list[Claim]:
    """The claims of the preregistration without alignment, which is of two targets, asked of a target for the sake of the
    claim `elsewhere`.
    """
    where = dict(zip(FIRST, (ordinary, eventful), strict=True))
    return [
        replace(
            claim,
            name=f"{elsewhere}, {claim.name}",
            configuration=replace(claim.configuration, target=ordinary),
            domain=where[claim.domain],
        )
        for claim in claims.CLAIMS
        if claim.against is None
    ]


def read(
    preset: str, replay_fractions: Sequence[float] = (), seeds: Sequence[int] = (), store: str | Path = ""
) -> Elsewhere:
    """The finished runs of a preset beside the published ones; nothing is trained. Empty arguments: the preset's own.

    ValueError for an unknown preset, or for a fraction or seed that is none.
    """
    home, published = store_of(preset, store), store_of("published", "")
    wanted = grid(preset, list(replay_fractions), list(seeds))
    target = wanted[0].target.name
    fractions = sorted({run.replay.fraction for run in wanted})
    differs = FAMILY if preset == "second-family" else WORLD
    second, first = (differs.title.format(one) for one in ("second", "first"))
    beside = grid("published", fractions)
    return Elsewhere(
        configurations_of(preset, second, by_replay(wanted), home, target, f"{target}-eventful"),
        configurations_of("published", first, by_replay(beside), published, *FIRST),
        differs,
    )


# ----------------------------------------------------------------------------------------------------- opening and table
def opening(made: Elsewhere, store: str | Path = "") -> str:
    """Markdown for the top of the page: what each claim came to here, how many runs there are, cost and command."""
    second = made.second
    runs = second.runs.assign(target=second.ordinary)
    again = f"python -m replaylab sweep --preset {second.preset} --store FOLDER"
    return verdicts.opening(made.asked[0], [made.differs.claim], runs, again, [second.preset], store)


def questions_table(made: Elsewhere) -> Styler:
    """A claim a line: its change and where the interval lies, of the second and of the first."""
    lines, of = [], made.differs
    for (claim, second), (_, first) in zip(*made.asked, strict=True):
        line = {"claim": claim.name.removeprefix(f"{of.claim}, "), "says": claim.says}
        line["measure"] = f"{measure_of(claim.measure).name}, {_kind(made, claim)}"
        for one, result in ((f"second {of.one}", second), (f"first {of.one}", first)):
            line[f"change, {one}"] = "–" if result is None else describe(result.interval)
            line[one] = reading(result)
        line["seeds"] = " and ".join("–" if it is None else str(it.interval.n) for it in (second, first))
        lines.append(line)
    return styled(pd.DataFrame(lines), of.both).hide(axis="index")


def _kind(made: Elsewhere, claim: Claim) -> str:
    return "eventful" if claim.domain == made.second.eventful else "ordinary"


def reading(result: Judged | None) -> str:
    """Where a claim's interval lies: one of READINGS, FEW or not run yet. No verdict.

    Where the preregistered rule leaves a claim open whatever the interval (`Judged.why`), it cannot tell.
    """
    if result is None:
        return MISSING
    if result.interval.n < SEEDS_FOR_AN_INTERVAL:
        return FEW
    if result.why:
        return CANNOT_TELL
    return READINGS[statistics.verdict(result.interval, result.claim.side, result.margin)]


# -------------------------------------------------------------------------------------------------------------- figures
def base_curves(made: Elsewhere) -> Figure:
    """How the second's base learnt to move, and the first's beside it."""
    return replay_sweep.base_curve(*_curves(made))


def both_curves(made: Elsewhere) -> pd.DataFrame:
    """What `base_curves` draws: ADE in px of both bases over pretraining, with a column `base`."""
    both = pd.concat(_curves(made), ignore_index=True)
    return both[both["measure"] == "ade_px"]


def learnt(made: Elsewhere) -> str:
    """Markdown: how far both bases came in pretraining, between a copied last frame and the autoencoder's own error."""
    second, first = _curves(made)
    lines = []
    for domain in ("near", "driving-eventful"):
        (ours, steps), (other, others_steps) = (_end(curve, "base", domain) for curve in (second, first))
        copied, coded = (_end(second, model, domain)[0] for model in ("copy-last-frame", "autoencoder"))
        lines.append(
            f"- **{capital(domain_of(domain).label)}**: the second base ends at {ours} px after {steps} steps, the "
            f"first at {other} px after {others_steps}. A copied last frame has {copied} px, and the autoencoder alone "
            f"{coded} px."
        )
    return "\n".join(lines)


def _end(curve: pd.DataFrame, model: str, domain: str) -> tuple[str, int]:
    """A model's last ADE in a domain, in words, and its step."""
    of = (curve["measure"] == "ade_px") & (curve["model"] == model) & (curve["domain"] == domain)
    last = curve[of].sort_values("step").iloc[-1]
    return number(float(last["value"])), int(last["step"])


def _curves(made: Elsewhere) -> list[pd.DataFrame]:
    bases = [spec.base_folder(family=PRESETS[preset].family).name for preset in (made.second.preset, made.first.preset)]
    return [base_curve(base).assign(base=base) for base in bases]


def over_fractions(made: Elsewhere) -> Figure:
    """Changes at the last step over the replayed share of a batch: near and far replay of the second, and, dashed, of the
    first.
    """
    if made.second.effects.empty:
        return comparisons.nothing_yet(made.second)
    with figure_style():
        figure, panels = plt.subplots(3, 2, figsize=(WIDTH, 7.6), sharex=True)
        for axes, label in zip(panels.flat, PANELS, strict=True):
            axes.axhline(0, color=INK, lw=1.2, zorder=1)
            for kind, colour in COLOURS.items():
                _line(axes, changes(made.first, label, kind), colour, beside=True)
                _line(axes, changes(made.second, label, kind), colour, beside=False)
            axes.set_title(label, fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("replay in a batch (%)")
        for axes in panels[:, 0]:
            axes.set_ylabel("change from the base")
        entries = [Line2D([], [], color=colour, marker="o", label=f"{kind} replay") for kind, colour in COLOURS.items()]
        entries += [Line2D([], [], color=VERMILION, marker="o", ls="", label=NO_REPLAY.name),
                    Line2D([], [], color=GREY, ls="--", label=f"first {made.differs.one}")]  # fmt: skip
        part = "" if len(made.second.done) == len(made.second.runs) else f"{counted(made.second)} are there"
        title = f"Changes over the share of replay, second {made.differs.one}"
        return finished(figure, title, part, entries=entries, below_in=0.53, fontsize=9)


def changes(made: Configurations, label: str, kind: str) -> pd.DataFrame:
    """A measure's change at the last step by replay_fraction, without replay and with replay of a kind."""
    names = made.runs[made.runs["replay"].isin(["", kind])][["configuration", "replay_fraction"]].drop_duplicates()
    here = made.effects[(made.effects["measure"] == label) & (made.effects["reading"] == LAST)]
    return names.merge(here, on="configuration").sort_values("replay_fraction")


def _line(axes: Axes, line: pd.DataFrame, colour: Any, beside: bool) -> None:
    x = 100 * line["replay_fraction"]
    if beside:
        axes.plot(x, line["change"], "--", color=colour, lw=1, alpha=0.7, zorder=2)
        return
    axes.plot(x, line["change"], color=colour, lw=1.8, zorder=3)
    aside = 0.4 if colour == GREEN else -0.4  # both kinds may have the same value
    for at, one in zip(x, line.itertuples(), strict=True):
        place, own = (at + aside, colour) if at else (at, VERMILION)
        axes.plot([place, place], [one.low, one.high], color=own, lw=1.4, zorder=4)
        axes.plot(place, one.change, "o", color=own, ms=6, zorder=5)


def both_effects(made: Elsewhere) -> pd.DataFrame:
    """What the figures draw: `Configurations.effects` of both, with a column `world` or `family`."""
    of = made.differs.one
    parts = [made.second.effects.assign(**{of: "second"}), made.first.effects.assign(**{of: "first"})]
    return pd.concat([one for one in parts if len(one)] or parts, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------ sentences
def found(made: Elsewhere) -> str:
    """Markdown: in how many claims both say the same, which the rule leaves open, the looks by every measure, and how the
    second's configurations stand.
    """
    if made.second.done.empty:
        return f"Claim {made.differs.claim}: {MISSING}, {counted(made.second)}."
    pairs = [(claim, reading(second), reading(first)) for (claim, second), (_, first) in zip(*made.asked, strict=True)]
    told = (AS_CLAIMED, OTHER_WAY)
    groups = {
        "they say the same": [claim for claim, a, b in pairs if a == b and a in told],
        "they say the opposite": [claim for claim, a, b in pairs if a != b and a in told and b in told],
        "one or both cannot tell": [claim for claim, a, b in pairs if a not in told or b not in told],
    }
    each = [f"{words} in {len(of)} ({'; '.join(one.says for one in of)})" for words, of in groups.items() if of]
    lines = [f"- **Both {made.differs.both}**, of {len(pairs)} questions: {'; '.join(each)}."]
    if left_open := [f"{claim.says} ({result.why})" for claim, result in made.asked[0] if result and result.why]:
        lines.append(f"- **Cannot tell, whatever the interval**: {'; '.join(left_open)}.")
    for which, one in (("second", made.second), ("first", made.first)):
        if (one.done["configuration"] == NO_REPLAY.name).any():
            lines.append(f"- **Looks without replay, {which} {made.differs.one}**: {_looks(one)}.")
    return "\n".join([*lines, "", comparisons.found(made.second)])


def _looks(made: Configurations) -> str:
    """Whether the target looks better after fine-tuning without replay: by the preregistered measure, then by others."""
    changes = {label: made.change(NO_REPLAY.name, label) for label in LOOKS}
    return "; ".join(
        f"{label} {comparisons.describe_with_outcome(change, label)}"
        for label, change in changes.items()
        if not np.isnan(change.estimate)
    )
