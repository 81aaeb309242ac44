"""The common part of the published families: parts, cached conditions, guidance and memory for diffusers' own pipeline.

Decision: a family consists of the parts of diffusers' own pipeline, and its module has what is specific to it: noise levels,
the network's input and prediction, and the scale of latents. All four losses are the same, the mean squared error of the
network's prediction in the family's own parametrisation; the published weights of v-prediction and of EDM reduce to it
(tests/models/families has the published formulas). Conditions are encoded clip by clip, once, into safetensors;
the encoders are loaded if a condition is not cached yet, and can be unloaded.

Shapes as in `interface`.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.tensors import cached_tensors, on_cpu
from replaylab.models.interface import Condition, VideoModel, over_clips
from replaylab.util import downloads, networks


class Family(VideoModel):
    """A pipeline's parts. Only the network stays on the device; autoencoder and encoders are moved there and back."""

    PIPELINE: ClassVar[str]  # diffusers' class for image-to-video
    PIPELINES: ClassVar[tuple[str, ...]]  # what model_index.json may call it
    VAE: ClassVar[str]  # the class of the autoencoder
    PROCESSORS: ClassVar[tuple[str, ...]] = ("tokenizer",)
    TEXT_ENCODERS: ClassVar[tuple[str, ...]] = ("text_encoder",)
    IMAGE_ENCODERS: ClassVar[tuple[str, ...]] = ()
    CLIPS_AT_ONCE = 1  # a GPU that trains one clip at a time can sample one
    CACHE_VERSION: ClassVar[int] = 1  # raised when the same context and prompt would give another condition
    guidance: float = 1.0  # classifier-free, when it samples

    def __init__(self, folder: Path, network: Any, cache: Path | None, dtype: torch.dtype, autoencoder: Any = None) -> None:
        import diffusers

        self.folder, self.cache, self.dtype = folder, cache, dtype
        # an outline, which comes with its autoencoder, has nothing that encodes
        light = ("scheduler",) if autoencoder is not None else ("scheduler", *self.PROCESSORS)
        parts = dict.fromkeys(self.PROCESSORS) | {
            name: downloads.load_part(folder, name) for name in light if self._has(name)
        }
        parts["vae"] = autoencoder or downloads.load_part(folder, "vae", self.VAE, torch_dtype=torch.float32)
        parts |= {self.NETWORK[0]: network, **dict.fromkeys((*self.TEXT_ENCODERS, *self.IMAGE_ENCODERS))}
        self.pipe = getattr(diffusers, self.PIPELINE)(**parts, **self.pipeline_settings())
        self.vae, self.scheduler, self.transformer = self.pipe.vae, self.pipe.scheduler, network
        self._keys: dict[str, str] = {}

    def pipeline_settings(self) -> dict[str, Any]:
        """Arguments of the pipeline in addition to its parts."""
        return {}

    def _has(self, part: str) -> bool:
        return (downloads.read_index(self.folder).get(part) or (None, None))[1] is not None

    def with_network(self, network: Any) -> Self:
        other = copy.copy(self)
        other.pipe, other.transformer = copy.copy(self.pipe), network
        setattr(other.pipe, self.NETWORK[0], network)
        return other

    def reduce_memory(self) -> None:
        """Let the autoencoder process clips one by one and in tiles, if possible: less memory, with blended seams."""
        for saver in ("slicing", "tiling"):
            if hasattr(self.vae, f"use_{saver}"):
                getattr(self.vae, f"enable_{saver}")()

    # ---------------------------------------------------------------------------------------------------- conditions
    def condition(self, context: np.ndarray, prompts: Sequence[str], frames: int, frames_per_second: float) -> Condition:
        """The condition of clips of `frames` frames: context frames (B, K, H, W, 3) uint8, and a prompt each."""
        conditions = []
        for clip, prompt in zip(context, prompts, strict=True):
            self.check_clips(len(clip), frames, *clip.shape[1:3])
            text = self._cached("text", [prompt], self._prompt_parts, partial(self.encode_prompt, prompt))
            about = clip.tobytes(), str((clip.shape, frames, frames_per_second))
            encode = partial(self.encode_context, clip, frames, frames_per_second)
            parts = ("vae", *self.IMAGE_ENCODERS, *self.PROCESSORS)
            conditions.append({**text, **self._cached("context", about, parts, encode)})
        return {name: torch.cat([each[name] for each in conditions]) for name in conditions[0]}

    def example(self, clip: np.ndarray, prompt: str, context_frames: int, frames_per_second: float) -> Condition:
        """A training clip (T, H, W, 3): its condition and its latents, each with a first axis of one."""
        condition = self.condition(clip[None, :context_frames], [prompt], len(clip), frames_per_second)
        about = clip.tobytes(), str(clip.shape)
        return condition | self._cached("latents", about, ("vae",), lambda: {"latents": self.encode(clip[None])})

    def examples(
        self, clips: Iterable[np.ndarray], prompts: Iterable[str], context_frames: int, frames_per_second: float
    ) -> list[Condition]:
        """`example` of each clip; the encoders are unloaded afterwards. With a cache they are memory-mapped."""
        made = [
            self.example(clip, prompt, context_frames, frames_per_second)
            for clip, prompt in zip(clips, prompts, strict=True)
        ]
        self.unload_encoders()
        return made

    def unconditional(self, condition: Condition) -> Condition:
        """The same contexts with an empty prompt, for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""
        text = self._cached("text", [""], self._prompt_parts, partial(self.encode_prompt, ""))
        clips = len(next(iter(condition.values())))
        return condition | {name: tensor.expand(clips, *tensor.shape[1:]) for name, tensor in text.items()}

    @abstractmethod
    def check_clips(self, context_frames: int, frames: int, height: int, width: int) -> None:
        """Raise ValueError unless the family supports clips of this length and size."""

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Condition:
        """The prompt's part of a condition."""

    @abstractmethod
    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """The part of a condition from the context frames (K, H, W, 3)."""

    @property
    def _prompt_parts(self) -> tuple[str, ...]:
        return (*self.TEXT_ENCODERS, *self.PROCESSORS)  # all that a prompt goes through, and that has files

    def _cached(
        self, kind: str, about: Sequence[str | bytes], parts: Sequence[str], make: Callable[[], Condition]
    ) -> Condition:
        """The result of `make`, from the cache if it was computed before from the same input with the same weights."""
        if self.cache is None:
            return on_cpu(make())
        if kind not in self._keys:
            self._keys[kind] = networks.digest(self.folder, tuple(filter(self._has, parts)))
        seen = hashlib.sha256(f"{type(self).__name__} {self.CACHE_VERSION} {self.dtype} {self._keys[kind]}".encode())
        for each in about:
            seen.update(b"\0" + (each if isinstance(each, bytes) else each.encode()))
        return cached_tensors(self.cache / f"{kind}-{seen.hexdigest()[:32]}.safetensors", make)

    @contextmanager
    def on_device(self, name: str) -> Iterator[Any]:
        """A part on the network's device while it is needed; an encoder is loaded if necessary."""
        from diffusers.training_utils import offload_models

        if getattr(self.pipe, name) is None:
            self.pipe.register_modules(**{name: downloads.load_part(self.folder, name, dtype=self.dtype)})
        part = getattr(self.pipe, name)
        with torch.no_grad(), offload_models(part, device=self.transformer.device):
            yield part

    def unload_encoders(self) -> None:
        """Free the memory of the encoders of prompts and contexts; they are loaded again when needed."""
        self.pipe.register_modules(**dict.fromkeys((*self.TEXT_ENCODERS, *self.IMAGE_ENCODERS)))

    # ------------------------------------------------------------------------------------------------------ guidance
    def sample(self, noise: Tensor, condition: Condition, steps: int) -> Tensor:
        """As `VideoModel.sample`, with the model's own classifier-free `guidance` relative to an empty prompt."""
        unconditional = self.unconditional(condition) if self.guidance != 1 else None

        def predict(latents: Tensor, level: Tensor, condition: Condition) -> Tensor:
            predicted = self.predict(latents, level, condition).float()
            if unconditional is None:
                return predicted
            without = self.predict(latents, level, unconditional).float()
            return without + self.guidance_by_frame(latents) * (predicted - without)

        return self._denoise(noise, condition, steps, predict)

    def guidance_by_frame(self, latents: Tensor) -> float | Tensor:
        """The guidance of each frame, to be multiplied with latents (B, C, t, h, w)."""
        return self.guidance

    @classmethod
    @abstractmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        """Inputs of a network of this configuration for one clip of latents (C, t, h, w), to count its operations."""


class FlowMatching(Family):
    """Straight paths from clip to noise (Lipman et al. 2023, arXiv 2210.02747): noisy = (1 - s) x + s noise, s in 0..1,
    and the network predicts the velocity, noise - x.
    """

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Logit-normal levels, shifted towards noise (Esser et al. 2024, arXiv 2403.03206, eq. 19 and 23)."""
        return (normal + self.log_shift(shape)).sigmoid()

    def add_noise(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return latents.lerp(noise, over_clips(level))

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise - latents

    def level_of_step(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.timesteps[number] / scheduler.config["num_train_timesteps"]

    @abstractmethod
    def log_shift(self, shape: Sequence[int]) -> float:
        """The logarithm of the shift for latents of this shape."""
