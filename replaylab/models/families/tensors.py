"""Pixels and conditions as tensors: small functions used by every family. Shapes as in `interface`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from replaylab.models.interface import Condition
from replaylab.spec import torch_seed
from replaylab.util.cache import cached


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 (B, T, H, W, 3) to (B, 3, T, H, W) in -1..1."""
    return torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float() / 255 * 2 - 1


def to_frames(pixels: Tensor) -> np.ndarray:
    """(B, 3, T, H, W) in -1..1 to uint8 (B, T, H, W, 3)."""
    in_bytes = (pixels.float().clamp(-1, 1) / 2 + 0.5) * 255
    return in_bytes.round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


def generator_of(context: np.ndarray) -> torch.Generator:
    """The generator of noise for encoding a context, seeded by the context, so that a condition is a function of it."""
    number = int(hashlib.sha256(context.tobytes()).hexdigest()[:15], 16)
    return torch.Generator().manual_seed(torch_seed(0, "encoding a context", number))


def check_format(
    family: str, context_frames: int, frames: int, sides: tuple[int, int], *, multiple: int, every: int = 1,
    context_every: int = 1,
) -> None:  # fmt: skip
    """Raise ValueError unless the clip has n x `every` + 1 frames, with n x `context_every` + 1 context frames, and its
    sides are multiples of `multiple` pixels.
    """
    if frames % every != 1 % every:
        nearest = max(1, round((frames - 1) / every)) * every + 1
        raise ValueError(f"{family} takes clips of n x {every} + 1 frames, not of {frames}: take {nearest}")
    if any(side % multiple for side in sides):
        near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in sides)
        raise ValueError(
            f"{family} takes frames whose sides are multiples of {multiple} px, not {sides[0]}x{sides[1]} (height x width): "
            f"make the domain with --size {near}"
        )
    if not 1 <= context_frames < frames:
        raise ValueError(f"{family} takes 1 to {frames - 1} context frames of {frames}, not {context_frames}")
    if context_frames % context_every != 1 % context_every:
        raise ValueError(f"{family} takes a context of n x {context_every} + 1 frames, not of {context_frames}")


def empty(*shape: int) -> Tensor:
    """An uninitialised bf16 tensor, on the meta device where operations are counted."""
    return torch.empty(shape, dtype=torch.bfloat16)


def on_cpu(condition: Condition) -> Condition:
    """The same tensors, contiguous, on the CPU."""
    return {name: tensor.cpu().contiguous() for name, tensor in condition.items()}


def cached_tensors(path: Path, make: Callable[[], Condition]) -> Condition:
    """The result of `make`, memory-mapped from the file, which is written first if it is missing."""
    from safetensors.torch import load_file, save_file

    return cached(path, load_file, lambda aside, made: save_file(made, aside), lambda: on_cpu(make()))
