"""KITTI tracking as it is unpacked: labels, calibration and oxts in its own text formats."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from domain_command import made_by_command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from replaylab.data.importers import kitti, notes
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import Recipe
from replaylab.data.video import decode

HEIGHT, WIDTH, FRAMES = 375, 1242, 24
RECIPE = Recipe(64, 64, frames_per_second=5.0, frames=8)
CALIBRATION = """\
P0: 7.215377e+02 0.000000e+00 6.095593e+02 0.000000e+00 0.000000e+00 7.215377e+02 1.728540e+02 0.000000e+00 0.0 0.0 1.0 0.0
P1: 7.215377e+02 0.000000e+00 6.095593e+02 -3.875744e+02 0.000000e+00 7.215377e+02 1.728540e+02 0.000000e+00 0.0 0.0 1.0 0.0
P2: 7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.215377e+02 1.728540e+02 2.163791e-01 0.0 0.0 1.0 2.745884e-03
P3: 7.215377e+02 0.000000e+00 6.095593e+02 -3.395242e+02 0.000000e+00 7.215377e+02 1.728540e+02 2.199936e+00 0.0 0.0 1.0 2.729905e-03
R_rect 9.999239e-01 9.837760e-03 -7.445048e-03 -9.869795e-03 9.999421e-01 -4.278459e-03 7.402527e-03 4.351614e-03 9.999631e-01
Tr_velo_cam 7.533745e-03 -9.999714e-01 -6.166020e-04 -4.069766e-03 1.480249e-02 7.280733e-04 -9.998902e-01 -7.631618e-02 9.998621e-01 7.523790e-03 1.480755e-02 -2.717806e-01
Tr_imu_velo 9.999976e-01 7.553071e-04 -2.035826e-03 -8.086759e-01 -7.854027e-04 9.998898e-01 -1.482298e-02 3.195559e-01 2.024406e-03 1.482454e-02 9.998881e-01 -7.997231e-01
"""  # noqa: E501
SPEED_M_S, TURN_RAD_S = 8.0, 0.25
BASE_M = (44.85728 - 609.5593 * 2.745884e-3) / 721.5377  # from camera 0 to camera 2, by P2


def label(frame, track, kind, box, place=(-1000, -1000, -1000), turn=-10.0, truncated=0, occluded=0):
    edges, where = " ".join(f"{edge:.6f}" for edge in box), " ".join(f"{value:.6f}" for value in place)
    return f"{frame} {track} {kind} {truncated} {occluded} -1.57 {edges} 1.50 1.60 4.00 {where} {turn:.6f}"


def oxts(seconds: float) -> str:
    """Driving to the north-east and turning to the left, at 49 degrees north."""
    latitude = 49.0 + np.rad2deg(SPEED_M_S * seconds * np.sin(0.6) / kitti.EARTH_RADIUS_M)
    around = kitti.EARTH_RADIUS_M * np.cos(np.deg2rad(49.0))
    longitude = 8.4 + np.rad2deg(SPEED_M_S * seconds * np.cos(0.6) / around)
    yaw = 0.6 + TURN_RAD_S * seconds
    return " ".join(map(repr, map(float, [latitude, longitude, 112.8, 0.0, 0.0, yaw, *[0.0] * 24])))


def sequence(root: Path, name: str = "0000", frames=range(FRAMES)) -> Path:
    """One sequence, with a car ahead, a pedestrian that is mostly hidden, a cyclist and a region."""
    training = root / "training"
    for kind in ("label_02", "calib", "oxts", f"image_02/{name}"):
        (training / kind).mkdir(parents=True, exist_ok=True)
    lines = []
    for frame in frames:
        picture = np.full((HEIGHT, WIDTH, 3), 8 * frame, np.uint8)
        Image.fromarray(picture).save(training / "image_02" / name / f"{frame:06d}.png", compress_level=1)
        lines += [
            label(frame, 4, "Car", (590, 150, 690, 260), (1.0 - BASE_M, 1.6, 20.0), -np.pi / 2),
            label(frame, 7, "Pedestrian", (500, 150, 540, 260), (-3.0, 1.7, 15.0), 0.0, occluded=2),
            label(frame, -1, "DontCare", (450, 160, 480, 250), truncated=-1, occluded=-1),
        ]
        if frame >= 10:
            lines.append(label(frame, 2, "Cyclist", (400, 150, 467, 260), (-4.0, 1.7, 16.0), np.pi, truncated=1))
    (training / "label_02" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (training / "calib" / f"{name}.txt").write_text(CALIBRATION)
    (training / "oxts" / f"{name}.txt").write_text("\n".join(oxts(frame / 10) for frame in range(max(frames) + 1)) + "\n")
    return training


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitti")
    sequence(root)
    added = kitti.add(root, ConversionSettings(root / "domain", RECIPE))
    assert added.unusable.empty
    return added.domain


def test_every_second_picture_at_five_a_second(domain):
    assert (list(domain.videos["frames"]), list(domain.videos["scene"])) == ([12], ["0000"])
    frames = decode(domain.folder / "videos" / "0000-000.mp4")
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 8 * np.arange(0, 24, 2)).max() < 2


@pytest.mark.parametrize("harm", ["a bit of the tracks", "no tracks", "a digit of the note"])
def test_what_is_kept_of_a_source_is_as_it_was_written_or_converted_again(harm, domain, tmp_path, capsys):
    out = tmp_path / "domain"
    shutil.copytree(domain.folder, out)
    tracks, note = notes.table_path(out, "0000", "tracks"), notes.note_path(out, "0000")
    assert notes.read_note(out, "0000") is not None
    if harm == "no tracks":  # they would not be known of any source
        tracks.unlink()
    elif harm == "a digit of the note":
        note.write_text(note.read_text().replace('"frames": 12', '"frames": 13'))
    else:
        tracks.write_bytes(tracks.read_bytes()[:-1] + b"0")
    assert notes.read_note(out, "0000") is None
    assert "the source is converted again" in capsys.readouterr().err


def test_labels_are_in_px_of_the_cut_picture_and_m_from_the_camera(domain):
    tracks = domain.tracks
    car = tracks[tracks["kind"] == "car"]
    scale, left = 64 / HEIGHT, (WIDTH - HEIGHT) / 2
    wanted = (np.array([590, 150, 690, 260]) - [left, 0, left, 0]) * scale
    assert np.allclose(car[["x0", "y0", "x1", "y1"]], wanted)
    assert np.allclose(car["x_m"], 1.0, atol=1e-5) and np.allclose(car["y_m"], 20.0, atol=0.01)
    assert np.allclose(car["heading_rad"], 0, atol=1e-6) and car["eligible"].all() and car["visible"].eq(1).all()
    assert list(car["frame"]) == list(range(12)) and car["road_m"].isna().all()
    hidden = tracks[tracks["kind"] == "pedestrian"]
    assert not hidden["eligible"].any() and np.allclose(hidden["visible"], kitti.VISIBLE[2])


def test_what_is_cut_off_by_our_picture_counts_as_less_visible(domain):
    cyclist = domain.tracks[domain.tracks["kind"] == "cyclist"]
    share = (467 - (WIDTH - HEIGHT) / 2) / 67  # of the box that is right of our left edge
    assert np.allclose(cyclist["visible"], share * kitti.CUT[1])
    assert np.allclose(cyclist["heading_rad"], np.pi / 2, atol=1e-6)  # to the left
    assert list(cyclist["frame"]) == list(range(5, 12)) and cyclist["agent"].nunique() == 1


def test_a_region_is_nobody_and_never_counts(domain):
    regions = domain.tracks[domain.tracks["kind"] == "dontcare"]
    assert len(regions) == 12 and not regions["eligible"].any()
    assert regions["agent"].nunique() == 12 and regions[["x_m", "y_m", "heading_rad"]].isna().all(axis=None)
    others = domain.tracks[domain.tracks["kind"] != "dontcare"]
    assert not set(regions["agent"]) & set(others["agent"])


def test_the_ego_car_drives_as_oxts_says(domain):
    ego, seconds = domain.ego, np.arange(12) / 5
    assert np.allclose(ego["heading_rad"], TURN_RAD_S * seconds, atol=1e-3)
    way = np.hypot(np.diff(ego["x_m"]), np.diff(ego["y_m"]))
    assert way.min() > 0.99 * SPEED_M_S / 5 and (ego["y_m"].diff().dropna() > 0).all()
    assert ego["field_of_view_deg"].iloc[0] == pytest.approx(2 * np.rad2deg(np.arctan(HEIGHT / 2 / 721.5377)))
    assert ego["camera_pitch_rad"].iloc[0] == pytest.approx(np.arctan((HEIGHT / 2 - 172.854) / 721.5377), abs=1e-4)


@given(st.lists(st.tuples(st.floats(-80, 80), st.floats(-179, 179), *[st.floats(-3, 3)] * 4), min_size=1, max_size=5))
def test_poses_are_those_of_the_raw_datas_devkit(rows):
    table = np.array(rows)
    scale = np.cos(table[0, 0] * np.pi / 180)  # as convertOxtsToPose.m has it, line by line
    for row, made in zip(table, kitti.imu_poses(table), strict=True):
        latitude, longitude, altitude, rx, ry, rz = row
        er = 6378137
        t = [scale * longitude * np.pi * er / 180, scale * er * np.log(np.tan((90 + latitude) * np.pi / 360)), altitude]
        x = np.array([[1, 0, 0], [0, np.cos(rx), -np.sin(rx)], [0, np.sin(rx), np.cos(rx)]])
        y = np.array([[np.cos(ry), 0, np.sin(ry)], [0, 1, 0], [-np.sin(ry), 0, np.cos(ry)]])
        z = np.array([[np.cos(rz), -np.sin(rz), 0], [np.sin(rz), np.cos(rz), 0], [0, 0, 1]])
        assert np.allclose(made[:3, :3], z @ y @ x) and np.allclose(made[:3, 3], t, rtol=1e-9, atol=1e-3)


def test_wrong_sequences_are_listed_and_the_rest_goes_on(tmp_path):
    training = sequence(tmp_path, "0000")
    damage = {
        "0001": ("label_02", lambda text: text.replace(" 20.000000 ", " ", 1), "line 1: expected 17 fields"),
        "0002": ("calib", lambda text: text.replace("Tr_imu_velo", "Tr"), "Tr_imu_velo is missing"),
        "0003": ("oxts", lambda text: "\n".join(text.splitlines()[:12]), "lines, and there is an image 23"),
        "0004": ("oxts", None, r"oxts/0004.txt is missing"),
        "0005": ("label_02", lambda text: text.replace("Car", "Auto", 1), "line 1: expected 17 fields"),
        "0006": ("calib", lambda text: text.replace("P2: 7.215377e+02", "P2:"), "12 numbers after P2"),
    }
    for name, (kind, change, _) in damage.items():
        sequence(tmp_path, name)
        path = training / kind / f"{name}.txt"
        path.write_text(change(path.read_text())) if change else path.unlink()
    sequence(tmp_path, "0007", range(6))
    sequence(tmp_path, "0008", [*range(8), *range(12, 24)])  # a gap
    picture = training / "image_02" / "0009" / "000004.png"
    sequence(tmp_path, "0009")
    picture.write_bytes(picture.read_bytes()[:200])
    added = kitti.add(tmp_path, ConversionSettings(tmp_path / "domain", Recipe(64, 64, "crop", 5.0, 4), SplitShares(0, 0)))
    why = added.unusable.set_index("file")["why"]
    for name, (_, _, message) in damage.items():
        assert message in why[name]
    assert "too short: 3 frames" in why["0007"] and "000004.png cannot be read" in why["0009"]
    assert list(added.domain.videos["file"]) == ["0000-000.mp4", "0008-000.mp4", "0008-001.mp4"]
    assert list(added.domain.videos["frames"]) == [12, 4, 6]
    assert set(added.domain.tracks["video"]) == {"0000-000", "0008-000", "0008-001"}


def test_a_folder_that_is_not_kitti_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training/image_02 has no sequences"):
        kitti.add(tmp_path, ConversionSettings(tmp_path / "domain", RECIPE))


def test_the_command_makes_a_domain_that_feeds_clips(tmp_path, capsys):
    sequence(tmp_path)
    domain = made_by_command("kitti", tmp_path, tmp_path / "domain", capsys, (48, 160))
    assert "KITTI" in domain.about["licence"]
