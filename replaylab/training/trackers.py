"""Experiment trackers in addition to a run's log: TensorBoard, Weights & Biases, MLflow, Trackio, Aim, others of accelerate.

Decision: the trackers of accelerate (`accelerate.tracking`), including those registered there by users; a tracker receives
the values of the log's JSON lines, and nothing is read from it. None by default. Files of TensorBoard and of Weights &
Biases are in the run's folder, Aim's in the store, the others' in their default places; Weights & Biases is offline unless
WANDB_MODE is set (`wandb sync` uploads later). None of the five therefore needs a network.

Refused, before training: a tracker that is unknown or not installed.
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
    """Raises ValueError, with the valid names, for an unknown tracker, and MissingExtra, with the command that installs it,
    for a missing one; an empty name means none.
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
    """A tracker of the run in this folder, named `what`, that continues after `first` steps; it has `log` and `finish`.

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
