"""Does it hold in another family of models? The tiny task of `models`, done by CogVideoX.

Decision: what `TinyWan` is given and asked for stays the same: the autoencoder, the context in extra channels, one token for
the whole future of a place, and a network that puts out what is to be added to the last context latent. What differs is
the family: CogVideoX's transformer (text and video in one attention, Yang et al. 2024, arXiv 2408.06072) with patches in
time and rotary places as in CogVideoX 1.5, a variance-preserving noise schedule that ends in pure noise, v-prediction
(Salimans and Ho 2022, arXiv 2202.00512), evenly drawn timesteps, and DDIM. So two families differ in how they are trained
and sampled, not in what they know.

Shapes as in `models`; a level is a timestep, 0 to 999.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models.autoencoder import LATENT_CHANNELS
from replaylab.models.fused_attention import hasten_joint
from replaylab.models.tiny import TEXT_DIM, TinyModel

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

HEADS, WIDTH = 2, 64  # of attention; a head's width is shared by time, height and width
CELLS = 16  # of a side


class TinyCogVideoX(TinyModel):
    """A tiny CogVideoX, by v-prediction."""

    TRANSFORMER, SCHEDULER = "CogVideoXTransformer3DModel", "CogVideoXDDIMScheduler"
    ADAPTED = r"transformer_blocks\.\d+\.(attn1\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))"

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        super().__init__(vae, hasten_joint(transformer), scheduler)

    @classmethod
    def new(cls, vae: AutoencoderTiny) -> Self:
        from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=HEADS, attention_head_dim=WIDTH, in_channels=4 * LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS, time_embed_dim=64, text_embed_dim=TEXT_DIM, num_layers=6, sample_width=CELLS,
            sample_height=CELLS, sample_frames=CLIP_FRAMES - CONTEXT_FRAMES, patch_size=1,
            patch_size_t=CLIP_FRAMES - CONTEXT_FRAMES, temporal_compression_ratio=1, max_text_seq_length=1,
            use_rotary_positional_embeddings=True,
        )  # fmt: skip
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        return cls(vae, transformer, scheduler)

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """That share of the timesteps."""
        return torch.tensor([round(share * (self._timesteps - 1))])

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        """Timesteps, evenly."""
        return (torch.special.ndtr(normal) * self._timesteps).long().clamp(max=self._timesteps - 1)

    def level(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.timesteps[number]

    def mix(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, level)

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """v = sqrt(alpha) noise - sqrt(1 - alpha) x."""
        return self.scheduler.get_velocity(latents, noise, level)

    def weight(self, level: Tensor) -> Tensor:
        """Sqrt(1 - alpha)."""
        return (1 - self._alphas(level)).sqrt()

    def predict(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """v (B, C, T, h, w) of noisy latents at timesteps (B,); only future frames go through the network."""
        future, channels = slice(CONTEXT_FRAMES, None), noisy.shape[1]
        change = self.transformer(
            hidden_states=torch.cat([noisy, condition], dim=1)[:, :, future].transpose(1, 2),
            timestep=level,
            encoder_hidden_states=noisy.new_zeros(len(noisy), 1, TEXT_DIM),
            image_rotary_emb=rotary_places(*noisy.shape[3:], noisy.device),
            return_dict=False,
        )[0]
        clean = condition[:, :channels, future] + change.transpose(1, 2)
        v = torch.zeros_like(noisy)
        v[:, :, future] = (self._alphas(level).sqrt() * noisy[:, :, future] - clean) / self.weight(level)
        return v

    @property
    def _timesteps(self) -> int:
        return int(self.scheduler.config["num_train_timesteps"])

    def _alphas(self, level: Tensor) -> Tensor:
        """The cumulative products, (B, 1, 1, 1, 1)."""
        return self.scheduler.alphas_cumprod.float().to(level.device)[level][:, None, None, None, None]


@cache
def rotary_places(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (height width, WIDTH) of the places of one patch in time, as CogVideoX 1.5 turns them."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    return get_3d_rotary_pos_embed(
        WIDTH, None, (height, width), 1, grid_type="slice", max_size=(height, width), device=device
    )
