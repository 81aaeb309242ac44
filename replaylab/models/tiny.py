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

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from replaylab.models.fused_attention import hasten
from replaylab.util.files import write_atomically

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

CONTEXT_FRAMES, CLIP_FRAMES = 3, 8
FOLD, LATENT_CHANNELS = 4, 8
TEXT_DIM = 8  # there is no text: one empty token, as Wan's blocks cross-attend to something
SHIFT = 3.0  # towards much noise, where it is decided what moves where (Esser et al. 2024, arXiv 2403.03206, eq. 23)
FRAMES_AT_ONCE = 256  # encoded or decoded together

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


@contextmanager
def no_denormals() -> Iterator[None]:
    """Numbers under 1e-38 are zero in here: each costs a CPU a hundred normal ones, and training breeds them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


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
            load_vae(folder),
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
        write_atomically(folder / "model_index.json", lambda path: path.write_text(json.dumps(index, indent=1)))

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


class TinyWan(TinyModel):
    """A tiny Wan, by flow matching (Lipman et al. 2023, eq. 14). A level is sigma."""

    TRANSFORMER, SCHEDULER = "WanTransformer3DModel", "FlowMatchEulerDiscreteScheduler"
    # the layers that LoRA adapts: all linear ones of a block that are heard
    ADAPTED = r".*\.(attn1\.to_[qkv]|attn2\.to_v|attn[12]\.to_out\.0|ffn\.net\.0\.proj|ffn\.net\.2)"

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        super().__init__(vae, hasten(transformer), scheduler)

    @classmethod
    def new(cls, vae: AutoencoderTiny) -> Self:
        return cls(vae, new_transformer(), new_scheduler())

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The share itself."""
        return torch.tensor([share])

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Logit-normal, shifted (Esser et al. 2024, arXiv 2403.03206)."""
        shift = float(self.scheduler.config["shift"])
        return shift * normal.sigmoid() / (1 + (shift - 1) * normal.sigmoid())

    def level(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.sigmas[number]

    def mix(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        sigma = self.weight(level)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The velocity."""
        return noise - latents

    def weight(self, level: Tensor) -> Tensor:
        """Sigma."""
        return level[:, None, None, None, None]

    def predict(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """The velocity (B, C, T, h, w) of noisy latents at noise levels `level` (B,).

        Only future frames go through the network: all it is told of the context is in the condition. The context's
        own velocity is 0.
        """
        future, channels = slice(CONTEXT_FRAMES, None), noisy.shape[1]
        change = self.transformer(
            hidden_states=torch.cat([noisy, condition], dim=1)[:, :, future],
            timestep=level * self.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=noisy.new_zeros(len(noisy), 1, TEXT_DIM),
            return_dict=False,
        )[0]
        clean = condition[:, :channels, future] + change
        velocity = torch.zeros_like(noisy)
        velocity[:, :, future] = (noisy[:, :, future] - clean) / self.weight(level).clamp(min=1e-3)
        return velocity


def new_vae() -> AutoencoderTiny:
    """A small autoencoder of frames whose pixels were folded 4x4 into channels: no convolution at full size.

    No normalisation layers, so that its weights can be set to a principal component analysis before training.
    """
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        in_channels=3 * FOLD**2, out_channels=3 * FOLD**2, latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(64,), decoder_block_out_channels=(64,), num_encoder_blocks=(2,),
        num_decoder_blocks=(3,),
    )  # fmt: skip


def new_transformer() -> WanTransformer3DModel:
    """One token for the whole future of a 4x4 px place: five frames share what is found out about its motion.

    A token for every frame of 8x8 px learnt less in the same time: the network then finds the motion five times over,
    and has to shift what is smaller than a token. Two wide heads, and `quick.attend`, make a step in bf16 a third
    quicker on a CPU.
    """
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(CLIP_FRAMES - CONTEXT_FRAMES, 1, 1), num_attention_heads=2, attention_head_dim=64,
        in_channels=4 * LATENT_CHANNELS, out_channels=LATENT_CHANNELS, text_dim=TEXT_DIM, freq_dim=128, ffn_dim=512,
        num_layers=6, rope_max_seq_len=64,
    )  # fmt: skip


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """diffusers' scheduler of flow matching, shifted as training is."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)


def load_vae(folder: str | Path) -> AutoencoderTiny:
    """The autoencoder in `<folder>/vae`; raises FileNotFoundError that says how to make it."""
    from diffusers import AutoencoderTiny

    path = Path(folder) / "vae"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: make it with `python -m replaylab pretrain autoencoder`")
    return AutoencoderTiny.from_pretrained(path).eval()


def save_part(part: Any, folder: Path) -> None:
    """`save_pretrained` into a folder aside, then each file moved: weights are whole or not there."""
    aside = folder.with_name(f".{folder.name}.aside")
    part.save_pretrained(aside, safe_serialization=True)
    config = json.loads((aside / "config.json").read_text())
    config.pop("block_out_channels", None)  # AutoencoderTiny writes it down, and warns of it when it reads it
    (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(aside.iterdir()):
        file.replace(folder / file.name)
    aside.rmdir()


def fold(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to (N, 3 FOLD^2, H/FOLD, W/FOLD) in -1..1, channels last."""
    pixels = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.pixel_unshuffle(pixels, FOLD).contiguous(memory_format=torch.channels_last)


def pixels_of(folded: Tensor) -> Tensor:
    """The inverse of `fold`, up to rounding: (N, 3, H, W) in -1..1."""
    return functional.pixel_shuffle(folded, FOLD)


def to_frames(pixels: Tensor) -> np.ndarray:
    """(N, 3, H, W) in -1..1 to uint8 (N, H, W, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(vae: AutoencoderTiny, frames: np.ndarray) -> Tensor:
    """uint8 (B, T, H, W, 3) to latents (B, C, T, h, w), scaled to a mean square of 1 over the base's domains."""
    flat = torch.as_tensor(np.ascontiguousarray(frames)).flatten(0, 1)
    latents = torch.cat([vae.encode(fold(part).to(vae.device)).latents.cpu() for part in flat.split(FRAMES_AT_ONCE)])
    return (latents * vae.config["scaling_factor"]).unflatten(0, frames.shape[:2]).transpose(1, 2).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderTiny, latents: Tensor) -> np.ndarray:
    """Scaled latents (B, C, T, h, w) to uint8 (B, T, H, W, 3)."""
    flat = latents.transpose(1, 2).flatten(0, 1) / vae.config["scaling_factor"]
    frames = np.concatenate(
        [to_frames(pixels_of(vae.decode(part.to(vae.device)).sample)) for part in flat.split(FRAMES_AT_ONCE)]
    )
    return frames.reshape(latents.shape[0], latents.shape[2], *frames.shape[1:])
