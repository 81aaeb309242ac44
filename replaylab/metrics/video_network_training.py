"""Training of the video network on the videos of rendered worlds, and the response of its features to known corruptions.

Decision: its labels are known exactly in the rendered worlds and require motion: the world and event of a clip; the agents'
positions on a coarse grid, and their displacements since the previous frame; the camera's motion; and whether the frames
are in order, frozen, shuffled or reversed. Every label of a whole clip is predicted from its features by one linear layer,
so that the features must contain motion.

Refused: held-out videos of kinds that are not trained on, clips that `video_network` refuses, and replacing a folder that
holds anything else.

Shapes: B clips of a batch, V videos, F frames of one, T = 5, c = 4 cells per side of the image.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, from_numpy, nn
from torch.nn import functional

from replaylab.data.domain import Domain
from replaylab.data.video import decode
from replaylab.metrics import network_files, network_training, video_network
from replaylab.metrics.blur import blurred
from replaylab.metrics.distances import frechet_distance, kernel_distance
from replaylab.metrics.video_network import CELLS, EGO_UNITS, FASTEST_PX, FRAMES, ORDERS, PIXELS_PER_OUTPUT, Clips, Floats
from replaylab.spec import generator, torch_seed
from replaylab.util.progress import report, track

ORDER_SHARES = (0.7, 0.1, 0.1, 0.1)
"""The share of each of ORDERS in training."""
IN_ORDER = tuple(range(FRAMES))
SHUFFLES = np.array([p for p in permutations(IN_ORDER) if p not in (IN_ORDER, IN_ORDER[::-1])])
# The factor of a known motion in each of ORDERS; NaN: not known. Reversed agents are in other cells than was noted.
AGENTS_GO = np.array([1, 0, np.nan, np.nan], np.float32)
EGO_GOES = np.array([1, 0, np.nan, -1], np.float32)
NO_KIND = -100  # what torch's cross-entropy leaves out


# The labels


@dataclass(frozen=True)
class LabelledVideos:
    """Videos and their labels."""

    frames: Clips  # (V, F, 64, 64, 3)
    domains: NDArray[np.str_]  # (V,)
    kinds: NDArray[np.str_]  # (V,) the domain and its event
    agents: Floats  # (V, F, c, c) 1 where the centre of an eligible agent is
    moved_px: Floats  # (V, F, 2, c, c) how far it moved since the frame before; NaN: no agent, or not known
    ego: Floats  # (V, F, 3) since the frame before: sideways and ahead in m/s, yaw in rad/s; NaN in frame 0

    @classmethod
    def concatenated(cls, parts: Sequence[LabelledVideos]) -> LabelledVideos:
        """The videos of all parts, one part after the other."""
        columns = [[getattr(part, field.name) for part in parts] for field in fields(cls)]
        return cls(*map(np.concatenate, columns))


def labelled_videos(domain: Domain, split: str, most: int) -> LabelledVideos:
    """The first `most` videos of a split of a domain with ground truth; they must be equally long, with 64x64 pixels."""
    files = domain.split(split)["file"].iloc[:most]
    names = [file.removesuffix(".mp4") for file in files]
    frames = np.stack([
        decode(domain.video(Path(file).stem))
        for file in track(files, what=f"decoding {domain.name} {split}", unit="videos")
    ])  # fmt: skip
    ego = domain.ego[domain.ego["video"].isin(names)].sort_values(["video", "frame"]).set_index("video")
    agents, moved_px = _grids(domain, names, frames.shape[1])
    return LabelledVideos(
        frames, np.full(len(names), domain.name),
        np.array([f"{domain.name}, {ego.loc[name, 'event'].iloc[0]}" for name in names]), agents, moved_px,
        np.stack([_rates(ego.loc[name], domain.frames_per_second) for name in names]),
    )  # fmt: skip


def _grids(domain: Domain, names: list[str], frames: int) -> tuple[Floats, Floats]:
    """`LabelledVideos.agents` and `LabelledVideos.moved_px`; of two agents in one cell the nearer (lower) one counts."""
    agents = np.zeros((len(names), frames, CELLS, CELLS), np.float32)
    moved = np.full((len(names), frames, 2, CELLS, CELLS), np.nan, np.float32)
    rows = domain.tracks[domain.tracks["video"].isin(names)].sort_values(["video", "agent", "frame"])
    centres = np.stack([rows["x0"] + rows["x1"], rows["y0"] + rows["y1"]], axis=1) / 2
    same = (rows["video"].eq(rows["video"].shift()) & rows["agent"].eq(rows["agent"].shift())
            & rows["frame"].eq(rows["frame"].shift() + 1)).to_numpy()  # fmt: skip
    moved_px = np.full_like(centres, np.nan)
    moved_px[1:] = np.where(same[1:, None], np.diff(centres, axis=0), np.nan)
    cells = np.clip(centres // (domain.size_px / CELLS), 0, CELLS - 1).astype(int)
    number = rows["video"].map({name: i for i, name in enumerate(names)}).to_numpy()
    at = (number, rows["frame"].to_numpy(), cells[:, 1], cells[:, 0])
    counted = rows["eligible"].to_numpy(bool)
    for i in np.argsort(rows["y1"].to_numpy(), kind="stable"):
        if counted[i]:
            video, frame, row, column = (int(axis[i]) for axis in at)
            agents[video, frame, row, column] = 1
            moved[video, frame, :, row, column] = moved_px[i]
    return agents, moved


def _rates(ego: Any, frames_per_second: float) -> Floats:
    """The camera's velocity (F, 3) from one video's rows, relative to its heading in the previous frame."""
    x, y, heading = ego[["x_m", "y_m", "heading_rad"]].to_numpy(float).T
    dx, dy, before = np.diff(x), np.diff(y), heading[:-1]
    steps = np.stack([dx * np.cos(before) + dy * np.sin(before), dy * np.cos(before) - dx * np.sin(before),
                      np.diff(heading)], axis=1)  # fmt: skip
    return np.concatenate([np.full((1, 3), np.nan), steps * frames_per_second]).astype(np.float32)


# A batch and its loss


@dataclass(frozen=True)
class _Batch:
    clips: Clips  # (B, T, 64, 64, 3)
    kinds: NDArray[np.int64]  # (B,) NO_KIND unless as filmed
    agents: Floats  # (B, T, c, c)
    moved_px: Floats  # (B, T, 2, c, c)
    ego: Floats  # (B, 3)
    orders: NDArray[np.int64]  # (B,)


def _batch(
    videos: LabelledVideos, kinds: Sequence[str], chosen: NDArray[np.int64], starts: NDArray[np.int64],
    orders: NDArray[np.int64], rng: np.random.Generator,
) -> _Batch:  # fmt: skip
    """Windows of the selected videos (B,) from `starts` on, with frames in one of ORDERS, and their labels."""
    arranged = np.tile(IN_ORDER, (len(chosen), 1))
    frozen, shuffled, reverse = (orders == ORDERS.index(name) for name in ORDERS[1:])
    arranged[frozen] = rng.integers(0, FRAMES, (frozen.sum(), 1))
    arranged[shuffled] = SHUFFLES[rng.integers(0, len(SHUFFLES), shuffled.sum())]
    arranged[reverse] = IN_ORDER[::-1]
    window = (chosen[:, None], starts[:, None] + arranged)
    moved = np.clip(videos.moved_px[window], -FASTEST_PX, FASTEST_PX)
    moved[:, 0] = np.nan  # the frame before is not in the clip
    ego = videos.ego[chosen[:, None], starts[:, None] + IN_ORDER[1:]].mean(1)
    number = {kind: i for i, kind in enumerate(kinds)}
    return _Batch(
        videos.frames[window], np.where(orders == 0, [number[kind] for kind in videos.kinds[chosen]], NO_KIND),
        videos.agents[window], moved * AGENTS_GO[orders][:, None, None, None, None], ego * EGO_GOES[orders][:, None],
        orders,
    )  # fmt: skip


def _sampled_batch(
    videos: LabelledVideos, kinds: Sequence[str], of_domain: list[NDArray[np.int64]], batch_size: int,
    rng: np.random.Generator,
) -> _Batch:  # fmt: skip
    """A batch with equal numbers from all domains, and ORDERS in their shares."""
    domains = rng.integers(0, len(of_domain), batch_size)
    chosen = np.array([rng.choice(of_domain[domain]) for domain in domains])
    starts = rng.integers(0, videos.frames.shape[1] - FRAMES + 1, batch_size)
    return _batch(videos, kinds, chosen, starts, rng.choice(len(ORDERS), batch_size, p=ORDER_SHARES), rng)


@dataclass(frozen=True)
class _Predictions:
    kinds: Tensor  # logits
    agents: Tensor  # logits
    moved: Tensor  # in PIXELS_PER_OUTPUT
    ego: Tensor  # in EGO_UNITS
    orders: Tensor  # logits


def _predict(network: nn.ModuleDict, clips: Clips, kinds: int) -> _Predictions:
    maps = video_network.maps_of(network, clips)
    cells = network["cells"](maps).transpose(1, 2)  # (B, T, 3, c, c)
    whole = network["clip"](video_network.pooled(maps)).split([kinds, len(EGO_UNITS), len(ORDERS)], 1)
    return _Predictions(whole[0], cells[:, :, 0], cells[:, :, 1:], whole[1], whole[2])


def _loss(predicted: _Predictions, batch: _Batch) -> Tensor:
    """The sum of the labels' mean losses where they are known; the grid is mostly empty, so occupied cells weigh more."""
    return (
        functional.cross_entropy(predicted.kinds, from_numpy(batch.kinds), ignore_index=NO_KIND, reduction="sum")
        / max(1, int((batch.kinds != NO_KIND).sum()))
        + functional.cross_entropy(predicted.orders, from_numpy(batch.orders))
        + 4 * functional.binary_cross_entropy_with_logits(predicted.agents, from_numpy(batch.agents))
        + _huber(predicted.moved, batch.moved_px / np.float32(PIXELS_PER_OUTPUT))
        + _huber(predicted.ego, batch.ego / EGO_UNITS)
    )


def _huber(predicted: Tensor, true: Floats) -> Tensor:
    """The mean Huber loss where the truth is known."""
    known = np.isfinite(true)
    apart = functional.smooth_l1_loss(predicted, from_numpy(np.where(known, true, 0)), reduction="none")
    return (apart * from_numpy(known)).sum() / max(1, int(known.sum()))


# Training


def fit(
    videos: LabelledVideos, held_out: LabelledVideos, checks: Mapping[str, ArrayLike], *, seed: int, steps: int,
    folder: Path, data: str, batch_size: int = 32, learning_rate: float = 3e-3, resume: Path | None = None,
) -> nn.ModuleDict:  # fmt: skip
    """Train a network and write it to `folder` (model.safetensors, config.json, README.md) atomically.

    Domains fill a batch equally; the clips of a step and the order of their frames depend on (seed, step) only. For the
    card: `held_out` are videos of other scenes, `checks` real clips (N, 5, 64, 64, 3) by domain, each of one appearance and
    of scenes never trained on (see `responses`), and `data` describes the videos in a sentence. Returns the written network.
    resume: a file from which an interrupted training continues; it is removed at the end. ValueError if the folder holds
    something else; FloatingPointError if the loss is not finite.
    """
    started = time.monotonic()
    network_files.check_replaceable(folder, "video network")
    network_training.check_settings(steps, batch_size, learning_rate)
    for name, clips in checks.items():
        video_network.checked_clips(clips, f"checks[{name!r}]")
    kinds = sorted(set(videos.kinds.tolist()))
    if unknown := sorted(set(held_out.kinds.tolist()) - set(kinds)):
        raise ValueError(f"held_out: {unknown[0]!r} is not among the kinds of the videos, {', '.join(kinds)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "new video network"))
        network = video_network.new_network(len(kinds))
    of_domain = [np.flatnonzero(videos.domains == name) for name in sorted(set(videos.domains.tolist()))]

    def loss_at(step: int) -> Tensor:
        batch = _sampled_batch(videos, kinds, of_domain, batch_size, generator(seed, "video network batch", step))
        return _loss(_predict(network, batch.clips, len(kinds)), batch)

    settings = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    losses = [loss for _, loss in network_training.minimise(
        network, loss_at, steps=steps, learning_rate=learning_rate, weight_decay=1e-2, what="video network", resume=resume,
        settings=settings | {"videos": len(videos.frames)},
    )]  # fmt: skip
    network.eval().requires_grad_(False)
    facts = {
        "data": data, "videos": len(videos.frames), "held_out_videos": len(held_out.frames),
        **network_training.record(started, losses, **settings),
        "quality": measure(network, held_out, kinds), "responses": responses(network, checks),
    }  # fmt: skip
    weights = network_files.weights_bytes(network)
    config = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "kinds": kinds, "training": facts}
    network_files.write(folder, weights, json.dumps(config, indent=1), _card(network, config))
    if resume:
        resume.unlink(missing_ok=True)
    report(f"video network: written to {folder}")
    return network


# Quality and responses


def measure(network: nn.ModuleDict, videos: LabelledVideos, kinds: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Quality by domain, on the middle window of every video: accuracy of the kind and of the order (each window in each
    of ORDERS), F1 of the cells that hold an agent, and the share of variance explained (R²) of agents' and ego motion.

    R² is None where nothing varies.
    """
    return {
        name: _quality(network, videos, kinds, np.flatnonzero(videos.domains == name))
        for name in dict.fromkeys(videos.domains.tolist())
    }


def _quality(
    network: nn.ModuleDict, videos: LabelledVideos, kinds: Sequence[str], chosen: NDArray[np.int64]
) -> dict[str, float | None]:
    starts = np.full(len(chosen), (videos.frames.shape[1] - FRAMES) // 2)
    rng = generator(0, "orders of the held-out clips")
    batches = [_batch(videos, kinds, chosen, starts, np.full(len(chosen), order), rng) for order in range(len(ORDERS))]
    with torch.inference_mode():
        predictions = [_predict(network, batch.clips, len(kinds)) for batch in batches]
    ordered = [each.orders.argmax(1).numpy() == batch.orders for each, batch in zip(predictions, batches, strict=True)]
    true, predicted = batches[0], predictions[0]  # as filmed
    occupied, truly_occupied = predicted.agents.numpy() > 0, true.agents > 0
    ego = predicted.ego.numpy() * EGO_UNITS
    return {
        "clips": len(chosen), "kind": float((predicted.kinds.argmax(1).numpy() == true.kinds).mean()),
        "order": float(np.mean(ordered)),
        "agents_f1": float(2 * (occupied & truly_occupied).sum() / max(1, occupied.sum() + truly_occupied.sum())),
        "moved_r2": _explained(predicted.moved.numpy() * PIXELS_PER_OUTPUT, true.moved_px),
        "ahead_r2": _explained(ego[:, 1], true.ego[:, 1]), "yaw_r2": _explained(ego[:, 2], true.ego[:, 2]),
    }  # fmt: skip


def _explained(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> float | None:
    known = np.isfinite(true)
    a, b = predicted[known].astype(float), true[known].astype(float)
    variation = ((b - b.mean()) ** 2).sum() if len(b) else 0.0
    return float(1 - ((a - b) ** 2).sum() / variation) if variation > 1e-6 else None


def responses(network: nn.ModuleDict, checks: Mapping[str, ArrayLike]) -> dict[str, dict[str, dict[str, float]]]:
    """The distances under known corruptions: {domain: {description of the clips: {"frechet", "kernel"}}}.

    `checks`: real clips (N, 5, 64, 64, 3) of N scenes by domain, all of one appearance, so that they differ in motion. The
    distances to the second half of a domain's clips are those of its first half, unchanged and corrupted, and of the first
    half of the other domains.
    """
    halves = {name: np.array_split(np.asarray(clips), 2) for name, clips in checks.items()}
    table = {}
    for name, (first, second) in halves.items():
        sets = {"real, other scenes": first, **_damaged(first)}
        sets |= {f"real, but of {other}": clips[0] for other, clips in halves.items() if other != name}
        reference = video_network.features(second, network=network)
        seen = {what: video_network.features(clips, network=network) for what, clips in sets.items()}
        table[name] = {
            what: {"frechet": frechet_distance(each, reference), "kernel": kernel_distance(each, reference)}
            for what, each in seen.items()
        }
    return table


def _damaged(clips: Clips) -> dict[str, Clips]:
    flat = clips.reshape(-1, *clips.shape[2:])
    rng = generator(0, "shuffled clips")
    shuffles = SHUFFLES[rng.integers(0, len(SHUFFLES), len(clips))]
    return {
        **{f"blurred by {blur:g} px": blurred(flat, blur).reshape(clips.shape) for blur in (0.5, 1.0, 2.0)},
        "reversed": clips[:, ::-1],
        "shuffled": clips[np.arange(len(clips))[:, None], shuffles],
        "standing still": np.repeat(clips[:, :1], FRAMES, axis=1),
    }


def _card(network: nn.ModuleDict, config: dict[str, Any]) -> str:
    facts, width = config["training"], video_network.WIDTHS[-1]
    shares = ", ".join(f"{share:.0%} {order}" for order, share in zip(ORDERS, ORDER_SHARES, strict=True))
    heads = ["domain", "clips", "kind", "order", "agents", "agents' motion", "speed ahead", "yaw rate"]
    quality = [[name, *values.values()] for name, values in facts["quality"].items()]
    rows = [[domain, what, *values.values()] for domain, sets in facts["responses"].items() for what, values in sets.items()]
    return f"""# Video network: features of clips of {FRAMES} frames, for distances between sets of videos

{width} features of a clip, by which motion counts as well as appearance; see `replaylab/metrics/video_network.py`.
It is not I3D: its Fréchet distance is not FVD, and cannot be compared with published values of it.

- Data: {facts["data"]}.
  {facts["videos"]} videos to train on, {facts["held_out_videos"]} of other scenes held out.
- Training: {facts["steps"]} steps of {facts["batch_size"]} clips, learning rate {facts["learning_rate"]:g},
  seed {facts["seed"]}, {facts["seconds"]:g} s. Domains in equal parts; frames {shares}.
- It learns to tell the domain and event ({len(config["kinds"])} kinds), the order of the frames, which cells of a
  {CELLS}x{CELLS} grid hold an agent in each frame and how far it moved since the frame before, and the camera's speed
  and yaw rate.
- Size: {sum(p.numel() for p in network.parameters())} parameters, safetensors, sha256 {config["weights_sha256"]}.
- Made again by: `python -m replaylab pretrain videonet`

On held-out scenes, the middle {FRAMES} frames of each video: share of right kinds and of right orders (each clip in
each of the {len(ORDERS)}; chance is {1 / len(ORDERS):g}), F1 of the cells with agents, and R² of agents' motion, speed
ahead and yaw rate:

{network_training.table(heads, quality)}

Distances to real clips of other scenes ({FRAMES} frames after the context, dev split), of real and of damaged clips:

{network_training.table(["domain", "clips", "Fréchet", "kernel"], rows)}

Not for real streets: it has seen rendered frames only.
"""
