"""What does a video generator do here? It encodes, learns (`loss`), draws and decodes: `VideoModel` is what the loop and
the sampler ask of one. Here is the tiny one that ships; `families` has those that people fine-tune.

Decision: diffusers' own classes in a tiny configuration (`AutoencoderTiny` frame by frame, `WanTransformer3DModel`,
`FlowMatchEulerDiscreteScheduler`), saved in diffusers' own folder layout. The context enters as Wan's image-to-video
does it, by extra channels beside the noisy latents, in the form that learns motion fastest at this size: the last
context latent, its change and its change's change, repeated in every frame. What the network puts out is added to the
last context latent to give the clean clip, so that it starts as a copy of the last frame and has to carry no noise
through its narrow tokens (Li and He 2025, arXiv 2511.13720); the velocity follows from that.

Shapes: B clips, T frames, K context frames, C latent channels, H x W pixels, h x w = H/4 x W/4 latent cells.
Sigma is flow matching's noise level in 0..1 (Lipman et al. 2023): noisy = (1 - sigma) x + sigma noise, and the velocity
is noise - x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models.autoencoder import decode, encode, load_autoencoder, save_part
from replaylab.models.interface import Condition
from replaylab.util.files import write_json

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

TEXT_DIM = 8  # there is no text: one empty token, as Wan's blocks cross-attend to something


class TinyModel(ABC):
    """A tiny model: 3 context frames of 64x64 in, the next 5 out. `TinyWan` and `TinyCogVideoX` add what families differ in:
    how noise comes in (`mix`), what is predicted (`target`, `predict`), at which levels, and what counts how much.
    """

    TRANSFORMER: ClassVar[str]  # diffusers' classes
    SCHEDULER: ClassVar[str]
    ADAPTED: ClassVar[str]  # the layers that LoRA adapts
    TEMPORAL = ("attn1",)  # no layers for time alone: in these, places and frames see each other
    CLIPS_AT_ONCE = 32

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        self.vae, self.transformer, self.scheduler = vae, transformer, scheduler

    @classmethod
    @abstractmethod
    def new(cls, vae: AutoencoderTiny) -> Self:
        """Around an autoencoder, the transformer's weights drawn from torch's global stream."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From a folder in diffusers' layout (vae/, transformer/, scheduler/); raises FileNotFoundError that names it."""
        folder, diffusers = Path(folder), import_module("diffusers")
        for part in ("transformer", "scheduler"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{folder / part} is missing: make it with `python -m replaylab pretrain base`")
        return cls(
            load_autoencoder(folder),
            getattr(diffusers, cls.TRANSFORMER).from_pretrained(folder / "transformer"),
            getattr(diffusers, cls.SCHEDULER).from_pretrained(folder / "scheduler"),
        )

    def to(self, device: torch.device) -> Self:
        """Its networks on that device; itself."""
        self.vae.to(device)
        self.transformer.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """In diffusers' layout, safetensors; each file aside, then renamed."""
        folder = Path(folder)
        save_part(self.vae, folder / "vae")
        save_part(self.transformer, folder / "transformer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index = {"_class_name": type(self).__name__, "vae": ["diffusers", "AutoencoderTiny"],
                 "transformer": ["diffusers", self.TRANSFORMER], "scheduler": ["diffusers", self.SCHEDULER]}  # fmt: skip
        write_json(folder / "model_index.json", index)

    def with_network(self, network: Any) -> Self:
        """The same model around another network: a frozen copy, or one that was fine-tuned."""
        return type(self)(self.vae, network, self.scheduler)

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, T, h, w)."""
        return encode(self.vae, frames)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, T, h, w) to uint8 (B, T, H, W, 3)."""
        return decode(self.vae, latents)

    # --------------------------------------------------------------------------------------------- what families differ in
    @abstractmethod
    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The noise level (1,) at a share of the way from data (0) to noise (1)."""

    @abstractmethod
    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """The noise levels (B,) to train at, from standard normal numbers (B,)."""

    @abstractmethod
    def level(self, scheduler: Any, number: int) -> Tensor:
        """The noise level () of a sampler's step."""

    @abstractmethod
    def mix(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Latents (B, C, T, h, w) at noise levels (B,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What is predicted, (B, C, T, h, w)."""

    @abstractmethod
    def weight(self, level: Tensor) -> Tensor:
        """What an error of the target has to be multiplied with to be one of the clean latents, (B, 1, 1, 1, 1)."""

    @abstractmethod
    def predict(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """The target (B, C, T, h, w) of noisy latents; the context's own is 0."""

    # ------------------------------------------------------------------------------------------- training and sampling
    def loss(
        self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition | None = None,
        teacher: Self | None = None, strength: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """The squared error of the target on the future frames, weighted so that it is that of the clean latents.

        Unweighted, an error of a clean latent counts 1 / sigma^2 times, and the last traces of noise drown the motion. All
        that is known is in the latents' first frames. With a teacher, and `strength` times how far the prediction is from
        its, weighted alike (`continual`).
        """
        weight = self.weight(level)
        noisy, known = self._noisy(latents, noise, level)
        predicted = self.predict(noisy, level, known)
        future = slice(CONTEXT_FRAMES, None)
        loss = (weight * (predicted - self.target(latents, noise, level)))[:, :, future].square().mean()
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = teacher.predict(noisy, level, known)
        return loss + strength * (weight * (predicted - wanted))[:, :, future].square().mean()

    def errors(self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """The target's squared error for each clip (B,), meaned over the future frames and not weighted."""
        noisy, known = self._noisy(latents, noise, level)
        predicted = self.predict(noisy, level, known)
        return (predicted - self.target(latents, noise, level))[:, :, CONTEXT_FRAMES:].square().mean((1, 2, 3, 4))

    def _noisy(self, latents: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Latents at noise levels (B,), their context clean; and the condition that `predict` takes."""
        noisy = self.mix(latents, noise, level)
        noisy[:, :, :CONTEXT_FRAMES] = latents[:, :, :CONTEXT_FRAMES]
        return noisy, self.condition(latents[:, :, :CONTEXT_FRAMES], latents.shape[2])

    def draw(self, noise: Tensor, condition: Condition, steps: int) -> Tensor:
        """Whole clips (B, C, T, h, w) from noise of that shape and the context's latents, `known` (B, C, K, h, w).

        Steps of the family's sampler, the context set back clean before every one. The noise is overwritten.
        """
        context = condition["known"]
        # a fresh scheduler each time: it counts its own steps
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        known, latents = self.condition(context), noise
        for number, timestep in enumerate(scheduler.timesteps):
            latents[:, :, :CONTEXT_FRAMES] = context
            level = self.level(scheduler, number).to(noise.device).expand(len(latents))
            predicted = self.predict(latents, level, known)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        latents[:, :, :CONTEXT_FRAMES] = context
        return latents

    def condition(self, context: Tensor, frames: int = CLIP_FRAMES) -> Tensor:
        """Context latents (B, C, K, h, w) to the extra channels (B, 3C, T, h, w)."""
        first, second, last = context[:, :, -3:].split(1, dim=2)
        parts = [last, last - second, last - 2 * second + first]
        return torch.cat(parts, dim=1).expand(-1, -1, frames, -1, -1)
