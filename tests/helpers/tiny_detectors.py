"""Object detectors of transformers in miniature: random weights, the real classes, in their own folder layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from replaylab.metrics.detectors.pretrained import ObjectDetector

HEIGHT, WIDTH = 38, 61
CLASSES = ("car", "person", "dog", "truck")


def _resnet(*stages: str) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=list(stages)
    )  # fmt: skip


def _detr(stages: tuple[str, ...] = ("stage4",), width: int = 16, decoder: int = 1) -> dict[str, Any]:
    return {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_config": _resnet(*stages),
        "d_model": width, "encoder_layers": 1, "decoder_layers": decoder, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12,
    }  # fmt: skip


def _rt_detr() -> dict[str, Any]:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return {
        "backbone_config": backbone, "encoder_hidden_dim": 16, "encoder_in_channels": [8, 16, 16],
        "decoder_in_channels": [16] * 3, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12,
        "decoder_n_points": 2, "num_denoising": 0,
    }  # fmt: skip


def _yolos() -> dict[str, Any]:
    return {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 12,
    }  # fmt: skip


SQUARE = {"size": {"height": 64, "width": 64}}
IN_PROPORTION = {"size": {"shortest_edge": 48, "longest_edge": 96}}
# transformers' name of the model's classes and its configuration; the image processor and its settings
TINY: dict[str, tuple[str, Callable[[], dict[str, Any]], str, dict[str, Any]]] = {
    "rt-detr": ("RTDetr", _rt_detr, "RTDetr", SQUARE),
    "rt-detr-v2": ("RTDetrV2", _rt_detr, "RTDetr", SQUARE),
    "yolos": ("Yolos", _yolos, "Yolos", IN_PROPORTION),
    "detr": ("Detr", _detr, "Detr", IN_PROPORTION),
    "conditional-detr": ("ConditionalDetr", _detr, "ConditionalDetr", IN_PROPORTION),
    "deformable-detr": (
        "DeformableDetr", lambda: _detr(("stage2", "stage3", "stage4"), 32, 2), "DeformableDetr", IN_PROPORTION,
    ),
}  # fmt: skip


def tiny_detector(name: str, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """A detector of random weights, wide enough that its queries see different things."""
    kind, told, processor, size = TINY[name]
    names = dict(enumerate(classes))
    config = getattr(transformers, f"{kind}Config")(**told(), id2label=names, label2id={v: k for k, v in names.items()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForObjectDetection")(config)
        for weights in model.parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights, std=0.4)
    model.save_pretrained(folder)
    getattr(transformers, f"{processor}ImageProcessorPil")(**size).save_pretrained(folder)
    return folder


class Fixed(torch.nn.Module):
    """A network that says the same of every frame: logits (Q, classes), boxes (Q, 4) as shares of the image."""

    def __init__(self, logits: list[list[float]], boxes: list[list[float]]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.logits, self.boxes = torch.tensor(logits), torch.tensor(boxes)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        n = len(pixel_values)
        return SimpleNamespace(logits=self.logits.expand(n, -1, -1), pred_boxes=self.boxes.expand(n, -1, -1))


def fixed(logits: list[list[float]], boxes: list[list[float]]) -> ObjectDetector:
    processor = transformers.RTDetrImageProcessorPil(**SQUARE)
    kinds = {0: "car", 1: "truck"}
    return ObjectDetector("fixed", Fixed(logits, boxes), processor, kinds, 0.3, "")


def some_frames(n: int = 3, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
