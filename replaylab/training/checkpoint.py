"""Whole or not there: weights and state of a run on disk.

Decision: a checkpoint is a folder `step-000123/` of safetensors and one readable `state.json` with the checksums of
the others. It is written aside, fsynced and renamed, so a kill at any moment leaves the one before. A damaged one is
passed over with a warning. Refused: pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from replaylab.util.files import sha256
from replaylab.util.progress import report

KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write `<folder>/step-<step>/<name>.safetensors` for each name of `tensors`, and `state.json`; prune old ones."""
    whole = folder / f"step-{step:06d}"
    aside = folder / f".{whole.name}.aside"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for name, group in tensors.items():
            save_file({key: value.contiguous() for key, value in group.items()}, aside / f"{name}.safetensors")
        checksums = {file.name: sha256(file) for file in aside.iterdir()}
        (aside / "state.json").write_text(json.dumps({"step": step, **state, "checksums": checksums}, indent=1))
        for file in aside.iterdir():
            _sync(file)
    except Exception:  # no room, most likely: leave some for the words that say so
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if whole.exists():  # the same step again, after a damaged one was passed over
        shutil.rmtree(whole)
    aside.replace(whole)
    _sync(folder)
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(old)


def copy(folder: Path, to: Path, step: int) -> None:
    """A checkpoint to another folder, where there is none of that step yet."""
    name = f"step-{step:06d}"
    aside = to / f".{name}.aside"
    if not (to / name).is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder / name, aside)
        for file in aside.iterdir():
            _sync(file)
        aside.replace(to / name)
        _sync(to)


def newest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest whole checkpoint's tensors and state, or None."""
    for whole in reversed(steps(folder)):
        try:
            return _load(whole)
        except (OSError, ValueError, KeyError) as error:
            report(f"warning: {whole} is damaged ({error}); the checkpoint before it is used")
    return None


def _load(whole: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    state = json.loads((whole / "state.json").read_text())
    tensors = {}
    for name, checksum in state.pop("checksums").items():
        if sha256(whole / name) != checksum:
            raise ValueError(f"{name} does not have the checksum that state.json gives")
        tensors[Path(name).stem] = load_file(whole / name)
    return tensors, state


def steps(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir()) if folder.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
