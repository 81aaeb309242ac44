"""Windows of simulated traffic with the length of a video, each seen from a car: their events and their predictability.

Decision: all properties by which windows are selected are measured here and stored as columns, so that a domain is a filter
on one table: whether the camera sees its agents throughout, how far each agent's path is from the best motion of constant
acceleration and yaw rate, and SUMO's measures of events. An *event* is when, during a clip, a vehicle at most 50 m ahead
brakes by more than 2 m/s2, moves sideways by more than 0.7 m/s, or is in a conflict, all according to SUMO.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.spec import generator
from replaylab.worlds.kinematics import silhouette
from replaylab.worlds.renderer import NEAR_M, Camera, Floats, eligible, placed, rigid, shown_throughout, visible_shares
from replaylab.worlds.sumo.simulation import STEP_S, Simulation

FRAMES = 12  # of a video
ACCEPTANCE_CAMERA = Camera(field_of_view_deg=42.0, height_m=1.35, pitch_rad=0.02)
CAMERA_KIND = "car"  # the camera is at its centre
WARM_UP_STEPS, STEPS_BETWEEN = 960, FRAMES  # windows do not overlap in time
AHEAD_M, BESIDE_M = 50.0, 15.0  # the area in which vehicles are examined for events
BRAKING_M_S2, SIDEWAYS_M_S = 2.0, 0.7
REACH_M, POPS_UP_M = 110.0, 60.0  # agents are stored up to this distance; none may appear or vanish nearer than this
COUNTS_M = 52.0  # farther away even a truck is too small to be eligible; at least AHEAD_M
SMALL_PX = 4.0  # boxes of less height are skipped: they are farther away than all eligible agents
EXPLAINED_M = 0.2
NO_EVENT = "ordinary"
TIMES = np.arange(FRAMES) * STEP_S
NUMBERS = ("x_m", "y_m", "heading_rad", "speed_m_s", "acceleration_m_s2", "sideways_m_s")

Ints = NDArray[np.int_]
Bools = NDArray[np.bool_]
Words = NDArray[np.str_]


@dataclass(frozen=True)
class Window:
    """A window: its camera, and the agents in reach, in the order of their visibility."""

    about: dict[str, object]  # its row in the table of windows
    kinds: tuple[str, ...]  # the camera's car first
    paths: Floats  # (1 + agents, FRAMES, 3): x, y, heading in the network's frame


def windows_of(simulation: Simulation, place: str, seed: int, share: float) -> Iterator[Window]:
    """The windows of a simulation seen from a random share of the cars that are present throughout."""
    rng = generator(seed, f"windows of simulated traffic {place}")
    tracks = simulation.tracks.sort_values(["step", "agent"], ignore_index=True)
    steps, columns = tracks["step"].to_numpy(), {name: tracks[name].to_numpy(float) for name in NUMBERS}
    names, kinds = tracks["agent"].to_numpy(dtype=str), tracks["kind"].to_numpy(dtype=str)
    for start in range(WARM_UP_STEPS, int(steps[-1]) + 1 - FRAMES, STEPS_BETWEEN):
        rows = slice(*np.searchsorted(steps, [start, start + FRAMES]))
        of_rows = {name: values[rows] for name, values in columns.items()}
        shot = _Shot.of(steps[rows] - start, names[rows], kinds[rows], of_rows, start, simulation.conflicts)
        for camera in np.flatnonzero(shot.whole & (shot.kinds == CAMERA_KIND)):
            drawn = rng.uniform()
            if drawn < share and (window := shot.seen_from(int(camera))) is not None:
                window.about["drawn"] = drawn
                yield window


@dataclass(frozen=True)
class _Shot:
    """All agents in FRAMES steps: arrays (agent, frame), NaN where an agent is absent."""

    start: int
    names: Words
    kinds: Words
    paths: Floats  # (agent, frame, 3)
    speeds: Floats
    braking: Floats
    sideways: Floats
    conflicts: tuple[tuple[str, str], ...]  # the names of both agents of each

    @staticmethod
    def of(
        frame: Ints, names: Words, kinds: Words, columns: dict[str, Floats], start: int, conflicts: pd.DataFrame
    ) -> _Shot:  # fmt: skip
        every, first, agent = np.unique(names, return_index=True, return_inverse=True)

        def spread(column: str) -> Floats:
            values = np.full((len(every), FRAMES), np.nan)
            values[agent, frame] = columns[column]
            return values

        now = conflicts[conflicts["step"].between(start, start + CLIP_FRAMES - 1)]
        return _Shot(
            start, every, kinds[first], np.stack([spread(name) for name in ("x_m", "y_m", "heading_rad")], axis=-1),
            spread("speed_m_s"), -spread("acceleration_m_s2"), np.abs(spread("sideways_m_s")),
            tuple(zip(now["first"], now["second"], strict=True)),
        )  # fmt: skip

    @property
    def whole(self) -> Bools:
        """(A,): which agents are present in every frame."""
        return np.asarray(~np.isnan(self.paths[:, :, 0]).any(axis=1))

    def seen_from(self, camera: int) -> Window | None:
        """The window of a camera; None if an agent appears or vanishes near it."""
        ego = self.paths[camera]
        from_ego = np.stack([_from(pose, self.paths[:, frame, :2]) for frame, pose in enumerate(ego)], axis=1)
        right, ahead = from_ego[..., 0], from_ego[..., 1]
        in_cone = (ahead > 0) & (np.abs(right) < ahead)  # somewhat wider than the camera's view
        near = in_cone & (ahead < POPS_UP_M)
        if (near & ~self.whole[:, None]).any():
            return None
        kept = self.whole & (in_cone & (ahead < REACH_M)).any(axis=1)
        kept[camera] = False
        near = kept & (in_cone & (ahead < COUNTS_M)).any(axis=1)
        others, far = np.flatnonzero(near), np.flatnonzero(kept & ~near)
        if not len(others):
            return None
        boxes, shown = boxes_seen(ego, self.kinds[others], self.paths[others])
        looked_at = (ahead[others] > 0) & (ahead[others] < AHEAD_M) & (np.abs(right[others]) < BESIDE_M)
        events = self._events(camera, others, looked_at[:, :CLIP_FRAMES])
        acting = np.array([bool(each) for each in events]) & shown[:CLIP_FRAMES].any(axis=0)
        share = shown.mean(axis=0)
        order = np.argsort(-(share + (acting & (share >= 2 / 3))), kind="stable")  # agents with visible events first
        about = {
            "camera": self.names[camera], "start_s": self.start * STEP_S, "shown": shown_throughout(shown[:, order]),
            "event": _joined(words for words, acts in zip(events, acting, strict=True) if acts),
            "event_ahead": _joined(events), "moved_px": round(moved_px(boxes, shown), 2),
            "unexplained_m": round(unexplained_m(self.paths[[camera, *others[shown.any(axis=0)]]]), 3),
            "camera_m_s": round(float(self.speeds[camera].mean()), 2),
        }  # fmt: skip
        chosen = [camera, *others[order], *far]
        return Window(about, tuple(self.kinds[chosen]), self.paths[chosen])

    def _events(self, camera: int, others: Ints, looked_at: Bools) -> list[set[str]]:
        """The events of each of `others` in a clip, while it is in the examined area."""
        events: list[set[str]] = [set() for _ in others]
        present = set(self.names[[camera, *others]])
        in_conflict = {name for pair in self.conflicts if present.issuperset(pair) for name in pair}
        for index, agent in enumerate(others):
            for word, values, limit in (("braking", self.braking, BRAKING_M_S2), ("sideways", self.sideways, SIDEWAYS_M_S)):
                if (looked_at[index] & (values[agent, :CLIP_FRAMES] > limit)).any():
                    events[index].add(word)
            if self.names[agent] in in_conflict and looked_at[index].any():
                events[index].add("conflict")
        return events


def _joined(events: Iterable[set[str]]) -> str:
    return "+".join(sorted({word for each in events for word in each})) or NO_EVENT


def boxes_seen(ego: Floats, kinds: Sequence[str] | Words, paths: Floats) -> tuple[Floats, Bools]:
    """Boxes (frame, agent, 4) in an image of 64 px, and which are eligible (frame, agent), seen by ACCEPTANCE_CAMERA.

    `ego` (frame, 3): poses of the camera; `paths` (agent, frame, 3). A box is NaN where an agent is not entirely in front of
    the camera. The criterion is that of `kinematics`, for all frames at once.
    """
    boxes, depths = np.full((len(ego), len(paths), 4), np.nan), np.zeros((len(ego), len(paths)))
    back = np.linalg.inv(rigid(*ego.T))
    for agent, path in enumerate(paths):
        corners = silhouette(kinds[agent]) @ (back @ rigid(*path.T)).swapaxes(1, 2)
        pixels, depth = ACCEPTANCE_CAMERA.project(corners[..., :3].reshape(-1, 3), np.zeros(3), 0.0, 64)
        pixels, depth = pixels.reshape(len(ego), -1, 2), depth.reshape(len(ego), -1)
        depths[:, agent] = depth.mean(axis=1)
        whole = depth.min(axis=1) > NEAR_M
        boxes[whole, agent] = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)[whole]
    counts = np.zeros(boxes.shape[:2], dtype=bool)
    with np.errstate(invalid="ignore"):
        inside = (boxes[..., :2] < 64).all(-1) & (boxes[..., 2:] > 0).all(-1) & (boxes[..., 3] - boxes[..., 1] > SMALL_PX)
    for frame, some in enumerate(inside):  # agents that are smaller or outside occlude no eligible one
        visible = visible_shares(boxes[frame, some], depths[frame, some], 64)
        counts[frame, some] = eligible(boxes[frame, some], visible, 64)
    return boxes, counts


def moved_px(boxes: Floats, shown: Bools) -> float:
    """Mean distance in px of agents in a clip's future frames from their place in the last given frame; 0 without agents."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    moved = np.linalg.norm(centres[CONTEXT_FRAMES:CLIP_FRAMES] - centres[CONTEXT_FRAMES - 1], axis=-1)
    counted = moved[shown[CONTEXT_FRAMES:CLIP_FRAMES] & np.isfinite(moved)]
    return float(counted.mean()) if len(counted) else 0.0


def _from(pose: Floats, places: Floats) -> Floats:
    """Positions (A, 2) in the network's frame as metres (A, 2) to the right of and ahead of a pose (3,)."""
    flat = np.concatenate([places - pose[:2], np.zeros((len(places), 1))], axis=1)
    return placed(flat, np.zeros(3), -pose[2])[:, :2]


# ------------------------------------------------------------------------------------ constant acceleration and yaw rate
MOST_STEPS = 15
SHIFTS = (1e-4, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3)  # of the parameters, for numerical derivatives


def unexplained_m(paths: Floats) -> float:
    """The largest distance in m of any of the paths (N, T, 3) from its best motion of constant acceleration and yaw rate.

    The fit is a least-squares fit of positions (Levenberg-Marquardt).
    """
    times = np.arange(paths.shape[1]) * STEP_S
    places = paths[:, :, :2]
    speeds = np.linalg.norm(np.diff(places, axis=1), axis=2) / STEP_S
    moves = places[:, 1:] - places[:, :1]
    heading = np.where(speeds.mean(axis=1) > 0.2, np.arctan2(-moves[:, -1, 0], moves[:, -1, 1]), paths[:, 0, 2])
    zero = np.zeros(len(paths))
    now = np.stack([places[:, 0, 0], places[:, 0, 1], heading, speeds.mean(axis=1), zero, zero], axis=1)
    best, error = now, _residuals(now, places, times)
    damping = np.full(len(paths), 1e-3)
    for _ in range(MOST_STEPS):
        slopes = np.stack([
            (_residuals(best + shift, places, times) - error) / shift.sum() for shift in np.diag(SHIFTS)
        ], axis=2)  # fmt: skip
        square = slopes.swapaxes(1, 2) @ slopes
        damped = square + damping[:, None, None] * (np.eye(6) + np.eye(6) * square)
        now = best - np.linalg.solve(damped, (slopes.swapaxes(1, 2) @ error[..., None]))[..., 0]
        tried = _residuals(now, places, times)
        gain = (error**2).sum(axis=1) - (tried**2).sum(axis=1)
        better = gain > 0
        best, error = np.where(better[:, None], now, best), np.where(better[:, None], tried, error)
        damping = np.where(better, damping / 5, damping * 5)
        if (gain[better] < 1e-5).all() and (better | (damping > 1e3) | ((error**2).sum(axis=1) < 1e-5)).all():
            break
    return float(np.linalg.norm(error.reshape(len(paths), -1, 2), axis=2).max())


def constant_motion(parameters: Floats, times: Floats) -> Floats:
    """Positions (N, T, 2) of `kinematics.Mover` for parameters (N, 6): x, y, heading, speed, acceleration, yaw rate."""
    x, y, heading, speed, acceleration, yaw_rate = (each[:, None] for each in parameters.T)
    # a braking car stops and does not reverse
    until_still = np.where(acceleration < 0, np.maximum(speed, 0) / np.maximum(-acceleration, 1e-9), np.inf)
    times = np.minimum(times[None], until_still)
    w = np.where(np.abs(yaw_rate) < 1e-5, 1e-5, yaw_rate)  # straight, to less than a millimetre
    now, last = speed + acceleration * times, heading + w * times
    along_x = (now * np.cos(last) - speed * np.cos(heading)) / w - acceleration * (np.sin(last) - np.sin(heading)) / w**2
    along_y = (now * np.sin(last) - speed * np.sin(heading)) / w + acceleration * (np.cos(last) - np.cos(heading)) / w**2
    return np.stack([x + along_x, y + along_y], axis=-1)


def _residuals(parameters: Floats, places: Floats, times: Floats) -> Floats:
    return (constant_motion(parameters, times) - places).reshape(len(places), -1)
