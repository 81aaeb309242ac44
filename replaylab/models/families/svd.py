"""Stable Video Diffusion, image to video.

Decision: as in diffusers' `StableVideoDiffusionPipeline`, trained by EDM's recipe (Karras et al. 2022, arXiv
2206.00364, with a data standard deviation of 1; Blattmann et al. 2023, arXiv 2311.15127): noisy = x + s noise, scaled by
c_in; the network receives c_noise = log(s) / 4 and predicts v, from which the clean clip is c_skip noisy + c_out v. EDM's
weight (s^2 + 1) / s^2 on the clean clip's error times c_out^2 is one, so the loss is the mean squared error of v; log(s) is
normal with mean 0.7 and standard deviation 1.6, as in a common training script (SVD_Xtend's train_svd.py).

The model was trained on one context frame, the first, and has no text input: more context frames and any text are refused.
The noise on the image is the pipeline's fixed 0.02, since a context is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.shared import Family
from replaylab.models.families.tensors import check_format, empty, generator_of, to_frames, to_pixels
from replaylab.models.interface import Condition, over_clips

LOG_LEVEL_MEAN, LOG_LEVEL_DEVIATION = 0.7, 1.6
MOTION_BUCKET, IMAGE_NOISE = 127, 0.02  # the pipeline's own
FRAMES_AT_ONCE = 14  # decoded together


class StableVideoDiffusion(Family):
    """Stable Video Diffusion, image to video."""

    PIPELINE = "StableVideoDiffusionPipeline"
    PIPELINES = ("StableVideoDiffusionPipeline",)
    NETWORK, VAE = ("unet", "UNetSpatioTemporalConditionModel"), "AutoencoderKLTemporalDecoder"
    PROCESSORS = ("feature_extractor",)
    TEXT_ENCODERS = ()
    IMAGE_ENCODERS = ("image_encoder",)
    ADAPTED = r".*transformer_blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0)"  # those of space and those of time
    TEMPORAL = ("temporal_transformer_blocks", "temporal_res_block")

    def __init__(self, folder: Path, network: Any, cache: Path | None, dtype: torch.dtype, autoencoder: Any = None) -> None:
        super().__init__(folder, network, cache, dtype, autoencoder)
        config = self.scheduler.config
        types = config["prediction_type"], config["timestep_type"]
        if types != ("v_prediction", "continuous"):
            raise ValueError(
                f"{folder / 'scheduler'}: prediction_type and timestep_type are {types}; Stable Video Diffusion's are "
                "v_prediction and continuous"
            )

    def check_clips(self, context_frames: int, frames: int, height: int, width: int) -> None:
        sides = height, width
        check_format("Stable Video Diffusion", 1, frames, sides, multiple=self.pipe.vae_scale_factor)
        if context_frames != 1:
            raise ValueError(
                f"Stable Video Diffusion takes one context frame, not {context_frames}: begin the clips at their last one"
            )

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, T, h, w), frame by frame."""
        flat = to_pixels(frames).transpose(1, 2).flatten(0, 1)
        with self.on_device("vae") as vae:
            parts = [vae.encode(part.to(vae.device)).latent_dist.mode() for part in flat.split(FRAMES_AT_ONCE)]
            latents = torch.cat(parts) * vae.config["scaling_factor"]
        return latents.unflatten(0, frames.shape[:2]).transpose(1, 2).cpu()

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, T, h, w) to uint8 (B, T, H, W, 3)."""
        with self.on_device("vae") as vae:
            clips = latents.to(vae.device, vae.dtype).transpose(1, 2)
            made = [self.pipe.decode_latents(clip[None], len(clip), FRAMES_AT_ONCE) for clip in clips]
        return to_frames(torch.cat(made))

    def encode_prompt(self, prompt: str) -> Condition:
        """An empty condition: the family has no text input."""
        if prompt:
            raise ValueError(f"Stable Video Diffusion takes no text, so the prompt must be empty; there is {prompt!r}")
        return {}

    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """{"image": CLIP's (1, 1, width), "channels": latents of the image, unscaled (1, C, h, w), "numbers": (1, 3)}."""
        from PIL import Image

        with self.on_device("image_encoder") as encoder:
            image = self.pipe._encode_image(Image.fromarray(context[0]), encoder.device, 1, False)
        pixels = to_pixels(context[None])[:, :, 0]
        pixels = pixels + IMAGE_NOISE * torch.randn(pixels.shape, generator=generator_of(context))
        with self.on_device("vae") as vae:
            channels = vae.encode(pixels.to(vae.device)).latent_dist.mode()
        numbers = torch.tensor([[frames_per_second - 1, MOTION_BUCKET, IMAGE_NOISE]])  # it was trained on fps - 1
        return {"image": image, "channels": channels, "numbers": numbers}

    def unconditional(self, condition: Condition) -> Condition:
        """The condition without the image."""
        return condition | {name: torch.zeros_like(condition[name]) for name in ("image", "channels")}

    def levels(self, normal: Tensor, shape: Sequence[int]) -> Tensor:
        return (LOG_LEVEL_MEAN + LOG_LEVEL_DEVIATION * normal).exp()

    def add_noise(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return latents + over_clips(level) * noise

    def target(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """v = (noise - s x) / sqrt(s^2 + 1), the solution of x = c_skip noisy + c_out v."""
        sigma = over_clips(level)
        return (noise - sigma * latents) / (sigma**2 + 1).sqrt()

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        scaled = noisy / (over_clips(level) ** 2 + 1).sqrt()  # c_in
        image = condition["channels"].to(scaled)[:, :, None].expand(-1, -1, noisy.shape[2], -1, -1)
        predicted = self.transformer(
            torch.cat([scaled, image], dim=1).transpose(1, 2).to(self.dtype),
            level.log() / 4,  # c_noise
            encoder_hidden_states=condition["image"].to(noisy.device, self.dtype),
            added_time_ids=condition["numbers"].to(noisy.device, self.dtype),
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2)

    def schedule(self, steps: int, noise: Tensor) -> Any:
        scheduler = super().schedule(steps, noise)
        scheduler.is_scale_input_called = True  # `predict` scales
        return scheduler

    def level_of_step(self, scheduler: Any, number: int) -> Tensor:
        return scheduler.sigmas[number]

    def guidance_by_frame(self, latents: Tensor) -> Tensor:
        """From 1 in the first frame, which is known, to the full guidance in the last."""
        return torch.linspace(1.0, self.guidance, latents.shape[2], device=latents.device).view(1, 1, -1, 1, 1)

    @classmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        channels, frames, height, width = latent
        return {
            "sample": empty(1, frames, 2 * channels, height, width), "timestep": torch.empty(1),
            "encoder_hidden_states": empty(1, 1, 1024), "added_time_ids": empty(1, 3),
        }  # fmt: skip
