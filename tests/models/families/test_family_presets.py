"""What the presets of the families are said to take is what their networks have, compute and keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderKLTemporalDecoder
from tiny_families import TINY, cogvideox, svd
from torch import nn

from replaylab.metrics import fidelity
from replaylab.models import families
from replaylab.models.families import estimates, presets
from replaylab.models.families.estimates import Estimate

PUBLISHED = {"wan": 5.0e9, "cogvideox": 5.57e9, "ltx": 1.92e9, "svd": 1.52e9}  # weights, by their model cards


@pytest.fixture(scope="module")
def estimated() -> dict[str, Estimate]:
    return {name: estimates.estimate(preset) for name, preset in presets.PRESETS.items()}


def test_what_is_kept_of_the_counts_is_what_is_counted(estimated: dict[str, Estimate]) -> None:
    assert {name: estimates.kept(preset) for name, preset in presets.PRESETS.items()} == estimated


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


def miniature(name: str, folder: Path) -> Path:
    """A tiny model of a preset's family that takes the preset's clips."""
    preset = presets.PRESETS[name]
    if name == "cogvideox":
        cogvideox(folder, cells=(preset.height_px // 8, preset.width_px // 8))
    elif name == "svd":
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "block_out_channels": (32,) * 4}
        svd(folder, vae=AutoencoderKLTemporalDecoder(**blocks, latent_channels=4))
    else:
        TINY["wan-in-place" if name == "wan" else name](folder)
    return folder


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_model_without_its_weights_takes_the_clips_of_its_preset_and_says_which_others(name: str, tmp_path: Path) -> None:
    preset, folder = presets.PRESETS[name], miniature(name, tmp_path / name)
    for weights in folder.glob("*/*.safetensors"):
        weights.unlink()
    outline = families.outline(folder)
    assert presets.preset_of(type(outline)) == name
    outline.check_clips(1, preset.frames, preset.height_px, preset.width_px)
    with pytest.raises(ValueError, match=rf"make the domain with --size {preset.height_px}x{preset.width_px}"):
        outline.check_clips(1, preset.frames, preset.height_px + 1, preset.width_px)
    size = f"{preset.height_px}x{preset.width_px}"
    assert all(size in (ROOT / page).read_text() for page in ("README.md", "book/your_model.ipynb"))
    assert f"{size} (height x width" in str(Estimate(preset, 1, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames"), [("wan", 5), ("cogvideox", 9), ("ltx", 9), ("svd", 2)])
def test_clips_of_a_presets_true_size_are_encoded_predicted_decoded_and_measured(
    name: str, frames: int, tmp_path: Path
) -> None:
    preset, model = presets.PRESETS[name], families.load(miniature(name, tmp_path / name))
    coarse = np.random.default_rng(0).integers(0, 256, (frames, preset.height_px // 16, preset.width_px // 16, 3), np.uint8)
    clip = coarse.repeat(16, 1).repeat(16, 2)
    example = model.example(clip, "", 1, preset.frames_per_second)
    assert torch.isfinite(model.loss(example["latents"], torch.zeros_like(example["latents"]), model.levels(
        torch.zeros(1), example["latents"].shape), example))  # fmt: skip
    decoded = model.decode(example["latents"])
    assert decoded.shape == (1, *clip.shape)
    features = fidelity.efficientnet(decoded[0])
    assert np.isfinite(features.features).all() and len(features.features) == frames
