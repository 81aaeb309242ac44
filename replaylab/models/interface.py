"""The interface of a video generator of any family to training, sampling and evaluation.

Decision: a model adapter does four things: it encodes clips as latents, conditions on context frames and prompt, predicts
from noisy latents, and decodes. Loss, error and sampling are defined by these, once, in `VideoModel`; the tiny
models (`tiny`) and the published families (`families`) derive from it.

Shapes: B clips, T frames, K context frames, H x W pixels; latents (B, C, t, h, w), of which the first k may be known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.util import networks

Condition = dict[str, Tensor]
"""The conditioning of clips: tensors whose first axis is the clip. `known`, if present, holds the clean latents of the
context, (B, C, k, h, w), which replace the first noisy ones."""

Clip = NDArray[np.float32] | Condition
"""One training clip: latents (C, T, h, w) of a tiny model, which include the context; or a condition with `latents`, each
with a first axis of one."""


def stack_clips(clips: Sequence[Clip]) -> tuple[Tensor, Condition]:
    """Clips as a batch: latents (B, C, t, h, w) and condition."""
    arrays = [clip for clip in clips if isinstance(clip, np.ndarray)]
    if arrays:
        latents = torch.from_numpy(np.stack(arrays))
        return latents, {"known": latents[:, :, :CONTEXT_FRAMES]}
    conditions = [clip for clip in clips if isinstance(clip, dict)]
    batch = {name: torch.cat([clip[name] for clip in conditions]) for name in conditions[0]}
    return batch.pop("latents"), batch


def over_clips(numbers: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1, 1)."""
    return numbers.view(-1, 1, 1, 1, 1)


def with_known(latents: Tensor, condition: Condition) -> Tensor:
    """The latents with their first ones replaced by the known ones."""
    if "known" not in condition:
        return latents
    known = condition["known"]
    latents = latents.clone()  # in its own memory layout, on which the order of the loss's sum depends
    latents[:, :, : known.shape[2]] = known.to(latents)
    return latents


class VideoModel(ABC):
    """A network with its autoencoder and noise schedule."""

    NETWORK: ClassVar[tuple[str, str]]  # its folder, and its class in diffusers
    ADAPTED: ClassVar[str]  # the layers that LoRA adapts, a pattern for whole names
    TEMPORAL: ClassVar[tuple[str, ...]] = ("attn1",)  # in the path of layers where frames interact; here space does too
    CLIPS_AT_ONCE: ClassVar[int]  # encoded, sampled and decoded together

    transformer: Any  # the network that is trained
    scheduler: Any  # diffusers' own, which samples
    vae: Any

    def to(self, device: torch.device) -> Self:
        """Move the network to the device; returns the model itself."""
        self.transformer.to(device)
        return self

    @abstractmethod
    def with_network(self, network: Any) -> Self:
        """The same model with another network: a frozen copy, or a fine-tuned one."""

    def save_network(self, folder: Path) -> None:
        """Write the network in diffusers' layout, `<folder>/transformer/` or `unet/`."""
        networks.save(self.transformer, folder / self.NETWORK[0])

    @abstractmethod
    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, t, h, w) on the CPU."""

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, t, h, w) to uint8 (B, T, H, W, 3)."""

    # ---------------------------------------------------------------------------------------- noise and prediction
    @abstractmethod
    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """The noise levels (B,) of training, from standard normal numbers (B,); `shape` is that of the latents."""

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The noise level (1,) below which this share of the training's noise levels lies."""
        return self.levels(torch.special.ndtri(torch.tensor([share])), shape)

    @abstractmethod
    def level_of_step(self, scheduler: Any, number: int) -> Tensor:
        """The noise level () of a sampling step, in the units of `predict`."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Latents at noise levels (B,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The target of `predict`, (B, C, t, h, w)."""

    @abstractmethod
    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """The network's prediction (B, C, t, h, w) from noisy latents with the known ones in place, at levels (B,)."""

    def weight(self, level: Tensor) -> Tensor | float:
        """The factor of a prediction's error in the loss, before it is squared."""
        return 1.0

    # ---------------------------------------------------------------------------------------- training and sampling
    def loss(
        self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition, teacher: VideoModel | None = None,
        strength: float = 0.0, clip_weight: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The weighted mean squared error of the prediction over all unknown latents. With a teacher, `strength` times the
        same distance from its prediction is added (learning without forgetting, `training.regularizers`).
        `clip_weight` (B,): factor of each clip's squared error before the mean.
        """
        noisy = with_known(self.add_noise(latents, noise, level), condition)
        predicted = self.predict(noisy, level, condition)

        def error(wanted: Tensor) -> Tensor:
            difference = self.weight(level) * (predicted.float() - wanted.float())
            if clip_weight is not None:
                difference = over_clips(clip_weight).sqrt() * difference
            return _unknown(difference, condition).square().mean()

        loss = error(self.target(latents, noise, level))
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = teacher.predict(noisy, level, condition)
        return loss + strength * error(wanted)

    @torch.no_grad()
    def errors(self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """The unweighted mean squared error of each clip's prediction (B,) over the unknown latents."""
        noisy = with_known(self.add_noise(latents, noise, level), condition)
        predicted = self.predict(noisy, level, condition)
        difference = predicted.float() - self.target(latents, noise, level).float()
        return _unknown(difference, condition).square().mean((1, 2, 3, 4))

    def sample(self, noise: Tensor, condition: Condition, steps: int) -> Tensor:
        """Clips (B, C, t, h, w) from standard normal noise of the same shape, with the family's own scheduler."""
        return self._denoise(noise, condition, steps, self.predict)

    @torch.no_grad()
    def _denoise(
        self, noise: Tensor, condition: Condition, steps: int, predict: Callable[[Tensor, Tensor, Condition], Tensor]
    ) -> Tensor:
        scheduler = self.schedule(steps, noise)
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        for number, timestep in enumerate(scheduler.timesteps):
            latents = with_known(latents, condition)
            level = self.level_of_step(scheduler, number).expand(len(latents)).to(noise.device)
            predicted = predict(latents, level, condition).float()
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return with_known(latents, condition)

    def schedule(self, steps: int, noise: Tensor) -> Any:
        """A new scheduler with its timesteps set; a scheduler counts its steps and is used once."""
        scheduler = self.scheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=noise.device)
        return scheduler


class VPrediction(VideoModel):
    """v-prediction (Salimans and Ho 2022, arXiv 2202.00512) at uniformly sampled timesteps; a level is a timestep."""

    @property
    def _timesteps(self) -> int:
        return int(self.scheduler.config["num_train_timesteps"])

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Uniformly distributed timesteps."""
        return (torch.special.ndtr(normal) * self._timesteps).long().clamp(max=self._timesteps - 1)

    def level_of_step(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.timesteps[number]

    def add_noise(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, level)

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """v = sqrt(alpha) noise - sqrt(1 - alpha) x."""
        return self.scheduler.get_velocity(latents, noise, level)


def _unknown(latents: Tensor, condition: Condition) -> Tensor:
    """The latents after the known ones."""
    return latents[:, :, condition["known"].shape[2] :] if "known" in condition else latents
