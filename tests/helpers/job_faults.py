"""A job that waits or fails where a test wants it: what travels to a job instead of `jobs.Task`.

The environment's REPLAYLAB_FAULT says which, as JSON: "kind" is hold or raise, "where" one of PLACES, "gate" a file: it
happens for as long as that is there. After a step it is the step number "step", and every later one.
"""

import json
import os
import time
from pathlib import Path

from replaylab.sweeps import jobs
from replaylab.training import preemption

FAULT = "REPLAYLAB_FAULT"
PLACES = {
    "step": ("training.loop", "Log.add"),
    "encode": ("models.latent_cache", "_encode"),
    "evaluation": ("evaluation.evaluate", "evaluate"),
}


class Task(jobs.Task):
    def work(self, store, job):
        import importlib

        fault = json.loads(os.environ[FAULT])
        module, path = PLACES[fault["where"]]
        owner = importlib.import_module(f"replaylab.{module}")
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        honest = getattr(owner, name)

        def faulty(*arguments, **named):
            if fault["where"] != "step":
                happen(fault)
                return honest(*arguments, **named)
            honest(*arguments, **named)
            if arguments[1] >= fault["step"]:
                happen(fault)

        setattr(owner, name, faulty)
        super().work(store, job)


def happen(fault):
    gate = Path(fault["gate"])
    if not gate.exists():
        return
    if fault["kind"] == "raise":
        raise FloatingPointError("the loss is nan")
    Path(f"{gate}-reached").touch()
    while gate.exists() and not preemption.requested():
        time.sleep(0.05)
