"""The tiny models' autoencoder, which works frame by frame, and its conversion of clips to latents and back.

Decision: diffusers' `AutoencoderTiny` on frames whose pixels are folded 4x4 into channels, saved in diffusers' layout.
Pretrained once (`training.autoencoders`) and shared by the bases of an edition.

Shapes: B clips, T frames, C latent channels, H x W pixels, h x w = H/4 x W/4 latent cells; N frames.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from replaylab.util import networks

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

FOLD, LATENT_CHANNELS = 4, 8
FRAMES_AT_ONCE = 256  # encoded or decoded together


def new_autoencoder(channels: int = LATENT_CHANNELS) -> AutoencoderTiny:
    """A small autoencoder of frames whose pixels are folded 4x4 into channels, so that no convolution has full size.

    No normalisation layers, so that its weights can be set to a principal component analysis before training.
    """
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        in_channels=3 * FOLD**2, out_channels=3 * FOLD**2, latent_channels=channels,
        encoder_block_out_channels=(64,), decoder_block_out_channels=(64,), num_encoder_blocks=(2,),
        num_decoder_blocks=(3,),
    )  # fmt: skip


def latent_channels(vae: AutoencoderTiny | None) -> int:
    """The number of latent channels of an autoencoder; without one, LATENT_CHANNELS."""
    return LATENT_CHANNELS if vae is None else int(vae.config["latent_channels"])


def load_autoencoder(folder: str | Path) -> AutoencoderTiny:
    """The autoencoder in `<folder>/vae`; raises FileNotFoundError with the command that trains it."""
    from diffusers import AutoencoderTiny

    path = Path(folder) / "vae"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing: make it with `python -m replaylab pretrain autoencoder`")
    return networks.load(AutoencoderTiny, path)


def digest(vae: AutoencoderTiny) -> str:
    """Twelve hex digits of the digest of its scale and weights, which is part of the name of cached latents."""
    whole = hashlib.sha256(repr(vae.config["scaling_factor"]).encode())
    for name, weight in sorted(vae.state_dict().items()):
        whole.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:12]


def save_autoencoder(vae: AutoencoderTiny, folder: Path) -> None:
    """Write the autoencoder to `<folder>/vae`."""
    networks.save(vae, folder / "vae", leave_out=("block_out_channels",))  # it warns of this one when it reads it


def fold(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to (N, 3 FOLD^2, H/FOLD, W/FOLD) in -1..1, channels last."""
    pixels = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.pixel_unshuffle(pixels, FOLD).contiguous(memory_format=torch.channels_last)


def unfold(folded: Tensor) -> Tensor:
    """The inverse of `fold`, up to rounding: (N, 3, H, W) in -1..1."""
    return functional.pixel_shuffle(folded, FOLD)


def to_frames(pixels: Tensor) -> np.ndarray:
    """(N, 3, H, W) in -1..1 to uint8 (N, H, W, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(vae: AutoencoderTiny, frames: np.ndarray) -> Tensor:
    """uint8 (B, T, H, W, 3) to latents (B, C, T, h, w), scaled to a mean square of 1 over the base's domains."""
    flat = torch.as_tensor(np.ascontiguousarray(frames)).flatten(0, 1)
    latents = torch.cat([vae.encode(fold(part).to(vae.device)).latents.cpu() for part in flat.split(FRAMES_AT_ONCE)])
    return (latents * vae.config["scaling_factor"]).unflatten(0, frames.shape[:2]).transpose(1, 2).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderTiny, latents: Tensor) -> np.ndarray:
    """Scaled latents (B, C, T, h, w) to uint8 (B, T, H, W, 3)."""
    flat = latents.transpose(1, 2).flatten(0, 1) / vae.config["scaling_factor"]
    parts = (vae.decode(part.to(vae.device)).sample for part in flat.split(FRAMES_AT_ONCE))
    frames = np.concatenate([to_frames(unfold(part)) for part in parts])
    return frames.reshape(latents.shape[0], latents.shape[2], *frames.shape[1:])
