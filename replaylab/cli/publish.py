"""The verb `publish`: packs the folders of runs into a few files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli.options import add_verb


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "pack finished runs into a few Parquet files, in addition to the runs that they already hold"
    sub = add_verb(verbs, "publish", text, _publish)
    sub.add_argument("store", metavar="STORE", type=Path, help="folder of runs, all of them finished")
    about = "folder for the packed files (default: %(default)s)"
    sub.add_argument("--out", type=Path, default=Path("book/results"), help=about)


def _publish(options: argparse.Namespace) -> None:
    from replaylab.sweeps import publishing

    publishing.publish(options.store, options.out)
