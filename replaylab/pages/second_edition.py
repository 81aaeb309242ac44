"""The second edition as tables: its bases, runs, claims and verdicts, and its power and coverage.

Decision: power and coverage are computed from the first edition's published runs when the page is built. A verdict is shown
with all its intervals, and with the presuppositions that were not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.analysis import design, second_edition
from replaylab.analysis.design import Endpoint
from replaylab.analysis.second_edition import AnyClaim, Judged, Part
from replaylab.analysis.statistics import describe
from replaylab.catalogue import PSEUDO, measure_of
from replaylab.pages.style import GREY, IntervalCell, styled
from replaylab.pages.verdicts import COLOURS_OF_WORDS, MISSING, WORDS, read_together
from replaylab.shipped_weights import base_folder, weights_digest
from replaylab.sweeps.presets import CONFIRMATORY, SECOND_BASES, Preset
from replaylab.sweeps.sweep import Table
from replaylab.util.text import number

Judgements = Sequence[tuple[AnyClaim, Judged | None]]
PRESETS = ("published", "dose")
CLIPS = CONFIRMATORY["confirmatory"].evaluation_clips
COVERED = ("ade_px", "effnet_kd")
"""The measures of the endpoints in the table of coverage."""


def first_edition(presets: Sequence[str] = PRESETS) -> list[Endpoint]:
    """The second edition's endpoints, estimated from the first edition's published runs."""
    return design.endpoints(read_together(presets, measures=_measures(design.STAND_INS.values())).rows)


def read(store: str | Path = "") -> Table:
    """The second edition's runs in a store, with the rows that determine its verdicts; nothing is trained."""
    return read_together(tuple(CONFIRMATORY), store, _measures())


def _measures(others: Iterable[str] = ()) -> set[str]:
    named = {*second_edition.READINGS, *second_edition.LOOKS, *others}
    return named | {PSEUDO.get(measure, measure) for measure in named}


def bases() -> Styler:
    """A row per base that the runs start from: its folder among the shipped weights, and their digest."""
    folders = [base_folder(seed) for seed in SECOND_BASES]
    digests = [weights_digest(folder) if folder.is_dir() else "not trained yet" for folder in folders]
    table = pd.DataFrame({"base": [folder.name for folder in folders], "digest": digests})
    return styled(table, "second-edition-bases").hide(axis="index")


def runs(presets: Mapping[str, Preset] = CONFIRMATORY) -> Styler:
    """A row per preset: the targets, what is replayed, the runs, and the clips on which they are evaluated."""
    return styled(pd.DataFrame([_runs(preset) for preset in presets.values()]), "second-edition-runs").hide(axis="index")


def _runs(preset: Preset) -> dict[str, str]:
    shares = " / ".join(f"{100 * share:g}" for share in preset.replay_fractions if share)
    replay = ([f"{shares} % {', '.join(preset.replay_kinds)}"] if shares else []) + ["none"] * (0 in preset.replay_fractions)
    futures = f", {preset.futures_at_the_end} futures" * bool(preset.futures_at_the_end)
    return {
        "preset": preset.name,
        "bases": ", ".join(map(str, preset.bases)) + f"; {len(preset.sixteenths)} lengths" * (len(preset.sixteenths) > 1),
        "targets": ", ".join(preset.targets),
        "replay": "; ".join(replay),
        "evaluated at steps": f"{', '.join(map(str, preset.evaluate_at))}: {', '.join(preset.evaluated)}",
        "after the last": f"{', '.join((*preset.evaluated, *preset.at_the_end))}; {preset.evaluation_clips} clips{futures}",
    }


def claims() -> Styler:
    """The table of all contrasts of the claims, with the names of its measures as in all tables."""
    table = second_edition.claims_table()
    names = table["measures"].str.split(", ").map(lambda of: ", ".join(measure_of(name).label for name in of))
    return styled(table.assign(measures=names), "second-edition-claims").hide(axis="index")


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


def power(of: Sequence[Endpoint]) -> Styler:
    """The differences that six bases and CLIPS clips can detect, and whether that is sufficient: `design.power_table`."""
    enough = f"{second_edition.BASES_NEEDED} are enough"
    return _numbers(
        design.power_table(of, scenes=CLIPS), "power", ["claim", "contrast", "measure", "to tell", enough, "bases needed"]
    )


def coverage(of: Sequence[Endpoint], trials: int = 1000) -> Styler:
    """How often intervals contain the true value: `design.coverage_table`."""
    parts = {one.name: one.parts for one in of if one.measure in COVERED}
    return _numbers(design.coverage_table(parts, trials=trials), "coverage")


def in_words(of: Sequence[Endpoint]) -> str:
    """Markdown: the endpoints for which six bases and CLIPS clips are too few if their claim is tested first by Holm."""
    table = design.power_table(of, scenes=CLIPS)
    enough = f"{second_edition.BASES_NEEDED} are enough"
    short = table[table[enough] != "yes"]
    needed = [
        f"{line.claim} ({line.contrast}, {line.measure}): {line.needed or f'more than {design.MOST_BASES}'}"
        for line in short.rename(columns={"bases needed": "needed"}).itertuples()
    ]
    told, share = (table[enough] == "yes").sum(), f"{100 * design.POWER:g} %"
    return (
        f"{second_edition.BASES_NEEDED} bases and {CLIPS} clips detect {told} of {len(table)} contrasts, each alone, with a "
        f"power of {share}, if its claim is the first of {len(second_edition.CLAIMS)} in Holm's procedure. The others need: "
        f"{'; '.join(needed)}."
    )


def _numbers(table: pd.DataFrame, name: str, shown: Sequence[str] = ()) -> Styler:
    words = table.copy()
    for column in words.select_dtypes("float"):
        words[column] = [number(value) for value in words[column]]
    return styled(words, name, shown=shown).hide(axis="index")
