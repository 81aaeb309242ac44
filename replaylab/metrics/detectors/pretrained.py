"""Where are the agents in real video? Any object detector of transformers, in place of the shipped one.

    detector = load("PekingU/rtdetr_r50vd")  # or a folder: RT-DETR, RT-DETR v2, YOLOS, DETR, Conditional or Deformable DETR
    boxes = detector.find(frames)            # as `detector.find` of the shipped one: N arrays (K, 5), best score first
    tracks = pseudo_tracks(frames, detector)

Decision: a map from the model's class names to agents says what counts, and all else is not seen. Frames go through the
model's own image processor, in its PIL version whatever is installed, so that no number hangs on torchvision. Of boxes
that are all but the same, one query's car and truck, only the best is kept, as the shipped detector does.

Two things differ from the shipped detector, and real video cannot have them otherwise: a box ends where the agent can no
longer be seen, and nothing says how right it is. `ceiling` is what has to be looked at first.

Refused: classes the model does not know, other models, weights that are missing, cut short or pickled, code from the hub,
and a hub that is out of reach (within PATIENCE_S, with what to do).

Letters: N frames, H W pixels, K boxes in a frame.
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
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from replaylab.data.boxes import centres, is_eligible, pairwise_iou
from replaylab.data.domain import TRACK_COLUMNS
from replaylab.metrics import dynamics

AGENTS = {
    "car": "car", "truck": "truck", "bus": "bus", "motorcycle": "motorcycle", "motorbike": "motorcycle",
    "bicycle": "cyclist", "person": "pedestrian",
}  # fmt: skip
"""COCO's classes on roads, as kinds of agents; RT-DETR's checkpoints call one of them motorbike. COCO draws a bicycle and
who rides it as two boxes.
"""
PATIENCE_S = 10.0
FILES = ["*.json", "*.safetensors"]  # of a repository on the hub
SAME_BOX_IOU = 0.7  # as in `detector`, which imports torch

FOLLOWED_SHARE = 10 / 64  # of the image's height: who went further from one frame to the next is not known again
MOST_MISSED = 1  # frames in a row, between which an agent is still the same
LEAST_FOUND = 3  # frames: what was found in fewer may not have been there

Boxes = NDArray[np.float32]


class Found(NamedTuple):
    """What was found in one frame, best score first."""

    boxes: Boxes
    """(K, 5): x0 y0 x1 y1 in pixels, y down, and the score"""
    kinds: list[str]
    """K kinds of agents"""


@dataclass(frozen=True, eq=False)
class ObjectDetector:
    """A loaded model, and which of its classes are agents."""

    name: str
    network: Any
    processor: Any
    kinds: dict[int, str]
    """by number of the class; classes that are not in it are not seen"""
    threshold: float
    """least score of a box"""
    digest: str
    """sixteen hex digits of weights, classes and threshold: what boxes depend on"""

    def find(self, frames: ArrayLike, batch_size: int = 8) -> list[Boxes]:
        """The agents in every frame: uint8 (N, H, W, 3) of any height and width -> N float32 arrays (K, 5).

        x0 y0 x1 y1 in pixels of these frames, and the score, best first: what `detector.find` gives, but for what the module
        says. ValueError for other frames.
        """
        return [found.boxes for found in self.look(frames, batch_size)]

    def find_in_clips(self, clips: ArrayLike) -> list[list[Boxes]]:
        """`find` in clips (N, T, H, W, 3) of one length: N x T."""
        array = np.asarray(clips)
        found = iter(self.find(array.reshape(-1, *array.shape[2:])))
        return [[next(found) for _ in range(array.shape[1])] for _ in range(array.shape[0])]

    def look(self, frames: ArrayLike, batch_size: int = 8) -> list[Found]:
        """`find`, with the kind of each agent."""
        import torch

        images = _frames(frames)
        device = next(self.network.parameters()).device
        seen: list[Found] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            # frames of one size need no padding, and boxes are then shares of the whole image
            inputs = self.processor(list(batch), do_pad=False, input_data_format="channels_last", return_tensors="pt")
            with torch.inference_mode():
                outputs = self.network(pixel_values=inputs["pixel_values"].to(device))
            results = self.processor.post_process_object_detection(
                outputs, threshold=self.threshold, target_sizes=[images.shape[1:3]] * len(batch)
            )
            seen += [self._agents(result) for result in results]
        return seen

    def _agents(self, result: dict[str, Any]) -> Found:
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
        return Found(rows[kept], [self.kinds[int(labels[at])] for at in kept])


# ------------------------------------------------------------------------------------------------------------ loading
def load(name_or_folder: str | Path, agents: Mapping[str, str] | None = None, threshold: float = 0.5) -> ObjectDetector:
    """The detector in a folder in transformers' layout, or of that name on the Hugging Face hub, on this process's device.

    agents: the model's class name -> kind of agent; by default those of AGENTS that the model has. threshold: the least
    score of a box. Raises ValueError, FileNotFoundError or ConnectionError, with what to do, for what the module refuses.
    """
    from transformers import AutoModelForObjectDetection

    from replaylab.util import distributed, downloads, networks

    if not 0 < threshold < 1:
        raise ValueError(f"threshold: {threshold!r}, expected a score between 0 and 1")
    folder = downloads.fetch(name_or_folder, _downloaded)
    config = _checked_config(folder)
    kinds = _kinds(config.id2label, agents, folder)
    network = networks.load(AutoModelForObjectDetection, folder, **_float32())
    about = json.dumps([networks.digest(folder, (".",)), threshold, sorted(kinds.items())])
    return ObjectDetector(
        str(name_or_folder), network.to(distributed.this_rank().device), _processor(folder), kinds, float(threshold),
        hashlib.sha256(about.encode()).hexdigest()[:16],
    )  # fmt: skip


def agents_of(texts: Sequence[str]) -> dict[str, str]:
    """Class -> kind of agent, of texts such as "person=pedestrian"; raises ValueError that names the text."""
    found = {}
    for text in texts:
        name, sign, kind = text.rpartition("=")
        if not (name and sign and kind):
            raise ValueError(f"agents: {text!r}, expected CLASS=AGENT such as person=pedestrian")
        found[name] = kind
    return found


def _float32() -> dict[str, Any]:
    import torch

    return {"dtype": torch.float32, "trust_remote_code": False}


def _downloaded(name: str) -> Path:
    """What the hub has now; where it does not answer, what the cache has."""
    from huggingface_hub import HfApi, snapshot_download

    try:  # one question with a time limit: `snapshot_download` by itself has none
        revision = HfApi().model_info(name, timeout=PATIENCE_S).sha
    except Exception:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))


def _checked_config(folder: Path) -> Any:
    """transformers' configuration of an object detector that can be built here."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES as DETECTORS

    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is no folder in transformers' layout (config.json, preprocessor_config.json, "
            "model.safetensors)"
        )
    try:
        model_type = json.loads(path.read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no JSON object ({error}): copy or download it again") from error
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
    """Kind of agent by number of the class; a name may stand for several numbers."""
    known = sorted(set(names.values()))
    if agents is None:
        wanted = {name: kind for name, kind in AGENTS.items() if name in known}
        if not wanted:
            raise ValueError(
                f"{folder}: the model knows none of {', '.join(AGENTS)}; it knows {_some(known)}. Say which of them are "
                'agents, such as agents={"Car": "car"}'
            )
    else:
        wanted = dict(agents)
        if not wanted:
            raise ValueError(f"agents: no class at all; the model knows {_some(known)}")
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
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"{folder / names[0]} is missing; it comes with the weights: copy it too")
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder / names[0]}: no image processor of transformers ({error})") from error


def _frames(frames: ArrayLike) -> NDArray[np.uint8]:
    images = np.asarray(frames)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"frames: {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)")
    return images


# -------------------------------------------------------------------------------------------------------- pseudo-truth
def pseudo_tracks(frames: ArrayLike, detector: ObjectDetector) -> list[pd.DataFrame]:
    """Tracks of what a detector finds in the real frames (T, H, W, 3) of one clip: a stand-in for the truth, not the truth.

    T tables, one a frame, with the columns of `domain.TRACK_COLUMNS` and a row an agent, so that `dynamics` can score a
    generated video against its real one. `tracks_of` says how they are made. What they cannot see:

    - an agent that the detector never finds: a model that lets it vanish is not charged for it, and one that keeps it is
      charged a false positive if it is then found;
    - an error that the detector makes in real and generated frames alike. It cancels out, so errors come out too small;
    - the covered part of an agent, and what lies beyond the edge of the image: boxes end where it can no longer be seen, and
      their centres are not those of whole agents;
    - who is who: agents that pass each other closely may change numbers. ADE and recall, matched frame by frame, do not
      look at numbers; displacements and vanishing do;
    - where things stand on the ground, and their heading (NaN);
    - what could be known: an agent that comes into view after the context counts, though no model could foresee it.
    """
    images = _frames(frames)
    return tracks_of(detector.look(images), *images.shape[1:3])


def tracks_of(found: Sequence[Found], height_px: int, width_px: int) -> list[pd.DataFrame]:
    """Tracks of the agents found in each of T frames of one clip: a table a frame, columns `domain.TRACK_COLUMNS`.

    An agent's box is expected where its centre's last velocity takes it, and one-to-one matching (`dynamics.match`, within
    FOLLOWED_SHARE of the height) says which box it has. It may be missed in MOST_MISSED frames in a row; there it gets a
    box on the line between, of visible 0, that counts for nothing: neither a miss nor a false positive. So does what was
    found in fewer than LEAST_FOUND frames (all, if there are fewer). Otherwise `eligible` is `dynamics.is_eligible`, at the
    image's height, and `visible` the share of the box in the image: what covers an agent is not known. The kind is the one
    that most of the agent's boxes have.
    """
    tracks: list[_Track] = []
    for frame, (boxes, kinds) in enumerate(found):
        followed = [track for track in tracks if frame - track.frames[-1] <= 1 + MOST_MISSED]
        expected = np.array([track.expected(frame) for track in followed]).reshape(-1, 4)
        rows, columns, _ = dynamics.match(expected, boxes, FOLLOWED_SHARE * height_px)
        whose = {int(column): followed[row] for row, column in zip(rows, columns, strict=True)}
        for number, kind in enumerate(kinds):
            track = whose.get(number)
            if track is None:
                track = _Track([], [], [])
                tracks.append(track)
            track.frames.append(frame)
            track.boxes.append(np.asarray(boxes[number, :4], dtype=np.float64))
            track.kinds.append(kind)
    least = min(LEAST_FOUND, len(found))
    parts = [track.rows(least, height_px, width_px).assign(agent=n) for n, track in enumerate(tracks)]
    table = pd.concat([_NOTHING, *parts], ignore_index=True) if parts else _NOTHING
    return [table[table["frame"] == frame] for frame in range(len(found))]


_SIDES = ["x0", "y0", "x1", "y1"]
_TYPES = {"video": str, "frame": int, "agent": int, "kind": str, "eligible": bool}
_NOTHING = pd.DataFrame({name: pd.Series(dtype=_TYPES.get(name, float)) for name in TRACK_COLUMNS})


@dataclass(frozen=True)
class _Track:
    """Where an agent was found."""

    frames: list[int]
    boxes: list[NDArray[np.float64]]
    kinds: list[str]

    def expected(self, frame: int) -> NDArray[np.float64]:
        """Its last box, moved on as it moved last."""
        if len(self.frames) < 2:
            return self.boxes[-1]
        then, last = centres(np.stack(self.boxes[-2:]))
        speed = (last - then) / (self.frames[-1] - self.frames[-2])
        return self.boxes[-1] + np.tile(speed * (frame - self.frames[-1]), 2)

    def rows(self, least: int, height_px: int, width_px: int) -> pd.DataFrame:
        """Of every frame from the first to the last."""
        frames, known = np.arange(self.frames[0], self.frames[-1] + 1), np.stack(self.boxes)
        boxes = np.stack([np.interp(frames, self.frames, side) for side in known.T], axis=1)
        visible = np.where(np.isin(frames, self.frames), _share_inside(boxes, height_px, width_px), 0.0)
        eligible = is_eligible(boxes, visible, height_px) & (len(self.frames) >= least)
        kind = max(self.kinds, key=self.kinds.count)
        unknown = dict.fromkeys(("x_m", "y_m", "heading_rad", "road_m"), np.nan)
        return pd.DataFrame(boxes, columns=_SIDES).assign(
            video="", frame=frames, kind=kind, visible=visible, eligible=eligible, **unknown
        )


def _share_inside(boxes: NDArray[np.float64], height_px: int, width_px: int) -> NDArray[np.float64]:
    """Share (n,) of the area of boxes (n, 4) that lies in the image; 0 of those without an area."""
    edges = np.array([width_px, height_px])
    inside = np.clip(boxes[:, 2:], 0, edges) - np.clip(boxes[:, :2], 0, edges)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.divide(inside.prod(1), area, out=np.zeros(len(boxes)), where=area > 0).clip(0, 1)
