"""Which model is it, and what clips is it given? The tiny one that ships, or one of the `families` from a folder.

Decision: what a model is given decides what can be measured, so the two go together: a `Subject` knows how many frames a
clip has and how many of them are context, makes clips ready to learn from, and takes frames to latents and back. Two
subjects of one description are the same one. Refused: weights other than those that the description is of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data import clips as clips_room
from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.models import families, interface, latent_cache
from replaylab.models.autoencoder import save_part
from replaylab.models.tiny import TinyModel
from replaylab.models.tiny_cogvideox import TinyCogVideoX
from replaylab.models.tiny_wan import TinyWan
from replaylab.spec import WEIGHTS, ModelSpec, RunSpec, base_of, weights_digest
from replaylab.store import ReferenceSpec
from replaylab.util import distributed, downloads
from replaylab.util.progress import track

Frames = NDArray[np.uint8]
NETWORKS = ("transformer", "unet")
TINY: dict[str, type[TinyModel]] = {"wan": TinyWan, "cogvideox": TinyCogVideoX}  # by spec.FAMILIES


@dataclass(frozen=True)
class TinyPipeline:
    """A tiny model: its autoencoder, which all bases share, works frame by frame."""

    model: TinyModel = field(compare=False)
    network: ClassVar[str] = "transformer"  # its folder
    frames: ClassVar[int] = CLIP_FRAMES
    context_frames: ClassVar[int] = CONTEXT_FRAMES

    def encode_clips(self, domain: Domain, split: str, chosen: list[Clip], home: Path) -> Sequence[interface.Clip]:
        """The chosen clips of a split as latents, memory-mapped, from `home/latents` or made there."""
        key = weights_digest(WEIGHTS / "base" / "vae")
        return latent_cache.encoded(self.model, domain, split, chosen, home / "latents", key)

    def encode(self, frames: Frames) -> torch.Tensor:
        """Clips (N, T, H, W, 3) to latents (N, C, T, h, w)."""
        return self.model.encode(frames)

    def decode(self, clips: torch.Tensor) -> Frames:
        """Latents (N, C, T, h, w) to clips (N, T, H, W, 3)."""
        return self.model.decode(clips)

    def with_network(self, network: Any) -> TinyPipeline:
        """The same with another network."""
        return TinyPipeline(self.model.with_network(network))

    def save(self, folder: Path) -> None:
        """The network, in diffusers' layout."""
        save_part(self.model.transformer, folder / self.network)


@dataclass(frozen=True)
class PretrainedPipeline:
    """A model of one of the families, as described; the prompt is the domain's own (`prompt` in domain.json), else the
    description's.
    """

    spec: ModelSpec
    model: families.Family = field(compare=False)

    @property
    def network(self) -> str:
        """What diffusers calls the network that is trained."""
        return self.model.NETWORK[0]

    @property
    def frames(self) -> int:
        """How many frames a clip has."""
        return self.spec.frames

    @property
    def context_frames(self) -> int:
        """How many of them are given."""
        return self.spec.context_frames

    def encode_clips(self, domain: Domain, split: str, chosen: list[Clip], home: Path) -> Sequence[interface.Clip]:
        """The chosen clips with what is known of them, memory-mapped, from `home/conditions` or made there.

        Raises ValueError where the family cannot take clips of that length and size.
        """
        self.model.check(self.context_frames, self.frames, domain.height_px, domain.width_px)
        prompt = str(domain.about.get("prompt", self.spec.prompt))
        pictures = clips_room.read(domain, chosen, self.frames)
        told = track(pictures, what=f"encoding {domain.name}", total=len(chosen), unit="clips")
        rate = self.spec.frames_per_second
        return self.model.examples(told, [prompt] * len(chosen), self.context_frames, rate)

    def encode(self, frames: Frames) -> torch.Tensor:
        """Clips (N, T, H, W, 3) to latents (N, C, t, h, w), one at a time."""
        return torch.cat([self.model.encode(clip[None]) for clip in frames])

    def decode(self, clips: torch.Tensor) -> Frames:
        """Latents (N, C, t, h, w) to clips (N, T, H, W, 3), one at a time."""
        return np.concatenate([self.model.decode(clip[None]) for clip in clips])

    def with_network(self, network: Any) -> PretrainedPipeline:
        """The same with another network."""
        return PretrainedPipeline(self.spec, self.model.with_network(network))

    def save(self, folder: Path) -> None:
        """The network, in diffusers' layout."""
        self.model.save(folder)


Pipeline = TinyPipeline | PretrainedPipeline


def load(spec: RunSpec | ReferenceSpec, home: Path) -> Pipeline:
    """What a run starts from, on this process's device; conditions are cached in `home/conditions`.

    Raises ValueError for other weights than the description's, and what `families.load` raises.
    """
    device = distributed.this_rank().device
    if spec.model is None:
        return load_tiny(base_of(spec.base))
    found = digest_of(spec.model.folder)
    if found != spec.model.digest:
        raise ValueError(
            f"{spec.model.folder} holds other weights ({found}) than the run is described with ({spec.model.digest})"
        )
    # else there is a bar for each part of each model
    for library in ("diffusers", "transformers"):
        import_module(f"{library}.utils.logging").disable_progress_bar()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = families.load(spec.model.folder, cache=home / "conditions", dtype=dtype)
    if device.type == "cuda":
        model.spare_memory()
    model.guidance = spec.model.guidance
    return PretrainedPipeline(spec.model, model.to(device))


def load_tiny(folder: Path) -> TinyPipeline:
    """The tiny model in a folder, whichever family its model_index.json says it is of; on this process's device."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    kind = {one.__name__: one for one in TINY.values()}[name]
    return TinyPipeline(kind.load(folder).to(distributed.this_rank().device))


@cache
def published_tiny() -> TinyPipeline:
    """A tiny model, for the autoencoder."""
    return load_tiny(WEIGHTS / "base")


def digest_of(name: str | Path) -> str:
    """What names the weights of a model's network: a folder in diffusers' layout, or a name on the hub."""
    folder = downloads.found(name)
    downloads.index_of(folder)  # refuses what is no such folder
    network = next((part for part in NETWORKS if (folder / part).is_dir()), NETWORKS[0])
    return downloads.digest_of(folder, (network,))
