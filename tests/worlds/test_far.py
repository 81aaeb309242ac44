"""Worlds far from driving: a camera that circles things we drew, and a walk through Doom's maps that others drew."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import require_or_skip

from replaylab.data.domain import EGO_COLUMNS, SPLITS, TRACK_COLUMNS
from replaylab.spec import WorldSpec
from replaylab.util.extras import MissingExtra
from replaylab.worlds import appearance, build, orbit, orbit_appearance, renderer
from replaylab.worlds.build import render_video
from replaylab.worlds.doom import game as game_module
from replaylab.worlds.doom import maps as maps_module
from replaylab.worlds.doom import truth, walk

ORBIT = WorldSpec("orbit", "orbit", "any", "any", (4, 0, 0))
DOOM = WorldSpec("doom", "doom", "any", "walk", (4, 0, 0))
SEEDS = range(8)


def scene_of(motion, seed):
    spec = dataclasses.replace(ORBIT, motion=motion)
    return orbit.draw(spec, np.random.default_rng(seed), np.random.default_rng(seed + 100), number=0)


def same(one, other):
    return np.array_equal(one[0], other[0]) and json.dumps(one[1:]) == json.dumps(other[1:])


# --------------------------------------------------------------------------------------------------------------- orbit
@pytest.mark.parametrize("motion", orbit.CAMERA_MOTIONS)
def test_every_motion_shows_its_things_and_is_named(motion):
    for seed in SEEDS:
        scene = scene_of(motion, seed)
        assert renderer.shows_its_agents(scene)
        assert scene.event == motion
        assert set(scene.kinds) <= set(orbit_appearance.KINDS)
        assert np.allclose(scene.ego[0], 0)


def test_an_orbit_keeps_its_distance_and_faces_the_middle():
    for seed in SEEDS:
        view = orbit.draw_view("orbit", np.random.default_rng(seed), np.arange(12) / 4)
        to_middle = view.middle - view.path[:, :2]
        distance = np.linalg.norm(to_middle, axis=1)
        assert distance == pytest.approx(np.full(12, distance[0]))
        facing = np.stack([-np.sin(view.path[:, 2]), np.cos(view.path[:, 2])], axis=1)
        assert to_middle / distance[:, None] == pytest.approx(facing)
        rates = np.diff(view.path[:, 2]) * 4
        assert rates == pytest.approx(np.full(11, rates[0]))
        assert 0.1 <= abs(rates[0]) <= 0.6


def test_a_pan_only_turns_a_dolly_only_drives_a_zoom_only_zooms():
    for seed in SEEDS:
        pan, dolly, zoom = (scene_of(motion, seed) for motion in ("pan", "dolly", "zoom"))
        assert not pan.ego[:, :2].any() and len(set(pan.cameras)) == 1
        assert np.ptp(np.diff(pan.ego[:, 2])) == pytest.approx(0, abs=1e-9) and pan.ego[-1, 2] != 0
        assert not dolly.ego[:, [0, 2]].any() and len(set(dolly.cameras)) == 1  # heading 0 is along y
        assert np.ptp(np.diff(dolly.ego[:, 1])) == pytest.approx(0, abs=1e-9) and abs(dolly.ego[-1, 1]) > 1
        assert not zoom.ego.any()
        focal = np.array([camera.focal_px(64) for camera in zoom.cameras])
        shares = focal[1:] / focal[:-1]
        assert shares == pytest.approx(np.full(11, shares[0])) and abs(np.log(focal[-1] / focal[0])) > 0.5
        assert len({(camera.height_m, camera.pitch_rad) for camera in zoom.cameras}) == 1


def test_things_keep_speed_and_turn_and_go_through_nothing():
    for seed in SEEDS:
        scene = scene_of("any", seed)
        places = scene.poses[:, :, :2, 3]
        step = np.linalg.norm(np.diff(places, axis=1), axis=-1)
        assert step == pytest.approx(np.repeat(step[:, :1], 11, axis=1), abs=1e-9)
        turn = np.angle(np.exp(1j * np.diff(np.arctan2(scene.poses[:, :, 1, 0], scene.poses[:, :, 0, 0]), axis=1)))
        assert turn == pytest.approx(np.repeat(turn[:, :1], 11, axis=1), abs=1e-9)
        reach = [np.linalg.norm(mesh.vertices[:, :2], axis=1).max() for mesh in scene.agents]
        for one in range(len(places)):
            assert (np.linalg.norm(places[one] - scene.ego[:, :2], axis=1) > reach[one] + 1).all()
            for other in range(one):
                apart = np.linalg.norm(places[one] - places[other], axis=1).min()
                assert apart > reach[one] + reach[other]


def test_nothing_but_things_can_hide_a_thing():
    """Seen from above, no sight line crosses any edge of what stands around."""
    for seed in range(24):
        scene = scene_of("any", seed)
        solids = [mesh for order, mesh in scene.layers if order == renderer.SOLID]
        edges = [mesh.vertices[mesh.triangles[:, [0, 1, 1, 2, 2, 0]], :2].reshape(-1, 2, 2) for mesh in solids]
        for frame in (0, 11):
            for place in scene.poses[:, frame, :2, 3]:
                sight = np.stack([scene.ego[frame, :2], place])
                assert not edges or not maps_module.crosses(sight, np.concatenate(edges))


@pytest.mark.parametrize("motion", orbit.CAMERA_MOTIONS)
def test_the_true_box_is_where_the_renderer_painted_the_thing(motion):
    """A white thing on black, nothing else: the painted pixels' bounds are the box of the truth, to the pixel."""
    scene, compared = scene_of(motion, 3), 0
    nothing = renderer.quads(np.zeros((1, 4, 3)), np.zeros((1, 3)))
    for agent, mesh in enumerate(scene.agents):
        bare = dataclasses.replace(
            scene, layers=[], agents=[dataclasses.replace(mesh, colours=np.ones_like(mesh.colours))], shadows=[nothing],
            poses=scene.poses[agent : agent + 1], sky_horizon=np.zeros(3), sky_top=np.zeros(3),
        )  # fmt: skip
        frames = renderer.Renderer.shared(64).render(bare)
        for frame in range(12):
            boxes, depths = renderer.boxes_of(bare, frame, 64)
            if not np.isfinite(boxes).all() or renderer.visible_shares(boxes, depths, 64)[0] < 0.99:
                continue
            painted = np.argwhere(frames[frame, :, :, 1] > 0)
            found = np.array([*painted.min(0)[::-1], *(painted.max(0) + 1)[::-1]])
            assert np.abs(found - boxes[0]).max() <= 1.25
            compared += 1
    assert compared >= 12


def test_no_sky_is_near_the_driving_targets():
    targets = [appearance.draw_appearance("target", np.random.default_rng(seed)) for seed in range(20)]
    ours = [orbit_appearance.draw_appearance(np.random.default_rng(seed)) for seed in range(300)]

    def skies(drawn):
        return np.array([np.concatenate([look.sky_top, look.sky_horizon]) for look in drawn])

    gaps = np.linalg.norm(skies(ours)[:, None] - skies(targets)[None], axis=-1)
    assert gaps.min() > 0.25
    assert skies(ours).std(0).min() > 0.1


# ---------------------------------------------------------------------------------------------------------------- both
def test_unknown_motions_and_looks_are_refused():
    for spec in (ORBIT, DOOM):
        for field, value in (("motion", "swim"), ("look", "target")):
            with pytest.raises(ValueError, match=value):
                render_video(dataclasses.replace(spec, **{field: value}), "train", 0)


def test_orbit_is_the_same_again_and_other_in_another_split():
    first = render_video(ORBIT, "train", 1)
    assert same(first, render_video(ORBIT, "train", 1))
    assert not same(first, render_video(ORBIT, "dev", 1))
    changes = [np.abs(np.diff(render_video(ORBIT, "train", n)[0].astype(int), axis=0)).mean() for n in range(6)]
    assert min(changes) > 1 and np.median(changes) > 3


# ---------------------------------------------------------------------------------------------------------------- doom
@pytest.fixture(scope="module")
def walks():
    """Videos of Doom by (split, number)."""
    require_or_skip(importlib.util.find_spec("vizdoom") is not None, "vizdoom (the extra `worlds`)")
    asked = [("train", number) for number in range(6)] + [("dev", 0), ("test", 0)]
    return {key: render_video(DOOM, *key) for key in asked}


def test_without_vizdoom_only_its_world_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    monkeypatch.setattr(game_module, "_game", game_module._game.__wrapped__)  # as in a process that has no game yet
    with pytest.raises(MissingExtra, match=r"vizdoom is not installed, .* pip install 'replaylab\[worlds\]'"):
        render_video(DOOM, "train", 0)


def test_a_map_is_in_one_split():
    maps = [walk.maps_of(split) for split in SPLITS]
    assert len({place for mine in maps for place in mine}) == sum(map(len, maps)) == 68


def test_walks_have_every_column_and_change_from_frame_to_frame(walks):
    for frames, tracks, ego in walks.values():
        assert frames.shape == (12, 64, 64, 3) and frames.dtype == np.uint8
        assert all(set(row) == set(TRACK_COLUMNS) - {"video"} for row in tracks)
        assert all(set(row) == set(EGO_COLUMNS) - {"video"} for row in ego)
        assert [row["frame"] for row in ego] == list(range(12))
        assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > walk.STILL


def test_a_walk_keeps_its_speed_and_turn(walks):
    for _, _, ego in walks.values():
        table = pd.DataFrame(ego)
        assert not table.loc[0, ["x_m", "y_m", "heading_rad"]].any()
        step = np.diff(table["x_m"] + 1j * table["y_m"]) * np.exp(-1j * table["heading_rad"].to_numpy()[1:])
        assert np.abs(step - step.mean()).max() < 0.1
        assert np.abs(step).mean() > 0.15
        turn = np.diff(np.unwrap(table["heading_rad"]))
        assert np.ptp(turn) < 0.01


def test_agents_lie_in_the_image_once_a_frame_and_count(walks):
    shares = []
    for _, tracks, _ in walks.values():
        table = pd.DataFrame(tracks)
        assert not table.duplicated(["frame", "agent"]).any()
        assert (table[["x0", "y0"]] >= 0).all(axis=None) and (table[["x1", "y1"]] <= 64).all(axis=None)
        assert (table["x1"] > table["x0"]).all() and (table["y1"] > table["y0"]).all()
        assert table["visible"].between(0, 1).all() and "doomplayer" not in set(table["kind"])
        shares.append(table[table["eligible"]]["frame"].nunique() / 12)
    assert min(shares) >= walk.SHOWN


def test_positions_project_into_boxes(walks):
    """The engine's places through our pinhole meet its labels: the crop and the field of view are right."""
    table = pd.concat([pd.DataFrame(tracks) for _, tracks, _ in walks.values()])
    whole = table[table["eligible"] & (table["x0"] > 1) & (table["x1"] < 63) & (table["y_m"] > 1)]
    focal = 32 / np.tan(np.deg2rad(truth.FIELD_OF_VIEW_DEG) / 2)
    across = 32 + focal * whole["x_m"] / whole["y_m"]
    middle, width = (whole["x0"] + whole["x1"]) / 2, whole["x1"] - whole["x0"]
    assert len(whole) > 30
    assert ((across - middle).abs() < 1 + width / 2).mean() > 0.9
    assert (across - middle).abs().median() < 1.5


def test_walks_are_the_same_in_another_process_and_order_and_leave_nothing_behind(walks, tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    script = tmp_path / "again.py"
    script.write_text(
        "import json, sys\n"
        "from replaylab.worlds import build\nfrom replaylab.spec import WorldSpec\n"
        f"spec = WorldSpec(**{dataclasses.asdict(DOOM)!r})\n"
        "for key in (('test', 0), ('train', 4), ('train', 1)):\n"
        "    frames, tracks, ego = build.render_video(spec, *key)\n"
        "    print(json.dumps([frames.tobytes().hex(), tracks, ego]))\n"
    )
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(Path(build.__file__).parents[2])}
    done = subprocess.run([sys.executable, script], cwd=here, env=environment, capture_output=True, text=True, check=True)
    for line, key in zip(done.stdout.splitlines(), (("test", 0), ("train", 4), ("train", 1)), strict=True):
        frames, tracks, ego = walks[key]
        assert line == json.dumps([frames.tobytes().hex(), tracks, ego])
    assert not list(here.iterdir()) and not list(home.iterdir())
    assert not same(walks["train", 0], walks["dev", 0])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_game_outlives_a_killed_python(walks, tmp_path):
    """Nor the memory it shares with it (11 MB), nor its folder."""
    code = (
        "import time\nfrom replaylab.worlds.doom import game\n"
        "game.started('freedoom2.wad', 'MAP01', 1)\nprint('started', flush=True)\ntime.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(build.__file__).parents[2]), "TMPDIR": str(tmp_path)}
    python = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert python.stdout is not None and python.stdout.readline().startswith(b"started")
    games = [stat.parent for stat in Path("/proc").glob("[0-9]*/stat")
             if stat.read_text().rpartition(")")[2].split()[1] == str(python.pid)]  # fmt: skip
    words = [word for game in games for word in (game / "cmdline").read_text().split("\0")]
    instance = words[words.index("+viz_instance_id") + 1]
    os.kill(python.pid, signal.SIGKILL)
    python.wait()
    python.stdout.close()
    deadline = time.monotonic() + 20
    while (any(game.exists() for game in games) or any(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert games and not any(game.exists() for game in games)
    assert not any(tmp_path.iterdir()) and not list(Path("/dev/shm").glob(f"ViZDoom*{instance}"))


def test_paths_that_cross_walls_are_told_from_those_that_do_not():
    wall = np.array([[[0.0, 0.0], [0.0, 10.0]]])
    assert maps_module.crosses(np.array([[-1.0, 5.0], [1.0, 5.0]]), wall)
    assert not maps_module.crosses(np.array([[-1.0, 11.0], [1.0, 11.0]]), wall)
    assert maps_module.clearance(np.array([[-3.0, 5.0], [-2.0, 12.0]]), wall) == pytest.approx(np.sqrt(8))
    point = np.array([[[4.0, 0.0], [4.0, 0.0]]])
    assert maps_module.clearance(np.array([[1.0, 4.0]]), point) == pytest.approx(5)
