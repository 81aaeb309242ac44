"""Is everything where it should be? Agents of generated futures against the true ones, in pixels.

The decision: an error is a mean over *all* true agents, and an agent that was not found costs a fixed cap. A
model that lets agents vanish is then never rewarded for it; the error of the matched agents alone stands
beside it (`ade_matched_px`), never in its place. Matching is one to one in every frame, by the distance of
box centres, and serves the eligible agents first: so a detection taken away can never lower the error, at the
price that an ignored agent's detection may stand in for a missing eligible agent closer than the cap.

Ignored agents (too small or mostly hidden) may then take one box each of what is left, without reward or
penalty. What is still left is a false positive. A clip without any eligible agent has no error:
NaN with n = 0, never 0.

Everything here is a pure function of boxes; it refuses boxes that are not finite numbers or inside out, and
an agent that appears twice in one frame. What follows from the matched agents over time, on the ground plane and
in motion, is in `trajectories`. Letters: T future frames, A true agents in a frame, K found boxes in a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from replaylab.data.boxes import (
    BoolArray,
    FloatArray,
    IntArray,
    centres,
    checked_agents,
    checked_boxes,
    checked_frames,
    checked_mask,
    checked_positive,
    inside,
)


class Counted(NamedTuple):
    """A measure, and how many things are behind it; NaN where there are none."""

    value: float
    n: int


@dataclass(frozen=True)
class AgentErrors:
    """One entry per eligible agent-frame, by frame and then in the order of the truth; n entries in all."""

    frame: IntArray
    """(n,) index of the future frame, from 0."""
    agent: IntArray
    """(n,) agent id."""
    error_px: FloatArray
    """(n,) distance of centres, pixels; the cap where the agent was missed."""
    matched: BoolArray
    """(n,) whether a found box was matched to the agent."""
    false_positives: IntArray
    """(T,) found boxes in each frame that match no agent, eligible or ignored."""
    true_boxes: FloatArray
    """(n, 4) the agent's box, pixels."""
    found_boxes: FloatArray
    """(n, 4) the box matched to it, pixels; NaN where the agent was missed."""


@dataclass(frozen=True)
class ClipDynamics:
    """Spatial accuracy of the agents of one clip. NaN marks what cannot be measured, and its n is then 0."""

    ade_px: float
    """mean error over all eligible agent-frames, a miss costing the cap; pixels."""
    fde_px: float
    """the same at the last frame only; pixels."""
    ade_matched_px: float
    """mean error over the matched agent-frames alone; pixels. Flatters a model that loses the hard agents."""
    recall: float
    """share of the eligible agent-frames that were matched, 0..1."""
    false_positives: float
    """found boxes per frame that match no agent."""
    n: int
    """eligible agent-frames: behind ade_px and recall."""
    n_last: int
    """eligible agents of the last frame: behind fde_px."""
    n_matched: int
    """matched agent-frames: behind ade_matched_px."""
    n_frames: int
    """frames: behind false_positives."""


def match(true_boxes: ArrayLike, found_boxes: ArrayLike, gate_px: float) -> tuple[IntArray, IntArray, FloatArray]:
    """One-to-one matching that minimises the summed distance of centres, a pair at or beyond the gate being
    no pair.

    true_boxes (A, 4), found_boxes (K, 4 or 5; a score is not looked at). Returns the rows of the truth, the
    rows of the found boxes and the distances in pixels of the matched pairs, (M,) each, by rows of the truth.
    The sum it minimises counts gate_px for every unmatched true box, and therefore has a unique value.
    """
    truth, found = (checked_boxes(true_boxes, "true_boxes"), checked_boxes(found_boxes, "found_boxes", scored=True))
    gate = checked_positive(gate_px, "gate_px")
    distance = np.linalg.norm(centres(truth)[:, None] - centres(found)[None], axis=-1)
    # With costs cut at the gate, a pair the solver is forced to make costs what leaving both alone costs.
    rows, columns = linear_sum_assignment(np.minimum(distance, gate))
    near = distance[rows, columns] < gate
    rows, columns = rows[near].astype(np.int64), columns[near].astype(np.int64)
    return rows, columns, distance[rows, columns]


def absorbed(ignored: ArrayLike, found_boxes: ArrayLike, gate_px: float) -> int:
    """How many found boxes the ignored agents take, one each: near an agent's centre or centred inside its
    box.

    The box counts besides the distance because an ignored agent is often one the edge of the image cuts off:
    it is found where it can be seen, far from the centre of the whole. ignored (A, 4), found_boxes (K, 4 or
    5), pixels.
    """
    truth, found = checked_boxes(ignored, "ignored"), checked_boxes(found_boxes, "found_boxes", scored=True)
    gate, points = checked_positive(gate_px, "gate_px"), centres(found)[None]
    near = np.linalg.norm(centres(truth)[:, None] - points, axis=-1) < gate
    takes = near | inside(truth, points)
    return int(takes[linear_sum_assignment(takes, maximize=True)].sum())


def agent_errors(
    true_boxes: Sequence[ArrayLike],
    agents: Sequence[ArrayLike],
    eligible: Sequence[ArrayLike],
    found: Sequence[ArrayLike],
    *,
    miss_cap_px: float,
) -> AgentErrors:
    """Error of every eligible agent in every future frame of one clip.

    Each argument is a sequence of T frames: true_boxes (A, 4) as x0 y0 x1 y1 in pixels, agents (A,) integer
    ids, eligible (A,) bool, found (K, 4 or 5) boxes with or without a score. A may differ from frame to
    frame; an agent counts in the frames where it is eligible. ValueError or TypeError names the argument and
    frame that is wrong.
    """
    cap = checked_positive(miss_cap_px, "miss_cap_px")
    n_frames = checked_frames(true_boxes, agents=agents, eligible=eligible, found=found)
    frame_of: list[IntArray] = []
    agent_of: list[IntArray] = []
    errors: list[FloatArray] = []
    hits: list[BoolArray] = []
    pairs: list[tuple[FloatArray, FloatArray]] = []
    spurious = np.zeros(n_frames, dtype=np.int64)
    for t in range(n_frames):
        truth = checked_boxes(true_boxes[t], f"true_boxes[{t}]")
        boxes = checked_boxes(found[t], f"found[{t}]", scored=True)
        ids = checked_agents(agents[t], len(truth), f"agents[{t}]")
        counts = checked_mask(eligible[t], len(truth), f"eligible[{t}]")
        rows, columns, distance = match(truth[counts], boxes, cap)
        error, hit = np.full(int(counts.sum()), cap), np.zeros(int(counts.sum()), dtype=np.bool_)
        error[rows], hit[rows] = distance, True
        matched = np.full((len(error), 4), np.nan)
        matched[rows] = boxes[columns]
        left = np.delete(boxes, columns, axis=0)
        spurious[t] = len(left) - absorbed(truth[~counts], left, cap)
        frame_of.append(np.full(len(error), t, dtype=np.int64))
        agent_of.append(ids[counts])
        errors.append(error)
        hits.append(hit)
        pairs.append((truth[counts], matched))
    return AgentErrors(
        np.concatenate(frame_of),
        np.concatenate(agent_of),
        np.concatenate(errors),
        np.concatenate(hits),
        spurious,
        np.concatenate([true for true, _ in pairs]),
        np.concatenate([matched for _, matched in pairs]),
    )


def clip_dynamics(
    true_boxes: Sequence[ArrayLike],
    agents: Sequence[ArrayLike],
    eligible: Sequence[ArrayLike],
    found: Sequence[ArrayLike],
    *,
    miss_cap_px: float,
) -> ClipDynamics:
    """Spatial accuracy of one clip; arguments and errors as in `agent_errors`."""
    return summary(agent_errors(true_boxes, agents, eligible, found, miss_cap_px=miss_cap_px))


def summary(errors: AgentErrors) -> ClipDynamics:
    """Spatial accuracy of one clip from the errors of its agents."""
    n_frames = len(errors.false_positives)
    last = errors.frame == n_frames - 1
    return ClipDynamics(
        ade_px=_mean(errors.error_px),
        fde_px=_mean(errors.error_px[last]),
        ade_matched_px=_mean(errors.error_px[errors.matched]),
        recall=_mean(errors.matched.astype(np.float64)),
        false_positives=_mean(errors.false_positives.astype(np.float64)),
        n=len(errors.error_px),
        n_last=int(last.sum()),
        n_matched=int(errors.matched.sum()),
        n_frames=n_frames,
    )


def mean(values: FloatArray) -> Counted:
    """The mean of values (n,), and n; NaN of none."""
    return Counted(_mean(values), len(values))


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")
