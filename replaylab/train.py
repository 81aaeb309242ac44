"""The loop: fit a video generator to mixed batches of latents, resumably.

Decision: every random number of a step is asked for by (seed, step), the batch by the mixture, so a run that was
killed continues from its newest checkpoint as if nothing had happened. Weights are averaged (EMA), and it is the
average that is evaluated and kept. fp32 on the CPU.

Shapes as in `models`: latents (B, C, T, h, w), of which the first K frames are context.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaylab import checkpoint
from replaylab.mixture import Mixture
from replaylab.models import CONTEXT_FRAMES, TinyWan
from replaylab.progress import track
from replaylab.spec import torch_seed

STEPS_A_CHECKPOINT = 100
WARM_UP_STEPS = 20
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Recipe:
    """How to fit. `decay`: the rate falls linearly to zero at the end, as in pretraining; else it is constant."""

    steps: int
    learning_rate: float
    ema_decay: float
    seed: int
    decay: bool = False


def loss_of(model: TinyWan, latents: Tensor, seed: int, step: int) -> Tensor:
    """Flow matching (Lipman et al. 2023, eq. 14) on the future frames, weighted by sigma squared.

    That is the squared error of the clean latents: unweighted, an error of a prediction x counts 1 / sigma^2 times,
    and the last traces of noise drown the motion. Noise levels are logit-normal, shifted (Esser et al. 2024).
    """
    random = torch.Generator().manual_seed(torch_seed(seed, "training noise", step))
    noise = torch.randn(latents.shape, generator=random)
    sigma = torch.randn(len(latents), generator=random).sigmoid()
    shift = model.scheduler.config["shift"]
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    level = sigma[:, None, None, None, None]
    noisy = (1 - level) * latents + level * noise
    noisy[:, :, :CONTEXT_FRAMES] = latents[:, :, :CONTEXT_FRAMES]  # the context is never noisy
    velocity = model.predict(noisy, sigma, model.condition(latents[:, :, :CONTEXT_FRAMES], latents.shape[2]))
    future = slice(CONTEXT_FRAMES, None)
    return (level * (velocity - (noise - latents)))[:, :, future].square().mean()


def batch_of(sources: Sequence[Sequence[NDArray[np.float32]]], mixture: Mixture, step: int) -> Tensor:
    """The latents that the mixture names."""
    return torch.from_numpy(np.stack([sources[slot.domain][slot.clip] for slot in mixture.batch(step)]))


def fit(
    model: TinyWan,
    sources: Sequence[Sequence[NDArray[np.float32]]],
    mixture: Mixture,
    recipe: Recipe,
    folder: Path,
    what: str,
    evaluate_at: Sequence[int] = (),
    evaluate: Callable[[int], None] = lambda step: None,
) -> None:
    """Train `model` in place and leave it with its averaged weights.

    `evaluate(step)` is called with the averaged weights in place after each step of `evaluate_at`. Raises
    FloatingPointError, with the step and the last good checkpoint, on a loss that is not finite.
    """
    from diffusers.training_utils import EMAModel

    network = model.transformer.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.01, fused=True)
    average = EMAModel(weights, decay=recipe.ema_decay)
    first = _resume(folder, weights, optimizer, average)
    log = _open_log(folder, first)
    since = time.monotonic()
    for step in track(range(first, recipe.steps), what=what, unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(recipe, step)
        loss = loss_of(model, batch_of(sources, mixture, step), recipe.seed, step)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"{what}: the loss of step {step} is {loss.item()}; clips {mixture.batch(step)}; the last good checkpoint "
                f"in {folder / 'checkpoints'} is kept: lower the learning rate, {recipe.learning_rate}, and run again"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
        optimizer.step()
        average.step(weights)
        log.write(
            json.dumps({"step": step + 1, "loss": loss.item(), "seconds": round(time.monotonic() - since, 3)})
            + "\n"
        )
        done = step + 1
        if done in evaluate_at:
            average.store(weights)
            average.copy_to(weights)
            network.eval()
            evaluate(done)
            network.train()
            average.restore(weights)
        if done % STEPS_A_CHECKPOINT == 0 or done == recipe.steps:
            log.flush()
            _save(folder, done, weights, optimizer, average)
    log.close()
    average.copy_to(weights)
    network.eval()


def _schedule(recipe: Recipe, step: int) -> float:
    left = 1 - step / recipe.steps if recipe.decay else 1.0
    return min(1.0, (step + 1) / WARM_UP_STEPS) * left


def _open_log(folder: Path, steps: int) -> Any:
    """The log, cut to the steps that the checkpoint knows of."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)[:steps] if path.is_file() else []
    path.write_text("".join(lines))
    return path.open("a")


def _save(folder: Path, step: int, weights: list[Any], optimizer: Any, average: Any) -> None:
    states = [optimizer.state[weight] for weight in weights]
    tensors = {
        "weights": dict(enumerate(weight.detach() for weight in weights)),
        "average": dict(enumerate(average.shadow_params)),
        **{
            kind: dict(enumerate(state[kind] for state in states))
            for kind in ("exp_avg", "exp_avg_sq", "step")
        },
    }
    named = {name: {f"{i:04d}": value for i, value in group.items()} for name, group in tensors.items()}
    checkpoint.save(folder / "checkpoints", step, named, {"average_steps": average.optimization_step})


def _resume(folder: Path, weights: list[Any], optimizer: Any, average: Any) -> int:
    """Take the newest checkpoint's state; returns how many steps it has seen."""
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        return 0
    tensors, state = found
    with torch.no_grad():
        for i, weight in enumerate(weights):
            weight.copy_(tensors["weights"][f"{i:04d}"])
            average.shadow_params[i].copy_(tensors["average"][f"{i:04d}"])
            optimizer.state[weight] = {
                kind: tensors[kind][f"{i:04d}"] for kind in ("exp_avg", "exp_avg_sq", "step")
            }
    average.optimization_step = state["average_steps"]
    return int(state["step"])
