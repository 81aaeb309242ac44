"""What a run has when it says that it is done: everything that it names is on disk, for good."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from light_runs import grid
from simulated_disk import Disk

from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import MachineSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.training import fine_tuning

SPEC = grid("smoke", [0.0])[0]
MACHINE = MachineSpec(threads=1, checkpoint_steps=1).as_dict()
NAMED = {
    "spec.json", "manifest.json", "log.jsonl", "rows.parquet", "samples/000004/driving-5.mp4",
    "samples/000004/driving-5.json",
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
}  # fmt: skip


def store_with_inputs(light: Path, folder: Path) -> Path:
    """A store with what the run is made from."""
    folder.mkdir()
    (folder / "domains").symlink_to(light / "domains")
    references = ReferenceSpec.of(SPEC).run_id
    shutil.copytree(light / references, folder / references)
    return folder


def test_a_run_is_done_only_when_all_that_it_names_is_on_disk(light, tmp_path, monkeypatch):
    """On a disk that has only what was fsynced, at the moment when the summary is put in place and at each later one."""
    store = store_with_inputs(light, tmp_path / "store")
    folder = store / SPEC.run_id
    after: list[dict[str, bytes]] = []
    with Disk(store, monkeypatch) as disk:

        def look() -> None:
            if (folder / "summary.json").exists() and len(after) < 2:
                after.append(disk.tree())

        disk.at_every_event = look
        fine_tuning.train_one(SPEC.as_dict(), store, MACHINE)
        after.append(disk.tree())
    there = {path.relative_to(store).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {f"{SPEC.run_id}/{name}" for name in NAMED} <= there.keys()
    for tree in after:
        assert {name: tree.get(name) for name in there if not name.endswith("summary.json")} == {
            name: data for name, data in there.items() if not name.endswith("summary.json")
        }
    assert f"{SPEC.run_id}/summary.json" in after[-1]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {name.removeprefix(f"{SPEC.run_id}/") for name in there if not name.endswith("SHA256SUMS")}
    assert_works_elsewhere(store, tmp_path / "of somebody else")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:])
    with pytest.raises(
        ValueError, match=r"diffusion_pytorch_model\.safetensors is damaged.*move .* away and train it again"
    ):
        fine_tuning.load_fine_tuned(SPEC, store, folder)


def assert_works_elsewhere(store: Path, place: Path) -> None:
    """No file of the run or its references names a folder; a copy reads the same where the store itself is gone."""
    references = ReferenceSpec.of(SPEC).run_id
    for path in (*(store / SPEC.run_id).rglob("*"), *(store / references).rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            assert not any(str(folder).encode() in data for folder in (store.parent, WEIGHTS)), path
            assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask(), path
    before = Store(store).table([SPEC])
    shutil.copytree(store, place, symlinks=True)
    hidden = store.rename(store.with_name("hidden"))
    pd.testing.assert_frame_equal(Store(place).table([SPEC]), before)
    assert Store(place).samples([SPEC.run_id]).shape[0] > 0
    assert fine_tuning.train_one(SPEC.as_dict(), place) == SPEC.run_id  # done already
    fine_tuning.load_fine_tuned(SPEC, place, place / SPEC.run_id)
    hidden.rename(store)


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
