"""Surveys: the statistics of several domains with a sample video of each, kept in a store.

Refused: unknown domains, and writing into the published survey. Reading imports neither torch nor panda3d.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab.analysis.sample_videos import write_sample
from replaylab.analysis.world_statistics import SPLIT, measure_domains
from replaylab.description import digest
from replaylab.spec import WorldSpec
from replaylab.store import check_result, check_store, checked_rows, provenance, store_of
from replaylab.store.packed import medium
from replaylab.util import reading
from replaylab.util.files import write_atomically, write_sums, write_table, write_text
from replaylab.util.processes import usable_cores
from replaylab.util.progress import report, track
from replaylab.util.text import duration
from replaylab.worlds.named import DOMAINS, NATURAL_DOMAINS, SURVEYS, domain_spec

IN_THE_BOOK = {"published": "worlds", "natural": "worlds-natural"}
"""The presets that are in the repository, with their folders."""
TIMED_VIDEOS = 3  # of each world, to estimate what rendering takes
SECONDS_TO_START = 2.0  # until the processes that render a domain are there


@dataclass(frozen=True)
class Survey:
    """The survey of several domains, as stored in `folder`.

    `windows` is the number at which patterns are compared, `videos` the number of each domain; `outdated` names
    the domains whose description has changed since, `missing` the requested ones that are not included.
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
        """The mp4 of six of the domain's videos, side by side, with the ground truth overlaid."""
        return medium(self.folder, f"{domain}.mp4") or b""


def run(preset: str = "published", domains: Iterable[str] = (), store: str | Path = "") -> Survey:
    """Read a preset's survey from its store, and make it if it is missing (never in the published store).

    `domains` are names of `worlds.named`; none means DOMAINS, or NATURAL_DOMAINS for the preset "natural". Raises ValueError
    for an unknown preset or domain, FileNotFoundError if nothing is published, PermissionError for a store that cannot be
    written.
    """
    if preset not in SURVEYS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(SURVEYS)}")
    videos = SURVEYS[preset]
    every = NATURAL_DOMAINS if preset == "natural" else DOMAINS
    specs = {name: domain_spec(name, videos=(0, videos, 0)) for name in domains or every}
    home = store_of("published" if preset in IN_THE_BOOK else preset, store)
    folder = home / IN_THE_BOOK.get(preset, "worlds")
    if preset in IN_THE_BOOK and not str(store):
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
    """Whether there is a survey that includes these domains."""
    if not (folder / "survey.json").is_file():
        return False
    there = _about(folder)["domains"]
    return all(there.get(name) == digest(spec) for name, spec in specs.items())


def _about(folder: Path) -> dict[str, Any]:
    """The contents of survey.json."""
    path = folder / "survey.json"
    check_result(path, _again(folder))
    return reading.json_object(path, _again(folder), domains=dict, split=str, videos=int, windows=int)


def _again(folder: Path) -> str:
    return f"move {folder} away and survey the domains again"


def _read(folder: Path, preset: str, specs: Mapping[str, WorldSpec]) -> Survey:
    about = _about(folder)
    shown = [name for name in specs if name in about["domains"]]
    if not shown:
        raise ValueError(f"{folder} holds none of {', '.join(specs)}; it holds {', '.join(about['domains'])}")
    statistics, speeds = (
        checked_rows(folder / f"{name}.parquet", _again(folder), columns=("domain",))
        for name in ("statistics", "velocities")
    )
    return Survey(
        preset, folder, about["split"], about["videos"], about["windows"],
        statistics[statistics["domain"].isin(shown)].reset_index(drop=True),
        speeds[speeds["domain"].isin(shown)].reset_index(drop=True),
        outdated=tuple(name for name in shown if about["domains"][name] != digest(specs[name])),
        missing=tuple(name for name in specs if name not in shown),
    )  # fmt: skip


def _make(folder: Path, preset: str, specs: Mapping[str, WorldSpec], home: Path) -> None:
    """Render missing domains into `home`, compute and write the survey; `survey.json` is written last."""
    from replaylab.worlds.build import build_domain, check_world, is_built

    for spec in specs.values():
        check_world(spec)
    missing = [spec for spec in specs.values() if not is_built(spec, home)]
    if missing:
        report(f"{len(specs) - len(missing)} of {len(specs)} domains are in {home}. {estimate(missing)}")
    domains = {name: build_domain(spec, home) for name, spec in specs.items()}
    statistics, speeds, windows = measure_domains(domains)
    (folder / "survey.json").unlink(missing_ok=True)
    for name in track(domains, what="sample videos", unit="domains"):
        write_atomically(folder / f"{name}.mp4", lambda aside, domain=domains[name]: write_sample(aside, domain))
    for name, table in {"statistics": statistics, "velocities": speeds}.items():
        write_table(folder / f"{name}.parquet", table)
    about = {
        "preset": preset, "split": SPLIT, "videos": SURVEYS[preset], "windows": windows,
        "domains": {name: digest(spec) for name, spec in specs.items()},
        "described": {name: spec.as_dict() for name, spec in specs.items()}, "made_by": provenance(),
    }  # fmt: skip
    text = json.dumps(about, indent=1)
    write_sums(folder, ["statistics.parquet", "velocities.parquet"], {"survey.json": text})
    write_text(folder / "survey.json", text)


def estimate(missing: list[WorldSpec]) -> str:
    """The estimated time to render these domains, measured on this machine with a few videos of each world."""
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
