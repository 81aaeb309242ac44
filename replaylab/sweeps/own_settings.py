"""The settings of `own` for fine-tuning and sampling your own model. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from replaylab.description import check_numbers, check_prompt

PRESETS = ("wan", "cogvideox", "ltx", "svd")
OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "frames": (int, "frames of a clip, including the context"),
    "context_frames": (int, "context frames of a clip"),
    "steps": (int, "steps of fine-tuning"),
    "batch_size": (int, "clips per step"),
    "learning_rate": (float, "learning rate of AdamW"),
    "lora_rank": (int, "rank of the adapters; 0 trains all weights"),
    "prompt": (str, "prompt for domains without one of their own"),
    "guidance": (float, "classifier-free guidance; 1 for none"),
    "sampler_steps": (int, "sampling steps per clip"),
    "detector_threshold": (float, "minimum score of a box"),
}
"""The fields of `Settings`: type and description."""


@dataclass(frozen=True)
class Settings:
    """Settings of fine-tuning and sampling; `Settings.of` has those of a preset."""

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

    def __post_init__(self) -> None:
        check_numbers(self, "frames", "context_frames", "steps", "batch_size", "sampler_steps", least=1)
        check_numbers(self, "lora_rank", "guidance", least=0)
        check_numbers(self, "learning_rate", "detector_threshold", above=0)
        check_prompt(self.prompt, "prompt")
        if self.detector_threshold >= 1:
            raise ValueError(f"detector_threshold is {self.detector_threshold}; it must be below 1")
        if self.context_frames >= self.frames:
            raise ValueError(f"context_frames is {self.context_frames}; it must be below frames, {self.frames}")

    @classmethod
    def of(cls, preset: str, changes: Mapping[str, Any] | None = None) -> Settings:
        """The settings of a preset of `families.presets`, with the `changes` that are not None.

        Raises ValueError, with the valid ones, for an unknown preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
        from replaylab.models.families import presets

        one = presets.PRESETS[preset]
        plain = cls(one.frames, 1, one.steps, one.batch_size, one.learning_rate, one.lora_rank, guidance=one.guidance)
        given = {name: value for name, value in (changes or {}).items() if value is not None}
        return replace(plain, **{field.name: given[field.name] for field in fields(cls) if field.name in given})

    @classmethod
    def parse(cls, preset: str, texts: Sequence[str]) -> Settings:
        """The settings of a preset, changed by texts such as "steps=200"; raises ValueError that lists the valid names."""
        changes = {}
        for text in texts:
            name, _, value = text.partition("=")
            try:
                changes[name] = OPTIONS[name][0](value)
            except (KeyError, ValueError) as error:
                known = ", ".join(f"{name} ({about})" for name, (_, about) in OPTIONS.items())
                raise ValueError(f"settings: {text!r} is no NAME=VALUE that can be set; there are {known}") from error
        return cls.of(preset, changes)
