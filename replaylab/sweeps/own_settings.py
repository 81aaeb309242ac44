"""Settings of `own`: how a model of one's own is fine-tuned and sampled. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PRESETS = ("wan", "cogvideox", "ltx", "svd")


OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "frames": (int, "frames of a clip, the context included"),
    "context_frames": (int, "of them given"),
    "steps": (int, "of fine-tuning"),
    "batch_size": (int, "clips a step"),
    "learning_rate": (float, "of AdamW"),
    "lora_rank": (int, "of the adapters; 0 trains all weights"),
    "prompt": (str, "for domains that have none of their own"),
    "guidance": (float, "classifier-free; 1 for none"),
    "sampler_steps": (int, "to draw a clip"),
    "detector_threshold": (float, "the least score of a box"),
}
"""The fields of `own.Settings`: type, and what they are."""


@dataclass(frozen=True)
class Settings:
    """How a model is fine-tuned and drawn from; `Settings.of` has those of a preset."""

    frames: int
    context_frames: int = 1
    steps: int = 2000
    batch_size: int = 4
    learning_rate: float = 1e-4
    lora_rank: int = 32  # 0: all weights are trained
    prompt: str = ""
    guidance: float = 1.0
    sampler_steps: int = 30
    detector_threshold: float = 0.5

    @classmethod
    def of(cls, preset: str) -> Settings:
        """Those of a preset of `families.presets`; raises ValueError that lists them."""
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
        from replaylab.models.families import presets

        one = presets.PRESETS[preset]
        return cls(one.frames, 1, one.steps, one.batch_size, one.learning_rate, one.lora_rank, guidance=one.guidance)
