"""The verb `publish`: folders of runs in, a few files out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli.options import add_verb


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "pack finished runs into a few Parquet files that anyone can read; adds to those that are there"
    sub = add_verb(verbs, "publish", text, _publish)
    sub.add_argument("store", metavar="STORE", type=Path, help="folder of runs, all of them finished")
    about = "folder to pack into (default: %(default)s)"
    sub.add_argument("--out", type=Path, default=Path("book/results"), help=about)


def _publish(options: argparse.Namespace) -> None:
    from replaylab.sweeps import publishing

    publishing.publish(options.store, options.out)
