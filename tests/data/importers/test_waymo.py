"""Waymo Open v2 in its own Parquet columns: boxes through the world and a bent lens, against OpenCV's own projection."""

import io
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from domain_command import made_by_command
from PIL import Image

from replaylab.data.importers import waymo
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import Recipe
from replaylab.data.video import decode

HEIGHT, WIDTH, FRAMES = 128, 192, 20  # a tenth of Waymo's
RECIPE = Recipe(64, 64, frames_per_second=5.0, frames=4)
SEGMENT, OTHER = "10023947602400723454_1120_000_1140_000", "1005081002024129653_5313_150_5333_150"
BEGIN_US, STEP_US = 1_507_239_508_110_000, 100_000
LENS = {"f_u": 205.0, "f_v": 206.0, "c_u": 94.5, "c_v": 63.5, "k1": 0.04, "k2": -0.34, "p1": 0.001, "p2": -0.002, "k3": 0.05}
CAMERA_M = [1.54, -0.02, 2.12]
SPEED_M_S, TURN_RAD_S, BEGIN_RAD = 8.0, 0.3, 0.4
LATE_S = 0.05  # pictures are taken after the frame's own pose
AGENTS = {  # name: (type, centre in the car's axes, size, heading relative to it, LiDAR points)
    "ahead": (1, (20.0, 0.5, 0.8), (4.5, 1.9, 1.6), 0.0, 90),
    "hidden": (1, (30.0, 0.6, 0.7), (4.0, 1.7, 1.4), 0.1, 4),  # behind the one ahead
    "left": (2, (12.0, 2.0, 0.9), (0.8, 0.8, 1.8), 1.2, 30),
    "right": (4, (14.0, -1.6, 0.9), (1.8, 0.7, 1.7), -0.2, 12),
    "beside": (1, (3.0, -3.0, 1.5), (15.0, 2.5, 3.0), 0.0, 200),  # partly behind the camera
    "behind": (1, (-15.0, 0.0, 0.8), (4.5, 1.9, 1.6), 0.0, 60),
    "unseen": (1, (25.0, 4.0, 0.8), (4.5, 1.9, 1.6), 0.0, 0),
    "sign": (3, (18.0, -3.0, 2.5), (0.1, 0.6, 0.6), 0.0, 9),
}
MATRIX = pa.list_(pa.float64(), 16)
KEYS = {"key.segment_context_name": pa.string()}
TIMED = KEYS | {"key.frame_timestamp_micros": pa.int64()}
IMAGE, CALIBRATION, BOX = "[CameraImageComponent]", "[CameraCalibrationComponent]", "[LiDARBoxComponent]"
SCHEMAS = {
    "camera_image": TIMED | {"key.camera_name": pa.int8(), f"{IMAGE}.image": pa.binary(), f"{IMAGE}.pose.transform": MATRIX}
    | {f"{IMAGE}.velocity.linear_velocity.{axis}": pa.float32() for axis in "xyz"}
    | {f"{IMAGE}.velocity.angular_velocity.{axis}": pa.float64() for axis in "xyz"}
    | {f"{IMAGE}.pose_timestamp": pa.float64()}
    | {f"{IMAGE}.rolling_shutter_params.{name}": pa.float64()
       for name in ("shutter", "camera_trigger_time", "camera_readout_done_time")},
    "camera_calibration": KEYS | {"key.camera_name": pa.int8()}
    | {f"{CALIBRATION}.intrinsic.{name}": pa.float64() for name in LENS}
    | {f"{CALIBRATION}.extrinsic.transform": MATRIX, f"{CALIBRATION}.width": pa.int32(), f"{CALIBRATION}.height": pa.int32(),
       f"{CALIBRATION}.rolling_shutter_direction": pa.int8()},
    "vehicle_pose": TIMED | {"[VehiclePoseComponent].world_from_vehicle.transform": MATRIX},
    "lidar_box": TIMED | {"key.laser_object_id": pa.string()}
    | {f"{BOX}.box.{part}.{axis}": pa.float64() for part in ("center", "size") for axis in "xyz"}
    | {f"{BOX}.box.heading": pa.float64(), f"{BOX}.type": pa.int8(), f"{BOX}.num_lidar_points_in_box": pa.int64(),
       f"{BOX}.num_top_lidar_points_in_box": pa.int64()}
    | {f"{BOX}.{part}.{axis}": pa.float64() for part in ("speed", "acceleration") for axis in "xyz"}
    | {f"{BOX}.difficulty_level.{part}": pa.int8() for part in ("detection", "tracking")},
}  # fmt: skip


def about_z(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def car_at(seconds: float) -> np.ndarray:
    """From the car to the world: straight on while it turns to the left, on a slope."""
    pose = np.eye(4)
    pose[:3, :3] = about_z(BEGIN_RAD + TURN_RAD_S * seconds) @ cv2.Rodrigues(np.array([0.0, -0.03, 0.0]))[0]
    pose[:3, 3] = [-20_000 + SPEED_M_S * seconds * np.cos(BEGIN_RAD), 1_500 + SPEED_M_S * seconds * np.sin(BEGIN_RAD), 40.0]
    return pose


def camera_on_car(camera: int) -> np.ndarray:
    """Waymo's axes of a camera are the car's: the front one is turned by little, the left one by more."""
    pose = np.eye(4)
    pose[:3, :3] = about_z(0.8 if camera == 2 else 0.01) @ cv2.Rodrigues(np.array([0.004, 0.02, 0.0]))[0]
    pose[:3, 3] = CAMERA_M
    return pose


def grey(frame: int, segment: str) -> int:
    return 10 * frame + (5 if segment == OTHER else 0)


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_segment(root: Path, segment: str = SEGMENT) -> Path:
    """A segment's four tables: rows of two cameras by turns, pictures later than the poses of their frames."""
    rows: dict[str, list[dict]] = {component: [] for component in SCHEMAS}
    for frame in range(FRAMES):
        key = {"key.segment_context_name": segment, "key.frame_timestamp_micros": BEGIN_US + frame * STEP_US}
        seconds = frame * STEP_US / 1e6
        rows["vehicle_pose"].append(
            key | {"[VehiclePoseComponent].world_from_vehicle.transform": car_at(seconds).ravel().tolist()}
        )
        for camera in (2, 1):
            rows["camera_image"].append(key | {
                "key.camera_name": camera, f"{IMAGE}.image": jpeg(grey(frame, segment) if camera == 1 else 255),
                f"{IMAGE}.pose.transform": car_at(seconds + LATE_S).ravel().tolist(),
                f"{IMAGE}.pose_timestamp": BEGIN_US / 1e6 + seconds + LATE_S,
            })  # fmt: skip
        for name, (kind, centre, size, heading, points) in AGENTS.items():
            box = {f"{BOX}.box.center.{axis}": value for axis, value in zip("xyz", centre, strict=True)}
            box |= {f"{BOX}.box.size.{axis}": value for axis, value in zip("xyz", size, strict=True)}
            rows["lidar_box"].append(key | box | {
                "key.laser_object_id": name, f"{BOX}.box.heading": heading, f"{BOX}.type": kind,
                f"{BOX}.num_lidar_points_in_box": points, f"{BOX}.num_top_lidar_points_in_box": points,
            })  # fmt: skip
    for camera in (1, 2):
        rows["camera_calibration"].append(
            {"key.segment_context_name": segment, "key.camera_name": camera, f"{CALIBRATION}.width": WIDTH,
             f"{CALIBRATION}.height": HEIGHT, f"{CALIBRATION}.rolling_shutter_direction": 2,
             f"{CALIBRATION}.extrinsic.transform": camera_on_car(camera).ravel().tolist()}
            | {f"{CALIBRATION}.intrinsic.{name}": value for name, value in LENS.items()}
        )  # fmt: skip
    for component, schema in SCHEMAS.items():
        (root / component).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows[component], pa.schema(schema)), root / component / f"{segment}.parquet")
    return root


def edited(root: Path, segment: str, component: str, change) -> None:
    """Write a table again after `change`, which gets its columns as lists."""
    path = root / component / f"{segment}.parquet"
    columns = pq.read_table(path).to_pydict()
    change(columns)
    schema = {name: kind for name, kind in SCHEMAS[component].items() if name in columns}
    pq.write_table(pa.Table.from_pydict(columns, pa.schema(schema)), path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("waymo") / "training"
    write_segment(root, OTHER)
    return write_segment(root)


@pytest.fixture(scope="module")
def domain(root):
    added = waymo.add(root, ConversionSettings(root.parent / "domain", RECIPE))
    assert added.unusable.empty
    return added.domain


def projected(name: str, frame: int) -> np.ndarray:
    """The hull of a box in px of Waymo's picture, by OpenCV: from the frame's car to the world, to the picture's camera."""
    _, centre, size, heading, _ = AGENTS[name]
    own = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * size
    in_car = np.c_[own @ about_z(heading).T + centre, np.ones(8)]
    seconds = frame * STEP_US / 1e6
    in_camera = np.linalg.inv(car_at(seconds + LATE_S) @ camera_on_car(1)) @ car_at(seconds) @ in_car.T
    ahead, left, up = in_camera[:3]
    matrix = np.array([[LENS["f_u"], 0, LENS["c_u"]], [0, LENS["f_v"], LENS["c_v"]], [0, 0, 1]])
    bent = np.array([LENS[name] for name in ("k1", "k2", "p1", "p2", "k3")])
    pixels, _ = cv2.projectPoints(np.stack([-left, -up, ahead], axis=1), np.zeros(3), np.zeros(3), matrix, bent)
    return np.concatenate([pixels[:, 0].min(axis=0), pixels[:, 0].max(axis=0)])


def test_every_second_picture_of_ten_a_second_of_the_camera_asked_for(domain):
    assert list(domain.videos["frames"]) == [10, 10] and list(domain.videos["scene"]) == [SEGMENT, OTHER]
    frames = decode(domain.folder / "videos" / f"{SEGMENT}-000.mp4")
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [grey(frame, SEGMENT) for frame in range(0, FRAMES, 2)]).max() < 2


def test_boxes_are_those_that_opencv_projects_then_cut_like_the_picture(domain):
    tracks = domain.tracks[domain.tracks["video"] == f"{SEGMENT}-000"]
    scale, left = 64 / HEIGHT, (WIDTH - HEIGHT) / 2
    for name, kind in (("left", "pedestrian"), ("right", "cyclist")):
        found = tracks[tracks["kind"] == kind].set_index("frame")
        for frame in range(10):
            wanted = (projected(name, 2 * frame) - [left, 0, left, 0]) * scale
            assert np.allclose(found.loc[frame, ["x0", "y0", "x1", "y1"]].to_numpy(float), wanted, atol=1e-6)
    wanted = (projected("ahead", 0) - [left, 0, left, 0]) * scale
    vehicles = tracks[(tracks["kind"] == "vehicle") & (tracks["frame"] == 0)]
    assert np.isclose(vehicles[["x0", "y0", "x1", "y1"]], wanted, atol=1e-6).all(axis=1).sum() == 1


def test_the_left_is_left_and_nearer_agents_cover_those_behind_them(domain):
    first = domain.tracks[(domain.tracks["video"] == f"{SEGMENT}-000") & (domain.tracks["frame"] == 0)]
    walker, rider = (first[first["kind"] == kind].iloc[0] for kind in ("pedestrian", "cyclist"))
    assert walker["x1"] < 32 < rider["x0"] and walker["x_m"] < 0 < rider["x_m"]
    assert walker["y_m"] == pytest.approx(12 - CAMERA_M[0] - SPEED_M_S * LATE_S, abs=0.1)
    assert walker["heading_rad"] == pytest.approx(1.2 - 0.01 - TURN_RAD_S * LATE_S, abs=0.01)
    vehicles = first[first["kind"] == "vehicle"].sort_values("y_m")
    assert len(vehicles) == 3  # beside, ahead, hidden: not what is behind or has no point, and no sign
    beside, ahead, hidden = (row for _, row in vehicles.iterrows())
    assert np.isfinite(beside[["x0", "x1"]].to_numpy(float)).all() and beside["x1"] > 64
    assert ahead["visible"] == 1 and ahead["eligible"] and hidden["visible"] < 0.5 and not hidden["eligible"]
    assert first["road_m"].isna().all()


def test_the_ego_car_is_the_camera_and_goes_as_its_poses_say(domain):
    ego = domain.ego[domain.ego["video"] == f"{SEGMENT}-000"]
    seconds = np.arange(10) / 5
    assert np.allclose(ego["heading_rad"], TURN_RAD_S * seconds, atol=2e-3)  # to the left: positive
    world = np.stack([(car_at(one + LATE_S) @ camera_on_car(1))[:2, 3] for one in seconds])
    assert np.allclose(np.hypot(ego["x_m"], ego["y_m"]), np.hypot(*(world - world[0]).T), atol=1e-6)
    assert ego["camera_height_m"].eq(CAMERA_M[2]).all()
    assert ego["field_of_view_deg"].iloc[0] == pytest.approx(2 * np.rad2deg(np.arctan(HEIGHT / 2 / LENS["f_u"])))


def test_a_run_is_in_one_split_and_the_same_command_goes_on(root, domain, capsys):
    again = waymo.add(root, ConversionSettings(domain.folder, RECIPE, SplitShares(0, 1)))
    assert "2 of 2 sources were already converted" in capsys.readouterr().err
    assert set(again.domain.videos["split"]) == {"test"}
    note = json.loads((domain.folder / "sources" / f"{SEGMENT}.note.json").read_text())
    assert note["drawn_by"] == note["rows"][0]["drive"] == "10023947602400723454"
    with pytest.raises(ValueError, match=r"was begun with origin 'waymo v2 FRONT'"):
        waymo.add(root, ConversionSettings(domain.folder, RECIPE), "SIDE_LEFT")


def first_row(column: str, value):
    def change(columns: dict[str, list]) -> None:
        columns[column][0] = value

    return change


def of_front_camera(column: str, value):
    def change(columns: dict[str, list]) -> None:
        columns[column][columns["key.camera_name"].index(1)] = value

    return change


def fewer(columns: dict[str, list]) -> None:
    for values in columns.values():
        del values[0]


def without(column: str):
    return lambda columns: columns.pop(column)


BROKEN = {  # what is wrong: (component, change, what is said of it)
    "a column": ("lidar_box", without(f"{BOX}.box.heading"), r"lidar_box/.*: column '\[LiDARBox.*heading' is missing"),
    "a box": ("lidar_box", first_row(f"{BOX}.box.center.x", float("nan")), r"row 0: column '.*center\.x' is .*nan"),
    "a time": ("lidar_box", first_row("key.frame_timestamp_micros", None), r"row 0: column 'key\.frame.*' is .*nan"),
    "a name": ("lidar_box", first_row("key.laser_object_id", None), r"row 0: column 'key\.laser_object_id' is (None|nan)"),
    "a second box": ("lidar_box", first_row("key.laser_object_id", "left"), r"row 2: column '.*_id' is 'left', that of an"),
    "a pose": ("vehicle_pose", fewer, rf"vehicle_pose/.*: no row whose 'key\.frame.*' is {BEGIN_US}, as in row 0 of lidar"),
    "a flat pose": ("vehicle_pose", first_row("[VehiclePoseComponent].world_from_vehicle.transform", [0.0] * 16),
                    r"row 0: column '\[VehiclePose.*' is array"),
    "a lens": ("camera_calibration", first_row(f"{CALIBRATION}.intrinsic.f_u", 0.0), r"row 0: column '.*f_u' is .*0\.0"),
    "a camera": ("camera_calibration", first_row("key.camera_name", 3), r"no row whose 'key\.camera_name' is 1"),
    "an image": ("camera_image", of_front_camera(f"{IMAGE}.image", b"\xff"), r"row 1: column '.*image' is not an image"),
    "no image": ("camera_image", of_front_camera(f"{IMAGE}.image", None), r"row 1: column '.*image' is not an image"),
    "a picture's time": ("camera_image", of_front_camera("key.frame_timestamp_micros", BEGIN_US + STEP_US),
                         r"has the time of another image"),
    "a picture's pose": ("camera_image", of_front_camera(f"{IMAGE}.pose.transform", None), r"row 1: column '.*transform'"),
    "cut short": ("lidar_box", None, r"lidar_box/.*parquet is no whole Parquet file"),
    "gone": ("vehicle_pose", None, r"vehicle_pose/.*parquet is missing"),
}  # fmt: skip


def test_wrong_tables_are_a_line_each_and_the_rest_goes_on(root, tmp_path):
    broken = tmp_path / "training"
    for number, (what, (component, change, _)) in enumerate(BROKEN.items()):
        segment = f"{number:02d}_000_000_020_000"
        for each in SCHEMAS:
            (broken / each).mkdir(parents=True, exist_ok=True)
            (broken / each / f"{segment}.parquet").write_bytes((root / each / f"{SEGMENT}.parquet").read_bytes())
        path = broken / component / f"{segment}.parquet"
        if change:
            edited(broken, segment, component, change)
        elif what == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:500])
    for each in SCHEMAS:
        (broken / each / f"{OTHER}.parquet").write_bytes((root / each / f"{OTHER}.parquet").read_bytes())
    added = waymo.add(broken, ConversionSettings(tmp_path / "domain", RECIPE, SplitShares(0, 0)))
    assert list(added.domain.videos["scene"]) == [OTHER]
    assert len(added.unusable) == len(BROKEN)
    for (what, (_, _, message)), why in zip(BROKEN.items(), added.unusable["why"], strict=True):
        assert re.search(message, why), (what, why)
    assert added.unusable["what_to_do"].str.contains("download").all()


def test_without_boxes_there_are_no_tracks_and_other_folders_are_refused(root, tmp_path):
    testing = tmp_path / "testing"
    for component in ("camera_image", "camera_calibration", "vehicle_pose"):
        (testing / component).mkdir(parents=True)
        (testing / component / f"{OTHER}.parquet").symlink_to(root / component / f"{OTHER}.parquet")
    domain = waymo.add(testing, ConversionSettings(tmp_path / "domain", RECIPE)).domain
    assert not domain.has_tracks and len(domain.ego) == 10
    with pytest.raises(FileNotFoundError, match=r"give the folder in which .*; here, give .*testing"):
        waymo.add(tmp_path, ConversionSettings(tmp_path / "other", RECIPE))
    with pytest.raises(ValueError, match="camera: 'REAR' is none of FRONT, FRONT_LEFT"):
        waymo.add(testing, ConversionSettings(tmp_path / "other", RECIPE), "REAR")


def test_the_command_makes_a_domain_that_feeds_clips(root, tmp_path, capsys):
    domain = made_by_command("waymo", root, tmp_path / "domain", capsys)
    assert "Waymo" in domain.about["licence"]
