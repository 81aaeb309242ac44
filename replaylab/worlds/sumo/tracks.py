"""The stored tracks of simulated traffic: tables of windows and of their agents, in the package, and their generation.

Decision: values are whole centimetres and hundredths of a degree, so that the tables are small and identical wherever SUMO
simulates the same traffic. A random share of all windows in which the camera sees agents is stored unselected; beyond that
only those with a predictable event, which are rare. Splits have different seeds of SUMO, so no scene is in two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from replaylab.data.domain import SPLITS
from replaylab.util import reading
from replaylab.util.files import write_atomically
from replaylab.util.processes import map_in_processes, usable_cores
from replaylab.worlds.renderer import Floats
from replaylab.worlds.sumo.drivers import DRIVERS
from replaylab.worlds.sumo.simulation import PLACES, simulate
from replaylab.worlds.sumo.windows import EXPLAINED_M, FRAMES, NO_EVENT, Window, windows_of

TRACKS = Path(__file__).parent / "tracks"
SEEDS = {"train": (0, 1), "dev": (100,), "test": (200, 201, 202)}  # of SUMO
SHARES = {  # of the cars with a camera: those stored unselected, and those searched for predictable events
    ("heterogeneous", "motorway"): {"train": (0.06, 0.06), "dev": (0.04, 0.12), "test": (0.04, 0.12)},
    ("heterogeneous", "town"): {"train": (0.07, 0.07), "dev": (0.05, 0.20), "test": (0.05, 0.20)},
    ("regular", "motorway"): {"train": (0.08, 0.08), "dev": (0.04, 0.04), "test": (0.04, 0.04)},
    ("regular", "town"): {"train": (0.05, 0.05), "dev": (0.03, 0.03), "test": (0.03, 0.03)},
}
CM, CENTIDEGREE = 0.01, np.deg2rad(0.01)
SIMULATIONS = tuple(
    (drivers, place, split, seed) for drivers in DRIVERS for split in SPLITS for seed in SEEDS[split] for place in PLACES
)


@dataclass(frozen=True)
class Recorded:
    """A stored window: kinds, and paths (1 + agents, FRAMES, 3) of x, y (m) and heading (rad), the camera's car first."""

    place: str
    event: str
    kinds: tuple[str, ...]
    paths: Floats


# ------------------------------------------------------------------------------------------------------------- reading
@cache
def windows() -> pd.DataFrame:
    """All stored windows: window, drivers, place, split, seed, camera, start_s, as_it_came (unselected), event, ...

    Further columns as in `windows`. Raises FileNotFoundError, with the command to run, if the table is missing.
    """
    return _read("windows")


@cache
def shares() -> pd.DataFrame:
    """Statistics of all simulated windows before selection, a row per set of drivers and place."""
    return _read("shares")


@cache
def all_tracks() -> pd.DataFrame:
    """The tracks of all windows: window, kind, x_cm, y_cm, heading_cdeg; FRAMES rows per agent, the camera's car first."""
    return _read("tracks")


def recorded(window: int) -> Recorded:
    """One window by its number."""
    about = windows().iloc[window]
    table = all_tracks()
    low, high = np.searchsorted(table["window"].to_numpy(), [window, window + 1])
    rows = table.iloc[low:high]
    poses = rows[["x_cm", "y_cm", "heading_cdeg"]].to_numpy() * [CM, CM, CENTIDEGREE]
    kinds = tuple(rows["kind"].iloc[::FRAMES])
    return Recorded(about["place"], about["event"], kinds, poses.reshape(len(kinds), FRAMES, 3))


def _read(name: str) -> pd.DataFrame:
    file = TRACKS / f"{name}.parquet"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: make it with `python -m replaylab worlds tracks`")
    return reading.table(file, "restore it: it comes with the package")


# -------------------------------------------------------------------------------------------------------------- making
def make(folder: Path) -> pd.DataFrame:
    """Run all SIMULATIONS on all cores and write the tables into a folder; returns the table of `shares`."""
    made = sorted(
        map_in_processes(simulated, SIMULATIONS, usable_cores(), "simulating traffic", "simulations"),
        key=lambda each: SIMULATIONS.index(each[0]),
    )
    return write(folder, [tables for _, tables in made])


Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # windows, tracks, shares
Which = tuple[str, str, str, int]


def simulated(which: Which) -> tuple[Which, Tables]:
    """The tables of one of SIMULATIONS, with windows numbered from 0."""
    drivers, place, split, seed = which
    kept_share, share = SHARES[drivers, place][split]
    found = list(windows_of(simulate(place, drivers, seed), place, seed, share))
    about = pd.DataFrame([each.about for each in found])
    explained = about["unexplained_m"] <= EXPLAINED_M
    about.insert(0, "as_it_came", about.pop("drawn") < kept_share)
    about = about.assign(drivers=drivers, place=place, split=split, seed=seed)
    kept = about["shown"] & (about["as_it_came"] | explained & (about["event"] != NO_EVENT))
    chosen = about[kept].drop(columns="shown").reset_index(drop=True)
    rows = [_rows(number, found[index]) for number, index in enumerate(np.flatnonzero(kept))]
    return which, (chosen, pd.concat(rows, ignore_index=True), about)


def _rows(number: int, window: Window) -> pd.DataFrame:
    agents = len(window.kinds)
    places = np.round(window.paths[..., :2] / CM).astype(np.int32)
    turned = np.round(np.unwrap(window.paths[..., 2], axis=1) / CENTIDEGREE).astype(np.int32)
    return pd.DataFrame({
        "window": np.full(agents * FRAMES, number, np.int32), "kind": np.repeat(window.kinds, FRAMES),
        "x_cm": places[..., 0].ravel(), "y_cm": places[..., 1].ravel(), "heading_cdeg": turned.ravel(),
    })  # fmt: skip


def write(folder: Path, tables: list[Tables]) -> pd.DataFrame:
    """Write the tables of several simulations, with windows numbered consecutively; returns the table of `shares`."""
    starts = np.cumsum([0, *(len(chosen) for chosen, _, _ in tables)])
    tracks = [each.assign(window=each["window"] + start) for (_, each, _), start in zip(tables, starts, strict=False)]
    kept = pd.concat([chosen for chosen, _, _ in tables], ignore_index=True)
    kept.insert(0, "window", np.arange(len(kept), dtype=np.int32))
    found = _shares(pd.concat([about for _, _, about in tables], ignore_index=True))
    write_tables(folder, kept, pd.concat(tracks, ignore_index=True), found)
    return found


def write_tables(folder: Path, windows: pd.DataFrame, tracks: pd.DataFrame, shares: pd.DataFrame) -> None:
    """Write the three tables into a folder; equal tables give identical files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("windows", windows), ("tracks", tracks), ("shares", shares)):
        write_atomically(folder / f"{name}.parquet", lambda aside, table=table: _write(table, aside))


def _write(table: pd.DataFrame, aside: Path) -> None:
    whole = [name for name in table if pd.api.types.is_integer_dtype(table[name])]
    packed = dict.fromkeys(whole, "DELTA_BINARY_PACKED")
    words = [name for name in table if name not in whole]
    table.to_parquet(aside, index=False, compression="zstd", use_dictionary=words, column_encoding=packed)


def _shares(about: pd.DataFrame) -> pd.DataFrame:
    """`shares`: means of the properties of all windows, by drivers and place."""
    explained, eventful = about["unexplained_m"] <= EXPLAINED_M, about["event_ahead"] != NO_EVENT
    flags = about[["drivers", "place"]].assign(
        shown=about["shown"], eventful=eventful, explained=explained, explained_of_shown=explained.where(about["shown"]),
        explained_of_eventful=explained.where(eventful),
        eventful_of_explained=eventful.where(explained & about["shown"]),
        moved_px=about["moved_px"].where(about["shown"]),
    )  # fmt: skip
    by = flags.groupby(["drivers", "place"], sort=False)
    return by.size().rename("windows").to_frame().join(by.mean(numeric_only=False).astype(float).round(4)).reset_index()
