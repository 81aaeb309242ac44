"""Futures for context frames, with the same noise for every arm.

Decision: Euler steps of flow matching through diffusers' scheduler, the context's latents set back clean before every
step. Noise is asked for by (seed, clip number): it does not depend on batch size, arm or training step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from replaylab import parallel
from replaylab.models import CLIP_FRAMES, CONTEXT_FRAMES, TinyWan
from replaylab.parallel import Place
from replaylab.spec import torch_seed

CLIPS_AT_ONCE = 32


@torch.no_grad()
def futures(
    model: TinyWan, context: Tensor, steps: int, noise_seed: int, first_clip: int = 0, place: Place = Place()
) -> Tensor:
    """Context latents (B, C, K, h, w) to whole clips (B, C, T, h, w) on the CPU, the context itself in front.

    Several ranks take turns with the batches and give each other the results, so all must ask for the same.
    """
    batches, device = context.split(CLIPS_AT_ONCE), model.transformer.device
    made = []
    for first in range(0, len(batches), place.ranks):
        # where batches run out a rank does the last one again: sharded weights need everybody
        number = min(first + place.rank, len(batches) - 1)
        noise = _noise(batches[number], noise_seed, first_clip + number * CLIPS_AT_ONCE)
        mine = _futures(model, batches[number].to(device), steps, noise.to(device)).cpu()
        for rank in range(min(place.ranks, len(batches) - first)):
            shape = (len(batches[first + rank]), *mine.shape[1:])
            made.append(
                parallel.from_rank(place, rank, mine if rank == place.rank else mine.new_empty(shape))
            )
    return torch.cat(made)


@torch.no_grad()
def denoising_losses(model: TinyWan, clips: Tensor, sigma: float, noise_seed: int) -> list[float]:
    """Flow matching's squared error, meaned over the future frames, of each clip's latents (B, C, T, h, w) at one noise
    level in 0..1, with the noise of `futures`.
    """
    losses = []
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        clean = clips[first : first + CLIPS_AT_ONCE]
        noise = _noise(clean, noise_seed, first)
        noisy = (1 - sigma) * clean + sigma * noise
        noisy[:, :, :CONTEXT_FRAMES] = clean[:, :, :CONTEXT_FRAMES]
        device = model.transformer.device
        condition = model.condition(clean[:, :, :CONTEXT_FRAMES].to(device))
        velocity = model.predict(noisy.to(device), torch.full((len(clean),), sigma, device=device), condition)
        error = (velocity.cpu() - (noise - clean))[:, :, CONTEXT_FRAMES:].square()
        losses += error.mean((1, 2, 3, 4)).tolist()
    return losses


def _futures(model: TinyWan, context: Tensor, steps: int, noise: Tensor) -> Tensor:
    from diffusers import FlowMatchEulerDiscreteScheduler

    # a fresh scheduler each time: it counts its own steps
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    condition, latents = model.condition(context), noise
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.to(noise.device), strict=False):
        latents[:, :, :CONTEXT_FRAMES] = context
        velocity = model.predict(latents, sigma.expand(len(latents)), condition)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    latents[:, :, :CONTEXT_FRAMES] = context
    return latents


def _noise(context: Tensor, seed: int, first_clip: int) -> Tensor:
    shape = (context.shape[1], CLIP_FRAMES, *context.shape[3:])
    return torch.stack([
        torch.randn(shape, generator=torch.Generator().manual_seed(torch_seed(seed, "sampling noise", first_clip + clip)))
        for clip in range(len(context))
    ])  # fmt: skip
