"""Training of the small networks: AdamW with warm-up and cosine decay, its record, and the tables of the card.

Decision: the data of a step are the caller's function of the step alone, so that a seed always gives the same weights,
and a resumed training gives those of an uninterrupted one.
Refused: invalid settings, a loss that is not finite, and resuming from the file of another training.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from replaylab.util.checks import checked_positive
from replaylab.util.files import write_atomically
from replaylab.util.progress import track

LONGEST_WARM_UP = 100  # steps
LARGEST_GRADIENT = 5.0  # its norm
SAVED_EVERY = 200  # steps


def check_settings(steps: int, batch_size: int, learning_rate: float) -> None:
    """ValueError names the invalid setting."""
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size: {steps} and {batch_size}, expected at least 1")
    checked_positive(learning_rate, "learning_rate", "number")


def minimise(
    network: nn.Module, loss_at: Callable[[int], Tensor], *,
    steps: int, learning_rate: float, weight_decay: float, what: str, resume: Path | None = None,
    settings: Mapping[str, Any] | None = None, kept: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """Train on the loss of each step; yields the step and its loss after its update. `what`: its name in progress lines.

    resume: a file with the state of the training, written every SAVED_EVERY steps; if it exists, training continues from
    it. settings: other inputs of the losses, such as the seed. kept: the caller's tensors, which change with every step
    and are restored too. FloatingPointError if a loss is NaN or infinite, ValueError for a file of another training.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    about = json.dumps([what, steps, learning_rate, weight_decay, settings])
    first = _resumed(resume, network, optimizer, kept or {}, about) if resume and resume.is_file() else 0
    for step in track(range(first, steps), what=f"training the {what}", unit="steps"):
        if resume and step > first and step % SAVED_EVERY == 0:
            _save(resume, step, network, optimizer, kept or {}, about)
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
        yield step, value


def _save(
    path: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor], about: str
) -> None:  # fmt: skip
    tensors = {f"network {name}": value for name, value in network.state_dict().items()}
    tensors |= {f"kept {name}": value for name, value in kept.items()}
    for name, weight in network.named_parameters():
        tensors |= {f"{kind} {name}": value for kind, value in optimizer.state[weight].items()}
    data = save({name: value.contiguous() for name, value in tensors.items()}, {"step": str(step), "about": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda aside: aside.write_bytes(data))


def _resumed(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor], about: str
) -> int:  # fmt: skip
    """The step at which to continue; ValueError, with a remedy, for a file of another training."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    if metadata.get("about") != about:
        raise ValueError(f"{path} is of another training ({metadata.get('about')}, not {about}); remove it to begin anew")
    network.load_state_dict({name: tensors[f"network {name}"] for name in network.state_dict()})
    for name, value in kept.items():
        value.copy_(tensors[f"kept {name}"])
    for name, weight in network.named_parameters():
        optimizer.state[weight] = {kind: tensors[f"{kind} {name}"] for kind in ("step", "exp_avg", "exp_avg_sq")}
    return int(metadata["step"])


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
