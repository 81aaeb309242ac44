"""What did KITTI's left colour camera see, and where is everything? Its tracking sequences become a domain with truth.

Decision: boxes are the labelled ones, which end at the edge of KITTI's own picture, in px of ours; places are the
labelled ones in m, beside the camera that took the picture (2). How much of an agent is seen KITTI says in levels only:
`visible` is VISIBLE of how much is covered, times CUT of how much is outside of its picture, times the share of the box
in ours. Whoever is in a DontCare region counts for nothing: such a region is an agent of its own kind in one frame,
never eligible. Poses are those of the raw data's devkit (Mercator), of the camera, by the sequence's calibration.

Not known: road_m; how high each camera is (CAMERA_HEIGHT_M is what the makers say of all). Pictures come 10 a second: at
5 a second every second one. A sequence without labels, calibration or oxts, or with wrong ones, is one line of the report.
Refused: a folder without training/image_02.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from replaylab.data.importers import conversion
from replaylab.data.importers.conversion import Added, Fit, Floats, Order, Recipe, Source, Unusable
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


def add(root: Path, order: Order) -> Added:
    """Make a domain of all training sequences; goes on where it was stopped.

    Raises FileNotFoundError for a folder without them, ValueError where no sequence is usable.
    """
    images = root / "training" / "image_02"
    sequences = sorted(folder.name for folder in images.glob("*") if folder.is_dir())
    if not sequences:
        raise FileNotFoundError(
            f"{images} has no sequences (0000, 0001, ...): give the folder in which KITTI tracking's `training` lies"
        )
    conversion.check(order, ORIGIN)
    sources, unusable, seconds = [], [], 0.0
    for sequence in track(sequences, "reading sequences", unit="sequences"):
        try:
            film = Film(root / "training", sequence)
            if conversion.is_converted(order.out, sequence, film.stamp):
                continue
            seconds = seconds or conversion.seconds_each(film.read, 0)
            sources.append(film.source(order.recipe, seconds))
        except Unusable as wrong:
            unusable.append(wrong)
    about = {"licence": order.licence or LICENCE, "made_by": "replaylab.kitti"}
    return conversion.make(order, ORIGIN, sequences, sources, unusable, about)


class Film:
    """One sequence: its pictures, and the files that tell of them."""

    def __init__(self, training: Path, sequence: str) -> None:
        self.sequence = sequence
        self.paths = sorted((training / "image_02" / sequence).glob("*.png"))
        if not self.paths:
            raise Unusable(sequence, "has no pictures (*.png)", "unpack data_tracking_image_2 again")
        wrong = [path for path in self.paths if not path.stem.isdecimal()]
        if wrong:
            raise Unusable(sequence, f"{wrong[0]} has no frame number for a name", "take it away")
        self.texts = {kind: training / kind / f"{sequence}.txt" for kind in ("label_02", "calib", "oxts")}
        for kind, path in self.texts.items():
            if not path.is_file():
                raise Unusable(sequence, f"{path} is missing", f"unpack data_tracking_{kind} beside image_02")

    @property
    def stamp(self) -> str:
        """Changes with the files that it is made of."""
        return conversion.stamp_of([*self.texts.values(), *self.paths])

    @property
    def read(self) -> conversion.Read:
        """How its pictures are read."""
        return partial(conversion.read_images, self.paths, self.sequence)

    def source(self, recipe: Recipe, seconds_each: float) -> Source:
        """Which pictures to take, and the truth of each."""
        labels, camera = self.labels(), _Camera(self.calibration())
        frames = [int(path.stem) for path in self.paths]
        poses = self.poses(camera)
        if frames[-1] >= len(poses):
            raise Unusable(
                self.sequence,
                f"{self.texts['oxts']} has {len(poses)} lines, and there is a picture {frames[-1]}",
                "unpack it again",
            )
        pieces = conversion.pieces([frame / PICTURES_PER_SECOND for frame in frames], recipe, self.sequence)
        fit = Fit.of(*conversion.image_size(self.paths[0], self.sequence), recipe)
        known = _in_picture(labels, camera, fit, recipe)
        tracks, ego = [], []
        for number, piece in enumerate(pieces):
            video = conversion.piece_name(self.sequence, number)
            numbers = [frames[at] for at in piece]
            rows = _numbered(known[known["frame"].isin(numbers)])
            frame = rows["frame"].map({old: new for new, old in enumerate(numbers)})
            tracks += rows.assign(video=video, frame=frame).to_dict("records")
            ego += [
                {"video": video, **row}
                for row in conversion.ego_rows(
                    poses[numbers], fit, camera.focal_px, CAMERA_HEIGHT_M, camera.pitch_rad(fit), "drive"
                )
            ]
        return Source(
            self.sequence, self.sequence, self.sequence, self.sequence, self.stamp, pieces, self.read,
            seconds_each * sum(map(len, pieces)), conversion.track_table(tracks, recipe), pd.DataFrame(ego),
        )  # fmt: skip

    def labels(self) -> pd.DataFrame:
        """LABELS, one row an agent or region and frame."""
        path, rows = self.texts["label_02"], []
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != len(LABELS) or parts[2] not in KINDS:
                raise self._wrong("label_02", number, f"{len(LABELS)} fields, the third one of {', '.join(KINDS)}")
            try:
                values = [float(part) for part in (*parts[:2], *parts[3:])]
            except ValueError:
                raise self._wrong("label_02", number, "numbers") from None
            rows.append((int(values[0]), int(values[1]), parts[2], *values[2:]))
        return pd.DataFrame(rows, columns=LABELS)

    def calibration(self) -> dict[str, Floats]:
        """MATRICES by name."""
        path, found = self.texts["calib"], {}
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            name, *values = line.replace(":", " ").split() or [""]
            if name in MATRICES:
                try:
                    found[name] = np.array([float(value) for value in values]).reshape(MATRICES[name])
                except ValueError:
                    rows, columns = MATRICES[name]
                    raise self._wrong("calib", number, f"{rows * columns} numbers after {name}") from None
        for name in MATRICES:
            if name not in found:
                raise Unusable(self.sequence, f"{path}: {name} is missing", "unpack it again")
        return found

    def poses(self, camera: _Camera) -> Floats:
        """(T, 3) of the camera, one a line of oxts: x to the east and y to the north in m, heading (0: north)."""
        path, lines = self.texts["oxts"], []
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                values = [float(value) for value in line.split()]
            except ValueError:
                raise self._wrong("oxts", number, "numbers") from None
            if len(values) < OXTS_FIELDS:
                raise self._wrong("oxts", number, f"{OXTS_FIELDS} numbers")
            lines.append(values[:6])
        if not lines:
            raise Unusable(self.sequence, f"{path} is empty", "unpack it again")
        return np.stack([camera.seen_at(pose) for pose in imu_poses(np.array(lines))])

    def _wrong(self, kind: str, number: int, wanted: str) -> Unusable:
        return Unusable(self.sequence, f"{self.texts[kind]} line {number}: expected {wanted}", "unpack it again")


def imu_poses(oxts: Floats) -> Floats:
    """(T, 4, 4) from latitude, longitude, altitude, roll, pitch, yaw (T, 6; degrees, m, radians), as the raw data's devkit
    has it (`convertOxtsToPose`): x to the east, y to the north, z up, scaled for the first latitude.
    """
    latitude, longitude, altitude, roll, pitch, yaw = oxts.T
    scale = np.cos(np.deg2rad(latitude[0])) * EARTH_RADIUS_M
    poses = np.tile(np.eye(4), (len(oxts), 1, 1))
    poses[:, 0, 3] = scale * np.deg2rad(longitude)
    poses[:, 1, 3] = scale * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
    poses[:, 2, 3] = altitude
    poses[:, :3, :3] = _turn(yaw, 2) @ _turn(pitch, 1) @ _turn(roll, 0)
    return poses


class _Camera:
    """Camera 2, and where it sits on the car."""

    def __init__(self, calibration: dict[str, Floats]) -> None:
        self.intrinsics = calibration["P2"][:, :3]
        self.offset = np.linalg.solve(self.intrinsics, calibration["P2"][:, 3])  # from camera 0's place to this one's
        to_camera = (
            _whole(calibration["R_rect"]) @ _whole(calibration["Tr_velo_cam"]) @ _whole(calibration["Tr_imu_velo"])
        )
        to_camera[:3, 3] += self.offset
        self.in_car = np.linalg.inv(to_camera)

    @property
    def focal_px(self) -> float:
        return float(self.intrinsics[0, 0])

    def pitch_rad(self, fit: Fit) -> float:
        """Downwards, of the middle of our picture; the rectified camera itself is level."""
        across, down, ahead = np.linalg.solve(self.intrinsics, [*fit.middle, 1.0])
        return float(np.arctan2(down, np.hypot(across, ahead)))

    def seen_at(self, pose: Floats) -> Floats:
        """(3,) x, y, heading (0 along +y) of this camera when the car is at `pose`."""
        camera = pose @ self.in_car
        return np.array([camera[0, 3], camera[1, 3], np.arctan2(-camera[0, 2], camera[1, 2])])


def _in_picture(labels: pd.DataFrame, camera: _Camera, fit: Fit, recipe: Recipe) -> pd.DataFrame:
    """TRACK_COLUMNS but `video`, with KITTI's own frames and track numbers."""
    boxes = fit.boxes(labels[["left", "top", "right", "bottom"]].to_numpy(float))
    places = labels[["x", "y", "z"]].to_numpy(float) + camera.offset
    regions = (labels["type"] == "DontCare").to_numpy()
    turn = labels["rotation_y"].to_numpy(float)  # 0: to the right; half a turn less a quarter: ahead
    seen = labels["occluded"].map(VISIBLE).to_numpy(float) * labels["truncated"].map(CUT).to_numpy(float)
    return pd.DataFrame({
        "frame": labels["frame"], "agent": labels["track_id"], "kind": labels["type"].map(KINDS),
        **{side: boxes[:, number] for number, side in enumerate(("x0", "y0", "x1", "y1"))},
        "x_m": np.where(regions, np.nan, places[:, 0]), "y_m": np.where(regions, np.nan, places[:, 2]),
        "heading_rad": np.where(regions, np.nan, np.arctan2(-np.cos(turn), -np.sin(turn))), "road_m": np.nan,
        "visible": conversion.share_inside(boxes, recipe) * np.where(regions, 1.0, np.nan_to_num(seen, nan=VISIBLE[3])),
        "eligible": ~regions,
    })  # fmt: skip


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Agents from 0, as they appear; each region of a frame is one of its own."""
    regions = rows["kind"] == "dontcare"
    own = [("region", at) if region else ("agent", agent)
           for at, (region, agent) in enumerate(zip(regions, rows["agent"], strict=True))]  # fmt: skip
    numbers: dict[tuple[str, int], int] = {}
    return rows.assign(agent=[numbers.setdefault(each, len(numbers)) for each in own])


def _whole(matrix: Floats) -> Floats:
    """(4, 4) of (3, 3) or (3, 4)."""
    made = np.eye(4)
    made[: matrix.shape[0], : matrix.shape[1]] = matrix
    return made


def _turn(angle: Floats, axis: int) -> Floats:
    """(T, 3, 3): to the left about one axis."""
    made = np.tile(np.eye(3), (len(angle), 1, 1))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    made[:, first, first] = made[:, second, second] = np.cos(angle)
    made[:, first, second], made[:, second, first] = -np.sin(angle), np.sin(angle)
    return made
