"""Importer of KITTI's tracking sequences, seen by its left colour camera (2), as a domain with ground truth.

Decision: boxes are the labelled ones, which end at the edge of KITTI's image, in px of the domain; positions are the
labelled ones in m, relative to the camera. KITTI has levels of visibility only: `visible` is VISIBLE of the level of
occlusion, times CUT of the level of truncation, times the share of the box within the domain's image. A DontCare region is
an agent of a separate kind in a single frame, never eligible. Camera poses follow the raw data's devkit (Mercator) and the
sequence's calibration. Images have a rate of 10/s: at 5 frames/s every second one is used.

Not known: road_m, and each camera's height (CAMERA_HEIGHT_M is the published value for all). A sequence with missing or
invalid labels, calibration or oxts is `Unusable`. Refused: a folder without training/image_02.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from replaylab.data.boxes import share_inside
from replaylab.data.importers import conversion, sources
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.sources import Fit, Floats, ImageSequence, Recipe, Source, Unusable
from replaylab.util import reading
from replaylab.util.progress import track

ORIGIN = "kitti tracking"
LICENCE = "CC BY-NC-SA 3.0, KITTI"
PICTURES_PER_SECOND = 10.0
CAMERA_HEIGHT_M = 1.65
EARTH_RADIUS_M = 6378137.0
KINDS = {
    "Car": "car", "Van": "car", "Truck": "truck", "Pedestrian": "pedestrian", "Person": "pedestrian",
    "Person_sitting": "pedestrian", "Cyclist": "cyclist", "Tram": "tram", "Misc": "misc", "DontCare": "dontcare",
}  # fmt: skip
VISIBLE = {0: 1.0, 1: 0.7, 2: 0.3, 3: 0.3}  # of occlusion: none, partly, largely, unknown
CUT = {0: 1.0, 1: 0.7, 2: 0.3}  # of truncation
OXTS_FIELDS = 30
MATRICES = {"P2": (3, 4), "R_rect": (3, 3), "Tr_velo_cam": (3, 4), "Tr_imu_velo": (3, 4)}
LABELS = (
    "frame", "track_id", "type", "truncated", "occluded", "alpha", "left", "top", "right", "bottom", "height", "width",
    "length", "x", "y", "z", "rotation_y",
)  # fmt: skip


def add(root: Path, settings: ConversionSettings) -> ConversionResult:
    """Make a domain of all training sequences; an interrupted conversion is resumed.

    Raises FileNotFoundError for a folder without them, ValueError if no sequence is usable.
    """
    images = root / "training" / "image_02"
    sequences = sorted(folder.name for folder in images.glob("*") if folder.is_dir())
    if not sequences:
        raise FileNotFoundError(
            f"{images} has no sequences (0000, 0001, ...): give the folder in which KITTI tracking's `training` lies"
        )
    conversion.check(settings, ORIGIN)
    openers = [partial(KittiSequence, root / "training", sequence) for sequence in sequences]
    missing, unusable = conversion.sources_of(settings, track(openers, "reading sequences", unit="sequences"))
    about = {"licence": settings.licence or LICENCE, "made_by": "replaylab.kitti"}
    return conversion.convert(settings, ORIGIN, sequences, missing, unusable, about)


class KittiSequence(ImageSequence):
    """One sequence: its images, labels, calibration and poses."""

    def __init__(self, training: Path, sequence: str) -> None:
        paths = sorted((training / "image_02" / sequence).glob("*.png"))
        if not paths:
            raise Unusable(sequence, "has no images (*.png)", "unpack data_tracking_image_2 again")
        if wrong := [path for path in paths if not path.stem.isdecimal()]:
            raise Unusable(sequence, f"{wrong[0]} has no frame number for a name", "remove it")
        self.texts = {kind: training / kind / f"{sequence}.txt" for kind in ("label_02", "calib", "oxts")}
        for kind, path in self.texts.items():
            if not path.is_file():
                raise Unusable(sequence, f"{path} is missing", f"unpack data_tracking_{kind} beside image_02")
        super().__init__(sequence, sequence, paths, list(self.texts.values()))

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with their ground truth."""
        labels, matrices = self.labels(), self.calibration()
        try:
            camera = _CarCamera(matrices)
        except np.linalg.LinAlgError as error:
            why = f"{self.texts['calib']}: no camera has these matrices ({error})"
            raise Unusable(self.label, why, "unpack it again") from error
        frames = [int(path.stem) for path in self.paths]
        poses = self.poses(camera)
        if frames[-1] >= len(poses):
            why = f"{self.texts['oxts']} has {len(poses)} lines, and there is an image {frames[-1]}"
            raise Unusable(self.label, why, "unpack it again")
        chosen = sources.pieces([frame / PICTURES_PER_SECOND for frame in frames], recipe, self.label)
        fit = Fit.of(*sources.image_size(self.paths[0], self.label), recipe)
        truth = _in_picture(labels, camera, fit, recipe)
        tracks, ego = [], []
        for number, piece in enumerate(chosen):
            video = sources.piece_name(self.name, number)
            numbers = [frames[at] for at in piece]
            rows = _numbered(truth[truth["frame"].isin(numbers)])
            frame = rows["frame"].map({old: new for new, old in enumerate(numbers)})
            tracks += rows.assign(video=video, frame=frame).to_dict("records")
            cameras = sources.ego_rows(poses[numbers], fit, camera.focal_px, CAMERA_HEIGHT_M, camera.pitch_rad(fit), "drive")
            ego += [{"video": video, **row} for row in cameras]
        return Source(
            self.name, self.label, self.name, self.name, self.stamp, chosen, self.read,
            seconds_per_picture * sum(map(len, chosen)), sources.track_table(tracks, recipe), pd.DataFrame(ego),
        )  # fmt: skip

    def labels(self) -> pd.DataFrame:
        """A table with the columns LABELS, one row per frame and agent or region."""
        path, rows = self.texts["label_02"], []
        for number, line in enumerate(self._lines(path), start=1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != len(LABELS) or parts[2] not in KINDS:
                raise self._wrong("label_02", number, f"{len(LABELS)} fields, the third one of {', '.join(KINDS)}")
            try:
                values = [_number(part) for part in (*parts[:2], *parts[3:])]
            except ValueError:
                raise self._wrong("label_02", number, "numbers") from None
            rows.append((int(values[0]), int(values[1]), parts[2], *values[2:]))
        return pd.DataFrame(rows, columns=LABELS)

    def calibration(self) -> dict[str, Floats]:
        """The calibration matrices, by name, of the shapes in MATRICES."""
        path, matrices = self.texts["calib"], {}
        for number, line in enumerate(self._lines(path), start=1):
            name, *values = line.replace(":", " ").split() or [""]
            if name in MATRICES:
                try:
                    matrices[name] = np.array([_number(value) for value in values]).reshape(MATRICES[name])
                except ValueError:
                    rows, columns = MATRICES[name]
                    raise self._wrong("calib", number, f"{rows * columns} numbers after {name}") from None
        for name in MATRICES:
            if name not in matrices:
                raise Unusable(self.label, f"{path}: {name} is missing", "unpack it again")
        return matrices

    def poses(self, camera: _CarCamera) -> Floats:
        """Camera poses (T, 3), one per line of oxts: x to the east and y to the north in m, heading (0: north)."""
        path, lines = self.texts["oxts"], []
        for number, line in enumerate(self._lines(path), start=1):
            try:
                values = [_number(value) for value in line.split()]
            except ValueError:
                raise self._wrong("oxts", number, "numbers") from None
            if len(values) < OXTS_FIELDS:
                raise self._wrong("oxts", number, f"{OXTS_FIELDS} numbers")
            lines.append(values[:6])
        if not lines:
            raise Unusable(self.label, f"{path} is empty", "unpack it again")
        return np.stack([camera.seen_at(pose) for pose in imu_poses(np.array(lines))])

    def _lines(self, path: Path) -> list[str]:
        try:
            return reading.text(path, "unpack it again").splitlines()
        except ValueError as error:
            raise Unusable(self.label, f"{path} is no text", "unpack it again") from error

    def _wrong(self, kind: str, number: int, wanted: str) -> Unusable:
        return Unusable(self.label, f"{self.texts[kind]} line {number}: expected {wanted}", "unpack it again")


def _number(text: str) -> float:
    """The number of a text; ValueError for any other text, NaN or infinity."""
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def imu_poses(oxts: Floats) -> Floats:
    """Poses (T, 4, 4) of latitude, longitude, altitude, roll, pitch, yaw (T, 6; degrees, m, radians), as in the raw data's
    devkit (`convertOxtsToPose`): x to the east, y to the north, z up, scaled for the first latitude.
    """
    latitude, longitude, altitude, roll, pitch, yaw = oxts.T
    scale = np.cos(np.deg2rad(latitude[0])) * EARTH_RADIUS_M
    poses = np.tile(np.eye(4), (len(oxts), 1, 1))
    poses[:, 0, 3] = scale * np.deg2rad(longitude)
    poses[:, 1, 3] = scale * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
    poses[:, 2, 3] = altitude
    poses[:, :3, :3] = _rotation_about(yaw, 2) @ _rotation_about(pitch, 1) @ _rotation_about(roll, 0)
    return poses


class _CarCamera:
    """Camera 2 and its pose on the car."""

    def __init__(self, calibration: dict[str, Floats]) -> None:
        self.intrinsics = calibration["P2"][:, :3]
        self.focal_px = float(self.intrinsics[0, 0])
        self.offset = np.linalg.solve(self.intrinsics, calibration["P2"][:, 3])  # from camera 0 to this one
        to_camera = (
            _homogeneous(calibration["R_rect"])
            @ _homogeneous(calibration["Tr_velo_cam"])
            @ _homogeneous(calibration["Tr_imu_velo"])
        )
        to_camera[:3, 3] += self.offset
        self.in_car = np.linalg.inv(to_camera)

    def pitch_rad(self, fit: Fit) -> float:
        """Downward angle of the ray through the centre of the domain's image; the rectified camera itself is level."""
        across, down, ahead = np.linalg.solve(self.intrinsics, [*fit.middle, 1.0])
        return float(np.arctan2(down, np.hypot(across, ahead)))

    def seen_at(self, pose: Floats) -> Floats:
        """(3,): x, y and heading (0 along +y) of this camera if the car is at `pose`."""
        camera = pose @ self.in_car
        return np.array([camera[0, 3], camera[1, 3], np.arctan2(-camera[0, 2], camera[1, 2])])


def _in_picture(labels: pd.DataFrame, camera: _CarCamera, fit: Fit, recipe: Recipe) -> pd.DataFrame:
    """A table with TRACK_COLUMNS without `video`, with KITTI's own frame and track numbers."""
    boxes = fit.boxes(labels[["left", "top", "right", "bottom"]].to_numpy(float))
    places = labels[["x", "y", "z"]].to_numpy(float) + camera.offset
    regions = (labels["type"] == "DontCare").to_numpy()
    turn = labels["rotation_y"].to_numpy(float)  # 0: to the right; -90 degrees: ahead
    inside = share_inside(boxes, recipe.height_px, recipe.width_px)
    seen = labels["occluded"].map(VISIBLE).to_numpy(float) * labels["truncated"].map(CUT).to_numpy(float)
    return pd.DataFrame({
        "frame": labels["frame"], "agent": labels["track_id"], "kind": labels["type"].map(KINDS),
        **{side: boxes[:, number] for number, side in enumerate(("x0", "y0", "x1", "y1"))},
        "x_m": np.where(regions, np.nan, places[:, 0]), "y_m": np.where(regions, np.nan, places[:, 2]),
        "heading_rad": np.where(regions, np.nan, np.arctan2(-np.cos(turn), -np.sin(turn))), "road_m": np.nan,
        "visible": inside * np.where(regions, 1.0, np.nan_to_num(seen, nan=VISIBLE[3])),
        "eligible": ~regions,
    })  # fmt: skip


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with agents numbered from 0 by first appearance; each region of a frame is a separate agent."""
    regions = rows["kind"] == "dontcare"
    own = [("region", at) if region else ("agent", agent)
           for at, (region, agent) in enumerate(zip(regions, rows["agent"], strict=True))]  # fmt: skip
    numbers: dict[tuple[str, int], int] = {}
    return rows.assign(agent=[numbers.setdefault(each, len(numbers)) for each in own])


def _homogeneous(matrix: Floats) -> Floats:
    """A matrix (3, 3) or (3, 4) extended to (4, 4)."""
    whole = np.eye(4)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    return whole


def _rotation_about(angle: Floats, axis: int) -> Floats:
    """Rotations (T, 3, 3) to the left about one axis."""
    rotations = np.tile(np.eye(3), (len(angle), 1, 1))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotations[:, first, first] = rotations[:, second, second] = np.cos(angle)
    rotations[:, first, second], rotations[:, second, first] = -np.sin(angle), np.sin(angle)
    return rotations
