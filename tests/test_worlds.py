"""Rendered worlds: the truth is exact, a function of the seed, and look and motion vary apart."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from replaylab import worlds
from replaylab.domain import open_domain
from replaylab.spec import WorldSpec
from replaylab.worlds import physics, stage, traffic

TIMES = np.arange(12) / 4
SMALL = WorldSpec("driving", "traffic", "target", "ordinary", (3, 2, 0))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return worlds.build(SMALL, tmp_path_factory.mktemp("worlds"))


def scene_of(look="target", motion="eventful", look_seed=1, motion_seed=2):
    return traffic.draw(
        look, motion, np.random.default_rng(look_seed), np.random.default_rng(motion_seed), TIMES, 64
    )


@pytest.mark.parametrize("motion", traffic.MOTIONS)
def test_every_motion_shows_its_agents_in_both_looks(motion):
    for look in traffic.LOOKS:
        scene = scene_of(look, motion)
        assert stage.shows_its_agents(scene, 64)
        assert (
            scene.event
            in {
                "ordinary": {"ordinary"},
                "eventful": set(traffic.TRAINABLE_EVENTS),
                "held-out": set(traffic.HELD_OUT_EVENTS),
                "free": {"free", *traffic.TRAINABLE_EVENTS},
            }[motion]
        )


def test_trainable_and_held_out_events_are_disjoint():
    assert not set(traffic.TRAINABLE_EVENTS) & set(traffic.HELD_OUT_EVENTS)


@pytest.mark.parametrize("mover", [
    traffic.Mover("car", 1, 2, 0.3, 6, -1.5, 0.2),
    traffic.Mover("car", 0, 0, -1.0, 2, 1.0, 0.0),
    traffic.Mover("car", 0, 5, 0.5, 3, -2.0, 0.0),
])  # fmt: skip
def test_paths_have_constant_acceleration_and_yaw_rate(mover):
    fine = np.linspace(0, 2.5, 25001)
    speed = np.maximum(mover.speed + mover.acceleration * fine, 0)
    stopped = np.minimum(fine, -mover.speed / mover.acceleration) if mover.acceleration < 0 else fine
    heading = mover.heading + mover.yaw_rate * stopped
    step = fine[1]
    x = mover.x - np.cumsum(speed * np.sin(heading)) * step
    y = mover.y + np.cumsum(speed * np.cos(heading)) * step
    at = [5000, 15000, 25000]
    assert np.allclose(mover.path(fine[at])[:, 0], x[at], atol=2e-3)
    assert np.allclose(mover.path(fine[at])[:, 1], y[at], atol=2e-3)


def test_ordinary_traffic_keeps_its_lane_and_its_rule():
    for seed in range(30):
        motion = traffic.draw_motion("ordinary", np.random.default_rng(seed), 2.75)
        for agent in motion.agents:
            lane = round(agent.x / traffic.LANE_M)
            assert agent.acceleration == agent.yaw_rate == 0
            assert np.sign(round((agent.speed - motion.ego.speed) / 3.2)) == -lane


@pytest.mark.parametrize("kind", traffic.KINDS)
def test_drawn_agents_fill_their_stated_size(kind):
    light = stage.Light((0, 0, 1), 1, 0)
    mesh = traffic.vehicle(kind, np.ones(3), light, False, np.random.default_rng(0))
    extent = mesh.vertices.max(0) - mesh.vertices.min(0)
    stated = np.array(traffic.KINDS[kind])
    assert (extent <= stated + 0.07).all()
    assert (extent >= stated * 0.75).all()


def test_the_true_box_is_where_the_renderer_painted_the_agent():
    """A white agent on black, nothing else: the painted pixels' bounds are the box of the truth, to the pixel."""
    scene = scene_of(motion_seed=5)
    flat = [dataclasses.replace(mesh, colours=np.ones_like(mesh.colours)) for mesh in scene.agents]
    for agent in range(len(flat)):
        bare = dataclasses.replace(
            scene, layers=[], agents=flat[agent : agent + 1], shadows=[stage.quads(np.zeros((1, 4, 3)), np.zeros((1, 3)))],
            poses=scene.poses[agent : agent + 1], sky_horizon=np.zeros(3), sky_top=np.zeros(3), fog_m=None, vignette=0.0,
        )  # fmt: skip
        frames = stage.Stage.shared(64).render(bare)
        for frame in range(0, 12, 3):
            boxes, depths = stage.boxes_of(bare, frame, 64)
            if not np.isfinite(boxes).all() or stage.visible_shares(boxes, depths, 64)[0] < 0.99:
                continue
            painted = np.argwhere(frames[frame, :, :, 1] > 0)
            top, left = painted.min(0)
            bottom, right = painted.max(0) + 1
            assert np.abs(np.array([left, top, right, bottom]) - boxes[0]).max() <= 1.25


def test_hidden_agents_are_less_visible():
    near, far = [10.0, 10, 30, 30], [15.0, 15, 25, 25]
    shares = stage.visible_shares(np.array([near, far]), np.array([5.0, 9.0]), 64)
    assert shares == pytest.approx([1.0, 0.0])
    shares = stage.visible_shares(np.array([near, far]), np.array([9.0, 5.0]), 64)
    assert shares == pytest.approx([0.75, 1.0])
    assert stage.visible_shares(np.array([[-10.0, 0, 10, 20]]), np.array([5.0]), 64) == pytest.approx([0.5])


def test_the_camera_projects_like_a_pinhole():
    camera = stage.Camera(90, 1.5)
    pixels, depth = camera.project(np.array([[1.0, 2.0, 1.5], [0, 4, 0.5]]), np.zeros(3), 0.0, 64)
    assert np.allclose(pixels, [[48, 32], [32, 40]])
    assert np.allclose(depth, [2, 4])


def test_same_seed_same_truth_and_other_split_other_truth():
    first, again = worlds.render_video(SMALL, "train", 1), worlds.render_video(SMALL, "train", 1)
    assert np.array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert worlds.render_video(SMALL, "dev", 1)[2] != first[2]


def test_look_and_motion_vary_apart():
    first = scene_of("diverse", "ordinary")
    other_motion, other_look = (
        scene_of("diverse", "free", motion_seed=3),
        scene_of("diverse", "ordinary", look_seed=4),
    )
    assert np.array_equal(first.sky_top, other_motion.sky_top) and first.camera == other_motion.camera
    assert not np.array_equal(first.sky_top, other_look.sky_top) and first.camera != other_look.camera
    assert other_look.event == first.event == "ordinary" != other_motion.event


def test_the_targets_look_is_narrow_and_the_diverse_one_leaves_it_out():
    skies = {look: np.array([traffic.draw_look(look, np.random.default_rng(seed)).sky_top for seed in range(200)])
             for look in traffic.LOOKS}  # fmt: skip
    spread = {look: sky.std(0).max() for look, sky in skies.items()}
    assert spread["target"] < 0.02 < 0.1 < spread["diverse"]
    nearest = np.linalg.norm(skies["diverse"][:, None] - skies["target"][None], axis=-1).min()
    assert nearest > 0.1


def test_a_build_is_whole_checked_and_disjoint_by_scene(domain):
    assert domain.videos["split"].value_counts().to_dict() == {"train": 3, "dev": 2}
    assert domain.videos.groupby("scene")["split"].nunique().max() == 1
    assert set(domain.tracks["video"]) == {name.removesuffix(".mp4") for name in domain.videos["file"]}
    assert not (domain.folder / "parts").exists()
    assert len(domain.ego) == 5 * 12


def test_an_interrupted_build_goes_on_and_ends_the_same(domain, tmp_path):
    folder = worlds.folder_of(SMALL, tmp_path)
    (folder / "videos").mkdir(parents=True)
    (folder / "parts").mkdir()
    worlds._render_chunk(SMALL, folder, "train", 0, 3)
    (folder / "videos" / ".dev-00000.mp4.1").write_bytes(b"half a video")
    again = worlds.build(SMALL, tmp_path)
    assert again.videos.equals(domain.videos)
    assert again.tracks.equals(domain.tracks)


def test_a_domain_that_was_not_finished_is_no_domain(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"domain\.json is missing"):
        open_domain(tmp_path)


def test_unknown_worlds_looks_and_motions_are_refused():
    for field, value in (("world", "sea"), ("look", "noir"), ("motion", "still")):
        with pytest.raises(ValueError, match=value):
            worlds.render_video(dataclasses.replace(SMALL, **{field: value}), "train", 0)


def test_bodies_fall_and_stay_above_the_ground():
    scene = physics.draw(np.random.default_rng(3), np.random.default_rng(4), TIMES, 64)
    heights = scene.poses[:, :, 2, 3]
    assert heights.min() > 0
    assert (heights[:, -1] < heights[:, 0] + 0.1).any()
    rotations = scene.poses[:, :, :3, :3]
    assert np.allclose(rotations @ rotations.swapaxes(-1, -2), np.eye(3), atol=1e-4)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_renderers_do_not_outlive_a_killed_build(tmp_path):
    code = (
        "from replaylab import worlds; from replaylab.spec import WorldSpec\n"
        "if __name__ == '__main__':\n"
        f"    worlds.build(WorldSpec('w', 'traffic', 'target', 'ordinary', (4000, 0, 0)), {str(tmp_path)!r})\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    build = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/videos/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = children(build.pid)
    build.kill()
    build.wait()
    assert workers
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = stat.read_text().partition(" ")
            if (
                int(rest.rpartition(")")[2].split()[1]) == parent
                and b"spawn_main" in (stat.parent / "cmdline").read_bytes()
            ):
                found.append(int(pid))
    return found
