"""Importer of BDD100K videos with the box tracks of MOT 2020, as a domain with ground-truth boxes.

Decision: each label file (Scalabel's JSON) is a source. Its images are those of the download "MOT 2020 Images" or, if these
are missing, of the video of the same name among the 100K videos: for each label, the frame nearest to frameIndex /
LABELS_PER_SECOND, because BDD100K documents the rate of the labelled frames but not which video frame is the first. Boxes
end at the edge of BDD100K's image, and at x2 + 1, as in Scalabel's conversion to COCO. BDD100K states only whether a box is
occluded and whether it is truncated: `visible` is the product of OCCLUDED and TRUNCATED, where they apply, and of the share
of the box within the domain's image. Crowds, and categories that BDD100K does not evaluate, are never eligible.

Not known: positions in metres, headings, road_m, and the ego car's motion (BDD100K's GPS and IMU data are not poses). A
label file with errors, or without images, is `Unusable`. Refused: a folder without labels/box_track_20.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from replaylab.data.boxes import share_inside
from replaylab.data.domain import Rows
from replaylab.data.importers import conversion, sources
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.recording import Recording, probe
from replaylab.data.importers.sources import Fit, ImageSequence, Picture, Recipe, Source, Unusable
from replaylab.util import reading
from replaylab.util.progress import track

ORIGIN = "bdd100k mot"
LICENCE = "BDD100K, The Regents of the University of California: educational, research and not-for-profit purposes"
LABELS_PER_SECOND = 5.0
KINDS = {
    "pedestrian": "pedestrian", "rider": "rider", "car": "car", "truck": "truck", "bus": "bus", "train": "train",
    "motorcycle": "motorcycle", "bicycle": "bicycle",
}  # fmt: skip
NOT_EVALUATED = {"other person": "pedestrian", "other vehicle": "misc", "trailer": "trailer"}
CROWD = "crowd"
OCCLUDED, TRUNCATED = 0.5, 0.7
FILMS = (".mov", ".mp4")
AGAIN = "unpack MOT 2020 Labels again"
SIDES = ("x1", "y1", "x2", "y2")


def add(root: Path, settings: ConversionSettings) -> ConversionResult:
    """Make a domain of all labelled videos of train and val; an interrupted conversion is resumed.

    Raises FileNotFoundError for a folder without labels, ValueError if no video is usable.
    """
    tables = sorted((root / "labels" / "box_track_20").glob("*/*.json"), key=lambda path: path.stem)
    if not tables:
        raise FileNotFoundError(
            f"{root / 'labels' / 'box_track_20'} has no */*.json: give the folder in which BDD100K's `labels` (MOT 2020 "
            "Labels) and `images` (MOT 2020 Images) or `videos` lie"
        )
    conversion.check(settings, ORIGIN)
    openers = [partial(BddVideo, root, path) for path in tables]
    missing, unusable = conversion.sources_of(settings, track(openers, "reading labels", unit="videos"))
    about = {"licence": settings.licence or LICENCE, "made_by": "replaylab.bdd100k"}
    return conversion.convert(settings, ORIGIN, [path.stem for path in tables], missing, unusable, about)


class BddVideo(ImageSequence):
    """A labelled video: its images, or its video file, and its boxes."""

    def __init__(self, root: Path, labels: Path) -> None:
        self.labels, split, video = labels, labels.parent.name, labels.stem
        pictures = root / "images" / "track" / split / video
        films = [path for ending in FILMS if (path := root / "videos" / split / f"{video}{ending}").is_file()]
        paths, read = sorted(pictures.glob("*.jpg")), None
        self.film = None if paths or not films else films[0]
        if self.film:
            paths, read = [self.film], partial(_of_film, self.film, video)
        if not paths:
            why = f"neither images in {pictures} nor a video {root / 'videos' / split / video}{FILMS[0]}"
            raise Unusable(video, why, "download MOT 2020 Images, or the 100K videos")
        super().__init__(video, video, paths, [labels], read)

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with their ground truth."""
        boxes, frames, (height_px, width_px) = self.boxes(), *self._pictures()
        there = [at for at, frame in enumerate(frames) if frame in boxes]
        if not there:
            raise Unusable(self.label, f"{self.labels}: none of its frames has an image", "unpack images and labels again")
        chosen = sources.pieces([frames[at] / LABELS_PER_SECOND for at in there], recipe, self.label)
        chosen = tuple(tuple(there[number] for number in piece) for piece in chosen)
        fit, tracks = Fit.of(height_px, width_px, recipe), []
        for number, piece in enumerate(chosen):
            video = sources.piece_name(self.name, number)
            rows = _agents([boxes[frames[at]] for at in piece], fit, recipe)
            tracks += [{"video": video, **row} for row in rows]
        return Source(
            self.name, self.label, self.name, self.name, self.stamp, chosen, self.read,
            seconds_per_picture * sum(map(len, chosen)), sources.track_table(tracks, recipe),
        )  # fmt: skip

    def _pictures(self) -> tuple[list[int], tuple[int, int]]:
        """BDD100K's frame index of each available image, and the images' height and width."""
        if self.film:
            known = probe(self.film, self.label)
            return list(range(len(_numbers(known)))), (known.height_px, known.width_px)
        numbers = [path.stem.rpartition("-")[2] for path in self.paths]
        for path, number in zip(self.paths, numbers, strict=True):
            if not number.isdecimal():
                raise Unusable(self.label, f"{path} has no frame number at its name's end", "remove it")
        return [int(number) - 1 for number in numbers], sources.image_size(self.paths[0], self.label)

    def boxes(self) -> dict[int, Rows]:
        """By frame index: agent, kind, box (x0 y0 x1 y1 in px of BDD100K's image), visible, eligible."""
        with sources.as_unusable(self.label, AGAIN):
            listed = reading.json_value(self.labels, list, AGAIN)
        found: dict[int, Rows] = {}
        for number, frame in enumerate(listed):
            where = f"frame {number}"
            if not isinstance(frame, dict):
                raise self._wrong(where, frame, "an object")
            index, labels = frame.get("frameIndex"), frame.get("labels") or []  # null where nothing is there
            if type(index) is not int or index < 0 or index in found:
                raise self._wrong(f"{where}: 'frameIndex'", index, "a number from 0, another one in each frame")
            if not isinstance(labels, list):
                raise self._wrong(f"{where}: 'labels'", labels, "a list")
            found[index] = [self._box(f"{where}, label {at}", label) for at, label in enumerate(labels)]
            agents = [box["agent"] for box in found[index]]
            if twice := [agent for agent in agents if agents.count(agent) > 1]:
                raise self._wrong(f"{where}: 'id' of two labels", twice[0], "another one in each")
        return found

    def _box(self, where: str, label: Any) -> dict[str, Any]:
        if not isinstance(label, dict):
            raise self._wrong(where, label, "an object")
        for field in ("id", "category"):
            if not isinstance(label.get(field), str):
                raise self._wrong(f"{where}: {field!r}", label.get(field), "a text")
        sides, said = label.get("box2d"), label.get("attributes") or {}
        if not isinstance(sides, dict) or not all(_is_number(sides.get(side)) for side in SIDES):
            raise self._wrong(f"{where}: 'box2d'", sides, f"an object with numbers {', '.join(SIDES)}")
        if sides["x1"] > sides["x2"] or sides["y1"] > sides["y2"]:
            raise self._wrong(f"{where}: 'box2d'", sides, "a box with x1 <= x2 and y1 <= y2")
        if not isinstance(said, dict):
            raise self._wrong(f"{where}: 'attributes'", said, "an object")
        holds = {name.lower() for name, value in said.items() if value is True}  # "Crowd" in the first release
        crowd, category = CROWD in holds, label["category"]
        return {
            "agent": label["id"], "kind": CROWD if crowd else KINDS.get(category) or NOT_EVALUATED.get(category, "misc"),
            "box": (float(sides["x1"]), float(sides["y1"]), sides["x2"] + 1.0, sides["y2"] + 1.0),
            "visible": (OCCLUDED if "occluded" in holds else 1.0) * (TRUNCATED if "truncated" in holds else 1.0),
            "eligible": category in KINDS and not crowd,
        }  # fmt: skip

    def _wrong(self, where: str, value: object, wanted: str) -> Unusable:
        return Unusable(self.label, f"{self.labels}: {where} is {reading.shown(value)}, and should be {wanted}", AGAIN)


def _agents(frames: Sequence[Rows], fit: Fit, recipe: Recipe) -> Rows:
    """The rows of agents in one piece, from the boxes of each of its frames."""
    rows: Rows = []
    numbers: dict[str, int] = {}  # of agents, by BDD100K's ids
    for frame, boxes in enumerate(frames):
        for box in boxes:
            sides = fit.boxes(np.array([box["box"]]))
            inside = float(share_inside(sides, recipe.height_px, recipe.width_px)[0])
            if inside:
                rows.append({
                    "frame": frame, "agent": numbers.setdefault(box["agent"], len(numbers)), "kind": box["kind"],
                    **dict(zip(("x0", "y0", "x1", "y1"), sides[0], strict=True)),
                    **dict.fromkeys(("x_m", "y_m", "heading_rad", "road_m"), np.nan),
                    "visible": inside * box["visible"], "eligible": box["eligible"],
                })  # fmt: skip
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _numbers(known: Recording) -> list[int]:
    """The number of the video frame of each labelled frame, from the first until no frame is near enough in time."""
    times_s = known.times_s
    numbers: list[int] = []
    while True:
        due_s = times_s[0] + len(numbers) / LABELS_PER_SECOND
        near = sources.nearest(times_s, due_s)
        if abs(times_s[near] - due_s) > 0.5 / LABELS_PER_SECOND or near in numbers[-1:]:
            return numbers
        numbers.append(near)


def _of_film(path: Path, label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of the labelled frames of a video file."""
    known = probe(path, label)
    numbers = _numbers(known)
    return known.pictures([numbers[at] for at in wanted])
