"""Targets of two disjoint families of events, and near replay that lacks one of them."""

from __future__ import annotations

import numpy as np
import pytest

from replaylab.spec import generator
from replaylab.worlds import kinematics, traffic
from replaylab.worlds.build import scene_of
from replaylab.worlds.kinematics import ALL_EVENTS, EVENT_FAMILIES, Motion
from replaylab.worlds.named import FAMILY_DOMAINS, domain_spec

TIMES = np.arange(12) / 4
A, B = (set(EVENT_FAMILIES[name]) for name in "ab")


def shows_a(motion: Motion) -> bool:
    """As the paths say: the ego car turns, or a vehicle that drives along changes lanes."""
    along = [agent for agent in motion.agents if np.cos(agent.heading) * agent.speed > 0.9]
    drifts = [abs(np.ptp(agent.path(TIMES)[:, 0])) > 1.0 for agent in along]
    return abs(motion.ego.path(TIMES)[-1, 2]) > 0.05 or any(drifts)


def test_the_families_are_disjoint_and_lack_the_repeated_event() -> None:
    assert not A & B and A | B | {"crossing"} == set(ALL_EVENTS)
    for name, events in EVENT_FAMILIES.items():
        assert traffic.MOTIONS[f"family-{name}"] == events
        assert not set(traffic.MOTIONS[f"without-{name}"]) & set(events)
        assert set(traffic.MOTIONS[f"without-{name}"]) | set(events) == set(traffic.MOTIONS["all-events"]) == set(ALL_EVENTS)


@pytest.mark.parametrize("name", EVENT_FAMILIES)
def test_a_family_shows_its_own_events_and_not_the_others(name: str) -> None:
    rng = generator(0, "narrow look")
    for event in EVENT_FAMILIES[name]:
        drawn = [
            kinematics.draw_accepted(
                lambda event=event: traffic.draw_motion(event, rng, TIMES[-1]),  # type: ignore[misc]
                traffic.shows_held_out, TIMES, traffic.ACCEPTANCE_CAMERA,
            )
            for _ in range(15)
        ]  # fmt: skip
        assert np.mean([shows_a(motion) for motion in drawn]) == (1.0 if name == "a" else 0.0)
        share_of_b = np.mean([traffic.shows_held_out(motion) for motion in drawn])
        assert share_of_b == 0 if name == "a" else share_of_b > 0.9


@pytest.mark.parametrize("name", [name for name in FAMILY_DOMAINS if name.startswith("near")])
def test_half_of_near_replay_is_ordinary_and_the_rest_never_the_tested_family(name: str) -> None:
    spec = domain_spec(name)
    events = [kinematics.event_of(spec, number, np.random.default_rng(number), traffic.MOTIONS) for number in range(400)]
    assert events.count("ordinary") == 200
    assert set(events) == {"ordinary", *traffic.MOTIONS[spec.motion]}


@pytest.mark.parametrize("name", FAMILY_DOMAINS)
def test_a_domain_of_a_family_has_scenes_of_its_own_in_every_split(name: str) -> None:
    spec = domain_spec(name)
    first, again, other = (scene_of(spec, split, 0) for split in ("train", "train", "test"))
    assert np.array_equal(first.poses, again.poses)
    assert not np.array_equal(first.ego, other.ego)
    assert (spec.look == "target") == name.startswith("driving")
