"""A domain: a folder of videos and of what is known of them; reading, writing and checking it.

Anyone can make such a folder of their own videos:

    videos/*.mp4     H.264
    domain.json      name, frame rate, size, licence, how it was made, and a list of the videos with split and checksum
    tracks.parquet   one row per video, frame and agent (columns: TRACK_COLUMNS)
    ego.parquet      one row per video and frame (columns: EGO_COLUMNS)

The tables are there where the truth is known; `size_px` is a square's side, or [height, width].

Decision: `domain.json` is written last, so a folder that has one is complete. A split is a property of a video, and a video
is a scene: splits are disjoint by scene. Refused: a domain whose files are missing or whose fields are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab.util import digests
from replaylab.util.files import sha256, write_json, write_sums, write_table

SPLITS = ("train", "dev", "test")
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
        """Twelve hex digits of its domain.json, which has the checksum of every video."""
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
        """The file of a video, by its name without its ending; ValueError if it is not the one that domain.json lists."""
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
        """Every agent's truth, columns TRACK_COLUMNS; raises FileNotFoundError where no truth is known."""
        return _read_table(self.folder / "tracks.parquet", TRACK_COLUMNS)

    @cached_property
    def ego(self) -> pd.DataFrame:
        """The ego car's and camera's truth, columns EGO_COLUMNS."""
        return _read_table(self.folder / "ego.parquet", EGO_COLUMNS)


def open_domain(folder: str | Path) -> Domain:
    """Read and check a domain folder; errors name the file and the field."""
    folder = Path(folder)
    path = folder / "domain.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is no domain, or was not finished")
    about = json.loads(path.read_text())
    for field, kind in (("name", str), ("frames_per_second", (int, float)), ("size_px", (int, list)), ("videos", list)):
        if not isinstance(about.get(field), kind):
            raise ValueError(f"{path}: field {field!r} is missing or of the wrong type")
    height_px, width_px = _sides_px(path, about["size_px"])
    videos = pd.DataFrame(about.pop("videos"), columns=["file", "split", "scene", "frames", "sha256"])
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
    """Finish a domain whose videos are already in `folder/videos`; `domain.json` comes last, unknown tables are None."""
    folder = Path(folder)
    for name, table, columns in (("tracks", tracks, TRACK_COLUMNS), ("ego", ego, EGO_COLUMNS)):
        path = folder / f"{name}.parquet"
        if table is None:
            path.unlink(missing_ok=True)
        else:
            write_table(path, table[list(columns)])
    write_sums(folder, [name for name in ("tracks.parquet", "ego.parquet") if (folder / name).is_file()])
    write_json(folder / "domain.json", {**about, "videos": videos.to_dict("records")})
    return open_domain(folder)


def _sides_px(path: Path, size_px: int | list[Any]) -> tuple[int, int]:
    """Height and width of `size_px`, a side or both."""
    sides = size_px if isinstance(size_px, list) else [size_px, size_px]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{path}: field 'size_px' is {size_px!r}; it is a side in pixels, or [height, width]")
    return sides[0], sides[1]


def _is_known(path: Path) -> bool:
    """Whether a table is there, or should be."""
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
    table = pd.read_parquet(path)
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing ({columns[missing[0]]})")
    return table
