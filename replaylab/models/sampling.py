"""Sampled futures of context frames, and denoising losses, with the same noise for every configuration.

Decision: a model samples with its family's own scheduler; this module determines the noise, a function of (seed, clip
number) that does not depend on batch size, configuration or training step. Shapes as in `interface`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replaylab.models.interface import Condition, VideoModel
from replaylab.spec import torch_seed
from replaylab.util import distributed
from replaylab.util.distributed import Rank


@torch.no_grad()
def futures(
    model: VideoModel, condition: Condition, shape: Sequence[int], steps: int, noise_seed: int, first_clip: int = 0,
    rank: Rank = Rank(),
) -> Tensor:  # fmt: skip
    """Whole clips as latents (B, *shape) on the CPU, beginning with the context.

    The ranks share the batches and broadcast the results, so every rank must make the same call.
    """
    device, size = model.transformer.device, model.CLIPS_AT_ONCE
    firsts = range(0, _clips_in(condition), size)
    sampled = []
    for turn in range(0, len(firsts), rank.world_size):
        # where batches run out a rank repeats the last one: sharded weights need every rank
        first = firsts[min(turn + rank.index, len(firsts) - 1)]
        known = _slice(condition, first, size, device)
        noise = _noise(_clips_in(known), shape, noise_seed, first_clip + first)
        mine = model.sample(noise.to(device), known, steps).cpu()
        for source in range(min(rank.world_size, len(firsts) - turn)):
            count = min(size, _clips_in(condition) - firsts[turn + source])
            part = mine if source == rank.index else mine.new_empty(count, *shape)
            sampled.append(distributed.broadcast(rank, source, part))
    return torch.cat(sampled)


@torch.no_grad()
def denoising_losses(
    model: VideoModel, clips: Tensor, condition: Condition, share: float, noise_seed: int, first_clip: int = 0
) -> list[float]:
    """The mean squared error of each clip's prediction (`VideoModel.errors`) at one noise level, from latents
    (B, C, t, h, w) and the noise of `futures`. `share`: from 0, no noise, to 1 (`level_at`).
    """
    losses: list[float] = []
    device, size, shape = model.transformer.device, model.CLIPS_AT_ONCE, clips.shape[1:]
    level = model.level_at(share, clips.shape).to(device)
    for first in range(0, len(clips), size):
        clean = clips[first : first + size]
        noise = _noise(len(clean), shape, noise_seed, first_clip + first)
        known = _slice(condition, first, size, device)
        losses += model.errors(clean.to(device), noise.to(device), level.expand(len(clean)), known).tolist()
    return losses


def _clips_in(condition: Condition) -> int:
    """The number of clips of a condition."""
    return len(next(iter(condition.values())))


def _slice(condition: Condition, first: int, count: int, device: torch.device) -> Condition:
    """The condition of `count` clips from the first one on."""
    return {name: tensor[first : first + count].to(device) for name, tensor in condition.items()}


def _noise(clips: int, shape: Sequence[int], seed: int, first_clip: int) -> Tensor:
    return torch.stack([
        torch.randn(*shape, generator=torch.Generator().manual_seed(torch_seed(seed, "sampling noise", first_clip + clip)))
        for clip in range(clips)
    ])  # fmt: skip
