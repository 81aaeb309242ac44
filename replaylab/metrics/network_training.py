"""How the small networks are trained here: AdamW on a warm-up and a cosine, the record of it, and the tables of its card.

Decision: what a step learns from is the caller's function of the step alone, so that a seed gives the same weights again.
Refused: settings that cannot train, and a loss that is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from replaylab.util.checks import checked_positive
from replaylab.util.progress import track

LONGEST_WARM_UP = 100  # steps
LARGEST_GRADIENT = 5.0  # its norm


def check_settings(steps: int, batch_size: int, learning_rate: float) -> None:
    """ValueError names the setting that cannot train."""
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size: {steps} and {batch_size}, expected at least 1")
    checked_positive(learning_rate, "learning_rate", "number")


def minimise(
    network: nn.Module, loss_at: Callable[[int], Tensor], *,
    steps: int, learning_rate: float, weight_decay: float, what: str,
) -> Iterator[float]:  # fmt: skip
    """Train on the loss of each step; yields its value after the step's update. `what` names the network on the screen.

    FloatingPointError if a loss is NaN or infinite.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for step in track(range(steps), what=f"training the {what}", unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"learning_rate: the loss is {value} at {learning_rate}; try a lower one")
        yield value


def _schedule(step: int, steps: int) -> float:
    """A short warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / min(LONGEST_WARM_UP, max(1, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


def record(started: float, losses: Sequence[float], **settings: Any) -> dict[str, Any]:
    """The settings, the seconds since `started` (of `time.monotonic`), and the mean of the last 50 losses."""
    seconds = round(time.monotonic() - started, 1)
    return {**settings, "seconds": seconds, "last_loss": round(float(np.mean(losses[-50:])), 4)}


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    cells = [heads, ["---"] * len(heads), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
