"""The verb `domain add`: a domain from video files, or from a public data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.cli import options as shared
from replaylab.util.processes import usable_cores
from replaylab.util.text import printable

if TYPE_CHECKING:
    from replaylab.data.importers.conversion import ConversionResult, ConversionSettings

FORMATS = ".3gp, .avi, .mkv, .mov, .mp4, .ts, .webm ..."
NEEDS = {  # of each data set: what is made of it, and the files of it that are needed, by the names of its own downloads
    "nuscenes": "camera sweeps, boxes and ego pose of nuScenes. Needs the metadata and camera files of v1.0-mini or "
    "v1.0-trainval, unpacked into one folder (nuscenes.org, after an account and its terms), and nuscenes-devkit",
    "kitti": "KITTI tracking: pictures, boxes and ego pose. Needs data_tracking_image_2, _label_2, _calib and _oxts, "
    "unpacked into one folder (cvlibs.net, after an account): training/image_02, label_02, calib, oxts",
    "waymo": "Waymo Open Dataset v2: a camera's pictures, projected 3-D boxes and ego pose. Needs the Parquet folders "
    "camera_image, camera_calibration, vehicle_pose and lidar_box of training or validation of v_2_0_1 (waymo.com/open, "
    "after an account and its licence); no TensorFlow",
    "bdd100k": "BDD100K's tracks of boxes: pictures and boxes, no ego pose. Needs MOT 2020 Labels (labels/box_track_20) and "
    "MOT 2020 Images (images/track), or in place of these the 100K videos (videos/train, videos/val), in one folder "
    "(bdd-data.berkeley.edu, after an account and its licence)",
    "comma2k19": "comma2k19: road video and ego pose; it has no boxes. Needs Chunk_1.zip to Chunk_10.zip, or some of them, "
    "unpacked into one folder (by the torrent of github.com/commaai/comma2k19)",
}


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    verbs = shared.add_group(verbs, "domain", "make domains from your own videos, or from public data sets")
    text = "make a domain from one of these; an interrupted call continues, and includes what was added since"
    kinds = shared.add_group(verbs, "add", text, "KIND")
    videos = _add_kind(kinds, "videos", f"a folder of video files ({FORMATS})", 4)
    text = "unit that is never divided among splits: a file, a folder (one drive), or from cut to cut (default: file)"
    videos.add_argument("--scene-from", choices=("file", "folder", "cuts"), default="file", help=text)
    text = "cut long files into scenes of about this length, with a gap of a clip's length between them"
    videos.add_argument("--scene-seconds", type=float, default=0.0, help=text)
    text = "number of the stream, from 0, in files with several (default: the one shown by players)"
    videos.add_argument("--stream", type=int, help=text)
    nuscenes = _add_kind(kinds, "nuscenes", NEEDS["nuscenes"], 4)
    nuscenes.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: v1.0-mini)")
    nuscenes.add_argument("--camera", default="CAM_FRONT", help="channel (default: CAM_FRONT)")
    _add_kind(kinds, "kitti", NEEDS["kitti"], 5)
    waymo = _add_kind(kinds, "waymo", NEEDS["waymo"], 5)
    waymo.add_argument("--camera", default="FRONT", help="FRONT, FRONT_LEFT, FRONT_RIGHT, SIDE_LEFT or SIDE_RIGHT")
    _add_kind(kinds, "bdd100k", NEEDS["bdd100k"], 5)
    _add_kind(kinds, "comma2k19", NEEDS["comma2k19"], 5)


def _add_kind(kinds: Any, name: str, text: str, rate: int) -> argparse.ArgumentParser:
    """A parser with the options that every kind of source has; `rate`: frames per second by default."""
    parser = shared.add_verb(kinds, name, text, run, f"Make a domain of {text}.")
    parser.set_defaults(kind=name)
    if name == "videos":
        parser.add_argument("source", metavar="FOLDER", help="folder of videos, searched recursively")
    else:
        parser.add_argument("source", metavar="ROOT", help="folder of the unpacked data set")
    parser.add_argument("--out", required=True, metavar="DOMAIN", help="folder of the new domain, or of one to continue")
    parser.add_argument("--name", default="", help="name of the domain (default: the folder's)")
    about = f"each the nearest real frame in time, never interpolated (default: {rate})"
    parser.add_argument("--frames-per-second", type=float, default=float(rate), help=about)
    parser.add_argument("--size", default="64", help="64: a square; 480x832: height x width; both even (default: 64)")
    about = "crop the margins evenly, or add bars; frames are never stretched (default: crop)"
    parser.add_argument("--fit", choices=("crop", "pad"), default="crop", help=about)
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip; shorter parts are left out (default: 8)")
    for split in ("dev", "test"):
        about = f"share of scenes for {split}, by their names (default: 0.1)"
        parser.add_argument(f"--{split}", type=float, default=0.1, help=about)
    parser.add_argument("--licence", default="", help="licence of the pictures, stored in the domain")
    parser.add_argument("--prompt", default="", help="description of the videos, for models with a text encoder")
    parser.add_argument("--processes", type=int, default=0, help="number of processes (default: one per core)")
    parser.add_argument("--dry-run", action="store_true", help="list the videos to be made, and the estimated time")
    return parser


def run(options: argparse.Namespace) -> None:
    """Make the domain, or continue it, and print its contents."""
    from replaylab.data.importers import bdd100k, comma2k19, kitti, nuscenes, video_folder, waymo

    source, settings = Path(options.source), _settings(options)
    if options.kind == "videos":
        result = video_folder.add(source, settings, options.scene_from, options.scene_seconds, options.stream)
    elif options.kind == "nuscenes":
        result = nuscenes.add(source, settings, options.version, options.camera)
    elif options.kind == "waymo":
        result = waymo.add(source, settings, options.camera)
    else:
        importers = {"kitti": kitti, "bdd100k": bdd100k, "comma2k19": comma2k19}
        result = importers[options.kind].add(source, settings)
    _print(result, options.out)


def _size(text: str) -> tuple[int, int]:
    """Height and width from "64" or "480x832"; raises ValueError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"size: {text!r}; give one side of a square (64), or height x width (480x832)")
    return int(sides[0]), int(sides[-1])


def _settings(options: argparse.Namespace) -> ConversionSettings:
    from replaylab.data.importers.conversion import ConversionSettings, SplitShares
    from replaylab.data.importers.sources import Recipe

    return ConversionSettings(
        Path(options.out), Recipe(*_size(options.size), options.fit, options.frames_per_second, options.frames),
        SplitShares(options.dev, options.test), options.name, options.licence, options.prompt,
        options.processes or usable_cores(), options.dry_run,
    )  # fmt: skip


def _print(result: ConversionResult, out: str) -> None:
    if len(result.listing):
        print(printable(result.listing.to_string(index=False)))
    if len(result.unusable):
        print(printable(f"\nnot usable ({len(result.unusable)}):\n{result.unusable.to_string(index=False)}"))
    if len(result.look_alikes):
        alike = result.look_alikes.to_string(index=False)
        print(printable(f"\nin one split because they show nearly the same:\n{alike}"))
    domain = result.domain
    if domain is None:
        print(f"\na dry run: {out} was not touched")
        return
    counts = domain.videos.groupby("split")["scene"].nunique()
    splits = ", ".join(f"{split} {counts.get(split, 0)}" for split in ("train", "dev", "test"))
    truth = f"{len(domain.tracks)} agent-frames of truth" if domain.has_tracks else "agents are not known"
    print(f"\n{domain.folder}: {len(domain.videos)} videos of scenes {splits}; {truth}")
    for split in ("train", "dev", "test"):
        if split not in counts:
            print(f"no scene is assigned to {split}: add scenes, or give other shares (--dev, --test)")
