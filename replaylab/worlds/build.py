"""Rendering a described world into a domain folder.

Decision: every video is a pure function of (description, split, number), so a build consists of chunks that any process can
render in any order, an interrupted build continues, and the same description gives the same ground truth. Videos
are written as H.264 and read back like any others: the renderer's arrays are not used otherwise.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.data.domain import SPLITS, Domain, Rows, open_domain, write_domain
from replaylab.data.video import write_video
from replaylab.description import digest
from replaylab.spec import FolderSpec, World, WorldSpec, generator
from replaylab.util import cache, digests, reading
from replaylab.util.files import locked, sha256, write_atomically, write_table
from replaylab.util.processes import map_in_processes, usable_cores
from replaylab.util.progress import report
from replaylab.worlds import appearance, country, orbit, physics, traffic
from replaylab.worlds.doom import walk
from replaylab.worlds.named import DRIVING_WORLDS
from replaylab.worlds.renderer import Renderer, Scene, boxes_of, eligible, heading_of, placed, visible_shares
from replaylab.worlds.sumo import scenes

WORLDS: dict[str, Any] = {
    "traffic": traffic, "country": country, "sumo": scenes, "physics": physics, "orbit": orbit, "doom": walk
}  # fmt: skip
"""Modules with MOTIONS, LOOKS and `draw`, which gives the scene of a video; doom has `render`, which gives its frames."""

VIDEOS_PER_CHUNK = 24
PART_KINDS = ("videos", "tracks", "ego")  # tables of a chunk
Chunk = tuple[str, int, int]  # split, first video, the one after the last


def folder_of(spec: WorldSpec, home: str | Path) -> Path:
    """The folder of a description's domain: `home/<name>-<digest>`."""
    return Path(home) / f"{spec.name}-{digest(spec)}"


def is_built(spec: World, home: str | Path) -> bool:
    """Whether the domain is complete."""
    return isinstance(spec, FolderSpec) or (folder_of(spec, home) / "domain.json").is_file()


def build_domain(spec: World, home: str | Path) -> Domain:
    """Render `spec` into `home/<name>-<digest>/` on all cores, or read the existing domain; a `FolderSpec` is opened.

    Waits for another process that is rendering it. Raises PermissionError or OSError, with the path, if `home` cannot be
    written, ValueError for a folder that no longer matches its description.
    """
    if isinstance(spec, FolderSpec):
        return _opened(spec)
    folder = folder_of(spec, home)
    if not (is_built(spec, home) and _is_whole(spec, folder)):
        with locked(folder):  # another process may have made it meanwhile
            if not (is_built(spec, home) and (_is_whole(spec, folder) or _mended(spec, folder))):
                _build(spec, folder)
    return open_domain(folder)


def _is_whole(spec: WorldSpec, folder: Path) -> bool:
    """Whether every file of a finished domain is as it was written."""
    try:
        domain = _listed(spec, folder)
        return all(domain.video(Path(file).stem).is_file() for file in domain.videos["file"])
    except (ValueError, FileNotFoundError):
        return False


def _listed(spec: WorldSpec, folder: Path) -> Domain:
    """The domain, if its tables are whole and it lists the videos that it should; else ValueError or FileNotFoundError."""
    domain, names = open_domain(folder), [(split, name) for split in SPLITS for name in _names(spec, split)]
    for name in ("tracks.parquet", "ego.parquet"):
        digests.check(folder / name)
    wanted = pd.DataFrame({
        "file": [f"{name}.mp4" for _, name in names], "split": [split for split, _ in names],
        "scene": [f"{spec.name}/{name}" for _, name in names], "frames": spec.frames,
    })  # fmt: skip
    if not wanted.equals(domain.videos[[*wanted]].reset_index(drop=True)) or _about(spec) != domain.about:
        raise ValueError(f"{folder / 'domain.json'} is not the one that was written")
    return domain


def _mended(spec: WorldSpec, folder: Path) -> bool:
    """Render videos that are damaged or missing again; False where more is damaged, or they are not the same any more."""
    report(f"warning: {folder} is damaged: what is not as it was written is rendered again")
    try:
        domain = _listed(spec, folder)
    except (ValueError, FileNotFoundError):
        return False
    for name in (Path(file).stem for file in domain.videos["file"]):
        try:
            if domain.video(name).is_file():
                continue
        except ValueError:
            pass
        split, _, number = name.rpartition("-")
        _write_video(spec, folder, name, render_video(spec, split, int(number))[0])
    return _is_whole(spec, folder)


def _names(spec: WorldSpec, split: str) -> list[str]:
    return [f"{split}-{number:05d}" for number in range(dict(zip(SPLITS, spec.videos, strict=True))[split])]


def _about(spec: WorldSpec) -> dict[str, Any]:
    """What domain.json says besides its videos."""
    return {
        "name": spec.name, "frames_per_second": spec.frames_per_second, "size_px": spec.size_px,
        "licence": getattr(WORLDS[spec.world], "LICENCE", "CC0-1.0"), "made_by": "replaylab.worlds", "world": spec.as_dict(),
    }  # fmt: skip


def _opened(spec: FolderSpec) -> Domain:
    domain = open_domain(spec.folder)
    if domain.digest != spec.digest:
        raise ValueError(
            f"{spec.folder}: domain.json is not the one that the run was described with ({domain.digest} now, "
            f"{spec.digest} then)"
        )
    return domain


def _build(spec: WorldSpec, folder: Path) -> None:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "domain.json").unlink(missing_ok=True)  # of one that is damaged
    chunks = [
        (split, start, min(start + VIDEOS_PER_CHUNK, count))
        for split, count in zip(SPLITS, spec.videos, strict=True)
        for start in range(0, count, VIDEOS_PER_CHUNK)
    ]
    missing = [
        chunk for chunk in chunks if any(cache.kept_table(_part_path(folder, chunk, kind)) is None for kind in PART_KINDS)
    ]
    if len(missing) < len(chunks):
        report(f"{folder}: {len(chunks) - len(missing)} of {len(chunks)} chunks were already rendered")
    render, what = partial(_render_chunk, spec, folder), f"rendering {spec.name} ({VIDEOS_PER_CHUNK} videos each)"
    here = spec.world != "doom"  # a notebook's kernel is killed when it has run, and would leave the game behind
    for _ in map_in_processes(render, missing, usable_cores(), what, "chunks", here):
        pass
    again = f"remove {folder}, and it is rendered again"
    videos, tracks, ego = (
        pd.concat([reading.table(_part_path(folder, chunk, kind), again) for chunk in chunks], ignore_index=True)
        for kind in PART_KINDS
    )
    write_domain(folder, _about(spec), videos, tracks, ego)
    shutil.rmtree(folder / "parts")


def _part_path(folder: Path, chunk: Chunk, kind: str) -> Path:
    split, start, stop = chunk
    return folder / "parts" / f"{split}-{start:05d}-{stop:05d}-{kind}.parquet"


def _render_chunk(spec: WorldSpec, folder: Path, chunk: Chunk) -> None:
    split, start, stop = chunk
    videos, tracks, ego = [], [], []
    for number in range(start, stop):
        name = f"{split}-{number:05d}"
        frames, agent_rows, ego_rows = render_video(spec, split, number)
        path = _write_video(spec, folder, name, frames)
        scene = f"{spec.name}/{name}"
        videos.append({"file": path.name, "split": split, "scene": scene, "frames": len(frames), "sha256": sha256(path)})
        tracks += [{"video": name, **row} for row in agent_rows]
        ego += [{"video": name, **row} for row in ego_rows]
    for kind, rows in zip(PART_KINDS, (videos, tracks, ego), strict=True):
        write_table(_part_path(folder, chunk, kind), pd.DataFrame(rows), with_digest=True)


def _write_video(spec: WorldSpec, folder: Path, name: str, frames: NDArray[np.uint8]) -> Path:
    path = folder / "videos" / f"{name}.mp4"
    write_atomically(path, lambda aside: write_video(aside, frames, spec.frames_per_second))
    return path


def check_world(spec: WorldSpec) -> None:
    """Raises ValueError, with the valid ones, for an unknown world, appearance (`look`) or motion."""
    if spec.world not in WORLDS:
        raise ValueError(f"world {spec.world!r} is none of {', '.join(WORLDS)}")
    world = WORLDS[spec.world]
    if spec.motion not in world.MOTIONS:
        raise ValueError(f"motion {spec.motion!r} is none of {', '.join(world.MOTIONS)} (world {spec.world!r})")
    if spec.world in DRIVING_WORLDS:
        appearance.check_look(spec.look)
    elif spec.look not in world.LOOKS:
        raise ValueError(f"look {spec.look!r} is none of {', '.join(world.LOOKS)} (world {spec.world!r})")
    if not 0 <= spec.eventful_share <= 1:
        raise ValueError(f"eventful_share is {spec.eventful_share!r}; it must be a number from 0 to 1")
    if spec.world == "sumo":
        scenes.check(spec)
    if spec.size_px % 2 or spec.size_px < 16:
        raise ValueError(f"size_px is {spec.size_px}; it must be even, and at least 16")


def render_video(spec: WorldSpec, split: str, number: int) -> tuple[NDArray[np.uint8], Rows, Rows]:
    """Frames uint8 (T, H, W, 3), track rows and ego rows of one video."""
    check_world(spec)
    if spec.world == "doom":
        return walk.render(spec, split, *_streams(spec, split, number))
    scene = scene_of(spec, split, number)
    return Renderer.shared(spec.size_px).render(scene), _track_rows(scene, spec.size_px), _ego_rows(scene)


def scene_of(spec: WorldSpec, split: str, number: int) -> Scene:
    """The scene of a video, in every world but doom, whose scenes are the game's own."""
    look, motion = _streams(spec, split, number)
    if spec.world == "sumo":  # its motion is recorded
        return scenes.draw(spec, look, split, number)
    return WORLDS[spec.world].draw(spec, look, motion, number)


def _streams(spec: WorldSpec, split: str, number: int) -> tuple[np.random.Generator, np.random.Generator]:
    """The random streams of appearance and of motion, which are independent."""
    look = generator(spec.seed, f"{spec.world} {spec.look} look {split}", number)
    motion = generator(spec.seed, f"{spec.world} {spec.motion} motion {split}", number)
    return look, motion


def _track_rows(scene: Scene, size_px: int) -> Rows:
    rows = []
    for frame, (x, y, heading) in enumerate(scene.ego):
        boxes, depths = boxes_of(scene, frame, size_px)
        visible = visible_shares(boxes, depths, size_px)
        counts = eligible(boxes, visible, size_px)
        for agent in np.flatnonzero(visible > 0):
            pose = scene.poses[agent, frame]
            right, ahead, _ = placed((pose[:3, 3] - [x, y, 0])[None], np.zeros(3), -heading)[0]
            rows.append({
                "frame": frame, "agent": int(agent), "kind": scene.kinds[agent],
                **dict(zip(("x0", "y0", "x1", "y1"), boxes[agent], strict=True)),
                "x_m": right, "y_m": ahead, "heading_rad": heading_of(pose) - heading,
                "road_m": np.nan if scene.road_m is None else scene.road_m[agent, frame],
                "visible": visible[agent], "eligible": bool(counts[agent]),
            })  # fmt: skip
    return rows


def _ego_rows(scene: Scene) -> Rows:
    return [
        {"frame": frame, "x_m": x, "y_m": y, "heading_rad": heading, "field_of_view_deg": camera.field_of_view_deg,
         "camera_height_m": camera.height_m, "camera_pitch_rad": camera.pitch_rad, "event": scene.event}
        for frame, ((x, y, heading), camera) in enumerate(zip(scene.ego, scene.cameras, strict=True))
    ]  # fmt: skip
