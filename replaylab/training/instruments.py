"""Training of the shipped instruments, the networks that measure (detectors, video network), each by one command.

    python -m replaylab pretrain detector --seed 2 | second-detector | videonet

Decision: they are used for measuring and therefore also trained on the targets' appearance, in free motion. The first
edition's detector has seed 0; that of the second, 2, and the second detector are also trained on simulated traffic and the
bases' appearances. Interrupted trainings resume; each writes safetensors and a card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data import clips
from replaylab.data.domain import Domain
from replaylab.metrics import video_network_training
from replaylab.metrics.blur import blurred
from replaylab.metrics.detectors import centre_point_training, fcos, fcos_training
from replaylab.metrics.video_network_training import LabelledVideos, labelled_videos
from replaylab.models import autoencoder
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import WorldSpec
from replaylab.training import autoencoders, bases, cards
from replaylab.util.distributed import flush_denormals
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import domain_spec

DETECTOR_STEPS = {0: 1200, 2: 2400}
SECOND_DETECTOR_STEPS, SECOND_DETECTOR_RATE = 6000, 2e-3
BLURS_PX = (0.0, 0.5, 1.0, 1.5, 2.0)
VIDEONET_STEPS, VIDEONET_VIDEOS = 1000, 1200  # videos of each domain at most
VIDEONET_CHECKS = tuple(domain_spec(name, videos=(0, 128, 128)) for name in ("driving", "driving-eventful"))
SEED = 0
NATURAL_LOOKS = (
    domain_spec("natural-unfiltered", videos=(480, 96, 0), seed=100),
    domain_spec("natural-unfiltered", videos=(480, 96, 0), seed=101, look="diverse", name="natural-diverse"),
)


def detector_domains(seed: int) -> tuple[WorldSpec, ...]:
    """The training domains of a detector, by its seed; raises ValueError for a seed without a recipe."""
    if seed not in DETECTOR_STEPS:
        raise ValueError(f"no detector has the seed {seed}: there are {' and '.join(map(str, DETECTOR_STEPS))}")
    first = (bases.NEAR, *autoencoders.TARGET_LOOKS)
    return first if seed == 0 else (*first, domain_spec("near-any", videos=(1200, 96, 0), seed=100), *NATURAL_LOOKS)


def train_detector(home: Path, folder: Path | None = None, steps: int = 0, seed: int = 0) -> None:
    """Train the detector on real and autoencoded frames of all appearances of the driving worlds.

    Half of the dev scenes determine its threshold; the values on its card come from the other half, including its
    scores on real frames with increasing blur. steps: 0 for the recipe's own. Raises ValueError like
    `detector_domains`.
    """
    data, name = _labelled_frames(home, seed), "-".join(["detector", *[str(seed)] * (seed != 0)])
    centre_point_training.fit(
        **data, seed=seed, steps=steps or DETECTOR_STEPS[seed], folder=folder or WEIGHTS / name,
        resume=home / f"{name}.safetensors",
    )  # fmt: skip


@flush_denormals()
def train_second_detector(home: Path, folder: Path = fcos.SHIPPED, steps: int = SECOND_DETECTOR_STEPS) -> None:
    """Train the second detector on the frames of detector 2, with its own seed and independent of that detector."""
    fcos_training.fit(
        **_labelled_frames(home, 2), seed=SEED + 1, steps=steps, folder=folder, learning_rate=SECOND_DETECTOR_RATE,
        resume=home / "second-detector.safetensors",
    )  # fmt: skip


def _labelled_frames(home: Path, seed: int) -> dict[str, Any]:
    """Training, validation and test frames of a detector: arguments of `fitting.fit`."""
    specs = detector_domains(seed)
    vae = autoencoder.load_autoencoder(autoencoders.autoencoder_folder(seed))
    training, validation, checks = [], [], {}
    for spec in specs:
        domain = build_domain(spec, home / "domains")
        real, truth = autoencoders.all_frames(domain, "train"), _all_boxes(domain, "train")
        training += [(real, truth), (_autoencoded(vae, real), truth)]
        real, truth = autoencoders.all_frames(domain, "dev"), _all_boxes(domain, "dev")
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
        + "; ".join(map(cards.in_words, specs)),
    }  # fmt: skip


@flush_denormals()
def train_video_network(home: Path, folder: Path = WEIGHTS / "videonet", steps: int = VIDEONET_STEPS) -> None:
    """Train the video network on all domains; its card has distances between dev clips of the target's appearance."""
    specs = (*bases.BASE_DOMAINS, *autoencoders.TARGET_LOOKS)
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
        training, held_out, checks, seed=SEED, steps=steps, folder=folder, resume=home / "videonet.safetensors",
        data=f"at most {VIDEONET_VIDEOS} training videos of each of: " + "; ".join(map(cards.in_words, specs)),
    )  # fmt: skip


def _concatenated(
    parts: list[tuple[NDArray[np.uint8], list[NDArray[np.float64]]]],
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]]]:
    """Frames (N, H, W, 3) of several domains, and the boxes of each."""
    return np.concatenate([frames for frames, _ in parts]), [each for _, boxes in parts for each in boxes]


def _autoencoded(vae: Any, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return autoencoder.decode(vae, autoencoder.encode(vae, frames[:, None]))[:, 0]


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


COMMANDS = {"detector": train_detector, "second-detector": train_second_detector, "videonet": train_video_network}
"""The trainings by name; that of the detector also takes a seed."""
