"""Kill -9 at any moment, run the same command, and end with the same bits: on one process, and on two.

Each campaign kills one run again and again, in a later phase each time or at random moments, and compares what is left in
the end with a run that was never killed: weights, averages, optimizer state, log, rows and sample clips.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fault_campaign import Fault
from one_run import CONTEXT, start
from safetensors.torch import load_file

from replaylab.evaluation import evaluate
from replaylab.spec import MachineSpec, RunSpec
from replaylab.store import ReferenceSpec
from replaylab.sweeps.presets import grid
from replaylab.training import checkpoint
from replaylab.worlds.build import build_domain

LIMIT_SECONDS = 1200
AT_RANDOM = "kills at random moments"
HELPERS = Path(__file__).parent


@dataclass(frozen=True)
class Way:
    """On how many processes a run is trained, where it is killed, and how often at random moments besides."""

    ranks: int
    machine: MachineSpec
    phases: tuple[tuple[str, int, int | str], ...]
    """phase of `one_run`, number of the call, rank: as a run comes to them. Ranks share the encoding as it happens."""
    at_random: int


WAYS = {
    "one process": Way(
        1, MachineSpec(checkpoint_steps=2),
        (("encode", 2, 0), ("batch", 2, 0), ("save", 2, 0), ("step", 2, 0), ("prune", 2, 0), ("evaluation", 2, 0),
         ("save", 4, 0), ("step", 1, 0), ("evaluation", 2, 0), ("finish", 1, 0)), 16,
    ),
    "two, DDP": Way(
        2, MachineSpec(checkpoint_steps=2),
        (("encode", 1, "any"), ("step", 2, 1), ("save", 2, 0), ("evaluation", 2, 0), ("step", 2, 0), ("finish", 1, 0)), 10,
    ),
    "two, FSDP2": Way(
        2, MachineSpec(checkpoint_steps=2, sharded=True), (("step", 3, 1), ("save", 2, 0), ("evaluation", 1, 0)), 5
    ),
}  # fmt: skip


@cache
def _spec() -> RunSpec:
    """Six steps of a ramp from driving to replay; measured in the middle and at the end, on few clips of two domains."""
    smoke = grid("smoke", [0.5])[0]
    few = replace(smoke.evaluation, domains=smoke.evaluation.domains[:2], clips=4, sampler_steps=2)
    return replace(
        smoke, training=replace(smoke.training, steps=6), evaluate_at=(3, 6), evaluation=few,
        replay=replace(smoke.replay, schedule="ramp"),
    )  # fmt: skip


@contextmanager
def _environment() -> Iterator[None]:
    """Of the server that all processes are forked from, which is started with the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", f"{HELPERS.parents[1]}:{HELPERS}")
        forkserver.ensure_running()
        yield


@cache
def _shared() -> tempfile.TemporaryDirectory[str]:
    """A store with what all runs share: domains and references."""
    folder = tempfile.TemporaryDirectory()
    for world in (_spec().target, *_spec().replay.domains):
        build_domain(world, Path(folder.name) / "domains")
    evaluate.references(ReferenceSpec.of(_spec()), Path(folder.name))
    return folder


@cache
def _whole(way: str) -> tuple[Path, float, tempfile.TemporaryDirectory[str]]:
    """A run that was never killed: its folder, and the seconds that it took."""
    folder, began = tempfile.TemporaryDirectory(), time.monotonic()
    return _finished(Path(folder.name) / "whole", way), time.monotonic() - began, folder


def _started(store: Path, way: str, *deadly: Any) -> Any:
    store.mkdir(exist_ok=True)
    for name in ("domains", ReferenceSpec.of(_spec()).run_id):
        if not (store / name).is_symlink():
            os.symlink(Path(_shared().name) / name, store / name)
    about = store / "about.json"
    about.write_text(json.dumps({"spec": _spec().as_dict(), "machine": WAYS[way].machine.as_dict(), "store": str(store)}))
    (store / "errors.txt").write_text("")
    arguments = (WAYS[way].ranks, str(store / "errors.txt"), str(about), *map(str, deadly))
    process = CONTEXT.Process(target=start, args=arguments)
    process.start()
    return process


def _ended(process: Any, store: Path) -> tuple[int, str]:
    """The exit status of a process, and what it wrote to stderr."""
    process.join(LIMIT_SECONDS)
    assert process.exitcode is not None, f"still there after {LIMIT_SECONDS} s"
    return process.exitcode, (store / "errors.txt").read_text()


def _finished(store: Path, way: str) -> Path:
    status, errors = _ended(_started(store, way), store)
    assert status == 0, errors
    return store / _spec().run_id


def _last_state(folder: Path) -> dict[str, Any]:
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None and found[1]["step"] == 6
    return found[0]


def _assert_same(whole: Path, killed: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(whole / "rows.parquet"), pd.read_parquet(killed / "rows.parquet"))
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (whole, killed)]
    assert len(logs[0]) == 6
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]
    name = "transformer/diffusion_pytorch_model.safetensors"
    groups = [{"kept": load_file(folder / name), **_last_state(folder)} for folder in (whole, killed)]
    assert set(groups[0]) == set(groups[1]) == {"kept", "weights", "average", "exp_avg", "exp_avg_sq", "step"}
    for group, tensors in groups[0].items():
        assert tensors and tensors.keys() == groups[1][group].keys()
        assert all(torch.equal(tensors[key], groups[1][group][key]) for key in tensors), group
    samples = [
        {path.relative_to(folder): path.read_bytes() for path in (folder / "samples").rglob("*") if path.is_file()}
        for folder in (whole, killed)
    ]
    assert samples[0] and samples[0] == samples[1]
    realised = [json.loads((folder / "summary.json").read_text())["realised_samples"] for folder in (whole, killed)]
    assert realised[0] == realised[1] == {"driving": 12, "near": 12}


def _in_every_phase(way: str, folder: Path) -> None:
    with _environment():
        for phase, number, rank in WAYS[way].phases:
            status, errors = _ended(_started(folder / "killed", way, phase, number, rank), folder / "killed")
            died = -signal.SIGKILL if WAYS[way].ranks == 1 else 1
            assert status == died and f"killed in {phase}\n" in errors, (status, errors)
            assert not (folder / "killed" / _spec().run_id / "summary.json").exists()
        _assert_same(_whole(way)[0], _finished(folder / "killed", way))


def at_random(way: str, times: int, folder: Path) -> None:
    """Kill so many times; a run that ends before it could be killed is compared too, and the next one begins anew."""
    moments, kills, runs = random.Random(0), 0, 0
    with _environment():
        whole, seconds, _ = _whole(way)
        while kills < times:
            store = folder / f"killed-{runs}"
            process, began = _started(store, way), time.monotonic()
            time.sleep(moments.uniform(0.1, 0.7) * seconds)
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)
            status, errors = _ended(process, store)
            if status == -signal.SIGKILL:
                kills += 1
            else:
                assert status == 0, (status, errors)
                _assert_same(whole, store / _spec().run_id)
                runs, seconds = runs + 1, min(seconds, time.monotonic() - began)  # it was faster than the one before
        _assert_same(whole, _finished(folder / f"killed-{runs}", way))


FAULTS = [
    fault
    for way, about in WAYS.items()
    for fault in (
        Fault("kills in named phases", way, partial(_in_every_phase, way), is_short=False, times=len(about.phases)),
        Fault(AT_RANDOM, way, partial(at_random, way, about.at_random), is_short=False, times=about.at_random),
    )
]
