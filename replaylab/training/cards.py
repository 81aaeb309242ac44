"""The card beside pretrained weights: their description, training data, and the command that trains them again."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from replaylab.spec import WorldSpec
from replaylab.util.files import write_json, write_text


def in_words(spec: WorldSpec) -> str:
    """A domain's name, size, appearance, motion and seed."""
    size = f"{spec.videos[0]} videos of {spec.frames} frames"
    return f"{spec.name} ({size}, look {spec.look}, motion {spec.motion}, seed {spec.seed})"


def write(
    folder: Path, what: str, about: dict[str, Any], data: tuple[WorldSpec, ...], options: str = "", keeps_json: bool = True,
) -> None:  # fmt: skip
    """Write a card beside the weights: their description, training data, and the command that trains them again. keeps_json:
    also as JSON, which is part of the folder's digest, though it holds how long the training took.
    """
    about = {
        **about,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
    }
    lines = [
        f"# {what} of replaylab's tiny world", "",
        f"Made again by `python -m replaylab pretrain {what}{options}`.", "",
        "Trained on rendered video only (our own, CC0-1.0; in doom the pictures are Freedoom's, BSD-3-Clause):",
        *(f"- {in_words(spec)}" for spec in data), "",
        "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in about.items()), "",
        "For studying forgetting in small; it generates nothing but toy traffic at 64x64 pixels.", "",
    ]  # fmt: skip
    write_text(folder / "README.md", "\n".join(lines))
    if keeps_json:
        write_json(folder / "pretraining.json", about)
