"""A tiny Wan, by flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models.autoencoder import LATENT_CHANNELS
from replaylab.models.fused_attention import hasten
from replaylab.models.tiny import TEXT_DIM, TinyModel

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel


SHIFT = 3.0  # towards much noise, where it is decided what moves where (Esser et al. 2024, arXiv 2403.03206, eq. 23)


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
