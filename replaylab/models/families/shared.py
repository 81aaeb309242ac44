"""What do the families share? The verbs around the network, the same for all: cache, loss, sampling, adapters, memory.

Decision: a family is diffusers' own pipeline taken apart, and what differs is said in its module: which noise level a
clip gets, what the network is told and asked for, how its latents are scaled. All four losses are one: the mean square
of what the network predicts, in the family's own terms, less what it should have (the published weights of v-prediction
and of EDM are those that make it so; tests/models/families writes the published formulas out). Conditions are encoded
clip by clip, once, into safetensors; the encoders are loaded when something is not there yet, and can be forgotten.

Shapes as in `tensors`.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.tensors import Condition, error, in_place, kept, on_cpu, over_clips
from replaylab.util import downloads as folders


class Family(ABC):
    """A pipeline's parts and the verbs around them. Only the network stays on the device: the autoencoder and the encoders
    visit it.
    """

    PIPELINE: ClassVar[str]  # diffusers' class for image-to-video
    PIPELINES: ClassVar[tuple[str, ...]]  # what model_index.json may call it
    NETWORK: ClassVar[tuple[str, str]]  # its name in the pipeline, and its class
    VAE: ClassVar[str]  # the class of the autoencoder
    TOOLS: ClassVar[tuple[str, ...]] = ("scheduler", "tokenizer")
    READERS: ClassVar[tuple[str, ...]] = ("text_encoder",)  # of the prompt
    LOOKERS: ClassVar[tuple[str, ...]] = ()  # at the context
    CLIPS_AT_ONCE: int = 1  # drawn together: a GPU that trains one clip at a time can draw one
    EDITION: ClassVar[int] = 1  # raised when the same context and prompt would give another condition
    ADAPTED: str
    TEMPORAL: tuple[str, ...]
    guidance: float = 1.0  # classifier-free, when it draws

    def __init__(self, folder: Path, network: Any, cache: Path | None, dtype: torch.dtype) -> None:
        import diffusers

        self.folder, self.cache, self.dtype = folder, cache, dtype
        parts = {name: folders.read(folder, name) for name in self.TOOLS if self._has(name)}
        parts["vae"] = folders.read(folder, "vae", self.VAE, torch_dtype=torch.float32)
        absent = dict.fromkeys((*self.READERS, *self.LOOKERS))
        self.pipe = getattr(diffusers, self.PIPELINE)(
            **absent, **parts, **{self.NETWORK[0]: network}, **self.settings()
        )
        self.vae = self.pipe.vae
        self._keys: dict[str, str] = {}

    def settings(self) -> dict[str, Any]:
        """What model_index.json says to the pipeline besides its parts."""
        return {}

    def _has(self, part: str) -> bool:
        return (folders.index_of(self.folder).get(part) or (None, None))[1] is not None

    @property
    def transformer(self) -> Any:
        """The network that is trained."""
        return getattr(self.pipe, self.NETWORK[0])

    def to(self, device: torch.device) -> Family:
        """The network on that device; itself."""
        self.transformer.to(device)
        return self

    def with_network(self, network: Any) -> Family:
        """The same model around another network: a frozen copy, or one that was fine-tuned."""
        other = copy.copy(self)
        other.pipe = copy.copy(self.pipe)
        setattr(other.pipe, self.NETWORK[0], network)
        return other

    def spare_memory(self) -> None:
        """Let the autoencoder work clip by clip and in tiles, where it can: less memory, and a blend at the seams."""
        for saver in ("slicing", "tiling"):
            if hasattr(self.vae, f"use_{saver}"):
                getattr(self.vae, f"enable_{saver}")()

    # --------------------------------------------------------------------------------------- what is known of a clip
    def condition(
        self, context: np.ndarray, prompts: Sequence[str], frames: int, frames_per_second: float
    ) -> Condition:
        """What is known of clips of `frames` frames: context frames (B, K, H, W, 3) uint8, and a prompt each."""
        known = []
        for clip, prompt in zip(context, prompts, strict=True):
            self.check(len(clip), frames, *clip.shape[1:3])
            words = self._once("text", [prompt], self._reading, partial(self.describe, prompt))
            about = clip.tobytes(), str((clip.shape, frames, frames_per_second))
            look = partial(self.look, clip, frames, frames_per_second)
            looks = self._once("context", about, ("vae", *self._looking), look)
            known.append({**words, **looks})
        return {name: torch.cat([each[name] for each in known]) for name in known[0]}

    def example(self, clip: np.ndarray, prompt: str, context_frames: int, frames_per_second: float) -> Condition:
        """A clip (T, H, W, 3) to train on: its condition and its latents, each with a first axis of one."""
        condition = self.condition(clip[None, :context_frames], [prompt], len(clip), frames_per_second)
        about = clip.tobytes(), str(clip.shape)
        return condition | self._once("latents", about, ("vae",), lambda: {"latents": self.encode(clip[None])})

    def examples(
        self, clips: Iterable[np.ndarray], prompts: Iterable[str], context_frames: int, frames_per_second: float
    ) -> list[Condition]:
        """`example` of each clip; the encoders are forgotten afterwards. With a cache they are memory-mapped."""
        made = [
            self.example(clip, prompt, context_frames, frames_per_second)
            for clip, prompt in zip(clips, prompts, strict=True)
        ]
        self.forget_encoders()
        return made

    def unconditional(self, condition: Condition, negative_prompt: str = "") -> Condition:
        """The same contexts with another prompt, for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""
        words = self._once("text", [negative_prompt], self._reading, partial(self.describe, negative_prompt))
        clips = len(next(iter(condition.values())))
        return condition | {name: tensor.expand(clips, *tensor.shape[1:]) for name, tensor in words.items()}

    @abstractmethod
    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, t, h, w)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, t, h, w) to uint8 (B, T, H, W, 3)."""

    @abstractmethod
    def check(self, context_frames: int, frames: int, height: int, width: int) -> None:
        """Raise ValueError unless the family can take such clips."""

    @abstractmethod
    def describe(self, prompt: str) -> Condition:
        """The prompt's part of a condition."""

    @abstractmethod
    def look(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """The part of a condition that comes from the context frames (K, H, W, 3)."""

    @property
    def _reading(self) -> tuple[str, ...]:
        return (*self.READERS, *self.TOOLS[1:])  # all that a prompt goes through, and that has files

    @property
    def _looking(self) -> tuple[str, ...]:
        return (*self.LOOKERS, *self.TOOLS[1:])

    def _once(
        self, kind: str, about: Sequence[str | bytes], parts: Sequence[str], make: Callable[[], Condition]
    ) -> Condition:
        """What `make` gives, from the cache if it was made before from the same by the same weights."""
        if self.cache is None:
            return on_cpu(make())
        if kind not in self._keys:
            self._keys[kind] = folders.digest_of(self.folder, tuple(filter(self._has, parts)))
        seen = hashlib.sha256(f"{type(self).__name__} {self.EDITION} {self.dtype} {self._keys[kind]}".encode())
        for each in about:
            seen.update(b"\0" + (each if isinstance(each, bytes) else each.encode()))
        return kept(self.cache / f"{kind}-{seen.hexdigest()[:32]}.safetensors", make)

    @contextmanager
    def visiting(self, name: str) -> Iterator[Any]:
        """A part on the network's device while it is needed; loaded if it is an encoder that is not there yet."""
        from diffusers.training_utils import offload_models

        if getattr(self.pipe, name) is None:
            self.pipe.register_modules(**{name: folders.read(self.folder, name, dtype=self.dtype)})
        part = getattr(self.pipe, name)
        with torch.no_grad(), offload_models(part, device=self.transformer.device):
            yield part

    def forget_encoders(self) -> None:
        """Give back the memory of the encoders of prompts and contexts; they are loaded again if they are needed."""
        self.pipe.register_modules(**dict.fromkeys((*self.READERS, *self.LOOKERS)))

    # ------------------------------------------------------------------------------------------- training and sampling
    @abstractmethod
    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """The noise levels (B,) to train at, from standard normal numbers (B,); `shape` is that of the latents."""

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The noise level (1,) under which this share of those to train at lies."""
        return self.levels(torch.special.ndtri(torch.tensor([share])), shape)

    @abstractmethod
    def mix(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Latents at noise levels (B,)."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What `predict` should have given."""

    @abstractmethod
    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """What the network makes of noisy latents, what is known in place, at noise levels (B,)."""

    def loss(
        self,
        latents: Tensor,
        noise: Tensor,
        level: Tensor,
        condition: Condition,
        teacher: Family | None = None,
        strength: float = 0.0,
    ) -> Tensor:
        """The mean squared error of the prediction, over all latents that are not known beforehand; with a teacher, and
        `strength` times the mean squared distance from its prediction (`continual`).
        """
        noisy = in_place(self.mix(latents, noise, level), condition)
        prediction = self.predict(noisy, level, condition)
        loss = error(prediction, self.target(latents, noise, level), condition)
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = teacher.predict(noisy, level, condition)
        return loss + strength * error(prediction, wanted, condition)

    @torch.no_grad()
    def errors(self, latents: Tensor, noise: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """The loss of each clip (B,)."""
        parts = [{name: tensor[clip : clip + 1] for name, tensor in condition.items()} for clip in range(len(latents))]
        return torch.stack([
            self.loss(latents[clip : clip + 1], noise[clip : clip + 1], level[clip : clip + 1], known)
            for clip, known in enumerate(parts)
        ])  # fmt: skip

    @torch.no_grad()
    def draw(
        self,
        noise: Tensor,
        condition: Condition,
        steps: int,
        guidance: float | None = None,
        unconditional: Condition | None = None,
    ) -> Tensor:
        """Whole clips' latents from standard normal noise (B, C, t, h, w), by the family's own scheduler.

        By default guidance is the model's own (`guidance`), away from an empty prompt. Another one than 1 is away from
        `unconditional`; raises ValueError where that is not given.
        """
        if guidance is None:
            guidance = self.guidance
            unconditional = self.unconditional(condition) if guidance != 1 else None
        if guidance != 1 and unconditional is None:
            raise ValueError(f"guidance is {guidance}, but away from what? Give `unconditional` (model.unconditional)")
        scheduler = self.schedule(steps, noise)
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        for number, timestep in enumerate(scheduler.timesteps):
            latents = in_place(latents, condition)
            level = self.level(scheduler, number).expand(len(latents)).to(noise.device)
            predicted = self.predict(latents, level, condition).float()
            if unconditional is not None:
                without = self.predict(latents, level, unconditional).float()
                predicted = without + self.strength(guidance, latents) * (predicted - without)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return in_place(latents, condition)

    def schedule(self, steps: int, noise: Tensor) -> Any:
        """A fresh scheduler, since it counts its steps, with its timesteps set."""
        scheduler = self.pipe.scheduler.from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(steps, device=noise.device)
        return scheduler

    @abstractmethod
    def level(self, scheduler: Any, number: int) -> Tensor:
        """The noise level of a sampling step, in the terms of `predict`."""

    def strength(self, guidance: float, latents: Tensor) -> float | Tensor:
        """How much the condition counts in each frame."""
        return guidance

    # -------------------------------------------------------------------------------------------------------- weights
    def save(self, folder: Path) -> None:
        """The network in diffusers' layout, `<folder>/transformer/` or `unet/`, there when it is whole."""
        whole, aside = folder / self.NETWORK[0], folder / f".{self.NETWORK[0]}.aside"
        shutil.rmtree(aside, ignore_errors=True)
        self.transformer.save_pretrained(aside, safe_serialization=True)
        shutil.rmtree(whole, ignore_errors=True)
        aside.replace(whole)


class FlowMatching(Family):
    """Straight paths from clip to noise (Lipman et al. 2023, arXiv 2210.02747): noisy = (1 - s) x + s noise, s in 0..1,
    and the network gives the velocity, noise - x.
    """

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Logit-normal, shifted towards noise (Esser et al. 2024, arXiv 2403.03206, eq. 19 and 23)."""
        return (normal + self.log_shift(shape)).sigmoid()

    def mix(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return latents.lerp(noise, over_clips(level))

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise - latents

    def level(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.timesteps[number] / scheduler.config["num_train_timesteps"]

    @abstractmethod
    def log_shift(self, shape: Sequence[int]) -> float:
        """The logarithm of the shift for latents of that shape."""
