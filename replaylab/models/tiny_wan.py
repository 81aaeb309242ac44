"""A tiny Wan (`tiny`), trained by flow matching (Lipman et al. 2023, arXiv 2210.02747, eq. 14).

A level is sigma, in 0..1: noisy = (1 - sigma) x + sigma noise, and the predicted velocity is noise - x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models.autoencoder import LATENT_CHANNELS, latent_channels
from replaylab.models.fused_attention import use_fused_attention
from replaylab.models.interface import Condition, over_clips
from replaylab.models.tiny import FUTURE, HEAD_WIDTH, TEXT_DIM, TINY, Size, TinyModel

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, WanTransformer3DModel

SHIFT = 3.0  # towards much noise, where it is decided what moves where (Esser et al. 2024, arXiv 2403.03206, eq. 23)


class TinyWan(TinyModel):
    """A tiny Wan."""

    NETWORK, SCHEDULER = ("transformer", "WanTransformer3DModel"), "FlowMatchEulerDiscreteScheduler"
    # all linear layers of a block that the output depends on
    ADAPTED = r".*\.(attn1\.to_[qkv]|attn2\.to_v|attn[12]\.to_out\.0|ffn\.net\.0\.proj|ffn\.net\.2)"

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        super().__init__(vae, use_fused_attention(transformer), scheduler)

    @classmethod
    def new(cls, vae: AutoencoderTiny, size: Size = TINY) -> Self:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return cls(
            vae,
            new_transformer(latent_channels(vae), size),
            FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT),
        )

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The share itself."""
        return torch.tensor([share])

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Shifted logit-normal levels (Esser et al. 2024, arXiv 2403.03206)."""
        shift = float(self.scheduler.config["shift"])
        return shift * normal.sigmoid() / (1 + (shift - 1) * normal.sigmoid())

    def level_of_step(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.sigmas[number]

    def add_noise(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        sigma = over_clips(level)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The velocity."""
        return noise - latents

    def weight(self, level: Tensor) -> Tensor:
        """Sigma."""
        return over_clips(level)

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """The predicted velocity; 0 for the context."""
        hidden, last = self.network_input(noisy, condition)
        change = self.transformer(
            hidden_states=hidden, timestep=level * self.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=noisy.new_zeros(len(noisy), 1, TEXT_DIM), return_dict=False,
        )[0]  # fmt: skip
        velocity = torch.zeros_like(noisy)
        velocity[:, :, FUTURE] = (noisy[:, :, FUTURE] - (last + change)) / over_clips(level).clamp(min=1e-3)
        return velocity


def new_transformer(channels: int = LATENT_CHANNELS, size: Size = TINY) -> WanTransformer3DModel:
    """One token for the whole future at a position of 4x4 px, so that five frames share the computation of its motion.

    One token for each frame of 8x8 px learned less in the same time: the network then computes the motion five times, and
    has to represent shifts smaller than a token. Two wide heads and `fused_attention.attend` make a step in bf16 a third
    faster on a CPU.
    """
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(CLIP_FRAMES - CONTEXT_FRAMES, 1, 1), num_attention_heads=size.heads, attention_head_dim=HEAD_WIDTH,
        in_channels=4 * channels, out_channels=channels, text_dim=TEXT_DIM, freq_dim=128,
        ffn_dim=4 * size.heads * HEAD_WIDTH, num_layers=size.layers, rope_max_seq_len=64,
    )  # fmt: skip
