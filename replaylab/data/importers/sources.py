"""Selection from a source: its pictures, their fit to the domain's size, and the ground truth of each.

Decision: pictures are never interpolated. Each is the source's nearest in time to the due time; if none is near enough
(`_nearness`) the video is cut, and long ones are cut into equal pieces. The aspect ratio is kept: margins are cropped
evenly on both sides, or bars are added. Refused, as `Unusable`: a source without a piece of the length of a clip, and
images that cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from replaylab.data.boxes import is_eligible
from replaylab.data.domain import TRACK_COLUMNS, TRACK_TYPES, Rows
from replaylab.util import reading

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]  # (H, W, 3)
Read = Callable[[Sequence[int]], Iterator[Picture]]  # the pictures of some numbers, ascending

FITS = ("crop", "pad")
PIECE_FRAMES = 120  # half a minute at 4 frames/s: what is decoded at once
ROUNDING_S = 1e-6  # of times
LEAST_NEARNESS, SOURCE_NEARNESS = 1 / 4, 3 / 4  # of a step: how far a picture may be from where it is due
NEIGHBOURS = 5  # steps before, and as many after, whose median is the source's own step at a place


class Unusable(Exception):
    """A source that cannot be used, with the reason and a remedy."""

    def __init__(self, label: str, why: str, what_to_do: str) -> None:
        super().__init__(label, why, what_to_do)

    @property
    def label(self) -> str:
        """The source's name for people."""
        return str(self.args[0])

    def row(self) -> dict[str, str]:
        """A row of unusable.csv: file, why, what_to_do."""
        return dict(zip(("file", "why", "what_to_do"), self.args, strict=True))


@contextmanager
def as_unusable(label: str, what_to_do: str) -> Iterator[None]:
    """What `reading` says of a missing or damaged file becomes `Unusable`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unusable(label, reading.reason(error).removesuffix(f"; {what_to_do}"), what_to_do) from error


@dataclass(frozen=True)
class Recipe:
    """Size, frame rate and shortest length of the videos that are made of every source."""

    height_px: int = 64
    width_px: int = 64
    fit: str = "crop"  # or pad
    frames_per_second: float = 4.0
    frames: int = 8  # of a clip; shorter pieces are left out

    def __post_init__(self) -> None:
        for side in (self.height_px, self.width_px):
            if side % 2 or side < 16:
                raise ValueError(f"size: {side} px; height and width must be even, and at least 16")
        if self.fit not in FITS:
            raise ValueError(f"fit: {self.fit!r} is none of {', '.join(FITS)}")
        if not 0 < self.frames_per_second <= 1000:
            raise ValueError(f"frames_per_second: {self.frames_per_second!r}; it must be above 0")
        if self.frames < 1:
            raise ValueError(f"frames: {self.frames!r}; a clip has at least one")


@dataclass(frozen=True)
class Fit:
    """The map from a source's picture to the domain's: `cut` (left, top, right, bottom; px of the source) fills `place`
    (left, top, width, height; px of the domain).
    """

    recipe: Recipe
    cut: tuple[float, float, float, float]
    place: tuple[int, int, int, int]

    @classmethod
    def of(cls, height_px: int, width_px: int, recipe: Recipe) -> Fit:
        """The fit of pictures of a size, by the recipe's policy."""
        ratios = recipe.height_px / height_px, recipe.width_px / width_px
        if recipe.fit == "crop":
            high = min(recipe.height_px / max(ratios), height_px)  # rounding may make it a hair larger
            wide = min(recipe.width_px / max(ratios), width_px)
            left, top = (width_px - wide) / 2, (height_px - high) / 2
            return cls(recipe, (left, top, left + wide, top + high), (0, 0, recipe.width_px, recipe.height_px))
        high, wide = (max(1, round(side * min(ratios))) for side in (height_px, width_px))
        place = ((recipe.width_px - wide) // 2, (recipe.height_px - high) // 2, wide, high)
        return cls(recipe, (0, 0, width_px, height_px), place)

    @property
    def scale(self) -> Floats:
        """(2,): px of the domain per px of the source, along x and y."""
        left, top, right, bottom = self.cut
        return np.array([self.place[2] / (right - left), self.place[3] / (bottom - top)])

    @property
    def middle(self) -> Floats:
        """(2,): the middle of the domain's picture, in px of the source."""
        middle = np.array([self.recipe.width_px, self.recipe.height_px]) / 2
        return (middle - self.place[:2]) / self.scale + self.cut[:2]

    def boxes(self, source_px: Floats) -> Floats:
        """Boxes (A, 4) of the source, x0 y0 x1 y1, in px of the domain."""
        return (source_px - np.tile(self.cut[:2], 2)) * np.tile(self.scale, 2) + np.tile(self.place[:2], 2)

    def picture(self, source: Picture) -> Picture:
        """The domain's picture; antialiased bicubic, as is usual before distances of features."""
        left, top, wide, high = self.place
        part = Image.fromarray(source).resize((wide, high), Image.Resampling.BICUBIC, box=self.cut)
        whole = np.zeros((self.recipe.height_px, self.recipe.width_px, 3), np.uint8)
        whole[top : top + high, left : left + wide] = np.asarray(part)
        return whole


@dataclass(frozen=True)
class Source:
    """One recording, and its selected pictures."""

    name: str  # with which the names of its files begin; unique
    label: str  # its name for people
    scene: str
    split_key: str  # whose hash decides the split
    stamp: str  # changes with the files that it is made of
    pieces: tuple[tuple[int, ...], ...]  # numbers of the pictures of each of its videos
    read: Read
    seconds: float  # that reading it will take
    tracks: pd.DataFrame | None = None  # TRACK_COLUMNS, of all pieces; None: not known
    ego: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)  # more fields of each of its videos in domain.json
    scenes: tuple[str, ...] = ()  # of each piece, where there are several; it decides the split in place of `split_key`
    parts: tuple[int, ...] = (0,)  # the numbers of the pieces at which reading may begin, each part in a process of its own

    @property
    def frames(self) -> int:
        """How many pictures are taken."""
        return sum(map(len, self.pieces))

    def files(self) -> list[str]:
        """The names of its videos' files."""
        return [f"{piece_name(self.name, number)}.mp4" for number in range(len(self.pieces))]


class ImageSequence:
    """A source whose pictures are image files, or in files that `read` reads, with files of truth beside them."""

    def __init__(
        self, name: str, label: str, paths: Sequence[Path], truth_paths: Sequence[Path], read: Read | None = None
    ) -> None:
        self.name, self.label, self.paths = name, label, paths
        self.stamp = stamp_of([*truth_paths, *paths])
        self.read: Read = read or partial(_read_images, paths, label)

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """Which pictures to take, and the truth of each."""
        raise NotImplementedError


def piece_name(source: str, number: int) -> str:
    """The name of one of a source's videos."""
    return f"{source}-{number:03d}"


def pieces(
    times_s: Sequence[float], recipe: Recipe, label: str, spans: Sequence[tuple[int, int]] = ()
) -> tuple[tuple[int, ...], ...]:
    """Numbers of the pictures to take of a source whose pictures are at `times_s` (ascending), piece by piece.

    `spans`: the first number and that after the last of what may be taken; no piece crosses their ends (default: all).
    Raises Unusable where no piece is long enough for a clip.
    """
    step_s = 1 / recipe.frames_per_second
    runs = [
        [start + number for number in run]
        for start, stop in spans or [(0, len(times_s))]
        for run in _runs(times_s[start:stop], step_s)
    ]
    usable = [run for run in runs if len(run) >= recipe.frames]
    rate = f"{recipe.frames_per_second:g} a second"
    if not usable:
        longest = max(map(len, runs), default=0)
        its_own_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
        if its_own_s > step_s + ROUNDING_S:
            why = f"its pictures come {1 / its_own_s:.3g} a second, and {rate} are wanted"
            fastest = np.floor(1000 / its_own_s) / 1000
            raise Unusable(label, why, f"film faster, or give --frames-per-second {fastest:g} or less")
        why = f"too short: {longest} frames at {rate} without a gap, and a clip needs {recipe.frames}"
        raise Unusable(label, why, "give a longer one, or fewer --frames, or more --frames-per-second")
    most = max(PIECE_FRAMES, 2 * recipe.frames)  # two clips at least, so that equal parts are never too short
    return tuple(tuple(map(int, part)) for run in usable for part in np.array_split(run, -(-len(run) // most)))


def left_out(
    times_s: Sequence[float], chosen: Sequence[Sequence[int]], recipe: Recipe, spans: Sequence[tuple[int, int]] = ()
) -> tuple[float, str]:
    """How many seconds of a source `pieces` leaves out, and why, for people; nothing is said of less than a step."""
    times = np.array(times_s)
    if len(times) < 2:
        return 0.0, ""
    step_s, steps = 1 / recipe.frames_per_second, np.diff(times)
    ends = np.array([(times[piece[0]], times[piece[-1]] + step_s) for piece in chosen]).reshape(-1, 2)
    taken = np.concatenate([[0.0], np.cumsum(ends[:, 1] - ends[:, 0])])
    within = np.interp(times, ends.ravel(), np.repeat(taken, 2)[1:-1])  # seconds taken up to each picture
    missing = (steps - np.diff(within)).clip(0)
    inside = np.zeros(len(steps), bool)
    for start, stop in spans or [(0, len(times))]:
        inside[start : max(start, stop - 1)] = True
    own_s, near_s = _own_steps(steps), _nearness(steps, step_s)
    slow = own_s > step_s + ROUNDING_S
    gap = steps > 2 * near_s
    kinds = {
        "between scenes": ~inside,
        f"slower than {recipe.frames_per_second:g} pictures a second": inside & slow,
        f"gaps of up to {steps[gap].max(initial=0):.2f} s between pictures": inside & ~slow & gap,
        f"runs shorter than {recipe.frames} frames": inside & ~slow & ~gap,
    }
    seconds = {why: float(missing[those].sum()) for why, those in kinds.items()}
    said = {why: one for why, one in seconds.items() if one >= step_s}
    return round(float(sum(said.values())), 2), "; ".join(f"{one:.1f} s: {why}" for why, one in said.items())


def _own_steps(steps_s: Floats) -> Floats:
    """At each of a source's steps, its usual one there: the longer of the medians of those before and of those after."""
    around = np.full((2, NEIGHBOURS, len(steps_s)), np.nan)
    for away in range(1, min(NEIGHBOURS, len(steps_s) - 1) + 1):
        around[0, away - 1, away:] = steps_s[:-away]
        around[1, away - 1, :-away] = steps_s[away:]
    known = (~np.isnan(around)).sum(1)
    ranked = np.sort(around, axis=1)  # those that are not there come last
    middle = np.stack([(known - 1) // 2, known // 2], axis=1).clip(0)
    medians = np.nan_to_num(np.take_along_axis(ranked, middle, axis=1).mean(1))
    longer = medians.max(0)
    return np.where(longer > 0, longer, steps_s)


def _nearness(steps_s: Floats, step_s: float) -> Floats:
    """At each of a source's steps: how far a picture may be from where it is due.

    A quarter of the domain's step, or three quarters of the source's own there (half of it for sampling, the rest for
    jitter), but never more than half of the domain's: a gap is cut out instead of looking like a jerk.
    """
    return np.minimum(step_s / 2, np.maximum(LEAST_NEARNESS * step_s, SOURCE_NEARNESS * _own_steps(steps_s))) + ROUNDING_S


def _runs(times_s: Sequence[float], step_s: float) -> list[list[int]]:
    """Numbers of pictures, each the nearest to its time, one per step; a new run where none is near enough."""
    near_s: list[float] = _nearness(np.diff(times_s), step_s).tolist() or [ROUNDING_S]
    runs: list[list[int]] = []
    first = 0
    while first < len(times_s):
        run = [first]
        while True:
            due = times_s[first] + len(run) * step_s
            near = nearest(times_s, due)
            within_s = near_s[min(max(bisect_left(times_s, due) - 1, 0), len(near_s) - 1)]
            if near == run[-1] or abs(times_s[near] - due) > within_s or due > times_s[-1] + ROUNDING_S:
                break
            run.append(near)
        runs.append(run)
        first = max(run[-1] + 1, bisect_left(times_s, due - within_s))
    return runs


def nearest(times_s: Sequence[float], due_s: float) -> int:
    """The number of the nearest picture; of two that are equally near, the earlier one."""
    after = min(bisect_left(times_s, due_s), len(times_s) - 1)
    before = max(after - 1, 0)
    return before if due_s - times_s[before] <= times_s[after] - due_s + ROUNDING_S else after


def seen_from(camera: Floats, points: Floats) -> Floats:
    """Points (N, 2) as metres to the right of and ahead of a camera (x, y, heading); heading 0 is along the world's +y."""
    x, y, heading = camera
    dx, dy = (points - [x, y]).T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)


def ego_rows(cameras: Floats, fit: Fit, focal_px: float, height_m: float, pitch_rad: float, event: str) -> Rows:
    """EGO_COLUMNS without `video`, of one piece: cameras (T, 3) in the world, `focal_px` of the source."""
    places = seen_from(cameras[0], cameras[:, :2])
    headings = np.unwrap(cameras[:, 2]) - cameras[0, 2]
    across = fit.recipe.width_px / 2 / (focal_px * fit.scale[0])
    return [
        {"frame": frame, "x_m": x, "y_m": y, "heading_rad": heading,
         "field_of_view_deg": float(2 * np.rad2deg(np.arctan(across))), "camera_height_m": height_m,
         "camera_pitch_rad": pitch_rad, "event": event}
        for frame, ((x, y), heading) in enumerate(zip(places, headings, strict=True))
    ]  # fmt: skip


def track_table(rows: Rows, recipe: Recipe) -> pd.DataFrame:
    """TRACK_COLUMNS of what is visible at all; `eligible` by `boxes.is_eligible`, and only where the row's own is true."""
    table = pd.DataFrame(rows, columns=list(TRACK_COLUMNS)).astype(TRACK_TYPES)
    table = table[table["visible"] > 0].reset_index(drop=True)
    boxes, visible = table[["x0", "y0", "x1", "y1"]].to_numpy(), table["visible"].to_numpy()
    return table.assign(eligible=table["eligible"] & is_eligible(boxes, visible, recipe.height_px))


def _read_images(paths: Sequence[Path], label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of image files; raises Unusable with the first that cannot be read."""
    for number in wanted:
        try:
            with Image.open(paths[number]) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken files
            why = f"{paths[number]} cannot be read ({type(error).__name__})"
            raise Unusable(label, why, "copy or download it again") from error


def image_size(path: Path, label: str) -> tuple[int, int]:
    """Height and width of an image file in px."""
    (picture,) = _read_images([path], label, [0])
    return picture.shape[0], picture.shape[1]


def stamp_of(paths: Iterable[Path]) -> str:
    """A hash of the files' sizes and times, which are quick to read."""
    known = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def seconds_per_picture(read: Read) -> float:
    """The time that reading the first picture takes."""
    start = time.perf_counter()
    for _ in read([0]):
        pass
    return time.perf_counter() - start
