"""The command line of `domain add`: videos, nuScenes or KITTI in, a domain out.

The rooms that do it are imported when they are asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.util.processes import usable_cores

if TYPE_CHECKING:
    from replaylab.data.importers.conversion import ConversionResult, ConversionSettings

FORMATS = ".3gp, .avi, .mkv, .mov, .mp4, .ts, .webm ..."


def add_parser(verbs: Any) -> None:
    """Add the verb `domain` to the subparsers of the command."""
    text = "make domains of what you filmed, or of public data sets"
    inner = verbs.add_parser("domain", help=text, description=text).add_subparsers(required=True, metavar="VERB")
    text = "make a domain; goes on where it was stopped, and with what was added since"
    kinds = inner.add_parser("add", help=text, description=text).add_subparsers(required=True, metavar="KIND")
    _videos(_kind(kinds, "videos", videos, f"of a folder of video files ({FORMATS})", "4"))
    _nuscenes(_kind(kinds, "nuscenes", nuscenes, "of nuScenes: camera sweeps, boxes and ego pose", "4"))
    _kind(kinds, "kitti", kitti, "of KITTI tracking: training/image_02, label_02, calib and oxts", "5")


def videos(options: argparse.Namespace) -> None:
    """What `domain add videos` does."""
    from replaylab.data.importers import video_folder as room

    _print(room.add(Path(options.source), _settings(options), options.scene_from), options.out)


def nuscenes(options: argparse.Namespace) -> None:
    """What `domain add nuscenes` does."""
    from replaylab.data.importers import nuscenes as room

    _print(room.add(Path(options.source), _settings(options), options.version, options.camera), options.out)


def kitti(options: argparse.Namespace) -> None:
    """What `domain add kitti` does."""
    from replaylab.data.importers import kitti as room

    _print(room.add(Path(options.source), _settings(options)), options.out)


def size(text: str) -> tuple[int, int]:
    """Height and width of "64" or "480x832"; raises ValueError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"size: {text!r}; give one side of a square (64), or height x width (480x832)")
    return int(sides[0]), int(sides[-1])


def _settings(options: argparse.Namespace) -> ConversionSettings:
    from replaylab.data.importers.conversion import ConversionSettings, SplitShares
    from replaylab.data.importers.sources import Recipe

    return ConversionSettings(
        Path(options.out),
        Recipe(*size(options.size), options.fit, options.frames_per_second, options.frames),
        SplitShares(options.dev, options.test),
        options.name,
        options.licence,
        options.prompt,
        options.processes or usable_cores(),
        options.dry_run,
    )


def _print(added: ConversionResult, out: str) -> None:
    if len(added.listing):
        print(added.listing.to_string(index=False))
    if len(added.unusable):
        print(f"\nnot usable ({len(added.unusable)}):\n{added.unusable.to_string(index=False)}")
    domain = added.domain
    if domain is None:
        print(f"\na dry run: {out} was not touched")
        return
    counts = domain.videos.groupby("split")["scene"].nunique()
    splits = ", ".join(f"{split} {counts.get(split, 0)}" for split in ("train", "dev", "test"))
    truth = f"{len(domain.tracks)} agent-frames of truth" if domain.has_tracks else "agents are not known"
    print(f"\n{domain.folder}: {len(domain.videos)} videos of scenes {splits}; {truth}")
    for split in ("train", "dev", "test"):
        if split not in counts:
            print(f"no scene fell to {split}: add scenes, or give other shares (--dev, --test)")


def _kind(kinds: Any, name: str, verb: Any, text: str, rate: str) -> argparse.ArgumentParser:
    sub = kinds.add_parser(name, help=text, description=f"Make a domain {text}.")
    sub.set_defaults(verb=verb)
    sub.add_argument(
        "source",
        metavar="FOLDER" if name == "videos" else "ROOT",
        help="searched with all folders in it" if name == "videos" else "where the data set was unpacked",
    )
    sub.add_argument("--out", required=True, metavar="DOMAIN", help="folder to make, or to go on with")
    sub.add_argument("--name", default="", help="of the domain (default: the folder's)")
    sub.add_argument(
        "--frames-per-second",
        type=float,
        default=float(rate),
        help=f"each true and nearest in time, none is made up (default: {rate})",
    )
    sub.add_argument("--size", default="64", help="64: a square; 480x832: height x width; both even (default: 64)")
    sub.add_argument(
        "--fit",
        choices=("crop", "pad"),
        default="crop",
        help="what does not fit the size is cut off evenly, or bars are added; never stretched (default: crop)",
    )
    sub.add_argument("--frames", type=int, default=8, help="of a clip; shorter pieces are left out (default: 8)")
    for split in ("dev", "test"):
        sub.add_argument(
            f"--{split}", type=float, default=0.1, help=f"share of scenes for {split}, by their names (default: 0.1)"
        )
    sub.add_argument("--licence", default="", help="of the pictures, to be written down")
    sub.add_argument("--prompt", default="", help="what the videos show, for models that are told in words")
    sub.add_argument("--processes", type=int, default=0, help="at once (default: one a core)")
    sub.add_argument("--dry-run", action="store_true", help="list what would be made and how long it would take")
    return sub


def _videos(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--scene-from",
        choices=("file", "folder"),
        default="file",
        help="what never is in two splits: a file, or all files of a folder, e.g. of one drive (default: file)",
    )


def _nuscenes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: v1.0-mini)")
    sub.add_argument("--camera", default="CAM_FRONT", help="channel (default: CAM_FRONT)")
