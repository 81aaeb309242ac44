"""A full disk in every phase of a run: one sentence that names the file, nothing half written, and what was there stays.

The system refuses to make any file longer (RLIMIT_FSIZE), so that each library meets the error of a write that fails. Its
number is EFBIG in the place of ENOSPC; no other program is concerned, and nobody needs to be root for it.
"""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from bad_inputs import REFERENCES, SPEC, _run
from fault_campaign import Fault, clear
from safetensors.torch import save_file

from replaylab.data.video import write_video
from replaylab.metrics import network_files
from replaylab.mixture import Mixture
from replaylab.models import latent_cache
from replaylab.store import check_store, claim, write_rows
from replaylab.store.packing import publish
from replaylab.sweeps import jobs, sweep
from replaylab.training import checkpoint, loop
from replaylab.util import files
from replaylab.util.distributed import Rank

FRAMES = np.zeros((4, 32, 32, 3), np.uint8)
ROWS = pd.DataFrame({
    "run": ["a"], "base": "b", "model": "base", "target": "", "replay": "", "replay_fraction": 0.0, "seed": 0, "step": 0,
    "domain": "near", "split": "dev", "video": "a", "start": 0, "scene": "a", "measure": "ssim", "value": 1.0, "n": 1,
})  # fmt: skip


@contextmanager
def no_room() -> Iterator[None]:
    """No file can grow inside; what is reported goes nowhere, since a test's output is a file, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def _written_again(name: str, write: Callable[[Path], Any], folder: Path) -> None:
    """The file or folder is written; then once more without room, which changes nothing; then with room."""
    path = folder / name
    write(path)
    before = _content(folder)
    with no_room(), clear(path.name):
        write(path)
    assert _content(folder) == before, "something was left, or is gone"
    write(path)


def _checkpoint(path: Path) -> None:
    checkpoint.save(path.parent, 1, {"weights": {"weight": torch.zeros(9)}}, {})


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a text": ("failed.txt", lambda path: files.write_text(path, "text")),
    "JSON": ("summary.json", lambda path: files.write_json(path, {"a": 1})),
    "a table": ("tracks.parquet", lambda path: files.write_table(path, ROWS)),
    "rows": ("rows.parquet", lambda path: write_rows(path, ROWS)),
    "latents": ("0.npy", lambda path: files.write_atomically(
        path, lambda aside: latent_cache.write(aside, np.zeros((9, 9), np.float32)))),
    "tensors": ("conditions.safetensors", lambda path: files.write_atomically(
        path, lambda aside: save_file({"a": torch.zeros(9)}, aside))),
    "a video": ("a.mp4", lambda path: files.write_atomically(path, lambda aside: write_video(aside, FRAMES, 4.0))),
    "a CSV": ("curve.csv", lambda path: files.write_atomically(path, lambda aside: ROWS.to_csv(aside))),
    "a checkpoint": ("step-000001", _checkpoint),
    "a network": ("detector", lambda path: network_files.write(path, b"weights", "{}", "card")),
}  # fmt: skip


def _log(folder: Path) -> None:
    log = loop.Log(folder, 0, Rank(), Mixture(0.0, 1, [1], 0), "a run", "", {})
    with clear("log.jsonl"), no_room():
        log.add(1, torch.tensor(1.0), torch.tensor(1.0), 0.1)


def _new_run(folder: Path) -> None:
    with clear("spec.json"), no_room():
        claim(SPEC, folder)


def _a_store(folder: Path) -> None:
    with clear(folder), no_room():
        check_store(folder)


def _publishing(folder: Path) -> None:
    for spec in (SPEC, REFERENCES):
        _run(folder / "store", spec)
    with clear("out"), no_room():
        publish(folder / "store", folder / "out", {})
    assert not _content(folder / "out"), "half of it was published"
    publish(folder / "store", folder / "out", {})


def _failure(folder: Path) -> None:
    """That a run failed is in the table and the log, though its failed.txt has no room."""
    with no_room():
        assert sweep._record_failure(folder / "run", OSError("no room")) == "OSError: no room"
        jobs._write_failure(folder / "run", OSError("no room"))


KIND = "a full disk"
FAULTS = [
    *(Fault(KIND, name, partial(_written_again, file, write)) for name, (file, write) in WRITERS.items()),
    Fault(KIND, "a training's log", _log), Fault(KIND, "a new run", _new_run), Fault(KIND, "a new store", _a_store),
    Fault(KIND, "publishing", _publishing), Fault(KIND, "the record of a failure", _failure),
]  # fmt: skip
