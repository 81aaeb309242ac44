"""Training of the bases: transformers trained on diverse domains, whose forgetting under fine-tuning is studied.

    python -m replaylab pretrain base --seed 2
    python -m replaylab pretrain base --seed 2 --sixteenths 4

Decision: a base is trained on diverse domains without the targets' narrow appearance: traffic in many appearances, rigid
bodies, moving cameras, a game. Seeds 0 and 1 have the first edition's recipe, those from 2 on the second's: any motion in
addition to free and ordinary traffic in broader appearances, separate clips for every base, Muon, and a stable phase from
which shorter trainings branch off. An interrupted training resumes; weights are safetensors with a card.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from replaylab.catalogue import CLIP_FRAMES
from replaylab.data import clips
from replaylab.description import Described
from replaylab.evaluation import evaluate, evaluation_sets, measurement
from replaylab.mixture import Mixture
from replaylab.models import autoencoder, latent_cache, pipelines
from replaylab.models.tiny import LARGE, TINY, WIDE, Size, TinyModel
from replaylab.shipped_weights import DIGEST, WEIGHTS, base_folder, published_digest, weights_digest
from replaylab.spec import EvaluationSpec, MachineSpec, TrainingSpec, WorldSpec, torch_seed
from replaylab.training import cards, checkpoint, loop
from replaylab.util import distributed, reading
from replaylab.util.distributed import flush_denormals
from replaylab.util.files import write_atomically, write_folder, write_text
from replaylab.util.progress import report
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import domain_spec

NEAR = domain_spec("near", videos=(2400, 128, 0), seed=100)
FAR = (
    domain_spec("physics", videos=(600, 48, 0), seed=100),
    domain_spec("orbit", videos=(480, 48, 0), seed=100),
    domain_spec("doom", videos=(240, 48, 0), seed=100),
)
BASE_DOMAINS = tuple(  # more of the same than the instruments see: near, then far
    replace(spec, videos=(train_videos, *spec.videos[1:]))
    for spec, train_videos in zip((NEAR, *FAR), (8000, 1200, 1200, 600), strict=True)
)
SIXTEENTHS = (1, 2, 4, 8, 16)  # of its training, that a base can have


@dataclass(frozen=True)
class Recipe(Described):
    """Settings of a base's training and of its evaluation during training."""

    near: tuple[WorldSpec, ...]  # each video as often as any other
    far: tuple[WorldSpec, ...]  # in equal parts
    training: TrainingSpec
    curve: EvaluationSpec
    points: int  # on the curve
    autoencoder: str  # folder among the shipped weights
    is_shared: bool  # whether bases refer to the autoencoder, and are kept as float16
    far_share: float = 0.25  # of the batches
    size: Size = TINY

    @property
    def domains(self) -> tuple[WorldSpec, ...]:
        """All training domains of a base."""
        return self.near + self.far


def recipe_of(seed: int, family: str = "wan", large: bool = False) -> Recipe:
    """The recipe of the first edition's bases, 0 and 1, or of the second's, from 2 on, each with its own clips.

    large: for a GPU, on the same clips. Raises ValueError for a seed below 0, or for a large one below 2.
    """
    if large and seed < 2:
        raise ValueError(f"base {seed} has no large recipe: only those from 2 on")
    if seed < 0:
        raise ValueError(f"the seed of a base is {seed}; it must be 0 or above")
    if seed < 2:
        training = TrainingSpec({"wan": 20000, "cogvideox": 10000}[family], 16, 2e-3, ema_decay=0.998, decay=True)
        curve = _curve(("near", "driving-eventful"), clips=64, references=64)
        return Recipe(BASE_DOMAINS[:1], BASE_DOMAINS[1:], training, curve, 20, "base", False)
    near = (  # a domain's seed is its videos' appearances too
        domain_spec("near-any", videos=(2000, 0, 0), seed=1000 + seed),
        domain_spec("near", name="near-free", look="broad", videos=(5200, 0, 0), seed=2000 + seed),
        domain_spec("near-ordinary", look="broad", videos=(800, 0, 0), seed=3000 + seed),
    )
    far = tuple(
        domain_spec(name, videos=(videos, 0, 0), seed=1000 + seed)
        for name, videos in (("physics", 1200), ("orbit", 1200), ("doom", 600))
    )
    training = TrainingSpec(
        10000, 16, 2e-3, ema_decay=0.998, decay=True, stable_share=0.5, muon_rate=2e-2,
        clip_order="computed",
    )  # fmt: skip
    places = ("driving", "driving-eventful", "near-eventful", "driving-held-out", "country", "country-eventful")
    curve = _curve(places, clips=48, references=80, sampler_steps=4, precision="bf16", measured_in="bf16")
    if large:
        training = replace(training, steps=20000, batch_size=128, ema_decay=0.999)
    return Recipe(near, far, training, curve, 4, "autoencoder-2", True, 0.12, LARGE if large else WIDE)


def _curve(names: tuple[str, ...], clips: int, references: int, **changes: Any) -> EvaluationSpec:
    """Evaluation on dev clips that no base is trained on: other scenes, another seed, or the targets' appearance."""
    domains = tuple(domain_spec(name, videos=(0, 128, 128)) for name in names)
    return EvaluationSpec(domains, "dev", clips, references, **changes)


@flush_denormals()
def train_base(
    home: Path, folder: Path | None = None, steps: int = 0, seed: int = 0, machine: MachineSpec = MachineSpec(),
    family: str = "wan", sixteenths: int = 16, large: bool = False,
) -> None:  # fmt: skip
    """Train a family's transformer on the diverse domains' latents; resumes from its folder in `home`.

    Every family and seed has its own folder among the shipped weights. `curve.csv` beside the weights has fidelity and
    dynamics on dev clips during training, `samples/` some of these clips, real and generated after training. steps: 0 for
    the recipe's own. sixteenths: share of these steps, with the recipe's decay at the end; it branches off the whole
    training if that is in `home`, with bit-identical results, and has no clips. large: with the recipe for a GPU; any base
    is trained on a GPU if there is one. Raises ValueError for a share that is not in SIXTEENTHS, or if the recipe has no
    stable phase to branch off.
    """
    recipe, rank = recipe_of(seed, family, large), distributed.this_rank()
    if rank.world_size > 1:
        raise ValueError(f"a base is trained by one process, and there are {rank.world_size}: start it without torchrun")
    whole = replace(recipe.training, steps=steps or recipe.training.steps)
    if sixteenths not in SIXTEENTHS or (sixteenths < 16 and not whole.stable_share):
        raise ValueError(f"base {seed} cannot be trained for {sixteenths}/16 of its steps: only bases from 2 on, by "
                         f"{', '.join(map(str, SIXTEENTHS))} sixteenths")  # fmt: skip
    training, is_whole = _part(whole, sixteenths), sixteenths == 16
    folder = folder or base_folder(seed, family, sixteenths, large)
    shared = WEIGHTS / recipe.autoencoder if recipe.is_shared else None
    if not shared and not (folder / "vae").is_dir():
        vae = WEIGHTS / recipe.autoencoder / "vae"
        write_folder(folder / "vae", lambda fresh: shutil.copytree(vae, fresh, dirs_exist_ok=True))
    model = new_model(family, seed, shared or folder, recipe.size).to(rank.device)
    sources = sources_of(recipe, model, home)
    mixture = mixture_of(replace(recipe, training=training), sources, seed)
    points = {ceil(training.steps * (point + 1) / recipe.points) for point in range(recipe.points)}
    if not is_whole:  # where it branches off, it has points of its own
        points = {step for step in points if step >= _end_of_stable_phase(training)}
    run = home / base_folder(seed, family, sixteenths, large).name
    branches = {} if not is_whole or not whole.stable_share else {
        _end_of_stable_phase(_part(whole, part)): home / base_folder(seed, family, part, large).name
        for part in SIXTEENTHS[:-1]
    }  # fmt: skip
    branches.pop(0, None)  # a training of a few steps

    def at(step: int) -> None:
        if step in branches:
            _branch_off(run, branches[step], step)
        if step in points:
            _measure(model, recipe.curve, step, home, run, keeps_clips=is_whole and step == training.steps)

    loop.fit(
        model, sources, mixture, training, seed, run, f"base {family} {seed}", machine=machine, rank=rank,
        evaluate_at=sorted(points | branches.keys()), evaluate=at,
    )  # fmt: skip
    model.save(folder, shared_autoencoder=shared)
    if is_whole:
        write_folder(folder / "samples", lambda fresh: shutil.copytree(run / "samples", fresh, dirs_exist_ok=True))
    curve = pd.concat([reading.csv(run / f"curve-{step:06d}.csv") for step in sorted(points)])
    curve = pd.concat([_references(model, recipe.curve, home), curve], ignore_index=True)
    write_atomically(folder / "curve.csv", lambda aside: curve.to_csv(aside, index=False, float_format="%.4f"))
    about = {"steps": training.steps, "batch_size": training.batch_size, "seed": seed,
             "learning_rate": training.learning_rate, "muon_rate": training.muon_rate, "stable_share": training.stable_share,
             "million_weights": round(sum(weight.numel() for weight in model.transformer.parameters()) / 1e6, 2),
             "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if rank.device.type == "cuda" else 0,
             "clips": [len(source) for source in sources], "samples": mixture.counts(training.steps),
             "seconds": round(loop.seconds_logged(run)), **reading.json_object(run / "manifest.json")}  # fmt: skip
    options = (
        f" --family {family}" * (family != "wan") + f" --seed {seed}" * (seed != 0)
        + f" --sixteenths {sixteenths}" * (sixteenths != 16) + " --large" * large + f" --precision {about['precision']}"
    )  # fmt: skip
    cards.write(folder, "base", about, recipe.domains, options, keeps_json=_is_shipped(seed, family, sixteenths))
    if (folder / DIGEST).is_file():
        is_same = weights_digest(folder) == published_digest(folder)
        report(f"{folder}: the {'same bits as' if is_same else 'bits differ from those of'} the published weights")


def _is_shipped(seed: int, family: str, sixteenths: int) -> bool:
    """Whether a base's weights are meant for the repository, or are an extra (large); of the others it has only the digests,
    which must not depend on how long the training took.
    """
    return seed < 2 or (family == "wan" and sixteenths == 16)


def new_model(family: str, seed: int, folder: Path, size: Size = TINY) -> TinyModel:
    """An untrained model with the autoencoder in a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "new transformer"))  # diffusers draws from the global stream
        return pipelines.TINY[family].new(autoencoder.load_autoencoder(folder), size)


def sources_of(recipe: Recipe, model: TinyModel, home: Path) -> list[latent_cache.CachedClips]:
    """Training clips as latents, all near ones together, then those of each far domain; rendered and encoded if they are not
    cached.
    """
    sources = []
    for spec in recipe.domains:
        domain = build_domain(spec, home / "domains")
        chosen = clips.clips_of(domain, "train", CLIP_FRAMES)
        key = autoencoder.digest(model.vae)
        sources.append(latent_cache.encode_clips(model, domain, "train", chosen, home / "latents", key))
    near = len(recipe.near)
    return [latent_cache.joined(sources[:near]), *sources[near:]]


def mixture_of(recipe: Recipe, sources: loop.Sources, seed: int) -> Mixture:
    """The mixture of near and far clips in a base's training."""
    sizes, training = [len(source) for source in sources], recipe.training
    return Mixture(recipe.far_share, training.batch_size, sizes, seed, clip_order=training.clip_order)


def measured(model: TinyModel, curve: EvaluationSpec, home: Path) -> pd.DataFrame:
    """Means over clips: columns domain, measure, value."""
    return _means(evaluate.evaluate(pipelines.TinyPipeline(model), curve, home))


def _part(training: TrainingSpec, sixteenths: int) -> TrainingSpec:
    return replace(training, steps=ceil(training.steps * sixteenths / 16))


def _end_of_stable_phase(training: TrainingSpec) -> int:
    """The last step with the full learning rate; a shorter training is identical up to it."""
    return int(training.stable_share * training.steps)


def _branch_off(run: Path, branch: Path, step: int) -> None:
    """Begin a shorter training with the checkpoint, log and manifest of this one."""
    checkpoint.copy(run / "checkpoints", branch / "checkpoints", step)
    for name in ("log.jsonl", "manifest.json"):
        write_text(branch / name, reading.text(run / name))


def _measure(model: TinyModel, curve: EvaluationSpec, step: int, home: Path, run: Path, keeps_clips: bool) -> None:
    path, pipeline = run / f"curve-{step:06d}.csv", pipelines.TinyPipeline(model)
    if not path.is_file():
        kept = (_keep_real(pipeline, curve, home, run / "samples"), run / "samples" / "base") if keeps_clips else None
        table = _means(evaluate.evaluate(pipeline, curve, home, kept)).assign(model="base", step=step)
        write_atomically(path, lambda aside: table.to_csv(aside, index=False))
        ades = table[table["measure"] == "ade_px"].set_index("domain")["value"]
        report(f"base: step {step}: " + "; ".join(f"ADE {ade:.2f} px on {domain}" for domain, ade in ades.items()))


def _keep_real(pipeline: pipelines.TinyPipeline, curve: EvaluationSpec, home: Path, folder: Path) -> evaluate.Gallery:
    """Keep the real clips at some percentiles of the agents' displacement; returns their numbers."""
    gallery: evaluate.Gallery = {}
    for evaluation_set in evaluation_sets.prepare_sets(curve, home, pipeline=pipeline):
        still, real = (
            measurement.measure(evaluation_set, frames, curve.miss_cap_px)
            for frames in (evaluate.copy_last_frame(evaluation_set.frames), evaluation_set.frames)
        )
        gallery[evaluation_set.name] = evaluate.at_percentiles(still.rows)
        evaluate.keep_clips(folder / "real", evaluation_set, evaluation_set.frames, real, gallery[evaluation_set.name])
    return gallery


def _references(model: TinyModel, curve: EvaluationSpec, home: Path) -> pd.DataFrame:
    """Copy-last-frame, the autoencoder and constant velocity on the curve's clips."""
    pipeline, cap, parts = pipelines.TinyPipeline(model), curve.miss_cap_px, []
    for evaluation_set in evaluation_sets.prepare_sets(curve, home, pipeline=pipeline):
        for name, frames in (
            ("copy-last-frame", evaluate.copy_last_frame(evaluation_set.frames)),
            ("autoencoder", evaluate.autoencoded(evaluation_set.frames, pipeline)),
        ):
            rows = measurement.measure(evaluation_set, frames, cap).rows
            parts.append(_means(rows).assign(model=name, step=-1))
        if evaluation_set.has_agents:
            rows = measurement.measure_boxes(evaluation_set, evaluation_set.extrapolated, cap)
            parts.append(_means(rows).assign(model="constant-velocity", step=-1))
    return pd.concat(parts)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["domain", "measure"], as_index=False)["value"].mean()
