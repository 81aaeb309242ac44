"""How far apart are two sets of videos, motion included? Features of clips of five frames, from a network of our own.

The decision: nobody's video network can be loaded here, so a small one is taught what the rendered worlds know exactly
and what only motion tells: which world and event a clip shows; where agents are, on a coarse grid, and how far each
came since the frame before; how the camera moves; and whether the frames come as filmed, frozen, shuffled or reversed.
It has two streams (Simonyan & Zisserman 2014, arXiv 1406.2199), the frames and their optical flow (`motion.flow`),
because it did not find motion in the frames alone; joined, layers are (2+1)D (Tran et al. 2018, arXiv 1711.11248): in
space, then in time. A clip's features are the mean of the
last layer's maps over frames and image; every label of a whole clip is read from them by one linear layer, so that
motion has to be in them. It is not I3D: Fréchet distances of these features are not FVD, and mean nothing outside
these worlds.

Clips are uint8 RGB (N, 5, 64, 64, 3), the frames after the context. Refused: arrays of another type or shape, and
weights that are not the ones their folder describes. Torch is loaded only when the network is.

Letters: N clips, B of a batch, V videos, F frames of one, T = 5, c = 4 cells a side of the grid.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaylab.data.domain import Domain
from replaylab.data.video import decode
from replaylab.metrics import optical_flow
from replaylab.metrics.distances import Extractor, frechet_distance, kernel_distance
from replaylab.spec import WEIGHTS, generator, torch_seed
from replaylab.util.files import sha256, write_folder
from replaylab.util.progress import report, track

if TYPE_CHECKING:
    from torch import Tensor, nn

SHIPPED = WEIGHTS / "videonet"
FILES = {"model.safetensors", "config.json", "README.md"}
REMEDY = "make it with `python -m replaylab pretrain videonet`"

FRAMES, SIZE_PX, CELLS = 5, 64, 4
WIDTHS = (32, 64, 96, 128)
"""Channels at strides 2, 4, 8 and 16; the last are the features."""
ORDERS = ("as filmed", "frozen", "shuffled", "reversed")
ORDER_SHARES = (0.7, 0.1, 0.1, 0.1)
IN_ORDER = tuple(range(FRAMES))
SHUFFLES = np.array([p for p in permutations(IN_ORDER) if p not in (IN_ORDER, IN_ORDER[::-1])])
# What becomes of a known motion in each of ORDERS; NaN: not known. Reversed agents are in other cells than was noted.
AGENTS_GO = np.array([1, 0, np.nan, np.nan], np.float32)
EGO_GOES = np.array([1, 0, np.nan, -1], np.float32)

EGO_UNITS = np.array([0.5, 3.0, 0.1], np.float32)
"""Sideways and ahead in m/s, yaw in rad/s: the size that is one for the network."""
PIXELS_PER_OUTPUT = 2.0
FASTEST_PX = 16.0
"""Of a frame, for training: a box that leaves the image can jump by hundreds."""
NO_KIND = -100  # what torch's cross-entropy leaves out

Clips = NDArray[np.uint8]
Floats = NDArray[np.float32]


# Using it


def extractor(folder: Path | None = None) -> Extractor:
    """What the features are of: the shipped weights, or those in a folder that `fit` wrote. Does not load torch.

    Raises FileNotFoundError, with the folder and what to do.
    """
    folder = _there(SHIPPED if folder is None else folder)
    return Extractor(
        name="replaylab video network (rendered worlds)",
        layer="last convolution, averaged over frames and image",
        weights_sha256=sha256(folder / "model.safetensors"),
        package="replaylab",
        resize="none",
        frame_size_px=SIZE_PX,
        dimensions=WIDTHS[-1],
        frames=FRAMES,
    )


def features(clips: ArrayLike, batch_size: int = 50, network: nn.ModuleDict | None = None) -> Floats:
    """Features of clips: uint8 (N, 5, 64, 64, 3) -> float32 (N, 128), by the shipped network or the one given.

    ValueError if the clips are of another type or shape; errors of `load`.
    """
    import torch

    checked = _clips(clips, "clips")
    network = _shipped() if network is None else network
    made = np.empty((len(checked), WIDTHS[-1]), np.float32)
    with torch.inference_mode():
        for start in range(0, len(checked), batch_size):
            maps = _maps(network, checked[start : start + batch_size])
            made[start : start + batch_size] = _pooled(maps).numpy()
    return made


def load(folder: Path | None = None) -> nn.ModuleDict:
    """The network in a folder written by `fit`, or the one that ships with the package, ready to use.

    Raises FileNotFoundError or ValueError, with the folder, what is wrong with it and what to do.
    """
    from safetensors.torch import load_file

    folder = _there(SHIPPED if folder is None else folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        digest = sha256(folder / "model.safetensors")
        if digest != config["weights_sha256"]:
            raise ValueError(f"model.safetensors has sha256 {digest}, not {config['weights_sha256']}")
        network = new_network(len(config["kinds"]))
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:
        raise ValueError(f"{folder}: not a video network of this version ({error}); {REMEDY}") from error
    return _ready(network)


@cache
def _shipped() -> nn.ModuleDict:
    return load()


def _there(folder: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; {REMEDY}")
    return folder


def _clips(clips: ArrayLike, name: str) -> Clips:
    array = np.asarray(clips)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[1:] != (FRAMES, SIZE_PX, SIZE_PX, 3):
        raise ValueError(
            f"{name}: {array.dtype} {array.shape}, expected uint8 (N, {FRAMES}, {SIZE_PX}, {SIZE_PX}, 3): "
            f"the {FRAMES} frames after the context"
        )
    return array


# The network


def new_network(kinds: int) -> nn.ModuleDict:
    """`looks` and `motion`, joined in `both`, make the maps (B, 128, T, c, c); the heads are `cells` and `clip`.

    Weights come from torch's global stream.
    """
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
    return _laid_out(network)


def _maps(network: nn.ModuleDict, clips: Clips) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, 128, T, c, c)."""
    import torch

    streams = [network["looks"](_pixels(clips)), network["motion"](_flows(clips))]
    return network["both"](torch.cat(streams, 1))


def _flows(clips: Clips) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, 8, T, H/2, W/2): where each place came from, 0 in the first frame."""
    flows = np.stack([optical_flow.flow(clip) for clip in clips])
    flows = np.pad(flows, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))).clip(-FASTEST_PX, FASTEST_PX)
    return _folded(flows) / PIXELS_PER_OUTPUT


def _in_space(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return _convolution(inputs, outputs, (1, 3, 3), stride)


def _in_time(channels: int) -> list[nn.Module]:
    return _convolution(channels, channels, (3, 1, 1))


def _convolution(inputs: int, outputs: int, size: tuple[int, int, int], stride: int = 1) -> list[nn.Module]:
    from torch import nn

    padding = (size[0] // 2, size[1] // 2, size[2] // 2)
    return [
        nn.Conv3d(inputs, outputs, size, (1, stride, stride), padding, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(),
    ]


def _laid_out(network: nn.ModuleDict) -> nn.ModuleDict:
    import torch

    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def _ready(network: nn.ModuleDict) -> nn.ModuleDict:
    return _laid_out(network).eval().requires_grad_(False)


def _pixels(clips: Clips) -> Tensor:
    """uint8 (B, T, H, W, 3) -> -1..1 (B, 12, T, H/2, W/2)."""
    return _folded(clips) / 127.5 - 1


def _folded(values: NDArray[Any]) -> Tensor:
    """(B, T, H, W, c) -> float (B, 4 c, T, H/2, W/2): 2x2 pixels folded into channels, laid out channels last."""
    import torch

    b, t, h, w, c = values.shape
    pixels = torch.from_numpy(np.ascontiguousarray(values)).view(b, t, h // 2, 2, w // 2, 2, c)
    return pixels.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // 2, w // 2, 4 * c).permute(0, 4, 1, 2, 3).float()


def _pooled(maps: Tensor) -> Tensor:
    return maps.mean((2, 3, 4))


# What it is taught


@dataclass(frozen=True)
class Known:
    """Videos and what is known of them."""

    frames: Clips  # (V, F, 64, 64, 3)
    domains: NDArray[np.str_]  # (V,)
    kinds: NDArray[np.str_]  # (V,) the domain and its event
    agents: Floats  # (V, F, c, c) 1 where the centre of an agent is that counts
    moved_px: Floats  # (V, F, 2, c, c) how far it came since the frame before; NaN: no agent, or not known
    ego: Floats  # (V, F, 3) since the frame before: sideways and ahead in m/s, yaw in rad/s; NaN in frame 0

    @classmethod
    def together(cls, parts: Sequence[Known]) -> Known:
        """One after the other."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(cls)]
        return cls(*map(np.concatenate, columns))


def known(domain: Domain, split: str, most: int) -> Known:
    """The first `most` videos of a split of a domain with truth; they must be equally long, of 64x64 pixels."""
    files = domain.split(split)["file"].iloc[:most]
    names = [file.removesuffix(".mp4") for file in files]
    frames = np.stack([
        decode(domain.folder / "videos" / file)
        for file in track(files, what=f"decoding {domain.name} {split}", unit="videos")
    ])  # fmt: skip
    ego = domain.ego[domain.ego["video"].isin(names)].sort_values(["video", "frame"]).set_index("video")
    agents, moved_px = _grids(domain, names, frames.shape[1])
    return Known(
        frames,
        np.full(len(names), domain.name),
        np.array([f"{domain.name}, {ego.loc[name, 'event'].iloc[0]}" for name in names]),
        agents,
        moved_px,
        np.stack([_rates(ego.loc[name], domain.frames_per_second) for name in names]),
    )


def _grids(domain: Domain, names: list[str], frames: int) -> tuple[Floats, Floats]:
    """`Known.agents` and `Known.moved_px`; of two agents in one cell the nearer (lower) one counts."""
    agents = np.zeros((len(names), frames, CELLS, CELLS), np.float32)
    moved = np.full((len(names), frames, 2, CELLS, CELLS), np.nan, np.float32)
    rows = domain.tracks[domain.tracks["video"].isin(names)].sort_values(["video", "agent", "frame"])
    centres = np.stack([rows["x0"] + rows["x1"], rows["y0"] + rows["y1"]], axis=1) / 2
    same = (rows["video"].eq(rows["video"].shift()) & rows["agent"].eq(rows["agent"].shift())
            & rows["frame"].eq(rows["frame"].shift() + 1)).to_numpy()  # fmt: skip
    came_px = np.full_like(centres, np.nan)
    came_px[1:] = np.where(same[1:, None], np.diff(centres, axis=0), np.nan)
    cells = np.clip(centres // (domain.size_px / CELLS), 0, CELLS - 1).astype(int)
    number = rows["video"].map({name: i for i, name in enumerate(names)}).to_numpy()
    at = (number, rows["frame"].to_numpy(), cells[:, 1], cells[:, 0])
    counted = rows["eligible"].to_numpy(bool)
    for i in np.argsort(rows["y1"].to_numpy(), kind="stable"):
        if counted[i]:
            video, frame, row, column = (int(axis[i]) for axis in at)
            agents[video, frame, row, column] = 1
            moved[video, frame, :, row, column] = came_px[i]
    return agents, moved


def _rates(ego: Any, frames_per_second: float) -> Floats:
    """(F, 3) of one video's rows: how fast the camera goes, in its own heading a frame before."""
    x, y, heading = ego[["x_m", "y_m", "heading_rad"]].to_numpy(float).T
    dx, dy, before = np.diff(x), np.diff(y), heading[:-1]
    steps = np.stack([dx * np.cos(before) + dy * np.sin(before), dy * np.cos(before) - dx * np.sin(before),
                      np.diff(heading)], axis=1)  # fmt: skip
    return np.concatenate([np.full((1, 3), np.nan), steps * frames_per_second]).astype(np.float32)


@dataclass(frozen=True)
class _Batch:
    clips: Clips  # (B, T, 64, 64, 3)
    kinds: NDArray[np.int64]  # (B,) NO_KIND unless as filmed
    agents: Floats  # (B, T, c, c)
    moved_px: Floats  # (B, T, 2, c, c)
    ego: Floats  # (B, 3)
    orders: NDArray[np.int64]  # (B,)


def _batch(
    videos: Known, kinds: Sequence[str], chosen: NDArray[np.int64], starts: NDArray[np.int64],
    orders: NDArray[np.int64], rng: np.random.Generator,
) -> _Batch:  # fmt: skip
    """Windows of the chosen videos (B,) from `starts` on, their frames in one of ORDERS, and what is true of them."""
    arranged = np.tile(IN_ORDER, (len(chosen), 1))
    frozen, shuffled, reverse = (orders == ORDERS.index(name) for name in ORDERS[1:])
    arranged[frozen] = rng.integers(0, FRAMES, (frozen.sum(), 1))
    arranged[shuffled] = SHUFFLES[rng.integers(0, len(SHUFFLES), shuffled.sum())]
    arranged[reverse] = IN_ORDER[::-1]
    shown = (chosen[:, None], starts[:, None] + arranged)
    moved = np.clip(videos.moved_px[shown], -FASTEST_PX, FASTEST_PX)
    moved[:, 0] = np.nan  # what came before is not shown
    ego = videos.ego[chosen[:, None], starts[:, None] + IN_ORDER[1:]].mean(1)
    number = {kind: i for i, kind in enumerate(kinds)}
    return _Batch(
        videos.frames[shown],
        np.where(orders == 0, [number[kind] for kind in videos.kinds[chosen]], NO_KIND),
        videos.agents[shown],
        moved * AGENTS_GO[orders][:, None, None, None, None],
        ego * EGO_GOES[orders][:, None],
        orders,
    )


@dataclass(frozen=True)
class _Said:
    kinds: Tensor  # logits
    agents: Tensor  # logits
    moved: Tensor  # in PIXELS_PER_OUTPUT
    ego: Tensor  # in EGO_UNITS
    orders: Tensor  # logits


def _answers(network: nn.ModuleDict, clips: Clips, kinds: int) -> _Said:
    maps = _maps(network, clips)
    cells = network["cells"](maps).transpose(1, 2)  # (B, T, 3, c, c)
    whole = network["clip"](_pooled(maps)).split([kinds, len(EGO_UNITS), len(ORDERS)], 1)
    return _Said(whole[0], cells[:, :, 0], cells[:, :, 1:], whole[1], whole[2])


def _loss(said: _Said, batch: _Batch) -> Tensor:
    """Each task's mean over what is known; the grid is mostly empty, so its logits weigh more."""
    from torch import from_numpy
    from torch.nn import functional

    return (
        functional.cross_entropy(said.kinds, from_numpy(batch.kinds), ignore_index=NO_KIND, reduction="sum")
        / max(1, int((batch.kinds != NO_KIND).sum()))
        + functional.cross_entropy(said.orders, from_numpy(batch.orders))
        + 4 * functional.binary_cross_entropy_with_logits(said.agents, from_numpy(batch.agents))
        + _distance(said.moved, batch.moved_px / np.float32(PIXELS_PER_OUTPUT))
        + _distance(said.ego, batch.ego / EGO_UNITS)
    )


def _distance(said: Tensor, true: Floats) -> Tensor:
    """Huber's, over what is known."""
    from torch import from_numpy
    from torch.nn import functional

    there = np.isfinite(true)
    apart = functional.smooth_l1_loss(said, from_numpy(np.where(there, true, 0)), reduction="none")
    return (apart * from_numpy(there)).sum() / max(1, int(there.sum()))


# Training it


def fit(
    videos: Known,
    held_out: Known,
    checks: Mapping[str, ArrayLike],
    *,
    seed: int,
    steps: int,
    folder: Path,
    data: str,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
) -> nn.ModuleDict:
    """Train a network and write it to `folder` (model.safetensors, config.json, README.md), whole or not at all.

    Domains fill a batch equally; which clips a step sees and in which order their frames come depends on (seed, step)
    only. For the card: `held_out` are videos of other scenes, `checks` real clips (N, 5, 64, 64, 3) by domain, each of
    one look and of scenes never trained on (see `responses`), and `data` says in a sentence what the videos are.
    Returns what was written. ValueError if the folder holds something else; FloatingPointError if the loss is not finite.
    """
    import torch

    started = time.monotonic()
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES):
        raise ValueError(f"{folder} exists and holds no video network; name another, it would be replaced")
    for name, clips in checks.items():
        _clips(clips, f"checks[{name!r}]")
    kinds = sorted(set(videos.kinds.tolist()))
    if unknown := sorted(set(held_out.kinds.tolist()) - set(kinds)):
        raise ValueError(f"held_out: {unknown[0]!r} is not among the kinds of the videos, {', '.join(kinds)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "new video network"))
        network = new_network(len(kinds))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    of_domain = [np.flatnonzero(videos.domains == name) for name in sorted(set(videos.domains.tolist()))]
    losses: list[float] = []
    for step in track(range(steps), what="training the video network", unit="steps"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps)
        batch = _drawn(videos, kinds, of_domain, batch_size, generator(seed, "video network batch", step))
        loss = _loss(_answers(network, batch.clips, len(kinds)), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"learning_rate: the loss is {losses[-1]} at {learning_rate}; try a lower one")
    _ready(network)
    facts = {
        "data": data, "videos": len(videos.frames), "held_out_videos": len(held_out.frames), "steps": steps,
        "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
        "seconds": round(time.monotonic() - started, 1), "last_loss": round(float(np.mean(losses[-50:])), 4),
        "quality": measure(network, held_out, kinds), "responses": responses(network, checks),
    }  # fmt: skip
    _write(network, kinds, facts, folder)
    report(f"video network: written to {folder}")
    return network


def _drawn(
    videos: Known, kinds: Sequence[str], of_domain: list[NDArray[np.int64]], batch_size: int, rng: np.random.Generator
) -> _Batch:
    domains = rng.integers(0, len(of_domain), batch_size)
    chosen = np.array([rng.choice(of_domain[domain]) for domain in domains])
    starts = rng.integers(0, videos.frames.shape[1] - FRAMES + 1, batch_size)
    return _batch(videos, kinds, chosen, starts, rng.choice(len(ORDERS), batch_size, p=ORDER_SHARES), rng)


def _schedule(step: int, steps: int) -> float:
    """A short warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / min(100, max(1, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


# How good it is


def measure(network: nn.ModuleDict, videos: Known, kinds: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """By domain, from the middle window of every video: how often the kind and the order are right (each window in each
    of ORDERS), F1 of the cells that hold an agent, and the share of variance explained (R²) of agents' and ego motion.

    R² is None where nothing varies.
    """
    return {
        name: _quality(network, videos, kinds, np.flatnonzero(videos.domains == name))
        for name in dict.fromkeys(videos.domains.tolist())
    }


def _quality(
    network: nn.ModuleDict, videos: Known, kinds: Sequence[str], chosen: NDArray[np.int64]
) -> dict[str, float | None]:
    import torch

    starts = np.full(len(chosen), (videos.frames.shape[1] - FRAMES) // 2)
    rng = generator(0, "orders of the held-out clips")
    batches = [_batch(videos, kinds, chosen, starts, np.full(len(chosen), order), rng) for order in range(len(ORDERS))]
    with torch.inference_mode():
        answers = [_answers(network, batch.clips, len(kinds)) for batch in batches]
    filmed, said = batches[0], answers[0]
    ordered = [
        (answer.orders.argmax(1).numpy() == batch.orders) for batch, answer in zip(batches, answers, strict=True)
    ]
    found, there = said.agents.numpy() > 0, filmed.agents > 0
    ego = said.ego.numpy() * EGO_UNITS
    moved = said.moved.numpy() * PIXELS_PER_OUTPUT
    return {
        "clips": len(chosen),
        "kind": float((said.kinds.argmax(1).numpy() == filmed.kinds).mean()),
        "order": float(np.mean(ordered)),
        "agents_f1": float(2 * (found & there).sum() / max(1, found.sum() + there.sum())),
        "moved_r2": _explained(moved, filmed.moved_px),
        "ahead_r2": _explained(ego[:, 1], filmed.ego[:, 1]),
        "yaw_r2": _explained(ego[:, 2], filmed.ego[:, 2]),
    }


def _explained(said: NDArray[np.floating], true: NDArray[np.floating]) -> float | None:
    there = np.isfinite(true)
    a, b = said[there].astype(float), true[there].astype(float)
    spread = ((b - b.mean()) ** 2).sum() if len(b) else 0.0
    return float(1 - ((a - b) ** 2).sum() / spread) if spread > 1e-6 else None


def responses(network: nn.ModuleDict, checks: Mapping[str, ArrayLike]) -> dict[str, dict[str, dict[str, float]]]:
    """What the distances say of known damage: {domain: {what the clips are: {"frechet", "kernel"}}}.

    `checks`: real clips (N, 5, 64, 64, 3) of N scenes by domain, all of one look, so that they differ in motion. The
    distances are to the second half of a domain's clips, of: the first half as it is, and damaged; and the first half of
    the other domains.
    """
    halves = {name: np.array_split(np.asarray(clips), 2) for name, clips in checks.items()}
    table = {}
    for name, (first, second) in halves.items():
        sets = {"real, other scenes": first, **_damaged(first)}
        sets |= {f"real, but of {other}": clips[0] for other, clips in halves.items() if other != name}
        reference = features(second, network=network)
        made = {what: features(clips, network=network) for what, clips in sets.items()}
        table[name] = {
            what: {"frechet": frechet_distance(each, reference), "kernel": kernel_distance(each, reference)}
            for what, each in made.items()
        }
    return table


def _damaged(clips: Clips) -> dict[str, Clips]:
    from replaylab.metrics.detectors import centre_point

    flat = clips.reshape(-1, *clips.shape[2:])
    rng = generator(0, "shuffled clips")
    shuffles = SHUFFLES[rng.integers(0, len(SHUFFLES), len(clips))]
    return {
        **{
            f"blurred by {blur:g} px": centre_point.blurred(flat, blur).reshape(clips.shape) for blur in (0.5, 1.0, 2.0)
        },
        "reversed": clips[:, ::-1],
        "shuffled": clips[np.arange(len(clips))[:, None], shuffles],
        "standing still": np.repeat(clips[:, :1], FRAMES, axis=1),
    }


# Files


def _write(network: nn.ModuleDict, kinds: list[str], facts: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    def fill(fresh: Path) -> None:
        weights = fresh / "model.safetensors"
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
        config = {"weights_sha256": sha256(weights), "kinds": kinds, "training": facts}
        (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        (fresh / "README.md").write_text(_card(network, config))

    write_folder(folder, fill)


def _card(network: nn.ModuleDict, config: dict[str, Any]) -> str:
    facts = config["training"]
    shares = ", ".join(f"{share:.0%} {order}" for order, share in zip(ORDERS, ORDER_SHARES, strict=True))
    quality = [[name, *values.values()] for name, values in facts["quality"].items()]
    found = [
        [domain, what, *values.values()] for domain, sets in facts["responses"].items() for what, values in sets.items()
    ]
    return f"""# Video network: features of clips of {FRAMES} frames, for distances between sets of videos

{WIDTHS[-1]} features of a clip, by which motion counts as well as looks; `replaylab/videonet.py` says how.
It is not I3D: its Fréchet distance is not FVD, and cannot be compared with published values of it.

- Data: {facts["data"]}.
  {facts["videos"]} videos to train on, {facts["held_out_videos"]} of other scenes held out.
- Training: {facts["steps"]} steps of {facts["batch_size"]} clips, learning rate {facts["learning_rate"]:g},
  seed {facts["seed"]}, {facts["seconds"]:g} s. Domains in equal parts; frames {shares}.
- It learns to tell the domain and event ({len(config["kinds"])} kinds), the order of the frames, which cells of a
  {CELLS}x{CELLS} grid hold an agent in each frame and how far it came since the frame before, and the camera's speed
  and yaw rate.
- Size: {sum(weight.numel() for weight in network.parameters())} parameters, safetensors, sha256 {config["weights_sha256"]}.
- Made again by: `python -m replaylab pretrain videonet`

On held-out scenes, the middle {FRAMES} frames of each video: share of right kinds and of right orders (each clip in
each of the {len(ORDERS)}; chance is {1 / len(ORDERS):g}), F1 of the cells with agents, and R² of agents' motion, speed
ahead and yaw rate:

{_table(["domain", "clips", "kind", "order", "agents", "agents' motion", "speed ahead", "yaw rate"], quality)}

Distances to real clips of other scenes ({FRAMES} frames after the context, dev split), of real and of damaged clips:

{_table(["domain", "clips", "Fréchet", "kernel"], found)}

Not for real streets: it has seen rendered frames only.
"""


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    cells = [heads, ["---"] * len(heads)] + [[_in_words(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _in_words(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
