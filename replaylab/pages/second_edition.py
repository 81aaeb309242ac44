"""The page of the second edition: the verdicts of its claims, beside those of the first edition.

The functions take a `SecondEdition`, made by `read`, or its judged claims, and return a matplotlib figure, a pandas Styler,
HTML or Markdown. Decision: a verdict is shown with all its intervals, with the presuppositions that were not shown, and with
every base; the effect on a card is that of the part with the least evidence for the verdict.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis import claims, second_edition
from replaylab.analysis.changes import FINE_TUNED
from replaylab.analysis.second_edition import READINGS, AlignmentClaim, AnyClaim, Judged, Part
from replaylab.analysis.statistics import describe
from replaylab.analysis.tables import for_changes
from replaylab.catalogue import LEAST_COPIED_TO_REAL, PSEUDO, domain_of, measure_of
from replaylab.pages import style
from replaylab.pages import verdicts as first
from replaylab.pages.cards import Card, in_a_grid
from replaylab.pages.style import GREY, INK, NOTE_CHARACTERS, SMALLEST_PT, WIDTH, IntervalCell, figure_style, styled
from replaylab.pages.verdicts import COLOURS, MISSING, TOO_FEW, WORDS
from replaylab.store import published_folder
from replaylab.sweeps.presets import CONFIRMATORY, newest_edition
from replaylab.sweeps.sweep import Table
from replaylab.util.text import capital, counted, number, percent

Judgements = Sequence[tuple[AnyClaim, Judged | None]]
PAGE = "09_second_edition"
MARKERS = dict(zip(READINGS, ("o", "s", "^"), strict=True))
"""Of the readings of accuracy; other measures have a circle."""
SAME_NAME = ("C3",)
"""Claims of which the first edition has one of the same name; the others have the same statement, or are new."""
_ACCURACY = (
    f"{len(READINGS)} readings must agree; bases must be shown to be better than copying and constant velocity, and copying "
    f"to have {LEAST_COPIED_TO_REAL:g} times the error of real clips"
)
_KEPT = (
    f"a second margin, {percent(second_edition.OF_THE_LOSS)} of what plain fine-tuning loses, which must be shown to lose; "
    f"{_ACCURACY}"
)
_QUALITY = (
    f"at least {percent(1 - second_edition.OF_THE_GAIN)} of plain fine-tuning's gain, which must be shown, in place of at "
    f"most {percent(claims.KEEPS)} of the way to copying"
)
DIFFERENCES = {
    "C1": f"{second_edition.BASES_NEEDED} bases in place of two; other test clips",
    "C2": _ACCURACY,
    "C2, eventful": _ACCURACY,
    "C2, natural": f"new: a target whose traffic a published driver model drives; {_ACCURACY}",
    "C3": "each target is tested on kinds of events that it does not contain, with fidelity read on the same clips; two "
    "targets of each kind",
    "C4, near": _KEPT,
    "C4, near, unseen": f"new: the replayed clips lack the tested events; {_KEPT}",
    "C4, far": _KEPT,
    "C4, near, quality": _QUALITY,
    "C4, far, quality": _QUALITY,
}
"""How the second edition's test of a claim differs from the first's, by claim."""


@dataclass(frozen=True)
class SecondEdition:
    """The runs of the second edition's claims, in their current state."""

    table: Table

    @cached_property
    def found(self) -> Judgements:
        """Every claim with its verdict; None for fewer than two bases that have all of its runs."""
        return second_edition.judge_all(for_changes(self.table.rows))

    @cached_property
    def before(self) -> first.Judgements:
        """The first edition's claims with their verdicts, from the published runs."""
        return first.judge_all(first.read_together().rows)

    def word(self, claim: AnyClaim, one: Judged | None) -> str:
        """The word for a claim's verdict; without one TOO_FEW, or MISSING if one of its configurations has no run."""
        if one is not None:
            return WORDS[one.verdict]
        tuned = self.table.rows[self.table.rows["model"] == FINE_TUNED]
        return TOO_FEW if all(len(configuration.select(tuned)) for configuration in claim.configurations) else MISSING


def read(store: str | Path = "") -> SecondEdition:
    """The second edition's runs in a store, with the rows that determine its verdicts; nothing is trained. What is published
    is read and judged once in a process.
    """
    return _read(store) if str(store) else _published(published_folder())


@cache
def _published(store: Path) -> SecondEdition:
    return _read(store)


def _read(store: str | Path) -> SecondEdition:
    return SecondEdition(first.read_together(tuple(CONFIRMATORY), store, measures_of()))


def measures_of(others: Iterable[str] = ()) -> set[str]:
    """The measures that determine the second edition's verdicts, and `others`, with their pseudo-values."""
    named = {*second_edition.READINGS, *second_edition.LOOKS, *others}
    return named | {PSEUDO.get(measure, measure) for measure in named}


# -------------------------------------------------------------------------------------------------------------- opening
def opening(made: SecondEdition) -> str:
    """Markdown for the top of the page: the number of claims with each verdict, the finished runs, cost and command."""
    words = [made.word(*one) for one in made.found]
    there = [word for word in (*WORDS.values(), TOO_FEW, MISSING) if word in words]
    counts = ", ".join(f"**{words.count(word)} {word}**" for word in there)
    command = f"for preset in {' '.join(CONFIRMATORY)}; do python -m replaylab sweep --preset $preset --store FOLDER; done"
    status = first.status_lines(made.table.runs, tuple(CONFIRMATORY), made.table.split, command, made.table.store)
    return "\n".join([f"- **Of {counted(len(words), 'claim')}**: {counts}.", *status])


def cards(made: SecondEdition) -> HTML:
    """`cards_of`, side by side."""
    return in_a_grid(cards_of(made))


def cards_of(made: SecondEdition) -> list[Card]:
    """A card per claim, with the effect of the part with the least evidence for its verdict."""
    return [_card(made, claim, one) for claim, one in made.found]


def _card(made: SecondEdition, claim: AnyClaim, one: Judged | None) -> Card:
    verdict = made.word(claim, one) if one is None else one.verdict
    return Card(claim.name, f"{capital(claim.statement)}.", verdict, _effect(claim, one), PAGE)


def _effect(claim: AnyClaim, one: Judged | None) -> str:
    """The effect in `shown_part`, in words; empty without a verdict."""
    if one is None:
        return ""
    part = shown_part(one)
    where = ", ".join([_measure(claim, part), *(domain_of(name).label for name in claim.domains)])
    return f"{where}. {capital(part.words)}: {_described(part)}{_but_for_conditions(one)}"


def _but_for_conditions(one: Judged) -> str:
    """What the intervals alone would give, if it is not the verdict."""
    return "" if one.by_intervals == one.verdict else f"; {WORDS[one.by_intervals]} but for what is presupposed"


def shown_part(one: Judged) -> Part:
    """The part with the least evidence for the verdict: for the claim, or, if it is contradicted, of the contrast with the
    most evidence against it.
    """
    is_against = one.verdict == "does not hold"
    sign = {"above": 1, "below": -1}[one.claim.side] * (-1 if is_against else 1)
    weakest: dict[str, tuple[float, Part]] = {}
    for part in one.parts:
        p = part.p if sign * part.interval.estimate > 0 else 2 - part.p  # beyond 1: on the other side
        if part.words not in weakest or p > weakest[part.words][0]:
            weakest[part.words] = p, part
    choose = min if is_against else max
    return choose(weakest.values(), key=lambda pair: pair[0])[1]


def beside(names: Sequence[str]) -> list[str]:
    """Sentences for the opening of a page that shows the first edition's runs: the second's verdicts of these claims ("C2"
    for all that begin so); none if it is not published.
    """
    if newest_edition() != "second":
        return []
    made = read()
    return [
        f"**{claim.name}** in the second edition, {claim.statement}: **{made.word(claim, one)}**. {_effect(claim, one)}"
        for claim, one in made.found
        if claim.name.split(",")[0] in names
    ]


# --------------------------------------------------------------------------------------------------- figure and tables
def forest(made: SecondEdition) -> Figure:
    """Every contrast of every claim with its intervals, a block per unit: ADE in three readings, EffNet-KD, and ρ. A claim
    is supported only if all of its intervals lie on its side of 0; short strokes are the bases.
    """
    shown = [(claim, one) for claim, one in made.found if one is not None]
    if not shown:
        return style.text_figure("No claim has enough runs yet.")
    blocks: dict[str, list[tuple[AnyClaim, Judged, str]]] = {}
    for claim, one in shown:
        for words in dict.fromkeys(part.words for part in one.parts):
            blocks.setdefault(_unit(claim, one), []).append((claim, one, words))
    blocks = dict(sorted(blocks.items(), key=lambda block: -len(block[1])))
    with figure_style():
        heights = [0.75 + 0.75 * len(block) for block in blocks.values()]
        figure, panels = plt.subplots(len(blocks), 1, figsize=(WIDTH, sum(heights)), squeeze=False, height_ratios=heights)
        for axes, (unit, block) in zip(panels[:, 0], blocks.items(), strict=True):
            _block(axes, unit, block)
        entries = [style.legend_entry(INK, measure_of(name).label, marker) for name, marker in MARKERS.items()]
        entries += [style.legend_entry(COLOURS[verdict], WORDS[verdict], "", "-") for verdict in COLOURS
                    if any(one.verdict == verdict for _, one in shown)]  # fmt: skip
        return style.finished(figure, "Verdicts of the second edition", entries=entries, columns=2)


def _unit(claim: AnyClaim, one: Judged) -> str:
    """The label of the axis on which a claim's intervals are shown."""
    if isinstance(claim, AlignmentClaim):
        return "difference in ρ"
    measure = one.parts[0].measure
    return f"change of {measure_of(READINGS[0] if measure in READINGS else measure).name}"


def _block(axes: Axes, unit: str, block: Sequence[tuple[AnyClaim, Judged, str]]) -> None:
    axes.axvline(0, color=GREY, lw=0.8)
    for place, (claim, one, words) in enumerate(block):
        parts = [part for part in one.parts if part.words == words]
        for shift, part in zip(_shifts(len(parts)), parts, strict=True):
            y, colour = place + 0.1 + shift, COLOURS[one.verdict]
            axes.plot([part.interval.low, part.interval.high], [y, y], color=colour, lw=2)
            axes.plot(part.interval.estimate, y, MARKERS.get(part.measure, "o"), color=colour, ms=5)
            axes.plot(list(part.of_bases.values()), [y] * len(part.of_bases), "|", color=INK, ms=4, mew=0.8)
        several = len({part.words for part in one.parts}) > 1
        text = f"{claim.name}: {words if several else claim.statement} – {WORDS[one.verdict]}"
        label = axes.annotate(textwrap.fill(text, NOTE_CHARACTERS), (0.0, place - 0.2), (0, 0), fontsize=SMALLEST_PT,
                              xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
        label.set_in_layout(False)  # otherwise the panel becomes as narrow as the text is wide
    axes.set(ylim=(len(block) - 0.55, -0.75), yticks=[], xlabel=unit)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def _shifts(count: int) -> list[float]:
    """The vertical places of intervals within a row."""
    return [0.15 * (one - (count - 1) / 2) for one in range(count)]


def both_editions(made: SecondEdition) -> Styler:
    """A row per claim: its verdict, that of the same claim in the first edition, and how the tests differ."""
    of_first = {claim.name if claim.name in SAME_NAME else claim.statement: one for claim, one in made.before}
    lines = []
    for claim, one in made.found:
        earlier = of_first.get(claim.name if claim.name in SAME_NAME else claim.statement)
        lines.append({
            "claim": claim.name, "statement": claim.statement, "first edition": WORDS[earlier.verdict] if earlier else "–",
            "second edition": made.word(claim, one), "difference": DIFFERENCES[claim.name],
        })  # fmt: skip
    styler = styled(pd.DataFrame(lines), "both-editions").hide(axis="index")
    return styler.map(first.edge, subset=["first edition", "second edition"])


def verdicts(made: SecondEdition) -> Styler:
    """A row per claim: its verdict, p before and after Holm's adjustment, every contrast in every reading, and the
    presuppositions that were not shown; in the file a row per contrast and reading.
    """
    shown = ["claim", "statement", "verdict", "p, Holm", "change", "not shown"]
    values = pd.DataFrame([row for one in made.found for row in _rows(made, *one)])
    table = pd.DataFrame([_line(made, *one) for one in made.found])
    styler = styled(table, "second-edition-verdicts", shown=shown, values=values).hide(axis="index")
    return styler.map(first.edge, subset=["verdict"])


def _measure(claim: AnyClaim, part: Part) -> str:
    entry = measure_of(part.measure)
    return f"ρ with {entry.label}" if isinstance(claim, AlignmentClaim) else entry.name


def _described(part: Part) -> str:
    return describe(part.interval, measure_of(part.measure).digits)


def _line(made: SecondEdition, claim: AnyClaim, one: Judged | None) -> dict[str, str]:
    line = {"claim": claim.name, "statement": claim.statement, "verdict": made.word(claim, one)}
    if one is None:
        return line | dict.fromkeys(("p", "p, Holm", "bases", "change", "not shown"), "–")
    changes = [f"{part.words}, {_measure(claim, part)}: {_described(part)}" for part in one.parts]
    numbers = {"p": number(one.p), "p, Holm": number(one.adjusted_p), "bases": str(one.bases)}
    return {**line, **numbers, "change": "; ".join(changes), "not shown": one.why or "–"}


def _rows(made: SecondEdition, claim: AnyClaim, one: Judged | None) -> list[dict[str, Any]]:
    """The rows of the file of a claim."""
    head: dict[str, Any] = {"claim": claim.name, "statement": claim.statement, "verdict": made.word(claim, one)}
    if one is None:
        return [head]
    head |= {
        "by intervals alone": WORDS[one.by_intervals],
        "not shown": one.why,
        "p": one.p,
        "p, Holm": one.adjusted_p,
        "bases": one.bases,
    }
    return [
        {**head, "contrast": part.words, "measure": part.measure, "change": IntervalCell(part.interval)}
        for part in one.parts
    ]


def rule(claims_: int) -> str:
    """The rule of the verdicts, in words."""
    return (
        f"With fewer than {second_edition.BASES_NEEDED} bases a claim is exploratory. It is inconclusive if something that "
        "it presupposes is not shown by its own 95 % interval. Its p value is the largest over its contrasts and measures, "
        "if all lie on its side of 0; or that of the opposite, for which one contrast must lie on the other side in every "
        "measure (the largest over measures, times the number of contrasts); the smaller of the two counts. A claim is "
        f"supported, or contradicted, if this p is at most {second_edition.FALSE_CLAIMS:g} after Holm's adjustment over "
        f"{claims_} claims, and inconclusive otherwise."
    )


def in_sentences(made: SecondEdition) -> str:
    """Markdown: the number of claims with a verdict, the rule, and each claim with its intervals."""
    found = made.found
    decided = sum(one is not None and one.verdict in ("holds", "does not hold") for _, one in found)
    lines = [f"{decided} of {len(found)} claims are supported or contradicted. {rule(len(found))}"]
    for claim, one in found:
        head = f"- **{claim.name}** ({claim.statement}): "
        if one is None:
            lines.append(f"{head}{made.word(claim, one)}.")
            continue
        each = "; ".join(f"{_measure(claim, part)} {_described(part)} ({part.words})" for part in one.parts)
        why = f" Inconclusive: {one.why}{_but_for_conditions(one)}." if one.why and one.verdict == "undecided" else ""
        numbers = f"p {number(one.adjusted_p)} by Holm, {one.bases} bases"
        lines.append(f"{head}**{WORDS[one.verdict]}**, {numbers}. {each}.{why}")
    return "\n".join([lines[0], "", *lines[1:]])
