"""Training of the centre-point detector on rendered frames with known boxes.

Decision: the loss is that of Objects as Points with a box loss on every cell of an agent's core. Agents that are not
eligible are left out of it. All else is in `fitting`, as for the second detector.

Refused: what `centre_point` and `fitting` refuse. Shapes as in `centre_point`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from replaylab.data.boxes import is_eligible
from replaylab.metrics.detectors import centre_point, fitting
from replaylab.metrics.detectors.centre_point import STRIDE, Boxes, Detector

BARELY_VISIBLE = 0.05
"""Agents less visible than this are treated as absent in training, because almost nothing of them can be seen."""


@dataclass(frozen=True)
class _Targets:
    heat: Tensor  # (B, 1, h, w) 1 at the cells of the centres, falling off around them
    counted: Tensor  # (B, 1, h, w) 0 where an agent is neither right nor wrong
    box: Tensor  # (B, 4, h, w) the box a cell should give
    box_weight: Tensor  # (B, h, w) how much that counts


def _loss_on(model: Detector, frames: Tensor, labels: list[Boxes]) -> Tensor:
    logits, sides = model(frames)
    return _loss(logits, sides, _targets(labels, *logits.shape[2:]))


def _loss(logits: Tensor, sides: Tensor, targets: _Targets) -> Tensor:
    """Focal loss on the heatmap (Zhou et al. 2019, equation 1); L1 and GIoU on the boxes (Rezatofighi et al. 2019)."""
    positive = (targets.heat == 1).float()
    p = torch.sigmoid(logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    near = positive * (1 - p) ** 2 * log_p
    away = (1 - positive) * (1 - targets.heat) ** 4 * p**2 * log_not_p
    heat_loss = -(targets.counted * (near + away)).sum() / positive.sum().clamp(min=1)
    box = centre_point.boxes_of_cells(sides)
    apart = (box - targets.box).abs().mean(1) / centre_point.PIXELS_PER_OUTPUT
    box_loss = (targets.box_weight * (2 * apart + 1 - giou(box, targets.box))).sum()
    return heat_loss + box_loss / targets.box_weight.sum().clamp(min=1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union (B, h, w) of boxes (B, 4, h, w), -1..1."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(1)

    shared = area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    union = area(a[:, :2], a[:, 2:]) + area(b[:, :2], b[:, 2:]) - shared
    hull = area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _targets(labels: Sequence[Boxes], h: int, w: int) -> _Targets:
    """Targets of a batch of boxes (K, 6). Nearer (lower) agents come last and overwrite those that they occlude."""
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
    """Cells whose centre is in the box or within one cell of it."""
    across = (x >= row[0] - STRIDE) & (x <= row[2] + STRIDE)
    return np.asarray(((y >= row[1] - STRIDE) & (y <= row[3] + STRIDE))[:, None] & across[None, :])


KIND = fitting.DetectorKind(
    "Detector of agents in small driving frames", "replaylab/metrics/detectors/centre_point.py",
    "python -m replaylab pretrain detector --seed {seed}", Detector, _loss_on, centre_point.detect,
)  # fmt: skip
fit = partial(fitting.fit, KIND)
"""`fitting.fit` of this detector."""
