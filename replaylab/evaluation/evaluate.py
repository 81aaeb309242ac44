"""Evaluation of a model: futures of held-out clips are generated and measured, together with reference baselines.

Decision: every configuration and step generates futures of the same clips from the same noise, and all baselines (real,
autoencoder, copy-last-frame, constant velocity, base) are measured by the same code into the same store, so every number
has its baselines.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES, DENOISING, NOISE_LEVELS
from replaylab.data.video import write_video
from replaylab.description import digest
from replaylab.evaluation import evaluation_sets, measurement
from replaylab.evaluation.evaluation_sets import EvaluationSet, Frames, true_boxes
from replaylab.evaluation.measurement import Measurement
from replaylab.metrics.dynamics import Statistic
from replaylab.models import autoencoder, pipelines, sampling
from replaylab.models.pipelines import Pipeline
from replaylab.spec import KEPT_PERCENTILES, EvaluationSpec
from replaylab.store import ReferenceSpec, Store, claim, finish
from replaylab.util import cache, distributed, reading
from replaylab.util.distributed import Rank
from replaylab.util.files import locked, write_atomically, write_json, write_table, write_text
from replaylab.util.progress import track

Gallery = dict[str, dict[str, int]]  # domain -> percentile -> number of the clip
Measuring = Callable[[], pd.DataFrame]  # gives rows


def evaluate(
    pipeline: Pipeline, spec: EvaluationSpec, home: Path, gallery: tuple[Gallery, Path] | None = None,
    rank: Rank = Rank(), at_the_end: bool = False, kept: Callable[[str, Measuring], pd.DataFrame] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Generate every clip's future with the pipeline's model and measure it; rows without the run's own columns.

    `gallery`: the clips to keep as examples, and their folder. Ranks share the sampling; the main rank measures, and the
    rows of the others are empty. `at_the_end`: all domains and measures. `kept`: a function that returns the rows of a
    domain, by its number, if they exist already, and otherwise calls the given measurement.
    """
    pipeline.model.transformer.eval()
    chosen = gallery[0] if gallery else {}

    def measured_in(evaluation_set: EvaluationSet) -> pd.DataFrame:
        rows: list[pd.DataFrame] = []
        for frames, latents in _futures(pipeline, evaluation_set, spec, rank, spec.futures_of(at_the_end)):
            if not rank.is_main:
                continue
            measured = measurement.measure(evaluation_set, frames, spec.miss_cap_px, latents, at_the_end)
            if gallery is not None and not rows:
                keep_clips(gallery[1], evaluation_set, frames, measured, chosen.get(evaluation_set.name, {}))
            rows.append(measured.rows)
        losses = _denoising(pipeline, evaluation_set, spec.noise_seed) if at_the_end else pd.DataFrame()
        return pd.concat([_over_futures(rows), losses], ignore_index=True) if rows else pd.DataFrame()

    parts = []
    for number, evaluation_set in enumerate(evaluation_sets.prepare_sets(spec, home, at_the_end, pipeline)):
        measuring = partial(measured_in, evaluation_set)
        parts.append(kept(f"{number:02d}", measuring) if kept else measuring())
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _futures(
    pipeline: Pipeline, evaluation_set: EvaluationSet, spec: EvaluationSpec, rank: Rank, futures: int
) -> Iterator[tuple[Frames, torch.Tensor]]:
    """The first futures of all clips, then the second ones and so on, as frames and latents."""
    model, condition, shape = pipeline.model, evaluation_set.condition, evaluation_set.latents.shape[1:]
    for number in range(futures):
        first = number * len(evaluation_set.clips)
        with distributed.autocast(model.transformer.device.type, spec.precision):
            latents = sampling.futures(model, condition, shape, spec.sampler_steps, spec.noise_seed, first, rank)
        yield (evaluation_set.decode(latents, pipeline) if rank.is_main else evaluation_set.frames), latents


def _denoising(pipeline: Pipeline, evaluation_set: EvaluationSet, noise_seed: int) -> pd.DataFrame:
    """The denoising loss of each clip at NOISE_LEVELS, with the noise from which its first future is sampled."""
    parts, clips = [], (evaluation_set.latents, evaluation_set.condition)
    for level in NOISE_LEVELS:
        with distributed.autocast(pipeline.model.transformer.device.type, evaluation_set.measured_in):
            losses = sampling.denoising_losses(pipeline.model, *clips, level, noise_seed)
        values = [{f"{DENOISING}_{level:g}": Statistic(loss, 1)} for loss in losses]
        parts.append(measurement.rows_of_clips(evaluation_set, values))
    return pd.concat(parts, ignore_index=True)


def _over_futures(rows: list[pd.DataFrame]) -> pd.DataFrame:
    """Means over the futures of each clip, and the ADE of the best future for all agents together (joint minADE)."""
    first = rows[0]
    if len(rows) == 1:
        return first
    values = np.stack([each["value"] for each in rows])
    of_ade = (first["measure"] == "ade_px").to_numpy()
    best = first[of_ade].assign(measure="ade_best_px", value=values[:, of_ade].min(0))
    with np.errstate(invalid="ignore"):
        return pd.concat([first.assign(value=values.mean(0)), best], ignore_index=True)


def references(spec: ReferenceSpec, store: Path, base: Pipeline | None = None, wait: bool = True) -> None:
    """Measure copy-last-frame, real, autoencoder and base, unless already done.

    `base`: the base's pipeline, if already loaded. `wait`: for another process that is measuring them.
    """
    kept = Store(store)
    if not kept.is_done(spec):
        folder = claim(spec, store)
        with locked(folder, wait) as acquired:
            if acquired and not kept.is_done(spec):  # by the process that held the lock
                _measure_references(spec, store, folder, base or pipelines.load(spec, store))


def gallery_of(spec: ReferenceSpec, store: Path, base: Pipeline) -> Gallery:
    """The clips that every run keeps, by domain; of a tiny base also while another process measures the references."""
    if spec.model is not None or Store(store).is_done(spec):
        return Store(store).gallery_clips(spec.run_id)
    evaluation, chosen = spec.evaluation, Gallery()

    def copied(real: EvaluationSet) -> pd.DataFrame:
        return measurement.measure(real, copy_last_frame(real.frames, real.context_frames), evaluation.miss_cap_px).rows

    for number, real in enumerate(evaluation_sets.prepare_sets(evaluation, store, at_the_end=True, pipeline=base)):
        rows = _of_all_bases("copy-last-frame", number, evaluation, store, partial(copied, real))
        chosen[real.name] = at_percentiles(rows, evaluation.kept_clips)
    return chosen


def _of_all_bases(name: str, number: int, evaluation: EvaluationSpec, store: Path, measuring: Measuring) -> pd.DataFrame:
    """A baseline's rows of a domain, by its number, measured once in a store for all tiny bases."""
    path = store / "baselines" / f"{name}-{digest(evaluation)}-{number:02d}.parquet"
    return cache.cached(path, reading.table, lambda aside, rows: rows.to_parquet(aside, index=False), measuring)


def _measure_references(spec: ReferenceSpec, store: Path, folder: Path, base: Pipeline) -> None:
    started = time.monotonic()
    evaluation = spec.evaluation
    prepared = evaluation_sets.prepare_sets(evaluation, store, at_the_end=True, pipeline=base)
    baselines: dict[str, Callable[[EvaluationSet], Frames]] = {
        "copy-last-frame": lambda real: copy_last_frame(real.frames, real.context_frames),
        "real": lambda real: real.frames,
        "autoencoder": lambda real: autoencoded(real.frames, base),
    }
    parts: list[pd.DataFrame] = []
    gallery: Gallery = {}

    def of_baseline(name: str, evaluation_set: EvaluationSet) -> pd.DataFrame:
        frames = baselines[name](evaluation_set)
        measured = measurement.measure(evaluation_set, frames, evaluation.miss_cap_px)
        if name == "real":
            keep_clips(folder / "samples" / name, evaluation_set, frames, measured, gallery[evaluation_set.name])
        return measured.rows

    def kept(name: str, measuring: Measuring) -> pd.DataFrame:
        """The rows of `<name>.parquet`, measured and written now if missing: a killed process loses at most one file."""
        path = folder / "parts" / f"{name}.parquet"
        found = cache.kept_table(path)
        if found is None:
            write_table(path, measuring(), with_digest=True)
            found = reading.table(path)
        return found

    for name in track(baselines, what="baselines", total=len(baselines), unit="models"):
        for number, evaluation_set in enumerate(prepared):
            measuring = partial(of_baseline, name, evaluation_set)
            if name == "real" or spec.model is not None:  # real clips are kept at the same time
                rows = kept(f"{name}-{number:02d}", measuring)
            else:
                of_autoencoder = f"-{autoencoder.digest(base.model.vae)}" if name == "autoencoder" else ""
                rows = _of_all_bases(f"{name}{of_autoencoder}", number, evaluation, store, measuring)
            parts.append(rows.assign(model=name, step=-1))
            if name == "copy-last-frame":
                gallery[evaluation_set.name] = at_percentiles(rows, evaluation.kept_clips)
    for evaluation_set in prepared:
        if evaluation_set.has_agents and evaluation_set.context_frames > 1:  # a velocity needs two frames
            both = evaluation_set.extrapolated, evaluation_set.extrapolated_again
            rows = measurement.measure_boxes(evaluation_set, both[0], evaluation.miss_cap_px, both[1])
            parts.append(rows.assign(model="constant-velocity", step=-1))
    write_json(folder / "gallery.json", gallery)
    base_started = time.monotonic()
    kept_clips = (gallery, folder / "samples" / "base")
    measured_base = evaluate(
        base, evaluation, store, kept_clips, at_the_end=True, kept=lambda name, measuring: kept(f"base-{name}", measuring)
    )
    base_seconds = round(time.monotonic() - base_started, 1)
    parts.append(measured_base.assign(model="base", step=0))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(run=spec.run_id, base=spec.base, target="", replay="", replay_fraction=np.nan, seed=-1)
    finish(folder, rows, seconds=round(time.monotonic() - started, 1), base_seconds=base_seconds)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def autoencoded(frames: Frames, pipeline: Pipeline | None = None) -> Frames:
    """Clips (N, T, H, W, 3) encoded and decoded: the upper bound for a model with this autoencoder."""
    pipeline = pipeline or pipelines.published_tiny()
    return pipeline.decode(pipeline.encode(frames))


def copy_last_frame(frames: Frames, context_frames: int = CONTEXT_FRAMES) -> Frames:
    """Clips (N, T, H, W, 3) whose last context frame is repeated."""
    still = frames.copy()
    still[:, context_frames:] = frames[:, context_frames - 1 : context_frames]
    return still


def percentiles(count: int) -> list[int]:
    """`count` evenly spaced percentiles from the 5th to the 95th: 5, 50, 95 for three; for one, the 95th alone."""
    first, last = KEPT_PERCENTILES
    reach = last - first
    return [last - round(place * reach / max(count - 1, 1)) for place in range(count)][::-1]


def at_percentiles(rows: pd.DataFrame, count: int = 3) -> dict[str, int]:
    """The clips (by number) at `percentiles` of the agents' displacement: the ADE of copy-last-frame, or its PSNR where no
    agent is measured. It is a property of the clip alone, so that every configuration shows the same clips.
    """
    for measure in ("ade_px", "psnr_db"):
        values = rows.loc[rows["measure"] == measure, "value"].reset_index(drop=True).dropna().sort_values()
        if len(values):
            break
    return {str(at): int(values.index[round(at / 100 * (len(values) - 1))]) for at in percentiles(count)}


def keep_clips(
    folder: Path, evaluation_set: EvaluationSet, frames: Frames, measured: Measurement, clips: dict[str, int]
) -> None:
    """Writes the video and the boxes of each chosen clip: `<domain>-<percentile>.mp4` and `.json`."""
    context, future_frames = evaluation_set.context_frames, frames.shape[1] - evaluation_set.context_frames
    for percentile, clip in clips.items():
        name = f"{evaluation_set.name}-{percentile}"  # no suffix is replaced: the domain's name may have dots
        detected = measured.boxes[clip] if evaluation_set.has_agents else [np.zeros((0, 4))] * future_frames
        eligible = [table[table["eligible"].astype(bool)] for table in evaluation_set.truth[clip]]
        boxes = {
            "video": evaluation_set.clips[clip].video,
            "true": [_rounded(true_boxes(table)) for table in eligible],
            "found": [[]] * context + [_rounded(frame[:, :4]) for frame in detected],
        }
        video, rate = folder / f"{name}.mp4", evaluation_set.frames_per_second
        write_atomically(video, lambda aside, clip=clip, rate=rate: write_video(aside, frames[clip], rate))
        write_text(folder / f"{name}.json", json.dumps(boxes))


def _rounded(boxes: NDArray[np.floating]) -> list[list[float]]:
    return boxes.astype(float).round(2).tolist()
