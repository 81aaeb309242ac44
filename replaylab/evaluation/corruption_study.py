"""The study of the measures' responses to controlled corruptions: every measure of real clips corrupted in known ways.

Decision: each corrupted set is measured by `measurement.measure`, so a measure that is added there is included here. A
measure *responds* to a corruption if its change from the real clips is at least LEAST_EVIDENCE standard errors over clips.
For a measure of the whole set that error is known if the rows have its pseudo-values: the contribution of each clip, or of
each part of the clips.

Refused: writing into the published results unless a store is named. Reading imports neither torch nor panda3d.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import PSEUDO_SUFFIX, measure_of
from replaylab.description import Described, digest
from replaylab.evaluation.corruptions import KINDS, Corruption, corrupt, every_corruption, mean_velocities
from replaylab.shipped_weights import WEIGHTS, weights_digest
from replaylab.spec import EvaluationSpec, WorldSpec
from replaylab.store import check_store, checked_rows, provenance, store_of
from replaylab.store.packed import medium
from replaylab.util import cache
from replaylab.util.files import locked, write_atomically, write_json, write_sums, write_table, write_text
from replaylab.util.progress import report, track
from replaylab.util.text import duration, number
from replaylab.worlds.named import domain_spec

if TYPE_CHECKING:
    from replaylab.evaluation.evaluation_sets import ClipBoxes, EvaluationSet

ORDINARY, EVENTFUL = DOMAINS = ("driving", "driving-eventful")
SPLIT = "dev"
LEAST_EVIDENCE = 3.0
PARTS = 8  # of the clips, each left out once: the jackknife of a measure of all boxes together

PRESETS = {"published": (64, 64, 128), "quick": (24, 72, 112), "smoke": (8, 8, 16)}
"""For each domain: clips to corrupt, real clips of other scenes, and videos (shared with a sweep)."""


@dataclass(frozen=True)
class CorruptionStudySpec(Described):
    """The clips to corrupt, the corruptions, and the references of the comparison."""

    evaluation: EvaluationSpec
    damages: tuple[Corruption, ...]
    edition: int = 1  # of the corruptions: raised when the same names and grades would give other frames

    @property
    def run_id(self) -> str:
        """The name of the study's folder in a store."""
        return f"damage-{digest(self)}"


@dataclass(frozen=True)
class CorruptionStudy:
    """The measures of all corrupted clips, as stored in `folder`.

    `rows` has the columns of `measurement.measure`, and damage (the corruption), grade and unit.
    """

    preset: str
    folder: Path
    clips: int
    rows: pd.DataFrame

    def examples(self) -> dict[tuple[str, float], bytes]:
        """The last frame (PNG) of the first eventful clip under the strongest grade of each kind, by name and grade."""
        pictures = {one: medium(self.folder, f"examples/{one.key}.png") for one in every_corruption()}
        return {(one.name, one.grade): picture for one, picture in pictures.items() if picture}


def spec_of(preset: str) -> CorruptionStudySpec:
    """The study of a preset; raises ValueError that lists the presets."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    clips, reference_clips, videos = PRESETS[preset]
    worlds = tuple(domain_spec(name, videos=(0, videos, 0)) for name in DOMAINS)
    detector, video_network = (weights_digest(WEIGHTS / name) for name in ("detector", "videonet"))
    evaluation = EvaluationSpec(worlds, SPLIT, clips, reference_clips, detector=detector, video_network=video_network)
    return CorruptionStudySpec(evaluation, every_corruption())


def run(preset: str = "published", store: str | Path = "") -> CorruptionStudy:
    """Read a preset's measures from its store, or compute them (in the published store only if it is named).

    An interrupted study continues with the corruption at which it stopped. Raises ValueError for an unknown preset,
    FileNotFoundError if nothing is published, PermissionError for a store that cannot be written.
    """
    spec, home = spec_of(preset), store_of(preset, store)
    folder = home / spec.run_id
    if (folder / "summary.json").is_file():
        report(f"{folder} holds all {len(spec.damages)} corruptions: nothing to measure")
    elif preset == "published" and not str(store):
        raise FileNotFoundError(
            f"{folder}/summary.json is missing: these damages are not published there; name a store of your own to "
            "measure them"
        )
    else:
        check_store(home)
        with locked(folder):
            if not (folder / "summary.json").is_file():  # by the process that held the lock
                _make(spec, home, folder)
    again = f"move {folder} away and measure them again"
    rows = checked_rows(folder / "rows.parquet", again, columns=("value",), numbers=("value",)).astype({"value": float})
    return CorruptionStudy(preset, folder, spec.evaluation.clips, rows)


def _make(spec: CorruptionStudySpec, home: Path, folder: Path) -> None:
    """Writes a file for each corruption, then all rows, and `summary.json` last."""
    from replaylab.evaluation import evaluation_sets

    write_text(folder / "spec.json", json.dumps(spec.as_dict(), indent=1, sort_keys=True))
    parts = {one: folder / "parts" / f"{one.key}.parquet" for one in spec.damages}
    missing = [one for one, part in parts.items() if cache.kept_table(part) is None]
    report(
        f"{len(parts) - len(missing)} of {len(parts)} corruptions are in {folder}; measuring {len(missing)} on "
        f"{spec.evaluation.clips} clips of each of {len(spec.evaluation.domains)} domains"
    )
    prepared = evaluation_sets.prepare_sets(spec.evaluation, home)
    started = time.monotonic()
    for done, corruption in enumerate(track(missing, "damages", unit="damages"), start=1):
        rows = _measured(corruption, spec.evaluation, prepared, home, folder / "examples" / f"{corruption.key}.png")
        write_table(parts[corruption], rows, with_digest=True)
        if done == 1 and len(missing) > 1:
            seconds = (time.monotonic() - started) * (len(missing) - 1)
            report(f"Estimated: {duration(seconds)} for the other {len(missing) - 1}")
    measured = [checked_rows(part, "remove it, and it is measured again") for part in parts.values()]
    write_table(folder / "rows.parquet", pd.concat(measured, ignore_index=True))
    write_sums(folder, ["rows.parquet"])
    write_json(folder / "summary.json", {"clips": spec.evaluation.clips, "split": SPLIT, **provenance()})
    shutil.rmtree(folder / "parts")


def _measured(
    corruption: Corruption, evaluation: EvaluationSpec, prepared: list[EvaluationSet], home: Path, example: Path
) -> pd.DataFrame:
    """Rows of a corruption in all domains; also writes an example picture of the strongest grade of each kind."""
    from PIL import Image

    from replaylab.evaluation import measurement

    tables, cap = [], evaluation.miss_cap_px
    for evaluation_set, world in zip(prepared, evaluation.domains, strict=True):
        assert isinstance(world, WorldSpec)  # a folder's scenes cannot be rendered again
        if corruption.name == "constant-velocity":
            boxes = evaluation_set.extrapolated
            tables.append(measurement.measure_boxes(evaluation_set, boxes, cap))
        else:
            frames = corrupt(corruption, evaluation_set, world, mean_velocities(evaluation.domains[0], SPLIT, home))
            measured = measurement.measure(evaluation_set, frames, cap)
            boxes = measured.boxes
            tables.append(measured.rows)
            if evaluation_set.name == EVENTFUL and corruption.grade == KINDS[corruption.name].grades[-1]:
                write_atomically(example, lambda aside, one=frames[0, -1]: Image.fromarray(one).save(aside, "PNG"))
        if len(boxes):
            tables.append(_pseudo_values(evaluation_set, boxes, cap))
    about = {"damage": corruption.name, "grade": corruption.grade, "unit": KINDS[corruption.name].unit}
    return pd.concat(tables, ignore_index=True).assign(**about).astype({"value": np.float32, "n": np.int32})


def _pseudo_values(evaluation_set: EvaluationSet, boxes: ClipBoxes, miss_cap_px: float) -> pd.DataFrame:
    """The contribution of each of PARTS parts of the clips to the measures of all boxes together, such as a precision.

    Tukey's jackknife with K parts: K times the value of all clips, minus K - 1 times the value without the part.
    """
    from replaylab.evaluation import measurement

    errors = measurement.agent_errors(evaluation_set, boxes, miss_cap_px)

    def of_all(kept: NDArray[np.intp]) -> pd.Series[float]:
        values = measurement.pooled_measures(evaluation_set, boxes, errors, kept)
        return pd.Series({name: value for name, (value, _) in values.items()}, name="value", dtype=float)

    clips = np.arange(len(boxes))
    parts = np.array_split(clips, min(PARTS, len(clips)))
    whole = of_all(clips)
    tables = []
    for index, part in enumerate(parts):
        pseudo = len(parts) * whole - (len(parts) - 1) * of_all(np.delete(clips, part))
        named = pseudo.rename(lambda name: f"{name}{PSEUDO_SUFFIX}").rename_axis("measure").reset_index()
        tables.append(named.assign(video=f"part {index}", n=len(part)))
    return pd.concat(tables).assign(start=-1, scene="", domain=evaluation_set.name, split=evaluation_set.split)


def response(rows: pd.DataFrame) -> pd.DataFrame:
    """The response of each measure to each corruption: one row per domain, measure, damage (corruption) and grade.

    Columns: unit, value (mean over clips, or of the whole set), real (value on real clips), change (value − real, over
    clips with both), error (its standard error over clips), evidence (change / error; 0 if nothing changed), clips. Unknown
    values are NaN: a measure without a value on real clips, such as PSNR, has no change.
    """
    whole = rows["video"] == ""
    lines = ["domain", "measure", "damage", "grade", "unit"]
    of_clips = _changes(rows[~whole], lines)
    of_sets = _changes(rows[whole], lines).drop(columns=["error", "clips"])
    pseudo = of_clips[of_clips["measure"].str.endswith(PSEUDO_SUFFIX)]
    pseudo = pseudo.assign(measure=pseudo["measure"].str.removesuffix(PSEUDO_SUFFIX))
    of_sets = of_sets.merge(pseudo[[*lines, "error", "clips"]], on=lines, how="left")
    table = pd.concat([of_clips[~of_clips["measure"].str.endswith(PSEUDO_SUFFIX)], of_sets], ignore_index=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.where(table["change"] == 0, 0.0, table["change"] / table["error"])
    return table.assign(evidence=evidence)


def _changes(rows: pd.DataFrame, lines: list[str]) -> pd.DataFrame:
    """Changes from the real clips, paired by clip."""
    clip = ["domain", "measure", "video", "start"]
    real = rows.loc[rows["damage"] == "real", [*clip, "value"]].rename(columns={"value": "real"})
    both = rows[[*lines, "video", "start", "value"]].merge(real, on=clip, how="left")
    return both.assign(change=both["value"] - both["real"]).groupby(lines, as_index=False, sort=False).agg(
        value=("value", "mean"), real=("real", "mean"), change=("change", "mean"), error=("change", "sem"),
        clips=("change", "count"),
    )  # fmt: skip


@dataclass(frozen=True)
class BlurCeiling:
    """The detector's ADE and recall on real frames of a domain blurred to a sharpness: the bound at that sharpness."""

    ade_px: float
    recall: float
    beyond: str  # "" within what was measured; else which end is taken instead

    def __str__(self) -> str:
        """Such as "ADE 0.92 px, recall 0.97"."""
        note = f" ({self.beyond})" if self.beyond else ""
        ade, recall = number(self.ade_px, measure_of("ade_px").digits), number(self.recall, measure_of("recall").digits)
        return f"ADE {ade} px, recall {recall}{note}"


def blur_ceiling(rows: pd.DataFrame, sharpness_ratio: float, domain: str = EVENTFUL) -> BlurCeiling:
    """The ceiling at this sharpness, from the rows of `run`.

    Monotone and piecewise linear between the measured blurs. Outside their range it is that of the nearest end,
    which `beyond` states. ValueError for a sharpness that is not a positive number, or a domain without blurred frames.
    """
    if not (np.isfinite(sharpness_ratio) and sharpness_ratio > 0):
        raise ValueError(f"sharpness_ratio: {sharpness_ratio!r}, expected a number above 0, such as 0.8")
    at = blur_curve(rows, domain)[::-1]
    ratios = at["sharpness_ratio"].to_numpy()
    ade_px, recall = (float(np.interp(sharpness_ratio, ratios, at[name])) for name in ("ade_px", "recall"))
    beyond = ""
    if sharpness_ratio > ratios[-1]:
        beyond = "sharper than real; real frames stand for it"
    elif sharpness_ratio < ratios[0]:
        beyond = f"less sharp than a blur of {at.index[0]:g} px, which stands for it"
    return BlurCeiling(ade_px, recall, beyond)


def blur_curve(rows: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Mean sharpness_ratio, ade_px and recall by blur (px; 0 is real), made monotone: none improves with more blur.

    ValueError lists the domains with blurred frames.
    """
    names = ["sharpness_ratio", "ade_px", "recall"]
    some = rows[rows["damage"].isin(["real", "blur"]) & rows["measure"].isin(names)]
    at = some[some["domain"] == domain].pivot_table(index="grade", columns="measure", values="value")
    if len(at) < 2 or at.shape[1] < len(names):
        raise ValueError(f"domain {domain!r} has no blurred frames measured; there are {sorted(set(some['domain']))}")
    worst: dict[str, Callable[..., Any]] = {"ade_px": np.maximum, "sharpness_ratio": np.minimum, "recall": np.minimum}
    return at.assign(**{name: of.accumulate(at[name]) for name, of in worst.items()})[names]  # type: ignore[attr-defined]


def as_blur(responses: pd.DataFrame) -> pd.DataFrame:
    """The blur that changes a measure as much as each other corruption does: `response` with a column blur_px.

    The effect of blur is taken as monotone and linear between its grades, from 0 at no blur. The value is infinite if the
    strongest blur changes the measure less, and 0 if the corruption changes it in the opposite direction; measures that
    blur does not change, or changes in both directions, are left out.
    """
    tables = []
    for _, one in responses.groupby(["domain", "measure"], sort=False):
        blur = one[one["damage"] == "blur"].sort_values("grade")
        changes = blur["change"].to_numpy()
        if not len(changes) or not np.isfinite(changes).all() or changes[-1] == 0:
            continue
        up = np.sign(changes[-1])
        rise = np.maximum.accumulate(np.append(0.0, up * changes))
        if rise[-1] > up * changes[-1]:
            continue
        others = one[~one["damage"].isin(["blur", "real"])].dropna(subset=["change"])
        risen = up * others["change"].to_numpy()
        blur_px = np.interp(risen, rise, np.append(0.0, blur["grade"]), right=np.inf)
        blur_px[risen <= 0] = 0.0
        tables.append(others.assign(blur_px=blur_px))
    return pd.concat(tables, ignore_index=True) if tables else responses.iloc[:0].assign(blur_px=[])
