"""Kill -9 at any moment, run the same command, and end with the same bits: on one process, and on two.

Each campaign kills one run again and again, in a later phase each time, and compares what is left in the end with a run
that was never killed: weights, averages, optimizer state, log, rows and sample clips.
"""

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import HELPERS, LIMIT_SECONDS, ROOT
from one_run import CONTEXT, start
from safetensors.torch import load_file

from replaylab.evaluation import evaluate
from replaylab.spec import MachineSpec
from replaylab.store import ReferenceSpec
from replaylab.sweeps.presets import grid
from replaylab.training import checkpoint

WAYS = {
    "one process": (1, MachineSpec(checkpoint_steps=2)),
    "two, DDP": (2, MachineSpec(checkpoint_steps=2)),
    "two, FSDP2": (2, MachineSpec(checkpoint_steps=2, sharded=True)),
}
# (phase, number of the call, rank): in the order in which a run comes to them. Ranks share the encoding as it happens.
CAMPAIGNS = {
    "one process": [("encode", 2, 0), ("batch", 2, 0), ("save", 2, 0), ("step", 2, 0), ("prune", 2, 0), ("evaluation", 2, 0),
                    ("save", 4, 0), ("step", 1, 0), ("evaluation", 2, 0), ("finish", 1, 0)],
    "two, DDP": [("encode", 1, "any"), ("step", 2, 1), ("save", 2, 0), ("evaluation", 2, 0), ("step", 2, 0),
                 ("finish", 1, 0)],
    "two, FSDP2": [("step", 3, 1), ("save", 2, 0), ("evaluation", 1, 0)],
}  # fmt: skip


def spec():
    """Six steps of a ramp from driving to replay; measured in the middle and at the end, on few clips of two domains."""
    smoke = grid("smoke", [0.5])[0]
    few = replace(smoke.evaluation, domains=smoke.evaluation.domains[:2], clips=4, sampler_steps=2)
    return replace(
        smoke, training=replace(smoke.training, steps=6), evaluate_at=(3, 6), evaluation=few,
        replay=replace(smoke.replay, schedule="ramp"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(swept, tmp_path_factory):
    """A store with what all runs share: domains and references."""
    store = tmp_path_factory.mktemp("shared")
    (store / "domains").symlink_to(swept.store / "domains")
    evaluate.references(ReferenceSpec.of(spec()), store)
    return store


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Of the server that all processes are forked from, which is started with the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", f"{ROOT}:{HELPERS}")
        forkserver.ensure_running()
        yield


def started(store: Path, shared, way: str, *deadly):
    store.mkdir(exist_ok=True)
    references = ReferenceSpec.of(spec()).run_id
    for name in ("domains", references):
        if not (store / name).is_symlink():
            os.symlink(shared / name, store / name)
    ranks, machine = WAYS[way]
    about = store / "about.json"
    about.write_text(json.dumps({"spec": spec().as_dict(), "machine": machine.as_dict(), "store": str(store)}))
    (store / "errors.txt").write_text("")
    process = CONTEXT.Process(target=start, args=(ranks, str(store / "errors.txt"), str(about), *map(str, deadly)))
    process.start()
    return process


def ended(process, store: Path) -> tuple[int, str]:
    """The exit status of a process, and what it wrote to stderr."""
    process.join(LIMIT_SECONDS)
    assert process.exitcode is not None, f"still there after {LIMIT_SECONDS} s"
    return process.exitcode, (store / "errors.txt").read_text()


def finished(store: Path, shared, way: str) -> Path:
    status, errors = ended(started(store, shared, way), store)
    assert status == 0, errors
    return store / spec().run_id


def last_state(folder: Path) -> dict:
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None and found[1]["step"] == 6
    return found[0]


def assert_same(whole: Path, killed: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(whole / "rows.parquet"), pd.read_parquet(killed / "rows.parquet"))
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (whole, killed)]
    assert len(logs[0]) == 6
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]
    name = "transformer/diffusion_pytorch_model.safetensors"
    groups = [{"kept": load_file(folder / name), **last_state(folder)} for folder in (whole, killed)]
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


@pytest.mark.slow
@pytest.mark.parametrize("way", CAMPAIGNS)
def test_killed_in_every_phase_it_ends_with_the_same_bits(way, shared, tmp_path):
    whole = finished(tmp_path / "whole", shared, way)
    for phase, number, rank in CAMPAIGNS[way]:
        status, errors = ended(started(tmp_path / "killed", shared, way, phase, number, rank), tmp_path / "killed")
        assert status == (-signal.SIGKILL if WAYS[way][0] == 1 else 1) and f"killed in {phase}\n" in errors, (status, errors)
        assert not (tmp_path / "killed" / spec().run_id / "summary.json").exists()
    assert_same(whole, finished(tmp_path / "killed", shared, way))


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(shared, tmp_path):
    began = time.monotonic()
    whole = finished(tmp_path / "whole", shared, "one process")
    seconds = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(3):
        process = started(tmp_path / "killed", shared, "one process")
        time.sleep(moments.uniform(0.2, 1.0) * seconds)
        with suppress(ProcessLookupError):  # it was faster than the one before
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert_same(whole, finished(tmp_path / "killed", shared, "one process"))
