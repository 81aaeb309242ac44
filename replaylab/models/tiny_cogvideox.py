"""A tiny CogVideoX (`tiny`): the same task and context in another family of models.

Decision: only the family differs from `TinyWan`: CogVideoX's transformer (joint attention of text and video, Yang et
al. 2024, arXiv 2408.06072) with patches in time and rotary positions as in CogVideoX 1.5, a variance-preserving noise
schedule that ends in pure noise, v-prediction at uniformly sampled timesteps, and DDIM. The two families therefore differ
in training and sampling, not in their input.

A level is a timestep, 0 to 999.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models.autoencoder import latent_channels
from replaylab.models.fused_attention import use_fused_joint_attention
from replaylab.models.interface import Condition, VPrediction, over_clips
from replaylab.models.tiny import FUTURE, HEAD_WIDTH, TEXT_DIM, TINY, Size, TinyModel

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

CELLS = 16  # of a side


class TinyCogVideoX(VPrediction, TinyModel):
    """A tiny CogVideoX."""

    NETWORK, SCHEDULER = ("transformer", "CogVideoXTransformer3DModel"), "CogVideoXDDIMScheduler"
    ADAPTED = r"transformer_blocks\.\d+\.(attn1\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))"

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        super().__init__(vae, use_fused_joint_attention(transformer), scheduler)

    @classmethod
    def new(cls, vae: AutoencoderTiny, size: Size = TINY) -> Self:
        from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

        channels = latent_channels(vae)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=size.heads, attention_head_dim=HEAD_WIDTH, in_channels=4 * channels,
            out_channels=channels, time_embed_dim=64, text_embed_dim=TEXT_DIM, num_layers=size.layers, sample_width=CELLS,
            sample_height=CELLS, sample_frames=CLIP_FRAMES - CONTEXT_FRAMES, patch_size=1,
            patch_size_t=CLIP_FRAMES - CONTEXT_FRAMES, temporal_compression_ratio=1, max_text_seq_length=1,
            use_rotary_positional_embeddings=True,
        )  # fmt: skip
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        return cls(vae, transformer, scheduler)

    def level_at(self, share: float, shape: Sequence[int]) -> Tensor:
        """The timestep at this share of all timesteps."""
        return torch.tensor([round(share * (self._timesteps - 1))])

    def weight(self, level: Tensor) -> Tensor:
        """The factor sqrt(1 - alpha)."""
        return (1 - self._alphas(level)).sqrt()

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """The predicted v; 0 for the context."""
        hidden, last = self.network_input(noisy, condition)
        change = self.transformer(
            hidden_states=hidden.transpose(1, 2), timestep=level,
            encoder_hidden_states=noisy.new_zeros(len(noisy), 1, TEXT_DIM),
            image_rotary_emb=_rotary_embedding(tuple(noisy.shape[3:]), noisy.device), return_dict=False,
        )[0]  # fmt: skip
        clean = last + change.transpose(1, 2)
        v = torch.zeros_like(noisy)
        v[:, :, FUTURE] = (self._alphas(level).sqrt() * noisy[:, :, FUTURE] - clean) / self.weight(level)
        return v

    def _alphas(self, level: Tensor) -> Tensor:
        """The cumulative products of alpha, (B, 1, 1, 1, 1)."""
        return over_clips(self.scheduler.alphas_cumprod.float().to(level.device)[level])


@cache
def _rotary_embedding(size: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (height width, HEAD_WIDTH) of the positions of one patch in time, as in CogVideoX 1.5."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    return get_3d_rotary_pos_embed(HEAD_WIDTH, None, size, 1, grid_type="slice", max_size=size, device=device)
