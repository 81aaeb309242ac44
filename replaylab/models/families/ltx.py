"""LTX-Video image-to-video.

Decision: as in diffusers' `LTXImageToVideoPipeline` and Lightricks' trainer: the context's latents replace the noisy
ones, with their tokens at noise level 0; flow matching on the others, at logit-normal levels whose shift grows with the
number of tokens (HaCohen et al. 2024, arXiv 2501.00103). The network receives a token's position in space in pixels and in
time in seconds, so the clips' frame rate matters. A latent covers 8 frames, so a context has 8 n + 1 frames; in pretraining
mostly one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.shared import FlowMatching
from replaylab.models.families.tensors import check_format, empty, generator_of, to_frames, to_pixels
from replaylab.models.interface import Condition, over_clips


class LTXVideo(FlowMatching):
    """LTX-Video, image to video."""

    PIPELINE = "LTXImageToVideoPipeline"
    PIPELINES = ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline")  # all of the same parts
    NETWORK, VAE = ("transformer", "LTXVideoTransformer3DModel"), "AutoencoderKLLTXVideo"
    ADAPTED = r"transformer_blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0)"

    def check_clips(self, context_frames: int, frames: int, height: int, width: int) -> None:
        every, side = self.pipe.vae_temporal_compression_ratio, self.pipe.vae_spatial_compression_ratio
        check_format("LTX-Video", context_frames, frames, (height, width), multiple=side, every=every, context_every=every)

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, t, h, w) of mean 0 and deviation 1 over LTX-Video's own clips."""
        with self.on_device("vae") as vae:
            latents = vae.encode(to_pixels(frames).to(vae.device)).latent_dist.mode()
            return self.pipe._normalize_latents(latents, vae.latents_mean, vae.latents_std).cpu()

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, t, h, w) to uint8 (B, T, H, W, 3); a denoising decoder treats them as clean."""
        with self.on_device("vae") as vae:
            scaled = self.pipe._denormalize_latents(
                latents.to(vae.device, vae.dtype), vae.latents_mean, vae.latents_std, vae.config["scaling_factor"]
            )
            timestep = scaled.new_zeros(len(scaled)) if vae.config["timestep_conditioning"] else None
            return to_frames(vae.decode(scaled, timestep, return_dict=False)[0])

    def encode_prompt(self, prompt: str) -> Condition:
        """{"text": (1, words, width), "is_word": (1, words)}."""
        with self.on_device("text_encoder") as encoder:
            text, is_word, _, _ = self.pipe.encode_prompt([prompt], do_classifier_free_guidance=False, device=encoder.device)
        return {"text": text, "is_word": is_word}

    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """{"known": the context's latents (1, C, k, h, w), "frames_per_second": (1,)}."""
        with self.on_device("vae") as vae:
            posterior = vae.encode(to_pixels(context[None]).to(vae.device)).latent_dist
            latents = posterior.sample(generator_of(context))
            known = self.pipe._normalize_latents(latents, vae.latents_mean, vae.latents_std)
        return {"known": known, "frames_per_second": known.new_tensor([frames_per_second])}

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        frames, height, width = noisy.shape[2:]
        levels = over_clips(level).expand(-1, 1, frames, height, width).clone()
        levels[:, :, : condition["known"].shape[2]] = 0
        side = self.pipe.vae_spatial_compression_ratio
        seconds = self.pipe.vae_temporal_compression_ratio / over_clips(condition["frames_per_second"].to(noisy))
        predicted = self.transformer(
            hidden_states=self._packed(noisy).to(self.dtype),
            encoder_hidden_states=condition["text"].to(noisy.device, self.dtype),
            timestep=self._packed(levels)[..., 0] * self.scheduler.config["num_train_timesteps"],
            encoder_attention_mask=condition["is_word"].to(noisy.device), num_frames=frames, height=height,
            width=width, rope_interpolation_scale=(seconds, side, side), return_dict=False,
        )[0]  # fmt: skip
        return self.pipe._unpack_latents(predicted, frames, height, width, *self._patch)

    def log_shift(self, shape: Sequence[int]) -> float:
        """Linear in the number of tokens: `base_shift` at `base_image_seq_len`, `max_shift` at `max_image_seq_len`."""
        from diffusers.pipelines.ltx.pipeline_ltx_image2video import calculate_shift

        config, tokens = self.scheduler.config, shape[2] * shape[3] * shape[4]
        return calculate_shift(
            tokens,
            config["base_image_seq_len"], config["max_image_seq_len"], config["base_shift"], config["max_shift"],
        )  # fmt: skip

    def schedule(self, steps: int, noise: Tensor) -> Any:
        scheduler = self.scheduler.from_config(self.scheduler.config)
        sigmas = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=self.log_shift(noise.shape), device=noise.device)
        return scheduler

    def _packed(self, latents: Tensor) -> Tensor:
        """(B, C, t, h, w) to tokens (B, t h w, C)."""
        return self.pipe._pack_latents(latents, *self._patch)

    @property
    def _patch(self) -> tuple[int, int]:
        return self.pipe.transformer_spatial_patch_size, self.pipe.transformer_temporal_patch_size

    @classmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        channels, frames, height, width = latent
        tokens = frames * height * width
        return {
            "hidden_states": empty(1, tokens, channels), "encoder_hidden_states": empty(1, 128, 4096),
            "timestep": torch.empty(1, tokens), "encoder_attention_mask": torch.empty(1, 128), "num_frames": frames,
            "height": height, "width": width,
        }  # fmt: skip
