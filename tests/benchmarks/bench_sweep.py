"""What a sweep costs beyond its steps and evaluations: `make bench`. A measurement: it can only fail for being wrong.

A grid of runs is trained inline twice. The first sweep pays what all runs share (worlds, latents, base, floors); the
second finds that, trains the same runs anew, and is compared with the sum of what could not be left out: the forward and
backward passes, clipping, optimizer and average of its steps, and its evaluations. The rest is loading, the estimate,
batches, logs, checkpoints, weights and summaries. Bound: RATIO. Then the same runs are trained by local jobs, one at a time
and two at a time on one thread each, imports included; bound, on two cores: TWO. `--short` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers.training_utils import EMAModel

from replaylab.evaluation import evaluate
from replaylab.spec import RunSpec
from replaylab.sweeps import presets, sweep
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.training import loop
from replaylab.util.processes import ask_for_large_pages

RATIO = 1.10
TWO = 1.8
QUICK = PRESETS["quick"]
FULL = replace(
    QUICK, name="bench", replay_fractions=(0.0, 0.25, 0.5, 0.75), videos=(64, 48, 0), evaluation_clips=16,
    reference_clips=32, training=replace(QUICK.training, steps=40), evaluate_at=(20, 40),
)  # fmt: skip
SHORT = replace(PRESETS["smoke"], name="bench")


def main() -> None:
    ask_for_large_pages()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few steps: shows that everything runs")
    preset = SHORT if parser.parse_args().short else FULL
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(presets.PRESETS, {"bench": preset}):
        store = Path(home)
        imports = [sys.executable, "-c", "from replaylab.training import fine_tuning; from replaylab.sweeps import sweep"]
        print(f"{'imports, paid once':31} {_timed(lambda: subprocess.run(imports, check=True)):8.1f} s")
        first = _timed(lambda: sweep.run("bench", store=store))
        runs = grid("bench")
        for run in runs:
            shutil.rmtree(store / run.run_id)
        parts: dict[str, float] = {}
        with counted(parts):
            whole = _timed(lambda: sweep.run("bench", store=store))
        by_jobs = {at_once: _by_jobs(at_once, runs, store) for at_once in (1, 2)}
    bare = sum(parts.values())
    print(f"{'what is shared, paid once':31} {first - whole:8.1f} s")
    for name, seconds in parts.items():
        print(f"{name:31} {seconds:8.1f} s")
    print(f"{'all else':31} {whole - bare:8.1f} s")
    verdict = "within" if whole <= RATIO * bare else "BEYOND"
    print(f"a sweep of {len(runs)} runs: {whole:.1f} s, {whole / bare:.3f} x its steps and evaluations ({verdict} {RATIO})")
    ratio = by_jobs[1] / by_jobs[2]
    verdict = "at least" if ratio >= TWO else "BELOW"
    print(f"by jobs, one at a time {by_jobs[1]:.1f} s, two {by_jobs[2]:.1f} s: {ratio:.2f} x as fast ({verdict} {TWO})")


def _by_jobs(at_once: int, runs: Sequence[RunSpec], store: Path) -> float:
    """Seconds of a sweep that finds all that runs share, and trains them by so many local jobs at once."""
    for run in runs:
        shutil.rmtree(store / run.run_id)
    shutil.rmtree(store / "jobs", ignore_errors=True)  # the last one's process may still be there
    file = store / "cluster.yaml"
    file.write_text(f"runs_at_once: {at_once}\n")
    table: list[sweep.Table] = []
    seconds = _timed(lambda: table.append(sweep.run("bench", cluster="local", cluster_file=file, store=store)))
    assert (table[0].runs["state"] == "done").all(), table[0].runs["reason"].tolist()
    return seconds


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@contextmanager
def counted(parts: dict[str, float]) -> Iterator[None]:
    """Adds up, by name, the seconds spent in what a sweep cannot do without."""
    with ExitStack() as stack:
        for name, owner, attribute in (
            ("forward", loop.Objective, "forward"),
            ("backward", torch.Tensor, "backward"),
            ("clipping", torch.nn.utils, "clip_grad_norm_"),
            ("optimizer", torch.optim.AdamW, "step"),
            ("average", EMAModel, "step"),
            ("evaluations", evaluate, "evaluate"),
        ):
            parts[name] = 0.0
            timed = _adding(parts, name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield


def _adding(parts: dict[str, float], name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(honest)
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.monotonic()
        try:
            return honest(*arguments, **named)
        finally:
            parts[name] += time.monotonic() - started

    return timed


if __name__ == "__main__":
    main()
