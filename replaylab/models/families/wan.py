"""Wan 2.1 image-to-video and Wan 2.2 TI2V.

Decision: both forms of Wan's conditioning on context frames, as in diffusers' `WanImageToVideoPipeline`. Wan 2.1 receives,
beside the noisy latents, the latents of the context followed by grey frames and a mask of the known frames; CLIP encodes the
first one. Wan 2.2 TI2V receives the context's latents in place of the noisy ones, at noise level 0. The objective is
flow matching (Wan team 2025, arXiv 2503.20314, eq. 1 to 3), at logit-normal levels with the scheduler's shift. Wan
2.1's mask allows any number of context frames; TI2V needs whole latents, 4 n + 1 frames. Both were pretrained with one.

Refused: text-to-video models, and Wan 2.2 A14B, which alternates between two networks.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replaylab.models.families.shared import FlowMatching
from replaylab.models.families.tensors import check_format, empty, to_frames, to_pixels
from replaylab.models.interface import Condition, over_clips

WORDS = 512  # that the prompt is padded to


class Wan(FlowMatching):
    """The common part of Wan 2.1 image-to-video and Wan 2.2 TI2V."""

    PIPELINE = "WanImageToVideoPipeline"
    NETWORK, VAE = ("transformer", "WanTransformer3DModel"), "AutoencoderKLWan"
    ADAPTED = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
    IN_PLACE = False  # where the context's latents go

    @property
    def _every(self) -> int:
        """Frames per latent, except for the first one."""
        return self.vae.config["scale_factor_temporal"]

    def check_clips(self, context_frames: int, frames: int, height: int, width: int) -> None:
        side = self.vae.config["scale_factor_spatial"] * self.transformer.config["patch_size"][1]
        check_format(
            "Wan", context_frames, frames, (height, width),
            multiple=side, every=self._every, context_every=self._every if self.IN_PLACE else 1,
        )  # fmt: skip

    def encode(self, frames: np.ndarray) -> Tensor:
        """uint8 (B, T, H, W, 3) to latents (B, C, t, h, w) of mean 0 and deviation 1 over Wan's own clips."""
        return self._encoded(to_pixels(frames)).cpu()

    def decode(self, latents: Tensor) -> np.ndarray:
        with self.on_device("vae") as vae:
            mean, deviation = self._statistics()
            return to_frames(vae.decode(latents.to(vae.device, vae.dtype) * deviation + mean, return_dict=False)[0])

    def encode_prompt(self, prompt: str) -> Condition:
        """{"text": (1, WORDS, width)}: 0 after the end of the prompt, as in the pipeline. The pipeline also cleans prompts
        with `ftfy`, which well-formed ones do not need.
        """
        clean = " ".join(html.unescape(html.unescape(prompt)).split())
        tokens = self.pipe.tokenizer([clean], padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt")
        with self.on_device("text_encoder") as encoder:
            mask = tokens.attention_mask.to(encoder.device)
            states = encoder(tokens.input_ids.to(encoder.device), mask).last_hidden_state
        return {"text": states * mask[..., None].to(states)}

    @classmethod
    def _meta_latents_and_text(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        latents = empty(1, config["in_channels"], *latent[1:])
        return {"hidden_states": latents, "encoder_hidden_states": empty(1, WORDS, 4096)}

    def log_shift(self, shape: Sequence[int]) -> float:
        config = self.scheduler.config
        return math.log(config["flow_shift"] if "flow_shift" in config else config["shift"])

    def _encoded(self, pixels: Tensor) -> Tensor:
        with self.on_device("vae") as vae:
            latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
            mean, deviation = self._statistics()
            return (latents - mean) / deviation

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the autoencoder's latents, (1, C, 1, 1, 1)."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(config[name], device=self.vae.device).view(1, -1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return mean, deviation


class WanByChannels(Wan):
    """Wan 2.1 image-to-video: the context in extra channels."""

    PIPELINES = ("WanImageToVideoPipeline",)
    PROCESSORS = ("tokenizer", "image_processor")
    IMAGE_ENCODERS = ("image_encoder",)

    def __init__(self, folder: Path, network: Any, cache: Path | None, dtype: torch.dtype, autoencoder: Any = None) -> None:
        super().__init__(folder, network, cache, dtype, autoencoder)
        if self._has("transformer_2"):
            raise ValueError(f"{folder} is a Wan 2.2 of two networks that take turns; a Wan 2.1 or a TI2V has one")
        has, needs = network.config["in_channels"], 2 * self.vae.config["z_dim"] + self._every
        if has != needs:
            raise ValueError(
                f"{folder}: the transformer takes {has} channels, and one of image-to-video takes {needs} (latents, mask, "
                "context): this is a text-to-video model"
            )

    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """{"channels": mask and context latents (1, 4 + C, t, h, w)}, and CLIP's {"image": (1, patches, width)}."""
        from PIL import Image

        pixels = to_pixels(context[None])
        rest = pixels.new_zeros(1, 3, frames - len(context), *pixels.shape[3:])
        latents = self._encoded(torch.cat([pixels, rest], dim=2))
        is_known = (torch.arange(frames) < len(context)).float()
        # the first latent is of one frame, whose mask is repeated; each of the others is of `_every` frames
        mask = torch.cat([is_known[:1].expand(self._every), is_known[1:]]).view(-1, self._every).T
        mask = mask[None, :, :, None, None].expand(-1, -1, -1, *latents.shape[3:]).to(latents)
        condition = {"channels": torch.cat([mask, latents], dim=1)}
        if self.transformer.config["image_dim"] is not None:
            image = self.pipe.image_processor(images=Image.fromarray(context[0]), return_tensors="pt").pixel_values
            with self.on_device("image_encoder") as encoder:
                states = encoder(image.to(encoder.device, encoder.dtype), output_hidden_states=True)
            condition["image"] = states.hidden_states[-2]
        return condition

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        image = condition.get("image")
        return self.transformer(
            hidden_states=torch.cat([noisy, condition["channels"].to(noisy)], dim=1).to(self.dtype),
            timestep=level * self.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=condition["text"].to(noisy.device, self.dtype),
            encoder_hidden_states_image=None if image is None else image.to(noisy.device, self.dtype),
            return_dict=False,
        )[0]

    @classmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        image = {"timestep": torch.empty(1), "encoder_hidden_states_image": empty(1, 257, 1280)}
        return cls._meta_latents_and_text(latent, config) | image


class WanInPlace(Wan):
    """Wan 2.2 TI2V: the context in place, each token at its own noise level."""

    PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")  # the hub's TI2V-5B goes by the first name
    IN_PLACE = True

    def pipeline_settings(self) -> dict[str, Any]:
        return {"expand_timesteps": True}

    def encode_context(self, context: np.ndarray, frames: int, frames_per_second: float) -> Condition:
        """{"known": the context's latents (1, C, k, h, w)}."""
        return {"known": self._encoded(to_pixels(context[None]))}

    def predict(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        patch = self.transformer.config["patch_size"]
        tokens = [size // side for size, side in zip(noisy.shape[2:], patch, strict=True)]
        levels = over_clips(level)[:, 0].expand(-1, *tokens).clone()
        levels[:, : condition["known"].shape[2] // patch[0]] = 0
        return self.transformer(
            hidden_states=noisy.to(self.dtype),
            timestep=levels.flatten(1) * self.scheduler.config["num_train_timesteps"],
            encoder_hidden_states=condition["text"].to(noisy.device, self.dtype),
            return_dict=False,
        )[0]

    @classmethod
    def meta_inputs(cls, latent: tuple[int, int, int, int], config: dict[str, Any]) -> dict[str, Any]:
        return cls._meta_latents_and_text(latent, config) | {"timestep": torch.empty(1, math.prod(latent[1:]) // 4)}
