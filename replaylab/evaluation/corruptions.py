"""Controlled corruptions of real clips, of known kind and grade: of pictures, of time, and of agents.

Decision: only the future frames are corrupted and the ground truth is unchanged, so any response of a measure is caused by
the corruption. Agents and time are corrupted in the scene, which is rendered again with other poses and encoded by the same
codec; appearance, road and light are bit-identical. The control, rendered again without a change, is the real clip.

Refused: unknown kinds. Importing loads neither torch nor panda3d.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.data.boxes import centres
from replaylab.description import Described
from replaylab.metrics.trajectories import CELLS, image_cells
from replaylab.spec import WorldSpec, generator

if TYPE_CHECKING:
    from replaylab.evaluation.evaluation_sets import EvaluationSet
    from replaylab.worlds.renderer import Scene

Floats = NDArray[np.floating[Any]]
Frames = NDArray[np.uint8]
AWAY_M = 50.0  # behind the camera: where a removed agent goes


@dataclass(frozen=True)
class CorruptionKind:
    """A kind of corruption, in several grades."""

    group: str  # one of GROUPS
    unit: str  # of the grades; "" where there is but one
    grades: tuple[float, ...]


REFERENCES, PICTURES, TIME, AGENTS = GROUPS = ("references", "pictures", "time", "agents")
KINDS = {
    "real": CorruptionKind(REFERENCES, "", (0,)),
    "re-rendered": CorruptionKind(REFERENCES, "", (0,)),  # the control
    "autoencoder": CorruptionKind(REFERENCES, "", (0,)),
    "copy-last-frame": CorruptionKind(REFERENCES, "", (0,)),
    "constant-velocity": CorruptionKind(REFERENCES, "", (0,)),  # boxes of the context, extrapolated; no pictures
    "blur": CorruptionKind(PICTURES, "px", (0.35, 0.5, 0.7, 1, 1.4, 2)),
    "noise": CorruptionKind(PICTURES, "grey levels", (4, 8, 16)),
    "colour": CorruptionKind(PICTURES, "%", (5, 10, 20)),
    "slowed": CorruptionKind(TIME, "%", (25, 50)),
    "shuffled": CorruptionKind(TIME, "", (1,)),
    "moved": CorruptionKind(AGENTS, "px", (1, 2, 4)),
    "removed": CorruptionKind(AGENTS, "", (1,)),
    "pulled": CorruptionKind(AGENTS, "%", (25, 50, 100)),
}


@dataclass(frozen=True)
class Corruption(Described):
    """A kind of corruption at one grade."""

    name: str
    grade: float

    @property
    def key(self) -> str:
        """The corruption's name in paths, such as `blur-2`."""
        return f"{self.name}-{self.grade:g}"


def every_corruption() -> tuple[Corruption, ...]:
    """All KINDS in all their grades."""
    return tuple(Corruption(name, float(grade)) for name, kind in KINDS.items() for grade in kind.grades)


def corrupt(corruption: Corruption, evaluation_set: EvaluationSet, world: WorldSpec, mean_m_s: Floats) -> Frames:
    """The evaluation set's clips (N, T, H, W, 3) with corrupted futures; `mean_m_s` is the result of `mean_velocities`.

    ValueError, with the valid kinds, for an unknown one.
    """
    from replaylab.evaluation import evaluate
    from replaylab.worlds.build import scene_of

    name, frames = corruption.name, evaluation_set.frames
    if name not in KINDS:
        raise ValueError(f"damage {name!r} is none of {', '.join(KINDS)}")
    if name == "real":
        return frames  # itself: a clip is not compared with its copy
    if name == "autoencoder":
        return evaluate.autoencoded(frames)
    if name == "copy-last-frame":
        return evaluate.copy_last_frame(frames)
    corrupted = frames.copy()
    for number, clip in enumerate(evaluation_set.clips):
        video = int(clip.video.rsplit("-", 1)[1])
        future = corrupted[number, CONTEXT_FRAMES:]
        if KINDS[name].group == PICTURES or name == "shuffled":
            future[:] = _corrupted_pictures(corruption, future, evaluation_set.name, video)
        else:
            scene, first = scene_of(world, evaluation_set.split, video), clip.start + CONTEXT_FRAMES
            rng = generator(0, f"sides in {evaluation_set.name}", video)
            scene = _corrupted_scene(corruption, scene, first, world, mean_m_s, rng)
            video_frames = rendered(scene, world.size_px, world.frames_per_second)
            future[:] = video_frames[first : first + len(future)]
    return corrupted


def _corrupted_pictures(corruption: Corruption, future: Frames, domain: str, video: int) -> Frames:
    from replaylab.metrics import blur

    if corruption.name == "blur":
        return blur.blurred(future, corruption.grade)
    if corruption.name == "noise":
        return noisy(future, corruption.grade, generator(0, f"noise in {domain}", video))
    if corruption.name == "colour":
        return warmed(future, corruption.grade)
    return shuffled(future, generator(0, f"order in {domain}", video))


def _corrupted_scene(
    corruption: Corruption, scene: Scene, first: int, world: WorldSpec, mean_m_s: Floats, rng: np.random.Generator
) -> Scene:
    if corruption.name == "slowed":
        return slowed(scene, first, corruption.grade)
    if corruption.name == "moved":
        return moved(scene, first, corruption.grade * rng.choice([-1.0, 1.0], len(scene.agents)), world.size_px)
    if corruption.name == "removed":
        return without_nearest(scene, first, world.size_px)
    if corruption.name == "pulled":
        return pulled(scene, first, corruption.grade, mean_m_s, world.size_px, world.frames_per_second)
    return scene  # re-rendered


def noisy(frames: Frames, sd: float, rng: np.random.Generator) -> Frames:
    """Frames (F, H, W, 3) with normal noise of `sd` grey levels, independent in every pixel, channel and frame."""
    return np.clip(frames + rng.normal(0, sd, frames.shape) + 0.5, 0, 255).astype(np.uint8)


def warmed(frames: Frames, percent: float) -> Frames:
    """Frames (F, H, W, 3) with `percent` more red and less blue: one gain per channel, as from a wrong white balance."""
    gain = 1 + np.array([1, 0, -1]) * percent / 100
    return np.clip(frames * gain + 0.5, 0, 255).astype(np.uint8)


def shuffled(frames: Frames, rng: np.random.Generator) -> Frames:
    """Frames (F, H, W, 3), two or more, in another order."""
    order = in_order = np.arange(len(frames))
    while (order == in_order).all():
        order = rng.permutation(len(frames))
    return frames[order]


# -------------------------------------------------------------------------- scenes: `first` is the first future frame
def rendered(scene: Scene, size_px: int, frames_per_second: float) -> Frames:
    """A scene's frames (T, H, W, 3), written as H.264 and read back, like those of every domain."""
    from replaylab.data.video import coded
    from replaylab.worlds.renderer import Renderer

    return coded(Renderer.shared(size_px).render(scene), frames_per_second)


def moved(scene: Scene, first: int, shifts_px: Floats, size_px: int) -> Scene:
    """The scene with every agent's box moved to the right by shifts_px (A,) in the future frames.

    Along the camera's right axis the depth is constant, so the box moves in proportion to the agent: one trial step
    determines the shift. Agents without a box, behind the camera, are not moved.
    """
    from replaylab.worlds.renderer import boxes_of

    poses = scene.poses.copy()
    for frame in range(first, poses.shape[1]):
        right = np.array([np.cos(scene.ego[frame, 2]), np.sin(scene.ego[frame, 2]), 0.0])
        before, depths = boxes_of(scene, frame, size_px)
        here = np.isfinite(before).all(axis=1)
        steps_m = np.where(here, shifts_px * depths / scene.cameras[frame].focal_px(size_px), 0.0)
        poses[:, frame, :3, 3] += steps_m[:, None] * right
        after, _ = boxes_of(replace(scene, poses=poses), frame, size_px)
        reached_px = (after - before)[:, [0, 2]].mean(axis=1)
        scale = np.divide(shifts_px, reached_px, out=np.ones_like(reached_px), where=np.abs(reached_px) > 1e-9)
        poses[:, frame, :3, 3] += ((scale - 1) * steps_m)[:, None] * right
    return replace(scene, poses=poses)


def without_nearest(scene: Scene, first: int, size_px: int) -> Scene:
    """The scene without the nearest eligible agent from the first future frame on; unchanged if none is eligible."""
    from replaylab.worlds.renderer import boxes_of, eligible, visible_shares

    boxes, depths = boxes_of(scene, first, size_px)
    counted = eligible(boxes, visible_shares(boxes, depths, size_px), size_px)
    if not counted.any():
        return scene
    gone = int(np.where(counted, depths, np.inf).argmin())
    poses, (x, y, heading) = scene.poses.copy(), scene.ego[first:].T
    poses[gone, first:, 0, 3] = x + AWAY_M * np.sin(heading)
    poses[gone, first:, 1, 3] = y - AWAY_M * np.cos(heading)
    return replace(scene, poses=poses)


def pulled(scene: Scene, first: int, percent: float, mean_m_s: Floats, size_px: int, frames_per_second: float) -> Scene:
    """The scene with every agent's motion shifted towards the mean of ordinary driving, relative to the ego car.

    An agent's displacement since the last context frame, in metres to the right of the ego car and ahead of it, becomes
    (1 − s) times its own and s times the mean one: `mean_m_s` (CELLS, CELLS, 2), at the cell (row, column) of the image
    in which its box has its centre in that frame, times the seconds since. Headings are unchanged.
    """
    from replaylab.worlds.renderer import boxes_of, placed

    last = first - 1
    boxes, _ = boxes_of(scene, last, size_px)
    column, row = image_cells((boxes[:, :2] + boxes[:, 2:]) / 2, size_px).T
    velocities = mean_m_s[row, column]

    def relative(frame: int) -> Floats:
        x, y, heading = scene.ego[frame]
        return placed(scene.poses[:, frame, :3, 3] - [x, y, 0], np.zeros(3), -heading)[:, :2]

    poses = scene.poses.copy()
    for frame in range(first, poses.shape[1]):
        mean = velocities * (frame - last) / frames_per_second
        step = percent / 100 * (mean - (relative(frame) - relative(last)))
        upright = np.append(step, np.zeros((len(step), 1)), axis=1)
        poses[:, frame, :3, 3] += placed(upright, np.zeros(3), scene.ego[frame, 2])
    return replace(scene, poses=poses)


def slowed(scene: Scene, first: int, percent: float) -> Scene:
    """The scene, with the ego car, slowed by `percent` after the last context frame; poses are interpolated linearly."""
    from replaylab.worlds.renderer import rigid

    frames, last = np.arange(len(scene.ego)), first - 1
    times = np.where(frames > last, last + (frames - last) * (1 - percent / 100), frames)

    def resampled(path: Floats) -> Floats:
        """The path (T, 3), x, y and heading, at the slower times."""
        turned = np.column_stack([path[:, :2], np.unwrap(path[:, 2])])
        return np.column_stack([np.interp(times, frames, column) for column in turned.T])

    headings = np.arctan2(scene.poses[:, :, 1, 0], scene.poses[:, :, 0, 0])
    paths = np.concatenate([scene.poses[:, :, :2, 3], headings[..., None]], axis=2)
    return replace(scene, ego=resampled(scene.ego), poses=np.stack([rigid(*resampled(path).T) for path in paths]))


@cache
def mean_velocities(ordinary: WorldSpec, split: str, home: Path) -> Floats:
    """Mean velocity (CELLS, CELLS, 2), m/s, of eligible agents relative to the ego car, in a split of a domain."""
    from replaylab.worlds.build import build_domain

    domain = build_domain(ordinary, home / "domains")
    videos = {Path(file).stem for file in domain.split(split)["file"]}
    tracks = domain.tracks[domain.tracks["video"].isin(videos)]
    return velocity_field(tracks, domain.size_px, domain.frames_per_second)


def velocity_field(tracks: pd.DataFrame, size_px: int, frames_per_second: float) -> Floats:
    """Mean velocity (CELLS, CELLS, 2), rows from the top, columns from the left, m/s to the right and ahead.

    From agents that are eligible in two consecutive frames (columns: `domain.TRACK_COLUMNS`), by the cell of the box's
    centre in the first; empty cells have the mean of all.
    """
    now = tracks.loc[tracks["eligible"], ["video", "agent", "frame", "x_m", "y_m", "x0", "y0", "x1", "y1"]]
    later = now[["video", "agent", "frame", "x_m", "y_m"]].assign(frame=now["frame"] - 1)
    both = now.merge(later, on=["video", "agent", "frame"], suffixes=("", "_later"))
    speeds = (both[["x_m_later", "y_m_later"]].to_numpy() - both[["x_m", "y_m"]].to_numpy()) * frames_per_second
    column, row = image_cells(centres(both[["x0", "y0", "x1", "y1"]]), size_px).T
    field = np.tile(speeds.mean(axis=0), (CELLS, CELLS, 1))
    for at in set(zip(row.tolist(), column.tolist(), strict=True)):
        field[at] = speeds[(row == at[0]) & (column == at[1])].mean(axis=0)
    return field
