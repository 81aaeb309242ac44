"""What the presets of the families are said to take is what their networks have, compute and keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from replaylab.models.families import estimates, presets
from replaylab.models.families.estimates import Estimate

PUBLISHED = {"wan": 5.0e9, "cogvideox": 5.57e9, "ltx": 1.92e9, "svd": 1.52e9}  # weights, by their model cards


@pytest.fixture(scope="module")
def estimated() -> dict[str, Estimate]:
    return {name: estimates.estimate(preset) for name, preset in presets.PRESETS.items()}


def test_networks_have_the_published_number_of_weights(estimated: dict[str, Estimate]) -> None:
    assert {name: each.weights for name, each in estimated.items()} == pytest.approx(PUBLISHED, rel=0.01)


def test_every_estimate_says_that_it_was_not_run(estimated: dict[str, Estimate]) -> None:
    for name, each in estimated.items():
        assert str(each).startswith(f"{name}: ")
        assert str(each).endswith("Estimated; not run here")
        assert each.preset.hub_name in str(each)
        assert 0.1 < each.hours < 24
        assert 10 < each.training_gb < 80


def test_an_estimate_is_the_sum_of_its_parts() -> None:
    preset = replace(presets.PRESETS["ltx"], batch_size=3, steps=1000)
    each = Estimate(preset, 10**9, 10**7, 2 * 10**9, 10**12)
    assert each.training_gb == pytest.approx(2 + 0.2 + 6 + estimates.OVERHEAD_GB)
    assert each.hours == pytest.approx(3 * 1e12 * 3 * 1000 / (989e12 * 0.4) / 3600)


class Layers(nn.Module):
    """`count` linear layers of `width`, checkpointed one by one."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))
        self.enable_gradient_checkpointing(lambda layer, hidden: layer(hidden))

    def enable_gradient_checkpointing(self, checkpoint: Any) -> None:
        self.checkpoint = checkpoint

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = self.checkpoint(layer, hidden)
        return hidden


def test_what_is_kept_of_plain_layers_is_their_inputs() -> None:
    with torch.device("meta"):
        flops, kept = estimates._measured(Layers(5, 16), {"hidden": torch.empty(3, 16)})
    assert flops == 5 * 2 * 3 * 16 * 16
    assert kept == 5 * (3 * 16 * 4) + 3 * 16 * 4  # of all layers, and again within one


def test_fused_attention_is_counted_like_written_out_and_keeps_no_scores() -> None:
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 4))

        def enable_gradient_checkpointing(self, checkpoint: Any) -> None:
            self.checkpoint = checkpoint

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def attend(x: torch.Tensor) -> torch.Tensor:
                return functional.scaled_dot_product_attention(x @ self.weight, x, x)

            return self.checkpoint(attend, x)

    with torch.device("meta"):
        network, x = Attention(), torch.empty(2, 3, 100, 4)
        flops, kept = estimates._measured(network, {"x": x})
        network.checkpoint = lambda block, x: block(x)
        with FlopCounterMode(display=False) as counter:
            network(x)
    assert flops == counter.get_total_flops()
    one = x.numel() * 4
    assert kept == one + 3 * one  # the input of the block; within it the input, the queries and the output
