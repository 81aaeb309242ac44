"""The bases: transformers trained on diverse domains, which fine-tuning makes forget.

    python -m replaylab pretrain base --seed 0

Decision: a base is trained on diverse domains without the targets' narrow appearance: traffic of many appearances that moves
freely, rigid bodies, moving cameras, a game. Training resumes where it was killed; weights are safetensors with a card.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import ceil
from pathlib import Path

import pandas as pd
import torch

from replaylab.catalogue import CLIP_FRAMES
from replaylab.data import clips
from replaylab.evaluation import evaluate, evaluation_sets, measurement
from replaylab.mixture import Mixture
from replaylab.models import autoencoder, latent_cache, pipelines
from replaylab.models.tiny import TinyModel
from replaylab.spec import WEIGHTS, EvaluationSpec, MachineSpec, TrainingSpec, base_folder, torch_seed, weights_digest
from replaylab.training import cards, loop
from replaylab.util.distributed import flush_denormals
from replaylab.util.files import write_atomically
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
FAR_SHARE = 0.25  # of the base's batches, in equal parts
BASE_STEPS, BASE_BATCH, BASE_RATE = {"wan": 20000, "cogvideox": 10000}, 16, 2e-3
CURVE_POINTS = 20  # how often the base is measured while it learns
CURVE = EvaluationSpec(  # appearances never trained on (other scenes, another seed), and the target's
    tuple(domain_spec(name, videos=(0, 128, 128)) for name in ("near", "driving-eventful")), "dev", 64, 64
)


@flush_denormals()
def train_base(
    home: Path, folder: Path | None = None, steps: int = 0, seed: int = 0, machine: MachineSpec = MachineSpec(),
    family: str = "wan",
) -> None:  # fmt: skip
    """Train a family's transformer on the diverse domains' latents; resumes from its folder in `home`.

    Every family and seed has a folder of its own among the shipped weights, with the autoencoder. `curve.csv` beside the
    weights has fidelity and dynamics on dev clips during training. steps: 0 for the family's own.
    """
    steps = steps or BASE_STEPS[family]
    folder = folder or base_folder(seed, family)
    if not (folder / "vae").is_dir():
        shutil.copytree(WEIGHTS / "base" / "vae", folder / "vae")
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "new transformer"))  # diffusers draws from the global stream
        model = pipelines.TINY[family].new(autoencoder.load_autoencoder(folder))
    sources = []
    for spec in BASE_DOMAINS:
        domain = build_domain(spec, home / "domains")
        chosen = clips.clips_of(domain, "train", CLIP_FRAMES)
        sources.append(
            latent_cache.encode_clips(model, domain, "train", chosen, home / "latents", weights_digest(folder / "vae"))
        )
    mixture = Mixture(FAR_SHARE, BASE_BATCH, [len(source) for source in sources], seed)
    training = TrainingSpec(steps, BASE_BATCH, BASE_RATE, ema_decay=0.998, decay=True)
    points = sorted({ceil(steps * (point + 1) / CURVE_POINTS) for point in range(CURVE_POINTS)})
    run = home / base_folder(seed, family).name
    loop.fit(
        model, sources, mixture, training, seed, run, f"base {family} {seed}", machine=machine, evaluate_at=points,
        evaluate=lambda step: _measure(model, step, home, run),
    )  # fmt: skip
    model.save(folder)
    curve = pd.concat([pd.read_csv(run / f"curve-{step:06d}.csv") for step in points])
    curve = pd.concat([_floors(home), curve], ignore_index=True)
    write_atomically(folder / "curve.csv", lambda path: curve.to_csv(path, index=False, float_format="%.4f"))
    about = {"steps": steps, "batch_size": BASE_BATCH, "seed": seed, "learning_rate": BASE_RATE,
             "clips": [len(source) for source in sources], "samples": mixture.counts(steps),
             "seconds": round(loop.seconds_logged(run)), **json.loads((run / "manifest.json").read_text())}  # fmt: skip
    options = (
        f" --family {family}" * (family != "wan") + f" --seed {seed}" * (seed != 0) + f" --precision {about['precision']}"
    )
    cards.write(folder, "base", about, BASE_DOMAINS, options)


def _measure(model: TinyModel, step: int, home: Path, run: Path) -> None:
    path = run / f"curve-{step:06d}.csv"
    if not path.is_file():
        table = _means(evaluate.evaluate(pipelines.TinyPipeline(model), CURVE, home)).assign(model="base", step=step)
        write_atomically(path, lambda aside: table.to_csv(aside, index=False))
        ades = table[table["measure"] == "ade_px"].set_index("domain")["value"]
        report(f"base: step {step}: " + "; ".join(f"ADE {ade:.2f} px on {domain}" for domain, ade in ades.items()))


def _floors(home: Path) -> pd.DataFrame:
    """Copy-last-frame and the autoencoder on the curve's clips."""
    parts = []
    for evaluation_set in evaluation_sets.prepare_sets(CURVE, home):
        for name, frames in (
            ("copy-last-frame", evaluate.copy_last_frame(evaluation_set.frames)),
            ("autoencoder", evaluate.autoencoded(evaluation_set.frames)),
        ):
            rows = measurement.measure(evaluation_set, frames, CURVE.miss_cap_px).rows
            parts.append(_means(rows).assign(model=name, step=-1))
    return pd.concat(parts)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["domain", "measure"], as_index=False)["value"].mean()
