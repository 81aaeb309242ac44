"""Statistics of motion in a domain, and of its regularity.

They use the ground truth alone (columns: `domain.TRACK_COLUMNS`, `domain.EGO_COLUMNS`): no model, no detector, and no
appearance. An agent counts in the frames in which it is eligible.

Decision: every statistic is a function of sums over scenes. Its 95 % interval leaves each scene out once (the
jackknife): agents of one scene are not independent, and a bootstrap, which repeats scenes, would overestimate the
repetitiveness of every domain. The number of motion patterns in a sample increases with its size, so all domains are
compared at the same number of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from replaylab.analysis.statistics import t_quantile
from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data.domain import Domain
from replaylab.spec import generator

Floats = NDArray[np.floating[Any]]

STATISTICS = {
    "patterns": "effective number of motion patterns, at the survey's number of windows; n: windows there are",
    "lane_keepers": "share of the agents on a road that keep their lane; n: agents",
    "moved_px": "mean distance from an agent's place in the last given frame, px; n: agent-frames",
    "velocity_spread_px_s": "spread of the agents' velocities in the image, px/s; n: agent-frames",
    "ego_yaw_deg_s": "mean absolute yaw rate of the ego car, degrees/s; n: frames",
}
SPLIT = "dev"
LAST_GIVEN, FUTURE_FRAMES = CONTEXT_FRAMES - 1, CLIP_FRAMES - CONTEXT_FRAMES
LANE_M = 0.5
GRID, STEP_PX = 4, 8.0
WINDOWS = 200
VELOCITIES = 300  # of each domain, kept for the figure


# --------------------------------------------------------------------------------------------------- truth, one row each
def _eligible_centres(tracks: pd.DataFrame) -> pd.DataFrame:
    """The eligible rows, with the centre of the box: x_px, y_px."""
    some = tracks[tracks["eligible"]]
    return some.assign(x_px=(some["x0"] + some["x1"]) / 2, y_px=(some["y0"] + some["y1"]) / 2)


def _with_later_centres(tracks: pd.DataFrame, frames: int) -> pd.DataFrame:
    """Each eligible agent-frame with the same agent `frames` later, if it is eligible there too: x_px_later, ..."""
    now = _eligible_centres(tracks)[["video", "agent", "frame", "x_px", "y_px"]]
    return now.merge(now.assign(frame=now["frame"] - frames), on=["video", "agent", "frame"], suffixes=("", "_later"))


def velocities(tracks: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """Velocity of the box's centre to the next frame: video, agent, frame, vx_px_s (to the right), vy_px_s (downwards)."""
    both = _with_later_centres(tracks, 1)
    return both[["video", "agent", "frame"]].assign(
        vx_px_s=(both["x_px_later"] - both["x_px"]) * frames_per_second,
        vy_px_s=(both["y_px_later"] - both["y_px"]) * frames_per_second,
    )


def lane_keepers(tracks: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """Whether agents keep their lane: video, agent, keeps.

    An agent does if its `road_m` stays within a band of LANE_M over all frames in which it is eligible. Only agents on
    a road whose first and last such frame are at least a second apart are included; none in a world without roads.
    """
    on_road = _eligible_centres(tracks).dropna(subset=["road_m"])
    agents = on_road.groupby(["video", "agent"], as_index=False).agg(
        first=("frame", "min"), last=("frame", "max"), left=("road_m", "min"), right=("road_m", "max")
    )
    agents = agents[agents["last"] - agents["first"] >= round(frames_per_second)]
    return agents[["video", "agent"]].assign(keeps=(agents["right"] - agents["left"] <= LANE_M).astype(float))


def yaw_rates(ego: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """Absolute yaw rates of the ego car or camera from frame to frame: video, frame, yaw_deg_s."""
    ordered = ego.sort_values(["video", "frame"])
    turned = ordered.groupby("video")["heading_rad"].diff()
    shortest = (turned + np.pi) % (2 * np.pi) - np.pi
    rates = ordered[["video", "frame"]].assign(yaw_deg_s=np.rad2deg(shortest.abs()) * frames_per_second)
    return rates.dropna(subset=["yaw_deg_s"])


def displacements(tracks: pd.DataFrame) -> pd.DataFrame:
    """Displacements of agents since the last context frame: video, agent, ahead (frames, from 1), moved_px.

    From the last context frame to each of the next five, for agents that are eligible in both: the error of repeating that
    frame, with a perfect detector.
    """
    steps = []
    for ahead in range(1, FUTURE_FRAMES + 1):
        both = _with_later_centres(tracks, ahead)
        both = both[both["frame"] == LAST_GIVEN]
        distance = np.hypot(both["x_px_later"] - both["x_px"], both["y_px_later"] - both["y_px"])
        steps.append(both[["video", "agent"]].assign(ahead=ahead, moved_px=distance))
    return pd.concat(steps, ignore_index=True)


def motion_patterns(tracks: pd.DataFrame, frames_per_second: float, size_px: int) -> pd.DataFrame:
    """The motion pattern of each agent, one window each: video, agent, column, row, right, down.

    The window is the second after the last context frame; the agent must be eligible in its first and last frame. Its
    pattern is the cell of a GRID x GRID grid of the image in which its centre starts (column, row), and its displacement
    to the right and down, in steps of STEP_PX for 64 px, rounded. The steps are coarse so that two agents that
    differ by noise alone have the same pattern.
    """
    both = _with_later_centres(tracks, round(frames_per_second))
    both = both[both["frame"] == LAST_GIVEN]
    cell, step = size_px / GRID, STEP_PX * size_px / 64
    return both[["video", "agent"]].assign(
        column=np.clip(both["x_px"] // cell, 0, GRID - 1).astype(int),
        row=np.clip(both["y_px"] // cell, 0, GRID - 1).astype(int),
        right=np.floor((both["x_px_later"] - both["x_px"]) / step + 0.5).astype(int),
        down=np.floor((both["y_px_later"] - both["y_px"]) / step + 0.5).astype(int),
    )


# ------------------------------------------------------------------------------------------------------------- numbers
def entropy_at(counts: Floats, windows: int) -> Floats:
    """Expected Shannon entropy (R,), in nats, of `windows` windows sampled without replacement from counts (R, C).

    C patterns, R separate samples. Exact: the mean over all subsamples (Chao et al. 2014), without random sampling. NaN if a
    sample has fewer windows.
    """
    counts = np.atleast_2d(np.asarray(counts, dtype=int))
    totals = counts.sum(axis=1, keepdims=True)
    pairs = np.stack(np.broadcast_arrays(totals, counts), axis=-1).reshape(-1, 2)
    different, which = np.unique(pairs, axis=0, return_inverse=True)
    seen = np.arange(1, windows + 1)
    chance = stats.hypergeom.pmf(seen, different[:, :1], different[:, 1:], windows)
    each = (np.nan_to_num(chance) * -(seen / windows) * np.log(seen / windows)).sum(axis=1)
    entropy = each[which.ravel()].reshape(counts.shape).sum(axis=1)
    return np.where(totals[:, 0] >= max(windows, 1), entropy, np.nan)


def jackknife(sums: Floats, statistic: Callable[[Floats], Floats]) -> tuple[float, float, float]:
    """A statistic of sums over scenes, and its 95 % interval: value, low, high.

    `sums` (S, K) holds K sums per scene; `statistic` maps (R, K) to (R,). The interval is Student's t with the standard
    error of the jackknife that leaves out one scene at a time (Efron 1981). NaN for a single scene.
    """
    whole = sums.sum(axis=0, keepdims=True)
    value = float(statistic(whole)[0])
    scenes = len(sums)
    if scenes < 2:
        return value, np.nan, np.nan
    without = statistic(whole - sums)
    error = np.sqrt((scenes - 1) / scenes * ((without - without.mean()) ** 2).sum())
    half = t_quantile(scenes - 1) * error
    return value, value - half, value + half


def _mean(sums: Floats) -> Floats:
    """The mean from (R, 2): sum and number."""
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _spread(sums: Floats) -> Floats:
    """The root of the covariance's trace from (R, 4): sums of vx, vy and of both squares together, and number."""
    x, y, squares, number = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (squares - (x**2 + y**2) / number) / np.where(number > 1, number - 1, np.nan)
    return np.sqrt(np.maximum(variance, 0))


@dataclass(frozen=True)
class _TruthTables:
    """One domain's tables and their scenes."""

    scenes: list[str]
    speeds: pd.DataFrame
    keepers: pd.DataFrame
    yaws: pd.DataFrame
    moves: pd.DataFrame
    windows: Floats  # (scene, pattern): how often

    @classmethod
    def of(cls, domain: Domain, split: str) -> _TruthTables:
        scenes = [Path(file).stem for file in domain.split(split)["file"]]
        tracks = domain.tracks[domain.tracks["video"].isin(scenes)]
        ego = domain.ego[domain.ego["video"].isin(scenes)]
        rate = domain.frames_per_second
        shown = motion_patterns(tracks, rate, domain.size_px)
        kinds = shown.groupby(["column", "row", "right", "down"]).ngroup()
        windows = pd.crosstab(shown["video"], kinds).reindex(scenes, fill_value=0).to_numpy(dtype=float)
        keepers, yaws = lane_keepers(tracks, rate), yaw_rates(ego, rate)
        return cls(scenes, velocities(tracks, rate), keepers, yaws, displacements(tracks), windows)

    def sums(self, table: pd.DataFrame, *values: pd.Series[float]) -> Floats:
        """(S, K + 1): the sum of each of K columns over each scene, and the number of rows."""
        columns = pd.DataFrame(dict(enumerate(values)), index=table.index).assign(number=1.0)
        return columns.groupby(table["video"]).sum().reindex(self.scenes, fill_value=0.0).to_numpy(dtype=float)

    def statistics(self, windows: int) -> pd.DataFrame:
        right, down = self.speeds["vx_px_s"], self.speeds["vy_px_s"]
        of_means = {
            "lane_keepers": self.sums(self.keepers, self.keepers["keeps"]),
            "moved_px": self.sums(self.moves, self.moves["moved_px"]),
            "ego_yaw_deg_s": self.sums(self.yaws, self.yaws["yaw_deg_s"]),
        }
        of_speeds = self.sums(self.speeds, right, down, right**2 + down**2)
        entropy = jackknife(self.windows, lambda counts: entropy_at(counts, windows))
        lines = {
            "patterns": (*np.exp(entropy), self.windows.sum()),
            "velocity_spread_px_s": (*jackknife(of_speeds, _spread), of_speeds[:, -1].sum()),
            **{name: (*jackknife(sums, _mean), sums[:, -1].sum()) for name, sums in of_means.items()},
        }
        table = pd.DataFrame(lines, index=["value", "low", "high", "n"]).T.loc[list(STATISTICS)]
        possible = {"patterns": (1.0, float(windows)), "lane_keepers": (0.0, 1.0)}
        for name in STATISTICS:
            ends = table.loc[name, ["low", "high"]]
            table.loc[name, ["low", "high"]] = ends.clip(*possible.get(name, (0.0, np.inf)))
        return table.rename_axis("statistic").reset_index().assign(scenes=len(self.scenes))


def measure_domains(domains: Mapping[str, Domain], split: str = SPLIT) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """For every domain's split: the statistics, some velocities for a figure, and the common number of windows.

    Statistics: domain, statistic, value, low, high, n, scenes. Velocities: domain, vx_px_s, vy_px_s. The number of
    windows is WINDOWS, or that of the domain with the fewest when a scene is left out; a domain without windows has no
    number of patterns.
    """
    truths = {name: _TruthTables.of(domain, split) for name, domain in domains.items()}
    spare = [_windows_without_a_scene(truth.windows) for truth in truths.values()]
    windows = min([WINDOWS, *(number for number in spare if number)])
    statistics = [truth.statistics(windows).assign(domain=name) for name, truth in truths.items()]
    drawn = []
    for name, truth in truths.items():
        order = generator(0, f"velocities of {name}").permutation(len(truth.speeds))
        some = truth.speeds.iloc[np.sort(order[:VELOCITIES])][["vx_px_s", "vy_px_s"]]
        drawn.append(some.astype(np.float32).assign(domain=name))
    columns = ["domain", "statistic", "value", "low", "high", "n", "scenes"]
    table = pd.concat(statistics, ignore_index=True)[columns].astype({"n": int})
    return table, pd.concat(drawn, ignore_index=True)[["domain", "vx_px_s", "vy_px_s"]], windows


def _windows_without_a_scene(windows: Floats) -> int:
    """The number of windows (S, C) that remain when any scene is left out; all, if there is a single scene."""
    scenes = windows.sum(axis=1)
    return int(scenes.sum() - (scenes.max() if len(scenes) > 1 else 0))


# -------------------------------------------------------------------------------------------------------------- survey
