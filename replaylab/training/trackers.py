"""Trackers of experiments beside a run's log: TensorBoard, Weights & Biases, MLflow, Trackio, Aim and others of accelerate.

Decision: accelerate's own (`accelerate.tracking`), and whatever somebody has registered there; a tracker gets what the log's
JSON lines get, and nothing is read from it. None by default. Files of TensorBoard and of Weights & Biases are in the run's
folder, Aim's in the store, the others' where these keep them; Weights & Biases is offline unless WANDB_MODE says otherwise
(`wandb sync` sends it later). So none of the five needs a network.

Refused, before anything is trained: a tracker that is unknown or not installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replaylab.util import distributed
from replaylab.util.extras import MissingExtra

PROJECT = "replaylab"


def check(name: str) -> None:
    """Raises ValueError with those there are for an unknown tracker, MissingExtra with the command that installs it for one
    that is missing; an empty name is none.
    """
    if not name:
        return
    from accelerate import tracking
    from accelerate.utils import LoggerType

    if name not in tracking.LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"tracker {name!r} is none of {', '.join(sorted(tracking.LOGGER_TYPE_TO_CLASS))}")
    if name in LoggerType.list() and LoggerType(name) not in tracking.get_available_trackers():
        raise MissingExtra(name)


def started(name: str, folder: Path, what: str, first: int, about: Mapping[str, Any]) -> Any:
    """A tracker of the run in this folder, called `what`, that goes on after its `first` steps: it has `log` and `finish`.

    `about` are its settings. Call `check` before.
    """
    from accelerate import PartialState, tracking

    with distributed.threads(0):  # accelerate may choose a number of its own
        PartialState()
    kind: Any = tracking.LOGGER_TYPE_TO_CLASS[name]
    known: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": first + 1},
        "wandb": {
            "name": what, "id": folder.name, "resume": "allow", "dir": str(folder),
            "mode": os.environ.get("WANDB_MODE", "offline"),
        },
        "mlflow": {"run_name": what},
        "trackio": {"name": folder.name, "resume": "allow"},
        "aim": {"experiment": PROJECT},
    }  # fmt: skip
    title = {"tensorboard": "tensorboard", "aim": what}.get(name, PROJECT)  # TensorBoard's is the name of its folder
    where = [str(folder.parent if name == "aim" else folder)] * kind.requires_logging_directory
    tracker = kind(title, *where, **known.get(name, {}))
    tracker.start()
    if name != "tensorboard" and not first:  # TensorBoard's would be another run in a folder of its own
        plain = {key: value for key, value in about.items() if isinstance(value, (bool, int, float, str))}
        tracker.store_init_configuration({"run": folder.name, "what": what, **plain})
    return tracker
