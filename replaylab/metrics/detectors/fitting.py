"""Training of the detectors of agents on rendered frames with known boxes, except the network and its loss.

Decision: frames are augmented by blur, dimming and noise, since a detector is applied to frames decoded by an autoencoder.
The score threshold is chosen on held-out scenes to maximise the minimum of recall and precision, and is stored with the
weights, which are a moving average over the steps. The two detectors share this module and the frames, but neither
weights, seed, architecture nor loss.

Refused: what `centre_point` refuses, frames without an eligible agent, and replacing a folder that holds anything else.

Shapes as in `centre_point`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from replaylab.data.boxes import MIN_HEIGHT_PX, is_eligible
from replaylab.metrics import network_files, network_training
from replaylab.metrics.blur import as_tensor, gaussian_blur
from replaylab.metrics.detectors import centre_point
from replaylab.metrics.detectors.centre_point import Boxes
from replaylab.util.checks import checked_images
from replaylab.util.progress import report


@dataclass(frozen=True)
class DetectorKind:
    """A detector that can be trained here: its network, its loss and its detection function."""

    title: str
    """of its card"""
    module: str
    """where the network is described"""
    command: str
    """what trains it again, with {seed} where it takes one"""
    new: Callable[[], Any]
    """a network with random weights, and a `config` with a `score_threshold`"""
    loss: Callable[[Any, Tensor, list[Boxes]], Tensor]
    """of the network on frames (B, 3, H, W) in 0..1 with boxes (K, 6) in each"""
    detect: Callable[..., list[Boxes]]
    """as `centre_point.detect`"""


def fit(
    kind: DetectorKind, frames: ArrayLike, boxes: Sequence[ArrayLike], *, validation_frames: ArrayLike,
    validation_boxes: Sequence[ArrayLike], checks: Mapping[str, tuple[ArrayLike, Sequence[ArrayLike]]] | None = None,
    seed: int, steps: int, folder: str | Path, data: str, batch_size: int = 32, learning_rate: float = 3e-3,
    resume: Path | None = None,
) -> Any:  # fmt: skip
    """Train a detector and write it to `folder` (model.safetensors, config.json, README.md) atomically.

    frames uint8 (N, H, W, 3); boxes N arrays (K, 6): x0 y0 x1 y1 visible kind_is_pedestrian. The validation frames must
    come from other scenes: they determine the score threshold. `checks`, frames and boxes of further scenes by name,
    are measured afterwards for the card. `data` describes the frames in a sentence, for the card. The frames of a step and
    their augmentation depend on (seed, step) only. resume: a file from which an interrupted training continues; it is
    removed at the end. Returns the averaged model that was written.
    """
    started, folder = time.monotonic(), Path(folder)
    network_files.check_replaceable(folder, "detector")
    network_training.check_settings(steps, batch_size, learning_rate)
    images, truth = _labelled(frames, boxes, "frames", "boxes")
    held_out, held_out_truth = _labelled(validation_frames, validation_boxes, "validation_frames", "validation_boxes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.new()
    average = {name: value.clone() for name, value in model.state_dict().items()}

    def loss_at(step: int) -> Tensor:
        return kind.loss(model, *batch_of(images, truth, batch_size, seed, step))

    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    losses = []
    for step, loss in network_training.minimise(
        model, loss_at, steps=steps, learning_rate=learning_rate, weight_decay=1e-4, what="detector", resume=resume,
        settings=settings | {"title": kind.title, "frames": len(images)}, kept=average,
    ):  # fmt: skip
        losses.append(loss)
        _update_average(average, model, step)
    model.load_state_dict(average)
    threshold, worse = _best_threshold(kind, model, held_out, held_out_truth)
    model.config = replace(model.config, score_threshold=threshold)
    model.eval().requires_grad_(False)
    quality = centre_point.measure(model, held_out, held_out_truth, kind.detect)
    measured = {name: centre_point.measure(model, *held, kind.detect) for name, held in (checks or {}).items()}
    facts: dict[str, Any] = {
        "data": data, "frames": len(images), "validation_frames": len(held_out),
        **network_training.record(started, losses, **settings), "validation_worse_of_recall_and_precision": round(worse, 4),
        "validation": _rounded(quality), "checks": {name: _rounded(values) for name, values in measured.items()},
    }  # fmt: skip
    config = json.dumps({"detector": asdict(model.config), "training": facts}, indent=2)
    network_files.write(folder, network_files.weights_bytes(model), config, _card(kind, model, facts))
    if resume:
        resume.unlink(missing_ok=True)
    report(f"detector: {_in_words(quality)}; written to {folder}")
    return model


def _update_average(average: dict[str, Tensor], model: nn.Module, step: int) -> None:
    """Exponential moving average of weights and batch statistics, short at first so that early noise is forgotten."""
    keep = min(0.998, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)


def batch_of(
    images: NDArray[np.uint8], truth: list[Boxes], batch_size: int, seed: int, step: int
) -> tuple[Tensor, list[Boxes]]:  # fmt: skip
    """The augmented frames of one step, and the boxes in each; a function of (seed, step)."""
    rng = np.random.default_rng((seed, step))
    chosen = rng.integers(0, len(images), batch_size)
    flipped = rng.random(batch_size) < 0.5
    pixels, width = images[chosen], images.shape[2]
    pixels = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    labels = [mirrored(truth[i], width) if flip else truth[i] for i, flip in zip(chosen, flipped, strict=True)]
    return _disturbed(as_tensor(pixels), rng).contiguous(memory_format=torch.channels_last), labels


def mirrored(rows: Boxes, width: int) -> Boxes:
    """The boxes of a frame of this width after a horizontal flip."""
    out = rows.copy()
    out[:, 0], out[:, 2] = width - rows[:, 2], width - rows[:, 0]
    return out


def _disturbed(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur on two frames of three, brightness, contrast and tint on all, and light noise."""
    b = len(frames)
    sigma = np.where(rng.random(b) < 2 / 3, rng.uniform(0.2, 1.6, b), 0.05)
    frames = gaussian_blur(frames, sigma)
    contrast, brightness = rng.uniform(0.75, 1.3, (b, 1)), rng.uniform(-0.12, 0.12, (b, 1))
    tint = rng.uniform(0.92, 1.08, (b, 3))
    noise = rng.uniform(0, 0.03, (b, 1, 1, 1)) * rng.standard_normal(tuple(frames.shape), dtype=np.float32)
    middle = frames.mean((1, 2, 3), keepdim=True)
    frames = (frames - middle) * _column(contrast) * _column(tint) + middle + _column(brightness)
    return (frames + torch.from_numpy(noise.astype(np.float32))).clamp(0, 1)


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, :, None, None]


def _best_threshold(
    kind: DetectorKind, model: nn.Module, frames: NDArray[np.uint8], truth: list[Boxes]
) -> tuple[float, float]:  # fmt: skip
    """The score that maximises the minimum of recall and precision on these frames, and that minimum."""
    candidates = np.round(np.arange(0.1, 0.81, 0.05), 2)
    detections = kind.detect(model, frames, least_score=float(candidates[0]))
    best = (float(candidates[0]), -1.0)
    for threshold in candidates:
        total, _ = centre_point.match_all(truth, [boxes[boxes[:, 4] >= threshold] for boxes in detections])
        worse = min(total.recall, total.detected / max(1, total.detected + total.false_positives))
        if worse > best[1]:
            best = (float(threshold), worse)
    return best


def _card(kind: DetectorKind, model: Any, facts: dict[str, Any]) -> str:
    return f"""# {kind.title}

Detects vehicles and pedestrians in small frames, and the full box of each; see
`{kind.module}`.

- Data: {facts["data"]}
  {facts["frames"]} frames to train on, {facts["validation_frames"]} of other scenes held out.
- Training: {facts["steps"]} steps of {facts["batch_size"]} frames, learning rate {facts["learning_rate"]:g},
  seed {facts["seed"]}, {facts["seconds"]:g} s; frames blurred, dimmed, tinted and made noisy.
- Size: {sum(p.numel() for p in model.parameters())} parameters, safetensors.
- Held-out scenes, agents at least {MIN_HEIGHT_PX:g} px tall and at least half visible:
  {_in_words(facts["validation"])}.
  A detection is right within {centre_point.MATCH_GATE_PX:g} px of the centre. The same frames picked the score threshold
  ({model.config.score_threshold:g}), so precision and recall are slightly flattered.
- Made again by: `{kind.command.format(seed=facts["seed"])}`
{_table(facts["checks"])}
Not for real streets: it has seen rendered frames only.
"""


def _table(checks: dict[str, dict[str, float]]) -> str:
    """What was measured on scenes that determined nothing, a row a check."""
    if not checks:
        return ""
    heads = ["frames", "recall", "precision", "mean centre error (px)", "recall of pedestrians", "agents"]
    return f"""
On scenes that neither trained it nor picked its threshold, also blurred (Gaussian, standard deviation):

{network_training.table(heads, [[name, *values.values()] for name, values in checks.items()])}
"""


def _in_words(values: dict[str, float]) -> str:
    return (
        f"recall {values['recall']:.3f} (pedestrians alone {values['recall_pedestrian']:.3f}), precision "
        f"{values['precision']:.3f}, mean centre error {values['centre_error_px']:.2f} px, {values['n']} agents"
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in values.items()}


def _labelled(
    frames: ArrayLike, boxes: Sequence[ArrayLike], frames_name: str, boxes_name: str
) -> tuple[NDArray[np.uint8], list[Boxes]]:
    images = checked_images(frames, frames_name, centre_point.LARGEST_STRIDE)
    truth = centre_point.checked_truth(boxes, images, boxes_name)
    if not any(is_eligible(rows[:, :4], rows[:, 4]).any() for rows in truth):
        raise ValueError(f"{boxes_name}: no agent of {MIN_HEIGHT_PX:g} px or more that is half visible")
    return images, truth
