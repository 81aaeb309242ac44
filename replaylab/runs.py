"""One run, from its spec to its summary.

Decision: everything a run needs is found or made under the store (`domains/`, `latents/`, `references-…/`), everything
it gives lies in its own folder, and running it again continues it: rendered chunks, latents, the newest checkpoint and
the rows of every evaluation that was finished are taken as they are.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from replaylab import clips, evaluate, latents, models, records, train, worlds
from replaylab.mixture import Mixture
from replaylab.models import CLIP_FRAMES, TinyWan
from replaylab.records import ReferenceSpec
from replaylab.spec import WEIGHTS, RunSpec, WorldSpec, weights_digest


@models.no_denormals()
def train_one(plain_spec: dict[str, Any], store: Path) -> str:
    """Train, evaluate and record one run; returns its id. Takes a spec as plain JSON: that is what travels."""
    spec = RunSpec.from_dict(plain_spec)
    folder = records.claim(spec, store)
    if records.is_done(spec, store):
        return spec.run_id
    started = time.monotonic()
    references = evaluate.references(ReferenceSpec.of(spec), store)
    if weights_digest(WEIGHTS / "base") != spec.base:
        raise ValueError(
            f"{WEIGHTS / 'base'} holds weights {weights_digest(WEIGHTS / 'base')}, but the run wants {spec.base}"
        )
    model = TinyWan.load(WEIGHTS / "base")
    sources = [_latents(model, world, store) for world in (spec.target, *spec.replay)]
    mixture = Mixture(spec.replay_fraction, spec.batch_size, [len(source) for source in sources], spec.seed)
    recipe = train.Recipe(spec.steps, spec.learning_rate, spec.ema_decay, spec.seed)

    def evaluate_now(step: int) -> None:
        path = folder / f"rows-{step:06d}.parquet"
        if not path.is_file():
            last = (references, folder / "samples") if step == spec.steps else None
            rows = evaluate.evaluate(model, spec.evaluation, store, last)
            records.write_rows(path, _named(rows, spec, step))

    train.fit(model, sources, mixture, recipe, folder, _title(spec), spec.evaluate_at, evaluate_now)
    models.save_part(model.transformer, folder / "transformer")
    parts = [folder / f"rows-{step:06d}.parquet" for step in spec.evaluate_at]
    counts = mixture.counts(spec.steps)
    records.finish(
        folder, pd.concat(map(pd.read_parquet, parts), ignore_index=True),
        seconds=round(time.monotonic() - started, 1),
        realised_samples=dict(zip([spec.target.name, *(world.name for world in spec.replay)], counts, strict=True)),
        realised_replay_fraction=sum(counts[1:]) / sum(counts),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    for part in parts:
        part.unlink()
    shutil.rmtree(folder / "checkpoints")
    return spec.run_id


@models.no_denormals()
def estimate_seconds(missing: list[RunSpec], store: Path) -> float:
    """What the missing runs of one grid will take here, from a training step, a few measured frames and a video, timed."""
    spec = missing[0]
    evaluation = spec.evaluation
    model = TinyWan.load(WEIGHTS / "base")
    cells = spec.target.size_px // models.FOLD
    batch = torch.randn(spec.batch_size, models.LATENT_CHANNELS, CLIP_FRAMES, cells, cells)
    step = _timed(lambda: train.loss_of(model, batch, 0, 0).backward())
    frames = np.zeros(
        (evaluate.CLIPS_TO_TIME, CLIP_FRAMES, spec.target.size_px, spec.target.size_px, 3), np.uint8
    )
    measured = _timed(lambda: evaluate.measure_frames(frames)) / len(frames)
    sampled = (
        step / 3 / spec.batch_size * evaluation.sampler_steps
    )  # a step goes forwards once, backwards twice
    clips_measured = evaluation.clips * len(evaluation.domains)
    references = records.is_done(ReferenceSpec.of(spec), store)
    evaluations = len(missing) * len(spec.evaluate_at) + (0 if references else 4)
    worlds_needed = {*evaluation.domains, *(world for run in missing for world in (run.target, *run.replay))}
    videos = sum(
        sum(world.videos) for world in worlds_needed if not worlds.is_built(world, store / "domains")
    )
    video = _timed(lambda: worlds.render_video(spec.target, "dev", 0)) / worlds.processes() if videos else 0.0
    return (
        len(missing) * spec.steps * step
        + evaluations * clips_measured * (measured + sampled)
        + videos * video
    )


def _timed(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls: the first one warms up."""
    work()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def evaluate_again(folder: Path, store: Path) -> pd.DataFrame:
    """Rows of a finished run's last weights, measured anew; raises FileNotFoundError if they were not kept."""
    from diffusers import WanTransformer3DModel

    if not (folder / "transformer").is_dir():
        raise FileNotFoundError(
            f"{folder / 'transformer'} is missing: this run's weights were not kept, train it again"
        )
    spec = RunSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    model = TinyWan.load(WEIGHTS / "base")
    model.transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
    return _named(evaluate.evaluate(model, spec.evaluation, store), spec, spec.steps)


def _named(rows: pd.DataFrame, spec: RunSpec, step: int) -> pd.DataFrame:
    return rows.assign(run=spec.run_id, model="fine-tuned", replay=spec.replay_name,
                       replay_fraction=spec.replay_fraction, seed=spec.seed, step=step)  # fmt: skip


def _latents(model: TinyWan, world: WorldSpec, store: Path) -> Any:
    domain = worlds.build(world, store / "domains")
    chosen = clips.clips_of(domain, "train", CLIP_FRAMES)
    key = weights_digest(WEIGHTS / "base" / "vae")
    return latents.encoded(model, domain, "train", chosen, store / "latents", key)


def _title(spec: RunSpec) -> str:
    return f"replay {spec.replay_fraction:.0%}, seed {spec.seed}"
