"""The tables of the preregistration: the second edition's bases, runs and claims, and its power and coverage.

Decision: power and coverage are computed from the first edition's published runs when the page is built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.analysis import design, second_edition
from replaylab.analysis.design import Endpoint
from replaylab.analysis.second_edition import CLAIMS, AlignmentClaim
from replaylab.analysis.statistics import Interval, describe
from replaylab.catalogue import LEAST_COPIED_TO_REAL, domain_of, measure_of
from replaylab.pages.second_edition import measures_of
from replaylab.pages.style import IntervalCell, styled
from replaylab.pages.verdicts import configuration_name, read_together
from replaylab.shipped_weights import base_folder, published_digest
from replaylab.sweeps.presets import CONFIRMATORY, SECOND_BASES, Preset, grid, is_offered
from replaylab.util import reading
from replaylab.util.text import number, percent

PRESETS = ("published", "dose")
CLIPS = CONFIRMATORY["confirmatory"].evaluation_clips
COVERED = ("ade_px", "effnet_kd")
"""The measures of the endpoints in the table of coverage."""
DIFFERENCES = {
    "copy-last-frame": "base − copying", "constant-velocity": "base − constant velocity",
    "real": f"{LEAST_COPIED_TO_REAL:g} × real − copying",
}  # fmt: skip
"""What must lie below 0, by what `presuppositions.table` has in the column `against`."""
CLAIM_COLUMNS = ["claim", "statement", "contrast", "measures", "holds if"]


def first_edition(presets: Sequence[str] = PRESETS) -> list[Endpoint]:
    """The second edition's endpoints, estimated from the first edition's published runs."""
    return design.endpoints(read_together(presets, measures=measures_of(design.STAND_INS.values())).rows)


def bases() -> Styler:
    """A row per base that the runs start from: its folder among the shipped weights, and their digest."""
    folders = [base_folder(seed) for seed in SECOND_BASES]
    digests = [published_digest(folder) if folder.is_dir() else "not trained yet" for folder in folders]
    table = pd.DataFrame({"base": [folder.name for folder in folders], "digest": digests})
    return styled(table, "second-edition-bases").hide(axis="index")


def runs(presets: Mapping[str, Preset] = CONFIRMATORY) -> Styler:
    """A row per preset: the targets, what is replayed, the runs, and the clips on which they are evaluated."""
    return styled(pd.DataFrame([_runs(preset) for preset in presets.values()]), "second-edition-runs").hide(axis="index")


def _runs(preset: Preset) -> dict[str, str]:
    shares = " / ".join(f"{100 * share:g}" for share in preset.replay_fractions if share)
    kinds = [f"{shares} % {', '.join(preset.replay_kinds)}"] if shares else []
    replay = [*kinds, percent(0)] if 0 in preset.replay_fractions else kinds
    futures = f", {preset.futures_at_the_end} futures" * bool(preset.futures_at_the_end)
    return {
        "preset": preset.name,
        "bases": ", ".join(map(str, preset.bases)) + f"; {len(preset.sixteenths)} lengths" * (len(preset.sixteenths) > 1),
        "targets": ", ".join(preset.targets),
        "replay": "; ".join(replay),
        "evaluated at steps": f"{_steps(preset)}: {', '.join(preset.evaluated)}",
        "after the last": f"{', '.join((*preset.evaluated, *preset.at_the_end))}; {preset.evaluation_clips} clips{futures}",
    }


def _steps(preset: Preset) -> str:
    """The steps at which runs are evaluated, and those with replay if they differ."""
    steps = ", ".join(map(str, preset.evaluate_at))
    is_another = preset.replayed_at and preset.replayed_at != preset.evaluate_at and any(preset.replay_fractions)
    return f"{steps} (with replay {', '.join(map(str, preset.replayed_at))})" if is_another else steps


def digest_of_runs(presets: Mapping[str, Preset] = CONFIRMATORY) -> str:
    """Twelve hex digits of the SHA-256 of the sorted names of these runs, each of which determines all of its numbers; empty
    if a base is missing.
    """
    if not all(map(is_offered, presets.values())):
        return ""
    names = sorted(spec.run_id for preset in presets for spec in grid(preset))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def claims() -> Styler:
    """A row per contrast of the claims: its runs, domain, measures, and the side of 0 on which it must lie."""
    return styled(pd.DataFrame(_lines_of_claims(), columns=CLAIM_COLUMNS), "second-edition-claims").hide(axis="index")


def _lines_of_claims() -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for claim in CLAIMS:
        head, tail = (claim.name, claim.statement), (_labels(claim.measures), f"{claim.side} 0")
        if isinstance(claim, AlignmentClaim):
            groups = [
                [f"{configuration_name(one)}, read on {domain_of(domain).label}" for one, domain in of]
                for of in (claim.together, claim.apart)
            ]
            lines.append((*head, " − ".join(f"mean ρ of ({'; '.join(words)})" for words in groups), *tail))
            continue
        for contrast in claim.contrasts:
            runs = " and ".join(
                f"{weight:+g}".replace("-", "−") + f" × {configuration_name(one)}" for one, weight in contrast.changes
            )
            lines.append((*head, f"{contrast.words}: {runs}, on {domain_of(claim.domain).label}", *tail))
        for condition, side in claim.presupposes:
            name = configuration_name(condition.changes[0][0])
            words = f"{condition.words}: {name}, on {domain_of(claim.domain).label}"
            lines.append((claim.name, "presupposes", words, tail[0], f"{side} 0"))
    return lines


def _labels(measures: Sequence[str]) -> str:
    return "; ".join(measure_of(name).label for name in measures)


def on_dev(file: str | Path = "presuppositions.csv") -> pd.DataFrame:
    """The table of `presuppositions.measure`. `file`: relative to the page."""
    return reading.csv(Path(file))


def presuppositions(table: pd.DataFrame) -> Styler:
    """A row per domain and reading of accuracy: the differences that must lie below 0, with their intervals."""
    lines = []
    for (domain, measure), of in table.groupby(["domain", "measure"], sort=False):
        line: dict[str, Any] = {"domain": domain_of(str(domain)).label, "measure": measure_of(str(measure)).label}
        for one in of.itertuples():
            interval = Interval(one.difference, one.low, one.high, one.bases)
            line[DIFFERENCES[one.against]] = IntervalCell(interval, measure_of(str(measure)).digits)
        lines.append(line)
    return styled(pd.DataFrame(lines), "presuppositions").hide(axis="index")


def expected_open(table: pd.DataFrame) -> str:
    """Markdown: the claims about accuracy that presuppose what these clips do not show."""
    unmet = table[table["high"] >= 0]
    lines = []
    for claim in CLAIMS:
        here = unmet[unmet["domain"].isin(claim.domains) & unmet["measure"].isin(claim.measures)]
        if len(here):
            lines.append(f"- **{claim.name}**, {claim.statement}:")
            for (domain, against), of in here.groupby(["domain", "against"], sort=False):
                each = "; ".join(map(_described, of.itertuples()))
                lines.append(f"  - {DIFFERENCES[str(against)]} on {domain_of(str(domain)).label}: {each}")
    clips, bases = table["clips"].max(), table["bases"].max()
    head = f"With {bases} bases and {clips} dev clips of each domain"
    if not lines:
        return f"{head}, everything is shown that the claims presuppose."
    return "\n".join([f"{head}, these differences are not shown to lie below 0:", "", *lines])


def _described(one: Any) -> str:
    """A difference with its interval, and the reading it is of."""
    interval = Interval(one.difference, one.low, one.high, one.bases)
    return f"{measure_of(one.measure).label} {describe(interval, measure_of(one.measure).digits)}"


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
        f"power of {share}, if its claim is the first of {len(CLAIMS)} in Holm's procedure. The others need: "
        f"{'; '.join(needed)}."
    )


def _numbers(table: pd.DataFrame, name: str, shown: Sequence[str] = ()) -> Styler:
    words = table.copy()
    for column in words.select_dtypes("float"):
        words[column] = [number(value) for value in words[column]]
    return styled(words, name, shown=shown).hide(axis="index")
