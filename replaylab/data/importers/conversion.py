"""How does what somebody filmed become a domain? The part that videos, nuScenes and KITTI share.

Decision: nothing is made up. Every picture is a true one: the nearest in time to where one is due. Where none is near
enough (`_runs`), the video is cut, and long ones are cut into equal pieces; all pieces of a source are one scene. The
aspect ratio is kept: what does not fit is cut off evenly on both sides, or bars are added. A scene's split is drawn by
a hash of its name, so that files that come later move no others. What is converted leaves a note in `sources/`, which
is read instead of converting it again.

A source that cannot be used is `Unusable`: one line of `unusable.csv`, and the rest goes on. Refused: a folder that
holds something else or was begun with another recipe, a source that shows the same as one before it (it could be in
another split), and a domain without a single usable source.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from replaylab.data.boxes import is_eligible
from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, Domain, write_domain
from replaylab.data.video import write_video
from replaylab.util.files import locked, sha256, write_atomically
from replaylab.util.processes import map_in_processes
from replaylab.util.progress import report
from replaylab.util.text import duration

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]  # (H, W, 3)
Read = Callable[[Sequence[int]], Iterator[Picture]]  # the pictures of some numbers, ascending

FITS = ("crop", "pad")
PIECE_FRAMES = 120  # half a minute at 4 a second: what is decoded at once
SLACK_S = 1e-6  # times are rounded
NEAR_OF_OURS, NEAR_OF_ITS = 1 / 4, 3 / 4  # of a step: how far a picture may be from where it is due


class Unusable(Exception):
    """A source that nothing can be made of: which one, why, and what to do."""

    def __init__(self, source: str, why: str, what_to_do: str) -> None:
        super().__init__(source, why, what_to_do)

    @property
    def shown(self) -> str:
        """What a person knows the source by."""
        return str(self.args[0])

    def row(self) -> dict[str, str]:
        """A line of a table: file, why, what_to_do."""
        return dict(zip(("file", "why", "what_to_do"), self.args, strict=True))


@dataclass(frozen=True)
class Recipe:
    """What is made of every source."""

    height_px: int = 64
    width_px: int = 64
    fit: str = "crop"
    """or pad"""
    frames_per_second: float = 4.0
    frames: int = 8
    """of a clip: a shorter piece is of no use"""

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

    @property
    def piece_frames(self) -> int:
        """At most so many in a file; twice a clip, so that equal parts are never too short."""
        return max(PIECE_FRAMES, 2 * self.frames)


class Shares(NamedTuple):
    """Of scenes, in the splits that are not for training."""

    dev: float
    test: float

    def split_of(self, scene: str) -> str:
        """Drawn by a hash of the name."""
        digits = hashlib.sha256(scene.encode(errors="surrogateescape")).hexdigest()[:13]
        drawn = int(digits, 16) / 16**13
        return "test" if drawn < self.test else "dev" if drawn < self.test + self.dev else "train"

    def check(self) -> None:
        """Raises ValueError."""
        if not (self.dev >= 0 and self.test >= 0 and self.dev + self.test <= 1):
            raise ValueError(f"dev {self.dev}, test {self.test}: shares of scenes, from 0 to 1 together")


@dataclass(frozen=True)
class Order:
    """What is asked for, whatever is filmed."""

    out: Path
    recipe: Recipe = Recipe()
    shares: Shares = Shares(0.1, 0.1)
    name: str = ""
    """of the domain; the folder's if empty"""
    licence: str = ""
    prompt: str = ""
    """what its videos show, for models that are told in words"""
    processes: int = 1
    dry_run: bool = False


@dataclass(frozen=True)
class Added:
    """What came of it."""

    domain: Domain | None
    """None of a dry run"""
    listing: pd.DataFrame
    """what was, or is to be, converted: one row a source"""
    unusable: pd.DataFrame
    """file, why, what_to_do"""


@dataclass(frozen=True)
class Fit:
    """From a source's picture to ours: `cut` (left, top, right, bottom; px of the source) fills `place` (left, top, width,
    height; px of ours).
    """

    recipe: Recipe
    cut: tuple[float, float, float, float]
    place: tuple[int, int, int, int]

    @classmethod
    def of(cls, height_px: int, width_px: int, recipe: Recipe) -> Fit:
        """Of a source's pictures, by the recipe's policy."""
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
        """(2,): px of ours a px of the source, along x and y."""
        left, top, right, bottom = self.cut
        return np.array([self.place[2] / (right - left), self.place[3] / (bottom - top)])

    @property
    def middle(self) -> Floats:
        """(2,): where in the source our picture has its middle."""
        ours = np.array([self.recipe.width_px, self.recipe.height_px]) / 2
        return (ours - self.place[:2]) / self.scale + self.cut[:2]

    def boxes(self, source_px: Floats) -> Floats:
        """(A, 4): x0 y0 x1 y1 of the source in px of ours."""
        return (source_px - np.tile(self.cut[:2], 2)) * np.tile(self.scale, 2) + np.tile(self.place[:2], 2)

    def picture(self, source: Picture) -> Picture:
        """Ours; antialiased bicubic, as distances of features are usual to be fed."""
        left, top, wide, high = self.place
        part = Image.fromarray(source).resize((wide, high), Image.Resampling.BICUBIC, box=self.cut)
        made = np.zeros((self.recipe.height_px, self.recipe.width_px, 3), np.uint8)
        made[top : top + high, left : left + wide] = np.asarray(part)
        return made


@dataclass(frozen=True)
class Source:
    """Something filmed in one go, and which of its pictures to take."""

    name: str
    """how its files begin: no other source's do"""
    shown: str
    """what a person knows it by"""
    scene: str
    drawn_by: str
    """whose hash draws the split"""
    stamp: str
    """changes with what it is made of"""
    pieces: tuple[tuple[int, ...], ...]
    read: Read
    seconds: float
    """that it will take to read"""
    tracks: pd.DataFrame | None = None
    """TRACK_COLUMNS, of all pieces; None: not known"""
    ego: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """more to write down of each of its videos"""

    @property
    def frames(self) -> int:
        """How many pictures are taken of it."""
        return sum(map(len, self.pieces))

    def files(self) -> list[str]:
        """The names of its videos' files."""
        return [f"{piece_name(self.name, number)}.mp4" for number in range(len(self.pieces))]


def piece_name(source: str, number: int) -> str:
    """The name of one of a source's videos."""
    return f"{source}-{number:03d}"


# ------------------------------------------------------------------------------------------------------------------ time
def pieces(times_s: Sequence[float], recipe: Recipe, shown: str) -> tuple[tuple[int, ...], ...]:
    """Numbers of the pictures to take of a source whose pictures are at `times_s` (ascending), piece by piece.

    Raises Unusable where no piece is long enough for a clip.
    """
    runs = _runs(times_s, 1 / recipe.frames_per_second)
    usable = [run for run in runs if len(run) >= recipe.frames]
    rate = f"{recipe.frames_per_second:g} a second"
    if not usable:
        longest = max(map(len, runs), default=0)
        step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
        if step_s > 1 / recipe.frames_per_second + SLACK_S:
            raise Unusable(
                shown,
                f"its pictures come {1 / step_s:.3g} a second, and {rate} are wanted",
                f"film faster, or give --frames-per-second {np.floor(1000 / step_s) / 1000:g} or less",
            )
        raise Unusable(
            shown,
            f"too short: {longest} frames at {rate} without a gap, and a clip needs {recipe.frames}",
            "give a longer one, or fewer --frames, or more --frames-per-second",
        )
    return tuple(
        tuple(map(int, part)) for run in usable for part in np.array_split(run, -(-len(run) // recipe.piece_frames))
    )


def _runs(times_s: Sequence[float], step_s: float) -> list[list[int]]:
    """Numbers of pictures, each the nearest to its time, one a step; a new run where none is near enough.

    Near enough is a quarter of our step, or three quarters of the source's own (which is what sampling its pictures needs,
    and some jitter), but never more than half of ours: a gap is cut out, and does not look like a jerk.
    """
    its_own_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    near_s = min(step_s / 2, max(NEAR_OF_OURS * step_s, NEAR_OF_ITS * its_own_s)) + SLACK_S
    runs: list[list[int]] = []
    first = 0
    while first < len(times_s):
        run = [first]
        while True:
            due = times_s[first] + len(run) * step_s
            near = _nearest(times_s, due)
            if near == run[-1] or abs(times_s[near] - due) > near_s or due > times_s[-1] + SLACK_S:
                break
            run.append(near)
        runs.append(run)
        first = max(run[-1] + 1, bisect_left(times_s, due - near_s))
    return runs


def _nearest(times_s: Sequence[float], due_s: float) -> int:
    """Of two that are equally near, the earlier one."""
    after = min(bisect_left(times_s, due_s), len(times_s) - 1)
    before = max(after - 1, 0)
    return before if due_s - times_s[before] <= times_s[after] - due_s + SLACK_S else after


# ----------------------------------------------------------------------------------------------------------------- truth
def seen_from(camera: Floats, points: Floats) -> Floats:
    """(N, 2) m: to the right of and ahead of a camera (x, y, heading) of points (N, 2); headings as in EGO_COLUMNS, 0
    along the world's +y.
    """
    x, y, heading = camera
    dx, dy = (points - [x, y]).T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)


def wrapped(angle_rad: float) -> float:
    """The same angle, from -pi to pi."""
    return float((angle_rad + np.pi) % (2 * np.pi) - np.pi)


def ego_rows(
    cameras: Floats, fit: Fit, focal_px: float, height_m: float, pitch_rad: float, event: str
) -> list[dict[str, Any]]:
    """EGO_COLUMNS but `video`, of one piece: cameras (T, 3) in the world, `focal_px` of the source."""
    places = seen_from(cameras[0], cameras[:, :2])
    headings = np.unwrap(cameras[:, 2]) - cameras[0, 2]
    across = fit.recipe.width_px / 2 / (focal_px * fit.scale[0])
    return [
        {"frame": frame, "x_m": x, "y_m": y, "heading_rad": heading,
         "field_of_view_deg": float(2 * np.rad2deg(np.arctan(across))), "camera_height_m": height_m,
         "camera_pitch_rad": pitch_rad, "event": event}
        for frame, ((x, y), heading) in enumerate(zip(places, headings, strict=True))
    ]  # fmt: skip


def share_inside(boxes: Floats, recipe: Recipe) -> Floats:
    """(A,): how much of each box (A, 4) lies in our picture."""
    corners = np.clip(boxes, 0, np.tile([recipe.width_px, recipe.height_px], 2))
    return _areas(corners) / np.maximum(_areas(boxes), 1e-9)


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def track_table(rows: list[dict[str, Any]], recipe: Recipe) -> pd.DataFrame:
    """TRACK_COLUMNS: what is in the picture at all; `eligible` by `dynamics.is_eligible`, unless the row says it is not."""
    kinds = {"video": str, "frame": int, "agent": int, "kind": str, "eligible": bool}
    table = pd.DataFrame(rows, columns=list(TRACK_COLUMNS))
    table = table.astype({name: kinds.get(name, float) for name in TRACK_COLUMNS})
    table = table[table["visible"] > 0].reset_index(drop=True)
    boxes, visible = table[["x0", "y0", "x1", "y1"]].to_numpy(), table["visible"].to_numpy()
    return table.assign(eligible=table["eligible"] & is_eligible(boxes, visible, recipe.height_px))


# ------------------------------------------------------------------------------------------------------------ pictures
def read_images(paths: Sequence[Path], shown: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of image files; raises Unusable with the first that is none."""
    for number in wanted:
        try:
            with Image.open(paths[number]) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow says SyntaxError of some broken files
            raise Unusable(
                shown, f"{paths[number]} cannot be read ({type(error).__name__})", "copy or download it again"
            ) from error


def image_size(path: Path, shown: str) -> tuple[int, int]:
    """Height and width, from its header."""
    (picture,) = read_images([path], shown, [0])
    return picture.shape[0], picture.shape[1]


# --------------------------------------------------------------------------------------------------------------- convert
def check(order: Order, origin: str) -> None:
    """Whether it can be done: `out` is free, or was begun by the same command. Raises ValueError, with the field."""
    order.shares.check()
    out, wanted = order.out, {"origin": origin, **asdict(order.recipe)}
    path = _recipe_path(out)
    if path.is_file():
        known = json.loads(path.read_text())
        for name, value in wanted.items():
            if known.get(name) != value:
                raise ValueError(
                    f"{out}: was begun with {name} {known.get(name)!r}, and {value!r} is asked for; give another --out"
                )
    elif (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ValueError(f"{out}: is there already, and `domain add` did not begin it; give a new --out for the domain")


def is_converted(out: Path, name: str, stamp: str) -> bool:
    """Whether a source was converted as it is now."""
    path = _note_path(out, name)
    if not path.is_file():
        return False
    note = json.loads(path.read_text())
    return note["stamp"] == stamp and all((out / "videos" / row["file"]).is_file() for row in note["rows"])


def stamp_of(paths: Iterable[Path]) -> str:
    """Changes when one of the files does: of their sizes and times, which are quick to ask for."""
    known = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def make(
    order: Order, origin: str, names: Sequence[str], sources: Sequence[Source], unusable: Sequence[Unusable],
    about: dict[str, Any],
) -> Added:  # fmt: skip
    """Convert what is missing, and finish the domain of all the sources `names`; what it will take is said first.

    `origin` is where it comes from, in words that never change for this domain; `about` goes into domain.json. Raises
    ValueError where nothing is usable, after unusable.csv was written.
    """
    if len(sources) + len(unusable) < len(names):
        done = len(names) - len(sources) - len(unusable)
        report(f"{order.out}: {done} of {len(names)} sources were already converted")
    if sources:
        report(_estimate(order, sources))
    rows = [
        {"file": source.shown, **source.about, "files": len(source.pieces), "frames": source.frames,
         "scene": source.scene, "split": order.shares.split_of(source.drawn_by)}
        for source in sources
    ]  # fmt: skip
    if order.dry_run:
        return Added(None, pd.DataFrame(rows), unusable_table(unusable))
    with locked(order.out):
        text = json.dumps({"origin": origin, **asdict(order.recipe)}, indent=1)
        write_atomically(_recipe_path(order.out), lambda path: path.write_text(text))
        found = [*unusable, *_convert_all(order, sources)]
        domain, table = _finish(order, names, about, found)
    return Added(domain, pd.DataFrame(rows), table)


def _estimate(order: Order, sources: Sequence[Source]) -> str:
    files = sum(len(source.pieces) for source in sources)
    frames = sum(source.frames for source in sources)
    seconds = sum(source.seconds for source in sources) / max(1, min(order.processes, len(sources)))
    return (
        f"{len(sources)} sources to convert: {frames} frames, "
        f"{duration(frames / order.recipe.frames_per_second)} of video in {files} files; at least {duration(seconds)}"
    )


def _convert_all(order: Order, sources: Sequence[Source]) -> list[Unusable]:
    """Make the videos of all sources, side by side; what cannot be made comes back."""
    missing = [source for source in sources if not is_converted(order.out, source.name, source.stamp)]
    if not missing:  # or another process, which was waited for, has made them
        return []
    (order.out / "domain.json").unlink(missing_ok=True)  # whole again when all are
    (order.out / "videos").mkdir(exist_ok=True)
    convert = partial(_converted, order.out, order.recipe)
    made = map_in_processes(convert, missing, order.processes, "converting", "sources")
    return [wrong for wrong in made if wrong is not None]


def _finish(
    order: Order, names: Sequence[str], about: dict[str, Any], unusable: Sequence[Unusable]
) -> tuple[Domain, pd.DataFrame]:
    """The domain of all the named sources that are converted, and the table of those that are not in it."""
    out, recipe = order.out, order.recipe
    bad = {wrong.shown for wrong in unusable}
    paths = [_note_path(out, name) for name in names]
    notes = [json.loads(path.read_text()) for path in paths if path.is_file()]
    notes, twins = _without_twins([note for note in notes if note["shown"] not in bad])
    table = unusable_table([*unusable, *twins])
    write_atomically(out / "unusable.csv", lambda path: table.to_csv(path, index=False, errors="backslashreplace"))
    if not notes:
        first = table.iloc[0]
        raise ValueError(
            f"{out}: nothing usable among {len(table)} sources, see unusable.csv; the first: "
            f"{first['file']}: {first['why']}: {first['what_to_do']}"
        )
    rows = [
        {"file": row["file"], "split": order.shares.split_of(note["drawn_by"]), "scene": note["scene"], **row}
        for note in notes
        for row in note["rows"]
    ]
    size_px = recipe.height_px if recipe.height_px == recipe.width_px else [recipe.height_px, recipe.width_px]
    described: dict[str, Any] = {
        "name": order.name or out.resolve().name,
        "frames_per_second": recipe.frames_per_second,
        "size_px": size_px,
        "fit": recipe.fit,
    }
    if order.prompt:
        described["prompt"] = order.prompt
    known = [_together(out, notes, kind) for kind in ("tracks", "ego")]
    return write_domain(out, described | about, pd.DataFrame(rows), *known), table


def _without_twins(notes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Unusable]]:
    """Copies of a video would be in two splits: the first one stays."""
    seen: dict[str, str] = {}
    kept, twins = [], []
    for note in notes:
        sums = [row["sha256"] for row in note["rows"]]
        twin = next((seen[one] for one in sums if one in seen), "")
        if twin:
            twins.append(Unusable(note["shown"], f"shows the same as {twin}", "take one of them away"))
        else:
            kept.append(note)
            seen |= dict.fromkeys(sums, note["shown"])
    return kept, twins


def _together(out: Path, notes: list[dict[str, Any]], kind: str) -> pd.DataFrame | None:
    """A table of all sources; None where it is not known."""
    parts = [_part_path(out, note["name"], kind) for note in notes]
    if not all(path.is_file() for path in parts):
        return None
    return pd.concat(map(pd.read_parquet, parts), ignore_index=True)


def unusable_table(unusable: Sequence[Unusable]) -> pd.DataFrame:
    """Columns file, why, what_to_do."""
    rows = sorted((wrong.row() for wrong in unusable), key=lambda row: row["file"])
    return pd.DataFrame(rows, columns=["file", "why", "what_to_do"])


def seconds_each(read: Read, number: int) -> float:
    """How long it takes to read a picture."""
    start = time.perf_counter()
    for _ in read([number]):
        pass
    return time.perf_counter() - start


def _converted(out: Path, recipe: Recipe, source: Source) -> Unusable | None:
    try:
        _convert(out, recipe, source)
    except Unusable as wrong:
        return wrong
    return None


def _convert(out: Path, recipe: Recipe, source: Source) -> None:
    """The videos of a source, then its tables, then its note: where there is one, all is."""
    _note_path(out, source.name).unlink(missing_ok=True)
    for old in (out / "videos").glob(f"{source.name}-[0-9]*.mp4"):
        old.unlink()
    coming = source.read([number for piece in source.pieces for number in piece])
    rows = []
    for file, piece in zip(source.files(), source.pieces, strict=True):
        frames = [_fitted(picture, recipe) for _, picture in zip(piece, coming, strict=False)]
        if len(frames) < len(piece):
            raise Unusable(source.shown, "damaged: not all of its pictures can be decoded", "copy it again")
        path = out / "videos" / file
        made = np.stack(frames)
        write_atomically(path, lambda aside, made=made: write_video(aside, made, recipe.frames_per_second))
        rows.append(
            {"file": file, "frames": len(piece), "sha256": sha256(path), "source": source.shown, **source.about}
        )
    for kind, table, columns in (("tracks", source.tracks, TRACK_COLUMNS), ("ego", source.ego, EGO_COLUMNS)):
        if table is not None:
            known = table[list(columns)]
            write_atomically(
                _part_path(out, source.name, kind), lambda aside, known=known: known.to_parquet(aside, index=False)
            )
    note = {"name": source.name, "shown": source.shown, "stamp": source.stamp, "scene": source.scene,
            "drawn_by": source.drawn_by, "rows": rows}  # fmt: skip
    write_atomically(_note_path(out, source.name), lambda aside: aside.write_text(json.dumps(note, indent=1)))


def _fitted(picture: Picture, recipe: Recipe) -> Picture:
    return Fit.of(picture.shape[0], picture.shape[1], recipe).picture(picture)


def _recipe_path(out: Path) -> Path:
    return out / "sources" / "recipe.json"


def _note_path(out: Path, name: str) -> Path:
    return out / "sources" / f"{name}.note.json"


def _part_path(out: Path, name: str, kind: str) -> Path:
    return out / "sources" / f"{name}-{kind}.parquet"
