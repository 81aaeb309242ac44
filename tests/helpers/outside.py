"""The verdicts of both editions reckoned anew from rows alone, by pandas and scipy, with nothing of the library.

What is tested, and by which rule, is written down here a second time, from the text of `book/preregistration.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

Run = tuple[str, str, float]
"""Target, replay, replay fraction."""
Weights = Mapping[Run, float]
Rows = dict[tuple[str, str], pd.DataFrame]
"""By measure and domain."""
KD, ADE = "effnet_kd", "ade_px"
ACCURACY = (ADE, "ade_matched_px", "ade_second_detector_px")
ORDINARY, EVENTFUL, FAMILY_A, FAMILY_B = "driving", "driving-eventful", "driving-family-a", "driving-family-b"
PLAIN, NEAR, FAR = ("driving", "", 0.0), ("driving", "near", 0.25), ("driving", "far", 0.25)
WITHOUT_A, NATURAL = ("driving", "near-without-a", 0.25), ("natural", "", 0.0)


class Found(NamedTuple):
    """Of a claim; ends of the interval where it is of one number."""

    verdict: str
    p: float = np.nan
    low: float = np.nan
    high: float = np.nan


# ------------------------------------------------------------------------------------------------------ intervals and p
def variances(values: np.ndarray) -> list[tuple[int, float]]:
    """Degrees of freedom and variance of the mean, of each factor: runs (S,), or runs and scenes (S, N), crossed."""
    if values.ndim == 1:
        return [(len(values) - 1, values.var(ddof=1) / len(values))]
    runs, scenes = values.shape
    table = pd.DataFrame(values)
    rest = table.sub(table.mean(axis=1), axis=0).sub(table.mean(axis=0), axis=1) + table.to_numpy().mean()
    of_rest = (rest**2).to_numpy().sum() / ((runs - 1) * (scenes - 1)) / (runs * scenes)
    return [(runs - 1, table.mean(axis=1).var() / runs), (scenes - 1, max(table.mean(axis=0).var() / scenes - of_rest, 0))]


def half_width(values: np.ndarray, p: float = 0.05) -> float:
    """Of the interval of level 1 − p."""
    return _half_width(variances(values), p)


def _half_width(parts: list[tuple[int, float]], p: float) -> float:
    return float(np.sqrt(sum(special.stdtrit(freedom, 1 - p / 2) ** 2 * variance for freedom, variance in parts)))


def ends(values: np.ndarray) -> tuple[float, float]:
    return values.mean() - half_width(values), values.mean() + half_width(values)


def p_value(values: np.ndarray) -> float:
    """That at which the interval ends at 0; at least e to −25, or 0 where nothing varies."""
    parts, size = variances(values), abs(values.mean())
    if not any(variance for _, variance in parts):
        return float(size == 0)
    if _half_width(parts, np.exp(-25)) <= size:
        return float(np.exp(-25))
    return float(np.exp(optimize.brentq(lambda log_p: _half_width(parts, np.exp(log_p)) - size, -25, 0)))


# --------------------------------------------------------------------------------------------------------------- tables
def of_runs(rows: Rows, run: Run, measure: str, domain: str, steps: str = "last") -> pd.DataFrame:
    """A line for each base and seed (and step), a column a scene."""
    target, replay, fraction = run
    here = _here(rows, measure, domain)
    here = here[
        (here["model"] == "fine-tuned")
        & (here["target"] == target)
        & (here["replay"] == replay)
        & np.isclose(here["replay_fraction"], fraction)
    ]
    if steps == "last":
        here = here[here["step"] == here.groupby("run", observed=True)["step"].transform("max")]
    keys = ["base", "seed"] if steps == "last" else ["base", "seed", "step"]
    return here.pivot(index=keys, columns="scene", values="value")


def of_model(rows: Rows, model: str, measure: str, domain: str) -> pd.DataFrame:
    here = _here(rows, measure, domain)
    here = here[here["model"] == model].drop_duplicates(["base", "scene"])
    return here.pivot(index="base", columns="scene", values="value")


def _here(rows: Rows, measure: str, domain: str) -> pd.DataFrame:
    return rows.get((measure, domain), next(iter(rows.values())).iloc[:0])


def change(rows: Rows, run: Run, measure: str, domain: str) -> pd.DataFrame:
    """After − before by base and seed."""
    after, before = of_runs(rows, run, measure, domain), of_model(rows, "base", measure, domain)
    return after - before.loc[after.index.get_level_values("base"), after.columns].set_axis(after.index)


def rho(
    rows: Rows, run: Run, measure: str, accuracy_on: str, fidelity_on: str, same_clips: bool = False
) -> pd.Series[float]:  # fmt: skip
    """Spearman's ρ of both gains over a run's checkpoints, by base and seed; of clips that have a value everywhere, or of
    those that have one each time.
    """
    pair = []
    for name, domain in ((KD, fidelity_on), (measure, accuracy_on)):
        tables = of_runs(rows, run, name, domain, "all"), of_model(rows, "base", name, domain)
        if same_clips:
            values = pd.concat(tables)
            tables = tuple(table[values.columns[values.notna().all()]] for table in tables)
        after, before = (table.mean(axis=1) for table in tables)
        pair.append(before.loc[after.index.get_level_values("base")].to_numpy() - after)
    both = pd.concat(pair, axis=1).dropna()
    return both.groupby(level=["base", "seed"]).apply(lambda one: stats.spearmanr(one[0], one[1]).statistic)


# -------------------------------------------------------------------------------------------------------- first edition
def first_edition(table: pd.DataFrame) -> dict[str, Found]:
    """Claims by name; every interval is over seeds and scenes, but that of C3, over runs."""
    rows = dict(list(table.groupby(["measure", "domain"])))
    found = {"C1": _first(rows, PLAIN, KD, ORDINARY, 1), "C2": _first(rows, PLAIN, ADE, ORDINARY, -1),
             "C2, ours": _first(rows, PLAIN, ADE, EVENTFUL, -1)}  # fmt: skip
    regular, eventful = (rho(rows, (target, "", 0.0), ADE, EVENTFUL, ORDINARY) for target in (ORDINARY, EVENTFUL))
    paired = (eventful.droplevel("base") - regular.droplevel("base")).dropna().to_numpy()
    found["C3"] = _said(paired, -1, 0.0, "undecided" if _base_only_copies(rows, PLAIN, EVENTFUL) else "")
    for name, run in (("near", NEAR), ("far", FAR)):
        for what, measure, domain in (("accuracy", ADE, EVENTFUL), ("visual quality", KD, ORDINARY)):
            found[f"C4, {name}, {what}"] = _first(rows, run, measure, domain, 1, margin=True)
    return found


def _first(rows: Rows, run: Run, measure: str, domain: str, sign: int, margin: bool = False) -> Found:
    changes = change(rows, run, {KD: "effnet_kd_pseudo"}.get(measure, measure), domain).dropna(axis=1)
    of_bases, copied = _levels(rows, run, measure, domain)
    limit = 0.1 * abs(copied - of_bases) if margin else 0.0
    means = changes.mean(axis=1).groupby("base").mean()
    why = "undecided" if ((means > limit).nunique() > 1) or (measure == ADE and copied <= of_bases) else ""
    return _said(changes.to_numpy(), sign, limit, why)


def _levels(rows: Rows, run: Run, measure: str, domain: str) -> tuple[float, float]:
    """Of the runs' bases, and of a copied last frame."""
    bases = of_runs(rows, run, measure, domain).index.get_level_values("base")
    of_base, copied = (of_model(rows, model, measure, domain).mean(axis=1) for model in ("base", "copy-last-frame"))
    return float(of_base.loc[bases.unique()].mean()), float(copied.mean())


def _base_only_copies(rows: Rows, run: Run, domain: str) -> bool:
    of_bases, copied = _levels(rows, run, ADE, domain)
    return copied <= of_bases


def _said(values: np.ndarray, sign: int, limit: float, why: str) -> Found:
    """sign: 1 for a claim that lies below the limit, −1 above it."""
    low, high = ends(values)
    side = 1 if high < limit else -1 if low > limit else 0
    verdict = "exploratory" if len(values) < 5 else why or {sign: "holds", -sign: "does not hold", 0: "undecided"}[side]
    return Found(verdict, np.nan, low, high)


# ------------------------------------------------------------------------------------------------------- second edition
class Claim(NamedTuple):
    """Weighted sums of changes, with what is added of the way to copying; all lie on this side of 0 in all measures."""

    measures: Sequence[str]
    domain: str
    sign: int
    contrasts: Sequence[tuple[Weights, float]]
    presupposes: Sequence[tuple[Run, int]] = ()


def _keeps(run: Run, domain: str) -> Claim:
    return Claim(ACCURACY, domain, -1, [({run: 1.0}, -0.1), ({run: 1.0, PLAIN: -0.25}, 0.0)], [(PLAIN, 1)])


def _gains(run: Run) -> Claim:
    return Claim((KD,), ORDINARY, -1, [({run: 1.0, PLAIN: -0.75}, 0.0)], [(PLAIN, -1)])


CLAIMS = {
    "C1": Claim((KD,), ORDINARY, -1, [({PLAIN: 1.0}, 0.0)]),
    "C2": Claim(ACCURACY, ORDINARY, 1, [({PLAIN: 1.0}, 0.0)]),
    "C2, eventful": Claim(ACCURACY, EVENTFUL, 1, [({PLAIN: 1.0}, 0.0)]),
    "C2, natural": Claim(ACCURACY, "natural", 1, [({NATURAL: 1.0}, 0.0)]),
    "C3": None,
    "C4, near": _keeps(NEAR, EVENTFUL),
    "C4, near, unseen": _keeps(WITHOUT_A, FAMILY_A),
    "C4, far": _keeps(FAR, EVENTFUL),
    "C4, near, quality": _gains(NEAR),
    "C4, far, quality": _gains(FAR),
}
DIVERSE = [((FAMILY_A, "", 0.0), FAMILY_B), ((FAMILY_B, "", 0.0), FAMILY_A)]
REGULAR = [((target, "", 0.0), read_on) for target in (ORDINARY, "driving-repetitive") for read_on in (FAMILY_A, FAMILY_B)]


def second_edition(table: pd.DataFrame) -> dict[str, Found]:
    """Claims by name: missing, exploratory, undecided, holds, or does not hold, and p after Holm's adjustment."""
    texts = ["run", "base", "model", "target", "replay", "domain", "scene", "measure"]
    few = table[[*texts, "replay_fraction", "seed", "step", "value"]].astype(dict.fromkeys(texts, "category"))
    rows = dict(list(few.groupby(["measure", "domain"], observed=True)))
    every = {name: _of(rows, claim) for name, claim in CLAIMS.items()}
    order = sorted(every, key=lambda name: every[name][0])
    adjusted, so_far = {}, 0.0
    for place, name in enumerate(order):
        so_far = max(so_far, min(1.0, every[name][0] * (len(order) - place)))
        adjusted[name] = so_far
    found = {}
    for name, (_, bases, is_on_its_side, is_known) in every.items():
        verdict = "undecided"
        if bases < 2:
            verdict = "missing"
        elif bases < 6:
            verdict = "exploratory"
        elif is_known and adjusted[name] <= 0.05:
            verdict = "holds" if is_on_its_side else "does not hold"
        found[name] = Found(verdict, adjusted[name])
    return found


def _of(rows: Rows, claim: Claim | None) -> tuple[float, int, bool, bool]:
    """p, bases, whether p is the claim's own and not its opposite's, and whether what it presupposes is shown."""
    if claim is None:
        return _of_alignment(rows)
    by_contrast: list[list[np.ndarray]] = [[] for _ in claim.contrasts]
    is_known, bases = True, 99
    for measure in claim.measures:
        for kept, (weights, of_copying) in zip(by_contrast, claim.contrasts, strict=True):
            kept.append(_contrast(rows, weights, of_copying, measure, claim.domain))
            bases = min(bases, len(kept[-1]))
        for run, sign in claim.presupposes:
            low, high = ends(one) if len(one := _contrast(rows, {run: 1.0}, 0.0, measure, claim.domain)) > 1 else (0, 0)
            is_known &= low > 0 if sign > 0 else high < 0
        is_known &= measure == KD or _can_be_read(rows, measure, claim.domain)
    if bases < 2:
        return 1.0, bases, False, False
    p = [[_one_sided(one, claim.sign) for one in kept] for kept in by_contrast]
    opposite = [[_one_sided(one, -claim.sign) for one in kept] for kept in by_contrast]
    own, other = max(map(max, p)), min(1.0, len(p) * min(map(max, opposite)))
    return min(own, other), bases, own <= other, is_known


def _of_alignment(rows: Rows) -> tuple[float, int, bool, bool]:
    own, other, is_known, bases = 0.0, 0.0, True, 99
    for measure in ACCURACY:
        groups = [
            [
                rho(rows, run, measure, domain, domain, True)
                for run, domain in pairs
                if len(of_runs(rows, run, measure, domain))
            ]
            for pairs in (DIVERSE, REGULAR)
        ]
        if [len(group) for group in groups] != [2, 4]:
            return 1.0, 0, False, False
        diverse, regular = (pd.concat(group, axis=1).mean(axis=1, skipna=False) for group in groups)
        apart = (diverse - regular).dropna().to_numpy()
        own, other = max(own, _one_sided(apart, 1)), max(other, _one_sided(apart, -1))
        bases = min(bases, len(apart))
        is_known &= all(_can_be_read(rows, measure, domain) for domain in (FAMILY_A, FAMILY_B))
    return min(own, other), bases, own <= other, is_known


def _one_sided(values: np.ndarray, sign: int) -> float:
    return p_value(values) if values.mean() * sign > 0 else 1.0


def _contrast(rows: Rows, weights: Weights, of_copying: float, measure: str, domain: str) -> np.ndarray:
    part = {KD: "effnet_kd_pseudo"}.get(measure, measure)
    tables = [weight * change(rows, run, part, domain) for run, weight in weights.items()]
    both = tables[0].index
    for table in tables[1:]:
        both = both.intersection(table.index)
    total = sum((table.loc[both] for table in tables[1:]), tables[0].loc[both])
    if of_copying and len(total):
        before = of_model(rows, "base", part, domain).loc[both.get_level_values("base")].set_axis(both)
        total = total + of_copying * (of_model(rows, "copy-last-frame", part, domain).iloc[0] - before)
    return total.dropna(axis=1).to_numpy()


def _can_be_read(rows: Rows, measure: str, domain: str) -> bool:
    of_base = of_model(rows, "base", measure, domain)
    copied, constant, real = (
        of_model(rows, model, measure, domain).iloc[0] for model in ("copy-last-frame", "constant-velocity", "real")
    )
    differences = [(of_base - model).dropna(axis=1).to_numpy() for model in (copied, constant)]
    return all(ends(one)[1] < 0 for one in [*differences, (5 * real - copied).dropna().to_numpy()])
