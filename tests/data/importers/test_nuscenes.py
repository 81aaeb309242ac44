"""nuScenes as the real devkit reads it: thirteen tables, pictures, boxes carried between key frames, in px of ours."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import require_or_skip
from PIL import Image

from replaylab.cli import main
from replaylab.data import clips
from replaylab.data.domain import open_domain
from replaylab.data.importers import nuscenes
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import Fit, Recipe
from replaylab.data.video import decode

HZ, KEY_EVERY, KEYS = 12, 6, 3  # a second of film, three key frames
SPEED_M_S, TURN_RAD_S, BEGIN_RAD = 5.0, 0.3, 0.7
CAMERA_M = np.array([1.7, 0.1, 1.5])
IN_CAR = [0.5, -0.5, 0.5, -0.5]  # the camera looks along the car's x
INTRINSICS = [[126.6, 0, 81.6], [0, 126.6, 49.1], [0, 0, 1]]
HEIGHT, WIDTH = 90, 160
RECIPE = Recipe(64, 64, frames_per_second=4.0, frames=4)
LEVELS = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
AGENTS = {  # category: (ahead and to the left of the car in m, size, visibility, attribute)
    "vehicle.car": ((20.0, -1.0), (1.9, 4.5, 1.6), "4", "vehicle.moving"),
    "human.pedestrian.adult": ((9.0, 1.5), (0.7, 0.7, 1.8), "2", "pedestrian.moving"),
    "vehicle.bicycle": ((12.0, 2.0), (0.6, 1.8, 1.2), "3", "cycle.without_rider"),
    "vehicle.truck": ((2.0, -2.5), (2.5, 9.0, 3.0), "4", "vehicle.parked"),  # beside the camera: partly behind it
    "movable_object.barrier": ((10.0, 0.0), (2.0, 0.5, 1.0), "4", ""),
    "animal": ((-15.0, 0.0), (0.5, 1.0, 0.5), "4", ""),  # behind
}


def require_devkit():
    require_or_skip(importlib.util.find_spec("nuscenes") is not None, "nuscenes-devkit")


def pose(scene: int, seconds: float) -> tuple[np.ndarray, float]:
    """Where the car is, and its yaw: straight on in scene 0, to the left in scene 1."""
    yaw = BEGIN_RAD + (TURN_RAD_S * seconds if scene else 0.0)
    ahead = np.array([np.cos(BEGIN_RAD), np.sin(BEGIN_RAD)])
    return np.array([600.0, 1600.0]) + SPEED_M_S * seconds * ahead, yaw


def quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def data_set(root: Path, version: str = "v1.0-mini") -> Path:
    """Two scenes of two drives, with all tables of the real format and a camera's pictures."""
    tables: dict[str, list[dict]] = {
        "category": [{"token": f"c-{name}", "name": name, "description": ""} for name in AGENTS],
        "attribute": [{"token": f"at-{name}", "name": name, "description": ""}
                      for _, _, _, name in AGENTS.values() if name],
        "visibility": [{"token": token, "level": level, "description": ""} for token, level in LEVELS.items()],
        "sensor": [{"token": "s-cam", "channel": "CAM_FRONT", "modality": "camera"},
                   {"token": "s-lidar", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {"token": "cs-cam", "sensor_token": "s-cam", "translation": CAMERA_M.tolist(), "rotation": IN_CAR,
             "camera_intrinsic": INTRINSICS},
            {"token": "cs-lidar", "sensor_token": "s-lidar", "translation": [0.9, 0, 1.8], "rotation": [1, 0, 0, 0],
             "camera_intrinsic": []}],
        "map": [{"token": "m", "category": "semantic_prior", "filename": "maps/m.png", "log_tokens": ["l-0", "l-1"]}],
    }  # fmt: skip
    for name in (
        "instance", "ego_pose", "log", "scene", "sample", "sample_data", "sample_annotation",
    ):  # fmt: skip
        tables[name] = []
    for folder in (version, "maps", "samples/CAM_FRONT", "sweeps/CAM_FRONT"):
        (root / folder).mkdir(parents=True)
    Image.new("L", (10, 10)).save(root / "maps" / "m.png")
    for scene in range(2):
        _scene(root, tables, scene)
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    return root


def _scene(root: Path, tables: dict[str, list[dict]], scene: int) -> None:
    def linked(row: dict, prefix: str, number: int, count: int) -> dict:
        return row | {
            "token": f"{prefix}{number}",
            "prev": f"{prefix}{number - 1}" if number else "",
            "next": f"{prefix}{number + 1}" if number + 1 < count else "",
        }

    tables["log"].append({"token": f"l-{scene}", "logfile": f"n00{scene}-2018-07-18", "vehicle": "n008",
                          "date_captured": "2018-07-18", "location": "boston-seaport"})  # fmt: skip
    tables["scene"].append({"token": f"sc-{scene}", "log_token": f"l-{scene}", "nbr_samples": KEYS,
                            "name": f"scene-006{scene}",
                            "description": "Parked truck", "first_sample_token": f"sa-{scene}-0",
                            "last_sample_token": f"sa-{scene}-{KEYS - 1}"})  # fmt: skip
    begin_us = 1_532_402_927_000_000
    for key in range(KEYS):
        time_us = begin_us + key * 1_000_000 * KEY_EVERY // HZ
        tables["sample"].append(linked({"timestamp": time_us, "scene_token": f"sc-{scene}"}, f"sa-{scene}-", key, KEYS))
        place, yaw = pose(scene, key * KEY_EVERY / HZ)
        for category, ((ahead, left), size, visibility, attribute) in AGENTS.items():
            turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
            centre = place + turn @ [ahead, left]
            tables["sample_annotation"].append(linked(
                {"sample_token": f"sa-{scene}-{key}", "instance_token": f"i-{scene}-{category}",
                 "visibility_token": visibility, "attribute_tokens": [f"at-{attribute}"] if attribute else [],
                 "translation": [*centre, size[2] / 2], "size": size, "rotation": quaternion(yaw),
                 "num_lidar_pts": 9, "num_radar_pts": 0}, f"an-{scene}-{category}-", key, KEYS,
            ))  # fmt: skip
    for category in AGENTS:
        tables["instance"].append(
            {"token": f"i-{scene}-{category}", "category_token": f"c-{category}", "nbr_annotations": KEYS,
             "first_annotation_token": f"an-{scene}-{category}-0",
             "last_annotation_token": f"an-{scene}-{category}-{KEYS - 1}"}
        )  # fmt: skip
    count = (KEYS - 1) * KEY_EVERY + 3  # the camera goes on after the last key frame
    for number in range(count):
        key = min(-(-number // KEY_EVERY), KEYS - 1)  # a sweep belongs to the key frame after it
        is_key = number % KEY_EVERY == 0 and number // KEY_EVERY < KEYS
        place, yaw = pose(scene, number / HZ)
        tables["ego_pose"].append({"token": f"e-{scene}-{number}", "timestamp": begin_us + number * 1_000_000 // HZ,
                                   "translation": [*place, 0.0], "rotation": quaternion(yaw)})  # fmt: skip
        kind = "samples" if is_key else "sweeps"
        filename = f"{kind}/CAM_FRONT/n{scene}-{number:03d}.jpg"
        picture = np.full((HEIGHT, WIDTH, 3), 8 * number + 5 * scene, np.uint8)
        Image.fromarray(picture).save(root / filename, quality=95)
        record = {
            "sample_token": f"sa-{scene}-{key}",
            "ego_pose_token": f"e-{scene}-{number}",
            "calibrated_sensor_token": "cs-cam",
            "timestamp": begin_us + number * 1_000_000 // HZ,
            "fileformat": "jpg",
            "is_key_frame": is_key,
            "height": HEIGHT,
            "width": WIDTH,
            "filename": filename,
        }
        tables["sample_data"].append(linked(record, f"sd-{scene}-", number, count))
        if is_key:
            tables["sample_data"].append(
                {"token": f"li-{scene}-{key}", "sample_token": f"sa-{scene}-{key}", "ego_pose_token": f"e-{scene}-{number}",
                 "calibrated_sensor_token": "cs-lidar", "timestamp": begin_us, "fileformat": "pcd", "is_key_frame": True,
                 "height": 0, "width": 0, "filename": f"samples/LIDAR_TOP/{scene}-{key}.pcd.bin", "prev": "", "next": ""}
            )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    require_devkit()
    return data_set(tmp_path_factory.mktemp("nuscenes") / "data")


@pytest.fixture(scope="module")
def added(root, tmp_path_factory):
    return nuscenes.add(root, ConversionSettings(tmp_path_factory.mktemp("made") / "domain", RECIPE))


def edited(root: Path, table: str, change) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_every_third_picture_of_twelve_a_second_up_to_the_last_key_frame(added):
    assert added.unusable.empty and list(added.domain.videos["frames"]) == [5, 5]
    assert list(added.domain.videos["scene"]) == ["scene-0060", "scene-0061"]
    frames = decode(added.domain.folder / "videos" / "scene-0060-000.mp4")
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 8 * np.arange(0, 13, 3)).max() < 2


def test_boxes_are_the_devkits_projected_then_cut_like_the_picture(root, added):
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    database = NuScenes("v1.0-mini", str(root), verbose=False)
    tracks = added.domain.tracks[added.domain.tracks["video"] == "scene-0061-000"]
    scale, left = 64 / HEIGHT, (WIDTH - HEIGHT) / 2
    for frame in range(5):
        _, boxes, intrinsics = database.get_sample_data(f"sd-1-{3 * frame}", BoxVisibility.NONE)
        for name, kind in (("vehicle.car", "car"), ("human.pedestrian.adult", "pedestrian"), ("vehicle.bicycle", "bicycle")):
            (box,) = [box for box in boxes if box.name == name]
            corners = view_points(box.corners(), intrinsics, normalize=True)[:2]
            wanted = np.concatenate([corners.min(axis=1), corners.max(axis=1)])
            wanted = (wanted - [left, 0, left, 0]) * scale
            row = tracks[(tracks["frame"] == frame) & (tracks["kind"] == kind)]
            assert np.allclose(row[["x0", "y0", "x1", "y1"]].to_numpy()[0], wanted, atol=1e-6)
            inside = np.clip(wanted, 0, 64)
            share = (inside[2:] - inside[:2]).prod() / (wanted[2:] - wanted[:2]).prod()
            level = nuscenes.VISIBLE[LEVELS[AGENTS[name][2]]]
            assert row["visible"].item() == pytest.approx(share * level)
    assert set(tracks["kind"]) == {"car", "pedestrian", "bicycle", "truck"}  # no barrier, nothing that is behind


def test_places_are_seen_from_the_camera_and_steady_where_all_move_alike(added):
    tracks = added.domain.tracks
    straight = tracks[(tracks["video"] == "scene-0060-000") & (tracks["kind"] == "car")]
    assert np.allclose(straight["y_m"], 20 - CAMERA_M[0]) and np.allclose(straight["x_m"], 1.0 + CAMERA_M[1])
    assert np.allclose(straight["heading_rad"], 0) and straight["road_m"].isna().all()
    assert straight["eligible"].all() and straight["agent"].nunique() == 1
    middle = tracks[(tracks["video"] == "scene-0060-000") & (tracks["kind"] == "pedestrian")]
    assert (middle["visible"] <= 0.5).all()


def test_the_ego_car_is_the_camera(added):
    ego = added.domain.ego.set_index("video")
    straight, turning = ego.loc["scene-0060-000"], ego.loc["scene-0061-000"]
    seconds = np.arange(5) / 4
    assert np.allclose(straight["x_m"], 0, atol=1e-6) and np.allclose(straight["heading_rad"], 0)
    assert np.allclose(straight["y_m"], SPEED_M_S * seconds, atol=1e-4)
    assert np.allclose(turning["heading_rad"], TURN_RAD_S * seconds, atol=1e-4)  # to the left: positive
    left = CAMERA_M[1] * (1 - np.cos(TURN_RAD_S))
    swung = CAMERA_M[0] * np.sin(TURN_RAD_S) - left  # the nose goes to the left
    assert turning["x_m"].iloc[-1] == pytest.approx(-swung, abs=1e-3)
    assert straight["camera_height_m"].eq(1.5).all()
    assert straight["field_of_view_deg"].iloc[0] == pytest.approx(2 * np.rad2deg(np.arctan(HEIGHT / 2 / 126.6)))
    assert straight["camera_pitch_rad"].iloc[0] == pytest.approx(np.arctan((HEIGHT / 2 - 49.1) / 126.6), abs=1e-4)


def test_what_is_beside_the_camera_is_bounded_before_it(added):
    truck = added.domain.tracks[added.domain.tracks["kind"] == "truck"]
    assert len(truck) and np.isfinite(truck[["x0", "y0", "x1", "y1"]].to_numpy()).all()
    assert (truck["x1"] > 64).all() and (truck["x0"] < 64).all()


def test_the_same_command_goes_on_and_a_drive_is_in_one_split(root, added, capsys):
    again = nuscenes.add(root, ConversionSettings(added.domain.folder, RECIPE, SplitShares(0, 1)))
    assert "2 of 2 sources were already converted" in capsys.readouterr().err
    assert set(again.domain.videos["split"]) == {"test"} and len(again.listing) == 0
    with pytest.raises(ValueError, match=r"was begun with origin 'nuscenes v1\.0-mini CAM_FRONT'"):
        nuscenes.add(root, ConversionSettings(added.domain.folder, RECIPE), version="v1.0-trainval")


def test_missing_sweeps_are_said_and_key_frames_alone_can_be_used(tmp_path):
    require_devkit()
    root = data_set(tmp_path / "data")
    for path in (root / "sweeps" / "CAM_FRONT").iterdir():
        path.unlink()
    with pytest.raises(
        ValueError, match=r"10 of its 13 images are missing; it has 2 frames per second.*download the sweeps"
    ):
        nuscenes.add(root, ConversionSettings(tmp_path / "domain", RECIPE))
    slow = Recipe(64, 64, frames_per_second=2, frames=3)
    assert list(nuscenes.add(root, ConversionSettings(tmp_path / "slow", slow)).domain.videos["frames"]) == [3, 3]


def test_without_annotations_there_are_no_tracks_but_an_ego_car(tmp_path):
    require_devkit()
    root = data_set(tmp_path / "data")
    for table in ("sample_annotation", "instance"):
        edited(root, table, lambda rows: rows.clear())
    domain = nuscenes.add(root, ConversionSettings(tmp_path / "domain", RECIPE)).domain
    assert not domain.has_tracks and len(domain.ego) == 10


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("ego_pose", lambda rows: rows[3].pop("rotation"), r"ego_pose\.json: record 3: field 'rotation' is missing"),
        ("sample_annotation", lambda rows: rows[0].pop("visibility_token"),
         r"sample_annotation\.json: record 0: field 'visibility_token' is missing"),
        ("sample_annotation", lambda rows: rows[1].update(visibility_token=""),
         r"field 'visibility_token' names '', which is not in visibility\.json"),
        ("calibrated_sensor", lambda rows: rows[0].update(sensor_token="x"),
         r"calibrated_sensor\.json: record 0: field 'sensor_token' names 'x', which is not in sensor\.json"),
        ("map", lambda rows: rows[0].update(filename="maps/gone.png"), r"map\.json: .*maps/gone\.png, which is missing"),
        ("visibility", lambda rows: rows[3].update(level="some"), r"visibility\.json: field 'level' is 'some'"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_with_its_field(table, change, message, tmp_path):
    require_devkit()
    root = data_set(tmp_path / "data")
    edited(root, table, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        nuscenes.add(root, ConversionSettings(tmp_path / "domain", RECIPE))
    assert not (tmp_path / "domain").exists()


def test_missing_and_broken_tables_cameras_and_versions_are_named(tmp_path):
    require_devkit()
    root, order = data_set(tmp_path / "data"), ConversionSettings(tmp_path / "domain", RECIPE)
    with pytest.raises(ValueError, match=r"no camera 'CAM_TOP' in it; it has \['CAM_FRONT'\]"):
        nuscenes.add(root, order, camera="CAM_TOP")
    with pytest.raises(FileNotFoundError, match=r"v1\.0-trainval is missing: give the folder.* take --version v1\.0-mini"):
        nuscenes.add(root, order, version="v1.0-trainval")
    path = root / "v1.0-mini" / "sample.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"sample\.json is no JSON list"):
        nuscenes.add(root, order)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"sample\.json is missing"):
        nuscenes.add(root, order)


def test_without_the_devkit_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "nuscenes.nuscenes", None)
    (tmp_path / "v1.0-mini").mkdir()
    assert main.main(["domain", "add", "nuscenes", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "--no-deps nuscenes-devkit" in capsys.readouterr().err


def test_the_command_makes_a_domain_that_feeds_clips(root, tmp_path, capsys):
    out = tmp_path / "domain"
    command = ["domain", "add", "nuscenes", str(root), "--out", str(out), "--size", "48x96", "--frames", "4",
               "--dev", "0", "--test", "0", "--processes", "1"]  # fmt: skip
    assert main.main(command) == 0
    assert "agent-frames of truth" in capsys.readouterr().out
    domain = open_domain(out)
    chosen = clips.clips_of(domain, "train", 4)
    assert next(clips.read(domain, chosen, 4)).shape == (4, 48, 96, 3)
    truth = clips.truth_of(domain, chosen, 4)
    assert all(len(table) for table in truth[0]) and domain.about["licence"].startswith("CC BY-NC-SA")
    fit = Fit.of(HEIGHT, WIDTH, Recipe(48, 96))
    assert fit.cut == (0, 5, 160, 85)
