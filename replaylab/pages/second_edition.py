"""What the preregistration of the second edition rests on, as tables: its claims, what six bases can see, and coverage.

Decision: everything is reckoned from the first edition's published runs when the page is built, so no figure is typed.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.analysis import design, second_edition
from replaylab.analysis.design import Endpoint
from replaylab.catalogue import PSEUDO
from replaylab.pages.style import styled
from replaylab.sweeps import sweep
from replaylab.util.text import number

PRESETS = ("published", "dose")
MEASURES = {*design.STAND_INS.values(), *second_edition.READINGS, *second_edition.LOOKS}
COVERED = ("ade_px", "effnet_kd")
"""The measures whose endpoints are in the table of coverage."""


def first_edition(presets: Sequence[str] = PRESETS) -> list[Endpoint]:
    """The second edition's endpoints, as the first edition's published runs show them."""
    wanted = MEASURES | {PSEUDO.get(measure, measure) for measure in MEASURES}
    parts = [sweep.read(preset, measures=wanted).rows for preset in presets]
    rows = parts[0]
    for part in parts[1:]:
        rows = pd.concat([rows, part[~part["run"].isin(rows["run"].unique())]], ignore_index=True)
    return design.endpoints(rows)


def claims() -> Styler:
    """Every contrast that is judged."""
    return styled(second_edition.claims_table(), "second-edition-claims").hide(axis="index")


def power(of: Sequence[Endpoint]) -> Styler:
    """Which difference six bases tell, and whether that is enough: `design.power_table`."""
    return _numbers(design.power_table(of), "power")


def coverage(of: Sequence[Endpoint], trials: int = 1000) -> Styler:
    """How often intervals hold the truth: `design.coverage_table`."""
    parts = {one.name: one.parts for one in of if one.measure in COVERED}
    return _numbers(design.coverage_table(parts, trials=trials), "coverage")


def in_words(of: Sequence[Endpoint]) -> str:
    """Markdown: the endpoints that six bases do not tell if their claim is tested first of all."""
    table = design.power_table(of)
    enough = f"{second_edition.BASES_NEEDED} are enough"
    short = table[table[enough] != "yes"]
    needed = [
        f"{line.claim} ({line.contrast}, {line.measure}): {line.needed or f'more than {design.MOST_BASES}'}"
        for line in short.rename(columns={"bases needed": "needed"}).itertuples()
    ]
    told, share = (table[enough] == "yes").sum(), f"{100 * design.POWER:g} %"
    return (
        f"{second_edition.BASES_NEEDED} bases tell {told} of {len(table)} contrasts, each alone, in {share} of experiments, "
        f"if its claim is the first of {len(second_edition.CLAIMS)} that Holm's steps come to. The others need: "
        f"{'; '.join(needed)}."
    )


def _numbers(table: pd.DataFrame, name: str) -> Styler:
    words = table.copy()
    for column in words.select_dtypes("float"):
        words[column] = [number(value).replace("-", "−") for value in words[column]]
    return styled(words, name, wide=True).hide(axis="index")
