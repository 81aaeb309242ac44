"""Atomic checkpoints: weights and state of a run on disk.

Decision: a checkpoint is a folder `step-000123/` of safetensors and one readable `state.json`, with the digests of both
(`digests`). It is written atomically, so a process killed at any time leaves the previous one. A damaged checkpoint is
skipped with a warning. Refused: pickle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from replaylab.util import digests, reading
from replaylab.util.files import sha256, write_folder, write_sums
from replaylab.util.progress import report

KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write `<folder>/step-<step>/<name>.safetensors` for each name of `tensors`, and `state.json`; prune old ones."""

    def fill(fresh: Path) -> None:
        for name, group in tensors.items():
            _write_group(fresh / f"{name}.safetensors", group)
        (fresh / "state.json").write_text(json.dumps({"step": step, **state, "tensors": sorted(tensors)}, indent=1))
        write_sums(fresh, [file.name for file in fresh.iterdir()])

    write_folder(folder / f"step-{step:06d}", fill)
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)  # without locks, another process may remove it too


def _write_group(fresh: Path, group: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for key, value in group.items()}, fresh)


def copy(folder: Path, to: Path, step: int) -> None:
    """Copy a checkpoint to another folder, unless that has one of this step."""
    name = f"step-{step:06d}"
    if not (to / name).is_dir():
        write_folder(to / name, lambda fresh: shutil.copytree(folder / name, fresh, dirs_exist_ok=True))


def newest(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Tensors and state of the newest intact checkpoint, or None."""
    for whole in reversed(steps(folder)):
        try:
            return _load(whole)
        except (OSError, ValueError, KeyError) as error:
            report(f"warning: {whole} is damaged ({error}); the checkpoint before it is used")
    return None


def _load(whole: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    digests.check(whole / "state.json")
    state = reading.json_object(whole / "state.json")
    listed = state.pop("checksums", {})  # of a checkpoint of an older version
    tensors = {}
    for name in state.pop("tensors", [Path(file).stem for file in listed]):
        path = whole / f"{name}.safetensors"
        digests.check(path)
        if listed and sha256(path) != listed[path.name]:
            raise ValueError(f"{path.name} does not have the checksum that state.json gives")
        tensors[name] = load_file(path)
    return tensors, state


def steps(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir()) if folder.is_dir() else []
