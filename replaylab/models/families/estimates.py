"""Estimated memory and hours of fine-tuning a preset on one GPU; none was run here.

Decision: operations and bytes are counted. The network of the published configuration is built and run once on torch's
meta device, which has shapes but no memory: weights, floating-point operations, and the tensors that a training step stores
for its backward pass are counted exactly, attention as in fused kernels (Dao et al. 2022, arXiv 2205.14135: queries, keys,
values and output are stored, not the scores). The only assumption is a GPU's utilisation: `BUSY` of an H100's peak in bf16.

Memory of a LoRA training step with gradient checkpointing: 2 bytes per frozen weight; 20 bytes per adapter weight (weight,
gradient, AdamW's two moments, average, all float32); the inputs of every checkpointed block and the tensors stored within
the largest one, times the batch size; `OVERHEAD_GB` for kernels, fragmentation and the rest. Encoders are unloaded before;
the largest one sets a minimum, if conditions are encoded on the same GPU.

Counting takes half a minute, so the results for the presets are stored in counts.json, which a test compares with them; when
a preset changes, `python -m replaylab.models.families.estimates` rewrites it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replaylab.models import lora
from replaylab.models.families.presets import PRESETS, GpuPreset
from replaylab.util.files import write_text

GB = 1e9
PEAK_FLOPS, BUSY = 989e12, 0.4  # an H100's dense bf16, and how much of it large transformers reach
OVERHEAD_GB = 3.0
COUNTS = Path(__file__).with_name("counts.json")


@dataclass(frozen=True)
class Estimate:
    """The estimate for one training step, and for a whole fine-tuning on one H100; sizes in 1e9 bytes."""

    preset: GpuPreset
    weights: int
    adapter_weights: int
    kept_bytes_a_clip: int  # for the backward pass, with gradient checkpointing
    forward_flops_a_clip: int

    @property
    def training_gb(self) -> float:
        """Peak memory of a training step: weights, adapters with their moments, and tensors stored for the gradient."""
        kept = self.preset.batch_size * self.kept_bytes_a_clip
        return (2 * self.weights + 20 * self.adapter_weights + kept) / GB + OVERHEAD_GB

    @property
    def encoding_gb(self) -> float:
        """Memory while conditions are encoded: that of the largest encoder."""
        return 2 * self.preset.encoder_weights / GB + OVERHEAD_GB

    @property
    def hours(self) -> float:
        """Hours of the forward pass, its recomputation for the checkpoints, and the backward pass through frozen weights."""
        flops = 3 * self.forward_flops_a_clip * self.preset.batch_size * self.preset.steps
        return flops / (PEAK_FLOPS * BUSY) / 3600

    def __str__(self) -> str:
        preset = self.preset
        return (
            f"{preset.name}: {preset.hub_name}, LoRA of rank {preset.lora_rank}, clips of {preset.frames} frames of "
            f"{preset.height_px}x{preset.width_px} (height x width, as --size), {preset.steps} steps of {preset.batch_size} "
            f"clips: about {max(self.training_gb, self.encoding_gb):.0f} GB (training {self.training_gb:.0f}, encoding "
            f"{self.encoding_gb:.0f}) and {self.hours:.1f} hours of one H100 a run, evaluations not counted. Estimated; not "
            "run here"
        )


def kept(preset: GpuPreset) -> Estimate:
    """The stored estimate for a preset of `PRESETS`."""
    return Estimate(preset, **json.loads(COUNTS.read_text())[preset.name])


def estimate(preset: GpuPreset) -> Estimate:
    """Count weights, operations and bytes on the meta device; takes a second or two, and no memory."""
    import diffusers

    family = preset.family
    with torch.device("meta"):
        network = getattr(diffusers, family.NETWORK[1])(**preset.config)
    # Of torch, not of diffusers, which warns about networks that have weights. A few are made on the CPU whatever one says.
    torch.nn.Module.to(network, "meta", torch.bfloat16)
    weights = _count(network)
    lora.add_lora(network, family.ADAPTED, preset.lora_rank, seed=0)
    torch.nn.Module.to(network, "meta", torch.bfloat16).train()  # as autocast computes, in whatever the adapters are kept
    with torch.device("meta"):
        flops, kept_bytes = _measured(network, family.meta_inputs(preset.latent, preset.config))
    return Estimate(preset, weights, _count(network) - weights, kept_bytes, flops)


def _count(network: Any) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _measured(network: Any, inputs: dict[str, Any]) -> tuple[int, int]:
    """Operations of a forward pass, and the bytes stored by a checkpointed one."""
    from torch.utils.flop_counter import FlopCounterMode

    outside, blocks = _Kept(network), []

    def checkpoint(block: Any, *given: Any) -> Any:
        within = _Kept(network)
        with within:
            result = block(*given)
        for each in given:
            outside.add(each)
        blocks.append(within.bytes)
        return result

    network.enable_gradient_checkpointing(checkpoint)
    counter, fused = FlopCounterMode(display=False), _FusedAttention()
    with counter, outside, fused:
        network(**inputs)
    return counter.get_total_flops() + fused.flops, outside.bytes + max(blocks)


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Context of a forward pass that records the tensors stored by autograd, without weights and each once."""

    def __init__(self, network: Any) -> None:
        super().__init__(self.add, lambda tensor: tensor)
        self._weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
        self._storages: dict[int, Any] = {}  # kept alive: an address must not be used again

    def add(self, given: Any) -> Any:
        if isinstance(given, Tensor) and given.untyped_storage()._cdata not in self._weights:
            self._storages[given.untyped_storage()._cdata] = given.untyped_storage()
        return given

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


class _FusedAttention(TorchFunctionMode):
    """Attention that stores the tensors of fused kernels, and counts their operations."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, key, value = (given[name] for name in ("query", "key", "value"))
        self.flops += 4 * query.numel() * key.shape[-2]
        return _Attention.apply(query, key, value)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output


def main() -> None:
    """Write the estimates of all presets."""
    counted = {name: estimate(preset) for name, preset in PRESETS.items()}
    numbers = [field.name for field in fields(Estimate) if field.name != "preset"]
    write_text(COUNTS, json.dumps({name: {key: getattr(each, key) for key in numbers} for name, each in counted.items()},
                                  indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
