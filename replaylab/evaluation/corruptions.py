"""Which measure sees what? Real clips, damaged in known ways and degrees, go through every measure there is.

Only the five future frames are damaged, and the truth stays what it was, so whatever a measure says is the damage's
doing. Decision: agents and time are damaged in the scene, which is rendered again with other poses and goes through the
same codec. Look, road and light stay as they are, to the bit: the control, rendered again without damage, is the real
clip. Each damaged set goes through `measures.measure`, so a measure that is added there is on the page.

A measure *sees* a damage where the change from the undamaged clips is SEEN times its standard error over clips, or more.
Of a measure of the whole set that error is known where the rows hold what each clip, or each part of the clips, adds to
it: its pseudo-values, as the measure's name with PSEUDO_SUFFIX behind.

Refused: writing into the published results unless a store is named. Reading imports neither torch nor panda3d.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES, PSEUDO_SUFFIX
from replaylab.metrics.trajectories import CELLS, cells
from replaylab.spec import WEIGHTS, Described, EvaluationSpec, WorldSpec, digest, generator, weights_digest
from replaylab.store import check_store, provenance, store_of
from replaylab.util.files import locked, write_atomically
from replaylab.util.progress import report, track
from replaylab.util.text import duration
from replaylab.worlds.named import domain_spec

if TYPE_CHECKING:
    from replaylab.evaluation.evaluation_sets import EvaluationSet
    from replaylab.worlds.renderer import Scene

Floats = NDArray[np.floating[Any]]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """One way to damage a clip, in several degrees."""

    group: str  # one of GROUPS
    unit: str  # of the grades; "" where there is but one
    grades: tuple[float, ...]


REFERENCES, PICTURES, TIME, AGENTS = GROUPS = ("references", "pictures", "time", "agents")
KINDS = {
    "real": Kind(REFERENCES, "", (0,)),
    "re-rendered": Kind(REFERENCES, "", (0,)),  # the control
    "autoencoder": Kind(REFERENCES, "", (0,)),
    "copy-last-frame": Kind(REFERENCES, "", (0,)),
    # boxes without pictures: those found in the context, carried on
    "constant-velocity": Kind(REFERENCES, "", (0,)),
    "blur": Kind(PICTURES, "px", (0.35, 0.5, 0.7, 1, 1.4, 2)),
    "noise": Kind(PICTURES, "grey levels", (4, 8, 16)),
    "colour": Kind(PICTURES, "%", (5, 10, 20)),
    "slowed": Kind(TIME, "%", (25, 50)),
    "shuffled": Kind(TIME, "", (1,)),
    "moved": Kind(AGENTS, "px", (1, 2, 4)),
    "removed": Kind(AGENTS, "", (1,)),
    "pulled": Kind(AGENTS, "%", (25, 50, 100)),
}


@dataclass(frozen=True)
class Size:
    """How much of each domain: clips to damage, and real clips of other scenes that distances are taken to."""

    clips: int
    reference_clips: int
    videos: int  # of the dev split: as many as the sweep that shares them has


PRESETS = {"published": Size(64, 64, 128), "quick": Size(24, 72, 112), "smoke": Size(8, 8, 16)}
ORDINARY, EVENTFUL = DOMAINS = ("driving", "driving-eventful")
SPLIT = "dev"
SEEN = 3.0
PARTS = 8  # that clips are left out in, to learn the error of a measure of all boxes together
AWAY_M = 50.0  # behind the camera: where a removed agent goes


@dataclass(frozen=True)
class Damage(Described):
    """A kind of damage in one degree."""

    name: str
    grade: float

    @property
    def key(self) -> str:
        """Its name in folders: `blur-2`."""
        return f"{self.name}-{self.grade:g}"


def every_damage() -> tuple[Damage, ...]:
    """All KINDS in all their grades."""
    return tuple(Damage(name, float(grade)) for name, kind in KINDS.items() for grade in kind.grades)


@dataclass(frozen=True)
class DamageSpec(Described):
    """Which clips are damaged, how, and what they are compared with."""

    evaluation: EvaluationSpec
    damages: tuple[Damage, ...]
    edition: int = 1  # of the damages: raised when the same names and grades would give other frames

    @property
    def run_id(self) -> str:
        """The name of its folder in a store."""
        return f"damage-{digest(self)}"


@dataclass(frozen=True)
class Damaged:
    """The measures of all damaged clips, as they stand in `folder`.

    `rows` has the columns of `measures.measure`, and damage, grade and unit.
    """

    preset: str
    folder: Path
    clips: int
    rows: pd.DataFrame

    def examples(self) -> dict[tuple[str, float], bytes]:
        """The last frame (PNG) of the first eventful clip under the strongest of each kind, by name and grade."""
        files = {damage: self.folder / "examples" / f"{damage.key}.png" for damage in every_damage()}
        return {(one.name, one.grade): file.read_bytes() for one, file in files.items() if file.is_file()}


# --------------------------------------------------------------------------------------------------------------- store
def spec_of(preset: str) -> DamageSpec:
    """What a preset damages; raises ValueError that lists the presets."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    size = PRESETS[preset]
    worlds = tuple(domain_spec(name, videos=(0, size.videos, 0)) for name in DOMAINS)
    evaluation = EvaluationSpec(
        worlds, SPLIT, size.clips, size.reference_clips, detector=weights_digest(WEIGHTS / "detector"),
        video_network=weights_digest(WEIGHTS / "videonet"),
    )  # fmt: skip
    return DamageSpec(evaluation, every_damage())


def run(preset: str = "published", store: str | Path = "") -> Damaged:
    """Read a preset's measures from its store, or make them (never in the published store, unless it is named).

    What was stopped goes on with the damage it was at. Raises ValueError for an unknown preset, FileNotFoundError where
    nothing is published, PermissionError for a store that cannot be written.
    """
    spec, home = spec_of(preset), store_of(preset, store)
    folder = home / spec.run_id
    if (folder / "summary.json").is_file():
        report(f"{folder} holds all {len(spec.damages)} damages: measured nothing")
    elif preset == "published" and not str(store):
        raise FileNotFoundError(
            f"{folder}/summary.json is missing: these damages are not published there; name a store of your own to "
            "measure them"
        )
    else:
        check_store(home)
        with locked(folder):
            if not (folder / "summary.json").is_file():  # by the one that was waited for
                _make(spec, home, folder)
    rows = pd.read_parquet(folder / "rows.parquet").astype({"value": float})
    return Damaged(preset, folder, spec.evaluation.clips, rows)


def _make(spec: DamageSpec, home: Path, folder: Path) -> None:
    """A part for each damage; then all rows, and `summary.json` last."""
    from replaylab.evaluation import evaluation_sets

    text = json.dumps(spec.as_dict(), indent=1, sort_keys=True)
    write_atomically(folder / "spec.json", lambda path: path.write_text(text))
    parts = {damage: folder / "parts" / f"{damage.key}.parquet" for damage in spec.damages}
    missing = [damage for damage, part in parts.items() if not part.is_file()]
    report(
        f"{len(parts) - len(missing)} of {len(parts)} damages are in {folder}; measuring {len(missing)} on "
        f"{spec.evaluation.clips} clips of each of {len(spec.evaluation.domains)} domains"
    )
    prepared = evaluation_sets.prepare_sets(spec.evaluation, home)
    started = time.monotonic()
    for done, damage in enumerate(track(missing, "damages", unit="damages"), start=1):
        rows = _measured(damage, spec.evaluation, prepared, home, folder / "examples" / f"{damage.key}.png")
        write_atomically(parts[damage], lambda path, rows=rows: rows.to_parquet(path, index=False))
        if done == 1 and len(missing) > 1:
            seconds = (time.monotonic() - started) * (len(missing) - 1)
            report(f"Estimated: {duration(seconds)} for the other {len(missing) - 1}")
    rows = pd.concat(map(pd.read_parquet, parts.values()), ignore_index=True)
    write_atomically(folder / "rows.parquet", lambda path: rows.to_parquet(path, index=False))
    summary = {"clips": spec.evaluation.clips, "split": SPLIT, **provenance()}
    write_atomically(folder / "summary.json", lambda path: path.write_text(json.dumps(summary, indent=1)))
    shutil.rmtree(folder / "parts")


def _measured(
    damage: Damage, evaluation: EvaluationSpec, prepared: list[EvaluationSet], home: Path, example: Path
) -> pd.DataFrame:
    """Rows of a damage in all domains; and an example of what the strongest of its kind looks like."""
    from PIL import Image

    from replaylab.evaluation import measurement

    tables, cap = [], evaluation.miss_cap_px
    for evaluation_set, world in zip(prepared, evaluation.domains, strict=True):
        assert isinstance(world, WorldSpec)  # who could say what happens in a folder's videos?
        if damage.name == "constant-velocity":
            found = evaluation_set.extrapolated
            tables.append(measurement.measure_boxes(evaluation_set, found, cap))
        else:
            frames = damaged(damage, evaluation_set, world, mean_velocities(evaluation.domains[0], home))
            measured = measurement.measure(evaluation_set, frames, cap)
            found = measured.boxes
            tables.append(measured.rows)
            if evaluation_set.name == EVENTFUL and damage.grade == KINDS[damage.name].grades[-1]:
                write_atomically(example, lambda path, one=frames[0, -1]: Image.fromarray(one).save(path, "PNG"))
        if len(found):
            tables.append(_pseudo_values(evaluation_set, found, cap))
    rows = pd.concat(tables, ignore_index=True).assign(
        damage=damage.name, grade=damage.grade, unit=KINDS[damage.name].unit
    )
    return rows.astype({"value": np.float32, "n": np.int32})


def _pseudo_values(evaluation_set: EvaluationSet, found: Any, miss_cap_px: float) -> pd.DataFrame:
    """What each of PARTS parts of the clips adds to the measures that take all boxes together, such as a precision.

    The jackknife: the number of parts times the value of all, less one time fewer that without the part (Tukey).
    """
    from replaylab.evaluation import measurement

    def of_all(kept: NDArray[np.intp]) -> pd.Series[float]:
        rows = measurement.measure_boxes(evaluation_set.subset(kept), [found[clip] for clip in kept], miss_cap_px)
        return rows[rows["video"] == ""].set_index("measure")["value"].astype(float)

    clips = np.arange(len(found))
    parts = np.array_split(clips, min(PARTS, len(clips)))
    whole = of_all(clips)
    tables = []
    for number, part in enumerate(parts):
        pseudo = len(parts) * whole - (len(parts) - 1) * of_all(np.delete(clips, part))
        named = pseudo.rename(lambda name: f"{name}{PSEUDO_SUFFIX}").reset_index()
        tables.append(named.assign(video=f"part {number}", n=len(part)))
    return pd.concat(tables).assign(start=-1, scene="", domain=evaluation_set.name, split=evaluation_set.split)


# -------------------------------------------------------------------------------------------------------------- damage
def damaged(damage: Damage, evaluation_set: EvaluationSet, world: WorldSpec, mean_m_s: Floats) -> Frames:
    """The evaluation set's clips (N, T, H, W, 3) with damaged futures; `mean_m_s` as `mean_velocities` gives them.

    ValueError, with the valid ones, for a kind that does not exist.
    """
    from replaylab.evaluation import evaluate
    from replaylab.worlds.build import scene_of

    name, grade, frames = damage.name, damage.grade, evaluation_set.frames
    if name not in KINDS:
        raise ValueError(f"damage {name!r} is none of {', '.join(KINDS)}")
    if name == "real":
        return frames  # itself: a clip is not compared with its copy
    if name == "autoencoder":
        return evaluate.autoencoded(frames)
    if name == "copy-last-frame":
        return evaluate.copy_last_frame(frames)
    numbers = [int(clip.video.rsplit("-", 1)[1]) for clip in evaluation_set.clips]
    made = frames.copy()
    for clip, number in enumerate(numbers):
        future = frames[clip, CONTEXT_FRAMES:]
        if name == "blur":
            made[clip, CONTEXT_FRAMES:] = blurred(future, grade)
        elif name == "noise":
            made[clip, CONTEXT_FRAMES:] = noisy(future, grade, generator(0, f"noise in {evaluation_set.name}", number))
        elif name == "colour":
            made[clip, CONTEXT_FRAMES:] = warmed(future, grade)
        elif name == "shuffled":
            made[clip, CONTEXT_FRAMES:] = shuffled(future, generator(0, f"order in {evaluation_set.name}", number))
        else:
            start = evaluation_set.clips[clip].start
            scene = _other_scene(damage, scene_of(world, evaluation_set.split, number), start + CONTEXT_FRAMES, world,
                                 mean_m_s, generator(0, f"sides in {evaluation_set.name}", number))  # fmt: skip
            shown = rendered(scene, world.size_px, world.frames_per_second)
            made[clip, CONTEXT_FRAMES:] = shown[start + CONTEXT_FRAMES : start + frames.shape[1]]
    return made


def _other_scene(
    damage: Damage, scene: Scene, first: int, world: WorldSpec, mean_m_s: Floats, rng: np.random.Generator
) -> Scene:
    if damage.name == "slowed":
        return slowed(scene, first, damage.grade)
    if damage.name == "moved":
        sides = rng.choice([-1.0, 1.0], len(scene.agents))
        return moved(scene, first, damage.grade * sides, world.size_px)
    if damage.name == "removed":
        return without_nearest(scene, first, world.size_px)
    if damage.name == "pulled":
        return pulled(scene, first, damage.grade, mean_m_s, world.size_px, world.frames_per_second)
    return scene  # re-rendered


def blurred(frames: Frames, sigma_px: float) -> Frames:
    """Frames (F, H, W, 3) blurred by a Gaussian."""
    from replaylab.metrics import blur

    return blur.blurred(frames, sigma_px)


def noisy(frames: Frames, sd: float, rng: np.random.Generator) -> Frames:
    """Frames (F, H, W, 3) with normal noise of `sd` grey levels, its own in every pixel, channel and frame."""
    return np.clip(frames + rng.normal(0, sd, frames.shape) + 0.5, 0, 255).astype(np.uint8)


def warmed(frames: Frames, percent: float) -> Frames:
    """Frames (F, H, W, 3) with that much more red and less blue: a gain a channel, as of a wrong white balance."""
    gain = 1 + np.array([1, 0, -1]) * percent / 100
    return np.clip(frames * gain + 0.5, 0, 255).astype(np.uint8)


def shuffled(frames: Frames, rng: np.random.Generator) -> Frames:
    """Frames (F, H, W, 3), two or more, in another order."""
    order = in_order = np.arange(len(frames))
    while (order == in_order).all():
        order = rng.permutation(len(frames))
    return frames[order]


# -------------------------------------------------------------------------- scenes: `first` is the first future frame
def rendered(scene: Scene, size_px: int, frames_per_second: float) -> Frames:
    """A scene's frames (T, H, W, 3), written as H.264 and read back as those of every domain are."""
    from replaylab.data.video import decode, write_video
    from replaylab.worlds.renderer import Renderer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, Renderer.shared(size_px).render(scene), frames_per_second)
        return decode(path)


def moved(scene: Scene, first: int, shifts_px: Floats, size_px: int) -> Scene:
    """Every agent's box moved to the right by shifts_px (A,), in the future frames.

    Along the camera's right axis depth stays, so the box moves in proportion to the agent: one trial step gives the
    rest. An agent without a box, behind the camera, stays.
    """
    from replaylab.worlds.renderer import boxes_of

    poses = scene.poses.copy()
    middle = [0, 2]
    for frame in range(first, poses.shape[1]):
        heading = scene.ego[frame, 2]
        right = np.array([np.cos(heading), np.sin(heading), 0.0])
        before, depths = boxes_of(scene, frame, size_px)
        here = np.isfinite(before).all(axis=1)
        steps_m = np.where(here, shifts_px * depths / scene.cameras[frame].focal_px(size_px), 0.0)
        poses[:, frame, :3, 3] += steps_m[:, None] * right
        after, _ = boxes_of(replace(scene, poses=poses), frame, size_px)
        got = (after - before)[:, middle].mean(axis=1)
        scale = np.divide(shifts_px, got, out=np.ones_like(got), where=np.abs(got) > 1e-9)
        poses[:, frame, :3, 3] += ((scale - 1) * steps_m)[:, None] * right
    return replace(scene, poses=poses)


def without_nearest(scene: Scene, first: int, size_px: int) -> Scene:
    """Without the nearest agent that counts in the first future frame, from there on; all stay if none counts."""
    from replaylab.worlds.renderer import boxes_of, eligible, visible_shares

    boxes, depths = boxes_of(scene, first, size_px)
    counts = eligible(boxes, visible_shares(boxes, depths, size_px), size_px)
    if not counts.any():
        return scene
    gone = int(np.where(counts, depths, np.inf).argmin())
    poses, (x, y, heading) = scene.poses.copy(), scene.ego[first:].T
    poses[gone, first:, 0, 3] = x + AWAY_M * np.sin(heading)
    poses[gone, first:, 1, 3] = y - AWAY_M * np.cos(heading)
    return replace(scene, poses=poses)


def pulled(scene: Scene, first: int, percent: float, mean_m_s: Floats, size_px: int, frames_per_second: float) -> Scene:
    """Every agent's motion pulled towards the mean of ordinary driving, seen from the ego car.

    An agent's displacement since the last context frame, in metres to the right of the ego car and ahead of it, becomes
    (1 − s) times its own and s times the mean one: `mean_m_s` (CELLS, CELLS, 2), at the cell (row, column) of the image
    in which its box has its centre in that frame, times the seconds since. Headings stay.
    """
    from replaylab.worlds.renderer import boxes_of, placed

    last = first - 1
    boxes, _ = boxes_of(scene, last, size_px)
    column, row = cells((boxes[:, :2] + boxes[:, 2:]) / 2, size_px).T
    velocities = mean_m_s[row, column]

    def seen(frame: int) -> Floats:
        x, y, heading = scene.ego[frame]
        return placed(scene.poses[:, frame, :3, 3] - [x, y, 0], np.zeros(3), -heading)[:, :2]

    poses = scene.poses.copy()
    for frame in range(first, poses.shape[1]):
        mean = velocities * (frame - last) / frames_per_second
        step = percent / 100 * (mean - (seen(frame) - seen(last)))
        upright = np.append(step, np.zeros((len(step), 1)), axis=1)
        poses[:, frame, :3, 3] += placed(upright, np.zeros(3), scene.ego[frame, 2])
    return replace(scene, poses=poses)


def slowed(scene: Scene, first: int, percent: float) -> Scene:
    """Everything, the ego car too, that much slower after the last context frame; poses in between are on a line."""
    from replaylab.worlds.renderer import rigid

    frames, last = np.arange(len(scene.ego)), first - 1
    times = np.where(frames > last, last + (frames - last) * (1 - percent / 100), frames)

    def then(path: Floats) -> Floats:
        """Of (T, 3): x, y, heading."""
        turned = np.column_stack([path[:, :2], np.unwrap(path[:, 2])])
        return np.column_stack([np.interp(times, frames, column) for column in turned.T])

    headings = np.arctan2(scene.poses[:, :, 1, 0], scene.poses[:, :, 0, 0])
    paths = np.concatenate([scene.poses[:, :, :2, 3], headings[..., None]], axis=2)
    return replace(scene, ego=then(scene.ego), poses=np.stack([rigid(*then(path).T) for path in paths]))


@cache
def mean_velocities(ordinary: WorldSpec, home: Path) -> Floats:
    """Mean velocity (CELLS, CELLS, 2) of agents that count, relative to the ego car, in a domain's dev split."""
    from replaylab.worlds.build import build_domain

    domain = build_domain(ordinary, home / "domains")
    videos = {Path(file).stem for file in domain.split(SPLIT)["file"]}
    tracks = domain.tracks[domain.tracks["video"].isin(videos)]
    return velocity_field(tracks, domain.size_px, domain.frames_per_second)


def velocity_field(tracks: pd.DataFrame, size_px: int, frames_per_second: float) -> Floats:
    """Mean velocity (CELLS, CELLS, 2), rows from the top, columns from the left, m/s to the right and ahead.

    Of agents that count in two neighbouring frames (columns: `domain.TRACK_COLUMNS`), by the cell in which the box has
    its centre in the first; where a cell has none, that of all.
    """
    now = tracks.loc[tracks["eligible"], ["video", "agent", "frame", "x_m", "y_m", "x0", "y0", "x1", "y1"]]
    later = now[["video", "agent", "frame", "x_m", "y_m"]].assign(frame=now["frame"] - 1)
    both = now.merge(later, on=["video", "agent", "frame"], suffixes=("", "_later"))
    speeds = (both[["x_m_later", "y_m_later"]].to_numpy() - both[["x_m", "y_m"]].to_numpy()) * frames_per_second
    centres = (both[["x0", "y0"]].to_numpy() + both[["x1", "y1"]].to_numpy()) / 2
    column, row = cells(centres, size_px).T
    field = np.tile(speeds.mean(axis=0), (CELLS, CELLS, 1))
    for at in set(zip(row.tolist(), column.tolist(), strict=True)):
        field[at] = speeds[(row == at[0]) & (column == at[1])].mean(axis=0)
    return field


# ------------------------------------------------------------------------------------------------------------- numbers
def response(rows: pd.DataFrame) -> pd.DataFrame:
    """How each measure answers to each damage: one line a domain, measure, damage and grade.

    Columns: unit, value (mean over clips, or of the whole set), real (of undamaged clips), change (value less real; over
    the clips that have both), error (its standard error over clips), evidence (change over error; 0 where nothing
    changed), clips. NaN where it is not known: a measure that has no value on real clips, as PSNR, does not change.
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
    """Paired by clip with the undamaged ones."""
    clip = ["domain", "measure", "video", "start"]
    real = rows.loc[rows["damage"] == "real", [*clip, "value"]].rename(columns={"value": "real"})
    both = rows[[*lines, "video", "start", "value"]].merge(real, on=clip, how="left")
    both = both.assign(change=both["value"] - both["real"])
    table = both.groupby(lines, as_index=False, sort=False).agg(
        value=("value", "mean"), real=("real", "mean"), change=("change", "mean"), error=("change", "sem"),
        clips=("change", "count"),
    )  # fmt: skip
    return table


@dataclass(frozen=True)
class Ceiling:
    """What the detector reaches on real frames of one domain, blurred to a sharpness: no arm can show more."""

    domain: str
    sharpness_ratio: float  # that was asked for
    ade_px: float
    recall: float
    beyond: str  # "" if it lies within what was measured; else which end stands for it

    def __str__(self) -> str:
        """Such as "ADE 0.92 px, recall 0.97"."""
        from replaylab.util.text import number

        note = f" ({self.beyond})" if self.beyond else ""
        return f"ADE {number(self.ade_px)} px, recall {number(self.recall)}{note}"


def ceiling(rows: pd.DataFrame, sharpness_ratio: float, domain: str = EVENTFUL) -> Ceiling:
    """The detector's ADE and recall on real frames blurred to this sharpness, of the rows of `run`.

    Monotone and piecewise linear between the blurs that were measured. Outside them nothing is carried on: the nearest
    end stands, and `beyond` says so. ValueError for a sharpness that is no positive number, or a domain without blur.
    """
    if not (np.isfinite(sharpness_ratio) and sharpness_ratio > 0):
        raise ValueError(f"sharpness_ratio: {sharpness_ratio!r}, expected a number above 0, such as 0.8")
    at = blur_curve(rows, domain)
    ratios = at["sharpness_ratio"].to_numpy()[::-1]
    ade, recall = (at[name].to_numpy()[::-1] for name in ("ade_px", "recall"))
    beyond = ""
    if sharpness_ratio > ratios[-1]:
        beyond = "sharper than real; real frames stand for it"
    elif sharpness_ratio < ratios[0]:
        beyond = f"less sharp than a blur of {at.index[-1]:g} px, which stands for it"
    return Ceiling(
        domain, sharpness_ratio, float(np.interp(sharpness_ratio, ratios, ade)),
        float(np.interp(sharpness_ratio, ratios, recall)), beyond,
    )  # fmt: skip


def blur_curve(rows: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Mean sharpness_ratio, ade_px and recall by blur (px; 0 is real), none of them better with more blur.

    ValueError lists the domains that have one.
    """
    names = ["sharpness_ratio", "ade_px", "recall"]
    some = rows[rows["damage"].isin(["real", "blur"]) & rows["measure"].isin(names)]
    at = some[some["domain"] == domain].pivot_table(index="grade", columns="measure", values="value")
    if len(at) < 2 or at.shape[1] < len(names):
        raise ValueError(f"domain {domain!r} has no blurred frames measured; there are {sorted(set(some['domain']))}")
    worst: dict[str, Callable[..., Any]] = {"ade_px": np.maximum, "sharpness_ratio": np.minimum, "recall": np.minimum}
    return at.assign(**{name: of.accumulate(at[name]) for name, of in worst.items()})[names]  # type: ignore[attr-defined]


def as_blur(answers: pd.DataFrame) -> pd.DataFrame:
    """Which blur of all frames changes a measure as much as each other damage does: `response` with a column blur_px.

    The blur's own change is made monotone and linear between its grades, from 0 at no blur. Infinite where the strongest
    blur changes the measure less, 0 where the damage changes it the other way; lines of measures that blur leaves as they
    are, or moves both ways, are left out.
    """
    tables = []
    for _, one in answers.groupby(["domain", "measure"], sort=False):
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
        found = np.interp(risen, rise, np.append(0.0, blur["grade"]), right=np.inf)
        found[risen <= 0] = 0.0
        tables.append(others.assign(blur_px=found))
    return pd.concat(tables, ignore_index=True) if tables else answers.iloc[:0].assign(blur_px=[])
