"""The verb `publish`: folders of runs in, a few files out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """The verb `publish`, for `python -m replaylab`."""
    text = "pack finished runs into a few Parquet files that anyone can read; adds to those that are there"
    sub = verbs.add_parser("publish", help=text, description=text)
    sub.set_defaults(verb=run)
    sub.add_argument("store", metavar="STORE", type=Path, help="folder of runs, all of them finished")
    sub.add_argument(
        "--out", type=Path, default=Path("book/results"), help="folder to pack into (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Pack; what was done is reported on the way."""
    from replaylab.sweeps import publishing

    publishing.publish(options.store, options.out)
