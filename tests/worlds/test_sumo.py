"""The third driving world: traffic of a published simulator, cut into windows that are read from the package."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from painted_boxes import box_errors_px

from replaylab.spec import WorldSpec
from replaylab.worlds import appearance, kinematics, renderer
from replaylab.worlds.build import check_world, render_video, scene_of
from replaylab.worlds.named import NATURAL_DOMAINS
from replaylab.worlds.sumo import drivers, roads, scenes, simulation, tracks, windows

SPEC = WorldSpec("natural", "sumo", "winter", "natural", (4, 4, 4))


def scene(number=0, split="dev", **changes):
    return scene_of(dataclasses.replace(SPEC, **changes), split, number)


# --------------------------------------------------------------------------------------------------------- kept windows
def test_no_simulation_is_in_two_splits_and_no_window_is_there_twice():
    found = tracks.windows()
    assert found.groupby(["drivers", "place", "seed"])["split"].nunique().max() == 1
    seeds = [set(seeds) for seeds in tracks.SEEDS.values()]
    assert not any(one & other for index, one in enumerate(seeds) for other in seeds[index + 1 :])
    assert not found.duplicated(["drivers", "place", "seed", "start_s", "camera"]).any()
    assert (found["window"] == np.arange(len(found))).all()


def test_every_domain_has_as_many_windows_as_it_wants_and_takes_each_once():
    for spec in NATURAL_DOMAINS.values():
        check_world(spec)
        for split in ("train", "dev", "test"):
            taken = scenes.order(spec.motion, split, spec.seed)
            assert len(set(taken)) == len(taken)
    assert scenes.order("natural", "dev", 0) != scenes.order("natural", "dev", 1)


def test_motorway_and_town_take_turns():
    places = tracks.windows()["place"].iloc[list(scenes.order("natural", "train", 0))]
    assert list(places) == ["motorway", "town"] * (len(places) // 2)


def test_natural_driving_is_what_constant_acceleration_and_yaw_rate_explain():
    """As measured anew on the kept paths, which are rounded to a centimetre."""
    found = tracks.windows()
    for motion, (_, explained, eventful) in scenes.MOTIONS.items():
        chosen = found.iloc[list(scenes.order(motion, "dev", 0))]
        assert (chosen["unexplained_m"] <= windows.EXPLAINED_M).all() == explained
        assert (chosen["event"] != windows.NO_EVENT).all() == eventful
        assert chosen["as_it_came"].all() != eventful
        assert ((chosen["camera_m_s"] >= 1.0) | (chosen["moved_px"] >= 0.5)).all()
    for number in scenes.order("natural", "dev", 0)[:10]:
        window = tracks.recorded(number)
        _, shown = windows.boxes_seen(window.paths[0], window.kinds[1:], window.paths[1:])
        near = window.paths[1:][shown.any(axis=0)]
        assert windows.unexplained_m(np.concatenate([window.paths[:1], near])) < windows.EXPLAINED_M + 0.02
        assert renderer.shown_throughout(shown)


def test_drivers_who_are_all_alike_cause_fewer_events_and_are_easier_to_foresee():
    found = tracks.shares().set_index(["drivers", "place"])
    regular, heterogeneous = (found.loc[(kind, "motorway")] for kind in ("regular", "heterogeneous"))
    assert regular["eventful"] < 0.5 * heterogeneous["eventful"]
    assert regular["explained"] > heterogeneous["explained"]


# ---------------------------------------------------------------------------------------------------- measuring windows
def simulated(*agents, conflicts=(), steps=12):
    """A simulation of agents (kind, x, y, speed, braking, sideways), all heading along y, of one window."""
    start = windows.WARM_UP_STEPS
    rows = [
        {"step": start + step, "agent": str(name), "kind": kind, "x_m": x + aside * step / 4,
         "y_m": y + speed * step / 4, "heading_rad": 0.0, "speed_m_s": speed, "acceleration_m_s2": -braking,
         "sideways_m_s": aside}
        for name, (kind, x, y, speed, braking, aside) in enumerate(agents) for step in range(steps)
    ]  # fmt: skip
    table = pd.DataFrame(conflicts, columns=["step", "first", "second", "measure", "value"])
    return simulation.Simulation(pd.DataFrame(rows), table)


def only_window(*agents, conflicts=()):
    still = [("van", 500.0, 500.0, 0.0, 0.0, 0.0)]  # so that the simulation is long enough
    found = list(windows.windows_of(simulated(*agents, *still, conflicts=conflicts, steps=14), "motorway", 0, 1.0))
    return found[0].about if found else None


EGO, LEADER = ("car", 0.0, 0.0, 10.0, 0.0, 0.0), ("van", 0.0, 14.0, 10.0, 0.0, 0.0)


def test_events_are_what_the_simulator_says_of_vehicles_within_50_m_ahead():
    assert only_window(EGO, LEADER)["event"] == "ordinary"
    assert only_window(EGO, ("van", 0.0, 14.0, 10.0, 2.5, 0.0))["event"] == "braking"
    assert only_window(EGO, ("van", 0.0, 14.0, 10.0, 1.9, 0.0))["event"] == "ordinary"
    assert only_window(EGO, ("van", 0.0, 14.0, 10.0, 3.0, -0.8))["event"] == "braking+sideways"
    during = windows.WARM_UP_STEPS + 3
    assert only_window(EGO, LEADER, conflicts=[(during, "0", "1", "TTC", 1.2)])["event"] == "conflict"
    assert only_window(EGO, LEADER, conflicts=[(during + 60, "0", "1", "TTC", 1.2)])["event"] == "ordinary"
    far = ("van", 0.0, 70.0, 10.0, 3.0, 0.0)
    assert only_window(EGO, LEADER, far)["event_ahead"] == "ordinary"
    hidden = ("van", 0.0, 45.0, 10.0, 3.0, 0.0)  # within 50 m, and yet not to be seen
    assert only_window(EGO, LEADER, hidden)["event"] == "ordinary"
    assert only_window(EGO, LEADER, hidden)["event_ahead"] == "braking"


def test_a_window_in_which_somebody_appears_near_the_camera_is_none():
    whole, appears = simulated(EGO, LEADER, steps=14), simulated(EGO, ("van", 3.5, 25.0, 10.0, 0.0, 0.0), steps=14)
    late = appears.tracks.query("agent == '1' and step > @windows.WARM_UP_STEPS + 4").assign(agent="2")
    both = simulation.Simulation(pd.concat([whole.tracks, late]), whole.conflicts)
    assert len(list(windows.windows_of(whole, "motorway", 0, 1.0))) == 1
    assert not list(windows.windows_of(both, "motorway", 0, 1.0))


def test_constant_motion_is_the_movers_and_is_found_again():
    rng = np.random.default_rng(0)
    parameters = np.column_stack([
        rng.uniform(-10, 10, (20, 2)), rng.uniform(-3, 3, 20), rng.uniform(0, 15, 20), rng.uniform(-3, 3, 20),
        np.where(np.arange(20) % 2, rng.uniform(-0.3, 0.3, 20), 0.0),
    ])  # fmt: skip
    paths = np.stack([kinematics.Mover("car", *each).path(windows.TIMES) for each in parameters])
    assert windows.constant_motion(parameters, windows.TIMES) == pytest.approx(paths[:, :, :2], abs=0.02)
    assert windows.unexplained_m(paths[:, :, :]) < 0.02
    wandering = paths + np.stack([np.sin(3 * windows.TIMES), 0 * windows.TIMES, 0 * windows.TIMES], axis=1)
    assert windows.unexplained_m(wandering) > 0.3


# --------------------------------------------------------------------------------------------------------------- scenes
def test_same_seed_same_frames_and_truth():
    first, again = (render_video(SPEC, "train", 1) for _ in range(2))
    assert np.array_equal(first[0], again[0]) and first[1:] == again[1:]
    assert not np.array_equal(render_video(SPEC, "dev", 1)[0], first[0])


def test_the_same_seed_is_the_same_motion_in_every_look_and_from_one_camera():
    first = scene(3)
    for look in ("target", "night", "narrow 3", "diverse"):
        other = scene(3, look=look)
        assert np.array_equal(first.poses, other.poses) and np.array_equal(first.ego, other.ego)
        assert first.kinds == other.kinds and not np.array_equal(first.sky_top, other.sky_top)
        assert other.cameras[0].field_of_view_deg < appearance.FIELDS_OF_VIEW_DEG[0] - 2
        frames = renderer.Renderer.shared(64).render(other)
        assert frames.shape == (12, 64, 64, 3) and frames.std() > 10


def test_the_true_box_is_where_the_renderer_painted_the_agent():
    errors = [error for number in range(4) for error in box_errors_px(scene(number), range(0, 12, 3))]
    assert len(errors) > 20 and max(errors) <= 1.25


def test_agents_are_on_the_road_that_is_drawn():
    """Vehicles of the motorway are between its edges, those of the town on a lane or junction."""
    for number in range(8):
        window = tracks.recorded(scenes.order("natural", "dev", 0)[number])
        lanes = np.concatenate([
            lane.middle for lane in roads.roads_of(window.place).lanes if not lane.on_foot and not lane.crossing
        ])  # fmt: skip
        for kind, path in zip(window.kinds, window.paths, strict=True):
            if kind != "pedestrian":
                assert np.linalg.norm(lanes - path[0, :2], axis=1).min() < 4.0


def test_its_agents_move_enough_to_be_measured():
    """Boxes of eligible agents are far from where the last given frame showed them, as in the other targets."""
    found = tracks.windows().iloc[list(scenes.order("natural", "dev", 0)[:128])]
    assert found["moved_px"].mean() > 1.9


def test_its_look_is_narrow_and_no_other_look_reaches_it():
    def skies(look):
        drawn = [appearance.draw_appearance(look, np.random.default_rng(seed)) for seed in range(200)]
        return np.array([np.concatenate([one.sky_top, one.sky_horizon]) for one in drawn])

    own = skies("winter")
    assert own.std(0).max() < 0.02
    for look in ("target", "country", "diverse", *appearance.WEATHERS):
        assert np.linalg.norm(skies(look)[:, None] - own[None], axis=-1).min() > 0.2


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"frames": 16}, "frames is 16"), ({"frames_per_second": 8.0}, "frames_per_second 8"),
     ({"eventful_share": 0.5}, "eventful_share is 0.5"), ({"videos": (0, 9000, 0)}, "9000 of split 'dev'"),
     ({"motion": "ordinary"}, "none of natural")],
)  # fmt: skip
def test_videos_that_were_not_kept_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_world(dataclasses.replace(SPEC, **changes))


# ---------------------------------------------------------------------------------------------------------- simulations
def test_the_drivers_are_as_different_as_their_ranges():
    alike, different = (drivers.vehicle_types(drivers.DRIVERS[name]) for name in ("regular", "heterogeneous"))
    assert alike.count("<vType ") < different.count("<vType ")
    assert alike.count('sigmaerror="0.0"') == alike.count("carFollowModel") == len(kinematics.VEHICLES)
    assert 'sigmaerror="0.0"' not in different
    krauss = drivers.vehicle_types(dataclasses.replace(drivers.DRIVERS["regular"], model="Krauss", sigma=(0.5, 0.5)))
    assert 'carFollowModel="Krauss" sigma="0.5"' in krauss
    with pytest.raises(ValueError, match="Wiedemann"):
        drivers.vehicle_types(dataclasses.replace(drivers.DRIVERS["regular"], model="Wiedemann"))


def test_without_sumo_the_tracks_are_read_and_none_are_made(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(scene().kinds) > 0
    with pytest.raises(OSError, match=r"pip install .*replaylab\[sumo\]"):
        simulation.simulate("motorway", "regular", 0)


def test_the_kept_files_are_what_is_written_of_the_kept_tables(tmp_path):
    tracks.write_tables(tmp_path, tracks.windows(), tracks.all_tracks(), tracks.shares())
    for file in sorted(tracks.TRACKS.glob("*.parquet")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("place", simulation.PLACES)
def test_the_networks_are_what_sumo_builds(place):
    assert (simulation.NETWORKS / f"{place}.net.xml").read_text() == simulation.network(place)


@pytest.mark.slow
@pytest.mark.parametrize("place", simulation.PLACES)
@pytest.mark.parametrize("driving", drivers.DRIVERS)
def test_the_same_seed_is_the_same_traffic(driving, place, monkeypatch):
    """What SUMO makes again is what was kept, to the bit: with the kernels of linear algebra with which it was made. A
    processor that numpy's OpenBLAS does not know gets those without AVX512, which round the fits of windows otherwise.
    """
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        monkeypatch.setenv("OPENBLAS_CORETYPE", "SKYLAKEX")  # effective in a process that has not imported numpy yet
    found = tracks.windows()
    kept = found[(found["drivers"] == driving) & (found["place"] == place) & (found["split"] == "dev")]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        simulating = pool.submit(tracks.simulated, (driving, place, "dev", *tracks.SEEDS["dev"]))
        _, (chosen, rows, _) = simulating.result()
    pd.testing.assert_frame_equal(chosen, kept.drop(columns="window").reset_index(drop=True), check_exact=True)
    first = int(kept["window"].iloc[0])
    stored = tracks.all_tracks()
    stored = stored[stored["window"].between(first, int(kept["window"].iloc[-1]))]
    stored = stored.assign(window=(stored["window"] - first).astype("int32")).reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, stored, check_exact=True)
