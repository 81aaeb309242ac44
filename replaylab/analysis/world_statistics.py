"""What moves in a domain, and how regularly?

Statistics of the truth tables alone (columns: `domain.TRACK_COLUMNS`, `domain.EGO_COLUMNS`): no model, no detector, and
no look. An agent counts in the frames in which it is eligible.

Decision: every statistic is a function of sums over scenes. Its 95 % interval leaves each scene out once (the
jackknife): agents of one scene are not independent, and a bootstrap, which draws scenes twice, would make every domain
look more repetitive than it is. How many motion patterns a sample shows grows with its size, so all domains are
compared at the same number of windows.

Refused: domains that nobody described, writing into the published survey. Reading imports neither torch nor panda3d.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import stats

from replaylab.data.domain import Domain
from replaylab.spec import WorldSpec, digest, generator
from replaylab.store import check_store, provenance, store_of
from replaylab.store.packed import medium
from replaylab.util.files import write_atomically, write_json, write_table
from replaylab.util.processes import usable_cores
from replaylab.util.progress import report, track
from replaylab.util.text import duration
from replaylab.worlds.named import DOMAINS, domain_spec

Floats = NDArray[np.floating[Any]]

STATISTICS = {
    "patterns": "effective number of motion patterns, at the survey's number of windows; n: windows there are",
    "lane_keepers": "share of the agents on a road that keep their lane; n: agents",
    "moved_px": "mean distance from an agent's place in the last given frame, px; n: agent-frames",
    "velocity_spread_px_s": "spread of the agents' velocities in the image, px/s; n: agent-frames",
    "ego_yaw_deg_s": "mean absolute yaw rate of the ego car, degrees/s; n: frames",
}
PRESETS = {"published": 128, "quick": 64, "smoke": 4}
"""How many videos of each domain a preset looks at."""
SPLIT = "dev"
LAST_GIVEN, FUTURE_FRAMES = 2, 5  # a model sees frames 0 to 2 and draws the next five
LANE_M = 0.5
GRID, STEP_PX = 4, 8.0
WINDOWS = 200
VELOCITIES = 300  # rows a domain that are kept to be drawn
SHOWN_VIDEOS = 6
TIMED_VIDEOS = 3  # of each world, to estimate what rendering takes
SECONDS_TO_START = 2.0  # until the processes that render a domain are there
SAMPLE_CRF = 30  # H.264 quality of the sample videos: small, because a page carries them all


# --------------------------------------------------------------------------------------------------- truth, one row each
def _counting(tracks: pd.DataFrame) -> pd.DataFrame:
    """The eligible rows, with the centre of the box: x_px, y_px."""
    some = tracks[tracks["eligible"]]
    return some.assign(x_px=(some["x0"] + some["x1"]) / 2, y_px=(some["y0"] + some["y1"]) / 2)


def _later(tracks: pd.DataFrame, frames: int) -> pd.DataFrame:
    """Each eligible agent-frame beside the same agent `frames` later, where it is eligible too: x_px_later, ..."""
    now = _counting(tracks)[["video", "agent", "frame", "x_px", "y_px"]]
    return now.merge(now.assign(frame=now["frame"] - frames), on=["video", "agent", "frame"], suffixes=("", "_later"))


def velocities(tracks: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """Velocity of the box's centre in the image from a frame to the next: video, agent, frame, vx_px_s (to the right),
    vy_px_s (downwards)."""
    both = _later(tracks, 1)
    return both[["video", "agent", "frame"]].assign(
        vx_px_s=(both["x_px_later"] - both["x_px"]) * frames_per_second,
        vy_px_s=(both["y_px_later"] - both["y_px"]) * frames_per_second,
    )


def lane_keepers(tracks: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """Who keeps the lane: video, agent, keeps.

    An agent does if its `road_m` stays within a band of LANE_M over all frames in which it is eligible. Only agents on
    a road whose first and last such frame are at least a second apart are asked; in a world without roads, nobody.
    """
    on_road = _counting(tracks).dropna(subset=["road_m"])
    agents = on_road.groupby(["video", "agent"], as_index=False).agg(
        first=("frame", "min"), last=("frame", "max"), left=("road_m", "min"), right=("road_m", "max")
    )
    agents = agents[agents["last"] - agents["first"] >= round(frames_per_second)]
    return agents[["video", "agent"]].assign(keeps=(agents["right"] - agents["left"] <= LANE_M).astype(float))


def yaw_rates(ego: pd.DataFrame, frames_per_second: float) -> pd.DataFrame:
    """How fast the ego car or camera turns from a frame to the next, either way: video, frame, yaw_deg_s (absolute)."""
    ordered = ego.sort_values(["video", "frame"])
    turned = ordered.groupby("video")["heading_rad"].diff()
    shortest = (turned + np.pi) % (2 * np.pi) - np.pi
    rates = ordered[["video", "frame"]].assign(yaw_deg_s=np.rad2deg(shortest.abs()) * frames_per_second)
    return rates.dropna(subset=["yaw_deg_s"])


def moved(tracks: pd.DataFrame) -> pd.DataFrame:
    """How far agents get from where they were last seen: video, agent, ahead (frames, from 1), moved_px.

    From the last given frame to each of the next five, for agents that are eligible in both: what repeating that frame
    would cost, if a perfect detector looked at it.
    """
    steps = []
    for ahead in range(1, FUTURE_FRAMES + 1):
        both = _later(tracks, ahead)
        both = both[both["frame"] == LAST_GIVEN]
        distance = np.hypot(both["x_px_later"] - both["x_px"], both["y_px_later"] - both["y_px"])
        steps.append(both[["video", "agent"]].assign(ahead=ahead, moved_px=distance))
    return pd.concat(steps, ignore_index=True)


def patterns(tracks: pd.DataFrame, frames_per_second: float, size_px: int) -> pd.DataFrame:
    """The motion pattern of each agent, one window each: video, agent, column, row, right, down.

    The window is the second after the last given frame; the agent must be eligible in its first and last frame. Its
    pattern is the cell of a GRID x GRID grid of the image in which its centre starts (column, row), and how far it gets
    to the right and down, in steps of STEP_PX for 64 px, rounded. The steps are coarse on purpose: two agents that
    differ by noise alone are to have the same pattern.
    """
    both = _later(tracks, round(frames_per_second))
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
    """Expected Shannon entropy (R,), in nats, of `windows` windows drawn without replacement from counts (R, C).

    C is the patterns, R separate samples. Exact: the mean over all subsamples (Chao et al. 2014), so nothing is
    drawn. NaN where a sample has fewer windows.
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


def effective_number(counts: Iterable[int], windows: int | None = None) -> float:
    """How many equally frequent patterns would be as diverse: the Hill number of order 1, exp(Shannon entropy).

    Of all windows, or as expected of `windows` of them (Hill 1973, Jost 2006, Chao et al. 2014). NaN without windows.
    """
    counts = np.asarray(list(counts), dtype=int)
    return float(np.exp(entropy_at(counts, int(counts.sum()) if windows is None else windows)[0]))


def jackknife(sums: Floats, statistic: Callable[[Floats], Floats]) -> tuple[float, float, float]:
    """A statistic of sums over scenes, and its 95 % interval: value, low, high.

    `sums` (S, K) holds K sums a scene; `statistic` maps (R, K) to (R,). The interval is Student's t with the standard
    error of the jackknife that leaves out one scene at a time (Efron 1981). NaN where a scene is all there is.
    """
    whole = sums.sum(axis=0, keepdims=True)
    value = float(statistic(whole)[0])
    scenes = len(sums)
    if scenes < 2:
        return value, np.nan, np.nan
    without = statistic(whole - sums)
    error = np.sqrt((scenes - 1) / scenes * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, scenes - 1) * error
    return value, value - half, value + half


def _mean(sums: Floats) -> Floats:
    """Of (R, 2): sum and number."""
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _spread(sums: Floats) -> Floats:
    """Of (R, 4): sums of vx, vy and of their squares together, and number. The root of the covariance's trace."""
    x, y, squares, number = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (squares - (x**2 + y**2) / number) / np.where(number > 1, number - 1, np.nan)
    return np.sqrt(np.maximum(variance, 0))


@dataclass(frozen=True)
class _Truth:
    """One domain's tables, and the scenes they are about."""

    scenes: list[str]
    speeds: pd.DataFrame
    keepers: pd.DataFrame
    yaws: pd.DataFrame
    moves: pd.DataFrame
    windows: Floats  # (scene, pattern): how often

    @classmethod
    def of(cls, domain: Domain, split: str) -> _Truth:
        scenes = [Path(file).stem for file in domain.split(split)["file"]]
        tracks = domain.tracks[domain.tracks["video"].isin(scenes)]
        ego = domain.ego[domain.ego["video"].isin(scenes)]
        rate = domain.frames_per_second
        shown = patterns(tracks, rate, domain.size_px)
        kinds = shown.groupby(["column", "row", "right", "down"]).ngroup()
        windows = pd.crosstab(shown["video"], kinds).reindex(scenes, fill_value=0).to_numpy(dtype=float)
        return cls(
            scenes, velocities(tracks, rate), lane_keepers(tracks, rate), yaw_rates(ego, rate), moved(tracks), windows
        )  # fmt: skip

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
        found = {
            "patterns": (*np.exp(entropy), self.windows.sum()),
            "velocity_spread_px_s": (*jackknife(of_speeds, _spread), of_speeds[:, -1].sum()),
            **{name: (*jackknife(sums, _mean), sums[:, -1].sum()) for name, sums in of_means.items()},
        }
        table = pd.DataFrame(found, index=["value", "low", "high", "n"]).T.loc[list(STATISTICS)]
        possible = {"patterns": (1.0, float(windows)), "lane_keepers": (0.0, 1.0)}
        for name in STATISTICS:
            ends = table.loc[name, ["low", "high"]]
            table.loc[name, ["low", "high"]] = ends.clip(*possible.get(name, (0.0, np.inf)))
        return table.rename_axis("statistic").reset_index().assign(scenes=len(self.scenes))


def measured(domains: Mapping[str, Domain], split: str = SPLIT) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Of every domain's split: the statistics, some velocities to draw, and the number of windows compared at.

    Statistics: domain, statistic, value, low, high, n, scenes. Velocities: domain, vx_px_s, vy_px_s. The number of
    windows is WINDOWS, or what the domain with the fewest has when a scene is left out; a domain without any has no
    number of patterns.
    """
    truths = {name: _Truth.of(domain, split) for name, domain in domains.items()}
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
    """How many windows (S, C) are left, whichever scene is left out; all, if there is but one scene."""
    scenes = windows.sum(axis=1)
    return int(scenes.sum() - (scenes.max() if len(scenes) > 1 else 0))


# -------------------------------------------------------------------------------------------------------------- survey
@dataclass(frozen=True)
class Survey:
    """Domains side by side, as they stand in `folder`.

    `windows` is the number that patterns are compared at, `videos` how many of each domain went in; `outdated` names
    the domains whose description has changed since, `missing` those that were asked for and are not there.
    """

    preset: str
    folder: Path
    split: str
    videos: int
    windows: int
    statistics: pd.DataFrame
    velocities: pd.DataFrame
    outdated: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def domains(self) -> list[str]:
        """The names of the domains, in their order."""
        return list(dict.fromkeys(self.statistics["domain"]))

    def sample(self, domain: str) -> bytes:
        """The mp4 of six of the domain's videos, side by side, with the truth drawn on them."""
        return medium(self.folder, f"{domain}.mp4") or b""


def run(preset: str = "published", domains: Iterable[str] = (), store: str | Path = "") -> Survey:
    """Read a preset's survey from its store, and make it if it is not there (never in the published store).

    `domains` are names of spec.DOMAINS; none means all. Raises ValueError for an unknown preset or domain,
    FileNotFoundError where nothing is published, PermissionError for a store that cannot be written.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    videos = PRESETS[preset]
    specs = {name: domain_spec(name, videos=(0, videos, 0)) for name in domains or DOMAINS}
    home = store_of(preset, store)
    folder = home / "worlds"
    if preset == "published" and not str(store):
        if not (folder / "survey.json").is_file():
            raise FileNotFoundError(
                f"{folder}/survey.json is missing: nothing is published there; name a store of your own to make one"
            )
    elif _holds(folder, specs):
        report(f"the survey of {len(specs)} domains is in {folder}: made nothing")
    else:
        check_store(home)
        _make(folder, preset, specs, home / "domains")
    return _read(folder, preset, specs)


def _holds(folder: Path, specs: Mapping[str, WorldSpec]) -> bool:
    """Whether there is a survey of these very domains, or of more."""
    if not (folder / "survey.json").is_file():
        return False
    there = json.loads((folder / "survey.json").read_text())["domains"]
    return all(there.get(name) == digest(spec) for name, spec in specs.items())


def _read(folder: Path, preset: str, specs: Mapping[str, WorldSpec]) -> Survey:
    about = json.loads((folder / "survey.json").read_text())
    shown = [name for name in specs if name in about["domains"]]
    if not shown:
        raise ValueError(f"{folder} holds none of {', '.join(specs)}; it holds {', '.join(about['domains'])}")
    statistics, speeds = (pd.read_parquet(folder / f"{name}.parquet") for name in ("statistics", "velocities"))
    return Survey(
        preset, folder, about["split"], about["videos"], about["windows"],
        statistics[statistics["domain"].isin(shown)].reset_index(drop=True),
        speeds[speeds["domain"].isin(shown)].reset_index(drop=True),
        outdated=tuple(name for name in shown if about["domains"][name] != digest(specs[name])),
        missing=tuple(name for name in specs if name not in shown),
    )  # fmt: skip


def _make(folder: Path, preset: str, specs: Mapping[str, WorldSpec], home: Path) -> None:
    """Render what is missing into `home`, look at it, and write the survey; `survey.json` comes last."""
    from replaylab.worlds.build import build_domain, check_world, is_built

    for spec in specs.values():
        check_world(spec)
    missing = [spec for spec in specs.values() if not is_built(spec, home)]
    if missing:
        report(f"{len(specs) - len(missing)} of {len(specs)} domains are in {home}. {estimate(missing)}")
    domains = {name: build_domain(spec, home) for name, spec in specs.items()}
    statistics, speeds, windows = measured(domains)
    (folder / "survey.json").unlink(missing_ok=True)
    for name in track(domains, what="sample videos", unit="domains"):
        write_atomically(folder / f"{name}.mp4", lambda path, domain=domains[name]: _write_sample(path, domain))
    for name, table in {"statistics": statistics, "velocities": speeds}.items():
        write_table(folder / f"{name}.parquet", table)
    about = {
        "preset": preset,
        "split": SPLIT,
        "videos": PRESETS[preset],
        "windows": windows,
        "domains": {name: digest(spec) for name, spec in specs.items()},
        "described": {name: spec.as_dict() for name, spec in specs.items()},
        "made_by": provenance(),
    }
    write_json(folder / "survey.json", about)


def estimate(missing: list[WorldSpec]) -> str:
    """What rendering these domains will take, timed on this machine by a few videos of each world."""

    of_worlds = {spec.world: spec for spec in missing}
    # in a process of its own: a notebook's kernel is killed when it has run, and would leave a game behind
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        each = dict(zip(of_worlds, pool.map(_seconds_a_video, of_worlds.values()), strict=True))
    seconds = sum(each[spec.world] * sum(spec.videos) for spec in missing) / usable_cores()
    seconds += SECONDS_TO_START * len(missing)
    videos = sum(sum(spec.videos) for spec in missing)
    return f"Estimated: {duration(seconds)} on this machine ({videos} videos to render)"


def _seconds_a_video(spec: WorldSpec) -> float:
    from replaylab.worlds.build import render_video

    render_video(spec, SPLIT, 0)  # the first one opens the renderer
    start = time.monotonic()
    for number in range(1, TIMED_VIDEOS + 1):
        render_video(spec, SPLIT, number)
    return (time.monotonic() - start) / TIMED_VIDEOS


def _write_sample(path: Path, domain: Domain) -> None:
    """The first videos of the split, nobody's choice, side by side with the truth drawn on them."""
    from replaylab.data.clips import Clip, truth_of
    from replaylab.data.video import decode

    rows = domain.split(SPLIT).head(SHOWN_VIDEOS)
    clips = [Clip(Path(row.file).stem, str(row.scene), 0) for row in rows.itertuples()]
    frames = int(rows["frames"].min())
    pixels = np.stack([decode(domain.folder / "videos" / f"{clip.video}.mp4")[:frames] for clip in clips])
    _encode(path, tiled(pixels, truth_of(domain, clips, frames)), domain.frames_per_second)


def _encode(path: Path, frames: NDArray[np.uint8], frames_per_second: float) -> None:
    """As `worlds.write_video`, but to look at, not to learn from: a tenth of the size."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(frames_per_second))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.options = {"crf": str(SAMPLE_CRF), "preset": "medium", "tune": "animation"}
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


TILE_PX, GAP_PX, TILES_ACROSS = 192, 6, 3


DARK, IGNORED = (24, 24, 24), (168, 168, 168)


# Okabe and Ito's colours, which the colour-blind can tell apart, without its black and grey.
AGENTS = [(230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0)]


TRAIL_FRAMES = 4


Point = tuple[float, float]


def tiled(clips: NDArray[np.uint8], truth: Sequence[Sequence[pd.DataFrame]]) -> NDArray[np.uint8]:
    """Clips (N, T, H, W, 3) side by side with their truth drawn on, uint8 (T, H', W', 3); H' and W' are even.

    `truth` holds for each clip and frame the rows of domain.TRACK_COLUMNS. A thin box around every agent that counts, a
    colour an agent, with dots where its centre was in the frames before; a grey box around the others.
    """
    number_of_clips, frames = clips.shape[:2]
    across = min(TILES_ACROSS, number_of_clips)
    down = -(-number_of_clips // across)
    pitch = TILE_PX + GAP_PX
    canvas = np.full((frames, down * pitch - GAP_PX, across * pitch - GAP_PX, 3), DARK, np.uint8)
    for clip in range(number_of_clips):
        top, left = (clip // across) * pitch, (clip % across) * pitch
        centres: dict[int, dict[int, Point]] = {}  # agent, frame: where it was
        for frame, rows in enumerate(truth[clip]):
            picture = Image.fromarray(clips[clip, frame]).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
            _draw(picture, rows, frame, centres, TILE_PX / clips.shape[3])
            canvas[frame, top : top + TILE_PX, left : left + TILE_PX] = np.asarray(picture)
    return canvas


def _draw(
    picture: Image.Image, rows: pd.DataFrame, frame: int, centres: dict[int, dict[int, Point]], scale: float
) -> None:
    """One frame's boxes and trails; adds where its agents are to `centres`."""
    brush = ImageDraw.Draw(picture)
    boxes = scale * rows[["x0", "y0", "x1", "y1"]].to_numpy(dtype=float)
    counts = rows["eligible"].to_numpy(dtype=bool)
    for place in np.argsort(counts, kind="stable"):  # those that count are drawn over the others
        x0, y0, x1, y1 = boxes[place]
        edges = [round(x0), round(y0), max(round(x1) - 1, round(x0)), max(round(y1) - 1, round(y0))]
        if not counts[place]:
            brush.rectangle(edges, outline=IGNORED)
            continue
        agent = int(rows["agent"].iat[place])
        colour = AGENTS[agent % len(AGENTS)]
        brush.rectangle([edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1], outline=DARK, width=4)
        brush.rectangle(edges, outline=colour, width=2)
        trail = centres.setdefault(agent, {})
        for before, (x, y) in trail.items():
            if frame - before <= TRAIL_FRAMES:
                brush.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour, outline=DARK)
        trail[frame] = ((x0 + x1) / 2, (y0 + y1) / 2)
