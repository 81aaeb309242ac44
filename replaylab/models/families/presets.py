"""What would fine-tuning the real models take? Presets for one GPU each, with memory and hours. None was run here.

Decision: counted, not guessed. The network of the published configuration is built and run once on torch's meta device,
which has shapes and no memory: weights, floating-point operations, and what a training step keeps for its way back are
counted as they are, attention as the fused kernels do it (Dao et al. 2022, arXiv 2205.14135: queries, keys, values and
output are kept, not the scores). Only what a GPU makes of it is assumed: `BUSY` of an H100's peak in bf16.

Memory of a LoRA training step, gradient checkpointing on: 2 bytes a frozen weight; 20 bytes an adapter's weight (it and its
gradient, AdamW's two moments, the average, all float32); the inputs of every checkpointed block and what is kept within the
largest one, times the batch; `ELSEWHERE_GB` for kernels, fragments and the rest. Encoders are not there any more by then;
the largest one alone sets a floor, where conditions are encoded on the same GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replaylab.models import lora
from replaylab.models.families.cogvideox import CogVideoX
from replaylab.models.families.ltx import LTXVideo
from replaylab.models.families.shared import Family
from replaylab.models.families.svd import StableVideoDiffusion
from replaylab.models.families.wan import WanByChannels, WanInPlace

GB = 1e9
PEAK_FLOPS, BUSY = 989e12, 0.4  # an H100's dense bf16, and how much of it large transformers reach
ELSEWHERE_GB = 3.0


@dataclass(frozen=True)
class GpuPreset:
    """A LoRA fine-tuning of a published model: what `train` would be told, and what the estimate needs to know."""

    name: str
    hub_name: str
    family: type[Family]
    config: dict[str, Any]  # of the network, where it differs from diffusers' defaults
    frames: int
    height_px: int
    width_px: int
    latent: tuple[int, int, int, int]  # channels, frames, height, width of a clip's latents
    frames_per_second: float
    encoder_weights: float  # of the largest encoder of prompts or contexts
    steps: int = 2000
    batch_size: int = 4
    lora_rank: int = 32
    learning_rate: float = 1e-4
    guidance: float = 1.0  # that its pipeline draws with


PRESETS = {
    preset.name: preset
    for preset in (
        GpuPreset(
            "wan", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", WanInPlace,
            {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30},
            49, 480, 832, (48, 13, 30, 52), 24, 5.7e9, guidance=5.0,
        ),
        GpuPreset(
            "cogvideox", "THUDM/CogVideoX-5b-I2V", CogVideoX,
            {"num_attention_heads": 48, "in_channels": 32, "num_layers": 42, "use_rotary_positional_embeddings": True,
             "use_learned_positional_embeddings": True},
            49, 480, 720, (16, 13, 60, 90), 8, 4.8e9, guidance=6.0,
        ),
        GpuPreset(
            "ltx", "Lightricks/LTX-Video", LTXVideo, {}, 97, 512, 768, (128, 13, 16, 24), 25, 4.8e9,
            guidance=3.0,
        ),
        GpuPreset(
            "svd", "stabilityai/stable-video-diffusion-img2vid-xt", StableVideoDiffusion,
            {"num_attention_heads": (5, 10, 20, 20)}, 25, 320, 512, (4, 25, 40, 64), 7, 0.63e9, guidance=3.0,
        ),
    )
}  # fmt: skip
# Wan 2.1 image-to-video: twice the preset's memory and more, so not the preset, but `estimate` knows it
WAN_2_1 = GpuPreset(
    "wan-2.1", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", WanByChannels,
    {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}, 49, 480, 832, (16, 13, 60, 104), 16, 5.7e9,
    batch_size=1,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Of one training step, and of a whole fine-tuning on one H100; sizes in 1e9 bytes."""

    preset: GpuPreset
    weights: int
    adapter_weights: int
    kept_bytes_a_clip: int  # for the way back, with gradient checkpointing
    forward_flops_a_clip: int

    @property
    def training_gb(self) -> float:
        """At the peak of a training step: weights, adapters with their moments, and what is kept for the gradient."""
        kept = self.preset.batch_size * self.kept_bytes_a_clip
        return (2 * self.weights + 20 * self.adapter_weights + kept) / GB + ELSEWHERE_GB

    @property
    def encoding_gb(self) -> float:
        """While conditions are encoded: the largest encoder."""
        return 2 * self.preset.encoder_weights / GB + ELSEWHERE_GB

    @property
    def hours(self) -> float:
        """Forwards, forwards again for the checkpoints, and backwards through weights that get no gradient of their own."""
        flops = 3 * self.forward_flops_a_clip * self.preset.batch_size * self.preset.steps
        return flops / (PEAK_FLOPS * BUSY) / 3600

    def __str__(self) -> str:
        preset = self.preset
        return (
            f"{preset.name}: {preset.hub_name}, LoRA of rank {preset.lora_rank}, clips of {preset.frames} frames of "
            f"{preset.width_px} x {preset.height_px}, {preset.steps} steps of {preset.batch_size}: about "
            f"{max(self.training_gb, self.encoding_gb):.0f} GB (training {self.training_gb:.0f}, encoding "
            f"{self.encoding_gb:.0f}) and {self.hours:.1f} hours of one H100 a run, evaluations not counted. Estimated; not "
            "run here"
        )


def estimate(preset: GpuPreset) -> Estimate:
    """Count weights, operations and bytes on the meta device; a second or two, and no memory."""
    import diffusers

    family = preset.family
    with torch.device("meta"):
        network = getattr(diffusers, family.NETWORK[1])(**preset.config)
    network = network.to("meta", torch.bfloat16)  # a few parameters are made on the CPU whatever one says
    weights = _count(network)
    lora.put_on(network, family.ADAPTED, preset.lora_rank, seed=0)
    network.to("meta", torch.bfloat16).train()  # as autocast computes, in whatever the adapters are kept
    with torch.device("meta"):
        flops, kept = _measured(network, _INPUTS[family](preset))
    return Estimate(preset, weights, _count(network) - weights, kept, flops)


def _count(network: Any) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _measured(network: Any, inputs: dict[str, Any]) -> tuple[int, int]:
    """Operations of a forward pass, and the bytes a checkpointed one keeps."""
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


class _Kept:
    """Around a forward pass: what autograd keeps of it, weights not counted, nothing twice."""

    def __init__(self, network: Any) -> None:
        self._weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
        self._storages: dict[int, Any] = {}  # kept alive: an address must not be used again
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)

    def add(self, given: Any) -> Any:
        if isinstance(given, Tensor) and given.untyped_storage()._cdata not in self._weights:
            self._storages[given.untyped_storage()._cdata] = given.untyped_storage()
        return given

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *about: Any) -> None:
        self._hooks.__exit__(*about)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps what fused kernels keep, and counts what they compute."""

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


# ---------------------------------------------------------------------------------------------- what a network is given
def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def _wan(preset: GpuPreset) -> dict[str, Any]:
    shape = preset.latent[1:]
    given = {
        "hidden_states": _empty(1, preset.config["in_channels"], *shape),
        "encoder_hidden_states": _empty(1, 512, 4096),
    }
    if preset.family is WanInPlace:
        return given | {"timestep": torch.empty(1, prod(shape) // 4)}
    return given | {"timestep": torch.empty(1), "encoder_hidden_states_image": _empty(1, 257, 1280)}


def _cogvideox(preset: GpuPreset) -> dict[str, Any]:
    channels, frames, height, width = preset.latent
    rotary = torch.empty(frames * height * width // 4, 64)
    return {
        "hidden_states": _empty(1, frames, 2 * channels, height, width), "encoder_hidden_states": _empty(1, 226, 4096),
        "timestep": torch.empty(1), "image_rotary_emb": (rotary, rotary),
    }  # fmt: skip


def _ltx(preset: GpuPreset) -> dict[str, Any]:
    channels, frames, height, width = preset.latent
    tokens = frames * height * width
    return {
        "hidden_states": _empty(1, tokens, channels), "encoder_hidden_states": _empty(1, 128, 4096),
        "timestep": torch.empty(1, tokens), "encoder_attention_mask": torch.empty(1, 128), "num_frames": frames,
        "height": height, "width": width,
    }  # fmt: skip


def _svd(preset: GpuPreset) -> dict[str, Any]:
    channels, frames, height, width = preset.latent
    return {
        "sample": _empty(1, frames, 2 * channels, height, width), "timestep": torch.empty(1),
        "encoder_hidden_states": _empty(1, 1, 1024), "added_time_ids": _empty(1, 3),
    }  # fmt: skip


_INPUTS: dict[type[Family], Callable[[GpuPreset], dict[str, Any]]] = {
    WanInPlace: _wan, WanByChannels: _wan, CogVideoX: _cogvideox, LTXVideo: _ltx, StableVideoDiffusion: _svd,
}  # fmt: skip
