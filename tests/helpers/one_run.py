"""Trains one run as a process of its own, and kills it where a test wants that.

Processes are forked from a server that has imported everything (`multiprocessing`'s forkserver, see `CONTEXT`), because
imports take a process several seconds and a campaign of kills starts thirty. Two ranks are started by what torchrun starts
its own by.

FILE is JSON with the run's "spec", "machine" and "store". The process kills itself (SIGKILL: nothing is cleaned up, nothing
is flushed) in the NUMBER-th call of what PHASE names; of two it is rank RANK that dies ("any": the first to get
there), and the other is ended. Checkpoints are kept, so that a test can compare all that is in them.
"""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import diffusers
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from replaylab.evaluation import measurement
from replaylab.models import latent_cache
from replaylab.training import checkpoint, fine_tuning, loop

assert diffusers.WanTransformer3DModel and diffusers.AutoencoderTiny  # imported where they are asked for

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["one_run"])  # found through PYTHONPATH

PHASES = {
    "batch": (loop, "batch_of"),  # in the loader's thread, while a step is computed
    "step": (torch.optim.AdamW, "step"),  # gradients are there, weights half old, half new
    "save": (checkpoint, "_write_group"),  # some files are written and none is renamed
    "prune": (shutil, "rmtree"),  # the new checkpoint is there, old ones are being removed
    "evaluation": (measurement, "measure"),  # some domains are measured
    "encode": (latent_cache.TinyModel, "encode"),  # some latents are there
    "finish": (fine_tuning, "_save_network"),  # trained and measured, not yet written down
}


def die_in(phase: str, number: int, rank: str) -> None:
    owner, name = PHASES[phase]
    honest, calls = getattr(owner, name), []

    def deadly(*arguments, **named):
        calls.append(1)
        if len(calls) == number and rank in ("any", os.environ.get("RANK", "0")):
            os.write(2, f"killed in {phase}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments, **named)

    setattr(owner, name, deadly)


def main(file: str, phase: str = "", number: str = "1", rank: str = "0") -> None:
    about = json.loads(Path(file).read_text())
    fine_tuning.delete_checkpoints = lambda folder: None
    if phase:
        die_in(phase, int(number), rank)
    fine_tuning.train_one(about["spec"], Path(about["store"]), about["machine"])


def _rank(*arguments: str) -> None:
    """As in a process that torchrun has started: SIGTERM ends it, even where it waits for another rank."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    main(*arguments)


def start(ranks: int, errors: str, *arguments: str) -> None:
    """What a new process does: `main(*arguments)` on this many ranks, in a group of its own, with stderr in a file."""
    os.setsid()
    for name, stream in ((os.devnull, 1), (errors, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), stream)
    if ranks == 1:
        main(*arguments)
        return
    config = LaunchConfig(
        1, 1, ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0, run_id="kills"
    )
    elastic_launch(config, _rank)(*arguments)
