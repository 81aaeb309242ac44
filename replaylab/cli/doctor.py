"""The verb `doctor`: what this machine can do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "what this machine can do, which presets fit it, and what they would take"
    parser = shared.add_verb(verbs, "doctor", text, run)
    parser.add_argument("--folder", default=".", help="where runs would be kept (default: here)")
    parser.add_argument("--not-timed", action="store_true", help="do not time training on this machine")


def run(options: argparse.Namespace) -> None:
    """Print a line for each thing that was looked at, as soon as it is known."""
    from replaylab.sweeps import doctor

    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--folder {options.folder}: no such folder")
    for finding in doctor.findings(folder, not options.not_timed):
        print(finding, flush=True)
