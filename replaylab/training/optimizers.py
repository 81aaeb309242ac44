"""AdamW, or Muon on the matrices of a network's blocks and AdamW on everything else, as one optimizer with one state.

Decision: torch's own classes. Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises every update of a
matrix; its updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), and each optimizer has its own
learning rate. Refused: Muon on sharded weights, because it needs whole matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replaylab.spec import TrainingSpec

WEIGHT_DECAY = 0.01


class Optimizer:
    """The optimizer of weights by name. Raises ValueError for Muon if weights are sharded, or no block has a matrix."""

    def __init__(self, weights: dict[str, Any], training: TrainingSpec, sharded: bool = False) -> None:
        matrices = [weight for name, weight in weights.items() if training.muon_rate and _is_matrix_of_block(name, weight)]
        if training.muon_rate and (sharded or not matrices):
            why = "weights are sharded" if sharded else "no block of the network has a trained matrix"
            raise ValueError(f"muon_rate is {training.muon_rate}, but {why}: set it to 0 for AdamW")
        chosen = {id(matrix) for matrix in matrices}
        others = [weight for weight in weights.values() if id(weight) not in chosen]
        self._rates: list[tuple[Any, float]] = []
        if others:
            adamw = torch.optim.AdamW(others, lr=training.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
            self._rates.append((adamw, training.learning_rate))
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=training.muon_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
            )
            self._rates.append((muon, training.muon_rate))
        self._of = {id(weight): each for each, _ in self._rates for group in each.param_groups for weight in group["params"]}

    def step(self, share: float) -> None:
        """One step at this share of the learning rates."""
        for each, rate in self._rates:
            for group in each.param_groups:
                group["lr"] = rate * share
            each.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for each, _ in self._rates:
            each.zero_grad(set_to_none=True)

    def state(self, weight: Tensor) -> dict[str, Tensor]:
        """The optimizer's state for a weight, by torch's names."""
        return dict(self._of[id(weight)].state[weight])

    def restore(self, weight: Tensor, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._of[id(weight)].state[weight] = state


def _is_matrix_of_block(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and any(part.endswith("blocks") for part in name.split("."))
