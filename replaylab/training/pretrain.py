"""The shipped instruments (autoencoder, detectors, video network), each trained by one command; the bases are in `bases`.

    python -m replaylab pretrain autoencoder | detector | second-detector | videonet

Decision: they measure, so they are trained on the targets' appearance too, in free motion. The autoencoder resumes where it
was killed; all write safetensors and a card.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data import clips
from replaylab.data.domain import Domain
from replaylab.data.video import decode
from replaylab.metrics import video_network_training
from replaylab.metrics.blur import blurred
from replaylab.metrics.detectors import centre_point_training, fcos, fcos_training
from replaylab.metrics.video_network_training import LabelledVideos, labelled_videos
from replaylab.models import autoencoder
from replaylab.spec import WEIGHTS, generator
from replaylab.training import bases, cards, checkpoint
from replaylab.util.distributed import flush_denormals
from replaylab.util.progress import report, track
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import domain_spec

TARGET_LOOKS = (  # instruments only
    domain_spec("diverse-driving", videos=(480, 96, 0), seed=100),
    domain_spec("country", motion="free", videos=(480, 96, 0), seed=100, name="country-free"),
)

AUTOENCODER_STEPS, AUTOENCODER_BATCH, AUTOENCODER_RATE = 1500, 48, 1e-3
DETECTOR_STEPS = 1200
SECOND_DETECTOR_STEPS, SECOND_DETECTOR_RATE = 3000, 2e-3
BLURS_PX = (0.0, 0.5, 1.0, 1.5, 2.0)
VIDEONET_STEPS, VIDEONET_VIDEOS = 1000, 1200  # videos of each domain at most
VIDEONET_CHECKS = tuple(domain_spec(name, videos=(0, 128, 128)) for name in ("driving", "driving-eventful"))
SEED = 0


@flush_denormals()
def train_autoencoder(home: Path, folder: Path = WEIGHTS / "base", steps: int = AUTOENCODER_STEPS) -> None:
    """Train the autoencoder on single frames of all domains; resumes from `home/autoencoder`."""
    started = time.monotonic()
    domains = (bases.NEAR, *bases.FAR, *TARGET_LOOKS)
    frames = np.concatenate([_all_frames(build_domain(spec, home / "domains"), "train") for spec in domains])
    torch.manual_seed(SEED)  # diffusers draws a new network's weights from the global stream
    vae = autoencoder.new_autoencoder().to(memory_format=torch.channels_last)
    start_as_principal_components(vae, autoencoder.fold(frames[:: max(1, len(frames) // 2000)]))
    weights = list(vae.parameters())
    optimizer = torch.optim.AdamW(weights, lr=AUTOENCODER_RATE, weight_decay=0.0, fused=True)
    first = _resume_autoencoder(home / "autoencoder", vae, optimizer)
    for step in track(range(first, steps), what="autoencoder", unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = AUTOENCODER_RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
        chosen = generator(SEED, "autoencoder batch", step).integers(0, len(frames), AUTOENCODER_BATCH)
        loss = _reconstruction_loss(vae, frames[np.sort(chosen)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            report(f"autoencoder: step {step + 1}, loss {loss.item():.4f}")
            _save_autoencoder(home / "autoencoder", step + 1, vae, optimizer)
    vae.eval()
    with torch.no_grad():
        coded = vae.encode(autoencoder.fold(frames[:: max(1, len(frames) // 2000)])).latents
    vae.register_to_config(scaling_factor=1 / coded.square().mean().sqrt().item())
    autoencoder.save_autoencoder(vae, folder)
    about = {"steps": steps, "batch_size": AUTOENCODER_BATCH, "seed": SEED, "frames": len(frames),
             "seconds": round(time.monotonic() - started), "first_step_of_last_run": first}  # fmt: skip
    cards.write(folder / "vae", "autoencoder", about, domains)


def train_detector(home: Path, folder: Path = WEIGHTS / "detector", steps: int = DETECTOR_STEPS) -> None:
    """Train the detector on real and autoencoded frames of all appearances of both driving worlds.

    Half of the dev scenes choose its threshold; the figures on its card come from the other half, among them its
    scores on real frames that are blurred in steps.
    """
    centre_point_training.fit(**_labelled_frames(home), seed=SEED, steps=steps, folder=folder)


@flush_denormals()
def train_second_detector(home: Path, folder: Path = fcos.SHIPPED, steps: int = SECOND_DETECTOR_STEPS) -> None:
    """Train the second detector on the frames of the first, with a seed of its own; nothing is taken from the first."""
    rate = SECOND_DETECTOR_RATE
    fcos_training.fit(**_labelled_frames(home), seed=SEED + 1, steps=steps, folder=folder, learning_rate=rate)


def _labelled_frames(home: Path) -> dict[str, Any]:
    """What both detectors are trained, tuned and checked on: arguments of `fitting.fit`."""
    vae = autoencoder.load_autoencoder(WEIGHTS / "base")
    training, validation, checks = [], [], {}
    for spec in (bases.NEAR, *TARGET_LOOKS):
        domain = build_domain(spec, home / "domains")
        real, truth = _all_frames(domain, "train"), _all_boxes(domain, "train")
        training += [(real, truth), (_autoencoded(vae, real), truth)]
        real, truth = _all_frames(domain, "dev"), _all_boxes(domain, "dev")
        half = len(real) // 2  # whole scenes: their number is even, and all are equally long
        validation += [(real[:half], truth[:half]), (_autoencoded(vae, real[:half]), truth[:half])]
        held_out = real[half:]
        checks[f"{spec.name}, autoencoded"] = (_autoencoded(vae, held_out), truth[half:])
        for blur_px in BLURS_PX:
            how = f"blurred by {blur_px:g} px" if blur_px else "real"
            checks[f"{spec.name}, {how}"] = (blurred(held_out, blur_px), truth[half:])
    frames, boxes = _concatenated(training)
    validation_frames, validation_boxes = _concatenated(validation)
    return {
        "frames": frames, "boxes": boxes, "validation_frames": validation_frames, "validation_boxes": validation_boxes,
        "checks": checks,
        "data": "Real and autoencoded frames of rendered traffic: "
        + "; ".join(map(cards.in_words, (bases.NEAR, *TARGET_LOOKS))),
    }  # fmt: skip


@flush_denormals()
def train_video_network(home: Path, folder: Path = WEIGHTS / "videonet", steps: int = VIDEONET_STEPS) -> None:
    """Train the video network on all domains; its card has distances between dev clips of the target's appearance."""
    specs = (*bases.BASE_DOMAINS, *TARGET_LOOKS)
    training, held_out = (
        LabelledVideos.concatenated(
            [labelled_videos(build_domain(spec, home / "domains"), split, VIDEONET_VIDEOS) for spec in specs]
        )
        for split in ("train", "dev")
    )
    checks = {}
    for spec in VIDEONET_CHECKS:
        domain = build_domain(spec, home / "domains")
        scenes = clips.one_per_scene(clips.clips_of(domain, "dev", CLIP_FRAMES))
        read = clips.read(domain, scenes, CLIP_FRAMES)
        checks[spec.name] = np.stack([frames[CONTEXT_FRAMES:] for frames in read])
    video_network_training.fit(
        training, held_out, checks, seed=SEED, steps=steps, folder=folder,
        data=f"at most {VIDEONET_VIDEOS} training videos of each of: " + "; ".join(map(cards.in_words, specs)),
    )  # fmt: skip


def _concatenated(
    parts: list[tuple[NDArray[np.uint8], list[NDArray[np.float64]]]],
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]]]:
    """Frames (N, H, W, 3) of several domains, and the boxes of each."""
    return np.concatenate([frames for frames, _ in parts]), [each for _, boxes in parts for each in boxes]


def _autoencoded(vae: Any, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return autoencoder.decode(vae, autoencoder.encode(vae, frames[:, None]))[:, 0]


def _all_frames(domain: Domain, split: str) -> NDArray[np.uint8]:
    """Every frame of a split, uint8 (N, H, W, 3)."""
    files = domain.split(split)["file"]
    return np.concatenate([decode(domain.folder / "videos" / file)
                           for file in track(files, what=f"decoding {domain.name} {split}", unit="videos")])  # fmt: skip


def _all_boxes(domain: Domain, split: str) -> list[NDArray[np.float64]]:
    """For every frame of a split, (K, 6): x0 y0 x1 y1 visible is_pedestrian."""
    table = domain.tracks.assign(pedestrian=domain.tracks["kind"] == "pedestrian")
    columns = ["x0", "y0", "x1", "y1", "visible", "pedestrian"]
    boxes = {key: rows[columns].to_numpy(float) for key, rows in table.groupby(["video", "frame"])}
    return [
        boxes.get((row.file.removesuffix(".mp4"), frame), np.zeros((0, 6)))
        for row in domain.split(split).itertuples()
        for frame in range(int(row.frames))
    ]


def _reconstruction_loss(vae: Any, frames: NDArray[np.uint8]) -> Tensor:
    """Absolute and squared error, and the absolute error of the image's gradients: edges are where agents are."""
    folded = autoencoder.fold(frames)
    decoded = autoencoder.unfold(vae.decode(vae.encode(folded).latents).sample)
    real = autoencoder.unfold(folded)
    loss = (decoded - real).abs().mean() + (decoded - real).square().mean()
    for axis in (-1, -2):
        loss = loss + (decoded.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
    return loss


@torch.no_grad()
def start_as_principal_components(vae: Any, folded: Tensor) -> None:
    """Set the weights so that the untrained network is a principal component analysis of `folded` (N, F, h, w).

    Linear algebra saves two cores this much of training. Components are scaled to the fourth root of their variance, between
    equal scales (noise hides all of them last) and their own (noise hides detail first).
    """
    pixels = folded.permute(0, 2, 3, 1).reshape(-1, folded.shape[1])
    mean = pixels.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov((pixels - mean).T))
    count = autoencoder.LATENT_CHANNELS
    variances, directions = variances[-count:].flip(0), directions[:, -count:].flip(1).T
    sizes = variances**0.25
    sizes = 0.5 * sizes / sizes.square().mean().sqrt()  # small: the decoder begins with a tanh
    into = directions * (sizes / variances.sqrt())[:, None]
    back = directions.T * (variances.sqrt() / sizes)
    signs = torch.cat([torch.eye(count), -torch.eye(count)])  # a pair of rectified channels carries a signed number
    for part in (*vae.encoder.layers, *vae.decoder.layers):
        if hasattr(part, "fuse"):  # a residual block: at first it adds nothing
            part.conv[-1].weight.zero_()
            part.conv[-1].bias.zero_()
    # diffusers' tiny encoder takes (x + 1) / 2, its decoder gives 2 y - 1
    _set_centre(vae.encoder.layers[0], 2 * signs @ into, -signs @ into @ (mean + 1))
    _set_centre(vae.encoder.layers[-1], signs.T, torch.zeros(count))
    _set_centre(vae.decoder.layers[0], signs, torch.zeros(2 * count))
    _set_centre(vae.decoder.layers[-1], back @ signs.T / 2, (mean + 1) / 2)


def _set_centre(layer: Any, matrix: Tensor, bias: Tensor) -> None:
    """Make the leading channels of a 3x3 convolution a matrix product; the others stay as they are, without effect."""
    rows, columns = matrix.shape
    layer.weight[:rows].zero_()
    layer.weight[:rows, :columns, 1, 1] = matrix
    layer.bias[:rows] = bias


def _save_autoencoder(folder: Path, step: int, vae: Any, optimizer: Any) -> None:
    states = {
        kind: {name: optimizer.state[weight][kind] for name, weight in vae.named_parameters()}
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    checkpoint.save(folder, step, {"vae": vae.state_dict(), **states}, {})


def _resume_autoencoder(folder: Path, vae: Any, optimizer: Any) -> int:
    newest = checkpoint.newest(folder)
    if newest is None:
        return 0
    tensors, state = newest
    vae.load_state_dict(tensors.pop("vae"))
    for name, weight in vae.named_parameters():
        optimizer.state[weight] = {kind: group[name] for kind, group in tensors.items()}
    return int(state["step"])


COMMANDS = {
    "autoencoder": train_autoencoder, "detector": train_detector, "second-detector": train_second_detector,
    "videonet": train_video_network,
}  # fmt: skip
"""By name; `bases.train_base` takes a seed and a machine besides."""
