"""Selection from a source: its frames, their fit to the domain's size, and the ground truth of each.

Decision: frames are never interpolated. Each is the source's nearest in time to the due time; if none is near enough
(`_nearness`) the video is cut, and long videos are cut into equal pieces. The aspect ratio is kept: margins are cropped
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
Read = Callable[[Sequence[int]], Iterator[Picture]]  # reads the frames with these numbers, which ascend

FITS = ("crop", "pad")
PIECE_FRAMES = 120  # decoded at once: half a minute at 4 frames/s
ROUNDING_S = 1e-6  # of times
LEAST_NEARNESS, SOURCE_NEARNESS = 1 / 4, 3 / 4  # in steps: how far a frame may be from its due time
NEIGHBOURS = 5  # steps before, and as many after, whose median is the source's local step


class Unusable(Exception):
    """A source that cannot be used, with the reason and a remedy."""

    def __init__(self, label: str, why: str, what_to_do: str) -> None:
        super().__init__(label, why, what_to_do)

    @property
    def label(self) -> str:
        """The source's name in messages."""
        return str(self.args[0])

    def row(self) -> dict[str, str]:
        """The error as a row of unusable.csv: file, why, what_to_do."""
        return dict(zip(("file", "why", "what_to_do"), self.args, strict=True))


@contextmanager
def as_unusable(label: str, what_to_do: str) -> Iterator[None]:
    """In this context errors of `reading`, for missing or damaged files, become `Unusable`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Unusable(label, reading.reason(error).removesuffix(f"; {what_to_do}"), what_to_do) from error


@dataclass(frozen=True)
class Recipe:
    """Size, frame rate and minimum length of the videos that are made of every source."""

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
    """The mapping from a source's images to the domain's: the region `cut` (left, top, right, bottom; px of the source) is
    resized to `place` (left, top, width, height; px of the domain).
    """

    recipe: Recipe
    cut: tuple[float, float, float, float]
    place: tuple[int, int, int, int]

    @classmethod
    def of(cls, height_px: int, width_px: int, recipe: Recipe) -> Fit:
        """The fit of images of this size, by the recipe's policy."""
        ratios = recipe.height_px / height_px, recipe.width_px / width_px
        if recipe.fit == "crop":
            high = min(recipe.height_px / max(ratios), height_px)  # rounding may make it slightly larger
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
        """(2,): the centre of the domain's image, in px of the source."""
        middle = np.array([self.recipe.width_px, self.recipe.height_px]) / 2
        return (middle - self.place[:2]) / self.scale + self.cut[:2]

    def boxes(self, source_px: Floats) -> Floats:
        """Boxes (A, 4), x0 y0 x1 y1, converted from px of the source to px of the domain."""
        return (source_px - np.tile(self.cut[:2], 2)) * np.tile(self.scale, 2) + np.tile(self.place[:2], 2)

    def picture(self, source: Picture) -> Picture:
        """The domain's image of a source's image (H, W, 3); antialiased bicubic resizing, as is usual for FID and KD."""
        left, top, wide, high = self.place
        part = Image.fromarray(source).resize((wide, high), Image.Resampling.BICUBIC, box=self.cut)
        whole = np.zeros((self.recipe.height_px, self.recipe.width_px, 3), np.uint8)
        whole[top : top + high, left : left + wide] = np.asarray(part)
        return whole


@dataclass(frozen=True)
class Source:
    """One recording, and its selected frames."""

    name: str  # unique; the beginning of its files' names
    label: str  # its name in messages
    scene: str
    split_key: str  # its hash determines the split
    stamp: str  # changes with its files
    pieces: tuple[tuple[int, ...], ...]  # the numbers of the frames of each of its videos
    read: Read
    seconds: float  # estimated time of reading
    tracks: pd.DataFrame | None = None  # TRACK_COLUMNS, of all pieces; None: not known
    ego: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)  # further fields of each of its videos in domain.json
    scenes: tuple[str, ...] = ()  # the scene of each piece, if there are several; replaces `split_key`
    parts: tuple[int, ...] = (0,)  # the numbers of the pieces at which reading may begin, each part in a separate process

    @property
    def frames(self) -> int:
        """The number of selected frames."""
        return sum(map(len, self.pieces))

    def files(self) -> list[str]:
        """The file names of its videos."""
        return [f"{piece_name(self.name, number)}.mp4" for number in range(len(self.pieces))]


class ImageSequence:
    """A source whose frames are image files, or in files that `read` reads, with separate files of ground truth."""

    def __init__(
        self, name: str, label: str, paths: Sequence[Path], truth_paths: Sequence[Path], read: Read | None = None
    ) -> None:
        self.name, self.label, self.paths = name, label, paths
        self.stamp = stamp_of([*truth_paths, *paths])
        self.read: Read = read or partial(_read_images, paths, label)

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with their ground truth; raises Unusable if there is no piece of the length of a clip."""
        raise NotImplementedError


def piece_name(source: str, number: int) -> str:
    """The name of one of a source's videos."""
    return f"{source}-{number:03d}"


def pieces(
    times_s: Sequence[float], recipe: Recipe, label: str, spans: Sequence[tuple[int, int]] = ()
) -> tuple[tuple[int, ...], ...]:
    """The numbers of the selected frames of each piece, for a source with frames at `times_s` (ascending).

    `spans`: ranges (first, last + 1) of usable frames, whose ends no piece crosses (default: all). Raises Unusable if no
    piece is long enough for a clip.
    """
    step_s = 1 / recipe.frames_per_second
    runs = [
        [start + number for number in run]
        for start, stop in spans or [(0, len(times_s))]
        for run in _runs(times_s[start:stop], step_s)
    ]
    usable = [run for run in runs if len(run) >= recipe.frames]
    rate = f"{recipe.frames_per_second:g} per second"
    if not usable:
        longest = max(map(len, runs), default=0)
        its_own_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
        if its_own_s > step_s + ROUNDING_S:
            why = f"it has {1 / its_own_s:.3g} frames per second, and {rate} are required"
            fastest = np.floor(1000 / its_own_s) / 1000
            raise Unusable(label, why, f"record at a higher rate, or give --frames-per-second {fastest:g} or less")
        why = f"too short: {longest} frames at {rate} without a gap, and a clip needs {recipe.frames}"
        raise Unusable(label, why, "give a longer one, or fewer --frames, or more --frames-per-second")
    most = max(PIECE_FRAMES, 2 * recipe.frames)  # at least two clips, so that equal parts are never too short
    return tuple(tuple(map(int, part)) for run in usable for part in np.array_split(run, -(-len(run) // most)))


def left_out(
    times_s: Sequence[float], chosen: Sequence[Sequence[int]], recipe: Recipe, spans: Sequence[tuple[int, int]] = ()
) -> tuple[float, str]:
    """The seconds of a source that are in none of the `pieces`, and the reasons in words; reasons for less than a step are
    omitted.
    """
    times = np.array(times_s)
    if len(times) < 2:
        return 0.0, ""
    step_s, steps = 1 / recipe.frames_per_second, np.diff(times)
    ends = np.array([(times[piece[0]], times[piece[-1]] + step_s) for piece in chosen]).reshape(-1, 2)
    taken = np.concatenate([[0.0], np.cumsum(ends[:, 1] - ends[:, 0])])
    within = np.interp(times, ends.ravel(), np.repeat(taken, 2)[1:-1])  # selected seconds up to each frame
    missing = (steps - np.diff(within)).clip(0)
    inside = np.zeros(len(steps), bool)
    for start, stop in spans or [(0, len(times))]:
        inside[start : max(start, stop - 1)] = True
    own_s, near_s = _own_steps(steps), _nearness(steps, step_s)
    slow = own_s > step_s + ROUNDING_S
    gap = steps > 2 * near_s
    kinds = {
        "between scenes": ~inside,
        f"slower than {recipe.frames_per_second:g} frames per second": inside & slow,
        f"gaps of up to {steps[gap].max(initial=0):.2f} s between frames": inside & ~slow & gap,
        f"runs shorter than {recipe.frames} frames": inside & ~slow & ~gap,
    }
    seconds = {why: float(missing[those].sum()) for why, those in kinds.items()}
    said = {why: one for why, one in seconds.items() if one >= step_s}
    return round(float(sum(said.values())), 2), "; ".join(f"{one:.1f} s: {why}" for why, one in said.items())


def _own_steps(steps_s: Floats) -> Floats:
    """The local step at each of a source's steps: the longer of the medians of those before and of those after."""
    around = np.full((2, NEIGHBOURS, len(steps_s)), np.nan)
    for away in range(1, min(NEIGHBOURS, len(steps_s) - 1) + 1):
        around[0, away - 1, away:] = steps_s[:-away]
        around[1, away - 1, :-away] = steps_s[away:]
    known = (~np.isnan(around)).sum(1)
    ranked = np.sort(around, axis=1)  # missing ones come last
    middle = np.stack([(known - 1) // 2, known // 2], axis=1).clip(0)
    medians = np.nan_to_num(np.take_along_axis(ranked, middle, axis=1).mean(1))
    longer = medians.max(0)
    return np.where(longer > 0, longer, steps_s)


def _nearness(steps_s: Floats, step_s: float) -> Floats:
    """The largest permitted distance of a frame from its due time, at each of a source's steps.

    A quarter of the domain's step, or three quarters of the source's local step (half for sampling, the rest for jitter) if
    that is more, but at most half of the domain's step: gaps are cut out instead of appearing as jumps.
    """
    return np.minimum(step_s / 2, np.maximum(LEAST_NEARNESS * step_s, SOURCE_NEARNESS * _own_steps(steps_s))) + ROUNDING_S


def _runs(times_s: Sequence[float], step_s: float) -> list[list[int]]:
    """The numbers of the frames nearest to the due times, one per step; a new run begins where none is near enough."""
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
    """The number of the frame nearest to a time; of two equally near ones, the earlier."""
    after = min(bisect_left(times_s, due_s), len(times_s) - 1)
    before = max(after - 1, 0)
    return before if due_s - times_s[before] <= times_s[after] - due_s + ROUNDING_S else after


def seen_from(camera: Floats, points: Floats) -> Floats:
    """Points (N, 2) as metres (N, 2) to the right of and ahead of a camera (x, y, heading); heading 0 is the world's +y."""
    x, y, heading = camera
    dx, dy = (points - [x, y]).T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)


def ego_rows(cameras: Floats, fit: Fit, focal_px: float, height_m: float, pitch_rad: float, event: str) -> Rows:
    """The rows with EGO_COLUMNS without `video` of one piece: cameras (T, 3) in the world, `focal_px` of the source."""
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
    """The table (TRACK_COLUMNS) of all visible agents; `eligible` if the row's own is true and `boxes.is_eligible` too."""
    table = pd.DataFrame(rows, columns=list(TRACK_COLUMNS)).astype(TRACK_TYPES)
    table = table[table["visible"] > 0].reset_index(drop=True)
    boxes, visible = table[["x0", "y0", "x1", "y1"]].to_numpy(), table["visible"].to_numpy()
    return table.assign(eligible=table["eligible"] & is_eligible(boxes, visible, recipe.height_px))


def _read_images(paths: Sequence[Path], label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of image files; raises Unusable for the first that cannot be read."""
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
    """A hash of the files' paths, sizes and modification times, which are quick to read."""
    known = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def seconds_per_picture(read: Read) -> float:
    """The measured time of reading the first frame."""
    start = time.perf_counter()
    for _ in read([0]):
        pass
    return time.perf_counter() - start
