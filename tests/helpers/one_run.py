"""Trains one run as a process of its own, and kills it where a test wants that: `one_run.py FILE [PHASE [NUMBER [RANK]]]`.

FILE is JSON with the run's "spec", "machine" and "store". The process kills itself (SIGKILL: nothing is cleaned up, nothing
is flushed) in the NUMBER-th call of what PHASE names; under torchrun it is rank RANK that dies ("any": the first to get
there), and torchrun ends the others. Checkpoints are kept, so that a test can compare all that is in them.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from replaylab.evaluation import measurement
from replaylab.models import latent_cache
from replaylab.training import checkpoint, fine_tuning, loop

PHASES = {
    "batch": (loop, "batch_of"),  # in the loader's thread, while a step is computed
    "step": (torch.optim.AdamW, "step"),  # gradients are there, weights half old, half new
    "save": (checkpoint, "_sync"),  # files are written and not yet renamed
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
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments, **named)

    setattr(owner, name, deadly)


def main(file: str, phase: str = "", number: str = "1", rank: str = "0") -> None:
    about = json.loads(Path(file).read_text())
    fine_tuning.delete_checkpoints = lambda folder: None
    if phase:
        die_in(phase, int(number), rank)
    fine_tuning.train_one(about["spec"], Path(about["store"]), about["machine"])


if __name__ == "__main__":
    main(*sys.argv[1:])
