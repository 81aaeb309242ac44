"""The claims of the second edition of `book/preregistration.md`, and their verdicts from a sweep's rows.

Decision: the unit is the base, and every claim consists of contrasts that must all lie on its side of 0. A contrast is a
weighted sum of changes (after − before) of configurations, base by base and clip by clip. A margin that is a share of the
loss of plain fine-tuning, or of the way from the base to copy-last-frame, is therefore measured on the same bases and clips,
and its uncertainty is part of the interval. Accuracy is measured in three ways, and a claim holds, or does not hold, only if
all of them agree (an intersection-union test, which needs no correction); over the claims, p values are adjusted by Holm's
method. The presuppositions of a claim (a base with skill in motion; a detector that distinguishes real clips from a copied
frame; a loss that can be prevented, a gain that can be kept) are conditions: if one is not shown by its own interval, the
claim is undecided, with this reason.

Refused: two runs of one configuration from one base, and what `changes` refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from replaylab.analysis import changes, claims, statistics
from replaylab.analysis.changes import before_and_after, last_steps, of_measure
from replaylab.analysis.claims import Configuration
from replaylab.analysis.statistics import Interval, Side, Verdict
from replaylab.catalogue import LEAST_COPIED_TO_REAL, PSEUDO, domain_of, measure_of

BASES_NEEDED = 6
FALSE_CLAIMS = 0.05  # how often, at most, one claim in all is made that is not so
OF_THE_WAY = 0.1  # from the base to a copied last frame: the loss of accuracy that still counts as keeping
OF_THE_LOSS = 0.25  # of plain fine-tuning: the same
OF_THE_GAIN = 0.25  # of plain fine-tuning: by how much less visual quality may gain
READINGS = ("ade_px", "ade_matched_px", "ade_second_detector_px")
"""The co-primary measures of accuracy."""
LOOKS = ("effnet_kd",)
KNOWN_MOTION = {"copy-last-frame": "a copied last frame", "constant-velocity": "constant velocity"}
"""The reference baselines that a base must exceed for claims about accuracy."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of changes, and of the way from the base to copy-last-frame."""

    words: str
    changes: tuple[tuple[Configuration, float], ...]
    of_copying: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A claim that all contrasts of all measures lie on one side of 0."""

    name: str
    statement: str
    measures: tuple[str, ...]
    domain: str
    side: Side
    contrasts: tuple[Contrast, ...]
    presupposes: tuple[tuple[Contrast, Side], ...] = ()
    """of every measure, by its own 95 % interval"""

    @property
    def domains(self) -> tuple[str, ...]:
        """Where it is read."""
        return (self.domain,)

    @property
    def configurations(self) -> list[Configuration]:
        """What must be run for it."""
        every = (*self.contrasts, *(contrast for contrast, _ in self.presupposes))
        return list(dict.fromkeys(configuration for one in every for configuration, _ in one.changes))


@dataclass(frozen=True)
class AlignmentClaim:
    """Gains in fidelity and accuracy over a run's checkpoints go together more (ρ) in some targets than in others.

    Each target is paired with a domain whose kind of motion it does not contain; within a group the pairs are averaged.
    """

    name: str
    statement: str
    together: tuple[tuple[Configuration, str], ...]
    apart: tuple[tuple[Configuration, str], ...]
    measures: tuple[str, ...] = READINGS
    side: Side = "above"

    @property
    def domains(self) -> tuple[str, ...]:
        """Where it is read."""
        return tuple(dict.fromkeys(domain for _, domain in (*self.together, *self.apart)))

    @property
    def configurations(self) -> list[Configuration]:
        """What must be run for it."""
        return list(dict.fromkeys(configuration for configuration, _ in (*self.together, *self.apart)))


AnyClaim = Claim | AlignmentClaim


def _changes(words: str, configuration: Configuration) -> Contrast:
    return Contrast(words, ((configuration, 1.0),))


def _keeps_accuracy(name: str, statement: str, replay: Configuration, plain: Configuration, domain: str) -> Claim:
    loses = _changes("plain fine-tuning loses", plain)
    return Claim(
        name, statement, READINGS, domain, "below",
        (
            Contrast(f"loss − {100 * OF_THE_WAY:g} % of the way to copying", ((replay, 1.0),), -OF_THE_WAY),
            Contrast(f"loss − {100 * OF_THE_LOSS:g} % of plain fine-tuning's", ((replay, 1.0), (plain, -OF_THE_LOSS))),
        ),
        ((loses, "above"),),
    )  # fmt: skip


def _keeps_quality(name: str, statement: str, replay: Configuration, plain: Configuration, domain: str) -> Claim:
    gains = _changes("plain fine-tuning gains", plain)
    share = 1 - OF_THE_GAIN
    words = f"change − {100 * share:g} % of plain fine-tuning's"
    return Claim(
        name, statement, LOOKS, domain, "below", (Contrast(words, ((replay, 1.0), (plain, -share))),), ((gains, "below"),)
    )


PLAIN = Configuration()
NEAR, FAR = Configuration("near", 0.25), Configuration("far", 0.25)
FAMILIES = ("driving-family-a", "driving-family-b")
"""Targets of disjoint families of events, and tests of them."""
NEAR_WITHOUT = Configuration("near-without-a", 0.25)
"""Near replay of every family of events but the first."""
NATURAL = "natural"
"""The target that a published driver model moves."""
EVENTFUL, ORDINARY, REPEATED = "driving-eventful", "driving", "driving-repetitive"

CLAIMS: tuple[AnyClaim, ...] = (
    Claim("C1", "fidelity improves", LOOKS, ORDINARY, "below", (_changes("change", PLAIN),)),
    Claim("C2", "accuracy degrades on ordinary driving", READINGS, ORDINARY, "above", (_changes("change", PLAIN),)),
    Claim("C2, eventful", "accuracy degrades on eventful driving", READINGS, EVENTFUL, "above",
          (_changes("change", PLAIN),)),
    Claim("C2, natural", "accuracy degrades where events come as they come", READINGS, NATURAL, "above",
          (_changes("change", Configuration(target=NATURAL)),)),
    AlignmentClaim(
        "C3", "fidelity and accuracy go together more where driving is diverse, on clips unlike the target's",
        together=tuple((Configuration(target=one), other) for one, other in (FAMILIES, FAMILIES[::-1])),
        apart=tuple((Configuration(target=one), other) for one in (ORDINARY, REPEATED) for other in FAMILIES),
    ),
    _keeps_accuracy("C4, near", "near replay keeps accuracy", NEAR, PLAIN, EVENTFUL),
    _keeps_accuracy("C4, near, unseen", "near replay without the tested family of events keeps accuracy", NEAR_WITHOUT,
                    PLAIN, FAMILIES[0]),
    _keeps_accuracy("C4, far", "far replay keeps accuracy", FAR, PLAIN, EVENTFUL),
    _keeps_quality("C4, near, quality", "near replay keeps visual quality", NEAR, PLAIN, ORDINARY),
    _keeps_quality("C4, far, quality", "far replay keeps visual quality", FAR, PLAIN, ORDINARY),
)  # fmt: skip
"""The table of the preregistration, in its order."""


# -------------------------------------------------------------------------------------------------------------- judging
@dataclass(frozen=True)
class Part:
    """A contrast of one measure, with its result."""

    measure: str
    words: str
    interval: Interval
    p: float
    """two-sided, for 0"""
    of_bases: dict[str, float]
    clips: int


@dataclass(frozen=True)
class Judged:
    """A claim with what was found."""

    claim: AnyClaim
    parts: tuple[Part, ...]
    conditions: tuple[tuple[Part, Side], ...]
    p: float
    """of the claim or its opposite, whichever is nearer"""
    adjusted_p: float
    """Holm's, over all claims"""
    verdict: Verdict
    by_intervals: Verdict
    """the verdict if all that the claim presupposes were shown"""
    why: str
    """the reason of the verdict other than the intervals; empty if there is none"""

    @property
    def bases(self) -> int:
        """The number of bases on which the claim rests."""
        return min(part.interval.n for part in self.parts)


def judge_all(rows: pd.DataFrame, claims_: Sequence[AnyClaim] = CLAIMS) -> list[tuple[AnyClaim, Judged | None]]:
    """Every claim with its verdict from rows of runs and references (`store.COLUMNS`); None for fewer than two bases that
    have all of its runs.

    Claims with missing runs are included in Holm's adjustment, because they were planned.
    """
    found = [_found(rows, claim) for claim in claims_]
    adjusted = statistics.holm([1.0 if one is None else one.p for one in found])
    return [
        (claim, None if one is None else _with_verdict(one, float(p)))
        for claim, one, p in zip(claims_, found, adjusted, strict=True)
    ]


def judging_code() -> str:
    """Twelve hex digits of the SHA-256 of the modules that compute verdicts from rows, and of the constants they import."""
    whole = hashlib.sha256(repr((LEAST_COPIED_TO_REAL, PSEUDO)).encode())
    for module in (__file__, claims.__file__, changes.__file__, statistics.__file__):
        assert module is not None
        whole.update(Path(module).read_bytes())
    return whole.hexdigest()[:12]


def _found(rows: pd.DataFrame, claim: AnyClaim) -> Judged | None:
    """The claim without its verdict."""
    parts: list[Part] = []
    conditions: list[tuple[Part, Side]] = []
    for measure in claim.measures:
        if isinstance(claim, AlignmentClaim):
            tables = {"ρ of diverse − ρ of regular targets": _apart(rows, claim, measure)}
        else:
            tables = {one.words: contrast(rows, one, measure, claim.domain) for one in claim.contrasts}
            for one, side in claim.presupposes:
                table = contrast(rows, one, measure, claim.domain)
                if len(table) > 1:
                    conditions.append((_part(measure, one.words, table), side))
        if min(map(len, tables.values())) < 2:
            return None
        parts += [_part(measure, words, table) for words, table in tables.items()]
        if measure in READINGS:
            bases = next(iter(tables.values())).index.get_level_values("base")
            conditions += [(part, "below") for on in claim.domains for part in presupposed(rows, measure, on, bases)]
    return Judged(claim, tuple(parts), tuple(conditions), _p(parts, claim.side), 1.0, "undecided", "undecided", "")


def _with_verdict(found: Judged, adjusted_p: float) -> Judged:
    unmet = [part for part, side in found.conditions if statistics.side(part.interval) != side]
    why = "; ".join(f"it is not shown that {part.words} ({measure_of(part.measure).label})" for part in unmet)
    by_intervals: Verdict = "undecided"
    if found.bases < BASES_NEEDED:
        by_intervals = "exploratory"
    elif adjusted_p <= FALSE_CLAIMS:
        by_intervals = "holds" if _p_of_side(found.parts, found.claim.side) <= found.p else "does not hold"
    verdict = "undecided" if unmet and by_intervals != "exploratory" else by_intervals
    return replace(found, adjusted_p=adjusted_p, verdict=verdict, by_intervals=by_intervals, why=why)


def _p(parts: Sequence[Part], side: Side) -> float:
    """The p value of the claim, for which all parts must lie on its side; or of its opposite, for which one contrast must
    lie on the other side in every reading, with Bonferroni's correction over contrasts.
    """
    other: Side = "below" if side == "above" else "above"
    by_words: dict[str, list[Part]] = {}
    for part in parts:
        by_words.setdefault(part.words, []).append(part)
    against = min(_p_of_side(of, other) for of in by_words.values())
    return min(_p_of_side(parts, side), len(by_words) * against, 1.0)


def _p_of_side(parts: Iterable[Part], side: Side) -> float:
    """The p value for all parts lying on this side of 0: the largest."""
    on_it = {"above": 1.0, "below": -1.0}[side]
    return max(part.p if part.interval.estimate * on_it > 0 else 1.0 for part in parts)


def _part(measure: str, words: str, table: pd.DataFrame) -> Part:
    bases = table.index.get_level_values("base")
    _check_bases(bases, measure)
    values = table.to_numpy()
    values = values[:, 0] if values.shape[1] == 1 else values
    interval = statistics.t_interval(values) if values.ndim == 1 else statistics.seeds_and_scenes(values)
    of_bases = dict(zip(bases, table.mean(axis=1), strict=True))
    return Part(measure, words, interval, statistics.p_value(values), of_bases, table.shape[1])


def presupposed(rows: pd.DataFrame, measure: str, domain: str, bases: pd.Index | None = None) -> list[Part]:
    """What a claim about a reading of accuracy in a domain presupposes of its bases and of the detector: each lies below 0.

    bases: all in the rows by default.
    """
    every = pd.Index(rows.loc[rows["model"] == "base", "base"].unique()) if bases is None else bases
    of_bases = [_of_base(rows, measure, domain, model, every) for model in KNOWN_MOTION]
    return [*of_bases, _of_detector(rows, measure, domain)]


# ------------------------------------------------------------------------------------------------------------ contrasts
def contrast(rows: pd.DataFrame, of: Contrast, measure: str, domain: str) -> pd.DataFrame:
    """A contrast of a measure in a domain: one row per base and seed with all of its runs, one column per clip.

    For a measure of the whole set, the contribution of each clip. Clips without a value in any run are left out for all.
    """
    part = PSEUDO.get(measure, measure)
    here = of_measure(rows, part, domain)
    tables = [weight * _change(here, configuration, part, domain) for configuration, weight in of.changes]
    total = tables[0]
    for table in tables[1:]:
        both = total.index.intersection(table.index)
        total = total.loc[both] + table.loc[both]
    if of.of_copying and len(total):
        copied, before = _reference(here, "copy-last-frame", part, domain), _of_bases(here)
        way = copied - before.loc[total.index.get_level_values("base")].set_axis(total.index)
        total = total + of.of_copying * way
    return total.dropna(axis=1)


def _change(here: pd.DataFrame, configuration: Configuration, part: str, domain: str) -> pd.DataFrame:
    """After − before at the last step, by base and seed."""
    few = pd.concat([claims.runs_of(here, configuration), here[here["model"] == "base"]])
    before, after = before_and_after(few, part, domain)
    table = last_steps(after - before)
    return table.droplevel([name for name in table.index.names if name not in ("base", "seed")]).sort_index()


def _of_bases(here: pd.DataFrame) -> pd.DataFrame:
    return here[here["model"] == "base"].pivot(index="base", columns="scene", values="value")


def _reference(here: pd.DataFrame, model: str, part: str, domain: str) -> pd.Series[float]:
    found = here[here["model"] == model]
    if found.empty:
        raise ValueError(f"rows hold no {model} of {part} in {domain}: evaluate the references into the same store")
    if found["scene"].duplicated().any():
        raise ValueError(f"rows hold {model} of {part} in {domain} twice: give the rows of each reference once")
    return found.set_index("scene")["value"]


def _of_base(rows: pd.DataFrame, measure: str, domain: str, model: str, bases: pd.Index) -> Part:
    """The bases − a reference baseline without skill in motion."""
    here = of_measure(rows, measure, domain)
    ahead = (_of_bases(here).loc[bases.unique()] - _reference(here, model, measure, domain)).dropna(axis=1)
    return _part(measure, f"the bases are better than {KNOWN_MOTION[model]} on {domain_of(domain).label}", ahead)


def _of_detector(rows: pd.DataFrame, measure: str, domain: str) -> Part:
    """LEAST_COPIED_TO_REAL times the error of the detections in real frames − that of copy-last-frame."""
    here = of_measure(rows, measure, domain)
    copied, real = (_reference(here, model, measure, domain) for model in ("copy-last-frame", "real"))
    values = (LEAST_COPIED_TO_REAL * real - copied).dropna().to_numpy()
    times = f"at least {LEAST_COPIED_TO_REAL:g} times the error of real clips"
    words = f"a copied last frame has {times} on {domain_of(domain).label}"
    return Part(measure, words, statistics.t_interval(values), statistics.p_value(values), {}, len(values))


def _apart(rows: pd.DataFrame, claim: AlignmentClaim, measure: str) -> pd.DataFrame:
    """ρ in one group of targets − ρ in the other, by base, in one column."""
    means = []
    for group in (claim.together, claim.apart):
        each = []
        for configuration, domain in group:
            found = claims.alignments(
                _on_the_same_clips(rows, configuration, measure, domain), configuration, domain, measure, domain
            )
            if found.empty:
                return pd.DataFrame()
            each.append(found.droplevel("seed"))
            _check_bases(each[-1].index, measure)
        means.append(pd.concat(each, axis=1, join="inner").mean(axis=1, skipna=False))
    return (means[0] - means[1]).dropna().to_frame().rename_axis("base")


def _on_the_same_clips(rows: pd.DataFrame, configuration: Configuration, measure: str, domain: str) -> pd.DataFrame:
    """The rows, and of this measure in this domain only the clips with a value in every base and at every checkpoint."""
    is_it = (rows["measure"] == measure) & (rows["domain"] == domain)
    here = rows[is_it]
    few = pd.concat([claims.runs_of(here, configuration), here[here["model"] == "base"]])
    whole = few.pivot(index=["run", "step"], columns="scene", values="value").notna().all()
    return pd.concat([rows[~is_it], here[here["scene"].isin(whole.index[whole])]])


def _check_bases(bases: pd.Index, measure: str) -> None:
    if bases.has_duplicates:
        raise ValueError(
            f"{measure}: two runs of one configuration from the base {bases[bases.duplicated()][0]}; the unit is the base, "
            "so give one run of each"
        )
