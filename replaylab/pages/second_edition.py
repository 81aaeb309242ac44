"""The page of the second edition: the verdicts of its claims, beside those of the first edition.

The functions take a `SecondEdition`, made by `read`, or its judged claims, and return a matplotlib figure, a pandas Styler,
HTML or Markdown. Decision: a verdict is shown with all its intervals, with the presuppositions that were not shown, and with
every base; the effect on a card is that of the part of the claim with the least evidence, which determines the verdict.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis import second_edition
from replaylab.analysis.second_edition import READINGS, AnyClaim, Judged, Part
from replaylab.analysis.statistics import describe
from replaylab.catalogue import PSEUDO, domain_of, measure_of
from replaylab.pages import style
from replaylab.pages import verdicts as first
from replaylab.pages.cards import Card, in_a_grid
from replaylab.pages.style import GREY, INK, NOTE_CHARACTERS, SMALLEST_PT, WIDTH, IntervalCell, figure_style, styled
from replaylab.pages.verdicts import COLOURS, COLOURS_OF_WORDS, MISSING, WORDS
from replaylab.sweeps.presets import CONFIRMATORY
from replaylab.sweeps.sweep import Table
from replaylab.util.text import capital, counted, number

Judgements = Sequence[tuple[AnyClaim, Judged | None]]
PAGE = "09_second_edition"
MARKERS = dict(zip(READINGS, ("o", "s", "^"), strict=True))
"""Of the readings of accuracy; other measures have a circle."""
BEFORE = {"C3": "C3"}
"""Claims of which the first edition has one of the same name; the others have the same statement, or are new."""
CHANGED = {
    "C1": "six bases in place of two; other test clips",
    "C2": "three readings of accuracy must agree; bases must be better than constant velocity",
    "C2, eventful": "three readings of accuracy must agree; bases must be better than constant velocity",
    "C2, natural": "a target that a published driver model moves",
    "C3": "tested on kinds of events that the target does not contain",
    "C4, near": "also at most a quarter of the loss of plain fine-tuning",
    "C4, near, unseen": "the replayed clips lack the tested events",
    "C4, far": "also at most a quarter of the loss of plain fine-tuning",
    "C4, near, quality": "against the gain of plain fine-tuning, not against the base",
    "C4, far, quality": "against the gain of plain fine-tuning, not against the base",
}
"""What the second edition tests otherwise than the first, by claim."""


@dataclass(frozen=True)
class SecondEdition:
    """The runs of the second edition's claims, in their current state."""

    table: Table

    @cached_property
    def found(self) -> Judgements:
        """Every claim with its verdict; None if runs are missing."""
        return second_edition.judge_all(self.table.rows)

    @cached_property
    def before(self) -> first.Judgements:
        """The first edition's claims with their verdicts, from the published runs."""
        return first.judge_all(first.read_together().rows)


def read(store: str | Path = "") -> SecondEdition:
    """The second edition's runs in a store, with the rows that determine its verdicts; nothing is trained."""
    return SecondEdition(first.read_together(tuple(CONFIRMATORY), store, measures_of()))


def measures_of(others: Iterable[str] = ()) -> set[str]:
    """The measures that determine the second edition's verdicts, and `others`, with their pseudo-values."""
    named = {*second_edition.READINGS, *second_edition.LOOKS, *others}
    return named | {PSEUDO.get(measure, measure) for measure in named}


# -------------------------------------------------------------------------------------------------------------- opening
def opening(made: SecondEdition) -> str:
    """Markdown for the top of the page: the number of claims with each verdict, the finished runs, cost and command."""
    words = [MISSING if one is None else WORDS[one.verdict] for _, one in made.found]
    there = [word for word in (*WORDS.values(), MISSING) if word in words]
    counts = ", ".join(f"**{words.count(word)} {word}**" for word in there)
    done = int((made.table.runs["state"] == "done").sum())
    presets = " ".join(CONFIRMATORY)
    lines = [
        f"- **Of {counted(len(words), 'claim')}**: {counts}.",
        f"- **Runs**: {done} of {len(made.table.runs)} are complete (presets {', '.join(CONFIRMATORY)}; "
        f"*{made.table.split}* split).",
        f"- **Cost**: {first.cost_in_words(made.table.runs, made.table.store)}",
        f"- **Reproduce**: `for preset in {presets}; do python -m replaylab sweep --preset $preset --store FOLDER; done`",
    ]
    return "\n".join(lines)


def cards(made: SecondEdition) -> HTML:
    """A card per claim, with the effect of its part with the least evidence."""
    return in_a_grid(_card(claim, one) for claim, one in made.found)


def _card(claim: AnyClaim, one: Judged | None) -> Card:
    line = f"{capital(claim.statement)}."
    if one is None:
        return Card(claim.name, line, MISSING, "", PAGE)
    part = max(one.parts, key=lambda part: part.p)
    where = ", ".join([measure_of(part.measure).name, *(domain_of(name).label for name in claim.domains[:1])])
    return Card(claim.name, line, one.verdict, f"{where}: {part.words} {_described(part)}", PAGE)


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
    if isinstance(claim, second_edition.AlignmentClaim):
        return "difference in ρ"
    return f"change of {'ADE (px)' if one.parts[0].measure in READINGS else measure_of(one.parts[0].measure).name}"


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
    """A row per claim: its verdict, that of the same claim in the first edition, and what is tested otherwise."""
    of_first = {claim.statement: one for claim, one in made.before} | {claim.name: one for claim, one in made.before}
    lines = []
    for claim, one in made.found:
        earlier = of_first.get(BEFORE.get(claim.name, claim.statement))
        lines.append({
            "claim": claim.name, "statement": claim.statement, "first edition": WORDS[earlier.verdict] if earlier else "–",
            "second edition": MISSING if one is None else WORDS[one.verdict], "tested otherwise": CHANGED[claim.name],
        })  # fmt: skip
    styler = styled(pd.DataFrame(lines), "both-editions").hide(axis="index")
    return styler.map(_edge, subset=["first edition", "second edition"])


def _edge(verdict: str) -> str:
    return f"font-weight: bold; border-left: 5px solid {COLOURS_OF_WORDS.get(verdict, GREY)}"


def verdicts(found: Judgements) -> Styler:
    """A row per claim: its verdict, p before and after Holm's adjustment, every contrast in every reading, and the
    presuppositions that were not shown; in the file a row per contrast and reading. found: as from
    `second_edition.judge_all`.
    """
    shown = ["claim", "statement", "verdict", "p, Holm", "change", "not shown"]
    values = pd.DataFrame([row for one in found for row in _rows(*one)])
    table = pd.DataFrame([_line(*one) for one in found])
    styler = styled(table, "second-edition-verdicts", shown=shown, values=values).hide(axis="index")
    return styler.map(_edge, subset=["verdict"])


def _described(part: Part) -> str:
    return describe(part.interval, measure_of(part.measure).digits)


def _line(claim: AnyClaim, one: Judged | None) -> dict[str, str]:
    line = {"claim": claim.name, "statement": claim.statement, "verdict": MISSING, "p": "–", "p, Holm": "–", "bases": "–"}
    if one is None:
        return {**line, "change": "–", "not shown": "–"}
    changes = [f"{part.words}, {measure_of(part.measure).name}: {_described(part)}" for part in one.parts]
    numbers = {"p": number(one.p), "p, Holm": number(one.adjusted_p), "bases": str(one.bases)}
    return {**line, "verdict": WORDS[one.verdict], **numbers, "change": "; ".join(changes), "not shown": one.why or "–"}


def _rows(claim: AnyClaim, one: Judged | None) -> list[dict[str, Any]]:
    """The rows of the file of a claim."""
    head: dict[str, Any] = {"claim": claim.name, "statement": claim.statement, "verdict": MISSING}
    if one is None:
        return [head]
    head |= {"verdict": WORDS[one.verdict], "not shown": one.why, "p": one.p, "p, Holm": one.adjusted_p, "bases": one.bases}
    return [
        {**head, "contrast": part.words, "measure": part.measure, "change": IntervalCell(part.interval)}
        for part in one.parts
    ]


def rule(found: Judgements) -> str:
    """The rule of the verdicts, in words."""
    return (
        "A claim is supported if all of its contrasts lie on its side of 0 in all readings, and contradicted if one of them "
        f"lies on the other side in all readings, each with p at most {second_edition.FALSE_CLAIMS:g} after Holm's "
        f"adjustment over {len(found)} claims. Otherwise, or if something that it presupposes is not shown by its own "
        f"interval, it is inconclusive. With fewer than {second_edition.BASES_NEEDED} bases it is exploratory."
    )


def in_sentences(found: Judgements) -> str:
    """Markdown: the number of claims with a verdict, the rule, and each claim with its intervals."""
    decided = sum(one is not None and one.verdict in ("holds", "does not hold") for _, one in found)
    lines = [f"{decided} of {len(found)} claims are supported or contradicted. {rule(found)}"]
    for claim, one in found:
        if one is None:
            lines.append(f"- **{claim.name}** ({claim.statement}): {MISSING}.")
            continue
        each = "; ".join(f"{measure_of(part.measure).name} {_described(part)} ({part.words})" for part in one.parts)
        why = f" Inconclusive because {one.why}." if one.why and one.verdict == "undecided" else ""
        lines.append(
            f"- **{claim.name}** ({claim.statement}): **{WORDS[one.verdict]}**, p {number(one.adjusted_p)} by Holm, "
            f"{one.bases} bases. {each}.{why}"
        )
    return "\n".join([lines[0], "", *lines[1:]])
