"""The power fails, or the process is killed, at any moment: what says that it is there is whole, and the rest goes on.

The disk of `simulated_disk` has what was fsynced and nothing else, the worst that a file system may leave. Where loop
devices exist, a real one is tried besides: an ext4 image, copied while it is written to.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_training
import torch
from bad_inputs import SPEC
from fault_campaign import Fault
from flipped_bits import _finished
from full_disk import WRITERS
from simulated_disk import Disk

from replaylab.store import Store, claim, finish, samples_folder
from replaylab.store.packing import publish
from replaylab.store.row_tables import read_rows
from replaylab.training import checkpoint
from replaylab.util import digests, files

FOLDERS = ("a checkpoint", "a network")  # of WRITERS; there may be none for the moment in which one replaces another
STEPS = 4
IMAGE_MB, COPIES = 48, 12


@contextmanager
def _at_every_event(root: Path, look: Callable[[Disk], None]) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch, Disk(root, patch) as disk, redirect_stderr(io.StringIO()):
        disk.at_every_event = lambda: look(disk)
        yield disk


def _written(name: str, folder: Path) -> None:
    """Written and written again: at every moment there is the old or the new; in the end, what was written."""
    file, write = WRITERS[name]
    trees: list[dict[str, bytes]] = []
    for _ in range(2):
        before = len(trees)
        with _at_every_event(folder, lambda disk: trees.append(disk.tree())):
            write(folder / file)
        there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for tree in trees[before:]:
            mine = {path: data for path, data in tree.items() if path.split("/")[0] == file}
            assert mine == there or (not mine and (not before or name in FOLDERS)), sorted(mine)
        assert trees[-1] == there


def _run_is_whole(folder: Path) -> None:
    """If the run says that it is done, every file that it lists is as it was written, and can be read."""
    if not (folder / "summary.json").exists():
        return
    names = [line.split("  ", 1)[1] for line in (folder / files.SUMS).read_text().splitlines()]
    assert "rows.parquet" in names and any(name.endswith(".mp4") for name in names)
    for name in names:
        digests.check(folder / name)
    assert len(Store(folder.parent).rows([SPEC.run_id]))


def _finishing(folder: Path) -> None:
    """While a run is put down as done."""
    disk_folder, failed, seen = folder / "disk", folder / "failed", []
    run = _finished(disk_folder)
    (run / "summary.json").unlink()
    rows = read_rows(run)

    def look(disk: Disk) -> None:
        if f"store/{SPEC.run_id}/summary.json" in disk.tree():
            disk.fail(failed)
            _run_is_whole(failed / "store" / SPEC.run_id)
            seen.append(1)

    with _at_every_event(disk_folder, look):
        finish(run, rows, seconds=1.0)
    assert seen


def _publishing(folder: Path) -> None:
    """While runs are published: once they are seen, their rows are there."""
    disk_folder, failed, seen = folder / "disk", folder / "failed", []
    _finished(disk_folder)

    def look(disk: Disk) -> None:
        if "out/runs.parquet" in disk.tree():
            disk.fail(failed)
            seen.append(len(Store(failed / "out").rows([SPEC.run_id])))

    with _at_every_event(disk_folder, look):
        publish(disk_folder / "store", disk_folder / "out", {})
    assert seen and all(seen)


def _training(failures: int, folder: Path) -> None:
    """A training goes on from what a power failure leaves at random moments, and ends in the same bits."""
    latents, moments = small_training.sources(), random.Random(0)
    left: list[Path] = []
    (folder / "whole").mkdir()

    def look(disk: Disk) -> None:
        if len(left) < failures and moments.random() < 0.15:
            left.append(folder / f"failed-{len(left)}")
            disk.fail(left[-1])

    with _at_every_event(folder / "whole", look):
        whole = small_training.fit(folder / "whole", latents, STEPS)
    for each in left:
        with redirect_stderr(io.StringIO()):
            made = small_training.fit(each, latents, STEPS)
        assert small_training.same(small_training.weights(made), small_training.weights(whole)), each
        assert small_training.log_of(each) == small_training.log_of(folder / "whole"), each
    assert left


def write_runs(store: Path, seconds: float) -> None:
    """One run after another, as training leaves them: checkpoints, weights, clips, and then rows and summary."""
    ends, number = time.monotonic() + seconds, 0
    table = read_rows(_finished(store.parent / "elsewhere"))
    while time.monotonic() < ends:
        run = claim(SPEC, store / f"{number:04d}")
        for step in (1, 2):
            checkpoint.save(run / "checkpoints", step, {"weights": {"w": torch.full((2**18,), float(step))}}, {})
        files.write_folder(run / "transformer", lambda fresh: (fresh / "weights").write_bytes(os.urandom(2**20)))
        clip = samples_folder(run, 4) / "driving-5.mp4"
        files.write_atomically(clip, lambda aside: aside.write_bytes(os.urandom(5000)))
        finish(run, table, seconds=1.0)
        shutil.rmtree(run / "checkpoints")
        if number >= 3:
            shutil.rmtree(store / f"{number - 3:04d}")
        number += 1


def _on_ext4(folder: Path) -> None:
    """Copies of a mounted image at random moments, each mounted as after a power failure."""
    image, mount = folder / "disk.img", folder / "mount"
    with image.open("wb") as file:
        file.truncate(IMAGE_MB * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    done, moments = 0, random.Random(0)
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + (
        f"from pathlib import Path\nimport power_failures\npower_failures.write_runs(Path({str(mount / 'store')!r}), 60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        while not list(mount.glob("store/*/*/summary.json")) and writer.poll() is None:
            time.sleep(0.1)
        for number in range(COPIES):
            time.sleep(moments.uniform(0.05, 0.5))
            assert writer.poll() is None, "the writer has failed"
            writer.send_signal(signal.SIGSTOP)
            (folder / f"copy-{number}.img").write_bytes(_at_one_moment(image))
            writer.send_signal(signal.SIGCONT)
    finally:
        writer.kill()
        writer.wait()
        _unmount(mount)
    for number in range(COPIES):
        subprocess.run(["mount", "-o", "loop", str(folder / f"copy-{number}.img"), str(mount)], check=True)
        try:
            for run in mount.glob(f"store/*/{SPEC.run_id}"):
                _run_is_whole(run)
                done += (run / "summary.json").exists()
                if not (run / "summary.json").exists() and (newest := checkpoint.newest(run / "checkpoints")):
                    assert np.ptp(newest[0]["weights"]["w"].numpy()) == 0
                newest = None  # its file is mapped
                if (run / "spec.json").exists():
                    assert json.loads((run / "spec.json").read_text()) == SPEC.as_dict()
        finally:
            _unmount(mount)
    assert done, "no run had ended"


def _at_one_moment(image: Path) -> bytes:
    """The disk as it is between two readings that are the same: in one that takes a while, a block that was freed and used
    again can be that of a file whose name was copied before, and such a disk there never was.
    """
    before, now = b"", image.read_bytes()
    while now != before:
        before, now = now, image.read_bytes()
    return now


def _unmount(mount: Path) -> None:
    for _ in range(50):  # what has just been closed may still be busy
        if subprocess.run(["umount", str(mount)], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.2)
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


CAN_MOUNT = os.geteuid() == 0 and Path("/dev/loop-control").exists() and all(map(shutil.which, ("mkfs.ext4", "mount")))
KIND = "the power fails"
FAULTS = [
    *(Fault(KIND, f"while {name} is written", partial(_written, name)) for name in WRITERS),
    Fault(KIND, "while a run ends", _finishing), Fault(KIND, "while runs are published", _publishing),
    Fault(KIND, "while a model is trained", partial(_training, 1)),
    Fault(KIND, "while a model is trained, 20 times", partial(_training, 20), is_short=False),
    *([Fault(KIND, "on ext4", _on_ext4, is_short=False)] if CAN_MOUNT else []),
]  # fmt: skip
