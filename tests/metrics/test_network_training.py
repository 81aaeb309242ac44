"""A training that was stopped goes on as if it had not been, and from no other's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from replaylab.metrics import network_training

STEPS = 12


class Stopped(Exception):
    """As a machine is."""


def train(resume: Path | None, stop: int = STEPS, seed: int = 0) -> tuple[nn.Module, Tensor, list[int]]:
    """A network with batch statistics, the running sum of its losses, and the steps that were taken."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    total, taken = torch.zeros(1), []

    def loss_at(step: int) -> Tensor:
        if step == stop:
            raise Stopped
        taken.append(step)
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(1000 * seed + step))
        return (network(batch) - batch.sum(1, keepdim=True)).square().mean()

    for _, loss in network_training.minimise(
        network, loss_at, steps=STEPS, learning_rate=0.01, weight_decay=0.1, what="network", resume=resume,
        settings={"seed": seed}, kept={"total": total},
    ):  # fmt: skip
        total += loss
    return network, total, taken


@pytest.mark.parametrize("stop", [3, 9, 11])
def test_interrupted_equals_uninterrupted(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_training, "SAVED_EVERY", 4)
    whole, total, _ = train(None)
    file = tmp_path / "home" / "network.safetensors"
    with pytest.raises(Stopped):
        train(file, stop)
    again, total_again, taken = train(file)
    assert taken == list(range(stop // 4 * 4, STEPS))
    assert torch.equal(total, total_again)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_what_another_training_left_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_training, "SAVED_EVERY", 4)
    file = tmp_path / "network.safetensors"
    with pytest.raises(Stopped):
        train(file, 9)
    with pytest.raises(ValueError, match=r"of another training .*\"seed\": 0.* not .*\"seed\": 1.*remove it to begin anew"):
        train(file, seed=1)
