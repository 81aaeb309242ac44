"""Importer of segments of the Waymo Open Dataset v2 (Parquet), seen by one of its cameras, as a domain with ground truth.

Decision: of the components, camera_image, camera_calibration, vehicle_pose and lidar_box are read, with pandas and pyarrow
only. Waymo's 3-D boxes are relative to the vehicle pose of the frame; they are transformed via the world to the camera's
pose at the time of its image, and projected with its lens distortion (`cuboids`). `visible` is the share of the box within
the domain's image that is not covered by boxes of nearer agents. The ego pose is that of the camera. Images have a rate of
10/s. Segments of one run, whose number is the beginning of their names, are never in two splits.

Left out: signs, and boxes without LiDAR points, which are hidden. Not known: road_m, and the kinds of vehicles. Without a
folder lidar_box (Waymo's testing split) there are no tracks. A segment with missing, incomplete or invalid tables is
`Unusable`. Refused: a folder without camera_image.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from replaylab.data.boxes import uncovered_shares
from replaylab.data.domain import Rows
from replaylab.data.importers import conversion, cuboids, sources
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.cuboids import CameraPose, CarCamera
from replaylab.data.importers.sources import Fit, Floats, ImageSequence, Picture, Recipe, Source, Unusable
from replaylab.util import reading
from replaylab.util.progress import track

LICENCE = "Waymo Dataset License Agreement for Non-Commercial Use"
CAMERAS = {"FRONT": 1, "FRONT_LEFT": 2, "FRONT_RIGHT": 3, "SIDE_LEFT": 4, "SIDE_RIGHT": 5}
KINDS = {1: "vehicle", 2: "pedestrian", 4: "cyclist"}
TIME, CAMERA, OBJECT = "key.frame_timestamp_micros", "key.camera_name", "key.laser_object_id"
IMAGE, IMAGE_POSE = "[CameraImageComponent].image", "[CameraImageComponent].pose.transform"
EXTRINSIC = "[CameraCalibrationComponent].extrinsic.transform"
SIDES = ["[CameraCalibrationComponent].height", "[CameraCalibrationComponent].width"]
LENS = [
    f"[CameraCalibrationComponent].intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
]
VEHICLE_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
TYPE, POINTS = "[LiDARBoxComponent].type", "[LiDARBoxComponent].num_lidar_points_in_box"
CUBOID = [
    f"[LiDARBoxComponent].box.{name}"
    for name in ("center.x", "center.y", "center.z", "size.x", "size.y", "size.z", "heading")
]
NUMBERS = {  # the numeric columns that are read of each component
    "camera_image": [TIME, CAMERA],
    "camera_calibration": [CAMERA, *LENS, *SIDES],
    "vehicle_pose": [TIME],
    "lidar_box": [TIME, TYPE, POINTS, *CUBOID],
}
OTHERS = {
    "camera_image": [IMAGE_POSE],
    "camera_calibration": [EXTRINSIC],
    "vehicle_pose": [VEHICLE_POSE],
    "lidar_box": [OBJECT],
}
# From OpenCV's axes of a camera to Waymo's, which are like those of the car: x ahead, y to the left, z up.
FROM_OPENCV = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
ROWS_AT_ONCE = 16  # images
AGAIN = "download it again"


class Agent(NamedTuple):
    """An agent of Waymo's, in the world."""

    name: str
    kind: str
    corners: Floats  # (8, 3)
    along: Floats  # (3,): the direction that it faces


def add(root: Path, settings: ConversionSettings, camera: str = "FRONT") -> ConversionResult:
    """Make a domain of all segments of a folder (training, validation); an interrupted conversion is resumed.

    Raises FileNotFoundError for a folder without any, ValueError for an unknown camera or if no segment is usable.
    """
    if camera not in CAMERAS:
        raise ValueError(f"camera: {camera!r} is none of {', '.join(CAMERAS)}")
    origin = f"waymo v2 {camera}"
    segments = sorted(path.stem for path in (root / "camera_image").glob("*.parquet"))
    if not segments:
        there = sorted(path.parent.as_posix() for path in root.glob("*/camera_image"))
        or_else = f"; here, give {' or '.join(there)}" if there else ""
        raise FileNotFoundError(
            f"{root / 'camera_image'} has no *.parquet: give the folder in which camera_image, camera_calibration, "
            f"vehicle_pose and lidar_box of Waymo Open v2 lie (training, validation){or_else}"
        )
    conversion.check(settings, origin)
    components = [component for component in NUMBERS if component != "lidar_box" or (root / component).is_dir()]
    openers = [partial(WaymoSegment, root, segment, camera, components) for segment in segments]
    missing, unusable = conversion.sources_of(settings, track(openers, "reading segments", unit="segments"))
    about = {"licence": settings.licence or LICENCE, "made_by": "replaylab.waymo", "camera": camera}
    return conversion.convert(settings, origin, segments, missing, unusable, about)


class WaymoSegment(ImageSequence):
    """One camera's images of a segment, with their tables."""

    def __init__(self, root: Path, segment: str, camera: str, components: Sequence[str]) -> None:
        self.camera = CAMERAS[camera]
        self.tables = {component: root / component / f"{segment}.parquet" for component in components}
        for component, path in self.tables.items():
            if not path.is_file():
                raise Unusable(segment, f"{path} is missing", f"download {component} of this segment, too")
        images, *others = self.tables.values()
        super().__init__(segment, segment, [images], others, partial(_pictures, images, self.camera, segment))

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with their ground truth."""
        rows = _rows_of_camera(self.table("camera_image"), self.tables["camera_image"], self.camera, self.label)
        times = [int(time) for time in rows[TIME]]
        poses = self.poses("camera_image", rows, IMAGE_POSE)
        chosen = sources.pieces([(time - times[0]) / 1e6 for time in times], recipe, self.label)
        camera = self.lens(recipe)
        boxes = self.boxes() if "lidar_box" in self.tables else None
        tracks, ego = [], []
        for number, piece in enumerate(chosen):
            video = sources.piece_name(self.name, number)
            seen = [CameraPose(camera, poses[at]) for at in piece]
            if boxes is not None:
                frames = [boxes.get(times[at], []) for at in piece]
                tracks += [{"video": video, **row} for row in _agents(frames, seen, recipe)]
            cameras = sources.ego_rows(
                np.stack([pose.camera for pose in seen]), camera.fit, camera.focal_px, camera.height_m, camera.pitch_rad,
                "drive",
            )  # fmt: skip
            ego += [{"video": video, **row} for row in cameras]
        run = self.name.partition("_")[0]
        return Source(
            self.name, self.label, self.name, run, self.stamp, chosen, self.read,
            seconds_per_picture * sum(map(len, chosen)),
            None if boxes is None else sources.track_table(tracks, recipe), pd.DataFrame(ego), {"drive": run},
        )  # fmt: skip

    def table(self, component: str) -> pd.DataFrame:
        """The columns of a component that are read; raises Unusable for a number that is missing or not finite."""
        path, numbers = self.tables[component], NUMBERS[component]
        with sources.as_unusable(self.label, AGAIN):
            table = reading.table(path, AGAIN, [*numbers, *OTHERS[component]], numbers, only=True)
        wrong = ~np.isfinite(table[numbers].to_numpy(float, na_value=np.nan))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise self._wrong(component, int(row), numbers[column], table[numbers[column]].iloc[row])
        return table

    def poses(self, component: str, table: pd.DataFrame, column: str) -> list[Floats]:
        """The matrices (4, 4) of a column with 16 numbers per row; raises Unusable for an invalid one."""
        found = []
        for row, values in zip(table.index, table[column], strict=True):
            try:
                matrix = np.array(values, float).reshape(4, 4)
            except (TypeError, ValueError):
                raise self._wrong(component, row, column, values) from None
            if not np.isfinite(matrix).all() or not np.linalg.det(matrix):
                raise self._wrong(component, row, column, values)
            found.append(matrix)
        return found

    def lens(self, recipe: Recipe) -> CarCamera:
        """The camera on the car, from camera_calibration; raises Unusable if it is missing or invalid."""
        table = self.table("camera_calibration")
        table = table[table[CAMERA] == self.camera]
        if table.empty:
            why = f"{self.tables['camera_calibration']}: no row whose {CAMERA!r} is {self.camera}"
            raise Unusable(self.label, why, AGAIN)
        f_u, f_v, c_u, c_v, *distortion = (float(value) for value in table[LENS].iloc[0])
        for column in (LENS[0], LENS[1], *SIDES):
            if (value := table[column].iloc[0]) <= 0:
                raise self._wrong("camera_calibration", table.index[0], column, value)
        extrinsic = self.poses("camera_calibration", table, EXTRINSIC)[0]
        intrinsics = np.array([[f_u, 0, c_u], [0, f_v, c_v], [0, 0, 1]])
        height_px, width_px = (int(side) for side in table[SIDES].iloc[0])
        return CarCamera(extrinsic @ FROM_OPENCV, intrinsics, Fit.of(height_px, width_px, recipe), tuple(distortion))

    def boxes(self) -> dict[int, list[Agent]]:
        """The agents of each frame, by the frame's time in µs; signs and boxes without LiDAR points are left out."""
        table, poses = self.table("lidar_box"), self.table("vehicle_pose")
        vehicles = dict(zip(poses[TIME], self.poses("vehicle_pose", poses, VEHICLE_POSE), strict=True))
        found: dict[int, list[Agent]] = {}
        twice = table.duplicated([TIME, OBJECT])
        if twice.any():
            row = int(twice.idxmax())
            raise self._wrong("lidar_box", row, OBJECT, table[OBJECT].iloc[row], "that of another row of this frame")
        table = table[table[TYPE].isin(KINDS) & (table[POINTS] > 0)]
        columns = zip(table.index, table[TIME], table[OBJECT], table[TYPE], table[CUBOID].to_numpy(float), strict=True)
        for row, time, name, kind, (x, y, z, length, width, height, heading) in columns:
            if time not in vehicles:
                why = f"{self.tables['vehicle_pose']}: no row whose {TIME!r} is {time}, as in row {row} of lidar_box"
                raise Unusable(self.label, why, AGAIN)
            if not isinstance(name, str):
                raise self._wrong("lidar_box", row, OBJECT, name)
            cos, sin = np.cos(heading), np.sin(heading)
            turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            corners = cuboids.corners_of(np.array([x, y, z]), np.array([length, width, height]), turn)
            vehicle = vehicles[time]
            corners = corners @ vehicle[:3, :3].T + vehicle[:3, 3]
            agent = Agent(name, KINDS[kind], corners, vehicle[:3, :3] @ turn[:, 0])
            found.setdefault(int(time), []).append(agent)
        return found

    def _wrong(self, component: str, row: int, column: str, value: object, what: str = "") -> Unusable:
        why = f"{self.tables[component]}: row {row}: column {column!r} is {reading.shown(value)}"
        return Unusable(self.label, f"{why}, {what}" if what else why, AGAIN)


def _agents(frames: Sequence[Sequence[Agent]], seen: Sequence[CameraPose], recipe: Recipe) -> Rows:
    """The rows of agents in one piece, from the agents of each of its frames."""
    rows: Rows = []
    numbers: dict[str, int] = {}  # of agents, by Waymo's ids
    for frame, (agents, pose) in enumerate(zip(frames, seen, strict=True)):
        ahead = [(agent, box) for agent in agents if (box := pose.box(agent.corners)) is not None]
        if not ahead:
            continue
        centres = np.stack([agent.corners.mean(axis=0) for agent, _ in ahead])
        boxes = np.stack([box for _, box in ahead])
        shares = uncovered_shares(boxes, pose.seen(centres)[:, 2], recipe.height_px, recipe.width_px)
        for (agent, box), centre, share in zip(ahead, centres, shares, strict=True):
            if share:
                rows.append({
                    "frame": frame, "agent": numbers.setdefault(agent.name, len(numbers)), "kind": agent.kind,
                    **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)), **pose.place(centre, agent.along),
                    "road_m": np.nan, "visible": share, "eligible": True,
                })  # fmt: skip
    return rows


def _rows_of_camera(table: pd.DataFrame, path: Path, camera: int, label: str) -> pd.DataFrame:
    """The rows of one camera's images in order of time; their index is their position in the file."""
    rows = table[table[CAMERA] == camera].sort_values(TIME, kind="stable")
    if rows.empty:
        raise Unusable(label, f"{path}: no row whose {CAMERA!r} is {camera}", "take another --camera, or download it again")
    twice = rows[TIME].duplicated()
    if twice.any():
        why = f"{path}: row {rows.index[twice][0]}: column {TIME!r} has the time of another image of the same camera"
        raise Unusable(label, why, AGAIN)
    return rows


def _pictures(path: Path, camera: int, label: str, wanted: Sequence[int]) -> Iterator[Picture]:
    """A `Read` of one camera's images, in order of time, from a camera_image table."""
    with sources.as_unusable(label, AGAIN):
        keys = reading.table(path, AGAIN, [TIME, CAMERA], [TIME, CAMERA], only=True)
    rows = _rows_of_camera(keys, path, camera, label).index
    due = [int(rows[number]) for number in wanted]
    for row, data in zip(due, _encoded(path, label, due), strict=True):
        try:
            with Image.open(io.BytesIO(data or b"")) as image:
                yield np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken files
            raise Unusable(label, f"{path}: row {row}: column {IMAGE!r} is not an image", AGAIN) from error


def _encoded(path: Path, label: str, due: Sequence[int]) -> Iterator[bytes | None]:
    """The encoded images of some rows, in this order; the file is read only as far as needed."""
    from pyarrow import parquet

    waiting: dict[int, bytes | None] = {}
    start, done = 0, 0
    with sources.as_unusable(label, AGAIN), reading.named(path, "whole Parquet file", AGAIN):
        for batch in parquet.ParquetFile(path).iter_batches(ROWS_AT_ONCE, columns=[IMAGE]):
            of_batch = range(start, start + len(batch))
            waiting |= {row: batch.column(0)[row - start].as_py() for row in due[done:] if row in of_batch}
            start = of_batch.stop
            while done < len(due) and due[done] in waiting:
                yield waiting.pop(due[done])
                done += 1
            if done == len(due):
                return
