"""The verb `doctor`: the capabilities of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "capabilities of this machine, and the presets that fit it with their estimated time"
    parser = shared.add_verb(verbs, "doctor", text, run)
    parser.add_argument("--folder", default=".", help="folder for runs (default: the current one)")
    parser.add_argument("--not-timed", action="store_true", help="do not time training on this machine")


def run(options: argparse.Namespace) -> None:
    """Print one line for each check, as soon as it is done."""
    from replaylab.sweeps import doctor

    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--folder {options.folder}: no such folder")
    for finding in doctor.findings(folder, not options.not_timed):
        print(finding, flush=True)
