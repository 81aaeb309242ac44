"""Futures for context frames, with the same noise for every arm.

Decision: a model draws by its family's own sampler; what is decided here is the noise. It is asked for by (seed, clip
number) and does not depend on batch size, arm or training step.

Shapes as in `models`.
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
    """Whole clips as latents (B, *shape) on the CPU, the context in front, for what is known of each.

    Several ranks take turns with the batches and give each other the results, so all must ask for the same.
    """
    device, size = model.transformer.device, model.CLIPS_AT_ONCE
    firsts = range(0, clips_in(condition), size)
    made = []
    for turn in range(0, len(firsts), rank.world_size):
        # where batches run out a rank does the last one again: sharded weights need everybody
        first = firsts[min(turn + rank.index, len(firsts) - 1)]
        known = part_of(condition, first, size, device)
        noise = _noise(clips_in(known), shape, noise_seed, first_clip + first)
        mine = model.draw(noise.to(device), known, steps).cpu()
        for source in range(min(rank.world_size, len(firsts) - turn)):
            count = min(size, clips_in(condition) - firsts[turn + source])
            made.append(
                distributed.broadcast(rank, source, mine if source == rank.index else mine.new_empty(count, *shape))
            )
    return torch.cat(made)


@torch.no_grad()
def denoising_losses(
    model: VideoModel, clips: Tensor, condition: Condition, share: float, noise_seed: int
) -> list[float]:
    """The squared error, meaned over what is not known, of each clip's latents (B, C, T, h, w) at one noise level, with the
    noise of `futures`. `share`: from 0, no noise, to 1 (`level_at`).
    """
    losses: list[float] = []
    device, size, shape = model.transformer.device, model.CLIPS_AT_ONCE, clips.shape[1:]
    level = model.level_at(share, clips.shape).to(device)
    for first in range(0, len(clips), size):
        clean = clips[first : first + size]
        noise = _noise(len(clean), shape, noise_seed, first)
        known = part_of(condition, first, size, device)
        losses += model.errors(clean.to(device), noise.to(device), level.expand(len(clean)), known).tolist()
    return losses


def clips_in(condition: Condition) -> int:
    """How many clips a condition is of."""
    return len(next(iter(condition.values())))


def part_of(condition: Condition, first: int, count: int, device: torch.device) -> Condition:
    """What is known of `count` clips from the first one on."""
    return {name: tensor[first : first + count].to(device) for name, tensor in condition.items()}


def _noise(clips: int, shape: Sequence[int], seed: int, first_clip: int) -> Tensor:
    return torch.stack([
        torch.randn(*shape, generator=torch.Generator().manual_seed(torch_seed(seed, "sampling noise", first_clip + clip)))
        for clip in range(clips)
    ])  # fmt: skip
