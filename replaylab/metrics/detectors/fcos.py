"""A second detector of agents in small frames, which checks the measurements with the first one.

Decision: FCOS (Tian, Shen, Chen & He 2019, arXiv 1904.01355) on blocks of ConvNeXt (Liu et al. 2022, arXiv 2201.03545),
so that it shares neither weights, architecture, loss, seed nor decoding with the centre-point detector: every cell
near an agent's centre predicts a whole box and its centre-ness, and of overlapping boxes the best one is kept. Both were
trained on the same frames (`fitting`), so errors caused by those frames can still be common to both.

Refused: what `centre_point` refuses. Shapes as there; the stride is 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from replaylab.data.boxes import pairwise_iou
from replaylab.metrics import network_files
from replaylab.metrics.blur import as_tensor
from replaylab.metrics.detectors.centre_point import LARGEST_STRIDE, Boxes
from replaylab.shipped_weights import WEIGHTS
from replaylab.util.checks import checked_images

SHIPPED = WEIGHTS / "detector-fcos"
STRIDE = 4  # of the output
OVERLAPPING_IOU = 0.5  # of two boxes: above it only the better one stays


@dataclass(frozen=True)
class FcosConfig:
    """The settings needed to use the weights."""

    channels: tuple[int, int] = (80, 128)  # width at strides 4 and 8
    blocks: tuple[int, int, int] = (3, 3, 2)  # at stride 4, at 8, and again at 4 with both together
    score_threshold: float = 0.3  # least score of a detection; training chooses it on the validation frames


class Fcos(nn.Module):
    """frames (B, 3, H, W) in 0..1 -> logits (B, 1, h, w), sides (B, 4, h, w) in pixels, centre-ness logits (B, 1, h, w)."""

    def __init__(self, config: FcosConfig | None = None) -> None:
        super().__init__()
        self.config = config or FcosConfig()
        fine, coarse = self.config.channels
        first, second, third = self.config.blocks
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, 2, 2), nn.GELU(), nn.Conv2d(32, fine, 3, 2, 1))
        self.fine = nn.Sequential(*(_Block(fine) for _ in range(first)))
        self.to_coarse = nn.Conv2d(fine, coarse, 2, 2)
        self.coarse = nn.Sequential(*(_Block(coarse) for _ in range(second)))
        self.from_coarse = nn.Conv2d(coarse, fine, 1)
        self.merged = nn.Sequential(*(_Block(fine) for _ in range(third)))
        self.head = nn.Sequential(
            nn.GroupNorm(1, fine), nn.Conv2d(fine, fine, 3, padding=1), nn.GELU(), nn.Conv2d(fine, 6, 1)
        )
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[:1], -math.log(99))  # hardly any cell has an agent (Lin et al. 2017, 3.3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) in 0..1 to logits, distances to the four sides, and logits of centre-ness."""
        fine = self.fine(self.stem(2 * frames - 1))
        coarse = self.from_coarse(self.coarse(self.to_coarse(fine)))
        out = self.head(self.merged(fine + F.interpolate(coarse, scale_factor=2.0, mode="bilinear")))
        return out[:, :1], 2 * STRIDE * F.softplus(out[:, 1:5]), out[:, 5:]


class _Block(nn.Module):
    """A block of ConvNeXt: a wide depthwise convolution, then a small network at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def load(path: str | Path | None = None) -> Fcos:
    """The detector in a folder written by `fcos_training.fit`, or the one that ships with the package.

    FileNotFoundError or ValueError names the folder and the reason.
    """

    def build(config: dict[str, Any]) -> Fcos:
        values = config["detector"]
        return Fcos(FcosConfig(tuple(values["channels"]), tuple(values["blocks"]), float(values["score_threshold"])))

    folder = SHIPPED if path is None else Path(path)
    remedy = "train one with `python -m replaylab pretrain second-detector`"
    return network_files.load(folder, build, "second detector", remedy, is_checked=False)


@torch.no_grad()
def detect(model: Fcos, frames: ArrayLike, batch_size: int = 64, least_score: float | None = None) -> list[Boxes]:
    """The agents in every frame: frames uint8 (N, H, W, 3) -> N float32 arrays (K, 5), x0 y0 x1 y1 score.

    Boxes and their order as in `centre_point.detect`. The score is the geometric mean of the agent score and centre-ness.
    """
    images = checked_images(frames, "frames", LARGEST_STRIDE)
    least = model.config.score_threshold if least_score is None else least_score
    model.eval()
    detections: list[Boxes] = []
    for start in range(0, len(images), batch_size):
        logits, sides, centred = model(as_tensor(images[start : start + batch_size]))
        scores = (torch.sigmoid(logits) * torch.sigmoid(centred)).sqrt()[:, 0]
        for score, box in zip(scores.numpy(), boxes_of_cells(sides).numpy(), strict=True):
            here = score >= least
            detections.append(_best_of_overlapping(np.concatenate([box[:, here], score[here][None]]).T))
    return detections


def boxes_of_cells(sides: Tensor) -> Tensor:
    """(B, 4, h, w) distances from the cells' centres to the four sides -> (B, 4, h, w) boxes x0 y0 x1 y1 in pixels."""
    (y, x), (left, top, right, bottom) = cell_centres(*sides.shape[2:]), sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=1)


def cell_centres(h: int, w: int) -> tuple[Tensor, Tensor]:
    """y and x (h, w) of the middle of every cell, px."""
    rows, columns = (torch.arange(size, dtype=torch.float32) * STRIDE + STRIDE / 2 for size in (h, w))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return y, x


def _best_of_overlapping(rows: Boxes) -> Boxes:
    """Non-maximum suppression of boxes (K, 5), best first."""
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    boxes = rows[:, :4].astype(np.float64)
    overlap = pairwise_iou(boxes[:, None], boxes[None]) > OVERLAPPING_IOU
    kept: list[int] = []
    for number in range(len(rows)):
        if not overlap[number, kept].any():
            kept.append(number)
    return np.ascontiguousarray(rows[kept], dtype=np.float32)
