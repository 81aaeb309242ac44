"""One run, from its spec to its summary.

Decision: a run's inputs are cached in the store (`domains/`, `latents/`, `features/`, `references-…/`) and its results are
in its own folder. The same call therefore continues an interrupted run: from rendered chunks, latents, the newest checkpoint
and the rows of every finished evaluation.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES, NOISE_LEVELS
from replaylab.data import clips
from replaylab.evaluation import evaluate, evaluation_sets, measurement
from replaylab.metrics.distances import N_MIN
from replaylab.mixture import Mixture, buffer
from replaylab.models import latent_cache, lora, pipelines
from replaylab.models.autoencoder import FOLD, latent_channels
from replaylab.models.interface import Clip, stack_clips
from replaylab.models.pipelines import Pipeline
from replaylab.spec import MachineSpec, RunSpec, World, WorldSpec, torch_seed
from replaylab.store import (
    ReferenceSpec,
    Store,
    check_result,
    checked_rows,
    claim,
    finish,
    model_card,
    samples_folder,
    write_rows,
)
from replaylab.training import loop, regularizers
from replaylab.util import distributed, networks, reading
from replaylab.util.cache import cached
from replaylab.util.distributed import Execution, Rank, flush_denormals
from replaylab.util.files import BESIDE, write_text
from replaylab.util.processes import usable_cores
from replaylab.worlds.build import build_domain, is_built, render_video

CLIPS_TO_TIME = 4  # measured to estimate what a sweep will take
MODELS_OF_REFERENCES = 4  # base, real, autoencoder, copy-last-frame


@flush_denormals()
def train_one(plain_spec: dict[str, Any], store: Path, plain_machine: dict[str, Any] | None = None) -> str:
    """Train, evaluate and record one run; returns its id. The descriptions are plain JSON, as jobs transport them.

    A collective call: every rank makes it (torchrun, or a submitit job's tasks).
    """
    spec, machine = RunSpec.from_dict(plain_spec), MachineSpec(**(plain_machine or {}))
    with distributed.threads(machine.threads):
        return _train_one(spec, store, machine, distributed.this_rank())


def _train_one(spec: RunSpec, store: Path, machine: MachineSpec, rank: Rank) -> str:
    if Store(store).is_done(spec):
        return spec.run_id
    if rank.is_main:
        claim(spec, store)
    distributed.barrier(rank)
    folder = claim(spec, store)
    started = time.monotonic()
    pipeline = pipelines.load(spec, store)
    references = ReferenceSpec.of(spec)
    # runs that are trained side by side need not wait for the first one to measure what they share
    evaluate.references(references, store, pipeline, wait=rank.world_size > 1 or spec.model is not None)
    sources, mixture = mixed_sources(pipeline, spec, store)

    def evaluate_now(step: int) -> None:
        path = folder / f"rows-{step:06d}.parquet"
        if not distributed.broadcast_number(rank, path.is_file()):
            kept = (evaluate.gallery_of(references, store, pipeline), samples_folder(folder, step))
            at_the_end = step == spec.training.steps
            rows = evaluate.evaluate(pipeline, spec.evaluation, store, kept, rank, at_the_end)
            if rank.is_main:
                write_rows(path, _named(rows, spec, step), with_digest=True)

    model = pipeline.model
    loop.fit(
        model, sources, mixture, spec.training, spec.seed, folder, spec.title, machine=machine, rank=rank,
        replay=spec.replay, remedy=spec.remedy, base_clips=_base_clips(pipeline, spec, store), evaluate_at=spec.evaluate_at,
        evaluate=evaluate_now,
    )  # fmt: skip
    weights = loop.full_state_dict(model)
    if rank.is_main and not Store(store).is_done(spec):  # without locks, another process may have been quicker
        _save_network(pipeline, weights, spec, store, folder)
        evaluate.references(references, store)
        _finish(spec, mixture, folder, round(time.monotonic() - started, 1))
    distributed.barrier(rank)
    if spec.model is not None:  # two large networks may be one too many
        evaluation_sets.clear_cache()
    return spec.run_id


def _finish(spec: RunSpec, mixture: Mixture, folder: Path, seconds: float) -> None:
    parts = [folder / f"rows-{step:06d}.parquet" for step in spec.evaluate_at]
    counts, again = mixture.counts(spec.training.steps), f"remove {folder} and train again"
    rows = pd.concat([checked_rows(part, again) for part in parts], ignore_index=True)
    shown = dict(zip([spec.target.name, *(world.name for world in spec.replay.domains)], counts, strict=True))
    write_text(folder / "README.md", model_card.text_of(spec, rows, shown))
    finish(
        folder, rows, seconds=seconds, realised_samples=shown, realised_replay_fraction=sum(counts[1:]) / sum(counts),
        execution=reading.json_object(folder / "manifest.json"),
    )  # fmt: skip
    for part in parts:
        for path in (part, part.with_name(part.name + BESIDE)):
            path.unlink(missing_ok=True)
    delete_checkpoints(folder)


def delete_checkpoints(folder: Path) -> None:
    """Delete a finished run's checkpoints, which are several times as large as the weights."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # without locks, another process may write there


def _save_network(pipeline: Pipeline, weights: dict[str, torch.Tensor], spec: RunSpec, store: Path, folder: Path) -> None:
    """Write the trained weights in the layout of diffusers' pipelines: `transformer/` or `unet/`; for LoRA the adapters
    alone, for `load_lora_weights`.
    """
    if spec.training.trained == "lora":
        lora.write_lora(pipeline.model.transformer, folder, pipeline.model.NETWORK[0], weights)
        return
    fresh = pipelines.load(spec, store)  # this one's network may be in parts, on several GPUs
    fresh.model.transformer.load_state_dict(weights)
    fresh.model.save_network(folder)


def load_fine_tuned(spec: RunSpec, store: Path, folder: Path) -> Pipeline:
    """A finished run's model with its last weights; raises FileNotFoundError, with the path, if they were not kept."""
    pipeline = pipelines.load(spec, store)
    network, name = pipeline.model.transformer, pipeline.model.NETWORK[0]
    for path in (folder / lora.FILE, *(folder / name).glob("*")):
        check_result(path, f"move {folder} away and train it again")
    if spec.training.trained == "lora":
        loop.select_trainable(pipeline.model, spec.training, spec.seed)
        lora.read_lora(network, folder, name)
        lora.merge_lora(network)
        return pipeline
    if not (folder / name).is_dir():
        raise FileNotFoundError(f"{folder / name} is missing: this run's weights were not kept, train it again")
    kept = networks.load(type(network), folder / name).to(network.device, network.dtype)
    return pipeline.with_network(kept)


# -------------------------------------------------------------------------------------------------------------- clips
def mixed_sources(pipeline: Pipeline, spec: RunSpec, store: Path) -> tuple[list[Sequence[Clip]], Mixture]:
    """The latents of the target's clips and of the replay buffers, and the mixture that fills batches with them."""
    replay, training = spec.replay, spec.training
    sources: list[Sequence[Clip]] = [_training_clips(pipeline, spec.target, store)]
    sources += [_replayed(pipeline, world, spec, store) for world in replay.domains]
    mixture = Mixture(
        replay.fraction, training.batch_size, [len(source) for source in sources], spec.seed, replay.schedule,
        training.steps, replay.period, replay.weights, training.clip_order,
    )  # fmt: skip
    return sources, mixture


def _replayed(pipeline: Pipeline, world: World, spec: RunSpec, store: Path) -> Sequence[Clip]:
    """A replayed domain's clips: all or a buffer of them, with their own futures or with futures generated by the base."""
    replay, clips_there = spec.replay, _training_clips(pipeline, world, store)
    size = replay.buffer_clips or len(clips_there)
    features = _features(clips_there) if replay.buffer_choice == "coverage" else None
    numbers = buffer(len(clips_there), size, replay.buffer_choice, spec.seed, features)
    kept = [clips_there[number] for number in numbers]
    if replay.still:
        return [_still(clip) for clip in kept]
    if not replay.generated:
        return kept
    steps, noise = spec.evaluation.sampler_steps, torch_seed(spec.seed, "generated replay")
    about = json.dumps([spec.base, world.as_dict(), numbers, steps, noise])
    path = store / "latents" / f"generated-{hashlib.sha256(about.encode()).hexdigest()[:16]}.npy"
    generated = cached(
        path, reading.array, latent_cache.write,
        lambda: regularizers.generate_replay(pipeline.model, kept, steps, noise).numpy(),
    )  # fmt: skip
    return [
        {**clip, "latents": torch.from_numpy(each[None])} if isinstance(clip, dict) else each
        for clip, each in zip(kept, generated, strict=True)
    ]


def _still(clip: Clip) -> Clip:
    """The clip's first frame, repeated. ValueError for a model whose latents cover several frames."""
    if isinstance(clip, dict):
        raise ValueError("still replay is for the tiny model: a latent of this one is of several frames")
    return np.broadcast_to(clip[:, :1], clip.shape)


def _features(source: Sequence[Clip]) -> NDArray[np.float64]:
    """Mean latents and mean absolute temporal change of each clip, on 4 x 4 cells: (clips, 32 C)."""
    features = []
    for clip in source:
        latents = clip["latents"][0].float().numpy() if isinstance(clip, dict) else clip
        parts = np.stack([latents.mean(1), np.abs(np.diff(latents, axis=1)).mean(1)])
        rows, columns = (np.array_split(np.arange(side), 4) for side in parts.shape[2:])
        cells = [parts[:, :, row][:, :, :, column].mean((2, 3)) for row in rows for column in columns]
        features.append(np.stack(cells, axis=-1).ravel())
    return np.stack(features).astype(float)


def _base_clips(pipeline: Pipeline, spec: RunSpec, store: Path) -> list[Clip]:
    """Clips of the base's domains, for a remedy that evaluates the base on them."""
    chosen: list[Clip] = []
    for world in spec.remedy.domains:
        clips_there = _training_clips(pipeline, world, store)
        numbers = buffer(len(clips_there), min(spec.remedy.clips, len(clips_there)), "random", spec.seed)
        chosen += [clips_there[number] for number in numbers]
    return chosen


class EvaluationSeconds(NamedTuple):
    """Seconds of evaluations: one before the last step, the one after it, and the references of a base."""

    before_the_last: float
    last: float
    references: float


@flush_denormals()
def estimate_seconds(missing: list[RunSpec], store: Path, machine: MachineSpec = MachineSpec()) -> float:
    """The estimated time of a grid's missing runs on this machine: a training step and a video are timed, and a few clips
    are measured if the store's references do not record that time.
    """
    spec = missing[0]
    with distributed.threads(machine.threads):
        started = time.monotonic()
        pipeline = pipelines.load(spec, store)
        load = time.monotonic() - started
        encode = _seconds_to_encode(pipeline, missing, store)
        step = _seconds_a_step(pipeline, spec, store, Execution.of(machine, distributed.this_rank()))
        evaluation = _seconds_recorded(spec, store) or _seconds_measured(pipeline, spec, step)
    before = sum(len(run.evaluate_at) - 1 for run in missing)
    bases = sum(not Store(store).is_done(references) for references in {ReferenceSpec.of(run) for run in missing})
    measuring = before * evaluation.before_the_last + len(missing) * evaluation.last + bases * evaluation.references
    worlds = {world for run in missing for world in run.worlds}
    videos = sum(sum(world.videos) for world in worlds if not is_built(world, store / "domains"))
    video, target = 0.0, spec.target
    if videos and isinstance(target, WorldSpec):
        video = _timed(lambda: render_video(target, "dev", 0)) / usable_cores()
    preparing = len(missing) * load + encode if isinstance(pipeline, pipelines.PretrainedPipeline) else 0.0
    return sum(run.training.steps for run in missing) * step + measuring + videos * video + preparing


def _seconds_to_encode(pipeline: Pipeline, missing: list[RunSpec], store: Path) -> float:
    """Seconds to encode all clips of a pretrained model, if none is encoded yet; negligible for the tiny models.

    A call loads the encoders and encodes its clips: one clip, and several, are timed after a first call.
    """
    if not isinstance(pipeline, pipelines.PretrainedPipeline):
        return 0.0
    trained = {world for run in missing for world in (run.target, *run.replay.domains)}
    of_world = [clips.clips_of(build_domain(world, store / "domains"), "train", pipeline.frames) for world in trained]
    measured = missing[0].evaluation.worlds
    count = sum(map(len, of_world)) + missing[0].evaluation.clips * len(measured)
    domain = build_domain(missing[0].target, store / "domains")
    few = clips.clips_of(domain, "train", pipeline.frames)[: 2 + CLIPS_TO_TIME]
    with tempfile.TemporaryDirectory() as home:
        uncached = pipeline.with_network(pipeline.model.transformer)
        uncached.model.cache = Path(home)
        _, one, several = (
            _seconds(lambda part=part: uncached.encode_clips(domain, "train", part, Path(home)))  # type: ignore[misc]
            for part in (few[:1], few[1:2], few[2:])
        )
    each = max(0.0, (several - one) / (len(few) - 3)) if len(few) > 3 else one
    return count * each + (len(trained) + len(measured)) * max(0.0, one - each)


def _seconds_recorded(spec: RunSpec, store: Path) -> EvaluationSeconds | None:
    """The recorded time of the base, one of the references, which is measured like a run after its last step. None if the
    references are missing or do not record it.
    """
    references, evaluation, kept = ReferenceSpec.of(spec), spec.evaluation, Store(store)
    summary = kept.summary(references.run_id) if kept.is_done(references) else {}
    if (last := summary.get("base_seconds")) is None:
        return None
    futures = len(spec.evaluation.worlds) * evaluation.futures_of(at_the_end=True)
    return EvaluationSeconds(last * len(evaluation.domains) * evaluation.futures / futures, last, summary["seconds"])


def _seconds_measured(pipeline: Pipeline, spec: RunSpec, step: float) -> EvaluationSeconds:
    """Estimated from a few clips of noise: seconds to decode and measure them, in both ways, and of a forward pass."""
    evaluation, worlds = spec.evaluation, len(spec.evaluation.worlds)
    height, width = np.broadcast_to(spec.target.size_px, 2).tolist()
    count = max(CLIPS_TO_TIME, math.ceil(N_MIN / (pipeline.frames - pipeline.context_frames)))  # enough for distances
    with tempfile.TemporaryDirectory() as home:
        noise = evaluation_sets.synthetic_set(evaluation, pipeline, (height, width), count, Path(home))

        def measure(thorough: bool) -> float:
            def work() -> None:
                frames = noise.decode(noise.latents, pipeline)
                measurement.measure(noise, frames, evaluation.miss_cap_px, noise.latents, thorough)

            return _seconds(work) / count

        measure(True)  # warms up
        quick, thorough = measure(False), measure(True)
    forward = step / 3 / spec.training.batch_size  # a backward pass takes twice the time
    if isinstance(pipeline, pipelines.TinyPipeline):
        forward = _seconds_of_a_forward(pipeline.model, noise.latents, evaluation.precision)
    guided = spec.model is not None and spec.model.guidance != 1  # with and without the prompt
    sampled, losses = forward * evaluation.sampler_steps * (1 + guided), len(NOISE_LEVELS) * forward
    before = evaluation.clips * len(evaluation.domains) * evaluation.futures * (quick + sampled)
    last = evaluation.clips * worlds * (evaluation.futures_of(at_the_end=True) * (thorough + sampled) + losses)
    features = (evaluation.clips + evaluation.reference_clips) * quick  # of the real clips
    floors = worlds * ((MODELS_OF_REFERENCES - 1) * evaluation.clips * thorough + features)
    return EvaluationSeconds(before, last, floors + last)


def _seconds_of_a_forward(model: Any, latents: torch.Tensor, precision: str) -> float:
    """Seconds of a forward pass with one clip of a tiny model, in this precision."""
    noise = latents[: model.CLIPS_AT_ONCE].to(model.transformer.device)
    with distributed.autocast(noise.device.type, precision):
        return _timed(lambda: model.sample(noise, {"known": noise[:, :, :CONTEXT_FRAMES]}, 1)) / len(noise)


def _seconds_a_step(pipeline: Pipeline, spec: RunSpec, store: Path, execution: Execution) -> float:
    """Seconds of one training step; for a large model three times the forward pass, because its gradients would not fit."""
    size = spec.training.batch_size
    if isinstance(pipeline, pipelines.PretrainedPipeline):
        domain = build_domain(spec.target, store / "domains")
        chosen = clips.clips_of(domain, "train", pipeline.frames)[:size]
        ready = [pipeline.encode_clips(domain, "train", chosen, store)]
        batch = loop.batch_of(pipeline.model, ready, Mixture(0.0, size, [len(chosen)], 0), 0, 0)
        batch = batch.to(pipeline.model.transformer.device)
        with torch.no_grad(), execution.autocast():
            return 3 * _timed(lambda: pipeline.model.loss(*batch[:4]))
    assert isinstance(spec.target, WorldSpec)
    cells = spec.target.size_px // FOLD
    shape = (size, latent_channels(pipeline.model.vae), pipeline.frames, cells, cells)
    device = pipeline.model.transformer.device
    levels = pipeline.model.levels(torch.randn(size), shape)
    latents, condition = stack_clips(list(np.random.default_rng(0).standard_normal(shape, np.float32)))
    batch = loop.Batch(latents, torch.randn(shape), levels, condition).to(device)
    objective, weights = loop.Objective(pipeline.model), list(pipeline.model.transformer.parameters())
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)

    def train() -> None:
        with execution.autocast():
            loss = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, loop.LARGEST_GRADIENT, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _timed(train)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls; the first one is a warm-up."""
    work()
    return _seconds(work)


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def evaluate_again(folder: Path, store: Path) -> pd.DataFrame:
    """Rows of a finished run's last weights, measured again; raises FileNotFoundError if they were not kept."""
    with reading.named(folder / "spec.json", "whole spec of a run", "train the run again"):
        spec = RunSpec.from_dict(reading.json_object(folder / "spec.json"))
    rows = evaluate.evaluate(load_fine_tuned(spec, store, folder), spec.evaluation, store, at_the_end=True)
    return _named(rows, spec, spec.training.steps)


def _named(rows: pd.DataFrame, spec: RunSpec, step: int) -> pd.DataFrame:
    return rows.assign(
        run=spec.run_id, base=spec.base, model="fine-tuned", target=spec.target.name, replay=spec.replay.name,
        replay_fraction=spec.replay.fraction, seed=spec.seed, step=step,
    )  # fmt: skip


def _training_clips(pipeline: Pipeline, world: World, store: Path) -> Sequence[Clip]:
    """The encoded training clips of a domain."""
    domain = build_domain(world, store / "domains")
    return pipeline.encode_clips(domain, "train", clips.clips_of(domain, "train", pipeline.frames), store)
