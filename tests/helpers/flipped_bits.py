"""One bit that is another, of every kind of file that is read later: it is an error that names the file, or it changes
nothing, or the file is a cache and is made again. Places are drawn from all of the file, head and end included.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from bad_inputs import SPEC, _run
from fault_campaign import Fault
from safetensors.numpy import load_file, save_file

from replaylab.analysis import world_survey
from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, open_domain, write_domain
from replaylab.data.video import write_video
from replaylab.evaluation import corruption_study
from replaylab.models import latent_cache
from replaylab.store import Store, finish, samples_folder, write_rows
from replaylab.store.packing import publish
from replaylab.store.row_tables import read_rows
from replaylab.store.run_folders import checked_rows
from replaylab.training import checkpoint
from replaylab.util import cache
from replaylab.util.files import sha256, write_table
from replaylab.worlds.named import domain_spec

FLIPS, MANY = 30, 300  # of each file
RUN = SPEC.run_id
PUBLISHED = Path(__file__).parents[2] / "book" / "results"


def _finished(folder: Path) -> Path:
    """A run as `finish` leaves it, with a clip and weights."""
    run = _run(folder / "store", SPEC)
    clip = samples_folder(run, 4) / "driving-5.mp4"
    clip.parent.mkdir(parents=True, exist_ok=True)
    clip.write_bytes(random.Random(0).randbytes(500))
    clip.with_suffix(".json").write_text(json.dumps({"true": [[]], "found": [[]]}))
    rows = read_rows(run)
    finish(run, rows.assign(value=np.random.default_rng(0).normal(size=len(rows))), seconds=1.5)
    return run


def _domain(folder: Path) -> Path:
    (folder / "videos").mkdir(parents=True)
    write_video(folder / "videos" / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8), 4.0)
    checksum = sha256(folder / "videos" / "a.mp4")
    videos = pd.DataFrame([("a.mp4", "test", "a", 4, checksum)], columns=["file", "split", "scene", "frames", "sha256"])
    tables = [pd.DataFrame([dict.fromkeys(columns, 1)] * 9) for columns in (TRACK_COLUMNS, EGO_COLUMNS)]
    write_domain(folder, {"name": "a", "frames_per_second": 4.0, "size_px": 32}, videos, *tables)
    return folder


def _checkpoints(folder: Path) -> Path:
    for step in (1, 2):
        checkpoint.save(folder, step, {"weights": {"weight": torch.full((20,), float(step))}}, {"average_steps": step})
    return folder


def _cached(folder: Path) -> np.ndarray:
    return cache.cached(folder / "a.npy", np.load, latent_cache.write, lambda: np.arange(40, dtype=np.float32))


def _features(folder: Path) -> dict[str, np.ndarray]:
    return cache.cached(
        folder / "a.safetensors", load_file, lambda aside, made: save_file(made, aside), lambda: {"a": np.arange(40.0)}
    )


def _packed(folder: Path) -> Path:
    _finished(folder)
    publish(folder / "store", folder / "out", {})
    return folder / "out"


def _store_of(run: Path) -> Store:
    return Store(run.parent)


def _part(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows-000004.parquet", read_rows(_finished(folder)), with_digest=True)
    return folder


def _survey(folder: Path) -> Path:
    """As it is published: tables of small numbers, and what they are of."""
    shutil.copytree(PUBLISHED / "worlds", folder / "worlds")
    return folder / "worlds"


def _read_survey(folder: Path) -> Any:
    found = world_survey._read(folder, "published", {name: domain_spec(name) for name in ("driving", "near")})
    return [found.statistics.values.tolist(), found.velocities.values.tolist(), found.videos, found.windows, found.split]


def _measured_parts(folder: Path) -> Path:
    write_table(folder / "part.parquet", pd.DataFrame({"value": np.arange(9.0)}), with_digest=True)
    return folder


def _part_again(folder: Path) -> Any:
    """What is damaged is measured again."""
    found = cache.kept_table(folder / "part.parquet")
    return pd.DataFrame({"value": np.arange(9.0)}) if found is None else found


def _damage(folder: Path) -> Path:
    shutil.copytree(PUBLISHED / "damage-d6dc3380ceba", folder / "damage-d6dc3380ceba")
    return folder


def _read_damage(folder: Path) -> Any:
    return corruption_study.run("published", store=folder).rows


Make: TypeAlias = Callable[[Path], Path]
Read: TypeAlias = Callable[[Path], Any]
KINDS: dict[str, tuple[Make, str, Read]] = {
    "rows": (_finished, "rows.parquet", lambda run: _store_of(run).rows([RUN])),
    "rows of one measure": (_finished, "rows.parquet", lambda run: _store_of(run).rows([RUN], ["ade_px"])),
    "rows of a step": (_part, "rows-000004.parquet", lambda folder: checked_rows(folder / "rows-000004.parquet", "again")),
    "a summary": (_finished, "summary.json", lambda run: _store_of(run).summary(RUN)),
    "a spec": (_finished, "spec.json", lambda run: _store_of(run).is_done(SPEC)),
    "a log": (_finished, "log.jsonl", lambda run: _store_of(run).seconds_a_step(RUN)),
    "a sample clip": (_finished, "samples/000004/driving-5.mp4", lambda run: _store_of(run).samples([RUN])),
    "a sample's boxes": (_finished, "samples/000004/driving-5.json", lambda run: _store_of(run).samples([RUN])),
    "tracks": (_domain, "tracks.parquet", lambda folder: open_domain(folder).tracks),
    "poses": (_domain, "ego.parquet", lambda folder: open_domain(folder).ego),
    "a video": (_domain, "videos/a.mp4", lambda folder: open_domain(folder).video("a").read_bytes()),
    "a checkpoint's weights": (_checkpoints, "step-000002/weights.safetensors", checkpoint.newest),
    "a checkpoint's state": (_checkpoints, "step-000002/state.json", checkpoint.newest),
    "latents": (lambda folder: folder, "a.npy", _cached),
    "features": (lambda folder: folder, "a.safetensors", _features),
    "published rows": (_packed, "rows/others.parquet", lambda out: Store(out).rows([RUN])),
    "published runs": (_packed, "runs.parquet", lambda out: Store(out).summary(RUN)),
    "published logs": (_packed, "logs.parquet", lambda out: Store(out).seconds_a_step(RUN)),
    "a study of damage, as published": (_damage, "damage-d6dc3380ceba/rows.parquet", _read_damage),
    "a survey's statistics": (_survey, "statistics.parquet", _read_survey),
    "a survey's velocities": (_survey, "velocities.parquet", _read_survey),
    "a survey": (_survey, "survey.json", _read_survey),
    "a part that was measured": (_measured_parts, "part.parquet", _part_again),
    "published clips": (_packed, "samples.parquet", lambda out: Store(out).samples([RUN])),
}  # fmt: skip
"""Kind of file: what makes a folder, the file in it, and who reads it."""


def _plain(value: Any) -> str:
    """Of what was read, comparable to the bit."""
    if isinstance(value, pd.DataFrame):
        value = [list(value.columns), *(value[name].tolist() for name in value)]
    return repr(value)


def _flip(kind: str, flips: int, folder: Path) -> None:
    make, name, read = KINDS[kind]
    with redirect_stderr(io.StringIO()):
        made = make(folder)
        wanted = {_plain(read(made))}
        path = made / name
        whole, places = path.read_bytes(), random.Random(kind)
        if "checkpoint" in kind:  # the one before it takes its place
            path.write_bytes(b"")
            wanted.add(_plain(read(made)))
        for number in range(flips):
            bit = places.randrange(8 * len(whole)) if number else 8 * len(whole) - 1
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                found = _plain(read(made))
            except (ValueError, OSError) as error:
                assert path.name in str(error) or made.name in str(error), f"bit {bit}: {error}"
                continue
            assert found in wanted, f"bit {bit} of {name} gives something else, without an error"


FAULTS = [
    *(Fault("a bit that is another", kind, partial(_flip, kind, FLIPS)) for kind in KINDS),
    *(Fault("a bit that is another", f"{kind}, many", partial(_flip, kind, MANY), is_short=False) for kind in KINDS),
]
