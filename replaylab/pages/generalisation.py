"""The pages on another driving world (claim C6) and another family of models (C5): the same claims tested twice.

The functions take a `Generalisation`, made by `read`, and return a matplotlib figure, a pandas Styler or Markdown.
Decision: the preregistered claims are tested unchanged in the second world or family, beside their results in the same
edition's sweep, the first. No interval is a verdict: it lies on the claimed side, on the other side, or is inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from replaylab.analysis import claims, configurations, statistics
from replaylab.analysis.changes import of_measure
from replaylab.analysis.claims import Claim, Judged
from replaylab.analysis.configurations import DYNAMICS, FIDELITIES, LAST, Configurations
from replaylab.analysis.statistics import CANNOT_TELL, FEW, SEEDS_FOR_AN_INTERVAL
from replaylab.analysis.tables import NONE, for_changes
from replaylab.catalogue import MAIN_FRACTION, PUBLISHED, domain_of, measure_of
from replaylab.pages import base_models, comparisons, own_results, sample_clips, style, verdicts
from replaylab.pages.own_results import Comparison, OwnRun
from replaylab.pages.style import BLUE, GREEN, GREY, INK, VERMILION, WIDTH, figure_style
from replaylab.pages.verdicts import MISSING
from replaylab.shipped_weights import base_folder
from replaylab.spec import RunSpec
from replaylab.store import base_curve, published_folder, store_of
from replaylab.sweeps.presets import EDITIONS, PRESETS, grid
from replaylab.util.text import capital, number, percent

FIRST = ("driving", "driving-eventful")
PANELS = (*FIDELITIES, configurations.RECALL, configurations.ORDINARY_DYNAMICS, DYNAMICS)
COLOURS = {"near": BLUE, "far": GREEN}
SHOWN = f"without replay, and with {percent(MAIN_FRACTION)} of each kind of replay, or else its largest fraction below 100 %"
"""Whose clips are shown at the top of a reader's own page (`sample_clips.main_runs`)."""
BASES_SHOWN = ("near", "near-eventful", "driving-eventful")
"""Domains in which the bases of two families are compared, as far as both were measured there."""
AS_CLAIMED, OTHER_WAY = "as claimed", "the other way"
READINGS = {"holds": AS_CLAIMED, "does not hold": OTHER_WAY, "undecided": CANNOT_TELL}
Judgements = list[tuple[Claim, Judged | None]]


@dataclass(frozen=True)
class Difference:
    """The factor in which the second differs from the first, and the claim that it makes no difference."""

    claim: str
    one: str
    both: str
    title: str
    """of the figures; "first" or "second" replaces the braces"""


WORLD = Difference("C6", "world", "worlds", "Replay on the {} world")
FAMILY = Difference("C5", "family", "families", "Replay in the {} family")


@dataclass(frozen=True)
class Generalisation:
    """The finished runs of the same configurations in the first and the second world or family."""

    second: Configurations
    first: Configurations
    """of the same edition's sweep"""
    differs: Difference = WORLD
    own: OwnRun | None = None
    """the second's runs, if they are a reader's own"""

    @cached_property
    def judged(self) -> Judgements:
        """The preregistered claims about a single target with the second's results (None if runs are missing)."""
        return self._judged(self.second)

    @cached_property
    def judged_first(self) -> Judgements:
        """The same claims with the first's results."""
        return self._judged(self.first)

    def _judged(self, made: Configurations) -> Judgements:
        rows = for_changes(made.rows)
        return [(claim, claims.judge(rows, claim)) for claim in claims_about(made, self.differs.claim)]


def claims_about(made: Configurations, name: str) -> list[Claim]:
    """The preregistered claims about one target (C3 compares two), for the target of these runs, as parts of `name`."""
    where = dict(zip(FIRST, (made.ordinary, made.eventful), strict=True))
    single = [claim for claim in claims.CLAIMS if claim.against is None]
    of_target = [replace(claim.configuration, target=made.ordinary) for claim in single]
    return [
        replace(claim, name=f"{name}, {claim.name}", configuration=configuration, domain=where[claim.domain])
        for claim, configuration in zip(single, of_target, strict=True)
    ]


def read(
    preset: str, replay_fractions: Sequence[float] = (), seeds: Sequence[int] = (), store: str | Path = ""
) -> Generalisation:
    """The finished runs of a preset beside those of the same edition's sweep; nothing is trained. Empty arguments mean the
    preset's own. The sweep's are the published ones, or, if these are not published, those in the same store.

    ValueError for an unknown preset, or an invalid fraction or seed.
    """
    home, wanted = store_of(preset, store), grid(preset, list(replay_fractions), list(seeds))
    presets = dict.fromkeys((run.run_id for run in wanted), preset)
    if without := PRESETS[preset].without_replay_in:
        more = grid(without, None, list(seeds))
        wanted, presets = [*more, *wanted], dict.fromkeys((run.run_id for run in more), without) | presets
    target = wanted[0].target.name
    of_first = EDITIONS[PRESETS[preset].measures].sweep[0]
    differs = FAMILY if PRESETS[preset].family != PRESETS[of_first].family else WORLD
    second, first = (differs.title.format(one) for one in ("second", "first"))
    fractions, kinds = sorted({run.replay.fraction for run in wanted}), {run.replay.name for run in wanted}
    beside = [run for run in grid(of_first, fractions) if run.replay.name in kinds]
    home_of_first = published_folder() if of_first in PUBLISHED else home
    made = Generalisation(
        configurations.configurations_of(
            preset, second, configurations.by_replay(wanted), home, target, f"{target}-eventful"
        ),
        configurations.configurations_of(of_first, first, configurations.by_replay(beside), home_of_first, *FIRST),
        differs,
    )
    runs = made.second.runs.assign(preset=made.second.runs["run"].map(presets))
    if not own_results.is_own(home, [preset], runs):
        return made
    what = own_results.sweep_in_words(PRESETS[preset].training.steps, made.second.done["replay_fraction"])
    return replace(made, own=OwnRun(
        "08_architectures" if differs is FAMILY else "07_second_world", runs, home, what,
        partial(_effects, made), f"-p preset {preset}", replay_fractions,
        find_shown=partial(_shown, made, home), shown_rule=SHOWN, shown_domain=made.second.eventful,
    ))  # fmt: skip


def _effects(made: Generalisation) -> list[Comparison]:
    """The effects of fine-tuning without replay, and of the largest fraction of near replay − replay 0 %, beside the
    published ones, if there are any: of the same preset, or else of the first world.
    """
    second, preset = made.second, made.second.preset
    published = made.first if made.first.preset in PUBLISHED else None
    if preset in PUBLISHED:
        named = configurations.by_replay(grid(preset))
        published = configurations.configurations_of(
            preset, second.title, named, published_folder(), second.ordinary, second.eventful
        )
    replayed = second.done[(second.done["replay"] == "near") & (second.done["replay_fraction"] < 1)]
    most = replayed.loc[replayed["replay_fraction"].idxmax(), "configuration"] if len(replayed) else ""
    beside = most if published is None or most in published.names else configurations.REFERENCE
    found = []
    for label in (configurations.FIDELITY, configurations.ORDINARY_DYNAMICS, DYNAMICS):
        measure, _ = configurations.MEASURES[label]
        known = None if published is None else published.change(NONE, label)
        found.append(Comparison(f"{label}: fine-tuning without replay", measure, second.change(NONE, label), known))
        if most:
            known = None if published is None else published.difference(beside, NONE, label)
            found.append(Comparison(f"{label}: {most} − {NONE}", measure, second.difference(most, NONE, label), known))
    return own_results.measured(found)


def _shown(made: Generalisation, home: Path) -> dict[str, RunSpec]:
    """The runs whose clips are shown (SHOWN)."""
    return sample_clips.main_runs(sample_clips.of_one_seed(home, ((name, run) for run, _, name in made.second.named)))


# ----------------------------------------------------------------------------------------------------- opening and table
def opening(made: Generalisation, store: str | Path = "") -> str:
    """Markdown for the top of the page: the result of each claim, the number of finished runs, cost and command; or the
    banner of a reader's own runs.
    """
    if made.own:
        return own_results.banner(made.own)
    second = made.second
    runs = second.runs.assign(target=second.ordinary)
    presets = [one for one in (PRESETS[second.preset].without_replay_in, second.preset) if one]
    again = " && ".join(f"python -m replaylab sweep --preset {one} --store FOLDER" for one in presets)
    return verdicts.opening(made.judged, [made.differs.claim], runs, again, presets, store)


def claims_table(made: Generalisation) -> Styler:
    """A row per claim: its change and the position of the interval, in the second and in the first."""
    lines, of = [], made.differs
    for (claim, second), (_, first) in zip(made.judged, made.judged_first, strict=True):
        line: dict[str, Any] = {"claim": claim.name.removeprefix(f"{of.claim}, "), "statement": claim.statement}
        kind = "eventful" if claim.domain == made.second.eventful else "ordinary"
        line["measure"] = f"{measure_of(claim.measure).name}, {kind}"
        for one, result in ((f"second {of.one}", second), (f"first {of.one}", first)):
            change = statistics.interval([]) if result is None else result.interval
            line[f"change, {one}"] = style.IntervalCell(change, measure_of(claim.measure).digits)
            line[one] = outcome_of_claim(result)
        line["seeds"] = " and ".join("–" if it is None else str(it.interval.n) for it in (second, first))
        lines.append(line)
    shown = [
        "statement",
        *(column for one in ("second", "first") for column in (f"change, {one} {of.one}", f"{one} {of.one}")),
    ]
    return style.styled(pd.DataFrame(lines), of.both, shown=shown).hide(axis="index")


def outcome_of_claim(result: Judged | None) -> str:
    """The position of a claim's interval, which is not a verdict: a value of READINGS, FEW or MISSING.

    CANNOT_TELL if the preregistered rule leaves the claim undecided whatever the interval (`Judged.why`).
    """
    if result is None:
        return MISSING
    if result.interval.n < SEEDS_FOR_AN_INTERVAL:
        return FEW
    if result.why:
        return CANNOT_TELL
    return READINGS[statistics.verdict(result.interval, result.claim.side, result.margin)]


# -------------------------------------------------------------------------------------------------------------- figures
def base_curves(made: Generalisation) -> Figure:
    """ADE of the second base over its pretraining, beside that of the first."""
    return base_models.learning_curve(*_curves(made))


def both_curves(made: Generalisation) -> pd.DataFrame:
    """The values of `base_curves`: ADE in px of both bases over pretraining, with a column `base`."""
    both = pd.concat(_curves(made), ignore_index=True)
    return both[both["measure"] == "ade_px"]


def bases_summary(made: Generalisation) -> str:
    """Markdown: ADE of both bases at the end of pretraining, between that of copying and that of the autoencoder."""
    second, first = _curves(made)
    lines, there = [], set(second["domain"]) & set(first["domain"])
    for domain in [one for one in BASES_SHOWN if one in there]:
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
    last = of_measure(curve[curve["model"] == model], "ade_px", domain).sort_values("step").iloc[-1]
    return number(float(last["value"]), measure_of("ade_px").digits), int(last["step"])


def _curves(made: Generalisation) -> list[pd.DataFrame]:
    presets = [PRESETS[preset] for preset in (made.second.preset, made.first.preset)]
    bases = [base_folder((of.bases or (0,))[0], of.family).name for of in presets]
    return [base_curve(base).assign(base=base) for base in bases]


def over_fractions(made: Generalisation) -> Figure:
    """Changes at the last step over the fraction of near and far replay, in the second and, dashed, in the first."""
    if made.second.effects.empty:
        return comparisons.nothing_yet(made.second)
    with figure_style():
        figure, panels = plt.subplots(3, 2, figsize=(WIDTH, 7.6), sharex=True)
        for axes, label in zip(panels.flat, PANELS, strict=True):
            axes.axhline(0, color=INK, lw=1.2, zorder=1)
            for kind, colour in COLOURS.items():
                first = changes(made.first, label, kind)
                axes.plot(100 * first["replay_fraction"], first["change"], "--", color=colour, lw=1, alpha=0.7, zorder=2)
                _line(axes, changes(made.second, label, kind), colour)
            axes.set_title(label, fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("replay fraction (%)")
        for axes in panels[:, 0]:
            axes.set_ylabel("change from the base")
        entries = [Line2D([], [], color=colour, marker="o", label=f"{kind} replay") for kind, colour in COLOURS.items()]
        entries += [Line2D([], [], color=VERMILION, marker="o", ls="", label=NONE),
                    Line2D([], [], color=GREY, ls="--", label=f"first {made.differs.one}")]  # fmt: skip
        title = f"Changes over the replay fraction, second {made.differs.one}"
        return style.finished(figure, title, made.second.runs, entries, fontsize=9)


def changes(made: Configurations, label: str, kind: str) -> pd.DataFrame:
    """A measure's change at the last step by replay_fraction, without replay and with replay of a kind."""
    names = made.runs[made.runs["replay"].isin(["", kind])][["configuration", "replay_fraction"]].drop_duplicates()
    here = made.effects[(made.effects["measure"] == label) & (made.effects["reading"] == LAST)]
    return names.merge(here, on="configuration").sort_values("replay_fraction")


def _line(axes: Axes, line: pd.DataFrame, colour: Any) -> None:
    x = 100 * line["replay_fraction"]
    axes.plot(x, line["change"], color=colour, lw=1.8, zorder=3)
    aside = 0.4 if colour == GREEN else -0.4  # both kinds may have the same value
    for at, one in zip(x, line.itertuples(), strict=True):
        place, own = (at + aside, colour) if at else (at, VERMILION)
        axes.plot([place, place], [one.low, one.high], color=own, lw=1.4, zorder=4)
        axes.plot(place, one.change, "o", color=own, ms=6, zorder=5)


def both_effects(made: Generalisation) -> pd.DataFrame:
    """The values of the figures: `Configurations.effects` of both, with a column `world` or `family`."""
    of = made.differs.one
    parts = [made.second.effects.assign(**{of: "second"}), made.first.effects.assign(**{of: "first"})]
    return pd.concat([one for one in parts if len(one)] or parts, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------ sentences
def summary(made: Generalisation) -> str:
    """Markdown: the claims on which both results agree, those left undecided, fidelity, and the second's configurations."""
    if made.second.done.empty:
        return f"Claim {made.differs.claim}: {MISSING}, {style.count_runs(made.second.runs)}."
    pairs = [
        (claim, outcome_of_claim(second), outcome_of_claim(first))
        for (claim, second), (_, first) in zip(made.judged, made.judged_first, strict=True)
    ]
    decided = (AS_CLAIMED, OTHER_WAY)
    groups = {
        "the same result": [claim for claim, a, b in pairs if a == b and a in decided],
        "opposite results": [claim for claim, a, b in pairs if a != b and a in decided and b in decided],
        "one or both cannot tell": [claim for claim, a, b in pairs if a not in decided or b not in decided],
    }
    each = [f"{words} in {len(of)} ({'; '.join(one.statement for one in of)})" for words, of in groups.items() if of]
    lines = [f"- **Both {made.differs.both}**, of {len(pairs)} questions: {'; '.join(each)}."]
    if left_open := [f"{claim.statement} ({result.why})" for claim, result in made.judged if result and result.why]:
        lines.append(f"- **Cannot tell, whatever the interval**: {'; '.join(left_open)}.")
    for which, one in (("second", made.second), ("first", made.first)):
        if (one.done["configuration"] == NONE).any():
            lines.append(f"- **Fidelity without replay, {which} {made.differs.one}**: {_fidelity(one)}.")
    return "\n".join([*lines, "", comparisons.summary(made.second)])


def _fidelity(made: Configurations) -> str:
    """The changes of fidelity on the target after fine-tuning without replay, with their outcomes."""
    changes = {label: made.change(NONE, label) for label in FIDELITIES}
    return "; ".join(
        f"{label} {comparisons.describe_with_outcome(change, label)}"
        for label, change in changes.items()
        if not np.isnan(change.estimate)
    )
