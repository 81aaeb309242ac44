"""A domain: a folder of videos with their metadata and ground truth; reading, writing and checking it.

You can make such a folder from your own videos:

    videos/*.mp4     H.264
    domain.json      name, frame rate, size, licence, how it was made, and a list of the videos with split and checksum
    tracks.parquet   one row per video, frame and agent (columns: TRACK_COLUMNS)
    ego.parquet      one row per video and frame (columns: EGO_COLUMNS)

The tables exist if the ground truth is known; `size_px` is a square's side, or [height, width].

Decision: `domain.json` is written last, so a folder that has one is complete. A split is a property of a video, and a video
is a scene: splits are disjoint by scene. Refused: a domain with missing files or invalid fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab.description import check_name, check_prompt
from replaylab.util import digests, reading
from replaylab.util.files import sha256, write_sums, write_table, write_text
from replaylab.util.progress import report

SPLITS = ("train", "dev", "test")
VIDEO_FIELDS = {"file": (str,), "split": (str,), "scene": (str, int), "frames": (int,), "sha256": (str,)}
MOST_FRAMES_PER_SECOND, MOST_SIDE_PX = 1000, 16384
REMEDY = "correct it, or make the domain again"
TRACK_COLUMNS = {
    "video": "file name without its ending",
    "frame": "from 0",
    "agent": "number within the video, from 0",
    "kind": "car, pedestrian, ball, ...",
    "x0": "left edge of the full box, px (may lie outside the image)",
    "y0": "top edge, px, downwards",
    "x1": "right edge, px",
    "y1": "bottom edge, px",
    "x_m": "metres to the right of the ego camera",
    "y_m": "metres ahead of it",
    "heading_rad": "relative to the ego car's heading, positive to the left",
    "road_m": "metres to the right of the middle of the road; NaN where there is no road",
    "visible": "share of the full box in the image and not covered by a nearer agent's box, 0 to 1",
    "eligible": "whether the agent counts in this frame: tall enough and visible enough",
}
TRACK_TYPES = dict.fromkeys(TRACK_COLUMNS, float) | {"video": str, "frame": int, "agent": int, "kind": str, "eligible": bool}
EGO_COLUMNS = {
    "video": "file name without its ending",
    "frame": "from 0",
    "x_m": "metres to the right of where the video begins",
    "y_m": "metres ahead of where the video begins",
    "heading_rad": "positive to the left",
    "field_of_view_deg": "horizontal; of a square image vertical, too",
    "camera_height_m": "above the ground",
    "camera_pitch_rad": "downwards",
    "event": "what happens in the video",
}
Rows = list[dict[str, Any]]  # of a table


@dataclass(frozen=True)
class Domain:
    """A checked domain folder. `videos`: file, split, scene, frames, sha256; one row per video, in a fixed order."""

    folder: Path
    name: str
    frames_per_second: float
    height_px: int
    width_px: int
    videos: pd.DataFrame
    about: dict[str, Any]

    @property
    def size_px(self) -> int:
        """A square's side; raises ValueError, with the folder, where height and width differ."""
        if self.height_px != self.width_px:
            raise ValueError(f"{self.folder}: pictures are {self.height_px}x{self.width_px}, and squares are needed here")
        return self.height_px

    def split(self, split: str) -> pd.DataFrame:
        """The videos of a split; raises ValueError, with the folder, if there are none."""
        chosen = self.videos[self.videos["split"] == split]
        if chosen.empty:
            counts = self.videos["split"].value_counts().to_dict()
            raise ValueError(f"{self.folder}: no clips in split {split!r} of domain {self.name!r}; it has {counts}")
        return chosen

    @property
    def digest(self) -> str:
        """Twelve hex digits of the SHA-256 of domain.json, which has the checksum of every video."""
        return sha256(self.folder / "domain.json")[:12]

    @property
    def has_tracks(self) -> bool:
        """Whether the agents' boxes and positions are known."""
        return _is_known(self.folder / "tracks.parquet")

    @property
    def has_ego(self) -> bool:
        """Whether the ego car's and camera's poses are known."""
        return _is_known(self.folder / "ego.parquet")

    def video(self, name: str) -> Path:
        """The file of a video, by its name without ending; ValueError if its checksum differs from that in domain.json."""
        path = self.folder / "videos" / f"{name}.mp4"
        checksum = self._checksums.get(path.name)
        if isinstance(checksum, str) and checksum and path.is_file():  # else the reader says that it is missing
            with _whole(self.folder):
                digests.compare(path, checksum, self.folder / "domain.json")
        return path

    @cached_property
    def _checksums(self) -> dict[str, str]:
        return dict(zip(self.videos["file"], self.videos["sha256"], strict=True))

    @cached_property
    def tracks(self) -> pd.DataFrame:
        """The ground truth of every agent, columns TRACK_COLUMNS; raises FileNotFoundError if it is not known."""
        return _read_table(self.folder / "tracks.parquet", TRACK_COLUMNS)

    @cached_property
    def ego(self) -> pd.DataFrame:
        """The ground truth of the ego car and camera, columns EGO_COLUMNS."""
        return _read_table(self.folder / "ego.parquet", EGO_COLUMNS)


def open_domain(folder: str | Path) -> Domain:
    """Read and check a domain folder; errors name the file and the field. `domain.json` may be edited (a prompt): a
    difference from its checksum is only a warning.
    """
    folder = Path(folder)
    path = folder / "domain.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no domain, or was not finished")
    about = reading.json_object(path, REMEDY, name=str, frames_per_second=(int, float), videos=list)
    try:
        digests.check(path)
    except digests.WrongDigest as error:
        _warn_once(f"warning: {error}. If you edited it, write its new SHA-256 in that line; else {REMEDY}")
    check_name(about["name"], f"{path}: field 'name'")
    check_prompt(about.get("prompt", ""), f"{path}: field 'prompt'")
    if not 0 < about["frames_per_second"] <= MOST_FRAMES_PER_SECOND:  # nor is NaN
        rate = about["frames_per_second"]
        raise ValueError(f"{path}: field 'frames_per_second' is {rate!r}; above 0, and at most {MOST_FRAMES_PER_SECOND}")
    height_px, width_px = _sides_px(path, about.get("size_px"))
    videos = _videos(path, about.pop("videos"))
    if wrong := sorted(set(videos["split"]) - set(SPLITS)):
        raise ValueError(f"{path}: unknown split {wrong[0]!r}; splits are {', '.join(SPLITS)}")
    shared = videos.groupby("scene")["split"].nunique()
    if (shared > 1).any():
        raise ValueError(f"{path}: scene {shared.idxmax()!r} is in more than one split")
    return Domain(folder, about["name"], float(about["frames_per_second"]), height_px, width_px, videos, about)


def write_domain(
    folder: str | Path, about: dict[str, Any], videos: pd.DataFrame, tracks: pd.DataFrame | None = None,
    ego: pd.DataFrame | None = None,
) -> Domain:  # fmt: skip
    """Finish a domain whose videos are already in `folder/videos`; writes `domain.json` last. Unknown tables are None."""
    folder = Path(folder)
    for name, table, columns in (("tracks", tracks, TRACK_COLUMNS), ("ego", ego, EGO_COLUMNS)):
        path = folder / f"{name}.parquet"
        if table is None:
            path.unlink(missing_ok=True)
        else:
            write_table(path, table[list(columns)])
    text = json.dumps({**about, "videos": videos.to_dict("records")}, indent=1)
    tables = [name for name in ("tracks.parquet", "ego.parquet") if (folder / name).is_file()]
    write_sums(folder, tables, {"domain.json": text})
    write_text(folder / "domain.json", text)
    return open_domain(folder)


def is_file_name(value: object) -> bool:
    """Whether this is the name of an mp4 file and not a path."""
    return isinstance(value, str) and re.fullmatch(r"[^/\\\x00-\x1f\x7f]+\.mp4", value) is not None and value[0] != "."


def _videos(path: Path, listed: list[Any]) -> pd.DataFrame:
    """The table of a domain's videos; raises ValueError, with the reason, for an invalid entry."""
    for number, video in enumerate(listed):
        where = f"{path}: field 'videos', entry {number}"
        if not isinstance(video, dict):
            raise ValueError(f"{where} is {reading.shown(video)}; an object with {', '.join(VIDEO_FIELDS)} is needed")
        for field, kinds in VIDEO_FIELDS.items():
            if type(video.get(field)) not in kinds:
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"{where}: {field!r} is {reading.shown(video.get(field))}, not of type {wanted}")
        if not is_file_name(video["file"]):
            raise ValueError(f"{where}: 'file' is {reading.shown(video['file'])}; a name in videos/ such as 'one.mp4'")
        if video["frames"] < 1:
            raise ValueError(f"{where}: 'frames' is {video['frames']}; a video has at least one")
    videos = pd.DataFrame(listed, columns=list(VIDEO_FIELDS))
    if (twice := videos["file"].duplicated()).any():
        raise ValueError(f"{path}: field 'videos' lists {videos['file'][twice].iloc[0]!r} twice")
    return videos


@cache
def _warn_once(line: str) -> None:
    report(line)


def _sides_px(path: Path, size_px: Any) -> tuple[int, int]:
    """Height and width from `size_px`, one side or both."""
    sides = size_px if isinstance(size_px, list) else [size_px, size_px]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MOST_SIDE_PX for side in sides):
        raise ValueError(f"{path}: field 'size_px' is {reading.shown(size_px)}; it is a side in pixels, or [height, width]")
    return sides[0], sides[1]


def _is_known(path: Path) -> bool:
    """Whether a table exists, or is listed in the checksums."""
    return path.is_file() or digests.line_of(path) is not None


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except digests.WrongDigest as error:
        raise ValueError(
            f"{error}. Copy it again from where it is whole, or make {folder} again (if it was changed on purpose, "
            "correct its line there)"
        ) from error


def _read_table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: this domain has no known truth")
    with _whole(path.parent):
        digests.check(path)
    numbers = [column for column in columns if TRACK_TYPES.get(column, str if column == "event" else float) in (float, int)]
    return reading.table(path, REMEDY, columns, numbers)
