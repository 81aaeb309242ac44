"""What the training loop, the sampler and the evaluation need of a video generator, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaylab.catalogue import CONTEXT_FRAMES

Condition = dict[str, Tensor]
"""What is known of some clips beside their latents: tensors whose first axis is the clip. `known` in it are latents that
are never noisy, (B, C, k, h, w), in front."""


Clip = NDArray[np.float32] | Condition
"""One clip to learn from: latents (C, T, h, w) that hold all that is known; or what is known, with its `latents`, each with
a first axis of one."""


def stacked(clips: Sequence[Clip]) -> tuple[Tensor, Condition]:
    """Clips as a batch: latents (B, C, T, h, w), and what is known beside them."""
    arrays = [clip for clip in clips if isinstance(clip, np.ndarray)]
    if arrays:
        return torch.from_numpy(np.stack(arrays)), {}
    conditions = [clip for clip in clips if isinstance(clip, dict)]
    together = {name: torch.cat([clip[name] for clip in conditions]) for name in conditions[0]}
    return together.pop("latents"), together


def to_draw(latents: Tensor, known: Condition) -> Condition:
    """What `draw` must know of clips: what is known beside their latents (B, C, T, h, w), else those of the context."""
    return known or {"known": latents[:, :, :CONTEXT_FRAMES]}


class VideoModel(Protocol):
    """What the training loop and the sampler ask of a model, whatever its family."""

    CLIPS_AT_ONCE: int  # drawn together

    @property
    def transformer(self) -> Any: ...  # the network that is trained

    @property
    def ADAPTED(self) -> str: ...  # the layers that LoRA adapts, a pattern for whole names

    @property
    def TEMPORAL(self) -> tuple[str, ...]: ...  # names in the path of a layer where frames see each other

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, t, h, w)."""

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The noise level (1,) at a share of the way from data (0) to noise (1)."""

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """The noise levels (B,) to train at, from standard normal numbers (B,)."""

    def loss(
        self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition, teacher: Any = None,
        strength: float = 0.0, /,
    ) -> Tensor:  # fmt: skip
        """What training makes smaller, of a batch of clips."""

    def errors(self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition, /) -> Tensor:
        """The loss of each clip (B,) at one noise level."""

    def draw(self, noise: Tensor, condition: Condition, steps: int, /) -> Tensor:
        """Futures: latents (B, C, t, h, w) from noise of that shape."""

    def with_network(self, network: Any, /) -> VideoModel:
        """The same model around another network."""

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, t, h, w) to uint8 (B, T, H, W, 3)."""
