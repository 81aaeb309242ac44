"""The second driving world: its own road, rules, camera and look, and the same exact truth."""

import dataclasses

import numpy as np
import pytest
from painted_boxes import box_errors_px

from replaylab.spec import WorldSpec
from replaylab.worlds import appearance, country, kinematics, renderer
from replaylab.worlds.build import render_video

SPEC = WorldSpec("country", "country", "country", "ordinary", (4, 0, 0))
TIMES = np.arange(SPEC.frames) / SPEC.frames_per_second
OURS, THEIRS = country.EGO_LANE_M, country.OTHER_LANE_M
HALF_LANE = country.LANE_WIDTH_M / 2


def scene_of(motion="ordinary", seed=0, look="country", look_seed=1):
    spec = dataclasses.replace(SPEC, motion=motion, look=look)
    return country.draw(spec, np.random.default_rng(look_seed), np.random.default_rng(seed), number=0)


def motions(event, count):
    """Motions of an event as they come, before any camera has judged them, each with its road."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        road = country.Road(float(rng.choice(country.RADII_M) * rng.choice([-1, 1])))
        yield country.draw_motion(event, road, rng, float(TIMES[-1])), road


def along(agent, road):
    """Speed along the road, m/s, from the path: how far the agent moves in the road's direction."""
    path = agent.path(TIMES)
    heading, step = road.heading(path[:-1]), np.diff(path[:, :2], axis=0)
    return (-np.sin(heading) * step[:, 0] + np.cos(heading) * step[:, 1]) * SPEC.frames_per_second


@pytest.mark.parametrize("radius_m", [80.0, -120.0])
def test_stations_are_metres_along_the_road_and_right_is_right(radius_m):
    road = country.Road(radius_m)
    stations = np.linspace(-10, 100, 2001)
    centre = road.at(stations, 0.0)
    assert np.linalg.norm(np.diff(centre[:, :2], axis=0), axis=1).sum() == pytest.approx(110, rel=1e-4)
    assert road.at(0.0, OURS) == pytest.approx([0, 0, 0])  # where we begin
    assert np.sign(road.at(30.0, 0.0)[0] - road.at(0.0, 0.0)[0]) == -np.sign(radius_m)  # positive: to the left
    beside = road.at(stations, 2.5)
    assert road.right_of_centre(beside) == pytest.approx(np.full(len(stations), 2.5))
    assert road.heading(beside) == pytest.approx(stations / radius_m)
    assert road.at(0.0, 2.5)[0] > road.at(0.0, 0.0)[0]


def test_ordinary_agents_and_we_keep_our_lanes():
    for seed in range(25):
        scene = scene_of(seed=seed)
        assert np.ptp(scene.road_m, axis=1).max() < 0.05
        backwards = np.cos([renderer.heading_of(poses[0]) for poses in scene.poses]) < 0
        assert (np.abs(scene.road_m[backwards] - THEIRS) < 0.5).all()  # on the left one drives
        assert (scene.road_m[~backwards] < -0.9).all()
    for motion, road in motions("ordinary", 25):
        assert np.ptp(road.right_of_centre(motion.ego.path(TIMES))) < 1e-9
        assert road.right_of_centre(motion.ego.path(TIMES))[0] == pytest.approx(OURS)


def test_ordinary_traffic_has_its_own_rules():
    for motion, road in motions("ordinary", 40):
        assert all(agent.acceleration == 0 for agent in motion.agents)
        first, *column = (along(agent, road).mean() for agent in motion.agents)
        assert 1.5 < motion.ego.speed - first < 4  # who drives ahead is caught up with
        assert column and np.ptp(column) < 0.5 and max(column) < -3  # the other lane comes towards us


def test_the_road_bends_both_ways():
    turns = [scene_of(seed=seed).ego[-1, 2] for seed in range(12)]
    assert min(turns) < -0.05 and max(turns) > 0.05 and np.abs(turns).max() < 0.35


@pytest.mark.parametrize("motion", country.MOTIONS)
def test_every_motion_shows_its_events_and_its_agents(motion):
    for seed in range(4):
        scene = scene_of(motion, seed)
        assert scene.event in country.MOTIONS[motion]
        assert renderer.shows_its_agents(scene)


def test_events_are_what_they_are_called():
    for motion, road in motions("crossing", 20):
        right = road.right_of_centre(motion.agents[0].path(TIMES))
        assert right.min() < OURS < right.max()
    for motion, road in motions("cut_in", 20):
        right = road.right_of_centre(motion.agents[0].path(TIMES))
        assert np.ptp(right) > HALF_LANE and along(motion.agents[0], road).min() > 0
    for motion, road in motions("turning", 20):
        assert abs(motion.ego.yaw_rate - motion.ego.speed / (road.radius_m + OURS)) > 0.079
    for motion, road in motions("braking", 20):
        assert (np.diff(along(motion.agents[0], road))[:2] < -0.3).all()
        assert np.abs(road.right_of_centre(motion.agents[0].path(TIMES)) - OURS).max() < HALF_LANE
    for motion, road in motions("oncoming", 20):
        assert along(motion.agents[0], road).max() < -1
        assert (road.right_of_centre(motion.agents[0].path(TIMES)) < 0).all()
    for motion, road in motions("overtaking", 20):
        assert along(motion.agents[0], road).min() > motion.ego.speed + 2
        assert (road.right_of_centre(motion.agents[0].path(TIMES)) > HALF_LANE / 2).all()
    with pytest.raises(ValueError, match="skidding"):
        country.draw_motion("skidding", country.Road(80.0), np.random.default_rng(0), 2.75)


def test_nobody_trains_on_what_is_held_out():
    for event in kinematics.HELD_OUT_EVENTS:
        assert all(country.shows_held_out(motion, road, TIMES) for motion, road in motions(event, 50))
    assert not any(country.shows_held_out(motion, road, TIMES) for motion, road in motions("ordinary", 50))
    for seed in range(25):  # as the poses show, whatever the world says of itself
        scene = scene_of("free" if seed % 2 else "eventful", seed)
        steps = np.diff(scene.poses[:, :, :2, 3], axis=1)
        facing = scene.ego[None, :-1, 2] + np.pi / 2
        towards_us = (steps[..., 0] * np.cos(facing) + steps[..., 1] * np.sin(facing)) * 4 < -1.5
        assert (scene.road_m[:, :-1][towards_us] > 0).all()  # only where it is their side of the road


def test_the_same_seed_is_the_same_motion_in_every_look():
    first = scene_of("free", 7)
    for look, look_seed in (("target", 2), ("night", 3), ("narrow 3", 4)):
        other = scene_of("free", 7, look, look_seed)
        assert np.array_equal(first.poses, other.poses) and np.array_equal(first.ego, other.ego)
        assert first.kinds == other.kinds and not np.array_equal(first.sky_top, other.sky_top)


def test_it_is_seen_from_a_truck_in_every_look():
    for look in ("country", "target", "diverse"):
        camera = scene_of(look=look).cameras[0]
        assert camera.height_m > appearance.HEIGHTS_M[1] + 0.2
        assert camera.field_of_view_deg > appearance.FIELDS_OF_VIEW_DEG[1] + 5
        assert camera.pitch_rad > appearance.PITCHES_RAD[1]


def test_its_look_is_narrow_and_no_other_look_reaches_it():
    def skies(look):
        drawn = [appearance.draw_appearance(look, np.random.default_rng(seed)) for seed in range(200)]
        return np.array([np.concatenate([one.sky_top, one.sky_horizon]) for one in drawn])

    own = skies("country")
    assert own.std(0).max() < 0.02
    for look in ("target", "diverse", *appearance.WEATHERS):
        assert np.linalg.norm(skies(look)[:, None] - own[None], axis=-1).min() > 0.2


@pytest.mark.parametrize("look", ["country", "target", "night", "narrow 0"])
def test_it_can_be_rendered_in_other_looks(look):
    frames = renderer.Renderer.shared(64).render(scene_of("free", 1, look))
    assert frames.shape == (12, 64, 64, 3) and frames.std() > 10


def test_same_seed_same_frames_and_truth():
    first, again = (render_video(SPEC, "train", 1) for _ in range(2))
    assert np.array_equal(first[0], again[0]) and first[1:] == again[1:]
    assert not np.array_equal(render_video(SPEC, "train", 2)[0], first[0])
    assert all(np.isfinite(row["road_m"]) for row in first[1])


def test_the_true_box_is_where_the_renderer_painted_the_agent():
    """The painted pixels' bounds are the box of the truth, to the pixel."""
    errors = [error for seed in range(4) for error in box_errors_px(scene_of(seed=seed), range(0, 12, 2))]
    assert len(errors) > 20 and max(errors) <= 1.25


def test_repeating_the_last_frame_of_the_context_is_far_off():
    """Ordinary traffic moves: boxes of the counted agents are about 4 px from where frame 2 shows them."""
    distances = []
    for number in range(12):
        scene = scene_of(seed=number)
        before, _ = renderer.boxes_of(scene, 2, 64)
        for frame in range(3, 8):
            boxes, depths = renderer.boxes_of(scene, frame, 64)
            counts = renderer.eligible(boxes, renderer.visible_shares(boxes, depths, 64), 64)
            moved = (boxes - before)[counts & np.isfinite(before).all(axis=1)]
            distances += list(np.hypot(moved[:, 0] + moved[:, 2], moved[:, 1] + moved[:, 3]) / 2)
    assert np.mean(distances) > 3.5
