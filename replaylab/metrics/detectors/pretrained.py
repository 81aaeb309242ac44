"""Any object detector of transformers, for agents in real video, in place of the shipped one.

    detector = load("PekingU/rtdetr_r50vd")  # or a folder: RT-DETR, RT-DETR v2, YOLOS, DETR, Conditional or Deformable DETR
    boxes = detector.detect(frames)          # as `centre_point.detect`: N arrays (K, 5), best score first
    tracks = pseudo_tracks(frames, detector)

Decision: a map from the model's class names to agents determines which detections count; all others are ignored. Frames are
processed by the model's own image processor, always in its PIL version, so that no number depends on torchvision. Of nearly
identical boxes, such as one query's car and truck, only the best is kept, as in the shipped detector.

It differs from the shipped detector in two ways that are unavoidable on real video: a box covers only the visible part of
the agent, and its accuracy is not known. Run `detector_ceiling` first.

Refused: unknown classes, other models, weights that are missing, truncated or pickled, code from the hub,
and a hub that cannot be reached (within seconds, with a remedy).

Shapes: N frames, H W pixels, K boxes in a frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.data.boxes import SAME_BOX_IOU, pairwise_iou
from replaylab.util import downloads, networks
from replaylab.util.checks import checked_images

AGENTS = {
    "car": "car", "truck": "truck", "bus": "bus", "motorcycle": "motorcycle", "motorbike": "motorcycle",
    "bicycle": "cyclist", "person": "pedestrian",
}  # fmt: skip
"""COCO's classes on roads, as kinds of agents; one of them is named motorbike in RT-DETR's checkpoints. In COCO a bicycle
and its rider have two boxes.
"""
FILES = ["*.json", "*.safetensors"]  # of a repository on the hub

Boxes = NDArray[np.float32]


class Detections(NamedTuple):
    """The agents detected in one frame, best score first."""

    boxes: Boxes  # (K, 5): x0 y0 x1 y1 in pixels, y down, and the score
    kinds: list[str]  # K kinds of agents


@dataclass(frozen=True, eq=False)
class ObjectDetector:
    """A loaded model, and those of its classes that are agents."""

    name: str
    network: Any
    processor: Any
    kinds: dict[int, str]  # by number of the class; classes that are not in it are ignored
    threshold: float  # least score of a box
    digest: str  # sixteen hex digits of weights, classes and threshold: what boxes depend on

    def detect(self, frames: ArrayLike, batch_size: int = 8) -> list[Boxes]:
        """The agents in every frame: uint8 (N, H, W, 3) of any height and width -> N float32 arrays (K, 5).

        x0 y0 x1 y1 in pixels of these frames, and the score, best first. ValueError for other frames.
        """
        return [each.boxes for each in self.detect_with_kinds(frames, batch_size)]

    def detect_with_kinds(self, frames: ArrayLike, batch_size: int = 8) -> list[Detections]:
        """`detect`, with the kind of each agent."""
        import torch

        images = checked_images(frames, "frames")
        device = next(self.network.parameters()).device
        detections: list[Detections] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # frames of one size need no padding, and boxes are then shares of the whole image
            inputs = self.processor(list(batch), do_pad=False, input_data_format="channels_last", return_tensors="pt")
            with torch.inference_mode():
                outputs = self.network(pixel_values=inputs["pixel_values"].to(device))
            results = self.processor.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=[images.shape[1:3]] * len(batch)
            )
            detections += [self._agents(result) for result in results]
        return detections

    def _agents(self, result: dict[str, Any]) -> Detections:
        scores, labels, boxes = (result[name].float().cpu().numpy() for name in ("scores", "labels", "boxes"))
        rows = np.concatenate([boxes.reshape(-1, 4), scores[:, None]], axis=1).astype(np.float32)
        chosen = np.flatnonzero(np.isin(labels, list(self.kinds)))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        kept: list[int] = []
        corners = boxes.reshape(-1, 4).astype(np.float64)
        for at in chosen:
            alike = pairwise_iou(corners[at], corners[kept])
            if not (alike > SAME_BOX_IOU).any():
                kept.append(int(at))
        return Detections(rows[kept], [self.kinds[int(labels[at])] for at in kept])


# ------------------------------------------------------------------------------------------------------------ loading
def load(name_or_folder: str | Path, agents: Mapping[str, str] | None = None, threshold: float = 0.5) -> ObjectDetector:
    """The detector in a folder in transformers' layout, or of that name on the Hugging Face hub, on this process's device.

    agents: the model's class name -> kind of agent; by default those of AGENTS that the model has. threshold: the minimum
    score of a box. Raises ValueError, FileNotFoundError or ConnectionError, with a remedy, for what the module refuses.
    """
    import torch
    from transformers import AutoModelForObjectDetection

    from replaylab.util import distributed

    if not 0 < threshold < 1:
        raise ValueError(f"threshold: {threshold!r}, expected a score between 0 and 1")
    folder = downloads.fetch(name_or_folder, _downloaded)
    config = _checked_config(folder)
    kinds = _kinds(config.id2label, agents, folder)
    network = networks.load(AutoModelForObjectDetection, folder, dtype=torch.float32, trust_remote_code=False)
    about = json.dumps([networks.digest(folder, (".",)), threshold, sorted(kinds.items())])
    return ObjectDetector(
        str(name_or_folder), network.to(distributed.this_rank().device), _processor(folder), kinds, float(threshold),
        hashlib.sha256(about.encode()).hexdigest()[:16],
    )  # fmt: skip


def agents_of(texts: Sequence[str]) -> dict[str, str]:
    """Class -> kind of agent, from texts such as "person=pedestrian"; raises ValueError that names the text."""
    found = {}
    for text in texts:
        name, sign, kind = text.rpartition("=")
        if not (name and sign and kind):
            raise ValueError(f"agents: {text!r}, expected CLASS=AGENT such as person=pedestrian")
        found[name] = kind
    return found


def _downloaded(name: str) -> Path:
    """The hub's current version, or the cached one if the hub does not respond."""
    from huggingface_hub import HfApi, snapshot_download

    try:  # one question with a time limit: `snapshot_download` by itself has none
        revision = HfApi().model_info(name, timeout=downloads.PATIENCE_S).sha
    except Exception:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))


def _checked_config(folder: Path) -> Any:
    """transformers' configuration of an object detector that can be built here."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as DETECTORS

    path = folder / "config.json"
    model_type = networks.read_json(folder, path.name).get("model_type")
    if model_type not in DETECTORS:
        raise ValueError(
            f"{path}: model_type {model_type!r} is no object detector of transformers (code that comes with a model is not "
            f"run); those are {', '.join(sorted(DETECTORS))}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # huggingface_hub's own, of a field of the wrong type
        raise ValueError(f"{path} cannot be read as a {model_type}: {error}") from error
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", None)
    if backbone == "timm_backbone" and find_spec("timm") is None:
        raise ValueError(
            f"{path}: its backbone is one of the library timm, which is not installed here (with it comes torchvision, for "
            "another torch). Take a checkpoint with transformers' own backbone: RT-DETR, YOLOS, or of DETR the revision "
            "no_timm (`hf download facebook/detr-resnet-50 --revision no_timm --local-dir detr-resnet-50`)"
        )
    return config


def _kinds(names: Mapping[int, str], agents: Mapping[str, str] | None, folder: Path) -> dict[int, str]:
    """Kind of agent by class number; a name may have several numbers."""
    known = sorted(set(names.values()))
    if agents is not None and not agents:
        raise ValueError(f"agents: no class at all; the model knows {_some(known)}")
    wanted = agents or {name: kind for name, kind in AGENTS.items() if name in known}
    if not wanted:
        raise ValueError(
            f"{folder}: the model knows none of {', '.join(AGENTS)}; it knows {_some(known)}. Say which of them are agents, "
            'such as agents={"Car": "car"}'
        )
    for name in wanted:
        if name not in known:
            lower = {each.lower(): each for each in known}
            near = [lower[each] for each in get_close_matches(name.lower(), lower, n=5, cutoff=0.5)]
            raise ValueError(
                f"agents: {folder} knows no class {name!r}; "
                + (f"the nearest are {', '.join(map(repr, near))}" if near else f"it knows {_some(known)}")
            )
    return {int(number): wanted[name] for number, name in names.items() if name in wanted}


def _some(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    names = ("preprocessor_config.json", "processor_config.json")
    networks.read_json(folder, *names)
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder / names[0]}: no image processor of transformers ({error})") from error
