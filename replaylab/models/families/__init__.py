"""Published families of video generators, each a small class around diffusers' own image-to-video pipeline.

    model = load("folder/of/a/Wan2.1-I2V", cache="conditions")   # or a name on the hub
    example = model.example(clip, "a car drives", context_frames=1, frames_per_second=16)
    loss = model.loss(example["latents"], noise, model.levels(normal, noise.shape), example)

Decision: `model_index.json` names the family, and each adapter is tested against the family's own pipeline: the same samples
from the same noise, and the published loss on the same tensors (tests/models/families, on tiny networks with random
weights). Nothing here has been run by us with weights and GPUs of real size. Refused: a folder of another family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from replaylab.models.families.presets import FAMILIES
from replaylab.models.families.shared import Family
from replaylab.models.families.wan import WanByChannels, WanInPlace
from replaylab.models.interface import Condition
from replaylab.util import distributed, downloads

__all__ = ["Condition", "Family", "load"]


def load(
    name: str | Path, *, cache: str | Path | None = None, dtype: torch.dtype | None = None, network: Any = None
) -> Family:
    """The adapter for a folder in diffusers' layout, or for a name on the Hugging Face hub.

    `cache` is a folder for encoded clips and conditions, `dtype` that of network and encoders (default: float32); the
    autoencoder is float32. `network`: a loaded network, such as a trainer's, used instead of the folder's, in its own
    `dtype` by default. Encoders of prompts and contexts are loaded when they are first needed. Raises FileNotFoundError,
    ValueError or ConnectionError, with a remedy, if anything is missing, damaged or of another family.
    """
    folder = downloads.fetch(name)
    family = _family_of(folder)
    if network is None:
        dtype = dtype or torch.float32
        network = downloads.load_part(folder, *family.NETWORK, torch_dtype=dtype).requires_grad_(True)
    else:
        network = distributed.unwrapped(network)
        kinds = [kind.__name__ for kind in type(network).__mro__]  # FSDP2 derives another from it
        if (wanted := family.NETWORK[1]) not in kinds:
            raise ValueError(f"network is a {kinds[0]}, and {folder} is a model around a {wanted}")
    return family(folder, network, Path(cache) if cache else None, dtype or network.dtype)


def outline(name: str | Path) -> Family:
    """The adapter of a folder or a name without weights, for `check_clips` and other properties that are needed before the
    weights are loaded or downloaded.

    Errors as in `load`.
    """
    folder = downloads.fetch_configurations(name)
    family = _family_of(folder)
    network, autoencoder = (downloads.outline_part(folder, *part) for part in (family.NETWORK, ("vae", family.VAE)))
    return family(folder, network, None, torch.float32, autoencoder)


def _family_of(folder: Path) -> type[Family]:
    index = downloads.read_index(folder)
    name, in_place = index["_class_name"], bool(index.get("expand_timesteps"))
    if name in WanInPlace.PIPELINES:
        if name == "WanPipeline" and not in_place:
            raise ValueError(
                f"{folder} is a text-to-video Wan, which takes no context frames: take Wan 2.1 image-to-video or Wan 2.2 "
                "TI2V"
            )
        return WanInPlace if in_place else WanByChannels
    for family in FAMILIES:
        if name in family.PIPELINES:
            return family
    known = sorted({name for family in FAMILIES for name in family.PIPELINES})
    raise ValueError(f"{folder / 'model_index.json'}: {name!r} is none of the families here: {', '.join(known)}")
