"""Running SUMO: the networks of the two places, and the tracks and conflicts of all agents in one simulation.

Decision: SUMO is called as a program, with only the files in `networks`, so that anyone can run, watch or change the same
simulation with SUMO's own tools. It is needed only to simulate the tracks again (the extra `sumo`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from replaylab.worlds.meshes import KINDS
from replaylab.worlds.sumo.drivers import DRIVERS, kind_of, vehicle_types

NETWORKS = Path(__file__).parent / "networks"
BUILDERS = {"motorway": ("netconvert", "motorway.netccfg"), "town": ("netgenerate", "town.netgcfg")}
PLACES = tuple(BUILDERS)
STEP_S = 0.25


@dataclass(frozen=True)
class Simulation:
    """The tracks and conflicts of one simulation.

    `tracks`: step, agent, kind, x_m, y_m (of its centre), heading_rad, speed_m_s, acceleration_m_s2, sideways_m_s (within
    its lane; the last two are NaN for pedestrians). `conflicts`: step, first, second, measure (TTC, DRAC or PET), value.
    """

    tracks: pd.DataFrame
    conflicts: pd.DataFrame


def network(place: str) -> str:
    """The network of a place (XML) as SUMO's network builder makes it, without the comment that contains the date."""
    builder, configuration = BUILDERS[place]
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.net.xml"
        _run(builder, "--configuration-file", NETWORKS / configuration, "--output-file", made)
        return _without_comments(made.read_text())


def simulate(place: str, drivers: str, seed: int) -> Simulation:
    """Simulate ten minutes of traffic; raises OSError, with the package to install, if SUMO is missing."""
    with TemporaryDirectory() as home:
        folder = Path(home)
        types, conflicts = folder / "types.add.xml", folder / "conflicts.xml"
        vehicles, people = folder / "vehicles.parquet", folder / "people.parquet"
        types.write_text(vehicle_types(DRIVERS[drivers]))
        _run(
            "sumo", "--configuration-file", NETWORKS / "simulation.sumocfg", "--seed", seed,
            "--net-file", NETWORKS / f"{place}.net.xml", "--route-files", NETWORKS / f"{place}.rou.xml",
            "--additional-files", types, "--fcd-output", vehicles, "--person-fcd-output", people,
            "--device.ssm.file", conflicts,
        )  # fmt: skip
        told = [pd.read_parquet(each).rename(columns=_without_prefix) for each in (vehicles, people)]
        return Simulation(_tracks(pd.concat(told, ignore_index=True)), _conflicts(conflicts))


def _run(program: str, *options: object) -> None:
    if (found := importlib.util.find_spec("sumo")) is None or found.origin is None:
        raise OSError("SUMO, which simulates the tracks, is not installed: pip install 'replaylab[sumo]'")
    home = Path(found.origin).parent
    told = [str(home / "bin" / program), *map(str, options)]
    done = subprocess.run(told, capture_output=True, text=True, env={**os.environ, "SUMO_HOME": str(home)})
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")


def _without_comments(text: str) -> str:
    return re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)


def _without_prefix(column: str) -> str:
    """ "x" of "vehicle_x" and of "person_x"."""
    return column.partition("_")[2]


def _tracks(told: pd.DataFrame) -> pd.DataFrame:
    """`Simulation.tracks`, from SUMO's positions (of the middle of the front) and angles (clockwise from north)."""
    told = told.dropna(subset=["id"])
    kinds = told["type"].map(kind_of)
    heading = -np.deg2rad(told["angle"].astype(float))
    behind = kinds.map({kind: size[1] / 2 for kind, size in KINDS.items()}).where(kinds != "pedestrian", 0.0)
    return pd.DataFrame({
        "step": (told["time"] / STEP_S).round().astype(int), "agent": told["id"], "kind": kinds,
        "x_m": told["x"] + behind * np.sin(heading), "y_m": told["y"] - behind * np.cos(heading),
        "heading_rad": heading, "speed_m_s": told["speed"].astype(float),
        "acceleration_m_s2": told["acceleration"].astype(float),
        "sideways_m_s": told["speedLat"].astype(float),
    }).reset_index(drop=True)  # fmt: skip


MEASURES = {"minTTC": "TTC", "maxDRAC": "DRAC", "PET": "PET"}


def _conflicts(file: Path) -> pd.DataFrame:
    """`Simulation.conflicts`: the most severe moment of each conflict by each of SUMO's measures."""
    rows = []
    for conflict in ElementTree.parse(file).getroot().iter("conflict"):
        for tag, measure in MEASURES.items():
            if (worst := conflict.find(tag)) is not None and worst.get("value") not in (None, "NA"):
                step = round(float(worst.get("time", "nan")) / STEP_S)
                rows.append((step, conflict.get("ego"), conflict.get("foe"), measure, float(worst.get("value", "nan"))))
    return pd.DataFrame(rows, columns=["step", "first", "second", "measure", "value"])
