"""The initial model of a run and the format of its clips: a shipped tiny model, or one of `families` from a folder.

Decision: the input of a model determines what can be measured, so a `Pipeline` combines a model, the length
of its clips and of their context, and the encoding of clips for training. Two pipelines with one description are equal.
Refused: weights other than those of the description.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data import clips as video_clips
from replaylab.data.domain import Domain
from replaylab.models import autoencoder, families, latent_cache
from replaylab.models.interface import Clip
from replaylab.models.tiny import TinyModel
from replaylab.models.tiny_cogvideox import TinyCogVideoX
from replaylab.models.tiny_wan import TinyWan
from replaylab.shipped_weights import WEIGHTS, base_of
from replaylab.spec import ModelSpec, RunSpec
from replaylab.store import ReferenceSpec
from replaylab.util import distributed, downloads, networks, reading
from replaylab.util.processes import importing_torch
from replaylab.util.progress import track

Frames = NDArray[np.uint8]
NETWORKS = ("transformer", "unet")
TINY: dict[str, type[TinyModel]] = {"wan": TinyWan, "cogvideox": TinyCogVideoX}  # by spec.FAMILIES


class Pipeline(ABC):
    """A model and its clips: `frames` frames each, of which the first `context_frames` are the context."""

    model: Any
    frames: Any
    context_frames: Any
    frame_by_frame = False  # whether its autoencoder takes each frame by itself, a latent of one frame

    @abstractmethod
    def encode_clips(self, domain: Domain, split: str, chosen: list[video_clips.Clip], home: Path) -> Sequence[Clip]:
        """The chosen clips of a split with their conditions, memory-mapped, from the cache in `home`; encoded if missing."""

    def encode(self, frames: Frames) -> torch.Tensor:
        """Clips (N, T, H, W, 3) to latents (N, C, t, h, w)."""
        return torch.cat([self.model.encode(frames[part]) for part in self._parts(len(frames))])

    def decode(self, latents: torch.Tensor) -> Frames:
        """Latents (N, C, t, h, w) to clips (N, T, H, W, 3)."""
        return np.concatenate([self.model.decode(latents[part]) for part in self._parts(len(latents))])

    @abstractmethod
    def with_network(self, network: Any) -> Pipeline:
        """The same pipeline with another network."""

    def _parts(self, clips: int) -> list[slice]:
        size = self.model.CLIPS_AT_ONCE
        return [slice(first, first + size) for first in range(0, clips, size)]


@dataclass(frozen=True)
class TinyPipeline(Pipeline):
    """A tiny model. Its autoencoder, which all bases share, works frame by frame, so all tiny pipelines are equal."""

    model: TinyModel = field(compare=False)
    frames = CLIP_FRAMES
    context_frames = CONTEXT_FRAMES
    frame_by_frame = True

    def encode_clips(self, domain: Domain, split: str, chosen: list[video_clips.Clip], home: Path) -> Sequence[Clip]:
        """As in `Pipeline`, with the cache in `home/latents`."""
        key = autoencoder.digest(self.model.vae)
        return latent_cache.encode_clips(self.model, domain, split, chosen, home / "latents", key)

    def with_network(self, network: Any) -> TinyPipeline:
        return TinyPipeline(self.model.with_network(network))


@dataclass(frozen=True)
class PretrainedPipeline(Pipeline):
    """A model of one of the families, as described; the prompt is the domain's own (`prompt` in domain.json), otherwise the
    description's, which is empty if the family has no text input.
    """

    spec: ModelSpec
    model: families.Family = field(compare=False)

    @property
    def frames(self) -> int:
        """The number of frames of a clip."""
        return self.spec.frames

    @property
    def context_frames(self) -> int:
        """The number of context frames of a clip."""
        return self.spec.context_frames

    def encode_clips(self, domain: Domain, split: str, chosen: list[video_clips.Clip], home: Path) -> Sequence[Clip]:
        """As in `Pipeline`, cached in `home/conditions`. ValueError if the family does not support the length or size."""
        self.model.check_clips(self.context_frames, self.frames, domain.height_px, domain.width_px)
        prompt = str(domain.about.get("prompt", self.spec.prompt)) if self.model.TEXT_ENCODERS else self.spec.prompt
        frames = video_clips.read(domain, chosen, self.frames)
        tracked = track(frames, what=f"encoding {domain.name}", total=len(chosen), unit="clips")
        rate = self.spec.frames_per_second
        return self.model.examples(tracked, [prompt] * len(chosen), self.context_frames, rate)

    def with_network(self, network: Any) -> PretrainedPipeline:
        return PretrainedPipeline(self.spec, self.model.with_network(network))


def load(spec: RunSpec | ReferenceSpec, home: Path) -> Pipeline:
    """The initial model of a run, on this process's device; conditions are cached in `home/conditions`.

    Raises ValueError for weights other than the description's, and the errors of `families.load`.
    """
    device = distributed.this_rank().device
    if spec.model is None:
        return load_tiny(base_of(spec.base))
    folder, described = spec.model.folder, spec.model.digest
    if (digest := digest_of(folder)) != described:
        raise ValueError(f"{folder} holds other weights ({digest}) than the run is described with ({described})")
    for library in ("diffusers", "transformers"):
        import_module(f"{library}.utils.logging").disable_progress_bar()  # one for each part of each model
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = families.load(folder, cache=home / "conditions", dtype=dtype)
    if device.type == "cuda":
        model.reduce_memory()
    model.guidance = spec.model.guidance
    return PretrainedPipeline(spec.model, model.to(device))


@importing_torch()
def load_tiny(folder: Path) -> TinyPipeline:
    """The tiny model in a folder, of the family named in its model_index.json; on this process's device."""
    name = downloads.read_index(folder)["_class_name"]
    kind = {one.__name__: one for one in TINY.values()}.get(name)
    if kind is None:
        raise ValueError(f"{folder / 'model_index.json'}: {reading.shown(name)} is no tiny model; {networks.AGAIN}")
    return TinyPipeline(kind.load(folder).to(distributed.this_rank().device))


@cache
def published_tiny() -> TinyPipeline:
    """The first published base, for its autoencoder."""
    return load_tiny(WEIGHTS / "base")


def digest_of(name: str | Path) -> str:
    """The digest of the weights of a model's network: a folder in diffusers' layout, or a name on the hub."""
    folder = downloads.fetch(name)
    downloads.read_index(folder)  # refuses what is no such folder
    network = next((part for part in NETWORKS if (folder / part).is_dir()), NETWORKS[0])
    return networks.digest(folder, (network,))
