"""The tiny models that are trained and shipped here: from 3 context frames of 64x64 px they generate the next 5.

Decision: diffusers' own classes in a tiny configuration, saved in diffusers' own folder layout. As in Wan's
image-to-video, the context is given in extra channels beside the noisy latents, in the form that learned motion fastest at
this size: the last context latent and its first and second differences, repeated in every frame. The clean clip is the
network's output added to the last context latent, so that the network starts as a copy of the last frame and need not pass
noise through its narrow tokens (Li and He 2025, arXiv 2511.13720). Only future frames pass through the network.

Refused: prompts; the text is one empty token. Shapes as in `interface`; each latent covers one frame.
"""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.models import autoencoder
from replaylab.models.interface import Condition, VideoModel
from replaylab.util import networks
from replaylab.util.files import write_folder, write_json

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

TEXT_DIM = 8  # of the empty token: Wan's blocks cross-attend to something
FUTURE = slice(CONTEXT_FRAMES, None)
HEAD_WIDTH = 64  # of attention


class Size(NamedTuple):
    """The size of a transformer: attention heads, each of width HEAD_WIDTH, and layers."""

    heads: int
    layers: int


TINY = Size(heads=2, layers=6)
WIDE = Size(heads=3, layers=6)
"""Twice the weights: the second edition's bases."""
LARGE = Size(heads=6, layers=12)
"""Fourteen times the weights: for a GPU."""


class TinyModel(VideoModel):
    """The common part of `TinyWan` and `TinyCogVideoX`. The loss is weighted to be the squared error of clean latents:
    unweighted, an error of a clean latent would have the weight 1 / sigma^2, and small noise would dominate motion.
    """

    SCHEDULER: ClassVar[str]  # diffusers' class
    CLIPS_AT_ONCE = 8  # more of them leave a CPU's caches: a fifth slower

    def __init__(self, vae: AutoencoderTiny, transformer: Any, scheduler: Any) -> None:
        self.vae, self.transformer, self.scheduler = vae, transformer, scheduler

    @classmethod
    @abstractmethod
    def new(cls, vae: AutoencoderTiny, size: Size = TINY) -> Self:
        """An untrained model with this autoencoder; the transformer's weights come from torch's global stream."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load from a folder in diffusers' layout (vae/, transformer/, scheduler/); FileNotFoundError names it."""
        folder, diffusers = Path(folder), import_module("diffusers")
        for part in ("transformer", "scheduler"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{folder / part} is missing: make it with `python -m replaylab pretrain base`")
        name, kind = cls.NETWORK
        return cls(
            _autoencoder_of(folder),
            networks.load(getattr(diffusers, kind), folder / name).requires_grad_(True),
            getattr(diffusers, cls.SCHEDULER).from_pretrained(folder / "scheduler"),
        )

    def save(self, folder: Path, shared_autoencoder: Path | None = None) -> None:
        """Write the whole model in diffusers' layout; with `shared_autoencoder`, only a reference to that folder, and the
        transformer as float16.
        """
        index: dict[str, Any] = {}
        if shared_autoencoder is None:
            autoencoder.save_autoencoder(self.vae, folder)
            self.save_network(folder)
        else:
            networks.save(copy.deepcopy(self.transformer).half(), folder / self.NETWORK[0])
            place = os.path.relpath(shared_autoencoder, folder)
            index = {"_autoencoder": {"folder": place, "digest": autoencoder.digest(self.vae)}}
        write_folder(folder / "scheduler", self.scheduler.save_pretrained)
        index |= {"_class_name": type(self).__name__, "vae": ["diffusers", "AutoencoderTiny"],
                 "transformer": ["diffusers", self.NETWORK[1]], "scheduler": ["diffusers", self.SCHEDULER]}  # fmt: skip
        write_json(folder / "model_index.json", index)

    def to(self, device: torch.device) -> Self:
        self.vae.to(device)
        return super().to(device)

    def with_network(self, network: Any) -> Self:
        return type(self)(self.vae, network, self.scheduler)

    def encode(self, frames: np.ndarray) -> Tensor:
        return autoencoder.encode(self.vae, frames)

    def decode(self, latents: Tensor) -> np.ndarray:
        return autoencoder.decode(self.vae, latents)

    def network_input(self, noisy: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Noisy future latents with the context's channels (B, 4C, t, h, w), and the last context latent (B, C, 1, h, w)."""
        before, previous, last = condition["known"][:, :, -3:].split(1, dim=2)
        context = torch.cat([last, last - previous, last - 2 * previous + before], dim=1)
        # the gradients' bits depend on the memory layout: frames are selected last
        return torch.cat([noisy, context.expand(-1, -1, noisy.shape[2], -1, -1)], dim=1)[:, :, FUTURE], last


def _autoencoder_of(folder: Path) -> AutoencoderTiny:
    """The autoencoder in the folder, or the shared one that it refers to; raises ValueError if that has changed."""
    if (folder / "vae").is_dir():
        return autoencoder.load_autoencoder(folder)
    shared = networks.read_json(folder, "model_index.json").get("_autoencoder", {})
    vae = autoencoder.load_autoencoder(folder / shared.get("folder", ""))
    if (digest := autoencoder.digest(vae)) != shared["digest"]:
        raise ValueError(
            f"{folder} was trained with the autoencoder {shared['digest']}, but {folder / shared['folder']} has {digest}: "
            "copy both folders again, from one place"
        )
    return vae
