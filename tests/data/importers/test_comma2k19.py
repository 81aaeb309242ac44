"""comma2k19 as it is unpacked: raw HEVC without times, and the makers' poses as .npy files without an ending."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from domain_command import made_by_command

from replaylab.data.importers import comma2k19
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import Recipe
from replaylab.data.video import decode

HEIGHT, WIDTH, FRAMES = 146, 194, 41  # a sixth of comma2k19's
RECIPE = Recipe(64, 64, frames_per_second=5.0, frames=4)
ROUTE = "b0c9d2329ad1606b|2018-08-02--08-34-47"
NAME = "b0c9d2329ad1606b_2018-08-02--08-34-47"
LATITUDE, LONGITUDE, HEIGHT_M = np.deg2rad(37.6), np.deg2rad(-122.4), 90.0
SPEED_M_S, TURN_RAD_S, BEARING, PITCH = 25.0, 0.1, 0.9, 0.03  # bearing from north to the east, pitch downwards
TIMES = 900.0 + np.arange(FRAMES) / 20 + 0.002 * np.sin(np.arange(FRAMES))


def geodetic_to_earth(latitude: float, longitude: float, height_m: float) -> np.ndarray:
    """As in the makers' coordinates.py, and in every book: ECEF of a place on WGS 84."""
    square = 6.69437999014e-3
    normal = 6378137.0 / np.sqrt(1 - square * np.sin(latitude) ** 2)
    along = (normal + height_m) * np.cos(latitude)
    return np.array([
        along * np.cos(longitude), along * np.sin(longitude), (normal * (1 - square) + height_m) * np.sin(latitude),
    ])  # fmt: skip


def ned_to_earth() -> np.ndarray:
    """As the makers' LocalCoord: columns north, east and down in the earth's axes."""
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(LATITUDE), np.cos(LATITUDE), np.sin(LONGITUDE), np.cos(LONGITUDE)
    return np.array([
        [-sin_lat * cos_lon, -sin_lon, -cos_lat * cos_lon],
        [-sin_lat * sin_lon, cos_lon, -cos_lat * sin_lon],
        [cos_lat, 0, -sin_lat],
    ])  # fmt: skip


def product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Of two Hamilton quaternions, scalar first."""
    return np.concatenate([[p[0] * q[0] - p[1:] @ q[1:]], p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:])])


def about(axis: int, angle: float) -> np.ndarray:
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * np.eye(3)[axis]])


def orientation(bearing: float) -> np.ndarray:
    """From the camera's ahead, right and down to the earth's axes: north, east, down turned by longitude and latitude."""
    to_place = product(about(2, LONGITUDE), about(1, -LATITUDE - np.pi / 2))
    return product(to_place, product(about(2, bearing), about(1, -PITCH)))


def poses(times: np.ndarray = TIMES) -> dict[str, np.ndarray]:
    """Driving to the north-east at a steady speed, and turning to the left."""
    seconds = times - times[0]
    start = geodetic_to_earth(LATITUDE, LONGITUDE, HEIGHT_M)
    ahead = np.array([np.cos(BEARING), np.sin(BEARING), 0.0])
    return {
        "frame_times": times,
        "frame_gps_times": np.stack([np.full(len(times), 2012.0), 4e5 + times], axis=1),
        "frame_positions": start + np.outer(SPEED_M_S * seconds, ned_to_earth() @ ahead),
        "frame_velocities": np.tile(SPEED_M_S * ned_to_earth() @ ahead, (len(times), 1)),
        "frame_orientations": np.stack([orientation(BEARING - TURN_RAD_S * second) for second in seconds]),
    }


def write_video(path: Path, frames: int = FRAMES, b_frames: int = 0) -> None:
    with av.open(str(path), "w", format="hevc") as container:
        options = {"x265-params": f"bframes={b_frames}:log-level=none:pools=none:frame-threads=1", "preset": "ultrafast"}
        stream = container.add_stream("libx265", rate=25, options=options)  # not the true one
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            grey = np.full((HEIGHT, WIDTH, 3), 5 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("hevc") / "video.hevc"
    write_video(path)
    return path


def write_segment(chunk: Path, video: Path, number: str, route: str = ROUTE) -> Path:
    folder = chunk / route / number
    (folder / "global_pose").mkdir(parents=True)
    for kind in ("speed", "steering_angle"):
        (folder / "processed_log" / "CAN" / kind).mkdir(parents=True)
    (folder / "video.hevc").write_bytes(video.read_bytes())
    for name, array in poses().items():
        save(folder / "global_pose" / name, array)
    return folder


def save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add .npy to a name
        np.save(file, array)


@pytest.fixture(scope="module")
def root(video, tmp_path_factory):
    root = tmp_path_factory.mktemp("comma2k19") / "data"
    write_segment(root / "Chunk_1", video, "40")
    write_segment(root / "Example_1", video, "40")  # the same again
    return root


@pytest.fixture(scope="module")
def domain(root):
    added = comma2k19.add(root, ConversionSettings(root.parent / "domain", RECIPE))
    assert added.unusable.empty
    return added.domain


def test_every_fourth_picture_by_the_makers_times_and_no_boxes(domain):
    assert list(domain.videos["scene"]) == [f"{NAME}-40"] and list(domain.videos["frames"]) == [11]
    frames = decode(domain.folder / "videos" / f"{NAME}-40-000.mp4")
    assert np.abs(frames.mean(axis=(1, 2, 3)) - (5 * np.arange(0, FRAMES, 4) + 20)).max() < 3
    assert not domain.has_tracks and "comma2k19" in domain.about["licence"]


def test_the_ego_car_drives_as_it_does_on_the_ellipsoid(domain):
    ego, seconds = domain.ego, TIMES[::4] - TIMES[0]
    assert np.allclose(ego["heading_rad"], TURN_RAD_S * seconds, atol=1e-6)  # to the left: positive
    assert np.allclose(ego["y_m"], SPEED_M_S * seconds, atol=1e-4) and np.allclose(ego["x_m"], 0, atol=1e-4)
    focal_px = 910 * WIDTH / 1164
    assert ego["field_of_view_deg"].iloc[0] == pytest.approx(2 * np.rad2deg(np.arctan(HEIGHT / 2 / focal_px)))
    assert ego["camera_pitch_rad"].to_numpy() == pytest.approx(PITCH, abs=1e-6)


def test_up_is_the_normal_of_the_ellipsoid_and_north_is_north():
    times = TIMES[:2]
    array = poses(times)
    cameras, axes = comma2k19.from_earth(array["frame_positions"], array["frame_orientations"])
    north_east_down = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])  # to east, north and up
    turned = BEARING - TURN_RAD_S * (times[1] - times[0])
    wanted = north_east_down @ np.array([
        [np.cos(turned) * np.cos(PITCH), -np.sin(turned)], [np.sin(turned) * np.cos(PITCH), np.cos(turned)],
        [np.sin(PITCH), 0],
    ])  # fmt: skip
    assert np.allclose(axes[1][:, :2], wanted, atol=1e-6)
    assert cameras[0, 2] == pytest.approx(-BEARING) and np.allclose(cameras[0, :2], 0)  # a bearing is to the right
    way = SPEED_M_S * (times[1] - times[0])
    assert np.allclose(cameras[1, :2], [way * np.sin(BEARING), way * np.cos(BEARING)], atol=1e-5)


def of_pose(name: str, change):
    return lambda folder: save(folder / "global_pose" / name, change(np.load(folder / "global_pose" / name)))


def spoiled(row: int, value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return change


def truncated(path: str, share: float):
    def change(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * share)])

    return change


BROKEN = {
    "no video": (lambda folder: (folder / "video.hevc").unlink(), r"video\.hevc is missing"),
    "no times": (lambda folder: (folder / "global_pose" / "frame_times").unlink(), r"frame_times is missing"),
    "fewer": (of_pose("frame_positions", lambda array: array[:-3]), r"differ in length: .*'frame_positions': 38"),
    "flat": (of_pose("frame_positions", lambda array: array[:, :2]), r"of shape \(41, 2\), .* numbers \(frames, 3\)"),
    "texts": (of_pose("frame_times", lambda array: array.astype(str)), r"frame_times has <U.* and should have numbers"),
    "nan": (of_pose("frame_positions", spoiled(5, np.nan)), r"frame_positions: row 5 is .*nan.* finite numbers"),
    "back": (of_pose("frame_times", spoiled(7, 900.0)), r"frame_times: row 7 is 900\.0, and should be later than"),
    "none": (of_pose("frame_orientations", spoiled(3, 0.0)), r"frame_orientations: row 3 is .* a quaternion of length 1"),
    "deep": (of_pose("frame_positions", spoiled(2, 0.0)), r"frame_positions: row 2 is .* from the middle of the earth"),
    "cut array": (truncated("global_pose/frame_orientations", 0.5), r"frame_orientations is no whole \.npy file"),
    "cut video": (truncated("video.hevc", 0.3), r"video\.hevc is cut off: \d+ of 41 frames are there"),
    "no hevc": (lambda folder: (folder / "video.hevc").write_bytes(b"no video" * 99), r"video\.hevc is not a video"),
    "other order": (lambda folder: write_video(folder / "video.hevc", b_frames=3), r"in another order than they are shown"),
}  # fmt: skip


def test_wrong_segments_are_a_line_each_and_the_rest_goes_on(video, tmp_path):
    chunk = tmp_path / "Chunk_3"
    for number, (change, _) in enumerate(BROKEN.values()):
        change(write_segment(chunk, video, str(number)))
    write_segment(chunk, video, "40", ROUTE.replace("|", "_"))  # as the makers' script unpacks it for other file systems
    added = comma2k19.add(chunk, ConversionSettings(tmp_path / "domain", RECIPE, SplitShares(0, 0)))
    why = added.unusable.set_index("file")["why"]
    assert len(why) == len(BROKEN)
    for number, (what, (_, message)) in enumerate(BROKEN.items()):
        assert re.search(message, why[f"{NAME}-{number}"]), (what, why[f"{NAME}-{number}"])
    assert list(added.domain.videos["scene"]) == [f"{NAME}-40"]
    with pytest.raises(FileNotFoundError, match=r"has no segments \(CHUNK/ROUTE/NUMBER/video\.hevc\)"):
        comma2k19.add(tmp_path / "domain", ConversionSettings(tmp_path / "other", RECIPE))


def test_the_command_makes_a_domain_that_feeds_clips(root, tmp_path, capsys):
    domain = made_by_command("comma2k19", root, tmp_path / "domain", capsys, said="agents are not known")
    assert domain.has_ego
