"""What the second edition's claims about accuracy presuppose of its bases and detectors, on clips of the dev split.

Decision: it is measured before the first run, as the confirmatory runs are measured, but on other clips: a claim that will
probably stay open is announced, not explained afterwards. Refused: fewer than two bases.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from replaylab.analysis import second_edition
from replaylab.analysis.second_edition import KNOWN_MOTION, READINGS
from replaylab.shipped_weights import base_folder, published_digest
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps.presets import CONFIRMATORY, SECOND_BASES, evaluation_of
from replaylab.worlds.named import domain_spec

DOMAINS = ("driving", "driving-eventful", "driving-family-a", "driving-family-b", "natural", "natural-eventful")
"""Where the claims are read, and the events of natural driving."""
AGAINST = (*KNOWN_MOTION, "real")
"""In the order of `second_edition.presupposed`."""


def specs(clips: int = 48) -> list[ReferenceSpec]:
    """The references of each of the bases, on this number of dev clips of DOMAINS."""
    domains = tuple(domain_spec(name, videos=(0, 128, 128)) for name in DOMAINS)
    evaluation = replace(
        evaluation_of(CONFIRMATORY["confirmatory"]), split="dev", domains=domains, at_the_end=(), clips=clips,
        reference_clips=128 - clips, kept_clips=3,
    )  # fmt: skip
    return [ReferenceSpec(published_digest(base_folder(seed)), evaluation) for seed in SECOND_BASES]


def measure(store: Path, clips: int = 48) -> pd.DataFrame:
    """`table` of the bases' references, which are measured in `store` if they are missing there: an hour on one core."""
    from replaylab.evaluation import evaluate

    wanted = specs(clips)
    for spec in wanted:
        evaluate.references(spec, store)
    rows = Store(store).rows([spec.run_id for spec in wanted], READINGS)
    is_first = rows["run"] == wanted[0].run_id
    return table(rows[is_first | (rows["model"] == "base")])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per domain, reading and AGAINST: domain, measure, against, difference, low, high, bases, clips.

    A claim presupposes that the interval of every difference lies below 0: base − copying, base − constant velocity, and
    LEAST_COPIED_TO_REAL times the detector's error on real clips − copying. rows: of references (`store.COLUMNS`), those
    without a base once.
    """
    lines = []
    for domain in DOMAINS:
        for reading in READINGS:
            parts = second_edition.presupposed(rows, reading, domain)
            for against, part in zip(AGAINST, parts, strict=True):
                interval = part.interval
                lines.append((domain, reading, against, interval.estimate, interval.low, interval.high, len(part.of_bases),
                              part.clips))  # fmt: skip
    return pd.DataFrame(lines, columns=["domain", "measure", "against", "difference", "low", "high", "bases", "clips"])
