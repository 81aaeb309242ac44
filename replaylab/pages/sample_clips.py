"""The sample clips of runs, read from their store, with the paths and errors of their agents.

Decision: agents are linked over frames by nearest centres, and detected boxes are matched with true ones frame by frame as
in `metrics.dynamics`, so that the error in a caption is that of the clip shown. Refused: clips selected by eye.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from replaylab.analysis.changes import before_and_after, last_steps, of_measure
from replaylab.catalogue import CONTEXT_FRAMES, FRAMES_PER_SECOND, MAIN_FRACTION, domain_of, measure_of
from replaylab.metrics import dynamics
from replaylab.spec import RunSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps.sweep import Table
from replaylab.util import reading
from replaylab.util.text import capital, number, percent

TRUTH, BASE = "truth", "base"
MISS_CAP_PX = 16.0  # of the tiny model's evaluations
MAX_HEIGHT_PX, MAX_SHEET_WIDTH_PX = 128, 16000  # WebP ends at 16383
OPENS_WITH = "driving-eventful"
TRUE_COLOUR, DETECTED_COLOUR = "#00e5ff", "#ff3dd8"  # of boxes; explorer.css has them too
Boxes = Sequence[Sequence[Sequence[float]]]
Clips = dict[tuple[str, str], list["SampleClip"]]
"""By domain and percentile, the versions of each clip."""


@dataclass(frozen=True)
class SampleClip:
    """One configuration's version of one clip."""

    domain: str
    percentile: str
    """of how far the agents move, among the clips of the domain"""
    configuration: str
    """TRUTH, BASE or the name of a fine-tuned configuration"""
    step: int
    """of fine-tuning; 0 for the truth and the base"""
    frames: NDArray[np.uint8]
    """(T, H, W, 3), small enough for a page"""
    true_boxes: Boxes
    """for each frame, rows of x0, y0, x1, y1 in px"""
    detected_boxes: Boxes
    """the same, as returned by the detector; none in the context frames"""
    context_frames: int = CONTEXT_FRAMES
    frames_per_second: float = FRAMES_PER_SECOND
    miss_cap_px: float = MISS_CAP_PX
    """the error of an agent that is not detected; centres at this distance or further apart are of different agents"""
    scale: float = 1.0
    """px of the clip per px of `frames`"""

    @property
    def title(self) -> str:
        """The configuration, as in a caption."""
        return capital(self.configuration).replace(" %", "\N{NO-BREAK SPACE}%")

    @cached_property
    def note(self) -> str:
        """The step of a fine-tuned model, and the error, as in a caption."""
        error = ade_px(self)
        step = f"step {self.step}, " if self.step else ""
        ade = "no agent to detect" if np.isnan(error) else f"ADE {number(error, measure_of('ade_px').digits)} px"
        return step + ade.replace(" ", "\N{NO-BREAK SPACE}")

    @property
    def description(self) -> str:
        """A description of the clip, for readers who do not see it."""
        future = "the true future" if self.configuration == TRUTH else "the frames that the model generated"
        return (
            f"{self.title} ({self.note}): {domain_of(self.domain).label}, {motion(self.percentile)}; "
            f"{self.context_frames} given frames, then {future}"
        )


# --------------------------------------------------------------------------------------------------------- from a store
def sample_clips(table: Table, domains: Iterable[str] = ()) -> list[SampleClip]:
    """Every stored clip of one seed of a sweep: truth, base and every finished configuration at every evaluated step.

    `domains` (empty: all) in the order of the references. An empty list if no clips are stored yet.
    """
    return of_runs(table.store, _finished(table), domains)


def main_sample_clips(table: Table, domain: str = OPENS_WITH) -> list[SampleClip]:
    """The clips of the main comparison (`main_runs`) at the last step, beside truth and base."""
    return of_runs(table.store, main_runs(_finished(table)), [domain], at_the_end=True)


def main_runs(runs: Mapping[str, RunSpec]) -> dict[str, RunSpec]:
    """Of runs by their names, those of the main comparison for each target: without replay, and for each kind of replay the
    preregistered fraction, or else the largest below 100 %.
    """
    main: dict[tuple[str, str], tuple[str, RunSpec]] = {}
    for name, run in runs.items():
        kind = (run.target.name, run.replay.name)
        if run.replay.fraction < 1 and (kind not in main or _preference(run) > _preference(main[kind][1])):
            main[kind] = (name, run)
    return dict(main.values())


def _preference(run: RunSpec) -> tuple[bool, float]:
    return run.replay.fraction == MAIN_FRACTION, run.replay.fraction


def of_runs(
    store: Path, runs: Mapping[str, RunSpec], domains: Iterable[str] = (), *, at_the_end: bool = False
) -> list[SampleClip]:
    """The stored clips of finished runs of one base and evaluation, by the names of their configurations, at their last or
    at every evaluated step: for each clip truth, base and the runs in their order.

    `domains` (empty: all) in the order of the references. An empty list without runs. Raises ValueError, with its run, for
    a damaged clip.
    """
    if not runs:
        return []
    references = ReferenceSpec.of(next(iter(runs.values())))
    versions = [(TRUTH, 0, references.run_id, -1), (BASE, 0, references.run_id, 0)]
    for name, run in runs.items():
        versions += [(name, step, run.run_id, step) for step in run.evaluate_at[-1 if at_the_end else 0 :]]
    stored = Store(store)
    kept = stored.samples([references.run_id, *(run.run_id for run in runs.values())])
    kept = kept.set_index(["run", "step", "domain", "percentile"])[["mp4", "boxes"]]
    by_domain, wanted, clips = stored.gallery_clips(references.run_id), set(domains), []
    model, miss_cap_px = references.model, references.evaluation.miss_cap_px
    context_frames = model.context_frames if model else CONTEXT_FRAMES
    rate = model.frames_per_second if model else FRAMES_PER_SECOND
    for domain in [name for name in by_domain if not wanted or name in wanted]:
        for percentile in by_domain[domain]:
            for name, step, run_id, kept_step in versions:
                if (run_id, kept_step, domain, percentile) in kept.index:
                    mp4, text = kept.loc[(run_id, kept_step, domain, percentile)]
                    with reading.named(store / run_id, f"run with a whole clip of {domain}, percentile {percentile}"):
                        frames, scale = _small(_decoded(mp4))
                        true, detected = (_scaled(json.loads(text)[kind], scale) for kind in ("true", "found"))
                    clips.append(SampleClip(
                        domain, percentile, name, step, frames, true, detected,
                        context_frames, rate, miss_cap_px / scale, scale,
                    ))  # fmt: skip
    return clips


def of_one_seed(store: Path, named: Iterable[tuple[str, RunSpec]]) -> dict[str, RunSpec]:
    """The finished runs by their names: those of the first seed that has one, with the references of the first of them, so
    that truth and base are the same for all.
    """
    runs = list(named)
    done = [(name, run) for name, run in runs if Store(store).is_done(run)]
    seeds = list(dict.fromkeys(run.seed for _, run in runs))
    first = min((run for _, run in done), key=lambda run: seeds.index(run.seed), default=None)
    if first is None:
        return {}
    shown = (first.seed, ReferenceSpec.of(first))
    return {name: run for name, run in done if (run.seed, ReferenceSpec.of(run)) == shown}


def of_folders(folders: Mapping[str, Path], domain: str, percentile: str) -> list[SampleClip]:
    """One clip of a tiny model's evaluation, as written by `evaluate.keep_clips`, from several folders by the names of their
    versions. Raises ValueError, with its name, for a file that cannot be read.
    """
    clips = []
    for name, folder in folders.items():
        file = folder / f"{domain}-{percentile}.json"
        boxes = reading.json_object(file)
        with reading.named(file, "sample clip with the boxes of its frames"):
            frames = _decoded(file.with_suffix(".mp4").read_bytes())
            clips.append(SampleClip(domain, percentile, name, 0, frames, boxes["true"], boxes["found"]))
    return clips


def nearest_to_the_mean(clips: Sequence[SampleClip], mean_px: float) -> str:
    """The percentile of the clip whose change of ADE, from base to first fine-tuned version, is nearest to `mean_px`."""
    changes = {}
    for (_, percentile), versions in by_clip(clips).items():
        base, tuned = (
            [one for one in versions if bool(one.step) == is_tuned and one.configuration != TRUTH] for is_tuned in (0, 1)
        )
        if base and tuned:
            changes[percentile] = abs(ade_px(tuned[0]) - ade_px(base[0]) - mean_px)
    return min(changes, key=lambda one: changes[one])


class Rank(NamedTuple):
    """The change of a clip's ADE, and its rank among all clips of its domain, 1 for the largest."""

    change_px: float
    place: int
    clips: int

    def __str__(self) -> str:
        change = number(self.change_px, f"+{measure_of('ade_px').digits}")
        return f"ADE {change} px, rank {self.place} of {self.clips}"


Ranks = Mapping[tuple[str, str], Rank]
"""By domain and percentile."""


def ranks(table: Table) -> dict[tuple[str, str], Rank]:
    """The ranks of the stored clips by their change of ADE from the base to the last step without replay, in one seed.

    Clips without agents have none.
    """
    runs = [run for run in _finished(table).values() if not run.replay.fraction]
    if not runs or table.rows.empty:
        return {}
    references = ReferenceSpec.of(runs[0]).run_id
    rows = table.rows[table.rows["run"].isin([references, runs[0].run_id])]
    found = {}
    for domain, clips in Store(table.store).gallery_clips(references).items():
        before, after = (last_steps(one) for one in before_and_after(rows, "ade_px", domain))
        if after.empty:
            continue
        change = (after - before).iloc[0].dropna()
        order = change.rank(ascending=False, method="first")
        of_base = of_measure(rows[rows["model"] == "base"], "ade_px", domain)
        for percentile, clip in clips.items():
            scene = of_base["scene"].iloc[clip] if clip < len(of_base) else ""
            if scene in change:
                found[domain, percentile] = Rank(float(change[scene]), int(order[scene]), len(change))
    return found


def _finished(table: Table) -> dict[str, RunSpec]:
    """The finished runs of one seed by their names in figures: by kind, then by fraction."""
    runs = list(of_one_seed(table.store, ((run.run_id, run) for run in table.specs)).values())
    kinds = list(dict.fromkeys(["", *(run.replay.name for run in runs)]))
    runs.sort(key=lambda run: (kinds.index(run.replay.name), run.replay.fraction))
    has_targets, has_kinds = len({run.target.name for run in runs}) > 1, len(kinds) > 2
    return {
        (f"{run.target.name}, " if has_targets else "")
        + (f"{run.replay.name} " if has_kinds and run.replay.name else "")
        + f"replay {percent(run.replay.fraction)}": run
        for run in runs
    }


def _decoded(mp4: bytes) -> NDArray[np.uint8]:
    from replaylab.data.video import decode

    with NamedTemporaryFile(suffix=".mp4") as file:
        file.write(mp4)
        file.flush()
        return decode(Path(file.name))


def _small(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) reduced to a size for pages, and the px of the original per px of theirs."""
    count, height, width = frames.shape[:3]
    scale = max(1.0, height / MAX_HEIGHT_PX, count * width / MAX_SHEET_WIDTH_PX)
    if scale == 1:
        return frames, 1.0
    size = max(1, int(width / scale)), max(1, int(height / scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]), scale


def _scaled(boxes: Boxes, scale: float) -> Boxes:
    return boxes if scale == 1 else [[[side / scale for side in box[:4]] for box in frame] for frame in boxes]


# ------------------------------------------------------------------------------------------------------ paths and error
def true_paths(boxes: Boxes, gate_px: float = MISS_CAP_PX) -> list[list[int | None]]:
    """The agents over time: for each, the row of its box in every frame, or None if it has none.

    Boxes of successive frames are linked one to one by the distance of their centres; a box at gate_px or further from every
    box of the previous frame begins a new agent.
    """
    paths: list[list[int | None]] = []
    for frame, now in enumerate(boxes):
        alive = [path for path in paths if path[-1] is not None]
        before = [boxes[frame - 1][path[-1]] for path in alive]  # type: ignore[index]
        old, new, _ = dynamics.match(before, now, gate_px)
        for path in paths:
            path.append(None)
        for place, row in zip(old, new, strict=True):
            alive[place][-1] = int(row)
        begun = sorted(set(range(len(now))) - set(new.tolist()))
        paths += [[None] * frame + [row] for row in begun]
    return paths


def detected_rows(clip: SampleClip) -> list[dict[int, int]]:
    """For each frame, the row of the detected box by that of its true one, matched as in `dynamics.agent_errors`."""
    pairs = zip(clip.true_boxes, clip.detected_boxes, strict=True)
    matched = (dynamics.match(true, detected, clip.miss_cap_px) for true, detected in pairs)
    return [dict(zip(rows.tolist(), columns.tolist(), strict=True)) for rows, columns, _ in matched]


def ade_px(clip: SampleClip) -> float:
    """Mean error of the true agents in future frames in px of the clip, the miss cap if not detected; NaN without any."""
    true, detected = clip.true_boxes[clip.context_frames :], clip.detected_boxes[clip.context_frames :]
    agents = [np.arange(len(boxes)) for boxes in true]
    counts = [np.ones(len(boxes), dtype=np.bool_) for boxes in true]
    errors = dynamics.agent_errors(true, agents, counts, detected, miss_cap_px=clip.miss_cap_px)
    return clip.scale * dynamics.accuracy(errors).ade_px.value


def by_clip(versions: Sequence[SampleClip]) -> Clips:
    """The versions of each clip, in their order."""
    clips: Clips = {}
    for one in versions:
        clips.setdefault((one.domain, one.percentile), []).append(one)
    return clips


def motion(percentile: str) -> str:
    """A percentile of motion in words."""
    return f"{percentile}th percentile of the agents' motion"
