"""A centre-point detector of agents in small frames, and its quality on frames with known boxes.

Decision: Objects as Points (Zhou, Wang & Kraehenbuehl 2019, arXiv 1904.07850), because the measures use the
centre of an agent. A network of half a million parameters predicts a heatmap of centres at an output stride of 2 and, for
each of its cells, the distances to the four sides of the agent's full box, occluded parts included. Peaks of the heatmap
are the detections. `centre_point_training` trains it on rendered frames.

Agents that are not eligible (`boxes.is_eligible`) are excluded from recall and precision.
Pedestrians are treated like other agents; their recall is reported separately, their class is not predicted.

Refused: frames that are not uint8 (N, H, W, 3) with sides divisible by 8, and boxes that do not fit them.

Shapes: N frames, B frames of a batch, C channels, H W pixels, h w cells (stride 2), K boxes in a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from replaylab.data.boxes import SAME_BOX_IOU, is_eligible
from replaylab.metrics import dynamics, network_files
from replaylab.metrics.blur import as_tensor
from replaylab.shipped_weights import WEIGHTS
from replaylab.util.checks import checked_images, checked_shape

SHIPPED = WEIGHTS / "detector"
STRIDE = 2  # of the output
LARGEST_STRIDE = 8
MATCH_GATE_PX = 5.0
"""A detection whose centre is farther than this from every agent's is a false positive, and the agent is missed."""
PIXELS_PER_OUTPUT = 8.0
"""The sides are predicted in units of 8 px, so that the network's outputs are of the order of one."""

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class DetectorConfig:
    """The settings needed to use the weights."""

    channels: tuple[int, int, int] = (32, 64, 96)  # Width at strides 2, 4 and 8
    score_threshold: float = 0.3  # Least heatmap value of a detection; training chooses it on the validation frames


class Detector(nn.Module):
    """frames (B, 3, H, W) in 0..1 -> heatmap logits (B, 1, h, w) and sides (B, 4, h, w) in pixels.

    The sides are the distances from the centre of the cell to the left, top, right and bottom side of the box.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetectorConfig()
        fine, middle, coarse = self.config.channels
        # Folding 2x2 pixels into channels loses nothing, at a quarter of the cost of a layer at full size.
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
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


# Using it


def load(path: str | Path | None = None) -> Detector:
    """The detector in a folder written by `fitting.fit`, or the one that ships with the package.

    FileNotFoundError or ValueError names the folder and the reason.
    """

    def build(config: dict[str, Any]) -> Detector:
        values = config["detector"]
        return Detector(DetectorConfig(tuple(values["channels"]), float(values["score_threshold"])))

    folder = SHIPPED if path is None else Path(path)
    remedy = "train one with `python -m replaylab pretrain detector`"
    return network_files.load(folder, build, "detector", remedy, is_checked=False)  # its file records no digest


@torch.no_grad()
def detect(model: Detector, frames: ArrayLike, batch_size: int = 64, least_score: float | None = None) -> list[Boxes]:
    """The agents in every frame: frames uint8 (N, H, W, 3) -> N float32 arrays (K, 5), x0 y0 x1 y1 score.

    Boxes are in pixels, y down, and cover the full agent, including occluded parts and parts outside the image. Best
    score first; none below `least_score`, by default the model's own threshold.
    """
    images = checked_images(frames, "frames", LARGEST_STRIDE)
    least = model.config.score_threshold if least_score is None else least_score
    model.eval()
    detections: list[Boxes] = []
    for start in range(0, len(images), batch_size):
        logits, sides = model(as_tensor(images[start : start + batch_size]))
        detections.extend(_peaks(torch.sigmoid(logits), sides, least))
    return detections


def measure(
    model: Any, frames: ArrayLike, boxes: Sequence[ArrayLike], detect: Callable[..., list[Boxes]] = detect
) -> dict[str, float]:
    """The quality of the detector for eligible agents, on frames with known boxes.

    frames uint8 (N, H, W, 3); boxes N arrays (K, 6): x0 y0 x1 y1 visible kind_is_pedestrian. A detection is correct if its
    centre is matched one to one within MATCH_GATE_PX. Returns recall and precision (NaN if undefined), mean centre error of
    the matched agents in pixels, recall of pedestrians alone, and n (eligible agents). `detect`: the function of another
    detector, for its model.
    """
    images = checked_images(frames, "frames", LARGEST_STRIDE)
    truth = checked_truth(boxes, images, "boxes")
    if not truth:
        raise ValueError("frames: none to measure on")
    total, error = match_all(truth, detect(model, images))
    return {
        "recall": total.recall,
        "precision": _ratio(total.detected, total.detected + total.false_positives),
        "centre_error_px": float(error.mean()) if len(error) else float("nan"),
        "recall_pedestrian": _ratio(total.detected_pedestrians, total.pedestrians),
        "n": total.agents,
    }


class Matches(NamedTuple):
    """Numbers of eligible agents and of detections."""

    agents: int
    detected: int
    false_positives: int
    pedestrians: int
    detected_pedestrians: int

    @property
    def recall(self) -> float:
        """Share of the agents that are detected; NaN without any."""
        return _ratio(self.detected, self.agents)


def match_all(truth: Sequence[Boxes], detections: Sequence[Boxes]) -> tuple[Matches, NDArray[np.float64]]:
    """The numbers over all frames, and the centre errors of the matched agents in pixels."""
    counts, errors = zip(*[_matches(t, d[:, :4]) for t, d in zip(truth, detections, strict=True)], strict=True)
    return Matches(*np.sum(counts, axis=0).tolist()), np.concatenate(errors)


def _matches(truth: Boxes, detections: Boxes) -> tuple[Matches, NDArray[np.float64]]:
    eligible = is_eligible(truth[:, :4], truth[:, 4])
    rows, columns, errors = dynamics.match(truth[eligible, :4], detections, MATCH_GATE_PX)
    others = np.delete(detections, columns, axis=0)
    false_positives = len(others) - dynamics.ignored_detections(truth[~eligible, :4], others, MATCH_GATE_PX)
    walks = truth[eligible, 5] > 0.5
    return Matches(int(eligible.sum()), len(rows), false_positives, int(walks.sum()), int(walks[rows].sum())), errors


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _peaks(heat: Tensor, sides: Tensor, least_score: float) -> list[Boxes]:
    """Cells that are maxima of their 3x3 neighbourhood, as boxes; of near-identical boxes only the best is kept."""
    highest = F.max_pool2d(heat, 3, stride=1, padding=1)
    peak = (heat == highest) & (heat >= least_score)
    detections: list[Boxes] = []
    for scores, box, here in zip(heat[:, 0], boxes_of_cells(sides), peak[:, 0], strict=True):
        rows = torch.cat([box[:, here], scores[here][None]]).T.double().numpy().astype(np.float32)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        # Where the network is unsure a side may come out beyond the opposite one; return no box inside out.
        rows[:, 2:4] = np.maximum(rows[:, 2:4], rows[:, :2])
        detections.append(_without_duplicates(rows))
    return detections


def _without_duplicates(rows: Boxes) -> Boxes:
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


def boxes_of_cells(sides: Tensor) -> Tensor:
    """(B, 4, h, w) distances to the four sides -> (B, 4, h, w) boxes x0 y0 x1 y1 in pixels."""
    x, y = _cell_centres(sides.shape[-2], sides.shape[-1])
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], dim=1)


def _cell_centres(h: int, w: int) -> tuple[Tensor, Tensor]:
    x, y = (torch.arange(size, dtype=torch.float32) * STRIDE + STRIDE / 2 for size in (w, h))
    return x[None, :].expand(h, w), y[:, None].expand(h, w)


def checked_truth(boxes: Sequence[ArrayLike], images: NDArray[np.uint8], name: str) -> list[Boxes]:
    """N arrays (K, 6), one per frame; ValueError with the argument's `name`."""
    if len(boxes) != len(images):
        raise ValueError(f"{name}: {len(boxes)} entries for {len(images)} frames; give one array per frame")
    rows: list[Boxes] = []
    for i, values in enumerate(boxes):
        known = values if np.size(values) else np.zeros((0, 6))
        columns = ": x0 y0 x1 y1 visible kind_is_pedestrian"
        row = checked_shape(known, f"{name}[{i}]", ("K", 6), columns, dtype=np.float32)
        rows.append(row)
        try:
            is_eligible(row[:, :4], row[:, 4])
        except ValueError as error:
            raise ValueError(f"{name}[{i}]: {error}") from error
    return rows
