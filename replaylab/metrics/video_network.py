"""The video network: features of clips of five frames, for distances between sets of videos that are sensitive to motion.

Decision: no published video network is shipped, so `video_network_training` trains a small one on exact labels of the
rendered worlds. It has two streams (Simonyan & Zisserman 2014, arXiv 1406.2199), the frames and their optical
flow (`optical_flow.flow`), because it did not learn motion from the frames alone; the joint layers are (2+1)D (Tran et al.
2018, arXiv 1711.11248): in space, then in time. A clip's features are the mean of the last layer's maps over frames and
image. It is not I3D: Fréchet distances of these features are not FVD, and are meaningless outside these worlds.

Clips are uint8 RGB (N, 5, 64, 64, 3), the frames after the context. Refused: arrays of another type or shape, and
weights that are not the ones their folder describes. Torch is loaded only when the network is.

Shapes: N clips, B clips of a batch, T = 5 frames, c = 4 cells per side of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.metrics import network_files, optical_flow
from replaylab.metrics.distances import Extractor
from replaylab.shipped_weights import WEIGHTS
from replaylab.util import networks
from replaylab.util.files import sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = WEIGHTS / "videonet"
REMEDY = "make it with `python -m replaylab pretrain videonet`"

FRAMES, SIZE_PX, CELLS = 5, 64, 4
WIDTHS = (32, 64, 96, 128)
"""Channels at strides 2, 4, 8 and 16; the last are the features."""
ORDERS = ("as filmed", "frozen", "shuffled", "reversed")
"""Orders of a clip's frames, which the network learns to classify."""
EGO_UNITS = np.array([0.5, 3.0, 0.1], np.float32)
"""Units of the network's outputs: sideways and ahead in m/s, yaw in rad/s."""
PIXELS_PER_OUTPUT = 2.0
FASTEST_PX = 16.0
"""Largest motion per frame given to the network: a box that leaves the image can jump by hundreds of pixels."""

Clips = NDArray[np.uint8]
Floats = NDArray[np.float32]


def extractor(folder: Path | None = None) -> Extractor:
    """The description of the features: of the shipped weights, or of those in a folder. Does not load torch.

    Raises FileNotFoundError, with the folder and a remedy.
    """
    folder = network_files.checked(SHIPPED if folder is None else folder, REMEDY)
    return Extractor(
        name="replaylab video network (rendered worlds)", layer="last convolution, averaged over frames and image",
        weights_sha256=sha256(folder / network_files.WEIGHTS_FILE), package="replaylab", resize="none",
        frame_size_px=SIZE_PX, dimensions=WIDTHS[-1], frames=FRAMES,
    )  # fmt: skip


def features(
    clips: ArrayLike, batch_size: int = 50, network: nn.ModuleDict | None = None, flows: Sequence[Floats] | None = None
) -> Floats:
    """Features of clips: uint8 (N, 5, 64, 64, 3) -> float32 (N, 128), by the shipped network or the given one.

    `flows`: each clip's optical flow (4, 64, 64, 2), if already known. ValueError for clips of another type or shape;
    errors of `load`.
    """
    import torch

    checked = checked_clips(clips, "clips")
    network = _shipped() if network is None else network
    made = np.empty((len(checked), WIDTHS[-1]), np.float32)
    with torch.inference_mode():
        for start in range(0, len(checked), batch_size):
            part = slice(start, start + batch_size)
            made[part] = pooled(maps_of(network, checked[part], None if flows is None else flows[part]).float()).numpy()
    return made


def load(folder: Path | None = None) -> nn.ModuleDict:
    """The network in a folder written by `video_network_training.fit`, or the one that ships with the package.

    Raises FileNotFoundError or ValueError, with the folder, the reason and a remedy.
    """
    folder = SHIPPED if folder is None else folder
    return network_files.load(
        folder, lambda config: new_network(len(config["kinds"])), "video network", REMEDY, is_checked=True
    )


@cache
def _shipped() -> nn.ModuleDict:
    return networks.without_batch_norm(load())


def checked_clips(clips: ArrayLike, name: str) -> Clips:
    """The clips; ValueError with the argument's `name` if their type or shape differs."""
    array = np.asarray(clips)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[1:] != (FRAMES, SIZE_PX, SIZE_PX, 3):
        raise ValueError(
            f"{name}: {array.dtype} {array.shape}, expected uint8 (N, {FRAMES}, {SIZE_PX}, {SIZE_PX}, 3): "
            f"the {FRAMES} frames after the context"
        )
    return array


# The network


def new_network(kinds: int) -> nn.ModuleDict:
    """Streams `looks` (appearance) and `motion`, joined in `both`, give maps (B, 128, T, c, c); heads: `cells` and `clip`.

    The initial weights come from torch's global stream.
    """
    import torch
    from torch import nn

    fine, middle, coarse, last = WIDTHS
    parts = {
        "looks": [*_in_space(3 * 2 * 2, fine), *_in_space(fine, middle, 2)],
        "motion": [*_in_space(2 * 2 * 2, fine), *_in_space(fine, middle, 2)],
        "both": [
            *_in_space(2 * middle, middle), *_in_time(middle),
            *_in_space(middle, coarse, 2), *_in_time(coarse), *_in_space(coarse, coarse), *_in_time(coarse),
            *_in_space(coarse, last, 2), *_in_time(last),
        ],
    }  # fmt: skip
    network = nn.ModuleDict({name: nn.Sequential(*layers) for name, layers in parts.items()})
    network["cells"] = nn.Conv3d(last, 3, 1)
    network["clip"] = nn.Linear(last, kinds + len(EGO_UNITS) + len(ORDERS))
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def maps_of(network: nn.ModuleDict, clips: Clips, flows: Sequence[Floats] | None = None) -> Tensor:
    """The last layer's maps of clips: uint8 (B, T, H, W, 3) -> (B, 128, T, c, c). `flows` as in `features`."""
    import torch

    flows = [optical_flow.flow(clip) for clip in clips] if flows is None else flows
    streams = [network["looks"](_folded(clips) / 127.5 - 1), network["motion"](_motion(np.stack(flows)))]
    return network["both"](torch.cat(streams, 1))


def _motion(flows: Floats) -> Tensor:
    """(B, T - 1, H, W, 2) -> (B, 8, T, H/2, W/2): displacement of each position since the previous frame, 0 in the first."""
    flows = np.pad(flows, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))).clip(-FASTEST_PX, FASTEST_PX)
    return _folded(flows) / PIXELS_PER_OUTPUT


def _in_space(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return _convolution(inputs, outputs, (1, 3, 3), stride)


def _in_time(channels: int) -> list[nn.Module]:
    return _convolution(channels, channels, (3, 1, 1))


def _convolution(inputs: int, outputs: int, size: tuple[int, int, int], stride: int = 1) -> list[nn.Module]:
    from torch import nn

    padding = (size[0] // 2, size[1] // 2, size[2] // 2)
    return [nn.Conv3d(inputs, outputs, size, (1, stride, stride), padding, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]


def _folded(values: NDArray[Any]) -> Tensor:
    """(B, T, H, W, c) -> float (B, 4 c, T, H/2, W/2): 2x2 pixels folded into channels, laid out channels last."""
    import torch

    b, t, h, w, c = values.shape
    pixels = torch.from_numpy(np.ascontiguousarray(values)).view(b, t, h // 2, 2, w // 2, 2, c)
    return pixels.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // 2, w // 2, 4 * c).permute(0, 4, 1, 2, 3).float()


def pooled(maps: Tensor) -> Tensor:
    """Means (B, 128) of maps over frames and image."""
    return maps.mean((2, 3, 4))
