"""CogVideoX image-to-video.

Decision: as in diffusers' `CogVideoXImageToVideoPipeline` and its training example (train_cogvideox_image_to_video_lora.py):
the context's latents in extra channels, followed by zeros; v-prediction (Salimans and Ho 2022, arXiv 2202.00512) at
uniformly sampled timesteps; the example's weight 1 / (1 - alpha) on the clean clip's error is a weight of one on v's. It is
always sampled by DDIM, because the DPM solver of the folder uses new noise at every step, and configurations could not be
compared with the same noise. The example's noise on the image is left out, since a context is encoded once. The model was
pretrained with one context frame; contexts of 4 n + 1 frames are accepted.

Clips have 8 n + 1 frames, an odd number of latents: diffusers decodes two latents at a time, the first of an odd number
separately, and with an even number each would give 4 frames, more than were encoded. CogVideoX 1.5 combines two latents at
each position; as in its training, the odd number is made even by prepending a copy of the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.shared import Family
from replaylab.models.families.tensors import check_format, empty, generator_of, to_frames, to_pixels
from replaylab.models.interface import Condition, VPrediction

LATENTS_AT_ONCE = 2  # that its autoencoder decodes, and that 1.5 takes together
MOTION = 2.0  # the `ofs` number of CogVideoX 1.5, always this


class CogVideoX(VPrediction, Family):
    """CogVideoX 1.0 and 1.5, image to video."""

    PIPELINE = "CogVideoXImageToVideoPipeline"
    PIPELINES = ("CogVideoXImageToVideoPipeline",)
    NETWORK, VAE = ("transformer", "CogVideoXTransformer3DModel"), "AutoencoderKLCogVideoX"
    ADAPTED = r"transformer_blocks\.\d+\.attn1\.(to_[qkv]|to_out\.0)"

    @property
    def _copies(self) -> int:
        """The number of prepended copies of the first latent."""
        return 0 if self.transformer.config["patch_size_t"] is None else 1

    def check_clips(self, context_frames: int, frames: int, height: int, width: int) -> None:
        every = self.vae.config["temporal_compression_ratio"]
        config, scale = self.transformer.config, self.pipe.vae_scale_factor_spatial
        side = scale * config["patch_size"]
        if config["use_learned_positional_embeddings"]:  # of the places of one size
            only = config["sample_height"] * scale, config["sample_width"] * scale
            if (height, width) != only:
                raise ValueError(
                    f"this CogVideoX takes frames of {only[0]}x{only[1]} (height x width) alone, not {height}x{width}: make "
                    f"the domain with --size {only[0]}x{only[1]}"
                )
        check_format(
            "CogVideoX", context_frames, frames, (height, width),
            multiple=side, every=every * LATENTS_AT_ONCE, context_every=every,
        )  # fmt: skip

    def encode(self, frames: np.ndarray) -> Tensor:
        with self.on_device("vae") as vae:
            latents = vae.encode(to_pixels(frames).to(vae.device)).latent_dist.mode() * vae.config["scaling_factor"]
        return torch.cat([latents[:, :, : self._copies], latents], dim=2).cpu()

    def decode(self, latents: Tensor) -> np.ndarray:
        with self.on_device("vae") as vae:
            scaled = latents[:, :, self._copies :].to(vae.device, vae.dtype) / vae.config["scaling_factor"]
            return to_frames(vae.decode(scaled).sample)

    def encode_prompt(self, prompt: str) -> Condition:
        """{"text": (1, words, width)}."""
        with self.on_device("text_encoder") as encoder:
            text, _ = self.pipe.encode_prompt(
                [prompt], do_classifier_free_guidance=False,
                max_sequence_length=self.transformer.config["max_text_seq_length"], device=encoder.device,
            )  # fmt: skip
        return {"text": text}

    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """{"channels": (1, C, t, h, w)}: the context's latents followed by zeros."""
        config = self.vae.config
        scale = 1 / config["scaling_factor"] if config["invert_scale_latents"] else config["scaling_factor"]
        with self.on_device("vae") as vae:
            posterior = vae.encode(to_pixels(context[None]).to(vae.device)).latent_dist
        latents = posterior.sample(generator_of(context)) * scale
        count = (frames - 1) // config["temporal_compression_ratio"] + 1 + self._copies
        rest = latents.new_zeros(*latents.shape[:2], count - latents.shape[2], *latents.shape[3:])
        return {"channels": torch.cat([latents, rest], dim=2)}

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        config, side = self.transformer.config, self.pipe.vae_scale_factor_spatial
        rotary = None
        if config["use_rotary_positional_embeddings"]:
            height, width = (size * side for size in noisy.shape[3:])
            rotary = self.pipe._prepare_rotary_positional_embeddings(height, width, noisy.shape[2], noisy.device)
        predicted = self.transformer(
            hidden_states=torch.cat([noisy, condition["channels"].to(noisy)], dim=1).transpose(1, 2).to(self.dtype),
            encoder_hidden_states=condition["text"].to(noisy.device, self.dtype), timestep=level,
            ofs=None if config["ofs_embed_dim"] is None else noisy.new_full((1,), MOTION).to(self.dtype),
            image_rotary_emb=rotary, return_dict=False,
        )[0]  # fmt: skip
        return predicted.transpose(1, 2)

    def schedule(self, steps: int, noise: Tensor) -> Any:
        from diffusers import CogVideoXDDIMScheduler

        scheduler = CogVideoXDDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=noise.device)
        return scheduler

    @classmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        channels, frames, height, width = latent
        rotary = torch.empty(frames * height * width // 4, 64)
        return {
            "hidden_states": empty(1, frames, 2 * channels, height, width), "encoder_hidden_states": empty(1, 226, 4096),
            "timestep": torch.empty(1), "image_rotary_emb": (rotary, rotary),
        }  # fmt: skip
