"""Rendered worlds: the truth is exact, a function of the seed, and look and motion vary apart."""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMIT_SECONDS
from painted_boxes import box_errors_px

from replaylab.data.domain import open_domain
from replaylab.spec import WorldSpec
from replaylab.worlds import appearance, kinematics, meshes, renderer, traffic
from replaylab.worlds import build as build_module

TIMES = np.arange(12) / 4
SMALL = WorldSpec("driving", "traffic", "target", "ordinary", (3, 2, 0))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return build_module.build_domain(SMALL, tmp_path_factory.mktemp("worlds"))


def scene_of(look="target", motion="eventful", look_seed=1, motion_seed=2, world="traffic"):
    spec = WorldSpec("scene", world, look, motion, (1, 0, 0))
    streams = np.random.default_rng(look_seed), np.random.default_rng(motion_seed)
    return build_module.WORLDS[world].draw(spec, *streams, number=0)


@pytest.mark.parametrize("motion", traffic.MOTIONS)
def test_every_motion_shows_its_events_and_its_agents(motion):
    for seed in range(6):
        scene = scene_of(motion=motion, motion_seed=seed)
        assert scene.event in traffic.MOTIONS[motion]
        assert renderer.shows_its_agents(scene)


@pytest.mark.parametrize("look", ["target", "broad", *appearance.WEATHERS, "narrow 0"])
def test_every_look_can_be_rendered(look):
    frames = renderer.Renderer.shared(64).render(scene_of(look))
    assert frames.shape == (12, 64, 64, 3) and frames.std() > 10


def test_nobody_trains_on_what_is_held_out():
    assert not set(kinematics.TRAINABLE_EVENTS) & set(kinematics.HELD_OUT_EVENTS)
    rng = np.random.default_rng(0)
    for event in kinematics.HELD_OUT_EVENTS:
        shown = [traffic.shows_held_out(traffic.draw_motion(event, rng, 2.75)) for _ in range(50)]
        assert np.mean(shown) > 0.9
    for seed in range(40):
        scene = scene_of(motion="free", motion_seed=seed)
        velocities = np.diff(scene.poses[:, :, 1, 3], axis=1) * 4
        assert (velocities > -1).all()  # nobody comes towards us


def test_any_motion_is_a_continuous_family_that_has_held_out_events_in_it():
    motions = [traffic.draw_motion("any", np.random.default_rng(seed), 2.75) for seed in range(300)]
    agents = [(motion.ego, agent) for motion in motions for agent in motion.agents]
    assert np.mean([traffic.shows_held_out(motion) for motion in motions]) > 0.2
    accelerations = np.array([agent.acceleration for _, agent in agents])
    rates = np.array([agent.yaw_rate for _, agent in agents])
    assert (accelerations < -2).mean() > 0.1 and (accelerations > 1.5).mean() > 0.05 and (np.abs(rates) > 0.2).mean() > 0.1
    headings = np.histogram([agent.heading % (2 * np.pi) for _, agent in agents], 8, (0, 2 * np.pi))[0]
    assert headings.min() > 0.03 * headings.sum()  # from anywhere to anywhere
    moving = [values for values in (accelerations, rates) for values in [values[values != 0]]]
    assert all(len(set(values)) == len(values) for values in moving)


def test_the_broad_look_reaches_neither_target():
    def colours(look):
        drawn = [appearance.draw_appearance(look, np.random.default_rng(seed)) for seed in range(200)]
        return np.array([[*each.sky_top, *each.sky_horizon, *each.verge] for each in drawn])

    for target in ("target", "country"):
        nearest = np.abs(colours("broad")[:, None] - colours(target)[None]).max(-1).min()
        assert nearest > 0.15, target
    cameras = [appearance.draw_appearance("broad", np.random.default_rng(seed)).camera for seed in range(200)]
    assert np.ptp([camera.field_of_view_deg for camera in cameras]) > 20
    assert np.ptp([camera.height_m for camera in cameras]) > 1.5


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_the_share_of_eventful_videos_is_exact(share):
    spec = dataclasses.replace(SMALL, motion="eventful", eventful_share=share)
    rng = np.random.default_rng(0)
    events = [kinematics.event_of(spec, number, rng, traffic.MOTIONS) for number in range(200)]
    eventful = np.cumsum([event != "ordinary" for event in events])
    assert (eventful == np.floor(np.arange(1, 201) * share + 1e-9)).all()


def test_the_repetitive_event_is_one_event_on_one_path():
    paths = [scene_of(motion="repetitive", motion_seed=seed).poses[0, :, :2, 3] for seed in range(20)]
    assert np.std(paths, axis=0).max() < 0.5
    assert np.ptp(np.mean(paths, axis=0)[:, 0]) > 6  # it crosses the road


def test_the_same_seed_is_the_same_motion_in_every_look():
    looked = (("target", 1), ("night", 2), ("narrow 3", 3), ("rain", 4))
    scenes = [scene_of(look, "free", look_seed=seed, motion_seed=7) for look, seed in looked]
    for scene in scenes[1:]:
        assert np.array_equal(scene.poses, scenes[0].poses) and np.array_equal(scene.ego, scenes[0].ego)
        assert scene.kinds == scenes[0].kinds


def test_a_narrow_look_is_one_look_and_there_are_many():
    skies = {(look, seed): tuple(appearance.draw_appearance(look, np.random.default_rng(seed)).sky_top)
             for look in ("narrow 0", "narrow 1", "narrow 17") for seed in (0, 1)}  # fmt: skip
    assert len(set(skies.values())) == 3
    assert all(skies[look, 0] == skies[look, 1] for look, _ in skies)


def test_rain_falls_at_one_speed():
    rain = renderer.Rain(np.array([[0.4, 0.3]]), (0.0, 0.25), (0.0, -0.05), 1.0)
    heights = [np.argwhere(rain.veil(frame, 64) > 0.2)[:, 0].mean() for frame in range(3)]
    assert np.diff(heights) == pytest.approx([16, 16], abs=1)


def test_larger_videos_show_the_same_truth_in_proportion():
    small, large = (build_module.render_video(dataclasses.replace(SMALL, size_px=size), "train", 2) for size in (64, 128))
    assert large[0].shape == (12, 128, 128, 3)
    for column in ("x0", "y0", "x1", "y1"):
        assert [row[column] for row in large[1]] == pytest.approx([2 * row[column] for row in small[1]])
    assert np.abs(large[0].reshape(12, 64, 2, 64, 2, 3).mean((2, 4)) - small[0]).mean() < 3


def test_no_scene_is_in_two_splits(tmp_path):
    """Every video's truth and file differ from every other's, even where motion is most repetitive."""
    spec = dataclasses.replace(SMALL, motion="repetitive", videos=(12, 8, 8))
    domain = build_module.build_domain(spec, tmp_path)
    assert domain.videos.groupby("scene")["split"].nunique().max() == 1
    first = domain.tracks[(domain.tracks["frame"] == 0) & (domain.tracks["agent"] == 0)]
    assert len(first) == 28 and not first[["x_m", "y_m", "x0"]].duplicated().any()
    assert not domain.videos["sha256"].duplicated().any()


@pytest.mark.parametrize("mover", [
    kinematics.Mover("car", 1, 2, 0.3, 6, -1.5, 0.2),
    kinematics.Mover("car", 0, 0, -1.0, 2, 1.0, 0.0),
    kinematics.Mover("car", 0, 5, 0.5, 3, -2.0, 0.0),
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
            lane = round(agent.x / traffic.LANE_WIDTH_M)
            assert agent.acceleration == agent.yaw_rate == 0
            assert np.sign(round((agent.speed - motion.ego.speed) / traffic.LANE_SPEED_M_S)) == -lane


@pytest.mark.parametrize("kind", meshes.KINDS)
def test_drawn_agents_fill_their_stated_size(kind):
    light = renderer.Light((0, 0, 1), 1, 0)
    mesh = meshes.vehicle(kind, np.ones(3), light, False, np.random.default_rng(0))
    extent = mesh.vertices.max(0) - mesh.vertices.min(0)
    stated = np.array(meshes.KINDS[kind])
    assert (extent <= stated + 0.07).all()
    assert (extent >= stated * 0.75).all()


def test_the_true_box_is_where_the_renderer_painted_the_agent():
    """The painted pixels' bounds are the box of the truth, to the pixel."""
    errors = list(box_errors_px(scene_of(motion_seed=5), range(0, 12, 3)))
    assert errors and max(errors) <= 1.25


def test_hidden_agents_are_less_visible():
    near, far = [10.0, 10, 30, 30], [15.0, 15, 25, 25]
    shares = renderer.visible_shares(np.array([near, far]), np.array([5.0, 9.0]), 64)
    assert shares == pytest.approx([1.0, 0.0])
    shares = renderer.visible_shares(np.array([near, far]), np.array([9.0, 5.0]), 64)
    assert shares == pytest.approx([0.75, 1.0])
    assert renderer.visible_shares(np.array([[-10.0, 0, 10, 20]]), np.array([5.0]), 64) == pytest.approx([0.5])


def test_the_camera_projects_like_a_pinhole():
    camera = renderer.Camera(90, 1.5)
    pixels, depth = camera.project(np.array([[1.0, 2.0, 1.5], [0, 4, 0.5]]), np.zeros(3), 0.0, 64)
    assert np.allclose(pixels, [[48, 32], [32, 40]])
    assert np.allclose(depth, [2, 4])


def test_same_seed_same_truth_and_other_split_other_truth():
    first, again = build_module.render_video(SMALL, "train", 1), build_module.render_video(SMALL, "train", 1)
    assert np.array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert build_module.render_video(SMALL, "dev", 1)[2] != first[2]


def test_look_and_motion_vary_apart():
    first = scene_of("diverse", "ordinary")
    other_motion, other_look = (scene_of("diverse", "free", motion_seed=3), scene_of("diverse", "ordinary", look_seed=4))
    assert np.array_equal(first.sky_top, other_motion.sky_top) and first.cameras == other_motion.cameras
    assert not np.array_equal(first.sky_top, other_look.sky_top) and first.cameras != other_look.cameras
    assert other_look.event == first.event == "ordinary" != other_motion.event


def test_the_targets_look_is_narrow_and_no_other_look_reaches_it():
    def skies(look):
        drawn = [appearance.draw_appearance(look, np.random.default_rng(seed)) for seed in range(200)]
        return np.array([np.concatenate([one.sky_top, one.sky_horizon]) for one in drawn])

    target = skies("target")
    assert target.std(0).max() < 0.02
    assert skies("diverse").std(0).max() > 0.1
    for look in ("diverse", *appearance.WEATHERS):
        assert np.linalg.norm(skies(look)[:, None] - target[None], axis=-1).min() > 0.25


def test_a_build_is_whole_checked_and_disjoint_by_scene(domain):
    assert domain.videos["split"].value_counts().to_dict() == {"train": 3, "dev": 2}
    assert domain.videos.groupby("scene")["split"].nunique().max() == 1
    assert set(domain.tracks["video"]) == {name.removesuffix(".mp4") for name in domain.videos["file"]}
    assert not (domain.folder / "parts").exists()
    assert len(domain.ego) == 5 * 12


def test_an_interrupted_build_goes_on_and_ends_the_same(domain, tmp_path):
    folder = build_module.folder_of(SMALL, tmp_path)
    (folder / "videos").mkdir(parents=True)
    (folder / "parts").mkdir()
    build_module._render_chunk(SMALL, folder, ("train", 0, 3))
    (folder / "videos" / ".dev-00000.mp4.1").write_bytes(b"half a video")
    again = build_module.build_domain(SMALL, tmp_path)
    assert again.videos.equals(domain.videos)
    assert again.tracks.equals(domain.tracks)


def test_two_processes_that_build_the_same_domain_render_it_once(tmp_path):
    script = tmp_path / "build.py"
    script.write_text(
        "from replaylab.worlds import build; from replaylab.spec import WorldSpec\n"
        "if __name__ == '__main__':\n"
        "    spec = WorldSpec('w', 'traffic', 'target', 'ordinary', (4, 0, 0))\n"
        f"    print(len(build.build_domain(spec, {str(tmp_path)!r}).split('train')))\n"
    )
    both = [
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=LIMIT_SECONDS) for process in both]
    assert [(process.returncode, out) for process, (out, _) in zip(both, said, strict=True)] == [(0, "4\n")] * 2
    assert sum("rendering w" in err for _, err in said) == 1, said
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*/parts"))


def test_a_domain_that_was_not_finished_is_no_domain(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"domain\.json is missing"):
        open_domain(tmp_path)


def test_unknown_worlds_looks_and_motions_are_refused():
    wrong = [("world", "sea"), ("look", "noir"), ("look", "narrow x"), ("motion", "still"), ("eventful_share", 1.5),
             ("size_px", 63)]  # fmt: skip
    for field, value in wrong:
        with pytest.raises(ValueError, match=str(value)):
            build_module.render_video(dataclasses.replace(SMALL, **{field: value}), "train", 0)


def test_bodies_fall_and_stay_above_the_ground():
    scene = scene_of("any", "bodies", 3, 4, world="physics")
    heights = scene.poses[:, :, 2, 3]
    assert heights.min() > 0
    assert (heights[:, -1] < heights[:, 0] + 0.1).any()
    rotations = scene.poses[:, :, :3, :3]
    assert np.allclose(rotations @ rotations.swapaxes(-1, -2), np.eye(3), atol=1e-4)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_renderers_do_not_outlive_a_killed_build(tmp_path):
    code = (
        "from replaylab.worlds import build; from replaylab.spec import WorldSpec\n"
        "if __name__ == '__main__':\n"
        f"    build.build_domain(WorldSpec('w', 'traffic', 'target', 'ordinary', (4000, 0, 0)), {str(tmp_path)!r})\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    build = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_SECONDS
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
            if int(rest.rpartition(")")[2].split()[1]) == parent and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.parametrize("harm", ["a bit of a video", "no video", "a bit of the tracks", "no tracks", "a split", "a scene"])
def test_a_damaged_domain_is_rendered_again_with_a_warning(harm, domain, tmp_path, capsys, monkeypatch):
    """Only a damaged video where no more is damaged; in the end it is the same to the bit."""
    folder = build_module.folder_of(SMALL, tmp_path)
    shutil.copytree(domain.folder, folder)
    path = folder / {"video": "videos/dev-00001.mp4", "tracks": "tracks.parquet"}.get(harm.split()[-1], "domain.json")
    data = path.read_bytes()
    if harm.startswith("no"):
        path.unlink()
    elif harm.startswith("a bit"):
        path.write_bytes(data[:-99] + bytes([data[-99] ^ 4]) + data[-98:])
    else:
        path.write_bytes(data.replace(*{"a split": (b'"dev"', b'"test"'), "a scene": (b'dev-00001"', b'dev-00000"')}[harm]))
    rendered, honest = [], build_module.render_video
    monkeypatch.setattr(build_module, "render_video", lambda *which: rendered.append(which) or honest(*which))
    monkeypatch.setattr(build_module, "usable_cores", lambda: 1)
    build_module.build_domain(SMALL, tmp_path)
    assert capsys.readouterr().err.count(f"warning: {folder} is damaged") == 1
    if path.suffix == ".mp4":
        assert [number for *_, number in rendered] == [1]
    assert files_of(folder) == files_of(domain.folder)
    build_module.build_domain(SMALL, tmp_path)
    assert not capsys.readouterr().err


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
