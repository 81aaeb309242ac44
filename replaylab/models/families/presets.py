"""The supported families, and a preset of each for one GPU. None of the presets was run here.

Decision: a new family is a module of its own and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replaylab.models.families.cogvideox import CogVideoX
from replaylab.models.families.ltx import LTXVideo
from replaylab.models.families.shared import Family
from replaylab.models.families.svd import StableVideoDiffusion
from replaylab.models.families.wan import WanByChannels, WanInPlace

FAMILIES: tuple[type[Family], ...] = (WanByChannels, WanInPlace, CogVideoX, LTXVideo, StableVideoDiffusion)


@dataclass(frozen=True)
class GpuPreset:
    """A LoRA fine-tuning of a published model: the settings of a run, and the inputs of the estimate."""

    name: str
    hub_name: str
    family: type[Family]
    config: dict[str, Any]  # of the network, where it differs from diffusers' defaults
    frames: int
    height_px: int
    width_px: int
    latent: tuple[int, int, int, int]  # channels, frames, height, width of a clip's latents
    frames_per_second: float
    encoder_weights: float  # of the largest encoder of prompts or contexts
    steps: int = 2000
    batch_size: int = 4
    lora_rank: int = 32
    learning_rate: float = 1e-4
    guidance: float = 1.0  # that its pipeline samples with
    relatives: tuple[type[Family], ...] = ()  # other families that these settings are for too


def preset_of(family: type[Family]) -> str:
    """The name of the preset for models of a family."""
    return next(name for name, preset in PRESETS.items() if issubclass(family, (preset.family, *preset.relatives)))


PRESETS = {
    preset.name: preset
    for preset in (
        GpuPreset(
            "wan", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", WanInPlace,
            {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30},
            49, 480, 832, (48, 13, 30, 52), 24, 5.7e9, guidance=5.0, relatives=(WanByChannels,),
        ),
        GpuPreset(
            "cogvideox", "THUDM/CogVideoX-5b-I2V", CogVideoX,
            {"num_attention_heads": 48, "in_channels": 32, "num_layers": 42, "use_rotary_positional_embeddings": True,
             "use_learned_positional_embeddings": True},
            49, 480, 720, (16, 13, 60, 90), 8, 4.8e9, guidance=6.0,
        ),
        GpuPreset(
            "ltx", "Lightricks/LTX-Video", LTXVideo, {}, 97, 512, 768, (128, 13, 16, 24), 25, 4.8e9,
            guidance=3.0,
        ),
        GpuPreset(
            "svd", "stabilityai/stable-video-diffusion-img2vid-xt", StableVideoDiffusion,
            {"num_attention_heads": (5, 10, 20, 20)}, 25, 320, 512, (4, 25, 40, 64), 7, 0.63e9, guidance=3.0,
        ),
    )
}  # fmt: skip
