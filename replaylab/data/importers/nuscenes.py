"""Importer of nuScenes scenes, seen by one of their cameras, as a domain with ground truth.

Decision: the devkit (nuscenes-devkit) reads the tables and interpolates boxes between key frames (`get_boxes`); they are
projected by `cuboids`. A scene is used from its first key frame to its last, beyond which boxes are unknown. `visible` is
the middle of the annotation's visibility level (over all six cameras) times the share of the box within the domain's image.
The ego pose is that of the camera. Scenes of one drive (log) are never in two splits.

Left out: static objects (barriers, cones, racks), and images whose file is missing. Not known: road_m. Refused: missing or
unreadable tables, with the table and the field.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replaylab.data.boxes import share_inside
from replaylab.data.domain import Rows
from replaylab.data.importers import conversion, cuboids, sources
from replaylab.data.importers.conversion import ConversionResult, ConversionSettings
from replaylab.data.importers.cuboids import CameraPose, CarCamera
from replaylab.data.importers.sources import Fit, Floats, ImageSequence, Recipe, Source, Unusable
from replaylab.util import reading
from replaylab.util.progress import track

LICENCE = "CC BY-NC-SA 4.0, nuScenes"
KINDS = {  # by the beginnings of categories; other categories are not agents
    "human.pedestrian": "pedestrian",
    "vehicle.bicycle": "cyclist",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.car": "car",
    "vehicle.emergency.police": "car",
    "vehicle.emergency.ambulance": "truck",
    "vehicle.truck": "truck",
    "vehicle.construction": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.bus": "bus",
    "animal": "animal",
}
WITHOUT_RIDER = "cycle.without_rider"
VISIBLE = {"v0-40": 0.2, "v40-60": 0.5, "v60-80": 0.7, "v80-100": 0.9}
FIELDS = {  # of every table: those that are read by the devkit and here
    "category": ("token", "name"),
    "attribute": ("token", "name"),
    "visibility": ("token", "level"),
    "instance": ("token", "category_token"),
    "sensor": ("token", "channel", "modality"),
    "calibrated_sensor": ("token", "sensor_token", "translation", "rotation", "camera_intrinsic"),
    "ego_pose": ("token", "translation", "rotation"),
    "log": ("token", "logfile"),
    "scene": ("token", "name", "description", "log_token", "first_sample_token", "last_sample_token"),
    "sample": ("token", "timestamp", "prev", "next", "scene_token"),
    "sample_data": (
        "token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "filename", "is_key_frame",
        "height", "width", "prev", "next",
    ),
    "sample_annotation": (
        "token", "sample_token", "instance_token", "visibility_token", "attribute_tokens", "translation", "size",
        "rotation", "prev", "next",
    ),
    "map": ("token", "filename", "log_tokens"),
}  # fmt: skip
INSTALL = (
    "install nuscenes-devkit: pip install -c constraints.txt -e '.[nuscenes]' and then "
    "pip install -c constraints.txt --no-deps nuscenes-devkit (alone, because it asks for an older numpy than it needs)"
)


def add(root: Path, settings: ConversionSettings, version: str = "v1.0-mini", camera: str = "CAM_FRONT") -> ConversionResult:
    """Make a domain of all scenes of a version; an interrupted conversion is resumed.

    Raises OSError without the devkit, FileNotFoundError or ValueError for missing or invalid tables.
    """
    origin = f"nuscenes {version} {camera}"
    conversion.check(settings, origin)
    database = _open_tables(root, version)
    channels = sorted({sensor["channel"] for sensor in database.sensor if sensor["modality"] == "camera"})
    if camera not in channels:
        raise ValueError(f"{root / version / 'sensor.json'}: no camera {camera!r} in it; it has {channels}")
    openers = [partial(NuscenesScene, database, scene, camera) for scene in database.scene]
    try:
        names = [_name(scene) for scene in database.scene]
        missing, unusable = conversion.sources_of(settings, track(openers, "reading scenes", unit="scenes"))
    except (KeyError, TypeError, ValueError) as error:
        raise _diagnosed(root, version, error) from error
    about = {"licence": settings.licence or LICENCE, "made_by": "replaylab.nuscenes", "camera": camera}
    return conversion.convert(settings, origin, names, missing, unusable, about)


def _open_tables(root: Path, version: str) -> Any:
    """The devkit's NuScenes; an error names the table and the field."""
    try:
        from nuscenes.nuscenes import NuScenes
    except ModuleNotFoundError as error:
        raise OSError(f"{error.name} is missing: {INSTALL}") from error
    folder = root / version
    if not folder.is_dir():
        there = [f"--version {tables.parent.name}" for tables in sorted(root.glob("*/sensor.json"))]
        or_else = f"; of what is there, take {' or '.join(there)}" if there else ", and name that one by --version"
        raise FileNotFoundError(
            f"{folder} is missing: give the folder in which samples, sweeps, maps and {version} lie{or_else}"
        )
    for table in FIELDS:
        if not (folder / f"{table}.json").is_file():
            raise FileNotFoundError(f"{folder / f'{table}.json'} is missing: unpack the metadata again")
    try:
        return NuScenes(version, str(root), verbose=False)
    except Exception as error:  # the devkit raises various exceptions for a broken table
        raise _diagnosed(root, version, error) from error


class NuscenesScene(ImageSequence):
    """One camera's images of a scene, from its first key frame to its last."""

    def __init__(self, database: Any, scene: dict[str, Any], camera: str) -> None:
        self.database, self.scene = database, scene
        records = list(_records(database, scene, camera))
        root, tables = Path(database.dataroot), Path(database.table_root)
        self.records = [record for record in records if (root / record["filename"]).is_file()]
        self.missing = len(records) - len(self.records)
        if not self.records:
            raise Unusable(scene["name"], f"no image of {camera} exists", "download the camera's files")
        paths = [root / record["filename"] for record in self.records]
        super().__init__(_name(scene), scene["name"], paths, [tables / "sample_annotation.json", tables / "ego_pose.json"])

    def source(self, recipe: Recipe, seconds_per_picture: float) -> Source:
        """The selected frames with their ground truth."""
        start = self.records[0]["timestamp"]
        times = [(record["timestamp"] - start) / 1e6 for record in self.records]
        try:
            chosen = sources.pieces(times, recipe, self.label)
        except Unusable as error:
            if not self.missing:
                raise
            _, why, what_to_do = error.args
            why = f"{self.missing} of its {self.missing + len(self.records)} images are missing; {why}"
            raise Unusable(self.label, why, f"download the sweeps; or {what_to_do}") from error
        tracks, ego = [], []
        for number, piece in enumerate(chosen):
            video = sources.piece_name(self.name, number)
            agents, cameras = self._truth(piece, recipe)
            tracks += [{"video": video, **row} for row in agents]
            ego += [{"video": video, **row} for row in cameras]
        log = self.database.get("log", self.scene["log_token"])["logfile"]
        table = sources.track_table(tracks, recipe) if self.database.sample_annotation else None
        return Source(
            self.name, self.label, self.label, log, self.stamp, chosen, self.read,
            seconds_per_picture * sum(map(len, chosen)), table, pd.DataFrame(ego),
            {"drive": log, "description": self.scene["description"]},
        )  # fmt: skip

    def _truth(self, piece: tuple[int, ...], recipe: Recipe) -> tuple[Rows, Rows]:
        """The rows of agents and of the ego car in one piece."""
        rows: Rows = []
        numbers: dict[str, int] = {}  # of agents, by the instance's token
        poses = [_pose(self.database, self.records[number], recipe) for number in piece]
        for frame, (number, pose) in enumerate(zip(piece, poses, strict=True)):
            for box in self.database.get_boxes(self.records[number]["token"]):
                annotation = self.database.get("sample_annotation", box.token)
                if (kind := self._kind(annotation)) is None or (hull := pose.box(box.corners().T)) is None:
                    continue
                inside = float(share_inside(hull[None], recipe.height_px, recipe.width_px)[0])
                if not inside:
                    continue
                agent = numbers.setdefault(annotation["instance_token"], len(numbers))
                place = pose.place(box.center, box.orientation.rotation_matrix[:, 0])
                level = self.database.get("visibility", annotation["visibility_token"])["level"]
                rows.append({
                    "frame": frame, "agent": agent, "kind": kind,
                    **dict(zip(("x0", "y0", "x1", "y1"), hull, strict=True)), **place, "road_m": np.nan,
                    "visible": inside * VISIBLE[level], "eligible": True,
                })  # fmt: skip
        first, cameras = poses[0].lens, np.stack([pose.camera for pose in poses])
        return rows, sources.ego_rows(cameras, first.fit, first.focal_px, first.height_m, first.pitch_rad, "drive")

    def _kind(self, annotation: dict[str, Any]) -> str | None:
        category = annotation["category_name"]
        kind = next((kind for begin, kind in KINDS.items() if category.startswith(begin)), None)
        if kind == "cyclist":
            names = [self.database.get("attribute", token)["name"] for token in annotation["attribute_tokens"]]
            return "bicycle" if WITHOUT_RIDER in names else kind
        return kind


def _pose(database: Any, record: dict[str, Any], recipe: Recipe) -> CameraPose:
    """The camera at the time of an image."""
    sensor = database.get("calibrated_sensor", record["calibrated_sensor_token"])
    pose = database.get("ego_pose", record["ego_pose_token"])
    intrinsics = np.array(sensor["camera_intrinsic"], float).reshape(3, 3)
    camera = CarCamera(_transform(sensor), intrinsics, Fit.of(record["height"], record["width"], recipe))
    return CameraPose(camera, _transform(pose))


def _records(database: Any, scene: dict[str, Any], camera: str) -> Iterator[dict[str, Any]]:
    """The camera's sample_data from the scene's first key frame to its last, in order of time."""
    ends = [database.get("sample", scene[field])["data"] for field in ("first_sample_token", "last_sample_token")]
    if not all(camera in end for end in ends):
        raise Unusable(scene["name"], f"no key frame of {camera} at its ends", "unpack the metadata again, or leave it out")
    token, last = (end[camera] for end in ends)
    while token:
        record = database.get("sample_data", token)
        yield record
        token = "" if token == last else record["next"]


def _transform(record: dict[str, Any]) -> Floats:
    """The rotation and translation of a record as a matrix (4, 4)."""
    from pyquaternion import Quaternion

    return cuboids.transform(Quaternion(record["rotation"]).rotation_matrix, np.array(record["translation"], float))


def _name(scene: dict[str, Any]) -> str:
    """The scene's name for files; if its own has other characters, with a hash, so that names are unique."""
    own = str(scene["name"])
    plain = re.sub(r"[^A-Za-z0-9]+", "-", own)
    return plain if plain == own else f"{plain}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"


def _diagnosed(root: Path, version: str, error: Exception) -> Exception:
    """The same error with the invalid table and field, determined by reading all tables again."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, wanted in FIELDS.items():
        path = root / version / f"{name}.json"
        try:
            tables[name] = reading.json_value(path, list, "unpack the metadata again")
        except (OSError, ValueError) as broken:
            return broken
        for number, record in enumerate(tables[name]):
            for field in wanted:
                if not isinstance(record, dict) or field not in record:
                    return ValueError(f"{path}: record {number}: field {field!r} is missing")
    tokens = {name: {record["token"] for record in table} for name, table in tables.items()}
    for name, table in tables.items():
        for field in FIELDS[name]:
            other = field.removesuffix("_token").replace("first_", "").replace("last_", "")
            if not field.endswith("_token") or other not in tokens:
                continue
            for number, record in enumerate(table):
                if record[field] not in tokens[other]:
                    return ValueError(
                        f"{root / version / f'{name}.json'}: record {number}: field {field!r} names {record[field]!r}, "
                        f"which is not in {other}.json"
                    )
    for number, record in enumerate(tables["map"]):
        if not (root / record["filename"]).is_file():
            return FileNotFoundError(
                f"{root / version / 'map.json'}: record {number}: field 'filename' names {record['filename']}, which is "
                "missing: unpack the maps, too"
            )
    levels = {record["level"] for record in tables["visibility"]}
    if unknown := sorted(levels - VISIBLE.keys()):
        return ValueError(f"{root / version / 'visibility.json'}: field 'level' is {unknown[0]!r}, none of {list(VISIBLE)}")
    return ValueError(
        f"{root / version}: the tables cannot be read together ({type(error).__name__}: {error}); unpack them again"
    )
