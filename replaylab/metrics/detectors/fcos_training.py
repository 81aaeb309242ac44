"""Training of the second detector on rendered frames with known boxes.

Decision: a cell is assigned to the agent near whose centre it lies, and of several to the smallest, as in FCOS with centre
sampling. The losses are its focal loss, GIoU on the boxes (Rezatofighi et al. 2019) and cross entropy on centre-ness. Cells
in agents that are not eligible are left out. All else is in `fitting`, as for the first detector.

Refused: what `centre_point` and `fitting` refuse. Shapes as in `centre_point`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from replaylab.data.boxes import is_eligible
from replaylab.metrics.detectors import fcos, fitting
from replaylab.metrics.detectors.centre_point import Boxes
from replaylab.metrics.detectors.centre_point_training import BARELY_VISIBLE, giou
from replaylab.metrics.detectors.fcos import STRIDE, Fcos

RADIUS_PX = 1.5 * STRIDE  # from an agent's centre: the cells that answer for it
LEAST_SIDE_PX = 0.5  # of a cell from the sides of its agent
FOCUS, SHARE = 2.0, 0.25  # γ and α of the focal loss


class Targets(NamedTuple):
    """The targets of the cells of a batch."""

    agent: Tensor  # (B, 1, h, w) 1 where a cell answers for an agent
    counted: Tensor  # (B, 1, h, w) 0 where an agent is neither right nor wrong
    box: Tensor  # (B, 4, h, w) the agent's box
    centred: Tensor  # (B, 1, h, w) 1 in its middle, 0 at its edge: Tian et al. 2019, equation 3


def targets_of(labels: list[Boxes], h: int, w: int) -> Targets:
    """The targets for boxes (K, 6) in each of B frames. Every eligible agent has a cell, unless others occupy them all."""
    shape = (len(labels), h, w)
    y, x = (each.numpy().astype(np.float64) for each in fcos.cell_centres(h, w))
    agent, counted, centred = np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.float32)
    box = np.zeros((len(labels), 4, h, w), np.float32)
    for i, rows in enumerate(labels):
        eligible = is_eligible(rows[:, :4], rows[:, 4])
        areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
        for row in rows[eligible][np.argsort(-areas[eligible], kind="stable")]:  # the smallest last, over the others
            x0, y0, x1, y1 = row[:4]
            middle_x = np.clip((x0 + x1) / 2, STRIDE / 2, w * STRIDE - STRIDE / 2)
            middle_y = np.clip((y0 + y1) / 2, STRIDE / 2, h * STRIDE - STRIDE / 2)
            away = np.maximum(np.abs(x - middle_x), np.abs(y - middle_y))
            here = ((away < RADIUS_PX) & (x > x0) & (x < x1) & (y > y0) & (y < y1)) | (away == away.min())
            sides = np.maximum([x - x0, y - y0, x1 - x, y1 - y], LEAST_SIDE_PX)
            across, down = sides[::2], sides[1::2]
            share = np.sqrt(across.min(0) / across.max(0) * down.min(0) / down.max(0))
            agent[i][here], centred[i][here], box[i][:, here] = 1, share[here], row[:4, None]
        for row in rows[~eligible & (rows[:, 4] >= BARELY_VISIBLE)]:
            inside = (x >= row[0]) & (x <= row[2]) & (y >= row[1]) & (y <= row[3])
            counted[i][inside & (agent[i] == 0)] = 0
    one, two, three = (torch.from_numpy(each)[:, None] for each in (agent, counted, centred))
    return Targets(agent=one, counted=two, box=torch.from_numpy(box), centred=three)


def loss(logits: Tensor, sides: Tensor, centred: Tensor, targets: Targets) -> Tensor:
    """The three losses, each over the cells assigned to an agent; boxes are weighted by the centre-ness of their cells."""
    agents = targets.agent.sum().clamp(min=1)
    each = F.binary_cross_entropy_with_logits(logits, targets.agent, reduction="none")
    right = torch.where(targets.agent > 0, torch.sigmoid(logits), torch.sigmoid(-logits))
    weight = torch.where(targets.agent > 0, SHARE, 1 - SHARE) * targets.counted
    focal = (weight * (1 - right) ** FOCUS * each).sum() / agents
    overlap = giou(fcos.boxes_of_cells(sides), targets.box)[:, None]
    of_boxes = (targets.centred * (1 - overlap)).sum() / targets.centred.sum().clamp(min=1)
    middles = F.binary_cross_entropy_with_logits(centred, targets.centred, reduction="none")
    return focal + 2 * of_boxes + (targets.agent * middles).sum() / agents


def _loss_on(model: Fcos, frames: Tensor, labels: list[Boxes]) -> Tensor:
    logits, sides, centred = model(frames)
    return loss(logits, sides, centred, targets_of(labels, *logits.shape[2:]))


KIND = fitting.DetectorKind(
    "Second detector of agents in small driving frames", "replaylab/metrics/detectors/fcos.py",
    "python -m replaylab pretrain second-detector", Fcos, _loss_on, fcos.detect,
)  # fmt: skip
fit = partial(fitting.fit, KIND)
"""`fitting.fit` of this detector."""
