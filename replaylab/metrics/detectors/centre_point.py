"""Where are the agents in these frames? A small centre-point detector, trained on rendered frames with known
boxes.

The decision: Objects as Points (Zhou, Wang & Kraehenbuehl 2019, arXiv 1904.07850), because what is measured
here is the centre of an agent. A network of half a million parameters gives a heatmap of centres at an output
stride of 2 and, for each of its cells, the distances to the four sides of the agent's full box, covered parts
included. Peaks of the heatmap are the detections; the score from which one counts is picked on held-out
scenes, so that the worse of recall and precision is as good as can be, and stored with the weights. Training
blurs, dims and disturbs the frames, since the detector has to judge frames that went through an autoencoder.

Agents that are not eligible (`dynamics.is_eligible`) are neither right nor wrong: they are left out of the
loss and out of recall and precision. Pedestrians are agents like the others; their recall is told apart,
their class is not predicted. It refuses frames that are not uint8 (N, H, W, 3) with sides divisible by 8, and
boxes that do not fit them.

Letters: N frames, B frames of a batch, C channels, H W pixels, h w cells (stride 2), K boxes in a frame.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from replaylab.data.boxes import MIN_HEIGHT_PX, is_eligible
from replaylab.metrics import dynamics
from replaylab.spec import WEIGHTS
from replaylab.util.files import write_folder
from replaylab.util.progress import report, track

SHIPPED = WEIGHTS / "detector"
FILES = {"model.safetensors", "config.json", "README.md"}
STRIDE = 2
MATCH_GATE_PX = 5.0
"""A detection whose centre is farther than this from every agent's is wrong, and the agent missed."""
BARELY_VISIBLE = 0.05
"""Agents less visible than this are treated as absent in training: there is nothing to see that could be
wrong.
"""
SAME_BOX_IOU = 0.7
PIXELS_PER_OUTPUT = 8.0
"""The sides are predicted in units of 8 px, so that the network's outputs are of the order of one."""

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class DetectorConfig:
    """What is needed beside the weights to use them."""

    channels: tuple[int, int, int] = (32, 64, 96)
    """Width at strides 2, 4 and 8."""
    score_threshold: float = 0.3
    """Least heatmap value of a detection; `fit` picks it on the validation frames."""


class Detector(nn.Module):
    """frames (B, 3, H, W) in 0..1 -> heatmap logits (B, 1, h, w) and sides (B, 4, h, w) in pixels.

    The sides are the distances from the centre of the cell to the left, top, right and bottom side of the
    box.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetectorConfig()
        fine, middle, coarse = self.config.channels
        # Folding 2x2 pixels into channels keeps what they say at a quarter of a full-size layer's cost.
        self.stem = _convolution(3 * STRIDE * STRIDE, fine)
        self.fine = _Residual(fine)
        self.to_middle = _convolution(fine, middle, stride=2)
        self.middle = nn.Sequential(_Residual(middle), _Residual(middle))
        self.to_coarse = _convolution(middle, coarse, stride=2)
        self.coarse = _Residual(coarse)
        self.from_coarse = _convolution(coarse, middle, size=1)
        self.merge_middle = _Residual(middle)
        self.from_middle = _convolution(middle, fine, size=1)
        self.merge_fine = _Residual(fine)
        self.head = nn.Sequential(_convolution(fine, 2 * fine), nn.Conv2d(2 * fine, 5, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.bias)
        # Start from "hardly any cell is a centre" (Lin et al. 2017, 3.3), else empty cells drown the rest.
        nn.init.constant_(last.bias[:1], -math.log(99))
        nn.init.constant_(last.bias[1:], 1.0)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, H, W) in 0..1 to the heatmap's logits and the distances to the four sides."""
        fine = self.fine(self.stem(F.pixel_unshuffle(2 * frames - 1, STRIDE)))
        middle = self.middle(self.to_middle(fine))
        coarse = self.coarse(self.to_coarse(middle))
        middle = self.merge_middle(middle + _twice(self.from_coarse(coarse)))
        fine = self.merge_fine(fine + _twice(self.from_middle(middle)))
        out = self.head(fine)
        return out[:, :1], out[:, 1:] * PIXELS_PER_OUTPUT


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


# Using it


def load(path: str | Path | None = None) -> Detector:
    """The detector in a folder written by `fit`, or the one that ships with the package.

    FileNotFoundError or ValueError names the folder and what is wrong with it.
    """
    folder = SHIPPED if path is None else Path(path)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}; train a detector with `python -m replaylab pretrain detector`"
            )
    try:
        values = json.loads((folder / "config.json").read_text())["detector"]
        model = Detector(DetectorConfig(tuple(values["channels"]), float(values["score_threshold"])))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:
        raise ValueError(f"{folder}: not a detector of this version ({error}); train it again") from error
    return _ready(model)


def find(model: Detector, frames: ArrayLike, batch_size: int = 64) -> list[Boxes]:
    """The agents in every frame: frames uint8 (N, H, W, 3) -> N float32 arrays (K, 5), x0 y0 x1 y1 score.

    Boxes are in pixels, y down, whole agents: they reach under what covers them and past the edge of the
    image. Best score first.
    """
    return _detections(model, _frames(frames, "frames"), batch_size, model.config.score_threshold)


def blurred(frames: ArrayLike, blur_px: float) -> NDArray[np.uint8]:
    """Frames uint8 (N, H, W, 3) blurred by a Gaussian of standard deviation blur_px; 0 leaves them as they are."""
    images = _frames(frames, "frames")
    if blur_px == 0:
        return images
    parts = [
        _blurred(_to_tensor(part), np.full(len(part), blur_px))
        for part in np.array_split(images, max(1, len(images) // 256))
    ]
    return (torch.cat(parts) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def measure(model: Detector, frames: ArrayLike, boxes: Sequence[ArrayLike]) -> dict[str, float]:
    """How well the detector finds the agents that count, on frames with known boxes.

    frames uint8 (N, H, W, 3); boxes N arrays (K, 6): x0 y0 x1 y1 visible kind_is_pedestrian. A detection is
    right when its centre is matched one to one within MATCH_GATE_PX. Returns recall, precision (both NaN
    without anything to count), mean centre error of the matched agents in pixels, recall of pedestrians
    alone, and n (eligible agents).
    """
    images = _frames(frames, "frames")
    truth = _truth(boxes, images, "boxes")
    if not truth:
        raise ValueError("frames: none to measure on")
    found = find(model, images)
    tallies, errors = zip(*[_compare(t, f[:, :4]) for t, f in zip(truth, found, strict=True)], strict=True)
    n, hits, spurious, walkers, walkers_hit = np.sum(tallies, axis=0).tolist()
    error = np.concatenate(errors)
    return {
        "recall": _ratio(hits, n),
        "precision": _ratio(hits, hits + spurious),
        "centre_error_px": float(error.mean()) if len(error) else float("nan"),
        "recall_pedestrian": _ratio(walkers_hit, walkers),
        "n": n,
    }


def _compare(truth: Boxes, found: Boxes) -> tuple[list[int], NDArray[np.float64]]:
    """Of one frame: [eligible agents, hits, false positives, pedestrians, their hits] and centre errors."""
    counts = is_eligible(truth[:, :4], truth[:, 4])
    rows, columns, errors = dynamics.match(truth[counts, :4], found, MATCH_GATE_PX)
    left = np.delete(found, columns, axis=0)
    spurious = len(left) - dynamics.absorbed(truth[~counts, :4], left, MATCH_GATE_PX)
    walks = truth[counts, 5] > 0.5
    return [int(counts.sum()), len(rows), spurious, int(walks.sum()), int(walks[rows].sum())], errors


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


@torch.no_grad()
def _detections(model: Detector, frames: NDArray[np.uint8], batch_size: int, least_score: float) -> list[Boxes]:
    model.eval()
    found: list[Boxes] = []
    for start in range(0, len(frames), batch_size):
        logits, sides = model(_to_tensor(frames[start : start + batch_size]))
        found.extend(_peaks(torch.sigmoid(logits), sides, least_score))
    return found


def _peaks(heat: Tensor, sides: Tensor, least_score: float) -> list[Boxes]:
    """Cells that are the highest of their 3x3 neighbours, as boxes; of near-identical boxes only the best."""
    highest = F.max_pool2d(heat, 3, stride=1, padding=1)
    peak = (heat == highest) & (heat >= least_score)
    found: list[Boxes] = []
    for scores, box, here in zip(heat[:, 0], _boxes_of_cells(sides), peak[:, 0], strict=True):
        rows = torch.cat([box[:, here], scores[here][None]]).T.double().numpy().astype(np.float32)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        # Where the network is unsure a side may come out beyond the opposite one; hand out no box inside out.
        rows[:, 2:4] = np.maximum(rows[:, 2:4], rows[:, :2])
        found.append(_without_doubles(rows))
    return found


def _without_doubles(rows: Boxes) -> Boxes:
    kept: list[Boxes] = []
    for row in rows:
        if not any(_overlap(row, other) > SAME_BOX_IOU for other in kept):
            kept.append(row)
    return np.stack(kept) if kept else np.zeros((0, 5), dtype=np.float32)


def _overlap(a: Boxes, b: Boxes) -> float:
    size = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(size, 0)))
    union = float(np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2])) - shared
    return shared / union if union > 0 else 0.0


def _boxes_of_cells(sides: Tensor) -> Tensor:
    """(B, 4, h, w) distances to the four sides -> (B, 4, h, w) boxes x0 y0 x1 y1 in pixels."""
    x, y = _cell_centres(sides.shape[-2], sides.shape[-1])
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=1)


def _cell_centres(h: int, w: int) -> tuple[Tensor, Tensor]:
    x, y = (torch.arange(size, dtype=torch.float32) * STRIDE + STRIDE / 2 for size in (w, h))
    return x[None, :].expand(h, w), y[:, None].expand(h, w)


# Training it


def fit(
    frames: ArrayLike,
    boxes: Sequence[ArrayLike],
    *,
    validation_frames: ArrayLike,
    validation_boxes: Sequence[ArrayLike],
    checks: Mapping[str, tuple[ArrayLike, Sequence[ArrayLike]]] | None = None,
    seed: int,
    steps: int,
    folder: str | Path,
    data: str,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
) -> Detector:
    """Train a detector and write it to `folder` (model.safetensors, config.json, README.md), whole or not at
    all.

    frames uint8 (N, H, W, 3); boxes N arrays (K, 6): x0 y0 x1 y1 visible kind_is_pedestrian. The validation
    frames must come from other scenes: they pick the score threshold. `checks`, frames and boxes of still
    other scenes by name, are measured afterwards for the card. `data` says in a sentence what the frames are,
    for the card. Which frames a step sees and how they are disturbed depends on (seed, step) only. Returns the
    averaged model that was written.
    """
    started = time.monotonic()
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= FILES):
        raise ValueError(f"folder: {folder} exists and is not a detector's; name another, it would be replaced")
    images, truth = _labelled(frames, boxes, "frames", "boxes")
    held_out, held_out_truth = _labelled(validation_frames, validation_boxes, "validation_frames", "validation_boxes")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size: {steps} and {batch_size}, expected at least 1")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: {learning_rate}, expected a positive number")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Detector()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    losses: list[float] = []
    for step in track(range(steps), what="training the detector", total=steps, unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        model.train()
        batch, targets = _batch(images, truth, batch_size, seed, step)
        logits, sides = model(batch)
        loss = _loss(logits, sides, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        _average(average, model, step)
    if not np.isfinite(losses).all():
        raise FloatingPointError(f"learning_rate: the loss is NaN or infinite at {learning_rate}; try a lower one")
    model.load_state_dict(average)
    threshold, worse = _best_threshold(model, held_out, held_out_truth)
    model.config = DetectorConfig(model.config.channels, threshold)
    _ready(model)
    quality = measure(model, held_out, held_out_truth)
    facts: dict[str, Any] = {
        "data": data,
        "frames": len(images),
        "validation_frames": len(held_out),
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "last_loss": round(float(np.mean(losses[-50:])), 4),
        "validation_worse_of_recall_and_precision": round(worse, 4),
        "validation": _rounded(quality),
        "checks": {name: _rounded(measure(model, *held)) for name, held in (checks or {}).items()},
    }
    _write(model, facts, folder)
    report(f"detector: {_in_words(quality)}; written to {folder}")
    return model


def _schedule(step: int, steps: int) -> float:
    """A short warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / min(100, max(1, steps // 10)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _average(average: dict[str, Tensor], model: nn.Module, step: int) -> None:
    """Exponential moving average of weights and batch statistics, short at first so that early noise is
    forgotten.
    """
    keep = min(0.998, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)
        else:
            average[name].copy_(value)


@dataclass(frozen=True)
class _Targets:
    heat: Tensor  # (B, 1, h, w) 1 at the cells of the centres, falling off around them
    counted: Tensor  # (B, 1, h, w) 0 where an agent is neither right nor wrong
    box: Tensor  # (B, 4, h, w) the box a cell should give
    box_weight: Tensor  # (B, h, w) how much that counts


def _loss(logits: Tensor, sides: Tensor, targets: _Targets) -> Tensor:
    """Focal loss on the heatmap (Zhou et al. 2019, equation 1), and on the boxes L1 and GIoU (Rezatofighi et
    al. 2019).
    """
    positive = (targets.heat == 1).float()
    p = torch.sigmoid(logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    near = positive * (1 - p) ** 2 * log_p
    away = (1 - positive) * (1 - targets.heat) ** 4 * p**2 * log_not_p
    heat_loss = -(targets.counted * (near + away)).sum() / positive.sum().clamp(min=1)
    box = _boxes_of_cells(sides)
    apart = (box - targets.box).abs().mean(1) / PIXELS_PER_OUTPUT
    box_loss = (targets.box_weight * (2 * apart + 1 - _giou(box, targets.box))).sum()
    return heat_loss + box_loss / targets.box_weight.sum().clamp(min=1)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union of boxes (B, 4, h, w), -1..1."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(1)

    shared = area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    union = area(a[:, :2], a[:, 2:]) + area(b[:, :2], b[:, 2:]) - shared
    hull = area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _batch(
    images: NDArray[np.uint8], truth: list[Boxes], batch_size: int, seed: int, step: int
) -> tuple[Tensor, _Targets]:
    """The frames of one step, disturbed, and what the network should say; a function of (seed, step)."""
    rng = np.random.default_rng((seed, step))
    chosen = rng.integers(0, len(images), batch_size)
    flipped = rng.random(batch_size) < 0.5
    pixels, width = images[chosen], images.shape[2]
    pixels = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    labels = [_mirrored(truth[i], width) if flip else truth[i] for i, flip in zip(chosen, flipped, strict=True)]
    batch = _disturbed(_to_tensor(pixels), rng).contiguous(memory_format=torch.channels_last)
    return batch, _targets(labels, images.shape[1] // STRIDE, width // STRIDE)


def _mirrored(rows: Boxes, width: int) -> Boxes:
    out = rows.copy()
    out[:, 0], out[:, 2] = width - rows[:, 2], width - rows[:, 0]
    return out


def _disturbed(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur on two frames of three, brightness, contrast and tint on all, and light noise."""
    b = len(frames)
    sigma = np.where(rng.random(b) < 2 / 3, rng.uniform(0.2, 1.6, b), 0.05)
    frames = _blurred(frames, sigma)
    contrast, brightness = rng.uniform(0.75, 1.3, (b, 1)), rng.uniform(-0.12, 0.12, (b, 1))
    tint = rng.uniform(0.92, 1.08, (b, 3))
    noise = rng.uniform(0, 0.03, (b, 1, 1, 1)) * rng.standard_normal(tuple(frames.shape), dtype=np.float32)
    middle = frames.mean((1, 2, 3), keepdim=True)
    frames = (frames - middle) * _column(contrast) * _column(tint) + middle + _column(brightness)
    return (frames + torch.from_numpy(noise.astype(np.float32))).clamp(0, 1)


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, :, None, None]


def _blurred(frames: Tensor, sigma: NDArray[np.float64]) -> Tensor:
    """Each frame of (B, 3, H, W) blurred by its own Gaussian, sigma (B,) in pixels, edges held."""
    b, c, h, w = frames.shape
    reach = math.ceil(3 * sigma.max())
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1)[None] / sigma[:, None]) ** 2)
    taps = torch.from_numpy((kernel / kernel.sum(1, keepdims=True)).astype(np.float32)).repeat_interleave(c, 0)
    x = F.pad(frames.reshape(1, b * c, h, w), (reach, reach, reach, reach), mode="replicate")
    x = F.conv2d(x, taps[:, None, None, :], groups=b * c)
    x = F.conv2d(x, taps[:, None, :, None], groups=b * c)
    return x.reshape(b, c, h, w)


def _targets(labels: Sequence[Boxes], h: int, w: int) -> _Targets:
    """Targets of a batch of boxes (K, 6). Nearer (lower) agents are drawn last, over those they hide."""
    shape = (len(labels), h, w)
    heat, counted, weight = (np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.float32))
    box = np.zeros((len(labels), 4, h, w), np.float32)
    x, y = (np.arange(size, dtype=np.float64) * STRIDE + STRIDE / 2 for size in (w, h))
    for i, rows in enumerate(labels):
        eligible = is_eligible(rows[:, :4], rows[:, 4])
        inside_eligible = np.zeros((h, w), dtype=bool)
        for row in rows[eligible][np.argsort(rows[eligible, 3], kind="stable")]:
            x0, y0, x1, y1 = row[:4]
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            # Falls off with the agent's own width and height, as in TTFNet (Liu et al. 2019).
            spread_x, spread_y = max((x1 - x0) / 6, 0.8 * STRIDE), max((y1 - y0) / 6, 0.8 * STRIDE)
            hill = np.exp(-0.5 * (((x - cx) / spread_x)[None, :] ** 2 + ((y - cy) / spread_y)[:, None] ** 2))
            column, row_of_cell = int(np.clip(cx // STRIDE, 0, w - 1)), int(np.clip(cy // STRIDE, 0, h - 1))
            hill[row_of_cell, column] = 1.0
            heat[i] = np.maximum(heat[i], np.where(hill < 1, np.minimum(hill, 0.99), 1.0))
            core = hill > 0.4
            box[i][:, core] = row[:4, None]
            weight[i][core] = hill[core]
            inside_eligible |= _cells_in(row, x, y)
        for row in rows[~eligible & (rows[:, 4] >= BARELY_VISIBLE)]:
            counted[i][_cells_in(row, x, y) & ~inside_eligible] = 0
    counted[heat == 1] = 1
    heat_map, counted_map = torch.from_numpy(heat)[:, None], torch.from_numpy(counted)[:, None]
    return _Targets(heat_map, counted_map, torch.from_numpy(box), torch.from_numpy(weight))


def _cells_in(row: Boxes, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cells whose centre is in the box or within a cell of it."""
    across = (x >= row[0] - STRIDE) & (x <= row[2] + STRIDE)
    return np.asarray(((y >= row[1] - STRIDE) & (y <= row[3] + STRIDE))[:, None] & across[None, :])


def _best_threshold(model: Detector, frames: NDArray[np.uint8], truth: list[Boxes]) -> tuple[float, float]:
    """The score at which the worse of recall and precision is best on these frames, and that worse one."""
    candidates = np.round(np.arange(0.1, 0.81, 0.05), 2)
    everything = _detections(model, frames, 64, float(candidates[0]))
    best = (float(candidates[0]), -1.0)
    for threshold in candidates:
        n = hits = spurious = 0
        for rows, found in zip(truth, everything, strict=True):
            tally, _ = _compare(rows, found[found[:, 4] >= threshold, :4])
            n, hits, spurious = n + tally[0], hits + tally[1], spurious + tally[2]
        worse = min(_ratio(hits, n), _ratio(hits, max(1, hits + spurious)))
        if worse > best[1]:
            best = (float(threshold), worse)
    return best


# Files and checks


def _write(model: Detector, facts: dict[str, Any], folder: Path) -> None:
    def fill(fresh: Path) -> None:
        save_file({n: v.contiguous().clone() for n, v in model.state_dict().items()}, fresh / "model.safetensors")
        written = {"detector": asdict(model.config), "training": facts}
        (fresh / "config.json").write_text(json.dumps(written, indent=2) + "\n")
        (fresh / "README.md").write_text(_card(model, facts))

    write_folder(folder, fill)


def _card(model: Detector, facts: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# Detector of agents in small driving frames

Finds vehicles and pedestrians in small frames, and the full box of each; `replaylab/detector.py` says how.

- Data: {facts["data"]}
  {facts["frames"]} frames to train on, {facts["validation_frames"]} of other scenes held out.
- Training: {facts["steps"]} steps of {facts["batch_size"]} frames, learning rate {facts["learning_rate"]:g},
  seed {facts["seed"]}, {facts["seconds"]:g} s; frames blurred, dimmed, tinted and made noisy.
- Size: {parameters} parameters, safetensors.
- Held-out scenes, agents at least {MIN_HEIGHT_PX:g} px tall and at least half visible:
  {_in_words(facts["validation"])}.
  A detection is right within {MATCH_GATE_PX:g} px of the centre. The same frames picked the score threshold
  ({model.config.score_threshold:g}), so precision and recall are slightly flattered.
- Made again by: `python -m replaylab pretrain detector`
{_table(facts["checks"])}
Not for real streets: it has seen rendered frames only.
"""


def _table(checks: dict[str, dict[str, float]]) -> str:
    """What was measured on scenes that picked nothing, a row a check."""
    if not checks:
        return ""
    heads = {"recall": "recall", "precision": "precision", "centre_error_px": "mean centre error (px)",
             "recall_pedestrian": "recall of pedestrians", "n": "agents"}  # fmt: skip
    lines = [
        "",
        "On scenes that neither trained it nor picked its threshold, also blurred (Gaussian, standard deviation):",
        "",
        "| frames | " + " | ".join(heads.values()) + " |",
        "|---|" + "---|" * len(heads),
        *(
            f"| {name} | "
            + " | ".join(f"{values[key]:.3g}" if key != "n" else f"{values[key]}" for key in heads)
            + " |"
            for name, values in checks.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _in_words(values: dict[str, float]) -> str:
    return (
        f"recall {values['recall']:.3f} (pedestrians alone {values['recall_pedestrian']:.3f}), precision"
        f" {values['precision']:.3f}, mean centre error {values['centre_error_px']:.2f} px,"
        f" {values['n']} agents"
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in values.items()}


def _ready(model: Detector) -> Detector:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)


def _to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in 0..1, laid out channels last as it came."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def _frames(frames: ArrayLike, name: str) -> NDArray[np.uint8]:
    images = np.asarray(frames)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"{name}: {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)")
    if images.shape[1] % 8 or images.shape[2] % 8:
        raise ValueError(f"{name}: {images.shape[2]}x{images.shape[1]} pixels, both sides must be divisible by 8")
    return images


def _truth(boxes: Sequence[ArrayLike], images: NDArray[np.uint8], name: str) -> list[Boxes]:
    if len(boxes) != len(images):
        raise ValueError(f"{name}: {len(boxes)} entries for {len(images)} frames; give one array per frame")
    rows = [np.asarray(b, dtype=np.float32) for b in boxes]
    rows = [row if row.size else np.zeros((0, 6), dtype=np.float32) for row in rows]
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[1] != 6:
            wanted = "(K, 6): x0 y0 x1 y1 visible kind_is_pedestrian"
            raise ValueError(f"{name}[{i}]: shape {row.shape}, expected {wanted}")
        try:
            is_eligible(row[:, :4], row[:, 4])
        except ValueError as error:
            raise ValueError(f"{name}[{i}]: {error}") from error
    return rows


def _labelled(
    frames: ArrayLike, boxes: Sequence[ArrayLike], frames_name: str, boxes_name: str
) -> tuple[NDArray[np.uint8], list[Boxes]]:
    images = _frames(frames, frames_name)
    truth = _truth(boxes, images, boxes_name)
    if not any(is_eligible(rows[:, :4], rows[:, 4]).any() for rows in truth):
        raise ValueError(f"{boxes_name}: no agent of {MIN_HEIGHT_PX:g} px or more that is half visible")
    return images, truth
