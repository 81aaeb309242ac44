"""A model in, rows out: futures of held-out context frames, measured; and the floors beside them.

Decision: what is measured is prepared once (clips, truth, context latents, features of the reference set) and shared
by every arm and step, noise included. Context frames are left out of every measure. Distances are taken to real clips
of other scenes, so that the floor, real against real, is what a perfect model would get.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replaylab import clips as clips_room
from replaylab import (
    detections,
    detector,
    distances,
    dynamics,
    fidelity,
    latents,
    parallel,
    records,
    sample,
    trajectories,
    worlds,
)
from replaylab.clips import Clip
from replaylab.domain import Domain, alone, write_atomically
from replaylab.dynamics import Counted
from replaylab.models import CLIP_FRAMES, CONTEXT_FRAMES, TinyWan
from replaylab.parallel import Place
from replaylab.progress import track
from replaylab.records import ReferenceSpec
from replaylab.spec import WEIGHTS, EvaluationSpec, WorldSpec, base_of, weights_digest

Frames = NDArray[np.uint8]
GALLERY_PERCENTILES = (5, 50, 95)
MISS_CAP_M = 10.0  # what an agent that is not found costs on the ground plane; no error counts for more
CLIPS_TO_TIME = 8  # measured to estimate what a sweep will take


@dataclass(frozen=True)
class Ground:
    """One evaluation domain made ready: N clips with truth, and the reference set's features."""

    name: str
    split: str
    clips: list[Clip]
    frames: Frames  # (N, T, H, W, 3)
    truth: list[list[pd.DataFrame]]  # N x T
    cameras: NDArray[np.float64]  # (N, T, 3): field of view in degrees, height in m, pitch in radians
    latents: torch.Tensor  # (N, C, T, h, w)
    reference: NDArray[np.float32]  # features of real future frames of other scenes

    @property
    def context(self) -> torch.Tensor:
        """Latents (N, C, K, h, w)."""
        return self.latents[:, :, :CONTEXT_FRAMES]


@dataclass(frozen=True)
class Measured:
    rows: pd.DataFrame
    found: list[list[NDArray[np.float32]]]  # found boxes, N x future frames


def prepare(spec: EvaluationSpec, home: Path) -> list[Ground]:
    """Every domain of an evaluation; rendered, encoded and described once a process."""
    return [_ground(world, spec.split, spec.clips, spec.reference_clips, home) for world in spec.domains]


@cache
def _ground(world: WorldSpec, split: str, clips: int, reference_clips: int, home: Path) -> Ground:
    domain = worlds.build(world, home / "domains")
    scenes = clips_room.one_a_scene(clips_room.clips_of(domain, split, CLIP_FRAMES))
    if len(scenes) < clips + reference_clips:
        raise ValueError(
            f"{domain.folder}: split {split!r} has {len(scenes)} scenes, but {clips} clips to continue and "
            f"{reference_clips} reference clips of other scenes are asked for"
        )
    chosen, others = scenes[:clips], scenes[clips : clips + reference_clips]
    return Ground(
        domain.name, split, chosen, _frames(domain, chosen), clips_room.truth_of(domain, chosen, CLIP_FRAMES),
        _cameras(domain, chosen),
        _latents(domain, split, chosen, home), features(_frames(domain, others)),
    )  # fmt: skip


def _frames(domain: Domain, chosen: list[Clip]) -> Frames:
    return np.stack(list(clips_room.read(domain, chosen, CLIP_FRAMES)))


def _cameras(domain: Domain, chosen: list[Clip]) -> NDArray[np.float64]:
    by_video = dict(iter(domain.ego.sort_values("frame").groupby("video")))
    columns = ["field_of_view_deg", "camera_height_m", "camera_pitch_rad"]
    return np.stack(
        [by_video[clip.video].iloc[clip.start : clip.start + CLIP_FRAMES][columns] for clip in chosen]
    )


def _latents(domain: Domain, split: str, chosen: list[Clip], home: Path) -> torch.Tensor:
    coded = latents.encoded(
        _coder(), domain, split, chosen, home / "latents", weights_digest(WEIGHTS / "base" / "vae")
    )
    return torch.from_numpy(np.stack(list(coded)))


@cache
def _coder() -> TinyWan:
    """For its autoencoder, which all bases share."""
    return TinyWan.load(WEIGHTS / "base").to(parallel.place().device)


@cache
def _detector() -> Any:
    return detector.load()


def features(frames: Frames) -> NDArray[np.float32]:
    """EfficientNet-Lite0 features (N * future frames, 1280) of clips (N, T, H, W, 3)."""
    future = frames[:, CONTEXT_FRAMES:]
    return fidelity.efficientnet_features(future.reshape(-1, *future.shape[2:]))


def measure(
    ground: Ground, frames: Frames, miss_cap_px: float, drawn: torch.Tensor | None = None
) -> Measured:
    """Rows (measure, value, n and the clip's name) of made clips (N, T, H, W, 3), and the boxes found in them.

    `drawn`: their latents, where the frames were decoded from some.
    """
    future = frames[:, CONTEXT_FRAMES:]
    latent_errors = _latent_errors(ground, _coder().encode(frames) if drawn is None else drawn)
    found, made = measure_frames(frames)
    rows, moved = [], []
    for number, clip in enumerate(ground.clips):
        errors = dynamics.agent_errors(*_agents(ground.truth[number]), found[number], miss_cap_px=miss_cap_px)
        values = {
            **_dynamics(errors, ground.cameras[number], frames.shape[2]),
            "latent_mse": Counted(latent_errors[number], future.shape[1]),
        }
        looks = fidelity.clip_fidelity(future[number], ground.frames[number, CONTEXT_FRAMES:])
        values |= {name: Counted(value, future.shape[1]) for name, value in asdict(looks).items()}
        if frames is ground.frames:
            del values["psnr_db"]  # a clip against itself has no finite one
        where = {"video": clip.video, "start": clip.start, "scene": clip.scene}
        rows += [{**where, "measure": name, "value": value, "n": n} for name, (value, n) in values.items()]
        last = ground.truth[number][CONTEXT_FRAMES - 1]
        moved.append(trajectories.displacements(errors, _boxes(last), last["agent"].to_numpy()))
    whole = _of_the_domain(ground, found, made, moved)
    rows += [
        {"video": "", "start": -1, "scene": "", "measure": name, "value": value, "n": n}
        for name, (value, n) in whole.items()
    ]
    return Measured(pd.DataFrame(rows).assign(domain=ground.name, split=ground.split), found)


def _agents(truth: list[pd.DataFrame]) -> tuple[list[Any], list[Any], list[Any]]:
    """Boxes, ids and eligibility of the true agents of each future frame."""
    future = truth[CONTEXT_FRAMES:]
    return (
        [_boxes(table) for table in future],
        [table["agent"].to_numpy() for table in future],
        [table["eligible"].to_numpy() for table in future],
    )


def _dynamics(errors: dynamics.AgentErrors, cameras: NDArray[np.float64], size_px: int) -> dict[str, Counted]:
    result = dynamics.summary(errors)
    return {
        "ade_px": Counted(result.ade_px, result.n),
        "fde_px": Counted(result.fde_px, result.n_last),
        "ade_matched_px": Counted(result.ade_matched_px, result.n_matched),
        "recall": Counted(result.recall, result.n),
        "false_positives": Counted(result.false_positives, result.n_frames),
        **trajectories.clip_measures(errors, cameras[CONTEXT_FRAMES:], size_px, cap_m=MISS_CAP_M),
    }


def _of_the_domain(
    ground: Ground,
    found: list[list[NDArray[np.float32]]],
    made: NDArray[np.float32],
    moved: list[trajectories.Displacements],
) -> dict[str, Counted]:
    """What takes all clips together: distances of features, the slope of displacements (claim C7), precision."""
    line = trajectories.regression(*(
        np.concatenate([getattr(each, name) for each in moved]) for name in ("true_px", "predicted_px")
    ))  # fmt: skip
    boxes, _, eligible = zip(*(_agents(truth) for truth in ground.truth), strict=True)
    frames = [[frame for clip in clips for frame in clip] for clips in (boxes, eligible, found)]
    return {
        "effnet_fd": Counted(distances.frechet_distance(made, ground.reference), len(made)),
        "effnet_kd": Counted(distances.kernel_distance(made, ground.reference), len(made)),
        "displacement_slope": Counted(line.slope, line.n),
        "average_precision_iou50": detections.average_precision(*frames, min_iou=0.5),
    }


def _latent_errors(ground: Ground, drawn: torch.Tensor) -> list[float]:
    """Mean squared error of each clip's future latents (their mean square is about 1)."""
    error = (drawn.cpu() - ground.latents)[:, :, CONTEXT_FRAMES:].square()
    return [float(each) for each in error.mean((1, 2, 3, 4))]


def measure_frames(frames: Frames) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.float32]]:
    """What the two networks see in the future frames of clips (N, T, H, W, 3): boxes, N x future frames, and features."""
    future = frames[:, CONTEXT_FRAMES:]
    flat = detector.find(_detector(), future.reshape(-1, *future.shape[2:]))
    length = future.shape[1]
    return [flat[clip * length : (clip + 1) * length] for clip in range(len(frames))], features(frames)


def _boxes(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[["x0", "y0", "x1", "y1"]].to_numpy(float)


def evaluate(
    model: TinyWan,
    spec: EvaluationSpec,
    home: Path,
    gallery: tuple[Path, Path] | None = None,
    place: Place = Place(),
) -> pd.DataFrame:
    """Sample every clip's future with `model` and measure it; rows without the run's own columns.

    `gallery` is (the references' folder, which knows the clips to keep; the folder to keep them in). Several ranks share
    the sampling; the leading one measures, and the others' rows are empty.
    """
    model.transformer.eval()
    parts = []
    for ground in prepare(spec, home):
        drawn = sample.futures(model, ground.context, spec.sampler_steps, spec.noise_seed, place=place)
        if not place.leads:
            continue
        made = model.decode(drawn)
        measured = measure(ground, made, spec.miss_cap_px, drawn)
        parts.append(measured.rows)
        if gallery is not None:
            _keep(gallery[1], ground, made, measured, records.gallery_clips(gallery[0])[ground.name])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def references(spec: ReferenceSpec, store: Path) -> Path:
    """Measure copy-last-frame, real, autoencoder and base, or find them done; returns their folder.

    If another process is measuring them, that one is waited for.
    """
    folder = records.claim(spec, store)
    if not records.is_done(spec, store):
        with alone(folder):
            if not records.is_done(spec, store):  # by the one that was waited for
                _measure_references(spec, store, folder)
    return folder


def _measure_references(spec: ReferenceSpec, store: Path, folder: Path) -> None:
    started = time.monotonic()
    evaluation = spec.evaluation
    grounds = prepare(evaluation, store)
    made_by: dict[str, Callable[[Ground], Frames]] = {
        "copy-last-frame": lambda ground: copy_last_frame(ground.frames),
        "real": lambda ground: ground.frames,
        "autoencoder": lambda ground: autoencoded(ground.frames),
    }
    parts, gallery = [], {}
    for name, make in track(made_by.items(), what="floors", total=len(made_by), unit="models"):
        for ground in grounds:
            made = make(ground)
            measured = measure(ground, made, evaluation.miss_cap_px)
            parts.append(measured.rows.assign(model=name, step=-1))
            if name == "copy-last-frame":
                gallery[ground.name] = _at_percentiles(measured.rows)
            if name == "real":
                _keep(folder / "samples" / name, ground, made, measured, gallery[ground.name])
    write_atomically(folder / "gallery.json", lambda path: path.write_text(json.dumps(gallery, indent=1)))
    base = TinyWan.load(base_of(spec.base)).to(parallel.place().device)
    measured_base = evaluate(base, evaluation, store, (folder, folder / "samples" / "base"))
    parts.append(measured_base.assign(model="base", step=0))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(run=spec.run_id, replay="", replay_fraction=np.nan, seed=-1)
    records.finish(folder, rows, seconds=round(time.monotonic() - started, 1))


def autoencoded(frames: Frames) -> Frames:
    """Clips (N, T, H, W, 3) through the autoencoder: what a perfect model could show."""
    return _coder().decode(_coder().encode(frames))


def copy_last_frame(frames: Frames) -> Frames:
    """Clips (N, T, H, W, 3) in which nothing moves after the context."""
    still = frames.copy()
    still[:, CONTEXT_FRAMES:] = frames[:, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES]
    return still


def _at_percentiles(rows: pd.DataFrame) -> dict[str, int]:
    """The clips (by number) whose agents move least, as most and most: percentiles of copy-last-frame's ADE.

    A measure of the clip, not of any arm: every arm shows the same clips.
    """
    ade = rows.loc[rows["measure"] == "ade_px", "value"].reset_index(drop=True).dropna().sort_values()
    return {str(at): int(ade.index[round(at / 100 * (len(ade) - 1))]) for at in GALLERY_PERCENTILES}


def _keep(folder: Path, ground: Ground, frames: Frames, measured: Measured, chosen: dict[str, int]) -> None:
    """One mp4 and its boxes for each chosen clip: `<domain>-<percentile>.mp4` and `.json`."""
    for percentile, clip in chosen.items():
        name = folder / f"{ground.name}-{percentile}"
        boxes = {
            "video": ground.clips[clip].video,
            "true": [_boxes(table[table["eligible"]]).round(2).tolist() for table in ground.truth[clip]],
            "found": [[]] * CONTEXT_FRAMES
            + [found[:, :4].astype(float).round(2).tolist() for found in measured.found[clip]],
        }
        write_atomically(
            name.with_suffix(".mp4"), lambda aside, clip=clip: worlds.write_video(aside, frames[clip], 4)
        )
        write_atomically(
            name.with_suffix(".json"), lambda aside, boxes=boxes: aside.write_text(json.dumps(boxes))
        )
