"""Published feature extractors, if their weights are available locally: FID, FVD, VideoMAE and V-JEPA 2.

Decision: a loaded network is a function from clips, uint8 RGB (N, T, H, W, 3), to float32 features, with the `Extractor`
that describes it in distances. Weights are local files: nothing is downloaded, unpickled or left at its random
initialisation, and the file of another network is rejected when it is loaded.

Inception and I3D resize internally, as in the implementations whose published values they reproduce. Frames for the
transformers are resized to squares by one kernel (RESIZE); as in cd-fvd, the whole frame is used and nothing is cropped.

A TorchScript file is a program: if its SHA-256 differs from the published one, it is run only with explicit permission.

Refused: files that are missing, truncated, of another network or of unknown origin, and clips whose length differs from
that for which a network was opened. Frames are never repeated, interpolated or dropped to adapt the length.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from replaylab.metrics.distances import Extractor
from replaylab.util import distributed, networks, reading
from replaylab.util.files import sha256
from replaylab.util.progress import report

RESIZE = "bicubic, antialiased"
"""torch's `interpolate(mode="bicubic", antialias=True)`: Pillow's bicubic, without rounding in between."""
CLIPS_AT_A_TIME = 8
FRAMES_AT_A_TIME = 64
I3D_LEAST_FRAMES = 10
"""Time is halved three times and then averaged in pairs; fewer frames leave no pair."""
PUBLISHED = {
    "Inception v3 (FID)": "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "I3D (Kinetics-400)": "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
}
"""SHA-256 of inception-2015-12-05.pt (which k-diffusion compares, too) and of i3d_torchscript.pt."""
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class FeatureNetwork:
    """A loaded network: `features` takes uint8 (N, T, H, W, 3).

    It returns float32 (N, d) if a vector describes a clip, of `extractor.frames` frames, and (N, T, d) if it describes one
    frame (`extractor.frames` is 1). ValueError for clips of another type, shape or length.
    """

    extractor: Extractor
    features: Callable[[ArrayLike], NDArray[np.float32]]


def inception(path: str | Path, allow_unknown: bool = False) -> FeatureNetwork:
    """FID's network (Heusel et al. 2017): `inception-2015-12-05.pt`, TorchScript as distributed by NVIDIA.

    From nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics. Called as in metrics/metric_utils.py of
    NVlabs/stylegan2-ada-pytorch: uint8 RGB (N, 3, H, W), `return_features=True`; it resizes to 299 x 299 and scales
    internally. 2048 features per frame. `allow_unknown`: also run a file that is not the published one. FileNotFoundError or
    ValueError names the file and the reason.
    """
    return _torchscript(
        Path(path), "Inception v3 (FID)", "last pooling", 299, 2048, 1,
        lambda program, batch: program(batch.permute(0, 3, 1, 2).contiguous(), return_features=True), allow_unknown,
    )  # fmt: skip


def i3d(path: str | Path, frames: int = 16, allow_unknown: bool = False) -> FeatureNetwork:
    """FVD's network (Unterthiner et al. 2018): `i3d_torchscript.pt`, StyleGAN-V's port of the one on TensorFlow Hub.

    Called as in src/metrics of universome/stylegan-v: uint8 RGB (N, 3, T, H, W), `rescale=True` (0..255 to -1..1),
    `resize=True` (to 224 x 224), `return_features=True`: the 400 logits of Kinetics-400 per clip. Errors as in
    `inception`, and ValueError for fewer than I3D_LEAST_FRAMES frames.
    """
    if frames < I3D_LEAST_FRAMES:
        raise ValueError(
            f"i3d: {frames} frames, at least {I3D_LEAST_FRAMES} are needed; give longer clips (frames are never repeated)"
        )
    return _torchscript(
        Path(path), "I3D (Kinetics-400)", "logits", 224, 400, frames,
        lambda program, batch: program(
            batch.permute(0, 4, 1, 2, 3).contiguous(), rescale=True, resize=True, return_features=True
        ), allow_unknown,
    )  # fmt: skip


def videomae(folder: str | Path) -> FeatureNetwork:
    """VideoMAE in transformers' layout, such as MCG-NJU/videomae-base-finetuned-ssv2: for content-debiased FVD.

    Ge et al. 2024 use the input of the classifier of a model fine-tuned on Something-Something v2: the mean over tokens,
    then its norm. The same is used here for a VideoMAEForVideoClassification; any other VideoMAE gives the mean of its last
    hidden states. The original is VideoMAE v2's ViT-g with frames in 0..1: with other weights, scaled by their
    preprocessor, values are not comparable with published ones. A clip has the model's own `num_frames`, mostly 16.
    FileNotFoundError or ValueError names the folder and the reason.
    """
    from transformers import VideoMAEForVideoClassification, VideoMAEModel

    folder = Path(folder)
    config = _config(folder, "videomae", "VideoMAEForVideoClassification", "VideoMAEModel")
    classifies = "VideoMAEForVideoClassification" in (config.get("architectures") or [])
    model = _loaded(VideoMAEForVideoClassification if classifies else VideoMAEModel, folder)
    encoder = model.videomae if classifies else model
    norm = model.fc_norm if classifies and model.fc_norm is not None else torch.nn.Identity()
    layer = "last hidden states, mean over tokens" + (", fc_norm" if classifies else "")
    settings = encoder.config
    return _transformer(
        folder, "VideoMAE", layer, settings.image_size, settings.num_frames, settings.hidden_size,
        lambda pixels: norm(encoder(pixels).last_hidden_state.mean(1)),
    )  # fmt: skip


def vjepa2(folder: str | Path, frames: int = 16) -> FeatureNetwork:
    """The encoder of V-JEPA 2 in transformers' layout, such as facebook/vjepa2-vitl-fpc64-256: mean over tokens.

    With `distances.kernel_distance` this is similar to JEDi (Luo et al. 2024) but not the same: JEDi uses V-JEPA's ViT-H,
    an attentive probe instead of the mean, and the biased estimate of a kernel of degree 2. Any whole number of tubelets is
    allowed (positions are rotary). Errors as in `videomae`, and ValueError for another number of frames.
    """
    from transformers import VJEPA2Model

    folder = Path(folder)
    _config(folder, "vjepa2", "VJEPA2Model", "VJEPA2ForVideoClassification")
    model = _loaded(VJEPA2Model, folder, unused=("predictor.",))
    settings = model.config
    if frames < 1 or frames % settings.tubelet_size:
        raise ValueError(
            f"{folder}: {frames} frames, but the model takes a multiple of {settings.tubelet_size} (config.json: "
            "tubelet_size); cut the clips to one"
        )
    return _transformer(
        folder, "V-JEPA 2", "encoder's last hidden states, mean over tokens", settings.crop_size, frames,
        settings.hidden_size, lambda pixels: model.get_vision_features(pixels).mean(1),
    )  # fmt: skip


def _network(extractor: Extractor, forward: Callable[[Tensor], Any]) -> FeatureNetwork:
    """`forward` takes uint8 (N, H, W, 3) on the device if a vector describes one frame, else (N, T, H, W, 3)."""

    def features(clips: ArrayLike) -> NDArray[np.float32]:
        array = np.asarray(clips)
        if array.dtype != np.uint8 or array.ndim != 5 or array.shape[4] != 3 or 0 in array.shape[1:]:
            raise ValueError(f"clips: {array.dtype} {array.shape}, expected uint8 (N, T, H, W, 3)")
        of_a_frame = extractor.frames == 1
        if not of_a_frame and array.shape[1] != extractor.frames:
            raise ValueError(
                f"clips: {array.shape[1]} frames, {extractor.name} was opened for {extractor.frames}; give clips of that "
                "length (frames are never repeated)"
            )
        shape = array.shape[: 2 if of_a_frame else 1]
        units = array.reshape(-1, *array.shape[len(shape) :])
        size = FRAMES_AT_A_TIME if of_a_frame else CLIPS_AT_A_TIME
        made = np.empty((len(units), extractor.dimensions), np.float32)
        with torch.inference_mode():
            for start in range(0, len(units), size):
                batch = torch.from_numpy(np.ascontiguousarray(units[start : start + size]))
                vectors = forward(batch.to(distributed.this_rank().device)).float().cpu().numpy()
                if vectors.shape != (len(batch), extractor.dimensions):
                    raise ValueError(f"gave {vectors.shape}, not {(len(batch), extractor.dimensions)}")
                made[start : start + size] = vectors
        return made.reshape(*shape, extractor.dimensions)

    return FeatureNetwork(extractor, features)


# --------------------------------------------------------------------------------------------------------- TorchScript
def _torchscript(
    path: Path, name: str, layer: str, size: int, dimensions: int, frames: int, call: Callable[[Any, Tensor], Any],
    allow_unknown: bool,
) -> FeatureNetwork:  # fmt: skip
    """The program in a file, loaded by torch.jit.load without unpickling; `call` applies it to a batch, first to zeros."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {name} is expected there, and nothing is downloaded here")
    with reading.named(path, "whole TorchScript file", f"download {name} again"):
        digest = sha256(path)
    if digest != PUBLISHED[name]:
        about = f"{path} is not the published {name}: its SHA-256 is {digest}, that one's {PUBLISHED[name]}"
        if not allow_unknown:
            raise ValueError(
                f"{about}. A TorchScript file is a program, and this one may be anybody's: download it again, or, if you "
                "know where it is from, allow it (--allow-unknown-programs, allow_unknown=True)"
            )
        report(f"warning: {about}; it is run, because that was allowed")
    with warnings.catch_warnings():  # deprecated, but what these weights are given out as
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        try:
            program = torch.jit.load(str(path), map_location=distributed.this_rank().device).eval()
        except Exception as error:  # of TorchScript, or of the zip file that it should be
            why = f"{path} is no TorchScript file, or not all of it ({_reason(error)}); download {name} again"
            raise ValueError(why) from error
    network = _network(
        Extractor(name, layer, digest, path.name, "bilinear, by the network", size, dimensions, frames),
        lambda batch: call(program, batch),
    )
    try:
        network.features(np.zeros((1, frames, 32, 32, 3), np.uint8))
    except (ValueError, RuntimeError, AttributeError, torch.jit.Error) as error:
        raise ValueError(f"{path}: another network than {name} ({_reason(error)})") from error
    return network


# -------------------------------------------------------------------------------------------------------- transformers
def _config(folder: Path, model_type: str, *classes: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder here, and nothing is downloaded: where there is a network, "
            f"`hf download REPOSITORY --local-dir FOLDER` (accept a gated one's licence on its page and `hf auth login` "
            "before); offline, copy that folder over; then give its path"
        )
    config = networks.read_json(folder, "config.json")
    if config.get("model_type") != model_type:
        raise ValueError(
            f"{folder / 'config.json'}: a {', '.join(config.get('architectures') or ['model'])} of type "
            f"{config.get('model_type')!r}, expected {' or '.join(classes)} of type {model_type!r}"
        )
    return config


def _loaded(kind: Any, folder: Path, unused: tuple[str, ...] = ()) -> Any:
    return networks.load(kind, folder, unused, dtype=torch.float32).to(distributed.this_rank().device)


def _transformer(
    folder: Path, name: str, layer: str, size: int, frames: int, dimensions: int, forward: Callable[[Tensor], Any]
) -> FeatureNetwork:  # fmt: skip
    """Clips -> squares, scaled by the folder's preprocessor -> `forward`, on float (N, T, 3, size, size)."""
    import transformers

    preprocessor = networks.read_json(folder, *PREPROCESSORS)
    if not {"image_mean", "image_std"} <= preprocessor.keys():
        raise ValueError(f"{folder}: the preprocessor's JSON has no image_mean or no image_std; copy it again")
    mean, std = (
        torch.tensor(preprocessor[key], dtype=torch.float32, device=distributed.this_rank().device).view(3, 1, 1)
        for key in ("image_mean", "image_std")
    )

    def of_clips(batch: Tensor) -> Any:
        images = batch.flatten(0, 1).permute(0, 3, 1, 2).float()
        if images.shape[2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 255)
        return forward(((images / 255 - mean) / std).unflatten(0, batch.shape[:2]))

    return _network(
        Extractor(f"{name} ({folder.resolve().name})", layer, _digest(folder),
                  f"transformers {transformers.__version__}", RESIZE, size, dimensions, frames),
        of_clips,
    )  # fmt: skip


def _digest(folder: Path) -> str:
    """SHA-256 of the weights' file; for several files, of their digests in the order of their names."""
    digests = [sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """The last line of the error, where TorchScript states the reason, truncated."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"])[-1][:200]
