"""Training of the autoencoders shared by the bases.

    python -m replaylab pretrain autoencoder --seed 2

Decision: the bases of each edition share one, named by the seed of the first base that uses it. That of the first edition,
0, is also trained on the targets' appearance; that of the second, 2, is not. An interrupted training resumes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaylab.data.domain import Domain
from replaylab.data.video import decode
from replaylab.models import autoencoder
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import WorldSpec, generator
from replaylab.training import bases, cards, checkpoint
from replaylab.util import distributed
from replaylab.util.distributed import flush_denormals
from replaylab.util.progress import report, track
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import domain_spec

TARGET_LOOKS = (  # instruments only
    domain_spec("diverse-driving", videos=(480, 96, 0), seed=100),
    domain_spec("country", motion="free", videos=(480, 96, 0), seed=100, name="country-free"),
)

BATCH, RATE = 48, 1e-3


@dataclass(frozen=True)
class Recipe:
    """Settings of an autoencoder's training. It begins in bf16 if the processor supports it: this is three times as fast,
    but leaves a systematic error in all frames, which the last steps in fp32 remove.
    """

    domains: tuple[WorldSpec, ...]
    latent_channels: int
    steps: int
    steps_in_bf16: int = 0


RECIPES = {
    0: Recipe((bases.NEAR, *bases.FAR, *TARGET_LOOKS), 8, 1500),
    2: Recipe(
        (
            domain_spec("near-any", videos=(8000, 128, 0), seed=1000),
            *(domain_spec(name, videos=(videos, 64, 0), seed=1000)
              for name, videos in (("physics", 1200), ("orbit", 1200), ("doom", 600))),
        ), 8, 6000, 5000,
    ),
}  # fmt: skip


def autoencoder_folder(seed: int) -> Path:
    """The folder of the shipped autoencoder of a seed."""
    return WEIGHTS / (bases.recipe_of(seed).autoencoder)


@flush_denormals()
def train_autoencoder(home: Path, folder: Path | None = None, seed: int = 0, steps: int = 0) -> None:
    """Train an autoencoder on single frames of all its domains; resumes from its folder in `home`.

    steps: 0 for the recipe's own. Raises ValueError for a seed without a recipe.
    """
    if seed not in RECIPES:
        raise ValueError(f"no autoencoder has the seed {seed}: there are {' and '.join(map(str, RECIPES))}")
    started, recipe, folder = time.monotonic(), RECIPES[seed], folder or autoencoder_folder(seed)
    steps, run = steps or recipe.steps, home / "-".join(["autoencoder", *[str(seed)] * (seed != 0)])
    in_bf16 = steps * recipe.steps_in_bf16 // recipe.steps if distributed.best_precision("cpu")[0] == "bf16" else 0
    frames = np.concatenate([all_frames(build_domain(spec, home / "domains"), "train") for spec in recipe.domains])
    torch.manual_seed(seed)  # diffusers draws a new network's weights from the global stream
    vae = autoencoder.new_autoencoder(recipe.latent_channels).to(memory_format=torch.channels_last)
    start_as_principal_components(vae, autoencoder.fold(frames[:: max(1, len(frames) // 2000)]))
    weights = list(vae.parameters())
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=True)
    first = _resume_autoencoder(run, vae, optimizer)
    for step in track(range(first, steps), what=f"autoencoder {seed}", unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
        chosen = generator(seed, "autoencoder batch", step).integers(0, len(frames), BATCH)
        with distributed.autocast("cpu", "bf16" if step < in_bf16 else "fp32"):
            loss = _reconstruction_loss(vae, frames[np.sort(chosen)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            report(f"autoencoder {seed}: step {step + 1}, loss {loss.item():.4f}")
            _save_autoencoder(run, step + 1, vae, optimizer)
    vae.eval()
    with torch.no_grad():
        coded = vae.encode(autoencoder.fold(frames[:: max(1, len(frames) // 2000)])).latents
    vae.register_to_config(scaling_factor=1 / coded.square().mean().sqrt().item())
    autoencoder.save_autoencoder(vae, folder)
    about = {"steps": steps, "steps_in_bf16": in_bf16, "batch_size": BATCH, "seed": seed, "frames": len(frames),
             "seconds": round(time.monotonic() - started), "first_step_of_last_run": first}  # fmt: skip
    cards.write(folder / "vae", "autoencoder", about, recipe.domains, f" --seed {seed}" * (seed != 0))


def all_frames(domain: Domain, split: str) -> NDArray[np.uint8]:
    """Every frame of a split, uint8 (N, H, W, 3)."""
    files = domain.split(split)["file"]
    return np.concatenate([decode(domain.video(Path(file).stem))
                           for file in track(files, what=f"decoding {domain.name} {split}", unit="videos")])  # fmt: skip


def _reconstruction_loss(vae: Any, frames: NDArray[np.uint8]) -> Tensor:
    """Absolute and squared error, and the absolute error of the image gradients, which emphasises the agents' edges."""
    folded = autoencoder.fold(frames)
    decoded = autoencoder.unfold(vae.decode(vae.encode(folded).latents).sample.float())
    real = autoencoder.unfold(folded)
    loss = (decoded - real).abs().mean() + (decoded - real).square().mean()
    for axis in (-1, -2):
        loss = loss + (decoded.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
    return loss


@torch.no_grad()
def start_as_principal_components(vae: Any, folded: Tensor) -> None:
    """Set the weights so that the untrained network is a principal component analysis of `folded` (N, F, h, w).

    This replaces the first part of training. Components are scaled to the fourth root of their variance, a compromise
    between equal scales (all are robust to noise) and their own (noise removes detail first).
    """
    pixels = folded.permute(0, 2, 3, 1).reshape(-1, folded.shape[1])
    mean = pixels.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov((pixels - mean).T))
    count = vae.config["latent_channels"]
    variances, directions = variances[-count:].flip(0), directions[:, -count:].flip(1).T
    sizes = variances**0.25
    sizes = 0.5 * sizes / sizes.square().mean().sqrt()  # small: the decoder begins with a tanh
    into = directions * (sizes / variances.sqrt())[:, None]
    back = directions.T * (variances.sqrt() / sizes)
    signs = torch.cat([torch.eye(count), -torch.eye(count)])  # a pair of rectified channels carries a signed number
    for part in (*vae.encoder.layers, *vae.decoder.layers):
        if hasattr(part, "fuse"):  # a residual block: at first it adds nothing
            part.conv[-1].weight.zero_()
            part.conv[-1].bias.zero_()
    # diffusers' tiny encoder takes (x + 1) / 2, its decoder gives 2 y - 1
    _set_centre(vae.encoder.layers[0], 2 * signs @ into, -signs @ into @ (mean + 1))
    _set_centre(vae.encoder.layers[-1], signs.T, torch.zeros(count))
    _set_centre(vae.decoder.layers[0], signs, torch.zeros(2 * count))
    _set_centre(vae.decoder.layers[-1], back @ signs.T / 2, (mean + 1) / 2)


def _set_centre(layer: Any, matrix: Tensor, bias: Tensor) -> None:
    """Make the leading channels of a 3x3 convolution a matrix product; the others are unchanged and have no effect."""
    rows, columns = matrix.shape
    layer.weight[:rows].zero_()
    layer.weight[:rows, :columns, 1, 1] = matrix
    layer.bias[:rows] = bias


def _save_autoencoder(folder: Path, step: int, vae: Any, optimizer: Any) -> None:
    states = {
        kind: {name: optimizer.state[weight][kind] for name, weight in vae.named_parameters()}
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    checkpoint.save(folder, step, {"vae": vae.state_dict(), **states}, {})


def _resume_autoencoder(folder: Path, vae: Any, optimizer: Any) -> int:
    newest = checkpoint.newest(folder)
    if newest is None:
        return 0
    tensors, state = newest
    vae.load_state_dict(tensors.pop("vae"))
    for name, weight in vae.named_parameters():
        optimizer.state[weight] = {kind: group[name] for kind, group in tensors.items()}
    return int(state["step"])
