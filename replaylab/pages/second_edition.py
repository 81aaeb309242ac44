"""The verdicts of the second edition as a table and sentences.

Decision: a verdict is shown with all its intervals, and with the presuppositions that were not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.analysis import second_edition
from replaylab.analysis.second_edition import AnyClaim, Judged, Part
from replaylab.analysis.statistics import describe
from replaylab.catalogue import PSEUDO, measure_of
from replaylab.pages.style import GREY, IntervalCell, styled
from replaylab.pages.verdicts import COLOURS_OF_WORDS, MISSING, WORDS, read_together
from replaylab.sweeps.presets import CONFIRMATORY
from replaylab.sweeps.sweep import Table
from replaylab.util.text import number

Judgements = Sequence[tuple[AnyClaim, Judged | None]]


def read(store: str | Path = "") -> Table:
    """The second edition's runs in a store, with the rows that determine its verdicts; nothing is trained."""
    return read_together(tuple(CONFIRMATORY), store, measures_of())


def measures_of(others: Iterable[str] = ()) -> set[str]:
    """The measures that determine the second edition's verdicts, and `others`, with their pseudo-values."""
    named = {*second_edition.READINGS, *second_edition.LOOKS, *others}
    return named | {PSEUDO.get(measure, measure) for measure in named}


def verdicts(found: Judgements) -> Styler:
    """A row per claim: its verdict, p before and after Holm's adjustment, every contrast in every reading, and the
    presuppositions that were not shown; in the file a row per contrast and reading. found: as from
    `second_edition.judge_all`.
    """
    shown = ["claim", "statement", "verdict", "p, Holm", "change", "not shown"]
    values = pd.DataFrame([row for one in found for row in _rows(*one)])
    table = pd.DataFrame([_line(*one) for one in found])
    styler = styled(table, "second-edition-verdicts", shown=shown, values=values).hide(axis="index")
    return styler.map(
        lambda verdict: f"font-weight: bold; border-left: 5px solid {COLOURS_OF_WORDS.get(verdict, GREY)}",
        subset=["verdict"],
    )


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


def in_sentences(found: Judgements) -> str:
    """Markdown: the number of claims with a verdict, and each claim with its intervals and its rule."""
    decided = sum(one is not None and one.verdict in ("holds", "does not hold") for _, one in found)
    lines = [f"{decided} of {len(found)} claims are supported or contradicted."]
    for claim, one in found:
        if one is None:
            lines.append(f"- **{claim.name}** ({claim.statement}): {MISSING}.")
            continue
        each = "; ".join(f"{measure_of(part.measure).name} {_described(part)} ({part.words})" for part in one.parts)
        why = f" Inconclusive because {one.why}." if one.why and one.verdict == "undecided" else ""
        lines.append(
            f"- **{claim.name}** ({claim.statement}): **{WORDS[one.verdict]}**, p {number(one.adjusted_p)} by Holm, "
            f"{one.bases} bases. {each}.{why} {second_edition.rule(claim, [claim for claim, _ in found])}"
        )
    return "\n".join([lines[0], "", *lines[1:]])
