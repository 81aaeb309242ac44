"""Importer of comma2k19 segments, as a domain with the ego car's motion.

Decision: each segment, a minute of driving (video.hevc), is a source. The raw stream has no valid timestamps: frame n was
taken at frame_times[n]. The pose is that of the camera, as published with the data (frame_positions and frame_orientations,
in ECEF axes), relative to the segment's first position: east, north and up of the WGS 84 ellipsoid. The focal length is that
of the publishers' code, FOCAL_PX for an image of width WIDTH_PX; the camera's pitch is the median over its frames. Segments
of one drive (route) are never in two splits; all drives are on the same 20 km of motorway.

Not known: the agents, so there are no boxes or tracks; and each camera's height (CAMERA_HEIGHT_M is the value that openpilot
uses for every car). CAN and IMU logs are not read. A segment with a missing, truncated or invalid file is `Unusable`.
Refused: a folder without segments.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from replaylab.data.importers import conversion, raw_stream, sources
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.sources import Fit, Floats, ImageSequence, Recipe, Source, Unusable
from replaylab.util import reading
from replaylab.util.progress import track

ORIGIN = "comma2k19"
LICENCE = "that of comma2k19 (github.com/commaai/comma2k19)"
FOCAL_PX, WIDTH_PX = 910.0, 1164.0
CAMERA_HEIGHT_M = 1.22
EQUATOR_M, POLE_M = 6378137.0, 6356752.314245  # the half-axes of WGS 84
POSE = {"frame_times": (), "frame_positions": (3,), "frame_orientations": (4,)}  # of a frame
MOST_MISSING_S = 1.0  # at a video's end
AGAIN = "unpack its chunk again"


def add(root: Path, settings: ConversionSettings) -> ConversionResult:
    """Make a domain of all segments in a folder of chunks, or in one chunk; an interrupted conversion is resumed.

    Raises FileNotFoundError for a folder without segments, ValueError if no segment is usable.
    """
    folders = sorted({path.parent for depth in ("*/*", "*/*/*") for file in ("video.hevc", "global_pose")
                      for path in root.glob(f"{depth}/{file}")})  # fmt: skip
    if not folders:
        raise FileNotFoundError(
            f"{root} has no segments (CHUNK/ROUTE/NUMBER/video.hevc): give the folder into which comma2k19's Chunk_1.zip, "
            "Chunk_2.zip, ... were unpacked"
        )
    conversion.check(settings, ORIGIN)
    by_name: dict[str, Path] = {}
    for folder in folders:
        by_name.setdefault(_name(folder), folder)  # the example segment of the code repository is also in a chunk
    openers = [partial(CommaSegment, name, folder) for name, folder in by_name.items()]
    missing, unusable = conversion.sources_of(settings, track(openers, "reading segments", unit="segments"))
    about = {"licence": settings.licence or LICENCE, "made_by": "replaylab.comma2k19"}
    return conversion.convert(settings, ORIGIN, list(by_name), missing, unusable, about)


class CommaSegment(ImageSequence):
    """A minute of driving: its video and its poses."""

    def __init__(self, name: str, folder: Path) -> None:
        self.video, self.pose = folder / "video.hevc", {each: folder / "global_pose" / each for each in POSE}
        for path in (self.video, *self.pose.values()):
            if not path.is_file():
                raise Unusable(name, f"{path} is missing", AGAIN)
        self.route = name.rpartition("-")[0]
        read = partial(raw_stream.pictures, self.video, name)
        super().__init__(name, name, [self.video], list(self.pose.values()), read)

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with the ego car's pose at each."""
        times, positions, orientations = self.poses()
        count = raw_stream.count(self.video, self.label)
        if count < len(times):
            if times[-1] - times[count] > MOST_MISSING_S:
                why = f"{self.video} is cut off: {count} of {len(times)} frames are there"
                raise Unusable(self.label, why, AGAIN)
            count -= 1  # the last may be incomplete
        chosen = sources.pieces([float(time - times[0]) for time in times[:count]], recipe, self.label)
        (first,) = self.read([0])
        height_px, width_px = first.shape[:2]
        fit = Fit.of(height_px, width_px, recipe)
        focal_px = FOCAL_PX * width_px / WIDTH_PX
        cameras, axes = from_earth(positions, orientations)
        across, down = (fit.middle - [width_px / 2, height_px / 2]) / focal_px
        up = axes @ np.array([1.0, across, down]) / np.linalg.norm([1.0, across, down])
        pitch_rad = float(np.median(-np.arcsin(up[:, 2])))
        ego = []
        for number, piece in enumerate(chosen):
            rows = sources.ego_rows(cameras[list(piece)], fit, focal_px, CAMERA_HEIGHT_M, pitch_rad, "drive")
            ego += [{"video": sources.piece_name(self.name, number), **row} for row in rows]
        return Source(
            self.name, self.label, self.name, self.route, self.stamp, chosen, self.read,
            seconds_per_picture * sum(map(len, chosen)), None, pd.DataFrame(ego), {"drive": self.route},
        )  # fmt: skip

    def poses(self) -> tuple[Floats, Floats, Floats]:
        """The time (T,) of each frame in s, and the camera's position (T, 3) in m and quaternion (T, 4) in ECEF."""
        arrays = {name: self._array(name) for name in POSE}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            why = f"{self.video.parent / 'global_pose'}: the arrays differ in length: {lengths}"
            raise Unusable(self.label, why, AGAIN)
        times, positions, orientations = arrays.values()
        if (back := np.flatnonzero(np.diff(times) <= 0)).size:
            raise self._wrong("frame_times", int(back[0]) + 1, times, "later than the one before")
        if (none := np.flatnonzero(np.linalg.norm(orientations, axis=1) < 0.5)).size:
            raise self._wrong("frame_orientations", int(none[0]), orientations, "a quaternion of length 1")
        if (deep := np.flatnonzero(np.linalg.norm(positions, axis=1) < 0.9 * POLE_M)).size:
            raise self._wrong("frame_positions", int(deep[0]), positions, "in m from the middle of the earth")
        return times, positions, orientations

    def _array(self, name: str) -> Floats:
        path = self.pose[name]
        with sources.as_unusable(self.label, AGAIN):
            array = reading.array(path, AGAIN)
        if array.dtype.kind not in "fiu" or array.ndim != 1 + len(POSE[name]) or array.shape[1:] != POSE[name]:
            wanted = ("frames", *map(str, POSE[name]))
            why = f"{path} has {array.dtype} values of shape {array.shape}, and should have numbers ({', '.join(wanted)})"
            raise Unusable(self.label, why, AGAIN)
        if not len(array):
            raise Unusable(self.label, f"{path} is empty", AGAIN)
        values = array.astype(float)
        if (wrong := np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))).size:
            raise self._wrong(name, int(wrong[0]), values, "finite numbers")
        return values

    def _wrong(self, name: str, row: int, values: Floats, wanted: str) -> Unusable:
        why = f"{self.pose[name]}: row {row} is {values[row]}, and should be {wanted}"
        return Unusable(self.label, why, AGAIN)


def from_earth(positions: Floats, orientations: Floats) -> tuple[Floats, Floats]:
    """Poses (T, 3) relative to the first position: x to the east and y to the north in m, and heading; and the cameras' axes
    (ahead, to the right, down) as columns in east, north and up (T, 3, 3).

    Arguments: `frame_positions` (T, 3; ECEF, m) and `frame_orientations` (T, 4; scalar first, from the camera's axes to
    ECEF). Up is the normal of the WGS 84 ellipsoid, by a formula with an error of 1e-6 rad at a height of 1 km.
    """
    from scipy.spatial.transform import Rotation

    up = positions[0] / np.array([EQUATOR_M, EQUATOR_M, POLE_M]) ** 2
    up /= np.linalg.norm(up)
    east = np.array([-up[1], up[0], 0.0]) / np.hypot(up[0], up[1])
    local = np.stack([east, np.cross(up, east), up])
    axes = local @ Rotation.from_quat(orientations, scalar_first=True).as_matrix()
    places = (positions - positions[0]) @ local.T
    return np.column_stack([places[:, :2], np.arctan2(-axes[:, 0, 0], axes[:, 1, 0])]), axes


def _name(folder: Path) -> str:
    """A segment's name: its route and number, with `_` for `|`, as in the publishers' script for other file systems."""
    return f"{re.sub('[^A-Za-z0-9_-]+', '_', folder.parent.name)}-{folder.name}"
